//! The virtual CPU: bound to its thread, run, kicked, inspected.

use std::sync::Arc;

use crate::{DebugConfig, Exit, arch::CpuState};

/// Outcome of one device access made on behalf of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum IoResult {
    /// Done; for a read the data is filled in.
    Ok,
    /// Nothing is mapped there. For a read the data holds the bus default. Architectures with bus errors
    /// (RISC-V access fault, ARM external abort) raise one; x86 goes on.
    DecodeError,
    /// The device refused the access. For a read the data holds the bus default.
    DeviceError,
}

/// What a running vCPU asks of the machine. Called from the vCPU's thread, inside [`Vcpu::run`].
pub trait VcpuIo: Send + Sync {
    /// Reads `data.len()` bytes (1 to 64) at guest physical address `gpa`, guest byte order.
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult;
    /// Writes `data` (1 to 64 bytes) at guest physical address `gpa`.
    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult;
    /// Port input of 1, 2 or 4 bytes (x86).
    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoResult;
    /// Port output of 1, 2 or 4 bytes (x86).
    fn pio_write(&self, port: u16, data: &[u8]) -> IoResult;
    /// Acknowledges the interrupt pending at a user-space controller for `vcpu` (x86 INTA cycle);
    /// `None` when it has gone away (spurious).
    fn ack_irq(&self, vcpu: u32) -> Option<u8>;
    /// An in-kernel local APIC broadcast the end of a level-triggered interrupt.
    fn eoi(&self, vector: u8);
    /// The local APICs, if the machine has them in Rhea (x86). An access to an APIC's page is an ordinary
    /// [`VcpuIo::mmio_read`] or [`VcpuIo::mmio_write`]: each vCPU is given a `VcpuIo` of its own, which knows whose
    /// page is meant.
    fn local_apics(&self) -> Option<&dyn LocalApics> {
        None
    }
}

/// What a vCPU reaches of its local APIC outside of memory, when that APIC lives in Rhea (x86). Called from the
/// vCPU's thread, inside [`Vcpu::run`].
pub trait LocalApics: Send + Sync {
    /// Reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register; `None` raises #GP.
    fn read_msr(&self, vcpu: u32, msr: u32) -> Option<u64>;
    /// Writes one of them; false raises #GP.
    #[must_use]
    fn write_msr(&self, vcpu: u32, msr: u32, value: u64) -> bool;
    /// The task priority as CR8 shows it.
    fn cr8(&self, vcpu: u32) -> u8;
    /// Sets the task priority.
    fn set_cr8(&self, vcpu: u32, value: u8);
}

/// Makes a vCPU leave [`Vcpu::run`] soon. Any thread may pull it, at any time, also before the first run:
/// a kick is never lost, and the next `run` returns [`Exit::Kicked`] at once when one is outstanding.
pub trait Kicker: Send + Sync {
    /// Pulls.
    fn kick(&self);
}

/// A vCPU that is not yet bound to a thread.
pub trait VcpuBinder: Send {
    /// Index of the vCPU, from 0.
    fn index(&self) -> u32;
    /// The handle by which other threads interrupt it.
    fn kicker(&self) -> Arc<dyn Kicker>;
    /// Binds the vCPU to the calling thread, which alone may use it from now on.
    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, VcpuError>;
}

/// A vCPU bound to the calling thread.
pub trait Vcpu {
    /// Runs the guest until its run state changes. Sleeps inside while the guest waits for an interrupt.
    fn run(&mut self, io: &dyn VcpuIo) -> Result<Exit, VcpuError>;
    /// The whole architectural state.
    fn state(&mut self) -> Result<CpuState, VcpuError>;
    /// Replaces the whole architectural state. On error nothing has changed.
    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError>;
    /// Takes over what instructions that another accelerator executed have changed: registers, and of the model-specific ones
    /// those that differ. `before` was this vCPU's state when it stopped; what goes on by itself since then (local interrupt
    /// controller, time stamp counter, signals that wait) is left alone.
    fn set_registers(&mut self, before: &CpuState, after: &CpuState) -> Result<(), VcpuError> {
        let _ = before;
        self.set_state(after)
    }
    /// Forgets what was derived from guest memory, which somebody may have written without this accelerator being told.
    fn forget_memory(&mut self) {}
    /// Replaces the debug requests.
    fn set_debug(&mut self, debug: &DebugConfig) -> Result<(), VcpuError>;
    /// Translates a guest virtual address as a debugger's read would, without side effects.
    fn translate(&mut self, gva: u64) -> Option<u64>;
    /// Guest instructions retired so far, where the backend counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }
}

/// A vCPU operation that failed for a reason that lies with the host or the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// The state is for another guest architecture.
    #[error("vcpu state is for {given}, this vcpu is {expected}")]
    WrongArch {
        /// Architecture of the vCPU.
        expected: &'static str,
        /// Architecture of the state.
        given: &'static str,
    },
    /// A field of the state cannot be held by this backend.
    #[error("vcpu state field '{field}': {problem}")]
    BadState {
        /// Dotted path of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The backend lacks the ability.
    #[error("{0} is not supported by this accelerator")]
    Unsupported(&'static str),
    /// The host refused an operation.
    #[error("{operation}: {source}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
}
