//! The floating-point environment of one operation: what a guest's control register chooses
//! (rounding, NaN rule, tininess, flushing, x87 precision) and what it reads back (sticky flags).
//!
//! IEEE 754-2019 sections 4 (rounding attributes) and 7 (exceptions). Invariant: operations only
//! ever *set* bits in [`Status::flags`]; clearing is the guest's.

use crate::nan::NanPolicy;

/// Rounding-direction attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RoundingMode {
    /// To nearest, ties to even (`roundTiesToEven`).
    #[default]
    NearestEven,
    /// Toward zero.
    TowardZero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// To nearest, ties away from zero (`roundTiesToAway`, RISC-V's RMM).
    NearestAway,
    /// Truncate, then set the last bit if inexact: von Neumann's rounding, safe to round again.
    Odd,
}

/// When a result counts as tiny, and so may underflow (IEEE 754-2019 section 7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tininess {
    /// Decided on the result rounded as if the exponent were unbounded (x86, RISC-V, MIPS).
    #[default]
    AfterRounding,
    /// Decided on the exact result (Arm, PowerPC, s390x).
    BeforeRounding,
}

/// What becomes of a tiny non-zero result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlushToZero {
    /// It is delivered as a subnormal number.
    #[default]
    Off,
    /// It becomes a zero and raises underflow only (Arm's FPCR.FZ).
    Underflow,
    /// It becomes a zero and raises underflow and inexact (x86's MXCSR.FTZ, MIPS's FCSR.FS).
    UnderflowInexact,
}

/// x87 precision control: the significand width [`crate::x80`] arithmetic rounds to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 24 bits, with the extended format's exponent range.
    Single,
    /// 53 bits, with the extended format's exponent range.
    Double,
    /// The whole 64 bits.
    #[default]
    Extended,
}

/// A set of exception flags. The low five bits are laid out as RISC-V's `fflags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The result differs from the exact one.
    pub const INEXACT: Flags = Flags(1 << 0);
    /// Tiny and inexact.
    pub const UNDERFLOW: Flags = Flags(1 << 1);
    /// Larger than the largest finite number.
    pub const OVERFLOW: Flags = Flags(1 << 2);
    /// A finite non-zero number divided by zero.
    pub const DIV_BY_ZERO: Flags = Flags(1 << 3);
    /// No usefully definable result.
    pub const INVALID: Flags = Flags(1 << 4);
    /// A subnormal operand took part in the computation (x86's DE; not raised when a NaN, an
    /// invalid operation or a division by zero decides the result).
    pub const INPUT_DENORMAL: Flags = Flags(1 << 5);
    /// A subnormal operand was replaced by zero (Arm's IDC).
    pub const INPUT_FLUSHED: Flags = Flags(1 << 6);
    /// Rounding increased the magnitude (x87's C1, PowerPC's FR). Clear it before the operation.
    pub const ROUNDED_UP: Flags = Flags(1 << 7);
    /// The result is tiny, exact or not: what an *unmasked* underflow traps on.
    pub const TINY: Flags = Flags(1 << 8);

    /// Cause of INVALID: a signaling NaN (PowerPC's VXSNAN).
    pub const INVALID_SNAN: Flags = Flags(1 << 16);
    /// Cause of INVALID: infinity minus infinity (VXISI).
    pub const INVALID_ISI: Flags = Flags(1 << 17);
    /// Cause of INVALID: infinity divided by infinity (VXIDI).
    pub const INVALID_IDI: Flags = Flags(1 << 18);
    /// Cause of INVALID: zero divided by zero (VXZDZ).
    pub const INVALID_ZDZ: Flags = Flags(1 << 19);
    /// Cause of INVALID: infinity times zero (VXIMZ).
    pub const INVALID_IMZ: Flags = Flags(1 << 20);
    /// Cause of INVALID: square root of a negative number (VXSQRT).
    pub const INVALID_SQRT: Flags = Flags(1 << 21);
    /// Cause of INVALID: a number no integer of the wanted width can hold (VXCVI).
    pub const INVALID_CONVERT: Flags = Flags(1 << 22);
    /// Cause of INVALID: an ordered comparison of a NaN (VXVC).
    pub const INVALID_COMPARE: Flags = Flags(1 << 23);

    /// The five exceptions of IEEE 754.
    pub const IEEE: Flags = Flags(0x1f);

    /// Whether every flag of `other` is set.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The five IEEE flags alone, in the layout of RISC-V's `fflags`.
    #[inline]
    pub const fn ieee(self) -> u32 {
        self.0 & Flags::IEEE.0
    }
}

impl core::ops::BitOr for Flags {
    type Output = Flags;
    #[inline]
    fn bitor(self, rhs: Flags) -> Flags {
        Flags(self.0 | rhs.0)
    }
}

impl core::ops::BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, rhs: Flags) {
        self.0 |= rhs.0;
    }
}

impl core::ops::BitAnd for Flags {
    type Output = Flags;
    #[inline]
    fn bitand(self, rhs: Flags) -> Flags {
        Flags(self.0 & rhs.0)
    }
}

/// The environment an operation reads and the flags it accumulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Rounding direction.
    pub rounding: RoundingMode,
    /// Sticky exception flags; operations only set bits.
    pub flags: Flags,
    /// How a NaN result is made.
    pub nan: NanPolicy,
    /// When a result is tiny.
    pub tininess: Tininess,
    /// What becomes of tiny results.
    pub flush_to_zero: FlushToZero,
    /// Subnormal operands count as zeros of their sign.
    pub denormals_are_zero: bool,
    /// Width of the significand of [`crate::x80`] results.
    pub precision: Precision,
    /// An overflow traps: deliver the result with its exponent lowered by 3/4 of the field's range
    /// (IEEE 754-1985 section 7.3; x87 and PowerPC with the exception unmasked).
    pub wrap_overflow: bool,
    /// A tiny result traps, exact or not: deliver it with its exponent raised likewise.
    pub wrap_underflow: bool,
}

impl Status {
    /// Round to nearest even, no flag, the given NaN rule.
    pub const fn new(nan: NanPolicy, tininess: Tininess) -> Status {
        Status {
            rounding: RoundingMode::NearestEven,
            flags: Flags::NONE,
            nan,
            tininess,
            flush_to_zero: FlushToZero::Off,
            denormals_are_zero: false,
            precision: Precision::Extended,
            wrap_overflow: false,
            wrap_underflow: false,
        }
    }

    /// RISC-V: every NaN result is the canonical one, tininess after rounding (F extension, 11.3).
    pub const fn riscv() -> Status {
        Status::new(NanPolicy::RISCV, Tininess::AfterRounding)
    }

    /// x86 SSE and AVX with MXCSR at its reset value.
    pub const fn x86_sse() -> Status {
        Status::new(NanPolicy::X86_SSE, Tininess::AfterRounding)
    }

    /// x87 with the control word as FNINIT leaves it.
    pub const fn x87() -> Status {
        Status::new(NanPolicy::X87, Tininess::AfterRounding)
    }

    /// Arm and AArch64 with FPCR zero.
    pub const fn arm() -> Status {
        Status::new(NanPolicy::ARM, Tininess::BeforeRounding)
    }

    /// PowerPC with FPSCR zero.
    pub const fn ppc() -> Status {
        Status::new(NanPolicy::PPC, Tininess::BeforeRounding)
    }

    /// s390x binary floating point with FPC zero.
    pub const fn s390x() -> Status {
        Status::new(NanPolicy::S390X, Tininess::BeforeRounding)
    }

    /// MIPS with FCSR.NAN2008 set.
    pub const fn mips_2008() -> Status {
        Status::new(NanPolicy::MIPS_2008, Tininess::AfterRounding)
    }

    /// MIPS before NaN2008.
    pub const fn mips_legacy() -> Status {
        Status::new(NanPolicy::MIPS_LEGACY, Tininess::AfterRounding)
    }

    /// Sets every flag of `flags`.
    #[inline]
    pub fn raise(&mut self, flags: Flags) {
        self.flags |= flags;
    }
}
