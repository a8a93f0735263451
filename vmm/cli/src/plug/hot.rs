//! Devices that are plugged and taken away while the machine runs: `device_add` and `device_del`.
//!
//! Functions on PCI come and go with the guest's help: it is told, and it lets go. Drives on a SCSI adapter come and go at
//! once, and the guest is told.
//!
//! Locks: what is here, then the back ends, then a device.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use control::VmConfig;
use control::config::{DeviceConfig, GlobalProperty};
use control::vm::{Event, VmError};
use machine::Machine;
use machines::hotplug::HotPlug;
use machines::{BoardKind, PluggedPci};
use serde_json::json;
use storage::{ScsiBus, ScsiDrive};

use super::{Made, PCI, Plugs, ScsiPlace, Shop, Unplaced, make, note};
use crate::backends::{Backends, Peripheral, SlotAt};
use crate::chardevs::Chars;
use crate::vm::RheaVm;

/// What plugging needs to know of how the machine was made.
pub(crate) struct Hot {
    board: &'static BoardKind,
    slots: HotPlug,
    scsi: Vec<(String, ScsiBus)>,
    drives: Vec<ScsiPlace>,
    globals: Vec<GlobalProperty>,
    dirs: Vec<String>,
    vcpus: u32,
    /// Devices so far that nobody gave a name.
    unnamed: usize,
}

impl Hot {
    /// Takes from the plugs what later ones need.
    pub(crate) fn new(
        config: &VmConfig,
        board: &'static BoardKind,
        vcpus: u32,
        slots: HotPlug,
        plugs: &mut Plugs,
    ) -> Self {
        Self {
            board,
            slots,
            scsi: std::mem::take(&mut plugs.scsi),
            drives: std::mem::take(&mut plugs.scsi_drives),
            globals: config.globals.clone(),
            dirs: config.data_dirs.clone(),
            vcpus,
            unnamed: config.devices.len(),
        }
    }

    /// Plugs a device.
    pub(crate) fn add(
        &mut self,
        d: &DeviceConfig,
        machine: &Machine,
        backends: &mut Backends,
        chars: &Chars,
    ) -> Result<()> {
        let full = super::driver(&d.driver);
        let driver = full.map_err(|_| anyhow!("'{}' is not a valid device model name", d.driver))?;
        if let Some(id) = &d.id
            && (backends.peripherals.iter().any(|p| p.name == *id)
                || machine.devices().iter().any(|(name, _)| name == id))
        {
            bail!("Duplicate device ID '{id}'");
        }
        let scsi = driver.bus == super::drives::SCSI_BUS;
        if driver.bus == PCI {
            self.slots.accepts(machine, d.bus.as_deref())?;
        } else if !scsi {
            bail!("Bus '{}' does not support hotplugging", driver.bus);
        }
        let name = d.id.clone().unwrap_or_else(|| format!("{}.{}", d.driver, self.unnamed));
        let mut shop = Shop {
            backends: &mut *backends,
            chars,
            board: self.board,
            scsi: &mut self.scsi,
            vcpus: self.vcpus,
            globals: &self.globals,
            dirs: &self.dirs,
        };
        let done =
            make(d, &driver, &name, &mut shop).and_then(|new| self.place(&name, new, machine, backends));
        if let Err(e) = done {
            self.scsi.retain(|(adapter, _)| *adapter != name);
            backends.take_back(&name);
            return Err(e);
        }
        self.unnamed += usize::from(d.id.is_none());
        note(backends, &name, driver.name, d.id.is_some());
        Ok(())
    }

    fn place(&mut self, name: &str, new: Unplaced, machine: &Machine, backends: &mut Backends) -> Result<()> {
        let Unplaced { made, chardevs, place, .. } = new;
        match made {
            Made::Pci(function) => self.slots.plug(
                machine,
                &PluggedPci {
                    id: name.to_owned(),
                    function,
                    chardevs,
                    bus: place.bus,
                    address: place.address,
                    multifunction: place.multifunction,
                    boot_index: None,
                    boot_behind: Vec::new(),
                },
            )?,
            Made::Scsi(drive, adapter) => self.hang(name, *drive, adapter, machine, backends)?,
            Made::Device(_) | Made::Ide(..) | Made::Floppy(..) | Made::Serial(..) => {
                bail!("its bus does not support hotplugging")
            }
        }
        Ok(())
    }

    fn hang(
        &mut self,
        name: &str,
        drive: ScsiDrive,
        adapter: String,
        machine: &Machine,
        backends: &mut Backends,
    ) -> Result<()> {
        let (target, lun, cd) = (drive.target, drive.lun, drive.cd);
        let bus = self.scsi.iter().find(|(name, _)| *name == adapter);
        let (_, bus) = bus.ok_or_else(|| anyhow!("there is no adapter '{adapter}'"))?;
        bus.hang(drive.clone())?;
        if cd {
            backends.has_slot(name, SlotAt::Scsi(adapter.clone(), target, lun));
        }
        with_adapter(machine, &adapter, |a| a.plugged(&drive));
        self.drives.push(ScsiPlace { name: name.to_owned(), adapter, target, lun });
        Ok(())
    }

    /// Takes a device away, or asks the guest to let go of it: those that are gone when this returns.
    pub(crate) fn remove(&mut self, id: &str, machine: &Machine) -> Result<Vec<String>> {
        if let Some(at) = self.drives.iter().position(|d| d.name == id) {
            let ScsiPlace { name, adapter, target, lun } = self.drives.remove(at);
            if let Some((_, bus)) = self.scsi.iter().find(|(name, _)| *name == adapter) {
                bus.take_off(target, lun);
            }
            with_adapter(machine, &adapter, |a| a.unplug(target, lun));
            return Ok(vec![name]);
        }
        if !self.slots.ask(machine, id)? {
            bail!("Device '{id}' is on a bus that does not support hotplugging");
        }
        Ok(self.gone(machine))
    }

    /// What the guest has let go of and is out of the machine now, with what hung on it.
    pub(crate) fn gone(&mut self, machine: &Machine) -> Vec<String> {
        let mut all = Vec::new();
        for name in self.slots.finish(machine) {
            let of_it = self.drives.extract_if(.., |d| d.adapter == name);
            all.extend(of_it.map(|d| d.name));
            self.scsi.retain(|(adapter, _)| *adapter != name);
            all.push(name);
        }
        all
    }
}

fn with_adapter<R>(machine: &Machine, name: &str, f: impl FnOnce(&mut virtio::Scsi) -> R) -> Option<R> {
    let devices = machine.devices();
    let (_, cell) = devices.iter().find(|(n, _)| n == name)?;
    cell.with(|d| d.as_any()?.downcast_mut().map(f))
}

fn failed(e: impl std::fmt::Display) -> VmError {
    VmError::Failed(format!("{e:#}"))
}

/// `device_add`.
pub(crate) fn add(vm: &RheaVm, device: &DeviceConfig) -> Result<(), VmError> {
    if vm.migration.is_active() {
        return Err(failed("device_add not allowed while migrating"));
    }
    finish(vm);
    let _standing = vm.standing();
    let (mut hot, mut backends) = (vm.hot.lock(), vm.backends.lock());
    hot.add(device, &vm.machine, &mut backends, vm.chars()).map_err(failed)
}

/// `device_del`.
pub(crate) fn remove(vm: &RheaVm, id: &str) -> Result<(), VmError> {
    if !vm.backends.lock().peripherals.iter().any(|p| p.name == id) {
        return Err(VmError::DeviceNotFound(id.into()));
    }
    if vm.migration.is_active() {
        return Err(failed("device_del not allowed while migrating"));
    }
    let _standing = vm.standing();
    let mut hot = vm.hot.lock();
    let gone = hot.remove(id, &vm.machine).map_err(failed)?;
    settle(vm, &gone);
    Ok(())
}

/// The guest has let go of something.
pub(crate) fn finish(vm: &RheaVm) {
    let _standing = vm.standing();
    let mut hot = vm.hot.lock();
    let gone = hot.gone(&vm.machine);
    settle(vm, &gone);
}

/// Frees what the devices had, and announces that they are gone.
fn settle(vm: &RheaVm, gone: &[String]) {
    let mut backends = vm.backends.lock();
    for name in gone {
        let (path, unnamed) = (backends.path(name), |p: &Peripheral| !p.named && p.name == *name);
        let data = match backends.peripherals.iter().any(unnamed) {
            true => json!({"path": path}),
            false => json!({"device": name, "path": path}),
        };
        backends.device_gone(name);
        vm.emit(&Event::new("DEVICE_DELETED", data));
    }
}

/// Shared by the machine's owner.
pub(crate) type Shared = Arc<parking_lot::Mutex<Hot>>;
