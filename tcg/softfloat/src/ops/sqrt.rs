//! Square root. IEEE 754-2019 section 5.4.1; the root of -0 is -0.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack, unpack_normal};
use crate::round::round_pack_controlled;
use crate::status::{Flags, Status};
use crate::word::Frac;

/// The square root of `a`, rounded once to `G`.
#[inline]
pub fn sqrt<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, s: &mut Status) -> G::Bits {
    match unpack_normal::<F>(a) {
        Some(a) if !a.sign => sqrt_positive::<F, G>(&a, s),
        _ => sqrt_special::<F, G>(a, s),
    }
}

#[inline]
fn sqrt_positive<F: Format, G: Format<Frac = F::Frac>>(a: &Parts<G::Frac>, s: &mut Status) -> G::Bits {
    // 2^exp = 2^(2 * (exp >> 1)) * 2^(exp & 1); the odd power goes under the root.
    let frac = a.frac.sqrt_jam(a.exp & 1 != 0, F::PRECISION);
    round_pack_controlled::<G>(false, a.exp >> 1, frac, s)
}

fn sqrt_special<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, s: &mut Status) -> G::Bits {
    let a = unpack::<F>(a, s);
    if a.class.meets(Class::NAN) {
        return nan::propagate1::<G>(&a, s);
    }
    if a.class == Class::ZERO {
        return G::zero(a.sign);
    }
    if a.sign {
        return nan::invalid::<G>(Flags::INVALID_SQRT, s);
    }
    note_denormals(a.class, s);
    if a.class == Class::INF {
        return G::infinity(false);
    }
    sqrt_positive::<F, G>(&a, s)
}
