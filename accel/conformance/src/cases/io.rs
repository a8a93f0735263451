//! Device accesses.

use accel::arch::GuestArch;

use super::is_x86;
use crate::machine::{DONE, Event, Machine};
use crate::riscv::{self, S0, T0, T1};
use crate::x86::{self, Reg};
use crate::{Failure, Outcome, Setup, expect};

/// Reads and writes of all sizes arrive once, whole and in order, and the guest gets what the device gave.
pub(super) fn mmio(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let machine = Machine::new(setup, 1)?;
    let window = Machine::window(setup.guest);
    let wide = setup.guest == GuestArch::Riscv64;
    let sizes: &[u32] = if wide { &[1, 2, 4, 8] } else { &[1, 2, 4] };
    let code = if is_x86(setup.guest) {
        let mut a = x86::Asm::new(0x1000);
        let w = window as u32;
        for &size in sizes {
            a.mov(Reg::Eax, 0x4433_2211).store(size, w + 0x10 * size);
            a.mov(Reg::Eax, 0).load(size, w + 0x10 * size + 8).store(4, w + 0x100);
        }
        let end = a.label();
        a.store(4, w + DONE as u32).place(end).jmp(end);
        a.finish()
    } else {
        let mut a = riscv::Asm::new(Machine::code_base(setup.guest));
        a.li(S0, window as u32);
        for &size in sizes {
            let offset = 0x10 * size as i32;
            a.li(T0, 0x4433_2211).store(size, T0, S0, offset);
            a.load(size, T1, S0, offset + 8).store(4, T1, S0, 0x100);
        }
        a.li(T1, window as u32 + DONE as u32);
        let end = a.label();
        a.store(4, T0, T1, 0).place(end).j(end);
        a.finish()
    };
    machine.load(&code)?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;

    let transcript = machine.transcript();
    let mut wanted = Vec::new();
    for &size in sizes {
        let register = 0x10 * u64::from(size);
        let pattern = 0x4433_2211u64.to_le_bytes();
        wanted.push(Event::Write(register, pattern[..size as usize].to_vec()));
        let given: Vec<u8> = (0..size as u8).map(|i| 0xA8 + i).collect();
        wanted.push(Event::Read(register + 8, given.clone()));
        let mut low = given;
        low.resize(4, 0);
        wanted.push(Event::Write(0x100, low));
    }
    expect("accesses", &transcript.0[..transcript.0.len().saturating_sub(1)].to_vec(), &wanted)?;
    Ok(Outcome::Passed(transcript))
}

/// Port accesses of all sizes, and a string of them.
pub(super) fn pio(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if !is_x86(setup.guest) {
        return Ok(Outcome::Skipped("the architecture has no ports"));
    }
    let machine = Machine::new(setup, 1)?;
    machine.ram.write(0x3000, b"string")?;
    let done = Machine::window(setup.guest) as u32 + DONE as u32;
    let mut a = x86::Asm::new(0x1000);
    a.mov(Reg::Edx, 0x3F8).mov(Reg::Eax, 0x4433_2211);
    a.out(1).out(2).out(4);
    for size in [1, 2, 4] {
        a.mov(Reg::Eax, 0).input(size).out(4);
    }
    a.mov(Reg::Esi, 0x3000).mov(Reg::Ecx, 6).rep_outsb();
    let end = a.label();
    a.store_imm(done, 0).place(end).jmp(end);
    machine.load(&a.finish())?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;

    let transcript = machine.transcript();
    let out = |d: &[u8]| Event::Out(0x3F8, d.to_vec());
    let mut wanted = vec![out(&[0x11]), out(&[0x11, 0x22]), out(&[0x11, 0x22, 0x33, 0x44])];
    for size in [1usize, 2, 4] {
        let given = &[0xB0, 0xB1, 0xB2, 0xB3][..size];
        let mut back = given.to_vec();
        back.resize(4, 0);
        wanted.extend([Event::In(0x3F8, given.to_vec()), out(&back)]);
    }
    wanted.extend(b"string".iter().map(|b| out(&[*b])));
    expect("accesses", &transcript.0[..transcript.0.len().saturating_sub(1)].to_vec(), &wanted)?;
    Ok(Outcome::Passed(transcript))
}

/// Reading a model-specific register that does not exist raises an exception, unless the user wants it to be there.
pub(super) fn unknown_msr(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    const TRAPPED: u32 = 0x300;
    const VALUE: u32 = 0x100;
    if !is_x86(setup.guest) {
        return Ok(Outcome::Skipped("the architecture has no model-specific registers"));
    }
    let machine = Machine::new(setup, 1)?;
    let w = Machine::window(setup.guest) as u32;
    let mut a = x86::Asm::new(0x1000);
    let (last, end) = (a.label(), a.label());
    // mov ecx, an index that nobody uses; rdmsr
    a.mov(Reg::Eax, 0x55).mov(Reg::Ecx, 0x1234_5678).bytes(&[0x0F, 0x32]).store(4, w + VALUE);
    a.place(last).store_imm(w + DONE as u32, 0).place(end).jmp(end);
    let handler = a.here();
    a.store_imm(w + TRAPPED, 13).jmp(last);
    machine.set_vector(13, handler)?;
    machine.load(&a.finish())?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    let ignored = setup.properties.iter().any(|(k, v)| k == "ignore-msrs" && v == "on");
    let first = if ignored { (u64::from(VALUE), 0) } else { (u64::from(TRAPPED), 13) };
    expect("what the guest saw", &machine.writes(), &vec![first, (DONE, 0)])?;
    Ok(Outcome::Passed(machine.transcript()))
}
