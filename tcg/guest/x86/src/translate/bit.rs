//! Bit instructions and BMI (SDM volume 1, 7.3.7 and 5.1.16), CRC32.
//!
//! Undefined flags: BT and its kin leave all but C; scans give Z and otherwise the flags of their source.

use iced_x86::{Mnemonic, Register};
use tcg_ir::{Cond, Op, RmwOp, Type, Value};

use super::{Ea, Translator, operand::seg_number};
use crate::wide::{Crc32, Pdep, Pext};

/// What a bit test does to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Set,
    Reset,
    Complement,
}

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn bit(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Bt => self.bit_test(Change::None),
            M::Bts => self.bit_test(Change::Set),
            M::Btr => self.bit_test(Change::Reset),
            M::Btc => self.bit_test(Change::Complement),
            M::Bsf => self.scan(Op::Ctz),
            M::Bsr => self.scan(Op::Clz),
            M::Tzcnt => self.count_zeros(Op::Ctz),
            M::Lzcnt => self.count_zeros(Op::Clz),
            M::Popcnt => {
                let v = self.read(1);
                let r = self.b.unary(Op::Popcnt, v);
                self.write(0, r);
                // Only Z can be set.
                let zero = self.zero(self.b.ty(v));
                let z = self.b.setcc(Type::I64, Cond::Eq, v, zero);
                let one = self.b.iconst(Type::I64, 1);
                let bits = self.b.shl(z, one);
                self.set_flags_bits(bits);
            }
            M::Andn => {
                let b = self.read(2);
                let a = self.read(1);
                let r = self.b.binary(Op::Andc, b, a);
                self.write(0, r);
                self.set_flags_logic(r);
            }
            M::Blsi | M::Blsr | M::Blsmsk => self.lowest(m),
            M::Bextr => self.bextr(),
            M::Bzhi => self.bzhi(),
            M::Pdep | M::Pext => {
                let ty = self.ty(0);
                let mask = self.read(2);
                let v = self.read(1);
                let (v, mask) = (self.b.zext(Type::I64, v), self.b.zext(Type::I64, mask));
                let r =
                    if m == M::Pdep { self.call::<Pdep>(&[v, mask]) } else { self.call::<Pext>(&[v, mask]) };
                let r = self.b.trunc(ty, r);
                self.write(0, r);
            }
            M::Mulx => {
                let b = self.read(2);
                let ty = self.b.ty(b);
                let a = self.gpr(2, ty);
                let low = self.b.binary(Op::Mul, a, b);
                let high = self.b.binary(Op::Mulhu, a, b);
                // The high half stays if both go to one register.
                let (hi, lo) = (self.insn.op_register(0), self.insn.op_register(1));
                self.write_reg(lo, low);
                self.write_reg(hi, high);
            }
            M::Crc32 => {
                let bytes = self.size(1) as u64;
                let v = self.read(1);
                let v = self.b.zext(Type::I64, v);
                let r = self.insn.op_register(0);
                let crc = self.read_reg(r);
                let crc = self.b.zext(Type::I64, crc);
                let bytes = self.b.iconst(Type::I64, bytes);
                let v = self.call::<Crc32>(&[crc, v, bytes]);
                let v = self.b.trunc(Type::I32, v);
                let v = if r.size() == 8 { self.b.zext(Type::I64, v) } else { v };
                self.write_reg(r, v);
            }
            _ => return false,
        }
        true
    }

    /// The place of a bit of a bit string in memory: the operand that holds it.
    fn string_place(&mut self, offset: Value, ty: Type) -> Ea {
        let (v, disp) = self.offset_value();
        let at = self.b.ty(v);
        let offset = self.b.sext(at, offset);
        let bits = u64::from(ty.bits().trailing_zeros());
        let n = self.b.iconst(at, bits);
        let words = self.b.sar(offset, n);
        let n = self.b.iconst(at, bits - 3);
        let bytes = self.b.shl(words, n);
        let mut v = self.b.add(v, bytes);
        if self.address_size() == 2 {
            v = self.b.extract(v, 0, 16);
        }
        let segment = seg_number(self.insn.memory_segment());
        self.segmented(segment, v, disp, ty.bytes() as u64, true)
    }

    fn bit_test(&mut self, change: Change) {
        let ty = self.ty(0);
        let offset = self.read_as(1, ty);
        let by_register = self.is_register(1);
        let mask = self.b.iconst(ty, u64::from(ty.bits() - 1));
        let n = self.b.and(offset, mask);
        let one = self.b.iconst(ty, 1);
        let bit = self.b.shl(one, n);
        let new = |t: &mut Self, old: Value| match change {
            Change::Set => t.b.or(old, bit),
            Change::Reset => t.b.binary(Op::Andc, old, bit),
            _ => t.b.xor(old, bit),
        };
        let old;
        if self.is_memory(0) {
            let ea =
                if by_register { self.string_place(offset, ty) } else { self.ea(change != Change::None) };
            if self.insn.has_lock_prefix() {
                let (op, v) = match change {
                    Change::Set => (RmwOp::Or, bit),
                    Change::Reset => (RmwOp::And, self.b.unary(Op::Not, bit)),
                    _ => (RmwOp::Xor, bit),
                };
                old = self.rmw(ty, op, &ea, v);
            } else {
                old = self.load(ty, &ea);
                if change != Change::None {
                    let v = new(self, old);
                    self.store(&ea, v);
                }
            }
        } else {
            let r = self.insn.op_register(0);
            old = self.read_reg(r);
            if change != Change::None {
                let v = new(self, old);
                self.write_reg(r, v);
            }
        }
        let c = self.b.setcc(Type::I8, Cond::TestNz, old, bit);
        self.replace_carry(c, None);
    }

    fn scan(&mut self, op: Op) {
        let v = self.read(1);
        let ty = self.b.ty(v);
        let r = self.insn.op_register(0);
        let old = self.read_reg(r);
        let mut n = self.b.unary(op, v);
        if op == Op::Clz {
            let top = self.b.iconst(ty, u64::from(ty.bits() - 1));
            n = self.b.sub(top, n);
        }
        // A source of zero leaves the destination, upper half included.
        if ty == Type::I32 {
            let full = self.b.get(crate::state::reg(r.full_register().number()), Type::I64);
            let n = self.b.zext(Type::I64, n);
            let n = self.b.select(v, n, full);
            self.b.set(crate::state::reg(r.full_register().number()), n);
        } else {
            let n = self.b.select(v, n, old);
            self.write_reg(r, n);
        }
        self.set_flags_logic(v);
    }

    fn count_zeros(&mut self, op: Op) {
        let v = self.read(1);
        let n = self.b.unary(op, v);
        self.write(0, n);
        let zero = self.zero(self.b.ty(v));
        let c = self.b.setcc(Type::I8, Cond::Eq, v, zero);
        self.set_flags_result(n, c, None);
    }

    fn lowest(&mut self, m: Mnemonic) {
        let v = self.read(1);
        let ty = self.b.ty(v);
        let zero = self.zero(ty);
        let (r, c) = if m == Mnemonic::Blsi {
            let minus = self.b.unary(Op::Neg, v);
            (self.b.and(v, minus), Cond::Ne)
        } else {
            let less = self.b.addi(v, -1);
            let r = if m == Mnemonic::Blsr { self.b.and(v, less) } else { self.b.xor(v, less) };
            (r, Cond::Eq)
        };
        self.write(0, r);
        let c = self.b.setcc(Type::I8, c, v, zero);
        self.set_flags_result(r, c, None);
    }

    fn bextr(&mut self) {
        let v = self.read(1);
        let ty = self.b.ty(v);
        let control = self.insn.op_register(2);
        let control = self.read_reg(control);
        let wide = self.b.zext(Type::I64, v);
        let control = self.b.zext(Type::I64, control);
        let start = self.b.extract(control, 0, 8);
        let len = self.b.extract(control, 8, 8);
        let zero = self.b.iconst(Type::I64, 0);
        let limit = self.b.iconst(Type::I64, 64);
        let shifted = self.b.shr(wide, start);
        let inside = self.b.setcc(Type::I8, Cond::Ltu, start, limit);
        let shifted = self.b.select(inside, shifted, zero);
        let one = self.b.iconst(Type::I64, 1);
        let mask = self.b.shl(one, len);
        let mask = self.b.addi(mask, -1);
        let short = self.b.setcc(Type::I8, Cond::Ltu, len, limit);
        let ones = self.b.iconst(Type::I64, u64::MAX);
        let mask = self.b.select(short, mask, ones);
        let r = self.b.and(shifted, mask);
        let r = self.b.trunc(ty, r);
        self.write(0, r);
        self.set_flags_logic(r);
    }

    fn bzhi(&mut self) {
        let v = self.read(1);
        let ty = self.b.ty(v);
        let n: Register = self.insn.op_register(2);
        let n = self.read_reg(n);
        let n = self.b.extract(n, 0, 8);
        let width = self.b.iconst(ty, u64::from(ty.bits()));
        let one = self.b.iconst(ty, 1);
        let mask = self.b.shl(one, n);
        let mask = self.b.addi(mask, -1);
        let cut = self.b.and(v, mask);
        let inside = self.b.setcc(Type::I8, Cond::Ltu, n, width);
        let r = self.b.select(inside, cut, v);
        self.write(0, r);
        let c = self.not(inside);
        self.set_flags_result(r, c, None);
    }
}
