//! What the older chips have: four buffers for sending, and one ring into which frames are written one behind the other (datasheet,
//! 6.3 to 6.9 and 9).

use super::{MAX_FRAME, Rtl8139, SEND, cause, reg};
use crate::frame::{MIN_FRAME, check_sequence};

/// Status of a buffer that is sent: it is the guest's again, all of it has been sent.
pub(super) const OWN: u32 = 1 << 13;
const SENT: u32 = 1 << 15;
/// Before each frame: its status and length.
const HEADER: usize = 4;
/// Status of a frame: good, and whom it was for.
const GOOD: u16 = 1 << 0;
const BROADCAST: u16 = 1 << 13;
const OWN_ADDRESS: u16 = 1 << 14;
const MULTICAST: u16 = 1 << 15;
/// The guest's pointer is behind by this.
const POINTER_BIAS: u32 = 16;
/// Receive configuration: frames run on behind the end of the ring.
const NO_WRAP: u32 = 1 << 7;

/// Bytes that a frame of this length takes in the ring.
fn taken(len: usize) -> u32 {
    (HEADER + len).next_multiple_of(4) as u32
}

impl Rtl8139 {
    fn ring_size(&self) -> u32 {
        8192 << (self.u32(reg::RECEIVE_CONFIG) >> 11 & 3)
    }

    /// Where the guest reads next.
    fn read_at(&self) -> u32 {
        (u32::from(self.u16(reg::READ_POINTER)) + POINTER_BIAS) % self.ring_size()
    }

    pub(super) fn ring_is_empty(&self) -> bool {
        self.read_at() == u32::from(self.u16(reg::WRITE_POINTER)) % self.ring_size()
    }

    /// Longest frame for which there is room, without its check sequence.
    pub(super) fn ring_room(&self) -> usize {
        let size = self.ring_size();
        let free = match (size + self.read_at() - u32::from(self.u16(reg::WRITE_POINTER)) % size) % size {
            0 => size,
            free => free,
        };
        // A full ring would look like an empty one.
        (free as usize).saturating_sub(HEADER + 4 + 4).min(MAX_FRAME - 4)
    }

    pub(super) fn store_in_ring(&mut self, mut frame: Vec<u8>) {
        frame.resize(frame.len().max(MIN_FRAME), 0);
        let whom = match frame.first_chunk::<6>() {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => BROADCAST,
            Some([first, ..]) if first & 1 != 0 => MULTICAST,
            Some(to) if self.r[..6] == to[..] => OWN_ADDRESS,
            _ => 0,
        };
        let sequence = check_sequence(&frame);
        frame.extend(sequence);
        let header = u32::from(GOOD | whom) | (frame.len() as u32) << 16;
        let bytes = [&header.to_le_bytes()[..], &frame].concat();
        let (base, size) = (u64::from(self.u32(reg::RING)), self.ring_size());
        let at = u32::from(self.u16(reg::WRITE_POINTER)) % size;
        // A ring that is not in memory loses the frame.
        let before_end = bytes.len().min((size - at) as usize);
        let (first, rest) = match self.u32(reg::RECEIVE_CONFIG) & NO_WRAP {
            0 => bytes.split_at(before_end),
            _ => bytes.split_at(bytes.len()),
        };
        let _ = self.dma.write(base + u64::from(at), first);
        let _ = self.dma.write(base, rest);
        let next = ((at + taken(frame.len())) % size) as u16;
        self.put(reg::WRITE_POINTER, &next.to_le_bytes());
        self.raise(cause::RECEIVED);
    }

    /// Sends buffer `n` if it is the chip's.
    pub(super) fn send_buffer(&mut self, n: usize) {
        let at = reg::SEND_STATUS + 4 * n;
        let status = self.u32(at);
        if status & OWN != 0 || self.r[reg::COMMAND] & SEND == 0 || self.paused {
            return;
        }
        let len = (status & 0x1fff) as usize;
        let mut frame = vec![0; len];
        if self.dma.read(self.u32(reg::SEND_ADDRESS + 4 * n).into(), &mut frame).is_ok() {
            self.port.send(&frame);
        }
        self.put(at, &(status | OWN | SENT).to_le_bytes());
        self.raise(cause::SENT);
    }

    /// The four buffers at one look: whose they are, aborted, underrun, sent.
    pub(super) fn send_summary(&self) -> u16 {
        (0..4).fold(0, |all, n| {
            let status = self.u32(reg::SEND_STATUS + 4 * n);
            let bit = |of: u32, to: usize| u16::from(status & of != 0) << (to + n);
            all | bit(OWN, 0) | bit(1 << 30, 4) | bit(1 << 14, 8) | bit(SENT, 12)
        })
    }
}
