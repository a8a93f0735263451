//! `blkverify`: two nodes that have to hold the same; every read is made on both and compared.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode, NodeInfo};
use serde_json::{Map, Value};

use crate::driver::Children;
use crate::pass::{named, pass, total_mut};

/// A node that is held against another.
#[derive(Debug)]
pub struct BlkVerify {
    test: Arc<dyn BlockNode>,
    raw: Arc<dyn BlockNode>,
}

impl BlkVerify {
    /// `test` is held against `raw`, which is known to be right.
    pub fn new(test: Arc<dyn BlockNode>, raw: Arc<dyn BlockNode>) -> Self {
        BlkVerify { test, raw }
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    let raw = children.child(map, "raw")?;
    Ok(Arc::new(BlkVerify::new(children.child(map, "test")?, raw)))
}

impl BlockNode for BlkVerify {
    pass!(test: size status allocated_size);

    fn info(&self) -> NodeInfo {
        named("blkverify", &*self.test)
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.test.read(offset, bufs)?;
        let mut right = vec![0; total_mut(bufs) as usize];
        // What the reference does not have reads as zero.
        let there = self.raw.size().saturating_sub(offset).min(right.len() as u64) as usize;
        self.raw.read(offset, &mut [IoSliceMut::new(&mut right[..there])])?;
        let found = bufs.iter().flat_map(|b| b.iter());
        if let Some(at) = found.zip(&right).position(|(a, b)| a != b) {
            let text = format!("blkverify: contents differ at offset {}", offset + at as u64);
            tracing::error!("{text}");
            return Err(BlockError::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, text)));
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.raw.write(offset, bufs, fua)?;
        self.test.write(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.raw.flush()?;
        self.test.flush()
    }

    // A discarded range reads as it likes, which may be different on both sides: so it stays.

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.raw.write_zeroes(offset, len, unmap)?;
        self.test.write_zeroes(offset, len, unmap)
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.test.clone(), self.raw.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::MemoryNode;

    #[test]
    fn a_difference_is_found() {
        let (a, b) = (Arc::new(MemoryNode::new("a", 4096)), Arc::new(MemoryNode::new("b", 4096)));
        let node = BlkVerify::new(a.clone(), b.clone());
        node.write(100, &[IoSlice::new(&[1; 100])], false).unwrap();
        let mut data = [0; 512];
        node.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
        a.write(333, &[IoSlice::new(&[7])], false).unwrap();
        let e = node.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap_err().to_string();
        assert!(e.contains("offset 333"), "{e}");
    }
}
