//! Disks of a running machine given to others by NBD: `nbd-server-*` and `block-export-*`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::BlockNode;
use block_export::{Bitmap, Export, NbdServer, ServerOptions, image_pieces};
use block_graph::{DirtyBitmap, Node};
use block_nbd::{Address, Listener, TlsServer};
use serde_json::{Map, Value, json};

use crate::nodes::Graph;

/// One export.
struct Given {
    name: String,
    node: String,
    bitmaps: Vec<Arc<DirtyBitmap>>,
}

/// The server and what it gives.
#[derive(Default)]
pub(crate) struct Exports {
    server: Option<Arc<NbdServer>>,
    given: BTreeMap<String, Given>,
    /// Credentials of servers, by id.
    pub(crate) tls: Vec<(String, TlsServer)>,
}

/// A bitmap as it is when a client asks.
struct Live(Arc<DirtyBitmap>);

impl Bitmap for Live {
    fn dirty(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.0.ranges(range)
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
        };
        if text(a, "tls-authz").is_some() {
            bail!("argument 'tls-authz' is not supported");
        }
        if let Some(id) = text(a, "tls-creds") {
            let found = self.tls.iter().find(|(name, _)| name == id).map(|(_, t)| t.clone());
            options.tls =
                Some(found.ok_or_else(|| anyhow!("No TLS credentials with id '{id}' for a server"))?);
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
        let gone = std::mem::take(&mut self.given);
        gone.values().flat_map(|g| &g.bitmaps).for_each(|b| b.give());
        graph.collect();
        Ok(gone.into_keys().collect())
    }

    /// `block-export-add`.
    pub(crate) fn add(&mut self, graph: &mut Graph, node: &Arc<Node>, a: &Map<String, Value>) -> Result<()> {
        let id = text(a, "id").unwrap_or_default().to_owned();
        match text(a, "type") {
            Some("nbd") => {}
            Some(other) => bail!("block export type '{other}' is not supported: expected nbd"),
            None => bail!("argument 'type' is missing"),
        }
        let server = self.server.clone().ok_or_else(|| anyhow!("NBD server not running"))?;
        if self.given.contains_key(&id) {
            bail!("Block export id '{id}' is already in use");
        }
        let name = text(a, "name").unwrap_or(node.name()).to_owned();
        if name.len() > block_nbd::proto::MAX_STRING {
            bail!("export name '{name}' too long");
        }
        let writable = a.get("writable").and_then(Value::as_bool).unwrap_or(false);
        if writable && node.info().read_only {
            bail!("Cannot export read-only node as writable");
        }
        let edge = graph.edge(node.name(), &format!("NBD export '{id}'"), writable)?;
        let mut export = Export::new(&name, edge.clone(), !writable);
        export.status = image_pieces(edge);
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
        self.given.insert(id, Given { name, node: node.name().to_owned(), bitmaps });
        Ok(())
    }

    /// `block-export-del`.
    pub(crate) fn remove(&mut self, graph: &mut Graph, id: &str, hard: bool) -> Result<()> {
        let given = self.given.get(id).ok_or_else(|| anyhow!("Export '{id}' is not found"))?;
        if let Some(server) = &self.server
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

    /// `query-block-exports`.
    pub(crate) fn query(&self) -> Value {
        let one = |(id, g): (&String, &Given)| json!({"id": id, "type": "nbd", "node-name": g.node, "shutting-down": false});
        self.given.iter().map(one).collect()
    }
}
