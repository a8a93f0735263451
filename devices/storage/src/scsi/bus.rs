//! The drives of a SCSI host adapter, as they are before the adapter is built.

use std::sync::Arc;

use block::Disk;
use parking_lot::Mutex;

use super::TrayListener;

/// Number of logical units of a target, by flat addressing.
const UNITS: u16 = 16_384;

/// A drive to hang on a SCSI bus.
#[derive(Clone, Debug)]
pub struct ScsiDrive {
    /// Its target.
    pub target: u8,
    /// Its logical unit, below 16384.
    pub lun: u16,
    /// The disk, or what is in the CD-ROM drive.
    pub disk: Option<Disk>,
    /// It is a CD-ROM drive.
    pub cd: bool,
    /// Serial number; made up if there is none.
    pub serial: Option<String>,
    /// Product, up to 16 characters.
    pub product: Option<String>,
    /// Version, up to 4 characters.
    pub version: Option<String>,
    /// World-wide name; 0 for none.
    pub wwn: u64,
    /// Revolutions per minute; 1 for none at all, 0 if unknown.
    pub rotation: u16,
    /// Bytes of a disk's block.
    pub block: u32,
    /// The guest is told that the disk can be taken away.
    pub removable: bool,
    /// Told of its tray.
    pub tray: TrayListener,
}

impl ScsiDrive {
    /// A disk.
    pub fn disk(target: u8, lun: u16, disk: Disk) -> Self {
        ScsiDrive { disk: Some(disk), cd: false, ..Self::cd(target, lun, None) }
    }

    /// A CD-ROM drive, with what is in it.
    pub fn cd(target: u8, lun: u16, disk: Option<Disk>) -> Self {
        ScsiDrive {
            target,
            lun,
            disk,
            cd: true,
            serial: None,
            product: None,
            version: None,
            wwn: 0,
            rotation: 0,
            block: 512,
            removable: false,
            tray: TrayListener::default(),
        }
    }
}

/// Why a drive cannot hang on a bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScsiBusError {
    /// Its place is taken.
    #[error("target {0}, unit {1} is taken already")]
    Taken(u8, u16),
    /// No target is free.
    #[error("all 256 targets are taken")]
    Full,
    /// Flat addressing ends there.
    #[error("unit {0}: expected 0 to 16383")]
    BadUnit(u16),
}

/// The drives of one host adapter. Clones are the same bus.
#[derive(Clone, Debug, Default)]
pub struct ScsiBus(Arc<Mutex<Vec<ScsiDrive>>>);

impl ScsiBus {
    /// Hangs a drive on it. An adapter that is built already is to be told.
    pub fn hang(&self, drive: ScsiDrive) -> Result<(), ScsiBusError> {
        let mut drives = self.0.lock();
        if drive.lun >= UNITS {
            return Err(ScsiBusError::BadUnit(drive.lun));
        }
        if drives.iter().any(|d| (d.target, d.lun) == (drive.target, drive.lun)) {
            return Err(ScsiBusError::Taken(drive.target, drive.lun));
        }
        drives.push(drive);
        Ok(())
    }

    /// Takes a drive off it.
    pub fn take_off(&self, target: u8, lun: u16) {
        self.0.lock().retain(|d| (d.target, d.lun) != (target, lun));
    }

    /// The first target without a drive.
    pub fn free_target(&self) -> Result<u8, ScsiBusError> {
        let drives = self.0.lock();
        let free = (0..=u8::MAX).find(|target| drives.iter().all(|d| d.target != *target));
        free.ok_or(ScsiBusError::Full)
    }

    /// All drives, in the order they were hung.
    pub fn drives(&self) -> Vec<ScsiDrive> {
        self.0.lock().clone()
    }
}
