//! Requests by Linux AIO (`io_submit(2)`), one context for each that is under way.
#![expect(unsafe_code, reason = "system calls of which the C library has no wrappers")]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::time::Duration;

use parking_lot::Mutex;

/// Vectored requests, as in Linux's `include/uapi/linux/aio_abi.h`.
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
/// Most buffers of a request.
const MOST_BUFFERS: usize = 1024;

/// The kernel's `struct iocb`.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    /// Key and flags, in an order that depends on the host's; both are zero.
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    file: u32,
    buffers: u64,
    count: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// The kernel's `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Done {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// The kernel's `aio_context_t`.
struct Context(libc::c_ulong);

impl Context {
    fn new() -> Option<Self> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: the kernel writes the one number it is given the address of.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut id) };
        (done == 0).then_some(Context(id))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: a number; nothing is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

static IDLE: Mutex<Vec<Context>> = Mutex::new(Vec::new());

/// Whether the host has it.
pub(super) fn is_there() -> bool {
    if !IDLE.lock().is_empty() {
        return true;
    }
    match Context::new() {
        Some(context) => {
            IDLE.lock().push(context);
            true
        }
        None => false,
    }
}

/// Has a request done; zero if it is to be tried in another way.
fn run(mut request: Request) -> io::Result<usize> {
    let idle = IDLE.lock().pop();
    let Some(context) = idle.or_else(Context::new) else { return Ok(0) };
    let mut list = [&raw mut request];
    // SAFETY: a list of one request, which with what it points at stays until it is complete, below.
    let taken = unsafe { libc::syscall(libc::SYS_io_submit, context.0, 1, list.as_mut_ptr()) };
    if taken != 1 {
        let error = io::Error::last_os_error();
        IDLE.lock().push(context);
        return if error.raw_os_error() == Some(libc::EAGAIN) { Ok(0) } else { Err(error) };
    }
    let mut done = Done::default();
    loop {
        let none: *const libc::timespec = std::ptr::null();
        // SAFETY: the kernel writes the one event it is given the address of; no time is given.
        let n = unsafe { libc::syscall(libc::SYS_io_getevents, context.0, 1, 1, &raw mut done, none) };
        if n == 1 {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            // It is under way, and its buffers must stay.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    IDLE.lock().push(context);
    match done.result {
        n if n >= 0 => Ok(n as usize),
        e => Err(io::Error::from_raw_os_error(i32::try_from(-e).unwrap_or(libc::EIO))),
    }
}

fn request(file: &File, opcode: u16, buffers: usize, count: usize, offset: u64) -> io::Result<Request> {
    Ok(Request {
        opcode,
        file: file.as_raw_fd() as u32,
        buffers: buffers as u64,
        count: count.min(MOST_BUFFERS) as u64,
        offset: i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?,
        ..Request::default()
    })
}

/// Reads once.
pub(super) fn read(file: &File, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    // The slices have the layout of the system's.
    run(request(file, PREADV, bufs.as_mut_ptr() as usize, bufs.len(), offset)?)
}

/// Writes once.
pub(super) fn write(file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    run(request(file, PWRITEV, bufs.as_ptr() as usize, bufs.len(), offset)?)
}
