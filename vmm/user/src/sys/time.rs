//! Clocks, timers, sleeping. The time is told without the host's kernel, as far as the host can.

use crate::host::{self, Errno, Sys};
use crate::thread::Thread;

use super::{Run::*, calls, host_by_name};

calls! {
    "clock_gettime" [Int, Ptr] Do(clock_gettime);
    "clock_settime" [Int, Ptr] Host;
    "clock_getres" [Int, Ptr] Host;
    "clock_nanosleep" [Int, Hex, Ptr, Ptr] Once;
    "clock_adjtime" [Int, Ptr] Host;
    "adjtimex" [Ptr] Host;
    "nanosleep" [Ptr, Ptr] Once;
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
