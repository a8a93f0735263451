//! All TCP connections.

mod conn;
mod host;
mod inbound;
mod outbound;

use std::cmp::Reverse;
use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mio::Interest;
use slab::Slab;
use smoltcp::wire::{IpProtocol, TcpOption, TcpPacket};

use self::conn::{Conn, Flow, Segment};
use self::host::Host;
use crate::forward::{Behind, HostForward, Listen};
use crate::out::{TcpHead, flag, transport_sum};
use crate::packet::Packet;
use crate::requests::{Line, descriptor};
use crate::worker::{Cx, Kind, token};
use crate::{UserError, icmp, neighbour};

/// Most connections at a time.
const MOST: usize = 16384;
/// Bytes that all of them together may keep for the host, and half of what they may for the guest, as long as none has to
/// do with less than [`LEAST`].
const BUDGET: usize = 512 << 20;
/// The least a connection may keep.
const LEAST: usize = 32 << 10;
/// The most.
const ENOUGH: usize = 512 << 10;
/// Connections that have ended, remembered in case the guest has not seen the last acknowledgement.
const ENDED: usize = 1024;
/// For how long.
const LINGER: Duration = Duration::from_secs(10);

enum Listener {
    Tcp(mio::net::TcpListener),
    #[cfg(unix)]
    Unix(mio::net::UnixListener, std::path::PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The connections and what listens for new ones.
pub(crate) struct Tcp {
    conns: Slab<Conn>,
    by_flow: HashMap<Flow, usize>,
    listeners: Slab<(Listener, HostForward)>,
    /// Connections that something happened to.
    touched: Vec<usize>,
    /// Connections that wait for room on the guest's side.
    blocked: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    ended: VecDeque<Ended>,
    secret: RandomState,
    count: u32,
}

/// A connection that is no more.
struct Ended {
    flow: Flow,
    at: Instant,
    seq: u32,
    ack: u32,
}

fn bind(rule: &HostForward) -> Result<Option<Listener>, UserError> {
    match &rule.listen {
        Listen::Udp(_) => Ok(None),
        Listen::Tcp(address) => mio::net::TcpListener::bind(*address)
            .map(|l| Some(Listener::Tcp(l)))
            .map_err(|e| UserError::host(format!("hostfwd: TCP port {address}"), e)),
        #[cfg(unix)]
        Listen::Unix(path) => {
            use std::os::unix::fs::FileTypeExt;
            if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err()
            {
                // Left over by somebody who is gone.
                let _ = std::fs::remove_file(path);
            }
            mio::net::UnixListener::bind(path)
                .map(|l| Some(Listener::Unix(l, path.clone())))
                .map_err(|e| UserError::host(format!("hostfwd: socket {}", path.display()), e))
        }
        #[cfg(not(unix))]
        Listen::Unix(path) => Err(UserError::option(
            "hostfwd",
            &path.display().to_string(),
            "possible: Unix sockets need a Unix host",
        )),
    }
}

impl Tcp {
    pub(crate) fn new(rules: &[HostForward], registry: &mio::Registry) -> Result<Self, UserError> {
        let mut tcp = Tcp {
            conns: Slab::new(),
            by_flow: HashMap::new(),
            listeners: Slab::new(),
            touched: Vec::new(),
            blocked: Vec::new(),
            timers: BinaryHeap::new(),
            ended: VecDeque::new(),
            secret: RandomState::new(),
            count: 0,
        };
        rules.iter().try_for_each(|rule| tcp.listen(rule, registry))?;
        Ok(tcp)
    }

    /// Opens the port of a rule, if it is one for connections.
    pub(crate) fn listen(&mut self, rule: &HostForward, registry: &mio::Registry) -> Result<(), UserError> {
        let Some(mut listener) = bind(rule)? else { return Ok(()) };
        let entry = self.listeners.vacant_entry();
        let token = token(Kind::Listener, entry.key());
        let done = match &mut listener {
            Listener::Tcp(l) => registry.register(l, token, Interest::READABLE),
            #[cfg(unix)]
            Listener::Unix(l, _) => registry.register(l, token, Interest::READABLE),
        };
        done.map_err(|e| UserError::host("hostfwd", e))?;
        entry.insert((listener, rule.clone()));
        Ok(())
    }

    /// Closes a port; false if there is none such. Connections that came by it stay.
    pub(crate) fn unlisten(&mut self, listen: &Listen) -> bool {
        let found = self.listeners.iter().find(|(_, (_, rule))| rule.listen == *listen).map(|(key, _)| key);
        // Closing takes it off the poll.
        found.is_some_and(|key| self.listeners.try_remove(key).is_some())
    }

    /// What there is.
    pub(crate) fn list(&self, lines: &mut Vec<Line>) {
        for (_, (listener, rule)) in &self.listeners {
            let (from, fd) = match listener {
                Listener::Tcp(l) => (l.local_addr().ok(), descriptor(l)),
                #[cfg(unix)]
                Listener::Unix(l, _) => (None, descriptor(l)),
            };
            let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
            let (what, from) = ("TCP[HOST_FORWARD]".to_owned(), from.unwrap_or(any));
            lines.push(Line { what, fd, from, to: rule.guest, waiting: (0, 0) });
        }
        lines.extend(self.conns.iter().map(|(_, conn)| conn.line()));
    }

    /// Number of connections.
    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// A first sequence number nobody can guess.
    fn isn(&mut self, flow: &Flow) -> u32 {
        self.count = self.count.wrapping_add(64_000);
        (self.secret.hash_one(flow) as u32).wrapping_add(self.count)
    }

    /// Bytes each connection may keep.
    fn share(&self) -> usize {
        (BUDGET / self.conns.len().max(1)).clamp(LEAST, ENOUGH)
    }

    fn touch(&mut self, index: usize) {
        if self.touched.last() != Some(&index) {
            self.touched.push(index);
        }
    }

    /// Takes a packet from the guest.
    pub(crate) fn input(&mut self, p: &Packet<'_>, trusted: bool, cx: &mut Cx<'_>) {
        let Ok(packet) = TcpPacket::new_checked(p.payload) else { return };
        if !trusted && transport_sum(p.src, p.dst, IpProtocol::Tcp, p.payload) != 0xffff {
            return;
        }
        let (mut mss, mut scale) = (None, None);
        if packet.syn() {
            let mut options = packet.options();
            while let Ok((rest, option)) = TcpOption::parse(options) {
                match option {
                    TcpOption::EndOfList => break,
                    TcpOption::MaxSegmentSize(n) => mss = Some(n),
                    TcpOption::WindowScale(n) => scale = Some(n),
                    _ => {}
                }
                options = rest;
            }
        }
        let s = Segment {
            seq: packet.seq_number().0 as u32,
            ack: packet.ack_number().0 as u32,
            flags: p.payload[13],
            window: packet.window_len(),
            urgent: packet.urg().then(|| packet.urgent_at()).filter(|at| *at > 0),
            mss,
            scale,
            payload: packet.payload(),
        };
        let flow = Flow {
            guest: SocketAddr::new(p.src, packet.src_port()),
            remote: SocketAddr::new(p.dst, packet.dst_port()),
        };
        match self.by_flow.get(&flow).copied() {
            Some(index) => {
                self.conns[index].segment(&s, cx.out, cx.now);
                self.touch(index);
            }
            None if s.has(flag::SYN) && !s.has(flag::ACK | flag::RST) => self.begin(flow, &s, p, cx),
            None if s.has(flag::FIN) && self.end_again(&flow, cx) => {}
            None => refuse(&flow, &s, cx),
        }
    }

    /// The guest repeats the end of a connection that has ended: it has missed the answer. False if there was none.
    fn end_again(&self, flow: &Flow, cx: &mut Cx<'_>) -> bool {
        let known = self.ended.iter().find(|e| e.flow == *flow && cx.now.duration_since(e.at) < LINGER);
        let Some(&Ended { seq, ack, .. }) = known else { return false };
        let head = TcpHead { seq, ack, flags: flag::ACK, window: u16::MAX, ..TcpHead::default() };
        cx.out.tcp_control(flow.remote, flow.guest, &head);
        true
    }

    /// The guest wants a connection.
    fn begin(&mut self, flow: Flow, syn: &Segment<'_>, p: &Packet<'_>, cx: &mut Cx<'_>) {
        if self.conns.len() >= MOST {
            return refuse(&flow, syn, cx);
        }
        let forward = match flow.remote {
            SocketAddr::V4(to) => {
                cx.config.guest_forwards.iter().find(|f| f.ip == *to.ip() && f.port == to.port())
            }
            SocketAddr::V6(_) => None,
        };
        let host = match forward {
            Some(forward) => open(&forward.to),
            None => match cx.nat.outward(flow.remote) {
                Some(to) => mio::net::TcpStream::connect(to).map(Host::Tcp),
                None if cx.config.restrict => return refuse(&flow, syn, cx),
                None => return icmp::unreachable(p, icmp::Unreachable::Host, cx.out),
            },
        };
        match host {
            Ok(host) => {
                let isn = self.isn(&flow);
                let conn = Conn::from_guest((flow, host), syn, isn, self.share(), cx.out, cx.now);
                self.insert(conn, cx);
            }
            Err(e) if e.kind() == io::ErrorKind::NetworkUnreachable => {
                icmp::unreachable(p, icmp::Unreachable::Network, cx.out);
            }
            Err(e) if e.kind() == io::ErrorKind::HostUnreachable => {
                icmp::unreachable(p, icmp::Unreachable::Host, cx.out);
            }
            Err(e) => {
                tracing::debug!("user network: {}: {e}", flow.remote);
                refuse(&flow, syn, cx);
            }
        }
    }

    fn insert(&mut self, mut conn: Conn, cx: &mut Cx<'_>) {
        let flow = conn.flow;
        let entry = self.conns.vacant_entry();
        let index = entry.key();
        if let Err(e) = conn.host.register(cx.registry, token(Kind::Conn, index)) {
            tracing::debug!("user network: {}: {e}", flow.remote);
            return conn.reset(cx.out);
        }
        entry.insert(conn);
        self.by_flow.insert(flow, index);
        self.touch(index);
    }

    /// A listener has connections.
    pub(crate) fn accept(&mut self, which: usize, cx: &mut Cx<'_>) {
        loop {
            let Some((listener, rule)) = self.listeners.get(which) else { return };
            let guest = rule.guest;
            let accepted = match listener {
                Listener::Tcp(l) => l.accept().map(|(s, peer)| {
                    host::prepare(&s);
                    (Host::Tcp(s), Some(peer))
                }),
                #[cfg(unix)]
                Listener::Unix(l, _) => l.accept().map(|(s, _)| (Host::Unix(s), None)),
            };
            let (host, peer) = match accepted {
                Ok(new) => new,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let Some(mut remote) = cx.nat.inward(peer, guest.is_ipv4()) else { continue };
            if self.conns.len() >= MOST {
                host.abort();
                continue;
            }
            // A client beyond another address may have the port already.
            let mut flow = Flow { guest, remote };
            while remote.port() == 0 || self.by_flow.contains_key(&flow) {
                remote.set_port(remote.port().wrapping_add(1).max(1024));
                flow = Flow { guest, remote };
            }
            if !cx.out.knows(guest.ip()) {
                neighbour::solicit(guest.ip(), cx);
            }
            let isn = self.isn(&flow);
            let conn = Conn::to_guest((flow, host), isn, self.share(), cx.out, cx.now);
            self.insert(conn, cx);
        }
    }

    /// A stream of the host's can be read or written, or has an urgent byte.
    pub(crate) fn ready(&mut self, index: usize, readable: bool, writable: bool, urgent: bool) {
        if let Some(conn) = self.conns.get_mut(index) {
            conn.ready(readable, writable, urgent);
            self.touch(index);
        }
    }

    /// The guest has room again.
    pub(crate) fn touch_blocked(&mut self) {
        for index in std::mem::take(&mut self.blocked) {
            if let Some(conn) = self.conns.get_mut(index) {
                conn.delist();
                self.touched.push(index);
            }
        }
    }

    /// Packets to an address must be shorter from now on.
    pub(crate) fn narrowed(&mut self, to: IpAddr, cx: &mut Cx<'_>) {
        for (_, conn) in self.conns.iter_mut().filter(|(_, c)| c.flow.guest.ip() == to) {
            conn.narrowed(cx.out, cx.now);
        }
    }

    /// Looks after connections that are silent.
    pub(crate) fn sweep(&mut self, cx: &mut Cx<'_>) {
        while self.ended.front().is_some_and(|e| cx.now.duration_since(e.at) >= LINGER) {
            self.ended.pop_front();
        }
        for (index, conn) in &mut self.conns {
            conn.watch(cx.out, cx.now);
            if conn.is_dead() {
                self.touched.push(index);
            }
        }
    }

    /// Moves what can be moved.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>) {
        while let Some(Reverse((at, index))) = self.timers.peek().copied() {
            if at > cx.now {
                break;
            }
            self.timers.pop();
            if let Some(conn) = self.conns.get_mut(index)
                && conn.deadline().is_some_and(|d| d <= cx.now)
            {
                conn.timed_out(cx.out, cx.now);
            }
            self.touch(index);
        }
        let share = self.share();
        for index in std::mem::take(&mut self.touched) {
            let Some(conn) = self.conns.get_mut(index) else { continue };
            conn.set_share(share);
            conn.pump(cx.out, cx.now);
            if conn.enlist() {
                self.blocked.push(index);
            }
            if conn.is_dead() {
                let mut conn = self.conns.remove(index);
                conn.host.deregister(cx.registry);
                if let Some((seq, ack)) = conn.ended_well() {
                    if self.ended.len() >= ENDED {
                        self.ended.pop_front();
                    }
                    self.ended.push_back(Ended { flow: conn.flow, at: cx.now, seq, ack });
                }
                if let Entry::Occupied(e) = self.by_flow.entry(conn.flow)
                    && *e.get() == index
                {
                    e.remove();
                }
            } else if let Some(deadline) = conn.deadline() {
                // Later ones are found when an earlier one has run out.
                if !conn.is_timed(cx.now) {
                    conn.set_timed(deadline);
                    self.timers.push(Reverse((deadline, index)));
                }
            }
        }
    }

    /// When something is to be done without anything happening.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }
}

/// Opens what stands behind a forwarded address.
fn open(behind: &Behind) -> io::Result<Host> {
    match behind {
        Behind::Tcp(to) => mio::net::TcpStream::connect(*to).map(Host::Tcp),
        #[cfg(unix)]
        Behind::Unix(path) => mio::net::UnixStream::connect(path).map(Host::Unix),
        #[cfg(unix)]
        Behind::Command(command) => {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            spawn(Command::new("/bin/sh").args(["-c", command]), theirs.into())?;
            Ok(Host::Unix(mio::net::UnixStream::from_std(ours)))
        }
        #[cfg(unix)]
        Behind::Program(path, arguments) => {
            let (ours, theirs) = tcp_pair()?;
            ours.set_nonblocking(true)?;
            spawn(Command::new(path).args(arguments), theirs.into())?;
            Ok(Host::Tcp(mio::net::TcpStream::from_std(ours)))
        }
        #[cfg(not(unix))]
        Behind::Unix(_) | Behind::Command(_) | Behind::Program(..) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Runs a program on a socket.
#[cfg(unix)]
fn spawn(command: &mut Command, socket: OwnedFd) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let input = Stdio::from(socket.try_clone()?);
    // In a group of its own: smbd, when it ends, ends all of its group.
    let mut child = command.process_group(0).stdin(input).stdout(Stdio::from(socket)).spawn()?;
    // Somebody must collect its exit status.
    std::thread::Builder::new().name("net-guestfwd".into()).spawn(move || child.wait())?;
    Ok(())
}

/// Two ends of a TCP connection of this host's with itself.
#[cfg(unix)]
fn tcp_pair() -> io::Result<(std::net::TcpStream, std::net::TcpStream)> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let ours = std::net::TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (theirs, peer) = listener.accept()?;
        // Somebody else on this host may have been quicker.
        if peer == ours.local_addr()? {
            return Ok((ours, theirs));
        }
    }
}

/// Answers a segment of no connection.
fn refuse(flow: &Flow, s: &Segment<'_>, cx: &mut Cx<'_>) {
    if s.has(flag::RST) {
        return;
    }
    let length = s.payload.len() as u32 + u32::from(s.has(flag::SYN)) + u32::from(s.has(flag::FIN));
    let head = if s.has(flag::ACK) {
        TcpHead { seq: s.ack, flags: flag::RST, ..TcpHead::default() }
    } else {
        TcpHead { ack: s.seq.wrapping_add(length), flags: flag::RST | flag::ACK, ..TcpHead::default() }
    };
    cx.out.tcp_control(flow.remote, flow.guest, &head);
}
