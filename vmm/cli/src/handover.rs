//! Image files that change hands: opened without a lock while another Rhea still has them, given up when it takes them over.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::path::PathBuf;

use block::{Aio, BlockError, BlockNode, Extent, FileNode, FileOptions, NodeInfo, Sharing};
use parking_lot::RwLock;

/// A file that can be given up and taken back.
#[derive(Debug)]
pub(crate) struct Handover {
    path: PathBuf,
    options: FileOptions,
    /// The file, and whether it is ours.
    file: RwLock<(FileNode, bool)>,
}

impl Handover {
    /// Opens the file; `ours` if nobody else has it.
    pub(crate) fn open(path: &str, options: FileOptions, ours: bool) -> Result<Self, BlockError> {
        let file = FileNode::open(path, Self::as_owner(&options, ours))?;
        // The folder may change, at the latest when the process goes to the background.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Ok(Self { path, options, file: RwLock::new((file, ours)) })
    }

    fn as_owner(options: &FileOptions, ours: bool) -> FileOptions {
        FileOptions {
            sharing: if ours { options.sharing } else { Sharing::Unlocked },
            // Without the lock nothing may be written.
            read_only: options.read_only || !ours,
            ..options.clone()
        }
    }

    /// The way requests go to the host.
    pub(crate) fn aio(&self) -> Aio {
        self.file.read().0.aio()
    }

    /// Gives it up: another process may write it from now on.
    pub(crate) fn release(&self) -> Result<(), BlockError> {
        self.change(false)
    }

    /// Takes it back; fails if another process has it.
    pub(crate) fn take(&self) -> Result<(), BlockError> {
        self.change(true)
    }

    fn change(&self, ours: bool) -> Result<(), BlockError> {
        let mut file = self.file.write();
        if file.1 == ours {
            return Ok(());
        }
        if !ours && !self.options.read_only {
            file.0.flush()?;
        }
        *file = (FileNode::open(&self.path, Self::as_owner(&self.options, ours))?, ours);
        Ok(())
    }
}

impl BlockNode for Handover {
    fn info(&self) -> NodeInfo {
        // What it is does not depend on whose it is at the moment.
        NodeInfo { read_only: self.options.read_only, ..self.file.read().0.info() }
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.file.read().0.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.owned()?.0.write(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.read().0.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.owned()?.0.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.owned()?.0.write_zeroes(offset, len, unmap)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.file.read().0.status(range)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.owned()?.0.resize(size)
    }

    fn size(&self) -> u64 {
        self.file.read().0.size()
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.read().0.allocated_size()
    }

    fn grows(&self) -> bool {
        self.file.read().0.grows()
    }

    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        self.file.read().0.relock(locked)
    }
}

impl Handover {
    fn owned(&self) -> Result<parking_lot::RwLockReadGuard<'_, (FileNode, bool)>, BlockError> {
        let file = self.file.read();
        if file.1 { Ok(file) } else { Err(BlockError::ReadOnly) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time() {
        let dir = std::env::temp_dir().join(format!("rhea-handover-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("disk").display().to_string();
        std::fs::write(&path, [1; 1024]).unwrap();
        let source = Handover::open(&path, FileOptions::default(), true).unwrap();
        let target = Handover::open(&path, FileOptions::default(), false).unwrap();
        assert!(!target.info().read_only, "it will be writable");
        assert!(target.write(0, &[IoSlice::new(&[2])], false).is_err());
        assert!(target.take().is_err(), "the source has it");
        source.write(0, &[IoSlice::new(&[3])], false).unwrap();
        source.release().unwrap();
        target.take().unwrap();
        assert!(source.write(0, &[IoSlice::new(&[4])], false).is_err());
        assert!(source.take().is_err(), "the target has it");
        target.write(1, &[IoSlice::new(&[5])], true).unwrap();
        drop(target);
        source.take().unwrap();
        let mut back = [0; 2];
        source.read(0, &mut [IoSliceMut::new(&mut back)]).unwrap();
        assert_eq!(back, [3, 5]);
        drop(source);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
