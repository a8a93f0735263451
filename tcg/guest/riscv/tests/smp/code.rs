//! Code that one hart writes and another executes (Zifencei).

use crate::{
    AMOADD, DATA, barrier,
    common::{
        RAM,
        asm::{Asm, FENCE, FENCE_I, NOP, RET, addi, amo, i_type, load, r_type, store},
        smp::run,
    },
    each_run, stop, word,
};

/// Functions that are rewritten, on pages of their own: one a hart.
const FUNCTIONS: u64 = RAM + 0x8_0000;
const FUNCTION: u64 = 0x1000;
/// The round a hart has written for its neighbour, and what a hart has found wrong, 64 bytes a hart.
const WRITTEN: i32 = 0x100;
const DONE: i32 = 0x300;
const WRONG: u64 = DATA + 0x500;

/// x5 = the word `addi a0, zero, x9`.
fn make_word(a: &mut Asm) {
    a.li(5, u64::from(addi(14, 0, 0)));
    a.word(i_type(0x13, 1, 6, 9, 20)); // slli x6,x9,20
    a.word(r_type(0x33, 4, 0, 5, 5, 6));
}

/// Each hart writes a function for its right neighbour and runs the one its left neighbour wrote, in step. x12 = DATA,
/// x13 = rounds, x20 = the neighbour's function, x21 = its own, x22 and x23 the places of flags.
fn in_step() -> Vec<u8> {
    let mut a = Asm::default();
    barrier(&mut a, 0);
    a.word(addi(9, 0, 1));
    a.word(addi(18, 0, 0));
    let head = a.here();
    make_word(&mut a);
    a.word(store(2, 5, 20, 0));
    a.word(FENCE);
    a.word(store(3, 9, 22, WRITTEN)); // for the neighbour
    let wait = a.here();
    a.word(load(3, 7, 23, WRITTEN)); // by the other neighbour
    a.branch(1, 7, 9, wait);
    a.word(FENCE);
    a.word(FENCE_I);
    // Twice: through the first call's links too.
    for _ in 0..2 {
        a.word(i_type(0x67, 0, 1, 21, 0));
        let good = a.label();
        a.branch(0, 14, 9, good);
        a.word(addi(18, 18, 1));
        a.place(good);
    }
    a.word(FENCE);
    a.word(store(3, 9, 23, DONE));
    let wait = a.here();
    a.word(load(3, 7, 22, DONE)); // the neighbour has run it
    a.branch(1, 7, 9, wait);
    a.word(addi(9, 9, 1));
    a.branch(1, 9, 13, head);
    a.word(store(3, 18, 24, 0));
    stop(&mut a);
    a.finish()
}

fn function() -> Vec<u8> {
    [addi(14, 0, 0), RET].iter().flat_map(|w| w.to_le_bytes()).collect()
}

#[test]
fn code_of_another_hart_is_seen_behind_fence_i() {
    let program = in_step();
    each_run(|backend, harts, scale| {
        let rounds = 5 * scale;
        let functions: Vec<_> =
            (0..u64::from(harts)).map(|h| (FUNCTIONS + h * FUNCTION, function())).collect();
        let memory = run(backend, harts, &program, &functions, |hart, s| {
            let (me, next) = (u64::from(hart), u64::from((hart + 1) % harts));
            s.x[12] = DATA;
            s.x[13] = rounds;
            s.x[20] = FUNCTIONS + next * FUNCTION;
            s.x[21] = FUNCTIONS + me * FUNCTION;
            s.x[22] = DATA + next * 64;
            s.x[23] = DATA + me * 64;
            s.x[24] = WRONG + me * 8;
        });
        for hart in 0..u64::from(harts) {
            assert_eq!(word(&memory, WRONG + hart * 8), 0, "{backend}, {harts} harts: hart {hart}");
        }
    });
}

/// Hart 0 rewrites one instruction of a function without telling anybody, the others call it all the time: each call
/// gives a value that was there, and behind fence.i never an older one than before.
fn racing() -> Vec<u8> {
    let mut a = Asm::default();
    barrier(&mut a, 0);
    a.word(addi(9, 0, 1));
    a.word(addi(18, 0, 0));
    let reader = a.label();
    a.branch(1, 10, 0, reader);
    let head = a.here();
    make_word(&mut a);
    a.word(store(2, 5, 20, 4));
    a.word(FENCE);
    a.word(store(3, 9, 12, WRITTEN));
    a.word(addi(9, 9, 1));
    a.branch(1, 9, 13, head);
    stop(&mut a);

    a.place(reader);
    a.word(addi(19, 0, 0)); // the newest seen
    let head = a.here();
    a.word(load(3, 8, 12, WRITTEN)); // surely there
    a.word(FENCE);
    a.word(FENCE_I);
    a.word(i_type(0x67, 0, 1, 20, 0));
    let (good, bad) = (a.label(), a.label());
    a.branch(6, 14, 19, bad);
    a.branch(6, 14, 8, bad);
    a.branch(6, 14, 13, good);
    a.place(bad);
    a.word(addi(18, 18, 1));
    a.place(good);
    a.word(addi(19, 14, 0));
    a.word(addi(9, 9, 1));
    a.word(addi(7, 13, -1));
    a.branch(1, 8, 7, head); // until the last one is written
    a.word(store(3, 18, 24, 0));
    a.word(addi(5, 12, 8));
    a.word(addi(6, 0, 1));
    a.word(amo(AMOADD, 3, 0, 5, 6));
    stop(&mut a);
    a.finish()
}

#[test]
fn code_that_changes_under_running_harts() {
    let program = racing();
    let function: Vec<u8> = [NOP, addi(14, 0, 0), NOP, RET].iter().flat_map(|w| w.to_le_bytes()).collect();
    each_run(|backend, harts, scale| {
        let memory = run(backend, harts, &program, &[(FUNCTIONS, function.clone())], |hart, s| {
            s.x[12] = DATA;
            s.x[13] = 60 * scale;
            s.x[20] = FUNCTIONS;
            s.x[24] = WRONG + u64::from(hart) * 8;
        });
        assert_eq!(word(&memory, DATA + 8), u64::from(harts) - 1);
        for hart in 1..u64::from(harts) {
            assert_eq!(word(&memory, WRONG + hart * 8), 0, "{backend}, {harts} harts: hart {hart}");
        }
    });
}
