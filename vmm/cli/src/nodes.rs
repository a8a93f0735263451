//! The block graph: `-blockdev` and `-drive` into nodes.
//!
//! A format, protocol or filter is one entry of [`DRIVERS`]: its options and how it is made. A node stands on others, which
//! are named or described in place; each may have one user.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::{BlockNode, FileNode, FileOptions, NullNode, Overlay, RawOptions, Sharing};
use block_formats::OpenOptions;
use control::config::{Blockdev, Drive, Props};
use control::nearest;
use control::vm::MediumInfo;
use serde_json::{Map, Value};

use crate::handover::Handover;

/// A block driver.
struct Driver {
    name: &'static str,
    /// Options besides [`COMMON`].
    options: &'static [&'static str],
    make: fn(&mut Graph, &mut Options) -> Result<Made>,
}

/// Options that all drivers have.
const COMMON: &[&str] = &[
    "driver",
    "node-name",
    "read-only",
    "auto-read-only",
    "force-share",
    "discard",
    "detect-zeroes",
    "cache",
];

/// All drivers, by name.
const DRIVERS: &[Driver] = &[
    Driver { name: "file", options: &["filename", "locking", "aio"], make: file },
    Driver { name: "host_device", options: &["filename", "locking", "aio"], make: file },
    Driver { name: "null-co", options: &["size", "read-zeroes"], make: null },
    Driver { name: "parallels", options: &["file"], make: image },
    Driver { name: "qcow", options: &["file"], make: image },
    Driver { name: "qcow2", options: &["file"], make: image },
    Driver { name: "qed", options: &["file"], make: image },
    Driver { name: "raw", options: &["file"], make: raw },
    Driver { name: "vdi", options: &["file"], make: image },
    Driver { name: "vhdx", options: &["file"], make: image },
    Driver { name: "vmdk", options: &["file"], make: image },
    Driver { name: "vpc", options: &["file"], make: image },
];

/// What a driver has made.
struct Made {
    node: Arc<dyn BlockNode>,
    /// Where the contents are, for people.
    file: String,
}

/// A node's options; what a driver does not take is refused.
struct Options {
    driver: String,
    map: Map<String, Value>,
    read_only: bool,
    discard: bool,
    unsafe_cache: bool,
}

impl Options {
    fn props(&self) -> Props {
        self.map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        Ok(self.props().text(key)?.map(std::borrow::Cow::into_owned))
    }

    fn word(&self, key: &str, words: &[&str]) -> Result<Option<String>> {
        match self.text(key)? {
            Some(w) if !words.contains(&w.as_str()) => {
                bail!("{}: '{key}' expects {}, got '{w}'", self.driver, words.join(" or "))
            }
            other => Ok(other),
        }
    }
}

/// One node that has a name.
struct Node {
    driver: String,
    file: String,
    node: Arc<dyn BlockNode>,
    user: Option<String>,
    /// Names of the nodes it stands on.
    below: Vec<String>,
    /// Made by `-drive`, which owns it.
    of_drive: bool,
}

/// A disk with `snapshot=on`: the layer and the file under it.
struct Temporary {
    id: String,
    layer: Arc<Overlay>,
    file: Arc<Handover>,
}

/// All nodes of a machine.
pub(crate) struct Graph {
    nodes: BTreeMap<String, Node>,
    files: Vec<Arc<Handover>>,
    temporary: Vec<Temporary>,
    /// Nodes that the one being made stands on.
    taken: Vec<String>,
    /// Image files that cannot change hands, as a format keeps of them what it has read.
    kept: Vec<String>,
    /// Nobody else has the files.
    ours: bool,
    generated: usize,
}

impl Graph {
    /// An empty graph; `ours` if the images are not another machine's yet, which is to come here.
    pub(crate) fn new(ours: bool) -> Self {
        Self {
            nodes: BTreeMap::new(),
            files: Vec::new(),
            temporary: Vec::new(),
            taken: Vec::new(),
            kept: Vec::new(),
            ours,
            generated: 0,
        }
    }

    /// Adds what `-blockdev` describes.
    pub(crate) fn add(&mut self, b: &Blockdev) -> Result<()> {
        let mut map = b.options.clone();
        map.insert("driver".into(), b.driver.clone().into());
        self.describe(&b.node_name, map, false).with_context(|| format!("blockdev '{}'", b.node_name))
    }

    fn describe(&mut self, name: &str, map: Map<String, Value>, of_drive: bool) -> Result<()> {
        if self.nodes.contains_key(name) {
            bail!("Duplicate nodes with node-name='{name}'");
        }
        let files = self.files.len();
        let made = self.make(map);
        let below = std::mem::take(&mut self.taken);
        if made.is_err() {
            self.files.truncate(files);
            self.free(&below);
        }
        let (driver, made) = made?;
        let node = Node { driver, file: made.file, node: made.node, user: None, below, of_drive };
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    fn free(&mut self, names: &[String]) {
        for name in names {
            if let Some(n) = self.nodes.get_mut(name) {
                n.user = None;
            }
        }
    }

    fn make(&mut self, map: Map<String, Value>) -> Result<(String, Made)> {
        let driver = map.get("driver").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(d) = DRIVERS.iter().find(|d| d.name == driver) else {
            let names: Vec<&str> = DRIVERS.iter().map(|d| d.name).collect();
            bail!("Unknown driver '{driver}'; there are: {}", names.join(", "));
        };
        let known = || COMMON.iter().chain(d.options).copied();
        if let Some(key) = map.keys().find(|k| !known().any(|n| n == *k)) {
            let hint = nearest(key, known()).map_or_else(
                || format!("; known: {}", known().collect::<Vec<_>>().join(", ")),
                |n| format!("; did you mean '{n}'?"),
            );
            bail!("{driver}: option '{key}' is not known{hint}");
        }
        let mut o =
            Options { driver: driver.clone(), map, read_only: false, discard: true, unsafe_cache: false };
        let props = o.props();
        o.read_only = props.bool("read-only")?.unwrap_or(false);
        o.discard =
            o.word("discard", &["ignore", "off", "unmap", "on"])?.is_none_or(|w| w == "unmap" || w == "on");
        o.word("detect-zeroes", &["off"])?;
        for key in ["auto-read-only", "force-share"] {
            props.bool(key)?;
        }
        match o.map.get("cache") {
            None => {}
            Some(Value::Object(cache)) => {
                let cache: Props = cache.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                cache.check_keys("cache", &["direct", "no-flush"])?;
                if cache.bool("direct")? == Some(true) {
                    tracing::warn!("{driver}: cache.direct=on: the host's page cache is used all the same");
                }
                o.unsafe_cache = cache.bool("no-flush")?.unwrap_or(false);
            }
            Some(_) => bail!("{driver}: 'cache' expects cache.direct and cache.no-flush"),
        }
        let made = (d.make)(self, &mut o)?;
        Ok((driver, made))
    }

    /// The node that an option refers to by name or describes in place.
    fn child(&mut self, o: &Options, key: &str) -> Result<Made> {
        let value = o.map.get(key).cloned().ok_or_else(|| anyhow!("{}: needs '{key}'", o.driver))?;
        match value {
            Value::String(name) => {
                let user = format!("a node of driver {}", o.driver);
                let node = self.take(&name, &user)?;
                self.taken.push(name.clone());
                let file = self.nodes.get(&name).map(|n| n.file.clone()).unwrap_or_default();
                Ok(Made { node, file })
            }
            Value::Object(mut map) => {
                // The layer below works as the one above wants it, if it says nothing itself.
                map.entry("read-only").or_insert(o.read_only.into());
                if !o.discard {
                    map.entry("discard").or_insert("ignore".into());
                }
                if o.unsafe_cache {
                    map.entry("cache").or_insert(serde_json::json!({"no-flush": true}));
                }
                let named = map.get("node-name").and_then(Value::as_str).map(str::to_owned);
                let (driver, made) = self.make(map)?;
                if let Some(name) = named {
                    let copy = Node {
                        driver,
                        file: made.file.clone(),
                        node: made.node.clone(),
                        user: Some(format!("a node of driver {}", o.driver)),
                        below: Vec::new(),
                        of_drive: false,
                    };
                    if self.nodes.contains_key(&name) {
                        bail!("Duplicate nodes with node-name='{name}'");
                    }
                    self.taken.push(name.clone());
                    self.nodes.insert(name, copy);
                }
                Ok(made)
            }
            _ => bail!("{}: '{key}' expects the name of a node or its options", o.driver),
        }
    }

    /// Gives a node to a user; it may have one only.
    pub(crate) fn take(&mut self, name: &str, user: &str) -> Result<Arc<dyn BlockNode>> {
        let known: Vec<String> = self.nodes.keys().filter(|n| !n.starts_with('#')).cloned().collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let node = self.nodes.get_mut(name);
        let node = node.ok_or_else(|| anyhow!("block node '{name}' does not exist; there are: {known}"))?;
        if let Some(other) = &node.user {
            bail!("block node '{name}' is in use by {other}");
        }
        node.user = Some(user.to_owned());
        Ok(node.node.clone())
    }

    /// True if there is a node of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// Takes a node out that nobody uses.
    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        let Some(node) = self.nodes.get(name) else { bail!("Failed to find node with node-name='{name}'") };
        if node.of_drive {
            bail!("Node {name} is in use: it is owned by a -drive");
        }
        if let Some(user) = &node.user {
            bail!("Node {name} is in use by {user}");
        }
        let below = node.below.clone();
        drop(self.nodes.remove(name));
        self.free(&below);
        self.files.retain(|f| Arc::strong_count(f) > 1);
        Ok(())
    }

    /// What a `-drive` describes: the name of its node and whether it is gone at the end.
    pub(crate) fn drive(
        &mut self,
        d: &Drive,
        id: &str,
        temporary: bool,
    ) -> Result<(String, Arc<dyn BlockNode>)> {
        let mut map = Map::new();
        let mut name = None;
        for (k, v) in d.options.iter() {
            match k.split_once('.') {
                None if k == "node-name" => name = v.as_str().map(str::to_owned),
                None => drop(map.insert(k.to_owned(), v.clone())),
                Some((outer, inner)) => {
                    let group = map.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                    let Value::Object(group) = group else {
                        bail!("'{outer}' is both a value and a group of keys")
                    };
                    group.insert(inner.to_owned(), v.clone());
                }
            }
        }
        let driver = match (&d.format, &d.file) {
            (Some(format), _) => format.clone(),
            (None, Some(path)) => probe(path, d.readonly || temporary)?.into(),
            (None, None) => "raw".into(),
        };
        map.insert("driver".into(), driver.into());
        if let Some(path) = &d.file {
            let file = map.entry("file").or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(file) = file else { bail!("'file' is given twice") };
            file.entry("driver").or_insert("file".into());
            file.insert("filename".into(), path.clone().into());
        } else if !map.contains_key("file") && d.format.as_deref().is_none_or(|f| f == "raw") {
            bail!("needs file=PATH");
        }
        map.insert("read-only".into(), (d.readonly || temporary).into());
        if let Some(w) = &d.discard {
            map.insert("discard".into(), w.clone().into());
        }
        if let Some(w) = &d.detect_zeroes {
            map.insert("detect-zeroes".into(), w.clone().into());
        }
        if d.cache.as_deref() == Some("unsafe") {
            map.insert("cache".into(), serde_json::json!({"no-flush": true}));
        }
        let name = name.unwrap_or_else(|| {
            self.generated += 1;
            format!("#block{:03}", self.generated)
        });
        let files = self.files.len();
        self.describe(&name, map, true)?;
        let mut node = self.take(&name, &format!("drive '{id}'"))?;
        if temporary {
            let layer = Arc::new(Overlay::new(node)?);
            if let Some(file) = self.files.get(files) {
                self.temporary.push(Temporary {
                    id: id.to_owned(),
                    layer: layer.clone(),
                    file: file.clone(),
                });
            }
            node = layer;
        }
        Ok((name, node))
    }

    /// For `query-named-block-nodes`.
    pub(crate) fn info(&self) -> Vec<MediumInfo> {
        self.nodes.keys().filter_map(|name| self.medium(name)).collect()
    }

    /// What a node holds.
    pub(crate) fn medium(&self, name: &str) -> Option<MediumInfo> {
        let n = self.nodes.get(name)?;
        let info = n.node.info();
        Some(MediumInfo {
            file: n.file.clone(),
            node_name: Some(name.to_owned()),
            format: n.driver.clone(),
            readonly: info.read_only,
            virtual_size: info.size,
        })
    }

    /// Writes what is kept beside disks into them; all of them, or one.
    pub(crate) fn commit(&self, device: &str) -> Result<usize> {
        let mut n = 0;
        for t in self.temporary.iter().filter(|t| device == "all" || t.id == device) {
            t.file.with_writer(|file| t.layer.commit(file)).with_context(|| format!("drive '{}'", t.id))?;
            n += 1;
        }
        if n == 0 && device != "all" {
            bail!("Device '{device}' not found");
        }
        Ok(n)
    }

    /// Why the disks cannot go to another machine, if they cannot.
    pub(crate) fn bound(&self) -> Option<String> {
        let temporary = self.temporary.first().map(|t| {
            format!(
                "drive '{}' keeps its writes in a temporary file (snapshot=on), which cannot be migrated",
                t.id
            )
        });
        temporary.or_else(|| self.kept.first().map(|f| format!("{f}: only raw images can be migrated")))
    }

    /// Gives all images up to another process.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.ours = false;
        Ok(self.files.iter().try_for_each(|f| f.release())?)
    }

    /// Takes all images (back).
    pub(crate) fn acquire(&mut self) -> Result<()> {
        for (i, f) in self.files.iter().enumerate() {
            if let Err(e) = f.take() {
                self.files[..i].iter().for_each(|f| drop(f.release()));
                return Err(e.into());
            }
        }
        self.ours = true;
        Ok(())
    }
}

fn file(graph: &mut Graph, o: &mut Options) -> Result<Made> {
    let path = o.text("filename")?.ok_or_else(|| anyhow!("{}: needs 'filename'", o.driver))?;
    let lock = o.word("locking", &["auto", "on", "off"])?.is_none_or(|w| w != "off");
    o.word("aio", &["threads", "native", "io_uring"])?;
    let options =
        RawOptions { read_only: o.read_only, lock, discard: o.discard, unsafe_cache: o.unsafe_cache };
    let node = Arc::new(Handover::open(&path, options, graph.ours)?);
    graph.files.push(node.clone());
    Ok(Made { node, file: path })
}

/// The format that a file looks like. A file that looks raw now is not probed again once the guest has written to it.
fn probe(path: &str, read_only: bool) -> Result<&'static str> {
    let options = FileOptions { read_only: true, sharing: Sharing::Unlocked, ..FileOptions::default() };
    let file = FileNode::open(path, options)?;
    let format = block_formats::probe(&file, path)?.name;
    if format == "raw" && !read_only {
        tracing::warn!("{path}: format= was not given and it looks raw; format=raw says that it is");
    }
    Ok(format)
}

/// An image of the driver's format in a file of the host, which is described in place.
fn image(graph: &mut Graph, o: &mut Options) -> Result<Made> {
    let Some(Value::Object(file)) = o.map.get("file") else {
        bail!(
            "{}: 'file' expects its options in place, such as file.driver=file,file.filename=PATH",
            o.driver
        );
    };
    let file: Props = file.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    file.check_keys(
        "file",
        &["driver", "filename", "locking", "aio", "read-only", "discard", "cache", "node-name"],
    )?;
    if let Some(other) = file.text("driver")?.filter(|d| d != "file") {
        bail!("{}: 'file.driver' expects file, got '{other}'", o.driver);
    }
    let path =
        file.text("filename")?.ok_or_else(|| anyhow!("{}: needs 'file.filename'", o.driver))?.into_owned();
    if !graph.ours {
        bail!("{path}: only raw images can be taken over from another machine");
    }
    let options = OpenOptions {
        read_only: o.read_only,
        discard: o.discard,
        unsafe_cache: o.unsafe_cache,
        sharing: if file.text("locking")?.is_some_and(|w| w == "off") {
            Sharing::Unlocked
        } else {
            Sharing::Readers
        },
        ..OpenOptions::default()
    };
    let node: Arc<dyn BlockNode> = block_formats::open(&path, Some(&o.driver), &options)?;
    graph.kept.push(path.clone());
    Ok(Made { node, file: path })
}

fn null(_: &mut Graph, o: &mut Options) -> Result<Made> {
    let props = o.props();
    props.bool("read-zeroes")?;
    let size = props.size("size")?.unwrap_or(1 << 30);
    if size % block::SECTOR != 0 {
        bail!("null-co: 'size' expects a multiple of {} bytes, got {size}", block::SECTOR);
    }
    Ok(Made { node: Arc::new(NullNode::new(size)), file: format!("null-co:{size}") })
}

/// The node below, as it is.
fn raw(graph: &mut Graph, o: &mut Options) -> Result<Made> {
    graph.child(o, "file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blockdev(driver: &str, name: &str, options: Value) -> Blockdev {
        let Value::Object(options) = options else { panic!("an object") };
        Blockdev { driver: driver.into(), node_name: name.into(), options }
    }

    #[test]
    fn nodes_have_one_user() {
        let mut g = Graph::new(true);
        g.add(&blockdev("null-co", "n", serde_json::json!({"size": "1M"}))).unwrap();
        assert_eq!(g.info()[0].virtual_size, 1 << 20);
        let e = g.add(&blockdev("null-co", "n", serde_json::json!({}))).unwrap_err();
        assert!(format!("{e:#}").contains("Duplicate"), "{e:#}");
        g.add(&blockdev("raw", "r", serde_json::json!({"file": "n"}))).unwrap();
        assert!(g.take("n", "x").unwrap_err().to_string().contains("in use"));
        assert!(g.remove("n").is_err());
        g.take("r", "a disk").unwrap();
        assert!(g.remove("r").unwrap_err().to_string().contains("a disk"));
        assert!(g.take("q", "x").unwrap_err().to_string().contains("there are: n, r"));
    }

    #[test]
    fn what_a_temporary_layer_keeps_can_be_committed() {
        let path = std::env::temp_dir().join(format!("rhea-commit-{}", std::process::id()));
        std::fs::write(&path, [1; 4096]).unwrap();
        let mut g = Graph::new(true);
        let d = Drive { file: Some(path.display().to_string()), ..Drive::default() };
        let (name, node) = g.drive(&d, "d", true).unwrap();
        node.write(7, &[std::io::IoSlice::new(&[9, 9])], true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1; 4096], "the image is spared");
        assert!(g.bound().unwrap().contains("'d'"));
        assert_eq!(g.commit("all").unwrap(), 1);
        assert_eq!(std::fs::read(&path).unwrap()[6..10], [1, 9, 9, 1]);
        assert!(g.commit("e").is_err() && g.remove(&name).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn bad_options_are_named() {
        let mut g = Graph::new(true);
        for (driver, options, words) in [
            ("qcow9", serde_json::json!({}), ["qcow9", "raw"]),
            ("qcow2", serde_json::json!({"file": "x"}), ["qcow2", "in place"]),
            (
                "qcow2",
                serde_json::json!({"file": {"filename": "/nonexistent/x"}}),
                ["/nonexistent/x", "No such"],
            ),
            ("file", serde_json::json!({}), ["file", "filename"]),
            ("file", serde_json::json!({"filename": "/nonexistent/x"}), ["/nonexistent/x", "No such file"]),
            ("file", serde_json::json!({"filename": "/x", "flename": 1}), ["flename", "filename"]),
            ("raw", serde_json::json!({"file": {"driver": "file"}}), ["needs", "filename"]),
            ("raw", serde_json::json!({"file": "gone"}), ["gone", "none"]),
            ("null-co", serde_json::json!({"size": "77"}), ["77", "512"]),
            ("null-co", serde_json::json!({"discard": "maybe"}), ["maybe", "unmap"]),
            ("null-co", serde_json::json!({"cache": {"dirct": true}}), ["dirct", "direct"]),
        ] {
            let e = format!("{:#}", g.add(&blockdev(driver, "x", options)).unwrap_err());
            assert!(words.iter().all(|w| e.contains(w)) && !e.contains('\n'), "{e}");
        }
        assert!(g.info().is_empty());
    }
}
