//! Read-only images that are a list of chunks, each stored as it is, as zeroes or compressed.
//!
//! A format brings the list; finding, reading, decompressing and keeping a few chunks is the same for all. A chunk
//! that decompresses to more or less than its length is an error, and never takes memory beyond that length.

use std::collections::VecDeque;
use std::fmt;
use std::io::{IoSlice, IoSliceMut, Read};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::Mutex;

use crate::image::{Details, Image};
use crate::registry::OpenContext;

/// Most bytes of a chunk, as it is and compressed.
pub(crate) const MAX_CHUNK: u64 = 64 << 20;
/// Bytes of decompressed chunks that are kept.
const KEPT: usize = 16 << 20;
/// Most memory an xz stream may ask for, in KiB.
const XZ_MEMORY: u32 = 128 << 10;

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Zero,
    Plain,
    Zlib,
    Bzip2,
    Lzfse,
    Xz,
}

/// A part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Bytes of the disk.
    pub(crate) range: Range<u64>,
    pub(crate) codec: Codec,
    /// Where it is in the file.
    pub(crate) offset: u64,
    /// Bytes of the file.
    pub(crate) stored: u64,
}

/// Chunks that were decompressed last, the latest first.
type Kept = VecDeque<(usize, Arc<Vec<u8>>)>;

/// An image of chunks.
pub(crate) struct Chunked {
    format: &'static str,
    filename: String,
    file: Arc<dyn BlockNode>,
    size: u64,
    /// In order, without overlaps; what none covers is zero.
    chunks: Vec<Chunk>,
    kept: Mutex<Kept>,
}

impl fmt::Debug for Chunked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.format, self.filename)
    }
}

/// Refuses to open for writing what can be read only.
pub(crate) fn read_only(context: &OpenContext<'_>, format: &str) -> Result<(), BlockError> {
    if context.options.read_only {
        return Ok(());
    }
    let what = format!("format {format} can be read only; open it for reading only");
    Err(BlockError::Format { path: context.filename.clone(), what })
}

impl Chunked {
    /// An image of chunks in any order.
    pub(crate) fn new(
        context: &OpenContext<'_>,
        format: &'static str,
        size: u64,
        mut chunks: Vec<Chunk>,
    ) -> Result<Self, BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: context.filename.clone(), what });
        chunks.sort_by_key(|c| c.range.start);
        for c in &chunks {
            let packed = ![Codec::Zero, Codec::Plain].contains(&c.codec);
            let len = c.range.end.saturating_sub(c.range.start);
            if c.range.end > size || len == 0 {
                return bad(format!(
                    "{format} chunk at {:#x} is not within the disk's {size:#x} bytes",
                    c.range.start
                ));
            }
            if packed && (len > MAX_CHUNK || c.stored > MAX_CHUNK) {
                return bad(format!(
                    "{format} chunk at {:#x} of {len} bytes, expected at most {MAX_CHUNK}",
                    c.range.start
                ));
            }
            if c.codec != Codec::Zero
                && c.offset.checked_add(c.stored).is_none_or(|e| e > context.file.size())
            {
                return bad(format!(
                    "{format} chunk at {:#x}: its {} bytes at {:#x} go beyond the end of the file",
                    c.range.start, c.stored, c.offset
                ));
            }
            if c.codec == Codec::Plain && c.stored < len {
                return bad(format!(
                    "{format} chunk at {:#x}: {} bytes, expected {len}",
                    c.range.start, c.stored
                ));
            }
        }
        if let Some(pair) = chunks.windows(2).find(|p| p[0].range.end > p[1].range.start) {
            return bad(format!("{format} chunks overlap at {:#x}", pair[1].range.start));
        }
        Ok(Chunked {
            format,
            filename: context.filename.clone(),
            file: context.file.clone(),
            size,
            chunks,
            kept: Mutex::default(),
        })
    }

    /// The chunk from `offset` on, or where the next one starts.
    fn find(&self, offset: u64) -> Result<usize, u64> {
        let after = self.chunks.partition_point(|c| c.range.start <= offset);
        match after.checked_sub(1).filter(|i| self.chunks[*i].range.contains(&offset)) {
            Some(i) => Ok(i),
            None => Err(self.chunks.get(after).map_or(self.size, |c| c.range.start)),
        }
    }

    /// A chunk, decompressed.
    fn unpacked(&self, index: usize) -> Result<Arc<Vec<u8>>, BlockError> {
        {
            let mut kept = self.kept.lock();
            if let Some(at) = kept.iter().position(|(i, _)| *i == index)
                && let Some(found) = kept.remove(at)
            {
                let data = found.1.clone();
                kept.push_front(found);
                return Ok(data);
            }
        }
        let chunk = &self.chunks[index];
        let mut packed = vec![0; chunk.stored as usize];
        self.file.read(chunk.offset, &mut [IoSliceMut::new(&mut packed)])?;
        let len = (chunk.range.end - chunk.range.start) as usize;
        let data = unpack(chunk.codec, &packed, len).map_err(|what| BlockError::Format {
            path: self.filename.clone(),
            what: format!("{} chunk at {:#x}: {what}", self.format, chunk.range.start),
        })?;
        let data = Arc::new(data);
        let mut kept = self.kept.lock();
        kept.push_front((index, data.clone()));
        let mut total = 0;
        let keep = kept.iter().take_while(|(_, d)| {
            total += d.len();
            total <= KEPT
        });
        let keep = keep.count().max(1);
        kept.truncate(keep);
        Ok(data)
    }
}

/// Decompresses to exactly `len` bytes.
fn unpack(codec: Codec, packed: &[u8], len: usize) -> Result<Vec<u8>, String> {
    fn exactly(mut from: impl Read, len: usize) -> Result<Vec<u8>, String> {
        let mut out = vec![0; len];
        from.read_exact(&mut out).map_err(|e| format!("does not decompress to {len} bytes: {e}"))?;
        Ok(out)
    }
    match codec {
        Codec::Zero => Ok(vec![0; len]),
        Codec::Plain => packed.get(..len).map(<[u8]>::to_vec).ok_or_else(|| "is cut off".into()),
        Codec::Zlib => exactly(flate2::read::ZlibDecoder::new(packed), len),
        Codec::Bzip2 => exactly(bzip2::read::BzDecoder::new(packed), len),
        Codec::Lzfse => {
            let mut decoder = lzfse_rust::LzfseRingDecoder::default();
            exactly(decoder.reader(packed), len)
        }
        Codec::Xz => exactly(lzma_rust2::XzReader::new_mem_limit(packed, false, XZ_MEMORY), len),
    }
}

impl BlockNode for Chunked {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("{}:{}", self.format, self.filename),
            size: self.size,
            read_only: true,
            granularity: 4096,
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
                let found = self.find(offset);
                let end = match found {
                    Ok(i) => self.chunks[i].range.end,
                    Err(next) => next,
                };
                let n = rest.len().min((end - offset) as usize);
                let (part, later) = rest.split_at_mut(n);
                match found.map(|i| (i, &self.chunks[i])) {
                    Ok((_, c)) if c.codec == Codec::Plain => {
                        let at = c.offset + offset - c.range.start;
                        self.file.read(at, &mut [IoSliceMut::new(part)])?;
                    }
                    Ok((i, c)) if c.codec != Codec::Zero => {
                        let within = (offset - c.range.start) as usize;
                        part.copy_from_slice(&self.unpacked(i)?[within..within + n]);
                    }
                    _ => part.fill(0),
                }
                offset += n as u64;
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
            let extent = match self.find(at) {
                Err(next) => Extent::new(at..next.min(range.end), true, true),
                Ok(i) => {
                    let c = &self.chunks[i];
                    let part = at..c.range.end.min(range.end);
                    match c.codec {
                        Codec::Zero => Extent::new(part, true, true),
                        Codec::Plain => {
                            let offset = Some(c.offset + at - c.range.start);
                            Extent { offset, ..Extent::new(part, true, false) }
                        }
                        _ => Extent { compressed: true, ..Extent::new(part, true, false) },
                    }
                }
            };
            at = extent.range.end;
            Extent::push(&mut out, extent);
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

impl Image for Chunked {
    fn format(&self) -> &'static str {
        self.format
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        vec![("file".into(), self.file.clone())]
    }

    fn details(&self) -> Details {
        Details::default()
    }
}
