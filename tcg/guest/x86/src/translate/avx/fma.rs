//! Fused multiply-add (SDM volume 1, 14.5): twelve operations in three orders of their operands.

use iced_x86::Mnemonic;
use tcg_ir::{FpAttr, Lane, Op, Value};

use super::super::{Translator, names::ByName, sse::Shape};

/// One instruction.
#[derive(Debug, Clone, Copy)]
struct Fused {
    /// Operands in the order 132, 213 or 231.
    order: u32,
    /// Signs of product and addend, as in `FpAttr`, of odd and of even lanes.
    signs: [u16; 2],
    shape: Shape,
}

/// Negated product and negated addend in an `FpAttr`.
const PRODUCT: u16 = 1 << 10;
const ADDEND: u16 = 1 << 11;

impl Fused {
    /// From the manual's name: `vfnmadd213ps`.
    fn named(name: &str) -> Option<Self> {
        let at = name.find(|c: char| c.is_ascii_digit())?;
        let signs = match &name[..at] {
            "vfmadd" => [0, 0],
            "vfmsub" => [ADDEND, ADDEND],
            "vfnmadd" => [PRODUCT, PRODUCT],
            "vfnmsub" => [PRODUCT | ADDEND, PRODUCT | ADDEND],
            "vfmaddsub" => [0, ADDEND],
            "vfmsubadd" => [ADDEND, 0],
            _ => return None,
        };
        let shape = match &name[at + 3..] {
            "ps" => Shape::Packed(Lane::F32),
            "pd" => Shape::Packed(Lane::F64),
            "ss" => Shape::Scalar(Lane::F32),
            "sd" => Shape::Scalar(Lane::F64),
            _ => return None,
        };
        Some(Self { order: name[at..at + 3].parse().ok()?, signs, shape })
    }
}

static TABLE: ByName<Option<Fused>> = ByName::new(Fused::named);

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn avx_fma(&mut self, m: Mnemonic) -> bool {
        let Some(f) = TABLE.get(m) else { return false };
        if !self.avx_on() {
            return true;
        }
        let attr = self.sse_attr();
        let saved = self.begin_float();
        let ty = self.vector_type();
        let (third, second, first) = match f.shape {
            Shape::Packed(lane) => {
                let all = [2, 1, 0].map(|n| self.read_vector(n, ty));
                all.map(|v| self.active_lanes(lane, v)).into()
            }
            Shape::Scalar(_) => {
                let all = [2, 1, 0].map(|n| self.scalar_at(n, f.shape));
                all.map(|v| self.active_scalar(v)).into()
            }
        };
        // Factors and addend, in the order in which NaNs are looked for.
        let args = match f.order {
            132 => [first, third, second],
            213 => [second, first, third],
            _ => [second, third, first],
        };
        let with = |signs: u16| FpAttr(attr.0 | signs);
        let r = match f.shape {
            Shape::Packed(lane) if f.signs[0] == f.signs[1] => self.fused(lane, with(f.signs[0]), args),
            Shape::Packed(lane) => self.alternate(lane, args, |t, side, args| {
                t.fused(lane, with(f.signs[usize::from(side == 0)]), args)
            }),
            Shape::Scalar(lane) => {
                let r = self.b.fma(with(f.signs[0]), args[0], args[1], args[2]);
                let old = self.read_v128(0);
                self.with_lane(lane, old, 0, r)
            }
        };
        self.end_float(saved);
        self.set_vector(r);
        true
    }

    fn fused(&mut self, lane: Lane, attr: FpAttr, args: [Value; 3]) -> Value {
        let ty = self.b.ty(args[0]);
        self.b.vector(Op::Vfma, ty, lane, 0, args, attr.0.into())
    }
}
