//! NaN results: which operand's payload survives, how a signaling NaN is quieted, what the default
//! NaN looks like. IEEE 754-2019 section 6.2 leaves all of this to the implementation, and every
//! guest architecture filled it in its own way; each has a named [`NanPolicy`] here.
//!
//! Sources: Intel SDM volume 1 table 4-7 and the FMA rules of chapter 14, Arm ARM `FPProcessNaNs` and `FPMulAdd`, Power ISA
//! book I 4.3.2 and 4.6, z/Architecture "IEEE computations", MIPS volume I-A "FPU", SPARC V9 appendix B.

use crate::format::Format;
use crate::parts::{Class, Parts};
use crate::status::{Flags, Status};
use crate::word::Frac;

/// The bit pattern of a NaN the machine makes itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultNan {
    /// Sign clear, only the quiet bit set (RISC-V, Arm, PowerPC, s390x, MIPS 2008, LoongArch).
    #[default]
    Positive,
    /// Sign set, only the quiet bit set (x86's "indefinite", Alpha).
    Negative,
    /// Sign clear, the fraction all ones (SPARC, m68k).
    AllOnes,
    /// Sign set, the fraction all ones (Hexagon).
    NegativeAllOnes,
    /// Sign clear, the fraction's top bit clear and the others set (legacy MIPS, SH-4).
    Inverted,
    /// Sign clear, only the fraction's second bit set (PA-RISC).
    SecondBit,
}

/// Which of two NaN operands an operation returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TwoNans {
    /// The first operand if it is a NaN, else the second (SSE, PowerPC, m68k).
    #[default]
    First,
    /// The first signaling NaN, else the first NaN (Arm, MIPS, s390x, PA-RISC).
    SignalingThenFirst,
    /// The last signaling NaN, else the last NaN (SPARC).
    SignalingThenSecond,
    /// The quiet one if the other signals, else the larger significand, else the positive one.
    X87,
}

/// In which order the operands of `a * b + c` are searched for the NaN to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ThreeNans {
    /// a, b, c (x86).
    #[default]
    Abc,
    /// a, c, b (PowerPC).
    Acb,
    /// Signaling before quiet; a, b, c (s390x, PA-RISC, legacy MIPS).
    SignalingAbc,
    /// Signaling before quiet; c, a, b (Arm, MIPS 2008, LoongArch).
    SignalingCab,
    /// Signaling before quiet; c, b, a (SPARC).
    SignalingCba,
}

/// What infinity * 0 + NaN gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InfZeroNan {
    /// The addend, quieted; invalid is raised only if it signals (x86, SPARC).
    AddendNoInvalid,
    /// The addend, quieted; invalid is raised (PowerPC, legacy MIPS, LoongArch).
    #[default]
    Addend,
    /// The default NaN; invalid is raised (s390x, MIPS 2008).
    Default,
    /// The default NaN for a quiet addend, the addend's own for a signaling one; invalid is raised (Arm).
    DefaultIfQuiet,
}

/// How a signaling NaN becomes quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quieting {
    /// Its fraction's top bit is set.
    #[default]
    SetTop,
    /// It is replaced by the default NaN (legacy MIPS, SH-4).
    Replace,
    /// Its fraction's top bit is cleared and the second set (PA-RISC).
    ClearTopSetSecond,
}

/// The complete NaN rule of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NanPolicy {
    /// Every NaN result is the default NaN (RISC-V; Arm's FPCR.DN).
    pub always_default: bool,
    /// A set top fraction bit marks a *signaling* NaN (legacy MIPS, SH-4, PA-RISC).
    pub signaling_bit_set: bool,
    /// The NaN of an invalid operation.
    pub default: DefaultNan,
    /// Choice between two operands.
    pub two: TwoNans,
    /// Choice between the three operands of a fused multiply-add.
    pub three: ThreeNans,
    /// Rule for infinity * 0 + NaN.
    pub inf_zero: InfZeroNan,
    /// Signaling to quiet.
    pub quieting: Quieting,
}

impl NanPolicy {
    const BASE: NanPolicy = NanPolicy {
        always_default: false,
        signaling_bit_set: false,
        default: DefaultNan::Positive,
        two: TwoNans::SignalingThenFirst,
        three: ThreeNans::SignalingAbc,
        inf_zero: InfZeroNan::Addend,
        quieting: Quieting::SetTop,
    };

    /// RISC-V F, D, Q, Zfh.
    pub const RISCV: NanPolicy =
        NanPolicy { always_default: true, inf_zero: InfZeroNan::Default, ..NanPolicy::BASE };
    /// x86 SSE, AVX, FMA.
    pub const X86_SSE: NanPolicy = NanPolicy {
        default: DefaultNan::Negative,
        two: TwoNans::First,
        three: ThreeNans::Abc,
        inf_zero: InfZeroNan::AddendNoInvalid,
        ..NanPolicy::BASE
    };
    /// x87.
    pub const X87: NanPolicy = NanPolicy { two: TwoNans::X87, ..NanPolicy::X86_SSE };
    /// Arm and AArch64 with FPCR.DN clear.
    pub const ARM: NanPolicy =
        NanPolicy { three: ThreeNans::SignalingCab, inf_zero: InfZeroNan::DefaultIfQuiet, ..NanPolicy::BASE };
    /// PowerPC and VSX scalar and vector.
    pub const PPC: NanPolicy = NanPolicy { two: TwoNans::First, three: ThreeNans::Acb, ..NanPolicy::BASE };
    /// s390x binary floating point.
    pub const S390X: NanPolicy = NanPolicy { inf_zero: InfZeroNan::Default, ..NanPolicy::BASE };
    /// MIPS with FCSR.NAN2008 set.
    pub const MIPS_2008: NanPolicy =
        NanPolicy { three: ThreeNans::SignalingCab, inf_zero: InfZeroNan::Default, ..NanPolicy::BASE };
    /// MIPS before NaN2008.
    pub const MIPS_LEGACY: NanPolicy = NanPolicy {
        signaling_bit_set: true,
        default: DefaultNan::Inverted,
        quieting: Quieting::Replace,
        ..NanPolicy::BASE
    };
    /// SH-4: as legacy MIPS, and no payload ever survives.
    pub const SH4: NanPolicy = NanPolicy { always_default: true, ..NanPolicy::MIPS_LEGACY };
    /// PA-RISC.
    pub const HPPA: NanPolicy = NanPolicy {
        signaling_bit_set: true,
        default: DefaultNan::SecondBit,
        quieting: Quieting::ClearTopSetSecond,
        ..NanPolicy::BASE
    };
    /// SPARC V8 and V9.
    pub const SPARC: NanPolicy = NanPolicy {
        default: DefaultNan::AllOnes,
        two: TwoNans::SignalingThenSecond,
        three: ThreeNans::SignalingCba,
        inf_zero: InfZeroNan::AddendNoInvalid,
        ..NanPolicy::BASE
    };
    /// m68k and ColdFire.
    pub const M68K: NanPolicy =
        NanPolicy { default: DefaultNan::AllOnes, two: TwoNans::First, ..NanPolicy::BASE };
    /// LoongArch.
    pub const LOONGARCH: NanPolicy = NanPolicy { three: ThreeNans::SignalingCab, ..NanPolicy::BASE };

    /// Whether a NaN with this fraction (quiet bit at `TOP >> 1`) signals.
    #[inline]
    pub(crate) fn signals<T: Frac>(&self, frac: T) -> bool {
        ((frac & (T::TOP >> 1)) != T::ZERO) == self.signaling_bit_set
    }
}

/// The guest's default NaN in format `G`.
#[cold]
pub(crate) fn default_nan<G: Format>(s: &Status) -> G::Bits {
    let second = G::Frac::TOP >> 1;
    let third = second >> 1;
    let ones = !G::Frac::ZERO;
    let (sign, frac) = match s.nan.default {
        DefaultNan::Positive => (false, second),
        DefaultNan::Negative => (true, second),
        DefaultNan::AllOnes => (false, ones),
        DefaultNan::NegativeAllOnes => (true, ones),
        DefaultNan::Inverted => (false, second.wrapping_sub(G::Frac::ONE)),
        DefaultNan::SecondBit => (false, third),
    };
    G::assemble(sign, G::EXP_MAX, (frac | G::Frac::TOP) >> G::SHIFT)
}

/// Raises invalid for `cause` and returns the default NaN.
#[cold]
pub(crate) fn invalid<G: Format>(cause: Flags, s: &mut Status) -> G::Bits {
    s.raise(Flags::INVALID | cause);
    default_nan::<G>(s)
}

/// The NaN operand `p` as a result: quieted, or the default one where the policy says so.
/// `frac` is in the destination's fraction type already.
#[cold]
fn quieted<G: Format>(class: Class, sign: bool, frac: G::Frac, s: &Status) -> G::Bits {
    let second = G::Frac::TOP >> 1;
    if class == Class::UNSUPPORTED || s.nan.always_default {
        return default_nan::<G>(s);
    }
    let mut frac = frac;
    if class == Class::SNAN {
        match s.nan.quieting {
            Quieting::SetTop => frac = frac | second,
            Quieting::Replace => return default_nan::<G>(s),
            Quieting::ClearTopSetSecond => frac = (frac & !second) | (second >> 1),
        }
    }
    let payload = (frac << 1) >> (G::SHIFT + 1);
    if payload == G::Frac::ZERO {
        // A narrowing conversion dropped every bit that made this a NaN.
        return default_nan::<G>(s);
    }
    G::assemble(sign, G::EXP_MAX, (frac | G::Frac::TOP) >> G::SHIFT)
}

/// Raises invalid if one of the classes in `any` signals.
#[inline]
pub(crate) fn raise_signaling(any: Class, s: &mut Status) {
    if any.meets(Class::SNAN | Class::UNSUPPORTED) {
        s.raise(Flags::INVALID | Flags::INVALID_SNAN);
    }
}

/// Result of a one-operand operation on the NaN `a`.
#[cold]
pub(crate) fn propagate1<G: Format>(a: &Parts<G::Frac>, s: &mut Status) -> G::Bits {
    raise_signaling(a.class, s);
    quieted::<G>(a.class, a.sign, a.frac, s)
}

/// Result of a two-operand operation, at least one operand a NaN.
#[cold]
pub(crate) fn propagate2<G: Format>(a: &Parts<G::Frac>, b: &Parts<G::Frac>, s: &mut Status) -> G::Bits {
    let any = a.class | b.class;
    raise_signaling(any, s);
    if any.meets(Class::UNSUPPORTED) {
        return default_nan::<G>(s);
    }
    let pick = match s.nan.two {
        TwoNans::First => first_nan([a, b]),
        TwoNans::SignalingThenFirst => first_signaling([a, b]),
        TwoNans::SignalingThenSecond => first_signaling([b, a]),
        TwoNans::X87 => larger_significand(a, b),
    };
    quieted::<G>(pick.class, pick.sign, pick.frac, s)
}

/// Result of `a * b + c`, at least one operand a NaN.
#[cold]
pub(crate) fn propagate3<G: Format>(
    a: &Parts<G::Frac>,
    b: &Parts<G::Frac>,
    c: &Parts<G::Frac>,
    s: &mut Status,
) -> G::Bits {
    let product = a.class | b.class;
    let any = product | c.class;
    raise_signaling(any, s);
    if any.meets(Class::UNSUPPORTED) {
        return default_nan::<G>(s);
    }
    if product == Class::INF | Class::ZERO {
        let rule = s.nan.inf_zero;
        if rule != InfZeroNan::AddendNoInvalid {
            s.raise(Flags::INVALID | Flags::INVALID_IMZ);
        }
        let default = match rule {
            InfZeroNan::AddendNoInvalid | InfZeroNan::Addend => false,
            InfZeroNan::Default => true,
            InfZeroNan::DefaultIfQuiet => c.class == Class::QNAN,
        };
        if default {
            return default_nan::<G>(s);
        }
    }
    let pick = match s.nan.three {
        ThreeNans::Abc => first_nan([a, b, c]),
        ThreeNans::Acb => first_nan([a, c, b]),
        ThreeNans::SignalingAbc => first_signaling([a, b, c]),
        ThreeNans::SignalingCab => first_signaling([c, a, b]),
        ThreeNans::SignalingCba => first_signaling([c, b, a]),
    };
    quieted::<G>(pick.class, pick.sign, pick.frac, s)
}

/// The first NaN of `operands`, at least one of which is one.
fn first_nan<T: Frac, const N: usize>(operands: [&Parts<T>; N]) -> &Parts<T> {
    operands.into_iter().find(|p| p.class.meets(Class::NAN)).unwrap_or(operands[0])
}

/// The first signaling NaN of `operands`, else the first NaN.
fn first_signaling<T: Frac, const N: usize>(operands: [&Parts<T>; N]) -> &Parts<T> {
    operands.into_iter().find(|p| p.class == Class::SNAN).unwrap_or_else(|| first_nan(operands))
}

/// x87: quiet beats signaling, then the larger significand, then the positive sign.
fn larger_significand<'a, T: Frac>(a: &'a Parts<T>, b: &'a Parts<T>) -> &'a Parts<T> {
    match (a.class.meets(Class::NAN), b.class.meets(Class::NAN)) {
        (true, false) => return a,
        (false, true) => return b,
        _ => {}
    }
    if a.class != b.class {
        return if a.class == Class::QNAN { a } else { b };
    }
    match a.frac.cmp(&b.frac) {
        core::cmp::Ordering::Greater => a,
        core::cmp::Ordering::Less => b,
        core::cmp::Ordering::Equal if a.sign => b,
        core::cmp::Ordering::Equal => a,
    }
}
