//! A disk: what each command asks for (ACS-3, section 7).

use block::Disk;

use super::{Action, DEVICE_LBA, Identity, SECTOR, Sent, TaskFile, error, identify, smart, status};

/// Most sectors that the host fetches or brings at a time.
pub(crate) const MAX_MULTIPLE: u8 = 16;

mod command {
    pub(super) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(super) const READ_SECTORS: u8 = 0x20;
    pub(super) const READ_SECTORS_EXT: u8 = 0x24;
    pub(super) const READ_DMA_EXT: u8 = 0x25;
    pub(super) const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub(super) const READ_MULTIPLE_EXT: u8 = 0x29;
    pub(super) const READ_LOG_EXT: u8 = 0x2f;
    pub(super) const WRITE_SECTORS: u8 = 0x30;
    pub(super) const WRITE_SECTORS_EXT: u8 = 0x34;
    pub(super) const WRITE_DMA_EXT: u8 = 0x35;
    pub(super) const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub(super) const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub(super) const VERIFY: u8 = 0x40;
    pub(super) const VERIFY_EXT: u8 = 0x42;
    pub(super) const DIAGNOSTIC: u8 = 0x90;
    pub(super) const SET_GEOMETRY: u8 = 0x91;
    pub(super) const SMART: u8 = 0xb0;
    pub(super) const READ_MULTIPLE: u8 = 0xc4;
    pub(super) const WRITE_MULTIPLE: u8 = 0xc5;
    pub(super) const SET_MULTIPLE: u8 = 0xc6;
    pub(super) const READ_DMA: u8 = 0xc8;
    pub(super) const WRITE_DMA: u8 = 0xca;
    pub(super) const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    pub(super) const CHECK_POWER: u8 = 0xe5;
    pub(super) const FLUSH: u8 = 0xe7;
    pub(super) const FLUSH_EXT: u8 = 0xea;
    pub(super) const IDENTIFY: u8 = 0xec;
    pub(super) const SET_FEATURES: u8 = 0xef;
    pub(super) const READ_NATIVE_MAX: u8 = 0xf8;
}
use command as cmd;

/// How the host moves the data.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Sector,
    Multiple,
    Dma,
}

/// A disk with the settings that commands change.
#[derive(Clone, Debug)]
pub(crate) struct AtaDisk {
    pub(crate) disk: Disk,
    pub(crate) identity: Identity,
    /// Sectors at a time for READ and WRITE MULTIPLE; 0 if not set.
    pub(crate) multiple: u8,
    /// Heads and sectors of a track by which cylinder addresses count.
    pub(crate) heads: u8,
    pub(crate) track: u8,
    pub(crate) write_cache: bool,
    pub(crate) smart: bool,
    /// The transfer mode set: its kind in the high 5 bits, its number below.
    pub(crate) mode: u8,
    /// Slot and error bits of the queued command that failed last, until the host has read of it.
    pub(crate) queue_error: Option<(u8, u8)>,
}

/// The log of what went wrong in a queue.
const QUEUE_ERRORS: u8 = 0x10;

impl AtaDisk {
    pub(crate) fn new(disk: Disk, identity: Identity) -> Self {
        AtaDisk {
            disk,
            identity,
            multiple: MAX_MULTIPLE,
            heads: 16,
            track: 63,
            write_cache: true,
            smart: true,
            mode: 0x45,
            queue_error: None,
        }
    }

    /// Whole sectors.
    pub(crate) fn sectors(&self) -> u64 {
        self.disk.len() / SECTOR
    }

    /// A software reset keeps nothing that has to be set again.
    pub(crate) fn reset(&mut self) {
        let fresh = Self::new(self.disk.clone(), self.identity.clone());
        *self = AtaDisk { smart: self.smart, write_cache: self.write_cache, ..fresh };
    }

    /// Sector and number of sectors that the registers name.
    fn range(&self, tf: &TaskFile, ext: bool) -> (u64, u32) {
        if ext {
            let count = u32::from(tf.count[1]) << 8 | u32::from(tf.count[0]);
            return (tf.lba48(), if count == 0 { 0x1_0000 } else { count });
        }
        let count = if tf.count[0] == 0 { 256 } else { tf.count[0].into() };
        if tf.device & DEVICE_LBA != 0 {
            return (tf.lba28(), count);
        }
        let cylinder = u64::from(tf.lba[2][0]) << 8 | u64::from(tf.lba[1][0]);
        let (head, sector) = (u64::from(tf.device & 15), u64::from(tf.lba[0][0]));
        let (heads, track) = (u64::from(self.heads), u64::from(self.track));
        // Sectors count from 1; sector 0 is nowhere.
        let lba = (cylinder * heads + head) * track + sector;
        (lba.checked_sub(1).unwrap_or(u64::MAX), count)
    }

    fn on_disk(&self, lba: u64, sectors: u32) -> bool {
        lba.checked_add(sectors.into()).is_some_and(|end| end <= self.sectors())
    }

    fn block(&self, way: Way) -> Option<u32> {
        match way {
            Way::Multiple if self.multiple == 0 => None,
            Way::Multiple => Some(self.multiple.into()),
            _ => Some(1),
        }
    }

    fn read(&self, tf: &TaskFile, ext: bool, way: Way) -> Action {
        let (lba, sectors) = self.range(tf, ext);
        match self.block(way) {
            None => Action::Failed(error::ABORTED),
            Some(_) if !self.on_disk(lba, sectors) => Action::Failed(error::NOT_FOUND),
            Some(block) => Action::Read { lba, sectors, block, dma: way == Way::Dma },
        }
    }

    fn write(&self, tf: &TaskFile, ext: bool, way: Way, fua: bool) -> Action {
        let (lba, sectors) = self.range(tf, ext);
        let fua = fua || !self.write_cache;
        match self.block(way) {
            None => Action::Failed(error::ABORTED),
            Some(_) if self.disk.read_only() => Action::Failed(error::ABORTED),
            Some(_) if !self.on_disk(lba, sectors) => Action::Failed(error::NOT_FOUND),
            Some(block) => Action::Write { lba, sectors, block, dma: way == Way::Dma, fua },
        }
    }

    /// What `command` asks for; commands without data are done.
    pub(crate) fn command(&mut self, command: u8, tf: &mut TaskFile) -> Action {
        match command {
            cmd::READ_SECTORS | 0x21 => self.read(tf, false, Way::Sector),
            cmd::READ_SECTORS_EXT => self.read(tf, true, Way::Sector),
            cmd::READ_MULTIPLE => self.read(tf, false, Way::Multiple),
            cmd::READ_MULTIPLE_EXT => self.read(tf, true, Way::Multiple),
            cmd::READ_DMA | 0xc9 => self.read(tf, false, Way::Dma),
            cmd::READ_DMA_EXT => self.read(tf, true, Way::Dma),
            cmd::WRITE_SECTORS | 0x31 => self.write(tf, false, Way::Sector, false),
            cmd::WRITE_SECTORS_EXT => self.write(tf, true, Way::Sector, false),
            cmd::WRITE_MULTIPLE => self.write(tf, false, Way::Multiple, false),
            cmd::WRITE_MULTIPLE_EXT => self.write(tf, true, Way::Multiple, false),
            cmd::WRITE_MULTIPLE_FUA_EXT => self.write(tf, true, Way::Multiple, true),
            cmd::WRITE_DMA | 0xcb => self.write(tf, false, Way::Dma, false),
            cmd::WRITE_DMA_EXT => self.write(tf, true, Way::Dma, false),
            cmd::WRITE_DMA_FUA_EXT => self.write(tf, true, Way::Dma, true),
            cmd::VERIFY | 0x41 | cmd::VERIFY_EXT => {
                let (lba, sectors) = self.range(tf, command == cmd::VERIFY_EXT);
                if self.on_disk(lba, sectors) {
                    Action::Verify { lba, sectors }
                } else {
                    Action::Failed(error::NOT_FOUND)
                }
            }
            cmd::FLUSH | cmd::FLUSH_EXT => Action::Flush,
            cmd::IDENTIFY => Action::In(identify::identify(self)),
            cmd::DATA_SET_MANAGEMENT => self.manage(tf),
            cmd::SMART => smart::command(self, tf),
            cmd::READ_LOG_EXT => self.read_log(tf),
            cmd::SET_FEATURES => self.set_features(tf),
            cmd::SET_MULTIPLE => self.set_multiple(tf.count[0]),
            cmd::SET_GEOMETRY => {
                (self.heads, self.track) = ((tf.device & 15) + 1, tf.count[0]);
                if self.track == 0 { Action::Failed(error::ABORTED) } else { Action::Done }
            }
            cmd::READ_NATIVE_MAX => {
                tf.set_lba28((self.sectors().max(1) - 1).min(0x0fff_ffff));
                Action::Done
            }
            cmd::READ_NATIVE_MAX_EXT => {
                tf.set_lba48(self.sectors().max(1) - 1);
                Action::Done
            }
            cmd::CHECK_POWER | 0x98 => {
                // Active.
                tf.count[0] = 0xff;
                Action::Done
            }
            cmd::DIAGNOSTIC => Action::Reset,
            // Recalibrate and seek, standby, idle and sleep: all is done at once.
            0x10..=0x1f | 0x70..=0x7f | 0x94..=0x97 | 0x99 | 0xe0..=0xe3 | 0xe6 => Action::Done,
            _ => Action::Failed(error::ABORTED),
        }
    }

    fn manage(&self, tf: &TaskFile) -> Action {
        let blocks = u32::from(tf.count[1]) << 8 | u32::from(tf.count[0]);
        // Most blocks of ranges, as IDENTIFY says.
        if tf.feature[0] & 1 == 0 || !(1..=identify::TRIM_BLOCKS).contains(&blocks) || self.disk.read_only() {
            return Action::Failed(error::ABORTED);
        }
        Action::Out(blocks * SECTOR as u32, Sent::Trim)
    }

    /// The ranges in the data of a trim that lie on the disk, in bytes; `None` if one does not.
    pub(crate) fn trim_ranges(&self, data: &[u8]) -> Option<Vec<(u64, u64)>> {
        let mut ranges = Vec::new();
        for entry in data.chunks_exact(8) {
            let word = entry.iter().rev().fold(0, |v, byte| v << 8 | u64::from(*byte));
            let (lba, count) = (word & 0xffff_ffff_ffff, (word >> 48) as u32);
            if count != 0 {
                if !self.on_disk(lba, count) {
                    return None;
                }
                ranges.push((lba * SECTOR, u64::from(count) * SECTOR));
            }
        }
        Some(ranges)
    }

    /// The directory of logs, and that of queued commands that failed.
    fn read_log(&mut self, tf: &TaskFile) -> Action {
        let pages = usize::from(tf.count[0]);
        let mut data = vec![0; pages * SECTOR as usize];
        match tf.lba[0][0] {
            _ if pages == 0 => return Action::Failed(error::ABORTED),
            0 => {
                data[0] = 1;
                data[2 * usize::from(QUEUE_ERRORS)] = 1;
            }
            QUEUE_ERRORS => {
                // Without a slot: no queued command has failed.
                data[0] = 0x80;
                if let Some((slot, bits)) = self.queue_error.take() {
                    (data[0], data[2], data[3]) = (slot, status::IDLE | status::ERROR, bits);
                }
                let sum = data[..511].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                data[511] = sum.wrapping_neg();
            }
            _ => return Action::Failed(error::ABORTED),
        }
        Action::In(data)
    }

    fn set_multiple(&mut self, sectors: u8) -> Action {
        if sectors > MAX_MULTIPLE || sectors != 0 && !sectors.is_power_of_two() {
            return Action::Failed(error::ABORTED);
        }
        self.multiple = sectors;
        Action::Done
    }

    fn set_features(&mut self, tf: &TaskFile) -> Action {
        match tf.feature[0] {
            0x02 => self.write_cache = true,
            0x82 => {
                self.write_cache = false;
                return Action::Flush;
            }
            0x03 => match tf.count[0] {
                mode @ (0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x45) => self.mode = mode,
                _ => return Action::Failed(error::ABORTED),
            },
            // Read look-ahead, power management, noise, defaults: taken, nothing changes.
            0x05 | 0x42 | 0x55 | 0x66 | 0x67 | 0x85 | 0xaa | 0xc2 | 0xcc => {}
            _ => return Action::Failed(error::ABORTED),
        }
        Action::Done
    }
}
