//! Integer operations of up to 64 bits. Values of 8 and 16 bits are computed in 32, with garbage above their width.

use tcg_ir::{Inst, Op, Type, Value};

use super::alloc::{Class, NO_REG, Place, class, fl};
use super::asm::{Alu, Cc, Mem, Rm, Shift};
use super::regs::*;
use super::{Gen, Too};

impl Gen<'_> {
    /// Emits an integer operation. False if there is no recipe.
    pub(super) fn lower_int(&mut self, v: Value) -> Result<bool, Too> {
        let inst = *self.r.inst(v);
        let bits = inst.ty.bits();
        match inst.op {
            Op::Setcc => return self.setcc(v, &inst),
            Op::Select => return self.select(v, &inst),
            Op::Bitcast => return self.bitcast(v, &inst),
            Op::Trunc => return self.trunc(v, &inst),
            Op::Zext | Op::Sext => return self.extend(v, &inst),
            Op::Concat => {
                let to = self.frame_slot(v.0)?;
                self.lazy_arg(inst.a)?;
                self.lazy_arg(inst.b)?;
                self.store_value(inst.a, to)?;
                self.store_value(inst.b, to.add(8))?;
                self.done(inst.a);
                self.done(inst.b);
                return Ok(true);
            }
            Op::Const if inst.ty == Type::I128 => {
                let to = self.frame_slot(v.0)?;
                self.store_const(8, to, inst.imm);
                self.store_const(8, to.add(8), 0);
                return Ok(true);
            }
            _ => {}
        }
        if !inst.ty.is_int() || bits > 64 {
            return Ok(false);
        }
        // What the operation leaves above the width: 32-bit operations clear the upper half.
        self.vals[v.index()].zx = if bits == 64 { 64 } else { 32 };
        let w = bits == 64;
        match inst.op {
            Op::Add => self.add(v, inst.a, inst.b, w)?,
            Op::Sub => self.sub(v, inst.a, inst.b, w)?,
            Op::And => self.and(v, inst.a, inst.b, w)?,
            Op::Or => self.logic(v, Alu::Or, inst.a, inst.b, w)?,
            Op::Xor => self.logic(v, Alu::Xor, inst.a, inst.b, w)?,
            Op::Andc => {
                let rb = self.use_gpr(inst.b)?;
                let ra = self.use_gpr(inst.a)?;
                self.done(inst.a);
                self.done(inst.b);
                let d = self.define_gpr(v, ra, 0)?;
                self.asm.andn(w, d, rb, ra);
            }
            Op::Orc => {
                let ra = self.use_gpr(inst.a)?;
                let rb = self.use_gpr(inst.b)?;
                self.asm.mov(w, RAX, rb);
                self.asm.not(w, RAX);
                self.asm.alu(w, Alu::Or, RAX, ra);
                self.done(inst.a);
                self.done(inst.b);
                self.result_rax(v, ra, w)?;
            }
            Op::Eqv => {
                let ra = self.use_gpr(inst.a)?;
                let rb = self.use_gpr(inst.b)?;
                self.asm.mov(w, RAX, rb);
                self.asm.alu(w, Alu::Xor, RAX, ra);
                self.asm.not(w, RAX);
                self.done(inst.a);
                self.done(inst.b);
                self.result_rax(v, ra, w)?;
            }
            Op::Not | Op::Neg => {
                let d = self.unary(v, inst.a, w)?;
                if inst.op == Op::Not { self.asm.not(w, d) } else { self.asm.neg(w, d) }
            }
            Op::Mul => self.mul(v, inst.a, inst.b, w)?,
            Op::Mulhu | Op::Mulhs | Op::Mulhsu if bits >= 32 => self.mulh(v, &inst)?,
            Op::Divu | Op::Divs | Op::Remu | Op::Rems if bits >= 32 => self.div(v, &inst)?,
            Op::Shl | Op::Shr | Op::Sar | Op::Rotl | Op::Rotr => self.shift(v, &inst)?,
            Op::Clz | Op::Ctz | Op::Popcnt => {
                let ra = self.use_gpr(inst.a)?;
                self.done(inst.a);
                let d = self.define_gpr(v, ra, 0)?;
                if bits >= 32 {
                    let op = match inst.op {
                        Op::Clz => 0xbd,
                        Op::Ctz => 0xbc,
                        _ => 0xb8,
                    };
                    self.asm.count(w, op, d, ra);
                } else if inst.op == Op::Ctz {
                    self.asm.mov(false, RAX, ra);
                    self.asm.alu_imm(false, Alu::Or, RAX, 1 << bits);
                    self.asm.count(false, 0xbc, d, RAX);
                } else {
                    self.asm.extend(false, bits, false, d, ra);
                    if inst.op == Op::Clz {
                        self.asm.count(false, 0xbd, d, d);
                        self.asm.alu_imm(false, Alu::Sub, d, 32 - bits as i32);
                    } else {
                        self.asm.count(false, 0xb8, d, d);
                    }
                }
                self.vals[v.index()].zx = 8;
            }
            Op::Bswap => {
                let d = self.unary(v, inst.a, w)?;
                match bits {
                    8 => {}
                    16 => self.asm.shift_small_imm(16, Shift::Rol, d, 8),
                    _ => self.asm.bswap(w, d),
                }
                if bits < 32 {
                    self.vals[v.index()].zx = 64;
                }
            }
            Op::Extract | Op::Sextract => self.extract(v, &inst)?,
            Op::Deposit => self.deposit(v, &inst)?,
            _ => {
                self.vals[v.index()].zx = 64;
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn lazy_arg(&mut self, a: Value) -> Result<(), Too> {
        let root = self.root(a);
        if self.vals[root as usize].is(fl::LAZY) {
            self.load_root(root)?;
        }
        Ok(())
    }

    /// The result is in `rax`.
    fn result_rax(&mut self, v: Value, first: Gpr, w: bool) -> Result<(), Too> {
        let d = self.define_gpr(v, first, 0)?;
        self.asm.mov(w, d, RAX);
        Ok(())
    }

    /// A result register that holds a copy of `a`.
    fn unary(&mut self, v: Value, a: Value, w: bool) -> Result<Gpr, Too> {
        let ra = self.use_gpr(a)?;
        self.done(a);
        let d = self.define_gpr(v, ra, 0)?;
        if d != ra {
            self.asm.mov(w, d, ra);
        }
        Ok(d)
    }

    /// Operands with a constant, if there is one, second.
    fn commute(&self, a: Value, b: Value) -> (Value, Value) {
        if self.imm(a).is_some() && self.imm(b).is_none() { (b, a) } else { (a, b) }
    }

    fn bits_of(w: bool) -> u32 {
        if w { 64 } else { 32 }
    }

    /// Second operand: memory if it is there and needed once, else a register.
    fn second(&mut self, b: Value, w: bool) -> Result<Rm, Too> {
        // Narrow values' memory may be narrower than the operation.
        if self.r.inst(b).ty.bits() >= 32
            && let Some(m) = self.mem_operand(b, Self::bits_of(w))
        {
            return Ok(m.into());
        }
        Ok(self.use_gpr(b)?.into())
    }

    fn add(&mut self, v: Value, a: Value, b: Value, w: bool) -> Result<(), Too> {
        let (a, b) = self.commute(a, b);
        if let Some(imm) = self.imm32(b) {
            self.done(b);
            return self.add_imm(v, a, imm, w);
        }
        let ra = self.use_gpr(a)?;
        let rb = self.second(b, w)?;
        self.done(a);
        self.done(b);
        match rb {
            Rm::Reg(rb) => {
                let rb = Gpr(rb);
                let d = self.define_gpr(v, ra, 0)?;
                if d == ra {
                    self.asm.alu(w, Alu::Add, d, rb);
                } else if d == rb {
                    self.asm.alu(w, Alu::Add, d, ra);
                } else {
                    self.asm.lea(w, d, Mem { base: ra, index: Some((rb, 0)), disp: 0, guest: false });
                }
            }
            Rm::Mem(m) => {
                let d = self.define_gpr(v, ra, 0)?;
                if d != ra {
                    self.asm.mov(w, d, ra);
                }
                self.asm.alu(w, Alu::Add, d, m);
            }
        }
        Ok(())
    }

    fn add_imm(&mut self, v: Value, a: Value, imm: i32, w: bool) -> Result<(), Too> {
        let ra = self.use_gpr(a)?;
        self.done(a);
        let d = self.define_gpr(v, ra, 0)?;
        if d == ra {
            if imm == 128 {
                self.asm.alu_imm(w, Alu::Sub, d, -128);
            } else {
                self.asm.alu_imm(w, Alu::Add, d, imm);
            }
        } else {
            self.asm.lea(w, d, Mem::at(ra, imm));
        }
        Ok(())
    }

    fn sub(&mut self, v: Value, a: Value, b: Value, w: bool) -> Result<(), Too> {
        if let Some(imm) = self.imm32(b).and_then(i32::checked_neg) {
            self.done(b);
            return self.add_imm(v, a, imm, w);
        }
        if self.imm(a) == Some(0) {
            self.done(a);
            let d = self.unary(v, b, w)?;
            self.asm.neg(w, d);
            return Ok(());
        }
        let ra = self.use_gpr(a)?;
        let rb = self.second(b, w)?;
        self.done(a);
        self.done(b);
        let avoid = match rb {
            Rm::Reg(r) if r != ra.0 => 1 << r,
            _ => 0,
        };
        let d = self.define_gpr(v, ra, avoid)?;
        if d != ra {
            self.asm.mov(w, d, ra);
        }
        self.asm.alu(w, Alu::Sub, d, rb);
        Ok(())
    }

    fn and(&mut self, v: Value, a: Value, b: Value, w: bool) -> Result<(), Too> {
        let (a, b) = self.commute(a, b);
        let from = match self.imm(b) {
            Some(0xff) => 8,
            Some(0xffff) => 16,
            Some(0xffff_ffff) => 32,
            _ => return self.logic(v, Alu::And, a, b, w),
        };
        let ra = self.use_gpr(a)?;
        self.done(a);
        self.done(b);
        let d = self.define_gpr(v, ra, 0)?;
        self.asm.extend(false, from, false, d, ra);
        self.vals[v.index()].zx = from as u8;
        Ok(())
    }

    fn logic(&mut self, v: Value, op: Alu, a: Value, b: Value, w: bool) -> Result<(), Too> {
        let (a, b) = self.commute(a, b);
        let (za, zb) = (self.zx(self.root(a)), self.zx(self.root(b)));
        if let Some(imm) = self.imm32(b) {
            let ra = self.use_gpr(a)?;
            self.done(a);
            self.done(b);
            let d = self.define_gpr(v, ra, 0)?;
            if d != ra {
                self.asm.mov(w, d, ra);
            }
            if op == Alu::Xor && imm == -1 {
                self.asm.not(w, d);
            } else {
                // A positive mask clears the upper half by itself.
                self.asm.alu_imm(w && !(op == Alu::And && imm >= 0), op, d, imm);
            }
            if op == Alu::And && imm >= 0 {
                self.vals[v.index()].zx = (32 - imm.leading_zeros()) as u8;
            }
            return Ok(());
        }
        let mut ra = self.use_gpr(a)?;
        let mut rb = self.second(b, w)?;
        self.done(a);
        self.done(b);
        let d = self.define_gpr(v, ra, 0)?;
        if let Rm::Reg(r) = rb
            && d.0 == r
            && d != ra
        {
            rb = ra.into();
            ra = Gpr(r);
        }
        if d != ra {
            self.asm.mov(w, d, ra);
        }
        self.asm.alu(w, op, d, rb);
        let zx = if op == Alu::And { za.min(zb) } else { za.max(zb) };
        if w && zx < 64 {
            self.vals[v.index()].zx = zx as u8;
        }
        Ok(())
    }

    fn mul(&mut self, v: Value, a: Value, b: Value, w: bool) -> Result<(), Too> {
        let (a, b) = self.commute(a, b);
        if let Some(imm) = self.imm32(b) {
            let ra = self.use_gpr(a)?;
            self.done(a);
            self.done(b);
            let d = self.define_gpr(v, ra, 0)?;
            if imm > 1 && imm & (imm - 1) == 0 {
                if d != ra {
                    self.asm.mov(w, d, ra);
                }
                self.asm.shift_imm(w, Shift::Shl, d, imm.trailing_zeros() as u8);
            } else {
                self.asm.imul_imm(w, d, ra, imm);
            }
            return Ok(());
        }
        let ra = self.use_gpr(a)?;
        let rb = self.second(b, w)?;
        self.done(a);
        self.done(b);
        let d = self.define_gpr(v, ra, 0)?;
        match rb {
            Rm::Reg(r) if r == d.0 && d != ra => self.asm.imul(w, d, ra),
            _ => {
                if d != ra {
                    self.asm.mov(w, d, ra);
                }
                self.asm.imul(w, d, rb);
            }
        }
        Ok(())
    }

    fn mulh(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        if inst.ty == Type::I32 {
            let ra = self.use_gpr(inst.a)?;
            let rb = self.use_gpr(inst.b)?;
            let t = self.temp_gpr()?;
            self.asm.extend(inst.op != Op::Mulhu, 32, true, RAX, ra);
            self.asm.extend(inst.op == Op::Mulhs, 32, true, t, rb);
            self.asm.imul(true, RAX, t);
            self.asm.shift_imm(true, Shift::Shr, RAX, 32);
            self.done(inst.a);
            self.done(inst.b);
            return self.result_rax(v, ra, false);
        }
        self.claim(RDX)?;
        let ra = self.use_gpr(inst.a)?;
        let rb = self.use_gpr(inst.b)?;
        self.asm.mov(true, RAX, ra);
        self.asm.muldiv(true, if inst.op == Op::Mulhs { 5 } else { 4 }, rb);
        if inst.op == Op::Mulhsu {
            self.asm.mov(true, RAX, ra);
            self.asm.shift_imm(true, Shift::Sar, RAX, 63);
            self.asm.alu(true, Alu::And, RAX, rb);
            self.asm.alu(true, Alu::Sub, RDX, RAX);
        }
        self.result_in(v, inst, RDX, true)
    }

    /// The result of a two-operand operation is in a claimed register.
    fn result_in(&mut self, v: Value, inst: &Inst, r: Gpr, w: bool) -> Result<(), Too> {
        self.done(inst.a);
        self.done(inst.b);
        self.unclaim(r);
        let d = self.define_gpr(v, r, 0)?;
        if d != r {
            self.asm.mov(w, d, r);
        }
        Ok(())
    }

    fn div(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        let w = inst.ty == Type::I64;
        let signed = matches!(inst.op, Op::Divs | Op::Rems);
        let rem = matches!(inst.op, Op::Remu | Op::Rems);
        self.claim(RDX)?;
        let ra = self.use_gpr(inst.a)?;
        let rb = self.use_gpr(inst.b)?;
        let (odd, back) = (self.asm.label(), self.asm.label());
        let known = self.imm32(inst.b).is_some_and(|b| b != 0 && b != -1);
        if !known {
            if signed {
                // Divisors -1 and 0 at once.
                self.asm.lea(w, RAX, Mem::at(rb, 1));
                self.asm.alu_imm(w, Alu::Cmp, RAX, 1);
                self.asm.jcc(Cc::Be, odd);
            } else {
                self.asm.test(w, rb, rb);
                self.asm.jcc(Cc::E, odd);
            }
        }
        self.asm.mov(w, RAX, ra);
        if signed {
            self.asm.cqo(w);
            self.asm.muldiv(w, 7, rb);
        } else {
            self.asm.alu(false, Alu::Xor, RDX, RDX);
            self.asm.muldiv(w, 6, rb);
        }
        if !known {
            self.asm.bind(back);
            self.cold(|g| {
                let a = &mut g.asm;
                a.bind(odd);
                a.mov(w, RDX, ra);
                if signed {
                    let zero = a.label();
                    a.test(w, rb, rb);
                    a.jcc(Cc::E, zero);
                    // Divisor -1: the quotient is the negative, wrapping; nothing remains.
                    a.mov(w, RAX, ra);
                    a.neg(w, RAX);
                    a.mov_imm(RDX, 0);
                    a.jmp(back);
                    a.bind(zero);
                }
                a.mov_imm(RAX, if w { u64::MAX } else { 0xffff_ffff });
                a.jmp(back);
                Ok(())
            })?;
        }
        if rem {
            return self.result_in(v, inst, RDX, w);
        }
        self.done(inst.a);
        self.done(inst.b);
        self.unclaim(RDX);
        self.result_rax(v, RDX, w)
    }

    fn shift(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        let bits = inst.ty.bits();
        let w = bits == 64;
        let op = match inst.op {
            Op::Shl => Shift::Shl,
            Op::Shr => Shift::Shr,
            Op::Sar => Shift::Sar,
            Op::Rotl => Shift::Rol,
            _ => Shift::Ror,
        };
        let rotates = matches!(op, Shift::Rol | Shift::Ror);
        if let Some(n) = self.imm(inst.b) {
            let n = (n & u64::from(bits - 1)) as u8;
            let ra = self.use_gpr(inst.a)?;
            let zx = self.zx(self.root(inst.a));
            self.done(inst.a);
            self.done(inst.b);
            let d = self.define_gpr(v, ra, 0)?;
            if n == 0 && d == ra {
                self.vals[v.index()].zx = zx as u8;
                return Ok(());
            }
            if rotates && bits >= 32 {
                let n = if op == Shift::Rol { (bits as u8 - n) % bits as u8 } else { n };
                self.asm.rorx(w, d, ra, n);
                return Ok(());
            }
            if bits < 32 && matches!(op, Shift::Shr | Shift::Sar) {
                self.asm.extend(op == Shift::Sar, bits, false, d, ra);
            } else if d != ra {
                self.asm.mov(w, d, ra);
            }
            if rotates {
                self.asm.shift_small_imm(bits, op, d, n);
                self.vals[v.index()].zx = 64;
            } else if n != 0 {
                self.asm.shift_imm(w, op, d, n);
            }
            if op == Shift::Shr {
                let top = zx.min(bits).saturating_sub(u32::from(n));
                self.vals[v.index()].zx = top as u8;
            }
            return Ok(());
        }
        if rotates {
            self.claim(RCX)?;
            let ra = self.use_gpr(inst.a)?;
            let rb = self.use_gpr(inst.b)?;
            self.asm.mov(false, RCX, rb);
            self.done(inst.a);
            self.done(inst.b);
            let d = self.define_gpr(v, ra, 0)?;
            if d != ra {
                self.asm.mov(w, d, ra);
            }
            if bits >= 32 {
                self.asm.shift_cl(w, op, d);
            } else {
                self.asm.shift_small_cl(bits, op, d);
            }
            // The register may be the operand's own, with what was above.
            self.vals[v.index()].zx = 64;
            return Ok(());
        }
        let ra = self.use_gpr(inst.a)?;
        let rb = self.use_gpr(inst.b)?;
        self.done(inst.a);
        self.done(inst.b);
        if bits >= 32 {
            let d = self.define_gpr(v, ra, 0)?;
            self.asm.shiftx(w, op, d, ra, rb);
        } else {
            self.asm.mov(false, RAX, rb);
            self.asm.alu_imm(false, Alu::And, RAX, bits as i32 - 1);
            let d = self.define_gpr(v, ra, 0)?;
            if op == Shift::Shl {
                self.asm.shiftx(false, op, d, ra, RAX);
            } else {
                self.asm.extend(op == Shift::Sar, bits, false, d, ra);
                self.asm.shiftx(false, op, d, d, RAX);
            }
        }
        Ok(())
    }

    fn trunc(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        if class(self.r.inst(inst.a).ty) != Class::Gpr {
            let Place::Mem(m) = self.place(self.root(inst.a)) else { return Ok(false) };
            if inst.ty.bits() > 64 {
                return Ok(false);
            }
            let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
            self.asm.mov(inst.ty == Type::I64, d, m);
            self.vals[v.index()].zx = if inst.ty == Type::I64 { 64 } else { 32 };
            self.done(inst.a);
            return Ok(true);
        }
        self.same(v, inst.a)?;
        Ok(true)
    }

    /// The result is the operand under another type.
    pub(super) fn same(&mut self, v: Value, a: Value) -> Result<(), Too> {
        let root = self.root(a);
        self.lazy_arg(a)?;
        if !self.vals[v.index()].is(fl::GLOBAL) {
            self.make_alias(v, root);
            self.done(a);
            return Ok(());
        }
        let r = self.load_root(root)?;
        let zx = self.vals[root as usize].zx;
        self.done(a);
        let d = self.define(v, r, 0)?;
        self.copy_reg(self.r.inst(v).ty, d, r);
        self.vals[v.index()].zx = zx;
        Ok(())
    }

    fn extend(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        let from = self.r.inst(inst.a).ty;
        let signed = inst.op == Op::Sext;
        if from.bits() > 64 {
            return Ok(false);
        }
        if inst.ty == Type::I128 {
            self.lazy_arg(inst.a)?;
            let to = self.frame_slot(v.0)?;
            self.store_value(inst.a, to)?;
            if signed {
                match from.bits() {
                    64 => self.asm.mov(true, RAX, to),
                    n => {
                        self.asm.extend(true, n, true, RAX, to);
                        self.asm.store(true, to, RAX);
                    }
                }
                self.asm.shift_imm(true, Shift::Sar, RAX, 63);
                self.asm.store(true, to.add(8), RAX);
            } else {
                self.asm.store_imm(true, to.add(8), 0);
            }
            self.done(inst.a);
            return Ok(true);
        }
        self.lazy_arg(inst.a)?;
        let root = self.root(inst.a);
        let bits = from.bits();
        let zx = self.zx(root);
        // Zeros above already, or zeros at and above the sign bit.
        if zx <= bits && (!signed || zx < bits) {
            self.same(v, inst.a)?;
            return Ok(true);
        }
        let w = inst.ty == Type::I64;
        let src: Rm = match self.mem_operand(inst.a, bits) {
            Some(m) => m.into(),
            None => self.use_gpr(inst.a)?.into(),
        };
        self.done(inst.a);
        let first = match src {
            Rm::Reg(r) => r,
            Rm::Mem(_) => NO_REG,
        };
        let d = self.define_gpr(v, Gpr(first), 0)?;
        self.asm.extend(signed, bits, w, d, src);
        self.vals[v.index()].zx = match (signed, w) {
            (false, _) => bits as u8,
            (true, true) => 64,
            (true, false) => 32,
        };
        Ok(true)
    }

    fn extract(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        let (pos, len) = ((inst.imm & 0xff) as u32, (inst.imm >> 8 & 0xff) as u32);
        let bits = inst.ty.bits();
        let signed = inst.op == Op::Sextract;
        let ra = self.use_gpr(inst.a)?;
        self.done(inst.a);
        let d = self.define_gpr(v, ra, 0)?;
        let end = pos + len;
        let w = bits == 64;
        if pos == 0 && matches!(len, 8 | 16 | 32) {
            self.asm.extend(signed, len, w, d, ra);
            if !signed {
                self.vals[v.index()].zx = len as u8;
            }
            return Ok(());
        }
        if signed {
            // In 32 bits if the field is there.
            let wide = end > 32 || (w && len > 32);
            let n = Self::bits_of(wide);
            if d != ra {
                self.asm.mov(wide, d, ra);
            }
            if n != end {
                self.asm.shift_imm(wide, Shift::Shl, d, (n - end) as u8);
            }
            if n != len {
                self.asm.shift_imm(wide, Shift::Sar, d, (n - len) as u8);
            }
            if w && !wide {
                self.asm.extend(true, 32, true, d, d);
            }
            return Ok(());
        }
        if pos == 0 && len < 32 {
            if d != ra {
                self.asm.mov(false, d, ra);
            }
            self.asm.alu_imm(false, Alu::And, d, ((1i64 << len) - 1) as i32);
        } else if len < 32 && end != Self::bits_of(w) {
            let wide = end > 32;
            if d != ra {
                self.asm.mov(wide, d, ra);
            }
            self.asm.shift_imm(wide, Shift::Shr, d, pos as u8);
            match len {
                8 | 16 => self.asm.extend(false, len, false, d, d),
                _ => self.asm.alu_imm(false, Alu::And, d, ((1i64 << len) - 1) as i32),
            }
        } else {
            if d != ra {
                self.asm.mov(w, d, ra);
            }
            let n = Self::bits_of(w);
            if n != end {
                self.asm.shift_imm(w, Shift::Shl, d, (n - end) as u8);
            }
            if n != len {
                self.asm.shift_imm(w, Shift::Shr, d, (n - len) as u8);
            }
        }
        if len < 64 {
            self.vals[v.index()].zx = len.max(1) as u8;
        }
        Ok(())
    }

    fn deposit(&mut self, v: Value, inst: &Inst) -> Result<(), Too> {
        let (pos, len) = ((inst.imm & 0xff) as u32, (inst.imm >> 8 & 0xff) as u32);
        let bits = inst.ty.bits();
        let w = bits == 64;
        let ra = self.use_gpr(inst.a)?;
        let rb = self.use_gpr(inst.b)?;
        if len >= bits {
            self.done(inst.a);
            self.done(inst.b);
            let d = self.define_gpr(v, rb, 0)?;
            if d != rb {
                self.asm.mov(w, d, rb);
            }
            self.vals[v.index()].zx = 64;
            return Ok(());
        }
        let t = self.temp_gpr()?;
        match len {
            8 | 16 | 32 => self.asm.extend(false, len, false, t, rb),
            _ if len < 32 => {
                self.asm.mov(false, t, rb);
                self.asm.alu_imm(false, Alu::And, t, ((1i64 << len) - 1) as i32);
            }
            _ => {
                self.asm.mov(true, t, rb);
                self.asm.shift_imm(true, Shift::Shl, t, (64 - len) as u8);
                self.asm.shift_imm(true, Shift::Shr, t, (64 - len) as u8);
            }
        }
        if pos != 0 {
            self.asm.shift_imm(w, Shift::Shl, t, pos as u8);
        }
        let hole = !(((1u64 << len) - 1) << pos);
        let mask = if w { hole } else { hole as u32 as u64 };
        let short = if w { i32::try_from(mask as i64).ok() } else { Some(mask as i32) };
        if short.is_none() {
            self.asm.mov_imm(RAX, mask);
        }
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_gpr(v, ra, 0)?;
        if d != ra {
            self.asm.mov(w, d, ra);
        }
        match short {
            Some(imm) => self.asm.alu_imm(w, Alu::And, d, imm),
            None => self.asm.alu(w, Alu::And, d, RAX),
        }
        self.asm.alu(w, Alu::Or, d, t);
        Ok(())
    }

    fn setcc(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        use tcg_ir::Cond;
        if class(self.r.inst(inst.a).ty) != Class::Gpr || class(inst.ty) != Class::Gpr {
            return Ok(false);
        }
        if Cond::from_bits(inst.sub) as u8 > Cond::TestNz as u8 {
            return Ok(false);
        }
        self.vals[v.index()].fl |= fl::LAZY;
        self.lazies.push(v.0);
        if self.vals[v.index()].is(fl::GLOBAL) {
            self.compute_lazy(v.0)?;
        }
        Ok(true)
    }

    /// Computes a comparison that was put off.
    pub(super) fn compute_lazy(&mut self, root: u32) -> Result<(), Too> {
        let v = Value(root);
        self.vals[root as usize].fl &= !fl::LAZY;
        let others = self.locked;
        let cc = self.compare(v)?;
        // Registers the surrounding operation reads stay as they are.
        let d = self.define_gpr(v, Gpr(NO_REG), others)?;
        self.asm.setcc(cc, RAX);
        self.asm.extend(false, 8, false, d, RAX);
        self.vals[root as usize].zx = 1;
        self.finish_def(v)
    }

    fn select(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        match class(inst.ty) {
            Class::Mem => return Ok(false),
            Class::Gpr => {
                let rb = self.use_gpr(inst.b)?;
                let rc = self.use_gpr(inst.c)?;
                let cc = self.condition(inst.a)?;
                let zx = self.zx(self.root(inst.b)).max(self.zx(self.root(inst.c)));
                self.done(inst.b);
                self.done(inst.c);
                let d = self.define_gpr(v, rc, 0)?;
                // The move must take all bits the values' own registers have.
                if d == rb {
                    self.asm.cmov(true, cc.negate(), d, rc);
                } else {
                    if d != rc {
                        self.asm.mov(true, d, rc);
                    }
                    self.asm.cmov(true, cc, d, rb);
                }
                self.vals[v.index()].zx = zx as u8;
            }
            Class::Xmm => {
                let bytes = inst.ty.bytes();
                let rb = self.use_xmm(inst.b)?;
                let rc = self.use_xmm(inst.c)?;
                let cc = self.condition(inst.a)?;
                self.done(inst.b);
                self.done(inst.c);
                let d = self.define_xmm(v, rc, 0)?;
                let end = self.asm.label();
                if d == rb {
                    self.asm.jcc(cc, end);
                    self.asm.vmov_bytes(bytes, d, rc);
                } else {
                    if d != rc {
                        self.asm.vmov_bytes(bytes, d, rc);
                    }
                    self.asm.jcc(cc.negate(), end);
                    self.asm.vmov_bytes(bytes, d, rb);
                }
                self.asm.bind(end);
            }
        }
        Ok(true)
    }

    fn bitcast(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        let from = self.r.inst(inst.a).ty;
        let bytes = inst.ty.bytes();
        let root = self.root(inst.a);
        match (class(from), class(inst.ty)) {
            (a, b) if a == b && a != Class::Mem => {
                self.same(v, inst.a)?;
            }
            (Class::Gpr, Class::Xmm) => {
                let ra = self.use_gpr(inst.a)?;
                let d = self.define_xmm(v, Xmm(NO_REG - 16), 0)?;
                self.asm.gpr_to_xmm(bytes == 8, d, ra);
                self.done(inst.a);
            }
            (Class::Xmm, Class::Gpr) => {
                let xa = self.use_xmm(inst.a)?;
                let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
                self.asm.xmm_to_gpr(bytes == 8, d, xa);
                self.vals[v.index()].zx = bytes as u8 * 8;
                self.done(inst.a);
            }
            (Class::Xmm, _) => {
                let xa = self.use_xmm(inst.a)?;
                let to = self.frame_slot(v.0)?;
                self.asm.vstore(bytes, to, xa);
                self.done(inst.a);
            }
            (Class::Mem, Class::Xmm) => {
                let Place::Mem(m) = self.place(root) else { return Err(Too) };
                let d = self.define_xmm(v, Xmm(NO_REG - 16), 0)?;
                self.asm.vload(bytes, d, m);
                self.done(inst.a);
            }
            _ => {
                let Place::Mem(m) = self.place(root) else { return Err(Too) };
                let to = self.frame_slot(v.0)?;
                self.copy(bytes, to, m);
                self.done(inst.a);
            }
        }
        Ok(true)
    }
}
