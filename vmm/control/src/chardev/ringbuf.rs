//! `ringbuf`: keeps the last bytes written, for the monitor to read.

use device::{CharBackend, CharReceiver};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// A bounded memory of what was written.
#[derive(Debug)]
pub struct Ringbuf {
    data: Mutex<VecDeque<u8>>,
    size: usize,
}

impl Ringbuf {
    /// Keeps up to `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { data: Mutex::default(), size }
    }

    /// Takes up to `size` of the oldest bytes out.
    pub fn take(&self, size: usize) -> Vec<u8> {
        let mut data = self.data.lock();
        let n = size.min(data.len());
        data.drain(..n).collect()
    }
}

impl CharBackend for Ringbuf {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut data = self.data.lock();
        // More than fits: only the end of it can be kept.
        let kept = &bytes[bytes.len().saturating_sub(self.size)..];
        let excess = (data.len() + kept.len()).saturating_sub(self.size);
        data.drain(..excess);
        data.extend(kept);
        bytes.len()
    }

    fn set_receiver(&self, _: Option<Box<dyn CharReceiver>>) {}
}
