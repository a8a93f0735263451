//! Addition and subtraction. IEEE 754-2019 section 5.4.1; sign of an exact zero sum: section 6.3.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack, unpack_normal};
use crate::round::round_pack_controlled;
use crate::status::{Flags, RoundingMode, Status};
use crate::word::Frac;

/// `a + b`, rounded once to `G` (PowerPC's single-precision arithmetic takes binary64 operands).
#[inline]
pub fn add<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, b: F::Bits, s: &mut Status) -> G::Bits {
    add_signed::<F, G>(a, b, false, s)
}

/// `a - b`, rounded once to `G`.
#[inline]
pub fn sub<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, b: F::Bits, s: &mut Status) -> G::Bits {
    add_signed::<F, G>(a, b, true, s)
}

#[inline]
fn add_signed<F: Format, G: Format<Frac = F::Frac>>(
    a: F::Bits,
    b: F::Bits,
    negate: bool,
    s: &mut Status,
) -> G::Bits {
    match (unpack_normal::<F>(a), unpack_normal::<F>(b)) {
        (Some(a), Some(b)) => add_finite::<G>(&a, &b, negate, s),
        _ => add_special::<F, G>(a, b, negate, s),
    }
}

/// Sum of two finite non-zero numbers, `b`'s sign flipped if `negate`.
#[inline]
fn add_finite<G: Format>(a: &Parts<G::Frac>, b: &Parts<G::Frac>, negate: bool, s: &mut Status) -> G::Bits {
    let b_sign = b.sign != negate;
    let swap = (a.exp, a.frac) < (b.exp, b.frac);
    let (big, small, sign) = if swap { (b, a, b_sign) } else { (a, b, a.sign) };
    // Exponents differ by far less than 2^31.
    let aligned = small.frac.shr_jam(big.exp.wrapping_sub(small.exp) as u32);
    if a.sign == b_sign {
        let (sum, carry) = big.frac.overflowing_add(aligned);
        if carry {
            let frac = sum.shr_jam(1) | G::Frac::TOP;
            return round_pack_controlled::<G>(sign, big.exp + 1, frac, s);
        }
        return round_pack_controlled::<G>(sign, big.exp, sum, s);
    }
    let diff = big.frac.wrapping_sub(aligned);
    if diff == G::Frac::ZERO {
        return zero_sum::<G>(s);
    }
    let lead = diff.leading_zeros();
    round_pack_controlled::<G>(sign, big.exp - lead as i32, diff << lead, s)
}

/// The zero of `x - x`.
pub(super) fn zero_sum<G: Format>(s: &Status) -> G::Bits {
    G::zero(s.rounding == RoundingMode::Down)
}

fn add_special<F: Format, G: Format<Frac = F::Frac>>(
    a: F::Bits,
    b: F::Bits,
    negate: bool,
    s: &mut Status,
) -> G::Bits {
    let a = unpack::<F>(a, s);
    let b = unpack::<F>(b, s);
    let any = a.class | b.class;
    if any.meets(Class::NAN) {
        return nan::propagate2::<G>(&a, &b, s);
    }
    let b_sign = b.sign != negate;
    if any == Class::INF && a.sign != b_sign {
        return nan::invalid::<G>(Flags::INVALID_ISI, s);
    }
    note_denormals(any, s);
    if any.meets(Class::INF) {
        return G::infinity(if a.class == Class::INF { a.sign } else { b_sign });
    }
    match (a.class == Class::ZERO, b.class == Class::ZERO) {
        (true, true) if a.sign == b_sign => G::zero(a.sign),
        (true, true) => zero_sum::<G>(s),
        // Still rounded: the destination may be narrower, and a subnormal may be flushed.
        (true, false) => round_pack_controlled::<G>(b_sign, b.exp, b.frac, s),
        (false, true) => round_pack_controlled::<G>(a.sign, a.exp, a.frac, s),
        (false, false) => add_finite::<G>(&a, &b, negate, s),
    }
}
