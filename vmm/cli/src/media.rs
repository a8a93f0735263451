//! Media of drives that are changed while the machine runs: `eject`, `change` and the commands of QMP about trays.
//!
//! Locks: the back ends, then a controller. A controller's tray listener takes neither.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use control::config::Drive;
use control::vm::BlockInfo;
use machine::Machine;
use serde_json::{Value, json};
use storage::{AhciController, FloppyController, IdeController, Slot, Slots, Tray};

use crate::backends::{Backends, SlotAt};
use crate::blockjobs::{Arguments, needed, text};
use crate::vm::RheaVm;

/// The commands.
pub(crate) const NAMES: [&str; 6] = [
    "eject",
    "blockdev-open-tray",
    "blockdev-close-tray",
    "blockdev-remove-medium",
    "blockdev-insert-medium",
    "blockdev-change-medium",
];

/// Does something with a slot; an error if there is none.
fn with_slot<R>(machine: &Machine, at: &SlotAt, f: impl FnOnce(&mut dyn Slot) -> R) -> Result<R> {
    let (SlotAt::Unit(name, _) | SlotAt::Scsi(name, ..)) = at;
    let cell = machine.devices().iter().find(|(n, _)| n == name).map(|(_, cell)| cell.clone());
    let mut f = Some(f);
    let mut result = None;
    let mut each = |slot: &mut dyn Slot| result = f.take().map(|f| f(slot));
    if let Some(cell) = cell {
        cell.with(|device| {
            let Some(any) = device.as_any() else { return };
            match at {
                SlotAt::Unit(_, unit) => {
                    if let Some(c) = any.downcast_mut::<IdeController>() {
                        c.with_slot(*unit, &mut each);
                    } else if let Some(c) = any.downcast_mut::<AhciController>() {
                        c.with_slot(*unit, &mut each);
                    } else if let Some(c) = any.downcast_mut::<FloppyController>() {
                        c.with_slot(*unit, &mut each);
                    }
                }
                SlotAt::Scsi(_, target, lun) => with_scsi(any, *target, *lun, &mut each),
            }
        });
    }
    result.ok_or_else(|| anyhow!("its drive is not there"))
}

/// Disks may have other sizes: host adapters whose guests wait for an event tell them.
#[cfg(unix)]
pub(crate) fn resized(machine: &Machine) {
    for (_, cell) in machine.devices().iter() {
        cell.with(|device| {
            if let Some(adapter) = device.as_any().and_then(|any| any.downcast_mut::<virtio::Scsi>()) {
                adapter.resized();
            }
        });
    }
}

/// No host adapter of this host's has events.
#[cfg(not(unix))]
pub(crate) fn resized(_: &Machine) {}

#[cfg(unix)]
fn with_scsi(any: &mut dyn std::any::Any, target: u8, lun: u16, f: &mut dyn FnMut(&mut dyn Slot)) {
    if let Some(adapter) = any.downcast_mut::<virtio::Scsi>()
        && let Some(drive) = adapter.drive(target, lun)
    {
        adapter.with_slot(drive, f);
    }
}

#[cfg(not(unix))]
fn with_scsi(_: &mut dyn std::any::Any, _: u8, _: u16, _: &mut dyn FnMut(&mut dyn Slot)) {}

/// Completes what is said of drives with what their trays do.
pub(crate) fn look(vm: &RheaVm, all: &mut [BlockInfo]) {
    let backends = vm.backends.lock();
    for info in all {
        let Some(Ok((_, at))) = info.qdev.as_deref().map(|qdev| backends.slot(qdev)) else { continue };
        if let Ok(Some(tray)) = with_slot(&vm.machine, &at, |slot| slot.tray()) {
            (info.locked, info.tray_open) = (tray.locked, Some(tray.open));
        }
    }
}

/// A drive that a command is about.
struct Target<'a> {
    machine: &'a Machine,
    backends: &'a mut Backends,
    /// As the user calls it.
    name: String,
    qdev: String,
    at: SlotAt,
}

impl Target<'_> {
    fn tray(&self) -> Result<Option<Tray>> {
        with_slot(self.machine, &self.at, |slot| slot.tray())
    }

    /// Opens the tray, if there is one.
    fn open(&self, force: bool) -> Result<()> {
        if !with_slot(self.machine, &self.at, |slot| slot.open(force))? {
            bail!(
                "Device '{}' is locked and force was not specified, wait for tray to open and try again",
                self.name
            );
        }
        Ok(())
    }

    fn needs_open_tray(&self) -> Result<()> {
        if self.tray()?.is_some_and(|tray| !tray.open) {
            bail!("Tray of device '{}' is not open", self.name);
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        with_slot(self.machine, &self.at, |slot| slot.shut())
    }

    fn remove(&mut self) -> Result<()> {
        with_slot(self.machine, &self.at, |slot| slot.load(None))?;
        self.backends.unload(&self.qdev);
        Ok(())
    }

    fn insert(&mut self, disk: block::Disk) -> Result<()> {
        with_slot(self.machine, &self.at, |slot| slot.load(Some(disk)))
    }
}

/// Does one command.
pub(crate) fn run(vm: &Arc<RheaVm>, name: &str, a: &Arguments) -> Result<Value> {
    let device = text(a, "id").or_else(|| text(a, "device"));
    let device = device.ok_or_else(|| anyhow!("argument 'id' is missing"))?.to_owned();
    let force = a.get("force").and_then(Value::as_bool).unwrap_or(false);
    let mut backends = vm.backends.lock();
    let (qdev, at) = backends.slot(&device)?;
    let mut t = Target { machine: &vm.machine, backends: &mut backends, name: device, qdev, at };
    match name {
        "eject" => {
            t.open(force)?;
            t.remove()?;
        }
        "blockdev-open-tray" => match t.tray()? {
            Some(_) => t.open(force)?,
            None => bail!("Device '{}' does not have a tray", t.name),
        },
        "blockdev-close-tray" => match t.tray()? {
            Some(_) => t.close()?,
            None => bail!("Device '{}' does not have a tray", t.name),
        },
        "blockdev-remove-medium" => {
            t.needs_open_tray()?;
            t.remove()?;
        }
        "blockdev-insert-medium" => {
            let node = needed(a, "node-name")?;
            t.needs_open_tray()?;
            if t.backends.is_loaded(&t.qdev) {
                bail!("There already is a medium in device '{}'", t.name);
            }
            let disk = t.backends.load_node(&t.qdev, node)?;
            t.insert(disk)?;
        }
        _ => change(&mut t, a, force)?,
    }
    Ok(json!({}))
}

/// `blockdev-change-medium`: all that has to be done, or nothing if the new medium cannot be had.
fn change(t: &mut Target<'_>, a: &Arguments, force: bool) -> Result<()> {
    let cd = t.tray()?.is_some();
    let readonly = match text(a, "read-only-mode") {
        None | Some("retain") => cd,
        Some("read-only") => true,
        Some("read-write") => false,
        Some(other) => {
            bail!("argument 'read-only-mode': '{other}', expected retain, read-only or read-write")
        }
    };
    let drive = Drive {
        file: Some(needed(a, "filename")?.to_owned()),
        format: text(a, "format").map(str::to_owned),
        readonly,
        ..Drive::default()
    };
    // The old medium stays if the new one cannot be had, so that is opened beside it first.
    let edge = t.backends.graph.drive(&drive, &t.qdev, false)?;
    if let Err(e) = t.open(force) {
        let node = edge.node().name().to_owned();
        drop(edge);
        t.backends.graph.let_drive_go(&node);
        return Err(e);
    }
    t.remove()?;
    let disk = t.backends.load(&t.qdev, edge, readonly);
    t.insert(disk)?;
    t.close()
}
