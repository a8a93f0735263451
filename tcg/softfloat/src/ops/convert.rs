//! Conversion between formats. IEEE 754-2019 section 5.4.2; NaN payloads keep their leading bits.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack};
use crate::round::round_pack;
use crate::status::Status;
use crate::word::Frac;

/// `a` in format `G`.
#[inline]
pub fn convert<F: Format, G: Format>(a: F::Bits, s: &mut Status) -> G::Bits {
    let p = unpack::<F>(a, s);
    if p.class == Class::NORMAL {
        return round_pack::<G>(p.sign, p.exp, G::Frac::from_top_jam(p.frac.to_top()), s);
    }
    if p.class.meets(Class::NAN) {
        let frac = G::Frac::from_top(p.frac.to_top());
        return nan::propagate1::<G>(&Parts { class: p.class, sign: p.sign, exp: p.exp, frac }, s);
    }
    match p.class {
        Class::ZERO => G::zero(p.sign),
        Class::INF => G::infinity(p.sign),
        _ => {
            note_denormals(p.class, s);
            round_pack::<G>(p.sign, p.exp, G::Frac::from_top_jam(p.frac.to_top()), s)
        }
    }
}
