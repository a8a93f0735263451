//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, through unprivileged ping sockets where the host allows them, and
//! "unreachable".

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::UdpSocket;
use slab::Slab;
use smoltcp::wire::{IpProtocol, checksum};
use socket2::{Domain, Protocol, Socket, Type};

use crate::nat::Owner;
use crate::neighbour;
use crate::out::{Out, transport_sum};
use crate::packet::Packet;
use crate::worker::{Cx, Kind, token};

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

impl Unreachable {
    fn code(self, v6: bool) -> u8 {
        match (self, v6) {
            (Unreachable::Network, _) => 0,
            (Unreachable::Host, false) => 1,
            (Unreachable::Host, true) => 3,
            (Unreachable::Port, false) => 3,
            (Unreachable::Port, true) => 4,
            (Unreachable::Forbidden, false) => 13,
            (Unreachable::Forbidden, true) => 1,
        }
    }
}

/// Tells the guest that its packet could not be delivered.
pub(crate) fn unreachable(p: &Packet<'_>, what: Unreachable, out: &mut Out) {
    if !crate::packet::is_unicast(p.dst) {
        return;
    }
    let v6 = p.dst.is_ipv6();
    let quoted = &p.whole[..p.whole.len().min(if v6 { 1200 } else { 548 })];
    let mut message = vec![if v6 { 1 } else { 3 }, what.code(v6), 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(quoted);
    send(p.dst, p.src, message, out);
}

/// Sends a message with its checksum.
fn send(src: IpAddr, dst: IpAddr, mut message: Vec<u8>, out: &mut Out) {
    message[2..4].fill(0);
    let (sum, protocol) = if src.is_ipv6() {
        (transport_sum(src, dst, IpProtocol::Icmpv6, &message), IpProtocol::Icmpv6)
    } else {
        (checksum::data(&message), IpProtocol::Icmp)
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
    Ok(UdpSocket::from_std(socket.into()))
}

impl Icmp {
    /// Takes an ICMP message of either version.
    pub(crate) fn input(&mut self, p: &Packet<'_>, cx: &mut Cx<'_>) {
        let m = p.payload;
        if m.len() < 8 {
            return;
        }
        let right = match (p.src, p.dst) {
            (IpAddr::V6(_), _) => transport_sum(p.src, p.dst, IpProtocol::Icmpv6, m) == 0xffff,
            _ => checksum::data(m) == 0xffff,
        };
        if !right {
            return;
        }
        match (p.src, m[0]) {
            (IpAddr::V4(_), 8) | (IpAddr::V6(_), 128) => self.echo(p, cx),
            (IpAddr::V6(_), 133) => neighbour::advertise_router(cx),
            (IpAddr::V6(src), 135) if m.len() >= 24 => neighbour::solicited(src, m, cx),
            (IpAddr::V6(_), 136) => neighbour::advertised(m, cx),
            _ => {}
        }
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
            if let Err(e) = ping.socket.send(p.payload) {
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
        entry.insert(Ping { key, socket, used: cx.now });
        self.by_key.insert(key, index);
        Ok(index)
    }

    /// Answers have come.
    pub(crate) fn ready(&mut self, index: usize, cx: &mut Cx<'_>) {
        let Some(ping) = self.pings.get(index) else { return };
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
