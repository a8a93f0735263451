//! Raw images: bytes of a file are the disk's, or a part of them is.
//!
//! If nobody said that the image is raw, a guest may not write what would make it another format the next time:
//! with a header of its choice it could read any file of the host.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, BlockNode, Extent, NodeInfo, SECTOR};

use crate::image::{Details, Image, Preallocation};
use crate::options::{Kind, OptionSpec, opt};
use crate::registry::{CreateContext, Measure, OpenContext, PROBE_LEN, probe_data};

/// Options of `create`.
pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("preallocation", Kind::Text, "Preallocation mode (allowed values: off, falloc, full)"),
    opt("size", Kind::Size, "Virtual disk size"),
];

/// An opened raw image.
#[derive(Debug)]
pub struct RawImage {
    filename: String,
    file: Arc<dyn BlockNode>,
    offset: u64,
    size: AtomicU64,
    fixed: bool,
    read_only: bool,
    probed: bool,
    /// Parts that are not allocated are shown as such: the file's status is a bitmap.
    holes: bool,
    /// Format it is part of, with what is to be shown of that.
    shown: (&'static str, Details),
}

impl RawImage {
    /// The part of `file` from `offset` on, `size` bytes of it or all.
    pub fn new(
        filename: &str,
        file: Arc<dyn BlockNode>,
        offset: u64,
        size: Option<u64>,
        read_only: bool,
    ) -> Result<Self, BlockError> {
        let there = file.size().checked_sub(offset);
        let bad = |what: String| BlockError::Format { path: filename.into(), what };
        let there = there
            .ok_or_else(|| bad(format!("offset {offset} is beyond the file's {} bytes", file.size())))?;
        if size.is_some_and(|s| s > there) {
            return Err(bad(format!(
                "size {} at offset {offset} is beyond the file's {} bytes",
                size.unwrap_or(0),
                file.size()
            )));
        }
        let fixed = size.is_some();
        let size = size.unwrap_or(there);
        let size = AtomicU64::new(size.checked_next_multiple_of(SECTOR).unwrap_or(size));
        Ok(RawImage {
            filename: filename.into(),
            file,
            offset,
            size,
            fixed,
            read_only,
            probed: false,
            holes: false,
            shown: ("raw", Details::default()),
        })
    }

    /// Shows it as an image of another format, whose data is raw.
    pub(crate) fn called(mut self, format: &'static str, details: Details) -> Self {
        self.shown = (format, details);
        self
    }

    /// Refuses writes that would make the image look like another format.
    fn guard(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<(), BlockError> {
        if !self.probed || offset >= PROBE_LEN as u64 {
            return Ok(());
        }
        let mut head = vec![0; PROBE_LEN];
        self.file.read(self.offset, &mut [IoSliceMut::new(&mut head)])?;
        let mut at = offset as usize;
        for buf in bufs {
            let n = buf.len().min(PROBE_LEN.saturating_sub(at));
            if n == 0 {
                break;
            }
            head[at..at + n].copy_from_slice(&buf[..n]);
            at += n;
        }
        let format = probe_data(&head, "").name;
        if format != "raw" {
            let what = format!(
                "the format was not given, so that a write which looks like {format} is refused; give format=raw"
            );
            return Err(BlockError::Format { path: self.filename.clone(), what });
        }
        Ok(())
    }
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let name = &context.name;
    let (offset, size) = (name.offset.unwrap_or(0), name.size);
    let mut image =
        RawImage::new(&context.filename, context.file.clone(), offset, size, context.options.read_only)?;
    image.holes = name.protocol.as_ref().is_some_and(|p| p.shows_bitmap());
    image.probed = context.probed && !context.options.read_only;
    Ok(Arc::new(image))
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let how = context.options.preallocation(&[Preallocation::Falloc, Preallocation::Full])?;
    let file = context.file()?;
    let size = context.size.next_multiple_of(SECTOR);
    match how {
        Preallocation::Falloc if size > 0 => file.reserve(0, size)?,
        Preallocation::Full => {
            let zeroes = vec![0; 1 << 20];
            let mut at = 0;
            while at < size {
                let n = (size - at).min(1 << 20);
                file.write(at, &[IoSlice::new(&zeroes[..n as usize])], false)?;
                at += n;
            }
        }
        _ => file.resize(size)?,
    }
    if file.size() < size {
        let what = format!("holds {} bytes, less than the {size} asked for", file.size());
        return Err(BlockError::Format { path: context.name.display().to_string(), what });
    }
    file.flush()
}

/// Tells how large an image gets.
pub(crate) fn measure(
    options: &crate::options::Options,
    size: u64,
    data: &dyn Fn(u64) -> Result<u64, BlockError>,
) -> Result<Measure, BlockError> {
    let _ = (options, data);
    let size = size.next_multiple_of(SECTOR);
    Ok(Measure { required: size, fully_allocated: size })
}

impl BlockNode for RawImage {
    fn info(&self) -> NodeInfo {
        let file = self.file.info();
        NodeInfo {
            name: format!("{}:{}", self.shown.0, self.filename),
            size: self.size(),
            read_only: self.read_only || file.read_only,
            ..file
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.file.read(self.offset + offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.guard(offset, bufs)?;
        self.file.write(self.offset + offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.file.discard(self.offset + offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.file.write_zeroes(self.offset + offset, len, unmap)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let mut extents = self.file.status(range.start + self.offset..range.end + self.offset)?;
        for e in &mut extents {
            e.range = e.range.start - self.offset..e.range.end - self.offset;
            // Nothing lies below: a hole is this disk's own.
            e.allocated |= !self.holes;
        }
        Ok(extents)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        if self.fixed {
            return Err(BlockError::Unsupported("changing a size given by option"));
        }
        self.file.resize(self.offset + size)?;
        self.size.store(size.next_multiple_of(SECTOR), Ordering::Relaxed);
        Ok(())
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        self.file.relock(locked)
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.file.clone()]
    }
}

impl Image for RawImage {
    fn format(&self) -> &'static str {
        self.shown.0
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        vec![("file".into(), self.file.clone())]
    }

    fn details(&self) -> Details {
        self.shown.1.clone()
    }

    fn resize_with(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        let old = self.size();
        self.resize(size)?;
        match how {
            _ if size <= old => Ok(()),
            Preallocation::Off => Ok(()),
            Preallocation::Metadata => Err(BlockError::Unsupported("preallocation=metadata")),
            Preallocation::Falloc => self.file.write_zeroes(self.offset + old, size - old, false),
            Preallocation::Full => {
                let zeroes = vec![0; 1 << 20];
                let mut at = old;
                while at < size {
                    let n = (size - at).min(1 << 20);
                    self.file.write(self.offset + at, &[IoSlice::new(&zeroes[..n as usize])], false)?;
                    at += n;
                }
                Ok(())
            }
        }
    }
}
