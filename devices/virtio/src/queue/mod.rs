//! A running queue (virtio 1.2, 2.6), on either kind of ring.
//!
//! Everything in a ring is the guest's word. A chain is followed once, when it is popped, with a bound on its
//! length; its buffers are checked to lie in RAM and are never looked up in the table again. What is not as the
//! specification wants it puts the device into "needs reset", after which the queue is silent.

mod packed;
mod split;

use std::sync::Arc;

use ::device::Dma;
use guest_memory::DmaGuard;
use parking_lot::Mutex;
use smallvec::SmallVec;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemory, Permissions};

use self::packed::PackedRing;
use self::split::SplitRing;
use crate::chain::{Chain, Segment};
use crate::device::Notifier;

/// Longest chain in descriptors.
pub const MAX_CHAIN: usize = 1024;

/// How far a queue has got. In a packed ring the top bit is the wrap counter, as in its event fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Index of the next entry to take from the available ring.
    pub next_avail: u16,
    /// Index of the next entry to fill in the used ring.
    pub next_used: u16,
}

impl QueueState {
    /// Where a queue begins.
    pub fn start(kind: RingKind) -> Self {
        let first = if kind.packed { packed::WRAP } else { 0 };
        QueueState { next_avail: first, next_used: first }
    }
}

/// What driver and device have agreed on for their rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingKind {
    /// Event indices are in use.
    pub event_idx: bool,
    /// Rings are packed.
    pub packed: bool,
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

/// A buffer as a ring gives it: checked.
struct Popped {
    id: u16,
    /// Descriptors of the ring that it takes.
    descriptors: u16,
    segments: Vec<Segment>,
}

/// A buffer as it is given back.
struct Used {
    id: u16,
    len: u32,
    descriptors: u16,
}

/// The pieces of a buffer as they are collected.
#[derive(Default)]
struct Segments {
    list: Vec<Segment>,
    total: u32,
}

impl Segments {
    fn add(&mut self, memory: &DmaGuard, addr: u64, len: u32, writable: bool) -> Result<(), &'static str> {
        if !writable && self.list.last().is_some_and(|s| s.writable) {
            return Err("a readable buffer after a writable one");
        }
        self.total = self.total.checked_add(len).ok_or("a chain of more than 4 GiB")?;
        if len == 0 {
            return Ok(());
        }
        let access = if writable { Permissions::Write } else { Permissions::Read };
        if !memory.check_range(GuestAddress(addr), len as usize, access) {
            return Err("a buffer outside memory");
        }
        self.list.push(Segment { addr, len, writable });
        Ok(())
    }
}

enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// Calls the same method of either ring.
macro_rules! either {
    ($ring:expr, $r:ident => $call:expr) => {
        match $ring {
            Ring::Split($r) => $call,
            Ring::Packed($r) => $call,
        }
    };
}

/// A queue between driver and device. Usable from several threads.
pub struct Virtqueue {
    index: u16,
    layout: QueueLayout,
    dma: Dma,
    notifier: Arc<dyn Notifier>,
    ring: Mutex<Ring>,
}

impl Virtqueue {
    /// A queue that goes on from `state`; the error says what is wrong with the layout. Whether the ring lies in
    /// memory is seen when it is used.
    pub fn new(
        index: u16,
        layout: QueueLayout,
        kind: RingKind,
        state: QueueState,
        dma: Dma,
        notifier: Arc<dyn Notifier>,
    ) -> Result<Self, virtio_queue::Error> {
        let ring = if kind.packed {
            Ring::Packed(PackedRing::new(layout, kind.event_idx, state)?)
        } else {
            Ring::Split(SplitRing::new(layout, kind.event_idx, state)?)
        };
        Ok(Virtqueue { index, layout, dma, notifier, ring: Mutex::new(ring) })
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
        either!(&*self.ring.lock(), r => r.is_mapped(&self.dma.memory()))
    }

    /// Where the queue stands. Buffers popped and not yet pushed count as not popped: all of them must have been
    /// popped after those pushed already, as is so when there are none or when they are used in order.
    pub fn state(&self) -> QueueState {
        either!(&*self.ring.lock(), r => r.state())
    }

    /// Whether its ring is packed.
    pub fn is_packed(&self) -> bool {
        matches!(*self.ring.lock(), Ring::Packed(_))
    }

    /// Goes on where somebody else has left the (split) ring: at entry `next` of the available ring, or behind what was used if
    /// that is all there is to know.
    #[cfg(target_os = "linux")]
    pub(crate) fn take_back(&self, memory: &DmaGuard, next: Option<u16>) {
        if let Ring::Split(ring) = &mut *self.ring.lock() {
            ring.take_back(memory, next);
        }
    }

    /// Buffers popped and not yet pushed.
    pub fn outstanding(&self) -> u16 {
        either!(&*self.ring.lock(), r => r.outstanding())
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
        let popped = either!(&mut *self.ring.lock(), r => r.pop(&memory));
        match popped {
            Ok(Some(p)) => Some(Chain::new(p.id, p.segments, memory).taking(p.descriptors)),
            Ok(None) => None,
            Err(why) => {
                self.fail(why);
                None
            }
        }
    }

    /// Puts the buffer popped last back, as if it had not been popped.
    pub fn unpop(&self, chain: Chain) {
        match &mut *self.ring.lock() {
            Ring::Split(r) => r.unpop(),
            Ring::Packed(r) => r.unpop(chain.descriptors()),
        }
    }

    /// Whether there is a buffer to pop.
    pub fn has_available(&self) -> bool {
        either!(&*self.ring.lock(), r => r.has_available(&self.dma.memory()))
    }

    /// Gives a buffer back, with what was written to it. The driver learns of it by [`Virtqueue::signal`].
    pub fn push(&self, chain: Chain) {
        self.push_all([chain]);
    }

    /// Gives several buffers back, in order and at once: the driver sees none or all of them.
    pub fn push_all(&self, chains: impl IntoIterator<Item = Chain>) {
        let one = |c: Chain| Used { id: c.head(), len: c.written(), descriptors: c.descriptors() };
        let used: SmallVec<[Used; 8]> = chains.into_iter().map(one).collect();
        if used.is_empty() {
            return;
        }
        let mut ring = self.ring.lock();
        either!(&mut *ring, r => r.returned(&used));
        // A device that needs a reset touches the ring no more.
        let done = self.notifier.is_broken()
            || either!(&mut *ring, r => r.add_used(&self.dma.memory(), &used)).is_some();
        drop(ring);
        if !done {
            self.fail("the used ring is not in memory");
        }
    }

    /// Tells the driver of the buffers pushed, if it wants to know.
    pub fn signal(&self) {
        if self.notifier.is_broken() {
            return;
        }
        let wanted = either!(&mut *self.ring.lock(), r => r.wants_interrupt(&self.dma.memory()));
        match wanted {
            Ok(true) => self.notifier.used(self.index),
            Ok(false) => {}
            Err(why) => self.fail(why),
        }
    }

    /// Asks the driver not to notify of new buffers for the time being. Only a hint.
    pub fn disable_notification(&self) {
        if !self.notifier.is_broken() {
            let _ = either!(&mut *self.ring.lock(), r => r.disable_notification(&self.dma.memory()));
        }
    }

    /// Asks the driver to notify of new buffers; true if there are some already.
    pub fn enable_notification(&self) -> bool {
        if self.notifier.is_broken() {
            return false;
        }
        let enabled = either!(&mut *self.ring.lock(), r => r.enable_notification(&self.dma.memory()));
        enabled.unwrap_or_else(|| {
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
