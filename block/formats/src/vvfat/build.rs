//! A volume with a directory's files: what the guest finds when nothing has been written yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use block::BlockError;

use super::layout::{END, ENTRY, Layout, Width};
use super::names::{Short, long_entries, shorten, valid};
use crate::bytes::put;

/// Most files and directories.
const MAX_ENTRIES: usize = 1 << 18;
/// Deepest directory.
pub(super) const MAX_DEPTH: usize = 32;
/// Most entries of a directory, which may have 2 MiB.
pub(super) const MAX_DIRECTORY: usize = 65536;
/// Attributes of entries.
pub(super) const VOLUME: u8 = 0x08;
pub(super) const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const READ_ONLY: u8 = 0x01;

/// What the clusters of a run hold at first.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Directory(Vec<u8>),
    /// A file by its number in [`Base::files`].
    File(usize),
}

/// Consecutive clusters.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) source: Source,
}

/// A file or directory as the host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) directory: bool,
    /// First cluster, or 0 for an empty file.
    pub(super) first: u32,
    pub(super) size: u32,
    /// First cluster of the directory it is in (0 for the root), and the number of its short entry there.
    pub(super) slot: (u32, u32),
    /// Length and time of the host's file: if they change, somebody else has written it.
    pub(super) stamp: (u64, Option<SystemTime>),
}

/// A volume.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) layout: Layout,
    pub(super) label: Short,
    pub(super) table: Vec<u32>,
    /// The root directory, where it has a place of its own.
    pub(super) root: Vec<u8>,
    pub(super) runs: Vec<Run>,
    /// Files below the directory, by number.
    pub(super) files: Vec<String>,
    pub(super) known: BTreeMap<String, Known>,
    /// What could not be shown.
    pub(super) skipped: Vec<String>,
}

/// Something found in the directory.
struct Found {
    name: String,
    path: String,
    metadata: Metadata,
    /// What is in it.
    inner: Vec<Found>,
}

/// What the host says of a file, to tell whether it changes.
pub(super) fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (
        if metadata.is_dir() { 0 } else { metadata.len() },
        metadata.modified().ok().filter(|_| !metadata.is_dir()),
    )
}

struct Scan {
    skipped: Vec<String>,
    entries: usize,
}

impl Scan {
    fn folder(&mut self, path: &Path, relative: &str, depth: usize) -> Result<Vec<Found>, BlockError> {
        let failed = |source| BlockError::Open { path: path.display().to_string(), source };
        let bad = |what: String| BlockError::Format { path: path.display().to_string(), what };
        if depth > MAX_DEPTH {
            return Err(bad(format!("directories are nested deeper than {MAX_DEPTH}")));
        }
        let mut out = Vec::new();
        let mut spellings = BTreeSet::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let raw = entry.file_name();
            let shown = format!("{relative}{}", raw.to_string_lossy());
            let metadata = entry.metadata().map_err(failed)?;
            let name = raw.to_str().filter(|n| valid(n));
            // Links could lead out of the directory; devices and the like are no files.
            let usable = metadata.is_file() || metadata.is_dir();
            let Some(name) = name.filter(|n| usable && spellings.insert(n.to_lowercase())) else {
                self.skipped.push(shown);
                continue;
            };
            if metadata.is_file() && metadata.len() > u64::from(u32::MAX) {
                return Err(bad(format!(
                    "{name} has {} bytes, more than a file of a FAT volume can",
                    metadata.len()
                )));
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(bad(format!("more than {MAX_ENTRIES} files and directories")));
            }
            let inner = match metadata.is_dir() {
                true => self.folder(&entry.path(), &format!("{shown}/"), depth + 1)?,
                false => Vec::new(),
            };
            out.push(Found { name: name.into(), path: shown, metadata, inner });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }
}

/// Date and time of a directory entry, in UTC.
pub(super) fn fat_time(time: Option<SystemTime>) -> (u16, u16) {
    let seconds = time.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    // 1980 to 2107.
    let seconds = seconds.clamp(315_532_800, 4_354_819_199);
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Days since 1 March of year 0 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let date = ((year - 1980) << 9) | (month << 5) | day;
    let time = ((rest / 3600) << 11) | ((rest / 60 % 60) << 5) | (rest % 60 / 2);
    (date as u16, time as u16)
}

struct Builder<'a> {
    base: Base,
    next: u32,
    path: &'a Path,
}

impl Builder<'_> {
    fn bad(&self, what: String) -> BlockError {
        BlockError::Format { path: self.path.display().to_string(), what }
    }

    /// Takes clusters for so many bytes.
    fn take(&mut self, bytes: u64, source: impl FnOnce() -> Source) -> Result<u32, BlockError> {
        let cluster = self.base.layout.cluster() as u64;
        let count = bytes.div_ceil(cluster);
        if count == 0 {
            return Ok(0);
        }
        let left = u64::from(self.base.layout.clusters() + 2 - self.next);
        if count > left {
            let has = u64::from(self.base.layout.clusters()) * cluster;
            let bits = self.base.layout.width.bits();
            return Err(self.bad(format!("the files do not fit on a FAT{bits} volume of {has} bytes")));
        }
        let first = self.next;
        self.next += count as u32;
        for c in first..self.next {
            self.base.table[c as usize] = if c + 1 == self.next { END } else { c + 1 };
        }
        self.base.runs.push(Run { first, count: count as u32, source: source() });
        Ok(first)
    }

    /// The bytes of a directory whose first cluster is `own`; what is in it gets its clusters.
    fn folder(&mut self, found: &[Found], own: u32, parent: Option<u32>) -> Result<Vec<u8>, BlockError> {
        let mut out = Vec::new();
        if let Some(parent) = parent {
            out.extend_from_slice(&short_entry(b".          ", DIRECTORY, own, 0, None));
            out.extend_from_slice(&short_entry(b"..         ", DIRECTORY, parent, 0, None));
        } else {
            let mut entry = short_entry(&self.base.label, VOLUME, 0, 0, None);
            entry[26..28].fill(0);
            out.extend_from_slice(&entry);
        }
        let mut taken = BTreeSet::new();
        for f in found {
            let Some((short, long)) = shorten(&f.name, &mut taken) else {
                return Err(self.bad(format!("{}: no short name is left", f.path)));
            };
            if long {
                out.extend_from_slice(&long_entries(&f.name, &short));
            }
            let directory = f.metadata.is_dir();
            let first = if directory {
                self.directory(f, own)?
            } else {
                let number = self.base.files.len();
                self.base.files.push(f.path.clone());
                self.take(f.metadata.len(), || Source::File(number))?
            };
            let size = if directory { 0 } else { f.metadata.len() as u32 };
            let kind = match (directory, f.metadata.permissions().readonly()) {
                (true, _) => DIRECTORY,
                (false, true) => ARCHIVE | READ_ONLY,
                (false, false) => ARCHIVE,
            };
            let slot = (own, (out.len() / ENTRY) as u32);
            out.extend_from_slice(&short_entry(&short, kind, first, size, f.metadata.modified().ok()));
            let known = Known { directory, first, size, slot, stamp: stamp(&f.metadata) };
            self.base.known.insert(f.path.clone(), known);
        }
        if out.len() / ENTRY > MAX_DIRECTORY {
            return Err(self.bad(format!("a directory of more than {MAX_DIRECTORY} entries")));
        }
        Ok(out)
    }

    fn directory(&mut self, found: &Found, parent: u32) -> Result<u32, BlockError> {
        // Its length does not depend on what the entries say.
        let entries: usize = 2 + found.inner.iter().map(|f| 1 + long_parts(&f.name)).sum::<usize>();
        let first = self.take((entries * ENTRY) as u64, || Source::Directory(Vec::new()))?;
        let run = self.base.runs.len() - 1;
        let bytes = self.folder(&found.inner, first, Some(parent))?;
        self.base.runs[run].source = Source::Directory(bytes);
        Ok(first)
    }
}

/// Entries a long name takes at most.
fn long_parts(name: &str) -> usize {
    name.encode_utf16().count().div_ceil(13)
}

fn short_entry(name: &Short, kind: u8, first: u32, size: u32, time: Option<SystemTime>) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    let (date, clock) = fat_time(time);
    put(&mut out, 0, name);
    out[11] = kind;
    for at in [14, 22] {
        put(&mut out, at, &clock.to_le_bytes());
    }
    for at in [16, 18, 24] {
        put(&mut out, at, &date.to_le_bytes());
    }
    put(&mut out, 20, &((first >> 16) as u16).to_le_bytes());
    put(&mut out, 26, &(first as u16).to_le_bytes());
    put(&mut out, 28, &size.to_le_bytes());
    out
}

fn bytes_of(found: &[Found]) -> u64 {
    found
        .iter()
        .map(|f| if f.metadata.is_dir() { 65536 + bytes_of(&f.inner) } else { f.metadata.len() + 32768 })
        .sum()
}

/// Makes a volume of a directory.
pub(super) fn build(
    path: &Path,
    width: Option<Width>,
    floppy: bool,
    label: Short,
) -> Result<Base, BlockError> {
    let mut scan = Scan { skipped: Vec::new(), entries: 0 };
    let found = scan.folder(path, "", 0)?;
    let layout = match floppy {
        true => Layout::floppy(width),
        false => Layout::disk(width.unwrap_or(Width::Fat16), bytes_of(&found)),
    };
    let mut table = vec![0; layout.clusters() as usize + 2];
    table[..2].copy_from_slice(&layout.first_entries());
    let base = Base {
        layout,
        label,
        table,
        root: Vec::new(),
        runs: Vec::new(),
        files: Vec::new(),
        known: BTreeMap::new(),
        skipped: scan.skipped,
    };
    let mut builder = Builder { base, next: 2, path };
    if layout.width == Width::Fat32 {
        let entries: usize = 1 + found.iter().map(|f| 1 + long_parts(&f.name)).sum::<usize>();
        // Cluster 2, as the boot sector says; entries name the root 0 all the same.
        builder.take((entries * ENTRY) as u64, || Source::Directory(Vec::new()))?;
        let bytes = builder.folder(&found, 0, None)?;
        builder.base.runs[0].source = Source::Directory(bytes);
    } else {
        let root = builder.folder(&found, 0, None)?;
        let most = layout.root_entries as usize;
        if root.len() / ENTRY > most {
            return Err(builder.bad(format!(
                "{} entries at the top, more than the {most} of this FAT volume; fat-type=32 has no limit",
                root.len() / ENTRY
            )));
        }
        builder.base.root = root;
    }
    Ok(builder.base)
}

/// The host's path of a file below a directory.
pub(super) fn host_path(root: &Path, relative: &str) -> PathBuf {
    root.join(relative.split('/').collect::<PathBuf>())
}
