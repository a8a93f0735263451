//! The host's end of a connection.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};

/// A stream of the host's.
pub(crate) enum Host {
    Tcp(mio::net::TcpStream),
    #[cfg(unix)]
    Unix(mio::net::UnixStream),
}

macro_rules! each {
    ($self:ident, $stream:ident => $do:expr) => {
        match $self {
            Host::Tcp($stream) => $do,
            #[cfg(unix)]
            Host::Unix($stream) => $do,
        }
    };
}

/// Sets a connection's options; one that the host refuses is done without.
pub(crate) fn prepare(stream: &mio::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    // What the guest has collected is not to be collected again.
    let _ = socket.set_tcp_nodelay(true);
    // The guest's questions whether its peer is there end here.
    let _ = socket.set_keepalive(true);
    // Urgent bytes come where they stand.
    let _ = socket.set_out_of_band_inline(true);
}

impl Host {
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(target_os = "linux")]
        let interest = interest | Interest::PRIORITY;
        each!(self, s => s.register(registry, token, interest))
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        // It is about to be closed, which does the same.
        let _ = each!(self, s => s.deregister(registry));
    }

    /// Whether the connection has been made: `None` while it is under way.
    pub(crate) fn connected(&self) -> Option<io::Result<()>> {
        match self {
            Host::Tcp(s) => match (s.take_error(), s.peer_addr()) {
                (Ok(Some(e)) | Err(e), _) => Some(Err(e)),
                (_, Ok(_)) => {
                    prepare(s);
                    Some(Ok(()))
                }
                (_, Err(e)) if e.kind() == io::ErrorKind::NotConnected => None,
                (_, Err(e)) => Some(Err(e)),
            },
            #[cfg(unix)]
            Host::Unix(_) => Some(Ok(())),
        }
    }

    pub(crate) fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        each!(self, s => s.read(to))
    }

    pub(crate) fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, s => s.write_vectored(from))
    }

    /// Writes a byte out of band, where there is such a thing.
    pub(crate) fn write_urgent(&mut self, byte: u8) -> io::Result<usize> {
        match self {
            Host::Tcp(s) => socket2::SockRef::from(&*s).send_out_of_band(&[byte]),
            #[cfg(unix)]
            Host::Unix(s) => s.write(&[byte]),
        }
    }

    /// Whether the next byte is an urgent one.
    pub(crate) fn at_mark(&self) -> bool {
        match self {
            Host::Tcp(s) => crate::errors::at_mark(s),
            #[cfg(unix)]
            Host::Unix(_) => false,
        }
    }

    /// Its descriptor.
    pub(crate) fn descriptor(&self) -> i32 {
        each!(self, s => crate::requests::descriptor(s))
    }

    /// Ends the guest's direction.
    pub(crate) fn end_writes(&self) {
        let _ = each!(self, s => s.shutdown(Shutdown::Write));
    }

    /// Lets the peer see a reset.
    pub(crate) fn abort(&self) {
        match self {
            Host::Tcp(s) => {
                let _ = socket2::SockRef::from(s).set_linger(Some(Duration::ZERO));
            }
            #[cfg(unix)]
            Host::Unix(_) => {}
        }
    }
}
