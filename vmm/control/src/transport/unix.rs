//! What only Unix hosts have: sockets in the file system, descriptors from the parent, commands.

use super::{Kind, Link, Uri};
use crate::chardev::{duplicate_fd, remove_stale_socket};
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// A socket in the file system; its name is gone when nobody listens any more.
pub(super) struct Listener {
    socket: UnixListener,
    path: String,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    pub(super) fn accept(self, uri: &Uri) -> io::Result<Link> {
        let (stream, _) = self.socket.accept()?;
        socket(uri, stream)
    }
}

fn socket(uri: &Uri, stream: UnixStream) -> io::Result<Link> {
    let (a, b) = (stream.try_clone()?, stream.try_clone()?);
    Ok(Link::both_ways(uri, a, b, Arc::new(move || drop(stream.shutdown(Shutdown::Both)))))
}

/// A copy of a descriptor, and its number.
pub(super) fn hold(fd: u32) -> io::Result<(u32, File)> {
    let file = File::from(duplicate_fd(fd)?);
    let number = u32::try_from(file.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((number, file))
}

fn descriptor(uri: &Uri, fd: u32) -> io::Result<Link> {
    let fd: OwnedFd = duplicate_fd(fd)?;
    let file = File::from(fd);
    // Only a socket has somebody at the other end who can answer.
    if file.metadata()?.file_type().is_socket() {
        return socket(uri, UnixStream::from(OwnedFd::from(file)));
    }
    Link::file(uri, file)
}

fn shell(command: &str) -> Command {
    let mut c = Command::new("/bin/sh");
    c.args(["-c", command]);
    c
}

fn ended(mut child: Child) -> Result<(), String> {
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

pub(super) fn dial(uri: &Uri) -> io::Result<Link> {
    match uri {
        Uri::Unix(path) => socket(uri, UnixStream::connect(path)?),
        Uri::Fd(fd) => descriptor(uri, *fd),
        Uri::Exec(command) => {
            let mut child = shell(command).stdin(Stdio::piped()).spawn()?;
            let input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(Link {
                uri: uri.to_string(),
                input: Box::new(io::empty()),
                output: Some(Box::new(input)),
                answers: false,
                close: Arc::new(|| {}),
                finish: Some(Box::new(move || ended(child))),
            })
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

pub(super) fn listen(uri: &Uri) -> io::Result<Kind> {
    match uri {
        Uri::Unix(path) => {
            remove_stale_socket(path);
            Ok(Kind::Unix(Listener { socket: UnixListener::bind(path)?, path: path.clone() }))
        }
        Uri::Fd(fd) => Ok(Kind::Ready(Box::new(descriptor(uri, *fd)?))),
        Uri::Exec(command) => {
            let mut child = shell(command).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(Kind::Ready(Box::new(Link {
                uri: uri.to_string(),
                input: Box::new(output),
                output: None,
                answers: false,
                close: Arc::new(|| {}),
                finish: Some(Box::new(move || ended(child))),
            })))
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
