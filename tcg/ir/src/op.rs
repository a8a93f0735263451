//! The op table: every operation, its printed name, operands and effect. One row is the documentation, the
//! printer's and parser's syntax and the verifier's rule.
//!
//! Notation: the type of the result is the instruction's `ty`; `a b c` are operands of that type unless said
//! otherwise; `sub` and `imm` are the instruction's fields. Integer operations wrap. Results are exact in the
//! width of the type; bits above it do not exist. Shift and rotate counts are of the result's type and are
//! taken modulo the width. Division: by zero gives all ones, remainder by zero gives `a`; the signed overflow
//! `MIN / -1` gives `MIN` with remainder 0. Nothing has undefined behaviour.

/// What an operation does besides computing its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: may be merged, moved and removed.
    Pure,
    /// Reads a state slot.
    Get,
    /// Writes a state slot.
    Set,
    /// Raises sticky floating-point exceptions; these commute, so such operations may be reordered among
    /// each other but not removed, unless `FpAttr::quiet`.
    Fp,
    /// Reads or writes the sticky exceptions.
    FpState,
    /// Reads guest memory; may fault.
    Load,
    /// Writes guest memory; may fault.
    Store,
    /// Calls a helper, with the effects of its description.
    Call,
    /// Orders memory accesses.
    Fence,
    /// Marks: instruction starts, budget checks. Stay where they are.
    Mark,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct OpInfo {
    /// Name in printed IR.
    pub name: &'static str,
    /// Number of value operands (`call` has a list instead).
    pub args: u8,
    /// Effect.
    pub effect: Effect,
}

macro_rules! ops {
    ($($(#[$meta:meta])* $variant:ident $name:literal $args:literal $effect:ident;)*) => {
        /// An operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Op { $($(#[$meta])* $variant,)* }

        impl Op {
            /// All operations, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            const INFO: &'static [OpInfo] =
                &[$(OpInfo { name: $name, args: $args, effect: Effect::$effect },)*];

            /// The row of the table.
            #[must_use]
            pub const fn info(self) -> &'static OpInfo {
                &Self::INFO[self as usize]
            }
        }
    };
}

ops! {
    // Marks.
    /// Removed by a pass; does nothing.
    Nop "nop" 0 Pure;
    /// Start of the guest instruction at address `imm`; `sub` is its length in bytes. Whatever may leave the unit up to
    /// the next mark leaves with this pc.
    Insn "insn" 0 Mark;
    /// Leaves the unit with exit `Budget` if an exit is requested, or if fewer than `imm` instructions are left in
    /// the budget when instructions are counted; else takes `imm` from the budget. Stands at region and loop heads,
    /// after the `insn` mark of the instruction that is executed next.
    Budget "budget" 0 Mark;

    // Constants and state.
    /// The constant `imm`, truncated to an integer type, or the bits of a float.
    Const "const" 0 Pure;
    /// The guest address `imm`: a constant that moves with the code when a unit is loaded at another address.
    Pc "pc" 0 Pure;
    /// Value of slot `sub`.
    Get "get" 0 Get;
    /// Slot `sub` becomes `a` (of the slot's type). Result void.
    Set "set" 1 Set;

    // Integers.
    /// a + b
    Add "add" 2 Pure;
    /// a - b
    Sub "sub" 2 Pure;
    /// Low half of a * b.
    Mul "mul" 2 Pure;
    /// High half of the unsigned product.
    Mulhu "mulhu" 2 Pure;
    /// High half of the signed product.
    Mulhs "mulhs" 2 Pure;
    /// High half of signed a times unsigned b.
    Mulhsu "mulhsu" 2 Pure;
    /// Unsigned quotient.
    Divu "divu" 2 Pure;
    /// Signed quotient.
    Divs "divs" 2 Pure;
    /// Unsigned remainder.
    Remu "remu" 2 Pure;
    /// Signed remainder.
    Rems "rems" 2 Pure;
    /// a & b
    And "and" 2 Pure;
    /// a | b
    Or "or" 2 Pure;
    /// a ^ b
    Xor "xor" 2 Pure;
    /// a & !b
    Andc "andc" 2 Pure;
    /// a | !b
    Orc "orc" 2 Pure;
    /// !(a ^ b)
    Eqv "eqv" 2 Pure;
    /// !a
    Not "not" 1 Pure;
    /// -a
    Neg "neg" 1 Pure;
    /// a << b
    Shl "shl" 2 Pure;
    /// a >> b, zeros come in.
    Shr "shr" 2 Pure;
    /// a >> b, signs come in.
    Sar "sar" 2 Pure;
    /// Rotation to the left.
    Rotl "rotl" 2 Pure;
    /// Rotation to the right.
    Rotr "rotr" 2 Pure;
    /// Number of leading zeros; the width for 0.
    Clz "clz" 1 Pure;
    /// Number of trailing zeros; the width for 0.
    Ctz "ctz" 1 Pure;
    /// Number of ones.
    Popcnt "popcnt" 1 Pure;
    /// Bytes in reverse order.
    Bswap "bswap" 1 Pure;
    /// Low half of the carry-less product.
    Clmul "clmul" 2 Pure;
    /// High half of the carry-less product.
    Clmulh "clmulh" 2 Pure;
    /// Low bits of a wider integer `a`.
    Trunc "trunc" 1 Pure;
    /// A narrower integer `a` with zeros above.
    Zext "zext" 1 Pure;
    /// A narrower integer `a` with its sign above.
    Sext "sext" 1 Pure;
    /// Bits of `a` from `imm & 0xff`, `imm >> 8 & 0xff` many (at least 1, inside the width), zeros above.
    Extract "extract" 1 Pure;
    /// The same with the sign above.
    Sextract "sextract" 1 Pure;
    /// `a` with the low bits of `b` put at `imm & 0xff`, `imm >> 8 & 0xff` many.
    Deposit "deposit" 2 Pure;
    /// 1 if `a sub b` holds (`sub` a `Cond`), else 0. Operands of one type, which may differ from the result's.
    Setcc "setcc" 2 Pure;
    /// `b` if `a` (of any integer type) is not zero, else `c`. Any type.
    Select "select" 3 Pure;
    /// The bits of `a` as another type of the same size.
    Bitcast "bitcast" 1 Pure;
    /// i128 from low half `a` and high half `b` (i64).
    Concat "concat" 2 Pure;

    // Flags.
    /// The flag record of `FlagKind` `sub & 0xff` at the width of `Type` number `sub >> 8`, operands a, b, c of that type
    /// (a `const 0` where the kind needs none). Result flags.
    Flags "flags" 3 Pure;
    /// 1 if condition `sub` holds in flag record `a`, else 0.
    FlagCond "flagcond" 1 Pure;
    /// The flags of record `a` as `FlagBits` (i32 or i64).
    FlagGet "flagget" 1 Pure;

    // Floating point; `sub` is an `FpAttr`.
    /// a + b
    Fadd "fadd" 2 Fp;
    /// a - b
    Fsub "fsub" 2 Fp;
    /// a * b
    Fmul "fmul" 2 Fp;
    /// a / b
    Fdiv "fdiv" 2 Fp;
    /// Square root.
    Fsqrt "fsqrt" 1 Fp;
    /// a * b + c, rounded once; the signs of product and addend as in `FpAttr`.
    Fma "fma" 3 Fp;
    /// Minimum by the attribute's `MinMax`.
    Fmin "fmin" 2 Fp;
    /// Maximum by the attribute's `MinMax`.
    Fmax "fmax" 2 Fp;
    /// 1 if `a FCond b` holds (`FpAttr::variant`), else 0; `FpAttr::flag` = signalling. Result an integer type.
    Fcmp "fcmp" 2 Fp;
    /// `a` of another float type, rounded.
    Fcvt "fcvt" 1 Fp;
    /// Integer from float `a`, rounded by the attribute; `FpAttr::flag` = unsigned, out of range by `IntConv`.
    Ftoi "ftoi" 1 Fp;
    /// Float from integer `a` (i32 or i64); `FpAttr::flag` = unsigned.
    Itof "itof" 1 Fp;
    /// Float `a` rounded to an integral value; `FpAttr::flag` = inexact is not raised.
    Frint "frint" 1 Fp;
    /// Sign bit flipped.
    Fneg "fneg" 1 Pure;
    /// Sign bit cleared.
    Fabs "fabs" 1 Pure;
    /// `a` with the sign of `b` (`sub` 0), its opposite (1), or both signs multiplied (2).
    Fsgnj "fsgnj" 2 Pure;
    /// A narrower float (f16, f32) in an f64 with all ones above.
    Fbox "fbox" 1 Pure;
    /// The narrower float in f64 `a`; the canonical NaN if not all bits above are ones.
    Funbox "funbox" 1 Pure;
    /// Sticky `Exceptions` as i32.
    Fexget "fexget" 0 FpState;
    /// Sticky `Exceptions` become i32 `a`. Result void.
    Fexset "fexset" 1 FpState;

    // Memory; the low half of `imm` is a `MemOp`, the high half a signed displacement added to the address, which wraps
    // in the address's own width (i32 or i64).
    /// Value at address `a`, extended to an integer type; float and vector types take their own size.
    Load "load" 1 Load;
    /// Stores `b` (its low bytes) at address `a`. Result void.
    Store "store" 2 Store;
    /// Atomic: old value at address `a` (extended); memory becomes `RmwOp` `sub` of it and `b`.
    Rmw "rmw" 2 Store;
    /// Atomic: old value at address `a` (extended); if it equals `b` in the access width, memory becomes `c`.
    Cas "cas" 3 Store;
    /// Earlier reads (1), writes (2) before later reads (4), writes (8) as the bits of `sub` say.
    Fence "fence" 0 Fence;

    // Calls.
    /// Calls helper `sub` with the operands listed in the region (`a` = first, `b` = how many).
    Call "call" 0 Call;

    // Vectors; `sub` low byte is a `Lane`, high byte the operation's own.
    /// Lane-wise a + b
    Vadd "vadd" 2 Pure;
    /// Lane-wise a - b
    Vsub "vsub" 2 Pure;
    /// Lane-wise low half of a * b
    Vmul "vmul" 2 Pure;
    /// a & b
    Vand "vand" 2 Pure;
    /// a | b
    Vor "vor" 2 Pure;
    /// a ^ b
    Vxor "vxor" 2 Pure;
    /// a & !b
    Vandc "vandc" 2 Pure;
    /// !a
    Vnot "vnot" 1 Pure;
    /// Lane-wise -a
    Vneg "vneg" 1 Pure;
    /// Lane-wise signed minimum.
    Vmin "vmin" 2 Pure;
    /// Lane-wise signed maximum.
    Vmax "vmax" 2 Pure;
    /// Lane-wise unsigned minimum.
    Vminu "vminu" 2 Pure;
    /// Lane-wise unsigned maximum.
    Vmaxu "vmaxu" 2 Pure;
    /// Lane-wise a << imm (imm below the lane width)
    Vshli "vshli" 1 Pure;
    /// Lane-wise a >> imm, zeros come in.
    Vshri "vshri" 1 Pure;
    /// Lane-wise a >> imm, signs come in.
    Vsari "vsari" 1 Pure;
    /// Lane-wise a << b, b modulo the lane width.
    Vshl "vshl" 2 Pure;
    /// Lane-wise a >> b, zeros come in.
    Vshr "vshr" 2 Pure;
    /// Lane-wise a >> b, signs come in.
    Vsar "vsar" 2 Pure;
    /// Lane-wise all ones if `a Cond b` holds (condition in the high byte of `sub`), else zero.
    Vcmp "vcmp" 2 Pure;
    /// Bits of `b` where `a` has ones, bits of `c` elsewhere.
    Vselect "vselect" 3 Pure;
    /// Every lane is scalar `a` (an integer or float of the lane's size, or a wider integer truncated).
    Vsplat "vsplat" 1 Pure;
    /// Lane number `imm` of `a` as an integer (zero-extended) or float.
    Vextract "vextract" 1 Pure;
    /// `a` with lane number `imm` replaced by scalar `b`.
    Vinsert "vinsert" 2 Pure;
    /// Byte `i` of the result is byte `b[i]` of `a`, zero where `b[i]` is not below the size.
    Vtbl "vtbl" 2 Pure;
    /// Lane-wise a + b; float lanes. For these `imm` is an `FpAttr`.
    Vfadd "vfadd" 2 Fp;
    /// Lane-wise a - b
    Vfsub "vfsub" 2 Fp;
    /// Lane-wise a * b
    Vfmul "vfmul" 2 Fp;
    /// Lane-wise a / b
    Vfdiv "vfdiv" 2 Fp;
    /// Lane-wise square root.
    Vfsqrt "vfsqrt" 1 Fp;
    /// Lane-wise fused a * b + c.
    Vfma "vfma" 3 Fp;
    /// Lane-wise minimum by the attribute's `MinMax`.
    Vfmin "vfmin" 2 Fp;
    /// Lane-wise maximum by the attribute's `MinMax`.
    Vfmax "vfmax" 2 Fp;
    /// Lane-wise all ones if `a FCond b` holds, else zero.
    Vfcmp "vfcmp" 2 Fp;
    /// Lane-wise rounding to an integral value.
    Vfrint "vfrint" 1 Fp;
    /// Lane-wise integer of the lane's size from float, as `ftoi`.
    Vftoi "vftoi" 1 Fp;
    /// Lane-wise float from integer of the lane's size, as `itof`.
    Vitof "vitof" 1 Fp;
    /// Lane-wise high half of the unsigned product.
    Vmulhu "vmulhu" 2 Pure;
    /// Lane-wise high half of the signed product.
    Vmulhs "vmulhs" 2 Pure;
    /// The integer whose bit `i` is the top bit of lane `i` of `a`.
    Vbits "vbits" 1 Pure;
    /// Lane `i` is all ones if bit `i` of integer `a` is set, else zero.
    Vmask "vmask" 1 Pure;
    /// All lanes of `a` combined by `RmwOp` (high byte of `sub`, not `swap`) to a zero-extended integer.
    Vreduce "vreduce" 1 Pure;
    /// Lanes of one half of `a`, which are half as wide as the result's, extended (high byte of `sub`: 1 with their sign,
    /// 2 the high half).
    Vwiden "vwiden" 1 Pure;
    /// Lanes of `a`, then of `b`, which are twice as wide as the result's, truncated.
    Vnarrow "vnarrow" 2 Pure;
    /// `a` in the low half, `b`, of the same type, in the high half of a vector twice as wide.
    Vjoin "vjoin" 2 Pure;
    /// Part number `imm` of a wider vector `a`, counted in results.
    Vpart "vpart" 1 Pure;
    /// The function of one operand and an immediate that the high byte of `sub` numbers: see `VecFn`.
    Vfn1 "vfn1" 1 Pure;
    /// The same of two operands.
    Vfn2 "vfn2" 2 Pure;
    /// The same of three operands.
    Vfn3 "vfn3" 3 Pure;
}
