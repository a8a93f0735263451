//! Everything but RAM: written from a stopped machine, collected while it is read, and put into a machine as a whole.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use accel::arch::CpuState;
use device::{DeviceCell, StateBlob};
use guest_memory::RamBlock;

use super::bad;
use super::format::{Body, Writer, broken};
use crate::{Machine, MachineError};

/// Longest payload that is kept in memory; RAM is streamed.
const MAX_PAYLOAD: u64 = 64 << 20;

/// Writes clock, vCPUs, in-kernel controllers and devices. `fail` makes an error of what the output says.
pub(super) fn write<W: Write>(
    machine: &Machine,
    w: &mut Writer<W>,
    fail: impl Fn(io::Error) -> MachineError,
) -> Result<(), MachineError> {
    let mut cpus = machine.cpu_states()?;
    let now = machine.clock.now();
    let chips = machine.partition().irqchip().map(accel::KernelIrqchip::save).transpose()?;
    let held = match &machine.held_state {
        Some(held) => held
            .export(now, chips.as_deref().unwrap_or_default(), &mut cpus)
            .map_err(|e| bad("machine/irqchip", e.to_string()))?,
        None => Vec::new(),
    };
    w.section("clock", |p| p.write_all(&now.to_le_bytes())).map_err(&fail)?;
    for (i, c) in cpus.iter().enumerate() {
        w.section(&format!("cpu{i}"), |p| p.write_all(&c.save())).map_err(&fail)?;
    }
    if let (Some(state), None) = (chips, &machine.held_state) {
        w.section("irqchip", |p| p.write_all(&state)).map_err(&fail)?;
    }
    for (name, blob) in &held {
        w.section(&format!("device:{name}"), |p| p.write_all(&blob.to_bytes())).map_err(&fail)?;
    }
    for (name, cell) in machine.devices().iter() {
        w.section(&format!("device:{name}"), |p| p.write_all(&cell.save().to_bytes())).map_err(&fail)?;
    }
    Ok(())
}

/// Sections as they are read, checked for what this machine expects.
pub(super) struct Collected {
    expected: Vec<String>,
    found: BTreeMap<String, Vec<u8>>,
    rams: Vec<String>,
}

impl Collected {
    pub(super) fn new(machine: &Machine) -> Self {
        let mut expected = vec!["board".to_owned(), "clock".to_owned()];
        expected.extend((0..machine.vcpu_count()).map(|i| format!("cpu{i}")));
        expected.extend(own_form(machine).then(|| "irqchip".to_owned()));
        let devices = machine.devices();
        let names = devices.iter().map(|(name, _)| name).chain(&machine.held);
        expected.extend(names.map(|name| format!("device:{name}")));
        Self { expected, found: BTreeMap::new(), rams: Vec::new() }
    }

    /// Takes one section that is not RAM. The first has to be the board's, and it has to be this board.
    pub(super) fn take<R: Read>(
        &mut self,
        machine: &Machine,
        name: &str,
        body: &mut Body<'_, R>,
    ) -> Result<(), MachineError> {
        self.board_first(name)?;
        if self.found.contains_key(name) {
            return Err(bad(name, "appears twice"));
        }
        if name != "state" && !self.expected.iter().any(|e| e == name) {
            return Err(bad(name, self.unexpected(machine, name)));
        }
        let mut data = Vec::new();
        body.take(MAX_PAYLOAD + 1).read_to_end(&mut data).map_err(|e| broken(name, &e))?;
        if data.len() as u64 > MAX_PAYLOAD {
            return Err(bad(name, format!("is longer than {MAX_PAYLOAD} bytes")));
        }
        if name == "board" {
            let ours = machine.graph();
            if data != ours.as_bytes() {
                return Err(bad("board", difference(&data, &ours)));
            }
        }
        self.found.insert(name.to_owned(), data);
        Ok(())
    }

    fn unexpected(&self, machine: &Machine, name: &str) -> String {
        if name.starts_with("cpu") {
            return format!("this machine has {} vcpus", machine.vcpu_count());
        }
        "does not belong to this machine".into()
    }

    fn board_first(&self, name: &str) -> Result<(), MachineError> {
        if self.found.is_empty() && name != "board" {
            return Err(bad("board", format!("has to come first, found {}", name.escape_debug())));
        }
        Ok(())
    }

    /// The RAM block that a section of RAM is for.
    pub(super) fn ram<'m>(
        &mut self,
        machine: &'m Machine,
        name: &str,
        block: &str,
    ) -> Result<&'m Arc<RamBlock>, MachineError> {
        self.board_first(name)?;
        let found = machine.blocks.iter().find(|b| b.name() == block);
        let found = found.ok_or_else(|| bad(name, "does not belong to this machine"))?;
        if self.rams.iter().any(|r| r == block) {
            return Err(bad(name, "appears twice"));
        }
        self.rams.push(block.to_owned());
        Ok(found)
    }

    /// Whether the whole of a block has come.
    pub(super) fn has_ram(&self, block: &str) -> bool {
        self.rams.iter().any(|r| r == block)
    }

    /// Decodes what was collected; all has to be there.
    pub(super) fn finish(mut self, machine: &Machine) -> Result<Whole, MachineError> {
        if let Some(missing) = self.expected.iter().find(|e| !self.found.contains_key(*e)) {
            return Err(bad(missing.as_str(), "is missing"));
        }
        if let Some(b) = machine.blocks.iter().find(|b| !self.has_ram(b.name())) {
            return Err(bad(format!("ram:{}", b.name()), "is missing"));
        }
        let mut take = |name: &str| self.found.remove(name).unwrap_or_default();
        let clock =
            u64::from_le_bytes(take("clock").try_into().map_err(|_| bad("clock", "is not 8 bytes long"))?);
        let mut cpus = Vec::new();
        for i in 0..machine.vcpu_count() {
            let name = format!("cpu{i}");
            let state = CpuState::restore(&take(&name));
            cpus.push(state.map_err(|e| bad(format!("machine/{name}"), e.to_string()))?);
        }
        let irqchip = own_form(machine).then(|| take("irqchip"));
        let mut blob = |name: &String| {
            let blob = StateBlob::from_bytes(&take(&format!("device:{name}")));
            blob.map_err(|e| bad(format!("machine/{name}"), e.to_string()))
        };
        let mut devices = Vec::new();
        for (name, cell) in machine.devices().iter() {
            devices.push((cell.clone(), blob(name)?));
        }
        let irqchip = match &machine.held_state {
            None => irqchip,
            Some(held) => {
                let mut states = Vec::new();
                for name in &machine.held {
                    states.push((name.clone(), blob(name)?));
                }
                let chips = held.import(clock, &states, &mut cpus);
                Some(chips.map_err(|e| bad("machine", e.to_string()))?)
            }
        };
        let run_state = match self.found.remove("state") {
            None => None,
            Some(text) => Some(String::from_utf8(text).map_err(|_| bad("state", "is not text"))?),
        };
        Ok(Whole { clock, cpus, devices, irqchip, run_state })
    }
}

/// Whether the accelerator's controllers are saved in its own form, as nothing translates it.
fn own_form(machine: &Machine) -> bool {
    machine.held_state.is_none() && machine.partition().irqchip().is_some()
}

fn difference(saved: &[u8], ours: &str) -> String {
    let saved = String::from_utf8_lossy(saved);
    let (mut a, mut b) = (saved.lines(), ours.lines());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => return format!("has '{}', this machine has '{b}'", a.escape_debug()),
            (Some(a), None) => return format!("has '{}', which this machine lacks", a.escape_debug()),
            (None, Some(b)) => return format!("lacks '{b}' of this machine"),
            (None, None) => return "has other line ends".into(),
        }
    }
}

/// A whole state, decoded, not yet in the machine.
pub(super) struct Whole {
    clock: u64,
    cpus: Vec<CpuState>,
    devices: Vec<(Arc<DeviceCell>, StateBlob)>,
    irqchip: Option<Vec<u8>>,
    /// Run state of a machine that migrated.
    pub(super) run_state: Option<String>,
}

impl Whole {
    /// Puts devices and vCPUs into the state; puts them back if one refuses.
    pub(super) fn apply(&self, machine: &Machine) -> Result<(), MachineError> {
        let old = Whole {
            clock: machine.clock.now(),
            cpus: machine.cpu_states()?,
            devices: self.devices.iter().map(|(c, _)| (c.clone(), c.save())).collect(),
            irqchip: machine.partition().irqchip().map(accel::KernelIrqchip::save).transpose()?,
            run_state: None,
        };
        let result = self.put(machine);
        if result.is_err() {
            machine.clock.set(old.clock);
            machine.set_cpu_states(old.cpus.clone())?;
            if let (Some(chip), Some(state)) = (machine.partition().irqchip(), &old.irqchip) {
                chip.restore(state)?;
            }
            for (cell, blob) in &old.devices {
                let _ = cell.restore(blob);
            }
        }
        result
    }

    fn put(&self, machine: &Machine) -> Result<(), MachineError> {
        machine.clock.set(self.clock);
        machine.unhalt();
        machine.set_cpu_states(self.cpus.clone())?;
        if let (Some(chip), Some(state)) = (machine.partition().irqchip(), &self.irqchip) {
            chip.restore(state)?;
        }
        for (cell, blob) in &self.devices {
            cell.restore(blob).map_err(|e| bad(cell.path(), e.to_string()))?;
        }
        Ok(())
    }
}
