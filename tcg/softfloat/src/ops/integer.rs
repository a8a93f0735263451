//! Conversion to and from integers. IEEE 754-2019 sections 5.4.1 and 5.8.
//!
//! What an out-of-range conversion delivers is each guest's own affair, so [`to_int`] says what happened
//! and [`ToInt`] has the guests' rules as methods. Invalid is raised either way, inexact then is not.

use crate::format::Format;
use crate::nan;
use crate::ops::round_int::to_integer;
use crate::parts::{Class, unpack};
use crate::round::round_pack;
use crate::status::{Flags, RoundingMode, Status};
use crate::word::Frac;

/// An integer type numbers convert to and from.
pub trait Int: Copy + Eq + core::fmt::Debug + sealed::Sealed {
    /// Smallest value.
    const MIN: Self;
    /// Largest value.
    const MAX: Self;
    /// 0.
    const ZERO: Self;
    /// Whether negative, and the magnitude.
    fn split(self) -> (bool, u128);
    /// `±magnitude` if the type holds it.
    fn join(negative: bool, magnitude: u128) -> Option<Self>;
    /// `±magnitude` modulo the type's width.
    fn wrap(negative: bool, magnitude: u128) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! ints {
    ($($t:ty, $signed:literal);*) => {$(
        impl sealed::Sealed for $t {}
        impl Int for $t {
            const MIN: $t = <$t>::MIN;
            const MAX: $t = <$t>::MAX;
            const ZERO: $t = 0;
            #[inline]
            fn split(self) -> (bool, u128) {
                // Sign extension makes the negation right for every signed width.
                let v = self as u128;
                let negative = $signed && (v as i128) < 0;
                (negative, if negative { v.wrapping_neg() } else { v })
            }
            #[inline]
            fn join(negative: bool, magnitude: u128) -> Option<$t> {
                let v = if negative { magnitude.wrapping_neg() } else { magnitude } as $t;
                let limit = if negative { (<$t>::MIN as u128).wrapping_neg() } else { <$t>::MAX as u128 };
                (magnitude <= limit).then_some(v)
            }
            #[inline]
            fn wrap(negative: bool, magnitude: u128) -> $t {
                (if negative { magnitude.wrapping_neg() } else { magnitude }) as $t
            }
        }
    )*};
}

ints! { i8, true; u8, false; i16, true; u16, false; i32, true; u32, false; i64, true; u64, false; i128, true; u128, false }

/// Outcome of a conversion to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToInt<I> {
    /// In range.
    Value(I),
    /// Below the smallest integer, or minus infinity.
    Below,
    /// Above the largest integer, or plus infinity.
    Above,
    /// Not a number.
    Nan,
}

impl<I: Int> ToInt<I> {
    /// Saturate; a NaN gives the largest integer (RISC-V).
    #[inline]
    pub fn nan_max(self) -> I {
        self.saturate(I::MAX)
    }

    /// Saturate; a NaN gives zero (Arm, MIPS 2008, LoongArch).
    #[inline]
    pub fn nan_zero(self) -> I {
        self.saturate(I::ZERO)
    }

    /// Saturate; a NaN gives the smallest integer (PowerPC, s390x).
    #[inline]
    pub fn nan_min(self) -> I {
        self.saturate(I::MIN)
    }

    /// Whatever does not fit gives `indefinite`: x86's 0x80..0 for signed and all ones for unsigned
    /// results, legacy MIPS's 0x7f..f.
    #[inline]
    pub fn or(self, indefinite: I) -> I {
        match self {
            ToInt::Value(v) => v,
            _ => indefinite,
        }
    }

    #[inline]
    fn saturate(self, nan: I) -> I {
        match self {
            ToInt::Value(v) => v,
            ToInt::Below => I::MIN,
            ToInt::Above => I::MAX,
            ToInt::Nan => nan,
        }
    }
}

/// `a * 2^scale` rounded to an integer by `rounding`; raises invalid if it does not fit, else inexact if it
/// was not one.
#[inline]
pub fn to_int<F: Format, I: Int>(a: F::Bits, scale: i32, rounding: RoundingMode, s: &mut Status) -> ToInt<I> {
    let outside = match magnitude::<F>(a, scale, rounding, s) {
        Ok((negative, magnitude, loss)) => match I::join(negative, magnitude) {
            Some(v) => {
                s.raise(loss);
                return ToInt::Value(v);
            }
            None if negative => ToInt::Below,
            None => ToInt::Above,
        },
        Err(Outside::Nan) => ToInt::Nan,
        Err(Outside::Far { negative: true, .. }) => ToInt::Below,
        Err(Outside::Far { negative: false, .. }) => ToInt::Above,
    };
    s.raise(Flags::INVALID | Flags::INVALID_CONVERT);
    outside
}

/// `a` rounded to an integer, modulo the width of `I`; NaNs and infinities give zero (Arm's FJCVTZS, Alpha).
/// Raises invalid if the integer does not fit, else inexact if `a` was not one.
pub fn to_int_modulo<F: Format, I: Int>(a: F::Bits, rounding: RoundingMode, s: &mut Status) -> I {
    let v = match magnitude::<F>(a, 0, rounding, s) {
        Ok((negative, magnitude, loss)) => {
            if let Some(v) = I::join(negative, magnitude) {
                s.raise(loss);
                return v;
            }
            I::wrap(negative, magnitude)
        }
        Err(Outside::Far { negative, frac, exp }) if exp < 255 => {
            // 2^128 and above: only the bits below 2^128 matter.
            let low = frac.checked_shl((exp - 127) as u32).unwrap_or(0);
            I::wrap(negative, low)
        }
        Err(_) => I::ZERO,
    };
    s.raise(Flags::INVALID | Flags::INVALID_CONVERT);
    v
}

/// Why [`magnitude`] has no 128-bit integer to give.
enum Outside {
    Nan,
    /// 2^128 or more in magnitude; `exp` is `i32::MAX` for an infinity.
    Far {
        negative: bool,
        frac: u128,
        exp: i32,
    },
}

/// The rounded integer as sign and magnitude, and the flags for what rounding lost.
#[inline]
fn magnitude<F: Format>(
    a: F::Bits,
    scale: i32,
    rounding: RoundingMode,
    s: &mut Status,
) -> Result<(bool, u128, Flags), Outside> {
    let p = unpack::<F>(a, s);
    if p.class.meets(Class::NAN | Class::INF | Class::ZERO) {
        if p.class.meets(Class::NAN) {
            nan::raise_signaling(p.class, s);
            return Err(Outside::Nan);
        }
        if p.class == Class::ZERO {
            return Ok((false, 0, Flags::NONE));
        }
        return Err(Outside::Far { negative: p.sign, frac: 0, exp: i32::MAX });
    }
    // No processor reports a subnormal operand here.
    let exp = p.exp.saturating_add(scale);
    let top = F::Frac::BITS as i32 - 1;
    if exp <= top {
        let (int, loss) = to_integer(p.frac, exp, p.sign, rounding);
        return Ok((p.sign, int.to_u128(), loss));
    }
    if exp <= 127 {
        return Ok((p.sign, p.frac.to_top() >> (127 - exp) as u32, Flags::NONE));
    }
    Err(Outside::Far { negative: p.sign, frac: p.frac.to_top(), exp })
}

/// `v * 2^scale`, rounded.
#[inline]
pub fn from_int<I: Int, F: Format>(v: I, scale: i32, s: &mut Status) -> F::Bits {
    let (sign, magnitude) = v.split();
    if magnitude == 0 {
        return F::zero(false);
    }
    let lead = magnitude.leading_zeros();
    let exp = (127 - lead as i32).saturating_add(scale);
    round_pack::<F>(sign, exp, F::Frac::from_top_jam(magnitude << lead), s)
}
