//! Broadcasts, and halves of registers (SDM volume 2, VBROADCAST, VINSERTF128, VEXTRACTF128, VPERM2F128).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Op, Type, Value};

use super::super::{Translator, operand::int};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn avx_moves(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Vpbroadcastb => self.broadcast(Lane::I8),
            M::Vpbroadcastw => self.broadcast(Lane::I16),
            M::Vpbroadcastd | M::Vbroadcastss => self.broadcast(Lane::I32),
            M::Vpbroadcastq | M::Vbroadcastsd => self.broadcast(Lane::I64),
            M::Vbroadcastf128 | M::Vbroadcasti128 => {
                if self.avx_on() {
                    let v = self.read_v128(1);
                    let r = self.join(v, v);
                    self.set_vector(r);
                }
            }
            M::Vinsertf128 | M::Vinserti128 => {
                if self.avx_on() {
                    let half = self.read_v128(2);
                    let old = self.read_vector(1, Type::V256);
                    let (low, high) = (self.part(old, 0), self.part(old, 1));
                    let r = if self.imm8() & 1 == 0 { self.join(half, high) } else { self.join(low, half) };
                    self.set_vector(r);
                }
            }
            M::Vextractf128 | M::Vextracti128 => {
                if self.avx_on() {
                    let v = self.read_vector(1, Type::V256);
                    let half = u64::from(self.imm8() & 1);
                    let half = self.part(v, half);
                    if self.is_memory(0) {
                        let ea = self.ea_sized(16, true);
                        self.store(&ea, half);
                    } else {
                        self.set_vector(half);
                    }
                }
            }
            M::Vperm2f128 | M::Vperm2i128 => {
                if self.avx_on() {
                    let b = self.read_vector(2, Type::V256);
                    let a = self.read_vector(1, Type::V256);
                    let imm = self.imm8();
                    let (low, high) = (self.chosen_half(a, b, imm), self.chosen_half(a, b, imm >> 4));
                    let r = self.join(low, high);
                    self.set_vector(r);
                }
            }
            _ => return false,
        }
        true
    }

    fn chosen_half(&mut self, a: Value, b: Value, which: u8) -> Value {
        if which & 8 != 0 {
            return self.splat(Type::V128, Lane::I64, 0);
        }
        let from = if which & 2 != 0 { b } else { a };
        self.part(from, u64::from(which & 1))
    }

    fn broadcast(&mut self, lane: Lane) {
        if !self.avx_on() {
            return;
        }
        let ty = int(lane.bytes());
        let v = if self.is_memory(1) {
            let ea = self.ea_sized(lane.bytes() as u64, false);
            self.load(ty, &ea)
        } else {
            let v = self.read_v128(1);
            self.lane(ty, lane, v, 0)
        };
        let ty = self.vector_type();
        let r = self.b.vector(Op::Vsplat, ty, lane, 0, [v, Value::NONE, Value::NONE], 0);
        self.set_vector(r);
    }
}
