//! The machine's one virtual clock, in nanoseconds since power-on.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::NS_PER_SEC;

/// What moves a clock on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// The host's monotonic clock, while the machine runs.
    Host,
    /// Whoever calls [`Clock::advance`]: an instruction counter, a test.
    Counted,
}

/// Told when the clock was paused, resumed, set or advanced; sleepers look again.
pub(crate) trait ClockWatcher: Send + Sync {
    fn clock_changed(&self);
}

/// `frozen` of a running host clock.
const RUNNING: u64 = u64::MAX;

struct Inner {
    source: ClockSource,
    epoch: Instant,
    /// Host nanoseconds since `epoch` at virtual time 0 (wrapping); valid while running.
    offset: AtomicU64,
    /// The time of a clock that does not follow the host now.
    frozen: AtomicU64,
    /// Serialises changes; holds whether a counted clock is paused.
    paused: Mutex<bool>,
    watchers: Mutex<Vec<Weak<dyn ClockWatcher>>>,
}

/// A handle to the clock; clones are the same clock. Reading takes no lock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

impl Clock {
    /// A clock at 0, paused.
    pub fn new(source: ClockSource) -> Self {
        Clock(Arc::new(Inner {
            source,
            epoch: Instant::now(),
            offset: AtomicU64::new(0),
            frozen: AtomicU64::new(0),
            paused: Mutex::new(true),
            watchers: Mutex::default(),
        }))
    }

    fn host_ns(&self) -> u64 {
        self.0.epoch.elapsed().as_nanos() as u64
    }

    /// Virtual nanoseconds since power-on.
    #[inline]
    pub fn now(&self) -> u64 {
        match self.0.frozen.load(Ordering::Acquire) {
            RUNNING => self.host_ns().wrapping_sub(self.0.offset.load(Ordering::Relaxed)),
            frozen => frozen,
        }
    }

    /// The time in ticks of a counter of `hz`.
    pub fn ticks(&self, hz: u64) -> u64 {
        Self::ticks_of_ns(self.now(), hz)
    }

    /// What [`Clock::ticks`] is at nanosecond `ns`.
    pub fn ticks_of_ns(ns: u64, hz: u64) -> u64 {
        (u128::from(ns) * u128::from(hz) / u128::from(NS_PER_SEC)) as u64
    }

    /// The first nanosecond at which [`Clock::ticks`] has reached `ticks`; `u64::MAX` if that is never.
    pub fn ns_of_ticks(ticks: u64, hz: u64) -> u64 {
        let ns = (u128::from(ticks) * u128::from(NS_PER_SEC)).div_ceil(u128::from(hz.max(1)));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// What moves the clock.
    pub fn source(&self) -> ClockSource {
        self.0.source
    }

    /// Whether time stands still.
    pub fn is_paused(&self) -> bool {
        *self.0.paused.lock()
    }

    /// Stops time.
    pub fn pause(&self) {
        let mut paused = self.0.paused.lock();
        if !std::mem::replace(&mut *paused, true) {
            let now = self.now();
            self.0.frozen.store(now, Ordering::Release);
        }
        drop(paused);
        self.tell();
    }

    /// Lets time go on.
    pub fn resume(&self) {
        let mut paused = self.0.paused.lock();
        if std::mem::replace(&mut *paused, false) && self.0.source == ClockSource::Host {
            self.run_from(self.0.frozen.load(Ordering::Relaxed));
        }
        drop(paused);
        self.tell();
    }

    fn run_from(&self, now: u64) {
        self.0.offset.store(self.host_ns().wrapping_sub(now), Ordering::Relaxed);
        self.0.frozen.store(RUNNING, Ordering::Release);
    }

    /// Sets the time, e.g. from a snapshot.
    pub fn set(&self, now: u64) {
        let paused = self.0.paused.lock();
        if *paused || self.0.source == ClockSource::Counted {
            self.0.frozen.store(now.min(RUNNING - 1), Ordering::Release);
        } else {
            self.run_from(now);
        }
        drop(paused);
        self.tell();
    }

    /// Moves a counted clock on by `ns`; a host clock takes no orders. Returns the new time. Watchers are not
    /// told on each step: the counter's owner runs due timers itself ([`crate::TimerQueue::run_due`]).
    pub fn advance(&self, ns: u64) -> u64 {
        if self.0.source == ClockSource::Host {
            return self.now();
        }
        let step = |t: u64| Some(t.saturating_add(ns).min(RUNNING - 1));
        match self.0.frozen.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) {
            Ok(before) | Err(before) => before.saturating_add(ns).min(RUNNING - 1),
        }
    }

    pub(crate) fn watch(&self, watcher: Weak<dyn ClockWatcher>) {
        let mut watchers = self.0.watchers.lock();
        watchers.retain(|w| w.strong_count() > 0);
        watchers.push(watcher);
    }

    fn tell(&self) {
        let watchers: Vec<_> = self.0.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        watchers.iter().for_each(|w| w.clock_changed());
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?} {} ns)", self.0.source, self.now())
    }
}

/// Time of day for real-time clocks.
#[derive(Clone, Debug)]
pub enum WallClock {
    /// The host's time of day, plus an offset in nanoseconds.
    Host(i64),
    /// A fixed start (nanoseconds since 1970) that moves with the virtual clock.
    Virtual(Clock, i64),
}

impl WallClock {
    /// A clock that starts at the host's present time and moves with the virtual clock.
    pub fn from_now(clock: Clock) -> Self {
        let base = host_unix_ns().saturating_sub_unsigned(clock.now());
        WallClock::Virtual(clock, base)
    }

    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub fn unix_ns(&self) -> i64 {
        match self {
            WallClock::Host(offset) => host_unix_ns().saturating_add(*offset),
            WallClock::Virtual(clock, base) => base.saturating_add_unsigned(clock.now()),
        }
    }
}

fn host_unix_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_clock_moves_only_by_hand() {
        let clock = Clock::new(ClockSource::Counted);
        clock.resume();
        assert_eq!(clock.advance(1500), 1500);
        assert_eq!((clock.now(), clock.ticks(10_000_000)), (1500, 15));
        clock.pause();
        clock.set(7);
        assert_eq!(clock.now(), 7);
        assert_eq!(Clock::ns_of_ticks(15, 10_000_000), 1500);
        assert_eq!(Clock::ns_of_ticks(u64::MAX, 10_000_000), u64::MAX);
        assert_eq!(WallClock::Virtual(clock, 100).unix_ns(), 107);
    }

    #[test]
    fn host_clock_stands_while_paused() {
        let clock = Clock::new(ClockSource::Host);
        assert_eq!(clock.now(), 0);
        clock.set(5_000);
        clock.resume();
        assert!(clock.now() >= 5_000);
        clock.pause();
        let then = clock.now();
        assert_eq!(clock.now(), then);
        clock.resume();
        clock.resume();
        assert!(clock.now() >= then);
    }
}
