//! The interchange formats as types. A [`Format`] is widths and nothing else; the arithmetic is
//! written once over them.
//!
//! IEEE 754-2019 table 3.5; Intel SDM volume 1 section 4.2.2 for the 80-bit one, whose integer bit is stored.

use crate::word::Frac;

/// A binary floating-point format.
pub trait Format: sealed::Sealed {
    /// Bit pattern as the guest stores it.
    type Bits: Copy + Eq + core::fmt::Debug;
    /// Word its fractions are computed in; any bit pattern fits it.
    type Frac: Frac;
    /// Width of the exponent field.
    const EXP_BITS: u32;
    /// Width of the field below the exponent.
    const MANT_BITS: u32;
    /// Whether the integer bit is stored (the top bit of that field).
    const EXPLICIT: bool;

    /// Significant bits.
    const PRECISION: u32 = if Self::EXPLICIT { Self::MANT_BITS } else { Self::MANT_BITS + 1 };
    /// Guard bits below the significand of a normalised fraction.
    const SHIFT: u32 = <Self::Frac as Frac>::BITS - Self::PRECISION;
    /// Exponent field of infinities and NaNs.
    const EXP_MAX: i32 = (1 << Self::EXP_BITS) - 1;
    /// Exponent bias.
    const BIAS: i32 = Self::EXP_MAX >> 1;

    /// The pattern in a fraction word.
    fn to_word(bits: Self::Bits) -> Self::Frac;
    /// The low bits of a fraction word as a pattern.
    fn from_word(word: Self::Frac) -> Self::Bits;

    /// Puts a number together; `significand` has `PRECISION` bits, the integer bit included.
    #[inline]
    fn assemble(sign: bool, exp: i32, significand: Self::Frac) -> Self::Bits {
        let mant =
            if Self::EXPLICIT { significand } else { significand & !(!Self::Frac::ZERO << Self::MANT_BITS) };
        let head = ((exp as u32) | (u32::from(sign) << Self::EXP_BITS)) as u128;
        Self::from_word((Self::Frac::truncate(head) << Self::MANT_BITS) | mant)
    }

    /// Zero of the given sign.
    #[inline]
    fn zero(sign: bool) -> Self::Bits {
        Self::assemble(sign, 0, Self::Frac::ZERO)
    }

    /// Infinity of the given sign.
    #[inline]
    fn infinity(sign: bool) -> Self::Bits {
        Self::assemble(sign, Self::EXP_MAX, Self::Frac::TOP >> Self::SHIFT)
    }

    /// The sign bit alone, as a pattern.
    #[inline]
    fn sign_mask() -> Self::Frac {
        Self::Frac::ONE << (Self::EXP_BITS + Self::MANT_BITS)
    }
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident: $bits:ty as $frac:ty, exp $e:literal, mant $m:literal, explicit $x:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Format for $name {
            type Bits = $bits;
            type Frac = $frac;
            const EXP_BITS: u32 = $e;
            const MANT_BITS: u32 = $m;
            const EXPLICIT: bool = $x;
            #[inline]
            fn to_word(bits: $bits) -> $frac {
                bits as $frac
            }
            #[inline]
            fn from_word(word: $frac) -> $bits {
                word as $bits
            }
        }
    )*};
}

formats! {
    /// binary16.
    F16: u16 as u64, exp 5, mant 10, explicit false;
    /// bfloat16: the top half of binary32.
    Bf16: u16 as u64, exp 8, mant 7, explicit false;
    /// binary32.
    F32: u32 as u64, exp 8, mant 23, explicit false;
    /// binary64.
    F64: u64 as u64, exp 11, mant 52, explicit false;
    /// x87 double extended, in the low 80 bits.
    X80: u128 as u128, exp 15, mant 64, explicit true;
    /// binary128.
    F128: u128 as u128, exp 15, mant 112, explicit false;
}
