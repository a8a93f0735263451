//! Integer vector recipes on AVX2, among them those for lanes the host has no instruction for: shifts and products of
//! bytes go through words, comparisons without sign through minima or a flipped sign bit, 64-bit products through
//! three of 32 bits.
//!
//! `d` may be one of the sources: it is written last. `xmm14` and `xmm15` are scratch.

use tcg_ir::{Cond, Inst, Op};

use super::Gen;
use super::lower_vec::{LOAD, Shape, all, p0f, p3a, p38};
use super::regs::*;

/// Shift kinds, as the extension of the opcode for immediate counts.
const RIGHT: u8 = 2;
const RIGHT_SIGNED: u8 = 4;
const LEFT: u8 = 6;

/// `byte` in each byte.
const fn bytes(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

const SIGN64: u64 = 1 << 63;

impl Gen<'_> {
    /// True if a recipe asks for a third scratch register.
    pub(super) fn needs_temp(op: Op, s: Shape) -> bool {
        match op {
            Op::Vshl | Op::Vshr | Op::Vsar => s.log2 < 2,
            Op::Vmulhu | Op::Vmulhs => s.log2 == 0 || s.log2 == 2,
            Op::Vtbl => s.y,
            _ => false,
        }
    }

    /// Emits `d = a op b`; `t` is scratch if [`needs_temp`](Self::needs_temp) says so.
    pub(super) fn vint(&mut self, inst: &Inst, s: Shape, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        // Opcodes of bytes, words and double words often follow each other; quadwords have their own.
        let w = s.log2 as u8;
        match inst.op {
            Op::Vand => self.vp(s, p0f(0xdb), d, a, b),
            Op::Vor => self.vp(s, p0f(0xeb), d, a, b),
            Op::Vxor => self.vp(s, p0f(0xef), d, a, b),
            // `vpandn` complements its first source.
            Op::Vandc => self.vp(s, p0f(0xdf), d, b, a),
            Op::Vadd => self.vp(s, p0f([0xfc, 0xfd, 0xfe, 0xd4][s.log2]), d, a, b),
            Op::Vsub => self.vp(s, p0f(0xf8 + w), d, a, b),
            Op::Vnot => {
                self.vones(s, X15);
                self.vp(s, p0f(0xef), d, a, X15);
            }
            Op::Vneg => {
                self.vxor(X15);
                self.vp(s, p0f(0xf8 + w), d, X15, a);
            }
            Op::Vmul => self.vmul(s, d, a, b),
            Op::Vmulhu | Op::Vmulhs => self.vmulh(s, inst.op == Op::Vmulhs, d, a, b, t),
            Op::Vmin | Op::Vmax | Op::Vminu | Op::Vmaxu => self.vminmax(s, inst.op, d, a, b),
            Op::Vshli => self.vshift_imm(s, LEFT, d, a, inst.imm as u8),
            Op::Vshri => self.vshift_imm(s, RIGHT, d, a, inst.imm as u8),
            Op::Vsari => self.vshift_imm(s, RIGHT_SIGNED, d, a, inst.imm as u8),
            Op::Vshl => self.vshift_lanes(s, LEFT, d, a, b, t),
            Op::Vshr => self.vshift_lanes(s, RIGHT, d, a, b, t),
            Op::Vsar => self.vshift_lanes(s, RIGHT_SIGNED, d, a, b, t),
            Op::Vcmp => self.vcompare(s, Cond::from_bits(inst.sub >> 8), d, a, b),
            Op::Vtbl => self.vtbl(s, d, a, b, t),
            Op::Vwiden => self.vwiden(s, inst.sub >> 8, d, a),
            Op::Vnarrow => self.vnarrow(s, d, a, b),
            op => debug_assert!(false, "{op:?} has no recipe"),
        }
    }

    /// Clears the upper byte of each word.
    fn low_bytes(&mut self, s: Shape, d: Xmm, a: Xmm) {
        self.vpk(s, p0f(0xdb), d, a, 0x00ff_00ff_00ff_00ff);
    }

    fn vmul(&mut self, s: Shape, d: Xmm, a: Xmm, b: Xmm) {
        match s.log2 {
            0 => {
                self.vshift(s, 1, RIGHT, X15, a, 8);
                self.vshift(s, 1, RIGHT, X14, b, 8);
                self.vp(s, p0f(0xd5), X15, X15, X14);
                self.vshift(s, 1, LEFT, X15, X15, 8);
                self.vp(s, p0f(0xd5), X14, a, b);
                self.low_bytes(s, X14, X14);
                self.vp(s, p0f(0xeb), d, X14, X15);
            }
            1 => self.vp(s, p0f(0xd5), d, a, b),
            2 => self.vp(s, p38(0x40), d, a, b),
            _ => {
                // Both products of a low and a high half, added, stand above the product of the low halves.
                self.asm.vop_imm(p0f(0x70).l(s.y), X15, Xmm(0), b, 0xb1);
                self.vp(s, p38(0x40), X15, X15, a);
                self.vshift(s, 3, RIGHT, X14, X15, 32);
                self.vp(s, p0f(0xfe), X15, X15, X14);
                self.vshift(s, 3, LEFT, X15, X15, 32);
                self.vp(s, p0f(0xf4), X14, a, b);
                self.vp(s, p0f(0xd4), d, X14, X15);
            }
        }
    }

    fn vmulh(&mut self, s: Shape, signed: bool, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        let right = if signed { RIGHT_SIGNED } else { RIGHT };
        match s.log2 {
            0 => {
                for (x, from) in [(X14, a), (X15, b)] {
                    self.vshift(s, 1, LEFT, x, from, 8);
                    self.vshift(s, 1, right, x, x, 8);
                }
                self.vp(s, p0f(0xd5), X14, X14, X15);
                self.vshift(s, 1, RIGHT, X14, X14, 8);
                self.vshift(s, 1, right, X15, a, 8);
                self.vshift(s, 1, right, t, b, 8);
                self.vp(s, p0f(0xd5), X15, X15, t);
                self.vpk(s, p0f(0xdb), X15, X15, 0xff00_ff00_ff00_ff00);
                self.vp(s, p0f(0xeb), d, X14, X15);
            }
            1 => self.vp(s, p0f(if signed { 0xe5 } else { 0xe4 }), d, a, b),
            _ => {
                let mul = if signed { p38(0x28) } else { p0f(0xf4) };
                self.vp(s, mul, X14, a, b);
                self.vshift(s, 3, RIGHT, X14, X14, 32);
                self.vshift(s, 3, RIGHT, X15, a, 32);
                self.vshift(s, 3, RIGHT, t, b, 32);
                self.vp(s, mul, X15, X15, t);
                self.asm.vop_imm(p3a(0x02).l(s.y), d, X14, X15, 0xaa);
            }
        }
    }

    /// Emits a minimum or maximum.
    pub(super) fn vminmax(&mut self, s: Shape, op: Op, d: Xmm, a: Xmm, b: Xmm) {
        let signed = matches!(op, Op::Vmin | Op::Vmax);
        let max = matches!(op, Op::Vmax | Op::Vmaxu);
        if s.log2 < 3 {
            let v = match (signed, max, s.log2) {
                (true, false, 0) => p38(0x38),
                (true, false, 1) => p0f(0xea),
                (true, false, _) => p38(0x39),
                (true, true, 0) => p38(0x3c),
                (true, true, 1) => p0f(0xee),
                (true, true, _) => p38(0x3d),
                (false, false, 0) => p0f(0xda),
                (false, false, 1) => p38(0x3a),
                (false, false, _) => p38(0x3b),
                (false, true, 0) => p0f(0xde),
                (false, true, 1) => p38(0x3e),
                (false, true, _) => p38(0x3f),
            };
            self.vp(s, v, d, a, b);
            return;
        }
        if signed {
            self.vp(s, p38(0x37), X15, a, b);
        } else {
            self.vpk(s, p0f(0xef), X14, a, SIGN64);
            self.vpk(s, p0f(0xef), X15, b, SIGN64);
            self.vp(s, p38(0x37), X15, X14, X15);
        }
        // Where a is greater.
        let (low, high) = if max { (b, a) } else { (a, b) };
        self.asm.vop_imm(p3a(0x4c).l(s.y), d, low, high, X15.0 << 4);
    }

    fn vshift_imm(&mut self, s: Shape, kind: u8, d: Xmm, a: Xmm, n: u8) {
        match (s.log2, kind) {
            (0, LEFT) => {
                self.vshift(s, 1, LEFT, X15, a, n);
                self.vpk(s, p0f(0xdb), d, X15, bytes((0xff_u32 << n) as u8));
            }
            (0, _) => {
                self.vshift(s, 1, RIGHT, X15, a, n);
                self.vpk(s, p0f(0xdb), X15, X15, bytes((0xff_u32 >> n) as u8));
                if kind == RIGHT {
                    self.asm.vmov(s.y, d, X15);
                    return;
                }
                // The sign bit, now bit 7 - n, is extended by flipping and subtracting it.
                let sign = bytes((0x80_u32 >> n) as u8);
                self.vpk(s, p0f(0xef), X15, X15, sign);
                self.vpk(s, p0f(0xf8), d, X15, sign);
            }
            (3, RIGHT_SIGNED) => {
                self.vsign64(s, X15, a);
                self.vp(s, p0f(0xef), X14, a, X15);
                self.vshift(s, 3, RIGHT, X14, X14, n);
                self.vp(s, p0f(0xef), d, X14, X15);
            }
            _ => self.vshift(s, s.log2, kind, d, a, n),
        }
    }

    /// All ones in the lanes of `a` that are negative.
    fn vsign64(&mut self, s: Shape, d: Xmm, a: Xmm) {
        self.vxor(d);
        self.vp(s, p38(0x37), d, d, a);
    }

    fn vshift_lanes(&mut self, s: Shape, kind: u8, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        let by = |kind| match kind {
            LEFT => p38(0x47),
            RIGHT => p38(0x45),
            _ => p38(0x46),
        };
        match s.log2 {
            0 => self.vshift_bytes(s, kind, d, a, b, t),
            1 => {
                self.vpk(s, p0f(0xdb), X15, b, 0x000f_000f_000f_000f);
                // The odd words shift inside their double words, which must not bring the even ones in.
                self.vshift(s, 2, RIGHT, X14, X15, 16);
                if kind == LEFT {
                    self.vpk(s, p0f(0xdb), t, a, 0xffff_0000_ffff_0000);
                    self.vp(s, by(kind), t, t, X14);
                } else {
                    self.vp(s, by(kind), t, a, X14);
                }
                self.vpk(s, p0f(0xdb), X14, X15, 0x0000_ffff_0000_ffff);
                match kind {
                    LEFT => self.vp(s, by(kind), X14, a, X14),
                    RIGHT => {
                        self.vpk(s, p0f(0xdb), X15, a, 0x0000_ffff_0000_ffff);
                        self.vp(s, by(kind), X14, X15, X14);
                    }
                    _ => {
                        self.vshift(s, 2, LEFT, X15, a, 16);
                        self.vp(s, by(kind), X14, X15, X14);
                        self.vshift(s, 2, RIGHT, X14, X14, 16);
                    }
                }
                self.asm.vop_imm(p3a(0x0e).l(s.y), d, X14, t, 0xaa);
            }
            2 => {
                self.vpk(s, p0f(0xdb), X15, b, 0x0000_001f_0000_001f);
                self.vp(s, by(kind), d, a, X15);
            }
            _ => {
                self.vpk(s, p0f(0xdb), X15, b, 63);
                if kind == RIGHT_SIGNED {
                    self.vsign64(s, X14, a);
                    self.vp(s, p0f(0xef), d, a, X14);
                    self.vp(s, by(RIGHT).w(true), d, d, X15);
                    self.vp(s, p0f(0xef), d, d, X14);
                } else {
                    self.vp(s, by(kind).w(true), d, a, X15);
                }
            }
        }
    }

    /// Shifts of bytes, as products with powers of two that a table has.
    fn vshift_bytes(&mut self, s: Shape, kind: u8, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        const MUL: super::asm::V = p0f(0xd5);
        self.vpk(s, p0f(0xdb), X15, b, bytes(7));
        // 1 << n, or 128 >> n with seven bits of the product to be dropped.
        let table: u64 = if kind == LEFT { 0x8040_2010_0804_0201 } else { 0x0102_0408_1020_4080 };
        self.asm.vop_const(LOAD.l(s.y), t, Xmm(0), all(table));
        self.vp(s, p38(0x00), X15, t, X15);
        if kind == LEFT {
            self.vp(s, MUL, X14, a, X15);
            self.low_bytes(s, X14, X14);
            self.vpk(s, p0f(0xdb), t, a, 0xff00_ff00_ff00_ff00);
            self.vshift(s, 1, RIGHT, X15, X15, 8);
            self.vp(s, MUL, t, t, X15);
        } else {
            self.vshift(s, 1, LEFT, X14, a, 8);
            self.vshift(s, 1, kind, X14, X14, 8);
            self.low_bytes(s, t, X15);
            self.vp(s, MUL, X14, X14, t);
            self.vshift(s, 1, kind, X14, X14, 7);
            if kind == RIGHT_SIGNED {
                self.low_bytes(s, X14, X14);
            }
            self.vshift(s, 1, kind, t, a, 8);
            self.vshift(s, 1, RIGHT, X15, X15, 8);
            self.vp(s, MUL, t, t, X15);
            self.vshift(s, 1, kind, t, t, 7);
            self.vshift(s, 1, LEFT, t, t, 8);
        }
        self.vp(s, p0f(0xeb), d, X14, t);
    }

    fn vcompare(&mut self, s: Shape, cond: Cond, d: Xmm, a: Xmm, b: Xmm) {
        let w = s.log2 as u8;
        let (eq, gt) = if w == 3 { (p38(0x29), p38(0x37)) } else { (p0f(0x74 + w), p0f(0x64 + w)) };
        let mut negate = false;
        match cond {
            Cond::Eq => self.vp(s, eq, d, a, b),
            Cond::Gt => self.vp(s, gt, d, a, b),
            Cond::Lt => self.vp(s, gt, d, b, a),
            Cond::Ne | Cond::Le | Cond::Ge => {
                negate = true;
                let (op, x, y) = match cond {
                    Cond::Ne => (eq, a, b),
                    Cond::Le => (gt, a, b),
                    _ => (gt, b, a),
                };
                self.vp(s, op, d, x, y);
            }
            Cond::TestZ | Cond::TestNz => {
                negate = cond == Cond::TestNz;
                self.vp(s, p0f(0xdb), X15, a, b);
                self.vxor(X14);
                self.vp(s, eq, d, X15, X14);
            }
            _ if w == 3 => {
                self.vpk(s, p0f(0xef), X14, a, SIGN64);
                self.vpk(s, p0f(0xef), X15, b, SIGN64);
                negate = matches!(cond, Cond::Leu | Cond::Geu);
                let greater = matches!(cond, Cond::Gtu | Cond::Leu);
                let (x, y) = if greater { (X14, X15) } else { (X15, X14) };
                self.vp(s, gt, d, x, y);
            }
            _ => {
                negate = matches!(cond, Cond::Gtu | Cond::Ltu);
                let op = if matches!(cond, Cond::Leu | Cond::Gtu) { Op::Vminu } else { Op::Vmaxu };
                self.vminmax(s, op, X15, a, b);
                self.vp(s, eq, d, X15, a);
            }
        }
        if negate {
            self.vones(s, X15);
            self.vp(s, p0f(0xef), d, d, X15);
        }
    }

    fn vtbl(&mut self, s: Shape, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        // Saturation brings what is too large to 128 and above, where `vpshufb` gives zero.
        if s.half {
            self.vpk(s, p0f(0xdc), X15, b, bytes(0x78));
            self.vp(s, p0f(0x6c), X14, a, a);
            self.vp(s, p38(0x00), d, X14, X15);
        } else if s.y {
            self.vpk(s, p0f(0xdc), X15, b, bytes(0x70));
            self.asm.vop_imm(p3a(0x46).l(true), X14, a, a, 0x00);
            self.vp(s, p38(0x00), t, X14, X15);
            self.vpk(s, p0f(0xf8), X15, b, bytes(0x10));
            self.vpk(s, p0f(0xdc), X15, X15, bytes(0x70));
            self.asm.vop_imm(p3a(0x46).l(true), X14, a, a, 0x11);
            self.vp(s, p38(0x00), X14, X14, X15);
            self.vp(s, p0f(0xeb), d, X14, t);
        } else {
            self.vpk(s, p0f(0xdc), X15, b, bytes(0x70));
            self.vp(s, p38(0x00), d, a, X15);
        }
    }

    fn vwiden(&mut self, s: Shape, how: u16, d: Xmm, a: Xmm) {
        let mut from = a;
        if how & 2 != 0 {
            from = X15;
            if s.y {
                self.asm.vex(p3a(0x39).l(true), a.0, 0, X15);
                self.asm.b(1);
            } else if s.half {
                self.vshift(s, 3, RIGHT, X15, a, 32);
            } else {
                self.vshift(s, 3, 3, X15, a, 8);
            }
        }
        let op = [0, 0x30, 0x33, 0x35][s.log2] - if how & 1 != 0 { 0x10 } else { 0 };
        self.asm.vop(p38(op).l(s.y), d, Xmm(0), from);
    }

    fn vnarrow(&mut self, s: Shape, d: Xmm, a: Xmm, b: Xmm) {
        let (mut a, mut b) = (a, b);
        if s.half {
            self.vp(s, p0f(0x6c), X15, a, b);
            (a, b) = (X15, X15);
        }
        match s.log2 {
            2 => self.asm.vop_imm(super::asm::V::new(0, 1, 0xc6).l(s.y), d, a, b, 0x88),
            n => {
                let mask = if n == 0 { 0x00ff_00ff_00ff_00ff } else { 0x0000_ffff_0000_ffff };
                self.vpk(s, p0f(0xdb), X14, a, mask);
                if b != X15 {
                    self.vpk(s, p0f(0xdb), X15, b, mask);
                } else {
                    self.asm.vmov(s.y, X15, X14);
                }
                self.vp(s, if n == 0 { p0f(0x67) } else { p38(0x2b) }, d, X14, X15);
            }
        }
        if s.y {
            self.asm.vop_imm(p3a(0x00).w(true).l(true), d, Xmm(0), d, 0xd8);
        }
    }
}
