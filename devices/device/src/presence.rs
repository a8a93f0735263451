//! Which processors of a machine are there: those that may come have all but that from the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The processors of a machine. Clones are of the same machine.
///
/// One without any is of a machine whose processors are all there and stay.
#[derive(Clone, Debug, Default)]
pub struct CpuPresence(Arc<[AtomicBool]>);

impl CpuPresence {
    /// `most` processors, the first `there` of which are there.
    pub fn new(most: u32, there: u32) -> Self {
        CpuPresence((0..most).map(|cpu| AtomicBool::new(cpu < there)).collect())
    }

    /// Whether a processor is there.
    pub fn has(&self, cpu: u32) -> bool {
        self.0.get(cpu as usize).is_none_or(|there| there.load(Ordering::Acquire))
    }

    /// A processor comes or goes.
    pub fn set(&self, cpu: u32, there: bool) {
        if let Some(flag) = self.0.get(cpu as usize) {
            flag.store(there, Ordering::Release);
        }
    }

    /// How many there can be.
    pub fn most(&self) -> u32 {
        self.0.len() as u32
    }

    /// How many are there.
    pub fn count(&self) -> u32 {
        (0..self.most()).filter(|cpu| self.has(*cpu)).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_come_and_go() {
        let all = CpuPresence::new(4, 2);
        all.clone().set(3, true);
        all.set(1, false);
        all.set(7, true);
        assert_eq!(
            ((0..4).map(|cpu| all.has(cpu)).collect::<Vec<_>>(), all.count()),
            (vec![true, false, false, true], 2)
        );
        assert!(CpuPresence::default().has(9));
    }
}
