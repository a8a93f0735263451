//! The block contract: what a disk is to a device, and what formats, protocols and filters implement.
//!
//! A [`BlockNode`] is one storey of a disk: a file, a format over another node, a filter. A device holds a
//! [`Disk`], a cheap handle that checks every request against the disk's size and access mode, so that nodes
//! need not, and counts what is in flight, so that a machine can be quiesced.
//!
//! Nodes are synchronous; [`Disk::spawn`] runs requests on a small pool of threads. Sizes and offsets are bytes.

mod disk;
mod error;
mod file;
mod memory;
mod node;
mod null;
mod policy;
mod pool;
mod raw;

pub use disk::{Disk, DiskStats, RequestId};
pub use error::{BlockError, reason};
pub use file::{Aio, CacheMode, FileNode, FileOptions, Sharing};
pub use memory::MemoryNode;
pub use node::{BlockNode, Extent, NodeInfo};
pub use null::NullNode;
pub use policy::{ErrorAction, ErrorPolicy, Failure, FailureSink, OnError};
pub use pool::IoPool;
pub use raw::{RawFile, RawOptions};

/// The unit disks are addressed in by most guests, in bytes. Disk sizes are multiples of it.
pub const SECTOR: u64 = 512;
