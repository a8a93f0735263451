//! x86 interrupt controllers and the interval timer in the accelerator, in the saved form of our own models of them.
//!
//! Sources: the data sheets of 8259A, 82093AA and 8254, Intel SDM volume 3A chapter 13 for what the registers are;
//! Linux Documentation/virt/kvm/api.rst (KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_LAPIC) for what the accelerator's form
//! (`accel::arch::irqchip`) holds beside them.

use accel::arch::CpuState;
use accel::arch::irqchip::{Ioapic, Pic, Pit, PitChannel, X86Chips};
use accel::arch::x86_64::{Msr, State};
use device::{Clock, StateBlob, StateError};
use intc::{I8259ChipState, I8259State, IoApicState, LapicState, LapicsState};
use machine::{Dest, HeldState, NamedState};
use timer::{I8254Config, I8254CounterState, I8254State};

/// Names of the devices in the graph.
pub(crate) const PIC: &str = "pic";
pub(crate) const IOAPIC: &str = "ioapic";
pub(crate) const PIT: &str = "pit";
pub(crate) const APIC: &str = "apic";

/// Deadline of the local APIC's timer, a value of the time stamp counter.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Which inputs of the 8259s can be level-triggered.
const ELCR_MASKS: [u8; 2] = [0xf8, 0xde];
/// Port 0x61's speaker bit is set, in the accelerator's flags.
const SPEAKER_ON: u32 = 2;

/// A pin of the I/O APIC is a global interrupt, which the accelerator also takes to its 8259s.
pub(crate) fn ioapic_input(_pin: &str, index: usize) -> Option<Dest> {
    Some(Dest::Gsi(index as u32))
}

/// What comes to the 8259s comes to the I/O APIC as well, or is the timer's in the accelerator.
pub(crate) fn no_input(_pin: &str, _index: usize) -> Option<Dest> {
    None
}

/// The 8259s' output enters local APICs in the accelerator as an external interrupt of the first vCPU.
pub(crate) fn apic_input(_pin: &str, _index: usize) -> Option<Dest> {
    Some(Dest::Cpu { cpu: 0, line: 0 })
}

/// The translation between both forms.
pub(crate) struct X86Held {
    /// I/O APIC, 8259s and timer are in the accelerator, not only the local APICs.
    pub(crate) all: bool,
    /// Physical address of the I/O APIC.
    pub(crate) ioapic: u64,
    /// Numbers of the local APICs.
    pub(crate) ids: Vec<u32>,
}

impl X86Held {
    fn id(&self, cpu: usize) -> u32 {
        self.ids.get(cpu).copied().unwrap_or(cpu as u32)
    }
}

impl HeldState for X86Held {
    fn export(&self, now: u64, chips: &[u8], cpus: &mut [CpuState]) -> Result<Vec<NamedState>, StateError> {
        let chips = X86Chips::restore(chips).map_err(|e| StateError::new("irqchip", e.to_string()))?;
        let mut devices = Vec::new();
        // The output at LINT0: of 8259s in the accelerator, or of ours, which drives a line of the first vCPU.
        let mut extint = matches!(cpus.first(), Some(CpuState::X86_64(s)) if s.events.intr);
        if let Some(pics) = &chips.pics {
            let state = I8259State { chips: pics.iter().map(chip_of).collect() };
            extint = state.output()?;
            devices.push((PIC.to_owned(), state.to_blob()));
        }
        if let Some(i) = &chips.ioapic {
            let state = IoApicState {
                id: i.id as u8 & 0xf,
                select: i.select as u8,
                entries: i.redirection.to_vec(),
                level: i.irr & 0xff_ffff,
            };
            devices.push((IOAPIC.to_owned(), state.to_blob()));
        }
        if let Some(pit) = &chips.pit {
            devices.push((PIT.to_owned(), pit_to_device(pit, now)?));
        }
        let mut apics = LapicsState::default();
        for (cpu, state) in cpus.iter_mut().enumerate() {
            let CpuState::X86_64(s) = state else { continue };
            let page = s.lapic.take().ok_or_else(|| StateError::new("lapic", "expected registers"))?;
            let deadline = s.msrs.extract_if(.., |m| m.index == MSR_TSC_DEADLINE).last();
            let deadline = deadline.filter(|m| m.value != 0).map_or(0, |m| ns_of_tsc(s, m.value, now));
            apics.cpus.push(LapicState::from_page(self.id(cpu), &page, s.apic_base, deadline, extint, now));
        }
        for (cpu, intr) in cpus.iter_mut().zip(apics.outputs()?) {
            if let CpuState::X86_64(s) = cpu {
                s.events.intr = intr;
            }
        }
        devices.push((APIC.to_owned(), apics.to_blob()));
        Ok(devices)
    }

    fn import(&self, now: u64, devices: &[NamedState], cpus: &mut [CpuState]) -> Result<Vec<u8>, StateError> {
        let blob = |name: &str| devices.iter().find(|(n, _)| n == name).map(|(_, blob)| blob);
        let within = |name: &'static str| move |e: StateError| e.within(name);
        let mut chips = X86Chips::default();
        if let Some(blob) = blob(PIC) {
            let state = I8259State::from_blob(blob).map_err(within(PIC))?;
            state.output().map_err(within(PIC))?;
            let [master, slave] = &state.chips[..] else {
                return Err(StateError::new(PIC, "expected 2 chips"));
            };
            let mut pics = [pic_of(master, ELCR_MASKS[0]), pic_of(slave, ELCR_MASKS[1])];
            // The timer in the accelerator pulses its input instead of holding it.
            pics[0].last_irr &= !1;
            chips.pics = Some(pics);
        }
        if let Some(blob) = blob(IOAPIC) {
            let state = IoApicState::from_blob(blob).map_err(within(IOAPIC))?;
            chips.ioapic = Some(Ioapic {
                base: self.ioapic,
                select: state.select.into(),
                id: state.id.into(),
                // The accelerator would take an edge-triggered input that is high for a new edge.
                irr: state.level & state.level_triggered(),
                redirection: state.entries().map_err(within(IOAPIC))?,
            });
        }
        if let Some(blob) = blob(PIT) {
            chips.pit = Some(pit_of_device(blob, now).map_err(within(PIT))?);
        }
        if chips.pics.is_some() != self.all || chips.ioapic.is_some() != self.all {
            return Err(StateError::new("irqchip", "expected the controllers that the accelerator holds"));
        }
        let apics = blob(APIC).ok_or_else(|| StateError::new(APIC, "is missing"))?;
        let apics = LapicsState::from_blob(apics).map_err(within(APIC))?;
        if apics.cpus.len() != cpus.len() {
            let found = apics.cpus.len();
            return Err(StateError::new(APIC, format!("expected {} cpus, found {found}", cpus.len())));
        }
        for (id, (cpu, apic)) in cpus.iter_mut().zip(&apics.cpus).enumerate() {
            let CpuState::X86_64(s) = cpu else { continue };
            let (page, deadline) = apic.to_page(self.id(id), now).map_err(within(APIC))?;
            s.lapic = Some(page);
            s.apic_base = apic.registers.base;
            // Its own local APIC tells the vCPU of interrupts; a line of it is the 8259s', if these are ours.
            s.events.intr = !self.all && id == 0 && apic.extint;
            if deadline != 0 {
                let value = tsc_of_ns(s, deadline, now);
                s.msrs.retain(|m| m.index != MSR_TSC_DEADLINE);
                s.msrs.push(Msr { index: MSR_TSC_DEADLINE, value });
                s.msrs.sort_by_key(|m| m.index);
            }
        }
        Ok(chips.save())
    }
}

/// Virtual nanoseconds at which a vCPU's time stamp counter is `tsc`; it is at `s.tsc` now.
fn ns_of_tsc(s: &State, tsc: u64, now: u64) -> u64 {
    let ticks = tsc.saturating_sub(s.tsc);
    now.saturating_add(Clock::ns_of_ticks(ticks, u64::from(s.tsc_khz.max(1)) * 1000)).max(1)
}

/// The way back.
fn tsc_of_ns(s: &State, ns: u64, now: u64) -> u64 {
    let ticks = Clock::ticks_of_ns(ns.saturating_sub(now), u64::from(s.tsc_khz.max(1)) * 1000);
    s.tsc.saturating_add(ticks).max(1)
}

fn chip_of(p: &Pic) -> I8259ChipState {
    I8259ChipState {
        irr: p.irr,
        imr: p.imr,
        isr: p.isr,
        level: p.last_irr,
        elcr: p.elcr,
        first: p.priority_add & 7,
        vector_base: p.irq_base,
        init: p.init_state.min(3),
        icw4: p.init4 != 0,
        single: false,
        auto_eoi: p.auto_eoi != 0,
        rotate_on_auto_eoi: p.rotate_on_auto_eoi != 0,
        fully_nested: p.special_fully_nested != 0,
        special_mask: p.special_mask != 0,
        read_isr: p.read_isr != 0,
        poll: p.poll != 0,
    }
}

fn pic_of(c: &I8259ChipState, elcr_mask: u8) -> Pic {
    Pic {
        last_irr: c.level,
        irr: c.irr,
        imr: c.imr,
        isr: c.isr,
        priority_add: c.first,
        irq_base: c.vector_base,
        read_isr: c.read_isr.into(),
        poll: c.poll.into(),
        special_mask: c.special_mask.into(),
        init_state: c.init,
        auto_eoi: c.auto_eoi.into(),
        rotate_on_auto_eoi: c.rotate_on_auto_eoi.into(),
        special_fully_nested: c.fully_nested.into(),
        init4: c.icw4.into(),
        elcr: c.elcr,
        elcr_mask,
    }
}

/// Positions in the accelerator's two-byte reads and writes.
mod position {
    pub(super) const WORD_LOW: u8 = 3;
    pub(super) const WORD_HIGH: u8 = 4;
}

fn pit_to_device(pit: &Pit, now: u64) -> Result<StateBlob, StateError> {
    let frequency = I8254Config::default().frequency;
    let tick = Clock::ticks_of_ns(now, frequency.into());
    let counter = |(i, c): (usize, &PitChannel)| {
        let reload = if c.count == 0 { 0x1_0000 } else { c.count.min(0x1_0000) };
        let elapsed = Clock::ticks_of_ns(c.since_load_ns, frequency.into());
        I8254CounterState {
            mode: c.mode.min(5),
            bcd: c.bcd != 0,
            access: c.access & 3,
            // Only the speaker's counter has a gate that can be closed.
            gate: i != 2 || c.gate != 0,
            reload,
            // A periodic counter that was loaded before this machine's clock began is put on the same grid.
            start: tick.checked_sub(elapsed).unwrap_or_else(|| {
                let late = elapsed % u64::from(reload);
                if matches!(c.mode, 2 | 3) { tick.saturating_sub(late) } else { 0 }
            }),
            stopped: i == 2 && c.gate == 0,
            write_high: c.write_state == position::WORD_HIGH,
            write_low: c.write_latch,
            read_high: c.read_state == position::WORD_HIGH || c.count_latched == position::WORD_HIGH,
            latch: (c.count_latched != 0).then_some(c.latched_count),
            status: (c.status_latched != 0).then_some(c.status),
        }
    };
    let gate = u8::from(pit.channels[2].gate != 0);
    let mut state = I8254State {
        counters: pit.channels.iter().enumerate().map(counter).collect(),
        speaker: gate | if pit.flags & SPEAKER_ON != 0 { 2 } else { 0 },
        ..I8254State::default()
    };
    state.settle(now, frequency)?;
    Ok(state.to_blob())
}

fn pit_of_device(blob: &StateBlob, now: u64) -> Result<Pit, StateError> {
    let state = I8254State::from_blob(blob)?;
    let frequency = u64::from(I8254Config::default().frequency);
    let tick = Clock::ticks_of_ns(now, frequency);
    let channel = |c: &I8254CounterState| {
        let high = |is_high| if is_high { position::WORD_HIGH } else { position::WORD_LOW };
        let both = c.access == 3;
        PitChannel {
            count: c.reload,
            latched_count: c.latch.unwrap_or(0),
            count_latched: match c.latch {
                None => 0,
                Some(_) if both => high(c.read_high),
                Some(_) => c.access,
            },
            status_latched: c.status.is_some().into(),
            status: c.status.unwrap_or(0),
            read_state: if both { high(c.read_high) } else { c.access },
            write_state: if both { high(c.write_high) } else { c.access },
            write_latch: c.write_low,
            access: c.access,
            mode: c.mode,
            bcd: c.bcd.into(),
            gate: c.gate.into(),
            since_load_ns: Clock::ns_of_ticks(tick.saturating_sub(c.start), frequency),
        }
    };
    let [a, b, c] = &state.counters[..] else {
        return Err(StateError::new(
            "counters",
            format!("expected 3 counters, found {}", state.counters.len()),
        ));
    };
    let flags = if state.speaker & 2 != 0 { SPEAKER_ON } else { 0 };
    Ok(Pit { channels: [channel(a), channel(b), channel(c)], flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 5_000_000_000;

    fn cpus() -> Vec<CpuState> {
        let mut s = State { tsc: 40_000, tsc_khz: 2_000_000, ..State::default() };
        s.apic_base = 0xfee0_0900;
        vec![CpuState::X86_64(Box::new(s))]
    }

    /// What a guest leaves behind: the 8259s masked, one pin of the I/O APIC level-triggered and high, the timer in mode 2,
    /// the APIC's timer counting.
    fn devices() -> Vec<NamedState> {
        let chip =
            |base| I8259ChipState { imr: 0xfe, vector_base: base, icw4: true, ..I8259ChipState::default() };
        let pics = I8259State { chips: vec![chip(0x20), chip(0x28)] };
        let mut entries = vec![1 << 16; 24];
        entries[5] = 1 << 15 | 0x41;
        let ioapic = IoApicState { id: 1, select: 0x10, entries, level: 1 << 5 };
        let tick = Clock::ticks_of_ns(NOW, I8254Config::default().frequency.into());
        let counter = |start, mode| I8254CounterState {
            mode,
            access: 3,
            gate: mode != 0,
            reload: 4772,
            start,
            stopped: mode == 0,
            ..I8254CounterState::default()
        };
        let mut pit = I8254State {
            counters: vec![counter(tick - 1000, 2), counter(tick - 3000, 3), counter(tick, 0)],
            speaker: 2,
            ..I8254State::default()
        };
        pit.settle(NOW, I8254Config::default().frequency).unwrap();
        let mut page = [0; intc::LAPIC_WORDS];
        // Enabled; LINT0 takes the 8259s; a periodic timer at vector 0x30 that has counted 400 of 1000.
        (page[0xf], page[0x35], page[0x32], page[0x38], page[0x39], page[0x3e]) =
            (0x1ff, 0x700, 0x2_0030, 1000, 600, 0xb);
        page[0xe] = u32::MAX;
        let apic = LapicState::from_page(0, &page, 0xfee0_0900, 0, false, NOW);
        vec![
            (PIC.into(), pics.to_blob()),
            (IOAPIC.into(), ioapic.to_blob()),
            (PIT.into(), pit.to_blob()),
            (APIC.into(), LapicsState { cpus: vec![apic] }.to_blob()),
        ]
    }

    #[test]
    fn what_goes_into_the_accelerator_comes_out_again() {
        let held = X86Held { all: true, ioapic: 0xfec0_0000, ids: Vec::new() };
        let (mut cpus, devices) = (cpus(), devices());
        let chips = held.import(NOW, &devices, &mut cpus).unwrap();
        let CpuState::X86_64(s) = &cpus[0] else { panic!("an x86 vCPU") };
        assert_eq!(s.lapic.unwrap()[0x39], 600);
        let parts = X86Chips::restore(&chips).unwrap();
        assert_eq!(parts.ioapic.unwrap().irr, 1 << 5);
        assert_eq!(parts.pit.unwrap().channels[0].since_load_ns / 1000, 838);
        let again = held.export(NOW, &chips, &mut cpus).unwrap();
        for ((name, before), (_, after)) in devices.iter().zip(&again) {
            assert_eq!(before, after, "{name}");
        }
        let CpuState::X86_64(s) = &cpus[0] else { panic!("an x86 vCPU") };
        assert!(s.lapic.is_none() && !s.events.intr);
    }

    #[test]
    fn a_tsc_deadline_is_the_same_moment_on_both_sides() {
        let held = X86Held { all: false, ioapic: 0xfec0_0000, ids: Vec::new() };
        let mut page = [0; intc::LAPIC_WORDS];
        (page[0xf], page[0x32]) = (0x1ff, 2 << 17 | 0x30);
        let apic = LapicState::from_page(0, &page, 0xfee0_0900, NOW + 1_000_000, true, NOW);
        let devices = [(APIC.to_owned(), LapicsState { cpus: vec![apic] }.to_blob())];
        let mut cpus = cpus();
        let chips = held.import(NOW, &devices, &mut cpus).unwrap();
        let CpuState::X86_64(s) = &cpus[0] else { panic!("an x86 vCPU") };
        // A millisecond at 2 GHz.
        assert_eq!(s.msr(MSR_TSC_DEADLINE), Some(40_000 + 2_000_000));
        assert!(s.events.intr, "the 8259s are ours, and their output is high");
        assert_eq!(held.export(NOW, &chips, &mut cpus).unwrap()[0].1, devices[0].1);
    }

    #[test]
    fn states_that_do_not_fit_are_refused_by_name() {
        let held = X86Held { all: true, ioapic: 0xfec0_0000, ids: Vec::new() };
        let without = |name: &str| devices().into_iter().filter(|(n, _)| n != name).collect::<Vec<_>>();
        for name in [PIC, IOAPIC, APIC] {
            assert!(held.import(NOW, &without(name), &mut cpus()).is_err(), "{name}");
        }
        let error = held.import(NOW, &devices(), &mut [cpus(), cpus()].concat()).unwrap_err().to_string();
        assert!(error.contains("expected 2 cpus, found 1"), "{error}");
        assert!(held.export(NOW, b"?", &mut cpus()).is_err());
    }
}
