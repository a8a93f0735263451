//! What is known of a range through a whole chain of backing files.

use std::ops::Range;
use std::sync::Arc;

use crate::image::Image;
use block::{BlockError, Extent};

/// Bytes of a disk that are asked about at a time.
pub const STEP: u64 = 1 << 30;

/// A range and the image that decides what is in it.
#[derive(Clone, Debug)]
pub struct Link {
    /// What the image says of the range.
    pub extent: Extent,
    /// Steps down the chain.
    pub depth: u32,
    /// The image that decides.
    pub image: Arc<dyn Image>,
}

impl Link {
    /// It may hold something other than zero.
    pub fn data(&self) -> bool {
        self.extent.allocated && !self.extent.zero
    }
}

/// What a range is, with `deepest` images of the chain looked at.
pub fn status(image: &Arc<dyn Image>, range: Range<u64>, deepest: u32) -> Result<Vec<Link>, BlockError> {
    let mut out = Vec::new();
    walk(image, range, 0, deepest, &mut out)?;
    Ok(out)
}

fn walk(
    image: &Arc<dyn Image>,
    range: Range<u64>,
    depth: u32,
    deepest: u32,
    out: &mut Vec<Link>,
) -> Result<(), BlockError> {
    for extent in image.status(range)? {
        let below = if depth < deepest { image.backing() } else { None };
        let (true, Some(below)) = (!extent.allocated, below) else {
            out.push(Link { extent, depth, image: image.clone() });
            continue;
        };
        let end = extent.range.end.min(below.size());
        if extent.range.start < end {
            walk(&below, extent.range.start..end, depth + 1, deepest, out)?;
        }
        let beyond = end.max(extent.range.start)..extent.range.end;
        if !beyond.is_empty() {
            out.push(Link { extent: Extent::new(beyond, false, true), depth: depth + 1, image: below });
        }
    }
    Ok(())
}

/// Ranges of a part of a disk that may hold something other than zero.
pub fn data_ranges(image: &Arc<dyn Image>, range: Range<u64>) -> Result<Vec<Range<u64>>, BlockError> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for link in status(image, range, u32::MAX)?.iter().filter(|l| l.data()) {
        match out.last_mut() {
            Some(last) if last.end == link.extent.range.start => last.end = link.extent.range.end,
            _ => out.push(link.extent.range.clone()),
        }
    }
    Ok(out)
}

/// The images of a chain, topmost first.
pub fn images(image: &Arc<dyn Image>) -> Vec<Arc<dyn Image>> {
    let mut all = vec![image.clone()];
    while let Some(below) = all.last().and_then(|i| i.backing()) {
        all.push(below);
    }
    all
}
