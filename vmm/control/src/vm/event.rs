//! Events of a machine, and the bus that carries them to monitors.

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something that happened, as QMP tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Name in capitals.
    pub name: &'static str,
    /// Details; empty for most.
    pub data: Map<String, Value>,
    /// When, since 1970 UTC.
    pub time: Duration,
}

/// Names of all events that there are.
pub(crate) const EVENT_NAMES: [&str; 29] = [
    "STOP",
    "RESUME",
    "RESET",
    "SHUTDOWN",
    "POWERDOWN",
    "SUSPEND",
    "WAKEUP",
    "WATCHDOG",
    "GUEST_PANICKED",
    "RTC_CHANGE",
    "ACPI_DEVICE_OST",
    "DEVICE_DELETED",
    "BLOCK_IO_ERROR",
    "JOB_STATUS_CHANGE",
    "BLOCK_JOB_READY",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_PENDING",
    "BLOCK_EXPORT_DELETED",
    "MIGRATION",
    "VSERPORT_CHANGE",
    "BALLOON_CHANGE",
    "NIC_RX_FILTER_CHANGED",
    "NETDEV_STREAM_CONNECTED",
    "NETDEV_STREAM_DISCONNECTED",
    "NETDEV_VHOST_USER_CONNECTED",
    "NETDEV_VHOST_USER_DISCONNECTED",
    "DEVICE_TRAY_MOVED",
];

impl Event {
    /// An event of now.
    pub fn new(name: &'static str, data: Value) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let data = match data {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self { name, data, time }
    }

    /// The vCPUs stopped.
    pub fn stop() -> Self {
        Self::new("STOP", Value::Null)
    }

    /// The vCPUs go on.
    pub fn resume() -> Self {
        Self::new("RESUME", Value::Null)
    }

    /// The machine was reset, by the guest or from outside.
    pub fn reset(by_guest: bool) -> Self {
        let reason = if by_guest { "guest-reset" } else { "host-qmp-system-reset" };
        Self::new("RESET", json!({"guest": by_guest, "reason": reason}))
    }

    /// The machine ends. `reason` is one of QMP's: `guest-shutdown`, `host-qmp-quit`, `host-signal`,
    /// `guest-reset`, `guest-panic`, `host-error`.
    pub fn shutdown(reason: &str) -> Self {
        Self::new("SHUTDOWN", json!({"guest": reason.starts_with("guest"), "reason": reason}))
    }

    /// The power button was pressed.
    pub fn powerdown() -> Self {
        Self::new("POWERDOWN", Value::Null)
    }

    /// The guest reported a panic; `action` says what was done: `pause`, `poweroff`, `run`.
    pub fn guest_panicked(action: &str) -> Self {
        Self::new("GUEST_PANICKED", json!({ "action": action }))
    }

    /// The watchdog fired.
    pub fn watchdog(action: &str) -> Self {
        Self::new("WATCHDOG", json!({ "action": action }))
    }

    /// A migration has come to a state.
    pub fn migration(status: &str) -> Self {
        Self::new("MIGRATION", json!({ "status": status }))
    }

    /// The event as a QMP message.
    pub fn to_json(&self) -> Value {
        let mut message = Map::new();
        let (seconds, microseconds) = (self.time.as_secs(), self.time.subsec_micros());
        message.insert("timestamp".into(), json!({"seconds": seconds, "microseconds": microseconds}));
        message.insert("event".into(), self.name.into());
        if !self.data.is_empty() {
            message.insert("data".into(), self.data.clone().into());
        }
        Value::Object(message)
    }
}

/// A listener; it returns false when it wants no more.
type Sink = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// Carries events to whoever listens.
#[derive(Default)]
pub struct EventBus {
    sinks: Mutex<Vec<Sink>>,
}

impl EventBus {
    /// A bus without listeners.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces an event. Listeners must not block and must not announce events themselves.
    pub fn emit(&self, event: &Event) {
        self.sinks.lock().retain(|sink| sink(event));
    }

    /// Adds a listener, which stays until it returns false.
    pub fn subscribe(&self, sink: impl Fn(&Event) -> bool + Send + Sync + 'static) {
        self.sinks.lock().push(Box::new(sink));
    }
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus").field("listeners", &self.sinks.lock().len()).finish()
    }
}
