//! Lists of breakpoints and watchpoints that a client of the GDB server keeps: bounded, each point in a list once.

use accel::{WatchKind, Watchpoint};
use gdbstub::target::ext::breakpoints::WatchKind as GdbWatch;

/// Most points of a kind: a client that asks for more is refused.
const MOST: usize = 4096;

/// Points of one kind.
#[derive(Debug, Clone)]
pub struct Points<T>(Vec<T>);

impl<T> Default for Points<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> std::ops::Deref for Points<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: PartialEq> Points<T> {
    /// Adds a point; true if it is in the list now.
    pub fn add(&mut self, point: T) -> bool {
        let there = self.0.contains(&point);
        if there || self.0.len() >= MOST {
            return there;
        }
        self.0.push(point);
        true
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes a point out; true if it was there.
    pub fn remove(&mut self, point: &T) -> bool {
        let before = self.0.len();
        self.0.retain(|p| p != point);
        self.0.len() != before
    }
}

/// A watchpoint of `len` bytes at `gva`, with the kind it has in the protocol, which answers name again.
#[must_use]
pub fn watchpoint(gva: u64, len: u64, kind: GdbWatch) -> (Watchpoint, GdbWatch) {
    let watch = match kind {
        GdbWatch::Write => WatchKind::Write,
        GdbWatch::Read => WatchKind::Read,
        GdbWatch::ReadWrite => WatchKind::Access,
    };
    (Watchpoint { gva, len: len.max(1), kind: watch }, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_bounded_and_has_each_point_once() {
        let mut list = Points::default();
        assert!((0..MOST).all(|p| list.add(p)));
        assert!(list.add(7) && !list.add(MOST));
        assert!(list.remove(&7) && !list.remove(&7) && list.add(MOST));
        assert_eq!(list.len(), MOST);
    }
}
