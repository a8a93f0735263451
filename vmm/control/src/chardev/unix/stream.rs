//! A back end that moves bytes through descriptors, which may come and go.
//!
//! Output is written at once by the caller (a vCPU's thread, usually) without blocking; only when the
//! descriptor is full does the polling thread wait for it. Input is read by the polling thread.
//!
//! Locks: `state` is held for moments and never while the receiver runs; `receiver` is held while it runs and
//! only taken by the polling thread and `set_receiver`. So a device may write, or ask for input, under its own
//! lock.

use super::super::telnet;
use super::reactor::{Interest, Waker};
use device::{CharBackend, CharEvent, CharReceiver};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg};
use std::collections::VecDeque;
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes read at a time; more than the largest datagram.
const READ_SIZE: usize = 64 << 10;
/// Files that wait with the input.
const MAX_FILES: usize = 16;
/// What is received is not for programs that are started.
#[cfg(target_os = "linux")]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
/// Other hosts are told afterwards.
#[cfg(not(target_os = "linux"))]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::empty();
/// How often a pseudo-terminal without a peer is looked at.
const PTY_POLL: Duration = Duration::from_millis(500);

/// How a descriptor is written without blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A socket.
    Socket,
    /// Opened non-blocking.
    NonBlocking,
    /// A regular file, or a terminal shared with others that must stay blocking: polled first.
    Polled,
}

/// One connection.
pub(super) struct Connection {
    pub(super) input: Option<Arc<OwnedFd>>,
    pub(super) output: Option<Arc<OwnedFd>>,
    pub(super) how: Output,
}

/// Where connections come from.
pub(super) trait Link: Send + Sync {
    /// Descriptor that becomes readable when a client comes.
    fn listener(&self) -> Option<Arc<OwnedFd>> {
        None
    }

    /// Takes the client.
    fn accept(&self) -> Option<Connection> {
        None
    }

    /// Connects (again); `None` tries later.
    fn connect(&self) -> Option<Connection> {
        None
    }

    /// Time between two calls of [`Link::connect`]; `None` is never.
    fn retry(&self) -> Option<Duration> {
        None
    }

    /// A read error or hang-up is not an end, only the absence of a peer (a pseudo-terminal).
    fn is_pty(&self) -> bool {
        false
    }

    /// The end of the input closes the connection (sockets; a file or a terminal may still be written).
    fn closes_on_eof(&self) -> bool {
        true
    }
}

/// A link that never connects anew.
pub(super) struct Fixed {
    pub(super) closes_on_eof: bool,
}

impl Link for Fixed {
    fn closes_on_eof(&self) -> bool {
        self.closes_on_eof
    }
}

struct State {
    connection: Option<Connection>,
    /// Bytes that must go out before any others: telnet's greeting, the rest of an escaped pair.
    pending: VecDeque<u8>,
    /// A writer was told a short count and waits for `Writable`.
    writer_waits: bool,
    /// Input waits for `accept_input`.
    paused: bool,
    /// The receiver wants to be asked again even without input.
    nudged: bool,
    /// Next attempt to connect, or look at the peer.
    retry_at: Option<Instant>,
}

/// Only touched by the polling thread.
#[derive(Default)]
struct Inbox {
    data: VecDeque<u8>,
    telnet: telnet::Filter,
    broke: bool,
    /// Files that came with the data.
    files: Vec<File>,
}

/// The back end.
pub(super) struct Stream {
    state: Mutex<State>,
    receiver: Mutex<Option<Box<dyn CharReceiver>>>,
    inbox: Mutex<Inbox>,
    link: Box<dyn Link>,
    telnet: bool,
    waker: Waker,
}

impl Stream {
    pub(super) fn new(
        waker: Waker,
        connection: Option<Connection>,
        link: Box<dyn Link>,
        telnet: bool,
    ) -> Arc<Self> {
        let retry_at = if connection.is_none() { link.retry().map(|d| Instant::now() + d) } else { None };
        let mut pending = VecDeque::new();
        if telnet && connection.is_some() {
            pending.extend(telnet::GREETING);
        }
        let state = State { connection, pending, writer_waits: false, paused: true, nudged: false, retry_at };
        Arc::new(Self {
            state: Mutex::new(state),
            receiver: Mutex::default(),
            inbox: Mutex::default(),
            link,
            telnet,
            waker,
        })
    }

    /// What to poll now.
    pub(super) fn interests(&self) -> Vec<Interest> {
        let state = self.state.lock();
        let mut list = Vec::new();
        let Some(c) = &state.connection else {
            if let Some(fd) = self.link.listener() {
                list.push(Interest { fd, flags: PollFlags::IN });
            }
            return list;
        };
        // While the input is paused the descriptor stays out: a hang-up would be reported without end.
        let pty_waits = state.retry_at.is_some();
        if let Some(fd) = &c.input
            && !state.paused
            && !pty_waits
        {
            list.push(Interest { fd: fd.clone(), flags: PollFlags::IN });
        }
        if let Some(fd) = &c.output
            && (state.writer_waits || !state.pending.is_empty())
            && !pty_waits
        {
            list.push(Interest { fd: fd.clone(), flags: PollFlags::OUT });
        }
        list
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.state.lock().retry_at
    }

    /// A descriptor is ready.
    pub(super) fn ready(&self, fd: &Arc<OwnedFd>, flags: PollFlags) {
        enum What {
            Listener,
            Input,
            Output,
        }
        let what = {
            let state = self.state.lock();
            match &state.connection {
                None => What::Listener,
                Some(c)
                    if c.input.as_ref().is_some_and(|i| Arc::ptr_eq(i, fd))
                        && !flags.intersects(PollFlags::OUT) =>
                {
                    What::Input
                }
                Some(_) => What::Output,
            }
        };
        match what {
            What::Listener => {
                if let Some(connection) = self.link.accept() {
                    self.opened(connection);
                }
            }
            What::Input => self.read(fd),
            What::Output => self.writable(),
        }
    }

    /// Deadlines and requests.
    pub(super) fn tick(&self, now: Instant) {
        let (nudged, due) = {
            let mut state = self.state.lock();
            let due = state.retry_at.is_some_and(|t| t <= now);
            if due {
                state.retry_at = None;
            }
            (std::mem::take(&mut state.nudged), due)
        };
        if due && !self.link.is_pty() && self.state.lock().connection.is_none() {
            match self.link.connect() {
                Some(connection) => self.opened(connection),
                None => self.state.lock().retry_at = self.link.retry().map(|d| now + d),
            }
        }
        if nudged {
            self.deliver();
        }
    }

    fn opened(&self, connection: Connection) {
        {
            let mut state = self.state.lock();
            state.connection = Some(connection);
            state.pending.clear();
            if self.telnet {
                state.pending.extend(telnet::GREETING);
            }
            state.paused = false;
            state.writer_waits = false;
            *self.inbox.lock() = Inbox::default();
        }
        self.event(CharEvent::Opened);
        self.deliver();
    }

    fn closed(&self) {
        {
            let mut state = self.state.lock();
            if state.connection.take().is_none() {
                return;
            }
            state.pending.clear();
            state.writer_waits = false;
            state.retry_at = self.link.retry().map(|d| Instant::now() + d);
        }
        self.event(CharEvent::Closed);
    }

    fn event(&self, event: CharEvent) {
        if let Some(receiver) = self.receiver.lock().as_mut() {
            receiver.event(event);
        }
    }

    fn read(&self, fd: &OwnedFd) {
        let mut buffer = vec![0; READ_SIZE];
        let socket = self.state.lock().connection.as_ref().is_some_and(|c| c.how == Output::Socket);
        let got = if socket { self.receive(fd, &mut buffer) } else { rustix::io::read(fd, &mut buffer[..]) };
        match got {
            Ok(0) => {
                self.deliver();
                self.end_of_input();
            }
            Ok(n) => {
                {
                    let mut inbox = self.inbox.lock();
                    if self.telnet {
                        let mut data = Vec::new();
                        let broke = inbox.telnet.input(&buffer[..n], &mut data);
                        inbox.broke |= broke;
                        inbox.data.extend(data);
                    } else {
                        inbox.data.extend(&buffer[..n]);
                    }
                }
                self.deliver();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) if self.link.is_pty() => {
                // Nobody has the other side open; look again soon.
                self.state.lock().retry_at = Some(Instant::now() + PTY_POLL);
            }
            Err(_) => self.closed(),
        }
    }

    /// Reads from a socket, through which files may come too.
    fn receive(&self, fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut control, CLOSE_ON_EXEC)?;
        let rights = control.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(files) => Some(files.map(File::from)),
            _ => None,
        });
        let mut inbox = self.inbox.lock();
        // A peer that sends more than anybody takes loses them.
        let room = MAX_FILES.saturating_sub(inbox.files.len());
        inbox.files.extend(rights.flatten().take(room));
        if CLOSE_ON_EXEC.is_empty() {
            for file in &inbox.files {
                let _ = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::CLOEXEC);
            }
        }
        Ok(got.bytes)
    }

    fn end_of_input(&self) {
        if self.link.closes_on_eof() {
            self.closed();
        } else if let Some(c) = &mut self.state.lock().connection {
            c.input = None;
        }
    }

    /// Gives the receiver what it can take, and decides whether to read more.
    fn deliver(&self) {
        // Before asking: an `accept_input` from now on counts again.
        self.state.lock().paused = true;
        let mut receiver = self.receiver.lock();
        let Some(receiver) = receiver.as_mut() else { return };
        if std::mem::take(&mut self.inbox.lock().broke) {
            receiver.event(CharEvent::Break);
        }
        loop {
            let room = receiver.can_receive();
            if room == 0 {
                return;
            }
            let data: Vec<u8> = {
                let mut inbox = self.inbox.lock();
                let n = room.min(inbox.data.len());
                inbox.data.drain(..n).collect()
            };
            if data.is_empty() {
                self.state.lock().paused = false;
                return;
            }
            receiver.receive(&data);
        }
    }

    /// The descriptor can take more.
    fn writable(&self) {
        let waits = {
            let mut state = self.state.lock();
            flush(&mut state);
            state.pending.is_empty() && std::mem::take(&mut state.writer_waits)
        };
        if waits {
            self.event(CharEvent::Writable);
        }
    }
}

/// Writes what must go out first; true when all of it is gone.
fn flush(state: &mut State) -> bool {
    while !state.pending.is_empty() {
        let Some(c) = &state.connection else {
            state.pending.clear();
            return true;
        };
        let (front, _) = state.pending.as_slices();
        match write_some(c, front) {
            Ok(0) => return false,
            Ok(n) => drop(state.pending.drain(..n)),
            Err(_) => state.pending.clear(),
        }
    }
    true
}

/// Writes without blocking; 0 when nothing can be taken now.
fn write_some(c: &Connection, data: &[u8]) -> Result<usize, Errno> {
    let Some(fd) = &c.output else { return Ok(data.len()) };
    let result = match c.how {
        Output::Socket => rustix::net::send(fd, data, SendFlags::DONTWAIT),
        Output::NonBlocking => rustix::io::write(fd, data),
        Output::Polled => {
            let mut fds = [PollFd::new(&**fd, PollFlags::OUT)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            match poll(&mut fds, Some(&now)) {
                // Pipes promise room for 512 bytes at least when they say they have any (POSIX, PIPE_BUF).
                Ok(1) => rustix::io::write(fd, &data[..data.len().min(512)]),
                _ => return Ok(0),
            }
        }
    };
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        other => other,
    }
}

impl CharBackend for Stream {
    fn write(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        if state.connection.is_none() || self.link.is_pty() && state.retry_at.is_some() {
            // Nobody listens: the guest must not wait for somebody to come.
            return data.len();
        }
        if !flush(&mut state) {
            state.writer_waits = true;
            drop(state);
            self.waker.wake();
            return 0;
        }
        let mut done = 0;
        while done < data.len() {
            let Some(c) = &state.connection else { return data.len() };
            // Telnet doubles a byte 255: it goes alone, and its twin before anything else.
            let rest = &data[done..];
            let special = self.telnet.then(|| rest.iter().position(|b| *b == 255)).flatten();
            let result = match special {
                Some(0) => write_some(c, &rest[..1]).inspect(|n| state.pending.extend(&rest[..*n])),
                Some(n) => write_some(c, &rest[..n]),
                None => write_some(c, rest),
            };
            match result {
                Ok(0) => {
                    state.writer_waits = true;
                    drop(state);
                    self.waker.wake();
                    return done;
                }
                Ok(n) => done += n,
                // The polling thread will see the end and say so; this output is lost.
                Err(_) => return data.len(),
            }
            if !state.pending.is_empty() {
                flush(&mut state);
            }
        }
        done
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        *self.receiver.lock() = receiver;
        self.accept_input();
    }

    fn accept_input(&self) {
        self.state.lock().nudged = true;
        self.waker.wake();
    }

    fn is_open(&self) -> bool {
        self.state.lock().connection.is_some()
    }

    fn take_files(&self) -> Vec<File> {
        std::mem::take(&mut self.inbox.lock().files)
    }
}
