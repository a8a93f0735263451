//! Saved state of the card.

use device::{Bytes, StateBlob, StateError};
use pci::PciConfig;

use super::interrupts::{Interrupts, VECTORS};
use super::nvm::WORDS;
use super::phy::{ALL, Phy};
use super::{E1000e, E1000eConfig, QUEUES};
use crate::intel::offload::{Context, MAX_FRAME, Sender, exactly};
use crate::intel::values::{RegisterV1, Values};

device::state! {
    /// What a queue is about to send.
    struct SenderV1 {
        1 => frame: Bytes,
        2 => options: u16,
        3 => ip: Vec<u16>,
        4 => payload: Vec<u16>,
        5 => tcp: bool,
        6 => ipv4: bool,
        7 => header: u8,
        8 => segment: u16,
    }
}

device::state! {
    /// Version 1.
    struct V1 {
        1 => registers: Vec<RegisterV1>,
        2 => phy: Vec<u16>,
        3 => nvm: Vec<u16>,
        4 => window: u32,
        5 => senders: Vec<SenderV1>,
        6 => signalled: u32,
        7 => pin: bool,
        8 => not_before: Vec<u64>,
        9 => deadline: Option<u64>,
        10 => time_base: u64,
    }
}

fn save_sender(s: &Sender) -> SenderV1 {
    SenderV1 {
        frame: Bytes(s.frame.clone()),
        options: s.options,
        ip: s.context.ip.to_vec(),
        payload: s.context.payload.to_vec(),
        tcp: s.context.tcp,
        ipv4: s.context.ipv4,
        header: s.context.header,
        segment: s.context.segment,
    }
}

fn restore_sender(s: &SenderV1) -> Result<Sender, StateError> {
    StateError::at_most("frame", s.frame.0.len(), MAX_FRAME)?;
    let context = Context {
        ip: exactly("ip", &s.ip)?,
        payload: exactly("payload", &s.payload)?,
        tcp: s.tcp,
        ipv4: s.ipv4,
        header: s.header,
        segment: s.segment,
    };
    Ok(Sender { frame: s.frame.0.clone(), context, options: s.options })
}

pub(super) fn save(card: &E1000e) -> StateBlob {
    let state = V1 {
        registers: card.r.save(),
        phy: card.phy.0.to_vec(),
        nvm: card.nvm.words.to_vec(),
        window: card.window,
        senders: card.senders.iter().map(save_sender).collect(),
        signalled: card.i.signalled,
        pin: card.i.pin,
        not_before: card.i.not_before.to_vec(),
        deadline: card.timer.deadline(),
        time_base: card.time_base,
    };
    StateBlob::new(E1000eConfig::KIND, 1, &state)
}

pub(super) fn restore(card: &mut E1000e, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(E1000eConfig::KIND, 1)?;
    StateError::at_most("window", s.window, 0x1_ffff)?;
    let senders: Result<Vec<Sender>, StateError> = s.senders.iter().map(restore_sender).collect();
    let senders: [Sender; QUEUES] = senders
        .map_err(|e| e.within("senders"))?
        .try_into()
        .map_err(|_| StateError::new("senders", format!("expected {QUEUES} queues")))?;
    let not_before: [u64; VECTORS + 1] = s
        .not_before
        .try_into()
        .map_err(|_| StateError::new("not_before", format!("expected {} times", VECTORS + 1)))?;
    let (phy, words) = (Phy(exactly::<ALL>("phy", &s.phy)?), exactly::<WORDS>("nvm", &s.nvm)?);
    card.r = Values::restore(&s.registers)?;
    (card.phy, card.nvm.words, card.window, card.senders) = (phy, words, s.window, senders);
    card.i = Interrupts { signalled: s.signalled, pin: s.pin, not_before };
    card.timer.set(s.deadline);
    card.time_base = s.time_base;
    Ok(())
}
