//! Whole transfers at an offset of a host file, without its file position.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};

use super::engine::Aio;

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

/// Reads once; nothing comes at the end of the file.
pub(crate) fn read_some(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match read_once(file, buf, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Writes once.
pub(crate) fn write_some(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    loop {
        match write_once(file, buf, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Fills `buf`; what lies beyond the end of the file reads as zero.
pub(crate) fn read(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match read_some(file, buf, offset)? {
            0 => {
                buf.fill(0);
                return Ok(());
            }
            n => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Writes all of `buf`.
pub(crate) fn write(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match write_some(file, buf, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => {
                buf = &buf[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// [`read`] into several buffers, in one request where that goes.
pub(crate) fn read_vectored(
    file: &File,
    aio: Aio,
    bufs: &mut [IoSliceMut<'_>],
    offset: u64,
) -> io::Result<()> {
    let mut done = 0;
    if bufs.len() > 1 || aio != Aio::Threads {
        done = aio.read(file, bufs, offset)?;
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

/// [`write`] of several buffers, in one request where that goes, with a flush behind it if asked for; returns the offset
/// after the last byte, and whether all is stable.
pub(crate) fn write_vectored(
    file: &File,
    aio: Aio,
    bufs: &[IoSlice<'_>],
    offset: u64,
    sync: bool,
) -> io::Result<(u64, bool)> {
    let (mut done, mut stable) = (0, false);
    if bufs.len() > 1 || aio != Aio::Threads {
        (done, stable) = aio.write(file, bufs, offset, sync)?;
    }
    stable &= done == bufs.iter().map(|b| b.len()).sum();
    let mut at = offset;
    for buf in bufs {
        let skip = done.min(buf.len());
        done -= skip;
        write(file, &buf[skip..], at + skip as u64)?;
        at += buf.len() as u64;
    }
    Ok((at, stable))
}

#[cfg(target_os = "linux")]
pub(super) fn first_read(file: &File, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    // The system takes so many at once.
    let n = bufs.len().min(1024);
    match rustix::io::preadv(file, &mut bufs[..n], offset) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(target_os = "linux")]
pub(super) fn first_write(file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    match rustix::io::pwritev(file, &bufs[..bufs.len().min(1024)], offset) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn first_read(_: &File, _: &mut [IoSliceMut<'_>], _: u64) -> io::Result<usize> {
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn first_write(_: &File, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
    Ok(0)
}
