//! Rounding a normalised fraction and putting the result together: the one place that raises
//! overflow, underflow and inexact for arithmetic results.
//!
//! IEEE 754-2019 sections 4.3, 7.4, 7.5, 7.6.

use crate::format::Format;
use crate::status::{Flags, FlushToZero, Precision, RoundingMode, Status, Tininess};
use crate::word::Frac;

/// What to add to a fraction so that truncating at `mask` rounds it; `mask` covers the guard bits.
#[inline]
pub(crate) fn increment<T: Frac>(mode: RoundingMode, sign: bool, frac: T, mask: T) -> T {
    let lsb = mask.wrapping_sub(!T::ZERO); // mask + 1
    let half = (mask >> 1).wrapping_sub(!T::ZERO);
    match mode {
        RoundingMode::NearestEven if frac & lsb != T::ZERO => half,
        RoundingMode::NearestEven => mask >> 1,
        RoundingMode::NearestAway => half,
        RoundingMode::TowardZero => T::ZERO,
        RoundingMode::Down if sign => mask,
        RoundingMode::Down => T::ZERO,
        RoundingMode::Up if sign => T::ZERO,
        RoundingMode::Up => mask,
        RoundingMode::Odd if frac & lsb != T::ZERO => T::ZERO,
        RoundingMode::Odd => mask,
    }
}

/// Rounds `±frac * 2^(exp - BITS + 1)`, `frac` normalised, its lowest bit sticky, to format `G`.
#[inline]
pub(crate) fn round_pack<G: Format>(sign: bool, exp: i32, frac: G::Frac, s: &mut Status) -> G::Bits {
    round_to::<G>(sign, exp, frac, G::SHIFT, s)
}

/// [`round_pack`] for the operations x87 precision control applies to.
#[inline]
pub(crate) fn round_pack_controlled<G: Format>(
    sign: bool,
    exp: i32,
    frac: G::Frac,
    s: &mut Status,
) -> G::Bits {
    let shift = if G::EXPLICIT {
        match s.precision {
            Precision::Single => G::Frac::BITS - 24,
            Precision::Double => G::Frac::BITS - 53,
            Precision::Extended => G::SHIFT,
        }
    } else {
        G::SHIFT
    };
    round_to::<G>(sign, exp, frac, shift, s)
}

/// Rounds at `shift` guard bits, at least the format's own number.
#[inline]
fn round_to<G: Format>(sign: bool, exp: i32, frac: G::Frac, shift: u32, s: &mut Status) -> G::Bits {
    let mask = !(!G::Frac::ZERO << shift);
    let e = exp.saturating_add(G::BIAS);
    if e < 1 {
        return round_tiny::<G>(sign, e, frac, mask, s);
    }
    if e >= G::EXP_MAX {
        return overflow::<G>(sign, e, frac, mask, s);
    }
    round_in_range::<G>(sign, e, frac, mask, s)
}

/// `e` is the biased exponent of a normal number; only a carry can overflow.
#[inline]
fn round_in_range<G: Format>(sign: bool, e: i32, frac: G::Frac, mask: G::Frac, s: &mut Status) -> G::Bits {
    if frac & mask == G::Frac::ZERO {
        return G::assemble(sign, e, frac >> G::SHIFT);
    }
    let (sum, carry) = frac.overflowing_add(increment(s.rounding, sign, frac, mask));
    let rounded = sum & !mask;
    let mut flags = Flags::INEXACT;
    if carry {
        if e + 1 == G::EXP_MAX {
            return overflow::<G>(sign, e, frac, mask, s);
        }
        s.raise(flags | Flags::ROUNDED_UP);
        return G::assemble(sign, e + 1, G::Frac::TOP >> G::SHIFT);
    }
    if rounded > frac {
        flags |= Flags::ROUNDED_UP;
    }
    s.raise(flags);
    G::assemble(sign, e, rounded >> G::SHIFT)
}

/// What a trapping overflow or underflow moves the exponent by.
const fn wrap<G: Format>() -> i32 {
    3 << (G::EXP_BITS - 2)
}

/// A result too large for the format.
#[cold]
fn overflow<G: Format>(sign: bool, e: i32, frac: G::Frac, mask: G::Frac, s: &mut Status) -> G::Bits {
    s.raise(Flags::OVERFLOW);
    let wrapped = e - wrap::<G>();
    if s.wrap_overflow && wrapped < G::EXP_MAX - 1 {
        return round_in_range::<G>(sign, wrapped, frac, mask, s);
    }
    s.raise(Flags::INEXACT);
    let finite = match s.rounding {
        RoundingMode::NearestEven | RoundingMode::NearestAway => false,
        RoundingMode::TowardZero | RoundingMode::Odd => true,
        RoundingMode::Down => !sign,
        RoundingMode::Up => sign,
    };
    if finite {
        return G::assemble(sign, G::EXP_MAX - 1, !mask >> G::SHIFT);
    }
    s.raise(Flags::ROUNDED_UP);
    G::infinity(sign)
}

/// A result below the smallest normal number before rounding; `e` is its biased exponent, below 1.
#[cold]
fn round_tiny<G: Format>(sign: bool, e: i32, frac: G::Frac, mask: G::Frac, s: &mut Status) -> G::Bits {
    let tiny = match s.tininess {
        Tininess::BeforeRounding => true,
        // Rounded with an unbounded exponent it may reach the smallest normal number: only if it carries.
        Tininess::AfterRounding => {
            e < 0
                || frac & mask == G::Frac::ZERO
                || !frac.overflowing_add(increment(s.rounding, sign, frac, mask)).1
        }
    };
    let wrapped = e.saturating_add(wrap::<G>());
    if tiny && s.wrap_underflow && wrapped > 0 {
        s.raise(Flags::UNDERFLOW | Flags::TINY);
        return round_in_range::<G>(sign, wrapped, frac, mask, s);
    }
    if tiny {
        match s.flush_to_zero {
            FlushToZero::Off => s.raise(Flags::TINY),
            FlushToZero::Underflow => {
                s.raise(Flags::UNDERFLOW);
                return G::zero(sign);
            }
            FlushToZero::UnderflowInexact => {
                s.raise(Flags::UNDERFLOW | Flags::INEXACT);
                return G::zero(sign);
            }
        }
    }
    let frac = frac.shr_jam(e.unsigned_abs().saturating_add(1));
    let (sum, _) = frac.overflowing_add(increment(s.rounding, sign, frac, mask));
    let rounded = if frac & mask == G::Frac::ZERO { frac } else { sum & !mask };
    if rounded != frac {
        s.raise(Flags::INEXACT);
        if tiny {
            s.raise(Flags::UNDERFLOW);
        }
        if rounded > frac {
            s.raise(Flags::ROUNDED_UP);
        }
    }
    // With the integer bit in place the number has become the smallest normal one.
    let normal = rounded & G::Frac::TOP != G::Frac::ZERO;
    G::assemble(sign, i32::from(normal), rounded >> G::SHIFT)
}
