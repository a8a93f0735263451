//! Addresses of sockets as users give them, and the sockets at them.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::NetError;

/// How long connecting may take when the user waits for it.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of a Unix socket's name, the zero before an abstract one included.
const UNIX_NAME: usize = 108;
/// Linux's number of TCP over several paths (RFC 8684).
const MULTIPATH: i32 = 262;

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port; an empty host is every address of this host.
    Inet {
        /// Name or number.
        host: String,
        /// Number of the port.
        port: u16,
        /// What else is wanted of it.
        rules: InetRules,
    },
    /// A socket in the file system, or (on Linux) an abstract name.
    Unix {
        /// Its path or name.
        path: PathBuf,
        /// It is an abstract name.
        abstract_name: bool,
        /// Zeros fill the rest of an abstract name's room, and belong to it.
        padded: bool,
    },
}

/// How the internet's sockets are made, by the words of QEMU's `InetSocketAddress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InetRules {
    /// Whoever listens takes the first free port up to this one.
    pub to: Option<u16>,
    /// The host is a number: no name is looked up.
    pub numeric: bool,
    /// The version of IP, if only one will do.
    pub version: Option<IpVersion>,
    /// The other end of a connection is asked now and then whether it is there.
    pub keep_alive: bool,
    /// Connections may use several paths (Linux).
    pub multipath: bool,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl InetRules {
    fn admits(self, ip: IpAddr) -> bool {
        self.version.is_none_or(|v| (v == IpVersion::V4) == ip.is_ipv4())
    }

    /// The address of nobody in particular, or (for those who connect) of this host.
    fn unnamed(self, passive: bool) -> IpAddr {
        match (self.version, passive) {
            (Some(IpVersion::V6), true) => Ipv6Addr::UNSPECIFIED.into(),
            (Some(IpVersion::V6), false) => Ipv6Addr::LOCALHOST.into(),
            (_, true) => Ipv4Addr::UNSPECIFIED.into(),
            (_, false) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl Address {
    /// Reads `HOST:PORT`, `:PORT` or `[IPV6]:PORT`.
    pub fn inet(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::Option(format!("'{text}': expected HOST:PORT such as 127.0.0.1:1234"));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| bad())?;
        Ok(Address::Inet { host: host.to_owned(), port, rules: InetRules::default() })
    }

    /// A socket in the file system.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Address::Unix { path: path.into(), abstract_name: false, padded: false }
    }

    /// The addresses it stands for, for sockets of this type.
    pub(crate) fn resolve(&self, passive: bool) -> Result<Vec<SockAddr>, NetError> {
        let failed = |e| NetError::host(format!("address {self}"), e);
        match self {
            Address::Inet { host, port, rules } if host.is_empty() => {
                Ok(vec![SocketAddr::new(rules.unnamed(passive), *port).into()])
            }
            Address::Inet { host, port, rules } => {
                let found = if rules.numeric {
                    let bad = || NetError::Option(format!("'{host}': expected a number, as numeric=on says"));
                    vec![SocketAddr::new(host.parse().map_err(|_| bad())?, *port)]
                } else {
                    (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect()
                };
                let all: Vec<SockAddr> =
                    found.into_iter().filter(|a| rules.admits(a.ip())).map(Into::into).collect();
                if all.is_empty() { Err(failed(io::ErrorKind::AddrNotAvailable.into())) } else { Ok(all) }
            }
            Address::Unix { path, abstract_name: false, .. } => {
                Ok(vec![SockAddr::unix(path).map_err(failed)?])
            }
            Address::Unix { path, abstract_name: true, padded } => {
                let mut name = b"\0".to_vec();
                name.extend_from_slice(path.as_os_str().as_bytes());
                if *padded {
                    name.resize(name.len().max(UNIX_NAME), 0);
                }
                Ok(vec![SockAddr::unix(OsStr::from_bytes(&name)).map_err(failed)?])
            }
        }
    }

    /// A left-over socket file at this address goes away.
    fn clear(&self) -> io::Result<()> {
        match self {
            Address::Unix { path, abstract_name: false, .. }
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
        let mut address = self.resolve(true)?.swap_remove(0);
        let socket = self.socket(&address, kind).map_err(failed)?;
        if address.domain() == Domain::UNIX {
            self.clear().map_err(failed)?;
        } else if kind == Type::STREAM {
            // Old connections do not count; with datagrams it would let two share a port.
            socket.set_reuse_address(true).map_err(failed)?;
        }
        while let Err(e) = socket.bind(&address) {
            // Two may be bound to a port of which only one can listen; that is seen later, and is not tried again.
            let next =
                address.as_socket().filter(|a| e.kind() == io::ErrorKind::AddrInUse && self.goes_on(a));
            let Some(mut next) = next else { return Err(failed(e)) };
            next.set_port(next.port() + 1);
            address = next.into();
        }
        Ok(socket)
    }

    /// Whether the port behind this one may be taken in its place.
    fn goes_on(&self, at: &SocketAddr) -> bool {
        matches!(self, Address::Inet { rules, .. } if rules.to.is_some_and(|last| at.port() < last))
    }

    /// A socket for one of the addresses this stands for.
    fn socket(&self, address: &SockAddr, kind: Type) -> io::Result<Socket> {
        let rules = match self {
            Address::Inet { rules, .. } if kind == Type::STREAM => *rules,
            _ => InetRules::default(),
        };
        let protocol = rules.multipath.then_some(Protocol::from(MULTIPATH));
        let socket = Socket::new(address.domain(), kind, protocol)?;
        if rules.keep_alive {
            socket.set_keepalive(true)?;
        }
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
            let done = self.socket(&address, Type::STREAM).and_then(|socket| {
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
        let socket = self.socket(&address, Type::STREAM).map_err(failed)?;
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
            Address::Inet { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Inet { host, port, .. } => write!(f, "{host}:{port}"),
            Address::Unix { path, abstract_name, .. } => {
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
            let rules = InetRules::default();
            assert_eq!(Address::inet(text).unwrap(), Address::Inet { host: host.into(), port, rules });
        }
        for bad in ["", "host", "host:", "host:x", "host:65536"] {
            assert!(Address::inet(bad).is_err(), "{bad}");
        }
        assert_eq!(Address::inet("[::1]:1").unwrap().to_string(), "[::1]:1");
    }

    #[test]
    fn rules_are_kept() {
        let at = |host: &str, port, rules| Address::Inet { host: host.into(), port, rules };
        let taken = Address::inet("127.0.0.1:0").unwrap().bind(Type::DGRAM).unwrap();
        let port = taken.local_addr().unwrap().as_socket().unwrap().port();
        let next = at("127.0.0.1", port, InetRules { to: port.checked_add(9), ..InetRules::default() });
        let found = next.bind(Type::DGRAM).unwrap().local_addr().unwrap().as_socket().unwrap().port();
        assert!(port < found && found <= port + 9, "{found}");
        let full = at("127.0.0.1", port, InetRules { to: Some(port), ..InetRules::default() });
        assert!(full.bind(Type::DGRAM).is_err());
        let six = InetRules { version: Some(IpVersion::V6), ..InetRules::default() };
        let named = at("", 1, six).resolve(true).unwrap();
        assert_eq!(named[0].as_socket().unwrap().to_string(), "[::]:1");
        assert!(at("127.0.0.1", 1, six).resolve(true).is_err(), "no address of that version");
        let numeric = InetRules { numeric: true, ..InetRules::default() };
        let named = at("localhost", 1, numeric).resolve(false).unwrap_err().to_string();
        assert!(named.contains("expected a number"), "{named}");
        let asks = InetRules { keep_alive: true, ..InetRules::default() };
        assert!(at("127.0.0.1", 0, asks).listen().unwrap().keepalive().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_are_tight_or_not() {
        let name = format!("rhea-test-{}", std::process::id());
        let at = |padded| Address::Unix { path: name.clone().into(), abstract_name: true, padded };
        let (_tight, _padded) = (at(false).listen().unwrap(), at(true).listen().unwrap());
        assert!(at(true).listen().is_err(), "it is taken");
        assert_eq!(at(true).resolve(true).unwrap()[0].len() as usize, 2 + UNIX_NAME);
    }
}
