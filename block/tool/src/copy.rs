//! Copying disks: several threads that read, look for zeroes, perhaps compress, and write.
//!
//! A chunk is written when all before it are, so that the target is laid out in order, unless the caller does not
//! mind. The first error stops all threads.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use block::{BlockError, BlockNode};
use block_formats::{Image, is_zero};

use crate::progress::Progress;
use block_formats::chain;

/// Bytes of a chunk if clusters are smaller: what fits into a CPU's cache.
const CHUNK: u64 = 256 << 10;

/// A disk, or several one after the other.
pub(crate) struct Source {
    parts: Vec<(u64, Arc<dyn Image>)>,
    /// Read instead of the first part's disk: a snapshot of it.
    view: Option<Arc<dyn BlockNode>>,
    pub(crate) size: u64,
    /// Bytes at the start that are left out.
    skip: u64,
    /// Images of each chain that count; what they do not have is left out of the copy.
    deepest: u32,
    /// Ranges that cannot be read count as zero.
    salvage: bool,
}

/// What a part of the source is.
struct Piece {
    start: u64,
    end: u64,
    kind: PieceKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PieceKind {
    Data,
    Zero,
    /// In none of the images that count.
    Below,
}

impl Source {
    pub(crate) fn new(images: Vec<Arc<dyn Image>>, deepest: u32, salvage: bool) -> Self {
        let mut size = 0;
        let mut parts = Vec::new();
        for image in images {
            parts.push((size, image.clone()));
            size += image.size();
        }
        Source { parts, view: None, size, skip: 0, deepest, salvage }
    }

    /// A disk as it was.
    pub(crate) fn snapshot(image: Arc<dyn Image>, view: Arc<dyn BlockNode>) -> Self {
        Source {
            size: view.size(),
            parts: vec![(0, image)],
            view: Some(view),
            skip: 0,
            deepest: u32::MAX,
            salvage: false,
        }
    }

    /// Cuts a source at a size.
    pub(crate) fn limited(mut self, size: u64) -> Self {
        self.size = self.size.min(size);
        self
    }

    /// Leaves out the start of a source of one disk.
    pub(crate) fn from(mut self, start: u64) -> Self {
        self.skip = start.min(self.size);
        self.size -= self.skip;
        self
    }

    fn pieces(&self, start: u64, end: u64) -> Result<Vec<Piece>, BlockError> {
        let mut all = self.pieces_at(start + self.skip, end + self.skip)?;
        for p in &mut all {
            (p.start, p.end) = (p.start - self.skip, p.end - self.skip);
        }
        Ok(all)
    }

    fn pieces_at(&self, start: u64, end: u64) -> Result<Vec<Piece>, BlockError> {
        let mut out: Vec<Piece> = Vec::new();
        let mut push = |start: u64, end: u64, kind: PieceKind| match out.last_mut() {
            Some(last) if last.kind == kind && last.end == start => last.end = end,
            _ => out.push(Piece { start, end, kind }),
        };
        if let Some(view) = &self.view {
            for e in view.status(start..end)? {
                // What lies below is read through the view.
                push(e.range.start, e.range.end, if e.zero { PieceKind::Zero } else { PieceKind::Data });
            }
            return Ok(out);
        }
        for (base, image) in &self.parts {
            let (from, to) = (start.max(*base), end.min(base + image.size()));
            if from >= to {
                continue;
            }
            for link in chain::status(image, from - base..to - base, self.deepest)? {
                // A hole of an image opened without its backing file looks like zero, which it is not.
                let kind = match &link.extent {
                    e if !e.allocated && self.deepest != u32::MAX => PieceKind::Below,
                    e if e.allocated && !e.zero => PieceKind::Data,
                    _ => PieceKind::Zero,
                };
                push(link.extent.range.start + base, link.extent.range.end + base, kind);
            }
        }
        Ok(out)
    }

    fn read(&self, offset: u64, mut buf: &mut [u8]) -> Result<(), BlockError> {
        let mut offset = offset + self.skip;
        if let Some(view) = &self.view {
            return view.read(offset, &mut [IoSliceMut::new(buf)]);
        }
        for (base, image) in &self.parts {
            let end = base + image.size();
            if offset >= *base && offset < end && !buf.is_empty() {
                let n = (end - offset).min(buf.len() as u64) as usize;
                let (part, rest) = buf.split_at_mut(n);
                match image.read(offset - base, &mut [IoSliceMut::new(part)]) {
                    Err(_) if self.salvage => {
                        for (i, sector) in part.chunks_mut(512).enumerate() {
                            let at = offset - base + i as u64 * 512;
                            if image.read(at, &mut [IoSliceMut::new(sector)]).is_err() {
                                sector.fill(0);
                            }
                        }
                    }
                    other => other?,
                }
                offset += n as u64;
                buf = rest;
            }
        }
        Ok(())
    }
}

/// How to copy.
pub(crate) struct Copy<'a> {
    pub(crate) source: &'a Source,
    pub(crate) target: &'a dyn Image,
    /// Where the source's start goes.
    pub(crate) at: u64,
    pub(crate) threads: usize,
    pub(crate) compress: bool,
    /// Chunks may be written in any order.
    pub(crate) unordered: bool,
    /// The target reads as zero where nothing was written.
    pub(crate) target_is_zero: bool,
    /// Zeroes of at least so many bytes in a row are not stored; 0 stores all data.
    pub(crate) sparse: u64,
    pub(crate) progress: &'a Progress,
}

struct Shared {
    next: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<BlockError>>,
    turn: Mutex<u64>,
    turned: Condvar,
}

impl Copy<'_> {
    /// Copies everything.
    pub(crate) fn run(&self) -> Result<(), BlockError> {
        let cluster = self.target.details().cluster_size.unwrap_or(0);
        let chunk = CHUNK.max(cluster);
        let chunks = self.source.size.div_ceil(chunk);
        let shared = Shared {
            next: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            turn: Mutex::new(0),
            turned: Condvar::new(),
        };
        let threads = self.threads.clamp(1, chunks.clamp(1, 64) as usize);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| self.work(&shared, chunk, cluster));
            }
            self.work(&shared, chunk, cluster);
        });
        match shared.error.into_inner() {
            Ok(Some(e)) => Err(e),
            _ => Ok(()),
        }
    }

    fn work(&self, shared: &Shared, chunk: u64, cluster: u64) {
        let mut buffer = Vec::new();
        loop {
            let index = shared.next.fetch_add(1, Ordering::Relaxed);
            let start = index.saturating_mul(chunk);
            if start >= self.source.size || shared.failed.load(Ordering::Relaxed) {
                break;
            }
            let end = (start + chunk).min(self.source.size);
            let done = self.chunk(shared, index, start, end, cluster, &mut buffer);
            self.pass_on(shared, index);
            self.progress.add(end - start);
            if let Err(e) = done {
                shared.failed.store(true, Ordering::Relaxed);
                if let Ok(mut first) = shared.error.lock() {
                    first.get_or_insert(e);
                }
                break;
            }
        }
    }

    /// Waits for one's turn to write.
    fn wait(&self, shared: &Shared, index: u64) {
        if self.unordered {
            return;
        }
        let Ok(mut turn) = shared.turn.lock() else { return };
        while *turn != index && !shared.failed.load(Ordering::Relaxed) {
            let Ok(next) = shared.turned.wait_timeout(turn, std::time::Duration::from_millis(200)) else {
                return;
            };
            turn = next.0;
        }
    }

    fn pass_on(&self, shared: &Shared, index: u64) {
        if !self.unordered {
            self.wait(shared, index);
            if let Ok(mut turn) = shared.turn.lock() {
                *turn = index + 1;
            }
            shared.turned.notify_all();
        }
    }

    fn chunk(
        &self,
        shared: &Shared,
        index: u64,
        start: u64,
        end: u64,
        cluster: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), BlockError> {
        let pieces = self.source.pieces(start, end)?;
        let any = pieces.iter().any(|p| p.kind == PieceKind::Data);
        if any {
            buffer.resize((end - start) as usize, 0);
        }
        for p in &pieces {
            let part = (p.start - start) as usize..(p.end - start) as usize;
            match p.kind {
                PieceKind::Data => self.source.read(p.start, &mut buffer[part])?,
                _ if any => buffer[part].fill(0),
                _ => {}
            }
        }
        if self.compress {
            return self.compressed(shared, index, start, &pieces, any.then_some(&buffer[..]), end, cluster);
        }
        self.wait(shared, index);
        for p in &pieces {
            match p.kind {
                PieceKind::Data => {
                    self.store(p.start, &buffer[(p.start - start) as usize..(p.end - start) as usize])?
                }
                PieceKind::Zero => self.zero(p.start, p.end)?,
                PieceKind::Below => {}
            }
        }
        Ok(())
    }

    fn zero(&self, start: u64, end: u64) -> Result<(), BlockError> {
        if self.target_is_zero || start >= end {
            return Ok(());
        }
        self.target.write_zeroes(self.at + start, end - start, true)
    }

    /// Stores data, leaving out long runs of zeroes.
    fn store(&self, start: u64, data: &[u8]) -> Result<(), BlockError> {
        let write = |from: usize, to: usize| {
            if from == to {
                return Ok(());
            }
            self.target.write(self.at + start + from as u64, &[IoSlice::new(&data[from..to])], false)
        };
        let unit = self.sparse as usize;
        if unit == 0 {
            return write(0, data.len());
        }
        let (mut from, mut at) = (0, 0);
        while at < data.len() {
            // Runs end at multiples of the unit on the disk.
            let within = ((start + at as u64) % unit as u64) as usize;
            let next = (at + unit - within).min(data.len());
            if !is_zero(&data[at..next]) {
                at = next;
                continue;
            }
            let mut to = next;
            while to < data.len() && is_zero(&data[to..data.len().min(to + unit)]) {
                to = data.len().min(to + unit);
            }
            write(from, at)?;
            self.zero(start + at as u64, start + to as u64)?;
            (from, at) = (to, to);
        }
        write(from, at)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of a loop over chunks, which has all of these at hand"
    )]
    fn compressed(
        &self,
        shared: &Shared,
        index: u64,
        start: u64,
        pieces: &[Piece],
        data: Option<&[u8]>,
        end: u64,
        cluster: u64,
    ) -> Result<(), BlockError> {
        let Some(data) = data else {
            self.wait(shared, index);
            return pieces
                .iter()
                .filter(|p| p.kind == PieceKind::Zero)
                .try_for_each(|p| self.zero(p.start, p.end));
        };
        let cluster = cluster.max(512);
        let (mut packed, mut zeroes) = (Vec::new(), Vec::new());
        let mut at = start;
        while at < end {
            let next = (at + cluster).min(end);
            let part = &data[(at - start) as usize..(next - start) as usize];
            let here = |p: &&Piece| p.start < next && at < p.end;
            let kinds = |k: PieceKind| pieces.iter().filter(here).any(|p| p.kind == k);
            if is_zero(part) && !kinds(PieceKind::Below) {
                zeroes.push((at, next));
            } else if kinds(PieceKind::Data) {
                packed.push((self.at + at, part));
            } else {
                let zero = pieces.iter().filter(here).filter(|p| p.kind == PieceKind::Zero);
                zeroes.extend(zero.map(|p| (p.start.max(at), p.end.min(next))));
            }
            at = next;
        }
        // Compressing does not wait for one's turn; storing does, so that compressed clusters lie close together.
        self.target.write_compressed_parts(&packed, &|| self.wait(shared, index))?;
        zeroes.into_iter().try_for_each(|(from, to)| self.zero(from, to))
    }
}

/// Threads to use if the user does not say.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(8))
}
