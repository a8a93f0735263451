//! Every guest architecture of the translator.

use accel::Accelerator;
use tcg_engine::Tcg;
use tcg_guest_riscv::Riscv;

/// The translator, once a guest crate.
pub(crate) fn translators() -> Vec<Box<dyn Accelerator>> {
    vec![Box::new(Tcg::<Riscv>::new())]
}
