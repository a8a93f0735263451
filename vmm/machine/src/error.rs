//! What can go wrong with a machine that is the user's or the host's doing.

use std::{io, path::PathBuf};

/// A machine that could not be made, saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The board is not possible as configured.
    #[error("{0}")]
    Board(String),
    /// A file could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// RAM could not be had.
    #[error(transparent)]
    Ram(#[from] guest_memory::RamError),
    /// The memory map could not be made.
    #[error(transparent)]
    Memory(#[from] guest_memory::MemoryError),
    /// A device could not be made.
    #[error(transparent)]
    Device(#[from] device::BuildError),
    /// The accelerator refused.
    #[error(transparent)]
    Accel(#[from] accel::AccelError),
    /// A vCPU refused.
    #[error("vcpu {index}: {source}")]
    Vcpu {
        /// Which.
        index: u32,
        /// Why.
        source: accel::VcpuError,
    },
    /// A snapshot cannot be loaded.
    #[error("snapshot: {field}: {problem}")]
    Snapshot {
        /// Path of the field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}
