//! Requests by `io_uring`, one ring for each that is under way.
//!
//! A ring is taken from those that are idle and given back, so that there are as many as there were requests at a time.
#![expect(unsafe_code, reason = "the kernel is given the addresses of buffers")]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use parking_lot::Mutex;

/// Entries of a ring: a request and the flush behind it.
const ENTRIES: u32 = 2;
/// Most buffers of a request.
const MOST_BUFFERS: usize = 1024;

static IDLE: Mutex<Vec<IoUring>> = Mutex::new(Vec::new());

/// Whether the host has it and lets us.
pub(super) fn is_there() -> bool {
    if !IDLE.lock().is_empty() {
        return true;
    }
    match IoUring::new(ENTRIES) {
        Ok(ring) => {
            IDLE.lock().push(ring);
            true
        }
        Err(_) => false,
    }
}

/// Has entries done; each one's result. `None` if no ring could be had for them.
fn run<const N: usize>(entries: [Entry; N]) -> Option<[i32; N]> {
    let idle = IDLE.lock().pop();
    let mut ring = idle.or_else(|| IoUring::new(ENTRIES).ok())?;
    let mut results = [0; N];
    let entries: [Entry; N] = {
        let mut i = 0;
        entries.map(|e| {
            i += 1;
            e.user_data(i - 1)
        })
    };
    // SAFETY: what the entries point at is the caller's, who waits: this returns once all are complete or none was taken.
    unsafe { ring.submission().push_multiple(&entries) }.ok()?;
    let mut left = N;
    while left > 0 {
        if let Err(e) = ring.submit_and_wait(left)
            && e.kind() != io::ErrorKind::Interrupted
        {
            if left == N && ring.submission().len() == N {
                return None;
            }
            // Something is under way, and its buffers must stay.
            std::thread::sleep(Duration::from_millis(1));
        }
        for done in ring.completion() {
            if let Some(result) = results.get_mut(done.user_data() as usize) {
                *result = done.result();
                left -= 1;
            }
        }
    }
    IDLE.lock().push(ring);
    Some(results)
}

/// The number of bytes, or zero if it is to be tried in another way.
fn count(result: i32) -> io::Result<usize> {
    match result {
        n if n >= 0 => Ok(n as usize),
        e if [libc::EINTR, libc::EAGAIN, libc::EOPNOTSUPP].contains(&-e) => Ok(0),
        e => Err(io::Error::from_raw_os_error(-e)),
    }
}

/// Reads once.
pub(super) fn read(file: &File, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    let n = bufs.len().min(MOST_BUFFERS);
    // The slices have the layout of the system's.
    let entry = opcode::Readv::new(types::Fd(file.as_raw_fd()), bufs.as_mut_ptr().cast(), n as u32);
    run([entry.offset(offset).build()]).map_or(Ok(0), |[result]| count(result))
}

/// Writes once, and flushes behind it if asked for.
pub(super) fn write(file: &File, bufs: &[IoSlice<'_>], offset: u64, sync: bool) -> io::Result<(usize, bool)> {
    let n = bufs.len().min(MOST_BUFFERS);
    let entry = opcode::Writev::new(types::Fd(file.as_raw_fd()), bufs.as_ptr().cast(), n as u32);
    let entry = entry.offset(offset).build();
    if !sync {
        return Ok((run([entry]).map_or(Ok(0), |[result]| count(result))?, false));
    }
    // The flush is not begun if less than all was written.
    match run([entry.flags(Flags::IO_LINK), data_sync(file)]) {
        Some([written, synced]) => Ok((count(written)?, synced == 0)),
        None => Ok((0, false)),
    }
}

fn data_sync(file: &File) -> Entry {
    opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build()
}

/// Makes what has been written stable.
pub(super) fn sync(file: &File) -> io::Result<()> {
    match run([data_sync(file)]) {
        Some([0]) => Ok(()),
        // The plain call says what is wrong, if it is so there.
        _ => file.sync_data(),
    }
}
