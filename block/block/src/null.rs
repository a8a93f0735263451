//! A disk that swallows writes and reads as zero.

use std::io::{IoSlice, IoSliceMut};

use crate::node::{BlockNode, Extent, NodeInfo};
use crate::{BlockError, SECTOR};

/// No contents at all.
#[derive(Clone, Copy, Debug)]
pub struct NullNode {
    size: u64,
}

impl NullNode {
    /// A disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        NullNode { size }
    }
}

impl BlockNode for NullNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "null".into(),
            size: self.size,
            read_only: false,
            granularity: SECTOR as u32,
            can_discard: false,
        }
    }

    fn read(&self, _offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        bufs.iter_mut().for_each(|b| b.fill(0));
        Ok(())
    }

    fn write(&self, _offset: u64, _bufs: &[IoSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, range: std::ops::Range<u64>) -> Result<Vec<Extent>, BlockError> {
        Ok(vec![Extent::new(range, false, true)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_zero_whatever_is_written() {
        let node = NullNode::new(4096);
        node.write(0, &[IoSlice::new(&[1; 512])], true).unwrap();
        let mut data = [7; 512];
        node.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
        assert_eq!(data, [0; 512]);
        assert!(node.status(0..4096).unwrap()[0].zero);
    }
}
