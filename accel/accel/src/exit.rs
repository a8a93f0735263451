//! Why a vCPU stopped running: changes of run state only, never I/O.

use crate::{DebugEvent, arch::GuestArch};

/// Result of one [`Vcpu::run`](crate::Vcpu::run).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Exit {
    /// The kicker was pulled. The guest can be run on at once.
    Kicked,
    /// The vCPU is halted and no interrupt can wake it (x86 `hlt` with IF clear, a powered-off core).
    /// A vCPU that waits for an interrupt does not exit: it sleeps inside `run`.
    Halted,
    /// The guest asked for a reset in a way only the CPU sees (x86 triple fault, PSCI SYSTEM_RESET).
    Reset,
    /// The guest asked to power off in a way only the CPU sees (PSCI SYSTEM_OFF, KVM shutdown event).
    Shutdown,
    /// A breakpoint, watchpoint or single step asked for by [`DebugConfig`](crate::DebugConfig) was hit.
    Debug(DebugEvent),
    /// The backend cannot go on with this vCPU; the state says where it stands.
    Fatal(Box<InternalError>),
}

/// What is known when a backend gives up on a vCPU.
#[derive(Debug, Clone, PartialEq)]
pub struct InternalError {
    /// Guest architecture of the vCPU.
    pub guest: GuestArch,
    /// One line: what the backend says went wrong.
    pub reason: String,
    /// Guest virtual address of the instruction.
    pub pc: u64,
    /// Instruction bytes at `pc`, as many as could be read (at most 15).
    pub bytes: Vec<u8>,
    /// Registers in readable form, several lines.
    pub registers: String,
    /// True when another accelerator may run on from the present state (an emulation failure);
    /// false when the state itself is not to be trusted.
    pub recoverable: bool,
    /// What the user can do about it, one line.
    pub advice: String,
}
