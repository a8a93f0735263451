//! What a debugger and the threads of a process share: who stands where, and what is wanted of whom.
//!
//! A thread publishes its state before each system call and whenever it stands; while it waits in the host's kernel it counts
//! as standing. One event stops the process: the thread it belongs to reports it, the others are made to stand. A thread
//! that has something to report meanwhile reports it once the process runs again.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use accel::arch::CpuState;
use accel::{DebugEvent, Watchpoint};
use control::gdb::Points;
use gdbstub::target::ext::breakpoints::WatchKind;

use crate::thread::Thread;

/// What a thread reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A breakpoint, or the end of a step.
    Debug(DebugEvent),
    /// A signal is about to be delivered.
    Signal(i32),
    /// The process has ended, with its code.
    Exited(i32),
    /// A signal has ended it.
    Killed(i32),
    /// Nothing: it stands because it was told to.
    Asked,
}

/// One thread as the debugger has it.
pub(super) struct View {
    pub(super) state: CpuState,
    /// The debugger has changed the state.
    pub(super) changed: bool,
    /// It stands, or waits in the kernel with its state here.
    standing: bool,
    /// It stands still while others run.
    pub(super) hold: bool,
    pub(super) step: bool,
    /// The signal to deliver in place of the one it reported.
    pub(super) signal: Option<i32>,
    kick: Box<dyn Fn() + Send + Sync>,
    /// What its CPU was told last.
    told: u64,
}

pub(super) struct World {
    pub(super) running: bool,
    /// Nobody debugs any more.
    pub(super) over: bool,
    pub(super) threads: BTreeMap<i32, View>,
    pub(super) breakpoints: Points<u64>,
    pub(super) watch: Points<(Watchpoint, WatchKind)>,
    /// Counts changes of what is wanted.
    version: u64,
}

/// A debugged process.
pub(crate) struct Debugger {
    world: Mutex<World>,
    changed: Condvar,
    reports: Mutex<Sender<super::Message>>,
    /// The process that is debugged: its children are not.
    pid: u32,
}

impl Debugger {
    pub(super) fn new(reports: Sender<super::Message>) -> Self {
        let world = World {
            running: false,
            over: false,
            threads: BTreeMap::new(),
            breakpoints: Points::default(),
            watch: Points::default(),
            version: 1,
        };
        Self {
            world: Mutex::new(world),
            changed: Condvar::new(),
            reports: Mutex::new(reports),
            pid: std::process::id(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, tid: i32, stop: Stop) {
        let to = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = to.send(super::Message::Stop(tid, stop));
    }

    /// True for threads of the debugged process, as long as somebody debugs it.
    fn concerns(&self) -> bool {
        std::process::id() == self.pid && !self.lock().over
    }

    /// Waits until the first thread is there and stands.
    pub(super) fn first_stands(&self) {
        let mut w = self.lock();
        while !w.threads.values().any(|v| v.standing) {
            w = self.changed.wait(w).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes all threads stand; returns when they do.
    pub(super) fn stop_all(&self) {
        let mut w = self.lock();
        w.running = false;
        w.threads.values().for_each(|v| (v.kick)());
        while !w.over && w.threads.values().any(|v| !v.standing) {
            w = self.changed.wait(w).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets those run that are not held.
    pub(super) fn run(&self) {
        let mut w = self.lock();
        w.running = true;
        w.version += 1;
        drop(w);
        self.changed.notify_all();
    }

    /// Nobody debugs any more.
    pub(super) fn end(&self) {
        let mut w = self.lock();
        w.over = true;
        w.running = true;
        w.breakpoints.clear();
        w.watch.clear();
        w.threads.values_mut().for_each(|v| (v.hold, v.step) = (false, false));
        w.version += 1;
        drop(w);
        self.changed.notify_all();
    }

    /// A thread appears; the first one reports nothing, as the debugger knows that it stands.
    pub(crate) fn enter(&self, t: &mut Thread) {
        if !self.concerns() {
            return;
        }
        let view = View {
            state: t.cpu.state(),
            changed: false,
            standing: false,
            hold: false,
            step: false,
            signal: None,
            kick: t.cpu.kicker(),
            told: 0,
        };
        self.lock().threads.insert(t.tid, view);
        self.look(t);
    }

    /// A thread goes.
    pub(crate) fn leave(&self, t: &Thread) {
        if std::process::id() != self.pid {
            return;
        }
        self.lock().threads.remove(&t.tid);
        self.changed.notify_all();
    }

    /// Before a system call: the state is there for a debugger while the call waits.
    pub(crate) fn publish(&self, t: &mut Thread) {
        if !self.concerns() {
            return;
        }
        let state = t.cpu.state();
        if let Some(v) = self.lock().threads.get_mut(&t.tid) {
            v.state = state;
            v.changed = false;
            v.standing = true;
        }
        self.changed.notify_all();
    }

    /// Stands if the process does, and takes over what is wanted.
    pub(crate) fn look(&self, t: &mut Thread) {
        if self.concerns() {
            self.stand(t, None);
        }
    }

    /// True if the thread is to stop behind each instruction.
    pub(crate) fn steps(&self, t: &Thread) -> bool {
        self.concerns() && self.lock().threads.get(&t.tid).is_some_and(|v| v.step)
    }

    /// Reports an event and stands until the debugger goes on; the signal to deliver, if the event was one.
    pub(crate) fn stop(&self, t: &mut Thread, stop: Stop) -> Option<i32> {
        let own = match stop {
            Stop::Signal(s) => Some(s),
            _ => None,
        };
        if !self.concerns() {
            return own;
        }
        self.stand(t, Some(stop));
        let mut w = self.lock();
        if w.over {
            return own;
        }
        w.threads.get_mut(&t.tid).and_then(|v| v.signal.take())
    }

    /// The process ends: reported, not waited for.
    pub(crate) fn ended(&self, t: &Thread, stop: Stop) {
        if self.concerns() {
            self.report(t.tid, stop);
            // The answer is on its way before the process is gone.
            let mut w = self.lock();
            while !w.over {
                w = self.changed.wait(w).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Takes part in a stop of the process: reports `stop` if that is what it is, and stands until the debugger goes on.
    fn stand(&self, t: &mut Thread, mut stop: Option<Stop>) {
        let mut w = self.lock();
        loop {
            if w.running
                && let Some(s) = stop.take()
            {
                if w.is_over_for(&s) {
                    break;
                }
                w.running = false;
                w.threads.values().for_each(|v| (v.kick)());
                self.report(t.tid, s);
            }
            let held = w.threads.get(&t.tid).is_some_and(|v| v.hold);
            if w.over || w.running && !held {
                break;
            }
            let Some(v) = w.threads.get_mut(&t.tid) else { return };
            if !v.changed {
                v.state = t.cpu.state();
            }
            v.standing = true;
            self.changed.notify_all();
            w = self.changed.wait(w).unwrap_or_else(PoisonError::into_inner);
        }
        let World { threads, watch, version, .. } = &mut *w;
        let Some(v) = threads.get_mut(&t.tid) else { return };
        v.standing = false;
        if std::mem::take(&mut v.changed) {
            // What a client writes is of the right form by the description; what the CPU refuses even so does not happen.
            let _ = t.cpu.set_state(&v.state);
        }
        if v.told != *version {
            v.told = *version;
            let watch: Vec<Watchpoint> = watch.iter().map(|(w, _)| *w).collect();
            t.cpu.set_debug(v.step, &watch);
        }
    }
}

impl World {
    /// True if nobody wants to hear of a stop any more.
    fn is_over_for(&self, stop: &Stop) -> bool {
        matches!(stop, Stop::Debug(DebugEvent::Breakpoint { pc }) if !self.breakpoints.contains(pc))
    }
}
