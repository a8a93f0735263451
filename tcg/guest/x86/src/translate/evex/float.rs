//! Floating-point functions without an IR operation (SDM volume 2, VGETEXP* to VREDUCE*): helpers compute them lane by lane.

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Op, Rounding, Type, Value};

use super::super::{Translator, names::ByName, sse::Shape};
use crate::{
    avx512::{FloatLanes, float::Function, how},
    state,
};

/// An instruction.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A helper's function.
    Function(Function),
    /// The reciprocal, and of the square root.
    Approximate(bool),
}

fn named(name: &str) -> Option<(Kind, Shape)> {
    let (stem, end) = name.split_at_checked(name.len().checked_sub(2)?)?;
    let kind = match stem {
        "vgetexp" => Kind::Function(Function::Exponent),
        "vgetmant" => Kind::Function(Function::Significand),
        "vrndscale" => Kind::Function(Function::Round),
        "vreduce" => Kind::Function(Function::Reduce),
        "vscalef" => Kind::Function(Function::Scale),
        "vrange" => Kind::Function(Function::Range),
        "vfixupimm" => Kind::Function(Function::Fix),
        "vrcp14" => Kind::Approximate(false),
        "vrsqrt14" => Kind::Approximate(true),
        _ => return None,
    };
    let shape = match end {
        "ps" => Shape::Packed(Lane::F32),
        "pd" => Shape::Packed(Lane::F64),
        "ss" => Shape::Scalar(Lane::F32),
        "sd" => Shape::Scalar(Lane::F64),
        _ => return None,
    };
    Some((kind, shape))
}

static TABLE: ByName<Option<(Kind, Shape)>> = ByName::new(named);

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_float(&mut self, m: Mnemonic) -> bool {
        let Some((kind, shape)) = TABLE.get(m) else { return false };
        if !self.avx_on() {
            return true;
        }
        match kind {
            Kind::Function(f) => self.by_lanes(f, shape),
            Kind::Approximate(root) => self.approximate_lanes(shape, root),
        }
        true
    }

    /// Source `n` as a vector; of a scalar the lowest lane counts.
    fn shaped(&mut self, n: u32, shape: Shape) -> Value {
        if let Shape::Packed(_) = shape {
            let ty = self.vector_type();
            return self.read_vector(n, ty);
        }
        let v = self.scalar_at(n, shape);
        let zero = self.zeros();
        self.with_lane(shape.lane(), zero, 0, v)
    }

    /// Writes what was computed for all lanes, or the lowest with the first source above.
    fn set_shaped(&mut self, shape: Shape, r: Value) {
        let r = if let Shape::Scalar(lane) = shape {
            let ty = if lane == Lane::F32 { Type::F32 } else { Type::F64 };
            let v = self.part(r, 0);
            let v = self.lane(ty, lane, v, 0);
            let old = self.read_v128(1);
            self.with_lane(lane, old, 0, v)
        } else {
            let ty = self.vector_type();
            self.part_of(ty, r, 0)
        };
        self.set_vector(r);
    }

    fn by_lanes(&mut self, f: Function, shape: Shape) {
        let attr = self.sse_attr();
        let scalar = matches!(shape, Shape::Scalar(_));
        let count = if scalar { 1 } else { self.vector_type().bytes() / shape.lane().bytes() };
        let saved = self.begin_float();
        // Operands as the manual numbers them; of scalars those of one source stand third.
        let sources: &[u32] = match f {
            Function::Scale | Function::Range => &[1, 2],
            Function::Fix => &[0, 1, 2],
            _ if scalar => &[2],
            _ => &[1],
        };
        // A masked load goes through the same places: all are read first.
        let values: Vec<Value> = sources.iter().map(|n| self.shaped(*n, shape)).collect();
        for (n, v) in values.into_iter().enumerate() {
            let v = self.padded(Type::V512, v);
            self.b.set(state::scratch(n), v);
        }
        let rounding = match attr.rounding() {
            Rounding::Down => 1,
            Rounding::Up => 2,
            Rounding::Zero => 3,
            _ => 0,
        };
        let word = f as u64
            | u64::from(shape.lane() == Lane::F64) << how::DOUBLE
            | u64::from(attr.quiet()) << how::QUIET
            | rounding << how::ROUNDING
            | u64::from(attr.daz()) << how::DAZ
            | u64::from(attr.flush()) << how::FLUSH
            | u64::from(self.imm8()) << how::IMM
            | (count as u64) << how::LANES;
        let word = self.b.iconst(Type::I64, word);
        let mask = if self.has_mask() { self.mask() } else { self.b.iconst(Type::I64, u64::MAX) };
        self.call::<FloatLanes>(&[word, mask]);
        let r = self.b.get(state::scratch(0), Type::V512);
        self.end_float(saved);
        self.set_shaped(shape, r);
    }

    /// Reciprocals: the exact ones lie within the error that is allowed, and nothing is raised.
    fn approximate_lanes(&mut self, shape: Shape, root: bool) {
        let attr = self.sse_attr().with_rounding(Rounding::NearestEven).with_quiet();
        let n = if matches!(shape, Shape::Scalar(_)) { 2 } else { 1 };
        let v = self.shaped(n, shape);
        let (ty, lane) = (self.b.ty(v), shape.lane());
        let one = self.one_bits(lane.bytes());
        let ones = self.b.vector(
            Op::Vsplat,
            ty,
            super::int_lane(lane.bytes()),
            0,
            [one, Value::NONE, Value::NONE],
            0,
        );
        let v = if root { self.packed_float(Op::Vfsqrt, lane, attr, v, Value::NONE) } else { v };
        let r = self.packed_float(Op::Vfdiv, lane, attr, ones, v);
        self.set_shaped(shape, r);
    }
}
