//! TLB shoot-down as a kernel does it: hart 0 changes the mapping of a data page and a code page, interrupts the others,
//! waits until each has fenced, and poisons the old frame. Whoever reads, writes or executes it from then on is wrong.

use crate::{
    AMOADD, DATA,
    common::{
        RAM,
        asm::{Asm, FENCE, MRET, RET, SFENCE_VMA, addi, amo, i_type, load, r_type, store},
        smp::{IPI, run},
    },
    each_run, stop, word,
};

const ROOT: u64 = RAM + 0x20_0000;
const MIDDLE: u64 = RAM + 0x20_1000;
const LEAF: u64 = RAM + 0x20_2000;
/// Two frames, each a page of data and a page of code.
const FRAMES: [u64; 2] = [RAM + 0x30_0000, RAM + 0x31_0000];
/// Where the harts in S see one of them.
const TEST: u64 = 1 << 30;

const GOOD: i32 = 7;
const BAD: i32 = 13;
/// Where hart h stores inside the data page.
const SLOTS: i32 = 0x40;

// Variables, from DATA.
const ACKS: i32 = 0;
const STOPPED: i32 = 8;
const STALE_STORES: i32 = 0x10;
const PROGRESS: i32 = 0x40;
const WRONG: i32 = 0x80;

const ALL: u64 = 1 | 2 | 4 | 8;
const A_AND_D: u64 = 64 | 128;
const ADUE: u64 = 1 << 61;
const ASID: u64 = 5;

/// How the harts fence, and whether the walker sets A and D.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    All,
    Page,
    Asid,
    Update,
}

struct Program {
    code: Vec<u8>,
    reader: u64,
    handler: u64,
}

/// For each hart h but 0: `body` with x6 = 8 * h. Uses x6 and x7.
fn each_other(a: &mut Asm, body: impl Fn(&mut Asm)) {
    a.word(addi(6, 0, 8));
    a.word(i_type(0x13, 1, 7, 11, 3));
    let head = a.here();
    body(a);
    a.word(addi(6, 6, 8));
    a.branch(1, 6, 7, head);
}

fn program(variant: Variant) -> Program {
    let mut a = Asm::default();
    // Hart 0 in M: x12 = DATA, x13 = rounds, x20 = LEAF, x21 and x23 = entry and address of the frame to come, x22 and x24 of
    // the present one, x9 = acknowledgements due, x15 = harts - 1.
    a.word(addi(15, 11, -1));
    a.word(addi(9, 0, 0));
    let head = a.here();
    // The frame must not have been written since it was poisoned.
    each_other(&mut a, |a| {
        a.word(r_type(0x33, 0, 0, 5, 23, 6));
        a.word(load(3, 8, 5, SLOTS));
        let clean = a.label();
        a.branch(0, 8, 0, clean);
        a.word(load(3, 8, 12, STALE_STORES));
        a.word(addi(8, 8, 1));
        a.word(store(3, 8, 12, STALE_STORES));
        a.place(clean);
    });
    mark(&mut a, 23, GOOD);
    a.word(FENCE);
    // Both entries: data, and code on the next page.
    a.word(store(3, 21, 20, 0));
    a.word(addi(5, 21, 1024));
    a.word(store(3, 5, 20, 8));
    a.word(FENCE);
    a.li(28, IPI);
    a.word(addi(29, 0, 1));
    each_other(&mut a, |a| {
        a.word(i_type(0x13, 5, 5, 6, 1));
        a.word(r_type(0x33, 0, 0, 5, 5, 28));
        a.word(store(2, 29, 5, 0));
    });
    a.word(r_type(0x33, 0, 0, 9, 9, 15));
    let wait = a.here();
    a.word(load(3, 5, 12, ACKS));
    a.branch(1, 5, 9, wait);
    a.word(FENCE);
    mark(&mut a, 24, BAD);
    each_other(&mut a, |a| {
        a.word(r_type(0x33, 0, 0, 5, 24, 6));
        a.word(store(3, 0, 5, SLOTS));
    });
    a.word(FENCE);
    for (x, y) in [(21, 22), (23, 24)] {
        a.word(addi(5, x, 0));
        a.word(addi(x, y, 0));
        a.word(addi(y, 5, 0));
    }
    // Everybody goes round at least once under the new mapping.
    each_other(&mut a, |a| {
        a.word(r_type(0x33, 0, 0, 5, 12, 6));
        a.word(load(3, 8, 5, PROGRESS));
        let wait = a.here();
        a.word(load(3, 29, 5, PROGRESS));
        a.branch(0, 29, 8, wait);
    });
    a.word(addi(13, 13, -1));
    a.branch(1, 13, 0, head);
    a.word(addi(5, 0, 1));
    a.word(store(3, 5, 12, STOPPED));
    stop(&mut a);

    // The others in S: x16 = TEST, x17 = TEST's code page, x18 = wrong ones, x19 = 8 * hart, x9 = loops.
    let reader = a.len() as u64;
    let head = a.here();
    a.word(addi(9, 9, 1));
    a.word(addi(8, 0, GOOD));
    a.word(load(3, 7, 16, 0));
    let good = a.label();
    a.branch(0, 7, 8, good);
    a.word(addi(18, 18, 1));
    a.place(good);
    a.word(r_type(0x33, 0, 0, 7, 16, 19));
    a.word(store(3, 9, 7, SLOTS));
    a.word(i_type(0x67, 0, 1, 17, 0));
    let good = a.label();
    a.branch(0, 14, 8, good);
    a.word(addi(18, 18, 1));
    a.place(good);
    a.word(r_type(0x33, 0, 0, 7, 12, 19));
    a.word(store(3, 9, 7, PROGRESS));
    a.word(load(3, 8, 12, STOPPED));
    a.branch(0, 8, 0, head);
    a.word(store(3, 18, 7, WRONG));
    stop(&mut a);

    // Their handler in M, for the software interrupt; anything else ends in a loop that the watchdog finds.
    a.align(4);
    let handler = a.len() as u64;
    a.word(0x3420_22f3); // csrr t0,mcause
    let other = a.here();
    a.branch(5, 5, 0, other); // bge t0,zero: an exception
    a.li(5, IPI);
    a.word(i_type(0x13, 1, 6, 10, 2));
    a.word(r_type(0x33, 0, 0, 5, 5, 6));
    a.word(store(2, 0, 5, 0));
    match variant {
        Variant::All | Variant::Update => a.word(SFENCE_VMA),
        Variant::Page => {
            a.word(SFENCE_VMA | 16 << 15);
            a.word(SFENCE_VMA | 17 << 15);
        }
        Variant::Asid => {
            a.word(addi(6, 0, ASID as i32));
            a.word(SFENCE_VMA | 6 << 20);
        }
    }
    a.word(addi(5, 12, ACKS));
    a.word(addi(6, 0, 1));
    a.word(amo(AMOADD, 3, 0, 5, 6));
    a.word(MRET);
    Program { code: a.finish(), reader, handler }
}

/// Marks the frame at `frame`: its data word, and the constant that its function returns. Uses x5, x6 and x8.
fn mark(a: &mut Asm, frame: u32, value: i32) {
    a.word(addi(5, 0, value));
    a.word(store(3, 5, frame, 0));
    a.li(5, addi(14, 0, value).into());
    // The page behind.
    a.word(addi(6, frame, 0x7fc));
    a.word(addi(6, 6, 0x7fc));
    a.word(store(2, 5, 6, 8));
}

fn entry(gpa: u64, flags: u64) -> u64 {
    gpa >> 12 << 10 | flags
}

fn shootdown(variant: Variant) {
    let p = program(variant);
    let flags = if variant == Variant::Update { ALL } else { ALL | A_AND_D };
    let function: Vec<u8> = [addi(14, 0, GOOD), RET].iter().flat_map(|w| w.to_le_bytes()).collect();
    let fill: Vec<(u64, Vec<u8>)> = [
        (ROOT, entry(0, ALL | A_AND_D)),
        (ROOT + 8, entry(MIDDLE, 1)),
        (MIDDLE, entry(LEAF, 1)),
        // The harts start with the frame that is left first.
        (LEAF, entry(FRAMES[1], flags)),
        (LEAF + 8, entry(FRAMES[1] + 0x1000, flags)),
        (FRAMES[1], GOOD as u64),
    ]
    .into_iter()
    .map(|(at, value)| (at, value.to_le_bytes().to_vec()))
    .chain(FRAMES.map(|f| (f + 0x1000, function.clone())))
    .collect();
    each_run(|backend, harts, scale| {
        let memory = run(backend, harts, &p.code, &fill, |hart, s| {
            s.x[12] = DATA;
            s.x[13] = 3 * scale;
            if hart == 0 {
                s.x[20] = LEAF;
                (s.x[21], s.x[23]) = (entry(FRAMES[0], flags), FRAMES[0]);
                (s.x[22], s.x[24]) = (entry(FRAMES[1], flags), FRAMES[1]);
                return;
            }
            s.pc = RAM + p.reader;
            s.x[16] = TEST;
            s.x[17] = TEST + 0x1000;
            s.x[19] = 8 * u64::from(hart);
            s.privilege = 1;
            s.mtvec = RAM + p.handler;
            s.mie = 8;
            s.menvcfg = if variant == Variant::Update { ADUE } else { 0 };
            s.satp = 8 << 60 | ASID << 44 | ROOT >> 12;
        });
        let what = format!("{variant:?}, {backend}, {harts} harts");
        assert_eq!(word(&memory, DATA + STALE_STORES as u64), 0, "{what}: stores to a frame that is gone");
        for hart in 1..u64::from(harts) {
            let wrong = word(&memory, DATA + WRONG as u64 + 8 * hart);
            assert_eq!(wrong, 0, "{what}: hart {hart} read or executed a frame that is gone");
            assert!(word(&memory, DATA + PROGRESS as u64 + 8 * hart) >= 3 * scale, "{what}");
        }
    });
}

#[test]
fn shoot_down_of_everything() {
    shootdown(Variant::All);
}

#[test]
fn shoot_down_of_pages() {
    shootdown(Variant::Page);
}

#[test]
fn shoot_down_of_an_address_space() {
    shootdown(Variant::Asid);
}

#[test]
fn shoot_down_while_the_walker_sets_accessed_and_dirty() {
    shootdown(Variant::Update);
}
