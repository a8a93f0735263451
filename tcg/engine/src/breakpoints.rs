//! Breakpoints of a program: units end in front of them, no link leads to them, no jump cache holds them, so that the engine is
//! asked whenever one is reached. Between them code runs as fast as it does without.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tcg_ir::{Op, Region};

/// What all threads of a process stop at.
#[derive(Default)]
pub(crate) struct Breakpoints {
    any: AtomicBool,
    /// Ascending.
    list: RwLock<Vec<u64>>,
}

impl Breakpoints {
    /// True if there are any.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// True if there is one at `pc`.
    pub(crate) fn has(&self, pc: u64) -> bool {
        self.any() && self.list.read().binary_search(&pc).is_ok()
    }

    /// Takes these for all there are. False if they are the same.
    pub(crate) fn set(&self, pcs: &[u64]) -> bool {
        let mut new = pcs.to_vec();
        new.sort_unstable();
        new.dedup();
        let mut list = self.list.write();
        let changed = *list != new;
        self.any.store(!new.is_empty(), Ordering::SeqCst);
        *list = new;
        changed
    }

    /// How many instructions of a straight region come before the first breakpoint that is not at its start.
    pub(crate) fn first_in(&self, region: &Region) -> Option<u32> {
        if !self.any() {
            return None;
        }
        let list = self.list.read();
        let insts = region.blocks.iter().flat_map(|b| &b.insts).map(|v| region.inst(*v));
        let marks = insts.filter(|i| i.op == Op::Insn).map(|i| i.imm);
        let mut before = marks.enumerate().skip(1).filter(|(_, pc)| list.binary_search(pc).is_ok());
        before.next().map(|(n, _)| n as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_replaces_what_there_was() {
        let b = Breakpoints::default();
        assert!(!b.any() && !b.has(2));
        assert!(b.set(&[4, 2, 4]) && b.any() && b.has(2) && b.has(4) && !b.has(3));
        assert!(!b.set(&[2, 4]), "the same");
        assert!(b.set(&[]) && !b.any() && !b.has(2));
    }
}
