//! Vector functions: what `vfn1`, `vfn2` and `vfn3` compute. They are the operations of media, cryptography and byte
//! shuffling that several architectures have in one instruction and that would take many of the general ones.
//!
//! Everything is per block of 128 bits unless the scope says otherwise; `imm` is the operation's immediate, a byte, and
//! what a function does not look at means nothing. The meaning is `interp/vecfn.rs`.

use crate::Type;

/// What a bit of the result depends on, which says on which types a function exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The lane of the same place: every vector type.
    Lanes,
    /// The block of 128 bits of the same place: from `v128` on.
    Blocks,
    /// The lane of the same place and the low 64 bits of `b`: every vector type.
    Uniform,
    /// All of the vector: `v256`, `v512`.
    Whole,
    /// All of the vector: from `v128` on.
    All,
}

impl Scope {
    /// True if functions of this scope exist on vectors of type `ty`.
    #[must_use]
    pub const fn allows(self, ty: Type) -> bool {
        match self {
            Self::Lanes | Self::Uniform => ty.is_vector(),
            Self::Blocks | Self::All => matches!(ty, Type::V128 | Type::V256 | Type::V512),
            Self::Whole => matches!(ty, Type::V256 | Type::V512),
        }
    }
}

macro_rules! functions {
    ($($(#[$meta:meta])* $variant:ident $name:literal $args:literal $scope:ident;)*) => {
        /// A vector function.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum VecFn { $($(#[$meta])* $variant,)* }

        impl VecFn {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            const ROWS: &'static [(&'static str, u8, Scope)] = &[$(($name, $args, Scope::$scope),)*];

            /// Name in printed IR.
            #[must_use]
            pub const fn name(self) -> &'static str {
                Self::ROWS[self as usize].0
            }

            /// Number of vector operands.
            #[must_use]
            pub const fn args(self) -> u8 {
                Self::ROWS[self as usize].1
            }

            /// What results depend on.
            #[must_use]
            pub const fn scope(self) -> Scope {
                Self::ROWS[self as usize].2
            }

            /// The function with number `n`; the first one if there is none.
            #[must_use]
            pub const fn from_bits(n: u16) -> Self {
                if (n as usize) < Self::ALL.len() { Self::ALL[n as usize] } else { Self::ALL[0] }
            }
        }
    };
}

functions! {
    // Lanes.
    /// Signed bytes added, saturated.
    AddS8 "adds8" 2 Lanes;
    /// Signed words added, saturated.
    AddS16 "adds16" 2 Lanes;
    /// Bytes without sign added, saturated.
    AddU8 "addu8" 2 Lanes;
    /// Words without sign added, saturated.
    AddU16 "addu16" 2 Lanes;
    /// Signed bytes subtracted, saturated.
    SubS8 "subs8" 2 Lanes;
    /// Signed words subtracted, saturated.
    SubS16 "subs16" 2 Lanes;
    /// Bytes without sign subtracted, saturated.
    SubU8 "subu8" 2 Lanes;
    /// Words without sign subtracted, saturated.
    SubU16 "subu16" 2 Lanes;
    /// Averages of bytes without sign, rounded up.
    Avg8 "avg8" 2 Lanes;
    /// Averages of words without sign, rounded up.
    Avg16 "avg16" 2 Lanes;
    /// Bytes of `a`, negated or zero as those of `b` are negative or zero.
    Sign8 "sign8" 2 Lanes;
    /// The same of words.
    Sign16 "sign16" 2 Lanes;
    /// The same of double words.
    Sign32 "sign32" 2 Lanes;
    /// Absolute values of bytes.
    Abs8 "abs8" 1 Lanes;
    /// Absolute values of words.
    Abs16 "abs16" 1 Lanes;
    /// Absolute values of double words.
    Abs32 "abs32" 1 Lanes;
    /// Pairs of signed words multiplied, both products of a double word added.
    MulAdd16 "muladd16" 2 Lanes;
    /// Bytes without sign of `a` times signed bytes of `b`, both products of a word added, saturated.
    MulAdd8 "muladd8" 2 Lanes;
    /// Bits 15 to 30 of the products of signed words, rounded.
    MulRound16 "mulround16" 2 Lanes;
    /// Products of the low halves of quadwords, without sign.
    MulU32 "mulu32" 2 Lanes;
    /// The same with sign.
    MulS32 "muls32" 2 Lanes;
    /// Absolute differences of bytes, those of a quadword added.
    Sad8 "sad8" 2 Lanes;
    /// Double words of `a` shifted to the left by those of `b`; 0 from the width on.
    ShlV32 "shlv32" 2 Lanes;
    /// The same of quadwords.
    ShlV64 "shlv64" 2 Lanes;
    /// Double words to the right; 0 from the width on.
    ShrV32 "shrv32" 2 Lanes;
    /// The same of quadwords.
    ShrV64 "shrv64" 2 Lanes;
    /// Double words to the right with sign; the sign from the width on.
    SarV32 "sarv32" 2 Lanes;
    /// Products of bytes in GF(2^8) with the polynomial 11B.
    GfMul "gfmul" 2 Lanes;
    /// Bytes of `a` times the bit matrix in the quadword of `b`, plus `imm`.
    GfAffine "gfaffine" 2 Lanes;
    /// The same of the bytes' inverses.
    GfInverse "gfinverse" 2 Lanes;
    /// Leading zeros of lanes of 1 << `imm & 3` bytes.
    Clz "clz" 1 Lanes;
    /// Number of ones in lanes of 1 << `imm & 3` bytes.
    Ones "ones" 1 Lanes;
    /// Double words of `a` plus the products of four bytes without sign of `b` and signed ones of `c`; of two signed words if
    /// bit 0 of `imm` is set; saturated if bit 1 is.
    Dot "dot" 3 Lanes;
    /// Quadwords of `a` plus the low 52 bits of the product of 52 bits of `b` and `c`; the high ones if bit 0 of `imm` is set.
    Mul52 "mul52" 3 Lanes;
    /// Bytes of the quadword of `b` that begin at the bits that the bytes of `a` name, modulo 64.
    BytesAt "bytesat" 2 Lanes;
    /// All ones in the bytes of `b` that name, modulo 64, a bit of the quadword of `a` that is set.
    BitsAt "bitsat" 2 Lanes;
    /// All ones in binary32 lanes of a class in `imm`: quiet NaN (0), +0, -0, +infinity, -infinity, denormal, negative
    /// and finite, signalling NaN (7).
    Class32 "class32" 1 Lanes;
    /// The same of binary64.
    Class64 "class64" 1 Lanes;
    // Shifts by one count: the low 64 bits of `b`.
    /// Words to the left; 0 from the width on.
    Shl16 "shl16" 2 Uniform;
    /// Double words to the left.
    Shl32 "shl32" 2 Uniform;
    /// Quadwords to the left.
    Shl64 "shl64" 2 Uniform;
    /// Words to the right.
    Shr16 "shr16" 2 Uniform;
    /// Double words to the right.
    Shr32 "shr32" 2 Uniform;
    /// Quadwords to the right.
    Shr64 "shr64" 2 Uniform;
    /// Words to the right with sign; the sign from the width on.
    Sar16 "sar16" 2 Uniform;
    /// Double words to the right with sign.
    Sar32 "sar32" 2 Uniform;
    // Blocks.
    /// Signed words of `a`, then of `b`, saturated to signed bytes.
    PackS16 "packs16" 2 Blocks;
    /// Signed double words to signed words.
    PackS32 "packs32" 2 Blocks;
    /// Signed words to bytes without sign.
    PackU16 "packu16" 2 Blocks;
    /// Signed double words to words without sign.
    PackU32 "packu32" 2 Blocks;
    /// Bytes of `a` and `b` in turn, from their low halves.
    ZipLow8 "ziplow8" 2 Blocks;
    /// Words.
    ZipLow16 "ziplow16" 2 Blocks;
    /// Double words.
    ZipLow32 "ziplow32" 2 Blocks;
    /// Quadwords.
    ZipLow64 "ziplow64" 2 Blocks;
    /// Bytes from the high halves.
    ZipHigh8 "ziphigh8" 2 Blocks;
    /// Words.
    ZipHigh16 "ziphigh16" 2 Blocks;
    /// Double words.
    ZipHigh32 "ziphigh32" 2 Blocks;
    /// Quadwords.
    ZipHigh64 "ziphigh64" 2 Blocks;
    /// Pairs of words of `a`, then of `b`, added.
    AddPairs16 "addpairs16" 2 Blocks;
    /// Pairs of double words.
    AddPairs32 "addpairs32" 2 Blocks;
    /// Pairs of signed words, saturated.
    AddPairsS16 "addpairss16" 2 Blocks;
    /// The second word of each pair subtracted from the first.
    SubPairs16 "subpairs16" 2 Blocks;
    /// The same of double words.
    SubPairs32 "subpairs32" 2 Blocks;
    /// The same of signed words, saturated.
    SubPairsS16 "subpairss16" 2 Blocks;
    /// Byte number `b[i] & 15` of `a`; zero where the top bit of `b[i]` is set.
    Bytes "bytes" 2 Blocks;
    /// The least word without sign, and behind it its number; zeros above.
    Least16 "least16" 1 Blocks;
    /// Double words picked by pairs of bits of `imm`.
    Pick32 "pick32" 1 Blocks;
    /// Words of the low half picked; the high half stays.
    PickLow16 "picklow16" 1 Blocks;
    /// Words of the high half picked; the low half stays.
    PickHigh16 "pickhigh16" 1 Blocks;
    /// Two double words of `a`, then two of `b`, picked by `imm`.
    PickTwo32 "picktwo32" 2 Blocks;
    /// One quadword of `a`, then one of `b`, picked by two bits of `imm` for each block.
    PickTwo64 "picktwo64" 2 Blocks;
    /// Quadwords picked by two bits of `imm` for each block.
    Pick64 "pick64" 1 Blocks;
    /// Double words of `a` picked by the low two bits of those of `b`.
    PickV32 "pickv32" 2 Blocks;
    /// Quadwords of `a` picked by bit 1 of those of `b`.
    PickV64 "pickv64" 2 Blocks;
    /// The bytes of `a` above those of `b`, shifted down by `imm` bytes.
    Align "align" 2 Blocks;
    /// Shifted to the left by `imm` bytes.
    ShlBytes "shlbytes" 1 Blocks;
    /// Shifted to the right by `imm` bytes.
    ShrBytes "shrbytes" 1 Blocks;
    /// Words of `b` where `imm` has ones, of `a` elsewhere.
    Blend16 "blend16" 2 Blocks;
    /// Double words, by four bits of `imm` for each of two blocks.
    Blend32 "blend32" 2 Blocks;
    /// Sums of absolute differences of four bytes of `b` from those of `a` at eight places (MPSADBW).
    SadBlocks "sadblocks" 2 Blocks;
    /// Sums of absolute differences of four bytes of `a` from four of `b`, whose double words `imm` picks, at the same and
    /// the next bytes (VDBPSADBW).
    SadPicked "sadpicked" 2 Blocks;
    /// Carry-less product of the quadwords that bits 0 (of `a`) and 4 (of `b`) of `imm` pick.
    Clmul "clmul" 2 Blocks;
    /// A round of AES encryption of `a` with key `b` (FIPS 197).
    AesEnc "aesenc" 2 Blocks;
    /// Its last round.
    AesEncLast "aesenclast" 2 Blocks;
    /// A round of decryption, for the equivalent inverse cipher.
    AesDec "aesdec" 2 Blocks;
    /// Its last round.
    AesDecLast "aesdeclast" 2 Blocks;
    /// InvMixColumns.
    AesInvMix "aesinvmix" 1 Blocks;
    /// Part of the key schedule with the round constant `imm` (AESKEYGENASSIST).
    AesKey "aeskey" 1 Blocks;
    /// Four rounds of SHA-1 (FIPS 180-4) with the function `imm & 3`.
    Sha1Rounds "sha1rounds" 2 Blocks;
    /// The next E, added to words.
    Sha1Next "sha1next" 2 Blocks;
    /// First part of the message schedule.
    Sha1Msg1 "sha1msg1" 2 Blocks;
    /// Second part.
    Sha1Msg2 "sha1msg2" 2 Blocks;
    /// Two rounds of SHA-256 with words and constants `c`.
    Sha256Rounds "sha256rounds" 3 Blocks;
    /// First part of the message schedule.
    Sha256Msg1 "sha256msg1" 2 Blocks;
    /// Second part.
    Sha256Msg2 "sha256msg2" 2 Blocks;
    // All of a vector.
    /// Double words of `a` picked by those of `b`, modulo their number.
    Gather32 "gather32" 2 Whole;
    /// Quadwords of each 256 bits picked by pairs of bits of `imm`.
    Gather64 "gather64" 1 Whole;
    /// Lanes of 1 << `imm & 3` bytes of `a` picked by those of `b`, modulo their number.
    Gather "gather" 2 All;
    /// The same from the lanes of `a`, then of `c`.
    GatherTwo "gathertwo" 3 All;
    /// Lanes of 1 << `imm & 3` bytes of `a` whose lanes of `b` have their top bits, one after the other; zeros above.
    Compress "compress" 2 All;
    /// Lanes of `a` one after the other where those of `b` have their top bits; zeros elsewhere.
    Expand "expand" 2 All;
    /// Lanes of 1 << `imm & 3` bytes as lanes of 1 << `imm >> 2 & 3`, which are narrower, in the low part: truncated, or as `imm >> 4`
    /// says signed and saturated (1) or without sign and saturated (2); zeros above.
    Narrow "narrow" 1 All;
    /// For lanes of 1 << `imm & 3` bytes the set of those below that are equal.
    Conflict "conflict" 1 All;
    /// The double words of `a` above those of `b`, shifted down by `imm & 15` of them; quadwords if bit 4 is set.
    AlignLanes "alignlanes" 2 All;
}
