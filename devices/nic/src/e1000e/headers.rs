//! What a frame that came in is: where its headers end, whether its checksums hold, and its hash (82574L datasheet, 7.1.6,
//! 7.1.8, 7.1.9).

use net::{Flow, FlowPorts, RSS_KEY};

use super::registers::reg;
use crate::checksum;
use crate::intel::values::Values;

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Receive checksum control: of the header, of the payload; the descriptor has the hash instead of the checksum.
const IP_CHECKSUM: u32 = 1 << 8;
const CHECKSUM: u32 = 1 << 9;
pub(super) const HASHES: u32 = 1 << 13;

/// Status and errors as descriptors have them.
pub(super) mod status {
    pub(in super::super) const NOT_CHECKED: u32 = 1 << 2;
    pub(super) const UDP: u32 = 1 << 4;
    pub(super) const TCP: u32 = 1 << 5;
    pub(super) const IP: u32 = 1 << 6;
    pub(super) const TCP_ERROR: u32 = 0x20 << 24;
    pub(super) const IP_ERROR: u32 = 0x40 << 24;
}

/// A packet of the Internet Protocol right after Ethernet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    v6: bool,
    /// What is behind the packet's header, if it begins here.
    protocol: Option<u8>,
    payload: usize,
    end: usize,
    /// Identification of the packet.
    pub(super) id: u16,
}

impl Headers {
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        let word = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                let payload = usize::from(ip.first()? & 15) * 4;
                let whole = word(6)? & 0x3fff == 0;
                let protocol = Some(*ip.get(9)?).filter(|_| whole);
                let end = ETHERNET + usize::from(word(2)?);
                let known = payload >= 20 && end <= frame.len() && ETHERNET + payload <= end;
                let id = word(4)?;
                known.then_some(Headers { v6: false, protocol, payload: ETHERNET + payload, end, id })
            }
            [0x86, 0xdd] => {
                let end = ETHERNET + 40 + usize::from(word(4)?);
                let protocol = Some(*ip.get(6)?);
                let known = end <= frame.len();
                known.then_some(Headers { v6: true, protocol, payload: ETHERNET + 40, end, id: 0 })
            }
            _ => None,
        }
    }

    /// Length of all headers, if there are those of TCP or UDP.
    pub(super) fn length(&self, frame: &[u8]) -> Option<usize> {
        let length = match self.protocol? {
            TCP => self.payload + usize::from(frame.get(self.payload + 12)? >> 4) * 4,
            UDP => self.payload + 8,
            _ => return None,
        };
        (length <= self.end).then_some(length)
    }

    /// Whether the sum over payload and pseudo-header holds; nothing if there is none.
    fn sum_holds(&self, frame: &[u8]) -> Option<(u8, bool)> {
        let protocol = self.protocol.filter(|p| [TCP, UDP].contains(p))?;
        let data = frame.get(self.payload..self.end)?;
        // A datagram without a checksum.
        if protocol == UDP && data.get(6..8)? == [0, 0] {
            return None;
        }
        let addresses = if self.v6 { 22..54 } else { 26..34 };
        let seed = checksum::sum(frame.get(addresses)?, u32::from(protocol) + data.len() as u32);
        Some((protocol, checksum::sum(data, seed) & 0xffff == 0xffff))
    }

    /// Status and errors by the checks that the driver wants.
    pub(super) fn check(&self, r: &Values, frame: &[u8]) -> u32 {
        let wanted = r.get(reg::RXCSUM);
        let mut found = 0;
        if wanted & IP_CHECKSUM != 0 && !self.v6 {
            let holds = checksum::sum(frame.get(ETHERNET..self.payload).unwrap_or_default(), 0) == 0xffff;
            found |= status::IP | if holds { 0 } else { status::IP_ERROR };
        }
        if wanted & CHECKSUM != 0
            && let Some((protocol, holds)) = self.sum_holds(frame)
        {
            found |= status::TCP | if protocol == UDP { status::UDP } else { 0 };
            found |= if holds { 0 } else { status::TCP_ERROR };
        }
        if found == 0 { status::NOT_CHECKED } else { found }
    }
}

/// A frame's hash, its type, and the queue it chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hash {
    pub(super) value: u32,
    pub(super) kind: u32,
    pub(super) queue: usize,
}

impl Hash {
    /// Nothing if the driver wants none of this type.
    pub(super) fn of(r: &Values, frame: &[u8]) -> Option<Self> {
        let control = r.get(reg::MRQC);
        if control & 3 != 1 {
            return None;
        }
        let flow = Flow::of(frame)?;
        let tcp = flow.ports == Some(FlowPorts::Tcp);
        // Types by the bits that allow them: with ports, and addresses alone.
        let (with_ports, plain) = if flow.v6 {
            ([(18, 3)], [(19, 4), (20, 5)].as_slice())
        } else {
            ([(16, 1)], [(17, 2)].as_slice())
        };
        let allowed =
            |types: &[(u32, u32)]| types.iter().find(|(bit, _)| control >> bit & 1 != 0).map(|t| t.1);
        let ports = allowed(&with_ports).filter(|_| tcp);
        let kind = ports.or_else(|| allowed(plain))?;
        let mut key = [0; RSS_KEY];
        for (i, word) in key.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&r.get(reg::RSSRK + 4 * i as u32).to_le_bytes());
        }
        let value = flow.hash(&key, ports.is_some());
        let entry = value & 127;
        let queue = r.get(reg::RETA + (entry & !3)) >> (8 * (entry & 3)) >> 7 & 1;
        Some(Hash { value, kind, queue: queue as usize })
    }
}
