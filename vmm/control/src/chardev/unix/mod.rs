//! Back ends of Unix hosts.

mod files;
mod inherit;
mod reactor;
mod socket;
mod stream;
mod tty;

pub use inherit::duplicate;
pub(crate) use socket::remove_stale;
pub use tty::restore_terminal;

use super::ChardevError;
use crate::config::{ChardevKind, FdInSet};
use crate::fdsets::FdSets;
use device::CharBackend;
use reactor::Reactor;
use std::sync::Arc;

/// What the back ends of one machine share: the thread that polls their descriptors.
pub(super) struct Host {
    reactor: Reactor,
    fds: FdSets,
}

impl Host {
    pub(super) fn new(sets: &[FdInSet]) -> Result<Self, ChardevError> {
        let reactor = Reactor::new().map_err(ChardevError::host("cannot make a socket pair"))?;
        let fds = FdSets::new(sets).map_err(ChardevError::host("descriptor"))?;
        Ok(Self { reactor, fds })
    }

    /// Opens a back end; also returns what to call it in lists.
    pub(super) fn open(
        &mut self,
        kind: &ChardevKind,
    ) -> Result<(Arc<dyn CharBackend>, String), ChardevError> {
        let waker = self.reactor.waker();
        let (stream, name) = match kind {
            ChardevKind::Stdio { signal } => (files::stdio(waker, *signal)?, "stdio".to_owned()),
            ChardevKind::File { path, append, input_path } => {
                (files::file(waker, &self.fds, path, *append, input_path.as_deref())?, format!("file:{path}"))
            }
            ChardevKind::Pipe { path } => (files::pipe(waker, path)?, format!("pipe:{path}")),
            ChardevKind::Pty { path } => files::pty(waker, path.as_deref())?,
            ChardevKind::Socket { addr, server, wait, telnet, nodelay, reconnect_ms } => {
                let options = socket::Options {
                    server: *server,
                    wait: *wait,
                    telnet: *telnet,
                    nodelay: *nodelay,
                    reconnect_ms: *reconnect_ms,
                };
                let name = format!("{addr}{}", if *server { ",server=on" } else { "" });
                (socket::open(waker, addr, options)?, name)
            }
            ChardevKind::Udp { host, port, localaddr, localport } => {
                (socket::udp(waker, host, *port, localaddr, *localport)?, format!("udp:{host}:{port}"))
            }
            ChardevKind::Null | ChardevKind::Vc | ChardevKind::Ringbuf { .. } => {
                return Err(ChardevError::Unsupported("this back end"));
            }
        };
        self.reactor.add(stream.clone());
        Ok((stream, name))
    }

    /// Closes a back end that nobody uses.
    pub(super) fn remove(&mut self, backend: &Arc<dyn CharBackend>) {
        self.reactor.remove(|s| std::ptr::addr_eq(Arc::as_ptr(s), Arc::as_ptr(backend)));
    }

    /// Starts the thread, if there is anything to poll.
    pub(super) fn start(&mut self) -> Result<(), ChardevError> {
        self.reactor.start().map_err(ChardevError::host("cannot start the chardev thread"))
    }
}
