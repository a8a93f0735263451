//! The hash by which cards spread frames over their queues, receive-side scaling: Toeplitz's, over addresses and ports
//! (Microsoft, "RSS hashing functions" and "Verifying the RSS hash calculation").

/// Length of a key: what a flow of IPv6 needs.
pub const RSS_KEY: usize = 40;

/// Protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowPorts {
    /// Those of TCP.
    Tcp,
    /// Those of UDP.
    Udp,
}

/// What can be hashed of a frame of the Internet Protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Of version 6.
    pub v6: bool,
    /// Whose ports it has; nothing in fragments.
    pub ports: Option<FlowPorts>,
    /// Addresses, then ports.
    input: Vec<u8>,
    addresses: usize,
}

impl Flow {
    /// The flow of a frame; none without an IP header right after Ethernet's.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        let (v6, protocol, addresses, rest) = match frame.get(12..14)? {
            [0x08, 0x00] => {
                let length = usize::from(ip.first()? & 0xf) * 4;
                let whole = ip.get(6..8)?[0] & 0x3f == 0 && ip[7] == 0;
                (false, ip.get(9).filter(|_| whole), ip.get(12..20)?, ip.get(length..))
            }
            [0x86, 0xdd] => (true, ip.get(6), ip.get(8..40)?, ip.get(40..)),
            _ => return None,
        };
        let kind = match protocol {
            Some(6) => Some(FlowPorts::Tcp),
            Some(17) => Some(FlowPorts::Udp),
            _ => None,
        };
        let ports = rest.and_then(|rest| rest.get(..4)).filter(|_| kind.is_some());
        Some(Flow {
            v6,
            ports: kind.filter(|_| ports.is_some()),
            input: [addresses, ports.unwrap_or_default()].concat(),
            addresses: addresses.len(),
        })
    }

    /// Its hash, of addresses and ports or of addresses alone.
    pub fn hash(&self, key: &[u8; RSS_KEY], ports: bool) -> u32 {
        let length = if ports { self.input.len() } else { self.addresses };
        toeplitz(key, self.input.get(..length).unwrap_or_default())
    }
}

/// For each bit of the input that is set, the 32 bits of the key that begin at its place.
fn toeplitz(key: &[u8; RSS_KEY], input: &[u8]) -> u32 {
    let mut window = u64::from(u32::from_be_bytes([key[0], key[1], key[2], key[3]]));
    let mut hash = 0;
    for (i, byte) in input.iter().enumerate() {
        window = window << 8 | u64::from(key.get(i + 4).copied().unwrap_or(0));
        for bit in 0..8 {
            if byte & 0x80 >> bit != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_and_stubs_have_no_ports() {
        let mut frame = vec![0; 14];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 0, 54]);
        assert_eq!(Flow::of(&frame).unwrap().ports, Some(FlowPorts::Udp));
        assert_eq!(Flow::of(&frame[..36]).unwrap().ports, None);
        frame[21] = 1;
        let flow = Flow::of(&frame).unwrap();
        assert_eq!((flow.v6, flow.ports), (false, None));
        assert_eq!(flow.hash(&[7; RSS_KEY], true), flow.hash(&[7; RSS_KEY], false));
        for length in 0..34 {
            assert_eq!(Flow::of(&frame[..length]), None);
        }
    }
}
