//! Requests that stop where a test wants them to, until it lets them go: `blkdebug`'s breakpoints.

use parking_lot::{Condvar, Mutex};

use crate::blkdebug::Kind;

/// A request that stands, or is about to go on.
#[derive(Debug)]
struct Stopped {
    tag: String,
    released: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Kinds of requests that stop (none for all), and the tag that such a request gets.
    points: Vec<(Vec<Kind>, String)>,
    stopped: Vec<Stopped>,
}

/// The breakpoints of one node. Each stops one request and is gone then.
#[derive(Debug, Default)]
pub struct Breakpoints {
    state: Mutex<State>,
    changed: Condvar,
}

impl Breakpoints {
    pub(crate) fn set_kinds(&self, kinds: Vec<Kind>, tag: &str) {
        self.state.lock().points.push((kinds, tag.to_owned()));
    }

    /// A request comes; returns once it may go on.
    pub(crate) fn meet(&self, kind: Kind) {
        let mut state = self.state.lock();
        let hit = state.points.iter().position(|(kinds, _)| kinds.is_empty() || kinds.contains(&kind));
        let Some(at) = hit else { return };
        let (_, tag) = state.points.remove(at);
        state.stopped.push(Stopped { tag: tag.clone(), released: false });
        self.changed.notify_all();
        loop {
            self.changed.wait(&mut state);
            if let Some(at) = state.stopped.iter().position(|s| s.tag == tag && s.released) {
                state.stopped.remove(at);
                return;
            }
        }
    }

    /// Lets a request with a tag go on, the first of those that stand; false if there is none.
    pub fn resume(&self, tag: &str) -> bool {
        let mut state = self.state.lock();
        let found = state.stopped.iter_mut().find(|s| s.tag == tag && !s.released);
        let there = found.map(|s| s.released = true).is_some();
        self.changed.notify_all();
        there
    }

    /// Takes the breakpoints with a tag away and lets requests with it go on; false if there are neither.
    pub fn remove(&self, tag: &str) -> bool {
        let mut state = self.state.lock();
        let before = state.points.len();
        state.points.retain(|(_, t)| t != tag);
        let removed = state.points.len() != before;
        drop(state);
        let mut resumed = false;
        while self.resume(tag) {
            resumed = true;
        }
        removed || resumed
    }

    /// Whether a request with a tag stands.
    pub fn is_stopped(&self, tag: &str) -> bool {
        self.state.lock().stopped.iter().any(|s| s.tag == tag && !s.released)
    }

    /// How many requests stand.
    pub fn stopped(&self) -> usize {
        self.state.lock().stopped.iter().filter(|s| !s.released).count()
    }

    /// Takes all breakpoints away and lets everything go on.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.points.clear();
        state.stopped.iter_mut().for_each(|s| s.released = true);
        self.changed.notify_all();
    }
}
