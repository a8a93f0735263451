//! VDI (VirtualBox; its source, `VDICore.h`): a header, a table of 32-bit block numbers, blocks of 1 MiB.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode};

use crate::bytes::{le32, le64, put};
use crate::image::{Image, Preallocation};
use crate::mapped::{Layout, Mapped, Place, head, read_table};
use crate::options::{Kind, OptionSpec, opt};
use crate::registry::{CreateContext, OpenContext};

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const BLOCK: u64 = 1 << 20;
const HEADER: usize = 512;
/// A block that is nowhere, and one that is zero.
const NOWHERE: u32 = u32::MAX;
const ZERO: u32 = u32::MAX - 1;
/// Most blocks: a table of 4 GiB is no use.
const MAX_BLOCKS: u64 = 0x1fff_ffff;
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;

pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("preallocation", Kind::Text, "Preallocation mode (allowed values: off, metadata)"),
    opt("size", Kind::Size, "Virtual disk size"),
    opt("static", Kind::Bool, "VDI static (pre-allocated) image"),
];

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if le32(data, 0x40) == SIGNATURE { 100 } else { 0 }
}

#[derive(Debug)]
struct Vdi {
    path: String,
    map_offset: u64,
    data_offset: u64,
    map: Vec<u32>,
    allocated: u32,
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let h = head(file, 0, HEADER)?;
    if probe(&h, "") == 0 {
        return bad(format!("vdi signature {:#x}, expected {SIGNATURE:#x}", le32(&h, 0x40)));
    }
    if le32(&h, 0x44) != VERSION {
        return bad(format!("vdi version {:#x}, expected {VERSION:#x}", le32(&h, 0x44)));
    }
    let (map_offset, data_offset) = (u64::from(le32(&h, 0x154)), u64::from(le32(&h, 0x158)));
    let (size, block, blocks) = (le64(&h, 0x170), u64::from(le32(&h, 0x178)), u64::from(le32(&h, 0x180)));
    for (name, value, good) in [
        ("offset_bmap", map_offset, map_offset.is_multiple_of(512) && map_offset >= 512),
        ("offset_data", data_offset, data_offset.is_multiple_of(512)),
        ("sector_size", le32(&h, 0x168).into(), le32(&h, 0x168) == 512),
        ("block_size", block, block == BLOCK),
        ("blocks_in_image", blocks, blocks <= MAX_BLOCKS && size <= blocks * BLOCK),
    ] {
        if !good {
            return bad(format!("vdi {name} {value:#x} is not supported"));
        }
    }
    if h[0x1a8..0x1c8].iter().any(|b| *b != 0) {
        return bad("vdi images with a parent or linked snapshot are not supported".into());
    }
    let raw = read_table(file, map_offset, blocks, 4, MAX_BLOCKS * 4, path, "vdi block map")?;
    let map: Vec<u32> = raw.chunks_exact(4).map(|c| le32(c, 0)).collect();
    let allocated = map
        .iter()
        .filter(|e| **e < ZERO)
        .map(|e| e + 1)
        .max()
        .unwrap_or(0)
        .max(le32(&h, 0x184).min(blocks as u32));
    let layout = Vdi { path: path.into(), map_offset, data_offset, map, allocated };
    let size = size.next_multiple_of(512);
    Ok(Arc::new(Mapped::new(path, context.file.clone(), layout, size, context.options.read_only)))
}

impl Vdi {
    /// Writes an entry of the map; it holds only once it is written.
    fn set(&mut self, file: &dyn BlockNode, block: u64, value: u32) -> Result<(), BlockError> {
        file.write(self.map_offset + block * 4, &[IoSlice::new(&value.to_le_bytes())], false)?;
        self.map[block as usize] = value;
        Ok(())
    }
}

impl Layout for Vdi {
    fn format(&self) -> &'static str {
        "vdi"
    }

    fn unit(&self) -> u64 {
        BLOCK
    }

    fn place(&mut self, _: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        Ok(match self.map.get(block as usize).copied() {
            None | Some(NOWHERE) => Place::Hole,
            Some(ZERO) => Place::Zero,
            Some(n) => Place::At(self.data_offset + u64::from(n) * BLOCK),
        })
    }

    fn take(&mut self, _: &dyn BlockNode, block: u64) -> Result<u64, BlockError> {
        if block as usize >= self.map.len() || u64::from(self.allocated) >= MAX_BLOCKS {
            return Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("vdi block {block} has no place in the map"),
            });
        }
        Ok(self.data_offset + u64::from(self.allocated) * BLOCK)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        let n = ((offset - self.data_offset) / BLOCK) as u32;
        self.allocated = self.allocated.max(n + 1);
        file.write(0x184, &[IoSlice::new(&self.allocated.to_le_bytes())], false)?;
        self.set(file, block, n)
    }

    fn link_zero(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        if block as usize >= self.map.len() {
            return Ok(false);
        }
        self.set(file, block, ZERO)?;
        Ok(true)
    }

    fn end(&self) -> Option<u64> {
        Some(self.data_offset + u64::from(self.allocated) * BLOCK)
    }

    fn unlink(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        self.set(file, block, NOWHERE)?;
        Ok(true)
    }

    /// Blocks lie one after the other, as many as the header counts: the last ones go where none is.
    fn settle(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        let of = |(block, n): (usize, &u32)| (*n < ZERO).then_some((*n, block as u64));
        let mut used: Vec<(u32, u64)> = self.map.iter().enumerate().filter_map(of).collect();
        used.sort_unstable();
        let count = used.len() as u32;
        let taken = |n: &u32| used.binary_search_by_key(n, |(place, _)| *place).is_ok();
        let free: Vec<u32> = (0..count).filter(|n| !taken(n)).collect();
        let place = |n: u32| self.data_offset + u64::from(n) * BLOCK;
        let mut data = vec![0; BLOCK as usize];
        let last = used.iter().rev().take_while(|(n, _)| *n >= count);
        let moves: Vec<(u32, u64, u32)> =
            last.zip(free).map(|((from, block), to)| (*from, *block, to)).collect();
        for (from, _, to) in &moves {
            file.read(place(*from), &mut [IoSliceMut::new(&mut data)])?;
            file.write(place(*to), &[IoSlice::new(&data)], false)?;
        }
        file.flush()?;
        for (_, block, to) in moves {
            self.set(file, block, to)?;
        }
        self.allocated = count;
        file.write(0x184, &[IoSlice::new(&count.to_le_bytes())], false)?;
        file.flush()
    }

    fn checks(&self) -> bool {
        true
    }
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let how = context.options.preallocation(&[Preallocation::Metadata])?;
    let fixed = context.options.switch("static")?.unwrap_or(false) || how == Preallocation::Metadata;
    let size = context.size.next_multiple_of(512);
    let blocks = size.div_ceil(BLOCK);
    if blocks > MAX_BLOCKS {
        return Err(crate::options::bad_option("size", size, format!("at most {}", MAX_BLOCKS * BLOCK)));
    }
    let data_offset = (HEADER as u64 + blocks * 4).next_multiple_of(512);
    let mut h = vec![0; HEADER];
    put(&mut h, 0, b"<<< Rhea Virtual Disk Image >>>\n");
    for (at, value) in [
        (0x40, SIGNATURE),
        (0x44, VERSION),
        (0x48, 0x180),
        (0x4c, if fixed { STATIC } else { DYNAMIC }),
        (0x154, HEADER as u32),
        (0x158, u32::try_from(data_offset).unwrap_or(u32::MAX)),
        (0x168, 512),
        (0x178, BLOCK as u32),
        (0x180, blocks as u32),
        (0x184, if fixed { blocks as u32 } else { 0 }),
    ] {
        put(&mut h, at, &value.to_le_bytes());
    }
    put(&mut h, 0x170, &size.to_le_bytes());
    put(&mut h, 0x188, uuid::Uuid::new_v4().as_bytes());
    put(&mut h, 0x198, uuid::Uuid::new_v4().as_bytes());
    let file = context.file()?;
    let map: Vec<u8> =
        (0..blocks as u32).flat_map(|i| if fixed { i } else { NOWHERE }.to_le_bytes()).collect();
    file.write(HEADER as u64, &[IoSlice::new(&map)], false)?;
    if file.is_regular() {
        file.resize(data_offset + if fixed { blocks * BLOCK } else { 0 })?;
    }
    file.write(0, &[IoSlice::new(&h)], false)
}
