//! A disk in host memory.

use std::io::{IoSlice, IoSliceMut};

use parking_lot::RwLock;

use crate::node::{BlockNode, NodeInfo};
use crate::{BlockError, SECTOR};

/// Contents in host memory, lost at the end. Zero at first.
#[derive(Debug)]
pub struct MemoryNode {
    name: String,
    data: RwLock<Vec<u8>>,
}

impl MemoryNode {
    /// A disk of `size` zero bytes.
    pub fn new(name: impl Into<String>, size: usize) -> Self {
        Self::from_vec(name, vec![0; size])
    }

    /// A disk with these contents.
    pub fn from_vec(name: impl Into<String>, data: Vec<u8>) -> Self {
        MemoryNode { name: name.into(), data: RwLock::new(data) }
    }
}

impl BlockNode for MemoryNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("memory:{}", self.name),
            size: self.data.read().len() as u64,
            read_only: false,
            granularity: SECTOR as u32,
            can_discard: false,
        }
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let data = self.data.read();
        let mut at = offset as usize;
        for buf in bufs {
            let part = data.get(at..at + buf.len()).ok_or(std::io::ErrorKind::UnexpectedEof);
            buf.copy_from_slice(part.map_err(std::io::Error::from)?);
            at += buf.len();
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        let mut data = self.data.write();
        let mut at = offset as usize;
        for buf in bufs {
            let part = data.get_mut(at..at + buf.len()).ok_or(std::io::ErrorKind::WriteZero);
            part.map_err(std::io::Error::from)?.copy_from_slice(buf);
            at += buf.len();
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn size(&self) -> u64 {
        self.data.read().len() as u64
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        let size = usize::try_from(size).map_err(|_| BlockError::Unsupported("a size beyond memory"))?;
        self.data.write().resize(size, 0);
        Ok(())
    }
}
