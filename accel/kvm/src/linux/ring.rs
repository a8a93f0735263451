//! The dirty ring: a queue for each vCPU into which KVM writes the pages it dirtied (Documentation/virt/kvm/api.rst,
//! KVM_CAP_DIRTY_LOG_RING). The work of collecting depends on what was written, not on how much memory there is.
//!
//! Entries are three words: flags, slot, and offset in the slot in pages. KVM sets `DIRTY` last; we set `RESET` when an
//! entry has been taken, and KVM_RESET_DIRTY_RINGS makes room.

#![expect(unsafe_code, reason = "maps the rings that the kernel shares with us")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, KVMIO};
use kvm_ioctls::{Error, VcpuFd, VmFd};
use parking_lot::Mutex;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xC7);

const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// One entry, shared with the kernel.
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

/// Bytes of an entry.
pub(crate) const ENTRY_SIZE: u64 = size_of::<Entry>() as u64;

/// The ring of one vCPU.
struct Ring {
    entries: *const Entry,
    count: usize,
    next: usize,
}

// SAFETY: the pointer is to a shared mapping of our own, and its words are only accessed atomically.
unsafe impl Send for Ring {}

impl Ring {
    fn map(fd: &VcpuFd, count: usize, page: u64) -> io::Result<Self> {
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * page as i64;
        let length = count * size_of::<Entry>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd.as_raw_fd(), offset)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { entries: at.cast_const().cast(), count, next: 0 })
    }

    /// Takes all entries that are there.
    fn take(&mut self, each: &mut dyn FnMut(u32, u64)) -> usize {
        let mut taken = 0;
        // Once around at most: an entry comes back only after a reset.
        while taken < self.count {
            // SAFETY: the index is below the number of entries of the mapping, which lives as long as `self`.
            let entry = unsafe { &*self.entries.add(self.next) };
            if entry.flags.load(Ordering::Acquire) & DIRTY == 0 {
                break;
            }
            each(entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
            entry.flags.store(RESET, Ordering::Release);
            self.next = (self.next + 1) % self.count;
            taken += 1;
        }
        taken
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made.
        unsafe { libc::munmap(self.entries.cast_mut().cast(), self.count * size_of::<Entry>()) };
    }
}

/// The rings of a partition's vCPUs.
pub(crate) struct Rings(Mutex<Vec<Ring>>);

impl Rings {
    /// Maps the rings, of `entries` entries each.
    pub(crate) fn map(vcpus: &[VcpuFd], entries: usize, page: u64) -> io::Result<Self> {
        let rings: io::Result<_> = vcpus.iter().map(|fd| Ring::map(fd, entries, page)).collect();
        Ok(Self(Mutex::new(rings?)))
    }

    /// Takes what all rings hold and makes room in them. `each` is given the slot and the page's number in it.
    pub(crate) fn collect(&self, vm: &VmFd, each: &mut dyn FnMut(u32, u64)) -> Result<(), Error> {
        let mut rings = self.0.lock();
        let taken: usize = rings.iter_mut().map(|ring| ring.take(each)).sum();
        // SAFETY: no arguments.
        if taken > 0 && unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) } < 0 {
            return Err(Error::last());
        }
        Ok(())
    }
}
