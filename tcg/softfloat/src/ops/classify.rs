//! Classes and sign operations: never raise a flag, never change a payload. IEEE 754-2019 sections 5.5.1
//! and 5.7.2.

use crate::format::Format;
use crate::parts::{Class, Parts, sign, unpack};
use crate::status::Status;

/// Class of a number, its sign aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Zero.
    Zero,
    /// Subnormal (80-bit pseudo-denormals included).
    Subnormal,
    /// Normal.
    Normal,
    /// Infinite.
    Infinite,
    /// Quiet NaN.
    QuietNan,
    /// Signaling NaN.
    SignalingNan,
    /// An 80-bit pattern that is no number: unnormal, pseudo-infinity, pseudo-NaN.
    Unsupported,
}

/// The class, by the NaN rule of `s`.
pub fn category<F: Format>(a: F::Bits, s: &Status) -> Category {
    match class::<F>(a, s).class {
        Class::ZERO => Category::Zero,
        Class::DENORMAL => Category::Subnormal,
        Class::NORMAL => Category::Normal,
        Class::INF => Category::Infinite,
        Class::QNAN => Category::QuietNan,
        Class::SNAN => Category::SignalingNan,
        _ => Category::Unsupported,
    }
}

/// RISC-V's `fclass`: one bit of ten, from minus infinity (0) through the zeros (3, 4) to plus
/// infinity (7), signaling NaN (8), quiet NaN (9).
pub fn fclass<F: Format>(a: F::Bits, s: &Status) -> u32 {
    let p = class::<F>(a, s);
    let distance = match p.class {
        Class::ZERO => 0,
        Class::DENORMAL => 1,
        Class::NORMAL => 2,
        Class::INF => 3,
        Class::QNAN => return 1 << 9,
        _ => return 1 << 8,
    };
    1 << if p.sign { 3 - distance } else { 4 + distance }
}

/// Whether a NaN of either kind.
#[inline]
pub fn is_nan<F: Format>(a: F::Bits, s: &Status) -> bool {
    class::<F>(a, s).class.meets(Class::NAN)
}

/// Whether a signaling NaN.
#[inline]
pub fn is_snan<F: Format>(a: F::Bits, s: &Status) -> bool {
    class::<F>(a, s).class == Class::SNAN
}

/// Whether the sign bit is set, NaNs included.
#[inline]
pub fn is_negative<F: Format>(a: F::Bits) -> bool {
    sign::<F>(F::to_word(a))
}

/// Sign cleared.
#[inline]
pub fn abs<F: Format>(a: F::Bits) -> F::Bits {
    F::from_word(F::to_word(a) & !F::sign_mask())
}

/// Sign flipped.
#[inline]
pub fn neg<F: Format>(a: F::Bits) -> F::Bits {
    F::from_word(F::to_word(a) ^ F::sign_mask())
}

/// Sign set to `negative`.
#[inline]
pub fn copy_sign<F: Format>(a: F::Bits, negative: bool) -> F::Bits {
    let magnitude = F::to_word(a) & !F::sign_mask();
    F::from_word(if negative { magnitude | F::sign_mask() } else { magnitude })
}

/// Unpacks without touching the caller's flags, subnormals as they are.
#[inline]
fn class<F: Format>(a: F::Bits, s: &Status) -> Parts<F::Frac> {
    let mut quiet = Status { denormals_are_zero: false, ..*s };
    unpack::<F>(a, &mut quiet)
}
