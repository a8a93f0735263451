//! Who has which address: ARP (RFC 826), neighbour discovery and router advertisements (RFC 4861, RFC 8106).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpProtocol};

use crate::nat::{LINK_LOCAL, Owner};
use crate::out::{MAC, transport_sum};
use crate::worker::Cx;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Life of what a router advertises, in seconds.
const LIFE: u32 = 1800;

/// Whether an address is one of ours.
fn is_ours(ip: IpAddr, cx: &Cx<'_>) -> bool {
    matches!(cx.nat.owner(ip), Owner::Host | Owner::Dns)
        || cx.config.guest_forwards.iter().any(|f| IpAddr::V4(f.ip) == ip)
}

/// Takes an ARP packet.
pub(crate) fn arp(bytes: &[u8], cx: &mut Cx<'_>) {
    let Ok(packet) = ArpPacket::new_checked(bytes) else { return };
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: from,
        target_protocol_addr: wanted,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    if cx.config.ipv4.is_some_and(|n| n.contains(from)) && !is_ours(from.into(), cx) {
        cx.out.learn(from.into(), mac.0);
    }
    if operation == ArpOperation::Request && is_ours(wanted.into(), cx) && from != wanted {
        send_arp(ArpOperation::Reply, wanted, (mac, from), cx);
    }
}

fn send_arp(operation: ArpOperation, us: Ipv4Addr, to: (EthernetAddress, Ipv4Addr), cx: &mut Cx<'_>) {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(MAC),
        source_protocol_addr: us,
        target_hardware_addr: to.0,
        target_protocol_addr: to.1,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    let mac = if operation == ArpOperation::Request { [0xff; 6] } else { to.0.0 };
    cx.out.ethernet(mac, 0x0806, &bytes);
}

/// Asks who has an address.
pub(crate) fn solicit(ip: IpAddr, cx: &mut Cx<'_>) {
    match ip {
        IpAddr::V4(ip) => {
            if let Some(n) = cx.config.ipv4 {
                send_arp(ArpOperation::Request, n.host, (EthernetAddress([0; 6]), ip), cx);
            }
        }
        IpAddr::V6(ip) => {
            let o = ip.octets();
            let group = Ipv6Addr::new(
                0xff02,
                0,
                0,
                0,
                0,
                1,
                0xff00 | u16::from(o[13]),
                u16::from_be_bytes([o[14], o[15]]),
            );
            let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
            message.extend(o);
            message.extend([1, 1]);
            message.extend(MAC);
            icmpv6(LINK_LOCAL, group, message, cx);
        }
    }
}

/// Sends an ICMPv6 message, whose checksum is filled in.
pub(crate) fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, mut message: Vec<u8>, cx: &mut Cx<'_>) {
    let (src, dst) = (IpAddr::V6(src), IpAddr::V6(dst));
    message[2..4].fill(0);
    let sum = !transport_sum(src, dst, IpProtocol::Icmpv6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    cx.out.ip(src, dst, IpProtocol::Icmpv6, &message);
}

/// The link-layer address among a message's options.
fn link_address(mut options: &[u8], kind: u8) -> Option<[u8; 6]> {
    while let [k, length, ..] = *options {
        let length = usize::from(length) * 8;
        let option = options.get(..length).filter(|o| !o.is_empty())?;
        if k == kind {
            return option.get(2..8)?.try_into().ok();
        }
        options = &options[length..];
    }
    None
}

/// Takes a neighbour solicitation from `src`.
pub(crate) fn solicited(src: Ipv6Addr, message: &[u8], cx: &mut Cx<'_>) {
    let Some(target) = message.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()) else { return };
    let target = Ipv6Addr::from(target);
    if let (Some(mac), false) = (link_address(&message[24..], 1), src.is_unspecified()) {
        cx.out.learn(src.into(), mac);
    }
    if !is_ours(target.into(), cx) {
        return;
    }
    // Router, solicited, override; who looks for duplicates has no address yet and is told by multicast.
    let (to, flags) = if src.is_unspecified() { (ALL_NODES, 0xa0) } else { (src, 0xe0) };
    let mut answer = vec![136, 0, 0, 0, flags, 0, 0, 0];
    answer.extend(target.octets());
    answer.extend([2, 1]);
    answer.extend(MAC);
    icmpv6(target, to, answer, cx);
}

/// Takes a neighbour advertisement.
pub(crate) fn advertised(message: &[u8], cx: &mut Cx<'_>) {
    let target = message.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(Ipv6Addr::from);
    if let (Some(target), Some(mac)) = (target, message.get(24..).and_then(|o| link_address(o, 2)))
        && !is_ours(target.into(), cx)
    {
        cx.out.learn(target.into(), mac);
    }
}

/// Answers a router solicitation.
pub(crate) fn advertise_router(cx: &mut Cx<'_>) {
    let Some(n) = cx.config.ipv6 else { return };
    // "Other configuration" by DHCPv6.
    let mut m = vec![134, 0, 0, 0, 64, 0x40];
    m.extend((LIFE as u16).to_be_bytes());
    m.extend([0; 8]);
    m.extend([1, 1]);
    m.extend(MAC);
    m.extend([5, 1, 0, 0]);
    m.extend((cx.out.mtu() as u32).to_be_bytes());
    // The prefix is on the link, and hosts make addresses in it.
    m.extend([3, 4, n.prefix, 0xc0]);
    m.extend(86400u32.to_be_bytes());
    m.extend(14400u32.to_be_bytes());
    m.extend([0; 4]);
    m.extend(n.net.octets());
    m.extend([25, 3, 0, 0]);
    m.extend(LIFE.to_be_bytes());
    m.extend(n.dns.octets());
    let mut search = crate::dhcp::search(cx);
    if !search.is_empty() {
        search.resize(search.len().next_multiple_of(8), 0);
        m.extend([31, (1 + search.len() / 8) as u8, 0, 0]);
        m.extend(LIFE.to_be_bytes());
        m.extend(search);
    }
    icmpv6(LINK_LOCAL, ALL_NODES, m, cx);
}
