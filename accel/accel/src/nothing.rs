//! What a machine without vCPUs needs of an accelerator: nothing runs, no line leads anywhere.

use std::sync::Arc;

use crate::arch::GuestArch;
use crate::{AccelError, Accelerator, Caps, Partition, PartitionConfig, VcpuBinder, VcpuLines, VcpuSignal};

/// The accelerator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Accelerator for Nothing {
    fn name(&self) -> &'static str {
        "none"
    }

    fn guests(&self) -> Vec<GuestArch> {
        GuestArch::ALL.to_vec()
    }

    fn probe(&self, _: GuestArch) -> Result<Caps, AccelError> {
        Ok(Caps::default())
    }

    fn cpu_models(&self, _: GuestArch) -> Vec<(String, String)> {
        Vec::new()
    }

    fn create(&self, _: PartitionConfig) -> Result<Box<dyn Partition>, AccelError> {
        Ok(Box::new(Empty))
    }
}

struct Empty;

impl Partition for Empty {
    fn take_vcpus(&self) -> Vec<Box<dyn VcpuBinder>> {
        Vec::new()
    }

    fn lines(&self) -> Arc<dyn VcpuLines> {
        Arc::new(Self)
    }
}

impl VcpuLines for Empty {
    fn set_line(&self, _: u32, _: u32, _: bool) {}

    fn signal(&self, _: u32, _: VcpuSignal) {}
}
