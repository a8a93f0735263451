//! Intel 82574L gigabit Ethernet controller (82574 GbE Controller Family Datasheet, 317694): PCI Express, two queues each way, five
//! messages by table, descriptors of three kinds, checksums, segmentation, tags, receive-side scaling.
//!
//! Base address register 0 holds the registers, 1 the flash memory, which is empty, 2 a window on the registers in port space, 3 the
//! table of messages. Not there: wake-up, management, timestamps of packets, the flash, and the sum over a frame's bytes that
//! descriptors may have in place of the hash.

mod headers;
mod interrupts;
mod nvm;
mod phy;
mod receive;
mod registers;
mod state;
#[cfg(test)]
mod tests;
mod transmit;

use std::any::Any;

use device::{
    Access, AccessRule, BuildError, Clock, Device, Dma, ResetKind, StateBlob, StateError, Timer, Wires,
    le_fill, le_value,
};
use net::MacAddr;
use pci::{BarKind, Express, Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

use self::interrupts::{Interrupts, VECTORS};
use self::nvm::Nvm;
use self::phy::Phy;
use self::registers::{cause, fresh, reg};
use crate::card::card_config;
use crate::intel::offload::Sender;
use crate::intel::values::Values;
use crate::port::{Port, address};

const DEVICE: u16 = 0x10d3;
const REGISTERS_SIZE: u64 = 128 << 10;
const FLASH_SIZE: u64 = 128 << 10;
const WINDOW_SIZE: u64 = 32;
const TABLE_SIZE: u64 = 16 << 10;
const QUEUES: usize = 2;

/// Base address registers.
const FLASH: usize = 1;
const WINDOW: usize = 2;
const TABLE: u8 = 3;

card_config! {
    /// The card.
    E1000eConfig
}

impl PciConfig for E1000eConfig {
    const KIND: &'static str = "e1000e";
    const HELP: &'static str = "Intel 82574L gigabit Ethernet card";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, DEVICE, class::ETHERNET)
            .subsystem(INTEL, 0)
            .bar(0, REGISTERS_SIZE, BarKind::Memory(AccessRule::UP_TO_4))
            .bar(FLASH, FLASH_SIZE, BarKind::Memory(AccessRule::UP_TO_4))
            .bar(WINDOW, WINDOW_SIZE, BarKind::Ports(AccessRule::DWORD))
            .bar(TABLE.into(), TABLE_SIZE, BarKind::Memory(AccessRule::ANY))
            .msix(VECTORS as u16, TABLE)
            .msi(1, false)
            .express(Express::Endpoint)
            .power()
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let mac = address(self.mac.as_ref(), wires)?;
        let port = Port::new(&self.backend, wires, wires.waker(0));
        let link = port.is_up();
        let mut card = E1000e {
            function,
            dma: wires.dma()?,
            clock: wires.clock(),
            timer: wires.timer(0),
            port,
            mac,
            nvm: Nvm::new(mac),
            phy: Phy::new(link),
            r: Values::default(),
            i: Interrupts::default(),
            window: 0,
            senders: Default::default(),
            time_base: 0,
            paused: false,
        };
        card.restart();
        Ok(Box::new(card))
    }
}

struct E1000e {
    function: Function,
    dma: Dma,
    clock: Clock,
    /// For interrupts that are held back.
    timer: Timer,
    port: Port,
    mac: MacAddr,
    nvm: Nvm,
    phy: Phy,
    r: Values,
    i: Interrupts,
    /// Register that the window shows.
    window: u32,
    senders: [Sender; QUEUES],
    /// What is added to the clock for the system time.
    time_base: u64,
    paused: bool,
}

impl E1000e {
    /// As after power-on or a reset by register.
    fn restart(&mut self) {
        let link = self.port.is_up();
        self.r = fresh(link);
        self.r.set_address(self.nvm.mac());
        self.phy = Phy::new(link);
        (self.senders, self.window, self.time_base) = (Default::default(), 0, 0);
        self.i = Interrupts::default();
        self.timer.cancel();
    }

    /// The system time: a counter of 25 MHz, divided and multiplied as its register says (10.2.10).
    fn ticks(&self) -> u64 {
        let rate = self.r.get(reg::TIMINCA);
        let (step, period) = (u64::from(rate & 0xff_ffff), u64::from(rate >> 24));
        (self.clock.ticks(25_000_000) / period.max(1)).wrapping_mul(step)
    }

    fn read_register(&mut self, at: u32) -> u32 {
        match at {
            reg::ICR => self.read_causes(),
            // The causes once more, without a change.
            reg::ICS => self.r.get(reg::ICR),
            // What is only written.
            reg::IMC => 0,
            reg::EECD => Nvm::control(self.r.get(at)),
            // Whoever reads it as free has it.
            reg::SWSM => {
                let value = self.r.get(at);
                self.r.set(at, value | 1);
                value
            }
            // Counters are cleared when they are read.
            reg::STATISTICS..reg::STATISTICS_END => {
                let value = self.r.get(at);
                self.r.set(at, 0);
                value
            }
            // The upper half belongs to the lower one that was read.
            reg::SYSTIM => {
                let now = self.ticks().wrapping_add(self.time_base);
                self.r.set(at + 4, (now >> 32) as u32);
                now as u32
            }
            _ => self.r.get(at),
        }
    }

    fn write_register(&mut self, at: u32, value: u32) {
        match at {
            reg::CTRL => self.control(value),
            reg::STATUS => {}
            reg::EERD => self.r.set(at, self.nvm.read(value)),
            reg::EEWR => {
                let answer = self.nvm.write(value);
                self.r.set(at, answer);
            }
            reg::MDIC => {
                let (answer, causes) = self.phy.access(value, self.port.is_up());
                self.r.set(at, answer);
                if causes != 0 {
                    self.raise(causes);
                }
            }
            reg::ICR => self.clear_causes(value),
            reg::ICS => self.raise(value & !cause::ASSERTED),
            reg::IMS | reg::IMC => {
                let (set, clear) = if at == reg::IMS { (value & !cause::ASSERTED, 0) } else { (0, value) };
                self.r.change(reg::IMS, set, clear);
                self.update_interrupts();
            }
            reg::EIAC => self.r.set(at, value & cause::VECTORS),
            reg::RCTL => {
                self.r.set(at, value);
                self.receive();
            }
            reg::TCTL => {
                self.r.set(at, value);
                self.transmit_all();
            }
            _ => {
                let before = self.ticks();
                self.r.set(at, value);
                self.written(at, before);
            }
        }
    }

    /// What follows from a register that holds what is written; `ticks` is the system time's counter before.
    fn written(&mut self, at: u32, ticks: u64) {
        const RX: [u32; QUEUES] = [reg::RX + reg::TAIL, reg::RX + reg::QUEUE + reg::TAIL];
        const TX: [u32; QUEUES] = [reg::TX + reg::TAIL, reg::TX + reg::QUEUE + reg::TAIL];
        if RX.contains(&at) {
            self.receive();
        } else if let Some(queue) = TX.iter().position(|tail| *tail == at) {
            self.transmit(queue);
        } else if at == reg::TIMINCA {
            // Time goes on from where it was.
            self.time_base = self.time_base.wrapping_add(ticks).wrapping_sub(self.ticks());
        } else if [reg::SYSTIM, reg::SYSTIM + 4].contains(&at) {
            let set = u64::from(self.r.get(reg::SYSTIM + 4)) << 32 | u64::from(self.r.get(reg::SYSTIM));
            self.time_base = set.wrapping_sub(self.ticks());
        } else if at == reg::IVAR {
            self.update_interrupts();
        }
    }

    fn control(&mut self, value: u32) {
        if value & registers::CTRL_RESET != 0 {
            self.restart();
            self.update_interrupts();
            return;
        }
        if value & registers::CTRL_PHY_RESET != 0 {
            self.phy = Phy::new(self.port.is_up());
        }
        self.r.set(reg::CTRL, value & !registers::CTRL_PHY_RESET);
        let master = if value & registers::CTRL_MASTER_DISABLE == 0 { registers::STATUS_MASTER } else { 0 };
        self.r.change(reg::STATUS, master, registers::STATUS_MASTER);
    }

    /// Tells of the cable being plugged in or out.
    fn follow_link(&mut self) {
        let link = if self.port.is_up() { registers::STATUS_LINK } else { 0 };
        if self.r.get(reg::STATUS) & registers::STATUS_LINK != link {
            self.r.change(reg::STATUS, link, registers::STATUS_LINK);
            self.phy.set_link(link != 0);
            self.raise(cause::LINK);
        }
    }
}

impl Device for E1000e {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match (region, offset) {
            (FLASH, _) => !0,
            (WINDOW, 0) => self.window,
            (WINDOW, 4) => self.read_register(self.window),
            (0, _) => self.read_register(registers::canonical(offset as u32 & !3)),
            _ => 0,
        };
        le_fill(data, u64::from(value) >> (8 * (offset & 3)));
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match (region, offset) {
            (WINDOW, 0) => self.window = registers::canonical(value & (REGISTERS_SIZE as u32 - 1) & !3),
            (WINDOW, 4) => self.write_register(self.window, value),
            (0, _) if data.len() != 4 => return Access::BadSize,
            (0, _) => self.write_register(registers::canonical(offset as u32), value),
            _ => {}
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.nvm = Nvm::new(self.mac);
        self.restart();
        self.port.clear();
        self.update_interrupts();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn timer(&mut self, _id: usize) {
        self.update_interrupts();
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
        self.transmit_all();
        self.receive();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for E1000e {
    fn config_written(&mut self, _at: usize, _len: usize) {
        // The kind of interrupts may be another one.
        self.update_interrupts();
    }
}
