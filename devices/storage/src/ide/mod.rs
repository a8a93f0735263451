//! The IDE function of Intel's PIIX3 and PIIX4 (82371AB datasheet, chapter 5): two channels at the places every PC knows,
//! and a bus master.
//!
//! Fixed regions: command and control block of the first channel, then of the second. Base address register 4 is the bus
//! master.

mod bus_master;
mod channel;
mod isa;
mod state;
#[cfg(test)]
mod tests;

use std::any::Any;

use block::Disk;
use device::{
    Access, AccessRule, BuildError, Device, PinSpec, Properties, Property, PropertyError, RegionSpec,
    ResetKind, StateBlob, StateError, Wires, le_fill, le_value,
};
use pci::{BarKind, ConfigSpace, FIXED, Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

use crate::ata::{AtaDisk, Identity};
use crate::media::{Slot, Slots};
use crate::requests::Requests;
use crate::scsi::{Cd, Medium, Sense, TrayListener};
pub(crate) use channel::{Channel, Drive, packet_device};
pub use isa::IsaIdeConfig;
pub(crate) use state::{DriveV1, restore_drive, save_drive};

/// Device ids.
const PIIX3: u16 = 0x7010;
const PIIX4: u16 = 0x7111;
/// Timing registers of the channels, whose high bit enables decoding.
const TIMING: [usize; 2] = [0x40, 0x42];

/// The first channel's command block, its control port, and the second's.
pub const IDE_PORTS: [u16; 4] = [0x1f0, 0x3f6, 0x170, 0x376];
/// Interrupts of the two channels on a PC.
pub const IDE_IRQS: [u32; 2] = [14, 15];
/// The base address register of the bus master.
const MASTER_BAR: usize = 4;

/// A drive to hang on a controller.
#[derive(Clone, Debug)]
pub struct IdeDrive {
    /// The disk, or what is in the CD-ROM drive.
    pub disk: Option<Disk>,
    /// It is a CD-ROM drive.
    pub cd: bool,
    /// Serial number; the controller makes one up if there is none.
    pub serial: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Firmware version.
    pub version: Option<String>,
    /// World-wide name; 0 for none.
    pub wwn: u64,
    /// Revolutions per minute; 1 for none at all, 0 if unknown.
    pub rotation: u16,
    /// Told of the tray of a CD-ROM drive.
    pub tray: TrayListener,
}

impl IdeDrive {
    /// A disk.
    pub fn disk(disk: Disk) -> Self {
        Self { disk: Some(disk), ..Self::cd(None) }.with_cd(false)
    }

    /// A CD-ROM drive, with what is in it.
    pub fn cd(disk: Option<Disk>) -> Self {
        IdeDrive {
            disk,
            cd: true,
            serial: None,
            model: None,
            version: None,
            wwn: 0,
            rotation: 0,
            tray: TrayListener::default(),
        }
    }

    fn with_cd(mut self, cd: bool) -> Self {
        self.cd = cd;
        self
    }

    /// The drive as number `unit` of its controller.
    pub(crate) fn build(&self, unit: usize, queue: u16) -> Drive {
        let text = |own: &Option<String>, default: &str| own.clone().unwrap_or_else(|| default.to_owned());
        let model = if self.cd { "Rhea DVD-ROM" } else { "Rhea HARDDISK" };
        let identity = Identity {
            serial: self.serial.clone().unwrap_or_else(|| format!("RH{:05}", unit + 1)),
            model: text(&self.model, model),
            version: text(&self.version, "1.0"),
            wwn: self.wwn,
            rotation: self.rotation,
            queue,
            physical_exponent: 0,
        };
        match &self.disk {
            disk if self.cd => {
                let cd = Cd {
                    medium: Medium::new(disk.clone(), self.tray.clone()),
                    sense: Sense::NONE,
                    product: identity.model.clone(),
                    version: identity.version.clone(),
                    serial: identity.serial.clone(),
                    atapi: true,
                    was_reset: false,
                };
                Drive::Cd { cd, identity, mode: 0x45 }
            }
            Some(disk) => Drive::Disk(AtaDisk::new(disk.clone(), identity)),
            None => Drive::Empty,
        }
    }
}

/// The function: up to two drives on each of two channels.
#[derive(Clone, Debug, Default)]
pub struct PiixIde<const DEVICE: u16> {
    /// First and second drive of the first channel, then of the second.
    pub drives: [Option<IdeDrive>; 4],
}

/// The function of a PIIX3.
pub type Piix3IdeConfig = PiixIde<PIIX3>;
/// The function of a PIIX4.
pub type Piix4IdeConfig = PiixIde<PIIX4>;

impl<const DEVICE: u16> Properties for PiixIde<DEVICE> {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: "none".to_owned() })
    }
}

/// Widths of a command block: its data register takes up to 32 bits.
const COMMAND_BLOCK: AccessRule = AccessRule { min: 1, max: 4, unaligned: false };

/// Command and control block of two channels.
fn blocks() -> Vec<RegionSpec> {
    let channel = |name: &str| {
        [
            RegionSpec::new(format!("{name}.command"), 8, COMMAND_BLOCK),
            RegionSpec::new(format!("{name}.control"), 1, AccessRule::BYTE),
        ]
    };
    [channel("ide0"), channel("ide1")].concat()
}

/// Two channels with their drives.
fn channels(drives: &[Option<IdeDrive>; 4], wires: &mut Wires) -> Result<[Channel; 2], BuildError> {
    let dma = wires.dma()?;
    let irqs = wires.lines("irq", 2);
    Ok([0, 1].map(|i| {
        let drive = |unit: usize| match &drives[unit] {
            Some(drive) => drive.build(unit, 0),
            None => Drive::Empty,
        };
        let drives = [drive(2 * i), drive(2 * i + 1)];
        let irq = irqs.get(i).cloned().unwrap_or_default();
        Channel::new(drives, irq, dma.clone(), Requests::new(wires.waker(i)))
    }))
}

impl<const DEVICE: u16> PciConfig for PiixIde<DEVICE> {
    const KIND: &'static str = if DEVICE == PIIX4 { "piix4-ide" } else { "piix3-ide" };
    const HELP: &'static str = "IDE controller with two channels and bus master";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let rule = AccessRule { min: 1, max: 4, unaligned: true };
        FunctionSpec::new(INTEL, DEVICE, class::IDE).pin(0).bar(MASTER_BAR, 16, BarKind::Ports(rule))
    }

    fn fixed_regions(&self) -> Vec<RegionSpec> {
        blocks()
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("irq", 2)]
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        for at in TIMING {
            space.set_u16(at, 0x8000);
            space.allow(at, &[0xff; 2]);
        }
    }

    fn build(self, _function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let channels = channels(&self.drives, wires)?;
        Ok(Box::new(IdeController { kind: Self::KIND, channels }))
    }
}

/// The controller; reached through [`Device::as_any`] by whoever changes discs.
pub struct IdeController {
    kind: &'static str,
    channels: [Channel; 2],
}

impl Slots for IdeController {
    fn with_slot(&mut self, unit: usize, f: &mut dyn FnMut(&mut dyn Slot)) -> bool {
        let medium = self.channels.get_mut(unit / 2).and_then(|channel| channel.medium(unit % 2));
        medium.map(|medium| f(medium)).is_some()
    }
}

impl Device for IdeController {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        if region == MASTER_BAR {
            for (at, byte) in (offset..).zip(data) {
                let channel = usize::from(at >= 8);
                *byte = self.channels[channel].master.read(at % 8);
            }
            return Access::Ok;
        }
        let (channel, control) = ((region - FIXED) / 2, (region - FIXED) % 2 == 1);
        let channel = &mut self.channels[channel];
        if control {
            le_fill(data, channel.alternate_status().into());
        } else if offset == 0 {
            channel.read_data(data);
        } else {
            for (at, byte) in (offset..).zip(data) {
                *byte = channel.read_register(at);
            }
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        if region == MASTER_BAR {
            for (at, byte) in (offset..).zip(data) {
                let channel = usize::from(at >= 8);
                self.channels[channel].write_master(at % 8, *byte);
            }
            return Access::Ok;
        }
        let (channel, control) = ((region - FIXED) / 2, (region - FIXED) % 2 == 1);
        let channel = &mut self.channels[channel];
        if control {
            channel.write_control(le_value(data) as u8);
        } else if offset == 0 {
            channel.write_data(data);
        } else {
            (offset..).zip(data).for_each(|(at, byte)| channel.write_register(at, *byte));
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.channels.iter_mut().for_each(Channel::reset);
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn wake(&mut self, id: usize) {
        if let Some(channel) = self.channels.get_mut(id) {
            channel.poll();
            channel.work();
        }
    }

    fn quiesce(&mut self) {
        self.channels.iter_mut().for_each(Channel::quiesce);
    }

    fn resume(&mut self) {
        self.channels.iter_mut().for_each(Channel::resume);
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for IdeController {}
