//! All TCP connections.

mod conn;
mod host;

use std::cmp::Reverse;
use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;
use slab::Slab;
use smoltcp::wire::{IpProtocol, TcpOption, TcpPacket};

use self::conn::{Conn, Flow, Segment};
use self::host::Host;
use crate::forward::{Behind, HostForward, Listen};
use crate::out::{TcpHead, flag, transport_sum};
use crate::packet::Packet;
use crate::worker::{Cx, Kind, token};
use crate::{UserError, icmp, neighbour};

/// Most connections at a time.
const MOST: usize = 8192;

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
    listeners: Vec<(Listener, SocketAddr)>,
    /// Connections that something happened to.
    touched: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    secret: RandomState,
    count: u32,
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
        let mut listeners = Vec::new();
        for rule in rules {
            let Some(mut listener) = bind(rule)? else { continue };
            let token = token(Kind::Listener, listeners.len());
            let done = match &mut listener {
                Listener::Tcp(l) => registry.register(l, token, Interest::READABLE),
                #[cfg(unix)]
                Listener::Unix(l, _) => registry.register(l, token, Interest::READABLE),
            };
            done.map_err(|e| UserError::host("hostfwd", e))?;
            listeners.push((listener, rule.guest));
        }
        Ok(Tcp {
            conns: Slab::new(),
            by_flow: HashMap::new(),
            listeners,
            touched: Vec::new(),
            timers: BinaryHeap::new(),
            secret: RandomState::new(),
            count: 0,
        })
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
            mss,
            scale,
            payload: packet.payload(),
        };
        let flow = Flow {
            guest: SocketAddr::new(p.src, packet.src_port()),
            remote: SocketAddr::new(p.dst, packet.dst_port()),
        };
        match self.by_flow.get(&flow) {
            Some(&index) => {
                self.conns[index].segment(&s, cx.out, cx.now);
                self.touch(index);
            }
            None if s.has(flag::SYN) && !s.has(flag::ACK | flag::RST) => self.begin(flow, &s, p, cx),
            None => refuse(&flow, &s, cx),
        }
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
                let conn = Conn::from_guest(flow, host, syn, isn, cx.out);
                self.insert(conn, cx);
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) =>
            {
                icmp::unreachable(p, icmp::Unreachable::Network, cx.out);
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
            let Some((listener, guest)) = self.listeners.get(which) else { return };
            let guest = *guest;
            let accepted = match listener {
                Listener::Tcp(l) => l.accept().map(|(s, peer)| (Host::Tcp(s), Some(peer))),
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
            let conn = Conn::to_guest(flow, host, isn, cx.out, cx.now);
            self.insert(conn, cx);
        }
    }

    /// A stream of the host's can be read or written.
    pub(crate) fn ready(&mut self, index: usize, readable: bool, writable: bool) {
        if let Some(conn) = self.conns.get_mut(index) {
            conn.ready(readable, writable);
            self.touch(index);
        }
    }

    /// The guest has room again: every connection may have something.
    pub(crate) fn touch_all(&mut self) {
        self.touched.clear();
        self.touched.extend(self.conns.iter().map(|(index, _)| index));
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
        for index in std::mem::take(&mut self.touched) {
            let Some(conn) = self.conns.get_mut(index) else { continue };
            conn.pump(cx.out, cx.now);
            if conn.is_dead() {
                let mut conn = self.conns.remove(index);
                conn.host.deregister(cx.registry);
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
            use std::os::fd::OwnedFd;
            use std::process::{Command, Stdio};
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let (input, output) = (OwnedFd::from(theirs.try_clone()?), OwnedFd::from(theirs));
            let mut child = Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(output))
                .spawn()?;
            // Somebody must collect its exit status.
            std::thread::Builder::new().name("net-guestfwd".into()).spawn(move || child.wait())?;
            Ok(Host::Unix(mio::net::UnixStream::from_std(ours)))
        }
        #[cfg(not(unix))]
        Behind::Unix(_) | Behind::Command(_) => Err(io::ErrorKind::Unsupported.into()),
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
