//! Guest memory as a bus master sees it.
//!
//! [`GuestRam`] implements `vm_memory`'s guest memory traits over the writable RAM of a flat view, which is what
//! `virtio-queue` works on. Writes through it are tracked like all others. [`Dma`] adds gates: a bus master
//! whose gate (or whose bridge's gate) is shut reaches nothing.
//!
//! A bus master reaches memory, not other devices: a device is locked while it works, and two that wrote to one
//! another's registers could lock each other out for good at the guest's wish.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::guest_memory::Result as VmResult;
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryError,
    GuestMemoryLoadGuard, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionCollection, GuestUsize,
    MemoryRegionAddress, VolatileSlice,
};

use crate::Gpa;
use crate::bus::BusResult;
use crate::dirty::DirtyMap;
use crate::flat::FlatView;
use crate::ram::RamBlock;
use crate::space::AddressSpace;

/// A range of guest physical addresses backed by part of a RAM block.
#[derive(Debug, Clone)]
pub struct RamRegion {
    block: Arc<RamBlock>,
    offset: u64,
    start: Gpa,
    len: u64,
}

impl RamRegion {
    /// The block and the offset in it of the region's first byte.
    pub fn block(&self) -> (&Arc<RamBlock>, u64) {
        (&self.block, self.offset)
    }

    fn in_block(&self, addr: MemoryRegionAddress, count: u64) -> VmResult<u64> {
        let end = addr.0.checked_add(count).filter(|&end| end <= self.len);
        end.map(|_| self.offset + addr.0).ok_or(GuestMemoryError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = DirtyMap;

    fn len(&self) -> GuestUsize {
        self.len
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }

    fn bitmap(&self) -> BS<'_, DirtyMap> {
        self.block.dirty().slice_at(self.offset as usize)
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> VmResult<*mut u8> {
        let offset = self.in_block(addr, 1)?;
        Ok(self.block.host_ptr().as_ptr().wrapping_add(offset as usize))
    }

    fn get_slice(
        &self,
        addr: MemoryRegionAddress,
        count: usize,
    ) -> VmResult<VolatileSlice<'_, BS<'_, DirtyMap>>> {
        let offset = self.in_block(addr, count as u64)?;
        self.block.slice(offset, count as u64).map_err(|_| GuestMemoryError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegionBytes for RamRegion {}

/// The writable RAM of an address space at one moment.
#[derive(Debug, Clone, Default)]
pub struct GuestRam(GuestRegionCollection<RamRegion>);

/// Follows an address space: what a virtio queue holds.
pub type GuestRamAtomic = GuestMemoryAtomic<GuestRam>;

impl GuestRam {
    /// No memory at all.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn from_view(view: &FlatView) -> Self {
        let regions: Vec<_> = view
            .ranges()
            .iter()
            .filter_map(|r| {
                let block = r.writable_ram()?.clone();
                Some(RamRegion { block, offset: r.offset, start: r.start, len: r.size() })
            })
            .collect();
        // The only errors are "empty" and "not in order", and a view is in order.
        GuestRam(GuestRegionCollection::from_regions(regions).unwrap_or_default())
    }
}

impl GuestMemoryBackend for GuestRam {
    type R = RamRegion;

    fn num_regions(&self) -> usize {
        self.0.num_regions()
    }

    fn find_region(&self, addr: GuestAddress) -> Option<&RamRegion> {
        self.0.find_region(addr)
    }

    fn iter(&self) -> impl Iterator<Item = &RamRegion> {
        GuestMemoryBackend::iter(&self.0)
    }
}

/// A bus master's access did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DMA of {len:#x} bytes at {gpa:#x} failed: {why}")]
pub struct DmaError {
    /// First address of the transfer.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
    /// What stopped it.
    pub why: &'static str,
}

/// A switch on the way from a bus master to memory, e.g. a PCI function's bus-master enable.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Makes a gate.
    pub fn new(open: bool) -> Self {
        Gate(Arc::new(AtomicBool::new(open)))
    }

    /// Opens or shuts the gate.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::SeqCst);
    }

    /// Whether accesses pass.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a bus master holds. Clones share the gates. Reaches RAM, and ROM for reads; never a device.
#[derive(Clone)]
pub struct Dma {
    space: AddressSpace,
    gates: Vec<Gate>,
    nothing: GuestRamAtomic,
}

impl Dma {
    /// A bus master that is always allowed on `space`.
    pub fn new(space: AddressSpace) -> Self {
        Dma { space, gates: Vec::new(), nothing: GuestRamAtomic::new(GuestRam::new()) }
    }

    /// The same master behind one more gate.
    #[must_use]
    pub fn behind(&self, gate: Gate) -> Self {
        let mut gated = self.clone();
        gated.gates.push(gate);
        gated
    }

    /// Whether all gates are open.
    pub fn is_open(&self) -> bool {
        self.gates.iter().all(Gate::is_open)
    }

    /// The address space behind the gates.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Reads guest memory.
    pub fn read(&self, gpa: Gpa, data: &mut [u8]) -> Result<(), DmaError> {
        let len = data.len() as u64;
        self.check(gpa, len)?;
        let missed = self.space.view().peek(gpa, data) != BusResult::Ok;
        if missed { Err(DmaError { gpa, len, why: "no memory there" }) } else { Ok(()) }
    }

    /// Writes guest memory; ROM in the range keeps its contents.
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), DmaError> {
        let len = data.len() as u64;
        self.check(gpa, len)?;
        let missed = self.space.view().write_memory(gpa, data) != BusResult::Ok;
        if missed { Err(DmaError { gpa, len, why: "no memory there" }) } else { Ok(()) }
    }

    fn check(&self, gpa: Gpa, len: u64) -> Result<(), DmaError> {
        if self.is_open() { Ok(()) } else { Err(DmaError { gpa, len, why: "bus mastering is off" }) }
    }
}

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dma").field("space", &self.space).field("gates", &self.gates).finish_non_exhaustive()
    }
}

/// A loaded [`GuestRam`]; hold it for one batch of work.
#[derive(Clone, Debug)]
pub struct DmaGuard(GuestMemoryLoadGuard<GuestRam>);

impl Deref for DmaGuard {
    type Target = GuestRam;

    fn deref(&self) -> &GuestRam {
        &self.0
    }
}

impl GuestAddressSpace for Dma {
    type M = GuestRam;
    type T = DmaGuard;

    /// The memory the master may reach now: all of the space's RAM, or none behind a shut gate.
    fn memory(&self) -> DmaGuard {
        DmaGuard(if self.is_open() { self.space.ram().memory() } else { self.nothing.memory() })
    }
}
