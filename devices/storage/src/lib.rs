//! Disk, CD-ROM and floppy drives and their controllers.
//!
//! Commands are decoded in [`ata`] and [`scsi`], which know no controller; the controllers move the data. All work of
//! disks is done by [`requests`]: a slow or failing image never holds up a vCPU.

mod ahci;
mod ata;
mod floppy;
mod i8257;
mod ide;
mod media;
mod nvme;
mod requests;
pub mod scsi;

pub use ahci::{AHCI_PORTS, AhciConfig, AhciController};
pub use floppy::{FloppyConfig, FloppyController, FloppyDrive};
pub use i8257::{IsaDma, IsaDmaConfig};
pub use ide::{IDE_IRQS, IDE_PORTS, IdeController, IdeDrive, IsaIdeConfig, Piix3IdeConfig, Piix4IdeConfig};
pub use media::{Slot, Slots, Tray};
pub use nvme::NvmeConfig;
pub use scsi::{ScsiBus, ScsiDrive, TrayListener};

use device::DeviceKind;
use pci::PciKind;

/// All kinds of device in this crate, but for PCI functions.
pub const KINDS: &[DeviceKind] =
    &[DeviceKind::of::<FloppyConfig>(), DeviceKind::of::<IsaDmaConfig>(), DeviceKind::of::<IsaIdeConfig>()];

/// All PCI functions in this crate.
pub const PCI_KINDS: &[PciKind] = &[
    PciKind::of::<NvmeConfig>(),
    PciKind::of::<AhciConfig>(),
    PciKind::of::<Piix3IdeConfig>(),
    PciKind::of::<Piix4IdeConfig>(),
];
