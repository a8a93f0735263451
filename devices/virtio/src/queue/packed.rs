//! The packed ring (virtio 1.2, 2.8): one ring of descriptors that both sides write.
//!
//! Each side knows which descriptors are new by a bit that it compares with a counter of its own, which is inverted at
//! each turn of the ring. A buffer is one descriptor or several in a row; it is given back as one descriptor in the
//! place of the oldest that was not yet given back, and the places of its others are passed over.

use std::sync::atomic::{Ordering, fence};

use guest_memory::DmaGuard;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::{Popped, QueueLayout, QueueState, Segments, Used};

/// The wrap counter, in the top bit beside an index.
pub(super) const WRAP: u16 = 1 << 15;

/// Flags of a descriptor.
mod flag {
    pub(super) const NEXT: u16 = 1;
    pub(super) const WRITE: u16 = 2;
    pub(super) const INDIRECT: u16 = 4;
    pub(super) const AVAIL: u16 = 1 << 7;
    pub(super) const USED: u16 = 1 << 15;
}

/// What a side says of events in its suppression structure.
mod event {
    pub(super) const ENABLE: u16 = 0;
    pub(super) const DISABLE: u16 = 1;
    pub(super) const AT: u16 = 2;
}

/// Bytes of a descriptor and of a suppression structure.
const DESCRIPTOR: u64 = 16;
const SUPPRESSION: u64 = 4;

/// A place in the ring, with its wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u16,
    wrap: bool,
}

impl Place {
    fn new(bits: u16, size: u16) -> Option<Self> {
        let index = bits & !WRAP;
        (index < size).then_some(Place { index, wrap: bits & WRAP != 0 })
    }

    fn bits(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    /// The place `by` further on, at most a turn.
    fn after(self, by: u16, size: u16) -> Self {
        let to = u32::from(self.index) + u32::from(by);
        let over = to >= u32::from(size);
        Place { index: (to - if over { u32::from(size) } else { 0 }) as u16, wrap: self.wrap ^ over }
    }

    fn before(self, by: u16, size: u16) -> Self {
        let under = self.index < by;
        let index = u32::from(self.index) + if under { u32::from(size) } else { 0 } - u32::from(by);
        Place { index: index as u16, wrap: self.wrap ^ under }
    }

    /// How far it is from `other` to here, in two turns of the ring.
    fn since(self, other: Place, size: u16) -> u32 {
        let turn = u32::from(size);
        let at = |p: Place| u32::from(p.index) + if p.wrap { 0 } else { turn };
        (at(self) + 2 * turn - at(other)) % (2 * turn)
    }
}

/// A descriptor as it is in memory.
struct Descriptor {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

/// One of them.
pub(super) struct PackedRing {
    layout: QueueLayout,
    event_idx: bool,
    next_avail: Place,
    next_used: Place,
    /// Buffers popped and not yet pushed, and the descriptors they take.
    outstanding: (u16, u16),
    /// Descriptors given back since the driver was last told or did not want to be; at most two turns.
    untold: u32,
}

impl PackedRing {
    pub(super) fn new(
        layout: QueueLayout,
        event_idx: bool,
        state: QueueState,
    ) -> Result<Self, virtio_queue::Error> {
        if layout.size == 0 || layout.size >= WRAP {
            return Err(virtio_queue::Error::InvalidSize);
        }
        if !layout.desc.is_multiple_of(16) {
            return Err(virtio_queue::Error::InvalidDescTableAlign);
        }
        if !layout.driver.is_multiple_of(4) {
            return Err(virtio_queue::Error::InvalidAvailRingAlign);
        }
        if !layout.device.is_multiple_of(4) {
            return Err(virtio_queue::Error::InvalidUsedRingAlign);
        }
        let place = |bits| Place::new(bits, layout.size).ok_or(virtio_queue::Error::InvalidSize);
        Ok(PackedRing {
            next_avail: place(state.next_avail)?,
            next_used: place(state.next_used)?,
            layout,
            event_idx,
            outstanding: (0, 0),
            untold: 0,
        })
    }

    pub(super) fn is_mapped(&self, memory: &DmaGuard) -> bool {
        let l = &self.layout;
        let size = u64::from(l.size) * DESCRIPTOR;
        [
            (l.desc, size, Permissions::ReadWrite),
            (l.driver, SUPPRESSION, Permissions::Read),
            (l.device, SUPPRESSION, Permissions::Write),
        ]
        .into_iter()
        .all(|(at, len, access)| memory.check_range(GuestAddress(at), len as usize, access))
    }

    pub(super) fn state(&self) -> QueueState {
        let next_avail = self.next_avail.before(self.outstanding.1, self.layout.size);
        QueueState { next_avail: next_avail.bits(), next_used: self.next_used.bits() }
    }

    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding.0
    }

    pub(super) fn unpop(&mut self, descriptors: u16) {
        let (buffers, all) = self.outstanding;
        if buffers > 0 && all >= descriptors {
            self.outstanding = (buffers - 1, all - descriptors);
            self.next_avail = self.next_avail.before(descriptors, self.layout.size);
        }
    }

    fn at(&self, index: u16) -> Option<u64> {
        self.layout.desc.checked_add(u64::from(index) * DESCRIPTOR)
    }

    /// Flags of the descriptor at a place, before anything else of it is read.
    fn flags(&self, memory: &DmaGuard, index: u16) -> Option<u16> {
        let at = self.at(index)?.checked_add(14)?;
        memory.load::<u16>(GuestAddress(at), Ordering::Acquire).ok().map(u16::from_le)
    }

    /// The driver has written the descriptor at `place` in this turn.
    fn is_new(flags: u16, place: Place) -> bool {
        (flags & flag::AVAIL != 0) == place.wrap && (flags & flag::USED != 0) != place.wrap
    }

    fn read(memory: &DmaGuard, at: u64) -> Option<Descriptor> {
        let mut bytes = [0; DESCRIPTOR as usize];
        memory.read_slice(&mut bytes, GuestAddress(at)).ok()?;
        let word = |from: usize| {
            u32::from_le_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]])
        };
        Some(Descriptor {
            addr: u64::from(word(0)) | u64::from(word(4)) << 32,
            len: word(8),
            id: word(12) as u16,
            flags: (word(12) >> 16) as u16,
        })
    }

    pub(super) fn has_available(&self, memory: &DmaGuard) -> bool {
        let flags = self.flags(memory, self.next_avail.index);
        flags.is_some_and(|f| Self::is_new(f, self.next_avail)) && self.outstanding.1 < self.layout.size
    }

    pub(super) fn pop(&mut self, memory: &DmaGuard) -> Result<Option<Popped>, &'static str> {
        const OUTSIDE: &str = "the descriptor ring is not in memory";
        let size = self.layout.size;
        let free = size - self.outstanding.1;
        if free == 0 {
            // All of the ring is in flight: what looks new there is what was popped.
            return Ok(None);
        }
        let flags = self.flags(memory, self.next_avail.index).ok_or(OUTSIDE)?;
        if !Self::is_new(flags, self.next_avail) {
            return Ok(None);
        }
        let mut segments = Segments::default();
        let mut place = self.next_avail;
        let mut count = 0;
        let id = loop {
            let one = self.at(place.index).and_then(|at| Self::read(memory, at)).ok_or(OUTSIDE)?;
            count += 1;
            place = place.after(1, size);
            let next = one.flags & flag::NEXT != 0;
            if one.flags & flag::INDIRECT != 0 {
                if next || count > 1 {
                    return Err("an indirect table inside a chain");
                }
                Self::table(memory, one.addr, one.len, &mut segments)?;
            } else {
                segments.add(memory, one.addr, one.len, one.flags & flag::WRITE != 0)?;
            }
            if !next {
                break one.id;
            }
            if count >= free {
                return Err("a chain that does not end, or runs into buffers in flight");
            }
        };
        self.next_avail = place;
        self.outstanding = (self.outstanding.0 + 1, self.outstanding.1 + count);
        Ok(Some(Popped { id, descriptors: count, segments: segments.list }))
    }

    /// Collects the descriptors of an indirect table: all of it, in order.
    fn table(memory: &DmaGuard, addr: u64, len: u32, segments: &mut Segments) -> Result<(), &'static str> {
        let count = u64::from(len) / DESCRIPTOR;
        if u64::from(len) % DESCRIPTOR != 0 || count == 0 || count > super::MAX_CHAIN as u64 {
            return Err("an indirect table of an odd length");
        }
        for i in 0..count {
            let at = addr.checked_add(i * DESCRIPTOR);
            let one = at.and_then(|at| Self::read(memory, at)).ok_or("an indirect table outside memory")?;
            if one.flags & flag::INDIRECT != 0 {
                return Err("an indirect table in an indirect table");
            }
            segments.add(memory, one.addr, one.len, one.flags & flag::WRITE != 0)?;
        }
        Ok(())
    }

    /// These buffers are in flight no more.
    pub(super) fn returned(&mut self, used: &[Used]) {
        for one in used {
            let (buffers, all) = self.outstanding;
            self.outstanding = (buffers.saturating_sub(1), all.saturating_sub(one.descriptors));
        }
    }

    /// Writes used descriptors; the first one's flags come last, so that the driver sees none or all of them. `None` if
    /// the ring is not in memory.
    pub(super) fn add_used(&mut self, memory: &DmaGuard, used: &[Used]) -> Option<()> {
        let size = self.layout.size;
        let mut first = None;
        for one in used {
            let place = self.next_used;
            let at = self.at(place.index)?;
            memory.write_obj(one.len.to_le(), GuestAddress(at.checked_add(8)?)).ok()?;
            memory.write_obj(one.id.to_le(), GuestAddress(at.checked_add(12)?)).ok()?;
            let mut flags = if place.wrap { flag::AVAIL | flag::USED } else { 0 };
            flags |= if one.len > 0 { flag::WRITE } else { 0 };
            let at = GuestAddress(at.checked_add(14)?);
            if first.is_none() {
                first = Some((flags, at));
            } else {
                memory.store(flags.to_le(), at, Ordering::Release).ok()?;
            }
            self.next_used = place.after(one.descriptors.min(size), size);
            self.untold = (self.untold + u32::from(one.descriptors)).min(2 * u32::from(size));
        }
        let (flags, at) = first?;
        memory.store(flags.to_le(), at, Ordering::Release).ok()
    }

    /// Whether the driver wants to be told of what was used since it was last told.
    pub(super) fn wants_interrupt(&mut self, memory: &DmaGuard) -> Result<bool, &'static str> {
        let untold = std::mem::take(&mut self.untold);
        if untold == 0 {
            return Ok(false);
        }
        // What was used must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let read = |offset: u64| {
            let at = self.layout.driver.checked_add(offset)?;
            memory.load::<u16>(GuestAddress(at), Ordering::Relaxed).ok().map(u16::from_le)
        };
        let (at, flags) = read(0).zip(read(2)).ok_or("the driver's event structure is not in memory")?;
        Ok(match flags & 3 {
            event::DISABLE => false,
            event::AT if self.event_idx => match Place::new(at, self.layout.size) {
                // The place lies among those given back.
                Some(place) => (1..=untold).contains(&self.next_used.since(place, self.layout.size)),
                None => true,
            },
            _ => true,
        })
    }

    pub(super) fn disable_notification(&mut self, memory: &DmaGuard) -> Option<()> {
        self.tell(memory, event::DISABLE)
    }

    pub(super) fn enable_notification(&mut self, memory: &DmaGuard) -> Option<bool> {
        if self.event_idx {
            // The first place that the driver has not filled: those before it may be too few for what is to be done.
            let size = self.layout.size;
            let free = size - self.outstanding.1;
            let mut place = self.next_avail;
            for _ in 0..free {
                if !Self::is_new(self.flags(memory, place.index)?, place) {
                    break;
                }
                place = place.after(1, size);
            }
            let bits = place.bits();
            memory.store(bits.to_le(), GuestAddress(self.layout.device), Ordering::Relaxed).ok()?;
            self.tell(memory, event::AT)?;
        } else {
            self.tell(memory, event::ENABLE)?;
        }
        // The wish must be visible before new buffers are looked for.
        fence(Ordering::SeqCst);
        self.flags(memory, self.next_avail.index)?;
        Some(self.has_available(memory))
    }

    fn tell(&self, memory: &DmaGuard, flags: u16) -> Option<()> {
        let at = self.layout.device.checked_add(2)?;
        memory.store(flags.to_le(), GuestAddress(at), Ordering::Release).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_turn() {
        let place = |index, wrap| Place { index, wrap };
        assert_eq!(place(6, true).after(3, 8), place(1, false));
        assert_eq!(place(1, false).before(3, 8), place(6, true));
        assert_eq!(place(0, true).after(8, 8), place(0, false));
        assert_eq!(place(1, false).since(place(6, true), 8), 3);
        assert_eq!(place(6, true).since(place(1, false), 8), 13);
        assert_eq!(Place::new(WRAP | 8, 8), None);
        assert_eq!(Place::new(WRAP | 7, 8).unwrap().bits(), WRAP | 7);
    }
}
