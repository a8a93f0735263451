//! What sees the changes to a node.

use std::io::IoSlice;
use std::ops::Range;

use block::BlockError;

/// A change to a node's contents.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Data is written.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bufs: &'a [IoSlice<'a>],
    },
    /// Zeroes are written.
    Zeroes {
        /// Where.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Space may be given back.
        unmap: bool,
    },
    /// Contents are given up.
    Discard {
        /// Where.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl Change<'_> {
    /// What it touches.
    pub fn range(&self) -> Range<u64> {
        let (offset, len) = match self {
            Change::Write { offset, bufs } => (*offset, bufs.iter().map(|b| b.len() as u64).sum()),
            Change::Zeroes { offset, len, .. } | Change::Discard { offset, len } => (*offset, *len),
        };
        offset..offset + len
    }
}

/// What sees the changes to a node, in the thread that makes them.
pub trait Hook: Send + Sync {
    /// Before it is done; an error keeps it from being done.
    fn before(&self, change: &Change<'_>) -> Result<(), BlockError> {
        let _ = change;
        Ok(())
    }

    /// After it was done, or was tried.
    fn after(&self, change: &Change<'_>, done: bool) -> Result<(), BlockError> {
        let _ = (change, done);
        Ok(())
    }
}
