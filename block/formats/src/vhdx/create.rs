//! Making an image.

use std::io::IoSlice;

use block::{BlockError, BlockNode};

use super::guid::id;
use super::parent::{linkage, make_locator};
use super::{HEADER_LEN, HEADERS, MAX_SIZE, MIB, REGION_LEN, REGIONS, SIGNATURE, state, sum};
use crate::bytes::put;
use crate::options::{Kind, OptionSpec, bad_option, opt};
use crate::registry::{CreateContext, OpenOptions};

/// Options of `create`.
pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("backing_file", Kind::Text, "File name of the parent, a vhdx image of the same size"),
    opt("backing_fmt", Kind::Text, "Image format of the parent: vhdx"),
    opt(
        "block_size",
        Kind::Size,
        "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
    ),
    opt("block_state_zero", Kind::Bool, "Blocks that are not there are marked as zero (default)"),
    opt("log_size", Kind::Size, "Log size; min 1MB."),
    opt("size", Kind::Size, "Virtual disk size; max of 64TB."),
    opt(
        "subformat",
        Kind::Text,
        "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
    ),
];

/// Where items are in the metadata region.
const ITEMS: u64 = 64 << 10;

/// The locator of the parent, if there is to be one.
fn parent_locator(
    context: &CreateContext<'_>,
    size: u64,
    fixed: bool,
) -> Result<Option<Vec<u8>>, BlockError> {
    let options = context.options;
    let Some(name) = options.text("backing_file").filter(|n| !n.is_empty()) else { return Ok(None) };
    if let Some(format) = options.text("backing_fmt").filter(|f| *f != "vhdx") {
        return Err(bad_option("backing_fmt", format, "vhdx"));
    }
    if fixed {
        return Err(bad_option("subformat", "fixed", "dynamic with a backing_file"));
    }
    let open = OpenOptions { read_only: true, ..OpenOptions::default() };
    let parent = crate::registry::open(&context.beside(name).display().to_string(), Some("vhdx"), &open)?;
    if parent.size() != size {
        return Err(bad_option("size", size, format!("{}, the parent's", parent.size())));
    }
    let locator = make_locator(name, &linkage(&*parent)?);
    if locator.len() > 3000 {
        return Err(bad_option("backing_file", name, "a shorter name"));
    }
    Ok(Some(locator))
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let options = context.options;
    let size = context.size.next_multiple_of(512);
    let fixed = options.choice("subformat", &[("dynamic", false), ("fixed", true)])?.unwrap_or(false);
    let zero = options.switch("block_state_zero")?.unwrap_or(true);
    let log = options.size("log_size")?.unwrap_or(MIB).max(MIB);
    // Larger disks get larger blocks, so that the table stays small.
    let natural = match size {
        s if s > 32 << 40 => 64 * MIB,
        s if s > 100 << 30 => 32 * MIB,
        s if s > 1 << 30 => 16 * MIB,
        _ => 8 * MIB,
    };
    let block = match options.size("block_size")?.unwrap_or(0) {
        0 => natural,
        b => b,
    };
    if size > MAX_SIZE {
        return Err(bad_option("size", size, "at most 64T"));
    }
    if !log.is_multiple_of(MIB) || log > 256 * MIB {
        return Err(bad_option("log_size", log, "a multiple of 1M up to 256M"));
    }
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return Err(bad_option("block_size", block, "a power of two from 1M to 256M"));
    }
    let locator = parent_locator(context, size, fixed)?;
    let chunk = (512u64 << 23) / block;
    let blocks = size.div_ceil(block);
    let entries = match &locator {
        None => blocks + blocks.saturating_sub(1) / chunk,
        Some(_) => blocks.div_ceil(chunk) * (chunk + 1),
    };
    let (log_at, table_at) = (MIB, MIB + log);
    let table_len = (entries * 8).next_multiple_of(MIB).max(MIB);
    let meta_at = table_at + table_len;
    let data_at = meta_at + MIB;
    let file = context.file()?;
    file.write_zeroes(0, data_at, true)?;
    // Block table.
    if fixed {
        file.resize(data_at + blocks * block)?;
    }
    let mut table = vec![0; (entries * 8) as usize];
    for b in 0..blocks {
        let entry = if fixed {
            (data_at + b * block) | state::PRESENT
        } else if zero && locator.is_none() {
            state::ZERO
        } else {
            0
        };
        put(&mut table, ((b + b / chunk) * 8) as usize, &entry.to_le_bytes());
    }
    file.write(table_at, &[IoSlice::new(&table)], false)?;
    // Metadata: items one after the other, eight bytes or sixteen each.
    let mut meta = vec![0; (ITEMS + 4096) as usize];
    put(&mut meta, 0, b"metadata");
    let disk_id = uuid::Uuid::new_v4();
    let mut parameters = [0; 8];
    put(&mut parameters, 0, &(block as u32).to_le_bytes());
    put(&mut parameters, 4, &(u32::from(fixed) | u32::from(locator.is_some()) << 1).to_le_bytes());
    // Flags: 2 is about the virtual disk, 4 is required.
    let (disk_size, sector) = (size.to_le_bytes(), 512u32.to_le_bytes());
    let mut items: Vec<([u8; 16], &[u8], u32)> = vec![
        (id::FILE_PARAMETERS, &parameters, 4),
        (id::DISK_SIZE, &disk_size, 6),
        (id::DISK_ID, disk_id.as_bytes(), 6),
        (id::LOGICAL_SECTOR, &sector, 6),
        (id::PHYSICAL_SECTOR, &sector, 6),
    ];
    if let Some(locator) = &locator {
        items.push((id::PARENT, locator, 4));
    }
    let mut at = ITEMS as usize;
    for (i, (guid, value, flags)) in items.iter().enumerate() {
        let e = 32 + i * 32;
        put(&mut meta, e, guid);
        put(&mut meta, e + 16, &(at as u32).to_le_bytes());
        put(&mut meta, e + 20, &(value.len() as u32).to_le_bytes());
        put(&mut meta, e + 24, &flags.to_le_bytes());
        put(&mut meta, at, value);
        at += value.len();
    }
    put(&mut meta, 10, &(items.len() as u16).to_le_bytes());
    file.write(meta_at, &[IoSlice::new(&meta)], false)?;
    // Region tables and headers, twice each.
    let mut regions = vec![0; REGION_LEN];
    put(&mut regions, 0, b"regi");
    put(&mut regions, 8, &2u32.to_le_bytes());
    for (i, (guid, at, len)) in
        [(id::BLOCK_TABLE, table_at, table_len), (id::METADATA, meta_at, MIB)].iter().enumerate()
    {
        let e = 16 + i * 32;
        put(&mut regions, e, guid);
        put(&mut regions, e + 16, &at.to_le_bytes());
        put(&mut regions, e + 24, &(*len as u32).to_le_bytes());
        put(&mut regions, e + 28, &1u32.to_le_bytes());
    }
    let checksum = sum(&regions);
    put(&mut regions, 4, &checksum.to_le_bytes());
    for at in REGIONS {
        file.write(at, &[IoSlice::new(&regions)], false)?;
    }
    for (number, at) in HEADERS.into_iter().enumerate() {
        let mut h = vec![0; HEADER_LEN];
        put(&mut h, 0, b"head");
        put(&mut h, 8, &(number as u64 + 1).to_le_bytes());
        put(&mut h, 16, uuid::Uuid::new_v4().as_bytes());
        put(&mut h, 32, uuid::Uuid::new_v4().as_bytes());
        put(&mut h, 66, &1u16.to_le_bytes());
        put(&mut h, 68, &(log as u32).to_le_bytes());
        put(&mut h, 72, &log_at.to_le_bytes());
        let checksum = sum(&h);
        put(&mut h, 4, &checksum.to_le_bytes());
        file.write(at, &[IoSlice::new(&h)], false)?;
    }
    let mut start = SIGNATURE.to_vec();
    start.extend("Rhea".encode_utf16().flat_map(u16::to_le_bytes));
    file.write(0, &[IoSlice::new(&start)], false)
}
