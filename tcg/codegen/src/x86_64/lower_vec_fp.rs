//! Floating-point vectors on the host's unit, exact by the rules of `lower_fp.rs`: the attribute's rounding in MXCSR,
//! sticky exceptions collected there, NaNs found by a comparison behind the operation and put right in cold code.
//!
//! The upper half of a 64-bit vector's register would raise exceptions of its own, so such operands are doubled first:
//! every exception is then raised twice, which makes no difference.

use tcg_ir::{FCond, FpAttr, Inst, IntConv, MinMax, NanPolicy, Op, Rounding, Value};

use super::asm::{Cc, Mem, V};
use super::lower_vec::{ANY, LOAD, Shape, all, p0f, p3a};
use super::regs::*;
use super::{Gen, Too};

/// Packed operation `op` of map 0F.
const fn packed(s: Shape, op: u8) -> V {
    V::new(if s.log2 == 3 { 1 } else { 0 }, 1, op).l(s.y)
}

/// `vcmpps` and `vcmppd` predicates.
const UNORDERED: u8 = 3;

/// Where MXCSR is kept while exceptions are not wanted: beside the word that changes of the rounding use.
const QUIET_WORD: i32 = SCRATCH_WORD + 4;

impl Gen<'_> {
    /// Emits a floating-point vector operation. False if host and guest disagree on too much.
    pub(super) fn lower_vec_fp(
        &mut self,
        v: Value,
        inst: &Inst,
        s: Shape,
        attr: FpAttr,
    ) -> Result<bool, Too> {
        if !self.denormals_fit(attr) {
            return Ok(false);
        }
        let rounds = !matches!(inst.op, Op::Vfcmp | Op::Vfmin | Op::Vfmax);
        if rounds && matches!(attr.rounding(), Rounding::NearestAway | Rounding::Odd) {
            return Ok(false);
        }
        if attr.tiny_before() && matches!(inst.op, Op::Vfmul | Op::Vfdiv | Op::Vfma) {
            return Ok(false);
        }
        match inst.op {
            Op::Vitof | Op::Vftoi if s.log2 == 3 || attr.flag() => return Ok(false),
            Op::Vftoi => return self.vftoi(v, inst, s, attr),
            Op::Vfmin | Op::Vfmax if MinMax::from_bits(attr.variant()) != MinMax::X86 => {
                return self.vfminmax(v, inst, s, attr);
            }
            _ => {}
        }
        let n = inst.op.info().args as usize;
        let args = &[inst.a, inst.b, inst.c][..n];
        // What has its NaNs as the guest wants them, or none. A fused multiply-add's choice depends on its encoding: form
        // 231 looks at the factors first, as x86 guests' operands are ordered.
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
        let sources = regs;
        let third = if s.half && n == 3 { Some(self.temp_xmm()?) } else { None };
        for &a in args {
            self.done(a);
        }
        // The cold path computes again from the operands. A sum is built over its addend.
        let fused = inst.op == Op::Vfma && exact;
        let d = if soft {
            self.define_xmm(v, ANY, avoid)?
        } else if fused {
            self.define_xmm(v, regs[2], 1 << (regs[0].0 + 16) | 1 << (regs[1].0 + 16))?
        } else {
            self.define_xmm(v, regs[0], 0)?
        };
        if s.half {
            // `xmm15` takes the addend or the first operand: see below.
            let to = [X15, X14, third.unwrap_or(X14)];
            for i in 0..n {
                self.asm.vop(p0f(0x6c), to[i], regs[i], regs[i]);
                regs[i] = to[i];
            }
        }
        let own = rounds && inst.op != Op::Vfrint && attr.rounding() != self.rounding;
        self.quietly(attr, |g| {
            if own {
                g.set_rounding(attr.rounding());
            }
            g.vfp(inst, s, attr, d, regs);
            if own {
                g.reset_rounding();
            }
        });
        if exact {
            return Ok(true);
        }
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.asm.vop_imm(packed(s, 0xc2), X15, d, d, UNORDERED);
        self.any_lane(s, X15, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            if soft {
                g.soft_again(inst, n, sources, d)?;
            } else {
                let nan = if s.log2 == 3 { 0x7ff8_0000_0000_0000 } else { 0x7fc0_0000_7fc0_0000 };
                g.asm.vop_const(LOAD.l(s.y), X14, Xmm(0), all(nan));
                g.asm.vop_imm(p3a(0x4c).l(s.y), d, d, X14, X15.0 << 4);
            }
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    /// Emits something whose exceptions are dropped if the attribute says so.
    pub(super) fn quietly(&mut self, attr: FpAttr, emit: impl FnOnce(&mut Self)) {
        if attr.quiet() {
            self.asm.stmxcsr(Mem::env(QUIET_WORD));
        }
        emit(self);
        if attr.quiet() {
            self.asm.ldmxcsr(Mem::env(QUIET_WORD));
        }
    }

    /// Jumps to `to` if a lane of mask `x` is set.
    fn any_lane(&mut self, s: Shape, x: Xmm, to: super::asm::Label) {
        // `vtestps` looks at the top bits of double words: of quadwords that are all ones, at two of them.
        self.asm.vex(V::new(1, 2, 0x0e).l(s.y), x.0, 0, x);
        self.asm.jcc(Cc::Ne, to);
    }

    /// Computes the whole operation with the soft fallback, in cold code.
    fn soft_again(&mut self, inst: &Inst, n: usize, regs: [Xmm; 3], d: Xmm) -> Result<(), Too> {
        let regs = regs.map(|r| r.0 + 16);
        self.soft_from(inst, n, regs)?;
        self.asm.vload(inst.ty.bytes(), d, Mem::at(RSP, SOFT + WIDE_BUFFER));
        Ok(())
    }

    /// Emits the operation itself.
    fn vfp(&mut self, inst: &Inst, s: Shape, attr: FpAttr, d: Xmm, [a, b, c]: [Xmm; 3]) {
        let op = match inst.op {
            Op::Vfadd => 0x58,
            Op::Vfsub => 0x5c,
            Op::Vfmul => 0x59,
            Op::Vfdiv => 0x5e,
            Op::Vfmin => 0x5d,
            Op::Vfmax => 0x5f,
            Op::Vfsqrt => {
                self.asm.vop(packed(s, 0x51), d, Xmm(0), a);
                return;
            }
            Op::Vitof => {
                self.asm.vop(V::new(0, 1, 0x5b).l(s.y), d, Xmm(0), a);
                return;
            }
            Op::Vfrint => {
                let op = if s.log2 == 3 { 0x09 } else { 0x08 };
                let mode = match attr.rounding() {
                    Rounding::Down => 1,
                    Rounding::Up => 2,
                    Rounding::Zero => 3,
                    _ => 0,
                } | if attr.flag() { 8 } else { 0 };
                self.asm.vop_imm(p3a(op).l(s.y), d, Xmm(0), a, mode);
                return;
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
                self.asm.vop_imm(packed(s, 0xc2), d, a, b, predicate);
                return;
            }
            _ => {
                // Form 231 (c = a * b + c), by the signs of product and addend; the sum is built in a scratch register.
                let op = match (attr.neg_product(), attr.neg_addend()) {
                    (false, false) => 0xb8,
                    (false, true) => 0xba,
                    (true, false) => 0xbc,
                    (true, true) => 0xbe,
                };
                let in_place = attr.nan() == NanPolicy::X86 && d != a && d != b;
                let sum = if s.half {
                    c
                } else {
                    let sum = if in_place { d } else { X15 };
                    if sum != c {
                        self.asm.vmov(s.y, sum, c);
                    }
                    sum
                };
                self.asm.vop(V::new(1, 2, op).w(s.log2 == 3).l(s.y), sum, a, b);
                if d != sum {
                    self.asm.vmov(s.y, d, sum);
                }
                return;
            }
        };
        self.asm.vop(packed(s, op), d, a, b);
    }

    /// Minimum and maximum that are not the host's: numbers without NaNs inline, -0 below +0.
    fn vfminmax(&mut self, v: Value, inst: &Inst, s: Shape, attr: FpAttr) -> Result<bool, Too> {
        let max = inst.op == Op::Vfmax;
        let op = packed(s, if max { 0x5f } else { 0x5d });
        let a = self.use_xmm(inst.a)?;
        let b = self.use_xmm(inst.b)?;
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_xmm(v, ANY, 1 << (a.0 + 16) | 1 << (b.0 + 16))?;
        let (mut x, mut y) = (a, b);
        if s.half {
            self.asm.vop(p0f(0x6c), X14, a, a);
            self.asm.vop(p0f(0x6c), d, b, b);
            (x, y) = (X14, d);
        }
        if attr.quiet() {
            self.asm.stmxcsr(Mem::env(QUIET_WORD));
        }
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.asm.vop_imm(packed(s, 0xc2), X15, x, y, UNORDERED);
        self.any_lane(s, X15, odd);
        // The second operand is the result if both are zeros: both orders, then the sign both or either have.
        self.asm.vop(op, X15, x, y);
        self.asm.vop(op, d, y, x);
        self.asm.vop(packed(s, if max { 0x54 } else { 0x56 }), d, d, X15);
        if attr.quiet() {
            self.asm.ldmxcsr(Mem::env(QUIET_WORD));
        }
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            if attr.quiet() {
                g.asm.ldmxcsr(Mem::env(QUIET_WORD));
            }
            g.soft_again(inst, 2, [a, b, a], d)?;
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    /// Signed 32-bit integers: what does not fit gives the indefinite one, which the cold path looks at again.
    fn vftoi(&mut self, v: Value, inst: &Inst, s: Shape, attr: FpAttr) -> Result<bool, Too> {
        let truncates = attr.rounding() == Rounding::Zero;
        if !truncates && attr.rounding() != self.rounding {
            return Ok(false);
        }
        let a = self.use_xmm(inst.a)?;
        self.done(inst.a);
        let indefinite = IntConv::from_bits(attr.variant()) == IntConv::Indefinite;
        let d = self.define_xmm(v, ANY, 1 << (a.0 + 16))?;
        let mut x = a;
        if s.half {
            self.asm.vop(p0f(0x6c), X15, a, a);
            x = X15;
        }
        self.quietly(attr, |g| {
            g.asm.vop(V::new(if truncates { 2 } else { 1 }, 1, 0x5b).l(s.y), d, Xmm(0), x);
        });
        if indefinite {
            return Ok(true);
        }
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.asm.vop_const(p0f(0x76).l(s.y), X15, d, all(0x8000_0000_8000_0000));
        self.any_lane(s, X15, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            g.soft_again(inst, 1, [a; 3], d)?;
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }
}
