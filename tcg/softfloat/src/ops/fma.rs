//! Fused multiply-add: one rounding for product and sum. IEEE 754-2019 sections 5.4.1 and 7.2.

use crate::format::Format;
use crate::nan;
use crate::ops::add::zero_sum;
use crate::parts::{Class, Parts, note_denormals, unpack};
use crate::round::round_pack;
use crate::status::{Flags, Status};
use crate::word::{Frac, Wide};

/// Which signs a fused multiply-add flips. NaN operands keep theirs: a guest that negates its operands
/// before looking at them (Arm) flips the sign bits itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Negate {
    /// Flip the sign of the exact product.
    pub product: bool,
    /// Flip the sign of the addend.
    pub addend: bool,
    /// Flip the sign of the rounded result (PowerPC's fnmadd).
    pub result: bool,
}

impl Negate {
    /// `a * b + c`
    pub const NONE: Negate = Negate { product: false, addend: false, result: false };
    /// `a * b - c`
    pub const ADDEND: Negate = Negate { product: false, addend: true, result: false };
    /// `-(a * b) + c`
    pub const PRODUCT: Negate = Negate { product: true, addend: false, result: false };
    /// `-(a * b) - c`
    pub const BOTH: Negate = Negate { product: true, addend: true, result: false };
}

/// `a * b + c` with the signs `negate` flips, rounded once to `G`.
#[inline]
pub fn fma<F: Format, G: Format<Frac = F::Frac>>(
    a: F::Bits,
    b: F::Bits,
    c: F::Bits,
    negate: Negate,
    s: &mut Status,
) -> G::Bits {
    let a = unpack::<F>(a, s);
    let b = unpack::<F>(b, s);
    let mut c = unpack::<F>(c, s);
    let any = a.class | b.class | c.class;
    if any.meets(Class::NAN) {
        return nan::propagate3::<G>(&a, &b, &c, s);
    }
    let sign = (a.sign != b.sign) != negate.product;
    c.sign = c.sign != negate.addend;
    let bits = if any == Class::NORMAL {
        fma_finite::<G>(&a, &b, sign, &c, s)
    } else {
        match fma_special::<G>(&a, &b, sign, &c, s) {
            Ok(bits) => bits,
            Err(nan) => return nan,
        }
    };
    if negate.result { G::from_word(G::to_word(bits) ^ G::sign_mask()) } else { bits }
}

/// Product and addend finite and not zero.
#[inline]
fn fma_finite<G: Format>(
    a: &Parts<G::Frac>,
    b: &Parts<G::Frac>,
    p_sign: bool,
    c: &Parts<G::Frac>,
    s: &mut Status,
) -> G::Bits {
    let mut p = a.frac.full_mul(b.frac);
    let mut p_exp = a.exp + b.exp + 1;
    if p.lead() != 0 {
        p = p.shift_left(1);
        p_exp -= 1;
    }
    let addend = <G::Frac as Frac>::Wide::from_high(c.frac);
    let swap = (p_exp, p) < (c.exp, addend);
    let (big, big_exp, small, small_exp, sign) =
        if swap { (addend, c.exp, p, p_exp, c.sign) } else { (p, p_exp, addend, c.exp, p_sign) };
    let aligned = small.shift_right_jam(big_exp.wrapping_sub(small_exp) as u32);
    if p_sign == c.sign {
        let (sum, carry) = big.carrying_add(aligned);
        if carry {
            return round_pack::<G>(sign, big_exp + 1, sum.carry_in().high_jam(), s);
        }
        return round_pack::<G>(sign, big_exp, sum.high_jam(), s);
    }
    let diff = big.borrowing_sub(aligned);
    if diff.is_zero() {
        return zero_sum::<G>(s);
    }
    let lead = diff.lead();
    round_pack::<G>(sign, big_exp - lead as i32, diff.shift_left(lead).high_jam(), s)
}

/// Some operand is not a normal number, none is a NaN. `Err` holds the NaN of an invalid operation,
/// whose sign the caller must not flip.
#[cold]
fn fma_special<G: Format>(
    a: &Parts<G::Frac>,
    b: &Parts<G::Frac>,
    p_sign: bool,
    c: &Parts<G::Frac>,
    s: &mut Status,
) -> Result<G::Bits, G::Bits> {
    let product = a.class | b.class;
    if product == Class::INF | Class::ZERO {
        return Err(nan::invalid::<G>(Flags::INVALID_IMZ, s));
    }
    if product.meets(Class::INF) && c.class == Class::INF && p_sign != c.sign {
        return Err(nan::invalid::<G>(Flags::INVALID_ISI, s));
    }
    note_denormals(product | c.class, s);
    if product.meets(Class::INF) {
        return Ok(G::infinity(p_sign));
    }
    if c.class == Class::INF {
        return Ok(G::infinity(c.sign));
    }
    Ok(match (product.meets(Class::ZERO), c.class == Class::ZERO) {
        (true, true) if p_sign == c.sign => G::zero(p_sign),
        (true, true) => zero_sum::<G>(s),
        (true, false) => round_pack::<G>(c.sign, c.exp, c.frac, s),
        (false, true) => {
            let p = a.frac.full_mul(b.frac);
            let lead = p.lead();
            round_pack::<G>(p_sign, a.exp + b.exp + 1 - lead as i32, p.shift_left(lead).high_jam(), s)
        }
        (false, false) => fma_finite::<G>(a, b, p_sign, c, s),
    })
}
