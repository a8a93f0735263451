//! Saved state of the card.

use device::{Bytes, StateBlob, StateError};
use pci::PciConfig;

use super::eeprom::CLOCK;
use super::registers::Registers;
use super::transmit::{Context, MAX_FRAME};
use super::{E1000, E1000Config};
use crate::eeprom::EepromState;

/// More registers than there are.
const MAX_REGISTERS: usize = 0x6000 / 4;

device::state! {
    /// A register that is not zero.
    struct RegisterV1 { 1 => at: u32, 2 => value: u32 }
}

device::state! {
    /// Version 1.
    struct V1 {
        1 => registers: Vec<RegisterV1>,
        2 => phy: Vec<u16>,
        3 => eeprom_control: u32,
        4 => eeprom_shifted: u32,
        5 => eeprom_bits: u8,
        6 => eeprom_given: u16,
        7 => window: u32,
        8 => frame: Bytes,
        9 => frame_options: u16,
        10 => context_ip: Vec<u16>,
        11 => context_payload: Vec<u16>,
        12 => context_tcp: bool,
        13 => context_ipv4: bool,
        14 => context_header: u8,
        15 => context_segment: u16,
    }
}

pub(super) fn save(card: &E1000) -> StateBlob {
    let (c, e, chip) = (&card.context, &card.eeprom, card.eeprom.chip.save());
    let state = V1 {
        registers: card.r.values.iter().map(|(at, value)| RegisterV1 { at: *at, value: *value }).collect(),
        phy: card.r.phy.to_vec(),
        eeprom_control: e.control,
        eeprom_shifted: chip.shifted,
        eeprom_bits: chip.bits,
        eeprom_given: chip.given,
        window: card.window,
        frame: Bytes(card.frame.clone()),
        frame_options: card.frame_options,
        context_ip: c.ip.to_vec(),
        context_payload: c.payload.to_vec(),
        context_tcp: c.tcp,
        context_ipv4: c.ipv4,
        context_header: c.header,
        context_segment: c.segment,
    };
    StateBlob::new(E1000Config::KIND, 1, &state)
}

fn exactly<const N: usize>(field: &str, values: &[u16]) -> Result<[u16; N], StateError> {
    values
        .try_into()
        .map_err(|_| StateError::new(field, format!("expected {N} values, found {}", values.len())))
}

pub(super) fn restore(card: &mut E1000, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(E1000Config::KIND, 1)?;
    StateError::at_most("registers", s.registers.len(), MAX_REGISTERS)?;
    StateError::at_most("frame", s.frame.0.len(), MAX_FRAME)?;
    let (ip, payload) =
        (exactly("context_ip", &s.context_ip)?, exactly("context_payload", &s.context_payload)?);
    let mut r = Registers { phy: exactly("phy", &s.phy)?, ..Registers::default() };
    s.registers.iter().for_each(|register| r.set(register.at, register.value));
    StateError::at_most("window", s.window, 0x1_ffff)?;
    let lines = EepromState {
        clock: s.eeprom_control & CLOCK != 0,
        shifted: s.eeprom_shifted,
        bits: s.eeprom_bits,
        given: s.eeprom_given,
    };
    card.eeprom.chip.restore(&lines).map_err(|e| e.within("eeprom"))?;
    card.eeprom.control = s.eeprom_control;
    card.r = r;
    card.window = s.window;
    card.frame = s.frame.0;
    card.frame_options = s.frame_options;
    card.context = Context {
        ip,
        payload,
        tcp: s.context_tcp,
        ipv4: s.context_ipv4,
        header: s.context_header,
        segment: s.context_segment,
    };
    Ok(())
}
