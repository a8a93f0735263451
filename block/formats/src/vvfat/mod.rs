//! A directory of the host as a disk with a FAT file system (QEMU, "Virtual FAT disk images").
//!
//! What the guest has not written comes from the host's files; what it has written is kept beside, in an unnamed
//! file. With `rw` a flush puts changes into the directory, once the volume is whole ([`tree`]); until then they wait.
//! Only names below the directory that were seen there or are valid everywhere are ever touched, links are neither
//! shown nor followed, and no file is deleted or replaced that was changed by somebody else, or whose entry was
//! wiped rather than freed ([`commit`]).

mod build;
mod commit;
mod layout;
mod names;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::json;

use crate::image::{Details, Image};
use crate::options::bad_option;
use crate::registry::OpenContext;
use build::{Base, Known, Source, build, host_path};
use layout::{Layout, SECTOR, Width};

/// What a name may say beside the directory.
pub(crate) const KEYS: &[&str] = &["fat-type", "floppy", "label", "rw"];

/// Name of the volume if nobody gives one.
const LABEL: &str = "RHEA VVFAT";

/// What the guest has written.
struct Written {
    /// Sectors it has written, one after the other.
    file: File,
    /// Sector of the disk -> sector of the file.
    places: FxHashMap<u32, u32>,
    /// Sectors written since the last time all was put into the directory.
    fresh: BTreeSet<u32>,
    /// The directory as it is now, by path.
    known: BTreeMap<String, Known>,
    /// Where the files are that the volume was made of; those that are gone have been copied.
    files: Vec<Option<String>>,
    /// Why the last changes are not in the directory.
    waiting: Option<String>,
}

/// A directory as a disk.
pub(crate) struct Vvfat {
    root: PathBuf,
    filename: String,
    base: Base,
    writable: bool,
    written: Mutex<Written>,
    /// The file read last, which is mostly the next too.
    last: Mutex<Option<(String, File)>>,
    /// Held while the disk is open, against a second one that writes.
    _lock: Option<File>,
}

impl fmt::Debug for Vvfat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vvfat:{}", self.root.display())
    }
}

/// Opens a directory.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let root = PathBuf::from(&context.filename);
    let failed = |source| BlockError::Open { path: context.filename.clone(), source };
    if !std::fs::metadata(&root).map_err(failed)?.is_dir() {
        return Err(BlockError::Format {
            path: context.filename.clone(),
            what: "vvfat: expected a directory".into(),
        });
    }
    let root = std::fs::canonicalize(&root).map_err(failed)?;
    let switch = |key: &str| match context.key(key) {
        None | Some("off" | "no" | "false") => Ok(false),
        Some("on" | "yes" | "true") => Ok(true),
        Some(other) => Err(bad_option(key, other, "on or off")),
    };
    let width = match context.key("fat-type") {
        None | Some("0") => None,
        Some("12") => Some(Width::Fat12),
        Some("16") => Some(Width::Fat16),
        Some("32") => Some(Width::Fat32),
        Some(other) => return Err(bad_option("fat-type", other, "12, 16 or 32")),
    };
    let floppy = switch("floppy")?;
    if floppy && matches!(width, Some(Width::Fat16 | Width::Fat32)) {
        return Err(bad_option("fat-type", context.key("fat-type").unwrap_or_default(), "12 with floppy=on"));
    }
    let text = context.key("label").unwrap_or(LABEL);
    let mut label = [b' '; 11];
    if text.len() > label.len() || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Err(bad_option("label", text, "at most 11 characters of ASCII"));
    }
    label[..text.len()].copy_from_slice(text.as_bytes());
    let writable = switch("rw")? && !context.options.read_only;
    let lock = lock(&root, writable, context)?;
    let base = build(&root, width, floppy, label)?;
    let written = Written {
        file: tempfile::tempfile()
            .map_err(|source| BlockError::Open { path: "temporary file of a vvfat disk".into(), source })?,
        places: FxHashMap::default(),
        fresh: BTreeSet::new(),
        known: base.known.clone(),
        files: base.files.iter().cloned().map(Some).collect(),
        waiting: None,
    };
    Ok(Arc::new(Vvfat {
        root,
        filename: context.filename.clone(),
        base,
        writable,
        written: Mutex::new(written),
        last: Mutex::new(None),
        _lock: lock,
    }))
}

/// Locks a directory, where the host can.
fn lock(root: &Path, write: bool, context: &OpenContext<'_>) -> Result<Option<File>, BlockError> {
    use std::fs::TryLockError;
    if context.options.sharing != block::Sharing::Readers {
        return Ok(None);
    }
    let Ok(file) = File::open(root) else { return Ok(None) };
    match if write { file.try_lock() } else { file.try_lock_shared() } {
        Err(TryLockError::WouldBlock) => {
            Err(BlockError::InUse { path: root.display().to_string(), writer: !write })
        }
        _ => Ok(Some(file)),
    }
}

/// What a part of the disk holds at first.
enum Place<'a> {
    Zero,
    Bytes(&'a [u8], usize),
    Generated(Box<[u8; SECTOR]>),
    File(usize, u64),
}

impl Vvfat {
    fn layout(&self) -> Layout {
        self.base.layout
    }

    /// What a sector of the disk holds at first, and for how many sectors that goes on.
    fn place(&self, sector: u32) -> (Place<'_>, u32) {
        let l = self.layout();
        if sector == 0 && l.start != 0 {
            return (Place::Generated(Box::new(l.mbr())), 1);
        }
        let Some(s) = sector.checked_sub(l.start) else { return (Place::Zero, l.start - sector) };
        let (fat, fat_sectors) = l.fat();
        if s < fat {
            let wide = l.width == Width::Fat32;
            return match s {
                0 => (Place::Generated(Box::new(l.boot(&self.base.label))), 1),
                6 if wide => (Place::Generated(Box::new(l.boot(&self.base.label))), 1),
                1 | 7 if wide => {
                    let free = self.base.table.iter().filter(|e| **e == 0).count() as u32;
                    let next = self.base.table.iter().position(|e| *e == 0).unwrap_or(2) as u32;
                    (Place::Generated(Box::new(l.info(free, next))), 1)
                }
                _ => (Place::Zero, 1),
            };
        }
        if s < l.root() {
            return (Place::Generated(Box::new(l.encode(&self.base.table, (s - fat) % fat_sectors))), 1);
        }
        if s < l.data() {
            return (Place::Bytes(&self.base.root, (s - l.root()) as usize * SECTOR), l.data() - s);
        }
        let within = s - l.data();
        let cluster = within / l.per_cluster + 2;
        let after = self.base.runs.partition_point(|r| r.first <= cluster);
        let Some(run) =
            after.checked_sub(1).map(|i| &self.base.runs[i]).filter(|r| cluster - r.first < r.count)
        else {
            let next = self.base.runs.get(after).map_or(l.sectors, |r| l.sector_of(r.first));
            return (Place::Zero, next.saturating_sub(s).max(1));
        };
        let start = l.sector_of(run.first);
        let left = start + run.count * l.per_cluster - s;
        let offset = (s - start) as usize * SECTOR;
        match &run.source {
            Source::Directory(bytes) => (Place::Bytes(bytes, offset), left),
            Source::File(number) => (Place::File(*number, offset as u64), left),
        }
    }

    /// Reads a file of the host, zero beyond its end.
    fn read_file(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let failed =
            |source| BlockError::Open { path: host_path(&self.root, path).display().to_string(), source };
        let mut last = self.last.lock();
        if last.as_ref().is_none_or(|(p, _)| p != path) {
            let full = host_path(&self.root, path);
            // What has become a link since is not followed.
            if !std::fs::symlink_metadata(&full).map_err(failed)?.is_file() {
                return Err(failed(std::io::Error::other("is no file any more")));
            }
            *last = Some((path.to_owned(), File::open(full).map_err(failed)?));
        }
        let Some((_, file)) = last.as_mut() else { return Ok(()) };
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut done = 0;
        while done < buf.len() {
            match file.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        buf[done..].fill(0);
        Ok(())
    }

    /// Reads whole sectors.
    fn read_sectors(&self, w: &Written, mut sector: u32, mut buf: &mut [u8]) -> Result<(), BlockError> {
        while !buf.is_empty() {
            let max = (buf.len() / SECTOR) as u32;
            if let Some(place) = w.places.get(&sector).copied() {
                let mut n = 1;
                while n < max && w.places.get(&(sector + n)) == Some(&(place + n)) {
                    n += 1;
                }
                let (part, rest) = buf.split_at_mut(n as usize * SECTOR);
                let mut file = &w.file;
                file.seek(SeekFrom::Start(u64::from(place) * SECTOR as u64))?;
                file.read_exact(part)?;
                (buf, sector) = (rest, sector + n);
                continue;
            }
            let (place, most) = self.place(sector);
            let most = most.min(max);
            let n = (1..most).find(|i| w.places.contains_key(&(sector + i))).unwrap_or(most);
            let (part, rest) = buf.split_at_mut(n as usize * SECTOR);
            match place {
                Place::Zero => part.fill(0),
                Place::Generated(bytes) => part.copy_from_slice(&*bytes),
                Place::Bytes(bytes, at) => {
                    let there = bytes.get(at..).unwrap_or_default();
                    let k = there.len().min(part.len());
                    part[..k].copy_from_slice(&there[..k]);
                    part[k..].fill(0);
                }
                Place::File(number, at) => match &w.files[number] {
                    Some(path) => self.read_file(path, at, part)?,
                    None => part.fill(0),
                },
            }
            (buf, sector) = (rest, sector + n);
        }
        Ok(())
    }

    /// Keeps sectors the guest wrote.
    fn keep(w: &mut Written, sector: u32, data: &[u8]) -> Result<(), BlockError> {
        let count = (data.len() / SECTOR) as u32;
        let mut done = 0;
        while done < count {
            let next = w.places.len() as u32;
            let old = w.places.get(&(sector + done)).copied();
            let place = old.unwrap_or(next);
            let mut n = 1;
            while done + n < count
                && match old {
                    Some(old) => w.places.get(&(sector + done + n)) == Some(&(old + n)),
                    None => !w.places.contains_key(&(sector + done + n)),
                }
            {
                n += 1;
            }
            let mut file = &w.file;
            file.seek(SeekFrom::Start(u64::from(place) * SECTOR as u64))?;
            file.write_all(&data[done as usize * SECTOR..(done + n) as usize * SECTOR])?;
            for i in 0..n {
                w.places.insert(sector + done + i, place + i);
            }
            done += n;
        }
        Ok(())
    }
}

/// The whole sectors a range touches.
fn sectors(offset: u64, len: usize) -> (u32, usize, usize) {
    let first = offset / SECTOR as u64;
    let within = (offset % SECTOR as u64) as usize;
    (first as u32, within, (within + len).next_multiple_of(SECTOR))
}

impl BlockNode for Vvfat {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("vvfat:{}", self.root.display()),
            size: self.size(),
            read_only: !self.writable,
            granularity: SECTOR as u32,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        u64::from(self.layout().disk) * SECTOR as u64
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let w = self.written.lock();
        // The file of what was written has one position.
        for buf in bufs {
            let (first, within, total) = sectors(offset, buf.len());
            if within == 0 && total == buf.len() {
                self.read_sectors(&w, first, buf)?;
            } else {
                let mut whole = vec![0; total];
                self.read_sectors(&w, first, &mut whole)?;
                let n = buf.len();
                buf.copy_from_slice(&whole[within..within + n]);
            }
            offset += buf.len() as u64;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        if !self.writable {
            return Err(BlockError::ReadOnly);
        }
        {
            let mut w = self.written.lock();
            for buf in bufs {
                let (first, within, total) = sectors(offset, buf.len());
                let mut whole = vec![0; total];
                if within != 0 || total != buf.len() {
                    self.read_sectors(&w, first, &mut whole)?;
                }
                whole[within..within + buf.len()].copy_from_slice(buf);
                Self::keep(&mut w, first, &whole)?;
                w.fresh.extend(first..first + (total / SECTOR) as u32);
                offset += buf.len() as u64;
            }
        }
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.writable { self.commit(&mut self.written.lock()) } else { Ok(()) }
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let w = self.written.lock();
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let sector = (at / SECTOR as u64) as u32;
            let (zero, n) = match w.places.contains_key(&sector) {
                true => (false, 1),
                false => match self.place(sector) {
                    (Place::Zero, n) => {
                        (true, (1..n).find(|i| w.places.contains_key(&(sector + i))).unwrap_or(n))
                    }
                    (_, n) => (false, n),
                },
            };
            let end = ((u64::from(sector) + u64::from(n)) * SECTOR as u64).min(range.end);
            Extent::push(&mut out, Extent::new(at..end, true, zero));
            at = end;
        }
        Ok(out)
    }
}

impl Image for Vvfat {
    fn format(&self) -> &'static str {
        "vvfat"
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn details(&self) -> Details {
        let bits = self.layout().width.bits();
        let mut specific = vec![("fat-type", json!(bits)), ("rw", json!(self.writable))];
        if !self.base.skipped.is_empty() {
            specific.push(("not-shown", json!(self.base.skipped)));
        }
        specific.extend(self.written.lock().waiting.as_ref().map(|w| ("not-written-back", json!(w))));
        Details { cluster_size: Some(self.layout().cluster() as u64), specific, ..Details::default() }
    }

    fn close(&self) -> Result<(), BlockError> {
        self.flush()?;
        match &self.written.lock().waiting {
            None => Ok(()),
            Some(what) => Err(BlockError::Format {
                path: self.root.display().to_string(),
                what: format!("what the guest wrote last is not in the directory: {what}"),
            }),
        }
    }
}

impl Drop for Vvfat {
    fn drop(&mut self) {
        // Who wants to know whether this worked has called close() before.
        let _ = self.flush();
    }
}
