//! What ends a thread's `poll`: one byte down a socket pair.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smallvec::SmallVec;

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
        let fds: Vec<_> = fd.into_iter().collect();
        Ok(self.wait_any(&fds, patience)?.first().copied().unwrap_or(PollFlags::empty()))
    }

    /// The same with any number of them.
    pub(crate) fn wait_any(
        &mut self,
        others: &[(BorrowedFd<'_>, PollFlags)],
        patience: Option<Duration>,
    ) -> io::Result<SmallVec<[PollFlags; 2]>> {
        let mut fds: SmallVec<[PollFd<'_>; 3]> = SmallVec::new();
        fds.push(PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN));
        fds.extend(others.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let patience =
            patience.map(|p| Timespec { tv_sec: p.as_secs() as i64, tv_nsec: p.subsec_nanos().into() });
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(others.iter().map(|_| PollFlags::empty()).collect()),
            Err(e) => return Err(e.into()),
        }
        if !fds[0].revents().is_empty() {
            let _ = (&self.0).read(&mut [0; 64]);
        }
        Ok(fds[1..].iter().map(PollFd::revents).collect())
    }
}
