//! Network cards, one folder a chip, on a port that keeps what comes in until the card has room.

mod checksum;
mod e1000;
mod port;

pub use e1000::E1000Config;
pub use port::NicBackend;

use pci::PciKind;

/// All PCI functions in this crate.
pub const PCI_KINDS: &[PciKind] = &[PciKind::of::<E1000Config>()];
