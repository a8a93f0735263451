//! The GDB server: GDB's remote protocol on a chardev, for any guest architecture.
//!
//! The `gdbstub` crate speaks the protocol; it wants the architecture as a type, so [`arch`] gives it one whose
//! registers are only known at run time, and a description ([`registers`]) tells GDB about them. Every vCPU is a
//! thread. Breakpoints, watchpoints and steps are the accelerator's ([`accel::DebugConfig`]); nothing is patched
//! into guest memory. While a client is connected and the guest stands, all vCPUs stand.

mod arch;
mod points;
mod registers;
mod server;
mod target;
#[cfg(test)]
mod tests;

pub use arch::{Bytes, GuestRegisters, Number};
pub use points::{Points, watchpoint};
pub use registers::Description;
pub use server::{GdbServer, serve};

use crate::vm::{Vm, VmError};
use accel::arch::{CpuState, GuestArch};
use accel::{DebugConfig, DebugEvent};

/// A vCPU met a debug request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugStop {
    /// Which vCPU.
    pub cpu: u32,
    /// What it met.
    pub event: DebugEvent,
    /// The run of the machine in which it did ([`DebugTarget::run_number`]).
    pub run: u64,
}

/// Called when a vCPU met a debug request, after all vCPUs of that run have come to stand.
pub type StopListener = Box<dyn Fn(DebugStop) + Send + Sync>;

/// What a debugger needs of a machine beyond [`Vm`].
pub trait DebugTarget: Send + Sync {
    /// The machine.
    fn vm(&self) -> &dyn Vm;
    /// Guest architecture.
    fn arch(&self) -> GuestArch;
    /// State of a vCPU; it stands.
    fn cpu_state(&self, cpu: u32) -> Result<CpuState, VmError>;
    /// Replaces it.
    fn set_cpu_state(&self, cpu: u32, state: CpuState) -> Result<(), VmError>;
    /// Sets what the debugger wants of a vCPU.
    fn set_debug(&self, cpu: u32, debug: DebugConfig) -> Result<(), VmError>;
    /// These vCPUs stand even while the guest runs, and no others; called while it stands.
    fn hold(&self, cpus: &[u32]);
    /// The number of the run the guest is in, or was in last; each time it is let run begins another.
    fn run_number(&self) -> u64;
    /// Sets who is told of debug stops; `None` for nobody. The machine stops all vCPUs first, then tells.
    fn set_stop_listener(&self, listener: Option<StopListener>);
}
