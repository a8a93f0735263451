//! Linux: image locks and holes.
//!
//! The lock is QEMU's protocol on open-file-description locks (`file-posix` block driver): byte 100+n is locked
//! shared by whoever uses permission n, byte 200+n by whoever forbids it to others; one may join if nobody
//! forbids what he uses and nobody uses what he forbids.
#![expect(unsafe_code, reason = "fcntl and fallocate on descriptors we own")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::BlockError;

const USED: i64 = 100;
const FORBIDDEN: i64 = 200;

const CONSISTENT_READ: u32 = 0;
const WRITE: u32 = 1;
const RESIZE: u32 = 3;

fn request(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn lock_shared(file: &File, byte: i64) -> io::Result<()> {
    let lock = request(libc::F_RDLCK, byte);
    // SAFETY: `lock` is a valid flock for the call, the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives up all locks of this description on an image.
pub(crate) fn unlock_image(file: &File) -> io::Result<()> {
    let lock = libc::flock { l_len: FORBIDDEN, ..request(libc::F_UNLCK, USED) };
    // SAFETY: `lock` is a valid flock for the call, the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether another description holds a lock on the byte.
fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = request(libc::F_WRLCK, byte);
    // SAFETY: `lock` is a valid flock that the call may write to, the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
    }
}

/// Locks an image for reading, or for reading and writing, against all who write it.
///
/// With `share`, nothing is forbidden to anybody.
pub(crate) fn lock_image(file: &File, path: &Path, write: bool, share: bool) -> Result<(), BlockError> {
    let path = || path.display().to_string();
    let failed = |source: io::Error| BlockError::Open { path: path(), source };
    let used: &[u32] = if write { &[CONSISTENT_READ, WRITE, RESIZE] } else { &[CONSISTENT_READ] };
    let forbidden: &[u32] = if share { &[] } else { &[WRITE, RESIZE] };
    for (base, bits) in [(USED, used), (FORBIDDEN, forbidden)] {
        for &bit in bits {
            match lock_shared(file, base + i64::from(bit)) {
                Ok(()) => {}
                // A file system without locks: nothing can be kept out, as with QEMU's locking=auto.
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP)) =>
                {
                    return Ok(());
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                    return Err(BlockError::InUse { path: path(), writer: true });
                }
                Err(e) => return Err(failed(e)),
            }
        }
    }
    for &bit in forbidden {
        if is_locked(file, USED + i64::from(bit)).map_err(failed)? {
            return Err(BlockError::InUse { path: path(), writer: true });
        }
    }
    for &bit in used {
        if is_locked(file, FORBIDDEN + i64::from(bit)).map_err(failed)? {
            return Err(BlockError::InUse { path: path(), writer: false });
        }
    }
    Ok(())
}

fn allocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if len == 0 {
        return Ok(());
    }
    loop {
        // SAFETY: numbers only; the descriptor is open.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOSYS) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            _ => return Err(error),
        }
    }
}

/// Gives the space of a range back; it reads as zero.
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Makes a range read as zero, keeping its space.
pub(crate) fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Takes space for a range, making the file longer if need be.
pub(crate) fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, 0, offset, len)
}

/// Where data starts at or after an offset; `None` if there is none.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system that does not know: all is data.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(e) => Err(e.into()),
    }
}

/// Where the first hole at or after an offset starts; the end of the file counts as one.
pub(crate) fn next_hole(file: &File, offset: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(offset)) {
        Ok(at) => Ok(at),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NXIO) => {
            Ok(u64::MAX)
        }
        Err(e) => Err(e.into()),
    }
}

/// What `O_DIRECT` wants of addresses in memory and of offsets, if the host tells.
pub(super) fn direct_alignment(file: &File) -> Option<(usize, u64)> {
    use rustix::fs::{AtFlags, StatxFlags};
    let s = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let told = StatxFlags::from_bits_retain(s.stx_mask).contains(StatxFlags::DIOALIGN);
    let (memory, unit) = (s.stx_dio_mem_align, s.stx_dio_offset_align);
    (told && memory.is_power_of_two() && unit.is_power_of_two() && unit >= 512)
        .then_some((memory as usize, unit.into()))
}
