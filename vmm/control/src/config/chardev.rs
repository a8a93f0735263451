//! Character back ends as configuration; `crate::chardev` opens them.

use super::is_false;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The character back end that a display in the terminal has for itself.
pub const TERMINAL: &str = "#terminal";

/// One character back end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Chardev {
    /// Unique id.
    pub id: String,
    /// Kind, with what it needs.
    #[serde(flatten)]
    pub kind: ChardevKind,
    /// Several front ends share it and Ctrl-A switches between them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mux: bool,
    /// Everything written to it also goes to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logfile: Option<String>,
    /// Append to `logfile` instead of truncating it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub logappend: bool,
}

/// Kinds of character back ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ChardevKind {
    /// Swallows all output, never has input.
    Null,
    /// A text console of the display; without a display it is as `Null`.
    Vc,
    /// Standard input and output of the process.
    Stdio {
        /// Ctrl-C raises a signal instead of going to the guest.
        #[serde(default = "yes")]
        signal: bool,
    },
    /// Output into a file.
    File {
        /// Output file.
        path: String,
        /// Append instead of truncating.
        #[serde(default, skip_serializing_if = "is_false")]
        append: bool,
        /// Input file.
        #[serde(default, rename = "input-path", skip_serializing_if = "Option::is_none")]
        input_path: Option<String>,
    },
    /// A named pipe, or a pair `PATH.in`, `PATH.out`.
    Pipe {
        /// Path of the pipe.
        path: String,
    },
    /// A new pseudo-terminal.
    Pty {
        /// Symbolic link to make to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// A stream socket.
    Socket {
        /// Where to listen or connect.
        addr: SocketAddress,
        /// Listen instead of connecting.
        #[serde(default, skip_serializing_if = "is_false")]
        server: bool,
        /// Server only: do not start before the first client is there.
        #[serde(default, skip_serializing_if = "is_false")]
        wait: bool,
        /// Speak telnet's option negotiation.
        #[serde(default, skip_serializing_if = "is_false")]
        telnet: bool,
        /// Send small packets at once.
        #[serde(default, skip_serializing_if = "is_false")]
        nodelay: bool,
        /// Client only: milliseconds between attempts to connect again; 0 is never.
        #[serde(default, rename = "reconnect-ms", skip_serializing_if = "is_zero")]
        reconnect_ms: u64,
    },
    /// Datagrams to one peer.
    Udp {
        /// Peer host.
        host: String,
        /// Peer port.
        port: u16,
        /// Local address to bind.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        localaddr: String,
        /// Local port to bind; 0 is any.
        #[serde(default, skip_serializing_if = "is_zero16")]
        localport: u16,
    },
    /// The last bytes written, to be read by the monitor.
    Ringbuf {
        /// Capacity in bytes, a power of two.
        size: u64,
    },
}

fn yes() -> bool {
    true
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_zero16(n: &u16) -> bool {
    *n == 0
}

impl ChardevKind {
    /// Names of all kinds.
    pub const NAMES: [&'static str; 9] =
        ["null", "vc", "stdio", "file", "pipe", "pty", "socket", "udp", "ringbuf"];

    /// The kind's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Vc => "vc",
            Self::Stdio { .. } => "stdio",
            Self::File { .. } => "file",
            Self::Pipe { .. } => "pipe",
            Self::Pty { .. } => "pty",
            Self::Socket { .. } => "socket",
            Self::Udp { .. } => "udp",
            Self::Ringbuf { .. } => "ringbuf",
        }
    }
}

/// Address of a stream socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum SocketAddress {
    /// TCP.
    Inet {
        /// Host name or address; empty is any (server) or localhost (client).
        #[serde(default)]
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket in the file system, or in Linux' abstract name space.
    Unix {
        /// Path or abstract name.
        path: String,
        /// Whether it is an abstract name.
        #[serde(default, rename = "abstract", skip_serializing_if = "is_false")]
        is_abstract: bool,
    },
    /// A descriptor the process was started with.
    Fd {
        /// Its number.
        fd: u32,
    },
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Inet { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix { path, .. } => write!(f, "unix:{path}"),
            Self::Fd { fd } => write!(f, "fd:{fd}"),
        }
    }
}
