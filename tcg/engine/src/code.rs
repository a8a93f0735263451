//! The translation cache: units by physical address and key, their links, and what makes them go away.
//!
//! A unit belongs to the RAM it was translated from, not to a virtual address space: it is found by block, offset and
//! [`Key`], so address-space switches and remappings keep it. Pages that hold translated code are *watched* in their
//! RAM block; a write to one drops the units that overlap it.
//!
//! A unit of the second tier takes the place of the first's and gets its links. Only the second tier's units are in jump
//! caches, and no loop consists of patched links between units of the first alone: those do not look for exit requests.
//!
//! Lock order: translator, exec, maps. Nobody waits for another vCPU while holding `maps`.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use guest_memory::{PAGE_SIZE, RamBlock, WriteHook};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::{
    Key,
    backend::{Backend, Code},
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

/// log2 of the stretches in which the unit at a host address is looked for.
const STRETCH_BITS: u32 = 12;

/// Bytes no instruction of any guest is longer than.
const LONGEST_INSN: u16 = 16;

/// No unit, or no link.
const NONE: u32 = u32::MAX;

/// Most units at once; their numbers share a word with the number of a link.
const MAX_UNITS: usize = 1 << 24;

/// How much work went into a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// One block, made when its code first runs.
    First,
    /// A stretch with loops, made when its code has run several times.
    Second,
}

/// One of a unit's links. `dest` and `next` change only under the lock of the maps.
pub(crate) struct Link {
    /// Guest address it goes to.
    pub(crate) pc: u64,
    /// Offset of its displacement in the code memory.
    site: u32,
    /// Offset of its exit stub; the top bit says that it is a call.
    stub: u32,
    /// Number of the unit it is patched to go to.
    dest: AtomicU32,
    /// The next link into the same unit.
    next: AtomicU32,
}

const CALL: u32 = 1 << 31;

impl Link {
    pub(crate) fn new(pc: u64, site: u32, stub: u32, call: bool) -> Self {
        let stub = stub | if call { CALL } else { 0 };
        Self { pc, site, stub, dest: AtomicU32::new(NONE), next: AtomicU32::new(NONE) }
    }

    pub(crate) fn is_call(&self) -> bool {
        self.stub & CALL != 0
    }

    pub(crate) fn site(&self) -> u32 {
        self.site
    }

    pub(crate) fn stub(&self) -> u32 {
        self.stub & !CALL
    }
}

/// A translated unit.
pub(crate) struct Unit {
    pub(crate) at: UnitKey,
    /// Page (block and offset) of the bytes behind the first page's end, if it crosses one.
    pub(crate) second: Option<Box<(BlockRef, u64)>>,
    pub(crate) links: Box<[Link]>,
    pub(crate) code: Code,
    /// Guest bytes it was made from.
    pub(crate) len: u32,
    /// Cache generation it belongs to; 0 if it is in no cache.
    pub(crate) generation: u32,
    /// Its number in the cache.
    id: AtomicU32,
    /// First link into it.
    incoming: AtomicU32,
    /// Times the engine has been asked for it.
    pub(crate) heat: AtomicU32,
    pub(crate) tier: Tier,
    /// Set before its jump cache entries are struck.
    pub(crate) dropped: AtomicBool,
    /// The bytes it was made from, where stores to them are not watched.
    pub(crate) bytes: Option<Box<[u8]>>,
    /// What it covers in its block, if it was made of more than what follows its start: ascending and apart.
    pub(crate) spans: Option<Box<[Range<u64>]>>,
}

impl Unit {
    pub(crate) fn new(at: UnitKey, len: u32, tier: Tier, code: Code, links: Box<[Link]>) -> Self {
        Self {
            at,
            second: None,
            links,
            code,
            len,
            generation: 0,
            id: AtomicU32::new(NONE),
            incoming: AtomicU32::new(NONE),
            heat: AtomicU32::new(0),
            tier,
            dropped: AtomicBool::new(false),
            bytes: None,
            spans: None,
        }
    }

    /// True if it was made by a second look at hot code.
    pub(crate) fn is_hot(&self) -> bool {
        self.spans.is_some()
    }

    /// The link whose exit stub ends at `site`, an offset in the code memory.
    pub(crate) fn link_at(&self, site: u32) -> Option<u32> {
        let stub = site.wrapping_sub(tcg_codegen::LINK_STUB as u32);
        self.links.iter().position(|l| l.stub() == stub).map(|i| i as u32)
    }

    /// What it covers in its block, if it was made of what follows its start.
    pub(crate) fn first_span(&self) -> Range<u64> {
        if self.at.block == DIRECT {
            return self.at.offset..self.at.offset + u64::from(self.len).max(1);
        }
        let part = self.first_part();
        part.start..part.end.max(part.start + 1)
    }

    /// Address range in its first block, cut at the page's end.
    fn first_part(&self) -> Range<u64> {
        let end = (self.at.offset / PAGE_SIZE + 1) * PAGE_SIZE;
        self.at.offset..(self.at.offset + u64::from(self.len)).min(end)
    }

    fn overlaps(&self, block: BlockRef, range: &Range<u64>) -> bool {
        if let Some(spans) = &self.spans {
            return self.at.block == block
                && spans.iter().any(|s| s.start < range.end && range.start < s.end);
        }
        let first = self.first_part();
        (self.at.block == block && first.start < range.end && range.start < first.end)
            || self.second.as_deref().is_some_and(|&(b, page)| {
                let len = u64::from(self.len) - (first.end - first.start);
                b == block && page < range.end && range.start < page + len
            })
    }

    /// Its pages, each once, that of its start first.
    fn pages(&self) -> impl Iterator<Item = (BlockRef, u64)> {
        let first = self.at.offset / PAGE_SIZE;
        let spans = self.spans.as_deref().unwrap_or_default();
        let mut others: Vec<u64> =
            spans.iter().flat_map(|s| s.start / PAGE_SIZE..=(s.end - 1) / PAGE_SIZE).collect();
        others.dedup();
        others.retain(|page| *page != first);
        std::iter::once((self.at.block, first))
            .chain(self.second.as_deref().map(|&(b, page)| (b, page / PAGE_SIZE)))
            .chain(others.into_iter().map(|page| (self.at.block, page)))
    }
}

/// Spans in ascending order, apart.
pub(crate) fn merged(mut all: Vec<Range<u64>>) -> Box<[Range<u64>]> {
    all.sort_by_key(|s| s.start);
    let mut spans: Vec<Range<u64>> = Vec::new();
    for s in all {
        match spans.last_mut() {
            Some(last) if s.start <= last.end => last.end = last.end.max(s.end),
            _ => spans.push(s),
        }
    }
    spans.into()
}

/// The units that begin on a page, or reach into it.
#[derive(Default)]
struct Page {
    /// Offset in the page and number, ascending by offset.
    starts: Vec<(u16, u32)>,
    /// Numbers of units that begin on another page.
    reaching: Vec<u32>,
}

impl Page {
    fn at(&self, offset: u16) -> impl Iterator<Item = u32> {
        let first = self.starts.partition_point(|(o, _)| *o < offset);
        self.starts[first..].iter().take_while(move |(o, _)| *o == offset).map(|(_, id)| *id)
    }

    fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.reaching.is_empty()
    }
}

#[derive(Default)]
struct Maps {
    pages: FxHashMap<(BlockRef, u64), Page>,
    /// Units by number. Those with host code that have been dropped stay until nobody can be inside.
    units: Vec<Option<Arc<Unit>>>,
    /// Where the host code of each number starts, ascending, as offsets in the code memory.
    hosts: Vec<u32>,
    /// The first number of each stretch of the code memory.
    stretches: Vec<u32>,
    /// Numbers of dropped units without host code of their own.
    unused: Vec<u32>,
    /// Numbers of dropped units with host code that are still there.
    gone: Vec<u32>,
    live: usize,
    /// Units that keep their bytes, by number.
    volatile: FxHashMap<u32, Arc<Unit>>,
    /// The translation that is under way.
    reading: Reading,
    /// The second look at hot code that is under way, and the unit it is to take the place of.
    second_look: Option<(Reading, Arc<Unit>)>,
}

/// Pages that a translation has read from, or is about to, and whether one was written meanwhile.
#[derive(Default)]
struct Reading {
    pages: Vec<(BlockRef, u64)>,
    written: bool,
}

impl Reading {
    /// Notes a write to `pages` of a block; true if it is one of these.
    fn note(&mut self, block: BlockRef, pages: &std::ops::RangeInclusive<u64>) -> bool {
        let read = self.pages.iter().any(|(b, page)| *b == block && pages.contains(page));
        self.written |= read;
        read
    }
}

const fn page_offset(offset: u64) -> u16 {
    (offset & (PAGE_SIZE - 1)) as u16
}

impl Maps {
    fn unit(&self, id: u32) -> Option<&Arc<Unit>> {
        self.units.get(id as usize)?.as_ref()
    }

    fn find(&self, at: &UnitKey) -> Option<&Arc<Unit>> {
        let page = self.pages.get(&(at.block, at.offset / PAGE_SIZE))?;
        page.at(page_offset(at.offset)).filter_map(|id| self.unit(id)).find(|u| u.at == *at)
    }

    /// A link by its number.
    fn link(&self, name: u32) -> Option<(&Arc<Unit>, &Link)> {
        let unit = self.unit(name >> 8)?;
        Some((unit, unit.links.get(name as usize & 0xff)?))
    }

    /// Notes that link `name` goes to `to`.
    fn join(&self, name: u32, to: &Unit) {
        if let Some((_, l)) = self.link(name) {
            l.dest.store(to.id.load(Relaxed), Relaxed);
            l.next.store(to.incoming.swap(name, Relaxed), Relaxed);
        }
    }

    /// Takes all links into `to`, which lead nowhere then.
    fn take_incoming(&self, to: &Unit) -> Vec<u32> {
        let mut names = Vec::new();
        let mut name = to.incoming.swap(NONE, Relaxed);
        while let Some((_, l)) = self.link(name) {
            names.push(name);
            l.dest.store(NONE, Relaxed);
            name = l.next.swap(NONE, Relaxed);
        }
        names
    }

    /// Takes link `name` out of the list of those into its destination.
    fn part(&self, name: u32) {
        let Some((_, link)) = self.link(name) else { return };
        let dest = link.dest.swap(NONE, Relaxed);
        let after = link.next.swap(NONE, Relaxed);
        let Some(to) = self.unit(dest) else { return };
        let mut at = to.incoming.load(Relaxed);
        if at == name {
            to.incoming.store(after, Relaxed);
            return;
        }
        while let Some((_, l)) = self.link(at) {
            at = l.next.load(Relaxed);
            if at == name {
                l.next.store(after, Relaxed);
                return;
            }
        }
    }

    /// Takes a unit out of everything, so that nothing leads to it but jump caches. Its own links lead out of it again.
    fn remove(&mut self, backend: &Backend, u: &Arc<Unit>) {
        u.dropped.store(true, SeqCst);
        let id = u.id.load(Relaxed);
        if u.bytes.is_some() {
            self.volatile.remove(&id);
        }
        for key in u.pages() {
            if let Some(p) = self.pages.get_mut(&key) {
                p.starts.retain(|(_, x)| *x != id);
                p.reaching.retain(|x| *x != id);
            }
        }
        for name in self.take_incoming(u) {
            if let Some((_, l)) = self.link(name) {
                backend.unlink(l);
            }
        }
        for (i, l) in u.links.iter().enumerate() {
            if l.dest.load(Relaxed) != NONE {
                backend.unlink(l);
                self.part(id << 8 | i as u32);
            }
        }
        self.live -= 1;
        if u.code.is_own() {
            self.gone.push(id);
        } else if let Some(place) = self.units.get_mut(id as usize) {
            *place = None;
            self.unused.push(id);
        }
    }
}

impl Maps {
    /// Takes the units that overlap `range` of block `b` out.
    fn drop_units(&mut self, backend: &Backend, b: BlockRef, range: &Range<u64>) -> Vec<Arc<Unit>> {
        let pages = range.start / PAGE_SIZE..=range.end.saturating_sub(1) / PAGE_SIZE;
        let mut dropped: Vec<Arc<Unit>> = Vec::new();
        let mut look = |page: &Page| {
            let ids = page.starts.iter().map(|(_, id)| *id).chain(page.reaching.iter().copied());
            dropped.extend(ids.filter_map(|id| self.unit(id)).filter(|u| u.overlaps(b, range)).cloned());
        };
        if pages.end() - pages.start() < self.pages.len() as u64 {
            pages.filter_map(|page| self.pages.get(&(b, page))).for_each(&mut look);
        } else {
            let mine = self.pages.iter().filter(|((block, page), _)| *block == b && pages.contains(page));
            mine.for_each(|(_, page)| look(page));
        }
        // One that lies on two of the pages is there twice.
        dropped.retain(|u| {
            let first = !u.dropped.load(Relaxed);
            if first {
                self.remove(backend, u);
            }
            first
        });
        dropped
    }
}

/// The cache of one partition.
pub(crate) struct CodeCache {
    pub(crate) backend: Backend,
    maps: RwLock<Maps>,
    generation: AtomicU32,
    /// Most units at once.
    limit: usize,
    /// Held for reading while translated code runs, for writing while the code memory is emptied.
    pub(crate) exec: RwLock<()>,
    /// Held while translating.
    pub(crate) translating: Mutex<()>,
    vcpus: RwLock<Vec<Arc<VcpuShared>>>,
    pub(crate) invalidations: AtomicU64,
    /// Dropped units with host code that are still there, or a little less.
    gone: AtomicUsize,
}

/// Dropped units that are worth looking after.
const MANY_GONE: usize = 1024;

impl CodeCache {
    pub(crate) fn new(backend: Backend, vcpus: Vec<Arc<VcpuShared>>) -> Self {
        let limit = (backend.size() / 64).clamp(1 << 12, MAX_UNITS - 1);
        Self {
            backend,
            maps: RwLock::default(),
            generation: AtomicU32::new(1),
            limit,
            exec: RwLock::new(()),
            translating: Mutex::new(()),
            vcpus: RwLock::new(vcpus),
            invalidations: AtomicU64::new(0),
            gone: AtomicUsize::new(0),
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, at: &UnitKey) -> Option<Arc<Unit>> {
        self.maps.read().find(at).cloned()
    }

    /// Addresses on a page where units begin that a new one at `at` does well to end before: those of its own tier or a
    /// better one, under the same key. Offsets in the page, ascending. What may still be the unit's first instruction is not
    /// among them.
    pub(crate) fn stops(&self, at: &UnitKey, tier: Tier, out: &mut Vec<u16>) {
        out.clear();
        let maps = self.maps.read();
        let Some(page) = maps.pages.get(&(at.block, at.offset / PAGE_SIZE)) else { return };
        let first = page.starts.partition_point(|(o, _)| *o < page_offset(at.offset) + LONGEST_INSN);
        for &(offset, id) in &page.starts[first..] {
            let fits = maps.unit(id).is_some_and(|u| {
                u.at.key.mode == at.key.mode
                    && u.at.key.pc.wrapping_sub(at.key.pc) == u.at.offset.wrapping_sub(at.offset)
                    && u.second.is_none()
                    && (u.tier == tier || u.tier == Tier::Second)
            });
            if fits && out.last() != Some(&offset) {
                out.push(offset);
            }
        }
    }

    /// True if no more units may be made before the cache is emptied.
    pub(crate) fn is_full(&self) -> bool {
        self.maps.read().units.len() >= self.limit
    }

    /// The unit whose host code holds `address`, also if it has been dropped since.
    pub(crate) fn by_host(&self, address: u64) -> Option<Arc<Unit>> {
        let offset = self.backend.offset(address)?;
        let maps = self.maps.read();
        let stretch = (offset >> STRETCH_BITS) as usize;
        let bound = |s: usize| maps.stretches.get(s).map_or(maps.hosts.len(), |id| *id as usize);
        let (first, end) = (bound(stretch), bound(stretch + 1));
        let mut i = first + maps.hosts[first..end].partition_point(|start| *start <= offset);
        // Units without host code of their own share their neighbour's start.
        while i > 0 && maps.hosts[i - 1] <= offset {
            i -= 1;
            if let Some(u) = &maps.units[i]
                && u.code.is_own()
            {
                return u.code.holds(offset).then(|| u.clone());
            }
        }
        None
    }

    /// Begins a translation. The caller holds `translating` until the unit is in or given up.
    pub(crate) fn begin(&self) {
        self.maps.write().reading = Reading::default();
    }

    /// Notes that the translation is going to read code from a page, before it looks whether the page is watched.
    pub(crate) fn reads(&self, block: BlockRef, offset: u64) {
        self.maps.write().reading.pages.push((block, offset / PAGE_SIZE));
    }

    /// Makes a new unit known, if `keep`, in place of one that may be there. One whose code was written while it was read is
    /// dropped at once: it may have been made of what the write replaced, and is good for no more than one run. Its host code
    /// is known in any case.
    pub(crate) fn insert(&self, unit: &Arc<Unit>, keep: bool) {
        let mut maps = self.maps.write();
        let keep = keep & !std::mem::take(&mut maps.reading).written;
        let old = self.put(&mut maps, unit, keep);
        drop(maps);
        if let Some(old) = old {
            self.strike(&old);
        }
    }

    /// The second half of [`CodeCache::insert`]. Gives the unit that was there, for the caller to strike.
    fn put(&self, maps: &mut Maps, unit: &Arc<Unit>, keep: bool) -> Option<Arc<Unit>> {
        let own = unit.code.is_own();
        if !keep {
            unit.dropped.store(true, SeqCst);
            if !own {
                return None;
            }
        }
        let start = unit.code.start().filter(|_| own).or(maps.hosts.last().copied()).unwrap_or(0);
        let unused = if own { None } else { maps.unused.pop() };
        let id = match unused {
            Some(id) => {
                maps.units[id as usize] = Some(unit.clone());
                id
            }
            None => {
                // Code memory is handed out upwards, so this is an append.
                maps.units.push(Some(unit.clone()));
                maps.hosts.push(start);
                let id = maps.units.len() as u32 - 1;
                while maps.stretches.len() <= (start >> STRETCH_BITS) as usize {
                    maps.stretches.push(id);
                }
                id
            }
        };
        unit.id.store(id, Relaxed);
        if !keep {
            maps.gone.push(id);
            return None;
        }
        maps.live += 1;
        let old = maps.find(&unit.at).cloned();
        if let Some(old) = &old {
            for name in maps.take_incoming(old) {
                let Some((_, l)) = maps.link(name) else { continue };
                if unit.second.is_none() && self.backend.link(l, &unit.code) {
                    maps.join(name, unit);
                } else {
                    self.backend.unlink(l);
                }
            }
            maps.remove(&self.backend, old);
            self.gone.store(maps.gone.len(), Relaxed);
        }
        if unit.bytes.is_some() {
            maps.volatile.insert(id, unit.clone());
        }
        let mut pages = unit.pages();
        if let Some(key) = pages.next() {
            let starts = &mut maps.pages.entry(key).or_default().starts;
            let offset = page_offset(unit.at.offset);
            let i = starts.partition_point(|(o, _)| *o < offset);
            starts.insert(i, (offset, id));
        }
        for key in pages {
            maps.pages.entry(key).or_default().reaching.push(id);
        }
        old
    }

    /// Begins a second look at the code of `unit`, which is to be read from `pages` now. False if one is under way already, or the
    /// unit has been dropped: then its page may not be watched any more.
    pub(crate) fn begin_second_look(&self, unit: &Arc<Unit>, pages: impl Iterator<Item = u64>) -> bool {
        let mut maps = self.maps.write();
        let good =
            maps.second_look.is_none() && !unit.dropped.load(Relaxed) && unit.generation == self.generation();
        if good {
            let pages = pages.map(|offset| (unit.at.block, offset / PAGE_SIZE)).collect();
            maps.second_look = Some((Reading { pages, written: false }, unit.clone()));
        }
        good
    }

    /// True if nothing has happened to the code since [`CodeCache::begin_second_look`]. Only somebody who keeps translations from
    /// emptying the cache knows that this still holds a moment later, up to writes, for which the unit's insertion looks again.
    pub(crate) fn second_look_is_good(&self) -> bool {
        let maps = self.maps.read();
        maps.second_look.as_ref().is_some_and(|(r, unit)| !r.written && !unit.dropped.load(Relaxed))
    }

    /// Ends a second look. Its unit, if it has led to one, takes the place of the one it began with, unless something has happened
    /// to the code meanwhile; true if it did. So do the units of its side entries, those of `sides`, with what is there, except other
    /// regions. The caller holds `translating` if there is a unit.
    pub(crate) fn end_second_look(&self, made: Option<(&Arc<Unit>, Vec<Unit>)>) -> bool {
        let mut maps = self.maps.write();
        let Some((reading, old)) = maps.second_look.take() else { return false };
        let Some((unit, sides)) = made else { return false };
        let keep = !reading.written
            && !old.dropped.load(Relaxed)
            && maps.find(&unit.at).is_some_and(|u| Arc::ptr_eq(u, &old));
        let mut replaced = Vec::new();
        replaced.extend(self.put(&mut maps, unit, keep));
        for mut side in sides.into_iter().filter(|_| keep) {
            if let Some(there) = maps.find(&side.at) {
                if there.is_hot()
                    || there.second.is_some() && side.at.block != DIRECT
                    || there.bytes.is_some()
                {
                    continue;
                }
                // It may still run, as the one at the entry may.
                let mut spans = side.spans.take().unwrap_or_default().into_vec();
                spans.push(there.first_span());
                side.spans = Some(merged(spans));
            }
            replaced.extend(self.put(&mut maps, &Arc::new(side), true));
        }
        drop(maps);
        replaced.iter().for_each(|u| self.strike(u));
        keep
    }

    /// Pages of the units that can be reached from `from` by links that have been taken, that of `from` first; at most `most`. For
    /// programs.
    pub(crate) fn linked_pages(&self, from: &Arc<Unit>, most: usize) -> Vec<u64> {
        const UNITS: usize = 128;
        let maps = self.maps.read();
        let mut pages = Vec::new();
        let mut units = vec![from.clone()];
        let mut next = 0;
        while let Some(u) = units.get(next).cloned() {
            next += 1;
            for (_, page) in u.pages() {
                if !pages.contains(&page) && pages.len() < most {
                    pages.push(page);
                }
            }
            for l in &u.links {
                if let Some(to) = maps.unit(l.dest.load(Relaxed))
                    && units.len() < UNITS
                    && !units.iter().any(|v| Arc::ptr_eq(v, to))
                {
                    units.push(to.clone());
                }
            }
        }
        pages.into_iter().map(|p| p * PAGE_SIZE).collect()
    }

    /// Strikes a dropped unit from the jump caches.
    fn strike(&self, u: &Unit) {
        if let (Tier::Second, Some(code)) = (u.tier, self.backend.entry(&u.code)) {
            self.vcpus.read().iter().for_each(|v| v.strike_jump(u.at.key.pc, code));
        }
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
        // Who took it is not here.
        self.maps.write().second_look = None;
    }

    /// A vCPU that appeared.
    pub(crate) fn add_vcpu(&self, v: &Arc<VcpuShared>) {
        self.vcpus.write().push(v.clone());
    }

    /// A vCPU that went away.
    pub(crate) fn remove_vcpu(&self, v: &Arc<VcpuShared>) {
        self.vcpus.write().retain(|x| !Arc::ptr_eq(x, v));
    }

    /// True if no more than one vCPU is there.
    pub(crate) fn is_alone(&self) -> bool {
        self.vcpus.read().len() <= 1
    }

    /// Number of units.
    pub(crate) fn len(&self) -> usize {
        self.maps.read().live
    }

    /// Patches link `index` of `from` to jump to `to`, unless either has been dropped. True if it did.
    pub(crate) fn link(&self, from: &Arc<Unit>, index: u32, to: &Arc<Unit>) -> bool {
        let maps = self.maps.write();
        let generation = self.generation();
        let alive = |u: &Unit| u.generation == generation && !u.dropped.load(Relaxed);
        let Some(l) = from.links.get(index as usize).filter(|_| index < 256) else { return false };
        if !alive(from) || !alive(to) || l.dest.load(Relaxed) != NONE || !self.backend.link(l, &to.code) {
            return false;
        }
        maps.join(from.id.load(Relaxed) << 8 | index, to);
        true
    }

    /// Drops the units that overlap `range` of `block`, and stops watching pages that hold none any more. True if there
    /// were any. Called after the write: a unit that is made between the two may have read the old bytes.
    pub(crate) fn invalidate(&self, block: &Arc<RamBlock>, range: &Range<u64>) -> bool {
        let b = block_ref(block);
        let mut maps = self.maps.write();
        let pages = range.start / PAGE_SIZE..=range.end.saturating_sub(1) / PAGE_SIZE;
        let dropped = maps.drop_units(&self.backend, b, range);
        if let Some((reading, _)) = &mut maps.second_look {
            reading.note(b, &pages);
        }
        for page in pages {
            if maps.reading.note(b, &(page..=page)) {
                continue;
            }
            if maps.pages.get(&(b, page)).is_none_or(Page::is_empty) {
                maps.pages.remove(&(b, page));
                block.unwatch(page * PAGE_SIZE, PAGE_SIZE);
            }
        }
        self.gone.store(maps.gone.len(), Relaxed);
        drop(maps);
        self.strike_all(&dropped)
    }

    /// Drops the units that overlap a range of guest addresses, where these are host addresses.
    pub(crate) fn invalidate_direct(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let dropped = {
            let mut maps = self.maps.write();
            // A translation under way may have read what was there before.
            let pages = range.start / PAGE_SIZE..=(range.end - 1) / PAGE_SIZE;
            maps.reading.note(DIRECT, &pages);
            if let Some((reading, _)) = &mut maps.second_look {
                reading.note(DIRECT, &pages);
            }
            maps.drop_units(&self.backend, DIRECT, range)
        };
        self.strike_all(&dropped)
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
    fn strike_all(&self, dropped: &[Arc<Unit>]) -> bool {
        if dropped.is_empty() {
            return false;
        }
        self.invalidations.fetch_add(dropped.len() as u64, Relaxed);
        dropped.iter().for_each(|u| self.strike(u));
        true
    }

    /// Forgets dropped units if there are many and no vCPU is inside translated code: nothing leads there any more, so that
    /// nobody will ask for what left it.
    pub(crate) fn purge(&self) {
        if self.gone.load(Relaxed) < MANY_GONE {
            return;
        }
        let Some(_alone) = self.exec.try_write() else { return };
        let mut maps = self.maps.write();
        let maps = &mut *maps;
        for id in maps.gone.drain(..) {
            if let Some(unit) = maps.units.get_mut(id as usize) {
                *unit = None;
            }
        }
        self.gone.store(0, Relaxed);
    }

    /// Drops everything. The caller holds `exec` for writing: no vCPU is inside translated code.
    pub(crate) fn clear(&self) {
        let mut maps = self.maps.write();
        let reading = std::mem::take(&mut maps.reading);
        // A second look that is under way finds the unit it began with dropped.
        let second_look = maps.second_look.take();
        if let Some((_, unit)) = &second_look {
            unit.dropped.store(true, SeqCst);
        }
        *maps = Maps { reading, second_look, ..Maps::default() };
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Asks every vCPU that is inside translated code to leave it soon; true if there is one. `what` are bits of [`request`].
    pub(crate) fn stop_running(&self, what: u32) -> bool {
        let mut any = false;
        for v in self.vcpus.read().iter().filter(|v| v.is_running()) {
            v.request(what);
            any = true;
        }
        any
    }

    /// Makes every vCPU leave translated code soon.
    pub(crate) fn stop_all(&self) {
        for v in self.vcpus.read().iter() {
            v.request(request::FLUSH_JUMPS);
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
