//! Address translation as a hart sees it: one access at a time against hand-made Sv39 tables.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{
    DebugConfig, DebugEvent, Exit,
    arch::{GuestArch, riscv::State},
};
use common::{RAM, Rig};

const CODE: u64 = RAM + 0x1000;
const HANDLER: u64 = RAM + 0x100;
const PAGE: u64 = RAM + 0x8000;
const ROOT: u64 = RAM + 0x20_0000;
const MIDDLE: u64 = RAM + 0x20_1000;
const LEAF: u64 = RAM + 0x20_2000;
/// First gigabyte: identity for S. Second: through `LEAF`. Third: identity for U.
const TEST: u64 = 1 << 30;
const USER: u64 = 2 << 30;

/// Nothing is here, and S may look.
const RAM_END: u64 = RAM + common::RAM_SIZE;

const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const U: u64 = 16;
const A: u64 = 64;
const D: u64 = 128;
const ALL: u64 = V | R | W | X | A | D;

const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;
const MPRV: u64 = 1 << 17;
const ADUE: u64 = 1 << 61;
const PBMTE: u64 = 1 << 62;

/// ld a0,0(a1); sd a2,0(a1); jalr a1; sfence.vma; sfence.vma a1,x0
const LOAD: u32 = 0x0005_b503;
const STORE: u32 = 0x00c5_b023;
const JUMP: u32 = 0x0005_8067;
const FENCE_ALL: u32 = 0x1200_0073;
const FENCE_ONE: u32 = 0x1205_8073;

const VALUE: u64 = 0x1122_3344_5566_7788;

struct Sv39 {
    rig: Rig,
    state: State,
}

/// What an access came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Trap(u64, u64),
}
use Outcome::{Done, Trap};

impl Sv39 {
    fn new(leaf: u64) -> Self {
        let mut rig = Rig::new(GuestArch::Riscv64, &[], "jit");
        let mut state = rig.fresh.clone();
        state.privilege = 1;
        state.mtvec = HANDLER;
        state.satp = 8 << 60 | ROOT >> 12;
        state.pmpcfg[0] = 0x1f;
        state.pmpaddr[0] = (1 << 54) - 1;
        rig.vcpu.set_debug(&DebugConfig { single_step: true, ..DebugConfig::default() }).unwrap();
        let t = Self { rig, state };
        t.put(ROOT, ALL);
        t.put(ROOT + 8, MIDDLE >> 12 << 10 | V);
        t.put(ROOT + 16, ALL | U);
        t.put(MIDDLE, LEAF >> 12 << 10 | V);
        t.put(LEAF, PAGE >> 12 << 10 | leaf);
        t.put(PAGE, VALUE);
        // The handler stands still.
        t.put(HANDLER, 0x6f);
        t
    }

    fn put(&self, gpa: u64, value: u64) {
        self.rig.write(gpa, &value.to_le_bytes());
    }

    fn get(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.rig.read(gpa, 8).try_into().unwrap())
    }

    /// Executes one instruction with a1 = `address`.
    fn exec(&mut self, word: u32, address: u64) -> Outcome {
        self.rig.write(CODE, &word.to_le_bytes());
        let mut s = self.state.clone();
        s.pc = if s.privilege == 0 { USER + CODE } else { CODE };
        s.x[11] = address;
        s.x[12] = 77;
        self.rig.set_state(s);
        self.step()
    }

    /// Executes the next instruction without a new state in between, which would flush translations.
    fn again(&mut self, word: u32) -> Outcome {
        let pc = self.rig.state().pc;
        self.rig.write(pc, &word.to_le_bytes());
        self.step()
    }

    fn step(&mut self) -> Outcome {
        assert!(matches!(self.rig.run(), Exit::Debug(DebugEvent::SingleStep)));
        let s = self.rig.state();
        if s.pc == HANDLER { Trap(s.mcause, s.mtval) } else { Done }
    }

    fn load(&mut self, address: u64) -> Outcome {
        let outcome = self.exec(LOAD, address);
        if outcome == Done {
            assert_eq!(self.rig.state().x[10], VALUE);
        }
        outcome
    }

    fn store(&mut self, address: u64) -> Outcome {
        self.exec(STORE, address)
    }

    /// Jumps to `address` and fetches there.
    fn fetch(&mut self, address: u64) -> Outcome {
        assert_eq!(self.exec(JUMP, address), Done);
        // A nop, in case the fetch works.
        self.rig.write(PAGE, &0x13_u32.to_le_bytes());
        let outcome = self.step();
        self.put(PAGE, VALUE);
        outcome
    }
}

#[test]
fn rights_of_a_page() {
    let mut t = Sv39::new(ALL);
    assert_eq!(t.load(TEST), Done);
    assert_eq!(t.store(TEST + 8), Done);
    assert_eq!(t.get(PAGE + 8), 77);
    assert_eq!(t.fetch(TEST), Done);
    let mut t = Sv39::new(V | R | A | D);
    assert_eq!(t.load(TEST), Done);
    assert_eq!(t.store(TEST), Trap(15, TEST));
    assert_eq!(t.fetch(TEST), Trap(12, TEST));
    let mut t = Sv39::new(V | X | A);
    assert_eq!(t.load(TEST), Trap(13, TEST));
    t.state.mstatus |= MXR;
    assert_eq!(t.load(TEST), Done);
}

#[test]
fn entries_that_are_invalid() {
    for bad in [ALL & !V, V | W | A | D, ALL | 1 << 60, V] {
        assert_eq!(Sv39::new(bad).load(TEST + 16), Trap(13, TEST + 16), "{bad:#x}");
    }
    let mut t = Sv39::new(ALL);
    // Not mapped, not canonical, a superpage that is not aligned, a pointer with A set.
    assert_eq!(t.load(TEST + 0x1000), Trap(13, TEST + 0x1000));
    assert_eq!(t.load(1 << 40), Trap(13, 1 << 40));
    t.put(MIDDLE + 8, 1 << 10 | ALL);
    assert_eq!(t.load(TEST + (2 << 20)), Trap(13, TEST + (2 << 20)));
    t.put(MIDDLE, LEAF >> 12 << 10 | V | A);
    assert_eq!(t.load(TEST), Trap(13, TEST));
    // Tables outside memory.
    t.put(MIDDLE, 1 << 40 | V);
    assert_eq!(t.load(TEST), Trap(5, TEST));
}

#[test]
fn user_pages() {
    let mut t = Sv39::new(ALL | U);
    assert_eq!(t.load(TEST), Trap(13, TEST));
    assert_eq!(t.fetch(TEST), Trap(12, TEST));
    t.state.mstatus |= SUM;
    assert_eq!(t.load(TEST), Done);
    assert_eq!(t.fetch(TEST), Trap(12, TEST), "SUM is for data alone");
    t.state.privilege = 0;
    assert_eq!(t.load(TEST), Done);
    assert_eq!(t.load(RAM), Trap(13, RAM), "a page of S");
}

#[test]
fn accessed_and_dirty() {
    let mut t = Sv39::new(V | R | W);
    assert_eq!(t.load(TEST), Trap(13, TEST), "Svade");
    t.state.menvcfg = ADUE;
    assert_eq!(t.load(TEST), Done);
    assert_eq!(t.get(LEAF) & (A | D), A);
    assert_eq!(t.store(TEST), Done);
    assert_eq!(t.get(LEAF) & (A | D), A | D);
    let mut t = Sv39::new(V | R | W | A);
    assert_eq!(t.load(TEST), Done);
    assert_eq!(t.store(TEST), Trap(15, TEST));
}

#[test]
fn napot_and_memory_types() {
    let mut t = Sv39::new(ALL);
    // 64 KiB at the 64 KiB that hold PAGE.
    let napot = (RAM >> 12 | 8) << 10 | ALL | 1 << 63;
    for n in 0..16 {
        t.put(LEAF + 8 * n, napot);
    }
    assert_eq!(t.load(TEST + 0x8000), Done);
    t.put(LEAF, (RAM >> 12 | 4) << 10 | ALL | 1 << 63);
    assert_eq!(t.load(TEST), Trap(13, TEST));
    t.put(LEAF, PAGE >> 12 << 10 | ALL | 1 << 61);
    assert_eq!(t.load(TEST), Trap(13, TEST));
    t.state.menvcfg = PBMTE;
    assert_eq!(t.load(TEST), Done);
    t.put(LEAF, PAGE >> 12 << 10 | ALL | 3 << 61);
    assert_eq!(t.load(TEST), Trap(13, TEST));
}

#[test]
fn fences() {
    let mut t = Sv39::new(ALL);
    assert_eq!(t.load(TEST), Done);
    // Another page without a fence may or may not be seen; with one it must be.
    t.put(PAGE + 0x1000, 5);
    for fence in [FENCE_ALL, FENCE_ONE] {
        t.put(LEAF, PAGE >> 12 << 10 | ALL);
        assert_eq!(t.exec(LOAD, TEST), Done);
        t.put(LEAF, (PAGE + 0x1000) >> 12 << 10 | ALL);
        assert_eq!(t.again(fence), Done);
        assert_eq!(t.again(LOAD), Done);
        assert_eq!(t.rig.state().x[10], 5, "{fence:#x}");
    }
}

/// One fence at any address of a large page drops all of it.
#[test]
fn a_fence_inside_a_large_page() {
    let mut t = Sv39::new(ALL);
    let page = TEST + (2 << 20);
    for (gpa, value) in [(0x8_0000, 1), (0x9_0000, 2), (0x28_0000, 3), (0x29_0000, 4)] {
        t.put(gpa, value);
    }
    // a3 is the other address. ld a0,0(a3)
    const OTHER: u32 = 0x0006_b503;
    t.state.x[13] = page + 0x9_0000;
    for fence in [FENCE_ALL, FENCE_ONE] {
        t.put(MIDDLE + 8, (2 << 20) >> 12 << 10 | ALL);
        assert_eq!(t.exec(OTHER, page + 0x8_0000), Done);
        assert_eq!(t.rig.state().x[10], 4);
        assert_eq!(t.again(LOAD), Done);
        t.put(MIDDLE + 8, ALL);
        assert_eq!(t.again(fence), Done);
        assert_eq!(t.again(OTHER), Done);
        assert_eq!(t.rig.state().x[10], 2, "{fence:#x}");
    }
}

/// The same page at the end of four and five levels.
#[test]
fn deeper_tables() {
    const DEEP: u64 = RAM + 0x20_3000;
    const DEEPEST: u64 = RAM + 0x20_4000;
    for (mode, bits, root) in [(9, 48, DEEP), (10, 57, DEEPEST)] {
        let mut t = Sv39::new(ALL);
        // The first entry of each level is the table of Sv39, so that code stays where it is; the last leads there too.
        for (table, next) in [(DEEP, ROOT), (DEEPEST, DEEP)] {
            t.put(table, next >> 12 << 10 | V);
            t.put(table + 511 * 8, next >> 12 << 10 | V);
        }
        t.state.satp = mode << 60 | root >> 12;
        assert_eq!(t.load(TEST), Done, "Sv{bits}");
        let high = u64::MAX << (bits - 9) | TEST;
        assert_eq!(t.load(high), Done, "Sv{bits}: the top of the address space");
        assert_eq!(t.store(high + 8), Done);
        // Not canonical, not mapped, a page of half a terabyte that is not aligned.
        assert_eq!(t.load(1 << bits | TEST), Trap(13, 1 << bits | TEST), "Sv{bits}");
        assert_eq!(t.load(1 << (bits - 9)), Trap(13, 1 << (bits - 9)));
        t.put(root + 8, 1 << 10 | ALL);
        assert_eq!(t.load(1 << (bits - 9)), Trap(13, 1 << (bits - 9)));
        t.put(root + 8, ALL);
        assert_eq!(t.load(1 << (bits - 9) | PAGE), Done, "Sv{bits}: the largest page");
    }
}

#[test]
fn sv32() {
    let mut rig = Rig::new(GuestArch::Riscv32, &[], "jit");
    let (root, leaf) = (RAM + 0x20_0000, RAM + 0x20_1000);
    let put = |rig: &Rig, gpa: u64, value: u64| rig.write(gpa, &(value as u32).to_le_bytes());
    put(&rig, root, ALL);
    put(&rig, root + 4, leaf >> 12 << 10 | V);
    put(&rig, leaf, PAGE >> 12 << 10 | ALL);
    put(&rig, leaf + 4, PAGE >> 12 << 10 | V | R | A);
    // A page beyond 4 GiB, where nothing is; a large page that is not aligned.
    put(&rig, leaf + 8, (1 << 20) << 10 | ALL);
    put(&rig, root + 8, 1 << 10 | ALL);
    put(&rig, PAGE, 0x1234_5678);
    put(&rig, HANDLER, 0x6f);
    let mut state = rig.fresh.clone();
    state.privilege = 1;
    state.mtvec = HANDLER;
    state.satp = 1 << 31 | root >> 12;
    state.pmpcfg[0] = 0x1f;
    state.pmpaddr[0] = u64::from(u32::MAX);
    rig.vcpu.set_debug(&DebugConfig { single_step: true, ..DebugConfig::default() }).unwrap();
    let mut exec = |word: u32, address: u64| {
        put(&rig, CODE, word.into());
        let mut s = state.clone();
        (s.pc, s.x[11]) = (CODE, address);
        rig.set_state(s);
        assert!(matches!(rig.run(), Exit::Debug(DebugEvent::SingleStep)));
        let s = rig.state();
        if s.pc == HANDLER { Trap(s.mcause, s.mtval) } else { Done }
    };
    // lw a0,0(a1); sw a2,0(a1)
    let (load, store) = (0x0005_a503, 0x00c5_a023);
    let test = 4 << 20;
    assert_eq!((exec(load, test), exec(store, test)), (Done, Done));
    assert_eq!((exec(load, test + 0x1000), exec(store, test + 0x1000)), (Done, Trap(15, test + 0x1000)));
    assert_eq!(exec(load, test + 0x2000), Trap(5, test + 0x2000));
    assert_eq!(exec(load, test + 0x3000), Trap(13, test + 0x3000));
    assert_eq!(exec(load, 8 << 20), Trap(13, 8 << 20));
}

#[test]
fn faults_name_the_part_that_failed() {
    let mut t = Sv39::new(ALL);
    // The next page is not there: a load and a store over its edge, and an instruction.
    let edge = TEST + 0xffe;
    assert_eq!(t.load(edge), Trap(13, TEST + 0x1000));
    t.put(PAGE + 0xff8, 0);
    assert_eq!(t.store(edge), Trap(15, TEST + 0x1000));
    assert_eq!(t.get(PAGE + 0xff8), 0, "nothing was written");
    t.put(PAGE + 0xff8, 0x13_u64 << 48);
    assert_eq!(t.exec(JUMP, edge), Done);
    assert_eq!(t.step(), Trap(12, TEST + 0x1000));
    assert_eq!(t.rig.state().mepc, edge);
}

#[test]
fn atomics_fault_as_stores() {
    // amoadd.d a0,a2,(a1); lr.d a0,(a1); sc.d a0,a2,(a1)
    let (amo, lr, sc) = (0x00c5_b52f, 0x1005_b52f, 0x18c5_b52f);
    let mut t = Sv39::new(V | R | A | D);
    assert_eq!(t.exec(amo, TEST), Trap(15, TEST));
    assert_eq!(t.exec(lr, TEST), Done);
    assert_eq!(t.exec(amo, TEST + 4), Trap(6, TEST + 4));
    assert_eq!(t.exec(lr, TEST + 4), Trap(4, TEST + 4));
    assert_eq!(t.exec(sc, TEST + 4), Trap(6, TEST + 4));
    assert_eq!(t.exec(lr, TEST + 0x1000), Trap(13, TEST + 0x1000));
    assert_eq!(t.exec(amo, RAM_END), Trap(7, RAM_END));
    assert_eq!(t.exec(lr, RAM_END), Trap(5, RAM_END));
}

#[test]
fn mprv_uses_the_previous_privilege() {
    let mut t = Sv39::new(ALL);
    t.state.privilege = 3;
    assert_eq!(t.load(TEST), Trap(5, TEST), "M is not translated");
    t.state.mstatus |= MPRV | 1 << 11;
    assert_eq!(t.load(TEST), Done);
    t.state.mstatus &= !(3 << 11);
    assert_eq!(t.load(TEST), Trap(13, TEST), "U may not");
}

#[test]
fn pmp_inside_a_page() {
    let mut t = Sv39::new(ALL);
    // The first 256 bytes of the page are closed, the rest is open.
    t.state.pmpcfg[0] = 0;
    t.state.pmpaddr[0] = PAGE >> 2;
    t.state.pmpcfg[1] = 0x08;
    t.state.pmpaddr[1] = (PAGE + 256) >> 2;
    t.state.pmpcfg[2] = 0x1f;
    t.state.pmpaddr[2] = (1 << 54) - 1;
    t.put(PAGE + 256, VALUE);
    assert_eq!(t.load(TEST), Trap(5, TEST));
    assert_eq!(t.store(TEST + 8), Trap(7, TEST + 8));
    assert_eq!(t.load(TEST + 256), Done);
    assert_eq!(t.load(TEST + 248), Trap(5, TEST + 248));
}

/// Shape of a PMP entry.
const TOR: u8 = 1 << 3;
const NA4: u8 = 2 << 3;
const NAPOT: u8 = 3 << 3;
const RW: u8 = 3;
const LOCKED: u8 = 0x80;
const EVERYTHING: u64 = (1 << 54) - 1;

fn pmp(entries: &[(u8, u64)], privilege: u8) -> Sv39 {
    let mut t = Sv39::new(ALL);
    t.state.privilege = privilege;
    t.state.satp = 0;
    t.state.pmpcfg[0] = 0;
    for (n, (cfg, addr)) in entries.iter().enumerate() {
        (t.state.pmpcfg[n], t.state.pmpaddr[n]) = (*cfg, *addr);
    }
    t
}

#[test]
fn pmp_shapes() {
    // Code is in reach of S by the last entry.
    let code = (NAPOT | 4, EVERYTHING);
    let mut t = pmp(&[(NAPOT | RW, (PAGE + 0x40) >> 2 | 7), code], 1);
    assert_eq!((t.store(PAGE + 0x40), t.store(PAGE + 0x78)), (Done, Done));
    assert_eq!((t.store(PAGE + 0x80), t.store(PAGE + 0x38)), (Trap(7, PAGE + 0x80), Trap(7, PAGE + 0x38)));
    let mut t = pmp(&[(0, (PAGE + 8) >> 2), (TOR | RW, (PAGE + 24) >> 2), code], 1);
    assert_eq!((t.store(PAGE + 8), t.store(PAGE + 16)), (Done, Done));
    assert_eq!((t.store(PAGE), t.store(PAGE + 24)), (Trap(7, PAGE), Trap(7, PAGE + 24)));
    // The first entry counts from 0; one that ends where it starts matches nothing.
    let mut t = pmp(&[(TOR | RW | 4, PAGE >> 2), (TOR | RW, PAGE >> 2), code], 1);
    assert_eq!((t.store(PAGE - 8), t.store(PAGE)), (Done, Trap(7, PAGE)));
}

/// An access must lie wholly in the entry that it matches, whatever that and the next allow.
#[test]
fn pmp_partial_matches() {
    // lw a0,0(a1)
    let word = 0x0005_a503;
    for privilege in [1, 3] {
        let mut t = pmp(&[(NA4 | RW, (PAGE + 4) >> 2), (NAPOT | 7, EVERYTHING)], privilege);
        assert_eq!((t.exec(LOAD, PAGE), t.store(PAGE)), (Trap(5, PAGE), Trap(7, PAGE)));
        assert_eq!((t.exec(LOAD, PAGE + 8), t.exec(word, PAGE), t.exec(word, PAGE + 4)), (Done, Done, Done));
        // One that is not aligned may be done in parts.
        assert_eq!(t.exec(word, PAGE + 2), Done);
        assert_eq!(t.exec(0x00c5_b52f, PAGE), Trap(7, PAGE), "amoadd.d");
    }
    let mut t = pmp(&[(NA4, (PAGE + 4) >> 2), (NAPOT | 7, EVERYTHING)], 1);
    assert_eq!((t.exec(word, PAGE), t.exec(word, PAGE + 2)), (Done, Trap(5, PAGE + 4)));
}

#[test]
fn pmp_locks() {
    let locked = [(0, PAGE >> 2), (TOR | LOCKED | 1, (PAGE + 0x100) >> 2), (NAPOT | 7, EVERYTHING)];
    let mut t = pmp(&locked, 3);
    assert_eq!((t.exec(LOAD, PAGE), t.store(PAGE), t.store(PAGE + 0x100)), (Done, Trap(7, PAGE), Done));
    // Neither the entry nor the bound below it can be written: csrw pmpaddr0, a1; pmpaddr1; pmpcfg0.
    for csr in [0x3b0, 0x3b1, 0x3a0] {
        assert_eq!(t.exec(csr << 20 | 11 << 15 | 1 << 12 | 0x73, 0), Done);
        let s = t.rig.state();
        assert_eq!((s.pmpaddr[0], s.pmpaddr[1], s.pmpcfg[1]), (locked[0].1, locked[1].1, locked[1].0));
    }
    assert_eq!(t.rig.state().pmpcfg[2], 0, "the third is not locked");
}

/// Page tables are read as S does.
#[test]
fn pmp_and_page_tables() {
    let mut t = Sv39::new(ALL);
    t.state.pmpcfg = [0; 64];
    (t.state.pmpcfg[0], t.state.pmpaddr[0]) = (NAPOT, LEAF >> 2 | 0x1ff);
    (t.state.pmpcfg[1], t.state.pmpaddr[1]) = (NAPOT | 7, EVERYTHING);
    assert_eq!((t.load(TEST), t.store(TEST)), (Trap(5, TEST), Trap(7, TEST)));
    // The walker may read but not write: A cannot be set.
    t.state.pmpcfg[0] = NAPOT | 1;
    assert_eq!(t.load(TEST), Done);
    t.put(LEAF, PAGE >> 12 << 10 | V | R | W);
    t.state.menvcfg = ADUE;
    assert_eq!(t.load(TEST), Trap(5, TEST));
}
