//! What a device may ask of the machine as a whole.

use std::fmt;
use std::sync::Arc;

/// A request that concerns the machine, not the device that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemRequest {
    /// Reset the machine.
    Reset,
    /// Power off. A test device gives the exit code Rhea should end with.
    Shutdown {
        /// Exit code of the process, if the guest chose one.
        code: Option<u8>,
    },
    /// Sleep (ACPI S3) until a wake-up event.
    Suspend,
    /// The guest's kernel panicked.
    Panic,
    /// The guest's kernel panicked and a dump kernel has been loaded.
    CrashLoaded,
    /// A watchdog has not been restarted in time.
    Watchdog,
    /// The guest shuts down by itself and says so beforehand.
    GuestShutdown,
    /// The guest has let go of devices: who has plugged them takes them away.
    Ejected,
    /// The guest has said what has become of what it was told about processors that come and go.
    OspmStatus,
}

/// Where requests go. Clones lead to the same machine.
#[derive(Clone)]
pub struct SystemControl(Arc<dyn Fn(SystemRequest) + Send + Sync>);

impl SystemControl {
    /// `handler` is called by a vCPU in the middle of an access, with the device locked: it must only take note
    /// and return.
    pub fn new(handler: impl Fn(SystemRequest) + Send + Sync + 'static) -> Self {
        SystemControl(Arc::new(handler))
    }

    /// Makes a request.
    pub fn request(&self, request: SystemRequest) {
        (self.0)(request);
    }
}

impl Default for SystemControl {
    /// Requests go nowhere.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for SystemControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemControl")
    }
}
