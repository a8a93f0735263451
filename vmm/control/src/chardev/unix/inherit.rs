//! Descriptors that the process was started with.
#![expect(unsafe_code, reason = "a number from the command line becomes a descriptor")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// A copy of descriptor `fd`, which the process was started with.
pub fn duplicate(fd: u32) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the borrow lasts for this call only, which just hands the number to fcntl(F_DUPFD_CLOEXEC); a
    // number that is no open descriptor is answered with EBADF. -1, the one forbidden value, can't come from
    // an unsigned number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    borrowed.try_clone_to_owned()
}
