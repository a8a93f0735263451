//! Attaching to what runs: `PTRACE_ATTACH`, `PTRACE_SEIZE`, `PTRACE_INTERRUPT`.
//!
//! For the host's kernel both attach by seizing, which stops nothing; the thread is told by a message, makes its block and stops
//! by itself. A seized one stops only to say where the block is, which its tracer waits for at once.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::tracee::{Tracee, catch_all};
use super::tracer::{HOST_EXEC, go_on, info, trace};
use super::{STOPPING, event, option, request, wish, word};
use crate::host::{self, Errno, Sys};
use crate::signal::SigInfo;
use crate::thread::Thread;

/// `si_code` of the signal that carries a message.
pub(crate) const MESSAGE: i32 = -772;

/// What a message says, in its value.
pub(super) mod message {
    /// There is a wish in the block, or news of the process.
    pub(in super::super) const LOOK: u64 = 0;
    /// It is traced from now on; the options are above.
    pub(in super::super) const ATTACH: u64 = 1;
    pub(in super::super) const SEIZE: u64 = 2;
    pub(in super::super) const KIND: u64 = 0xff;
    pub(in super::super) const SHIFT: u32 = 8;
}

/// The information of a message.
pub(super) fn information(value: u64) -> SigInfo {
    let mut info = SigInfo::fault(libc::SIGSEGV, MESSAGE, 0);
    info.0[24..32].copy_from_slice(&value.to_le_bytes());
    info
}

/// The value of a message.
pub(super) fn value(info: &SigInfo) -> u64 {
    u64::from_le_bytes(info.0[24..32].try_into().unwrap_or_default())
}

/// Sends a message to a thread.
pub(super) fn send(process: u64, thread: i32, value: u64) -> Sys {
    let info = information(value);
    let args = [process, thread as u64, libc::SIGSEGV as u64, info.0.as_ptr() as u64];
    host::call(libc::SYS_rt_tgsigqueueinfo, &args)
}

/// True if a process is this same program, which alone knows what messages and stops mean.
pub(super) fn is_rhea(pid: u64) -> bool {
    let file = |path: String| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    file(format!("/proc/{pid}/exe")).is_some_and(|p| file("/proc/self/exe".to_owned()) == Some(p))
}

/// The process of a thread.
fn process_of(thread: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// `PTRACE_ATTACH` and `PTRACE_SEIZE`.
pub(super) fn attach(t: &Thread, what: u64, pid: i32, address: u64, options: u64) -> Sys {
    const EIO: Errno = Errno(libc::EIO);
    const EPERM: Errno = Errno(libc::EPERM);
    let seize = what == request::SEIZE;
    let options = if seize { options } else { 0 };
    if options & !option::ALL != 0 || seize && address != 0 {
        return Err(EIO);
    }
    let process = process_of(pid).filter(|_| pid > 0).ok_or(Errno(libc::ESRCH))?;
    if process == u64::from(std::process::id()) || !is_rhea(process) {
        return Err(EPERM);
    }
    trace(request::SEIZE as i64, pid, 0, options & option::HOSTS | HOST_EXEC)?;
    let kind = if seize { message::SEIZE } else { message::ATTACH };
    let sent = send(process, pid, kind | options << message::SHIFT);
    if sent.is_ok() && seize {
        meet(t, pid);
    }
    sent.map(|_| 0)
}

/// Waits until a seized thread has said where its block is. One that does not come to it in time says so later, while the tracer
/// waits.
fn meet(t: &Thread, pid: i32) {
    const TRIES: u32 = 1000;
    const PAUSE: Duration = Duration::from_millis(1);
    let all = &t.process.tracees;
    let mut group = 0;
    for _ in 0..TRIES {
        let mut status = 0u32;
        // Its end is for the program to be told of; it is looked at only. Stops come as well, always.
        let mut end = [0u64; 16];
        let ended = (libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL) as u64;
        let peek = [u64::from(libc::P_PID), pid as u64, end.as_mut_ptr() as u64, ended, 0];
        let code = host::call(libc::SYS_waitid, &peek).map(|_| end[1] as i32);
        if !code.is_ok_and(|c| matches!(c, 0 | libc::CLD_TRAPPED | libc::CLD_STOPPED)) {
            return;
        }
        let how = (libc::WNOHANG | libc::__WALL) as u64;
        match host::call(libc::SYS_wait4, &[pid as u64, (&raw mut status) as u64, how, 0]) {
            Ok(0) => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Ok(_) => {}
            Err(_) => return,
        }
        let signal = (status >> 8 & 0xff) as i32;
        if status >> 16 != 0 {
            if u64::from(status >> 16) == event::STOP && signal != libc::SIGTRAP {
                group = wish::GROUP | signal as u64;
            }
            go_on(pid, 0);
            continue;
        }
        let Ok(info) = info(pid) else { return };
        let number = |at: usize| i32::from_le_bytes(info[at..at + 4].try_into().unwrap_or_default());
        if signal == libc::SIGTRAP && number(8) == STOPPING {
            let at = u64::from_le_bytes(info[24..32].try_into().unwrap_or_default());
            if all.stopped(pid, at) == Some(0) {
                all.greet(pid, group);
                return;
            }
        }
        go_on(pid, signal);
    }
}

impl Thread {
    /// A message has come: the signal it stands for, if any.
    pub(crate) fn heed(&mut self, info: &SigInfo) -> Option<(i32, SigInfo)> {
        let said = value(info);
        let kind = said & message::KIND;
        if self.traced.is_none() && kind != message::LOOK {
            return self.begin_attached(kind == message::SEIZE, said >> message::SHIFT & option::ALL);
        }
        if let Some(signal @ 1..) = self.news_of_group() {
            self.group_stop(signal, false);
        }
        self.fulfil()
    }

    /// Does what the tracer has wished for.
    pub(super) fn fulfil(&mut self) -> Option<(i32, SigInfo)> {
        let (wanted, info) = self.traced.as_ref()?.take_wish()?;
        if wanted == wish::INTERRUPT {
            self.stop_of_ours(libc::SIGTRAP);
        } else if wanted & wish::GROUP != 0 {
            self.group_stop((wanted & 0x7f) as i32, false);
        } else {
            return Some(((wanted & 0x7f) as i32, info));
        }
        None
    }

    fn begin_attached(&mut self, seized: bool, options: u64) -> Option<(i32, SigInfo)> {
        let process = self.process.clone();
        catch_all(&process);
        if !seized {
            self.traced = Some(Tracee::of(&process, options));
            let info = SigInfo::fault(libc::SIGSTOP, 0, 0);
            return self.stop_with(&info).map(|n| (n, SigInfo::fault(n, 0, 0)));
        }
        let tracee = Tracee::of(&process, options | option::SEIZED);
        if tracee.say_hello(&process) {
            self.traced = Some(tracee);
        }
        self.fulfil()
    }
}

/// Has a seized thread stop.
pub(super) fn interrupt(t: &Thread, pid: i32) -> Sys {
    let (process, seized) = {
        let all = t.process.tracees.lock();
        let view = all.get(&pid).ok_or(Errno(libc::ESRCH))?;
        (view.words[word::PROCESS], view.words[word::OPTIONS] & option::SEIZED != 0)
    };
    if !seized {
        return Err(Errno(libc::EIO));
    }
    if !t.process.tracees.wish_for(pid, wish::INTERRUPT, None) {
        return Err(Errno(libc::ESRCH));
    }
    send(process, pid, message::LOOK).map(|_| 0)
}
