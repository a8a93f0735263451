//! The transcendental functions of x87, compared with the host's own processor: within one unit in the last place.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;
#[path = "native/host.rs"]
mod host;
#[path = "native/rng.rs"]
mod rng;

use common::Rig;
use host::{DATA, FLAGS, Host, Registers};
use rng::Rng;

const CODE: u64 = 0x1000;
/// Offsets of operands and results.
const RESULT: usize = 0x20;

/// A number of the x87 format with an exponent from `low` to `high`.
fn number(rng: &mut Rng, low: i64, high: i64) -> [u8; 10] {
    let exponent =
        (0x3fff + low + rng.below((high - low) as u64) as i64) as u16 | (rng.below(2) << 15) as u16;
    let significand = 1 << 63 | rng.next() >> rng.below(2).wrapping_mul(40);
    let mut out = [0; 10];
    out[..8].copy_from_slice(&significand.to_le_bytes());
    out[8..].copy_from_slice(&exponent.to_le_bytes());
    out
}

/// Distance in units of the last place, of numbers of one sign.
fn distance(a: &[u8], b: &[u8]) -> u128 {
    let of = |v: &[u8]| {
        let (m, e) = (u64::from_le_bytes(v[..8].try_into().unwrap()), u16::from_le_bytes([v[8], v[9]]));
        // Steps from one number to the next, across binades.
        (u128::from(e & 0x7fff) << 63 | u128::from(m & i64::MAX as u64), e >> 15)
    };
    let ((x, sx), (y, sy)) = (of(a), of(b));
    if sx == sy { x.abs_diff(y) } else { x + y }
}

#[test]
fn transcendental_functions_agree_with_the_host() {
    let Ok(host) = Host::new() else { return println!("SKIPPED: the low address is not free on this host") };
    let mut rigs: Vec<(&str, Rig)> = ["interp", "jit"].into_iter().map(|b| (b, Rig::new("max", b))).collect();
    let mut rng = Rng(0x1357_9bdf);
    // Second byte of the opcode, exponents of ST(0) and of ST(1).
    type Range = (i64, i64);
    let functions: [(&str, u8, Range, Range); 8] = [
        ("f2xm1", 0xf0, (-70, 0), (0, 1)),
        ("fyl2x", 0xf1, (-60, 60), (-20, 20)),
        ("fyl2x of numbers about 1", 0xf1, (-1, 1), (-20, 20)),
        ("fptan", 0xf2, (-50, 20), (0, 1)),
        ("fpatan", 0xf3, (-40, 40), (-40, 40)),
        ("fyl2xp1", 0xf9, (-60, -2), (-20, 20)),
        ("fsin", 0xfe, (-50, 40), (0, 1)),
        ("fcos", 0xff, (-50, 40), (0, 1)),
    ];
    for (name, op, first, second) in functions {
        let mut worst = 0;
        for _ in 0..60 {
            let mut data = vec![0; 0x40];
            data[..10].copy_from_slice(&number(&mut rng, second.0, second.1));
            data[0x10..0x1a].copy_from_slice(&number(&mut rng, first.0, first.1));
            if op == 0xf1 {
                data[0x19] &= 0x7f;
            }
            // fninit; fld [r14]; fld [r14+0x10]; the function; fstp st(0) of what FPTAN pushes; fstp [r14+0x20]; fninit
            let mut code = vec![0xdb, 0xe3, 0x41, 0xdb, 0x2e, 0x41, 0xdb, 0x6e, 0x10, 0xd9, op];
            if op == 0xf2 {
                code.extend([0xdd, 0xd8]);
            }
            code.extend([0x41, 0xdb, 0x7e, 0x20, 0xdb, 0xe3]);
            let mut regs: Registers = [0; 16];
            (regs[14], regs[FLAGS]) = (DATA, 0x202);
            host.write(&data);
            host.run(&code, &mut regs.clone());
            let want = host.read();
            for (backend, rig) in &mut rigs {
                rig.write(DATA, &data);
                let mut bytes = code.clone();
                bytes.extend(b"\xe6\xf4\xeb\xfe");
                rig.write(CODE, &bytes);
                let mut s = rig.long(CODE);
                s.set_gprs(regs);
                s.rsp = 0x9_0000;
                s.rflags = 0x202;
                rig.set_state(&s);
                rig.run();
                let got = rig.read(DATA, 0x40);
                let far = distance(&got[RESULT..RESULT + 10], &want[RESULT..RESULT + 10]);
                worst = worst.max(far);
                assert!(
                    far <= 1,
                    "{name} on {backend} of {:02x?}, {:02x?}: {far} units off: {:02x?}, the host has {:02x?}",
                    &data[0x10..0x1a],
                    &data[..10],
                    &got[RESULT..RESULT + 10],
                    &want[RESULT..RESULT + 10]
                );
            }
        }
        println!("{name}: at most {worst}");
    }
}
