//! The host's end of a virtual socket device, in user space: a guest's ports are Unix sockets, as with Firecracker.
//!
//! A program on the host connects to the socket at `PATH`, sends the line `CONNECT PORT`, and is answered `OK NUMBER`
//! once the guest has accepted; from then on it is a stream. A guest that connects to port N of the host (context 2)
//! reaches the socket `PATH_N`, where a program must listen.
//!
//! The muxer is an [`Endpoint`] whose frames are packets of virtual sockets: header and data. What the guest sends is
//! dealt with where it is sent, without waiting; a thread watches the sockets and feeds the guest.
//!
//! Bounds: [`MOST`] connections, [`ANSWERS`] packets without data for the guest, and what [`conn`] says.
#![cfg(unix)]

mod conn;
mod packet;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use net::{Endpoint, NetReceiver, ReceiverSlot};
use parking_lot::Mutex;
use slab::Slab;

use conn::{Conn, Got, Stage};

pub use packet::{HEADER, HOST, Header, STREAM, op, shutdown};

/// Most connections.
const MOST: usize = 4096;
/// Packets without data that wait for the guest; what comes beyond is lost.
const ANSWERS: usize = 8192;
/// Most data in one packet.
const DATA: usize = 60 << 10;
/// How long a client may take to say its port, and the guest to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// First port of the host that is given to its clients.
const FIRST_PORT: u32 = 1 << 30;

const WAKE: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);

/// Why there is no muxer.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The host refused something.
    #[error("vsock socket {path}: {source}")]
    Socket {
        /// Where it was to be.
        path: String,
        /// The host's reason.
        source: io::Error,
    },
    /// A context id that a guest cannot have.
    #[error("guest-cid={0}: expected 3 to 4294967294")]
    Cid(u64),
}

/// The connections.
struct State {
    conns: Slab<Conn>,
    /// By port of the host and of the guest; those whose client has not said a port are not here.
    by_ports: HashMap<(u32, u32), usize>,
    /// Packets without data for the guest.
    answers: VecDeque<[u8; HEADER]>,
    next_port: u32,
    /// Who is asked next for data.
    turn: usize,
    retry: bool,
    closed: bool,
}

struct Shared {
    cid: u64,
    path: PathBuf,
    registry: Registry,
    waker: Waker,
    state: Mutex<State>,
    receiver: ReceiverSlot,
}

/// The muxer; it ends when it is dropped.
pub struct Muxer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Muxer {
    /// Listens at `path` for clients of the guest with this context id. A left-over socket there is replaced.
    pub fn new(path: &Path, cid: u64) -> Result<Self, VsockError> {
        use std::os::unix::fs::FileTypeExt;
        if !(3..u64::from(u32::MAX)).contains(&cid) {
            return Err(VsockError::Cid(cid));
        }
        let made = || {
            if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err()
            {
                std::fs::remove_file(path)?;
            }
            let mut listener = UnixListener::bind(path)?;
            let poll = Poll::new()?;
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            let state = State {
                conns: Slab::new(),
                by_ports: HashMap::new(),
                answers: VecDeque::new(),
                next_port: FIRST_PORT,
                turn: 0,
                retry: false,
                closed: false,
            };
            let shared = Arc::new(Shared {
                cid,
                path: path.to_owned(),
                registry: poll.registry().try_clone()?,
                waker: Waker::new(poll.registry(), WAKE)?,
                state: Mutex::new(state),
                receiver: ReceiverSlot::default(),
            });
            let works = shared.clone();
            let thread = std::thread::Builder::new()
                .name("net-vsock".into())
                .spawn(move || works.run(poll, &listener))?;
            Ok(Muxer { shared, thread: Some(thread) })
        };
        made().map_err(|source| VsockError::Socket { path: path.display().to_string(), source })
    }

    /// Connections there are now.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().conns.len()
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.shared.path);
    }
}

impl Endpoint for Muxer {
    fn send(&self, frame: &[&[u8]]) -> bool {
        let whole;
        let (head, data): (&[u8], &[u8]) = match frame {
            [head, data] if head.len() == HEADER => (head, data),
            _ => {
                whole = frame.concat();
                whole.split_at(HEADER.min(whole.len()))
            }
        };
        let Ok(head) = <&[u8; HEADER]>::try_from(head) else { return false };
        let mut state = self.shared.state.lock();
        let before = state.answers.len();
        self.shared.packet(&mut state, &Header::read(head), data);
        let news = state.answers.len() > before;
        let readable = state.conns.iter().any(|(_, c)| c.may_read());
        drop(state);
        if news || readable {
            self.shared.wake();
        }
        true
    }

    /// A new receiver is a guest that has started anew: it knows none of the connections.
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.shared.receiver.set(receiver);
        let mut state = self.shared.state.lock();
        state.by_ports.clear();
        state.answers.clear();
        state.conns.clear();
        drop(state);
        self.accept_input();
    }

    fn accept_input(&self) {
        self.shared.state.lock().retry = true;
        self.shared.wake();
    }
}

impl State {
    fn answer(&mut self, header: &Header) {
        if self.answers.len() < ANSWERS {
            self.answers.push_back(header.bytes());
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(conn) = self.conns.try_remove(index)
            && self.by_ports.get(&conn.ports) == Some(&index)
        {
            self.by_ports.remove(&conn.ports);
        }
    }
}

impl Shared {
    fn wake(&self) {
        // It cannot fail but for a thread that has ended.
        let _ = self.waker.wake();
    }

    /// Adds a connection; `None` if there are too many or the host refuses.
    fn add(&self, state: &mut State, mut conn: Conn) -> Option<usize> {
        if state.conns.len() >= MOST {
            return None;
        }
        let entry = state.conns.vacant_entry();
        let index = entry.key();
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut conn.stream, Token(index), both).ok()?;
        entry.insert(conn);
        Some(index)
    }

    /// Ends a connection that the guest knows of.
    fn reset(&self, state: &mut State, index: usize) {
        if let Some(conn) = state.conns.get_mut(index) {
            let known = conn.stage != Stage::Asking;
            let header = conn.header(op::RST, 0, 0, self.cid);
            if known {
                state.answer(&header);
            }
        }
        state.remove(index);
    }

    /// Takes a packet of the guest.
    fn packet(&self, state: &mut State, header: &Header, data: &[u8]) {
        if header.src.0 != self.cid {
            return;
        }
        let ports = (header.dst.1, header.src.1);
        let found = state.by_ports.get(&ports).copied();
        let index = match found {
            Some(index) if header.dst.0 == HOST && header.kind == STREAM => index,
            _ if header.op == op::RST => return,
            None if header.op == op::REQUEST && header.dst.0 == HOST && header.kind == STREAM => {
                return self.outward(state, header, ports);
            }
            _ => {
                let refusal = Header {
                    src: header.dst,
                    dst: header.src,
                    kind: header.kind,
                    op: op::RST,
                    ..Header::default()
                };
                return state.answer(&refusal);
            }
        };
        let Some(conn) = state.conns.get_mut(index) else { return };
        conn.credit(header);
        let fine = match header.op {
            op::RESPONSE if conn.stage == Stage::Requested => conn.agree(),
            op::RST => {
                let _ = conn.flush();
                return state.remove(index);
            }
            op::RW if conn.is_open() => header.len as usize == data.len() && conn.write(data),
            op::SHUTDOWN if conn.is_open() => {
                conn.leaves(header.flags);
                conn.flush()
            }
            op::CREDIT_UPDATE if conn.is_open() => true,
            op::CREDIT_REQUEST if conn.is_open() => {
                let update = conn.header(op::CREDIT_UPDATE, 0, 0, self.cid);
                state.answer(&update);
                true
            }
            _ => false,
        };
        self.settle(state, index, fine);
    }

    /// The guest connects to the host.
    fn outward(&self, state: &mut State, header: &Header, ports: (u32, u32)) {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!("_{}", ports.0));
        let refused =
            Header { src: header.dst, dst: header.src, kind: STREAM, op: op::RST, ..Header::default() };
        let Ok(stream) = UnixStream::connect(Path::new(&path)) else { return state.answer(&refused) };
        let mut conn = Conn::new(stream, Stage::Open, ports, Instant::now());
        conn.credit(header);
        let Some(index) = self.add(state, conn) else { return state.answer(&refused) };
        state.by_ports.insert(ports, index);
        if let Some(conn) = state.conns.get_mut(index) {
            let response = conn.header(op::RESPONSE, 0, 0, self.cid);
            state.answer(&response);
        }
    }

    /// Does what a change of a connection calls for.
    fn settle(&self, state: &mut State, index: usize, fine: bool) {
        let Some(conn) = state.conns.get_mut(index) else { return };
        if !fine || conn.is_over() {
            return self.reset(state, index);
        }
        if conn.owes_credit() {
            let update = conn.header(op::CREDIT_UPDATE, 0, 0, self.cid);
            state.answer(&update);
        }
    }

    /// The thread.
    fn run(&self, mut poll: Poll, listener: &UnixListener) {
        let mut events = Events::with_capacity(256);
        let mut held: Option<Vec<u8>> = None;
        loop {
            let wait = self.state.lock().conns.iter().any(|(_, c)| !c.is_open()).then_some(PATIENCE / 4);
            match poll.poll(&mut events, wait) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return tracing::error!("vsock: {e}"),
                _ => {}
            }
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let retry = std::mem::take(&mut state.retry);
            for event in &events {
                match event.token() {
                    WAKE => {}
                    LISTENER => self.accept(&mut state, listener),
                    Token(index) => {
                        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                        self.ready(&mut state, index, readable, event.is_writable());
                    }
                }
            }
            self.sweep(&mut state);
            drop(state);
            if held.is_none() || retry {
                self.feed(&mut held);
            }
        }
    }

    /// Clients of the host.
    fn accept(&self, state: &mut State, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let conn = Conn::new(stream, Stage::Asking, (0, 0), Instant::now());
                    if let Some(index) = self.add(state, conn) {
                        self.ready(state, index, true, false);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn ready(&self, state: &mut State, index: usize, readable: bool, writable: bool) {
        let Some(conn) = state.conns.get_mut(index) else { return };
        conn.readable |= readable;
        let fine = match conn.stage {
            Stage::Asking if readable => match conn.ask() {
                Ok(None) => true,
                Ok(Some(port)) => return self.inward(state, index, port),
                Err(()) => false,
            },
            _ if writable => conn.flush(),
            _ => true,
        };
        self.settle(state, index, fine);
    }

    /// A client of the host wants a port of the guest.
    fn inward(&self, state: &mut State, index: usize, port: u32) {
        let mut ours = state.next_port;
        while state.by_ports.contains_key(&(ours, port)) {
            ours = ours.wrapping_add(1).max(FIRST_PORT);
        }
        state.next_port = ours.wrapping_add(1).max(FIRST_PORT);
        let Some(conn) = state.conns.get_mut(index) else { return };
        conn.ports = (ours, port);
        let request = conn.request(self.cid);
        state.by_ports.insert((ours, port), index);
        state.answer(&request);
    }

    /// Ends what has taken too long to begin.
    fn sweep(&self, state: &mut State) {
        let late = |c: &Conn| !c.is_open() && c.since.elapsed() > PATIENCE;
        let old: Vec<usize> = state.conns.iter().filter(|(_, c)| late(c)).map(|(i, _)| i).collect();
        for index in old {
            self.reset(state, index);
        }
    }

    /// Gives the guest what there is, until it has no more room.
    fn feed(&self, held: &mut Option<Vec<u8>>) {
        let mut buffer = vec![0; HEADER + DATA];
        loop {
            let next = match held.take() {
                Some(packet) => Some(packet),
                None => self.next(&mut self.state.lock(), &mut buffer),
            };
            let Some(packet) = next else { return };
            if !self.receiver.offer(&packet) {
                *held = Some(packet);
                return;
            }
        }
    }

    /// The next packet for the guest.
    fn next(&self, state: &mut State, buffer: &mut [u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(answer) = state.answers.pop_front() {
                return Some(answer.to_vec());
            }
            // One after another, beginning behind the one that had the last turn.
            let turn = state.turn;
            let ready = || state.conns.iter().filter(|(_, c)| c.may_read()).map(|(i, _)| i);
            let index = ready().find(|&i| i >= turn).or_else(|| ready().next())?;
            state.turn = index + 1;
            let conn = state.conns.get_mut(index)?;
            match conn.read(&mut buffer[HEADER..]) {
                Got::Data(n) => {
                    let header = conn.header(op::RW, n as u32, 0, self.cid);
                    buffer[..HEADER].copy_from_slice(&header.bytes());
                    return Some(buffer[..HEADER + n].to_vec());
                }
                Got::Nothing => {}
                Got::End => {
                    let header = conn.header(op::SHUTDOWN, 0, shutdown::SEND, self.cid);
                    state.answer(&header);
                    self.settle(state, index, true);
                }
                Got::Failed => self.reset(state, index),
            }
        }
    }
}

#[cfg(test)]
mod tests;
