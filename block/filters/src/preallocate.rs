//! `preallocate`: space is taken from the host ahead of the file's end, so that it grows in large steps; what was not used is
//! given back when the node goes.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode, NodeInfo};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::driver::{Children, scalars, wrong};
use crate::pass::{named, pass, total};

/// A node that takes space ahead.
#[derive(Debug)]
pub struct Preallocate {
    child: Arc<dyn BlockNode>,
    align: u64,
    ahead: u64,
    /// Where the data ends.
    end: Mutex<u64>,
}

impl Preallocate {
    /// Over `child`, `ahead` bytes at a time, up to a multiple of `align`.
    pub fn new(child: Arc<dyn BlockNode>, align: u64, ahead: u64) -> Self {
        let end = Mutex::new(child.size());
        Preallocate { child, align: align.max(1), ahead, end }
    }

    /// Takes space for data up to `end`.
    fn grow(&self, to: u64) -> Result<(), BlockError> {
        let mut end = self.end.lock();
        if to > *end {
            if to > self.child.size() {
                let target = (to + self.ahead).next_multiple_of(self.align);
                let from = self.child.size();
                // A host without room for so much has the data tried all the same.
                let _ = self.child.write_zeroes(from, target - from, false);
            }
            *end = to;
        }
        Ok(())
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    let options = scalars(map);
    let align = options.size("prealloc-align")?.unwrap_or(1 << 20);
    let ahead = options.size("prealloc-size")?.unwrap_or(128 << 20);
    if !align.is_multiple_of(512) || align == 0 {
        return Err(wrong("preallocate", format!("prealloc-align={align}: expected a multiple of 512")));
    }
    Ok(Arc::new(Preallocate::new(children.child(map, "file")?, align, ahead)))
}

impl BlockNode for Preallocate {
    pass!(child: flush discard allocated_size grows children);

    fn info(&self) -> NodeInfo {
        NodeInfo { size: self.size(), ..named("preallocate", &*self.child) }
    }

    fn size(&self) -> u64 {
        *self.end.lock()
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.child.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.grow(offset + total(bufs))?;
        self.child.write(offset, bufs, fua)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.grow(offset + len)?;
        self.child.write_zeroes(offset, len, unmap)
    }

    fn status(&self, range: std::ops::Range<u64>) -> Result<Vec<block::Extent>, BlockError> {
        self.child.status(range)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        let mut end = self.end.lock();
        self.child.resize(size)?;
        *end = size;
        Ok(())
    }
}

impl Drop for Preallocate {
    fn drop(&mut self) {
        let end = *self.end.lock();
        if self.child.size() > end && !self.child.info().read_only {
            let _ = self.child.resize(end);
        }
    }
}
