//! VHD, which QEMU calls vpc (Microsoft, "Virtual Hard Disk Image Format Specification" 1.0): a footer at the end;
//! dynamic disks have a copy of it at the start, a header, a table of 32-bit sectors, and blocks that begin with a
//! bitmap of their sectors.

mod differencing;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use block::{BlockError, BlockNode};

use crate::bytes::{be16, be32, be64, put};
use crate::image::{Details, Image, Preallocation};
use crate::mapped::{Layout, Mapped, Place, head, read_table};
use crate::options::{Kind, OptionSpec, bad_option, opt};
use crate::raw::RawImage;
use crate::registry::{CreateContext, OpenContext};
use differencing::Differencing;

const COOKIE: &[u8; 8] = b"conectix";
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
const FOOTER: u64 = 512;
const HEADER: u64 = 1024;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
const NOWHERE: u32 = u32::MAX;
const BLOCK: u64 = 2 << 20;
const SECTOR: u64 = 512;
/// Most sectors of a disk: 2040 GiB.
const MAX_SECTORS: u64 = 0xff00_0000;
/// Sectors of the largest geometry.
const MAX_GEOMETRY: u64 = 65535 * 16 * 255;
/// 2000-01-01, from which times in images count, in seconds since 1970.
const EPOCH: u64 = 946_684_800;

pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("force_size", Kind::Bool, "Keep the size as it is rather than rounding it to cylinders"),
    opt("preallocation", Kind::Text, "Preallocation mode (allowed values: off, falloc, full)"),
    opt("size", Kind::Size, "Virtual disk size"),
    opt("subformat", Kind::Text, "Type of virtual hard disk format: dynamic (default) or fixed"),
];

/// Whether a file is one. Fixed disks start with their contents and have to be named.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if data.starts_with(COOKIE) { 100 } else { 0 }
}

/// Cylinders, heads and sectors a track for a number of sectors (specification, appendix "CHS Calculation").
fn geometry(sectors: u64) -> (u64, u64, u64) {
    let total = sectors.min(MAX_GEOMETRY);
    if total >= 65535 * 16 * 63 {
        return (total / 255 / 16, 16, 255);
    }
    let mut track = 17;
    let mut rest = total / 17;
    let mut heads = rest.div_ceil(1024).max(4);
    if rest >= heads * 1024 || heads > 16 {
        (track, heads) = (31, 16);
        rest = total / 31;
    }
    if rest >= heads * 1024 {
        (track, heads) = (63, 16);
        rest = total / 63;
    }
    (rest / heads, heads, track)
}

/// The checksum of a structure: all bytes but its own, added and inverted.
fn checksum(data: &[u8], at: usize) -> u32 {
    let sum = data.iter().enumerate().filter(|(i, _)| !(at..at + 4).contains(i)).map(|(_, b)| u32::from(*b));
    !sum.fold(0u32, u32::wrapping_add)
}

/// The size a footer means: programs that keep to cylinders are told by their names.
fn size_of(footer: &[u8]) -> u64 {
    let exact = be64(footer, 48);
    let cylinders = u64::from(be16(footer, 56)) * u64::from(footer[58]) * u64::from(footer[59]);
    let creator = &footer[28..32];
    let by_cylinders = matches!(creator, b"vpc " | b"qemu") && cylinders != 0 && cylinders < MAX_GEOMETRY;
    if by_cylinders { cylinders * SECTOR } else { exact / SECTOR * SECTOR }
}

#[derive(Debug)]
struct Vpc {
    path: String,
    footer: Vec<u8>,
    block: u64,
    bitmap: u64,
    table_offset: u64,
    table: Vec<u32>,
    /// Where the next block goes: where the footer is.
    end: u64,
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let mut footer = head(file, 0, FOOTER as usize)?;
    let dynamic = footer.starts_with(COOKIE);
    if !dynamic {
        footer = head(file, file.size().saturating_sub(FOOTER), FOOTER as usize)?;
        if !footer.starts_with(COOKIE) {
            return bad("vpc cookie is neither at the start nor in the last 512 bytes".into());
        }
    }
    if checksum(&footer, 64) != be32(&footer, 64) {
        return bad(format!(
            "vpc footer checksum {:#x}, expected {:#x}",
            be32(&footer, 64),
            checksum(&footer, 64)
        ));
    }
    let (kind, size) = (be32(&footer, 60), size_of(&footer));
    if size / SECTOR > MAX_SECTORS.max(MAX_GEOMETRY) {
        return bad(format!("vpc size {size}, expected at most {}", MAX_SECTORS * SECTOR));
    }
    if kind == FIXED {
        if size > file.size().saturating_sub(FOOTER) {
            return bad(format!("vpc size {size} is more than the file holds"));
        }
        let raw = RawImage::new(path, context.file.clone(), 0, Some(size), context.options.read_only)?;
        return Ok(Arc::new(raw.called("vpc", Details { specific: vec![], ..Details::default() })));
    }
    if kind != DYNAMIC && kind != DIFFERENCING {
        return bad(format!(
            "vpc disk type {kind}, expected {FIXED} (fixed), {DYNAMIC} (dynamic) or {DIFFERENCING} (differencing)"
        ));
    }
    let h = head(file, be64(&footer, 16), HEADER as usize)?;
    if !h.starts_with(HEADER_COOKIE) || checksum(&h, 36) != be32(&h, 36) {
        return bad(format!(
            "vpc dynamic disk header at {:#x}: cookie or checksum is wrong",
            be64(&footer, 16)
        ));
    }
    let (block, entries, table_offset) = (u64::from(be32(&h, 32)), u64::from(be32(&h, 28)), be64(&h, 16));
    if !block.is_power_of_two() || !(SECTOR..=256 << 20).contains(&block) {
        return bad(format!("vpc block_size {block}, expected a power of two from 512 to 256M"));
    }
    if size > entries * block {
        return bad(format!(
            "vpc max_table_entries {entries}, expected at least {} for the size",
            size.div_ceil(block)
        ));
    }
    let raw = read_table(file, table_offset, entries, 4, 1 << 30, path, "vpc block allocation table")?;
    let table: Vec<u32> = raw.chunks_exact(4).map(|c| be32(c, 0)).collect();
    let bitmap = block.div_ceil(SECTOR * 8).next_multiple_of(SECTOR);
    if kind == DIFFERENCING {
        if !context.options.read_only {
            return bad("vpc differencing disks can be read only".into());
        }
        let name = differencing::parent_name(file, &h, path)?;
        let below = differencing::parent(context, &h, &name)?;
        let layout = Differencing { path: path.into(), block, bitmap, table, parent: Some(name), last: None };
        return Ok(Arc::new(Mapped::new(path, context.file.clone(), layout, size, true).back(below)));
    }
    let used = table.iter().filter(|e| **e != NOWHERE).map(|e| u64::from(*e) * SECTOR + bitmap + block).max();
    let end = used
        .unwrap_or(0)
        .max((table_offset + entries * 4).next_multiple_of(SECTOR))
        .max(be64(&footer, 16) + HEADER);
    let layout = Vpc { path: path.into(), footer, block, bitmap, table_offset, table, end };
    Ok(Arc::new(Mapped::new(path, context.file.clone(), layout, size, context.options.read_only)))
}

impl Layout for Vpc {
    fn format(&self) -> &'static str {
        "vpc"
    }

    fn unit(&self) -> u64 {
        self.block
    }

    fn place(&mut self, _: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        Ok(match self.table.get(block as usize).copied() {
            None | Some(NOWHERE) => Place::Hole,
            Some(sector) => Place::At(u64::from(sector) * SECTOR + self.bitmap),
        })
    }

    fn take(&mut self, file: &dyn BlockNode, block: u64) -> Result<u64, BlockError> {
        if block as usize >= self.table.len() || self.end / SECTOR >= u64::from(NOWHERE) {
            return Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("vpc block {block} has no place in the table"),
            });
        }
        // The footer moves behind the new block first, so that there is one at any time; the old one is overwritten.
        let (start, at) = (self.end, self.end + self.bitmap);
        file.write(at + self.block, &[IoSlice::new(&self.footer)], false)?;
        file.write(start, &[IoSlice::new(&vec![0xff; self.bitmap as usize])], false)?;
        file.write_zeroes(at, self.block.min(FOOTER), true)?;
        Ok(at)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        let sector = ((offset - self.bitmap) / SECTOR) as u32;
        file.write(self.table_offset + block * 4, &[IoSlice::new(&sector.to_be_bytes())], false)?;
        self.end = offset + self.block;
        self.table[block as usize] = sector;
        Ok(())
    }

    fn checks(&self) -> bool {
        false
    }
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let options = context.options;
    let kind = options.choice("subformat", &[("dynamic", DYNAMIC), ("fixed", FIXED)])?.unwrap_or(DYNAMIC);
    let how = options.preallocation(&[Preallocation::Falloc, Preallocation::Full])?;
    if how != Preallocation::Off && kind != FIXED {
        return Err(bad_option(
            "preallocation",
            options.text("preallocation").unwrap_or(""),
            "subformat=fixed beside it",
        ));
    }
    let exact = options.switch("force_size")?.unwrap_or(false);
    let wanted = context.size.div_ceil(SECTOR);
    if wanted > MAX_SECTORS {
        return Err(bad_option("size", context.size, format!("at most {}", MAX_SECTORS * SECTOR)));
    }
    // The smallest number of whole cylinders that holds the disk.
    let mut chs = geometry(wanted);
    let mut sectors = wanted;
    if !exact && wanted <= MAX_GEOMETRY {
        let mut more = wanted;
        while chs.0 * chs.1 * chs.2 < wanted {
            more += 1;
            chs = geometry(more);
        }
        sectors = chs.0 * chs.1 * chs.2;
    }
    let exact = exact || wanted > MAX_GEOMETRY;
    let size = sectors * SECTOR;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().saturating_sub(EPOCH));
    let mut footer = vec![0; FOOTER as usize];
    put(&mut footer, 0, COOKIE);
    put(&mut footer, 8, &2u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000u32.to_be_bytes());
    put(&mut footer, 16, &(if kind == FIXED { u64::MAX } else { FOOTER }).to_be_bytes());
    put(&mut footer, 24, &(now as u32).to_be_bytes());
    // These names tell readers how the size is meant.
    put(&mut footer, 28, if exact { b"qem2" } else { b"qemu" });
    put(&mut footer, 32, &0x0005_0003u32.to_be_bytes());
    put(&mut footer, 36, b"Wi2k");
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    put(&mut footer, 56, &(chs.0 as u16).to_be_bytes());
    put(&mut footer, 58, &[chs.1 as u8, chs.2 as u8]);
    put(&mut footer, 60, &kind.to_be_bytes());
    put(&mut footer, 68, uuid::Uuid::new_v4().as_bytes());
    let sum = checksum(&footer, 64);
    put(&mut footer, 64, &sum.to_be_bytes());
    let file = context.file()?;
    if kind == FIXED {
        match how {
            Preallocation::Full => {
                let zeroes = vec![0; 1 << 20];
                let mut at = 0;
                while at < size {
                    let n = (size - at).min(1 << 20);
                    file.write(at, &[IoSlice::new(&zeroes[..n as usize])], false)?;
                    at += n;
                }
            }
            Preallocation::Falloc if size != 0 => file.reserve(0, size)?,
            _ => {}
        }
        return file.write(size, &[IoSlice::new(&footer)], false);
    }
    let entries = size.div_ceil(BLOCK);
    let table = FOOTER + HEADER;
    let mut h = vec![0; HEADER as usize];
    put(&mut h, 0, HEADER_COOKIE);
    put(&mut h, 8, &u64::MAX.to_be_bytes());
    put(&mut h, 16, &table.to_be_bytes());
    put(&mut h, 24, &0x0001_0000u32.to_be_bytes());
    put(&mut h, 28, &(entries as u32).to_be_bytes());
    put(&mut h, 32, &(BLOCK as u32).to_be_bytes());
    let sum = checksum(&h, 36);
    put(&mut h, 36, &sum.to_be_bytes());
    let end = (table + entries * 4).next_multiple_of(SECTOR);
    file.write(end, &[IoSlice::new(&footer)], false)?;
    file.write(table, &[IoSlice::new(&vec![0xff; (end - table) as usize])], false)?;
    file.write(FOOTER, &[IoSlice::new(&h)], false)?;
    file.write(0, &[IoSlice::new(&footer)], false)
}
