//! What devices stand on and monitors change: the block graph, networks, objects.

use std::sync::Arc;

use anyhow::{Result, bail};
use block::{Disk, IoPool};
use block_graph::{Edge, Node};
use control::VmConfig;
use control::config::ObjectConfig;
use control::vm::{BlockInfo, BlockStats};

use crate::chardevs::Chars;
use crate::exports::Exports;
use crate::filters::{Filters, is_filter};
use crate::netdevs::Nets;
use crate::nodes::Graph;
use crate::objects::Objects;

/// Threads that do the work of disks that have none of their own.
const IO_THREADS: usize = 4;

/// A disk of a device.
struct DiskOf {
    /// Name of the drive, empty for a node.
    drive: String,
    edge: Arc<Edge>,
    /// Id or path of the device.
    qdev: String,
    disk: Disk,
}

/// A device that the user plugged.
pub(crate) struct Peripheral {
    /// Its name in the machine.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) kind: String,
    /// The user gave it that name.
    pub(crate) named: bool,
}

/// All of it.
pub(crate) struct Backends {
    pub(crate) graph: Graph,
    pub(crate) exports: Exports,
    pub(crate) nets: Nets,
    pub(crate) objects: Objects,
    pub(crate) filters: Filters,
    pub(crate) peripherals: Vec<Peripheral>,
    pool: IoPool,
    disks: Vec<DiskOf>,
    /// Drives with `if=none` that no device has taken: name, the top of it, and whether it is read-only.
    drives: Vec<(String, Arc<Edge>, bool)>,
}

impl Backends {
    /// Opens what the configuration names.
    pub(crate) fn open(config: &VmConfig, chars: &Chars) -> Result<Self> {
        let mut all = Self {
            graph: Graph::new(config.incoming.is_none()),
            exports: Exports::default(),
            nets: Nets::open(config)?,
            objects: Objects::default(),
            filters: Filters::default(),
            peripherals: Vec::new(),
            pool: IoPool::new(IO_THREADS),
            disks: Vec::new(),
            drives: Vec::new(),
        };
        // RAM back ends that the machine does not use are nothing to make.
        let mut objects = config.objects.iter().filter(|o| !o.qom_type.starts_with("memory-backend-"));
        objects.try_for_each(|o| all.add_object(o, chars))?;
        all.objects_changed();
        config.blockdevs.iter().try_for_each(|b| all.graph.add(b))?;
        Ok(all)
    }

    /// Makes an object.
    pub(crate) fn add_object(&mut self, o: &ObjectConfig, chars: &Chars) -> Result<()> {
        if self.all_objects().any(|other| other.id == o.id) {
            bail!("attempt to add duplicate property '{}' to object (type 'container')", o.id);
        }
        if is_filter(o) { self.filters.add(o, &self.nets, chars) } else { self.objects.add(o) }
    }

    /// Ids and types of all objects.
    pub(crate) fn all_objects(&self) -> impl Iterator<Item = &ObjectConfig> {
        self.objects.list().chain(self.filters.list())
    }

    /// Takes an object away.
    pub(crate) fn remove_object(&mut self, id: &str) -> Result<()> {
        if self.filters.remove(id) { Ok(()) } else { self.objects.remove(id) }
    }

    /// Opens a drive; its disk is taken by [`Backends::disk`].
    pub(crate) fn drive(&mut self, config: &VmConfig, d: &control::config::Drive, id: &str) -> Result<()> {
        if self.drives.iter().any(|(i, ..)| i == id) || self.graph.has(id) {
            bail!("there is a drive or block node '{id}' already");
        }
        for (key, value, allowed) in [
            ("werror", &d.werror, &["report"][..]),
            ("rerror", &d.rerror, &["report"]),
            ("detect-zeroes", &d.detect_zeroes, &["off"]),
        ] {
            if let Some(v) = value.as_deref().filter(|v| !allowed.contains(v)) {
                bail!("{key}={v} is not supported: expected {}", allowed.join(" or "));
            }
        }
        if let Some(c @ ("none" | "directsync")) = d.cache.as_deref() {
            tracing::warn!("drive '{id}': cache={c}: the host's page cache is used all the same");
        }
        let temporary = d.snapshot.unwrap_or(config.snapshot);
        let readonly = d.readonly || d.media == control::config::Media::Cdrom;
        let d = control::config::Drive { readonly, ..d.clone() };
        let edge = self.graph.drive(&d, id, temporary)?;
        self.drives.push((id.to_owned(), edge, readonly));
        Ok(())
    }

    /// The disk behind a drive's id or a node's name, for a device; its requests run on `iothread` if there is one.
    pub(crate) fn disk(&mut self, id: &str, qdev: &str, iothread: Option<&str>) -> Result<Disk> {
        let pool = match iothread {
            Some(t) => self.objects.pool(t)?,
            None => self.pool.clone(),
        };
        let (drive, edge, readonly) = match self.drives.iter().position(|(i, ..)| i == id) {
            Some(at) => self.drives.remove(at),
            None if self.graph.has(id) => {
                let top = self.graph.take(id, &format!("device '{qdev}'"))?;
                (String::new(), top, false)
            }
            None => {
                let drives = self.drives.iter().map(|(i, ..)| i.clone());
                let nodes = self.graph.info().into_iter().filter_map(|m| m.node_name);
                let known: Vec<String> = drives.chain(nodes.filter(|n| !n.starts_with('#'))).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                bail!("drive '{id}' does not exist or is in use; there are: {known}");
            }
        };
        let name = if drive.is_empty() { id.to_owned() } else { drive.clone() };
        let disk = Disk::new(name, edge.clone(), readonly, &pool);
        self.disks.push(DiskOf { drive, edge, qdev: qdev.to_owned(), disk: disk.clone() });
        Ok(disk)
    }

    /// The node that a command means by the name of a drive, a device or a node.
    pub(crate) fn node_of(&self, name: &str) -> Result<Arc<Node>> {
        let by_name = |d: &&DiskOf| !name.is_empty() && (d.drive == name || d.qdev == name);
        if let Some(d) = self.disks.iter().find(by_name) {
            return Ok(d.edge.node());
        }
        if let Some((_, edge, _)) = self.drives.iter().find(|(id, ..)| id == name) {
            return Ok(edge.node());
        }
        self.graph.find(name)
    }

    /// Tells those who name objects that there are others.
    pub(crate) fn objects_changed(&mut self) {
        self.objects.give(&mut self.graph);
        self.exports.tls = self.objects.tls_servers();
    }

    /// Ends all exports and puts everything on stable storage: the machine is going.
    pub(crate) fn end(&mut self) {
        let _ = self.exports.stop(&mut self.graph);
        self.graph.close();
    }

    /// For `query-block`.
    pub(crate) fn block_devices(&self) -> Vec<BlockInfo> {
        let of_device = self.disks.iter().map(|d| BlockInfo {
            device: d.drive.clone(),
            qdev: Some(d.qdev.clone()),
            inserted: self.graph.medium(d.edge.node().name()),
            ..BlockInfo::default()
        });
        let alone = self.drives.iter().map(|(id, edge, _)| BlockInfo {
            device: id.clone(),
            inserted: self.graph.medium(edge.node().name()),
            ..BlockInfo::default()
        });
        of_device.chain(alone).collect()
    }

    /// For `query-blockstats`.
    pub(crate) fn block_stats(&self) -> Vec<BlockStats> {
        let one = |d: &DiskOf| {
            let s = d.disk.stats();
            BlockStats {
                device: d.drive.clone(),
                qdev: Some(d.qdev.clone()),
                node_name: d.edge.node().name().to_owned(),
                reads: (s.reads, s.read_bytes),
                writes: (s.writes, s.write_bytes),
                flushes: s.flushes,
                errors: s.errors,
            }
        };
        self.disks.iter().map(one).collect()
    }

    /// Waits until no disk works any more; the machine stands.
    pub(crate) fn drain(&self) {
        self.disks.iter().for_each(|d| d.disk.drain());
    }
}
