//! A card's own rings for the back end: nothing is copied here then.

use vhost::{Backend, Error, Plan, Table};

use super::Shared;

/// Ethernet type of the frame by which a card's address is announced, and where it says whose.
const RARP: [u8; 2] = [0x80, 0x35];

/// The address that a frame announces, if that is all it does.
pub(super) fn announced(frame: &[u8]) -> Option<[u8; 6]> {
    (frame.get(12..14)? == RARP).then(|| frame.get(6..12)?.try_into().ok()).flatten()
}

impl Backend for Shared {
    fn features(&self) -> Option<u64> {
        self.state.lock().session.as_ref().map(|s| s.features())
    }

    fn maps_files(&self) -> bool {
        true
    }

    fn start(&self, plan: &Plan<'_>) -> Result<(), Error> {
        let mut state = self.state.lock();
        let offloads = state.offloads;
        state.session.as_mut().ok_or(Error::Gone)?.hand_over(plan, offloads)
    }

    fn set_memory(&self, memory: &Table) -> Result<(), Error> {
        self.state.lock().session.as_ref().ok_or(Error::Gone)?.set_memory(memory)
    }

    fn stop(&self) -> Option<Vec<u16>> {
        let mut state = self.state.lock();
        let offloads = state.offloads;
        state.session.as_mut()?.take_back(offloads)
    }
}
