//! A disk as others see it.

use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::{Image, chain};

/// What is known of a range of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The range.
    pub range: Range<u64>,
    /// No space is taken for it in any image of the chain.
    pub hole: bool,
    /// It reads as zero.
    pub zero: bool,
    /// Which image of the chain has it, from 1; 0 is none.
    pub depth: u32,
}

/// Tells what is known of a range, in order and without gaps.
type Status = dyn Fn(Range<u64>) -> Result<Vec<Piece>, BlockError> + Send + Sync;

/// A dirty bitmap as others see it.
pub trait Bitmap: Send + Sync {
    /// The dirty parts of a range, in order.
    fn dirty(&self, range: Range<u64>) -> Vec<Range<u64>>;
}

impl Bitmap for Vec<Range<u64>> {
    fn dirty(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let first = self.partition_point(|r| r.end <= range.start);
        let inside = self[first..].iter().take_while(|r| r.start < range.end);
        inside.map(|r| r.start.max(range.start)..r.end.min(range.end)).collect()
    }
}

/// A disk given to others.
pub struct Export {
    /// Name by which clients ask for it.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its contents.
    pub node: Arc<dyn BlockNode>,
    /// Refuse writes.
    pub read_only: bool,
    /// Several clients at once are meant.
    pub shared: bool,
    /// What is known of its ranges.
    pub status: Box<Status>,
    /// Offer `qemu:allocation-depth`.
    pub depth: bool,
    /// Bitmaps by name, offered as `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Vec<(String, Arc<dyn Bitmap>)>,
}

impl Export {
    /// An export of a node that has nothing below it; read-only if the node is.
    pub fn new(name: impl Into<String>, node: Arc<dyn BlockNode>, read_only: bool) -> Self {
        Export {
            name: name.into(),
            description: String::new(),
            read_only: read_only || node.info().read_only,
            shared: true,
            status: node_pieces(node.clone()),
            node,
            depth: false,
            bitmaps: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Export({}: {:?})", self.name, self.node)
    }
}

/// What is known through an image and all it stands on.
pub fn image_pieces(image: Arc<dyn Image>) -> Box<Status> {
    Box::new(move |range| {
        let links = chain::status(&image, range, u32::MAX)?;
        let one = |l: chain::Link| Piece {
            hole: !l.extent.allocated || l.extent.zero && l.extent.offset.is_none(),
            zero: l.extent.zero || !l.extent.allocated,
            depth: if l.extent.allocated { l.depth + 1 } else { 0 },
            range: l.extent.range,
        };
        Ok(links.into_iter().map(one).collect())
    })
}

/// What a node knows itself.
pub fn node_pieces(node: Arc<dyn BlockNode>) -> Box<Status> {
    Box::new(move |range| {
        let one = |e: block::Extent| Piece {
            hole: !e.allocated,
            zero: e.zero,
            depth: u32::from(e.allocated),
            range: e.range,
        };
        Ok(node.status(range)?.into_iter().map(one).collect())
    })
}
