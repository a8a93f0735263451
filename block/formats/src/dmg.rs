//! Apple disk images (UDIF): a trailer `koly`, block maps `mish` in a property list or a resource fork, and chunks that
//! are zero, plain, or compressed with zlib (UDZO), bzip2 (UDBZ), LZFSE (ULFO) or LZMA (ULMO). Read only.
//!
//! Apple has not published the format; the layout is as reverse-engineered descriptions of UDIF have it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::{BlockError, BlockNode};

use crate::bytes::{be32, be64};
use crate::chunked::{Chunk, Chunked, Codec, read_only};
use crate::image::Image;
use crate::mapped::head;
use crate::registry::OpenContext;

const SECTOR: u64 = 512;
/// Bytes of the trailer.
const TRAILER: u64 = 512;
/// Most bytes of the property list or resource fork.
const MAX_MAPS: u64 = 16 << 20;
/// Most chunks.
const MAX_CHUNKS: usize = 4 << 20;
/// Where the chunks start in a block map, and bytes of each.
const FIRST_CHUNK: usize = 204;
const CHUNK: usize = 40;

/// Kinds of chunks.
mod kind {
    pub(super) const ZERO: u32 = 0;
    pub(super) const PLAIN: u32 = 1;
    pub(super) const IGNORED: u32 = 2;
    pub(super) const ADC: u32 = 0x8000_0004;
    pub(super) const ZLIB: u32 = 0x8000_0005;
    pub(super) const BZIP2: u32 = 0x8000_0006;
    pub(super) const LZFSE: u32 = 0x8000_0007;
    pub(super) const XZ: u32 = 0x8000_0008;
    pub(super) const COMMENT: u32 = 0x7fff_fffe;
    pub(super) const END: u32 = 0xffff_ffff;
}

/// Whether a file is one: its end would tell, of its start only the name does.
pub(crate) fn probe(_: &[u8], path: &str) -> u32 {
    if path.to_ascii_lowercase().ends_with(".dmg") { 2 } else { 0 }
}

/// Finds the trailer: at the end, or at its start in images of one old kind.
fn trailer(file: &dyn BlockNode, path: &str) -> Result<Vec<u8>, BlockError> {
    let size = file.size();
    // What follows the trailer is less than a sector.
    let from = size.saturating_sub(2 * TRAILER);
    let tail = head(file, from, (size - from) as usize)?;
    for at in (0..=tail.len().saturating_sub(TRAILER as usize)).rev() {
        if tail[at..].starts_with(b"koly") {
            return Ok(tail[at..at + TRAILER as usize].to_vec());
        }
    }
    Err(BlockError::Format {
        path: path.into(),
        what: "dmg: the file has no 'koly' trailer at its end".into(),
    })
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    read_only(context, "dmg")?;
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    let koly = trailer(file, path)?;
    let data = be64(&koly, 24);
    let (fork, fork_len) = (be64(&koly, 40), be64(&koly, 48));
    let (list, list_len) = (be64(&koly, 216), be64(&koly, 224));
    let sectors = be64(&koly, 492);
    let part = |name: &str, at: u64, len: u64| -> Result<Vec<u8>, BlockError> {
        if len > MAX_MAPS || at.checked_add(len).is_none_or(|end| end > file.size()) {
            return Err(bad(format!(
                "dmg {name} of {len} bytes at {at:#x}, expected at most {MAX_MAPS} in the file"
            )));
        }
        head(file, at, len as usize)
    };
    let maps = if list_len != 0 {
        from_list(&part("property list", list, list_len)?)
    } else if fork_len != 0 {
        from_fork(&part("resource fork", fork, fork_len)?)
    } else {
        return Err(bad("dmg trailer names neither a property list nor a resource fork".into()));
    };
    let mut chunks = Vec::new();
    for map in &maps {
        add_map(map, data, &mut chunks).map_err(bad)?;
    }
    if chunks.is_empty() {
        return Err(bad("dmg has no block map with chunks".into()));
    }
    let covered = chunks.iter().map(|c| c.range.end).max().unwrap_or(0);
    let size = sectors.checked_mul(SECTOR).filter(|s| *s <= i64::MAX as u64);
    let size = size.ok_or_else(|| bad(format!("dmg of {sectors} sectors")))?;
    // Partitions at the end may be left out, but no chunk lies beyond.
    Ok(Arc::new(Chunked::new(context, "dmg", size.max(covered), chunks)?))
}

/// The block maps in a property list: all data that starts like one.
fn from_list(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(text);
    let parts = text.split("<data>").skip(1).filter_map(|p| p.split_once("</data>"));
    let decoded = parts.filter_map(|(base64, _)| {
        let clean: String = base64.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        STANDARD.decode(clean).ok()
    });
    decoded.filter(|d| d.starts_with(b"mish")).collect()
}

/// The block maps in a resource fork ("Inside Macintosh: More Macintosh Toolbox", 1-121): its data is a sequence of
/// lengths with as many bytes.
fn from_fork(fork: &[u8]) -> Vec<Vec<u8>> {
    let (start, len) = (be32(fork, 0) as usize, be32(fork, 8) as usize);
    let data = fork.get(start..).map_or(&[][..], |rest| &rest[..len.min(rest.len())]);
    let mut out = Vec::new();
    let mut at = 0usize;
    while at + 4 <= data.len() {
        let len = be32(data, at) as usize;
        let Some(body) = data.get(at + 4..).and_then(|rest| rest.get(..len)) else { break };
        if body.starts_with(b"mish") {
            out.push(body.to_vec());
        }
        at += 4 + len;
    }
    out
}

/// Adds the chunks of a block map.
fn add_map(map: &[u8], data: u64, chunks: &mut Vec<Chunk>) -> Result<(), String> {
    let (first, base) = (be64(map, 8), be64(map, 24));
    let count = be32(map, 200) as usize;
    if map.len().saturating_sub(FIRST_CHUNK) / CHUNK < count {
        return Err(format!("dmg block map of {} bytes with {count} chunks", map.len()));
    }
    for i in 0..count {
        let at = FIRST_CHUNK + i * CHUNK;
        let (sector, sectors) = (be64(map, at + 8), be64(map, at + 16));
        let codec = match be32(map, at) {
            kind::ZERO | kind::IGNORED => Codec::Zero,
            kind::PLAIN => Codec::Plain,
            kind::ZLIB => Codec::Zlib,
            kind::BZIP2 => Codec::Bzip2,
            kind::LZFSE => Codec::Lzfse,
            kind::XZ => Codec::Xz,
            kind::COMMENT => continue,
            kind::END => break,
            kind::ADC => return Err(format!("dmg chunk {i} is compressed with ADC, which is not supported")),
            other => return Err(format!("dmg chunk {i} is of kind {other:#x}, which is not known")),
        };
        if sectors == 0 {
            continue;
        }
        let place = || {
            let start = first.checked_add(sector)?.checked_mul(SECTOR)?;
            let end = sectors.checked_mul(SECTOR).and_then(|n| start.checked_add(n))?;
            let offset = be64(map, at + 24).checked_add(base)?.checked_add(data)?;
            (end <= i64::MAX as u64).then_some((start..end, offset))
        };
        let Some((range, offset)) = place() else {
            return Err(format!("dmg chunk {i}: {sectors} sectors at {sector} are out of bounds"));
        };
        if chunks.len() >= MAX_CHUNKS {
            return Err(format!("dmg of more than {MAX_CHUNKS} chunks"));
        }
        chunks.push(Chunk { range, codec, offset, stored: be64(map, at + 32) });
    }
    Ok(())
}
