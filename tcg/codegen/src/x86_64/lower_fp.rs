//! Floating point on the host's own unit.
//!
//! Units run with the guest's rounding in MXCSR, all exceptions masked and no flushing; the sticky exceptions collect
//! there. SSE detects tininess after rounding. What the unit does otherwise than the guest (NaNs, conversions out of
//! range, zeros of different sign) is found by a comparison behind the operation and put right in cold code.

use tcg_ir::{FCond, FpAttr, Inst, IntConv, MinMax, NanPolicy, Op, Rounding, Type, Value};

use super::alloc::{Class, NO_REG, NO_SLOT, ZEROS, class, fl};
use super::asm::{Alu, Cc, Mem, Shift, V};
use super::regs::*;
use super::{Gen, Too};

/// No preferred register.
const ANY: Xmm = Xmm(NO_REG - 16);

/// Scalar operation `op` of map 0F on f32 or f64.
const fn scalar(double: bool, op: u8) -> V {
    V::new(if double { 3 } else { 2 }, 1, op)
}

/// Bits of the canonical NaN.
const fn canonical(double: bool) -> u64 {
    if double { 0x7ff8_0000_0000_0000 } else { 0x7fc0_0000 }
}

impl Gen<'_> {
    /// Emits a floating-point operation. False if there is no recipe.
    pub(super) fn lower_fp(&mut self, v: Value) -> Result<bool, Too> {
        let inst = *self.r.inst(v);
        let ty = inst.ty;
        match inst.op {
            Op::Fexget => {
                self.asm.stmxcsr(Mem::env(SCRATCH_WORD));
                let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
                self.asm.mov(false, d, Mem::env(SCRATCH_WORD));
                self.asm.alu_imm(false, Alu::And, d, 0x3f);
                self.asm.alu(false, Alu::Or, d, Mem::env(FPEXC));
                self.vals[v.index()].zx = 32;
                return Ok(true);
            }
            Op::Fexset => {
                let a = self.use_gpr(inst.a)?;
                self.asm.mov(false, RAX, a);
                self.asm.alu_imm(false, Alu::And, RAX, 0x3f);
                self.asm.store(false, Mem::env(FPEXC), RAX);
                self.asm.ldmxcsr(Mem::env(GUEST_FPCR));
                self.done(inst.a);
                return Ok(true);
            }
            Op::Fneg | Op::Fabs if matches!(ty, Type::F32 | Type::F64) => {
                let xa = self.use_xmm(inst.a)?;
                self.done(inst.a);
                let d = self.define_xmm(v, xa, 0)?;
                self.sign_mask(ty == Type::F64, inst.op == Op::Fabs);
                let op = if inst.op == Op::Fabs { 0xdb } else { 0xef };
                self.asm.vop(V::new(1, 1, op), d, xa, X15);
                return Ok(true);
            }
            Op::Fsgnj if matches!(ty, Type::F32 | Type::F64) => {
                self.fsgnj(v, &inst)?;
                return Ok(true);
            }
            Op::Fbox if self.r.inst(inst.a).ty == Type::F32 => {
                let xa = self.use_xmm(inst.a)?;
                self.done(inst.a);
                let d = self.define_xmm(v, xa, 0)?;
                self.asm.vop(V::new(1, 1, 0x76), X15, X15, X15);
                // The low lane from the operand, ones from the mask.
                self.asm.vop_imm(V::new(1, 3, 0x02), d, X15, xa, 1);
                return Ok(true);
            }
            Op::Funbox if ty == Type::F32 => {
                self.funbox(v, &inst)?;
                return Ok(true);
            }
            _ => {}
        }
        let from = if inst.op.info().args > 0 { self.r.inst(inst.a).ty } else { Type::Void };
        let attr = FpAttr(inst.sub);
        if inst.op.info().effect != tcg_ir::Effect::Fp
            || attr.quiet()
            || !self.denormals_fit(attr)
            || ty.is_vector()
            || from.is_vector()
            || ty == Type::I128
            || from == Type::I128
        {
            return Ok(false);
        }
        let rounds = !matches!(inst.op, Op::Fcmp | Op::Fmin | Op::Fmax);
        if rounds && matches!(attr.rounding(), Rounding::NearestAway | Rounding::Odd) {
            return Ok(false);
        }
        // Underflow is signalled for results that round up to the least normal number or not.
        if attr.tiny_before() && matches!(inst.op, Op::Fmul | Op::Fdiv | Op::Fma | Op::Fcvt) {
            return Ok(false);
        }
        if from == Type::F16 || ty == Type::F16 {
            return self.lower_half(v, &inst, attr);
        }
        match inst.op {
            Op::Fadd | Op::Fsub | Op::Fmul | Op::Fdiv => {
                let op = match inst.op {
                    Op::Fadd => 0x58,
                    Op::Fsub => 0x5c,
                    Op::Fmul => 0x59,
                    _ => 0x5e,
                };
                let root = self.root(inst.a);
                let xa = self.use_xmm(inst.a)?;
                let xb = self.use_xmm(inst.b)?;
                self.rounded(v, &inst, attr, 2, |g, d| g.asm.vop(scalar(ty == Type::F64, op), d, xa, xb))?;
                self.note_upper(v, attr, root);
            }
            Op::Fsqrt => {
                let xa = self.use_xmm(inst.a)?;
                self.rounded(v, &inst, attr, 1, |g, d| g.asm.vop(scalar(ty == Type::F64, 0x51), d, xa, xa))?;
            }
            Op::Fma => self.fma(v, &inst, attr)?,
            Op::Fcvt => {
                let double = from == Type::F64;
                let xa = self.use_xmm(inst.a)?;
                if from == ty {
                    return Ok(false);
                }
                self.rounded(v, &inst, attr, 1, |g, d| g.asm.vop(scalar(double, 0x5a), d, xa, xa))?;
            }
            Op::Frint => {
                let mode = match attr.rounding() {
                    Rounding::Down => 1,
                    Rounding::Up => 2,
                    Rounding::Zero => 3,
                    _ => 0,
                } | if attr.flag() { 8 } else { 0 };
                let op = if ty == Type::F64 { 0x0b } else { 0x0a };
                let xa = self.use_xmm(inst.a)?;
                self.unrounded(v, &inst, attr, 1, |g, d| g.asm.vop_imm(V::new(1, 3, op), d, xa, xa, mode))?;
            }
            Op::Fmin | Op::Fmax => self.minmax(v, &inst, attr)?,
            Op::Fcmp if ty.bits() <= 64 => self.fcmp(v, &inst, attr)?,
            Op::Itof if matches!(from, Type::I32 | Type::I64) => self.itof(v, &inst, attr)?,
            Op::Ftoi if matches!(ty, Type::I32 | Type::I64) => return self.ftoi(v, &inst, attr),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The host's instruction has copied what stands above its first operand: if that is a vector, putting the result into it
    /// needs no code.
    fn note_upper(&mut self, v: Value, attr: FpAttr, root: u32) {
        let of_vector = matches!(self.vals[root as usize].ty, Type::V128 | Type::V256);
        let x = &mut self.vals[v.index()];
        if of_vector && attr.nan() == NanPolicy::X86 && x.alias == v.0 && !x.is(fl::GLOBAL) {
            (x.ty, x.upper) = (Type::V128, root);
        }
    }

    /// A scalar float has come into a register with zeros above it: as a vector it needs no code.
    pub(super) fn note_zeros(&mut self, v: Value) {
        let x = self.vals[v.index()];
        let narrow_slot = x.hint != NO_SLOT && self.fx.slots[x.hint as usize].ty.bytes() < 16;
        if matches!(x.ty, Type::F32 | Type::F64) && x.alias == v.0 && !x.is(fl::GLOBAL) && !narrow_slot {
            let x = &mut self.vals[v.index()];
            (x.ty, x.upper) = (Type::V128, ZEROS);
        }
    }

    /// The sign bit of each lane in `xmm15`; all others with `rest`.
    fn sign_mask(&mut self, double: bool, rest: bool) {
        self.asm.vop(V::new(1, 1, 0x76), X15, X15, X15);
        let (op, ext, n) = match (double, rest) {
            (true, false) => (0x73, 6, 63),
            (true, true) => (0x73, 2, 1),
            (false, false) => (0x72, 6, 31),
            (false, true) => (0x72, 2, 1),
        };
        self.asm.vex(V::new(1, 1, op), ext, X15.0, X15);
        self.asm.b(n);
    }

    fn fsgnj(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        let double = inst.ty == Type::F64;
        if self.root(inst.a) == self.root(inst.b) {
            if inst.sub == 0 {
                self.done(inst.b);
                return self.same(v, inst.a);
            }
            let xa = self.use_xmm(inst.a)?;
            self.done(inst.a);
            self.done(inst.b);
            let d = self.define_xmm(v, xa, 0)?;
            self.sign_mask(double, inst.sub == 2);
            self.asm.vop(V::new(1, 1, if inst.sub == 2 { 0xdb } else { 0xef }), d, xa, X15);
            return Ok(());
        }
        let xa = self.use_xmm(inst.a)?;
        let xb = self.use_xmm(inst.b)?;
        self.done(inst.a);
        self.done(inst.b);
        self.sign_mask(double, false);
        let d = self.define_xmm(v, xa, 0)?;
        // The sign of b, alone.
        self.asm.vop(V::new(1, 1, 0xdb), X14, xb, X15);
        if inst.sub == 2 {
            self.asm.vop(V::new(1, 1, 0xef), d, xa, X14);
            return Ok(());
        }
        if inst.sub == 1 {
            self.asm.vop(V::new(1, 1, 0xef), X14, X14, X15);
        }
        self.asm.vop(V::new(1, 1, 0xdf), X15, X15, xa);
        self.asm.vop(V::new(1, 1, 0xeb), d, X15, X14);
        Ok(())
    }

    fn funbox(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        let root = self.root(inst.a);
        if let Some(def) = self.r.insts.get(root as usize)
            && def.op == Op::Fbox
            && self.r.inst(def.a).ty == Type::F32
        {
            // What was boxed here is boxed well; its bits are the low ones.
            return self.same(v, inst.a);
        }
        let xa = self.use_xmm(inst.a)?;
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.asm.vex(V::new(1, 3, 0x16), xa.0, 0, RAX);
        self.asm.b(1);
        self.done(inst.a);
        let d = self.define_xmm(v, xa, 0)?;
        if d != xa {
            self.asm.vmov(false, d, xa);
        }
        self.asm.alu_imm(false, Alu::Cmp, RAX, -1);
        self.asm.jcc(Cc::Ne, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            g.asm.mov_imm(RAX, canonical(false));
            g.asm.gpr_to_xmm(false, d, RAX);
            g.asm.jmp(back);
            Ok(())
        })
    }

    /// An operation that rounds: under its own rounding, with its NaN put right. Its operands are in registers.
    fn rounded(
        &mut self,
        v: Value,
        inst: &Inst,
        attr: FpAttr,
        n: usize,
        emit: impl FnOnce(&mut Self, Xmm),
    ) -> Result<(), Too> {
        let own = attr.rounding() != self.rounding;
        self.unrounded(v, inst, attr, n, |g, d| {
            if own {
                g.set_rounding(attr.rounding());
            }
            emit(g, d);
            if own {
                g.reset_rounding();
            }
        })
    }

    /// Runs the next operation under another rounding. Clobbers `eax`.
    pub(super) fn set_rounding(&mut self, r: Rounding) {
        let rc = match r {
            Rounding::Down => 1,
            Rounding::Up => 2,
            Rounding::Zero => 3,
            _ => 0,
        };
        self.asm.stmxcsr(Mem::env(SCRATCH_WORD));
        self.asm.mov(false, RAX, Mem::env(SCRATCH_WORD));
        self.asm.alu_imm(false, Alu::And, RAX, !0x6000);
        if rc != 0 {
            self.asm.alu_imm(false, Alu::Or, RAX, rc << 13);
        }
        self.asm.store(false, Mem::env(SCRATCH_WORD), RAX);
        self.asm.ldmxcsr(Mem::env(SCRATCH_WORD));
    }

    /// Back to the unit's rounding, with the exceptions raised meanwhile.
    pub(super) fn reset_rounding(&mut self) {
        self.asm.stmxcsr(Mem::env(SCRATCH_WORD));
        self.asm.mov(false, RAX, Mem::env(SCRATCH_WORD));
        self.asm.alu_imm(false, Alu::And, RAX, 0x3f);
        self.asm.alu(false, Alu::Or, RAX, Mem::env(GUEST_FPCR));
        self.asm.store(false, Mem::env(SCRATCH_WORD), RAX);
        self.asm.ldmxcsr(Mem::env(SCRATCH_WORD));
    }

    /// An operation with its NaN put right.
    fn unrounded(
        &mut self,
        v: Value,
        inst: &Inst,
        attr: FpAttr,
        n: usize,
        emit: impl FnOnce(&mut Self, Xmm),
    ) -> Result<(), Too> {
        let args = &[inst.a, inst.b, inst.c][..n];
        // Form 231 of a fused multiply-add looks at the factors first, as x86 guests' operands are ordered.
        let native = attr.nan() == NanPolicy::X86;
        // The product of zero and infinity raises "invalid" also when a quiet NaN is added, which the host lets pass.
        let soft = !native && (attr.nan() != NanPolicy::Canonical || inst.op == Op::Fma);
        let mut avoid = 0;
        let mut first = ANY;
        if soft {
            // The cold path computes again from the operands.
            for &a in args {
                avoid |= 1u32 << self.load_root(self.root(a))?;
            }
        } else {
            first = self.use_xmm(inst.a)?;
        }
        let place = if soft { self.soft_place(inst, n)? } else { None };
        for &a in args {
            self.done(a);
        }
        let d = self.define_xmm(v, first, avoid)?;
        emit(self, d);
        if native {
            return Ok(());
        }
        let double = inst.ty == Type::F64;
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.ucomis(double, true, d, d);
        self.asm.jcc(Cc::P, odd);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            match place {
                Some(regs) => {
                    g.soft_from(inst, n, regs)?;
                    g.asm.vload(inst.ty.bytes(), d, Mem::at(RSP, SOFT + WIDE_BUFFER));
                }
                None => {
                    g.asm.mov_imm(RAX, canonical(double));
                    g.asm.gpr_to_xmm(double, d, RAX);
                }
            }
            g.asm.jmp(back);
            Ok(())
        })
    }

    /// Registers of the operands, for a cold call of the soft fallback.
    fn soft_place(&mut self, inst: &Inst, n: usize) -> Result<Option<[u8; 3]>, Too> {
        let mut regs = [0; 3];
        for (r, a) in regs.iter_mut().zip([inst.a, inst.b, inst.c]).take(n) {
            *r = self.load_root(self.root(a))?;
        }
        Ok(Some(regs))
    }

    /// Emits a call of the soft fallback with operands in registers, at a point where the allocation knows nothing of them
    /// any more. All vector registers are preserved.
    pub(super) fn soft_from(&mut self, inst: &Inst, n: usize, regs: [u8; 3]) -> Result<(), Too> {
        use super::soft::{SoftCall, what};
        use super::stubs::Stub;
        use std::mem::offset_of;
        let at = |o: usize| Mem::at(RSP, SOFT + o as i32);
        let mut types = 0;
        for (i, (&r, a)) in regs.iter().zip([inst.a, inst.b, inst.c]).take(n).enumerate() {
            let ty = self.r.inst(a).ty;
            types |= (ty as u32) << (8 * i);
            let to = at(offset_of!(SoftCall, args) + i * 64);
            if r >= 16 {
                self.asm.vstore(ty.bytes(), to, Xmm(r - 16));
                if ty.bytes() == 4 {
                    self.asm.store_imm(false, to.add(4), 0);
                }
            } else {
                self.asm.store(true, to, Gpr(r));
            }
        }
        self.asm.store_imm(false, at(offset_of!(SoftCall, what)), what(inst) as i32);
        self.asm.store_imm(false, at(offset_of!(SoftCall, types)), types as i32);
        self.store_const(8, at(offset_of!(SoftCall, imm)), inst.imm);
        self.go_stub(true, if self.wide { Stub::SoftY } else { Stub::SoftX });
        Ok(())
    }

    /// Compares; quiet or signalling.
    fn ucomis(&mut self, double: bool, quiet: bool, a: Xmm, b: Xmm) {
        let op = if quiet { 0x2e } else { 0x2f };
        self.asm.vex(V::new(u8::from(double), 1, op), a.0, 0, b);
    }

    fn fma(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<(), Too> {
        let double = inst.ty == Type::F64;
        let xa = self.use_xmm(inst.a)?;
        let xb = self.use_xmm(inst.b)?;
        let xc = self.use_xmm(inst.c)?;
        // Forms 231 (d = a * b + d), by the signs of product and addend.
        let op = match (attr.neg_product(), attr.neg_addend()) {
            (false, false) => 0xb9,
            (false, true) => 0xbb,
            (true, false) => 0xbd,
            (true, true) => 0xbf,
        };
        let v3 = V::new(1, 2, op).w(double);
        if attr.nan() == NanPolicy::X86 {
            // No operand is needed again, so the sum is built where it stays.
            let root = self.root(inst.c);
            for a in [inst.a, inst.b, inst.c] {
                self.done(a);
            }
            let d = self.define_xmm(v, xc, 1 << (xa.0 + 16) | 1 << (xb.0 + 16))?;
            let own = attr.rounding() != self.rounding;
            if own {
                self.set_rounding(attr.rounding());
            }
            if d != xc {
                self.asm.vmov(false, d, xc);
            }
            self.asm.vop(v3, d, xa, xb);
            if own {
                self.reset_rounding();
            }
            self.note_upper(v, attr, root);
            return Ok(());
        }
        self.rounded(v, inst, attr, 3, |g, d| {
            g.asm.vmov(false, X15, xc);
            g.asm.vop(v3, X15, xa, xb);
            g.asm.vmov(false, d, X15);
        })
    }

    fn minmax(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<(), Too> {
        let double = inst.ty == Type::F64;
        let max = inst.op == Op::Fmax;
        let op = if max { 0x5f } else { 0x5d };
        let xa = self.use_xmm(inst.a)?;
        let xb = self.use_xmm(inst.b)?;
        if MinMax::from_bits(attr.variant()) == MinMax::X86 {
            self.done(inst.a);
            self.done(inst.b);
            let root = self.root(inst.a);
            let d = self.define_xmm(v, xa, 0)?;
            self.asm.vop(scalar(double, op), d, xa, xb);
            self.note_upper(v, attr, root);
            return Ok(());
        }
        let (odd, back) = (self.asm.label(), self.asm.label());
        self.done(inst.a);
        self.done(inst.b);
        let avoid = 1 << (xa.0 + 16) | 1 << (xb.0 + 16);
        let d = self.define_xmm(v, ANY, avoid)?;
        self.ucomis(double, true, xa, xb);
        self.asm.jcc(Cc::P, odd);
        // The second operand is the result if both are zeros: both orders, then the sign both or either have.
        self.asm.vop(scalar(double, op), X15, xa, xb);
        self.asm.vop(scalar(double, op), d, xb, xa);
        self.asm.vop(V::new(0, 1, if max { 0x54 } else { 0x56 }), d, d, X15);
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            g.soft_from(inst, 2, [xa.0 + 16, xb.0 + 16, 0])?;
            g.asm.vload(inst.ty.bytes(), d, Mem::at(RSP, SOFT + WIDE_BUFFER));
            g.asm.jmp(back);
            Ok(())
        })
    }

    fn fcmp(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<(), Too> {
        let double = self.r.inst(inst.a).ty == Type::F64;
        let xa = self.use_xmm(inst.a)?;
        let xb = self.use_xmm(inst.b)?;
        let quiet = !attr.flag();
        let cond = FCond::from_bits(attr.variant());
        // a < b is b > a: "above" is false for unordered operands.
        let (x, y) = if matches!(cond, FCond::Lt | FCond::Le) { (xb, xa) } else { (xa, xb) };
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        self.ucomis(double, quiet, x, y);
        match cond {
            FCond::Eq => {
                self.asm.setcc(Cc::Np, RAX);
                self.asm.mov_imm32(d, 0);
                self.asm.cmov(false, Cc::E, d, RAX);
                self.asm.extend(false, 8, false, d, d);
            }
            c => {
                let cc = match c {
                    FCond::Lt => Cc::A,
                    FCond::Le => Cc::Ae,
                    _ => Cc::P,
                };
                self.asm.setcc(cc, RAX);
                self.asm.extend(false, 8, false, d, RAX);
            }
        }
        self.vals[v.index()].zx = 1;
        Ok(())
    }

    fn itof(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<(), Too> {
        let double = inst.ty == Type::F64;
        let wide = self.r.inst(inst.a).ty == Type::I64;
        let unsigned = attr.flag();
        let mut ra = self.use_gpr(inst.a)?;
        if unsigned && !wide && self.zx(self.root(inst.a)) > 32 {
            let t = self.temp_gpr()?;
            self.asm.mov(false, t, ra);
            ra = t;
        }
        self.done(inst.a);
        let d = self.define_xmm(v, ANY, 0)?;
        let own = attr.rounding() != self.rounding;
        if own {
            self.set_rounding(attr.rounding());
        }
        self.vxor(d);
        let w = wide || unsigned;
        let (odd, back) = (self.asm.label(), self.asm.label());
        if unsigned && wide {
            self.asm.test(true, ra, ra);
            self.asm.jcc(Cc::S, odd);
        }
        let convert =
            |g: &mut Self, r: Gpr| g.asm.vop(scalar(double, 0x2a).w(w), d, d, super::asm::Rm::Reg(r.0));
        convert(self, ra);
        if unsigned && wide {
            self.asm.bind(back);
            self.cold(|g| {
                g.asm.bind(odd);
                // Half of it, the lowest bit sticking, rounds the same way.
                let even = g.asm.label();
                g.asm.mov(true, RAX, ra);
                g.asm.shift_imm(true, Shift::Shr, RAX, 1);
                g.asm.jcc(Cc::Ae, even);
                g.asm.alu_imm(true, Alu::Or, RAX, 1);
                g.asm.bind(even);
                convert(g, RAX);
                g.asm.vop(scalar(double, 0x58), d, d, d);
                g.asm.jmp(back);
                Ok(())
            })?;
        }
        if own {
            self.reset_rounding();
        }
        self.note_zeros(v);
        Ok(())
    }

    fn ftoi(&mut self, v: Value, inst: &Inst, attr: FpAttr) -> Result<bool, Too> {
        let double = self.r.inst(inst.a).ty == Type::F64;
        let wide = inst.ty == Type::I64;
        let unsigned = attr.flag();
        let indefinite = IntConv::from_bits(attr.variant()) == IntConv::Indefinite;
        let truncates = attr.rounding() == Rounding::Zero;
        let own = !truncates && attr.rounding() != self.rounding;
        if own {
            return Ok(false);
        }
        let xa = self.use_xmm(inst.a)?;
        self.done(inst.a);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        if unsigned {
            // What does not fit must not leave the exceptions of the wider conversion.
            self.asm.stmxcsr(Mem::env(SCRATCH_WORD));
        }
        let op = scalar(double, if truncates { 0x2c } else { 0x2d });
        self.asm.vex(op.w(wide || unsigned), d.0, 0, xa);
        self.vals[v.index()].zx = if wide { 64 } else { 32 };
        if indefinite && !unsigned {
            return Ok(true);
        }
        let (odd, back) = (self.asm.label(), self.asm.label());
        match (unsigned, wide) {
            // The indefinite integer is the only one that overflows here.
            (false, _) => {
                self.asm.alu_imm(wide, Alu::Cmp, d, 1);
                self.asm.jcc(Cc::O, odd);
            }
            (true, true) => {
                self.asm.test(true, d, d);
                self.asm.jcc(Cc::S, odd);
            }
            (true, false) => {
                self.asm.mov(false, RAX, d);
                self.asm.alu(true, Alu::Cmp, RAX, d);
                self.asm.jcc(Cc::Ne, odd);
            }
        }
        self.asm.bind(back);
        self.cold(|g| {
            g.asm.bind(odd);
            if unsigned {
                g.asm.ldmxcsr(Mem::env(SCRATCH_WORD));
            }
            g.soft_from(inst, 1, [xa.0 + 16, 0, 0])?;
            g.asm.mov(wide, d, Mem::at(RSP, SOFT + WIDE_BUFFER));
            g.asm.jmp(back);
            Ok(())
        })?;
        debug_assert_eq!(class(inst.ty), Class::Gpr);
        Ok(true)
    }
}
