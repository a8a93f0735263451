//! Receive-side scaling and hash reports (virtio 1.2, 5.1.6.4.3 and 5.1.6.5.6).
//!
//! A hash of a frame's addresses and ports (Toeplitz, by a key of the driver's) chooses the queue by a table of the
//! driver's, and is reported in the frame's header if that was agreed on. Hash types that look into IPv6 extension
//! headers are not offered.

use ::device::{Bytes, StateError};
use ::net::{Flow, FlowPorts};

use crate::chain::Chain;

pub(super) use ::net::RSS_KEY as KEY;
/// Entries of the table at most; a power of two.
pub(super) const TABLE: usize = 128;

/// Hash types, as bits of a mask.
mod types {
    pub(super) const IPV4: u32 = 1 << 0;
    pub(super) const TCPV4: u32 = 1 << 1;
    pub(super) const UDPV4: u32 = 1 << 2;
    pub(super) const IPV6: u32 = 1 << 3;
    pub(super) const TCPV6: u32 = 1 << 4;
    pub(super) const UDPV6: u32 = 1 << 5;
}

/// All types that are offered.
pub(super) const TYPES: u32 =
    types::IPV4 | types::TCPV4 | types::UDPV4 | types::IPV6 | types::TCPV6 | types::UDPV6;

/// How the driver wants frames to be hashed and spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rss {
    types: u32,
    /// Queues by hash; without it hashes are only reported.
    table: Vec<u16>,
    /// Queue of what has no hash.
    unclassified: u16,
    key: [u8; KEY],
}

/// A frame's hash, and the type it is reported as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hash {
    pub(super) value: u32,
    pub(super) report: u16,
}

::device::state! {
    /// Saved [`Rss`].
    pub(super) struct SavedRss {
        1 => types: u32, 2 => table: Bytes, 3 => unclassified: u16, 4 => key: Bytes,
    }
}

fn key(chain: &mut Chain) -> Option<[u8; KEY]> {
    let [length] = chain.read_array()?;
    let mut key = [0; KEY];
    let length = usize::from(length);
    (length <= KEY && chain.read(key.get_mut(..length)?) == length).then_some(key)
}

impl Rss {
    /// Reads `virtio_net_rss_config`. Queues are those of `pairs` pairs; the number of pairs that the driver sends on
    /// is returned too.
    pub(super) fn read(chain: &mut Chain, pairs: u16) -> Option<(Self, u16)> {
        let types = u32::from_le_bytes(chain.read_array()?);
        let word = |chain: &mut Chain| chain.read_array().map(u16::from_le_bytes);
        let mask = word(chain)?;
        let unclassified = word(chain)?;
        let length = usize::from(mask) + 1;
        (length.is_power_of_two() && length <= TABLE && types & !TYPES == 0).then_some(())?;
        let table: Vec<u16> = (0..length).map_while(|_| word(chain)).collect();
        let senders = word(chain)?;
        let key = key(chain)?;
        let fits = table.len() == length
            && table.iter().chain([&unclassified]).all(|q| *q < pairs)
            && (1..=pairs).contains(&senders);
        fits.then_some((Rss { types, table, unclassified, key }, senders))
    }

    /// Reads `virtio_net_hash_config`.
    pub(super) fn read_hash(chain: &mut Chain) -> Option<Self> {
        let types = u32::from_le_bytes(chain.read_array()?);
        chain.read_array::<8>()?;
        let key = key(chain)?;
        (types & !TYPES == 0).then_some(Rss { types, table: Vec::new(), unclassified: 0, key })
    }

    /// The hash of a frame: of ports too, if its protocol's type is wanted, else of addresses alone.
    pub(super) fn hash(&self, frame: &[u8]) -> Hash {
        let Some(flow) = Flow::of(frame) else { return Hash::default() };
        let (plain, with_ports) = types_of(&flow);
        let (kind, ports) = match with_ports.filter(|t| self.types & t != 0) {
            Some(with_ports) => (with_ports, true),
            None if self.types & plain != 0 => (plain, false),
            None => return Hash::default(),
        };
        Hash { value: flow.hash(&self.key, ports), report: kind.trailing_zeros() as u16 + 1 }
    }

    /// The queue for a frame with this hash; none if hashes are only reported.
    pub(super) fn queue(&self, hash: Hash) -> Option<u16> {
        let mask = self.table.len().checked_sub(1)?;
        if hash.report == 0 {
            return Some(self.unclassified);
        }
        self.table.get(hash.value as usize & mask).copied()
    }

    pub(super) fn save(&self) -> SavedRss {
        SavedRss {
            types: self.types,
            table: Bytes(self.table.iter().flat_map(|q| q.to_le_bytes()).collect()),
            unclassified: self.unclassified,
            key: Bytes(self.key.to_vec()),
        }
    }

    pub(super) fn restore(saved: &SavedRss, pairs: u16) -> Result<Self, StateError> {
        let (words, rest) = saved.table.0.as_chunks::<2>();
        let table: Vec<u16> = words.iter().map(|w| u16::from_le_bytes(*w)).collect();
        let length = table.len();
        let shaped = rest.is_empty() && length <= TABLE && (length == 0 || length.is_power_of_two());
        if !shaped || table.iter().chain([&saved.unclassified]).any(|q| *q >= pairs) {
            return Err(StateError::new("table", format!("expected a power of two of queues below {pairs}")));
        }
        let key = saved.key.0.as_slice().try_into();
        Ok(Rss {
            types: StateError::at_most("types", saved.types, TYPES)?,
            table,
            unclassified: saved.unclassified,
            key: key.map_err(|_| StateError::new("key", format!("expected {KEY} bytes")))?,
        })
    }
}

/// A flow's type without ports, and with them if it has any.
fn types_of(flow: &Flow) -> (u32, Option<u32>) {
    let [plain, tcp, udp] = if flow.v6 {
        [types::IPV6, types::TCPV6, types::UDPV6]
    } else {
        [types::IPV4, types::TCPV4, types::UDPV4]
    };
    let with_ports = flow.ports.map(|ports| match ports {
        FlowPorts::Tcp => tcp,
        FlowPorts::Udp => udp,
    });
    (plain, with_ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the values that Microsoft publishes for those who implement this ("Verifying the RSS hash").
    const SAMPLE_KEY: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn v4(protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend([66, 9, 149, 187, 161, 142, 100, 80]);
        frame.extend(2794u16.to_be_bytes());
        frame.extend(1766u16.to_be_bytes());
        frame
    }

    fn v6(protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
        for address in ["3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1"] {
            frame.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        frame.extend(2794u16.to_be_bytes());
        frame.extend(1766u16.to_be_bytes());
        frame
    }

    #[test]
    fn published_hashes() {
        let mut rss = Rss { types: TYPES, table: vec![0, 1, 2, 3], unclassified: 5, key: SAMPLE_KEY };
        let all = [(v4(6), 0x51cc_c178, 2), (v4(17), 0x51cc_c178, 3), (v4(1), 0x323e_8fc2, 1)];
        let more = [(v6(6), 0x4020_7d3d, 5), (v6(17), 0x4020_7d3d, 6), (v6(58), 0x2cc1_8cd5, 4)];
        for (frame, value, report) in all.into_iter().chain(more) {
            assert_eq!(rss.hash(&frame), Hash { value, report });
            assert_eq!(rss.queue(rss.hash(&frame)), Some((value & 3) as u16));
        }
        rss.types = types::IPV4;
        assert_eq!(rss.hash(&v4(6)), Hash { value: 0x323e_8fc2, report: 1 });
        assert_eq!(rss.hash(&v6(6)), Hash::default());
        assert_eq!(rss.queue(rss.hash(&v6(6))), Some(5));
        for length in 0..60 {
            let frame: Vec<u8> = v4(6).into_iter().cycle().take(length).collect();
            rss.hash(&frame);
            rss.hash(&v6(6)[..length.min(58)]);
        }
        assert_eq!(Rss::restore(&rss.save(), 6).unwrap(), rss);
        assert!(Rss::restore(&rss.save(), 5).is_err());
    }
}
