//! A number taken apart: class, sign, unbiased exponent and normalised fraction, the form every
//! operation computes in.
//!
//! Invariants: the value of a finite non-zero number is `frac / 2^(BITS-1) * 2^exp` with the top bit of
//! `frac` set, subnormals included. A NaN keeps its payload in place: top bit set, quiet bit below it.

use crate::format::Format;
use crate::status::{Flags, Status};
use crate::word::Frac;

/// Class of an operand, or a set of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(u8);

impl Class {
    pub(crate) const ZERO: Class = Class(1 << 0);
    pub(crate) const DENORMAL: Class = Class(1 << 1);
    pub(crate) const NORMAL: Class = Class(1 << 2);
    pub(crate) const INF: Class = Class(1 << 3);
    pub(crate) const QNAN: Class = Class(1 << 4);
    pub(crate) const SNAN: Class = Class(1 << 5);
    /// An 80-bit pattern no current x87 accepts: pseudo-NaN, pseudo-infinity, unnormal.
    pub(crate) const UNSUPPORTED: Class = Class(1 << 6);
    /// Everything that makes the result a NaN.
    pub(crate) const NAN: Class = Class(0x70);

    /// Whether the sets have a member in common.
    #[inline]
    pub(crate) fn meets(self, other: Class) -> bool {
        self.0 & other.0 != 0
    }
}

impl core::ops::BitOr for Class {
    type Output = Class;
    #[inline]
    fn bitor(self, rhs: Class) -> Class {
        Class(self.0 | rhs.0)
    }
}

/// An unpacked operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<T> {
    pub(crate) class: Class,
    pub(crate) sign: bool,
    pub(crate) exp: i32,
    pub(crate) frac: T,
}

/// The exponent field.
#[inline]
pub(crate) fn exp_field<F: Format>(word: F::Frac) -> i32 {
    ((word >> F::MANT_BITS).to_u128() as i32) & F::EXP_MAX
}

/// The sign bit.
#[inline]
pub(crate) fn sign<F: Format>(word: F::Frac) -> bool {
    word & F::sign_mask() != F::Frac::ZERO
}

/// Takes a normal number apart without further ado, or returns `None` for any other class.
#[inline]
pub(crate) fn unpack_normal<F: Format>(bits: F::Bits) -> Option<Parts<F::Frac>> {
    let word = F::to_word(bits);
    let e = exp_field::<F>(word);
    let frac = word << (F::Frac::BITS - F::MANT_BITS);
    let frac = if F::EXPLICIT { frac } else { (frac >> 1) | F::Frac::TOP };
    let normal = (e - 1) as u32 <= (F::EXP_MAX - 2) as u32 && frac & F::Frac::TOP != F::Frac::ZERO;
    normal.then(|| Parts { class: Class::NORMAL, sign: sign::<F>(word), exp: e - F::BIAS, frac })
}

/// Takes any operand apart, honouring denormals-are-zero.
#[inline]
pub(crate) fn unpack<F: Format>(bits: F::Bits, s: &mut Status) -> Parts<F::Frac> {
    match unpack_normal::<F>(bits) {
        Some(p) => p,
        None => {
            let mut p = unpack_special::<F>(bits, s);
            if p.class == Class::DENORMAL && s.denormals_are_zero {
                s.raise(Flags::INPUT_FLUSHED);
                p.class = Class::ZERO;
                p.frac = F::Frac::ZERO;
            }
            p
        }
    }
}

/// The classes [`unpack_normal`] leaves.
#[cold]
fn unpack_special<F: Format>(bits: F::Bits, s: &Status) -> Parts<F::Frac> {
    let word = F::to_word(bits);
    let sign = sign::<F>(word);
    let e = exp_field::<F>(word);
    let mant = word << (F::Frac::BITS - F::MANT_BITS);
    let (integer, frac) =
        if F::EXPLICIT { (mant & F::Frac::TOP != F::Frac::ZERO, mant) } else { (e != 0, mant >> 1) };
    let (class, exp, frac) = if e == 0 {
        if mant == F::Frac::ZERO {
            (Class::ZERO, 0, mant)
        } else {
            // A set integer bit here is an 80-bit pseudo-denormal, worth the same as with exponent 1.
            let lead = frac.leading_zeros();
            (Class::DENORMAL, 1 - F::BIAS - lead as i32, frac << lead)
        }
    } else if !integer {
        (Class::UNSUPPORTED, 0, frac)
    } else {
        let frac = frac | F::Frac::TOP;
        if frac == F::Frac::TOP {
            (Class::INF, 0, frac)
        } else if s.nan.signals(frac) {
            (Class::SNAN, 0, frac)
        } else {
            (Class::QNAN, 0, frac)
        }
    };
    Parts { class, sign, exp, frac }
}

/// Records that a subnormal operand takes part in a computation with a numeric result.
#[inline]
pub(crate) fn note_denormals(any: Class, s: &mut Status) {
    if any.meets(Class::DENORMAL) {
        s.raise(Flags::INPUT_DENORMAL);
    }
}
