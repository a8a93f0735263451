//! Parallels images of version 2, plain and extended (QEMU, `docs/interop/parallels`): a header, a table of
//! 32-bit places, clusters; and perhaps dirty bitmaps ([`extension`]).

mod extension;

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode};

use crate::bytes::{le32, le64, put};
use crate::image::{BitmapInfo, Details, Image};
use crate::mapped::{Layout, Mapped, Place, head, read_table};
use crate::options::{Kind, OptionSpec, bad_option, opt};
use crate::registry::{CreateContext, OpenContext};

const PLAIN: &[u8; 16] = b"WithoutFreeSpace";
const EXTENDED: &[u8; 16] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
const HEADER: u64 = 64;
const IN_USE: u32 = 0x746f_6e59;
const CLOSED: u32 = 0x312e_3276;
const SECTOR: u64 = 512;
/// Most bytes of the table.
const MAX_TABLE: u64 = 1 << 30;

pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("cluster_size", Kind::Size, "Parallels image cluster size"),
    opt("size", Kind::Size, "Virtual disk size"),
];

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    let magic = data.starts_with(PLAIN) || data.starts_with(EXTENDED);
    if magic && le32(data, 16) == VERSION { 100 } else { 0 }
}

#[derive(Debug)]
struct Parallels {
    path: String,
    cluster: u64,
    /// Sectors that one unit of an entry stands for.
    multiplier: u64,
    table: Vec<u32>,
    data_offset: u64,
    /// Where the next cluster goes.
    end: u64,
    dirty: bool,
    bitmaps: Vec<extension::Bitmap>,
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let h = head(file, 0, HEADER as usize)?;
    if probe(&h, "") == 0 {
        return bad(format!(
            "parallels magic or version {} unknown, expected version {VERSION}",
            le32(&h, 16)
        ));
    }
    let tracks = u64::from(le32(&h, 28));
    if tracks == 0 || tracks > (i32::MAX as u64) / SECTOR {
        return bad(format!("parallels tracks {tracks}, expected 1 to {}", i32::MAX / 512));
    }
    let entries = u64::from(le32(&h, 32));
    let raw = read_table(file, HEADER, entries, 4, MAX_TABLE, path, "parallels block table")?;
    let extended = h.starts_with(EXTENDED);
    let sectors = if extended { le64(&h, 36) } else { u64::from(le32(&h, 36)) };
    let cluster = tracks * SECTOR;
    let size = sectors.saturating_mul(SECTOR);
    if size > i64::MAX as u64 || size.div_ceil(cluster) > entries {
        return bad(format!("parallels nb_sectors {sectors}, expected at most what {entries} entries map"));
    }
    let bitmaps = match le64(&h, 56) {
        0 => Vec::new(),
        _ if !context.options.read_only => {
            return bad(
                "parallels format extensions (ext_off) are kept only when the image is opened for reading"
                    .into(),
            );
        }
        at => extension::read(file, at.saturating_mul(SECTOR), cluster, size, path)?,
    };
    let dirty = le32(&h, 44) == IN_USE;
    let table: Vec<u32> = raw.chunks_exact(4).map(|c| le32(c, 0)).collect();
    let multiplier = if extended { tracks } else { 1 };
    let declared = u64::from(le32(&h, 48)) * SECTOR;
    let after = (HEADER + entries * 4).next_multiple_of(SECTOR);
    let data_offset = if declared == 0 { after } else { declared };
    if data_offset < HEADER + entries * 4 {
        return bad(format!("parallels data_off {data_offset:#x} lies within the block table"));
    }
    let used = table.iter().map(|e| u64::from(*e) * multiplier * SECTOR).max().unwrap_or(0);
    let end = if used == 0 { data_offset } else { used + cluster }.max(data_offset);
    let layout =
        Parallels { path: path.into(), cluster, multiplier, table, data_offset, end, dirty, bitmaps };
    Ok(Arc::new(Mapped::new(path, context.file.clone(), layout, size, context.options.read_only)))
}

impl Parallels {
    /// Writes an entry of the table; it holds only once it is written.
    fn set(&mut self, file: &dyn BlockNode, block: u64, entry: u32) -> Result<(), BlockError> {
        file.write(HEADER + block * 4, &[IoSlice::new(&entry.to_le_bytes())], false)?;
        self.table[block as usize] = entry;
        Ok(())
    }
}

impl Layout for Parallels {
    fn format(&self) -> &'static str {
        "parallels"
    }

    fn unit(&self) -> u64 {
        self.cluster
    }

    fn place(&mut self, _: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        let entry = u64::from(self.table.get(block as usize).copied().unwrap_or(0));
        if entry == 0 {
            return Ok(Place::Hole);
        }
        let at = entry * self.multiplier * SECTOR;
        if at < self.data_offset {
            let what = format!("parallels entry {block}: {at:#x}, expected at least {:#x}", self.data_offset);
            return Err(BlockError::Format { path: self.path.clone(), what });
        }
        Ok(Place::At(at))
    }

    fn take(&mut self, _: &dyn BlockNode, block: u64) -> Result<u64, BlockError> {
        let step = self.multiplier * SECTOR;
        let at = self.end.next_multiple_of(step);
        if block as usize >= self.table.len() || at / step > u32::MAX.into() {
            return Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("parallels cluster {block} has no place in the table"),
            });
        }
        Ok(at)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        let entry = (offset / SECTOR / self.multiplier) as u32;
        self.end = self.end.max(offset + self.cluster);
        self.set(file, block, entry)
    }

    fn end(&self) -> Option<u64> {
        Some(self.end)
    }

    fn unlink(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        self.set(file, block, 0)?;
        Ok(true)
    }

    fn begin(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        file.write(44, &[IoSlice::new(&IN_USE.to_le_bytes())], false)?;
        file.flush()
    }

    fn close(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        self.dirty = false;
        file.write(44, &[IoSlice::new(&CLOSED.to_le_bytes())], false)
    }

    fn bitmaps(&self) -> Vec<BitmapInfo> {
        self.bitmaps.iter().map(extension::Bitmap::info).collect()
    }

    fn bitmap_ranges(&self, name: &str) -> Option<Vec<Range<u64>>> {
        self.bitmaps.iter().find(|b| b.name() == name).map(|b| b.ranges().to_vec())
    }

    fn details(&self) -> Details {
        Details { cluster_size: Some(self.cluster), dirty: self.dirty, ..Details::default() }
    }

    fn checks(&self) -> bool {
        true
    }
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let cluster = context.options.size("cluster_size")?.unwrap_or(1 << 20);
    if !cluster.is_multiple_of(SECTOR) || !(SECTOR..=1 << 30).contains(&cluster) {
        return Err(bad_option("cluster_size", cluster, "a multiple of 512 up to 1G"));
    }
    let size = context.size.next_multiple_of(SECTOR);
    let entries = size.div_ceil(cluster);
    if entries * 4 > MAX_TABLE || size > 1 << 60 {
        return Err(bad_option(
            "size",
            size,
            format!("at most {} with clusters of {cluster}", MAX_TABLE / 4 * cluster),
        ));
    }
    let data = (HEADER + entries * 4).next_multiple_of(cluster);
    let sectors = size / SECTOR;
    let mut h = vec![0; HEADER as usize];
    put(&mut h, 0, EXTENDED);
    for (at, value) in [
        (16, VERSION),
        (20, 16),
        (24, u32::try_from(sectors / 16 / 32).unwrap_or(u32::MAX)),
        (28, (cluster / SECTOR) as u32),
        (32, entries as u32),
        (44, CLOSED),
        (48, u32::try_from(data / SECTOR).unwrap_or(0)),
    ] {
        put(&mut h, at, &value.to_le_bytes());
    }
    put(&mut h, 36, &sectors.to_le_bytes());
    let file = context.file()?;
    file.write_zeroes(HEADER, data - HEADER, true)?;
    file.write(0, &[IoSlice::new(&h)], false)
}
