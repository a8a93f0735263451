//! Interrupts and traps as the running hart takes them.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{Exit, arch::GuestArch};
use common::{RAM, Rig, STOP};

const CODE: u64 = RAM + 0x1000;
const HANDLER: u64 = RAM + 0x100;

const WFI: u32 = 0x1050_0073;
const NOP: u32 = 0x13;
const LOOP: u32 = 0x6f;
const MRET: u32 = 0x3020_0073;
const ECALL: u32 = 0x73;
/// csrsi mstatus, 8
const ENABLE: u32 = 0x3004_6073;
const MTI: u64 = 1 << 7;
const MIE: u64 = 1 << 3;

fn rig(code: &[u32], backend: &str) -> Rig {
    let mut rig = Rig::new(GuestArch::Riscv64, &[], backend);
    for (n, word) in code.iter().enumerate() {
        rig.write(CODE + 4 * n as u64, &word.to_le_bytes());
    }
    // lui t0, STOP; sd x0, 0(t0); j .
    for (n, word) in [(STOP as u32) | 0x2b7, 0x0002_b023, LOOP].into_iter().enumerate() {
        rig.write(HANDLER + 4 * n as u64, &word.to_le_bytes());
    }
    let mut s = rig.fresh.clone();
    s.pc = CODE;
    s.mtvec = HANDLER;
    s.mie = MTI;
    s.pmpcfg[0] = 0x1f;
    s.pmpaddr[0] = (1 << 54) - 1;
    rig.set_state(s);
    rig
}

fn each_backend(test: impl Fn(&str)) {
    for backend in ["interp", "jit", "hot"] {
        test(backend);
    }
}

#[test]
fn wfi_sleeps_until_a_line_rises() {
    each_backend(|backend| {
        let mut rig = rig(&[ENABLE, WFI, LOOP], backend);
        let lines = rig.lines();
        let waker = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            lines.set_line(0, 7, true);
        });
        assert_eq!(rig.run(), Exit::Kicked);
        waker.join().unwrap();
        let s = rig.state();
        assert_eq!((s.mcause, s.waiting), (1 << 63 | 7, false));
        // Behind the wfi, or at it if the line was faster.
        assert!([CODE + 4, CODE + 8].contains(&s.mepc), "{:#x}", s.mepc);
    });
}

#[test]
fn wfi_ends_without_an_interrupt_if_it_is_disabled() {
    each_backend(|backend| {
        let mut rig = rig(&[WFI, ECALL], backend);
        rig.lines().set_line(0, 7, true);
        assert_eq!(rig.run(), Exit::Kicked);
        let s = rig.state();
        assert_eq!((s.mcause, s.mepc), (11, CODE + 4));
    });
}

/// The line rose long ago; the write that enables it is the last chance to notice.
#[test]
fn enabling_takes_a_pending_interrupt_at_once() {
    each_backend(|backend| {
        let mut rig = rig(&[NOP, NOP, ENABLE, LOOP], backend);
        rig.lines().set_line(0, 7, true);
        assert_eq!(rig.run(), Exit::Kicked);
        let s = rig.state();
        assert_eq!((s.mcause, s.mepc), (1 << 63 | 7, CODE + 12));
    });
}

#[test]
fn mret_takes_a_pending_interrupt_at_once() {
    each_backend(|backend| {
        let mut rig = rig(&[NOP, MRET, LOOP, LOOP], backend);
        let mut s = rig.state();
        s.mepc = CODE + 12;
        s.mstatus |= 1 << 7;
        rig.set_state(s);
        rig.lines().set_line(0, 7, true);
        assert_eq!(rig.run(), Exit::Kicked);
        let s = rig.state();
        assert_eq!((s.mcause, s.mepc, s.mstatus & MIE), (1 << 63 | 7, CODE + 12, 0));
    });
}

/// A loop inside one unit must still see a line.
#[test]
fn a_tight_loop_is_interrupted() {
    each_backend(|backend| {
        let mut rig = rig(&[ENABLE, NOP, 0xffdf_f06f], backend);
        let lines = rig.lines();
        let waker = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            lines.set_line(0, 7, true);
        });
        assert_eq!(rig.run(), Exit::Kicked);
        waker.join().unwrap();
        let s = rig.state();
        assert_eq!(s.mcause, 1 << 63 | 7);
        assert!((CODE + 4..=CODE + 8).contains(&s.mepc), "{:#x}", s.mepc);
    });
}

#[test]
fn delegated_exceptions_go_to_s() {
    each_backend(|backend| {
        let mut rig = rig(&[ECALL], backend);
        let mut s = rig.state();
        s.privilege = 0;
        s.medeleg = 1 << 8;
        s.stvec = HANDLER;
        s.mtvec = 0;
        rig.set_state(s);
        assert_eq!(rig.run(), Exit::Kicked);
        let s = rig.state();
        assert_eq!((s.privilege, s.scause, s.sepc, s.mcause), (1, 8, CODE, 0));
    });
}

#[test]
fn a_line_that_was_high_is_high_after_a_restore() {
    each_backend(|backend| {
        let mut saved = rig(&[WFI, LOOP], backend);
        saved.lines().set_line(0, 7, true);
        let state = saved.state();
        assert_eq!((state.irq_lines, state.mip), (MTI, 0));
        let mut restored = rig(&[ENABLE, LOOP], backend);
        restored.set_state(state);
        assert_eq!(restored.run(), Exit::Kicked);
        assert_eq!(restored.state().mcause, 1 << 63 | 7);
        restored.lines().set_line(0, 7, false);
        assert_eq!(restored.state().irq_lines, 0);
    });
}
