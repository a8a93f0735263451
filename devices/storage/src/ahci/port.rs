//! A port: its registers, and the commands of the device behind it (AHCI 1.3.1, sections 3.3 and 5; SATA 3 for the FISes).
//!
//! Commands that are not queued run one at a time, in the order of their slots; queued ones all at once. A job has a request
//! in flight, unless the machine stands. After an error nothing is begun until the host has stopped the port.

use device::Dma;

use super::table::{CLEAR_BUSY, Header};
use crate::ata::{Action, SECTOR, Sent, TaskFile, error, status};
use crate::ide::{Drive, packet_device};
use crate::requests::{Done, Op, Requests};
use crate::scsi::{Reply, Sense};

/// Bytes that the disk reads or writes at a time.
const PIECE: u64 = 256 << 10;

/// Command register.
mod cmd {
    pub(super) const START: u32 = 1 << 0;
    pub(super) const OVERRIDE: u32 = 1 << 3;
    pub(super) const RECEIVE: u32 = 1 << 4;
    pub(super) const RECEIVING: u32 = 1 << 14;
    pub(super) const RUNNING: u32 = 1 << 15;
    /// What the host may write: start, spin-up, power, receive, ATAPI and power management bits.
    pub(super) const WRITABLE: u32 = START | 6 | RECEIVE | 0x0f << 24;
}

/// Interrupt status register.
mod is {
    pub(super) const REGISTERS: u32 = 1 << 0;
    pub(super) const PIO_SETUP: u32 = 1 << 1;
    pub(super) const SET_BITS: u32 = 1 << 3;
    pub(super) const CONNECT: u32 = 1 << 6;
    pub(super) const OVERFLOW: u32 = 1 << 24;
    pub(super) const TASK_FILE_ERROR: u32 = 1 << 30;
    pub(super) const ALL: u32 = 0xfdc0_00ff;
}

/// Offsets of FISes in the memory for what is received.
mod received {
    pub(super) const PIO_SETUP: u64 = 0x20;
    pub(super) const REGISTERS: u64 = 0x40;
    pub(super) const SET_BITS: u64 = 0x58;
}

/// Present, first generation speed, active.
const CONNECTED: u32 = 0x113;
/// Exchanged: what a connection leaves in the error register.
const EXCHANGED: u32 = 1 << 26;

const READ_QUEUED: u8 = 0x60;
const WRITE_QUEUED: u8 = 0x61;

/// What a job does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Flush,
    Read,
    Write,
    Verify,
    Trim,
    PacketRead,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] =
        [Kind::Flush, Kind::Read, Kind::Write, Kind::Verify, Kind::Trim, Kind::PacketRead];
}

/// A command that the disk works on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Job {
    pub(super) slot: u8,
    pub(super) kind: Kind,
    pub(super) header: Header,
    /// Bytes of the disk still to be moved, and how many have been.
    pub(super) offset: u64,
    pub(super) left: u64,
    pub(super) moved: u64,
    pub(super) fua: bool,
    pub(super) queued: bool,
    /// The host expects the FIS of a transfer by processor.
    pub(super) pio: bool,
    pub(super) in_flight: bool,
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Registers {
    pub(super) list: u64,
    pub(super) received: u64,
    pub(super) is: u32,
    pub(super) ie: u32,
    pub(super) cmd: u32,
    pub(super) signature: u32,
    pub(super) control: u32,
    pub(super) errors: u32,
    pub(super) active: u32,
    pub(super) issued: u32,
    /// The device's registers; status and error are the port's task file.
    pub(super) file: TaskFile,
    /// An error holds the port.
    pub(super) halted: bool,
    /// The device is being reset by a FIS.
    pub(super) resetting: bool,
}

pub(super) struct Port {
    pub(super) drive: Drive,
    pub(super) r: Registers,
    pub(super) jobs: Vec<Job>,
    dma: Dma,
    requests: Requests,
    /// High part of the tags of the present jobs.
    generation: u64,
    paused: bool,
}

impl Port {
    pub(super) fn new(drive: Drive, dma: Dma, requests: Requests) -> Self {
        let mut port = Port {
            drive,
            r: Registers::default(),
            jobs: Vec::new(),
            dma,
            requests,
            generation: 0,
            paused: false,
        };
        port.connect();
        port
    }

    fn is_present(&self) -> bool {
        !matches!(self.drive, Drive::Empty)
    }

    /// The device says what it is.
    fn connect(&mut self) {
        self.r.file = TaskFile::default();
        match &mut self.drive {
            Drive::Empty => {
                (self.r.signature, self.r.file.status) = (u32::MAX, 0x7f);
                return;
            }
            Drive::Disk(disk) => {
                disk.reset();
                self.r.file.sign(false);
                self.r.signature = 0x0000_0101;
            }
            Drive::Cd { .. } => {
                self.r.file.sign(true);
                self.r.signature = 0xeb14_0101;
            }
        }
        self.r.file.status = status::IDLE;
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.cancel();
        self.r = Registers::default();
        if let Drive::Cd { cd, .. } = &mut self.drive {
            (cd.sense, cd.was_reset, cd.medium.locked) = (Sense::NONE, false, false);
        }
        self.connect();
    }

    fn cancel(&mut self) {
        self.generation += 1;
        self.jobs.clear();
        self.r.resetting = false;
    }

    /// After a restore: nothing begins before [`Port::resume`].
    pub(super) fn hold(&mut self) {
        self.generation += 1;
        self.paused = true;
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        let r = &self.r;
        match offset {
            0x00 => r.list as u32,
            0x04 => (r.list >> 32) as u32,
            0x08 => r.received as u32,
            0x0c => (r.received >> 32) as u32,
            0x10 => r.is,
            0x14 => r.ie,
            0x18 => {
                let slot = r.issued.trailing_zeros() & 31;
                r.cmd | if r.cmd & cmd::RUNNING != 0 { slot << 8 } else { 0 }
            }
            0x20 => u32::from(r.file.error) << 8 | u32::from(r.file.status),
            0x24 => r.signature,
            0x28 if self.is_present() && r.control & 15 == 0 => CONNECTED,
            0x2c => r.control,
            0x30 => r.errors,
            0x34 => r.active,
            0x38 => r.issued,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) {
        let r = &mut self.r;
        let low = |old: u64, mask: u32| old & !0xffff_ffff | u64::from(value & mask);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x00 => r.list = low(r.list, !0x3ff),
            0x04 => r.list = high(r.list),
            0x08 => r.received = low(r.received, !0xff),
            0x0c => r.received = high(r.received),
            0x10 => r.is &= !value,
            0x14 => r.ie = value & is::ALL,
            0x18 => self.write_command(value),
            0x2c => self.write_control(value),
            0x30 => r.errors &= !value,
            0x34 => r.active |= value,
            0x38 if r.cmd & cmd::START != 0 => {
                r.issued |= value;
                self.work();
            }
            _ => {}
        }
    }

    fn write_command(&mut self, value: u32) {
        let before = self.r.cmd;
        let mut now = value & cmd::WRITABLE;
        if value & cmd::OVERRIDE != 0 {
            self.r.file.status &= !(status::BUSY | status::DATA);
        }
        if now & cmd::START != 0 {
            now |= cmd::RUNNING;
        }
        if now & cmd::RECEIVE != 0 {
            now |= cmd::RECEIVING;
        }
        // Power management is done at once.
        self.r.cmd = now & !(0x0f << 28);
        if before & cmd::START != 0 && now & cmd::START == 0 {
            let busy = !self.jobs.is_empty();
            self.cancel();
            (self.r.issued, self.r.active, self.r.halted) = (0, 0, false);
            if busy {
                self.r.file.status = status::IDLE;
            }
        }
        self.work();
    }

    fn write_control(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.r.control, value & 0xfff);
        // The link comes up again after a reset.
        if before & 15 == 1 && value & 15 == 0 {
            self.cancel();
            (self.r.issued, self.r.active, self.r.halted) = (0, 0, false);
            self.connect();
            if self.is_present() {
                self.r.errors |= EXCHANGED;
                self.r.is |= is::CONNECT;
                self.registers_fis(false);
            }
        }
    }

    /// Whether the port interrupts.
    pub(super) fn interrupts(&self) -> bool {
        self.r.is & self.r.ie != 0
    }

    // FISes to the host.

    fn post(&mut self, at: u64, fis: &[u8], cause: u32) {
        if self.r.cmd & cmd::RECEIVE != 0 {
            // A host without memory for them misses them.
            let _ = self.dma.write(self.r.received.wrapping_add(at), fis);
        }
        self.r.is |= cause;
    }

    fn file_bytes(&self, kind: u8, interrupt: bool) -> [u8; 20] {
        let f = &self.r.file;
        let mut fis = [0; 20];
        fis[0] = kind;
        fis[1] = u8::from(interrupt) << 6;
        (fis[2], fis[3], fis[7]) = (f.status, f.error, f.device);
        for (i, register) in f.lba.iter().enumerate() {
            (fis[4 + i], fis[8 + i]) = (register[0], register[1]);
        }
        (fis[12], fis[13]) = (f.count[0], f.count[1]);
        fis
    }

    fn registers_fis(&mut self, interrupt: bool) {
        let fis = self.file_bytes(0x34, interrupt);
        let cause = if interrupt { is::REGISTERS } else { 0 };
        self.post(received::REGISTERS, &fis, cause);
    }

    fn pio_fis(&mut self, bytes: u64) {
        let mut fis = self.file_bytes(0x5f, true);
        fis[1] |= 0x20;
        fis[15] = self.r.file.status;
        fis[16..18].copy_from_slice(&(bytes as u16).to_le_bytes());
        self.post(received::PIO_SETUP, &fis, is::PIO_SETUP);
    }

    fn bits_fis(&mut self, bits: u32, interrupt: bool) {
        let mut fis = [0; 8];
        (fis[0], fis[1]) = (0xa1, u8::from(interrupt) << 6);
        (fis[2], fis[3]) = (self.r.file.status & 0x77, self.r.file.error);
        fis[4..].copy_from_slice(&bits.to_le_bytes());
        self.r.active &= !bits;
        self.post(received::SET_BITS, &fis, is::SET_BITS);
    }

    // Commands.

    /// Begins what can be begun, and goes on with what has been.
    pub(super) fn work(&mut self) {
        if self.paused {
            return;
        }
        // Each slot is begun once: a command that is done at once has left.
        for _ in 0..32 {
            let busy = self.jobs.iter().fold(0, |bits, job| bits | 1u32 << job.slot);
            let ready = self.r.issued & !busy;
            let alone = self.jobs.iter().any(|job| !job.queued);
            if self.r.cmd & cmd::START == 0 || self.r.halted || ready == 0 || alone || !self.is_present() {
                break;
            }
            let queued = !self.jobs.is_empty();
            if !self.begin(ready.trailing_zeros() as u8, queued) {
                break;
            }
            self.run();
        }
        self.run();
    }

    /// Begins the command of a slot; false if it has to wait until those that are queued are done.
    fn begin(&mut self, slot: u8, beside_queued: bool) -> bool {
        let header = Header::load(&self.dma, self.r.list, slot);
        let Some((header, fis)) = header.and_then(|h| Some((h, h.fis(&self.dma)?))) else {
            self.r.issued &= !(1 << slot);
            return true;
        };
        let queued = matches!(fis[2], READ_QUEUED | WRITE_QUEUED) && fis[1] & 0x80 != 0;
        if beside_queued && !queued {
            return false;
        }
        let job = Job { slot, header, queued, ..Job::default() };
        if fis[0] != 0x27 {
            self.r.issued &= !(1 << slot);
            return true;
        }
        if fis[1] & 0x80 == 0 {
            self.control_fis(&job, fis[15]);
            return true;
        }
        let f = &mut self.r.file;
        f.feature = [fis[3], fis[11]];
        f.lba = [[fis[4], fis[8]], [fis[5], fis[9]], [fis[6], fis[10]]];
        (f.device, f.count) = (fis[7], [fis[12], fis[13]]);
        (f.error, f.status) = (0, status::BUSY);
        if queued {
            self.begin_queued(fis[2], job);
            return true;
        }
        let mut file = self.r.file;
        let action = match &mut self.drive {
            Drive::Empty => return true,
            Drive::Disk(disk) => disk.command(fis[2], &mut file),
            Drive::Cd { identity, mode, .. } => packet_device(fis[2], identity, mode, &mut file),
        };
        self.r.file = file;
        self.act(job, action);
        true
    }

    /// The host writes the device's control register: a software reset.
    fn control_fis(&mut self, job: &Job, control: u8) {
        if control & 4 != 0 {
            self.r.resetting = true;
            self.r.file.status = if job.header.flags & CLEAR_BUSY != 0 { 0 } else { status::BUSY };
            self.r.issued &= !(1 << job.slot);
            return;
        }
        if std::mem::take(&mut self.r.resetting) {
            self.connect();
        }
        self.r.issued &= !(1 << job.slot);
        self.registers_fis(false);
    }

    fn begin_queued(&mut self, command: u8, mut job: Job) {
        let f = self.r.file;
        let Drive::Disk(disk) = &self.drive else { return self.fail(job, error::ABORTED) };
        let (lba, count) = (f.lba48(), u32::from(f.feature[1]) << 8 | u32::from(f.feature[0]));
        let sectors = u64::from(if count == 0 { 0x1_0000 } else { count });
        let write = command == WRITE_QUEUED;
        if disk.identity.queue == 0 || f.count[0] >> 3 != job.slot || write && disk.disk.read_only() {
            return self.fail(job, error::ABORTED);
        }
        if lba.checked_add(sectors).is_none_or(|end| end > disk.sectors()) {
            return self.fail(job, error::NOT_FOUND);
        }
        job.kind = if write { Kind::Write } else { Kind::Read };
        job.fua = f.device & 0x80 != 0 || !disk.write_cache;
        (job.offset, job.left) = (lba * SECTOR, sectors * SECTOR);
        // The device lets go of the bus at once.
        self.r.issued &= !(1 << job.slot);
        self.r.file.status = status::IDLE;
        self.registers_fis(false);
        self.jobs.push(job);
    }

    fn act(&mut self, mut job: Job, action: Action) {
        match action {
            Action::Done => return self.finish(&job),
            Action::Failed(bits) => return self.fail(job, bits),
            Action::In(data) => {
                job.pio = true;
                return self.deliver(job, &data);
            }
            Action::Out(_, Sent::Log) => return self.finish(&job),
            Action::Out(len, Sent::Trim) => (job.kind, job.left) = (Kind::Trim, len.into()),
            Action::Read { lba, sectors, dma, .. } => {
                (job.kind, job.pio) = (Kind::Read, !dma);
                (job.offset, job.left) = (lba * SECTOR, u64::from(sectors) * SECTOR);
            }
            Action::Write { lba, sectors, fua, .. } => {
                (job.kind, job.fua) = (Kind::Write, fua);
                (job.offset, job.left) = (lba * SECTOR, u64::from(sectors) * SECTOR);
            }
            Action::Verify { lba, sectors } => {
                (job.kind, job.offset, job.left) = (Kind::Verify, lba * SECTOR, u64::from(sectors) * SECTOR);
            }
            Action::Flush => job.kind = Kind::Flush,
            Action::Packet => return self.packet(job),
            Action::Reset => {
                self.connect();
                return self.finish_as_is(&job);
            }
        }
        self.jobs.push(job);
    }

    fn packet(&mut self, mut job: Job) {
        let Some(cdb) = job.header.packet(&self.dma) else { return self.fail(job, error::ABORTED) };
        let Drive::Cd { cd, .. } = &mut self.drive else { return self.fail(job, error::ABORTED) };
        match cd.execute(&cdb) {
            Reply::Done | Reply::Receive(..) => self.finish_packet(&job),
            Reply::Check(sense) => self.fail_packet(job, sense),
            Reply::Data(data) => self.deliver(job, &data),
            Reply::Read(offset, len) => {
                (job.kind, job.offset, job.left) = (Kind::PacketRead, offset, len);
                self.jobs.push(job);
            }
            // What only disks ask for.
            Reply::Write { .. } | Reply::Flush | Reply::Discard(_) | Reply::Zero(..) => {
                self.fail_packet(job, Sense::INVALID_COMMAND);
            }
        }
    }

    /// Data that is there goes to the host, and the command is done.
    fn deliver(&mut self, mut job: Job, data: &[u8]) {
        job.moved = job.header.scatter(&self.dma, 0, data) as u64;
        if job.moved < data.len() as u64 && job.pio {
            self.r.is |= is::OVERFLOW;
        }
        if matches!(self.drive, Drive::Cd { .. }) && !job.pio {
            self.finish_packet(&job)
        } else {
            self.finish(&job)
        }
    }

    fn finish_packet(&mut self, job: &Job) {
        self.r.file.count[0] = 3;
        self.finish(job);
    }

    fn finish(&mut self, job: &Job) {
        self.r.file.status = status::IDLE;
        self.finish_as_is(job);
    }

    fn finish_as_is(&mut self, job: &Job) {
        if job.queued {
            return self.bits_fis(1 << job.slot, true);
        }
        job.header.moved(&self.dma, job.moved);
        self.r.issued &= !(1 << job.slot);
        if job.pio {
            self.pio_fis(job.moved);
        } else {
            self.registers_fis(true);
        }
    }

    fn fail(&mut self, job: Job, bits: u8) {
        self.r.file.status = status::IDLE | status::ERROR;
        self.r.file.error = bits;
        self.r.halted = true;
        self.r.is |= is::TASK_FILE_ERROR;
        if job.queued {
            if let Drive::Disk(disk) = &mut self.drive {
                disk.queue_error = Some((job.slot, bits));
            }
            // The rest of the queue is lost: the host starts it again.
            self.cancel();
            self.bits_fis(0, true);
        } else {
            job.header.moved(&self.dma, job.moved);
            self.registers_fis(true);
        }
    }

    fn fail_packet(&mut self, job: Job, sense: Sense) {
        if let Drive::Cd { cd, .. } = &mut self.drive {
            cd.sense = sense;
        }
        self.r.file.count[0] = 3;
        self.fail(job, sense.key << 4 | if sense.key == 5 { error::ABORTED } else { 0 });
    }

    // The disk's work.

    /// Starts a request for each job that has none, until there is none to start.
    fn run(&mut self) {
        while let Some(at) = self.jobs.iter().position(|job| !job.in_flight).filter(|_| !self.paused) {
            if let Some((disk, tag, op)) = self.request(at) {
                self.requests.start(&disk, tag, op);
            }
            self.poll();
        }
    }

    /// What the disk is to do for a job next; `None` if it has ended instead.
    fn request(&mut self, at: usize) -> Option<(block::Disk, u64, Op)> {
        let disk = match &self.drive {
            Drive::Disk(d) => Some(d.disk.clone()),
            Drive::Cd { cd, .. } => cd.medium.disk.clone().filter(|_| !cd.medium.open),
            Drive::Empty => None,
        };
        let job = &self.jobs[at];
        let piece = job.left.min(PIECE);
        let op = match job.kind {
            Kind::Read | Kind::Verify | Kind::PacketRead => Some(Op::Read((job.offset, piece))),
            Kind::Flush => Some(Op::Flush),
            Kind::Write => {
                let data = job.header.gather(&self.dma, job.moved, piece as usize);
                data.map(|data| Op::Write { offset: job.offset, data, fua: job.fua })
            }
            Kind::Trim => {
                job.header.gather(&self.dma, 0, piece as usize).and_then(|data| match &self.drive {
                    Drive::Disk(disk) => disk.trim_ranges(&data).map(Op::Discard),
                    _ => None,
                })
            }
        };
        let (Some(disk), Some(op)) = (disk, op) else {
            let job = self.jobs.remove(at);
            self.failed(job);
            return None;
        };
        let tag = self.generation << 5 | u64::from(self.jobs[at].slot);
        self.jobs[at].in_flight = true;
        Some((disk, tag, op))
    }

    fn failed(&mut self, job: Job) {
        match job.kind {
            Kind::PacketRead => self.fail_packet(job, Sense::READ_ERROR),
            Kind::Read | Kind::Verify => {
                self.r.file.set_lba48(job.offset / SECTOR);
                self.fail(job, error::UNCORRECTABLE);
            }
            _ => self.fail(job, error::ABORTED),
        }
    }

    /// Takes the results that are there.
    pub(super) fn poll(&mut self) {
        while let Some(done) = self.requests.take() {
            let slot = (done.tag & 31) as u8;
            let ours = done.tag >> 5 == self.generation;
            if let Some(at) = self.jobs.iter().position(|job| ours && job.slot == slot && job.in_flight) {
                let mut job = self.jobs.remove(at);
                job.in_flight = false;
                self.completed(job, done);
            }
        }
    }

    fn completed(&mut self, mut job: Job, done: Done) {
        let Ok(data) = done.result else { return self.failed(job) };
        let mut piece = job.left.min(PIECE);
        if matches!(job.kind, Kind::Read | Kind::PacketRead) {
            let moved = job.header.scatter(&self.dma, job.moved, &data) as u64;
            if moved < piece {
                // The host has no room for the rest.
                self.r.is |= is::OVERFLOW;
                (job.left, piece) = (moved, moved);
            }
        }
        (job.offset, job.left, job.moved) = (job.offset + piece, job.left - piece, job.moved + piece);
        if job.left > 0 && !matches!(job.kind, Kind::Flush | Kind::Trim) {
            self.jobs.push(job);
        } else if job.kind == Kind::PacketRead {
            self.finish_packet(&job);
        } else {
            self.finish(&job);
        }
    }

    /// Waits for what is in flight, and starts nothing more.
    pub(super) fn quiesce(&mut self) {
        self.paused = true;
        self.requests.drain();
        self.poll();
    }

    pub(super) fn resume(&mut self) {
        self.paused = false;
        self.work();
    }
}
