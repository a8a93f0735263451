//! The softmmu TLB, tagged by address space.
//!
//! Each address space the guest has used lately (an ASID and root table, a PCID, a VMID: whatever the guest names
//! it by) keeps its own tables and its own jump cache, so a switch of page tables flushes nothing. Inside a space
//! there is one direct-mapped table an MMU index, with a small victim cache behind it, growing with pressure. What all
//! spaces share (global pages, as a kernel's are) is kept once more, in tables of its own from which a space's are filled
//! without a walk, and in a jump cache behind the space's own.
//! A space that the guest drops and loads again keeps what its page tables still say: see `origins.rs`.
//!
//! Invariant: the descriptors in the environment header always point at the current space's tables, which are
//! never reallocated without being published again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tcg_ir::abi::{EnvHeader, MMU_INDEXES, PAGE_BITS, TlbDesc, TlbEntry, tlb_flag};

use crate::{
    Access,
    jumps::Jumps,
    origins::{Origins, ReadWords, Verdict, Walked, Word},
    shared::VcpuShared,
};

const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;
const MIN_ENTRIES: usize = 256;
const MAX_ENTRIES: usize = 8192;
const VICTIMS: usize = 8;
const MAX_SPACES: usize = 8;
/// "No such range" in [`Backing::range`]: a device or nothing.
pub(crate) const NO_RANGE: u32 = u32::MAX;

/// What stands behind a cached page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backing {
    /// Guest physical address of the page.
    pub(crate) gpa: u64,
    /// Index of its range in the memory view, or [`NO_RANGE`].
    pub(crate) range: u32,
    /// All spaces have it.
    pub(crate) global: bool,
    /// Offset of the page in its RAM block.
    pub(crate) offset: u64,
}

const NOTHING: Backing = Backing { gpa: 0, range: NO_RANGE, global: false, offset: 0 };

/// The tag that a flush accepts if it is to reach what all spaces share.
const SHARED: u64 = u64::MAX;

/// Words of a set of pages, by hash.
const PAGE_WORDS: usize = 128;

/// Comparators and addend of one page, as a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) exec: u64,
    pub(crate) addend: u64,
    pub(crate) backing: Backing,
}

impl Entry {
    pub(crate) fn comparator(&self, access: Access) -> u64 {
        match access {
            Access::Load => self.read,
            Access::Store => self.write,
            Access::Fetch => self.exec,
        }
    }

    fn is_page(&self, page: u64) -> bool {
        [self.read, self.write, self.exec]
            .iter()
            .any(|c| c & !PAGE_MASK == page && c & tlb_flag::INVALID == 0)
    }
}

const EMPTY: Entry = Entry { read: u64::MAX, write: u64::MAX, exec: u64::MAX, addend: 0, backing: NOTHING };

fn new_entry() -> TlbEntry {
    TlbEntry {
        read: AtomicU64::new(u64::MAX),
        write: AtomicU64::new(u64::MAX),
        exec: AtomicU64::new(u64::MAX),
        addend: AtomicU64::new(0),
    }
}

/// One direct-mapped table and its victims.
struct Table {
    entries: Box<[TlbEntry]>,
    backing: Box<[Backing]>,
    victims: [Entry; VICTIMS],
    next_victim: usize,
    /// Valid entries that were pushed out since the table was last flushed or grown.
    pressure: usize,
    /// True if something was put in since the last flush.
    used: bool,
}

impl Table {
    fn new(n: usize) -> Self {
        Self {
            entries: (0..n).map(|_| new_entry()).collect(),
            backing: vec![NOTHING; n].into_boxed_slice(),
            victims: [EMPTY; VICTIMS],
            next_victim: 0,
            pressure: 0,
            used: false,
        }
    }

    fn desc(&self) -> TlbDesc {
        TlbDesc {
            mask: ((self.entries.len() - 1) * size_of::<TlbEntry>()) as u64,
            table: self.entries.as_ptr() as u64,
        }
    }

    fn index(&self, gva: u64) -> usize {
        (gva >> PAGE_BITS) as usize & (self.entries.len() - 1)
    }

    fn entry(&self, i: usize) -> Entry {
        let e = &self.entries[i];
        Entry {
            read: e.read.load(Relaxed),
            write: e.write.load(Relaxed),
            exec: e.exec.load(Relaxed),
            addend: e.addend.load(Relaxed),
            backing: self.backing[i],
        }
    }

    fn put(&mut self, i: usize, e: &Entry) {
        let t = &self.entries[i];
        t.read.store(e.read, Relaxed);
        t.write.store(e.write, Relaxed);
        t.exec.store(e.exec, Relaxed);
        t.addend.store(e.addend, Relaxed);
        self.backing[i] = e.backing;
    }

    /// The entry for an access, if one is cached; brings it out of the victims.
    fn find(&mut self, gva: u64, access: Access) -> Option<Entry> {
        let page = gva & !PAGE_MASK;
        let hit = |e: &Entry| {
            let c = e.comparator(access);
            c & !PAGE_MASK == page && c & tlb_flag::INVALID == 0
        };
        let i = self.index(gva);
        let e = self.entry(i);
        if hit(&e) {
            return Some(e);
        }
        let v = self.victims.iter().position(hit)?;
        let found = self.victims[v];
        self.victims[v] = e;
        self.put(i, &found);
        Some(found)
    }

    fn insert(&mut self, gva: u64, new: &Entry) {
        self.used = true;
        let i = self.index(gva);
        let page = gva & !PAGE_MASK;
        let old = self.entry(i);
        let valid = [old.read, old.write, old.exec].iter().any(|c| *c != u64::MAX);
        if valid && !old.is_page(page) {
            self.victims[self.next_victim] = old;
            self.next_victim = (self.next_victim + 1) % VICTIMS;
            self.pressure += 1;
        } else {
            for v in &mut self.victims {
                if v.is_page(page) {
                    *v = EMPTY;
                }
            }
        }
        self.put(i, new);
    }

    fn flush(&mut self) {
        if !self.used {
            return;
        }
        self.used = false;
        self.pressure = 0;
        for i in 0..self.entries.len() {
            let e = &self.entries[i];
            e.read.store(u64::MAX, Relaxed);
            e.write.store(u64::MAX, Relaxed);
            e.exec.store(u64::MAX, Relaxed);
        }
        self.victims = [EMPTY; VICTIMS];
    }

    fn flush_page(&mut self, gva: u64) {
        let page = gva & !PAGE_MASK;
        let i = self.index(gva);
        if self.entry(i).is_page(page) {
            self.put(i, &EMPTY);
        }
        for v in &mut self.victims {
            if v.is_page(page) {
                *v = EMPTY;
            }
        }
    }
}

/// Where large pages lie that were cached piece by piece: a flush of one address in a large page is one of all of it.
/// A few aligned ranges, as an address and a size in bits; when there are too many, two become one that holds both.
#[derive(Default)]
struct LargePages(Vec<(u64, u32)>);

impl LargePages {
    const MOST: usize = 8;

    fn contains(&self, gva: u64) -> bool {
        self.bits_of(gva).is_some()
    }

    /// The size in bits of a range that holds an address.
    fn bits_of(&self, gva: u64) -> Option<u32> {
        self.0.iter().find(|r| Self::holds(**r, gva)).map(|r| r.1)
    }

    fn holds((start, bits): (u64, u32), gva: u64) -> bool {
        (start ^ gva).checked_shr(bits).unwrap_or(0) == 0
    }

    /// Notes the page of `bits` at `gva`.
    fn note(&mut self, gva: u64, bits: u32) {
        if self.0.iter().any(|r| r.1 >= bits && Self::holds(*r, gva)) {
            return;
        }
        if self.0.len() < Self::MOST {
            self.0.push((gva, bits));
            return;
        }
        let reach = |(start, size): (u64, u32)| size.max(bits).max(64 - (start ^ gva).leading_zeros());
        if let Some(r) = self.0.iter_mut().min_by_key(|r| reach(**r)) {
            r.1 = reach(*r);
        }
    }
}

/// One address space.
struct Space {
    tag: u64,
    tables: [Option<Table>; MMU_INDEXES],
    jumps: Arc<Jumps>,
    /// Pages (by hash) that have entries in `jumps`.
    jump_pages: [u64; PAGE_WORDS],
    large: LargePages,
    origins: Origins,
    /// Generated code may have copied entries from the cache that all spaces share, or the engine put some in.
    touched: bool,
    last_used: u64,
}

fn page_hash(gva: u64) -> (usize, u64) {
    let p = gva >> PAGE_BITS;
    let h = (p ^ p >> 13) & (PAGE_WORDS as u64 * 64 - 1);
    ((h >> 6) as usize, 1 << (h & 63))
}

impl Space {
    fn new(tag: u64, miss: u64, shared: &VcpuShared) -> Self {
        let jumps = Arc::new(Jumps::new(miss));
        shared.add_jumps(jumps.clone());
        Self {
            tag,
            tables: [const { None }; MMU_INDEXES],
            jumps,
            jump_pages: [0; PAGE_WORDS],
            large: LargePages::default(),
            origins: Origins::default(),
            touched: false,
            last_used: 0,
        }
    }

    fn flush_jumps(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.jumps.clear();
            self.jump_pages = [0; PAGE_WORDS];
        }
    }

    /// `also`: pages that may have entries besides its own.
    fn flush(&mut self, gva: Option<u64>, also: &[u64; PAGE_WORDS]) {
        match gva {
            None => {
                self.large = LargePages::default();
                self.origins.clear();
                self.tables.iter_mut().flatten().for_each(Table::flush);
                self.flush_jumps();
            }
            Some(gva) => {
                self.tables.iter_mut().flatten().for_each(|t| t.flush_page(gva));
                self.origins.forget_page(gva & !PAGE_MASK);
                // A unit may begin on the page before and reach into this one.
                for page in [gva, gva.wrapping_sub(1 << PAGE_BITS)] {
                    let (w, b) = page_hash(page);
                    if (self.jump_pages[w] | also[w]) & b != 0 {
                        self.jumps.strike_page(page);
                    }
                }
            }
        }
    }
}

/// Puts an entry into a table, which is made or grows if need be; true if it has moved.
fn insert(slot: &mut Option<Table>, gva: u64, new: &Entry) -> bool {
    let mut moved = false;
    let table = match slot {
        Some(t) => {
            if t.pressure > t.entries.len() && t.entries.len() < MAX_ENTRIES {
                *t = Table::new(t.entries.len() * 4);
                moved = true;
            }
            t
        }
        None => {
            moved = true;
            slot.insert(Table::new(MIN_ENTRIES))
        }
    };
    table.insert(gva, new);
    moved
}

/// All address spaces of one vCPU.
pub(crate) struct Tlb {
    spaces: Vec<Space>,
    /// What all spaces share; its tables are not seen by generated code.
    shared_space: Space,
    current: usize,
    ticks: u64,
    /// What unused descriptors point at.
    empty: Box<[TlbEntry]>,
    miss: u64,
    shared: Arc<VcpuShared>,
    /// Flushes of a whole space, for the statistics.
    pub(crate) flushes: u64,
    /// Pages put in.
    pub(crate) fills: u64,
    /// Physical pages (by hash) that were ever cached for writing on the fast path.
    written: Box<[u64]>,
}

const WRITTEN_WORDS: usize = 1024;

fn written_hash(gpa: u64) -> (usize, u64) {
    let p = gpa >> PAGE_BITS;
    (p as usize >> 6 & (WRITTEN_WORDS - 1), 1 << (p & 63))
}

impl Tlb {
    /// `miss` is the host address in empty jump entries.
    pub(crate) fn new(miss: u64, shared: &Arc<VcpuShared>) -> Self {
        // The first cache a vCPU has is the one it copies from: see `VcpuShared::strike_jump`.
        let shared_space = Space::new(SHARED, miss, shared);
        Self {
            spaces: vec![Space::new(0, miss, shared)],
            shared_space,
            shared: shared.clone(),
            current: 0,
            ticks: 0,
            empty: vec![new_entry()].into_boxed_slice(),
            miss,
            flushes: 0,
            fills: 0,
            written: vec![0; WRITTEN_WORDS].into_boxed_slice(),
        }
    }

    /// Puts the current space's tables where generated code finds them.
    pub(crate) fn publish(&self, header: &mut EnvHeader) {
        let space = &self.spaces[self.current];
        let none = TlbDesc { mask: 0, table: self.empty.as_ptr() as u64 };
        for (desc, table) in header.tlb.iter_mut().zip(&space.tables) {
            *desc = table.as_ref().map_or(none, Table::desc);
        }
        header.jump_cache = space.jumps.address();
        header.jump_mask = space.jumps.mask();
        header.shared_jumps = self.shared_space.jumps.address();
        header.shared_mask = self.shared_space.jumps.mask();
    }

    /// Makes `tag` the current space; true if descriptors must be published.
    pub(crate) fn set_space(&mut self, tag: u64) -> bool {
        if self.spaces[self.current].tag == tag {
            return false;
        }
        self.ticks += 1;
        let found = self.spaces.iter().position(|s| s.tag == tag);
        self.current = match found {
            Some(i) => i,
            None if self.spaces.len() < MAX_SPACES => {
                self.spaces.push(Space::new(tag, self.miss, &self.shared));
                self.spaces.len() - 1
            }
            None => {
                let oldest = (0..self.spaces.len()).min_by_key(|i| self.spaces[*i].last_used).unwrap_or(0);
                let space = &mut self.spaces[oldest];
                space.flush(None, &[0; PAGE_WORDS]);
                space.tag = tag;
                self.flushes += 1;
                oldest
            }
        };
        self.spaces[self.current].last_used = self.ticks;
        self.spaces[self.current].touched = true;
        true
    }

    pub(crate) fn flush(&mut self, gva: Option<u64>, accept: impl Fn(u64) -> bool) {
        // One address of a large page stands for all of it.
        let all = self.spaces.iter().chain(std::iter::once(&self.shared_space));
        let large = |gva: u64| all.clone().any(|s| accept(s.tag) && s.large.contains(gva));
        let gva = gva.filter(|gva| !large(*gva));
        if gva.is_none() {
            self.flushes += 1;
        }
        let copied = self.shared_space.jump_pages;
        for s in self.spaces.iter_mut() {
            if accept(s.tag) {
                s.flush(gva, &copied);
            }
            if gva.is_none() {
                // What was copied may outlive what it was copied from.
                s.jump_pages.iter_mut().zip(&copied).for_each(|(a, b)| *a |= b);
            }
        }
        if accept(SHARED) {
            self.shared_space.flush(gva, &copied);
        }
        if gva.is_none() {
            self.spaces[self.current].touched = true;
        }
    }

    /// Drops what a walk of the space `tag` from `root` would not find again; true if that was anything.
    pub(crate) fn refresh(
        &mut self,
        tag: u64,
        root: u64,
        set_by_walks: u64,
        reader: &impl ReadWords,
    ) -> bool {
        let Some(space) = self.spaces.iter_mut().find(|s| s.tag == tag) else { return false };
        match space.origins.check(root, set_by_walks, reader) {
            Verdict::Same => return false,
            Verdict::Pages(pages) => {
                let copied = self.shared_space.jump_pages;
                pages.iter().for_each(|gva| space.flush(Some(*gva), &copied));
            }
            Verdict::Changed => self.flush(None, |t| t == tag),
        }
        true
    }

    /// The page at `gva` of the current space was cached by this walk: see [`Origins::note`].
    pub(crate) fn note_origin(
        &mut self,
        gva: u64,
        small: bool,
        walked: &Walked,
        set_by_walks: u64,
        host: impl Fn(&Word) -> Option<usize>,
    ) {
        let gva = gva & !PAGE_MASK;
        self.spaces[self.current].origins.note(gva, small, walked, set_by_walks, host);
    }

    pub(crate) fn flush_jumps(&mut self) {
        self.spaces.iter_mut().for_each(Space::flush_jumps);
        self.shared_space.flush_jumps();
        self.spaces[self.current].touched = true;
    }

    pub(crate) fn find(&mut self, gva: u64, access: Access, mmu: usize) -> Option<Entry> {
        self.spaces[self.current].tables[mmu].as_mut()?.find(gva, access)
    }

    /// The entry of a page that all spaces share, if it is known.
    fn find_shared(&mut self, gva: u64, access: Access, mmu: usize) -> Option<Entry> {
        self.shared_space.tables[mmu].as_mut()?.find(gva, access)
    }

    /// Puts a page that all spaces share into the current one, if it is known: its entry, and whether descriptors must be
    /// published.
    pub(crate) fn fill_shared(&mut self, gva: u64, access: Access, mmu: usize) -> Option<(Entry, bool)> {
        let e = self.find_shared(gva, access, mmu)?;
        if let Some(bits) = self.shared_space.large.bits_of(gva) {
            self.spaces[self.current].large.note(gva, bits);
        }
        Some((e, insert(&mut self.spaces[self.current].tables[mmu], gva, &e)))
    }

    /// Caches a page, which is part of one of `bits`; true if descriptors must be published.
    pub(crate) fn insert(&mut self, gva: u64, mmu: usize, new: &Entry, bits: u32) -> bool {
        self.fills += 1;
        if bits > PAGE_BITS {
            self.spaces[self.current].large.note(gva, bits);
            if new.backing.global {
                self.shared_space.large.note(gva, bits);
            }
        }
        if new.write & PAGE_MASK == 0 {
            self.note_written(new.backing.gpa);
        }
        if new.backing.global {
            insert(&mut self.shared_space.tables[mmu], gva, new);
        }
        insert(&mut self.spaces[self.current].tables[mmu], gva, new)
    }

    /// Makes stores to a cached page take the fast path from now on.
    pub(crate) fn allow_fast_write(&mut self, gva: u64, mmu: usize) {
        for space in [&mut self.spaces[self.current], &mut self.shared_space] {
            let Some(t) = space.tables[mmu].as_mut() else { continue };
            let i = t.index(gva);
            let e = t.entry(i);
            if e.write & !PAGE_MASK == gva & !PAGE_MASK && e.write & tlb_flag::INVALID == 0 {
                t.entries[i].write.store(e.write & !tlb_flag::NOT_DIRTY, Relaxed);
                let (w, b) = written_hash(e.backing.gpa);
                self.written[w] |= b;
            }
        }
    }

    fn note_written(&mut self, gpa: u64) {
        let (w, b) = written_hash(gpa);
        self.written[w] |= b;
    }

    /// Makes stores to a RAM page take the slow path, under whatever address it is cached.
    pub(crate) fn protect_page(&mut self, gpa: u64) {
        let (w, b) = written_hash(gpa);
        if self.written[w] & b == 0 {
            return;
        }
        let all = self.spaces.iter_mut().chain(std::iter::once(&mut self.shared_space));
        for t in all.flat_map(|s| s.tables.iter_mut().flatten()) {
            for i in 0..t.entries.len() {
                if t.backing[i].gpa == gpa && t.backing[i].range != NO_RANGE {
                    let e = t.entries[i].write.load(Relaxed);
                    t.entries[i].write.store(e | tlb_flag::NOT_DIRTY, Relaxed);
                }
            }
            for v in &mut t.victims {
                if v.backing.gpa == gpa {
                    v.write |= tlb_flag::NOT_DIRTY;
                }
            }
        }
    }

    /// Where a jump to `pc` under `key` leads, if it is remembered.
    pub(crate) fn jump(&self, pc: u64, key: u64) -> Option<u64> {
        let space = &self.spaces[self.current];
        space.jumps.get(pc, key).or_else(|| self.shared_space.jumps.get(pc, key))
    }

    /// Remembers where a jump to `pc` under `key` leads.
    pub(crate) fn set_jump(&mut self, pc: u64, mmu: usize, key: u64, code: u64) {
        let (w, b) = page_hash(pc);
        let shared = self.find_shared(pc, Access::Fetch, mmu).is_some();
        let shared = shared.then_some(&mut self.shared_space);
        for space in shared.into_iter().chain(std::iter::once(&mut self.spaces[self.current])) {
            space.touched = true;
            space.jumps.set(pc, key, code);
            space.jump_pages[w] |= b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::EnvBox;

    #[test]
    fn global_pages_outlive_a_switch_and_a_flush_of_one_space() {
        let env = EnvBox::new(0u64);
        let shared = Arc::new(VcpuShared::new(env.exit_request()));
        let mut tlb = Tlb::new(7, &shared);
        let page = 0xffff_ffff_8000_0000;
        let backing = Backing { gpa: 0x8000_0000, range: 0, global: true, offset: 0 };
        let e = Entry { read: page, write: page, exec: page, addend: 0, backing };
        tlb.set_space(1);
        tlb.insert(page, 1, &e, 12);
        tlb.set_jump(page + 4, 1, 9, 0x1234);
        tlb.set_jump(0x4000, 1, 9, 0x5678);
        tlb.set_space(2);
        assert!(tlb.find(page, Access::Fetch, 1).is_none());
        assert!(tlb.fill_shared(page, Access::Load, 0).is_none(), "another MMU index");
        assert!(tlb.fill_shared(page, Access::Load, 1).is_some());
        assert!(tlb.find(page, Access::Load, 1).is_some());
        assert_eq!(tlb.jump(page + 4, 9), Some(0x1234));
        assert_eq!(tlb.jump(page + 4, 8), None);
        assert_eq!(tlb.jump(0x4000, 9), None, "not on a page that all have");
        tlb.flush(None, |tag| tag == 2);
        assert!(tlb.fill_shared(page, Access::Store, 1).is_some());
        tlb.protect_page(0x8000_0000);
        tlb.flush(None, |tag| tag == 2);
        let (e, _) = tlb.fill_shared(page, Access::Store, 1).unwrap();
        assert_eq!(e.write & tlb_flag::NOT_DIRTY, tlb_flag::NOT_DIRTY);
        tlb.flush(Some(page), |_| true);
        assert!(tlb.fill_shared(page, Access::Load, 1).is_none());
        assert_eq!(tlb.jump(page + 4, 9), None);
    }

    #[test]
    fn large_pages_are_held_even_when_ranges_become_one() {
        let mut pages = LargePages::default();
        pages.note(0x4000_5000, 21);
        assert!(pages.contains(0x401f_ffff) && !pages.contains(0x4020_0000));
        for n in 0..40_u64 {
            pages.note(n << 33 | 0x1000, 21);
            pages.note(u64::MAX << 40 | n << 30, 30);
        }
        assert!(pages.0.len() <= LargePages::MOST);
        assert!(
            (0..40_u64).all(|n| pages.contains(n << 33) && pages.contains(u64::MAX << 40 | n << 30 | 0xfff))
        );
        pages.note(1, 64);
        pages.note(0, 12);
        assert!(pages.contains(u64::MAX));
    }
}
