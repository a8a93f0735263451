//! The host's side of a fabric: configuration mechanism 1 in port space, and the memory-mapped mechanism (ECAM).
//!
//! PCI Local Bus Specification 3.0, 3.2.2.3.2; PCI Express Base Specification 3.0, 7.2.2. The reset control register of PC
//! chipsets (port 0xcf9) lies inside the address register and answers to bytes only (Intel 82371SB, 2.5.4).

use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, IoHandler, Properties, Property, PropertyError,
    RegionSpec, ResetKind, StateBlob, StateError, SystemControl, SystemRequest, Wires, le_fill, le_value,
};

use crate::fabric::Fabric;

/// The registers at ports 0xcf8 and 0xcfc.
#[derive(Clone, Debug)]
pub struct PciHostConfig {
    /// The buses behind it.
    pub fabric: Fabric,
}

impl Default for PciHostConfig {
    fn default() -> Self {
        PciHostConfig { fabric: Fabric::new("pci.0", false) }
    }
}

impl Properties for PciHostConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

/// Region of the address register, at port 0xcf8.
const ADDRESS: usize = 0;
/// Address register: configuration cycles are on.
const ENABLE: u32 = 1 << 31;
/// Reset control: reset the whole machine rather than the processor.
const RESET_HARD: u8 = 1 << 1;
/// Reset control: rising, it resets.
const RESET_NOW: u8 = 1 << 2;

impl DeviceConfig for PciHostConfig {
    const KIND: &'static str = "pci-host";
    const HELP: &'static str = "PCI host bridge registers";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![
            RegionSpec::new("address", 4, AccessRule::UP_TO_4),
            RegionSpec::new("data", 4, AccessRule::UP_TO_4),
        ]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        self.fabric.connect(wires.spaces(), wires.system());
        Ok(Box::new(PciHost { fabric: self.fabric, address: 0, reset_control: 0, system: wires.system() }))
    }
}

struct PciHost {
    fabric: Fabric,
    address: u32,
    reset_control: u8,
    system: SystemControl,
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => address: u32, 2 => reset_control: u8 }
}

impl PciHost {
    /// Bus, function and register that a data access means.
    fn target(&self, offset: u64) -> Option<(u8, u8, u64)> {
        let a = self.address;
        (a & ENABLE != 0).then_some(((a >> 16) as u8, (a >> 8) as u8, u64::from(a & 0xfc) + offset))
    }
}

impl Device for PciHost {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        match (region, offset, data.len()) {
            (ADDRESS, 0, 4) => le_fill(data, self.address.into()),
            (ADDRESS, 1, 1) => le_fill(data, self.reset_control.into()),
            (ADDRESS, ..) => return Access::NoRegister,
            _ => match self.target(offset) {
                Some((bus, devfn, at)) => self.fabric.config_read(bus, devfn, at, data),
                None => data.fill(0xff),
            },
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match (region, offset, data.len()) {
            (ADDRESS, 0, 4) => self.address = le_value(data) as u32 & 0x80ff_fffc,
            (ADDRESS, 1, 1) => {
                let value = data.first().copied().unwrap_or(0);
                if value & RESET_NOW != 0 && self.reset_control & RESET_NOW == 0 {
                    self.system.request(SystemRequest::Reset);
                }
                self.reset_control = value & (RESET_HARD | RESET_NOW);
            }
            (ADDRESS, ..) => return Access::NoRegister,
            _ => {
                if let Some((bus, devfn, at)) = self.target(offset) {
                    self.fabric.config_write(bus, devfn, at, data);
                }
            }
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.address = 0;
        self.reset_control = 0;
    }

    fn save(&self) -> StateBlob {
        let state = V1 { address: self.address, reset_control: self.reset_control };
        StateBlob::new(PciHostConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(PciHostConfig::KIND, 1)?;
        self.address = s.address & 0x80ff_fffc;
        self.reset_control = s.reset_control & (RESET_HARD | RESET_NOW);
        Ok(())
    }
}

/// Size of the memory-mapped configuration space of one bus.
pub const ECAM_BUS: u64 = 1 << 20;

struct Ecam(Fabric);

impl IoHandler for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) -> Access {
        self.0.config_read((offset >> 20) as u8, (offset >> 12) as u8, offset & 0xfff, data);
        Access::Ok
    }

    fn write(&self, offset: u64, data: &[u8]) -> Access {
        self.0.config_write((offset >> 20) as u8, (offset >> 12) as u8, offset & 0xfff, data);
        Access::Ok
    }

    fn rule(&self) -> AccessRule {
        AccessRule::UP_TO_4
    }
}

/// The configuration spaces of all buses in memory, [`ECAM_BUS`] each: for host bridges that place it themselves.
pub fn ecam(fabric: &Fabric) -> Arc<dyn IoHandler> {
    Arc::new(Ecam(fabric.clone()))
}

/// A host bridge that is nothing but memory-mapped configuration spaces at a fixed place.
#[derive(Clone, Debug)]
pub struct PcieHostConfig {
    /// The buses behind it.
    pub fabric: Fabric,
    /// How many of them are reachable.
    pub buses: u16,
}

impl Default for PcieHostConfig {
    fn default() -> Self {
        PcieHostConfig { fabric: Fabric::new("pcie.0", true), buses: 256 }
    }
}

impl Properties for PcieHostConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

impl DeviceConfig for PcieHostConfig {
    const KIND: &'static str = "pcie-host";
    const HELP: &'static str = "PCI Express host bridge";

    fn regions(&self) -> Vec<RegionSpec> {
        let size = u64::from(self.buses.clamp(1, 256)) * ECAM_BUS;
        vec![RegionSpec::new("ecam", size, AccessRule::UP_TO_4)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        self.fabric.connect(wires.spaces(), wires.system());
        Ok(Box::new(PcieHost(Ecam(self.fabric))))
    }
}

struct PcieHost(Ecam);

impl Device for PcieHost {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        self.0.read(offset, data)
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        self.0.write(offset, data)
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(PcieHostConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(PcieHostConfig::KIND)
    }
}
