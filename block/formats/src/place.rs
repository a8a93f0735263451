//! Where a new image is written: a file of its own, or a node that is there already and keeps its size (a device of the host, an
//! export of an NBD server).

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, FileNode, NodeInfo};

/// Such a place.
#[derive(Debug)]
pub(crate) enum Place {
    /// A file of the host.
    File(FileNode),
    /// Something else, by the name it has for the user.
    Node(Arc<dyn BlockNode>, String),
}

impl Place {
    fn node(&self) -> &dyn BlockNode {
        match self {
            Place::File(file) => file,
            Place::Node(node, _) => &**node,
        }
    }

    /// Whether it is as long as is asked for.
    pub(crate) fn is_regular(&self) -> bool {
        matches!(self, Place::File(file) if file.is_regular())
    }

    /// Has the host keep space for a range.
    pub(crate) fn reserve(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        match self {
            Place::File(file) => file.reserve(offset, len),
            // It is kept already, if there is as much.
            Place::Node(..) => self.resize(offset + len),
        }
    }
}

impl BlockNode for Place {
    fn info(&self) -> NodeInfo {
        self.node().info()
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.node().read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        if let Place::Node(..) = self {
            let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
            self.resize(offset + len)?;
        }
        self.node().write(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.node().flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.node().discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.node().write_zeroes(offset, len, unmap)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.node().status(range)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        match self {
            Place::File(file) => file.resize(size),
            Place::Node(node, name) if size > node.size() => Err(BlockError::Format {
                path: name.clone(),
                what: format!("holds {} bytes, and the image needs {size}", node.size()),
            }),
            Place::Node(..) => Ok(()),
        }
    }

    fn size(&self) -> u64 {
        self.node().size()
    }

    fn grows(&self) -> bool {
        self.node().grows()
    }
}
