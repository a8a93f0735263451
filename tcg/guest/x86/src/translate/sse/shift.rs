//! Shifts (SDM volume 1, 5.4.6, 5.6.3).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{Lane, Op, Type, Value, VecFn};

use super::super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_shift(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let (by_all, lane) = match m {
            M::Psllw => (VecFn::Shl16, Lane::I16),
            M::Pslld => (VecFn::Shl32, Lane::I32),
            M::Psllq => (VecFn::Shl64, Lane::I64),
            M::Psrlw => (VecFn::Shr16, Lane::I16),
            M::Psrld => (VecFn::Shr32, Lane::I32),
            M::Psrlq => (VecFn::Shr64, Lane::I64),
            M::Psraw => (VecFn::Sar16, Lane::I16),
            M::Psrad => (VecFn::Sar32, Lane::I32),
            M::Pslldq | M::Psrldq => {
                if self.vector_on() {
                    let (v, n) = (self.vector(0), u64::from(self.imm8()));
                    let f = if m == M::Pslldq { VecFn::ShlBytes } else { VecFn::ShrBytes };
                    let r = self.function1(f, v, n);
                    self.set_vector(r);
                }
                return true;
            }
            _ => return false,
        };
        if !self.vector_on() {
            return true;
        }
        let bits = lane.bytes() as u64 * 8;
        let ty = self.vector_type();
        let last = self.insn.op_count() - 1;
        if self.insn.op_kind(last) == OpKind::Immediate8 {
            let n = u64::from(self.imm8());
            let v = self.vector(0);
            let r = match by_all {
                VecFn::Sar16 | VecFn::Sar32 => self.lanes_imm(Op::Vsari, lane, v, n.min(bits - 1)),
                _ if n >= bits => self.splat(ty, Lane::I64, 0),
                VecFn::Shl16 | VecFn::Shl32 | VecFn::Shl64 => self.lanes_imm(Op::Vshli, lane, v, n),
                _ => self.lanes_imm(Op::Vshri, lane, v, n),
            };
            self.set_vector(r);
            return true;
        }
        // The count is the low 64 bits of an operand that has at most 128.
        let n = self.source(1);
        let count = self.shift_count(n, if ty == Type::V64 { ty } else { Type::V128 });
        let count = self.padded(ty, count);
        let v = self.vector(0);
        let r = self.function(by_all, v, count, 0);
        self.set_vector(r);
        true
    }

    /// The operand that has the count, which no mask changes.
    pub(crate) fn shift_count(&mut self, n: u32, ty: Type) -> Value {
        if self.is_evex() && self.is_memory(n) {
            let ea = self.ea_sized(16, false);
            return self.load(ty, &ea);
        }
        self.read_vector(n, ty)
    }
}
