//! Rings handed over: the contract between a virtio device and who serves its queues in its stead.
//!
//! A device that a driver has set up gives a [`Backend`] a [`Plan`]: the features in use, the guest's memory and, for each ring,
//! where it lies, where it goes on and the two event counters by which driver and back end wake one another. From then on
//! buffers go between guest and back end without anybody in between. [`Backend::stop`] takes the rings back and says where
//! each stands; the device may go on with them itself.
//!
//! There are two kinds of back end. Another process speaks the vhost-user protocol ([`user`]) and maps memory by its
//! files. The host's kernel has drivers ([`Kernel`]: vhost-net, vhost-vsock) which take addresses of this process.
//!
//! A back end writes to memory without our seeing it. Whoever has to see each write (a migration) has the rings taken back
//! first; see `docs/network.md` for what that means for the translator.
//!
//! Invariants: `start` and `stop` alternate; what a back end says of a ring is its word alone, and whoever goes on with the
//! ring checks what it finds there.
#![cfg(target_os = "linux")]

mod kernel;
mod table;
pub mod user;

use std::io;

pub use kernel::{Driver, Kernel, KernelVsock, NET, VSOCK};
pub use table::{Piece, Table};
pub use vhost_user::{Event, VringAddress};

/// Feature bits that the contract itself looks at (virtio 1.2, 6).
pub mod feature {
    pub use vhost_user::feature::{EVENT_IDX, INDIRECT_DESC, VERSION_1};
}

/// A split ring that is handed over.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    /// Its number in the device.
    pub index: u16,
    /// Number of entries.
    pub size: u16,
    /// The entry of the available ring that comes next.
    pub base: u16,
    /// Guest physical address of the table of descriptors.
    pub descriptors: u64,
    /// The same of the available ring.
    pub available: u64,
    /// The same of the used ring.
    pub used: u64,
    /// Signalled when the driver has added buffers.
    pub kick: &'a Event,
    /// Signalled by the back end when the driver is to be interrupted.
    pub call: &'a Event,
}

impl Ring<'_> {
    /// Where it is in this process, as number `index`.
    ///
    /// # Errors
    /// It does not lie in the memory that is handed over.
    pub fn address(&self, memory: &Table, index: u32) -> Result<VringAddress, Error> {
        let n = u64::from(self.size);
        let find = |at, length| memory.host(at, length).ok_or(Error::Outside(self.index));
        Ok(VringAddress {
            index,
            descriptors: find(self.descriptors, 16 * n)?,
            available: find(self.available, 6 + 2 * n)?,
            used: find(self.used, 6 + 8 * n)?,
            ..VringAddress::default()
        })
    }
}

/// All that a back end needs.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Features in use, without those that the device deals with itself.
    pub features: u64,
    /// The guest's memory.
    pub memory: &'a Table,
    /// Rings, in the order of their numbers.
    pub rings: &'a [Ring<'a>],
}

/// Who serves rings. Calls come from any thread, one at a time.
pub trait Backend: Send + Sync {
    /// Features that it has, of the device and of its rings; nothing while nobody is there.
    fn features(&self) -> Option<u64>;

    /// Whether it maps memory by files, so that only memory that has one can be handed over.
    fn maps_files(&self) -> bool;

    /// Serves these rings from now on.
    ///
    /// # Errors
    /// It cannot: no ring is served.
    fn start(&self, plan: &Plan<'_>) -> Result<(), Error>;

    /// The guest's memory has changed while rings are served.
    ///
    /// # Errors
    /// It cannot have this memory; the rings are to be taken back.
    fn set_memory(&self, memory: &Table) -> Result<(), Error>;

    /// Serves no ring any longer: the entry with which each goes on, in the order of the plan. Nothing if it is gone: then the
    /// rings go on behind what was used.
    fn stop(&self) -> Option<Vec<u16>>;
}

/// Why rings were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ring is not in memory that can be handed over.
    #[error("queue {0}: its ring is not in memory that the back end can reach")]
    Outside(u16),
    /// More pieces of memory than the back end takes.
    #[error("guest memory in {0} pieces, expected at most {1}")]
    Pieces(usize, usize),
    /// A driver of the host's kernel.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted.
        what: String,
        /// The host's reason.
        source: io::Error,
    },
    /// Another process.
    #[error(transparent)]
    Peer(#[from] vhost_user::Error),
    /// Nobody serves.
    #[error("the back end is gone")]
    Gone,
}

#[cfg(test)]
mod tests;
