//! VMDK (VMware, "Virtual Disk Format 5.0"): a descriptor in text, and extents: flat files, or sparse files of grains
//! with two levels of tables ([`sparse`]). The descriptor may be inside the only extent.

mod create;
mod descriptor;
mod sparse;

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use serde_json::json;

use crate::image::{Details, Image};
use crate::mapped::{Mapped, head};
use crate::raw::RawImage;
use crate::registry::OpenContext;
use descriptor::{Descriptor, Kind};
use sparse::{MAGIC, Sparse};

pub(crate) use create::{CREATE_OPTIONS, create};

const SECTOR: u64 = 512;
/// Most bytes of a descriptor.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Most extents of a disk.
const MAX_EXTENTS: usize = 4096;

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if data.starts_with(MAGIC) || Descriptor::looks_like(data) { 100 } else { 0 }
}

/// One extent: what it covers of the disk, and its contents; none for zeroes.
struct Part {
    range: Range<u64>,
    node: Option<Arc<dyn Image>>,
    filename: String,
}

/// An opened image.
struct Vmdk {
    filename: String,
    file: Arc<dyn BlockNode>,
    parts: Vec<Part>,
    size: u64,
    descriptor: Descriptor,
    read_only: bool,
}

impl fmt::Debug for Vmdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmdk:{}", self.filename)
    }
}

/// Opens an image with all its extents.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path, read_only) =
        (context.file.clone(), context.filename.as_str(), context.options.read_only);
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let start = head(&*file, 0, 512)?;
    if start.starts_with(MAGIC) {
        let (sparse, capacity, text) = Sparse::open(&*file, path)?;
        let descriptor = match text {
            Some((at, len)) => Descriptor::parse(&head(&*file, at, len.min(MAX_DESCRIPTOR) as usize)?, path)?,
            None => Descriptor::default(),
        };
        refuse_parent(&descriptor, path)?;
        let image: Arc<dyn Image> = Arc::new(Mapped::new(path, file.clone(), sparse, capacity, read_only));
        let parts = vec![Part { range: 0..capacity, node: Some(image), filename: path.into() }];
        return Ok(Arc::new(Vmdk {
            filename: path.into(),
            file,
            parts,
            size: capacity,
            descriptor,
            read_only,
        }));
    }
    if !Descriptor::looks_like(&start) {
        return bad("vmdk magic or descriptor is missing".into());
    }
    let descriptor = Descriptor::parse(&head(&*file, 0, file.size().min(MAX_DESCRIPTOR) as usize)?, path)?;
    refuse_parent(&descriptor, path)?;
    if descriptor.extents.is_empty() || descriptor.extents.len() > MAX_EXTENTS {
        return bad(format!(
            "vmdk descriptor with {} extents, expected 1 to {MAX_EXTENTS}",
            descriptor.extents.len()
        ));
    }
    let (mut parts, mut size) = (Vec::new(), 0u64);
    for e in &descriptor.extents {
        let len = e
            .sectors
            .checked_mul(SECTOR)
            .filter(|l| size.checked_add(*l).is_some_and(|s| s <= i64::MAX as u64));
        let Some(len) = len else { return bad(format!("vmdk extent of {} sectors is too large", e.sectors)) };
        if e.name.contains(['/', '\\'])
            && !std::path::Path::new(&e.name).is_absolute()
            && e.name.contains("..")
        {
            return bad(format!("vmdk extent '{}' is outside of the image's folder", e.name));
        }
        let (node, filename): (Option<Arc<dyn Image>>, String) = match e.kind {
            Kind::Zero => (None, String::new()),
            Kind::Flat => {
                let (node, name) = context.open_beside(&e.name)?;
                let offset = e.offset.saturating_mul(SECTOR);
                (Some(Arc::new(RawImage::new(&name, node, offset, Some(len), read_only)?)), name)
            }
            Kind::Sparse => {
                let (node, name) = context.open_beside(&e.name)?;
                let (sparse, capacity, _) = Sparse::open(&*node, &name)?;
                if capacity < len {
                    return bad(format!("vmdk extent '{}' holds {capacity} bytes, expected {len}", e.name));
                }
                (Some(Arc::new(Mapped::new(&name, node, sparse, capacity, read_only))), name)
            }
        };
        parts.push(Part { range: size..size + len, node, filename });
        size += len;
    }
    Ok(Arc::new(Vmdk { filename: path.into(), file, parts, size, descriptor, read_only }))
}

fn refuse_parent(d: &Descriptor, path: &str) -> Result<(), BlockError> {
    if d.parent_cid != u32::MAX {
        let what = format!(
            "vmdk parentCID {:08x}: images with a parent are not supported, expected ffffffff",
            d.parent_cid
        );
        return Err(BlockError::Format { path: path.into(), what });
    }
    Ok(())
}

impl Vmdk {
    /// Cuts a range at extents: (extent, offset in it, length).
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = (&Part, u64, usize)> {
        let end = offset + len;
        self.parts.iter().filter_map(move |p| {
            let (from, to) = (offset.max(p.range.start), end.min(p.range.end));
            (from < to).then(|| (p, from - p.range.start, (to - from) as usize))
        })
    }
}

impl BlockNode for Vmdk {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("vmdk:{}", self.filename),
            size: self.size,
            read_only: self.read_only,
            granularity: 4096,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        for buf in bufs {
            let mut done = 0;
            for (part, within, n) in self.pieces(offset, buf.len() as u64) {
                let to = &mut buf[done..done + n];
                match &part.node {
                    Some(node) => node.read(within, &mut [IoSliceMut::new(to)])?,
                    None => to.fill(0),
                }
                done += n;
            }
            offset += done as u64;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        for buf in bufs {
            let mut done = 0;
            for (part, within, n) in self.pieces(offset, buf.len() as u64) {
                let node = part.node.as_ref().ok_or(BlockError::Unsupported("writing to a zero extent"))?;
                node.write(within, &[IoSlice::new(&buf[done..done + n])], fua)?;
                done += n;
            }
            offset += done as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.parts.iter().filter_map(|p| p.node.as_ref()).try_for_each(|n| n.flush())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        for (part, within, n) in self.pieces(offset, len) {
            if let Some(node) = &part.node {
                node.write_zeroes(within, n as u64, unmap)?;
            }
        }
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let mut out = Vec::new();
        for (part, within, n) in self.pieces(range.start, range.end.saturating_sub(range.start)) {
            let base = part.range.start;
            match &part.node {
                None => {
                    Extent::push(&mut out, Extent::new(base + within..base + within + n as u64, true, true))
                }
                Some(node) => {
                    for e in node.status(within..within + n as u64)? {
                        let range = e.range.start + base..e.range.end + base;
                        Extent::push(&mut out, Extent { range, ..e });
                    }
                }
            }
        }
        Ok(out)
    }

    fn allocated_size(&self) -> Option<u64> {
        let own = if self.parts.iter().any(|p| p.filename == self.filename) {
            0
        } else {
            self.file.allocated_size()?
        };
        self.parts
            .iter()
            .filter_map(|p| p.node.as_ref())
            .try_fold(own, |sum, n| Some(sum + n.allocated_size()?))
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.file.clone()]
    }
}

impl Image for Vmdk {
    fn format(&self) -> &'static str {
        "vmdk"
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        vec![("file".into(), self.file.clone())]
    }

    fn data_filename(&self) -> &str {
        self.parts.first().map_or(&self.filename, |p| &p.filename)
    }

    fn details(&self) -> Details {
        let first = self.parts.iter().find_map(|p| p.node.as_ref()).map(|n| n.details()).unwrap_or_default();
        let extents: Vec<_> = self
            .parts
            .iter()
            .filter(|p| p.node.is_some())
            .map(|p| json!({ "filename": p.filename, "virtual-size": p.range.end - p.range.start }))
            .collect();
        Details {
            cluster_size: first.cluster_size,
            compressed: first.compressed,
            compressed_only: first.compressed_only,
            specific: vec![
                ("cid", json!(self.descriptor.cid)),
                ("parent-cid", json!(self.descriptor.parent_cid)),
                ("create-type", json!(self.descriptor.create_type)),
                ("extents", json!(extents)),
            ],
            ..Details::default()
        }
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut pieces = self.pieces(offset, data.len() as u64);
        match (pieces.next(), pieces.next()) {
            (Some((Part { node: Some(node), .. }, within, _)), None) => node.write_compressed(within, data),
            _ => Err(BlockError::Unsupported("compressed data across extents")),
        }
    }

    fn close(&self) -> Result<(), BlockError> {
        self.parts.iter().filter_map(|p| p.node.as_ref()).try_for_each(|n| n.close())
    }
}
