//! Descriptors of the C+ chip (datasheet, 8): 16 bytes each, in rings that a bit of the last one ends.

use super::{MAX_PACKET, PLUS_SEND, Rtl8139, SEND, cause, reg};
use crate::checksum;
use crate::frame::{MIN_FRAME, check_sequence};

const DESCRIPTOR: u64 = 16;
/// First word: the chip's, the ring's last, a frame's first and last.
const OWN: u32 = 1 << 31;
const RING_END: u32 = 1 << 30;
const FIRST: u32 = 1 << 29;
const LAST: u32 = 1 << 28;
/// Receiving: size of the buffer; what the frame was for.
const BUFFER: u32 = 0x1fff;
const MULTICAST: u32 = 1 << 26;
const OWN_ADDRESS: u32 = 1 << 25;
const BROADCAST: u32 = 1 << 24;
/// Sending: checksums of the packet's header and of what it carries, for the chip to insert.
const IP_CHECKSUM: u32 = 1 << 18;
const UDP_CHECKSUM: u32 = 1 << 17;
const TCP_CHECKSUM: u32 = 1 << 16;
/// Rings hold at most this many.
const RING: u32 = 64;

impl Rtl8139 {
    fn descriptor(&self, at: u64) -> Option<[u32; 4]> {
        let mut bytes = [0; DESCRIPTOR as usize];
        self.dma.read(at, &mut bytes).ok()?;
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Some([word(0), word(4), word(8), word(12)])
    }

    fn next(at: u32, first_word: u32) -> u32 {
        if first_word & RING_END != 0 { 0 } else { (at + 1) % RING }
    }

    fn receive_descriptor_at(&self) -> u64 {
        (self.u64(reg::RECEIVE_DESCRIPTORS) & !255).wrapping_add(u64::from(self.receive_at) * DESCRIPTOR)
    }

    /// Longest frame for which there is room, without its check sequence.
    pub(super) fn descriptor_room(&self) -> usize {
        let own = self.descriptor(self.receive_descriptor_at()).filter(|d| d[0] & OWN != 0);
        own.map_or(0, |d| ((d[0] & BUFFER) as usize).saturating_sub(4))
    }

    pub(super) fn store_by_descriptor(&mut self, mut frame: Vec<u8>) {
        let at = self.receive_descriptor_at();
        let Some(d) = self.descriptor(at) else { return };
        let whom = match frame.first_chunk::<6>() {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => BROADCAST,
            Some([first, ..]) if first & 1 != 0 => MULTICAST,
            Some(to) if self.r[..6] == to[..] => OWN_ADDRESS,
            _ => 0,
        };
        frame.resize(frame.len().max(MIN_FRAME), 0);
        let sequence = check_sequence(&frame);
        frame.extend(sequence);
        frame.truncate((d[0] & BUFFER) as usize);
        // A buffer that is not in memory loses the frame.
        let _ = self.dma.write(u64::from(d[2]) | u64::from(d[3]) << 32, &frame);
        let first = d[0] & RING_END | FIRST | LAST | whom | frame.len() as u32;
        let _ = self.dma.write(at.wrapping_add(4), &[0; 4]);
        let _ = self.dma.write(at, &first.to_le_bytes());
        self.receive_at = Self::next(self.receive_at, d[0]);
        self.raise(cause::RECEIVED);
    }

    /// Sends what the guest has given.
    pub(super) fn send_descriptors(&mut self) {
        if self.r[reg::COMMAND] & SEND == 0 || self.u16(reg::PLUS) & PLUS_SEND == 0 {
            return;
        }
        let mut sent = 0;
        // A ring may go round for ever only as long as the guest gives descriptors back.
        for _ in 0..4 * RING {
            if self.paused {
                break;
            }
            let at = (self.u64(reg::SEND_ADDRESS) & !255).wrapping_add(u64::from(self.send_at) * DESCRIPTOR);
            let Some(d) = self.descriptor(at).filter(|d| d[0] & OWN != 0) else {
                break;
            };
            self.gather(d);
            let _ = self.dma.write(at, &(d[0] & !OWN).to_le_bytes());
            self.send_at = Self::next(self.send_at, d[0]);
            sent += 1;
        }
        self.raise(if sent > 0 { cause::SENT | cause::NO_DESCRIPTOR } else { cause::NO_DESCRIPTOR });
    }

    /// Adds a descriptor's buffer to the frame, and sends the frame if it is the last.
    fn gather(&mut self, d: [u32; 4]) {
        if d[0] & FIRST != 0 {
            self.frame.clear();
        }
        let start = self.frame.len();
        let end = (start + (d[0] & 0xffff) as usize).min(MAX_PACKET);
        self.frame.resize(end, 0);
        if self.dma.read(u64::from(d[2]) | u64::from(d[3]) << 32, &mut self.frame[start..end]).is_err() {
            self.frame[start..end].fill(0);
        }
        if d[0] & LAST != 0 {
            let mut frame = std::mem::take(&mut self.frame);
            checksums(&mut frame, d[0]);
            self.port.send(&frame);
        }
    }
}

/// Inserts the checksums that are asked for into a packet of IPv4.
fn checksums(frame: &mut [u8], what: u32) {
    const IP: usize = 14;
    if what & (IP_CHECKSUM | UDP_CHECKSUM | TCP_CHECKSUM) == 0
        || frame.get(12..15).is_none_or(|t| t[..2] != [8, 0])
    {
        return;
    }
    let header = usize::from(frame[IP] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([
        frame.get(16).copied().unwrap_or(0),
        frame.get(17).copied().unwrap_or(0),
    ]));
    let end = (IP + total).min(frame.len());
    let payload = IP + header;
    if header < 20 || end < payload {
        return;
    }
    if what & IP_CHECKSUM != 0 {
        frame[IP + 10..IP + 12].fill(0);
        checksum::insert(frame, IP, IP + 10, payload);
    }
    let protocol = frame[IP + 9];
    let at = match protocol {
        6 if what & TCP_CHECKSUM != 0 => payload + 16,
        17 if what & UDP_CHECKSUM != 0 => payload + 6,
        _ => return,
    };
    if at + 2 > end {
        return;
    }
    // The sum of the pseudo-header takes the place of the checksum while that is made.
    let start = checksum::sum(&frame[IP + 12..IP + 20], u32::from(protocol) + (end - payload) as u32);
    frame[at..at + 2].copy_from_slice(&(start as u16).to_be_bytes());
    checksum::insert(frame, payload, at, end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_protocols() {
        // A datagram to port 53 with four bytes.
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 9, 9, 10, 0, 2, 15, 10, 0, 2, 3]);
        frame.extend([0x30, 0x39, 0, 53, 0, 12, 9, 9, 1, 2, 3, 4, 0xee]);
        checksums(&mut frame, IP_CHECKSUM | UDP_CHECKSUM);
        assert_eq!(checksum::sum(&frame[14..34], 0), 0xffff);
        assert_eq!(checksum::sum(&frame[34..46], checksum::sum(&frame[26..34], 17 + 12)), 0xffff);
        let before = frame.clone();
        checksums(&mut frame[..20], IP_CHECKSUM | TCP_CHECKSUM);
        checksums(&mut frame, 0);
        assert_eq!(frame, before);
    }
}
