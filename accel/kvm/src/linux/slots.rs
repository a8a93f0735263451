//! Memory slots: the RAM and ROM of the guest's flat view, as KVM knows them.
//!
//! A range becomes a slot without its unaligned ends; what is not in a slot exits as MMIO and is carried out
//! on the view itself, so it stays correct and is merely slow. ROM is a read-only slot: reads are direct, writes
//! exit.
//!
//! Invariants: the table and the kernel agree; each slot holds its RAM block alive; a change that takes away
//! memory and puts other memory in its place happens while no vCPU is in `KVM_RUN`.

use std::sync::Arc;
use std::time::Duration;

use accel::AccelError;
use guest_memory::{FlatRange, ListenerError, PAGE_SIZE, RamBlock, ViewChange, ViewListener};
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
    kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm as KvmFd, VmFd};
use parking_lot::{Mutex, RwLock};

use super::ring::{self, Rings};
use super::{ioctl, kick::Shared, refused};
use crate::NAME;

/// Accelerator property: entries of each vCPU's dirty ring; 0, as by default, is the bitmap instead.
pub(crate) const RING_PROPERTY: &str = "dirty-ring-size";

#[derive(Clone)]
struct Slot {
    id: u32,
    gpa: u64,
    size: u64,
    block: Arc<RamBlock>,
    offset: u64,
    read_only: bool,
}

impl Slot {
    fn flags(&self, log: bool) -> u32 {
        if self.read_only {
            KVM_MEM_READONLY
        } else if log {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        }
    }
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    /// Numbers free for use below `next`.
    free: Vec<u32>,
    next: u32,
    log: bool,
}

/// The slots of one partition.
pub(crate) struct Slots {
    vm: Arc<VmFd>,
    vcpus: Vec<Arc<Shared>>,
    /// Held for reading by each vCPU inside of `KVM_RUN`.
    gate: Arc<RwLock<()>>,
    limit: usize,
    page: u64,
    read_only_memory: bool,
    /// How written pages are told, where it is not by bitmaps.
    rings: Option<Rings>,
    table: Mutex<Table>,
}

/// Reads [`RING_PROPERTY`] and turns the rings of a new machine on. The number of entries of each, if there are rings.
pub(crate) fn enable_rings(
    kvm: &KvmFd,
    vm: &VmFd,
    properties: &[(String, String)],
) -> Result<Option<usize>, AccelError> {
    let Some((key, value)) = properties.iter().rev().find(|(k, _)| k == RING_PROPERTY) else {
        return Ok(None);
    };
    let bad = |problem: String| AccelError::Property { accel: NAME, key: key.clone(), problem };
    let caps = [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING];
    let offered = caps.into_iter().map(|cap| (cap, kvm.check_extension_raw(cap.into())));
    let (cap, most) = offered.max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
    let most = u64::try_from(most).unwrap_or(0) / ring::ENTRY_SIZE;
    let entries = match value.parse::<u64>() {
        Ok(0) => return Ok(None),
        Ok(_) if most == 0 => return Err(bad("the host's KVM has no dirty rings".to_owned())),
        Ok(n) if n.is_power_of_two() && (LEAST_ENTRIES..=most).contains(&n) => n,
        _ => {
            return Err(bad(format!(
                "'{value}': expected 0 or a power of two from {LEAST_ENTRIES} to {most}"
            )));
        }
    };
    let request = kvm_enable_cap { cap, args: [entries * ring::ENTRY_SIZE, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&request).map_err(refused("enabling dirty rings (KVM_CAP_DIRTY_LOG_RING)"))?;
    Ok(usize::try_from(entries).ok())
}

/// Fewest entries of a ring: KVM keeps some in reserve for what the processor has logged already.
const LEAST_ENTRIES: u64 = 1024;

impl Slots {
    pub(crate) fn new(
        vm: Arc<VmFd>,
        vcpus: Vec<Arc<Shared>>,
        gate: Arc<RwLock<()>>,
        limit: usize,
        rings: Option<Rings>,
    ) -> Self {
        let read_only_memory = vm.check_extension(kvm_ioctls::Cap::ReadonlyMem);
        let page = ioctl::page_size();
        Self { vm, vcpus, gate, limit, page, read_only_memory, rings, table: Mutex::default() }
    }

    /// The part of a range that a slot can hold, or nothing.
    fn shape(&self, range: &FlatRange) -> Option<Slot> {
        let block = range.readable_ram()?;
        let read_only = range.writable_ram().is_none();
        if read_only && !self.read_only_memory {
            return None;
        }
        let gpa = range.start.checked_next_multiple_of(self.page)?;
        let end = match range.last.checked_add(1) {
            Some(end) => end / self.page * self.page,
            // A range that ends at 2^64 loses its last page: KVM counts in pages from 0.
            None => range.last / self.page * self.page,
        };
        let size = end.checked_sub(gpa).filter(|&s| s > 0)?;
        let offset = range.offset.checked_add(gpa - range.start)?;
        if !offset.is_multiple_of(self.page) {
            tracing::warn!(region = %range.name, "is not aligned to a page in its RAM block: accesses will be slow");
            return None;
        }
        Some(Slot { id: 0, gpa, size, block: block.clone(), offset, read_only })
    }

    fn set(&self, slot: &Slot, size: u64, log: bool) -> Result<(), AccelError> {
        let region = kvm_userspace_memory_region {
            slot: slot.id,
            flags: if size == 0 { 0 } else { slot.flags(log) },
            guest_phys_addr: slot.gpa,
            memory_size: size,
            userspace_addr: slot.block.host_ptr().as_ptr() as u64 + slot.offset,
        };
        ioctl::set_memory(&self.vm, region).map_err(refused("setting a KVM memory slot"))
    }

    fn add(&self, table: &mut Table, mut slot: Slot) -> Result<(), AccelError> {
        if table.slots.len() >= self.limit {
            let problem = format!("the host's KVM has {} memory slots, the guest needs more", self.limit);
            return Err(AccelError::Memory { accel: NAME, problem });
        }
        slot.id = table.free.pop().unwrap_or_else(|| {
            table.next += 1;
            table.next - 1
        });
        if let Err(e) = self.set(&slot, slot.size, table.log) {
            table.free.push(slot.id);
            let problem = format!("slot for {:#x} to {:#x}: {e}", slot.gpa, slot.gpa + slot.size - 1);
            return Err(AccelError::Memory { accel: NAME, problem });
        }
        table.slots.push(slot);
        Ok(())
    }

    fn remove(&self, table: &mut Table, gpa: u64) -> Result<(), AccelError> {
        let Some(at) = table.slots.iter().position(|s| s.gpa == gpa) else { return Ok(()) };
        if table.log {
            // What was logged goes away with the slot.
            self.collect(table, at)?;
        }
        self.set(&table.slots[at], 0, false)?;
        let slot = table.slots.swap_remove(at);
        table.free.push(slot.id);
        Ok(())
    }

    /// Moves the pages logged for one slot into its block; with rings, those of all slots.
    fn collect(&self, table: &Table, at: usize) -> Result<(), AccelError> {
        if self.rings.is_some() {
            return self.collect_rings(table);
        }
        let slot = &table.slots[at];
        if slot.read_only {
            return Ok(());
        }
        let words = self
            .vm
            .get_dirty_log(slot.id, slot.size as usize)
            .map_err(refused("reading KVM's dirty page log"))?;
        for (i, word) in words.into_iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                let page = i as u64 * 64 + u64::from(rest.trailing_zeros());
                rest &= rest - 1;
                self.mark(slot, page);
            }
        }
        Ok(())
    }

    fn mark(&self, slot: &Slot, page: u64) {
        slot.block.set_dirty(slot.offset + page * self.page, self.page.max(PAGE_SIZE));
    }

    fn collect_rings(&self, table: &Table) -> Result<(), AccelError> {
        let Some(rings) = &self.rings else { return Ok(()) };
        let each = &mut |id, page: u64| {
            // A page beyond its slot would be the kernel's mistake; it marks nothing.
            if let Some(slot) = table.slots.iter().find(|s| s.id == id)
                && page < slot.size / self.page
            {
                self.mark(slot, page);
            }
        };
        rings.collect(&self.vm, each).map_err(refused("collecting dirty rings (KVM_RESET_DIRTY_RINGS)"))
    }

    /// Makes room in the rings, for a vCPU that finds its own full.
    pub(crate) fn drain_rings(&self) -> Result<(), AccelError> {
        self.collect_rings(&self.table.lock())
    }

    /// Collects everything; vCPUs keep some written pages to themselves until they leave `KVM_RUN`.
    fn collect_all(&self, table: &Table) -> Result<(), AccelError> {
        if self.rings.is_some() {
            return self.collect_rings(table);
        }
        (0..table.slots.len()).try_for_each(|at| self.collect(table, at))
    }

    /// Starts or stops logging.
    pub(crate) fn set_log(&self, on: bool) -> Result<(), AccelError> {
        if !on {
            self.sync_log()?;
        }
        let mut table = self.table.lock();
        if table.log == on {
            return Ok(());
        }
        for slot in table.slots.iter().filter(|s| !s.read_only) {
            self.set(slot, slot.size, on)?;
        }
        table.log = on;
        Ok(())
    }

    /// Collects what was logged.
    pub(crate) fn sync_log(&self) -> Result<(), AccelError> {
        let collect = || {
            let table = self.table.lock();
            if table.log { self.collect_all(&table) } else { Ok(()) }
        };
        if self.rings.is_some() { self.while_stopped(collect) } else { collect() }
    }

    /// Runs `f` while no vCPU is inside of `KVM_RUN`. Callable from a vCPU's device callback.
    fn while_stopped<R>(&self, f: impl FnOnce() -> R) -> R {
        loop {
            self.vcpus.iter().for_each(|v| v.poke());
            if let Some(_closed) = self.gate.try_write_for(Duration::from_millis(2)) {
                return f();
            }
        }
    }

    fn apply(&self, removed: &[Slot], added: Vec<Slot>) -> Result<(), AccelError> {
        let mut table = self.table.lock();
        removed.iter().try_for_each(|s| self.remove(&mut table, s.gpa))?;
        added.into_iter().try_for_each(|s| self.add(&mut table, s))
    }
}

impl ViewListener for Slots {
    fn changed(&self, change: &ViewChange) -> Result<(), ListenerError> {
        let removed: Vec<_> = change.removed.iter().filter_map(|r| self.shape(r)).collect();
        let added: Vec<_> = change.added.iter().filter_map(|r| self.shape(r)).collect();
        let replaces =
            removed.iter().any(|r| added.iter().any(|a| r.gpa < a.gpa + a.size && a.gpa < r.gpa + r.size));
        let done = if replaces {
            self.while_stopped(|| self.apply(&removed, added))
        } else {
            self.apply(&removed, added)
        };
        done.map_err(Into::into)
    }
}
