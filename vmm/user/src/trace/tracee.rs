//! A thread that is traced: where it stops, what it says then, and how it goes on.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use accel::DebugEvent;

use super::{MAGIC, STOPPING, WORDS, changed, command, option, word};
use crate::gdb::Stop;
use crate::host::{self, Errno, Sys};
use crate::process::Process;
use crate::signal::{self, MAX, SigInfo, bit};
use crate::thread::Thread;

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
    pub(crate) fn new(options: u64) -> Box<Self> {
        let block = Box::new([const { AtomicU64::new(0) }; WORDS]);
        block[0].store(MAGIC, SeqCst);
        block[word::OPTIONS].store(options, SeqCst);
        Box::new(Self { block, mode: command::CONT, options, new: false, silent: false })
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

    /// The signal that the tracer wants this thread to stop with.
    pub(crate) fn take_request(&self) -> Option<i32> {
        let signal = self.block[word::REQUEST].swap(0, SeqCst) as i32;
        (1..=MAX).contains(&signal).then_some(signal)
    }
}

/// Has every signal come to Rhea, whatever the program does with it.
pub(crate) fn catch_all(process: &Process) {
    signal::catch(u64::MAX);
    let actions = *process.actions();
    for n in 1..=MAX {
        if bit(n) & signal::UNBLOCKABLE == 0 {
            signal::install(n, &actions[n as usize]);
        }
    }
}

/// True if the parent is this same program, which alone knows what the stops mean.
fn parent_is_rhea() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let file = |path: String| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let parent = host::call(libc::SYS_getppid, &[]).unwrap_or(0);
    file(format!("/proc/{parent}/exe")).is_some_and(|p| file("/proc/self/exe".to_owned()) == Some(p))
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
        let tracee = Tracee::new(0);
        // Not a stop of the program's: the tracer learns where the block is.
        tracee.set(word::BASE, self.process.mm.host(0));
        tracee.stop();
        if tracee.get(word::COMMAND) != command::DETACH {
            self.traced = Some(tracee);
        }
        Ok(0)
    }

    /// What a traced program does first: it stops behind `execve`.
    pub(crate) fn begin_traced(&mut self) {
        let Some(options) = self.process.options.traced.filter(|_| self.first) else { return };
        catch_all(&self.process.clone());
        self.traced = Some(Tracee::new(options));
        let event = if options & option::EXEC != 0 { 4 << 8 } else { 0 };
        self.trace_stop(libc::SIGTRAP as u64 | event, self.tid as u64, None, &CallStop::default());
        let abi = self.process.abi;
        let number = abi.numbers.iter().find(|n| n.0 == "execve").map_or(0, |n| n.1);
        self.call_stop(&CallStop { when: 2, number: number.into(), ..CallStop::default() });
    }

    /// What a thread or process that a traced one has made does first; `in_call`: in the call that made it.
    pub(crate) fn begin_followed(&mut self, options: u64, in_call: bool) {
        self.traced = Some(Tracee::new(options));
        self.trace_stop(libc::SIGSTOP as u64, 0, None, &CallStop::default());
        self.traced.iter_mut().for_each(|t| t.new = in_call);
    }

    /// The options of a new thread or process if it is to be traced: the event's number as well.
    pub(crate) fn follows(&self, thread: bool, vfork: bool) -> Option<(u64, u64)> {
        let options = self.traced.as_ref()?.options;
        let (bit, event) = match (thread, vfork) {
            (true, _) => (option::CLONE, 3),
            (_, true) => (option::VFORK, 2),
            _ => (option::FORK, 1),
        };
        (options & bit != 0).then_some((options, event))
    }

    /// Tells the tracer of a new thread or process.
    pub(crate) fn tell_of_child(&mut self, event: u64, child: u64) {
        self.trace_stop(libc::SIGTRAP as u64 | event << 8, child, None, &CallStop::default());
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
        self.traced.as_ref().is_some_and(|t| t.mode == command::STEP)
    }

    /// Tells the tracer of something; the signal that is to be delivered.
    pub(crate) fn tell_tracer(&mut self, stop: Stop, info: &SigInfo) -> Option<i32> {
        match stop {
            Stop::Signal(s) => self.trace_stop(s as u64, 0, Some(info), &CallStop::default()),
            Stop::Debug(DebugEvent::SingleStep) => {
                let info = SigInfo::fault(libc::SIGTRAP, TRAP_TRACE, self.cpu.pc());
                self.trace_stop(libc::SIGTRAP as u64, 0, Some(&info), &CallStop::default())
            }
            _ => None,
        }
    }

    /// A stop: what the thread says, and what comes of it. The signal to deliver.
    fn trace_stop(
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
            if call.when == 1 {
                registers[result] = i64::from(-libc::ENOSYS) as u64;
            }
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
            // What stands for the result before a call is the number itself.
            let kept = abi.call_registers.filter(|_| call.when == 1).map(|_| self.cpu.reg(abi.number_reg));
            (abi.set_core_registers)(&mut *self.cpu, &new);
            if let Some(number) = kept {
                self.cpu.set_reg(abi.number_reg, number);
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
        (t.mode, t.options) = (t.get(word::COMMAND), t.get(word::OPTIONS));
        let signal = t.get(word::SIGNAL) as i32;
        let stays = t.mode != command::DETACH;
        self.cpu.set_debug(t.mode == command::STEP, &[]);
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
