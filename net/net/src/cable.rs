//! The cable between a NIC and a back end: it can be pulled (`set_link`), its far end can go away, and filters sit on
//! it.
//!
//! Filters are in a list. What the back end sends passes them from the first to the last, what is sent to it from the
//! last to the first, as on QEMU. A filter answers on the thread that brings the frame; what it held back it gives
//! later by its [`Reentry`]. Frames for the NIC that come so wait in a queue of [`LATE`] bytes, from which a thread of the
//! cable's feeds it: they must not come inside anybody's `send`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::filter::{Direction, Filter, Queue, Verdict};
use crate::{Endpoint, MAX_FRAME, NetError, NetReceiver, NullEndpoint, SharedReceiver};

/// Bytes from filters that wait for the NIC.
const LATE: usize = 16 << 20;

/// Where a new filter goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// Before all others.
    Head,
    /// Behind all others.
    #[default]
    Tail,
    /// Right before this one.
    Before(String),
    /// Right behind this one.
    Behind(String),
}

/// A filter in its place.
#[derive(Clone)]
struct Attached {
    id: String,
    queue: Queue,
    filter: Arc<dyn Filter>,
    on: Arc<AtomicBool>,
}

/// Frames from filters for the NIC.
#[derive(Default)]
struct Late {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    running: bool,
    retry: bool,
    closed: bool,
}

struct Shared {
    inner: RwLock<Arc<dyn Endpoint>>,
    up: AtomicBool,
    card: Mutex<Option<SharedReceiver>>,
    chain: RwLock<Arc<Vec<Attached>>>,
    filtered: AtomicBool,
    /// The NIC sees no virtio-net header: a filter wants frames as they are on a wire.
    plain: AtomicBool,
    late: Mutex<Late>,
    wake: Condvar,
    /// Hears of changes of the NIC's filter.
    filter: Mutex<Option<FilterChanged>>,
}

type FilterChanged = Arc<dyn Fn() + Send + Sync>;

/// An endpoint with a switch and filters.
pub struct Cable(Arc<Shared>);

/// A filter's way back onto the cable it sits on.
#[derive(Clone)]
pub struct Reentry {
    cable: Weak<Shared>,
    id: String,
}

impl Reentry {
    /// Sends a frame on, past the filter this belongs to; `false` if it was dropped.
    pub fn pass(&self, direction: Direction, frame: Vec<u8>) -> bool {
        self.cable.upgrade().is_some_and(|c| c.pass(direction, frame, Some(&self.id), true))
    }

    /// Bytes of virtio-net header before each frame here.
    pub fn header(&self) -> usize {
        self.cable.upgrade().map_or(0, |c| c.header())
    }
}

impl Cable {
    /// A cable that is plugged in.
    pub fn new(inner: Arc<dyn Endpoint>) -> Arc<Self> {
        Arc::new(Cable(Arc::new(Shared {
            inner: RwLock::new(inner),
            up: AtomicBool::new(true),
            card: Mutex::default(),
            chain: RwLock::default(),
            filtered: AtomicBool::new(false),
            plain: AtomicBool::new(false),
            late: Mutex::default(),
            wake: Condvar::new(),
            filter: Mutex::default(),
        })))
    }

    /// Plugs it in or out, and lets the NIC know.
    pub fn set(&self, up: bool) {
        if self.0.up.swap(up, Ordering::AcqRel) != up {
            let card = self.0.card.lock().clone();
            if let Some(card) = card {
                card.lock().link(up);
            }
        }
    }

    /// Takes the back end away for good: the NIC stays with a cable that leads nowhere.
    pub fn cut(&self) {
        self.set(false);
        let inner = std::mem::replace(&mut *self.0.inner.write(), Arc::new(NullEndpoint));
        inner.set_receiver(None);
    }

    /// Whether a NIC has it.
    pub fn has_card(&self) -> bool {
        self.0.card.lock().is_some()
    }

    /// Has `heard` called, with the NIC locked, when the guest changes which frames it wants.
    pub fn on_filter_change(&self, heard: impl Fn() + Send + Sync + 'static) {
        *self.0.filter.lock() = Some(Arc::new(heard));
    }

    /// Puts a filter on it.
    ///
    /// # Errors
    /// The filter named in `position` is not here.
    pub fn attach(
        &self,
        id: &str,
        queue: Queue,
        filter: Arc<dyn Filter>,
        position: &Position,
        on: bool,
    ) -> Result<(), NetError> {
        let mut chain = self.0.chain.write();
        let mut list = Vec::clone(&chain);
        let find = |other: &String| {
            list.iter().position(|a| a.id == *other).ok_or_else(|| {
                let known: Vec<&str> = list.iter().map(|a| a.id.as_str()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                NetError::Option(format!("position=id={other}: no such filter here; there are: {known}"))
            })
        };
        let at = match position {
            Position::Head => 0,
            Position::Tail => list.len(),
            Position::Before(other) => find(other)?,
            Position::Behind(other) => find(other)? + 1,
        };
        filter.attach(Reentry { cable: Arc::downgrade(&self.0), id: id.to_owned() });
        if filter.wants_plain() && !self.has_card() {
            self.0.plain.store(true, Ordering::Release);
        }
        list.insert(at, Attached { id: id.to_owned(), queue, filter, on: Arc::new(on.into()) });
        *chain = Arc::new(list);
        self.0.filtered.store(true, Ordering::Release);
        drop(chain);
        self.0.rings_changed();
        Ok(())
    }

    /// Takes a filter off; false if it is not here.
    pub fn detach(&self, id: &str) -> bool {
        let mut chain = self.0.chain.write();
        let mut list = Vec::clone(&chain);
        let before = list.len();
        list.retain(|a| a.id != id);
        let found = list.len() < before;
        self.0.filtered.store(!list.is_empty(), Ordering::Release);
        *chain = Arc::new(list);
        drop(chain);
        self.0.rings_changed();
        found
    }

    /// Switches a filter on or off; false if it is not here.
    pub fn switch(&self, id: &str, on: bool) -> bool {
        let chain = self.0.chain.read();
        chain.iter().find(|a| a.id == id).inspect(|a| a.on.store(on, Ordering::Release)).is_some()
    }

    /// Filters in order, each with whether it is on.
    pub fn filters(&self) -> Vec<(String, bool)> {
        self.0.chain.read().iter().map(|a| (a.id.clone(), a.on.load(Ordering::Acquire))).collect()
    }
}

impl Shared {
    fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Acquire)
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// A filter sees each frame, or there is none any more: the NIC keeps its rings, or may hand them over.
    fn rings_changed(&self) {
        let card = self.card.lock().clone();
        if let Some(card) = card {
            card.lock().rings_changed();
        }
    }

    /// Header that the NIC sees.
    fn header(&self) -> usize {
        if self.is_plain() { 0 } else { self.inner.read().vnet_header() }
    }

    /// Gives a frame to the back end.
    fn outward(&self, frame: &[&[u8]]) -> bool {
        let inner = self.inner.read().clone();
        match inner.vnet_header() {
            length if length != 0 && self.is_plain() => {
                let zeros = [0; 12];
                inner.send(&[&zeros[..length.min(12)], &frame.concat()])
            }
            _ => inner.send(frame),
        }
    }

    /// Sends a frame through the filters, from behind the one called `after` if that is given.
    fn pass(
        self: &Arc<Self>,
        direction: Direction,
        mut frame: Vec<u8>,
        after: Option<&str>,
        late: bool,
    ) -> bool {
        let chain = self.chain.read().clone();
        let length = chain.len();
        let at = |i: usize| if direction == Direction::FromNet { i } else { length - 1 - i };
        let start = match after.map(|id| (0..length).find(|&i| chain[at(i)].id == id)) {
            None => 0,
            Some(Some(i)) => i + 1,
            // It was taken off meanwhile: what it had held still goes its way.
            Some(None) => length,
        };
        let header = self.header();
        for i in start..length {
            let one = &chain[at(i)];
            if !one.queue.covers(direction) || !one.on.load(Ordering::Acquire) {
                continue;
            }
            match one.filter.frame(direction, &frame, header) {
                Verdict::Pass => {}
                Verdict::Taken => return true,
                Verdict::Replaced(other) => frame = other,
            }
        }
        match direction {
            Direction::ToNet => self.is_up() && self.outward(&[&frame]),
            Direction::FromNet if late => self.later(frame),
            Direction::FromNet => {
                let card = self.card.lock().clone();
                if let (true, Some(card)) = (self.is_up(), card) {
                    card.lock().receive(&frame);
                }
                true
            }
        }
    }

    /// Queues a frame for the NIC.
    fn later(self: &Arc<Self>, frame: Vec<u8>) -> bool {
        let mut late = self.late.lock();
        if late.closed || late.bytes + frame.len() > LATE || frame.len() > MAX_FRAME {
            return false;
        }
        late.bytes += frame.len();
        late.frames.push_back(frame);
        if !late.running {
            let fed = self.clone();
            let thread = std::thread::Builder::new().name("net-filter".into()).spawn(move || fed.feed());
            late.running = thread.is_ok();
        }
        self.wake.notify_one();
        true
    }

    /// The cable's thread.
    fn feed(&self) {
        let mut late = self.late.lock();
        while !late.closed {
            let Some(frame) = late.frames.pop_front() else {
                self.wake.wait(&mut late);
                continue;
            };
            late.retry = false;
            drop(late);
            let card = self.card.lock().clone();
            let taken = match card {
                Some(card) if self.is_up() => {
                    let mut card = card.lock();
                    let room = card.can_receive();
                    if room {
                        card.receive(&frame);
                    }
                    room
                }
                _ => true,
            };
            late = self.late.lock();
            if taken {
                late.bytes -= frame.len();
                continue;
            }
            late.frames.push_front(frame);
            while !late.retry && !late.closed {
                self.wake.wait(&mut late);
            }
        }
    }

    fn retry(&self) {
        let mut late = self.late.lock();
        late.retry = true;
        if late.running {
            self.wake.notify_one();
        }
    }
}

impl Endpoint for Cable {
    fn send(&self, frame: &[&[u8]]) -> bool {
        if !self.0.is_up() {
            return false;
        }
        if self.0.filtered.load(Ordering::Acquire) {
            return self.0.pass(Direction::ToNet, frame.concat(), None, false);
        }
        self.0.outward(frame)
    }

    fn send_owned(&self, head: &[u8], frame: &mut Vec<u8>) -> bool {
        if self.0.filtered.load(Ordering::Acquire) || self.0.is_plain() || !self.0.is_up() {
            return self.send(&[head, frame]);
        }
        let inner = self.0.inner.read().clone();
        inner.send_owned(head, frame)
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        let card: Option<SharedReceiver> = receiver.map(|r| Arc::new(Mutex::new(r)));
        let there = card.is_some();
        *self.0.card.lock() = card;
        let gate = there.then(|| Box::new(Gate(Arc::downgrade(&self.0))) as Box<dyn NetReceiver>);
        self.0.inner.read().clone().set_receiver(gate);
        self.0.retry();
    }

    fn accept_input(&self) {
        self.0.inner.read().clone().accept_input();
        self.0.retry();
    }

    fn is_up(&self) -> bool {
        self.0.is_up() && self.0.inner.read().is_up()
    }

    fn vnet_header(&self) -> usize {
        self.0.header()
    }

    fn has_uso(&self) -> bool {
        !self.0.is_plain() && self.0.inner.read().has_uso()
    }

    fn filter_changed(&self) {
        let heard = self.0.filter.lock().clone();
        if let Some(heard) = heard {
            heard();
        }
    }

    fn queues(&self) -> u16 {
        self.0.inner.read().queues()
    }

    fn has_rings(&self) -> bool {
        self.0.inner.read().has_rings()
    }

    #[cfg(target_os = "linux")]
    fn rings(&self) -> Option<Arc<dyn vhost::Backend>> {
        let whole = self.0.is_up() && !self.0.filtered.load(Ordering::Acquire) && !self.0.is_plain();
        whole.then(|| self.0.inner.read().rings()).flatten()
    }

    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        let inner = self.0.inner.read().clone();
        if self.0.is_plain() {
            inner.set_offload(12, 0);
            return false;
        }
        inner.set_offload(header, guest_features)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.0.late.lock().closed = true;
        self.0.wake.notify_all();
    }
}

/// The NIC as the back end sees it.
struct Gate(Weak<Shared>);

impl NetReceiver for Gate {
    fn can_receive(&mut self) -> bool {
        let Some(cable) = self.0.upgrade() else { return true };
        let card = cable.card.lock().clone();
        // What comes while the cable is out is lost, not kept.
        !cable.is_up() || card.is_none_or(|c| c.lock().can_receive())
    }

    fn receive(&mut self, frame: &[u8]) {
        let Some(cable) = self.0.upgrade() else { return };
        if !cable.is_up() {
            return;
        }
        let stripped = if cable.is_plain() { cable.inner.read().vnet_header() } else { 0 };
        let Some(frame) = frame.get(stripped..) else { return };
        if cable.filtered.load(Ordering::Acquire) {
            cable.pass(Direction::FromNet, frame.to_vec(), None, false);
            return;
        }
        let card = cable.card.lock().clone();
        if let Some(card) = card {
            card.lock().receive(frame);
        }
    }

    fn link(&mut self, up: bool) {
        let Some(cable) = self.0.upgrade() else { return };
        let card = cable.card.lock().clone();
        if let (true, Some(card)) = (cable.is_up(), card) {
            card.lock().link(up);
        }
    }

    fn rings_changed(&mut self) {
        if let Some(cable) = self.0.upgrade() {
            cable.rings_changed();
        }
    }
}

#[cfg(test)]
mod tests;
