//! Stream sockets (TCP, Unix) as server or client, and UDP.

use super::super::ChardevError;
use super::inherit;
use super::reactor::Waker;
use super::stream::{Connection, Fixed, Link, Output, Stream};
use crate::config::SocketAddress;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

/// How long one attempt of a reconnecting client may take: it runs on the thread of all back ends.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Options of a socket back end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) server: bool,
    pub(super) wait: bool,
    pub(super) telnet: bool,
    pub(super) nodelay: bool,
    pub(super) reconnect_ms: u64,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(addr: &SocketAddress) -> io::Result<Self> {
        match addr {
            SocketAddress::Inet { host, port } => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                TcpListener::bind((host, *port)).map(Self::Tcp)
            }
            SocketAddress::Unix { path, is_abstract: false } => {
                remove_stale(path);
                UnixListener::bind(path).map(Self::Unix)
            }
            SocketAddress::Unix { path, .. } => abstract_name::bind(path).map(Self::Unix),
            // What it listens on is not our business; accept(2) is the same for all.
            SocketAddress::Fd { fd } => inherit::duplicate(*fd).map(|fd| Self::Unix(UnixListener::from(fd))),
        }
    }

    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(l) => l.accept().map(|(s, _)| s.into()),
            Self::Unix(l) => l.accept().map(|(s, _)| s.into()),
        }
    }

    fn fd(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(l) => l.as_fd().try_clone_to_owned(),
            Self::Unix(l) => l.as_fd().try_clone_to_owned(),
        }
    }
}

/// A socket file that nobody serves any more would keep us from binding; one that is served is left alone.
pub(crate) fn remove_stale(path: &str) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket
        && matches!(UnixStream::connect(path), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
    {
        let _ = std::fs::remove_file(path);
    }
}

fn connect(addr: &SocketAddress, timeout: Option<Duration>) -> io::Result<OwnedFd> {
    match addr {
        SocketAddress::Inet { host, port } => {
            let host = if host.is_empty() { "localhost" } else { host };
            let Some(timeout) = timeout else { return TcpStream::connect((host, *port)).map(Into::into) };
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for a in (host, *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&a, timeout) {
                    Ok(s) => return Ok(s.into()),
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
        SocketAddress::Unix { path, is_abstract: false } => UnixStream::connect(path).map(Into::into),
        SocketAddress::Unix { path, .. } => abstract_name::connect(path).map(Into::into),
        SocketAddress::Fd { fd } => inherit::duplicate(*fd),
    }
}

fn connection(fd: OwnedFd, nodelay: bool) -> Connection {
    if nodelay {
        // Not a TCP socket: then there is nothing to set.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
    }
    let fd = Arc::new(fd);
    Connection { input: Some(fd.clone()), output: Some(fd), how: Output::Socket }
}

/// Opens a server or a client.
pub(super) fn open(waker: Waker, addr: &SocketAddress, o: Options) -> Result<Arc<Stream>, ChardevError> {
    if o.server {
        let failed = || ChardevError::host(format!("cannot listen on {addr}"));
        let listener = Listener::bind(addr).map_err(failed())?;
        let fd = Arc::new(listener.fd().map_err(failed())?);
        let mut first = None;
        if o.wait {
            tracing::info!(address = %addr, "waiting for a connection");
            first = Some(connection(listener.accept().map_err(failed())?, o.nodelay));
        }
        // Between poll(2) and accept(2) the client can go away; that must not block.
        rustix::io::ioctl_fionbio(&*fd, true).map_err(|e| failed()(e.into()))?;
        let path = match addr {
            SocketAddress::Unix { path, is_abstract: false } => Some(path.clone()),
            _ => None,
        };
        let link = Server { listener, fd, nodelay: o.nodelay, path };
        return Ok(Stream::new(waker, first, Box::new(link), o.telnet));
    }
    let first = match connect(addr, None) {
        Ok(fd) => Some(connection(fd, o.nodelay)),
        // Whoever asks for attempts to reconnect wants the first one to be one of them.
        Err(_) if o.reconnect_ms > 0 => None,
        Err(e) => return Err(ChardevError::host(format!("cannot connect to {addr}"))(e)),
    };
    let retry = (o.reconnect_ms > 0).then(|| Duration::from_millis(o.reconnect_ms));
    let link = Client { addr: addr.clone(), nodelay: o.nodelay, retry };
    Ok(Stream::new(waker, first, Box::new(link), o.telnet))
}

struct Server {
    listener: Listener,
    fd: Arc<OwnedFd>,
    nodelay: bool,
    path: Option<String>,
}

impl Link for Server {
    fn listener(&self) -> Option<Arc<OwnedFd>> {
        Some(self.fd.clone())
    }

    fn accept(&self) -> Option<Connection> {
        self.listener.accept().ok().map(|fd| connection(fd, self.nodelay))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Client {
    addr: SocketAddress,
    nodelay: bool,
    retry: Option<Duration>,
}

impl Link for Client {
    fn connect(&self) -> Option<Connection> {
        connect(&self.addr, Some(CONNECT_TIMEOUT)).ok().map(|fd| connection(fd, self.nodelay))
    }

    fn retry(&self) -> Option<Duration> {
        self.retry
    }
}

/// Datagrams from and to one peer.
pub(super) fn udp(
    waker: Waker,
    host: &str,
    port: u16,
    local: &str,
    local_port: u16,
) -> Result<Arc<Stream>, ChardevError> {
    let open = || -> io::Result<OwnedFd> {
        let peer = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let any = if peer.is_ipv6() { "::" } else { "0.0.0.0" };
        let socket = UdpSocket::bind((if local.is_empty() { any } else { local }, local_port))?;
        socket.connect(peer)?;
        Ok(socket.into())
    };
    let fd = Arc::new(open().map_err(ChardevError::host(format!("cannot open udp:{host}:{port}")))?);
    let connection = Connection { input: Some(fd.clone()), output: Some(fd), how: Output::Socket };
    Ok(Stream::new(waker, Some(connection), Box::new(Fixed { closes_on_eof: false }), false))
}

/// Linux' abstract socket names.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod abstract_name {
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    pub(super) fn bind(name: &str) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
    }

    pub(super) fn connect(name: &str) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod abstract_name {
    use std::io;
    use std::os::unix::net::{UnixListener, UnixStream};

    pub(super) fn bind(_: &str) -> io::Result<UnixListener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn connect(_: &str) -> io::Result<UnixStream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
