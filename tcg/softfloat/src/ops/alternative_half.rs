//! Arm's alternative half precision (FPCR.AHP): binary16 without infinities and NaNs, its top exponent one more
//! binade of numbers. It only exists in conversions.
//!
//! Arm ARM, A1.4.2 "Half-precision floating-point formats" and `FPConvert`.

use crate::format::{F16, Format};
use crate::nan;
use crate::parts::{Class, note_denormals, unpack};
use crate::round::{increment, round_pack};
use crate::status::{Flags, Status};
use crate::word::Frac;

/// Exponent field of the largest numbers.
const TOP_EXP: i32 = F16::EXP_MAX;

/// From alternative half precision: exact, and never raises a flag.
pub fn to<G: Format>(a: u16, s: &mut Status) -> G::Bits {
    let exp = i32::from(a >> F16::MANT_BITS) & F16::EXP_MAX;
    if exp != TOP_EXP {
        // FPCR.FZ16 does not apply to conversions.
        let mut kept = Status { denormals_are_zero: false, ..*s };
        return super::convert::convert::<F16, G>(a, &mut kept);
    }
    let frac = u128::from(a & 0x3ff | 0x400) << (127 - F16::MANT_BITS);
    round_pack::<G>(a >> 15 != 0, TOP_EXP - F16::BIAS, G::Frac::from_top_jam(frac), s)
}

/// To alternative half precision: a NaN becomes a zero, an infinity or what is too large the largest number;
/// all three raise invalid and nothing else.
pub fn from<F: Format>(a: F::Bits, s: &mut Status) -> u16 {
    let p = unpack::<F>(a, s);
    let sign = u16::from(p.sign) << 15;
    match p.class {
        Class::ZERO => return sign,
        class if class.meets(Class::NAN) => {
            nan::raise_signaling(class, s);
            s.raise(Flags::INVALID);
            return sign;
        }
        Class::INF => {
            s.raise(Flags::INVALID);
            return sign | 0x7fff;
        }
        class => note_denormals(class, s),
    }
    let e = p.exp.saturating_add(F16::BIAS);
    if e < TOP_EXP - 1 {
        let frac = u64::from_top_jam(p.frac.to_top());
        return round_pack::<F16>(p.sign, p.exp, frac, s);
    }
    // Only the last binade and what rounds into it is left, so subnormals need no thought.
    let frac = u64::from_top_jam(p.frac.to_top());
    let mask = (1 << F16::SHIFT) - 1;
    let (sum, carry) =
        frac.overflowing_add(if frac & mask == 0 { 0 } else { increment(s.rounding, p.sign, frac, mask) });
    let (e, significand) = if carry { (e.saturating_add(1), 0x400) } else { (e, sum >> F16::SHIFT) };
    if e > TOP_EXP {
        s.raise(Flags::INVALID);
        return sign | 0x7fff;
    }
    if frac & mask != 0 {
        s.raise(Flags::INEXACT);
    }
    F16::assemble(p.sign, e, significand)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{F32, RoundingMode};

    #[test]
    fn every_number_survives_the_round_trip() {
        for a in 0..=u16::MAX {
            let mut s = Status::arm();
            let wide = to::<F32>(a, &mut s);
            assert_eq!(from::<F32>(wide, &mut s), a, "{a:#x}");
            assert_eq!(s.flags.ieee(), 0, "{a:#x}");
        }
        assert_eq!(to::<F32>(0x7fff, &mut Status::arm()), 0x47ff_e000); // 131008
    }

    #[test]
    fn what_does_not_fit_is_invalid() {
        let cases: [(u32, u16, Flags); 7] = [
            (0x7f80_0000, 0x7fff, Flags::INVALID),
            (0xff80_0000, 0xffff, Flags::INVALID),
            (0xffc0_0001, 0x8000, Flags::INVALID),
            (0x47ff_f000, 0x7fff, Flags::INVALID), // 131040 would round to 2^17
            (0x47ff_efff, 0x7fff, Flags::INEXACT),
            (0x477f_f000, 0x7c00, Flags::INEXACT), // 65520 rounds up into the last binade
            (0x3300_0001, 0x0001, Flags(Flags::INEXACT.0 | Flags::UNDERFLOW.0)),
        ];
        for (a, want, flags) in cases {
            let mut s = Status::arm();
            assert_eq!((from::<F32>(a, &mut s), s.flags.ieee()), (want, flags.0), "{a:#x}");
        }
        let mut s = Status { rounding: RoundingMode::TowardZero, ..Status::arm() };
        assert_eq!(from::<F32>(0x47ff_f000, &mut s), 0x7fff);
        assert_eq!(s.flags.ieee(), Flags::INEXACT.0);
    }
}
