//! Types of values, conditions and flag records.

/// Type of a value. Widths are part of the type; the same operation works on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Type {
    /// No value.
    Void,
    /// 8-bit integer.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 128-bit integer.
    I128,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// 64-bit vector.
    V64,
    /// 128-bit vector.
    V128,
    /// 256-bit vector.
    V256,
    /// 512-bit vector.
    V512,
    /// Flag record: the operation that produced the flags and its operands (see [`FlagKind`]).
    Flags,
}

impl Type {
    /// All types.
    pub const ALL: [Self; 14] = [
        Self::Void,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::I128,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::V64,
        Self::V128,
        Self::V256,
        Self::V512,
        Self::Flags,
    ];

    /// Bytes the type takes in guest state; a flag record takes 32 (`u32` kind and width, 4 bytes unused, three `u64`).
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Void => 0,
            Self::I8 => 1,
            Self::I16 | Self::F16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 | Self::V64 => 8,
            Self::I128 | Self::V128 => 16,
            Self::V256 | Self::Flags => 32,
            Self::V512 => 64,
        }
    }

    /// Width in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bytes() as u32 * 8
    }

    /// True for `i8` to `i128`.
    #[must_use]
    pub const fn is_int(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64 | Self::I128)
    }

    /// True for `f16`, `f32`, `f64`.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }

    /// True for `v64` to `v512`.
    #[must_use]
    pub const fn is_vector(self) -> bool {
        matches!(self, Self::V64 | Self::V128 | Self::V256 | Self::V512)
    }

    /// All ones in the width of an integer type of at most 64 bits.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self.bytes() {
            0 => 0,
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    /// Name in printed IR.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Void => "void",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::V64 => "v64",
            Self::V128 => "v128",
            Self::V256 => "v256",
            Self::V512 => "v512",
            Self::Flags => "flags",
        }
    }
}

macro_rules! named_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name in printed IR.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The variant with number `n`; the first one if there is none.
            #[must_use]
            pub const fn from_bits(n: u16) -> Self {
                if (n as usize) < Self::ALL.len() { Self::ALL[n as usize] } else { Self::ALL[0] }
            }
        }
    };
}
pub(crate) use named_enum;

named_enum! {
    /// Integer comparison, and what a `flagcond` asks of a flag record.
    Cond {
        /// Equal (Z).
        Eq = "eq",
        /// Not equal.
        Ne = "ne",
        /// Signed less (N != V).
        Lt = "lt",
        /// Signed greater or equal.
        Ge = "ge",
        /// Signed less or equal.
        Le = "le",
        /// Signed greater.
        Gt = "gt",
        /// Unsigned less (borrow).
        Ltu = "ltu",
        /// Unsigned greater or equal.
        Geu = "geu",
        /// Unsigned less or equal.
        Leu = "leu",
        /// Unsigned greater.
        Gtu = "gtu",
        /// `a & b` is zero (comparisons only).
        TestZ = "tz",
        /// `a & b` is not zero (comparisons only).
        TestNz = "tnz",
        /// Negative (flag records only).
        Neg = "neg",
        /// Not negative (flag records only).
        Pos = "pos",
        /// Overflow (flag records only).
        Ov = "ov",
        /// No overflow (flag records only).
        NoOv = "nov",
        /// Even parity of the low byte (flag records only).
        ParE = "pe",
        /// Odd parity (flag records only).
        ParO = "po",
    }
}

impl Cond {
    /// The opposite condition.
    #[must_use]
    pub const fn negate(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Lt => Self::Ge,
            Self::Ge => Self::Lt,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Ltu => Self::Geu,
            Self::Geu => Self::Ltu,
            Self::Leu => Self::Gtu,
            Self::Gtu => Self::Leu,
            Self::TestZ => Self::TestNz,
            Self::TestNz => Self::TestZ,
            Self::Neg => Self::Pos,
            Self::Pos => Self::Neg,
            Self::Ov => Self::NoOv,
            Self::NoOv => Self::Ov,
            Self::ParE => Self::ParO,
            Self::ParO => Self::ParE,
        }
    }

    /// The condition with its operands exchanged.
    #[must_use]
    pub const fn swap(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Gt => Self::Lt,
            Self::Le => Self::Ge,
            Self::Ge => Self::Le,
            Self::Ltu => Self::Gtu,
            Self::Gtu => Self::Ltu,
            Self::Leu => Self::Geu,
            Self::Geu => Self::Leu,
            c => c,
        }
    }
}

named_enum! {
    /// Floating-point comparison. Each is false when an operand is a NaN, except `Un`.
    FCond {
        /// Equal.
        Eq = "eq",
        /// Less.
        Lt = "lt",
        /// Less or equal.
        Le = "le",
        /// Unordered.
        Un = "un",
    }
}

named_enum! {
    /// What produced a flag record. With `a`, `b`, `c` the operands of `flags` and `w` the width of its type:
    FlagKind {
        /// `a + b`.
        Add = "add",
        /// `a + b + c`, c being 0 or 1.
        Adc = "adc",
        /// `a - b`; C is the borrow.
        Sub = "sub",
        /// `a - b - c`.
        Sbb = "sbb",
        /// Result `a` of a logical operation: C and V are clear.
        Logic = "logic",
        /// `a + 1`; C is `c`.
        Inc = "inc",
        /// `a - 1`; C is `c`.
        Dec = "dec",
        /// `a << b`, `0 < b <= w`; C is the last bit shifted out.
        Shl = "shl",
        /// `a >> b` unsigned, `0 < b <= w`.
        Shr = "shr",
        /// `a >> b` signed, `0 < b <= w`.
        Sar = "sar",
        /// Low half `a` and high half `b` of an unsigned product: C = V = (b != 0).
        Mulu = "mulu",
        /// Low half `a` and high half `b` of a signed product: C = V = (b is not the sign of a).
        Muls = "muls",
        /// Packed [`FlagBits`] in `a`.
        Bits = "bits",
        /// Floats compared whose bits are `a` and `b`, binary64 if the type is i64, else binary32: C is less, Z equal, and
        /// C, Z and P are set if they cannot be compared. Bit 0 of `c`: denormals count as zeros. Nothing is raised.
        Compare = "compare",
    }
}

/// Flags in Rhea's neutral packing, as `flagget` returns and `FlagKind::Bits` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagBits;

impl FlagBits {
    /// Carry, or borrow after a subtraction.
    pub const C: u64 = 1;
    /// Zero.
    pub const Z: u64 = 2;
    /// Negative.
    pub const N: u64 = 4;
    /// Overflow.
    pub const V: u64 = 8;
    /// Even parity of the low byte of the result.
    pub const P: u64 = 16;
    /// Carry out of bit 3.
    pub const A: u64 = 32;
}

named_enum! {
    /// Lane of a vector operation.
    Lane {
        /// 8-bit integers.
        I8 = "i8",
        /// 16-bit integers.
        I16 = "i16",
        /// 32-bit integers.
        I32 = "i32",
        /// 64-bit integers.
        I64 = "i64",
        /// binary32.
        F32 = "f32",
        /// binary64.
        F64 = "f64",
    }
}

impl Lane {
    /// Bytes a lane takes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }
}
