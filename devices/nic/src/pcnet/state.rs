//! Saved state of the card.

use device::{Bytes, StateBlob, StateError};
use pci::PciConfig;

use super::{BCRS, CSRS, MAX_FRAME, Pcnet, PcnetConfig};

device::state! {
    /// Version 1.
    struct V1 { 1 => csr: Vec<u16>, 2 => bcr: Vec<u16>, 3 => selected: u16, 4 => frame: Bytes }
}

pub(super) fn save(card: &Pcnet) -> StateBlob {
    let state = V1 {
        csr: card.csr.to_vec(),
        bcr: card.bcr.to_vec(),
        selected: card.selected,
        frame: Bytes(card.frame.clone()),
    };
    StateBlob::new(PcnetConfig::KIND, 1, &state)
}

pub(super) fn restore(card: &mut Pcnet, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(PcnetConfig::KIND, 1)?;
    let size = |field: &str, n: usize| StateError::new(field, format!("expected {n} registers"));
    let csr = <[u16; CSRS]>::try_from(s.csr).map_err(|_| size("csr", CSRS))?;
    let bcr = <[u16; BCRS]>::try_from(s.bcr).map_err(|_| size("bcr", BCRS))?;
    StateError::at_most("selected", s.selected, 0x7f)?;
    StateError::at_most("frame", s.frame.0.len(), MAX_FRAME)?;
    (card.csr, card.bcr, card.selected, card.frame) = (csr, bcr, s.selected, s.frame.0);
    Ok(())
}
