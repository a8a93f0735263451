//! FP16 scalars, which live in general registers, on the host's unit through binary32 (F16C).
//!
//! Sums, differences, quotients and roots are rounded to 24 bits and then to 11. Since 24 is at least twice 11 plus 2 the
//! second rounding gives what one alone would have given (Figueroa), for directed rounding in any case; products of 11-bit
//! numbers are exact in 24. No result of such operands is subnormal in binary32, so underflow, overflow and "inexact" are
//! found by the conversion back, which sees the same number as one rounding would, or an inexact one where the exact one is
//! inexact too. A fused multiply-add would be rounded wrongly: it stays soft. So does binary64 to binary16.
//!
//! The conversion from binary16 is exact, raises "invalid" for signalling NaNs and makes them quiet, so operations
//! without a rounding (minimum, comparison, conversion to integers, rounding to integral values) are done in binary32.

use tcg_ir::{FCond, FpAttr, Inst, IntConv, MinMax, NanPolicy, Op, Rounding, Type, Value};

use super::alloc::NO_REG;
use super::asm::{Alu, Cc, V};
use super::lower_vec::{ANY, p3a, p38};
use super::regs::*;
use super::{Gen, Too};

/// Scalar operation on binary32.
const fn single(op: u8) -> V {
    V::new(2, 1, op)
}

const CANONICAL: u64 = 0x7e00;

impl Gen<'_> {
    /// A binary16 operand as binary32 in `x`.
    fn half_in(&mut self, x: Xmm, r: Gpr) {
        // The instruction converts four: the others are zeros, which raise nothing.
        self.asm.extend(false, 16, false, RAX, r);
        self.asm.gpr_to_xmm(false, x, RAX);
        self.asm.vop(p38(0x13), x, Xmm(0), x);
    }

    /// Binary32 in `x`, rounded to binary16 by MXCSR, in `eax`.
    fn half_out(&mut self, x: Xmm) {
        self.asm.vex(p3a(0x1d), x.0, 0, x);
        self.asm.b(4);
        self.asm.xmm_to_gpr(false, RAX, x);
    }

    /// Emits an operation with a binary16 operand or result. False if there is no recipe.
    pub(super) fn lower_half(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let from = self.r.inst(inst.a).ty;
        match inst.op {
            Op::Fadd | Op::Fsub | Op::Fmul | Op::Fdiv | Op::Fsqrt | Op::Frint => {
                self.half_arithmetic(v, inst, attr)
            }
            Op::Fmin | Op::Fmax => self.half_minmax(v, inst, attr),
            Op::Fcmp if inst.ty.bits() <= 64 => self.half_compare(v, inst, attr),
            Op::Fcvt if from == Type::F16 => self.half_widen(v, inst, attr),
            Op::Fcvt if from == Type::F32 => self.half_narrow(v, inst, attr),
            Op::Ftoi if matches!(inst.ty, Type::I32 | Type::I64) => self.half_to_int(v, inst, attr),
            Op::Itof if from == Type::I32 && !attr.flag() => {
                // Integers above 2^17 overflow in any rounding, smaller ones are exact in binary32.
                let r = self.use_gpr(inst.a)?;
                self.done(inst.a);
                let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
                self.under(attr, |g| {
                    g.vxor(X15);
                    g.asm.vop(single(0x2a), X15, X15, super::asm::Rm::Reg(r.0));
                    g.half_out(X15);
                });
                self.asm.mov(false, d, RAX);
                self.vals[v.index()].zx = 16;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Emits under the attribute's rounding; the result is in `xmm15`'s low bits or `eax` of which the first is kept.
    fn under(&mut self, attr: FpAttr, emit: impl FnOnce(&mut Self)) {
        let own = attr.rounding() != self.rounding;
        if own {
            self.set_rounding(attr.rounding());
        }
        emit(self);
        if own {
            self.reset_rounding();
            // Changing the rounding took `eax`.
            self.asm.xmm_to_gpr(false, RAX, X15);
        }
    }

    fn half_arithmetic(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let n = inst.op.info().args as usize;
        let args = &[inst.a, inst.b][..n];
        let mut regs = [Gpr(0); 3];
        let mut avoid = 0;
        for (r, &a) in regs.iter_mut().zip(args) {
            *r = self.use_gpr(a)?;
            avoid |= 1u32 << r.0;
        }
        for &a in args {
            self.done(a);
        }
        let d = self.define_gpr(v, Gpr(NO_REG), avoid)?;
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.half_in(X15, regs[0]);
        if n == 2 {
            self.half_in(X14, regs[1]);
        }
        self.under(attr, |g| {
            match inst.op {
                Op::Frint => {
                    let mode = match attr.rounding() {
                        Rounding::Down => 1,
                        Rounding::Up => 2,
                        Rounding::Zero => 3,
                        _ => 0,
                    } | if attr.flag() { 8 } else { 0 };
                    g.asm.vop_imm(p3a(0x0a), X15, X15, X15, mode);
                }
                op => {
                    let op = match op {
                        Op::Fadd => 0x58,
                        Op::Fsub => 0x5c,
                        Op::Fmul => 0x59,
                        Op::Fdiv => 0x5e,
                        _ => 0x51,
                    };
                    let b = if n == 2 { X14 } else { X15 };
                    g.asm.vop(single(op), X15, X15, b);
                }
            }
            // A NaN is known by its value in binary32.
            g.asm.vmov(false, X14, X15);
            g.half_out(X15);
        });
        self.asm.extend(false, 16, false, d, RAX);
        self.vals[v.index()].zx = 16;
        self.asm.vex(V::new(0, 1, 0x2e), X14.0, 0, X14);
        self.asm.jcc(Cc::P, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            if attr.nan() == NanPolicy::Canonical {
                g.asm.mov_imm(d, CANONICAL);
            } else {
                g.half_again(inst, n, regs, d)?;
            }
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    /// Computes the whole operation with the soft fallback, in cold code.
    fn half_again(&mut self, inst: &Inst, n: usize, regs: [Gpr; 3], d: Gpr) -> Result<(), Too> {
        use super::asm::Mem;
        self.soft_from(inst, n, regs.map(|r| r.0))?;
        self.asm.mov(true, d, Mem::at(RSP, SOFT + WIDE_BUFFER));
        Ok(())
    }

    fn half_minmax(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        if MinMax::from_bits(attr.variant()) == MinMax::X86 {
            return Ok(false);
        }
        let (a, b) = (self.use_gpr(inst.a)?, self.use_gpr(inst.b)?);
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_gpr(v, Gpr(NO_REG), 1 << a.0 | 1 << b.0)?;
        let (odd, back) = (self.asm.label(), self.asm.label());
        let t = self.temp_xmm()?;
        self.half_in(X15, a);
        self.half_in(X14, b);
        self.asm.vex(V::new(0, 1, 0x2e), X15.0, 0, X14);
        self.asm.jcc(Cc::P, odd);
        let max = inst.op == Op::Fmax;
        let op = single(if max { 0x5f } else { 0x5d });
        self.asm.vop(op, t, X15, X14);
        self.asm.vop(op, X15, X14, X15);
        self.asm.vop(V::new(0, 1, if max { 0x54 } else { 0x56 }), X15, X15, t);
        self.half_out(X15);
        self.asm.extend(false, 16, false, d, RAX);
        self.vals[v.index()].zx = 16;
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            g.half_again(inst, 2, [a, b, a], d)?;
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    fn half_compare(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let (a, b) = (self.use_gpr(inst.a)?, self.use_gpr(inst.b)?);
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        self.half_in(X15, a);
        self.half_in(X14, b);
        let cond = FCond::from_bits(attr.variant());
        let predicate = match (cond, attr.flag()) {
            (FCond::Eq, false) => 0x00,
            (FCond::Lt, false) => 0x11,
            (FCond::Le, false) => 0x12,
            (FCond::Un, false) => 0x03,
            (FCond::Eq, true) => 0x10,
            (FCond::Lt, true) => 0x01,
            (FCond::Le, true) => 0x02,
            (FCond::Un, true) => 0x13,
        };
        self.asm.vop_imm(single(0xc2), X15, X15, X14, predicate);
        self.asm.xmm_to_gpr(false, d, X15);
        self.asm.alu_imm(false, Alu::And, d, 1);
        self.vals[v.index()].zx = 1;
        Ok(true)
    }

    /// To binary32 or binary64: exact.
    fn half_widen(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let a = self.use_gpr(inst.a)?;
        let double = inst.ty == Type::F64;
        self.done(inst.a);
        let d = self.define_xmm(v, ANY, 0)?;
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.half_in(X15, a);
        if double {
            self.asm.vop(single(0x5a), d, X15, X15);
        } else {
            self.asm.vmov(false, d, X15);
        }
        self.asm.vex(V::new(0, 1, 0x2e), X15.0, 0, X15);
        self.asm.jcc(Cc::P, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            if attr.nan() == NanPolicy::Canonical {
                g.asm.mov_imm(RAX, if double { 0x7ff8 << 48 } else { 0x7fc0_0000 });
                g.asm.gpr_to_xmm(double, d, RAX);
            } else {
                use super::asm::Mem;
                g.soft_from(inst, 1, [a.0; 3])?;
                g.asm.vload(inst.ty.bytes(), d, Mem::at(RSP, SOFT + WIDE_BUFFER));
            }
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    /// From binary32.
    fn half_narrow(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let a = self.use_xmm(inst.a)?;
        self.done(inst.a);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.under(attr, |g| {
            // Alone, with zeros above.
            g.asm.vop_imm(p3a(0x21), X15, a, a, 0x0e);
            g.half_out(X15);
        });
        self.asm.extend(false, 16, false, d, RAX);
        self.vals[v.index()].zx = 16;
        self.asm.vex(V::new(0, 1, 0x2e), a.0, 0, a);
        self.asm.jcc(Cc::P, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            if attr.nan() == NanPolicy::Canonical {
                g.asm.mov_imm(d, CANONICAL);
            } else {
                use super::asm::Mem;
                g.soft_from(inst, 1, [a.0 + 16; 3])?;
                g.asm.mov(true, d, Mem::at(RSP, SOFT + WIDE_BUFFER));
            }
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }

    /// Signed integers: the indefinite one is looked at again.
    fn half_to_int(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let truncates = attr.rounding() == Rounding::Zero;
        if attr.flag() || !truncates && attr.rounding() != self.rounding {
            return Ok(false);
        }
        let wide = inst.ty == Type::I64;
        let a = self.use_gpr(inst.a)?;
        self.done(inst.a);
        let d = self.define_gpr(v, Gpr(NO_REG), 1 << a.0)?;
        self.half_in(X15, a);
        self.asm.vex(single(if truncates { 0x2c } else { 0x2d }).w(wide), d.0, 0, X15);
        self.vals[v.index()].zx = if wide { 64 } else { 32 };
        if IntConv::from_bits(attr.variant()) == IntConv::Indefinite {
            return Ok(true);
        }
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.asm.alu_imm(wide, Alu::Cmp, d, 1);
        self.asm.jcc(Cc::O, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            g.half_again(inst, 1, [a; 3], d)?;
            g.asm.jmp(back);
            Ok(())
        })?;
        Ok(true)
    }
}
