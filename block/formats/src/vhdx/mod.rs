//! VHDX (Microsoft, [MS-VHDX]): two headers, a log, two region tables, metadata, and a table of 64-bit places.
//!
//! What the log of an image that was not closed holds is put in place before anything else is read ([`log`]). Changes
//! of the block table are single words, which name places that the file has; they need no log of their own.

mod create;
mod guid;
mod log;
mod parent;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode};

use crate::bytes::{le16, le32, le64, put};
use crate::image::{BackingName, Details, Image};
use crate::mapped::{Layout, Mapped, Place, head, read_table};
use crate::registry::OpenContext;
use guid::id;
use parent::{Locator, locator};

pub(crate) use create::{CREATE_OPTIONS, create};

const SIGNATURE: &[u8; 8] = b"vhdxfile";
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGION_LEN: usize = 64 << 10;
const HEADER_LEN: usize = 4096;
const MIB: u64 = 1 << 20;
/// Most bytes of the block table: 64 TiB in blocks of 1 MiB.
const MAX_TABLE: u64 = 1 << 30;
const MAX_SIZE: u64 = 64 << 40;
/// Most bytes of a parent locator that are read.
const MAX_LOCATOR: u64 = 64 << 10;

/// States of a block.
mod state {
    pub(super) const UNDEFINED: u64 = 1;
    pub(super) const ZERO: u64 = 2;
    pub(super) const UNMAPPED: u64 = 3;
    pub(super) const PRESENT: u64 = 6;
    pub(super) const PARTLY: u64 = 7;
}

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if data.starts_with(SIGNATURE) { 100 } else { 0 }
}

#[derive(Debug)]
struct Vhdx {
    path: String,
    block: u64,
    /// Blocks after which there is an entry for a bitmap of sectors.
    chunk: u64,
    table_offset: u64,
    table: Vec<u64>,
    end: u64,
    /// The header in force, and where.
    header: Vec<u8>,
    slot: usize,
    /// Bytes of a sector.
    sector: u64,
    /// The name of the parent, if it has one, and the parent itself.
    backing: Option<BackingName>,
    parent: Option<Arc<dyn Image>>,
    /// The partly present block that was read last.
    last: Option<(u64, Vec<u8>)>,
}

/// The valid header with the higher number.
fn current_header(file: &dyn BlockNode, path: &str) -> Result<(Vec<u8>, usize), BlockError> {
    let mut best: Option<(Vec<u8>, usize)> = None;
    for (slot, at) in HEADERS.into_iter().enumerate() {
        let h = head(file, at, HEADER_LEN)?;
        let good = h.starts_with(b"head") && checked(&h) && le16(&h, 66) == 1;
        if good && best.as_ref().is_none_or(|(b, _)| le64(&h, 8) > le64(b, 8)) {
            best = Some((h, slot));
        }
    }
    let what = "vhdx: neither header has a good signature, checksum and version 1";
    best.ok_or_else(|| BlockError::Format { path: path.into(), what: what.into() })
}

/// Whether the checksum at byte 4 of a structure is right.
fn checked(data: &[u8]) -> bool {
    le32(data, 4) == sum(data)
}

/// The checksum of a structure, its own field taken as zero.
fn sum(data: &[u8]) -> u32 {
    let mut copy = data.to_vec();
    put(&mut copy, 4, &[0; 4]);
    crc32c::crc32c(&copy)
}

/// Where the block table and the metadata are: offset and length each.
fn regions(file: &dyn BlockNode, path: &str) -> Result<[(u64, u64); 2], BlockError> {
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    for at in REGIONS {
        let r = head(file, at, REGION_LEN)?;
        if !r.starts_with(b"regi") || !checked(&r) || le32(&r, 8) > 2047 {
            continue;
        }
        let (mut table, mut metadata) = (None, None);
        for e in r[16..].chunks_exact(32).take(le32(&r, 8) as usize) {
            let place = (le64(e, 16), u64::from(le32(e, 24)));
            if place.0 < MIB || place.0 > 1 << 60 {
                return Err(bad(format!("vhdx region at {:#x}, expected at least 1 MiB", place.0)));
            }
            match &e[..16] {
                g if g == id::BLOCK_TABLE => table = Some(place),
                g if g == id::METADATA => metadata = Some(place),
                _ if le32(e, 28) & 1 != 0 => return Err(bad("vhdx: an unknown region is required".into())),
                _ => {}
            }
        }
        return match (table, metadata) {
            (Some(t), Some(m)) => Ok([t, m]),
            _ => Err(bad("vhdx: the region of the block table or of the metadata is missing".into())),
        };
    }
    Err(bad("vhdx: neither region table has a good signature and checksum".into()))
}

/// What the metadata say.
struct Metadata {
    block: u64,
    size: u64,
    sector: u64,
    parent: Option<Locator>,
}

fn metadata(file: &dyn BlockNode, (at, len): (u64, u64), path: &str) -> Result<Metadata, BlockError> {
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let t = head(file, at, REGION_LEN.min(len as usize))?;
    if !t.starts_with(b"metadata") || le16(&t, 10) > 2047 {
        return bad("vhdx metadata table without its signature".into());
    }
    let (mut block, mut size, mut sector, mut parent, mut found) = (0u64, 0u64, 0u64, false, None);
    for e in t[32.min(t.len())..].chunks_exact(32).take(le16(&t, 10).into()) {
        let (offset, length, flags) = (u64::from(le32(e, 16)), u64::from(le32(e, 20)), le32(e, 24));
        if offset + length > len {
            return bad(format!("vhdx metadata item at {offset:#x} is beyond its region of {len} bytes"));
        }
        let item = head(file, at + offset, 8)?;
        match &e[..16] {
            g if g == id::FILE_PARAMETERS => {
                block = le32(&item, 0).into();
                parent = le32(&item, 4) & 2 != 0;
            }
            g if g == id::DISK_SIZE => size = le64(&item, 0),
            g if g == id::LOGICAL_SECTOR => sector = le32(&item, 0).into(),
            g if g == id::PARENT => {
                found = Some(locator(&head(file, at + offset, length.min(MAX_LOCATOR) as usize)?, path)?);
            }
            g if [id::PHYSICAL_SECTOR, id::DISK_ID].contains(&g.try_into().unwrap_or([0; 16])) => {}
            _ if flags & 4 != 0 => return bad("vhdx: an unknown metadata item is required".into()),
            _ => {}
        }
    }
    if parent && found.is_none() {
        return bad("vhdx differencing disk without a parent locator".into());
    }
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return bad(format!("vhdx BlockSize {block}, expected a power of two from 1M to 256M"));
    }
    if !matches!(sector, 512 | 4096) || !size.is_multiple_of(sector) || size > MAX_SIZE {
        return bad(format!(
            "vhdx VirtualDiskSize {size} in sectors of {sector}, expected a multiple of 512 or 4096 up to 64T"
        ));
    }
    Ok(Metadata { block, size, sector, parent: found.filter(|_| parent) })
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path, read_only) = (&context.file, context.filename.as_str(), context.options.read_only);
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    if !head(&**file, 0, 8)?.starts_with(SIGNATURE) {
        return Err(bad("vhdx signature is missing".into()));
    }
    let (mut header, mut slot) = current_header(&**file, path)?;
    if header[48..64].iter().any(|b| *b != 0) {
        if read_only {
            return Err(bad("vhdx: the log holds changes from before a crash; the image has to be opened for writing once".into()));
        }
        log::replay(&**file, &header, path)?;
        // What the log held is in place and stable: the log is empty from here on.
        put(&mut header, 48, &[0; 16]);
        slot = next_header(&**file, &mut header, slot)?;
    }
    let [table, meta] = regions(&**file, path)?;
    let m = metadata(&**file, meta, path)?;
    let chunk = (m.sector << 23) / m.block;
    let blocks = m.size.div_ceil(m.block);
    let entries = match &m.parent {
        None => blocks + blocks.saturating_sub(1) / chunk,
        // The last bitmap's entry is needed as well.
        Some(_) => blocks.div_ceil(chunk) * (chunk + 1),
    };
    if entries * 8 > table.1 {
        return Err(bad(format!(
            "vhdx block table of {} bytes, expected at least {} for the size",
            table.1,
            entries * 8
        )));
    }
    let raw = read_table(&**file, table.0, entries, 8, MAX_TABLE, path, "vhdx block table")?;
    let backing = m.parent.as_ref().map(|p| p.name(path)).transpose()?;
    let parent = match (&m.parent, &backing) {
        (Some(locator), Some(name)) => locator.open(context, name)?,
        _ => None,
    };
    let layout = Vhdx {
        sector: m.sector,
        backing,
        parent: parent.clone(),
        last: None,
        path: path.into(),
        block: m.block,
        chunk,
        table_offset: table.0,
        table: raw.chunks_exact(8).map(|c| le64(c, 0)).collect(),
        end: file.size(),
        header,
        slot,
    };
    Ok(Arc::new(Mapped::new(path, file.clone(), layout, m.size, read_only).back(parent)))
}

/// Writes a header over the older one; returns where it is.
fn next_header(file: &dyn BlockNode, header: &mut [u8], slot: usize) -> Result<usize, BlockError> {
    let next = 1 - slot.min(1);
    let number = le64(header, 8).wrapping_add(1);
    put(header, 8, &number.to_le_bytes());
    let checksum = sum(header);
    put(header, 4, &checksum.to_le_bytes());
    file.flush()?;
    file.write(HEADERS[next], &[IoSlice::new(header)], false)?;
    file.flush()?;
    Ok(next)
}

impl Vhdx {
    fn index(&self, block: u64) -> u64 {
        block + block / self.chunk
    }

    fn set(&mut self, file: &dyn BlockNode, block: u64, entry: u64) -> Result<(), BlockError> {
        let i = self.index(block);
        if i as usize >= self.table.len() {
            return Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("vhdx block {block} has no place in the table"),
            });
        }
        // It holds only once it is written.
        file.write(self.table_offset + i * 8, &[IoSlice::new(&entry.to_le_bytes())], false)?;
        self.table[i as usize] = entry;
        Ok(())
    }
}

impl Layout for Vhdx {
    fn format(&self) -> &'static str {
        "vhdx"
    }

    fn unit(&self) -> u64 {
        self.block
    }

    fn place(&mut self, _: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        let entry = self.table.get(self.index(block) as usize).copied().unwrap_or(0);
        let at = entry >> 20 << 20;
        match entry & 7 {
            // What was given up is not the parent's again.
            state::UNDEFINED | state::UNMAPPED if self.backing.is_some() => Ok(Place::Zero),
            0 | state::UNDEFINED | state::UNMAPPED => Ok(Place::Hole),
            state::ZERO => Ok(Place::Zero),
            state::PRESENT if (MIB..=1 << 60).contains(&at) => Ok(Place::At(at)),
            state::PARTLY if self.backing.is_some() => Ok(Place::Packed(block)),
            state::PARTLY => Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("vhdx block {block} is partly present, which needs a parent"),
            }),
            _ => Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("vhdx block {block}: entry {entry:#x} is not valid"),
            }),
        }
    }

    fn take(&mut self, _: &dyn BlockNode, _: u64) -> Result<u64, BlockError> {
        let at = self.end.next_multiple_of(MIB);
        self.end = at + self.block;
        Ok(at)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        self.set(file, block, offset | state::PRESENT)
    }

    fn link_zero(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        self.set(file, block, state::ZERO)?;
        Ok(true)
    }

    fn unpack(&mut self, file: &dyn BlockNode, block: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.put_together(file, block, out)
    }

    fn mixes(&self) -> bool {
        true
    }

    fn backing_name(&self) -> Option<BackingName> {
        self.backing.clone()
    }

    fn end(&self) -> Option<u64> {
        Some(self.end)
    }

    fn unlink(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        self.set(file, block, 0)?;
        Ok(true)
    }

    fn begin(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        // Others who keep notes of this file learn from these that it has changed.
        put(&mut self.header, 16, uuid::Uuid::new_v4().as_bytes());
        put(&mut self.header, 32, uuid::Uuid::new_v4().as_bytes());
        self.slot = next_header(file, &mut self.header, self.slot)?;
        Ok(())
    }

    fn details(&self) -> Details {
        Details { cluster_size: Some(self.block), ..Details::default() }
    }

    fn checks(&self) -> bool {
        true
    }
}

/// Reads a run of a file that has to be there.
fn exactly(file: &dyn BlockNode, offset: u64, len: u64) -> Result<Option<Vec<u8>>, BlockError> {
    if offset.checked_add(len).is_none_or(|end| end > file.size()) {
        return Ok(None);
    }
    let mut raw = vec![0; len as usize];
    file.read(offset, &mut [IoSliceMut::new(&mut raw)])?;
    Ok(Some(raw))
}
