//! Receiving (manual, 3.2): filters, and frames into buffers.

use super::E1000;
use super::registers::{cause, reg};

const DESCRIPTOR: u64 = 16;
/// Shortest frame on a cable, without its check sequence, which is appended.
const MIN_FRAME: usize = 60;
const CHECK_SEQUENCE: usize = 4;

/// Control register.
const ENABLE: u32 = 1 << 1;
const ALL_UNICAST: u32 = 1 << 3;
const ALL_MULTICAST: u32 = 1 << 4;
const LONG: u32 = 1 << 5;
const BROADCAST: u32 = 1 << 15;
const STRIP: u32 = 1 << 26;

/// Descriptor status: done, end of packet, checksums were not looked at.
const DONE: u8 = 1 << 0;
const END: u8 = 1 << 1;
const NO_CHECKSUM: u8 = 1 << 2;

/// Longest frame without permission for long ones: with a tag.
const MAX_FRAME: usize = 1518;
/// Longest at all.
const MAX_LONG: usize = 16384 - CHECK_SEQUENCE;

impl E1000 {
    fn buffer_size(control: u32) -> usize {
        let size = control >> 16 & 3;
        match control >> 25 & 1 {
            0 => 2048 >> size,
            _ => 32768 >> size.max(1),
        }
    }

    /// Whether a frame is one of those that the host wants.
    fn accepts(&self, frame: &[u8]) -> bool {
        let control = self.r.get(reg::RCTL);
        if frame.len() > if control & LONG != 0 { MAX_LONG } else { MAX_FRAME } {
            return false;
        }
        let Some(&[a, b, c, d, e, f]) = frame.first_chunk::<6>() else { return false };
        if [a, b, c, d, e, f] == [0xff; 6] {
            return control & (BROADCAST | ALL_MULTICAST) != 0;
        }
        let own = |i: u32| {
            let (low, high) = (self.r.get(reg::ADDRESSES + 8 * i), self.r.get(reg::ADDRESSES + 8 * i + 4));
            high >> 31 != 0 && low.to_le_bytes() == [a, b, c, d] && (high as u16).to_le_bytes() == [e, f]
        };
        if a & 1 != 0 {
            // Groups, too, may be among the addresses: drivers put the first few there.
            if control & ALL_MULTICAST != 0 || (0..16).any(own) {
                return true;
            }
            // Twelve bits of the address select a bit of the table.
            let shift = [4, 3, 2, 0][(control >> 12 & 3) as usize];
            let hash = u32::from(u16::from_le_bytes([e, f])) >> shift & 0xfff;
            return self.r.get(reg::MULTICAST + 4 * (hash >> 5)) >> (hash & 31) & 1 != 0;
        }
        control & ALL_UNICAST != 0 || (0..16).any(own)
    }

    /// Number of descriptors of the ring, and of those that the host has given.
    fn room(&self) -> (u32, u32) {
        let entries = (self.r.get(reg::RDLEN) / DESCRIPTOR as u32) & 0xffff;
        let (head, tail) = (self.r.get(reg::RDH), self.r.get(reg::RDT));
        if head >= entries || tail >= entries {
            return (entries, 0);
        }
        (entries, (tail + entries - head) % entries)
    }

    /// Takes frames as far as there is room for them.
    pub(super) fn receive(&mut self) {
        let mut taken = false;
        while !self.paused && self.r.get(reg::RCTL) & ENABLE != 0 {
            let control = self.r.get(reg::RCTL);
            let (size, (entries, given)) = (Self::buffer_size(control), self.room());
            let needed = |frame: &[u8]| (frame.len().max(MIN_FRAME) + CHECK_SEQUENCE).div_ceil(size) as u32;
            // What is not wanted needs no room. A frame too large for the whole ring is not waited for either.
            let fits = |frame: &[u8]| {
                !self.accepts(frame) || needed(frame) <= given || entries > 0 && needed(frame) >= entries
            };
            let Some(mut frame) = self.port.take(fits) else { break };
            taken = true;
            if !self.accepts(&frame) {
                continue;
            }
            if needed(&frame) > given {
                self.r.count(reg::MISSED);
                continue;
            }
            frame.resize(frame.len().max(MIN_FRAME), 0);
            if control & STRIP == 0 {
                frame.resize(frame.len() + CHECK_SEQUENCE, 0);
            }
            self.store(&frame, size, entries);
        }
        if taken {
            self.port.taken();
        }
    }

    fn store(&mut self, frame: &[u8], size: usize, entries: u32) {
        let base = self.r.base(reg::RDBAL);
        let mut head = self.r.get(reg::RDH);
        let mut parts = frame.chunks(size).peekable();
        while let Some(part) = parts.next() {
            let at = base.wrapping_add(u64::from(head) * DESCRIPTOR);
            let mut address = [0; 8];
            // A ring or buffers that are not in memory lose the frame.
            let _ = self.dma.read(at, &mut address);
            let _ = self.dma.write(u64::from_le_bytes(address), part);
            let status = DONE | NO_CHECKSUM | if parts.peek().is_none() { END } else { 0 };
            let [low, high] = (part.len() as u16).to_le_bytes();
            let _ = self.dma.write(at.wrapping_add(8), &[low, high, 0, 0, status, 0, 0, 0]);
            head = (head + 1) % entries.max(1);
        }
        self.r.set(reg::RDH, head);
        self.r.count(reg::RECEIVED);
        let (entries, given) = self.room();
        let least = entries >> (1 + (self.r.get(reg::RCTL) >> 8 & 3));
        self.raise(cause::RECEIVED | if given <= least { cause::RECEIVE_LOW } else { 0 });
    }
}
