//! Transfers past the host's page cache (`O_DIRECT`), which takes whole units at aligned addresses only.
//!
//! What is not aligned goes through a buffer that is. Of a unit that is written in part, the rest is read before and written
//! back: nobody else may write it meanwhile, so such a write is alone.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::engine::Aio;
use super::transfer;

/// What is taken for the unit where the host does not tell.
const UNIT: u64 = 4096;
/// Longest buffer, in bytes.
const LONGEST: u64 = 1 << 20;

/// What the host wants, and whose turn it is.
#[derive(Debug)]
pub(super) struct Direct {
    /// Addresses of memory are multiples of it.
    memory: usize,
    /// Offsets and lengths are.
    unit: u64,
    /// Held alone by who writes units in part, else shared by who changes the file.
    pub(super) order: RwLock<()>,
}

/// Memory at an aligned address.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    fn new(len: usize, align: usize) -> Self {
        let memory = vec![0; len + align];
        let start = (align - memory.as_ptr().addr() % align) % align;
        Bounce { memory, start, len }
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len.min(self.len)]
    }
}

/// A request by parts, from its first byte to its last.
struct Parts {
    /// Which buffer, and how far into it.
    at: (usize, usize),
}

impl Parts {
    /// After some bytes of buffers that are so long.
    fn after(mut done: usize, lens: impl Iterator<Item = usize>) -> Self {
        let mut index = 0;
        for len in lens {
            if done < len {
                break;
            }
            done -= len;
            index += 1;
        }
        Parts { at: (index, done) }
    }

    fn scatter(&mut self, bufs: &mut [IoSliceMut<'_>], mut data: &[u8]) {
        while let Some(buf) = bufs.get_mut(self.at.0).filter(|_| !data.is_empty()) {
            let n = (buf.len() - self.at.1).min(data.len());
            buf[self.at.1..self.at.1 + n].copy_from_slice(&data[..n]);
            data = &data[n..];
            self.advance(n, buf.len());
        }
    }

    fn gather(&mut self, bufs: &[IoSlice<'_>], mut data: &mut [u8]) {
        while let Some(buf) = bufs.get(self.at.0).filter(|_| !data.is_empty()) {
            let n = (buf.len() - self.at.1).min(data.len());
            data[..n].copy_from_slice(&buf[self.at.1..self.at.1 + n]);
            data = &mut data[n..];
            self.advance(n, buf.len());
        }
    }

    fn advance(&mut self, n: usize, len: usize) {
        self.at.1 += n;
        if self.at.1 == len {
            self.at = (self.at.0 + 1, 0);
        }
    }
}

/// The end of a range, and of the units it lies in.
fn ends(offset: u64, len: usize, unit: u64) -> io::Result<(u64, u64)> {
    let end = offset.checked_add(len as u64).filter(|e| i64::try_from(*e).is_ok());
    let end = end.ok_or(io::ErrorKind::InvalidInput)?;
    Ok((end, end.checked_next_multiple_of(unit).ok_or(io::ErrorKind::InvalidInput)?))
}

impl Direct {
    /// What the host wants for a file.
    pub(super) fn of(file: &File) -> Self {
        let (memory, unit) = alignment(file).unwrap_or((UNIT as usize, UNIT));
        Direct { memory, unit, order: RwLock::new(()) }
    }

    fn fits(&self, offset: u64, buffers: impl Iterator<Item = (usize, usize)>) -> bool {
        let mut buffers = buffers;
        offset.is_multiple_of(self.unit)
            && buffers
                .all(|(at, len)| at.is_multiple_of(self.memory) && (len as u64).is_multiple_of(self.unit))
    }

    /// Reads units until the buffer is full or the file ends; beyond it there is nothing but zeroes.
    fn fill(&self, file: &File, aio: Aio, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let n = match aio.read(file, &mut [IoSliceMut::new(buf)], offset)? {
                // The end, or no request could be made.
                0 => transfer::read_some(file, buf, offset)?,
                n => n,
            };
            buf = &mut buf[n..];
            offset += n as u64;
            // Parts of units come at the end only.
            if n == 0 || !(n as u64).is_multiple_of(self.unit) {
                break;
            }
        }
        buf.fill(0);
        Ok(())
    }

    /// Fills the buffers.
    pub(super) fn read(
        &self,
        file: &File,
        aio: Aio,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> io::Result<()> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let (end, last) = ends(offset, total, self.unit)?;
        let mut done = 0;
        if self.fits(offset, bufs.iter().map(|b| (b.as_ptr().addr(), b.len()))) {
            done = aio.read(file, bufs, offset)?;
        }
        if done >= total {
            return Ok(());
        }
        let mut at = offset + done as u64;
        let first = at - at % self.unit;
        let mut bounce = Bounce::new((last - first).min(LONGEST) as usize, self.memory);
        let mut parts = Parts::after(done, bufs.iter().map(|b| b.len()));
        while at < end {
            let start = at - at % self.unit;
            let stop = last.min(start + LONGEST);
            let units = bounce.bytes((stop - start) as usize);
            self.fill(file, aio, units, start)?;
            let until = end.min(stop);
            parts.scatter(bufs, &units[(at - start) as usize..(until - start) as usize]);
            at = until;
        }
        Ok(())
    }

    fn put(&self, file: &File, aio: Aio, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let n = match aio.write(file, &[IoSlice::new(buf)], offset, false)?.0 {
                0 => transfer::write_some(file, buf, offset)?,
                n => n,
            };
            if n == 0 || !(n as u64).is_multiple_of(self.unit) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            buf = &buf[n..];
            offset += n as u64;
        }
        Ok(())
    }

    /// Writes the buffers; `size` is the file's, in bytes, and becomes larger with it.
    pub(super) fn write(
        &self,
        file: &File,
        aio: Aio,
        bufs: &[IoSlice<'_>],
        offset: u64,
        size: &AtomicU64,
    ) -> io::Result<()> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let (end, last) = ends(offset, total, self.unit)?;
        if total == 0 {
            return Ok(());
        }
        if self.fits(offset, bufs.iter().map(|b| (b.as_ptr().addr(), b.len()))) {
            let _shared = self.order.read();
            if aio.write(file, bufs, offset, false)?.0 == total {
                size.fetch_max(end, Ordering::Relaxed);
                return Ok(());
            }
            // Less than all: the whole of it once more, which says why.
        }
        let _alone = self.order.write();
        let mut at = offset;
        let mut bounce = Bounce::new((last - (at - at % self.unit)).min(LONGEST) as usize, self.memory);
        let mut parts = Parts::after(0, bufs.iter().map(|b| b.len()));
        while at < end {
            let start = at - at % self.unit;
            let stop = last.min(start + LONGEST);
            let until = end.min(stop);
            let (unit, units) = (self.unit as usize, bounce.bytes((stop - start) as usize));
            if at > start {
                self.fill(file, aio, &mut units[..unit], start)?;
            }
            if until < stop && (at == start || stop - start > self.unit) {
                let tail = units.len() - unit;
                self.fill(file, aio, &mut units[tail..], stop - self.unit)?;
            }
            parts.gather(bufs, &mut units[(at - start) as usize..(until - start) as usize]);
            self.put(file, aio, units, start)?;
            at = until;
        }
        let size_before = size.fetch_max(end, Ordering::Relaxed);
        if last > end.max(size_before) {
            // The rest of the last unit is not the file's.
            file.set_len(end.max(size_before))?;
        }
        Ok(())
    }
}

/// What the host wants of addresses in memory, and of offsets.
#[cfg(target_os = "linux")]
fn alignment(file: &File) -> Option<(usize, u64)> {
    super::linux::direct_alignment(file)
}

#[cfg(not(target_os = "linux"))]
fn alignment(_: &File) -> Option<(usize, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_requests() {
        let (mut a, mut b) = ([0; 3], [0; 5]);
        let mut bufs = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        let mut parts = Parts::after(1, [3, 5].into_iter());
        parts.scatter(&mut bufs, &[1, 2, 3]);
        parts.scatter(&mut bufs, &[4, 5, 6, 7, 8]);
        assert_eq!((a, b), ([0, 1, 2], [3, 4, 5, 6, 7]));
        let mut back = [0; 4];
        Parts::after(3, [3, 5].into_iter()).gather(&[IoSlice::new(&a), IoSlice::new(&b)], &mut back);
        assert_eq!(back, [3, 4, 5, 6]);
    }
}
