//! Differencing images: what a block does not have is its parent's ([MS-VHDX] 2.4, 2.5.1, 2.6.2.6).
//!
//! Of a block that is partly here a bitmap says which sectors are; one bitmap, in a block of its own, is for all blocks of a
//! chunk. Such a block is read whole, and is whole when it has been written to: bitmaps are never changed.

use std::io::IoSliceMut;
use std::sync::Arc;

use block::{BlockError, BlockNode};

use super::guid::id;
use super::{Vhdx, current_header, state};
use crate::bytes::{le16, le32, put};
use crate::image::{BackingName, Image};
use crate::mapped::head;
use crate::registry::OpenContext;

/// Bytes of a bitmap.
pub(super) const BITMAP: u64 = 1 << 20;
/// Bytes of the locator before its entries, and of each.
const HEAD: usize = 20;
const ENTRY: usize = 12;
/// Most entries that are looked at.
const MOST: usize = 64;

/// What the locator says.
#[derive(Debug, Default)]
pub(super) struct Locator {
    /// Values that the parent's data write identifier may have.
    linkage: Vec<String>,
    relative: Option<String>,
    absolute: Option<String>,
}

fn bad(path: &str, what: impl Into<String>) -> BlockError {
    BlockError::Format { path: path.into(), what: what.into() }
}

/// Text of a locator, of which the whole is `item`.
fn text(item: &[u8], at: usize, len: usize) -> Option<String> {
    let raw = item.get(at..at.checked_add(len)?)?;
    let units: Vec<u16> = raw.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    Some(String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned())
}

/// Reads the locator.
pub(super) fn locator(item: &[u8], path: &str) -> Result<Locator, BlockError> {
    if item.get(..16) != Some(&id::VHDX_PARENT[..]) {
        return Err(bad(path, "vhdx parent locator of an unknown type"));
    }
    let mut out = Locator::default();
    for i in 0..usize::from(le16(item, 18)).min(MOST) {
        let e = HEAD + i * ENTRY;
        let read = |at: usize, len: usize| text(item, le32(item, at) as usize, le16(item, len).into());
        let (Some(key), Some(value)) = (read(e, e + 8), read(e + 4, e + 10)) else {
            return Err(bad(
                path,
                format!("vhdx parent locator: entry {i} is not within its {} bytes", item.len()),
            ));
        };
        match key.as_str() {
            "parent_linkage" | "parent_linkage2" => out.linkage.push(value.to_lowercase()),
            "relative_path" => out.relative = Some(value.replace('\\', "/")),
            "absolute_win32_path" | "volume_path" => out.absolute = Some(value),
            _ => {}
        }
    }
    Ok(out)
}

impl Locator {
    /// The name of the parent: relative if the image has it so, else the plain file name beside it.
    pub(super) fn name(&self, path: &str) -> Result<BackingName, BlockError> {
        let beside = |whole: &String| whole.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        let file = self.relative.clone().or_else(|| self.absolute.as_ref().map(beside)).unwrap_or_default();
        let file = file.trim_start_matches("./").to_owned();
        if file.is_empty() {
            return Err(bad(path, "vhdx differencing disk that does not name its parent"));
        }
        Ok(BackingName { file, format: Some("vhdx".into()) })
    }

    /// Opens the parent, whose data has to be what it was when the disk was made over it.
    pub(super) fn open(
        &self,
        context: &OpenContext<'_>,
        name: &BackingName,
    ) -> Result<Option<Arc<dyn Image>>, BlockError> {
        if context.options.no_backing {
            return Ok(None);
        }
        let image = context.open_backing(name)?;
        let found = linkage(&*image)?;
        if !self.linkage.contains(&found) {
            let what = format!(
                "vhdx parent {} has the data write identifier {found}, expected {}",
                name.file,
                self.linkage.join(" or ")
            );
            return Err(bad(&context.filename, what));
        }
        Ok(Some(image))
    }
}

/// What children know an image's data by.
pub(super) fn linkage(image: &dyn Image) -> Result<String, BlockError> {
    let files = image.files();
    let Some((_, file)) = files.first() else {
        return Err(bad(image.filename(), "expected a vhdx image as the parent"));
    };
    let (header, _) = current_header(&**file, image.filename())?;
    let mut raw = [0; 16];
    raw.copy_from_slice(&header[32..48]);
    Ok(uuid::Uuid::from_bytes_le(raw).braced().to_string())
}

/// The locator for a parent of this name.
pub(super) fn make_locator(name: &str, linkage: &str) -> Vec<u8> {
    let pairs = [("parent_linkage", linkage.to_owned()), ("relative_path", name.replace('/', "\\"))];
    let mut out = vec![0; HEAD + pairs.len() * ENTRY];
    put(&mut out, 0, &id::VHDX_PARENT);
    put(&mut out, 18, &(pairs.len() as u16).to_le_bytes());
    for (i, (key, value)) in pairs.iter().enumerate() {
        let e = HEAD + i * ENTRY;
        for (text, at, len) in [(*key, e, e + 8), (value.as_str(), e + 4, e + 10)] {
            let start = out.len() as u32;
            out.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
            let n = (out.len() as u32 - start) as u16;
            put(&mut out, at, &start.to_le_bytes());
            put(&mut out, len, &n.to_le_bytes());
        }
    }
    out
}

impl Vhdx {
    /// Reads a block that is partly here.
    pub(super) fn put_together(
        &mut self,
        file: &dyn BlockNode,
        block: u64,
        out: &mut [u8],
    ) -> Result<(), BlockError> {
        if let Some((_, whole)) = self.last.as_ref().filter(|(b, _)| *b == block) {
            out.copy_from_slice(whole);
            return Ok(());
        }
        let failed = |what: String| bad(&self.path, what);
        let chunk = block / self.chunk;
        let entry = self.table.get(((chunk + 1) * (self.chunk + 1) - 1) as usize).copied().unwrap_or(0);
        let bitmap = entry >> 20 << 20;
        if entry & 7 != state::PRESENT
            || bitmap < BITMAP
            || bitmap.checked_add(BITMAP).is_none_or(|end| end > file.size())
        {
            return Err(failed(format!("vhdx block {block} is partly present, and its bitmap is not there")));
        }
        let own = self.table.get(self.index(block) as usize).copied().unwrap_or(0) >> 20 << 20;
        if own < BITMAP || own.checked_add(self.block).is_none_or(|end| end > file.size()) {
            return Err(failed(format!("vhdx block {block} at {own:#x} ends beyond the end of the file")));
        }
        file.read(own, &mut [IoSliceMut::new(out)])?;
        // A bit for each sector, the lowest of a byte first.
        let sectors = self.block / self.sector;
        let first = block % self.chunk * sectors;
        let bits = head(file, bitmap + first / 8, sectors.div_ceil(8) as usize)?;
        let here = |s: u64| bits.get((s / 8) as usize).is_some_and(|b| b >> (s % 8) & 1 != 0);
        let mut at = 0;
        while at < sectors {
            let mut end = at + 1;
            while end < sectors && here(end) == here(at) {
                end += 1;
            }
            if !here(at) {
                let part = &mut out[(at * self.sector) as usize..(end * self.sector) as usize];
                self.read_parent(block * self.block + at * self.sector, part)?;
            }
            at = end;
        }
        self.last = Some((block, out.to_vec()));
        Ok(())
    }

    fn read_parent(&self, offset: u64, part: &mut [u8]) -> Result<(), BlockError> {
        let Some(parent) = &self.parent else {
            return Err(bad(&self.path, "vhdx block is partly present, and the parent is not open"));
        };
        let there = parent.size().saturating_sub(offset).min(part.len() as u64) as usize;
        let (data, beyond) = part.split_at_mut(there);
        beyond.fill(0);
        if data.is_empty() { Ok(()) } else { parent.read(offset, &mut [IoSliceMut::new(data)]) }
    }
}
