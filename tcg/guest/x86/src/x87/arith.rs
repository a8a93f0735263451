//! Arithmetic, comparisons, and what works on ST(0) alone (SDM volume 1, 8.3).

use softfloat::ops::{add, classify, compare, div, mul, rem, round_int, scale, sqrt};
use softfloat::{Flags, Quotient, Relation, RoundingMode, Status, X80};

use super::{Kind, sw};
use crate::state::X87;

/// Two-operand arithmetic, in the order of the opcode's middle bits (SDM volume 2, appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Arith {
    Add,
    Mul,
    Com,
    Comp,
    Sub,
    Subr,
    Div,
    Divr,
}

impl Arith {
    pub(crate) fn from_bits(n: u64) -> Self {
        [Self::Add, Self::Mul, Self::Com, Self::Comp, Self::Sub, Self::Subr, Self::Div, Self::Divr]
            [(n & 7) as usize]
    }
}

/// What works on ST(0), sometimes with ST(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Unary {
    Chs,
    Abs,
    Tst,
    Xam,
    Sqrt,
    Rndint,
    Scale,
    Prem,
    Prem1,
    Xtract,
    F2xm1,
    Yl2x,
    Yl2xp1,
    Ptan,
    Patan,
    Sin,
    Cos,
    Sincos,
    Incstp,
    Decstp,
    // Constants.
    One,
    L2t,
    L2e,
    Pi,
    Lg2,
    Ln2,
    Zero,
}

impl Unary {
    const ALL: [Self; 27] = [
        Self::Chs,
        Self::Abs,
        Self::Tst,
        Self::Xam,
        Self::Sqrt,
        Self::Rndint,
        Self::Scale,
        Self::Prem,
        Self::Prem1,
        Self::Xtract,
        Self::F2xm1,
        Self::Yl2x,
        Self::Yl2xp1,
        Self::Ptan,
        Self::Patan,
        Self::Sin,
        Self::Cos,
        Self::Sincos,
        Self::Incstp,
        Self::Decstp,
        Self::One,
        Self::L2t,
        Self::L2e,
        Self::Pi,
        Self::Lg2,
        Self::Ln2,
        Self::Zero,
    ];

    pub(crate) fn from_bits(n: u64) -> Self {
        Self::ALL.get(n as usize).copied().unwrap_or(Self::Tst)
    }
}

fn sign_of(v: u128) -> u128 {
    v & 1 << 79
}

impl X87 {
    /// Arithmetic of ST(`i`) with a number of memory, or with ST(`j`).
    pub(crate) fn arith_memory(&mut self, op: Arith, kind: Kind, bits: u64) {
        let mut s = self.status();
        let b = X87::read(kind, bits, &mut s);
        // A conversion raises invalid and denormal; an integer raises nothing.
        self.arith(op, 0, b, s, 0);
    }

    /// The same with registers: ST(`to`) is the first operand and the destination, ST(`with`) the other.
    pub(crate) fn arith_registers(&mut self, op: Arith, to: u64, with: u64, pops: u64) {
        let Some(b) = self.st(with) else { return };
        let s = self.status();
        self.arith(op, to, b, s, pops);
    }

    fn arith(&mut self, op: Arith, to: u64, b: u128, mut s: Status, pops: u64) {
        let Some(a) = self.st(to) else { return };
        if matches!(op, Arith::Com | Arith::Comp) {
            let ok = self.compare(a, b, true, s);
            if ok {
                self.pop(pops + u64::from(op == Arith::Comp));
            }
            return;
        }
        let r = match op {
            Arith::Add => add::add::<X80, X80>(a, b, &mut s),
            Arith::Mul => mul::mul::<X80, X80>(a, b, &mut s),
            Arith::Sub => add::sub::<X80, X80>(a, b, &mut s),
            Arith::Subr => add::sub::<X80, X80>(b, a, &mut s),
            Arith::Div => div::div::<X80, X80>(a, b, &mut s),
            _ => div::div::<X80, X80>(b, a, &mut s),
        };
        if self.raised(s.flags) {
            self.set_st(to, r);
            self.pop(pops);
        }
    }

    /// Sets C3, C2 and C0; true if no unmasked exception stands in the way of pops.
    fn compare(&mut self, a: u128, b: u128, signalling: bool, mut s: Status) -> bool {
        let bits = match compare::compare::<X80>(a, b, signalling, &mut s) {
            Relation::Greater => 0,
            Relation::Less => sw::C0,
            Relation::Equal => sw::C3,
            Relation::Unordered => sw::C3 | sw::C2 | sw::C0,
        };
        self.fsw = self.fsw & !(sw::C0 | sw::C1 | sw::C2 | sw::C3) | bits;
        self.raised(s.flags)
    }

    /// FUCOM and FCOM with ST(i).
    pub(crate) fn compare_registers(&mut self, i: u64, signalling: bool, pops: u64) {
        let (Some(a), Some(b)) = (self.st(0), self.st(i)) else { return };
        let s = self.status();
        if self.compare(a, b, signalling, s) {
            self.pop(pops);
        }
    }

    /// FCOMI and FUCOMI: the flags C, Z and P in their packed places.
    pub(crate) fn compare_flags(&mut self, i: u64, signalling: bool, pops: u64) -> u64 {
        let unordered = 1 | 2 | 16;
        self.set_c1(false);
        let (Some(a), Some(b)) = (self.st(0), self.st(i)) else { return unordered };
        let mut s = self.status();
        let bits = match compare::compare::<X80>(a, b, signalling, &mut s) {
            Relation::Greater => 0,
            Relation::Less => 1,
            Relation::Equal => 2,
            Relation::Unordered => unordered,
        };
        if self.raised(s.flags) {
            self.pop(pops);
        }
        bits
    }

    /// Instructions without operand.
    pub(crate) fn unary(&mut self, op: Unary) {
        match op {
            Unary::Xam => return self.examine(),
            Unary::Incstp => {
                self.top = (self.top + 1) & 7;
                return self.set_c1(false);
            }
            Unary::Decstp => {
                self.top = self.top.wrapping_sub(1) & 7;
                return self.set_c1(false);
            }
            Unary::One | Unary::L2t | Unary::L2e | Unary::Pi | Unary::Lg2 | Unary::Ln2 | Unary::Zero => {
                self.set_c1(false);
                let v = self.constant(op);
                return self.push(v);
            }
            _ => {}
        }
        let Some(a) = self.st(0) else { return };
        let mut s = self.status();
        let r = match op {
            Unary::Chs | Unary::Abs => {
                self.set_c1(false);
                if self.ftw >> (self.top & 7) & 1 != 0 {
                    let v = if op == Unary::Chs { classify::neg::<X80>(a) } else { classify::abs::<X80>(a) };
                    self.set_st(0, v);
                } else {
                    self.set_st(0, a);
                }
                return;
            }
            Unary::Tst => {
                self.compare(a, 0, true, s);
                return;
            }
            Unary::Sqrt => sqrt::sqrt::<X80, X80>(a, &mut s),
            Unary::Rndint => round_int::round_to_int::<X80>(a, s.rounding, true, &mut s),
            Unary::Scale => {
                let Some(b) = self.st(1) else { return };
                self.scaled(a, b, &mut s)
            }
            Unary::Prem | Unary::Prem1 => return self.remainder(a, op == Unary::Prem1),
            Unary::Xtract => return self.extract(a),
            _ => return self.transcendental(op, a),
        };
        if self.raised(s.flags) {
            self.set_st(0, r);
        }
    }

    /// `a` times two to the power of `b`, truncated (FSCALE).
    fn scaled(&self, a: u128, b: u128, s: &mut Status) -> u128 {
        use softfloat::Category as C;
        let (ca, cb) = (classify::category::<X80>(a, s), classify::category::<X80>(b, s));
        let nan = |c: C| matches!(c, C::QuietNan | C::SignalingNan | C::Unsupported);
        if nan(ca) || nan(cb) {
            // Which of them, and whether it signals, is addition's affair.
            return add::add::<X80, X80>(a, b, s);
        }
        if cb == C::Infinite {
            let down = sign_of(b) != 0;
            let undefined = if down { ca == C::Infinite } else { ca == C::Zero };
            if undefined {
                s.raise(Flags::INVALID);
                return super::INDEFINITE;
            }
            return sign_of(a) | if down { 0 } else { 0x7fff_8000_0000_0000_0000 };
        }
        let mut quiet = Status::x87();
        let n = softfloat::ops::integer::to_int::<X80, i32>(b, 0, RoundingMode::TowardZero, &mut quiet);
        let n = n.or(if sign_of(b) != 0 { -0x1_0000 } else { 0x1_0000 }).clamp(-0x1_0000, 0x1_0000);
        s.precision = softfloat::Precision::Extended;
        scale::scalbn::<X80>(a, n, s)
    }

    fn remainder(&mut self, a: u128, nearest: bool) {
        let Some(b) = self.st(1) else { return };
        let mut s = self.status();
        let kind = if nearest { Quotient::Nearest } else { Quotient::Truncated };
        let r = rem::rem_partial::<X80>(a, b, kind, &mut s);
        let invalid = s.flags.contains(Flags::INVALID);
        if !self.raised(s.flags) {
            return;
        }
        self.set_st(0, r.value);
        let mut bits = 0;
        if !invalid {
            if r.complete {
                let q = r.quotient;
                // C0, C3 and C1 are bits 2, 1 and 0.
                bits = ((q >> 2 & 1) * sw::C0) | ((q >> 1 & 1) * sw::C3) | ((q & 1) * sw::C1);
            } else {
                bits = sw::C2;
            }
        }
        self.fsw = self.fsw & !(sw::C0 | sw::C1 | sw::C2 | sw::C3) | bits;
    }

    /// The exponent to ST(0), then the significand on top of it.
    fn extract(&mut self, a: u128) {
        let mut s = self.status();
        let exponent = scale::logb::<X80>(a, &mut s);
        let mut quiet = self.status();
        let significand = scale::significand::<X80>(a, &mut quiet);
        if self.raised(s.flags) {
            self.set_st(0, exponent);
            self.push(significand);
        }
    }

    /// A constant, rounded from 66 bits as the control word says (SDM volume 1, 8.3.8).
    fn constant(&self, op: Unary) -> u128 {
        // Truncated to 64 bits; whether the rest is above a half, which decides rounding to nearest.
        let (exponent, significand, more): (u128, u64, bool) = match op {
            Unary::One => return 0x3fff_8000_0000_0000_0000,
            Unary::L2t => (0x4000, 0xd49a_784b_cd1b_8afe, false),
            Unary::L2e => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
            Unary::Pi => (0x4000, 0xc90f_daa2_2168_c234, true),
            Unary::Lg2 => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
            Unary::Ln2 => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
            _ => return 0,
        };
        let up = match self.fcw >> 10 & 3 {
            0 => more,
            2 => true,
            _ => false,
        };
        exponent << 64 | u128::from(significand + u64::from(up))
    }
}
