//! `-netdev vhost-user`: a network that another process serves through rings in memory shared with it.
//!
//! A virtio card hands its rings over ([`Endpoint::rings`]) where the guest's memory can be shared; see `handover.rs`. Else, and
//! for whatever other card, hub or filter is on the cable, the rings are ours, in memory of our own, and frames are copied into
//! and out of them. So it is as well while a migration sees to it what is written.
//! A back end that does all that a driver may leave to it gets the card's headers then, offloads included; for others headers
//! are empty.
//!
//! While nobody serves, frames are lost and the link is down. Bounds: the rings, and one frame for a guest that reads slowly.

mod checksum;
mod handover;
mod session;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::PollFlags;
use socket2::Socket;
use vhost_user::Event;

use self::session::{HEADER, Session};
use crate::wake::{self, Wake, Woken};
use crate::{Address, Endpoint, NetError, NetReceiver, ReceiverSlot};

/// Most pairs of rings.
const MOST_QUEUES: u16 = 64;

/// Told whether there is a back end, when that changes.
pub type VhostEvents = Box<dyn Fn(bool) + Send + Sync>;

/// The back end.
#[derive(Debug)]
pub enum VhostPeer {
    /// It listens; with a period, it is tried until it does and again when it has gone.
    Connect(Address, Option<Duration>),
    /// We listen; and begin without it if `wait` is false.
    Listen {
        /// Where.
        address: Address,
        /// It must come first.
        wait: bool,
    },
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    /// Offloads the guest takes.
    offloads: u64,
    retry: bool,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    receiver: ReceiverSlot,
    /// The card's headers are passed on.
    passes: AtomicBool,
    /// Several datagrams in a frame are passed on as well.
    uso: AtomicBool,
    up: AtomicBool,
    wake: Wake,
    queues: u16,
    events: Option<VhostEvents>,
}

/// The network.
pub struct VhostUser {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How the thread comes by a back end.
enum Way {
    Once,
    Again(Address, Duration),
    Accept(Socket),
}

impl VhostUser {
    /// Begins a session, or waits for one, with as many pairs of rings.
    ///
    /// # Errors
    /// There is nobody, or it does not speak the protocol.
    pub fn new(peer: VhostPeer, queues: u16, events: Option<VhostEvents>) -> Result<Self, NetError> {
        if !(1..=MOST_QUEUES).contains(&queues) {
            return Err(NetError::Option(format!("queues={queues}: expected 1 to {MOST_QUEUES}")));
        }
        let failed = |e| NetError::host("vhost-user", e);
        let (wake, woken) = wake::pair().map_err(failed)?;
        let (way, first) = match peer {
            VhostPeer::Connect(address, None) => (Way::Once, Some(address.connect()?)),
            VhostPeer::Connect(address, Some(period)) => {
                let first = address.connect().ok();
                (Way::Again(address, period), first)
            }
            VhostPeer::Listen { address, wait } => {
                let listener = address.listen()?;
                let mut first = None;
                if wait {
                    tracing::info!("vhost-user: waiting for the back end at {address}");
                    listener.set_nonblocking(false).map_err(failed)?;
                    first = Some(listener.accept().map_err(failed)?.0);
                    listener.set_nonblocking(true).map_err(failed)?;
                }
                (Way::Accept(listener), first)
            }
        };
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            receiver: ReceiverSlot::default(),
            passes: AtomicBool::new(false),
            uso: AtomicBool::new(false),
            up: AtomicBool::new(false),
            wake,
            queues,
            events,
        });
        if let Some(socket) = first {
            let session = Session::new(stream(socket).map_err(failed)?, queues, 0)?;
            shared.passes.store(session.has_offloads(), Ordering::Relaxed);
            shared.uso.store(session.has_uso(), Ordering::Relaxed);
            shared.begin(session);
        }
        let worker = Worker { shared: shared.clone(), woken, way };
        let thread = std::thread::Builder::new().name("net-vhost-user".into()).spawn(move || worker.run());
        Ok(VhostUser { shared, thread: Some(thread.map_err(failed)?) })
    }
}

/// A session blocks on its socket.
fn stream(socket: Socket) -> std::io::Result<UnixStream> {
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}

impl Shared {
    fn passes(&self) -> bool {
        self.passes.load(Ordering::Relaxed)
    }

    fn begin(&self, session: Session) {
        self.state.lock().session = Some(session);
        self.up.store(true, Ordering::Release);
        self.tell(true);
    }

    fn tell(&self, there: bool) {
        if let Some(events) = &self.events {
            events(there);
        }
    }

    /// The header for the back end, and where the frame begins in the first piece.
    fn header(&self, first: &[u8]) -> ([u8; HEADER], usize) {
        let mut header = [0; HEADER];
        let given = if self.passes() { HEADER.min(first.len()) } else { 0 };
        header[..given].copy_from_slice(&first[..given]);
        // A number of buffers has no meaning in this direction.
        header[HEADER - 2..].fill(0);
        (header, given)
    }
}

impl Endpoint for VhostUser {
    fn send(&self, frame: &[&[u8]]) -> bool {
        let whole;
        let mut pieces = frame;
        if self.shared.passes() && frame.first().is_none_or(|f| f.len() < HEADER) {
            whole = [&frame.concat()[..]].concat();
            return !whole.is_empty() && self.send(&[&whole]);
        }
        if let Some(session) = self.shared.state.lock().session.as_ref().filter(|s| s.is_handed()) {
            // The rings are the guest's: what else is sent is announcements.
            let whole = frame.concat();
            let address = handover::announced(whole.get(self.vnet_header()..).unwrap_or_default());
            return address.is_some_and(|a| session.announce(a));
        }
        let Some((first, rest)) = pieces.split_first() else { return false };
        let (header, from) = self.shared.header(first);
        let head = [&first[from..]];
        let mut all: smallvec::SmallVec<[&[u8]; 8]> = smallvec::SmallVec::new();
        all.extend(head);
        all.extend_from_slice(rest);
        pieces = &all;
        self.shared.state.lock().session.as_mut().is_some_and(|s| s.send(&header, pieces))
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.shared.receiver.set(receiver);
        self.accept_input();
    }

    fn accept_input(&self) {
        self.shared.state.lock().retry = true;
        self.shared.wake.wake();
    }

    fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    fn vnet_header(&self) -> usize {
        if self.shared.passes() { HEADER } else { 0 }
    }

    fn has_uso(&self) -> bool {
        self.shared.passes() && self.shared.uso.load(Ordering::Relaxed)
    }

    fn queues(&self) -> u16 {
        self.shared.queues
    }

    fn has_rings(&self) -> bool {
        self.shared.state.lock().session.as_ref().is_some_and(Session::is_handed)
    }

    fn rings(&self) -> Option<Arc<dyn vhost::Backend>> {
        Some(self.shared.clone())
    }

    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        if !self.shared.passes() || header != HEADER {
            return false;
        }
        let mut state = self.shared.state.lock();
        state.offloads = guest_features;
        let Some(session) = state.session.as_mut().filter(|s| !s.is_handed()) else { return true };
        // One that fails has hung up, which the thread sees.
        session.set_offloads(guest_features).is_ok()
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    woken: Woken,
    way: Way,
}

impl Worker {
    fn run(mut self) {
        loop {
            let handles = self.shared.state.lock().session.as_ref().and_then(Session::handles);
            let go_on = match handles {
                Some((events, socket)) => self.serve(&events, &socket),
                None => self.wait(),
            };
            if !go_on {
                return;
            }
        }
    }

    /// Waits for a back end; false when it is all over.
    fn wait(&mut self) -> bool {
        let (fds, patience) = match &self.way {
            Way::Once => (vec![], None),
            Way::Again(_, period) => (vec![], Some(*period)),
            Way::Accept(listener) => (vec![(listener.as_fd(), PollFlags::IN)], None),
        };
        if self.woken.wait_any(&fds, patience).is_err() || self.shared.state.lock().closed {
            return false;
        }
        let socket = match &self.way {
            Way::Once => None,
            Way::Again(address, _) => address.connect().ok(),
            Way::Accept(listener) => listener.accept().ok().map(|(socket, _)| socket),
        };
        let Some(socket) = socket.and_then(|s| stream(s).ok()) else { return true };
        let offloads = self.shared.state.lock().offloads;
        let fewer = |s: &Session| {
            self.shared.passes() && !s.has_offloads()
                || self.shared.uso.load(Ordering::Relaxed) && !s.has_uso()
        };
        match Session::new(socket, self.shared.queues, offloads) {
            Ok(session) if fewer(&session) => {
                tracing::warn!("vhost-user: the back end has fewer offloads than the one before: not taken");
            }
            Ok(session) => {
                self.shared.begin(session);
                self.shared.receiver.link(true);
            }
            Err(e) => tracing::warn!("{e}"),
        }
        true
    }

    /// Feeds the guest until the back end is gone; false when it is all over.
    fn serve(&mut self, events: &[Event], socket: &OwnedFd) -> bool {
        // A frame the guest has no room for.
        let mut held: Option<Vec<u8>> = None;
        loop {
            let mut fds = vec![(socket.as_fd(), PollFlags::IN)];
            if held.is_none() {
                fds.extend(events.iter().map(|event| (event.as_fd(), PollFlags::IN)));
            }
            let Ok(ready) = self.woken.wait_any(&fds, None) else { return false };
            let gone = ready.first().is_some_and(|r| !r.is_empty());
            let mut state = self.shared.state.lock();
            if state.closed {
                return false;
            }
            let retry = std::mem::take(&mut state.retry);
            // Whoever asks the back end something has the lock, and takes the answer: what is there now is no answer.
            if gone && socket_ended(socket) {
                state.session = None;
                drop(state);
                self.shared.up.store(false, Ordering::Release);
                self.shared.receiver.link(false);
                self.shared.tell(false);
                tracing::warn!("vhost-user: the back end is gone");
                return true;
            }
            drop(state);
            if let Some(frame) = held.take_if(|_| retry)
                && !self.offer(&frame)
            {
                held = Some(frame);
            }
            if held.is_none() {
                for event in events {
                    event.take();
                }
                held = self.deliver();
            }
        }
    }

    /// Gives what there is to the guest, up to a frame that it has no room for.
    fn deliver(&self) -> Option<Vec<u8>> {
        loop {
            let frame = self.shared.state.lock().session.as_mut().and_then(Session::receive);
            let Some(mut frame) = frame else {
                self.shared.state.lock().session.iter_mut().for_each(Session::refill);
                return None;
            };
            if !self.shared.passes()
                && let Some((header, frame)) = frame.split_at_mut_checked(HEADER)
            {
                checksum::complete(header, frame);
            }
            if !self.offer(&frame) {
                return Some(frame);
            }
        }
    }

    fn offer(&self, frame: &[u8]) -> bool {
        let from = if self.shared.passes() { 0 } else { HEADER };
        self.shared.receiver.offer(&frame[from..])
    }
}

/// Whether a socket that is ready has nothing more to say; anything it says unasked is not listened to either.
fn socket_ended(socket: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    !matches!(rustix::net::recv(socket, &mut byte, flags), Err(rustix::io::Errno::AGAIN))
}

#[cfg(test)]
pub(crate) mod handover_tests;
#[cfg(test)]
mod tests;
