//! Helpers of vector instructions: what the IR cannot say (SDM volume 1, chapters 10 to 14).

use tcg_engine::Trap;
use tcg_ir::{MemOp, SlotSet};

use crate::{
    fpu,
    helpers::{RAISES_MEMORY, helpers},
    mode,
};

helpers! {
    base fpu::FIRST + fpu::COUNT;

    /// Stores those bytes of `data` at `at` whose bits are in `mask`.
    MaskStore "mask_store" (at, data, mask) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            let m = MemOp::new(0).with_mmu(mode::data_mmu(cx.state));
            for n in (0..8).filter(|n| mask >> n & 1 != 0) {
                let at = at.wrapping_add(n);
                let at = if cx.state.code64() { at } else { at & 0xffff_ffff };
                cx.store(at, m, data >> (8 * n) & 0xff)?;
            }
            Ok::<u64, Trap>(0)
        }
}
