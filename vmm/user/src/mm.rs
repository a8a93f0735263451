//! The guest's part of the address space: what is mapped, with which rights, where there is room.
//!
//! The host's kernel holds the mappings; this map says which of them are the guest's. A guest may map, change and unmap
//! only between [`LOWEST`] and the limit, where Rhea has nothing of its own. Pages a guest may execute are readable to the
//! host, never executable.
//!
//! Pages whose code has been translated may be *watched* (see [`DirectMemory::watch`]): the host refuses stores to them until
//! one comes. They are in the map while that holds; whoever changes their mapping ends it.
//!
//! Lock order: `Mm`'s lock is the last one taken, but for those of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tcg_engine::direct::{read_guest, write_guest};
use tcg_engine::user::{CodePage, DirectMemory, UserMachine};

use crate::host::{self, Errno, Sys};

/// Lowest address a guest may map: what most hosts allow.
pub(crate) const LOWEST: u64 = 0x10000;
/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

const EINVAL: Errno = Errno(libc::EINVAL);
const ENOMEM: Errno = Errno(libc::ENOMEM);
const EFAULT: Errno = Errno(libc::EFAULT);

/// Protection bits, the same for guest and host.
pub(crate) mod prot {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const EXEC: u32 = 4;
}

/// One stretch of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) end: u64,
    pub(crate) prot: u32,
    /// Stores elsewhere may change it.
    pub(crate) shared: bool,
}

/// Stores to a page with translated code after which it is cheaper to let units look at their own code than to keep stores away.
const OFTEN: u8 = 3;

/// What is mapped where.
#[derive(Debug, Default)]
pub(crate) struct Map {
    regions: BTreeMap<u64, Region>,
    /// Where the search for room goes down from next.
    next: u64,
    /// Start and end of the heap that `brk` moves.
    pub(crate) heap: Range<u64>,
    /// Pages with translated code that stores are kept from.
    watched: BTreeSet<u64>,
    /// How often stores had to be let through to pages, up to [`OFTEN`].
    stores: BTreeMap<u64, u8>,
}

impl Map {
    /// Regions from the lowest up.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Region)> {
        self.regions.iter().map(|(s, r)| (*s, r))
    }

    /// The region that holds `at`.
    pub(crate) fn find(&self, at: u64) -> Option<(u64, &Region)> {
        let (start, r) = self.regions.range(..=at).next_back()?;
        (at < r.end).then_some((*start, r))
    }

    /// Parts of regions in `range`.
    fn parts(&self, range: &Range<u64>) -> Vec<(Range<u64>, Region)> {
        let first = self.find(range.start).map(|(s, r)| (s, *r));
        let rest = self.regions.range(range.start..range.end).map(|(s, r)| (*s, *r));
        let mut out: Vec<(Range<u64>, Region)> = Vec::new();
        for (s, r) in first.into_iter().chain(rest) {
            let part = s.max(range.start)..r.end.min(range.end);
            if out.last().is_none_or(|(p, _)| p.start != part.start) {
                out.push((part, r));
            }
        }
        out
    }

    fn is_free(&self, range: &Range<u64>) -> bool {
        self.find(range.start).is_none() && self.regions.range(range.start..range.end).next().is_none()
    }

    /// True if all of `range` is mapped.
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        for (p, _) in self.parts(range) {
            if p.start != at {
                return false;
            }
            at = p.end;
        }
        at >= range.end
    }

    /// Forgets that pages are watched; those that were.
    fn take_watched(&mut self, range: &Range<u64>) -> Vec<u64> {
        let pages: Vec<u64> = self.watched.range(range.clone()).copied().collect();
        for p in &pages {
            self.watched.remove(p);
        }
        pages
    }

    fn remove(&mut self, range: &Range<u64>) {
        let counted: Vec<u64> = self.stores.range(range.clone()).map(|(page, _)| *page).collect();
        for page in counted {
            self.stores.remove(&page);
        }
        for (part, r) in self.parts(range) {
            let Some((start, whole)) = self.find(part.start).map(|(s, r)| (s, *r)) else { continue };
            self.regions.remove(&start);
            if start < part.start {
                self.regions.insert(start, Region { end: part.start, ..r });
            }
            if part.end < whole.end {
                self.regions.insert(part.end, whole);
            }
        }
    }

    fn insert(&mut self, range: &Range<u64>, prot: u32, shared: bool) {
        self.remove(range);
        let mut start = range.start;
        let mut end = range.end;
        let same = |r: &Region| r.prot == prot && r.shared == shared;
        if let Some((s, r)) = self.regions.range(..start).next_back().map(|(s, r)| (*s, *r))
            && r.end == start
            && same(&r)
        {
            self.regions.remove(&s);
            start = s;
        }
        if let Some(r) = self.regions.get(&end).copied()
            && same(&r)
        {
            self.regions.remove(&end);
            end = r.end;
        }
        self.regions.insert(start, Region { end, prot, shared });
    }

    /// The highest room for `len` bytes that ends at or below `top`.
    fn room_below(&self, top: u64, len: u64) -> Option<u64> {
        let mut top = top;
        loop {
            let start = top.checked_sub(len).filter(|s| *s >= LOWEST)?;
            match self.parts(&(start..top)).first() {
                None => return Some(start),
                Some(_) => {
                    // Below the lowest region that is in the way of this or any higher place.
                    let (s, _) = self.regions.range(..top).next_back().map(|(s, r)| (*s, *r))?;
                    top = s;
                }
            }
        }
    }
}

/// The guest's address space.
pub(crate) struct Mm {
    base: u64,
    /// First address above what a guest may map.
    limit: u64,
    /// Where the search for room starts.
    top: u64,
    map: Mutex<Map>,
    machine: OnceLock<Arc<dyn UserMachine>>,
    /// Pages have been watched: system calls look before they write.
    watching: AtomicBool,
}

impl DirectMemory for Mm {
    fn base(&self) -> u64 {
        self.base
    }

    fn code_page(&self, gva: u64) -> CodePage {
        match self.lock().find(gva) {
            Some((_, r)) if r.prot & prot::EXEC != 0 => {
                if r.prot & prot::WRITE != 0 || r.shared {
                    CodePage::Volatile
                } else {
                    CodePage::Fixed
                }
            }
            _ => CodePage::None,
        }
    }

    fn watch(&self, gva: u64) -> bool {
        let page = gva / PAGE * PAGE;
        let mut map = self.lock();
        let Some((_, r)) = map.find(page) else { return false };
        if r.shared || map.stores.get(&page).is_some_and(|n| *n >= OFTEN) {
            return false;
        }
        let p = host_prot(r.prot & !prot::WRITE);
        if map.watched.contains(&page) {
            return true;
        }
        if host::call(libc::SYS_mprotect, &[self.host(page), PAGE, p]).is_err() {
            return false;
        }
        map.watched.insert(page);
        self.watching.store(true, Ordering::Relaxed);
        true
    }

    fn unwatch(&self, gva: u64) -> bool {
        let was = self.allow(&(gva..gva.saturating_add(1)));
        if was {
            let mut map = self.lock();
            let n = map.stores.entry(gva / PAGE * PAGE).or_default();
            *n = (*n + 1).min(OFTEN);
        }
        was
    }
}

/// Rights of the host for those of the guest.
fn host_prot(p: u32) -> u64 {
    let read = if p & prot::EXEC != 0 { prot::READ } else { 0 };
    u64::from(p & (prot::READ | prot::WRITE) | read)
}

fn align_up(n: u64) -> Result<u64, Errno> {
    n.checked_next_multiple_of(PAGE).ok_or(ENOMEM)
}

impl Mm {
    /// An empty space; `top` is where searches for room start.
    pub(crate) fn new(base: u64, top: u64, limit: u64) -> Self {
        let map = Map { next: top, ..Map::default() };
        Self {
            base,
            limit,
            top,
            map: Mutex::new(map),
            machine: OnceLock::new(),
            watching: AtomicBool::new(false),
        }
    }

    /// Gives stores back to the watched pages in a range, and drops their translations. True if there were any.
    pub(crate) fn allow(&self, range: &Range<u64>) -> bool {
        if !self.watching() || range.is_empty() {
            return false;
        }
        let range = range.start / PAGE * PAGE..range.end;
        let mut map = self.lock();
        let pages = map.take_watched(&range);
        for page in &pages {
            if let Some((_, r)) = map.find(*page) {
                let _ = host::call(libc::SYS_mprotect, &[self.host(*page), PAGE, host_prot(r.prot)]);
            }
        }
        drop(map);
        for page in &pages {
            self.changed(&(*page..page + PAGE));
        }
        !pages.is_empty()
    }

    /// True if pages may be watched.
    pub(crate) fn watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// Says who has translations to drop.
    pub(crate) fn set_machine(&self, machine: Arc<dyn UserMachine>) {
        let _ = self.machine.set(machine);
    }

    /// The map.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host address of a guest address.
    pub(crate) fn host(&self, gva: u64) -> u64 {
        self.base.wrapping_add(gva)
    }

    /// Host address of a guest pointer, null staying null.
    pub(crate) fn pointer(&self, gva: u64) -> u64 {
        if gva == 0 { 0 } else { self.host(gva) }
    }

    fn changed(&self, range: &Range<u64>) {
        if let Some(m) = self.machine.get() {
            m.invalidate(range.clone());
        }
    }

    fn executable(parts: &[(Range<u64>, Region)]) -> bool {
        parts.iter().any(|(_, r)| r.prot & prot::EXEC != 0)
    }

    fn valid(&self, range: &Range<u64>) -> bool {
        range.start >= LOWEST && range.end <= self.limit && range.start < range.end
    }

    fn range(&self, start: u64, len: u64) -> Result<Range<u64>, Errno> {
        if !start.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let end = start.checked_add(align_up(len)?).ok_or(ENOMEM)?;
        Ok(start..end)
    }

    /// Room for `len` bytes (a multiple of the page size).
    fn room(&self, map: &mut Map, len: u64) -> Result<u64, Errno> {
        let next = map.next.min(self.top);
        let found = map.room_below(next, len).or_else(|| map.room_below(self.top, len));
        let at = found.or_else(|| map.room_below(self.limit, len)).ok_or(ENOMEM)?;
        map.next = at;
        Ok(at)
    }

    /// `mmap`.
    pub(crate) fn mmap(&self, addr: u64, len: u64, p: u32, flags: i32, fd: i32, offset: u64) -> Sys {
        if len == 0 || !offset.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let len = align_up(len)?;
        let fixed = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
        let mut map = self.lock();
        let mut host_flags = flags & !(libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE | libc::MAP_32BIT);
        let range = if fixed {
            let range = self.range(addr, len)?;
            if !self.valid(&range) {
                return Err(if range.start < LOWEST { Errno(libc::EPERM) } else { ENOMEM });
            }
            if flags & libc::MAP_FIXED_NOREPLACE != 0 && !map.is_free(&range) {
                return Err(Errno(libc::EEXIST));
            }
            range
        } else {
            let hint = addr / PAGE * PAGE;
            let hint = hint..hint.saturating_add(len);
            if addr != 0 && self.valid(&hint) && map.is_free(&hint) {
                hint
            } else {
                let at = self.room(&mut map, len)?;
                at..at + len
            }
        };
        // What is the guest's may be replaced, what is not must not be.
        let old = map.parts(&range);
        host_flags |=
            if old.is_empty() && self.base == 0 { libc::MAP_FIXED_NOREPLACE } else { libc::MAP_FIXED };
        let args =
            [self.host(range.start), len, host_prot(p), host_flags as u32 as u64, fd as i64 as u64, offset];
        let got =
            host::call(libc::SYS_mmap, &args).map_err(|e| if e.0 == libc::EEXIST { ENOMEM } else { e })?;
        if got != self.host(range.start) {
            let _ = host::call(libc::SYS_munmap, &[got, len]);
            return Err(ENOMEM);
        }
        let shared = flags & libc::MAP_TYPE != libc::MAP_PRIVATE;
        map.take_watched(&range);
        map.insert(&range, p & 7, shared);
        drop(map);
        if Self::executable(&old) {
            self.changed(&range);
        }
        Ok(range.start)
    }

    /// `munmap`.
    pub(crate) fn munmap(&self, addr: u64, len: u64) -> Sys {
        let range = self.range(addr, len)?;
        if !self.valid(&range) {
            return Err(EINVAL);
        }
        let mut map = self.lock();
        let parts = map.parts(&range);
        for (p, _) in &parts {
            self.unmap_host(p)?;
        }
        map.take_watched(&range);
        map.remove(&range);
        if range.end > map.next {
            map.next = self.top.min(range.end.max(map.next));
        }
        drop(map);
        if Self::executable(&parts) {
            self.changed(&range);
        }
        Ok(0)
    }

    fn unmap_host(&self, p: &Range<u64>) -> Sys {
        if self.base == 0 {
            return host::call(libc::SYS_munmap, &[p.start, p.end - p.start]);
        }
        // The window stays reserved.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let args = [self.host(p.start), p.end - p.start, 0, flags as u64, u64::MAX, 0];
        host::call(libc::SYS_mmap, &args)
    }

    /// `mprotect`.
    pub(crate) fn mprotect(&self, addr: u64, len: u64, p: u32) -> Sys {
        let range = self.range(addr, len)?;
        if range.is_empty() {
            return Ok(0);
        }
        if p & !(7 | 8 | 0x0300_0000) != 0 {
            return Err(EINVAL);
        }
        let p = p & 7;
        let mut map = self.lock();
        if !map.covers(&range) {
            return Err(ENOMEM);
        }
        let args = [self.host(range.start), range.end - range.start, host_prot(p)];
        host::call(libc::SYS_mprotect, &args)?;
        map.take_watched(&range);
        let parts = map.parts(&range);
        for (part, r) in &parts {
            map.insert(part, p, r.shared);
        }
        drop(map);
        if Self::executable(&parts) || p & prot::EXEC != 0 {
            self.changed(&range);
        }
        Ok(0)
    }

    /// `mremap`.
    pub(crate) fn mremap(&self, addr: u64, old_len: u64, new_len: u64, flags: i32, to: u64) -> Sys {
        let old = self.range(addr, old_len)?;
        let new_len = align_up(new_len)?;
        let fixed = flags & libc::MREMAP_FIXED != 0;
        if new_len == 0
            || flags & !(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) != 0
            || fixed && flags & libc::MREMAP_MAYMOVE == 0
        {
            return Err(EINVAL);
        }
        self.allow(&old);
        let mut map = self.lock();
        let Some(r) = map.find(addr).map(|(_, r)| *r) else { return Err(EFAULT) };
        if !map.covers(&old) {
            return Err(EFAULT);
        }
        let keep = flags & libc::MREMAP_DONTUNMAP != 0;
        let old_bytes = old.end - old.start;
        let (target, host_flags) = if fixed {
            let target = self.range(to, new_len)?;
            if !self.valid(&target) || target.start < old.end && old.start < target.end {
                return Err(EINVAL);
            }
            (target, flags)
        } else if new_len <= old_bytes && !keep {
            if new_len < old_bytes {
                let tail = old.start + new_len..old.end;
                self.unmap_host(&tail)?;
                map.take_watched(&tail);
                map.remove(&tail);
                drop(map);
                self.changed(&tail);
            }
            return Ok(addr);
        } else {
            let grown = old.start..old.start.checked_add(new_len).ok_or(ENOMEM)?;
            if !keep && self.valid(&grown) && self.base == 0 && map.is_free(&(old.end..grown.end)) {
                let args = [self.host(addr), old_bytes, new_len, 0];
                if host::call(libc::SYS_mremap, &args).is_ok() {
                    map.insert(&grown, r.prot, r.shared);
                    return Ok(addr);
                }
            }
            if flags & libc::MREMAP_MAYMOVE == 0 {
                return Err(ENOMEM);
            }
            let at = self.room(&mut map, new_len)?;
            (at..at + new_len, flags | libc::MREMAP_FIXED)
        };
        let args = [self.host(addr), old_bytes, new_len, host_flags as u32 as u64, self.host(target.start)];
        host::call(libc::SYS_mremap, &args)?;
        let parts = map.parts(&target);
        map.take_watched(&target);
        map.take_watched(&old);
        if !keep {
            map.remove(&old);
            if self.base != 0 {
                let _ = self.unmap_host(&old);
            }
        }
        map.insert(&target, r.prot, r.shared);
        drop(map);
        if r.prot & prot::EXEC != 0 || Self::executable(&parts) {
            self.changed(&old);
            self.changed(&target);
        }
        Ok(target.start)
    }

    /// `madvise`, `msync`, `mlock` and the like: a call on a range that must be the guest's.
    pub(crate) fn on_range(&self, number: i64, addr: u64, len: u64, rest: &[u64]) -> Sys {
        let start = addr / PAGE * PAGE;
        let end = addr.checked_add(len).ok_or(ENOMEM)?.checked_next_multiple_of(PAGE).ok_or(ENOMEM)?;
        if len != 0 && !self.lock().covers(&(start..end)) {
            return Err(ENOMEM);
        }
        let mut args = vec![self.host(addr), len];
        args.extend_from_slice(rest);
        let r = host::call(number, &args)?;
        if number == libc::SYS_madvise && rest.first() == Some(&(libc::MADV_DONTNEED as u64)) {
            self.changed(&(start..end));
        }
        Ok(r)
    }

    /// `brk`: the new end of the heap, or the old one.
    pub(crate) fn brk(&self, to: u64) -> u64 {
        let (start, end) = {
            let map = self.lock();
            (map.heap.start, map.heap.end)
        };
        if to < start || to > self.limit {
            return end;
        }
        let (old, new) = (end.next_multiple_of(PAGE), to.next_multiple_of(PAGE));
        let done = if new > old {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            self.mmap(old, new - old, prot::READ | prot::WRITE, flags, -1, 0).map(|_| ())
        } else if new < old {
            self.munmap(new, old - new).map(|_| ())
        } else {
            Ok(())
        };
        if done.is_err() {
            return end;
        }
        self.lock().heap.end = to;
        to
    }

    /// Notes what the host has mapped for the guest by another call (`shmat`).
    pub(crate) fn note(&self, start: u64, len: u64, p: u32) {
        self.lock().insert(&(start..start + len.next_multiple_of(PAGE)), p, true);
    }

    /// Room for another call that maps.
    pub(crate) fn find_room(&self, len: u64) -> Result<u64, Errno> {
        let len = align_up(len)?;
        self.room(&mut self.lock(), len)
    }

    /// Room in the low 2 GiB, where `MAP_32BIT` has it.
    pub(crate) fn find_low_room(&self, len: u64) -> Result<u64, Errno> {
        self.lock().room_below(1 << 31, align_up(len.max(1))?).ok_or(ENOMEM)
    }

    /// Reads guest memory.
    pub(crate) fn read(&self, gva: u64, out: &mut [u8]) -> Result<(), Errno> {
        read_guest(self.host(gva), out).map_err(|_| EFAULT)
    }

    /// Writes guest memory.
    pub(crate) fn write(&self, gva: u64, data: &[u8]) -> Result<(), Errno> {
        loop {
            match write_guest(self.host(gva), data) {
                Ok(()) => return Ok(()),
                Err(_) if self.allow(&(gva..gva.saturating_add(data.len() as u64))) => {}
                Err(_) => return Err(EFAULT),
            }
        }
    }

    /// Writes memory for a debugger, which may write to what the program may not.
    pub(crate) fn poke(&self, gva: u64, data: &[u8]) -> Result<(), Errno> {
        use std::os::unix::fs::FileExt;
        if self.write(gva, data).is_err() {
            let end = gva.checked_add(data.len() as u64).ok_or(EFAULT)?;
            if !self.lock().covers(&(gva..end)) {
                return Err(EFAULT);
            }
            let memory =
                std::fs::OpenOptions::new().write(true).open("/proc/self/mem").map_err(|_| EFAULT)?;
            memory.write_all_at(data, self.host(gva)).map_err(|_| EFAULT)?;
        }
        self.changed(&(gva..gva.saturating_add(data.len() as u64)));
        Ok(())
    }

    /// Reads a number of 8 bytes.
    pub(crate) fn read_u64(&self, gva: u64) -> Result<u64, Errno> {
        let mut b = [0; 8];
        self.read(gva, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    /// Reads a number of 4 bytes.
    pub(crate) fn read_u32(&self, gva: u64) -> Result<u32, Errno> {
        let mut b = [0; 4];
        self.read(gva, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    /// Writes a number of 8 bytes.
    pub(crate) fn write_u64(&self, gva: u64, v: u64) -> Result<(), Errno> {
        self.write(gva, &v.to_le_bytes())
    }

    /// Writes a number of 4 bytes.
    pub(crate) fn write_u32(&self, gva: u64, v: u32) -> Result<(), Errno> {
        self.write(gva, &v.to_le_bytes())
    }

    /// Reads a string up to its zero, at most `max` bytes.
    pub(crate) fn read_str(&self, gva: u64, max: usize) -> Result<Vec<u8>, Errno> {
        let mut out = Vec::new();
        let mut at = gva;
        loop {
            // Not across a page: the next one may be missing.
            let n = (64 - at % 64) as usize;
            let mut buf = [0; 64];
            self.read(at, &mut buf[..n])?;
            match buf[..n].iter().position(|b| *b == 0) {
                Some(end) => {
                    out.extend_from_slice(&buf[..end]);
                    return if out.len() < max { Ok(out) } else { Err(Errno(libc::ENAMETOOLONG)) };
                }
                None => out.extend_from_slice(&buf[..n]),
            }
            if out.len() >= max {
                return Err(Errno(libc::ENAMETOOLONG));
            }
            at = at.wrapping_add(n as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_split_and_merge() {
        let mut m = Map::default();
        m.insert(&(0x1000..0x5000), 3, false);
        m.insert(&(0x5000..0x6000), 3, false);
        assert_eq!(m.iter().count(), 1, "neighbours that are alike are one");
        m.insert(&(0x2000..0x3000), 1, false);
        let ends: Vec<_> = m.iter().map(|(s, r)| (s, r.end, r.prot)).collect();
        assert_eq!(ends, [(0x1000, 0x2000, 3), (0x2000, 0x3000, 1), (0x3000, 0x6000, 3)]);
        m.remove(&(0x1800..0x3800));
        let ends: Vec<_> = m.iter().map(|(s, r)| (s, r.end)).collect();
        assert_eq!(ends, [(0x1000, 0x1800), (0x3800, 0x6000)]);
        assert!(m.covers(&(0x4000..0x6000)));
        assert!(!m.covers(&(0x1000..0x4000)));
    }

    #[test]
    fn room_is_found_from_the_top() {
        let mut m = Map::default();
        m.insert(&(0x8_0000..0x9_0000), 3, false);
        assert_eq!(m.room_below(0xa_0000, 0x1000), Some(0x9_f000));
        assert_eq!(m.room_below(0x9_0000, 0x1000), Some(0x7_f000));
        assert_eq!(m.room_below(0xa_0000, 0x2_0000), Some(0x6_0000));
        assert_eq!(m.room_below(0xa_0000, 0x8_0000), None, "not below the lowest address");
    }

    #[test]
    fn a_guest_maps_nothing_over_the_host() {
        let limit = 0x4000_0000_0000;
        let mm = Mm::new(0, 0x20_0000_0000, limit);
        let here = host::gettid as *const () as u64 / PAGE * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        assert_eq!(mm.mmap(here, PAGE, 3, flags, -1, 0), Err(ENOMEM));
        assert!(mm.munmap(here, PAGE).is_err());
        assert!(mm.mprotect(here, PAGE, 0).is_err());
        let at = mm.mmap(0, 2 * PAGE, 3, flags & !libc::MAP_FIXED, -1, 0).unwrap();
        mm.write_u64(at, 7).unwrap();
        assert_eq!(mm.read_u64(at), Ok(7));
        assert_eq!(mm.munmap(at, 2 * PAGE), Ok(0));
    }
}
