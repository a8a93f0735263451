//! Two IDE channels on an ISA bus, without a bus master: what PCs had before PCI (ATA/ATAPI-7 volume 2).
//!
//! Regions: command and control block of the first channel, then of the second.

use std::any::Any;

use device::{
    Access, BuildError, Device, DeviceConfig, PinSpec, Properties, Property, PropertyError, RegionSpec,
    ResetKind, StateBlob, StateError, Wires,
};
use pci::FIXED;

use super::{IdeController, IdeDrive, channels};

/// The controllers with up to two drives on each of two channels.
#[derive(Clone, Debug, Default)]
pub struct IsaIdeConfig {
    /// First and second drive of the first channel, then of the second.
    pub drives: [Option<IdeDrive>; 4],
}

impl Properties for IsaIdeConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: "none".to_owned() })
    }
}

impl DeviceConfig for IsaIdeConfig {
    const KIND: &'static str = "isa-ide";
    const HELP: &'static str = "IDE controllers on an ISA bus, two channels";

    fn regions(&self) -> Vec<RegionSpec> {
        super::blocks()
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("irq", 2)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let channels = channels(&self.drives, wires)?;
        Ok(Box::new(IsaIde(IdeController { kind: Self::KIND, channels })))
    }
}

/// A controller whose registers begin with region 0.
struct IsaIde(IdeController);

impl Device for IsaIde {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        self.0.read(FIXED + region, offset, data)
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        self.0.write(FIXED + region, offset, data)
    }

    fn reset(&mut self, kind: ResetKind) {
        self.0.reset(kind);
    }

    fn save(&self) -> StateBlob {
        self.0.save()
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.0.restore(state)
    }

    fn wake(&mut self, id: usize) {
        self.0.wake(id);
    }

    fn quiesce(&mut self) {
        self.0.quiesce();
    }

    fn resume(&mut self) {
        self.0.resume();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(&mut self.0)
    }
}
