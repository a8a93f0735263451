//! Intel 82077AA floppy disk controller (datasheet 290166-007) with up to two drives.
//!
//! Region 0 are the registers from 0x3f0, region 1 the one at 0x3f7. Data moves by channel 2 of the ISA bus's DMA
//! controllers, or through the data register. Motors and heads take no time.

mod commands;
mod media;
mod state;
#[cfg(test)]
mod tests;

use std::any::Any;

use block::Disk;
use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, Dma, IrqLine, PinSpec, Properties, Property,
    PropertyError, RegionSpec, ResetKind, StateBlob, StateError, Waker, Wires, le_fill, le_value,
};

use self::commands::Command;
use self::media::Drive;
use crate::i8257::IsaDma;
use crate::media::{Slot, Slots, Tray};
use crate::requests::Requests;

/// Its DMA channel on a PC.
const CHANNEL: usize = 2;
/// Type of a 3.5" drive for 1.44 MB, as firmware keeps it in the clock's memory.
const TYPE_1440: u8 = 4;

/// Digital output register.
mod dor {
    pub(super) const RUN: u8 = 1 << 2;
    pub(super) const DMA: u8 = 1 << 3;
}

/// Main status register.
mod msr {
    pub(super) const BUSY: u8 = 1 << 4;
    pub(super) const NO_DMA: u8 = 1 << 5;
    pub(super) const TO_HOST: u8 = 1 << 6;
    pub(super) const READY: u8 = 1 << 7;
}

/// A drive to hang on the controller.
#[derive(Clone, Debug, Default)]
pub struct FloppyDrive {
    /// What is in it.
    pub disk: Option<Disk>,
}

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct FloppyConfig {
    /// The drives.
    pub drives: [Option<FloppyDrive>; 2],
    /// The DMA channels of the ISA bus.
    pub channels: IsaDma,
}

impl FloppyConfig {
    /// Types of the drives for the clock's memory: the first in the high half.
    pub fn cmos(&self) -> u8 {
        let kind = |drive: &Option<FloppyDrive>| if drive.is_some() { TYPE_1440 } else { 0 };
        kind(&self.drives[0]) << 4 | kind(&self.drives[1])
    }
}

impl Properties for FloppyConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: "none".to_owned() })
    }
}

impl DeviceConfig for FloppyConfig {
    const KIND: &'static str = "isa-fdc";
    const HELP: &'static str = "floppy disk controller";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", 6, AccessRule::BYTE), RegionSpec::new("input", 1, AccessRule::BYTE)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let drive = |d: &Option<FloppyDrive>| Drive {
            there: d.is_some(),
            disk: d.as_ref().and_then(|d| d.disk.clone()),
            track: 0,
            changed: true,
        };
        Ok(Box::new(FloppyController {
            irq: wires.line("irq"),
            memory: wires.dma()?,
            channels: self.channels,
            waker: wires.waker(0),
            requests: Requests::new(wires.waker(0)),
            drives: [drive(&self.drives[0]), drive(&self.drives[1])],
            r: Registers::default(),
            command: Command::default(),
            generation: 0,
            in_flight: false,
            paused: false,
        }))
    }
}

/// Registers beside the command under way.
#[derive(Clone, Debug, PartialEq)]
struct Registers {
    dor: u8,
    tape: u8,
    /// Data rate.
    rate: u8,
    interrupt: bool,
    /// Drives that have not yet said what a reset did to them.
    reset_pending: u8,
    /// Status register 0 of a seek that has ended, and its drive.
    seek: Option<u8>,
    specify: [u8; 2],
    configure: [u8; 2],
    perpendicular: u8,
    locked: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            dor: dor::RUN | dor::DMA,
            tape: 0,
            rate: 2,
            interrupt: false,
            reset_pending: 0,
            seek: None,
            specify: [0; 2],
            configure: [0x20, 0],
            perpendicular: 0,
            locked: false,
        }
    }
}

/// The controller at work; reached through [`Device::as_any`] by whoever changes diskettes.
pub struct FloppyController {
    irq: IrqLine,
    memory: Dma,
    channels: IsaDma,
    waker: Waker,
    requests: Requests,
    drives: [Drive; 2],
    r: Registers,
    command: Command,
    generation: u64,
    in_flight: bool,
    paused: bool,
}

impl Slots for FloppyController {
    fn with_slot(&mut self, unit: usize, f: &mut dyn FnMut(&mut dyn Slot)) -> bool {
        self.drives.get_mut(unit).filter(|drive| drive.there).map(|drive| f(drive)).is_some()
    }
}

/// Diskettes are pulled out by hand.
impl Slot for Drive {
    fn tray(&self) -> Option<Tray> {
        None
    }

    fn open(&mut self, _force: bool) -> bool {
        true
    }

    fn shut(&mut self) {}

    fn is_loaded(&self) -> bool {
        self.disk.is_some()
    }

    fn load(&mut self, disk: Option<Disk>) {
        (self.disk, self.changed) = (disk, true);
    }
}

impl FloppyController {
    fn selected(&self) -> usize {
        usize::from(self.r.dor & 1)
    }

    fn update_line(&self) {
        self.irq.set(self.line_level());
    }

    fn line_level(&self) -> bool {
        self.r.interrupt && self.r.dor & dor::DMA != 0
    }

    fn set_interrupt(&mut self, level: bool) {
        self.r.interrupt = level;
        self.update_line();
    }

    /// The controller's own reset, by its register.
    fn restart(&mut self) {
        self.generation += 1;
        self.in_flight = false;
        self.command = Command::default();
        if !self.r.locked {
            self.r.configure = [0x20, 0];
        }
        (self.r.perpendicular, self.r.seek) = (0, None);
        self.r.reset_pending = 4;
    }

    fn main_status(&self) -> u8 {
        if self.r.dor & dor::RUN == 0 {
            return 0;
        }
        self.command.status(self.r.specify[1] & 1 != 0)
    }

    fn write_dor(&mut self, value: u8) {
        let before = std::mem::replace(&mut self.r.dor, value);
        if (before ^ value) & dor::RUN != 0 {
            if value & dor::RUN == 0 {
                self.restart();
                self.r.interrupt = false;
            } else {
                self.r.interrupt = true;
            }
        }
        self.update_line();
    }

    fn digital_input(&self) -> u8 {
        // Only a drive whose motor runs tells.
        let unit = self.selected();
        let running = self.r.dor & 0x10 << unit != 0;
        let drive = &self.drives[unit];
        if running && drive.there && (drive.changed || drive.disk.is_none()) { 0x80 } else { 0 }
    }
}

impl Device for FloppyController {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match (region, offset) {
            (1, _) => self.digital_input(),
            // Status A: interrupt pending, second drive missing. Status B: motors and selection.
            (_, 0) => u8::from(self.r.interrupt) << 7 | u8::from(!self.drives[1].there) << 6,
            (_, 1) => 0xc0 | self.r.dor >> 4 & 3 | (self.r.dor & 1) << 5,
            (_, 2) => self.r.dor,
            (_, 3) => self.r.tape,
            (_, 4) => self.main_status(),
            _ => self.read_fifo(),
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        match (region, offset) {
            (1, _) => self.r.rate = value & 3,
            (_, 2) => self.write_dor(value),
            (_, 3) => self.r.tape = value & 3,
            (_, 4) => {
                self.r.rate = value & 3;
                if value & 0x80 != 0 && self.r.dor & dor::RUN != 0 {
                    self.restart();
                    self.set_interrupt(true);
                }
            }
            (_, 5) => self.write_fifo(value),
            _ => return Access::ReadOnly,
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.restart();
        self.r = Registers::default();
        for drive in &mut self.drives {
            (drive.track, drive.changed) = (0, true);
        }
        self.update_line();
    }

    fn wake(&mut self, _id: usize) {
        self.poll();
        self.work();
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.requests.drain();
        self.poll();
    }

    fn resume(&mut self) {
        self.paused = false;
        self.work();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}
