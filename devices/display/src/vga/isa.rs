//! The VGA on the ISA bus: the parts that every PC knows, the frame buffer only through the window.

use std::any::Any;

use device::{
    Access, BuildError, Device, DeviceConfig, Display, RamSpec, RegionSpec, ResetKind, StateBlob, StateError,
    Wires, device_config,
};

use super::{Part, VRAM, Vga, memory_or_default};

device_config! {
    /// Standard VGA on the ISA bus.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct IsaVgaConfig {
        /// Video memory in MiB, a power of two; 0 for the 256 KiB of the original.
        pub vgamem_mb: u32 = 8,
    }
}

impl DeviceConfig for IsaVgaConfig {
    const KIND: &'static str = "isa-vga";
    const HELP: &'static str = "standard VGA with Bochs VBE";

    fn regions(&self) -> Vec<RegionSpec> {
        Part::LEGACY.map(Part::region).to_vec()
    }

    fn rams(&self) -> Vec<RamSpec> {
        vec![RamSpec::new(VRAM, memory_or_default(self.vgamem_mb))]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(IsaVga(Vga::new(self.vgamem_mb, wires)?)))
    }
}

struct IsaVga(Vga);

impl Device for IsaVga {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        match Part::LEGACY.get(region) {
            Some(part) => self.0.read_part(*part, offset, data),
            None => Access::NoRegister,
        }
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match Part::LEGACY.get(region) {
            Some(part) => self.0.write_part(*part, offset, data),
            None => Access::NoRegister,
        }
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.0.restart();
    }

    fn save(&self) -> StateBlob {
        self.0.save_state(IsaVgaConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.0.restore_state(IsaVgaConfig::KIND, state)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(&mut self.0)
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(&mut self.0)
    }
}
