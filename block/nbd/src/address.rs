//! Where an export is: URIs (the NBD project's `doc/uri.md`), QEMU's older `nbd:` names, and options.

use std::fmt;
use std::path::PathBuf;

use block::BlockError;
use serde_json::{Map, Value};

use crate::proto::{MAX_STRING, PORT};
use crate::socket::SocketPath;
use crate::tls::TlsClient;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Inet {
        /// Name or number of the host.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix(SocketPath),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Inet { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a client is to do about TLS.
#[derive(Clone, Debug, Default)]
pub enum TlsRole {
    /// Nothing.
    #[default]
    Off,
    /// Credentials of this id, which whoever opens the node knows.
    Named(String),
    /// These credentials.
    Ready(TlsClient),
}

/// What a client connects to, and how.
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// The server.
    pub address: Address,
    /// The export; empty is the server's default.
    pub export: String,
    /// TLS.
    pub tls: TlsRole,
    /// The name that the server's certificate has to have, if it is not the host's.
    pub tls_hostname: Option<String>,
    /// A context of block status to show instead of `base:allocation`.
    pub bitmap: Option<String>,
    /// Seconds for which requests wait for a lost connection to come back.
    pub reconnect_delay: u64,
    /// Seconds for which the first connection is tried.
    pub open_timeout: u64,
    /// Never write.
    pub read_only: bool,
}

/// What `nbd` takes as options, besides `server.*`.
const KEYS: &[&str] = &[
    "export",
    "tls-creds",
    "tls-hostname",
    "reconnect-delay",
    "open-timeout",
    "x-dirty-bitmap",
    "host",
    "port",
    "path",
    "server",
];

fn bad(name: &str, what: impl Into<String>) -> BlockError {
    BlockError::Format { path: name.chars().take(200).collect(), what: what.into() }
}

impl NbdOptions {
    /// An export of a server, without anything else.
    pub fn new(address: Address, export: impl Into<String>) -> Self {
        NbdOptions {
            address,
            export: export.into(),
            tls: TlsRole::Off,
            tls_hostname: None,
            bitmap: None,
            reconnect_delay: 0,
            open_timeout: 0,
            read_only: false,
        }
    }

    /// Whether a file name is one of ours.
    pub fn is_name(name: &str) -> bool {
        ["nbd:", "nbds:", "nbd+tcp:", "nbds+tcp:", "nbd+unix:", "nbds+unix:"]
            .iter()
            .any(|p| name.starts_with(p))
    }

    /// From a file name: a URI, or `nbd:HOST:PORT[:exportname=NAME]`, or `nbd:unix:PATH[:exportname=NAME]`.
    pub fn parse(name: &str) -> Result<Self, BlockError> {
        match name.strip_prefix("nbd:").filter(|rest| !rest.starts_with("//")) {
            Some(rest) => Self::parse_old(name, rest),
            None => Self::parse_uri(name),
        }
    }

    fn parse_old(name: &str, rest: &str) -> Result<Self, BlockError> {
        let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        let address = match place.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Address::Unix(path.into()),
            Some(_) => return Err(bad(name, "expected nbd:unix:PATH")),
            None => inet(name, place)?,
        };
        Self::new(address, export).checked(name)
    }

    fn parse_uri(name: &str) -> Result<Self, BlockError> {
        let Some((scheme, rest)) = name.split_once("://") else {
            return Err(bad(name, "expected nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH"));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (server, export) = place.split_once('/').unwrap_or((place, ""));
        let mut socket = None;
        let mut tls_hostname = None;
        for (key, value) in
            query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
        {
            match key {
                "socket" => socket = Some(decode(name, value)?),
                "tls-hostname" => tls_hostname = Some(decode(name, value)?),
                _ => {
                    return Err(bad(
                        name,
                        format!("unknown parameter '{key}'; there are: socket, tls-hostname"),
                    ));
                }
            }
        }
        let unix = scheme.ends_with("+unix");
        let address = match (unix, socket) {
            (true, Some(path)) if server.is_empty() => Address::Unix(PathBuf::from(path)),
            (true, _) => return Err(bad(name, "expected nbd+unix:///[EXPORT]?socket=PATH")),
            (false, None) => inet(name, server.rsplit_once('@').map_or(server, |(_, s)| s))?,
            (false, Some(_)) => return Err(bad(name, "socket= goes with nbd+unix only")),
        };
        let mut options = Self::new(address, decode(name, export)?);
        options.tls_hostname = tls_hostname;
        if scheme.starts_with("nbds") {
            return Err(bad(
                name,
                "TLS needs credentials, which a URI does not name: give tls-creds=ID as an option",
            ));
        }
        options.checked(name)
    }

    /// From options: `server.type=inet,server.host=...` with `export`, `tls-creds` and the others, or the short `host`,
    /// `port` and `path`.
    pub fn from_options(map: &Map<String, Value>) -> Result<Self, BlockError> {
        let text = |map: &Map<String, Value>, key: &str| match map.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(Value::Number(n)) => Ok(Some(n.to_string())),
            Some(other) => Err(bad("nbd", format!("{key}={other}: expected text"))),
        };
        if let Some(key) = map.keys().find(|k| !KEYS.contains(&k.as_str())) {
            return Err(bad("nbd", format!("unknown option '{key}'; there are: {}", KEYS.join(", "))));
        }
        let empty = Map::new();
        let (server, kind) = match map.get("server") {
            None => (map, if map.contains_key("path") { "unix" } else { "inet" }.to_owned()),
            Some(Value::Object(server)) => (server, text(server, "type")?.unwrap_or_default()),
            Some(_) => (&empty, String::new()),
        };
        let need = |key: &str| {
            text(server, key)?.ok_or_else(|| bad("nbd", format!("'{key}' of the server is missing")))
        };
        let address = match kind.as_str() {
            "inet" => {
                let port = match (text(server, "port")?, map.contains_key("server")) {
                    (Some(port), _) => port,
                    (None, false) => PORT.to_string(),
                    (None, true) => return Err(bad("nbd", "'port' of the server is missing")),
                };
                Address::Inet { host: need("host")?, port: port_number("nbd", &port)? }
            }
            "unix" => Address::Unix(need("path")?.into()),
            other => return Err(bad("nbd", format!("server.type={other}: expected inet or unix"))),
        };
        let seconds = |key: &str| match text(map, key)? {
            None => Ok(0),
            Some(n) => n.parse().map_err(|_| bad("nbd", format!("{key}={n}: expected seconds"))),
        };
        let mut options = Self::new(address, text(map, "export")?.unwrap_or_default());
        options.tls = text(map, "tls-creds")?.map_or(TlsRole::Off, TlsRole::Named);
        options.tls_hostname = text(map, "tls-hostname")?;
        options.bitmap = text(map, "x-dirty-bitmap")?;
        options.reconnect_delay = seconds("reconnect-delay")?;
        options.open_timeout = seconds("open-timeout")?;
        options.checked("nbd")
    }

    fn checked(self, name: &str) -> Result<Self, BlockError> {
        match self.export.len() {
            0..=MAX_STRING => Ok(self),
            n => Err(bad(name, format!("an export name of {n} bytes: expected at most {MAX_STRING}"))),
        }
    }

    /// The name as people see it.
    pub fn uri(&self) -> String {
        let s = if matches!(self.tls, TlsRole::Off) { "" } else { "s" };
        let export = encode(&self.export);
        match &self.address {
            Address::Unix(path) => format!("nbd{s}+unix:///{export}?socket={}", path.display()),
            Address::Inet { .. } if export.is_empty() => format!("nbd{s}://{}", self.address),
            Address::Inet { .. } => format!("nbd{s}://{}/{export}", self.address),
        }
    }
}

fn port_number(name: &str, port: &str) -> Result<u16, BlockError> {
    port.parse().map_err(|_| bad(name, format!("port {port}: expected a number below 65536")))
}

/// `HOST[:PORT]`, where a host with colons is in brackets; no host is this one.
fn inet(name: &str, text: &str) -> Result<Address, BlockError> {
    let (host, port) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p))),
    };
    let port = port.filter(|p| !p.is_empty()).map_or(Ok(PORT), |p| port_number(name, p))?;
    Ok(Address::Inet { host: if host.is_empty() { "localhost" } else { host }.into(), port })
}

fn decode(name: &str, text: &str) -> Result<String, BlockError> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || bytes.next().and_then(|d| (d as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(bad(name, "expected two hexadecimal digits after each %"));
        };
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).map_err(|_| bad(name, "expected UTF-8"))
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:@/".contains(&b);
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let inet = |host: &str, port| Address::Inet { host: host.into(), port };
        for (name, address, export) in [
            ("nbd://h", inet("h", PORT), ""),
            ("nbd://h:1/a%20b/c", inet("h", 1), "a b/c"),
            ("nbd://[::1]:9/x", inet("::1", 9), "x"),
            ("nbd:localhost:7", inet("localhost", 7), ""),
            ("nbd:h:7:exportname=a:b", inet("h", 7), "a:b"),
            ("nbd:unix:/s:exportname=e", Address::Unix("/s".into()), "e"),
            ("nbd+unix:///e?socket=/a/b", Address::Unix("/a/b".into()), "e"),
        ] {
            let o = NbdOptions::parse(name).unwrap();
            assert_eq!((o.address, o.export.as_str()), (address, export), "{name}");
        }
        assert_eq!(
            NbdOptions::parse("nbd:unix:/s:exportname=a b").unwrap().uri(),
            "nbd+unix:///a%20b?socket=/s"
        );
        for name in [
            "nbd://h:99999",
            "nbd+unix:///e",
            "nbd://h/%zz",
            "nbd://h?what=1",
            "nbd:unix:",
            "nbds://h",
            "nbd://h?socket=/x",
        ] {
            assert!(NbdOptions::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn options() {
        let parse = |text: &str| {
            NbdOptions::from_options(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap())
        };
        let o = parse(r#"{"server":{"type":"inet","host":"h","port":"5"},"export":"e","reconnect-delay":3}"#)
            .unwrap();
        assert_eq!((o.uri().as_str(), o.reconnect_delay), ("nbd://h:5/e", 3));
        assert_eq!(parse(r#"{"path":"/s"}"#).unwrap().address, Address::Unix("/s".into()));
        for (text, word) in [
            (r#"{"host":"h","exprot":"x"}"#, "exprot"),
            (r#"{"server":{"type":"vsock"}}"#, "vsock"),
            (r#"{"server":{"type":"inet","host":"h"}}"#, "port"),
            (r#"{"host":"h","open-timeout":"x"}"#, "open-timeout=x"),
        ] {
            let e = parse(text).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }
}
