//! The minimum and maximum families. They differ in what a NaN does and in whether -0 is below +0.
//!
//! IEEE 754-2019 section 9.6, IEEE 754-2008 section 5.3.1, Intel SDM MINSS/MAXSS, Power ISA xsminjdp.

use crate::format::Format;
use crate::nan;
use crate::ops::compare::{order, order_magnitude};
use crate::parts::{Class, Parts, note_denormals, unpack};
use crate::status::{Flags, Status};
use core::cmp::Ordering;

/// Which minimum or maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MinMax {
    /// IEEE 2019 minimumNumber: a number beats a NaN, even a signaling one, which raises invalid
    /// (RISC-V fmin, LoongArch).
    Number,
    /// IEEE 2008 minNum: a number beats a quiet NaN, a signaling one makes the result a NaN
    /// (Arm FMINNM, MIPS MIN).
    Num,
    /// IEEE 2008 minNumMag: as `Num`, by magnitude, the plain rule deciding ties (MIPS MINA).
    NumMagnitude,
    /// IEEE 2019 minimum: any NaN makes the result a NaN (Arm FMIN, RISC-V fminm).
    Propagate,
    /// `a < b ? a : b`, the comparison signaling: the second operand for NaNs and for two zeros
    /// (x86 MINPS, Power ISA xsmincdp).
    SecondUnlessLess,
}

/// The larger of `a` and `b` if `max`, else the smaller.
pub fn min_max<F: Format>(a: F::Bits, b: F::Bits, rule: MinMax, max: bool, s: &mut Status) -> F::Bits {
    let pa = unpack::<F>(a, s);
    let pb = unpack::<F>(b, s);
    let any = pa.class | pb.class;
    if any.meets(Class::NAN) {
        return with_nan::<F>(&pa, &pb, b, rule, s);
    }
    note_denormals(any, s);
    let ordering = match rule {
        MinMax::NumMagnitude => order_magnitude(&pa, &pb).then_with(|| order(&pa, &pb)),
        _ => order(&pa, &pb),
    };
    let first = match ordering {
        Ordering::Less => !max,
        Ordering::Greater => max,
        Ordering::Equal if rule == MinMax::SecondUnlessLess => false,
        // Only zeros compare equal with different signs; the negative one is the smaller.
        Ordering::Equal => pa.sign != max,
    };
    let (p, bits) = if first { (pa, a) } else { (pb, b) };
    // A zero is rebuilt: with denormals-are-zero the operand may be a subnormal.
    if p.class == Class::ZERO { F::zero(p.sign) } else { bits }
}

#[cold]
fn with_nan<F: Format>(
    a: &Parts<F::Frac>,
    b: &Parts<F::Frac>,
    b_bits: F::Bits,
    rule: MinMax,
    s: &mut Status,
) -> F::Bits {
    let any = a.class | b.class;
    let one_number = a.class.meets(Class::NAN) != b.class.meets(Class::NAN);
    let number_wins = match rule {
        MinMax::SecondUnlessLess => {
            nan::raise_signaling(any, s);
            s.raise(Flags::INVALID);
            return if b.class == Class::ZERO { F::zero(b.sign) } else { b_bits };
        }
        MinMax::Number => one_number,
        MinMax::Num | MinMax::NumMagnitude => one_number && !any.meets(Class::SNAN | Class::UNSUPPORTED),
        MinMax::Propagate => false,
    };
    if !number_wins {
        return nan::propagate2::<F>(a, b, s);
    }
    nan::raise_signaling(any, s);
    let p = if a.class.meets(Class::NAN) { b } else { a };
    repack::<F>(p)
}

/// The number `p` as a pattern again.
fn repack<F: Format>(p: &Parts<F::Frac>) -> F::Bits {
    match p.class {
        Class::ZERO => F::zero(p.sign),
        Class::INF => F::infinity(p.sign),
        _ => {
            // Exact, so neither rounding nor flushing has anything to do.
            let mut exact = Status::default();
            crate::round::round_pack::<F>(p.sign, p.exp, p.frac, &mut exact)
        }
    }
}
