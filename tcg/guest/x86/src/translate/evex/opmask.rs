//! Instructions on opmask registers (SDM volume 2, K*).

use iced_x86::Mnemonic;
use tcg_ir::{Cond, Op, Type, Value};

use super::super::{Translator, names::ByName, operand::int};
use crate::state;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Binary(Op),
    Xnor,
    Andn,
    Not,
    Move,
    OrTest,
    AndTest,
    ShiftLeft,
    ShiftRight,
    Unpack,
}

/// From the manual's name: what is done, and in how many bits.
fn named(name: &str) -> Option<(Kind, u32)> {
    if let Some(pair) = name.strip_prefix("kunpck") {
        return match pair {
            "bw" => Some((Kind::Unpack, 16)),
            "wd" => Some((Kind::Unpack, 32)),
            "dq" => Some((Kind::Unpack, 64)),
            _ => None,
        };
    }
    let (name, width) = name.split_at_checked(name.len().checked_sub(1)?)?;
    let bits = match width {
        "b" => 8,
        "w" => 16,
        "d" => 32,
        "q" => 64,
        _ => return None,
    };
    let kind = match name {
        "kand" => Kind::Binary(Op::And),
        "kor" => Kind::Binary(Op::Or),
        "kxor" => Kind::Binary(Op::Xor),
        "kadd" => Kind::Binary(Op::Add),
        "kxnor" => Kind::Xnor,
        "kandn" => Kind::Andn,
        "knot" => Kind::Not,
        "kmov" => Kind::Move,
        "kortest" => Kind::OrTest,
        "ktest" => Kind::AndTest,
        "kshiftl" => Kind::ShiftLeft,
        "kshiftr" => Kind::ShiftRight,
        _ => return None,
    };
    Some((kind, bits))
}

static TABLE: ByName<Option<(Kind, u32)>> = ByName::new(named);

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(in super::super) fn opmask(&mut self, m: Mnemonic) -> bool {
        let Some((kind, bits)) = TABLE.get(m) else { return false };
        if !self.extended_on(self.mode.avx512) {
            return true;
        }
        match kind {
            Kind::Move => self.move_mask(bits),
            Kind::OrTest | Kind::AndTest => self.test_masks(kind, bits),
            _ => {
                let r = self.new_mask(kind, bits);
                self.set_mask(r, bits);
            }
        }
        true
    }

    /// An operand that is an opmask register.
    fn mask_operand(&mut self, n: u32) -> Value {
        let k = self.insn.op_register(n).number();
        self.b.get(state::opmask(k), Type::I64)
    }

    /// Writes the destination: the low bits of `v`, zeros above.
    fn set_mask(&mut self, v: Value, bits: u32) {
        let v = self.low_bits(v, bits.into());
        let k = self.insn.op_register(0).number();
        self.b.set(state::opmask(k), v);
    }

    fn new_mask(&mut self, kind: Kind, bits: u32) -> Value {
        let a = self.mask_operand(1);
        if kind == Kind::Not {
            return self.b.unary(Op::Not, a);
        }
        if matches!(kind, Kind::ShiftLeft | Kind::ShiftRight) {
            let n = u64::from(self.insn.immediate8());
            let a = self.low_bits(a, bits.into());
            if n >= bits.into() {
                return self.b.iconst(Type::I64, 0);
            }
            let n = self.b.iconst(Type::I64, n);
            return if kind == Kind::ShiftLeft { self.b.shl(a, n) } else { self.b.shr(a, n) };
        }
        let b = self.mask_operand(2);
        match kind {
            Kind::Binary(op) => self.b.binary(op, a, b),
            Kind::Andn => self.b.binary(Op::Andc, b, a),
            Kind::Unpack => {
                let half = u64::from(bits / 2);
                let low = self.low_bits(b, half);
                let by = self.b.iconst(Type::I64, half);
                let high = self.b.shl(a, by);
                self.b.or(high, low)
            }
            _ => {
                let v = self.b.xor(a, b);
                self.b.unary(Op::Not, v)
            }
        }
    }

    /// Z: no bit of the union, or of the intersection; C: all of the union, or none that only the second has.
    fn test_masks(&mut self, kind: Kind, bits: u32) {
        let (a, b) = (self.mask_operand(0), self.mask_operand(1));
        let (first, second, full) = if kind == Kind::OrTest {
            let v = self.b.or(a, b);
            (v, v, u64::MAX)
        } else {
            (self.b.and(a, b), self.b.binary(Op::Andc, b, a), 0)
        };
        let (first, second) = (self.low_bits(first, bits.into()), self.low_bits(second, bits.into()));
        let zero = self.b.iconst(Type::I64, 0);
        let z = self.b.setcc(Type::I64, Cond::Eq, first, zero);
        let full = self.b.iconst(Type::I64, full & u64::MAX >> (64 - bits));
        let c = self.b.setcc(Type::I64, Cond::Eq, second, full);
        let one = self.b.iconst(Type::I64, 1);
        let z = self.b.shl(z, one);
        let flags = self.b.or(z, c);
        self.set_flags_bits(flags);
    }

    fn move_mask(&mut self, bits: u32) {
        let bytes = bits as usize / 8;
        let is_mask = |t: &Self, n: u32| t.is_register(n) && t.insn.op_register(n).is_k();
        let v = if is_mask(self, 1) {
            self.mask_operand(1)
        } else if self.is_memory(1) {
            let ea = self.ea_sized(bytes as u64, false);
            let v = self.load(int(bytes), &ea);
            self.b.zext(Type::I64, v)
        } else {
            let n = self.insn.op_register(1).full_register().number();
            self.b.get(state::reg(n), Type::I64)
        };
        if is_mask(self, 0) {
            self.set_mask(v, bits);
        } else if self.is_memory(0) {
            let v = self.b.trunc(int(bytes), v);
            let ea = self.ea_sized(bytes as u64, true);
            self.store(&ea, v);
        } else {
            let v = self.low_bits(v, bits.into());
            let n = self.insn.op_register(0).full_register().number();
            self.b.set(state::reg(n), v);
        }
    }
}
