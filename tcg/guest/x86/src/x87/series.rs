//! Elementary functions in binary128, from their power series: more than the 64 bits x87 shows, so that one rounding at the
//! end is nearly always the right one.
//!
//! Trigonometric arguments are reduced by the 66 bits of pi that the processor has (SDM volume 1, 8.3.8).

use softfloat::ops::{add, compare, div, integer::from_int, mul, scale::scalbn, sqrt};
use softfloat::{F128, Relation, RoundingMode, Status};

const LN_2: Quad = Quad(0x3ffe_62e4_2fef_a39e_f357_93c7_6730_07e6);
const LOG2_E: Quad = Quad(0x3fff_7154_7652_b82f_e177_7d0f_fda0_d23a);
pub(super) const PI: Quad = Quad(0x4000_921f_b544_42d1_8469_898c_c517_01b8);
/// Pi with 66 bits, times 2^66.
const PI_66: u128 = 0x000c_90fd_aa22_168c_234c;

/// A binary128 number, computed with to the nearest; its exceptions are nobody's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quad(pub(super) u128);

fn status() -> Status {
    let mut s = Status::x87();
    s.rounding = RoundingMode::NearestEven;
    s
}

macro_rules! operator {
    ($trait:ident $name:ident $function:path) => {
        impl std::ops::$trait for Quad {
            type Output = Self;

            fn $name(self, o: Self) -> Self {
                Self($function(self.0, o.0, &mut status()))
            }
        }
    };
}
operator!(Add add add::add::<F128, F128>);
operator!(Sub sub add::sub::<F128, F128>);
operator!(Mul mul mul::mul::<F128, F128>);
operator!(Div div div::div::<F128, F128>);

impl Quad {
    pub(super) fn of(v: i64) -> Self {
        Self(from_int::<i64, F128>(v, 0, &mut status()))
    }

    pub(super) fn sqrt(self) -> Self {
        Self(sqrt::sqrt::<F128, F128>(self.0, &mut status()))
    }

    pub(super) fn scaled(self, n: i32) -> Self {
        Self(scalbn::<F128>(self.0, n, &mut status()))
    }

    pub(super) const fn is_negative(self) -> bool {
        self.0 >> 127 != 0
    }

    pub(super) const fn abs(self) -> Self {
        Self(self.0 << 1 >> 1)
    }

    pub(super) const fn negated(self) -> Self {
        Self(self.0 ^ 1 << 127)
    }

    pub(super) fn less(self, o: Self) -> bool {
        compare::compare::<F128>(self.0, o.0, false, &mut status()) == Relation::Less
    }

    pub(super) const fn is_zero(self) -> bool {
        self.0 << 1 == 0
    }

    /// Unbiased exponent.
    const fn exponent(self) -> i32 {
        (self.0 >> 112 & 0x7fff) as i32 - 0x3fff
    }

    /// True if adding it to `sum` changes nothing any more.
    const fn negligible(self, sum: Self) -> bool {
        self.is_zero() || self.exponent() < sum.exponent() - 120
    }
}

/// Sum of `first`, `first * x / d(1)`, that `* x / d(2)` and so on, until terms are negligible.
fn series(first: Quad, x: Quad, d: impl Fn(i64) -> i64) -> Quad {
    let (mut term, mut sum) = (first, first);
    for n in 1..200 {
        term = term * x / Quad::of(d(n));
        if term.negligible(sum) {
            break;
        }
        sum = sum + term;
    }
    sum
}

/// Sum of `first * x^n / (2n + 1)`.
fn odd_series(first: Quad, x: Quad) -> Quad {
    let (mut power, mut sum) = (first, first);
    for n in 1..200 {
        power = power * x;
        let term = power / Quad::of(2 * n + 1);
        if term.negligible(sum) {
            break;
        }
        sum = sum + term;
    }
    sum
}

/// 2^x - 1 for x from -1 to 1.
pub(super) fn exp2_minus_1(x: Quad) -> Quad {
    let y = x * LN_2;
    series(y, y, |n| n + 1)
}

/// log2(m) of s = (m - 1) / (m + 1).
fn log2_of_ratio(s: Quad) -> Quad {
    odd_series(s, s * s).scaled(1) * LOG2_E
}

/// log2(x) for x above zero.
pub(super) fn log2(x: Quad) -> Quad {
    let one = Quad::of(1);
    // x = m * 2^k with m about 1.
    let mut k = x.exponent();
    let mut m = x.scaled(-k);
    if (m * m).less(Quad::of(2)) {
    } else {
        k += 1;
        m = m.scaled(-1);
    }
    log2_of_ratio((m - one) / (m + one)) + Quad::of(k.into())
}

/// log2(1 + x).
pub(super) fn log2_plus_1(x: Quad) -> Quad {
    if x.abs().less(Quad::of(1).scaled(-1)) {
        return log2_of_ratio(x / (Quad::of(2) + x));
    }
    log2(x + Quad::of(1))
}

/// The arc tangent of y / x, both finite and not zero.
pub(super) fn atan2(y: Quad, x: Quad) -> Quad {
    let (a, b) = (y.abs(), x.abs());
    let steep = b.less(a);
    let t = if steep { b / a } else { a / b };
    let one = Quad::of(1);
    // Half the angle, three times: at most an eighth of pi / 4.
    let half = |t: Quad| t / (one + (one + t * t).sqrt());
    let small = if t.exponent() < -40 { t.scaled(-3) } else { half(half(half(t))) };
    let mut r = odd_series(small, (small * small).negated()).scaled(3);
    if steep {
        r = PI.scaled(-1) - r;
    }
    if x.is_negative() {
        r = PI - r;
    }
    if y.is_negative() { r.negated() } else { r }
}

/// A significand times 2^`exponent` (and a sign) less multiples of pi / 2: the rest, and the number of multiples modulo 4.
fn reduced(significand: u64, exponent: i32, negative: bool) -> (Quad, u32) {
    // Half of pi times 2^67 is a whole number.
    let shift = exponent + 67;
    let plain = Quad(from_int::<i64, F128>((significand >> 1) as i64, 0, &mut status())).scaled(1)
        + Quad::of((significand & 1) as i64);
    let plain = plain.scaled(exponent);
    let (mut r, mut quotient) = (u128::from(significand), 0u32);
    if shift <= 0 || plain.less(PI.scaled(-2)) {
        return (if negative { plain.negated() } else { plain }, 0);
    }
    quotient = quotient.wrapping_add((r / PI_66) as u32);
    r %= PI_66;
    for _ in 0..shift {
        r <<= 1;
        quotient = quotient.wrapping_shl(1);
        if r >= PI_66 {
            r -= PI_66;
            quotient = quotient.wrapping_add(1);
        }
    }
    let over = r > PI_66 / 2;
    let distance = if over { PI_66 - r } else { r };
    quotient = quotient.wrapping_add(over.into());
    let high = Quad::of((distance >> 32) as i64).scaled(32);
    let rest = (high + Quad::of((distance & 0xffff_ffff) as i64)).scaled(-67);
    let rest = if over != negative { rest.negated() } else { rest };
    (rest, if negative { quotient.wrapping_neg() } else { quotient } & 3)
}

/// Sine and cosine of a number of the x87 format below 2^63.
pub(super) fn sin_cos(v: u128) -> (Quad, Quad) {
    let (significand, exponent) = (v as u64, ((v >> 64 & 0x7fff) as i32).max(1) - 0x3fff - 63);
    let (r, quadrant) = reduced(significand, exponent, v >> 79 & 1 != 0);
    let square = (r * r).negated();
    let sin = series(r, square, |n| 2 * n * (2 * n + 1));
    let cos = series(Quad::of(1), square, |n| (2 * n - 1) * 2 * n);
    match quadrant {
        0 => (sin, cos),
        1 => (cos, sin.negated()),
        2 => (sin.negated(), cos.negated()),
        _ => (cos.negated(), sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(q: Quad, v: f64) {
        let f = f64::from_bits(softfloat::ops::convert::convert::<F128, softfloat::F64>(q.0, &mut status()));
        assert!((f - v).abs() <= v.abs() * 1e-15, "{f} is not {v}");
    }

    fn quad(v: f64) -> Quad {
        Quad(softfloat::ops::convert::convert::<softfloat::F64, F128>(v.to_bits(), &mut status()))
    }

    #[test]
    fn functions_agree_with_binary64() {
        for v in [0.3, -0.7, 1e-20, 0.999] {
            close(exp2_minus_1(quad(v)), (v * std::f64::consts::LN_2).exp_m1());
            close(log2_plus_1(quad(v)), v.ln_1p() / std::f64::consts::LN_2);
            for x in [0.5, -3.0, 1e10] {
                close(atan2(quad(v), quad(x)), v.atan2(x));
            }
        }
        for v in [1.0f64, 3.7, 1e300, 1.5e-200] {
            close(log2(quad(v)) + Quad::of(1), v.log2() + 1.0);
        }
        for v in [0.5f64, -1.0, 2.0, 4.0, -100.0] {
            let x80 = softfloat::ops::convert::convert::<softfloat::F64, softfloat::X80>(
                v.to_bits(),
                &mut status(),
            );
            let (s, c) = sin_cos(x80);
            close(s, v.sin());
            close(c, v.cos());
        }
    }
}
