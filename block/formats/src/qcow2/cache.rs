//! Tables of an image held in memory (L2 tables, refcount blocks), and which bytes of them are not yet written.
//!
//! Two generations bound the memory: what was not used while the young one filled is dropped, unless it is dirty.

use std::ops::Range;

use block::{BlockError, BlockNode};
use rustc_hash::FxHashMap;
use std::io::{IoSlice, IoSliceMut};

/// Unit of writing back in bytes.
const SECTOR: usize = 512;

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    data: Box<[u8]>,
    /// Bytes that differ from the file's; empty if none.
    dirty: Range<usize>,
}

impl Table {
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn u64(&self, index: usize) -> u64 {
        crate::bytes::be64(&self.data, index * 8)
    }

    pub(super) fn set_u64(&mut self, index: usize, value: u64) {
        self.put(index * 8, &value.to_be_bytes());
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.touch(at..at + bytes.len());
    }

    fn touch(&mut self, range: Range<usize>) {
        self.dirty = if self.dirty.is_empty() {
            range
        } else {
            self.dirty.start.min(range.start)..self.dirty.end.max(range.end)
        };
    }
}

/// Tables by their offset in the file.
#[derive(Debug)]
pub(super) struct TableCache {
    size: usize,
    /// Most tables of one generation.
    max: usize,
    young: FxHashMap<u64, Table>,
    old: FxHashMap<u64, Table>,
    dirty: usize,
}

impl TableCache {
    /// For tables of `size` bytes, of which about `memory` bytes are kept.
    pub(super) fn new(size: u64, memory: u64) -> Self {
        let max = (memory / size / 2).max(8) as usize;
        TableCache {
            size: size as usize,
            max,
            young: FxHashMap::default(),
            old: FxHashMap::default(),
            dirty: 0,
        }
    }

    /// Whether a dirty table was added since the last write back in such number that it is time for one.
    pub(super) fn crowded(&self) -> bool {
        self.dirty >= self.max
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.young.contains_key(&offset) || self.old.contains_key(&offset)
    }

    fn rejuvenate(&mut self, offset: u64) -> bool {
        if self.young.contains_key(&offset) {
            return true;
        }
        let Some(table) = self.old.remove(&offset) else { return false };
        self.insert(offset, table);
        true
    }

    fn insert(&mut self, offset: u64, table: Table) {
        if self.young.len() >= self.max {
            let mut young = std::mem::take(&mut self.young);
            self.old.retain(|_, t| !t.dirty.is_empty());
            young.extend(self.old.drain());
            self.old = young;
        }
        self.young.insert(offset, table);
    }

    /// The table at an offset, for reading.
    pub(super) fn get(&mut self, file: &dyn BlockNode, offset: u64) -> Result<&Table, BlockError> {
        self.load(file, offset)?;
        self.young.get(&offset).ok_or_else(lost)
    }

    /// The table at an offset, for changing.
    pub(super) fn get_mut(&mut self, file: &dyn BlockNode, offset: u64) -> Result<&mut Table, BlockError> {
        self.load(file, offset)?;
        let table = self.young.get_mut(&offset).ok_or_else(lost)?;
        if table.dirty.is_empty() {
            // Counted as dirty from now on, even if nothing is changed in the end.
            self.dirty += 1;
            table.dirty = 0..8;
        }
        Ok(table)
    }

    fn load(&mut self, file: &dyn BlockNode, offset: u64) -> Result<(), BlockError> {
        if !self.rejuvenate(offset) {
            let mut data = vec![0; self.size].into_boxed_slice();
            file.read(offset, &mut [IoSliceMut::new(&mut data)])?;
            self.insert(offset, Table { data, dirty: 0..0 });
        }
        Ok(())
    }

    /// Puts a new table in place, all of it to be written.
    pub(super) fn add(&mut self, offset: u64, data: Vec<u8>) {
        self.forget(offset);
        let dirty = 0..data.len();
        self.dirty += 1;
        self.insert(offset, Table { data: data.into_boxed_slice(), dirty });
    }

    /// Drops a table, with its changes.
    pub(super) fn forget(&mut self, offset: u64) {
        let table = self.young.remove(&offset).or_else(|| self.old.remove(&offset));
        if table.is_some_and(|t| !t.dirty.is_empty()) {
            self.dirty -= 1;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.dirty = 0;
    }

    /// Writes all changes, in the order of the file.
    pub(super) fn write_back(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        if self.dirty == 0 {
            return Ok(());
        }
        let all = self.young.iter_mut().chain(self.old.iter_mut());
        let mut dirty: Vec<_> = all.filter(|(_, t)| !t.dirty.is_empty()).collect();
        dirty.sort_by_key(|(offset, _)| **offset);
        for (offset, table) in dirty {
            let start = table.dirty.start / SECTOR * SECTOR;
            let end = table.dirty.end.next_multiple_of(SECTOR).min(table.data.len());
            file.write(offset + start as u64, &[IoSlice::new(&table.data[start..end])], false)?;
            table.dirty = 0..0;
            self.dirty -= 1;
        }
        Ok(())
    }
}

fn lost() -> BlockError {
    BlockError::Io(std::io::Error::other("a table was dropped while it was used"))
}
