//! Graphics cards, one folder a card, and pictures of what they show.

mod picture;
mod vga;

pub use picture::{PictureError, PictureFormat, write_picture};
pub use vga::{CirrusConfig, IsaVgaConfig, Vga, VgaConfig};

use device::DeviceKind;
use pci::PciKind;

/// All kinds of device in this crate, but for PCI functions.
pub const KINDS: &[DeviceKind] = &[DeviceKind::of::<IsaVgaConfig>()];

/// All PCI functions in this crate.
pub const PCI_KINDS: &[PciKind] = &[PciKind::of::<VgaConfig>(), PciKind::of::<CirrusConfig>()];
