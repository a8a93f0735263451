//! Counters that generated code adds to: a few for each vCPU, read as a whole when the guest stands still.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Counters of a partition.
pub const COUNTERS: usize = 8;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter(u8);

impl Counter {
    /// Its number, below [`COUNTERS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The counter of that number.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < COUNTERS { Some(Self(index as u8)) } else { None }
    }
}

/// What one vCPU has counted, as of the last time it left translated code.
#[derive(Debug, Default)]
pub struct Tallies {
    now: [AtomicU64; COUNTERS],
    /// What does not count: it was before the process was forked.
    before: [AtomicU64; COUNTERS],
}

impl Tallies {
    /// Publishes the vCPU's own counts.
    pub fn publish(&self, counts: &[u64; COUNTERS]) {
        for (to, n) in self.now.iter().zip(counts) {
            to.store(*n, Relaxed);
        }
    }
}

/// The counters of all vCPUs.
#[derive(Debug, Default)]
pub struct Counters {
    taken: AtomicU32,
    /// By the vCPU's number.
    vcpus: Mutex<Vec<Arc<Tallies>>>,
}

impl Counters {
    /// A counter that nobody else has; `None` if there is none left.
    pub fn take(&self) -> Option<Counter> {
        let n = self.taken.fetch_update(Relaxed, Relaxed, |n| (n < COUNTERS as u32).then_some(n + 1)).ok()?;
        Some(Counter(n as u8))
    }

    /// What vCPU number `vcpu` publishes to.
    pub fn of(&self, vcpu: u32) -> Arc<Tallies> {
        let mut all = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        while all.len() <= vcpu as usize {
            all.push(Arc::default());
        }
        all[vcpu as usize].clone()
    }

    /// What each vCPU has counted, those that are gone as well.
    pub fn each(&self, counter: Counter) -> Vec<u64> {
        let all = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        let i = counter.index();
        all.iter().map(|t| t.now[i].load(Relaxed).wrapping_sub(t.before[i].load(Relaxed))).collect()
    }

    /// Begins at zero, in a child process, while no vCPU runs.
    pub fn restart(&self) {
        let all = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        for t in all.iter() {
            for (before, now) in t.before.iter().zip(&t.now) {
                before.store(now.load(Relaxed), Relaxed);
            }
        }
    }

    /// What all have counted together.
    pub fn total(&self, counter: Counter) -> u64 {
        self.each(counter).iter().fold(0, |a, b| a.wrapping_add(*b))
    }
}
