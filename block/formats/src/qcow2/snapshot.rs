//! Snapshots inside the image (`docs/interop/qcow2`, "Snapshots").
//!
//! A snapshot is an L1 table of its own; every table and cluster it reaches has one reference more. The header
//! names the table of snapshots, and a new one is complete on the disk before it does.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use block::{BlockError, BlockNode};
use parking_lot::{Condvar, Mutex, RwLock};

use super::cache::TableCache;
use super::compress::Compressors;
use super::header::{Header, MAX_L1, MAX_SNAPSHOTS};
use super::image::printable;
use super::l2::{COPIED, Entry};
use super::refcount::{OFFSET_MASK, Refcounts};
use super::{L2_MEMORY, Meta, Qcow2, bitmap};
use crate::bytes::{be16, be32, be64};
use crate::image::Snapshot;

/// Most bytes of the table of snapshots.
const MAX_TABLE: usize = 64 << 20;
/// Length of an entry's fixed part.
const FIXED: usize = 40;
/// Length of the extra data known here.
const EXTRA: usize = 24;

/// A snapshot with where its L1 table is.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) info: Snapshot,
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    /// Extra data beyond what is known here.
    unknown: Vec<u8>,
}

fn decode(data: &[u8], path: &str, index: u32) -> Result<Option<(Stored, usize)>, BlockError> {
    let bad = |what: String| {
        Err(BlockError::Format { path: path.into(), what: format!("qcow2 snapshot {index}: {what}") })
    };
    if data.len() < FIXED {
        return Ok(None);
    }
    let (id_len, name_len, extra_len) =
        (be16(data, 12) as usize, be16(data, 14) as usize, be32(data, 36) as usize);
    if extra_len > 1024 {
        return bad(format!("extra_data_size {extra_len}, expected at most 1024"));
    }
    let total = (FIXED + extra_len + id_len + name_len).next_multiple_of(8);
    let Some(entry) = data.get(FIXED..total.min(data.len())).filter(|_| data.len() >= total) else {
        return Ok(None);
    };
    let (extra, rest) = entry.split_at(extra_len);
    let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    let l1_size = be32(data, 8);
    if u64::from(l1_size) * 8 > MAX_L1 {
        return bad(format!("l1_size {l1_size}, expected at most {}", MAX_L1 / 8));
    }
    let icount = be64(extra, 16);
    let info = Snapshot {
        id: text(&rest[..id_len]),
        name: text(&rest[id_len..id_len + name_len]),
        date_sec: be32(data, 16),
        date_nsec: be32(data, 20),
        vm_clock_nsec: be64(data, 24),
        vm_state_size: if extra_len >= 8 { be64(extra, 0) } else { be32(data, 32).into() },
        disk_size: if extra_len >= 16 { be64(extra, 8) } else { 0 },
        icount: (extra_len >= 24 && icount != u64::MAX).then_some(icount),
    };
    let unknown = extra.get(EXTRA..).unwrap_or_default().to_vec();
    Ok(Some((Stored { info, l1_offset: be64(data, 0), l1_size, unknown }, total)))
}

fn encode(entries: &[Stored]) -> Vec<u8> {
    let mut out = Vec::new();
    for e in entries {
        let (s, start) = (&e.info, out.len());
        out.extend_from_slice(&e.l1_offset.to_be_bytes());
        out.extend_from_slice(&e.l1_size.to_be_bytes());
        out.extend_from_slice(&(s.id.len() as u16).to_be_bytes());
        out.extend_from_slice(&(s.name.len() as u16).to_be_bytes());
        out.extend_from_slice(&s.date_sec.to_be_bytes());
        out.extend_from_slice(&s.date_nsec.to_be_bytes());
        out.extend_from_slice(&s.vm_clock_nsec.to_be_bytes());
        out.extend_from_slice(&u32::try_from(s.vm_state_size).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&((EXTRA + e.unknown.len()) as u32).to_be_bytes());
        out.extend_from_slice(&s.vm_state_size.to_be_bytes());
        out.extend_from_slice(&s.disk_size.to_be_bytes());
        out.extend_from_slice(&s.icount.unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(&e.unknown);
        out.extend_from_slice(s.id.as_bytes());
        out.extend_from_slice(s.name.as_bytes());
        out.resize(start + (out.len() - start).next_multiple_of(8), 0);
    }
    out
}

/// Length of the table of these snapshots.
pub(super) fn table_len(entries: &[Stored]) -> u64 {
    encode(entries).len() as u64
}

/// Reads the table of snapshots.
pub(super) fn load(file: &dyn BlockNode, h: &Header, path: &str) -> Result<Vec<Stored>, BlockError> {
    let mut entries = Vec::new();
    let mut buf: Vec<u8> = Vec::new();
    let mut at = 0;
    for index in 0..h.snapshot_count {
        let found = loop {
            match decode(&buf[at..], path, index)? {
                Some(found) => break found,
                None => {
                    let left =
                        file.size().saturating_sub(h.snapshots_offset).saturating_sub(buf.len() as u64);
                    if left == 0 || buf.len() >= MAX_TABLE {
                        let what = format!(
                            "qcow2 snapshot table ends within snapshot {index} of {}",
                            h.snapshot_count
                        );
                        return Err(BlockError::Format { path: path.into(), what });
                    }
                    let old = buf.len();
                    buf.resize(old + left.min(64 << 10) as usize, 0);
                    file.read(h.snapshots_offset + old as u64, &mut [IoSliceMut::new(&mut buf[old..])])?;
                }
            }
        };
        let (mut entry, len): (Stored, usize) = found;
        if entry.l1_offset & (h.cluster() - 1) != 0 {
            let what = format!(
                "qcow2 snapshot {index}: l1_table_offset {:#x}, expected a multiple of the cluster size",
                entry.l1_offset
            );
            return Err(BlockError::Format { path: path.into(), what });
        }
        if entry.info.disk_size == 0 {
            entry.info.disk_size = h.size;
        }
        entries.push(entry);
        at += len;
    }
    Ok(entries)
}

impl Qcow2 {
    /// Reads an L1 table.
    pub(super) fn read_l1(&self, offset: u64, entries: u32) -> Result<Vec<u64>, BlockError> {
        let mut raw = vec![0; entries as usize * 8];
        self.file.read(offset, &mut [IoSliceMut::new(&mut raw)])?;
        Ok(raw.chunks_exact(8).map(|c| be64(c, 0)).collect())
    }

    /// Calls `change` for every run of clusters that an L1 table reaches: L2 tables and what they name.
    pub(super) fn each_reached(
        &self,
        meta: &mut Meta,
        l1: &[u64],
        mut change: impl FnMut(&mut Meta, Range<u64>) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let bits = self.geo.cluster_bits;
        for (i, word) in l1.iter().enumerate() {
            let table = word & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            if table & (self.geo.cluster() - 1) != 0 {
                return Err(self.bad(format!(
                    "qcow2 L1 entry {i}: table at {table:#x}, expected a multiple of the cluster size"
                )));
            }
            let data = meta.l2.get(&*self.file, table)?.data().to_vec();
            let span = 1u64 << (bits + self.geo.l2_bits);
            for (j, raw) in data.chunks_exact(8 * self.geo.words()).enumerate() {
                let entry = Entry { word: be64(raw, 0), bits: be64(raw, 8) };
                let at = (i as u64).saturating_mul(span).saturating_add((j as u64) << bits);
                if let Some(run) = self.held(entry, at)? {
                    change(meta, run)?;
                }
            }
            change(meta, table >> bits..(table >> bits) + 1)?;
            self.relieve(meta)?;
        }
        Ok(())
    }

    /// Adds a reference to everything an L1 table reaches, or to nothing; returns what was added.
    fn add_reached(&self, meta: &mut Meta, l1: &[u64]) -> Result<Vec<Range<u64>>, BlockError> {
        let mut added: Vec<Range<u64>> = Vec::new();
        let result = self.each_reached(meta, l1, |meta, run| {
            meta.refs.add(&*self.file, run.clone())?;
            match added.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => added.push(run),
            }
            Ok(())
        });
        match result {
            Ok(()) => Ok(added),
            Err(e) => {
                self.sub_all(meta, added)?;
                Err(e)
            }
        }
    }

    fn sub_all(&self, meta: &mut Meta, runs: Vec<Range<u64>>) -> Result<(), BlockError> {
        runs.into_iter().try_for_each(|run| meta.refs.sub(&*self.file, run))
    }

    /// Sets the flags of the active tables that say whether a cluster has one reference.
    pub(super) fn update_copied(&self, meta: &mut Meta) -> Result<(), BlockError> {
        let bits = self.geo.cluster_bits;
        for i in 0..meta.l1.len() {
            let table = meta.l1[i] & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            let alone = meta.refs.get(&*self.file, table >> bits)? == 1;
            let word = table | if alone { COPIED } else { 0 };
            if meta.l1[i] != word {
                self.set_l1(meta, i, word);
            }
            for j in 0..1usize << self.geo.l2_bits {
                let at = j * self.geo.words();
                let word = meta.l2.get(&*self.file, table)?.u64(at);
                let entry = Entry { word, bits: 0 };
                if entry.packed() || self.geo.external || entry.offset() == 0 {
                    continue;
                }
                let alone = meta.refs.get(&*self.file, entry.offset() >> bits)? == 1;
                let new = word & !COPIED | if alone { COPIED } else { 0 };
                if new != word {
                    meta.l2.get_mut(&*self.file, table)?.set_u64(at, new);
                }
            }
            self.relieve(meta)?;
        }
        Ok(())
    }

    /// Puts a table of snapshots on the disk and names it in the header. An error comes with whether the disk certainly does
    /// not name it.
    fn store_snapshots(&self, meta: &mut Meta, entries: Vec<Stored>) -> Result<(), (BlockError, bool)> {
        let offset = self.write_snapshots(meta, &entries).map_err(|e| (e, true))?;
        let (bits, cluster) = (self.geo.cluster_bits, self.geo.cluster());
        let old = meta.header.snapshots_offset >> bits;
        let old_len = encode(&meta.snapshots).len() as u64;
        let before = meta.header.clone();
        meta.header.snapshots_offset = offset;
        meta.header.snapshot_count = entries.len() as u32;
        self.commit_header(meta, before)?;
        if old_len != 0 {
            meta.refs.drop_later(old..old + old_len.div_ceil(cluster));
        }
        meta.snapshots = entries;
        Ok(())
    }

    /// Puts a table of snapshots on the disk, which nothing names yet.
    fn write_snapshots(&self, meta: &mut Meta, entries: &[Stored]) -> Result<u64, BlockError> {
        let (bits, cluster) = (self.geo.cluster_bits, self.geo.cluster());
        let raw = encode(entries);
        let mut offset = 0;
        if !raw.is_empty() {
            let n = (raw.len() as u64).div_ceil(cluster);
            let first = meta.refs.alloc_exact(&*self.file, n)?;
            offset = first << bits;
            self.file.write(offset, &[IoSlice::new(&raw)], false)?;
        }
        self.write_back(meta)?;
        meta.refs.write_back(&*self.file)?;
        self.file.flush()?;
        Ok(offset)
    }

    pub(super) fn find_snapshot(&self, meta: &Meta, id: &str) -> Result<usize, BlockError> {
        let by = |f: fn(&Snapshot) -> &str| meta.snapshots.iter().position(|s| f(&s.info) == id);
        by(|s| &s.id).or_else(|| by(|s| &s.name)).ok_or_else(|| {
            let names: Vec<_> = meta.snapshots.iter().map(|s| printable(&s.info.name)).collect();
            let names = if names.is_empty() { "none".into() } else { names.join(", ") };
            self.bad(format!("snapshot '{id}' does not exist; there are: {names}"))
        })
    }
}

/// Makes a snapshot.
pub(super) fn create(image: &Qcow2, snapshot: &Snapshot) -> Result<(), BlockError> {
    image.check_writable()?;
    if image.geo.external {
        return Err(BlockError::Unsupported("a snapshot beside a data file"));
    }
    let _gate = image.gate.write();
    let mut guard = image.meta.lock();
    let meta = &mut *guard;
    if meta.snapshots.len() as u32 >= MAX_SNAPSHOTS {
        return Err(image.bad(format!("the image has {MAX_SNAPSHOTS} snapshots, which is the most")));
    }
    if snapshot.name.len() > u16::MAX.into() {
        return Err(image.bad("the snapshot's name is longer than 65535 bytes"));
    }
    if snapshot.name.is_empty() {
        return Err(image.bad("a snapshot needs a name"));
    }
    let bits = image.geo.cluster_bits;
    image.mark_dirty(meta)?;
    image.settle(meta)?;
    let id = meta.snapshots.iter().filter_map(|s| s.info.id.parse::<u64>().ok()).max().unwrap_or(0) + 1;
    // Beyond the disk's end lies what the snapshot keeps of a machine, or what a crash has left of one.
    let mut l1 = meta.l1.clone();
    if snapshot.vm_state_size == 0 {
        l1.truncate(meta.header.l1_needed(image.virtual_size()) as usize);
    }
    let l1_clusters = (l1.len() as u64 * 8).div_ceil(image.geo.cluster());
    let added = image.add_reached(meta, &l1)?;
    let prepared = (|| {
        image.update_copied(meta)?;
        let plain: Vec<u8> = l1.iter().flat_map(|w| (w & OFFSET_MASK).to_be_bytes()).collect();
        let first = if l1_clusters == 0 { 0 } else { meta.refs.alloc_exact(&*image.file, l1_clusters)? };
        image.file.write(first << bits, &[IoSlice::new(&plain)], false)?;
        let info = Snapshot { id: id.to_string(), disk_size: image.virtual_size(), ..snapshot.clone() };
        let mut entries = meta.snapshots.clone();
        entries.push(Stored {
            info,
            l1_offset: first << bits,
            l1_size: l1.len() as u32,
            unknown: Vec::new(),
        });
        Ok(entries)
    })();
    let stored = prepared.map_err(|e| (e, true)).and_then(|entries| image.store_snapshots(meta, entries));
    if let Err((e, undone)) = stored {
        // If the disk may have the snapshot, what that holds is kept.
        if undone {
            image.sub_all(meta, added)?;
            image.update_copied(meta)?;
            image.write_back(meta)?;
        }
        return Err(e);
    }
    image.settle(meta)?;
    image.drop_state(meta, image.virtual_size())
}

/// Sets the disk to a snapshot.
pub(super) fn apply(image: &Qcow2, id: &str) -> Result<(), BlockError> {
    image.check_writable()?;
    let _gate = image.gate.write();
    let mut guard = image.meta.lock();
    let meta = &mut *guard;
    let entry = meta.snapshots[image.find_snapshot(meta, id)?].clone();
    let (bits, cluster) = (image.geo.cluster_bits, image.geo.cluster());
    bitmap::mark_all(image, meta)?;
    image.mark_dirty(meta)?;
    image.settle(meta)?;
    let mut l1: Vec<u64> =
        image.read_l1(entry.l1_offset, entry.l1_size)?.iter().map(|w| w & OFFSET_MASK).collect();
    let size = entry.info.disk_size;
    let needed = meta.header.l1_needed(size);
    if size > i64::MAX as u64 || needed * 8 > MAX_L1 {
        return Err(image
            .bad(format!("qcow2 snapshot '{id}': disk size {size:#x} is beyond what the image can have")));
    }
    // The state of a machine stays the snapshot's alone.
    l1.resize(needed as usize, 0);
    image.add_reached(meta, &l1)?;
    let new_clusters = (l1.len() as u64 * 8).div_ceil(cluster);
    let first = if new_clusters == 0 { 0 } else { meta.refs.alloc_exact(&*image.file, new_clusters)? };
    let raw: Vec<u8> = l1.iter().flat_map(|w| w.to_be_bytes()).collect();
    image.file.write(first << bits, &[IoSlice::new(&raw)], false)?;
    image.write_back(meta)?;
    meta.refs.write_back(&*image.file)?;
    image.file.flush()?;
    // From here on the snapshot's tables are the disk's.
    let before = meta.header.clone();
    let old = std::mem::replace(&mut meta.l1, l1);
    let (old_at, old_len) = (meta.header.l1_offset >> bits, (old.len() as u64 * 8).div_ceil(cluster));
    if new_clusters != 0 {
        meta.header.l1_offset = first << bits;
    }
    meta.header.l1_size = meta.l1.len() as u32;
    meta.header.size = size;
    if let Err((e, _)) = image.commit_header(meta, before) {
        meta.l1 = old;
        return Err(e);
    }
    image.size.store(size, Ordering::Release);
    image.each_reached(meta, &old, |meta, run| {
        meta.refs.drop_later(run);
        Ok(())
    })?;
    if new_clusters != 0 {
        meta.refs.drop_later(old_at..old_at + old_len);
    }
    image.settle(meta)?;
    image.update_copied(meta)?;
    image.settle(meta)
}

/// Deletes a snapshot.
pub(super) fn delete(image: &Qcow2, id: &str) -> Result<(), BlockError> {
    image.check_writable()?;
    let _gate = image.gate.write();
    let mut guard = image.meta.lock();
    let meta = &mut *guard;
    let index = image.find_snapshot(meta, id)?;
    image.mark_dirty(meta)?;
    image.settle(meta)?;
    let entry = meta.snapshots[index].clone();
    let l1 = image.read_l1(entry.l1_offset, entry.l1_size)?;
    let mut entries = meta.snapshots.clone();
    entries.remove(index);
    image.store_snapshots(meta, entries).map_err(|(e, _)| e)?;
    image.each_reached(meta, &l1, |meta, run| {
        meta.refs.drop_later(run);
        Ok(())
    })?;
    let first = entry.l1_offset >> image.geo.cluster_bits;
    let n = (u64::from(entry.l1_size) * 8).div_ceil(image.geo.cluster());
    meta.refs.drop_later(first..first + n);
    image.settle(meta)?;
    image.update_copied(meta)?;
    image.settle(meta)
}

/// A read-only node with a snapshot's contents.
pub(super) fn view(image: &Qcow2, id: &str) -> Result<Qcow2, BlockError> {
    image.do_flush()?;
    let meta = image.meta.lock();
    let entry = meta.snapshots[image.find_snapshot(&meta, id)?].clone();
    let l1 = image.read_l1(entry.l1_offset, entry.l1_size)?;
    let mut header = meta.header.clone();
    header.size = entry.info.disk_size;
    header.l1_size = entry.l1_size;
    header.l1_offset = entry.l1_offset;
    Ok(Qcow2 {
        crypt: image.crypt.clone(),
        filename: image.filename.clone(),
        file: image.file.clone(),
        data: image.data.clone(),
        data_filename: image.data_filename.clone(),
        backing: RwLock::new(image.backing.read().clone()),
        geo: image.geo,
        read_only: true,
        discard: false,
        size: AtomicU64::new(header.size),
        tracked: AtomicBool::new(false),
        gate: RwLock::new(()),
        landed: Condvar::new(),
        compressors: Compressors::new(header.compression, header.cluster()),
        meta: Mutex::new(Meta {
            l1,
            l1_dirty: 0..0,
            l2: TableCache::new(header.cluster(), L2_MEMORY),
            refs: Refcounts::load(&*image.file, &header, &image.filename)?,
            in_flight: Vec::new(),
            snapshots: Vec::new(),
            bitmaps: bitmap::Bitmaps::default(),
            marked_dirty: false,
            trusted: true,
            header,
        }),
    })
}
