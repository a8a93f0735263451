//! Packing, unpacking, shuffles, blends and single lanes (SDM volume 1, 5.4.4, 5.5.1, 5.6.3, 5.9, 5.10).

use iced_x86::Mnemonic;
use tcg_ir::{Cond, Lane, Op, Type, Value, VecFn};

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
            M::Pshufd => self.picked(VecFn::Pick32),
            M::Pshuflw => self.picked(VecFn::PickLow16),
            M::Pshufhw => self.picked(VecFn::PickHigh16),
            M::Pshufw => self.pick_mmx(),
            M::Movddup => {
                if self.sse_on() {
                    // Memory has 64 bits for 128.
                    let v = if self.vector_type() == Type::V128 { self.low_half(1) } else { self.vector(1) };
                    let r = self.function(VecFn::ZipLow64, v, v, 0);
                    self.set_vector(r);
                }
            }
            M::Movsldup => self.picked_by(VecFn::Pick32, 0xa0),
            M::Movshdup => self.picked_by(VecFn::Pick32, 0xf5),
            M::Shufps => self.of_two(VecFn::PickTwo32),
            M::Shufpd => self.of_two(VecFn::PickTwo64),
            M::Palignr => self.align(),
            M::Pshufb => {
                if self.vector_on() {
                    let (b, a) = (self.vector(1), self.vector(0));
                    let ty = self.b.ty(a);
                    let r = if ty == Type::V64 {
                        // The top bit says zero; the rest counts modulo the size.
                        let known = self.splat(ty, Lane::I8, 0x87);
                        let b = self.lanes(Op::Vand, Lane::I8, b, known);
                        self.lanes(Op::Vtbl, Lane::I8, a, b)
                    } else {
                        self.function(VecFn::Bytes, a, b, 0)
                    };
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
            M::Pblendw => self.of_two(VecFn::Blend16),
            M::Blendps => self.of_two(VecFn::Blend32),
            M::Blendpd => {
                // Each bit for two double words.
                let imm = u64::from(self.imm8());
                let pairs = (0..4).filter(|n| imm >> n & 1 != 0).fold(0, |all, n| all | 3 << (2 * n));
                self.of_two_by(VecFn::Blend32, pairs);
            }
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
        if self.vector_type() != Type::V64 {
            let f = match (n, high) {
                (1, false) => VecFn::ZipLow8,
                (2, false) => VecFn::ZipLow16,
                (4, false) => VecFn::ZipLow32,
                (_, false) => VecFn::ZipLow64,
                (1, true) => VecFn::ZipHigh8,
                (2, true) => VecFn::ZipHigh16,
                (4, true) => VecFn::ZipHigh32,
                (_, true) => VecFn::ZipHigh64,
            };
            let (b, a) = (self.vector(1), self.vector(0));
            let r = self.function(f, a, b, 0);
            self.set_vector(r);
            return;
        }
        // MMX reads 32 bits of memory for the low half.
        let b = if self.is_memory(1) && !high {
            let ea = self.ea_sized(4, false);
            let v = self.load(Type::I32, &ea);
            let zero = self.splat(Type::V64, Lane::I64, 0);
            self.with_lane(Lane::I32, zero, 0, v)
        } else {
            self.vector(1)
        };
        let a = self.vector(0);
        let first = if high { 4 } else { 0 };
        let at = |second: u32| move |i: u32| (i / n % 2 == second).then_some(first + i / (2 * n) * n + i % n);
        let r = self.pick_two(a, table(8, at(0)), b, table(8, at(1)));
        self.set_vector(r);
    }

    /// A function of the source, by the immediate.
    fn picked(&mut self, f: VecFn) {
        let imm = u64::from(self.imm8());
        self.picked_by(f, imm);
    }

    fn picked_by(&mut self, f: VecFn, imm: u64) {
        if self.sse_on() {
            let v = self.vector(1);
            let r = self.function1(f, v, imm);
            self.set_vector(r);
        }
    }

    /// A function of both sources, by the immediate.
    fn of_two(&mut self, f: VecFn) {
        let imm = u64::from(self.imm8());
        self.of_two_by(f, imm);
    }

    pub(crate) fn of_two_by(&mut self, f: VecFn, imm: u64) {
        if self.sse_on() {
            let (b, a) = (self.vector(1), self.vector(0));
            let r = self.function(f, a, b, imm);
            self.set_vector(r);
        }
    }

    /// PSHUFW.
    fn pick_mmx(&mut self) {
        if self.vector_on() {
            let imm = self.imm8();
            let v = self.vector(1);
            let from = |i: u32| Some(u32::from(imm >> (i / 2 * 2) & 3) * 2 + i % 2);
            let r = self.pick(v, table(8, from));
            self.set_vector(r);
        }
    }

    fn align(&mut self) {
        if !self.vector_on() {
            return;
        }
        let n = u32::from(self.imm8());
        let (b, a) = (self.vector(1), self.vector(0));
        let bytes = self.b.ty(a).bytes() as u32;
        if bytes != 8 {
            let r = self.function(VecFn::Align, a, b, n.into());
            self.set_vector(r);
            return;
        }
        let low = table(bytes, |i| Some(i + n).filter(|i| *i < bytes));
        let high = table(bytes, |i| (i + n).checked_sub(bytes).filter(|i| *i < bytes));
        let r = self.pick_two(b, low, a, high);
        self.set_vector(r);
    }

    /// The low 8 bytes of operand `n`, which as memory need no alignment, and zeros or anything above.
    pub(crate) fn low_half(&mut self, n: u32) -> Value {
        self.low_part(n, 8)
    }

    /// The low bytes of operand `n`, which as memory is no larger, and zeros or anything above.
    pub(crate) fn low_part(&mut self, n: u32, bytes: u64) -> Value {
        let n = self.source(n);
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
        let from = self.source(1);
        let v = if self.is_memory(from) {
            let ea = self.ea_sized(lane.bytes() as u64, false);
            self.load(ty, &ea)
        } else {
            let v = self.read(from);
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
        let from = self.source(1);
        let v = if self.is_memory(from) {
            let ea = self.ea_sized(4, false);
            self.load(Type::I32, &ea)
        } else {
            let v = self.read_v128(from);
            self.lane(Type::I32, Lane::I32, v, u64::from(imm >> 6))
        };
        let old = self.vector(0);
        let r = self.with_lane(Lane::I32, old, u64::from(imm >> 4 & 3), v);
        let kept = (0..4).filter(|i| imm >> i & 1 == 0).fold(0, |m, i| m | 0xffff_ffff << (32 * i));
        let kept = self.bytes(Type::V128, kept);
        let r = self.lanes(Op::Vand, Lane::I8, r, kept);
        self.set_vector(r);
    }

    /// Lanes of the source where XMM0, or with VEX the last operand, has signs.
    fn blend_by_signs(&mut self, lane: Lane) {
        if !self.sse_on() {
            return;
        }
        let (b, a) = (self.vector(1), self.vector(0));
        let ty = self.b.ty(a);
        let signs = if self.is_vex() { self.read_vector(3, ty) } else { self.xmm(0) };
        let zero = self.splat(ty, Lane::I64, 0);
        let mask = self.compared(Cond::Lt, lane, signs, zero);
        let r = self.merge(mask, b, a);
        self.set_vector(r);
    }

    /// Lanes of `from` bytes extended to `to`.
    fn extend(&mut self, from: u32, to: u32, signed: bool) {
        if !self.sse_on() {
            return;
        }
        let ty = self.vector_type();
        let bytes = ty.bytes() as u64 * u64::from(from) / u64::from(to);
        let mut v = if bytes == 16 { self.vector_source_128(1) } else { self.low_part(1, bytes) };
        let sign = u16::from(signed);
        let mut widen = |v: Value, bytes: u32, how: u16| {
            let lane = match bytes {
                2 => Lane::I16,
                4 => Lane::I32,
                _ => Lane::I64,
            };
            self.b.vector(Op::Vwiden, Type::V128, lane, how, [v, Value::NONE, Value::NONE], 0)
        };
        let mut now = from;
        while 2 * now < to {
            now *= 2;
            v = widen(v, now, sign);
        }
        let low = widen(v, to, sign);
        let r = if ty == Type::V256 {
            let high = widen(v, to, sign | 2);
            self.join(low, high)
        } else {
            low
        };
        self.set_vector(r);
    }

    /// Source `n`, of 128 bits whatever the destination has.
    pub(crate) fn vector_source_128(&mut self, n: u32) -> Value {
        let n = self.source(n);
        self.read_v128(n)
    }
}
