//! A serial EEPROM of 64 words with three lines, as cards keep their address in (Microchip 93C46, National NM93C46).
//!
//! A command is a start bit, two bits of operation and six of address; reading is all that is done. After the address each
//! rise of the clock brings out one bit, from the highest of the word on, and then those of the words that follow.

use device::StateError;

pub(crate) const WORDS: usize = 64;
const ADDRESS_BITS: u32 = 6;
/// Reading: the start bit and the operation.
const READ: u32 = 0b110;

device::state! {
    /// Saved state of the lines.
    pub(crate) struct EepromState { 1 => clock: bool, 2 => shifted: u32, 3 => bits: u8, 4 => given: u16 }
}

/// The chip.
#[derive(Clone, Debug)]
pub(crate) struct Eeprom {
    pub(crate) words: [u16; WORDS],
    clock: bool,
    /// Bits that have come in since it was selected, and how many.
    shifted: u32,
    bits: u8,
    /// Bits of data that have gone out, counted from the end of the address.
    given: u16,
}

impl Eeprom {
    pub(crate) fn new(words: [u16; WORDS]) -> Self {
        Eeprom { words, clock: false, shifted: 0, bits: 0, given: 0 }
    }

    pub(crate) fn reset(&mut self) {
        (self.clock, self.shifted, self.bits, self.given) = (false, 0, 0, 0);
    }

    fn is_reading(&self) -> bool {
        u32::from(self.bits) >= 3 + ADDRESS_BITS && self.shifted >> ADDRESS_BITS == READ
    }

    /// The level of its output.
    pub(crate) fn data_out(&self) -> bool {
        if !self.is_reading() || self.given == 0 {
            // Ready; before the data of a read comes a 0.
            return !self.is_reading();
        }
        let at = self.shifted as usize + usize::from((self.given - 1) / 16);
        let bit = 15 - (self.given - 1) % 16;
        self.words.get(at & (WORDS - 1)).is_some_and(|word| word >> bit & 1 != 0)
    }

    /// Sets its inputs.
    pub(crate) fn set_lines(&mut self, select: bool, clock: bool, data: bool) {
        let rises = !std::mem::replace(&mut self.clock, clock) && clock;
        if !select {
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
        // A command begins with a 1.
        if self.bits == 0 && !data {
            return;
        }
        if u32::from(self.bits) < 3 + ADDRESS_BITS {
            self.shifted = self.shifted << 1 | u32::from(data);
            self.bits += 1;
        }
        if self.is_reading() {
            // The address alone is what counts from here on.
            self.shifted = READ << ADDRESS_BITS | self.shifted & ((1 << ADDRESS_BITS) - 1);
        }
    }

    pub(crate) fn save(&self) -> EepromState {
        EepromState { clock: self.clock, shifted: self.shifted, bits: self.bits, given: self.given }
    }

    pub(crate) fn restore(&mut self, s: &EepromState) -> Result<(), StateError> {
        StateError::at_most("bits", s.bits, 9)?;
        StateError::at_most("given", s.given, 16 * WORDS as u16)?;
        StateError::at_most("shifted", s.shifted, 0x1ff)?;
        (self.clock, self.shifted, self.bits, self.given) = (s.clock, s.shifted, s.bits, s.given);
        Ok(())
    }
}
