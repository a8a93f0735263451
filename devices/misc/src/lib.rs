//! Small chips that fit nowhere else, one file a chip.

mod fw_cfg;
mod i6300esb;
mod ib700;
mod isa_debug_exit;
mod port92;
mod pvpanic;
mod pvpanic_pci;
mod sifive_test;

pub use fw_cfg::{FwCfgConfig, FwCfgError, FwCfgTable};
pub use i6300esb::I6300EsbConfig;
pub use ib700::Ib700Config;
pub use isa_debug_exit::IsaDebugExitConfig;
pub use port92::Port92Config;
pub use pvpanic::PvpanicConfig;
pub use pvpanic_pci::PvpanicPciConfig;
pub use sifive_test::SifiveTestConfig;

use device::DeviceKind;
use pci::PciKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[
    DeviceKind::of::<FwCfgConfig>(),
    DeviceKind::of::<Ib700Config>(),
    DeviceKind::of::<IsaDebugExitConfig>(),
    DeviceKind::of::<Port92Config>(),
    DeviceKind::of::<PvpanicConfig>(),
    DeviceKind::of::<SifiveTestConfig>(),
];

/// All PCI functions in this crate.
pub const PCI_KINDS: &[PciKind] = &[PciKind::of::<I6300EsbConfig>(), PciKind::of::<PvpanicPciConfig>()];
