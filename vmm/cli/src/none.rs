//! `-M none`: a machine of nothing, for programs that only want to ask what there is.
//!
//! It has no vCPU, so it needs nothing of an accelerator; which one would be used is still found out.

use std::sync::Arc;

use accel::arch::GuestArch;
use accel::{AccelError, Accelerator, Caps, Partition, PartitionConfig, VcpuBinder, VcpuLines, VcpuSignal};
use guest_memory::Unassigned;
use machine::{Board, MachineError};
use machines::{BoardConfig, BoardKind};

/// The board.
pub(crate) static NONE: BoardKind = BoardKind {
    name: "none",
    help: "empty machine",
    archs: &GuestArch::ALL,
    default_ram: 0,
    max_vcpus: 1,
    properties: &[],
    isa: false,
    pci: false,
    ide: 0,
    floppy: false,
    vga: false,
    build,
};

fn build(c: &BoardConfig) -> Result<Board, MachineError> {
    NONE.check(c)?;
    if let Some(d) = c.virtio.first() {
        return Err(MachineError::Board(format!("none: there is no bus for '{}'", d.config.kind())));
    }
    if let Some(path) = c.kernel.as_ref().or(c.initrd.as_ref()) {
        return Err(MachineError::Board(format!("none: there is nothing to load {} into", path.display())));
    }
    Ok(Board::new(NONE.name, c.arch, Unassigned::Ones))
}

/// What a machine without vCPUs needs of an accelerator.
pub(crate) struct Nothing;

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
