//! The hot plug controller of the `pc` board's PCI bus, at port 0xae00: for each slot a bit of what has come and what is asked
//! back, and a register by which the guest lets go.
//!
//! QEMU `docs/specs/acpi_pci_hotplug`. The board's DSDT has methods that use it; the guest runs them on general-purpose event
//! 1, which output `gpe` raises.

use std::any::Any;

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, IrqLine, PinSpec, Properties, Property,
    PropertyError, RegionSpec, ResetKind, StateBlob, StateError, Wires, le_fill, le_value,
};
use pci::{BusId, Fabric};

/// The controller.
#[derive(Clone, Debug)]
pub struct PciHotplugConfig {
    /// The buses; the root bus has slots.
    pub fabric: Fabric,
}

impl Default for PciHotplugConfig {
    fn default() -> Self {
        PciHotplugConfig { fabric: Fabric::new("pci.0", false) }
    }
}

impl Properties for PciHotplugConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

mod reg {
    /// What has come; cleared by reading.
    pub(super) const UP: u64 = 0x00;
    /// What is asked back.
    pub(super) const DOWN: u64 = 0x04;
    /// Written: the guest lets go of a slot.
    pub(super) const EJECT: u64 = 0x08;
    /// Slots that can be emptied.
    pub(super) const REMOVABLE: u64 = 0x0c;
    /// Number of the bus that the others are about.
    pub(super) const BUS: u64 = 0x10;
    pub(super) const SIZE: u64 = 0x14;
}

impl DeviceConfig for PciHotplugConfig {
    const KIND: &'static str = "acpi-pci-hotplug";
    const HELP: &'static str = "ACPI PCI hot plug controller";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", reg::SIZE, AccessRule::DWORD)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("gpe")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(PciHotplug { fabric: self.fabric, gpe: wires.line("gpe"), s: V1::default() }))
    }
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => up: u32, 2 => down: u32, 3 => bus: u32 }
}

/// The controller as who plugs devices sees it.
pub struct PciHotplug {
    fabric: Fabric,
    gpe: IrqLine,
    s: V1,
}

impl PciHotplug {
    /// A device has been plugged into a slot.
    pub fn plugged(&mut self, slot: u8) {
        self.s.up |= 1 << (slot & 31);
        self.gpe.pulse();
    }

    /// Asks the guest to let go of what is in a slot.
    pub fn ask(&mut self, slot: u8) {
        self.s.down |= 1 << (slot & 31);
        self.gpe.pulse();
    }

    fn eject(&mut self, slot: u8) {
        self.s.up &= !(1 << slot);
        self.s.down &= !(1 << slot);
        self.fabric.eject(BusId::ROOT, slot);
    }

    /// Whether the other registers are about the bus with slots.
    fn selected(&self) -> bool {
        self.s.bus == 0
    }
}

impl Device for PciHotplug {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match offset {
            reg::BUS => self.s.bus,
            _ if !self.selected() => 0,
            reg::UP => std::mem::take(&mut self.s.up),
            reg::DOWN => self.s.down,
            reg::REMOVABLE => self.fabric.removable_slots(BusId::ROOT),
            _ => 0,
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match offset {
            reg::BUS => self.s.bus = value,
            // One slot at a time, the lowest.
            reg::EJECT if value != 0 && self.selected() => self.eject(value.trailing_zeros() as u8),
            reg::EJECT => {}
            _ => return Access::ReadOnly,
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        // A guest that starts over does not hold anything.
        for slot in (0..32).filter(|slot| self.s.down >> slot & 1 != 0) {
            self.fabric.eject(BusId::ROOT, slot);
        }
        self.s = V1::default();
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(PciHotplugConfig::KIND, 1, &self.s)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.s = state.decode(PciHotplugConfig::KIND, 1)?;
        Ok(())
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}
