//! The card's EEPROM: 64 words, read by a register of their own or bit by bit as a Microwire device (manual, 5.3 and 5.6).

use net::MacAddr;

const WORDS: usize = 64;
/// All words up to here add up to this.
const CHECKSUM_AT: usize = 0x3f;
const CHECKSUM: u16 = 0xbaba;

/// Control register: clock, select, data in, data out, request, grant, present.
const CLOCK: u32 = 1 << 0;
const SELECT: u32 = 1 << 1;
const DATA_IN: u32 = 1 << 2;
const DATA_OUT: u32 = 1 << 3;
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;

/// Reading: the start bit and the operation, then 6 bits of address.
const READ: u32 = 0b110;
const ADDRESS_BITS: u32 = 6;

#[derive(Clone, Debug)]
pub(super) struct Eeprom {
    words: [u16; WORDS],
    mac: MacAddr,
    pub(super) control: u32,
    /// Bits that have come in since it was selected, and how many.
    pub(super) shifted: u32,
    pub(super) bits: u8,
    /// Bits of data that have gone out, counted from the end of the address.
    pub(super) given: u16,
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
        Eeprom { words, mac, control: 0, shifted: 0, bits: 0, given: 0 }
    }

    pub(super) fn mac(&self) -> MacAddr {
        self.mac
    }

    pub(super) fn reset(&mut self) {
        (self.control, self.shifted, self.bits, self.given) = (0, 0, 0, 0);
    }

    /// A read by register: the address in, the data out.
    pub(super) fn read(&self, value: u32) -> u32 {
        if value & 1 == 0 {
            return value;
        }
        let word = self.words.get((value >> 8 & 0xff) as usize).copied().unwrap_or(0);
        value & 0xff00 | u32::from(word) << 16 | 1 << 4
    }

    fn is_reading(&self) -> bool {
        u32::from(self.bits) >= 3 + ADDRESS_BITS && self.shifted >> ADDRESS_BITS == READ
    }

    pub(super) fn control(&self) -> u32 {
        let grant = if self.control & REQUEST != 0 { GRANT } else { 0 };
        let data = if self.is_reading() && self.given > 0 {
            let at = self.shifted as usize + usize::from((self.given - 1) / 16);
            let bit = 15 - (self.given - 1) % 16;
            self.words.get(at & (WORDS - 1)).is_some_and(|word| word >> bit & 1 != 0)
        } else {
            // Ready.
            !self.is_reading()
        };
        self.control & (CLOCK | SELECT | DATA_IN | REQUEST)
            | grant
            | PRESENT
            | if data { DATA_OUT } else { 0 }
    }

    pub(super) fn set_control(&mut self, value: u32) {
        let rises = value & CLOCK != 0 && self.control & CLOCK == 0;
        self.control = value & (CLOCK | SELECT | DATA_IN | REQUEST);
        if value & SELECT == 0 {
            (self.shifted, self.bits, self.given) = (0, 0, 0);
            return;
        }
        if !rises {
            return;
        }
        if self.is_reading() {
            self.given = (self.given + 1) % (16 * WORDS as u16 + 1);
            return;
        }
        let bit = u32::from(value & DATA_IN != 0);
        // A command begins with a 1.
        if self.bits == 0 && bit == 0 {
            return;
        }
        if u32::from(self.bits) < 3 + ADDRESS_BITS {
            self.shifted = self.shifted << 1 | bit;
            self.bits += 1;
        }
        if self.is_reading() {
            // The address alone is what counts from here on.
            self.shifted = READ << ADDRESS_BITS | self.shifted & ((1 << ADDRESS_BITS) - 1);
        }
    }
}
