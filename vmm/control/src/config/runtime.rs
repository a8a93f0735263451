//! Everything around the platform: boot order, clock, names, monitors, logs, what happens at the end.

use super::{Props, is_false};
use serde::{Deserialize, Serialize};

/// `-boot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BootConfig {
    /// Drive letters in order of preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// The same for the first boot only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub once: Option<String>,
    /// Show a boot menu.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub menu: Option<bool>,
    /// Picture shown meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splash: Option<String>,
    /// How long, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splash_time: Option<u64>,
    /// Milliseconds before a failed boot starts again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_timeout: Option<u64>,
    /// Boot from nothing but what `bootindex` lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// `-rtc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RtcConfig {
    /// Time at start.
    pub base: RtcBase,
    /// Clock that moves it on.
    pub clock: RtcClock,
    /// Deliver lost ticks late instead of dropping them.
    #[serde(skip_serializing_if = "is_false")]
    pub driftfix_slew: bool,
}

/// Time of the real-time clock at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RtcBase {
    /// The host's time in UTC.
    #[default]
    Utc,
    /// The host's time in its own time zone.
    Localtime,
    /// A fixed point, in seconds since 1970 UTC.
    At(i64),
}

/// What moves the real-time clock on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RtcClock {
    /// The host's wall clock.
    #[default]
    Host,
    /// The host's monotonic clock.
    Rt,
    /// The guest's virtual clock, which stands still while the machine is stopped.
    Vm,
}

/// `-name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NameConfig {
    /// Name of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Name the threads.
    #[serde(skip_serializing_if = "is_false")]
    pub debug_threads: bool,
}

/// One `-add-fd`: a descriptor of the process, which `/dev/fdset/SET` means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FdInSet {
    /// Its number in the process.
    pub fd: u32,
    /// Number of the set.
    pub set: u32,
    /// What whoever gave it says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
}

/// `-action`, `-no-reboot`, `-no-shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Actions {
    /// When the guest asks for a reset.
    pub reboot: OnReboot,
    /// When the guest powers off.
    pub shutdown: OnShutdown,
    /// When the guest reports a panic.
    pub panic: OnPanic,
    /// When a watchdog is not restarted in time.
    pub watchdog: OnWatchdog,
}

/// What a watchdog does that is not restarted in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnWatchdog {
    /// Reset the machine.
    #[default]
    Reset,
    /// Press the power button.
    Shutdown,
    /// End the process.
    Poweroff,
    /// Stop the vCPUs.
    Pause,
    /// Say so.
    Debug,
    /// Only report the event.
    None,
    /// Interrupt the guest.
    InjectNmi,
}

impl OnWatchdog {
    /// All by their names.
    pub const ALL: [(&'static str, Self); 7] = [
        ("reset", Self::Reset),
        ("shutdown", Self::Shutdown),
        ("poweroff", Self::Poweroff),
        ("pause", Self::Pause),
        ("debug", Self::Debug),
        ("none", Self::None),
        ("inject-nmi", Self::InjectNmi),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, action)| *action == self).map_or("none", |(name, _)| name)
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, action)| *action)
    }
}

/// What a reset by the guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReboot {
    /// Reset the machine.
    #[default]
    Reset,
    /// Treat it as a power-off.
    Shutdown,
}

/// What a power-off by the guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnShutdown {
    /// End the process.
    #[default]
    Poweroff,
    /// Stop the vCPUs and stay.
    Pause,
}

/// What a panic of the guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnPanic {
    /// Treat it as a power-off.
    #[default]
    Shutdown,
    /// Stop the vCPUs.
    Pause,
    /// End the process with exit code 1.
    ExitFailure,
    /// Only report the event.
    None,
}

/// A monitor on a chardev.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Monitor {
    /// Id of the chardev.
    pub chardev: String,
    /// Language.
    pub mode: MonitorMode,
    /// QMP only: indent the answers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pretty: bool,
}

/// Languages of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonitorMode {
    /// HMP, for humans.
    Readline,
    /// QMP, for programs.
    Control,
}

/// GDB server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GdbConfig {
    /// Id of the chardev it talks over.
    pub chardev: String,
}

/// `-d` and `-D`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct LogConfig {
    /// Items, each in [`crate::options::LOG_ITEMS`] or `trace:PATTERN`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// File instead of standard error; `%d` stands for the process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// `-trace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct TraceConfig {
    /// Patterns of events to enable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enable: Vec<String>,
    /// Files with a pattern a line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Output file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// `-icount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IcountConfig {
    /// One instruction is `1 << shift` nanoseconds; `None` adapts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<u8>,
    /// Keep guest and host time together by sleeping.
    #[serde(default, skip_serializing_if = "is_false")]
    pub align: bool,
    /// An idle guest sleeps instead of jumping to the next timer.
    pub sleep: bool,
}

/// `-msg`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MsgConfig {
    /// Time before each message.
    #[serde(skip_serializing_if = "is_false")]
    pub timestamp: bool,
    /// Name of the guest before each message.
    #[serde(skip_serializing_if = "is_false")]
    pub guest_name: bool,
}

/// Host-side limits: `-run-with`, `-sandbox`, `-overcommit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RunWith {
    /// Folder to change the root to before the guest starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chroot: Option<String>,
    /// User to become before the guest starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Free guest memory in the background at exit.
    #[serde(skip_serializing_if = "is_false")]
    pub async_teardown: bool,
    /// End when the parent process does.
    #[serde(skip_serializing_if = "is_false")]
    pub exit_with_parent: bool,
    /// Filter system calls.
    #[serde(skip_serializing_if = "is_false")]
    pub sandbox: bool,
    /// Groups of system calls by name: `obsolete`, `elevateprivileges`, `spawn`, `resourcecontrol`.
    #[serde(skip_serializing_if = "Props::is_empty")]
    pub sandbox_groups: Props,
    /// Lock guest memory: `off`, `on`, `on-fault`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_lock: Option<String>,
    /// Let the guest use the host's idle states.
    #[serde(skip_serializing_if = "is_false")]
    pub cpu_pm: bool,
}

/// One `-object`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ObjectConfig {
    /// Type, e.g. `rng-random`.
    pub qom_type: String,
    /// Unique id.
    pub id: String,
    /// Its properties, checked against the type's key table.
    #[serde(default, skip_serializing_if = "Props::is_empty")]
    pub props: Props,
}

/// One `-fw_cfg`: a file for firmware and guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FwCfgItem {
    /// Name it has there.
    pub name: String,
    /// File of the host with its contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its contents, in place of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string: Option<String>,
}

/// One `-global`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GlobalProperty {
    /// Driver it applies to.
    pub driver: String,
    /// Property.
    pub property: String,
    /// Value as text.
    pub value: String,
}
