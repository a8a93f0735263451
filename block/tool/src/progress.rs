//! How far a command is, as a percentage on one line.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::text::say;

/// Shows progress if asked to.
pub(crate) struct Progress {
    total: u64,
    state: Option<Mutex<(u64, Instant)>>,
}

impl Progress {
    /// For `total` units of work.
    pub(crate) fn new(show: bool, total: u64) -> Self {
        if show {
            say("    (0.00/100%)\r");
        }
        Progress { total: total.max(1), state: show.then(|| Mutex::new((0, Instant::now()))) }
    }

    /// Counts work as done.
    pub(crate) fn add(&self, n: u64) {
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
