//! cloop, version 2 (Debian's `cloop` module, `compressed_loop.h`): a shell script, a table of offsets, and blocks of
//! one size compressed with zlib. Read only.

use std::sync::Arc;

use block::BlockError;

use crate::bytes::{be32, be64};
use crate::chunked::{Chunk, Chunked, Codec, MAX_CHUNK, read_only};
use crate::image::Image;
use crate::mapped::{head, read_table};
use crate::registry::OpenContext;

const MAGIC: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// Where the numbers start.
const NUMBERS: u64 = 128;
/// Most bytes of the table of offsets.
const MAX_TABLE: u64 = 512 << 20;

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if data.starts_with(MAGIC) { 2 } else { 0 }
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    read_only(context, "cloop")?;
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let numbers = head(file, NUMBERS, 8)?;
    let (unit, count) = (u64::from(be32(&numbers, 0)), u64::from(be32(&numbers, 4)));
    if unit == 0 || !unit.is_multiple_of(512) || unit > MAX_CHUNK {
        return bad(format!("cloop block_size {unit}, expected a multiple of 512 up to {MAX_CHUNK}"));
    }
    let raw = read_table(file, NUMBERS + 8, count + 1, 8, MAX_TABLE, path, "cloop table of offsets")?;
    let mut chunks = Vec::new();
    for i in 0..count {
        let (from, to) = (be64(&raw, i as usize * 8), be64(&raw, i as usize * 8 + 8));
        // Compressed data may be a little longer than what it holds.
        if to <= from || to - from > 2 * unit {
            return bad(format!(
                "cloop block {i}: stored from {from:#x} to {to:#x}, expected 1 to {} bytes",
                2 * unit
            ));
        }
        let range = i * unit..(i + 1) * unit;
        chunks.push(Chunk { range, codec: Codec::Zlib, offset: from, stored: to - from });
    }
    Ok(Arc::new(Chunked::new(context, "cloop", count * unit, chunks)?))
}
