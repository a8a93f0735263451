//! The accelerator on hosts that have no KVM: it exists, and its probe says so.

use accel::arch::GuestArch;
use accel::{AccelError, Accelerator, Caps, Partition, PartitionConfig};

use crate::NAME;

/// KVM on a host without it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kvm;

impl Kvm {
    /// The accelerator.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

fn unavailable() -> AccelError {
    AccelError::Unavailable {
        accel: NAME,
        reason: "it needs a Linux host with an x86-64 or 64-bit ARM processor".to_owned(),
    }
}

impl Accelerator for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }
    fn guests(&self) -> Vec<GuestArch> {
        Vec::new()
    }
    fn probe(&self, _guest: GuestArch) -> Result<Caps, AccelError> {
        Err(unavailable())
    }
    fn cpu_models(&self, _guest: GuestArch) -> Vec<(String, String)> {
        Vec::new()
    }
    fn create(&self, _config: PartitionConfig) -> Result<Box<dyn Partition>, AccelError> {
        Err(unavailable())
    }
}
