//! The client as a node. Any number of threads send requests over one connection and share the reading of its replies:
//! whoever waits and finds nobody reading reads the next header; the thread whose request it answers then reads what follows
//! straight into its own buffers. No thread of its own is needed, and no data is copied.
//!
//! A connection that breaks is made anew by the next request; requests wait for that for `reconnect-delay` seconds.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::address::NbdOptions;
use crate::handshake::{Connected, ExportInfo, connect};
use crate::proto::{
    REQUEST, REQUEST_LEN, SIMPLE_REPLY, STRUCTURED_REPLY, allocation, chunk, command, command_flag, error_of,
    export_flag,
};
use crate::stream::{Reader, Writer};

/// Pause between tries to connect again.
const RETRY: Duration = Duration::from_millis(500);
/// Most bytes of a request that carries no data.
const MAX_PLAIN: u64 = 1 << 30;
/// Most extents of a block status reply that are looked at.
const MAX_EXTENTS: u32 = 1 << 20;
/// Most bytes of an error's text.
const MAX_TEXT: u32 = 4096;

/// The header of a reply or of a chunk.
#[derive(Clone, Copy, Debug)]
struct Header {
    handle: u64,
    /// A simple reply's error; a chunk's is in its data.
    error: u32,
    /// Flags, type and length of a chunk; `None` is a simple reply.
    chunk: Option<(u16, u16, u32)>,
}

struct Replies {
    /// Taken by whoever reads.
    reader: Option<Box<Reader>>,
    /// A header that was read, for a request that another thread waits for.
    pending: Option<Header>,
    /// Who waits.
    waiting: BTreeMap<u64, Arc<Condvar>>,
    broken: Option<String>,
}

struct Connection {
    writer: Mutex<Writer>,
    replies: Mutex<Replies>,
    next: AtomicU64,
    socket: crate::Socket,
    structured: bool,
    context: Option<u32>,
}

/// Why a request did not come to an answer, or what the answer was.
enum Failure {
    /// The connection is gone, for this reason.
    Lost(String),
    /// The server said so.
    Told(BlockError),
}

/// Where what a reply brings goes.
enum Sink<'a, 'b> {
    Nothing,
    Data { offset: u64, len: u64, bufs: &'a mut [IoSliceMut<'b>], got: u64 },
    Extents { len: u64, list: Vec<(u32, u32)> },
}

impl Connection {
    fn new(c: Connected) -> Result<Self, BlockError> {
        let socket = c.reader.socket()?;
        Ok(Connection {
            writer: Mutex::new(c.writer),
            replies: Mutex::new(Replies {
                reader: Some(Box::new(c.reader)),
                pending: None,
                waiting: BTreeMap::new(),
                broken: None,
            }),
            next: AtomicU64::new(1),
            socket,
            structured: c.structured,
            context: c.context,
        })
    }

    fn fail(&self, why: String) {
        let mut replies = self.replies.lock();
        replies.broken.get_or_insert(why);
        for who in replies.waiting.values() {
            who.notify_all();
        }
        drop(replies);
        self.socket.shutdown();
    }

    fn is_broken(&self) -> bool {
        self.replies.lock().broken.is_some()
    }

    /// Sends a request and waits for all of its reply.
    fn request(
        &self,
        (kind, flags): (u16, u16),
        offset: u64,
        len: u32,
        data: &[IoSlice<'_>],
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), Failure> {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let mut head = [0; REQUEST_LEN];
        head[..4].copy_from_slice(&REQUEST.to_be_bytes());
        head[4..6].copy_from_slice(&flags.to_be_bytes());
        head[6..8].copy_from_slice(&kind.to_be_bytes());
        head[8..16].copy_from_slice(&handle.to_be_bytes());
        head[16..24].copy_from_slice(&offset.to_be_bytes());
        head[24..].copy_from_slice(&len.to_be_bytes());
        let woken = Arc::new(Condvar::new());
        {
            let mut replies = self.replies.lock();
            if let Some(why) = &replies.broken {
                return Err(Failure::Lost(why.clone()));
            }
            replies.waiting.insert(handle, woken.clone());
        }
        let mut all = Vec::with_capacity(data.len() + 1);
        all.push(IoSlice::new(&head));
        all.extend(data.iter().map(|d| IoSlice::new(d)));
        let sent = self.writer.lock().send(&all);
        let result = match sent {
            Ok(()) => self.wait(handle, &woken, sink),
            Err(e) => {
                self.fail(e.to_string());
                Err(Failure::Lost(e.to_string()))
            }
        };
        let mut replies = self.replies.lock();
        replies.waiting.remove(&handle);
        // Nobody may be reading now: one of those who wait is to.
        if replies.reader.is_some()
            && replies.pending.is_none()
            && let Some((_, next)) = replies.waiting.first_key_value()
        {
            next.notify_all();
        }
        result
    }

    fn wait(&self, handle: u64, woken: &Condvar, sink: &mut Sink<'_, '_>) -> Result<(), Failure> {
        let mut told = None;
        let mut replies = self.replies.lock();
        loop {
            if let Some(why) = &replies.broken {
                return Err(Failure::Lost(why.clone()));
            }
            let mine = replies.pending.is_some_and(|h| h.handle == handle);
            let free = replies.pending.is_none() || mine;
            let Some(mut reader) = (if free { replies.reader.take() } else { None }) else {
                woken.wait(&mut replies);
                continue;
            };
            let header = replies.pending.take();
            drop(replies);
            let step = match header {
                None => read_header(&mut reader, self.structured).map(Step::Header),
                Some(h) => read_rest(&mut reader, &h, self.context, sink).map(Step::Part),
            };
            replies = self.replies.lock();
            replies.reader = Some(reader);
            match step {
                Ok(Step::Header(h)) => {
                    match replies.waiting.get(&h.handle) {
                        Some(who) if h.handle != handle => {
                            who.notify_all();
                        }
                        Some(_) => {}
                        None => {
                            drop(replies);
                            let why = format!("a reply to request {:#x}, which was not sent", h.handle);
                            self.fail(why.clone());
                            return Err(Failure::Lost(why));
                        }
                    }
                    replies.pending = Some(h);
                }
                Ok(Step::Part(Part { last, error })) => {
                    told = told.or(error);
                    if last {
                        return told.map_or(Ok(()), |e| Err(Failure::Told(e)));
                    }
                }
                Err(e) => {
                    drop(replies);
                    self.fail(e.to_string());
                    return Err(Failure::Lost(e.to_string()));
                }
            }
        }
    }
}

enum Step {
    Header(Header),
    Part(Part),
}

struct Part {
    last: bool,
    error: Option<BlockError>,
}

fn wrong(what: impl Into<String>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what.into())
}

fn read_header(reader: &mut Reader, structured: bool) -> std::io::Result<Header> {
    match reader.be32()? {
        SIMPLE_REPLY => {
            let error = reader.be32()?;
            Ok(Header { error, handle: reader.be64()?, chunk: None })
        }
        STRUCTURED_REPLY if structured => {
            let (flags, kind) = (reader.be16()?, reader.be16()?);
            let handle = reader.be64()?;
            Ok(Header { error: 0, handle, chunk: Some((flags, kind, reader.be32()?)) })
        }
        other => Err(wrong(format!("a reply begins with {other:#x}, expected {SIMPLE_REPLY:#x}"))),
    }
}

/// Reads what follows a header. Errors end the connection: after them nobody knows where the next header is.
fn read_rest(
    reader: &mut Reader,
    h: &Header,
    context: Option<u32>,
    sink: &mut Sink<'_, '_>,
) -> std::io::Result<Part> {
    let Some((flags, kind, len)) = h.chunk else {
        let error = (h.error != 0).then(|| error_of(h.error, ""));
        if error.is_none() {
            match sink {
                Sink::Data { bufs, got, len, .. } => {
                    bufs.iter_mut().try_for_each(|b| reader.read_exact(b))?;
                    *got = *len;
                }
                Sink::Extents { .. } => return Err(wrong("a simple reply to a question for block status")),
                Sink::Nothing => {}
            }
        }
        return Ok(Part { last: true, error });
    };
    let mut error = None;
    match kind {
        chunk::NONE if len == 0 => {}
        chunk::OFFSET_DATA if len > 8 => {
            let at = reader.be64()?;
            place(sink, at, u64::from(len) - 8, |part| reader.read_exact(part))?;
        }
        chunk::OFFSET_HOLE if len == 12 => {
            let at = reader.be64()?;
            let n = reader.be32()?;
            place(sink, at, n.into(), |part| {
                part.fill(0);
                Ok(())
            })?;
        }
        chunk::BLOCK_STATUS if len >= 12 && (len - 4).is_multiple_of(8) => {
            let id = reader.be32()?;
            let count = (len - 4) / 8;
            let Sink::Extents { list, len: wanted } = sink else {
                return Err(wrong("block status that was not asked for"));
            };
            if Some(id) != context || count > MAX_EXTENTS {
                return Err(wrong(format!("block status of context {id} with {count} extents")));
            }
            let mut known: u64 = 0;
            for _ in 0..count {
                let (n, f) = (reader.be32()?, reader.be32()?);
                if n == 0 {
                    return Err(wrong("an extent of no length"));
                }
                if known < *wanted {
                    list.push((n, f));
                }
                known += u64::from(n);
            }
        }
        k if k & chunk::ERROR_BIT != 0 && (6..=MAX_TEXT).contains(&len) => {
            let number = reader.be32()?;
            let n = reader.be16()?;
            if u32::from(n) > len - 6 {
                return Err(wrong(format!("an error with a text of {n} bytes in a chunk of {len}")));
            }
            let text = reader.text(n.into())?;
            reader.skip(u64::from(len) - 6 - u64::from(n))?;
            error = Some(error_of(if number == 0 { 5 } else { number }, &text.replace(['\n', '\r'], " ")));
        }
        _ => return Err(wrong(format!("a chunk of type {kind} and {len} bytes"))),
    }
    let last = flags & chunk::DONE != 0;
    if let (true, None, Sink::Data { len, got, .. }) = (last, &error, &sink)
        && got != len
    {
        return Err(wrong(format!("a read of {len} bytes was answered with {got}")));
    }
    Ok(Part { last, error })
}

/// Fills the part of the buffers that a chunk is about.
fn place(
    sink: &mut Sink<'_, '_>,
    at: u64,
    n: u64,
    mut fill: impl FnMut(&mut [u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let Sink::Data { offset, len, bufs, got } = sink else {
        return Err(wrong("data that was not asked for"));
    };
    let from = at.checked_sub(*offset).filter(|f| f.checked_add(n).is_some_and(|end| end <= *len));
    let Some(mut from) = from else {
        return Err(wrong(format!("{n} bytes at {at:#x} for a read of {len} at {offset:#x}")));
    };
    *got += n;
    let mut left = n;
    for b in bufs.iter_mut() {
        let size = b.len() as u64;
        if from < size && left > 0 {
            let take = left.min(size - from);
            fill(&mut b[from as usize..(from + take) as usize])?;
            left -= take;
            from = 0;
        } else {
            from -= size.min(from);
        }
    }
    Ok(())
}

enum Link {
    Up(Arc<Connection>),
    Down { since: Instant, last: Instant, why: String },
}

/// An export of a server.
pub struct NbdNode {
    options: NbdOptions,
    name: String,
    /// As the first connection told.
    info: ExportInfo,
    link: Mutex<Link>,
    /// Taken for writing by requests that read, change and write a block of the server's.
    whole: RwLock<()>,
}

impl std::fmt::Debug for NbdNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NbdNode({})", self.name)
    }
}

impl NbdNode {
    /// Connects.
    pub fn open(options: NbdOptions) -> Result<Self, BlockError> {
        let deadline = Instant::now() + Duration::from_secs(options.open_timeout);
        let connected = loop {
            match connect(&options) {
                Err(BlockError::Open { .. }) if Instant::now() + RETRY < deadline => {
                    std::thread::sleep(RETRY)
                }
                other => break other?,
            }
        };
        let name = options.uri();
        if !options.read_only && connected.info.has(export_flag::READ_ONLY) {
            return Err(BlockError::Format { path: name, what: "the export is read-only".into() });
        }
        let info = connected.info.clone();
        let link = Mutex::new(Link::Up(Arc::new(Connection::new(connected)?)));
        Ok(NbdNode { options, name, info, link, whole: RwLock::new(()) })
    }

    /// What the server says about the export.
    pub fn export(&self) -> &ExportInfo {
        &self.info
    }

    /// The connection, made anew if it is lost.
    fn connection(&self) -> Result<Arc<Connection>, BlockError> {
        loop {
            let mut link = self.link.lock();
            match &mut *link {
                Link::Up(c) if !c.is_broken() => return Ok(c.clone()),
                Link::Up(c) => {
                    let why = c.replies.lock().broken.clone().unwrap_or_default();
                    tracing::warn!("{}: the connection is lost: {why}", self.name);
                    let now = Instant::now();
                    *link = Link::Down { since: now, last: now.checked_sub(RETRY).unwrap_or(now), why };
                }
                Link::Down { since, last, why } => {
                    let given_up = since.elapsed() > Duration::from_secs(self.options.reconnect_delay);
                    if last.elapsed() >= RETRY {
                        *last = Instant::now();
                        match connect(&self.options).and_then(|c| self.same(c)) {
                            Ok(c) => {
                                tracing::info!("{}: connected again", self.name);
                                *link = Link::Up(c);
                                continue;
                            }
                            Err(e) => *why = e.to_string(),
                        }
                    }
                    if given_up {
                        let text = format!("{}: the connection is lost: {why}", self.name);
                        return Err(BlockError::Io(std::io::Error::new(
                            std::io::ErrorKind::NotConnected,
                            text,
                        )));
                    }
                    drop(link);
                    std::thread::sleep(RETRY / 5);
                }
            }
        }
    }

    /// A new connection has to lead to the same export.
    fn same(&self, c: Connected) -> Result<Arc<Connection>, BlockError> {
        let what = match &c.info {
            i if i.size != self.info.size => {
                format!("the export has {} bytes now, it had {}", i.size, self.info.size)
            }
            i if i.has(export_flag::READ_ONLY) && !self.info.has(export_flag::READ_ONLY) => {
                "the export is read-only now".into()
            }
            i if i.min_block() > self.info.min_block() => "the export's blocks are larger now".into(),
            _ => return Ok(Arc::new(Connection::new(c)?)),
        };
        Err(BlockError::Format { path: self.name.clone(), what })
    }

    fn request(
        &self,
        how: (u16, u16),
        offset: u64,
        len: u64,
        data: &[IoSlice<'_>],
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), BlockError> {
        loop {
            match self.connection()?.request(how, offset, len as u32, data, sink) {
                Ok(()) => return Ok(()),
                Err(Failure::Told(e)) => return Err(e),
                // Sent again: each request has the same effect a second time.
                Err(Failure::Lost(_)) if self.options.reconnect_delay != 0 => match sink {
                    Sink::Data { got, .. } => *got = 0,
                    Sink::Extents { list, .. } => list.clear(),
                    Sink::Nothing => {}
                },
                Err(Failure::Lost(why)) => {
                    let text = format!("{}: the connection is lost: {why}", self.name);
                    return Err(BlockError::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, text)));
                }
            }
        }
    }

    /// Splits a request that carries no data.
    fn plain(&self, how: (u16, u16), offset: u64, len: u64) -> Result<(), BlockError> {
        let most = MAX_PLAIN - MAX_PLAIN % u64::from(self.info.min_block());
        let mut at = 0;
        while at < len {
            let n = (len - at).min(most);
            self.request(how, offset + at, n, &[], &mut Sink::Nothing)?;
            at += n;
        }
        Ok(())
    }

    fn aligned(&self, offset: u64, len: u64) -> bool {
        let min = u64::from(self.info.min_block());
        offset.is_multiple_of(min) && len.is_multiple_of(min)
    }

    /// The blocks of the server's that a range lies in.
    fn blocks(&self, offset: u64, len: u64) -> (u64, u64) {
        let min = u64::from(self.info.min_block());
        let start = offset - offset % min;
        (start, (offset + len).next_multiple_of(min).min(self.info.size) - start)
    }

    fn read_aligned(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let max = u64::from(self.info.max_block());
        if len <= max {
            let mut sink = Sink::Data { offset, len, bufs, got: 0 };
            return self.request((command::READ, 0), offset, len, &[], &mut sink);
        }
        let mut at = offset;
        for b in bufs {
            for piece in b.chunks_mut(max as usize) {
                self.read_any(at, &mut [IoSliceMut::new(piece)])?;
                at += piece.len() as u64;
            }
        }
        Ok(())
    }

    fn read_any(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        if self.aligned(offset, len) {
            return self.read_aligned(offset, bufs);
        }
        let (start, n) = self.blocks(offset, len);
        let mut bounce = vec![0; n as usize];
        self.read_aligned(start, &mut [IoSliceMut::new(&mut bounce)])?;
        let mut at = (offset - start) as usize;
        for b in bufs {
            let n = b.len();
            b.copy_from_slice(&bounce[at..at + n]);
            at += b.len();
        }
        Ok(())
    }

    fn write_aligned(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let flag = if fua && self.info.has(export_flag::FUA) { command_flag::FUA } else { 0 };
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        let max = u64::from(self.info.max_block());
        if len == 0 {
            return Ok(());
        }
        if len <= max {
            return self.request((command::WRITE, flag), offset, len, bufs, &mut Sink::Nothing);
        }
        let mut at = offset;
        for piece in bufs.iter().flat_map(|b| b.chunks(max as usize)) {
            self.write_any(at, &[IoSlice::new(piece)], fua)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_any(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        if self.aligned(offset, len) {
            let _shared = (self.info.min_block() > 1).then(|| self.whole.read_recursive());
            return self.write_aligned(offset, bufs, fua);
        }
        let _alone = self.whole.write();
        let (start, n) = self.blocks(offset, len);
        let mut bounce = vec![0; n as usize];
        self.read_aligned(start, &mut [IoSliceMut::new(&mut bounce)])?;
        let mut at = (offset - start) as usize;
        for b in bufs {
            bounce[at..at + b.len()].copy_from_slice(b);
            at += b.len();
        }
        self.write_aligned(start, &[IoSlice::new(&bounce)], fua)
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.info().read_only { Err(BlockError::ReadOnly) } else { Ok(()) }
    }
}

impl BlockNode for NbdNode {
    fn info(&self) -> NodeInfo {
        let i = &self.info;
        NodeInfo {
            name: self.name.clone(),
            size: i.size,
            read_only: self.options.read_only || i.has(export_flag::READ_ONLY),
            granularity: i.block_size.map_or(512, |b| b[1].clamp(512, 1 << 20)),
            can_discard: i.has(export_flag::TRIM),
        }
    }

    fn size(&self) -> u64 {
        self.info.size
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.read_any(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.writable()?;
        self.write_any(offset, bufs, fua)?;
        if fua && !self.info.has(export_flag::FUA) { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.info.has(export_flag::FLUSH) && !self.info().read_only {
            self.request((command::FLUSH, 0), 0, 0, &[], &mut Sink::Nothing)?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        // Parts of blocks stay.
        let min = u64::from(self.info.min_block());
        let (start, end) = (offset.next_multiple_of(min), (offset + len) / min * min);
        if !self.info.has(export_flag::TRIM) || start >= end {
            return Ok(());
        }
        self.plain((command::TRIM, 0), start, end - start)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.writable()?;
        if self.info.has(export_flag::WRITE_ZEROES) && self.aligned(offset, len) {
            let flags = if unmap { 0 } else { command_flag::NO_HOLE };
            return self.plain((command::WRITE_ZEROES, flags), offset, len);
        }
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut at = 0;
        while at < len {
            let n = (len - at).min(zeroes.len() as u64) as usize;
            self.write_any(offset + at, &[IoSlice::new(&zeroes[..n])], false)?;
            at += n as u64;
        }
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let mut out = Vec::new();
        let data =
            |range: Range<u64>| Extent { offset: Some(range.start), ..Extent::new(range, true, false) };
        if self.connection()?.context.is_none() || range.is_empty() {
            out.push(data(range));
            return Ok(out);
        }
        let (first, n) = self.blocks(range.start, range.end - range.start);
        let (mut at, end) = (first, first + n);
        while at < end {
            let len = (end - at).min(MAX_PLAIN);
            let mut sink = Sink::Extents { len, list: Vec::new() };
            self.request((command::BLOCK_STATUS, 0), at, len, &[], &mut sink)?;
            let Sink::Extents { list, .. } = sink else { break };
            if list.is_empty() {
                let what = "the server answered a question for block status with nothing".into();
                return Err(BlockError::Format { path: self.name.clone(), what });
            }
            for (n, flags) in list {
                let to = (at + u64::from(n)).min(end);
                let shown = at.max(range.start)..to.min(range.end);
                let (hole, zero) = (flags & allocation::HOLE != 0, flags & allocation::ZERO != 0);
                if !shown.is_empty() {
                    Extent::push(
                        &mut out,
                        Extent { offset: Some(shown.start), ..Extent::new(shown, !hole, zero) },
                    );
                }
                at = to;
            }
        }
        Ok(out)
    }
}

impl Drop for NbdNode {
    fn drop(&mut self) {
        let Link::Up(c) = &*self.link.lock() else { return };
        let mut head = [0; REQUEST_LEN];
        head[..4].copy_from_slice(&REQUEST.to_be_bytes());
        head[6..8].copy_from_slice(&command::DISCONNECT.to_be_bytes());
        let mut writer = c.writer.lock();
        if writer.send(&[IoSlice::new(&head)]).is_ok() {
            writer.close();
        }
    }
}
