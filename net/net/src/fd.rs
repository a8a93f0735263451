//! A backend around a descriptor that carries one frame a read or write: tap devices, datagram sockets.
//!
//! A thread waits in `poll` for the descriptor or for the wake-up pipe, so it neither spins nor outlives the
//! endpoint.
#![expect(unsafe_code, reason = "poll, and writev on a descriptor we own")]

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::{MAX_FRAME, NetError, NetReceiver, ReceiverSlot};

struct Shared {
    fd: OwnedFd,
    receiver: ReceiverSlot,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The NIC may be asked for room again.
    retry: bool,
    closed: bool,
}

/// The endpoint's engine; wrapped by each kind of backend.
pub(crate) struct FdEndpoint {
    shared: Arc<Shared>,
    /// One byte wakes the thread.
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Waits until one of the descriptors is readable; `(first, second)`.
fn wait(first: Option<i32>, second: i32) -> io::Result<(bool, bool)> {
    // A negative descriptor is skipped by poll.
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds = [entry(first.unwrap_or(-1)), entry(second)];
    loop {
        // SAFETY: `fds` is an array of two pollfds that the call may write to.
        if unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } >= 0 {
            return Ok((fds[0].revents != 0, fds[1].revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn read(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buf` is writable for its length.
    let n = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl FdEndpoint {
    pub(crate) fn new(name: &str, fd: OwnedFd) -> Result<Self, NetError> {
        let failed = |e| NetError::host(name, e);
        set_nonblocking(&fd).map_err(failed)?;
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        wake.set_nonblocking(true).map_err(failed)?;
        woken.set_nonblocking(true).map_err(failed)?;
        let shared = Arc::new(Shared { fd, receiver: ReceiverSlot::default(), state: Mutex::default() });
        let reader = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("net-{name}").chars().take(15).collect())
            .spawn(move || reader.run(woken))
            .map_err(failed)?;
        Ok(FdEndpoint { shared, wake, thread: Some(thread) })
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.shared.fd
    }

    pub(crate) fn send(&self, frame: &[&[u8]]) -> bool {
        let len: usize = frame.iter().map(|p| p.len()).sum();
        if len > MAX_FRAME || frame.len() > 64 {
            return len <= MAX_FRAME && self.send(&[&frame.concat()]);
        }
        let parts: Vec<_> = frame.iter().map(|p| IoSlice::new(p)).collect();
        loop {
            // SAFETY: IoSlice has iovec's layout, and `parts` has the number of entries given.
            let n = unsafe {
                libc::writev(self.shared.fd.as_raw_fd(), parts.as_ptr().cast(), parts.len() as libc::c_int)
            };
            if n >= 0 {
                return n as usize == len;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return false;
            }
        }
    }

    pub(crate) fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.shared.receiver.set(receiver);
        self.accept_input();
    }

    pub(crate) fn accept_input(&self) {
        self.shared.state.lock().retry = true;
        self.wake();
    }

    fn wake(&self) {
        // A full pipe means that a wake-up is pending already.
        let _ = (&self.wake).write(&[1]);
    }
}

impl Drop for FdEndpoint {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, mut woken: UnixStream) {
        let mut buf = vec![0; MAX_FRAME];
        let mut held: Option<usize> = None;
        loop {
            let listen = held.is_none().then_some(self.fd.as_raw_fd());
            let Ok((readable, wake)) = wait(listen, woken.as_raw_fd()) else { return };
            if wake {
                let _ = woken.read(&mut [0; 64]);
            }
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let retry = std::mem::take(&mut state.retry);
            drop(state);
            if readable && held.is_none() {
                match read(&self.fd, &mut buf) {
                    Ok(n) => held = Some(n),
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                    Err(_) => return self.receiver.link(false),
                }
            } else if !retry {
                continue;
            }
            if let Some(n) = held {
                held = (!self.receiver.offer(&buf[..n])).then_some(n);
            }
        }
    }
}
