//! Every guest architecture of the translator, for machines and for programs.

use accel::{Accelerator, arch::GuestArch};
use tcg_engine::Tcg;
use tcg_guest_riscv::Riscv;
use tcg_guest_x86::X86;

use crate::programs;

/// The translator, once a guest crate.
pub(crate) fn translators() -> Vec<Box<dyn Accelerator>> {
    vec![Box::new(Tcg::<Riscv>::new()), Box::new(Tcg::<X86>::new())]
}

/// Architectures whose programs user mode runs.
pub(crate) fn programs() -> Vec<user::Guest> {
    programs::all(&[GuestArch::Riscv64, GuestArch::Riscv32, GuestArch::X86_64, GuestArch::I386])
}
