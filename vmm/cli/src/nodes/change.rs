//! Changes of the graph while it is in use: nodes opened anew, snapshots, other backing files.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::BlockNode;
use block_formats::{BackingName, Image};
use block_graph::{Edge, Node, lead};
use serde_json::{Map, Value, json};

use super::{Entry, Graph, Link};

/// An overlay that is to take a node's place.
pub(crate) struct Snapshot {
    pub(crate) old: Arc<Node>,
    pub(crate) new: Arc<Node>,
    /// From the overlay to the node.
    edge: Arc<Edge>,
}

impl Snapshot {
    /// Whether an edge stays where it is.
    pub(crate) fn keeps(&self, edge: &Arc<Edge>) -> bool {
        Arc::ptr_eq(edge, &self.edge)
    }

    /// Puts the node below the overlay. Nothing may be under way.
    pub(crate) fn apply(&self) -> Result<()> {
        Ok(self.new.image().replace_backing(Some(self.edge.clone()))?)
    }

    /// Takes that back.
    pub(crate) fn undo(&self) {
        let _ = self.new.image().replace_backing(None);
    }
}

/// Where in a chain an image is.
pub(crate) struct Place {
    /// Steps down from the top.
    pub(crate) depth: u32,
    pub(crate) image: Arc<dyn Image>,
}

impl Graph {
    /// Prepares an overlay, which is a node already, over another node.
    pub(crate) fn snapshot(&mut self, node: &str, overlay: &str) -> Result<Snapshot> {
        let (old, new) = (self.find(node)?, self.find(overlay)?);
        if Arc::ptr_eq(&old, &new) {
            bail!("Node '{overlay}' cannot be its own backing file");
        }
        if new.image().backing().is_some() {
            bail!("The overlay already has a backing image");
        }
        if let Some(user) = new.users().first() {
            bail!("The overlay is already in use: {user}");
        }
        if new.size() != old.size() {
            bail!("node '{overlay}' has {} bytes, expected those of '{node}', {}", new.size(), old.size());
        }
        // Says whether it can, before anything depends on it.
        new.image().replace_backing(None)?;
        let edge = Edge::new(format!("node '{overlay}' above it"), &old);
        self.links.push(Link { edge: Arc::downgrade(&edge), writes: false });
        Ok(Snapshot { old, new, edge })
    }

    /// Makes an image over a node for [`Graph::snapshot`]; its node.
    pub(crate) fn create_overlay(
        &mut self,
        node: &str,
        file: &str,
        format: &str,
        name: Option<&str>,
        existing: bool,
    ) -> Result<Snapshot> {
        let old = self.find(node)?;
        if !existing {
            let mut options = block_formats::Options::default();
            options.set("backing_file", absolute(old.filename()));
            options.set("backing_fmt", old.format());
            block_formats::create(format, Path::new(file), None, Some(old.size()), &options)
                .with_context(|| format!("snapshot file '{file}'"))?;
        }
        let overlay = self.open_image(file, format, name, false, Some(Value::Null))?;
        let made = self.snapshot(node, overlay.name());
        if made.is_err() {
            let _ = self.remove(overlay.name());
        }
        made
    }

    /// Opens an image file as a node.
    pub(crate) fn open_image(
        &mut self,
        file: &str,
        format: &str,
        name: Option<&str>,
        read_only: bool,
        backing: Option<Value>,
    ) -> Result<Arc<Node>> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => self.unused_name(),
        };
        let mut map = Map::new();
        map.insert("driver".into(), format.into());
        map.insert("file".into(), json!({"driver": "file", "filename": file}));
        map.insert("read-only".into(), read_only.into());
        if let Some(backing) = backing.filter(|_| format != "raw") {
            map.insert("backing".into(), backing);
        }
        self.describe(&name, map, false)
    }

    /// Lets a node go with its last user.
    pub(crate) fn let_go(&mut self, name: &str) {
        if let Some(e) = self.nodes.get_mut(name) {
            e.implicit = !e.of_drive;
        }
        self.collect();
    }

    /// Lets a node go that a drive brought with it and that nobody stands on any more; others stay.
    pub(crate) fn let_drive_go(&mut self, name: &str) {
        if let Some(e) = self.nodes.get_mut(name).filter(|e| e.of_drive) {
            (e.of_drive, e.implicit) = (false, true);
        }
        self.collect();
    }

    /// Makes a node the drive's own, as what it had before is not the drive's any more.
    pub(crate) fn inherit(&mut self, old: &Node, new: &Node) {
        let owned = self.nodes.get_mut(old.name()).is_some_and(|e| std::mem::replace(&mut e.of_drive, false));
        if let (true, Some(e)) = (owned, self.nodes.get_mut(new.name())) {
            e.of_drive = true;
        }
        if let (true, Some(e)) = (owned, self.nodes.get_mut(old.name())) {
            e.implicit = true;
        }
    }

    /// Opens a node anew with some options changed, under all that stand on it.
    pub(crate) fn reopen(&mut self, name: &str, changes: &Map<String, Value>) -> Result<()> {
        let entry =
            self.nodes.get(name).ok_or_else(|| anyhow!("Failed to find node with node-name='{name}'"))?;
        let (old, driver, was) = (entry.node.clone(), entry.driver.clone(), entry.options.clone());
        let mut map = was.clone();
        for (k, v) in changes {
            map.insert(k.clone(), v.clone());
        }
        if map.get("driver") != was.get("driver") {
            bail!("node '{name}': 'driver' cannot be changed");
        }
        // What is below stays, unless that is what changes.
        let keep_backing = !changes.contains_key("backing") && driver == "qcow2";
        if keep_backing {
            map.insert("backing".into(), Value::Null);
        }
        let links: Vec<bool> = self.links.iter().map(|l| l.writes).collect();
        // The new node may have what the old one has.
        self.links.iter_mut().for_each(|l| l.writes = false);
        let mut made = None;
        let done = lead(
            std::slice::from_ref(&old),
            |_| false,
            || -> Result<_> {
                old.flush()?;
                old.image().relock(false)?;
                let opened = self.make(map.clone(), 0).and_then(|(_, m)| {
                    if keep_backing {
                        m.image.replace_backing(old.image().backing())?;
                    }
                    Ok(m)
                });
                match opened {
                    Ok(opened) => {
                        let (node, file) = opened.node(name);
                        old.dirty_bitmaps().into_iter().for_each(|b| node.add_bitmap(b));
                        made = Some((node.clone(), file));
                        Ok(vec![(old.clone(), node)])
                    }
                    Err(e) => {
                        old.image().relock(true)?;
                        Err(e)
                    }
                }
            },
        );
        for (l, writes) in self.links.iter_mut().zip(links) {
            l.writes = writes;
        }
        done.with_context(|| format!("node '{name}'"))?;
        if keep_backing {
            map.remove("backing");
            if let Some(b) = was.get("backing") {
                map.insert("backing".into(), b.clone());
            }
        }
        if let (Some((node, file)), Some(e)) = (made, self.nodes.get_mut(name)) {
            *e = Entry { node, file, options: map, driver, of_drive: e.of_drive, implicit: e.implicit };
        }
        drop(old);
        self.collect();
        Ok(())
    }

    /// Finds an image in the chain of another one, by node name or by file.
    pub(crate) fn in_chain(&self, top: &Arc<Node>, node: Option<&str>, file: Option<&str>) -> Option<Place> {
        let mut image: Arc<dyn Image> = top.clone();
        for depth in 0..1000 {
            let names =
                file.is_some_and(|f| image.filename() == f || absolute(image.filename()) == absolute(f));
            if node.is_some() && image.node_name().as_deref() == node || names {
                return Some(Place { depth, image });
            }
            image = image.backing()?;
        }
        None
    }

    /// The name an image is to have in the one above it.
    pub(crate) fn backing_name(&self, image: &dyn Image) -> BackingName {
        BackingName { file: absolute(image.filename()), format: Some(image.format().to_owned()) }
    }

    /// Sets the backing file of an image in use: what it reads, and the name in it.
    pub(crate) fn set_backing(
        &mut self,
        image: &dyn Image,
        below: Option<&Arc<Node>>,
        name: Option<&BackingName>,
    ) -> Result<()> {
        image.set_backing(name)?;
        let edge = match below {
            Some(node) => {
                let user = format!("node '{}' above it", image.node_name().unwrap_or_default());
                Some(self.edge(node.name(), &user, false)?)
            }
            None => None,
        };
        image.replace_backing(edge.map(|e| e as Arc<dyn Image>))?;
        image.flush()?;
        self.collect();
        Ok(())
    }
}

/// A path that does not depend on where we are.
fn absolute(path: &str) -> String {
    let protocol = block_formats::Name::parse(path).is_ok_and(|n| n.protocol.is_some());
    match std::path::absolute(path) {
        Ok(p) if !protocol => p.display().to_string(),
        _ => path.to_owned(),
    }
}
