//! What differs between guest architectures, as data: one file an architecture.

pub(crate) mod generic;
pub(crate) mod riscv;

use accel::arch::GuestArch;
use tcg_engine::{Trap, user::UserCpu};

use crate::signal::SigInfo;

/// How a program of an architecture sees Linux.
pub(crate) struct Abi {
    /// Name as in `--arch`, `qemu-NAME` and `uname -m`.
    pub(crate) name: &'static str,
    /// Architecture.
    pub(crate) arch: GuestArch,
    /// `e_machine`.
    pub(crate) machine: u16,
    /// Name and number of each system call, sorted by name.
    pub(crate) numbers: &'static [(&'static str, u16)],
    /// Register with the number of a system call, and later its result.
    pub(crate) number_reg: usize,
    /// Register of the result.
    pub(crate) result_reg: usize,
    /// Registers of the arguments.
    pub(crate) arg_regs: [usize; 6],
    /// Stack pointer.
    pub(crate) sp: usize,
    /// Thread pointer.
    pub(crate) tp: usize,
    /// Bytes of the system call instruction.
    pub(crate) call_len: u64,
    /// Code that makes the system call `rt_sigreturn`, where a handler returns to.
    pub(crate) sigreturn_code: &'static [u8],
    /// Signal, `si_code` and address of an exception.
    pub(crate) exception: fn(Trap, pc: u64) -> (i32, i32, u64),
    /// Lays out a signal's frame below `sp` and sets registers for the handler: the frame's bytes and address.
    pub(crate) push_frame: fn(&mut dyn UserCpu, &Frame<'_>) -> (u64, Vec<u8>),
    /// Bytes from the stack pointer at `rt_sigreturn` that `pop_frame` needs.
    pub(crate) frame_len: usize,
    /// Takes registers back from a frame.
    pub(crate) pop_frame: fn(&mut dyn UserCpu, &[u8]) -> Popped,
}

/// What a frame gives back besides registers: signal mask, alternate stack (address, flags, size).
pub(crate) struct Popped {
    pub(crate) mask: u64,
    pub(crate) stack: [u64; 3],
}

/// What a frame is made from.
pub(crate) struct Frame<'a> {
    pub(crate) signal: i32,
    pub(crate) info: &'a SigInfo,
    /// Where the frame goes below.
    pub(crate) top: u64,
    /// Signal mask to restore.
    pub(crate) mask: u64,
    /// Alternate stack: address, flags, size.
    pub(crate) stack: [u64; 3],
    pub(crate) handler: u64,
    /// Address of the code of [`Abi::sigreturn_code`].
    pub(crate) return_to: u64,
}

/// All of them.
pub(crate) const ALL: &[&Abi] = &[&riscv::RISCV64];

/// The ABI of an architecture.
pub(crate) fn of(arch: GuestArch) -> Option<&'static Abi> {
    ALL.iter().copied().find(|a| a.arch == arch)
}
