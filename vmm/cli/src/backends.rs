//! What devices stand on and monitors change: the block graph, networks, objects.

use std::sync::Arc;

use anyhow::{Result, bail};
use block::{CacheMode, Disk, ErrorPolicy, IoPool, OnError};
use block_graph::{Edge, Node};
use control::VmConfig;
use control::config::ObjectConfig;
use control::vm::{BlockInfo, BlockStats, Event};
use serde_json::json;
use storage::TrayListener;

use crate::chardevs::Chars;
use crate::exports::Exports;
use crate::failures::{DiskNames, Failures, OnErrors, on_error};
use crate::filters::{Filters, is_filter};
use crate::netdevs::Nets;
use crate::nodes::Graph;
use crate::objects::Objects;

/// Threads that do the work of disks that have none of their own.
const IO_THREADS: usize = 4;

/// A drive of a device.
struct DriveOf {
    /// Name of the drive, empty for a node.
    drive: String,
    /// Id or path of the device.
    qdev: String,
    /// What is in it.
    medium: Option<Medium>,
    /// Where its slot is, if what is in it can be changed.
    slot: Option<SlotAt>,
    /// What the drive says of failed requests.
    on_error: OnErrors,
}

/// A disk, and what leads to its node.
struct Medium {
    edge: Arc<Edge>,
    disk: Disk,
}

/// Where a drive is whose medium can be changed.
#[derive(Clone, Debug)]
pub(crate) enum SlotAt {
    /// On a controller of this name, by its number there.
    Unit(String, usize),
    /// On a SCSI adapter of this name, by target and unit.
    Scsi(String, u8, u16),
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
    disks: Vec<DriveOf>,
    /// Drives without a medium that no device has taken.
    empty: Vec<String>,
    /// Drives that no device has taken.
    drives: Vec<Untaken>,
    /// Who hears of requests that the host has failed.
    pub(crate) failures: Failures,
}

/// A drive for a device.
struct Untaken {
    id: String,
    /// The top of it.
    edge: Arc<Edge>,
    read_only: bool,
    /// Changes are done once they are stable.
    write_through: bool,
    on_error: OnErrors,
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
            empty: Vec::new(),
            drives: Vec::new(),
            failures: Failures::default(),
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
        if self.filters.remove(id) {
            return Ok(());
        }
        self.objects.remove(id)?;
        self.objects_changed();
        Ok(())
    }

    fn new_name(&self, id: &str) -> Result<()> {
        let taken = self.drives.iter().any(|d| d.id == id)
            || self.empty.iter().any(|i| i == id)
            || self.disks.iter().any(|d| d.drive == id)
            || self.graph.has(id);
        if taken {
            bail!("there is a drive or block node '{id}' already");
        }
        Ok(())
    }

    /// Notes a drive that has no medium yet.
    pub(crate) fn empty_drive(&mut self, id: &str) -> Result<()> {
        self.new_name(id)?;
        self.empty.push(id.to_owned());
        Ok(())
    }

    /// Opens a drive; its disk is taken by [`Backends::disk`].
    pub(crate) fn drive(&mut self, config: &VmConfig, d: &control::config::Drive, id: &str) -> Result<()> {
        self.new_name(id)?;
        let on_error = (on_error("rerror", d.rerror.as_deref())?, on_error("werror", d.werror.as_deref())?);
        let readonly = d.readonly || d.media == control::config::Media::Cdrom;
        // What is only read needs no place for what is written.
        let temporary = d.snapshot.unwrap_or(config.snapshot) && !readonly;
        let d = control::config::Drive { readonly, ..d.clone() };
        let edge = self.graph.drive(&d, id, temporary)?;
        let cache = d.cache.as_deref().and_then(CacheMode::find).unwrap_or_default();
        let write_through = cache.write_through;
        self.drives.push(Untaken { id: id.to_owned(), edge, read_only: readonly, write_through, on_error });
        Ok(())
    }

    /// The threads of an `iothread`, or those that all disks have.
    pub(crate) fn pool(&mut self, iothread: Option<&str>) -> Result<IoPool> {
        match iothread {
            Some(t) => self.objects.pool(t),
            None => Ok(self.pool.clone()),
        }
    }

    /// The disk behind a drive's id or a node's name, for a device that tells its guest of every failure; its requests
    /// run on `iothread` if there is one.
    pub(crate) fn disk(&mut self, id: &str, qdev: &str, iothread: Option<&str>) -> Result<Disk> {
        if let Some(d) = self.drives.iter().find(|d| d.id == id) {
            let other = |v: Option<OnError>| v.is_some_and(|v| v != OnError::Report);
            if other(d.on_error.0) || other(d.on_error.1) {
                bail!("drive '{id}': this device has werror=report and rerror=report alone");
            }
        }
        let pools = vec![self.pool(iothread)?];
        let report = Some(OnError::Report);
        self.disk_of(id, qdev, pools, (report, report))
    }

    /// The disk for a device that can keep failed requests until the machine goes on. Each queue has the next of the
    /// threads; what `on_error` does not say, the drive does.
    pub(crate) fn disk_of(
        &mut self,
        id: &str,
        qdev: &str,
        pools: Vec<IoPool>,
        on_error: OnErrors,
    ) -> Result<Disk> {
        let (drive, edge, read_only, write_through, own) = match self.drives.iter().position(|d| d.id == id) {
            Some(at) => {
                let d = self.drives.remove(at);
                (d.id, d.edge, d.read_only, d.write_through, d.on_error)
            }
            None if self.graph.has(id) => {
                let top = self.graph.take(id, &format!("device '{qdev}'"))?;
                (String::new(), top, false, false, (None, None))
            }
            None if self.empty.iter().any(|i| i == id) => bail!("needs a medium, and drive '{id}' is empty"),
            None => {
                let drives = self.drives.iter().map(|d| d.id.clone());
                let nodes = self.graph.info().into_iter().filter_map(|m| m.node_name);
                let known: Vec<String> = drives.chain(nodes.filter(|n| !n.starts_with('#'))).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                bail!("drive '{id}' does not exist or is in use; there are: {known}");
            }
        };
        let default = ErrorPolicy::default();
        let policy = ErrorPolicy {
            read: on_error.0.or(own.0).unwrap_or(default.read),
            write: on_error.1.or(own.1).unwrap_or(default.write),
        };
        let name = if drive.is_empty() { id.to_owned() } else { drive.clone() };
        let names = DiskNames { drive: drive.clone(), edge: edge.clone(), qdev: qdev.to_owned() };
        let disk = Disk::new(name, edge.clone(), read_only, &self.pool)
            .with_policy(policy, self.failures.sink(names))
            .with_write_through(write_through)
            .with_pools(pools);
        let medium = Some(Medium { edge, disk: disk.clone() });
        self.disks.push(DriveOf { drive, qdev: qdev.to_owned(), medium, slot: None, on_error: own });
        Ok(disk)
    }

    /// The same for a device that does with nothing in it.
    pub(crate) fn medium(&mut self, id: Option<&str>, qdev: &str) -> Result<Option<Disk>> {
        let drive = match id {
            Some(id) => match self.empty.iter().position(|i| i == id) {
                Some(at) => self.empty.remove(at),
                None => return self.disk(id, qdev, None).map(Some),
            },
            None => String::new(),
        };
        let on_error = (None, None);
        self.disks.push(DriveOf { drive, qdev: qdev.to_owned(), medium: None, slot: None, on_error });
        Ok(None)
    }

    /// What is in the drive of device `qdev` can be changed there.
    pub(crate) fn has_slot(&mut self, qdev: &str, at: SlotAt) {
        if let Some(d) = self.disks.iter_mut().find(|d| d.qdev == qdev) {
            d.slot = Some(at);
        }
    }

    /// Announces the movements of a drive's tray.
    pub(crate) fn tray_listener(&self, drive: Option<&str>, qdev: &str) -> TrayListener {
        let (announcer, drive, qdev) =
            (self.nets.announcer.clone(), drive.unwrap_or_default().to_owned(), qdev.to_owned());
        TrayListener::new(move |open| {
            let data = json!({"device": drive, "id": qdev, "tray-open": open});
            announcer.emit(&Event::new("DEVICE_TRAY_MOVED", data));
        })
    }

    /// The device and the slot that a command means by the name of a drive or of a device.
    pub(crate) fn slot(&self, name: &str) -> Result<(String, SlotAt)> {
        let found = self
            .disks
            .iter()
            .find(|d| !name.is_empty() && (d.drive == name || d.qdev == name || self.qdev_of(d) == name));
        let Some(d) = found else { bail!("Device '{name}' not found") };
        let Some(slot) = &d.slot else { bail!("Device '{name}' is not removable") };
        Ok((d.qdev.clone(), slot.clone()))
    }

    /// Puts a node into the drive of a device, as the disk to load there.
    pub(crate) fn load_node(&mut self, qdev: &str, node: &str) -> Result<Disk> {
        let edge = self.graph.take(node, &format!("device '{qdev}'"))?;
        Ok(self.load(qdev, edge, false))
    }

    /// The same by what leads to a node.
    pub(crate) fn load(&mut self, qdev: &str, edge: Arc<Edge>, readonly: bool) -> Disk {
        let disk = Disk::new(qdev, edge.clone(), readonly, &self.pool);
        if let Some(d) = self.disks.iter_mut().find(|d| d.qdev == qdev) {
            d.medium = Some(Medium { edge, disk: disk.clone() });
        }
        disk
    }

    /// Takes out what is in the drive of a device, which has let go of it. What a drive brought with it is closed.
    pub(crate) fn unload(&mut self, qdev: &str) {
        let Some(d) = self.disks.iter_mut().find(|d| d.qdev == qdev) else { return };
        let Some(Medium { edge, disk }) = d.medium.take() else { return };
        disk.drain();
        let node = edge.node().name().to_owned();
        drop((disk, edge));
        self.graph.let_drive_go(&node);
    }

    /// Lets go of what a device had that is gone: its drive goes with it, a node stays, a network is free again.
    pub(crate) fn path(&self, name: &str) -> String {
        let mut unnamed = self.peripherals.iter().filter(|p| !p.named);
        match unnamed.position(|p| p.name == name) {
            Some(i) => format!("/machine/peripheral-anon/device[{i}]"),
            None => format!("/machine/peripheral/{name}"),
        }
    }

    pub(crate) fn device_gone(&mut self, qdev: &str) {
        self.unload(qdev);
        self.disks.retain(|d| d.qdev != qdev);
        self.nets.card_gone(qdev);
        self.peripherals.retain(|p| p.name != qdev);
    }

    /// Takes back what was given to a device that has come to nothing.
    pub(crate) fn take_back(&mut self, qdev: &str) {
        while let Some(at) = self.disks.iter().position(|d| d.qdev == qdev) {
            let DriveOf { drive, medium, on_error, .. } = self.disks.remove(at);
            match medium {
                Some(Medium { edge, disk }) if !drive.is_empty() => {
                    let (read_only, write_through) = (disk.read_only(), disk.write_through());
                    self.drives.push(Untaken { id: drive, edge, read_only, write_through, on_error });
                }
                None if !drive.is_empty() => self.empty.push(drive),
                _ => {}
            }
        }
        self.nets.card_gone(qdev);
    }

    /// Whether there is something in the drive of a device.
    pub(crate) fn is_loaded(&self, qdev: &str) -> bool {
        self.disks.iter().any(|d| d.qdev == qdev && d.medium.is_some())
    }

    /// Does something that may change sizes; the devices whose disks it concerns and exports are told.
    pub(crate) fn resizing<R>(&self, f: impl FnOnce() -> R) -> R {
        let disks: Vec<&Disk> = self.disks.iter().filter_map(|d| Some(&d.medium.as_ref()?.disk)).collect();
        let before: Vec<u64> = disks.iter().map(|d| d.len()).collect();
        let result = f();
        let changed = disks.iter().zip(before).filter(|(d, before)| d.len() != *before);
        changed.for_each(|(d, _)| d.resized());
        self.exports.resized();
        result
    }

    /// A disk with a request that failed and waits for the machine to go on.
    pub(crate) fn waiting(&self) -> Option<String> {
        let waits = |d: &&DriveOf| d.medium.as_ref().is_some_and(|m| m.disk.io_status() != "ok");
        let found = self.disks.iter().find(waits)?;
        Some(format!("device '{}': a request of it failed and waits for the machine to go on", found.qdev))
    }

    /// The node that a command means by the name of a drive, a device or a node.
    pub(crate) fn node_of(&self, name: &str) -> Result<Arc<Node>> {
        let by_name =
            |d: &&DriveOf| !name.is_empty() && (d.drive == name || d.qdev == name || self.qdev_of(d) == name);
        if let Some(d) = self.disks.iter().find(by_name) {
            let Some(medium) = &d.medium else { bail!("Device '{name}' has no medium") };
            return Ok(medium.edge.node());
        }
        if let Some(d) = self.drives.iter().find(|d| d.id == name) {
            return Ok(d.edge.node());
        }
        self.graph.find(name)
    }

    /// The name of a node for people: that of the drive or the device it is in, or its own.
    pub(crate) fn name_of(&self, node: &Arc<Node>) -> String {
        let of_device = self.disks.iter().find_map(|d| {
            let found = d.medium.as_ref().is_some_and(|m| Arc::ptr_eq(&m.edge.node(), node));
            found.then(|| d.drive.clone()).filter(|name| !name.is_empty())
        });
        let alone = || self.drives.iter().find(|d| Arc::ptr_eq(&d.edge.node(), node)).map(|d| d.id.clone());
        of_device.or_else(alone).unwrap_or_else(|| node.name().to_owned())
    }

    /// Tells those who name objects that there are others.
    pub(crate) fn objects_changed(&mut self) {
        self.objects.give(&mut self.graph);
        self.exports.tls = self.objects.tls_servers();
        self.exports.authz = self.objects.authz();
    }

    /// Ends all exports and puts everything on stable storage: the machine is going.
    pub(crate) fn end(&mut self) {
        self.exports.end(&mut self.graph);
        self.graph.close();
    }

    /// What clients know a disk's device by: its name, and for a virtio disk, whose transport has that, the path of what is
    /// behind the transport.
    fn qdev_of(&self, d: &DriveOf) -> String {
        let device = self.peripherals.iter().find(|p| p.name == d.qdev);
        match device {
            Some(p) if p.named && p.kind.starts_with("virtio-blk") => {
                format!("/machine/peripheral/{}/virtio-backend", d.qdev)
            }
            _ => d.qdev.clone(),
        }
    }

    /// For `query-block`.
    pub(crate) fn block_devices(&self) -> Vec<BlockInfo> {
        let of_device = self.disks.iter().map(|d| BlockInfo {
            device: d.drive.clone(),
            qdev: Some(self.qdev_of(d)),
            removable: d.slot.is_some(),
            inserted: d.medium.as_ref().and_then(|m| self.graph.medium(m.edge.node().name())),
            io_status: d.medium.as_ref().map_or_else(String::new, |m| m.disk.io_status().into()),
            ..BlockInfo::default()
        });
        let alone = self.drives.iter().map(|d| BlockInfo {
            device: d.id.clone(),
            inserted: self.graph.medium(d.edge.node().name()),
            ..BlockInfo::default()
        });
        let empty = self.empty.iter().map(|id| BlockInfo {
            device: id.clone(),
            removable: true,
            ..BlockInfo::default()
        });
        of_device.chain(alone).chain(empty).collect()
    }

    /// For `query-blockstats`.
    pub(crate) fn block_stats(&self) -> Vec<BlockStats> {
        let one = |d: &DriveOf| {
            let s = d.medium.as_ref().map(|m| m.disk.stats()).unwrap_or_default();
            BlockStats {
                device: d.drive.clone(),
                qdev: Some(self.qdev_of(d)),
                node_name: d.medium.as_ref().map_or_else(String::new, |m| m.edge.node().name().to_owned()),
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
        self.disks.iter().filter_map(|d| d.medium.as_ref()).for_each(|m| m.disk.drain());
    }
}
