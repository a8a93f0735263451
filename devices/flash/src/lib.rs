//! Flash memory chips, one file a command set.

mod cfi;
mod intel;
#[cfg(test)]
mod tests;

pub use intel::PflashConfig;

use device::DeviceKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[DeviceKind::of::<PflashConfig>()];
