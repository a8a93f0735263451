//! MMX, SSE to SSE4.2 (SDM volume 1, chapters 9 to 12).

use iced_x86::Mnemonic;
use tcg_ir::{FpAttr, NanPolicy, Type, Value};

use super::Translator;
use crate::exceptions::{self, vector};

impl Translator<'_, '_> {
    /// Vector instructions without VEX.
    pub(super) fn sse(&mut self, _: Mnemonic) -> bool {
        false
    }

    /// Raises #UD or #NM if SSE may not be used now (SDM volume 3, 13.1); true if it may.
    pub(crate) fn sse_on(&mut self) -> bool {
        if self.mode.em || !self.mode.sse {
            self.undefined();
            return false;
        }
        self.fpu_available()
    }

    /// Raises #NM if another task's registers are in the unit; true if not.
    pub(crate) fn fpu_available(&mut self) -> bool {
        if self.mode.ts {
            self.raise(exceptions::plain(vector::NM));
            return false;
        }
        true
    }

    /// Attributes of floating-point operations under MXCSR as it is now: it is part of the unit's key.
    pub(crate) fn sse_attr(&self) -> FpAttr {
        let mut a = FpAttr::RISCV.with_nan(NanPolicy::X86).with_rounding(self.mode.rounding());
        if self.mode.mxcsr & 4 != 0 {
            a = FpAttr(a.0 | 1 << 7);
        }
        if self.mode.mxcsr & 8 != 0 {
            a = FpAttr(a.0 | 1 << 8);
        }
        a
    }

    /// Operand `n`: a vector register's low 128 bits, or 16 bytes of memory that must be aligned.
    pub(crate) fn read_v128(&mut self, n: u32) -> Value {
        if self.is_memory(n) {
            let ea = self.ea_sized(16, false);
            let m = self.mem_aligned(16);
            return self.load_op(Type::V128, m, &ea);
        }
        let r = self.insn.op_register(n).number();
        self.xmm(r)
    }
}
