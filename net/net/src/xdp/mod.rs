//! `-netdev af-xdp`: queues of a network interface of the host's, whose frames a small program in the kernel turns aside before
//! the host's network sees them (`Documentation/networking/af_xdp.rst`).
//!
//! Frames are copied between the guest and memory that the kernel knows. There is no virtio-net header, and so there are no
//! offloads; what is longer than a chunk of that memory is dropped. Bounds: the memory's chunks.

mod program;
mod socket;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use self::program::Program;
use self::socket::XdpSocket;
use crate::NetError;
use crate::fd::{Carried, carried};

/// Most queues; what an interface has is less.
const MOST_QUEUES: u32 = 256;

/// Where frames are turned aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver if it can, else in the kernel's common code.
    #[default]
    Any,
    /// In the driver.
    Native,
    /// In the common code.
    Skb,
}

/// How to open queues of an interface.
#[derive(Debug)]
pub struct XdpOptions {
    /// Name of the interface.
    pub ifname: String,
    /// Where frames are turned aside.
    pub mode: XdpMode,
    /// Have the kernel copy, even where the driver need not.
    pub force_copy: bool,
    /// Number of queues, and the first one.
    pub queues: u32,
    /// The first one.
    pub start_queue: u32,
    /// Somebody else has put a program on the interface: sockets that are in its map, one for each queue.
    pub sockets: Option<Vec<OwnedFd>>,
}

/// The queues; the interface is the host's again when they are dropped.
pub struct Xdp(
    Carried<XdpSocket>,
    #[expect(dead_code, reason = "it sends frames to the sockets for as long as it lives")] Option<Program>,
);

carried!(Xdp);

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF)",
        Some(libc::ENODEV) => " (no such interface; 'ip link' lists them)",
        Some(libc::EBUSY) => " (somebody else has it; 'ip link show' names the program)",
        Some(libc::EOPNOTSUPP) => " (its driver does not do that; leave mode=native out)",
        Some(libc::EAFNOSUPPORT) => " (this host's kernel has no AF_XDP)",
        Some(libc::EINVAL | libc::ERANGE) => " (has the interface as many queues?)",
        Some(libc::ENOBUFS) => " (raise the limit of locked memory)",
        _ => "",
    }
}

impl Xdp {
    /// Opens the queues; needs the right to do so on this host.
    ///
    /// # Errors
    /// The host refuses, or has no such interface or queue.
    pub fn open(options: XdpOptions) -> Result<Self, NetError> {
        let XdpOptions { ifname, mode, force_copy, queues, start_queue, sockets } = options;
        if !(1..=MOST_QUEUES).contains(&queues) {
            return Err(NetError::Option(format!("queues={queues}: expected 1 to {MOST_QUEUES}")));
        }
        let inherited = sockets.is_some();
        let mut given = sockets.unwrap_or_default().into_iter();
        if inherited && given.len() != queues as usize {
            let (n, have) = (queues, given.len());
            return Err(NetError::Option(format!(
                "sock-fds: expected one for each of {n} queues, got {have}"
            )));
        }
        let failed =
            |what: &str, e: io::Error| NetError::host(format!("interface '{ifname}': {what}{}", hint(&e)), e);
        let index = socket::interface(&ifname).map_err(|e| failed("its number", e))?;
        let program = match inherited {
            true => None,
            false => {
                Some(Program::new(start_queue.saturating_add(queues)).map_err(|e| failed("a program", e))?)
            }
        };
        let mut all = Vec::new();
        for queue in start_queue..start_queue.saturating_add(queues) {
            let what = format!("queue {queue}");
            let socket =
                XdpSocket::new(given.next(), (index, queue), force_copy).map_err(|e| failed(&what, e))?;
            if let Some(program) = &program {
                program.set(queue, socket.as_fd()).map_err(|e| failed(&what, e))?;
            }
            all.push(socket);
        }
        let queues = Carried::new(&ifname, all)?;
        let program = match program {
            Some(program) => Some(program.attach(index, mode).map_err(|e| failed("attaching a program", e))?),
            None => None,
        };
        Ok(Xdp(queues, program))
    }
}

#[cfg(test)]
mod tests;
