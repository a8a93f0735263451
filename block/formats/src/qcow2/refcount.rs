//! Reference counts and the allocation of clusters (`docs/interop/qcow2`, "Host cluster management").
//!
//! A cluster that is given up keeps its count until what referred to it is gone from the disk: it is *pending*
//! until [`Refcounts::apply_pending`], which the image calls after a write back while no request runs. So a crash
//! loses clusters at worst, and nobody writes to a cluster that somebody still looks at.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::ops::Range;

use block::{BlockError, BlockNode};

use super::cache::TableCache;
use super::header::{Header, MAX_REFTABLE};
use crate::bytes::be64;

/// Offsets in tables have these bits.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Memory for refcount blocks in bytes.
const MEMORY: u64 = 8 << 20;

/// The count at an index of a block.
pub(super) fn get_count(data: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let bits = 1 << order;
            let at = index * bits;
            u64::from(data[at / 8] >> (at % 8)) & ((1 << bits) - 1)
        }
        3 => data[index].into(),
        4 => crate::bytes::be16(data, index * 2).into(),
        5 => crate::bytes::be32(data, index * 4).into(),
        _ => be64(data, index * 8),
    }
}

/// The bytes to store so that the count at an index of a block is `value`, and where they go.
pub(super) fn set_count(data: &[u8], order: u32, index: usize, value: u64) -> (usize, [u8; 8], usize) {
    let mut out = [0; 8];
    match order {
        0..=2 => {
            let bits = 1 << order;
            let at = index * bits;
            let mask = ((1u16 << bits) - 1) as u8;
            let shift = at % 8;
            out[0] = data[at / 8] & !(mask << shift) | (value as u8 & mask) << shift;
            (at / 8, out, 1)
        }
        _ => {
            let n = 1 << (order - 3);
            out[..n].copy_from_slice(&value.to_be_bytes()[8 - n..]);
            (index * n, out, n)
        }
    }
}

/// Reference counts of an image.
#[derive(Debug)]
pub(super) struct Refcounts {
    path: String,
    pub(super) order: u32,
    cluster_bits: u32,
    /// Offsets of the blocks.
    pub(super) table: Vec<u64>,
    pub(super) table_offset: u64,
    /// Entries of the table that are not written yet.
    dirty_entries: BTreeSet<usize>,
    pub(super) blocks: TableCache,
    /// No cluster before this one is free.
    hint: u64,
    /// Runs of clusters that lose one reference each.
    pending: Vec<Range<u64>>,
    /// Where the next compressed cluster may go, in a cluster that has room; 0 if nowhere.
    pack_at: u64,
    /// Clusters from this one on were never used: in a file that grows they read as zero.
    virgin: u64,
}

impl Refcounts {
    pub(super) fn load(file: &dyn BlockNode, h: &Header, path: &str) -> Result<Self, BlockError> {
        let mut raw = vec![0; (u64::from(h.reftable_clusters) << h.cluster_bits) as usize];
        file.read(h.reftable_offset, &mut [std::io::IoSliceMut::new(&mut raw)])?;
        let table = raw.chunks_exact(8).map(|c| be64(c, 0)).collect();
        Ok(Refcounts {
            path: path.into(),
            order: h.refcount_order,
            cluster_bits: h.cluster_bits,
            table,
            table_offset: h.reftable_offset,
            dirty_entries: BTreeSet::new(),
            blocks: TableCache::new(h.cluster(), MEMORY),
            hint: 0,
            pending: Vec::new(),
            pack_at: 0,
            virgin: if file.grows() { file.size().div_ceil(h.cluster()) } else { u64::MAX },
        })
    }

    /// Clusters counted by one block, as a shift.
    pub(super) fn block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.order
    }

    /// Largest count.
    pub(super) fn max(&self) -> u64 {
        if self.order == 6 { u64::MAX } else { (1 << (1 << self.order)) - 1 }
    }

    pub(super) fn table_clusters(&self) -> u32 {
        ((self.table.len() as u64 * 8) >> self.cluster_bits) as u32
    }

    fn bad(&self, what: String) -> BlockError {
        BlockError::Format { path: self.path.clone(), what }
    }

    /// The block that counts a cluster; 0 if there is none yet.
    fn block_of(&self, cluster: u64) -> Result<u64, BlockError> {
        let entry = usize::try_from(cluster >> self.block_bits()).ok().and_then(|i| self.table.get(i));
        let offset = entry.copied().unwrap_or(0);
        if offset & ((1 << self.cluster_bits) - 1) != 0 || offset > i64::MAX as u64 {
            let i = cluster >> self.block_bits();
            return Err(self.bad(format!(
                "qcow2 refcount table entry {i}: {offset:#x}, expected a multiple of the cluster size"
            )));
        }
        Ok(offset)
    }

    fn index(&self, cluster: u64) -> usize {
        (cluster & ((1 << self.block_bits()) - 1)) as usize
    }

    /// The count of a cluster.
    pub(super) fn get(&mut self, file: &dyn BlockNode, cluster: u64) -> Result<u64, BlockError> {
        let block = self.block_of(cluster)?;
        if block == 0 {
            return Ok(0);
        }
        let index = self.index(cluster);
        Ok(get_count(self.blocks.get(file, block)?.data(), self.order, index))
    }

    fn set(&mut self, file: &dyn BlockNode, cluster: u64, value: u64) -> Result<(), BlockError> {
        self.ensure_block(file, cluster)?;
        let (block, index, order) = (self.block_of(cluster)?, self.index(cluster), self.order);
        let table = self.blocks.get_mut(file, block)?;
        let (at, bytes, n) = set_count(table.data(), order, index, value);
        table.put(at, &bytes[..n]);
        Ok(())
    }

    /// Adds a reference to each cluster of a run, or to none.
    pub(super) fn add(&mut self, file: &dyn BlockNode, run: Range<u64>) -> Result<(), BlockError> {
        for cluster in run.clone() {
            let count = self.get(file, cluster)?;
            if count == self.max() {
                for undo in run.start..cluster {
                    let count = self.get(file, undo)?;
                    self.set(file, undo, count - 1)?;
                }
                let at = cluster << self.cluster_bits;
                return Err(self.bad(format!(
                    "the cluster at {at:#x} has the most references that {} bits hold",
                    1 << self.order
                )));
            }
            self.set(file, cluster, count + 1)?;
        }
        Ok(())
    }

    /// Takes a reference from each cluster of a run, now: nothing on the disk refers to it.
    pub(super) fn sub(&mut self, file: &dyn BlockNode, run: Range<u64>) -> Result<(), BlockError> {
        for cluster in run {
            let count = self.get(file, cluster)?;
            if count == 0 {
                let at = cluster << self.cluster_bits;
                return Err(self.bad(format!(
                    "qcow2: the cluster at {at:#x} is used but has no references; the image needs a check"
                )));
            }
            self.set(file, cluster, count - 1)?;
            if count == 1 {
                self.hint = self.hint.min(cluster);
                if self.pack_at >> self.cluster_bits == cluster {
                    self.pack_at = 0;
                }
            }
        }
        Ok(())
    }

    /// Takes a reference from each cluster of a run, once that is safe.
    pub(super) fn drop_later(&mut self, run: Range<u64>) {
        match self.pending.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.pending.push(run),
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// So many runs wait that they should be dealt with.
    pub(super) fn many_pending(&self) -> bool {
        self.pending.len() > 4096
    }

    /// Frees what is pending; returns the runs of bytes that are free now.
    pub(super) fn apply_pending(&mut self, file: &dyn BlockNode) -> Result<Vec<Range<u64>>, BlockError> {
        let mut freed: Vec<Range<u64>> = Vec::new();
        for run in std::mem::take(&mut self.pending) {
            for cluster in run {
                self.sub(file, cluster..cluster + 1)?;
                if self.get(file, cluster)? == 0 {
                    let bytes = cluster << self.cluster_bits..(cluster + 1) << self.cluster_bits;
                    match freed.last_mut() {
                        Some(last) if last.end == bytes.start => last.end = bytes.end,
                        _ => freed.push(bytes),
                    }
                }
            }
        }
        Ok(freed)
    }

    /// Makes sure that there is a block for a cluster. A new one is put into its own range, at that cluster.
    fn ensure_block(&mut self, file: &dyn BlockNode, cluster: u64) -> Result<(), BlockError> {
        if cluster << self.cluster_bits & !OFFSET_MASK != 0 || cluster >= 1 << (56 - self.cluster_bits) {
            return Err(self.bad("the image has the most clusters that qcow2 can address".into()));
        }
        if self.block_of(cluster)? != 0 {
            return Ok(());
        }
        let entry = (cluster >> self.block_bits()) as usize;
        if entry >= self.table.len() {
            self.grow_table(file, cluster)?;
            if self.block_of(cluster)? != 0 {
                return Ok(());
            }
        }
        let mut data = vec![0; 1 << self.cluster_bits];
        let (at, bytes, n) = set_count(&data, self.order, self.index(cluster), 1);
        data[at..at + n].copy_from_slice(&bytes[..n]);
        let offset = cluster << self.cluster_bits;
        self.used(cluster + 1);
        self.blocks.add(offset, data);
        self.table[entry] = offset;
        self.dirty_entries.insert(entry);
        Ok(())
    }

    /// Replaces the table by a longer one, beyond all that is counted, with the blocks that count it.
    fn grow_table(&mut self, file: &dyn BlockNode, cluster: u64) -> Result<(), BlockError> {
        let (bits, block_bits) = (self.cluster_bits, self.block_bits());
        let start = cluster.max((self.table.len() as u64) << block_bits);
        let per_cluster = 1u64 << (bits - 3);
        let mut entries = (self.table.len() as u64 * 3 / 2).max((start >> block_bits) + 1);
        let (table_clusters, blocks) = loop {
            let table_clusters = entries.div_ceil(per_cluster);
            let mut blocks = 1;
            while ((start + table_clusters + blocks - 1) >> block_bits) - (start >> block_bits) + 1 > blocks {
                blocks += 1;
            }
            let needed = ((start + table_clusters + blocks - 1) >> block_bits) + 1;
            if needed <= table_clusters * per_cluster {
                break (table_clusters, blocks);
            }
            entries = needed;
        };
        if table_clusters << bits > MAX_REFTABLE {
            return Err(self.bad(format!("the refcount table would have more than {MAX_REFTABLE} bytes; larger clusters or fewer refcount_bits are needed")));
        }
        let mut table = self.table.clone();
        table.resize((table_clusters * per_cluster) as usize, 0);
        let end = start + table_clusters + blocks;
        self.used(end);
        for i in 0..blocks {
            let block = (start >> block_bits) + i;
            let mut data = vec![0; 1 << bits];
            for counted in (block << block_bits).max(start)..((block + 1) << block_bits).min(end) {
                let (at, bytes, n) = set_count(&data, self.order, self.index(counted), 1);
                data[at..at + n].copy_from_slice(&bytes[..n]);
            }
            let offset = (start + table_clusters + i) << bits;
            self.blocks.add(offset, data);
            table[block as usize] = offset;
        }
        self.blocks.write_back(file)?;
        let raw: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        let offset = start << bits;
        file.write(offset, &[IoSlice::new(&raw)], false)?;
        file.flush()?;
        let mut fields = [0; 12];
        fields[..8].copy_from_slice(&offset.to_be_bytes());
        fields[8..].copy_from_slice(&(table_clusters as u32).to_be_bytes());
        file.write(48, &[IoSlice::new(&fields)], false)?;
        file.flush()?;
        let old = self.table_offset >> bits;
        self.drop_later(old..old + u64::from(self.table_clusters()));
        self.table = table;
        self.table_offset = offset;
        self.dirty_entries.clear();
        Ok(())
    }

    /// Clusters before `end` may have been written to from now on.
    fn used(&mut self, end: u64) {
        if self.virgin != u64::MAX {
            self.virgin = self.virgin.max(end);
        }
    }

    /// The first cluster that was never used; asked before an allocation, it tells whether that one reads as zero.
    pub(super) fn virgin(&self) -> u64 {
        self.virgin
    }

    /// Takes at least one and at most `max` free clusters that follow one another; returns the run.
    pub(super) fn alloc(&mut self, file: &dyn BlockNode, max: u64) -> Result<Range<u64>, BlockError> {
        loop {
            self.ensure_block(file, self.hint)?;
            let (block, order) = (self.block_of(self.hint)?, self.order);
            let (first, per_block) = (self.index(self.hint), 1usize << self.block_bits());
            let base = self.hint - first as u64;
            let data = self.blocks.get(file, block)?.data();
            let Some(free) = (first..per_block).find(|&i| get_count(data, order, i) == 0) else {
                self.hint = base + per_block as u64;
                continue;
            };
            let limit = per_block.min(free.saturating_add(max as usize));
            let end = (free..limit).find(|&i| get_count(data, order, i) != 0).unwrap_or(limit);
            let run = base + free as u64..base + end as u64;
            let table = self.blocks.get_mut(file, block)?;
            for i in free..end {
                let (at, bytes, n) = set_count(table.data(), order, i, 1);
                table.put(at, &bytes[..n]);
            }
            self.hint = run.end;
            self.used(run.end);
            return Ok(run);
        }
    }

    /// Takes `n` free clusters that follow one another; returns the first.
    pub(super) fn alloc_exact(&mut self, file: &dyn BlockNode, n: u64) -> Result<u64, BlockError> {
        let mut start = self.hint;
        let mut at = start;
        while at < start + n {
            self.ensure_block(file, at)?;
            if self.get(file, at)? != 0 {
                start = at + 1;
            }
            at += 1;
        }
        self.add(file, start..start + n)?;
        self.used(start + n);
        if start == self.hint {
            self.hint = start + n;
        }
        Ok(start)
    }

    /// Takes room for `len` bytes of compressed data, which may share clusters with others; returns its offset.
    pub(super) fn alloc_bytes(&mut self, file: &dyn BlockNode, len: u64) -> Result<u64, BlockError> {
        let cluster = 1u64 << self.cluster_bits;
        let shared = self.pack_at >> self.cluster_bits;
        let left = if self.pack_at == 0 { 0 } else { cluster - self.pack_at % cluster };
        if left != 0 && self.get(file, shared)? < self.max() {
            if len <= left {
                self.add(file, shared..shared + 1)?;
                return Ok(self.packed(self.pack_at, len));
            }
            let next = self.alloc(file, 1)?;
            if next.start == shared + 1 {
                self.add(file, shared..shared + 1)?;
                return Ok(self.packed(self.pack_at, len));
            }
            return Ok(self.packed(next.start << self.cluster_bits, len));
        }
        let run = self.alloc(file, 1)?;
        Ok(self.packed(run.start << self.cluster_bits, len))
    }

    fn packed(&mut self, at: u64, len: u64) -> u64 {
        let end = at + len;
        self.pack_at = if end.is_multiple_of(1 << self.cluster_bits) { 0 } else { end };
        at
    }

    /// Writes all counts; blocks are stable before the table names them.
    pub(super) fn write_back(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        self.blocks.write_back(file)?;
        if !self.dirty_entries.is_empty() {
            file.flush()?;
            let entries = std::mem::take(&mut self.dirty_entries);
            for &i in &entries {
                let raw = self.table.get(i).copied().unwrap_or(0).to_be_bytes();
                if let Err(e) = file.write(self.table_offset + i as u64 * 8, &[IoSlice::new(&raw)], false) {
                    self.dirty_entries = entries;
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Where the last counted cluster ends, in bytes.
    pub(super) fn end(&mut self, file: &dyn BlockNode) -> Result<u64, BlockError> {
        for i in (0..self.table.len()).rev() {
            let first = (i as u64) << self.block_bits();
            let block = self.block_of(first)?;
            if block == 0 {
                continue;
            }
            let order = self.order;
            let data = self.blocks.get(file, block)?.data();
            if let Some(last) =
                (0..1usize << (self.cluster_bits + 3 - order)).rev().find(|&i| get_count(data, order, i) != 0)
            {
                return Ok((first + last as u64 + 1) << self.cluster_bits);
            }
        }
        Ok(0)
    }

    /// Forgets everything in memory and starts over with another table.
    pub(super) fn replace(&mut self, order: u32, table: Vec<u64>, offset: u64) {
        self.order = order;
        self.table = table;
        self.table_offset = offset;
        self.dirty_entries.clear();
        self.blocks.clear();
        self.pending.clear();
        self.hint = 0;
        self.pack_at = 0;
    }
}
