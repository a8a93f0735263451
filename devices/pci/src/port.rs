//! A PCI Express slot whose device comes and goes while the machine runs.
//!
//! PCI Express Base Specification 3.0, 6.7 (hot plug) and 7.8.9 to 7.8.11 (slot registers). The slot has an attention
//! button, a power controller and both indicators. A device that comes is present and has its link up at once; the guest is
//! told by events. Asking for a device back presses the button. The guest answers by turning power and power indicator off:
//! then the device is off the bus, and whoever has plugged it takes it away.
//!
//! Invariant: presence and link are not stored, they follow from the bus behind the port. The interrupt's level follows from
//! slot control and slot status after every change of these.

use std::any::Any;

use device::{Access, Device, ResetKind, StateBlob, StateError};

use crate::caps::{express, slot};
use crate::config_space::{cap, touches};
use crate::device::PciDevice;
use crate::fabric::{BusId, Fabric};
use crate::function::Function;

/// The only slot number behind a port.
const DEVICE: u8 = 0;

/// A port with a slot.
pub struct Port {
    kind: &'static str,
    function: Function,
    /// Where the PCI Express capability stands; the port has none on a conventional bus.
    express: Option<usize>,
    /// Slot control as of the last write.
    control: u16,
}

impl Port {
    pub(crate) fn new(kind: &'static str, function: Function) -> Self {
        let express = function.with_config(|space| space.find(cap::EXPRESS));
        let mut port = Port { kind, function, express, control: 0 };
        port.control = port.register(express::SLOT_CONTROL);
        port
    }

    fn register(&self, offset: usize) -> u16 {
        self.express.map_or(0, |at| self.function.config_u16(at + offset))
    }

    /// The bus behind it.
    fn behind(&self) -> Option<(Fabric, BusId)> {
        let at = self.function.attachment()?;
        Some((at.fabric.clone(), at.fabric.bus_behind(at.bus, at.devfn)?))
    }

    fn present(&self) -> bool {
        self.behind().is_some_and(|(fabric, bus)| fabric.is_taken(bus, DEVICE << 3))
    }

    fn is_off(control: u16) -> bool {
        control & slot::POWER_OFF != 0
    }

    /// Notes events in slot status.
    fn event(&mut self, events: u16) {
        if let Some(at) = self.express {
            let at = at + express::SLOT_STATUS;
            self.function.with_config(|space| space.set_u16(at, space.u16(at) | events));
        }
        self.update();
    }

    fn update(&mut self) {
        let (control, status) = (self.control, self.register(express::SLOT_STATUS));
        let link = if control & slot::LINK_ENABLE != 0 { slot::LINK_STATUS } else { 0 };
        let enabled = control & (slot::BUTTON | slot::PRESENCE | slot::COMMAND) | link;
        self.function.interrupt(control & slot::INTERRUPT != 0 && status & enabled != 0);
    }

    /// A device has been plugged behind the port.
    pub fn plugged(&mut self) {
        self.event(slot::PRESENCE | slot::LINK_STATUS);
    }

    /// Asks the guest to let go of the device. A slot without power has nothing to let go of.
    pub fn ask(&mut self) {
        if Self::is_off(self.control) {
            self.eject();
        } else {
            self.event(slot::BUTTON);
        }
    }

    fn eject(&mut self) {
        if let Some((fabric, bus)) = self.behind()
            && self.present()
        {
            fabric.eject(bus, DEVICE);
            self.event(slot::PRESENCE | slot::LINK_STATUS);
        }
    }
}

impl Device for Port {
    fn read(&mut self, _region: usize, _offset: u64, _data: &mut [u8]) -> Access {
        Access::NoRegister
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Access {
        Access::NoRegister
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.control = self.register(express::SLOT_CONTROL);
    }

    fn save(&self) -> StateBlob {
        StateBlob::none(self.kind)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(self.kind)?;
        self.control = self.register(express::SLOT_CONTROL);
        Ok(())
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for Port {
    fn config_read(&mut self, at: usize, data: &mut [u8]) {
        let Some(base) = self.express else { return };
        let live = [(express::LINK_STATUS, slot::LINK_ACTIVE), (express::SLOT_STATUS, slot::PRESENT)];
        for (offset, bit) in live {
            let of = base + offset;
            if !touches(at, data.len(), of, 2) || !self.present() {
                continue;
            }
            for (i, byte) in (0..).zip(bit.to_le_bytes()) {
                if let Some(to) = (of + i).checked_sub(at).and_then(|n| data.get_mut(n)) {
                    *to |= byte;
                }
            }
        }
    }

    fn config_written(&mut self, at: usize, len: usize) {
        let Some(base) = self.express else { return };
        if touches(at, len, base + express::SLOT_CONTROL, 2) {
            let new = self.register(express::SLOT_CONTROL);
            let old = std::mem::replace(&mut self.control, new);
            let let_go = |control: u16| {
                Self::is_off(control) && control & slot::POWER_INDICATOR == slot::POWER_INDICATOR
            };
            if let_go(new) && !let_go(old) {
                self.eject();
            }
            self.event(slot::COMMAND);
        } else if touches(at, len, base + express::SLOT_STATUS, 2) {
            self.update();
        }
    }
}
