//! Images that are a table of blocks: each block of the disk has a place in the file, or none.
//!
//! A format brings a [`Layout`], which knows the tables; reading, writing and growing are the same for all. The
//! layout is locked while tables are looked at and while a block gets its place; a block's place is written to the
//! tables only after its contents are.
//!
//! A host that loses its power may have written the tables and not the contents. What the tables name is therefore always
//! within the file: it is made longer some way ahead, for good, before a block of the new part is named. Such a block then
//! reads as zero, as it did before; where it read as something else, its contents are made stable first.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::{Mutex, RwLock};

use crate::crypto::{SectorCipher, gather};
use crate::image::{BackingName, BitmapInfo, CheckReport, Details, Image, Repair};

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it is read from the backing file, or zero.
    Hole,
    /// It is zero.
    Zero,
    /// At this offset of the file.
    At(u64),
    /// Compressed, or put together from several places: to be got from the layout.
    Packed(u64),
}

/// The tables of a format.
pub(crate) trait Layout: Send + fmt::Debug {
    /// Name of the format.
    fn format(&self) -> &'static str;

    /// Bytes of a block.
    fn unit(&self) -> u64;

    /// Where a block is.
    fn place(&mut self, file: &dyn BlockNode, block: u64) -> Result<Place, BlockError>;

    /// Takes space for a block; nothing names it yet. It is at the end of the file, so that it reads as zero.
    fn take(&mut self, file: &dyn BlockNode, block: u64) -> Result<u64, BlockError> {
        let _ = (file, block);
        Err(BlockError::ReadOnly)
    }

    /// Writes to the tables where a block is.
    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        let _ = (file, block, offset);
        Err(BlockError::ReadOnly)
    }

    /// Writes to the tables that a block is zero; false if they cannot say so.
    fn link_zero(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        let _ = (file, block);
        Ok(false)
    }

    /// Reads a compressed block.
    fn unpack(&mut self, file: &dyn BlockNode, place: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let _ = (file, place, out);
        Err(BlockError::Unsupported("compressed data"))
    }

    /// Whether what is [`Place::Packed`] is not compressed, but partly here and partly below.
    fn mixes(&self) -> bool {
        false
    }

    /// Whether blocks can be stored compressed only, each once.
    fn only_packed(&self) -> bool {
        false
    }

    /// Stores a compressed block.
    fn pack(&mut self, file: &dyn BlockNode, block: u64, data: &[u8]) -> Result<(), BlockError> {
        let _ = (file, block, data);
        Err(BlockError::Unsupported("writing compressed data"))
    }

    /// Where the last block or table ends, for files that may be longer than that while they are in use.
    fn end(&self) -> Option<u64> {
        None
    }

    /// Takes a block out of the tables; false if they are not repaired.
    fn unlink(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        let _ = (file, block);
        Ok(false)
    }

    /// Puts in order what taking blocks out of the tables has left.
    fn settle(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        let _ = file;
        Ok(())
    }

    /// Changes the size of the disk.
    fn resize(&mut self, file: &dyn BlockNode, size: u64) -> Result<(), BlockError> {
        let _ = (file, size);
        Err(BlockError::Unsupported("changing the size"))
    }

    /// Marks the image as in use, before its first change.
    fn begin(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        let _ = file;
        Ok(())
    }

    /// Writes what is not written yet, and marks the image as closed.
    fn close(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        let _ = file;
        Ok(())
    }

    /// What `info` shows.
    fn details(&self) -> Details {
        Details { cluster_size: Some(self.unit()), ..Details::default() }
    }

    /// Changes the name of the backing file.
    fn set_backing(&mut self, file: &dyn BlockNode, backing: Option<&BackingName>) -> Result<(), BlockError> {
        let _ = (file, backing);
        Err(BlockError::Unsupported("a backing file"))
    }

    /// Name of the backing file.
    fn backing_name(&self) -> Option<BackingName> {
        None
    }

    /// Dirty bitmaps, which are only read.
    fn bitmaps(&self) -> Vec<BitmapInfo> {
        Vec::new()
    }

    /// Where a bitmap has bits.
    fn bitmap_ranges(&self, name: &str) -> Option<Vec<Range<u64>>> {
        let _ = name;
        None
    }

    /// Whether a check is there.
    fn checks(&self) -> bool {
        false
    }
}

/// Most bytes that a file gets longer ahead of need, which is a quarter otherwise: each time costs waiting for the host.
const AHEAD: u64 = 32 << 20;

/// An image of this kind.
pub(crate) struct Mapped<L: Layout> {
    filename: String,
    file: Arc<dyn BlockNode>,
    layout: Mutex<L>,
    size: AtomicU64,
    unit: u64,
    read_only: bool,
    begun: Mutex<bool>,
    /// From here on the file reads as zero. Nothing below is taken for zero: it may be of a block that was never named.
    fresh: AtomicU64,
    /// The file is longer than its contents, which ends when it is closed.
    ahead: AtomicBool,
    backing: RwLock<Option<Arc<dyn Image>>>,
    /// Where this image starts in what is below.
    backing_base: u64,
    /// Encrypts what is stored; sectors are numbered by their place on the disk.
    cipher: Option<SectorCipher>,
    /// It is encrypted, even if there is no cipher because it was opened to be looked at only.
    encrypted: bool,
    /// Held for writing by writes of parts of encrypted sectors.
    gate: RwLock<()>,
}

impl<L: Layout> fmt::Debug for Mapped<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.layout.lock().format(), self.filename)
    }
}

impl<L: Layout> Mapped<L> {
    pub(crate) fn new(
        filename: &str,
        file: Arc<dyn BlockNode>,
        layout: L,
        size: u64,
        read_only: bool,
    ) -> Self {
        let fresh = if file.grows() { file.size() } else { u64::MAX };
        Mapped {
            filename: filename.into(),
            file,
            fresh: AtomicU64::new(fresh),
            ahead: AtomicBool::new(false),
            unit: layout.unit(),
            layout: Mutex::new(layout),
            size: AtomicU64::new(size),
            read_only,
            begun: Mutex::new(false),
            backing: RwLock::new(None),
            backing_base: 0,
            cipher: None,
            encrypted: false,
            gate: RwLock::new(()),
        }
    }

    pub(crate) fn back(self, backing: Option<Arc<dyn Image>>) -> Self {
        *self.backing.write() = backing;
        self
    }

    /// Puts it above a part of another image, which starts at `base` of that.
    pub(crate) fn back_at(mut self, backing: Option<Arc<dyn Image>>, base: u64) -> Self {
        self.backing_base = base;
        self.back(backing)
    }

    /// Encrypts it.
    pub(crate) fn encrypt(mut self, cipher: Option<SectorCipher>) -> Self {
        self.encrypted = true;
        self.cipher = cipher;
        self
    }

    fn check_unlocked(&self) -> Result<(), BlockError> {
        if self.encrypted && self.cipher.is_none() {
            let what = "the image is locked: no encrypt.key-secret was given".into();
            return Err(BlockError::Format { path: self.filename.clone(), what });
        }
        Ok(())
    }

    /// Reads what is stored at `at` for `offset` of the disk.
    fn load(&self, at: u64, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        match &self.cipher {
            Some(cipher) => cipher.read(&*self.file, at, offset, buf),
            None => self.file.read(at, &mut [IoSliceMut::new(buf)]),
        }
    }

    /// Stores data at `at` for `offset` of the disk.
    fn store(&self, at: u64, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        match &self.cipher {
            Some(cipher) => {
                cipher.write(&*self.file, at, offset, data.len() as u64, gather(&[IoSlice::new(data)]))
            }
            None => self.file.write(at, &[IoSlice::new(data)], false),
        }
    }

    /// Cuts a range at blocks: (block, offset in it, length).
    fn blocks(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, usize)> + use<L> {
        let (unit, end) = (self.unit, offset + len);
        let mut at = offset;
        std::iter::from_fn(move || {
            let within = at % unit;
            let n = (unit - within).min(end - at);
            let piece = (n != 0).then_some((at / unit, within, n as usize));
            at += n;
            piece
        })
    }

    /// Bytes of the disk in a block: fewer at its end.
    fn block_len(&self, block: u64) -> u64 {
        self.unit.min(self.size().saturating_sub(block * self.unit))
    }

    fn read_backing(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let offset = offset + self.backing_base;
        let backing = self.backing.read().clone();
        let there =
            backing.as_ref().map_or(0, |b| b.size().saturating_sub(offset)).min(buf.len() as u64) as usize;
        let (data, beyond) = buf.split_at_mut(there);
        beyond.fill(0);
        match backing {
            Some(b) if there != 0 => b.read(offset, &mut [IoSliceMut::new(data)]),
            _ => Ok(()),
        }
    }

    /// Reads a run of blocks that are in one place, from `offset` of the disk on.
    fn read_run(&self, place: Place, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        match place {
            Place::At(at) => self.load(at, offset, buf),
            Place::Hole => self.read_backing(offset, buf),
            Place::Zero => {
                buf.fill(0);
                Ok(())
            }
            Place::Packed(place) => {
                let within = (offset % self.unit) as usize;
                let mut whole = vec![0; self.unit as usize];
                self.layout.lock().unpack(&*self.file, place, &mut whole)?;
                buf.copy_from_slice(&whole[within..within + buf.len()]);
                Ok(())
            }
        }
    }

    /// Reads into one buffer, blocks that follow one another in the file in one go.
    fn read_buffer(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let mut run: Option<(Place, Range<usize>)> = None;
        let mut done = 0;
        for (block, within, n) in self.blocks(offset, buf.len() as u64) {
            let place = match self.layout.lock().place(&*self.file, block)? {
                Place::At(at) => Place::At(at + within),
                other => other,
            };
            let follows = run.as_ref().is_some_and(|(before, range)| match (*before, place) {
                (Place::At(a), Place::At(b)) => a + range.len() as u64 == b,
                (Place::Hole, Place::Hole) | (Place::Zero, Place::Zero) => true,
                _ => false,
            });
            match &mut run {
                Some((_, range)) if follows => range.end += n,
                _ => {
                    if let Some((place, range)) = run.replace((place, done..done + n)) {
                        self.read_run(place, offset + range.start as u64, &mut buf[range])?;
                    }
                }
            }
            done += n;
        }
        match run {
            Some((place, range)) => self.read_run(place, offset + range.start as u64, &mut buf[range]),
            None => Ok(()),
        }
    }

    fn write_part(&self, block: u64, within: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut layout = self.layout.lock();
        let old = layout.place(&*self.file, block)?;
        if let Place::At(at) = old {
            drop(layout);
            return self.store(at + within, block * self.unit + within, data);
        }
        if layout.only_packed() {
            if old != Place::Hole || within != 0 || data.len() as u64 != self.block_len(block) {
                return Err(BlockError::Unsupported("writing other than whole clusters, once"));
            }
            let mut whole = data.to_vec();
            whole.resize(self.unit as usize, 0);
            return layout.pack(&*self.file, block, &whole);
        }
        let zero = old == Place::Zero || (old == Place::Hole && self.backing.read().is_none());
        let at = layout.take(&*self.file, block)?;
        self.reserve(&*layout, at + self.unit)?;
        // Whatever comes of it, the place is not fresh any more.
        let fresh = self.fresh.fetch_max(at + self.unit, Ordering::Relaxed) <= at;
        if zero && fresh && self.cipher.is_none() && self.file.grows() {
            self.file.write(at + within, &[IoSlice::new(data)], false)?;
        } else {
            let mut whole = vec![0; self.unit as usize];
            match old {
                Place::Packed(place) => layout.unpack(&*self.file, place, &mut whole)?,
                Place::Hole => self.read_backing(block * self.unit, &mut whole)?,
                _ => {}
            }
            whole[within as usize..within as usize + data.len()].copy_from_slice(data);
            self.store(at, block * self.unit, &whole)?;
            if !zero || self.cipher.is_some() || !fresh {
                // What it would read as otherwise is not what it reads as now.
                self.file.flush()?;
            }
        }
        layout.link(&*self.file, block, at)
    }

    /// Makes the file at least so long, for good where the layout counts on it.
    fn reserve(&self, layout: &L, end: u64) -> Result<(), BlockError> {
        if !self.file.grows() || self.file.size() >= end {
            return Ok(());
        }
        if layout.end().is_none() {
            return self.file.resize(end);
        }
        self.ahead.store(true, Ordering::Relaxed);
        self.file.resize(end + (end / 4).min(AHEAD))?;
        self.file.flush()
    }

    /// Gives back what the file has ahead of need.
    fn trim(&self, layout: &L) -> Result<(), BlockError> {
        match layout.end() {
            Some(end) if self.ahead.swap(false, Ordering::Relaxed) && self.file.size() > end => {
                self.fresh.store(end, Ordering::Relaxed);
                self.file.resize(end)
            }
            _ => Ok(()),
        }
    }

    /// Gives a block whose place is another's as well a copy of its own; false if the tables are not repaired.
    fn split(&self, layout: &mut L, (at, block): (u64, u64)) -> Result<bool, BlockError> {
        let mut data = vec![0; self.block_len(block) as usize];
        self.file.read(at, &mut [IoSliceMut::new(&mut data)])?;
        if !layout.unlink(&*self.file, block)? {
            return Ok(false);
        }
        let at = layout.take(&*self.file, block)?;
        self.reserve(layout, at + self.unit)?;
        self.fresh.fetch_max(at + self.unit, Ordering::Relaxed);
        self.file.write(at, &[IoSlice::new(&data)], false)?;
        self.file.flush()?;
        layout.link(&*self.file, block, at)?;
        Ok(true)
    }

    fn change(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.check_unlocked()?;
        let mut begun = self.begun.lock();
        if !*begun {
            self.layout.lock().begin(&*self.file)?;
            *begun = true;
        }
        Ok(())
    }
}

impl<L: Layout> BlockNode for Mapped<L> {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("{}:{}", self.layout.lock().format(), self.filename),
            size: self.size(),
            read_only: self.read_only,
            granularity: 4096,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.check_unlocked()?;
        for buf in bufs {
            self.read_buffer(offset, buf)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.change()?;
        let whole = |c: &SectorCipher| bufs.iter().all(|b| c.whole(offset, b.len() as u64));
        let alone = self.cipher.as_ref().is_some_and(|c| !whole(c));
        let (_gate, _others) = match alone {
            true => (None, Some(self.gate.write())),
            false => (Some(self.gate.read()), None),
        };
        for buf in bufs {
            let mut done = 0;
            for (block, within, n) in self.blocks(offset, buf.len() as u64) {
                self.write_part(block, within, &buf[done..done + n])?;
                done += n;
            }
            offset += done as u64;
        }
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.flush()
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let _ = unmap;
        self.change()?;
        let _gate = self.gate.write();
        let zeroes = vec![0; self.unit.min(len).min(1 << 20) as usize];
        for (block, within, n) in self.blocks(offset, len) {
            let below = self
                .backing
                .read()
                .as_ref()
                .is_some_and(|b| b.size() > self.backing_base + block * self.unit);
            {
                let mut layout = self.layout.lock();
                match layout.place(&*self.file, block)? {
                    Place::Zero => continue,
                    Place::Hole if !below => continue,
                    Place::At(_) => {}
                    _ if n as u64 == self.block_len(block) && layout.link_zero(&*self.file, block)? => {
                        continue;
                    }
                    _ => {}
                }
            }
            let mut done = 0;
            while done < n {
                let part = (n - done).min(zeroes.len());
                self.write_part(block, within + done as u64, &zeroes[..part])?;
                done += part;
            }
        }
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let below = self.backing.read().is_some();
        let mut out = Vec::new();
        let mut layout = self.layout.lock();
        for (block, within, n) in self.blocks(range.start, range.end.saturating_sub(range.start)) {
            let start = block * self.unit + within;
            let range = start..start + n as u64;
            let extent = match layout.place(&*self.file, block)? {
                Place::Hole => Extent::new(range, false, !below),
                Place::Zero => Extent::new(range, true, true),
                Place::At(at) => Extent {
                    offset: (!self.encrypted).then_some(at + within),
                    ..Extent::new(range, true, false)
                },
                Place::Packed(_) => Extent { compressed: !layout.mixes(), ..Extent::new(range, true, false) },
            };
            Extent::push(&mut out, extent);
        }
        Ok(out)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.change()?;
        self.layout.lock().resize(&*self.file, size)?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        self.file.relock(locked)
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        let mut all = vec![self.file.clone()];
        all.extend(self.backing.read().clone().map(|b| b as Arc<dyn BlockNode>));
        all
    }
}

impl<L: Layout> Image for Mapped<L> {
    fn format(&self) -> &'static str {
        self.layout.lock().format()
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        vec![("file".into(), self.file.clone())]
    }

    fn details(&self) -> Details {
        Details { encrypted: self.encrypted, ..self.layout.lock().details() }
    }

    fn backing(&self) -> Option<Arc<dyn Image>> {
        self.backing.read().clone()
    }

    fn backing_name(&self) -> Option<BackingName> {
        self.layout.lock().backing_name()
    }

    fn set_backing(&self, backing: Option<&BackingName>) -> Result<(), BlockError> {
        self.change()?;
        self.layout.lock().set_backing(&*self.file, backing)
    }

    fn bitmaps(&self) -> Result<Vec<BitmapInfo>, BlockError> {
        Ok(self.layout.lock().bitmaps())
    }

    fn bitmap_ranges(&self, name: &str) -> Result<Vec<Range<u64>>, BlockError> {
        let found = self.layout.lock().bitmap_ranges(name);
        found.ok_or_else(|| BlockError::Format {
            path: self.filename.clone(),
            what: format!("there is no bitmap '{name}'"),
        })
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.change()?;
        if self.encrypted {
            return Err(BlockError::Unsupported("compressed data in an encrypted image"));
        }
        let block = offset / self.unit;
        if !offset.is_multiple_of(self.unit) || data.len() as u64 != self.block_len(block) {
            return Err(BlockError::Unsupported("compressed data that is not a whole cluster"));
        }
        let mut whole = data.to_vec();
        whole.resize(self.unit as usize, 0);
        self.layout.lock().pack(&*self.file, block, &whole)
    }

    fn check(&self, repair: Repair) -> Result<CheckReport, BlockError> {
        if repair != Repair::No {
            self.change()?;
        }
        let mut layout = self.layout.lock();
        if !layout.checks() {
            return Err(BlockError::Unsupported("checking"));
        }
        // Every block in the file, and none twice.
        let mut report = CheckReport::default();
        let (mut places, mut bad, mut next) = (Vec::new(), Vec::new(), None);
        report.total_clusters = self.size().div_ceil(self.unit);
        for block in 0..report.total_clusters {
            match layout.place(&*self.file, block) {
                Ok(Place::At(at)) if at.saturating_add(self.block_len(block)) > self.file.size() => {
                    bad.push((block, format!("block {block} at {at:#x} ends beyond the end of the file")));
                }
                Ok(Place::At(at)) => {
                    report.allocated_clusters += 1;
                    report.fragmented_clusters += u64::from(next.is_some_and(|n| n != at));
                    next = Some(at + self.unit);
                    places.push((at, block));
                }
                Ok(Place::Packed(at)) if at >= self.file.size() => {
                    bad.push((block, format!("block {block} at {at:#x} is beyond the end of the file")));
                }
                Ok(_) => {}
                Err(e) => bad.push((block, e.to_string())),
            }
        }
        for (block, what) in bad {
            report.found(what, repair == Repair::All && layout.unlink(&*self.file, block)?);
        }
        places.sort_unstable();
        for pair in places.windows(2).filter(|p| p[0].0 + self.unit > p[1].0) {
            let what = format!("blocks {} and {} overlap at {:#x}", pair[0].1, pair[1].1, pair[1].0);
            report.found(what, repair == Repair::All && self.split(&mut layout, pair[1])?);
        }
        if report.corruptions_fixed > 0 {
            layout.settle(&*self.file)?;
        }
        report.image_end_offset = places.last().map_or(0, |p| p.0 + self.unit);
        Ok(report)
    }

    fn close(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        let mut begun = self.begun.lock();
        if *begun {
            self.file.flush()?;
            let mut layout = self.layout.lock();
            self.trim(&layout)?;
            layout.close(&*self.file)?;
            *begun = false;
        }
        self.file.flush()
    }
}

impl<L: Layout> Drop for Mapped<L> {
    fn drop(&mut self) {
        // Who wants to know whether this worked has called close() before.
        let _ = self.close();
    }
}

/// Reads a table of `n` entries of `width` bytes, as far as the file holds it; the rest is zero.
pub(crate) fn read_table(
    file: &dyn BlockNode,
    offset: u64,
    n: u64,
    width: u64,
    max: u64,
    path: &str,
    name: &str,
) -> Result<Vec<u8>, BlockError> {
    let len = n.saturating_mul(width);
    if len > max {
        let what = format!("{name} of {n} entries, expected at most {}", max / width);
        return Err(BlockError::Format { path: path.into(), what });
    }
    if offset.checked_add(len).is_none_or(|end| end > file.size()) {
        let what = format!("{name} of {len} bytes at {offset:#x} ends beyond the end of the file");
        return Err(BlockError::Format { path: path.into(), what });
    }
    let mut raw = vec![0; len as usize];
    file.read(offset, &mut [IoSliceMut::new(&mut raw)])?;
    Ok(raw)
}

/// Reads the start of a file, zero where it is shorter.
pub(crate) fn head(file: &dyn BlockNode, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
    let mut raw = vec![0; len];
    if offset < file.size() {
        file.read(offset, &mut [IoSliceMut::new(&mut raw)])?;
    }
    Ok(raw)
}
