//! Integer arithmetic and logic (SDM volume 1, 5.4, 5.6.3, 5.8, 5.10).

use iced_x86::Mnemonic;
use tcg_ir::{Cond, Lane, Op, Type, Value};

use super::super::Translator;
use super::shuffle::table;

/// Makes the lanes of a result from those of two operands.
type Make<T> = fn(&mut T, Lane, Value, Value) -> Value;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_integer(&mut self, m: Mnemonic) -> bool {
        use Lane::{I8, I16, I32, I64};
        use Mnemonic as M;

        let plain = match m {
            M::Paddb => Some((Op::Vadd, I8)),
            M::Paddw => Some((Op::Vadd, I16)),
            M::Paddd => Some((Op::Vadd, I32)),
            M::Paddq => Some((Op::Vadd, I64)),
            M::Psubb => Some((Op::Vsub, I8)),
            M::Psubw => Some((Op::Vsub, I16)),
            M::Psubd => Some((Op::Vsub, I32)),
            M::Psubq => Some((Op::Vsub, I64)),
            M::Pand | M::Andps | M::Andpd => Some((Op::Vand, I8)),
            M::Por | M::Orps | M::Orpd => Some((Op::Vor, I8)),
            M::Pxor | M::Xorps | M::Xorpd => Some((Op::Vxor, I8)),
            M::Pmaxub => Some((Op::Vmaxu, I8)),
            M::Pmaxuw => Some((Op::Vmaxu, I16)),
            M::Pmaxud => Some((Op::Vmaxu, I32)),
            M::Pmaxsb => Some((Op::Vmax, I8)),
            M::Pmaxsw => Some((Op::Vmax, I16)),
            M::Pmaxsd => Some((Op::Vmax, I32)),
            M::Pminub => Some((Op::Vminu, I8)),
            M::Pminuw => Some((Op::Vminu, I16)),
            M::Pminud => Some((Op::Vminu, I32)),
            M::Pminsb => Some((Op::Vmin, I8)),
            M::Pminsw => Some((Op::Vmin, I16)),
            M::Pminsd => Some((Op::Vmin, I32)),
            M::Pmullw => Some((Op::Vmul, I16)),
            M::Pmulld => Some((Op::Vmul, I32)),
            _ => None,
        };
        if let Some((op, lane)) = plain {
            if self.vector_on() {
                let (b, a) = (self.vector(1), self.vector(0));
                let r = self.lanes(op, lane, a, b);
                self.set_vector(r);
            }
            return true;
        }
        let (make, lane): (Make<Self>, Lane) = match m {
            M::Pandn | M::Andnps | M::Andnpd => (|t, l, a, b| t.lanes(Op::Vandc, l, b, a), I8),
            M::Pcmpeqb => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I8),
            M::Pcmpeqw => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I16),
            M::Pcmpeqd => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I32),
            M::Pcmpeqq => (|t, l, a, b| t.compared(Cond::Eq, l, a, b), I64),
            M::Pcmpgtb => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I8),
            M::Pcmpgtw => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I16),
            M::Pcmpgtd => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I32),
            M::Pcmpgtq => (|t, l, a, b| t.compared(Cond::Gt, l, a, b), I64),
            M::Paddusb => (Self::add_unsigned, I8),
            M::Paddusw => (Self::add_unsigned, I16),
            M::Psubusb => (Self::sub_unsigned, I8),
            M::Psubusw => (Self::sub_unsigned, I16),
            M::Paddsb => (|t, l, a, b| t.signed_saturated(Op::Vadd, l, a, b), I8),
            M::Paddsw => (|t, l, a, b| t.signed_saturated(Op::Vadd, l, a, b), I16),
            M::Psubsb => (|t, l, a, b| t.signed_saturated(Op::Vsub, l, a, b), I8),
            M::Psubsw => (|t, l, a, b| t.signed_saturated(Op::Vsub, l, a, b), I16),
            M::Pavgb => (Self::average, I8),
            M::Pavgw => (Self::average, I16),
            M::Pmulhw => (|t, _, a, b| t.high_product(true, a, b), I16),
            M::Pmulhuw => (|t, _, a, b| t.high_product(false, a, b), I16),
            M::Pmuludq => (Self::product_unsigned, I64),
            M::Pmuldq => (Self::product_signed, I64),
            M::Pmaddwd => (Self::sum_of_products, I32),
            M::Psadbw => (Self::sum_of_differences, I8),
            M::Pabsb => (|t, l, _, b| t.absolute(l, b), I8),
            M::Pabsw => (|t, l, _, b| t.absolute(l, b), I16),
            M::Pabsd => (|t, l, _, b| t.absolute(l, b), I32),
            M::Phaddw => (|t, l, a, b| t.neighbours(l, a, b, |t, l, a, b| t.lanes(Op::Vadd, l, a, b)), I16),
            M::Phaddd => (|t, l, a, b| t.neighbours(l, a, b, |t, l, a, b| t.lanes(Op::Vadd, l, a, b)), I32),
            M::Phsubw => (|t, l, a, b| t.neighbours(l, a, b, |t, l, a, b| t.lanes(Op::Vsub, l, a, b)), I16),
            M::Phsubd => (|t, l, a, b| t.neighbours(l, a, b, |t, l, a, b| t.lanes(Op::Vsub, l, a, b)), I32),
            M::Phaddsw => {
                (|t, l, a, b| t.neighbours(l, a, b, |t, l, a, b| t.signed_saturated(Op::Vadd, l, a, b)), I16)
            }
            M::Phsubsw => {
                (|t, l, a, b| t.neighbours(l, a, b, |t, l, a, b| t.signed_saturated(Op::Vsub, l, a, b)), I16)
            }
            M::Pmulhrsw => (Self::rounded_product, I32),
            M::Pmaddubsw => (Self::sum_of_mixed_products, I16),
            M::Phminposuw => (|t, _, _, b| t.least_word(b), I16),
            M::Mpsadbw => (Self::sums_of_blocks, I16),
            M::Psignb => (Self::signed_as, I8),
            M::Psignw => (Self::signed_as, I16),
            M::Psignd => (Self::signed_as, I32),
            _ => return false,
        };
        if self.vector_on() {
            let (b, a) = (self.vector(1), self.vector(0));
            let r = make(self, lane, a, b);
            self.set_vector(r);
        }
        true
    }

    /// All ones in lanes where the condition holds.
    pub(super) fn compared(&mut self, cond: Cond, lane: Lane, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vcmp, ty, lane, cond as u16, [a, b, Value::NONE], 0)
    }

    fn complement(&mut self, a: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vnot, ty, Lane::I8, 0, [a, Value::NONE, Value::NONE], 0)
    }

    /// `b` plus as much of `a` as fits.
    fn add_unsigned(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let room = self.complement(b);
        let a = self.lanes(Op::Vminu, lane, a, room);
        self.lanes(Op::Vadd, lane, a, b)
    }

    fn sub_unsigned(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let a = self.lanes(Op::Vmaxu, lane, a, b);
        self.lanes(Op::Vsub, lane, a, b)
    }

    /// Where the signs say that the result does not fit: the extreme on the side of `a`.
    fn signed_saturated(&mut self, op: Op, lane: Lane, a: Value, b: Value) -> Value {
        let bits = lane.bytes() as u64 * 8;
        let r = self.lanes(op, lane, a, b);
        let signs = self.lanes(Op::Vxor, lane, a, b);
        let changed = self.lanes(Op::Vxor, lane, a, r);
        let over = if op == Op::Vadd {
            self.lanes(Op::Vandc, lane, changed, signs)
        } else {
            self.lanes(Op::Vand, lane, changed, signs)
        };
        let over = self.lanes_imm(Op::Vsari, lane, over, bits - 1);
        let side = self.lanes_imm(Op::Vsari, lane, a, bits - 1);
        let ty = self.b.ty(a);
        let most = self.splat(ty, lane, (1 << (bits - 1)) - 1);
        let extreme = self.lanes(Op::Vxor, lane, side, most);
        self.merge(over, extreme, r)
    }

    /// Half the sum, rounded up, without overflow.
    fn average(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let either = self.lanes(Op::Vor, lane, a, b);
        let differ = self.lanes(Op::Vxor, lane, a, b);
        let half = self.lanes_imm(Op::Vshri, lane, differ, 1);
        self.lanes(Op::Vsub, lane, either, half)
    }

    /// The even and the odd 16-bit lanes as 32-bit ones.
    fn wide_words(&mut self, signed: bool, v: Value) -> (Value, Value) {
        let op = if signed { Op::Vsari } else { Op::Vshri };
        let even = self.lanes_imm(Op::Vshli, Lane::I32, v, 16);
        (self.lanes_imm(op, Lane::I32, even, 16), self.lanes_imm(op, Lane::I32, v, 16))
    }

    fn high_product(&mut self, signed: bool, a: Value, b: Value) -> Value {
        let (a0, a1) = self.wide_words(signed, a);
        let (b0, b1) = self.wide_words(signed, b);
        let even = self.lanes(Op::Vmul, Lane::I32, a0, b0);
        let odd = self.lanes(Op::Vmul, Lane::I32, a1, b1);
        let even = self.lanes_imm(Op::Vshri, Lane::I32, even, 16);
        let odd = self.lanes_imm(Op::Vshri, Lane::I32, odd, 16);
        let odd = self.lanes_imm(Op::Vshli, Lane::I32, odd, 16);
        self.lanes(Op::Vor, Lane::I32, even, odd)
    }

    fn product_unsigned(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        let low = self.splat(ty, lane, 0xffff_ffff);
        let (a, b) = (self.lanes(Op::Vand, lane, a, low), self.lanes(Op::Vand, lane, b, low));
        self.lanes(Op::Vmul, lane, a, b)
    }

    fn product_signed(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let mut low = |v| {
            let v = self.lanes_imm(Op::Vshli, lane, v, 32);
            self.lanes_imm(Op::Vsari, lane, v, 32)
        };
        let (a, b) = (low(a), low(b));
        self.lanes(Op::Vmul, lane, a, b)
    }

    fn sum_of_products(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let (a0, a1) = self.wide_words(true, a);
        let (b0, b1) = self.wide_words(true, b);
        let even = self.lanes(Op::Vmul, lane, a0, b0);
        let odd = self.lanes(Op::Vmul, lane, a1, b1);
        self.lanes(Op::Vadd, lane, even, odd)
    }

    /// Sums of the absolute differences of eight bytes each.
    fn sum_of_differences(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let more = self.lanes(Op::Vmaxu, lane, a, b);
        let less = self.lanes(Op::Vminu, lane, a, b);
        let mut v = self.lanes(Op::Vsub, lane, more, less);
        for (wide, bits) in [(Lane::I16, 8), (Lane::I32, 16), (Lane::I64, 32)] {
            let odd = self.lanes_imm(Op::Vshri, wide, v, bits);
            let even = self.lanes_imm(Op::Vshli, wide, v, bits);
            let even = self.lanes_imm(Op::Vshri, wide, even, bits);
            v = self.lanes(Op::Vadd, wide, even, odd);
        }
        v
    }

    /// Both lanes of each pair of `a`, then of `b`, put together.
    fn neighbours(
        &mut self,
        lane: Lane,
        a: Value,
        b: Value,
        make: fn(&mut Self, Lane, Value, Value) -> Value,
    ) -> Value {
        let (n, bytes) = (lane.bytes() as u32, self.b.ty(a).bytes() as u32);
        let half = bytes / 2;
        let mut side = |odd: u32| {
            let from = |i: u32| i / n * 2 * n + odd * n + i % n;
            let low = table(bytes, |i| (i < half).then(|| from(i)));
            let high = table(bytes, |i| (i >= half).then(|| from(i - half)));
            self.pick_two(a, low, b, high)
        };
        let (even, odd) = (side(0), side(1));
        make(self, lane, even, odd)
    }

    /// Bits 15 to 30 of the products, rounded.
    fn rounded_product(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let (a0, a1) = self.wide_words(true, a);
        let (b0, b1) = self.wide_words(true, b);
        let ty = self.b.ty(a);
        let one = self.splat(ty, lane, 1);
        let mut round = |x, y| {
            let p = self.lanes(Op::Vmul, lane, x, y);
            let p = self.lanes_imm(Op::Vshri, lane, p, 14);
            let p = self.lanes(Op::Vadd, lane, p, one);
            self.lanes_imm(Op::Vshli, lane, p, 15)
        };
        let (even, odd) = (round(a0, b0), round(a1, b1));
        let even = self.lanes_imm(Op::Vshri, lane, even, 16);
        let odd = self.lanes_imm(Op::Vshri, lane, odd, 16);
        let odd = self.lanes_imm(Op::Vshli, lane, odd, 16);
        self.lanes(Op::Vor, lane, even, odd)
    }

    /// Unsigned bytes of `a` times signed ones of `b`, pairs added.
    fn sum_of_mixed_products(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let mut bytes = |v: Value, op: Op| {
            let even = self.lanes_imm(Op::Vshli, lane, v, 8);
            (self.lanes_imm(op, lane, even, 8), self.lanes_imm(op, lane, v, 8))
        };
        let (a0, a1) = bytes(a, Op::Vshri);
        let (b0, b1) = bytes(b, Op::Vsari);
        let even = self.lanes(Op::Vmul, lane, a0, b0);
        let odd = self.lanes(Op::Vmul, lane, a1, b1);
        self.signed_saturated(Op::Vadd, lane, even, odd)
    }

    /// The least word, and its number behind it.
    fn least_word(&mut self, v: Value) -> Value {
        let three = self.b.iconst(Type::I64, 3);
        let mut best = None;
        for n in 0..8 {
            let word = self.lane(Type::I16, Lane::I16, v, n);
            let word = self.b.zext(Type::I64, word);
            let word = self.b.shl(word, three);
            // Of equal ones the first has the lower number.
            let word = self.b.addi(word, n as i64);
            best = Some(match best {
                None => word,
                Some(other) => {
                    let less = self.b.setcc(Type::I8, Cond::Ltu, word, other);
                    self.b.select(less, word, other)
                }
            });
        }
        let zero = self.splat(Type::V128, Lane::I64, 0);
        let Some(best) = best else { return zero };
        let word = self.b.shr(best, three);
        let number = self.b.extract(best, 0, 3);
        let r = self.with_lane(Lane::I16, zero, 0, word);
        self.with_lane(Lane::I16, r, 1, number)
    }

    /// Sums of the differences of four bytes of `b` from those of `a` at eight places.
    fn sums_of_blocks(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let imm = u32::from(self.imm8());
        let (first, block) = ((imm >> 2 & 1) * 4, (imm & 3) * 4);
        let mut sum = self.splat(Type::V128, Lane::I64, 0);
        for j in 0..4 {
            let x = self.pick(a, table(16, |i| (i % 2 == 0).then_some(first + i / 2 + j)));
            let y = self.pick(b, table(16, |i| (i % 2 == 0).then_some(block + j)));
            let more = self.lanes(Op::Vmaxu, lane, x, y);
            let less = self.lanes(Op::Vminu, lane, x, y);
            let difference = self.lanes(Op::Vsub, lane, more, less);
            sum = self.lanes(Op::Vadd, lane, sum, difference);
        }
        sum
    }

    fn absolute(&mut self, lane: Lane, a: Value) -> Value {
        let ty = self.b.ty(a);
        let minus = self.b.vector(Op::Vneg, ty, lane, 0, [a, Value::NONE, Value::NONE], 0);
        // The most negative number stays as it is, and is the greatest without sign.
        self.lanes(Op::Vminu, lane, a, minus)
    }

    /// `a`, its negative or zero, as `b` is positive, negative or zero.
    fn signed_as(&mut self, lane: Lane, a: Value, b: Value) -> Value {
        let ty: Type = self.b.ty(a);
        let minus = self.b.vector(Op::Vneg, ty, lane, 0, [a, Value::NONE, Value::NONE], 0);
        let zero = self.splat(ty, Lane::I64, 0);
        let negative = self.compared(Cond::Lt, lane, b, zero);
        let none = self.compared(Cond::Eq, lane, b, zero);
        let r = self.merge(negative, minus, a);
        self.lanes(Op::Vandc, lane, r, none)
    }
}
