//! binary32, binary64 and binary16 against the host's own SSE, FMA, F16C and AVX512-FP16 units: result bits and
//! every MXCSR flag, in all rounding modes, with and without flushing.
#![expect(unsafe_code, reason = "the host's floating point is reached through inline assembly")]

use crate::operands::{Rng, Shape};
use softfloat::{Flags, FlushToZero, MinMax, Negate, Relation, RoundingMode, Status, ToInt, f16, f32, f64};
use std::arch::asm;

/// One instruction under the given MXCSR: operands a, b, c in xmm0..2, result from xmm0 or a register.
type Host = fn(u64, u64, u64, u32) -> (u64, u32);
type Soft = fn(u64, u64, u64, &mut Status) -> u64;

/// Runs `$insn` on xmm0, xmm1, xmm2 and rax with MXCSR set, and gives back rax and the new MXCSR.
macro_rules! host {
    ($($insn:expr),+) => {{
        fn run(a: u64, b: u64, c: u64, csr: u32) -> (u64, u32) {
            let mut slot = [csr, 0, 0];
            let out: u64;
            // SAFETY: the instructions touch the clobbered registers and the three words of `slot`
            // only, and MXCSR is as it was at the end.
            unsafe {
                asm!(
                    "stmxcsr [{p} + 8]",
                    "ldmxcsr [{p}]",
                    "movq xmm0, {a}",
                    "movq xmm1, {b}",
                    "movq xmm2, {c}",
                    $($insn,)+
                    "stmxcsr [{p} + 4]",
                    "ldmxcsr [{p} + 8]",
                    p = in(reg) slot.as_mut_ptr(),
                    a = in(reg) a,
                    b = in(reg) b,
                    c = in(reg) c,
                    out("rax") out,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _,
                );
            }
            (out, slot[1])
        }
        run as Host
    }};
}

/// MXCSR's flags for the soft ones.
fn mxcsr_flags(f: Flags) -> u32 {
    let bit = |flag, bit: u32| u32::from(f.contains(flag)) << bit;
    bit(Flags::INVALID, 0)
        | bit(Flags::INPUT_DENORMAL, 1)
        | bit(Flags::DIV_BY_ZERO, 2)
        | bit(Flags::OVERFLOW, 3)
        | bit(Flags::UNDERFLOW, 4)
        | bit(Flags::INEXACT, 5)
}

const ROUNDINGS: [RoundingMode; 4] =
    [RoundingMode::NearestEven, RoundingMode::Down, RoundingMode::Up, RoundingMode::TowardZero];

/// What an operation's three inputs are.
#[derive(Clone, Copy)]
enum Inputs {
    Float(Shape),
    /// `a`, `b` as `Float`, `c` often close to `-a * b` (by the given product).
    Fused(Shape, Soft),
    Int,
}

impl Inputs {
    fn draw(self, r: &mut Rng, s: &Status) -> (u64, u64, u64) {
        match self {
            Inputs::Float(f) => {
                let (a, b) = f.pair(r);
                (a as u64, b as u64, 0)
            }
            Inputs::Fused(f, mul) => {
                let (a, b) = f.pair(r);
                let c = if r.below(2) == 0 {
                    f.any(r)
                } else {
                    let p = mul(a as u64, b as u64, 0, &mut s.clone());
                    f.near(u128::from(p), r)
                };
                (a as u64, b as u64, c as u64)
            }
            Inputs::Int => (r.next() >> r.below(64) ^ (r.next() & 1).wrapping_neg(), 0, 0),
        }
    }
}

/// Compares `host` and `soft` on random operands in every mode.
fn check(name: &str, inputs: Inputs, flushes: bool, host: Host, soft: Soft) {
    let mut r = Rng::new(0x5eed_0001);
    for mode in 0..if flushes { 16 } else { 4u32 } {
        let (ftz, daz) = (mode & 4 != 0, mode & 8 != 0);
        let csr = 0x1f80 | (mode & 3) << 13 | u32::from(ftz) << 15 | u32::from(daz) << 6;
        let mut modes = Status::x86_sse();
        modes.rounding = ROUNDINGS[mode as usize & 3];
        modes.flush_to_zero = if ftz { FlushToZero::UnderflowInexact } else { FlushToZero::Off };
        modes.denormals_are_zero = daz;
        for _ in 0..25_000 {
            let (a, b, c) = inputs.draw(&mut r, &modes);
            let (want, after) = host(a, b, c, csr);
            let mut s = modes;
            let got = soft(a, b, c, &mut s);
            assert!(
                (got, mxcsr_flags(s.flags)) == (want, after & 0x3f),
                "{name} {a:#x} {b:#x} {c:#x} {:?} ftz {ftz} daz {daz}: {got:#x} {:#x}, host {want:#x} {:#x}",
                modes.rounding,
                mxcsr_flags(s.flags),
                after & 0x3f,
            );
        }
    }
}

/// x86's ZF, PF, CF after a comparison.
fn eflags(r: Relation) -> u64 {
    match r {
        Relation::Greater => 0,
        Relation::Less => 1,
        Relation::Equal => 0x40,
        Relation::Unordered => 0x45,
    }
}

fn int32(v: ToInt<i32>) -> u64 {
    u64::from(v.or(i32::MIN) as u32)
}

fn int64(v: ToInt<i64>) -> u64 {
    v.or(i64::MIN) as u64
}

/// The family of tests that binary32 and binary64 share.
macro_rules! scalar {
    ($test:ident, $m:ident, $t:ty, $shape:expr, $sfx:literal, $mov:literal) => {
        mod $test {
            use super::*;
            use softfloat::$m as soft;

            const IN: Inputs = Inputs::Float($shape);

            fn product(a: u64, b: u64, _: u64, s: &mut Status) -> u64 {
                u64::from(soft::mul(a as $t, b as $t, s))
            }

            macro_rules! binary {
                ($name:ident, $insn:literal) => {
                    #[test]
                    fn $name() {
                        check(
                            concat!($insn, $sfx),
                            IN,
                            true,
                            host!(concat!($insn, $sfx, " xmm0, xmm1"), $mov),
                            |a, b, _, s| u64::from(soft::$name(a as $t, b as $t, s)),
                        );
                    }
                };
            }

            binary!(add, "adds");
            binary!(sub, "subs");
            binary!(mul, "muls");
            binary!(div, "divs");

            #[test]
            fn sqrt() {
                check("sqrt", IN, true, host!(concat!("sqrts", $sfx, " xmm0, xmm0"), $mov), |a, _, _, s| {
                    u64::from(soft::sqrt(a as $t, s))
                });
            }

            #[test]
            fn min_max() {
                check("min", IN, true, host!(concat!("mins", $sfx, " xmm0, xmm1"), $mov), |a, b, _, s| {
                    u64::from(soft::min(a as $t, b as $t, MinMax::SecondUnlessLess, s))
                });
                check("max", IN, true, host!(concat!("maxs", $sfx, " xmm0, xmm1"), $mov), |a, b, _, s| {
                    u64::from(soft::max(a as $t, b as $t, MinMax::SecondUnlessLess, s))
                });
            }

            #[test]
            fn compare() {
                check(
                    "ucomi",
                    IN,
                    true,
                    host!(concat!("ucomis", $sfx, " xmm0, xmm1"), "pushfq", "pop rax", "and eax, 0x45"),
                    |a, b, _, s| eflags(soft::compare_quiet(a as $t, b as $t, s)),
                );
                check(
                    "comi",
                    IN,
                    true,
                    host!(concat!("comis", $sfx, " xmm0, xmm1"), "pushfq", "pop rax", "and eax, 0x45"),
                    |a, b, _, s| eflags(soft::compare(a as $t, b as $t, s)),
                );
            }

            #[test]
            fn fma() {
                if !is_x86_feature_detected!("fma") {
                    return;
                }
                let inputs = Inputs::Fused($shape, product);
                // xmm0 = ±(xmm0 * xmm1) ± xmm2
                check(
                    "fma",
                    inputs,
                    true,
                    host!(concat!("vfmadd213s", $sfx, " xmm0, xmm1, xmm2"), $mov),
                    |a, b, c, s| u64::from(soft::fma_with(b as $t, a as $t, c as $t, Negate::NONE, s)),
                );
                check(
                    "fms",
                    inputs,
                    true,
                    host!(concat!("vfmsub213s", $sfx, " xmm0, xmm1, xmm2"), $mov),
                    |a, b, c, s| u64::from(soft::fms(b as $t, a as $t, c as $t, s)),
                );
                check(
                    "fnma",
                    inputs,
                    true,
                    host!(concat!("vfnmadd213s", $sfx, " xmm0, xmm1, xmm2"), $mov),
                    |a, b, c, s| u64::from(soft::neg_mul_add(b as $t, a as $t, c as $t, s)),
                );
                check(
                    "fnms",
                    inputs,
                    true,
                    host!(concat!("vfnmsub213s", $sfx, " xmm0, xmm1, xmm2"), $mov),
                    |a, b, c, s| u64::from(soft::neg_mul_sub(b as $t, a as $t, c as $t, s)),
                );
            }

            #[test]
            fn to_int() {
                check("cvt2si32", IN, true, host!(concat!("cvts", $sfx, "2si eax, xmm0")), |a, _, _, s| {
                    int32(soft::to_int(a as $t, s.rounding, &mut *s))
                });
                check("cvt2si64", IN, true, host!(concat!("cvts", $sfx, "2si rax, xmm0")), |a, _, _, s| {
                    int64(soft::to_int(a as $t, s.rounding, &mut *s))
                });
                check("cvtt2si64", IN, true, host!(concat!("cvtts", $sfx, "2si rax, xmm0")), |a, _, _, s| {
                    int64(soft::to_int(a as $t, RoundingMode::TowardZero, s))
                });
                if is_x86_feature_detected!("avx512f") {
                    check(
                        "cvt2usi32",
                        IN,
                        true,
                        host!(concat!("vcvts", $sfx, "2usi eax, xmm0")),
                        |a, _, _, s| {
                            u64::from(soft::to_int::<u32>(a as $t, s.rounding, &mut *s).or(u32::MAX))
                        },
                    );
                    check(
                        "cvt2usi64",
                        IN,
                        true,
                        host!(concat!("vcvts", $sfx, "2usi rax, xmm0")),
                        |a, _, _, s| soft::to_int::<u64>(a as $t, s.rounding, &mut *s).or(u64::MAX),
                    );
                }
            }

            #[test]
            fn from_int() {
                check(
                    "cvtsi32",
                    Inputs::Int,
                    true,
                    host!("movq rax, xmm0", concat!("cvtsi2s", $sfx, " xmm0, eax"), $mov),
                    |a, _, _, s| u64::from(soft::from_int(a as i32, s)),
                );
                check(
                    "cvtsi64",
                    Inputs::Int,
                    true,
                    host!("movq rax, xmm0", concat!("cvtsi2s", $sfx, " xmm0, rax"), $mov),
                    |a, _, _, s| u64::from(soft::from_int(a as i64, s)),
                );
                if is_x86_feature_detected!("avx512f") {
                    check(
                        "cvtusi32",
                        Inputs::Int,
                        true,
                        host!("movq rax, xmm0", concat!("vcvtusi2s", $sfx, " xmm0, xmm1, eax"), $mov),
                        |a, _, _, s| u64::from(soft::from_int(a as u32, s)),
                    );
                    check(
                        "cvtusi64",
                        Inputs::Int,
                        true,
                        host!("movq rax, xmm0", concat!("vcvtusi2s", $sfx, " xmm0, xmm1, rax"), $mov),
                        |a, _, _, s| u64::from(soft::from_int(a, s)),
                    );
                }
            }

            #[test]
            fn round_to_int() {
                check(
                    "round",
                    IN,
                    true,
                    host!(concat!("rounds", $sfx, " xmm0, xmm0, 4"), $mov),
                    |a, _, _, s| {
                        without_de(s, |s| u64::from(soft::round_to_int(a as $t, s.rounding, true, s)))
                    },
                );
                check(
                    "floor",
                    IN,
                    true,
                    host!(concat!("rounds", $sfx, " xmm0, xmm0, 9"), $mov),
                    |a, _, _, s| {
                        without_de(s, |s| {
                            u64::from(soft::round_to_int(a as $t, RoundingMode::Down, false, s))
                        })
                    },
                );
            }
        }
    };
}

/// The ROUND instructions do not report subnormal operands.
fn without_de(s: &mut Status, f: impl FnOnce(&mut Status) -> u64) -> u64 {
    let v = f(s);
    s.flags.0 &= !Flags::INPUT_DENORMAL.0;
    v
}

scalar!(single, f32, u32, Shape::F32, "s", "movd eax, xmm0");
scalar!(double, f64, u64, Shape::F64, "d", "movq rax, xmm0");

#[test]
fn between_f32_and_f64() {
    check(
        "cvtss2sd",
        Inputs::Float(Shape::F32),
        true,
        host!("cvtss2sd xmm0, xmm0", "movq rax, xmm0"),
        |a, _, _, s| f64::from_f32(a as u32, s),
    );
    check(
        "cvtsd2ss",
        Inputs::Float(Shape::F64),
        true,
        host!("cvtsd2ss xmm0, xmm0", "movd eax, xmm0"),
        |a, _, _, s| u64::from(f32::from_f64(a, s)),
    );
}

/// F16C ignores FTZ, and VCVTPH2PS DAZ too and reports no subnormal operand; so only the rounding modes here.
#[test]
fn between_f16_and_f32() {
    if !is_x86_feature_detected!("f16c") {
        return;
    }
    check(
        "vcvtph2ps",
        Inputs::Float(Shape::F16),
        false,
        host!("vcvtph2ps xmm0, xmm0", "movd eax, xmm0"),
        |a, _, _, s| without_de(s, |s| u64::from(f32::from_f16(a as u16, s))),
    );
    check(
        "vcvtps2ph",
        Inputs::Float(Shape::F32),
        false,
        host!("vcvtps2ph xmm0, xmm0, 4", "movd eax, xmm0", "movzx eax, ax"),
        |a, _, _, s| u64::from(f16::from_f32(a as u32, s)),
    );
}

#[test]
fn f16_arithmetic() {
    if !is_x86_feature_detected!("avx512fp16") {
        return;
    }
    fn product(a: u64, b: u64, _: u64, s: &mut Status) -> u64 {
        u64::from(f16::mul(a as u16, b as u16, s))
    }
    let inputs = Inputs::Float(Shape::F16);
    macro_rules! binary {
        ($f:ident, $insn:literal) => {
            check(
                $insn,
                inputs,
                false,
                host!(concat!($insn, " xmm0, xmm0, xmm1"), "vmovw eax, xmm0"),
                |a, b, _, s| u64::from(f16::$f(a as u16, b as u16, s)),
            )
        };
    }
    binary!(add, "vaddsh");
    binary!(sub, "vsubsh");
    binary!(mul, "vmulsh");
    binary!(div, "vdivsh");
    check("vsqrtsh", inputs, false, host!("vsqrtsh xmm0, xmm0, xmm0", "vmovw eax, xmm0"), |a, _, _, s| {
        u64::from(f16::sqrt(a as u16, s))
    });
    check(
        "vfmadd213sh",
        Inputs::Fused(Shape::F16, product),
        false,
        host!("vfmadd213sh xmm0, xmm1, xmm2", "vmovw eax, xmm0"),
        |a, b, c, s| u64::from(f16::fma(b as u16, a as u16, c as u16, s)),
    );
    check(
        "vcvtsd2sh",
        Inputs::Float(Shape::F64),
        false,
        host!("vcvtsd2sh xmm0, xmm0, xmm0", "vmovw eax, xmm0"),
        |a, _, _, s| u64::from(f16::from_f64(a, s)),
    );
    check("vcvtsh2si", inputs, false, host!("vcvtsh2si rax, xmm0"), |a, _, _, s| {
        int64(f16::to_int(a as u16, s.rounding, &mut *s))
    });
}
