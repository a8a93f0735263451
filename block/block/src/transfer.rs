//! Whole transfers at an offset of a host file, without its file position.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};

#[cfg(unix)]
fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(unix)]
fn write_once(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, buf, offset)
}

#[cfg(windows)]
fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    match std::os::windows::fs::FileExt::seek_read(file, buf, offset) {
        // ERROR_HANDLE_EOF: there is no such thing as a read at the end.
        Err(e) if e.raw_os_error() == Some(38) => Ok(0),
        other => other,
    }
}

#[cfg(windows)]
fn write_once(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, buf, offset)
}

/// Fills `buf`; what lies beyond the end of the file reads as zero.
pub(crate) fn read(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match read_once(file, buf, offset) {
            Ok(0) => {
                buf.fill(0);
                return Ok(());
            }
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of `buf`.
pub(crate) fn write(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match write_once(file, buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// [`read`] into several buffers, in one system call where that goes.
pub(crate) fn read_vectored(file: &File, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
    let mut done = 0;
    if bufs.len() > 1 {
        done = first_read(file, bufs, offset)?;
    }
    let mut at = offset;
    for buf in bufs {
        let skip = done.min(buf.len());
        done -= skip;
        read(file, &mut buf[skip..], at + skip as u64)?;
        at += buf.len() as u64;
    }
    Ok(())
}

/// [`write`] of several buffers, in one system call where that goes; returns the offset after the last byte.
pub(crate) fn write_vectored(file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut done = 0;
    if bufs.len() > 1 {
        done = first_write(file, bufs, offset)?;
    }
    let mut at = offset;
    for buf in bufs {
        let skip = done.min(buf.len());
        done -= skip;
        write(file, &buf[skip..], at + skip as u64)?;
        at += buf.len() as u64;
    }
    Ok(at)
}

#[cfg(target_os = "linux")]
fn first_read(file: &File, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    // The system takes so many at once.
    let n = bufs.len().min(1024);
    match rustix::io::preadv(file, &mut bufs[..n], offset) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(target_os = "linux")]
fn first_write(file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    match rustix::io::pwritev(file, &bufs[..bufs.len().min(1024)], offset) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn first_read(_: &File, _: &mut [IoSliceMut<'_>], _: u64) -> io::Result<usize> {
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn first_write(_: &File, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
    Ok(0)
}
