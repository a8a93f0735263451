//! Space-efficient sparse extents of ESXi (SESPARSE), read only: a directory and tables of 64-bit entries whose top
//! four bits say what a grain is.
//!
//! VMware has not published the format; the layout is as the descriptions by those who read such images have it.

use block::{BlockError, BlockNode};
use rustc_hash::FxHashMap;

use super::SECTOR;
use crate::bytes::le64;
use crate::mapped::{Layout, Place, head, read_table};

const MAGIC: u64 = 0xcafe_babe;
const MAGIC_VOLATILE: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x0000_0002_0000_0001;
/// Sectors of a grain and of a table: the only ones there are.
const GRAIN: u64 = 8;
const TABLE: u64 = 64;
/// Entries of a table.
const PER_TABLE: u64 = TABLE * SECTOR / 8;
/// Tables kept in memory.
const MAX_TABLES: usize = 1024;

/// The tables of an extent.
#[derive(Debug)]
pub(super) struct SeSparse {
    path: String,
    directory: Vec<u64>,
    tables: FxHashMap<u64, Vec<u64>>,
    /// In bytes.
    tables_at: u64,
    grains_at: u64,
}

impl SeSparse {
    /// Opens one; returns its size in bytes as well.
    pub(super) fn open(file: &dyn BlockNode, path: &str) -> Result<(Self, u64), BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
        let h = head(file, 0, 512)?;
        let field = |i: usize| le64(&h, i * 8);
        if field(0) != MAGIC || field(1) != VERSION {
            return bad(format!("vmdk SESPARSE magic {:#x} or version {:#x} unknown", field(0), field(1)));
        }
        if field(3) != GRAIN || field(4) != TABLE {
            return bad(format!(
                "vmdk SESPARSE grains of {} and tables of {} sectors, expected {GRAIN} and {TABLE}",
                field(3),
                field(4)
            ));
        }
        let volatile = head(file, field(10).saturating_mul(SECTOR), 32)?;
        if le64(&volatile, 0) != MAGIC_VOLATILE {
            return bad("vmdk SESPARSE volatile header is missing".into());
        }
        if le64(&volatile, 24) != 0 {
            return bad("vmdk SESPARSE journal has to be replayed by the hypervisor that wrote it".into());
        }
        let Some(size) = field(2).checked_mul(SECTOR).filter(|s| *s <= i64::MAX as u64) else {
            return bad(format!("vmdk capacity {} sectors is too large", field(2)));
        };
        let entries = size.div_ceil(GRAIN * SECTOR * PER_TABLE);
        let place = |i: usize| field(i).checked_mul(SECTOR).filter(|at| *at <= i64::MAX as u64);
        let (Some(directory), Some(tables_at), Some(grains_at)) = (place(16), place(18), place(24)) else {
            return bad("vmdk SESPARSE places are out of bounds".into());
        };
        let raw = read_table(file, directory, entries, 8, 256 << 20, path, "vmdk grain directory")?;
        let directory = raw.chunks_exact(8).map(|c| le64(c, 0)).collect();
        Ok((
            SeSparse { path: path.into(), directory, tables: FxHashMap::default(), tables_at, grains_at },
            size,
        ))
    }

    fn bad<T>(&self, what: String) -> Result<T, BlockError> {
        Err(BlockError::Format { path: self.path.clone(), what })
    }
}

impl Layout for SeSparse {
    fn format(&self) -> &'static str {
        "vmdk"
    }

    fn unit(&self) -> u64 {
        GRAIN * SECTOR
    }

    fn place(&mut self, file: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        let (i, within) = (block / PER_TABLE, (block % PER_TABLE) as usize);
        let entry = self.directory.get(i as usize).copied().unwrap_or(0);
        if entry == 0 {
            return Ok(Place::Hole);
        }
        if entry >> 32 != 0x1000_0000 {
            return self.bad(format!("vmdk SESPARSE directory entry {i}: {entry:#x}"));
        }
        if !self.tables.contains_key(&i) {
            if self.tables.len() >= MAX_TABLES {
                self.tables.clear();
            }
            let at = self.tables_at.saturating_add((entry & 0xffff_ffff) * TABLE * SECTOR);
            let raw = read_table(file, at, PER_TABLE, 8, 1 << 20, &self.path, "vmdk grain table")?;
            self.tables.insert(i, raw.chunks_exact(8).map(|c| le64(c, 0)).collect());
        }
        let entry = self.tables.get(&i).and_then(|t| t.get(within).copied()).unwrap_or(0);
        match entry >> 60 {
            0 => Ok(Place::Hole),
            // Unmapped by the guest, or zero.
            1 | 2 => Ok(Place::Zero),
            3 => {
                let grain = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
                let at = grain.checked_mul(GRAIN * SECTOR).and_then(|n| n.checked_add(self.grains_at));
                match at.filter(|at| *at <= i64::MAX as u64) {
                    Some(at) => Ok(Place::At(at)),
                    None => self.bad(format!("vmdk SESPARSE grain {block} at {grain:#x}")),
                }
            }
            _ => self.bad(format!("vmdk SESPARSE grain {block}: entry {entry:#x}")),
        }
    }
}
