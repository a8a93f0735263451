//! What users ask of a running network: ports that lead in, opened and closed, and a list of what there is, laid out as QEMU's
//! `info usernet`, which scripts read.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::{HostForward, Listen, UserError, UserNet};

/// How long the thread may take for an answer. It is never busy for long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests that may wait.
const WAITING: usize = 64;

/// A question, and where its answer goes.
pub(crate) enum Request {
    Forward(HostForward, Sender<Result<(), UserError>>),
    Remove(Listen, Sender<bool>),
    List(Sender<Vec<Line>>),
}

/// A connection or a port that leads in.
pub(crate) struct Line {
    /// Protocol and state, such as `TCP[ESTABLISHED]`.
    pub(crate) what: String,
    /// The host's descriptor.
    pub(crate) fd: i32,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Bytes that wait for the host, and for the guest.
    pub(crate) waiting: (usize, usize),
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ip = |ip: IpAddr| if ip.is_unspecified() { "*".to_owned() } else { ip.to_string() };
        let (what, fd, (host, guest)) = (format!("  {}", self.what), self.fd, self.waiting);
        let (from, to) = ((ip(self.from.ip()), self.from.port()), (ip(self.to.ip()), self.to.port()));
        writeln!(
            f,
            "{what:<19} {fd:3} {:>15} {:5} {:>15} {:5} {host:5} {guest:5}",
            from.0, from.1, to.0, to.1
        )
    }
}

/// The descriptor of a socket of the host's.
#[cfg(unix)]
pub(crate) fn descriptor(socket: &impl std::os::fd::AsRawFd) -> i32 {
    socket.as_raw_fd()
}

/// There are none on this host.
#[cfg(not(unix))]
pub(crate) fn descriptor<T>(_: &T) -> i32 {
    0
}

impl UserNet {
    /// Has the thread answer; `None` if it does not.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<T> {
        let (sender, answer) = channel();
        self.shared.tell(|inbox| {
            if inbox.requests.len() < WAITING {
                inbox.requests.push(request(sender));
            }
        });
        answer.recv_timeout(PATIENCE).ok()
    }

    /// Opens a port by a rule of `hostfwd`.
    ///
    /// # Errors
    /// The rule is none, or the port cannot be opened.
    pub fn add_forward(&self, rule: &str) -> Result<(), UserError> {
        let rule = HostForward::parse(rule, self.first_guest)?;
        let busy = || UserError::host("hostfwd", std::io::ErrorKind::TimedOut.into());
        self.ask(|answer| Request::Forward(rule, answer)).ok_or_else(busy)?
    }

    /// Closes a port that leads in, given by the host's side of its rule; false if there is none such.
    ///
    /// # Errors
    /// That is no such side.
    pub fn remove_forward(&self, listen: &str) -> Result<bool, UserError> {
        let listen = Listen::parse(listen)?;
        Ok(self.ask(|answer| Request::Remove(listen, answer)).unwrap_or(false))
    }

    /// Connections and ports that lead in, a line each under a head.
    pub fn list(&self) -> String {
        let head = "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n";
        let lines = self.ask(Request::List).unwrap_or_default();
        lines.iter().fold(head.to_owned(), |all, line| all + &line.to_string())
    }
}
