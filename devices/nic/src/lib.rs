//! Network cards, one folder a chip, on a port that keeps what comes in until the card has room.

mod card;
mod checksum;
mod e1000;
mod e1000e;
mod eeprom;
mod frame;
mod intel;
mod ne2000;
mod pcnet;
mod port;
mod rtl8139;
#[cfg(test)]
mod testing;

pub use e1000::E1000Config;
pub use e1000e::E1000eConfig;
pub use ne2000::{Ne2kIsaConfig, Ne2kPciConfig};
pub use pcnet::PcnetConfig;
pub use port::NicBackend;
pub use rtl8139::Rtl8139Config;

use device::DeviceKind;
use pci::PciKind;

/// All cards on other buses than PCI.
pub const KINDS: &[DeviceKind] = &[DeviceKind::of::<Ne2kIsaConfig>()];

/// All PCI functions in this crate.
pub const PCI_KINDS: &[PciKind] = &[
    PciKind::of::<E1000Config>(),
    PciKind::of::<E1000eConfig>(),
    PciKind::of::<Ne2kPciConfig>(),
    PciKind::of::<PcnetConfig>(),
    PciKind::of::<Rtl8139Config>(),
];
