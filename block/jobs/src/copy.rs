//! What all jobs do: move pieces of one disk to another.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::{Image, chain, is_zero};

/// Bytes that are moved at a time.
pub(crate) const CHUNK: u64 = 1 << 20;

/// What of the source is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Everything.
    Full,
    /// What the topmost image has.
    Top,
    /// What is written from now on.
    None,
    /// What a bitmap says.
    Incremental,
}

impl Sync {
    /// Names in QMP.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("full", Self::Full),
        ("top", Self::Top),
        ("none", Self::None),
        ("incremental", Self::Incremental),
        ("bitmap", Self::Incremental),
    ];
}

/// An error with whose it was: true is the source's.
pub(crate) type Failure = (bool, BlockError);

/// Moves a range. Zeroes are written as such.
pub(crate) fn copy(
    source: &dyn BlockNode,
    target: &dyn Image,
    range: Range<u64>,
    compress: bool,
    buffer: &mut Vec<u8>,
) -> Result<(), Failure> {
    let len = (range.end - range.start) as usize;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let data = &mut buffer[..len];
    source.read(range.start, &mut [IoSliceMut::new(data)]).map_err(|e| (true, e))?;
    let cluster = if compress { target.details().cluster_size.unwrap_or(0) } else { 0 };
    let done = if is_zero(data) {
        target.write_zeroes(range.start, len as u64, true)
    } else if cluster != 0 && range.start.is_multiple_of(cluster) {
        let mut parts = data.chunks(cluster as usize).enumerate();
        parts.try_for_each(|(i, part)| target.write_compressed(range.start + i as u64 * cluster, part))
    } else {
        target.write(range.start, &[IoSlice::new(data)], false)
    };
    done.map_err(|e| (false, e))
}

/// Ranges that the topmost image of a chain has itself.
pub(crate) fn own_ranges(image: &Arc<dyn Image>, range: Range<u64>) -> Result<Vec<Range<u64>>, BlockError> {
    Ok(image.status(range)?.into_iter().filter(|e| e.allocated).map(|e| e.range).collect())
}

/// Ranges that some image above the one at `depth` has, as (range, depth of the image).
pub(crate) fn ranges_above(
    image: &Arc<dyn Image>,
    range: Range<u64>,
    depth: u32,
) -> Result<Vec<(Range<u64>, u32)>, BlockError> {
    let links = chain::status(image, range, depth.saturating_sub(1))?;
    Ok(links.into_iter().filter(|l| l.extent.allocated).map(|l| (l.extent.range, l.depth)).collect())
}
