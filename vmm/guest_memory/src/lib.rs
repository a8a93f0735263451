//! Guest physical memory: RAM blocks, the region tree, and the flat view everything is dispatched through.
//!
//! Three layers, each usable without the one above it:
//!
//! - [`RamBlock`]: host memory that backs guest RAM. It can be anonymous, a memfd, or a file; reads and writes
//!   through it are bounds-checked, volatile and tracked in dirty bitmaps.
//! - [`AddressSpace`]: a tree of regions (RAM, ROM, devices, aliases, containers) with priorities. It is edited
//!   in transactions; each commit flattens it into an immutable [`FlatView`] and tells listeners the difference.
//!   Accelerators turn that difference into slots, the translator into TLB flushes.
//! - [`Dma`]: what a bus master holds. It sees the address space's RAM as a `vm_memory` guest memory and can be
//!   gated (PCI bus-master enable).
//!
//! Accesses that reach a device go through [`IoHandler`]. Port I/O is simply a second, 64 KiB address space.
//!
//! All `unsafe` of the crate is in `host`.

mod bus;
mod dirty;
mod dma;
mod error;
mod flat;
mod host;
mod ram;
mod region;
mod space;

pub use bus::{Access, AccessRule, BusResult, IoHandler};
pub use dirty::{DirtyClient, DirtyMap, DirtyPages, DirtySlice, WriteHook};
pub use dma::{Dma, DmaError, DmaGuard, Gate, GuestRam, GuestRamAtomic, RamRegion};
pub use error::{MemoryError, RamError};
pub use flat::{FlatRange, FlatView, RangeKind};
pub use ram::{Backing, HugePages, RamBlock, RamConfig};
pub use region::{Region, RegionId};
pub use space::{AddressSpace, ListenerError, ListenerId, Transaction, Unassigned, ViewChange, ViewListener};
pub use vm_memory;

/// A guest physical address.
pub type Gpa = u64;

/// Granularity of dirty tracking and of write watches, in bytes.
pub const PAGE_SIZE: u64 = 4096;
