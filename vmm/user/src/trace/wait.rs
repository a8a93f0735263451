//! `wait4` and `waitid` of a process that traces: stops of the host's that mean nothing to the program are passed over.

use super::STOPPING;
use super::attach::{information, message};
use super::tracer::{go_on, info, set_info};
use crate::host::{self, Errno, Sys};
use crate::thread::Thread;

/// `wait4`, interrupted as the host's own.
pub(crate) fn wait4(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let process = t.process.clone();
    let mm = &process.mm;
    let mut usage = [0u64; 18];
    let number = libc::SYS_wait4 as u16;
    if let Some((pid, status)) = process.tracees.untold(a[0] as i32, false) {
        if a[1] != 0 {
            mm.write_u32(a[1], status)?;
        }
        return Ok(pid as u64);
    }
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

/// `waitid`, likewise.
pub(crate) fn waitid(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const PID: u64 = libc::P_PID as u64;
    let process = t.process.clone();
    let mm = &process.mm;
    let stays = a[3] & libc::WNOWAIT as u64 != 0;
    let which = if a[0] == PID { a[1] as i32 } else { -1 };
    loop {
        let mut usage = [0u64; 18];
        let mut told = [0u64; 16];
        if let Some((pid, status)) = process.tracees.untold(which, stays) {
            // Number and error, code; process and user; status.
            told[..4].copy_from_slice(&[
                libc::SIGCHLD as u64,
                libc::CLD_TRAPPED as u64,
                pid as u64,
                (status >> 8).into(),
            ]);
        } else {
            let usage_at = if a[4] == 0 { 0 } else { usage.as_mut_ptr() as u64 };
            let args = [a[0], a[1], told.as_mut_ptr() as u64, a[3], usage_at, 0];
            host::interruptible(t.slot.flag(), libc::SYS_waitid as u16, &args).map_err(crate::sys::again)?;
            let pid = told[2] as i32;
            match told[1] as i32 {
                _ if pid <= 0 => {}
                libc::CLD_TRAPPED => {
                    if stays {
                        // The thread may go on at once.
                        consume(pid);
                    }
                    let Some(status) = look(t, pid, (told[3] as u32) << 8 | 0x7f) else { continue };
                    if stays {
                        process.tracees.tell_again(pid);
                    }
                    told[3] = (status >> 8).into();
                }
                libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED if !stays => {
                    process.tracees.forget(pid);
                }
                _ => {}
            }
        }
        if a[2] != 0 {
            mm.write(a[2], &told.map(u64::to_le_bytes).concat())?;
        }
        if a[4] != 0 && told[2] != 0 {
            mm.write(a[4], &usage.map(u64::to_le_bytes).concat())?;
        }
        return Ok(0);
    }
}

/// Takes away a stop that was only looked at.
fn consume(pid: i32) {
    let how = (libc::WNOHANG | libc::__WALL) as u64;
    let _: Result<u64, Errno> = host::call(libc::SYS_wait4, &[pid as u64, 0, how, 0]);
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
            Some(0) => all.greet(pid, 0),
            Some(told) => return Some(told << 8 | 0x7f),
            None => go_on(pid, 0),
        }
        return None;
    }
    if signal == libc::SIGTRAP && number(8) == 0 && !all.knows(pid) {
        // It has become another program before it could say anything.
        all.greet(pid, 0);
        return None;
    }
    if signal == libc::SIGSTOP {
        // It is to stop where its state is exact.
        let asked = all.wish_for(pid, signal as u64, Some(&info));
        if asked {
            let _ = set_info(pid, &information(message::LOOK).0);
        }
        go_on(pid, if asked { libc::SIGSEGV } else { 0 });
        return None;
    }
    go_on(pid, signal);
    None
}
