//! Commands of the floppy controller (datasheet, section 5): their bytes, data and results.
//!
//! Data is moved one side of a track at a time. The invariant between calls: in [`Phase::Work`] a request is in flight,
//! the host's DMA channel is awaited, or the machine stands.

use super::media::SECTOR;
use super::{CHANNEL, FloppyController, dor, msr};
use crate::requests::Op;

/// Status register 0.
mod st0 {
    pub(super) const ABNORMAL: u8 = 0x40;
    pub(super) const INVALID: u8 = 0x80;
    pub(super) const SEEK_END: u8 = 0x20;
    pub(super) const READY_CHANGED: u8 = 0xc0;
}

/// Status register 1.
mod st1 {
    pub(super) const NO_ADDRESS: u8 = 1 << 0;
    pub(super) const WRITE_PROTECTED: u8 = 1 << 1;
    pub(super) const NO_DATA: u8 = 1 << 2;
    pub(super) const DATA_ERROR: u8 = 1 << 5;
    pub(super) const END: u8 = 1 << 7;
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its bytes come in; none yet if idle.
    #[default]
    Bytes,
    /// Something has to be done that the host does not take part in.
    Work,
    /// The host moves data through the data register.
    Host,
    /// The results go out.
    Result,
}

impl Phase {
    pub(super) const ALL: [Phase; 4] = [Phase::Bytes, Phase::Work, Phase::Host, Phase::Result];
}

/// What is to be done with the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Job {
    #[default]
    None,
    /// The disk is to be read into the buffer.
    Fetch,
    /// The buffer goes to the host.
    Give,
    /// The host is to fill the buffer.
    Take,
    /// The buffer goes to the disk.
    Store,
    /// The host is to send the headers of a track's sectors.
    Headers,
}

impl Job {
    pub(super) const ALL: [Job; 6] = [Job::None, Job::Fetch, Job::Give, Job::Take, Job::Store, Job::Headers];
}

/// The command under way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Command {
    pub(super) phase: Phase,
    pub(super) job: Job,
    /// Command bytes, then results.
    pub(super) bytes: Vec<u8>,
    /// Data of one side, and how much of it has been moved.
    pub(super) buffer: Vec<u8>,
    pub(super) pos: usize,
    pub(super) track: u8,
    pub(super) head: u8,
    pub(super) sector: u8,
    /// The DMA channel has come to its end.
    pub(super) end: bool,
}

/// Most bytes of a command or result.
pub(super) const MAX_BYTES: usize = 16;
/// Largest buffer: one side with the most sectors a command can name.
pub(super) const MAX_BUFFER: usize = 256 * SECTOR as usize;

impl Command {
    pub(super) fn status(&self, no_dma: bool) -> u8 {
        match self.phase {
            Phase::Bytes if self.bytes.is_empty() => msr::READY,
            Phase::Bytes => msr::READY | msr::BUSY,
            Phase::Work => msr::BUSY,
            Phase::Host => {
                let way = if self.job == Job::Give { msr::TO_HOST } else { 0 };
                msr::READY | msr::BUSY | way | if no_dma { msr::NO_DMA } else { 0 }
            }
            Phase::Result => msr::READY | msr::BUSY | msr::TO_HOST,
        }
    }
}

/// How many bytes a command has, by its first.
pub(super) fn length(first: u8) -> usize {
    match first & 0x1f {
        0x02 | 0x05 | 0x06 | 0x09 | 0x0c | 0x11 | 0x16 | 0x19 | 0x1d => 9,
        0x03 | 0x0f => 3,
        0x04 | 0x07 | 0x0a | 0x12 => 2,
        0x0d => 6,
        0x13 => 4,
        _ => 1,
    }
}

impl FloppyController {
    pub(super) fn write_fifo(&mut self, value: u8) {
        if self.r.dor & dor::RUN == 0 {
            return;
        }
        match self.command.phase {
            Phase::Bytes => {
                self.command.bytes.push(value);
                if self.command.bytes.len() >= length(self.command.bytes[0]) {
                    let bytes = std::mem::take(&mut self.command.bytes);
                    self.execute(&bytes);
                    self.work();
                }
            }
            Phase::Host if matches!(self.command.job, Job::Take | Job::Headers) => {
                let pos = self.command.pos;
                if let Some(to) = self.command.buffer.get_mut(pos) {
                    *to = value;
                }
                self.command.pos += 1;
                if self.command.pos >= self.command.buffer.len() {
                    self.command.phase = Phase::Work;
                    self.taken();
                    self.work();
                }
            }
            _ => {}
        }
    }

    pub(super) fn read_fifo(&mut self) -> u8 {
        match self.command.phase {
            Phase::Host if self.command.job == Job::Give => {
                let byte = self.command.buffer.get(self.command.pos).copied().unwrap_or(0);
                self.command.pos += 1;
                if self.command.pos >= self.command.buffer.len() {
                    self.command.phase = Phase::Work;
                    self.given();
                    self.work();
                }
                byte
            }
            Phase::Result => {
                self.set_interrupt(false);
                let byte = if self.command.bytes.is_empty() { 0 } else { self.command.bytes.remove(0) };
                if self.command.bytes.is_empty() {
                    self.command = Command::default();
                }
                byte
            }
            _ => 0,
        }
    }

    fn result(&mut self, bytes: &[u8]) {
        self.command = Command { phase: Phase::Result, bytes: bytes.to_vec(), ..Command::default() };
    }

    fn no_result(&mut self) {
        self.command = Command::default();
    }

    /// Executes a command whose bytes are complete.
    fn execute(&mut self, b: &[u8]) {
        // What selects a drive and a head.
        let select = b.get(1).copied().unwrap_or(0);
        match b[0] & 0x1f {
            0x02 if b[0] & 0x9f == 0x02 => self.transfer(b, Job::Fetch),
            0x06 | 0x0c | 0x16 => self.transfer(b, Job::Fetch),
            0x05 | 0x09 => self.transfer(b, Job::Take),
            0x03 => {
                self.r.specify = [b[1], b[2]];
                self.no_result();
            }
            0x04 => {
                let unit = usize::from(select & 3);
                let drive = self.drives.get(unit);
                let track0 = drive.is_some_and(|d| d.track == 0);
                let protected = drive.and_then(|d| d.disk.as_ref()).is_some_and(|d| d.read_only());
                self.result(&[0x28 | select & 7 | u8::from(track0) << 4 | u8::from(protected) << 6]);
            }
            0x07 => self.seek(select, 0),
            0x0f if b[0] & 0x80 == 0 => self.seek(select, b[2]),
            0x0f => {
                let at = self.drives.get(usize::from(select & 3)).map_or(0, |d| d.track);
                let to = if b[0] & 0x40 != 0 { at.saturating_add(b[2]) } else { at.saturating_sub(b[2]) };
                self.seek(select, to);
            }
            0x08 => self.sense_interrupt(),
            0x0a => self.read_id(select),
            0x0d => self.format(b),
            0x0e => {
                let [a, b] = [self.drives[0].track, self.drives[1].track];
                let (s, c) = (self.r.specify, self.r.configure);
                let lock = u8::from(self.r.locked) << 7 | self.r.perpendicular & 0x7f;
                self.result(&[a, b, 0, 0, s[0], s[1], 0, lock, c[0], c[1]]);
            }
            0x10 => self.result(&[0x90]),
            0x12 => {
                self.r.perpendicular = b[1];
                self.no_result();
            }
            0x13 => {
                self.r.configure = [b[2], b[3]];
                self.no_result();
            }
            0x14 => {
                self.r.locked = b[0] & 0x80 != 0;
                self.result(&[u8::from(self.r.locked) << 4]);
            }
            0x18 if b[0] == 0x18 => self.result(&[0x41]),
            _ => self.result(&[st0::INVALID]),
        }
    }

    fn sense_interrupt(&mut self) {
        if self.r.reset_pending > 0 {
            let unit = 4 - self.r.reset_pending;
            self.r.reset_pending -= 1;
            let track = self.drives.get(usize::from(unit)).map_or(0, |d| d.track);
            self.set_interrupt(false);
            return self.result(&[st0::READY_CHANGED | unit, track]);
        }
        match self.r.seek.take() {
            Some(status) => {
                let track = self.drives.get(usize::from(status & 3)).map_or(0, |d| d.track);
                self.set_interrupt(false);
                self.result(&[status, track]);
            }
            None => self.result(&[st0::INVALID]),
        }
    }

    fn seek(&mut self, select: u8, track: u8) {
        self.no_result();
        self.r.reset_pending = 0;
        let mut status = st0::SEEK_END | select & 7;
        match self.drives.get_mut(usize::from(select & 3)).filter(|d| d.there) {
            Some(drive) => {
                drive.track = track;
                // The head moves over the new diskette.
                drive.changed &= drive.disk.is_none();
            }
            // Recalibrating does not find track 0.
            None => status |= st0::ABNORMAL | 0x10,
        }
        self.r.seek = Some(status);
        self.set_interrupt(true);
    }

    /// Ends a command with its results: status, and the sector that would be next.
    fn finish(&mut self, st0: u8, st1: u8) {
        let c = &self.command;
        let select = self.r.dor & 3 | c.head << 2;
        let bytes = [st0 | select, st1, 0, c.track, c.head, c.sector, 2];
        self.result(&bytes);
        self.set_interrupt(true);
    }

    fn fail(&mut self, st1: u8) {
        self.finish(st0::ABNORMAL, st1);
    }

    fn read_id(&mut self, select: u8) {
        let drive = &self.drives[self.selected()];
        self.command.head = select >> 2 & 1;
        self.command.track = drive.track;
        self.command.sector = 1;
        if self.is_readable() { self.finish(0, 0) } else { self.fail(st1::NO_ADDRESS) }
    }

    /// Whether there is a diskette, recorded at the data rate selected.
    fn is_readable(&self) -> bool {
        let drive = &self.drives[self.selected()];
        drive.there && drive.format().is_some_and(|f| f.rate == self.r.rate)
    }

    /// Reading, verifying or writing sectors.
    fn transfer(&mut self, b: &[u8], job: Job) {
        let unit = self.selected();
        let c = &mut self.command;
        (c.track, c.head, c.sector) = (b[2], b[3] & 1, b[4]);
        (c.phase, c.bytes) = (Phase::Work, b.to_vec());
        let (track, head, sector) = (c.track, c.head, c.sector);
        // Reading a track begins with its first sector.
        if b[0] & 0x1f == 2 {
            self.command.sector = 1;
        }
        let drive = &mut self.drives[unit];
        if drive.there && drive.format().is_some_and(|f| track < f.tracks) {
            drive.track = track;
        }
        let protected = drive.disk.as_ref().is_some_and(|d| d.read_only());
        if !self.is_readable() {
            return self.fail(st1::NO_ADDRESS);
        }
        if job == Job::Take && protected {
            return self.fail(st1::WRITE_PROTECTED);
        }
        if b[5] != 2 || self.drives[unit].offset(track, head, sector.max(1)).is_none() {
            return self.fail(st1::NO_DATA);
        }
        self.side(job);
    }

    /// Prepares the data of the sectors on this side that the command names.
    fn side(&mut self, job: Job) {
        let (last, sector) = (self.command.bytes[6], self.command.sector);
        let format = self.drives[self.selected()].format();
        let most = format.map_or(0, |f| f.sectors);
        if sector > last.min(most) {
            return self.fail(st1::NO_DATA);
        }
        let sectors = usize::from(last.min(most) - sector + 1);
        self.command.buffer = vec![0; sectors * SECTOR as usize];
        (self.command.pos, self.command.job) = (0, job);
    }

    /// A side is done: the next, or the end.
    fn next_side(&mut self) {
        let (first, last) = (self.command.bytes[0], self.command.bytes[6]);
        let job = if first & 0x1f == 5 || first & 0x1f == 9 { Job::Take } else { Job::Fetch };
        let done = (self.command.pos / SECTOR as usize) as u8;
        self.command.sector = self.command.sector.saturating_add(done);
        if self.command.end {
            if self.command.sector > last {
                self.advance(first);
            }
            return self.finish(0, 0);
        }
        // Both sides, and the first is done.
        if first & 0x80 != 0 && self.command.head == 0 && self.command.sector > last {
            (self.command.head, self.command.sector) = (1, 1);
            return self.side(job);
        }
        // The sectors named are moved. Verifying asks for no more; else the host should have ended it.
        let by_host = self.r.specify[1] & 1 != 0;
        if first & 0x1f == 0x16 || by_host {
            self.advance(first);
            return self.finish(0, 0);
        }
        self.fail(st1::END);
    }

    /// Names the sector after the last.
    fn advance(&mut self, first: u8) {
        self.command.sector = 1;
        if first & 0x80 != 0 && self.command.head == 0 {
            self.command.head = 1;
        } else {
            self.command.track = self.command.track.saturating_add(1);
            self.command.head = if first & 0x80 != 0 { 0 } else { self.command.head };
        }
    }

    fn format(&mut self, b: &[u8]) {
        let drive = &self.drives[self.selected()];
        self.command.head = b[1] >> 2 & 1;
        (self.command.track, self.command.sector) = (drive.track, 1);
        let protected = drive.disk.as_ref().is_some_and(|d| d.read_only());
        if drive.disk.is_none() {
            return self.fail(st1::NO_ADDRESS);
        }
        if protected {
            return self.fail(st1::WRITE_PROTECTED);
        }
        if b[2] != 2 || b[3] == 0 || drive.offset(drive.track, self.command.head, b[3]).is_none() {
            return self.fail(st1::NO_DATA);
        }
        (self.command.phase, self.command.bytes) = (Phase::Work, b.to_vec());
        self.command.buffer = vec![0; usize::from(b[3]) * 4];
        (self.command.pos, self.command.job) = (0, Job::Headers);
    }

    /// Goes on with what the command waits for.
    pub(super) fn work(&mut self) {
        while self.command.phase == Phase::Work && !self.in_flight && !self.paused {
            let before = (self.command.job, self.command.pos, self.command.sector, self.command.head);
            match self.command.job {
                Job::Fetch | Job::Store => self.start(),
                Job::Give | Job::Take | Job::Headers => self.move_data(),
                Job::None => self.fail(st1::NO_DATA),
            }
            let after = (self.command.job, self.command.pos, self.command.sector, self.command.head);
            // The host's channel is masked: whoever unmasks it wakes us.
            if before == after {
                break;
            }
        }
    }

    fn start(&mut self) {
        let unit = self.selected();
        let c = &mut self.command;
        let place = self.drives[unit].offset(c.track, c.head, c.sector);
        let (Some(disk), Some(offset)) = (self.drives[unit].disk.clone(), place) else {
            return self.fail(st1::NO_DATA);
        };
        // An image may be shorter than its format.
        let len = (c.buffer.len() as u64).min(disk.len().saturating_sub(offset));
        let op = if c.job == Job::Fetch {
            Op::Read((offset, len))
        } else {
            Op::Write { offset, data: c.buffer[..len as usize].to_vec(), fua: false }
        };
        self.in_flight = true;
        self.requests.start(&disk, self.generation, op);
        self.poll();
    }

    pub(super) fn poll(&mut self) {
        while let Some(done) = self.requests.take() {
            if done.tag != self.generation {
                continue;
            }
            self.in_flight = false;
            match (done.result, self.command.job) {
                (Ok(data), Job::Fetch) => {
                    let n = data.len().min(self.command.buffer.len());
                    self.command.buffer[..n].copy_from_slice(&data[..n]);
                    if self.command.bytes[0] & 0x1f == 0x16 {
                        self.command.pos = self.command.buffer.len();
                        self.next_side();
                    } else {
                        self.command.job = Job::Give;
                    }
                }
                (Ok(_), Job::Store) if self.command.bytes[0] & 0x1f == 0x0d => self.finish(0, 0),
                (Ok(_), _) => self.next_side(),
                (Err(_), _) => self.fail(st1::DATA_ERROR),
            }
        }
    }

    /// Moves data by the DMA channel as far as it goes, or leaves it to the host.
    fn move_data(&mut self) {
        if self.r.specify[1] & 1 != 0 {
            self.command.phase = Phase::Host;
            return self.set_interrupt(true);
        }
        let c = &mut self.command;
        let rest = &mut c.buffer[c.pos..];
        let moved = if c.job == Job::Give {
            self.channels.to_memory(CHANNEL, &self.memory, rest, &self.waker)
        } else {
            self.channels.from_memory(CHANNEL, &self.memory, rest, &self.waker)
        };
        let Some(moved) = moved else { return };
        c.pos += moved.bytes;
        c.end = moved.end;
        if c.end || c.pos == c.buffer.len() {
            if c.job == Job::Give { self.given() } else { self.taken() }
        }
    }

    fn given(&mut self) {
        self.next_side();
    }

    /// The host has sent what it sends: whole sectors are written, the rest of the last as zero.
    fn taken(&mut self) {
        let c = &mut self.command;
        if c.job == Job::Headers {
            let (sectors, filler) = (usize::from(c.bytes[3]), c.bytes[5]);
            c.buffer = vec![filler; sectors * SECTOR as usize];
        } else {
            let whole = c.pos.div_ceil(SECTOR as usize) * SECTOR as usize;
            c.buffer.truncate(whole);
            c.pos = whole;
        }
        c.job = Job::Store;
    }
}
