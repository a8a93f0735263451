//! Guest memory accesses off the fast path: TLB refills, devices, page crossings, watched pages, atomics.
//!
//! Everything here works on one access of one vCPU and either completes it or reports the guest exception; a store that
//! faults on its second page has written nothing.
#![expect(unsafe_code, reason = "reads and writes guest RAM through the host addresses the TLB caches")]

use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, SeqCst},
};

use accel::IoResult;
use guest_memory::FlatView;
use tcg_ir::{
    Align, MemOp, RmwOp,
    abi::{PAGE_BITS, tlb_flag},
};

use crate::{
    Access, BusFault, Cx, Guest, Mapping, Trap, direct,
    origins::{ReadWords, Sample, Word},
    tlb::{Backing, Entry, NO_RANGE},
};

pub(crate) const PAGE: u64 = 1 << PAGE_BITS;

/// Not an exception: the instruction is to be executed again, in a unit of its own.
pub(crate) const ALONE: Trap = Trap { code: u64::MAX, value: u64::MAX };

/// A value of up to 64 bytes, little endian.
pub type Wide = [u8; 64];

/// Where one page's part of an access goes.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// RAM: host address; `slow` if stores must be recorded.
    Ram { host: *mut u8, range: u32, offset: u64, slow: bool },
    /// Through the bus, at this guest physical address; its rights hold in an aligned block of so many bits.
    Bus(u64, u32),
}

/// Finds where `gva` leads, filling the TLB.
pub(crate) fn place<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    access: Access,
    mmu: usize,
) -> Result<Place, Trap> {
    if let Some(e) = cx.core.tlb.find(gva, access, mmu) {
        return Ok(from_entry(&e, gva, access));
    }
    if let Some((e, moved)) = cx.core.tlb.fill_shared(gva, access, mmu) {
        if moved {
            cx.core.publish();
        }
        return Ok(from_entry(&e, gva, access));
    }
    let guest = cx.guest;
    cx.core.walked.forget();
    let m = guest.walk(cx, gva, access, mmu)?;
    Ok(fill(cx, gva, access, mmu, &m))
}

fn from_entry(e: &Entry, gva: u64, access: Access) -> Place {
    let c = e.comparator(access);
    if c & tlb_flag::IO != 0 {
        return Place::Bus(e.backing.gpa | gva & (PAGE - 1), PAGE_BITS);
    }
    Place::Ram {
        host: e.addend.wrapping_add(gva) as *mut u8,
        range: e.backing.range,
        offset: e.backing.offset | gva & (PAGE - 1),
        slow: c & tlb_flag::NOT_DIRTY != 0,
    }
}

fn fill<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, access: Access, mmu: usize, m: &Mapping) -> Place {
    if m.page_bits < PAGE_BITS {
        return Place::Bus(m.gpa, m.page_bits);
    }
    let page = gva & !(PAGE - 1);
    let gpa = m.gpa & !(PAGE - 1);
    let mut e = Entry {
        read: u64::MAX,
        write: u64::MAX,
        exec: u64::MAX,
        addend: 0,
        backing: Backing { gpa, range: NO_RANGE, global: m.global, offset: 0 },
    };
    let mut flags = (tlb_flag::IO, tlb_flag::IO, tlb_flag::IO);
    let view = cx.core.view.clone();
    if let Some((range, offset)) = view.translate(gpa)
        && range.last - gpa >= PAGE - 1
        && let Some(block) = range.readable_ram()
        && offset.is_multiple_of(PAGE)
    {
        let host = block.host_ptr().as_ptr() as u64 + offset;
        e.addend = host.wrapping_sub(page);
        let index = view.ranges().iter().position(|r| std::ptr::eq(r, range)).unwrap_or(0);
        e.backing = Backing { gpa, range: index as u32, global: m.global, offset };
        flags.0 = 0;
        flags.2 = 0;
        if range.writable_ram().is_some() {
            let dirty = block.dirty();
            let record = dirty.is_watched(offset, PAGE) || dirty.tracking();
            flags.1 = if record { tlb_flag::NOT_DIRTY } else { 0 };
        }
    }
    if cx.core.page_watched(page) {
        flags.0 |= tlb_flag::WATCH;
        flags.1 |= tlb_flag::WATCH;
    }
    if m.read {
        e.read = page | flags.0;
    }
    if m.write {
        e.write = page | flags.1;
    }
    if m.exec {
        e.exec = page | flags.2;
    }
    if cx.core.tlb.insert(gva, mmu, &e, m.page_bits) {
        cx.core.publish();
    }
    if !m.global {
        cx.core.note_origin(gva, m.page_bits == PAGE_BITS, G::SET_BY_WALKS);
    }
    from_entry(&e, gva, access)
}

pub(crate) fn extend(m: MemOp, raw: u64) -> u64 {
    let bits = m.bytes() as u32 * 8;
    let v = if m.big_endian() { raw.swap_bytes() >> (64 - bits) } else { raw };
    if m.signed() { ((v << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { v }
}

pub(crate) fn to_memory(m: MemOp, value: u64) -> u64 {
    if m.big_endian() { (value << (64 - m.bytes() as u32 * 8)).swap_bytes() } else { value }
}

fn check_align<G: Guest>(cx: &Cx<'_, G>, gva: u64, m: MemOp, access: Access) -> Result<(), Trap> {
    let n = m.bytes() as u64;
    let bad = match m.align() {
        Align::None => false,
        Align::Natural => gva & (n - 1) != 0,
        Align::Within16 => gva & 15 > 16 - n.min(16),
    };
    if bad { Err(cx.guest.fault(BusFault::Misaligned, gva, access)) } else { Ok(()) }
}

/// Reads `out.len()` bytes at one place.
fn read_place<G: Guest>(
    cx: &mut Cx<'_, G>,
    p: Place,
    gva: u64,
    access: Access,
    out: &mut [u8],
) -> Result<(), Trap> {
    match p {
        Place::Ram { host, .. } => {
            // SAFETY: the TLB only holds pages that lie wholly in a RAM block which the vCPU's view keeps alive, and the
            // caller stays inside the page. Guest RAM is shared memory: racing accesses are made with atomics.
            unsafe { ram_read(host, out) };
            Ok(())
        }
        Place::Bus(gpa, _) => match cx.core.bus_read(gpa, out) {
            IoResult::Ok => Ok(()),
            _ if !G::BUS_ERRORS => Ok(()),
            _ => Err(cx.guest.fault(BusFault::Bus, gva, access)),
        },
    }
}

fn write_place<G: Guest>(
    cx: &mut Cx<'_, G>,
    p: Place,
    gva: u64,
    mmu: usize,
    data: &[u8],
) -> Result<(), Trap> {
    match p {
        Place::Ram { host, range, offset, slow } => {
            if slow {
                before_store(cx, range, offset, data.len() as u64)?;
            }
            // SAFETY: as in `read_place`.
            unsafe { ram_write(host, data) };
            if slow {
                after_store(cx, gva, mmu, range, offset, data.len() as u64);
            }
            Ok(())
        }
        Place::Bus(gpa, _) => {
            let done = cx.core.bus_write(gpa, data);
            cx.core.follow_map();
            if done == IoResult::Ok || !G::BUS_ERRORS {
                Ok(())
            } else {
                Err(cx.guest.fault(BusFault::Bus, gva, Access::Store))
            }
        }
    }
}

/// Where the guest's code must change at once ([`Guest::CODE_COHERENT`]) and a unit runs that may be of what a store is about
/// to overwrite, the store is not done: `Err` has its instruction executed alone.
pub(crate) fn before_store<G: Guest>(
    cx: &mut Cx<'_, G>,
    range: u32,
    offset: u64,
    len: u64,
) -> Result<(), Trap> {
    if !G::CODE_COHERENT || !cx.core.in_unit {
        return Ok(());
    }
    let view = cx.core.view.clone();
    if let Some(block) = view.ranges().get(range as usize).and_then(|r| r.writable_ram())
        && block.dirty().is_watched(offset, len)
        && cx.core.invalidate_code(block, offset, len)
    {
        return Err(ALONE);
    }
    Ok(())
}

/// Drops the translations of code that a store has overwritten, records the store, and takes the page off the slow path
/// if nothing is left to record.
pub(crate) fn after_store<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    mmu: usize,
    range: u32,
    offset: u64,
    len: u64,
) {
    let view = cx.core.view.clone();
    if let Some(block) = view.ranges().get(range as usize).and_then(|r| r.writable_ram()) {
        let dirty = block.dirty();
        if dirty.is_watched(offset, len) {
            cx.core.invalidate_code(block, offset, len);
        }
        dirty.mark_quiet(offset, len);
        if !dirty.tracking() && !dirty.is_watched(offset & !(PAGE - 1), PAGE) {
            cx.core.tlb.allow_fast_write(gva, mmu);
        }
    }
}

/// The largest unit of at most 8 bytes that divides an address and a length: what longer accesses are made of, so that the
/// elements of an aligned vector are single.
const fn unit(at: usize, len: usize) -> usize {
    let both = at | len;
    if both & 7 == 0 {
        8
    } else if both & 3 == 0 {
        4
    } else {
        1
    }
}

/// Copies out of guest RAM; naturally aligned accesses of 1, 2, 4 or 8 bytes are single.
///
/// # Safety
/// `host` must be valid for `out.len()` bytes.
pub(crate) unsafe fn ram_read(host: *mut u8, out: &mut [u8]) {
    let at = host as usize;
    // SAFETY: valid by the caller's promise, aligned where a wider type is used.
    unsafe {
        match out.len() {
            2 if at & 1 == 0 => out.copy_from_slice(&(*host.cast::<AtomicU16>()).load(SeqCst).to_le_bytes()),
            4 if at & 3 == 0 => out.copy_from_slice(&(*host.cast::<AtomicU32>()).load(SeqCst).to_le_bytes()),
            8 if at & 7 == 0 => out.copy_from_slice(&(*host.cast::<AtomicU64>()).load(SeqCst).to_le_bytes()),
            n if n > 8 && unit(at, n) > 1 => {
                let step = unit(at, n);
                for (i, part) in out.chunks_exact_mut(step).enumerate() {
                    ram_read(host.add(i * step), part);
                }
            }
            _ => {
                for (i, b) in out.iter_mut().enumerate() {
                    *b = (*host.add(i).cast::<AtomicU8>()).load(SeqCst);
                }
            }
        }
    }
}

/// Copies into guest RAM; naturally aligned accesses of 1, 2, 4 or 8 bytes are single.
///
/// # Safety
/// `host` must be valid for `data.len()` bytes.
pub(crate) unsafe fn ram_write(host: *mut u8, data: &[u8]) {
    let at = host as usize;
    // SAFETY: valid by the caller's promise, aligned where a wider type is used.
    unsafe {
        match *data {
            [a, b] if at & 1 == 0 => (*host.cast::<AtomicU16>()).store(u16::from_le_bytes([a, b]), SeqCst),
            [a, b, c, d] if at & 3 == 0 => {
                (*host.cast::<AtomicU32>()).store(u32::from_le_bytes([a, b, c, d]), SeqCst);
            }
            [a, b, c, d, e, f, g, h] if at & 7 == 0 => {
                (*host.cast::<AtomicU64>()).store(u64::from_le_bytes([a, b, c, d, e, f, g, h]), SeqCst);
            }
            _ if data.len() > 8 && unit(at, data.len()) > 1 => {
                let step = unit(at, data.len());
                for (i, part) in data.chunks_exact(step).enumerate() {
                    ram_write(host.add(i * step), part);
                }
            }
            _ => {
                for (i, b) in data.iter().enumerate() {
                    (*host.add(i).cast::<AtomicU8>()).store(*b, SeqCst);
                }
            }
        }
    }
}

/// Page tables in a memory view.
pub(crate) struct Tables<'a>(pub(crate) &'a FlatView);

impl Tables<'_> {
    /// The host's address of a word, which must be aligned and in RAM.
    pub(crate) fn host(&self, word: &Word) -> Option<usize> {
        let (range, offset) = self.0.translate(word.gpa)?;
        let block = range.readable_ram()?;
        let bytes = u64::from(word.bytes);
        let inside = offset.is_multiple_of(bytes) && offset.checked_add(bytes)? <= block.size();
        inside.then(|| block.host_ptr().as_ptr() as usize + offset as usize)
    }
}

impl ReadWords for Tables<'_> {
    fn differs(&self, samples: &[Sample], bytes: u8) -> Option<(usize, u64)> {
        // SAFETY: the addresses are those of aligned words of so many bytes in RAM of the vCPU's view, which is `self.0`: another
        // view comes with a flush of all spaces, which forgets them.
        let read = |s: &Sample| unsafe {
            if bytes == 4 {
                (*(s.host as *const AtomicU32)).load(Acquire).into()
            } else {
                (*(s.host as *const AtomicU64)).load(Acquire)
            }
        };
        samples.iter().enumerate().find_map(|(i, s)| {
            let now = read(s);
            (now != s.value).then_some((i, now))
        })
    }
}

/// Reads code at `offset` of a page that `place` begins somewhere in.
pub(crate) fn fetch<G: Guest>(
    cx: &mut Cx<'_, G>,
    page: Place,
    offset: usize,
    gva: u64,
    out: &mut [u8],
) -> Result<(), Trap> {
    let low = (PAGE - 1) as usize;
    let at = match page {
        Place::Ram { host, range, offset: o, slow } => {
            let host = (host as usize & !low | offset) as *mut u8;
            Place::Ram { host, range, offset: o & !(PAGE - 1) | offset as u64, slow }
        }
        Place::Bus(gpa, bits) => Place::Bus(gpa & !(PAGE - 1) | offset as u64, bits),
    };
    if offset + out.len() <= low + 1 {
        return read_place(cx, at, gva, Access::Fetch, out);
    }
    Err(cx.guest.fault(BusFault::Misaligned, gva, Access::Fetch))
}

/// Checks the rest of an access whose first byte is at `p`, where rights change inside the page: an aligned access must
/// lie in one block, one that is not may be done in parts.
fn check_blocks<G: Guest>(
    cx: &mut Cx<'_, G>,
    p: Place,
    gva: u64,
    len: u64,
    access: Access,
    mmu: usize,
) -> Result<(), Trap> {
    let Place::Bus(_, mut bits) = p else { return Ok(()) };
    let last = gva.wrapping_add(len - 1);
    let mut at = gva;
    while bits < PAGE_BITS && at >> bits != last >> bits {
        if len.is_power_of_two() && gva & (len - 1) == 0 {
            return Err(cx.guest.fault(BusFault::Bus, gva, access));
        }
        at = ((at >> bits) + 1) << bits;
        match place(cx, at, access, mmu)? {
            Place::Bus(_, next) => bits = next,
            Place::Ram { .. } => break,
        }
    }
    Ok(())
}

/// Reads `out.len()` (at most 64) bytes at `gva`, over at most two pages.
pub(crate) fn read_bytes<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    mmu: usize,
    out: &mut [u8],
) -> Result<(), Trap> {
    if cx.core.direct.is_some() {
        return direct::read(cx, gva, out);
    }
    let first = (PAGE - (gva & (PAGE - 1))).min(out.len() as u64) as usize;
    let p = place(cx, gva, Access::Load, mmu)?;
    check_blocks(cx, p, gva, first as u64, Access::Load, mmu)?;
    if first == out.len() {
        return read_place(cx, p, gva, Access::Load, out);
    }
    let gva2 = gva.wrapping_add(first as u64);
    let p2 = place(cx, gva2, Access::Load, mmu)?;
    check_blocks(cx, p2, gva2, (out.len() - first) as u64, Access::Load, mmu)?;
    let (a, b) = out.split_at_mut(first);
    read_place(cx, p, gva, Access::Load, a)?;
    read_place(cx, p2, gva2, Access::Load, b)
}

pub(crate) fn write_bytes<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    mmu: usize,
    data: &[u8],
) -> Result<(), Trap> {
    if cx.core.direct.is_some() {
        return direct::write(cx, gva, data);
    }
    let first = (PAGE - (gva & (PAGE - 1))).min(data.len() as u64) as usize;
    let p = place(cx, gva, Access::Store, mmu)?;
    check_blocks(cx, p, gva, first as u64, Access::Store, mmu)?;
    if first == data.len() {
        return write_place(cx, p, gva, mmu, data);
    }
    let gva2 = gva.wrapping_add(first as u64);
    let p2 = place(cx, gva2, Access::Store, mmu)?;
    check_blocks(cx, p2, gva2, (data.len() - first) as u64, Access::Store, mmu)?;
    let (a, b) = data.split_at(first);
    write_place(cx, p, gva, mmu, a)?;
    write_place(cx, p2, gva2, mmu, b)
}

pub(crate) fn load<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, m: MemOp) -> Result<u64, Trap> {
    check_align(cx, gva, m, Access::Load)?;
    cx.core.check_watch(gva, m.bytes() as u64, false);
    let mut buf = [0; 8];
    let n = m.bytes().min(8);
    read_bytes(cx, gva, m.mmu(), &mut buf[..n])?;
    Ok(extend(m, u64::from_le_bytes(buf)))
}

pub(crate) fn store<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, m: MemOp, value: u64) -> Result<(), Trap> {
    check_align(cx, gva, m, Access::Store)?;
    cx.core.check_watch(gva, m.bytes() as u64, true);
    let n = m.bytes().min(8);
    write_bytes(cx, gva, m.mmu(), &to_memory(m, value).to_le_bytes()[..n])
}

pub(crate) fn load_wide<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, m: MemOp) -> Result<Wide, Trap> {
    check_align(cx, gva, m, Access::Load)?;
    cx.core.check_watch(gva, m.bytes() as u64, false);
    let mut out = [0; 64];
    let n = m.bytes().min(64);
    read_bytes(cx, gva, m.mmu(), &mut out[..n])?;
    if m.big_endian() {
        out[..n].reverse();
    }
    Ok(out)
}

pub(crate) fn store_wide<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, m: MemOp, value: &Wide) -> Result<(), Trap> {
    check_align(cx, gva, m, Access::Store)?;
    cx.core.check_watch(gva, m.bytes() as u64, true);
    let mut v = *value;
    let n = m.bytes().min(64);
    if m.big_endian() {
        v[..n].reverse();
    }
    write_bytes(cx, gva, m.mmu(), &v[..n])
}

pub(crate) fn probe<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    len: u64,
    access: Access,
    mmu: usize,
) -> Result<(), Trap> {
    if len == 0 {
        return Ok(());
    }
    if cx.core.direct.is_some() {
        return direct::probe(cx, gva, len, access == Access::Store);
    }
    let mut page = gva & !(PAGE - 1);
    let last = gva.wrapping_add(len - 1) & !(PAGE - 1);
    place(cx, gva, access, mmu)?;
    while page != last {
        page = page.wrapping_add(PAGE);
        place(cx, page, access, mmu)?;
    }
    Ok(())
}

pub(crate) fn combine(op: RmwOp, m: MemOp, old: u64, v: u64) -> u64 {
    let bits = m.bytes() as u32 * 8;
    let s = |x: u64| (x << (64 - bits)) as i64 >> (64 - bits);
    let u = |x: u64| x << (64 - bits) >> (64 - bits);
    match op {
        RmwOp::Swap => v,
        RmwOp::Add => old.wrapping_add(v),
        RmwOp::And => old & v,
        RmwOp::Or => old | v,
        RmwOp::Xor => old ^ v,
        RmwOp::Min => s(old).min(s(v)) as u64,
        RmwOp::Max => s(old).max(s(v)) as u64,
        RmwOp::Minu => u(old).min(u(v)),
        RmwOp::Maxu => u(old).max(u(v)),
    }
}

/// One atomic access: `change` gives the new memory value from the old one (both zero-extended guest values), or `None` to
/// leave memory as it is.
fn atomic<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, Trap> {
    let n = m.bytes().min(8);
    if gva & (n as u64 - 1) != 0 {
        if m.align() != Align::None {
            return Err(cx.guest.fault(BusFault::Misaligned, gva, Access::Store));
        }
        if cx.core.direct.is_some() {
            // The host's own locked instruction may lie anywhere.
            return direct::atomic(cx, gva, m, change);
        }
        return split_atomic(cx, gva, m, change);
    }
    cx.core.check_watch(gva, n as u64, true);
    if cx.core.direct.is_some() {
        return direct::atomic(cx, gva, m, change);
    }
    let unsigned = MemOp(m.0 & !8);
    let p = place(cx, gva, Access::Store, m.mmu())?;
    check_blocks(cx, p, gva, n as u64, Access::Store, m.mmu())?;
    let old = match p {
        Place::Ram { host, range, offset, slow } => {
            if slow {
                before_store(cx, range, offset, n as u64)?;
            }
            let f = |raw: u64| change(extend(unsigned, raw)).map(|v| to_memory(m, v));
            // SAFETY: as in `read_place`; aligned to the access by the check above (pages and blocks are page-aligned).
            let raw = unsafe {
                match n {
                    1 => {
                        let a = &*host.cast::<AtomicU8>();
                        u64::from(
                            a.fetch_update(SeqCst, SeqCst, |x| f(x.into()).map(|v| v as u8))
                                .unwrap_or_else(|x| x),
                        )
                    }
                    2 => {
                        let a = &*host.cast::<AtomicU16>();
                        u64::from(
                            a.fetch_update(SeqCst, SeqCst, |x| f(x.into()).map(|v| v as u16))
                                .unwrap_or_else(|x| x),
                        )
                    }
                    4 => {
                        let a = &*host.cast::<AtomicU32>();
                        u64::from(
                            a.fetch_update(SeqCst, SeqCst, |x| f(x.into()).map(|v| v as u32))
                                .unwrap_or_else(|x| x),
                        )
                    }
                    _ => (*host.cast::<AtomicU64>()).fetch_update(SeqCst, SeqCst, f).unwrap_or_else(|x| x),
                }
            };
            if slow {
                after_store(cx, gva, m.mmu(), range, offset, n as u64);
            }
            raw
        }
        Place::Bus(..) => {
            // A device: read and write, as a bus without locked cycles does.
            let mut buf = [0; 8];
            read_place(cx, p, gva, Access::Store, &mut buf[..n])?;
            let raw = u64::from_le_bytes(buf);
            if let Some(v) = change(extend(unsigned, raw)) {
                write_place(cx, p, gva, m.mmu(), &to_memory(m, v).to_le_bytes()[..n])?;
            }
            raw
        }
    };
    Ok(extend(m, old))
}

/// The same at an address that is not aligned. Inside a page of an x86 host it is a split lock; across pages, and on other
/// hosts, others can see it half done.
fn split_atomic<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, Trap> {
    let n = m.bytes().min(8);
    cx.core.check_watch(gva, n as u64, true);
    let unsigned = MemOp(m.0 & !8);
    let inside = (gva & (PAGE - 1)) + n as u64 <= PAGE;
    let p = place(cx, gva, Access::Store, m.mmu())?;
    if let (true, Place::Ram { host, range, offset, slow }) = (inside, p) {
        if slow {
            before_store(cx, range, offset, n as u64)?;
        }
        let raw = loop {
            let mut buf = [0; 8];
            // SAFETY: as in `read_place`.
            unsafe { ram_read(host, &mut buf[..n]) };
            let raw = u64::from_le_bytes(buf);
            let Some(new) = change(extend(unsigned, raw)) else { break raw };
            // SAFETY: as in `read_place`.
            if unsafe { wide::cas_split(host, n, raw, to_memory(m, new)) } {
                break raw;
            }
        };
        if slow {
            after_store(cx, gva, m.mmu(), range, offset, n as u64);
        }
        return Ok(extend(m, raw));
    }
    probe(cx, gva, n as u64, Access::Store, m.mmu())?;
    let mut buf = [0; 8];
    read_bytes(cx, gva, m.mmu(), &mut buf[..n])?;
    let raw = u64::from_le_bytes(buf);
    if let Some(new) = change(extend(unsigned, raw)) {
        write_bytes(cx, gva, m.mmu(), &to_memory(m, new).to_le_bytes()[..n])?;
    }
    Ok(extend(m, raw))
}

pub(crate) fn rmw<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    op: RmwOp,
    value: u64,
) -> Result<u64, Trap> {
    atomic(cx, gva, m, |old| Some(combine(op, m, old, value)))
}

pub(crate) fn cas<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    expected: u64,
    new: u64,
) -> Result<u64, Trap> {
    let mask = u64::MAX >> (64 - m.bytes().min(8) as u32 * 8);
    atomic(cx, gva, m, |old| (old == expected & mask).then_some(new))
}

/// Compares and swaps 16 bytes.
pub(crate) fn cas_wide<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    expected: u128,
    new: u128,
) -> Result<u128, Trap> {
    if gva & 15 != 0 {
        return Err(cx.guest.fault(BusFault::Misaligned, gva, Access::Store));
    }
    if cx.core.direct.is_some() {
        return direct::cas_wide(cx, gva, expected, new);
    }
    cx.core.check_watch(gva, 16, true);
    let p = place(cx, gva, Access::Store, m.mmu())?;
    match p {
        Place::Ram { host, range, offset, slow } => {
            if slow {
                before_store(cx, range, offset, 16)?;
            }
            // SAFETY: as in `read_place`; 16-byte aligned by the check above.
            let old = unsafe { wide::cas(host, expected, new) };
            if slow {
                after_store(cx, gva, m.mmu(), range, offset, 16);
            }
            Ok(old)
        }
        Place::Bus(..) => {
            let mut buf = [0; 16];
            read_place(cx, p, gva, Access::Store, &mut buf)?;
            let old = u128::from_le_bytes(buf);
            if old == expected {
                write_place(cx, p, gva, m.mmu(), &new.to_le_bytes())?;
            }
            Ok(old)
        }
    }
}

/// Atomic operations on 16 bytes.
mod wide {
    /// Compares and swaps; the old value.
    ///
    /// # Safety
    /// `at` must be valid for 16 bytes and aligned to them.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn cas(at: *mut u8, expected: u128, new: u128) -> u128 {
        if std::is_x86_feature_detected!("cmpxchg16b") {
            let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
            // SAFETY: the host has the instruction, and the place is valid and aligned by the caller's promise. RBX is
            // the compiler's, so it is exchanged and put back.
            unsafe {
                std::arch::asm!(
                    "xchg {new}, rbx",
                    "lock cmpxchg16b xmmword ptr [{at}]",
                    "mov rbx, {new}",
                    at = in(reg) at,
                    new = inout(reg) new as u64 => _,
                    inout("rax") low,
                    inout("rdx") high,
                    in("rcx") (new >> 64) as u64,
                    options(nostack),
                );
            }
            return u128::from(low) | u128::from(high) << 64;
        }
        // SAFETY: by the caller's promise.
        unsafe { parts(at, expected, new) }
    }

    /// # Safety
    /// As above.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) unsafe fn cas(at: *mut u8, expected: u128, new: u128) -> u128 {
        // SAFETY: by the caller's promise.
        unsafe { parts(at, expected, new) }
    }

    /// Compares and swaps `n` (2, 4, 8) bytes at any address; whether it did.
    ///
    /// # Safety
    /// `at` must be valid for `n` bytes.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn cas_split(at: *mut u8, n: usize, old: u64, new: u64) -> bool {
        let done: u8;
        // SAFETY: valid by the caller's promise; the processor locks accesses at any address.
        unsafe {
            match n {
                2 => std::arch::asm!("lock cmpxchg word ptr [{at}], {new:x}", "sete {done}", at = in(reg) at,
                    new = in(reg) new, done = out(reg_byte) done, inout("ax") old as u16 => _, options(nostack)),
                4 => {
                    std::arch::asm!("lock cmpxchg dword ptr [{at}], {new:e}", "sete {done}", at = in(reg) at,
                    new = in(reg) new, done = out(reg_byte) done, inout("eax") old as u32 => _, options(nostack))
                }
                _ => std::arch::asm!("lock cmpxchg qword ptr [{at}], {new}", "sete {done}", at = in(reg) at,
                    new = in(reg) new, done = out(reg_byte) done, inout("rax") old => _, options(nostack)),
            }
        }
        done != 0
    }

    /// # Safety
    /// As above.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) unsafe fn cas_split(at: *mut u8, n: usize, _: u64, new: u64) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { super::ram_write(at, &new.to_le_bytes()[..n]) };
        true
    }

    /// In two halves under a lock, where the host has no such operation: atomic against others of the same kind.
    unsafe fn parts(at: *mut u8, expected: u128, new: u128) -> u128 {
        use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
        static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _one = ONE.lock();
        // SAFETY: by the caller's promise.
        let halves = unsafe { [&*at.cast::<AtomicU64>(), &*at.cast::<AtomicU64>().add(1)] };
        let old = u128::from(halves[0].load(SeqCst)) | u128::from(halves[1].load(SeqCst)) << 64;
        if old == expected {
            halves[0].store(new as u64, SeqCst);
            halves[1].store((new >> 64) as u64, SeqCst);
        }
        old
    }
}
