//! How far a command is, as a percentage on one line, and that it is not faster than it may be.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::text::say;

/// Shows progress if asked to.
pub(crate) struct Progress {
    total: u64,
    state: Option<Mutex<(u64, Instant)>>,
    /// Most units in a second, and since when.
    rate: Option<(u64, Instant)>,
    done: AtomicU64,
}

impl Progress {
    /// For `total` units of work.
    pub(crate) fn new(show: bool, total: u64) -> Self {
        if show {
            say("    (0.00/100%)\r");
        }
        let state = show.then(|| Mutex::new((0, Instant::now())));
        Progress { total: total.max(1), state, rate: None, done: AtomicU64::new(0) }
    }

    /// The same with at most `rate` units in a second.
    pub(crate) fn limited(mut self, rate: Option<u64>) -> Self {
        self.rate = rate.filter(|r| *r != 0).map(|r| (r, Instant::now()));
        self
    }

    /// Counts work as done; waits if it was done too soon.
    pub(crate) fn add(&self, n: u64) {
        if let Some((rate, since)) = self.rate {
            let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
            let due = Duration::from_secs_f64(done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(since.elapsed()));
        }
        let Some(state) = &self.state else { return };
        let Ok(mut state) = state.lock() else { return };
        state.0 += n;
        if state.1.elapsed() > Duration::from_millis(100) {
            state.1 = Instant::now();
            say(&format!("    ({:.2}/100%)\r", (state.0 as f64 / self.total as f64 * 100.0).min(100.0)));
        }
    }

    /// All is done.
    pub(crate) fn finish(&self) {
        if self.state.is_some() {
            say("    (100.00/100%)\n");
        }
    }
}
