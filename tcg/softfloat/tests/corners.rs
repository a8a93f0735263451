//! Hand-written tables for the rules no other implementation at hand can witness: ties away, tininess, flushing,
//! each guest's NaNs and out-of-range integers.

use softfloat::{
    F32, F64, Flags, FlushToZero, MinMax, NanPolicy, Negate, Precision, RoundingMode, Status, Tininess,
    ToInt, f32, f64, ops, x80,
};

const ONE: u32 = 0x3f80_0000;
const INF: u32 = 0x7f80_0000;
const QNAN: u32 = 0x7fc1_2345;
const SNAN: u32 = 0x7f81_2345;
const MIN_NORMAL: u32 = 0x0080_0000;

fn rmm() -> Status {
    Status { rounding: RoundingMode::NearestAway, ..Status::riscv() }
}

#[test]
fn ties_go_away_from_zero() {
    // Halves to integers: operand, expected magnitude.
    for (a, want) in [(0x3f00_0000, 1), (0x3fc0_0000, 2), (0x4020_0000, 3), (0x3eff_ffff, 0)] {
        assert_eq!(f32::to_int::<i32>(a, RoundingMode::NearestAway, &mut rmm()), ToInt::Value(want));
        let negative = f32::to_int::<i32>(f32::neg(a), RoundingMode::NearestAway, &mut rmm());
        assert_eq!(negative, ToInt::Value(-want));
    }
    // 2^24 + 1 is half way between two numbers; so is 1 + 2^-24.
    assert_eq!(f32::from_int(0x0100_0001u32, &mut rmm()), 0x4b80_0001);
    assert_eq!(f32::from_int(-0x0100_0001i32, &mut rmm()), 0xcb80_0001);
    assert_eq!(f32::add(ONE, 0x3380_0000, &mut rmm()), 0x3f80_0001);
    assert_eq!(f32::add(ONE, 0x3380_0000, &mut Status::riscv()), ONE);
    // Just above the largest number but below half a unit: does not overflow; half a unit does.
    let mut s = rmm();
    assert_eq!(f32::add(0x7f7f_ffff, 0x72ff_ffff, &mut s), 0x7f7f_ffff);
    assert_eq!(s.flags.ieee(), Flags::INEXACT.0);
    assert_eq!(f32::add(0x7f7f_ffff, 0x7300_0000, &mut s), INF);
    assert_eq!(s.flags.ieee(), (Flags::OVERFLOW | Flags::INEXACT).0);
    // Half the smallest subnormal.
    assert_eq!(f32::mul(1, 0x3f00_0000, &mut rmm()), 1);
    assert_eq!(f32::mul(1, 0x3f00_0000, &mut Status::riscv()), 0);
}

#[test]
fn odd_rounding_is_truncation_with_a_sticky_last_bit() {
    let mut s = Status { rounding: RoundingMode::Odd, ..Status::riscv() };
    assert_eq!(f32::div(ONE, 0x4040_0000, &mut s), 0x3eaa_aaab);
    assert_eq!(f32::add(ONE, 1, &mut s), 0x3f80_0001);
    assert_eq!(f32::add(ONE, 0x8000_0001, &mut s), 0x3f7f_ffff);
    assert_eq!(f32::mul(0x7f7f_ffff, 0x7f7f_ffff, &mut s), 0x7f7f_ffff);
    assert_eq!(f32::mul(1, 1, &mut s), 1);
    s.flags = Flags::NONE;
    assert_eq!(f32::add(ONE, ONE, &mut s), 0x4000_0000);
    assert_eq!(s.flags, Flags::NONE);
}

#[test]
fn tininess_is_before_or_after_rounding() {
    // (1 - 2^-13) * (1 + 2^-13) * 2^-126 lies just under the smallest normal number and rounds to it; with an
    // unbounded exponent it would too, so only "before" underflows.
    let product = |tininess| {
        let mut s = Status { tininess, ..Status::riscv() };
        let v = f32::mul(0x3f7f_f800, 0x0080_0400, &mut s);
        (v, s.flags.ieee())
    };
    let (nx, uf) = (Flags::INEXACT.0, Flags::UNDERFLOW.0);
    assert_eq!(product(Tininess::AfterRounding), (MIN_NORMAL, nx));
    assert_eq!(product(Tininess::BeforeRounding), (MIN_NORMAL, nx | uf));
    // 2^-126 - 2^-150 is half way to the subnormal below and rounds up to the smallest normal number, but 24 bits
    // with an unbounded exponent hold it exactly: tiny either way.
    for tininess in [Tininess::AfterRounding, Tininess::BeforeRounding] {
        let mut s = Status { tininess, ..Status::riscv() };
        assert_eq!(f32::mul(0x3f7f_ffff, MIN_NORMAL, &mut s), MIN_NORMAL);
        assert_eq!(s.flags.ieee(), nx | uf, "{tininess:?}");
    }
    // Exact subnormal results underflow for nobody, but a trap handler may want to know.
    let mut s = Status::riscv();
    assert_eq!(f32::mul(MIN_NORMAL, 0x3f00_0000, &mut s), 0x0040_0000);
    assert_eq!(s.flags, Flags::TINY);
}

#[test]
fn flushing() {
    let half = 0x3f00_0000;
    let run = |s: &mut Status| (f32::mul(MIN_NORMAL | 0x8000_0000, half, s), s.flags.ieee());
    let mut arm = Status { flush_to_zero: FlushToZero::Underflow, ..Status::arm() };
    assert_eq!(run(&mut arm), (0x8000_0000, Flags::UNDERFLOW.0));
    let mut sse = Status { flush_to_zero: FlushToZero::UnderflowInexact, ..Status::x86_sse() };
    assert_eq!(run(&mut sse), (0x8000_0000, (Flags::UNDERFLOW | Flags::INEXACT).0));
    // Subnormal operands are zeros of their sign, and say so; products, comparisons, minima alike.
    let mut daz = Status { denormals_are_zero: true, ..Status::arm() };
    assert_eq!(f32::div(ONE, 0x8000_0001, &mut daz), 0xff80_0000);
    assert_eq!(daz.flags, Flags::DIV_BY_ZERO | Flags::INPUT_FLUSHED);
    assert!(f32::eq(1, 0, &mut daz));
    assert_eq!(f32::min(0x8000_0001, ONE, MinMax::Num, &mut daz), 0x8000_0000);
    assert_eq!(f32::to_int::<i32>(1, RoundingMode::Up, &mut daz), ToInt::Value(0));
}

#[test]
fn two_nan_operands() {
    let (qa, qb, sa, sb) = (0x7fc0_0001, 0xffc0_0002, 0x7f80_0003, 0xff80_0004u32);
    let quiet = 0x0040_0000;
    // Policy; results for (q, q), (q, s), (s, q), (s, s), (1.0, s), (s, 1.0).
    let table: [(NanPolicy, [u32; 6]); 7] = [
        (NanPolicy::RISCV, [0x7fc0_0000; 6]),
        (NanPolicy::X86_SSE, [qa, qa, sa | quiet, sa | quiet, sb | quiet, sa | quiet]),
        (NanPolicy::X87, [qb, qa, qb, sb | quiet, sb | quiet, sa | quiet]),
        (NanPolicy::ARM, [qa, sb | quiet, sa | quiet, sa | quiet, sb | quiet, sa | quiet]),
        (NanPolicy::PPC, [qa, qa, sa | quiet, sa | quiet, sb | quiet, sa | quiet]),
        (NanPolicy::SPARC, [qb, sb | quiet, sa | quiet, sb | quiet, sb | quiet, sa | quiet]),
        (NanPolicy::S390X, [qa, sb | quiet, sa | quiet, sa | quiet, sb | quiet, sa | quiet]),
    ];
    for (nan, want) in table {
        let operands = [(qa, qb), (qa, sb), (sa, qb), (sa, sb), (ONE, sb), (sa, ONE)];
        for (i, ((a, b), want)) in operands.into_iter().zip(want).enumerate() {
            let mut s = Status { nan, ..Status::riscv() };
            assert_eq!(f32::mul(a, b, &mut s), want, "{nan:?} {a:#x} {b:#x}");
            assert_eq!(s.flags.contains(Flags::INVALID), i != 0, "{nan:?} {a:#x} {b:#x}");
        }
    }
}

#[test]
fn signaling_bit_inverted() {
    // With the bit's meaning inverted 0x7fc00000 signals and 0x7f800001 is quiet.
    for (nan, default, quieted) in
        [(NanPolicy::MIPS_LEGACY, 0x7fbf_ffff, 0x7fbf_ffff), (NanPolicy::HPPA, 0x7fa0_0000, 0x7fa0_0001)]
    {
        let mut s = Status { nan, ..Status::mips_legacy() };
        assert_eq!(f32::sub(INF, INF, &mut s), default);
        s.flags = Flags::NONE;
        assert_eq!(f32::add(0x7f80_0001, ONE, &mut s), 0x7f80_0001);
        assert_eq!(s.flags, Flags::NONE);
        assert_eq!(f32::add(0x7fc0_0001, ONE, &mut s), quieted);
        assert!(s.flags.contains(Flags::INVALID | Flags::INVALID_SNAN));
        assert_eq!(f64::from_f32(0x7f80_0001, &mut s), 0x7ff0_0000_2000_0000);
        // The payload does not survive narrowing: not infinity, but the default NaN.
        assert_eq!(f32::from_f64(0x7ff0_0000_0000_0001, &mut s), default);
    }
}

#[test]
fn default_nans() {
    for (s, want) in [
        (Status::riscv(), 0x7fc0_0000),
        (Status::x86_sse(), 0xffc0_0000),
        (Status::arm(), 0x7fc0_0000),
        (Status::new(NanPolicy::SPARC, Tininess::BeforeRounding), 0x7fff_ffff),
        (Status::mips_2008(), 0x7fc0_0000),
        (Status::mips_legacy(), 0x7fbf_ffff),
    ] {
        assert_eq!(f32::default_nan(&s), want);
        assert_eq!(f32::sqrt(0xbf80_0000, &mut { s }), want);
    }
    assert_eq!(x80::default_nan(&Status::x87()), 0xffff_c000_0000_0000_0000);
}

#[test]
fn infinity_times_zero_plus_nan() {
    // Result and invalid for a quiet addend, then for a signaling one.
    let quieted = SNAN | 0x0040_0000;
    for (s, quiet, signaling) in [
        (Status::riscv(), (0x7fc0_0000, true), 0x7fc0_0000),
        (Status::x86_sse(), (QNAN, false), quieted),
        (Status::arm(), (0x7fc0_0000, true), quieted),
        (Status::ppc(), (QNAN, true), quieted),
        (Status::s390x(), (0x7fc0_0000, true), 0x7fc0_0000),
        (Status::mips_2008(), (0x7fc0_0000, true), 0x7fc0_0000),
    ] {
        for (a, b) in [(INF, 0), (0, INF)] {
            let mut t = s;
            assert_eq!(f32::fma(a, b, QNAN, &mut t), quiet.0, "{s:?}");
            assert_eq!(t.flags.contains(Flags::INVALID), quiet.1, "{s:?}");
            let mut t = s;
            assert_eq!(f32::fma(a, b, SNAN, &mut t), signaling, "{s:?}");
            assert!(t.flags.contains(Flags::INVALID));
        }
    }
    // Not a NaN rule: a finite addend is invalid for everyone, and so is inf * 1 - inf.
    let mut s = Status::x86_sse();
    assert_eq!(f32::fma(INF, 0, ONE, &mut s), 0xffc0_0000);
    assert!(s.flags.contains(Flags::INVALID | Flags::INVALID_IMZ));
    let mut s = Status::ppc();
    assert_eq!(f32::fms(INF, ONE, INF, &mut s), 0x7fc0_0000);
    assert!(s.flags.contains(Flags::INVALID | Flags::INVALID_ISI));
}

#[test]
fn three_nan_operands() {
    let (a, b, c) = (0x7fc0_0001, 0x7fc0_0002, 0x7fc0_0003u32);
    for (s, want) in [
        (Status::x86_sse(), a),
        (Status::arm(), c),
        (Status::ppc(), a),
        (Status::s390x(), a),
        (Status::new(NanPolicy::SPARC, Tininess::BeforeRounding), c),
    ] {
        assert_eq!(f32::fma(a, b, c, &mut { s }), want, "{s:?}");
    }
    assert_eq!(f32::fma(ONE, b, c, &mut Status::ppc()), c);
    assert_eq!(f32::fma(ONE, b, c, &mut Status::s390x()), b);
    assert_eq!(f32::fma(a, SNAN, c, &mut Status::arm()), SNAN | 0x0040_0000);
}

#[test]
fn negated_results_keep_their_nan() {
    let negated = Negate { result: true, ..Negate::NONE };
    let two = 0x4000_0000;
    assert_eq!(f32::fma_with(ONE, ONE, ONE, negated, &mut Status::ppc()), two | 0x8000_0000);
    assert_eq!(f32::fma_with(ONE, QNAN, ONE, negated, &mut Status::ppc()), QNAN);
    assert_eq!(f32::fma_with(INF, 0, ONE, negated, &mut Status::ppc()), 0x7fc0_0000);
    // Exact cancellation: +0 unless rounding down, whichever way the signs came about.
    let minus_one = f32::neg(ONE);
    assert_eq!(f32::fma(ONE, ONE, minus_one, &mut Status::riscv()), 0);
    assert_eq!(f32::neg_mul_add(ONE, ONE, ONE, &mut Status::riscv()), 0);
    let mut down = Status { rounding: RoundingMode::Down, ..Status::riscv() };
    assert_eq!(f32::fms(ONE, ONE, ONE, &mut down), 0x8000_0000);
}

#[test]
fn minima_and_maxima() {
    let (p0, n0) = (0u32, 0x8000_0000u32);
    let canonical = 0x7fc0_0000;
    let run = |rule, a, b| {
        let mut s = Status::riscv();
        let v = (f32::min(a, b, rule, &mut s), f32::max(a, b, rule, &mut s));
        (v.0, v.1, s.flags.contains(Flags::INVALID))
    };
    // Rule, operands, minimum, maximum, invalid.
    for (rule, a, b, min, max, invalid) in [
        (MinMax::Number, n0, p0, n0, p0, false),
        (MinMax::Number, p0, n0, n0, p0, false),
        (MinMax::Number, QNAN, ONE, ONE, ONE, false),
        (MinMax::Number, ONE, SNAN, ONE, ONE, true),
        (MinMax::Number, QNAN, QNAN, canonical, canonical, false),
        (MinMax::Num, QNAN, ONE, ONE, ONE, false),
        (MinMax::Num, ONE, SNAN, canonical, canonical, true),
        (MinMax::Propagate, QNAN, ONE, canonical, canonical, false),
        (MinMax::Propagate, n0, p0, n0, p0, false),
        (MinMax::SecondUnlessLess, n0, p0, p0, p0, false),
        (MinMax::SecondUnlessLess, p0, n0, n0, n0, false),
        (MinMax::SecondUnlessLess, QNAN, ONE, ONE, ONE, true),
        (MinMax::SecondUnlessLess, ONE, SNAN, SNAN, SNAN, true),
        (MinMax::NumMagnitude, 0xc000_0000, ONE, ONE, 0xc000_0000, false),
        (MinMax::NumMagnitude, f32::neg(ONE), ONE, f32::neg(ONE), ONE, false),
    ] {
        assert_eq!(run(rule, a, b), (min, max, invalid), "{rule:?} {a:#x} {b:#x}");
    }
}

#[test]
fn what_no_integer_can_hold() {
    let huge = 0x4f80_0000; // 2^32
    let convert = |a: u32| f32::to_int::<i32>(a, RoundingMode::TowardZero, &mut Status::riscv());
    for (a, riscv, arm, ppc, x86) in [
        (huge, i32::MAX, i32::MAX, i32::MAX, i32::MIN),
        (f32::neg(huge), i32::MIN, i32::MIN, i32::MIN, i32::MIN),
        (QNAN, i32::MAX, 0, i32::MIN, i32::MIN),
        (0xff80_0000, i32::MIN, i32::MIN, i32::MIN, i32::MIN),
    ] {
        let v = convert(a);
        assert_eq!((v.nan_max(), v.nan_zero(), v.nan_min(), v.or(i32::MIN)), (riscv, arm, ppc, x86));
    }
    // Unsigned: what rounds to zero from below is in range and merely inexact.
    let mut s = Status::riscv();
    assert_eq!(f32::to_int::<u32>(0xbf7f_ffff, RoundingMode::TowardZero, &mut s), ToInt::Value(0));
    assert_eq!(s.flags.ieee(), Flags::INEXACT.0);
    assert_eq!(f32::to_int::<u32>(0xbf7f_ffff, RoundingMode::Down, &mut s), ToInt::Below);
    assert!(s.flags.contains(Flags::INVALID | Flags::INVALID_CONVERT));
    // 2^31 - 1/2 rounds out of range.
    let near = 0x41df_ffff_ffe0_0000;
    let nearest = |m| f64::to_int::<i32>(near, m, &mut Status::riscv());
    assert_eq!(nearest(RoundingMode::NearestEven), ToInt::Above);
    assert_eq!(nearest(RoundingMode::TowardZero), ToInt::Value(i32::MAX));
}

#[test]
fn integers_modulo_and_scaled() {
    let mut s = Status::arm();
    let zero = RoundingMode::TowardZero;
    // 2^32 + 2^31 + 5, and a number whose low word needs a left shift.
    assert_eq!(f64::to_int_modulo::<i32>(0x41f8_0000_0050_0000, zero, &mut s), i32::MIN + 5);
    assert!(s.flags.contains(Flags::INVALID));
    assert_eq!(f64::to_int_modulo::<i64>(0x43f0_0000_0000_0001, zero, &mut s), 4096);
    assert_eq!(f64::to_int_modulo::<i32>(0x7ff0_0000_0000_0000, zero, &mut s), 0);
    assert_eq!(f64::to_int_modulo::<i64>(0x7fe0_0000_0000_0000, zero, &mut s), 0);
    // 1.5 in 16.16 and back.
    assert_eq!(f32::to_int_scaled::<i32>(0x3fc0_0000, 16, zero, &mut s), ToInt::Value(0x1_8000));
    assert_eq!(f32::from_int_scaled(0x1_8000, -16, &mut s), 0x3fc0_0000);
}

#[test]
fn binary64_operands_rounded_once_to_binary32() {
    // 1 + 2^-24 + 2^-54: rounded to binary64 first it would become a tie and go down.
    let (a, b) = (0x3ff0_0000_1000_0000, 0x3c90_0000_0000_0000);
    let mut s = Status::ppc();
    assert_eq!(ops::add::add::<F64, F32>(a, b, &mut s), 0x3f80_0001);
    let twice = f64::add(a, b, &mut s);
    assert_eq!(f32::from_f64(twice, &mut s), ONE);
}

#[test]
fn precision_control_keeps_the_exponent_range() {
    let one = 0x3fff_8000_0000_0000_0000;
    let three = x80::from_int(3, &mut Status::x87());
    let mut s = Status { precision: Precision::Single, ..Status::x87() };
    assert_eq!(x80::div(one, three, &mut s), 0x3ffd_aaaa_ab00_0000_0000);
    s.precision = Precision::Double;
    assert_eq!(x80::div(one, three, &mut s), 0x3ffd_aaaa_aaaa_aaaa_a800);
    // 2^10000 is far beyond binary32.
    s.precision = Precision::Single;
    let big = x80::scalbn(one, 10_000, &mut s);
    s.flags = Flags::NONE;
    assert_eq!(x80::mul(big, one, &mut s), big);
    assert_eq!(s.flags, Flags::NONE);
}

#[test]
fn trapping_overflow_and_underflow_wrap_the_exponent() {
    let mut s = Status { wrap_overflow: true, wrap_underflow: true, ..Status::ppc() };
    // 2^1023 * 2^1023 = 2^2046, delivered as 2^(2046 - 1536); and the reverse.
    let (big, small) = (0x7fe0_0000_0000_0000, 0x0010_0000_0000_0000);
    assert_eq!(f64::mul(big, big, &mut s), 0x5fd0_0000_0000_0000);
    assert_eq!(s.flags, Flags::OVERFLOW);
    s.flags = Flags::NONE;
    assert_eq!(f64::mul(small, small, &mut s), 0x2030_0000_0000_0000);
    assert_eq!(s.flags, Flags::UNDERFLOW | Flags::TINY);
}

#[test]
fn operations_only_set_flags() {
    let mut s = Status::riscv();
    s.flags = Flags::IEEE;
    f32::add(ONE, ONE, &mut s);
    assert_eq!(s.flags, Flags::IEEE);
}
