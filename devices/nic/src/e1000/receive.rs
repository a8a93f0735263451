//! Receiving (manual, 3.2): filters, and frames into buffers.

use super::E1000;
use super::registers::{cause, reg};
use crate::frame::MIN_FRAME;
use crate::intel::filter::{self, CHECK_SEQUENCE};

const DESCRIPTOR: u64 = 16;

/// Control register.
const ENABLE: u32 = 1 << 1;
const STRIP: u32 = 1 << 26;

/// Descriptor status: done, end of packet, checksums were not looked at, a tag was taken off.
const DONE: u8 = 1 << 0;
const END: u8 = 1 << 1;
const NO_CHECKSUM: u8 = 1 << 2;
const TAGGED: u8 = 1 << 3;

impl E1000 {
    fn buffer_size(control: u32) -> usize {
        let size = control >> 16 & 3;
        match control >> 25 & 1 {
            0 => 2048 >> size,
            _ => 32768 >> size.max(1),
        }
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
            let r = &self.r;
            let fits = |frame: &[u8]| {
                !filter::accepts(r, frame)
                    || needed(frame) <= given
                    || entries > 0 && needed(frame) >= entries
            };
            let Some(mut frame) = self.port.take(fits) else { break };
            taken = true;
            if !filter::accepts(&self.r, &frame) {
                continue;
            }
            if needed(&frame) > given {
                self.r.count(reg::MISSED);
                continue;
            }
            let tag = filter::take_tag(&self.r, &mut frame);
            frame.resize(frame.len().max(MIN_FRAME), 0);
            if control & STRIP == 0 {
                frame.resize(frame.len() + CHECK_SEQUENCE, 0);
            }
            self.store(&frame, tag, size, entries);
        }
        if taken {
            self.port.taken();
        }
    }

    fn store(&mut self, frame: &[u8], tag: Option<u16>, size: usize, entries: u32) {
        let base = self.r.base(reg::RDBAL);
        let mut head = self.r.get(reg::RDH);
        let mut parts = frame.chunks(size).peekable();
        while let Some(part) = parts.next() {
            let at = base.wrapping_add(u64::from(head) * DESCRIPTOR);
            let mut address = [0; 8];
            // A ring or buffers that are not in memory lose the frame.
            let _ = self.dma.read(at, &mut address);
            let _ = self.dma.write(u64::from_le_bytes(address), part);
            let last = if parts.peek().is_none() { END } else { 0 };
            let status = DONE | NO_CHECKSUM | last | if tag.is_some() { TAGGED } else { 0 };
            let [low, high] = (part.len() as u16).to_le_bytes();
            let [tag_low, tag_high] = tag.unwrap_or(0).to_le_bytes();
            let _ = self.dma.write(at.wrapping_add(8), &[low, high, 0, 0, status, 0, tag_low, tag_high]);
            head = (head + 1) % entries.max(1);
        }
        self.r.set(reg::RDH, head);
        self.r.count(reg::RECEIVED);
        let (entries, given) = self.room();
        let least = entries >> (1 + (self.r.get(reg::RCTL) >> 8 & 3));
        self.raise(cause::RECEIVED | if given <= least { cause::RECEIVE_LOW } else { 0 });
    }
}
