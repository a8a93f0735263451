//! The GDB server: GDB's remote protocol on a chardev, for any guest architecture.
//!
//! The `gdbstub` crate speaks the protocol; it wants the architecture as a type, so [`arch`] gives it one whose
//! registers are only known at run time, and a description ([`registers`]) tells GDB about them. Every vCPU is a
//! thread. Breakpoints, watchpoints and steps are the accelerator's ([`accel::DebugConfig`]); nothing is patched
//! into guest memory. While a client is connected and the guest stands, all vCPUs stand.

mod arch;
mod registers;
mod server;
mod target;
#[cfg(test)]
mod tests;

pub use arch::{Bytes, GuestRegisters, Number};
pub use registers::Description;
pub use server::{GdbServer, serve};

use crate::vm::{Vm, VmError};
use accel::arch::{CpuState, GuestArch};
use accel::{DebugConfig, DebugEvent};

/// Called when a vCPU met a debug request and all vCPUs stand.
pub type StopListener = Box<dyn Fn(u32, DebugEvent) + Send + Sync>;

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
    /// Sets who is told of debug stops; `None` for nobody. The machine stops all vCPUs first, then tells.
    fn set_stop_listener(&self, listener: Option<StopListener>);
}
