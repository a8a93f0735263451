//! The process as `gdbstub` wants to see it.

use std::sync::Arc;

use accel::DebugEvent;
use accel::arch::CpuState;
use control::gdb::{Bytes, Description, GuestRegisters, Number};
use gdbstub::common::{Pid, Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::auxv::{Auxv, AuxvOps};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{BreakpointsOps, WatchKind};
use gdbstub::target::ext::exec_file::{ExecFile, ExecFileOps};
use gdbstub::target::ext::host_io::HostIoOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::files::Files;
use super::world::{Debugger, Stop};
use crate::process::Process;

/// EFAULT and EINVAL in GDB's numbering of errors.
const FAULT: u8 = 14;
const INVALID: u8 = 22;

/// What one client has asked for.
pub(super) struct Guest {
    pub(super) process: Arc<Process>,
    pub(super) debugger: Arc<Debugger>,
    description: Description,
    xml: String,
    /// Threads named for the next resume: whether to step, and the signal to deliver.
    pub(super) named: Vec<(i32, bool, Option<i32>)>,
    pub(super) locked: bool,
    pub(super) files: Files,
}

/// Linux's number of a signal, and GDB's.
const SIGNALS: [(i32, Signal); 31] = [
    (libc::SIGHUP, Signal::SIGHUP),
    (libc::SIGINT, Signal::SIGINT),
    (libc::SIGQUIT, Signal::SIGQUIT),
    (libc::SIGILL, Signal::SIGILL),
    (libc::SIGTRAP, Signal::SIGTRAP),
    (libc::SIGABRT, Signal::SIGABRT),
    (libc::SIGBUS, Signal::SIGBUS),
    (libc::SIGFPE, Signal::SIGFPE),
    (libc::SIGKILL, Signal::SIGKILL),
    (libc::SIGUSR1, Signal::SIGUSR1),
    (libc::SIGSEGV, Signal::SIGSEGV),
    (libc::SIGUSR2, Signal::SIGUSR2),
    (libc::SIGPIPE, Signal::SIGPIPE),
    (libc::SIGALRM, Signal::SIGALRM),
    (libc::SIGTERM, Signal::SIGTERM),
    (libc::SIGCHLD, Signal::SIGCHLD),
    (libc::SIGCONT, Signal::SIGCONT),
    (libc::SIGSTOP, Signal::SIGSTOP),
    (libc::SIGTSTP, Signal::SIGTSTP),
    (libc::SIGTTIN, Signal::SIGTTIN),
    (libc::SIGTTOU, Signal::SIGTTOU),
    (libc::SIGURG, Signal::SIGURG),
    (libc::SIGXCPU, Signal::SIGXCPU),
    (libc::SIGXFSZ, Signal::SIGXFSZ),
    (libc::SIGVTALRM, Signal::SIGVTALRM),
    (libc::SIGPROF, Signal::SIGPROF),
    (libc::SIGWINCH, Signal::SIGWINCH),
    (libc::SIGIO, Signal::SIGIO),
    (libc::SIGPWR, Signal::SIGPWR),
    (libc::SIGSYS, Signal::SIGSYS),
    (32, Signal(77)),
];

/// GDB's real-time signals 33 to 63 follow each other from here.
const REAL_TIME: u8 = 45;

fn to_gdb(signal: i32) -> Signal {
    match SIGNALS.iter().find(|(n, _)| *n == signal) {
        Some((_, s)) => *s,
        None if (33..64).contains(&signal) => Signal(REAL_TIME + (signal - 33) as u8),
        None => Signal(143),
    }
}

pub(super) fn from_gdb(signal: Signal) -> Option<i32> {
    match SIGNALS.iter().find(|(_, s)| *s == signal) {
        Some((n, _)) => Some(*n),
        None if (REAL_TIME..REAL_TIME + 31).contains(&signal.0) => Some(i32::from(signal.0 - REAL_TIME) + 33),
        None => None,
    }
}

fn tid(t: i32) -> Tid {
    Tid::new(t as usize).unwrap_or(Tid::MIN)
}

pub(super) fn number(t: Tid) -> i32 {
    i32::try_from(t.get()).unwrap_or(-1)
}

/// Copies a part of something; the number of bytes.
pub(super) fn copy(from: &[u8], offset: u64, length: usize, to: &mut [u8]) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(from.len());
    let rest = &from[start..];
    let n = rest.len().min(length).min(to.len());
    to[..n].copy_from_slice(&rest[..n]);
    n
}

impl Guest {
    /// `None` if the architecture has no description.
    pub(super) fn new(process: Arc<Process>, debugger: Arc<Debugger>) -> Option<Self> {
        let description = {
            let w = debugger.lock();
            Description::of_program(&w.threads.values().next()?.state, process.abi.arch)?
        };
        let xml = description.xml();
        let (named, files) = (Vec::new(), Files::default());
        Some(Self { process, debugger, description, xml, named, locked: false, files })
    }

    /// A stop as GDB is told of it.
    pub(super) fn reason(&self, thread: i32, stop: Stop) -> MultiThreadStopReason<u64> {
        let tid = tid(thread);
        match stop {
            Stop::Debug(DebugEvent::Breakpoint { .. }) => MultiThreadStopReason::SwBreak(tid),
            Stop::Debug(DebugEvent::Watchpoint { gva, write }) => {
                let w = self.debugger.lock();
                // An access may begin before what is watched.
                let near = |p: u64, len: u64| p < gva.saturating_add(64) && gva < p.saturating_add(len);
                let found = w.watch.iter().find(|(p, _)| near(p.gva, p.len));
                let own = if write { WatchKind::Write } else { WatchKind::Read };
                let (addr, kind) = found.map_or((gva, own), |(p, k)| (gva.max(p.gva), *k));
                MultiThreadStopReason::Watch { tid, kind, addr }
            }
            Stop::Debug(DebugEvent::SingleStep) => {
                MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP }
            }
            Stop::Signal(s) => MultiThreadStopReason::SignalWithThread { tid, signal: to_gdb(s) },
            Stop::Exited(code) => MultiThreadStopReason::Exited(code as u8),
            Stop::Killed(s) => MultiThreadStopReason::Terminated(to_gdb(s)),
            Stop::Asked => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGINT },
        }
    }

    /// The thread a stop is reported of that none caused.
    pub(super) fn any_thread(&self) -> i32 {
        self.debugger.lock().threads.keys().next().copied().unwrap_or(1)
    }

    fn with<R>(
        &self,
        t: Tid,
        f: impl FnOnce(&Description, &mut CpuState) -> (R, bool),
    ) -> TargetResult<R, Self> {
        let mut w = self.debugger.lock();
        let view = w.threads.get_mut(&number(t)).ok_or(TargetError::Errno(INVALID))?;
        let (r, changed) = f(&self.description, &mut view.state);
        view.changed |= changed;
        Ok(r)
    }
}

impl Target for Guest {
    type Arch = GuestRegisters;
    type Error = &'static str;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_auxv(&mut self) -> Option<AuxvOps<'_, Self>> {
        Some(self)
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        Some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(&mut self, regs: &mut Bytes, tid: Tid) -> TargetResult<(), Self> {
        *regs = self.with(tid, |d, s| (Bytes { data: d.read_all(s), pc: d.pc(s) }, false))?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &Bytes, tid: Tid) -> TargetResult<(), Self> {
        let good = self.with(tid, |d, s| (d.write_all(s, &regs.data), true))?;
        if good { Ok(()) } else { Err(TargetError::Errno(INVALID)) }
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        let mm = &self.process.mm;
        if mm.read(start, data).is_ok() {
            return Ok(data.len());
        }
        // What lies before the first page that cannot be read is still worth having.
        let n = data.len().min(4096 - (start % 4096) as usize);
        mm.read(start, &mut data[..n]).map(|()| n).map_err(|_| TargetError::Errno(FAULT))
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], _: Tid) -> TargetResult<(), Self> {
        self.process.mm.poke(start, data).map_err(|_| TargetError::Errno(FAULT))
    }

    fn list_active_threads(&mut self, each: &mut dyn FnMut(Tid)) -> Result<(), &'static str> {
        let all: Vec<i32> = self.debugger.lock().threads.keys().copied().collect();
        all.into_iter().for_each(|t| each(tid(t)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Guest {
    fn read_register(&mut self, tid: Tid, number: Number, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let bytes = self.with(tid, |d, s| (d.read(s, number.0), false))?;
        let bytes = bytes.ok_or(TargetError::Errno(INVALID))?;
        buf.get_mut(..bytes.len()).ok_or(TargetError::Errno(INVALID))?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, tid: Tid, number: Number, val: &[u8]) -> TargetResult<(), Self> {
        let good = self.with(tid, |d, s| (d.write(s, number.0, val), true))?;
        if good { Ok(()) } else { Err(TargetError::Errno(INVALID)) }
    }
}

impl Auxv for Guest {
    fn get_auxv(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        Ok(copy(&self.process.auxv, offset, length, buf))
    }
}

impl ExecFile for Guest {
    fn get_exec_file(
        &self,
        _: Option<Pid>,
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(copy(self.process.exe.as_bytes(), offset, length, buf))
    }
}

impl TargetDescriptionXmlOverride for Guest {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        Ok(copy(self.xml.as_bytes(), offset, length, buf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_gdbs_numbers() {
        assert_eq!((to_gdb(libc::SIGBUS).0, to_gdb(libc::SIGUSR1).0, to_gdb(34).0), (10, 30, 46));
        for s in 1..64 {
            if s != libc::SIGSTKFLT {
                assert_eq!(from_gdb(to_gdb(s)), Some(s));
            }
        }
    }
}
