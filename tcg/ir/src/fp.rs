//! Attributes of floating-point operations.

use bitflags::bitflags;

use crate::types::named_enum;

named_enum! {
    /// Rounding. There is no dynamic mode: a guest whose rounding mode is state makes it part of the unit's key.
    Rounding {
        /// To nearest, ties to even.
        NearestEven = "rne",
        /// Toward zero.
        Zero = "rtz",
        /// Toward minus infinity.
        Down = "rdn",
        /// Toward plus infinity.
        Up = "rup",
        /// To nearest, ties away from zero.
        NearestAway = "rmm",
        /// To odd (von Neumann).
        Odd = "odd",
    }
}

named_enum! {
    /// Which NaN an operation yields.
    NanPolicy {
        /// Always the positive quiet NaN with an empty payload (RISC-V, ARM with DN).
        Canonical = "canon",
        /// The first NaN operand made quiet; the negative default NaN if none is one (x86 SSE).
        X86 = "x86",
        /// The first signalling, else the first quiet operand; the positive default NaN if none is one (ARM).
        Arm = "arm",
        /// The first NaN operand in the order a, c, b; the positive default NaN if none is one (PowerPC).
        Ppc = "ppc",
    }
}

named_enum! {
    /// What `fmin` and `fmax` do with NaNs and zeros.
    MinMax {
        /// A number beats a NaN, -0 is less than +0; signalling NaNs raise invalid (RISC-V, IEEE 754-2019 minimumNumber).
        Number = "num",
        /// A NaN operand makes the result a NaN (ARM FMIN, IEEE 754-2019 minimum).
        Nan = "nan",
        /// The second operand if either is a NaN or both are zeros (x86).
        X86 = "x86",
    }
}

named_enum! {
    /// What a conversion to an integer gives when the value does not fit.
    IntConv {
        /// The nearest representable value; NaN gives the largest (RISC-V).
        SatNanMax = "satmax",
        /// The nearest representable value; NaN gives zero (ARM).
        SatNanZero = "sat0",
        /// The most negative value of the width, all ones if unsigned (x86).
        Indefinite = "indef",
    }
}

/// How the floating-point unit stands while a unit of code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FpMode {
    /// Rounding of operations that have no other.
    pub rounding: Rounding,
    /// Results that would be denormal are zeros.
    pub flush: bool,
    /// Denormal operands are zeros.
    pub daz: bool,
}

impl From<Rounding> for FpMode {
    fn from(rounding: Rounding) -> Self {
        Self { rounding, flush: false, daz: false }
    }
}

/// Attributes of a floating-point operation, packed into 16 bits (the instruction's `sub` field):
/// 0-2 [`Rounding`], 3-5 [`NanPolicy`], 6 tininess before rounding, 7 flush results to zero, 8 denormal operands
/// are zero, 9 raises no exceptions, 10 negate the product, 11 negate the addend (`fma`),
/// 12-13 [`MinMax`] or [`IntConv`] or [`FCond`](crate::FCond), 14 unsigned integer side (conversions),
/// signalling (comparisons) or without inexact (`frint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FpAttr(pub u16);

impl FpAttr {
    /// Round to nearest even, canonical NaN, tininess after rounding.
    pub const RISCV: Self = Self(0);

    /// Rounding.
    #[must_use]
    pub const fn rounding(self) -> Rounding {
        Rounding::from_bits(self.0 & 7)
    }

    /// NaN policy.
    #[must_use]
    pub const fn nan(self) -> NanPolicy {
        NanPolicy::from_bits(self.0 >> 3 & 7)
    }

    /// True if tininess is detected before rounding.
    #[must_use]
    pub const fn tiny_before(self) -> bool {
        self.0 >> 6 & 1 != 0
    }

    /// True if denormal results are flushed to zero.
    #[must_use]
    pub const fn flush(self) -> bool {
        self.0 >> 7 & 1 != 0
    }

    /// True if denormal operands are taken as zeros.
    #[must_use]
    pub const fn daz(self) -> bool {
        self.0 >> 8 & 1 != 0
    }

    /// True if no exception is recorded.
    #[must_use]
    pub const fn quiet(self) -> bool {
        self.0 >> 9 & 1 != 0
    }

    /// `fma`: the product is negated.
    #[must_use]
    pub const fn neg_product(self) -> bool {
        self.0 >> 10 & 1 != 0
    }

    /// `fma`: the addend is negated.
    #[must_use]
    pub const fn neg_addend(self) -> bool {
        self.0 >> 11 & 1 != 0
    }

    /// The operation's own variant: [`MinMax`], [`IntConv`] or [`FCond`](crate::FCond) by number.
    #[must_use]
    pub const fn variant(self) -> u16 {
        self.0 >> 12 & 3
    }

    /// Conversions: the integer is unsigned. Comparisons: quiet NaNs raise invalid too.
    #[must_use]
    pub const fn flag(self) -> bool {
        self.0 >> 14 & 1 != 0
    }

    /// With a rounding.
    #[must_use]
    pub const fn with_rounding(self, r: Rounding) -> Self {
        Self(self.0 & !7 | r as u16)
    }

    /// With a NaN policy.
    #[must_use]
    pub const fn with_nan(self, n: NanPolicy) -> Self {
        Self(self.0 & !(7 << 3) | (n as u16) << 3)
    }

    /// With tininess before rounding.
    #[must_use]
    pub const fn with_tiny_before(self) -> Self {
        Self(self.0 | 1 << 6)
    }

    /// Without exceptions.
    #[must_use]
    pub const fn with_quiet(self) -> Self {
        Self(self.0 | 1 << 9)
    }

    /// With the signs of a fused multiply-add.
    #[must_use]
    pub const fn with_negate(self, product: bool, addend: bool) -> Self {
        Self(self.0 | (product as u16) << 10 | (addend as u16) << 11)
    }

    /// With the operation's own variant.
    #[must_use]
    pub const fn with_variant(self, v: u16) -> Self {
        Self(self.0 & !(3 << 12) | (v & 3) << 12)
    }

    /// With the operation's own flag.
    #[must_use]
    pub const fn with_flag(self, f: bool) -> Self {
        Self(self.0 & !(1 << 14) | (f as u16) << 14)
    }
}

bitflags! {
    /// Sticky exceptions, in the order of x86's MXCSR, so that merging the host's is one `or`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Exceptions: u32 {
        /// Invalid operation.
        const INVALID = 1;
        /// A denormal operand was used.
        const DENORMAL = 2;
        /// Division of a finite number by zero.
        const DIV_BY_ZERO = 4;
        /// Overflow.
        const OVERFLOW = 8;
        /// Underflow.
        const UNDERFLOW = 16;
        /// Inexact result.
        const INEXACT = 32;
    }
}
