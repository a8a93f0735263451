//! Floating-point functions of AVX-512 that the IR has no operation for, one lane at a time (SDM volume 2: VGETEXP, VGETMANT,
//! VRNDSCALE, VSCALEF, VFIXUPIMM, VRANGE, VREDUCE).

use softfloat::{
    F32, F64, Flags, FlushToZero, Format, RoundingMode, Status,
    ops::{add, round_int, scale},
};

use crate::sse::rounding;

/// A function, by its number in the word that describes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// The exponent as a number.
    Exponent,
    /// The significand, in the interval and with the sign that the immediate picks.
    Significand,
    /// Rounded to a multiple of a power of two.
    Round,
    /// What that rounding takes away.
    Reduce,
    /// The first times two to the power of the second's floor.
    Scale,
    /// One of two numbers, with a sign.
    Range,
    /// The second, or a constant, as a table says for its class.
    Fix,
}

impl Function {
    const ALL: [Self; 7] =
        [Self::Exponent, Self::Significand, Self::Round, Self::Reduce, Self::Scale, Self::Range, Self::Fix];

    pub(crate) fn from_bits(n: u64) -> Self {
        Self::ALL.get(n as usize & 15).copied().unwrap_or(Self::Fix)
    }
}

/// A format whose bits fit a `u64`.
pub(crate) trait Float: Format {
    fn of(v: u64) -> Self::Bits;
    fn to(b: Self::Bits) -> u64;
}

impl Float for F32 {
    fn of(v: u64) -> u32 {
        v as u32
    }
    fn to(b: u32) -> u64 {
        b.into()
    }
}

impl Float for F64 {
    fn of(v: u64) -> u64 {
        v
    }
    fn to(b: u64) -> u64 {
        b
    }
}

/// A number's fields.
#[derive(Debug, Clone, Copy)]
struct Fields {
    negative: bool,
    exp: u64,
    mant: u64,
}

const fn mant_mask<F: Format>() -> u64 {
    (1 << F::MANT_BITS) - 1
}

const fn sign_bit<F: Format>() -> u64 {
    1 << (F::MANT_BITS + F::EXP_BITS)
}

const fn quiet_bit<F: Format>() -> u64 {
    1 << (F::MANT_BITS - 1)
}

const fn infinity<F: Format>() -> u64 {
    (F::EXP_MAX as u64) << F::MANT_BITS
}

/// The NaN that x86 makes itself.
const fn indefinite<F: Format>() -> u64 {
    sign_bit::<F>() | infinity::<F>() | quiet_bit::<F>()
}

/// 1.0
const fn one<F: Format>() -> u64 {
    (F::BIAS as u64) << F::MANT_BITS
}

impl Fields {
    fn of<F: Format>(v: u64) -> Self {
        Self {
            negative: v & sign_bit::<F>() != 0,
            exp: v >> F::MANT_BITS & F::EXP_MAX as u64,
            mant: v & mant_mask::<F>(),
        }
    }

    fn is_nan<F: Format>(self) -> bool {
        self.exp == F::EXP_MAX as u64 && self.mant != 0
    }

    fn is_signalling<F: Format>(self) -> bool {
        self.is_nan::<F>() && self.mant & quiet_bit::<F>() == 0
    }

    fn is_infinite<F: Format>(self) -> bool {
        self.exp == F::EXP_MAX as u64 && self.mant == 0
    }

    fn is_zero(self) -> bool {
        self.exp == 0 && self.mant == 0
    }

    fn is_denormal(self) -> bool {
        self.exp == 0 && self.mant != 0
    }

    /// Exponent and fraction as those of a normal number.
    fn normal<F: Format>(self) -> (i32, u64) {
        if self.exp != 0 {
            return (self.exp as i32 - F::BIAS, self.mant);
        }
        let shift = self.mant.leading_zeros() - (63 - F::MANT_BITS);
        (1 - F::BIAS - shift as i32, self.mant << shift & mant_mask::<F>())
    }
}

/// The operand, a zero of its sign if denormals count as zeros.
fn taken<F: Format>(v: u64, s: &Status) -> u64 {
    if s.denormals_are_zero && Fields::of::<F>(v).is_denormal() { v & sign_bit::<F>() } else { v }
}

/// A NaN made quiet.
fn quiet<F: Format>(v: u64, s: &mut Status) -> u64 {
    if Fields::of::<F>(v).is_signalling::<F>() {
        s.raise(Flags::INVALID);
    }
    v | quiet_bit::<F>()
}

/// The value of a function; `args` as the manual numbers the sources, the destination's old value first if it counts.
pub(crate) fn lane<F: Float>(f: Function, args: [u64; 3], imm: u8, s: &mut Status) -> u64 {
    let [a, b, c] = args;
    match f {
        Function::Exponent => exponent::<F>(a, s),
        Function::Significand => significand::<F>(a, imm, s),
        Function::Round => round::<F>(a, imm, s),
        Function::Reduce => reduce::<F>(a, imm, s),
        Function::Scale => scaled::<F>(a, b, s),
        Function::Range => range::<F>(a, b, imm, s),
        Function::Fix => fix::<F>(a, b, c as u32, imm, s),
    }
}

fn exponent<F: Float>(a: u64, s: &mut Status) -> u64 {
    let mut own = Status { flags: Flags::NONE, ..*s };
    let r = scale::logb::<F>(F::of(a), &mut own);
    // The exponent of zero is no division.
    s.raise(Flags(own.flags.0 & !Flags::DIV_BY_ZERO.0));
    F::to(r)
}

fn significand<F: Float>(a: u64, imm: u8, s: &mut Status) -> u64 {
    let a = taken::<F>(a, s);
    let v = Fields::of::<F>(a);
    if v.is_nan::<F>() {
        return quiet::<F>(a, s);
    }
    let negative = v.negative && imm & 4 == 0;
    let signed = |bits: u64| if negative { bits | sign_bit::<F>() } else { bits };
    if v.is_zero() {
        return signed(one::<F>());
    }
    if v.negative && imm & 8 != 0 {
        s.raise(Flags::INVALID);
        return indefinite::<F>();
    }
    if v.is_infinite::<F>() {
        return signed(one::<F>());
    }
    if v.is_denormal() {
        s.raise(Flags::INPUT_DENORMAL);
    }
    let (exp, mant) = v.normal::<F>();
    let half = match imm & 3 {
        0 => false,
        1 => exp & 1 != 0,
        2 => true,
        _ => mant & quiet_bit::<F>() != 0,
    };
    signed(((F::BIAS - i32::from(half)) as u64) << F::MANT_BITS | mant)
}

/// The direction that an immediate names.
fn direction(imm: u8, s: &Status) -> RoundingMode {
    if imm & 4 != 0 { s.rounding } else { rounding(imm.into()) }
}

fn round<F: Float>(a: u64, imm: u8, s: &mut Status) -> u64 {
    let a = taken::<F>(a, s);
    let v = Fields::of::<F>(a);
    if v.is_nan::<F>() {
        return quiet::<F>(a, s);
    }
    let power = i32::from(imm >> 4);
    if v.is_zero() || v.is_infinite::<F>() || v.normal::<F>().0 + power >= F::MANT_BITS as i32 {
        return a;
    }
    let mut exact = Status::default();
    let up = scale::scalbn::<F>(F::of(a), power, &mut exact);
    let mut lost = Status::default();
    let whole = round_int::round_to_int::<F>(up, direction(imm, s), true, &mut lost);
    if imm & 8 == 0 && lost.flags.contains(Flags::INEXACT) {
        s.raise(Flags::INEXACT);
    }
    F::to(scale::scalbn::<F>(whole, -power, &mut exact))
}

fn reduce<F: Float>(a: u64, imm: u8, s: &mut Status) -> u64 {
    let a = taken::<F>(a, s);
    let v = Fields::of::<F>(a);
    if v.is_nan::<F>() {
        return quiet::<F>(a, s);
    }
    if v.is_infinite::<F>() {
        return 0;
    }
    // What is inexact is the difference, not the rounding.
    let mut own = Status { rounding: direction(imm, s), ..Status::default() };
    let whole = round::<F>(a, imm | 8, s);
    let r = F::to(add::sub::<F, F>(F::of(a), F::of(whole), &mut own));
    if imm & 8 == 0 && own.flags.contains(Flags::INEXACT) {
        s.raise(Flags::INEXACT);
    }
    if s.flush_to_zero == FlushToZero::Off || !Fields::of::<F>(r).is_denormal() {
        return r;
    }
    if imm & 8 == 0 {
        s.raise(Flags::INEXACT);
    }
    r & sign_bit::<F>()
}

fn scaled<F: Float>(a: u64, b: u64, s: &mut Status) -> u64 {
    let (a, b) = (taken::<F>(a, s), taken::<F>(b, s));
    let (x, y) = (Fields::of::<F>(a), Fields::of::<F>(b));
    if x.is_signalling::<F>() || y.is_signalling::<F>() {
        s.raise(Flags::INVALID);
    }
    if x.is_nan::<F>() {
        // A power that decides the result wins over a quiet NaN.
        return match (y.is_infinite::<F>() && !x.is_signalling::<F>(), y.negative) {
            (true, true) => 0,
            (true, false) => infinity::<F>(),
            _ => a | quiet_bit::<F>(),
        };
    }
    if y.is_nan::<F>() {
        return b | quiet_bit::<F>();
    }
    let sign = a & sign_bit::<F>();
    if y.is_infinite::<F>() {
        if x.is_denormal() {
            s.raise(Flags::INPUT_DENORMAL);
        }
        if y.negative && x.is_infinite::<F>() || !y.negative && x.is_zero() {
            s.raise(Flags::INVALID);
            return indefinite::<F>();
        }
        return sign | if y.negative { 0 } else { infinity::<F>() };
    }
    if x.is_infinite::<F>() || x.is_zero() {
        return a;
    }
    F::to(scale::scalbn::<F>(F::of(a), floor::<F>(b), s))
}

/// The floor of a finite number, as far as it matters for an exponent.
fn floor<F: Format>(b: u64) -> i32 {
    let v = Fields::of::<F>(b);
    if v.is_zero() {
        return 0;
    }
    let (exp, mant) = v.normal::<F>();
    let whole = mant | 1 << F::MANT_BITS;
    let magnitude = match exp {
        ..0 => 0,
        0..18 => (whole >> (F::MANT_BITS as i32 - exp)) as i32,
        _ => 0x4_0000,
    };
    let inexact = exp < 0 || exp < 18 && whole & ((1 << (F::MANT_BITS as i32 - exp)) - 1) != 0;
    if v.negative { -magnitude - i32::from(inexact) } else { magnitude }
}

fn range<F: Float>(a: u64, b: u64, imm: u8, s: &mut Status) -> u64 {
    let (x, y) = (Fields::of::<F>(a), Fields::of::<F>(b));
    for (v, bits) in [(x, a), (y, b)] {
        if v.is_signalling::<F>() {
            return quiet::<F>(bits, s);
        }
    }
    let nan = x.is_nan::<F>() || y.is_nan::<F>();
    let (a, b) = (taken::<F>(a, s), taken::<F>(b, s));
    if !nan && [a, b].iter().any(|v| Fields::of::<F>(*v).is_denormal()) {
        s.raise(Flags::INPUT_DENORMAL);
    }
    let sign = sign_bit::<F>();
    let picked = if y.is_nan::<F>() {
        a
    } else if x.is_nan::<F>() {
        b
    } else {
        // As integers floats are in order, the negative ones backwards.
        let order = |v: u64| if v & sign != 0 { -1 - ((v & !sign) as i64) } else { v as i64 };
        let by_size = (a & !sign).cmp(&(b & !sign)).then(order(a).cmp(&order(b)));
        let by_value = order(a).cmp(&order(b));
        let first = match imm & 3 {
            0 => by_value.is_le(),
            1 => by_value.is_ge(),
            2 => by_size.is_le(),
            _ => by_size.is_ge(),
        };
        if first { a } else { b }
    };
    match imm >> 2 & 3 {
        0 => picked & !sign | a & sign,
        1 => picked,
        2 => picked & !sign,
        _ => picked | sign,
    }
}

fn fix<F: Float>(old: u64, a: u64, table: u32, imm: u8, s: &mut Status) -> u64 {
    let a = taken::<F>(a, s);
    let v = Fields::of::<F>(a);
    let class = if v.is_signalling::<F>() {
        1
    } else if v.is_nan::<F>() {
        0
    } else if v.is_zero() {
        2
    } else if a == one::<F>() {
        3
    } else {
        match (v.is_infinite::<F>(), v.negative) {
            (true, true) => 4,
            (true, false) => 5,
            (false, true) => 6,
            (false, false) => 7,
        }
    };
    // Classes and what the immediate has them report.
    let reports = [
        (2, 0, Flags::DIV_BY_ZERO),
        (2, 1, Flags::INVALID),
        (3, 2, Flags::DIV_BY_ZERO),
        (3, 3, Flags::INVALID),
        (1, 4, Flags::INVALID),
        (4, 5, Flags::INVALID),
        (6, 6, Flags::INVALID),
        (5, 7, Flags::INVALID),
    ];
    for (of, bit, flag) in reports {
        if class == of && imm >> bit & 1 != 0 {
            s.raise(flag);
        }
    }
    let (sign, infinity) = (sign_bit::<F>(), infinity::<F>());
    let double = F::MANT_BITS == 52;
    let constant = |single: u32, wide: u64| if double { wide } else { single.into() };
    match table >> (4 * class) & 15 {
        0 => old,
        1 => a,
        2 => a | infinity | quiet_bit::<F>(),
        3 => indefinite::<F>(),
        4 => sign | infinity,
        5 => infinity,
        6 => a & sign | infinity,
        7 => sign,
        8 => 0,
        9 => sign | one::<F>(),
        10 => one::<F>(),
        11 => constant(0x3f00_0000, 0x3fe0_0000_0000_0000),
        12 => constant(0x42b4_0000, 0x4056_8000_0000_0000),
        13 => constant(0x3fc9_0fdb, 0x3ff9_21fb_5444_2d18),
        14 => infinity - 1,
        _ => sign | (infinity - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(f: Function, a: f64, b: f64, imm: u8) -> f64 {
        let mut s = Status::x86_sse();
        f64::from_bits(lane::<F64>(f, [a.to_bits(), b.to_bits(), 0], imm, &mut s))
    }

    #[test]
    fn numbers_are_taken_apart() {
        assert_eq!(
            (of(Function::Exponent, 12.0, 0.0, 0), of(Function::Exponent, 0.0, 0.0, 0)),
            (3.0, f64::NEG_INFINITY)
        );
        assert_eq!(
            (of(Function::Significand, -12.0, 0.0, 0), of(Function::Significand, -12.0, 0.0, 5)),
            (-1.5, 0.75)
        );
        assert_eq!(of(Function::Significand, 5e-324, 0.0, 0), 1.0);
        assert!(of(Function::Significand, -1.0, 0.0, 8).is_nan());
    }

    #[test]
    fn numbers_are_scaled_and_rounded() {
        assert_eq!(of(Function::Scale, 3.0, -1.5, 0), 0.75);
        assert_eq!(of(Function::Round, 1.3, 0.0, 0x20), 1.25);
        assert_eq!(of(Function::Reduce, 1.3125, 0.0, 0x20), 0.0625);
        assert_eq!(of(Function::Range, -3.0, 2.0, 7), -3.0);
    }
}
