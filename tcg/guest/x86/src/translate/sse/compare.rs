//! Comparisons of floating-point numbers, and tests (SDM volume 1, 5.5.1.3, 5.6.1.3, 5.10.4).

use iced_x86::Mnemonic;
use tcg_ir::{Cond, FCond, FpAttr, Lane, Op, Type, Value};

use super::super::{Translator, flags::Floats};
use super::float::Shape;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_compare(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Ucomiss => self.compare_flags(Shape::Scalar(Lane::F32), false),
            M::Ucomisd => self.compare_flags(Shape::Scalar(Lane::F64), false),
            M::Comiss => self.compare_flags(Shape::Scalar(Lane::F32), true),
            M::Comisd => self.compare_flags(Shape::Scalar(Lane::F64), true),
            M::Cmpss => self.compare_mask(Shape::Scalar(Lane::F32)),
            M::Cmpsd if !self.insn.is_string_instruction() => self.compare_mask(Shape::Scalar(Lane::F64)),
            M::Cmpps => self.compare_mask(Shape::Packed(Lane::F32)),
            M::Cmppd => self.compare_mask(Shape::Packed(Lane::F64)),
            M::Ptest => self.test(None),
            _ => return false,
        }
        true
    }

    /// Flags of both operands: Z says that they have no bit in common, C that the first has all of the second; of
    /// lanes' signs alone if there is a lane.
    pub(crate) fn test(&mut self, signs: Option<Lane>) {
        if !self.sse_on() {
            return;
        }
        let ty = self.vector_type();
        let (b, a) = (self.read_vector(1, ty), self.read_vector(0, ty));
        let common = self.lanes(Op::Vand, Lane::I8, b, a);
        let missing = self.lanes(Op::Vandc, Lane::I8, b, a);
        let z = self.is_zero(common, signs);
        let c = self.is_zero(missing, signs);
        let one = self.b.iconst(Type::I64, 1);
        let z = self.b.shl(z, one);
        let bits = self.b.or(z, c);
        self.set_flags_bits(bits);
    }

    /// 1 if no bit is set, or no sign of a lane.
    fn is_zero(&mut self, v: Value, signs: Option<Lane>) -> Value {
        let (v, lane, none) = match signs {
            Some(lane) => (v, lane, 0),
            None => {
                let ty = self.b.ty(v);
                let zero = self.splat(ty, Lane::I64, 0);
                let same = self.compared(Cond::Eq, Lane::I32, v, zero);
                (same, Lane::I32, (1 << (ty.bytes() / 4)) - 1)
            }
        };
        let bits = self.b.vector(Op::Vbits, Type::I32, lane, 0, [v, Value::NONE, Value::NONE], 0);
        let none = self.b.iconst(Type::I32, none);
        self.b.setcc(Type::I64, Cond::Eq, bits, none)
    }

    /// Z, P and C say equal or less; all of them that the numbers cannot be compared.
    fn compare_flags(&mut self, shape: Shape, signalling: bool) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr().with_flag(signalling);
        let saved = self.begin_float();
        let b = self.scalar_at(1, shape);
        let a = self.scalar_at(0, shape);
        // For what it raises; the same question is what is asked most.
        let greater = self.b.fcmp(Type::I8, attr, FCond::Lt, b, a);
        self.end_float(saved);
        let int = if shape.lane() == Lane::F32 { Type::I32 } else { Type::I64 };
        let ops = [self.b.bitcast(int, a), self.b.bitcast(int, b), self.b.iconst(int, attr.daz().into())];
        self.set_flags_floats(ops, Floats { a, b, greater, signalling });
    }

    /// A condition of numbers compared before.
    pub(crate) fn compared_floats(&mut self, cond: Cond, floats: Floats) -> Option<Value> {
        let Floats { a, b, greater, signalling } = floats;
        let attr = self.sse_attr().with_flag(signalling);
        let mut ask = |cond: FCond, x, y| self.b.fcmp(Type::I8, attr, cond, x, y);
        let (holds, negated) = match cond {
            Cond::Gtu | Cond::Leu => (greater, cond == Cond::Leu),
            Cond::Geu | Cond::Ltu => (ask(FCond::Le, b, a), cond == Cond::Ltu),
            Cond::ParE | Cond::ParO => (ask(FCond::Un, a, b), cond == Cond::ParO),
            Cond::Eq | Cond::Ne => {
                let (equal, un) = (ask(FCond::Eq, a, b), ask(FCond::Un, a, b));
                (self.b.or(equal, un), cond == Cond::Ne)
            }
            _ => return None,
        };
        Some(if negated { self.not(holds) } else { holds })
    }

    /// CMPPS and its kin: a mask of ones where the predicate holds (SDM volume 2, table 3-1).
    fn compare_mask(&mut self, shape: Shape) {
        if !self.sse_on() {
            return;
        }
        let kind = self.insn.immediate8() & if self.is_vex() { 31 } else { 7 };
        let predicate = Predicate::of(kind);
        let attr = self.sse_attr().with_flag(predicate.signalling);
        let saved = self.begin_float();
        let lane = if shape.lane() == Lane::F32 { Lane::I32 } else { Lane::I64 };
        let r = match shape {
            Shape::Packed(lane) => {
                let (b, a) = (self.vector(1), self.vector(0));
                self.packed_mask(lane, attr, predicate, a, b)
            }
            Shape::Scalar(_) => {
                let (b, old) = (self.scalar(1, shape), self.vector(0));
                let a = self.lane(shape.ty(), shape.lane(), old, 0);
                let mask = self.scalar_mask(attr, predicate, a, b);
                self.with_lane(lane, old, 0, mask)
            }
        };
        self.end_float(saved);
        self.set_vector(r);
    }

    /// The same by the predicate's number.
    pub(crate) fn packed_compared(
        &mut self,
        lane: Lane,
        attr: FpAttr,
        kind: u8,
        a: Value,
        b: Value,
    ) -> Value {
        let p = Predicate::of(kind);
        self.packed_mask(lane, attr.with_flag(p.signalling), p, a, b)
    }

    /// The same of scalars.
    pub(crate) fn scalar_compared(&mut self, attr: FpAttr, kind: u8, a: Value, b: Value) -> Value {
        let p = Predicate::of(kind);
        self.scalar_mask(attr.with_flag(p.signalling), p, a, b)
    }

    fn packed_mask(&mut self, lane: Lane, attr: FpAttr, p: Predicate, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        let (x, y) = if p.swapped { (b, a) } else { (a, b) };
        let mut compare = |cond: FCond| {
            let attr = attr.with_variant(cond as u16);
            self.b.vector(Op::Vfcmp, ty, lane, 0, [x, y, Value::NONE], attr.0.into())
        };
        let mut r = compare(p.cond);
        if p.or_unordered {
            let un = compare(FCond::Un);
            r = self.lanes(Op::Vor, Lane::I8, r, un);
        }
        match (p.constant, p.negated) {
            (true, all) => self.splat(ty, Lane::I64, if all { u64::MAX } else { 0 }),
            (false, true) => self.b.vector(Op::Vnot, ty, Lane::I8, 0, [r, Value::NONE, Value::NONE], 0),
            (false, false) => r,
        }
    }

    fn scalar_mask(&mut self, attr: FpAttr, p: Predicate, a: Value, b: Value) -> Value {
        let ty = if self.b.ty(a) == Type::F32 { Type::I32 } else { Type::I64 };
        let (x, y) = if p.swapped { (b, a) } else { (a, b) };
        let mut r = self.b.fcmp(ty, attr, p.cond, x, y);
        if p.or_unordered {
            let un = self.b.fcmp(ty, attr, FCond::Un, x, y);
            r = self.b.or(r, un);
        }
        match (p.constant, p.negated) {
            (true, all) => self.b.iconst(ty, if all { u64::MAX } else { 0 }),
            // 1 becomes all ones; of the opposite conditions 0 does.
            (false, true) => self.b.addi(r, -1),
            (false, false) => self.b.unary(Op::Neg, r),
        }
    }
}

/// A predicate of the comparing instructions.
#[derive(Clone, Copy)]
struct Predicate {
    cond: FCond,
    /// The operands change places.
    swapped: bool,
    /// Or they cannot be compared.
    or_unordered: bool,
    negated: bool,
    /// It always holds if `negated`, else never; exceptions are raised all the same.
    constant: bool,
    /// Quiet NaNs raise "invalid".
    signalling: bool,
}

impl Predicate {
    fn of(kind: u8) -> Self {
        let (cond, swapped, or_unordered, negated) = match kind & 15 {
            0 => (FCond::Eq, false, false, false),
            1 => (FCond::Lt, false, false, false),
            2 => (FCond::Le, false, false, false),
            3 => (FCond::Un, false, false, false),
            4 => (FCond::Eq, false, false, true),
            5 => (FCond::Lt, false, false, true),
            6 => (FCond::Le, false, false, true),
            7 => (FCond::Un, false, false, true),
            8 => (FCond::Eq, false, true, false),
            9 => (FCond::Le, true, false, true),
            10 => (FCond::Lt, true, false, true),
            11 => (FCond::Un, false, false, false),
            12 => (FCond::Eq, false, true, true),
            13 => (FCond::Le, true, false, false),
            14 => (FCond::Lt, true, false, false),
            _ => (FCond::Un, false, false, true),
        };
        // Those of order are signalling below 16, the others from there on.
        let order = matches!(kind & 15, 1 | 2 | 5 | 6 | 9 | 10 | 13 | 14);
        let constant = matches!(kind & 15, 11 | 15);
        Self { cond, swapped, or_unordered, negated, constant, signalling: order == (kind < 16) }
    }
}
