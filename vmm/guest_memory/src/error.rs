//! Errors of guest memory. Guest-caused failures are not here: those are [`crate::BusResult`]s.

use std::io;

use crate::region::RegionId;
use crate::space::ListenerError;

/// Why a RAM block could not be made or accessed.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The requested size is zero or cannot be represented in the host's address space.
    #[error("RAM '{name}': a size of {size:#x} bytes is not possible on this host")]
    BadSize {
        /// Name of the block.
        name: String,
        /// Requested size in bytes.
        size: u64,
    },
    /// The host refused the mapping.
    #[error("RAM '{name}': the host cannot map {size:#x} bytes: {source}")]
    Map {
        /// Name of the block.
        name: String,
        /// Requested size in bytes.
        size: u64,
        /// The host's reason.
        source: io::Error,
    },
    /// The backing file could not be opened, created or sized.
    #[error("RAM '{name}': backing file {path}: {source}")]
    File {
        /// Name of the block.
        name: String,
        /// Path (or kind) of the backing.
        path: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The host's pool of huge pages is too small.
    #[error(
        "RAM '{name}': {needed} huge pages of {page} KiB are needed, the host's pool has {free} free; \
         enlarge it (/sys/kernel/mm/hugepages/hugepages-{page}kB/nr_hugepages) or leave huge pages out"
    )]
    HugePages {
        /// Name of the block.
        name: String,
        /// Size of a huge page in KiB.
        page: u64,
        /// Pages needed.
        needed: u64,
        /// Pages free, as far as is known.
        free: u64,
    },
    /// The memory could not be made present in advance.
    #[error("RAM '{name}': {size:#x} bytes cannot be allocated in advance: {source}")]
    Populate {
        /// Name of the block.
        name: String,
        /// Size in bytes.
        size: u64,
        /// The host's reason.
        source: io::Error,
    },
    /// The host does not offer this backing.
    #[error("RAM '{name}': {what} is not available on this host")]
    Unsupported {
        /// Name of the block.
        name: String,
        /// The backing or option asked for.
        what: &'static str,
    },
    /// An access beyond the end of the block.
    #[error("RAM '{name}': access of {len:#x} bytes at {offset:#x} is outside its {size:#x} bytes")]
    OutOfRange {
        /// Name of the block.
        name: String,
        /// Offset of the access in bytes.
        offset: u64,
        /// Length of the access in bytes.
        len: u64,
        /// Size of the block in bytes.
        size: u64,
    },
}

/// Why the region tree could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The id does not name a region of this tree.
    #[error("no region {0:?} in this address space")]
    NoRegion(RegionId),
    /// A region would have to end beyond 2^64.
    #[error("region '{name}' of {size:#x} bytes does not fit at {offset:#x}")]
    Overflow {
        /// Name of the region.
        name: String,
        /// Offset in the parent, in bytes.
        offset: u64,
        /// Size of the region, in bytes.
        size: u128,
    },
    /// A region needs a size of at least one byte, and RAM no more than its block has.
    #[error("region '{name}': size {size:#x} is not possible")]
    BadSize {
        /// Name of the region.
        name: String,
        /// The size asked for, in bytes.
        size: u128,
    },
    /// The region already has a parent.
    #[error("region '{0}' is already placed")]
    Placed(String),
    /// Regions are placed in containers (or in device regions), not in aliases.
    #[error("region '{0}' is an alias and cannot hold other regions")]
    NotContainer(String),
    /// The change would make a region contain itself.
    #[error("region '{0}' would contain itself")]
    Cycle(String),
    /// The region is still the destination of an alias.
    #[error("region '{0}' is still aliased by '{1}'")]
    Aliased(String, String),
    /// The operation does not apply to this kind of region.
    #[error("region '{0}' is not {1}")]
    WrongKind(String, &'static str),
    /// A listener could not follow the change; the view is published all the same.
    #[error("memory map of '{space}': {source}")]
    Listener {
        /// Name of the address space.
        space: String,
        /// What the listener said.
        source: ListenerError,
    },
}
