//! Vectors of 512 bits on AVX-512 (F, BW and DQ). Hosts without it keep them in memory and compute them softly.
//!
//! Comparisons give a mask register, which `vpmovm2*` makes a vector of. `k1` is scratch, as `xmm14` and `xmm15` are.

use tcg_ir::{Cond, FCond, FpAttr, Inst, MinMax, NanPolicy, Op, RmwOp, Rounding, Value};

use super::alloc::{Class, NO_REG, class};
use super::asm::{Cc, Mem, V};
use super::lower_vec::{ANY, Shape, all, p0f, p3a, p38};
use super::regs::*;
use super::{Gen, Too};

/// The scratch mask register.
const K1: u8 = 1;

/// The comparison of `vpcmp` and `vcmpps`' predicates.
const EQ: u8 = 0;
const LT: u8 = 1;
const LE: u8 = 2;
const NE: u8 = 4;
const GE: u8 = 5;
const GT: u8 = 6;
const UNORDERED: u8 = 3;

/// Opcode with the prefix F3.
const fn f3(map: u8, op: u8) -> V {
    V::new(2, map, op)
}

const fn is_wide(s: Shape) -> bool {
    s.log2 == 3
}

/// True for lanes whose instruction has the bit W: words among bytes, quadwords among double words.
const fn odd(s: Shape) -> bool {
    s.log2 & 1 != 0
}

/// Packed operation `op` of map 0F.
const fn packed(s: Shape, op: u8) -> V {
    V::new(if is_wide(s) { 1 } else { 0 }, 1, op).w(is_wide(s)).z()
}

impl Gen<'_> {
    fn zop(&mut self, v: V, d: Xmm, a: Xmm, b: Xmm) {
        self.asm.vop(v.z(), d, a, b);
    }

    fn zop_imm(&mut self, v: V, d: Xmm, a: Xmm, b: Xmm, imm: u8) {
        self.asm.vop_imm(v.z(), d, a, b, imm);
    }

    /// A word in every quadword.
    fn zconst(&mut self, d: Xmm, word: u64) {
        self.asm.vop_const(p38(0x59).w(true).z(), d, Xmm(0), all(word));
    }

    fn zshift(&mut self, log2: usize, kind: u8, d: Xmm, a: Xmm, n: u8) {
        self.asm.vex(p0f(0x70 + log2 as u8).w(log2 == 3).z(), kind, d.0, a);
        self.asm.b(n);
    }

    /// Lanes of all ones where the scratch mask is set.
    fn zmask_to(&mut self, s: Shape, d: Xmm) {
        let op = if s.log2 < 2 { 0x28 } else { 0x38 };
        self.asm.vex(f3(2, op).w(odd(s)).z(), d.0, 0, Xmm(K1));
    }

    /// The top bits of lanes to the scratch mask.
    fn zmask_from(&mut self, s: Shape, a: Xmm) {
        let op = if s.log2 < 2 { 0x29 } else { 0x39 };
        self.asm.vex(f3(2, op).w(odd(s)).z(), K1, 0, a);
    }

    /// A general register to the scratch mask.
    fn kmov_from(&mut self, r: Gpr) {
        self.asm.vex(V::new(3, 1, 0x92).w(true), K1, 0, super::asm::Rm::Reg(r.0));
    }

    /// A vector operation of 512 bits. False if there is no recipe.
    pub(super) fn lower_vec_512(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<bool, Too> {
        if inst.op.info().effect == tcg_ir::Effect::Fp {
            return self.zfloat(v, inst, s, FpAttr(inst.imm as u16));
        }
        match inst.op {
            Op::Vtbl => return Ok(false),
            Op::Vmulhu | Op::Vmulhs if s.log2 != 1 => return Ok(false),
            Op::Vsplat => {
                self.zsplat_from(inst.a, s, None, |g| {
                    g.done(inst.a);
                    g.define_xmm(v, ANY, 0)
                })?;
            }
            Op::Vinsert => {
                let a = self.use_xmm(inst.a)?;
                self.asm.mov_imm(RAX, 1 << inst.imm);
                self.kmov_from(RAX);
                self.zsplat_from(inst.b, s, Some(a), |g| {
                    g.done(inst.a);
                    g.done(inst.b);
                    g.define_xmm(v, a, 0)
                })?;
            }
            Op::Vextract => self.zextract(v, inst, s)?,
            Op::Vbits => {
                let a = self.use_xmm(inst.a)?;
                self.done(inst.a);
                let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
                self.zmask_from(s, a);
                // Lanes that do not exist are zeros in the mask.
                self.asm.vex(V::new(3, 1, 0x93).w(true), d.0, 0, Xmm(K1));
                self.vals[v.index()].zx = (64 >> s.log2) as u8;
            }
            Op::Vmask => {
                let bits = self.r.inst(inst.a).ty.bits();
                let r = self.use_gpr(inst.a)?;
                self.done(inst.a);
                let d = self.define_xmm(v, ANY, 0)?;
                self.asm.mov(bits > 32, RAX, r);
                if bits < 32 {
                    self.asm.extend(false, bits, false, RAX, RAX);
                }
                self.kmov_from(RAX);
                self.zmask_to(s, d);
            }
            Op::Vreduce => self.zreduce(v, inst, s)?,
            Op::Vselect => {
                let (m, b, c) = (self.use_xmm(inst.a)?, self.use_xmm(inst.b)?, self.use_xmm(inst.c)?);
                for x in [inst.a, inst.b, inst.c] {
                    self.done(x);
                }
                let d = self.define_xmm(v, m, 0)?;
                self.asm.vmov_bytes(64, X15, m);
                self.zop_imm(p3a(0x25).w(true), X15, b, c, 0xca);
                self.asm.vmov_bytes(64, d, X15);
            }
            _ => {
                let two = inst.op.info().args == 2;
                let a = self.use_xmm(inst.a)?;
                let b = if two { self.use_xmm(inst.b)? } else { a };
                let t = self.temp_xmm()?;
                self.done(inst.a);
                if two {
                    self.done(inst.b);
                }
                let d = self.define_xmm(v, a, 0)?;
                self.zlanes(inst, s, d, a, b, t);
            }
        }
        Ok(true)
    }

    /// Broadcasts a scalar; over the lanes of the scratch mask of `over` if there is one.
    fn zsplat_from(
        &mut self,
        x: Value,
        s: Shape,
        over: Option<Xmm>,
        define: impl FnOnce(&mut Self) -> Result<Xmm, Too>,
    ) -> Result<(), Too> {
        let in_xmm = class(self.r.inst(x).ty) == Class::Xmm;
        let from = if in_xmm { self.use_xmm(x)?.0 } else { self.use_gpr(x)?.0 };
        if in_xmm {
            self.asm.vmov(false, X15, Xmm(from));
        }
        let d = define(self)?;
        let k = if let Some(a) = over {
            if a != d {
                self.asm.vmov_bytes(64, d, a);
            }
            K1
        } else {
            0
        };
        let (op, from) = match (in_xmm, s.log2) {
            (true, n) => (p38([0x78, 0x79, 0x58, 0x59][n]).w(n == 3), super::asm::Rm::Reg(X15.0)),
            (false, n) => (p38([0x7a, 0x7b, 0x7c, 0x7c][n]).w(n == 3), super::asm::Rm::Reg(from)),
        };
        self.asm.vex(op.masked(k), d.0, 0, from);
        Ok(())
    }

    fn zextract(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let a = self.use_xmm(inst.a)?;
        let per_quarter = 16 >> s.log2;
        let (quarter, n) = (inst.imm as u8 / per_quarter, inst.imm as u8 % per_quarter);
        self.asm.vex(p3a(0x39).z(), a.0, 0, X15);
        self.asm.b(quarter);
        self.done(inst.a);
        self.extract_lane(v, inst, s, X15, n)
    }

    fn zreduce(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let a = self.use_xmm(inst.a)?;
        let (sum, t) = (self.temp_xmm()?, self.temp_xmm()?);
        self.done(inst.a);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        self.asm.vex(p3a(0x3b).w(true).z(), a.0, 0, t);
        self.asm.b(1);
        let op = RmwOp::from_bits(inst.sub >> 8);
        self.reduce_with(op, inst, Shape { y: true, ..s }, sum, a, t);
        self.reduce_to(op, inst, Shape { y: true, ..s }, (d, v), sum, (sum, t));
        Ok(())
    }

    fn zlanes(&mut self, inst: &Inst, s: Shape, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        let w = is_wide(s);
        let n = s.log2;
        match inst.op {
            Op::Vand => self.zop(p0f(0xdb).w(true), d, a, b),
            Op::Vor => self.zop(p0f(0xeb).w(true), d, a, b),
            Op::Vxor => self.zop(p0f(0xef).w(true), d, a, b),
            Op::Vandc => self.zop(p0f(0xdf).w(true), d, b, a),
            Op::Vadd => self.zop(p0f([0xfc, 0xfd, 0xfe, 0xd4][n]).w(w), d, a, b),
            Op::Vsub => self.zop(p0f(0xf8 + n as u8).w(w), d, a, b),
            // The complement of the last operand, whatever the destination held.
            Op::Vnot => self.zop_imm(p3a(0x25).w(true), d, a, a, 0x55),
            Op::Vneg => {
                self.vxor(X15);
                self.zop(p0f(0xf8 + n as u8).w(w), d, X15, a);
            }
            Op::Vmul if n == 0 => {
                self.zshift(1, 2, X15, a, 8);
                self.zshift(1, 2, X14, b, 8);
                self.zop(p0f(0xd5), X15, X15, X14);
                self.zshift(1, 6, X15, X15, 8);
                self.zop(p0f(0xd5), X14, a, b);
                self.zconst(t, 0x00ff_00ff_00ff_00ff);
                self.zop(p0f(0xdb).w(true), X14, X14, t);
                self.zop(p0f(0xeb).w(true), d, X14, X15);
            }
            Op::Vmul if n == 1 => self.zop(p0f(0xd5), d, a, b),
            Op::Vmul => self.zop(p38(0x40).w(w), d, a, b),
            Op::Vmulhu => self.zop(p0f(0xe4), d, a, b),
            Op::Vmulhs => self.zop(p0f(0xe5), d, a, b),
            Op::Vmin => self.zop([p38(0x38), p0f(0xea), p38(0x39), p38(0x39)][n].w(w), d, a, b),
            Op::Vmax => self.zop([p38(0x3c), p0f(0xee), p38(0x3d), p38(0x3d)][n].w(w), d, a, b),
            Op::Vminu => self.zop([p0f(0xda), p38(0x3a), p38(0x3b), p38(0x3b)][n].w(w), d, a, b),
            Op::Vmaxu => self.zop([p0f(0xde), p38(0x3e), p38(0x3f), p38(0x3f)][n].w(w), d, a, b),
            Op::Vshli | Op::Vshri | Op::Vsari => self.zshift_imm(inst, s, d, a, t),
            Op::Vshl | Op::Vshr | Op::Vsar => self.zshift_lanes(inst.op, s, d, a, b, t),
            Op::Vcmp => self.zcompare(s, Cond::from_bits(inst.sub >> 8), d, a, b),
            Op::Vwiden => {
                let how = inst.sub >> 8;
                let mut from = a;
                if how & 2 != 0 {
                    self.asm.vex(p3a(0x3b).w(true).z(), a.0, 0, X15);
                    self.asm.b(1);
                    from = X15;
                }
                let op = [0, 0x30, 0x33, 0x35][n] - if how & 1 != 0 { 0x10 } else { 0 };
                self.zop(p38(op), d, Xmm(0), from);
            }
            Op::Vnarrow => {
                let op = f3(2, [0x30, 0x33, 0x35][n.min(2)]).z();
                self.asm.vex(op, a.0, 0, X14);
                self.asm.vex(op, b.0, 0, X15);
                self.zop_imm(p3a(0x3a).w(true), d, X14, X15, 1);
            }
            op => debug_assert!(false, "{op:?} has no recipe"),
        }
    }

    fn zshift_imm(&mut self, inst: &Inst, s: Shape, d: Xmm, a: Xmm, t: Xmm) {
        let count = inst.imm as u8;
        let kind = match inst.op {
            Op::Vshli => 6,
            Op::Vshri => 2,
            _ => 4,
        };
        let bytes = |b: u32| u64::from(b as u8) * 0x0101_0101_0101_0101;
        match (s.log2, kind) {
            (0, kind) => {
                self.zshift(1, if kind == 6 { 6 } else { 2 }, X15, a, count);
                self.zconst(t, bytes(if kind == 6 { 0xff << count } else { 0xff >> count }));
                self.zop(p0f(0xdb).w(true), d, X15, t);
                if kind == 4 {
                    self.zconst(t, bytes(0x80 >> count));
                    self.zop(p0f(0xef).w(true), d, d, t);
                    self.zop(p0f(0xf8), d, d, t);
                }
            }
            // The arithmetic shift of quadwords is among those of double words.
            (3, 4) => {
                self.asm.vex(p0f(0x72).w(true).z(), 4, d.0, a);
                self.asm.b(count);
            }
            (n, kind) => self.zshift(n, kind, d, a, count),
        }
    }

    fn zshift_lanes(&mut self, op: Op, s: Shape, d: Xmm, a: Xmm, b: Xmm, t: Xmm) {
        let mask = match s.log2 {
            0 => 0x0707_0707_0707_0707,
            1 => 0x000f_000f_000f_000f,
            2 => 0x0000_001f_0000_001f,
            _ => 63,
        };
        self.zconst(t, mask);
        self.zop(p0f(0xdb).w(true), t, b, t);
        let which = match op {
            Op::Vshl => 0,
            Op::Vshr => 1,
            _ => 2,
        };
        let wide = p38([0x47, 0x45, 0x46][which]).w(is_wide(s));
        let words = p38([0x12, 0x10, 0x11][which]).w(true);
        match s.log2 {
            0 => {
                // The odd bytes of words with nothing or their sign below, then the even ones above.
                self.zshift(1, 2, X15, t, 8);
                if op == Op::Vshl {
                    self.zshift(1, 2, X14, a, 8);
                    self.zshift(1, 6, X14, X14, 8);
                } else {
                    self.asm.vmov_bytes(64, X14, a);
                }
                self.zop(words, X14, X14, X15);
                self.zshift(1, 2, X14, X14, 8);
                self.zshift(1, 6, X14, X14, 8);
                self.zshift(1, 6, X15, a, 8);
                self.zshift(1, 6, t, t, 8);
                self.zshift(1, 2, t, t, 8);
                self.zop(words, X15, X15, t);
                self.zshift(1, 2, X15, X15, 8);
                self.zop(p0f(0xeb).w(true), d, X14, X15);
            }
            1 => self.zop(words, d, a, t),
            _ => self.zop(wide, d, a, t),
        }
    }

    fn zcompare(&mut self, s: Shape, cond: Cond, d: Xmm, a: Xmm, b: Xmm) {
        if matches!(cond, Cond::TestZ | Cond::TestNz) {
            // `vptestnm` and `vptestm`.
            let pp = if cond == Cond::TestZ { 2 } else { 1 };
            let op = if s.log2 < 2 { 0x26 } else { 0x27 };
            self.asm.vex(V::new(pp, 2, op).w(odd(s)).z(), K1, a.0, b);
        } else {
            let unsigned = matches!(cond, Cond::Ltu | Cond::Leu | Cond::Gtu | Cond::Geu);
            let base = if s.log2 < 2 { 0x3e } else { 0x1e };
            let predicate = match cond {
                Cond::Eq => EQ,
                Cond::Ne => NE,
                Cond::Lt | Cond::Ltu => LT,
                Cond::Le | Cond::Leu => LE,
                Cond::Gt | Cond::Gtu => GT,
                _ => GE,
            };
            self.asm.vex(p3a(base + u8::from(!unsigned)).w(odd(s)).z(), K1, a.0, b);
            self.asm.b(predicate);
        }
        self.zmask_to(s, d);
    }

    /// Floating point: as in `lower_vec_fp.rs`, with NaNs in a mask register.
    fn zfloat(&mut self, v: Value, inst: &Inst, s: Shape, attr: FpAttr) -> Result<bool, Too> {
        let rounds = !matches!(inst.op, Op::Vfcmp | Op::Vfmin | Op::Vfmax);
        let plain = matches!(inst.op, Op::Vfmin | Op::Vfmax)
            && MinMax::from_bits(attr.variant()) != MinMax::X86
            || inst.op == Op::Vftoi;
        if !self.denormals_fit(attr)
            || plain
            || rounds && matches!(attr.rounding(), Rounding::NearestAway | Rounding::Odd)
            || attr.tiny_before() && matches!(inst.op, Op::Vfmul | Op::Vfdiv | Op::Vfma)
        {
            return Ok(false);
        }
        let n = inst.op.info().args as usize;
        let args = &[inst.a, inst.b, inst.c][..n];
        let exact = match inst.op {
            Op::Vfcmp | Op::Vitof | Op::Vfmin | Op::Vfmax => true,
            _ => attr.nan() == NanPolicy::X86,
        };
        let soft = !exact && (attr.nan() != NanPolicy::Canonical || inst.op == Op::Vfma);
        let mut regs = [Xmm(0); 3];
        let mut avoid = 0;
        for (r, &a) in regs.iter_mut().zip(args) {
            *r = self.use_xmm(a)?;
            avoid |= 1u32 << (r.0 + 16);
        }
        for &a in args {
            self.done(a);
        }
        let d = if soft { self.define_xmm(v, ANY, avoid)? } else { self.define_xmm(v, regs[0], 0)? };
        let own = rounds && inst.op != Op::Vfrint && attr.rounding() != self.rounding;
        self.quietly(attr, |g| {
            if own {
                g.set_rounding(attr.rounding());
            }
            g.zfp(inst, s, attr, d, regs);
            if own {
                g.reset_rounding();
            }
        });
        if exact {
            return Ok(true);
        }
        let (nans, back) = (self.asm.label(), self.asm.label());
        self.asm.vex(packed(s, 0xc2), K1, d.0, d);
        self.asm.b(UNORDERED);
        // `kortestw`: all lanes together are zero if there is none.
        self.asm.vex(V::new(0, 1, 0x98), K1, 0, Xmm(K1));
        self.asm.jcc(Cc::Ne, nans);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(nans);
            if soft {
                g.soft_from(inst, n, regs.map(|r| r.0 + 16))?;
                g.asm.vload(64, d, Mem::at(RSP, SOFT + WIDE_BUFFER));
            } else {
                let nan = if is_wide(s) { 0x7ff8_0000_0000_0000 } else { 0x7fc0_0000_7fc0_0000 };
                let op = p38(if is_wide(s) { 0x59 } else { 0x58 }).w(is_wide(s));
                g.asm.vop_const(op.masked(K1), d, Xmm(0), all(nan));
            }
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    fn zfp(&mut self, inst: &Inst, s: Shape, attr: FpAttr, d: Xmm, [a, b, c]: [Xmm; 3]) {
        match inst.op {
            Op::Vfsqrt => self.asm.vop(packed(s, 0x51), d, Xmm(0), a),
            Op::Vfrint => {
                let mode = match attr.rounding() {
                    Rounding::Down => 1,
                    Rounding::Up => 2,
                    Rounding::Zero => 3,
                    _ => 0,
                } | if attr.flag() { 8 } else { 0 };
                let op = p3a(if is_wide(s) { 0x09 } else { 0x08 }).w(is_wide(s));
                self.zop_imm(op, d, Xmm(0), a, mode);
            }
            // `vcvtdq2ps`, `vcvtqq2pd` and those without sign.
            Op::Vitof => {
                let op = match (attr.flag(), is_wide(s)) {
                    (false, false) => V::new(0, 1, 0x5b),
                    (false, true) => V::new(2, 1, 0xe6).w(true),
                    (true, false) => V::new(3, 1, 0x7a),
                    (true, true) => V::new(2, 1, 0x7a).w(true),
                };
                self.zop(op, d, Xmm(0), a);
            }
            Op::Vfcmp => {
                let predicate = match (FCond::from_bits(attr.variant()), attr.flag()) {
                    (FCond::Eq, false) => 0x00,
                    (FCond::Lt, false) => 0x11,
                    (FCond::Le, false) => 0x12,
                    (FCond::Un, false) => UNORDERED,
                    (FCond::Eq, true) => 0x10,
                    (FCond::Lt, true) => 0x01,
                    (FCond::Le, true) => 0x02,
                    (FCond::Un, true) => 0x13,
                };
                self.asm.vex(packed(s, 0xc2), K1, a.0, b);
                self.asm.b(predicate);
                self.zmask_to(s, d);
            }
            Op::Vfma => {
                let op = match (attr.neg_product(), attr.neg_addend()) {
                    (false, false) => 0xb8,
                    (false, true) => 0xba,
                    (true, false) => 0xbc,
                    (true, true) => 0xbe,
                };
                self.asm.vmov_bytes(64, X15, c);
                self.zop(p38(op).w(is_wide(s)), X15, a, b);
                self.asm.vmov_bytes(64, d, X15);
            }
            op => {
                let op = match op {
                    Op::Vfadd => 0x58,
                    Op::Vfsub => 0x5c,
                    Op::Vfmul => 0x59,
                    Op::Vfdiv => 0x5e,
                    Op::Vfmin => 0x5d,
                    _ => 0x5f,
                };
                self.asm.vop(packed(s, op), d, a, b);
            }
        }
    }
}
