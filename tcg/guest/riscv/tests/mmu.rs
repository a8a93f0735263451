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
