//! The split ring (virtio 1.2, 2.7), on the `virtio-queue` crate's.

use std::sync::atomic::{Ordering, fence};

use guest_memory::DmaGuard;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use super::{Popped, QueueLayout, QueueState, Segments, Used};

/// The driver does not want to be told of used buffers (without event index).
const AVAIL_NO_INTERRUPT: u16 = 1;
/// Sizes in the rings.
const AVAIL_HEADER: u64 = 4;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// One of them.
pub(super) struct SplitRing {
    queue: Queue,
    /// Buffers popped and not yet pushed.
    outstanding: u16,
    /// The used index up to which the driver was told, or did not want to be.
    told: u16,
}

impl SplitRing {
    pub(super) fn new(
        layout: QueueLayout,
        event_idx: bool,
        state: QueueState,
    ) -> Result<Self, virtio_queue::Error> {
        let mut queue = Queue::new(layout.size)?;
        queue.try_set_desc_table_address(GuestAddress(layout.desc))?;
        queue.try_set_avail_ring_address(GuestAddress(layout.driver))?;
        queue.try_set_used_ring_address(GuestAddress(layout.device))?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(state.next_avail);
        queue.set_next_used(state.next_used);
        queue.set_ready(true);
        Ok(SplitRing { queue, outstanding: 0, told: state.next_used })
    }

    pub(super) fn is_mapped(&self, memory: &DmaGuard) -> bool {
        self.queue.is_valid(&**memory)
    }

    pub(super) fn state(&self) -> QueueState {
        QueueState {
            next_avail: self.queue.next_avail().wrapping_sub(self.outstanding),
            next_used: self.queue.next_used(),
        }
    }

    /// See [`super::Virtqueue::take_back`].
    #[cfg(target_os = "linux")]
    pub(super) fn take_back(&mut self, memory: &DmaGuard, next: Option<u16>) {
        let used = self.queue.used_idx(&**memory, Ordering::Acquire).map(|idx| idx.0);
        let used = used.unwrap_or_else(|_| self.queue.next_used());
        self.queue.set_next_used(used);
        self.queue.set_next_avail(next.unwrap_or(used));
        (self.outstanding, self.told) = (0, used);
    }

    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    pub(super) fn unpop(&mut self) {
        if self.outstanding > 0 {
            self.outstanding -= 1;
            self.queue.go_to_previous_position();
        }
    }

    pub(super) fn has_available(&self, memory: &DmaGuard) -> bool {
        let index = self.queue.avail_idx(&**memory, Ordering::Acquire);
        index.is_ok_and(|idx| idx.0 != self.queue.next_avail())
    }

    pub(super) fn disable_notification(&mut self, memory: &DmaGuard) -> Option<()> {
        self.queue.disable_notification(&**memory).ok()
    }

    pub(super) fn enable_notification(&mut self, memory: &DmaGuard) -> Option<bool> {
        if !self.queue.event_idx_enabled() {
            return self.queue.enable_notification(&**memory).ok();
        }
        // The crate asks to be told of the next buffer to pop. That one may be there already, with too few behind it
        // for what is to be done; the driver, which is past it, would never tell. So ask for the next it will add.
        let seen = self.queue.avail_idx(&**memory, Ordering::Acquire).ok()?.0;
        let event = USED_HEADER + u64::from(self.queue.size()) * USED_ELEMENT;
        let at = self.queue.used_ring().checked_add(event)?;
        memory.store(seen.to_le(), GuestAddress(at), Ordering::Relaxed).ok()?;
        // The wish must be visible before new buffers are looked for.
        fence(Ordering::SeqCst);
        let now = self.queue.avail_idx(&**memory, Ordering::Acquire).ok()?.0;
        Some(now != self.queue.next_avail())
    }

    pub(super) fn pop(&mut self, memory: &DmaGuard) -> Result<Option<Popped>, &'static str> {
        let size = self.queue.size();
        let mut available = self.queue.iter(&**memory).map_err(|e| match e {
            virtio_queue::Error::InvalidAvailRingIndex => "more buffers available than the ring has",
            _ => "the available ring is not in memory",
        })?;
        let Some(mut chain) = available.next() else { return Ok(None) };
        if self.outstanding >= size {
            return Err("more buffers in flight than the ring has");
        }
        let head = chain.head_index();
        if head >= size {
            return Err("a head beyond the descriptor table");
        }
        let mut segments = Segments::default();
        let mut ended = false;
        for descriptor in chain.by_ref().take(super::MAX_CHAIN) {
            ended = !descriptor.has_next();
            let (addr, len) = (descriptor.addr().raw_value(), descriptor.len());
            segments.add(memory, addr, len, descriptor.is_write_only())?;
        }
        if !ended {
            return Err("a chain that does not end, or leaves its table");
        }
        self.outstanding += 1;
        Ok(Some(Popped { id: head, descriptors: 1, segments: segments.list }))
    }

    /// These buffers are in flight no more.
    pub(super) fn returned(&mut self, used: &[Used]) {
        self.outstanding = self.outstanding.saturating_sub(used.len() as u16);
    }

    /// Writes used elements and then, once, the used index. `None` if the ring is not in memory.
    pub(super) fn add_used(&mut self, memory: &DmaGuard, used: &[Used]) -> Option<()> {
        let (last, before) = used.split_last()?;
        let (ring, size) = (self.queue.used_ring(), self.queue.size());
        for one in before {
            let next = self.queue.next_used();
            let at = ring.checked_add(USED_HEADER + u64::from(next % size) * USED_ELEMENT)?;
            let element = u64::from(one.id) | u64::from(one.len) << 32;
            memory.write_obj(element.to_le(), GuestAddress(at)).ok()?;
            self.queue.set_next_used(next.wrapping_add(1));
        }
        self.queue.add_used(&**memory, last.id, last.len).ok()
    }

    /// Whether the driver wants to be told of what was used since it was last told. The crate's own answer takes
    /// buffers to be used one by one, and knows no flags.
    pub(super) fn wants_interrupt(&mut self, memory: &DmaGuard) -> Result<bool, &'static str> {
        let (new, old) = (self.queue.next_used(), self.told);
        if new == old {
            return Ok(false);
        }
        self.told = new;
        // What was used must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let avail = self.queue.avail_ring();
        let read = |offset: u64| {
            let at = avail.checked_add(offset).ok_or(())?;
            memory.load::<u16>(GuestAddress(at), Ordering::Relaxed).map(u16::from_le).map_err(|_| ())
        };
        let wish = if self.queue.event_idx_enabled() {
            let event = AVAIL_HEADER + u64::from(self.queue.size()) * 2;
            // The event lies between what was told and what is new.
            read(event).map(|event| new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
        } else {
            read(0).map(|flags| flags & AVAIL_NO_INTERRUPT == 0)
        };
        wish.map_err(|()| "the available ring is not in memory")
    }
}
