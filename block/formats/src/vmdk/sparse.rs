//! A sparse extent: a directory of tables of grains ("Virtual Disk Format 5.0", "Hosted Sparse Extents" and
//! "Stream-Optimized Compressed Sparse Extents"). There are two copies of the tables; both are kept up to date.

use std::io::{IoSlice, IoSliceMut};

use block::{BlockError, BlockNode};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use rustc_hash::FxHashMap;

use super::SECTOR;
use crate::bytes::{le16, le32, le64};
use crate::image::Details;
use crate::mapped::{Layout, Place, head, read_table};

pub(super) const MAGIC: &[u8; 4] = b"KDMV";
pub(super) const HEADER: usize = 512;
const MAGIC_COWD: &[u8; 4] = b"COWD";
/// Entries of a grain table of an older sparse extent of ESX.
const PER_COWD_TABLE: u64 = 4096;
/// Entries of a grain table.
pub(super) const PER_TABLE: u64 = 512;
/// Flags of the header.
pub(super) const NEWLINES: u32 = 1 << 0;
pub(super) const REDUNDANT: u32 = 1 << 1;
pub(super) const ZERO_GRAINS: u32 = 1 << 2;
pub(super) const COMPRESSED: u32 = 1 << 16;
pub(super) const MARKERS: u32 = 1 << 17;
/// The directory is named by a footer at the end.
const AT_END: u64 = u64::MAX;
/// Entry of a grain that is zero.
const ZERO: u32 = 1;
/// Tables kept in memory.
const MAX_TABLES: usize = 8192;

/// The tables of an extent.
#[derive(Debug)]
pub(super) struct Sparse {
    path: String,
    grain: u64,
    per_table: u64,
    flags: u32,
    /// Sectors of the tables, and of their copies.
    directory: Vec<u32>,
    copies: Vec<u32>,
    tables: FxHashMap<u64, Vec<u32>>,
    end: u64,
}

impl Sparse {
    /// Opens one; returns its size in bytes as well, and where it holds a descriptor.
    #[expect(clippy::type_complexity, reason = "the three things a header gives")]
    pub(super) fn open(
        file: &dyn BlockNode,
        path: &str,
    ) -> Result<(Self, u64, Option<(u64, u64)>), BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
        let mut h = head(file, 0, HEADER)?;
        let first = h.clone();
        if !h.starts_with(MAGIC) {
            return bad("vmdk sparse extent without its magic".into());
        }
        if le64(&h, 56) == AT_END {
            h = head(file, file.size().saturating_sub(1024), HEADER)?;
            if !h.starts_with(MAGIC) {
                return bad("vmdk footer is missing at the end of a stream-optimized extent".into());
            }
        }
        let (version, flags, capacity, grain) = (le32(&h, 4), le32(&h, 8), le64(&h, 12), le64(&h, 20));
        let (per_table, directory_at, copies_at) = (u64::from(le32(&h, 44)), le64(&h, 56), le64(&h, 48));
        if !(1..=3).contains(&version) {
            return bad(format!("vmdk version {version}, expected 1 to 3"));
        }
        if flags & COMPRESSED != 0 && le16(&h, 77) != 1 {
            return bad(format!("vmdk compressAlgorithm {}, expected 1 (deflate)", le16(&h, 77)));
        }
        if !grain.is_power_of_two() || !(8..=32768).contains(&grain) {
            return bad(format!("vmdk grainSize {grain}, expected a power of two from 8 to 32768 sectors"));
        }
        if per_table != PER_TABLE {
            return bad(format!("vmdk numGTEsPerGT {per_table}, expected {PER_TABLE}"));
        }
        let Some(size) = capacity.checked_mul(SECTOR).filter(|s| *s <= i64::MAX as u64) else {
            return bad(format!("vmdk capacity {capacity} sectors is too large"));
        };
        let entries = capacity.div_ceil(grain * PER_TABLE);
        let read = |at: u64, name: &str| -> Result<Vec<u32>, BlockError> {
            let raw = read_table(file, at.saturating_mul(SECTOR), entries, 4, 256 << 20, path, name)?;
            Ok(raw.chunks_exact(4).map(|c| le32(c, 0)).collect())
        };
        let directory = read(directory_at, "vmdk grain directory")?;
        let redundant = flags & REDUNDANT != 0 && copies_at != 0;
        let copies = if redundant { read(copies_at, "vmdk redundant grain directory")? } else { Vec::new() };
        let text = (le64(&first, 28) != 0)
            .then(|| (le64(&first, 28).saturating_mul(SECTOR), le64(&first, 36).saturating_mul(SECTOR)));
        let end = file.size().next_multiple_of(SECTOR).max(le64(&h, 64).saturating_mul(SECTOR).min(1 << 40));
        let sparse = Sparse {
            path: path.into(),
            grain: grain * SECTOR,
            per_table,
            flags,
            directory,
            copies,
            tables: FxHashMap::default(),
            end,
        };
        Ok((sparse, size, text))
    }

    /// Opens an older sparse extent of ESX ("ESXi Host Sparse Extents"), which has one directory and no descriptor.
    pub(super) fn open_cowd(file: &dyn BlockNode, path: &str) -> Result<(Self, u64), BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
        let h = head(file, 0, HEADER)?;
        let (version, capacity, grain) = (le32(&h, 4), u64::from(le32(&h, 12)), u64::from(le32(&h, 16)));
        let (directory_at, entries) = (u64::from(le32(&h, 20)), u64::from(le32(&h, 24)));
        if !h.starts_with(MAGIC_COWD) || version != 1 {
            return bad(format!("vmdk VMFSSPARSE magic or version {version} unknown, expected version 1"));
        }
        if !grain.is_power_of_two() || grain > 32768 {
            return bad(format!("vmdk granularity {grain}, expected a power of two up to 32768 sectors"));
        }
        let needed = capacity.div_ceil(grain * PER_COWD_TABLE);
        if entries < needed {
            return bad(format!("vmdk directory of {entries} tables, expected {needed} for the size"));
        }
        let raw =
            read_table(file, directory_at * SECTOR, entries, 4, 256 << 20, path, "vmdk grain directory")?;
        let sparse = Sparse {
            path: path.into(),
            grain: grain * SECTOR,
            per_table: PER_COWD_TABLE,
            flags: 0,
            directory: raw.chunks_exact(4).map(|c| le32(c, 0)).collect(),
            copies: Vec::new(),
            tables: FxHashMap::default(),
            end: file.size().next_multiple_of(SECTOR),
        };
        Ok((sparse, capacity * SECTOR))
    }

    fn bad(&self, what: String) -> BlockError {
        BlockError::Format { path: self.path.clone(), what }
    }

    fn entry(&mut self, file: &dyn BlockNode, block: u64) -> Result<u32, BlockError> {
        let i = block / self.per_table;
        let at = self.directory.get(i as usize).copied().unwrap_or(0);
        if at == 0 {
            return Ok(0);
        }
        if !self.tables.contains_key(&i) {
            if self.tables.len() >= MAX_TABLES {
                self.tables.clear();
            }
            let raw = read_table(
                file,
                u64::from(at) * SECTOR,
                self.per_table,
                4,
                1 << 20,
                &self.path,
                "vmdk grain table",
            )?;
            self.tables.insert(i, raw.chunks_exact(4).map(|c| le32(c, 0)).collect());
        }
        Ok(self.tables.get(&i).and_then(|t| t.get((block % self.per_table) as usize).copied()).unwrap_or(0))
    }

    fn set(&mut self, file: &dyn BlockNode, block: u64, value: u32) -> Result<(), BlockError> {
        let (i, within) = (block / self.per_table, block % self.per_table);
        self.entry(file, block)?;
        if self.directory.get(i as usize).copied().unwrap_or(0) == 0 {
            return Err(self.bad(format!("vmdk grain {block}: its grain table is missing")));
        }
        for directory in [&self.copies, &self.directory] {
            if let Some(at) = directory.get(i as usize).filter(|at| **at != 0) {
                file.write(
                    u64::from(*at) * SECTOR + within * 4,
                    &[IoSlice::new(&value.to_le_bytes())],
                    false,
                )?;
            }
        }
        if let Some(entry) = self.tables.get_mut(&i).and_then(|t| t.get_mut(within as usize)) {
            *entry = value;
        }
        Ok(())
    }

    fn compressed(&self) -> bool {
        self.flags & COMPRESSED != 0
    }
}

impl Layout for Sparse {
    fn format(&self) -> &'static str {
        "vmdk"
    }

    fn unit(&self) -> u64 {
        self.grain
    }

    fn place(&mut self, file: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        Ok(match self.entry(file, block)? {
            0 => Place::Hole,
            ZERO if self.flags & ZERO_GRAINS != 0 => Place::Zero,
            sector if self.compressed() => Place::Packed(u64::from(sector) * SECTOR),
            sector => Place::At(u64::from(sector) * SECTOR),
        })
    }

    fn take(&mut self, _: &dyn BlockNode, _: u64) -> Result<u64, BlockError> {
        let at = self.end.next_multiple_of(self.grain);
        if at / SECTOR > u32::MAX.into() {
            return Err(self.bad("the extent has the most sectors that vmdk can address".into()));
        }
        self.end = at + self.grain;
        Ok(at)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        self.set(file, block, (offset / SECTOR) as u32)
    }

    fn link_zero(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        if self.flags & ZERO_GRAINS == 0 {
            return Ok(false);
        }
        self.set(file, block, ZERO)?;
        Ok(true)
    }

    fn end(&self) -> Option<u64> {
        (!self.compressed()).then_some(self.end)
    }

    fn only_packed(&self) -> bool {
        self.compressed()
    }

    fn checks(&self) -> bool {
        true
    }

    fn unpack(&mut self, file: &dyn BlockNode, place: u64, out: &mut [u8]) -> Result<(), BlockError> {
        // With markers a grain starts with its number and its length.
        let marker = head(file, place, 12)?;
        let (start, len) =
            if self.flags & MARKERS != 0 { (12, le32(&marker, 8).into()) } else { (0, self.grain * 2) };
        if len > self.grain * 2 {
            return Err(self.bad(format!(
                "vmdk compressed grain at {place:#x}: {len} bytes, expected at most {}",
                self.grain * 2
            )));
        }
        let mut raw = vec![0; len as usize];
        file.read(place + start, &mut [IoSliceMut::new(&mut raw)])?;
        let mut stream = Decompress::new(true);
        let done = stream.decompress(&raw, out, FlushDecompress::Finish);
        let got = stream.total_out() as usize;
        // The last grain of a disk may be shorter.
        if done.is_err() || got == 0 {
            return Err(self.bad(format!("vmdk compressed grain at {place:#x} is damaged after {got} bytes")));
        }
        out[got..].fill(0);
        Ok(())
    }

    fn pack(&mut self, file: &dyn BlockNode, block: u64, data: &[u8]) -> Result<(), BlockError> {
        if !self.compressed() {
            return Err(BlockError::Unsupported("writing compressed data"));
        }
        if self.entry(file, block)? != 0 {
            return Err(BlockError::Unsupported("writing a compressed grain twice"));
        }
        // What does not get smaller grows by a little.
        let mut out = vec![0; 12 + data.len() + data.len() / 1000 + 256];
        let mut stream = Compress::new(Compression::new(6), true);
        let done = stream.compress(data, &mut out[12..], FlushCompress::Finish);
        if !matches!(done, Ok(Status::StreamEnd)) {
            return Err(self.bad(format!("vmdk grain {block} cannot be compressed")));
        }
        let len = stream.total_out() as usize;
        out[..8].copy_from_slice(&(block * self.grain / SECTOR).to_le_bytes());
        out[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        out.truncate((12 + len).next_multiple_of(SECTOR as usize));
        out[12 + len..].fill(0);
        let at = self.end.next_multiple_of(SECTOR);
        let Ok(sector) = u32::try_from(at / SECTOR) else {
            return Err(self.bad("the extent has the most sectors that vmdk can address".into()));
        };
        file.write(at, &[IoSlice::new(&out)], false)?;
        self.end = at + out.len() as u64;
        // What the tables name can be unpacked.
        file.flush()?;
        self.set(file, block, sector)
    }

    fn details(&self) -> Details {
        let compressed = self.compressed();
        Details {
            cluster_size: Some(self.grain),
            compressed,
            compressed_only: compressed,
            ..Details::default()
        }
    }
}
