//! Hosts where no device can be plugged yet: virtio's rings are for Unix hosts.

use std::sync::Arc;

use anyhow::{Result, bail};
use block::Disk;
use control::VmConfig;
use device::CharBackend;
use machines::{BoardKind, BootDrive, Plugged, PluggedIsa, PluggedPci};
use storage::{FloppyDrive, IdeDrive};

use crate::backends::Backends;
use crate::chardevs::Chars;

/// A property that names a back end or a place: name, type, what it is.
pub(crate) type Extra = (&'static str, &'static str, &'static str);

/// A device driver that can be plugged.
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    pub(crate) category: &'static str,
    pub(crate) bus: &'static str,
    pub(crate) extra: &'static [Extra],
}

/// What PCI functions are plugged into.
pub(crate) const PCI: &str = "PCI";

/// Properties of every PCI function.
pub(crate) const PCI_EXTRA: &[Extra] = &[];

/// There is none.
pub(crate) fn drivers() -> Vec<Driver> {
    Vec::new()
}

/// What is plugged.
#[derive(Default)]
pub(crate) struct Plugs {
    pub(crate) virtio: Vec<Plugged>,
    pub(crate) isa: Vec<PluggedIsa>,
    pub(crate) pci: Vec<PluggedPci>,
    pub(crate) ide: Vec<(usize, IdeDrive)>,
    pub(crate) floppies: [Option<FloppyDrive>; 2],
    pub(crate) serials: Vec<Option<Arc<dyn CharBackend>>>,
    pub(crate) boot_drives: Vec<(u32, BootDrive)>,
    pub(crate) flash: Vec<(usize, Disk)>,
}

/// Nothing, when nothing is asked for.
pub(crate) fn plug(config: &VmConfig, chars: &Chars, _: &mut Backends, _: &BoardKind) -> Result<Plugs> {
    if let Some(device) = config.devices.iter().find(|d| !crate::cpus::is_cpu(&d.driver)) {
        bail!("-device {}: this host has no devices to plug", device.driver);
    }
    if !config.drives.is_empty() || !config.nics.is_empty() {
        bail!("drives and network cards need devices that are for Unix hosts");
    }
    if config.parallels.iter().any(Option::is_some) {
        bail!("-parallel: ports need devices that are for Unix hosts");
    }
    Ok(Plugs { serials: chars.serials(config)?, ..Plugs::default() })
}

/// Nothing comes or goes either.
pub(crate) mod hot {
    use std::sync::Arc;

    use control::VmConfig;
    use control::config::DeviceConfig;
    use control::vm::VmError;
    use machines::BoardKind;
    use machines::hotplug::HotPlug;

    use super::Plugs;
    use crate::vm::RheaVm;

    /// Nothing is to be known.
    pub(crate) struct Hot;

    impl Hot {
        pub(crate) fn new(_: &VmConfig, _: &BoardKind, _: u32, _: HotPlug, _: &mut Plugs) -> Self {
            Hot
        }
    }

    /// `device_add`.
    pub(crate) fn add(_: &RheaVm, device: &DeviceConfig) -> Result<(), VmError> {
        Err(VmError::Failed(format!("'{}' is not a valid device model name", device.driver)))
    }

    /// `device_del`.
    pub(crate) fn remove(_: &RheaVm, id: &str) -> Result<(), VmError> {
        Err(VmError::DeviceNotFound(id.into()))
    }

    /// Nobody has anything to let go of.
    pub(crate) fn finish(_: &RheaVm) {}

    /// Shared by the machine's owner.
    pub(crate) type Shared = Arc<parking_lot::Mutex<Hot>>;
}
