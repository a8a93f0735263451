//! What a machine tells about itself.

use crate::config::FdInSet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    /// Descriptors that have names.
    pub fd_sets: Vec<FdInSet>,
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
    pub place: CpuPlace,
}

/// A place in the topology. Levels that a machine does not have have no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuPlace {
    /// Socket.
    pub socket: u32,
    /// Die of the socket.
    pub die: Option<u32>,
    /// Module of the die.
    pub module: Option<u32>,
    /// Core of the module.
    pub core: u32,
    /// Thread of the core.
    pub thread: u32,
}

/// A place where there may be a vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSlot {
    /// Where it is.
    pub place: CpuPlace,
    /// Type of what fits there.
    pub kind: String,
    /// Path in the composition tree, if it is there.
    pub qom_path: Option<String>,
}

/// What a guest has said of a device that was to come or go (`_OST` of ACPI).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OspmInfo {
    /// Its id, if it has one.
    pub device: Option<String>,
    /// Its slot.
    pub slot: String,
    /// What the guest was told.
    pub event: u32,
    /// What has become of it.
    pub status: u32,
}

impl OspmInfo {
    /// As QMP has it.
    pub fn to_json(&self) -> Value {
        let mut all = json!({
            "slot": self.slot, "slot-type": "CPU", "source": self.event, "status": self.status,
        });
        if let Some(device) = &self.device {
            all["device"] = json!(device);
        }
        all
    }
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
    /// vCPUs come and go.
    pub cpu_hotplug: bool,
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
    /// Value when nothing is said.
    pub default: Option<Value>,
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

/// What a snapshot of a machine is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotScope {
    /// Names of the nodes whose disks take part; all that can be written if it is not given.
    pub devices: Option<Vec<String>>,
    /// Name of the node that keeps the state of the machine; the first of them if it is not given.
    pub vmstate: Option<String>,
}

/// One saved machine, or a snapshot of a disk.
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
    /// Nanoseconds of that.
    pub date_nsec: u32,
    /// Virtual time of the machine in nanoseconds.
    pub clock: u64,
}

impl SnapshotInfo {
    /// As QMP shows it.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id, "name": self.tag, "vm-state-size": self.size, "date-sec": self.date,
            "date-nsec": self.date_nsec, "vm-clock-sec": self.clock / 1_000_000_000,
            "vm-clock-nsec": self.clock % 1_000_000_000,
        })
    }
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
    /// Whether the tray is open, if there is one.
    pub tray_open: Option<bool>,
    /// The medium; `None` is an empty drive.
    pub inserted: Option<MediumInfo>,
    /// Whether a request waits for the machine to go on: `failed`, `nospace`, else empty.
    pub io_status: String,
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
    /// What becomes of written zeroes, in the words of the option; empty for nothing.
    pub detect_zeroes: String,
    /// It is encrypted.
    pub encrypted: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub no_flush: bool,
    /// Snapshots inside it.
    pub snapshots: Vec<SnapshotInfo>,
    /// Its dirty bitmaps.
    pub dirty_bitmaps: Vec<DirtyBitmapInfo>,
}

/// A dirty bitmap of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyBitmapInfo {
    /// Name.
    pub name: String,
    /// Bytes that are dirty.
    pub count: u64,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// It sees what is written.
    pub recording: bool,
    /// A job has it.
    pub busy: bool,
    /// The image keeps it.
    pub persistent: bool,
}

/// What a block device has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Name of the drive, empty for a node that is no drive.
    pub device: String,
    /// Path of its front end.
    pub qdev: Option<String>,
    /// Node name in the block graph.
    pub node_name: String,
    /// Reads and bytes read.
    pub reads: (u64, u64),
    /// Writes and bytes written.
    pub writes: (u64, u64),
    /// Flushes.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// One thread that does disks' work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IothreadInfo {
    /// Id of the object.
    pub id: String,
    /// Host thread.
    pub thread_id: u64,
}

/// What of one kind of frame a network card lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxState {
    /// What its table names.
    #[default]
    Normal,
    /// Nothing.
    None,
    /// Everything.
    All,
}

/// How a guest's cards make themselves known to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Milliseconds before the second time.
    pub initial: u64,
    /// Most milliseconds between two times.
    pub max: u64,
    /// How often.
    pub rounds: u64,
    /// Milliseconds by which the time between two grows.
    pub step: u64,
    /// Cards; all if there are none.
    pub interfaces: Vec<String>,
}

impl Default for Announcement {
    fn default() -> Self {
        Announcement { initial: 50, max: 550, rounds: 5, step: 100, interfaces: Vec::new() }
    }
}

impl Announcement {
    /// Milliseconds after the `round`th time, if it was not the last.
    pub fn pause(&self, round: u64) -> Option<u64> {
        (round < self.rounds)
            .then(|| self.initial.saturating_add((round - 1).saturating_mul(self.step)).min(self.max))
    }
}

/// The receive filter of a network card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxFilterInfo {
    /// Name of the card.
    pub name: String,
    /// It takes everything.
    pub promiscuous: bool,
    /// Frames to groups, to single cards, and to VLANs.
    pub states: [RxState; 3],
    /// It takes broadcasts.
    pub broadcast: bool,
    /// The tables of groups and of single addresses are too small for what the driver wants.
    pub overflow: [bool; 2],
    /// Its own address.
    pub mac: String,
    /// Those tables.
    pub tables: [Vec<String>; 2],
    /// VLANs by number.
    pub vlans: Vec<u16>,
}

/// The back end of guest RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemdevInfo {
    /// Its id, or the name of the RAM.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Other processes may see it.
    pub share: bool,
    /// All of it was touched before the start.
    pub prealloc: bool,
    /// The host may merge equal pages.
    pub merge: bool,
    /// It is part of core dumps.
    pub dump: bool,
}

/// How a migration stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationInfo {
    /// `setup`, `active`, `completed`, `failed`, `cancelling`, `cancelled`; `None` if there never was one.
    pub status: Option<&'static str>,
    /// Milliseconds since it began, or that it took.
    pub total_ms: u64,
    /// Milliseconds for which the guest stood.
    pub downtime_ms: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes sent or received.
    pub transferred: u64,
    /// Bytes of RAM in all.
    pub total: u64,
    /// Bytes of RAM still to be sent.
    pub remaining: u64,
    /// Pages sent.
    pub pages: u64,
    /// Rounds through RAM.
    pub rounds: u64,
    /// It comes in.
    pub incoming: bool,
}

/// What a migration may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationLimits {
    /// Bytes per second; 0 is no limit.
    pub max_bandwidth: u64,
    /// Milliseconds for which the guest may stand.
    pub downtime_ms: u64,
}

impl Default for MigrationLimits {
    fn default() -> Self {
        Self { max_bandwidth: 128 << 20, downtime_ms: 300 }
    }
}

/// One character back end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChardevInfo {
    /// Id.
    pub label: String,
    /// Its type, as in `-chardev TYPE`.
    pub kind: &'static str,
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
