//! Running programs without a kernel of their own: what user-mode emulation asks of the engine and gives it.
//!
//! Guest memory is host memory here ([`DirectMemory`]): an access is the host's own instruction, and one that the host
//! refuses comes back as [`UserExit::Fault`] with the guest's state exact at the instruction. Units are keyed by guest
//! virtual address. Who maps, unmaps or reprotects guest memory says so with [`UserMachine::invalidate`]; changed code is
//! found by the guest's own rule: at a fence ([`UserExit::CodeChanged`]), or, where there is none
//! ([`Guest::CODE_COHERENT`]), by taking the right to store to pages with code ([`DirectMemory::watch`]).
//!
//! One [`UserMachine`] is a process, one [`UserCpu`] a thread; threads come and go.

use std::{any::Any, ops::Range, sync::Arc, sync::atomic::AtomicU32};

use accel::{
    AccelError, CpuModel, DebugEvent, LogSink, VcpuError, Watchpoint,
    arch::{CpuState, GuestArch},
};

use tcg_plugin::Plugins;

use crate::{Cx, Guest, Trap, hot::HotMode, kept::Kept};

/// What may be done with the code of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodePage {
    /// Not executable, or nothing there.
    None,
    /// Executable; its bytes only change with the mapping.
    Fixed,
    /// Executable; its bytes may be changed by stores.
    Volatile,
}

/// Guest memory as a part of the host's address space.
pub trait DirectMemory: Send + Sync {
    /// Host address of guest address 0.
    fn base(&self) -> u64;
    /// What the page at `gva` allows.
    fn code_page(&self, gva: u64) -> CodePage;
    /// Has the host refuse stores to the page at `gva` from now on. False if it cannot, if stores elsewhere change it, or if so
    /// many come that units had better look at their code themselves.
    fn watch(&self, _gva: u64) -> bool {
        false
    }
    /// Ends that, and drops the translations of the page. False if the page was not watched.
    fn unwatch(&self, _gva: u64) -> bool {
        false
    }
}

/// What a [`Guest::run_exit`] code means to a program's environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEvent {
    /// A system call; the program counter is behind the instruction.
    Syscall,
    /// The program has changed code somewhere.
    CodeChanged,
    /// An exception; the program counter is where the architecture reports it.
    Trap(Trap),
}

/// A host signal that an access to guest memory raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFault {
    /// Guest address.
    pub address: u64,
    /// SIGSEGV or SIGBUS.
    pub signal: i32,
    /// The host's `si_code`.
    pub code: i32,
    /// The access was a store.
    pub write: bool,
}

/// Why a thread stopped running translated code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserExit {
    /// It was asked to ([`UserCpu::exit_flag`]).
    Kicked,
    /// A system call.
    Syscall,
    /// Code has changed somewhere; only units made from [`CodePage::Volatile`] pages are affected, and they have been
    /// looked at already.
    CodeChanged,
    /// An exception of the guest's. State stands at the instruction.
    Trap(Trap),
    /// The host refused an access. State stands at the instruction.
    Fault(HostFault),
    /// Nothing can be fetched at the program counter.
    Fetch(u64),
    /// What a debugger looks for. At a breakpoint the instruction has not been executed; running on executes it.
    Debug(DebugEvent),
}

/// A guest architecture that can run programs.
pub trait UserGuest: Guest {
    /// The guest for programs.
    ///
    /// # Errors
    /// Unknown CPU models and features by name.
    fn for_user(arch: GuestArch, cpu: &CpuModel) -> Result<Self, AccelError>;
    /// Brings a state after reset to where a kernel starts a program.
    fn enter_user(&self, state: &mut Self::State);
    /// Other threads share memory from now on.
    fn set_parallel(&self, state: &mut Self::State);
    /// What an exit code means.
    fn user_event(&self, state: &mut Self::State, code: u32) -> Option<UserEvent>;
    /// General register `n`, or another one by a number the architecture has for it.
    fn reg(&self, state: &Self::State, n: usize) -> u64;
    /// Sets general register `n`.
    fn set_reg(&self, state: &mut Self::State, n: usize, value: u64);
    /// The low 64 bits of floating-point register `n`.
    fn fp_reg(&self, state: &Self::State, n: usize) -> u64;
    /// Sets floating-point register `n`.
    fn set_fp_reg(&self, state: &mut Self::State, n: usize, value: u64);
    /// Floating-point control and status.
    fn fp_status(&self, cx: &mut Cx<'_, Self>) -> u64;
    /// Sets floating-point control and status.
    fn set_fp_status(&self, cx: &mut Cx<'_, Self>, value: u64);
    /// Vector control registers and bytes, if the CPU has vectors.
    fn vectors(&self, state: &Self::State) -> Option<(Vec<u64>, Vec<u8>)>;
    /// Sets what [`UserGuest::vectors`] gave.
    fn set_vectors(&self, state: &mut Self::State, control: &[u64], bytes: &[u8]);
    /// `AT_HWCAP`.
    fn hwcap(&self) -> u64;
    /// Names of extensions, in the form the architecture has for it.
    fn isa(&self) -> String;
}

/// Options of a [`UserMachine`].
#[derive(Debug, Clone, Default)]
pub struct UserOptions {
    /// Run the interpreter.
    pub interp: bool,
    /// Bytes of code memory; 0 for the default.
    pub code_size: usize,
    /// Write `/tmp/perf-PID.map`.
    pub perfmap: bool,
    /// Write `jit-PID.dump`.
    pub jitdump: bool,
    /// Whether hot code is translated once more, in the background.
    pub hot: HotMode,
    /// Units of earlier processes.
    pub kept: Option<Arc<Kept>>,
    /// What watches the program.
    pub plugins: Option<Arc<Plugins>>,
}

/// What runs the threads of one process.
pub trait UserMachine: Send + Sync {
    /// A CPU at the state a kernel starts a program in. The calling thread need not be the one that runs it.
    fn new_cpu(&self) -> Box<dyn UserCpu>;
    /// Drops translations of code in a range of guest addresses.
    fn invalidate(&self, range: Range<u64>);
    /// Runs `fork` (which returns 0 in the child) while no thread is inside the translator. The child has one thread, the
    /// caller's, and code memory of its own.
    fn fork(&self, fork: &mut dyn FnMut() -> i64) -> i64;
    /// Ends threads of the machine's own, for a system call that the host's kernel refuses a process with several.
    fn end_own_threads(&self);
    /// The same, and from now on there are none: who traces the process is told of each thread. A forked child may have some.
    fn have_no_threads(&self);
    /// `AT_HWCAP`.
    fn hwcap(&self) -> u64;
    /// Names of extensions.
    fn isa(&self) -> String;
    /// Counters in readable form.
    fn stats(&self) -> String;
    /// Tells plugins that the process ends. The caller is in no [`UserCpu::run`].
    fn at_end(&self);
    /// Takes these for all breakpoints. No thread of the process may be in [`UserCpu::run`].
    fn set_breakpoints(&self, pcs: &[u64]);
}

/// One thread's CPU. It runs on one host thread at a time.
pub trait UserCpu: Send {
    /// Runs until something happens.
    fn run(&mut self) -> UserExit;
    /// Set to 1 to make `run` return [`UserExit::Kicked`] soon; the CPU sets it to 0 when it does. Safe in a signal handler
    /// for as long as the CPU lives.
    fn exit_flag(&self) -> *const AtomicU32;
    /// Program counter.
    fn pc(&self) -> u64;
    /// Sets the program counter.
    fn set_pc(&mut self, pc: u64);
    /// General register.
    fn reg(&self, n: usize) -> u64;
    /// Sets a general register.
    fn set_reg(&mut self, n: usize, value: u64);
    /// Floating-point register.
    fn fp_reg(&self, n: usize) -> u64;
    /// Sets a floating-point register.
    fn set_fp_reg(&mut self, n: usize, value: u64);
    /// Floating-point control and status.
    fn fp_status(&mut self) -> u64;
    /// Sets floating-point control and status.
    fn set_fp_status(&mut self, value: u64);
    /// Vector control registers and bytes.
    fn vectors(&self) -> Option<(Vec<u64>, Vec<u8>)>;
    /// Sets vector state.
    fn set_vectors(&mut self, control: &[u64], bytes: &[u8]);
    /// Other threads share memory from now on.
    fn set_parallel(&mut self);
    /// The whole state, for another thread's [`UserCpu::restore`].
    fn snapshot(&mut self) -> Box<dyn Any + Send>;
    /// Takes a state over.
    fn restore(&mut self, state: &dyn Any);
    /// Registers in readable form.
    fn dump(&self) -> String;
    /// The neutral state.
    fn state(&mut self) -> CpuState;
    /// Takes a neutral state over.
    ///
    /// # Errors
    /// It is none of this CPU's; nothing has changed then.
    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError>;
    /// What a debugger wants of this thread: [`UserExit::Debug`] behind each instruction, and accesses to watch for.
    fn set_debug(&mut self, step: bool, watch: &[Watchpoint]);
    /// Makes [`UserCpu::run`] return [`UserExit::Kicked`] soon, from any thread.
    fn kicker(&self) -> Box<dyn Fn() + Send + Sync>;
}

/// Makes a machine for `arch`, or says why not.
pub type MakeUser = fn(
    GuestArch,
    &CpuModel,
    Arc<dyn DirectMemory>,
    &UserOptions,
    LogSink,
) -> Result<Arc<dyn UserMachine>, AccelError>;
