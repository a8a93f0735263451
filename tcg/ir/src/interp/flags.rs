//! Flag records: what each producer means, and what is asked of it.
//!
//! In a value and in guest state a record is four words: producer and type number (`sub` of the `flags` operation),
//! then the operands a, b, c.

use crate::interp::scalar::{low_mask, sext};
use crate::{Cond, FlagBits, FlagKind, Type};

/// The flags of a record as [`FlagBits`]. Any four words mean something: an unknown producer is the first one, a type
/// that cannot be a record's is i64, operands are cut to their width.
#[must_use]
pub fn bits(record: &[u64; 4]) -> u64 {
    let kind = FlagKind::from_bits((record[0] & 0xff) as u16);
    let ty = Type::ALL.get((record[0] >> 8 & 0xff) as usize).copied().unwrap_or(Type::I64);
    let ty = if ty.is_int() && ty.bytes() <= 8 { ty } else { Type::I64 };
    let w = ty.bits();
    let mask = low_mask(w);
    let [a, b, c] = [record[1] & mask, record[2] & mask, record[3] & mask];
    let msb = 1u64 << (w - 1);
    let carry = c & 1;
    // Result, carry, overflow, carry out of bit 3.
    let (r, cf, vf, af) = match kind {
        FlagKind::Add | FlagKind::Adc => {
            let cin = if matches!(kind, FlagKind::Adc) { carry } else { 0 };
            let r = a.wrapping_add(b).wrapping_add(cin) & mask;
            // Both have the top bit, or one has it and the sum has lost it.
            let out = (a & b | (a | b) & !r) & msb != 0;
            (r, out, (a ^ r) & (b ^ r) & msb != 0, (a ^ b ^ r) & 16 != 0)
        }
        FlagKind::Sub | FlagKind::Sbb => {
            let cin = if matches!(kind, FlagKind::Sbb) { carry } else { 0 };
            let r = a.wrapping_sub(b).wrapping_sub(cin) & mask;
            let borrow = (!a & b | (!a | b) & r) & msb != 0;
            (r, borrow, (a ^ b) & (a ^ r) & msb != 0, (a ^ b ^ r) & 16 != 0)
        }
        FlagKind::Logic => (a, false, false, false),
        FlagKind::Inc => {
            let r = a.wrapping_add(1) & mask;
            (r, carry != 0, r == msb, r & 15 == 0)
        }
        FlagKind::Dec => {
            let r = a.wrapping_sub(1) & mask;
            (r, carry != 0, a == msb, r & 15 == 15)
        }
        FlagKind::Shl | FlagKind::Shr | FlagKind::Sar => shift(kind, w, a, b),
        FlagKind::Mulu => (a, b != 0, b != 0, false),
        FlagKind::Muls => {
            let over = b != (sext(a, w) >> 63) as u64 & mask;
            (a, over, over, false)
        }
        FlagKind::Bits => return a & 0x3f,
        FlagKind::Compare => return compare(ty == Type::I64, a, b, carry != 0),
    };
    (u64::from(cf) * FlagBits::C)
        | (u64::from(r == 0) * FlagBits::Z)
        | (u64::from(r & msb != 0) * FlagBits::N)
        | (u64::from(vf) * FlagBits::V)
        | (u64::from((r as u8).count_ones() & 1 == 0) * FlagBits::P)
        | (u64::from(af) * FlagBits::A)
}

/// Floats that are less, equal, or cannot be compared.
fn compare(double: bool, a: u64, b: u64, daz: bool) -> u64 {
    let number = |v: u64| if double { f64::from_bits(v) } else { f64::from(f32::from_bits(v as u32)) };
    let subnormal = |v: u64| {
        let (exponent, fraction) =
            if double { (0x7ff << 52, (1 << 52) - 1) } else { (0xff << 23, (1 << 23) - 1) };
        v & exponent == 0 && v & fraction != 0
    };
    let operand = |v: u64| if daz && subnormal(v) { 0.0 } else { number(v) };
    match operand(a).partial_cmp(&operand(b)) {
        Some(std::cmp::Ordering::Less) => FlagBits::C,
        Some(std::cmp::Ordering::Equal) => FlagBits::Z,
        Some(std::cmp::Ordering::Greater) => 0,
        None => FlagBits::C | FlagBits::Z | FlagBits::P,
    }
}

/// Shifts: a count of 0 leaves `a` with C clear, one above the width shifts everything out with the last carry of an
/// infinite shift. V is what x86 defines for a shift by one: the sign changes.
fn shift(kind: FlagKind, w: u32, a: u64, b: u64) -> (u64, bool, bool, bool) {
    let mask = low_mask(w);
    let msb = 1u64 << (w - 1);
    let n = b.min(128) as u32;
    if n == 0 {
        return (a, false, false, false);
    }
    let (r, cf) = match kind {
        FlagKind::Shl => {
            let wide = if n > 64 { 0 } else { u128::from(a) << n };
            (wide as u64 & mask, wide >> w & 1 != 0)
        }
        FlagKind::Shr => {
            let wide = u128::from(a) << 1;
            let wide = if n > 127 { 0 } else { wide >> n };
            ((wide >> 1) as u64, wide & 1 != 0)
        }
        _ => {
            let wide = (i128::from(sext(a, w)) << 1) >> n.min(127);
            ((wide >> 1) as u64 & mask, wide & 1 != 0)
        }
    };
    let vf = match kind {
        FlagKind::Shl => (r & msb != 0) != cf,
        FlagKind::Shr => a & msb != 0,
        _ => false,
    };
    (r, cf, vf, false)
}

/// Does `cond` hold in the packed flags `f`? `tz` and `tnz` mean Z and its opposite.
#[must_use]
pub const fn holds(cond: Cond, f: u64) -> bool {
    let c = f & FlagBits::C != 0;
    let z = f & FlagBits::Z != 0;
    let n = f & FlagBits::N != 0;
    let v = f & FlagBits::V != 0;
    let p = f & FlagBits::P != 0;
    match cond {
        Cond::Eq | Cond::TestZ => z,
        Cond::Ne | Cond::TestNz => !z,
        Cond::Lt => n != v,
        Cond::Ge => n == v,
        Cond::Le => z || n != v,
        Cond::Gt => !z && n == v,
        Cond::Ltu => c,
        Cond::Geu => !c,
        Cond::Leu => c || z,
        Cond::Gtu => !c && !z,
        Cond::Neg => n,
        Cond::Pos => !n,
        Cond::Ov => v,
        Cond::NoOv => !v,
        Cond::ParE => p,
        Cond::ParO => !p,
    }
}
