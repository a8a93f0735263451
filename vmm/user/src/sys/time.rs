//! Clocks, timers, sleeping. The time is told without the host's kernel, as far as the host can.

use crate::host::{self, Errno, NOT_MADE, RESTART_ONCE, Sys};
use crate::thread::Thread;

use super::{Run::*, calls, host_by_name, once};

calls! {
    "clock_gettime" [Int, Ptr] Do(clock_gettime);
    "clock_settime" [Int, Ptr] Host;
    "clock_getres" [Int, Ptr] Host;
    "clock_nanosleep" [Int, Hex, Ptr, Ptr] Do(clock_nanosleep);
    "clock_adjtime" [Int, Ptr] Host;
    "adjtimex" [Ptr] Host;
    "nanosleep" [Ptr, Ptr] Do(nanosleep);
    "gettimeofday" [Ptr, Ptr] Do(gettimeofday);
    "settimeofday" [Ptr, Ptr] Host;
    "getitimer" [Int, Ptr] Host;
    "setitimer" [Int, Ptr, Ptr] Host;
    "timer_create" [Int, Ptr, Ptr] Host;
    "timer_settime" [Int, Hex, Ptr, Ptr] Host;
    "timer_gettime" [Int, Ptr] Host;
    "timer_getoverrun" [Int] Host;
    "timer_delete" [Int] Host;
    "timerfd_create" [Int, Hex] Host;
    "timerfd_settime" [Fd, Hex, Ptr, Ptr] Host;
    "timerfd_gettime" [Fd, Ptr] Host;
    "times" [Ptr] Host;
    "time" [Ptr] Do(time);
    "alarm" [Int] Host;
}

fn clock_gettime(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let [seconds, nanoseconds] = host::clock(a[0] as i32)?;
    let mm = &t.process.mm;
    mm.write_u64(a[1], seconds)?;
    mm.write_u64(a[1].wrapping_add(8), nanoseconds)?;
    Ok(0)
}

fn gettimeofday(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    if a[1] != 0 {
        return host_by_name(t, "gettimeofday", [mm.pointer(a[0]), mm.pointer(a[1]), 0, 0, 0, 0]);
    }
    if a[0] != 0 {
        let [seconds, nanoseconds] = host::clock(libc::CLOCK_REALTIME)?;
        mm.write_u64(a[0], seconds)?;
        mm.write_u64(a[0].wrapping_add(8), nanoseconds / 1000)?;
    }
    Ok(0)
}

fn time(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let [seconds, _] = host::clock(libc::CLOCK_REALTIME_COARSE)?;
    if a[0] != 0 {
        t.process.mm.write_u64(a[0], seconds).map_err(|_| Errno(libc::EFAULT))?;
    }
    Ok(seconds)
}

const SECOND: u64 = 1_000_000_000;

/// Now, in nanoseconds of the clock that no one sets.
pub(super) fn now() -> Result<u64, Errno> {
    let [seconds, nanoseconds] = host::clock(libc::CLOCK_MONOTONIC)?;
    Ok(seconds * SECOND + nanoseconds)
}

fn nanosleep(t: &mut Thread, a: &[u64; 6]) -> Sys {
    clock_nanosleep(t, &[libc::CLOCK_MONOTONIC as u64, 0, a[0], a[1], 0, 0])
}

/// A sleep that is interrupted without a handler ends when it would have.
fn clock_nanosleep(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = t.process.mm.clone();
    let by_time = matches!(a[0] as i32, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME);
    if a[1] as i32 & libc::TIMER_ABSTIME != 0 || !by_time {
        let args = [a[0], a[1], mm.pointer(a[2]), mm.pointer(a[3]), 0, 0];
        return host_by_name(t, "clock_nanosleep", args).map_err(once);
    }
    let (seconds, nanoseconds) = (mm.read_u64(a[2])?, mm.read_u64(a[2].wrapping_add(8))?);
    if seconds as i64 <= -1 || nanoseconds >= SECOND {
        return Err(Errno(libc::EINVAL));
    }
    let length = seconds.saturating_mul(SECOND).saturating_add(nanoseconds);
    let end = t.deadline.take().map_or_else(|| now().map(|n| n.saturating_add(length)), Ok)?;
    let until = [end / SECOND, end % SECOND];
    let args = [libc::CLOCK_MONOTONIC as u64, libc::TIMER_ABSTIME as u64, until.as_ptr() as u64, 0, 0, 0];
    let r = host_by_name(t, "clock_nanosleep", args);
    if r == Err(Errno(libc::EINTR)) {
        let left = end.saturating_sub(now()?);
        if a[3] != 0 {
            mm.write_u64(a[3], left / SECOND)?;
            mm.write_u64(a[3].wrapping_add(8), left % SECOND)?;
        }
        t.deadline = Some(end);
        return Err(RESTART_ONCE);
    }
    if r == Err(NOT_MADE) {
        t.deadline = Some(end);
    }
    r
}
