//! One ring of the device: a thread that takes requests, and others that carry them out.

use std::sync::Arc;
use std::thread::JoinHandle;

use block::IoPool;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use vhost_user::{Chain, DeviceRing, Error, Event, Memory, Ring};

use super::Disk;
use super::request;

/// Requests carried out at a time.
const THREADS: usize = 4;
/// Requests taken at most before one is done.
const MOST: usize = 256;

/// What the threads of a ring share.
struct Shared {
    disk: Arc<Disk>,
    ring: Mutex<DeviceRing>,
    kick: Event,
    call: Option<Event>,
    stop: Event,
    memory: Arc<Memory>,
    under_way: Mutex<usize>,
    fewer: Condvar,
}

/// A ring that runs.
pub(super) struct Queue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Has a ring run.
    pub(super) fn start(disk: Arc<Disk>, ring: Ring) -> Result<Self, std::io::Error> {
        let Ring { ring, kick, call } = ring;
        let shared = Arc::new(Shared {
            disk,
            memory: ring.memory().clone(),
            ring: Mutex::new(ring),
            kick,
            call,
            stop: Event::new()?,
            under_way: Mutex::new(0),
            fewer: Condvar::new(),
        });
        let worker = shared.clone();
        let thread = std::thread::Builder::new().name("vhost-blk".into()).spawn(move || {
            if let Err(e) = worker.work() {
                tracing::warn!("vhost-user-blk: {e}; the ring is left alone");
            }
        })?;
        Ok(Queue { shared, thread: Some(thread) })
    }

    /// Ends it, with all requests that were taken; the entry it would go on with.
    pub(super) fn stop(mut self) -> u16 {
        self.shared.stop.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut under_way = self.shared.under_way.lock();
        while *under_way > 0 {
            self.shared.fewer.wait(&mut under_way);
        }
        self.shared.ring.lock().base()
    }
}

impl Shared {
    fn work(self: &Arc<Self>) -> Result<(), Error> {
        let pool = IoPool::new(THREADS);
        loop {
            self.kick.take();
            self.ring.lock().set_awake(false)?;
            self.take_all(&pool)?;
            self.ring.lock().set_awake(true)?;
            // What came before the driver knew that we sleep.
            self.take_all(&pool)?;
            let mut fds = [PollFd::new(&self.kick, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Ok(()),
            }
            if self.stop.take() {
                return Ok(());
            }
        }
    }

    fn take_all(self: &Arc<Self>, pool: &IoPool) -> Result<(), Error> {
        loop {
            {
                let mut under_way = self.under_way.lock();
                while *under_way >= MOST {
                    self.fewer.wait(&mut under_way);
                }
            }
            let Some(chain) = self.ring.lock().pop()? else { return Ok(()) };
            *self.under_way.lock() += 1;
            let shared = self.clone();
            pool.run(Box::new(move || {
                shared.one(&chain);
                *shared.under_way.lock() -= 1;
                shared.fewer.notify_all();
            }));
        }
    }

    fn one(&self, chain: &Chain) {
        let target = self.disk.target();
        // A request without a place for its status is given back as it is.
        let written = request::serve(&target, &self.memory, chain).unwrap_or(0);
        let mut ring = self.ring.lock();
        let told = ring.push(chain.id, written).and_then(|()| ring.wants_call());
        drop(ring);
        match told {
            Ok(true) => self.call.iter().for_each(Event::signal),
            Ok(false) => {}
            Err(e) => tracing::warn!("vhost-user-blk: {e}"),
        }
    }
}
