//! Data between a disk and a buffer of a queue. It passes through a buffer of ours: the block layer takes slices, and guest
//! memory may change under a slice.

use std::io::IoSlice;

use ::block::{BlockError, Disk};
use parking_lot::Mutex;

use crate::chain::Chain;

/// Bytes that pass through the buffer at a time.
pub(crate) const PIECE: usize = 256 << 10;

/// Buffers that no request uses: as many as there are threads.
#[derive(Default)]
pub(crate) struct Transfers(Mutex<Vec<Vec<u8>>>);

impl Transfers {
    fn with<R>(&self, len: u64, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let len = len.min(PIECE as u64) as usize;
        let mut buffer = self.0.lock().pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len.next_power_of_two(), 0);
        }
        let result = f(&mut buffer);
        self.0.lock().push(buffer);
        result
    }

    /// Reads `len` bytes from `offset` of the disk on into the chain.
    pub(crate) fn read(
        &self,
        disk: &Disk,
        chain: &mut Chain,
        offset: u64,
        len: u64,
    ) -> Result<(), BlockError> {
        self.with(len, |buffer| {
            let mut done = 0;
            while done < len {
                let n = (len - done).min(PIECE as u64) as usize;
                disk.read_at(offset + done, &mut buffer[..n])?;
                chain.write(&buffer[..n]);
                done += n as u64;
            }
            Ok(())
        })
    }

    /// Writes the next `len` bytes of the chain from `offset` of the disk on; the chain has as many.
    pub(crate) fn write(
        &self,
        disk: &Disk,
        chain: &mut Chain,
        offset: u64,
        len: u64,
        stable: bool,
    ) -> Result<(), BlockError> {
        self.with(len, |buffer| {
            let mut done = 0;
            while done < len {
                let max = (len - done).min(PIECE as u64) as usize;
                let n = chain.read(&mut buffer[..max]);
                if n == 0 {
                    break;
                }
                disk.write_vectored_at(offset + done, &[IoSlice::new(&buffer[..n])], stable)?;
                done += n as u64;
            }
            Ok(())
        })
    }
}
