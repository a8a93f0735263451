//! The card's memory that is not volatile: 64 words, read and written by registers (82574L datasheet, 6.1 and 10.2.2).
//!
//! What is written is lost when the machine is reset: there is no file behind it.

use net::MacAddr;
use pci::INTEL;

use super::DEVICE;

pub(super) const WORDS: usize = 64;
/// All words up to here add up to this.
const CHECKSUM_AT: usize = 0x3f;
const CHECKSUM: u16 = 0xbaba;

/// Control register: request, grant, present, loaded.
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;
const LOADED: u32 = 1 << 9;

/// Accesses by register: start, done, and the place of address and data.
const START: u32 = 1;
const DONE: u32 = 1 << 1;
const ADDRESS: u32 = 2;
const DATA: u32 = 16;

#[derive(Clone, Debug)]
pub(super) struct Nvm {
    pub(super) words: [u16; WORDS],
}

impl Nvm {
    pub(super) fn new(mac: MacAddr) -> Self {
        let mut words = [0; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.0.chunks(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        // Light-emitting diodes as usual, no part number, initialization control 1, subsystem, identity, control 2.
        words[0x04] = 0xffff;
        (words[0x08], words[0x09]) = (0xffff, 0xffff);
        words[0x0a] = 0x0026;
        (words[0x0b], words[0x0c]) = (0, INTEL);
        (words[0x0d], words[0x0e]) = (DEVICE, INTEL);
        words[0x0f] = 0x0058;
        let sum = words[..CHECKSUM_AT].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[CHECKSUM_AT] = CHECKSUM.wrapping_sub(sum);
        Nvm { words }
    }

    /// The address of the card.
    pub(super) fn mac(&self) -> MacAddr {
        let [a, b, c] = [0, 1, 2].map(|i| self.words[i].to_le_bytes());
        MacAddr([a[0], a[1], b[0], b[1], c[0], c[1]])
    }

    /// A read: the address in, the data out.
    pub(super) fn read(&self, value: u32) -> u32 {
        if value & START == 0 {
            return value;
        }
        let address = value >> ADDRESS & 0x3fff;
        let word = self.words.get(address as usize).copied().unwrap_or(0xffff);
        address << ADDRESS | u32::from(word) << DATA | DONE
    }

    /// A write: address and data in.
    pub(super) fn write(&mut self, value: u32) -> u32 {
        if value & START == 0 {
            return value;
        }
        if let Some(word) = self.words.get_mut((value >> ADDRESS & 0x3fff) as usize) {
            *word = (value >> DATA) as u16;
        }
        value & !START | DONE
    }

    /// What the control register shows.
    pub(super) fn control(value: u32) -> u32 {
        let grant = if value & REQUEST != 0 { GRANT } else { 0 };
        value & REQUEST | grant | PRESENT | LOADED
    }
}
