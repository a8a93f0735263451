//! The formats' modules, siblings of one shape: each is [`crate::ops`] with its format filled in, on plain
//! bit patterns.

macro_rules! format_module {
    ($(#[$doc:meta])* $module:ident, $F:ident, $bits:ty, $(($from:ident, $G:ident, $gbits:ty)),*) => {
        $(#[$doc])*
        pub mod $module {
            use crate::format::{$F, $($G),*};
            use crate::ops;
            use crate::{Category, Int, MinMax, Negate, Quotient, Relation, Remainder};
            use crate::{RoundingMode, Status, ToInt};

            /// `a + b`
            pub fn add(a: $bits, b: $bits, s: &mut Status) -> $bits {
                ops::add::add::<$F, $F>(a, b, s)
            }

            /// `a - b`
            pub fn sub(a: $bits, b: $bits, s: &mut Status) -> $bits {
                ops::add::sub::<$F, $F>(a, b, s)
            }

            /// `a * b`
            pub fn mul(a: $bits, b: $bits, s: &mut Status) -> $bits {
                ops::mul::mul::<$F, $F>(a, b, s)
            }

            /// `a / b`
            pub fn div(a: $bits, b: $bits, s: &mut Status) -> $bits {
                ops::div::div::<$F, $F>(a, b, s)
            }

            /// Square root.
            pub fn sqrt(a: $bits, s: &mut Status) -> $bits {
                ops::sqrt::sqrt::<$F, $F>(a, s)
            }

            /// `a * b + c` with one rounding.
            pub fn fma(a: $bits, b: $bits, c: $bits, s: &mut Status) -> $bits {
                ops::fma::fma::<$F, $F>(a, b, c, Negate::NONE, s)
            }

            /// `a * b - c` with one rounding.
            pub fn fms(a: $bits, b: $bits, c: $bits, s: &mut Status) -> $bits {
                ops::fma::fma::<$F, $F>(a, b, c, Negate::ADDEND, s)
            }

            /// `-(a * b) + c` with one rounding (RISC-V FNMSUB).
            pub fn neg_mul_add(a: $bits, b: $bits, c: $bits, s: &mut Status) -> $bits {
                ops::fma::fma::<$F, $F>(a, b, c, Negate::PRODUCT, s)
            }

            /// `-(a * b) - c` with one rounding (RISC-V FNMADD).
            pub fn neg_mul_sub(a: $bits, b: $bits, c: $bits, s: &mut Status) -> $bits {
                ops::fma::fma::<$F, $F>(a, b, c, Negate::BOTH, s)
            }

            /// `±(a * b) ± c` with one rounding, signs as `negate` says.
            pub fn fma_with(a: $bits, b: $bits, c: $bits, negate: Negate, s: &mut Status) -> $bits {
                ops::fma::fma::<$F, $F>(a, b, c, negate, s)
            }

            /// The IEEE remainder: `a - b * n`, `n` the integer nearest to `a / b`.
            pub fn rem(a: $bits, b: $bits, s: &mut Status) -> $bits {
                ops::rem::rem::<$F>(a, b, Quotient::Nearest, s).value
            }

            /// A full remainder by either rule, with the quotient's low bits.
            pub fn rem_with(a: $bits, b: $bits, quotient: Quotient, s: &mut Status) -> Remainder<$bits> {
                ops::rem::rem::<$F>(a, b, quotient, s)
            }

            /// One x87 remainder step: exponent differences above 63 leave a partial remainder.
            pub fn rem_partial(a: $bits, b: $bits, quotient: Quotient, s: &mut Status) -> Remainder<$bits> {
                ops::rem::rem_partial::<$F>(a, b, quotient, s)
            }

            /// The smaller operand, by one of the families' rules.
            pub fn min(a: $bits, b: $bits, rule: MinMax, s: &mut Status) -> $bits {
                ops::minmax::min_max::<$F>(a, b, rule, false, s)
            }

            /// The larger operand, by one of the families' rules.
            pub fn max(a: $bits, b: $bits, rule: MinMax, s: &mut Status) -> $bits {
                ops::minmax::min_max::<$F>(a, b, rule, true, s)
            }

            /// Signaling comparison: any NaN raises invalid.
            pub fn compare(a: $bits, b: $bits, s: &mut Status) -> Relation {
                ops::compare::compare::<$F>(a, b, true, s)
            }

            /// Quiet comparison: only a signaling NaN raises invalid.
            pub fn compare_quiet(a: $bits, b: $bits, s: &mut Status) -> Relation {
                ops::compare::compare::<$F>(a, b, false, s)
            }

            /// `a == b`, quiet (RISC-V FEQ).
            pub fn eq(a: $bits, b: $bits, s: &mut Status) -> bool {
                compare_quiet(a, b, s) == Relation::Equal
            }

            /// `a < b`, signaling (RISC-V FLT).
            pub fn lt(a: $bits, b: $bits, s: &mut Status) -> bool {
                compare(a, b, s) == Relation::Less
            }

            /// `a <= b`, signaling (RISC-V FLE).
            pub fn le(a: $bits, b: $bits, s: &mut Status) -> bool {
                matches!(compare(a, b, s), Relation::Less | Relation::Equal)
            }

            /// Rounds to an integral value by `rounding`; raises inexact only if `exact`.
            pub fn round_to_int(a: $bits, rounding: RoundingMode, exact: bool, s: &mut Status) -> $bits {
                ops::round_int::round_to_int::<$F>(a, rounding, exact, s)
            }

            /// To an integer by `rounding`. Raises invalid if it does not fit, else inexact if `a` was
            /// none; [`ToInt`]'s methods are the guests' rules for what does not fit.
            pub fn to_int<I: Int>(a: $bits, rounding: RoundingMode, s: &mut Status) -> ToInt<I> {
                ops::integer::to_int::<$F, I>(a, 0, rounding, s)
            }

            /// `a * 2^scale` to an integer (fixed-point results).
            pub fn to_int_scaled<I: Int>(
                a: $bits,
                scale: i32,
                rounding: RoundingMode,
                s: &mut Status,
            ) -> ToInt<I> {
                ops::integer::to_int::<$F, I>(a, scale, rounding, s)
            }

            /// To an integer modulo its width (Arm FJCVTZS, Alpha); NaNs and infinities give zero.
            pub fn to_int_modulo<I: Int>(a: $bits, rounding: RoundingMode, s: &mut Status) -> I {
                ops::integer::to_int_modulo::<$F, I>(a, rounding, s)
            }

            /// From an integer, rounded by the status' mode.
            pub fn from_int<I: Int>(v: I, s: &mut Status) -> $bits {
                ops::integer::from_int::<I, $F>(v, 0, s)
            }

            /// `v * 2^scale` (fixed-point operands), rounded.
            pub fn from_int_scaled<I: Int>(v: I, scale: i32, s: &mut Status) -> $bits {
                ops::integer::from_int::<I, $F>(v, scale, s)
            }

            $(
                /// From the format in the name, rounded.
                pub fn $from(a: $gbits, s: &mut Status) -> $bits {
                    ops::convert::convert::<$G, $F>(a, s)
                }
            )*

            /// `a * 2^n`, rounded.
            pub fn scalbn(a: $bits, n: i32, s: &mut Status) -> $bits {
                ops::scale::scalbn::<$F>(a, n, s)
            }

            /// The exponent of `a` as a number.
            pub fn logb(a: $bits, s: &mut Status) -> $bits {
                ops::scale::logb::<$F>(a, s)
            }

            /// `a` scaled into [1, 2), its sign kept.
            pub fn significand(a: $bits, s: &mut Status) -> $bits {
                ops::scale::significand::<$F>(a, s)
            }

            /// The class of `a`.
            pub fn category(a: $bits, s: &Status) -> Category {
                ops::classify::category::<$F>(a, s)
            }

            /// RISC-V's ten-bit class mask.
            pub fn fclass(a: $bits, s: &Status) -> u32 {
                ops::classify::fclass::<$F>(a, s)
            }

            /// Whether `a` is a NaN of either kind.
            pub fn is_nan(a: $bits, s: &Status) -> bool {
                ops::classify::is_nan::<$F>(a, s)
            }

            /// Whether `a` is a signaling NaN by the NaN rule of `s`.
            pub fn is_snan(a: $bits, s: &Status) -> bool {
                ops::classify::is_snan::<$F>(a, s)
            }

            /// Whether the sign bit is set.
            pub fn is_negative(a: $bits) -> bool {
                ops::classify::is_negative::<$F>(a)
            }

            /// Sign cleared, NaNs included.
            pub fn abs(a: $bits) -> $bits {
                ops::classify::abs::<$F>(a)
            }

            /// Sign flipped, NaNs included.
            pub fn neg(a: $bits) -> $bits {
                ops::classify::neg::<$F>(a)
            }

            /// `a` with the sign bit set to `negative`.
            pub fn copy_sign(a: $bits, negative: bool) -> $bits {
                ops::classify::copy_sign::<$F>(a, negative)
            }

            /// The NaN an invalid operation gives.
            pub fn default_nan(s: &Status) -> $bits {
                crate::nan::default_nan::<$F>(s)
            }

            /// Infinity of the given sign.
            pub fn infinity(negative: bool) -> $bits {
                <$F as crate::format::Format>::infinity(negative)
            }
        }
    };
}

format_module! {
    /// binary16, as `u16`.
    f16, F16, u16, (from_bf16, Bf16, u16), (from_f32, F32, u32), (from_f64, F64, u64),
    (from_x80, X80, u128), (from_f128, F128, u128)
}
format_module! {
    /// bfloat16, as `u16`.
    bf16, Bf16, u16, (from_f16, F16, u16), (from_f32, F32, u32), (from_f64, F64, u64),
    (from_x80, X80, u128), (from_f128, F128, u128)
}
format_module! {
    /// binary32, as `u32`.
    f32, F32, u32, (from_f16, F16, u16), (from_bf16, Bf16, u16), (from_f64, F64, u64),
    (from_x80, X80, u128), (from_f128, F128, u128)
}
format_module! {
    /// binary64, as `u64`.
    f64, F64, u64, (from_f16, F16, u16), (from_bf16, Bf16, u16), (from_f32, F32, u32),
    (from_x80, X80, u128), (from_f128, F128, u128)
}
format_module! {
    /// x87 double extended, as the low 80 bits of a `u128`; the status' precision control applies to add,
    /// sub, mul, div and sqrt.
    x80, X80, u128, (from_f16, F16, u16), (from_bf16, Bf16, u16), (from_f32, F32, u32),
    (from_f64, F64, u64), (from_f128, F128, u128)
}
format_module! {
    /// binary128, as `u128`.
    f128, F128, u128, (from_f16, F16, u16), (from_bf16, Bf16, u16), (from_f32, F32, u32),
    (from_f64, F64, u64), (from_x80, X80, u128)
}
