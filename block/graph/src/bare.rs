//! A node that is no image, as one: a protocol or a filter, byte for byte.

use std::sync::Arc;

use block::BlockNode;
use block_formats::Image;

use crate::delegate::{change, look};

/// A protocol or a filter under its driver's name.
#[derive(Debug)]
pub struct Bare {
    node: Arc<dyn BlockNode>,
    driver: &'static str,
    filename: String,
}

impl Bare {
    /// `node`, which `driver` has made.
    pub fn new(node: Arc<dyn BlockNode>, driver: &'static str, filename: impl Into<String>) -> Self {
        Bare { node, driver, filename: filename.into() }
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
}
