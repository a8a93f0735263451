//! One buffer of a queue: the pieces of guest memory that a descriptor chain names, as a stream to read and a
//! stream to write.

use guest_memory::DmaGuard;
use vm_memory::{Bytes, GuestAddress};

/// One piece of guest RAM, checked when the chain was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

/// A position in the readable or in the writable segments.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    segment: usize,
    offset: u32,
}

/// A place among a buffer's writable bytes that is filled later.
#[derive(Clone, Copy, Debug)]
pub struct Hole {
    at: Cursor,
    len: usize,
}

/// A buffer taken from a queue, to be given back by [`crate::Virtqueue::push`]. Holds the memory map it was
/// checked against, so access cannot fail.
#[derive(Clone, Debug)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    memory: DmaGuard,
    /// Index of the first writable segment.
    split: usize,
    read: Cursor,
    write: Cursor,
    readable: u64,
    writable: u64,
    written: u32,
    /// Descriptors of the ring that it takes.
    descriptors: u16,
}

impl Chain {
    pub(crate) fn new(head: u16, segments: Vec<Segment>, memory: DmaGuard) -> Self {
        let split = segments.iter().position(|s| s.writable).unwrap_or(segments.len());
        let sum = |part: &[Segment]| part.iter().map(|s| u64::from(s.len)).sum();
        let (readable, writable) = (sum(&segments[..split]), sum(&segments[split..]));
        let (read, write) = (Cursor::default(), Cursor { segment: split, offset: 0 });
        Chain { head, segments, memory, split, read, write, readable, writable, written: 0, descriptors: 1 }
    }

    /// The same buffer, which takes this many descriptors of its ring.
    pub(crate) fn taking(mut self, descriptors: u16) -> Self {
        self.descriptors = descriptors;
        self
    }

    /// Descriptors of the ring that it takes; of a packed ring they must be passed over.
    pub(crate) fn descriptors(&self) -> u16 {
        self.descriptors
    }

    /// Begins anew, as if nothing had been read or written.
    pub(crate) fn rewind(&mut self) {
        let sum = |part: &[Segment]| part.iter().map(|s| u64::from(s.len)).sum();
        (self.read, self.write) = (Cursor::default(), Cursor { segment: self.split, offset: 0 });
        self.readable = sum(&self.segments[..self.split]);
        self.writable = sum(&self.segments[self.split..]);
        self.written = 0;
    }

    /// Index of the first descriptor, or (in a packed ring) the number the driver gave the buffer.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes left to read.
    pub fn readable(&self) -> u64 {
        self.readable
    }

    /// Bytes left to write.
    pub fn writable(&self) -> u64 {
        self.writable
    }

    /// What the driver is told was written: the bytes from the first writable one on.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// The memory the buffer lies in.
    pub fn memory(&self) -> &DmaGuard {
        &self.memory
    }

    /// The next piece, of at most `max` bytes.
    fn step(segments: &[Segment], cursor: &mut Cursor, end: usize, max: usize) -> Option<(u64, usize)> {
        let segment = segments[..end].get(cursor.segment)?;
        let left = (segment.len - cursor.offset) as usize;
        let n = left.min(max);
        let addr = segment.addr + u64::from(cursor.offset);
        if n == left {
            *cursor = Cursor { segment: cursor.segment + 1, offset: 0 };
        } else {
            cursor.offset += n as u32;
        }
        Some((addr, n))
    }

    /// Reads on; returns how much there was.
    pub fn read(&mut self, data: &mut [u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some((addr, n)) = Self::step(&self.segments, &mut self.read, self.split, data.len() - done)
            else {
                break;
            };
            let _ = self.memory.read_slice(&mut data[done..done + n], GuestAddress(addr));
            done += n;
        }
        self.readable -= done as u64;
        done
    }

    /// Reads exactly `N` bytes, if there are as many.
    pub fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut data = [0; N];
        (self.readable >= N as u64).then(|| self.read(&mut data))?;
        Some(data)
    }

    /// Passes over readable bytes; returns how many there were.
    pub fn skip(&mut self, count: u64) -> u64 {
        let mut done = 0;
        while done < count {
            let max = usize::try_from(count - done).unwrap_or(usize::MAX);
            let Some((_, n)) = Self::step(&self.segments, &mut self.read, self.split, max) else { break };
            done += n as u64;
        }
        self.readable -= done;
        done
    }

    /// Writes on; returns how much had room.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let end = self.segments.len();
            let Some((addr, n)) = Self::step(&self.segments, &mut self.write, end, data.len() - done) else {
                break;
            };
            let _ = self.memory.write_slice(&data[done..done + n], GuestAddress(addr));
            done += n;
        }
        self.writable -= done as u64;
        // At most 4 GiB - 1: the chain is no longer.
        self.written += done as u32;
        done
    }

    /// Passes over `len` writable bytes, which count as written, to be filled later; none if there are fewer.
    pub fn hole(&mut self, len: usize) -> Option<Hole> {
        if self.writable < len as u64 {
            return None;
        }
        let hole = Hole { at: self.write, len };
        let mut left = len;
        while left > 0 {
            let (_, n) = Self::step(&self.segments, &mut self.write, self.segments.len(), left)?;
            left -= n;
        }
        self.writable -= len as u64;
        self.written += len as u32;
        Some(hole)
    }

    /// Fills a hole from its beginning, as far as it goes.
    pub fn fill(&self, hole: Hole, data: &[u8]) {
        let (mut at, data) = (hole.at, &data[..data.len().min(hole.len)]);
        let mut done = 0;
        while done < data.len() {
            let end = self.segments.len();
            let Some((addr, n)) = Self::step(&self.segments, &mut at, end, data.len() - done) else { break };
            let _ = self.memory.write_slice(&data[done..done + n], GuestAddress(addr));
            done += n;
        }
    }

    /// Writes the last writable byte, where several protocols keep their status. It counts as written only if
    /// everything before it was.
    pub fn write_last(&mut self, byte: u8) -> bool {
        let Some(last) = self.segments[self.split..].last() else { return false };
        let addr = last.addr + u64::from(last.len - 1);
        let _ = self.memory.write_slice(&[byte], GuestAddress(addr));
        if self.writable == 1 {
            self.writable = 0;
            self.written += 1;
        }
        true
    }

    /// Calls `each` with address and length of all writable pieces.
    pub fn for_each_writable(&self, mut each: impl FnMut(u64, u64)) {
        self.segments[self.split..].iter().for_each(|s| each(s.addr, s.len.into()));
    }
}
