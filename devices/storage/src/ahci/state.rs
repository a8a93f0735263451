//! Saved state of the AHCI controller. What drives there are belongs to the machine's configuration.

use device::{StateBlob, StateError};
use pci::PciConfig;

use super::port::{Job, Kind, Port, Registers};
use super::table::Header;
use super::{AHCI_PORTS, AhciConfig, AhciController};
use crate::ide::{DriveV1, restore_drive, save_drive};

device::state! {
    /// A command that the disk works on.
    struct JobV1 {
        1 => slot: u8,
        2 => kind: u8,
        3 => at: u64,
        4 => flags: u32,
        5 => table: u64,
        6 => offset: u64,
        7 => left: u64,
        8 => moved: u64,
        9 => fua: bool,
        10 => queued: bool,
        11 => pio: bool,
    }
}

device::state! {
    /// A port.
    struct PortV1 {
        1 => drive: DriveV1,
        2 => list: u64,
        3 => received: u64,
        4 => is: u32,
        5 => ie: u32,
        6 => cmd: u32,
        7 => signature: u32,
        8 => control: u32,
        9 => errors: u32,
        10 => active: u32,
        11 => issued: u32,
        12 => halted: bool,
        13 => resetting: bool,
        14 => jobs: Vec<JobV1>,
    }
}

device::state! {
    /// Version 1.
    struct V1 { 1 => control: u32, 2 => interrupts: u32, 3 => ports: Vec<PortV1> }
}

fn save_port(port: &Port) -> PortV1 {
    let r = &port.r;
    let job = |j: &Job| JobV1 {
        slot: j.slot,
        kind: j.kind as u8,
        at: j.header.at,
        flags: j.header.flags,
        table: j.header.table,
        offset: j.offset,
        left: j.left,
        moved: j.moved,
        fua: j.fua,
        queued: j.queued,
        pio: j.pio,
    };
    PortV1 {
        drive: save_drive(&port.drive, &r.file),
        list: r.list,
        received: r.received,
        is: r.is,
        ie: r.ie,
        cmd: r.cmd,
        signature: r.signature,
        control: r.control,
        errors: r.errors,
        active: r.active,
        issued: r.issued,
        halted: r.halted,
        resetting: r.resetting,
        jobs: port.jobs.iter().map(job).collect(),
    }
}

/// Checks what a port relies on.
fn jobs(s: &PortV1) -> Result<Vec<Job>, StateError> {
    StateError::at_most("jobs", s.jobs.len(), 32)?;
    let job = |j: &JobV1| {
        let kind =
            Kind::ALL.get(usize::from(j.kind)).ok_or_else(|| StateError::new("kind", "expected a kind"))?;
        StateError::at_most("slot", j.slot, 31)?;
        // More than any command moves would be too much to add up.
        StateError::at_most("left", j.left, 1 << 42)?;
        StateError::at_most("moved", j.moved, 1 << 42)?;
        StateError::at_most("offset", j.offset, 1 << 62)?;
        Ok(Job {
            slot: j.slot,
            kind: *kind,
            header: Header { at: j.at, flags: j.flags, table: j.table },
            offset: j.offset,
            left: j.left,
            moved: j.moved,
            fua: j.fua,
            queued: j.queued,
            pio: j.pio,
            in_flight: false,
        })
    };
    s.jobs.iter().map(job).collect()
}

pub(super) fn save(c: &AhciController) -> StateBlob {
    let ports = c.ports.iter().map(save_port).collect();
    StateBlob::new(AhciConfig::KIND, 1, &V1 { control: c.control, interrupts: c.interrupts, ports })
}

pub(super) fn restore(c: &mut AhciController, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(AhciConfig::KIND, 1)?;
    if s.ports.len() != AHCI_PORTS {
        return Err(StateError::new("ports", format!("expected {AHCI_PORTS}")));
    }
    let jobs = s.ports.iter().map(jobs).collect::<Result<Vec<_>, _>>()?;
    (c.control, c.interrupts) = (s.control, s.interrupts);
    for ((port, s), jobs) in c.ports.iter_mut().zip(&s.ports).zip(jobs) {
        let mut r = Registers {
            list: s.list,
            received: s.received,
            is: s.is,
            ie: s.ie,
            cmd: s.cmd,
            signature: s.signature,
            control: s.control,
            errors: s.errors,
            active: s.active,
            issued: s.issued,
            halted: s.halted,
            resetting: s.resetting,
            ..Registers::default()
        };
        restore_drive(&mut port.drive, &mut r.file, &s.drive);
        (port.r, port.jobs) = (r, jobs);
        port.hold();
    }
    Ok(())
}
