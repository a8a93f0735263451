//! Packing, unpacking, shuffles, blends and single lanes (SDM volume 1, 5.4.4, 5.5.1, 5.6.3, 5.9, 5.10).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Op, Type, Value};

use super::super::Translator;

/// A byte table for `bytes` bytes: where each comes from, if anywhere.
pub(super) fn table(bytes: u32, from: impl Fn(u32) -> Option<u32>) -> u128 {
    (0..bytes).map(|i| u128::from(from(i).unwrap_or(0xff)) << (8 * i)).sum()
}

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_shuffle(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Punpcklbw => self.unpack(1, false),
            M::Punpcklwd => self.unpack(2, false),
            M::Punpckldq | M::Unpcklps => self.unpack(4, false),
            M::Punpcklqdq | M::Unpcklpd => self.unpack(8, false),
            M::Punpckhbw => self.unpack(1, true),
            M::Punpckhwd => self.unpack(2, true),
            M::Punpckhdq | M::Unpckhps => self.unpack(4, true),
            M::Punpckhqdq | M::Unpckhpd => self.unpack(8, true),
            M::Packsswb => self.pack(Lane::I16, -128, 127),
            M::Packuswb => self.pack(Lane::I16, 0, 255),
            M::Packssdw => self.pack(Lane::I32, -0x8000, 0x7fff),
            M::Packusdw => self.pack(Lane::I32, 0, 0xffff),
            M::Pshufd => self.shuffle_one(|imm, i| u32::from(imm >> (i / 4 * 2) & 3) * 4 + i % 4),
            M::Pshufw => self.shuffle_one(|imm, i| u32::from(imm >> (i / 2 * 2) & 3) * 2 + i % 2),
            M::Pshuflw => self
                .shuffle_one(|imm, i| if i < 8 { u32::from(imm >> (i / 2 * 2) & 3) * 2 + i % 2 } else { i }),
            M::Pshufhw => self.shuffle_one(|imm, i| {
                if i < 8 { i } else { 8 + u32::from(imm >> ((i - 8) / 2 * 2) & 3) * 2 + i % 2 }
            }),
            M::Movddup => {
                if self.sse_on() {
                    let v = self.low_half(1);
                    let v = self.lane(Type::I64, Lane::I64, v, 0);
                    let r =
                        self.b.vector(Op::Vsplat, Type::V128, Lane::I64, 0, [v, Value::NONE, Value::NONE], 0);
                    self.set_vector(r);
                }
            }
            M::Movsldup => self.shuffle_one(|_, i| i & !4),
            M::Movshdup => self.shuffle_one(|_, i| i | 4),
            M::Shufps => self.shuffle_two(|imm, i| (u32::from(imm >> (i / 4 * 2) & 3) * 4 + i % 4, i >= 8)),
            M::Shufpd => self.shuffle_two(|imm, i| (u32::from(imm >> (i / 8) & 1) * 8 + i % 8, i >= 8)),
            M::Palignr => self.align(),
            M::Pshufb => {
                if self.vector_on() {
                    let (b, a) = (self.vector(1), self.vector(0));
                    let ty = self.b.ty(a);
                    // The top bit says zero; the rest counts modulo the size.
                    let known = self.splat(ty, Lane::I8, 0x80 | (ty.bytes() as u64 - 1));
                    let b = self.lanes(Op::Vand, Lane::I8, b, known);
                    let r = self.lanes(Op::Vtbl, Lane::I8, a, b);
                    self.set_vector(r);
                }
            }
            M::Pextrb => self.extract_lane(Lane::I8, Type::I8),
            M::Pextrw => self.extract_lane(Lane::I16, Type::I16),
            M::Pextrd | M::Extractps => self.extract_lane(Lane::I32, Type::I32),
            M::Pextrq => self.extract_lane(Lane::I64, Type::I64),
            M::Pinsrb => self.insert_lane(Lane::I8, Type::I8),
            M::Pinsrw => self.insert_lane(Lane::I16, Type::I16),
            M::Pinsrd => self.insert_lane(Lane::I32, Type::I32),
            M::Pinsrq => self.insert_lane(Lane::I64, Type::I64),
            M::Insertps => self.insert_single(),
            M::Pblendw => self.blend(2),
            M::Blendps => self.blend(4),
            M::Blendpd => self.blend(8),
            M::Pblendvb => self.blend_by_signs(Lane::I8),
            M::Blendvps => self.blend_by_signs(Lane::I32),
            M::Blendvpd => self.blend_by_signs(Lane::I64),
            M::Pmovzxbw => self.extend(1, 2, false),
            M::Pmovzxbd => self.extend(1, 4, false),
            M::Pmovzxbq => self.extend(1, 8, false),
            M::Pmovzxwd => self.extend(2, 4, false),
            M::Pmovzxwq => self.extend(2, 8, false),
            M::Pmovzxdq => self.extend(4, 8, false),
            M::Pmovsxbw => self.extend(1, 2, true),
            M::Pmovsxbd => self.extend(1, 4, true),
            M::Pmovsxbq => self.extend(1, 8, true),
            M::Pmovsxwd => self.extend(2, 4, true),
            M::Pmovsxwq => self.extend(2, 8, true),
            M::Pmovsxdq => self.extend(4, 8, true),
            _ => return false,
        }
        true
    }

    /// Bytes from `a` and `b` by two tables; each leaves zero where the other has something.
    pub(super) fn pick_two(&mut self, a: Value, from_a: u128, b: Value, from_b: u128) -> Value {
        let a = self.pick(a, from_a);
        let b = self.pick(b, from_b);
        self.lanes(Op::Vor, Lane::I8, a, b)
    }

    /// Lanes of `n` bytes of both operands in turn, from their low or high halves.
    fn unpack(&mut self, n: u32, high: bool) {
        if !self.vector_on() {
            return;
        }
        let bytes = self.vector_type().bytes() as u32;
        // MMX reads 32 bits of memory for the low half.
        let b = if self.is_memory(1) && bytes == 8 && !high {
            let ea = self.ea_sized(4, false);
            let v = self.load(Type::I32, &ea);
            let zero = self.splat(Type::V64, Lane::I64, 0);
            self.with_lane(Lane::I32, zero, 0, v)
        } else {
            self.vector(1)
        };
        let a = self.vector(0);
        let first = if high { bytes / 2 } else { 0 };
        let at = |second: u32| move |i: u32| (i / n % 2 == second).then_some(first + i / (2 * n) * n + i % n);
        let r = self.pick_two(a, table(bytes, at(0)), b, table(bytes, at(1)));
        self.set_vector(r);
    }

    /// Lanes of both operands, clamped, in half their width.
    fn pack(&mut self, lane: Lane, least: i64, most: i64) {
        if !self.vector_on() {
            return;
        }
        let (b, a) = (self.vector(1), self.vector(0));
        let ty = self.b.ty(a);
        let bytes = ty.bytes() as u32;
        let (least, most) = (self.splat(ty, lane, least as u64), self.splat(ty, lane, most as u64));
        let mut clamp = |v| {
            let v = self.lanes(Op::Vmax, lane, v, least);
            self.lanes(Op::Vmin, lane, v, most)
        };
        let (a, b) = (clamp(a), clamp(b));
        let half = lane.bytes() as u32 / 2;
        let from = |i: u32| i / half * lane.bytes() as u32 + i % half;
        let low = table(bytes, |i| (i < bytes / 2).then(|| from(i)));
        let high = table(bytes, |i| (i >= bytes / 2).then(|| from(i - bytes / 2)));
        let r = self.pick_two(a, low, b, high);
        self.set_vector(r);
    }

    /// A shuffle of operand 1 into operand 0.
    fn shuffle_one(&mut self, from: impl Fn(u8, u32) -> u32) {
        if !self.vector_on() {
            return;
        }
        let imm = self.imm8();
        let v = self.vector(1);
        let bytes = self.b.ty(v).bytes() as u32;
        let r = self.pick(v, table(bytes, |i| Some(from(imm, i))));
        self.set_vector(r);
    }

    /// A shuffle whose bytes come from operand 0 or, where it says so, operand 1.
    fn shuffle_two(&mut self, from: impl Fn(u8, u32) -> (u32, bool)) {
        if !self.sse_on() {
            return;
        }
        let imm = self.imm8();
        let (b, a) = (self.vector(1), self.vector(0));
        let of = |second: bool| {
            table(16, |i| {
                let (at, which) = from(imm, i);
                (which == second).then_some(at)
            })
        };
        let r = self.pick_two(a, of(false), b, of(true));
        self.set_vector(r);
    }

    fn align(&mut self) {
        if !self.vector_on() {
            return;
        }
        let n = u32::from(self.imm8());
        let (b, a) = (self.vector(1), self.vector(0));
        let bytes = self.b.ty(a).bytes() as u32;
        let low = table(bytes, |i| Some(i + n).filter(|i| *i < bytes));
        let high = table(bytes, |i| (i + n).checked_sub(bytes).filter(|i| *i < bytes));
        let r = self.pick_two(b, low, a, high);
        self.set_vector(r);
    }

    /// The low 8 bytes of operand `n`, which as memory need no alignment, and zeros or anything above.
    pub(super) fn low_half(&mut self, n: u32) -> Value {
        self.low_part(n, 8)
    }

    /// The low bytes of operand `n`, which as memory is no larger, and zeros or anything above.
    pub(super) fn low_part(&mut self, n: u32, bytes: u64) -> Value {
        if !self.is_memory(n) {
            return self.read_v128(n);
        }
        let ea = self.ea_sized(bytes, false);
        let ty = super::super::operand::int(bytes as usize);
        let v = self.load(ty, &ea);
        let v = self.b.zext(Type::I64, v);
        self.widen(Type::I64, v)
    }

    fn extract_lane(&mut self, lane: Lane, ty: Type) {
        if (self.is_mm(1) && !self.mmx_on()) || (!self.is_mm(1) && !self.sse_on()) {
            return;
        }
        let n = u64::from(self.imm8()) & ((self.vector_type().bytes() / lane.bytes()) as u64 - 1);
        let v = self.vector(1);
        let v = self.lane(ty, lane, v, n);
        if self.is_memory(0) {
            let ea = self.ea_sized(lane.bytes() as u64, true);
            self.store(&ea, v);
        } else {
            let v = self.b.zext(Type::I64, v);
            self.write_mask(v);
        }
    }

    fn insert_lane(&mut self, lane: Lane, ty: Type) {
        if !self.vector_on() {
            return;
        }
        let v = if self.is_memory(1) {
            let ea = self.ea_sized(lane.bytes() as u64, false);
            self.load(ty, &ea)
        } else {
            let v = self.read(1);
            self.b.trunc(ty, v)
        };
        let old = self.vector(0);
        let n = u64::from(self.imm8()) & ((self.b.ty(old).bytes() / lane.bytes()) as u64 - 1);
        let r = self.with_lane(lane, old, n, v);
        self.set_vector(r);
    }

    fn insert_single(&mut self) {
        if !self.sse_on() {
            return;
        }
        let imm = self.imm8();
        let v = if self.is_memory(1) {
            let ea = self.ea_sized(4, false);
            self.load(Type::I32, &ea)
        } else {
            let v = self.read_v128(1);
            self.lane(Type::I32, Lane::I32, v, u64::from(imm >> 6))
        };
        let old = self.vector(0);
        let r = self.with_lane(Lane::I32, old, u64::from(imm >> 4 & 3), v);
        let kept = table(16, |i| (imm >> (i / 4) & 1 == 0).then_some(i));
        let r = self.pick(r, kept);
        self.set_vector(r);
    }

    /// Lanes of `n` bytes of operand 1 where the immediate's bits are ones.
    fn blend(&mut self, n: u32) {
        if !self.sse_on() {
            return;
        }
        let imm = self.imm8();
        let (b, a) = (self.vector(1), self.vector(0));
        let mask: u128 = (0..16).filter(|i| imm >> (i / n) & 1 != 0).map(|i| 0xff << (8 * i)).sum();
        let mask = self.bytes(Type::V128, mask);
        let r = self.merge(mask, b, a);
        self.set_vector(r);
    }

    /// Lanes of operand 1 where XMM0 has signs.
    fn blend_by_signs(&mut self, lane: Lane) {
        if !self.sse_on() {
            return;
        }
        let (b, a) = (self.vector(1), self.vector(0));
        let signs = self.xmm(0);
        let mask = self.lanes_imm(Op::Vsari, lane, signs, lane.bytes() as u64 * 8 - 1);
        let r = self.merge(mask, b, a);
        self.set_vector(r);
    }

    /// Lanes of `from` bytes extended to `to`.
    fn extend(&mut self, from: u32, to: u32, signed: bool) {
        if !self.sse_on() {
            return;
        }
        let v = self.low_part(1, u64::from(16 * from / to));
        // In the upper part of the wider lane, from where a shift brings the sign.
        let at = to - from;
        let spread = table(16, |i| (i % to).checked_sub(at).map(|low| i / to * from + low));
        let v = self.pick(v, spread);
        let lane = match to {
            2 => Lane::I16,
            4 => Lane::I32,
            _ => Lane::I64,
        };
        let op = if signed { Op::Vsari } else { Op::Vshri };
        let r = self.lanes_imm(op, lane, v, u64::from(at) * 8);
        self.set_vector(r);
    }
}
