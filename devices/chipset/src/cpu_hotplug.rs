//! The controller of processors that come and go: who is there, who has come, who is asked back, and what the guest makes of it.
//!
//! QEMU `docs/specs/acpi_cpu_hotplug`. The block starts in an old form that is a map of the processors by the numbers of their
//! local APICs; a zero written to its first byte makes it registers about one selected processor. The board's DSDT has methods
//! that use them; the guest runs these on general-purpose event 2, which output `gpe` raises.

use std::any::Any;

use device::{
    Access, AccessRule, BuildError, CpuPresence, Device, DeviceConfig, IrqLine, PinSpec, Properties,
    Property, PropertyError, RegionSpec, ResetKind, StateBlob, StateError, SystemControl, SystemRequest,
    Wires, le_fill, le_value,
};

use crate::ich9::SmiFeatures;

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct CpuHotplugConfig {
    /// Which processors are there.
    pub present: CpuPresence,
    /// Numbers of their local APICs.
    pub ids: Vec<u32>,
    /// What firmware has been promised about system management interrupts.
    pub smi: SmiFeatures,
}

impl Properties for CpuHotplugConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

mod reg {
    /// Written: which processor the others are about. Read: the upper half of what the command asks for.
    pub(super) const SELECTOR: u64 = 0x00;
    /// State of the processor, and what is done about it.
    pub(super) const FLAGS: u64 = 0x04;
    /// What the data register means.
    pub(super) const COMMAND: u64 = 0x05;
    pub(super) const DATA: u64 = 0x08;
    /// Size of the map.
    pub(super) const SIZE: u64 = 0x20;
}

mod flag {
    pub(super) const THERE: u8 = 1 << 0;
    pub(super) const INSERTING: u8 = 1 << 1;
    pub(super) const REMOVING: u8 = 1 << 2;
    /// Written: the guest lets go of the processor.
    pub(super) const EJECT: u8 = 1 << 3;
    /// The guest leaves that to firmware.
    pub(super) const BY_FIRMWARE: u8 = 1 << 4;
}

mod command {
    /// Select the next processor with something to be told; its number.
    pub(super) const NEXT: u8 = 0;
    /// What the guest was told.
    pub(super) const OST_EVENT: u8 = 1;
    /// What has become of it.
    pub(super) const OST_STATUS: u8 = 2;
    /// Number of the local APIC.
    pub(super) const ID: u8 = 3;
}

impl DeviceConfig for CpuHotplugConfig {
    const KIND: &'static str = "acpi-cpu-hotplug";
    const HELP: &'static str = "ACPI processor hot plug controller";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", reg::SIZE, AccessRule::UP_TO_4)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("gpe")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let cpus = vec![Slot1::default(); self.present.most() as usize];
        Ok(Box::new(CpuHotplug {
            present: self.present,
            ids: self.ids,
            smi: self.smi,
            gpe: wires.line("gpe"),
            system: wires.system(),
            s: V1 { cpus, ..V1::default() },
            ejected: Vec::new(),
            told: Vec::new(),
        }))
    }
}

device::state! {
    /// Saved state of one processor's place.
    struct Slot1 { 1 => there: bool, 2 => flags: u8, 3 => event: u32, 4 => status: u32 }
}
device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => registers: bool, 2 => selector: u32, 3 => command: u8, 4 => cpus: Vec<Slot1> }
}

/// What the guest has said of a processor's place last (ACPI Specification 6.5, 6.3.5, `_OST`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OspmStatus {
    /// The processor.
    pub cpu: u32,
    /// What the guest was told.
    pub event: u32,
    /// What has become of it.
    pub status: u32,
}

/// The controller as who plugs processors sees it.
pub struct CpuHotplug {
    present: CpuPresence,
    ids: Vec<u32>,
    smi: SmiFeatures,
    gpe: IrqLine,
    system: SystemControl,
    s: V1,
    /// Processors that the guest has let go of, and those it has said something about: each at most once.
    ejected: Vec<u32>,
    told: Vec<u32>,
}

fn note(list: &mut Vec<u32>, cpu: u32) {
    if !list.contains(&cpu) {
        list.push(cpu);
    }
}

impl CpuHotplug {
    /// A processor has come.
    pub fn plugged(&mut self, cpu: u32) {
        self.tell(cpu, flag::INSERTING);
    }

    /// Asks the guest to let go of a processor; false if it does not use the registers.
    pub fn ask(&mut self, cpu: u32) -> bool {
        if self.s.registers {
            self.tell(cpu, flag::REMOVING);
        }
        self.s.registers
    }

    /// Whether firmware would have to take part: it has all processors in system management mode at once.
    pub fn is_for_firmware(&self) -> bool {
        self.smi.get() & SmiFeatures::BROADCAST != 0
    }

    fn tell(&mut self, cpu: u32, flag: u8) {
        if let Some(slot) = self.s.cpus.get_mut(cpu as usize) {
            slot.flags |= flag;
            self.gpe.pulse();
        }
    }

    /// The processors that the guest has let go of since this was asked.
    pub fn take_ejected(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ejected)
    }

    /// What the guest has said since this was asked.
    pub fn take_told(&mut self) -> Vec<OspmStatus> {
        std::mem::take(&mut self.told).into_iter().filter_map(|cpu| self.status(cpu)).collect()
    }

    /// What the guest has said of all processors; nothing if it does not use the registers.
    pub fn statuses(&self) -> Vec<OspmStatus> {
        if !self.s.registers {
            return Vec::new();
        }
        (0..self.s.cpus.len() as u32).filter_map(|cpu| self.status(cpu)).collect()
    }

    fn status(&self, cpu: u32) -> Option<OspmStatus> {
        let slot = self.s.cpus.get(cpu as usize)?;
        Some(OspmStatus { cpu, event: slot.event, status: slot.status })
    }

    /// The map of processors by the numbers of their local APICs.
    fn map(&self, at: u64) -> u8 {
        let there = |(cpu, id): (usize, &u32)| u64::from(id / 8) == at && self.present.has(cpu as u32);
        let bits = self.ids.iter().enumerate().filter(|each| there(*each)).map(|(_, id)| 1 << (id % 8));
        bits.fold(0, |all, bit: u8| all | bit)
    }

    fn word(&self, offset: u64) -> u32 {
        let cpu = self.s.selector;
        let Some(slot) = self.s.cpus.get(cpu as usize) else { return 0 };
        match offset {
            reg::FLAGS => u32::from(slot.flags | if self.present.has(cpu) { flag::THERE } else { 0 }),
            reg::DATA if self.s.command == command::NEXT => cpu,
            reg::DATA if self.s.command == command::ID => self.ids.get(cpu as usize).copied().unwrap_or(cpu),
            _ => 0,
        }
    }

    /// Selects the next processor with something to be told, if there is one.
    fn find(&mut self) {
        let count = self.s.cpus.len();
        let first = self.s.selector as usize;
        let waits = |at: &usize| self.s.cpus.get(*at).is_some_and(|slot| slot.flags != 0);
        if let Some(at) = (0..count).map(|n| (first + n) % count).find(waits) {
            self.s.selector = at as u32;
        }
    }

    fn act(&mut self, value: u8) {
        let cpu = self.s.selector;
        // The first processor stays.
        let can_go = cpu != 0 && self.present.has(cpu);
        let Some(slot) = self.s.cpus.get_mut(cpu as usize) else { return };
        if value & flag::INSERTING != 0 {
            slot.flags &= !flag::INSERTING;
        } else if value & flag::REMOVING != 0 {
            slot.flags &= !flag::REMOVING;
        } else if value & flag::EJECT != 0 && can_go {
            slot.flags = 0;
            self.present.set(cpu, false);
            note(&mut self.ejected, cpu);
            self.system.request(SystemRequest::Ejected);
        } else if value & flag::BY_FIRMWARE != 0 && can_go {
            slot.flags ^= flag::BY_FIRMWARE;
        }
    }

    fn write_data(&mut self, value: u32) {
        let cpu = self.s.selector;
        let Some(slot) = self.s.cpus.get_mut(cpu as usize) else { return };
        match self.s.command {
            command::OST_EVENT => slot.event = value,
            command::OST_STATUS => {
                slot.status = value;
                note(&mut self.told, cpu);
                self.system.request(SystemRequest::OspmStatus);
            }
            _ => {}
        }
    }
}

impl Device for CpuHotplug {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        if self.s.registers {
            le_fill(data, (self.word(offset & !3) >> (8 * (offset & 3))).into());
        } else {
            (offset..).zip(data).for_each(|(at, byte)| *byte = self.map(at));
        }
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        if !self.s.registers {
            self.s.registers = offset == 0 && value == 0;
            return Access::Ok;
        }
        // Nothing but the selector works while no processor is selected.
        let selected = (self.s.selector as usize) < self.s.cpus.len();
        match offset {
            reg::SELECTOR => self.s.selector = value,
            reg::FLAGS if selected => self.act(value as u8),
            reg::COMMAND if selected && value <= u32::from(command::ID) => {
                self.s.command = value as u8;
                if self.s.command == command::NEXT {
                    self.find();
                }
            }
            reg::DATA if selected => self.write_data(value),
            _ => {}
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        let cpus = vec![Slot1::default(); self.s.cpus.len()];
        self.s = V1 { cpus, ..V1::default() };
    }

    fn save(&self) -> StateBlob {
        let mut state = self.s.clone();
        for (cpu, slot) in state.cpus.iter_mut().enumerate() {
            slot.there = self.present.has(cpu as u32);
        }
        StateBlob::new(CpuHotplugConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(CpuHotplugConfig::KIND, 1)?;
        if s.cpus.len() != self.s.cpus.len() {
            let (wanted, found) = (self.s.cpus.len(), s.cpus.len());
            return Err(StateError::new("cpus", format!("expected {wanted} processors, found {found}")));
        }
        for (cpu, slot) in s.cpus.iter().enumerate() {
            let (ours, saved) = match (self.present.has(cpu as u32), slot.there) {
                (true, false) => ("there", "is not"),
                (false, true) => ("not there", "is"),
                _ => continue,
            };
            let why = format!("the processor is {ours} in this machine, in the saved one it {saved}");
            return Err(StateError::new(format!("cpus/[{cpu}]"), why));
        }
        StateError::at_most("command", s.command, command::ID)?;
        self.s = s;
        Ok(())
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    fn config() -> CpuHotplugConfig {
        CpuHotplugConfig {
            present: CpuPresence::new(4, 2),
            ids: vec![0, 1, 4, 5],
            smi: SmiFeatures::default(),
        }
    }

    fn with<R>(b: &Bench, f: impl FnOnce(&mut CpuHotplug) -> R) -> R {
        b.cell().with(|d| f(d.as_any().unwrap().downcast_mut().unwrap()))
    }

    #[test]
    fn the_old_map_gives_way_to_registers() {
        let b = Bench::new(config());
        assert_eq!((b.read(0, 0, 1), b.read(0, 1, 1)), (0b11, 0));
        b.write(0, 0, 4, 0);
        b.write(0, reg::SELECTOR, 4, 3);
        b.write(0, reg::COMMAND, 1, u64::from(command::ID));
        assert_eq!((b.read(0, reg::DATA, 4), b.read(0, reg::FLAGS, 1)), (5, 0));
        b.write(0, reg::SELECTOR, 4, 77);
        assert_eq!((b.read(0, reg::DATA, 4), b.read(0, reg::FLAGS, 1)), (0, 0));
    }

    #[test]
    fn processors_come_and_go_with_the_guests_help() {
        let c = config();
        let present = c.present.clone();
        let b = Bench::new(c);
        b.write(0, 0, 4, 0);
        present.set(2, true);
        with(&b, |c| c.plugged(2));
        b.write(0, reg::COMMAND, 1, u64::from(command::NEXT));
        assert_eq!((b.read(0, reg::DATA, 4), b.read(0, reg::FLAGS, 1)), (2, 0b11));
        b.write(0, reg::FLAGS, 1, u64::from(flag::INSERTING));
        assert_eq!(b.read(0, reg::FLAGS, 1), 1);
        assert!(with(&b, |c| c.ask(2)));
        assert_eq!(b.read(0, reg::FLAGS, 1), 0b101);
        b.write(0, reg::COMMAND, 1, u64::from(command::OST_EVENT));
        b.write(0, reg::DATA, 4, 3);
        b.write(0, reg::COMMAND, 1, u64::from(command::OST_STATUS));
        b.write(0, reg::DATA, 4, 0x84);
        assert_eq!(with(&b, CpuHotplug::take_told), [OspmStatus { cpu: 2, event: 3, status: 0x84 }]);
        b.write(0, reg::FLAGS, 1, u64::from(flag::EJECT));
        assert_eq!((b.read(0, reg::FLAGS, 1), present.has(2)), (0, false));
        assert_eq!(with(&b, CpuHotplug::take_ejected), [2]);
        // The first one stays.
        b.write(0, reg::SELECTOR, 4, 0);
        b.write(0, reg::FLAGS, 1, u64::from(flag::EJECT));
        assert!(present.has(0) && with(&b, CpuHotplug::take_ejected).is_empty());
        assert_eq!(b.take_requests(), [SystemRequest::OspmStatus, SystemRequest::Ejected]);
    }

    #[test]
    fn states_of_other_machines_are_refused() {
        let (a, b) = (Bench::new(config()), Bench::new(config()));
        with(&b, |c| c.present.set(3, true));
        let saved = a.cell().save();
        let error = b.cell().restore(&saved).unwrap_err().to_string();
        assert!(error.contains("cpus/[3]") && error.contains("is there in this machine"), "{error}");
        // Nobody there who could leave for good while it is tried.
        check(CpuHotplugConfig { present: CpuPresence::new(4, 1), ..config() });
    }
}
