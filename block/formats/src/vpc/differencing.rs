//! Differencing disks, read only: of each block the bitmap in front of it says which sectors are the disk's own; the
//! others are the parent's, which is named by locators and known by its unique id (specification, "Dynamic Disk
//! Header Format" and "Parent Locator").

use std::sync::Arc;

use block::{BlockError, BlockNode};

use super::{COOKIE, FOOTER, NOWHERE, SECTOR};
use crate::bytes::{be32, be64};
use crate::image::{BackingName, Details, Image};
use crate::mapped::{Layout, Place, head};
use crate::registry::OpenContext;

/// Where locators are in the header, how many there are, and bytes of each.
const LOCATORS: usize = 576;
const COUNT: usize = 8;
const LOCATOR: usize = 24;
/// Most bytes of a name.
const MAX_NAME: usize = 4096;

/// The tables of a differencing disk.
#[derive(Debug)]
pub(super) struct Differencing {
    pub(super) path: String,
    pub(super) block: u64,
    /// Bytes of a block's bitmap in the file.
    pub(super) bitmap: u64,
    pub(super) table: Vec<u32>,
    pub(super) parent: Option<BackingName>,
    /// The bitmap that was used last, and its block.
    pub(super) last: Option<(u64, Vec<u8>)>,
}

/// The name of the parent: relative if the image has it so, else the plain file name beside it.
pub(super) fn parent_name(
    file: &dyn BlockNode,
    header: &[u8],
    path: &str,
) -> Result<BackingName, BlockError> {
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    let mut name = None;
    for i in 0..COUNT {
        let at = LOCATORS + i * LOCATOR;
        let (len, offset) = (be32(header, at + 8) as usize, be64(header, at + 16));
        if header.get(at..at + 4) != Some(b"W2ru") {
            continue;
        }
        if len > MAX_NAME || offset.checked_add(len as u64).is_none_or(|end| end > file.size()) {
            return Err(bad(format!("vpc parent locator of {len} bytes at {offset:#x} is not in the file")));
        }
        let raw = head(file, offset, len)?;
        let units: Vec<u16> = raw.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        name = Some(String::from_utf16_lossy(&units).replace('\\', "/"));
    }
    let name = name.unwrap_or_else(|| {
        let raw = header.get(64..LOCATORS).unwrap_or_default();
        let units = raw.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]));
        let units: Vec<u16> = units.take_while(|u| *u != 0).collect();
        let whole = String::from_utf16_lossy(&units);
        whole.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
    });
    let file = name.trim_end_matches('\0').trim_start_matches("./").to_owned();
    if file.is_empty() {
        return Err(bad("vpc differencing disk that does not name its parent".into()));
    }
    Ok(BackingName { file, format: Some("vpc".into()) })
}

/// Opens the parent, which has to be the one the disk was made over.
pub(super) fn parent(
    context: &OpenContext<'_>,
    header: &[u8],
    name: &BackingName,
) -> Result<Option<Arc<dyn Image>>, BlockError> {
    if context.options.no_backing {
        return Ok(None);
    }
    let image = context.open_backing(name)?;
    let mut found = None;
    for (_, node) in image.files() {
        for at in [0, node.size().saturating_sub(FOOTER)] {
            let footer = head(&*node, at, FOOTER as usize)?;
            if footer.starts_with(COOKIE) {
                found = found.or(footer.get(68..84).map(<[u8]>::to_vec));
            }
        }
    }
    if found.as_deref() != header.get(40..56) {
        return Err(BlockError::Format {
            path: context.filename.clone(),
            what: format!(
                "vpc parent {} has another unique id than the one this disk was made over",
                name.file
            ),
        });
    }
    Ok(Some(image))
}

impl Layout for Differencing {
    fn format(&self) -> &'static str {
        "vpc"
    }

    fn unit(&self) -> u64 {
        SECTOR
    }

    fn place(&mut self, file: &dyn BlockNode, sector: u64) -> Result<Place, BlockError> {
        let (block, within) = (sector * SECTOR / self.block, sector * SECTOR % self.block);
        let Some(at) = self.table.get(block as usize).filter(|e| **e != NOWHERE) else {
            return Ok(Place::Hole);
        };
        let at = u64::from(*at) * SECTOR;
        if self.last.as_ref().is_none_or(|(b, _)| *b != block) {
            if at + self.bitmap > file.size() {
                let what = format!("vpc block {block} at {at:#x} is beyond the end of the file");
                return Err(BlockError::Format { path: self.path.clone(), what });
            }
            self.last = Some((block, head(file, at, self.bitmap as usize)?));
        }
        let i = (within / SECTOR) as usize;
        let own = self
            .last
            .as_ref()
            .is_some_and(|(_, bits)| bits.get(i / 8).is_some_and(|byte| byte & (0x80 >> (i % 8)) != 0));
        Ok(if own { Place::At(at + self.bitmap + within) } else { Place::Hole })
    }

    fn details(&self) -> Details {
        Details { cluster_size: Some(self.block), ..Details::default() }
    }

    fn backing_name(&self) -> Option<BackingName> {
        self.parent.clone()
    }
}
