//! What the host's network tells a socket about packets it sent: ICMP errors of others, and its own that a packet exceeds
//! the path's MTU.
//!
//! Only Linux keeps these for a socket that is not privileged (ip(7) and ipv6(7), `IP_RECVERR`).

use std::net::{IpAddr, SocketAddr};

use crate::icmp::Trouble;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(crate) use linux::{at_mark, fragments, next, watch};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{at_mark, fragments, next, watch};

/// One error.
#[derive(Debug)]
pub(crate) struct HostError {
    /// Where the packet went.
    pub(crate) to: Option<SocketAddr>,
    /// Who says so, if it is not this host.
    pub(crate) from: Option<IpAddr>,
    pub(crate) what: Trouble,
    /// The packet's payload, as far as it is known.
    pub(crate) data: Vec<u8>,
}
