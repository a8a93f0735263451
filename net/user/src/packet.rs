//! What comes from the guest, taken apart: Ethernet, IPv4 and IPv6 with their fragments.
//!
//! Sources: RFC 791, RFC 8200 (extension headers, section 4), RFC 815 (reassembly).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

/// Datagrams put together at a time.
const PARTIAL: usize = 16;
/// Time for all of one to come.
const LIFE: Duration = Duration::from_secs(15);
/// Most pieces of one.
const PIECES: usize = 64;

/// An IP packet.
pub(crate) struct Packet<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) payload: &'a [u8],
    /// How many routers it may pass.
    pub(crate) hops: u8,
    /// Routers may send it in fragments.
    pub(crate) fragments: bool,
    /// The IP header and what follows, for error messages that quote it.
    pub(crate) whole: &'a [u8],
}

/// A packet, or a part of one.
pub(crate) enum Parsed<'a> {
    Whole(Packet<'a>),
    Fragment(Fragment<'a>),
}

/// A part of a packet.
pub(crate) struct Fragment<'a> {
    key: (IpAddr, IpAddr, u32, u8),
    offset: usize,
    more: bool,
    hops: u8,
    data: &'a [u8],
}

/// Reads an IPv4 packet.
pub(crate) fn ipv4(bytes: &[u8]) -> Option<Parsed<'_>> {
    let p = Ipv4Packet::new_checked(bytes).ok()?;
    if p.version() != 4 || !p.verify_checksum() {
        return None;
    }
    let (src, dst) = (IpAddr::V4(p.src_addr()), IpAddr::V4(p.dst_addr()));
    let (header, total) = (usize::from(p.header_len()), usize::from(p.total_len()));
    let payload = bytes.get(header..total)?;
    if p.more_frags() || p.frag_offset() != 0 {
        let key = (src, dst, u32::from(p.ident()), p.next_header().into());
        let offset = p.frag_offset().into();
        let (more, hops) = (p.more_frags(), p.hop_limit());
        return Some(Parsed::Fragment(Fragment { key, offset, more, hops, data: payload }));
    }
    Some(Parsed::Whole(Packet {
        src,
        dst,
        protocol: p.next_header(),
        payload,
        hops: p.hop_limit(),
        fragments: !p.dont_frag(),
        whole: bytes.get(..total)?,
    }))
}

/// Reads an IPv6 packet.
pub(crate) fn ipv6(bytes: &[u8]) -> Option<Parsed<'_>> {
    let p = Ipv6Packet::new_checked(bytes).ok()?;
    if p.version() != 6 {
        return None;
    }
    let (src, dst) = (IpAddr::V6(p.src_addr()), IpAddr::V6(p.dst_addr()));
    let whole = bytes.get(..40 + usize::from(p.payload_len()))?;
    let (mut next, mut rest) = (u8::from(p.next_header()), whole.get(40..)?);
    loop {
        match next {
            // Hop-by-hop, routing and destination options: skipped.
            0 | 43 | 60 => {
                let length = (usize::from(*rest.get(1)?) + 1) * 8;
                next = *rest.first()?;
                rest = rest.get(length..)?;
            }
            44 => {
                let head = rest.get(..8)?;
                let field = u16::from_be_bytes([head[2], head[3]]);
                let id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                let (offset, more) = (usize::from(field & !7), field & 1 != 0);
                let key = (src, dst, id, head[0]);
                let (hops, data) = (p.hop_limit(), rest.get(8..)?);
                return Some(Parsed::Fragment(Fragment { key, offset, more, hops, data }));
            }
            _ => {
                return Some(Parsed::Whole(Packet {
                    src,
                    dst,
                    protocol: next.into(),
                    payload: rest,
                    hops: p.hop_limit(),
                    fragments: false,
                    whole,
                }));
            }
        }
    }
}

struct Partial {
    pieces: Vec<(usize, Vec<u8>)>,
    length: Option<usize>,
    until: Instant,
}

/// A datagram put together.
pub(crate) struct Assembled {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) hops: u8,
    pub(crate) data: Vec<u8>,
}

/// Puts datagrams together.
#[derive(Default)]
pub(crate) struct Reassembly(HashMap<(IpAddr, IpAddr, u32, u8), Partial>);

impl Reassembly {
    /// Takes a fragment; the whole if it was the last one missing.
    pub(crate) fn add(&mut self, f: &Fragment<'_>, now: Instant) -> Option<Assembled> {
        self.0.retain(|_, p| p.until > now);
        if f.data.is_empty() || f.offset + f.data.len() > 65535 || f.more && !f.data.len().is_multiple_of(8) {
            return None;
        }
        if self.0.len() >= PARTIAL && !self.0.contains_key(&f.key) {
            return None;
        }
        let partial = self.0.entry(f.key).or_insert_with(|| Partial {
            pieces: Vec::new(),
            length: None,
            until: now + LIFE,
        });
        let end = f.offset + f.data.len();
        let overlaps = partial.pieces.iter().any(|(at, data)| *at < end && f.offset < at + data.len());
        if overlaps || partial.pieces.len() >= PIECES {
            // Overlapping fragments are an attack or a fault (RFC 5722): the datagram is given up.
            self.0.remove(&f.key);
            return None;
        }
        if !f.more {
            partial.length = Some(end);
        }
        partial.pieces.push((f.offset, f.data.to_vec()));
        let have: usize = partial.pieces.iter().map(|(_, data)| data.len()).sum();
        if partial.length != Some(have) {
            return None;
        }
        let mut partial = self.0.remove(&f.key)?;
        partial.pieces.sort_by_key(|(at, _)| *at);
        let data = partial.pieces.into_iter().flat_map(|(_, data)| data).collect();
        let (src, dst, _, protocol) = f.key;
        Some(Assembled { src, dst, protocol: protocol.into(), hops: f.hops, data })
    }
}

/// Whether an address can be somebody's.
pub(crate) fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && ip != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => !ip.is_multicast() && ip != Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: u32, offset: usize, more: bool, data: &[u8]) -> Fragment<'_> {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Fragment { key: (ip, ip, id, 17), offset, more, hops: 64, data }
    }

    #[test]
    fn fragments_in_any_order() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        assert!(all.add(&piece(1, 8, false, &[2; 5]), now).is_none());
        assert!(all.add(&piece(2, 0, true, &[9; 8]), now).is_none());
        let whole = all.add(&piece(1, 0, true, &[1; 8]), now).unwrap();
        assert_eq!(whole.data, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        // Overlap gives the datagram up, and so does time.
        assert!(all.add(&piece(2, 0, true, &[9; 16]), now).is_none());
        assert!(all.add(&piece(2, 8, false, &[9; 8]), now).is_none());
        assert!(all.add(&piece(2, 0, true, &[9; 8]), now + LIFE * 2).is_none());
        for id in 10..100 {
            all.add(&piece(id, 0, true, &[0; 8]), now + LIFE * 3);
        }
        assert_eq!(all.0.len(), PARTIAL);
        assert!(all.add(&piece(1, 65528, false, &[0; 16]), now).is_none());
    }

    #[test]
    fn extension_headers_are_skipped() {
        let mut p = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        p.extend([0; 32]);
        p.extend([17, 0, 0, 0, 0, 0, 0, 0]);
        p.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        let Some(Parsed::Whole(got)) = ipv6(&p) else { panic!("not whole") };
        assert_eq!((got.protocol, got.payload), (IpProtocol::Udp, &[1, 2, 3, 4, 5, 6, 7, 8][..]));
        p[41] = 200;
        assert!(ipv6(&p).is_none());
    }
}
