//! Rings while they are handed over, and the thread that passes on interrupts.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use guest_memory::DmaGuard;
use rustix::event::{PollFd, PollFlags, poll};
use vhost::{Backend, Error, Event, Plan, Ring, Table};

use super::Wish;
use crate::device::Notifier;
use crate::queue::Virtqueue;

/// The two counters of a ring.
struct Wires {
    kick: Event,
    call: Event,
}

/// Rings that are handed over.
pub(super) struct Handed {
    backend: Arc<dyn Backend>,
    features: u64,
    memory: Table,
    queues: Vec<Arc<Virtqueue>>,
    wires: Vec<Wires>,
    notifier: Arc<dyn Notifier>,
    /// Ends the thread.
    end: Event,
    thread: Option<JoinHandle<()>>,
}

fn host(what: &str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { what: what.to_owned(), source }
}

impl Handed {
    /// Hands rings over.
    pub(super) fn start(wish: &Wish, notifier: &Arc<dyn Notifier>, memory: &DmaGuard) -> Result<Self, Error> {
        let event = || Event::new().map_err(host("an event counter"));
        let wires = wish.queues.iter().map(|_| Ok(Wires { kick: event()?, call: event()? }));
        let wires = wires.collect::<Result<Vec<_>, Error>>()?;
        let end = event()?;
        let copy = |e: &Event| e.try_clone().map_err(host("an event counter"));
        let mut heard = vec![copy(&end)?];
        for w in &wires {
            heard.push(copy(&w.call)?);
        }
        let mut handed = Handed {
            backend: wish.backend.clone(),
            features: wish.features,
            memory: wish.memory.clone(),
            queues: wish.queues.clone(),
            wires,
            notifier: notifier.clone(),
            end,
            thread: None,
        };
        let numbers: Vec<u16> = handed.queues.iter().map(|q| q.index()).collect();
        let told = notifier.clone();
        let listener = move || listen(&heard, &numbers, &*told);
        let thread = std::thread::Builder::new().name("virtio-calls".into()).spawn(listener);
        handed.thread = Some(thread.map_err(host("a thread"))?);
        // Dropping what was made so far ends the thread.
        if let Err(e) = handed.hand_over() {
            // It may have served some of them for a moment.
            handed.queues.iter().for_each(|q| q.take_back(memory, None));
            return Err(e);
        }
        Ok(handed)
    }

    fn hand_over(&self) -> Result<(), Error> {
        // What the device has last said of notifications is not for long.
        self.queues.iter().for_each(|q| {
            let _ = q.enable_notification();
        });
        let rings: Vec<Ring<'_>> = self
            .queues
            .iter()
            .zip(&self.wires)
            .map(|(queue, wires)| {
                let layout = queue.layout();
                Ring {
                    index: queue.index(),
                    size: layout.size,
                    base: queue.state().next_avail,
                    descriptors: layout.desc,
                    available: layout.driver,
                    used: layout.device,
                    kick: &wires.kick,
                    call: &wires.call,
                }
            })
            .collect();
        self.backend.start(&Plan { features: self.features, memory: &self.memory, rings: &rings })?;
        // The driver may have added buffers, and has told nobody but the device.
        self.wires.iter().for_each(|w| w.kick.signal());
        Ok(())
    }

    /// Wakes who serves a ring; false if it is not one of these.
    pub(super) fn kick(&self, index: usize) -> bool {
        self.wires.get(index).inspect(|w| w.kick.signal()).is_some()
    }

    /// Goes on as it is to be now; false if the rings must be taken back for that.
    pub(super) fn follow(&mut self, wish: &Wish) -> bool {
        let same = |(a, b): (&Arc<Virtqueue>, &Arc<Virtqueue>)| Arc::ptr_eq(a, b);
        if !Arc::ptr_eq(&self.backend, &wish.backend)
            || self.features != wish.features
            || self.queues.len() != wish.queues.len()
            || !self.queues.iter().zip(&wish.queues).all(same)
        {
            return false;
        }
        if self.memory != wish.memory {
            if let Err(e) = self.backend.set_memory(&wish.memory) {
                tracing::warn!("{e}");
                return false;
            }
            self.memory = wish.memory.clone();
        }
        true
    }

    /// Takes the rings back: queues stand where the back end was, in memory that the device itself may not reach now.
    pub(super) fn take_back(&mut self, memory: &DmaGuard) {
        let bases = self.backend.stop();
        for (i, queue) in self.queues.iter().enumerate() {
            queue.take_back(memory, bases.as_ref().and_then(|b| b.get(i)).copied());
        }
        self.hang_up();
        // The last words of a back end may not have been passed on.
        for (queue, wires) in self.queues.iter().zip(&self.wires) {
            if wires.call.take() {
                self.notifier.used(queue.index());
            }
        }
    }

    fn hang_up(&mut self) {
        self.end.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Interrupts the driver whenever a back end asks for it; ends with the first of the events.
fn listen(events: &[Event], queues: &[u16], notifier: &dyn Notifier) {
    loop {
        let mut fds: Vec<PollFd<'_>> =
            events.iter().map(|e| PollFd::from_borrowed_fd(e.as_fd(), PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return tracing::warn!("waiting for a back end: {e}"),
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        for ((fd, event), queue) in fds.iter().zip(events).skip(1).zip(queues) {
            if !fd.revents().is_empty() && event.take() {
                notifier.used(*queue);
            }
        }
    }
}
