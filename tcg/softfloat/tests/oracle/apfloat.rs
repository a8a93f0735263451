//! Every format against LLVM's APFloat as rustc ships it, in the five roundings it knows, ties-away included.
//!
//! It raises no flag for a signaling NaN, chooses payloads its own way, calls a result tiny when it is *delivered*
//! as subnormal and an overflow only what it delivers as infinity: so NaN results are compared as such, underflow
//! not at the smallest normal number and overflow not at the largest.

use crate::operands::{Rng, Shape};
use rustc_apfloat::{Float, FloatConvert, Round, StatusAnd, ieee};
use softfloat::{Flags, RoundingMode, Status, ToInt};

const ROUNDINGS: [(RoundingMode, Round); 5] = [
    (RoundingMode::NearestEven, Round::NearestTiesToEven),
    (RoundingMode::TowardZero, Round::TowardZero),
    (RoundingMode::Down, Round::TowardNegative),
    (RoundingMode::Up, Round::TowardPositive),
    (RoundingMode::NearestAway, Round::NearestTiesToAway),
];

fn flags(s: rustc_apfloat::Status) -> u32 {
    let bit = |flag, mine: Flags| if s.contains(flag) { mine.0 } else { 0 };
    bit(rustc_apfloat::Status::INVALID_OP, Flags::INVALID)
        | bit(rustc_apfloat::Status::DIV_BY_ZERO, Flags::DIV_BY_ZERO)
        | bit(rustc_apfloat::Status::OVERFLOW, Flags::OVERFLOW)
        | bit(rustc_apfloat::Status::UNDERFLOW, Flags::UNDERFLOW)
        | bit(rustc_apfloat::Status::INEXACT, Flags::INEXACT)
}

/// Compares a result and its flags.
fn same<F: Float>(what: &dyn Fn() -> String, got: u128, s: &Status, want: StatusAnd<F>) {
    if want.value.is_nan() {
        assert!(F::from_bits(got).is_nan(), "{}: {got:#x} is no NaN", what());
        return;
    }
    let mut mine = s.flags.ieee();
    if want.value.abs().bitwise_eq(F::smallest_normalized()) {
        mine &= !Flags::UNDERFLOW.0 | flags(want.status);
    }
    if want.value.abs().bitwise_eq(F::largest()) {
        mine &= !Flags::OVERFLOW.0;
    }
    assert!(
        (got, mine) == (want.value.to_bits(), flags(want.status)),
        "{}: {got:#x} {mine:#x}, APFloat {:#x} {:?}",
        what(),
        want.value.to_bits(),
        want.status
    );
}

/// Quiet: APFloat's rules for signaling operands are not ours.
fn operand<F: Float>(bits: u128) -> F {
    let v = F::from_bits(bits);
    if v.is_nan() { F::from_bits(F::qnan(None).to_bits()) } else { v }
}

const CASES: usize = 20_000;

macro_rules! against {
    ($m:ident, $t:ty, $F:ty, $shape:expr) => {
        mod $m {
            use super::*;
            use softfloat::$m as soft;

            /// Two operands, and a third that often cancels their product.
            fn draw(r: &mut Rng) -> ($F, $F, $F) {
                let (a, b) = $shape.pair(r);
                let (a, b) = (operand::<$F>(a), operand::<$F>(b));
                let c = match r.below(2) {
                    0 => $shape.any(r),
                    _ => $shape.near((a * b).value.to_bits(), r),
                };
                (a, b, operand::<$F>(c))
            }

            #[test]
            fn arithmetic() {
                let mut r = Rng::new(0x5eed_0a9f);
                for (mine, theirs) in ROUNDINGS {
                    for _ in 0..CASES {
                        let (a, b, c) = draw(&mut r);
                        let (x, y, z) = (a.to_bits() as $t, b.to_bits() as $t, c.to_bits() as $t);
                        let run = |name: &str, f: &dyn Fn(&mut Status) -> $t, want: StatusAnd<$F>| {
                            let mut s = Status { rounding: mine, ..Status::riscv() };
                            let got = f(&mut s);
                            same(&|| format!("{name} {x:#x} {y:#x} {z:#x} {mine:?}"), got as u128, &s, want);
                        };
                        run("add", &|s| soft::add(x, y, s), a.add_r(b, theirs));
                        run("sub", &|s| soft::sub(x, y, s), a.sub_r(b, theirs));
                        run("mul", &|s| soft::mul(x, y, s), a.mul_r(b, theirs));
                        run("div", &|s| soft::div(x, y, s), a.div_r(b, theirs));
                        run("fma", &|s| soft::fma(x, y, z, s), a.mul_add_r(b, c, theirs));
                        run("round", &|s| soft::round_to_int(x, mine, true, s), a.round_to_integral(theirs));
                    }
                }
            }

            #[test]
            fn remainder() {
                let mut r = Rng::new(0x5eed_0a9e);
                for _ in 0..if $shape.exp > 11 { CASES / 20 } else { CASES } {
                    let (a, b, _) = draw(&mut r);
                    let (x, y) = (a.to_bits() as $t, b.to_bits() as $t);
                    let mut s = Status::riscv();
                    let got = soft::rem(x, y, &mut s);
                    same(&|| format!("rem {x:#x} {y:#x}"), got as u128, &s, a.ieee_rem(b));
                }
            }

            #[test]
            fn square_root() {
                // The root rounded down is the largest number whose square does not exceed the operand.
                let mut r = Rng::new(0x5eed_0a9d);
                for _ in 0..CASES {
                    let a = operand::<$F>($shape.any(&mut r)).abs();
                    if !a.is_finite() {
                        continue;
                    }
                    let mut s = Status { rounding: RoundingMode::Down, ..Status::riscv() };
                    let x = a.to_bits() as $t;
                    let down = <$F>::from_bits(soft::sqrt(x, &mut s) as u128);
                    let square = |v: $F| v.mul_add_r(v, -a, Round::NearestTiesToEven);
                    let low = square(down);
                    let exact = low.value.is_zero() && !low.status.contains(rustc_apfloat::Status::INEXACT);
                    assert!(low.value.is_zero() || low.value.is_negative(), "sqrt {x:#x}: too large");
                    assert_eq!(s.flags.ieee() == 0, exact, "sqrt {x:#x}: inexact");
                    if !exact {
                        let next = down.next_up().value;
                        assert!(!square(next).value.is_negative(), "sqrt {x:#x}: too small");
                        let mut s = Status { rounding: RoundingMode::Up, ..Status::riscv() };
                        assert_eq!(soft::sqrt(x, &mut s) as u128, next.to_bits(), "sqrt {x:#x} up");
                    }
                }
            }

            #[test]
            fn integers() {
                let mut r = Rng::new(0x5eed_0a9c);
                for (mine, theirs) in ROUNDINGS {
                    for _ in 0..CASES {
                        let a = operand::<$F>($shape.any(&mut r));
                        let x = a.to_bits() as $t;
                        macro_rules! to {
                            ($i:ty, $to:ident) => {
                                let mut s = Status { rounding: mine, ..Status::riscv() };
                                let got: ToInt<$i> = soft::to_int(x, mine, &mut s);
                                let want = a.$to(<$i>::BITS as usize, theirs, &mut false);
                                assert_eq!(s.flags.ieee(), flags(want.status), "{x:#x} {mine:?}");
                                assert_eq!(got.nan_zero(), want.value as $i, "{x:#x} {mine:?}");
                            };
                        }
                        to!(i8, to_i128_r);
                        to!(u16, to_u128_r);
                        to!(i32, to_i128_r);
                        to!(u32, to_u128_r);
                        to!(i64, to_i128_r);
                        to!(u64, to_u128_r);
                        to!(i128, to_i128_r);
                        to!(u128, to_u128_r);
                        let v = r.wide() >> r.below(128);
                        let mut s = Status { rounding: mine, ..Status::riscv() };
                        let got = soft::from_int(v, &mut s);
                        same(
                            &|| format!("from {v:#x} {mine:?}"),
                            got as u128,
                            &s,
                            <$F>::from_u128_r(v, theirs),
                        );
                        let v = v as i128;
                        let mut s = Status { rounding: mine, ..Status::riscv() };
                        let got = soft::from_int(v, &mut s);
                        same(
                            &|| format!("from {v:#x} {mine:?}"),
                            got as u128,
                            &s,
                            <$F>::from_i128_r(v, theirs),
                        );
                    }
                }
            }
        }
    };
}

against!(f16, u16, ieee::Half, Shape::F16);
against!(bf16, u16, ieee::BFloat, Shape::BF16);
against!(f32, u32, ieee::Single, Shape::F32);
against!(f64, u64, ieee::Double, Shape::F64);
against!(x80, u128, ieee::X87DoubleExtended, Shape::X80);
against!(f128, u128, ieee::Quad, Shape::F128);

macro_rules! conversions {
    ($(($name:ident, $from:ty, $F:ty, $shape:expr, $to:ident, $G:ty, $f:ident)),*) => {
        #[test]
        fn conversions() {
            let mut r = Rng::new(0x5eed_0a9b);
            for (mine, theirs) in ROUNDINGS {
                for _ in 0..CASES {
                    $({
                        let a = operand::<$F>($shape.any(&mut r));
                        let mut s = Status { rounding: mine, ..Status::riscv() };
                        let got = softfloat::$to::$f(a.to_bits() as $from, &mut s);
                        let want: StatusAnd<$G> = a.convert_r(theirs, &mut false);
                        same(&|| format!("{} {:#x} {mine:?}", stringify!($name), a.to_bits()), got as u128, &s, want);
                    })*
                }
            }
        }
    };
}

conversions! {
    (f16_to_f32, u16, ieee::Half, Shape::F16, f32, ieee::Single, from_f16),
    (f16_to_x80, u16, ieee::Half, Shape::F16, x80, ieee::X87DoubleExtended, from_f16),
    (bf16_to_f32, u16, ieee::BFloat, Shape::BF16, f32, ieee::Single, from_bf16),
    (bf16_to_f16, u16, ieee::BFloat, Shape::BF16, f16, ieee::Half, from_bf16),
    (f32_to_bf16, u32, ieee::Single, Shape::F32, bf16, ieee::BFloat, from_f32),
    (f32_to_f16, u32, ieee::Single, Shape::F32, f16, ieee::Half, from_f32),
    (f32_to_f128, u32, ieee::Single, Shape::F32, f128, ieee::Quad, from_f32),
    (f64_to_f16, u64, ieee::Double, Shape::F64, f16, ieee::Half, from_f64),
    (f64_to_bf16, u64, ieee::Double, Shape::F64, bf16, ieee::BFloat, from_f64),
    (f64_to_f32, u64, ieee::Double, Shape::F64, f32, ieee::Single, from_f64),
    (f64_to_f128, u64, ieee::Double, Shape::F64, f128, ieee::Quad, from_f64),
    (x80_to_f64, u128, ieee::X87DoubleExtended, Shape::X80, f64, ieee::Double, from_x80),
    (x80_to_f128, u128, ieee::X87DoubleExtended, Shape::X80, f128, ieee::Quad, from_x80),
    (f128_to_f16, u128, ieee::Quad, Shape::F128, f16, ieee::Half, from_f128),
    (f128_to_f32, u128, ieee::Quad, Shape::F128, f32, ieee::Single, from_f128),
    (f128_to_f64, u128, ieee::Quad, Shape::F128, f64, ieee::Double, from_f128),
    (f128_to_x80, u128, ieee::Quad, Shape::F128, x80, ieee::X87DoubleExtended, from_f128)
}
