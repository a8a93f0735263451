//! Serial and parallel ports, one file a chip.

mod debugcon;
mod ns16550;
mod parallel;

pub use debugcon::DebugConConfig;
pub use ns16550::Ns16550Config;
pub use parallel::ParallelConfig;

use device::DeviceKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[
    DeviceKind::of::<DebugConConfig>(),
    DeviceKind::of::<Ns16550Config>(),
    DeviceKind::of::<ParallelConfig>(),
];
