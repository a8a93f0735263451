//! Fraction words: `u64` carries the formats up to binary64, `u128` the 80-bit and 128-bit ones. In
//! both a normalised fraction has its integer bit at the top, so the low bits are guard bits and the
//! lowest is sticky ("jammed").

use crate::root::{root64, root128};
use core::ops::{BitAnd, BitOr, BitXor, Not, Shl, Shr};

/// A fraction word.
pub trait Frac:
    Copy
    + Ord
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
    + Shl<u32, Output = Self>
    + Shr<u32, Output = Self>
    + sealed::Sealed
{
    /// Double-width companion for exact products.
    type Wide: Wide<Self>;
    /// Width in bits.
    const BITS: u32;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The integer bit of a normalised fraction.
    const TOP: Self;

    /// Sum modulo the width, and the carry.
    fn overflowing_add(self, rhs: Self) -> (Self, bool);
    /// Difference modulo the width.
    fn wrapping_sub(self, rhs: Self) -> Self;
    /// Number of zero bits above the highest set bit.
    fn leading_zeros(self) -> u32;
    /// The exact product.
    fn full_mul(self, rhs: Self) -> Self::Wide;
    /// `self << (BITS - 1)` (or `<< BITS` if `extra`) divided by `rhs`, the remainder jammed. Both are
    /// normalised and the quotient fits, i.e. `extra` is set exactly if `self < rhs`. `precision` is the
    /// number of significant bits the operands have and the result needs.
    fn div_jam(self, rhs: Self, extra: bool, precision: u32) -> Self;
    /// Square root of `self << (BITS - 1)` (or `<< BITS` if `odd`), the remainder jammed.
    fn sqrt_jam(self, odd: bool, precision: u32) -> Self;
    /// Quotient (modulo the width) and remainder; `rhs` is not zero.
    fn div_rem(self, rhs: Self) -> (Self, Self);
    /// As the top of a 128-bit word.
    fn to_top(self) -> u128;
    /// From the top of a 128-bit word; lost bits are dropped.
    fn from_top(top: u128) -> Self;
    /// As an integer.
    fn to_u128(self) -> u128;
    /// The low bits of an integer.
    fn truncate(v: u128) -> Self;

    /// Shift right by any amount; a set bit shifted out sets the lowest bit.
    #[inline]
    fn shr_jam(self, n: u32) -> Self {
        if n == 0 {
            self
        } else if n < Self::BITS {
            (self >> n).jam(self << (Self::BITS - n) != Self::ZERO)
        } else {
            Self::ZERO.jam(self != Self::ZERO)
        }
    }

    /// Sets the lowest bit if `sticky`.
    #[inline]
    fn jam(self, sticky: bool) -> Self {
        if sticky { self | Self::ONE } else { self }
    }

    /// [`Frac::from_top`] with the lost bits jammed.
    #[inline]
    fn from_top_jam(top: u128) -> Self {
        let v = Self::from_top(top);
        v.jam(v.to_top() != top)
    }
}

/// A product of two fractions, or a sum of such.
pub trait Wide<T>: Copy + Ord {
    /// `hi` above a zero low half.
    fn from_high(hi: T) -> Self;
    /// The high half, with a non-zero low half jammed in.
    fn high_jam(self) -> T;
    /// Sum modulo the width, and the carry.
    fn carrying_add(self, rhs: Self) -> (Self, bool);
    /// Difference modulo the width.
    fn borrowing_sub(self, rhs: Self) -> Self;
    /// Shift right by any amount with jamming.
    fn shift_right_jam(self, n: u32) -> Self;
    /// Shift left by less than the width.
    fn shift_left(self, n: u32) -> Self;
    /// Half of `self + 2^width`, jammed: renormalises a sum that carried.
    fn carry_in(self) -> Self;
    /// Number of zero bits above the highest set bit.
    fn lead(self) -> u32;
    /// Whether the word is zero.
    fn is_zero(self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u64 {}
    impl Sealed for u128 {}
}

impl Frac for u64 {
    type Wide = u128;
    const BITS: u32 = 64;
    const ZERO: u64 = 0;
    const ONE: u64 = 1;
    const TOP: u64 = 1 << 63;

    #[inline]
    fn overflowing_add(self, rhs: u64) -> (u64, bool) {
        u64::overflowing_add(self, rhs)
    }
    #[inline]
    fn wrapping_sub(self, rhs: u64) -> u64 {
        u64::wrapping_sub(self, rhs)
    }
    #[inline]
    fn leading_zeros(self) -> u32 {
        u64::leading_zeros(self)
    }
    #[inline]
    fn full_mul(self, rhs: u64) -> u128 {
        u128::from(self) * u128::from(rhs)
    }
    #[inline]
    fn div_jam(self, rhs: u64, extra: bool, precision: u32) -> u64 {
        if precision <= 30 {
            // The divisor's low half is empty: a 64 by 32-bit division has bits to spare.
            let n = if extra { self } else { self >> 1 };
            let d = rhs >> 32;
            let q = n / d;
            return (q << 32).jam(n != q * d);
        }
        let n = u128::from(self) << if extra { 64 } else { 63 };
        let q = n / u128::from(rhs);
        (q as u64).jam(n != q * u128::from(rhs))
    }
    #[inline]
    fn sqrt_jam(self, odd: bool, precision: u32) -> u64 {
        if precision <= 30 {
            let n = if odd { self } else { self >> 1 };
            let (r, rest) = root64(n);
            return (r << 32).jam(rest != 0);
        }
        let n = u128::from(self) << if odd { 64 } else { 63 };
        let (r, rest) = root128(n);
        r.jam(rest != 0)
    }
    #[inline]
    fn div_rem(self, rhs: u64) -> (u64, u64) {
        (self.checked_div(rhs).unwrap_or(0), self.checked_rem(rhs).unwrap_or(0))
    }
    #[inline]
    fn to_top(self) -> u128 {
        u128::from(self) << 64
    }
    #[inline]
    fn from_top(top: u128) -> u64 {
        (top >> 64) as u64
    }
    #[inline]
    fn to_u128(self) -> u128 {
        u128::from(self)
    }
    #[inline]
    fn truncate(v: u128) -> u64 {
        v as u64
    }
}

impl Wide<u64> for u128 {
    #[inline]
    fn from_high(hi: u64) -> u128 {
        u128::from(hi) << 64
    }
    #[inline]
    fn high_jam(self) -> u64 {
        u64::from_top_jam(self)
    }
    #[inline]
    fn carrying_add(self, rhs: u128) -> (u128, bool) {
        u128::overflowing_add(self, rhs)
    }
    #[inline]
    fn borrowing_sub(self, rhs: u128) -> u128 {
        u128::wrapping_sub(self, rhs)
    }
    #[inline]
    fn shift_right_jam(self, n: u32) -> u128 {
        self.shr_jam(n)
    }
    #[inline]
    fn shift_left(self, n: u32) -> u128 {
        self << n
    }
    #[inline]
    fn carry_in(self) -> u128 {
        self.shr_jam(1) | (1 << 127)
    }
    #[inline]
    fn lead(self) -> u32 {
        u128::leading_zeros(self)
    }
    #[inline]
    fn is_zero(self) -> bool {
        self == 0
    }
}

impl Frac for u128 {
    type Wide = U256;
    const BITS: u32 = 128;
    const ZERO: u128 = 0;
    const ONE: u128 = 1;
    const TOP: u128 = 1 << 127;

    #[inline]
    fn overflowing_add(self, rhs: u128) -> (u128, bool) {
        u128::overflowing_add(self, rhs)
    }
    #[inline]
    fn wrapping_sub(self, rhs: u128) -> u128 {
        u128::wrapping_sub(self, rhs)
    }
    #[inline]
    fn leading_zeros(self) -> u32 {
        u128::leading_zeros(self)
    }
    #[inline]
    fn full_mul(self, rhs: u128) -> U256 {
        const LOW: u128 = u64::MAX as u128;
        let (a1, a0) = (self >> 64, self & LOW);
        let (b1, b0) = (rhs >> 64, rhs & LOW);
        let low = a0 * b0;
        let mid = a1 * b0 + (low >> 64);
        let mid2 = a0 * b1 + (mid & LOW);
        U256 { hi: a1 * b1 + (mid >> 64) + (mid2 >> 64), lo: (mid2 << 64) | (low & LOW) }
    }
    fn div_jam(self, rhs: u128, extra: bool, _precision: u32) -> u128 {
        // Long division in two 64-bit digits; `rhs` is normalised, so each estimate is at most 2 too big.
        let (hi, lo) = if extra { (self, 0) } else { (self >> 1, self << 127) };
        let (q1, r) = div_digit(hi, (lo >> 64) as u64, rhs);
        let (q0, r) = div_digit(r, lo as u64, rhs);
        ((u128::from(q1) << 64) | u128::from(q0)).jam(r != 0)
    }
    fn sqrt_jam(self, odd: bool, _precision: u32) -> u128 {
        // Karatsuba's square root (Zimmermann, INRIA RR-3805): the root of the high half, then one division.
        let (hi, lo) = if odd { (self, 0) } else { (self >> 1, self << 127) };
        let (s1, r1) = root128(hi); // r1 is at most 2 * s1, so 65 bits
        let s1 = u128::from(s1);
        let a1 = lo >> 64;
        let half = (r1 << 63) | (a1 >> 1);
        let q = (half / s1).min(u128::from(u64::MAX));
        let root = (s1 << 64) + q;
        let n = U256 { hi, lo };
        let square = root.full_mul(root);
        if square > n {
            // One too big, never more; the remainder decides whether the corrected root is exact.
            let root = root - 1;
            return root.jam(root.full_mul(root) != n);
        }
        root.jam(square != n)
    }
    #[inline]
    fn div_rem(self, rhs: u128) -> (u128, u128) {
        (self.checked_div(rhs).unwrap_or(0), self.checked_rem(rhs).unwrap_or(0))
    }
    #[inline]
    fn to_top(self) -> u128 {
        self
    }
    #[inline]
    fn from_top(top: u128) -> u128 {
        top
    }
    #[inline]
    fn to_u128(self) -> u128 {
        self
    }
    #[inline]
    fn truncate(v: u128) -> u128 {
        v
    }
}

/// One 64-bit digit of `(r : digit) / d`, with the remainder. `d` has its top bit set and `r < d`.
fn div_digit(r: u128, digit: u64, d: u128) -> (u64, u128) {
    let d1 = d >> 64;
    let d0 = d & u128::from(u64::MAX);
    let mut q = r / d1;
    let mut rest = r % d1;
    // q * d0 must not exceed (rest : digit); while rest fits 64 bits the comparison is meaningful.
    while q >> 64 != 0 || q * d0 > ((rest << 64) | u128::from(digit)) {
        q -= 1;
        rest += d1;
        if rest >> 64 != 0 {
            break;
        }
    }
    let n = (r << 64) | u128::from(digit);
    (q as u64, n.wrapping_sub(q.wrapping_mul(d)))
}

/// 256 bits: the product of two 128-bit fractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct U256 {
    hi: u128,
    lo: u128,
}

impl Wide<u128> for U256 {
    #[inline]
    fn from_high(hi: u128) -> U256 {
        U256 { hi, lo: 0 }
    }
    #[inline]
    fn high_jam(self) -> u128 {
        self.hi.jam(self.lo != 0)
    }
    #[inline]
    fn carrying_add(self, rhs: U256) -> (U256, bool) {
        let (lo, c) = self.lo.overflowing_add(rhs.lo);
        let (hi, c1) = self.hi.overflowing_add(rhs.hi);
        let (hi, c2) = hi.overflowing_add(u128::from(c));
        (U256 { hi, lo }, c1 | c2)
    }
    #[inline]
    fn borrowing_sub(self, rhs: U256) -> U256 {
        let (lo, b) = self.lo.overflowing_sub(rhs.lo);
        U256 { hi: self.hi.wrapping_sub(rhs.hi).wrapping_sub(u128::from(b)), lo }
    }
    fn shift_right_jam(self, n: u32) -> U256 {
        match n {
            0 => self,
            1..=127 => {
                let lo = (self.lo >> n) | (self.hi << (128 - n));
                U256 { hi: self.hi >> n, lo: lo.jam(self.lo << (128 - n) != 0) }
            }
            128..=255 => U256 { hi: 0, lo: self.hi.shr_jam(n - 128).jam(self.lo != 0) },
            _ => U256 { hi: 0, lo: u128::from(self.hi | self.lo != 0) },
        }
    }
    fn shift_left(self, n: u32) -> U256 {
        match n {
            0 => self,
            1..=127 => U256 { hi: (self.hi << n) | (self.lo >> (128 - n)), lo: self.lo << n },
            _ => U256 { hi: self.lo << (n & 127), lo: 0 },
        }
    }
    #[inline]
    fn carry_in(self) -> U256 {
        let v = self.shift_right_jam(1);
        U256 { hi: v.hi | (1 << 127), lo: v.lo }
    }
    #[inline]
    fn lead(self) -> u32 {
        if self.hi != 0 { self.hi.leading_zeros() } else { 128 + self.lo.leading_zeros() }
    }
    #[inline]
    fn is_zero(self) -> bool {
        self.hi | self.lo == 0
    }
}
