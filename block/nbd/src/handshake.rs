//! The client's side of the negotiation: fixed newstyle with TLS, structured replies and contexts, and what older servers
//! leave of that.

use std::io::IoSlice;
use std::time::Duration;

use block::BlockError;

use crate::address::{NbdOptions, TlsRole};
use crate::proto::{
    BASE_ALLOCATION, MAGIC, MAX_PAYLOAD, MAX_STRING, OLD_MAGIC, OPTION_MAGIC, REPLY_MAGIC, export_flag,
    handshake_flag, info, option, reply,
};
use crate::socket::Socket;
use crate::stream::{Reader, Writer, channel, start_tls};

/// Most bytes of a reply to an option: a name and a description.
const MAX_REPLY: u32 = 4 * MAX_STRING as u32;
/// Most replies to one option: a server that never ends must not fill memory.
const MAX_REPLIES: usize = 4096;
/// How long a server may think about an option.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server says about an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// Name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// [`export_flag`]s.
    pub flags: u16,
    /// Least, best and most bytes of a request, if it says.
    pub block_size: Option<[u32; 3]>,
    /// Contexts of block status.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & export_flag::HAS_FLAGS != 0 && self.flags & flag != 0
    }

    /// Least bytes of a request.
    pub(crate) fn min_block(&self) -> u32 {
        self.block_size.map_or(1, |b| b[0])
    }

    /// Most bytes of a request.
    pub(crate) fn max_block(&self) -> u32 {
        self.block_size.map_or(MAX_PAYLOAD, |b| b[2].min(MAX_PAYLOAD))
    }
}

/// A connection with an export chosen.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) info: ExportInfo,
    pub(crate) structured: bool,
    /// Number of the context asked for.
    pub(crate) context: Option<u32>,
}

/// A negotiation under way.
struct Negotiation {
    name: String,
    reader: Reader,
    writer: Writer,
    /// Options are answered.
    fixed: bool,
    zeroes: bool,
    /// An oldstyle server has told its only export already.
    old: Option<ExportInfo>,
}

/// The answer to an option.
enum Answer {
    Done(Vec<(u32, Vec<u8>)>),
    Refused(u32, String),
}

impl Negotiation {
    fn bad(&self, what: impl Into<String>) -> BlockError {
        BlockError::Format { path: self.name.clone(), what: what.into() }
    }

    fn start(options: &NbdOptions) -> Result<Self, BlockError> {
        let name = options.uri();
        let failed = |source| BlockError::Open { path: name.clone(), source };
        let socket = Socket::connect(&options.address).map_err(failed)?;
        Self::over(socket, name)
    }

    fn over(socket: Socket, name: String) -> Result<Self, BlockError> {
        let failed = |source| BlockError::Open { path: name.clone(), source };
        let (reader, writer) = channel(socket).map_err(failed)?;
        reader.set_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut n = Negotiation { name: name.clone(), reader, writer, fixed: false, zeroes: true, old: None };
        n.greet().map_err(|e| n.explained(e))?;
        Ok(n)
    }

    /// A bare error of the host with the export's name.
    fn explained(&self, e: BlockError) -> BlockError {
        match e {
            BlockError::Io(source) => BlockError::Open { path: self.name.clone(), source },
            other => other,
        }
    }

    fn greet(&mut self) -> Result<(), BlockError> {
        let magic = self.reader.be64()?;
        if magic != MAGIC {
            return Err(self.bad(format!(
                "the other end is no NBD server: it begins with {magic:#x}, expected {MAGIC:#x}"
            )));
        }
        match self.reader.be64()? {
            OPTION_MAGIC => {}
            OLD_MAGIC => {
                let size = self.reader.be64()?;
                let flags = self.reader.be32()? as u16;
                self.reader.skip(124)?;
                self.old = Some(ExportInfo { size, flags, ..ExportInfo::default() });
                return Ok(());
            }
            other => {
                return Err(
                    self.bad(format!("the server's second word is {other:#x}, expected {OPTION_MAGIC:#x}"))
                );
            }
        }
        let flags = self.reader.be16()?;
        self.fixed = flags & handshake_flag::FIXED_NEWSTYLE != 0;
        self.zeroes = flags & handshake_flag::NO_ZEROES == 0;
        let ours = u32::from(flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES));
        Ok(self.writer.send(&[IoSlice::new(&ours.to_be_bytes())])?)
    }

    fn send(&mut self, option: u32, data: &[u8]) -> Result<(), BlockError> {
        let mut head = OPTION_MAGIC.to_be_bytes().to_vec();
        head.extend(option.to_be_bytes());
        head.extend((data.len() as u32).to_be_bytes());
        Ok(self.writer.send(&[IoSlice::new(&head), IoSlice::new(data)])?)
    }

    /// Sends an option; all replies up to the acknowledgement.
    fn ask(&mut self, option: u32, data: &[u8]) -> Result<Answer, BlockError> {
        self.send(option, data)?;
        let mut replies = Vec::new();
        loop {
            let magic = self.reader.be64()?;
            let of = self.reader.be32()?;
            let kind = self.reader.be32()?;
            let len = self.reader.be32()?;
            if magic != REPLY_MAGIC || of != option {
                return Err(self
                    .bad(format!("a reply with magic {magic:#x} to option {of}, expected one to {option}")));
            }
            if len > MAX_REPLY {
                return Err(self.bad(format!(
                    "a reply of {len} bytes to option {option}: expected at most {MAX_REPLY}"
                )));
            }
            let mut data = vec![0; len as usize];
            std::io::Read::read_exact(&mut self.reader, &mut data)?;
            if kind & reply::ERROR != 0 {
                return Ok(Answer::Refused(kind, String::from_utf8_lossy(&data).replace(['\n', '\r'], " ")));
            }
            if kind == reply::ACK {
                return Ok(Answer::Done(replies));
            }
            if replies.len() == MAX_REPLIES {
                return Err(self.bad(format!("more than {MAX_REPLIES} replies to option {option}")));
            }
            replies.push((kind, data));
        }
    }

    fn refused(&self, what: &str, kind: u32, text: &str) -> BlockError {
        let why = match kind {
            reply::UNSUPPORTED => "the server does not know this option",
            reply::POLICY => "the server does not allow it",
            reply::INVALID => "the server calls the request invalid",
            reply::TLS_REQUIRED => "the server wants TLS (tls-creds)",
            reply::UNKNOWN => "there is no such export",
            reply::SHUTDOWN => "the server is ending",
            reply::BLOCK_SIZE_REQUIRED => "the server wants its block sizes to be asked for",
            reply::TOO_BIG => "the request is too long",
            _ => "the server refuses",
        };
        let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
        self.bad(format!("{what}: {why}{text}"))
    }

    fn tls(&mut self, options: &NbdOptions) -> Result<(), BlockError> {
        let creds = match &options.tls {
            TlsRole::Off => return Ok(()),
            TlsRole::Named(id) => {
                return Err(self.bad(format!("tls-creds={id}: there is no such object here")));
            }
            TlsRole::Ready(creds) => creds.clone(),
        };
        if !self.fixed {
            return Err(self.bad("the server is too old for TLS"));
        }
        if let Answer::Refused(kind, text) = self.ask(option::STARTTLS, &[])? {
            return Err(self.refused("TLS", kind, &text));
        }
        let host = match (&options.tls_hostname, &options.address) {
            (Some(name), _) => name.as_str(),
            (None, crate::Address::Inet { host, .. }) => host,
            (None, crate::Address::Unix(_)) => "localhost",
        };
        let session = creds.start(host).map_err(|e| self.bad(e))?;
        start_tls(&mut self.reader, &mut self.writer, session)?;
        Ok(())
    }

    /// Asks for one context.
    fn context(&mut self, export: &str, wanted: &str) -> Result<Option<u32>, BlockError> {
        let mut data = string(export);
        data.extend(1u32.to_be_bytes());
        data.extend(string(wanted));
        let Answer::Done(replies) = self.ask(option::SET_META_CONTEXT, &data)? else { return Ok(None) };
        let found =
            replies.iter().find(|(k, d)| *k == reply::META_CONTEXT && d.get(4..) == Some(wanted.as_bytes()));
        Ok(found.map(|(_, d)| number(d, 0)))
    }

    /// `INFO` or `GO`; `None` if the server does not know it.
    fn info(&mut self, option: u32, export: &str) -> Result<Option<ExportInfo>, BlockError> {
        let mut data = string(export);
        data.extend(1u16.to_be_bytes());
        data.extend(info::BLOCK_SIZE.to_be_bytes());
        let replies = match self.ask(option, &data)? {
            Answer::Done(replies) => replies,
            Answer::Refused(reply::UNSUPPORTED, _) => return Ok(None),
            Answer::Refused(kind, text) => {
                return Err(self.refused(&format!("export '{export}'"), kind, &text));
            }
        };
        let mut out = ExportInfo { name: export.into(), ..ExportInfo::default() };
        let mut told = false;
        for (_, d) in replies.iter().filter(|(k, d)| *k == reply::INFO && d.len() >= 2) {
            match (u16::from_be_bytes([d[0], d[1]]), d.len()) {
                (info::EXPORT, 12) => {
                    out.size = u64::from(number(d, 2)) << 32 | u64::from(number(d, 6));
                    out.flags = u16::from_be_bytes([d[10], d[11]]);
                    told = true;
                }
                (info::NAME, _) => out.name = String::from_utf8_lossy(&d[2..]).into_owned(),
                (info::DESCRIPTION, _) => out.description = String::from_utf8_lossy(&d[2..]).into_owned(),
                (info::BLOCK_SIZE, 14) => out.block_size = Some([number(d, 2), number(d, 6), number(d, 10)]),
                _ => {}
            }
        }
        if !told {
            return Err(self.bad("the server does not tell the size of the export"));
        }
        self.checked(&out)?;
        Ok(Some(out))
    }

    fn checked(&self, e: &ExportInfo) -> Result<(), BlockError> {
        if e.size > i64::MAX as u64 {
            return Err(self.bad(format!("an export of {} bytes: expected at most {}", e.size, i64::MAX)));
        }
        if let Some([min, preferred, max]) = e.block_size {
            let right =
                min.is_power_of_two() && min <= 64 << 10 && preferred.is_power_of_two() && preferred >= min;
            if !right || max < min || !max.is_multiple_of(min) && max != u32::MAX {
                return Err(self.bad(format!(
                    "block sizes {min}, {preferred} and {max}: expected powers of two up to 64k, and a multiple of them"
                )));
            }
        }
        Ok(())
    }

    fn finish(mut self, options: &NbdOptions) -> Result<Connected, BlockError> {
        let (mut structured, mut context) = (false, None);
        let found = if let Some(old) = self.old.take() {
            if !options.export.is_empty() {
                return Err(self.bad("an oldstyle server has no named exports"));
            }
            if !matches!(options.tls, TlsRole::Off) {
                return Err(self.bad("the server is too old for TLS"));
            }
            Some(old)
        } else if self.fixed {
            self.tls(options)?;
            structured = matches!(self.ask(option::STRUCTURED_REPLY, &[])?, Answer::Done(_));
            if structured {
                let wanted = options.bitmap.as_deref().unwrap_or(BASE_ALLOCATION);
                context = self.context(&options.export, wanted)?;
            }
            self.info(option::GO, &options.export)?
        } else {
            self.tls(options)?;
            None
        };
        if let (Some(bitmap), None) = (&options.bitmap, context) {
            return Err(self.bad(format!("x-dirty-bitmap={bitmap}: the export has no such context")));
        }
        let info = match found {
            Some(info) => info,
            None => {
                self.send(option::EXPORT_NAME, options.export.as_bytes())?;
                let size = self.reader.be64().map_err(|_| {
                    self.bad(format!("export '{}': the server has none of this name", options.export))
                })?;
                let flags = self.reader.be16()?;
                if self.zeroes {
                    self.reader.skip(124)?;
                }
                ExportInfo { name: options.export.clone(), size, flags, ..ExportInfo::default() }
            }
        };
        self.checked(&info)?;
        self.reader.set_timeout(None)?;
        Ok(Connected { reader: self.reader, writer: self.writer, info, structured, context })
    }
}

fn number(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).map_or(0, |d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]))
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u32).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

/// Connects and chooses the export.
pub(crate) fn connect(options: &NbdOptions) -> Result<Connected, BlockError> {
    let n = Negotiation::start(options)?;
    let name = n.name.clone();
    n.finish(options).map_err(|e| match e {
        BlockError::Io(source) => BlockError::Open { path: name, source },
        other => other,
    })
}

/// Chooses an export over a connected socket for somebody else who goes on from there, with simple replies only (the kernel).
pub fn hand_over(socket: Socket, export: &str) -> Result<(Socket, ExportInfo), BlockError> {
    let mut n = Negotiation::over(socket, format!("export '{export}'"))?;
    let info = n.info(option::GO, export)?.ok_or_else(|| n.bad("the server is too old"))?;
    n.reader.set_timeout(None)?;
    Ok((n.reader.socket()?, info))
}

/// All exports of a server, each with all that it tells.
pub fn list(options: &NbdOptions) -> Result<Vec<ExportInfo>, BlockError> {
    let mut n = Negotiation::start(options)?;
    let done = list_all(&mut n, options);
    done.map_err(|e| n.explained(e))
}

fn list_all(n: &mut Negotiation, options: &NbdOptions) -> Result<Vec<ExportInfo>, BlockError> {
    if let Some(old) = n.old.take() {
        return Ok(vec![old]);
    }
    if !n.fixed {
        return Err(n.bad("the server is too old to list its exports"));
    }
    n.tls(options)?;
    let structured = matches!(n.ask(option::STRUCTURED_REPLY, &[])?, Answer::Done(_));
    let replies = match n.ask(option::LIST, &[])? {
        Answer::Done(replies) => replies,
        Answer::Refused(kind, text) => return Err(n.refused("the list of exports", kind, &text)),
    };
    let mut all = Vec::new();
    for (_, d) in replies.iter().filter(|(k, d)| *k == reply::SERVER && d.len() >= 4) {
        let len = (number(d, 0) as usize).min(d.len() - 4);
        let name = String::from_utf8_lossy(&d[4..4 + len]).into_owned();
        let mut e = n.info(option::INFO, &name)?.unwrap_or_default();
        if e.description.is_empty() {
            e.description = String::from_utf8_lossy(&d[4 + len..]).into_owned();
        }
        e.name = name;
        if structured {
            let mut query = string(&e.name);
            query.extend(0u32.to_be_bytes());
            if let Answer::Done(found) = n.ask(option::LIST_META_CONTEXT, &query)? {
                let text = |d: &Vec<u8>| String::from_utf8_lossy(d.get(4..).unwrap_or_default()).into_owned();
                e.contexts =
                    found.iter().filter(|(k, _)| *k == reply::META_CONTEXT).map(|(_, d)| text(d)).collect();
            }
        }
        all.push(e);
    }
    let _ = n.send(option::ABORT, &[]);
    Ok(all)
}
