//! ATA as seen by a device (ACS-3, T13/2161-D): registers, and what a command asks for. The transport (a parallel
//! channel, a SATA port) moves the data.

pub(crate) mod disk;
mod identify;
mod smart;

pub(crate) use disk::AtaDisk;
pub(crate) use identify::{Identity, identify_packet};

/// Status register.
pub(crate) mod status {
    pub(crate) const ERROR: u8 = 1 << 0;
    pub(crate) const DATA: u8 = 1 << 3;
    pub(crate) const SEEK_DONE: u8 = 1 << 4;
    pub(crate) const FAULT: u8 = 1 << 5;
    pub(crate) const READY: u8 = 1 << 6;
    pub(crate) const BUSY: u8 = 1 << 7;
    /// Ready for a command.
    pub(crate) const IDLE: u8 = READY | SEEK_DONE;
}

/// Error register.
pub(crate) mod error {
    pub(crate) const ABORTED: u8 = 1 << 2;
    pub(crate) const NOT_FOUND: u8 = 1 << 4;
    pub(crate) const UNCORRECTABLE: u8 = 1 << 6;
}

/// Device register.
pub(crate) const DEVICE_LBA: u8 = 1 << 6;
pub(crate) const DEVICE_SECOND: u8 = 1 << 4;

/// A sector's bytes.
pub(crate) const SECTOR: u64 = 512;

/// The registers of a command: those written last, and those before them for 48-bit commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskFile {
    pub(crate) feature: [u8; 2],
    pub(crate) count: [u8; 2],
    /// Low, mid and high.
    pub(crate) lba: [[u8; 2]; 3],
    pub(crate) device: u8,
    pub(crate) error: u8,
    pub(crate) status: u8,
}

impl TaskFile {
    /// 28 bits.
    pub(crate) fn lba28(&self) -> u64 {
        let [low, mid, high] = self.lba.map(|r| u64::from(r[0]));
        u64::from(self.device & 15) << 24 | high << 16 | mid << 8 | low
    }

    /// 48 bits.
    pub(crate) fn lba48(&self) -> u64 {
        let part = |i: usize| self.lba.iter().rev().fold(0, |v, r| v << 8 | u64::from(r[i]));
        part(1) << 24 | part(0)
    }

    pub(crate) fn set_lba28(&mut self, lba: u64) {
        for (i, r) in self.lba.iter_mut().enumerate() {
            r[0] = (lba >> (8 * i)) as u8;
        }
        self.device = self.device & 0xf0 | (lba >> 24) as u8 & 15;
    }

    pub(crate) fn set_lba48(&mut self, lba: u64) {
        for (i, r) in self.lba.iter_mut().enumerate() {
            *r = [(lba >> (8 * i)) as u8, (lba >> (24 + 8 * i)) as u8];
        }
    }

    /// What a device shows after a reset, by which its kind is told.
    pub(crate) fn sign(&mut self, packet: bool) {
        (self.count, self.lba[0]) = ([1, 0], [1, 0]);
        (self.lba[1], self.lba[2]) = if packet { ([0x14, 0], [0xeb, 0]) } else { ([0; 2], [0; 2]) };
        self.device &= DEVICE_SECOND;
        self.error = 1;
        self.status = if packet { 0 } else { status::IDLE };
    }
}

/// What is done with data that the host sends, other than storing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Ranges to discard.
    Trim,
    /// A page of a log; it is taken and not kept.
    Log,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is done.
    Done,
    /// It failed, with these error bits.
    Failed(u8),
    /// These sectors go to the host.
    In(Vec<u8>),
    /// So many bytes come from the host.
    Out(u32, Sent),
    /// Sectors are read, `block` of them at a time if the host fetches them.
    Read { lba: u64, sectors: u32, block: u32, dma: bool },
    /// Sectors are written.
    Write { lba: u64, sectors: u32, block: u32, dma: bool, fua: bool },
    /// Sectors are read for nobody.
    Verify { lba: u64, sectors: u32 },
    /// Written data is made stable.
    Flush,
    /// The device takes a SCSI command.
    Packet,
    /// The device is reset.
    Reset,
}
