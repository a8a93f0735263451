//! Bochs' growing images (Bochs Developers Guide, "Harddisk Images based on redologs"): a catalog of extents, each
//! with a bitmap of the sectors it has. Read only.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::Mutex;

use crate::bytes::{le32, le64, text};
use crate::chunked::read_only;
use crate::image::Image;
use crate::mapped::{head, read_table};
use crate::registry::OpenContext;

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"Bochs Virtual HD Image";
/// Bytes of the header that are looked at.
const HEADER: usize = 512;
const VERSION_1: u32 = 0x0001_0000;
const VERSION_2: u32 = 0x0002_0000;
/// Entry of an extent that is not there.
const NONE: u32 = u32::MAX;
/// Most bytes of the catalog.
const MAX_CATALOG: u64 = 4 << 20;
/// Most bytes of an extent.
const MAX_EXTENT: u64 = 8 << 20;

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    let growing = text(data.get(32..48).unwrap_or_default()) == "Redolog"
        && text(data.get(48..64).unwrap_or_default()) == "Growing";
    let version = le32(data, 64);
    if data.starts_with(MAGIC) && growing && (version == VERSION_1 || version == VERSION_2) { 100 } else { 0 }
}

/// An opened image.
pub(crate) struct Bochs {
    filename: String,
    file: Arc<dyn BlockNode>,
    size: u64,
    catalog: Vec<u32>,
    /// Where the first extent is.
    data: u64,
    /// Bytes of the disk in an extent.
    extent: u64,
    /// Bytes of its bitmap in the file.
    bitmap: u64,
    /// The bitmap that was used last, and whose it is.
    last: Mutex<(u64, Vec<u8>)>,
}

impl fmt::Debug for Bochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bochs:{}", self.filename)
    }
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    read_only(context, "bochs")?;
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let h = head(file, 0, HEADER)?;
    if probe(&h, "") == 0 {
        return bad(
            "bochs: magic, type, subtype or version unknown, expected a growing redolog of version 1 or 2"
                .into(),
        );
    }
    let (start, count) = (u64::from(le32(&h, 68)), u64::from(le32(&h, 72)));
    let (bitmap, extent) = (u64::from(le32(&h, 76)), u64::from(le32(&h, 80)));
    let size = if le32(&h, 64) == VERSION_1 { le64(&h, 84) } else { le64(&h, 88) };
    if extent == 0 || extent > MAX_EXTENT || !extent.is_multiple_of(SECTOR) {
        return bad(format!("bochs extent size {extent}, expected a multiple of 512 up to {MAX_EXTENT}"));
    }
    if bitmap.saturating_mul(8) < extent / SECTOR || bitmap > MAX_EXTENT {
        return bad(format!("bochs bitmap of {bitmap} bytes for {} sectors", extent / SECTOR));
    }
    let size = size / SECTOR * SECTOR;
    if size > count * extent {
        return bad(format!("bochs disk of {size} bytes, more than {count} extents of {extent} have"));
    }
    let raw = read_table(file, start, count, 4, MAX_CATALOG, path, "bochs catalog")?;
    Ok(Arc::new(Bochs {
        filename: path.into(),
        file: context.file.clone(),
        size,
        catalog: raw.chunks_exact(4).map(|c| le32(c, 0)).collect(),
        data: start + count * 4,
        extent,
        bitmap: bitmap.next_multiple_of(SECTOR),
        last: Mutex::new((u64::MAX, Vec::new())),
    }))
}

impl Bochs {
    /// Where a run of sectors is in the file, or nowhere: it is zero. Bytes of the run, at most `max`.
    fn run(&self, offset: u64, max: u64) -> Result<(Option<u64>, u64), BlockError> {
        let (index, within) = (offset / self.extent, offset % self.extent);
        let max = max.min(self.extent - within);
        let place = self.catalog.get(index as usize).copied().filter(|p| *p != NONE);
        let Some(place) = place else { return Ok((None, max)) };
        let start = self.data + u64::from(place) * (self.bitmap + self.extent);
        let mut last = self.last.lock();
        if last.0 != start {
            if start + self.bitmap > self.file.size() {
                let what = format!("bochs extent {index} at {start:#x} is beyond the end of the file");
                return Err(BlockError::Format { path: self.filename.clone(), what });
            }
            *last = (start, head(&*self.file, start, self.bitmap as usize)?);
        }
        let there = |at: u64| last.1[(at / SECTOR / 8) as usize] >> (at / SECTOR % 8) & 1 != 0;
        let first = there(within);
        let mut end = (within / SECTOR + 1) * SECTOR;
        while end < within + max && there(end) == first {
            end += SECTOR;
        }
        Ok((first.then_some(start + self.bitmap + within), (end - within).min(max)))
    }
}

impl BlockNode for Bochs {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("bochs:{}", self.filename),
            size: self.size,
            read_only: true,
            granularity: SECTOR as u32,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        for buf in bufs {
            let mut rest = &mut buf[..];
            while !rest.is_empty() {
                let (place, n) = self.run(offset, rest.len() as u64)?;
                let (part, later) = rest.split_at_mut(n as usize);
                match place {
                    Some(at) => self.file.read(at, &mut [IoSliceMut::new(part)])?,
                    None => part.fill(0),
                }
                offset += n;
                rest = later;
            }
        }
        Ok(())
    }

    fn write(&self, _: u64, _: &[IoSlice<'_>], _: bool) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (offset, n) = self.run(at, range.end - at)?;
            Extent::push(&mut out, Extent { offset, ..Extent::new(at..at + n, true, offset.is_none()) });
            at += n;
        }
        Ok(out)
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.file.clone()]
    }
}

impl Image for Bochs {
    fn format(&self) -> &'static str {
        "bochs"
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        vec![("file".into(), self.file.clone())]
    }
}
