//! Scaling by a power of two and taking the exponent out. IEEE 754-2019 section 5.3.3.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, note_denormals, unpack};
use crate::round::round_pack;
use crate::status::{Flags, Status};

/// `a * 2^n`, rounded (x87 FSCALE after its operand is truncated, Arm FSCALE).
pub fn scalbn<F: Format>(a: F::Bits, n: i32, s: &mut Status) -> F::Bits {
    let p = unpack::<F>(a, s);
    if p.class.meets(Class::NAN) {
        return nan::propagate1::<F>(&p, s);
    }
    match p.class {
        Class::ZERO => F::zero(p.sign),
        Class::INF => F::infinity(p.sign),
        _ => {
            note_denormals(p.class, s);
            // Far beyond any format's range, and safe to add to.
            let n = n.clamp(-0x4_0000, 0x4_0000);
            round_pack::<F>(p.sign, p.exp + n, p.frac, s)
        }
    }
}

/// The exponent of `a` as a number: minus infinity and division by zero for zero, plus infinity for
/// infinities (x87 FXTRACT, IEEE `logB`).
pub fn logb<F: Format>(a: F::Bits, s: &mut Status) -> F::Bits {
    let p = unpack::<F>(a, s);
    if p.class.meets(Class::NAN) {
        return nan::propagate1::<F>(&p, s);
    }
    match p.class {
        Class::ZERO => {
            s.raise(Flags::DIV_BY_ZERO);
            F::infinity(true)
        }
        Class::INF => F::infinity(false),
        _ => {
            note_denormals(p.class, s);
            crate::ops::integer::from_int::<i32, F>(p.exp, 0, s)
        }
    }
}

/// `a` scaled into [1, 2), sign kept: the significand (x87 FXTRACT).
pub fn significand<F: Format>(a: F::Bits, s: &mut Status) -> F::Bits {
    let p = unpack::<F>(a, s);
    if p.class.meets(Class::NAN) {
        return nan::propagate1::<F>(&p, s);
    }
    match p.class {
        Class::ZERO => F::zero(p.sign),
        Class::INF => F::infinity(p.sign),
        _ => {
            note_denormals(p.class, s);
            round_pack::<F>(p.sign, 0, p.frac, s)
        }
    }
}
