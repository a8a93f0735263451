//! A SCSI disk (SBC-2, T10/1417-D).

use block::Disk;

use super::inquiry::Inquiry;
use super::{Reply, Sense, Sent, be, cut, extent, op};

mod sbc {
    pub(super) const WRITE_6: u8 = 0x0a;
    pub(super) const WRITE_10: u8 = 0x2a;
    pub(super) const WRITE_VERIFY_10: u8 = 0x2e;
    pub(super) const VERIFY_10: u8 = 0x2f;
    pub(super) const UNMAP: u8 = 0x42;
    pub(super) const WRITE_SAME_10: u8 = 0x41;
    pub(super) const WRITE_16: u8 = 0x8a;
    pub(super) const VERIFY_16: u8 = 0x8f;
    pub(super) const WRITE_SAME_16: u8 = 0x93;
    pub(super) const SERVICE_ACTION_IN: u8 = 0x9e;
    pub(super) const WRITE_12: u8 = 0xaa;
}

/// Most ranges of an UNMAP.
const MAX_RANGES: usize = 255;
/// Most bytes of the parameters of an UNMAP or MODE SELECT.
const MAX_PARAMETERS: u64 = 8 + 16 * MAX_RANGES as u64;
/// Most blocks of a WRITE SAME: what the image may have to write.
const MAX_SAME: u64 = 1 << 16;

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct ScsiDisk {
    pub(crate) disk: Disk,
    pub(crate) block: u32,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) serial: String,
    pub(crate) rotation: u16,
    pub(crate) wwn: u64,
    pub(crate) removable: bool,
    pub(crate) write_cache: bool,
    pub(crate) sense: Sense,
    pub(crate) was_reset: bool,
    /// The size that the initiator knows, in bytes.
    pub(crate) known_size: u64,
}

impl ScsiDisk {
    fn blocks(&self) -> u64 {
        self.disk.len() / u64::from(self.block)
    }

    /// Executes a command; the sense of one that fails is kept for REQUEST SENSE.
    pub(crate) fn execute(&mut self, cdb: &[u8; 16]) -> Reply {
        if cdb[0] == op::REQUEST_SENSE {
            let sense = std::mem::take(&mut self.sense);
            return cut(sense.bytes().to_vec(), cdb[4].into());
        }
        let reply = if self.was_reset && !matches!(cdb[0], op::INQUIRY | op::REPORT_LUNS) {
            self.was_reset = false;
            self.known_size = self.disk.len();
            Reply::Check(Sense::RESET)
        } else if self.known_size != self.disk.len() && !matches!(cdb[0], op::INQUIRY | op::REPORT_LUNS) {
            self.known_size = self.disk.len();
            Reply::Check(Sense::CAPACITY_CHANGED)
        } else {
            self.run(cdb)
        };
        self.sense = if let Reply::Check(sense) = reply { sense } else { Sense::NONE };
        reply
    }

    fn range(&self, block: u64, count: u64) -> Option<(u64, u64)> {
        let size = u64::from(self.block);
        let end = block.checked_add(count)?;
        (end <= self.blocks()).then(|| (block * size, count * size))
    }

    fn run(&mut self, cdb: &[u8; 16]) -> Reply {
        match cdb[0] {
            // Rezero, format, reserve, release, seek, start and stop, locks: there is nothing to do.
            op::TEST_UNIT_READY | 0x01 | 0x16 | 0x17 | op::START_STOP | op::PREVENT_REMOVAL => Reply::Done,
            op::INQUIRY => self.inquiry(cdb),
            op::MODE_SENSE_6 => self.mode_sense(cdb, cdb[4].into(), 4),
            op::MODE_SENSE_10 => self.mode_sense(cdb, be(&cdb[7..9]), 8),
            op::MODE_SELECT_6 | op::MODE_SELECT_10 => {
                let len = if cdb[0] == op::MODE_SELECT_6 { cdb[4].into() } else { be(&cdb[7..9]) };
                match len {
                    0 => Reply::Done,
                    len if len > MAX_PARAMETERS => Reply::Check(Sense::INVALID_FIELD),
                    len => Reply::Receive(len as u32, Sent::Mode(cdb[0] == op::MODE_SELECT_10)),
                }
            }
            op::READ_CAPACITY_10 => {
                let last = (self.blocks().max(1) - 1).min(u32::MAX.into()) as u32;
                Reply::Data([last.to_be_bytes(), self.block.to_be_bytes()].concat())
            }
            sbc::SERVICE_ACTION_IN if cdb[1] & 31 == 0x10 => {
                let mut data = vec![0; 32];
                data[..8].copy_from_slice(&(self.blocks().max(1) - 1).to_be_bytes());
                data[8..12].copy_from_slice(&self.block.to_be_bytes());
                // Blocks can be unmapped.
                data[14] = if self.disk.read_only() { 0 } else { 0x80 };
                cut(data, be(&cdb[10..14]))
            }
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => self.read(cdb),
            sbc::WRITE_6 | sbc::WRITE_10 | sbc::WRITE_12 | sbc::WRITE_16 | sbc::WRITE_VERIFY_10 => {
                self.write(cdb)
            }
            op::SEEK_10 | sbc::VERIFY_10 | sbc::VERIFY_16 => {
                let (block, count) = if cdb[0] == op::SEEK_10 { (be(&cdb[2..6]), 1) } else { extent(cdb) };
                match self.range(block, count) {
                    // Comparing with data of the host's is not known.
                    Some(_) if cdb[0] != op::SEEK_10 && cdb[1] & 2 != 0 => Reply::Check(Sense::INVALID_FIELD),
                    Some(_) => Reply::Done,
                    None => Reply::Check(Sense::OUT_OF_RANGE),
                }
            }
            op::SYNCHRONIZE_10 | op::SYNCHRONIZE_16 => Reply::Flush,
            sbc::UNMAP => match be(&cdb[7..9]) {
                0 => Reply::Done,
                _ if self.disk.read_only() => Reply::Check(Sense::WRITE_PROTECTED),
                len if len > MAX_PARAMETERS => Reply::Check(Sense::INVALID_FIELD),
                len => Reply::Receive(len as u32, Sent::Unmap),
            },
            sbc::WRITE_SAME_10 | sbc::WRITE_SAME_16 => self.write_same(cdb),
            op::REPORT_LUNS => cut([&[0, 0, 0, 8, 0, 0, 0, 0][..], &[0; 8]].concat(), be(&cdb[6..10])),
            _ => Reply::Check(Sense::INVALID_COMMAND),
        }
    }

    fn read(&self, cdb: &[u8; 16]) -> Reply {
        let (block, count) = extent(cdb);
        match self.range(block, count) {
            Some((_, 0)) => Reply::Done,
            Some((offset, len)) => Reply::Read(offset, len),
            None => Reply::Check(Sense::OUT_OF_RANGE),
        }
    }

    fn write(&self, cdb: &[u8; 16]) -> Reply {
        let (block, count) = extent(cdb);
        let fua = !self.write_cache || cdb[0] != sbc::WRITE_6 && cdb[1] & 8 != 0;
        match self.range(block, count) {
            _ if self.disk.read_only() => Reply::Check(Sense::WRITE_PROTECTED),
            Some((_, 0)) => Reply::Done,
            Some((offset, len)) => Reply::Write { offset, len, fua },
            None => Reply::Check(Sense::OUT_OF_RANGE),
        }
    }

    fn write_same(&self, cdb: &[u8; 16]) -> Reply {
        let (block, count) = extent(cdb);
        let (unmap, no_data) = (cdb[1] & 8 != 0, cdb[0] == sbc::WRITE_SAME_16 && cdb[1] & 1 != 0);
        let count = if count == 0 { self.blocks().saturating_sub(block) } else { count };
        match self.range(block, count) {
            _ if self.disk.read_only() => Reply::Check(Sense::WRITE_PROTECTED),
            None => Reply::Check(Sense::OUT_OF_RANGE),
            Some(_) if count > MAX_SAME => Reply::Check(Sense::INVALID_FIELD),
            Some((offset, len)) if no_data => Reply::Zero(offset, len, unmap),
            Some((offset, len)) => Reply::Receive(self.block, Sent::Same { offset, len, unmap }),
        }
    }

    /// The host's data for something other than being stored has come.
    pub(crate) fn received(&mut self, sent: Sent, data: &[u8]) -> Reply {
        let reply = match sent {
            Sent::Mode(long) => self.mode_select(long, data),
            Sent::Unmap => self.unmap(data),
            Sent::Same { offset, len, unmap } if data.iter().all(|byte| *byte == 0) => {
                Reply::Zero(offset, len, unmap)
            }
            Sent::Same { .. } => Reply::Check(Sense::INVALID_FIELD),
        };
        if let Reply::Check(sense) = reply {
            self.sense = sense;
        }
        reply
    }

    fn unmap(&self, data: &[u8]) -> Reply {
        let descriptors = data.get(8..).unwrap_or_default().chunks_exact(16);
        let ranges = descriptors.map(|d| self.range(be(&d[..8]), be(&d[8..12])));
        match ranges.collect::<Option<Vec<_>>>() {
            Some(ranges) => Reply::Discard(ranges.into_iter().filter(|(_, len)| *len > 0).collect()),
            None => Reply::Check(Sense::OUT_OF_RANGE),
        }
    }

    /// Takes the write cache bit of the caching page; other pages are not changeable.
    fn mode_select(&mut self, long: bool, data: &[u8]) -> Reply {
        let header = if long { 8 } else { 4 };
        // The last byte of either header is the length of the block descriptors.
        let Some(descriptors) = data.get(header - 1) else { return Reply::Check(Sense::INVALID_PARAMETER) };
        let page = data.get(header + usize::from(*descriptors)..).unwrap_or_default();
        if let [0x08, _, flags, ..] = page {
            self.write_cache = flags & 4 != 0;
            return Reply::Flush;
        }
        Reply::Done
    }

    fn mode_sense(&self, cdb: &[u8; 16], room: u64, header: usize) -> Reply {
        let (control, page) = (cdb[2] >> 6, cdb[2] & 0x3f);
        if control == 3 {
            return Reply::Check(Sense::new(5, 0x39, 0));
        }
        // Which bits can be changed, or their values.
        let cache = if control == 1 || self.write_cache { 4 } else { 0 };
        let mut caching = vec![0; 20];
        (caching[0], caching[1], caching[2]) = (0x08, 18, cache);
        let mut control_page = vec![0; 12];
        (control_page[0], control_page[1]) = (0x0a, 10);
        let body = match page {
            0x08 => caching,
            0x0a => control_page,
            0x3f => [caching, control_page].concat(),
            _ => return Reply::Check(Sense::INVALID_FIELD),
        };
        let descriptor = if cdb[1] & 8 == 0 {
            let blocks = self.blocks().min(0xff_ffff) as u32;
            [&blocks.to_be_bytes()[..], &self.block.to_be_bytes()].concat()
        } else {
            Vec::new()
        };
        // Write protection, and that forced unit access is known.
        let flags = u8::from(self.disk.read_only()) << 7 | 0x10;
        let mut data = vec![0; header];
        let len = header + descriptor.len() + body.len();
        if header == 4 {
            (data[0], data[2], data[3]) = ((len - 1) as u8, flags, descriptor.len() as u8);
        } else {
            data[..2].copy_from_slice(&((len - 2) as u16).to_be_bytes());
            (data[3], data[7]) = (flags, descriptor.len() as u8);
        }
        data.extend(descriptor);
        data.extend(body);
        cut(data, room)
    }

    fn inquiry(&self, cdb: &[u8; 16]) -> Reply {
        // Limits: no best sizes; unmap, write same.
        let mut limits = vec![0; 60];
        limits[16..20].copy_from_slice(&(1u32 << 22).to_be_bytes());
        limits[20..24].copy_from_slice(&(MAX_RANGES as u32).to_be_bytes());
        limits[24..28].copy_from_slice(&1u32.to_be_bytes());
        limits[32..40].copy_from_slice(&MAX_SAME.to_be_bytes());
        let mut characteristics = vec![0; 60];
        characteristics[..2].copy_from_slice(&self.rotation.to_be_bytes());
        // UNMAP and both WRITE SAME; what unmapped blocks read as is not said; thin.
        let provisioning = vec![0, if self.disk.read_only() { 0 } else { 0xe0 }, 2, 0];
        let inquiry = Inquiry {
            kind: 0,
            removable: self.removable,
            vendor: "Rhea",
            product: &self.product,
            version: &self.version,
            serial: &self.serial,
            version_code: 5,
            response: 2,
            wwn: self.wwn,
            pages: &[(0xb0, limits), (0xb1, characteristics), (0xb2, provisioning)],
        };
        inquiry.answer(cdb)
    }
}
