//! A guest thread: the loop that runs it, and the delivery of its signals.

use std::any::Any;
use std::sync::Arc;

use accel::DebugEvent;
use tcg_engine::user::{HostFault, UserCpu, UserExit};

use crate::abi::{Exception, Frame, Popped};
use crate::gdb::{Debugger, Stop};
use crate::host::{self, Errno, KEEP, NOT_MADE, RESTART, RESTART_ONCE};
use crate::process::Process;
use crate::signal::{self, DFL, Default, IGN, OPEN, SigInfo, Slot, UNBLOCKABLE, bit, flag};
use crate::sys::Filter;
use crate::trace::{CallStop, MESSAGE, Tracee};
use crate::{dump, strace, sys};

/// `ss_flags` of an alternate stack that is not there, and of one that is being used.
const SS_DISABLE: u64 = 2;
const SS_ONSTACK: u64 = 1;

/// When a system call that a signal has interrupted is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It has not been made yet.
    Always,
    /// Unless a handler runs that does not ask for it (`SA_RESTART`).
    IfAsked,
    /// Unless a handler runs.
    Unhandled,
}

/// One thread.
pub(crate) struct Thread {
    pub(crate) process: Arc<Process>,
    pub(crate) cpu: Box<dyn UserCpu>,
    pub(crate) slot: Box<Slot>,
    /// The guest's signal mask.
    pub(crate) mask: u64,
    /// A mask that holds until the next handler has started (`sigsuspend`).
    pub(crate) suspended: Option<u64>,
    /// Alternate stack: address, flags, size.
    pub(crate) alt_stack: [u64; 3],
    /// Where a zero is written when the thread ends.
    pub(crate) clear_tid: u64,
    pub(crate) robust: [u64; 2],
    /// The last exception, as a frame tells it.
    trap: [u64; 3],
    /// A system call that was interrupted: its first argument, and when it is made again.
    pub(crate) interrupted: Option<(u64, Again)>,
    /// When a wait ends that was interrupted, and is made again unless a handler runs.
    pub(crate) deadline: Option<u64>,
    pub(crate) tid: i32,
    /// Filters of its system calls.
    pub(crate) filters: Option<Arc<Filter>>,
    /// The process's first thread.
    pub(crate) first: bool,
    /// Set when the thread is to end, with its code.
    pub(crate) ended: Option<i32>,
    /// What a child in this memory could not free, as it has become another program.
    pub(crate) left: Option<Box<dyn Any + Send>>,
    /// Another program traces it.
    pub(crate) traced: Option<Box<Tracee>>,
    /// It begins as a traced one, with these options.
    pub(crate) follow: Option<u64>,
}

impl Thread {
    pub(crate) fn new(process: Arc<Process>, cpu: Box<dyn UserCpu>, mask: u64, first: bool) -> Self {
        let slot = Slot::new(cpu.exit_flag());
        Self {
            process,
            cpu,
            slot,
            mask,
            suspended: None,
            alt_stack: [0, SS_DISABLE, 0],
            clear_tid: 0,
            robust: [0; 2],
            trap: [0; 3],
            interrupted: None,
            deadline: None,
            tid: 0,
            filters: None,
            first,
            ended: None,
            left: None,
            traced: None,
            follow: None,
        }
    }

    /// Runs a child process in this one's memory, which begins as a copy of this thread does, and waits until it is done with
    /// that memory. The child's number.
    pub(crate) fn run_child(&mut self, begin: impl Fn(&mut Self) -> Result<(), Errno>) -> i64 {
        let state = self.cpu.snapshot();
        let process = self.process.clone();
        let (mask, alt_stack, robust, trap) = (self.mask, self.alt_stack, self.robust, self.trap);
        let (tid, first, clear_tid) = (self.tid, self.first, self.clear_tid);
        let filters = self.filters.clone();
        let traced = self.traced.take();
        host::set_mask(!OPEN);
        let pid = host::vfork(|| {
            self.process = process.for_child();
            (self.first, self.robust, self.clear_tid) = (true, [0; 2], 0);
            self.tid = host::gettid();
            if begin(self).is_err() {
                host::exit_group(127);
            }
            self.run();
        });
        self.process = process;
        self.cpu.restore(&*state);
        (self.mask, self.alt_stack, self.robust, self.trap) = (mask, alt_stack, robust, trap);
        (self.tid, self.first, self.clear_tid) = (tid, first, clear_tid);
        self.filters = filters;
        self.traced = traced;
        (self.suspended, self.interrupted, self.ended, self.deadline) = (None, None, None, None);
        self.left = None;
        self.slot.attach();
        // What the child had caught was its own.
        self.slot.clear();
        self.set_host_mask();
        pid
    }

    /// Runs the thread on the calling host thread until it ends; its exit code. Of a process's first
    /// thread it does not return.
    pub(crate) fn run(&mut self) -> i32 {
        self.tid = host::gettid();
        self.process.threads().insert(self.tid);
        self.slot.attach();
        host::set_guest_base(self.process.mm.host(0));
        self.set_host_mask();
        if let Some(d) = self.debugger() {
            d.enter(self);
        }
        self.begin_traced();
        if let Some(options) = self.follow.take() {
            self.begin_followed(options, false);
        }
        loop {
            match self.cpu.run() {
                UserExit::Syscall => self.system_call(),
                UserExit::Kicked | UserExit::CodeChanged => {}
                UserExit::Fault(f) => self.memory_fault(&f, false),
                UserExit::Fetch(pc) => {
                    if !(self.process.abi.kernel_code)(self, pc) {
                        let f = HostFault { address: pc, signal: libc::SIGSEGV, code: 1, write: false };
                        self.memory_fault(&f, true);
                    }
                }
                UserExit::Debug(event) => {
                    self.tell(Stop::Debug(event), &SigInfo([0; 128]));
                }
                UserExit::Trap(t) => {
                    let e = (self.process.abi.exception)(&mut *self.cpu, t);
                    self.raise(&e);
                }
            }
            if let Some(code) = self.ended {
                self.tell_of_end((code as u64 & 0xff) << 8);
                self.leave();
                if !self.first {
                    return code;
                }
                if self.process.threads().is_empty() {
                    self.exit_group(code);
                }
                host::exit_thread(code);
            }
            if self.interrupted.is_some() || self.slot.has_news(self.mask) {
                self.deliver();
            }
            if let Some(d) = self.debugger() {
                d.look(self);
            }
        }
    }

    fn debugger(&self) -> Option<Arc<Debugger>> {
        self.process.debugger.clone()
    }

    /// Tells a debugger of something and waits until it goes on: the signal that is to be delivered then, if it was one.
    fn tell(&mut self, stop: Stop, info: &SigInfo) -> Option<i32> {
        if self.traced.is_some() {
            return self.tell_tracer(stop, info);
        }
        match (self.debugger(), stop) {
            (Some(d), _) => d.stop(self, stop),
            (None, Stop::Signal(s)) => Some(s),
            (None, _) => None,
        }
    }

    /// Ends the process.
    pub(crate) fn exit_group(&mut self, code: i32) -> ! {
        self.tell_of_end((code as u64 & 0xff) << 8);
        if let Some(d) = self.debugger() {
            d.ended(self, Stop::Exited(code));
        }
        self.process.at_end();
        host::exit_group(code)
    }

    /// Ends the process as a signal does.
    pub(crate) fn die(&mut self, number: i32, info: &SigInfo) -> ! {
        dump::write(self, number, info);
        self.tell_of_end(number as u64);
        if let Some(d) = self.debugger() {
            d.ended(self, Stop::Killed(number));
        }
        self.process.end_plugins();
        signal::die(number)
    }

    /// What the kernel does when a thread has ended.
    fn leave(&mut self) {
        host::set_mask(!OPEN);
        Slot::detach();
        self.process.threads().remove(&self.tid);
        if let Some(d) = self.debugger() {
            d.leave(self);
        }
        sys::leave_robust_list(self);
        if self.clear_tid != 0 {
            let _ = self.process.mm.write_u32(self.clear_tid, 0);
            let at = self.process.mm.host(self.clear_tid);
            let _ = host::call(libc::SYS_futex, &[at, libc::FUTEX_WAKE as u64, 1]);
        }
    }

    /// The guest's mask as far as the host may have it.
    pub(crate) fn set_host_mask(&self) {
        host::set_mask(self.mask & !OPEN);
    }

    fn system_call(&mut self) {
        let abi = self.process.abi;
        let most = if abi.wide { u64::MAX } else { u32::MAX.into() };
        let number = self.cpu.reg(abi.number_reg) & most;
        let mut wanted = true;
        if self.traced.is_some() {
            let args = abi.arg_regs.map(|r| self.cpu.reg(r) & most);
            wanted = self.may_call(&CallStop { when: 1, number, args, ..CallStop::default() });
        }
        // One that is not made may have left its result there.
        let number = if wanted { self.cpu.reg(abi.number_reg) & most } else { number };
        let args = abi.arg_regs.map(|r| self.cpu.reg(r) & most);
        let debugger = self.debugger();
        if let Some(d) = &debugger {
            d.publish(self);
        }
        let tracing = self.process.options.strace;
        if tracing {
            strace::enter(self, number, &args);
        }
        let result = if wanted { sys::call(self, number, &args) } else { Err(KEEP) };
        if tracing {
            strace::leave(self, number, &args, result);
        }
        match result {
            Ok(v) => self.cpu.set_reg(abi.result_reg, v),
            Err(KEEP) => {}
            Err(NOT_MADE) => {
                self.interrupted = Some((args[0], Again::Always));
                self.suspended = None;
            }
            Err(RESTART) => self.interrupted = Some((args[0], Again::IfAsked)),
            Err(RESTART_ONCE) => self.interrupted = Some((args[0], Again::Unhandled)),
            Err(Errno(e)) => self.cpu.set_reg(abi.result_reg, i64::from(-e) as u64),
        }
        if self.traced.is_some() && self.ended.is_none() {
            let (result, failed) = match result {
                Ok(v) => (v, false),
                Err(KEEP) => (self.cpu.reg(abi.result_reg), false),
                Err(Errno(e)) => (i64::from(-e) as u64, true),
            };
            self.call_stop(&CallStop { when: 2, number, args, result, failed });
        }
        if debugger.is_some_and(|d| d.steps(self)) || self.is_stepped() {
            self.tell(Stop::Debug(DebugEvent::SingleStep), &SigInfo([0; 128]));
        }
    }

    /// A fault of a load, store or fetch: what is mapped there decides what it was.
    fn memory_fault(&mut self, f: &HostFault, fetch: bool) {
        let mapped = self.process.mm.lock().find(f.address).is_some();
        let e = (self.process.abi.fault)(f, mapped, fetch);
        self.raise(&e);
    }

    fn raise(&mut self, e: &Exception) {
        self.trap = e.trap;
        self.force(e.signal, &SigInfo::fault(e.signal, e.code, e.address));
    }

    /// Delivers an exception's signal, which cannot be blocked or ignored.
    pub(crate) fn force(&mut self, number: i32, info: &SigInfo) {
        let Some(number) = self.tell(Stop::Signal(number), info) else { return };
        let action = self.process.actions()[number as usize];
        if action.handler <= IGN || self.mask & bit(number) != 0 {
            self.say_fatal(number, info);
            self.die(number, info);
        }
        self.start_handler(number, info);
        self.set_host_mask();
    }

    fn say_fatal(&self, number: i32, info: &SigInfo) {
        if self.process.options.log_enabled() {
            let address = u64::from_le_bytes(info.0[16..24].try_into().unwrap_or_default());
            self.process.log(&format!(
                "signal {number} at {:#x}, address {address:#x}\n{}\n",
                self.cpu.pc(),
                self.cpu.dump()
            ));
        }
    }

    /// Delivers what has come, and sees to the call it interrupted.
    fn deliver(&mut self) {
        while let Some((number, info)) = self.slot.take(self.mask) {
            let heard = if info.code() == MESSAGE { self.heed(&info) } else { Some((number, info)) };
            let Some((number, info)) = heard else {
                if !self.slot.is_full() {
                    self.set_host_mask();
                }
                continue;
            };
            let Some(number) = self.tell(Stop::Signal(number), &info) else {
                self.set_host_mask();
                continue;
            };
            let action = self.process.actions()[number as usize];
            match action.handler {
                IGN => {}
                DFL => match signal::default_of(number) {
                    Default::Ignore => {}
                    Default::Stop if self.traced.is_some() => self.group_stop(number, true),
                    Default::Stop => {
                        let pid = std::process::id();
                        let _ = host::call(libc::SYS_kill, &[pid.into(), libc::SIGSTOP as u64]);
                    }
                    Default::End => self.die(number, &info),
                },
                _ => {
                    if let Some((first, again)) = self.interrupted.take() {
                        let asked = action.flags & flag::RESTART != 0;
                        if again == Again::Always || again == Again::IfAsked && asked {
                            self.make_call_again(first);
                        } else {
                            let r = self.process.abi.result_reg;
                            self.cpu.set_reg(r, i64::from(-libc::EINTR) as u64);
                        }
                    }
                    self.start_handler(number, &info);
                }
            }
            // Opens the mask: the next one may come at once.
            self.set_host_mask();
        }
        if let Some((first, _)) = self.interrupted.take() {
            self.make_call_again(first);
        }
        self.suspended = None;
    }

    fn make_call_again(&mut self, first: u64) {
        let abi = self.process.abi;
        self.cpu.set_reg(abi.arg_regs[0], first);
        let pc = self.cpu.pc();
        self.cpu.set_pc(pc.wrapping_sub(abi.call_len));
    }

    /// True if `sp` is on the alternate stack.
    pub(crate) fn on_alt_stack(&self, sp: u64) -> bool {
        let [start, flags, size] = self.alt_stack;
        flags & SS_DISABLE == 0 && sp > start && sp - start <= size
    }

    /// The alternate stack as `sigaltstack` and a frame show it.
    pub(crate) fn alt_stack_now(&self) -> [u64; 3] {
        let [start, flags, size] = self.alt_stack;
        let on = if self.on_alt_stack(self.cpu.reg(self.process.abi.sp)) { SS_ONSTACK } else { 0 };
        [start, flags | on, size]
    }

    /// Makes the CPU stand at the start of the handler.
    fn start_handler(&mut self, number: i32, info: &SigInfo) {
        self.deadline = None;
        let abi = self.process.abi;
        let action = self.process.actions()[number as usize];
        let mut top = self.cpu.reg(abi.sp).wrapping_sub(abi.red_zone);
        let [start, flags, size] = self.alt_stack;
        if action.flags & flag::ONSTACK != 0
            && flags & SS_DISABLE == 0
            && !self.on_alt_stack(self.cpu.reg(abi.sp))
        {
            top = start.wrapping_add(size);
        }
        let restorer = action.restorer.filter(|_| action.flags & flag::RESTORER != 0);
        let frame = Frame {
            signal: number,
            info,
            wants_info: action.flags & flag::SIGINFO != 0,
            top,
            mask: self.mask,
            stack: self.alt_stack_now(),
            handler: action.handler,
            return_to: restorer.unwrap_or(self.process.sigreturn),
            return_to_ours: restorer.is_none(),
            trap: self.trap,
        };
        for (at, bytes) in (abi.push_frame)(&mut *self.cpu, &frame) {
            if self.process.mm.write(at, &bytes).is_err() {
                self.die(libc::SIGSEGV, &SigInfo::fault(libc::SIGSEGV, 1, at));
            }
        }
        let mut mask = self.suspended.take().unwrap_or(self.mask) | action.mask;
        if action.flags & flag::NODEFER == 0 {
            mask |= bit(number);
        }
        self.mask = mask & !UNBLOCKABLE;
        if action.flags & flag::RESETHAND != 0 {
            let mut actions = self.process.actions();
            actions[number as usize].handler = DFL;
            signal::install(number, &actions[number as usize]);
        }
    }

    /// `rt_sigreturn`, and `sigreturn` of a handler without information.
    pub(crate) fn return_from_handler(&mut self, information: bool) {
        let abi = self.process.abi;
        let Some(Popped { mask, stack }) = (abi.pop_frame)(&mut *self.cpu, &self.process.mm, information)
        else {
            let at = self.cpu.reg(abi.sp);
            self.die(libc::SIGSEGV, &SigInfo::fault(libc::SIGSEGV, 1, at));
        };
        self.mask = mask & !UNBLOCKABLE;
        if let Some([start, flags, size]) = stack {
            self.alt_stack = [start, flags & !SS_ONSTACK, size];
        }
        self.set_host_mask();
    }
}
