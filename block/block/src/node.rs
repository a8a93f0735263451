//! What a storey of a disk implements.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use crate::BlockError;

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// What it is and where, e.g. `raw:/path/disk.img`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Writes fail.
    pub read_only: bool,
    /// Requests that are multiples of this many bytes are served best.
    pub granularity: u32,
    /// Discarded ranges give space back.
    pub can_discard: bool,
}

/// What is known of a range without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The range in bytes.
    pub range: Range<u64>,
    /// Space is taken for it in this node (else it comes from what lies below, or reads as zero).
    pub allocated: bool,
    /// It reads as zero.
    pub zero: bool,
    /// Where it is stored as it reads, in the file below.
    pub offset: Option<u64>,
    /// It is stored compressed.
    pub compressed: bool,
}

impl Extent {
    /// A range of which no more is known.
    pub fn new(range: Range<u64>, allocated: bool, zero: bool) -> Self {
        Extent { range, allocated, zero, offset: None, compressed: false }
    }

    /// Appends `next`, which follows the last extent, to a list, as a part of that extent if it continues it.
    pub fn push(list: &mut Vec<Extent>, next: Extent) {
        if next.range.is_empty() {
            return;
        }
        if let Some(last) = list.last_mut() {
            let follows = last.range.end == next.range.start
                && (last.allocated, last.zero, last.compressed)
                    == (next.allocated, next.zero, next.compressed)
                && last.offset.map(|o| o + (last.range.end - last.range.start)) == next.offset;
            if follows {
                last.range.end = next.range.end;
                return;
            }
        }
        list.push(next);
    }
}

/// One storey of a disk.
///
/// Called from several threads at once. Callers ([`crate::Disk`], or a node above) guarantee: ranges lie within
/// `info().size`, a read-only node is not written. Lengths of zero are possible. Nothing is said about the order
/// of requests that overlap in time. Contents come from untrusted guests: no value in an image may panic.
pub trait BlockNode: Send + Sync + fmt::Debug {
    /// Size and abilities. Cheap.
    fn info(&self) -> NodeInfo;

    /// Fills the buffers from `offset` on.
    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError>;

    /// Writes the buffers from `offset` on; with `fua` the data is on stable storage before it returns.
    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError>;

    /// All writes that have returned are on stable storage afterwards.
    fn flush(&self) -> Result<(), BlockError>;

    /// The contents of the range do not matter any more. May do nothing.
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let _ = (offset, len);
        Ok(())
    }

    /// Makes the range read as zero; `unmap` allows giving its space back.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let _ = unmap;
        write_zero_buffers(self, offset, len)
    }

    /// What is known of the range: extents in ascending order that cover it.
    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        Ok(vec![Extent::new(range, true, false)])
    }

    /// Changes the size.
    fn resize(&self, size: u64) -> Result<(), BlockError> {
        let _ = size;
        Err(BlockError::Unsupported("changing the size"))
    }

    /// Size in bytes, without the rest of [`BlockNode::info`].
    fn size(&self) -> u64 {
        self.info().size
    }

    /// Space it takes on the host in bytes, if that is known.
    fn allocated_size(&self) -> Option<u64> {
        None
    }

    /// Whether a write beyond the end makes it longer, what lies between reading as zero.
    fn grows(&self) -> bool {
        false
    }

    /// Gives up the lock of the host's file below, or takes it again: for opening the file anew in another way.
    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        let _ = locked;
        Ok(())
    }

    /// The nodes this one stands on.
    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        Vec::new()
    }
}

/// Writes zeroes the slow way.
pub(crate) fn write_zero_buffers<N: BlockNode + ?Sized>(
    node: &N,
    offset: u64,
    len: u64,
) -> Result<(), BlockError> {
    let zeroes = vec![0; len.min(1 << 20) as usize];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(zeroes.len() as u64);
        node.write(offset + done, &[IoSlice::new(&zeroes[..n as usize])], false)?;
        done += n;
    }
    Ok(())
}
