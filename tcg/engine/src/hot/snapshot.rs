//! The guest code that a second look works on, as it was when the look began.

use guest_memory::PAGE_SIZE;
use rustc_hash::FxHashSet;

use crate::{CodeReader, Trap};

/// A page of guest code.
pub(super) struct Page {
    /// Guest virtual address.
    pub(super) gva: u64,
    /// Where it lies in the block of RAM.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// Pages of one block.
pub(super) struct Snapshot {
    pub(super) pages: Vec<Page>,
}

impl Snapshot {
    fn page(&self, pc: u64) -> Option<&Page> {
        self.pages.iter().find(|p| p.gva == pc & !(PAGE_SIZE - 1))
    }

    /// True if it holds the page of `pc`.
    pub(super) fn has(&self, pc: u64) -> bool {
        self.page(pc).is_some()
    }

    /// Where the code at `pc` lies in the block.
    pub(super) fn offset(&self, pc: u64) -> Option<u64> {
        self.page(pc).map(|p| p.offset | pc & (PAGE_SIZE - 1))
    }
}

/// Reads a snapshot for a front end.
pub(super) struct Reader<'a> {
    pub(super) code: &'a Snapshot,
    /// Where the piece begins.
    pub(super) first: u64,
    /// Addresses at which other pieces begin, and those of code that is not wanted: what was begun elsewhere ends there.
    pub(super) stops: Option<&'a FxHashSet<u64>>,
}

impl Reader<'_> {
    fn at(&self, pc: u64) -> Result<&[u8], Trap> {
        // Nobody gets to see it: a front end ends its piece there.
        const NONE: Trap = Trap { code: 0, value: 0 };
        if pc != self.first && self.stops.is_some_and(|s| s.contains(&pc)) {
            return Err(NONE);
        }
        let page = self.code.page(pc).ok_or(NONE)?;
        page.bytes.get((pc & (PAGE_SIZE - 1)) as usize..).ok_or(NONE)
    }
}

impl CodeReader for Reader<'_> {
    fn fetch16(&mut self, pc: u64) -> Result<u16, Trap> {
        match self.at(pc)? {
            [low, high, ..] => Ok(u16::from_le_bytes([*low, *high])),
            _ => Err(Trap { code: 0, value: 0 }),
        }
    }

    fn fetch(&mut self, pc: u64, out: &mut [u8]) -> Result<usize, Trap> {
        let code = self.at(pc)?;
        let n = out.len().min(code.len());
        out[..n].copy_from_slice(&code[..n]);
        Ok(n)
    }
}
