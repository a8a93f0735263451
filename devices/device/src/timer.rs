//! Timers on the virtual clock, and the one thread a machine has for them.
//!
//! The thread sleeps until the earliest deadline; with nothing armed it does not wake at all. Deadlines are
//! absolute virtual nanoseconds. A paused clock fires nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, ClockSource, ClockWatcher};

/// Runs a timer. The argument tells, once the callee holds its own lock, whether the expiry still stands.
type Callback = dyn Fn(&dyn Fn() -> bool) + Send + Sync;

/// Where an armed timer stands in the queue: by deadline, then in order of arming.
type Key = (u64, u64);

struct Shared {
    /// Counts arm and cancel, so that an expiry overtaken by one of them is recognised.
    generation: AtomicU64,
    key: Mutex<Option<Key>>,
    callback: Box<Callback>,
}

#[derive(Default)]
struct Queue {
    armed: BTreeMap<Key, Arc<Shared>>,
    next: u64,
    stop: bool,
}

struct Inner {
    clock: Clock,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl ClockWatcher for Inner {
    fn clock_changed(&self) {
        // The lock orders the change before the sleeper's next look at the clock.
        let _queue = self.queue.lock();
        self.wake.notify_all();
    }
}

impl Inner {
    /// Takes the earliest timer that is due.
    fn pop(&self, queue: &mut Queue) -> Option<(Arc<Shared>, u64)> {
        if self.clock.is_paused() {
            return None;
        }
        let first = queue.armed.first_entry()?;
        if first.key().0 > self.clock.now() {
            return None;
        }
        let timer = first.remove();
        *timer.key.lock() = None;
        let generation = timer.generation.load(Ordering::Relaxed);
        Some((timer, generation))
    }

    fn fire(timer: &Shared, generation: u64) {
        (timer.callback)(&|| timer.generation.load(Ordering::SeqCst) == generation);
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        while !queue.stop {
            if let Some((timer, generation)) = self.pop(&mut queue) {
                drop(queue);
                Self::fire(&timer, generation);
                queue = self.queue.lock();
                continue;
            }
            let sleeps_by_host = self.clock.source() == ClockSource::Host && !self.clock.is_paused();
            match queue.armed.first_key_value().filter(|_| sleeps_by_host) {
                Some((key, _)) => {
                    let left = Duration::from_nanos(key.0.saturating_sub(self.clock.now()));
                    self.wake.wait_for(&mut queue, left);
                }
                None => self.wake.wait(&mut queue),
            }
        }
    }
}

/// The timers of one machine.
#[derive(Clone)]
pub struct TimerQueue(Arc<Inner>);

impl TimerQueue {
    /// A queue on `clock`. Nothing fires until [`TimerQueue::spawn`] or [`TimerQueue::run_due`] is called.
    pub fn new(clock: Clock) -> Self {
        let inner = Arc::new(Inner { clock, queue: Mutex::default(), wake: Condvar::new() });
        let watcher: Weak<Inner> = Arc::downgrade(&inner);
        inner.clock.watch(watcher);
        TimerQueue(inner)
    }

    /// The clock the deadlines are on.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Starts the thread that fires the timers; it ends when the returned handle is dropped.
    pub fn spawn(&self) -> io::Result<TimerThread> {
        self.0.queue.lock().stop = false;
        let inner = self.0.clone();
        let thread = std::thread::Builder::new().name("timers".into()).spawn(move || inner.run())?;
        Ok(TimerThread { inner: self.0.clone(), thread: Some(thread) })
    }

    /// Fires everything that is due on this thread; returns the next deadline. For counted clocks.
    pub fn run_due(&self) -> Option<u64> {
        loop {
            let mut queue = self.0.queue.lock();
            match self.0.pop(&mut queue) {
                Some((timer, generation)) => {
                    drop(queue);
                    Inner::fire(&timer, generation);
                }
                None => return queue.armed.first_key_value().map(|(key, _)| key.0),
            }
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.queue.lock().armed.first_key_value().map(|(key, _)| key.0)
    }

    /// A timer that calls `callback` when it expires. The callback first takes whatever lock arm and cancel are
    /// called under, then asks its argument whether the expiry still stands, and only then acts.
    pub fn timer(&self, callback: impl Fn(&dyn Fn() -> bool) + Send + Sync + 'static) -> Timer {
        let shared =
            Shared { generation: AtomicU64::new(0), key: Mutex::new(None), callback: Box::new(callback) };
        Timer { queue: self.clone(), shared: Arc::new(shared) }
    }
}

/// Stops the timer thread when dropped.
pub struct TimerThread {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        self.inner.queue.lock().stop = true;
        self.inner.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A callback that panicked has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

/// A one-shot timer. Dropping it cancels it.
pub struct Timer {
    queue: TimerQueue,
    shared: Arc<Shared>,
}

impl Timer {
    /// Fires at `deadline` (virtual nanoseconds), or at once if that has passed. Replaces an earlier deadline.
    pub fn arm(&self, deadline: u64) {
        let inner = &self.queue.0;
        let mut queue = inner.queue.lock();
        self.take(&mut queue);
        queue.next += 1;
        let key = (deadline, queue.next);
        queue.armed.insert(key, self.shared.clone());
        *self.shared.key.lock() = Some(key);
        if queue.armed.first_key_value().is_some_and(|(first, _)| *first == key) {
            inner.wake.notify_all();
        }
    }

    /// Forgets the deadline.
    pub fn cancel(&self) {
        self.take(&mut self.queue.0.queue.lock());
    }

    fn take(&self, queue: &mut Queue) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        if let Some(key) = self.shared.key.lock().take() {
            queue.armed.remove(&key);
        }
    }

    /// The deadline, if armed.
    pub fn deadline(&self) -> Option<u64> {
        self.shared.key.lock().map(|key| key.0)
    }

    /// Arms or cancels.
    pub fn set(&self, deadline: Option<u64>) {
        match deadline {
            Some(deadline) => self.arm(deadline),
            None => self.cancel(),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timer({:?})", self.deadline())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn logging(queue: &TimerQueue, log: &Arc<Mutex<Vec<u32>>>, id: u32) -> Timer {
        let log = log.clone();
        queue.timer(move |stands| {
            if stands() {
                log.lock().push(id);
            }
        })
    }

    #[test]
    fn fires_in_order_and_not_when_cancelled() {
        let clock = Clock::new(ClockSource::Counted);
        clock.resume();
        let queue = TimerQueue::new(clock.clone());
        let log = Arc::new(Mutex::new(Vec::new()));
        let timers: Vec<_> = (0..4).map(|i| logging(&queue, &log, i)).collect();
        timers[0].arm(30);
        timers[1].arm(10);
        timers[2].arm(20);
        timers[3].arm(10);
        timers[2].cancel();
        assert_eq!(queue.run_due(), Some(10));
        clock.advance(10);
        assert_eq!(queue.run_due(), Some(30));
        assert_eq!(*log.lock(), [1, 3]);
        timers[0].arm(5);
        clock.pause();
        assert_eq!(queue.run_due(), Some(5), "a paused clock fires nothing");
        clock.resume();
        assert_eq!(queue.run_due(), None);
        assert_eq!(*log.lock(), [1, 3, 0]);
        timers[0].arm(0);
        drop(timers);
        assert_eq!(queue.next_deadline(), None);
    }

    #[test]
    fn the_thread_fires_and_stops() {
        let clock = Clock::new(ClockSource::Host);
        clock.resume();
        let queue = TimerQueue::new(clock.clone());
        let (send, receive) = mpsc::channel();
        let timer = queue.timer(move |stands| {
            if stands() {
                send.send(()).unwrap();
            }
        });
        let thread = queue.spawn().unwrap();
        timer.arm(u64::MAX);
        timer.arm(clock.now() + 1_000_000);
        receive.recv().unwrap();
        clock.pause();
        timer.arm(0);
        assert!(receive.try_recv().is_err());
        clock.resume();
        receive.recv().unwrap();
        drop(thread);
        timer.arm(0);
        assert!(receive.try_recv().is_err(), "no thread, no expiry");
    }
}
