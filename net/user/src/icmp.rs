//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, through unprivileged ping sockets where the host allows them, and errors,
//! our own and those that the host is told of.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::UdpSocket;
use slab::Slab;
use smoltcp::wire::IpProtocol;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::nat::Owner;
use crate::out::{Out, ip_header, transport_sum};
use crate::packet::Packet;
use crate::worker::{Cx, Kind, token};
use crate::{errors, neighbour, sum};

/// Ping sockets at a time.
const MOST: usize = 64;
/// Time without an echo after which one is closed.
const IDLE: Duration = Duration::from_secs(10);

/// What cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Network,
    Host,
    Port,
    Forbidden,
}

/// An error message's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// It is one of ICMPv6.
    pub(crate) v6: bool,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The four bytes behind the checksum.
    pub(crate) rest: u32,
}

impl Trouble {
    fn unreachable(what: Unreachable, v6: bool) -> Self {
        let code = match (what, v6) {
            (Unreachable::Network, _) => 0,
            (Unreachable::Host, false) => 1,
            (Unreachable::Host, true) => 3,
            (Unreachable::Port, false) => 3,
            (Unreachable::Port, true) => 4,
            (Unreachable::Forbidden, false) => 13,
            (Unreachable::Forbidden, true) => 1,
        };
        Trouble { v6, kind: if v6 { 1 } else { 3 }, code, rest: 0 }
    }

    /// A packet exceeds what some link on its way carries: fragmentation needed, or packet too big.
    pub(crate) fn too_big(v6: bool, mtu: u32) -> Self {
        if v6 {
            Trouble { v6, kind: 2, code: 0, rest: mtu }
        } else {
            Trouble { v6, kind: 3, code: 4, rest: mtu & 0xffff }
        }
    }

    /// The same for a guest of the other family (RFC 7915, 4.2 and 5.2), if there is such a thing.
    fn of_family(self, v6: bool) -> Option<Self> {
        if self.v6 == v6 {
            return Some(self);
        }
        let plain = |kind, code| Some(Trouble { v6, kind, code, rest: 0 });
        match (self.v6, self.kind, self.code) {
            (false, 3, 3) => plain(1, 4),
            (false, 3, 4) => Some(Trouble::too_big(true, self.rest.saturating_add(20))),
            (false, 3, 9 | 10 | 13) => plain(1, 1),
            (false, 3, _) => plain(1, 0),
            (false, 11, code) => plain(3, code),
            (true, 1, 4) => plain(3, 3),
            (true, 1, 1) => plain(3, 10),
            (true, 1, _) => plain(3, 1),
            (true, 2, _) => Some(Trouble::too_big(false, self.rest.saturating_sub(20).min(65535))),
            (true, 3, code) => plain(11, code),
            _ => None,
        }
    }
}

/// Sends an error in the name of `from` about a packet that begins as `quoted`.
fn tell(what: Trouble, from: IpAddr, to: IpAddr, quoted: &[u8], out: &mut Out) {
    let quoted = &quoted[..quoted.len().min(if what.v6 { 1200 } else { 548 })];
    let mut message = vec![what.kind, what.code, 0, 0];
    message.extend(what.rest.to_be_bytes());
    message.extend_from_slice(quoted);
    send(from, to, message, out);
}

/// Tells the guest that its packet could not be delivered.
pub(crate) fn unreachable(p: &Packet<'_>, what: Unreachable, out: &mut Out) {
    if crate::packet::is_unicast(p.dst) {
        about(p, Trouble::unreachable(what, p.dst.is_ipv6()), p.dst, out);
    }
}

/// Tells the guest that its packet has passed all the routers it may.
pub(crate) fn exceeded(p: &Packet<'_>, router: IpAddr, out: &mut Out) {
    let v6 = p.dst.is_ipv6();
    about(p, Trouble { v6, kind: if v6 { 3 } else { 11 }, code: 0, rest: 0 }, router, out);
}

fn about(p: &Packet<'_>, what: Trouble, from: IpAddr, out: &mut Out) {
    if p.whole.is_empty() {
        // It came in fragments.
        tell(what, from, p.src, &with_header(p.src, p.dst, p.protocol, p.payload), out);
    } else {
        tell(what, from, p.src, p.whole, out);
    }
}

/// A packet as the guest would have sent it.
fn with_header(src: IpAddr, dst: IpAddr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; if src.is_ipv4() { 20 } else { 40 }];
    ip_header(&mut packet, (src, dst), protocol, payload.len(), (0, 0x4000));
    packet.extend_from_slice(payload);
    packet
}

/// Two ends of something the guest has sent, as it sees them.
pub(crate) type Ends = (IpAddr, IpAddr);

/// Tells the guest what the host was told about a packet whose payload above IP begins as `transport`.
pub(crate) fn report(
    what: Trouble,
    from: IpAddr,
    (guest, remote): Ends,
    protocol: IpProtocol,
    transport: &[u8],
    out: &mut Out,
) {
    let Some(what) = what.of_family(guest.is_ipv6()) else { return };
    let from = if from.is_ipv4() == guest.is_ipv4() { from } else { remote };
    tell(what, from, guest, &with_header(guest, remote, protocol, transport), out);
}

/// Tells the guest why its connection's beginning, a segment that begins as `tcp`, led nowhere.
pub(crate) fn no_way(what: Unreachable, ends: Ends, tcp: &[u8], out: &mut Out) {
    report(Trouble::unreachable(what, ends.0.is_ipv6()), ends.1, ends, IpProtocol::Tcp, tcp, out);
}

/// Sends a message with its checksum.
fn send(src: IpAddr, dst: IpAddr, mut message: Vec<u8>, out: &mut Out) {
    message[2..4].fill(0);
    let (sum, protocol) = if src.is_ipv6() {
        (transport_sum(src, dst, IpProtocol::Icmpv6, &message), IpProtocol::Icmpv6)
    } else {
        (sum::data(&message), IpProtocol::Icmp)
    };
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    out.ip(src, dst, protocol, &message);
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    guest: IpAddr,
    remote: IpAddr,
    ident: u16,
}

struct Ping {
    key: Key,
    socket: UdpSocket,
    used: Instant,
    /// Routers that the next echo may pass, as the socket has it; `None` is the host's habit.
    hops: Option<u8>,
}

/// Echoes under way.
#[derive(Default)]
pub(crate) struct Icmp {
    pings: Slab<Ping>,
    by_key: HashMap<Key, usize>,
}

fn ping_socket(to: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) =
        if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    errors::watch(&socket, to.is_ipv6());
    Ok(UdpSocket::from_std(socket.into()))
}

/// Sets how many routers a socket's packets may pass; a host that cannot do so sends them as it likes.
pub(crate) fn set_hops(socket: &UdpSocket, v6: bool, hops: u8) {
    let socket = SockRef::from(socket);
    let _ = if v6 { socket.set_unicast_hops_v6(hops.into()) } else { socket.set_ttl_v4(hops.into()) };
}

/// The way to an address inside has an MTU; gives the address if that is news.
fn narrow(to: IpAddr, mtu: usize, cx: &mut Cx<'_>) -> Option<IpAddr> {
    (cx.nat.owner(to) == Owner::Inside && cx.out.narrow(to, mtu)).then_some(to)
}

impl Icmp {
    /// Takes an ICMP message of either version. Gives the address, if any, to which a narrower way leads than before.
    pub(crate) fn input(&mut self, p: &Packet<'_>, cx: &mut Cx<'_>) -> Option<IpAddr> {
        let m = p.payload;
        if m.len() < 8 {
            return None;
        }
        let right = match (p.src, p.dst) {
            (IpAddr::V6(_), _) => transport_sum(p.src, p.dst, IpProtocol::Icmpv6, m) == 0xffff,
            _ => sum::data(m) == 0xffff,
        };
        if !right {
            return None;
        }
        match (p.src, m[0]) {
            (IpAddr::V4(_), 8) | (IpAddr::V6(_), 128) => self.echo(p, cx),
            (IpAddr::V6(_), 133) => neighbour::advertise_router(cx),
            (IpAddr::V6(src), 135) if m.len() >= 24 => neighbour::solicited(src, m, cx),
            (IpAddr::V6(_), 136) => neighbour::advertised(m, cx),
            (IpAddr::V4(_), 3) if m[1] == 4 => {
                let to = <[u8; 4]>::try_from(m.get(24..28)?).ok()?;
                return narrow(to.into(), u16::from_be_bytes([m[6], m[7]]).into(), cx);
            }
            (IpAddr::V6(_), 2) => {
                let to = <[u8; 16]>::try_from(m.get(32..48)?).ok()?;
                let mtu = u32::from_be_bytes([m[4], m[5], m[6], m[7]]);
                return narrow(to.into(), usize::try_from(mtu).unwrap_or(usize::MAX), cx);
            }
            _ => {}
        }
        None
    }

    fn echo(&mut self, p: &Packet<'_>, cx: &mut Cx<'_>) {
        if matches!(cx.nat.owner(p.dst), Owner::Host | Owner::Dns) {
            let mut answer = p.payload.to_vec();
            answer[0] = if p.src.is_ipv4() { 0 } else { 129 };
            return send(p.dst, p.src, answer, cx.out);
        }
        let Some(to) = cx.nat.outward(SocketAddr::new(p.dst, 0)) else { return };
        let key =
            Key { guest: p.src, remote: p.dst, ident: u16::from_be_bytes([p.payload[4], p.payload[5]]) };
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => match self.open(key, to.ip(), cx) {
                Ok(index) => index,
                Err(e) => {
                    tracing::debug!("user network: ping of {}: {e}", p.dst);
                    let what = if e.kind() == io::ErrorKind::PermissionDenied {
                        Unreachable::Forbidden
                    } else {
                        Unreachable::Network
                    };
                    return unreachable(p, what, cx.out);
                }
            },
        };
        if let Some(ping) = self.pings.get_mut(index) {
            ping.used = cx.now;
            let hops = p.hops.saturating_sub(1).max(1);
            if ping.hops != Some(hops) {
                set_hops(&ping.socket, p.dst.is_ipv6(), hops);
                ping.hops = Some(hops);
            }
            // A first try may only bring the error of an earlier echo.
            let sent = ping.socket.send(p.payload).or_else(|_| ping.socket.send(p.payload));
            if let Err(e) = sent {
                tracing::debug!("user network: ping of {}: {e}", p.dst);
            }
        }
    }

    fn open(&mut self, key: Key, to: IpAddr, cx: &mut Cx<'_>) -> io::Result<usize> {
        if self.pings.len() >= MOST {
            return Err(io::Error::other("too many pings under way"));
        }
        let mut socket = ping_socket(to)?;
        let entry = self.pings.vacant_entry();
        let index = entry.key();
        cx.registry.register(&mut socket, token(Kind::Ping, index), Interest::READABLE)?;
        entry.insert(Ping { key, socket, used: cx.now, hops: None });
        self.by_key.insert(key, index);
        Ok(index)
    }

    /// Answers have come.
    pub(crate) fn ready(&mut self, index: usize, cx: &mut Cx<'_>) {
        let Some(ping) = self.pings.get(index) else { return };
        while let Some(error) = errors::next(&ping.socket) {
            let mut echo = error.data;
            let Some(ident) = echo.get_mut(4..6) else { continue };
            ident.copy_from_slice(&ping.key.ident.to_be_bytes());
            let from = cx.nat.who(error.from, ping.key.remote);
            let ends = (ping.key.guest, ping.key.remote);
            let protocol = if ends.0.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
            report(error.what, from, ends, protocol, &echo, cx.out);
        }
        let mut buffer = vec![0; 65536];
        while let Ok(n) = ping.socket.recv(&mut buffer) {
            let reply = if ping.key.guest.is_ipv4() { 0 } else { 129 };
            if n < 8 || buffer[0] != reply {
                continue;
            }
            let mut message = buffer[..n].to_vec();
            // The host has numbered it itself.
            message[4..6].copy_from_slice(&ping.key.ident.to_be_bytes());
            send(ping.key.remote, ping.key.guest, message, cx.out);
        }
    }

    /// Closes what is idle.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.pings.retain(|_, ping| {
            let keep = now.duration_since(ping.used) < IDLE;
            if !keep {
                self.by_key.remove(&ping.key);
            }
            keep
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pings.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_for_the_other_family() {
        let port = Trouble::unreachable(Unreachable::Port, false);
        assert_eq!(port.of_family(false), Some(port));
        assert_eq!(port.of_family(true), Some(Trouble::unreachable(Unreachable::Port, true)));
        let big = Trouble::too_big(true, 1300);
        assert_eq!(big.of_family(false), Some(Trouble::too_big(false, 1280)));
        assert_eq!(Trouble { v6: false, kind: 5, code: 0, rest: 0 }.of_family(true), None);
    }
}
