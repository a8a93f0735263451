//! UDP: one host socket for each of the guest's, so that whoever it has written to can answer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::UdpSocket;
use slab::Slab;
use smoltcp::wire::{IpProtocol, UdpPacket};

use crate::forward::{HostForward, Listen};
use crate::icmp::{self, Unreachable};
use crate::out::transport_sum;
use crate::packet::Packet;
use crate::requests::{Line, descriptor};
use crate::worker::{Cx, Kind, token};
use crate::{UserError, errors, neighbour};

/// Sockets at a time; the one idle longest goes.
const MOST: usize = 1024;
/// Time without a datagram after which a socket is closed.
const IDLE: Duration = Duration::from_secs(240);
/// The same for name look-ups.
const IDLE_DNS: Duration = Duration::from_secs(15);
/// Addresses of a flow that the guest knows by another name.
const ALIASES: usize = 16;
/// Peers of a forwarded port.
const PEERS: usize = 256;
/// The host's number for "message too long".
#[cfg(unix)]
const TOO_LONG: i32 = libc::EMSGSIZE;
#[cfg(not(unix))]
const TOO_LONG: i32 = 10040;
/// Datagrams read from a socket before others have their turn.
const BATCH: usize = 64;

struct Flow {
    /// The guest's socket, and whether the host's is an IPv4 one.
    key: (SocketAddr, bool),
    socket: UdpSocket,
    used: Instant,
    idle: Duration,
    /// Where it is, and where the guest sees it.
    aliases: Vec<(SocketAddr, SocketAddr)>,
    /// As the socket has it: routers that a datagram may pass, and whether they may send it in fragments. `None` is the
    /// host's habit.
    hops: Option<u8>,
    fragments: Option<bool>,
}

impl Flow {
    fn is_v6(&self) -> bool {
        !self.key.1
    }

    /// Where the guest sees somebody.
    fn seen(&self, at: SocketAddr) -> Option<SocketAddr> {
        self.aliases.iter().find(|(real, _)| *real == at).map(|(_, seen)| *seen)
    }

    /// Sends a datagram the way the guest's packet was to go.
    fn send(&mut self, p: &Packet<'_>, data: &[u8], to: SocketAddr, cx: &mut Cx<'_>) -> io::Result<usize> {
        let hops = p.hops.saturating_sub(1).max(1);
        if self.hops != Some(hops) {
            icmp::set_hops(&self.socket, self.is_v6(), hops);
            self.hops = Some(hops);
        }
        if self.fragments != Some(p.fragments) {
            errors::fragments(&self.socket, self.is_v6(), p.fragments);
            self.fragments = Some(p.fragments);
        }
        let first = self.socket.send_to(data, to);
        if first.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock) {
            // Perhaps of an earlier datagram.
            self.errors(cx);
            if first.as_ref().is_err_and(|e| e.raw_os_error() != Some(TOO_LONG)) {
                return self.socket.send_to(data, to);
            }
        }
        first
    }

    /// Tells the guest what the host was told of its datagrams.
    fn errors(&self, cx: &mut Cx<'_>) {
        let guest = self.key.0;
        while let Some(error) = errors::next(&self.socket) {
            let seen = error.to.and_then(|to| self.seen(to).or(Some(to)));
            let Some(remote) = seen.filter(|s| s.is_ipv4() == guest.is_ipv4()) else { continue };
            let length = u16::try_from(8 + error.data.len()).unwrap_or(u16::MAX);
            let mut head = Vec::new();
            [guest.port(), remote.port(), length, 0].iter().for_each(|n| head.extend(n.to_be_bytes()));
            head.extend(error.data);
            let from = cx.nat.who(error.from, remote.ip());
            icmp::report(error.what, from, (guest.ip(), remote.ip()), IpProtocol::Udp, &head, cx.out);
        }
    }
}

struct Forward {
    socket: UdpSocket,
    rule: HostForward,
    /// As the guest sees them, and where they are.
    peers: Vec<(SocketAddr, SocketAddr)>,
}

/// All UDP sockets.
pub(crate) struct Udp {
    flows: Slab<Flow>,
    by_guest: HashMap<(SocketAddr, bool), usize>,
    forwards: Slab<Forward>,
    /// Sockets with something to read.
    waiting: Vec<(Kind, usize)>,
    buffer: Vec<u8>,
}

impl Udp {
    pub(crate) fn new(rules: &[HostForward], registry: &mio::Registry) -> Result<Self, UserError> {
        let mut udp = Udp {
            flows: Slab::new(),
            by_guest: HashMap::new(),
            forwards: Slab::new(),
            waiting: Vec::new(),
            buffer: vec![0; 65536],
        };
        rules.iter().try_for_each(|rule| udp.listen(rule, registry))?;
        Ok(udp)
    }

    /// Opens the port of a rule, if it is one for datagrams.
    pub(crate) fn listen(&mut self, rule: &HostForward, registry: &mio::Registry) -> Result<(), UserError> {
        let Listen::Udp(address) = rule.listen else { return Ok(()) };
        let failed = |e| UserError::host(format!("hostfwd: UDP port {address}"), e);
        let mut socket = UdpSocket::bind(address).map_err(failed)?;
        let entry = self.forwards.vacant_entry();
        let token = token(Kind::UdpForward, entry.key());
        registry.register(&mut socket, token, Interest::READABLE).map_err(failed)?;
        entry.insert(Forward { socket, rule: rule.clone(), peers: Vec::new() });
        Ok(())
    }

    /// Closes a port; false if there is none such.
    pub(crate) fn unlisten(&mut self, listen: &Listen) -> bool {
        let found = self.forwards.iter().find(|(_, f)| f.rule.listen == *listen).map(|(key, _)| key);
        found.is_some_and(|key| self.forwards.try_remove(key).is_some())
    }

    /// What there is.
    pub(crate) fn list(&self, lines: &mut Vec<Line>, now: Instant) {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        for (_, f) in &self.forwards {
            let (what, from) = ("UDP[HOST_FORWARD]".to_owned(), f.socket.local_addr().unwrap_or(any));
            lines.push(Line { what, fd: descriptor(&f.socket), from, to: f.rule.guest, waiting: (0, 0) });
        }
        for (_, f) in &self.flows {
            let left = f.idle.saturating_sub(now.duration_since(f.used)).as_secs();
            let to = f.aliases.first().map_or(any, |(_, seen)| *seen);
            let (what, fd) = (format!("UDP[{left} sec]"), descriptor(&f.socket));
            lines.push(Line { what, fd, from: f.key.0, to, waiting: (0, 0) });
        }
    }

    /// Takes a datagram from the guest that is for none of our own services.
    pub(crate) fn input(
        &mut self,
        p: &Packet<'_>,
        src: SocketAddr,
        dst: SocketAddr,
        data: &[u8],
        cx: &mut Cx<'_>,
    ) {
        for forward in self.forwards.iter().map(|(_, f)| f).filter(|f| f.rule.guest == src) {
            if let Some((_, peer)) = forward.peers.iter().find(|(seen, _)| *seen == dst) {
                let _ = forward.socket.send_to(data, *peer);
                return;
            }
        }
        let Some(to) = cx.nat.outward(dst) else {
            if !cx.config.restrict {
                icmp::unreachable(p, Unreachable::Host, cx.out);
            }
            return;
        };
        let index = match self.flow((src, to.is_ipv4()), cx) {
            Ok(index) => index,
            Err(e) => {
                tracing::debug!("user network: UDP from {src}: {e}");
                return icmp::unreachable(p, Unreachable::Network, cx.out);
            }
        };
        let flow = &mut self.flows[index];
        flow.used = cx.now;
        flow.idle = if dst.port() == 53 { IDLE_DNS } else { IDLE };
        if to != dst {
            flow.aliases.retain(|(real, _)| *real != to);
            flow.aliases.truncate(ALIASES - 1);
            flow.aliases.insert(0, (to, dst));
        }
        match flow.send(p, data, to, cx) {
            Ok(_) => {}
            // The guest has been told how much would do.
            Err(e) if e.raw_os_error() == Some(TOO_LONG) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                icmp::unreachable(p, Unreachable::Port, cx.out);
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) =>
            {
                icmp::unreachable(p, Unreachable::Network, cx.out);
            }
            Err(e) => tracing::debug!("user network: UDP to {to}: {e}"),
        }
    }

    fn flow(&mut self, key: (SocketAddr, bool), cx: &mut Cx<'_>) -> io::Result<usize> {
        if let Some(index) = self.by_guest.get(&key) {
            return Ok(*index);
        }
        if self.flows.len() >= MOST
            && let Some((oldest, _)) = self.flows.iter().min_by_key(|(_, f)| f.used)
        {
            self.close(oldest);
        }
        let any: IpAddr = if key.1 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let mut socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        let entry = self.flows.vacant_entry();
        let index = entry.key();
        errors::watch(&socket, !key.1);
        cx.registry.register(&mut socket, token(Kind::Udp, index), Interest::READABLE)?;
        let (used, idle) = (cx.now, IDLE);
        entry.insert(Flow { key, socket, used, idle, aliases: Vec::new(), hops: None, fragments: None });
        self.by_guest.insert(key, index);
        Ok(index)
    }

    fn close(&mut self, index: usize) {
        if let Some(flow) = self.flows.try_remove(index) {
            self.by_guest.remove(&flow.key);
        }
    }

    /// A socket has something to read.
    pub(crate) fn ready(&mut self, kind: Kind, index: usize) {
        if !self.waiting.contains(&(kind, index)) {
            self.waiting.push((kind, index));
        }
    }

    /// Reads as long as the guest has room; true if there may be more.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>) -> bool {
        for (kind, index) in std::mem::take(&mut self.waiting) {
            let done = match kind {
                Kind::UdpForward => self.read_forward(index, cx),
                _ => self.read_flow(index, cx),
            };
            cx.out.end_merge();
            if !done {
                self.waiting.push((kind, index));
            }
        }
        !self.waiting.is_empty() && cx.out.has_room()
    }

    fn read_flow(&mut self, index: usize, cx: &mut Cx<'_>) -> bool {
        let Some(flow) = self.flows.get_mut(index) else { return true };
        flow.errors(cx);
        for _ in 0..BATCH {
            if !cx.out.has_room() {
                return false;
            }
            match flow.socket.recv_from(&mut self.buffer) {
                Ok((n, from)) => {
                    flow.used = cx.now;
                    let v4 = flow.key.0.is_ipv4();
                    let Some(seen) = flow.seen(from).or_else(|| cx.nat.inward(Some(from), v4)) else {
                        continue;
                    };
                    cx.out.udp_merged(seen, flow.key.0, &self.buffer[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                // Of an earlier datagram.
                Err(_) => {}
            }
        }
        false
    }

    fn read_forward(&mut self, index: usize, cx: &mut Cx<'_>) -> bool {
        let Some(forward) = self.forwards.get_mut(index) else { return true };
        for _ in 0..BATCH {
            if !cx.out.has_room() {
                return false;
            }
            match forward.socket.recv_from(&mut self.buffer) {
                Ok((n, from)) => {
                    let Some(seen) = cx.nat.inward(Some(from), forward.rule.guest.is_ipv4()) else {
                        continue;
                    };
                    forward.peers.retain(|(s, _)| *s != seen);
                    forward.peers.truncate(PEERS - 1);
                    forward.peers.insert(0, (seen, from));
                    if !cx.out.knows(forward.rule.guest.ip()) {
                        neighbour::solicit(forward.rule.guest.ip(), cx);
                    }
                    cx.out.udp_merged(seen, forward.rule.guest, &self.buffer[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {}
            }
        }
        false
    }

    /// Closes what is idle.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let idle: Vec<usize> =
            self.flows.iter().filter(|(_, f)| now.duration_since(f.used) > f.idle).map(|(i, _)| i).collect();
        idle.into_iter().for_each(|i| self.close(i));
    }

    /// Number of sockets made for the guest.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }
}

/// Takes a datagram apart: its ends and its data.
pub(crate) fn parse<'a>(p: &Packet<'a>, trusted: bool) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
    let packet = UdpPacket::new_checked(p.payload).ok()?;
    let length = usize::from(packet.len());
    let whole = p.payload.get(..length)?;
    // IPv4 allows to leave the sum out.
    let summed = !trusted && (packet.checksum() != 0 || p.src.is_ipv6());
    if summed && transport_sum(p.src, p.dst, IpProtocol::Udp, whole) != 0xffff {
        return None;
    }
    let (src, dst) = (SocketAddr::new(p.src, packet.src_port()), SocketAddr::new(p.dst, packet.dst_port()));
    Some((src, dst, whole.get(8..)?))
}
