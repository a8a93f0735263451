//! Code memory: reserved once, filled from the bottom, never writable and executable at the same address.
//!
//! The same pages are mapped twice: writable for the code generator, executable for the vCPUs. Memory is committed
//! by the host when it is first written. Several code generators may share one space.

#![expect(unsafe_code, reason = "writes machine code through a raw mapping")]

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "none.rs"]
mod os;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// A copy of a code space's contents.
#[derive(Debug)]
pub struct CodeCopy(os::Copy);

/// Memory for code.
#[derive(Debug)]
pub struct CodeSpace {
    map: os::Mapping,
    size: usize,
    used: AtomicUsize,
    /// Patches since writable pages were last given back.
    patches: AtomicUsize,
}

impl CodeSpace {
    /// Bytes reserved by default.
    pub const DEFAULT_SIZE: usize = 128 << 20;
    /// Alignment of what is handed out after a reset.
    const ALIGN: usize = 32;
    /// Code that has been written is not written again but for links, so its writable pages are given back in chunks.
    const CHUNK: usize = 1 << 20;
    const PAGE: usize = 4096;
    /// Patches of older code after which its writable pages are given back: at most so many of them are resident.
    const PATCHES: usize = 256;

    /// Reserves `size` bytes (at most 1 GiB, so that everything is in reach of a relative jump).
    ///
    /// # Errors
    /// What the host says if it does not give the memory.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.clamp(1 << 16, 1 << 30).next_multiple_of(1 << 16);
        Ok(Self {
            map: os::Mapping::new(size)?,
            size,
            used: AtomicUsize::new(0),
            patches: AtomicUsize::new(0),
        })
    }

    /// Host address of the executable mapping.
    #[must_use]
    pub fn rx_base(&self) -> u64 {
        self.map.rx as u64
    }

    /// Bytes reserved.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Bytes handed out.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes everything behind the first `used` bytes back. The caller sees to it that no vCPU runs or will jump to code
    /// there; what it may still execute by mistake is code, never memory outside the space.
    pub fn reset(&self, used: usize) {
        self.used.fetch_min(used.next_multiple_of(Self::ALIGN), Ordering::AcqRel);
    }

    /// A copy of what is in use, for [`CodeSpace::replace`]. Nobody may be changing code.
    ///
    /// # Errors
    /// What the host says if it does not give the memory.
    pub fn copy(&self) -> io::Result<CodeCopy> {
        self.map.copy(self.used()).map(CodeCopy)
    }

    /// Puts a copy in the memory's place, at the same addresses: a forked child would share it with its parent otherwise. Nothing
    /// may be running in it.
    ///
    /// # Errors
    /// What the host says if it does not map the copy.
    pub fn replace(&self, copy: &CodeCopy) -> io::Result<()> {
        self.map.replace(&copy.0)
    }

    /// Room for `len` bytes at a multiple of `align`: its offset; `None` if the space is full.
    pub(crate) fn alloc(&self, len: usize, align: usize) -> Option<usize> {
        let at = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
                at.next_multiple_of(align).checked_add(len).filter(|end| *end <= self.size)
            })
            .ok()?
            .next_multiple_of(align);
        let chunk = at / Self::CHUNK;
        if (at + len) / Self::CHUNK != chunk {
            self.map.settle(chunk * Self::CHUNK..at / Self::PAGE * Self::PAGE);
        }
        Some(at)
    }

    /// Puts code where `alloc` gave room and nothing runs yet.
    pub(crate) fn write(&self, offset: usize, code: &[u8]) {
        assert!(offset <= self.size && code.len() <= self.size - offset);
        // SAFETY: the destination lies in the writable mapping by the check above, which no reference points into; the room
        // was handed out to this caller alone.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.map.rw.add(offset), code.len()) }
    }

    /// Replaces 4 aligned bytes at executable address `at`, as one. False if they are not in the space.
    pub(crate) fn patch_u32(&self, at: u64, value: u32) -> bool {
        let offset = at.wrapping_sub(self.rx_base()) as usize;
        if !offset.is_multiple_of(4) || offset > self.size - 4 {
            return false;
        }
        // SAFETY: inside the mapping and aligned by the check above; all writers after publication use atomic stores.
        let cell = unsafe { AtomicU32::from_ptr(self.map.rw.add(offset).cast()) };
        cell.store(value, Ordering::Release);
        let old = self.used() / Self::CHUNK * Self::CHUNK;
        if offset < old && self.patches.fetch_add(1, Ordering::Relaxed) >= Self::PATCHES {
            self.patches.store(0, Ordering::Relaxed);
            self.map.settle(0..old);
        }
        true
    }

    /// Copy of `len` bytes of code at executable address `at`, for disassembly.
    #[must_use]
    pub fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let offset = at.wrapping_sub(self.rx_base()) as usize;
        if offset > self.size || len > self.size - offset {
            return None;
        }
        let mut out = vec![0; len];
        // SAFETY: the source lies in the mapping by the check above. A link patched at the same time gives bytes of either
        // state, which a disassembly can bear.
        unsafe { std::ptr::copy_nonoverlapping(self.map.rw.add(offset), out.as_mut_ptr(), len) };
        Some(out)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn two_views_of_one_memory() {
        let s = CodeSpace::new(1 << 16).unwrap();
        let at = s.alloc(10, 32).unwrap();
        s.write(at, &[0xc3; 10]);
        // SAFETY: reads the executable mapping, which lives as long as `s`.
        let seen = unsafe { *(s.rx_base() as *const u8).add(at) };
        assert_eq!(seen, 0xc3);
        assert_eq!(s.read(s.rx_base() + at as u64, 10), Some(vec![0xc3; 10]));
        assert!(s.patch_u32(s.rx_base() + 4, 0x1234_5678));
        assert_eq!(s.read(s.rx_base() + 4, 4), Some(vec![0x78, 0x56, 0x34, 0x12]));
        assert!(!s.patch_u32(s.rx_base() + 2, 0));
        assert!(!s.patch_u32(s.rx_base() + (1 << 16), 0));
        assert_eq!(s.alloc(1 << 16, 8), None);
        s.reset(0);
        assert_eq!(s.alloc(1 << 16, 8), Some(0));
    }
}
