//! The part of a vCPU that other threads reach: interrupt inputs, requests, and the parking place.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use accel::{Kicker, VcpuLines, VcpuSignal};
use parking_lot::{Condvar, Mutex};

use crate::{env::ExitRequest, jumps::Jumps};

/// Work other threads ask a vCPU to do before it runs on.
pub(crate) mod request {
    /// Drop all cached translations and take the present memory view.
    pub(crate) const FLUSH_TLB: u32 = 1;
    /// Drop the jump caches: translated code went away.
    pub(crate) const FLUSH_JUMPS: u32 = 2;
    /// Take the pages in the list off the fast path of stores: they hold code now.
    pub(crate) const PROTECT: u32 = 4;
    /// Note where it stands, to find out what is hot.
    pub(crate) const SAMPLE: u32 = 8;
}

/// Most signals that wait for one vCPU; more are dropped (they would be merged by real hardware).
const MAX_SIGNALS: usize = 16;

/// Shared part of one vCPU.
pub(crate) struct VcpuShared {
    lines: AtomicU64,
    kicked: AtomicBool,
    requests: AtomicU32,
    signals: Mutex<VecDeque<VcpuSignal>>,
    exit_request: ExitRequest,
    /// True while translated code runs.
    running: AtomicBool,
    protect: Mutex<Vec<u64>>,
    /// The vCPU's jump caches, one an address space.
    jumps: Mutex<Vec<Arc<Jumps>>>,
    /// True when something happened since the vCPU last looked.
    awake: Mutex<bool>,
    wake: Condvar,
}

impl VcpuShared {
    pub(crate) fn new(exit_request: ExitRequest) -> Self {
        Self {
            lines: AtomicU64::new(0),
            kicked: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            signals: Mutex::new(VecDeque::new()),
            exit_request,
            running: AtomicBool::new(false),
            protect: Mutex::new(Vec::new()),
            jumps: Mutex::new(Vec::new()),
            awake: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    /// Makes the vCPU look at everything here soon.
    pub(crate) fn notify(&self) {
        self.exit_request.raise();
        *self.awake.lock() = true;
        self.wake.notify_one();
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Acquire)
    }

    pub(crate) fn set_lines(&self, lines: u64) {
        self.lines.store(lines, Ordering::Release);
    }

    pub(crate) fn request(&self, what: u32) {
        self.requests.fetch_or(what, Ordering::SeqCst);
        self.exit_request.raise();
    }

    pub(crate) fn take_requests(&self) -> u32 {
        if self.has_requests() { self.requests.swap(0, Ordering::SeqCst) } else { 0 }
    }

    /// Takes one kind of request back; true if it was there.
    pub(crate) fn take_request(&self, what: u32) -> bool {
        self.has_requests() && self.requests.fetch_and(!what, Ordering::SeqCst) & what != 0
    }

    pub(crate) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn set_running(&self, on: bool) {
        self.running.store(on, Ordering::SeqCst);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Makes stores to the page at `gpa` visible before its code is read. Called by another vCPU, which is not running
    /// translated code itself and holds no lock that running code can wait for.
    pub(crate) fn protect_and_wait(&self, gpa: u64) {
        self.protect.lock().push(gpa);
        self.requests.fetch_or(request::PROTECT, Ordering::SeqCst);
        self.exit_request.raise();
        while self.running.load(Ordering::SeqCst) && self.has_requests() {
            std::thread::yield_now();
        }
    }

    pub(crate) fn add_jumps(&self, jumps: Arc<Jumps>) {
        self.jumps.lock().push(jumps);
    }

    /// Strikes what leads from `pc` to the unit at `code` from all jump caches. The first is the one from which generated code
    /// copies to the others, and looks whether what it has copied is still there: either it sees that it is not, or we see
    /// the copy.
    pub(crate) fn strike_jump(&self, pc: u64, code: u64) {
        for j in self.jumps.lock().iter() {
            j.strike(pc, code);
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn take_protect(&self) -> Vec<u64> {
        std::mem::take(&mut self.protect.lock())
    }

    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.load(Ordering::Relaxed) && self.kicked.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn take_signal(&self) -> Option<VcpuSignal> {
        self.signals.lock().pop_front()
    }

    /// Sleeps until the next notification, which may already have come.
    pub(crate) fn park(&self) {
        let mut awake = self.awake.lock();
        while !*awake {
            // The bound only guards against a lost wake-up in a backend of the clock; nothing relies on it.
            self.wake.wait_for(&mut awake, Duration::from_secs(3600));
        }
        *awake = false;
    }
}

impl Kicker for VcpuShared {
    fn kick(&self) {
        self.kicked.store(true, Ordering::Release);
        self.notify();
    }
}

/// Interrupt inputs of all vCPUs of a partition.
pub(crate) struct Lines(pub(crate) Vec<Arc<VcpuShared>>);

impl VcpuLines for Lines {
    fn set_line(&self, vcpu: u32, line: u32, level: bool) {
        let Some(v) = self.0.get(vcpu as usize) else { return };
        let Some(bit) = 1u64.checked_shl(line) else { return };
        let old = if level {
            v.lines.fetch_or(bit, Ordering::AcqRel)
        } else {
            v.lines.fetch_and(!bit, Ordering::AcqRel)
        };
        if (old & bit != 0) != level {
            v.notify();
        }
    }

    fn signal(&self, vcpu: u32, signal: VcpuSignal) {
        let Some(v) = self.0.get(vcpu as usize) else { return };
        let mut signals = v.signals.lock();
        if signals.len() < MAX_SIGNALS {
            signals.push_back(signal);
        }
        drop(signals);
        v.notify();
    }
}
