//! The part of a file that a header may use: all of a detached one, what lies before the data, or some clusters.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode};

use crate::crypto::Key;

/// A range of a file.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    node: Arc<dyn BlockNode>,
    path: String,
    base: u64,
    len: u64,
}

impl Area {
    /// `len` bytes of a file from `base` on.
    pub(crate) fn new(node: Arc<dyn BlockNode>, path: &str, base: u64, len: u64) -> Self {
        Area { node, path: path.into(), base, len }
    }

    /// Bytes it has.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// An error about the header.
    pub(super) fn bad(&self, what: impl Into<String>) -> BlockError {
        BlockError::Format { path: self.path.clone(), what: what.into() }
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.bad(format!(
                "LUKS: {len} bytes at {offset:#x} go beyond the {} bytes there are for the header",
                self.len
            ))),
        }
    }

    /// Reads a part; beyond the end of the file it is zero.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Key, BlockError> {
        self.check(offset, len as u64)?;
        let mut data = Key::new(vec![0; len]);
        let at = self.base + offset;
        let there = self.node.size().saturating_sub(at).min(len as u64) as usize;
        if there != 0 {
            self.node.read(at, &mut [IoSliceMut::new(&mut data[..there])])?;
        }
        Ok(data)
    }

    /// Writes a part.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.check(offset, data.len() as u64)?;
        self.node.write(self.base + offset, &[IoSlice::new(data)], false)
    }

    /// What was written is on stable storage afterwards.
    pub(super) fn flush(&self) -> Result<(), BlockError> {
        self.node.flush()
    }
}
