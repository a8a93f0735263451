//! Stream sockets: `-netdev stream`, and `-netdev socket` with `listen=` or `connect=`.
//!
//! A frame is preceded by its length in four bytes, big endian; what QEMU's back ends of the same names and passt
//! speak. There is one peer at a time. A server takes the next one when a peer is gone; a client begins again after
//! `reconnect` or stays alone. Without a peer frames are lost, as on an unplugged cable.
//!
//! Bounds: [`PENDING`] bytes wait for a peer that reads slowly, and one frame for a guest that does.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::net::RecvFlags;
use smallvec::SmallVec;
use socket2::Socket;

use crate::address::describe;
use crate::wake::{self, Wake, Woken};
use crate::{Address, Endpoint, MAX_FRAME, NetError, NetReceiver, ReceiverSlot};

/// Bytes that wait for the peer.
const PENDING: usize = 4 << 20;
/// Length field before each frame.
const PREFIX: usize = 4;
/// Longest frame a peer may announce; QEMU's buffer.
const LONGEST: usize = 4096 + 65536;

/// Where the peer comes from.
#[derive(Debug)]
pub enum StreamPeer {
    /// Who connects here, one after another.
    Listen(Address),
    /// Like [`StreamPeer::Listen`], on a socket that listens already.
    Listener(OwnedFd),
    /// We connect; with a period, until it works and again whenever the connection ends.
    Connect(Address, Option<Duration>),
    /// A connected socket.
    Connected(OwnedFd),
}

/// What a user wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// A peer is there, at this address.
    Connected(String),
    /// The peer is gone.
    Disconnected,
}

type Listener = Box<dyn Fn(StreamEvent) + Send + Sync>;

/// The connection as the NIC's threads see it.
#[derive(Default)]
struct Link {
    socket: Option<Arc<Socket>>,
    /// What is still to be sent, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    retry: bool,
    closed: bool,
}

struct Shared {
    link: Mutex<Link>,
    receiver: ReceiverSlot,
    wake: Wake,
    events: Option<Listener>,
}

/// The back end.
pub struct Stream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Where the thread is.
enum Phase {
    Listening,
    /// Nothing until then; forever if there is no time.
    Resting(Option<Instant>),
    Connecting(Socket),
    Connected(Arc<Socket>),
}

impl Link {
    /// Sends what is pending as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        let Some(socket) = self.socket.clone() else { return Ok(()) };
        while self.sent < self.pending.len() {
            match socket.send(&self.pending[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        self.pending.clear();
        self.sent = 0;
        Ok(())
    }

    fn send(&mut self, prefix: [u8; PREFIX], frame: &[&[u8]], length: usize) -> bool {
        let Some(socket) = self.socket.clone() else { return false };
        if self.pending.len() - self.sent + length > PENDING {
            return false;
        }
        let mut done = 0;
        if self.pending.is_empty() && frame.len() < 60 {
            let mut pieces: SmallVec<[IoSlice<'_>; 8]> = SmallVec::new();
            pieces.push(IoSlice::new(&prefix));
            pieces.extend(frame.iter().map(|p| IoSlice::new(p)));
            // An error shows itself again when the thread reads.
            done = socket.send_vectored(&pieces).unwrap_or(0);
        }
        if self.sent > PENDING / 2 {
            self.pending.drain(..self.sent);
            self.sent = 0;
        }
        for piece in std::iter::once(&prefix[..]).chain(frame.iter().copied()) {
            let skipped = done.min(piece.len());
            self.pending.extend_from_slice(&piece[skipped..]);
            done -= skipped;
        }
        true
    }
}

impl Stream {
    /// Makes the back end. `events` hears, on the back end's thread, of peers that come and go.
    ///
    /// # Errors
    /// The socket cannot be made, or there is nobody to connect to and no period to try again.
    pub fn new(peer: StreamPeer, events: Option<Listener>) -> Result<Self, NetError> {
        let failed = |e| NetError::host("stream socket", e);
        let (mut listener, mut target, mut first) = (None, None, None);
        match peer {
            StreamPeer::Listen(address) => listener = Some(address.listen()?),
            StreamPeer::Listener(fd) => {
                let socket = Socket::from(fd);
                socket.set_nonblocking(true).map_err(failed)?;
                listener = Some(socket);
            }
            StreamPeer::Connect(address, None) => first = Some(address.connect()?),
            StreamPeer::Connect(address, Some(period)) => target = Some((address, period)),
            StreamPeer::Connected(fd) => first = Some(fd.into()),
        }
        let (wake, woken) = wake::pair().map_err(failed)?;
        let shared =
            Arc::new(Shared { link: Mutex::default(), receiver: ReceiverSlot::default(), wake, events });
        let phase = match first {
            Some(socket) => shared.connected(socket).map_err(failed)?,
            None if listener.is_some() => Phase::Listening,
            None => Phase::Resting(Some(Instant::now())),
        };
        let worker = Worker { shared: shared.clone(), woken, listener, target };
        let thread = std::thread::Builder::new()
            .name("net-stream".into())
            .spawn(move || worker.run(phase))
            .map_err(failed)?;
        Ok(Stream { shared, thread: Some(thread) })
    }

    /// Whether a peer is there.
    pub fn is_connected(&self) -> bool {
        self.shared.link.lock().socket.is_some()
    }
}

impl Endpoint for Stream {
    fn send(&self, frame: &[&[u8]]) -> bool {
        let length: usize = frame.iter().map(|p| p.len()).sum();
        if length > MAX_FRAME {
            return false;
        }
        let mut link = self.shared.link.lock();
        let before = link.pending.is_empty();
        let taken = link.send((length as u32).to_be_bytes(), frame, length);
        if before && !link.pending.is_empty() {
            drop(link);
            // The thread waits until more can be sent.
            self.shared.wake.wake();
        }
        taken
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.shared.receiver.set(receiver);
        self.accept_input();
    }

    fn accept_input(&self) {
        self.shared.link.lock().retry = true;
        self.shared.wake.wake();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.link.lock().closed = true;
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A peer is there.
    fn connected(&self, socket: Socket) -> io::Result<Phase> {
        socket.set_nonblocking(true)?;
        // Frames are not to wait for each other; sockets of other kinds refuse.
        let _ = socket.set_tcp_nodelay(true);
        let peer = socket.peer_addr().map_or_else(|_| "an unnamed socket".into(), |a| describe(&a));
        let socket = Arc::new(socket);
        let mut link = self.link.lock();
        link.socket = Some(socket.clone());
        link.pending.clear();
        link.sent = 0;
        drop(link);
        if let Some(events) = &self.events {
            events(StreamEvent::Connected(peer));
        }
        Ok(Phase::Connected(socket))
    }

    fn disconnected(&self) {
        let mut link = self.link.lock();
        link.socket = None;
        link.pending = Vec::new();
        link.sent = 0;
        drop(link);
        if let Some(events) = &self.events {
            events(StreamEvent::Disconnected);
        }
    }
}

/// Frames as they come out of the stream.
struct Reader {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

/// What the reader has.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Frame(std::ops::Range<usize>),
    Incomplete,
    /// The peer speaks something else.
    Nonsense,
}

impl Reader {
    fn new() -> Self {
        Reader { buffer: vec![0; 2 * (LONGEST + PREFIX)], from: 0, to: 0 }
    }

    /// The next frame, which stays until it is taken.
    fn next(&self) -> Found {
        let data = &self.buffer[self.from..self.to];
        let Some((prefix, rest)) = data.split_first_chunk::<PREFIX>() else { return Found::Incomplete };
        let length = u32::from_be_bytes(*prefix) as usize;
        match length {
            _ if length > LONGEST => Found::Nonsense,
            _ if length > rest.len() => Found::Incomplete,
            _ => Found::Frame(self.from + PREFIX..self.from + PREFIX + length),
        }
    }

    fn room(&mut self) -> &mut [u8] {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        &mut self.buffer[self.to..]
    }
}

struct Worker {
    shared: Arc<Shared>,
    woken: Woken,
    listener: Option<Socket>,
    target: Option<(Address, Duration)>,
}

impl Worker {
    fn run(mut self, mut phase: Phase) {
        let mut reader = Reader::new();
        // The guest has no room for the frame at hand.
        let mut full = false;
        loop {
            let pending = !self.shared.link.lock().pending.is_empty();
            let (fd, patience) = match &phase {
                Phase::Listening => (self.listener.as_ref().map(|l| (l.as_fd(), PollFlags::IN)), None),
                Phase::Resting(at) => (None, at.map(|at| at.saturating_duration_since(Instant::now()))),
                Phase::Connecting(socket) => (Some((socket.as_fd(), PollFlags::OUT)), None),
                Phase::Connected(socket) => {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::IN, !full);
                    flags.set(PollFlags::OUT, pending);
                    // A peer that has hung up would end every wait: it is found out later.
                    ((!flags.is_empty()).then_some((socket.as_fd(), flags)), None)
                }
            };
            let Ok(ready) = self.woken.wait(fd, patience) else { return };
            let mut link = self.shared.link.lock();
            if link.closed {
                return;
            }
            let retry = std::mem::take(&mut link.retry);
            drop(link);
            phase = match phase {
                Phase::Connected(socket) => {
                    full &= !retry;
                    if self.work(&socket, &mut reader, ready, &mut full) {
                        Phase::Connected(socket)
                    } else {
                        full = false;
                        reader = Reader::new();
                        self.shared.disconnected();
                        self.alone()
                    }
                }
                other => self.advance(other, ready),
            };
        }
    }

    /// What to do without a peer.
    fn alone(&self) -> Phase {
        match (&self.listener, &self.target) {
            (Some(_), _) => Phase::Listening,
            (None, Some((_, period))) => Phase::Resting(Some(Instant::now() + *period)),
            (None, None) => Phase::Resting(None),
        }
    }

    /// Gets nearer to a peer.
    fn advance(&self, phase: Phase, ready: PollFlags) -> Phase {
        match phase {
            Phase::Listening if !ready.is_empty() => match self.listener.as_ref().map(Socket::accept) {
                Some(Ok((socket, _))) => self.shared.connected(socket).unwrap_or(Phase::Listening),
                _ => Phase::Listening,
            },
            Phase::Resting(Some(at)) if at <= Instant::now() => match &self.target {
                Some((address, _)) => address.begin().map_or_else(|_| self.alone(), Phase::Connecting),
                None => Phase::Resting(None),
            },
            Phase::Connecting(socket) if !ready.is_empty() => match socket.take_error() {
                Ok(None) => self.shared.connected(socket).unwrap_or_else(|_| self.alone()),
                _ => self.alone(),
            },
            other => other,
        }
    }

    /// Moves frames both ways; false when the connection is over.
    fn work(&self, socket: &Socket, reader: &mut Reader, ready: PollFlags, full: &mut bool) -> bool {
        if ready.contains(PollFlags::OUT) && self.shared.link.lock().flush().is_err() {
            return false;
        }
        if *full {
            return true;
        }
        if !ready.difference(PollFlags::OUT).is_empty() {
            match rustix::net::recv(socket, reader.room(), RecvFlags::empty()) {
                Ok((0, _)) => return false,
                Ok((n, _)) => reader.to += n,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        loop {
            match reader.next() {
                Found::Incomplete => return true,
                Found::Nonsense => {
                    tracing::warn!(
                        "stream network: the peer announces a frame of over {LONGEST} bytes: disconnected"
                    );
                    return false;
                }
                Found::Frame(range) => {
                    let end = range.end;
                    if range.len() <= MAX_FRAME && !self.shared.receiver.offer(&reader.buffer[range]) {
                        *full = true;
                        return true;
                    }
                    reader.from = end;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
