//! `copy-on-read`: what is read from a backing file is written into the image, so that it is there the next time.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode, NodeInfo};
use parking_lot::RwLock;
use serde_json::{Map, Value};

use crate::driver::{Children, wrong};
use crate::pass::{named, pass, spread, total_mut};

/// Unit in which data is copied, if the image has no larger one.
const UNIT: u64 = 64 << 10;

/// A node that keeps what was read.
#[derive(Debug)]
pub struct CopyOnRead {
    child: Arc<dyn BlockNode>,
    unit: u64,
    /// Taken for writing while data is copied: a write in between would be overwritten by what was there before it.
    copying: RwLock<()>,
}

impl CopyOnRead {
    /// Over `child`, copying whole units.
    pub fn new(child: Arc<dyn BlockNode>, unit: Option<u64>) -> Self {
        CopyOnRead { child, unit: unit.unwrap_or(UNIT).max(512), copying: RwLock::new(()) }
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    if map.contains_key("bottom") {
        return Err(wrong(
            "copy-on-read",
            "bottom is not supported: what any image of the chain has is copied",
        ));
    }
    let child = children.child(map, "file")?;
    let unit = child.details().cluster_size;
    Ok(Arc::new(CopyOnRead::new(child, unit)))
}

impl BlockNode for CopyOnRead {
    pass!(child: size flush status resize allocated_size grows children);

    fn info(&self) -> NodeInfo {
        named("copy-on-read", &*self.child)
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let end = offset + total_mut(bufs);
        if self.child.info().read_only
            || self.child.status(offset..end)?.iter().all(|e| e.allocated || e.zero)
        {
            return self.child.read(offset, bufs);
        }
        let first = offset / self.unit * self.unit;
        let last = end.next_multiple_of(self.unit).min(self.size());
        let _alone = self.copying.write();
        let mut data = vec![0; (last - first) as usize];
        self.child.read(first, &mut [IoSliceMut::new(&mut data)])?;
        for e in self.child.status(first..last)?.iter().filter(|e| !e.allocated && !e.zero) {
            let part = &data[(e.range.start - first) as usize..(e.range.end - first) as usize];
            if block_formats::is_zero(part) {
                self.child.write_zeroes(e.range.start, part.len() as u64, true)?;
            } else {
                self.child.write(e.range.start, &[IoSlice::new(part)], false)?;
            }
        }
        spread(&data[(offset - first) as usize..(end - first) as usize], bufs);
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let _shared = self.copying.read();
        self.child.write(offset, bufs, fua)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let _shared = self.copying.read();
        self.child.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let _shared = self.copying.read();
        self.child.write_zeroes(offset, len, unmap)
    }
}
