//! Intel 82540EM gigabit Ethernet controller (PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual,
//! 317453): rings of legacy and extended descriptors, checksums and segmentation, filters.
//!
//! Base address register 0 holds the registers, 1 a window on them in port space.

mod eeprom;
mod receive;
mod registers;
mod state;
#[cfg(test)]
mod tests;
mod transmit;

use std::any::Any;

use device::{
    Access, AccessRule, BuildError, Device, Dma, ResetKind, StateBlob, StateError, Wires, le_fill, le_value,
};
use pci::{BarKind, Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

use self::eeprom::Eeprom;
use self::registers::{Registers, cause, reg};
use crate::card::card_config;
use crate::intel::offload::Sender;
use crate::port::{Port, address};

const REGISTERS_SIZE: u64 = 128 << 10;
const WINDOW_SIZE: u64 = 64;

card_config! {
    /// The card.
    E1000Config
}

impl PciConfig for E1000Config {
    const KIND: &'static str = "e1000";
    const HELP: &'static str = "Intel 82540EM gigabit Ethernet card";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, 0x100e, class::ETHERNET)
            .revision(3)
            .bar(0, REGISTERS_SIZE, BarKind::Memory(AccessRule::UP_TO_4))
            .bar(1, WINDOW_SIZE, BarKind::Ports(AccessRule::DWORD))
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let mac = address(self.mac.as_ref(), wires)?;
        let mut card = E1000 {
            function,
            dma: wires.dma()?,
            port: Port::new(&self.backend, wires, wires.waker(0)),
            eeprom: Eeprom::new(mac),
            r: Registers::default(),
            window: 0,
            sender: Sender::default(),
            paused: false,
        };
        card.restart();
        Ok(Box::new(card))
    }
}

struct E1000 {
    function: Function,
    dma: Dma,
    port: Port,
    eeprom: Eeprom,
    r: Registers,
    /// Register that the window shows.
    window: u32,
    sender: Sender,
    paused: bool,
}

impl E1000 {
    /// As after power-on or a reset by register.
    fn restart(&mut self) {
        self.r = Registers::new(self.port.is_up());
        self.eeprom.reset();
        self.r.set_address(self.eeprom.mac());
        (self.sender, self.window) = (Sender::default(), 0);
    }

    fn update_pin(&self) {
        self.function.interrupt(self.r.get(reg::ICR) & self.r.get(reg::IMS) != 0);
    }

    fn raise(&mut self, causes: u32) {
        self.r.change(reg::ICR, causes, 0);
        self.update_pin();
    }

    fn read_register(&mut self, at: u32) -> u32 {
        match at {
            reg::ICR => {
                let causes = self.r.get(reg::ICR);
                self.r.set(reg::ICR, 0);
                self.update_pin();
                causes
            }
            reg::EECD => self.eeprom.control(),
            // What is only written.
            reg::ICS | reg::IMC => 0,
            // Counters are cleared when they are read.
            reg::STATISTICS..reg::STATISTICS_END => {
                let value = self.r.get(at);
                self.r.set(at, 0);
                value
            }
            _ => self.r.get(at),
        }
    }

    fn write_register(&mut self, at: u32, value: u32) {
        match at {
            reg::CTRL if value & registers::CTRL_RESET != 0 => {
                self.restart();
                self.update_pin();
            }
            reg::CTRL => self.r.set(at, value & !registers::CTRL_PHY_RESET),
            reg::STATUS | reg::ICR => {}
            reg::EECD => self.eeprom.set_control(value),
            reg::EERD => self.r.set(at, self.eeprom.read(value)),
            reg::MDIC => {
                let (answer, causes) = self.r.phy(value);
                self.r.set(at, answer);
                if causes != 0 {
                    self.raise(causes);
                }
            }
            reg::ICS => self.raise(value),
            reg::IMS => {
                self.r.change(at, value, 0);
                self.update_pin();
            }
            reg::IMC => {
                self.r.change(reg::IMS, 0, value);
                self.update_pin();
            }
            reg::RCTL | reg::RDT => {
                self.r.set(at, value);
                self.receive();
            }
            reg::TCTL | reg::TDT => {
                self.r.set(at, value);
                self.transmit();
            }
            _ => self.r.set(at, value),
        }
    }

    /// Tells of the cable being plugged in or out.
    fn follow_link(&mut self) {
        if self.r.set_link(self.port.is_up()) {
            self.raise(cause::LINK);
        }
    }
}

impl Device for E1000 {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match (region, offset) {
            (1, 0) => self.window,
            (1, 4) => self.read_register(self.window),
            (1, _) => 0,
            _ => self.read_register(offset as u32 & !3),
        };
        le_fill(data, u64::from(value) >> (8 * (offset & 3)));
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match (region, offset) {
            (1, 0) => self.window = value & (REGISTERS_SIZE as u32 - 1) & !3,
            (1, 4) => self.write_register(self.window, value),
            (1, _) => {}
            _ if data.len() != 4 => return Access::BadSize,
            _ => self.write_register(offset as u32, value),
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.restart();
        self.port.clear();
        self.update_pin();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn wake(&mut self, _id: usize) {
        self.follow_link();
        self.receive();
    }

    fn quiesce(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        self.follow_link();
        self.transmit();
        self.receive();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for E1000 {}
