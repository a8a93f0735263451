//! Where functions go that are plugged while the machine runs, and whom their buses ask to give one back.
//!
//! The board of a machine leaves its places here when it is recorded. Whoever plugs finds a place, has the machine build the
//! function, and tells the guest; what the guest lets go of is taken from here.

use std::sync::Arc;

use chipset::PciHotplug;
use machine::{Machine, MachineError, Node};
use parking_lot::Mutex;
use pci::{BusId, Port};

use crate::PluggedPci;
use crate::pc::HOTPLUG;
use crate::pc::pci::Slots;

/// The places of a machine's board. Clones are the same places.
#[derive(Clone, Default)]
pub struct HotPlug(Arc<Mutex<Option<Slots>>>);

/// Why something cannot come or go.
#[derive(Debug, thiserror::Error)]
pub enum HotPlugError {
    /// There is no such bus.
    #[error("Bus '{0}' not found")]
    NoBus(String),
    /// What stands on the bus stays.
    #[error("Bus '{0}' does not support hotplugging")]
    Fixed(String),
    /// The device stays wherever it is.
    #[error("Device '{0}' does not support hotplugging")]
    FixedDevice(String),
    /// It is none of these.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Who tells the guest of a bus.
enum Teller {
    /// The controller of the root bus, by slot.
    Root(u8),
    /// A port.
    Port(String),
}

impl HotPlug {
    pub(crate) fn set(&self, slots: Slots) {
        *self.0.lock() = Some(slots);
    }

    fn teller(slots: &Slots, bus: BusId, devfn: u8) -> Teller {
        match slots.fabric.parent(bus) {
            None => Teller::Root(devfn >> 3),
            Some(_) => Teller::Port(slots.fabric.bus_name(bus).unwrap_or_default()),
        }
    }

    /// Whether what stands on a bus can come and go.
    fn check(slots: &Slots, machine: &Machine, bus: BusId) -> Result<(), HotPlugError> {
        let teller = Self::teller(slots, bus, 0);
        if slots.is_hotplug(bus) && tell(machine, &teller, |_| {}, |_| {}) {
            return Ok(());
        }
        Err(HotPlugError::Fixed(slots.fabric.bus_name(bus).unwrap_or_default()))
    }

    /// Whether a function can be plugged into a bus: the root bus if it has no name.
    pub fn accepts(&self, machine: &Machine, bus: Option<&str>) -> Result<(), HotPlugError> {
        let slots = self.0.lock();
        let Some(slots) = slots.as_ref() else { return Err(HotPlugError::NoBus("pci.0".into())) };
        Self::check(slots, machine, find(slots, bus)?)
    }

    /// Plugs a function and tells the guest, once it is a device's first function.
    pub fn plug(&self, machine: &Machine, p: &PluggedPci) -> Result<(), HotPlugError> {
        let mut slots = self.0.lock();
        let Some(slots) = slots.as_mut() else { return Err(HotPlugError::NoBus("pci.0".into())) };
        let bus = find(slots, p.bus.as_deref())?;
        Self::check(slots, machine, bus)?;
        let spec = p.function.function_spec();
        if spec.bridge || !p.function.rams().is_empty() {
            return Err(HotPlugError::FixedDevice(p.function.kind().into()));
        }
        let node: Node = slots.plug(p)?;
        let place = slots.find(&p.id);
        if let Err(e) = machine.plug(&node) {
            if let Some((bus, devfn)) = place {
                slots.leave(bus, devfn);
                slots.fabric.drop_function(bus, devfn);
            }
            return Err(e.into());
        }
        if let Some((bus, devfn)) = place.filter(|(_, devfn)| devfn & 7 == 0) {
            let teller = Self::teller(slots, bus, devfn);
            tell(machine, &teller, |(c, slot)| c.plugged(slot), Port::plugged);
        }
        Ok(())
    }

    /// Asks the guest to let go of a device; false if this is none on PCI.
    pub fn ask(&self, machine: &Machine, id: &str) -> Result<bool, HotPlugError> {
        let slots = self.0.lock();
        let Some(slots) = slots.as_ref() else { return Ok(false) };
        let Some((bus, devfn)) = slots.find(id) else { return Ok(false) };
        Self::check(slots, machine, bus)?;
        if !slots.fabric.is_removable(bus, devfn) {
            let cell = machine.devices().iter().find(|(name, _)| name == id).map(|(_, c)| c.kind());
            return Err(HotPlugError::FixedDevice(cell.unwrap_or(id).to_owned()));
        }
        let teller = Self::teller(slots, bus, devfn);
        tell(machine, &teller, |(c, slot)| c.ask(slot), Port::ask);
        Ok(true)
    }

    /// Takes out of the machine what the guest has let go of: their names.
    pub fn finish(&self, machine: &Machine) -> Vec<String> {
        let mut slots = self.0.lock();
        let Some(slots) = slots.as_mut() else { return Vec::new() };
        let gone = slots.fabric.take_ejected();
        let names: Vec<String> =
            gone.into_iter().filter_map(|(bus, devfn)| slots.leave(bus, devfn)).collect();
        for name in &names {
            let _ = machine.unplug(name);
        }
        names
    }
}

impl std::fmt::Debug for HotPlug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HotPlug")
    }
}

fn find(slots: &Slots, bus: Option<&str>) -> Result<BusId, HotPlugError> {
    let Some(name) = bus else { return Ok(BusId::ROOT) };
    slots.fabric.bus(name).ok_or_else(|| HotPlugError::NoBus(name.into()))
}

/// Calls what tells the guest of a bus; false if nothing does.
fn tell(
    machine: &Machine,
    teller: &Teller,
    root: impl FnOnce((&mut PciHotplug, u8)),
    port: impl FnOnce(&mut Port),
) -> bool {
    let name = match teller {
        Teller::Root(_) => HOTPLUG,
        Teller::Port(name) => name,
    };
    let devices = machine.devices();
    let Some((_, cell)) = devices.iter().find(|(n, _)| n == name) else { return false };
    cell.with(|device| {
        let Some(any) = device.as_any() else { return false };
        match teller {
            Teller::Root(slot) => any.downcast_mut().map(|c| root((c, *slot))).is_some(),
            Teller::Port(_) => any.downcast_mut().map(port).is_some(),
        }
    })
}
