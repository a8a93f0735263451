//! Memory: ROM, memory that goes away or is replaced, the record of written pages.

use std::sync::Arc;

use guest_memory::{DirtyClient, RamBlock, Region};

use super::is_x86;
use crate::machine::{DONE, Event, Machine};
use crate::riscv::{self, MCAUSE, MTVEC, S0, S1, T0, T1, T5, T6};
use crate::x86::{self, Reg};
use crate::{Failure, Outcome, Setup, expect};

/// Register to which the guest writes what it read.
const SEEN: u64 = 0x100;
/// Register whose write changes the memory map.
const CHANGE: u64 = 0x200;
/// Register to which a trap handler writes its cause.
const TRAPPED: u64 = 0x300;

/// Address of the extra memory, which is above RAM and 64 KiB long.
fn extra_base(setup: &Setup<'_>) -> u64 {
    Machine::ram_base(setup.guest) + 0x20_0000
}

const EXTRA_SIZE: u64 = 0x1_0000;

fn extra_block(value: u32) -> Result<Arc<RamBlock>, Failure> {
    let block = RamBlock::anonymous("extra", EXTRA_SIZE)?;
    block.write(0x10, &value.to_le_bytes())?;
    Ok(block)
}

/// A guest that reads the extra memory and reports, then writes the register `step`, and does it again. There
/// is a jump in between: a translator may finish the piece of code it is in before it sees a changed map.
fn reader(setup: &Setup<'_>, write: Option<u32>, step: u64) -> Vec<u8> {
    let window = Machine::window(setup.guest);
    let cell = extra_base(setup) + 0x10;
    if is_x86(setup.guest) {
        let w = window as u32;
        let mut a = x86::Asm::new(0x1000);
        let end = a.label();
        a.load(4, cell as u32).store(4, w + SEEN as u32);
        if let Some(value) = write {
            a.mov(Reg::Eax, value).store(4, cell as u32);
        }
        let after = a.label();
        a.store_imm(w + step as u32, 0).jmp(after).place(after);
        a.load(4, cell as u32).store(4, w + SEEN as u32);
        a.store_imm(w + DONE as u32, 0).place(end).jmp(end);
        return a.finish();
    }
    let base = Machine::code_base(setup.guest);
    let mut a = riscv::Asm::new(base);
    let (begin, last, end) = (a.label(), a.label(), a.label());
    a.j(begin);
    let handler = a.here();
    a.csrr(T5, MCAUSE).store(4, T5, S0, TRAPPED as i32).j(last);
    a.place(begin).li(S0, window as u32).la(T0, handler).csrw(MTVEC, T0).la(S1, cell);
    a.load(4, T0, S1, 0).store(4, T0, S0, SEEN as i32);
    if let Some(value) = write {
        a.li(T1, value).store(4, T1, S1, 0);
    }
    let after = a.label();
    a.store(4, T0, S0, step as i32).j(after).place(after);
    a.load(4, T0, S1, 0).store(4, T0, S0, SEEN as i32);
    a.place(last).li(T6, (window + DONE) as u32).store(4, T0, T6, 0).place(end).j(end);
    a.finish()
}

fn seen(machine: &Machine) -> Vec<(u64, u64)> {
    machine.writes().into_iter().filter(|(r, _)| matches!(*r, SEEN | TRAPPED)).collect()
}

/// ROM reads as its content, before and after a write to it.
pub(super) fn read_only(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let rom = extra_block(0x1234_5678)?;
    let base = extra_base(setup);
    let machine = Machine::with(setup, 1, |m| {
        m.add(Region::rom("rom", rom.clone()).at(base))?;
        Ok(())
    })?;
    machine.load(&reader(setup, Some(0x55AA_55AA), 0x50))?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    expect("values read", &seen(&machine), &vec![(SEEN, 0x1234_5678), (SEEN, 0x1234_5678)])?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// Memory that begins and ends inside of pages, and its block's pages with it, is memory all the same; then it moves.
pub(super) fn crooked(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    const SKEW: u64 = 8;
    let block = RamBlock::anonymous("extra", 0x1800)?;
    // What the guest sees at its cell: before the move, and after it, where the block lies 0x100 lower.
    block.write(0x10 - SKEW, &0x1234_5678u32.to_le_bytes())?;
    block.write(0x110 - SKEW, &0x8765_4321u32.to_le_bytes())?;
    let base = extra_base(setup);
    let machine = Machine::with(setup, 1, |m| {
        m.add(Region::ram("extra", block.clone()).at(base + SKEW))?;
        Ok(())
    })?;
    let memory = machine.memory.clone();
    machine.on_write(CHANGE, move |io, _| {
        let mut change = memory.update();
        let moved = change
            .find("extra")
            .ok_or(())
            .and_then(|id| change.set_offset(id, base + SKEW - 0x100).map_err(drop));
        if moved.and_then(|()| change.commit().map_err(drop)).is_err() {
            io.note(Event::Note("the memory could not be moved".to_owned()));
        }
    });
    machine.load(&reader(setup, Some(0x55AA_55AA), CHANGE))?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    expect("values read", &seen(&machine), &vec![(SEEN, 0x1234_5678), (SEEN, 0x8765_4321)])?;
    let mut written = [0; 4];
    block.read(0x10 - SKEW, &mut written)?;
    expect("value written", &u32::from_le_bytes(written), &0x55AA_55AA)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// Memory removed while the guest runs is gone at once: x86 reads ones, RISC-V takes an access fault.
pub(super) fn remove(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let block = extra_block(0x1234_5678)?;
    let base = extra_base(setup);
    let machine = Machine::with(setup, 1, |m| {
        m.add(Region::ram("extra", block.clone()).at(base))?;
        Ok(())
    })?;
    let memory = machine.memory.clone();
    machine.on_write(CHANGE, move |io, _| {
        let mut change = memory.update();
        let done = change.find("extra").ok_or(()).and_then(|id| change.remove(id).map_err(drop));
        if done.and_then(|()| change.commit().map_err(drop)).is_err() {
            io.note(Event::Note("the memory could not be removed".to_owned()));
        }
    });
    machine.load(&reader(setup, None, CHANGE))?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    let after = if is_x86(setup.guest) { (SEEN, 0xFFFF_FFFF) } else { (TRAPPED, 5) };
    expect("values read", &seen(&machine), &vec![(SEEN, 0x1234_5678), after])?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// Memory put over other memory while the guest runs is seen at once, and what is beneath keeps its content.
pub(super) fn replace(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let (below, above) = (extra_block(0x1111_2222)?, extra_block(0x3333_4444)?);
    let base = extra_base(setup);
    let machine = Machine::with(setup, 1, |m| {
        m.add(Region::ram("below", below.clone()).at(base))?;
        Ok(())
    })?;
    let memory = machine.memory.clone();
    machine.on_write(CHANGE, move |io, _| {
        let cover = Region::ram_slice("above", above.clone(), 0, 0x1000).at(base).priority(1);
        if memory.add(cover).is_err() {
            io.note(Event::Note("the memory could not be replaced".to_owned()));
        }
    });
    machine.load(&reader(setup, Some(0x5555_6666), CHANGE))?;
    let mut vcpu = machine.start()?;
    machine.finish(&mut *vcpu)?;
    expect("values read", &seen(&machine), &vec![(SEEN, 0x1111_2222), (SEEN, 0x3333_4444)])?;
    let mut beneath = [0; 4];
    below.read(0x10, &mut beneath)?;
    expect("memory beneath", &u32::from_le_bytes(beneath), &0x5555_6666)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// Exactly the pages written while the log is on are in it, each once.
pub(super) fn dirty_log(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    const SYNC: u64 = 0x210;
    let machine = Machine::new(setup, 1)?;
    let Some(log) = machine.partition.dirty_log() else {
        return Ok(Outcome::Skipped("the accelerator has no dirty log"));
    };
    let window = Machine::window(setup.guest);
    let ram = Machine::ram_base(setup.guest);
    let pages = [0x4_0000u64, 0x4_5000, 0x8_0000];
    let code = if is_x86(setup.guest) {
        let mut a = x86::Asm::new(0x1000);
        let end = a.label();
        for page in pages {
            a.store_imm(page as u32 + 8, 1);
        }
        a.store_imm(window as u32 + SYNC as u32, 0).store_imm(pages[1] as u32, 2);
        a.store_imm(window as u32 + DONE as u32, 0).place(end).jmp(end);
        a.finish()
    } else {
        let mut a = riscv::Asm::new(Machine::code_base(setup.guest));
        let end = a.label();
        a.li(S0, window as u32);
        for page in pages {
            a.la(S1, ram + page).store(4, S0, S1, 8);
        }
        a.store(4, T0, S0, SYNC as i32).la(S1, ram + pages[1]).store(4, S0, S1, 0);
        a.li(T6, (window + DONE) as u32).store(4, T0, T6, 0).place(end).j(end);
        a.finish()
    };
    machine.load(&code)?;
    machine.ram.dirty().start(DirtyClient::Migration);
    log.enable(true)?;
    let take = |machine: &Machine| -> Result<Vec<u64>, Failure> {
        log.sync()?;
        Ok(machine.ram.take_dirty(DirtyClient::Migration, 0x4_0000, u64::MAX).offsets().collect())
    };
    take(&machine)?;
    // The guest stops at the register, so that the log can be looked at between two writes.
    let kicker = machine.kicker(0);
    machine.on_write(SYNC, move |_, _| kicker.kick());
    let mut vcpu = machine.start()?;
    let _watchdog = crate::machine::Watchdog::new(&machine.io);
    let first = vcpu.run(&*machine.io)?;
    expect("exit", &first, &accel::Exit::Kicked)?;
    let seen = take(&machine)?;
    machine.io.note(Event::Note(format!("{seen:x?}")));
    expect("pages written", &seen, &pages.to_vec())?;
    expect("pages written since", &take(&machine)?, &vec![])?;
    machine.finish(&mut *vcpu)?;
    expect("pages written then", &take(&machine)?, &vec![pages[1]])?;
    log.enable(false)?;
    Ok(Outcome::Passed(machine.transcript()))
}
