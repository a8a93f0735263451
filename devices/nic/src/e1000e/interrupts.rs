//! Interrupts (82574L datasheet, 7.4): by the pin, by one message, or by up to five, each for causes of the driver's choice and
//! held back for as long as its register says.
//!
//! Invariant: `signalled` are those of the causes not masked that a message was sent for; the timer is armed for the first that
//! waits.

use super::E1000e;
use super::registers::{cause, reg};

/// Vectors, and the pin beside them.
pub(super) const VECTORS: usize = 5;
const PIN: usize = VECTORS;

/// Extended device control: masks follow reading of causes; masks follow messages.
const AUTO_MASK: u32 = 1 << 27;
const VECTOR_AUTO_MASK: u32 = 1 << 24;

/// Causes with messages of their own, in the order of their vectors' four bits.
const CAUSES: [u32; VECTORS] = [
    cause::RECEIVE_QUEUE,
    cause::RECEIVE_QUEUE << 1,
    cause::TRANSMIT_QUEUE,
    cause::TRANSMIT_QUEUE << 1,
    cause::OTHER,
];

/// What is known of interrupts besides the registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interrupts {
    pub(super) signalled: u32,
    /// The pin's level, as far as the card is concerned.
    pub(super) pin: bool,
    /// When the next interrupt may be, of each vector and of the pin.
    pub(super) not_before: [u64; VECTORS + 1],
}

impl E1000e {
    pub(super) fn raise(&mut self, causes: u32) {
        let other = causes & cause::OTHERS != 0 && self.function.msix_enabled();
        self.r.change(reg::ICR, causes | if other { cause::OTHER } else { 0 }, 0);
        self.update_interrupts();
    }

    /// The driver looks at the causes.
    pub(super) fn read_causes(&mut self) -> u32 {
        let (causes, mask) = (self.r.get(reg::ICR), self.r.get(reg::IMS));
        if causes & cause::ASSERTED != 0 || mask == 0 {
            self.r.set(reg::ICR, 0);
            self.auto_mask(causes);
            self.update_interrupts();
        }
        causes
    }

    /// The driver takes causes back.
    pub(super) fn clear_causes(&mut self, value: u32) {
        let causes = self.r.get(reg::ICR);
        self.r.change(reg::ICR, 0, value & !cause::ASSERTED);
        self.auto_mask(causes);
        self.update_interrupts();
    }

    fn auto_mask(&mut self, causes: u32) {
        if causes & cause::ASSERTED != 0 && self.r.get(reg::CTRL_EXT) & AUTO_MASK != 0 {
            self.r.change(reg::IMS, 0, self.r.get(reg::IAM));
        }
    }

    /// Sends what is to be sent now, and arms the timer for what is to wait.
    pub(super) fn update_interrupts(&mut self) {
        let open = self.r.get(reg::ICR) & self.r.get(reg::IMS) & !cause::ASSERTED;
        let now = self.clock.now();
        let again = if self.function.msix_enabled() {
            self.i.pin = false;
            self.function.set_pin(false);
            self.messages(open, now)
        } else {
            self.i.signalled = 0;
            self.one(open != 0, now)
        };
        let open = self.r.get(reg::ICR) & self.r.get(reg::IMS) & !cause::ASSERTED;
        self.r.change(reg::ICR, if open != 0 { cause::ASSERTED } else { 0 }, cause::ASSERTED);
        self.timer.set(again);
    }

    fn interval(&self, register: u32) -> u64 {
        u64::from(self.r.get(register) & 0xffff) * 256
    }

    /// The pin, or the single message: when to look again.
    fn one(&mut self, wanted: bool, now: u64) -> Option<u64> {
        let due = self.i.not_before[PIN];
        let waits = wanted && !self.i.pin && now < due;
        if wanted && !self.i.pin && !waits {
            self.i.not_before[PIN] = now.saturating_add(self.interval(reg::ITR));
        }
        self.i.pin = wanted && !waits;
        self.function.interrupt(self.i.pin);
        waits.then_some(due)
    }

    fn messages(&mut self, open: u32, now: u64) -> Option<u64> {
        self.i.signalled &= open;
        let fresh = open & !self.i.signalled & cause::VECTORS;
        let (mut again, mut sent) = (None::<u64>, 0u32);
        for (i, bit) in CAUSES.into_iter().enumerate().filter(|(_, bit)| fresh & bit != 0) {
            let entry = self.r.get(reg::IVAR) >> (4 * i) & 15;
            let vector = (entry & 7) as usize;
            if entry & 8 == 0 || vector >= VECTORS {
                continue;
            }
            // Several causes may share a message.
            if sent & 1 << vector == 0 {
                let due = self.i.not_before[vector];
                if now < due {
                    again = Some(again.map_or(due, |other| other.min(due)));
                    continue;
                }
                self.function.message(vector as u16);
                let interval = self.interval(reg::EITR + 4 * vector as u32);
                self.i.not_before[vector] = now.saturating_add(interval);
                sent |= 1 << vector;
            }
            let clear = bit & self.r.get(reg::EIAC);
            self.r.change(reg::ICR, 0, clear);
            self.r.change(reg::IMS, 0, clear);
            if self.r.get(reg::CTRL_EXT) & VECTOR_AUTO_MASK != 0 {
                self.r.change(reg::IMS, 0, bit & self.r.get(reg::IAM));
            }
            self.i.signalled |= bit;
        }
        self.i.signalled &= self.r.get(reg::ICR) & self.r.get(reg::IMS);
        again
    }
}
