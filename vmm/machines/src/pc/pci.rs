//! PCI of the boards: where the user's functions stand, and where interrupt pins arrive.

use machine::{Board, MachineError, Node};
use pci::{AnyPci, Attachment, BusId, Fabric, INTX};

use super::Chipset;
use crate::x86::device_pin;
use crate::{BoardConfig, PluggedPci};

/// The wire of the i440FX's four that pin `pin` (0 to 3) of a device arrives on.
pub(super) fn i440fx_wire(slot: u8, pin: u8) -> u8 {
    slot.wrapping_sub(1).wrapping_add(pin) & 3
}

/// The wire of the ICH9's eight: those of the chipset's own devices are A to D, all others E to H.
pub(super) fn express_wire(slot: u8, pin: u8) -> u8 {
    match slot {
        25..=29 | 31 => pin & 3,
        30 => 4 + (pin & 3),
        _ => 4 + (slot.wrapping_add(pin) & 3),
    }
}

/// The functions of a board and their places.
pub(crate) struct Slots {
    /// Name of the board.
    board: &'static str,
    pub(crate) fabric: Fabric,
    chipset: Chipset,
    /// Devices on the root bus can come and go.
    root_hotplug: bool,
    /// Taken places, and who is there.
    taken: Vec<(BusId, u8, String)>,
    /// Firmware's names of those that it may boot from, with their places in the order.
    pub(super) boot: Vec<(u32, String)>,
}

/// First slot that devices without a place of their own are put into.
const FIRST: u8 = 2;

impl Slots {
    pub(super) fn new(board: &'static str, fabric: Fabric, chipset: Chipset, root_hotplug: bool) -> Self {
        Slots { board, fabric, chipset, root_hotplug, taken: Vec::new(), boot: Vec::new() }
    }

    /// Notes that a place is taken.
    fn take(&mut self, bus: BusId, devfn: u8, kind: &str) -> Result<(), MachineError> {
        if let Some((_, _, by)) = self.taken.iter().find(|(b, d, _)| (*b, *d) == (bus, devfn)) {
            return Err(MachineError::Board(format!(
                "{}: PCI slot {:x}.{} is not free for {kind}: {by} is there",
                self.board,
                devfn >> 3,
                devfn & 7
            )));
        }
        self.taken.push((bus, devfn, kind.to_owned()));
        Ok(())
    }

    /// Adds one of the board's own functions. Its interrupt pin is wired by the caller if it is not a bus's.
    pub(super) fn own(
        &mut self,
        b: &mut Board,
        name: &str,
        function: &mut dyn AnyPci,
        slot: u8,
        number: u8,
        multifunction: bool,
    ) -> Result<(), MachineError> {
        let mut at = Attachment::function(&self.fabric, BusId::ROOT, slot, number);
        at.multifunction = multifunction;
        self.take(at.bus, at.devfn, function.kind())?;
        function.attach(at);
        b.add_any(name, function.as_config().boxed_clone());
        Ok(())
    }

    fn free_slot(&self, bus: BusId) -> Option<u8> {
        let first = if bus == BusId::ROOT { FIRST } else { 0 };
        (first..32).find(|slot| !self.taken.iter().any(|(b, d, _)| *b == bus && d >> 3 == *slot))
    }

    fn bus(&self, p: &PluggedPci) -> Result<BusId, MachineError> {
        let Some(name) = &p.bus else { return Ok(BusId::ROOT) };
        self.fabric.bus(name).ok_or_else(|| {
            MachineError::Board(format!(
                "{}: no bus '{name}' for {}; there are: {}",
                self.board,
                p.function.kind(),
                self.fabric.bus_names().join(", ")
            ))
        })
    }

    /// The bus is a port's: it has one slot.
    pub(crate) fn is_slot(&self, bus: BusId) -> bool {
        self.fabric.parent(bus).is_some() && self.fabric.is_express(bus)
    }

    /// Devices of the bus can come and go, as far as the bus is concerned: a port may have its own mind.
    pub(crate) fn is_hotplug(&self, bus: BusId) -> bool {
        self.is_slot(bus) || bus == BusId::ROOT && self.root_hotplug
    }

    /// Where a device of the user's stands.
    pub(crate) fn find(&self, id: &str) -> Option<(BusId, u8)> {
        self.taken.iter().find(|(.., by)| by == id).map(|(bus, devfn, _)| (*bus, *devfn))
    }

    /// A place is free again: who was there.
    pub(crate) fn leave(&mut self, bus: BusId, devfn: u8) -> Option<String> {
        let at = self.taken.iter().position(|(b, d, _)| (*b, *d) == (bus, devfn))?;
        Some(self.taken.remove(at).2)
    }

    /// Adds what the user plugs, in order.
    pub(super) fn plug_all(&mut self, b: &mut Board, c: &BoardConfig) -> Result<(), MachineError> {
        // Those with places of their own first, as they cannot give way.
        let (fixed, free): (Vec<_>, Vec<_>) =
            c.pci.iter().partition(|p| p.address.is_some() && p.bus.is_none());
        for p in fixed.into_iter().chain(free) {
            let node = self.plug(p)?;
            b.add_node(node);
        }
        Ok(())
    }

    /// Finds the place of a function and wires it.
    pub(crate) fn plug(&mut self, p: &PluggedPci) -> Result<Node, MachineError> {
        let bus = self.bus(p)?;
        let kind = p.function.kind();
        let (slot, number) = match p.address {
            Some(place) => place,
            None => (
                self.free_slot(bus).ok_or_else(|| {
                    MachineError::Board(format!("{}: no PCI slot is free for {kind}", self.board))
                })?,
                0,
            ),
        };
        let port = self.is_slot(bus);
        if port && slot != 0 {
            return Err(MachineError::Board(format!(
                "{}: PCI slot {slot:x} for {kind}: behind a port there is slot 0 only",
                self.board
            )));
        }
        let mut at = Attachment::function(&self.fabric, bus, slot, number);
        at.multifunction = p.multifunction;
        at.removable = self.is_hotplug(bus);
        self.take(bus, at.devfn, &p.id)?;
        let mut function = p.function.clone_pci();
        function.attach(at.clone());
        let spec = function.function_spec();
        at.removable &= !spec.bridge;
        function.attach(at.clone());
        if spec.bridge {
            let express = spec.express.is_some_and(|role| role != pci::Express::ToPci);
            let behind = self.fabric.add_bus(&p.id, express, bus, at.devfn);
            behind.map_err(|e| MachineError::Board(format!("{}: {e}", self.board)))?;
        }
        if let Some(index) = p.boot_index {
            let disk = if spec.class >> 16 == 1 { "/disk@0,0" } else { "" };
            self.boot.push((index, self.firmware_name(bus, at.devfn, spec.class) + disk));
        }
        for (index, behind) in &p.boot_behind {
            self.boot.push((*index, format!("{}{behind}", self.firmware_name(bus, at.devfn, spec.class))));
        }
        let mut node = Node::plugged(&p.id, function.as_config(), &p.chardevs);
        node.dma();
        if spec.pin != 0 {
            let (slot, pin) = self.fabric.route_pin(bus, at.devfn, spec.pin);
            node.irq(INTX, self.wire(slot, pin));
        }
        Ok(node)
    }

    /// Where a pin of the root bus leads.
    pub(super) fn wire(&self, slot: u8, pin: u8) -> machine::Dest {
        match self.chipset {
            Chipset::I440fx => device_pin("isa-bridge", "pirq", i440fx_wire(slot, pin).into()),
            Chipset::Q35 => device_pin("isa-bridge", "pirq", express_wire(slot, pin).into()),
        }
    }

    /// The path by which firmware knows a function (Open Firmware's names).
    fn firmware_name(&self, bus: BusId, devfn: u8, class: u32) -> String {
        let mut path = Vec::new();
        let (mut at, mut devfn, mut class) = (bus, devfn, class);
        loop {
            let name = match class >> 8 {
                0x0604 => "pci-bridge",
                0x0200 => "ethernet",
                0x0100 => "scsi",
                0x0101 => "ide",
                0x0108 => "pci8086,5845",
                0x0300 => "display",
                _ => "pci",
            };
            let function = if devfn & 7 == 0 { String::new() } else { format!(",{}", devfn & 7) };
            path.push(format!("{name}@{:x}{function}", devfn >> 3));
            let Some((above, bridge)) = self.fabric.parent(at) else { break };
            (at, devfn, class) = (above, bridge, 0x06_0400);
        }
        path.push("pci@i0cf8".into());
        path.reverse();
        format!("/{}", path.join("/"))
    }
}
