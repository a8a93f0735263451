//! Rings of descriptors, filters (datasheet, "Descriptor management" and "Address matching logic").

use super::{MAX_FRAME, Pcnet, csr, status};
use crate::frame::{MIN_FRAME, check_sequence, hash_of_last};

/// Upper half of a descriptor's flags, the same in every style.
const OWN: u16 = 1 << 15;
const START: u16 = 1 << 9;
const END: u16 = 1 << 8;
/// Errors and what became of a frame that is sent: cleared.
const SEND_RESULTS: u16 = 0x5c00;
/// Received: for the card, by filter, for all.
const FOR_ADDRESS: u16 = 1 << 6;
const FOR_GROUP: u16 = 1 << 5;
const FOR_ALL: u16 = 1 << 4;

/// Mode: everything is taken; nothing for all; nothing for the card.
const PROMISCUOUS: u16 = 1 << 15;
const NO_BROADCAST: u16 = 1 << 14;
const NO_OWN: u16 = 1 << 13;

/// One of the two rings.
#[derive(Clone, Copy)]
struct Ring {
    base: usize,
    length: usize,
    count: usize,
}

const RECEIVE: Ring =
    Ring { base: csr::RECEIVE_RING, length: csr::RECEIVE_LENGTH, count: csr::RECEIVE_COUNT };
const SEND: Ring = Ring { base: csr::SEND_RING, length: csr::SEND_LENGTH, count: csr::SEND_COUNT };

/// A descriptor as read.
struct Descriptor {
    at: u64,
    flags: u16,
    buffer: u64,
    size: usize,
}

impl Pcnet {
    fn entries(&self, ring: Ring) -> u16 {
        self.csr[ring.length].wrapping_neg()
    }

    /// Index of the descriptor that comes `ahead` behind the next.
    fn index(&self, ring: Ring, ahead: u16) -> u16 {
        let entries = self.entries(ring).max(1);
        // Counters go up from minus the length.
        let next = entries.wrapping_sub(self.csr[ring.count].wrapping_neg()) % entries;
        ((u32::from(next) + u32::from(ahead)) % u32::from(entries)) as u16
    }

    /// Moves on to the next descriptor.
    fn step(&mut self, ring: Ring) {
        let count = self.csr[ring.count].wrapping_add(1);
        self.csr[ring.count] = if count == 0 { self.csr[ring.length] } else { count };
    }

    fn descriptor(&self, ring: Ring, ahead: u16) -> Option<Descriptor> {
        if self.entries(ring) == 0 {
            return None;
        }
        let base = u64::from(self.csr[ring.base]) | u64::from(self.csr[ring.base + 1]) << 16;
        let size = if self.style() == 0 { 8 } else { 16 };
        let at = base + u64::from(self.index(ring, ahead)) * size;
        let mut d = [0; 16];
        self.dma.read(at, &mut d[..size as usize]).ok()?;
        let word = |i: usize| u16::from_le_bytes([d[i], d[i + 1]]);
        let wide = |i: usize| u64::from(word(i)) | u64::from(word(i + 2)) << 16;
        let (flags, buffer, count) = match self.style() {
            0 => (word(2) & 0xff00, wide(0) & 0xff_ffff, word(4)),
            3 => (word(6), wide(8), word(4)),
            _ => (word(6), wide(0), word(4)),
        };
        // Sizes are negative numbers of 12 bits.
        let size = usize::from((count | 0xf000).wrapping_neg());
        Some(Descriptor { at, flags, buffer, size })
    }

    /// Gives a descriptor back with new flags, and with the frame's length or what has become of it.
    fn give_back(&self, d: &Descriptor, flags: u16, message: Option<u16>) {
        // A ring that is not in memory is nobody's.
        let _ = match (self.style(), message) {
            (0, Some(len)) => self.dma.write(d.at + 6, &len.to_le_bytes()),
            (3, Some(len)) => self.dma.write(d.at, &u32::from(len).to_le_bytes()),
            (_, Some(len)) => self.dma.write(d.at + 8, &u32::from(len).to_le_bytes()),
            (_, None) => Ok(()),
        };
        let _ = match self.style() {
            0 => self.dma.write(d.at + 3, &[(flags >> 8) as u8]),
            _ => self.dma.write(d.at + 6, &flags.to_le_bytes()),
        };
    }

    /// Whom a frame is for, if the card wants it.
    fn whom(&self, frame: &[u8]) -> Option<u16> {
        let to = frame.first_chunk::<6>()?;
        let mode = self.csr[csr::MODE];
        let own = self.csr[csr::ADDRESS..csr::ADDRESS + 3].iter().flat_map(|word| word.to_le_bytes());
        let found = match to {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => (mode & NO_BROADCAST == 0).then_some(FOR_ALL),
            [first, ..] if first & 1 != 0 => {
                let hash = hash_of_last(to);
                let word = self.csr[csr::GROUP + hash as usize / 16];
                (word >> (hash % 16) & 1 != 0).then_some(FOR_GROUP)
            }
            _ => (mode & NO_OWN == 0 && own.eq(to.iter().copied())).then_some(FOR_ADDRESS),
        };
        found.or((mode & PROMISCUOUS != 0).then_some(0))
    }

    /// Bytes of the buffers that the guest has given, as far as `wanted`.
    fn room(&self, wanted: usize) -> usize {
        let mut room = 0;
        for ahead in 0..self.entries(RECEIVE) {
            match self.descriptor(RECEIVE, ahead) {
                Some(d) if d.flags & OWN != 0 && room < wanted => room += d.size,
                _ => break,
            }
        }
        room
    }

    /// Takes frames as far as there is room for them.
    pub(super) fn receive(&mut self) {
        let mut taken = false;
        while !self.paused
            && self.csr[csr::STATUS] & status::RECEIVING != 0
            && self.csr[csr::EXTENDED] & 1 == 0
        {
            let total = |frame: &[u8]| frame.len().max(MIN_FRAME) + 4;
            // A frame that the whole ring is too small for would be waited for in vain: it is cut.
            let fits = |frame: &[u8]| {
                self.whom(frame).is_none() || {
                    let room = self.room(total(frame));
                    room >= total(frame) || room > 0 && self.room(usize::MAX) == room && self.is_all_given()
                }
            };
            let Some(mut frame) = self.port.take(fits) else { break };
            taken = true;
            if let Some(whom) = self.whom(&frame) {
                frame.resize(frame.len().max(MIN_FRAME), 0);
                let sequence = check_sequence(&frame);
                frame.extend(sequence);
                self.store(&frame, whom);
            }
        }
        if taken {
            self.port.taken();
        }
    }

    fn is_all_given(&self) -> bool {
        (0..self.entries(RECEIVE))
            .all(|ahead| self.descriptor(RECEIVE, ahead).is_some_and(|d| d.flags & OWN != 0))
    }

    fn store(&mut self, frame: &[u8], whom: u16) {
        let mut rest = frame;
        let mut start = START;
        for _ in 0..self.entries(RECEIVE) {
            let Some(d) = self.descriptor(RECEIVE, 0).filter(|d| d.flags & OWN != 0) else { break };
            let (part, more) = rest.split_at(rest.len().min(d.size));
            // A buffer that is not in memory loses its part.
            let _ = self.dma.write(d.buffer, part);
            rest = more;
            let last = rest.is_empty();
            let flags = start | if last { END | whom } else { 0 };
            self.give_back(&d, flags, last.then_some(frame.len() as u16));
            self.step(RECEIVE);
            start = 0;
            if last {
                break;
            }
        }
        self.raise(status::RECEIVED);
    }

    /// Sends what the guest has given.
    pub(super) fn send(&mut self) {
        let mut sent = false;
        // Once round: a guest that gives descriptors back meanwhile asks again.
        for _ in 0..self.entries(SEND) {
            let on = self.csr[csr::STATUS] & status::SENDING != 0 && self.csr[csr::EXTENDED] & 1 == 0;
            if self.paused || !on {
                break;
            }
            let Some(d) = self.descriptor(SEND, 0).filter(|d| d.flags & OWN != 0) else { break };
            if d.flags & START != 0 {
                self.frame.clear();
            }
            let at = self.frame.len();
            let end = (at + d.size).min(MAX_FRAME);
            self.frame.resize(end, 0);
            if self.dma.read(d.buffer, &mut self.frame[at..end]).is_err() {
                self.frame[at..end].fill(0);
            }
            if d.flags & END != 0 {
                let frame = std::mem::take(&mut self.frame);
                self.port.send(&frame);
                sent = true;
            }
            self.give_back(&d, d.flags & !(OWN | SEND_RESULTS), None);
            self.step(SEND);
        }
        if sent {
            self.raise(status::SENT);
        }
    }
}
