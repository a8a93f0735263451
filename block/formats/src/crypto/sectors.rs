//! Ranges of an encrypted file: read and written through whole sectors, whatever their bounds are.
//!
//! A write of a part of a sector reads the rest of it first; who calls sees to it that nobody else writes that sector
//! meanwhile. Nothing but the output of the cipher is ever handed to the file.

use std::io::{IoSlice, IoSliceMut};

use block::{BlockError, BlockNode};

use super::{Key, SectorCipher};

/// Bytes worked on at a time.
const STEP: u64 = 1 << 20;

impl SectorCipher {
    /// Whether a range of the disk is whole sectors.
    pub(crate) fn whole(&self, offset: u64, len: u64) -> bool {
        offset.is_multiple_of(self.sector()) && len.is_multiple_of(self.sector())
    }

    /// Reads what is at `at` of a file, where `offset` of the disk is stored.
    pub(crate) fn read(
        &self,
        file: &dyn BlockNode,
        at: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), BlockError> {
        if self.whole(offset, buf.len() as u64) {
            file.read(at, &mut [IoSliceMut::new(buf)])?;
            self.decrypt(offset, buf);
            return Ok(());
        }
        let mut done = 0;
        for part in buf.chunks_mut(STEP as usize) {
            let from = (offset + done) % self.sector();
            let len = (from + part.len() as u64).next_multiple_of(self.sector());
            let mut whole = Key::new(vec![0; len as usize]);
            self.read(file, at + done - from, offset + done - from, &mut whole)?;
            part.copy_from_slice(&whole[from as usize..from as usize + part.len()]);
            done += part.len() as u64;
        }
        Ok(())
    }

    /// Writes `len` bytes, which `source` puts into one buffer after the other.
    pub(crate) fn write(
        &self,
        file: &dyn BlockNode,
        at: u64,
        offset: u64,
        len: u64,
        mut source: impl FnMut(&mut [u8]),
    ) -> Result<(), BlockError> {
        let sector = self.sector();
        let mut bounce = Vec::new();
        let mut done = 0;
        while done < len {
            let from = (offset + done) % sector;
            let n = (len - done).min(STEP - from);
            let (first, place) = (offset + done - from, at + done - from);
            let total = (from + n).next_multiple_of(sector);
            bounce.resize(total as usize, 0);
            if from != 0 {
                self.read(file, place, first, &mut bounce[..sector as usize])?;
            }
            let last = total - sector;
            if total != from + n && (from == 0 || last != 0) {
                self.read(file, place + last, first + last, &mut bounce[last as usize..])?;
            }
            source(&mut bounce[from as usize..(from + n) as usize]);
            self.encrypt(first, &mut bounce);
            file.write(place, &[IoSlice::new(&bounce)], false)?;
            done += n;
        }
        Ok(())
    }
}

/// A source that takes the bytes of several buffers, one after the other.
pub(crate) fn gather<'a>(bufs: &'a [IoSlice<'a>]) -> impl FnMut(&mut [u8]) + 'a {
    let (mut bufs, mut skip) = (bufs.iter(), 0);
    let mut buf: &[u8] = bufs.next().map_or(&[], |b| b);
    move |mut out| {
        while !out.is_empty() {
            if skip == buf.len() {
                let Some(next) = bufs.next() else { return };
                (buf, skip) = (next, 0);
            }
            let n = out.len().min(buf.len() - skip);
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&buf[skip..skip + n]);
            skip += n;
            out = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CipherSpec;
    use super::*;
    use block::MemoryNode;

    #[test]
    fn any_range_is_as_on_a_plain_disk() {
        let spec = CipherSpec::parse("aes-xts-plain64").unwrap();
        for sector in [512, 4096] {
            let cipher = SectorCipher::new(spec, &[3; 64], sector).unwrap();
            let file = MemoryNode::new("m", 3 << 20);
            let base = 512;
            let mut model = vec![0; 2 << 20];
            cipher.write(&file, base, 0, 2 << 20, |out| out.fill(0)).unwrap();
            let mut seed = 7u64;
            let mut below = |n: u64| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) % n
            };
            for i in 0..60u8 {
                let at = below(2 << 20);
                let len = below(if i % 8 == 0 { 3 << 19 } else { 9000 }).min((2 << 20) - at);
                let data = vec![i; len as usize];
                let (a, b) = data.split_at(data.len() / 3);
                cipher.write(&file, base + at, at, len, gather(&[IoSlice::new(a), IoSlice::new(b)])).unwrap();
                model[at as usize..(at + len) as usize].fill(i);
                let from = below(2 << 20);
                let mut back = vec![0; below((2 << 20) - from) as usize];
                cipher.read(&file, base + from, from, &mut back).unwrap();
                assert!(back == model[from as usize..from as usize + back.len()], "{sector} {i}");
            }
        }
    }
}
