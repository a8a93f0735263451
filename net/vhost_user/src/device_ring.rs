//! The device's end of a split ring (virtio 1.2, 2.7) in a front end's memory.
//!
//! Everything in a ring is the driver's word: a chain is followed once, with a bound on its length, and its buffers are
//! checked to lie in memory.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::memory::Place;
use crate::message::request;
use crate::{Error, Memory, VringAddress};

const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const INDIRECT: u16 = 4;
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
/// Longest chain.
const LONGEST: usize = 1024;

/// A piece of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address; it lies in memory.
    pub guest: u64,
    /// Bytes, at least one.
    pub length: u32,
    /// The device writes here; else it reads.
    pub writable: bool,
}

/// A buffer: pieces to read, then pieces to write.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// By which it is given back.
    pub id: u16,
    /// Its pieces in order.
    pub segments: Vec<Segment>,
}

/// A ring that we take buffers from.
pub struct DeviceRing {
    memory: Arc<Memory>,
    descriptors: Place,
    available: Place,
    used: Place,
    size: u16,
    event_idx: bool,
    next: u16,
    used_next: u16,
    /// Where `used_next` was when the driver was last told.
    told: u16,
}

fn bad(why: &str) -> Error {
    Error::protocol(request::SET_VRING_ADDR, why)
}

impl DeviceRing {
    /// A ring at these addresses of the front end's, which goes on at entry `base`.
    ///
    /// # Errors
    /// It is not in memory, or its size is none.
    pub fn new(
        memory: Arc<Memory>,
        address: &VringAddress,
        (size, base): (u16, u16),
        event_idx: bool,
    ) -> Result<Self, Error> {
        if !size.is_power_of_two() || size > 32768 {
            return Err(bad("expected a power of two of entries"));
        }
        let n = u64::from(size);
        let place = |at: u64, length, align: u64| {
            memory
                .at_user(at, length)
                .filter(|p| p.offset.is_multiple_of(align))
                .ok_or_else(|| bad("a ring outside memory"))
        };
        let descriptors = place(address.descriptors, 16 * n, 16)?;
        let available = place(address.available, 6 + 2 * n, 2)?;
        let used = place(address.used, 6 + 8 * n, 4)?;
        let mut ring = DeviceRing {
            descriptors,
            available,
            used,
            size,
            event_idx,
            next: base,
            used_next: 0,
            told: 0,
            memory,
        };
        ring.used_next = ring.index(&ring.used)?;
        ring.told = ring.used_next;
        Ok(ring)
    }

    /// The memory buffers are in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The entry that is taken next.
    pub fn base(&self) -> u16 {
        self.next
    }

    fn u16_at(&self, place: &Place, at: u64) -> Result<u16, Error> {
        let value = place.block.load::<u16>(place.offset + at, Ordering::Acquire);
        value.map(u16::from_le).map_err(|_| bad("a ring outside memory"))
    }

    fn set_u16(&self, place: &Place, at: u64, value: u16) -> Result<(), Error> {
        let done = place.block.store(place.offset + at, value.to_le(), Ordering::Release);
        done.map_err(|_| bad("a ring outside memory"))
    }

    fn index(&self, place: &Place) -> Result<u16, Error> {
        self.u16_at(place, INDEX)
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.size - 1))
    }

    /// Takes the next buffer.
    ///
    /// # Errors
    /// The driver has broken the ring.
    pub fn pop(&mut self) -> Result<Option<Chain>, Error> {
        let index = self.index(&self.available)?;
        match index.wrapping_sub(self.next) {
            0 => return Ok(None),
            ahead if ahead > self.size => return Err(bad("more entries than the ring has")),
            _ => {}
        }
        let id = self.u16_at(&self.available, ENTRIES + 2 * self.slot(self.next))?;
        let chain = self.follow(id)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(chain))
    }

    fn follow(&self, id: u16) -> Result<Chain, Error> {
        let mut chain = Chain { id, segments: Vec::new() };
        let table = Place { block: self.descriptors.block.clone(), offset: self.descriptors.offset };
        let (mut table, mut entries, mut at, mut inner) = (table, u64::from(self.size), u64::from(id), false);
        for _ in 0..LONGEST {
            if at >= entries {
                return Err(bad("a descriptor beyond the table"));
            }
            let mut d = [0; 16];
            table.block.read(table.offset + 16 * at, &mut d).map_err(|_| bad("a table outside memory"))?;
            let [a, b, c, e, f, g, h, i, l0, l1, l2, l3, f0, f1, n0, n1] = d;
            let (guest, length) =
                (u64::from_le_bytes([a, b, c, e, f, g, h, i]), u32::from_le_bytes([l0, l1, l2, l3]));
            let (flags, next) = (u16::from_le_bytes([f0, f1]), u16::from_le_bytes([n0, n1]));
            if flags & INDIRECT != 0 {
                if inner || flags & NEXT != 0 || length == 0 || length % 16 != 0 {
                    return Err(bad("a table of descriptors where there can be none"));
                }
                table = self
                    .memory
                    .at_guest(guest, length.into())
                    .ok_or_else(|| bad("a table outside memory"))?;
                (entries, at, inner) = (u64::from(length / 16), 0, true);
                continue;
            }
            let writable = flags & WRITABLE != 0;
            if !writable && chain.segments.last().is_some_and(|s| s.writable) {
                return Err(bad("a piece to read behind one to write"));
            }
            if length > 0 {
                if !self.memory.contains(guest, length.into()) {
                    return Err(bad("a buffer outside memory"));
                }
                chain.segments.push(Segment { guest, length, writable });
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            at = next.into();
        }
        Err(bad("a chain without end"))
    }

    /// Gives a buffer back, of which `written` bytes were written; the driver sees it at once.
    ///
    /// # Errors
    /// The ring is gone.
    pub fn push(&mut self, id: u16, written: u32) -> Result<(), Error> {
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&u32::from(id).to_le_bytes());
        entry[4..].copy_from_slice(&written.to_le_bytes());
        let at = self.used.offset + ENTRIES + 8 * self.slot(self.used_next);
        self.used.block.write(at, &entry).map_err(|_| bad("a ring outside memory"))?;
        self.used_next = self.used_next.wrapping_add(1);
        self.set_u16(&self.used, INDEX, self.used_next)
    }

    /// Whether the driver is to be woken for what was given back since it last was.
    ///
    /// # Errors
    /// The ring is gone.
    pub fn wants_call(&mut self) -> Result<bool, Error> {
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return Ok(self.used_next != std::mem::replace(&mut self.told, self.used_next)
                && self.u16_at(&self.available, 0)? & 1 == 0);
        }
        let event = self.u16_at(&self.available, ENTRIES + 2 * u64::from(self.size))?;
        let (new, old) = (self.used_next, std::mem::replace(&mut self.told, self.used_next));
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Says whether the driver is to wake us for new buffers. After saying yes, look once more.
    ///
    /// # Errors
    /// The ring is gone.
    pub fn set_awake(&mut self, awake: bool) -> Result<(), Error> {
        if !self.event_idx {
            self.set_u16(&self.used, 0, u16::from(!awake))?;
        } else if awake {
            self.set_u16(&self.used, ENTRIES + 8 * u64::from(self.size), self.next)?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }
}
