//! Checksums that a back end leaves out, as its header says, for guests that do not see the header.
//!
//! Sources: virtio 1.2, 5.1.6 (flags); RFC 1071; RFC 9293, 3.1 and RFC 8200, 8.1 (pseudo-headers).

/// The checksum is to be completed, or is to be taken as good.
const LEFT_OUT: u8 = 1 | 2;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Fills in the checksum of TCP or UDP if the header before the frame says that it is not there.
pub(super) fn complete(header: &[u8], frame: &mut [u8]) {
    if header.first().is_some_and(|flags| flags & LEFT_OUT != 0) {
        // What is no such packet has no checksum that anybody looks at.
        let _ = fill(frame);
    }
}

fn fill(frame: &mut [u8]) -> Option<()> {
    let kind: [u8; 2] = frame.get(12..14)?.try_into().ok()?;
    let ip = frame.get_mut(14..)?;
    let (protocol, addresses, from, to) = match kind {
        [0x08, 0x00] => {
            let fragment = ip.get(6)? & 0x3f != 0 || *ip.get(7)? != 0;
            let (from, to) = (usize::from(ip[0] & 0xf) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])));
            (Some(*ip.get(9)?).filter(|_| !fragment)?, 12..20, from, to)
        }
        [0x86, 0xdd] => (*ip.get(6)?, 8..40, 40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]))),
        _ => return None,
    };
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let pseudo = sum(ip.get(addresses)?) + u64::from(protocol) + to.checked_sub(from)? as u64;
    let packet = ip.get_mut(from..to)?;
    packet.get_mut(at..at + 2)?.fill(0);
    let mut whole = pseudo + sum(packet);
    while whole > 0xffff {
        whole = (whole & 0xffff) + (whole >> 16);
    }
    let value = match !(whole as u16) {
        // Zero would say that there is none.
        0 if protocol == UDP => 0xffff,
        value => value,
    };
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// Sum of big-endian words, an odd byte at the end being the upper half of one.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |b| u64::from(*b) << 8);
    words.iter().map(|w| u64::from(u16::from_be_bytes(*w))).sum::<u64>() + last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(frame: &[u8], from: usize, addresses: &[u8], protocol: u8) -> bool {
        let packet = &frame[from..];
        let mut whole = sum(packet) + sum(addresses) + u64::from(protocol) + packet.len() as u64;
        while whole > 0xffff {
            whole = (whole & 0xffff) + (whole >> 16);
        }
        whole == 0xffff
    }

    #[test]
    fn what_was_left_out_is_filled_in() {
        for (protocol, length) in [(TCP, 21), (UDP, 9), (TCP, 20)] {
            let mut four = vec![0; 12];
            four.extend([
                8,
                0,
                0x45,
                0,
                0,
                20 + length,
                0,
                0,
                0x40,
                0,
                64,
                protocol,
                0,
                0,
                10,
                0,
                2,
                2,
                10,
                0,
                2,
                15,
            ]);
            four.extend((0..length).map(|i| i * 11));
            let mut six = vec![0; 12];
            six.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, protocol, 64]);
            six.extend((0..32).map(|i| i * 5));
            six.extend((0..length).map(|i| i * 7));
            for (frame, from, addresses) in [(&mut four, 34, 26..34), (&mut six, 54, 22..54)] {
                let before = frame.clone();
                complete(&[0; 12], frame);
                assert_eq!(*frame, before, "nothing was left out");
                for flags in [1, 2] {
                    complete(&[flags; 12], frame);
                    assert!(verified(frame, from, &frame[addresses.clone()], protocol));
                }
            }
        }
        // Anything else stays as it is, and nothing is read beyond the end.
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x4f, 0, 0xff, 0xff, 0, 0, 0, 0, 64, TCP, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for length in 0..frame.len() {
            let mut part = frame[..length].to_vec();
            complete(&[1], &mut part);
            assert_eq!(part, frame[..length]);
        }
    }
}
