//! Interrupt controllers, one file a chip.

mod i8259;
mod ioapic;
mod lapic;
mod plic;

pub use i8259::{I8259ChipState, I8259Config, I8259State};
pub use ioapic::{IoApicConfig, IoApicState};
pub use lapic::{ApicBus, LAPIC_WORDS, LapicState, Lapics, LapicsConfig, LapicsState, MsrError};
pub use plic::PlicConfig;

use device::DeviceKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[
    DeviceKind::of::<I8259Config>(),
    DeviceKind::of::<IoApicConfig>(),
    DeviceKind::of::<LapicsConfig>(),
    DeviceKind::of::<PlicConfig>(),
];
