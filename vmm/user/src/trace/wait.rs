//! `wait4` of a process that traces: stops of the host's that mean nothing to the program are passed over.

use super::STOPPING;
use super::tracer::{go_on, info};
use crate::host::{self, Sys};
use crate::thread::Thread;

/// `wait4`, interrupted as the host's own.
pub(crate) fn wait4(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let process = t.process.clone();
    let mm = &process.mm;
    let mut usage = [0u64; 18];
    let number = libc::SYS_wait4 as u16;
    loop {
        let mut status = 0u32;
        let args = [a[0], (&raw mut status) as u64, a[2], usage.as_mut_ptr() as u64, 0, 0];
        let pid = host::interruptible(t.slot.flag(), number, &args).map_err(crate::sys::again)?;
        let stopped = status & 0xff == 0x7f;
        if pid as i32 > 0 && !stopped {
            process.tracees.forget(pid as i32);
        }
        if pid as i32 > 0 && stopped && status != 0xffff {
            match look(t, pid as i32, status) {
                Some(told) => status = told,
                None => continue,
            }
        }
        if a[1] != 0 && pid != 0 {
            mm.write_u32(a[1], status)?;
        }
        if a[3] != 0 && pid != 0 {
            mm.write(a[3], &usage.map(u64::to_le_bytes).concat())?;
        }
        return Ok(pid);
    }
}

/// What a stop is to the program; `None` if it is nothing to it, and the thread goes on.
fn look(t: &Thread, pid: i32, status: u32) -> Option<u32> {
    let all = &t.process.tracees;
    let signal = (status >> 8 & 0xff) as i32;
    if status >> 16 != 0 {
        // Events of the host's, which the thread tells of itself.
        go_on(pid, 0);
        return None;
    }
    // Whoever is not traced has just been stopped by a signal.
    let Ok(info) = info(pid) else { return Some(status) };
    let number = |at: usize| i32::from_le_bytes(info[at..at + 4].try_into().unwrap_or_default());
    if signal == libc::SIGTRAP && number(8) == STOPPING {
        let at = u64::from_le_bytes(info[24..32].try_into().unwrap_or_default());
        match all.stopped(pid, at) {
            Some(0) => all.greet(pid),
            Some(told) => return Some(told << 8 | 0x7f),
            None => go_on(pid, 0),
        }
        return None;
    }
    if signal == libc::SIGTRAP && number(8) == 0 && !all.knows(pid) {
        // It has become another program before it could say anything.
        all.greet(pid);
        return None;
    }
    if signal == libc::SIGSTOP {
        // It is to stop where its state is exact: SIGSEGV is never blocked, and is none of the kernel's then.
        let asked = all.ask_to_stop(pid, signal);
        go_on(pid, if asked { libc::SIGSEGV } else { 0 });
        return None;
    }
    go_on(pid, signal);
    None
}
