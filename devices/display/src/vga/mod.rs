//! The standard VGA: IBM's VGA (Technical Reference, "Video Graphics Array") with the extensions of the Bochs VBE
//! interface (`vbe_display_api.txt`) and QEMU's MMIO window (`docs/specs/standard-vga`).
//!
//! [`Vga`] is the card itself; on which bus it stands is [`isa`]'s and [`pci`]'s. [`cirrus`] is a chip that has more.
//!
//! Byte `p` of each group of four in that RAM is plane `p`, whatever the mode, so that text, planar and packed modes
//! are views of one layout.

mod cirrus;
mod cursor;
mod edid;
mod isa;
mod memory;
mod pci;
mod registers;
mod render;
mod state;
mod vbe;

use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, Clock, Display, Rect, RegionSpec, Surface, TextScreen, Wires, le_fill,
    le_value,
};
use guest_memory::{DirtyClient, RamBlock};

pub use self::cirrus::CirrusConfig;
pub use self::isa::IsaVgaConfig;
pub use self::pci::VgaConfig;
use cursor::Overlay;
use registers::Registers;
use render::Extension;
use vbe::Vbe;

/// Size of the window at 0xa0000.
const WINDOW: u64 = 128 << 10;
/// First port of region 1, and their number.
const PORTS: (u16, u64) = (0x3b0, 0x30);
/// Size of the MMIO window.
const MMIO: u64 = 4096;

/// Parts of the MMIO window.
mod mmio {
    /// Ports 0x3c0 to 0x3df.
    pub(super) const PORTS: u64 = 0x400;
    /// Registers of the extensions, 16 bits each.
    pub(super) const VBE: u64 = 0x500;
    /// Size of the part that QEMU added, then the byte order of the frame buffer.
    pub(super) const EXTENDED: u64 = 0x600;
}

const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

/// The card.
pub struct Vga {
    vram: Arc<RamBlock>,
    clock: Clock,
    r: Registers,
    vbe: Vbe,
    /// A register that the picture depends on has changed.
    changed: bool,
    /// What the MMIO window says of the monitor; nothing if there is no window, or if the user wants none.
    pub(crate) monitor: Option<[u8; edid::SIZE]>,
    /// What a chip with modes of its own makes of the registers.
    extension: Option<Extension>,
    overlay: Option<Overlay>,
}

/// Memory of the card, as the contract names it.
const VRAM: &str = "vram";

/// What of the card an access reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The window at 0xa0000.
    Window,
    /// The ports from 0x3b0.
    Ports,
    /// The ports of the extensions, from 0x1ce.
    Vbe,
    /// The MMIO window.
    Mmio,
}

impl Part {
    /// The parts that have their place on every PC.
    const LEGACY: [Part; 3] = [Part::Window, Part::Ports, Part::Vbe];

    fn region(self) -> RegionSpec {
        let window = AccessRule { min: 1, max: 4, unaligned: true };
        let words = AccessRule { min: 1, max: 2, unaligned: true };
        match self {
            Part::Window => RegionSpec::new("window", WINDOW, window),
            Part::Ports => RegionSpec::new("ports", PORTS.1, AccessRule::BYTE),
            Part::Vbe => RegionSpec::new("vbe", 4, words),
            Part::Mmio => RegionSpec::new("mmio", MMIO, AccessRule::UP_TO_4),
        }
    }
}

/// Bytes of video memory for so many MiB; nothing if that cannot be.
fn memory_size(mb: u32) -> Option<u64> {
    match mb {
        0 => Some(256 << 10),
        mb if mb.is_power_of_two() && mb <= 256 => Some(u64::from(mb) << 20),
        _ => None,
    }
}

/// The same, or some size: what cannot be is refused when the card is built.
fn memory_or_default(mb: u32) -> u64 {
    memory_size(mb).unwrap_or(16 << 20)
}

impl Vga {
    /// A card after power-on.
    fn new(megabytes: u32, wires: &Wires) -> Result<Self, BuildError> {
        let size = memory_size(megabytes)
            .ok_or_else(|| wires.bad_property("vgamem_mb", "expected 0 or a power of two up to 256"))?;
        let vram = wires.ram(VRAM)?;
        vram.dirty().start(DirtyClient::Display);
        let vbe = Vbe::new(size);
        Ok(Vga {
            vram,
            clock: wires.clock(),
            r: Registers::default(),
            vbe,
            changed: true,
            monitor: None,
            extension: None,
            overlay: None,
        })
    }

    /// The frame buffer.
    pub fn frame_buffer(&self) -> &Arc<RamBlock> {
        &self.vram
    }

    fn read_mmio(&mut self, offset: u64, data: &mut [u8]) -> Access {
        match (offset, data.len()) {
            (mmio::PORTS..0x420, _) => {
                let first = 0x3c0 + (offset - mmio::PORTS) as u16;
                for (port, byte) in (first..).zip(data) {
                    *byte = self.read_port(port);
                }
            }
            (mmio::VBE..0x516, 2) => {
                le_fill(data, self.vbe.read(((offset - mmio::VBE) / 2) as u16).into());
            }
            (mmio::EXTENDED, 4) => le_fill(data, 8),
            (0x604, 4) => le_fill(data, LITTLE_ENDIAN.into()),
            _ => {
                let monitor = self.monitor.as_ref().map_or(&[][..], |block| block);
                for (at, byte) in (offset as usize..).zip(data) {
                    *byte = monitor.get(at).copied().unwrap_or(0);
                }
            }
        }
        Access::Ok
    }

    fn write_mmio(&mut self, offset: u64, data: &[u8]) -> Access {
        match (offset, data.len()) {
            (mmio::PORTS..0x420, _) => {
                let first = 0x3c0 + (offset - mmio::PORTS) as u16;
                (first..).zip(data).for_each(|(port, byte)| self.write_port(port, *byte));
                Access::Ok
            }
            (mmio::VBE..0x516, 2) => {
                self.write_vbe(((offset - mmio::VBE) / 2) as u16, le_value(data) as u16);
                Access::Ok
            }
            (0x604, 4) if le_value(data) == u64::from(LITTLE_ENDIAN) => Access::Ok,
            (0x604, 4) => Access::Unimplemented,
            _ => Access::NoRegister,
        }
    }
}

impl Vga {
    pub(crate) fn read_part(&mut self, part: Part, offset: u64, data: &mut [u8]) -> Access {
        match part {
            Part::Window => self.read_window(offset, data),
            Part::Ports => le_fill(data, self.read_port(PORTS.0 + offset as u16).into()),
            Part::Vbe if offset == 0 => le_fill(data, self.vbe.index.into()),
            Part::Vbe => le_fill(data, self.vbe.read(self.vbe.index).into()),
            Part::Mmio => return self.read_mmio(offset, data),
        }
        Access::Ok
    }

    pub(crate) fn write_part(&mut self, part: Part, offset: u64, data: &[u8]) -> Access {
        match (part, offset, data.len()) {
            (Part::Window, ..) => self.write_window(offset, data),
            (Part::Ports, ..) => self.write_port(PORTS.0 + offset as u16, le_value(data) as u8),
            (Part::Vbe, 0, _) => self.vbe.index = le_value(data) as u16,
            (Part::Vbe, 1 | 2, 2) => self.write_vbe(self.vbe.index, le_value(data) as u16),
            (Part::Vbe, ..) => return Access::BadSize,
            (Part::Mmio, ..) => return self.write_mmio(offset, data),
        }
        Access::Ok
    }

    /// As after power-on, but for what is in memory.
    pub(crate) fn restart(&mut self) {
        self.r = Registers::default();
        self.vbe = Vbe::new(self.vram.size());
        self.changed = true;
    }
}

impl Display for Vga {
    fn refresh(&mut self, surface: &mut Surface, all: bool) -> Option<Rect> {
        self.draw(surface, all)
    }

    fn text(&mut self) -> Option<TextScreen> {
        self.read_text()
    }
}

#[cfg(test)]
mod tests;
