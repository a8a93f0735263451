//! Every guest architecture of the translator.

use accel::Accelerator;
use tcg_engine::Tcg;
use tcg_guest_riscv::Riscv;
use tcg_guest_x86::X86;

/// The translator, once a guest crate.
pub(crate) fn translators() -> Vec<Box<dyn Accelerator>> {
    vec![Box::new(Tcg::<Riscv>::new()), Box::new(Tcg::<X86>::new())]
}
