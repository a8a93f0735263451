//! `-M none`: a machine of nothing, for programs that only want to ask what there is.
//!
//! It has no vCPU, so it needs nothing of an accelerator; which one would be used is still found out.

use accel::arch::GuestArch;
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
    levels: &[],
    cpu_hotplug: false,
    properties: &[],
    isa: false,
    pci: false,
    nic: "virtio-net-device",
    ide: 0,
    floppy: false,
    vga: false,
    flash: 0,
    fw_cfg: false,
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
