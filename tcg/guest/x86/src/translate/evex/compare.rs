//! Comparisons and tests that give masks, and masks as vectors (SDM volume 2, VPCMP*, CMPPS, VPTESTM*, VFPCLASS*, VPMOVM2*).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{Cond, Lane, Op, Type, Value, VecFn};

use super::super::{Translator, sse::Shape};
use crate::state;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_compare(&mut self, m: Mnemonic) -> bool {
        use Lane::{I8, I16, I32, I64};
        use Mnemonic as M;
        match m {
            M::Vpcmpb => self.compare_lanes(I8, true, None),
            M::Vpcmpw => self.compare_lanes(I16, true, None),
            M::Vpcmpd => self.compare_lanes(I32, true, None),
            M::Vpcmpq => self.compare_lanes(I64, true, None),
            M::Vpcmpub => self.compare_lanes(I8, false, None),
            M::Vpcmpuw => self.compare_lanes(I16, false, None),
            M::Vpcmpud => self.compare_lanes(I32, false, None),
            M::Vpcmpuq => self.compare_lanes(I64, false, None),
            M::Vpcmpeqb => self.compare_lanes(I8, true, Some(Cond::Eq)),
            M::Vpcmpeqw => self.compare_lanes(I16, true, Some(Cond::Eq)),
            M::Vpcmpeqd => self.compare_lanes(I32, true, Some(Cond::Eq)),
            M::Vpcmpeqq => self.compare_lanes(I64, true, Some(Cond::Eq)),
            M::Vpcmpgtb => self.compare_lanes(I8, true, Some(Cond::Gt)),
            M::Vpcmpgtw => self.compare_lanes(I16, true, Some(Cond::Gt)),
            M::Vpcmpgtd => self.compare_lanes(I32, true, Some(Cond::Gt)),
            M::Vpcmpgtq => self.compare_lanes(I64, true, Some(Cond::Gt)),
            M::Vptestmb => self.compare_lanes(I8, true, Some(Cond::TestNz)),
            M::Vptestmw => self.compare_lanes(I16, true, Some(Cond::TestNz)),
            M::Vptestmd => self.compare_lanes(I32, true, Some(Cond::TestNz)),
            M::Vptestmq => self.compare_lanes(I64, true, Some(Cond::TestNz)),
            M::Vptestnmb => self.compare_lanes(I8, true, Some(Cond::TestZ)),
            M::Vptestnmw => self.compare_lanes(I16, true, Some(Cond::TestZ)),
            M::Vptestnmd => self.compare_lanes(I32, true, Some(Cond::TestZ)),
            M::Vptestnmq => self.compare_lanes(I64, true, Some(Cond::TestZ)),
            M::Vpshufbitqmb => {
                if self.avx_on() {
                    let ty = self.compared_type();
                    let (b, a) = (self.read_vector(2, ty), self.read_vector(1, ty));
                    let r = self.function(VecFn::BitsAt, a, b, 0);
                    self.set_compared(I8, r);
                }
            }
            M::Vcmpps => self.compare_floats(Shape::Packed(Lane::F32)),
            M::Vcmppd => self.compare_floats(Shape::Packed(Lane::F64)),
            M::Vcmpss => self.compare_floats(Shape::Scalar(Lane::F32)),
            M::Vcmpsd => self.compare_floats(Shape::Scalar(Lane::F64)),
            M::Vfpclassps => self.classify(Shape::Packed(Lane::F32)),
            M::Vfpclasspd => self.classify(Shape::Packed(Lane::F64)),
            M::Vfpclassss => self.classify(Shape::Scalar(Lane::F32)),
            M::Vfpclasssd => self.classify(Shape::Scalar(Lane::F64)),
            M::Vpmovm2b => self.mask_to_vector(I8),
            M::Vpmovm2w => self.mask_to_vector(I16),
            M::Vpmovm2d => self.mask_to_vector(I32),
            M::Vpmovm2q => self.mask_to_vector(I64),
            M::Vpmovb2m => self.vector_to_mask(I8),
            M::Vpmovw2m => self.vector_to_mask(I16),
            M::Vpmovd2m => self.vector_to_mask(I32),
            M::Vpmovq2m => self.vector_to_mask(I64),
            _ => return false,
        }
        true
    }

    /// Width of an instruction whose destination is a mask.
    fn compared_type(&self) -> Type {
        self.evex_type()
    }

    /// Writes the destination mask: of lanes that the instruction's mask has, those that are all ones.
    fn set_compared(&mut self, lane: Lane, v: Value) {
        let bits = self.bits_of(lane, v);
        self.set_mask_bits(bits);
    }

    fn set_mask_bits(&mut self, bits: Value) {
        let bits = if self.has_mask() {
            let k = self.mask();
            self.b.and(bits, k)
        } else {
            bits
        };
        let k = self.insn.op_register(0).number();
        self.b.set(state::opmask(k), bits);
    }

    fn compare_lanes(&mut self, lane: Lane, signed: bool, cond: Option<Cond>) {
        if !self.avx_on() {
            return;
        }
        let ty = self.compared_type();
        let (b, a) = (self.read_vector(2, ty), self.read_vector(1, ty));
        let by_immediate = self.insn.op_kind(self.insn.op_count() - 1) == OpKind::Immediate8;
        let imm = if by_immediate { self.imm8() & 7 } else { 0 };
        let cond = match (cond, imm, signed) {
            (Some(c), ..) => c,
            (_, 0, _) => Cond::Eq,
            (_, 1, true) => Cond::Lt,
            (_, 1, _) => Cond::Ltu,
            (_, 2, true) => Cond::Le,
            (_, 2, _) => Cond::Leu,
            (_, 4, _) => Cond::Ne,
            (_, 5, true) => Cond::Ge,
            (_, 5, _) => Cond::Geu,
            (_, 6, true) => Cond::Gt,
            (_, 6, _) => Cond::Gtu,
            _ => {
                let r = self.splat(ty, Lane::I64, if imm == 7 { u64::MAX } else { 0 });
                return self.set_compared(lane, r);
            }
        };
        let r = self.compared(cond, lane, a, b);
        self.set_compared(lane, r);
    }

    fn compare_floats(&mut self, shape: Shape) {
        if !self.avx_on() {
            return;
        }
        let attr = self.sse_attr();
        let kind = self.insn.immediate8() & 31;
        let saved = self.begin_float();
        let bits = if let Shape::Packed(lane) = shape {
            let ty = self.compared_type();
            let all = [2, 1].map(|n| self.read_vector(n, ty));
            let [b, a] = all.map(|v| self.active_lanes(lane, v));
            let v = self.packed_compared(lane, attr, kind, a, b);
            self.bits_of(lane, v)
        } else {
            let all = [2, 1].map(|n| self.scalar_at(n, shape));
            let [b, a] = all.map(|v| self.active_scalar(v));
            let v = self.scalar_compared(attr, kind, a, b);
            let v = self.b.zext(Type::I64, v);
            self.low_bits(v, 1)
        };
        self.end_float(saved);
        self.set_mask_bits(bits);
    }

    fn classify(&mut self, shape: Shape) {
        if !self.avx_on() {
            return;
        }
        let lane = shape.lane();
        let mut v = if let Shape::Packed(_) = shape {
            let ty = self.compared_type();
            self.read_vector(1, ty)
        } else {
            let scalar = self.scalar_at(1, shape);
            let zero = self.zeros();
            self.with_lane(lane, zero, 0, scalar)
        };
        if self.sse_attr().daz() {
            v = self.without_denormals(lane, v);
        }
        let f = if lane == Lane::F32 { VecFn::Class32 } else { VecFn::Class64 };
        let imm = self.imm8().into();
        let r = self.function1(f, v, imm);
        let bits = self.bits_of(lane, r);
        let bits = if matches!(shape, Shape::Scalar(_)) { self.low_bits(bits, 1) } else { bits };
        self.set_mask_bits(bits);
    }

    /// Lanes with zeros of their sign for denormals.
    fn without_denormals(&mut self, lane: Lane, v: Value) -> Value {
        let ty = self.b.ty(v);
        let (exp, sign) = if lane == Lane::F32 {
            (0x7f80_0000_7f80_0000, 0x8000_0000_8000_0000)
        } else {
            (0x7ff0_0000_0000_0000, 1 << 63)
        };
        let exp = self.splat(ty, Lane::I64, exp);
        let tiny = self.compared(Cond::TestZ, super::int_lane(lane.bytes()), v, exp);
        let sign = self.splat(ty, Lane::I64, sign);
        let zeros = self.lanes(Op::Vand, Lane::I8, v, sign);
        self.merge(tiny, zeros, v)
    }

    fn mask_to_vector(&mut self, lane: Lane) {
        if self.avx_on() {
            let k = self.insn.op_register(1).number();
            let k = self.b.get(state::opmask(k), Type::I64);
            let ty = self.vector_type();
            let r = self.lanes_from(ty, lane, k);
            self.set_vector(r);
        }
    }

    fn vector_to_mask(&mut self, lane: Lane) {
        if self.avx_on() {
            let ty = self.vector_type();
            let v = self.read_vector(1, ty);
            self.set_compared(lane, v);
        }
    }
}
