//! Disks of a running machine given to others: `nbd-server-*` and `block-export-*`, by NBD and what else the host has.

#[cfg(target_os = "linux")]
mod held;
#[cfg(not(target_os = "linux"))]
#[path = "held_none.rs"]
mod held;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::BlockNode;
use block_export::{Bitmap, Export, NbdServer, ServerOptions, image_pieces};
use block_formats::Image;
use block_graph::{DirtyBitmap, Node, WriteThrough};
use block_nbd::{Address, Authz, Listener, TlsServer};
use serde_json::{Map, Value, json};

use crate::nodes::Graph;
use held::Held;

/// One export.
struct Given {
    kind: &'static str,
    name: String,
    node: String,
    bitmaps: Vec<Arc<DirtyBitmap>>,
    /// What keeps it up, if the server does not.
    held: Option<Held>,
}

/// The server and what it gives.
#[derive(Default)]
pub(crate) struct Exports {
    server: Option<Arc<NbdServer>>,
    given: BTreeMap<String, Given>,
    /// Credentials of servers, by id.
    pub(crate) tls: Vec<(String, TlsServer)>,
    /// Who may use a server, by the id of the object that says so.
    pub(crate) authz: Vec<(String, Authz)>,
}

/// A bitmap as it is when a client asks.
struct Live(Arc<DirtyBitmap>);

impl Bitmap for Live {
    fn dirty(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.0.ranges(range)
    }
}

/// Arguments of all types of exports, of NBD's and of each of the others.
const COMMON: &[&str] =
    &["id", "type", "node-name", "writable", "writethrough", "iothread", "fixed-iothread"];
const OF_TYPE: &[(&str, &[&str])] = &[
    ("nbd", &["name", "description", "bitmaps", "allocation-depth"]),
    ("fuse", &["mountpoint", "growable", "allow-other"]),
    ("vhost-user-blk", &["addr", "logical-block-size", "num-queues"]),
];

fn switch(a: &Map<String, Value>, key: &str) -> Result<Option<bool>> {
    match a.get(key) {
        None => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(*on)),
        Some(Value::String(word)) if word == "on" || word == "off" => Ok(Some(word == "on")),
        Some(other) => bail!("argument '{key}' expects on or off, got {other}"),
    }
}

#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "exports with numbers are Linux's"))]
fn number(a: &Map<String, Value>, key: &str) -> Result<Option<u64>> {
    match a.get(key) {
        None => Ok(None),
        Some(Value::String(word)) => {
            Ok(Some(word.parse().map_err(|_| anyhow!("argument '{key}' expects a number, got '{word}'"))?))
        }
        Some(n) => Ok(Some(n.as_u64().ok_or_else(|| anyhow!("argument '{key}' expects a number, got {n}"))?)),
    }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

/// QAPI's socket address, with its data beside the type or in a `data` of its own.
fn address(value: &Value) -> Result<Address> {
    let data = value.get("data").unwrap_or(value);
    let field = |key: &str| match data.get(key) {
        Some(Value::String(s)) => Ok(s.clone()),
        Some(Value::Number(n)) => Ok(n.to_string()),
        _ => Err(anyhow!("argument 'addr' expects '{key}'")),
    };
    match value.get("type").and_then(Value::as_str) {
        Some("inet") => {
            let port = field("port")?;
            let port = port.parse().map_err(|_| anyhow!("port '{port}': expected a number below 65536"))?;
            Ok(Address::Inet { host: field("host")?, port })
        }
        Some("unix") => Ok(Address::Unix(PathBuf::from(field("path")?))),
        _ => bail!("argument 'addr': 'type' expects inet or unix"),
    }
}

/// A node as an export, and whether that is for writing.
fn export_of(
    graph: &mut Graph,
    node: &Arc<Node>,
    name: &str,
    user: &str,
    a: &Map<String, Value>,
) -> Result<(Export, bool)> {
    let writable = switch(a, "writable")?.unwrap_or(false);
    if writable && node.info().read_only {
        bail!("Cannot export read-only node as writable");
    }
    let edge = graph.edge(node.name(), user, writable)?;
    let image: Arc<dyn Image> = match switch(a, "writethrough")? {
        Some(true) => Arc::new(WriteThrough::new(edge.clone())),
        _ => edge.clone(),
    };
    let mut export = Export::new(name, image, !writable);
    export.status = image_pieces(edge);
    Ok((export, writable))
}

impl Exports {
    /// `nbd-server-start`.
    pub(crate) fn start(&mut self, a: &Map<String, Value>) -> Result<()> {
        if self.server.is_some() {
            bail!("NBD server already running");
        }
        let at = address(a.get("addr").unwrap_or(&Value::Null))?;
        let mut options = ServerOptions {
            max_connections: a.get("max-connections").and_then(Value::as_u64).unwrap_or(100) as usize,
            handshake_limit: a.get("handshake-max-seconds").and_then(Value::as_u64).unwrap_or(10),
            tls: None,
            authz: None,
        };
        if let Some(id) = text(a, "tls-creds") {
            let found = self.tls.iter().find(|(name, _)| name == id).map(|(_, t)| t.clone());
            options.tls =
                Some(found.ok_or_else(|| anyhow!("No TLS credentials with id '{id}' for a server"))?);
        }
        if let Some(id) = text(a, "tls-authz") {
            if options.tls.is_none() {
                bail!("argument 'tls-authz' needs 'tls-creds'");
            }
            let found = self.authz.iter().find(|(name, _)| name == id).map(|(_, a)| a.clone());
            options.authz = Some(found.ok_or_else(|| anyhow!("No authorization object with id '{id}'"))?);
        }
        let listener = Listener::bind(&at).with_context(|| format!("NBD server at {at}"))?;
        let server = NbdServer::new(options);
        server.listen(listener)?;
        self.server = Some(server);
        Ok(())
    }

    /// `nbd-server-stop`.
    pub(crate) fn stop(&mut self, graph: &mut Graph) -> Result<Vec<String>> {
        let server = self.server.take().ok_or_else(|| anyhow!("NBD server not running"))?;
        server.stop();
        let all = std::mem::take(&mut self.given);
        let (gone, left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(_, g)| g.held.is_none());
        self.given = left;
        gone.values().flat_map(|g| &g.bitmaps).for_each(|b| b.give());
        graph.collect();
        Ok(gone.into_keys().collect())
    }

    /// Ends all exports; the machine is going.
    pub(crate) fn end(&mut self, graph: &mut Graph) {
        // Drivers and programs first, as what they write goes by nodes.
        self.given.values_mut().for_each(|g| g.held = None);
        let _ = self.stop(graph);
        self.given.clear();
        graph.collect();
    }

    /// `block-export-add`.
    pub(crate) fn add(&mut self, graph: &mut Graph, node: &Arc<Node>, a: &Map<String, Value>) -> Result<()> {
        let id = text(a, "id").unwrap_or_default().to_owned();
        let kind = match text(a, "type") {
            Some("nbd") => "nbd",
            Some(other) => held::TYPES.iter().find(|t| **t == other).copied().ok_or_else(|| {
                anyhow!(
                    "block export type '{other}' is not supported: expected nbd {}",
                    held::TYPES.join(" ")
                )
            })?,
            None => bail!("argument 'type' is missing"),
        };
        let own = OF_TYPE.iter().find(|(t, _)| *t == kind).map_or(&[][..], |(_, own)| own);
        if let Some(key) = a.keys().find(|k| !COMMON.contains(&k.as_str()) && !own.contains(&k.as_str())) {
            bail!("Parameter '{key}' is unexpected: exports of type {kind} have {}", own.join(", "));
        }
        if self.given.contains_key(&id) {
            bail!("Block export id '{id}' is already in use");
        }
        if kind != "nbd" {
            return self.hold(graph, node, kind, id, a);
        }
        let server = self.server.clone().ok_or_else(|| anyhow!("NBD server not running"))?;
        let name = text(a, "name").unwrap_or(node.name()).to_owned();
        if name.len() > block_nbd::proto::MAX_STRING {
            bail!("export name '{name}' too long");
        }
        let (mut export, writable) = export_of(graph, node, &name, &format!("NBD export '{id}'"), a)?;
        export.description = text(a, "description").unwrap_or_default().into();
        export.depth = a.get("allocation-depth").and_then(Value::as_bool).unwrap_or(false);
        let mut bitmaps = Vec::new();
        let wanted = a.get("bitmaps").and_then(Value::as_array).cloned().unwrap_or_default();
        for b in &wanted {
            let (of, name) = match b {
                Value::String(name) => (node.clone(), name.as_str()),
                other => {
                    let of = other.get("node").and_then(Value::as_str).unwrap_or_default();
                    (graph.find(of)?, other.get("name").and_then(Value::as_str).unwrap_or_default())
                }
            };
            let found = of.dirty_bitmap(name).ok_or_else(|| anyhow!("Bitmap '{name}' is not found"))?;
            if !writable && found.enabled() {
                bail!("Enabled bitmap '{name}' incompatible with readonly export");
            }
            export.bitmaps.push((name.to_owned(), Arc::new(Live(found.clone()))));
            bitmaps.push(found);
        }
        for (i, b) in bitmaps.iter().enumerate() {
            if !b.take() {
                bitmaps[..i].iter().for_each(|b| b.give());
                bail!("Bitmap '{}' is currently in use by another operation and cannot be used", b.name());
            }
        }
        if !server.add(export) {
            bitmaps.iter().for_each(|b| b.give());
            bail!("NBD server already has export named '{name}'");
        }
        self.given.insert(id, Given { kind, name, node: node.name().to_owned(), bitmaps, held: None });
        Ok(())
    }

    fn hold(
        &mut self,
        graph: &mut Graph,
        node: &Arc<Node>,
        kind: &'static str,
        id: String,
        a: &Map<String, Value>,
    ) -> Result<()> {
        let (export, _) = export_of(graph, node, &id, &format!("{kind} export '{id}'"), a)?;
        let held = Some(Held::start(kind, export, a)?);
        let node = node.name().to_owned();
        self.given.insert(id.clone(), Given { kind, name: id, node, bitmaps: Vec::new(), held });
        Ok(())
    }

    /// `block-export-del`.
    pub(crate) fn remove(&mut self, graph: &mut Graph, id: &str, hard: bool) -> Result<()> {
        let given = self.given.get(id).ok_or_else(|| anyhow!("Export '{id}' is not found"))?;
        if let Some(server) = self.server.as_ref().filter(|_| given.held.is_none())
            && let Some(Err(n)) = server.remove(&given.name, hard)
        {
            bail!("export '{id}' still in use by {n} clients; mode 'hard' forces it");
        }
        if let Some(g) = self.given.remove(id) {
            g.bitmaps.iter().for_each(|b| b.give());
        }
        graph.collect();
        Ok(())
    }

    /// Disks may have other sizes: who uses them is told.
    pub(crate) fn resized(&self) {
        self.given.values().filter_map(|g| g.held.as_ref()).for_each(Held::resized);
    }

    /// Why the disks cannot go to another machine, if they cannot.
    pub(crate) fn bound(&self) -> Option<String> {
        let id = self.given.keys().next()?;
        Some(format!(
            "block export '{id}' gives a disk to others: expected none (block-export-del) to migrate"
        ))
    }

    /// `query-block-exports`.
    pub(crate) fn query(&self) -> Value {
        let one = |(id, g): (&String, &Given)| json!({"id": id, "type": g.kind, "node-name": g.node, "shutting-down": false});
        self.given.iter().map(one).collect()
    }
}
