//! Interrupts and waiting for them.

use std::time::Duration;

use accel::{Exit, MsiMessage, VcpuSignal};

use super::is_x86;
use crate::machine::{DONE, Event, Machine, user_irqchip};
use crate::riscv::{self, MEPC, MIE, MSTATUS, MTVEC, S0, T0, T1, T5, T6, ZERO};
use crate::x86::{self, Reg};
use crate::{Failure, Outcome, Setup, expect};

/// Register whose write raises the interrupt at once.
const RAISE: u64 = 0x10;
/// Register whose write raises the interrupt after a while, from another thread.
const RAISE_LATER: u64 = 0x20;
/// Register whose write lowers it.
const LOWER: u64 = 0x30;
/// Register to which the handler writes.
const HANDLED: u64 = 0x40;

/// A guest that writes `start`, then spins or waits until its interrupt handler has run, then is done.
fn waiting_guest(setup: &Setup<'_>, machine: &Machine, start: u64, halt: bool) -> Result<(), Failure> {
    let window = Machine::window(setup.guest);
    if is_x86(setup.guest) {
        let w = window as u32;
        let flag = 0x3000;
        let mut a = x86::Asm::new(0x1000);
        let top = a.label();
        let end = a.label();
        a.store_imm(flag, 0).store_imm(w + start as u32, 1).sti().place(top);
        if halt {
            a.hlt();
        }
        a.load(4, flag).cmp(1).jne(top).store_imm(w + DONE as u32, 0).place(end).jmp(end);
        let handler = a.here();
        a.increment(flag).store_imm(w + HANDLED as u32, 7).leave_handler();
        machine.set_vector(0x20, handler)?;
        machine.set_vector(2, handler)?;
        return machine.load(&a.finish());
    }
    let base = Machine::code_base(setup.guest);
    let mut a = riscv::Asm::new(base);
    let (begin, top, end) = (a.label(), a.label(), a.label());
    a.j(begin);
    a.nop();
    let handler = a.here();
    // S1 is the flag.
    a.addi(riscv::S1, riscv::S1, 1).li(T5, 7).store(4, T5, S0, HANDLED as i32).store(4, T5, S0, LOWER as i32);
    a.csrr(T6, MEPC).csrw(MEPC, T6).mret();
    a.place(begin).li(S0, window as u32).addi(riscv::S1, ZERO, 0).la(T0, handler).csrw(MTVEC, T0);
    a.li(T0, 1 << 11).csrs(MIE, T0).store(4, T0, S0, start as i32).addi(T0, ZERO, 8).csrs(MSTATUS, T0);
    a.place(top);
    if halt {
        a.wfi();
    }
    a.addi(T1, ZERO, 1)
        .bne(riscv::S1, T1, top)
        .li(T1, (window + DONE) as u32)
        .store(4, T0, T1, 0)
        .place(end)
        .j(end);
    machine.load(&a.finish())
}

fn wire(machine: &Machine) {
    machine.on_write(RAISE, |io, _| io.irq(0, true));
    machine.on_write(LOWER, |io, _| io.irq(0, false));
}

fn needs_user_irqchip(setup: &Setup<'_>) -> bool {
    is_x86(setup.guest) && !user_irqchip(setup)
}

/// An interrupt line raised by a device reaches a guest that is running.
pub(super) fn irq(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if needs_user_irqchip(setup) {
        return Ok(Outcome::Skipped("the interrupt controllers are in the accelerator"));
    }
    let machine = Machine::new(setup, 1)?;
    wire(&machine);
    waiting_guest(setup, &machine, RAISE, false)?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    let handled = machine.writes().iter().filter(|w| **w == (HANDLED, 7)).count();
    expect("interrupts handled", &handled, &1)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// A guest that waits sleeps inside of `run` until a line is raised from another thread; one that waits
/// with interrupts off leaves.
pub(super) fn halt(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if needs_user_irqchip(setup) {
        return Ok(Outcome::Skipped("the interrupt controllers are in the accelerator"));
    }
    let machine = Machine::new(setup, 1)?;
    wire(&machine);
    machine.on_write(RAISE_LATER, |io, _| {
        if let Some(lines) = io.lines() {
            let line = if io.is_x86() { 0 } else { 11 };
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                lines.set_line(0, line, true);
            });
        }
    });
    waiting_guest(setup, &machine, RAISE_LATER, true)?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    let handled = machine.writes().iter().filter(|w| **w == (HANDLED, 7)).count();
    expect("interrupts handled", &handled, &1)?;
    drop(vcpu);

    if is_x86(setup.guest) {
        let dead = Machine::new(setup, 1)?;
        let mut a = x86::Asm::new(0x1000);
        a.cli().hlt();
        dead.load(&a.finish())?;
        let mut vcpu = dead.start()?;
        expect("exit of cli; hlt", &dead.run(&mut *vcpu)?, &Exit::Halted)?;
        machine.io.note(Event::Exit("Halted".to_owned()));
    }
    Ok(Outcome::Passed(machine.transcript()))
}

/// A message reaches the local APIC in the accelerator.
pub(super) fn msi(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if !is_x86(setup.guest) {
        return Ok(Outcome::Skipped("the architecture's controller of the cases has no messages"));
    }
    let machine = Machine::new(setup, 1)?;
    let Some(irqchip) = machine.partition.irqchip() else {
        return Ok(Outcome::Skipped("the interrupt controllers are not in the accelerator"));
    };
    waiting_guest(setup, &machine, RAISE, true)?;
    let mut vcpu = machine.start()?;
    // Software-enable the local APIC: bit 8 of the spurious vector register at 0xF0.
    let mut state = vcpu.state()?;
    if let accel::arch::CpuState::X86_64(s) = &mut state
        && let Some(lapic) = &mut s.lapic
    {
        lapic[0xF] |= 1 << 8;
    }
    vcpu.set_state(&state)?;
    irqchip.signal_msi(MsiMessage { address: 0xFEE0_0000, data: 0x20, device_id: 0 })?;
    machine.finish(&mut *vcpu)?;
    let handled = machine.writes().iter().filter(|w| **w == (HANDLED, 7)).count();
    expect("messages handled", &handled, &1)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// A non-maskable interrupt is taken with interrupts off.
pub(super) fn nmi(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if !is_x86(setup.guest) {
        return Ok(Outcome::Skipped("the architecture has no such signal"));
    }
    let machine = Machine::new(setup, 1)?;
    let w = Machine::window(setup.guest) as u32;
    machine.on_write(RAISE, |io, _| {
        if let Some(lines) = io.lines() {
            lines.signal(0, VcpuSignal::Nmi);
        }
    });
    let mut a = x86::Asm::new(0x1000);
    let (top, end) = (a.label(), a.label());
    a.mov(Reg::Eax, 0).store(4, 0x3000).store_imm(w + RAISE as u32, 1);
    a.place(top).load(4, 0x3000).cmp(1).jne(top).store_imm(w + DONE as u32, 0).place(end).jmp(end);
    let handler = a.here();
    a.increment(0x3000).store_imm(w + HANDLED as u32, 2).leave_handler();
    machine.set_vector(2, handler)?;
    machine.load(&a.finish())?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    expect("NMIs handled", &machine.writes().contains(&(HANDLED, 2)), &true)?;
    Ok(Outcome::Passed(machine.transcript()))
}
