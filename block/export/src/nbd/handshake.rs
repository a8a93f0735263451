//! The server's side of the negotiation.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_nbd::proto::{
    BASE_ALLOCATION, MAGIC, MAX_PAYLOAD, MAX_STRING, OPTION_MAGIC, REPLY_MAGIC, export_flag, handshake_flag,
    info, option, reply,
};
use block_nbd::{Reader, Writer, start_tls};

use super::NbdServer;
use crate::Export;

/// Most bytes of an option: a name and some queries.
const MAX_OPTION: u32 = 64 << 10;
/// Most bytes of an option that is read only to be refused.
const MAX_SKIPPED: u32 = 1 << 20;
/// Most options of one client: nobody needs as many.
const MAX_OPTIONS: usize = 1000;
/// Most queries for contexts in one option.
const MAX_QUERIES: u32 = 256;
/// The namespace of QEMU's contexts.
const QEMU: &str = "qemu:";
const DEPTH: &str = "qemu:allocation-depth";
const BITMAP: &str = "qemu:dirty-bitmap:";

/// A context of block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    Allocation,
    Depth,
    /// Number in the export's list.
    Bitmap(usize),
}

impl Context {
    /// Its number on the wire.
    pub(super) fn id(self) -> u32 {
        match self {
            Context::Allocation => 0,
            Context::Depth => 1,
            Context::Bitmap(n) => n as u32 + 2,
        }
    }
}

/// What a client has chosen.
pub(super) struct Chosen {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) export: Arc<Export>,
    pub(super) size: u64,
    pub(super) structured: bool,
    pub(super) contexts: Vec<Context>,
}

struct Negotiation<'a> {
    server: &'a NbdServer,
    reader: Reader,
    writer: Writer,
    secure: bool,
    structured: bool,
    zeroes: bool,
    /// Contexts, and the export they were asked for.
    contexts: Option<(String, Vec<Context>)>,
}

/// Negotiates; `None` if the client leaves.
pub(super) fn run(
    server: &NbdServer,
    reader: Reader,
    mut writer: Writer,
    limit: Option<Duration>,
) -> io::Result<Option<Chosen>> {
    let deadline = limit.map(|l| Instant::now() + l);
    reader.set_timeout(limit)?;
    let mut hello = MAGIC.to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
    writer.send(&[IoSlice::new(&hello)])?;
    let mut n = Negotiation {
        server,
        reader,
        writer,
        secure: false,
        structured: false,
        zeroes: true,
        contexts: None,
    };
    let flags = n.reader.be32()?;
    let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    if flags & !known != 0 {
        return Err(io::Error::other(format!("client flags {flags:#x}: expected at most {known:#x}")));
    }
    n.zeroes = flags & u32::from(handshake_flag::NO_ZEROES) == 0;
    for _ in 0..MAX_OPTIONS {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::other("the client takes too long to choose an export"));
            }
            n.reader.set_timeout(Some(left))?;
        }
        match n.option()? {
            Next::More => {}
            Next::Leave => return Ok(None),
            Next::Serve(export, size) => {
                n.reader.set_timeout(None)?;
                let contexts = n.contexts.take().filter(|(name, _)| *name == export.name);
                return Ok(Some(Chosen {
                    structured: n.structured,
                    contexts: contexts.map(|(_, c)| c).unwrap_or_default(),
                    reader: n.reader,
                    writer: n.writer,
                    export,
                    size,
                }));
            }
        }
    }
    Err(io::Error::other(format!("more than {MAX_OPTIONS} options")))
}

enum Next {
    More,
    Leave,
    Serve(Arc<Export>, u64),
}

impl Negotiation<'_> {
    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut head = REPLY_MAGIC.to_be_bytes().to_vec();
        head.extend(option.to_be_bytes());
        head.extend(kind.to_be_bytes());
        head.extend((data.len() as u32).to_be_bytes());
        self.writer.send(&[IoSlice::new(&head), IoSlice::new(data)])
    }

    fn option(&mut self) -> io::Result<Next> {
        let magic = self.reader.be64()?;
        if magic != OPTION_MAGIC {
            return Err(io::Error::other(format!(
                "an option begins with {magic:#x}, expected {OPTION_MAGIC:#x}"
            )));
        }
        let option = self.reader.be32()?;
        let len = self.reader.be32()?;
        if len > MAX_OPTION {
            if len > MAX_SKIPPED {
                return Err(io::Error::other(format!("option {option} of {len} bytes")));
            }
            self.reader.skip(len.into())?;
            self.reply(option, reply::TOO_BIG, b"")?;
            return Ok(Next::More);
        }
        let mut data = vec![0; len as usize];
        io::Read::read_exact(&mut self.reader, &mut data)?;
        if self.server.options.tls.is_some()
            && !self.secure
            && !matches!(option, option::STARTTLS | option::ABORT)
        {
            if option == option::EXPORT_NAME {
                return Err(io::Error::other("EXPORT_NAME without TLS"));
            }
            self.reply(option, reply::TLS_REQUIRED, b"this server wants TLS")?;
            return Ok(Next::More);
        }
        match option {
            option::EXPORT_NAME => return self.export_name(&data),
            option::ABORT => {
                let _ = self.reply(option, reply::ACK, b"");
                return Ok(Next::Leave);
            }
            option::LIST if !data.is_empty() => self.reply(option, reply::INVALID, b"expected no data")?,
            option::LIST => {
                for e in self.server.all() {
                    let mut entry = string(&e.name);
                    entry.extend(e.description.as_bytes());
                    self.reply(option, reply::SERVER, &entry)?;
                }
                self.reply(option, reply::ACK, b"")?;
            }
            option::STARTTLS => return self.tls(&data),
            option::INFO | option::GO => return self.info(option, &data),
            option::STRUCTURED_REPLY if !data.is_empty() => {
                self.reply(option, reply::INVALID, b"expected no data")?
            }
            option::STRUCTURED_REPLY => {
                self.structured = true;
                self.reply(option, reply::ACK, b"")?;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta(option, &data)?,
            _ => self.reply(option, reply::UNSUPPORTED, b"")?,
        }
        Ok(Next::More)
    }

    fn tls(&mut self, data: &[u8]) -> io::Result<Next> {
        let option = option::STARTTLS;
        let Some(tls) = self.server.options.tls.clone() else {
            self.reply(option, reply::POLICY, b"this server has no TLS")?;
            return Ok(Next::More);
        };
        if !data.is_empty() || self.secure {
            self.reply(option, reply::INVALID, b"expected no data, and once only")?;
            return Ok(Next::More);
        }
        self.reply(option, reply::ACK, b"")?;
        let session = tls.start().map_err(io::Error::other)?;
        start_tls(&mut self.reader, &mut self.writer, session)?;
        if let Some(authz) = &self.server.options.authz {
            let name = self.reader.peer_name();
            if !name.as_ref().is_some_and(|name| authz.allows(name)) {
                let name = name.unwrap_or_else(|| "a client without a certificate".into());
                return Err(io::Error::other(format!("{name} is not allowed to use this server")));
            }
        }
        self.secure = true;
        // What was said in the clear does not count.
        self.structured = false;
        self.contexts = None;
        Ok(Next::More)
    }

    fn flags(&self, e: &Export) -> u16 {
        let mut flags = export_flag::HAS_FLAGS | export_flag::FLUSH | export_flag::FUA | export_flag::CACHE;
        flags |=
            if e.read_only { export_flag::READ_ONLY } else { export_flag::TRIM | export_flag::WRITE_ZEROES };
        if self.structured {
            flags |= export_flag::DF;
        }
        // All clients use the same node, whose flush covers everything.
        if e.shared { flags | export_flag::MULTI_CONN } else { flags }
    }

    fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        let name = String::from_utf8_lossy(data).into_owned();
        // There is no way to say no but to leave.
        let export =
            self.server.find(&name).ok_or_else(|| io::Error::other(format!("no export '{name}'")))?;
        let size = export.node.size();
        let mut out = size.to_be_bytes().to_vec();
        out.extend(self.flags(&export).to_be_bytes());
        if self.zeroes {
            out.extend([0; 124]);
        }
        self.writer.send(&[IoSlice::new(&out)])?;
        Ok(Next::Serve(export, size))
    }

    fn info(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let mut fields = Fields(data);
        let parsed = fields.string().and_then(|name| {
            let n = fields.be16()?;
            let wanted: Option<Vec<u16>> = (0..n).map(|_| fields.be16()).collect();
            wanted.filter(|_| fields.0.is_empty()).map(|w| (name, w))
        });
        let Some((name, wanted)) = parsed else {
            self.reply(option, reply::INVALID, b"expected a name and a list of numbers")?;
            return Ok(Next::More);
        };
        let Some(export) = self.server.find(&name) else {
            self.reply(option, reply::UNKNOWN, format!("export '{name}' not present").as_bytes())?;
            return Ok(Next::More);
        };
        let size = export.node.size();
        if wanted.contains(&info::NAME) {
            let mut out = info::NAME.to_be_bytes().to_vec();
            out.extend(export.name.as_bytes());
            self.reply(option, reply::INFO, &out)?;
        }
        if wanted.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            let mut out = info::DESCRIPTION.to_be_bytes().to_vec();
            out.extend(export.description.as_bytes());
            self.reply(option, reply::INFO, &out)?;
        }
        let best = export.node.info().granularity.next_power_of_two().clamp(4096, 1 << 20);
        let mut out = info::BLOCK_SIZE.to_be_bytes().to_vec();
        [1, best, MAX_PAYLOAD].iter().for_each(|n| out.extend(n.to_be_bytes()));
        self.reply(option, reply::INFO, &out)?;
        let mut out = info::EXPORT.to_be_bytes().to_vec();
        out.extend(size.to_be_bytes());
        out.extend(self.flags(&export).to_be_bytes());
        self.reply(option, reply::INFO, &out)?;
        self.reply(option, reply::ACK, b"")?;
        Ok(if option == option::GO { Next::Serve(export, size) } else { Next::More })
    }

    fn meta(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        if !self.structured {
            return self.reply(option, reply::INVALID, b"structured replies were not negotiated");
        }
        let mut fields = Fields(data);
        let parsed = fields.string().and_then(|name| {
            let n = fields.be32().filter(|n| *n <= MAX_QUERIES)?;
            let queries: Option<Vec<String>> = (0..n).map(|_| fields.string()).collect();
            queries.filter(|_| fields.0.is_empty()).map(|q| (name, q))
        });
        let Some((name, queries)) = parsed else {
            return self.reply(option, reply::INVALID, b"expected a name and a list of queries");
        };
        let Some(export) = self.server.find(&name) else {
            return self.reply(option, reply::UNKNOWN, format!("export '{name}' not present").as_bytes());
        };
        let listing = option == option::LIST_META_CONTEXT;
        let mut all = vec![(BASE_ALLOCATION.to_owned(), Context::Allocation)];
        if export.depth {
            all.push((DEPTH.to_owned(), Context::Depth));
        }
        let bitmaps = export.bitmaps.iter().enumerate();
        all.extend(bitmaps.map(|(i, (name, _))| (format!("{BITMAP}{name}"), Context::Bitmap(i))));
        // A query that ends with a colon lists what begins with it; to choose, a name is needed.
        let wanted = |name: &str| {
            listing && queries.is_empty()
                || queries.iter().any(|q| {
                    q == name
                        || listing && [QEMU, BITMAP, "base:"].contains(&q.as_str()) && name.starts_with(q)
                })
        };
        let found: Vec<_> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
        for (name, context) in &found {
            let mut out = if listing { [0; 4] } else { context.id().to_be_bytes() }.to_vec();
            out.extend(name.as_bytes());
            self.reply(option, reply::META_CONTEXT, &out)?;
        }
        if !listing {
            self.contexts = Some((name, found.into_iter().map(|(_, c)| c).collect()));
        }
        self.reply(option, reply::ACK, b"")
    }
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u32).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

/// What is left of an option's data.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn be16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn be32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn string(&mut self) -> Option<String> {
        let len = self.be32()? as usize;
        if len > MAX_STRING || len > self.0.len() {
            return None;
        }
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}
