//! Powers, logarithms and trigonometry (SDM volume 1, 8.3.6 and 8.3.9), in binary64.

use softfloat::ops::{classify, convert::convert};
use softfloat::{Category, F64, Flags, Status, X80};

use super::{Unary, sw};
use crate::state::X87;

/// Trigonometric functions take operands below 2^63.
const EXPONENT_OF_LIMIT: u128 = 0x3fff + 63;

fn narrow(v: u128) -> f64 {
    f64::from_bits(convert::<X80, F64>(v, &mut Status::x87()))
}

fn widen(v: f64) -> u128 {
    convert::<F64, X80>(v.to_bits(), &mut Status::x87())
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
        let (x, y) = (narrow(a), b.map_or(0.0, narrow));
        let (first, second) = match op {
            Unary::F2xm1 => ((x * std::f64::consts::LN_2).exp_m1(), 0.0),
            Unary::Yl2x => (y * x.log2(), 0.0),
            Unary::Yl2xp1 => (y * (x.ln_1p() / std::f64::consts::LN_2), 0.0),
            Unary::Patan => (y.atan2(x), 0.0),
            Unary::Sin => (x.sin(), 0.0),
            Unary::Cos => (x.cos(), 0.0),
            Unary::Sincos => (x.sin(), x.cos()),
            _ => (x.tan(), 1.0),
        };
        let mut flags = Flags::NONE;
        if op == Unary::Yl2x && x == 0.0 && y != 0.0 && y.is_finite() {
            flags |= Flags::DIV_BY_ZERO;
        } else if first.is_nan() {
            return self.finish(op, [super::INDEFINITE; 2], Flags::INVALID);
        } else if x != 0.0 && first.is_finite() {
            flags |= Flags::INEXACT;
        }
        self.finish(op, [widen(first), widen(second)], flags);
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
