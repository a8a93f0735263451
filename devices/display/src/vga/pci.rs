//! The VGA on the PCI bus: base address register 0 is the frame buffer, 2 the MMIO window. The parts that every PC knows
//! are where they always are while the function decodes memory and ports.

use std::any::Any;

use ::pci::config_space::{command, reg, touches};
use ::pci::{BarKind, FIXED, Function, FunctionSpec, PciConfig, PciDevice, Place, class};
use device::{
    Access, AccessRule, BuildError, Device, Display, RamSpec, RegionSpec, ResetKind, StateBlob, StateError,
    Wires, device_config,
};

use super::{MMIO, PORTS, Part, VRAM, Vga, edid, memory_or_default};

/// Where the parts are that every PC knows.
const PLACES: [Place; 3] = [Place::Memory(0xa_0000), Place::Ports(PORTS.0), Place::Ports(0x1ce)];
const MMIO_BAR: usize = 2;

device_config! {
    /// Standard VGA.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct VgaConfig {
        /// Video memory in MiB, a power of two; 0 for the 256 KiB of the original.
        pub vgamem_mb: u32 = 16,
        /// Whether the card describes a monitor to the guest.
        pub edid: bool = true,
        /// Width of that monitor in pixels.
        pub xres: u32 = 1280,
        /// Its height.
        pub yres: u32 = 800,
    }
}

impl PciConfig for VgaConfig {
    const KIND: &'static str = "VGA";
    const HELP: &'static str = "standard VGA with Bochs VBE";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let size = memory_or_default(self.vgamem_mb);
        FunctionSpec::new(0x1234, 0x1111, class::VGA).revision(2).pin(0).bar(0, size, BarKind::Ram(VRAM)).bar(
            MMIO_BAR,
            MMIO,
            BarKind::Memory(AccessRule::UP_TO_4),
        )
    }

    fn fixed_regions(&self) -> Vec<RegionSpec> {
        Part::LEGACY.map(Part::region).to_vec()
    }

    fn rams(&self) -> Vec<RamSpec> {
        vec![RamSpec::new(VRAM, memory_or_default(self.vgamem_mb))]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        for (name, value, range) in [("xres", self.xres, edid::WIDTHS), ("yres", self.yres, edid::HEIGHTS)] {
            if !range.contains(&value) {
                let (least, most) = (range.start(), range.end());
                return Err(wires.bad_property(name, format!("expected {least} to {most}, got {value}")));
            }
        }
        let mut vga = Vga::new(self.vgamem_mb, wires)?;
        vga.monitor = self.edid.then(|| edid::block(self.xres, self.yres));
        Ok(Box::new(PciVga { vga, function }))
    }
}

struct PciVga {
    vga: Vga,
    function: Function,
}

impl PciVga {
    fn part(region: usize) -> Option<Part> {
        match region.checked_sub(FIXED) {
            None => (region == MMIO_BAR).then_some(Part::Mmio),
            Some(fixed) => Part::LEGACY.get(fixed).copied(),
        }
    }

    fn place(&self) {
        let enabled = self.function.config_u16(reg::COMMAND);
        for (i, place) in PLACES.into_iter().enumerate() {
            let bit = if matches!(place, Place::Memory(_)) { command::MEMORY } else { command::IO };
            self.function.place(i, (enabled & bit != 0).then_some(place));
        }
    }
}

impl Device for PciVga {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        Self::part(region).map_or(Access::NoRegister, |part| self.vga.read_part(part, offset, data))
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        Self::part(region).map_or(Access::NoRegister, |part| self.vga.write_part(part, offset, data))
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.vga.restart();
    }

    fn save(&self) -> StateBlob {
        self.vga.save_state(VgaConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.vga.restore_state(VgaConfig::KIND, state)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(&mut self.vga)
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(&mut self.vga)
    }
}

impl PciDevice for PciVga {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, reg::COMMAND, 2) {
            self.place();
        }
    }

    fn config_restored(&mut self) {
        self.place();
    }
}
