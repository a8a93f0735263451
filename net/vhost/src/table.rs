//! The guest's memory as a back end is given it.
//!
//! What touches in the guest and in its block becomes one piece. What a window hides (a display's, or memory of system management)
//! is left out: a back end is as much kept from it as any bus master.

use std::sync::Arc;

use guest_memory::{GuestRam, RamBlock};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// A piece of memory.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Guest physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// What it is part of.
    pub block: Arc<RamBlock>,
    /// Where it begins in that.
    pub offset: u64,
}

impl Piece {
    /// Where it begins in this process.
    pub fn host(&self) -> u64 {
        self.block.host_ptr().as_ptr() as u64 + self.offset
    }
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        let place = |p: &Piece| (p.guest, p.size, p.offset);
        place(self) == place(other) && Arc::ptr_eq(&self.block, &other.block)
    }
}

/// All pieces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(Vec<Piece>);

impl Table {
    /// The RAM of an address space; with `files` only what other processes can map.
    pub fn of(ram: &GuestRam, files: bool) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        for region in ram.iter() {
            let (block, offset) = region.block();
            if files && (!block.shared() || block.file().is_none()) {
                continue;
            }
            let (guest, size) = (region.start_addr().0, region.len());
            let touches = |p: &&mut Piece| {
                Arc::ptr_eq(&p.block, block) && p.guest + p.size == guest && p.offset + p.size == offset
            };
            match pieces.last_mut().filter(touches) {
                Some(piece) => piece.size += size,
                None => pieces.push(Piece { guest, size, block: block.clone(), offset }),
            }
        }
        Table(pieces)
    }

    /// The pieces.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody has to see each write: a migration records all of the machine's blocks, a display its own alone.
    pub fn is_recorded(&self) -> bool {
        self.0.iter().all(|p| p.block.dirty().tracking())
    }

    /// Where `length` bytes at a guest physical address are in this process.
    pub fn host(&self, address: u64, length: u64) -> Option<u64> {
        self.0.iter().find_map(|p| {
            let at = address.checked_sub(p.guest)?;
            (at.checked_add(length)? <= p.size).then(|| p.host() + at)
        })
    }
}
