//! `VmConfig`: everything that describes one virtual machine before it exists.
//!
//! Three thin parsers fill it (the command line, an INI file, JSON) and the machine builder reads it. It
//! holds no handle of the host and no reference to a board or a device: names stay text until the builder
//! looks them up, so this crate depends on none of them.
//!
//! Invariants: `chardevs`, `netdevs`, `objects`, `drives` and `devices` have unique ids within their own
//! name space; every `serials`, `parallels`, `monitors` and `gdb` entry that names a chardev names one that
//! is in `chardevs`. [`VmConfig::validate`] checks both, and all three parsers call it.

mod block;
mod chardev;
mod error;
mod json;
mod net;
mod platform;
mod props;
mod runtime;

pub use block::{Blockdev, Drive, DriveInterface, Media};
pub use chardev::{Chardev, ChardevKind, SocketAddress, TERMINAL};
pub use error::ConfigError;
pub use net::{Netdev, Nic};
pub use platform::{
    AccelConfig, CpuConfig, MachineConfig, MemoryBackend, MemoryBackendKind, MemoryConfig, SmpConfig,
    Topology,
};
pub use props::Props;
pub use runtime::{
    Actions, BootConfig, FdInSet, FwCfgItem, GdbConfig, GlobalProperty, IcountConfig, LogConfig, Monitor,
    MonitorMode, MsgConfig, NameConfig, ObjectConfig, OnPanic, OnReboot, OnShutdown, OnWatchdog, RtcBase,
    RtcClock, RtcConfig, RunWith, TraceConfig,
};

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The description of one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct VmConfig {
    /// Guest architecture as in `qemu-system-ARCH`: `riscv64`, `x86_64`, ...
    pub arch: String,
    /// Board and its properties.
    pub machine: MachineConfig,
    /// CPU model and features; `None` is the board's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuConfig>,
    /// Number and topology of vCPUs, as given.
    pub smp: SmpConfig,
    /// Guest RAM.
    pub memory: MemoryConfig,
    /// Accelerators in order of preference; the first that works is used. Empty means "choose by probing".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accels: Vec<AccelConfig>,
    /// Plugins of the translator, as given.
    pub plugins: Vec<String>,

    /// Kernel image for direct boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Initial RAM disk; several files may be separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Kernel command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// Device tree blob to hand to the guest in place of the generated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtb: Option<String>,
    /// Firmware file; `none` means that there is none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bios: Option<String>,
    /// Folders searched for firmware, before the built-in ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_dirs: Vec<String>,
    /// Boot order and menu.
    pub boot: BootConfig,
    /// Files for firmware and guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fw_cfg: Vec<FwCfgItem>,

    /// Disks with a board-chosen front end (`-drive`, `-hda`, `-cdrom`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<Drive>,
    /// Nodes of the block graph.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blockdevs: Vec<Blockdev>,
    /// Devices to plug, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceConfig>,
    /// Network back ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub netdevs: Vec<Netdev>,
    /// On-board (or default model) network cards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Character back ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chardevs: Vec<Chardev>,
    /// Serial ports of the board in order: the id of a chardev, or `None` for a port without a back end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub serials: Vec<Option<String>>,
    /// Parallel ports of the board, as `serials`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parallels: Vec<Option<String>>,
    /// Human and QMP monitors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<Monitor>,
    /// GDB server, when wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gdb: Option<GdbConfig>,
    /// User-created objects other than the RAM back end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectConfig>,
    /// Property defaults for all devices of a driver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub globals: Vec<GlobalProperty>,

    /// Display type; `None` when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// Whether `-nographic` was given.
    #[serde(skip_serializing_if = "is_false")]
    pub nographic: bool,
    /// Default video card by its short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vga: Option<String>,

    /// Real-time clock.
    pub rtc: RtcConfig,
    /// Name of the guest and of the process.
    pub name: NameConfig,
    /// Machine UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What to do on reboot, shutdown and panic of the guest.
    pub action: Actions,
    /// Write to temporary files instead of the disk images.
    #[serde(skip_serializing_if = "is_false")]
    pub snapshot: bool,
    /// Do not start the vCPUs (`-S`).
    #[serde(skip_serializing_if = "is_false")]
    pub start_paused: bool,
    /// Wait for an incoming migration from this URI, or `defer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming: Option<String>,
    /// Snapshot (tag or file) to load before starting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loadvm: Option<String>,
    /// Detach from the terminal after start-up.
    #[serde(skip_serializing_if = "is_false")]
    pub daemonize: bool,
    /// File to hold the process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pidfile: Option<String>,
    /// `-d` and `-D`.
    pub log: LogConfig,
    /// `-trace`.
    pub trace: TraceConfig,
    /// Deterministic instruction counting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<IcountConfig>,
    /// Descriptors that the process was started with, in sets that paths can name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fd_sets: Vec<FdInSet>,
    /// Ids of the audio back ends, which take sound and play nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audiodevs: Vec<String>,
    /// Format of error messages.
    pub msg: MsgConfig,
    /// Host-side restrictions of the process.
    pub run_with: RunWith,
    /// No default devices (`-nodefaults`).
    #[serde(skip_serializing_if = "is_false")]
    pub nodefaults: bool,
    /// Ignore configuration files of the user.
    #[serde(skip_serializing_if = "is_false")]
    pub no_user_config: bool,
}

/// One `-device`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeviceConfig {
    /// Driver name, e.g. `virtio-blk-device`.
    pub driver: String,
    /// Unique id; the device is at `/machine/peripheral/ID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Bus to plug into, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Everything else; the driver's own table decides what is allowed.
    #[serde(default, skip_serializing_if = "Props::is_empty")]
    pub props: Props,
}

impl VmConfig {
    /// The chardev with this id.
    pub fn chardev(&self, id: &str) -> Option<&Chardev> {
        self.chardevs.iter().find(|c| c.id == id)
    }

    /// Checks the invariants that hold across fields: unique ids, and references that resolve.
    pub fn validate(&self) -> Result<(), ConfigError> {
        unique("chardev", self.chardevs.iter().map(|c| c.id.as_str()))?;
        unique("netdev", self.netdevs.iter().map(|n| n.id.as_str()))?;
        unique("object", self.objects.iter().map(|o| o.id.as_str()))?;
        unique("drive", self.drives.iter().filter_map(|d| d.id.as_deref()))?;
        unique("device", self.devices.iter().filter_map(|d| d.id.as_deref()))?;
        unique("block node", self.blockdevs.iter().map(|b| b.node_name.as_str()))?;
        let mut stdio = self.chardevs.iter().filter(|c| matches!(c.kind, ChardevKind::Stdio { .. }));
        if let (Some(a), Some(b)) = (stdio.next(), stdio.next()) {
            let (a, b) = (&a.id, &b.id);
            let text = if let (TERMINAL, other) | (other, TERMINAL) = (a.as_str(), b.as_str()) {
                format!(
                    "the terminal is that of -display curses; expected chardev '{other}' elsewhere (vc shows it there)"
                )
            } else {
                format!(
                    "chardevs '{a}' and '{b}' both are stdio; expected one (share it with mon:stdio or mux=on)"
                )
            };
            return Err(ConfigError::Conflict(text));
        }
        let gdb = self.gdb.iter().map(|g| ("gdb", &g.chardev));
        let serials = self.serials.iter().flatten().map(|c| ("serial", c));
        let parallels = self.parallels.iter().flatten().map(|c| ("parallel", c));
        let monitors = self.monitors.iter().map(|m| ("monitor", &m.chardev));
        for (user, id) in serials.chain(parallels).chain(monitors).chain(gdb) {
            if self.chardev(id).is_none() {
                let known = self.chardevs.iter().map(|c| c.id.as_str());
                return Err(ConfigError::unknown(format!("{user}: chardev"), id, known));
            }
        }
        for nic in &self.nics {
            if let Some(id) = &nic.netdev
                && !self.netdevs.iter().any(|n| &n.id == id)
            {
                let known = self.netdevs.iter().map(|n| n.id.as_str());
                return Err(ConfigError::unknown("nic: netdev", id, known));
            }
        }
        self.smp.check()?;
        self.memory.validate()
    }
}

fn unique<'a>(what: &'static str, ids: impl Iterator<Item = &'a str>) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(ConfigError::DuplicateId { what, id: id.to_owned() });
        }
    }
    Ok(())
}

pub(crate) fn is_false(b: &bool) -> bool {
    !*b
}
