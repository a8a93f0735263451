//! Comparison. IEEE 754-2019 sections 5.6.1 and 5.11: the signaling form raises invalid for any NaN,
//! the quiet form for signaling ones only.

use crate::format::Format;
use crate::nan;
use crate::parts::{Class, Parts, note_denormals, unpack};
use crate::status::{Flags, Status};
use crate::word::Frac;
use core::cmp::Ordering;

/// The four mutually exclusive relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// First operand below the second.
    Less,
    /// Equal; the zeros are equal.
    Equal,
    /// First operand above the second.
    Greater,
    /// An operand is a NaN.
    Unordered,
}

/// Compares; any NaN operand raises invalid if `signaling`.
#[inline]
pub fn compare<F: Format>(a: F::Bits, b: F::Bits, signaling: bool, s: &mut Status) -> Relation {
    let a = unpack::<F>(a, s);
    let b = unpack::<F>(b, s);
    let any = a.class | b.class;
    if any.meets(Class::NAN) {
        nan::raise_signaling(any, s);
        if signaling {
            s.raise(Flags::INVALID | Flags::INVALID_COMPARE);
        }
        return Relation::Unordered;
    }
    note_denormals(any, s);
    match order(&a, &b) {
        Ordering::Less => Relation::Less,
        Ordering::Equal => Relation::Equal,
        Ordering::Greater => Relation::Greater,
    }
}

/// Order of two numbers; the zeros are equal.
#[inline]
pub(super) fn order<T: Frac>(a: &Parts<T>, b: &Parts<T>) -> Ordering {
    let zeros = (a.class == Class::ZERO, b.class == Class::ZERO);
    if zeros == (true, true) {
        return Ordering::Equal;
    }
    if a.sign != b.sign {
        return if a.sign { Ordering::Less } else { Ordering::Greater };
    }
    let magnitude = order_magnitude(a, b);
    if a.sign { magnitude.reverse() } else { magnitude }
}

/// Order of two numbers without their signs.
#[inline]
pub(super) fn order_magnitude<T: Frac>(a: &Parts<T>, b: &Parts<T>) -> Ordering {
    let rank = |p: &Parts<T>| match p.class {
        Class::ZERO => i32::MIN,
        Class::INF => i32::MAX,
        _ => p.exp,
    };
    (rank(a), a.frac).cmp(&(rank(b), b.frac))
}
