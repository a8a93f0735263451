//! Division. IEEE 754-2019 sections 5.4.1 and 7.3.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack, unpack_normal};
use crate::round::round_pack_controlled;
use crate::status::{Flags, Status};
use crate::word::Frac;

/// `a / b`, rounded once to `G`.
#[inline]
pub fn div<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, b: F::Bits, s: &mut Status) -> G::Bits {
    match (unpack_normal::<F>(a), unpack_normal::<F>(b)) {
        (Some(a), Some(b)) => div_finite::<F, G>(&a, &b, s),
        _ => div_special::<F, G>(a, b, s),
    }
}

#[inline]
fn div_finite<F: Format, G: Format<Frac = F::Frac>>(
    a: &Parts<G::Frac>,
    b: &Parts<G::Frac>,
    s: &mut Status,
) -> G::Bits {
    let less = a.frac < b.frac;
    let frac = a.frac.div_jam(b.frac, less, F::PRECISION);
    round_pack_controlled::<G>(a.sign != b.sign, a.exp - b.exp - i32::from(less), frac, s)
}

fn div_special<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, b: F::Bits, s: &mut Status) -> G::Bits {
    let a = unpack::<F>(a, s);
    let b = unpack::<F>(b, s);
    let any = a.class | b.class;
    if any.meets(Class::NAN) {
        return nan::propagate2::<G>(&a, &b, s);
    }
    let sign = a.sign != b.sign;
    if a.class == b.class {
        if a.class == Class::ZERO {
            return nan::invalid::<G>(Flags::INVALID_ZDZ, s);
        }
        if a.class == Class::INF {
            return nan::invalid::<G>(Flags::INVALID_IDI, s);
        }
    }
    if b.class == Class::ZERO && a.class != Class::INF {
        s.raise(Flags::DIV_BY_ZERO);
        return G::infinity(sign);
    }
    note_denormals(any, s);
    if a.class == Class::INF {
        return G::infinity(sign);
    }
    if a.class == Class::ZERO || b.class == Class::INF {
        return G::zero(sign);
    }
    div_finite::<F, G>(&a, &b, s)
}
