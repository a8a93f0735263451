//! The x87 unit (SDM volume 1, chapter 8) on its registers alone: stack, numbers, exceptions.
//!
//! Values are the low 80 bits of a `u128`. An instruction that raises an unmasked exception sets the summary bit; the
//! next waiting instruction reports it. With invalid operation, denormal or division by zero unmasked it leaves the
//! registers as they were.

mod arith;
mod series;
mod transcendental;

use softfloat::ops::convert::convert;
use softfloat::ops::integer::{from_int, to_int};
use softfloat::{F32, F64, Flags, Precision, RoundingMode, Status, X80};

pub(crate) use self::arith::{Arith, Unary};
use crate::state::X87;

/// The default NaN.
pub(crate) const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
const INTEGER_INDEFINITE: i64 = i64::MIN;

/// Bits of the status word.
pub(crate) mod sw {
    pub(crate) const IE: u64 = 1;
    pub(crate) const DE: u64 = 2;
    pub(crate) const ZE: u64 = 4;
    pub(crate) const SF: u64 = 1 << 6;
    pub(crate) const ES: u64 = 1 << 7;
    pub(crate) const C0: u64 = 1 << 8;
    pub(crate) const C1: u64 = 1 << 9;
    pub(crate) const C2: u64 = 1 << 10;
    pub(crate) const C3: u64 = 1 << 14;
    pub(crate) const B: u64 = 1 << 15;
}

/// How a number lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    F32,
    F64,
    I16,
    I32,
    I64,
}

impl Kind {
    pub(crate) fn from_bits(n: u64) -> Self {
        match n {
            0 => Kind::F32,
            1 => Kind::F64,
            2 => Kind::I16,
            3 => Kind::I32,
            _ => Kind::I64,
        }
    }
}

impl X87 {
    /// Rounding, precision and NaNs as the control word says.
    pub(crate) fn status(&self) -> Status {
        let mut s = Status::x87();
        s.rounding = match self.fcw >> 10 & 3 {
            0 => RoundingMode::NearestEven,
            1 => RoundingMode::Down,
            2 => RoundingMode::Up,
            _ => RoundingMode::TowardZero,
        };
        s.precision = match self.fcw >> 8 & 3 {
            0 => Precision::Single,
            2 => Precision::Double,
            _ => Precision::Extended,
        };
        s
    }

    /// Records what an operation has raised; true if its result may be written.
    pub(crate) fn raised(&mut self, f: Flags) -> bool {
        const TABLE: [(Flags, u64); 6] = [
            (Flags::INVALID, sw::IE),
            (Flags::INPUT_DENORMAL, sw::DE),
            (Flags::DIV_BY_ZERO, sw::ZE),
            (Flags::OVERFLOW, 8),
            (Flags::UNDERFLOW, 16),
            (Flags::INEXACT, 32),
        ];
        let bits = TABLE.iter().filter(|(flag, _)| f.contains(*flag)).fold(0, |all, (_, bit)| all | bit);
        self.set_c1(f.contains(Flags::ROUNDED_UP));
        self.raise(bits)
    }

    /// Sets exception bits of the status word; true if the masked response applies.
    fn raise(&mut self, bits: u64) -> bool {
        self.fsw |= bits;
        let unmasked = bits & !self.fcw & 0x3f;
        if unmasked != 0 {
            self.fsw |= sw::ES | sw::B;
        }
        unmasked & (sw::IE | sw::DE | sw::ZE) == 0
    }

    pub(crate) fn set_c1(&mut self, on: bool) {
        self.fsw = self.fsw & !sw::C1 | if on { sw::C1 } else { 0 };
    }

    fn physical(&self, i: u64) -> usize {
        ((self.top + i) & 7) as usize
    }

    pub(crate) fn is_empty(&self, i: u64) -> bool {
        self.ftw >> self.physical(i) & 1 == 0
    }

    /// ST(i) whatever it holds.
    pub(crate) fn raw(&self, i: u64) -> u128 {
        let [low, high] = self.regs[self.physical(i)];
        u128::from(low) | u128::from(high & 0xffff) << 64
    }

    /// ST(i), or the default NaN with a stack fault if it is empty; `None` if that is not masked.
    pub(crate) fn st(&mut self, i: u64) -> Option<u128> {
        if !self.is_empty(i) {
            return Some(self.raw(i));
        }
        self.set_c1(false);
        self.raise(sw::IE | sw::SF).then_some(INDEFINITE)
    }

    pub(crate) fn set_st(&mut self, i: u64, v: u128) {
        let p = self.physical(i);
        self.regs[p] = [v as u64, (v >> 64) as u64 & 0xffff];
        self.ftw |= 1 << p;
    }

    pub(crate) fn free(&mut self, i: u64) {
        self.ftw &= !(1 << self.physical(i));
    }

    pub(crate) fn pop(&mut self, times: u64) {
        for _ in 0..times {
            self.free(0);
            self.top = (self.top + 1) & 7;
        }
    }

    /// Pushes; a full stack gives the default NaN.
    pub(crate) fn push(&mut self, v: u128) {
        let full = !self.is_empty(7);
        if full {
            self.set_c1(true);
            self.fsw |= sw::C1;
            if !self.raise(sw::IE | sw::SF) {
                return;
            }
        }
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, if full { INDEFINITE } else { v });
    }

    /// A number from memory, and what reading it raises.
    pub(crate) fn read(kind: Kind, bits: u64, s: &mut Status) -> u128 {
        match kind {
            Kind::F32 => convert::<F32, X80>(bits as u32, s),
            Kind::F64 => convert::<F64, X80>(bits, s),
            Kind::I16 => from_int::<i64, X80>(i64::from(bits as i16), 0, s),
            Kind::I32 => from_int::<i64, X80>(i64::from(bits as i32), 0, s),
            Kind::I64 => from_int::<i64, X80>(bits as i64, 0, s),
        }
    }

    /// FLD and FILD.
    pub(crate) fn load(&mut self, kind: Kind, bits: u64) {
        let mut s = self.status();
        self.set_c1(false);
        // A full stack comes before what the number itself raises.
        let v = Self::read(kind, bits, &mut s);
        if self.is_empty(7) && !self.raised(s.flags) {
            return;
        }
        self.push(v);
    }

    /// ST(0) as it is stored, in the low bits; `truncate` as FISTTP does.
    pub(crate) fn stored(&mut self, kind: Kind, truncate: bool) -> u64 {
        let Some(v) = self.st(0) else { return 0 };
        let empty = self.is_empty(0);
        let mut s = self.status();
        let rounding = if truncate { RoundingMode::TowardZero } else { s.rounding };
        let bits = match kind {
            Kind::F32 => u64::from(convert::<X80, F32>(v, &mut s)),
            Kind::F64 => convert::<X80, F64>(v, &mut s),
            Kind::I16 => {
                let n = to_int::<X80, i64>(v, 0, rounding, &mut s).or(INTEGER_INDEFINITE);
                match i16::try_from(n) {
                    Ok(n) => n as u64,
                    Err(_) => {
                        s.flags = Flags::INVALID;
                        i16::MIN as u64
                    }
                }
            }
            Kind::I32 => to_int::<X80, i32>(v, 0, rounding, &mut s).or(i32::MIN) as u64,
            Kind::I64 => to_int::<X80, i64>(v, 0, rounding, &mut s).or(i64::MIN) as u64,
        };
        if !empty {
            // Storing an integer does not tell of denormals.
            let flags =
                if matches!(kind, Kind::F32 | Kind::F64) { s.flags } else { without_denormal(s.flags) };
            self.raised(flags);
        }
        bits
    }

    /// The packed decimal number FBSTP stores: low and high part.
    pub(crate) fn packed(&mut self) -> (u64, u64) {
        const BAD: (u64, u64) = (0xc000_0000_0000_0000, 0xffff);
        let Some(v) = self.st(0) else { return BAD };
        let mut s = self.status();
        let n = to_int::<X80, i64>(v, 0, s.rounding, &mut s).or(INTEGER_INDEFINITE);
        if n.unsigned_abs() > 999_999_999_999_999_999 {
            self.raised(Flags::INVALID);
            return BAD;
        }
        self.raised(without_denormal(s.flags));
        let mut left = n.unsigned_abs();
        let mut all = 0u128;
        for digit in 0..18 {
            all |= u128::from(left % 10) << (4 * digit);
            left /= 10;
        }
        let sign = v >> 79 & 1 != 0;
        (all as u64, (all >> 64) as u64 | if sign { 0x8000 } else { 0 })
    }

    /// FBLD.
    pub(crate) fn load_packed(&mut self, low: u64, high: u64) {
        let digits = u128::from(low) | u128::from(high & 0xff) << 64;
        let n =
            (0..18).rev().fold(0u64, |n, d| n.wrapping_mul(10).wrapping_add((digits >> (4 * d)) as u64 & 15));
        let mut s = self.status();
        let v = from_int::<u64, X80>(n, 0, &mut s);
        self.set_c1(false);
        self.push(v | u128::from(high >> 15 & 1) << 79);
    }

    /// FXAM: C3, C2 and C0 say the class, C1 the sign.
    pub(crate) fn examine(&mut self) {
        use softfloat::Category as C;
        let v = self.raw(0);
        let class = if self.is_empty(0) {
            sw::C3 | sw::C0
        } else {
            match softfloat::ops::classify::category::<X80>(v, &self.status()) {
                C::Unsupported => 0,
                C::QuietNan | C::SignalingNan => sw::C0,
                C::Normal => sw::C2,
                C::Infinite => sw::C2 | sw::C0,
                C::Zero => sw::C3,
                C::Subnormal => sw::C3 | sw::C2,
            }
        };
        self.fsw = self.fsw & !(sw::C0 | sw::C1 | sw::C2 | sw::C3) | class;
        self.set_c1(v >> 79 & 1 != 0);
    }
}

fn without_denormal(f: Flags) -> Flags {
    Flags(f.0 & !Flags::INPUT_DENORMAL.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_faults_and_wraps() {
        let mut u = X87::default();
        for n in 0..8 {
            u.load(Kind::I32, n);
        }
        assert_eq!((u.top, u.ftw, u.fsw), (0, 0xff, 0));
        u.load(Kind::I32, 9);
        assert_eq!((u.raw(0), u.fsw & 0x3f, u.fsw & sw::C1 != 0), (INDEFINITE, sw::IE, true));
        u.pop(8);
        assert_eq!(u.ftw, 0);
        assert_eq!(u.stored(Kind::I64, false) as i64, i64::MIN);
        assert_eq!(u.fsw & (sw::SF | sw::C1), sw::SF);
        let mut u = X87::default();
        u.fcw &= !1;
        assert_eq!(u.st(0), None);
        assert_ne!(u.fsw & sw::ES, 0);
    }

    #[test]
    fn decimals_go_round() {
        let mut u = X87::default();
        u.load_packed(0x1234_5678_9012_3456, 0x8078);
        let back = u.packed();
        assert_eq!(back, (0x1234_5678_9012_3456, 0x8078));
        u.load(Kind::F64, 1e300f64.to_bits());
        assert_eq!(u.packed().1, 0xffff);
    }
}
