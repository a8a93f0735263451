//! Rings that somebody else serves (`vhost`): when a device hands its queues over, and how it gets them back.
//!
//! A device that may do so keeps a [`Direct`] and tells it of all that matters: its driver's features and queues, whether the
//! machine stands still, that the back end has changed. [`Direct`] hands the rings over as soon as everything fits and takes
//! them back as soon as something does not; in between the device leaves its queues alone and passes on the driver's
//! notifications. Everything fits while
//!
//! - the driver is ready, all the rings that are wanted run, and they are split ones;
//! - the machine runs, and nobody records what is written to memory;
//! - there is a back end, which has every feature that driver and device have agreed on, but for those that are the device's
//!   own matter;
//! - the back end can reach the guest's memory.
//!
//! So that features fit, what a back end lacks is not offered to the driver if the back end is there when the device is made.
//!
//! Rings go over and back with the device held alone, so that it never works on a queue that somebody else serves: what
//! changes on other threads (a back end, memory) has the device's timer look. Who works on a queue without holding the device
//! does so under [`Direct::work`].
//!
//! Locks: [`Direct`]'s is taken with the device's held or a back end's receiver, never the other way round; the one of
//! [`Direct::work`] is taken after it, and none of these after that. The thread that passes on interrupts takes none of them.

mod rings;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ::device::{BuildError, Clock, Dma, Timer, Wires};
use guest_memory::{ListenerError, ListenerId, ViewChange, ViewListener};
use parking_lot::{Mutex, MutexGuard};
use vhost::{Backend, Table};
use vm_memory::GuestAddressSpace;

use self::rings::Handed;
use crate::device::Notifier;
use crate::queue::Virtqueue;

/// Gives the back end that can be had now.
pub(crate) type Find = Box<dyn Fn() -> Option<Arc<dyn Backend>> + Send + Sync>;

/// A device's rings and who serves them.
pub(crate) struct Direct {
    shared: Arc<Shared>,
    listener: Mutex<Option<ListenerId>>,
}

struct Shared {
    find: Find,
    /// The device's path.
    path: String,
    dma: Dma,
    /// Features that are the device's own matter.
    own: u64,
    /// The rings are handed over.
    on: AtomicBool,
    /// Held by who works on a queue without the device.
    work: Mutex<()>,
    /// Has the device see whether things are as they are to be, and look at its queues once it has them back.
    again: Timer,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    notifier: Option<Arc<dyn Notifier>>,
    /// What the driver has agreed to, once it is ready.
    features: Option<u64>,
    queues: Vec<Option<Arc<Virtqueue>>>,
    /// How many of them are to be handed over: the first ones.
    wanted: usize,
    /// The machine runs.
    running: bool,
    /// The back end could not take the rings; it is not asked again before something about it changes.
    refused: bool,
    /// The device has its queues back and has not looked at them: it could not reach memory.
    owes: bool,
    handed: Option<Handed>,
}

/// What is to be so now.
struct Wish {
    backend: Arc<dyn Backend>,
    features: u64,
    memory: Table,
    queues: Vec<Arc<Virtqueue>>,
}

/// Follows the guest's memory.
struct Follower(Weak<Shared>);

impl ViewListener for Follower {
    fn changed(&self, _change: &ViewChange) -> Result<(), ListenerError> {
        if let Some(shared) = self.0.upgrade() {
            shared.follow();
        }
        Ok(())
    }
}

impl Direct {
    /// Nothing is handed over yet. `own` are features that the device deals with itself; timer `id` tells it to look at its
    /// queues.
    pub(crate) fn new(find: Find, own: u64, id: usize, wires: &Wires) -> Result<Self, BuildError> {
        let (again, clock) = (wires.timer(id), wires.clock());
        let dma = wires.dma()?;
        let space = dma.space().clone();
        let shared = Arc::new(Shared {
            find,
            path: wires.path().to_owned(),
            dma,
            own,
            on: AtomicBool::new(false),
            work: Mutex::default(),
            again,
            clock,
            state: Mutex::default(),
        });
        let follower = Arc::new(Follower(Arc::downgrade(&shared)));
        let listener = space.add_listener(follower).map_err(|e| wires.host_error(e.to_string()))?;
        Ok(Direct { shared, listener: Mutex::new(Some(listener)) })
    }

    /// Features that may be offered if the rings are to be handed over: all, if they will not be.
    pub(crate) fn permitted(&self) -> u64 {
        let Some(backend) = (self.shared.find)() else { return !0 };
        let memory = Table::of(&self.shared.dma.space().ram().memory(), backend.maps_files());
        match backend.features() {
            Some(features) if !memory.is_empty() => features | self.shared.own,
            _ => !0,
        }
    }

    /// Whether the rings are handed over now: the device keeps off its queues.
    pub(crate) fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Acquire)
    }

    /// For work on a queue without the device being held: nothing while rings are handed over, which stays so as long as this is
    /// kept.
    pub(crate) fn work(&self) -> Option<MutexGuard<'_, ()>> {
        let work = self.shared.work.lock();
        (!self.is_on()).then_some(work)
    }

    /// Has things as they are to be; with the device held alone. To be called when it may reach memory or no longer.
    pub(crate) fn update(&self) {
        self.shared.update();
    }

    /// The same by the device's timer; whether the device may look at its queues. If not, it has its timer called when it may.
    pub(crate) fn look(&self) -> bool {
        self.shared.update();
        let open = self.shared.dma.is_open();
        self.shared.state.lock().owes |= !open;
        open
    }

    /// Passes a notification of the driver's on; false if the device has its queues itself.
    pub(crate) fn kick(&self, index: usize) -> bool {
        self.is_on() && self.shared.state.lock().handed.as_ref().is_some_and(|h| h.kick(index))
    }

    /// The device is not through with its queues.
    pub(crate) fn look_again(&self) {
        self.shared.again.arm(self.shared.clock.now());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock());
        self.shared.update();
    }

    /// The way to the driver.
    pub(crate) fn attach(&self, notifier: Arc<dyn Notifier>) {
        self.shared.state.lock().notifier = Some(notifier);
    }

    /// The driver is ready, with these features, or has changed them.
    pub(crate) fn set_features(&self, features: u64) {
        self.change(|s| s.features = Some(features));
    }

    /// The first `wanted` rings are to be handed over.
    pub(crate) fn set_wanted(&self, wanted: usize) {
        self.change(|s| s.wanted = wanted);
    }

    /// A queue runs.
    pub(crate) fn start_queue(&self, index: usize, queue: &Arc<Virtqueue>) {
        self.change(|s| {
            let length = s.queues.len().max(index + 1);
            s.queues.resize(length, None);
            s.queues[index] = Some(queue.clone());
        });
    }

    /// A queue is to be left alone; afterwards it stands where its device was.
    pub(crate) fn stop_queue(&self, index: usize) {
        self.change(|s| {
            if let Some(slot) = s.queues.get_mut(index) {
                *slot = None;
            }
        });
    }

    /// The machine runs, or stands still.
    pub(crate) fn set_running(&self, running: bool) {
        self.change(|s| s.running = running);
    }

    /// The driver has left the device.
    pub(crate) fn reset(&self) {
        self.change(|s| s.features = None);
    }

    /// The back end is another, or can do other things. From any thread: the device's timer sees to it.
    pub(crate) fn backend_changed(&self) {
        self.shared.state.lock().refused = false;
        self.look_again();
    }

    /// Takes the rings back for good.
    pub(crate) fn close(&self) {
        self.reset();
        if let Some(id) = self.listener.lock().take() {
            self.shared.dma.space().remove_listener(id);
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// What fits together now; nothing if the device is to have its queues.
    fn wish(&self, s: &State) -> Option<Wish> {
        let agreed = s.features.filter(|_| s.running && !s.refused && s.wanted > 0)?;
        let queues: Vec<_> = s.queues.get(..s.wanted)?.iter().cloned().collect::<Option<_>>()?;
        if queues.iter().any(|q| q.is_packed()) {
            return None;
        }
        let backend = (self.find)()?;
        let features = agreed & !self.own;
        let memory = Table::of(&self.dma.memory(), backend.maps_files());
        let fits = features & !backend.features()? == 0 && !memory.is_empty() && !memory.is_recorded();
        fits.then_some(Wish { backend, features, memory, queues })
    }

    /// Has the back end follow changes of memory, from any thread; for anything else the device's timer sees to it.
    fn follow(&self) {
        let mut state = self.state.lock();
        let wish = self.wish(&state);
        let follows = match (&mut state.handed, &wish) {
            (Some(handed), Some(wish)) => handed.follow(wish),
            (handed, wish) => handed.is_none() && wish.is_none(),
        };
        if !follows {
            self.again.arm(self.clock.now());
        }
    }

    /// Has things as they are to be; see [`Direct::update`].
    fn update(&self) {
        let mut state = self.state.lock();
        let s = &mut *state;
        let wish = self.wish(s);
        if let Some(handed) = s.handed.as_mut()
            && !wish.as_ref().is_some_and(|w| handed.follow(w))
        {
            handed.take_back(&Dma::new(self.dma.space().clone()).memory());
            s.handed = None;
            self.on.store(false, Ordering::Release);
            s.owes = s.running && s.features.is_some();
        }
        if let (None, Some(wish), Some(notifier)) = (&s.handed, &wish, &s.notifier) {
            {
                // Whoever works on a queue now ends first.
                let _work = self.work.lock();
                self.on.store(true, Ordering::Release);
            }
            match Handed::start(wish, notifier, &self.dma.memory()) {
                Ok(handed) => (s.handed, s.owes) = (Some(handed), false),
                Err(e) => {
                    self.on.store(false, Ordering::Release);
                    (s.refused, s.owes) = (true, true);
                    tracing::warn!("{}: the queues stay with the device: {e}", self.path);
                }
            }
        }
        if s.owes && self.dma.is_open() {
            s.owes = false;
            self.again.arm(self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests;
