//! Binary arithmetic, decimal arithmetic and logic (SDM volume 1, 7.3.2 to 7.3.4).
//!
//! Undefined flags: products give Z, N and P of their low half, quotients leave the flags as they are.

use iced_x86::{Mnemonic, Register};
use tcg_ir::{Cond, FlagBits, FlagKind, Op, RmwOp, Type, Value};

use super::Translator;
use crate::{
    exceptions::{self, vector},
    state,
    wide::{self, Bcd, Div128, LockNeg},
};

/// Operations of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alu {
    Add,
    Adc,
    Sub,
    Sbb,
    Cmp,
    And,
    Or,
    Xor,
    Test,
}

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn arith(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Add => self.alu(Alu::Add),
            M::Adc => self.alu(Alu::Adc),
            M::Sub => self.alu(Alu::Sub),
            M::Sbb => self.alu(Alu::Sbb),
            M::Cmp => self.alu(Alu::Cmp),
            M::And => self.alu(Alu::And),
            M::Or => self.alu(Alu::Or),
            M::Xor => self.alu(Alu::Xor),
            M::Test => self.alu(Alu::Test),
            M::Inc => self.step(true),
            M::Dec => self.step(false),
            M::Neg => self.neg(),
            M::Not => self.not_operand(),
            M::Mul => self.mul(),
            M::Imul if self.insn.op_count() == 1 => self.imul_wide(),
            M::Imul => self.imul(),
            M::Div => self.div(false),
            M::Idiv => self.div(true),
            M::Adcx => self.add_carry(FlagBits::C),
            M::Adox => self.add_carry(FlagBits::V),
            M::Daa => self.bcd(wide::DAA),
            M::Das => self.bcd(wide::DAS),
            M::Aaa => self.bcd(wide::AAA),
            M::Aas => self.bcd(wide::AAS),
            M::Aam => self.aam(),
            M::Aad => self.aad(),
            _ => return false,
        }
        true
    }

    /// Result and flags of an operation.
    fn alu_result(&mut self, op: Alu, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        let none = Value::NONE;
        match op {
            Alu::Add => {
                let r = self.b.add(a, b);
                self.set_flags(FlagKind::Add, [a, b, none], r);
                r
            }
            Alu::Sub | Alu::Cmp => {
                let r = self.b.sub(a, b);
                self.set_flags(FlagKind::Sub, [a, b, none], r);
                r
            }
            Alu::Adc | Alu::Sbb => {
                let c = self.carry();
                let c = self.b.zext(ty, c);
                let add = op == Alu::Adc;
                let r = if add { self.b.add(a, b) } else { self.b.sub(a, b) };
                let r = if add { self.b.add(r, c) } else { self.b.sub(r, c) };
                let kind = if add { FlagKind::Adc } else { FlagKind::Sbb };
                self.set_flags(kind, [a, b, c], r);
                r
            }
            Alu::And | Alu::Or | Alu::Xor | Alu::Test => {
                let r = match op {
                    Alu::Or => self.b.or(a, b),
                    Alu::Xor => self.b.xor(a, b),
                    _ => self.b.and(a, b),
                };
                self.set_flags_logic(r);
                r
            }
        }
    }

    fn alu(&mut self, op: Alu) {
        let ty = self.ty(0);
        let stores = !matches!(op, Alu::Cmp | Alu::Test);
        if self.is_memory(0) {
            let ea = self.ea(stores);
            if self.insn.has_lock_prefix() {
                let b = self.read_as(1, ty);
                self.locked(op, ty, &ea, b);
                return;
            }
            let a = self.load(ty, &ea);
            let b = self.read_as(1, ty);
            if stores {
                // The flags must not change before the store has been done.
                let before = (self.record, self.record_dirty);
                let r = self.alu_result(op, a, b);
                let after = std::mem::replace(&mut self.record, before.0);
                self.record_dirty = before.1;
                self.store(&ea, r);
                self.record = after;
                self.record_dirty = true;
            } else {
                self.alu_result(op, a, b);
            }
            return;
        }
        let r = self.insn.op_register(0);
        let same = self.is_register(1) && self.insn.op_register(1) == r;
        if same && matches!(op, Alu::Xor | Alu::Sub) {
            let zero = self.zero(ty);
            self.write_reg(r, zero);
            self.set_flags_logic(zero);
            return;
        }
        let a = self.read_reg(r);
        let b = if same { a } else { self.read_as(1, ty) };
        let v = self.alu_result(op, a, b);
        if stores {
            self.write_reg(r, v);
        }
    }

    fn locked(&mut self, op: Alu, ty: Type, ea: &super::Ea, b: Value) {
        let (rmw, operand) = match op {
            Alu::And => (RmwOp::And, b),
            Alu::Or => (RmwOp::Or, b),
            Alu::Xor => (RmwOp::Xor, b),
            Alu::Add | Alu::Cmp | Alu::Test => (RmwOp::Add, b),
            Alu::Sub => (RmwOp::Add, self.b.unary(Op::Neg, b)),
            Alu::Adc | Alu::Sbb => {
                let c = self.carry();
                let c = self.b.zext(ty, c);
                let v = self.b.add(b, c);
                (RmwOp::Add, if op == Alu::Adc { v } else { self.b.unary(Op::Neg, v) })
            }
        };
        let old = self.rmw(ty, rmw, ea, operand);
        self.alu_result(op, old, b);
    }

    /// INC and DEC.
    fn step(&mut self, up: bool) {
        let ty = self.ty(0);
        let by = if up { 1 } else { -1 };
        let c = self.carry();
        let (old, new);
        if self.is_memory(0) {
            let ea = self.ea(true);
            if self.insn.has_lock_prefix() {
                let one = self.b.iconst(ty, by as u64);
                old = self.rmw(ty, RmwOp::Add, &ea, one);
                new = self.b.addi(old, by);
            } else {
                old = self.load(ty, &ea);
                new = self.b.addi(old, by);
                self.store(&ea, new);
            }
        } else {
            let r = self.insn.op_register(0);
            old = self.read_reg(r);
            new = self.b.addi(old, by);
            self.write_reg(r, new);
        }
        let kind = if up { FlagKind::Inc } else { FlagKind::Dec };
        self.set_flags(kind, [old, Value::NONE, c], new);
    }

    fn neg(&mut self) {
        let ty = self.ty(0);
        let zero = self.zero(ty);
        let (old, new);
        if self.is_memory(0) {
            let ea = self.ea(true);
            if self.insn.has_lock_prefix() {
                let at = self.ea_value(&ea);
                let how = self
                    .b
                    .iconst(Type::I64, u64::from(ty.bytes().trailing_zeros()) | (self.mode.mmu as u64) << 8);
                let v = self.call::<LockNeg>(&[at, how]);
                old = self.b.trunc(ty, v);
                new = self.b.unary(Op::Neg, old);
            } else {
                old = self.load(ty, &ea);
                new = self.b.unary(Op::Neg, old);
                self.store(&ea, new);
            }
        } else {
            let r = self.insn.op_register(0);
            old = self.read_reg(r);
            new = self.b.unary(Op::Neg, old);
            self.write_reg(r, new);
        }
        self.set_flags(FlagKind::Sub, [zero, old, Value::NONE], new);
    }

    fn not_operand(&mut self) {
        let ty = self.ty(0);
        if self.is_memory(0) {
            let ea = self.ea(true);
            if self.insn.has_lock_prefix() {
                let ones = self.b.iconst(ty, u64::MAX);
                self.rmw(ty, RmwOp::Xor, &ea, ones);
            } else {
                let v = self.load(ty, &ea);
                let v = self.b.unary(Op::Not, v);
                self.store(&ea, v);
            }
        } else {
            let r = self.insn.op_register(0);
            let v = self.read_reg(r);
            let v = self.b.unary(Op::Not, v);
            self.write_reg(r, v);
        }
    }

    // Products.

    /// Low and high half of a product.
    fn product(&mut self, a: Value, b: Value, signed: bool) -> (Value, Value) {
        let ty = self.b.ty(a);
        if ty.bytes() >= 4 {
            let low = self.b.binary(Op::Mul, a, b);
            let high = self.b.binary(if signed { Op::Mulhs } else { Op::Mulhu }, a, b);
            return (low, high);
        }
        let wide = |t: &mut Self, v| if signed { t.b.sext(Type::I32, v) } else { t.b.zext(Type::I32, v) };
        let (a, b) = (wide(self, a), wide(self, b));
        let p = self.b.binary(Op::Mul, a, b);
        let n = self.b.iconst(Type::I32, u64::from(ty.bits()));
        let high = self.b.shr(p, n);
        (self.b.trunc(ty, p), self.b.trunc(ty, high))
    }

    fn widening(&mut self, signed: bool) {
        let ty = self.ty(0);
        let b = self.read(0);
        let a = self.gpr(0, ty);
        let (low, high) = self.product(a, b, signed);
        if ty == Type::I8 {
            self.set_gpr(0, low);
            self.write_reg(Register::AH, high);
        } else {
            self.set_gpr(0, low);
            self.set_gpr(2, high);
        }
        let kind = if signed { FlagKind::Muls } else { FlagKind::Mulu };
        self.set_flags(kind, [low, high, Value::NONE], low);
    }

    fn mul(&mut self) {
        self.widening(false);
    }

    fn imul_wide(&mut self) {
        self.widening(true);
    }

    fn imul(&mut self) {
        let ty = self.ty(0);
        let r = self.insn.op_register(0);
        let (a, b) = if self.insn.op_count() == 3 {
            let a = self.read(1);
            (a, self.read_as(2, ty))
        } else {
            let b = self.read(1);
            (self.read_reg(r), b)
        };
        let (low, high) = self.product(a, b, true);
        self.write_reg(r, low);
        self.set_flags(FlagKind::Muls, [low, high, Value::NONE], low);
    }

    // Quotients.

    fn div(&mut self, signed: bool) {
        let ty = self.ty(0);
        let d = self.read(0);
        let de = exceptions::plain(vector::DE);
        if ty == Type::I64 {
            let (low, high) = (self.b.get(state::reg(0), Type::I64), self.b.get(state::reg(2), Type::I64));
            let signed = self.b.iconst(Type::I64, u64::from(signed));
            self.call::<Div128>(&[high, low, d, signed]);
            return;
        }
        let zero = self.zero(ty);
        let none = self.b.setcc(Type::I8, Cond::Eq, d, zero);
        self.raise_if(none, de);
        // The dividend has twice the width; it is computed on at least 32 bits.
        let wide = if ty == Type::I32 { Type::I64 } else { Type::I32 };
        let n = match ty {
            Type::I8 => {
                let ax = self.gpr(0, Type::I16);
                if signed { self.b.sext(wide, ax) } else { self.b.zext(wide, ax) }
            }
            _ => {
                let low = self.gpr(0, ty);
                let low = self.b.zext(wide, low);
                let high = self.gpr(2, ty);
                let high = self.b.zext(wide, high);
                self.b.deposit(low, high, ty.bits(), ty.bits())
            }
        };
        let d = if signed { self.b.sext(wide, d) } else { self.b.zext(wide, d) };
        let (div, rem) = if signed { (Op::Divs, Op::Rems) } else { (Op::Divu, Op::Remu) };
        let q = self.b.binary(div, n, d);
        let r = self.b.binary(rem, n, d);
        let quotient = self.b.trunc(ty, q);
        let again = if signed { self.b.sext(wide, quotient) } else { self.b.zext(wide, quotient) };
        let over = self.b.setcc(Type::I8, Cond::Ne, q, again);
        self.raise_if(over, de);
        let remainder = self.b.trunc(ty, r);
        self.set_gpr(0, quotient);
        if ty == Type::I8 {
            self.write_reg(Register::AH, remainder);
        } else {
            self.set_gpr(2, remainder);
        }
    }

    /// ADCX and ADOX: addition with a carry of its own; the other flags stay.
    fn add_carry(&mut self, flag: u64) {
        let ty = self.ty(0);
        let b = self.read(1);
        let r = self.insn.op_register(0);
        let a = self.read_reg(r);
        let c = self.cond(if flag == FlagBits::C { Cond::Ltu } else { Cond::Ov });
        let c = self.b.zext(ty, c);
        let sum = self.b.add(a, b);
        let first = self.b.setcc(Type::I64, Cond::Ltu, sum, a);
        let total = self.b.add(sum, c);
        let second = self.b.setcc(Type::I64, Cond::Ltu, total, sum);
        let out = self.b.or(first, second);
        self.write_reg(r, total);
        let n = self.b.iconst(Type::I64, u64::from(flag.trailing_zeros()));
        let out = self.b.shl(out, n);
        self.merge_flags(flag, out);
    }

    // Decimal arithmetic.

    fn bcd(&mut self, which: u64) {
        let ax = self.gpr(0, Type::I16);
        let ax = self.b.zext(Type::I64, ax);
        let bits = self.flag_bits();
        let which = self.b.iconst(Type::I64, which);
        let out = self.call::<Bcd>(&[which, ax, bits]);
        let ax = self.b.trunc(Type::I16, out);
        self.set_gpr(0, ax);
        let bits = self.b.extract(out, 16, 8);
        self.set_flags_bits(bits);
    }

    fn aam(&mut self) {
        let base = self.insn.immediate8();
        if base == 0 {
            self.raise(exceptions::plain(vector::DE));
            return;
        }
        let al = self.gpr(0, Type::I8);
        let wide = self.b.zext(Type::I32, al);
        let base = self.b.iconst(Type::I32, u64::from(base));
        let q = self.b.binary(Op::Divu, wide, base);
        let r = self.b.binary(Op::Remu, wide, base);
        let (q, r) = (self.b.trunc(Type::I8, q), self.b.trunc(Type::I8, r));
        self.write_reg(Register::AH, q);
        self.set_gpr(0, r);
        self.set_flags_logic(r);
    }

    fn aad(&mut self) {
        let al = self.gpr(0, Type::I8);
        let ah = self.read_reg(Register::AH);
        let base = self.b.iconst(Type::I8, u64::from(self.insn.immediate8()));
        let p = self.b.binary(Op::Mul, ah, base);
        let sum = self.b.add(al, p);
        let ax = self.b.zext(Type::I16, sum);
        self.set_gpr(0, ax);
        self.set_flags_logic(sum);
    }
}
