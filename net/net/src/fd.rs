//! A back end around a descriptor that carries one frame a read or write: tap devices, datagram sockets.
//!
//! A thread waits for the descriptor or to be woken, so it neither spins nor outlives the endpoint. What a peer on the
//! network can cause (a refused datagram, an unreachable host) ends nothing.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::PollFlags;
use smallvec::SmallVec;

use crate::flow::spread;
use crate::wake::{self, Wake, Woken};
use crate::{MAX_FRAME, NetError, NetReceiver, ReceiverSlot};

/// Room for a frame and what a tunnel puts before it.
const BUFFER: usize = MAX_FRAME + 1024;
/// Pieces of a frame that are sent as they are.
const PIECES: usize = 62;
/// Frames read before the thread looks whether it is to end.
const BATCH: usize = 64;
/// Errors in a row after which the thread rests before it reads again.
const PATIENCE: u32 = 16;
/// How long it rests.
const REST: Duration = Duration::from_millis(200);

/// A descriptor that carries frames. It does not block.
pub(crate) trait Carrier: AsFd + Send + Sync + 'static {
    /// Sends a frame given in at most 62 pieces.
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()>;

    /// Receives into `buffer`; where the frame lies in it, if what came was one.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>>;

    /// Whether an error means that nothing will ever come again.
    fn is_gone(&self, error: &io::Error) -> bool {
        let _ = error;
        false
    }
}

/// One such descriptor, or several that are queues of one device.
pub(crate) struct Carried<C: Carrier> {
    ends: Vec<FdEndpoint<C>>,
    slot: Arc<ReceiverSlot>,
}

impl<C: Carrier> Carried<C> {
    /// Begins to receive, on threads of that name.
    pub(crate) fn new(name: &str, carriers: impl IntoIterator<Item = C>) -> Result<Self, NetError> {
        let slot = Arc::<ReceiverSlot>::default();
        let ends = carriers.into_iter().map(|carrier| FdEndpoint::new(name, carrier, slot.clone()));
        Ok(Carried { ends: ends.collect::<Result<_, _>>()?, slot })
    }

    pub(crate) fn carriers(&self) -> impl Iterator<Item = &C> {
        self.ends.iter().map(|end| &end.shared.carrier)
    }

    /// Sends a frame with `header` bytes before it, on the queue of its flow.
    pub(crate) fn send(&self, frame: &[&[u8]], header: usize) -> bool {
        let which = spread(frame, header, self.ends.len());
        self.ends.get(which).is_some_and(|end| end.send(frame))
    }

    pub(crate) fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.slot.set(receiver);
        self.accept_input();
    }

    pub(crate) fn accept_input(&self) {
        self.ends.iter().for_each(FdEndpoint::accept_input);
    }

    /// Leaves the descriptors alone, as somebody else reads them, or no longer. A frame that is being read is still given.
    #[cfg(target_os = "linux")]
    pub(crate) fn set_resting(&self, resting: bool) {
        for end in &self.ends {
            end.shared.state.lock().resting = resting;
            end.wake.wake();
        }
    }

    /// How many there are.
    pub(crate) fn queues(&self) -> u16 {
        self.ends.len() as u16
    }
}

/// Makes an endpoint of a type whose first field is a [`Carried`] and whose frames have no header.
macro_rules! carried {
    ($name:ty) => {
        impl $crate::Endpoint for $name {
            fn send(&self, frame: &[&[u8]]) -> bool {
                self.0.send(frame, 0)
            }
            fn set_receiver(&self, receiver: Option<Box<dyn $crate::NetReceiver>>) {
                self.0.set_receiver(receiver);
            }
            fn accept_input(&self) {
                self.0.accept_input();
            }
            fn queues(&self) -> u16 {
                self.0.queues()
            }
        }
    };
}
pub(crate) use carried;

struct Shared<C> {
    carrier: C,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The NIC may be asked for room again.
    retry: bool,
    closed: bool,
    /// Nothing is to be read.
    resting: bool,
}

/// One descriptor with its thread.
struct FdEndpoint<C: Carrier> {
    shared: Arc<Shared<C>>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl<C: Carrier> FdEndpoint<C> {
    /// Frames that come go to the receiver in `slot`, which several of these may share.
    fn new(name: &str, carrier: C, slot: Arc<ReceiverSlot>) -> Result<Self, NetError> {
        let failed = |e| NetError::host(name, e);
        rustix::io::ioctl_fionbio(&carrier, true).map_err(|e| failed(e.into()))?;
        let (wake, woken) = wake::pair().map_err(failed)?;
        let shared = Arc::new(Shared { carrier, state: Mutex::default() });
        let reader = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("net-{name}").chars().take(15).collect())
            .spawn(move || reader.run(woken, &slot))
            .map_err(failed)?;
        Ok(FdEndpoint { shared, wake, thread: Some(thread) })
    }

    fn send(&self, frame: &[&[u8]]) -> bool {
        let length: usize = frame.iter().map(|p| p.len()).sum();
        if length > MAX_FRAME || frame.len() > PIECES {
            return length <= MAX_FRAME && self.send(&[&frame.concat()]);
        }
        let pieces: SmallVec<[IoSlice<'_>; 8]> = frame.iter().map(|p| IoSlice::new(p)).collect();
        loop {
            match self.shared.carrier.send(&pieces) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done.is_ok(),
            }
        }
    }

    fn accept_input(&self) {
        self.shared.state.lock().retry = true;
        self.wake.wake();
    }
}

impl<C: Carrier> Drop for FdEndpoint<C> {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<C: Carrier> Shared<C> {
    fn run(&self, mut woken: Woken, receiver: &ReceiverSlot) {
        let mut buffer = vec![0; BUFFER];
        let mut held: Option<Range<usize>> = None;
        let mut errors = 0;
        let mut away = false;
        loop {
            let resting = errors >= PATIENCE;
            let listen =
                (held.is_none() && !resting && !away).then_some((self.carrier.as_fd(), PollFlags::IN));
            let Ok(ready) = woken.wait(listen, resting.then_some(REST)) else { return };
            if resting {
                errors = 0;
            }
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let retry = std::mem::take(&mut state.retry);
            away = state.resting;
            drop(state);
            if away {
                held = None;
                continue;
            }
            if ready.is_empty() && !retry {
                continue;
            }
            for _ in 0..BATCH {
                if held.is_none() {
                    match self.carrier.receive(&mut buffer) {
                        Ok(frame) => (held, errors) = (frame, 0),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        Err(e) if self.carrier.is_gone(&e) => return receiver.link(false),
                        Err(_) => {
                            errors += 1;
                            break;
                        }
                    }
                }
                if let Some(frame) = held.take()
                    && !receiver.offer(&buffer[frame.clone()])
                {
                    held = Some(frame);
                    break;
                }
            }
        }
    }
}
