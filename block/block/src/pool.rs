//! Threads that run blocking requests. They start when first needed and end with the last handle.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

pub(crate) type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    max: usize,
}

/// The last handle's end closes the pool.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.wake.notify_all();
    }
}

/// A pool of at most a given number of threads. Jobs taken are run even if the pool's handles go away.
#[derive(Clone)]
pub struct IoPool(Arc<Handle>);

impl IoPool {
    /// A pool of at most `threads` threads (at least one).
    pub fn new(threads: usize) -> Self {
        let shared = Shared { queue: Mutex::default(), wake: Condvar::new(), max: threads.max(1) };
        IoPool(Arc::new(Handle(Arc::new(shared))))
    }

    /// A pool without threads, whose jobs are done before [`IoPool::run`] returns: for tests, and where nobody waits.
    pub fn immediate() -> Self {
        let shared = Shared { queue: Mutex::default(), wake: Condvar::new(), max: 0 };
        IoPool(Arc::new(Handle(Arc::new(shared))))
    }

    /// Runs a job that belongs to no disk.
    pub fn run(&self, job: Box<dyn FnOnce() + Send>) {
        let shared = &self.0.0;
        if shared.max == 0 {
            return job();
        }
        let mut queue = shared.queue.lock();
        queue.jobs.push_back(job);
        if queue.idle < queue.jobs.len() && queue.threads < shared.max {
            let worker = shared.clone();
            let spawned = std::thread::Builder::new().name("block-io".into()).spawn(move || worker.work());
            match spawned {
                Ok(_) => queue.threads += 1,
                Err(_) if queue.threads > 0 => {}
                Err(_) => {
                    // No thread at all: better slow than never.
                    let jobs = std::mem::take(&mut queue.jobs);
                    drop(queue);
                    jobs.into_iter().for_each(|job| job());
                    return;
                }
            }
        }
        shared.wake.notify_one();
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A job that panics has been reported by the panic hook; the pool goes on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                self.wake.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }
}

impl std::fmt::Debug for IoPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoPool({})", self.0.0.max)
    }
}
