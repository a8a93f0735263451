//! Linux: an anonymous file mapped twice.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A file with code.
pub(super) type Copy = OwnedFd;

/// Two shared mappings of one anonymous file.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) rw: *mut u8,
    pub(super) rx: *mut u8,
    size: usize,
}

// SAFETY: the pointers are addresses of mappings that live until drop; whoever writes through them synchronises.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(size: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string; no memory is touched.
        let fd = unsafe { libc::memfd_create(c"rhea-code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system call on an owned descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let map = |prot| {
            // SAFETY: a new mapping at an address the kernel chooses.
            let p =
                unsafe { libc::mmap(std::ptr::null_mut(), size, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
            if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast::<u8>()) }
        };
        let rw = map(libc::PROT_READ | libc::PROT_WRITE)?;
        match map(libc::PROT_READ | libc::PROT_EXEC) {
            Ok(rx) => Ok(Self { rw, rx, size }),
            Err(e) => {
                // SAFETY: unmaps what was mapped above and is not used any more.
                unsafe { libc::munmap(rw.cast(), size) };
                Err(e)
            }
        }
    }
}

impl Mapping {
    /// Another file with the same first `used` bytes.
    pub(super) fn copy(&self, used: usize) -> io::Result<OwnedFd> {
        // SAFETY: the name is a C string; no memory is touched.
        let fd = unsafe { libc::memfd_create(c"rhea-code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let raw = fd.as_raw_fd();
        // SAFETY: plain system call on an owned descriptor.
        if unsafe { libc::ftruncate(raw, self.size as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let used = used.min(self.size);
        let mut done = 0;
        while done < used {
            // SAFETY: reads the first `used` bytes of our own mapping, which is readable.
            let n = unsafe { libc::pwrite(raw, self.rx.add(done).cast(), used - done, done as libc::off_t) };
            if n <= 0 {
                return Err(io::Error::last_os_error());
            }
            done += n as usize;
        }
        Ok(fd)
    }

    /// Maps a file over both mappings.
    pub(super) fn replace(&self, fd: &OwnedFd) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        for (at, prot) in
            [(self.rw, libc::PROT_READ | libc::PROT_WRITE), (self.rx, libc::PROT_READ | libc::PROT_EXEC)]
        {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            // SAFETY: replaces our own mapping, of the same size, by one with the same contents.
            if unsafe { libc::mmap(at.cast(), self.size, prot, flags, raw, 0) } == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Gives the pages of a range of the writable mapping back: their contents stay, visible through the executable one, and
    /// a later write maps them again.
    pub(super) fn settle(&self, range: std::ops::Range<usize>) {
        let len = range.end.min(self.size).saturating_sub(range.start);
        // SAFETY: inside our mapping. It is shared, so dropping its pages changes no contents.
        unsafe { libc::madvise(self.rw.add(range.start).cast(), len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: both mappings are ours, of this size, and go out of use with the space.
        unsafe {
            libc::munmap(self.rw.cast(), self.size);
            libc::munmap(self.rx.cast(), self.size);
        }
    }
}
