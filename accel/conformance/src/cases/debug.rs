//! Breakpoints, single steps, watchpoints.

use accel::{DebugConfig, DebugEvent, Exit, VcpuError, WatchKind, Watchpoint};

use super::is_x86;
use crate::machine::{DONE, Event, Machine};
use crate::riscv::{self, S0, S1, T0, T1};
use crate::x86::{self, Reg};
use crate::{Failure, Outcome, Setup, expect};

/// A guest of which the places of interest are known.
struct Guest {
    machine: Machine,
    /// Addresses of four instructions in a row without a branch, and of the one behind them.
    places: Vec<u64>,
    /// Address of memory that the fourth of them writes.
    cell: u64,
}

fn guest(setup: &Setup<'_>) -> Result<Guest, Failure> {
    let machine = Machine::new(setup, 1)?;
    let done = Machine::window(setup.guest) + DONE;
    let cell = Machine::ram_base(setup.guest) + 0x4000;
    let mut places = Vec::new();
    let code = if is_x86(setup.guest) {
        let mut a = x86::Asm::new(0x1000);
        let end = a.label();
        places.push(u64::from(a.here()));
        a.mov(Reg::Eax, 5);
        places.push(u64::from(a.here()));
        a.add(6);
        places.push(u64::from(a.here()));
        a.mov(Reg::Ecx, 7);
        places.push(u64::from(a.here()));
        a.store(4, cell as u32);
        places.push(u64::from(a.here()));
        a.nop().store(4, done as u32).place(end).jmp(end);
        a.finish()
    } else {
        let mut a = riscv::Asm::new(Machine::code_base(setup.guest));
        let end = a.label();
        a.la(S1, cell);
        places.push(a.here());
        a.addi(T0, 0, 5);
        places.push(a.here());
        a.addi(T0, T0, 6);
        places.push(a.here());
        a.addi(T1, 0, 7);
        places.push(a.here());
        a.store(4, T0, S1, 0);
        places.push(a.here());
        a.nop().li(S0, done as u32).store(4, T0, S0, 0).place(end).j(end);
        a.finish()
    };
    machine.load(&code)?;
    Ok(Guest { machine, places, cell })
}

fn accumulator(state: &accel::arch::CpuState) -> u64 {
    match state {
        accel::arch::CpuState::X86_64(s) => s.rax,
        accel::arch::CpuState::Riscv(s) => s.x[T0 as usize],
        _ => 0,
    }
}

/// The guest stops before the instruction at a breakpoint and runs on from there once it is taken away.
pub(super) fn breakpoint(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let Guest { machine, places, .. } = guest(setup)?;
    let mut vcpu = machine.start()?;
    // More of them than any processor has debug registers for.
    let far = Machine::code_base(setup.guest) + 0x800;
    let mut breakpoints: Vec<u64> = (0..6).map(|i| far + 0x10 * i).collect();
    breakpoints.push(places[2]);
    breakpoints.push(places[1]);
    vcpu.set_debug(&DebugConfig { breakpoints, ..DebugConfig::default() })?;
    for place in [places[1], places[2]] {
        let exit = machine.run(&mut *vcpu)?;
        expect("exit", &exit, &Exit::Debug(DebugEvent::Breakpoint { pc: place }))?;
        let state = vcpu.state()?;
        expect("pc", &state.pc(), &place)?;
        expect("value", &accumulator(&state), &if place == places[1] { 5 } else { 11 })?;
        machine.io.note(Event::Exit(format!("{exit:x?}")));
        // As a debugger does: take it away, step over, put it back.
        let rest: Vec<u64> = places[1..3].iter().copied().filter(|p| *p > place).collect();
        vcpu.set_debug(&DebugConfig { breakpoints: rest, ..DebugConfig::default() })?;
    }
    machine.finish(&mut *vcpu)?;
    expect("last write", &machine.writes(), &vec![(DONE, 11)])?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// Each step is one instruction.
pub(super) fn step(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let Guest { machine, places, .. } = guest(setup)?;
    let mut vcpu = machine.start()?;
    let mut state = vcpu.state()?;
    if let accel::arch::CpuState::Riscv(s) = &mut state {
        s.pc = places[0];
        s.x[S1 as usize] = Machine::ram_base(setup.guest) + 0x4000;
    }
    vcpu.set_state(&state)?;
    vcpu.set_debug(&DebugConfig { single_step: true, ..DebugConfig::default() })?;
    for place in &places[1..] {
        let exit = machine.run(&mut *vcpu)?;
        expect("exit", &exit, &Exit::Debug(DebugEvent::SingleStep))?;
        expect("pc after a step", &vcpu.state()?.pc(), place)?;
        machine.io.note(Event::Exit(format!("{exit:x?}")));
    }
    vcpu.set_debug(&DebugConfig::default())?;
    machine.finish(&mut *vcpu)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// A write to watched memory stops the guest, one beside it does not.
pub(super) fn watch(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let emulated = setup.accel.probe(setup.guest)?.kernel_ns.is_some_and(|ns| ns > 200);
    if is_x86(setup.guest) && emulated {
        return Ok(Outcome::Skipped("this host emulates the guest's kernel mode, without data watchpoints"));
    }
    let Guest { machine, places, cell } = guest(setup)?;
    let mut vcpu = machine.start()?;
    let watch = |gva| DebugConfig {
        watchpoints: vec![Watchpoint { gva, len: 4, kind: WatchKind::Write }],
        ..DebugConfig::default()
    };
    match vcpu.set_debug(&watch(cell)) {
        Err(VcpuError::Unsupported(_)) => return Ok(Outcome::Skipped("the accelerator has no watchpoints")),
        other => other?,
    }
    let exit = machine.run(&mut *vcpu)?;
    expect("exit", &exit, &Exit::Debug(DebugEvent::Watchpoint { gva: cell, write: true }))?;
    let pc = vcpu.state()?.pc();
    // x86 reports after the access, others before it.
    expect("pc", &(pc == places[3] || pc == places[4]), &true)?;
    machine.io.note(Event::Exit(format!("{exit:x?}")));
    vcpu.set_debug(&watch(cell + 8))?;
    machine.finish(&mut *vcpu)?;
    Ok(Outcome::Passed(machine.transcript()))
}
