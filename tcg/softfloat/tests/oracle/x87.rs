//! The 80-bit format against the host's x87 unit: result bits, every exception flag and C1, in all rounding modes
//! and precision controls, operands of retired encodings included.
#![expect(unsafe_code, reason = "the host's x87 is reached through inline assembly")]

use crate::operands::{Rng, Shape};
use softfloat::{Flags, Precision, Quotient, Relation, RoundingMode, Status, f32, f64, x80};
use std::arch::asm;

/// Memory an instruction sequence works on.
#[repr(C, align(16))]
struct Slot {
    a: u128,
    b: u128,
    out: u128,
    control: u16,
    status: u16,
    /// The status word before the result is stored, which clears C1.
    early: u16,
}

type Host = fn(&mut Slot);

/// Runs `$insn` with the control word of the slot; `{p}` + 0, 16, 32 are a, b and the result.
macro_rules! host {
    ($($insn:expr),+) => {{
        fn run(slot: &mut Slot) {
            // SAFETY: the instructions touch the slot and the x87 unit only, all of whose registers are
            // declared clobbered, and leave it as FNINIT does, which is the state Rust code expects.
            unsafe {
                asm!(
                    "fninit",
                    "fldcw [{p} + 48]",
                    $($insn,)+
                    "fnstsw [{p} + 50]",
                    "fninit",
                    p = in(reg) std::ptr::from_mut(slot),
                    out("rax") _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
        }
        run as Host
    }};
}

macro_rules! binary {
    ($insn:expr) => {
        host!(
            "fld tbyte ptr [{p}]",
            "fld tbyte ptr [{p} + 16]",
            $insn,
            "fnstsw [{p} + 52]",
            "fnclex",
            "fstp tbyte ptr [{p} + 32]"
        )
    };
}

macro_rules! unary {
    ($insn:expr) => {
        host!("fld tbyte ptr [{p}]", $insn, "fnstsw [{p} + 52]", "fnclex", "fstp tbyte ptr [{p} + 32]")
    };
}

/// C1, and the six exceptions.
const FLAGS: u16 = 0x23f;
/// The exceptions without C1, for instructions that give it another meaning.
const EXCEPTIONS: u16 = 0x3f;

fn status_word(f: Flags) -> u16 {
    let bit = |flag, bit: u32| u16::from(f.contains(flag)) << bit;
    bit(Flags::INVALID, 0)
        | bit(Flags::INPUT_DENORMAL, 1)
        | bit(Flags::DIV_BY_ZERO, 2)
        | bit(Flags::OVERFLOW, 3)
        | bit(Flags::UNDERFLOW, 4)
        | bit(Flags::INEXACT, 5)
        | bit(Flags::ROUNDED_UP, 9)
}

const ROUNDINGS: [RoundingMode; 4] =
    [RoundingMode::NearestEven, RoundingMode::Down, RoundingMode::Up, RoundingMode::TowardZero];
const PRECISIONS: [(u16, Precision); 3] =
    [(0, Precision::Single), (2, Precision::Double), (3, Precision::Extended)];

/// Compares on random operands in every mode; `mask` selects the status bits that have to agree.
fn check(
    name: &str,
    mask: u16,
    host: Host,
    draw: impl Fn(&mut Rng) -> (u128, u128),
    soft: impl Fn(u128, u128, &mut Status) -> (u128, u16),
) {
    check_traps(name, mask, false, host, draw, soft);
}

/// [`check`], with overflow and underflow unmasked too if `traps`.
fn check_traps(
    name: &str,
    mask: u16,
    traps: bool,
    host: Host,
    draw: impl Fn(&mut Rng) -> (u128, u128),
    soft: impl Fn(u128, u128, &mut Status) -> (u128, u16),
) {
    let mut r = Rng::new(0x5eed_0087);
    for mode in 0..24u16 {
        // The second half has overflow and underflow unmasked, if the sequence clears them in time.
        let unmasked = mode >= 12;
        if unmasked && !traps {
            break;
        }
        let mode = mode % 12;
        let (precision_bits, precision) = PRECISIONS[usize::from(mode >> 2)];
        let mut modes = Status::x87();
        modes.rounding = ROUNDINGS[usize::from(mode & 3)];
        modes.precision = precision;
        modes.wrap_overflow = unmasked;
        modes.wrap_underflow = unmasked;
        for _ in 0..25_000 {
            let (a, b) = draw(&mut r);
            let masks = if unmasked { 0x27 } else { 0x3f };
            let control = masks | (mode & 3) << 10 | precision_bits << 8;
            let mut slot = Slot { a, b, out: 0, control, status: 0, early: 0 };
            host(&mut slot);
            let mut s = modes;
            let (got, extra) = soft(a, b, &mut s);
            let (flags, want) = ((status_word(s.flags) | extra) & mask, (slot.status | slot.early) & mask);
            assert!(
                (got, flags) == (slot.out, want),
                "{name} {a:#x} {b:#x} {:?} {precision:?} unmasked {unmasked}: {got:#x} {flags:#x}, host {:#x} {want:#x}",
                modes.rounding,
                slot.out,
            );
        }
    }
}

/// Now and then an encoding no x87 since the 80287 produces: integer bit flipped.
fn operand(a: u128, r: &mut Rng) -> u128 {
    if r.below(24) == 0 { a ^ 1 << 63 } else { a }
}

fn pair(r: &mut Rng) -> (u128, u128) {
    let (a, b) = Shape::X80.pair(r);
    (operand(a, r), operand(b, r))
}

#[test]
fn arithmetic() {
    check_traps("fadd", FLAGS, true, binary!("faddp st(1), st"), pair, |a, b, s| (x80::add(a, b, s), 0));
    check_traps("fsub", FLAGS, true, binary!("fsubp st(1), st"), pair, |a, b, s| (x80::sub(a, b, s), 0));
    check_traps("fmul", FLAGS, true, binary!("fmulp st(1), st"), pair, |a, b, s| (x80::mul(a, b, s), 0));
    check_traps("fdiv", FLAGS, true, binary!("fdivp st(1), st"), pair, |a, b, s| (x80::div(a, b, s), 0));
    check("fsqrt", FLAGS, unary!("fsqrt"), pair, |a, _, s| (x80::sqrt(a, s), 0));
}

#[test]
fn round_to_int() {
    check("frndint", FLAGS, unary!("frndint"), pair, |a, _, s| {
        (x80::round_to_int(a, s.rounding, true, s), 0)
    });
}

#[test]
fn remainder() {
    /// C2 says partial; the quotient's bits 2, 1, 0 are C0, C3, C1.
    fn soft(a: u128, b: u128, q: Quotient, s: &mut Status) -> (u128, u16) {
        let r = x80::rem_partial(a, b, q, s);
        s.flags.0 &= !Flags::ROUNDED_UP.0;
        let bit = |n: u32| (r.quotient >> n & 1) as u16;
        (r.value, u16::from(!r.complete) << 10 | bit(2) << 8 | bit(1) << 14 | bit(0) << 9)
    }
    const CODES: u16 = 0x473f;
    let code = |insn| (insn, CODES);
    let (host, mask) = code(host!(
        "fld tbyte ptr [{p} + 16]",
        "fld tbyte ptr [{p}]",
        "fprem1",
        "fnstsw [{p} + 52]",
        "fnclex",
        "fstp tbyte ptr [{p} + 32]"
    ));
    check("fprem1", mask, host, pair, |a, b, s| soft(a, b, Quotient::Nearest, s));
    let (host, mask) = code(host!(
        "fld tbyte ptr [{p} + 16]",
        "fld tbyte ptr [{p}]",
        "fprem",
        "fnstsw [{p} + 52]",
        "fnclex",
        "fstp tbyte ptr [{p} + 32]"
    ));
    check("fprem", mask, host, pair, |a, b, s| soft(a, b, Quotient::Truncated, s));
}

#[test]
fn compare() {
    fn soft(r: Relation) -> u128 {
        match r {
            Relation::Greater => 0,
            Relation::Less => 1,
            Relation::Equal => 0x40,
            Relation::Unordered => 0x45,
        }
    }
    macro_rules! host_compare {
        ($insn:expr) => {
            host!(
                "fld tbyte ptr [{p} + 16]",
                "fld tbyte ptr [{p}]",
                $insn,
                "pushfq",
                "pop rax",
                "and eax, 0x45",
                "mov [{p} + 32], rax"
            )
        };
    }
    check("fcomi", EXCEPTIONS, host_compare!("fcomi st, st(1)"), pair, |a, b, s| {
        (soft(x80::compare(a, b, s)), 0)
    });
    check("fucomi", EXCEPTIONS, host_compare!("fucomi st, st(1)"), pair, |a, b, s| {
        (soft(x80::compare_quiet(a, b, s)), 0)
    });
}

/// Stores, unlike loads, do not report a subnormal operand.
fn stored(s: &mut Status, f: impl FnOnce(&mut Status) -> u128) -> (u128, u16) {
    let v = f(s);
    s.flags.0 &= !Flags::INPUT_DENORMAL.0;
    (v, 0)
}

#[test]
fn narrow_and_widen() {
    check("fst m32", FLAGS, host!("fld tbyte ptr [{p}]", "fstp dword ptr [{p} + 32]"), pair, |a, _, s| {
        stored(s, |s| u128::from(f32::from_x80(a, s)))
    });
    check("fst m64", FLAGS, host!("fld tbyte ptr [{p}]", "fstp qword ptr [{p} + 32]"), pair, |a, _, s| {
        stored(s, |s| u128::from(f64::from_x80(a, s)))
    });
    check(
        "fld m32",
        FLAGS,
        host!("fld dword ptr [{p}]", "fstp tbyte ptr [{p} + 32]"),
        |r| Shape::F32.pair(r),
        |a, _, s| (x80::from_f32(a as u32, s), 0),
    );
    check(
        "fld m64",
        FLAGS,
        host!("fld qword ptr [{p}]", "fstp tbyte ptr [{p} + 32]"),
        |r| Shape::F64.pair(r),
        |a, _, s| (x80::from_f64(a as u64, s), 0),
    );
}

#[test]
fn integers() {
    check("fistp m16", FLAGS, host!("fld tbyte ptr [{p}]", "fistp word ptr [{p} + 32]"), pair, |a, _, s| {
        (u128::from(x80::to_int(a, s.rounding, s).or(i16::MIN) as u16), 0)
    });
    check("fistp m32", FLAGS, host!("fld tbyte ptr [{p}]", "fistp dword ptr [{p} + 32]"), pair, |a, _, s| {
        (u128::from(x80::to_int(a, s.rounding, s).or(i32::MIN) as u32), 0)
    });
    check("fistp m64", FLAGS, host!("fld tbyte ptr [{p}]", "fistp qword ptr [{p} + 32]"), pair, |a, _, s| {
        (u128::from(x80::to_int(a, s.rounding, s).or(i64::MIN) as u64), 0)
    });
    check(
        "fisttp m64",
        FLAGS,
        host!("fld tbyte ptr [{p}]", "fisttp qword ptr [{p} + 32]"),
        pair,
        |a, _, s| (u128::from(x80::to_int(a, RoundingMode::TowardZero, s).or(i64::MIN) as u64), 0),
    );
    let draw = |r: &mut Rng| (u128::from(r.next() >> r.below(64) ^ (r.next() & 1).wrapping_neg()), 0);
    check("fild m64", FLAGS, host!("fild qword ptr [{p}]", "fstp tbyte ptr [{p} + 32]"), draw, |a, _, s| {
        (x80::from_int(a as i64, s), 0)
    });
}

#[test]
fn scale_and_extract() {
    // The scale is an integer of any size; what else it may be is the instruction's affair, not the format's.
    let draw = |r: &mut Rng| {
        let (a, _) = pair(r);
        let n = match r.below(3) {
            0 => r.below(40) as i32 - 20,
            1 => r.below(70_000) as i32 - 35_000,
            _ => r.next() as i32,
        };
        (a, x80::from_int(n, &mut Status::x87()))
    };
    let host = host!(
        "fld tbyte ptr [{p} + 16]",
        "fld tbyte ptr [{p}]",
        "fscale",
        "fnstsw [{p} + 52]",
        "fnclex",
        "fstp tbyte ptr [{p} + 32]"
    );
    check("fscale", FLAGS, host, draw, |a, b, s| {
        let n = x80::to_int::<i32>(b, RoundingMode::TowardZero, s).or(0);
        (x80::scalbn(a, n, s), 0)
    });
    check("fxtract significand", EXCEPTIONS, unary!("fxtract"), pair, |a, _, s| {
        let v = x80::significand(a, s);
        x80::logb(a, s);
        (v, 0)
    });
    let host = host!("fld tbyte ptr [{p}]", "fxtract", "fstp st", "fstp tbyte ptr [{p} + 32]");
    check("fxtract exponent", EXCEPTIONS, host, pair, |a, _, s| (x80::logb(a, s), 0));
}
