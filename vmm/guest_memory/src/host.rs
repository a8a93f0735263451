//! The host's side of a RAM block: how the memory is mapped, and the raw pointers to it.
#![expect(unsafe_code, reason = "maps memory and hands out raw pointers and volatile slices of it")]

use std::fs::File;
use std::io;
use std::ptr::NonNull;

use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileSlice};

use crate::dirty::{DirtyMap, DirtySlice};

/// A mapping of host memory, unmapped when dropped. Always readable and writable, never moved.
#[derive(Debug)]
pub(crate) struct Mapping {
    region: MmapRegion<()>,
    base: NonNull<u8>,
}

// SAFETY: `base` is the address of `region`, which is itself Send and Sync; it is only a shortcut to it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// A volatile slice of `len` bytes at `offset`; `None` outside the mapping.
    pub(crate) fn slice<'a>(
        &'a self,
        offset: usize,
        len: usize,
        dirty: &'a DirtyMap,
    ) -> Option<VolatileSlice<'a, DirtySlice<'a>>> {
        if offset.checked_add(len)? > self.region.size() {
            return None;
        }
        // SAFETY: `offset + len` lies in the mapping, which lives as long as `self` and thus as 'a. All users
        // of the memory in Rhea go through volatile slices or raw pointers, never through references.
        unsafe {
            let at = self.base.as_ptr().add(offset);
            Some(VolatileSlice::with_bitmap(at, len, DirtySlice::new(dirty, offset as u64), None))
        }
    }

    fn from_region(region: MmapRegion<()>) -> io::Result<Self> {
        let base = NonNull::new(region.as_ptr()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Mapping { region, base })
    }

    /// Makes every page present now, so that later accesses cannot fail for want of memory.
    pub(crate) fn populate(&self, page: usize) -> io::Result<()> {
        // Touching would end the process with a signal where memory runs out; the host can be asked instead.
        if let Some(done) = self.populate_by_host() {
            return done;
        }
        let mut offset = 0;
        while offset < self.region.size() {
            // SAFETY: in the mapping. Nobody else has the pointer yet: this runs before the block is shared.
            unsafe {
                let at = self.base.as_ptr().add(offset);
                at.write_volatile(at.read_volatile());
            }
            offset += page;
        }
        Ok(())
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::fd::AsRawFd;
    use vm_memory::mmap::MmapRegionBuilder;

    impl Mapping {
        /// Maps `size` bytes: anonymous memory, or `file` from an offset.
        /// `lazy` leaves it open whether there is memory for all of it.
        pub(crate) fn new(
            size: usize,
            file: Option<(&File, u64)>,
            shared: bool,
            lazy: bool,
        ) -> io::Result<Self> {
            let mut flags = if lazy { libc::MAP_NORESERVE } else { 0 };
            flags |= if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
            let mut builder = MmapRegionBuilder::new(size).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
            match file {
                Some((file, start)) => {
                    builder = builder.with_file_offset(FileOffset::new(file.try_clone()?, start));
                }
                None => flags |= libc::MAP_ANONYMOUS,
            }
            let region = builder.with_mmap_flags(flags).build().map_err(|e| match e {
                vm_memory::mmap::MmapRegionError::Mmap(e) => e,
                other => io::Error::other(other),
            })?;
            Self::from_region(region)
        }

        #[cfg(target_os = "linux")]
        fn advise(&self, advice: libc::c_int) -> io::Result<()> {
            // SAFETY: the range is our mapping; the advice given here changes no contents.
            match unsafe { libc::madvise(self.base.as_ptr().cast(), self.region.size(), advice) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }

        /// Lets the host merge equal pages.
        #[cfg(target_os = "linux")]
        pub(crate) fn merge(&self) -> io::Result<()> {
            self.advise(libc::MADV_MERGEABLE)
        }

        /// Leaves the memory out of core dumps.
        #[cfg(target_os = "linux")]
        pub(crate) fn leave_out_of_dumps(&self) -> io::Result<()> {
            self.advise(libc::MADV_DONTDUMP)
        }

        /// Makes all pages present, or nothing if the host has no such request.
        #[cfg(target_os = "linux")]
        pub(crate) fn populate_by_host(&self) -> Option<io::Result<()>> {
            /// MADV_POPULATE_WRITE of Linux 5.14.
            const POPULATE_WRITE: libc::c_int = 23;
            match self.advise(POPULATE_WRITE) {
                // Not known to this kernel.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => None,
                done => Some(done),
            }
        }

        /// Gives the pages wholly inside the range back to the host; they read as zero (or as the file) next.
        pub(crate) fn discard(&self, offset: usize, len: usize, file: Option<&File>) -> io::Result<()> {
            if offset.checked_add(len).is_none_or(|end| end > self.region.size()) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            #[cfg(target_os = "linux")]
            if let Some(file) = file {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let start = offset as i64 + self.region.file_offset().map_or(0, |f| f.start()) as i64;
                // SAFETY: plain system call on a descriptor we hold; the kernel checks the numbers.
                return match unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len as i64) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                };
            }
            let _ = file.map(|f| f.as_raw_fd());
            // SAFETY: the range lies in our mapping; private anonymous pages become zero pages, which is a
            // change of contents like any other guest-visible write.
            match unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), len, libc::MADV_DONTNEED) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Mapping {
    /// Not offered by this host.
    pub(crate) fn merge(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Not offered by this host.
    pub(crate) fn leave_out_of_dumps(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Not offered by this host.
    pub(crate) fn populate_by_host(&self) -> Option<io::Result<()>> {
        None
    }
}

#[cfg(not(unix))]
impl Mapping {
    /// Maps `size` bytes: anonymous memory, or a shared mapping of `file` from an offset.
    pub(crate) fn new(
        size: usize,
        file: Option<(&File, u64)>,
        shared: bool,
        _lazy: bool,
    ) -> io::Result<Self> {
        let region = match file {
            Some(_) if !shared => return Err(io::ErrorKind::Unsupported.into()),
            Some((file, start)) => MmapRegion::from_file(FileOffset::new(file.try_clone()?, start), size),
            None => MmapRegion::new(size),
        }?;
        Self::from_region(region)
    }

    /// Not offered by this host.
    pub(crate) fn discard(&self, _offset: usize, _len: usize, _file: Option<&File>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Makes an anonymous file of `size` bytes, of huge pages of `1 << huge_shift` bytes if given.
#[cfg(target_os = "linux")]
pub(crate) fn memfd(name: &str, size: u64, huge_shift: Option<u32>) -> io::Result<File> {
    use std::ffi::CString;
    use std::os::fd::FromRawFd;

    let name = CString::new(name.replace('\0', "")).map_err(io::Error::other)?;
    let mut flags = libc::MFD_CLOEXEC;
    if let Some(shift) = huge_shift {
        flags |= libc::MFD_HUGETLB | shift << libc::MFD_HUGE_SHIFT;
    }
    // SAFETY: `name` is a valid C string for the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    Ok(file)
}

/// Size of the huge pages that a file consists of, if it lies on a hugetlbfs.
#[cfg(target_os = "linux")]
pub(crate) fn huge_page_size(file: &File) -> Option<u64> {
    use std::os::fd::AsRawFd;

    // SAFETY: all-zero is a valid value, and the call fills it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor we hold and a struct of ours.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
        return None;
    }
    (stat.f_type == libc::HUGETLBFS_MAGIC).then(|| u64::try_from(stat.f_bsize).ok()).flatten()
}

/// There are none on this host.
#[cfg(not(target_os = "linux"))]
pub(crate) fn huge_page_size(_file: &File) -> Option<u64> {
    None
}

/// Free pages of the host's pool of huge pages of `kib` KiB, if it has that pool.
pub(crate) fn free_huge_pages(kib: u64) -> Option<u64> {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/free_hugepages");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Size in bytes of the pages the host maps memory with.
pub(crate) fn page_size() -> u64 {
    #[cfg(unix)]
    {
        // SAFETY: no pointers involved.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).unwrap_or(crate::PAGE_SIZE).max(crate::PAGE_SIZE)
    }
    #[cfg(not(unix))]
    {
        64 << 10
    }
}
