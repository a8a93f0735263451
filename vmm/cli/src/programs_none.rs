//! Hosts that run no programs.

use accel::arch::GuestArch;

/// None.
pub(crate) fn all(_: &[GuestArch]) -> Vec<user::Guest> {
    Vec::new()
}
