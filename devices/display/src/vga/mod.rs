//! The standard VGA: IBM's VGA (Technical Reference, "Video Graphics Array") with the extensions of the Bochs VBE
//! interface (`vbe_display_api.txt`) and QEMU's MMIO window (`docs/specs/standard-vga`).
//!
//! Region 0 is the window at 0xa0000, region 1 the ports from 0x3b0, region 2 those of the extensions from 0x1ce,
//! region 3 the MMIO window. The frame buffer is RAM ([`Vga::frame_buffer`]), which boards with a bus that has room
//! for it map as such.
//!
//! Byte `p` of each group of four in that RAM is plane `p`, whatever the mode, so that text, planar and packed modes
//! are views of one layout.

mod memory;
mod registers;
mod render;
mod state;
mod vbe;

use std::any::Any;
use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, Display, Rect, RegionSpec, ResetKind,
    StateBlob, StateError, Surface, TextScreen, Wires, device_config, le_fill, le_value,
};
use guest_memory::{DirtyClient, RamBlock};

use registers::Registers;
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

device_config! {
    /// Standard VGA.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct VgaConfig {
        /// Video memory in MiB, a power of two; 0 for the 256 KiB of the original.
        pub vgamem_mb: u32 = 16,
    }
}

impl DeviceConfig for VgaConfig {
    const KIND: &'static str = "VGA";
    const HELP: &'static str = "standard VGA with Bochs VBE";

    fn regions(&self) -> Vec<RegionSpec> {
        let window = AccessRule { min: 1, max: 4, unaligned: true };
        let words = AccessRule { min: 1, max: 2, unaligned: true };
        vec![
            RegionSpec::new("window", WINDOW, window),
            RegionSpec::new("ports", PORTS.1, AccessRule::BYTE),
            RegionSpec::new("vbe", 4, words),
            RegionSpec::new("mmio", MMIO, AccessRule::UP_TO_4),
        ]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(Vga::new(&self, wires)?))
    }
}

/// The card.
pub struct Vga {
    vram: Arc<RamBlock>,
    clock: Clock,
    r: Registers,
    vbe: Vbe,
    /// A register that the picture depends on has changed.
    changed: bool,
}

impl Vga {
    /// A card after power-on.
    pub fn new(config: &VgaConfig, wires: &Wires) -> Result<Self, BuildError> {
        let size = match config.vgamem_mb {
            0 => 256 << 10,
            mb if mb.is_power_of_two() && mb <= 256 => u64::from(mb) << 20,
            _ => return Err(wires.bad_property("vgamem_mb", "expected 0 or a power of two up to 256")),
        };
        let vram = RamBlock::anonymous(format!("{}/vram", wires.path()), size)
            .map_err(|e| wires.host_error(e.to_string()))?;
        vram.dirty().start(DirtyClient::Display);
        let vbe = Vbe::new(size);
        Ok(Vga { vram, clock: wires.clock(), r: Registers::default(), vbe, changed: true })
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
            // No description of a monitor.
            _ => data.fill(0),
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

impl Device for Vga {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        match region {
            0 => self.read_window(offset, data),
            1 => le_fill(data, self.read_port(PORTS.0 + offset as u16).into()),
            2 => le_fill(
                data,
                match offset {
                    0 => self.vbe.index.into(),
                    _ => self.vbe.read(self.vbe.index).into(),
                },
            ),
            _ => return self.read_mmio(offset, data),
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match (region, offset, data.len()) {
            (0, ..) => self.write_window(offset, data),
            (1, ..) => self.write_port(PORTS.0 + offset as u16, le_value(data) as u8),
            (2, 0, _) => self.vbe.index = le_value(data) as u16,
            (2, 1 | 2, 2) => self.write_vbe(self.vbe.index, le_value(data) as u16),
            (2, ..) => return Access::BadSize,
            _ => return self.write_mmio(offset, data),
        }
        Access::Ok
    }

    fn reset(&mut self, kind: ResetKind) {
        self.r = Registers::default();
        self.vbe = Vbe::new(self.vram.size());
        self.changed = true;
        if kind == ResetKind::Cold {
            // Cannot fail: it is the whole block.
            let _ = self.vram.fill(0, self.vram.size(), 0);
        }
    }

    fn save(&self) -> StateBlob {
        self.save_state()
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.restore_state(state)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(self)
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
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
