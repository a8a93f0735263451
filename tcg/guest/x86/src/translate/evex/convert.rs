//! Conversions (SDM volume 2, CVT*, VCVT*).
#![expect(clippy::wrong_self_convention, reason = "conversions of the guest, not of the translator")]

use iced_x86::Mnemonic;
use tcg_ir::{FpAttr, IntConv, Lane, Op, Rounding, Type, Value};

use super::{
    super::{Translator, names::ByName, sse::Shape},
    int_lane,
};
use crate::sse::{HalvesToSingles, SinglesToHalves};

/// What a lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Half,
    Float,
    Signed,
    Unsigned,
}

/// One side of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    kind: Kind,
    bytes: usize,
    /// One lane of a vector register.
    scalar: bool,
    /// A general register.
    general: bool,
}

impl Side {
    fn named(name: &str) -> Option<Self> {
        let (kind, bytes) = match name {
            "ph" => (Kind::Half, 2),
            "ps" | "ss" => (Kind::Float, 4),
            "pd" | "sd" => (Kind::Float, 8),
            "dq" | "si" => (Kind::Signed, 4),
            "udq" | "usi" => (Kind::Unsigned, 4),
            "qq" => (Kind::Signed, 8),
            "uqq" => (Kind::Unsigned, 8),
            _ => return None,
        };
        Some(Self { kind, bytes, scalar: matches!(name, "ss" | "sd"), general: matches!(name, "si" | "usi") })
    }

    const fn is_float(self) -> bool {
        matches!(self.kind, Kind::Float)
    }

    /// Lanes of this side in the IR.
    const fn lane(self) -> Lane {
        match (self.kind, self.bytes) {
            (Kind::Float, 4) => Lane::F32,
            (Kind::Float, _) => Lane::F64,
            (_, n) => int_lane(n),
        }
    }

    const fn ty(self) -> Type {
        match (self.kind, self.bytes) {
            (Kind::Float, 4) => Type::F32,
            (Kind::Float, _) => Type::F64,
            (_, 4) => Type::I32,
            _ => Type::I64,
        }
    }
}

/// A conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conversion {
    from: Side,
    to: Side,
    truncate: bool,
}

impl Conversion {
    fn named(name: &str) -> Option<Self> {
        let (from, to) = name.strip_prefix("vcvt")?.split_once('2')?;
        let (from, truncate) = match Side::named(from) {
            Some(side) => (side, false),
            None => (Side::named(from.strip_prefix('t')?)?, true),
        };
        Some(Self { from, to: Side::named(to)?, truncate })
    }

    /// The operation and its attributes.
    fn op(self, attr: FpAttr) -> (Op, FpAttr) {
        match (self.from.is_float(), self.to.is_float()) {
            (true, true) => (Op::Fcvt, attr),
            (true, false) => {
                let attr =
                    attr.with_variant(IntConv::Indefinite as u16).with_flag(self.to.kind == Kind::Unsigned);
                (Op::Ftoi, if self.truncate { attr.with_rounding(Rounding::Zero) } else { attr })
            }
            _ => (Op::Itof, attr.with_flag(self.from.kind == Kind::Unsigned)),
        }
    }
}

static TABLE: ByName<Option<Conversion>> = ByName::new(Conversion::named);

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_convert(&mut self, m: Mnemonic) -> bool {
        let Some(c) = TABLE.get(m) else { return false };
        if !self.avx_on() {
            return true;
        }
        let saved = self.begin_float();
        match (c.from.kind, c.to.kind) {
            (Kind::Half, _) => self.from_halves(saved),
            (_, Kind::Half) => self.to_halves(saved),
            _ if c.from.general => self.from_general(c, saved),
            _ if c.to.general => self.to_general(c, saved),
            _ if c.from.scalar => self.scalar_to_scalar(c, saved),
            _ => self.packed_lanes(c, saved),
        }
        true
    }

    fn from_general(&mut self, c: Conversion, saved: Option<Value>) {
        let (op, attr) = c.op(self.sse_attr());
        let n = self.read(2);
        let r = self.b.convert(op, c.to.ty(), attr, n);
        let old = self.read_v128(1);
        let r = self.with_lane(c.to.lane(), old, 0, r);
        self.end_float(saved);
        self.put_vector(r);
    }

    fn to_general(&mut self, c: Conversion, saved: Option<Value>) {
        let (op, attr) = c.op(self.sse_attr());
        let v = self.scalar_at(1, Shape::Scalar(c.from.lane()));
        let ty = self.ty(0);
        let r = self.b.convert(op, ty, attr, v);
        self.end_float(saved);
        self.write(0, r);
    }

    fn scalar_to_scalar(&mut self, c: Conversion, saved: Option<Value>) {
        let (op, attr) = c.op(self.sse_attr());
        let v = self.scalar_at(2, Shape::Scalar(c.from.lane()));
        let v = self.active_scalar(v);
        let r = self.b.convert(op, c.to.ty(), attr, v);
        let old = self.read_v128(1);
        let r = self.with_lane(c.to.lane(), old, 0, r);
        self.end_float(saved);
        self.set_vector(r);
    }

    /// Lanes of the same size at once, of different sizes one by one; what they leave of the register is zero.
    fn packed_lanes(&mut self, c: Conversion, saved: Option<Value>) {
        let (op, attr) = c.op(self.sse_attr());
        let lanes = self.evex_type().bytes() / c.from.bytes.max(c.to.bytes);
        let v = self.narrow_source(lanes, c.from.bytes);
        // 1.0 as an integer is a power of two or few bits of one: it is exact as well.
        let v = self.active_lanes(c.from.lane(), v);
        let r = if c.from.bytes == c.to.bytes {
            let (op, lane) =
                if op == Op::Itof { (Op::Vitof, c.to.lane()) } else { (Op::Vftoi, c.from.lane()) };
            self.packed_float(op, lane, attr, v, Value::NONE)
        } else {
            let mut parts = Vec::new();
            let per_part = (16 / c.to.bytes).min(lanes);
            for first in (0..lanes).step_by(per_part) {
                let mut part = self.splat(Type::V128, Lane::I64, 0);
                for n in 0..per_part {
                    let one = self.lane(c.from.ty(), c.from.lane(), v, (first + n) as u64);
                    let one = self.b.convert(op, c.to.ty(), attr, one);
                    part = self.with_lane(c.to.lane(), part, n as u64, one);
                }
                parts.push(part);
            }
            self.of_parts(&parts)
        };
        self.end_float(saved);
        self.set_vector_lanes(r, lanes as u64);
    }

    /// Without exceptions if the instruction suppresses them: the helpers raise.
    fn quietly(&mut self, make: impl FnOnce(&mut Self) -> Value) -> Value {
        if !self.insn.suppress_all_exceptions() {
            return make(self);
        }
        let before = self.b.fexget();
        let r = make(self);
        self.b.fexset(before);
        r
    }

    /// Lanes that the mask has, zeros for the others, which raise nothing.
    fn active_or_zero(&mut self, lane: Lane, v: Value) -> Value {
        if !self.has_mask() {
            return v;
        }
        let ty = self.b.ty(v);
        let k = self.mask();
        let mask = self.lanes_from(ty, lane, k);
        self.lanes(Op::Vand, Lane::I8, v, mask)
    }

    fn from_halves(&mut self, saved: Option<Value>) {
        let ty = self.evex_type();
        let lanes = ty.bytes() / 4;
        let v = self.narrow_source(lanes, 2);
        let v = self.active_or_zero(Lane::I16, v);
        let r = self.quietly(|t| {
            let mut parts = Vec::new();
            for first in (0..lanes / 2).step_by(2) {
                let mut part = t.splat(Type::V128, Lane::I64, 0);
                for n in 0..2 {
                    let two = t.lane(Type::I32, Lane::I32, v, (first + n) as u64);
                    let two = t.b.zext(Type::I64, two);
                    let two = t.call::<HalvesToSingles>(&[two]);
                    part = t.with_lane(Lane::I64, part, n as u64, two);
                }
                parts.push(part);
            }
            t.of_parts(&parts)
        });
        self.end_float(saved);
        self.set_vector(r);
    }

    fn to_halves(&mut self, saved: Option<Value>) {
        let ty = self.evex_type();
        let lanes = ty.bytes() / 4;
        let v = self.read_vector(1, ty);
        let v = self.active_or_zero(Lane::I32, v);
        let imm = self.b.iconst(Type::I64, u64::from(self.insn.immediate8()));
        let r = self.quietly(|t| {
            let mut parts = Vec::new();
            for first in (0..lanes / 2).step_by(4) {
                let mut part = t.splat(Type::V128, Lane::I64, 0);
                for n in 0..(lanes / 2 - first).min(4) {
                    let two = t.lane(Type::I64, Lane::I64, v, (first + n) as u64);
                    let two = t.call::<SinglesToHalves>(&[two, imm]);
                    part = t.with_lane(Lane::I32, part, n as u64, two);
                }
                parts.push(part);
            }
            t.of_parts(&parts)
        });
        self.end_float(saved);
        self.store_narrow(r, lanes, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_converted() {
        let c = Conversion::named("vcvttpd2udq").unwrap();
        assert!(
            c.truncate
                && c.from.lane() == Lane::F64
                && c.to.lane() == Lane::I32
                && c.to.kind == Kind::Unsigned
        );
        assert!(Conversion::named("vcvtusi2sd").unwrap().from.general);
        assert_eq!(Conversion::named("vcvtph2psx"), None);
        assert_eq!(Conversion::named("vcvtneps2bf16"), None);
    }
}
