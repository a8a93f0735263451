//! Event counters: what one end wakes the other by.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An event counter of the host's.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A new one.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> io::Result<Self> {
        Ok(Event(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// One that a peer has made. It must not block us.
    ///
    /// # Errors
    /// The host's.
    pub fn from_peer(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Event(fd))
    }

    /// Another handle of the same counter.
    ///
    /// # Errors
    /// The host's.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Event)
    }

    /// Wakes who waits for it.
    pub fn signal(&self) {
        // A counter that is full has woken already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes what has come; whether anything has.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
