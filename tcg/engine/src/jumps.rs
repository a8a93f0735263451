//! The indirect-jump cache of one address space, which its vCPU fills and any thread may strike entries from.
//!
//! Generated code compares `pc` and `key` and then jumps to `code`. An entry is struck by making its `pc` one that no guest
//! has; a reader that was faster jumps to a unit that was valid a moment ago, which is as if the write that made it
//! invalid had come a moment later.
#![expect(unsafe_code, reason = "the cache begins as memory of zeros that the host has not provided yet")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tcg_ir::abi::{JumpEntry, PAGE_BITS};

const ENTRIES: usize = 8192;
/// A `pc` that matches none: instructions start at even addresses, or the guest has no such address. An entry of zeros, as memory
/// that nobody has touched has it, matches none either, but for the first: address 0 is looked for there alone.
const NO_PC: u64 = u64::MAX;

/// [`JumpEntry`] as several threads see it.
#[repr(C)]
struct Entry {
    pc: AtomicU64,
    key: AtomicU64,
    code: AtomicU64,
    unused: AtomicU64,
}

const _: () = assert!(size_of::<Entry>() == size_of::<JumpEntry>());

/// A cache.
pub(crate) struct Jumps(Box<[Entry]>);

fn index(pc: u64) -> usize {
    // Generated code computes the same from `pc ^ pc >> 12`.
    ((pc >> 1) ^ (pc >> 13)) as usize & (ENTRIES - 1)
}

impl Jumps {
    /// An empty cache; empty entries lead to `miss`.
    pub(crate) fn new(miss: u64) -> Self {
        // SAFETY: an entry is four atomic integers, for which all bits are valid.
        let jumps = Self(unsafe { Box::new_zeroed_slice(ENTRIES).assume_init() });
        let first = &jumps.0[0];
        first.code.store(miss, Relaxed);
        first.pc.store(NO_PC, Relaxed);
        jumps
    }

    /// Address for generated code.
    pub(crate) fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Mask of a byte offset into the cache.
    pub(crate) fn mask(&self) -> u64 {
        ((ENTRIES - 1) * size_of::<Entry>()) as u64
    }

    /// Remembers where a jump leads. Only the owner's thread calls this.
    pub(crate) fn set(&self, pc: u64, key: u64, code: u64) {
        let e = &self.0[index(pc)];
        e.pc.store(NO_PC, Relaxed);
        e.key.store(key, Relaxed);
        e.code.store(code, Relaxed);
        e.pc.store(pc, Relaxed);
    }

    /// Where a jump leads, if it is remembered.
    pub(crate) fn get(&self, pc: u64, key: u64) -> Option<u64> {
        let e = &self.0[index(pc)];
        let hit = e.pc.load(Relaxed) == pc && e.key.load(Relaxed) == key;
        hit.then(|| e.code.load(Relaxed))
    }

    /// Strikes the entry that leads from `pc` to `code`, if there is one.
    pub(crate) fn strike(&self, pc: u64, code: u64) {
        let e = &self.0[index(pc)];
        if e.code.load(Relaxed) == code {
            e.pc.store(NO_PC, Relaxed);
        }
    }

    /// Strikes all entries for the page at `gva`.
    pub(crate) fn strike_page(&self, gva: u64) {
        let page = gva >> PAGE_BITS;
        // The addresses of a page differ in the low bits of the index alone.
        let part = 1 << (PAGE_BITS - 1);
        let first = index(page << PAGE_BITS) & !(part - 1);
        for e in &self.0[first..first + part] {
            if e.pc.load(Relaxed) >> PAGE_BITS == page {
                e.pc.store(NO_PC, Relaxed);
            }
        }
    }

    /// Strikes all.
    pub(crate) fn clear(&self) {
        // Memory that nobody has touched stays so.
        let live = self.0.iter().filter(|e| e.code.load(Relaxed) != 0);
        live.for_each(|e| e.pc.store(NO_PC, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_struck_one_by_one_or_by_page() {
        let j = Jumps::new(1);
        let pcs: Vec<u64> = (0..2048).map(|i| 0xffff_ffff_8000_3000 + i * 2).collect();
        for pc in &pcs {
            j.set(*pc, 5, *pc + 7);
        }
        let live = || j.0.iter().filter(|e| ![0, NO_PC].contains(&e.pc.load(Relaxed))).count();
        assert_eq!(live(), 2048);
        j.strike(pcs[3], 0);
        assert_eq!(live(), 2048, "another unit's entry stays");
        j.strike(pcs[3], pcs[3] + 7);
        assert_eq!(live(), 2047);
        j.set(0x1000, 5, 9);
        j.strike_page(0xffff_ffff_8000_3123);
        assert_eq!(live(), 1, "the other page's entry stays");
        assert_eq!((j.get(0x1000, 5), j.get(0, 0)), (Some(9), None));
        j.clear();
        assert_eq!((live(), j.get(0x1000, 5)), (0, None));
    }
}
