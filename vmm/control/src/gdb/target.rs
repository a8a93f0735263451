//! The machine as `gdbstub` wants to see it.

use super::arch::{Bytes, GuestRegisters, Number};
use super::points::{Points, watchpoint};
use super::registers::Description;
use super::{DebugStop, DebugTarget};
use crate::hmp;
use crate::monitor::Control;
use crate::vm::{MemorySpace, VmError};
use accel::arch::CpuState;
use accel::{DebugConfig, DebugEvent, Watchpoint};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind as GdbWatch,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use std::sync::Arc;

/// EFAULT and EINVAL in GDB's numbering of errors.
const FAULT: u8 = 14;
const INVALID: u8 = 22;

/// What one client has asked for.
pub(super) struct Guest {
    pub(super) target: Arc<dyn DebugTarget>,
    control: Arc<Control>,
    description: Description,
    xml: String,
    software: Points<u64>,
    hardware: Points<u64>,
    watches: Points<(Watchpoint, GdbWatch)>,
    /// vCPUs to step at the next resume.
    stepping: Vec<u32>,
    /// vCPUs that the client named for the next resume, and whether only they are to run.
    named: Vec<u32>,
    locked: bool,
    /// What each vCPU was told last.
    told: Vec<DebugConfig>,
    /// What vCPUs met beside the one whose stop was reported. Each is for a resume that lets its vCPU run.
    postponed: Vec<DebugStop>,
    /// The one that took the place of this resume.
    due: Option<DebugStop>,
}

fn tid(cpu: u32) -> Tid {
    // Thread 0 has a meaning of its own in the protocol.
    Tid::new(cpu as usize + 1).unwrap_or(Tid::MIN)
}

fn cpu(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

impl Guest {
    pub(super) fn new(target: Arc<dyn DebugTarget>, control: Arc<Control>) -> Result<Self, VmError> {
        let arch = target.arch();
        let state = target.cpu_state(0)?;
        let description =
            Description::of(&state, arch).ok_or_else(|| VmError::Unsupported(format!("gdb for {arch}")))?;
        let told =
            vec![DebugConfig::default(); target.vm().cpus().last().map_or(0, |c| c.index as usize + 1)];
        let xml = description.xml();
        let stepping = Vec::new();
        Ok(Self {
            target,
            control,
            description,
            xml,
            software: Points::default(),
            hardware: Points::default(),
            watches: Points::default(),
            stepping,
            named: Vec::new(),
            locked: false,
            told,
            postponed: Vec::new(),
            due: None,
        })
    }

    /// Tells each vCPU what is wanted of it, where that has changed.
    fn tell(&mut self) -> Result<(), VmError> {
        let mut breakpoints: Vec<u64> = self.software.iter().chain(self.hardware.iter()).copied().collect();
        breakpoints.sort_unstable();
        breakpoints.dedup();
        let watchpoints: Vec<Watchpoint> = self.watches.iter().map(|(w, _)| *w).collect();
        for (i, told) in self.told.iter_mut().enumerate() {
            let cpu = i as u32;
            let config = DebugConfig {
                breakpoints: breakpoints.clone(),
                watchpoints: watchpoints.clone(),
                single_step: self.stepping.contains(&cpu),
            };
            if *told != config {
                self.target.set_debug(cpu, config.clone())?;
                *told = config;
            }
        }
        Ok(())
    }

    /// The client goes: nothing is wanted any more and the guest runs on.
    pub(super) fn detach(&mut self) {
        self.software.clear();
        self.hardware.clear();
        self.watches.clear();
        self.stepping.clear();
        self.target.hold(&[]);
        if let Err(e) = self.tell().and_then(|()| self.target.vm().cont()) {
            tracing::warn!(error = %e, "the debugger left; the guest does not go on");
        }
    }

    /// Keeps a stop for later, since the client knows of another one.
    pub(super) fn postpone(&mut self, stop: DebugStop) {
        // A step that has ended is nothing that the client waits for any more, and a vCPU meets one thing a run.
        if stop.event != DebugEvent::SingleStep && self.postponed.iter().all(|p| p.cpu != stop.cpu) {
            self.postponed.push(stop);
        }
    }

    /// The stop that the last resume ended with at once.
    pub(super) fn due(&mut self) -> Option<DebugStop> {
        self.due.take()
    }

    /// Takes the first postponed stop of a vCPU that is not held, without those that hold no longer: their breakpoint is
    /// gone, or their vCPU is elsewhere.
    fn take_postponed(&mut self, held: &[u32]) -> Option<DebugStop> {
        let mut waiting = std::mem::take(&mut self.postponed).into_iter();
        let mut found = None;
        for stop in waiting.by_ref() {
            if held.contains(&stop.cpu) {
                self.postponed.push(stop);
            } else if self.holds(stop) {
                found = Some(DebugStop { run: self.target.run_number(), ..stop });
                break;
            }
        }
        self.postponed.extend(waiting);
        found
    }

    fn holds(&self, stop: DebugStop) -> bool {
        let DebugEvent::Breakpoint { pc } = stop.event else { return true };
        let there = || self.target.cpu_state(stop.cpu).is_ok_and(|mut s| self.description.pc(&mut s) == pc);
        (self.software.contains(&pc) || self.hardware.contains(&pc)) && there()
    }

    /// A stop as GDB is told of it.
    pub(super) fn reason(&self, stop: DebugStop) -> MultiThreadStopReason<u64> {
        let tid = tid(stop.cpu);
        match stop.event {
            DebugEvent::Breakpoint { pc } if self.software.contains(&pc) => {
                MultiThreadStopReason::SwBreak(tid)
            }
            DebugEvent::Breakpoint { .. } => MultiThreadStopReason::HwBreak(tid),
            DebugEvent::Watchpoint { gva, write } => {
                let covers = |w: &Watchpoint| gva.wrapping_sub(w.gva) < w.len;
                let kind = self.watches.iter().find(|(w, _)| covers(w)).map(|(_, k)| *k);
                let kind = kind.unwrap_or(if write { GdbWatch::Write } else { GdbWatch::Read });
                MultiThreadStopReason::Watch { tid, kind, addr: gva }
            }
            DebugEvent::SingleStep => {
                MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP }
            }
        }
    }

    /// The stop after Ctrl-C or by a monitor.
    pub(super) fn interrupted() -> MultiThreadStopReason<u64> {
        MultiThreadStopReason::SignalWithThread { tid: tid(0), signal: Signal::SIGINT }
    }

    fn state(&self, tid: Tid) -> TargetResult<CpuState, Self> {
        self.target.cpu_state(cpu(tid)).map_err(|_| TargetError::Errno(INVALID))
    }

    fn set_state(&self, tid: Tid, state: CpuState) -> TargetResult<(), Self> {
        self.target.set_cpu_state(cpu(tid), state).map_err(|_| TargetError::Errno(INVALID))
    }
}

impl Target for Guest {
    type Arch = GuestRegisters;
    type Error = VmError;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
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
        let mut state = self.state(tid)?;
        regs.data = self.description.read_all(&mut state);
        regs.pc = self.description.pc(&mut state);
        Ok(())
    }

    fn write_registers(&mut self, regs: &Bytes, tid: Tid) -> TargetResult<(), Self> {
        let mut state = self.state(tid)?;
        if !self.description.write_all(&mut state, &regs.data) {
            return Err(TargetError::Errno(INVALID));
        }
        self.set_state(tid, state)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let space = MemorySpace::Virtual(cpu(tid));
        let vm = self.target.vm();
        if vm.read_memory(space, start, data).is_ok() {
            return Ok(data.len());
        }
        // What lies before the first page that cannot be read is still worth having.
        let to_page = usize::try_from(4096 - start % 4096).unwrap_or(4096);
        let n = to_page.min(data.len());
        match vm.read_memory(space, start, &mut data[..n]) {
            Ok(()) => Ok(n),
            Err(_) => Err(TargetError::Errno(FAULT)),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let space = MemorySpace::Virtual(cpu(tid));
        self.target.vm().write_memory(space, start, data).map_err(|_| TargetError::Errno(FAULT))
    }

    fn list_active_threads(&mut self, each: &mut dyn FnMut(Tid)) -> Result<(), VmError> {
        (0..self.told.len() as u32).for_each(|i| each(tid(i)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Guest {
    fn read_register(&mut self, tid: Tid, number: Number, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let mut state = self.state(tid)?;
        let bytes = self.description.read(&mut state, number.0).ok_or(TargetError::Errno(INVALID))?;
        let place = buf.get_mut(..bytes.len()).ok_or(TargetError::Errno(INVALID))?;
        place.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, tid: Tid, number: Number, val: &[u8]) -> TargetResult<(), Self> {
        let mut state = self.state(tid)?;
        if !self.description.write(&mut state, number.0, val) {
            return Err(TargetError::Errno(INVALID));
        }
        self.set_state(tid, state)
    }
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), VmError> {
        self.tell()?;
        let all = 0..self.told.len() as u32;
        let held: Vec<u32> = all.filter(|c| self.locked && !self.named.contains(c)).collect();
        self.due = self.take_postponed(&held);
        if self.due.is_some() {
            return Ok(());
        }
        self.target.hold(&held);
        self.target.vm().cont()
    }

    fn clear_resume_actions(&mut self) -> Result<(), VmError> {
        self.stepping.clear();
        self.named.clear();
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), VmError> {
        self.named.push(cpu(tid));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), VmError> {
        self.locked = true;
        Ok(())
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), VmError> {
        self.named.push(cpu(tid));
        self.stepping.push(cpu(tid));
        Ok(())
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.software.add(addr))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.software.remove(&addr))
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.hardware.add(addr))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.hardware.remove(&addr))
    }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: GdbWatch) -> TargetResult<bool, Self> {
        Ok(self.watches.add(watchpoint(addr, len, kind)))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: GdbWatch) -> TargetResult<bool, Self> {
        Ok(self.watches.remove(&watchpoint(addr, len, kind)))
    }
}

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), VmError> {
        let line = String::from_utf8_lossy(cmd);
        out.write_raw(hmp::run(&self.control, 0, &line).as_bytes());
        if matches!(hmp::split(&line).0, "quit" | "q") {
            self.target.vm().quit();
        }
        Ok(())
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
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.xml.len());
        let rest = &self.xml.as_bytes()[start..];
        let n = rest.len().min(length).min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl ThreadExtraInfo for Guest {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, VmError> {
        let cpus = self.target.vm().cpus();
        let halted = cpus.iter().any(|c| c.index == cpu(tid) && c.halted);
        let text = format!("CPU#{} [{}]", cpu(tid), if halted { "halted" } else { "running" });
        let n = text.len().min(buf.len());
        buf[..n].copy_from_slice(&text.as_bytes()[..n]);
        Ok(n)
    }
}
