//! A cable that keeps what is sent, for tests of cards.

use std::sync::Arc;

use net::{Endpoint, NetReceiver};
use parking_lot::Mutex;

use crate::NicBackend;

/// The address of a card that was given none.
pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

#[derive(Default)]
pub(crate) struct Cable {
    pub(crate) sent: Mutex<Vec<Vec<u8>>>,
    pub(crate) receiver: Mutex<Option<Box<dyn NetReceiver>>>,
    /// Bytes of virtio header before each frame.
    pub(crate) header: usize,
}

impl Endpoint for Cable {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.sent.lock().push(frame.concat());
        true
    }
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        *self.receiver.lock() = receiver;
    }
    fn vnet_header(&self) -> usize {
        self.header
    }
}

impl Cable {
    pub(crate) fn backend(self: &Arc<Self>) -> NicBackend {
        NicBackend(Some(self.clone()))
    }

    /// A frame comes in; false if the card has no room for it.
    pub(crate) fn arrives(&self, frame: &[u8]) -> bool {
        let mut receiver = self.receiver.lock();
        let receiver = receiver.as_mut().unwrap();
        let room = receiver.can_receive();
        receiver.receive(frame);
        room
    }

    /// The cable is plugged in or out.
    pub(crate) fn link(&self, up: bool) {
        self.receiver.lock().as_mut().unwrap().link(up);
    }

    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent.lock())
    }
}

/// A frame of a length, whose bytes count up behind its address.
pub(crate) fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| i as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame
}

/// How many cases the tests with random rings run: `RHEA_FUZZ_CASES`, or some.
pub(crate) fn fuzz_cases() -> u64 {
    std::env::var("RHEA_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}
