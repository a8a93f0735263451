//! Broadcasts, and parts of registers (SDM volume 2, VBROADCAST*, VPBROADCAST*, VINSERT*, VEXTRACT*, VSHUF*).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Op, Type, Value};

use super::{
    super::{Translator, operand::int},
    int_lane,
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_broadcast(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Vpbroadcastb => self.one_for_all(1),
            M::Vpbroadcastw => self.one_for_all(2),
            M::Vpbroadcastd | M::Vbroadcastss => self.one_for_all(4),
            M::Vpbroadcastq | M::Vbroadcastsd => self.one_for_all(8),
            M::Vbroadcastf32x2 | M::Vbroadcasti32x2 => self.one_for_all(8),
            M::Vbroadcastf32x4 | M::Vbroadcasti32x4 | M::Vbroadcastf64x2 | M::Vbroadcasti64x2 => {
                self.part_for_all(Type::V128);
            }
            M::Vbroadcastf32x8 | M::Vbroadcasti32x8 | M::Vbroadcastf64x4 | M::Vbroadcasti64x4 => {
                self.part_for_all(Type::V256);
            }
            M::Vpbroadcastmb2q => self.mask_for_all(8, Lane::I64),
            M::Vpbroadcastmw2d => self.mask_for_all(16, Lane::I32),
            M::Vinsertf32x4 | M::Vinserti32x4 | M::Vinsertf64x2 | M::Vinserti64x2 => {
                self.insert_part(Type::V128)
            }
            M::Vinsertf32x8 | M::Vinserti32x8 | M::Vinsertf64x4 | M::Vinserti64x4 => {
                self.insert_part(Type::V256)
            }
            M::Vextractf32x4 | M::Vextracti32x4 | M::Vextractf64x2 | M::Vextracti64x2 => {
                self.extract_part(Type::V128);
            }
            M::Vextractf32x8 | M::Vextracti32x8 | M::Vextractf64x4 | M::Vextracti64x4 => {
                self.extract_part(Type::V256);
            }
            M::Vshuff32x4 | M::Vshufi32x4 | M::Vshuff64x2 | M::Vshufi64x2 => self.shuffle_parts(),
            _ => return false,
        }
        true
    }

    /// `bytes` bytes in every lane.
    fn one_for_all(&mut self, bytes: usize) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let v = if self.is_memory(1) {
            let lanes = ty.bytes() / self.policy().lane.bytes();
            // Two lanes of one element: either of them is a reason to read it.
            self.element(bytes, lanes as u64)
        } else if self.insn.op_register(1).is_gpr() {
            let n = self.insn.op_register(1).full_register().number();
            self.gpr(n, int(bytes))
        } else {
            let v = self.read_v128(1);
            self.lane(int(bytes), int_lane(bytes), v, 0)
        };
        let r = self.b.vector(Op::Vsplat, ty, int_lane(bytes), 0, [v, Value::NONE, Value::NONE], 0);
        self.set_vector(r);
    }

    /// A part in every part.
    fn part_for_all(&mut self, part: Type) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let bytes = self.policy().lane.bytes();
        let ea = self.ea_sized(part.bytes() as u64, false);
        let v = if self.has_mask() {
            // An element is read if one of its lanes is written.
            let (lanes, per_part) = ((ty.bytes() / bytes) as u64, (part.bytes() / bytes) as u64);
            let mut mask = self.mask_of(lanes);
            let mut half = lanes / 2;
            while half >= per_part {
                let by = self.b.iconst(Type::I64, half);
                let upper = self.b.shr(mask, by);
                mask = self.b.or(mask, upper);
                half /= 2;
            }
            let mask = self.low_bits(mask, per_part);
            self.load_lanes(part, &ea, mask, bytes)
        } else {
            self.load(part, &ea)
        };
        let r = self.padded(ty, v);
        self.set_vector(r);
    }

    fn mask_for_all(&mut self, bits: u64, lane: Lane) {
        if !self.avx_on() {
            return;
        }
        let k = self.insn.op_register(1).number();
        let v = self.b.get(crate::state::opmask(k), Type::I64);
        let v = self.low_bits(v, bits);
        let ty = self.vector_type();
        let r = self.b.vector(Op::Vsplat, ty, lane, 0, [v, Value::NONE, Value::NONE], 0);
        self.set_vector(r);
    }

    /// The parts of a vector.
    fn parts(&mut self, part: Type, v: Value) -> Vec<Value> {
        let count = self.b.ty(v).bytes() / part.bytes();
        (0..count as u64).map(|n| self.part_of(part, v, n)).collect()
    }

    /// A vector of its parts.
    pub(super) fn of_parts(&mut self, parts: &[Value]) -> Value {
        let mut all = parts.to_vec();
        while all.len() > 1 {
            all = all.chunks(2).map(|p| self.join(p[0], p[p.len() - 1])).collect();
        }
        all[0]
    }

    fn insert_part(&mut self, part: Type) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let new = self.read_vector(2, part);
        let old = self.read_vector(1, ty);
        let mut parts = self.parts(part, old);
        let n = usize::from(self.imm8()) % parts.len();
        parts[n] = new;
        let r = self.of_parts(&parts);
        self.set_vector(r);
    }

    fn extract_part(&mut self, part: Type) {
        if !self.avx_on() {
            return;
        }
        let from = if self.insn.op_register(1).is_zmm() { Type::V512 } else { Type::V256 };
        let v = self.read_vector(1, from);
        let n = u64::from(self.imm8()) % (from.bytes() / part.bytes()) as u64;
        let v = self.part_of(part, v, n);
        if self.is_memory(0) {
            self.store_masked(v);
        } else {
            self.set_vector(v);
        }
    }

    /// The lower half of the result from the first source, the upper from the second.
    fn shuffle_parts(&mut self) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let (b, a) = (self.read_vector(2, ty), self.read_vector(1, ty));
        let count = ty.bytes() / 16;
        let bits = if count == 4 { 2 } else { 1 };
        let imm = u64::from(self.imm8());
        let parts: Vec<Value> = (0..count)
            .map(|n| {
                let from = if n < count / 2 { a } else { b };
                self.part(from, imm >> (n * bits) & (count as u64 - 1))
            })
            .collect();
        let r = self.of_parts(&parts);
        self.set_vector(r);
    }
}
