//! A logical unit for host adapters, which hand the sense data over with the status.

use block::Disk;
use device::StateError;

use super::bus::ScsiDrive;
use super::disk::ScsiDisk;
use super::{Cd, Medium, Reply, Sense, Sent, be, cut, op};
use crate::media::{Slot, Slots};

device::state! {
    /// What commands have changed of a unit.
    pub struct ScsiUnitState {
        1 => was_reset: bool, 2 => write_cache: bool, 3 => open: bool, 4 => locked: bool, 5 => changed: bool,
        6 => event: u8,
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Disk(ScsiDisk),
    Cd(Cd),
}

/// A disk or CD-ROM drive on a SCSI bus.
#[derive(Clone, Debug)]
pub struct ScsiUnit {
    kind: Kind,
    /// As it was when the machine began.
    write_cache: bool,
}

impl ScsiUnit {
    /// The unit of a drive. A disk drive without a disk is none.
    pub fn new(drive: &ScsiDrive) -> Option<Self> {
        let text = |own: &Option<String>, default: &str| own.clone().unwrap_or_else(|| default.to_owned());
        let serial = text(&drive.serial, &format!("rhea-{}-{}", drive.target, drive.lun));
        let version = text(&drive.version, "1.0");
        let kind = match &drive.disk {
            disk if drive.cd => Kind::Cd(Cd {
                medium: Medium::new(disk.clone(), drive.tray.clone()),
                sense: Sense::NONE,
                product: text(&drive.product, "Rhea CD-ROM"),
                version,
                serial,
                atapi: false,
                was_reset: true,
            }),
            Some(disk) => Kind::Disk(ScsiDisk {
                known_size: disk.len(),
                disk: disk.clone(),
                block: drive.block,
                product: text(&drive.product, "Rhea HARDDISK"),
                version,
                serial,
                rotation: drive.rotation,
                wwn: drive.wwn,
                removable: drive.removable,
                write_cache: true,
                sense: Sense::NONE,
                was_reset: true,
            }),
            None => return None,
        };
        Some(ScsiUnit { kind, write_cache: true })
    }

    /// The disk, or the disc that can be read.
    pub fn disk(&self) -> Option<&Disk> {
        match &self.kind {
            Kind::Disk(disk) => Some(&disk.disk),
            Kind::Cd(cd) => cd.medium.disk.as_ref().filter(|_| cd.medium.is_there()),
        }
    }

    /// Whether the disk has a size that the initiator has not been told of.
    pub fn is_resized(&self) -> bool {
        matches!(&self.kind, Kind::Disk(d) if d.known_size != d.disk.len())
    }

    /// Executes a command.
    pub fn execute(&mut self, cdb: &[u8; 16]) -> Reply {
        let (reply, sense) = match &mut self.kind {
            Kind::Disk(disk) => (disk.execute(cdb), &mut disk.sense),
            Kind::Cd(cd) => (cd.execute(cdb), &mut cd.sense),
        };
        // It goes with the status, and is not asked for again.
        *sense = Sense::NONE;
        reply
    }

    /// The host's data for something other than being stored has come.
    pub fn received(&mut self, sent: Sent, data: &[u8]) -> Reply {
        match &mut self.kind {
            Kind::Disk(disk) => disk.received(sent, data),
            Kind::Cd(_) => Reply::Done,
        }
    }

    /// The unit, its target or its bus was reset.
    pub fn reset(&mut self) {
        match &mut self.kind {
            Kind::Disk(disk) => (disk.was_reset, disk.write_cache) = (true, self.write_cache),
            Kind::Cd(cd) => {
                cd.was_reset = true;
                cd.medium.reset();
            }
        }
    }

    /// What is to be saved.
    pub fn save(&self) -> ScsiUnitState {
        let mut s = ScsiUnitState::default();
        match &self.kind {
            Kind::Disk(disk) => (s.was_reset, s.write_cache) = (disk.was_reset, disk.write_cache),
            Kind::Cd(cd) => {
                let m = &cd.medium;
                (s.was_reset, s.open, s.locked) = (cd.was_reset, m.open, m.locked);
                (s.changed, s.event) = (m.changed, m.event);
            }
        }
        s
    }

    /// Takes a saved state over.
    pub fn restore(&mut self, s: &ScsiUnitState) -> Result<(), StateError> {
        StateError::at_most("event", s.event, 3)?;
        match &mut self.kind {
            Kind::Disk(disk) => (disk.was_reset, disk.write_cache) = (s.was_reset, s.write_cache),
            Kind::Cd(cd) => {
                let m = &mut cd.medium;
                (cd.was_reset, m.open, m.locked) = (s.was_reset, s.open, s.locked);
                (m.changed, m.event) = (s.changed, s.event);
            }
        }
        Ok(())
    }
}

impl Slots for ScsiUnit {
    fn with_slot(&mut self, unit: usize, f: &mut dyn FnMut(&mut dyn Slot)) -> bool {
        match &mut self.kind {
            Kind::Cd(cd) if unit == 0 => f(&mut cd.medium),
            _ => return false,
        }
        true
    }
}

/// The first level of a unit's number: small ones by peripheral device addressing, others by flat space addressing (SAM-4, 4.6.4).
pub fn lun_bytes(lun: u16) -> [u8; 2] {
    if lun < 256 { lun.to_be_bytes() } else { (0x4000 | lun).to_be_bytes() }
}

/// REPORT LUNS of a target with these units (SPC-3, 6.21).
pub fn report_luns(cdb: &[u8; 16], luns: &[u16]) -> Reply {
    let mut data = ((luns.len() * 8) as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    for lun in luns {
        data.extend(lun_bytes(*lun));
        data.extend([0; 6]);
    }
    cut(data, be(&cdb[6..10]))
}

/// The answer for a unit that is not there, of a target that is (SPC-3, 6.4.2 and 4.5.3).
pub fn absent(cdb: &[u8; 16]) -> Reply {
    match cdb[0] {
        op::INQUIRY if cdb[1] & 1 == 0 => {
            let mut data = vec![0; 36];
            // Nothing of any type can be here.
            (data[0], data[2], data[3], data[4]) = (0x7f, 5, 2, 31);
            cut(data, be(&cdb[3..5]))
        }
        op::REQUEST_SENSE => cut(Sense::INVALID_UNIT.bytes().to_vec(), cdb[4].into()),
        _ => Reply::Check(Sense::INVALID_UNIT),
    }
}
