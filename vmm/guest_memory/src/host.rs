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
    pub(crate) fn populate(&self, page: usize) {
        let mut offset = 0;
        while offset < self.region.size() {
            // SAFETY: in the mapping. Nobody else has the pointer yet: this runs before the block is shared.
            unsafe {
                let at = self.base.as_ptr().add(offset);
                at.write_volatile(at.read_volatile());
            }
            offset += page;
        }
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::fd::AsRawFd;
    use vm_memory::mmap::MmapRegionBuilder;

    impl Mapping {
        /// Maps `size` bytes: anonymous memory, or `file` from its start. Nothing is reserved until touched.
        pub(crate) fn new(size: usize, file: Option<(&File, u64)>, shared: bool) -> io::Result<Self> {
            let mut flags = libc::MAP_NORESERVE;
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

#[cfg(not(unix))]
impl Mapping {
    /// Maps `size` bytes: anonymous memory, or a shared mapping of `file` from its start.
    pub(crate) fn new(size: usize, file: Option<(&File, u64)>, shared: bool) -> io::Result<Self> {
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
