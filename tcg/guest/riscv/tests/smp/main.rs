//! Harts in parallel: atomics, locks, TLB shoot-down, code that another hart writes, and message passing. Results are
//! exact, on the translator and on the interpreter; `RHEA_SMP_ROUNDS=20` repeats each.
//!
//! Every program starts on all harts at the start of RAM in machine mode with a0 = hart, a1 = number of harts, and ends
//! each with a store to `STOP`.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

#[path = "../common/mod.rs"]
mod common;

mod atomics;
mod code;
mod litmus;
mod shootdown;

use common::{
    RAM, STOP,
    asm::{Asm, FENCE, WFI, amo, load, store},
};

/// Data, above all code.
const DATA: u64 = RAM + 0x10_0000;

/// Back end, harts, and how much of the usual work to do: the interpreter is some tens of times slower.
const RUNS: [(&str, u32, u64); 5] =
    [("jit", 2, 6), ("jit", 4, 3), ("hot", 3, 3), ("interp", 2, 1), ("interp", 4, 1)];

fn each_run(test: impl Fn(&str, u32, u64)) {
    let rounds = std::env::var("RHEA_SMP_ROUNDS").map_or(1, |n| n.parse().unwrap());
    for _ in 0..rounds {
        for (backend, harts, scale) in RUNS {
            test(backend, harts, scale);
        }
    }
}

const AMOADD: u32 = 0;
const AMOSWAP: u32 = 1;
const LR: u32 = 2;
const SC: u32 = 3;
const AMOXOR: u32 = 4;
const AMOOR: u32 = 8;
const AMOMAX: u32 = 0x14;

/// The end of a hart's work.
fn stop(a: &mut Asm) {
    a.li(5, STOP);
    a.word(store(2, 0, 5, 0));
    let wait = a.here();
    a.word(WFI);
    a.jump(0, wait);
}

/// All harts wait for each other: the count at `at(x12)` reaches `a1` times the number of barriers so far, which the
/// caller keeps in x27. Uses x5 and x6.
fn barrier(a: &mut Asm, at: i32) {
    a.word(common::asm::r_type(0x33, 0, 0, 27, 27, 11));
    a.word(common::asm::addi(5, 12, at));
    a.word(common::asm::addi(6, 0, 1));
    a.word(amo(AMOADD, 3, 0, 5, 6));
    let wait = a.here();
    a.word(load(3, 6, 5, 0));
    a.branch(6, 6, 27, wait);
    a.word(FENCE);
}

fn word(memory: &[u8], at: u64) -> u64 {
    let at = (at - RAM) as usize;
    u64::from_le_bytes(memory[at..at + 8].try_into().unwrap())
}
