//! Shifts (SDM volume 1, 5.4.6, 5.6.3).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{Cond, Lane, Op, Type, Value};

use super::super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_shift(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let (left, signed, lane) = match m {
            M::Psllw => (true, false, Lane::I16),
            M::Pslld => (true, false, Lane::I32),
            M::Psllq => (true, false, Lane::I64),
            M::Psrlw => (false, false, Lane::I16),
            M::Psrld => (false, false, Lane::I32),
            M::Psrlq => (false, false, Lane::I64),
            M::Psraw => (false, true, Lane::I16),
            M::Psrad => (false, true, Lane::I32),
            M::Pslldq | M::Psrldq => {
                if self.vector_on() {
                    let v = self.vector(0);
                    let n = u128::from(self.imm8().min(16));
                    // Zeros come in from where the table points to nothing.
                    let bytes = (0..16u128).map(|i| {
                        let from =
                            if m == M::Pslldq { i.checked_sub(n) } else { Some(i + n).filter(|i| *i < 16) };
                        from.unwrap_or(0xff) << (8 * i)
                    });
                    let r = self.pick(v, bytes.sum());
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
        if self.insn.op_kind(1) == OpKind::Immediate8 {
            let n = u64::from(self.imm8());
            let v = self.vector(0);
            let r = match (left, signed) {
                (_, true) => self.lanes_imm(Op::Vsari, lane, v, n.min(bits - 1)),
                _ if n >= bits => {
                    let ty = self.b.ty(v);
                    self.splat(ty, Lane::I64, 0)
                }
                (true, _) => self.lanes_imm(Op::Vshli, lane, v, n),
                _ => self.lanes_imm(Op::Vshri, lane, v, n),
            };
            self.set_vector(r);
            return true;
        }
        // All 64 bits of the count matter.
        let count = self.vector(1);
        let count = self.lane(Type::I64, Lane::I64, count, 0);
        let v = self.vector(0);
        let ty = self.b.ty(v);
        let last = self.b.iconst(Type::I64, bits - 1);
        let over = self.b.setcc(Type::I64, Cond::Gtu, count, last);
        let r = if signed {
            let count = self.b.select(over, last, count);
            let count = self.b.vector(Op::Vsplat, ty, lane, 0, [count, Value::NONE, Value::NONE], 0);
            self.lanes(Op::Vsar, lane, v, count)
        } else {
            let all = self.b.vector(Op::Vsplat, ty, lane, 0, [count, Value::NONE, Value::NONE], 0);
            let r = self.lanes(if left { Op::Vshl } else { Op::Vshr }, lane, v, all);
            let gone = self.b.unary(Op::Neg, over);
            let gone = self.b.vector(Op::Vsplat, ty, Lane::I64, 0, [gone, Value::NONE, Value::NONE], 0);
            self.lanes(Op::Vandc, lane, r, gone)
        };
        self.set_vector(r);
        true
    }
}
