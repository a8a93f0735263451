//! A CD or DVD drive with a data disc (MMC-5, T10/1675-D): one track, blocks of 2048 bytes.

use super::inquiry::Inquiry;
use super::medium::Medium;
use super::{Reply, Sense, be, cut, extent, op};

/// A block's bytes.
pub(crate) const BLOCK: u64 = 2048;
/// Most blocks of a CD; what is longer is a DVD.
const MAX_CD: u64 = 360_000;
/// Frames before the first block.
const PREGAP: u64 = 150;
/// The lead-out track's number.
const LEAD_OUT: u8 = 0xaa;

mod mmc {
    pub(super) const READ_SUBCHANNEL: u8 = 0x42;
    pub(super) const READ_TOC: u8 = 0x43;
    pub(super) const GET_CONFIGURATION: u8 = 0x46;
    pub(super) const GET_EVENT: u8 = 0x4a;
    pub(super) const PLAY_STOP: u8 = 0x4e;
    pub(super) const READ_DISC_INFORMATION: u8 = 0x51;
    pub(super) const READ_TRACK_INFORMATION: u8 = 0x52;
    pub(super) const READ_DVD_STRUCTURE: u8 = 0xad;
    pub(super) const SET_SPEED: u8 = 0xbb;
    pub(super) const MECHANISM_STATUS: u8 = 0xbd;
    pub(super) const READ_CD: u8 = 0xbe;
}

/// The drive.
#[derive(Clone, Debug)]
pub(crate) struct Cd {
    pub(crate) medium: Medium,
    pub(crate) sense: Sense,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) serial: String,
    /// Behind ATAPI.
    pub(crate) atapi: bool,
    /// A reset has not been told of yet.
    pub(crate) was_reset: bool,
}

/// Minutes, seconds and frames of a block.
fn msf(block: u64) -> [u8; 4] {
    let frames = block + PREGAP;
    [0, (frames / 75 / 60).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

impl Cd {
    /// Blocks of the disc, 0 without one.
    pub(crate) fn blocks(&self) -> u64 {
        let disk = self.medium.disk.as_ref().filter(|_| !self.medium.open);
        disk.map_or(0, |disk| disk.len() / BLOCK)
    }

    fn is_dvd(&self) -> bool {
        self.blocks() > MAX_CD
    }

    /// Executes a command; the sense of one that fails is kept for REQUEST SENSE.
    pub(crate) fn execute(&mut self, cdb: &[u8; 16]) -> Reply {
        if cdb[0] == op::REQUEST_SENSE {
            let sense = std::mem::take(&mut self.sense);
            return cut(sense.bytes().to_vec(), cdb[4].into());
        }
        let reply = self.attention(cdb[0]).map_or_else(|| self.run(cdb), Reply::Check);
        self.sense = if let Reply::Check(sense) = reply { sense } else { Sense::NONE };
        reply
    }

    /// What has to be told before a command is looked at.
    fn attention(&mut self, operation: u8) -> Option<Sense> {
        if matches!(operation, op::INQUIRY | mmc::GET_CONFIGURATION | mmc::GET_EVENT | op::REPORT_LUNS) {
            return None;
        }
        if std::mem::take(&mut self.was_reset) {
            return Some(Sense::RESET);
        }
        std::mem::take(&mut self.medium.changed).then_some(Sense::MEDIUM_CHANGED)
    }

    fn absent(&self) -> Option<Reply> {
        let sense = if self.medium.open { Sense::TRAY_OPEN } else { Sense::NO_MEDIUM };
        (!self.medium.is_there()).then_some(Reply::Check(sense))
    }

    fn run(&mut self, cdb: &[u8; 16]) -> Reply {
        let needs_medium = matches!(
            cdb[0],
            op::TEST_UNIT_READY
                | op::READ_CAPACITY_10
                | op::READ_10
                | op::READ_12
                | op::SEEK_10
                | mmc::READ_CD
                | mmc::READ_TOC
                | mmc::READ_SUBCHANNEL
                | mmc::READ_DISC_INFORMATION
                | mmc::READ_TRACK_INFORMATION
                | mmc::READ_DVD_STRUCTURE
        );
        if needs_medium && let Some(reply) = self.absent() {
            return reply;
        }
        match cdb[0] {
            op::TEST_UNIT_READY | mmc::SET_SPEED | mmc::PLAY_STOP => Reply::Done,
            op::INQUIRY => self.inquiry(cdb),
            op::MODE_SENSE_6 => self.mode_sense(cdb[2], cdb[4].into(), 4),
            op::MODE_SENSE_10 => self.mode_sense(cdb[2], be(&cdb[7..9]), 8),
            op::MODE_SELECT_10 => match be(&cdb[7..9]) as u32 {
                0 => Reply::Done,
                len => Reply::Receive(len, super::Sent::Mode(true)),
            },
            op::START_STOP => self.start_stop(cdb[4]),
            op::PREVENT_REMOVAL => {
                self.medium.locked = cdb[4] & 1 != 0;
                Reply::Done
            }
            op::READ_CAPACITY_10 => {
                let last = (self.blocks().max(1) - 1) as u32;
                Reply::Data([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat())
            }
            op::READ_10 | op::READ_12 => self.read(cdb),
            mmc::READ_CD => self.read_cd(cdb),
            op::SEEK_10 if be(&cdb[2..6]) < self.blocks() => Reply::Done,
            op::SEEK_10 => Reply::Check(Sense::OUT_OF_RANGE),
            op::REPORT_LUNS => cut([&[0, 0, 0, 8, 0, 0, 0, 0][..], &[0; 8]].concat(), be(&cdb[6..10])),
            mmc::READ_TOC => self.toc(cdb),
            mmc::GET_CONFIGURATION => self.configuration(cdb),
            mmc::GET_EVENT => self.events(cdb),
            mmc::READ_DISC_INFORMATION => self.disc_information(cdb),
            mmc::READ_TRACK_INFORMATION => self.track_information(cdb),
            mmc::READ_DVD_STRUCTURE => self.dvd_structure(cdb),
            mmc::MECHANISM_STATUS => cut(vec![0, 0, 0, 0, 0, 1, 0, 0], be(&cdb[8..10])),
            // No audio is playing.
            mmc::READ_SUBCHANNEL => cut(vec![0, 0x15, 0, 0], be(&cdb[7..9])),
            _ => Reply::Check(Sense::INVALID_COMMAND),
        }
    }

    fn inquiry(&self, cdb: &[u8; 16]) -> Reply {
        let inquiry = Inquiry {
            kind: 5,
            removable: true,
            vendor: "Rhea",
            product: &self.product,
            version: &self.version,
            serial: &self.serial,
            version_code: if self.atapi { 0 } else { 5 },
            response: if self.atapi { 0x21 } else { 2 },
            wwn: 0,
            pages: &[],
        };
        inquiry.answer(cdb)
    }

    fn read(&self, cdb: &[u8; 16]) -> Reply {
        let (block, count) = extent(cdb);
        match block.checked_add(count) {
            _ if count == 0 => Reply::Done,
            Some(end) if end <= self.blocks() => Reply::Read(block * BLOCK, count * BLOCK),
            _ => Reply::Check(Sense::OUT_OF_RANGE),
        }
    }

    /// READ CD, for user data alone.
    fn read_cd(&self, cdb: &[u8; 16]) -> Reply {
        let (block, count) = (be(&cdb[2..6]), be(&cdb[6..9]));
        if count == 0 || cdb[9] & 0xf8 == 0 {
            return Reply::Done;
        }
        // All, mode 1 or mode 2 form 1 blocks; only their user data exists.
        if !matches!(cdb[1] >> 2 & 7, 0 | 2 | 4) || cdb[9] & 0xf8 != 0x10 {
            return Reply::Check(Sense::INVALID_FIELD);
        }
        match block.checked_add(count) {
            Some(end) if end <= self.blocks() => Reply::Read(block * BLOCK, count * BLOCK),
            _ => Reply::Check(Sense::OUT_OF_RANGE),
        }
    }

    fn start_stop(&mut self, what: u8) -> Reply {
        let (start, load_eject) = (what & 1 != 0, what & 2 != 0);
        // Power conditions: taken.
        if what & 0xf0 != 0 || !load_eject {
            return Reply::Done;
        }
        if !start && !self.medium.open && self.medium.locked {
            return Reply::Check(Sense::LOCKED);
        }
        self.medium.move_tray(!start);
        Reply::Done
    }

    /// Mode pages (MMC-5, 7): error recovery, CD parameters, capabilities.
    fn mode_sense(&self, page: u8, room: u64, header: usize) -> Reply {
        if page >> 6 == 3 {
            // Saved values are not kept.
            return Reply::Check(Sense::new(5, 0x39, 0));
        }
        let recovery: &[u8] = &[0x01, 6, 0, 5, 0, 0, 0, 0];
        let cd: &[u8] = &[0x0d, 6, 0, 0, 0, 60, 0, 75];
        let [high, low] = 706u16.to_be_bytes();
        let lock = if self.medium.locked { 0x2f } else { 0x2d };
        let capabilities: &[u8] =
            &[0x2a, 18, 0x3b, 0, 0x71, 0x60, lock, 0, high, low, 0, 2, 2, 0, high, low, 0, 0, 0, 0];
        let body: Vec<u8> = match page & 0x3f {
            0x01 => recovery.to_vec(),
            0x0d => cd.to_vec(),
            0x2a => capabilities.to_vec(),
            0x3f => [recovery, cd, capabilities].concat(),
            _ => return Reply::Check(Sense::INVALID_FIELD),
        };
        let kind = match (self.medium.is_there(), self.medium.open) {
            (true, _) => 0x01,
            (_, true) => 0x71,
            _ => 0x70,
        };
        let mut data = vec![0; header];
        if header == 4 {
            (data[0], data[1]) = ((header + body.len() - 1) as u8, kind);
        } else {
            data[..2].copy_from_slice(&((header + body.len() - 2) as u16).to_be_bytes());
            data[2] = kind;
        }
        data.extend(body);
        cut(data, room)
    }

    fn toc(&self, cdb: &[u8; 16]) -> Reply {
        let (in_msf, room, first) = (cdb[1] & 2 != 0, be(&cdb[7..9]), cdb[6]);
        // Old hosts put the format into the last byte.
        let format = if cdb[2] & 15 != 0 { cdb[2] & 15 } else { cdb[9] >> 6 };
        let at = |block: u64| if in_msf { msf(block) } else { (block as u32).to_be_bytes() };
        let entry = |track: u8, block: u64| [&[0, 0x14, track, 0][..], &at(block)].concat();
        let body = match format {
            0 if first > 1 && first != LEAD_OUT => return Reply::Check(Sense::INVALID_FIELD),
            0 => {
                let track = if first <= 1 { entry(1, 0) } else { Vec::new() };
                [track, entry(LEAD_OUT, self.blocks())].concat()
            }
            // One session, which begins with track 1.
            1 => entry(1, 0),
            2 => {
                let end = msf(self.blocks());
                let point = |point: u8, place: [u8; 4]| [&[1, 0x14, 0, point, 0, 0, 0][..], &place].concat();
                let numbers = [0, 1, 0, 0];
                [point(0xa0, numbers), point(0xa1, numbers), point(0xa2, end), point(1, msf(0))].concat()
            }
            _ => return Reply::Check(Sense::INVALID_FIELD),
        };
        // The length counts from behind itself; the first and last track or session follow it.
        let len = (body.len() + 2) as u16;
        cut([&len.to_be_bytes()[..], &[1, 1], &body].concat(), room)
    }

    /// Features and profiles (MMC-5, 6.5).
    fn configuration(&self, cdb: &[u8; 16]) -> Reply {
        let (selection, first, room) = (cdb[1] & 3, be(&cdb[2..4]), be(&cdb[7..9]));
        let (cd, dvd) = (0x0008u16, 0x0010u16);
        let current = match (self.medium.is_there(), self.is_dvd()) {
            (false, _) => 0,
            (_, true) => dvd,
            _ => cd,
        };
        let profile = |p: u16| {
            let [high, low] = p.to_be_bytes();
            [high, low, u8::from(p == current), 0]
        };
        let there = u8::from(current != 0);
        let of = |kind: u16| u8::from(current == kind);
        // Number, version with persistent and current bits, data.
        let features: [(u16, u8, Vec<u8>); 6] = [
            (0, 3, [profile(dvd), profile(cd)].concat()),
            (1, 0x0b, vec![0, 0, 0, if self.atapi { 2 } else { 1 }, 0, 0, 0, 0]),
            (3, 3, vec![0x39, 0, 0, 0]),
            (0x10, there, vec![0, 0, 8, 0, 0, 1, 1, 0]),
            (0x1e, 8 | of(cd), vec![0, 0, 0, 0]),
            (0x1f, 8 | of(dvd), vec![0, 0, 0, 0]),
        ];
        let mut body = Vec::new();
        for (number, flags, data) in features {
            let wanted = match selection {
                0 => u64::from(number) >= first,
                1 => u64::from(number) >= first && flags & 1 != 0,
                _ => u64::from(number) == first,
            };
            if wanted {
                body.extend(number.to_be_bytes());
                body.extend([flags, data.len() as u8]);
                body.extend(data);
            }
        }
        let len = (body.len() + 4) as u32;
        let head = [&len.to_be_bytes()[..], &[0, 0], &current.to_be_bytes()].concat();
        cut([head, body].concat(), room)
    }

    fn events(&mut self, cdb: &[u8; 16]) -> Reply {
        const MEDIA: u8 = 4;
        // Only polling.
        if cdb[1] & 1 == 0 {
            return Reply::Check(Sense::INVALID_FIELD);
        }
        let data = if cdb[4] & 1 << MEDIA != 0 {
            let code = self.medium.take_event();
            let state = u8::from(self.medium.open) | u8::from(self.medium.is_there()) << 1;
            vec![0, 6, MEDIA, 1 << MEDIA, code, state, 0, 0]
        } else {
            // None of the classes asked for.
            vec![0, 2, 0x80, 1 << MEDIA]
        };
        cut(data, be(&cdb[7..9]))
    }

    /// A finished disc of one session.
    fn disc_information(&self, cdb: &[u8; 16]) -> Reply {
        if cdb[1] & 7 != 0 {
            return Reply::Check(Sense::INVALID_FIELD);
        }
        let mut data = vec![0; 34];
        data[1..8].copy_from_slice(&[32, 0x0e, 1, 1, 1, 1, 0x20]);
        cut(data, be(&cdb[7..9]))
    }

    fn track_information(&self, cdb: &[u8; 16]) -> Reply {
        let asked = be(&cdb[2..6]);
        let there = if cdb[1] & 3 == 0 { asked < self.blocks() } else { asked == 1 };
        if !there {
            return Reply::Check(Sense::INVALID_FIELD);
        }
        let mut data = vec![0; 36];
        data[1..7].copy_from_slice(&[34, 1, 1, 0, 4, 1]);
        data[24..28].copy_from_slice(&(self.blocks() as u32).to_be_bytes());
        cut(data, be(&cdb[7..9]))
    }

    /// Physical format and copyright of a DVD.
    fn dvd_structure(&self, cdb: &[u8; 16]) -> Reply {
        if !self.is_dvd() {
            // Not that kind of disc.
            return Reply::Check(Sense::new(5, 0x30, 2));
        }
        let mut data = match cdb[7] {
            0 => {
                let mut data = vec![0; 2052];
                // DVD-ROM of book version 1, 120 mm; one layer; from block 0x30000 on.
                (data[4], data[5], data[6]) = (1, 0x0f, 1);
                data[8..12].copy_from_slice(&0x3_0000u32.to_be_bytes());
                data[12..16].copy_from_slice(&(0x2_ffff + self.blocks() as u32).to_be_bytes());
                data
            }
            1 => vec![0; 8],
            _ => return Reply::Check(Sense::INVALID_FIELD),
        };
        let len = (data.len() - 2) as u16;
        data[..2].copy_from_slice(&len.to_be_bytes());
        cut(data, be(&cdb[8..10]))
    }
}
