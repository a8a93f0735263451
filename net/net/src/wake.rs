//! What ends a thread's `poll`: one byte down a socket pair.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The end that wakes.
pub(crate) struct Wake(UnixStream);

/// The end that waits.
pub(crate) struct Woken(UnixStream);

/// Both ends.
pub(crate) fn pair() -> io::Result<(Wake, Woken)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    Ok((Wake(wake), Woken(woken)))
}

impl Wake {
    pub(crate) fn wake(&self) {
        // A full pipe means that a wake-up is pending already.
        let _ = (&self.0).write(&[1]);
    }
}

impl Woken {
    /// Waits until `fd` is ready for `flags`, until woken, or for `patience`. Returns what `fd` is ready for: nothing
    /// if there is none.
    pub(crate) fn wait(
        &mut self,
        fd: Option<(BorrowedFd<'_>, PollFlags)>,
        patience: Option<Duration>,
    ) -> io::Result<PollFlags> {
        let own = PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN);
        let other = match fd {
            Some((fd, flags)) => PollFd::from_borrowed_fd(fd, flags),
            None => own.clone(),
        };
        let mut fds = [own, other];
        let count = if fd.is_some() { 2 } else { 1 };
        let patience =
            patience.map(|p| Timespec { tv_sec: p.as_secs() as i64, tv_nsec: p.subsec_nanos().into() });
        match poll(&mut fds[..count], patience.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(PollFlags::empty()),
            Err(e) => return Err(e.into()),
        }
        let (own, other) = (fds[0].revents(), fds[1].revents());
        if !own.is_empty() {
            let _ = (&self.0).read(&mut [0; 64]);
        }
        Ok(if count == 2 { other } else { PollFlags::empty() })
    }
}
