//! Abilities of an accelerator that has interrupt controllers of its own, and host events.

use accel::arch::CpuState;
use accel::arch::irqchip::X86Chips;
use accel::{MsiMessage, RoutingEntry, RoutingSource, Vcpu};

use super::is_x86;
use crate::machine::{DONE, Event, Machine};
use crate::x86;
use crate::{Failure, Outcome, Setup, expect};

/// Register whose write makes the device act.
const RAISE: u64 = 0x10;
/// Register to which the handler writes.
const HANDLED: u64 = 0x40;
const VECTOR: u32 = 0x20;
const LOCAL_APIC: u32 = 0xFEE0_0000;
const MESSAGE: MsiMessage = MsiMessage { address: LOCAL_APIC as u64, data: VECTOR, device_id: 0 };

const NO_CHIP: Result<Outcome, Failure> =
    Ok(Outcome::Skipped("the interrupt controllers are not in the accelerator"));

/// A guest that raises, sleeps until its handler has run, and is done. The handler ends the interrupt.
fn sleeper(setup: &Setup<'_>, machine: &Machine) -> Result<Box<dyn Vcpu>, Failure> {
    let w = Machine::window(setup.guest) as u32;
    let mut a = x86::Asm::new(0x1000);
    let (top, end) = (a.label(), a.label());
    a.store_imm(0x3000, 0).store_imm(w + RAISE as u32, 1).sti();
    a.place(top).hlt().load(4, 0x3000).cmp(1).jne(top).store_imm(w + DONE as u32, 0).place(end).jmp(end);
    let handler = a.here();
    a.increment(0x3000).store_imm(w + HANDLED as u32, 7).store_imm(LOCAL_APIC + 0xB0, 0).leave_handler();
    machine.set_vector(u64::from(VECTOR), handler)?;
    machine.load(&a.finish())?;
    let mut vcpu = machine.start()?;
    let mut state = vcpu.state()?;
    if let CpuState::X86_64(s) = &mut state
        && let Some(lapic) = &mut s.lapic
    {
        // Software enable, in the spurious vector register.
        lapic[0xF] |= 1 << 8;
    }
    vcpu.set_state(&state)?;
    Ok(vcpu)
}

fn handled_once(machine: &Machine) -> Result<Outcome, Failure> {
    let handled = machine.writes().iter().filter(|w| **w == (HANDLED, 7)).count();
    expect("interrupts handled", &handled, &1)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// A global interrupt reaches the guest through an I/O APIC in the accelerator, whose state is set as a snapshot's.
pub(super) fn pin(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if !is_x86(setup.guest) {
        return NO_CHIP;
    }
    let machine = Machine::new(setup, 1)?;
    let Some(chip) = machine.partition.irqchip() else { return NO_CHIP };
    let saved = chip.save()?;
    let mut chips = X86Chips::restore(&saved)?;
    let Some(ioapic) = &mut chips.ioapic else { return NO_CHIP };
    // Level-triggered, to the first local APIC.
    ioapic.redirection[4] = u64::from(VECTOR) | 1 << 15;
    chip.restore(&chips.save())?;
    expect("state of the controllers", &X86Chips::restore(&chip.save()?)?.ioapic, &chips.ioapic)?;
    if chip.restore(&saved[..saved.len() - 1]).is_ok() {
        return Err("took a truncated state of the controllers".into());
    }
    chip.set_routing(&[RoutingEntry { gsi: 4, source: RoutingSource::Pin { chip: 2, pin: 4 } }])?;
    let partition = machine.partition.clone();
    machine.on_write(RAISE, move |io, _| set_gsi(&*partition, io, true));
    let partition = machine.partition.clone();
    machine.on_write(HANDLED, move |io, _| set_gsi(&*partition, io, false));
    let mut vcpu = sleeper(setup, &machine)?;
    machine.finish(&mut *vcpu)?;
    handled_once(&machine)
}

fn set_gsi(partition: &dyn accel::Partition, io: &crate::machine::Io, level: bool) {
    if partition.irqchip().is_none_or(|c| c.set_gsi(4, level).is_err()) {
        io.note(Event::Note("the interrupt could not be set".to_owned()));
    }
}

/// The end of a level-triggered message comes back to an I/O APIC in Rhea, that of another one does not.
pub(super) fn end_of_interrupt(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    if !is_x86(setup.guest) || setup.irqchip != accel::IrqchipMode::Split {
        return Ok(Outcome::Skipped("the interrupt controllers are not half in the accelerator"));
    }
    for (data, ends) in [(VECTOR | 1 << 15 | 1 << 14, 1), (VECTOR, 0)] {
        let machine = Machine::new(setup, 1)?;
        let partition = machine.partition.clone();
        machine.on_write(RAISE, move |io, _| {
            let message = MsiMessage { data, ..MESSAGE };
            if partition.irqchip().is_none_or(|c| c.signal_msi(message).is_err()) {
                io.note(Event::Note("the message could not be sent".to_owned()));
            }
        });
        let mut vcpu = sleeper(setup, &machine)?;
        machine.finish(&mut *vcpu)?;
        let seen = machine.transcript().0.iter().filter(|e| **e == Event::Eoi(VECTOR as u8)).count();
        expect("ends of interrupt", &seen, &ends)?;
        handled_once(&machine)?;
    }
    Ok(Outcome::Passed(crate::Transcript::default()))
}

/// The accelerator's clock is set and goes on from there.
pub(super) fn clock(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let machine = Machine::new(setup, 1)?;
    let Some(clock) = machine.partition.clock() else {
        return Ok(Outcome::Skipped("the accelerator has no clock of its own"));
    };
    let hour = 3_600_000_000_000;
    clock.set(hour)?;
    let (first, second) = (clock.get()?, clock.get()?);
    expect("clock after setting", &(first >= hour && second >= first && second < 2 * hour), &true)?;
    Ok(Outcome::Passed(machine.transcript()))
}

/// Host events, on hosts that have them.
#[cfg(target_os = "linux")]
pub(super) mod events {
    use std::os::fd::AsRawFd;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::x86::Reg;

    /// A guest that writes 5, then 7 to a register and to a port, twice each.
    fn writer(setup: &Setup<'_>, machine: &Machine) -> Result<Box<dyn Vcpu>, Failure> {
        let w = Machine::window(setup.guest) as u32;
        let mut a = x86::Asm::new(0x1000);
        let end = a.label();
        a.mov(Reg::Edx, 0x510);
        for value in [5, 7] {
            a.store_imm(w + RAISE as u32, value).mov(Reg::Eax, value).out(4);
        }
        a.store_imm(w + DONE as u32, 0).place(end).jmp(end);
        machine.load(&a.finish())?;
        machine.start()
    }

    /// A host event raises an interrupt without a thread of ours in between.
    pub(in crate::cases) fn irqfd(setup: &Setup<'_>) -> Result<Outcome, Failure> {
        let machine = Machine::new(setup, 1)?;
        let (Some(chip), Some(irqfd)) = (machine.partition.irqchip(), machine.partition.irqfd()) else {
            return NO_CHIP;
        };
        if !is_x86(setup.guest) {
            return NO_CHIP;
        }
        let event = EventFd::new(EFD_NONBLOCK)?;
        chip.set_routing(&[RoutingEntry { gsi: 30, source: RoutingSource::Msi(MESSAGE) }])?;
        irqfd.attach(event.as_raw_fd(), 30)?;
        if irqfd.attach(-1, 30).is_ok() {
            return Err("attached a descriptor that is none".into());
        }
        let ring = event.try_clone()?;
        machine.on_write(RAISE, move |io, _| {
            if ring.write(1).is_err() {
                io.note(Event::Note("the event could not be signalled".to_owned()));
            }
        });
        let mut vcpu = sleeper(setup, &machine)?;
        machine.finish(&mut *vcpu)?;
        irqfd.detach(event.as_raw_fd(), 30)?;
        handled_once(&machine)
    }

    /// A guest's write of a value signals a host event and is not seen by the device; other values are.
    pub(in crate::cases) fn ioeventfd(setup: &Setup<'_>) -> Result<Outcome, Failure> {
        let machine = Machine::new(setup, 1)?;
        let Some(ioeventfd) = machine.partition.ioeventfd().filter(|_| is_x86(setup.guest)) else {
            return Ok(Outcome::Skipped("the accelerator has no ioeventfd"));
        };
        let (register, port) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
        let gpa = Machine::window(setup.guest) + RAISE;
        ioeventfd.attach(register.as_raw_fd(), gpa, false, 4, Some(7))?;
        ioeventfd.attach(port.as_raw_fd(), 0x510, true, 4, None)?;
        let mut vcpu = writer(setup, &machine)?;
        machine.finish(&mut *vcpu)?;
        let last = Event::Write(DONE, vec![0; 4]);
        let wanted = vec![Event::Write(RAISE, vec![5, 0, 0, 0]), last.clone()];
        expect("what the devices saw", &machine.transcript().0, &wanted)?;
        expect("signals", &(register.read()?, port.read()?), &(1, 2))?;

        // Untied, everything reaches the devices again.
        ioeventfd.detach(register.as_raw_fd(), gpa, false, 4, Some(7))?;
        ioeventfd.detach(port.as_raw_fd(), 0x510, true, 4, None)?;
        machine.restart(&mut *vcpu)?;
        machine.finish(&mut *vcpu)?;
        expect("events in all", &machine.transcript().0.len(), &7)?;
        Ok(Outcome::Passed(machine.transcript()))
    }
}

/// Host events, on hosts that have none of the kind.
#[cfg(not(target_os = "linux"))]
pub(super) mod events {
    use super::*;

    /// Not here.
    pub(in crate::cases) fn irqfd(_: &Setup<'_>) -> Result<Outcome, Failure> {
        NO_CHIP
    }

    /// Not here.
    pub(in crate::cases) fn ioeventfd(_: &Setup<'_>) -> Result<Outcome, Failure> {
        Ok(Outcome::Skipped("the host has no event descriptors"))
    }
}
