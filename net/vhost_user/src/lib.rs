//! The vhost-user protocol: a front end (a machine) has the rings of a virtio device served by a back end, another process.
//!
//! Source: "Vhost-user Protocol" in QEMU's interoperability documents; rings are those of virtio 1.2, 2.7. Front and back end
//! talk over a Unix socket whose messages carry descriptors: memory as files that both map, and event counters by which one
//! wakes the other.
//!
//! - [`Message`] and [`Channel`]: messages as they are, with their descriptors;
//! - [`Front`]: the front end's requests, one method each;
//! - [`Back`] and [`Device`]: a back end's session, which keeps memory and rings and calls the device for the rest;
//! - [`Memory`]: the front end's memory in the back end; [`DeviceRing`] and [`DriverRing`]: the two ends of a split ring.
//!
//! A peer is not trusted: lengths, indices and addresses are checked before they are used, and a message that is not as it
//! should be ends the session. Against a peer that cuts the shared file while we read there is no protection but the
//! host's.
#![cfg(target_os = "linux")]

mod back;
mod channel;
mod device_ring;
mod driver_ring;
mod event;
mod front;
mod memory;
mod message;

use std::io;

pub use back::{Back, Device, Ring};
pub use channel::Channel;
pub use device_ring::{Chain, DeviceRing, Segment};
pub use driver_ring::DriverRing;
pub use event::Event;
pub use front::Front;
pub use memory::{Memory, Region};
pub use message::{Message, VringAddress, backend, request};

/// Feature bits of the virtio device that the protocol itself uses or that rings need.
pub mod feature {
    /// Writes are logged, for migration.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Descriptors may refer to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Rings say by an index when to wake.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// There are protocol features.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Little-endian rings as of virtio 1.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Protocol features, as bits.
pub mod protocol {
    /// More than one queue, or pair of them.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log is in a file.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// The back end sends ARP for a guest that has moved.
    pub const RARP: u64 = 1 << 2;
    /// Any request may ask for an answer.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The back end is told a network's MTU.
    pub const MTU: u64 = 1 << 4;
    /// The back end has requests too, on a channel of their own.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// The back end has the device's configuration.
    pub const CONFIG: u64 = 1 << 9;
    /// Requests under way are kept in memory that outlives the back end.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// The device can be reset.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Pieces of memory come and go one by one.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// The device status is passed on.
    pub const STATUS: u64 = 1 << 16;
}

/// Most pieces of memory in a table; what fits into one message.
pub const MOST_REGIONS: usize = 8;

/// What went wrong with a peer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket, or memory that came by it.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// The peer has closed the socket.
    #[error("the peer is gone")]
    Gone,
    /// The peer has said something that is not as it should be.
    #[error("{request}: {why}")]
    Protocol {
        /// Name of the request.
        request: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The peer refused a request.
    #[error("{0}: the peer refuses")]
    Refused(&'static str),
}

impl Error {
    pub(crate) fn host(what: &'static str, source: impl Into<io::Error>) -> Self {
        Error::Host { what, source: source.into() }
    }

    pub(crate) fn protocol(id: u32, why: impl Into<String>) -> Self {
        Error::Protocol { request: request::name(id), why: why.into() }
    }
}

#[cfg(test)]
mod tests;
