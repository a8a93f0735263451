//! The SATA controller of Intel's ICH9 in AHCI mode (AHCI 1.3.1; ICH9 datasheet 316972, chapter 15): six ports, 32 commands
//! each, native queueing.
//!
//! Base address register 5 holds the registers.

mod port;
mod state;
mod table;
#[cfg(test)]
mod tests;

use std::any::Any;

use device::{
    Access, AccessRule, BuildError, Device, Properties, Property, PropertyError, ResetKind, StateBlob,
    StateError, Wires, le_fill, le_value,
};
use pci::{BarKind, Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

use self::port::Port;
use crate::ide::{Drive, IdeDrive};
use crate::media::{Slot, Slots};
use crate::requests::Requests;

/// Number of ports.
pub const AHCI_PORTS: usize = 6;
const REGISTERS_BAR: usize = 5;
/// Where the ports' registers begin, and how far apart they are.
const PORTS: u64 = 0x100;
const PORT_SIZE: u64 = 0x80;
/// Commands that a port takes.
const SLOTS: u32 = 32;

/// Host capabilities: 64-bit addresses, queueing, AHCI only, first generation, slots and ports.
const CAPABILITIES: u32 = 1 << 31 | 1 << 30 | 1 << 18 | 1 << 20 | (SLOTS - 1) << 8 | (AHCI_PORTS as u32 - 1);
const VERSION: u32 = 0x0001_0000;

/// Global host control.
mod ghc {
    pub(super) const RESET: u32 = 1 << 0;
    pub(super) const INTERRUPTS: u32 = 1 << 1;
    pub(super) const AHCI: u32 = 1 << 31;
}

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct AhciConfig {
    /// A drive for each port.
    pub drives: [Option<IdeDrive>; AHCI_PORTS],
}

impl Properties for AhciConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: "none".to_owned() })
    }
}

impl PciConfig for AhciConfig {
    const KIND: &'static str = "ich9-ahci";
    const HELP: &'static str = "SATA controller with six ports (AHCI)";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, 0x2922, class::AHCI)
            .revision(2)
            .bar(REGISTERS_BAR, 4096, BarKind::Memory(AccessRule::UP_TO_4))
            .msi(1, false)
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let dma = wires.dma()?;
        let mut port = |i: usize| {
            let drive = self.drives[i].as_ref().map_or(Drive::Empty, |d| d.build(i, SLOTS as u16));
            Port::new(drive, dma.clone(), Requests::new(wires.waker(i)))
        };
        let ports = std::array::from_fn(&mut port);
        Ok(Box::new(AhciController { function, control: ghc::AHCI, interrupts: 0, ports }))
    }
}

/// The controller at work; reached through [`Device::as_any`] by whoever changes discs.
pub struct AhciController {
    function: Function,
    control: u32,
    /// Ports that have interrupted.
    interrupts: u32,
    ports: [Port; AHCI_PORTS],
}

impl Slots for AhciController {
    fn with_slot(&mut self, unit: usize, f: &mut dyn FnMut(&mut dyn Slot)) -> bool {
        match self.ports.get_mut(unit).map(|port| &mut port.drive) {
            Some(Drive::Cd { cd, .. }) => f(&mut cd.medium),
            _ => return false,
        }
        true
    }
}

impl AhciController {
    fn update(&mut self) {
        let before = self.interrupts;
        for (i, port) in self.ports.iter().enumerate() {
            if port.interrupts() {
                self.interrupts |= 1 << i;
            }
        }
        // A port that interrupts again as soon as the host has acknowledged it is a message more (10.6.2): the host may
        // have looked at the port before.
        if self.interrupts & !before != 0 && self.function.messages() != 0 {
            self.function.interrupt(false);
        }
        self.function.interrupt(self.control & ghc::INTERRUPTS != 0 && self.interrupts != 0);
    }

    fn restart(&mut self) {
        self.ports.iter_mut().for_each(Port::reset);
        (self.control, self.interrupts) = (ghc::AHCI, 0);
    }

    fn read_register(&self, offset: u64) -> u32 {
        if let Some(at) = offset.checked_sub(PORTS) {
            return self.ports.get((at / PORT_SIZE) as usize).map_or(0, |port| port.read(at % PORT_SIZE));
        }
        match offset {
            0x00 => CAPABILITIES,
            0x04 => self.control,
            0x08 => self.interrupts,
            0x0c => (1 << AHCI_PORTS) - 1,
            0x10 => VERSION,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        if let Some(at) = offset.checked_sub(PORTS) {
            if let Some(port) = self.ports.get_mut((at / PORT_SIZE) as usize) {
                port.write(at % PORT_SIZE, value);
            }
        } else {
            match offset {
                0x04 if value & ghc::RESET != 0 => self.restart(),
                0x04 => self.control = ghc::AHCI | value & ghc::INTERRUPTS,
                0x08 => self.interrupts &= !value,
                _ => {}
            }
        }
        self.update();
    }
}

impl Device for AhciController {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = self.read_register(offset & !3);
        le_fill(data, u64::from(value) >> (8 * (offset & 3)));
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        if data.len() != 4 {
            return Access::BadSize;
        }
        self.write_register(offset, le_value(data) as u32);
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.restart();
        self.update();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn wake(&mut self, id: usize) {
        if let Some(port) = self.ports.get_mut(id) {
            port.poll();
            port.work();
            self.update();
        }
    }

    fn quiesce(&mut self) {
        self.ports.iter_mut().for_each(Port::quiesce);
        self.update();
    }

    fn resume(&mut self) {
        self.ports.iter_mut().for_each(Port::resume);
        self.update();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for AhciController {}
