//! Counters and locks.

use crate::{
    AMOADD, AMOMAX, AMOOR, AMOSWAP, AMOXOR, DATA, LR, SC, barrier,
    common::{
        asm::{Asm, addi, amo, i_type, load, r_type, store},
        smp::run,
    },
    each_run, stop, word,
};

/// Offsets of the variables, each on a line of its own but for two that share one.
const ADD_W: i32 = 0x40;
const ADD_D: i32 = 0x48;
const RESERVED_W: i32 = 0x80;
const RESERVED_D: i32 = 0xc0;
const XOR: i32 = 0x100;
const OR: i32 = 0x140;
const MAX: i32 = 0x180;
const LOCK: i32 = 0x1c0;
const LOCKED: i32 = 0x200;
const TURN: i32 = 0x240;
const SERVED: i32 = 0x280;
const TICKETED: i32 = 0x2c0;
const BROKEN: i32 = 0x300;

/// x12 = DATA, x13 = iterations; x9 counts down.
fn program() -> Vec<u8> {
    let mut a = Asm::default();
    barrier(&mut a, 0);
    a.word(addi(9, 13, 0));
    let head = a.here();
    a.word(addi(6, 0, 1));
    for (op, log2, at) in [(AMOADD, 2, ADD_W), (AMOADD, 3, ADD_D)] {
        a.word(addi(5, 12, at));
        a.word(amo(op, log2, 7, 5, 6));
    }
    // Xor with the iteration's number twice: all come to nothing in the end.
    a.word(addi(5, 12, XOR));
    a.word(amo(AMOXOR, 3, 7, 5, 9));
    a.word(amo(AMOXOR, 3, 7, 5, 9));
    // One bit a hart; the largest number is hart + iterations.
    a.word(r_type(0x33, 1, 0, 7, 6, 10));
    a.word(addi(5, 12, OR));
    a.word(amo(AMOOR, 3, 0, 5, 7));
    a.word(r_type(0x33, 0, 0, 7, 9, 10));
    a.word(addi(5, 12, MAX));
    a.word(amo(AMOMAX, 3, 0, 5, 7));
    for (log2, at) in [(2, RESERVED_W), (3, RESERVED_D)] {
        a.word(addi(5, 12, at));
        let again = a.here();
        a.word(amo(LR, log2, 7, 5, 0));
        a.word(addi(7, 7, 1));
        a.word(amo(SC, log2, 8, 5, 7));
        a.branch(1, 8, 0, again);
    }
    // A spin lock around two counters that must stay equal.
    a.word(addi(5, 12, LOCK));
    let spin = a.here();
    a.word(amo(AMOSWAP, 2, 7, 5, 6));
    a.branch(1, 7, 0, spin);
    counters(&mut a, LOCKED);
    a.word(amo(AMOSWAP, 2, 0, 5, 0));
    // A ticket lock around two more.
    a.word(addi(5, 12, TURN));
    a.word(amo(AMOADD, 2, 7, 5, 6));
    a.word(addi(5, 12, SERVED));
    let wait = a.here();
    a.word(amo(LR, 2, 8, 5, 0));
    a.branch(1, 8, 7, wait);
    counters(&mut a, TICKETED);
    a.word(addi(7, 7, 1));
    a.word(0x0ff0_000f);
    a.word(store(2, 7, 5, 0));
    a.word(addi(9, 9, -1));
    a.branch(1, 9, 0, head);
    stop(&mut a);
    a.finish()
}

/// Increments two plain counters and counts the times that they differ.
fn counters(a: &mut Asm, at: i32) {
    a.word(load(3, 28, 12, at));
    a.word(load(3, 29, 12, at + 0x20));
    a.word(r_type(0x33, 0, 0x20, 30, 28, 29));
    a.word(i_type(0x13, 3, 30, 30, 1)); // sltiu: 1 if equal
    a.word(i_type(0x13, 4, 30, 30, 1)); // xori
    a.word(load(3, 31, 12, BROKEN));
    a.word(r_type(0x33, 0, 0, 31, 31, 30));
    a.word(store(3, 31, 12, BROKEN));
    a.word(addi(28, 28, 1));
    a.word(store(3, 28, 12, at));
    a.word(addi(29, 29, 1));
    a.word(store(3, 29, 12, at + 0x20));
}

#[test]
fn counters_and_locks_are_exact() {
    let program = program();
    each_run(|backend, harts, scale| {
        let each = 500 * scale;
        let memory = run(backend, harts, &program, &[], |_, s| {
            s.x[12] = DATA;
            s.x[13] = each;
        });
        let value = |at: i32| word(&memory, DATA + at as u64);
        let total = each * u64::from(harts);
        let low = total & 0xffff_ffff;
        let what = format!("{backend}, {harts} harts");
        assert_eq!((value(ADD_W) & 0xffff_ffff, value(ADD_D)), (low, total), "{what}: amoadd");
        assert_eq!((value(RESERVED_W), value(RESERVED_D)), (total, total), "{what}: lr and sc");
        assert_eq!(value(XOR), 0, "{what}: amoxor");
        assert_eq!(value(OR), (1 << harts) - 1, "{what}: amoor");
        assert_eq!(value(MAX), each + u64::from(harts) - 1, "{what}: amomax");
        for at in [LOCKED, LOCKED + 0x20, TICKETED, TICKETED + 0x20] {
            assert_eq!(value(at), total, "{what}: counter at {at:#x}");
        }
        assert_eq!(value(BROKEN), 0, "{what}: two in a lock");
        assert_eq!((value(TURN), value(SERVED)), (total, total), "{what}: tickets");
    });
}
