//! Cirrus Logic CL-GD5446 (Technical Reference Manual): the VGA with packed modes of 8 to 32 bits, a BitBLT engine and a cursor.
//!
//! Base address register 0 is video memory, and from 16 MiB on the place where the CPU writes what a BitBLT takes as its source; so it
//! may at the window at 0xa0000 too. Register 1 has the VGA's ports and the engine's registers. Not there: the video overlay, lines,
//! BitBLTs to the CPU, and write modes 4 and 5 at the linear frame buffer.

mod blit;
mod engine;
mod registers;
mod rop;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::any::Any;

use ::pci::config_space::{command, reg, touches};
use ::pci::{BarKind, FIXED, Function, FunctionSpec, PciConfig, PciDevice, Place, class};
use device::{
    Access, AccessRule, BuildError, Device, Display, RamSpec, Rect, RegionSpec, ResetKind, StateBlob,
    StateError, Surface, TextScreen, Wires, device_config, le_fill, le_value,
};

use super::{PORTS, Part, VRAM, Vga};
use engine::Pending;
use registers::Extended;

/// Vendor and device.
const CIRRUS: u16 = 0x1013;
const GD5446: u16 = 0x00b8;

const MEGABYTES: u32 = 4;
const MEMORY_BAR: u64 = 32 << 20;
/// Where in it the CPU writes to the engine.
const SOURCE: u64 = 16 << 20;
const SOURCE_SIZE: u64 = 4 << 20;
const REGISTERS_BAR: usize = 1;
const REGISTERS_SIZE: u64 = 4096;
/// In that: the ports from 0x3c0, then the engine's registers.
const ENGINE: u64 = 0x100;

device_config! {
    /// Cirrus CL-GD5446.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct CirrusConfig {}
}

impl PciConfig for CirrusConfig {
    const KIND: &'static str = "cirrus-vga";
    const HELP: &'static str = "Cirrus CL-GD5446 VGA";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(CIRRUS, GD5446, class::VGA).pin(0).bar(0, MEMORY_BAR, BarKind::Ram(VRAM)).bar(
            REGISTERS_BAR,
            REGISTERS_SIZE,
            BarKind::Memory(AccessRule::UP_TO_4),
        )
    }

    fn fixed_regions(&self) -> Vec<RegionSpec> {
        let any = AccessRule { min: 1, max: 4, unaligned: true };
        vec![Part::Window.region(), Part::Ports.region(), RegionSpec::new("source", SOURCE_SIZE, any)]
    }

    fn rams(&self) -> Vec<RamSpec> {
        vec![RamSpec::new(VRAM, u64::from(MEGABYTES) << 20)]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let vga = Vga::new(MEGABYTES, wires)?;
        Ok(Box::new(Cirrus { vga, x: Extended::default(), pending: None, function }))
    }
}

struct Cirrus {
    vga: Vga,
    x: Extended,
    pending: Option<Pending>,
    function: Function,
}

impl Cirrus {
    /// Places what is not found by a base address register alone.
    fn place(&self) {
        let enabled = self.function.config_u16(reg::COMMAND);
        let memory = enabled & command::MEMORY != 0;
        let base = u64::from(self.function.config_u32(reg::BAR) & !15);
        let source = memory && base != 0 && base < u64::from(u32::MAX) - MEMORY_BAR;
        for (i, place) in [
            memory.then_some(Place::Memory(0xa_0000)),
            (enabled & command::IO != 0).then_some(Place::Ports(PORTS.0)),
            source.then_some(Place::Memory(base + SOURCE)),
        ]
        .into_iter()
        .enumerate()
        {
            self.function.place(i, place);
        }
    }

    fn read_registers(&mut self, offset: u64) -> u8 {
        match offset {
            0..0x20 => self.read_port(0x3c0 + offset as u16),
            ENGINE..0x200 => self.read_mapped(offset - ENGINE),
            _ => 0xff,
        }
    }

    fn write_registers(&mut self, offset: u64, value: u8) {
        match offset {
            0..0x20 => self.write_port(0x3c0 + offset as u16, value),
            ENGINE..0x200 => self.write_mapped(offset - ENGINE, value),
            _ => {}
        }
    }
}

/// Regions: the window, the ports and the source are fixed ones.
const WINDOW: usize = FIXED;
const PORTS_REGION: usize = FIXED + 1;
const SOURCE_REGION: usize = FIXED + 2;

impl Device for Cirrus {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        match region {
            WINDOW => self.read_window(offset, data),
            PORTS_REGION => le_fill(data, self.read_port(PORTS.0 + offset as u16).into()),
            REGISTERS_BAR => {
                (offset..).zip(data).for_each(|(at, byte)| *byte = self.read_registers(at));
            }
            // Nothing comes back from there.
            _ => data.fill(0xff),
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match region {
            WINDOW => self.write_window(offset, data),
            PORTS_REGION => self.write_port(PORTS.0 + offset as u16, le_value(data) as u8),
            REGISTERS_BAR => {
                (offset..).zip(data).for_each(|(at, byte)| self.write_registers(at, *byte));
            }
            SOURCE_REGION => engine::feed(&mut self.x.gr, &mut self.pending, data, self.vga.frame_buffer()),
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.vga.restart();
        (self.x, self.pending) = (Extended::default(), None);
        self.follow();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(self)
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for Cirrus {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, reg::COMMAND, 2) || touches(at, len, reg::BAR, 4) {
            self.place();
        }
    }

    fn config_restored(&mut self) {
        self.place();
    }
}

impl Display for Cirrus {
    fn refresh(&mut self, surface: &mut Surface, all: bool) -> Option<Rect> {
        // The cursor's shape is in video memory.
        self.follow();
        self.vga.draw(surface, all)
    }

    fn text(&mut self) -> Option<TextScreen> {
        self.vga.read_text()
    }
}
