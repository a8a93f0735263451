//! VMDK (VMware, "Virtual Disk Format 5.0"): a descriptor in text, and extents: flat files, or sparse files of grains
//! with two levels of tables ([`sparse`]). The descriptor may be inside the only extent.

mod create;
mod descriptor;
mod sesparse;
mod sparse;

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::Mutex;
use serde_json::json;

use crate::image::{BackingName, CheckReport, Details, Image, Repair};
use crate::mapped::{Mapped, head};
use crate::raw::RawImage;
use crate::registry::OpenContext;
use descriptor::{Descriptor, Kind};
use sesparse::SeSparse;
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
    parent: Option<Arc<dyn Image>>,
    /// Where the descriptor is.
    text: Range<u64>,
    /// The content id tells children of this image that it has changed.
    changed: Mutex<bool>,
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
        let parent = open_parent(context, &descriptor)?;
        let image = Mapped::new(path, file.clone(), sparse, capacity, read_only);
        let image: Arc<dyn Image> = Arc::new(image.back(parent.clone()));
        let parts = vec![Part { range: 0..capacity, node: Some(image), filename: path.into() }];
        return Ok(Arc::new(Vmdk {
            filename: path.into(),
            file,
            parts,
            size: capacity,
            descriptor,
            read_only,
            parent,
            text: text.map_or(0..0, |(at, len)| at..at.saturating_add(len.min(MAX_DESCRIPTOR))),
            changed: Mutex::new(false),
        }));
    }
    if !Descriptor::looks_like(&start) {
        return bad("vmdk magic or descriptor is missing".into());
    }
    let descriptor = Descriptor::parse(&head(&*file, 0, file.size().min(MAX_DESCRIPTOR) as usize)?, path)?;
    let parent = open_parent(context, &descriptor)?;
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
                let image = Mapped::new(&name, node, sparse, capacity, read_only);
                (Some(Arc::new(image.back_at(parent.clone(), size))), name)
            }
            Kind::VmfsSparse => {
                let (node, name) = context.open_beside(&e.name)?;
                let (sparse, capacity) = Sparse::open_cowd(&*node, &name)?;
                if capacity < len {
                    return bad(format!("vmdk extent '{}' holds {capacity} bytes, expected {len}", e.name));
                }
                let image = Mapped::new(&name, node, sparse, capacity, read_only);
                (Some(Arc::new(image.back_at(parent.clone(), size))), name)
            }
            Kind::SeSparse => {
                if !read_only {
                    return bad(format!("vmdk extent '{}': SESPARSE can be read only", e.name));
                }
                let (node, name) = context.open_beside(&e.name)?;
                let (sparse, capacity) = SeSparse::open(&*node, &name)?;
                if capacity < len {
                    return bad(format!("vmdk extent '{}' holds {capacity} bytes, expected {len}", e.name));
                }
                let image = Mapped::new(&name, node, sparse, capacity, true);
                (Some(Arc::new(image.back_at(parent.clone(), size))), name)
            }
        };
        parts.push(Part { range: size..size + len, node, filename });
        size += len;
    }
    let text = 0..file.size().min(MAX_DESCRIPTOR);
    let changed = Mutex::new(false);
    Ok(Arc::new(Vmdk {
        filename: path.into(),
        file,
        parts,
        size,
        descriptor,
        read_only,
        parent,
        text,
        changed,
    }))
}

/// Opens the image this one was made over, which must not have changed since.
fn open_parent(context: &OpenContext<'_>, d: &Descriptor) -> Result<Option<Arc<dyn Image>>, BlockError> {
    if d.parent_cid == u32::MAX || context.options.no_backing {
        return Ok(None);
    }
    let bad = |what: String| BlockError::Format { path: context.filename.clone(), what };
    let name = parent_name(d).ok_or_else(|| bad("vmdk parentCID without a parentFileNameHint".into()))?;
    let parent = context.open_backing(&name)?;
    match cid(&*parent) {
        Some(found) if found == d.parent_cid => Ok(Some(parent)),
        found => Err(bad(format!(
            "vmdk parentCID {:08x}: {} has {}; it was changed after this image was made over it",
            d.parent_cid,
            name.file,
            found.map_or("none".into(), |c| format!("{c:08x}"))
        ))),
    }
}

fn parent_name(d: &Descriptor) -> Option<BackingName> {
    let file = d.parent.clone()?;
    (d.parent_cid != u32::MAX).then_some(BackingName { file, format: Some("vmdk".into()) })
}

/// The content id of an image, if it is a VMDK.
fn cid(image: &dyn Image) -> Option<u32> {
    let details = image.details();
    let value = details.specific.iter().find(|(name, _)| *name == "cid" && image.format() == "vmdk");
    value.and_then(|(_, v)| v.as_u64()?.try_into().ok())
}

impl Vmdk {
    /// Gives the image another content id before its first change, so that children notice.
    fn change(&self) -> Result<(), BlockError> {
        let mut changed = self.changed.lock();
        if *changed || self.text.is_empty() {
            return Ok(());
        }
        let text = head(&*self.file, self.text.start, (self.text.end - self.text.start) as usize)?;
        let lines = text.split_inclusive(|b| *b == b'\n');
        let mut at = self.text.start;
        for line in lines {
            if line.len() >= 12 && line.starts_with(b"CID=") && line[4..12].iter().all(u8::is_ascii_hexdigit)
            {
                // Never the value that stands for no parent.
                let id = uuid::Uuid::new_v4().as_fields().0 & 0x7fff_ffff;
                self.file.write(at + 4, &[IoSlice::new(format!("{id:08x}").as_bytes())], false)?;
                break;
            }
            at += line.len() as u64;
        }
        *changed = true;
        Ok(())
    }

    /// What `info` shows of an extent.
    fn extent(&self, part: &Part) -> serde_json::Value {
        let size = part.range.end - part.range.start;
        let own = part.filename != self.filename;
        let cluster = part.node.as_ref().and_then(|n| n.details().cluster_size);
        let mut shown = json!({ "filename": part.filename, "virtual-size": size });
        if let Some(cluster) = cluster {
            shown["cluster-size"] = json!(cluster);
        }
        shown["format"] = json!(match (own, cluster) {
            // The descriptor is within it.
            (false, _) => "",
            (true, Some(_)) => "SPARSE",
            (true, None) => "FLAT",
        });
        shown
    }

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
        self.change()?;
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
        self.change()?;
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
        let mut all = vec![self.file.clone()];
        all.extend(self.parent.clone().map(|p| p as Arc<dyn BlockNode>));
        all
    }
}

impl Image for Vmdk {
    fn format(&self) -> &'static str {
        "vmdk"
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn backing(&self) -> Option<Arc<dyn Image>> {
        self.parent.clone()
    }

    fn backing_name(&self) -> Option<BackingName> {
        parent_name(&self.descriptor)
    }

    fn data_filename(&self) -> &str {
        self.parts.first().map_or(&self.filename, |p| &p.filename)
    }

    fn details(&self) -> Details {
        let first = self.parts.iter().find_map(|p| p.node.as_ref()).map(|n| n.details()).unwrap_or_default();
        let extents: Vec<_> =
            self.parts.iter().filter(|p| p.node.is_some()).map(|p| self.extent(p)).collect();
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

    fn check(&self, repair: Repair) -> Result<CheckReport, BlockError> {
        if repair != Repair::No {
            return Err(BlockError::Unsupported("repairing"));
        }
        let mut all = CheckReport::default();
        for part in &self.parts {
            // A flat extent has nothing to be damaged.
            let Some(Ok(report)) = part.node.as_ref().map(|n| n.check(repair)) else { continue };
            all.corruptions += report.corruptions;
            all.messages.extend(report.messages.into_iter().map(|m| format!("{}: {m}", part.filename)));
        }
        Ok(all)
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        let own = self.parts.iter().filter(|p| p.filename != self.filename);
        let nodes = own.filter_map(|p| p.node.as_ref()?.files().into_iter().next());
        let extents = nodes.enumerate().map(|(i, (_, node))| (format!("extents.{i}"), node));
        extents.chain([("file".to_owned(), self.file.clone())]).collect()
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
