//! Addresses of sockets as users give them, and the sockets at them.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::NetError;

/// How long connecting may take when the user waits for it.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port; an empty host is every address of this host.
    Inet {
        /// Name or number.
        host: String,
        /// Number of the port.
        port: u16,
    },
    /// A socket in the file system, or (on Linux) an abstract name.
    Unix {
        /// Its path or name.
        path: PathBuf,
        /// It is an abstract name.
        abstract_name: bool,
    },
}

impl Address {
    /// Reads `HOST:PORT`, `:PORT` or `[IPV6]:PORT`.
    pub fn inet(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::Option(format!("'{text}': expected HOST:PORT such as 127.0.0.1:1234"));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| bad())?;
        Ok(Address::Inet { host: host.to_owned(), port })
    }

    /// A socket in the file system.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Address::Unix { path: path.into(), abstract_name: false }
    }

    /// The addresses it stands for, for sockets of this type.
    pub(crate) fn resolve(&self, passive: bool) -> Result<Vec<SockAddr>, NetError> {
        let failed = |e| NetError::host(format!("address {self}"), e);
        match self {
            Address::Inet { host, port } if host.is_empty() => {
                let any = if passive { IpAddr::from([0; 4]) } else { IpAddr::from([127, 0, 0, 1]) };
                Ok(vec![SocketAddr::new(any, *port).into()])
            }
            Address::Inet { host, port } => {
                let all: Vec<SockAddr> =
                    (host.as_str(), *port).to_socket_addrs().map_err(failed)?.map(Into::into).collect();
                if all.is_empty() { Err(failed(io::ErrorKind::AddrNotAvailable.into())) } else { Ok(all) }
            }
            Address::Unix { path, abstract_name: false } => Ok(vec![SockAddr::unix(path).map_err(failed)?]),
            Address::Unix { path, abstract_name: true } => {
                let mut name = std::ffi::OsString::from("\0");
                name.push(path);
                Ok(vec![SockAddr::unix(name).map_err(failed)?])
            }
        }
    }

    /// A left-over socket file at this address goes away.
    fn clear(&self) -> io::Result<()> {
        match self {
            Address::Unix { path, abstract_name: false }
                if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) =>
            {
                std::fs::remove_file(path)
            }
            _ => Ok(()),
        }
    }

    /// A socket bound to this address.
    pub(crate) fn bind(&self, kind: Type) -> Result<Socket, NetError> {
        let failed = |e: io::Error| {
            let what = match e.kind() {
                io::ErrorKind::AddrInUse => format!("{self} is in use; choose another"),
                io::ErrorKind::PermissionDenied => {
                    format!("{self} needs a privilege (ports below 1024: CAP_NET_BIND_SERVICE)")
                }
                _ => format!("cannot bind to {self}"),
            };
            NetError::host(what, e)
        };
        let address = self.resolve(true)?.swap_remove(0);
        let socket = Socket::new(address.domain(), kind, None).map_err(failed)?;
        if address.domain() == Domain::UNIX {
            self.clear().map_err(failed)?;
        } else if kind == Type::STREAM {
            // Old connections do not count; with datagrams it would let two share a port.
            socket.set_reuse_address(true).map_err(failed)?;
        }
        socket.bind(&address).map_err(failed)?;
        Ok(socket)
    }

    /// A socket that listens here.
    pub(crate) fn listen(&self) -> Result<Socket, NetError> {
        let socket = self.bind(Type::STREAM)?;
        let done = socket.listen(8).and_then(|()| socket.set_nonblocking(true));
        done.map_err(|e| NetError::host(format!("cannot listen on {self}"), e))?;
        Ok(socket)
    }

    /// A socket connected to this address, when it must be there now.
    pub(crate) fn connect(&self) -> Result<Socket, NetError> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.resolve(false)? {
            let done = Socket::new(address.domain(), Type::STREAM, None).and_then(|socket| {
                if address.domain() == Domain::UNIX {
                    socket.connect(&address)?;
                } else {
                    socket.connect_timeout(&address, CONNECT)?;
                }
                Ok(socket)
            });
            match done {
                Ok(socket) => return Ok(socket),
                Err(e) => last = e,
            }
        }
        let hint = "is somebody listening there? reconnect-ms=1000 keeps trying";
        Err(NetError::host(format!("cannot connect to {self} ({hint})"), last))
    }

    /// A socket that is being connected without waiting; errors show when it becomes writable.
    pub(crate) fn begin(&self) -> Result<Socket, NetError> {
        let failed = |e| NetError::host(format!("cannot connect to {self}"), e);
        let address = self.resolve(false)?.swap_remove(0);
        let socket = Socket::new(address.domain(), Type::STREAM, None).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        match socket.connect(&address) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(failed(e)),
            _ => Ok(socket),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Inet { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { path, abstract_name } => {
                write!(f, "{}socket {}", if *abstract_name { "abstract " } else { "" }, path.display())
            }
        }
    }
}

/// Whether an inherited descriptor is a socket of a type.
pub fn is_socket(fd: &OwnedFd, stream: bool) -> bool {
    rustix::net::sockopt::socket_type(fd).is_ok_and(|t| {
        t == if stream { rustix::net::SocketType::STREAM } else { rustix::net::SocketType::DGRAM }
    })
}

/// What an address means to `info network`.
pub(crate) fn describe(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(inet), _) => inet.to_string(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => "an unnamed socket".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse() {
        for (text, host, port) in
            [("127.0.0.1:80", "127.0.0.1", 80), (":9", "", 9), ("[::1]:65535", "::1", 65535)]
        {
            assert_eq!(Address::inet(text).unwrap(), Address::Inet { host: host.into(), port });
        }
        for bad in ["", "host", "host:", "host:x", "host:65536"] {
            assert!(Address::inet(bad).is_err(), "{bad}");
        }
        assert_eq!(Address::inet("[::1]:1").unwrap().to_string(), "[::1]:1");
    }
}
