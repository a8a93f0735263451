//! Registers that hold what is written; those that were never written are zero.

use std::collections::BTreeMap;

use device::StateError;
use net::MacAddr;

/// First beyond all registers.
const END: u32 = 0x2_0000;
/// The first pair of address registers; an address is valid if the last bit of the second is set.
pub(crate) const ADDRESSES: u32 = 0x5400;
pub(crate) const VALID: u32 = 1 << 31;

device::state! {
    /// A register that is not zero.
    pub(crate) struct RegisterV1 { 1 => at: u32, 2 => value: u32 }
}

/// The registers by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Values(BTreeMap<u32, u32>);

impl Values {
    pub(crate) fn get(&self, at: u32) -> u32 {
        self.0.get(&at).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, at: u32, value: u32) {
        if at < END && at.is_multiple_of(4) {
            if value == 0 {
                self.0.remove(&at);
            } else {
                self.0.insert(at, value);
            }
        }
    }

    /// Sets and clears bits.
    pub(crate) fn change(&mut self, at: u32, set: u32, clear: u32) {
        self.set(at, self.get(at) & !clear | set);
    }

    /// A 64-bit base in two registers.
    pub(crate) fn base(&self, at: u32) -> u64 {
        (u64::from(self.get(at + 4)) << 32 | u64::from(self.get(at))) & !15
    }

    /// Counts one more, up to the end.
    pub(crate) fn count(&mut self, at: u32) {
        self.set(at, self.get(at).saturating_add(1));
    }

    /// Adds to a counter of 64 bits, which stays at its end.
    pub(crate) fn count_octets(&mut self, at: u32, octets: usize) {
        let sum = (u64::from(self.get(at + 4)) << 32 | u64::from(self.get(at))).saturating_add(octets as u64);
        self.set(at, sum as u32);
        self.set(at + 4, (sum >> 32) as u32);
    }

    pub(crate) fn set_address(&mut self, mac: MacAddr) {
        let [a, b, c, d, e, f] = mac.0;
        self.set(ADDRESSES, u32::from_le_bytes([a, b, c, d]));
        self.set(ADDRESSES + 4, u32::from(u16::from_le_bytes([e, f])) | VALID);
    }

    pub(crate) fn save(&self) -> Vec<RegisterV1> {
        self.0.iter().map(|(at, value)| RegisterV1 { at: *at, value: *value }).collect()
    }

    pub(crate) fn restore(saved: &[RegisterV1]) -> Result<Self, StateError> {
        StateError::at_most("registers", saved.len(), END as usize / 4)?;
        let mut values = Values::default();
        saved.iter().for_each(|register| values.set(register.at, register.value));
        Ok(values)
    }
}
