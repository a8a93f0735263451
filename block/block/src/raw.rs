//! Raw images: a host file or block device whose bytes are the disk's, rounded up to a sector.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::path::Path;

use crate::file::{FileNode, FileOptions, Sharing};
use crate::node::{BlockNode, Extent, NodeInfo};
use crate::{BlockError, SECTOR};

/// How to open a raw image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// Open for reading only.
    pub read_only: bool,
    /// Lock the image against other users.
    pub lock: bool,
    /// Pass the guest's discards on to the host file.
    pub discard: bool,
    /// Flushes do nothing: fast, and the image is lost with the host.
    pub unsafe_cache: bool,
}

impl Default for RawOptions {
    fn default() -> Self {
        RawOptions { read_only: false, lock: true, discard: true, unsafe_cache: false }
    }
}

/// A raw image.
#[derive(Debug)]
pub struct RawFile(FileNode);

impl RawFile {
    /// Opens an image.
    pub fn open(path: impl AsRef<Path>, options: RawOptions) -> Result<Self, BlockError> {
        let RawOptions { read_only, lock, discard, unsafe_cache } = options;
        let sharing = if lock { Sharing::Readers } else { Sharing::Unlocked };
        Ok(RawFile(FileNode::open(
            path,
            FileOptions { read_only, sharing, discard, unsafe_cache, ..FileOptions::default() },
        )?))
    }

    /// Path of the image.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn whole_sectors(size: u64) -> u64 {
    size.checked_next_multiple_of(SECTOR).unwrap_or(size)
}

impl BlockNode for RawFile {
    fn info(&self) -> NodeInfo {
        let file = self.0.info();
        NodeInfo { name: format!("raw:{}", self.path().display()), size: whole_sectors(file.size), ..file }
    }

    fn size(&self) -> u64 {
        whole_sectors(self.0.size())
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.0.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.0.write(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.0.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.0.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.0.write_zeroes(offset, len, unmap)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        // Nothing lies below: a hole is this disk's own.
        let mut extents = self.0.status(range)?;
        extents.iter_mut().for_each(|e| e.allocated = true);
        Ok(extents)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.0.resize(size)
    }

    fn allocated_size(&self) -> Option<u64> {
        self.0.allocated_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(data: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(data).unwrap();
        file
    }

    fn read(node: &RawFile, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xee; len];
        node.read(offset, &mut [IoSliceMut::new(&mut data)]).unwrap();
        data
    }

    #[test]
    fn reads_writes_and_pads_the_last_sector() {
        let file = image(&[7; 1000]);
        let node = RawFile::open(file.path(), RawOptions::default()).unwrap();
        assert_eq!(node.info().size, 1024);
        assert_eq!(read(&node, 998, 4), [7, 7, 0, 0]);
        node.write(1, &[IoSlice::new(&[1, 2]), IoSlice::new(&[3])], true).unwrap();
        assert_eq!(read(&node, 0, 5), [7, 1, 2, 3, 7]);
        node.write_zeroes(2, 600, true).unwrap();
        assert_eq!(read(&node, 600, 4), [0, 0, 7, 7]);
        node.discard(0, 512).unwrap();
        node.resize(4096).unwrap();
        assert_eq!(node.info().size, 4096);
    }

    #[test]
    fn two_writers_are_refused() {
        let file = image(&[0; 512]);
        let reader = || RawFile::open(file.path(), RawOptions { read_only: true, ..RawOptions::default() });
        let writer = || RawFile::open(file.path(), RawOptions::default());
        let first = writer().unwrap();
        assert!(matches!(writer(), Err(BlockError::InUse { .. })));
        let text = reader().unwrap_err().to_string();
        assert!(text.contains("in use by another process that writes it"), "{text}");
        drop(first);
        let (_a, _b) = (reader().unwrap(), reader().unwrap());
        assert!(matches!(writer(), Err(BlockError::InUse { .. })));
        RawFile::open(file.path(), RawOptions { lock: false, ..RawOptions::default() }).unwrap();
        let text = RawFile::open("/nonexistent/x.img", RawOptions::default()).unwrap_err().to_string();
        assert!(text.starts_with("/nonexistent/x.img: "), "{text}");
    }
}
