//! Remainder: IEEE 754-2019 section 5.3.1, and x87's partial ones (Intel SDM FPREM, FPREM1).

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack};
use crate::round::round_pack;
use crate::status::{Flags, Status};
use crate::word::Frac;

/// How the quotient that defines a remainder is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quotient {
    /// To nearest, ties to even: the IEEE remainder (FPREM1).
    Nearest,
    /// Toward zero: the remainder has the dividend's sign (FPREM, `fmod`).
    Truncated,
}

/// A remainder, perhaps a partial one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder<B> {
    /// The remainder so far.
    pub value: B,
    /// Low bits of the quotient's magnitude (at least 3 are right if complete; else zero).
    pub quotient: u64,
    /// Whether it is the final remainder; if not, divide `value` again (x87's C2).
    pub complete: bool,
}

/// The remainder of `a / b`, in full.
pub fn rem<F: Format>(a: F::Bits, b: F::Bits, quotient: Quotient, s: &mut Status) -> Remainder<F::Bits> {
    remainder::<F>(a, b, quotient, i32::MAX, s)
}

/// One step of x87's remainder: reduces the exponent difference by at most 63.
pub fn rem_partial<F: Format>(
    a: F::Bits,
    b: F::Bits,
    quotient: Quotient,
    s: &mut Status,
) -> Remainder<F::Bits> {
    remainder::<F>(a, b, quotient, 63, s)
}

fn remainder<F: Format>(
    a: F::Bits,
    b: F::Bits,
    quotient: Quotient,
    reach: i32,
    s: &mut Status,
) -> Remainder<F::Bits> {
    let done = |value| Remainder { value, quotient: 0, complete: true };
    let a = unpack::<F>(a, s);
    let b = unpack::<F>(b, s);
    let any = a.class | b.class;
    if any.meets(Class::NAN) {
        return done(nan::propagate2::<F>(&a, &b, s));
    }
    if a.class == Class::INF || b.class == Class::ZERO {
        return done(nan::invalid::<F>(Flags::NONE, s));
    }
    note_denormals(any, s);
    if a.class == Class::ZERO {
        return done(F::zero(a.sign));
    }
    if b.class == Class::INF {
        return done(round_pack::<F>(a.sign, a.exp, a.frac, s));
    }
    let diff = a.exp - b.exp;
    if diff > reach {
        // x87 leaves a difference of fewer than 64 bits behind, a multiple of 32 bits away.
        let step = 32 | (diff % 32);
        let (r, _) = reduce::<F>(&a, &b, step);
        let exp = a.exp - step;
        return Remainder { value: pack::<F>(a.sign, exp, r, s), quotient: 0, complete: false };
    }
    finish::<F>(&a, &b, quotient, s)
}

/// The whole remainder of two finite non-zero numbers.
fn finish<F: Format>(
    a: &Parts<F::Frac>,
    b: &Parts<F::Frac>,
    rounding: Quotient,
    s: &mut Status,
) -> Remainder<F::Bits> {
    let diff = a.exp - b.exp;
    if diff < -1 || (diff < 0 && rounding == Quotient::Truncated) {
        let value = round_pack::<F>(a.sign, a.exp, a.frac, s);
        return Remainder { value, quotient: 0, complete: true };
    }
    // In units of the divisor's last place; one bit below it when the dividend is the smaller.
    let (mut r, mut q, d, exp) = if diff < 0 {
        (a.frac >> F::SHIFT, 0, (b.frac >> F::SHIFT) << 1, a.exp)
    } else {
        let (r, q) = reduce::<F>(a, b, diff);
        (r, q, b.frac >> F::SHIFT, b.exp)
    };
    let mut sign = a.sign;
    if rounding == Quotient::Nearest {
        let rest = d.wrapping_sub(r);
        if r > rest || (r == rest && q & 1 != 0) {
            r = rest;
            sign = !sign;
            q = u64::wrapping_add(q, 1);
        }
    }
    let value = if r == F::Frac::ZERO { F::zero(a.sign) } else { pack::<F>(sign, exp, r, s) };
    Remainder { value, quotient: q, complete: true }
}

/// `a.significand * 2^bits` modulo `b.significand`, and the low 64 bits of the quotient.
fn reduce<F: Format>(a: &Parts<F::Frac>, b: &Parts<F::Frac>, bits: i32) -> (F::Frac, u64) {
    let d = b.frac >> F::SHIFT;
    let (q, mut r) = (a.frac >> F::SHIFT).div_rem(d);
    let mut q = q.to_u128() as u64;
    let mut left = bits as u32;
    while left > 0 {
        // The remainder is below 2^PRECISION, so this many bits fit above it.
        let n = left.min(F::SHIFT).min(63);
        let (digit, rest) = (r << n).div_rem(d);
        r = rest;
        q = (q << n) | digit.to_u128() as u64;
        left -= n;
    }
    (r, q)
}

/// `r` units in the last place of a number with exponent `exp`: always exact.
fn pack<F: Format>(sign: bool, exp: i32, r: F::Frac, s: &mut Status) -> F::Bits {
    if r == F::Frac::ZERO {
        return F::zero(sign);
    }
    let lead = r.leading_zeros();
    let exp = exp + F::SHIFT as i32 - lead as i32;
    round_pack::<F>(sign, exp, r << lead, s)
}
