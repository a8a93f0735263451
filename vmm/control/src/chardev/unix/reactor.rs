//! One thread that polls the descriptors of all back ends of a machine.
//!
//! The set is small and changes with every flow-control decision, so it is built anew for each poll(2).

use super::stream::Stream;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Makes the thread look again.
#[derive(Clone)]
pub(super) struct Waker {
    socket: Arc<UnixStream>,
    stop: Arc<AtomicBool>,
}

impl Waker {
    pub(super) fn wake(&self) {
        // A full socket buffer means that the thread is already being woken.
        let _ = (&*self.socket).write(&[0]);
    }
}

/// A descriptor to poll.
pub(super) struct Interest {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) flags: PollFlags,
}

/// The thread and what it polls.
pub(super) struct Reactor {
    streams: Arc<Mutex<Vec<Arc<Stream>>>>,
    waker: Waker,
    woken: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let (a, b) = UnixStream::pair()?;
        a.set_nonblocking(true)?;
        b.set_nonblocking(true)?;
        let waker = Waker { socket: Arc::new(a), stop: Arc::default() };
        Ok(Self { streams: Arc::default(), waker, woken: Some(b), thread: None })
    }

    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(super) fn add(&mut self, stream: Arc<Stream>) {
        self.streams.lock().push(stream);
        self.waker.wake();
    }

    /// Polls a stream no more. The thread may be serving it for the last time when this returns.
    pub(super) fn remove(&mut self, gone: impl Fn(&Arc<Stream>) -> bool) {
        self.streams.lock().retain(|s| !gone(s));
        self.waker.wake();
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        if self.streams.lock().is_empty() {
            return Ok(());
        }
        let Some(woken) = self.woken.take() else { return Ok(()) };
        let streams = self.streams.clone();
        let stop = self.waker.stop.clone();
        let thread =
            std::thread::Builder::new().name("chardev".into()).spawn(move || run(&streams, woken, &stop))?;
        self.thread = Some(thread);
        Ok(())
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.waker.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(all: &Mutex<Vec<Arc<Stream>>>, mut woken: UnixStream, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let streams = all.lock().clone();
        let mut interests = Vec::new();
        let mut owners = Vec::new();
        let mut deadline: Option<Instant> = None;
        for stream in &streams {
            for interest in stream.interests() {
                interests.push(interest);
                owners.push(stream);
            }
            deadline = match (deadline, stream.deadline()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let mut fds: Vec<PollFd<'_>> = interests.iter().map(|i| PollFd::new(&*i.fd, i.flags)).collect();
        fds.push(PollFd::new(&woken, PollFlags::IN));
        let timeout = deadline.map(|d| timespec(d.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                tracing::error!(error = %e, "poll failed; character input ends");
                return;
            }
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if ready.last().is_some_and(|r| !r.is_empty()) {
            let mut sink = [0; 64];
            while matches!(woken.read(&mut sink), Ok(n) if n == sink.len()) {}
        }
        for ((stream, interest), flags) in owners.iter().zip(&interests).zip(&ready) {
            if !flags.is_empty() {
                stream.ready(&interest.fd, *flags);
            }
        }
        let now = Instant::now();
        for stream in &streams {
            stream.tick(now);
        }
    }
}

fn timespec(d: Duration) -> Timespec {
    // A millisecond more, so that the deadline has passed when poll returns.
    let d = d + Duration::from_millis(1);
    Timespec { tv_sec: d.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: i64::from(d.subsec_nanos()) }
}
