//! An image whose changes are done once they are stable: `cache=writethrough` and `directsync`.

use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::{CheckReport, Image, Preallocation, Repair};

use crate::delegate::{image, look};

/// Such an image.
#[derive(Debug)]
pub struct WriteThrough(Arc<dyn Image>);

impl WriteThrough {
    /// The image that all changes go to.
    pub fn new(image: Arc<dyn Image>) -> Self {
        WriteThrough(image)
    }

    fn inner(&self) -> &Arc<dyn Image> {
        &self.0
    }
}

impl BlockNode for WriteThrough {
    look!(WriteThrough::inner);

    fn write(&self, offset: u64, bufs: &[std::io::IoSlice<'_>], _: bool) -> Result<(), BlockError> {
        self.0.write(offset, bufs, true)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.0.discard(offset, len).and_then(|()| self.0.flush())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.0.write_zeroes(offset, len, unmap).and_then(|()| self.0.flush())
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        self.0.children()
    }
}

impl Image for WriteThrough {
    image!(WriteThrough::inner);

    fn format(&self) -> &'static str {
        self.0.format()
    }

    fn filename(&self) -> &str {
        self.0.filename()
    }

    fn data_filename(&self) -> &str {
        self.0.data_filename()
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.0.write_compressed(offset, data).and_then(|()| self.0.flush())
    }

    fn write_compressed_parts(&self, parts: &[(u64, &[u8])], turn: &dyn Fn()) -> Result<(), BlockError> {
        self.0.write_compressed_parts(parts, turn).and_then(|()| self.0.flush())
    }

    fn starts_zero(&self) -> bool {
        self.0.starts_zero()
    }

    fn node_name(&self) -> Option<String> {
        self.0.node_name()
    }

    fn preallocate(&self, how: Preallocation) -> Result<(), BlockError> {
        self.0.preallocate(how)
    }

    fn check(&self, repair: Repair) -> Result<CheckReport, BlockError> {
        self.0.check(repair)
    }
}
