//! stdio, file, pipe, pty.

use super::super::ChardevError;
use super::reactor::Waker;
use super::stream::{Connection, Fixed, Link, Output, Stream};
use super::tty;
use crate::fdsets::FdSets;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

type Opened = Result<Arc<Stream>, ChardevError>;

/// Standard input and output.
pub(super) fn stdio(waker: Waker, signal: bool) -> Opened {
    let dup = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(ChardevError::host("cannot use standard input and output"))
    };
    let input = dup(rustix::stdio::stdin())?;
    let (output, how) = private_output(dup(rustix::stdio::stdout())?);
    tty::enter_raw(input.as_fd(), signal).map_err(ChardevError::host("cannot set up the terminal"))?;
    let connection = Connection { input: Some(Arc::new(input)), output: Some(Arc::new(output)), how };
    Ok(Stream::new(waker, Some(connection), Box::new(Fixed { closes_on_eof: false }), false))
}

/// Standard output is often shared with a shell, so its own flags are left alone: a terminal or pipe is opened
/// a second time, non-blocking, where the host allows that.
fn private_output(fd: OwnedFd) -> (OwnedFd, Output) {
    let kind = fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode));
    match kind {
        Ok(FileType::Socket) => (fd, Output::Socket),
        Ok(FileType::CharacterDevice | FileType::Fifo) => {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match open("/proc/self/fd/1", flags, Mode::empty()) {
                Ok(own) => (own, Output::NonBlocking),
                Err(_) => (fd, Output::Polled),
            }
        }
        _ => (fd, Output::Polled),
    }
}

/// Output into a file.
pub(super) fn file(waker: Waker, fds: &FdSets, path: &str, append: bool, input: Option<&str>) -> Opened {
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(append).truncate(!append);
    let output = fds.open(path, OFlags::WRONLY).unwrap_or_else(|| options.open(path).map(OwnedFd::from));
    let output = output.map_err(ChardevError::host(format!("cannot open '{path}'")))?;
    let input = match input {
        None => None,
        Some(path) => {
            let open = || OpenOptions::new().read(true).open(path).map(OwnedFd::from);
            let file = fds.open(path, OFlags::RDONLY).unwrap_or_else(open);
            Some(Arc::new(file.map_err(ChardevError::host(format!("cannot open '{path}'")))?))
        }
    };
    let connection = Connection { input, output: Some(Arc::new(output)), how: Output::Polled };
    Ok(Stream::new(waker, Some(connection), Box::new(Fixed { closes_on_eof: false }), false))
}

/// `PATH.in` and `PATH.out` when both are there, else `PATH` for both directions.
pub(super) fn pipe(waker: Waker, path: &str) -> Opened {
    let open_pipe = |path: &str| {
        // Both directions, so that neither opening nor reading depends on a peer being there.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        open(path, flags, Mode::empty())
            .map(Arc::new)
            .map_err(|e| ChardevError::host(format!("cannot open pipe '{path}'"))(e.into()))
    };
    let (from, to) = (format!("{path}.in"), format!("{path}.out"));
    let (input, output) = if Path::new(&from).exists() && Path::new(&to).exists() {
        (open_pipe(&from)?, open_pipe(&to)?)
    } else {
        let both = open_pipe(path)?;
        (both.clone(), both)
    };
    let connection = Connection { input: Some(input), output: Some(output), how: Output::NonBlocking };
    Ok(Stream::new(waker, Some(connection), Box::new(Fixed { closes_on_eof: false }), false))
}

/// A new pseudo-terminal. Returns its name for lists, too.
pub(super) fn pty(waker: Waker, link: Option<&str>) -> Result<(Arc<Stream>, String), ChardevError> {
    let failed = |e: io::Error| ChardevError::host("cannot make a pseudo-terminal")(e);
    let make = || -> io::Result<(OwnedFd, String)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
        let slave = open(name.as_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tty::make_raw(slave.as_fd(), false, false)?;
        rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
        // Once opened and closed, the master reports a hang-up until a client comes.
        drop(slave);
        Ok((master, name))
    };
    let (master, name) = make().map_err(failed)?;
    if let Some(path) = link {
        std::os::unix::fs::symlink(&name, path)
            .map_err(ChardevError::host(format!("cannot make link '{path}'")))?;
    }
    let master = Arc::new(master);
    let connection =
        Connection { input: Some(master.clone()), output: Some(master), how: Output::NonBlocking };
    let link = PtyLink { path: link.map(str::to_owned) };
    let stream = Stream::new(waker, Some(connection), Box::new(link), false);
    tracing::info!(pty = %name, "character device redirected");
    Ok((stream, format!("pty:{name}")))
}

struct PtyLink {
    path: Option<String>,
}

impl Link for PtyLink {
    fn is_pty(&self) -> bool {
        true
    }

    fn retry(&self) -> Option<Duration> {
        None
    }
}

impl Drop for PtyLink {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
