//! One connection to a web server, used for one request at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::url::Url;

/// Most bytes of an answer's header.
const MAX_HEADER: usize = 64 << 10;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    /// What came with the last header.
    rest: Vec<u8>,
}

/// An answer's header.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    /// The connection ends with this answer.
    pub(crate) last: bool,
}

impl Answer {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Length of what follows.
    pub(crate) fn length(&self) -> Option<u64> {
        self.field("content-length").and_then(|v| v.parse().ok())
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Connection {
    /// Connects.
    pub(crate) fn open(url: &Url, tls: Option<&Arc<ClientConfig>>, timeout: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect((url.host.as_str(), url.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(config) => {
                let name = ServerName::try_from(url.host.clone())
                    .map_err(|_| wrong(format!("'{}' is no host name", url.host)))?;
                let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(session, socket))
            }
        };
        Ok(Connection { stream, rest: Vec::new() })
    }

    /// Sends a request; the header of the answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        url: &Url,
        fields: &[(String, String)],
    ) -> io::Result<Answer> {
        let mut text = format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", url.path, url.authority());
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        text +=
            "User-Agent: rhea\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: keep-alive\r\n\r\n";
        self.stream.write_all(text.as_bytes())?;
        self.stream.flush()?;
        let mut head = std::mem::take(&mut self.rest);
        loop {
            if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                self.rest = head.split_off(end + 4);
                return parse(&head[..end]);
            }
            if head.len() > MAX_HEADER {
                return Err(wrong(format!("an answer's header of more than {MAX_HEADER} bytes")));
            }
            let mut buffer = [0; 4096];
            let n = self.stream.read(&mut buffer)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            head.extend(&buffer[..n]);
        }
    }

    /// What follows the header.
    pub(crate) fn body(&mut self, out: &mut [u8]) -> io::Result<()> {
        let have = self.rest.len().min(out.len());
        out[..have].copy_from_slice(&self.rest[..have]);
        self.rest.drain(..have);
        self.stream.read_exact(&mut out[have..])
    }
}

fn parse(head: &[u8]) -> io::Result<Answer> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|l| l.get(2..5)).and_then(|s| s.parse().ok());
    let Some(status) = status else {
        let shown: String = first.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(wrong(format!("the answer begins with '{shown}', expected HTTP/1.1")));
    };
    let field =
        |l: &str| l.split_once(':').map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()));
    let mut answer = Answer { status, fields: lines.filter_map(field).collect(), last: false };
    answer.last = first.starts_with("HTTP/1.0")
        || answer.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Ok(answer)
}
