//! Shifts and rotations (SDM volume 1, 7.3.6), and those of BMI2.
//!
//! A count of zero leaves the flags. OF of counts above one is undefined: rotations give what they give for one,
//! shifts what the last step would.

use iced_x86::Mnemonic;
use tcg_ir::{FlagKind, Op, Type, Value};

use super::Translator;
use crate::wide::{RotateCarry, RotateCarryOut};

/// The count operand.
enum Count {
    /// Known, masked to 5 or 6 bits.
    Const(u32),
    /// An i8, masked.
    Value(Value),
}

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn shift(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Shl | M::Sal => self.shift_by(FlagKind::Shl),
            M::Shr => self.shift_by(FlagKind::Shr),
            M::Sar => self.shift_by(FlagKind::Sar),
            M::Rol => self.rotate(Op::Rotl),
            M::Ror => self.rotate(Op::Rotr),
            M::Rcl => self.rotate_carry(true),
            M::Rcr => self.rotate_carry(false),
            M::Shld => self.double(true),
            M::Shrd => self.double(false),
            M::Shlx => self.flagless(Op::Shl),
            M::Shrx => self.flagless(Op::Shr),
            M::Sarx => self.flagless(Op::Sar),
            M::Rorx => {
                let v = self.read(1);
                let ty = self.b.ty(v);
                let n = self.b.iconst(ty, u64::from(self.insn.immediate8()));
                let v = self.b.binary(Op::Rotr, v, n);
                self.write(0, v);
            }
            _ => return false,
        }
        true
    }

    fn flagless(&mut self, op: Op) {
        let v = self.read(1);
        let n = self.read(2);
        // The IR takes counts modulo the width, as these do.
        let v = self.b.binary(op, v, n);
        self.write(0, v);
    }

    fn count(&mut self, operand: u32, ty: Type) -> Count {
        let mask = if ty == Type::I64 { 63 } else { 31 };
        if self.is_register(operand) {
            let cl = self.gpr(1, Type::I8);
            let mask = self.b.iconst(Type::I8, mask);
            Count::Value(self.b.and(cl, mask))
        } else {
            Count::Const(self.insn.immediate(operand) as u32 & mask as u32)
        }
    }

    /// Reads operand 0, which `finish` writes back.
    fn begin(&mut self) -> (Value, Option<super::Ea>) {
        if self.is_memory(0) {
            let ea = self.ea(true);
            let ty = self.ty(0);
            (self.load(ty, &ea), Some(ea))
        } else {
            let r = self.insn.op_register(0);
            (self.read_reg(r), None)
        }
    }

    fn finish(&mut self, ea: Option<super::Ea>, v: Value) {
        match ea {
            Some(ea) => self.store(&ea, v),
            None => {
                let r = self.insn.op_register(0);
                self.write_reg(r, v);
            }
        }
    }

    fn shift_by(&mut self, kind: FlagKind) {
        let ty = self.ty(0);
        let count = self.count(1, ty);
        let (a, ea) = self.begin();
        let op = match kind {
            FlagKind::Shl => Op::Shl,
            FlagKind::Shr => Op::Shr,
            _ => Op::Sar,
        };
        // Narrow operands can be shifted by more than their width.
        let calc = if ty.bytes() < 4 { Type::I32 } else { ty };
        let wide = if kind == FlagKind::Sar { self.b.sext(calc, a) } else { self.b.zext(calc, a) };
        match count {
            Count::Const(0) => self.finish(ea, a),
            Count::Const(n) => {
                let by = self.b.iconst(calc, u64::from(n));
                let r = self.b.binary(op, wide, by);
                let r = self.b.trunc(ty, r);
                self.finish(ea, r);
                let n = self.b.iconst(ty, u64::from(n));
                self.set_flags(kind, [a, n, Value::NONE], r);
            }
            Count::Value(n) => {
                let by = self.b.zext(calc, n);
                let r = self.b.binary(op, wide, by);
                let r = self.b.trunc(ty, r);
                self.finish(ea, r);
                let old = self.record;
                let by = if ty == Type::I8 { n } else { self.b.zext(ty, n) };
                self.set_flags(kind, [a, by, Value::NONE], r);
                self.keep_flags_unless(n, old);
            }
        }
    }

    /// Bit `n` of a value as an i8.
    pub(super) fn bit_of(&mut self, v: Value, n: u32) -> Value {
        let b = self.b.extract(v, n, 1);
        self.b.trunc(Type::I8, b)
    }

    fn rotate(&mut self, op: Op) {
        let ty = self.ty(0);
        let w = ty.bits();
        let count = self.count(1, ty);
        let (a, ea) = self.begin();
        let (n, by) = match count {
            Count::Const(0) => return self.finish(ea, a),
            Count::Const(n) => (None, self.b.iconst(ty, u64::from(n % w))),
            Count::Value(n) => (Some(n), if ty == Type::I8 { n } else { self.b.zext(ty, n) }),
        };
        let r = self.b.binary(op, a, by);
        self.finish(ea, r);
        let top = self.bit_of(r, w - 1);
        let (c, v) = if op == Op::Rotl {
            let c = self.bit_of(r, 0);
            (c, self.b.xor(top, c))
        } else {
            let next = self.bit_of(r, w - 2);
            (top, self.b.xor(top, next))
        };
        match n {
            None => self.replace_carry(c, Some(v)),
            Some(n) => self.replace_carry_unless(n, c, v),
        }
    }

    fn rotate_carry(&mut self, left: bool) {
        let ty = self.ty(0);
        let w = ty.bits();
        let count = self.count(1, ty);
        let (a, ea) = self.begin();
        let old_c = self.carry();
        let n = match count {
            Count::Const(1) => {
                let c = self.b.zext(ty, old_c);
                let one = self.b.iconst(ty, 1);
                let (r, out) = if left {
                    let r = self.b.shl(a, one);
                    (self.b.or(r, c), self.bit_of(a, w - 1))
                } else {
                    let top = self.b.iconst(ty, u64::from(w - 1));
                    let c = self.b.shl(c, top);
                    let r = self.b.shr(a, one);
                    (self.b.or(r, c), self.bit_of(a, 0))
                };
                self.finish(ea, r);
                let top = self.bit_of(r, w - 1);
                let other = if left { out } else { self.bit_of(r, w - 2) };
                let v = self.b.xor(top, other);
                return self.replace_carry(out, Some(v));
            }
            Count::Const(n) => self.b.iconst(Type::I64, u64::from(n)),
            Count::Value(n) => self.b.zext(Type::I64, n),
        };
        let wide = self.b.zext(Type::I64, a);
        let c = self.b.zext(Type::I64, old_c);
        let how = self.b.iconst(Type::I64, u64::from(w) | u64::from(left) << 8);
        let r = self.call::<RotateCarry>(&[wide, n, c, how]);
        let r = self.b.trunc(ty, r);
        self.finish(ea, r);
        let c = self.call::<RotateCarryOut>(&[wide, n, c, how]);
        let out = self.b.trunc(Type::I8, c);
        let top = self.bit_of(r, w - 1);
        let other = if left { out } else { self.bit_of(r, w - 2) };
        let v = self.b.xor(top, other);
        self.replace_carry_unless(n, out, v);
    }

    /// SHLD and SHRD.
    fn double(&mut self, left: bool) {
        let ty = self.ty(0);
        let w = ty.bits();
        let count = self.count(2, ty);
        let src = self.insn.op_register(1);
        let src = self.read_reg(src);
        let (a, ea) = self.begin();
        if let Count::Const(0) = count {
            return self.finish(ea, a);
        }
        let n8 = match count {
            Count::Const(n) => self.b.iconst(Type::I8, u64::from(n)),
            Count::Value(n) => n,
        };
        let (r, c) = if ty == Type::I16 {
            // Counts above 16 go on with the destination, as processors do.
            let (d, s) = (self.b.zext(Type::I64, a), self.b.zext(Type::I64, src));
            let by = self.b.zext(Type::I64, n8);
            let wide = self.b.deposit(d, s, 16, 16);
            let wide = self.b.deposit(wide, d, 32, 16);
            if left {
                let wide = self.b.shl(wide, by);
                (self.b.extract(wide, 32, 16), self.bit_of(wide, 48))
            } else {
                let one = self.b.iconst(Type::I64, 1);
                let doubled = self.b.shl(wide, one);
                let out = self.b.shr(doubled, by);
                let c = self.bit_of(out, 0);
                let wide = self.b.shr(wide, by);
                (wide, c)
            }
        } else {
            let by = self.b.zext(ty, n8);
            let one = self.b.iconst(ty, 1);
            let inverse = self.b.iconst(ty, u64::from(w - 1));
            let back = self.b.xor(by, inverse);
            let (main, other, last) = if left {
                let main = self.b.shl(a, by);
                let other = self.b.shr(src, one);
                let other = self.b.shr(other, back);
                let at = self.b.sub(by, one);
                let moved = self.b.shl(a, at);
                (main, other, self.bit_of(moved, w - 1))
            } else {
                let main = self.b.shr(a, by);
                let other = self.b.shl(src, one);
                let other = self.b.shl(other, back);
                let at = self.b.sub(by, one);
                let moved = self.b.shr(a, at);
                (main, other, self.bit_of(moved, 0))
            };
            (self.b.or(main, other), last)
        };
        let r = self.b.trunc(ty, r);
        self.finish(ea, r);
        let old = self.record;
        let before = self.bit_of(a, w - 1);
        let after = self.bit_of(r, w - 1);
        let v = self.b.xor(before, after);
        self.set_flags_result(r, c, Some(v));
        if let Count::Value(n) = count {
            self.keep_flags_unless(n, old);
        }
    }
}
