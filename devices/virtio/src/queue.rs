//! A running queue (virtio 1.2, 2.6 and 2.7), on the `virtio-queue` crate's split ring.
//!
//! Everything in a ring is the guest's word. A chain is followed once, when it is popped, with a bound on its
//! length; its buffers are checked to lie in RAM and are never looked up in the table again. What is not as the
//! specification wants it puts the device into "needs reset", after which the queue is silent.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ::device::Dma;
use guest_memory::DmaGuard;
use parking_lot::Mutex;
use smallvec::SmallVec;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, Permissions};

use crate::chain::{Chain, Segment};
use crate::device::Notifier;

/// Longest chain in descriptors.
pub const MAX_CHAIN: usize = 1024;

/// How far a queue has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Index of the next entry to take from the available ring.
    pub next_avail: u16,
    /// Index of the next entry to fill in the used ring.
    pub next_used: u16,
}

/// Where the driver has put a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of entries, a power of two.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub desc: u64,
    /// Guest physical address of the driver area (available ring).
    pub driver: u64,
    /// Guest physical address of the device area (used ring).
    pub device: u64,
}

struct Ring {
    queue: Queue,
    /// Buffers popped and not yet pushed.
    outstanding: u16,
    /// The used index up to which the driver was told, or did not want to be.
    told: u16,
}

/// A queue between driver and device. Usable from several threads.
pub struct Virtqueue {
    index: u16,
    layout: QueueLayout,
    dma: Dma,
    notifier: Arc<dyn Notifier>,
    ring: Mutex<Ring>,
}

/// The driver does not want to be told of used buffers (without event index).
const AVAIL_NO_INTERRUPT: u16 = 1;
/// Sizes in the rings.
const AVAIL_HEADER: u64 = 4;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

impl Virtqueue {
    /// A queue that goes on from `state`; the error says what is wrong with the layout. Whether the ring lies in
    /// memory is seen when it is used.
    pub fn new(
        index: u16,
        layout: QueueLayout,
        event_idx: bool,
        state: QueueState,
        dma: Dma,
        notifier: Arc<dyn Notifier>,
    ) -> Result<Self, virtio_queue::Error> {
        let mut queue = Queue::new(layout.size)?;
        queue.try_set_desc_table_address(GuestAddress(layout.desc))?;
        queue.try_set_avail_ring_address(GuestAddress(layout.driver))?;
        queue.try_set_used_ring_address(GuestAddress(layout.device))?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(state.next_avail);
        queue.set_next_used(state.next_used);
        queue.set_ready(true);
        Ok(Virtqueue {
            index,
            layout,
            dma,
            notifier,
            ring: Mutex::new(Ring { queue, outstanding: 0, told: state.next_used }),
        })
    }

    /// Number of the queue in its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Where the ring lies.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// Whether the whole ring lies in RAM now.
    pub fn is_mapped(&self) -> bool {
        self.ring.lock().queue.is_valid(&*self.dma.memory())
    }

    /// Where the queue stands. Buffers popped and not yet pushed count as not popped: all of them must have been
    /// popped after those pushed already, as is so when there are none or when they are used in order.
    pub fn state(&self) -> QueueState {
        let ring = self.ring.lock();
        QueueState {
            next_avail: ring.queue.next_avail().wrapping_sub(ring.outstanding),
            next_used: ring.queue.next_used(),
        }
    }

    /// Buffers popped and not yet pushed.
    pub fn outstanding(&self) -> u16 {
        self.ring.lock().outstanding
    }

    /// The driver has broken the queue (or the protocol above it).
    pub fn fail(&self, why: &str) {
        self.notifier.needs_reset(format_args!("queue {}: {why}", self.index));
    }

    /// Whether the device must be reset before anything moves again.
    pub fn is_broken(&self) -> bool {
        self.notifier.is_broken()
    }

    /// Takes the next buffer, if there is one.
    pub fn pop(&self) -> Option<Chain> {
        if self.notifier.is_broken() {
            return None;
        }
        let memory = self.dma.memory();
        let popped = self.ring.lock().pop(&memory);
        match popped {
            Ok(Some((head, segments))) => Some(Chain::new(head, segments, memory)),
            Ok(None) => None,
            Err(why) => {
                self.fail(why);
                None
            }
        }
    }

    /// Puts the buffer popped last back, as if it had not been popped.
    pub fn unpop(&self, chain: Chain) {
        drop(chain);
        let mut ring = self.ring.lock();
        if ring.outstanding > 0 {
            ring.outstanding -= 1;
            ring.queue.go_to_previous_position();
        }
    }

    /// Whether there is a buffer to pop.
    pub fn has_available(&self) -> bool {
        let ring = self.ring.lock();
        ring.queue
            .avail_idx(&*self.dma.memory(), Ordering::Acquire)
            .is_ok_and(|idx| idx.0 != ring.queue.next_avail())
    }

    /// Gives a buffer back, with what was written to it. The driver learns of it by [`Virtqueue::signal`].
    pub fn push(&self, chain: Chain) {
        self.push_all([chain]);
    }

    /// Gives several buffers back, in order and at once: the driver sees none or all of them.
    pub fn push_all(&self, chains: impl IntoIterator<Item = Chain>) {
        let used: SmallVec<[(u16, u32); 8]> = chains.into_iter().map(|c| (c.head(), c.written())).collect();
        let mut ring = self.ring.lock();
        ring.outstanding = ring.outstanding.saturating_sub(used.len() as u16);
        if !self.notifier.is_broken() && ring.add_used(&self.dma.memory(), &used).is_none() {
            drop(ring);
            self.fail("the used ring is not in memory");
        }
    }

    /// Tells the driver of the buffers pushed, if it wants to know.
    pub fn signal(&self) {
        if self.notifier.is_broken() {
            return;
        }
        let wanted = self.ring.lock().wants_interrupt(&self.dma.memory());
        match wanted {
            Ok(true) => self.notifier.used(self.index),
            Ok(false) => {}
            Err(why) => self.fail(why),
        }
    }

    /// Asks the driver not to notify of new buffers for the time being. Only a hint.
    pub fn disable_notification(&self) {
        if !self.notifier.is_broken() {
            let _ = self.ring.lock().queue.disable_notification(&*self.dma.memory());
        }
    }

    /// Asks the driver to notify of new buffers; true if there are some already.
    pub fn enable_notification(&self) -> bool {
        if self.notifier.is_broken() {
            return false;
        }
        let enabled = self.ring.lock().queue.enable_notification(&*self.dma.memory());
        enabled.unwrap_or_else(|_| {
            self.fail("the used ring is not in memory");
            false
        })
    }

    /// Deals with the available buffers one by one: `each` pushes the buffer or keeps it and returns whether to
    /// go on. At most a few rounds of the ring, so that a driver that keeps filling it cannot hold the thread.
    pub fn drain(&self, mut each: impl FnMut(Chain) -> bool) -> crate::Progress {
        let mut budget = 4 * u32::from(self.layout.size);
        let mut stopped = false;
        loop {
            self.disable_notification();
            while budget > 0 && !stopped {
                let Some(chain) = self.pop() else { break };
                budget -= 1;
                stopped = !each(chain);
            }
            let more = self.enable_notification();
            if stopped || !more || self.is_broken() {
                self.signal();
                return crate::Progress::Done;
            }
            if budget == 0 {
                self.signal();
                return crate::Progress::More;
            }
        }
    }
}

impl Ring {
    fn pop(&mut self, memory: &DmaGuard) -> Result<Option<(u16, Vec<Segment>)>, &'static str> {
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
        let mut segments: Vec<Segment> = Vec::new();
        let mut ended = false;
        let mut total = 0u32;
        for descriptor in chain.by_ref().take(MAX_CHAIN) {
            ended = !descriptor.has_next();
            let (addr, len, writable) = (descriptor.addr(), descriptor.len(), descriptor.is_write_only());
            if !writable && segments.last().is_some_and(|s| s.writable) {
                return Err("a readable buffer after a writable one");
            }
            total = total.checked_add(len).ok_or("a chain of more than 4 GiB")?;
            if len == 0 {
                continue;
            }
            let access = if writable { Permissions::Write } else { Permissions::Read };
            if !memory.check_range(addr, len as usize, access) {
                return Err("a buffer outside memory");
            }
            segments.push(Segment { addr: addr.raw_value(), len, writable });
        }
        if !ended {
            return Err("a chain that does not end, or leaves its table");
        }
        self.outstanding += 1;
        Ok(Some((head, segments)))
    }

    /// Writes used elements and then, once, the used index. `None` if the ring is not in memory.
    fn add_used(&mut self, memory: &DmaGuard, used: &[(u16, u32)]) -> Option<()> {
        let (&(last, len), before) = used.split_last()?;
        let (ring, size) = (self.queue.used_ring(), self.queue.size());
        for &(head, len) in before {
            let next = self.queue.next_used();
            let at = ring.checked_add(USED_HEADER + u64::from(next % size) * USED_ELEMENT)?;
            let element = u64::from(head) | u64::from(len) << 32;
            memory.write_obj(element.to_le(), GuestAddress(at)).ok()?;
            self.queue.set_next_used(next.wrapping_add(1));
        }
        self.queue.add_used(&**memory, last, len).ok()
    }

    /// Whether the driver wants to be told of what was used since it was last told. The crate's own answer takes
    /// buffers to be used one by one, and knows no flags.
    fn wants_interrupt(&mut self, memory: &DmaGuard) -> Result<bool, &'static str> {
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
