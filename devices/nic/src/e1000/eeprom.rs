//! The card's EEPROM: 64 words, read by a register of their own or line by line (manual, 5.3 and 5.6).

use net::MacAddr;

use crate::eeprom::{Eeprom as Chip, WORDS};

/// All words up to here add up to this.
const CHECKSUM_AT: usize = 0x3f;
const CHECKSUM: u16 = 0xbaba;

/// Control register: clock, select, data in, data out, request, grant, present.
pub(super) const CLOCK: u32 = 1 << 0;
const SELECT: u32 = 1 << 1;
const DATA_IN: u32 = 1 << 2;
const DATA_OUT: u32 = 1 << 3;
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;

#[derive(Clone, Debug)]
pub(super) struct Eeprom {
    pub(super) chip: Chip,
    mac: MacAddr,
    pub(super) control: u32,
}

impl Eeprom {
    pub(super) fn new(mac: MacAddr) -> Self {
        let mut words = [0; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.0.chunks(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        words[3..16].copy_from_slice(&[
            0x0000, 0x0000, 0x0000, 0x0000, 0x0000, 0x3000, 0x1000, 0x6403, 0x100e, 0x8086, 0x100e, 0x8086,
            0x3040,
        ]);
        words[16..24].copy_from_slice(&[0x0008, 0x2000, 0x7e14, 0x0048, 0x1000, 0x00d8, 0x0000, 0x2700]);
        let sum = words[..CHECKSUM_AT].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[CHECKSUM_AT] = CHECKSUM.wrapping_sub(sum);
        Eeprom { chip: Chip::new(words), mac, control: 0 }
    }

    pub(super) fn mac(&self) -> MacAddr {
        self.mac
    }

    pub(super) fn reset(&mut self) {
        self.control = 0;
        self.chip.reset();
    }

    /// A read by register: the address in, the data out.
    pub(super) fn read(&self, value: u32) -> u32 {
        if value & 1 == 0 {
            return value;
        }
        let word = self.chip.words.get((value >> 8 & 0xff) as usize).copied().unwrap_or(0);
        value & 0xff00 | u32::from(word) << 16 | 1 << 4
    }

    pub(super) fn control(&self) -> u32 {
        let grant = if self.control & REQUEST != 0 { GRANT } else { 0 };
        let data = if self.chip.data_out() { DATA_OUT } else { 0 };
        self.control & (CLOCK | SELECT | DATA_IN | REQUEST) | grant | PRESENT | data
    }

    pub(super) fn set_control(&mut self, value: u32) {
        self.control = value & (CLOCK | SELECT | DATA_IN | REQUEST);
        let has = |bit| value & bit != 0;
        self.chip.set_lines(has(SELECT), has(CLOCK), has(DATA_IN));
    }
}
