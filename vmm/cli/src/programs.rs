//! What runs programs: the engine, once a guest crate.

use accel::arch::GuestArch;
use tcg_engine::{Guest, direct::new_machine};
use tcg_guest_riscv::Riscv;
use tcg_guest_x86::X86;

/// These architectures.
pub(crate) fn all(archs: &[GuestArch]) -> Vec<user::Guest> {
    archs
        .iter()
        .map(|&arch| match arch {
            GuestArch::X86_64 | GuestArch::I386 => {
                user::Guest { arch, make: new_machine::<X86>, models: X86::cpu_models }
            }
            _ => user::Guest { arch, make: new_machine::<Riscv>, models: Riscv::cpu_models },
        })
        .collect()
}
