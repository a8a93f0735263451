//! A device's handle to its disk.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::node::{BlockNode, Extent, NodeInfo};
use crate::policy::{ErrorAction, ErrorPolicy, Failure, FailureSink, OnError};
use crate::pool::IoPool;
use crate::{BlockError, SECTOR};

/// Names a request for logs and cancellation; unique per disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// Values of [`Inner::failed`].
const FAILED: u8 = 1;
const NO_SPACE: u8 = 2;

/// What a disk has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Reads done.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes done.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
    errors: AtomicU64,
}

struct Inner {
    id: String,
    node: Arc<dyn BlockNode>,
    read_only: bool,
    /// Changes are done once they are stable.
    write_through: bool,
    /// Threads for requests; a device with several queues gives each the next one.
    pools: Vec<IoPool>,
    policy: ErrorPolicy,
    sink: Option<FailureSink>,
    /// A request waits for the machine to go on: it failed, and the host may have had no space.
    failed: AtomicU8,
    on_resize: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
    counters: Counters,
    next_request: AtomicU64,
    in_flight: Mutex<u64>,
    idle: Condvar,
}

/// A disk as a device sees it. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

/// Counts a request out of flight, whatever happens to it.
struct Flight(Arc<Inner>);

impl Drop for Flight {
    fn drop(&mut self) {
        let mut in_flight = self.0.in_flight.lock();
        *in_flight -= 1;
        if *in_flight == 0 {
            self.0.idle.notify_all();
        }
    }
}

impl Disk {
    /// A disk called `id` whose contents are `node`'s.
    pub fn new(id: impl Into<String>, node: Arc<dyn BlockNode>, read_only: bool, pool: &IoPool) -> Self {
        Disk(Arc::new(Inner {
            id: id.into(),
            read_only: read_only || node.info().read_only,
            node,
            write_through: false,
            pools: vec![pool.clone()],
            policy: ErrorPolicy { read: OnError::Report, write: OnError::Report },
            sink: None,
            failed: AtomicU8::new(0),
            on_resize: Mutex::default(),
            counters: Counters::default(),
            next_request: AtomicU64::new(1),
            in_flight: Mutex::new(0),
            idle: Condvar::new(),
        }))
    }

    /// Sets what failures do and who hears of them. Only before there is a second handle: later it does nothing.
    #[must_use]
    pub fn with_policy(mut self, policy: ErrorPolicy, sink: FailureSink) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            (inner.policy, inner.sink) = (policy, Some(sink));
        }
        self
    }

    /// Has changes be done only once they are stable. Only before there is a second handle: later it does nothing.
    #[must_use]
    pub fn with_write_through(mut self, on: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.write_through = on;
        }
        self
    }

    /// Whether changes are done only once they are stable.
    pub fn write_through(&self) -> bool {
        self.0.write_through
    }

    /// Has the requests of each queue run on threads of its own, queues beyond the list beginning anew. Only before there
    /// is a second handle, and with at least one: else it does nothing.
    #[must_use]
    pub fn with_pools(mut self, pools: Vec<IoPool>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0).filter(|_| !pools.is_empty()) {
            inner.pools = pools;
        }
        self
    }

    /// What a device does about a request that failed; whoever listens is told.
    pub fn failed(&self, read: bool, error: &BlockError) -> ErrorAction {
        let action = self.0.policy.action(read, error);
        if action == ErrorAction::Stop {
            self.0.failed.store(if error.is_no_space() { NO_SPACE } else { FAILED }, Ordering::Relaxed);
        }
        if let Some(sink) = self.0.sink.as_ref().filter(|_| !is_guests(error)) {
            sink.tell(&Failure { read, action, error });
        }
        action
    }

    /// Failed requests are tried again.
    pub fn retried(&self) {
        self.0.failed.store(0, Ordering::Relaxed);
    }

    /// Whether requests wait for the machine to go on, in the words of QMP.
    pub fn io_status(&self) -> &'static str {
        match self.0.failed.load(Ordering::Relaxed) {
            NO_SPACE => "nospace",
            FAILED => "failed",
            _ => "ok",
        }
    }

    /// Has `f` called when the size has changed. It is called on whatever thread changes it.
    pub fn on_resize(&self, f: impl Fn() + Send + Sync + 'static) {
        self.0.on_resize.lock().push(Box::new(f));
    }

    /// Tells that the size has changed.
    pub fn resized(&self) {
        self.0.on_resize.lock().iter().for_each(|f| f());
    }

    /// The name the user gave it.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.0.node.size()
    }

    /// Whether it has no contents at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in sectors of 512 bytes, the last of which may be partly missing.
    pub fn sectors(&self) -> u64 {
        self.len().div_ceil(SECTOR)
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.0.read_only
    }

    /// What the topmost node says about itself.
    pub fn info(&self) -> NodeInfo {
        NodeInfo { read_only: self.0.read_only, ..self.0.node.info() }
    }

    /// The topmost node.
    pub fn node(&self) -> &Arc<dyn BlockNode> {
        &self.0.node
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let size = self.len();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(BlockError::OutOfRange { offset, len, size }),
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.0.read_only { Err(BlockError::ReadOnly) } else { self.check(offset, len) }
    }

    fn count<T>(&self, result: Result<T, BlockError>, counter: &AtomicU64) -> Result<T, BlockError> {
        if result.is_err() { &self.0.counters.errors } else { counter }.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Reads into one buffer.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.read_vectored_at(offset, &mut [IoSliceMut::new(buf)])
    }

    /// Reads into several buffers, one after the other.
    pub fn read_vectored_at(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        let result = self.check(offset, len).and_then(|()| self.0.node.read(offset, bufs));
        self.0.counters.read_bytes.fetch_add(len, Ordering::Relaxed);
        self.count(result, &self.0.counters.reads)
    }

    /// Writes one buffer.
    pub fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.write_vectored_at(offset, &[IoSlice::new(buf)], false)
    }

    /// Writes several buffers, one after the other; with `fua` they are stable when it returns.
    pub fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let fua = fua || self.0.write_through;
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        let result = self.check_write(offset, len).and_then(|()| self.0.node.write(offset, bufs, fua));
        self.0.counters.write_bytes.fetch_add(len, Ordering::Relaxed);
        self.count(result, &self.0.counters.writes)
    }

    /// Makes all finished writes stable.
    pub fn flush(&self) -> Result<(), BlockError> {
        let result = if self.0.read_only { Ok(()) } else { self.0.node.flush() };
        self.count(result, &self.0.counters.flushes)
    }

    /// Makes a change stable where no change is done before.
    fn stable(&self) -> Result<(), BlockError> {
        if self.0.write_through { self.0.node.flush() } else { Ok(()) }
    }

    /// Gives up the contents of a range.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let result = self.check_write(offset, len).and_then(|()| self.0.node.discard(offset, len));
        let result = result.and_then(|()| self.stable());
        self.count(result, &self.0.counters.writes)
    }

    /// Makes a range read as zero.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let result =
            self.check_write(offset, len).and_then(|()| self.0.node.write_zeroes(offset, len, unmap));
        let result = result.and_then(|()| self.stable());
        self.count(result, &self.0.counters.writes)
    }

    /// What is known of a range without reading it.
    pub fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.check(range.start, range.end.saturating_sub(range.start))?;
        self.0.node.status(range)
    }

    /// Runs a request on the disk's pool. The request counts as in flight until `job` has returned.
    pub fn spawn(&self, job: impl FnOnce(&Disk) + Send + 'static) -> RequestId {
        self.spawn_on(0, job)
    }

    /// The same for a request of a device's queue.
    pub fn spawn_on(&self, queue: usize, job: impl FnOnce(&Disk) + Send + 'static) -> RequestId {
        let id = RequestId(self.0.next_request.fetch_add(1, Ordering::Relaxed));
        *self.0.in_flight.lock() += 1;
        let flight = Flight(self.0.clone());
        self.0.pools[queue % self.0.pools.len()].run(Box::new(move || job(&Disk(flight.0.clone()))));
        id
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> u64 {
        *self.0.in_flight.lock()
    }

    /// Waits until nothing is in flight. Whoever produces requests has to be stopped first.
    pub fn drain(&self) {
        let mut in_flight = self.0.in_flight.lock();
        while *in_flight != 0 {
            self.0.idle.wait(&mut in_flight);
        }
    }

    /// What the disk has done so far.
    pub fn stats(&self) -> DiskStats {
        let c = &self.0.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            reads: get(&c.reads),
            read_bytes: get(&c.read_bytes),
            writes: get(&c.writes),
            write_bytes: get(&c.write_bytes),
            flushes: get(&c.flushes),
            errors: get(&c.errors),
        }
    }
}

/// Whether a request was the guest's mistake.
fn is_guests(error: &BlockError) -> bool {
    matches!(error, BlockError::OutOfRange { .. } | BlockError::ReadOnly)
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({}: {:?})", self.0.id, self.0.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryNode;

    #[test]
    fn requests_are_checked() {
        let pool = IoPool::new(1);
        let disk = Disk::new("d", Arc::new(MemoryNode::new("m", 4096)), false, &pool);
        disk.write_at(4090, &[1; 6]).unwrap();
        assert!(matches!(disk.write_at(4091, &[1; 6]), Err(BlockError::OutOfRange { .. })));
        assert!(matches!(disk.read_at(u64::MAX, &mut [0; 2]), Err(BlockError::OutOfRange { .. })));
        disk.write_zeroes(4092, 2, false).unwrap();
        let mut back = [9; 6];
        disk.read_at(4090, &mut back).unwrap();
        assert_eq!(back, [1, 1, 0, 0, 1, 1]);
        let frozen = Disk::new("r", disk.node().clone(), true, &pool);
        assert!(matches!(frozen.write_at(0, &[1]), Err(BlockError::ReadOnly)));
        assert!(matches!(frozen.discard(0, 1), Err(BlockError::ReadOnly)));
        frozen.flush().unwrap();
        let stats = disk.stats();
        assert_eq!((stats.reads, stats.writes, stats.errors), (1, 2, 2));
    }

    #[test]
    fn failures_are_told_and_queues_have_threads() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let sink = FailureSink::new(move |f| heard.lock().push((f.read, f.action)));
        let pools = vec![IoPool::new(1), IoPool::new(1)];
        let disk = Disk::new("d", Arc::new(MemoryNode::new("m", 4096)), false, &pools[0])
            .with_policy(ErrorPolicy::default(), sink)
            .with_pools(pools);
        let full = BlockError::Io(std::io::ErrorKind::StorageFull.into());
        assert_eq!(disk.failed(false, &full), ErrorAction::Stop);
        assert_eq!(disk.io_status(), "nospace");
        disk.retried();
        assert_eq!(disk.failed(true, &full), ErrorAction::Report);
        assert_eq!(disk.failed(false, &BlockError::ReadOnly), ErrorAction::Report);
        assert_eq!((disk.io_status(), told.lock().len()), ("ok", 2));
        // The first queue's thread is held up; the second's is not.
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        let (done, wait) = std::sync::mpsc::channel();
        disk.spawn_on(0, move |_| {
            let _ = rx.recv();
        });
        disk.spawn_on(1, move |_| done.send(()).unwrap());
        wait.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        drop(tx);
        disk.drain();
        let sizes = Arc::new(AtomicU64::new(0));
        let seen = sizes.clone();
        disk.on_resize(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        disk.resized();
        assert_eq!(sizes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn drain_waits_for_all() {
        let disk = Disk::new("d", Arc::new(MemoryNode::new("m", 4096)), false, &IoPool::new(3));
        let ids: std::collections::HashSet<_> =
            (0..100u64).map(|i| disk.spawn(move |d| d.write_at(i * 8, &i.to_le_bytes()).unwrap())).collect();
        disk.drain();
        assert_eq!((disk.in_flight(), ids.len(), disk.stats().writes), (0, 100, 100));
        let mut last = [0; 8];
        disk.read_at(99 * 8, &mut last).unwrap();
        assert_eq!(u64::from_le_bytes(last), 99);
    }
}
