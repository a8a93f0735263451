//! Linux user-mode emulation: a Linux program of another architecture runs as a process of the host.
//!
//! - `options`: the command line and the `QEMU_*` environment; `start`: from there to a running program;
//! - `vdso`: the object the kernel gives every program;
//! - `elf`, `load`: executables, scripts, the stack a program starts with;
//! - `mm`: the guest's part of the address space;
//! - `process`, `thread`: what system calls work on, and the loop of each thread;
//! - `signal`: host signals become guest signals; `abi`: what differs between guest architectures;
//! - `sys`: system calls, in tables, those of 32-bit programs made those of 64-bit ones first; `strace`: the same tables in readable form;
//! - `host`, `host_numbers`: the host's system calls; `proc_files`: what of `/proc` is the guest's own;
//! - `cache`: translations that outlive a run; `gdb`: the debugger of a program; `dump`: core dumps;
//! - `trace`: programs that trace others; `binfmt`: registration with the host's kernel.
//!
//! A guest's pointer is a host pointer plus a constant, and a guest can reach all that its process can: this is no boundary of
//! protection. Whatever a guest passes to a system call, Rhea itself neither crashes nor hangs.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod abi;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod binfmt;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod cache;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod dump;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod elf;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod gdb;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod host_numbers;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod load;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod mm;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod options;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod proc_files;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod process;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod signal;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod start;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod strace;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod sys;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod thread;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod trace;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod vdso;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "start_none.rs"]
mod start;

use tcg_engine::user::MakeUser;

pub use start::{binfmt, run, started_by_kernel};

/// A guest architecture that programs can be run for, as the binary names it.
#[derive(Clone, Copy)]
pub struct Guest {
    /// Architecture.
    pub arch: accel::arch::GuestArch,
    /// Makes what runs its code.
    pub make: MakeUser,
    /// Its CPU models with a line about each.
    pub models: fn(accel::arch::GuestArch) -> Vec<(String, String)>,
}
