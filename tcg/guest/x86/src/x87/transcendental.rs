//! Powers, logarithms and trigonometry (SDM volume 1, 8.3.6 and 8.3.9): computed in binary128 and rounded once.

use softfloat::ops::{classify, convert::convert};
use softfloat::{Category, F64, F128, Flags, Precision, Status, X80};

use super::series::{self, PI, Quad};
use super::{Unary, sw};
use crate::state::X87;

/// Trigonometric functions take operands below 2^63.
const EXPONENT_OF_LIMIT: u128 = 0x3fff + 63;

fn narrow(v: u128) -> f64 {
    f64::from_bits(convert::<X80, F64>(v, &mut Status::x87()))
}

fn quad(v: u128) -> Quad {
    Quad(convert::<X80, F128>(v, &mut Status::x87()))
}

fn from_f64(v: f64) -> Quad {
    Quad(convert::<F64, F128>(v.to_bits(), &mut Status::x87()))
}

/// A number of the sign and, if it is zero or infinite, the value of `v`; else 1.
fn kind_of(v: u128, class: Category) -> f64 {
    let size = match class {
        Category::Zero => 0.0,
        Category::Infinite => f64::INFINITY,
        _ => 1.0,
    };
    if v >> 79 & 1 != 0 { -size } else { size }
}

/// The arc tangent where an operand is zero or infinite: a number of quarters of pi.
fn atan2_special(y: f64, x: f64) -> Quad {
    let quarters = (y.atan2(x) / std::f64::consts::FRAC_PI_4).round();
    if quarters == 0.0 { from_f64(quarters) } else { PI.scaled(-2) * from_f64(quarters) }
}

impl X87 {
    /// One of the functions, of ST(0) = `a`.
    pub(super) fn transcendental(&mut self, op: Unary, a: u128) {
        let two = matches!(op, Unary::Yl2x | Unary::Yl2xp1 | Unary::Patan);
        let b = if two {
            let Some(b) = self.st(1) else { return };
            Some(b)
        } else {
            None
        };
        let mut s = self.status();
        let class = |v| classify::category::<X80>(v, &Status::x87());
        let is_nan =
            |v| matches!(class(v), Category::QuietNan | Category::SignalingNan | Category::Unsupported);
        if is_nan(a) || b.is_some_and(is_nan) {
            // The arithmetic says which NaN it is.
            let r = softfloat::ops::add::add::<X80, X80>(a, b.unwrap_or(a), &mut s);
            return self.finish(op, [r, r], s.flags);
        }
        let trigonometric = matches!(op, Unary::Ptan | Unary::Sin | Unary::Cos | Unary::Sincos);
        if trigonometric {
            if class(a) == Category::Infinite {
                return self.finish(op, [super::INDEFINITE; 2], Flags::INVALID);
            }
            self.fsw &= !sw::C2;
            if a >> 64 & 0x7fff >= EXPONENT_OF_LIMIT {
                self.fsw |= sw::C2;
                return;
            }
        }
        // Precision control does not reach these instructions.
        s.precision = Precision::Extended;
        let special = |v| matches!(class(v), Category::Zero | Category::Infinite);
        let exact = special(a) || b.is_some_and(special);
        let (first, second) = if exact { self.of_special(op, a, b) } else { Self::of_numbers(op, a, b) };
        let Some(first) = first else {
            return self.finish(op, [super::INDEFINITE; 2], Flags::INVALID);
        };
        let first = convert::<F128, X80>(first.0, &mut s);
        let second = convert::<F128, X80>(second.0, &mut Status::x87());
        let mut flags = s.flags;
        if op == Unary::Yl2x && class(a) == Category::Zero && class(first) == Category::Infinite {
            let finite = b.is_some_and(|b| class(b) != Category::Infinite);
            flags |= if finite { Flags::DIV_BY_ZERO } else { Flags::NONE };
        } else if !exact && class(first) != Category::Zero {
            flags |= Flags::INEXACT;
        }
        self.finish(op, [first, second], flags);
    }

    /// Results where an operand is zero or infinite; none if the operation is invalid.
    fn of_special(&self, op: Unary, a: u128, b: Option<u128>) -> (Option<Quad>, Quad) {
        let class = |v| classify::category::<X80>(v, &Status::x87());
        // Of a logarithm it matters on which side of 1 the operand lies.
        let finite = !matches!(class(a), Category::Zero | Category::Infinite);
        let x = if finite && op != Unary::Patan { narrow(a) } else { kind_of(a, class(a)) };
        let y = b.map_or(0.0, |b| kind_of(b, class(b)));
        if op == Unary::Patan {
            return (Some(atan2_special(y, x)), Quad::of(0));
        }
        let (first, second) = match op {
            Unary::F2xm1 => ((x * std::f64::consts::LN_2).exp_m1(), 0.0),
            Unary::Yl2x => (y * x.log2(), 0.0),
            Unary::Yl2xp1 => (y * x.ln_1p(), 0.0),
            Unary::Cos => (1.0, 0.0),
            // Of zero: itself, and 1.
            _ => (x, 1.0),
        };
        ((!first.is_nan()).then(|| from_f64(first)), from_f64(second))
    }

    fn of_numbers(op: Unary, a: u128, b: Option<u128>) -> (Option<Quad>, Quad) {
        let zero = Quad::of(0);
        let x = quad(a);
        let y = b.map_or(zero, quad);
        let one = Quad::of(1);
        match op {
            Unary::F2xm1 => (Some(series::exp2_minus_1(x)), zero),
            Unary::Yl2x => ((!x.is_negative()).then(|| y * series::log2(x)), zero),
            Unary::Yl2xp1 => ((!(x + one).is_negative()).then(|| y * series::log2_plus_1(x)), zero),
            Unary::Patan => (Some(series::atan2(y, x)), zero),
            _ => {
                let (sin, cos) = series::sin_cos(a);
                match op {
                    Unary::Sin => (Some(sin), zero),
                    Unary::Cos => (Some(cos), zero),
                    Unary::Sincos => (Some(sin), cos),
                    _ => (Some(sin / cos), one),
                }
            }
        }
    }

    fn finish(&mut self, op: Unary, [first, second]: [u128; 2], flags: Flags) {
        if !self.raised(flags) {
            return;
        }
        match op {
            Unary::Yl2x | Unary::Yl2xp1 | Unary::Patan => {
                self.set_st(1, first);
                self.pop(1);
            }
            Unary::Sincos | Unary::Ptan => {
                self.set_st(0, first);
                self.push(second);
            }
            _ => self.set_st(0, first),
        }
    }
}
