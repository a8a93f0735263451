//! The node.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, BlockNode, NodeInfo};
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde_json::{Map, Value};

use crate::connection::{Answer, Connection};
use crate::tls;
use crate::url::Url;

/// Redirections that are followed.
const MAX_REDIRECTS: usize = 8;
/// Connections that are kept.
const MAX_IDLE: usize = 8;
/// Pieces that are kept of what was read ahead.
const MAX_PIECES: usize = 8;
/// Most bytes of one request.
const MAX_REQUEST: usize = 4 << 20;

/// A file and how to get at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// The file.
    pub url: Url,
    /// Bytes that are asked for at least.
    pub readahead: usize,
    /// Seconds that an answer may take.
    pub timeout: u64,
    /// Hold the server's certificate against the list of authorities.
    pub verify: bool,
    /// A list of authorities other than the system's.
    pub authorities: Option<PathBuf>,
    /// Name and password, as `NAME:PASSWORD`.
    pub user: Option<String>,
    /// What is sent as `Cookie`.
    pub cookie: Option<String>,
}

impl HttpOptions {
    /// A file.
    pub fn new(url: Url) -> Self {
        let user = url.user.clone();
        HttpOptions {
            url,
            readahead: 256 << 10,
            timeout: 5,
            verify: true,
            authorities: None,
            user,
            cookie: None,
        }
    }

    /// From options: `url`, `readahead`, `timeout`, `sslverify`, `username`, `cookie`.
    pub fn from_options(map: &Map<String, Value>) -> Result<Self, BlockError> {
        const KEYS: [&str; 6] = ["url", "readahead", "timeout", "sslverify", "username", "cookie"];
        let bad = |what: String| BlockError::Format { path: "http".into(), what };
        if let Some(key) = map.keys().find(|k| !KEYS.contains(&k.as_str())) {
            return Err(bad(format!("unknown option '{key}'; there are: {}", KEYS.join(", "))));
        }
        let text = |key: &str| match map.get(key) {
            None => None,
            Some(Value::String(s)) => Some(s.clone()),
            Some(other) => Some(other.to_string()),
        };
        let number = |key: &str, least: u64, most: u64| match text(key) {
            None => Ok(None),
            Some(t) => match t.parse().ok().filter(|n| (least..=most).contains(n)) {
                Some(n) => Ok(Some(n)),
                None => Err(bad(format!("{key}={t}: expected {least} to {most}"))),
            },
        };
        let url = text("url").ok_or_else(|| bad("needs 'url'".into()))?;
        let mut o = Self::new(Url::parse(&url)?);
        if let Some(n) = number("readahead", 512, MAX_REQUEST as u64)? {
            if n % 512 != 0 {
                return Err(bad(format!("readahead={n}: expected a multiple of 512")));
            }
            o.readahead = n as usize;
        }
        o.timeout = number("timeout", 1, 10_000)?.unwrap_or(o.timeout);
        o.verify = match text("sslverify").as_deref() {
            None | Some("on" | "true") => true,
            Some("off" | "false") => false,
            Some(other) => return Err(bad(format!("sslverify={other}: expected on or off"))),
        };
        o.user = text("username").or(o.user);
        o.cookie = text("cookie");
        if [&o.user, &o.cookie].into_iter().flatten().any(|v| v.chars().any(char::is_control)) {
            return Err(bad("username and cookie: expected no control characters".into()));
        }
        Ok(o)
    }
}

/// A file of a web server.
pub struct HttpNode {
    options: HttpOptions,
    /// Where redirections have led.
    url: Url,
    tls: Option<Arc<ClientConfig>>,
    fields: Vec<(String, String)>,
    size: u64,
    idle: Mutex<Vec<Connection>>,
    /// What was read ahead, newest first.
    pieces: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl std::fmt::Debug for HttpNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpNode({})", self.url.shown())
    }
}

impl HttpNode {
    /// Asks for the size of the file.
    pub fn open(options: HttpOptions) -> Result<Self, BlockError> {
        let mut fields = Vec::new();
        if let Some(user) = &options.user {
            let user = if user.contains(':') { user.clone() } else { format!("{user}:") };
            fields.push(("Authorization".to_owned(), format!("Basic {}", base64(user.as_bytes()))));
        }
        if let Some(cookie) = &options.cookie {
            fields.push(("Cookie".to_owned(), cookie.clone()));
        }
        let mut node = HttpNode {
            url: options.url.clone(),
            tls: None,
            fields,
            size: 0,
            idle: Mutex::default(),
            pieces: Mutex::default(),
            options,
        };
        for _ in 0..MAX_REDIRECTS {
            if node.url.secure && node.tls.is_none() {
                node.tls = Some(tls::config(node.options.verify, node.options.authorities.as_deref())?);
            }
            let answer = node.head()?;
            if let (301 | 302 | 303 | 307 | 308, Some(to)) = (answer.status, answer.field("location")) {
                let next = node.url.follow(to)?;
                if (next.secure, &next.host) != (node.url.secure, &node.url.host) {
                    // What is told to one server is not told to another.
                    node.fields.clear();
                }
                node.url = next;
                node.idle.get_mut().clear();
                continue;
            }
            if answer.status != 200 {
                return Err(node.bad(format!("the server answers {}, expected 200", answer.status)));
            }
            if !answer.field("accept-ranges").is_some_and(|v| v.eq_ignore_ascii_case("bytes")) {
                return Err(node.bad("the server does not give parts of files (no 'Accept-Ranges: bytes')"));
            }
            node.size =
                answer.length().ok_or_else(|| node.bad("the server does not tell the file's length"))?;
            return Ok(node);
        }
        Err(node.bad(format!("more than {MAX_REDIRECTS} redirections")))
    }

    fn bad(&self, what: impl Into<String>) -> BlockError {
        BlockError::Format { path: self.url.shown(), what: what.into() }
    }

    fn connect(&self) -> io::Result<Connection> {
        let tls = self.tls.as_ref().filter(|_| self.url.secure);
        Connection::open(&self.url, tls, Duration::from_secs(self.options.timeout))
    }

    /// Does something with a connection. One that was kept may be closed by the server at any time: then with a new one.
    fn with<T>(&self, mut f: impl FnMut(&mut Connection) -> io::Result<(T, bool)>) -> Result<T, BlockError> {
        let failed = |source| BlockError::Open { path: self.url.shown(), source };
        let kept = self.idle.lock().pop();
        let mut done = None;
        if let Some(mut c) = kept
            && let Ok((value, last)) = f(&mut c)
        {
            done = Some((value, last, c));
        }
        let (value, last, c) = match done {
            Some(done) => done,
            None => {
                let mut c = self.connect().map_err(failed)?;
                let (value, last) = f(&mut c).map_err(failed)?;
                (value, last, c)
            }
        };
        if !last {
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(c);
            }
        }
        Ok(value)
    }

    fn head(&self) -> Result<Answer, BlockError> {
        self.with(|c| {
            let answer = c.request("HEAD", &self.url, &self.fields)?;
            let last = answer.last;
            Ok((answer, last))
        })
    }

    fn fetch(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let end = offset + out.len() as u64 - 1;
        let mut fields = self.fields.clone();
        fields.push(("Range".into(), format!("bytes={offset}-{end}")));
        self.with(|c| {
            let answer = c.request("GET", &self.url, &fields)?;
            let wanted = format!("bytes {offset}-{end}/");
            let range = answer.field("content-range").unwrap_or_default();
            if answer.status != 206
                || !range.starts_with(&wanted)
                || answer.length() != Some(out.len() as u64)
            {
                let text = format!(
                    "the server answers {} with range '{}', expected 206 with '{wanted}'",
                    answer.status,
                    range.chars().take(60).collect::<String>()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            c.body(out)?;
            Ok(((), answer.last))
        })
    }

    /// A piece that holds the start of a range, from what was read ahead or from the server.
    fn piece(&self, offset: u64) -> Result<(u64, Arc<Vec<u8>>), BlockError> {
        let holds = |p: &&(u64, Arc<Vec<u8>>)| p.0 <= offset && offset < p.0 + p.1.len() as u64;
        if let Some(found) = self.pieces.lock().iter().find(holds) {
            return Ok(found.clone());
        }
        let n = (self.size - offset).min(self.options.readahead as u64);
        let mut data = vec![0; n as usize];
        self.fetch(offset, &mut data)?;
        let piece = (offset, Arc::new(data));
        let mut pieces = self.pieces.lock();
        pieces.push_front(piece.clone());
        pieces.truncate(MAX_PIECES);
        Ok(piece)
    }
}

impl BlockNode for HttpNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: self.url.shown(),
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
                let n = if rest.len() >= self.options.readahead {
                    let n = rest.len().min(MAX_REQUEST);
                    self.fetch(offset, &mut rest[..n])?;
                    n
                } else {
                    let (start, data) = self.piece(offset)?;
                    let from = (offset - start) as usize;
                    let n = rest.len().min(data.len() - from);
                    rest[..n].copy_from_slice(&data[from..from + n]);
                    n
                };
                rest = &mut rest[n..];
                offset += n as u64;
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
}

fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in data.chunks(3) {
        let bits = part.iter().fold(0u32, |v, &b| v << 8 | u32::from(b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= part.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// Answers one client after another request; `twist` changes the answers.
    fn answer(client: impl Read + Write, data: &[u8], twist: &dyn Fn(&str, String) -> String) {
        let mut client = BufReader::new(client);
        loop {
            let (mut first, mut range, mut all) = (String::new(), None, String::new());
            loop {
                let mut line = String::new();
                if client.read_line(&mut line).unwrap_or(0) == 0 {
                    break;
                }
                if first.is_empty() {
                    first.clone_from(&line);
                }
                if let Some(r) = line.strip_prefix("Range: bytes=") {
                    let (a, b) = r.trim().split_once('-').unwrap();
                    range = Some((a.parse::<usize>().unwrap(), b.parse::<usize>().unwrap()));
                }
                all += &line;
                if line == "\r\n" {
                    break;
                }
            }
            if first.is_empty() {
                break;
            }
            let (status, body, more) = match range {
                Some((a, b)) => (
                    "206 Partial Content",
                    &data[a..=b],
                    format!("Content-Range: bytes {a}-{b}/{}\r\n", data.len()),
                ),
                None => ("200 OK", data, String::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\n{more}\r\n",
                body.len()
            );
            let head = twist(&all, head);
            let body = if first.starts_with("HEAD") { &[] } else { body };
            let writer = client.get_mut();
            let sent = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body));
            if sent.and_then(|()| writer.flush()).is_err() || head.contains("Connection: close") {
                break;
            }
        }
    }

    /// A server of one file; `twist` changes its answers.
    fn serve(data: Vec<u8>, twist: impl Fn(&str, String) -> String + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                answer(client.unwrap(), &data, &twist);
            }
        });
        format!("http://{at}/disk.img")
    }

    /// A certificate for `localhost` that signs itself, with its key, made by OpenSSL; none if that is not installed.
    fn certificate(dir: &std::path::Path) -> Option<(PathBuf, PathBuf)> {
        let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
            ])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([std::ffi::OsStr::new("-keyout"), key.as_ref(), "-out".as_ref(), cert.as_ref()])
            .output();
        match made {
            Ok(out) if out.status.success() => Some((cert, key)),
            other => {
                println!("SKIPPED: no certificate by openssl: {other:?}");
                None
            }
        }
    }

    /// The same server behind TLS; the port it has.
    fn serve_tls(data: Vec<u8>, (cert, key): (&PathBuf, &PathBuf)) -> u16 {
        use rustls::pki_types::pem::PemObject;
        let cert = rustls::pki_types::CertificateDer::from_pem_file(cert).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        let (config, data) = (Arc::new(config), Arc::new(data));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let tls = rustls::ServerConnection::new(config.clone()).unwrap();
                let (stream, data) = (rustls::StreamOwned::new(tls, client.unwrap()), data.clone());
                // A connection that is kept does not hold up the next.
                std::thread::spawn(move || answer(stream, &data, &|_, head| head));
            }
        });
        port
    }

    #[test]
    fn https_holds_the_server_against_authorities() {
        let dir = tempfile::tempdir().unwrap();
        let Some((cert, key)) = certificate(dir.path()) else { return };
        let port = serve_tls(data(), (&cert, &key));
        let options = |host: &str| HttpOptions {
            timeout: 5,
            authorities: Some(cert.clone()),
            ..HttpOptions::new(Url::parse(&format!("https://{host}:{port}/disk.img")).unwrap())
        };
        let node = HttpNode::open(options("localhost")).unwrap();
        assert_eq!(node.size(), 1_000_000);
        let mut out = vec![0; 300_000];
        node.read(500_001, &mut [std::io::IoSliceMut::new(&mut out)]).unwrap();
        assert_eq!(out, data()[500_001..800_001]);
        // Another name than the certificate's, and an authority that has not signed it.
        let refused = |options: HttpOptions| {
            let e = HttpNode::open(options).map(drop).unwrap_err().to_string();
            assert!(e.contains("certificate") && !e.contains('\n'), "{e}");
        };
        refused(options("127.0.0.1"));
        let other = tempfile::tempdir().unwrap();
        let Some((stranger, _)) = certificate(other.path()) else { return };
        refused(HttpOptions { authorities: Some(stranger), ..options("localhost") });
        let anybody = HttpOptions { verify: false, authorities: None, ..options("127.0.0.1") };
        assert_eq!(HttpNode::open(anybody).unwrap().size(), 1_000_000);
        // One that has no TLS at all.
        let plain = serve(data(), |_, head| head);
        let plain = plain.replace("http://127.0.0.1", "https://localhost");
        let e = HttpNode::open(HttpOptions { url: Url::parse(&plain).unwrap(), ..options("localhost") });
        assert!(e.map(drop).unwrap_err().to_string().contains("localhost"));
    }

    fn open(url: &str) -> Result<HttpNode, BlockError> {
        HttpNode::open(HttpOptions { timeout: 2, ..HttpOptions::new(Url::parse(url)?) })
    }

    fn data() -> Vec<u8> {
        (0..1_000_000u32).map(|i| (i / 7) as u8).collect()
    }

    #[test]
    fn reads_parts_through_redirections_and_lost_connections() {
        for close in ["", "Connection: close\r\n"] {
            let target = serve(data(), move |_, head| head.replace("Accept", &format!("{close}Accept")));
            let moved = serve(Vec::new(), move |_, _| {
                format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n")
            });
            let node = open(&moved).unwrap();
            assert_eq!((node.size(), node.info().read_only), (1_000_000, true));
            for (at, n) in [(0, 512), (512, 100_000), (999_000, 1000), (3, 900_000), (500_000, 1)] {
                let mut out = vec![0; n];
                node.read(at as u64, &mut [IoSliceMut::new(&mut out)]).unwrap();
                assert!(out == data()[at..at + n], "{n} at {at}");
            }
            assert!(node.write(0, &[], false).is_err());
        }
    }

    #[test]
    fn the_user_is_told_to_the_server() {
        let url = serve(data(), |request, head| {
            if request.contains("Authorization: Basic bWU6cHc=\r\n") && request.contains("Cookie: a=b\r\n") {
                head
            } else {
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".into()
            }
        });
        let map = |text: String| {
            HttpOptions::from_options(serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap())
        };
        let with = url.replace("http://", "http://me:pw@");
        HttpNode::open(map(format!(r#"{{"url":"{with}","cookie":"a=b"}}"#)).unwrap()).unwrap();
        assert!(open(&url).unwrap_err().to_string().contains("401"));
        for (text, words) in [
            (r#"{"url":"http://h/","readahead":"77"}"#, "readahead=77"),
            (r#"{"url":"http://h/","sslverify":"maybe"}"#, "sslverify=maybe"),
            (r#"{"url":"http://h/","proxy":"x"}"#, "proxy"),
            (r#"{"url":"http://h/","cookie":"a\r\nb"}"#, "control"),
            ("{}", "url"),
        ] {
            let e = map(text.into()).unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
    }

    #[test]
    fn wrong_answers_are_errors() {
        type Twist = fn(&str, String) -> String;
        let cases: [(Twist, &str); 6] = [
            (|_, _| "SSH-2.0-x\r\n\r\n".into(), "expected HTTP"),
            (|_, h| h.replace("Accept-Ranges: bytes\r\n", ""), "parts of files"),
            (|_, h| h.replace("Content-Length", "X-Length"), "length"),
            (|_, h| h.replace("200 OK", "404 Not Found"), "404"),
            (
                |_, _| "HTTP/1.1 302 Found\r\nLocation: disk.img\r\nContent-Length: 0\r\n\r\n".into(),
                "redirections",
            ),
            (|_, _| "X".repeat(100_000), "header"),
        ];
        for (twist, words) in cases {
            let e = open(&serve(data(), twist)).unwrap_err().to_string();
            assert!(e.contains(words) && !e.contains('\n'), "{e}");
        }
        let node = open(&serve(data(), |_, h| h.replace("bytes 0-", "bytes 1-"))).unwrap();
        let e = node.read(0, &mut [IoSliceMut::new(&mut [0; 512])]).unwrap_err().to_string();
        assert!(e.contains("expected 206"), "{e}");
        let e = open("http://127.0.0.1:1/x").unwrap_err().to_string();
        assert!(e.starts_with("http://127.0.0.1:1/x: "), "{e}");
    }

    #[test]
    fn noise_is_no_answer() {
        let seed = std::sync::Mutex::new(12345u64);
        let random = move |n: u64| {
            let mut seed = seed.lock().unwrap();
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            *seed % n
        };
        // Bytes of a right answer are changed, left out or doubled.
        let url = serve(data(), move |_, head| {
            let mut bytes = head.into_bytes();
            for _ in 0..=random(4) {
                let at = random(bytes.len() as u64 - 4) as usize;
                match random(3) {
                    0 => bytes[at] = random(128) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            String::from_utf8(bytes).unwrap().replace("Accept", "Connection: close\r\nAccept")
        });
        for _ in 0..60 {
            let Ok(node) =
                HttpNode::open(HttpOptions { timeout: 1, ..HttpOptions::new(Url::parse(&url).unwrap()) })
            else {
                continue;
            };
            let mut out = [0; 64];
            if node.size() == 1_000_000 && node.read(70, &mut [IoSliceMut::new(&mut out)]).is_ok() {
                assert!(out == data()[70..134]);
            }
        }
    }
}
