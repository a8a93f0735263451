//! Messages that a guest can provoke: two categories, limited in rate.
//!
//! Target `guest_error` is a guest doing what the hardware's manual forbids; `unimp` is a guest using what the
//! model lacks. Both are at debug level, so that a normal run is silent.

use std::fmt;
use std::time::{Duration, Instant};

use guest_memory::Access;
use parking_lot::Mutex;

const BURST: u32 = 20;
const PERIOD: Duration = Duration::from_secs(2);

struct Budget {
    since: Instant,
    used: u32,
}

/// A device's voice about its guest.
pub struct GuestLog {
    path: String,
    budget: Mutex<Budget>,
}

impl GuestLog {
    /// A log that names the device by its path in the machine.
    pub fn new(path: impl Into<String>) -> Self {
        GuestLog { path: path.into(), budget: Mutex::new(Budget { since: Instant::now(), used: 0 }) }
    }

    /// Path of the device in its machine.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether one more message may pass; the number swallowed before it.
    fn admit(&self) -> Option<u32> {
        let mut budget = self.budget.lock();
        let mut swallowed = 0;
        if budget.since.elapsed() >= PERIOD {
            swallowed = budget.used.saturating_sub(BURST);
            *budget = Budget { since: Instant::now(), used: 0 };
        }
        budget.used = budget.used.saturating_add(1);
        (budget.used <= BURST).then_some(swallowed)
    }

    /// The guest did what it must not.
    pub fn guest_error(&self, what: fmt::Arguments<'_>) {
        if tracing::enabled!(target: "guest_error", tracing::Level::DEBUG)
            && let Some(swallowed) = self.admit()
        {
            tracing::debug!(target: "guest_error", device = %self.path, swallowed, "{what}");
        }
    }

    /// The guest used what this model lacks.
    pub fn unimplemented(&self, what: fmt::Arguments<'_>) {
        if tracing::enabled!(target: "unimp", tracing::Level::DEBUG)
            && let Some(swallowed) = self.admit()
        {
            tracing::debug!(target: "unimp", device = %self.path, swallowed, "{what}");
        }
    }

    /// Reports an access that was not [`Access::Ok`].
    pub fn access(&self, access: Access, verb: &str, region: &str, offset: u64, len: usize) {
        let what = match access {
            Access::Ok => return,
            Access::Unimplemented => {
                return self.unimplemented(format_args!("{verb} of {len} at {region}+{offset:#x}"));
            }
            Access::BadSize => "width not allowed",
            Access::Unaligned => "not aligned",
            Access::NoRegister => "no such register",
            Access::ReadOnly => "read-only register",
            Access::Fault => "refused by the device",
        };
        self.guest_error(format_args!("{verb} of {len} at {region}+{offset:#x}: {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut() {
        let log = GuestLog::new("machine/dev");
        assert_eq!((0..1000).filter(|_| log.admit().is_some()).count() as u32, BURST);
        log.budget.lock().since -= PERIOD;
        assert_eq!(log.admit(), Some(1000 - BURST));
    }
}
