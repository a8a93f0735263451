//! Dirty bitmaps kept in the image (`docs/interop/qcow2`, "Bitmaps extension").
//!
//! Before the first change of the disk all bitmaps are read and marked in use on the disk; on close they are stored
//! anew. A bitmap that is found in use says nothing: somebody died with it.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::atomic::Ordering;

use block::BlockError;

use super::header::{BitmapDirectory, autoclear};
use super::image::printable;
use super::{Meta, Qcow2};
use crate::bytes::{be16, be32, be64};
use crate::image::{BitmapChange, BitmapInfo};

const IN_USE: u32 = 1 << 0;
const AUTO: u32 = 1 << 1;
/// Extra data is there that may be ignored.
const EXTRA_COMPATIBLE: u32 = 1 << 2;
const DIRTY_TRACKING: u8 = 1;
/// Length of a directory entry's fixed part.
const FIXED: usize = 24;
/// Most bytes of one bitmap.
const MAX_BYTES: u64 = 512 << 20;
/// Most bytes of a bitmap's name.
const MAX_NAME: usize = 1023;
/// Most bitmaps.
const MAX_BITMAPS: usize = 65535;

/// One bitmap.
#[derive(Clone, Debug)]
pub(super) struct Live {
    name: String,
    granularity_bits: u32,
    flags: u32,
    extra: Vec<u8>,
    pub(super) table_offset: u64,
    pub(super) table_size: u32,
    /// Its bits, once they were read.
    bits: Option<Vec<u64>>,
    /// The bits differ from the disk's.
    changed: bool,
}

impl Live {
    fn inconsistent(&self) -> bool {
        self.flags & IN_USE != 0
    }

    fn set(&mut self, range: Range<u64>) {
        let Some(bits) = &mut self.bits else { return };
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start >> self.granularity_bits, (range.end - 1) >> self.granularity_bits);
        for i in first..=last {
            if let Some(word) = bits.get_mut((i / 64) as usize) {
                *word |= 1 << (i % 64);
            }
        }
        self.changed = true;
    }

    fn words(&self, size: u64) -> usize {
        size.div_ceil(1 << self.granularity_bits).div_ceil(64) as usize
    }
}

/// The bitmaps of an image.
#[derive(Debug, Default)]
pub(super) struct Bitmaps {
    loaded: bool,
    /// They may be marked in use on the disk.
    pub(super) begun: bool,
    /// They are.
    marked: bool,
    pub(super) list: Vec<Live>,
}

/// Reads the directory, once.
pub(super) fn load<'a>(image: &Qcow2, meta: &'a mut Meta) -> Result<&'a mut Vec<Live>, BlockError> {
    if !meta.bitmaps.loaded {
        meta.bitmaps.list = match meta.header.bitmaps {
            Some(directory) => read_directory(image, directory)?,
            None => Vec::new(),
        };
        meta.bitmaps.loaded = true;
    }
    Ok(&mut meta.bitmaps.list)
}

fn read_directory(image: &Qcow2, d: BitmapDirectory) -> Result<Vec<Live>, BlockError> {
    let bad = |i: u32, what: String| image.bad(format!("qcow2 bitmap {i}: {what}"));
    // What is not in the file cannot be part of a name.
    let len = d.size.min(image.file.size().saturating_sub(d.offset));
    let mut raw = vec![0; len as usize];
    image.file.read(d.offset, &mut [IoSliceMut::new(&mut raw)])?;
    let mut list = Vec::new();
    let mut at = 0;
    for i in 0..d.count {
        let entry = &raw[at.min(raw.len())..];
        let (name_len, extra_len) = (be16(entry, 18) as usize, be32(entry, 20) as usize);
        let total = FIXED.checked_add(extra_len).and_then(|n| n.checked_add(name_len)).unwrap_or(usize::MAX);
        if entry.len() < FIXED || entry.len() < total {
            return Err(bad(i, format!("ends beyond the directory of {len} bytes")));
        }
        if name_len == 0 || name_len > MAX_NAME {
            return Err(bad(i, format!("name_size {name_len}, expected 1 to {MAX_NAME}")));
        }
        let live = Live {
            table_offset: be64(entry, 0),
            table_size: be32(entry, 8),
            flags: be32(entry, 12),
            granularity_bits: entry[17].into(),
            extra: entry[FIXED..FIXED + extra_len].to_vec(),
            name: String::from_utf8_lossy(&entry[FIXED + extra_len..total]).into_owned(),
            bits: None,
            changed: false,
        };
        if entry[16] != DIRTY_TRACKING || !(9..=31).contains(&live.granularity_bits) {
            return Err(bad(
                i,
                format!(
                    "type {} with granularity_bits {}, expected 1 with 9 to 31",
                    entry[16], live.granularity_bits
                ),
            ));
        }
        if live.table_offset & (image.geo.cluster() - 1) != 0 || u64::from(live.table_size) * 8 > MAX_BYTES {
            return Err(bad(
                i,
                format!(
                    "table of {} entries at {:#x} is too long or not aligned",
                    live.table_size, live.table_offset
                ),
            ));
        }
        if extra_len != 0 && live.flags & EXTRA_COMPATIBLE == 0 {
            return Err(bad(i, format!("unknown extra data of {extra_len} bytes")));
        }
        list.push(live);
        at += total.next_multiple_of(8);
    }
    Ok(list)
}

/// Entries of a bitmap's table.
pub(super) fn read_table(image: &Qcow2, b: &Live) -> Result<Vec<u64>, BlockError> {
    let len = (u64::from(b.table_size) * 8).min(image.file.size().saturating_sub(b.table_offset));
    let mut raw = vec![0; len as usize];
    image.file.read(b.table_offset, &mut [IoSliceMut::new(&mut raw)])?;
    Ok(raw.chunks_exact(8).map(|c| be64(c, 0)).collect())
}

/// Reads a bitmap's bits, once.
fn load_bits(image: &Qcow2, b: &mut Live) -> Result<(), BlockError> {
    if b.bits.is_some() {
        return Ok(());
    }
    let words = b.words(image.virtual_size());
    if words as u64 * 8 > MAX_BYTES {
        return Err(image.bad(format!("bitmap '{}' has more than {MAX_BYTES} bytes", printable(&b.name))));
    }
    let mut bits = vec![0u64; words];
    if !b.inconsistent() {
        let cluster = image.geo.cluster() as usize;
        let mut data = vec![0; cluster];
        let per = cluster / 8;
        for (i, entry) in read_table(image, b)?.into_iter().enumerate() {
            let Some(to) = bits.get_mut(i * per..).filter(|t| !t.is_empty()) else { break };
            let n = to.len().min(per);
            match (entry & super::refcount::OFFSET_MASK, entry & 1) {
                (0, 0) => {}
                (0, _) => to[..n].fill(u64::MAX),
                (offset, _) if offset & (cluster as u64 - 1) != 0 => {
                    return Err(image.bad(format!(
                        "bitmap '{}': data at {offset:#x}, expected a multiple of the cluster size",
                        printable(&b.name)
                    )));
                }
                (offset, _) => {
                    image.file.read(offset, &mut [IoSliceMut::new(&mut data)])?;
                    for (word, raw) in to.iter_mut().zip(data.chunks_exact(8)) {
                        *word = crate::bytes::le64(raw, 0);
                    }
                }
            }
        }
    }
    b.bits = Some(bits);
    Ok(())
}

fn encode(list: &[Live], in_use: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for b in list {
        out.extend_from_slice(&b.table_offset.to_be_bytes());
        out.extend_from_slice(&b.table_size.to_be_bytes());
        out.extend_from_slice(&(b.flags | if in_use { IN_USE } else { 0 }).to_be_bytes());
        out.extend_from_slice(&[DIRTY_TRACKING, b.granularity_bits as u8]);
        out.extend_from_slice(&(b.name.len() as u16).to_be_bytes());
        out.extend_from_slice(&(b.extra.len() as u32).to_be_bytes());
        out.extend_from_slice(&b.extra);
        out.extend_from_slice(b.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// Reads all bitmaps and marks them in use. To be called before the disk changes.
pub(super) fn begin(image: &Qcow2) -> Result<(), BlockError> {
    if !image.tracked.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut guard = image.meta.lock();
    let meta = &mut *guard;
    begin_locked(image, meta)
}

fn begin_locked(image: &Qcow2, meta: &mut Meta) -> Result<(), BlockError> {
    if meta.bitmaps.marked || meta.header.bitmaps.is_none() {
        return Ok(());
    }
    if !meta.bitmaps.begun {
        load(image, meta)?;
        for b in &mut meta.bitmaps.list {
            load_bits(image, b)?;
        }
        // Even if the disk does not take the marks: it may have some of them.
        meta.bitmaps.begun = true;
    }
    if let Some(d) = meta.header.bitmaps {
        let raw = encode(&meta.bitmaps.list, true);
        image.file.write(d.offset, &[IoSlice::new(&raw)], false)?;
        image.file.flush()?;
    }
    meta.bitmaps.marked = true;
    Ok(())
}

/// Records that a range was written.
pub(super) fn mark(image: &Qcow2, offset: u64, len: u64) -> Result<(), BlockError> {
    if len == 0 || !image.tracked.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut meta = image.meta.lock();
    for b in meta.bitmaps.list.iter_mut().filter(|b| b.flags & AUTO != 0 && !b.inconsistent()) {
        b.set(offset..offset + len);
    }
    Ok(())
}

/// Records that everything may have changed.
pub(super) fn mark_all(image: &Qcow2, meta: &mut Meta) -> Result<(), BlockError> {
    let size = image.virtual_size();
    for b in meta.bitmaps.list.iter_mut().filter(|b| b.flags & AUTO != 0 && !b.inconsistent()) {
        b.set(0..size);
    }
    Ok(())
}

/// Follows a change of the disk's size. What is new counts as written.
pub(super) fn resize(meta: &mut Meta, old: u64, size: u64) {
    for b in &mut meta.bitmaps.list {
        let (words, bits) = (b.words(size), size.div_ceil(1 << b.granularity_bits));
        let Some(all) = &mut b.bits else { continue };
        all.resize(words, 0);
        if let Some(last) = all.last_mut().filter(|_| bits % 64 != 0) {
            *last &= (1 << (bits % 64)) - 1;
        }
        b.changed = true;
        if size > old && b.flags & AUTO != 0 {
            b.set(old..size);
        }
    }
}

/// Stores all bitmaps that changed, and the directory. Nothing is in use any more afterwards.
pub(super) fn store(image: &Qcow2, meta: &mut Meta) -> Result<(), BlockError> {
    if !meta.bitmaps.begun {
        return Ok(());
    }
    let mut list = std::mem::take(&mut meta.bitmaps.list);
    let mut old: Vec<Range<u64>> = Vec::new();
    let result = list.iter_mut().filter(|b| b.changed && !b.inconsistent()).try_for_each(|b| {
        if b.table_size != 0 {
            old.extend(clusters_of(image, b)?);
        }
        store_bits(image, meta, b)
    });
    meta.bitmaps.list = list;
    result?;
    write_directory(image, meta)?;
    old.into_iter().for_each(|run| meta.refs.drop_later(run));
    (meta.bitmaps.begun, meta.bitmaps.marked) = (false, false);
    // Stays loaded: a later change marks them in use again.
    image.tracked.store(meta.header.bitmaps.is_some(), Ordering::Release);
    Ok(())
}

fn store_bits(image: &Qcow2, meta: &mut Meta, b: &mut Live) -> Result<(), BlockError> {
    let (bits, cluster) = (image.geo.cluster_bits, image.geo.cluster());
    let Some(words) = &b.bits else { return Ok(()) };
    let mut table = Vec::new();
    for part in words.chunks(cluster as usize / 8) {
        let full = part.len() as u64 * 8 == cluster;
        let entry = if part.iter().all(|w| *w == 0) {
            0
        } else if full && part.iter().all(|w| *w == u64::MAX) {
            1
        } else {
            let mut data: Vec<u8> = part.iter().flat_map(|w| w.to_le_bytes()).collect();
            data.resize(cluster as usize, 0);
            let at = meta.refs.alloc(&*image.file, 1)?.start << bits;
            image.file.write(at, &[IoSlice::new(&data)], false)?;
            at
        };
        table.extend_from_slice(&u64::to_be_bytes(entry));
    }
    let n = (table.len() as u64).div_ceil(cluster).max(1);
    let first = meta.refs.alloc_exact(&*image.file, n)?;
    image.file.write(first << bits, &[IoSlice::new(&table)], false)?;
    b.table_offset = first << bits;
    b.table_size = (table.len() / 8) as u32;
    b.changed = false;
    Ok(())
}

/// All clusters a bitmap takes.
pub(super) fn clusters_of(image: &Qcow2, b: &Live) -> Result<Vec<Range<u64>>, BlockError> {
    let (bits, cluster) = (image.geo.cluster_bits, image.geo.cluster());
    let mut all = Vec::new();
    let first = b.table_offset >> bits;
    all.push(first..first + (u64::from(b.table_size) * 8).div_ceil(cluster));
    for entry in read_table(image, b)? {
        let at = (entry & super::refcount::OFFSET_MASK) >> bits;
        if at != 0 {
            all.push(at..at + 1);
        }
    }
    Ok(all)
}

/// Writes a new directory and names it in the header.
fn write_directory(image: &Qcow2, meta: &mut Meta) -> Result<(), BlockError> {
    let (bits, cluster) = (image.geo.cluster_bits, image.geo.cluster());
    let old = meta.header.bitmaps;
    let raw = encode(&meta.bitmaps.list, false);
    let mut new = None;
    if !raw.is_empty() {
        let first = meta.refs.alloc_exact(&*image.file, (raw.len() as u64).div_ceil(cluster))?;
        image.file.write(first << bits, &[IoSlice::new(&raw)], false)?;
        let count = meta.bitmaps.list.len() as u32;
        new = Some(BitmapDirectory { count, size: raw.len() as u64, offset: first << bits });
    }
    image.write_back(meta)?;
    meta.refs.write_back(&*image.file)?;
    image.file.flush()?;
    let before = meta.header.clone();
    meta.header.bitmaps = new;
    meta.header.autoclear &= !autoclear::BITMAPS;
    if new.is_some() {
        meta.header.autoclear |= autoclear::BITMAPS;
    }
    image.commit_header(meta, before).map_err(|(e, _)| e)?;
    if let Some(d) = old {
        let first = d.offset >> bits;
        meta.refs.drop_later(first..first + d.size.div_ceil(cluster));
    }
    Ok(())
}

/// The bitmaps there are.
pub(super) fn list(image: &Qcow2) -> Result<Vec<BitmapInfo>, BlockError> {
    let mut guard = image.meta.lock();
    let info = |b: &Live| BitmapInfo {
        name: b.name.clone(),
        granularity: 1 << b.granularity_bits,
        enabled: b.flags & AUTO != 0,
        inconsistent: b.inconsistent(),
    };
    Ok(load(image, &mut guard)?.iter().map(info).collect())
}

fn find(image: &Qcow2, list: &[Live], name: &str) -> Result<usize, BlockError> {
    list.iter().position(|b| b.name == name).ok_or_else(|| {
        let names: Vec<_> = list.iter().map(|b| printable(&b.name)).collect();
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        image.bad(format!("bitmap '{name}' does not exist; there are: {names}"))
    })
}

/// Ranges of the disk where a bitmap has bits.
pub(super) fn ranges(image: &Qcow2, name: &str) -> Result<Vec<Range<u64>>, BlockError> {
    let mut guard = image.meta.lock();
    let list = load(image, &mut guard)?;
    let index = find(image, list, name)?;
    let b = &mut list[index];
    if b.inconsistent() {
        return Err(image.bad(format!("bitmap '{name}' was not saved properly; it can only be removed")));
    }
    load_bits(image, b)?;
    let (size, granularity) = (image.virtual_size(), 1u64 << b.granularity_bits);
    let mut out: Vec<Range<u64>> = Vec::new();
    for (i, word) in b.bits.iter().flatten().enumerate().filter(|(_, w)| **w != 0) {
        for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
            let start = (i as u64 * 64 + bit) * granularity;
            let range = start..(start + granularity).min(size);
            match out.last_mut() {
                _ if range.is_empty() || start >= size => {}
                Some(last) if last.end == start => last.end = range.end,
                _ => out.push(range),
            }
        }
    }
    Ok(out)
}

/// Changes a bitmap and stores all of them.
pub(super) fn change(image: &Qcow2, name: &str, change: &BitmapChange) -> Result<(), BlockError> {
    image.check_writable()?;
    let _gate = image.gate.write();
    let mut guard = image.meta.lock();
    let meta = &mut *guard;
    if image.geo.version < 3 {
        return Err(image.bad("dirty bitmaps need an image of version 3 (compat=1.1)"));
    }
    load(image, meta)?;
    begin_locked(image, meta)?;
    meta.bitmaps.begun = true;
    let size = image.virtual_size();
    let mut gone = Vec::new();
    if let BitmapChange::Add { granularity, disabled } = change {
        let granularity = granularity.unwrap_or(image.geo.cluster().clamp(4096, 65536));
        if !granularity.is_power_of_two() || !(512..=1 << 31).contains(&granularity) {
            return Err(image.bad(format!(
                "bitmap '{name}': granularity {granularity}, expected a power of two from 512 to 2G"
            )));
        }
        if name.is_empty() || name.len() > MAX_NAME || meta.bitmaps.list.len() >= MAX_BITMAPS {
            return Err(image.bad(format!(
                "bitmap '{name}': expected a name of 1 to {MAX_NAME} bytes and at most {MAX_BITMAPS} bitmaps"
            )));
        }
        if meta.bitmaps.list.iter().any(|b| b.name == name) {
            return Err(image.bad(format!("bitmap '{name}' exists already")));
        }
        let mut b = Live {
            name: name.into(),
            granularity_bits: granularity.trailing_zeros(),
            flags: if *disabled { 0 } else { AUTO },
            extra: Vec::new(),
            table_offset: 0,
            table_size: 0,
            bits: None,
            changed: true,
        };
        let words = b.words(size);
        if words as u64 * 8 > MAX_BYTES {
            return Err(image.bad(format!(
                "bitmap '{name}': more than {MAX_BYTES} bytes; a larger granularity is needed"
            )));
        }
        b.bits = Some(vec![0; words]);
        meta.bitmaps.list.push(b);
    } else {
        let index = find(image, &meta.bitmaps.list, name)?;
        if meta.bitmaps.list[index].inconsistent() && *change != BitmapChange::Remove {
            return Err(image.bad(format!("bitmap '{name}' was not saved properly; it can only be removed")));
        }
        load_bits(image, &mut meta.bitmaps.list[index])?;
        let b = &mut meta.bitmaps.list[index];
        match change {
            BitmapChange::Remove => {
                let b = meta.bitmaps.list.remove(index);
                gone = if b.table_size == 0 { Vec::new() } else { clusters_of(image, &b)? };
            }
            BitmapChange::Clear => {
                b.bits.iter_mut().for_each(|w| w.fill(0));
                b.changed = true;
            }
            BitmapChange::Enable => b.flags |= AUTO,
            BitmapChange::Disable => b.flags &= !AUTO,
            BitmapChange::Merge(ranges) => {
                ranges.iter().for_each(|r| b.set(r.start.min(size)..r.end.min(size)));
            }
            BitmapChange::Add { .. } => {}
        }
    }
    image.mark_dirty(meta)?;
    store(image, meta)?;
    gone.into_iter().for_each(|run| meta.refs.drop_later(run));
    image.settle(meta)
}
