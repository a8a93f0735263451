//! Interrupt messages between I/O APICs, devices and local APICs, and whom they are for.

use device::MsiMessage;

use super::registers::Registers;

/// Delivery modes (SDM table 13-1 and figure 13-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Fixed,
    LowestPriority,
    Smi,
    Nmi,
    Init,
    Startup,
    ExtInt,
}

impl Delivery {
    /// From the three bits that all registers and messages have in the same place.
    pub(super) fn from_bits(word: u32) -> Self {
        match word >> 8 & 7 {
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::Startup,
            7 => Delivery::ExtInt,
            // 3 is reserved.
            _ => Delivery::Fixed,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Physical(u32),
    Logical(u32),
    Itself,
    All,
    Others,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) destination: Destination,
    pub(super) delivery: Delivery,
    pub(super) vector: u8,
    pub(super) level: bool,
    /// The destination is in x2APIC form: all ones in 32 bits is everybody.
    pub(super) wide: bool,
}

impl Message {
    /// From a write to the APIC address range (SDM 13.11).
    pub(super) fn from_msi(message: MsiMessage) -> Self {
        let destination = (message.address >> 12) as u32 & 0xff;
        Message {
            destination: if message.address & 4 != 0 {
                Destination::Logical(destination)
            } else {
                Destination::Physical(destination)
            },
            delivery: Delivery::from_bits(message.data),
            vector: message.data as u8,
            level: message.data & 1 << 15 != 0,
            wide: false,
        }
    }

    /// From the interrupt command register; `None` for the INIT de-assert, which means nothing today.
    pub(super) fn from_icr(icr: u64, x2apic: bool) -> Option<Self> {
        let low = icr as u32;
        let delivery = Delivery::from_bits(low);
        if delivery == Delivery::Init && low & (1 << 15 | 1 << 14) == 1 << 15 {
            return None;
        }
        let address = if x2apic { (icr >> 32) as u32 } else { (icr >> 56) as u32 };
        let destination = match (low >> 18 & 3, low & 1 << 11 != 0) {
            (0, false) => Destination::Physical(address),
            (0, true) => Destination::Logical(address),
            (1, _) => Destination::Itself,
            (2, _) => Destination::All,
            _ => Destination::Others,
        };
        Some(Message { destination, delivery, vector: low as u8, level: false, wide: x2apic })
    }

    /// The number of the one APIC that it is for, if it says so.
    pub(super) fn only_for(&self) -> Option<u32> {
        match self.destination {
            Destination::Physical(to) if to != self.everybody() => Some(to),
            _ => None,
        }
    }

    fn everybody(&self) -> u32 {
        if self.wide { u32::MAX } else { 0xff }
    }

    /// Whether it is for the APIC of number `id`, which may have sent it.
    pub(super) fn is_for(&self, id: u32, sender: bool, r: &Registers) -> bool {
        let everybody = self.everybody();
        match self.destination {
            Destination::Physical(to) => to == everybody || to == id,
            Destination::Logical(to) => to == everybody || r.logical_match(to),
            Destination::Itself => sender,
            Destination::All => true,
            Destination::Others => !sender,
        }
    }
}
