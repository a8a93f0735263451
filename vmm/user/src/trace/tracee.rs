//! A thread that is traced: where it stops, what it says then, and how it goes on.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use accel::DebugEvent;
use accel::arch::GuestArch;
use accel::arch::x86_64::program;

use super::attach::is_rhea;
use super::debug::{self, Points};
use super::{MAGIC, STOPPING, WORDS, changed, command, event, option, word};
use crate::gdb::Stop;
use crate::host::{self, Errno, RESTART, RESTART_ONCE, Sys};
use crate::process::Process;
use crate::signal::{self, MAX, SigInfo, UNBLOCKABLE, bit};
use crate::thread::{Again, Thread};

/// `si_code` of a step.
const TRAP_TRACE: i32 = 2;

/// What a traced thread has.
pub(crate) struct Tracee {
    block: Box<[AtomicU64; WORDS]>,
    /// How it was told to go on.
    mode: u64,
    options: u64,
    /// It stands in the call that made its process, whose end it does not tell of.
    new: bool,
    /// It stops for nothing.
    silent: bool,
    /// What it knows of the group stops of its process.
    pub(super) group: u64,
    /// What its debug registers look for.
    points: Points,
}

/// A system call at a stop.
#[derive(Default)]
pub(crate) struct CallStop {
    /// 1 before it, 2 behind it.
    pub(crate) when: u64,
    pub(crate) number: u64,
    pub(crate) args: [u64; 6],
    pub(crate) result: u64,
    pub(crate) failed: bool,
}

impl Tracee {
    fn new(options: u64) -> Box<Self> {
        let block = Box::new([const { AtomicU64::new(0) }; WORDS]);
        block[0].store(MAGIC, SeqCst);
        block[word::OPTIONS].store(options, SeqCst);
        Box::new(Self {
            block,
            mode: command::CONT,
            options,
            new: false,
            silent: false,
            group: 0,
            points: Points::default(),
        })
    }

    /// Of a thread of this process.
    pub(super) fn of(process: &Process, options: u64) -> Box<Self> {
        Box::new(Self { group: process.group.load(SeqCst), ..*Self::new(options) })
    }

    pub(crate) fn options(&self) -> u64 {
        self.options
    }

    fn set(&self, word: usize, value: u64) {
        self.block[word].store(value, SeqCst);
    }

    fn get(&self, word: usize) -> u64 {
        self.block[word].load(SeqCst)
    }

    /// Stops until the tracer lets it go on.
    fn stop(&self) {
        // Whoever dies before he has said something else has let go.
        self.set(word::COMMAND, command::DETACH);
        self.set(word::CHANGED, 0);
        self.set(word::SIGNAL, 0);
        let mut info = SigInfo::fault(libc::SIGTRAP, STOPPING, 0);
        info.0[24..32].copy_from_slice(&(self.block.as_ptr() as u64).to_le_bytes());
        let mask = host::get_mask();
        host::set_mask(!bit(libc::SIGTRAP));
        host::queue_to_self(libc::SIGTRAP, info.0.as_ptr() as u64);
        host::set_mask(mask);
    }

    /// What the tracer wants of this thread: see [`super::wish`]; a signal's information.
    pub(super) fn take_wish(&self) -> Option<(u64, SigInfo)> {
        let wanted = self.block[word::REQUEST].swap(0, SeqCst);
        let mut info = SigInfo([0; 128]);
        for (n, b) in info.0.chunks_exact_mut(8).enumerate() {
            b.copy_from_slice(&self.get(word::INFO + n).to_le_bytes());
        }
        let signal = (wanted & 0x7f) as i32;
        if info.0[..4] != signal.to_le_bytes() {
            // Another stop has come in between.
            info = SigInfo::fault(signal, 0, 0);
        }
        (wanted != 0 && signal <= MAX).then_some((wanted, info))
    }

    /// Each instruction is a step, of the tracer's or for what the debug registers look for.
    fn steps(&self) -> bool {
        self.mode == command::STEP || self.points.has_code()
    }

    /// How it was told to go on.
    pub(super) fn mode(&self) -> u64 {
        self.mode
    }

    /// Not a stop of the program's: the tracer learns where the block is. False if there is none.
    pub(super) fn say_hello(&self, process: &Process) -> bool {
        self.set(word::BASE, process.mm.host(0));
        self.set(word::PROCESS, std::process::id().into());
        self.stop();
        self.get(word::COMMAND) != command::DETACH
    }
}

/// Has every signal come to Rhea, whatever the program does with it, and no thread that is none of the program's.
pub(crate) fn catch_all(process: &Process) {
    process.machine.have_no_threads();
    signal::catch(u64::MAX);
    let actions = *process.actions();
    for n in 1..=MAX {
        if bit(n) & signal::UNBLOCKABLE == 0 {
            signal::install(n, &actions[n as usize]);
        }
    }
}

/// True if the parent is this same program.
fn parent_is_rhea() -> bool {
    is_rhea(host::call(libc::SYS_getppid, &[]).unwrap_or(0))
}

impl Thread {
    /// `PTRACE_TRACEME`.
    pub(super) fn trace_me(&mut self) -> Sys {
        if self.traced.is_some() || !parent_is_rhea() {
            return Err(Errno(libc::EPERM));
        }
        host::call(libc::SYS_ptrace, &[0])?;
        if self.process.is_borrowed() {
            // The tracer waits for this child to become another program, and cannot be told of anything before.
            self.traced = Some(Box::new(Tracee { silent: true, ..*Tracee::new(0) }));
            return Ok(0);
        }
        catch_all(&self.process.clone());
        let tracee = Tracee::of(&self.process, 0);
        if tracee.say_hello(&self.process) {
            self.traced = Some(tracee);
        }
        Ok(0)
    }

    /// What a traced program does first: it stops behind `execve`.
    pub(crate) fn begin_traced(&mut self) {
        let Some(options) = self.process.options.traced.filter(|_| self.first) else { return };
        catch_all(&self.process.clone());
        self.traced = Some(Tracee::new(options));
        let told = if options & option::EXEC != 0 { event::EXEC << 8 } else { 0 };
        if told != 0 || options & option::SEIZED == 0 {
            self.trace_stop(libc::SIGTRAP as u64 | told, self.tid as u64, None, &CallStop::default());
        }
        let abi = self.process.abi;
        let number = abi.calls().find(|n| n.0 == "execve").map_or(0, |n| n.1);
        self.call_stop(&CallStop { when: 2, number: number.into(), ..CallStop::default() });
    }

    /// What a thread or process that a traced one has made does first; `in_call`: in the call that made it.
    pub(crate) fn begin_followed(&mut self, options: u64, in_call: bool) {
        self.process.machine.have_no_threads();
        self.traced = Some(Tracee::of(&self.process, options));
        if options & option::SEIZED != 0 {
            self.stop_of_ours(libc::SIGTRAP);
        } else {
            self.trace_stop(libc::SIGSTOP as u64, 0, None, &CallStop::default());
        }
        self.traced.iter_mut().for_each(|t| t.new = in_call);
    }

    /// The options of a new thread or process if it is to be traced: the event's number as well.
    pub(crate) fn follows(&self, thread: bool, vfork: bool) -> Option<(u64, u64)> {
        let options = self.traced.as_ref()?.options;
        let (bit, event) = match (thread, vfork) {
            (true, _) => (option::CLONE, event::CLONE),
            (_, true) => (option::VFORK, event::VFORK),
            _ => (option::FORK, event::FORK),
        };
        (options & bit != 0).then_some((options, event))
    }

    /// Tells the tracer of a new thread or process.
    pub(crate) fn tell_of_child(&mut self, event: u64, child: u64) {
        self.trace_stop(libc::SIGTRAP as u64 | event << 8, child, None, &CallStop::default());
    }

    /// Tells the tracer that a child that had this thread's memory needs it no more.
    pub(crate) fn tell_of_vfork_done(&mut self, child: u64) {
        self.tell_event(option::VFORK_DONE, event::VFORK_DONE, child);
    }

    /// Tells the tracer that the thread is about to end, with what `wait` will tell then.
    pub(crate) fn tell_of_end(&mut self, status: u64) {
        self.tell_event(option::EXIT, event::EXIT, status);
    }

    fn tell_event(&mut self, wanted: u64, event: u64, message: u64) {
        if self.traced.as_ref().is_some_and(|t| t.options & wanted != 0) {
            self.trace_stop(libc::SIGTRAP as u64 | event << 8, message, None, &CallStop::default());
        }
    }

    /// Asks the tracer about a call that a filter leaves to it. `None` if there is nobody to ask, else whether it is to be made.
    pub(crate) fn ask_of_call(&mut self, number: u64, args: [u64; 6], message: u64) -> Option<bool> {
        self.traced.as_ref().filter(|t| t.options & option::SECCOMP != 0)?;
        let call = CallStop { when: 3, number, args, result: message, failed: false };
        self.trace_stop(libc::SIGTRAP as u64 | event::SECCOMP << 8, message, None, &call);
        Some(!self.is_no_call())
    }

    /// True if the register says that no call is to be made.
    fn is_no_call(&self) -> bool {
        self.cpu.reg(self.process.abi.number_reg) as i32 == -1
    }

    /// Stops before a system call, if the tracer wants that; false if the call is not to be made, and its result is there.
    pub(crate) fn may_call(&mut self, call: &CallStop) -> bool {
        let before = self.cpu.reg(self.process.abi.number_reg);
        self.call_stop(call);
        if self.cpu.reg(self.process.abi.number_reg) == before || !self.is_no_call() {
            return true;
        }
        if let Some((_, result)) = self.process.abi.call_registers {
            let at = word::FIRST_REGISTER + result;
            let value = self.traced.as_ref().map_or(0, |t| t.get(at));
            self.cpu.set_reg(self.process.abi.result_reg, value);
        }
        false
    }

    /// Stops before or behind a system call, if the tracer wants that.
    pub(crate) fn call_stop(&mut self, call: &CallStop) {
        let Some(t) = self.traced.as_ref().filter(|t| t.mode == command::CALLS) else { return };
        if call.when == 2 && t.new {
            self.traced.iter_mut().for_each(|t| t.new = false);
            return;
        }
        let good = if t.options & option::SYSGOOD != 0 { 0x80 } else { 0 };
        if let Some(signal) = self.trace_stop(libc::SIGTRAP as u64 | good, 0, None, call) {
            let _ =
                host::call(libc::SYS_tgkill, &[std::process::id().into(), self.tid as u64, signal as u64]);
        }
    }

    /// True if each instruction is a step.
    pub(crate) fn is_stepped(&self) -> bool {
        self.traced.as_ref().is_some_and(|t| t.steps())
    }

    /// Tells the tracer of something; the signal that is to be delivered.
    pub(crate) fn tell_tracer(&mut self, stop: Stop, info: &SigInfo) -> Option<i32> {
        match stop {
            Stop::Signal(s) => self.trace_stop(s as u64, 0, Some(info), &CallStop::default()),
            Stop::Debug(DebugEvent::SingleStep) => self.debug_stop(0),
            Stop::Debug(DebugEvent::Watchpoint { gva, write }) => {
                self.debug_stop(self.traced.as_ref().map_or(0, |t| t.points.accessed(gva, write)))
            }
            _ => None,
        }
    }

    /// Stops behind an instruction, if the tracer wants to know: of a step, or of what its debug registers have met.
    fn debug_stop(&mut self, accessed: u64) -> Option<i32> {
        let pc = self.cpu.pc();
        let t = self.traced.as_ref()?;
        let met = accessed | t.points.reached(pc);
        let (step, code) = match t.mode {
            command::STEP => (debug::STEP, TRAP_TRACE),
            _ if met == 0 => return None,
            _ => (0, debug::TRAP_HWBKPT),
        };
        t.set(word::DEBUG + debug::STATUS, met | step);
        let info = SigInfo::fault(libc::SIGTRAP, code, pc);
        self.trace_stop(libc::SIGTRAP as u64, 0, Some(&info), &CallStop::default())
    }

    /// Stops with a signal.
    pub(super) fn stop_with(&mut self, info: &SigInfo) -> Option<i32> {
        let signal = i32::from_le_bytes([info.0[0], info.0[1], info.0[2], info.0[3]]);
        self.trace_stop(signal as u64, 0, Some(info), &CallStop::default())
    }

    /// What the tracer finds of a call that a signal has interrupted: it stands before the call again where there is no register for
    /// the number, else the number and the kernel's mark are in their registers.
    fn show_interrupted(&mut self, registers: &mut [u64]) {
        let Some((_, again)) = self.interrupted else { return };
        match self.process.abi.call_registers {
            Some((original, result)) => {
                registers[original] = self.cpu.reg(self.process.abi.number_reg);
                let mark = if again == Again::Unhandled { RESTART_ONCE } else { RESTART };
                registers[result] = i64::from(-mark.0) as u64;
            }
            None => registers[0] = registers[0].wrapping_sub(self.process.abi.call_len),
        }
    }

    /// What becomes of such a call when the tracer has set the registers.
    fn take_interrupted(&mut self, registers: &[u64]) {
        self.interrupted = None;
        let abi = self.process.abi;
        let Some((original, result)) = abi.call_registers else { return };
        let again = match -(registers[result] as i32) {
            e if e == RESTART.0 => Again::IfAsked,
            e if e == RESTART_ONCE.0 => Again::Unhandled,
            _ => return,
        };
        if registers[original] as i32 >= 0 {
            self.cpu.set_reg(abi.number_reg, registers[original]);
            self.interrupted = Some((self.cpu.reg(abi.arg_regs[0]), again));
        }
    }

    /// A stop: what the thread says, and what comes of it. The signal to deliver. A message that is not 0 marks a group stop.
    pub(super) fn trace_stop(
        &mut self,
        status: u64,
        message: u64,
        info: Option<&SigInfo>,
        call: &CallStop,
    ) -> Option<i32> {
        if self.traced.as_ref()?.silent {
            return Some(status as i32 & 0x7f).filter(|_| info.is_some());
        }
        let mut t = self.traced.take()?;
        let abi = self.process.abi;
        let mut registers = (abi.core_registers)(&mut *self.cpu);
        if let Some((original, result)) = abi.call_registers {
            let number = if call.when == 0 { u64::MAX } else { call.number };
            registers[original] = number;
            if call.when & 1 != 0 {
                registers[result] = i64::from(-libc::ENOSYS) as u64;
            }
        }
        if call.when == 0 {
            self.show_interrupted(&mut registers);
        }
        let floats = (abi.core_floats)(&mut *self.cpu);
        let numbers = [status, call.when, message, call.number];
        let behind = [call.result, call.failed.into(), self.cpu.pc(), self.cpu.reg(abi.sp)];
        for (i, w) in numbers.iter().chain(&call.args).chain(&behind).enumerate() {
            t.set(word::STATUS + i, *w);
        }
        t.set(word::OPTIONS, t.options);
        t.set(word::BASE, self.process.mm.host(0));
        let auxv = &self.process.auxv;
        t.set(word::AUXV, auxv.as_ptr() as u64);
        t.set(word::AUXV + 1, auxv.len() as u64);
        t.set(word::EXE, self.process.exe.as_ptr() as u64);
        t.set(word::EXE + 1, self.process.exe.len() as u64);
        t.set(word::MASK, self.mask);
        t.set(word::PROCESS, std::process::id().into());
        let group = info.is_none() && call.when == 0 && status >> 7 == 0 && message != 0;
        t.set(word::NO_INFO, group.into());
        if abi.arch == GuestArch::I386 {
            (0..program::TLS_COUNT).for_each(|n| t.set(word::SEGMENTS + n, self.cpu.reg(program::TLS + n)));
        }
        t.set(word::REGISTERS, registers.len() as u64);
        t.set(word::FLOATS, floats.len() as u64);
        let info =
            info.map_or_else(|| SigInfo::fault((status & 0x7f) as i32, (status & 0xff) as i32, 0), |i| *i);
        put(&t, word::INFO, &info.0);
        registers.iter().enumerate().for_each(|(i, r)| t.set(word::FIRST_REGISTER + i, *r));
        put(&t, word::FIRST_FLOAT, &floats);
        t.stop();
        let done = t.get(word::CHANGED);
        if done & changed::REGISTERS != 0 {
            let new: Vec<u64> = (0..registers.len()).map(|i| t.get(word::FIRST_REGISTER + i)).collect();
            (abi.set_core_registers)(&mut *self.cpu, &new);
            // Before a call the register of its result holds the number.
            if let Some((original, _)) = abi.call_registers.filter(|_| call.when & 1 != 0) {
                self.cpu.set_reg(abi.number_reg, new[original]);
            }
            if call.when == 0 {
                self.take_interrupted(&new);
            }
        }
        if done & changed::FLOATS != 0 {
            let new: Vec<u8> = (0..floats.len().div_ceil(8))
                .flat_map(|i| t.get(word::FIRST_FLOAT + i).to_le_bytes())
                .collect();
            (abi.set_core_floats)(&mut *self.cpu, &new[..floats.len()]);
        }
        if done & changed::MEMORY != 0 {
            self.process.machine.invalidate(t.get(word::WRITTEN)..t.get(word::WRITTEN + 1));
        }
        if done & changed::MASK != 0 {
            self.mask = t.get(word::MASK) & !UNBLOCKABLE;
        }
        (t.mode, t.options) = (t.get(word::COMMAND), t.get(word::OPTIONS));
        let signal = t.get(word::SIGNAL) as i32;
        let stays = t.mode != command::DETACH;
        let registers: Vec<u64> = (0..debug::COUNT).map(|n| t.get(word::DEBUG + n)).collect();
        t.points = Points::of(&registers).filter(|_| stays).unwrap_or_default();
        self.cpu.set_debug(t.steps(), &t.points.watched());
        self.traced = stays.then_some(t);
        (1..=MAX).contains(&signal).then_some(signal)
    }
}

fn put(t: &Tracee, first: usize, bytes: &[u8]) {
    for (i, chunk) in bytes.chunks(8).enumerate().take(WORDS - first) {
        let mut w = [0; 8];
        w[..chunk.len()].copy_from_slice(chunk);
        t.set(first + i, u64::from_le_bytes(w));
    }
}
