//! The PHY behind a register (82574L datasheet, chapter 9): registers from 16 on are in pages, which register 22 chooses.

use super::registers::cause;

/// Pages that there are, and registers of each.
const PAGES: usize = 8;
const REGISTERS: usize = 32;
const PAGE_SELECT: usize = 22;
/// Number of all registers.
pub(super) const ALL: usize = PAGES * REGISTERS;

/// The answer's flags.
const READY: u32 = 1 << 28;
const INTERRUPT: u32 = 1 << 29;
const ERROR: u32 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phy(pub(super) [u16; ALL]);

impl Phy {
    pub(super) fn new(link: bool) -> Self {
        let mut phy = Phy([0; ALL]);
        for (number, value) in [
            // Control, status, identifier.
            (0, 0x1140),
            (1, 0x7949),
            (2, 0x0141),
            (3, 0x0cb1),
            // A link partner that can do everything, as we.
            (4, 0x0de1),
            (5, 0x45e1),
            (9, 0x0e00),
            (10, 0x3c00),
            (15, 0x3000),
            (16, 0x0060),
        ] {
            phy.0[number] = value;
        }
        phy.set_link(link);
        phy
    }

    pub(super) fn set_link(&mut self, link: bool) {
        // Link and end of negotiation; speed, duplex and link.
        self.0[1] = if link { self.0[1] | 0x24 } else { self.0[1] & !0x24 };
        self.0[17] = if link { 0xac08 } else { 0x8000 };
    }

    /// Place of a register in the page that is chosen.
    fn place(&self, number: usize) -> Option<usize> {
        let page = if number < 16 || number == PAGE_SELECT { 0 } else { usize::from(self.0[PAGE_SELECT]) };
        (page < PAGES).then_some(page * REGISTERS + number)
    }

    /// An access: the answer, and what it interrupts with.
    pub(super) fn access(&mut self, value: u32, link: bool) -> (u32, u32) {
        let (number, address) = ((value >> 16 & 31) as usize, value >> 21 & 31);
        let causes = if value & INTERRUPT != 0 { cause::MDIO } else { 0 };
        let ready = |data: u16| value & 0x0fff_0000 | u32::from(data) | READY;
        let answer = match (address, value >> 26 & 3, self.place(number)) {
            (1, 2, Some(place)) => ready(self.0[place]),
            (1, 1, Some(place)) => {
                self.write(place, value as u16, link);
                ready(value as u16)
            }
            // No PHY at that address, no such page.
            _ => value & 0x0fff_ffff | READY | ERROR,
        };
        (answer, causes)
    }

    fn write(&mut self, place: usize, data: u16, link: bool) {
        match place {
            0 if data & 0x8000 != 0 => *self = Phy::new(link),
            // A new negotiation is done at once.
            0 => self.0[0] = data & !0x8200,
            // What only the PHY sets.
            1 | 2 | 3 | 5 | 6 | 10 | 15 | 17 | 19 | 21 => {}
            _ => self.0[place] = data,
        }
    }
}
