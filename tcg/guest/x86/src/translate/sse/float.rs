//! Floating-point arithmetic (SDM volume 1, 5.5.1, 5.6.1, 5.7, 10 and 11).
//!
//! With an exception unmasked an instruction is computed with the sticky flags cleared, so that what it raises itself
//! is seen before it writes its result.

use iced_x86::Mnemonic;
use tcg_ir::{Cond, FpAttr, Lane, MinMax, Op, Rounding, Type, Value};

use super::super::Translator;
use crate::{
    exceptions::{self, vector},
    state,
};

/// Bits of MXCSR that mask exceptions begin here.
const MASKS: u64 = 7;

/// Which lanes of a register an instruction works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar(Lane),
    Packed(Lane),
}

impl Shape {
    pub(super) fn lane(self) -> Lane {
        match self {
            Shape::Scalar(l) | Shape::Packed(l) => l,
        }
    }

    pub(super) fn ty(self) -> Type {
        if self.lane() == Lane::F32 { Type::F32 } else { Type::F64 }
    }

    pub(super) fn count(self) -> u64 {
        match self {
            Shape::Scalar(_) => 1,
            Shape::Packed(l) => 16 / l.bytes() as u64,
        }
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
            M::Minss => return self.min_max(Op::Fmin, SS),
            M::Minsd => return self.min_max(Op::Fmin, SD),
            M::Minps => return self.min_max(Op::Fmin, PS),
            M::Minpd => return self.min_max(Op::Fmin, PD),
            M::Maxss => return self.min_max(Op::Fmax, SS),
            M::Maxsd => return self.min_max(Op::Fmax, SD),
            M::Maxps => return self.min_max(Op::Fmax, PS),
            M::Maxpd => return self.min_max(Op::Fmax, PD),
            M::Sqrtss => return self.square_root(SS),
            M::Sqrtsd => return self.square_root(SD),
            M::Sqrtps => return self.square_root(PS),
            M::Sqrtpd => return self.square_root(PD),
            M::Rsqrtss => return self.approximate(SS, true),
            M::Rsqrtps => return self.approximate(PS, true),
            M::Rcpss => return self.approximate(SS, false),
            M::Rcpps => return self.approximate(PS, false),
            M::Haddps => return self.horizontal(PS, Op::Fadd),
            M::Haddpd => return self.horizontal(PD, Op::Fadd),
            M::Hsubps => return self.horizontal(PS, Op::Fsub),
            M::Hsubpd => return self.horizontal(PD, Op::Fsub),
            M::Addsubps => return self.add_and_subtract(PS),
            M::Addsubpd => return self.add_and_subtract(PD),
            M::Roundss => return self.round(SS),
            M::Roundsd => return self.round(SD),
            M::Roundps => return self.round(PS),
            M::Roundpd => return self.round(PD),
            M::Dpps => return self.dot_product(PS),
            M::Dppd => return self.dot_product(PD),
            _ => return false,
        };
        if !self.sse_on() {
            return true;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let r = if let Shape::Packed(lane) = shape {
            let (b, a) = (self.vector(1), self.vector(0));
            self.b.vector(packed, Type::V128, lane, 0, [a, b, Value::NONE], attr.0.into())
        } else {
            let (b, old) = (self.scalar(1, shape), self.vector(0));
            let a = self.lane(shape.ty(), shape.lane(), old, 0);
            let r = self.b.fp(op, attr, a, b);
            self.with_lane(shape.lane(), old, 0, r)
        };
        self.end_float(saved);
        self.set_vector(r);
        true
    }

    /// A scalar operand: lane 0 of a register, or memory.
    pub(super) fn scalar(&mut self, n: u32, shape: Shape) -> Value {
        if self.is_memory(n) {
            let ea = self.ea_sized(shape.lane().bytes() as u64, false);
            return self.load(shape.ty(), &ea);
        }
        let v = self.read_v128(n);
        self.lane(shape.ty(), shape.lane(), v, 0)
    }

    /// Lanes of operand `n`: all of them, or the scalar alone.
    pub(super) fn all_lanes(&mut self, n: u32, shape: Shape) -> Vec<Value> {
        if let Shape::Scalar(_) = shape {
            return vec![self.scalar(n, shape)];
        }
        let v = self.vector(n);
        (0..shape.count()).map(|i| self.lane(shape.ty(), shape.lane(), v, i)).collect()
    }

    /// Puts results into the lanes of the destination's old value.
    pub(super) fn set_lanes(&mut self, lane: Lane, results: &[Value]) {
        let mut v = self.vector(0);
        for (i, r) in results.iter().enumerate() {
            v = self.with_lane(lane, v, i as u64, *r);
        }
        self.set_vector(v);
    }

    /// Before an instruction that may raise: the sticky flags so far, if one of them would have to be reported.
    pub(super) fn begin_float(&mut self) -> Option<Value> {
        if !self.mode.unmasked {
            return None;
        }
        let old = self.b.fexget();
        let none = self.b.iconst(Type::I32, 0);
        self.b.fexset(none);
        Some(old)
    }

    /// Behind it, before the result is written.
    pub(super) fn end_float(&mut self, saved: Option<Value>) {
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

    fn min_max(&mut self, op: Op, shape: Shape) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr().with_variant(MinMax::X86 as u16);
            let saved = self.begin_float();
            let (b, a) = (self.all_lanes(1, shape), self.first_lanes(shape));
            let r: Vec<Value> = a.iter().zip(&b).map(|(a, b)| self.b.fp(op, attr, *a, *b)).collect();
            self.end_float(saved);
            self.set_lanes(shape.lane(), &r);
        }
        true
    }

    /// Lanes of the destination.
    fn first_lanes(&mut self, shape: Shape) -> Vec<Value> {
        let v = self.vector(0);
        (0..shape.count()).map(|i| self.lane(shape.ty(), shape.lane(), v, i)).collect()
    }

    fn square_root(&mut self, shape: Shape) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr();
            let saved = self.begin_float();
            let a = self.all_lanes(1, shape);
            let r: Vec<Value> = a.iter().map(|a| self.b.fp(Op::Fsqrt, attr, *a, Value::NONE)).collect();
            self.end_float(saved);
            self.set_lanes(shape.lane(), &r);
        }
        true
    }

    /// Reciprocals: the exact ones lie within the error that is allowed, and nothing is raised. Denormals count as zeros.
    fn approximate(&mut self, shape: Shape, root: bool) -> bool {
        if self.sse_on() {
            let attr =
                FpAttr(self.sse_attr().with_rounding(Rounding::NearestEven).with_quiet().0 | 1 << 7 | 1 << 8);
            let a = self.all_lanes(1, shape);
            let one = self.b.iconst(Type::I32, u64::from(1f32.to_bits()));
            let one = self.b.bitcast(Type::F32, one);
            let mut r = Vec::new();
            for a in a {
                let a = if root { self.b.fp(Op::Fsqrt, attr, a, Value::NONE) } else { a };
                r.push(self.b.fp(Op::Fdiv, attr, one, a));
            }
            self.set_lanes(shape.lane(), &r);
        }
        true
    }

    /// Neighbours of both operands.
    fn horizontal(&mut self, shape: Shape, op: Op) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr();
            let saved = self.begin_float();
            let (b, a) = (self.all_lanes(1, shape), self.first_lanes(shape));
            let both: Vec<Value> = a.into_iter().chain(b).collect();
            let r: Vec<Value> = both.chunks(2).map(|p| self.b.fp(op, attr, p[0], p[1])).collect();
            self.end_float(saved);
            self.set_lanes(shape.lane(), &r);
        }
        true
    }

    fn add_and_subtract(&mut self, shape: Shape) -> bool {
        if self.sse_on() {
            let attr = self.sse_attr();
            let saved = self.begin_float();
            let (b, a) = (self.all_lanes(1, shape), self.first_lanes(shape));
            let mut r = Vec::new();
            for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                r.push(self.b.fp(if i % 2 == 0 { Op::Fsub } else { Op::Fadd }, attr, a, b));
            }
            self.end_float(saved);
            self.set_lanes(shape.lane(), &r);
        }
        true
    }

    /// The sum of the products the immediate's upper half picks, in the lanes the lower half picks.
    fn dot_product(&mut self, shape: Shape) -> bool {
        if self.sse_on() {
            let (imm, attr) = (self.imm8(), self.sse_attr());
            let saved = self.begin_float();
            let (b, a) = (self.all_lanes(1, shape), self.first_lanes(shape));
            let zero = self.b.iconst(if shape.ty() == Type::F32 { Type::I32 } else { Type::I64 }, 0);
            let zero = self.b.bitcast(shape.ty(), zero);
            let mut sums = Vec::new();
            for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                sums.push(if imm >> (4 + i) & 1 != 0 { self.b.fp(Op::Fmul, attr, a, b) } else { zero });
            }
            while sums.len() > 1 {
                sums = sums.chunks(2).map(|p| self.b.fp(Op::Fadd, attr, p[0], p[1])).collect();
            }
            self.end_float(saved);
            let picked = |i: u64| if imm >> i & 1 != 0 { sums[0] } else { zero };
            let r: Vec<Value> = (0..shape.count()).map(picked).collect();
            self.set_lanes(shape.lane(), &r);
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
            let saved = self.begin_float();
            let a = self.all_lanes(1, shape);
            let r: Vec<Value> = a.iter().map(|a| self.b.fp(Op::Frint, attr, *a, Value::NONE)).collect();
            self.end_float(saved);
            self.set_lanes(shape.lane(), &r);
        }
        true
    }

    /// A condition as an i64, for flags.
    pub(super) fn flag_if(&mut self, cond: Value, bit: u64) -> Value {
        let zero = self.b.iconst(Type::I64, 0);
        let v = self.b.setcc(Type::I64, Cond::Ne, cond, zero);
        let n = self.b.iconst(Type::I64, bit);
        self.b.shl(v, n)
    }
}
