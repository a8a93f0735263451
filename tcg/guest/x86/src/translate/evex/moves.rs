//! Moves (SDM volume 2, MOVAPS to MOVUPS, VMOVDQA*, VMOVDQU*, MOVSS, MOVSD).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Type};

use super::super::Translator;
use crate::exceptions::{self, vector};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_moves(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Vmovaps | M::Vmovapd | M::Vmovdqa32 | M::Vmovdqa64 => self.masked_whole(true),
            M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => self.masked_whole(true),
            M::Vmovups | M::Vmovupd | M::Vmovdqu8 | M::Vmovdqu16 | M::Vmovdqu32 | M::Vmovdqu64 => {
                self.masked_whole(false);
            }
            M::Vmovss => self.masked_scalar(Lane::F32),
            M::Vmovsd => self.masked_scalar(Lane::F64),
            _ => return false,
        }
        true
    }

    fn masked_whole(&mut self, aligned: bool) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let bytes = ty.bytes();
        if aligned && (self.is_memory(0) || self.is_memory(1)) {
            // Whatever the mask says.
            let ea = self.ea_sized(bytes as u64, self.is_memory(0));
            let at = self.ea_value(&ea);
            let bits = self.b.iconst(Type::I64, bytes as u64 - 1);
            let odd = self.b.and(at, bits);
            self.raise_if(odd, exceptions::with_error(vector::GP, 0));
        }
        if self.is_memory(0) {
            let v = self.read_vector(1, ty);
            self.store_masked(v);
        } else {
            let v = self.read_vector(1, ty);
            self.set_vector(v);
        }
    }

    /// A load clears the rest of the register, a move between registers takes it from the first source.
    fn masked_scalar(&mut self, lane: Lane) {
        if !self.avx_on() {
            return;
        }
        let ty = if lane == Lane::F32 { Type::F32 } else { Type::F64 };
        if self.is_memory(0) {
            let v = self.read_v128(1);
            let ea = self.ea_sized(lane.bytes() as u64, true);
            if self.has_mask() {
                let on = self.mask_of(1);
                self.store_lanes(&ea, v, on, lane.bytes());
            } else {
                let v = self.lane(ty, lane, v, 0);
                self.store(&ea, v);
            }
        } else if self.is_memory(1) {
            let v = if self.has_mask() {
                self.memory_scalar(ty)
            } else {
                let ea = self.ea_sized(lane.bytes() as u64, false);
                self.load(ty, &ea)
            };
            let zero = self.zeros();
            let v = self.with_lane(lane, zero, 0, v);
            self.set_vector(v);
        } else {
            let v = self.read_v128(2);
            let v = self.lane(ty, lane, v, 0);
            let old = self.read_v128(1);
            let v = self.with_lane(lane, old, 0, v);
            self.set_vector(v);
        }
    }
}
