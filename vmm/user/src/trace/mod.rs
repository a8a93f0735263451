//! `ptrace` within the guest: one program traces another, both under Rhea.
//!
//! What the host's kernel does well it does: attachment, stops, waking, waiting, and letting go when a tracer dies are its own
//! `ptrace`. What a stop *means* is the guest's: a traced thread ([`tracee`]) stops itself at a point where its state is exact, by a
//! signal to itself that carries the address of a block of words with everything a tracer may ask for. The tracer ([`tracer`])
//! reads the block, answers the program's requests from it, writes it back and lets the thread go on, which then does what the
//! block says. Stops of the host's that mean nothing to the guest (faults that Rhea handles, signals before they are
//! delivered to the program) are passed over while waiting ([`wait`]).
//!
//! Whoever is traced from its start says where its block is by itself. One that is attached to ([`attach`]) is told so by a message:
//! SIGSEGV, which is never blocked, with a code of our own. Messages also interrupt, and carry group stops to other threads.
//!
//! Not there: the extended state of x86 (`NT_X86_XSTATE`). A process in a
//! group stop waits in Rhea, so its parent, if that is not the tracer, is not told.
//!
//! Sources: ptrace(2); `include/uapi/linux/ptrace.h`.

mod attach;
mod debug;
mod group;
mod tracee;
mod tracer;
mod wait;

pub(crate) use attach::MESSAGE;
pub(crate) use tracee::{CallStop, Tracee};
pub(crate) use tracer::{Tracees, ptrace};
pub(crate) use wait::{wait4, waitid};

/// Words of a block.
const WORDS: usize = 256;
/// In word 0 of each block, which a tracer of another build would not find.
const MAGIC: u64 = u64::from_le_bytes(*b"rheatrc1");
/// `si_code` of the signal by which a thread stops itself.
pub(crate) const STOPPING: i32 = -771;

/// What the words of a block are.
mod word {
    /// What `wait` tells, without its lowest byte; 0: the thread says that it is there.
    pub(super) const STATUS: usize = 1;
    /// 1 before a system call, 2 behind it.
    pub(super) const CALL: usize = 2;
    pub(super) const MESSAGE: usize = 3;
    /// Number and arguments of the system call.
    pub(super) const NUMBER: usize = 4;
    pub(super) const RESULT: usize = 11;
    pub(super) const FAILED: usize = 12;
    pub(super) const PC: usize = 13;
    pub(super) const SP: usize = 14;
    /// What the tracer has changed: bits below.
    pub(super) const CHANGED: usize = 15;
    /// How to go on.
    pub(super) const COMMAND: usize = 16;
    /// The signal to deliver.
    pub(super) const SIGNAL: usize = 17;
    pub(super) const OPTIONS: usize = 18;
    /// Host address of guest address 0.
    pub(super) const BASE: usize = 19;
    /// Registers, and bytes of floating-point state.
    pub(super) const REGISTERS: usize = 20;
    pub(super) const FLOATS: usize = 21;
    /// Written while the thread runs: see [`super::wish`].
    pub(super) const REQUEST: usize = 22;
    /// Memory that was written: from, to.
    pub(super) const WRITTEN: usize = 23;
    /// Address and bytes of the auxiliary vector.
    pub(super) const AUXV: usize = 25;
    /// The same of the path of the program.
    pub(super) const EXE: usize = 27;
    /// Signal mask.
    pub(super) const MASK: usize = 29;
    /// Its process.
    pub(super) const PROCESS: usize = 30;
    /// The stop is no signal's: it has no information.
    pub(super) const NO_INFO: usize = 31;
    pub(super) const INFO: usize = 32;
    /// Segments of a 32-bit x86 program for its threads.
    pub(super) const SEGMENTS: usize = 48;
    /// Debug registers of x86.
    pub(super) const DEBUG: usize = 52;
    pub(super) const FIRST_REGISTER: usize = 64;
    pub(super) const FIRST_FLOAT: usize = 128;
}

mod changed {
    pub(super) const REGISTERS: u64 = 1;
    pub(super) const FLOATS: u64 = 2;
    pub(super) const MEMORY: u64 = 4;
    pub(super) const MASK: u64 = 8;
}

/// What a tracer wants of a thread that runs: a signal's number, whose information is in the block, or one of these.
mod wish {
    /// Stop.
    pub(super) const INTERRUPT: u64 = 0x100;
    /// It was in a group stop with this signal when it was attached to.
    pub(super) const GROUP: u64 = 0x200;
}

/// How a thread goes on.
mod command {
    pub(super) const CONT: u64 = 0;
    pub(super) const CALLS: u64 = 1;
    pub(super) const STEP: u64 = 2;
    pub(super) const DETACH: u64 = 3;
    /// Stays in a group stop until it ends.
    pub(super) const LISTEN: u64 = 4;
}

/// Numbers of events.
mod event {
    pub(super) const FORK: u64 = 1;
    pub(super) const VFORK: u64 = 2;
    pub(super) const CLONE: u64 = 3;
    pub(super) const EXEC: u64 = 4;
    pub(super) const VFORK_DONE: u64 = 5;
    pub(super) const EXIT: u64 = 6;
    pub(super) const SECCOMP: u64 = 7;
    pub(super) const STOP: u64 = 128;
}

/// Requests.
mod request {
    pub(super) const TRACEME: u64 = 0;
    pub(super) const PEEKTEXT: u64 = 1;
    pub(super) const PEEKDATA: u64 = 2;
    pub(super) const PEEKUSER: u64 = 3;
    pub(super) const POKETEXT: u64 = 4;
    pub(super) const POKEDATA: u64 = 5;
    pub(super) const POKEUSER: u64 = 6;
    pub(super) const CONT: u64 = 7;
    pub(super) const KILL: u64 = 8;
    pub(super) const SINGLESTEP: u64 = 9;
    pub(super) const GETREGS: u64 = 12;
    pub(super) const SETREGS: u64 = 13;
    pub(super) const GETFPREGS: u64 = 14;
    pub(super) const SETFPREGS: u64 = 15;
    pub(super) const ATTACH: u64 = 16;
    pub(super) const DETACH: u64 = 17;
    pub(super) const SYSCALL: u64 = 24;
    pub(super) const GET_THREAD_AREA: u64 = 25;
    pub(super) const SETOPTIONS: u64 = 0x4200;
    pub(super) const GETEVENTMSG: u64 = 0x4201;
    pub(super) const GETSIGINFO: u64 = 0x4202;
    pub(super) const SETSIGINFO: u64 = 0x4203;
    pub(super) const GETREGSET: u64 = 0x4204;
    pub(super) const SETREGSET: u64 = 0x4205;
    pub(super) const SEIZE: u64 = 0x4206;
    pub(super) const INTERRUPT: u64 = 0x4207;
    pub(super) const LISTEN: u64 = 0x4208;
    pub(super) const GETSIGMASK: u64 = 0x420a;
    pub(super) const SETSIGMASK: u64 = 0x420b;
    pub(super) const GET_SYSCALL_INFO: u64 = 0x420e;
}

/// Options.
mod option {
    pub(super) const SYSGOOD: u64 = 1;
    pub(super) const FORK: u64 = 2;
    pub(super) const VFORK: u64 = 4;
    pub(super) const CLONE: u64 = 8;
    pub(super) const EXEC: u64 = 16;
    pub(super) const VFORK_DONE: u64 = 32;
    pub(super) const EXIT: u64 = 64;
    pub(super) const SECCOMP: u64 = 128;
    pub(super) const ALL: u64 = 0x3000ff;
    /// Ours: it was seized.
    pub(super) const SEIZED: u64 = 1 << 63;
    /// Those that the host's kernel does its part of.
    pub(super) const HOSTS: u64 = FORK | VFORK | CLONE | 1 << 20;
}
