//! The two register files (datasheet, "User accessible registers"), initialization.

use super::{BCRS, CSRS, LED_LIT, Pcnet, STYLE_WIDE, WIDE, bcr, csr, status};

/// Identification of the chip: part number, version.
const CHIP: [u16; 2] = [0x1003, 0x0262];
/// CSR4: status of its own that masks of it keep from interrupting; the masks are one bit below.
const FEATURE_STATUS: u16 = 1 << 3 | 1 << 5 | 1 << 9 | 1 << 1;
/// CSR5: suspended.
const SUSPEND: u16 = 1;
/// Registers that can be written only while the chip stands: the init block's address and what it holds, the rings.
const STANDING: [std::ops::RangeInclusive<usize>; 4] = [1..=2, 8..=15, 24..=25, 30..=31];

impl Pcnet {
    /// As after power-on.
    pub(super) fn restart(&mut self) {
        self.bcr = [0; BCRS];
        for (at, value) in [
            (0, 5),
            (1, 5),
            (2, 2),
            (4, 0xc0),
            (5, 0x84),
            (6, 0x88),
            (7, 0x90),
            (18, 0x2001),
            (19, 0x0002),
            (22, 0xff06),
        ] {
            self.bcr[at] = value;
        }
        self.csr = [0; CSRS];
        for (i, pair) in self.prom[..6].chunks(2).enumerate() {
            self.csr[csr::ADDRESS + i] = u16::from_le_bytes([pair[0], pair[1]]);
        }
        self.selected = 0;
        self.soft_reset();
    }

    /// A reset by register: the bus configuration and the addresses stay.
    pub(super) fn soft_reset(&mut self) {
        self.csr[csr::MASKS] = 0;
        self.csr[csr::FEATURES] = 0x0115;
        self.csr[csr::EXTENDED] = 0;
        self.csr[csr::MODE] = 0;
        self.csr[csr::RECEIVE_LENGTH] = 0;
        self.csr[csr::SEND_LENGTH] = 0;
        (self.csr[80], self.csr[82]) = (0x1410, 0);
        self.csr[csr::CHIP..csr::CHIP + 2].copy_from_slice(&CHIP);
        self.csr[94] = 0;
        self.csr[csr::MISSED] = 0;
        self.bcr[bcr::BUS] &= !WIDE;
        self.set_style(0);
        self.stop();
    }

    fn stop(&mut self) {
        self.csr[csr::STATUS] = status::STOP;
        self.csr[csr::EXTENDED] &= !SUSPEND;
        self.frame.clear();
        self.update();
    }

    fn set_style(&mut self, value: u16) {
        let style = value & 0xff;
        let wide = if style == 2 || style == 3 { STYLE_WIDE } else { 0 };
        let new = self.bcr[bcr::STYLE] & !(0xff | STYLE_WIDE) | style | wide;
        (self.bcr[bcr::STYLE], self.csr[csr::STYLE]) = (new, new);
    }

    /// Whether software structures are of 32 bits.
    pub(super) fn style(&self) -> u16 {
        self.bcr[bcr::STYLE] & 0xff
    }

    /// Brings the summary bits and the pin in line with the causes.
    pub(super) fn update(&mut self) {
        let s = self.csr[csr::STATUS] & !(status::INTERRUPT | status::ERROR);
        let open = s & status::CAUSES & !self.csr[csr::MASKS];
        let features = self.csr[csr::FEATURES];
        let more = features & FEATURE_STATUS & !(features << 1);
        let interrupt = if open != 0 || more != 0 { status::INTERRUPT } else { 0 };
        let error = if s & status::ERRORS != 0 { status::ERROR } else { 0 };
        self.csr[csr::STATUS] = s | interrupt | error;
        self.function.interrupt(interrupt != 0 && s & status::ENABLE != 0);
    }

    pub(super) fn raise(&mut self, causes: u16) {
        self.csr[csr::STATUS] |= causes;
        self.update();
    }

    fn stands(&self) -> bool {
        self.csr[csr::STATUS] & status::STOP != 0 || self.csr[csr::EXTENDED] & SUSPEND != 0
    }

    pub(super) fn read_csr(&self) -> u16 {
        self.csr.get(usize::from(self.selected)).copied().unwrap_or(0)
    }

    pub(super) fn write_csr(&mut self, value: u16) {
        let at = usize::from(self.selected);
        match at {
            csr::STATUS => self.write_status(value),
            csr::MASKS => {
                self.csr[at] = value & 0x5f7c;
                self.update();
            }
            csr::FEATURES => {
                self.csr[at] = value & !FEATURE_STATUS & !0x40 | self.csr[at] & FEATURE_STATUS & !value;
                self.update();
            }
            csr::EXTENDED => {
                self.csr[at] = value & 0x7ffd & !0x2a8 | value & SUSPEND;
                self.send();
                self.receive();
            }
            csr::STYLE => self.set_style(value),
            csr::CHIP | 89 => {}
            _ if STANDING.iter().any(|range| range.contains(&at)) && !self.stands() => {}
            _ => {
                if let Some(register) = self.csr.get_mut(at) {
                    *register = value;
                }
            }
        }
    }

    fn write_status(&mut self, value: u16) {
        if value & status::STOP != 0 {
            return self.stop();
        }
        let s = &mut self.csr[csr::STATUS];
        *s &= !(value & status::CAUSES);
        *s = *s & !status::ENABLE | value & status::ENABLE;
        if value & status::INIT != 0 && *s & status::INIT == 0 {
            self.initialize();
        }
        let s = &mut self.csr[csr::STATUS];
        if value & status::START != 0 && *s & status::START == 0 {
            *s = *s & !status::STOP | status::START;
            let mode = self.csr[csr::MODE];
            let on = if mode & 2 == 0 { status::SENDING } else { 0 }
                | if mode & 1 == 0 { status::RECEIVING } else { 0 };
            self.csr[csr::STATUS] |= on;
        }
        self.update();
        if value & (status::SEND_NOW | status::START) != 0 {
            self.send();
        }
        self.receive();
    }

    /// Reads the init block.
    fn initialize(&mut self) {
        self.csr[csr::STATUS] = self.csr[csr::STATUS] & !status::STOP | status::INIT;
        let at = u64::from(self.csr[csr::INIT_BLOCK]) | u64::from(self.csr[csr::INIT_BLOCK + 1]) << 16;
        let mut block = [0; 28];
        let wide = self.style() != 0;
        if self.dma.read(at, &mut block[..if wide { 28 } else { 24 }]).is_err() {
            return self.raise(status::MEMORY_ERROR);
        }
        let word = |i: usize| u16::from_le_bytes([block[i], block[i + 1]]);
        self.csr[csr::MODE] = word(0);
        // Lengths are powers of two; bases follow.
        let (address, group, lengths, rings) = match wide {
            true => (4, 12, [block[2] >> 4, block[3] >> 4], [(20, 0xffff), (24, 0xffff)]),
            false => (2, 8, [block[19] >> 5, block[23] >> 5], [(16, 0xff), (20, 0xff)]),
        };
        for i in 0..3 {
            self.csr[csr::ADDRESS + i] = word(address + 2 * i);
        }
        for i in 0..4 {
            self.csr[csr::GROUP + i] = word(group + 2 * i);
        }
        for (i, (ring, length, count)) in [
            (csr::RECEIVE_RING, csr::RECEIVE_LENGTH, csr::RECEIVE_COUNT),
            (csr::SEND_RING, csr::SEND_LENGTH, csr::SEND_COUNT),
        ]
        .into_iter()
        .enumerate()
        {
            let (from, mask) = rings[i];
            self.csr[ring] = word(from);
            self.csr[ring + 1] = word(from + 2) & mask;
            let entries = 1u16 << lengths[i].min(9);
            self.csr[length] = entries.wrapping_neg();
            self.csr[count] = entries.wrapping_neg();
        }
        self.raise(status::INIT_DONE);
    }

    pub(super) fn read_bcr(&self) -> u16 {
        match usize::from(self.selected) {
            bcr::LINK => {
                let lit = self.port.is_up() && self.bcr[bcr::LINK] & 0x40 != 0;
                self.bcr[bcr::LINK] & !LED_LIT | if lit { LED_LIT } else { 0 }
            }
            at => self.bcr.get(at).copied().unwrap_or(0),
        }
    }

    pub(super) fn write_bcr(&mut self, value: u16) {
        match usize::from(self.selected) {
            bcr::STYLE if self.stands() => self.set_style(value),
            bcr::BUS => self.bcr[bcr::BUS] = value & !WIDE | self.bcr[bcr::BUS] & WIDE,
            at @ (2 | 4..=7 | 9 | 19 | 22) => self.bcr[at] = value,
            _ => {}
        }
    }
}
