//! Debugging a vCPU: breakpoints, watchpoints and single steps.

/// Kind of access a watchpoint looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// Guest reads.
    Read,
    /// Guest writes.
    Write,
    /// Either.
    Access,
}

/// A range of guest virtual addresses to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchpoint {
    /// First address.
    pub gva: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// Accesses of interest.
    pub kind: WatchKind,
}

/// What a debugger wants from one vCPU. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DebugConfig {
    /// Execution breakpoints (guest virtual addresses).
    pub breakpoints: Vec<u64>,
    /// Data watchpoints.
    pub watchpoints: Vec<Watchpoint>,
    /// Exit after each instruction.
    pub single_step: bool,
}

/// What a debug exit reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugEvent {
    /// About to execute the instruction at a breakpoint. Whether running on with the breakpoint still set reports
    /// it again is the backend's own: a debugger takes it away, steps, and puts it back.
    Breakpoint {
        /// Address of the instruction, which has not been executed.
        pc: u64,
    },
    /// A watched access took place.
    Watchpoint {
        /// Address of the access.
        gva: u64,
        /// True for a write.
        write: bool,
    },
    /// One instruction was executed.
    SingleStep,
}
