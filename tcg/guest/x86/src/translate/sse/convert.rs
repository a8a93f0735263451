//! Conversions (SDM volume 1, 5.5.1.6, 5.6.1.6, 11.4.1.6).
#![expect(clippy::wrong_self_convention, reason = "conversions of the guest, not of the translator")]

use iced_x86::Mnemonic;
use tcg_ir::{FpAttr, IntConv, Lane, Op, Rounding, Type, Value};

use super::super::Translator;
use super::float::Shape;

const SS: Shape = Shape::Scalar(Lane::F32);
const SD: Shape = Shape::Scalar(Lane::F64);

/// Attributes of conversions to integers; what does not fit is the most negative number.
fn to_whole(attr: FpAttr, truncate: bool) -> FpAttr {
    let attr = attr.with_variant(IntConv::Indefinite as u16);
    if truncate { attr.with_rounding(Rounding::Zero) } else { attr }
}

/// The type of one lane.
fn scalar_type(lane: Lane) -> Type {
    match lane {
        Lane::F32 => Type::F32,
        Lane::F64 => Type::F64,
        _ => Type::I32,
    }
}

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_convert(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Cvtsi2ss => self.from_integer(SS),
            M::Cvtsi2sd => self.from_integer(SD),
            M::Cvtss2si => self.to_integer(SS, false),
            M::Cvtsd2si => self.to_integer(SD, false),
            M::Cvttss2si => self.to_integer(SS, true),
            M::Cvttsd2si => self.to_integer(SD, true),
            M::Cvtss2sd => self.to_float(SS, Lane::F64),
            M::Cvtsd2ss => self.to_float(SD, Lane::F32),
            M::Cvtps2pd => self.packed(Lane::F32, Lane::F64, Op::Fcvt),
            M::Cvtpd2ps => self.packed(Lane::F64, Lane::F32, Op::Fcvt),
            M::Cvtdq2ps => self.same_size(Lane::F32, Op::Vitof, false),
            M::Cvtdq2pd => self.packed(Lane::I32, Lane::F64, Op::Itof),
            M::Cvtps2dq => self.same_size(Lane::F32, Op::Vftoi, false),
            M::Cvttps2dq => self.same_size(Lane::F32, Op::Vftoi, true),
            M::Cvtpd2dq => self.packed(Lane::F64, Lane::I32, Op::Ftoi),
            M::Cvttpd2dq => self.packed_truncated(Lane::F64, Lane::I32, Op::Ftoi),
            M::Cvtpi2ps => self.from_mmx(Lane::F32),
            M::Cvtpi2pd => self.from_mmx(Lane::F64),
            M::Cvtps2pi => self.to_mmx(Lane::F32, false),
            M::Cvttps2pi => self.to_mmx(Lane::F32, true),
            M::Cvtpd2pi => self.to_mmx(Lane::F64, false),
            M::Cvttpd2pi => self.to_mmx(Lane::F64, true),
            _ => return false,
        }
        true
    }

    /// An integer from a float; what does not fit is the most negative number.
    fn whole(&mut self, attr: FpAttr, truncate: bool, ty: Type, v: Value) -> Value {
        self.b.convert(Op::Ftoi, ty, to_whole(attr, truncate), v)
    }

    fn from_integer(&mut self, shape: Shape) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let n = self.source(1);
        let v = self.read(n);
        let old = self.vector(0);
        let r = self.b.convert(Op::Itof, shape.ty(), attr, v);
        let r = self.with_lane(shape.lane(), old, 0, r);
        self.end_float(saved);
        self.set_vector(r);
    }

    fn to_integer(&mut self, shape: Shape, truncate: bool) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let v = self.scalar(1, shape);
        let ty = self.ty(0);
        let r = self.whole(attr, truncate, ty, v);
        self.end_float(saved);
        self.write(0, r);
    }

    fn to_float(&mut self, from: Shape, to: Lane) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let v = self.scalar(1, from);
        let ty = if to == Lane::F32 { Type::F32 } else { Type::F64 };
        let r = self.b.convert(Op::Fcvt, ty, attr, v);
        let old = self.vector(0);
        let r = self.with_lane(to, old, 0, r);
        self.end_float(saved);
        self.set_vector(r);
    }

    /// Lanes of the same size.
    fn same_size(&mut self, lane: Lane, op: Op, truncate: bool) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr();
        let attr = if op == Op::Vftoi { to_whole(attr, truncate) } else { attr };
        let saved = self.begin_float();
        let v = self.vector(1);
        let r = self.packed_float(op, lane, attr, v, Value::NONE);
        self.end_float(saved);
        self.set_vector(r);
    }

    fn packed(&mut self, from: Lane, to: Lane, op: Op) {
        self.packed_as(from, to, op, false);
    }

    fn packed_truncated(&mut self, from: Lane, to: Lane, op: Op) {
        self.packed_as(from, to, op, true);
    }

    /// Lanes of different sizes, one by one; what they leave of the register is zero.
    fn packed_as(&mut self, from: Lane, to: Lane, op: Op, truncate: bool) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr();
        let attr = if op == Op::Ftoi { to_whole(attr, truncate) } else { attr };
        let saved = self.begin_float();
        let n = self.source(1);
        // With 256 bits on one side there are four lanes.
        let wide = if self.is_memory(n) {
            self.vector_type() == Type::V256 || self.insn.memory_size().size() == 32
        } else {
            self.vector_type() == Type::V256
        };
        let count = if wide { 4 } else { 2 };
        let bytes = count * from.bytes() as u64;
        let v = match bytes {
            32 => self.read_vector(n, Type::V256),
            16 => self.read_v128(n),
            _ => self.low_part(1, bytes),
        };
        let ty = scalar_type(to);
        let convert = |t: &mut Self, attr, v| t.b.convert(op, ty, attr, v);
        let r = if count * to.bytes() as u64 == 32 {
            let mut half = |at| self.each_lane(v, (from, at), 2, to, attr, convert);
            let (low, high) = (half(0), half(2));
            self.join(low, high)
        } else {
            self.each_lane(v, (from, 0), count, to, attr, convert)
        };
        self.end_float(saved);
        self.set_vector(r);
    }

    fn each_lane(
        &mut self,
        v: Value,
        (from, first): (Lane, u64),
        count: u64,
        to: Lane,
        attr: FpAttr,
        each: impl Fn(&mut Self, FpAttr, Value) -> Value,
    ) -> Value {
        let ty = scalar_type(from);
        let mut r = self.splat(Type::V128, Lane::I64, 0);
        for n in 0..count {
            let one = self.lane(ty, from, v, first + n);
            let one = each(self, attr, one);
            r = self.with_lane(to, r, n, one);
        }
        r
    }

    /// Two integers of an MMX register or of memory.
    fn from_mmx(&mut self, to: Lane) {
        // Memory leaves the x87 registers alone.
        let on = if self.is_mm(1) { self.sse_on() && self.mmx_on() } else { self.sse_on() };
        if !on {
            return;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let v = if self.is_mm(1) { self.vector(1) } else { self.low_half(1) };
        let ty = if to == Lane::F32 { Type::F32 } else { Type::F64 };
        let mut r = Vec::new();
        for n in 0..2 {
            let one = self.lane(Type::I32, Lane::I32, v, n);
            r.push(self.b.convert(Op::Itof, ty, attr, one));
        }
        self.end_float(saved);
        // CVTPI2PS leaves the upper half.
        let to_register = self.insn.op_register(0).number();
        let mut whole = self.xmm(to_register);
        for (n, one) in r.into_iter().enumerate() {
            whole = self.with_lane(to, whole, n as u64, one);
        }
        self.set_vector(whole);
    }

    fn to_mmx(&mut self, from: Lane, truncate: bool) {
        if !self.sse_on() || !self.mmx_on() {
            return;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let v = if from == Lane::F64 { self.read_v128(1) } else { self.low_half(1) };
        let r =
            self.each_lane(v, (from, 0), 2, Lane::I32, attr, |t, a, v| t.whole(a, truncate, Type::I32, v));
        let r = self.lane(Type::I64, Lane::I64, r, 0);
        self.end_float(saved);
        let r = self.b.vector(Op::Vsplat, Type::V64, Lane::I64, 0, [r, Value::NONE, Value::NONE], 0);
        self.set_vector(r);
    }
}
