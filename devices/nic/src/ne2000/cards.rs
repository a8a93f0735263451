//! The controller on its two cards.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, PinSpec, RegionSpec, ResetKind, StateBlob,
    StateError, Wires,
};
use pci::{BarKind, Function, FunctionSpec, PciConfig, PciDevice, class};

use super::{Interrupt, Ne2000, PORTS, V1};
use crate::card::card_config;
use crate::port::{Port, address};

card_config! {
    /// Novell's card for the ISA bus.
    Ne2kIsaConfig
}

card_config! {
    /// Realtek's RTL8029.
    Ne2kPciConfig
}

/// First of the ports that move data, and the one that resets.
const DATA: u64 = 0x10;
const RESET: u64 = 0x18;
/// Ports that a PCI card decodes.
const PCI_PORTS: u64 = 256;

/// A card of a kind.
struct Card {
    kind: &'static str,
    chip: Ne2000,
}

impl DeviceConfig for Ne2kIsaConfig {
    const KIND: &'static str = "ne2k_isa";
    const HELP: &'static str = "NE2000 network card";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("ports", PORTS, AccessRule::UP_TO_4)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let mac = address(self.mac.as_ref(), wires)?;
        let port = Port::new(&self.backend, wires, wires.waker(0));
        let chip = Ne2000::new(port, Interrupt::Line(wires.line("irq")), mac);
        Ok(Box::new(Card { kind: Self::KIND, chip }))
    }
}

impl PciConfig for Ne2kPciConfig {
    const KIND: &'static str = "ne2k_pci";
    const HELP: &'static str = "Realtek RTL8029 network card (NE2000)";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let ports = BarKind::Ports(AccessRule::UP_TO_4);
        FunctionSpec::new(0x10ec, 0x8029, class::ETHERNET).bar(0, PCI_PORTS, ports)
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let mac = address(self.mac.as_ref(), wires)?;
        let port = Port::new(&self.backend, wires, wires.waker(0));
        let chip = Ne2000::new(port, Interrupt::Function(function), mac);
        Ok(Box::new(Card { kind: <Self as PciConfig>::KIND, chip }))
    }
}

impl Device for Card {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        match offset {
            0..DATA => {
                for (at, byte) in (offset as u8..).zip(data) {
                    *byte = self.chip.read_register(at);
                }
            }
            DATA..RESET => self.chip.read_data(data),
            RESET..PORTS => {
                data.fill(0);
                self.chip.restart();
                self.chip.raise(0);
            }
            _ => data.fill(0xff),
        }
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        match offset {
            0..DATA => {
                for (at, byte) in (offset as u8..DATA as u8).zip(data) {
                    self.chip.write_register(at, *byte);
                }
            }
            DATA..RESET => self.chip.write_data(data),
            // The reset that a read has begun ends.
            _ => {}
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.chip.restart();
        self.chip.packets.fill(0);
        self.chip.port.clear();
        self.chip.raise(0);
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(self.kind, 1, &self.chip.save())
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.chip.restore(state.decode::<V1>(self.kind, 1)?)
    }

    fn wake(&mut self, _id: usize) {
        self.chip.receive();
    }

    fn quiesce(&mut self) {
        self.chip.paused = true;
    }

    fn resume(&mut self) {
        self.chip.paused = false;
        self.chip.receive();
    }
}

impl PciDevice for Card {}
