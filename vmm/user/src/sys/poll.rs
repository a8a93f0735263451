//! Waiting for descriptors. A signal mask of such a call holds until the handler it lets in has started.

use crate::host::{self, Errno, NOT_MADE, RESTART_ONCE, Sys};
use crate::signal::{OPEN, UNBLOCKABLE};
use crate::thread::Thread;

use super::{Run::*, calls, host_by_name, once, time::now};

calls! {
    "poll" [Ptr, Int, Int] Do(poll);
    "select" [Int, Ptr, Ptr, Ptr, Ptr] Do(select);
    "epoll_create" [Int] Host;
    "epoll_wait" [Fd, Out, Int, Int] Do(epoll_wait);
    "epoll_ctl_old" [] No(libc::ENOSYS);
    "epoll_wait_old" [] No(libc::ENOSYS);
    "eventfd" [Int] Host;
    "ppoll" [Ptr, Int, Ptr, Ptr, Int] Do(ppoll);
    "pselect6" [Int, Ptr, Ptr, Ptr, Ptr, Ptr] Do(pselect6);
    "epoll_create1" [Hex] Host;
    "epoll_ctl" [Fd, Int, Fd, Ptr] Do(epoll_ctl);
    "epoll_pwait" [Fd, Out, Int, Int, Ptr, Int] Do(epoll_pwait);
    "epoll_pwait2" [Fd, Out, Int, Ptr, Ptr, Int] Do(epoll_pwait2);
    "eventfd2" [Int, Hex] Host;
    "io_setup" [Int, Ptr] No(libc::ENOSYS);
    "io_destroy" [Hex] No(libc::ENOSYS);
    "io_submit" [Hex, Int, Ptr] No(libc::ENOSYS);
    "io_cancel" [Hex, Ptr, Ptr] No(libc::ENOSYS);
    "io_getevents" [Hex, Int, Int, Ptr, Ptr] No(libc::ENOSYS);
    "io_pgetevents" [Hex, Int, Int, Ptr, Ptr, Ptr] No(libc::ENOSYS);
    "io_uring_setup" [Int, Ptr] No(libc::ENOSYS);
    "io_uring_enter" [Fd, Int, Int, Hex, Ptr, Int] No(libc::ENOSYS);
    "io_uring_register" [Fd, Int, Ptr, Int] No(libc::ENOSYS);
}

/// Reads the mask at `at`, if one is given, and notes it.
pub(super) fn temporary_mask(t: &mut Thread, at: u64, size: u64) -> Result<Option<u64>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    if size != 8 {
        return Err(Errno(libc::EINVAL));
    }
    let mask = t.process.mm.read_u64(at)? & !UNBLOCKABLE;
    t.suspended = Some(mask);
    Ok(Some(mask & !OPEN))
}

/// A call under a temporary mask: it has no effect once the call is over and nothing came.
fn under(t: &mut Thread, r: Sys) -> Sys {
    if !t.slot.has_news(t.mask) {
        t.suspended = None;
    }
    r.map_err(once)
}

/// The error of a call that is made again if no handler runs.
pub(super) fn unless_handled(e: Errno) -> Errno {
    if e.0 == libc::EINTR { RESTART_ONCE } else { once(e) }
}

/// Interrupted without a handler, it ends when it would have.
fn poll(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const MILLISECOND: u64 = 1_000_000;
    let at = t.process.mm.pointer(a[0]);
    let timeout = a[2] as i32;
    if timeout <= 0 {
        return host_by_name(t, "poll", [at, a[1], a[2], 0, 0, 0]).map_err(unless_handled);
    }
    let now = now()?;
    let end = t.deadline.take().unwrap_or(now + timeout as u64 * MILLISECOND);
    let left = end.saturating_sub(now).div_ceil(MILLISECOND);
    let r = host_by_name(t, "poll", [at, a[1], left, 0, 0, 0]).map_err(unless_handled);
    if matches!(r, Err(RESTART_ONCE | NOT_MADE)) {
        t.deadline = Some(end);
    }
    r
}

/// What is left of the time is written back.
fn select(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    let p = |n: usize| mm.pointer(a[n]);
    host_by_name(t, "select", [a[0], p(1), p(2), p(3), p(4), 0]).map_err(unless_handled)
}

fn ppoll(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mask = temporary_mask(t, a[3], a[4])?;
    let at = mask.as_ref().map_or(0, |m| std::ptr::from_ref(m) as u64);
    let mm = t.process.mm.clone();
    let r = host_by_name(t, "ppoll", [mm.pointer(a[0]), a[1], mm.pointer(a[2]), at, 8, 0]);
    under(t, r).map_err(unless_handled)
}

fn pselect6(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = t.process.mm.clone();
    let mask = if a[5] == 0 {
        None
    } else {
        let (at, size) = (mm.read_u64(a[5])?, mm.read_u64(a[5] + 8)?);
        temporary_mask(t, at, size)?
    };
    let pair = [mask.as_ref().map_or(0, |m| std::ptr::from_ref(m) as u64), 8];
    let p = |n: usize| mm.pointer(a[n]);
    let r = host_by_name(t, "pselect6", [a[0], p(1), p(2), p(3), p(4), pair.as_ptr() as u64]);
    under(t, r).map_err(unless_handled)
}

/// `struct epoll_event` is packed on x86-64 alone.
fn epoll_ctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    let mut event = [0u8; 12];
    if a[3] != 0 && t.process.abi.epoll_packed {
        mm.read(a[3], &mut event)?;
    } else if a[3] != 0 {
        mm.read(a[3], &mut event[..4])?;
        mm.read(a[3] + 8, &mut event[4..])?;
    } else if a[1] as i32 != libc::EPOLL_CTL_DEL {
        return Err(Errno(libc::EFAULT));
    }
    host::call(libc::SYS_epoll_ctl, &[a[0], a[1], a[2], event.as_ptr() as u64])
}

fn wait(t: &mut Thread, name: &str, a: &[u64; 6], timeout: u64) -> Sys {
    const MOST: u64 = 4096;
    let count = a[2].min(MOST);
    if a[2] as i32 <= 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mask = temporary_mask(t, a[4], a[5])?;
    let at = mask.as_ref().map_or(0, |m| std::ptr::from_ref(m) as u64);
    let mut events = vec![0u8; count as usize * 12];
    let r = host_by_name(t, name, [a[0], events.as_mut_ptr() as u64, count, timeout, at, 8]);
    let n = under(t, r)?;
    if t.process.abi.epoll_packed {
        t.process.mm.write(a[1], &events[..n as usize * 12])?;
        return Ok(n);
    }
    let mut out = Vec::with_capacity(n as usize * 16);
    for e in events.chunks_exact(12).take(n as usize) {
        out.extend_from_slice(&e[..4]);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&e[4..]);
    }
    t.process.mm.write(a[1], &out)?;
    Ok(n)
}

fn epoll_wait(t: &mut Thread, a: &[u64; 6]) -> Sys {
    wait(t, "epoll_pwait", &[a[0], a[1], a[2], a[3], 0, 0], a[3])
}

fn epoll_pwait(t: &mut Thread, a: &[u64; 6]) -> Sys {
    wait(t, "epoll_pwait", a, a[3])
}

fn epoll_pwait2(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let timeout = t.process.mm.pointer(a[3]);
    wait(t, "epoll_pwait2", a, timeout)
}
