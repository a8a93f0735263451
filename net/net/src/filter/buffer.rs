//! `filter-buffer`: holds frames and lets them go at intervals.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Direction, Filter, Verdict};
use crate::NetError;
use crate::cable::Reentry;

/// Bytes held; what comes beyond is lost.
const MOST: usize = 64 << 20;

#[derive(Default)]
struct State {
    held: Vec<(Direction, Vec<u8>)>,
    bytes: usize,
    back: Option<Reentry>,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// Holds what passes.
pub struct BufferFilter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl BufferFilter {
    /// Lets go every `interval`.
    pub fn new(interval: Duration) -> Result<Self, NetError> {
        if interval.is_zero() {
            return Err(NetError::Option("interval: expected a number of microseconds above 0".into()));
        }
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() });
        let works = shared.clone();
        let thread = std::thread::Builder::new()
            .name("net-buffer".into())
            .spawn(move || works.run(interval))
            .map_err(|e| NetError::host("thread of a buffer", e))?;
        Ok(BufferFilter { shared, thread: Some(thread) })
    }
}

impl Shared {
    fn run(&self, interval: Duration) {
        let mut next = Instant::now() + interval;
        let mut state = self.state.lock();
        while !state.closed {
            if !self.wake.wait_until(&mut state, next).timed_out() && Instant::now() < next {
                continue;
            }
            next = (next + interval).max(Instant::now());
            let held = std::mem::take(&mut state.held);
            state.bytes = 0;
            let Some(back) = state.back.clone() else { continue };
            drop(state);
            for (direction, frame) in held {
                back.pass(direction, frame);
            }
            state = self.state.lock();
        }
    }
}

impl Filter for BufferFilter {
    fn frame(&self, direction: Direction, frame: &[u8], _header: usize) -> Verdict {
        let mut state = self.shared.state.lock();
        if state.bytes + frame.len() <= MOST {
            state.bytes += frame.len();
            state.held.push((direction, frame.to_vec()));
        }
        Verdict::Taken
    }

    fn attach(&self, back: Reentry) {
        self.shared.state.lock().back = Some(back);
    }
}

impl Drop for BufferFilter {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
        let here = std::thread::current().id();
        // The last frame may have held the cable, and with it us.
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != here) {
            let _ = thread.join();
        }
    }
}
