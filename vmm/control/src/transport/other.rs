//! Hosts that have TCP and files only.

use super::{Kind, Link, Uri};
use std::fs::File;
use std::io;

fn unsupported(uri: &Uri) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{uri} is for Unix hosts; expected tcp: or file:"))
}

pub(super) fn hold(fd: u32) -> io::Result<(u32, File)> {
    Err(unsupported(&Uri::Fd(fd)))
}

pub(super) fn dial(uri: &Uri) -> io::Result<Link> {
    Err(unsupported(uri))
}

pub(super) fn listen(uri: &Uri) -> io::Result<Kind> {
    Err(unsupported(uri))
}
