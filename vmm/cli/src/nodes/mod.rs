//! The block graph: `-blockdev`, `-drive` and QMP into nodes.
//!
//! A format, protocol or filter is one driver ([`drivers`]). A node stands on others, which are named or described in place,
//! by edges that can be led elsewhere while the machine runs. A node may have any number of readers and one writer.

mod change;
mod drivers;
pub(crate) mod names;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use anyhow::{Context, Result, anyhow, bail};
use block::{BlockError, BlockNode, CacheMode};
use block_filters::{CopyOnRead, Limits, Throttle, ThrottleGroup};
use block_formats::{BitmapChange, Image, Secrets};
use block_graph::{Bare, DetectZeroes, DirtyBitmap, Edge, Node, Renewable};
use control::config::{Blockdev, Drive, Props};
use control::nearest;
use control::vm::{DirtyBitmapInfo, MediumInfo, SnapshotInfo};
use serde_json::{Map, Value, json};

use crate::handover::Handover;

pub(crate) use change::{Place, Snapshot};

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

/// What a driver has made.
struct Made {
    image: Arc<dyn Image>,
    /// Where the contents are, for people.
    file: String,
    detect: DetectZeroes,
}

impl Made {
    fn new(image: Arc<dyn Image>, file: String) -> Self {
        Made { image, file, detect: DetectZeroes::Off }
    }

    /// A node of it, and where its contents are.
    fn node(self, name: &str) -> (Arc<Node>, String) {
        (Node::detecting(name, self.image, self.detect), self.file)
    }
}

/// A node's options; what a driver does not take is refused.
struct Options {
    driver: String,
    map: Map<String, Value>,
    read_only: bool,
    discard: bool,
    cache: CacheMode,
    /// Steps down from what was asked for: a chain of backing files must end.
    depth: u32,
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

/// One node.
struct Entry {
    node: Arc<Node>,
    driver: String,
    file: String,
    /// Made by `-drive`, which owns it.
    of_drive: bool,
    /// Described within another node: it goes with its last user.
    implicit: bool,
    /// As it was described.
    options: Map<String, Value>,
}

/// An edge, and whether it is for writing.
struct Link {
    edge: Weak<Edge>,
    writes: bool,
}

/// A drive with `snapshot=on`: its id, and the image that keeps what is written.
struct Temporary {
    id: String,
    node: Weak<Node>,
}

/// All nodes of a machine.
pub(crate) struct Graph {
    nodes: BTreeMap<String, Entry>,
    links: Vec<Link>,
    files: Vec<Arc<Handover>>,
    /// Images of formats, each after what it stands on.
    images: Vec<Arc<Renewable>>,
    temporary: Vec<Temporary>,
    /// Credentials for TLS, by id.
    pub(crate) tls: Vec<(String, block_nbd::TlsClient)>,
    /// Passwords and keys, by id.
    pub(crate) secrets: Secrets,
    /// Limits that nodes share, by id.
    pub(crate) groups: BTreeMap<String, Arc<ThrottleGroup>>,
    /// Nobody else has the files.
    ours: bool,
    generated: usize,
}

impl Graph {
    /// An empty graph; `ours` if the images are not another machine's yet, which is to come here.
    pub(crate) fn new(ours: bool) -> Self {
        Self {
            nodes: BTreeMap::new(),
            links: Vec::new(),
            files: Vec::new(),
            images: Vec::new(),
            temporary: Vec::new(),
            tls: Vec::new(),
            secrets: Secrets::default(),
            groups: BTreeMap::new(),
            ours,
            generated: 0,
        }
    }

    /// Adds what `-blockdev` describes.
    pub(crate) fn add(&mut self, b: &Blockdev) -> Result<()> {
        let mut map = b.options.clone();
        map.insert("driver".into(), b.driver.clone().into());
        self.describe(&b.node_name, map, false).with_context(|| format!("blockdev '{}'", b.node_name))?;
        Ok(())
    }

    /// Makes a node.
    fn describe(&mut self, name: &str, map: Map<String, Value>, of_drive: bool) -> Result<Arc<Node>> {
        if self.nodes.contains_key(name) {
            bail!("Duplicate nodes with node-name='{name}'");
        }
        let made = self.make(map.clone(), 0);
        if made.is_err() {
            self.collect();
        }
        let (driver, made) = made?;
        if self.nodes.contains_key(name) {
            self.collect();
            bail!("Duplicate nodes with node-name='{name}'");
        }
        let (node, file) = made.node(name);
        if self.ours {
            load_bitmaps(&node)?;
        }
        let entry = Entry { node: node.clone(), driver, file, of_drive, implicit: false, options: map };
        self.nodes.insert(name.to_owned(), entry);
        Ok(node)
    }

    /// Adds a node that has been made.
    fn insert(&mut self, image: Arc<dyn Image>, driver: &str, file: String, of_drive: bool) -> Arc<Node> {
        let name = self.unused_name();
        let node = Node::new(&name, image);
        let options = Map::new();
        let entry =
            Entry { node: node.clone(), driver: driver.into(), file, of_drive, implicit: !of_drive, options };
        self.nodes.insert(name, entry);
        node
    }

    fn unused_name(&mut self) -> String {
        loop {
            self.generated += 1;
            let name = format!("#block{:03}", self.generated);
            if !self.nodes.contains_key(&name) {
                return name;
            }
        }
    }

    /// Drops nodes that were described within others which are gone.
    pub(crate) fn collect(&mut self) {
        loop {
            // They hold what they stand on.
            self.images.retain(|i| Arc::strong_count(i) > 1);
            let unused = |e: &Entry| e.implicit && e.node.edges().is_empty();
            let gone: Vec<String> =
                self.nodes.iter().filter(|(_, e)| unused(e)).map(|(n, _)| n.clone()).collect();
            if gone.is_empty() {
                break;
            }
            for name in gone {
                if let Some(entry) = self.nodes.remove(&name) {
                    close(&entry.node);
                }
            }
        }
        self.links.retain(|l| l.edge.strong_count() != 0);
        self.files.retain(|f| Arc::strong_count(f) > 1);
    }

    fn make(&mut self, map: Map<String, Value>, depth: u32) -> Result<(String, Made)> {
        let name = map.get("driver").and_then(Value::as_str).unwrap_or_default().to_owned();
        let driver = drivers::find(&name)?;
        let own = driver.options();
        let known = || COMMON.iter().chain(&own).copied();
        if let Some(key) = map.keys().find(|k| !known().any(|n| n == *k)) {
            let hint = nearest(key, known()).map_or_else(
                || format!("; known: {}", known().collect::<Vec<_>>().join(", ")),
                |n| format!("; did you mean '{n}'?"),
            );
            bail!("{name}: option '{key}' is not known{hint}");
        }
        let mut o = Options {
            driver: name.clone(),
            map,
            read_only: false,
            discard: true,
            cache: CacheMode::default(),
            depth,
        };
        let props = o.props();
        o.read_only = props.bool("read-only")?.unwrap_or(false);
        o.discard =
            o.word("discard", &["ignore", "off", "unmap", "on"])?.is_none_or(|w| w == "unmap" || w == "on");
        let detect = o.text("detect-zeroes")?.unwrap_or_else(|| "off".into());
        let detect = match DetectZeroes::NAMES.iter().find(|(n, _)| *n == detect) {
            Some((_, DetectZeroes::Unmap)) if !(o.map.contains_key("discard") && o.discard) => {
                bail!("{name}: detect-zeroes=unmap needs discard=unmap beside it")
            }
            Some((_, detect)) => *detect,
            None => bail!("{name}: 'detect-zeroes' expects off, on or unmap, got '{detect}'"),
        };
        for key in ["auto-read-only", "force-share"] {
            props.bool(key)?;
        }
        match o.map.get("cache") {
            None => {}
            Some(Value::Object(cache)) => {
                let cache: Props = cache.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                cache.check_keys("cache", &["direct", "no-flush"])?;
                o.cache.direct = cache.bool("direct")?.unwrap_or(false);
                o.cache.no_flush = cache.bool("no-flush")?.unwrap_or(false);
            }
            Some(_) => bail!("{name}: 'cache' expects cache.direct and cache.no-flush"),
        }
        let made = driver.make(self, &o)?;
        Ok((name, Made { detect, ..made }))
    }

    /// An edge to the node that an option refers to by name or describes in place.
    fn child(&mut self, o: &Options, key: &str) -> Result<Arc<Edge>> {
        let value = o.map.get(key).cloned().ok_or_else(|| anyhow!("{}: needs '{key}'", o.driver))?;
        self.edge_to(o, key, value, !o.read_only)
    }

    /// The same for a value.
    fn edge_to(&mut self, o: &Options, key: &str, value: Value, writes: bool) -> Result<Arc<Edge>> {
        let user = format!("a node of driver {}", o.driver);
        match value {
            Value::String(name) => self.edge(&name, &user, writes),
            Value::Object(mut map) => {
                // The layer below works as the one above wants it, if it says nothing itself.
                map.entry("driver").or_insert("file".into());
                map.entry("read-only").or_insert((!writes).into());
                if !o.discard {
                    map.entry("discard").or_insert("ignore".into());
                }
                if o.cache != CacheMode::default() {
                    let CacheMode { direct, no_flush, .. } = o.cache;
                    map.entry("cache").or_insert(json!({"direct": direct, "no-flush": no_flush}));
                }
                let name = match map.get("node-name").and_then(Value::as_str) {
                    Some(name) => name.to_owned(),
                    None => self.unused_name(),
                };
                if self.nodes.contains_key(&name) {
                    bail!("Duplicate nodes with node-name='{name}'");
                }
                let (driver, made) = self.make(map.clone(), o.depth + 1)?;
                let (node, file) = made.node(&name);
                if self.ours {
                    load_bitmaps(&node)?;
                }
                let entry = Entry { node, driver, file, of_drive: false, implicit: true, options: map };
                self.nodes.insert(name.clone(), entry);
                self.edge(&name, &user, writes)
            }
            _ => bail!("{}: '{key}' expects the name of a node or its options", o.driver),
        }
    }

    /// An edge to a node, for a user that writes or only reads.
    pub(crate) fn edge(&mut self, name: &str, user: &str, writes: bool) -> Result<Arc<Edge>> {
        let node = self.find(name)?;
        let read_only = node.info().read_only;
        if writes && let Some(other) = self.writer(&node) {
            bail!("block node '{name}' is in use by {other}");
        }
        let edge = Edge::new(user, &node);
        self.links.push(Link { edge: Arc::downgrade(&edge), writes: writes && !read_only });
        Ok(edge)
    }

    /// Who writes a node.
    fn writer(&self, node: &Arc<Node>) -> Option<String> {
        let edges = self.links.iter().filter(|l| l.writes).filter_map(|l| l.edge.upgrade());
        edges.into_iter().find(|e| Arc::ptr_eq(&e.node(), node)).map(|e| e.user().to_owned())
    }

    /// The node of a name.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Node>> {
        let found = self.nodes.get(name).map(|e| e.node.clone());
        found.ok_or_else(|| {
            let known: Vec<&str> =
                self.nodes.keys().filter(|n| !n.starts_with('#')).map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            anyhow!("block node '{name}' does not exist; there are: {known}")
        })
    }

    /// Gives a node to a device, which writes it if it can be written.
    pub(crate) fn take(&mut self, name: &str, user: &str) -> Result<Arc<Edge>> {
        self.edge(name, user, true)
    }

    /// True if there is a node of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// Takes a node out that nobody uses.
    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        let Some(entry) = self.nodes.get(name) else { bail!("Failed to find node with node-name='{name}'") };
        if entry.of_drive {
            bail!("Node {name} is in use: it is owned by a -drive");
        }
        if let Some(user) = entry.node.users().first() {
            bail!("Node {name} is in use by {user}");
        }
        if let Some(b) = entry.node.dirty_bitmaps().iter().find(|b| b.busy()) {
            bail!("Node {name} is in use: bitmap '{}' is busy", b.name());
        }
        if let Some(entry) = self.nodes.remove(name) {
            close(&entry.node);
        }
        self.collect();
        Ok(())
    }

    /// What a `-drive` describes: the name of its node and whether it is gone at the end.
    pub(crate) fn drive(&mut self, d: &Drive, id: &str, temporary: bool) -> Result<Arc<Edge>> {
        let mut map = Map::new();
        let mut limits = Map::new();
        let mut name = None;
        for (k, v) in d.options.iter() {
            match k.split_once('.') {
                Some(("throttling", limit)) => drop(limits.insert(limit.to_owned(), v.clone())),
                None if k == "node-name" => name = v.as_str().map(str::to_owned),
                _ => names::nest(&mut map, k, v.clone())?,
            }
        }
        if let Some(format) = &d.format {
            map.insert("driver".into(), format.clone().into());
        }
        if let Some(path) = &d.file {
            let below = self.named(path, d.format.as_deref(), d.readonly || temporary)?;
            names::complete(&mut map, below)?;
        } else if !map.contains_key("file") && d.format.as_deref().is_none_or(|f| f == "raw") {
            bail!("needs file=PATH");
        }
        map.entry("driver").or_insert("raw".into());
        if let Some(given) = map.remove("node-name") {
            name = name.or_else(|| given.as_str().map(str::to_owned));
        }
        map.insert("read-only".into(), (d.readonly || temporary).into());
        if let Some(w) = &d.discard {
            map.insert("discard".into(), w.clone().into());
        }
        if let Some(w) = &d.detect_zeroes {
            map.insert("detect-zeroes".into(), w.clone().into());
        }
        if let Some(CacheMode { direct, no_flush, .. }) = d.cache.as_deref().and_then(CacheMode::find) {
            map.insert("cache".into(), json!({"direct": direct, "no-flush": no_flush}));
        }
        if let Some(aio) = &d.aio {
            // A host file takes it, other protocols have none.
            let is_file =
                |m: &Map<String, Value>| m.get("driver").is_none_or(|d| d == "file" || d == "host_device");
            if map.contains_key("filename") && is_file(&map) {
                map.entry("aio").or_insert(aio.clone().into());
            } else if let Some(Value::Object(file)) = map.get_mut("file")
                && is_file(file)
            {
                file.entry("aio").or_insert(aio.clone().into());
            } else {
                bail!("aio={aio} is for files of the host");
            }
        }
        let name = name.unwrap_or_else(|| self.unused_name());
        // Who stands on the node, and on each layer above it, of which each is a node of its own. Limits are those of the drive,
        // whatever it keeps where.
        let mut layers =
            usize::from(!limits.is_empty()) + usize::from(d.copy_on_read) + usize::from(temporary);
        let mut user = || {
            let under = if layers == 0 { "" } else { "a node of " };
            layers = layers.saturating_sub(1);
            format!("{under}drive '{id}'")
        };
        if d.copy_on_read && (d.readonly || temporary) {
            bail!("copy-on-read=on does not go with a read-only disk");
        }
        self.describe(&name, map, true)?;
        let mut edge = self.take(&name, &user())?;
        if temporary {
            let image = block_formats::temporary(edge.clone())?;
            let file = image.filename().to_owned();
            let node = self.insert(image, "qcow2", file, true);
            self.temporary.push(Temporary { id: id.to_owned(), node: Arc::downgrade(&node) });
            edge = self.take(node.name(), &user())?;
        }
        if !limits.is_empty() {
            let group = match limits.remove("group") {
                Some(Value::String(group)) => group,
                _ => id.to_owned(),
            };
            let limits = Limits::parse(&limits)?;
            let group = self.groups.entry(group.clone()).or_insert_with(|| ThrottleGroup::new(group, limits));
            let filter = Arc::new(Throttle::new(edge.clone(), group.clone()));
            edge = self.layer(filter, "throttle", &edge, &user())?;
        }
        if d.copy_on_read {
            let filter = Arc::new(CopyOnRead::new(edge.clone(), edge.details().cluster_size));
            edge = self.layer(filter, "copy-on-read", &edge, &user())?;
        }
        Ok(edge)
    }

    /// A node of a drive above another one; the edge to it.
    fn layer(
        &mut self,
        node: Arc<dyn BlockNode>,
        driver: &'static str,
        below: &Arc<Edge>,
        user: &str,
    ) -> Result<Arc<Edge>> {
        let file = self.nodes.get(below.node().name()).map(|e| e.file.clone()).unwrap_or_default();
        let image = Arc::new(Bare::new(node, driver, file.clone()).over(below.clone()));
        let name = self.insert(image, driver, file, true).name().to_owned();
        self.take(&name, user)
    }

    /// Puts everything that nodes keep on stable storage; nobody uses them any more. From the top down.
    pub(crate) fn close(&mut self) {
        let mut left: Vec<Arc<Node>> = self.nodes.values().map(|e| e.node.clone()).collect();
        left.retain(|n| self.ours && is_top(n));
        left.iter().for_each(|n| close(n));
    }

    /// For `query-named-block-nodes`.
    pub(crate) fn info(&self) -> Vec<MediumInfo> {
        self.nodes.keys().filter_map(|name| self.medium(name)).collect()
    }

    /// What a node holds.
    pub(crate) fn medium(&self, name: &str) -> Option<MediumInfo> {
        let n = self.nodes.get(name)?;
        let info = n.node.image().info();
        let cache = |key: &str| match n.options.get("cache").and_then(|c| c.get(key)) {
            Some(Value::String(word)) => word == "on" || word == "true",
            other => other == Some(&Value::Bool(true)),
        };
        Some(MediumInfo {
            direct: cache("direct"),
            no_flush: cache("no-flush"),
            file: n.file.clone(),
            node_name: Some(name.to_owned()),
            format: n.driver.clone(),
            readonly: info.read_only,
            virtual_size: info.size,
            detect_zeroes: n.node.detect_zeroes().name().into(),
            encrypted: n.driver == "luks" || n.options.contains_key("encrypt"),
            snapshots: n.node.image().snapshots().iter().map(snapshot_info).collect(),
            dirty_bitmaps: n.node.dirty_bitmaps().iter().map(|b| bitmap_info(b)).collect(),
        })
    }

    /// The nodes that no other node stands on, and that can be written.
    pub(crate) fn tops(&self) -> Vec<Arc<Node>> {
        let top = |n: &&Arc<Node>| is_top(n) && !n.image().info().read_only;
        self.nodes.values().map(|e| &e.node).filter(top).cloned().collect()
    }

    /// The drives with `snapshot=on`, and the image of each that keeps what is written.
    pub(crate) fn temporary(&self) -> impl Iterator<Item = (&str, Arc<Node>)> {
        self.temporary.iter().filter_map(|t| Some((&*t.id, t.node.upgrade()?)))
    }

    /// Why the disks cannot go to another machine, if they cannot.
    pub(crate) fn bound(&self) -> Option<String> {
        let temporary = self.temporary().next().map(|(id, _)| {
            format!(
                "drive '{id}' keeps its writes in a temporary file (snapshot=on), which cannot be migrated"
            )
        });
        // What the guest has written to it is not in the folder yet.
        let is_folder = |e: &&Entry| e.driver == "vvfat" && !e.node.info().read_only;
        let folder = self.nodes.values().find(is_folder).map(|e| (e.node.name().to_owned(), e.file.clone()));
        let said = |(node, file)| {
            format!("{file}: the vvfat (rw) format used by node '{node}' does not support live migration")
        };
        temporary.or_else(|| folder.map(said))
    }

    /// Gives all images up to another process.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.ours = false;
        for node in self.nodes.values().map(|e| &e.node).filter(|n| !n.image().info().read_only) {
            keep_bitmaps(node)?;
        }
        // From the top down, as closing an image writes to what it stands on.
        self.images.iter().rev().try_for_each(|i| i.give())?;
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
        if let Err(e) = self.images.iter().try_for_each(|i| i.take()) {
            // Nothing was written yet.
            self.images.iter().rev().for_each(|i| drop(i.give()));
            self.files.iter().for_each(|f| drop(f.release()));
            return Err(e.into());
        }
        self.ours = true;
        for node in self.nodes.values().map(|e| &e.node) {
            load_bitmaps(node)?;
        }
        Ok(())
    }
}

/// Dirty bitmaps that an image keeps are the node's while it is open for writing.
fn load_bitmaps(node: &Node) -> Result<()> {
    let image = node.image();
    if image.info().read_only {
        return Ok(());
    }
    let there = |name: &str| node.dirty_bitmap(name).is_some();
    for b in image.bitmaps()?.into_iter().filter(|b| !b.inconsistent && !there(&b.name)) {
        let bitmap = DirtyBitmap::new(&b.name, image.size(), b.granularity, true)?;
        bitmap.restore(&image.bitmap_ranges(&b.name)?);
        bitmap.enable(b.enabled);
        node.add_bitmap(Arc::new(bitmap));
    }
    Ok(())
}

/// Whether no other node stands on one.
fn is_top(node: &Node) -> bool {
    node.users().iter().all(|u| !u.starts_with("a node of") && !u.ends_with("above it"))
}

/// A snapshot inside an image, as clients see it.
pub(crate) fn snapshot_info(s: &block_formats::Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: s.id.clone(),
        tag: s.name.clone(),
        size: s.vm_state_size,
        date: s.date_sec.into(),
        date_nsec: s.date_nsec,
        clock: s.vm_clock_nsec,
    }
}

fn bitmap_info(b: &DirtyBitmap) -> DirtyBitmapInfo {
    DirtyBitmapInfo {
        name: b.name().to_owned(),
        count: b.dirty_bytes(),
        granularity: b.granularity(),
        recording: b.enabled(),
        busy: b.busy(),
        persistent: b.persistent(),
    }
}

/// Puts what a node keeps into its image and on stable storage, as nobody uses it any more.
fn close(node: &Node) {
    let image = node.image();
    if image.info().read_only {
        return;
    }
    if let Err(e) = keep_bitmaps(node).and_then(|()| image.close()) {
        tracing::error!("{}: {e}", image.filename());
    }
}

/// Puts the bitmaps of a node that are to be kept into its image.
fn keep_bitmaps(node: &Node) -> Result<(), BlockError> {
    let image = node.image();
    let keep = |b: &DirtyBitmap| {
        if image.bitmaps()?.iter().any(|i| i.name == b.name()) {
            image.change_bitmap(b.name(), &BitmapChange::Disable)?;
            image.change_bitmap(b.name(), &BitmapChange::Clear)?;
        } else {
            let add = BitmapChange::Add { granularity: Some(b.granularity()), disabled: true };
            image.change_bitmap(b.name(), &add)?;
        }
        image.change_bitmap(b.name(), &BitmapChange::Merge(b.ranges(0..b.size())))?;
        if b.enabled() { image.change_bitmap(b.name(), &BitmapChange::Enable) } else { Ok(()) }
    };
    node.dirty_bitmaps().iter().filter(|b| b.persistent()).try_for_each(|b| keep(b))
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
        let _disk = g.take("r", "a disk").unwrap();
        assert!(g.remove("r").unwrap_err().to_string().contains("a disk"));
        assert!(g.take("q", "x").unwrap_err().to_string().contains("there are: n, r"));
    }

    #[test]
    fn what_a_temporary_layer_keeps_can_be_committed() {
        let path = std::env::temp_dir().join(format!("rhea-commit-{}", std::process::id()));
        std::fs::write(&path, [1; 4096]).unwrap();
        let mut g = Graph::new(true);
        let d = Drive { file: Some(path.display().to_string()), ..Drive::default() };
        let node = g.drive(&d, "d", true).unwrap();
        node.write(7, &[std::io::IoSlice::new(&[9, 9])], true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1; 4096], "the image is spared");
        assert!(g.bound().unwrap().contains("'d'"));
        let (id, layer) = g.temporary().next().map(|(id, layer)| (id.to_owned(), layer)).unwrap();
        let name = layer.image().backing().unwrap().node_name().unwrap();
        g.reopen(&name, &Map::from_iter([("read-only".to_owned(), Value::Bool(false))])).unwrap();
        let image: Arc<dyn Image> = layer.clone();
        block_jobs::commit_at_once(&image, &g.find(&name).unwrap()).unwrap();
        assert_eq!((id.as_str(), &std::fs::read(&path).unwrap()[6..10]), ("d", &[1, 9, 9, 1][..]));
        let mut back = [0; 4];
        node.read(6, &mut [std::io::IoSliceMut::new(&mut back)]).unwrap();
        assert_eq!(back, [1, 9, 9, 1]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn bad_options_are_named() {
        let mut g = Graph::new(true);
        for (driver, options, words) in [
            ("qcow9", serde_json::json!({}), ["qcow9", "raw"]),
            ("qcow2", serde_json::json!({"file": 5}), ["qcow2", "in place"]),
            ("qcow2", serde_json::json!({"file": "x"}), ["'x'", "does not exist"]),
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
