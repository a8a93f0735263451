//! Integer arithmetic and logic (SDM volume 1, 5.4, 5.6.3, 5.8, 5.10).

use iced_x86::Mnemonic;
use tcg_ir::{Cond, Lane, Op, Type, Value, VecFn};

use super::super::Translator;

/// Makes the lanes of a result from those of two operands.
type Make<T> = fn(&mut T, Lane, Value, Value) -> Value;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_integer(&mut self, m: Mnemonic) -> bool {
        use Lane::{I8, I16, I32, I64};
        use Mnemonic as M;

        if let Some(ones) = self.constant_idiom(m) {
            if self.vector_on() {
                let ty = self.vector_type();
                let r = match (ones, ty) {
                    (false, Type::V128) => self.zeros(),
                    _ => self.splat(ty, I64, if ones { u64::MAX } else { 0 }),
                };
                self.set_vector(r);
            }
            return true;
        }
        let plain = match m {
            M::Paddb => Some((Op::Vadd, I8)),
            M::Paddw => Some((Op::Vadd, I16)),
            M::Paddd => Some((Op::Vadd, I32)),
            M::Paddq => Some((Op::Vadd, I64)),
            M::Psubb => Some((Op::Vsub, I8)),
            M::Psubw => Some((Op::Vsub, I16)),
            M::Psubd => Some((Op::Vsub, I32)),
            M::Psubq => Some((Op::Vsub, I64)),
            M::Pand | M::Andps | M::Andpd => Some((Op::Vand, I8)),
            M::Por | M::Orps | M::Orpd => Some((Op::Vor, I8)),
            M::Pxor | M::Xorps | M::Xorpd => Some((Op::Vxor, I8)),
            M::Pmaxub => Some((Op::Vmaxu, I8)),
            M::Pmaxuw => Some((Op::Vmaxu, I16)),
            M::Pmaxud => Some((Op::Vmaxu, I32)),
            M::Pmaxsb => Some((Op::Vmax, I8)),
            M::Pmaxsw => Some((Op::Vmax, I16)),
            M::Pmaxsd => Some((Op::Vmax, I32)),
            M::Pminub => Some((Op::Vminu, I8)),
            M::Pminuw => Some((Op::Vminu, I16)),
            M::Pminud => Some((Op::Vminu, I32)),
            M::Pminsb => Some((Op::Vmin, I8)),
            M::Pminsw => Some((Op::Vmin, I16)),
            M::Pminsd => Some((Op::Vmin, I32)),
            M::Pmullw => Some((Op::Vmul, I16)),
            M::Pmulld => Some((Op::Vmul, I32)),
            _ => None,
        };
        if let Some((op, lane)) = plain {
            if self.vector_on() {
                let (b, a) = (self.vector(1), self.vector(0));
                let r = self.lanes(op, lane, a, b);
                self.set_vector(r);
            }
            return true;
        }
        if let Some(f) = vector_function(m) {
            if self.vector_on() {
                let (b, a) = (self.vector(1), self.vector(0));
                let r = self.mmx_function(f, a, b);
                self.set_vector(r);
            }
            return true;
        }
        if let Some(f) = unary_function(m) {
            if self.vector_on() {
                let a = self.vector(1);
                let r = self.function1(f, a, 0);
                self.set_vector(r);
            }
            return true;
        }
        let (make, lane): (Make<Self>, Lane) = match m {
            M::Pandn | M::Andnps | M::Andnpd => (|t, l, a, b| t.lanes(Op::Vandc, l, b, a), I8),
            M::Pcmpeqb => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I8),
            M::Pcmpeqw => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I16),
            M::Pcmpeqd => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I32),
            M::Pcmpeqq => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I64),
            M::Pcmpgtb => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I8),
            M::Pcmpgtw => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I16),
            M::Pcmpgtd => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I32),
            M::Pcmpgtq => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I64),
            M::Pmulhw => (|t, l, a, b| t.lanes(Op::Vmulhs, l, a, b), I16),
            M::Pmulhuw => (|t, l, a, b| t.lanes(Op::Vmulhu, l, a, b), I16),
            M::Mpsadbw => (Self::sums_of_blocks, I8),
            _ => return false,
        };
        if self.vector_on() {
            let (b, a) = (self.vector(1), self.vector(0));
            let r = make(self, lane, a, b);
            self.set_vector(r);
        }
        true
    }

    /// Both sources are one register, and the result does not depend on it: all ones, or all zeros.
    fn constant_idiom(&self, m: Mnemonic) -> Option<bool> {
        use Mnemonic as M;
        let (a, b) = if self.is_vex() { (1, 2) } else { (0, 1) };
        let same = self.is_register(a)
            && self.is_register(b)
            && self.insn.op_register(a) == self.insn.op_register(b);
        match m {
            _ if !same => None,
            M::Pxor | M::Xorps | M::Xorpd | M::Psubb | M::Psubw | M::Psubd | M::Psubq | M::Pandn => {
                Some(false)
            }
            M::Pcmpgtb | M::Pcmpgtw | M::Pcmpgtd | M::Pcmpgtq | M::Andnps | M::Andnpd => Some(false),
            M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpeqq => Some(true),
            _ => None,
        }
    }

    /// All ones in lanes where the condition holds.
    pub(crate) fn compared(&mut self, cond: Cond, lane: Lane, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vcmp, ty, lane, cond as u16, [a, b, Value::NONE], 0)
    }

    /// A function of two operands; those of blocks are computed on MMX registers with both operands in one block, the
    /// halves of whose result are as the function has them.
    fn mmx_function(&mut self, f: VecFn, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        if f.scope().allows(ty) {
            return self.function(f, a, b, 0);
        }
        let both = self.b.vector(Op::Vjoin, Type::V128, Lane::I8, 0, [a, b, Value::NONE], 0);
        let r = self.function(f, both, both, 0);
        self.b.vector(Op::Vpart, Type::V64, Lane::I8, 0, [r, Value::NONE, Value::NONE], 0)
    }

    fn sums_of_blocks(&mut self, _: Lane, a: Value, b: Value) -> Value {
        let imm = u64::from(self.imm8());
        self.function(VecFn::SadBlocks, a, b, imm)
    }
}

/// Instructions that are one function of two operands.
fn vector_function(m: Mnemonic) -> Option<VecFn> {
    use Mnemonic as M;
    Some(match m {
        M::Paddusb => VecFn::AddU8,
        M::Paddusw => VecFn::AddU16,
        M::Psubusb => VecFn::SubU8,
        M::Psubusw => VecFn::SubU16,
        M::Paddsb => VecFn::AddS8,
        M::Paddsw => VecFn::AddS16,
        M::Psubsb => VecFn::SubS8,
        M::Psubsw => VecFn::SubS16,
        M::Pavgb => VecFn::Avg8,
        M::Pavgw => VecFn::Avg16,
        M::Pmuludq => VecFn::MulU32,
        M::Pmuldq => VecFn::MulS32,
        M::Pmaddwd => VecFn::MulAdd16,
        M::Pmaddubsw => VecFn::MulAdd8,
        M::Pmulhrsw => VecFn::MulRound16,
        M::Psadbw => VecFn::Sad8,
        M::Psignb => VecFn::Sign8,
        M::Psignw => VecFn::Sign16,
        M::Psignd => VecFn::Sign32,
        M::Phaddw => VecFn::AddPairs16,
        M::Phaddd => VecFn::AddPairs32,
        M::Phaddsw => VecFn::AddPairsS16,
        M::Phsubw => VecFn::SubPairs16,
        M::Phsubd => VecFn::SubPairs32,
        M::Phsubsw => VecFn::SubPairsS16,
        M::Packsswb => VecFn::PackS16,
        M::Packssdw => VecFn::PackS32,
        M::Packuswb => VecFn::PackU16,
        M::Packusdw => VecFn::PackU32,
        _ => return None,
    })
}

/// Instructions that are one function of their source.
fn unary_function(m: Mnemonic) -> Option<VecFn> {
    use Mnemonic as M;
    Some(match m {
        M::Pabsb => VecFn::Abs8,
        M::Pabsw => VecFn::Abs16,
        M::Pabsd => VecFn::Abs32,
        M::Phminposuw => VecFn::Least16,
        _ => return None,
    })
}
