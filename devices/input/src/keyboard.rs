//! The PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboards"): commands, scan code sets 1 to 3,
//! LEDs. The repeat rate is kept and not acted on: whoever presses a key decides whether it repeats.

use std::collections::VecDeque;

use crate::keys::Key;

pub(crate) const ACK: u8 = 0xfa;
pub(crate) const RESEND: u8 = 0xfe;
/// Self test passed.
pub(crate) const PASSED: u8 = 0xaa;

/// Bytes of key codes held while the host fetches none.
pub(crate) const KEYS_HELD: usize = 256;
/// Bytes of answers held. A host that sends commands without fetching the answers loses some.
pub(crate) const ANSWERS_HELD: usize = 16;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Keyboard {
    pub(crate) keys: VecDeque<u8>,
    pub(crate) answers: VecDeque<u8>,
    /// A command that waits for its parameter; 0 if none.
    pub(crate) command: u8,
    pub(crate) scanning: bool,
    pub(crate) set: u8,
    /// Scroll, num, caps lock from bit 0.
    pub(crate) leds: u8,
    pub(crate) rate: u8,
    /// The byte sent last, for the command that asks for it again.
    pub(crate) last: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Keyboard {
            keys: VecDeque::new(),
            answers: VecDeque::new(),
            command: 0,
            scanning: true,
            set: 2,
            leds: 0,
            rate: 0x2b,
            last: 0,
        }
    }
}

impl Keyboard {
    /// A key goes down or up; false if that is lost.
    pub(crate) fn key(&mut self, key: &Key, down: bool) -> bool {
        if !self.scanning {
            return false;
        }
        let codes = key.codes(self.set, down);
        // One byte of room is kept for the overrun code.
        if self.keys.len() + codes.len() < KEYS_HELD {
            self.keys.extend(codes);
            return true;
        }
        let overrun = if self.set == 1 { 0xff } else { 0 };
        if self.keys.back() != Some(&overrun) && self.keys.len() < KEYS_HELD {
            self.keys.push_back(overrun);
        }
        false
    }

    /// The next byte on the wire.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.keys.pop_front())?;
        self.last = byte;
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
        while self.answers.len() > ANSWERS_HELD {
            self.answers.pop_front();
        }
    }

    fn defaults(&mut self, scanning: bool) {
        self.keys.clear();
        (self.scanning, self.set, self.rate, self.command) = (scanning, 2, 0x2b, 0);
    }

    /// A byte from the host.
    pub(crate) fn write(&mut self, value: u8) {
        match (std::mem::take(&mut self.command), value) {
            (0xed, leds @ 0..=7) => {
                self.leds = leds;
                self.answer(&[ACK]);
            }
            (0xf0, 0) => self.answer(&[ACK, self.set]),
            (0xf0, set @ 1..=3) => {
                self.set = set;
                self.answer(&[ACK]);
            }
            (0xf3, rate @ 0..=0x7f) => {
                self.rate = rate;
                self.answer(&[ACK]);
            }
            // Key types of set 3, one key at a time: taken, all keys stay as they are.
            (0xfb..=0xfd, 1..=0xdf) => self.answer(&[ACK]),
            (_, 0xed | 0xf0 | 0xf3 | 0xfb..=0xfd) => {
                self.command = value;
                self.answer(&[ACK]);
            }
            (_, 0xee) => self.answer(&[0xee]),
            (_, 0xf2) => self.answer(&[ACK, 0xab, 0x83]),
            (_, 0xf4) => {
                self.scanning = true;
                self.keys.clear();
                self.answer(&[ACK]);
            }
            (_, 0xf5 | 0xf6) => {
                self.defaults(value == 0xf6);
                self.answer(&[ACK]);
            }
            (_, 0xf7..=0xfa) => self.answer(&[ACK]),
            (_, 0xfe) => self.answer(&[self.last]),
            (_, 0xff) => {
                self.defaults(true);
                self.leds = 0;
                self.answers.clear();
                self.answer(&[ACK, PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }
}
