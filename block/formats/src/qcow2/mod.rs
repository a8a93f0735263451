//! qcow2, versions 2 and 3 (QEMU, `docs/interop/qcow2`).
//!
//! # Order of writes
//!
//! Data goes to the file at once; tables are changed in memory and written by [`Qcow2::write_back`] in this order,
//! with a barrier between the steps that need one: refcount blocks, refcount table | L2 tables | L1 entries. What is
//! no longer used is freed after that ([`refcount`]). So after a crash at any point every cluster in use is counted
//! and holds its data; at worst some are counted that nobody uses.
//!
//! # Locks
//!
//! `gate` is held for reading by every request while it uses host offsets, for writing by whatever frees clusters or
//! rearranges the image. `meta` is held while tables are looked at, never during transfers of data. A write that
//! needs new clusters reserves its guest clusters in `Meta::in_flight`; others that meet it there wait.

mod amend;
mod bitmap;
mod cache;
mod check;
mod compress;
mod create;
mod crypt;
mod header;
mod image;
mod l2;
mod noise;
mod open;
mod read;
mod refcount;
mod resize;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod write;
mod zero;

use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use block::{BlockError, BlockNode};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::image::{BackingName, Image};
use cache::TableCache;
use compress::Compressors;
use crypt::Crypt;
use header::{Encryption, Header, incompatible};
use refcount::Refcounts;

pub(crate) use create::{CREATE_OPTIONS, create, measure};
pub(crate) use crypt::aes;
pub(crate) use open::open;

/// Options that [`Image::amend`] takes.
pub(crate) use amend::OPTIONS as AMEND_OPTIONS;

/// Bytes at the start of the header that are written whole or not at all.
const FIRST: usize = 512;
/// Memory for L2 tables in bytes.
const L2_MEMORY: u64 = 32 << 20;

/// What never changes while an image is open.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    version: u32,
    cluster_bits: u32,
    /// Entries of an L2 table, as a shift.
    l2_bits: u32,
    /// Subclusters of a cluster, as a shift: 5 with extended L2 entries, else 0.
    sub_shift: u32,
    /// Data is in a file of its own.
    external: bool,
}

impl Geometry {
    fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    fn extended(self) -> bool {
        self.sub_shift != 0
    }

    fn sub_bits(self) -> u32 {
        self.cluster_bits - self.sub_shift
    }

    fn l1_index(self, offset: u64) -> usize {
        (offset >> (self.cluster_bits + self.l2_bits)) as usize
    }

    fn l2_index(self, offset: u64) -> usize {
        (offset >> self.cluster_bits) as usize & ((1 << self.l2_bits) - 1)
    }

    /// Words of an L2 entry.
    fn words(self) -> usize {
        if self.extended() { 2 } else { 1 }
    }
}

/// Tables and what else changes.
#[derive(Debug)]
struct Meta {
    header: Header,
    l1: Vec<u64>,
    /// Entries of the L1 table that are not written yet.
    l1_dirty: Range<usize>,
    l2: TableCache,
    refs: Refcounts,
    /// Guest clusters that a running write is giving new places to.
    in_flight: Vec<Range<u64>>,
    snapshots: Vec<snapshot::Stored>,
    bitmaps: bitmap::Bitmaps,
    /// The header on the disk says that reference counts may be wrong.
    marked_dirty: bool,
    /// The reference counts are right: the image was closed properly, or has been repaired.
    trusted: bool,
}

/// An opened qcow2 image.
pub(crate) struct Qcow2 {
    filename: String,
    file: Arc<dyn BlockNode>,
    /// Where data is: the image itself, or its data file.
    data: Arc<dyn BlockNode>,
    data_filename: String,
    backing: RwLock<Option<Arc<dyn Image>>>,
    geo: Geometry,
    read_only: bool,
    discard: bool,
    size: AtomicU64,
    /// There are bitmaps, which have to follow what is written.
    tracked: AtomicBool,
    gate: RwLock<()>,
    meta: Mutex<Meta>,
    landed: Condvar,
    compressors: Compressors,
    crypt: Option<Arc<Crypt>>,
}

impl fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qcow2:{}", self.filename)
    }
}

impl Qcow2 {
    fn bad(&self, what: impl Into<String>) -> BlockError {
        BlockError::Format { path: self.filename.clone(), what: what.into() }
    }

    fn virtual_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn check_writable(&self) -> Result<(), BlockError> {
        if self.read_only { Err(BlockError::ReadOnly) } else { bitmap::begin(self) }
    }

    /// The header with what is known elsewhere.
    fn encode_header(&self, meta: &mut Meta) -> Result<header::Encoded, BlockError> {
        meta.header.reftable_offset = meta.refs.table_offset;
        meta.header.reftable_clusters = meta.refs.table_clusters();
        meta.header.refcount_order = meta.refs.order;
        meta.header.encode(&self.filename)
    }

    /// Writes the header's cluster in one piece.
    fn write_header(&self, meta: &mut Meta) -> Result<(), BlockError> {
        let mut raw = self.encode_header(meta)?.raw;
        // What an older, longer header left behind goes as well.
        raw.resize(raw.len().next_multiple_of(512).max(raw.len().min(4096)), 0);
        self.file.write(0, &[IoSlice::new(&raw)], false)
    }

    /// Writes a changed header for good. If that fails, the one from `before` is put back, in memory and on the disk; the
    /// error comes with whether the disk took that, or may hold either.
    fn commit_header(&self, meta: &mut Meta, before: Header) -> Result<(), (BlockError, bool)> {
        let done = self.write_header(meta).and_then(|()| self.file.flush());
        done.map_err(|e| {
            meta.header = before;
            (e, self.write_header(meta).and_then(|()| self.file.flush()).is_ok())
        })
    }

    /// Changes the backing file's name for good. Where only that changes it is put beside the old one before the first sector,
    /// which a power cut leaves whole, names it.
    fn commit_name(&self, meta: &mut Meta, name: Option<BackingName>) -> Result<(), BlockError> {
        let before = meta.header.clone();
        let old = self.encode_header(meta)?;
        meta.header.backing = name;
        let new = self.encode_header(meta);
        let Ok(new) = new else {
            meta.header = before;
            return new.map(drop);
        };
        let extensions = |e: &header::Encoded| e.raw.get(FIRST..e.end.max(FIRST)).map(<[u8]>::to_vec);
        let (was, len) = (old.name(), new.name().len());
        let alike = old.end == new.end && extensions(&old) == extensions(&new);
        let at = if new.end + len <= was.start { new.end } else { was.end };
        if len == 0 || was.is_empty() || !alike || at + len > self.geo.cluster() as usize {
            return self.commit_header(meta, before).map_err(|(e, _)| e);
        }
        meta.header.name_at = at as u64;
        let put = |raw: &[u8], at: usize| {
            self.file.write(at as u64, &[IoSlice::new(raw)], false)?;
            self.file.flush()
        };
        let first = |e: &header::Encoded| {
            let mut raw = e.raw.clone();
            raw.resize(FIRST, 0);
            put(&raw, 0)
        };
        let done = self.encode_header(meta).and_then(|new| {
            let name = new.name();
            put(&new.raw[name.clone()], name.start)?;
            first(&new)
        });
        done.inspect_err(|_| {
            meta.header = before;
            // The error that led here is the one that is told.
            let _ = first(&old);
        })
    }

    /// Says on the disk, before the first change, that reference counts may lag behind.
    fn mark_dirty(&self, meta: &mut Meta) -> Result<(), BlockError> {
        if meta.marked_dirty || !meta.header.lazy() {
            return Ok(());
        }
        meta.header.incompatible |= incompatible::DIRTY;
        self.write_header(meta)?;
        self.file.flush()?;
        meta.marked_dirty = true;
        Ok(())
    }

    /// Marks the image as damaged, so that nobody writes it before it is repaired.
    fn mark_corrupt(&self, meta: &mut Meta) {
        if self.geo.version < 3 || self.read_only || meta.header.incompatible & incompatible::CORRUPT != 0 {
            return;
        }
        meta.header.incompatible |= incompatible::CORRUPT;
        // The error that led here is the one that is told.
        let _ = self.write_header(meta).and_then(|()| self.file.flush());
    }

    /// Refuses to write over the image's own structures.
    fn check_overlap(&self, meta: &mut Meta, host: u64, len: u64) -> Result<(), BlockError> {
        if self.geo.external {
            return Ok(());
        }
        let cluster = self.geo.cluster();
        let luks = match meta.header.encryption {
            Encryption::Luks { offset, len } => (offset, len),
            _ => (0, 0),
        };
        let fixed = [
            ("the LUKS header", luks.0, luks.1),
            ("the header", 0, cluster),
            ("the L1 table", meta.header.l1_offset, meta.l1.len() as u64 * 8),
            ("the refcount table", meta.refs.table_offset, meta.refs.table.len() as u64 * 8),
            (
                "the snapshot table",
                meta.header.snapshots_offset,
                u64::from(meta.header.snapshot_count != 0) * 8,
            ),
        ];
        let mut hit =
            fixed.iter().find(|(_, at, n)| *n != 0 && host < at + n && *at < host + len).map(|h| h.0);
        let mut at = host & !(cluster - 1);
        while hit.is_none() && at < host + len {
            hit = match () {
                () if meta.l2.contains(at) => Some("an L2 table"),
                () if meta.refs.blocks.contains(at) => Some("a refcount block"),
                () => None,
            };
            at += cluster;
        }
        let Some(what) = hit else { return Ok(()) };
        self.mark_corrupt(meta);
        Err(self
            .bad(format!("qcow2: data at {host:#x} overlaps {what}; the image is damaged and needs a check")))
    }

    /// Writes all tables, in an order that is safe at any point.
    fn write_back(&self, meta: &mut Meta) -> Result<(), BlockError> {
        let linked = meta.l2.is_dirty() || !meta.l1_dirty.is_empty();
        if !meta.header.lazy() {
            meta.refs.write_back(&*self.file)?;
        }
        if linked {
            self.file.flush()?;
            if self.geo.external {
                self.data.flush()?;
            }
            meta.l2.write_back(&*self.file)?;
        }
        if !meta.l1_dirty.is_empty() {
            self.file.flush()?;
            let range = meta.l1_dirty.clone();
            let raw: Vec<u8> = meta.l1[range.clone()].iter().flat_map(|e| e.to_be_bytes()).collect();
            let at = meta.header.l1_offset + range.start as u64 * 8;
            self.file.write(at, &[IoSlice::new(&raw)], false)?;
            meta.l1_dirty = 0..0;
        }
        Ok(())
    }

    /// Writes everything and frees what is pending. The gate is held for writing.
    fn settle(&self, meta: &mut Meta) -> Result<(), BlockError> {
        self.write_back(meta)?;
        self.file.flush()?;
        if self.geo.external {
            self.data.flush()?;
        }
        if meta.refs.has_pending() {
            let freed = meta.refs.apply_pending(&*self.file)?;
            for run in freed {
                let (first, last) = (run.start >> self.geo.cluster_bits, run.end >> self.geo.cluster_bits);
                for cluster in first..last {
                    meta.l2.forget(cluster << self.geo.cluster_bits);
                }
                if self.discard {
                    self.file.discard(run.start, run.end - run.start)?;
                }
            }
        }
        Ok(())
    }

    /// Makes room in the caches if they hold too much that is not written.
    fn relieve(&self, meta: &mut Meta) -> Result<(), BlockError> {
        if meta.l2.crowded() || meta.refs.blocks.crowded() {
            if meta.header.lazy() && meta.refs.blocks.crowded() {
                meta.refs.write_back(&*self.file)?;
            }
            self.write_back(meta)?;
        }
        Ok(())
    }

    fn set_l1(&self, meta: &mut Meta, index: usize, value: u64) {
        meta.l1[index] = value;
        meta.l1_dirty = if meta.l1_dirty.is_empty() {
            index..index + 1
        } else {
            meta.l1_dirty.start.min(index)..meta.l1_dirty.end.max(index + 1)
        };
    }

    fn do_flush(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        let pending = self.meta.lock().refs.has_pending();
        if pending {
            let _gate = self.gate.write();
            return self.settle(&mut self.meta.lock());
        }
        let mut meta = self.meta.lock();
        self.write_back(&mut meta)?;
        drop(meta);
        self.file.flush()?;
        if self.geo.external {
            self.data.flush()?;
        }
        Ok(())
    }

    /// Leaves the image as after a proper end: everything written, nothing lost, not marked.
    fn do_close(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        let _gate = self.gate.write();
        let mut meta = self.meta.lock();
        bitmap::store(self, &mut meta)?;
        self.settle(&mut meta)?;
        meta.refs.write_back(&*self.file)?;
        if meta.marked_dirty {
            self.file.flush()?;
            meta.header.incompatible &= !incompatible::DIRTY;
            self.write_header(&mut meta)?;
            meta.marked_dirty = false;
        }
        self.file.flush()
    }

    /// Waits until no running write has a part of these guest clusters.
    fn wait_landed(&self, meta: &mut MutexGuard<'_, Meta>, clusters: &Range<u64>) {
        while meta.in_flight.iter().any(|r| r.start < clusters.end && clusters.start < r.end) {
            self.landed.wait(meta);
        }
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        // Who wants to know whether this worked has called close() before.
        let _ = self.do_close();
    }
}
