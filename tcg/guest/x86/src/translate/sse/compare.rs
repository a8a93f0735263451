//! Comparisons of floating-point numbers, and tests (SDM volume 1, 5.5.1.3, 5.6.1.3, 5.10.4).

use iced_x86::Mnemonic;
use tcg_ir::{Cond, FCond, Lane, Op, Type, Value};

use super::super::Translator;
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
            M::Cmpsd if self.insn.op_count() == 3 => self.compare_mask(Shape::Scalar(Lane::F64)),
            M::Cmpps => self.compare_mask(Shape::Packed(Lane::F32)),
            M::Cmppd => self.compare_mask(Shape::Packed(Lane::F64)),
            M::Ptest => {
                if self.sse_on() {
                    let (b, a) = (self.vector(1), self.vector(0));
                    let common = self.lanes(Op::Vand, Lane::I8, b, a);
                    let missing = self.lanes(Op::Vandc, Lane::I8, b, a);
                    let z = self.is_zero(common);
                    let c = self.is_zero(missing);
                    let one = self.b.iconst(Type::I64, 1);
                    let z = self.b.shl(z, one);
                    let bits = self.b.or(z, c);
                    self.set_flags_bits(bits);
                }
            }
            _ => return false,
        }
        true
    }

    /// 1 if no bit is set.
    fn is_zero(&mut self, v: Value) -> Value {
        let low = self.lane(Type::I64, Lane::I64, v, 0);
        let high = self.lane(Type::I64, Lane::I64, v, 1);
        let any = self.b.or(low, high);
        let zero = self.b.iconst(Type::I64, 0);
        self.b.setcc(Type::I64, Cond::Eq, any, zero)
    }

    /// Z, P and C say equal or less; all of them that the numbers cannot be compared.
    fn compare_flags(&mut self, shape: Shape, signalling: bool) {
        if !self.sse_on() {
            return;
        }
        let attr = self.sse_attr().with_flag(signalling);
        let saved = self.begin_float();
        let b = self.scalar(1, shape);
        let a = self.scalar(0, shape);
        let un = self.b.fcmp(Type::I64, attr, FCond::Un, a, b);
        let eq = self.b.fcmp(Type::I64, attr, FCond::Eq, a, b);
        let lt = self.b.fcmp(Type::I64, attr, FCond::Lt, a, b);
        self.end_float(saved);
        let z = self.b.or(eq, un);
        let c = self.b.or(lt, un);
        let z = self.flag_if(z, 1);
        let p = self.flag_if(un, 4);
        let bits = self.b.or(z, p);
        let bits = self.b.or(bits, c);
        self.set_flags_bits(bits);
    }

    fn compare_mask(&mut self, shape: Shape) {
        if !self.sse_on() {
            return;
        }
        let kind = self.insn.immediate8() & 7;
        let (cond, signalling) = match kind & 3 {
            0 => (FCond::Eq, false),
            1 => (FCond::Lt, true),
            2 => (FCond::Le, true),
            _ => (FCond::Un, false),
        };
        let attr = self.sse_attr().with_flag(signalling);
        let (ty, lane) =
            if shape.lane() == Lane::F32 { (Type::I32, Lane::I32) } else { (Type::I64, Lane::I64) };
        let saved = self.begin_float();
        let b = self.all_lanes(1, shape);
        let first = self.vector(0);
        let mut r = Vec::new();
        for (i, b) in b.into_iter().enumerate() {
            let a = self.lane(shape.ty(), shape.lane(), first, i as u64);
            let holds = self.b.fcmp(ty, attr, cond, a, b);
            // 1 becomes all ones; of the opposite conditions 0 does.
            r.push(if kind < 4 { self.b.unary(Op::Neg, holds) } else { self.b.addi(holds, -1) });
        }
        self.end_float(saved);
        self.set_lanes(lane, &r);
    }
}
