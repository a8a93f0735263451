//! SCSI as a logical unit sees it (SPC-3, SBC-2, MMC-5): from a command's bytes to what has to be moved. ATAPI, SCSI
//! host adapters and USB disks move it.

mod bus;
mod cd;
mod disk;
mod inquiry;
mod medium;
#[cfg(test)]
mod tests;
mod unit;

pub use bus::{ScsiBus, ScsiBusError, ScsiDrive};
pub(crate) use cd::Cd;
pub(crate) use medium::Medium;
pub use medium::TrayListener;
pub use unit::{ScsiUnit, ScsiUnitState, absent, lun_bytes, report_luns};

/// Length of sense data in its fixed format.
pub const SENSE_LEN: usize = 18;

/// Why a command failed: sense key, additional code and its qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    pub(crate) const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Sense { key, code, qualifier }
    }

    pub(crate) const NONE: Sense = Sense::new(0, 0, 0);
    pub(crate) const NO_MEDIUM: Sense = Sense::new(2, 0x3a, 0);
    pub(crate) const TRAY_OPEN: Sense = Sense::new(2, 0x3a, 2);
    /// What is on the disk could not be read.
    pub const READ_ERROR: Sense = Sense::new(3, 0x11, 0);
    /// The disk could not be written.
    pub const WRITE_ERROR: Sense = Sense::new(3, 0x0c, 0);
    pub(crate) const INVALID_COMMAND: Sense = Sense::new(5, 0x20, 0);
    pub(crate) const OUT_OF_RANGE: Sense = Sense::new(5, 0x21, 0);
    pub(crate) const INVALID_FIELD: Sense = Sense::new(5, 0x24, 0);
    pub(crate) const INVALID_UNIT: Sense = Sense::new(5, 0x25, 0);
    pub(crate) const INVALID_PARAMETER: Sense = Sense::new(5, 0x26, 0);
    pub(crate) const LOCKED: Sense = Sense::new(5, 0x53, 2);
    /// Another medium is in the drive.
    pub const MEDIUM_CHANGED: Sense = Sense::new(6, 0x28, 0);
    /// The disk has another size.
    pub const CAPACITY_CHANGED: Sense = Sense::new(6, 0x2a, 9);
    pub(crate) const RESET: Sense = Sense::new(6, 0x29, 0);
    pub(crate) const WRITE_PROTECTED: Sense = Sense::new(7, 0x27, 0);

    /// Sense data in the fixed format.
    pub fn bytes(self) -> [u8; SENSE_LEN] {
        let mut data = [0; SENSE_LEN];
        (data[0], data[2], data[7]) = (0x70, self.key, SENSE_LEN as u8 - 8);
        (data[12], data[13]) = (self.code, self.qualifier);
        data
    }
}

/// What the host's data is for, other than being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Parameters of MODE SELECT, with the header of the 10-byte command or not.
    Mode(bool),
    /// Ranges of UNMAP.
    Unmap,
    /// A block to write over a range.
    Same {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Whether its space may be given back.
        unmap: bool,
    },
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// It failed.
    Check(Sense),
    /// This goes to the host.
    Data(Vec<u8>),
    /// This range of the disk, in bytes, goes to the host.
    Read(u64, u64),
    /// Data from the host goes to this range.
    Write {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// It is to be stable when the command is done.
        fua: bool,
    },
    /// So many bytes come from the host.
    Receive(u32, Sent),
    /// Written data is made stable.
    Flush,
    /// Ranges are given up.
    Discard(Vec<(u64, u64)>),
    /// A range is to read as zero: offset, length, whether its space may be given back.
    Zero(u64, u64, bool),
}

/// A big-endian number.
pub(crate) fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Data cut to what the host has room for.
pub(crate) fn cut(mut data: Vec<u8>, room: u64) -> Reply {
    data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    Reply::Data(data)
}

/// Length of a command by its first byte.
pub(crate) fn command_len(operation: u8) -> usize {
    match operation >> 5 {
        0 => 6,
        1 | 2 => 10,
        4 => 16,
        _ => 12,
    }
}

/// Block and number of blocks of a READ or WRITE of any length.
pub(crate) fn extent(cdb: &[u8; 16]) -> (u64, u64) {
    match command_len(cdb[0]) {
        6 => (be(&cdb[1..4]) & 0x1f_ffff, if cdb[4] == 0 { 256 } else { cdb[4].into() }),
        10 => (be(&cdb[2..6]), be(&cdb[7..9])),
        12 => (be(&cdb[2..6]), be(&cdb[6..10])),
        _ => (be(&cdb[2..10]), be(&cdb[10..14])),
    }
}

/// Operation codes.
pub(crate) mod op {
    pub(crate) const TEST_UNIT_READY: u8 = 0x00;
    pub(crate) const REQUEST_SENSE: u8 = 0x03;
    pub(crate) const READ_6: u8 = 0x08;
    pub(crate) const INQUIRY: u8 = 0x12;
    pub(crate) const MODE_SELECT_6: u8 = 0x15;
    pub(crate) const MODE_SENSE_6: u8 = 0x1a;
    pub(crate) const START_STOP: u8 = 0x1b;
    pub(crate) const PREVENT_REMOVAL: u8 = 0x1e;
    pub(crate) const READ_CAPACITY_10: u8 = 0x25;
    pub(crate) const READ_10: u8 = 0x28;
    pub(crate) const SEEK_10: u8 = 0x2b;
    pub(crate) const SYNCHRONIZE_10: u8 = 0x35;
    pub(crate) const MODE_SELECT_10: u8 = 0x55;
    pub(crate) const MODE_SENSE_10: u8 = 0x5a;
    pub(crate) const READ_16: u8 = 0x88;
    pub(crate) const SYNCHRONIZE_16: u8 = 0x91;
    pub(crate) const REPORT_LUNS: u8 = 0xa0;
    pub(crate) const READ_12: u8 = 0xa8;
}
