//! DHCP and BOOTP for IPv4 (RFC 2131, RFC 2132, RFC 951, RFC 3397), and stateless DHCPv6 (RFC 8415, section 18.2.6;
//! RFC 3646, RFC 5970).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::DhcpPacket;

use crate::out::MAC;
use crate::worker::Cx;

/// Addresses given away.
const LEASES: usize = 16;
/// Life of a lease in seconds: a day.
const LIFE: u32 = 86400;

/// Message types (RFC 2132, 9.6).
mod message {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const DECLINE: u8 = 4;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const RELEASE: u8 = 7;
    pub(super) const INFORM: u8 = 8;
}

/// Who has which address, by its distance from the first.
#[derive(Default)]
pub(crate) struct Dhcp {
    leases: [Option<[u8; 6]>; LEASES],
}

/// What a client says.
struct Request {
    kind: Option<u8>,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

/// Domain names as DNS writes them (RFC 1035, 3.1); one that cannot be written so is left out.
fn names(all: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in all {
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        if labels.iter().all(|l| (1..64).contains(&l.len())) && name.len() < 254 {
            for label in labels {
                bytes.push(label.len() as u8);
                bytes.extend(label.as_bytes());
            }
            bytes.push(0);
        }
    }
    bytes
}

/// Most bytes of a search list that an advertisement or answer has room for.
const SEARCH: usize = 512;

/// The domains that names are looked up in, as DNS writes them: the user's choice, else the host's.
pub(crate) fn search(cx: &mut Cx<'_>) -> Vec<u8> {
    let chosen = &cx.config.dns_search;
    let all = if chosen.is_empty() { cx.nat.resolver.search() } else { chosen };
    // Whole names only.
    let fitting = (0..=all.len()).rev().map(|n| names(&all[..n])).find(|bytes| bytes.len() <= SEARCH);
    fitting.unwrap_or_default()
}

impl Dhcp {
    /// The address for a client: what it has, else `wanted` if that is free, else the first free one.
    fn lease(&mut self, mac: [u8; 6], wanted: Option<Ipv4Addr>, cx: &Cx<'_>) -> Option<Ipv4Addr> {
        let n = cx.config.ipv4?;
        let first = n.dhcp_start.to_bits();
        let usable = |index: usize| {
            let ip = Ipv4Addr::from_bits(first.wrapping_add(index as u32));
            (n.contains(ip) && ip != n.broadcast() && ip != n.host && ip != n.dns).then_some(ip)
        };
        let index = self.leases.iter().position(|l| *l == Some(mac)).or_else(|| {
            let asked = wanted.map(|ip| ip.to_bits().wrapping_sub(first) as usize);
            let free = |i: &usize| self.leases.get(*i) == Some(&None) && usable(*i).is_some();
            asked.filter(free).or_else(|| (0..LEASES).find(free))
        })?;
        self.leases[index] = Some(mac);
        usable(index)
    }

    /// Takes what came to port 67.
    pub(crate) fn input(&mut self, data: &[u8], cx: &mut Cx<'_>) {
        let Some(n) = cx.config.ipv4 else { return };
        let Ok(packet) = DhcpPacket::new_checked(data) else { return };
        if data[0] != 1 || data[1] != 1 || data[2] != 6 {
            return;
        }
        let mac = packet.client_hardware_address().0;
        let mut r = Request { kind: None, wanted: None, server: None };
        if packet.magic_number() == 0x6382_5363 {
            for option in packet.options() {
                let ip = <[u8; 4]>::try_from(option.data).ok().map(Ipv4Addr::from);
                match option.kind {
                    50 => r.wanted = ip,
                    53 => r.kind = option.data.first().copied(),
                    54 => r.server = ip,
                    _ => {}
                }
            }
        }
        let answer = match r.kind {
            Some(message::RELEASE | message::DECLINE) => {
                self.leases.iter_mut().filter(|l| **l == Some(mac)).for_each(|l| *l = None);
                return;
            }
            Some(message::INFORM) => Some((message::ACK, None)),
            // Of another server's offer.
            Some(message::REQUEST) if r.server.is_some_and(|s| s != n.host) => return,
            kind => {
                let Some(ip) = self.lease(mac, r.wanted, cx) else { return };
                let known = Some(packet.client_ip()).filter(|ip| !ip.is_unspecified());
                match kind {
                    Some(message::DISCOVER) => Some((message::OFFER, Some(ip))),
                    Some(message::REQUEST) if r.wanted.or(known).is_some_and(|w| w != ip) => {
                        Some((message::NAK, None))
                    }
                    Some(message::REQUEST) => Some((message::ACK, Some(ip))),
                    Some(_) => None,
                    // BOOTP.
                    None => Some((0, Some(ip))),
                }
            }
        };
        if let Some((kind, ip)) = answer {
            if let Some(ip) = ip {
                cx.out.learn(ip.into(), mac);
            }
            let bytes = answer_bytes(data, kind, ip, cx);
            let from = SocketAddr::new(n.host.into(), 67);
            cx.out.udp(from, SocketAddr::new(Ipv4Addr::BROADCAST.into(), 68), &bytes);
        }
    }
}

fn answer_bytes(request: &[u8], kind: u8, ip: Option<Ipv4Addr>, cx: &mut Cx<'_>) -> Vec<u8> {
    let mut b = vec![0; 240];
    // Operation, hardware and its length; the client's number, flags, relay and hardware address.
    b[..3].copy_from_slice(&[2, 1, 6]);
    b[4..8].copy_from_slice(&request[4..8]);
    b[10..16].copy_from_slice(&request[10..16]);
    b[24..44].copy_from_slice(&request[24..44]);
    b[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    let Some(n) = cx.config.ipv4 else { return b };
    if let Some(ip) = ip {
        b[16..20].copy_from_slice(&ip.octets());
    }
    let mut put = |code: u8, data: &[u8]| {
        // Longer ones go in pieces (RFC 3396).
        for piece in data.chunks(255) {
            b.extend([code, piece.len() as u8]);
            b.extend(piece);
        }
    };
    if kind != 0 {
        put(53, &[kind]);
        put(54, &n.host.octets());
    }
    if kind == message::NAK {
        put(56, b"requested address not available");
    } else {
        put(1, &n.mask().octets());
        if !cx.config.restrict {
            put(3, &n.host.octets());
            put(6, &n.dns.octets());
        }
        if kind != 0 && ip.is_some() {
            put(51, &LIFE.to_be_bytes());
        }
        if cx.out.mtu() != 1500 {
            put(26, &(cx.out.mtu() as u16).to_be_bytes());
        }
        if let Some(name) = &cx.config.hostname {
            put(12, name.as_bytes());
        }
        if let Some(domain) = &cx.config.domain {
            put(15, domain.as_bytes());
        }
        if let Some(name) = &cx.config.tftp_server_name {
            put(66, name.as_bytes());
        }
        let search = search(cx);
        if !search.is_empty() {
            put(119, &search);
        }
    }
    b.push(255);
    if kind != message::NAK {
        b[20..24].copy_from_slice(&n.host.octets());
        if let Some(file) = &cx.config.bootfile {
            b[108..108 + file.len()].copy_from_slice(file.as_bytes());
        }
    }
    // BOOTP's least length.
    b.resize(b.len().max(300), 0);
    b
}

/// Answers a request for information of a DHCPv6 client.
pub(crate) fn v6(src: SocketAddr, data: &[u8], cx: &mut Cx<'_>) {
    let (Some(n), IpAddr::V6(_)) = (cx.config.ipv6, src.ip()) else { return };
    let [11, a, b, c, options @ ..] = data else { return };
    let mut answer = vec![7, *a, *b, *c];
    let mut put = |code: u16, data: &[u8]| {
        answer.extend(code.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    };
    let mut rest = options;
    while let [k1, k2, l1, l2, tail @ ..] = rest {
        let (kind, length) = (u16::from_be_bytes([*k1, *k2]), usize::from(u16::from_be_bytes([*l1, *l2])));
        let Some(value) = tail.get(..length) else { return };
        if kind == 1 {
            put(1, value);
        }
        rest = &tail[length..];
    }
    let mut duid = vec![0, 3, 0, 1];
    duid.extend(MAC);
    put(2, &duid);
    if !cx.config.restrict {
        put(23, &n.dns.octets());
    }
    let search = search(cx);
    if !search.is_empty() && !cx.config.restrict {
        put(24, &search);
    }
    if let Some(file) = &cx.config.bootfile {
        // RFC 5970, 3.1.
        put(59, format!("tftp://[{}]/{}", n.host, file.trim_start_matches('/')).as_bytes());
    }
    let from: Ipv6Addr = crate::nat::LINK_LOCAL;
    cx.out.udp(SocketAddr::new(from.into(), 547), src, &answer);
}
