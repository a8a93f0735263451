//! The arithmetic flags while translating: the last producer is known, and nothing is computed before it is asked for.
//!
//! A record that nobody can see yet is not even stored: its slots are set when something may leave the unit or a block
//! ends. Conditions on a known record are comparisons of its operands, which the code generator fuses with branches;
//! what has no such form, and records from before the unit, go through a pure helper.
//!
//! Carry and overflow can be replaced without a look at the rest, as bit tests, rotations and many others do: the first word of
//! a record has room for it above the IR's own bits (see [`flags::record_bits`]).

use tcg_ir::{Cond, FlagBits, FlagKind, Op, SlotId, Type, Value};

use super::Translator;
use crate::{flags, helpers::FlagsEval, state};

/// A producer of the arithmetic flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// `None` if it depends on run time: then `word` says what it is.
    kind: Option<FlagKind>,
    ty: Type,
    /// First word of the record, if the kind depends on run time.
    word: Value,
    a: Value,
    b: Value,
    c: Value,
    /// The operation's result, if at hand: Z, N and P follow from it.
    result: Value,
    /// The carry flag as i8, if at hand.
    carry: Value,
    /// The carry flag is `carry`, whatever the operands say.
    other_carry: bool,
    /// The overflow flag as i8, if it is not what the operands say.
    other_overflow: Value,
    /// `a`, `b` and `c` are what the slots hold.
    in_slots: bool,
    /// The numbers compared, if they were floats.
    floats: Option<Floats>,
}

impl Record {
    /// A record of a known kind.
    const fn new(kind: FlagKind, ty: Type, [a, b, c]: [Value; 3]) -> Self {
        Self {
            kind: Some(kind),
            ty,
            word: Value::NONE,
            a,
            b,
            c,
            result: Value::NONE,
            carry: Value::NONE,
            other_carry: false,
            other_overflow: Value::NONE,
            in_slots: false,
            floats: None,
        }
    }

    /// A record whose first word is known at run time.
    const fn at_run_time(word: Value, operands: [Value; 3]) -> Self {
        Self { kind: None, word, ..Self::new(FlagKind::Bits, Type::I64, operands) }
    }
}

/// Operands of a comparison of floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floats {
    /// The first.
    pub(crate) a: Value,
    /// The second.
    pub(crate) b: Value,
    /// 1 if the first is greater.
    pub(crate) greater: Value,
    /// Quiet NaNs raise "invalid".
    pub(crate) signalling: bool,
}

const fn some(v: Value) -> Option<Value> {
    if v.0 == Value::NONE.0 { None } else { Some(v) }
}

/// A condition of x86 in the order of its encoding: O, NO, B, AE, E, NE, BE, A, S, NS, P, NP, L, GE, LE, G.
const CONDS: [Cond; 16] = [
    Cond::Ov,
    Cond::NoOv,
    Cond::Ltu,
    Cond::Geu,
    Cond::Eq,
    Cond::Ne,
    Cond::Leu,
    Cond::Gtu,
    Cond::Neg,
    Cond::Pos,
    Cond::ParE,
    Cond::ParO,
    Cond::Lt,
    Cond::Ge,
    Cond::Le,
    Cond::Gt,
];

/// The IR's condition for a condition code in x86's encoding.
pub(super) const fn cond_of(code: u32) -> Cond {
    CONDS[(code & 15) as usize]
}

impl Translator<'_, '_> {
    /// The instruction sets all arithmetic flags as `kind` of these operands does; its result is at hand.
    pub(super) fn set_flags(&mut self, kind: FlagKind, ops: [Value; 3], result: Value) {
        let carry = if matches!(kind, FlagKind::Inc | FlagKind::Dec) { ops[2] } else { Value::NONE };
        self.record = Some(Record { result, carry, ..Record::new(kind, self.b.ty(ops[0]), ops) });
        self.record_dirty = true;
    }

    /// Flags of floats compared; `ops` are their bits, and whether denormals count as zeros.
    pub(crate) fn set_flags_floats(&mut self, ops: [Value; 3], floats: Floats) {
        self.set_flags(FlagKind::Compare, ops, Value::NONE);
        if let Some(r) = &mut self.record {
            r.floats = Some(floats);
        }
    }

    /// Flags of a logical result.
    pub(super) fn set_flags_logic(&mut self, result: Value) {
        self.set_flags(FlagKind::Logic, [result, Value::NONE, Value::NONE], result);
    }

    /// Flags from a packed set, an i64.
    pub(crate) fn set_flags_bits(&mut self, bits: Value) {
        self.set_flags(FlagKind::Bits, [bits, Value::NONE, Value::NONE], Value::NONE);
    }

    /// Flags of a logical result with carry `c` (an i8) and, if given, overflow `v`.
    pub(super) fn set_flags_result(&mut self, result: Value, c: Value, v: Option<Value>) {
        self.set_flags_logic(result);
        self.replace_carry(c, v);
    }

    /// The flags stay as they were before `old` if `count` is zero.
    pub(super) fn keep_flags_unless(&mut self, count: Value, old: Option<Record>) {
        let Some(new) = self.record else { return };
        let nw = self.words(&new);
        let ow = match old {
            Some(r) => self.words(&r),
            None => [0, 1, 2, 3].map(|n| self.b.get(SlotId(state::FLAGS + n), Type::I64)),
        };
        let mut w = [Value::NONE; 4];
        for n in 0..4 {
            w[n] = self.b.select(count, nw[n], ow[n]);
        }
        let [word, a, b, c] = w;
        self.record = Some(Record::at_run_time(word, [a, b, c]));
        self.record_dirty = true;
    }

    /// The record's first word.
    fn first_word(&mut self, r: &Record) -> Value {
        let (mut fixed, mut bits) = (0, Value::NONE);
        let carry = if r.other_carry { some(r.carry) } else { None };
        for (v, has, bit) in [
            (carry, flags::OTHER_CARRY, flags::CARRY_BIT),
            (some(r.other_overflow), flags::OTHER_OVERFLOW, flags::OVERFLOW_BIT),
        ] {
            let Some(v) = v else { continue };
            fixed |= has;
            let v = self.b.zext(Type::I64, v);
            let n = self.b.iconst(Type::I64, u64::from(bit.trailing_zeros()));
            let v = self.b.shl(v, n);
            bits = if bits == Value::NONE { v } else { self.b.or(bits, v) };
        }
        let word = match r.kind {
            Some(k) => self.b.iconst(Type::I64, k as u64 | (r.ty as u64) << 8 | fixed),
            None if fixed == 0 => r.word,
            None => {
                // The bit that says what the flag is lies above the one that says that it does.
                let keep = self.b.iconst(Type::I64, !(fixed | fixed << 1));
                let word = self.b.and(r.word, keep);
                let fixed = self.b.iconst(Type::I64, fixed);
                self.b.or(word, fixed)
            }
        };
        if bits == Value::NONE { word } else { self.b.or(word, bits) }
    }

    /// The present record; what the slots hold if nothing is known of it.
    fn present(&mut self) -> Record {
        if let Some(r) = self.record {
            return r;
        }
        let word = self.b.get(SlotId(state::FLAGS), Type::I64);
        Record { in_slots: true, ..Record::at_run_time(word, [Value::NONE; 3]) }
    }

    /// Replaces the carry flag, and the overflow flag if given, both i8, and keeps the rest.
    pub(super) fn replace_carry(&mut self, c: Value, v: Option<Value>) {
        let mut r = self.present();
        if let (Some(FlagKind::Bits), old) = (r.kind, r.a) {
            let c64 = self.b.zext(Type::I64, c);
            let mut bits = self.b.deposit(old, c64, 0, 1);
            if let Some(v) = v {
                let v = self.b.zext(Type::I64, v);
                bits = self.b.deposit(bits, v, FlagBits::V.trailing_zeros(), 1);
            }
            self.record = Some(Record { a: bits, carry: c, ..r });
        } else {
            (r.carry, r.other_carry) = (c, true);
            if let Some(v) = v {
                r.other_overflow = v;
            }
            self.record = Some(r);
        }
        self.record_dirty = true;
    }

    /// The same unless `count` is zero.
    pub(super) fn replace_carry_unless(&mut self, count: Value, c: Value, v: Value) {
        let old = self.present();
        let before = self.first_word(&old);
        self.record = Some(old);
        if old.kind == Some(FlagKind::Bits) {
            self.replace_carry(c, Some(v));
            if let Some(r) = &mut self.record {
                r.a = self.b.select(count, r.a, old.a);
                r.carry = Value::NONE;
            }
            return;
        }
        self.replace_carry(c, Some(v));
        if let Some(new) = self.record {
            let after = self.first_word(&new);
            let word = self.b.select(count, after, before);
            let operands = [old.a, old.b, old.c];
            self.record = Some(Record {
                result: old.result,
                in_slots: old.in_slots,
                ..Record::at_run_time(word, operands)
            });
        }
    }

    /// The four words of a record.
    fn words(&mut self, r: &Record) -> [Value; 4] {
        let mut w = [self.first_word(r); 4];
        if r.in_slots {
            for (w, n) in w[1..].iter_mut().zip(1..) {
                *w = self.b.get(SlotId(state::FLAGS + n), Type::I64);
            }
            return w;
        }
        for (w, v) in w[1..].iter_mut().zip([r.a, r.b, r.c]) {
            *w = match some(v) {
                Some(v) => self.b.zext(Type::I64, v),
                None => self.b.iconst(Type::I64, 0),
            };
        }
        w
    }

    /// Writes the record to its slots if they are behind.
    pub(super) fn flush_flags(&mut self) {
        if !std::mem::take(&mut self.record_dirty) {
            return;
        }
        let Some(r) = self.record else { return };
        let word = self.first_word(&r);
        self.b.set(SlotId(state::FLAGS), word);
        if r.in_slots {
            return;
        }
        for (n, v) in [(1, r.a), (2, r.b), (3, r.c)] {
            if v != Value::NONE {
                let v = self.b.zext(Type::I64, v);
                self.b.set(SlotId(state::FLAGS + n), v);
            }
        }
    }

    /// The slots have been written by something else.
    pub(super) fn forget_flags(&mut self) {
        self.record = None;
        self.record_dirty = false;
    }

    /// The packed flags, an i64.
    pub(crate) fn flag_bits(&mut self) -> Value {
        let [kind, a, b, c] = match self.record {
            Some(Record { kind: Some(FlagKind::Bits), a, .. }) => return a,
            Some(r) => self.words(&r),
            None => [0, 1, 2, 3].map(|n| self.b.get(SlotId(state::FLAGS + n), Type::I64)),
        };
        let bits = self.call::<FlagsEval>(&[kind, a, b, c]);
        // The same flags in another form: if the slots have them they need no write for it.
        let (result, carry) = self.record.map_or((Value::NONE, Value::NONE), |r| (r.result, r.carry));
        let new = Record::new(FlagKind::Bits, Type::I64, [bits, Value::NONE, Value::NONE]);
        self.record = Some(Record { result, carry, ..new });
        bits
    }

    pub(super) fn zero(&mut self, ty: Type) -> Value {
        self.b.iconst(ty, 0)
    }

    pub(super) fn not(&mut self, v: Value) -> Value {
        let one = self.b.iconst(Type::I8, 1);
        self.b.xor(v, one)
    }

    /// 1 or 0 as i8: does the condition hold?
    pub(crate) fn cond(&mut self, cond: Cond) -> Value {
        if let Some(r) = self.record
            && let Some(v) = self.cond_of_record(r, cond)
        {
            return v;
        }
        let bits = self.flag_bits();
        self.cond_of_bits(bits, cond)
    }

    /// The carry flag as i8.
    pub(super) fn carry(&mut self) -> Value {
        self.cond(Cond::Ltu)
    }

    /// A condition of a known producer, if it has a short form.
    fn cond_of_record(&mut self, r: Record, cond: Cond) -> Option<Value> {
        let ty = r.ty;
        if let Some(c) = some(r.carry) {
            match cond {
                Cond::Ltu => return Some(c),
                Cond::Geu => return Some(self.not(c)),
                Cond::Leu | Cond::Gtu if r.other_carry => return None,
                _ => {}
            }
        }
        if let Some(v) = some(r.other_overflow) {
            match cond {
                Cond::Ov => return Some(v),
                Cond::NoOv => return Some(self.not(v)),
                Cond::Lt | Cond::Ge | Cond::Le | Cond::Gt => return None,
                _ => {}
            }
        }
        let kind = r.kind?;
        match cond {
            Cond::Eq | Cond::Ne if kind == FlagKind::Sub => {
                return Some(self.b.setcc(Type::I8, cond, r.a, r.b));
            }
            Cond::Eq | Cond::Ne if r.result != Value::NONE => {
                let zero = self.zero(self.b.ty(r.result));
                return Some(self.b.setcc(Type::I8, cond, r.result, zero));
            }
            Cond::Neg | Cond::Pos if r.result != Value::NONE => {
                let zero = self.zero(self.b.ty(r.result));
                let c = if cond == Cond::Neg { Cond::Lt } else { Cond::Ge };
                return Some(self.b.setcc(Type::I8, c, r.result, zero));
            }
            Cond::ParE | Cond::ParO if r.result != Value::NONE => {
                let low = self.b.trunc(Type::I8, r.result);
                let low = self.b.zext(Type::I32, low);
                let n = self.b.unary(Op::Popcnt, low);
                let one = self.b.iconst(Type::I32, 1);
                let c = if cond == Cond::ParE { Cond::TestZ } else { Cond::TestNz };
                return Some(self.b.setcc(Type::I8, c, n, one));
            }
            _ => {}
        }
        match kind {
            FlagKind::Sub => match cond {
                Cond::Lt | Cond::Ge | Cond::Le | Cond::Gt | Cond::Ltu | Cond::Geu | Cond::Leu | Cond::Gtu => {
                    Some(self.b.setcc(Type::I8, cond, r.a, r.b))
                }
                _ => None,
            },
            FlagKind::Logic => {
                let zero = self.zero(ty);
                Some(match cond {
                    Cond::Ov | Cond::Ltu => self.b.iconst(Type::I8, 0),
                    Cond::NoOv | Cond::Geu => self.b.iconst(Type::I8, 1),
                    Cond::Leu => self.b.setcc(Type::I8, Cond::Eq, r.a, zero),
                    Cond::Gtu => self.b.setcc(Type::I8, Cond::Ne, r.a, zero),
                    Cond::Lt | Cond::Ge | Cond::Le | Cond::Gt => self.b.setcc(Type::I8, cond, r.a, zero),
                    _ => return None,
                })
            }
            FlagKind::Add if matches!(cond, Cond::Ltu | Cond::Geu) => {
                Some(self.b.setcc(Type::I8, cond, r.result, r.a))
            }
            FlagKind::Inc | FlagKind::Dec if matches!(cond, Cond::Ov | Cond::NoOv) => {
                let edge = if kind == FlagKind::Inc { ty.mask() >> 1 } else { (ty.mask() >> 1) + 1 };
                let edge = self.b.iconst(ty, edge);
                let c = if cond == Cond::Ov { Cond::Eq } else { Cond::Ne };
                Some(self.b.setcc(Type::I8, c, r.a, edge))
            }
            FlagKind::Mulu | FlagKind::Muls => {
                let c = match cond {
                    Cond::Ltu | Cond::Ov => Cond::Ne,
                    Cond::Geu | Cond::NoOv => Cond::Eq,
                    _ => return None,
                };
                let neutral = if kind == FlagKind::Mulu {
                    self.zero(ty)
                } else {
                    let top = self.b.iconst(ty, u64::from(ty.bits() - 1));
                    self.b.sar(r.a, top)
                };
                Some(self.b.setcc(Type::I8, c, r.b, neutral))
            }
            FlagKind::Bits => Some(self.cond_of_bits(r.a, cond)),
            FlagKind::Compare => self.compared_floats(cond, r.floats?),
            _ => None,
        }
    }

    /// A condition of packed flags.
    fn cond_of_bits(&mut self, bits: Value, cond: Cond) -> Value {
        let test = |t: &mut Self, mask: u64, c: Cond| {
            let mask = t.b.iconst(Type::I64, mask);
            t.b.setcc(Type::I8, c, bits, mask)
        };
        // N != V: bit 2 against bit 3.
        let less = |t: &mut Self| {
            let one = t.b.iconst(Type::I64, 1);
            let n = t.b.shl(bits, one);
            t.b.xor(n, bits)
        };
        let z = FlagBits::Z;
        match cond {
            Cond::Eq | Cond::TestZ => test(self, z, Cond::TestNz),
            Cond::Ne | Cond::TestNz => test(self, z, Cond::TestZ),
            Cond::Ltu => test(self, FlagBits::C, Cond::TestNz),
            Cond::Geu => test(self, FlagBits::C, Cond::TestZ),
            Cond::Leu => test(self, FlagBits::C | z, Cond::TestNz),
            Cond::Gtu => test(self, FlagBits::C | z, Cond::TestZ),
            Cond::Neg => test(self, FlagBits::N, Cond::TestNz),
            Cond::Pos => test(self, FlagBits::N, Cond::TestZ),
            Cond::Ov => test(self, FlagBits::V, Cond::TestNz),
            Cond::NoOv => test(self, FlagBits::V, Cond::TestZ),
            Cond::ParE => test(self, FlagBits::P, Cond::TestNz),
            Cond::ParO => test(self, FlagBits::P, Cond::TestZ),
            Cond::Lt | Cond::Ge => {
                let d = less(self);
                let v = self.b.iconst(Type::I64, FlagBits::V);
                let c = if cond == Cond::Lt { Cond::TestNz } else { Cond::TestZ };
                self.b.setcc(Type::I8, c, d, v)
            }
            Cond::Le | Cond::Gt => {
                let d = less(self);
                let v = self.b.iconst(Type::I64, FlagBits::V);
                let d = self.b.and(d, v);
                let z = self.b.iconst(Type::I64, z);
                let z = self.b.and(bits, z);
                let any = self.b.or(d, z);
                let zero = self.b.iconst(Type::I64, 0);
                let c = if cond == Cond::Le { Cond::Ne } else { Cond::Eq };
                self.b.setcc(Type::I8, c, any, zero)
            }
        }
    }

    /// Replaces some of the packed flags, given as bits of an i64 that has no others, and keeps the rest.
    pub(super) fn merge_flags(&mut self, mask: u64, new: Value) {
        let old = self.flag_bits();
        let keep = self.b.iconst(Type::I64, !mask & 0x3f);
        let old = self.b.and(old, keep);
        let bits = self.b.or(old, new);
        self.set_flags_bits(bits);
    }

    /// RFLAGS as PUSHF stores it, an i64: RF and VM are clear.
    pub(super) fn rflags(&mut self) -> Value {
        let bits = self.flag_bits();
        let sys = self.b.get(state::SYS, Type::I64);
        let keep = self.b.iconst(Type::I64, flags::SYSTEM & !(flags::RF | flags::VM));
        let mut out = self.b.and(sys, keep);
        let fixed = self.b.iconst(Type::I64, flags::FIXED);
        out = self.b.or(out, fixed);
        for (bit, flag) in flags::PLACES {
            let v = self.b.extract(bits, bit.trailing_zeros(), 1);
            let n = self.b.iconst(Type::I64, u64::from(flag.trailing_zeros()));
            let v = self.b.shl(v, n);
            out = self.b.or(out, v);
        }
        out
    }

    /// Sets the arithmetic flags in `which` (bits of RFLAGS) from an i64 in RFLAGS's layout.
    pub(super) fn set_rflags(&mut self, value: Value, which: u64) {
        let mut bits = self.b.iconst(Type::I64, 0);
        let mut mask = 0;
        for (bit, flag) in flags::PLACES {
            if which & flag != 0 {
                mask |= bit;
                let v = self.b.extract(value, flag.trailing_zeros(), 1);
                let n = self.b.iconst(Type::I64, u64::from(bit.trailing_zeros()));
                let v = self.b.shl(v, n);
                bits = self.b.or(bits, v);
            }
        }
        if mask == 0x3f { self.set_flags_bits(bits) } else { self.merge_flags(mask, bits) }
    }
}
