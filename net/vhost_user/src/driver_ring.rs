//! The driver's end of a split ring (virtio 1.2, 2.7) in memory of our own, each entry of one descriptor.
//!
//! Invariant: `out[id]` says whether the device has descriptor `id`; what it gives back without having it is ignored.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use guest_memory::{RamBlock, RamError};

use crate::VringAddress;

const WRITABLE: u16 = 2;
/// Offset of the index in either ring of indices, and of the entries.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;

/// A ring that we put buffers into.
pub struct DriverRing {
    memory: Arc<RamBlock>,
    at: u64,
    size: u16,
    next: u16,
    seen: u16,
    out: Vec<bool>,
}

impl DriverRing {
    /// Bytes that a ring of `size` entries takes.
    pub fn length(size: u16) -> u64 {
        let n = u64::from(size);
        (16 * n + 6 + 2 * n).next_multiple_of(8) + 6 + 8 * n
    }

    /// A ring of `size` entries (a power of two) at `at`, a multiple of 16, of `memory`.
    ///
    /// # Errors
    /// It does not lie there.
    pub fn new(memory: Arc<RamBlock>, at: u64, size: u16) -> Result<Self, RamError> {
        memory.fill(at, Self::length(size), 0)?;
        Ok(DriverRing { memory, at, size, next: 0, seen: 0, out: vec![false; size.into()] })
    }

    /// Where it is for a back end to whom `memory` begins at `user`.
    pub fn address(&self, index: u32, user: u64) -> VringAddress {
        VringAddress {
            index,
            descriptors: user + self.at,
            available: user + self.available(),
            used: user + self.used(),
            ..VringAddress::default()
        }
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    fn available(&self) -> u64 {
        self.at + 16 * u64::from(self.size)
    }

    fn used(&self) -> u64 {
        (self.available() + 6 + 2 * u64::from(self.size)).next_multiple_of(8)
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.size - 1))
    }

    /// Puts descriptor `id` into the ring: a buffer at guest physical address `guest`. The device sees it after
    /// [`DriverRing::publish`].
    pub fn post(&mut self, id: u16, guest: u64, length: u32, writable: bool) -> Result<(), RamError> {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&guest.to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&(if writable { WRITABLE } else { 0 }).to_le_bytes());
        self.memory.write(self.at + 16 * self.slot(id), &descriptor)?;
        let entry = self.available() + ENTRIES + 2 * self.slot(self.next);
        self.memory.store(entry, id.to_le(), Ordering::Relaxed)?;
        self.next = self.next.wrapping_add(1);
        let index = usize::from(id & (self.size - 1));
        self.out[index] = true;
        Ok(())
    }

    /// Shows the device all that was posted; whether it is to be woken.
    pub fn publish(&mut self) -> Result<bool, RamError> {
        self.memory.store(self.available() + INDEX, self.next.to_le(), Ordering::Release)?;
        // What the device says about waking must be read after it can have seen the index.
        fence(Ordering::SeqCst);
        let flags: u16 = self.memory.load(self.used(), Ordering::Relaxed)?;
        Ok(u16::from_le(flags) & 1 == 0)
    }

    /// Says whether the device is to wake us.
    pub fn set_quiet(&mut self, quiet: bool) -> Result<(), RamError> {
        self.memory.store(self.available(), u16::from(quiet).to_le(), Ordering::Relaxed)?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// The next entry that the device has given back, and how much it wrote.
    pub fn take(&mut self) -> Result<Option<(u16, u32)>, RamError> {
        loop {
            let index: u16 = self.memory.load(self.used() + INDEX, Ordering::Acquire)?;
            if u16::from_le(index) == self.seen {
                return Ok(None);
            }
            let entry = self.used() + ENTRIES + 8 * self.slot(self.seen);
            let id = u32::from_le(self.memory.load(entry, Ordering::Relaxed)?);
            let length = u32::from_le(self.memory.load(entry + 4, Ordering::Relaxed)?);
            self.seen = self.seen.wrapping_add(1);
            if let Some(out) = self.out.get_mut(id as usize).filter(|o| **o) {
                *out = false;
                return Ok(Some((id as u16, length)));
            }
        }
    }
}
