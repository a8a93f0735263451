//! Requests of one client. Its threads take turns to read one request each and then serve it, so that as many are under way
//! as there are threads. A thread more is started when requests wait, up to a limit.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use block::BlockError;
use block_nbd::proto::{
    EINVAL, EPERM, MAX_PAYLOAD, REQUEST, SIMPLE_REPLY, STRUCTURED_REPLY, allocation, chunk, command,
    command_flag, error_number,
};
use block_nbd::{Reader, Socket, Writer};
use parking_lot::{Condvar, Mutex};

use super::handshake::{Chosen, Context};
use crate::Export;

/// Most requests of a client under way.
const MAX_THREADS: usize = 16;
/// Most bytes of data of a client's requests under way; one request may always have what it needs.
const MAX_BYTES: usize = 64 << 20;
/// Bytes that a thread keeps for its next request.
const KEPT: usize = 1 << 20;
/// Most extents in a reply.
const MAX_EXTENTS: usize = 16 << 10;
/// Bytes that are asked about at a time.
const STATUS_STEP: u64 = 64 << 20;

struct Client {
    reader: Mutex<Reader>,
    writer: Mutex<Writer>,
    socket: Socket,
    export: Arc<Export>,
    size: u64,
    structured: bool,
    contexts: Vec<Context>,
    threads: AtomicUsize,
    waiting: AtomicUsize,
    ended: AtomicBool,
    bytes: Mutex<usize>,
    freed: Condvar,
}

struct Request {
    flags: u16,
    kind: u16,
    handle: u64,
    offset: u64,
    len: u32,
}

/// An answer that is no data.
enum Answer {
    Done,
    Error(u32, String),
}

impl From<Result<(), BlockError>> for Answer {
    fn from(result: Result<(), BlockError>) -> Self {
        match result {
            Ok(()) => Answer::Done,
            Err(e) => Answer::Error(error_number(&e), e.to_string()),
        }
    }
}

fn invalid(what: impl Into<String>) -> Answer {
    Answer::Error(EINVAL, what.into())
}

/// Serves a client to its end.
pub(super) fn run(chosen: Chosen) -> io::Result<()> {
    let socket = chosen.reader.socket()?;
    let client = Client {
        reader: Mutex::new(chosen.reader),
        writer: Mutex::new(chosen.writer),
        socket,
        export: chosen.export,
        size: chosen.size,
        structured: chosen.structured,
        contexts: chosen.contexts,
        threads: AtomicUsize::new(1),
        waiting: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
        bytes: Mutex::new(0),
        freed: Condvar::new(),
    };
    let first = Mutex::new(None);
    std::thread::scope(|scope| client.work(scope, &first));
    // What it has written is safe even if it left without a flush.
    if !client.export.read_only {
        let _ = client.export.node.flush();
    }
    first.into_inner().map_or(Ok(()), Err)
}

impl Client {
    fn work<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>, first: &'s Mutex<Option<io::Error>>) {
        let mut buffer = Vec::new();
        while !self.ended.load(Ordering::Acquire) {
            match self.one(scope, first, &mut buffer) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    if !self.ended.load(Ordering::Acquire) {
                        first.lock().get_or_insert(e);
                    }
                    break;
                }
            }
            if buffer.len() > KEPT {
                buffer = Vec::new();
            }
        }
        if !self.ended.swap(true, Ordering::AcqRel) {
            // The others wait for the reader, or for the network.
            self.socket.shutdown();
        }
    }

    /// Serves one request; false at the end.
    fn one<'s>(
        &'s self,
        scope: &'s std::thread::Scope<'s, '_>,
        first: &'s Mutex<Option<io::Error>>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let mut reader = self.reader.lock();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if self.ended.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(request) = self.header(&mut reader)? else { return Ok(false) };
        if request.kind == command::DISCONNECT {
            self.ended.store(true, Ordering::Release);
            return Ok(false);
        }
        let data = if matches!(request.kind, command::READ | command::WRITE) { request.len } else { 0 };
        if request.kind == command::WRITE && data > MAX_PAYLOAD {
            return Err(io::Error::other(format!("a write of {data} bytes: expected at most {MAX_PAYLOAD}")));
        }
        let taken = if data <= MAX_PAYLOAD { self.take(data as usize) } else { Taken(self, 0) };
        if taken.1 > buffer.len() {
            buffer.resize(taken.1, 0);
        }
        let buffer = &mut buffer[..taken.1];
        if request.kind == command::WRITE {
            reader.read_exact(buffer)?;
        }
        let more = reader.has_buffered();
        drop(reader);
        // Somebody else takes what waits.
        if more
            && self.waiting.load(Ordering::Acquire) == 0
            && self.threads.load(Ordering::Acquire) < MAX_THREADS
        {
            self.threads.fetch_add(1, Ordering::AcqRel);
            let spawned = std::thread::Builder::new()
                .name("nbd-client".into())
                .spawn_scoped(scope, || self.work(scope, first));
            if spawned.is_err() {
                self.threads.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.serve(&request, buffer)?;
        drop(taken);
        Ok(true)
    }

    fn take(&self, n: usize) -> Taken<'_> {
        let mut bytes = self.bytes.lock();
        while *bytes != 0 && *bytes + n > MAX_BYTES {
            self.freed.wait(&mut bytes);
        }
        *bytes += n;
        Taken(self, n)
    }

    /// The next request; `None` if the client has left.
    fn header(&self, reader: &mut Reader) -> io::Result<Option<Request>> {
        let magic = match reader.be32() {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        if magic != REQUEST {
            return Err(io::Error::other(format!("a request begins with {magic:#x}, expected {REQUEST:#x}")));
        }
        Ok(Some(Request {
            flags: reader.be16()?,
            kind: reader.be16()?,
            handle: reader.be64()?,
            offset: reader.be64()?,
            len: reader.be32()?,
        }))
    }

    /// Why a request cannot be served.
    fn refuse(&self, r: &Request) -> Option<Answer> {
        let allowed = match r.kind {
            command::READ if self.structured => command_flag::DF,
            command::READ | command::CACHE => 0,
            command::WRITE | command::TRIM => command_flag::FUA,
            // FUA was allowed here by clients that send it with everything.
            command::FLUSH => command_flag::FUA,
            command::WRITE_ZEROES => command_flag::FUA | command_flag::NO_HOLE,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            other => return Some(invalid(format!("command {other} is not known"))),
        };
        // A read may carry FUA, to no effect.
        if r.flags & !(allowed | command_flag::FUA) != 0 {
            return Some(invalid(format!("command {} has flags {:#x}", r.kind, r.flags)));
        }
        let writes = matches!(r.kind, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && self.export.read_only {
            return Some(Answer::Error(EPERM, "the export is read-only".into()));
        }
        if r.kind == command::FLUSH {
            return None;
        }
        if r.kind == command::READ && r.len > MAX_PAYLOAD {
            return Some(invalid(format!("a read of {} bytes: expected at most {MAX_PAYLOAD}", r.len)));
        }
        if r.offset.checked_add(r.len.into()).is_none_or(|end| end > self.size) {
            let text = format!("{} bytes at {:#x} are beyond the export's {:#x}", r.len, r.offset, self.size);
            // Writes beyond the end are out of space (doc/proto.md, "Error values").
            return Some(Answer::Error(if r.kind == command::WRITE { 28 } else { EINVAL }, text));
        }
        None
    }

    fn serve(&self, r: &Request, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(refused) = self.refuse(r) {
            return self.answer(r, refused);
        }
        let node = &self.export.node;
        let fua = r.flags & command_flag::FUA != 0;
        let len = u64::from(r.len);
        let stable = |done: Result<(), BlockError>| if fua { done.and_then(|()| node.flush()) } else { done };
        let answer = match r.kind {
            command::READ => match node.read(r.offset, &mut [IoSliceMut::new(buffer)]) {
                Ok(()) => return self.data(r, buffer),
                Err(e) => Err(e).into(),
            },
            command::WRITE => node.write(r.offset, &[IoSlice::new(buffer)], fua).into(),
            command::FLUSH => node.flush().into(),
            command::TRIM => stable(node.discard(r.offset, len)).into(),
            command::WRITE_ZEROES => {
                stable(node.write_zeroes(r.offset, len, r.flags & command_flag::NO_HOLE == 0)).into()
            }
            command::BLOCK_STATUS if r.len == 0 => invalid("block status of nothing"),
            command::BLOCK_STATUS if self.contexts.is_empty() => {
                invalid("no context of block status was chosen")
            }
            command::BLOCK_STATUS => return self.status(r),
            _ => Answer::Done,
        };
        self.answer(r, answer)
    }

    fn chunk(&self, r: &Request, flags: u16, kind: u16, len: usize) -> [u8; 20] {
        let mut head = [0; 20];
        head[..4].copy_from_slice(&STRUCTURED_REPLY.to_be_bytes());
        head[4..6].copy_from_slice(&flags.to_be_bytes());
        head[6..8].copy_from_slice(&kind.to_be_bytes());
        head[8..16].copy_from_slice(&r.handle.to_be_bytes());
        head[16..].copy_from_slice(&(len as u32).to_be_bytes());
        head
    }

    fn simple(&self, r: &Request, error: u32, data: &[u8]) -> io::Result<()> {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&SIMPLE_REPLY.to_be_bytes());
        head[4..8].copy_from_slice(&error.to_be_bytes());
        head[8..].copy_from_slice(&r.handle.to_be_bytes());
        self.writer.lock().send(&[IoSlice::new(&head), IoSlice::new(data)])
    }

    fn data(&self, r: &Request, data: &[u8]) -> io::Result<()> {
        if !self.structured {
            return self.simple(r, 0, data);
        }
        if data.is_empty() {
            let head = self.chunk(r, chunk::DONE, chunk::NONE, 0);
            return self.writer.lock().send(&[IoSlice::new(&head)]);
        }
        let head = self.chunk(r, chunk::DONE, chunk::OFFSET_DATA, data.len() + 8);
        let place = r.offset.to_be_bytes();
        self.writer.lock().send(&[IoSlice::new(&head), IoSlice::new(&place), IoSlice::new(data)])
    }

    fn answer(&self, r: &Request, answer: Answer) -> io::Result<()> {
        let Answer::Error(number, text) = answer else { return self.simple(r, 0, &[]) };
        tracing::debug!("nbd: export '{}': {text}", self.export.name);
        if !self.structured {
            return self.simple(r, number, &[]);
        }
        let mut end = text.len().min(1000);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut body = number.to_be_bytes().to_vec();
        body.extend((end as u16).to_be_bytes());
        body.extend(&text.as_bytes()[..end]);
        let head = self.chunk(r, chunk::DONE, chunk::ERROR, body.len());
        self.writer.lock().send(&[IoSlice::new(&head), IoSlice::new(&body)])
    }

    fn status(&self, r: &Request) -> io::Result<()> {
        let range = r.offset..r.offset + u64::from(r.len);
        let most = if r.flags & command_flag::REQ_ONE != 0 { 1 } else { MAX_EXTENTS };
        let mut out = Vec::new();
        for (i, context) in self.contexts.iter().enumerate() {
            let extents = match self.extents(*context, range.clone(), most) {
                Ok(extents) => extents,
                Err(e) => return self.answer(r, Err(e).into()),
            };
            let last = if i + 1 == self.contexts.len() { chunk::DONE } else { 0 };
            out.extend(self.chunk(r, last, chunk::BLOCK_STATUS, 4 + 8 * extents.len()));
            out.extend(context.id().to_be_bytes());
            for (n, flags) in extents {
                out.extend(n.to_be_bytes());
                out.extend(flags.to_be_bytes());
            }
        }
        self.writer.lock().send(&[IoSlice::new(&out)])
    }

    /// Extents of a context, from the start of the range, at most so many.
    fn extents(
        &self,
        context: Context,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u32, u32)>, BlockError> {
        let mut out: Vec<(u32, u32)> = Vec::new();
        let mut at = range.start;
        let mut push = |n: u64, flags: u32| {
            let full = out.len() == most;
            match out.last_mut() {
                Some(last) if last.1 == flags => last.0 += n as u32,
                _ if full => return false,
                _ if n != 0 => out.push((n as u32, flags)),
                _ => {}
            }
            true
        };
        while at < range.end {
            let end = (at + STATUS_STEP).min(range.end);
            let room = match context {
                Context::Bitmap(i) => {
                    let dirty = self.export.bitmaps[i].1.dirty(at..end);
                    let mut from = at;
                    let all = dirty.into_iter().all(|d| {
                        let more = push(d.start - from, 0) && push(d.end - d.start, 1);
                        from = d.end;
                        more
                    });
                    all && push(end - from, 0)
                }
                _ => (self.export.status)(at..end)?.into_iter().all(|p| {
                    let flags = match context {
                        Context::Depth => p.depth,
                        _ => {
                            let hole = if p.hole { allocation::HOLE } else { 0 };
                            hole | if p.zero { allocation::ZERO } else { 0 }
                        }
                    };
                    push(p.range.end - p.range.start, flags)
                }),
            };
            if !room {
                break;
            }
            at = end;
        }
        Ok(out)
    }
}

/// Bytes taken from a client's share.
struct Taken<'a>(&'a Client, usize);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.1 != 0 {
            *self.0.bytes.lock() -= self.1;
            self.0.freed.notify_all();
        }
    }
}
