//! Run states: reset, kicks, snapshots, several vCPUs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use accel::arch::CpuState;
use accel::{Exit, VcpuSignal};

use super::is_x86;
use crate::machine::{DONE, Event, Machine, Watchdog, at_start, riscv_state, user_irqchip};
use crate::riscv::{self, MHARTID, S0, S1, T0, T1, T2, ZERO};
use crate::x86;
use crate::{Failure, Outcome, Setup, expect};

/// Register to which guests count.
const COUNT: u64 = 0x100;

/// A guest that writes 1 to `last` to the count register, then is done. It keeps its count in memory.
fn counter(setup: &Setup<'_>, last: u32) -> Vec<u8> {
    let window = Machine::window(setup.guest);
    if is_x86(setup.guest) {
        let w = window as u32;
        let mut a = x86::Asm::new(0x1000);
        let (top, end) = (a.label(), a.label());
        a.store_imm(0x5000, 0).place(top).increment(0x5000).load(4, 0x5000).store(4, w + COUNT as u32);
        a.cmp(last).jne(top).store_imm(w + DONE as u32, 0).place(end).jmp(end);
        return a.finish();
    }
    let mut a = riscv::Asm::new(Machine::code_base(setup.guest));
    let (top, end) = (a.label(), a.label());
    a.li(S0, window as u32)
        .la(S1, Machine::ram_base(setup.guest) + 0x5000)
        .store(4, ZERO, S1, 0)
        .li(T1, last);
    a.place(top).load(4, T0, S1, 0).addi(T0, T0, 1).store(4, T0, S1, 0).store(4, T0, S0, COUNT as i32);
    a.bne(T0, T1, top).li(T2, (window + DONE) as u32).store(4, T0, T2, 0).place(end).j(end);
    a.finish()
}

/// A vCPU put back to the state in which it was handed out behaves as a new one; a triple fault asks for it.
pub(super) fn reset(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let machine = Machine::new(setup, 1)?;
    machine.load(&counter(setup, 3))?;
    let mut vcpu = machine.bind(0)?;
    let fresh = vcpu.state()?;
    machine.restart(&mut *vcpu)?;
    machine.finish(&mut *vcpu)?;
    vcpu.set_state(&fresh)?;
    let mut differences = vcpu.state()?.compare(&fresh);
    // Time goes on.
    differences
        .retain(|d| !["tsc", "mcycle", "minstret", "lapic", "msrs"].iter().any(|t| d.path.starts_with(t)));
    expect("differences after reset", &differences, &vec![])?;

    if is_x86(setup.guest) {
        let faulty = Machine::new(setup, 1)?;
        let mut a = x86::Asm::new(0x1000);
        a.ud2();
        faulty.load(&a.finish())?;
        let mut vcpu = faulty.bind(0)?;
        let mut state = vcpu.state()?;
        at_start(&mut state);
        if let CpuState::X86_64(s) = &mut state {
            s.idt.limit = 0;
        }
        vcpu.set_state(&state)?;
        expect("exit of a triple fault", &faulty.run(&mut *vcpu)?, &Exit::Reset)?;
        machine.io.note(Event::Exit("Reset".to_owned()));
    }
    Ok(Outcome::Passed(machine.transcript()))
}

/// No kick is lost, wherever the vCPU is when it is kicked, and none is seen twice.
pub(super) fn kick(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    const ROUNDS: u32 = 200;
    let machine = Machine::new(setup, 1)?;
    let mut code = x86::Asm::new(0x1000);
    let top = code.label();
    code.place(top).jmp(top);
    let mut risc = riscv::Asm::new(Machine::code_base(setup.guest));
    let again = risc.label();
    risc.place(again).j(again);
    machine.load(&if is_x86(setup.guest) { code.finish() } else { risc.finish() })?;
    let kicker = machine.kicker(0);
    // Before the vCPU has a thread.
    kicker.kick();
    let mut vcpu = machine.start()?;
    let _watchdog = Watchdog::new(&machine.io);
    expect("first exit", &vcpu.run(&*machine.io)?, &Exit::Kicked)?;
    let (back, kicked) = mpsc::channel::<()>();
    std::thread::scope(|scope| -> Result<(), Failure> {
        scope.spawn(move || {
            // Each round trip starts from another moment of the vCPU's loop.
            let mut spin = 1u32;
            while kicked.recv().is_ok() {
                spin = spin.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                for _ in 0..spin >> 18 {
                    std::hint::spin_loop();
                }
                kicker.kick();
            }
        });
        for round in 0..ROUNDS {
            back.send(())?;
            let exit = vcpu.run(&*machine.io)?;
            if exit != Exit::Kicked || machine.io.expired.load(Ordering::SeqCst) {
                return Err(Failure(format!("round {round} ended with {exit:x?}")));
            }
        }
        drop(back);
        Ok(())
    })?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// A guest stopped anywhere goes on in another machine of the same kind as if nothing had happened.
pub(super) fn round_trip(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    const LAST: u32 = 12;
    let first = Machine::new(setup, 1)?;
    first.load(&counter(setup, LAST))?;
    // Stopped inside of a device access: the instruction must be finished, and not be repeated.
    let kicker = first.kicker(0);
    first.on_write(COUNT, move |_, data| {
        if data.first() == Some(&5) {
            kicker.kick();
        }
    });
    let mut vcpu = first.start()?;
    let mut state = vcpu.state()?;
    fill(&mut state);
    vcpu.set_state(&state)?;
    let _watchdog = Watchdog::new(&first.io);
    expect("exit", &vcpu.run(&*first.io)?, &Exit::Kicked)?;
    let saved = vcpu.state()?.save();
    let counted = first.writes();
    expect("counted before", &counted.last().copied(), &Some((COUNT, 5)))?;
    drop(vcpu);

    let second = Machine::new(setup, 1)?;
    let mut ram = vec![0; crate::machine::RAM_SIZE as usize];
    first.ram.read(0, &mut ram)?;
    second.ram.write(0, &ram)?;
    drop(first);
    let mut vcpu = second.bind(0)?;
    let restored = CpuState::restore(&saved)?;
    vcpu.set_state(&restored)?;
    let mut differences = vcpu.state()?.compare(&restored);
    differences
        .retain(|d| !["tsc", "mcycle", "minstret", "lapic", "msrs"].iter().any(|t| d.path.starts_with(t)));
    expect("differences after restoring", &differences, &vec![])?;
    second.finish(&mut *vcpu)?;
    let counts: Vec<u64> = second.writes().iter().filter(|w| w.0 == COUNT).map(|w| w.1).collect();
    expect("counted after", &counts, &(6..=u64::from(LAST)).collect())?;
    check_fill(&vcpu.state()?)?;
    Ok(Outcome::Passed(second.transcript()))
}

/// Puts values into registers that the guest does not use, to be found again.
fn fill(state: &mut CpuState) {
    match state {
        CpuState::X86_64(s) => {
            s.rbx = 0x1122_3344_5566_7788;
            s.r15 = 0xF00D;
            s.fpu.zmm[3].0[..16].copy_from_slice(&[0x5A; 16]);
            s.fpu.st[0] = 0x4000_C000_0000_0000_0000;
            s.fpu.ftw = 1;
            s.cr2 = 0x1234;
            s.dr[1] = 0x4444;
        }
        CpuState::Riscv(s) => {
            s.x[20] = 0x1122_3344;
            s.f[7] = 0x3FF0_0000_0000_0000;
            s.mscratch = 0x77;
        }
        _ => {}
    }
}

fn check_fill(state: &CpuState) -> Result<(), Failure> {
    match state {
        CpuState::X86_64(s) => {
            expect("rbx", &s.rbx, &0x1122_3344_5566_7788)?;
            expect("xmm3", &s.fpu.zmm[3].0[..16].to_vec(), &vec![0x5A; 16])?;
            expect("st0", &s.fpu.st[0], &0x4000_C000_0000_0000_0000)?;
            expect("cr2 and dr1", &(s.cr2, s.dr[1]), &(0x1234, 0x4444))
        }
        other => {
            let s = riscv_state(other)?;
            expect("x20, mscratch", &(s.x[20], s.mscratch), &(0x1122_3344, 0x77))
        }
    }
}

/// A state that cannot be is refused by name, and leaves the vCPU as it was.
pub(super) fn state_errors(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let machine = Machine::new(setup, 1)?;
    let mut vcpu = machine.start()?;
    let before = vcpu.state()?;
    let foreign =
        if is_x86(setup.guest) { CpuState::Riscv(Box::default()) } else { CpuState::X86_64(Box::default()) };
    if vcpu.set_state(&foreign).is_ok() {
        return Err(Failure("took the state of another architecture".to_owned()));
    }
    if is_x86(setup.guest) {
        let mut bad = before.clone();
        if let CpuState::X86_64(s) = &mut bad {
            // Paging without protection does not exist, and RBX tells whether anything stuck.
            s.cr0 = 0x8000_0010;
            s.rbx = 0x99;
        }
        if vcpu.set_state(&bad).is_ok() {
            return Err(Failure("took paging without protected mode".to_owned()));
        }
    }
    let mut differences = vcpu.state()?.compare(&before);
    differences
        .retain(|d| !["tsc", "mcycle", "minstret", "lapic", "msrs"].iter().any(|t| d.path.starts_with(t)));
    expect("differences after refused states", &differences, &vec![])?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// All vCPUs run at once: on x86 the others wait for INIT and SIPI, on RISC-V all start.
pub(super) fn smp(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    const VCPUS: u32 = 3;
    /// Register that makes the machine send INIT and SIPI, for controllers in Rhea.
    const WAKE: u64 = 0x80;
    let machine = Machine::new(setup, VCPUS)?;
    let window = Machine::window(setup.guest);
    let arrived = AtomicU32::new(0);
    machine.on_write(COUNT, move |io, _| {
        if arrived.fetch_add(1, Ordering::SeqCst) + 1 == VCPUS {
            io.finish();
        }
    });
    if is_x86(setup.guest) {
        let w = window as u32;
        let lapic = 0xFEE0_0000u32;
        let mut a = x86::Asm::new(0x1000);
        let end = a.label();
        a.store_imm(w + COUNT as u32, 0x100);
        if user_irqchip(setup) {
            a.store_imm(w + WAKE as u32, 0);
        } else {
            // Interrupt command register: all but self, INIT, then start-up at page 2.
            a.store_imm(lapic + 0xF0, 0x1FF);
            a.store_imm(lapic + 0x300, 0x000C_4500).store_imm(lapic + 0x300, 0x000C_4602);
        }
        a.place(end).jmp(end);
        machine.load(&a.finish())?;
        machine.on_write(WAKE, |io, _| {
            if let Some(lines) = io.lines() {
                for vcpu in 1..VCPUS {
                    lines.signal(vcpu, VcpuSignal::Init);
                    lines.signal(vcpu, VcpuSignal::Sipi(2));
                }
            }
        });
        // Real mode at 0x2000: counts up in memory, reports through a 32-bit pointer that is out of its
        // reach, so a port it is: out 0x80, al; hlt.
        machine.ram.write(0x2000, &[0xB0, 0x42, 0xE6, 0x80, 0xFA, 0xF4, 0xEB, 0xFE])?;
    } else {
        let mut a = riscv::Asm::new(Machine::code_base(setup.guest));
        let end = a.label();
        a.csrr(T0, MHARTID).li(S0, window as u32).store(4, T0, S0, COUNT as i32).place(end).j(end);
        machine.load(&a.finish())?;
    }
    let x86 = is_x86(setup.guest);
    let _watchdog = Watchdog::new(&machine.io);
    std::thread::scope(|scope| -> Result<(), Failure> {
        let mut threads = Vec::new();
        for index in 0..VCPUS as usize {
            let machine = &machine;
            threads.push(scope.spawn(move || -> Result<(), String> {
                let run = || -> Result<(), Failure> {
                    let mut vcpu = machine.bind(index)?;
                    if !x86 || index == 0 {
                        machine.restart(&mut *vcpu)?;
                    }
                    while !machine.io.done.load(Ordering::SeqCst) {
                        match vcpu.run(&*machine.io)? {
                            Exit::Kicked => {}
                            // With its controller in Rhea, a processor that sleeps for good says so.
                            Exit::Halted => break,
                            other => return Err(Failure(format!("vCPU {index} left with {other:x?}"))),
                        }
                    }
                    Ok(())
                };
                run().map_err(|Failure(e)| {
                    machine.io.finish();
                    e
                })
            }));
        }
        if x86 {
            // The port writes of the others are counted from here: the device has no hook for ports.
            scope.spawn(|| {
                while !machine.io.done.load(Ordering::SeqCst) {
                    if machine.port_writes(0x80) + 1 == VCPUS as usize {
                        machine.io.finish();
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
        }
        for thread in threads {
            match thread.join() {
                Ok(done) => done?,
                Err(_) => return Err(Failure("a vCPU's thread panicked".to_owned())),
            }
        }
        Ok(())
    })?;
    if machine.io.expired.load(Ordering::SeqCst) {
        return Err(Failure(format!("not all vCPUs came up: {:x?}", machine.transcript().0)));
    }
    if x86 {
        expect("others that came up", &machine.port_writes(0x80), &(VCPUS as usize - 1))?;
    } else {
        let mut harts: Vec<u64> = machine.writes().iter().filter(|w| w.0 == COUNT).map(|w| w.1).collect();
        harts.sort_unstable();
        expect("harts that came up", &harts, &(0..u64::from(VCPUS)).collect())?;
    }
    // The order is not determined.
    let mut transcript = machine.transcript();
    transcript.0.sort_by_key(|e| format!("{e:?}"));
    Ok(Outcome::Passed(transcript))
}
