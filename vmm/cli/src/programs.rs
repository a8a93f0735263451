//! What runs programs: the engine, once a guest crate.

use accel::arch::GuestArch;
use tcg_engine::{Guest, direct::new_machine};
use tcg_guest_riscv::Riscv;

/// These architectures.
pub(crate) fn all(archs: &[GuestArch]) -> Vec<user::Guest> {
    archs
        .iter()
        .map(|arch| user::Guest { arch: *arch, make: new_machine::<Riscv>, models: Riscv::cpu_models })
        .collect()
}
