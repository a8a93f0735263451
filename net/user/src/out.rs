//! The way to the guest: frames with virtio-net's header, Ethernet and IP in front.
//!
//! Sources: virtio 1.2, section 5.1.6 (header); RFC 791 (IPv4 and its fragments), RFC 8200 (IPv6).
//!
//! Invariant: `pending` holds only small control frames, at most [`PENDING`]; data is not made while the guest has no
//! room for it.

mod merge;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smoltcp::wire::{IpProtocol, checksum};

use self::merge::Merge;
use crate::{Shared, sum};

/// Length of virtio-net's header, which is before each frame.
pub(crate) const VNET: usize = 12;
/// Length of Ethernet's header.
pub(crate) const ETHERNET: usize = 14;
/// Room before the payload of a TCP segment for all headers.
pub(crate) const HEADROOM: usize = 128;

/// The checksum field holds the pseudo-header's sum only.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;
/// The bit beside a kind of segmentation that says nothing about it.
const GSO_ECN: u8 = 0x80;
/// Feature bits of what a guest takes.
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;

const PENDING: usize = 1024;
/// Size of a buffer for payload: the longest segment's.
pub(crate) const BUFFER: usize = HEADROOM + 65535;
/// Buffers kept for the next segments.
const SPARE: usize = 32;
/// Neighbours remembered.
const NEIGHBOURS: usize = 256;

/// Our own Ethernet address: the locally administered one that QEMU's user network has.
pub(crate) const MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];

/// What a guest leaves to us in a frame, as its virtio-net header says.
pub(crate) struct Left {
    /// The checksum of the transport.
    pub(crate) sum: bool,
    /// To cut the payload into datagrams of this size.
    pub(crate) datagrams: Option<usize>,
}

impl Left {
    pub(crate) fn of(head: &[u8; VNET]) -> Self {
        let size = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let datagrams = (head[1] & !GSO_ECN == GSO_UDP && size > 0).then_some(size);
        Left { sum: head[0] & NEEDS_CSUM != 0, datagrams }
    }
}

/// The outgoing side.
pub(crate) struct Out {
    shared: Arc<Shared>,
    neighbours: HashMap<IpAddr, [u8; 6]>,
    last: [u8; 6],
    pending: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    mtu: usize,
    /// Smaller ones on the way to some addresses.
    narrow: HashMap<IpAddr, usize>,
    ident: u16,
    merge: Option<Merge>,
}

/// Writes an IP header: `h` is as long as one without options is. For IPv4 `(ident, fragment)` are the fields of these names.
pub(crate) fn ip_header(
    h: &mut [u8],
    (src, dst): (IpAddr, IpAddr),
    protocol: IpProtocol,
    length: usize,
    (ident, fragment): (u16, u16),
) {
    h.fill(0);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            h[0] = 0x45;
            put16(h, 2, (20 + length) as u16);
            put16(h, 4, ident);
            put16(h, 6, fragment);
            h[8] = 64;
            h[9] = protocol.into();
            h[12..16].copy_from_slice(&src.octets());
            h[16..20].copy_from_slice(&dst.octets());
            let sum = !sum::data(h);
            put16(h, 10, sum);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            h[0] = 0x60;
            put16(h, 4, length as u16);
            h[6] = protocol.into();
            // Neighbour discovery demands the largest.
            h[7] = if protocol == IpProtocol::Icmpv6 { 255 } else { 64 };
            h[8..24].copy_from_slice(&src.octets());
            h[24..40].copy_from_slice(&dst.octets());
        }
        // The two ends of a flow are of one family.
        _ => {}
    }
}

/// What a TCP segment's header says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcpHead {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// The flags byte.
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// The urgent pointer.
    pub(crate) urgent: u16,
    /// Maximum segment size and window scale, on SYN.
    pub(crate) options: Option<(u16, Option<u8>)>,
}

/// TCP's flags.
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const URG: u8 = 32;
}

fn put16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Out {
    pub(crate) fn new(shared: Arc<Shared>, mtu: u16) -> Self {
        Out {
            shared,
            neighbours: HashMap::new(),
            last: [0xff; 6],
            pending: VecDeque::new(),
            spare: Vec::new(),
            mtu: mtu.into(),
            narrow: HashMap::new(),
            ident: 0,
            merge: None,
        }
    }

    /// Largest IP packet.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Largest IP packet to an address.
    pub(crate) fn mtu_to(&self, ip: IpAddr) -> usize {
        self.narrow.get(&ip).copied().unwrap_or(self.mtu)
    }

    /// Somebody inside says that the way to an address takes no more than this; whether that is less than before.
    pub(crate) fn narrow(&mut self, ip: IpAddr, mtu: usize) -> bool {
        // Everything carries as much as this (RFC 1191, 3; RFC 8200, 5).
        let mtu = mtu.max(if ip.is_ipv4() { 576 } else { 1280 });
        let news = mtu < self.mtu_to(ip) && (self.narrow.len() < NEIGHBOURS || self.narrow.contains_key(&ip));
        if news {
            self.narrow.insert(ip, mtu);
        }
        news
    }

    /// A buffer with [`HEADROOM`] and room for the longest payload, of any content.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| vec![0; BUFFER])
    }

    /// Gives back what [`Out::buffer`] gave.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.len() == BUFFER && self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }

    /// Remembers who has an address.
    pub(crate) fn learn(&mut self, ip: IpAddr, mac: [u8; 6]) {
        if mac[0] & 1 != 0 {
            return;
        }
        self.last = mac;
        if self.neighbours.len() < NEIGHBOURS || self.neighbours.contains_key(&ip) {
            self.neighbours.insert(ip, mac);
        }
    }

    /// Whether somebody with the address has been heard of.
    pub(crate) fn knows(&self, ip: IpAddr) -> bool {
        self.neighbours.contains_key(&ip)
    }

    fn mac_of(&self, ip: IpAddr) -> [u8; 6] {
        match ip {
            IpAddr::V4(ip) if ip.is_broadcast() => [0xff; 6],
            IpAddr::V6(ip) if ip.is_multicast() => {
                let o = ip.octets();
                [0x33, 0x33, o[12], o[13], o[14], o[15]]
            }
            ip => self.neighbours.get(&ip).copied().unwrap_or(self.last),
        }
    }

    /// Whether the guest takes data.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.is_empty()
    }

    /// The guest may have room again.
    pub(crate) fn retry(&mut self) {
        while let Some(frame) = self.pending.front() {
            if !self.shared.receiver.offer(frame) {
                return;
            }
            self.pending.pop_front();
        }
    }

    /// Sends a frame that has its header, or keeps it until there is room.
    fn control(&mut self, frame: Vec<u8>) {
        if self.pending.is_empty() && self.shared.receiver.offer(&frame) {
            return;
        }
        if self.pending.len() < PENDING {
            self.pending.push_back(frame);
        }
    }

    /// Sends an Ethernet frame.
    pub(crate) fn ethernet(&mut self, to: [u8; 6], kind: u16, payload: &[u8]) {
        let mut frame = vec![0; VNET];
        frame.extend_from_slice(&to);
        frame.extend_from_slice(&MAC);
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(payload);
        // Shorter ones are padded, as on a wire.
        frame.resize(frame.len().max(VNET + 60), 0);
        self.control(frame);
    }

    /// Writes Ethernet's and IP's header so that they end at `end`; gives where they begin.
    fn headers(
        &mut self,
        frame: &mut [u8],
        end: usize,
        (src, dst): (IpAddr, IpAddr),
        protocol: IpProtocol,
        (length, fragment): (usize, u16),
    ) -> usize {
        let to = self.mac_of(dst);
        let (kind, at) = if src.is_ipv4() { (0x0800u16, end - 20) } else { (0x86dd, end - 40) };
        // Segments that are no fragments must not become any.
        let fragment = if fragment == 0 && protocol == IpProtocol::Tcp { 0x4000 } else { fragment };
        ip_header(&mut frame[at..end], (src, dst), protocol, length, (self.ident, fragment));
        let at = at - ETHERNET;
        frame[at..at + 6].copy_from_slice(&to);
        frame[at + 6..at + 12].copy_from_slice(&MAC);
        put16(frame, at + 12, kind);
        at
    }

    /// Sends an IP packet, in fragments if it exceeds the MTU.
    pub(crate) fn ip(&mut self, src: IpAddr, dst: IpAddr, protocol: IpProtocol, payload: &[u8]) {
        self.ident = self.ident.wrapping_add(1);
        let (header, mtu, v6) = (if src.is_ipv4() { 20 } else { 40 }, self.mtu_to(dst), src.is_ipv6());
        if payload.len() > 65535 - header {
            return;
        }
        let whole = payload.len() + header <= mtu;
        // IPv6 has a header of its own for fragments (RFC 8200, 4.5).
        let extra = if v6 && !whole { 8 } else { 0 };
        let most = if whole { payload.len().max(1) } else { (mtu - header - extra) & !7 };
        let mut offset = 0;
        loop {
            let piece = &payload[offset..payload.len().min(offset + most)];
            let more = offset + piece.len() < payload.len();
            let start = VNET + ETHERNET + header;
            let mut frame = vec![0; start];
            let (mut protocol, mut fragment) = (protocol, 0);
            if extra != 0 {
                frame.extend([protocol.into(), 0]);
                frame.extend((offset as u16 | u16::from(more)).to_be_bytes());
                frame.extend(u32::from(self.ident).to_be_bytes());
                protocol = IpProtocol::Ipv6Frag;
            } else if !whole {
                fragment = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            }
            frame.extend_from_slice(piece);
            self.headers(&mut frame, start, (src, dst), protocol, (extra + piece.len(), fragment));
            self.control(frame);
            offset += piece.len();
            if !more {
                return;
            }
        }
    }

    /// Sends a UDP datagram.
    pub(crate) fn udp(&mut self, src: SocketAddr, dst: SocketAddr, data: &[u8]) {
        let Ok(length) = u16::try_from(8 + data.len()) else { return };
        let mut packet = Vec::with_capacity(8 + data.len());
        for n in [src.port(), dst.port(), length, 0] {
            packet.extend_from_slice(&n.to_be_bytes());
        }
        packet.extend_from_slice(data);
        let sum = !transport_sum(src.ip(), dst.ip(), IpProtocol::Udp, &packet);
        // Zero would say that there is none.
        put16(&mut packet, 6, if sum == 0 { 0xffff } else { sum });
        self.ip(src.ip(), dst.ip(), IpProtocol::Udp, &packet);
    }

    /// Whether the guest takes TCP segments that are longer than its packets, to be cut there.
    pub(crate) fn takes_long(&self, v6: bool) -> bool {
        let wanted = GUEST_CSUM | if v6 { GUEST_TSO6 } else { GUEST_TSO4 };
        self.shared.offloads.load(Ordering::Relaxed) & wanted == wanted
    }

    /// Sends a TCP segment without payload.
    pub(crate) fn tcp_control(&mut self, src: SocketAddr, dst: SocketAddr, head: &TcpHead) {
        let mut frame = vec![0; HEADROOM];
        let at = self.tcp_headers(&mut frame, (src, dst), head, 0, None);
        frame.drain(..at);
        self.control(frame);
    }

    /// Sends the payload in `buffer[HEADROOM..]` as one frame; `false` if the guest has no room now. With `mss` the frame
    /// may be longer than the MTU, and whoever receives it knows where it would have been cut.
    pub(crate) fn tcp_data(
        &mut self,
        (src, dst): (SocketAddr, SocketAddr),
        head: &TcpHead,
        buffer: &mut [u8],
        mss: Option<u16>,
    ) -> bool {
        if !self.pending.is_empty() {
            return false;
        }
        let length = buffer.len() - HEADROOM;
        let at = self.tcp_headers(buffer, (src, dst), head, length, mss);
        self.shared.receiver.offer(&buffer[at..])
    }

    /// Writes all headers of a segment before `frame[HEADROOM..]`; gives where they begin.
    fn tcp_headers(
        &mut self,
        frame: &mut [u8],
        (src, dst): (SocketAddr, SocketAddr),
        head: &TcpHead,
        length: usize,
        mss: Option<u16>,
    ) -> usize {
        self.ident = self.ident.wrapping_add(1);
        let options = match head.options {
            None => 0,
            Some((_, None)) => 4,
            Some((_, Some(_))) => 8,
        };
        let at = HEADROOM - 20 - options;
        let h = &mut frame[at..HEADROOM];
        h.fill(0);
        put16(h, 0, src.port());
        put16(h, 2, dst.port());
        h[4..8].copy_from_slice(&head.seq.to_be_bytes());
        h[8..12].copy_from_slice(&head.ack.to_be_bytes());
        h[12] = (((20 + options) / 4) << 4) as u8;
        h[13] = head.flags;
        put16(h, 14, head.window);
        put16(h, 18, head.urgent);
        if let Some((size, scale)) = head.options {
            h[20..22].copy_from_slice(&[2, 4]);
            put16(h, 22, size);
            if let Some(scale) = scale {
                h[24..28].copy_from_slice(&[1, 3, 3, scale]);
            }
        }
        let (ips, whole) = ((src.ip(), dst.ip()), 20 + options + length);
        let partial = self.shared.offloads.load(Ordering::Relaxed) & GUEST_CSUM != 0;
        let sum = if partial {
            checksum::pseudo_header(&ips.0.into(), &ips.1.into(), IpProtocol::Tcp, whole as u32)
        } else {
            !transport_sum(ips.0, ips.1, IpProtocol::Tcp, &frame[at..])
        };
        put16(frame, at + 16, sum);
        let start = self.headers(frame, at, ips, IpProtocol::Tcp, (whole, 0));
        let vnet = start - VNET;
        let h = &mut frame[vnet..start];
        h.fill(0);
        if partial {
            h[0] = NEEDS_CSUM;
            h[6..8].copy_from_slice(&((at - start) as u16).to_le_bytes());
            h[8..10].copy_from_slice(&16u16.to_le_bytes());
        }
        if let Some(mss) = mss.filter(|m| length > usize::from(*m)) {
            h[1] = if ips.0.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 };
            h[2..4].copy_from_slice(&((HEADROOM - start) as u16).to_le_bytes());
            h[4..6].copy_from_slice(&mss.to_le_bytes());
        }
        vnet
    }
}

/// Sum over the pseudo-header and a transport packet; all ones if the packet's checksum is right.
pub(crate) fn transport_sum(src: IpAddr, dst: IpAddr, protocol: IpProtocol, packet: &[u8]) -> u16 {
    let pseudo = checksum::pseudo_header(&src.into(), &dst.into(), protocol, packet.len() as u32);
    checksum::combine(&[pseudo, sum::data(packet)])
}
