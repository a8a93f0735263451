//! Sockets of any family, and what listens for them.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::address::Address;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Does the same to a socket of any family.
macro_rules! each {
    ($socket:expr, $s:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($s) => $do,
            #[cfg(unix)]
            Socket::Unix($s) => $do,
        }
    };
}

impl Socket {
    /// Connects to an address.
    pub fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Inet { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port))?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
            #[cfg(unix)]
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path)?)),
            #[cfg(not(unix))]
            Address::Unix(_) => Err(no_unix()),
        }
    }

    /// Another handle to the same socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Socket::Tcp(s) => Socket::Tcp(s.try_clone()?),
            #[cfg(unix)]
            Socket::Unix(s) => Socket::Unix(s.try_clone()?),
        })
    }

    /// Ends the connection for both sides.
    pub fn shutdown(&self) {
        let _ = each!(self, s => s.shutdown(Shutdown::Both));
    }

    /// How long a read may wait.
    pub fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        each!(self, s => s.set_read_timeout(time))
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, s => s.read(buf))
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        each!(self, s => s.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, s => s.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(not(unix))]
fn no_unix() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this host has no Unix sockets")
}

/// What takes connections. A Unix socket's file goes with it.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket and its path.
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens at an address.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Inet { host, port } => Ok(Listener::Tcp(TcpListener::bind((host.as_str(), *port))?)),
            #[cfg(unix)]
            Address::Unix(path) => {
                // A socket that nobody listens at any more is in the way.
                if UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
                    let _ = std::fs::remove_file(path);
                }
                Ok(Listener::Unix(UnixListener::bind(path)?, path.into()))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(no_unix()),
        }
    }

    /// Where it listens: with the port that was found if it was to find one.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(l) => {
                let at = l.local_addr()?;
                Ok(Address::Inet { host: at.ip().to_string(), port: at.port() })
            }
            #[cfg(unix)]
            Listener::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }

    /// The next connection.
    pub fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Tcp(l) => {
                let (socket, _) = l.accept()?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
            #[cfg(unix)]
            Listener::Unix(l, _) => Ok(Socket::Unix(l.accept()?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A path, whatever the host: here so that [`Address`] needs no conditions.
pub(crate) type SocketPath = PathBuf;
