//! Requests to disks that run on the disks' threads, whose results the device takes when it is woken.
//!
//! A request carries its data with it: what is written was taken from the guest when it was started, and what was
//! read goes to the guest when the device, under its own lock, takes the result. A result that nobody wants any more
//! (after a reset) is told by its tag and dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use block::{BlockError, Disk};
use device::Waker;
use parking_lot::{Condvar, Mutex};

/// A range in bytes: offset and length.
pub(crate) type Range = (u64, u64);

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Read(Range),
    Write { offset: u64, data: Vec<u8>, fua: bool },
    Flush,
    Discard(Vec<Range>),
    Zero { ranges: Vec<Range>, unmap: bool },
}

/// What has become of it; a read brings its data.
pub(crate) struct Done {
    pub(crate) tag: u64,
    pub(crate) result: Result<Vec<u8>, BlockError>,
}

#[derive(Default)]
struct State {
    done: VecDeque<Done>,
    in_flight: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    idle: Condvar,
}

/// The requests of one device.
pub(crate) struct Requests {
    shared: Arc<Shared>,
    waker: Waker,
}

/// Counts a request out, whatever becomes of it.
struct Flight(Arc<Shared>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
        self.0.idle.notify_all();
    }
}

fn run(disk: &Disk, op: Op) -> Result<Vec<u8>, BlockError> {
    let none = |()| Vec::new();
    match op {
        Op::Read((offset, len)) => {
            // Lengths are the device's own pieces, not the guest's wishes.
            let mut data = vec![0; len as usize];
            disk.read_at(offset, &mut data).map(|()| data)
        }
        Op::Write { offset, data, fua } => {
            disk.write_vectored_at(offset, &[std::io::IoSlice::new(&data)], fua).map(none)
        }
        Op::Flush => disk.flush().map(none),
        Op::Discard(ranges) => {
            ranges.iter().try_for_each(|(offset, len)| disk.discard(*offset, *len)).map(none)
        }
        Op::Zero { ranges, unmap } => {
            ranges.iter().try_for_each(|(offset, len)| disk.write_zeroes(*offset, *len, unmap)).map(none)
        }
    }
}

impl Requests {
    /// None yet; `waker` wakes the device when there is a result to take.
    pub(crate) fn new(waker: Waker) -> Self {
        Requests { shared: Arc::default(), waker }
    }

    /// Starts a request. Its result may be there at once.
    pub(crate) fn start(&self, disk: &Disk, tag: u64, op: Op) {
        self.shared.state.lock().in_flight += 1;
        let (flight, waker) = (Flight(self.shared.clone()), self.waker.clone());
        disk.spawn(move |disk| {
            let result = run(disk, op);
            if let Err(e) = &result {
                tracing::debug!(disk = disk.id(), "request failed: {e}");
            }
            flight.0.state.lock().done.push_back(Done { tag, result });
            // Not in flight when the device is woken: it may wait for that with its lock held.
            drop(flight);
            waker.wake();
        });
    }

    /// The next result.
    pub(crate) fn take(&self) -> Option<Done> {
        self.shared.state.lock().done.pop_front()
    }

    /// Waits until all results are there. A panicked request leaves none.
    pub(crate) fn drain(&self) {
        let mut state = self.shared.state.lock();
        while state.in_flight != 0 {
            self.shared.idle.wait(&mut state);
        }
    }
}
