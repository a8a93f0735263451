//! Floating-point arithmetic (SDM volume 1, 5.5.1, 5.6.1, 5.7, 10 and 11).
//!
//! With an exception unmasked an instruction is computed with the sticky flags cleared, so that what it raises itself
//! is seen before it writes its result.

use iced_x86::Mnemonic;
use tcg_ir::{FpAttr, Lane, MinMax, Op, Rounding, Type, Value, VecFn};

use super::super::Translator;
use crate::{
    exceptions::{self, vector},
    state,
};

/// Bits of MXCSR that mask exceptions begin here.
const MASKS: u64 = 7;

/// Which lanes of a register an instruction works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Scalar(Lane),
    Packed(Lane),
}

impl Shape {
    pub(crate) fn lane(self) -> Lane {
        match self {
            Shape::Scalar(l) | Shape::Packed(l) => l,
        }
    }

    pub(crate) fn ty(self) -> Type {
        if self.lane() == Lane::F32 { Type::F32 } else { Type::F64 }
    }
}

const SS: Shape = Shape::Scalar(Lane::F32);
const SD: Shape = Shape::Scalar(Lane::F64);
const PS: Shape = Shape::Packed(Lane::F32);
const PD: Shape = Shape::Packed(Lane::F64);

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_float(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let (op, packed, shape) = match m {
            M::Addss => (Op::Fadd, Op::Vfadd, SS),
            M::Addsd => (Op::Fadd, Op::Vfadd, SD),
            M::Addps => (Op::Fadd, Op::Vfadd, PS),
            M::Addpd => (Op::Fadd, Op::Vfadd, PD),
            M::Subss => (Op::Fsub, Op::Vfsub, SS),
            M::Subsd => (Op::Fsub, Op::Vfsub, SD),
            M::Subps => (Op::Fsub, Op::Vfsub, PS),
            M::Subpd => (Op::Fsub, Op::Vfsub, PD),
            M::Mulss => (Op::Fmul, Op::Vfmul, SS),
            M::Mulsd => (Op::Fmul, Op::Vfmul, SD),
            M::Mulps => (Op::Fmul, Op::Vfmul, PS),
            M::Mulpd => (Op::Fmul, Op::Vfmul, PD),
            M::Divss => (Op::Fdiv, Op::Vfdiv, SS),
            M::Divsd => (Op::Fdiv, Op::Vfdiv, SD),
            M::Divps => (Op::Fdiv, Op::Vfdiv, PS),
            M::Divpd => (Op::Fdiv, Op::Vfdiv, PD),
            M::Minss => (Op::Fmin, Op::Vfmin, SS),
            M::Minsd => (Op::Fmin, Op::Vfmin, SD),
            M::Minps => (Op::Fmin, Op::Vfmin, PS),
            M::Minpd => (Op::Fmin, Op::Vfmin, PD),
            M::Maxss => (Op::Fmax, Op::Vfmax, SS),
            M::Maxsd => (Op::Fmax, Op::Vfmax, SD),
            M::Maxps => (Op::Fmax, Op::Vfmax, PS),
            M::Maxpd => (Op::Fmax, Op::Vfmax, PD),
            M::Sqrtss => return self.square_root(SS),
            M::Sqrtsd => return self.square_root(SD),
            M::Sqrtps => return self.square_root(PS),
            M::Sqrtpd => return self.square_root(PD),
            M::Rsqrtss => return self.approximate(SS, true),
            M::Rsqrtps => return self.approximate(PS, true),
            M::Rcpss => return self.approximate(SS, false),
            M::Rcpps => return self.approximate(PS, false),
            M::Haddps => return self.horizontal(Lane::F32, Op::Vfadd),
            M::Haddpd => return self.horizontal(Lane::F64, Op::Vfadd),
            M::Hsubps => return self.horizontal(Lane::F32, Op::Vfsub),
            M::Hsubpd => return self.horizontal(Lane::F64, Op::Vfsub),
            M::Addsubps => return self.add_and_subtract(Lane::F32),
            M::Addsubpd => return self.add_and_subtract(Lane::F64),
            M::Roundss => return self.round(SS),
            M::Roundsd => return self.round(SD),
            M::Roundps => return self.round(PS),
            M::Roundpd => return self.round(PD),
            M::Dpps => return self.dot_product(Lane::F32),
            M::Dppd => return self.dot_product(Lane::F64),
            _ => return false,
        };
        if !self.sse_on() {
            return true;
        }
        let mut attr = self.sse_attr();
        if matches!(op, Op::Fmin | Op::Fmax) {
            attr = attr.with_variant(MinMax::X86 as u16);
        }
        let saved = self.begin_float();
        let r = if let Shape::Packed(lane) = shape {
            let (b, a) = (self.active_vector(1, lane), self.active_vector(0, lane));
            self.packed_float(packed, lane, attr, a, b)
        } else {
            let (b, old) = (self.scalar(1, shape), self.vector(0));
            let a = self.lane(shape.ty(), shape.lane(), old, 0);
            let (a, b) = (self.active_scalar(a), self.active_scalar(b));
            let r = self.b.fp(op, attr, a, b);
            self.with_lane(shape.lane(), old, 0, r)
        };
        self.end_float(saved);
        self.set_vector(r);
        true
    }

    /// A floating-point operation on lanes.
    pub(crate) fn packed_float(&mut self, op: Op, lane: Lane, attr: FpAttr, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(op, ty, lane, 0, [a, b, Value::NONE], attr.0.into())
    }

    /// A scalar source: lane 0 of a register, or memory.
    pub(super) fn scalar(&mut self, n: u32, shape: Shape) -> Value {
        let n = self.source(n);
        self.scalar_at(n, shape)
    }

    /// The same by the operand's own number.
    pub(crate) fn scalar_at(&mut self, n: u32, shape: Shape) -> Value {
        if self.is_memory(n) {
            if self.has_mask() {
                return self.memory_scalar(shape.ty());
            }
            let ea = self.ea_sized(shape.lane().bytes() as u64, false);
            return self.load(shape.ty(), &ea);
        }
        let v = self.read_v128(n);
        self.lane(shape.ty(), shape.lane(), v, 0)
    }

    /// A result of one source: a scalar in the lowest lane of the destination's old value, or all lanes.
    fn unary_float(&mut self, shape: Shape, attr: FpAttr, op: Op, packed: Op) {
        let saved = self.begin_float();
        let r = if let Shape::Packed(lane) = shape {
            let v = self.active_vector(1, lane);
            self.packed_float(packed, lane, attr, v, Value::NONE)
        } else {
            let (v, old) = (self.scalar(1, shape), self.vector(0));
            let v = self.active_scalar(v);
            let r = self.b.fp(op, attr, v, Value::NONE);
            self.with_lane(shape.lane(), old, 0, r)
        };
        self.end_float(saved);
        self.set_vector(r);
    }

    /// Before an instruction that may raise: the sticky flags so far, if one of them would have to be reported.
    pub(crate) fn begin_float(&mut self) -> Option<Value> {
        if !self.mode.unmasked {
            return None;
        }
        let old = self.b.fexget();
        let none = self.b.iconst(Type::I32, 0);
        self.b.fexset(none);
        Some(old)
    }

    /// Behind it, before the result is written.
    pub(crate) fn end_float(&mut self, saved: Option<Value>) {
        let Some(old) = saved else { return };
        let new = self.b.fexget();
        let all = self.b.or(old, new);
        self.b.fexset(all);
        let control = self.b.get(state::MXCSR, Type::I64);
        let control = self.b.trunc(Type::I32, control);
        let by = self.b.iconst(Type::I32, MASKS);
        let masks = self.b.shr(control, by);
        let report = self.b.binary(Op::Andc, new, masks);
        let bits = self.b.iconst(Type::I32, 0x3f);
        let report = self.b.and(report, bits);
        self.raise_if(report, exceptions::plain(vector::XM));
    }

    fn square_root(&mut self, shape: Shape) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr();
            self.unary_float(shape, attr, Op::Fsqrt, Op::Vfsqrt);
        }
        true
    }

    /// Reciprocals: the exact ones lie within the error that is allowed, and nothing is raised. Denormals count as zeros.
    fn approximate(&mut self, shape: Shape, root: bool) -> bool {
        if self.sse_on() {
            let attr =
                FpAttr(self.sse_attr().with_rounding(Rounding::NearestEven).with_quiet().0 | 1 << 7 | 1 << 8);
            let one = self.b.iconst(Type::I32, u64::from(1f32.to_bits()));
            let one = self.b.bitcast(Type::F32, one);
            let r = if let Shape::Packed(lane) = shape {
                let v = self.vector(1);
                let ty = self.b.ty(v);
                let v = if root { self.packed_float(Op::Vfsqrt, lane, attr, v, Value::NONE) } else { v };
                let ones = self.b.vector(Op::Vsplat, ty, lane, 0, [one, Value::NONE, Value::NONE], 0);
                self.packed_float(Op::Vfdiv, lane, attr, ones, v)
            } else {
                let (v, old) = (self.scalar(1, shape), self.vector(0));
                let v = if root { self.b.fp(Op::Fsqrt, attr, v, Value::NONE) } else { v };
                let r = self.b.fp(Op::Fdiv, attr, one, v);
                self.with_lane(shape.lane(), old, 0, r)
            };
            self.set_vector(r);
        }
        true
    }

    /// Neighbours of both operands.
    fn horizontal(&mut self, lane: Lane, op: Op) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr();
            let saved = self.begin_float();
            let (b, a) = (self.vector(1), self.vector(0));
            let (even, odd) = if lane == Lane::F32 {
                let mut pick = |imm| self.function(VecFn::PickTwo32, a, b, imm);
                (pick(0x88), pick(0xdd))
            } else {
                (self.function(VecFn::ZipLow64, a, b, 0), self.function(VecFn::ZipHigh64, a, b, 0))
            };
            let r = self.packed_float(op, lane, attr, even, odd);
            self.end_float(saved);
            self.set_vector(r);
        }
        true
    }

    /// Odd lanes are added, even ones subtracted. Lanes an operation is not for are zeros, which raise nothing.
    fn add_and_subtract(&mut self, lane: Lane) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr();
            let saved = self.begin_float();
            let (b, a) = (self.vector(1), self.vector(0));
            let r = self.alternate(lane, [a, b], |t, side, args| {
                let op = if side == 0 { Op::Vfsub } else { Op::Vfadd };
                t.packed_float(op, lane, attr, args[0], args[1])
            });
            self.end_float(saved);
            self.set_vector(r);
        }
        true
    }

    /// Even lanes from one operation (side 0), odd ones from another, each on operands whose other lanes are zeros.
    pub(crate) fn alternate<const N: usize>(
        &mut self,
        lane: Lane,
        args: [Value; N],
        mut make: impl FnMut(&mut Self, u8, [Value; N]) -> Value,
    ) -> Value {
        let even = if lane == Lane::F32 { 0x55 } else { 0x33 };
        let ty = self.b.ty(args[0]);
        let zero = self.splat(ty, Lane::I64, 0);
        let low = args.map(|v| self.function(VecFn::Blend32, zero, v, even));
        let high = args.map(|v| self.function(VecFn::Blend32, v, zero, even));
        let (low, high) = (make(self, 0, low), make(self, 1, high));
        self.function(VecFn::Blend32, high, low, even)
    }

    /// The sum of the products the immediate's upper half picks, in the lanes the lower half picks.
    fn dot_product(&mut self, lane: Lane) -> bool {
        if self.sse_on() {
            let (imm, attr) = (u128::from(self.imm8()), self.sse_attr());
            let saved = self.begin_float();
            let (b, a) = (self.vector(1), self.vector(0));
            let ty = self.b.ty(a);
            let bits = lane.bytes() as u32 * 8;
            let mask = |bit: u32| {
                let lanes = (0..128 / bits).filter(|n| imm >> (bit + n) & 1 != 0);
                lanes.fold(0, |m, n| m | u128::from(u64::MAX >> (64 - bits)) << (n * bits))
            };
            // Products that are not picked are those of zeros.
            let picked = self.bytes(ty, mask(4));
            let (a, b) =
                (self.lanes(Op::Vand, Lane::I8, a, picked), self.lanes(Op::Vand, Lane::I8, b, picked));
            let mut sum = self.packed_float(Op::Vfmul, lane, attr, a, b);
            // Pairs, in both their lanes; then each lane plus that of the other pair.
            if lane == Lane::F32 {
                let even = self.function1(VecFn::Pick32, sum, 0xa0);
                let odd = self.function1(VecFn::Pick32, sum, 0xf5);
                sum = self.packed_float(Op::Vfadd, lane, attr, even, odd);
            }
            let other = self.function1(VecFn::Pick32, sum, 0x4e);
            sum = self.packed_float(Op::Vfadd, lane, attr, sum, other);
            self.end_float(saved);
            let picked = self.bytes(ty, mask(0));
            let r = self.lanes(Op::Vand, Lane::I8, sum, picked);
            self.set_vector(r);
        }
        true
    }

    fn round(&mut self, shape: Shape) -> bool {
        if self.sse_on() {
            let imm = self.imm8();
            let mut attr = self.sse_attr().with_flag(imm & 8 != 0);
            if imm & 4 == 0 {
                attr = attr.with_rounding(match imm & 3 {
                    0 => Rounding::NearestEven,
                    1 => Rounding::Down,
                    2 => Rounding::Up,
                    _ => Rounding::Zero,
                });
            }
            self.unary_float(shape, attr, Op::Frint, Op::Vfrint);
        }
        true
    }
}
