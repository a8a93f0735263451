//! Drivers of block nodes: protocols and `raw` here, formats and filters from their tables.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use block::{Aio, BlockError, BlockNode, FileNode, FileOptions, NullNode, Sharing};
use block_filters::{Children, ThrottleGroup};
use block_formats::{Format, Image, Name, OpenOptions, Protocol, RawImage, resolve};
use block_graph::{Bare, Edge, Renewable};
use serde_json::{Map, Value};

use super::{Graph, Made, Options, names};
use crate::handover::Handover;

/// Longest chain of backing files.
const MAX_DEPTH: u32 = 200;

type Make = fn(&mut Graph, &Options) -> Result<Made>;

/// A block driver.
#[derive(Clone, Copy)]
pub(super) enum Driver {
    /// One of [`OWN`].
    Own(&'static Own),
    /// An image format.
    Format(&'static Format),
    /// A filter.
    Filter(&'static block_filters::Driver),
}

/// A driver that is known here.
pub(super) struct Own {
    name: &'static str,
    options: &'static [&'static str],
    make: Make,
}

const HTTP: &[&str] = &["url", "readahead", "timeout", "sslverify", "username", "cookie"];

const OWN: &[Own] = &[
    Own { name: "file", options: &["filename", "locking", "aio"], make: file },
    Own { name: "host_device", options: &["filename", "locking", "aio"], make: file },
    Own { name: "http", options: HTTP, make: protocol },
    Own { name: "https", options: HTTP, make: protocol },
    Own {
        name: "nbd",
        options: &[
            "server",
            "host",
            "port",
            "path",
            "export",
            "tls-creds",
            "tls-hostname",
            "reconnect-delay",
            "open-timeout",
            "x-dirty-bitmap",
        ],
        make: protocol,
    },
    Own { name: "null-aio", options: &["size", "read-zeroes"], make: null },
    Own { name: "null-co", options: &["size", "read-zeroes"], make: null },
    Own { name: "raw", options: &["file", "offset", "size"], make: raw },
];

/// The name of one of [`OWN`], as long-lived as the table.
fn driver_name(name: &str) -> &'static str {
    OWN.iter().find(|d| d.name == name).map_or("raw", |d| d.name)
}

/// The driver of a name.
pub(super) fn find(name: &str) -> Result<Driver> {
    if let Some(own) = OWN.iter().find(|d| d.name == name) {
        return Ok(Driver::Own(own));
    }
    if let Some(format) = block_formats::formats().iter().find(|f| f.name == name) {
        return Ok(Driver::Format(format));
    }
    if let Some(filter) = block_filters::find(name) {
        return Ok(Driver::Filter(filter));
    }
    let mut names: Vec<&str> = OWN.iter().map(|d| d.name).collect();
    names.extend(block_formats::formats().iter().map(|f| f.name).filter(|n| *n != "raw"));
    names.extend(block_filters::drivers().iter().map(|d| d.name));
    names.sort_unstable();
    bail!("Unknown driver '{name}'; there are: {}", names.join(", "))
}

impl Driver {
    /// Its options besides those that all have; of those with parts, what comes before the dot.
    pub(super) fn options(&self) -> Vec<&'static str> {
        match self {
            Driver::Own(d) => d.options.to_vec(),
            Driver::Format(f) => {
                let own = f.keys().iter().map(|k| k.split('.').next().unwrap_or(k));
                let places: &[_] = if f.name == "vvfat" { &["dir"] } else { &["file", "backing"] };
                let mut all: Vec<_> = places.iter().copied().chain(own).collect();
                all.dedup();
                all
            }
            Driver::Filter(d) => d.options.to_vec(),
        }
    }

    /// Makes a node.
    pub(super) fn make(&self, graph: &mut Graph, o: &Options) -> Result<Made> {
        match self {
            Driver::Own(d) => (d.make)(graph, o),
            Driver::Format(format) => image(graph, o, format),
            Driver::Filter(filter) => {
                let first = ["file", "image", "test"].into_iter().find(|k| o.map.contains_key(*k));
                let mut children = Resolver { graph, o, first: None };
                let node = (filter.make)(&mut children, &o.map)?;
                let over = children.first;
                let below = first.and_then(|_| node.children().first().map(|c| c.info().name));
                let file = below.unwrap_or_else(|| filter.name.into());
                let file = file.split_once(':').map_or(file.clone(), |(_, f)| f.to_owned());
                let bare = Bare::new(node, filter.name, file.clone());
                let bare = match over {
                    Some(edge) => bare.over(edge),
                    None => bare,
                };
                Ok(Made::new(Arc::new(bare), file))
            }
        }
    }
}

/// Finds the children of a filter.
struct Resolver<'a> {
    graph: &'a mut Graph,
    o: &'a Options,
    /// The first child that has a key of its own.
    first: Option<Arc<Edge>>,
}

fn said(e: anyhow::Error) -> BlockError {
    BlockError::Format { path: "node".into(), what: format!("{e:#}") }
}

impl Children for Resolver<'_> {
    fn child(&mut self, _: &Map<String, Value>, key: &str) -> Result<Arc<dyn Image>, BlockError> {
        let edge = self.graph.child(self.o, key).map_err(said)?;
        self.first.get_or_insert_with(|| edge.clone());
        Ok(edge)
    }

    fn item(&mut self, _: &Map<String, Value>, value: &Value) -> Result<Arc<dyn Image>, BlockError> {
        let edge = self.graph.edge_to(self.o, "children", value.clone(), !self.o.read_only).map_err(said)?;
        Ok(edge)
    }

    fn group(&mut self, id: &str) -> Result<Arc<ThrottleGroup>, BlockError> {
        self.graph.groups.get(id).cloned().ok_or_else(|| BlockError::Format {
            path: format!("throttle-group '{id}'"),
            what: "there is no such object".into(),
        })
    }
}

fn open_options(graph: &Graph, o: &Options) -> OpenOptions {
    OpenOptions {
        read_only: o.read_only,
        discard: o.discard,
        cache: o.cache,
        tls: graph.tls.clone(),
        secrets: graph.secrets.clone(),
        ..OpenOptions::default()
    }
}

fn file(graph: &mut Graph, o: &Options) -> Result<Made> {
    let path = o.text("filename")?.ok_or_else(|| anyhow!("{}: needs 'filename'", o.driver))?;
    let lock = o.word("locking", &["auto", "on", "off"])?.is_none_or(|w| w != "off");
    let aio = o.word("aio", &Aio::NAMES.map(|(name, _)| name))?;
    let aio = aio.as_deref().and_then(Aio::find).unwrap_or_default();
    // A name of another protocol does as well.
    if let Ok(name) = Name::parse(&path)
        && let Some(p) = name.protocol
    {
        let node = p.open(&open_options(graph, o))?;
        let driver = driver_name(p.driver());
        return Ok(Made::new(Arc::new(Bare::new(node, driver, name.path.clone())), name.path));
    }
    let options = FileOptions {
        read_only: o.read_only,
        sharing: if lock { Sharing::Readers } else { Sharing::Unlocked },
        discard: o.discard,
        unsafe_cache: o.cache.no_flush,
        direct: o.cache.direct,
        aio,
    };
    let node = Arc::new(Handover::open(&path, options, graph.ours)?);
    if node.aio() != aio {
        tracing::warn!("{path}: the host has no aio={}: requests are plain calls on threads", aio.name());
    }
    graph.files.push(node.clone());
    Ok(Made::new(Arc::new(Bare::new(node, "file", path.clone())), path))
}

fn protocol(graph: &mut Graph, o: &Options) -> Result<Made> {
    let common = |k: &String| super::COMMON.contains(&k.as_str());
    let map = o.map.iter().filter(|(k, _)| !common(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let protocol = Protocol::from_options(&o.driver, map);
    let file = protocol.shown()?;
    let node = protocol.open(&open_options(graph, o))?;
    Ok(Made::new(Arc::new(Bare::new(node, driver_name(&o.driver), file.clone())), file))
}

fn null(_: &mut Graph, o: &Options) -> Result<Made> {
    let props = o.props();
    props.bool("read-zeroes")?;
    let size = props.size("size")?.unwrap_or(1 << 30);
    if size % block::SECTOR != 0 {
        bail!("null-co: 'size' expects a multiple of {} bytes, got {size}", block::SECTOR);
    }
    let file = format!("null-co:{size}");
    Ok(Made::new(Arc::new(Bare::new(Arc::new(NullNode::new(size)), "null-co", file.clone())), file))
}

/// The node below, or a part of it.
fn raw(graph: &mut Graph, o: &Options) -> Result<Made> {
    let edge = graph.child(o, "file")?;
    let props = o.props();
    let (offset, size) = (props.size("offset")?.unwrap_or(0), props.size("size")?);
    let file = edge.filename().to_owned();
    Ok(Made::new(Arc::new(RawImage::new(&file, edge, offset, size, o.read_only)?), file))
}

/// An image of a format, with its chain of backing files.
fn image(graph: &mut Graph, o: &Options, format: &'static Format) -> Result<Made> {
    let keys = keys(o, format)?;
    if format.name == "vvfat" {
        let dir = o.text("dir")?.ok_or_else(|| anyhow!("vvfat: needs 'dir'"))?;
        let options = OpenOptions { keys, ..open_options(graph, o) };
        let image = block_formats::open_node(Arc::new(NullNode::new(0)), &dir, Some("vvfat"), &options)?;
        return Ok(Made::new(image, dir));
    }
    if let Some(other) = o.map.get("file").filter(|f| !f.is_string() && !f.is_object()) {
        bail!("{}: 'file' expects the name of a node or its options in place, got {other}", o.driver);
    }
    let edge = graph.child(o, "file")?;
    let file = edge.filename().to_owned();
    // A format that cannot change what lies below opens it itself.
    let changes = format.name == "qcow2";
    if !changes && o.map.get("backing").is_some_and(|b| !b.is_null()) {
        bail!("{}: 'backing' expects null: this format takes what the image names", o.driver);
    }
    let no_backing = changes || o.map.contains_key("backing");
    let options = OpenOptions { no_backing, keys, ..open_options(graph, o) };
    let (read_only, name) = (o.read_only, file.clone());
    let open = move |ours: bool| {
        // What another process has is looked at only.
        let sharing = if ours { options.sharing } else { Sharing::Unlocked };
        let options = OpenOptions { read_only: read_only || !ours, sharing, ..options.clone() };
        block_formats::open_node(edge.clone(), &name, Some(format.name), &options)
    };
    let image = Arc::new(Renewable::new(open, read_only, graph.ours)?);
    graph.images.push(image.clone());
    if changes && let Some(below) = backing(graph, o, &*image)? {
        image.replace_backing(Some(below))?;
    }
    Ok(Made::new(image, file))
}

/// The format's own options, such as `encrypt.key-secret`.
fn keys(o: &Options, format: &Format) -> Result<Vec<(String, String)>> {
    let own = format.keys().iter().filter_map(|k| k.split('.').next());
    let mut out = Vec::new();
    for top in own {
        if let Some(value) = o.map.get(top) {
            names::flatten(top, value, &mut out);
        }
    }
    // Each was found once for every key that it is a part of.
    out.sort_unstable();
    out.dedup();
    let parts = |k: &str| k.strip_suffix(".driver").is_some_and(|k| format.keys().contains(&k));
    match out.iter().find(|(k, _)| !format.keys().contains(&k.as_str()) && !parts(k)) {
        Some((k, _)) => {
            bail!("{}: option '{k}' is not known; known: {}", format.name, format.keys().join(", "))
        }
        None => Ok(out),
    }
}

fn backing(graph: &mut Graph, o: &Options, image: &dyn Image) -> Result<Option<Arc<Edge>>> {
    let described = match o.map.get("backing") {
        Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) if name.is_empty() => return Ok(None),
        Some(value) if !value.as_object().is_some_and(names::is_partial) => value.clone(),
        said => {
            let Some(name) = image.backing_name() else { return Ok(None) };
            if o.depth >= MAX_DEPTH {
                bail!(
                    "{}: the chain of backing files is longer than {MAX_DEPTH} or ends in itself",
                    image.filename()
                );
            }
            let path = resolve(image.filename(), &name.file);
            // What is said of it without saying where it is, such as its key.
            let mut map = said.and_then(Value::as_object).cloned().unwrap_or_default();
            let below = graph.named(&path, name.format.as_deref(), true)?;
            names::complete(&mut map, below)?;
            Value::Object(map)
        }
    };
    graph
        .edge_to(o, "backing", described, false)
        .map(Some)
        .map_err(|e| e.context(format!("{}: backing file", image.filename())))
}

/// The format that a file looks like. A file that looks raw now is not probed again once the guest has written to it.
pub(super) fn probe(graph: &Graph, path: &str, read_only: bool) -> Result<&'static str> {
    let name = Name::parse(path)?;
    let node: Arc<dyn BlockNode> = match &name.protocol {
        Some(p) => {
            p.open(&OpenOptions { read_only: true, tls: graph.tls.clone(), ..OpenOptions::default() })?
        }
        None => {
            let options =
                FileOptions { read_only: true, sharing: Sharing::Unlocked, ..FileOptions::default() };
            Arc::new(FileNode::open(&name.path, options)?)
        }
    };
    let format = block_formats::probe(&*node, path)?.name;
    if format == "raw" && !read_only {
        tracing::warn!("{path}: format= was not given and it looks raw; format=raw says that it is");
    }
    Ok(format)
}
