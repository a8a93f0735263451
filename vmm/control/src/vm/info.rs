//! What a machine tells about itself.

use serde::{Deserialize, Serialize};

/// What does not change while the machine exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmInfo {
    /// Guest architecture.
    pub arch: String,
    /// Board.
    pub machine: String,
    /// Name given to the guest.
    pub name: Option<String>,
    /// UUID; all zero when none was given.
    pub uuid: uuid::Uuid,
    /// Accelerator in use.
    pub accelerator: String,
    /// Whether the host offers KVM.
    pub kvm_present: bool,
    /// Bytes of RAM at start.
    pub base_memory: u64,
    /// Bytes of RAM plugged since.
    pub plugged_memory: u64,
    /// Whether the guest is big-endian, for memory dumps.
    pub big_endian: bool,
    /// Width of an address in bytes.
    pub address_bytes: u8,
}

/// Run states, by their names in QMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Never started (`-S`).
    Prelaunch,
    /// The vCPUs run.
    Running,
    /// Stopped by a monitor.
    Paused,
    /// Stopped by the debugger.
    Debug,
    /// Waits for incoming state.
    Inmigrate,
    /// State has been sent away.
    Postmigrate,
    /// State is being sent.
    FinishMigrate,
    /// A snapshot is being saved.
    SaveVm,
    /// A snapshot is being loaded.
    RestoreVm,
    /// The guest powered off and `-no-shutdown` holds it.
    Shutdown,
    /// The guest sleeps.
    Suspended,
    /// Stopped by the watchdog.
    Watchdog,
    /// Stopped since the guest panicked.
    GuestPanicked,
    /// Stopped by an I/O error.
    IoError,
    /// A vCPU cannot go on.
    InternalError,
}

impl RunState {
    /// QMP's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Debug => "debug",
            Self::Inmigrate => "inmigrate",
            Self::Postmigrate => "postmigrate",
            Self::FinishMigrate => "finish-migrate",
            Self::SaveVm => "save-vm",
            Self::RestoreVm => "restore-vm",
            Self::Shutdown => "shutdown",
            Self::Suspended => "suspended",
            Self::Watchdog => "watchdog",
            Self::GuestPanicked => "guest-panicked",
            Self::IoError => "io-error",
            Self::InternalError => "internal-error",
        }
    }

    /// Whether vCPUs execute.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Suspended)
    }
}

/// One vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuInfo {
    /// Index from 0.
    pub index: u32,
    /// Path in the composition tree.
    pub qom_path: String,
    /// Type in the composition tree.
    pub qom_type: String,
    /// Id of its host thread.
    pub thread_id: u64,
    /// Waits for an interrupt.
    pub halted: bool,
    /// Program counter, when it can be known.
    pub pc: Option<u64>,
    /// Place in the topology.
    pub socket: u32,
    /// Place in the topology.
    pub core: u32,
    /// Place in the topology.
    pub thread: u32,
}

/// One board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineInfo {
    /// Name.
    pub name: String,
    /// Another name.
    pub alias: Option<String>,
    /// One line for humans.
    pub description: String,
    /// Whether it is the architecture's default.
    pub is_default: bool,
    /// Most vCPUs.
    pub cpu_max: u32,
    /// Default CPU model.
    pub default_cpu: Option<String>,
}

/// One CPU model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModelInfo {
    /// Name.
    pub name: String,
    /// Type in the composition tree.
    pub type_name: String,
    /// Whether it is the same on every host.
    pub migration_safe: bool,
}

/// A property or child of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QomProperty {
    /// Name.
    pub name: String,
    /// Type: `string`, `bool`, `child<TYPE>`, `link<TYPE>` ...
    pub kind: String,
    /// One line for humans.
    pub description: Option<String>,
}

/// A type of object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QomType {
    /// Name.
    pub name: String,
    /// Parent type.
    pub parent: Option<String>,
    /// Whether no object can have it directly.
    pub is_abstract: bool,
}

/// One saved machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Number.
    pub id: String,
    /// Name.
    pub tag: String,
    /// Bytes of machine state.
    pub size: u64,
    /// When, in seconds since 1970 UTC.
    pub date: i64,
    /// Virtual time of the machine in nanoseconds.
    pub clock: u64,
}

/// One block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockInfo {
    /// Name of the drive.
    pub device: String,
    /// Path of its front end.
    pub qdev: Option<String>,
    /// Whether the medium can be changed.
    pub removable: bool,
    /// Whether the guest holds the tray.
    pub locked: bool,
    /// The medium; `None` is an empty drive.
    pub inserted: Option<MediumInfo>,
}

/// The medium of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediumInfo {
    /// File or URI.
    pub file: String,
    /// Node name in the block graph.
    pub node_name: Option<String>,
    /// Format driver.
    pub format: String,
    /// Refuses writes.
    pub readonly: bool,
    /// Bytes the guest sees.
    pub virtual_size: u64,
}

/// One character back end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChardevInfo {
    /// Id.
    pub label: String,
    /// What it is connected to, for humans.
    pub filename: String,
    /// Whether a front end is there and open.
    pub frontend_open: bool,
}

/// Whose addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySpace {
    /// Guest physical addresses.
    Physical,
    /// Guest virtual addresses of this vCPU, in its present mode.
    Virtual(u32),
}
