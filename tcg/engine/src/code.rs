//! The translation cache: units by physical address and key, their links, and what makes them go away.
//!
//! A unit belongs to the RAM it was translated from, not to a virtual address space: it is found by block, offset and
//! [`Key`], so address-space switches and remappings keep it. Pages that hold translated code are *watched* in their
//! RAM block; a write to one drops the units that overlap it.
//!
//! Lock order: translator, exec, maps. Nobody waits for another vCPU while holding `maps`.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use guest_memory::{PAGE_SIZE, RamBlock, WriteHook};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::{
    Key,
    backend::Code,
    shared::{VcpuShared, request},
};

/// A RAM block's identity: its address. Blocks outlive the views that show them, which every vCPU holds while it runs.
pub(crate) type BlockRef = usize;

/// The "block" of partitions whose guest addresses are host addresses: offsets in it are guest addresses.
pub(crate) const DIRECT: BlockRef = usize::MAX;

/// Identity of a block.
pub(crate) fn block_ref(block: &Arc<RamBlock>) -> BlockRef {
    Arc::as_ptr(block) as usize
}

/// Where a unit's code lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UnitKey {
    pub(crate) block: BlockRef,
    pub(crate) offset: u64,
    pub(crate) key: Key,
}

/// A translated unit.
pub(crate) struct Unit {
    pub(crate) at: UnitKey,
    /// Guest bytes it was made from.
    pub(crate) len: u32,
    /// Page (block and offset) of the bytes behind the first page's end, if it crosses one.
    pub(crate) second: Option<(BlockRef, u64)>,
    /// Cache generation it belongs to.
    pub(crate) generation: u64,
    /// Set before its jump cache entries are struck.
    pub(crate) dropped: AtomicBool,
    /// The bytes it was made from, where stores to them are not watched.
    pub(crate) bytes: Option<Box<[u8]>>,
    pub(crate) code: Code,
}

impl Unit {
    /// Address range in its first block, cut at the page's end.
    fn first_part(&self) -> Range<u64> {
        let end = (self.at.offset / PAGE_SIZE + 1) * PAGE_SIZE;
        self.at.offset..(self.at.offset + u64::from(self.len)).min(end)
    }

    fn overlaps(&self, block: BlockRef, range: &Range<u64>) -> bool {
        let first = self.first_part();
        (self.at.block == block && first.start < range.end && range.start < first.end)
            || self.second.is_some_and(|(b, page)| {
                let len = u64::from(self.len) - (first.end - first.start);
                b == block && page < range.end && range.start < page + len
            })
    }

    fn pages(&self) -> impl Iterator<Item = (BlockRef, u64)> {
        std::iter::once((self.at.block, self.at.offset / PAGE_SIZE))
            .chain(self.second.map(|(b, page)| (b, page / PAGE_SIZE)))
    }
}

/// A unit's place among its neighbours.
#[derive(Default)]
struct Node {
    /// Links into this unit: who, and which of its links.
    incoming: Vec<(Arc<Unit>, u32)>,
    /// Links out of it that are patched.
    outgoing: Vec<(u32, Arc<Unit>)>,
}

#[derive(Default)]
struct Maps {
    units: FxHashMap<UnitKey, Arc<Unit>>,
    pages: FxHashMap<(BlockRef, u64), Vec<Arc<Unit>>>,
    /// Link graph, by the unit's address.
    nodes: FxHashMap<usize, Node>,
    /// Host code ranges, ascending: start and unit.
    hosts: Vec<(u64, Arc<Unit>)>,
    /// Units that keep their bytes.
    volatile: FxHashMap<usize, Arc<Unit>>,
}

fn id(u: &Arc<Unit>) -> usize {
    Arc::as_ptr(u) as usize
}

/// The cache of one partition.
pub(crate) struct CodeCache {
    maps: RwLock<Maps>,
    generation: AtomicU64,
    /// Held for reading while translated code runs, for writing while the code memory is emptied.
    pub(crate) exec: RwLock<()>,
    /// Held while translating.
    pub(crate) translating: Mutex<()>,
    vcpus: RwLock<Vec<Arc<VcpuShared>>>,
    pub(crate) invalidations: AtomicU64,
}

impl CodeCache {
    pub(crate) fn new(vcpus: Vec<Arc<VcpuShared>>) -> Self {
        Self {
            maps: RwLock::default(),
            generation: AtomicU64::new(1),
            exec: RwLock::new(()),
            translating: Mutex::new(()),
            vcpus: RwLock::new(vcpus),
            invalidations: AtomicU64::new(0),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, at: &UnitKey) -> Option<Arc<Unit>> {
        self.maps.read().units.get(at).cloned()
    }

    /// The unit whose host code holds `address`, also if it has been dropped since.
    pub(crate) fn by_host(&self, address: u64) -> Option<Arc<Unit>> {
        let maps = self.maps.read();
        let i = maps.hosts.partition_point(|(start, _)| *start <= address);
        let (_, unit) = maps.hosts.get(i.checked_sub(1)?)?;
        unit.code.holds(address).then(|| unit.clone())
    }

    pub(crate) fn insert(&self, unit: &Arc<Unit>) {
        let mut maps = self.maps.write();
        for p in unit.pages() {
            maps.pages.entry(p).or_default().push(unit.clone());
        }
        if let Some(start) = unit.code.entry() {
            // Code memory is handed out upwards, so this is an append.
            let i = maps.hosts.partition_point(|(s, _)| *s < start);
            maps.hosts.insert(i, (start, unit.clone()));
        }
        if unit.bytes.is_some() {
            maps.volatile.insert(id(unit), unit.clone());
        }
        maps.units.insert(unit.at, unit.clone());
    }

    /// Keeps every other thread out of the maps while the process forks.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn freeze(&self) -> impl Sized + '_ {
        (self.maps.write(), self.vcpus.write())
    }

    /// Makes the locks that [`CodeCache::freeze`] took new.
    ///
    /// # Safety
    /// This thread is the only one, and has forgotten what `freeze` gave it.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[expect(unsafe_code, reason = "locks are remade in a forked child")]
    pub(crate) unsafe fn thaw(&self) {
        // SAFETY: by the caller's promise.
        unsafe {
            crate::direct::remake_rwlock(&self.maps);
            crate::direct::remake_rwlock(&self.vcpus);
        }
    }

    /// A vCPU that appeared.
    pub(crate) fn add_vcpu(&self, v: &Arc<VcpuShared>) {
        self.vcpus.write().push(v.clone());
    }

    /// A vCPU that went away.
    pub(crate) fn remove_vcpu(&self, v: &Arc<VcpuShared>) {
        self.vcpus.write().retain(|x| !Arc::ptr_eq(x, v));
    }

    /// Number of units.
    pub(crate) fn len(&self) -> usize {
        self.maps.read().units.len()
    }

    /// Patches link `index` of `from` to jump to `to`, unless either has been dropped.
    pub(crate) fn link(&self, from: &Arc<Unit>, index: u32, to: &Arc<Unit>, patch: impl FnOnce()) {
        let mut maps = self.maps.write();
        let alive = |u: &Arc<Unit>| maps.units.get(&u.at).is_some_and(|x| Arc::ptr_eq(x, u));
        if !alive(from) || !alive(to) {
            return;
        }
        let out = &mut maps.nodes.entry(id(from)).or_default().outgoing;
        if out.iter().any(|(i, _)| *i == index) {
            return;
        }
        out.push((index, to.clone()));
        maps.nodes.entry(id(to)).or_default().incoming.push((from.clone(), index));
        patch();
    }

    /// Drops the units that overlap `range` of `block`, and stops watching pages that hold none any more. True if there
    /// were any.
    pub(crate) fn invalidate(&self, block: &Arc<RamBlock>, range: &Range<u64>) -> bool {
        let b = block_ref(block);
        let mut maps = self.maps.write();
        let pages = range.start / PAGE_SIZE..=range.end.saturating_sub(1) / PAGE_SIZE;
        let dropped = drop_units(&mut maps, b, range);
        for page in pages {
            if maps.pages.get(&(b, page)).is_none_or(Vec::is_empty) {
                maps.pages.remove(&(b, page));
                block.unwatch(page * PAGE_SIZE, PAGE_SIZE);
            }
        }
        drop(maps);
        self.strike(&dropped)
    }

    /// Drops the units that overlap a range of guest addresses, where these are host addresses.
    pub(crate) fn invalidate_direct(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let dropped = drop_units(&mut self.maps.write(), DIRECT, range);
        self.strike(&dropped)
    }

    /// Drops the units whose bytes, as `read` gives them, are not those they were made from.
    pub(crate) fn recheck(&self, read: impl Fn(u64, &mut [u8]) -> bool) {
        let volatile: Vec<_> = self.maps.read().volatile.values().cloned().collect();
        let mut now = Vec::new();
        for u in volatile {
            let Some(bytes) = &u.bytes else { continue };
            now.resize(bytes.len(), 0);
            let pc = u.at.key.pc;
            if !read(pc, &mut now) || now[..] != bytes[..] {
                self.invalidate_direct(&(pc..pc + u64::from(u.len).max(1)));
            }
        }
    }

    /// Strikes dropped units from the caches of all vCPUs. True if there were any.
    fn strike(&self, dropped: &[Arc<Unit>]) -> bool {
        if dropped.is_empty() {
            return false;
        }
        self.invalidations.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        let vcpus = self.vcpus.read();
        for u in dropped {
            u.dropped.store(true, Ordering::SeqCst);
            if let Some(code) = u.code.entry() {
                vcpus.iter().for_each(|v| v.strike_jump(u.at.key.pc, code));
            }
        }
        true
    }

    /// Drops everything. The caller holds `exec` for writing: no vCPU is inside translated code.
    pub(crate) fn clear(&self) {
        let mut maps = self.maps.write();
        *maps = Maps::default();
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes every vCPU leave translated code soon.
    pub(crate) fn stop_all(&self) {
        for v in self.vcpus.read().iter() {
            v.request(request::FLUSH_JUMPS);
        }
    }
}

/// Takes the units that overlap `range` of block `b` out.
fn drop_units(maps: &mut Maps, b: BlockRef, range: &Range<u64>) -> Vec<Arc<Unit>> {
    let pages = range.start / PAGE_SIZE..=range.end.saturating_sub(1) / PAGE_SIZE;
    let mut dropped: Vec<Arc<Unit>> = Vec::new();
    let mut look = |list: &Vec<Arc<Unit>>| {
        dropped.extend(list.iter().filter(|u| u.overlaps(b, range)).cloned());
    };
    if pages.end() - pages.start() < maps.pages.len() as u64 {
        pages.filter_map(|page| maps.pages.get(&(b, page))).for_each(&mut look);
    } else {
        let mine = maps.pages.iter().filter(|((block, page), _)| *block == b && pages.contains(page));
        mine.for_each(|(_, list)| look(list));
    }
    for u in &dropped {
        remove(maps, u);
    }
    dropped
}

fn remove(maps: &mut Maps, u: &Arc<Unit>) {
    if maps.units.get(&u.at).is_some_and(|x| Arc::ptr_eq(x, u)) {
        maps.units.remove(&u.at);
    }
    if u.bytes.is_some() {
        maps.volatile.remove(&id(u));
    }
    for p in u.pages() {
        if let Some(list) = maps.pages.get_mut(&p) {
            list.retain(|x| !Arc::ptr_eq(x, u));
        }
    }
    let Some(node) = maps.nodes.remove(&id(u)) else { return };
    for (from, index) in node.incoming {
        from.code.unlink(index);
        if let Some(n) = maps.nodes.get_mut(&id(&from)) {
            n.outgoing.retain(|(i, _)| *i != index);
        }
    }
    for (index, to) in node.outgoing {
        u.code.unlink(index);
        if let Some(n) = maps.nodes.get_mut(&id(&to)) {
            n.incoming.retain(|(f, i)| !(Arc::ptr_eq(f, u) && *i == index));
        }
    }
}

/// Follows writes to one RAM block that do not come from a vCPU's own store.
pub(crate) struct BlockHook {
    pub(crate) cache: Arc<CodeCache>,
    pub(crate) block: std::sync::Weak<RamBlock>,
}

impl WriteHook for BlockHook {
    fn on_write(&self, range: Range<u64>) {
        if let Some(block) = self.block.upgrade() {
            self.cache.invalidate(&block, &range);
        }
    }
}
