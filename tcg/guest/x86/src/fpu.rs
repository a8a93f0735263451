//! x87 and MMX helpers (SDM volume 1, chapters 8 and 9).

use tcg_ir::{Effects, SlotSet};

use crate::{debug, helpers::helpers, state};

helpers! {
    base debug::FIRST + debug::COUNT;

    /// An MMX instruction: all registers are in use, and MMX register `written`, if it is one, gets the exponent of a NaN.
    MmxEnter "mmx_enter" (written) -> Void
        reads SlotSet::None, writes SlotSet::Only(&[state::X87_TOP]), effects Effects::empty();
        |cx| {
            let x87 = &mut cx.state.x87;
            (x87.top, x87.ftw) = (0, 0xff);
            if let Some(r) = x87.regs.get_mut(written as usize) {
                r[1] = 0xffff;
            }
            Ok(0)
        }

    /// EMMS: all registers are free.
    Emms "emms" () -> Void
        reads SlotSet::None, writes SlotSet::Only(&[state::X87_TOP]), effects Effects::empty();
        |cx| {
            (cx.state.x87.top, cx.state.x87.ftw) = (0, 0);
            Ok(0)
        }
}
