//! Saved state of the card.

use device::{Bytes, StateBlob, StateError};
use pci::PciConfig;

use super::{MAX_PACKET, Rtl8139, Rtl8139Config, SIZE};
use crate::eeprom::EepromState;

device::state! {
    /// Version 1.
    struct V1 {
        1 => registers: Bytes, 2 => timer_base: u64, 3 => send_at: u32, 4 => receive_at: u32, 5 => frame: Bytes,
        6 => eeprom: EepromState,
    }
}

pub(super) fn save(card: &Rtl8139) -> StateBlob {
    let state = V1 {
        registers: Bytes(card.r.to_vec()),
        timer_base: card.timer_base,
        send_at: card.send_at,
        receive_at: card.receive_at,
        frame: Bytes(card.frame.clone()),
        eeprom: card.eeprom.save(),
    };
    StateBlob::new(Rtl8139Config::KIND, 1, &state)
}

pub(super) fn restore(card: &mut Rtl8139, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(Rtl8139Config::KIND, 1)?;
    let registers = <[u8; SIZE]>::try_from(s.registers.0.as_slice());
    let registers = registers.map_err(|_| StateError::new("registers", "expected 256 bytes"))?;
    StateError::at_most("frame", s.frame.0.len(), MAX_PACKET)?;
    StateError::at_most("send_at", s.send_at, 63)?;
    StateError::at_most("receive_at", s.receive_at, 63)?;
    card.eeprom.restore(&s.eeprom).map_err(|e| e.within("eeprom"))?;
    card.r = registers;
    (card.timer_base, card.send_at, card.receive_at) = (s.timer_base, s.send_at, s.receive_at);
    card.frame = s.frame.0;
    card.arm();
    Ok(())
}
