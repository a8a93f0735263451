//! What a command is made of in memory (AHCI 1.3.1, section 4.2): its header, its table with the FIS, the packet and the
//! regions of its data.

use device::Dma;

/// Bytes of a header.
const HEADER: u64 = 32;
/// Offsets in a table.
const PACKET: u64 = 0x40;
const REGIONS: u64 = 0x80;
/// Regions read from memory at a time.
const BATCH: usize = 64;

/// Header bits.
pub(super) const CLEAR_BUSY: u32 = 1 << 10;

/// A command's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Where it is.
    pub(super) at: u64,
    pub(super) flags: u32,
    pub(super) table: u64,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |v, b| v << 8 | u32::from(*b))
}

impl Header {
    pub(super) fn load(dma: &Dma, list: u64, slot: u8) -> Option<Header> {
        let at = list.wrapping_add(u64::from(slot) * HEADER);
        let mut bytes = [0; 16];
        dma.read(at, &mut bytes).ok()?;
        let table = u64::from(word(&bytes, 12)) << 32 | u64::from(word(&bytes, 8));
        Some(Header { at, flags: word(&bytes, 0), table: table & !0x7f })
    }

    /// Number of regions.
    fn regions(&self) -> usize {
        (self.flags >> 16) as usize
    }

    /// The FIS, as far as it matters.
    pub(super) fn fis(&self, dma: &Dma) -> Option<[u8; 20]> {
        let mut fis = [0; 20];
        dma.read(self.table, &mut fis).ok()?;
        Some(fis)
    }

    pub(super) fn packet(&self, dma: &Dma) -> Option<[u8; 16]> {
        let mut packet = [0; 16];
        dma.read(self.table.wrapping_add(PACKET), &mut packet).ok()?;
        Some(packet)
    }

    /// Tells the host how many bytes have been moved.
    pub(super) fn moved(&self, dma: &Dma, bytes: u64) {
        // A host that took its list away is not told.
        let _ = dma.write(self.at.wrapping_add(4), &(bytes as u32).to_le_bytes());
    }

    /// Calls `step` with address, offset and length for each part of `len` bytes from `skip` on of the regions; how many
    /// bytes the regions had room for.
    fn each(
        &self,
        dma: &Dma,
        skip: u64,
        len: usize,
        mut step: impl FnMut(u64, usize, usize) -> bool,
    ) -> usize {
        let (mut skip, mut done, mut index) = (skip, 0, 0);
        let mut batch = [0; BATCH * 16];
        while done < len && index < self.regions() {
            let n = (self.regions() - index).min(BATCH);
            let at = self.table.wrapping_add(REGIONS + 16 * index as u64);
            if dma.read(at, &mut batch[..16 * n]).is_err() {
                return done;
            }
            for entry in batch[..16 * n].chunks_exact(16) {
                let address = u64::from(word(entry, 4)) << 32 | u64::from(word(entry, 0) & !1);
                let size = u64::from(word(entry, 12) & 0x3f_ffff) + 1;
                if skip >= size {
                    skip -= size;
                    continue;
                }
                let part = ((size - skip) as usize).min(len - done);
                if !step(address.wrapping_add(skip), done, part) {
                    return done;
                }
                (skip, done) = (0, done + part);
                if done == len {
                    break;
                }
            }
            index += n;
        }
        done
    }

    /// Gives data to the host, the regions' first `skip` bytes being used already; how much there was room for.
    pub(super) fn scatter(&self, dma: &Dma, skip: u64, data: &[u8]) -> usize {
        self.each(dma, skip, data.len(), |address, at, n| dma.write(address, &data[at..at + n]).is_ok())
    }

    /// Takes data from the host; all of it or nothing.
    pub(super) fn gather(&self, dma: &Dma, skip: u64, len: usize) -> Option<Vec<u8>> {
        let mut data = vec![0; len];
        let got =
            self.each(dma, skip, len, |address, at, n| dma.read(address, &mut data[at..at + n]).is_ok());
        (got == len).then_some(data)
    }
}
