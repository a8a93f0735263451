//! binary16 in full: every operand of the one-operand operations, and arithmetic through binary32.
//!
//! The detour is exact when binary32 rounds to odd: it has more than twice binary16's bits and two, so rounding
//! its result again is rounding once, flags included.

use softfloat::{Category, Flags, MinMax, Relation, RoundingMode, Status, bf16, f16, f32, f64};

const ROUNDINGS: [RoundingMode; 6] = [
    RoundingMode::NearestEven,
    RoundingMode::TowardZero,
    RoundingMode::Down,
    RoundingMode::Up,
    RoundingMode::NearestAway,
    RoundingMode::Odd,
];

fn status(rounding: RoundingMode) -> Status {
    Status { rounding, ..Status::riscv() }
}

/// `f` in binary32, rounded to odd, then to binary16. Wider exponents make the detour's own range flags moot.
fn via_f32(rounding: RoundingMode, f: impl FnOnce(&mut Status) -> u32) -> (u16, u32) {
    let mut odd = status(RoundingMode::Odd);
    let wide = f(&mut odd);
    let mut s = status(rounding);
    let v = f16::from_f32(wide, &mut s);
    (v, (s.flags | odd.flags).ieee())
}

fn up(a: u16) -> u32 {
    f32::from_f16(a, &mut Status::riscv())
}

/// Every pattern.
fn all() -> impl Iterator<Item = u16> {
    0..=u16::MAX
}

#[test]
fn widening_and_back_is_the_identity() {
    for a in all() {
        let mut s = Status::riscv();
        let nan = f16::is_nan(a, &s);
        let back = f16::from_f32(f32::from_f16(a, &mut s), &mut s);
        let back64 = f16::from_f64(f64::from_f16(a, &mut s), &mut s);
        assert_eq!((back, back64), if nan { (0x7e00, 0x7e00) } else { (a, a) });
        assert_eq!(s.flags.contains(Flags::INVALID), f16::is_snan(a, &s), "{a:#x}");
        assert_eq!(s.flags.ieee() & !Flags::INVALID.0, 0, "{a:#x}");
    }
}

#[test]
fn bfloat16_is_the_top_of_binary32() {
    for a in all() {
        let mut s = Status::arm();
        let wide = f32::from_bf16(a, &mut s);
        let quiet = if bf16::is_snan(a, &s) { a | 0x40 } else { a };
        assert_eq!(wide, u32::from(quiet) << 16, "{a:#x}");
        assert_eq!(bf16::from_f32(wide, &mut s), quiet, "{a:#x}");
    }
}

#[test]
fn square_root_of_every_number() {
    for mode in ROUNDINGS {
        for a in all() {
            let mut s = status(mode);
            let got = f16::sqrt(a, &mut s);
            let want = via_f32(mode, |s| f32::sqrt(f32::from_f16(a, s), s));
            assert_eq!((got, s.flags.ieee()), want, "sqrt {a:#x} {mode:?}");
        }
    }
}

#[test]
fn integers_of_every_number() {
    for mode in ROUNDINGS {
        for a in all() {
            let (mut s, mut t) = (status(mode), status(mode));
            let got = f16::to_int::<i16>(a, mode, &mut s);
            let want = f32::to_int::<i16>(f32::from_f16(a, &mut t), mode, &mut t);
            assert_eq!((got, s.flags.ieee()), (want, t.flags.ieee()), "{a:#x} {mode:?}");

            let (mut s, mut t) = (status(mode), status(mode));
            let got = f16::round_to_int(a, mode, true, &mut s);
            let want = f32::round_to_int(f32::from_f16(a, &mut t), mode, true, &mut t);
            assert_eq!(up(got), want, "{a:#x} {mode:?}");
            assert_eq!(s.flags.ieee(), t.flags.ieee(), "{a:#x} {mode:?}");

            if let softfloat::ToInt::Value(v) = f16::to_int::<i32>(a, mode, &mut Status::riscv()) {
                let mut t = Status::riscv();
                assert_eq!(f16::from_int(v, &mut t) & 0x7fff, got & 0x7fff, "{a:#x} {mode:?}");
            }
        }
    }
}

#[test]
fn arithmetic_through_binary32() {
    // Every first operand against a spread of second ones: both ends of each binade, ties, specials.
    let spread = (0..64u16).flat_map(|e| {
        let base = e << 10;
        [base, base | 1, base | 0x155, base | 0x200, base | 0x3ff]
    });
    let spread: Vec<u16> = spread.collect();
    for (i, a) in all().enumerate() {
        let mode = ROUNDINGS[i % ROUNDINGS.len()];
        for &b in &spread {
            let check = |name, f: fn(u16, u16, &mut Status) -> u16, g: fn(u32, u32, &mut Status) -> u32| {
                let mut s = status(mode);
                let got = f(a, b, &mut s);
                let (want, flags) = via_f32(mode, |s| {
                    let (a, b) = (f32::from_f16(a, s), f32::from_f16(b, s));
                    g(a, b, s)
                });
                assert_eq!(
                    (zero_sign(name, got, mode), s.flags.ieee()),
                    (zero_sign(name, want, mode), flags),
                    "{name} {a:#x} {b:#x} {mode:?}"
                );
            };
            check("add", f16::add, f32::add);
            check("sub", f16::sub, f32::sub);
            check("mul", f16::mul, f32::mul);
            check("div", f16::div, f32::div);
        }
    }
}

/// The detour's rounding decides the sign of an exact zero sum, and rounding to odd is never downward.
fn zero_sign(name: &str, v: u16, mode: RoundingMode) -> u16 {
    let sum = matches!(name, "add" | "sub");
    if sum && mode == RoundingMode::Down && v == 0x8000 { 0 } else { v }
}

#[test]
fn classes() {
    let s = Status::riscv();
    for a in all() {
        let negative = a >> 15 != 0;
        let (category, distance) = match a & 0x7fff {
            0 => (Category::Zero, 0),
            1..=0x3ff => (Category::Subnormal, 1),
            0x400..=0x7bff => (Category::Normal, 2),
            0x7c00 => (Category::Infinite, 3),
            0x7c01..=0x7dff => (Category::SignalingNan, 0),
            _ => (Category::QuietNan, 0),
        };
        let bit = match category {
            Category::SignalingNan => 8,
            Category::QuietNan => 9,
            _ if negative => 3 - distance,
            _ => 4 + distance,
        };
        assert_eq!((f16::category(a, &s), f16::fclass(a, &s)), (category, 1 << bit), "{a:#x}");
        assert_eq!((f16::neg(a), f16::abs(a)), (a ^ 0x8000, a & 0x7fff));
    }
}

#[test]
fn order_of_every_number() {
    // Sign-magnitude patterns order as integers once the negative ones are mirrored.
    let key = |a: u16| if a >> 15 != 0 { -i32::from(a & 0x7fff) } else { i32::from(a) };
    for a in all() {
        let b = a.wrapping_mul(40503).wrapping_add(12345);
        let mut s = Status::riscv();
        let got = f16::compare_quiet(a, b, &mut s);
        if f16::is_nan(a, &s) || f16::is_nan(b, &s) {
            assert_eq!(got, Relation::Unordered);
            continue;
        }
        let want = match key(a).cmp(&key(b)) {
            std::cmp::Ordering::Less => Relation::Less,
            std::cmp::Ordering::Equal => Relation::Equal,
            std::cmp::Ordering::Greater => Relation::Greater,
        };
        assert_eq!(got, want, "{a:#x} {b:#x}");
        let (low, high) = if want == Relation::Less { (a, b) } else { (b, a) };
        assert_eq!(f16::min(a, b, MinMax::Number, &mut s), low);
        assert_eq!(f16::max(a, b, MinMax::Propagate, &mut s), high);
        assert_eq!(s.flags.ieee(), 0);
    }
}
