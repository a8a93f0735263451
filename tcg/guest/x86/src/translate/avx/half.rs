//! Conversions of half-precision numbers (F16C; SDM volume 2, VCVTPH2PS, VCVTPS2PH).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Type, Value};

use super::super::Translator;
use crate::sse::{HalvesToSingles, SinglesToHalves};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn avx_half(&mut self, m: Mnemonic) -> bool {
        match m {
            Mnemonic::Vcvtph2ps => self.halves_to_singles(),
            Mnemonic::Vcvtps2ph => self.singles_to_halves(),
            _ => return false,
        }
        true
    }

    fn halves_to_singles(&mut self) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let saved = self.begin_float();
        let v = if ty == Type::V256 { self.read_v128(1) } else { self.low_half(1) };
        let mut half = |at: u64| {
            let mut r = self.splat(Type::V128, Lane::I64, 0);
            for n in 0..2 {
                let two = self.lane(Type::I32, Lane::I32, v, at + n);
                let two = self.b.zext(Type::I64, two);
                let two = self.call::<HalvesToSingles>(&[two]);
                r = self.with_lane(Lane::I64, r, n, two);
            }
            r
        };
        let low = half(0);
        let r = if ty == Type::V256 {
            let high = half(2);
            self.join(low, high)
        } else {
            low
        };
        self.end_float(saved);
        self.set_vector(r);
    }

    fn singles_to_halves(&mut self) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let saved = self.begin_float();
        let v: Value = self.read_vector(1, ty);
        let imm = self.b.iconst(Type::I64, u64::from(self.insn.immediate8()));
        let mut r = self.splat(Type::V128, Lane::I64, 0);
        for n in 0..ty.bytes() as u64 / 8 {
            let two = self.lane(Type::I64, Lane::I64, v, n);
            let two = self.call::<SinglesToHalves>(&[two, imm]);
            r = self.with_lane(Lane::I32, r, n, two);
        }
        self.end_float(saved);
        if !self.is_memory(0) {
            self.set_vector(r);
        } else if ty == Type::V256 {
            let ea = self.ea_sized(16, true);
            self.store(&ea, r);
        } else {
            let r = self.lane(Type::I64, Lane::I64, r, 0);
            let ea = self.ea_sized(8, true);
            self.store(&ea, r);
        }
    }
}
