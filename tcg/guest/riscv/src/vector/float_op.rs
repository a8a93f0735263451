//! Scalar floating-point functions on elements of 32 or 64 bits, and the two estimates that only V has.

use softfloat::{Flags, Int, MinMax, Negate, RoundingMode, Status, f32, f64};

/// Calls the same function of the format's module.
macro_rules! by_width {
    ($eew:expr, $f:ident($($arg:expr),*) $(, $extra:expr)*) => {
        if $eew == 2 { u64::from(f32::$f($($arg as u32,)* $($extra),*)) } else { f64::$f($($arg,)* $($extra),*) }
    };
}

/// A function of two elements of `1 << eew` bytes.
pub(super) type Op = fn(u64, u64, i32, &mut Status) -> u64;

/// The binary operations, by `funct6`; the first argument is the element of `vs2`.
pub(super) fn binary(funct6: u32) -> Option<Op> {
    Some(match funct6 {
        0x00 => |a, b, w, s| by_width!(w, add(a, b), s),
        0x02 => |a, b, w, s| by_width!(w, sub(a, b), s),
        0x04 => |a, b, w, s| by_width!(w, min(a, b), MinMax::Number, s),
        0x06 => |a, b, w, s| by_width!(w, max(a, b), MinMax::Number, s),
        0x08 => |a, b, w, _| a & !sign(w) | b & sign(w),
        0x09 => |a, b, w, _| a & !sign(w) | !b & sign(w),
        0x0a => |a, b, w, _| a ^ b & sign(w),
        0x20 => |a, b, w, s| by_width!(w, div(a, b), s),
        0x21 => |a, b, w, s| by_width!(w, div(b, a), s),
        0x24 => |a, b, w, s| by_width!(w, mul(a, b), s),
        0x27 => |a, b, w, s| by_width!(w, sub(b, a), s),
        _ => return None,
    })
}

/// A comparison of two elements.
pub(super) type Test = fn(u64, u64, i32, &mut Status) -> bool;

/// The comparisons, by `funct6`.
pub(super) fn comparison(funct6: u32) -> Option<Test> {
    Some(match funct6 {
        0x18 => equal,
        0x19 => less_or_equal,
        0x1b => less,
        0x1c => |a, b, w, s| !equal(a, b, w, s),
        0x1d => |a, b, w, s| less(b, a, w, s),
        0x1f => |a, b, w, s| less_or_equal(b, a, w, s),
        _ => return None,
    })
}

fn equal(a: u64, b: u64, w: i32, s: &mut Status) -> bool {
    if w == 2 { f32::eq(a as u32, b as u32, s) } else { f64::eq(a, b, s) }
}

fn less(a: u64, b: u64, w: i32, s: &mut Status) -> bool {
    if w == 2 { f32::lt(a as u32, b as u32, s) } else { f64::lt(a, b, s) }
}

fn less_or_equal(a: u64, b: u64, w: i32, s: &mut Status) -> bool {
    if w == 2 { f32::le(a as u32, b as u32, s) } else { f64::le(a, b, s) }
}

/// The sign bit.
pub(super) const fn sign(w: i32) -> u64 {
    1 << ((8 << w) - 1)
}

/// `±(a * b) ± c`
pub(super) fn fma(a: u64, b: u64, c: u64, negate: Negate, w: i32, s: &mut Status) -> u64 {
    by_width!(w, fma_with(a, b, c), negate, s)
}

/// Square root.
pub(super) fn sqrt(a: u64, w: i32, s: &mut Status) -> u64 {
    by_width!(w, sqrt(a), s)
}

/// The ten class bits.
pub(super) fn class(a: u64, w: i32, s: &Status) -> u64 {
    u64::from(if w == 2 { f32::fclass(a as u32, s) } else { f64::fclass(a, s) })
}

/// 32 bits as 64.
pub(super) fn widen(a: u64, s: &mut Status) -> u64 {
    f64::from_f32(a as u32, s)
}

/// 64 bits as 32.
pub(super) fn narrow(a: u64, s: &mut Status) -> u64 {
    f32::from_f64(a, s).into()
}

/// A float of `from` as an integer of `to` (both log2 of bytes).
pub(super) fn to_int(a: u64, from: i32, to: i32, signed: bool, mode: RoundingMode, s: &mut Status) -> u64 {
    fn convert<I: Int>(a: u64, w: i32, mode: RoundingMode, s: &mut Status) -> I {
        if w == 2 { f32::to_int::<I>(a as u32, mode, s) } else { f64::to_int::<I>(a, mode, s) }.nan_max()
    }
    match (to, signed) {
        (1, true) => convert::<i16>(a, from, mode, s) as u64,
        (1, false) => convert::<u16>(a, from, mode, s).into(),
        (2, true) => convert::<i32>(a, from, mode, s) as u64,
        (2, false) => convert::<u32>(a, from, mode, s).into(),
        (_, true) => convert::<i64>(a, from, mode, s) as u64,
        (_, false) => convert::<u64>(a, from, mode, s),
    }
}

/// An integer, extended to 64 bits, as a float of `to`.
pub(super) fn from_int(v: u64, signed: bool, to: i32, s: &mut Status) -> u64 {
    match (to, signed) {
        (2, true) => f32::from_int(v as i64, s).into(),
        (2, false) => f32::from_int(v, s).into(),
        (_, true) => f64::from_int(v as i64, s),
        (_, false) => f64::from_int(v, s),
    }
}

/// Widths of a format's fields: exponent, fraction.
const fn fields(w: i32) -> (u32, u32) {
    if w == 2 { (8, 23) } else { (11, 52) }
}

const NAN_CLASSES: u64 = 3 << 8;
const SNAN: u64 = 1 << 8;

fn quiet_nan(w: i32) -> u64 {
    let (_, fraction) = fields(w);
    infinity(w) | 1 << (fraction - 1)
}

fn infinity(w: i32) -> u64 {
    let (exponent, fraction) = fields(w);
    ((1 << exponent) - 1) << fraction
}

/// Exponent and fraction of a number that is not 0; a subnormal one is normalised, its exponent then 0 or below.
fn normalised(a: u64, w: i32) -> (i64, u64) {
    let (exponent, fraction) = fields(w);
    let mask = (1 << fraction) - 1;
    let (e, f) = ((a >> fraction & ((1 << exponent) - 1)) as i64, a & mask);
    if e != 0 {
        return (e, f);
    }
    let shift = f.leading_zeros() - (63 - fraction);
    (1 - i64::from(shift), f << shift & mask)
}

/// vfrsqrt7: an estimate of `1 / sqrt(a)` with 7 bits (section 13.9).
pub(super) fn rsqrt7(a: u64, w: i32, s: &mut Status) -> u64 {
    let (exponent, fraction) = fields(w);
    match class(a, w, s) {
        c if c & NAN_CLASSES != 0 => {
            if c == SNAN {
                s.raise(Flags::INVALID);
            }
            return quiet_nan(w);
        }
        // Negative numbers.
        1 | 2 | 4 => {
            s.raise(Flags::INVALID);
            return quiet_nan(w);
        }
        8 | 16 => {
            s.raise(Flags::DIV_BY_ZERO);
            return infinity(w) | a & sign(w);
        }
        0x80 => return 0,
        _ => {}
    }
    let bias = (1 << (exponent - 1)) - 1;
    let (e, f) = normalised(a, w);
    // Significand, with 7 bits behind the point and half a unit more: 1 to 2 for an odd biased exponent, else 2 to 4.
    let high = f >> (fraction - 6);
    let scale = if e & 1 != 0 { 1 } else { 2 };
    // 256 / sqrt(m), to nearest; the result's leading one is dropped.
    let estimate = ((1_u64 << 25) / (scale * (129 + 2 * high))).isqrt().wrapping_add(1) >> 1;
    let out = (3 * bias - 1 - e) >> 1;
    (out as u64) << fraction | (estimate & 0x7f) << (fraction - 7)
}

/// vfrec7: an estimate of `1 / a` with 7 bits (section 13.10).
pub(super) fn rec7(a: u64, w: i32, s: &mut Status) -> u64 {
    let (exponent, fraction) = fields(w);
    let negative = a & sign(w);
    match class(a, w, s) {
        c if c & NAN_CLASSES != 0 => {
            if c == SNAN {
                s.raise(Flags::INVALID);
            }
            return quiet_nan(w);
        }
        1 | 0x80 => return negative,
        8 | 16 => {
            s.raise(Flags::DIV_BY_ZERO);
            return infinity(w) | negative;
        }
        _ => {}
    }
    let bias = (1_i64 << (exponent - 1)) - 1;
    let (e, f) = normalised(a, w);
    if e < -1 {
        // The reciprocal is too large.
        s.raise(Flags::OVERFLOW | Flags::INEXACT);
        let to_infinity = match s.rounding {
            RoundingMode::TowardZero | RoundingMode::Odd => false,
            RoundingMode::Down => negative != 0,
            RoundingMode::Up => negative == 0,
            _ => true,
        };
        return negative | (infinity(w) - u64::from(!to_infinity));
    }
    let high = f >> (fraction - 7);
    // 256 / (1 + (high + 1/2) / 128), to nearest; the leading one is dropped.
    let estimate = ((1 << 17) / (257 + 2 * high)).wrapping_add(1) >> 1 & 0x7f;
    let out = 2 * bias - 1 - e;
    let mut significand = estimate << (fraction - 7);
    let mut biased = out;
    if out <= 0 {
        // A subnormal result: the leading one is stored, one or two places down.
        significand = (significand | 1 << fraction) >> (1 - out);
        biased = 0;
    }
    negative | (biased as u64) << fraction | significand
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates() {
        let s = &mut Status::riscv();
        let f = |v: u64| std::primitive::f32::from_bits(v as u32);
        let b = |v: std::primitive::f32| u64::from(v.to_bits());
        assert_eq!(rec7(b(1.0), 2, s) as u32, 0x3f7f_0000);
        assert_eq!(rsqrt7(b(1.0), 2, s) as u32, 0x3f7f_0000);
        for i in 1..2000_u16 {
            let x = std::primitive::f32::from(i) * 0.37;
            assert!((f(rec7(b(x), 2, s)) * x - 1.0).abs() < 1.0 / 128.0, "{x}");
            assert!((f(rsqrt7(b(x), 2, s)) * x.sqrt() - 1.0).abs() < 1.0 / 128.0, "{x}");
        }
        assert_eq!(s.flags, Flags::NONE);
    }
}
