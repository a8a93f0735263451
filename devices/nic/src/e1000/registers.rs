//! Registers (manual, chapter 13), and the PHY behind one of them.

use std::ops::{Deref, DerefMut};

use crate::intel::values::Values;

/// Offsets.
pub(super) mod reg {
    pub(in super::super) const CTRL: u32 = 0x0000;
    pub(in super::super) const STATUS: u32 = 0x0008;
    pub(in super::super) const EECD: u32 = 0x0010;
    pub(in super::super) const EERD: u32 = 0x0014;
    pub(in super::super) const MDIC: u32 = 0x0020;
    pub(super) const VET: u32 = 0x0038;
    pub(in super::super) const ICR: u32 = 0x00c0;
    pub(in super::super) const ICS: u32 = 0x00c8;
    pub(in super::super) const IMS: u32 = 0x00d0;
    pub(in super::super) const IMC: u32 = 0x00d8;
    pub(in super::super) const RCTL: u32 = 0x0100;
    pub(in super::super) const TCTL: u32 = 0x0400;
    pub(in super::super) const RDBAL: u32 = 0x2800;
    pub(in super::super) const RDLEN: u32 = 0x2808;
    pub(in super::super) const RDH: u32 = 0x2810;
    pub(in super::super) const RDT: u32 = 0x2818;
    pub(in super::super) const TDBAL: u32 = 0x3800;
    pub(in super::super) const TDLEN: u32 = 0x3808;
    pub(in super::super) const TDH: u32 = 0x3810;
    pub(in super::super) const TDT: u32 = 0x3818;
    pub(in super::super) const STATISTICS: u32 = 0x4000;
    pub(in super::super) const MISSED: u32 = 0x4010;
    pub(in super::super) const RECEIVED: u32 = 0x4074;
    pub(in super::super) const TRANSMITTED: u32 = 0x4080;
    pub(in super::super) const STATISTICS_END: u32 = 0x4100;
    #[cfg(test)]
    pub(in super::super) const MULTICAST: u32 = 0x5200;
    #[cfg(test)]
    pub(in super::super) const ADDRESSES: u32 = 0x5400;
}

/// Interrupt causes.
pub(super) mod cause {
    pub(in super::super) const TRANSMITTED: u32 = 1 << 0;
    pub(in super::super) const TRANSMIT_EMPTY: u32 = 1 << 1;
    pub(in super::super) const LINK: u32 = 1 << 2;
    pub(in super::super) const RECEIVE_LOW: u32 = 1 << 4;
    pub(in super::super) const RECEIVED: u32 = 1 << 7;
    pub(in super::super) const MDIO: u32 = 1 << 9;
}

pub(super) const CTRL_RESET: u32 = 1 << 26;
pub(super) const CTRL_PHY_RESET: u32 = 1 << 31;
/// Full duplex, link up, 1000 Mb/s.
const LINK_UP: u32 = 1 << 1;
const STATUS: u32 = 1 | 2 << 6;

/// PHY management: the answer's flags, and the operation.
const MDIC_READY: u32 = 1 << 28;
const MDIC_INTERRUPT: u32 = 1 << 29;
const MDIC_ERROR: u32 = 1 << 30;

/// All registers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Registers {
    pub(super) values: Values,
    pub(super) phy: [u16; 32],
}

impl Deref for Registers {
    type Target = Values;
    fn deref(&self) -> &Values {
        &self.values
    }
}

impl DerefMut for Registers {
    fn deref_mut(&mut self) -> &mut Values {
        &mut self.values
    }
}

impl Registers {
    pub(super) fn new(link: bool) -> Self {
        let mut r = Registers::default();
        r.set(reg::CTRL, 0x0020_0201);
        r.set(reg::VET, 0x8100);
        r.set(reg::STATUS, STATUS | if link { LINK_UP } else { 0 });
        // A PHY like the M88E1000, whose link partner can do everything.
        r.phy[0] = 0x1140;
        r.phy[1] = 0x7949;
        (r.phy[2], r.phy[3]) = (0x0141, 0x0c20);
        (r.phy[4], r.phy[5]) = (0x0de1, 0x41e1);
        (r.phy[9], r.phy[10], r.phy[15]) = (0x0e00, 0x3c00, 0x3000);
        (r.phy[16], r.phy[20]) = (0x0360, 0x0d60);
        r.set_phy_link(link);
        r
    }

    fn set_phy_link(&mut self, link: bool) {
        // Link and end of negotiation; speed, duplex and link as the chip's own register shows them.
        self.phy[1] = if link { self.phy[1] | 0x24 } else { self.phy[1] & !0x24 };
        self.phy[17] = if link { 0xac08 } else { 0x8000 };
    }

    /// Sets the link's state; whether that is a change.
    pub(super) fn set_link(&mut self, up: bool) -> bool {
        let before = self.get(reg::STATUS) & LINK_UP != 0;
        if before != up {
            self.change(reg::STATUS, if up { LINK_UP } else { 0 }, LINK_UP);
            self.set_phy_link(up);
        }
        before != up
    }

    /// An access to the PHY: the answer, and what it interrupts with.
    pub(super) fn phy(&mut self, value: u32) -> (u32, u32) {
        let (number, address) = ((value >> 16 & 31) as usize, value >> 21 & 31);
        let causes = if value & MDIC_INTERRUPT != 0 { cause::MDIO } else { 0 };
        let ready = |data: u16| value & 0x0fff_0000 | u32::from(data) | MDIC_READY;
        let answer = match (address, value >> 26 & 3) {
            (1, 2) => ready(self.phy[number]),
            (1, 1) => {
                let data = value as u16;
                match number {
                    // Reset and restart of the negotiation are done at once.
                    0 => self.phy[0] = data & !0x8200,
                    // What only the PHY sets.
                    1 | 2 | 3 | 5 | 6 | 10 | 15 | 17 | 19 | 21 => {}
                    _ => self.phy[number] = data,
                }
                ready(data)
            }
            // No PHY at that address.
            _ => value & 0x0fff_ffff | MDIC_READY | MDIC_ERROR,
        };
        (answer, causes)
    }
}
