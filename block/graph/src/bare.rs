//! A node that is no image, as one: a protocol or a filter, byte for byte.

use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::{Image, Snapshot};

use crate::delegate::{change, look};

/// A protocol or a filter under its driver's name.
#[derive(Debug)]
pub struct Bare {
    node: Arc<dyn BlockNode>,
    driver: &'static str,
    filename: String,
    below: Option<Arc<dyn Image>>,
}

impl Bare {
    /// `node`, which `driver` has made.
    pub fn new(node: Arc<dyn BlockNode>, driver: &'static str, filename: impl Into<String>) -> Self {
        Bare { node, driver, filename: filename.into(), below: None }
    }

    /// Has the snapshots of `below`, which it stands on.
    #[must_use]
    pub fn over(self, below: Arc<dyn Image>) -> Self {
        Bare { below: Some(below), ..self }
    }

    fn below(&self) -> Result<&dyn Image, BlockError> {
        self.below.as_deref().ok_or(BlockError::Unsupported("a snapshot inside it"))
    }

    fn inner(&self) -> &Arc<dyn BlockNode> {
        &self.node
    }
}

impl BlockNode for Bare {
    look!(Bare::inner);
    change!(Bare::inner);

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        self.node.children()
    }
}

impl Image for Bare {
    fn format(&self) -> &'static str {
        self.driver
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.below.as_ref().map_or_else(Vec::new, |b| b.snapshots())
    }

    fn create_snapshot(&self, snapshot: &Snapshot) -> Result<(), BlockError> {
        self.below()?.create_snapshot(snapshot)
    }

    fn apply_snapshot(&self, id: &str) -> Result<(), BlockError> {
        self.below()?.apply_snapshot(id)
    }

    fn delete_snapshot(&self, id: &str) -> Result<(), BlockError> {
        self.below()?.delete_snapshot(id)
    }

    fn open_snapshot(&self, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
        self.below()?.open_snapshot(id)
    }

    fn can_snapshot(&self) -> bool {
        self.below.as_ref().is_some_and(|b| b.can_snapshot())
    }

    fn write_state(&self, at: u64, data: &[u8]) -> Result<(), BlockError> {
        self.below()?.write_state(at, data)
    }

    fn read_state(&self, at: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.below()?.read_state(at, buf)
    }

    fn discard_state(&self) -> Result<(), BlockError> {
        self.below()?.discard_state()
    }

    fn open_state(&self, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
        self.below()?.open_state(id)
    }
}
