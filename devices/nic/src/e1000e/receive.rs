//! Receiving (82574L datasheet, 7.1): filters, the queue by the frame's hash, and frames into buffers by descriptors of three kinds:
//! legacy, extended, and such with a buffer of their own for the headers (packet split).

use super::headers::{HASHES, Hash, Headers, status};
use super::registers::{cause, reg};
use super::{E1000e, QUEUES};
use crate::frame::MIN_FRAME;
use crate::intel::filter::{self, CHECK_SEQUENCE};
use crate::intel::values::Values;

/// Control register: enable, packet split, larger buffers, no check sequence.
const ENABLE: u32 = 1 << 1;
const SPLIT: u32 = 1 << 10;
const STRIP: u32 = 1 << 26;
/// Filter control: descriptors are extended.
const EXTENDED: u32 = 1 << 15;

/// Descriptor status: done, end of packet, a tag was taken off.
const DONE: u32 = 1 << 0;
const END: u32 = 1 << 1;
const TAGGED: u32 = 1 << 3;
/// The first buffer has the headers.
const HEADER_SPLIT: u16 = 1 << 15;

/// How descriptors and buffers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    extended: bool,
    split: bool,
    /// Sizes of a descriptor's buffers.
    sizes: [usize; 4],
}

impl Layout {
    fn of(r: &Values) -> Self {
        let control = r.get(reg::RCTL);
        let extended = r.get(reg::RFCTL) & EXTENDED != 0;
        let split = extended && control & SPLIT != 0;
        let sizes = if split {
            let s = r.get(reg::PSRCTL);
            let size = |shift: u32, mask: u32, unit: u32| ((s >> shift & mask) * unit) as usize;
            [size(0, 0x7f, 128), size(8, 0x3f, 1024), size(16, 0x3f, 1024), size(24, 0x3f, 1024)]
        } else {
            // In KiB, or a power of two.
            let (flexible, code) = ((control >> 27 & 15) as usize, control >> 16 & 3);
            let size = match control >> 25 & 1 {
                _ if flexible != 0 => flexible << 10,
                0 => 2048 >> code,
                _ => 32768 >> code.max(1),
            };
            [size, 0, 0, 0]
        };
        Layout { extended, split, sizes }
    }

    /// Size of a descriptor.
    fn descriptor(&self) -> u64 {
        if self.split { 32 } else { 16 }
    }

    /// The parts of a frame for the buffers of one descriptor, and the length of its headers if they have the first.
    fn parts<'f>(&self, frame: &'f [u8], header: Option<usize>) -> ([&'f [u8]; 4], &'f [u8], Option<u16>) {
        let header = header.filter(|header| self.split && (1..=self.sizes[0].min(0x3ff)).contains(header));
        let mut rest = frame;
        let mut parts = [&[][..]; 4];
        for (i, part) in parts.iter_mut().enumerate() {
            let size = if i == 0 { header.unwrap_or(self.sizes[0]) } else { self.sizes[i] };
            (*part, rest) = rest.split_at(size.min(rest.len()));
        }
        (parts, rest, header.map(|header| header as u16))
    }

    /// Descriptors that a frame takes.
    fn needed(&self, len: usize, header: Option<usize>) -> u32 {
        let all: usize = self.sizes.iter().sum();
        let less =
            header.filter(|header| self.split && *header <= self.sizes[0]).map_or(0, |h| self.sizes[0] - h);
        (len + less).div_ceil(all.max(1)).max(1) as u32
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    wanted: bool,
    hash: Option<Hash>,
    header: Option<usize>,
    /// The ring can never hold it, or there is none.
    lost: bool,
}

impl Plan {
    fn queue(&self) -> usize {
        self.hash.map_or(0, |hash| hash.queue)
    }
}

/// What descriptors say of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    status: u32,
    tag: u16,
    kind: u32,
    /// Its hash, or its identification.
    word: u32,
}

impl E1000e {
    /// Entries of a queue's ring, and those that the host has given.
    fn room(&self, layout: &Layout, queue: usize) -> (u32, u32) {
        let ring = reg::RX + reg::QUEUE * queue as u32;
        let entries = (self.r.get(ring + reg::LENGTH) / layout.descriptor() as u32) & 0xffff;
        let (head, tail) = (self.r.get(ring + reg::HEAD), self.r.get(ring + reg::TAIL));
        if head >= entries || tail >= entries {
            return (entries, 0);
        }
        (entries, (tail + entries - head) % entries)
    }

    /// What is to become of a frame; whether it can be so now.
    fn plan(&self, layout: &Layout, frame: &[u8]) -> (Plan, bool) {
        if !filter::accepts(&self.r, frame) {
            return (Plan::default(), true);
        }
        let hash = Hash::of(&self.r, frame);
        let header = Headers::of(frame).filter(|_| layout.split).and_then(|h| h.length(frame));
        let plan = Plan { wanted: true, hash, header, lost: false };
        let (entries, given) = self.room(layout, plan.queue());
        let needed = layout.needed(frame.len().max(MIN_FRAME) + CHECK_SEQUENCE, header);
        let lost = needed >= entries;
        (Plan { lost, ..plan }, lost || needed <= given)
    }

    /// Takes frames as far as there is room for them.
    pub(super) fn receive(&mut self) {
        let mut taken = false;
        while !self.paused && self.r.get(reg::RCTL) & ENABLE != 0 {
            let layout = Layout::of(&self.r);
            let mut plan = Plan::default();
            let fits = |frame: &[u8]| {
                let (planned, fits) = self.plan(&layout, frame);
                plan = planned;
                fits
            };
            let Some(frame) = self.port.take(fits) else { break };
            taken = true;
            if plan.wanted && plan.lost {
                self.r.count(reg::MISSED);
            } else if plan.wanted {
                self.accept(&layout, frame, &plan);
            }
        }
        if taken {
            self.port.taken();
        }
    }

    fn accept(&mut self, layout: &Layout, mut frame: Vec<u8>, plan: &Plan) {
        let tag = filter::take_tag(&self.r, &mut frame);
        let headers = Headers::of(&frame);
        let checked = headers.map_or(status::NOT_CHECKED, |h| h.check(&self.r, &frame));
        // With a tag off, what was behind it may have become visible.
        let header = plan.header.or_else(|| headers.filter(|_| layout.split)?.length(&frame));
        let word = match plan.hash {
            Some(hash) if self.r.get(reg::RXCSUM) & HASHES != 0 => hash.value,
            _ => headers.map_or(0, |h| h.id.into()),
        };
        let found = Found {
            status: checked | if tag.is_some() { TAGGED } else { 0 },
            tag: tag.unwrap_or(0),
            kind: plan.hash.map_or(0, |hash| hash.kind | (hash.queue as u32) << 8),
            word,
        };
        frame.resize(frame.len().max(MIN_FRAME), 0);
        self.r.count(reg::RECEIVED);
        self.r.count(reg::TOTAL_RECEIVED);
        self.r.count_octets(reg::RECEIVED_OCTETS, frame.len() + CHECK_SEQUENCE);
        if self.r.get(reg::RCTL) & STRIP == 0 {
            frame.resize(frame.len() + CHECK_SEQUENCE, 0);
        }
        self.store(layout, plan.queue(), &frame, header, found);
    }

    fn store(&mut self, layout: &Layout, queue: usize, frame: &[u8], header: Option<usize>, found: Found) {
        let queue = queue.min(QUEUES - 1);
        let ring = reg::RX + reg::QUEUE * queue as u32;
        let (entries, given) = self.room(layout, queue);
        let (base, mut head) = (self.r.base(ring), self.r.get(ring + reg::HEAD));
        let (mut rest, mut header) = (frame, header);
        for _ in 0..given {
            let (parts, left, split) = layout.parts(rest, header.take());
            let at = base.wrapping_add(u64::from(head) * layout.descriptor());
            let last = left.is_empty();
            self.fill(
                layout,
                at,
                &parts,
                split,
                Found { status: found.status | DONE | if last { END } else { 0 }, ..found },
            );
            head = (head + 1) % entries.max(1);
            rest = left;
            if last {
                break;
            }
        }
        self.r.set(ring + reg::HEAD, head);
        let (entries, given) = self.room(layout, queue);
        let low = given <= entries >> (1 + (self.r.get(reg::RCTL) >> 8 & 3));
        let causes = cause::RECEIVED | cause::RECEIVE_QUEUE << queue;
        self.raise(causes | if low { cause::RECEIVE_LOW } else { 0 });
    }

    /// Fills the buffers of a descriptor, then the descriptor. A ring or buffers that are not in memory lose the frame.
    fn fill(&self, layout: &Layout, at: u64, parts: &[&[u8]; 4], split: Option<u16>, found: Found) {
        let mut descriptor = [0; 32];
        let size = layout.descriptor() as usize;
        let _ = self.dma.read(at, &mut descriptor[..size]);
        for (address, part) in descriptor.chunks_exact(8).zip(parts).filter(|(_, part)| !part.is_empty()) {
            let address = address.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let _ = self.dma.write(address, part);
        }
        let length = |i: usize| (parts[i].len() as u16).to_le_bytes();
        let mut put = |at: usize, bytes: &[u8]| descriptor[at..at + bytes.len()].copy_from_slice(bytes);
        if !layout.extended {
            put(8, &length(0));
            put(10, &[0, 0, found.status as u8, (found.status >> 24) as u8]);
            put(14, &found.tag.to_le_bytes());
            let _ = self.dma.write(at.wrapping_add(8), &descriptor[8..16]);
            return;
        }
        put(0, &found.kind.to_le_bytes());
        put(4, &found.word.to_le_bytes());
        put(8, &found.status.to_le_bytes());
        put(12, &length(0));
        put(14, &found.tag.to_le_bytes());
        if layout.split {
            put(16, &split.map_or(0, |header| header | HEADER_SPLIT).to_le_bytes());
            (1..4).for_each(|i| put(16 + 2 * i, &length(i)));
            put(24, &[0; 8]);
            // What says that it is done comes last.
            let _ = self.dma.write(at.wrapping_add(16), &descriptor[16..32]);
        }
        let _ = self.dma.write(at, &descriptor[..16]);
    }
}
