//! Rounding to an integral value in the same format. IEEE 754-2019 section 5.9.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, note_denormals, unpack};
use crate::round::round_pack;
use crate::status::{Flags, RoundingMode, Status};
use crate::word::Frac;

/// The integer of `a`'s neighbourhood `rounding` chooses, keeping the sign of zero. Raises inexact only if
/// `exact` (`roundToIntegralExact`).
pub fn round_to_int<F: Format>(a: F::Bits, rounding: RoundingMode, exact: bool, s: &mut Status) -> F::Bits {
    let p = unpack::<F>(a, s);
    if p.class.meets(Class::NAN) {
        return nan::propagate1::<F>(&p, s);
    }
    match p.class {
        Class::ZERO => return F::zero(p.sign),
        Class::INF => return F::infinity(p.sign),
        _ => note_denormals(p.class, s),
    }
    if p.exp >= F::PRECISION as i32 - 1 {
        return a; // every finite number this large is an integer
    }
    let (int, loss) = to_integer(p.frac, p.exp, p.sign, rounding);
    if exact {
        s.raise(loss);
    }
    if int == F::Frac::ZERO {
        return F::zero(p.sign);
    }
    let lead = int.leading_zeros();
    let mut plain = Status::default();
    round_pack::<F>(p.sign, F::Frac::BITS as i32 - 1 - lead as i32, int << lead, &mut plain)
}

/// `frac / 2^(BITS-1) * 2^exp` rounded to an integer, and the flags for what that lost (inexact, and
/// rounded up); `exp < BITS`.
#[inline]
pub(super) fn to_integer<T: Frac>(frac: T, exp: i32, sign: bool, rounding: RoundingMode) -> (T, Flags) {
    let top = T::BITS as i32 - 1;
    // The integer, and the rest as a fraction of 2^BITS.
    let (int, rest) = match exp {
        e if e >= top => return (frac, Flags::NONE),
        0.. => (frac >> (top - exp) as u32, frac << (exp + 1) as u32),
        _ => (T::ZERO, frac.shr_jam((-1 - exp) as u32)),
    };
    if rest == T::ZERO {
        return (int, Flags::NONE);
    }
    let odd = int & T::ONE != T::ZERO;
    let up = match rounding {
        RoundingMode::NearestEven => rest > T::TOP || (rest == T::TOP && odd),
        RoundingMode::NearestAway => rest >= T::TOP,
        RoundingMode::TowardZero => false,
        RoundingMode::Down => sign,
        RoundingMode::Up => !sign,
        RoundingMode::Odd => !odd,
    };
    if up {
        (int.overflowing_add(T::ONE).0, Flags::INEXACT | Flags::ROUNDED_UP)
    } else {
        (int, Flags::INEXACT)
    }
}
