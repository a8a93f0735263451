//! Saved state of the card.

use device::{Bytes, StateBlob, StateError};
use pci::PciConfig;

use super::eeprom::CLOCK;
use super::registers::Registers;
use super::{E1000, E1000Config};
use crate::eeprom::EepromState;
use crate::intel::offload::{Context, MAX_FRAME, Sender, exactly};
use crate::intel::values::{RegisterV1, Values};

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
    let (c, e, chip) = (&card.sender.context, &card.eeprom, card.eeprom.chip.save());
    let state = V1 {
        registers: card.r.values.save(),
        phy: card.r.phy.to_vec(),
        eeprom_control: e.control,
        eeprom_shifted: chip.shifted,
        eeprom_bits: chip.bits,
        eeprom_given: chip.given,
        window: card.window,
        frame: Bytes(card.sender.frame.clone()),
        frame_options: card.sender.options,
        context_ip: c.ip.to_vec(),
        context_payload: c.payload.to_vec(),
        context_tcp: c.tcp,
        context_ipv4: c.ipv4,
        context_header: c.header,
        context_segment: c.segment,
    };
    StateBlob::new(E1000Config::KIND, 1, &state)
}

pub(super) fn restore(card: &mut E1000, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(E1000Config::KIND, 1)?;
    StateError::at_most("frame", s.frame.0.len(), MAX_FRAME)?;
    let (ip, payload) =
        (exactly("context_ip", &s.context_ip)?, exactly("context_payload", &s.context_payload)?);
    let r = Registers { values: Values::restore(&s.registers)?, phy: exactly("phy", &s.phy)? };
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
    let context = Context {
        ip,
        payload,
        tcp: s.context_tcp,
        ipv4: s.context_ipv4,
        header: s.context_header,
        segment: s.context_segment,
    };
    card.sender = Sender { frame: s.frame.0, context, options: s.frame_options };
    Ok(())
}
