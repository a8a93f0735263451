//! The ways a machine travels: `tcp:HOST:PORT`, `unix:PATH`, `fd:N`, `exec:COMMAND`, `file:PATH[,offset=N]`.
//!
//! A [`Link`] carries the machine one way; over sockets the other end answers, over pipes, commands and files nobody does.

#[cfg(not(unix))]
mod other;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
use other as host;
#[cfg(unix)]
use unix as host;

use crate::value::parse_size;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use thiserror::Error;

/// Forms of a URI, for messages.
const FORMS: &str = "tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND or file:PATH[,offset=N]";
/// What the receiver says when it has taken over.
const YES: &str = "RHEA-TAKEN";
/// What it says before its reason when it has not.
const NO: &str = "RHEA-REFUSED ";
/// Longest answer in bytes.
const MAX_ANSWER: u64 = 4096;

/// A URI that does not work.
#[derive(Debug, Error)]
pub enum TransportError {
    /// It is of no known form.
    #[error("unknown migration protocol: {0}; expected {FORMS}")]
    Form(String),
    /// The host refused.
    #[error("{uri}: {source}")]
    Host {
        /// The URI.
        uri: String,
        /// Why.
        source: io::Error,
    },
    /// The command failed.
    #[error("{uri}: the command ended with {status}")]
    Command {
        /// The URI.
        uri: String,
        /// How it ended.
        status: String,
    },
    /// The other end has not taken over.
    #[error("{0}")]
    Refused(String),
}

/// A URI, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// TCP.
    Tcp {
        /// Host, empty for any or this one.
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket in the file system.
    Unix(String),
    /// A descriptor that the process was started with.
    Fd(u32),
    /// A command's input or output.
    Exec(String),
    /// A file from some offset on.
    File {
        /// Its path.
        path: String,
        /// Bytes to skip.
        offset: u64,
    },
}

impl Uri {
    /// Reads a URI.
    pub fn parse(text: &str) -> Result<Self, TransportError> {
        let form = || TransportError::Form(text.escape_debug().to_string());
        let (scheme, rest) = text.split_once(':').filter(|(_, rest)| !rest.is_empty()).ok_or_else(form)?;
        Ok(match scheme {
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(form)?;
                let host = match host.strip_prefix('[') {
                    Some(v6) => v6.strip_suffix(']').ok_or_else(form)?,
                    None => host,
                };
                Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| form())? }
            }
            "unix" => Self::Unix(rest.to_owned()),
            "fd" => Self::Fd(rest.parse().map_err(|_| form())?),
            "exec" => Self::Exec(rest.to_owned()),
            "file" => match rest.rsplit_once(",offset=") {
                None => Self::File { path: rest.to_owned(), offset: 0 },
                Some((path, n)) => {
                    Self::File { path: path.to_owned(), offset: parse_size(n, 1).ok_or_else(form)? }
                }
            },
            _ => return Err(form()),
        })
    }
}

impl Uri {
    /// The same place, and what keeps it there: whoever named a descriptor may close it before the machine travels.
    pub fn hold(self) -> io::Result<(Self, Option<File>)> {
        match self {
            Self::Fd(fd) => host::hold(fd).map(|(fd, file)| (Self::Fd(fd), Some(file))),
            other => Ok((other, None)),
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::File { path, offset: 0 } => write!(f, "file:{path}"),
            Self::File { path, offset } => write!(f, "file:{path},offset={offset}"),
        }
    }
}

/// Ends a link from any thread.
pub type Close = Arc<dyn Fn() + Send + Sync>;

/// What remains to be done once all bytes are through.
type Finish = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// An open way.
pub struct Link {
    uri: String,
    /// Bytes that come.
    pub input: Box<dyn Read + Send>,
    output: Option<Box<dyn Write + Send>>,
    answers: bool,
    close: Close,
    finish: Option<Finish>,
}

impl Link {
    fn both_ways<S>(uri: &Uri, input: S, output: S, close: Close) -> Self
    where
        S: Read + Write + Send + 'static,
    {
        Self {
            uri: uri.to_string(),
            input: Box::new(input),
            output: Some(Box::new(output)),
            answers: true,
            close,
            finish: None,
        }
    }

    fn tcp(uri: &Uri, stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (a, b) = (stream.try_clone()?, stream.try_clone()?);
        Ok(Self::both_ways(uri, a, b, Arc::new(move || drop(stream.shutdown(Shutdown::Both)))))
    }

    fn file(uri: &Uri, file: File) -> io::Result<Self> {
        Ok(Self {
            uri: uri.to_string(),
            input: Box::new(file.try_clone()?),
            output: Some(Box::new(file)),
            answers: false,
            close: Arc::new(|| {}),
            finish: None,
        })
    }

    /// Something that ends it from another thread; it may not help where nobody can be interrupted.
    pub fn closer(&self) -> Close {
        self.close.clone()
    }

    /// Where bytes go.
    pub fn output(&mut self) -> &mut (dyn Write + Send) {
        // It is there until `sent`, which takes the link.
        self.output.get_or_insert_with(|| Box::new(io::sink())).as_mut()
    }

    /// All has been sent: waits for the other end to take over.
    pub fn sent(mut self) -> Result<(), TransportError> {
        if !self.answers {
            self.output = None;
            let Some(finish) = self.finish.take() else { return Ok(()) };
            return finish().map_err(|status| TransportError::Command { uri: self.uri.clone(), status });
        }
        self.answer().unwrap_or_else(|| {
            Err(TransportError::Refused(format!("{}: the other end has gone without an answer", self.uri)))
        })
    }

    /// Why the other end has stopped taking bytes, if it says.
    pub fn complaint(mut self) -> Option<TransportError> {
        if self.answers { self.answer()?.err() } else { None }
    }

    fn answer(&mut self) -> Option<Result<(), TransportError>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while (line.len() as u64) < MAX_ANSWER
            && matches!(self.input.read(&mut byte), Ok(1))
            && byte[0] != b'\n'
        {
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.strip_prefix(NO) {
            Some(reason) => {
                let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
                Some(Err(TransportError::Refused(format!("the other end has refused: {reason}"))))
            }
            None => (line == YES).then_some(Ok(())),
        }
    }

    /// Tells the other end that this one has taken over, or why not. Fails if it cannot be told.
    pub fn received(mut self, result: Result<(), &str>) -> Result<(), TransportError> {
        if !self.answers {
            return match self.finish.take() {
                Some(finish) if result.is_ok() => {
                    // A command that still writes must not hold the machine up.
                    self.input = Box::new(io::empty());
                    finish().map_err(|status| TransportError::Command { uri: self.uri.clone(), status })
                }
                _ => Ok(()),
            };
        }
        let line = match result {
            Ok(()) => format!("{YES}\n"),
            Err(reason) => format!("{NO}{}\n", reason.replace('\n', " ")),
        };
        let uri = self.uri.clone();
        let out = self.output();
        let told = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        told.map_err(|source| TransportError::Host { uri, source })
    }
}

/// Opens a way out.
pub fn dial(uri: &Uri) -> Result<Link, TransportError> {
    let open = || match uri {
        Uri::Tcp { host, port } => {
            let host = if host.is_empty() { "localhost" } else { host };
            Link::tcp(uri, TcpStream::connect((host, *port))?)
        }
        Uri::File { path, offset } => {
            let mut file = File::options().create(true).write(true).truncate(*offset == 0).open(path)?;
            file.seek(SeekFrom::Start(*offset))?;
            Link::file(uri, file)
        }
        other => host::dial(other),
    };
    open().map_err(|source| TransportError::Host { uri: uri.to_string(), source })
}

/// A way in that waits for its other end.
pub struct Listener {
    uri: Uri,
    kind: Kind,
}

enum Kind {
    Tcp(TcpListener),
    Ready(Box<Link>),
    #[cfg(unix)]
    Unix(unix::Listener),
}

/// Opens a way in; whoever comes is taken by [`Listener::accept`].
pub fn listen(uri: &Uri) -> Result<Listener, TransportError> {
    let open = || {
        Ok(match uri {
            Uri::Tcp { host, port } => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                Kind::Tcp(TcpListener::bind((host, *port))?)
            }
            Uri::File { path, offset } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*offset))?;
                Kind::Ready(Box::new(Link::file(uri, file)?))
            }
            other => host::listen(other)?,
        })
    };
    match open() {
        Ok(kind) => Ok(Listener { uri: uri.clone(), kind }),
        Err(source) => Err(TransportError::Host { uri: uri.to_string(), source }),
    }
}

impl Listener {
    /// Waits for the other end.
    pub fn accept(self) -> Result<Link, TransportError> {
        let uri = self.uri;
        let link = match self.kind {
            Kind::Ready(link) => return Ok(*link),
            Kind::Tcp(listener) => listener.accept().and_then(|(s, _)| Link::tcp(&uri, s)),
            #[cfg(unix)]
            Kind::Unix(listener) => listener.accept(&uri),
        };
        link.map_err(|source| TransportError::Host { uri: uri.to_string(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for text in [
            "tcp:h:1",
            "tcp::4444",
            "tcp:[::1]:4",
            "unix:/a b",
            "fd:3",
            "exec:cat > x",
            "file:/a",
            "file:/a,offset=16",
        ] {
            assert_eq!(Uri::parse(text).unwrap().to_string(), text);
        }
        for text in
            ["", "tcp", "tcp:", "tcp:x", "tcp:h:99999", "fd:x", "rdma:h:1", "file:/a,offset=x", "defer"]
        {
            let e = Uri::parse(text).unwrap_err().to_string();
            assert!(e.contains("expected tcp:HOST:PORT") && !e.contains('\n'), "{e}");
        }
    }

    /// Sends over `uri` and lets the receiver answer.
    fn pass(uri: &str, answer: Result<(), &'static str>) -> Result<(), TransportError> {
        let uri = Uri::parse(uri).unwrap();
        let listener = listen(&uri).unwrap();
        let there = std::thread::spawn(move || {
            let mut link = listener.accept().unwrap();
            let mut got = [0; 5];
            link.input.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"hello");
            link.received(answer).unwrap();
        });
        let mut link = dial(&uri).unwrap();
        link.output().write_all(b"hello").unwrap();
        let end = link.sent();
        there.join().unwrap();
        end
    }

    #[cfg(unix)]
    #[test]
    fn answers_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let uri = format!("unix:{}", dir.path().join("s").display());
        pass(&uri, Ok(())).unwrap();
        let e = pass(&uri, Err("no\nroom")).unwrap_err().to_string();
        assert_eq!(e, "the other end has refused: no room");
        assert!(!dir.path().join("s").exists(), "the socket is gone");
    }

    #[cfg(unix)]
    #[test]
    fn commands_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f").display().to_string();
        let out = |uri: &str| {
            let mut link = dial(&Uri::parse(uri).unwrap()).unwrap();
            let _ = link.output().write_all(b"hello");
            link.sent()
        };
        let back = |uri: &str| {
            let mut link = listen(&Uri::parse(uri).unwrap()).unwrap().accept().unwrap();
            let mut got = Vec::new();
            link.input.read_to_end(&mut got).unwrap();
            link.received(Ok(())).unwrap();
            String::from_utf8(got).unwrap()
        };
        out(&format!("exec:cat > {path}")).unwrap();
        assert_eq!(back(&format!("exec:cat {path}")), "hello");
        out(&format!("file:{path},offset=3")).unwrap();
        assert_eq!(back(&format!("file:{path}")), "helhello");
        out(&format!("file:{path}")).unwrap();
        assert_eq!(back(&format!("file:{path},offset=1")), "ello");
        let e = out("exec:cat >/dev/null; exit 3").unwrap_err().to_string();
        assert!(e.contains("exit status: 3"), "{e}");
        assert!(listen(&Uri::parse("file:/nonexistent/x").unwrap()).is_err());
    }
}
