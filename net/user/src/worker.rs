//! The thread everything happens on: it waits for the host's sockets, for frames of the guest and for time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token};
use smoltcp::wire::IpProtocol;

use crate::dhcp::{self, Dhcp};
use crate::icmp::{self, Icmp, Unreachable};
use crate::nat::{Nat, Owner};
use crate::out::{ETHERNET, Left, Out, VNET};
use crate::packet::{self, Packet, Parsed, Reassembly};
use crate::requests::Request;
use crate::tcp::Tcp;
use crate::tftp::Tftp;
use crate::udp::{self, Udp};
use crate::{Shared, UserConfig, UserError, neighbour};

/// How often idle sockets are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// The same where there are only connections, whose time is longer.
const WATCH: Duration = Duration::from_secs(60);

/// Most datagrams that one frame of the guest's is cut into.
const CUT: usize = 128;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Wake,
    Conn,
    Listener,
    Udp,
    UdpForward,
    Ping,
}

const KINDS: [Kind; 6] = [Kind::Wake, Kind::Conn, Kind::Listener, Kind::Udp, Kind::UdpForward, Kind::Ping];

/// The token of the `index`th of its kind.
pub(crate) fn token(kind: Kind, index: usize) -> Token {
    Token(index << 3 | kind as usize)
}

/// What the parts share while one of them runs.
pub(crate) struct Cx<'a> {
    pub(crate) out: &'a mut Out,
    pub(crate) nat: &'a mut Nat,
    pub(crate) config: &'a UserConfig,
    pub(crate) registry: &'a Registry,
    pub(crate) now: Instant,
}

/// All of the network's state.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    poll: Poll,
    config: UserConfig,
    out: Out,
    nat: Nat,
    tcp: Tcp,
    udp: Udp,
    icmp: Icmp,
    dhcp: Dhcp,
    tftp: Tftp,
    reassembly: Reassembly,
    swept: Instant,
}

impl Worker {
    pub(crate) fn new(config: UserConfig, poll: Poll, shared: Arc<Shared>) -> Result<Self, UserError> {
        Ok(Worker {
            out: Out::new(shared.clone(), config.mtu),
            nat: Nat::new(config.clone()),
            tcp: Tcp::new(&config.host_forwards, poll.registry())?,
            udp: Udp::new(&config.host_forwards, poll.registry())?,
            icmp: Icmp::default(),
            dhcp: Dhcp::default(),
            tftp: Tftp::default(),
            reassembly: Reassembly::default(),
            swept: Instant::now(),
            shared,
            poll,
            config,
        })
    }

    /// Runs until the endpoint is gone.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let (mut frames, mut requests) = (Vec::new(), Vec::new());
        let mut more = false;
        loop {
            let wait = if more || !self.shared.sleeps() { Some(Duration::ZERO) } else { self.patience() };
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return tracing::error!("user network: {e}"),
            }
            let Some(retry) = self.shared.take(&mut frames, &mut requests) else { return };
            requests.drain(..).for_each(|request| self.answer(request));
            let Self { out, nat, config, poll, tcp, udp, icmp, .. } = &mut self;
            let mut cx = Cx { out, nat, config, registry: poll.registry(), now: Instant::now() };
            if retry {
                cx.out.retry();
                tcp.touch_blocked();
            }
            for event in &events {
                let Token(t) = event.token();
                let index = t >> 3;
                let failed = event.is_error() || event.is_read_closed();
                match KINDS.get(t & 7) {
                    Some(Kind::Conn) => tcp.ready(
                        index,
                        event.is_readable() || failed,
                        event.is_writable() || event.is_write_closed() || event.is_error(),
                        event.is_priority(),
                    ),
                    Some(Kind::Listener) => tcp.accept(index, &mut cx),
                    Some(kind @ (Kind::Udp | Kind::UdpForward)) => udp.ready(*kind, index),
                    Some(Kind::Ping) => icmp.ready(index, &mut cx),
                    Some(Kind::Wake) | None => {}
                }
            }
            for frame in frames.drain(..) {
                self.frame(&frame.head, &frame.data);
                self.shared.give_back(frame.data);
            }
            let Self { out, nat, config, poll, tcp, udp, icmp, swept, .. } = &mut self;
            let mut cx = Cx { out, nat, config, registry: poll.registry(), now: Instant::now() };
            tcp.pump(&mut cx);
            more = udp.pump(&mut cx);
            if cx.now.duration_since(*swept) > SWEEP {
                *swept = cx.now;
                udp.sweep(cx.now);
                icmp.sweep(cx.now);
                tcp.sweep(&mut cx);
            }
            self.shared.connections.store(self.tcp.len(), Ordering::Relaxed);
        }
    }

    /// Does what a user asks. One who has given up waiting misses nothing.
    fn answer(&mut self, request: Request) {
        let Self { poll, tcp, udp, .. } = self;
        match request {
            Request::Forward(rule, answer) => {
                let registry = poll.registry();
                let _ = answer.send(tcp.listen(&rule, registry).and_then(|()| udp.listen(&rule, registry)));
            }
            Request::Remove(listen, answer) => {
                let _ = answer.send(tcp.unlisten(&listen) || udp.unlisten(&listen));
            }
            Request::List(answer) => {
                let mut lines = Vec::new();
                tcp.list(&mut lines);
                udp.list(&mut lines, Instant::now());
                let _ = answer.send(lines);
            }
        }
    }

    /// How long nothing needs to be done.
    fn patience(&self) -> Option<Duration> {
        let now = Instant::now();
        let sweep = if self.udp.len() > 0 || !self.icmp.is_empty() {
            Some(self.swept + SWEEP)
        } else {
            (self.tcp.len() > 0).then_some(self.swept + WATCH)
        };
        let next = self.tcp.next_timer().into_iter().chain(sweep).min()?;
        // Rounded up: what is woken a little early has nothing to do yet.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }

    /// Takes a frame and its virtio-net header.
    fn frame(&mut self, head: &[u8; VNET], frame: &[u8]) {
        let Some((ethernet, payload)) = frame.split_at_checked(ETHERNET) else { return };
        let left = Left::of(head);
        let mut mac = [0; 6];
        mac.copy_from_slice(&ethernet[6..12]);
        let now = Instant::now();
        let parsed = match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
            0x0806 => {
                let Self { out, nat, config, poll, .. } = self;
                return neighbour::arp(payload, &mut Cx { out, nat, config, registry: poll.registry(), now });
            }
            0x0800 if self.config.ipv4.is_some() => packet::ipv4(payload),
            0x86dd if self.config.ipv6.is_some() => packet::ipv6(payload),
            _ => return,
        };
        match parsed {
            None => {}
            Some(Parsed::Whole(p)) => {
                self.learn(p.src, mac);
                self.packet(&p, &left, now);
            }
            Some(Parsed::Fragment(f)) => {
                if let Some(a) = self.reassembly.add(&f, now) {
                    self.learn(a.src, mac);
                    let (payload, whole) = (a.data.as_slice(), &[][..]);
                    let (src, dst, protocol, hops) = (a.src, a.dst, a.protocol, a.hops);
                    let p = Packet { src, dst, protocol, payload, hops, fragments: true, whole };
                    self.packet(&p, &left, now);
                }
            }
        }
    }

    fn learn(&mut self, ip: IpAddr, mac: [u8; 6]) {
        if self.nat.owner(ip) == Owner::Inside && packet::is_unicast(ip) {
            self.out.learn(ip, mac);
        }
    }

    fn packet(&mut self, p: &Packet<'_>, left: &Left, now: Instant) {
        let Self { out, nat, config, poll, tcp, udp, icmp, dhcp, tftp, .. } = self;
        let cx = &mut Cx { out, nat, config, registry: poll.registry(), now };
        // Only the network's own hosts speak here; a client of DHCP has no address yet.
        let known = cx.nat.owner(p.src) == Owner::Inside && packet::is_unicast(p.src);
        if p.hops <= 1 && known && packet::is_unicast(p.dst) && cx.nat.owner(p.dst) == Owner::Outside {
            if let Some(gateway) = cx.nat.gateway(p.dst.is_ipv6()) {
                icmp::exceeded(p, gateway, cx.out);
            }
            return;
        }
        match p.protocol {
            IpProtocol::Tcp if known && packet::is_unicast(p.dst) => tcp.input(p, left.sum, cx),
            IpProtocol::Udp => {
                let Some((src, dst, data)) = udp::parse(p, left.sum) else { return };
                let own = cx.nat.owner(p.dst) == Owner::Host;
                match dst.port() {
                    67 if p.src.is_ipv4() && (own || !packet::is_unicast(p.dst)) => dhcp.input(data, cx),
                    547 if p.src.is_ipv6() => dhcp::v6(src, data, cx),
                    69 if own && cx.config.tftp.is_some() => tftp.input(src, dst, data, cx),
                    _ if known && packet::is_unicast(p.dst) => {
                        let size = left.datagrams.unwrap_or(usize::MAX);
                        // Linux sends no more in one frame; each is a system call of ours.
                        if data.len() > size.saturating_mul(CUT) {
                            return;
                        }
                        // An empty one is one as well.
                        let first = &data[..data.len().min(size)];
                        for one in [first].into_iter().chain(data[first.len()..].chunks(size)) {
                            udp.input(p, src, dst, one, cx);
                        }
                    }
                    _ => {}
                }
            }
            IpProtocol::Icmp if !known || p.src.is_ipv6() => {}
            IpProtocol::Icmpv6 if p.src.is_ipv4() => {}
            IpProtocol::Icmp | IpProtocol::Icmpv6 => {
                if let Some(narrower) = icmp.input(p, cx) {
                    tcp.narrowed(narrower, cx);
                }
            }
            _ if known && !p.whole.is_empty() => icmp::unreachable(p, Unreachable::Forbidden, cx.out),
            _ => {}
        }
    }
}
