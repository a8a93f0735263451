//! A bad line, for trying protocols on (Rhea's own, `filter-impair`): loss, duplicates, delay and reordering.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Direction, Filter, Verdict};
use crate::NetError;
use crate::cable::Reentry;

/// Bytes under way; what comes beyond is lost.
const MOST: usize = 64 << 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Frames lost, in percent.
    pub loss: f64,
    /// Frames that come twice, in percent.
    pub duplicate: f64,
    /// Frames that overtake those under way, in percent.
    pub reorder: f64,
    /// How long frames are under way.
    pub delay: Duration,
    /// How much that varies, either way.
    pub jitter: Duration,
    /// What chance begins with.
    pub seed: u64,
}

/// A frame under way: when it arrives, a number that keeps order, which way, the frame.
type UnderWay = Reverse<(Instant, u64, bool, Vec<u8>)>;

struct State {
    frames: BinaryHeap<UnderWay>,
    bytes: usize,
    count: u64,
    chance: u64,
    back: Option<Reentry>,
    closed: bool,
}

struct Shared {
    how: Impairment,
    state: Mutex<State>,
    wake: Condvar,
}

/// The bad line.
pub struct ImpairFilter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ImpairFilter {
    /// Makes it.
    pub fn new(how: Impairment) -> Result<Self, NetError> {
        for (name, percent) in [("loss", how.loss), ("duplicate", how.duplicate), ("reorder", how.reorder)] {
            if !(0.0..=100.0).contains(&percent) {
                return Err(NetError::Option(format!(
                    "{name}={percent}: expected a percentage from 0 to 100"
                )));
            }
        }
        let state = State {
            frames: BinaryHeap::new(),
            bytes: 0,
            count: 0,
            chance: how.seed ^ 0x9e37_79b9_7f4a_7c15,
            back: None,
            closed: false,
        };
        let shared = Arc::new(Shared { how, state: Mutex::new(state), wake: Condvar::new() });
        let works = shared.clone();
        let thread = std::thread::Builder::new()
            .name("net-impair".into())
            .spawn(move || works.run())
            .map_err(|e| NetError::host("thread of a bad line", e))?;
        Ok(ImpairFilter { shared, thread: Some(thread) })
    }
}

impl State {
    /// A number from 0 to 1 (xorshift64*).
    fn random(&mut self) -> f64 {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        (self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn happens(&mut self, percent: f64) -> bool {
        self.random() * 100.0 < percent
    }

    fn push(&mut self, at: Instant, direction: Direction, frame: &[u8]) {
        if self.bytes + frame.len() > MOST {
            return;
        }
        self.bytes += frame.len();
        self.count += 1;
        self.frames.push(Reverse((at, self.count, direction == Direction::ToNet, frame.to_vec())));
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            let next = state.frames.peek().map(|Reverse((at, ..))| *at);
            match next {
                None => self.wake.wait(&mut state),
                Some(at) if at > Instant::now() => {
                    self.wake.wait_until(&mut state, at);
                }
                Some(_) => {
                    let Some(Reverse((_, _, out, frame))) = state.frames.pop() else { continue };
                    state.bytes -= frame.len();
                    let back = state.back.clone();
                    drop(state);
                    if let Some(back) = back {
                        back.pass(if out { Direction::ToNet } else { Direction::FromNet }, frame);
                    }
                    state = self.state.lock();
                }
            }
        }
    }
}

impl Filter for ImpairFilter {
    fn frame(&self, direction: Direction, frame: &[u8], _header: usize) -> Verdict {
        let how = &self.shared.how;
        let mut state = self.shared.state.lock();
        if state.happens(how.loss) {
            return Verdict::Taken;
        }
        let now = Instant::now();
        let copies = if state.happens(how.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let at = if state.happens(how.reorder) {
                now
            } else {
                let jitter = how.jitter.mul_f64(2.0 * state.random());
                (now + how.delay + jitter).checked_sub(how.jitter).unwrap_or(now).max(now)
            };
            state.push(at, direction, frame);
        }
        self.shared.wake.notify_one();
        Verdict::Taken
    }

    fn attach(&self, back: Reentry) {
        self.shared.state.lock().back = Some(back);
    }
}

impl Drop for ImpairFilter {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
        let here = std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != here) {
            let _ = thread.join();
        }
    }
}
