//! Multiplication. IEEE 754-2019 section 5.4.1.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack, unpack_normal};
use crate::round::round_pack_controlled;
use crate::status::{Flags, Status};
use crate::word::{Frac, Wide};

/// `a * b`, rounded once to `G`.
#[inline]
pub fn mul<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, b: F::Bits, s: &mut Status) -> G::Bits {
    match (unpack_normal::<F>(a), unpack_normal::<F>(b)) {
        (Some(a), Some(b)) => mul_finite::<G>(&a, &b, s),
        _ => mul_special::<F, G>(a, b, s),
    }
}

#[inline]
fn mul_finite<G: Format>(a: &Parts<G::Frac>, b: &Parts<G::Frac>, s: &mut Status) -> G::Bits {
    // In [1, 4): the top bit is worth 2.
    let product = a.frac.full_mul(b.frac);
    let exp = a.exp + b.exp + 1;
    let sign = a.sign != b.sign;
    let frac = product.high_jam();
    if frac & G::Frac::TOP != G::Frac::ZERO {
        return round_pack_controlled::<G>(sign, exp, frac, s);
    }
    // Normalise before jamming: the top bit of the low half becomes a bit of the fraction.
    round_pack_controlled::<G>(sign, exp - 1, product.shift_left(1).high_jam(), s)
}

fn mul_special<F: Format, G: Format<Frac = F::Frac>>(a: F::Bits, b: F::Bits, s: &mut Status) -> G::Bits {
    let a = unpack::<F>(a, s);
    let b = unpack::<F>(b, s);
    let any = a.class | b.class;
    if any.meets(Class::NAN) {
        return nan::propagate2::<G>(&a, &b, s);
    }
    if any == Class::INF | Class::ZERO {
        return nan::invalid::<G>(Flags::INVALID_IMZ, s);
    }
    note_denormals(any, s);
    let sign = a.sign != b.sign;
    if any.meets(Class::INF) {
        return G::infinity(sign);
    }
    if any.meets(Class::ZERO) {
        return G::zero(sign);
    }
    mul_finite::<G>(&a, &b, s)
}
