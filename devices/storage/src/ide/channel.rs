//! An IDE channel: the registers of two drives, one command at a time, its data moved by the host through the data
//! register or by the bus master (ACS-3; ATA/ATAPI-7 volume 2 for the protocols).
//!
//! A command is in one of five steps ([`Step`]); the disk works only in [`Step::Working`], in pieces of bounded size.
//! The invariant between calls: a command that is working has a request in flight, unless the machine stands.

use device::{Dma, IrqLine};

use crate::ata::{
    Action, AtaDisk, DEVICE_SECOND, Identity, SECTOR, Sent, TaskFile, error, identify_packet, status,
};
use crate::requests::{Done, Op, Requests};
use crate::scsi::{self, Cd, Reply, Sense};

use super::bus_master::BusMaster;

/// Bytes that the disk reads or writes at a time.
const PIECE: u64 = 128 << 10;
/// Length of a packet.
const PACKET: usize = 12;

/// Device control register.
const NO_INTERRUPTS: u8 = 1 << 1;
const RESET: u8 = 1 << 2;
const PREVIOUS: u8 = 1 << 7;

/// Interrupt reason of packet commands.
const REASON_COMMAND: u8 = 1 << 0;
const REASON_TO_HOST: u8 = 1 << 1;

const PACKET_COMMAND: u8 = 0xa0;
const IDENTIFY_PACKET: u8 = 0xa1;
const DEVICE_RESET: u8 = 0x08;

/// What hangs on the channel.
#[derive(Clone, Debug)]
pub(crate) enum Drive {
    Empty,
    Disk(AtaDisk),
    Cd { cd: Cd, identity: Identity, mode: u8 },
}

/// What a command does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    None,
    Read,
    Write,
    Verify,
    Flush,
    /// Data that is there goes to the host.
    In,
    Trim,
    Log,
    /// A packet is awaited.
    Packet,
    /// Data that is there answers a packet.
    PacketIn,
    PacketRead,
    /// Parameters of a packet command come from the host.
    PacketOut,
}

impl Kind {
    pub(super) const ALL: [Kind; 12] = [
        Kind::None,
        Kind::Read,
        Kind::Write,
        Kind::Verify,
        Kind::Flush,
        Kind::In,
        Kind::Trim,
        Kind::Log,
        Kind::Packet,
        Kind::PacketIn,
        Kind::PacketRead,
        Kind::PacketOut,
    ];

    fn is_packet(self) -> bool {
        matches!(self, Kind::Packet | Kind::PacketIn | Kind::PacketRead | Kind::PacketOut)
    }
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    #[default]
    Idle,
    /// The host fetches what is in the buffer.
    HostReads,
    /// The host fills the buffer.
    HostWrites,
    /// The host has yet to start the bus master.
    Waiting,
    /// The disk works.
    Working,
}

impl Step {
    pub(super) const ALL: [Step; 5] =
        [Step::Idle, Step::HostReads, Step::HostWrites, Step::Waiting, Step::Working];
}

/// The command under way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Command {
    pub(super) kind: Kind,
    pub(super) step: Step,
    pub(super) dma: bool,
    pub(super) fua: bool,
    /// Bytes of the disk still to be moved.
    pub(super) offset: u64,
    pub(super) left: u64,
    /// Bytes that the host moves between two interrupts.
    pub(super) block: u32,
    pub(super) buffer: Vec<u8>,
    /// The host has moved so much of the buffer, and is interrupted at `limit`.
    pub(super) pos: usize,
    pub(super) limit: usize,
}

/// Largest buffer: what is in it comes in pieces, or is the data of one command.
pub(super) const MAX_BUFFER: usize = 256 * 512 + PIECE as usize;

/// The channel.
pub(crate) struct Channel {
    pub(super) drives: [Drive; 2],
    pub(super) files: [TaskFile; 2],
    pub(super) control: u8,
    pub(super) interrupt: bool,
    pub(super) command: Command,
    pub(super) master: BusMaster,
    irq: IrqLine,
    dma: Dma,
    requests: Requests,
    /// Tag of the requests of the present command.
    generation: u64,
    in_flight: bool,
    paused: bool,
}

impl Channel {
    pub(crate) fn new(drives: [Drive; 2], irq: IrqLine, dma: Dma, requests: Requests) -> Self {
        let mut channel = Channel {
            drives,
            files: [TaskFile::default(); 2],
            control: 0,
            interrupt: false,
            command: Command::default(),
            master: BusMaster::default(),
            irq,
            dma,
            requests,
            generation: 0,
            in_flight: false,
            paused: false,
        };
        channel.sign();
        channel
    }

    /// After power-on.
    pub(crate) fn reset(&mut self) {
        self.cancel();
        self.control = 0;
        self.master = BusMaster::default();
        self.files = [TaskFile::default(); 2];
        for drive in &mut self.drives {
            match drive {
                Drive::Disk(disk) => *disk = AtaDisk::new(disk.disk.clone(), disk.identity.clone()),
                Drive::Cd { cd, mode, .. } => {
                    *mode = 0x45;
                    (cd.sense, cd.was_reset, cd.medium.locked) = (Sense::NONE, false, false);
                }
                Drive::Empty => {}
            }
        }
        self.sign();
        self.set_interrupt(false);
    }

    fn sign(&mut self) {
        for (drive, file) in self.drives.iter_mut().zip(&mut self.files) {
            match drive {
                Drive::Empty => {}
                Drive::Disk(disk) => {
                    disk.reset();
                    file.sign(false);
                }
                Drive::Cd { .. } => file.sign(true),
            }
            file.device = 0;
        }
    }

    fn cancel(&mut self) {
        self.generation += 1;
        self.in_flight = false;
        self.command = Command::default();
    }

    fn selected(&self) -> usize {
        usize::from(self.files[0].device & DEVICE_SECOND != 0)
    }

    fn file(&mut self) -> &mut TaskFile {
        let unit = self.selected();
        &mut self.files[unit]
    }

    fn is_present(&self) -> bool {
        !matches!(self.drives[self.selected()], Drive::Empty)
    }

    pub(crate) fn medium(&mut self, unit: usize) -> Option<&mut scsi::Medium> {
        match self.drives.get_mut(unit)? {
            Drive::Cd { cd, .. } => Some(&mut cd.medium),
            _ => None,
        }
    }

    pub(super) fn line_level(&self) -> bool {
        self.interrupt && self.control & NO_INTERRUPTS == 0
    }

    fn set_interrupt(&mut self, level: bool) {
        self.interrupt = level;
        if level && self.control & NO_INTERRUPTS == 0 {
            self.master.interrupt();
        }
        self.irq.set(self.line_level());
    }

    /// After a restore.
    pub(super) fn import(&mut self) {
        self.generation += 1;
        self.in_flight = false;
        self.irq.import(self.line_level());
    }

    // The command block.

    pub(crate) fn read_register(&mut self, offset: u64) -> u8 {
        if !self.is_present() {
            return 0;
        }
        let previous = usize::from(self.control & PREVIOUS != 0);
        let file = *self.file();
        match offset {
            1 => file.error,
            2 => file.count[previous],
            3..=5 => file.lba[offset as usize - 3][previous],
            6 => file.device | 0xa0,
            7 => {
                self.set_interrupt(false);
                file.status
            }
            _ => 0xff,
        }
    }

    /// The status without taking the interrupt back.
    pub(crate) fn alternate_status(&mut self) -> u8 {
        if self.is_present() { self.file().status } else { 0 }
    }

    pub(crate) fn write_register(&mut self, offset: u64, value: u8) {
        let busy = self.file().status & (status::BUSY | status::DATA) != 0;
        if offset == 7 {
            // A packet device takes a reset at any time.
            if !busy || value == DEVICE_RESET {
                self.start(value);
            }
            return;
        }
        // What is written resets the choice of previous values.
        self.control &= !PREVIOUS;
        if busy && self.is_present() {
            return;
        }
        for file in &mut self.files {
            let push = |register: &mut [u8; 2]| *register = [value, register[0]];
            match offset {
                1 => push(&mut file.feature),
                2 => push(&mut file.count),
                3..=5 => push(&mut file.lba[offset as usize - 3]),
                _ => file.device = value,
            }
        }
    }

    pub(crate) fn write_control(&mut self, value: u8) {
        let before = std::mem::replace(&mut self.control, value);
        if (before ^ value) & RESET != 0 {
            if value & RESET != 0 {
                self.cancel();
                self.files.iter_mut().for_each(|file| file.status = status::BUSY);
            } else {
                self.sign();
            }
            self.interrupt = false;
        }
        self.irq.set(self.line_level());
    }

    // Commands.

    fn start(&mut self, command: u8) {
        if !self.is_present() || self.control & RESET != 0 {
            return;
        }
        self.set_interrupt(false);
        self.cancel();
        let unit = self.selected();
        let file = &mut self.files[unit];
        (file.error, file.status) = (0, status::BUSY);
        let action = match &mut self.drives[unit] {
            Drive::Empty => return,
            Drive::Disk(disk) => disk.command(command, file),
            Drive::Cd { identity, mode, .. } => packet_device(command, identity, mode, file),
        };
        self.act(action);
    }

    fn act(&mut self, action: Action) {
        let c = &mut self.command;
        match action {
            Action::Done => self.finish(),
            Action::Failed(bits) => self.fail(bits),
            Action::In(data) => {
                (c.kind, c.block) = (Kind::In, SECTOR as u32);
                self.offer(data);
            }
            Action::Out(len, sent) => {
                (c.kind, c.left, c.dma) = match sent {
                    Sent::Trim => (Kind::Trim, len.into(), true),
                    Sent::Log => (Kind::Log, len.into(), false),
                };
                c.block = len;
                self.transfer(false);
            }
            Action::Read { lba, sectors, block, dma } => {
                (c.kind, c.dma, c.block) = (Kind::Read, dma, block * SECTOR as u32);
                (c.offset, c.left) = (lba * SECTOR, u64::from(sectors) * SECTOR);
                self.transfer(true);
            }
            Action::Write { lba, sectors, block, dma, fua } => {
                (c.kind, c.dma, c.block, c.fua) = (Kind::Write, dma, block * SECTOR as u32, fua);
                (c.offset, c.left) = (lba * SECTOR, u64::from(sectors) * SECTOR);
                self.transfer(false);
            }
            Action::Verify { lba, sectors } => {
                (c.kind, c.offset, c.left) = (Kind::Verify, lba * SECTOR, u64::from(sectors) * SECTOR);
                c.step = Step::Working;
            }
            Action::Flush => (c.kind, c.step) = (Kind::Flush, Step::Working),
            Action::Packet => {
                let dma = self.file().feature[0] & 1 != 0;
                (self.command.kind, self.command.dma) = (Kind::Packet, dma);
                self.file().count[0] = REASON_COMMAND;
                self.await_data(PACKET);
            }
            Action::Reset => {
                let device = self.file().device;
                self.cancel();
                self.sign();
                self.files.iter_mut().for_each(|file| file.device = device & DEVICE_SECOND);
                self.set_interrupt(true);
            }
        }
        self.work();
    }

    /// Begins to move data, towards the host or from it.
    fn transfer(&mut self, to_host: bool) {
        if self.command.dma {
            self.file().status = status::IDLE | status::DATA;
            self.command.step = if self.master.is_active() { Step::Working } else { Step::Waiting };
        } else if to_host {
            self.command.step = Step::Working;
        } else {
            let len = self.command.left.min(self.command.block.into());
            self.await_data(len as usize);
        }
    }

    /// The host is to send so many bytes.
    fn await_data(&mut self, len: usize) {
        self.file().status = status::IDLE | status::DATA;
        let c = &mut self.command;
        c.buffer = vec![0; len];
        (c.pos, c.limit, c.step) = (0, len, Step::HostWrites);
    }

    /// The host is to fetch data, a block at a time.
    fn offer(&mut self, data: Vec<u8>) {
        let c = &mut self.command;
        (c.limit, c.pos) = (data.len().min(c.block as usize), 0);
        (c.buffer, c.step) = (data, Step::HostReads);
        self.file().status = status::IDLE | status::DATA;
        self.set_interrupt(true);
    }

    fn end(&mut self) {
        self.command = Command::default();
        self.file().status = status::IDLE;
    }

    fn finish(&mut self) {
        self.end();
        self.set_interrupt(true);
    }

    fn fail(&mut self, bits: u8) {
        if self.command.dma {
            self.master.finish(true);
        }
        self.command = Command::default();
        let file = self.file();
        (file.status, file.error) = (status::IDLE | status::ERROR, bits);
        self.set_interrupt(true);
    }

    // The data register.

    pub(crate) fn read_data(&mut self, data: &mut [u8]) {
        if self.command.step != Step::HostReads {
            data.fill(0);
            return;
        }
        let c = &mut self.command;
        for byte in data {
            *byte = c.buffer.get(c.pos).copied().unwrap_or(0);
            c.pos += 1;
        }
        if c.pos >= c.limit {
            self.fetched();
            self.work();
        }
    }

    /// The host has fetched a block.
    fn fetched(&mut self) {
        let c = &mut self.command;
        if c.pos < c.buffer.len() {
            if c.kind.is_packet() {
                return self.offer_packet();
            }
            c.limit = c.buffer.len().min(c.limit + c.block as usize);
            return self.set_interrupt(true);
        }
        match c.kind {
            Kind::Read | Kind::PacketRead if c.left > 0 => {
                c.step = Step::Working;
                self.file().status = status::BUSY;
            }
            kind if kind.is_packet() => self.finish_packet(),
            // The last block is not followed by an interrupt.
            _ => self.end(),
        }
    }

    pub(crate) fn write_data(&mut self, data: &[u8]) {
        if self.command.step != Step::HostWrites {
            return;
        }
        let c = &mut self.command;
        for byte in data {
            if let Some(to) = c.buffer.get_mut(c.pos) {
                *to = *byte;
            }
            c.pos += 1;
        }
        if c.pos >= c.limit {
            match c.kind {
                Kind::Packet => self.packet(),
                Kind::PacketOut => self.finish_packet(),
                Kind::Log => self.finish(),
                _ => {
                    c.step = Step::Working;
                    self.file().status = status::BUSY;
                }
            }
            self.work();
        }
    }

    // The disk's work.

    /// Starts what the command waits for.
    pub(crate) fn work(&mut self) {
        while self.command.step == Step::Working && !self.in_flight && !self.paused {
            let Some((disk, op)) = self.request() else { continue };
            self.in_flight = true;
            self.requests.start(&disk, self.generation, op);
            self.poll();
        }
    }

    /// The disk and what it is to do next; `None` if the command has come to its end instead.
    fn request(&mut self) -> Option<(block::Disk, Op)> {
        let unit = self.selected();
        let disk = match &self.drives[unit] {
            Drive::Disk(d) => Some(d.disk.clone()),
            Drive::Cd { cd, .. } => cd.medium.disk.clone().filter(|_| !cd.medium.open),
            Drive::Empty => None,
        };
        let Some(disk) = disk else {
            self.failed();
            return None;
        };
        let c = &mut self.command;
        let piece = if c.dma || matches!(c.kind, Kind::Verify | Kind::PacketRead) {
            c.left.min(PIECE)
        } else {
            c.left.min(c.block.into())
        };
        let op = match c.kind {
            Kind::Read | Kind::Verify | Kind::PacketRead => Op::Read((c.offset, piece)),
            Kind::Flush => Op::Flush,
            Kind::Write | Kind::Trim => {
                let data = if c.dma {
                    self.master.gather(&self.dma, piece as usize)
                } else {
                    Some(std::mem::take(&mut c.buffer))
                };
                let Some(data) = data else {
                    self.fail(error::ABORTED);
                    return None;
                };
                if c.kind == Kind::Write {
                    Op::Write { offset: c.offset, data, fua: c.fua }
                } else {
                    let ranges = match &self.drives[unit] {
                        Drive::Disk(disk) => disk.trim_ranges(&data),
                        _ => None,
                    };
                    let Some(ranges) = ranges else {
                        self.fail(error::NOT_FOUND);
                        return None;
                    };
                    Op::Discard(ranges)
                }
            }
            Kind::PacketIn if c.dma && !c.buffer.is_empty() => {
                let data = std::mem::take(&mut c.buffer);
                self.deliver(&data);
                return None;
            }
            _ => {
                self.failed();
                return None;
            }
        };
        Some((disk, op))
    }

    /// Takes the results that are there.
    pub(crate) fn poll(&mut self) {
        while let Some(done) = self.requests.take() {
            if done.tag == self.generation {
                self.in_flight = false;
                self.completed(done);
            }
        }
    }

    fn completed(&mut self, done: Done) {
        let Ok(data) = done.result else { return self.failed() };
        let c = &mut self.command;
        match c.kind {
            Kind::Read | Kind::PacketRead if c.dma => self.deliver(&data),
            Kind::Read | Kind::PacketRead => {
                self.moved(data.len() as u64);
                if self.command.kind == Kind::Read {
                    self.offer(data);
                } else {
                    self.command.buffer = data;
                    self.command.pos = 0;
                    self.offer_packet();
                }
            }
            Kind::Write => {
                let piece = c.left.min(if c.dma { PIECE } else { c.block.into() });
                self.moved(piece);
                if self.command.left == 0 {
                    self.finish_moving();
                } else if !self.command.dma {
                    self.transfer(false);
                    self.set_interrupt(true);
                }
            }
            Kind::Verify => {
                self.moved(data.len() as u64);
                if self.command.left == 0 {
                    self.finish();
                }
            }
            Kind::Trim => self.finish_moving(),
            _ => self.finish(),
        }
    }

    fn moved(&mut self, len: u64) {
        self.command.offset += len;
        self.command.left -= len.min(self.command.left);
    }

    /// Data goes to the host by bus master.
    fn deliver(&mut self, data: &[u8]) {
        if !self.master.scatter(&self.dma, data) {
            self.fail(error::ABORTED);
            return;
        }
        self.moved(data.len() as u64);
        if self.command.left == 0 {
            self.finish_moving();
        }
    }

    fn finish_moving(&mut self) {
        if self.command.dma {
            self.master.finish(false);
        }
        if self.command.kind.is_packet() { self.finish_packet() } else { self.finish() }
    }

    /// The disk could not.
    fn failed(&mut self) {
        match self.command.kind {
            kind if kind.is_packet() => self.fail_packet(Sense::READ_ERROR),
            Kind::Read | Kind::Verify => {
                let lba = self.command.offset / SECTOR;
                self.file().set_lba48(lba);
                self.fail(error::UNCORRECTABLE);
            }
            _ => {
                self.fail(error::ABORTED);
                self.file().status |= status::FAULT;
            }
        }
    }

    // The bus master.

    pub(crate) fn write_master(&mut self, offset: u64, value: u8) {
        if !self.master.write(offset, value) {
            return;
        }
        let active = self.master.is_active();
        match self.command.step {
            Step::Waiting if active => self.command.step = Step::Working,
            // Stopped in the middle: the command is lost.
            Step::Working if !active && self.command.dma => {
                self.cancel();
                self.file().status = status::IDLE;
            }
            _ => {}
        }
        self.work();
    }

    // Packets.

    fn packet(&mut self) {
        let mut cdb = [0; 16];
        cdb[..PACKET].copy_from_slice(&self.command.buffer[..PACKET]);
        let unit = self.selected();
        let Drive::Cd { cd, .. } = &mut self.drives[unit] else { return self.fail(error::ABORTED) };
        let reply = cd.execute(&cdb);
        self.file().status = status::BUSY;
        let c = &mut self.command;
        match reply {
            Reply::Done => self.finish_packet(),
            Reply::Check(sense) => self.fail_packet(sense),
            Reply::Data(data) if data.is_empty() => self.finish_packet(),
            Reply::Data(data) => {
                (c.kind, c.left) = (Kind::PacketIn, data.len() as u64);
                (c.buffer, c.pos) = (data, 0);
                if c.dma {
                    self.transfer(true);
                } else {
                    self.offer_packet();
                }
            }
            Reply::Read(offset, len) => {
                (c.kind, c.offset, c.left) = (Kind::PacketRead, offset, len);
                if c.dma {
                    self.transfer(true);
                } else {
                    c.step = Step::Working;
                }
            }
            Reply::Receive(len, _) => {
                c.kind = Kind::PacketOut;
                (c.left, c.dma) = (len.into(), false);
                let file = self.file();
                file.count[0] = 0;
                (file.lba[1][0], file.lba[2][0]) = (len as u8, (len >> 8) as u8);
                self.await_data(len.min(0xffff) as usize);
                self.set_interrupt(true);
            }
            // What only disks ask for.
            Reply::Write { .. } | Reply::Flush | Reply::Discard(_) | Reply::Zero(..) => {
                self.fail_packet(Sense::INVALID_COMMAND);
            }
        }
    }

    /// The host is to fetch the next part of a packet's data, not more than it said it would.
    fn offer_packet(&mut self) {
        let left = self.command.buffer.len() - self.command.pos;
        let file = self.file();
        let mut most = usize::from(file.lba[2][1]) << 8 | usize::from(file.lba[1][1]);
        most = if most == 0 { 0xfffe } else { most.min(0xfffe) };
        if most < left && most > 1 {
            most &= !1;
        }
        let n = left.min(most);
        (file.lba[1][0], file.lba[2][0]) = (n as u8, (n >> 8) as u8);
        file.count[0] = REASON_TO_HOST;
        file.status = status::IDLE | status::DATA;
        self.command.limit = self.command.pos + n;
        self.command.step = Step::HostReads;
        self.set_interrupt(true);
    }

    fn finish_packet(&mut self) {
        self.file().count[0] = REASON_COMMAND | REASON_TO_HOST;
        self.finish();
    }

    fn fail_packet(&mut self, sense: Sense) {
        let unit = self.selected();
        if let Drive::Cd { cd, .. } = &mut self.drives[unit] {
            cd.sense = sense;
        }
        self.file().count[0] = REASON_COMMAND | REASON_TO_HOST;
        self.fail(sense.key << 4 | if sense.key == 5 { error::ABORTED } else { 0 });
    }

    // Standing still.

    /// Waits for what is in flight, and starts nothing more.
    pub(crate) fn quiesce(&mut self) {
        self.paused = true;
        self.requests.drain();
        self.poll();
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
        self.work();
    }

    /// Starts nothing until [`Channel::resume`].
    pub(super) fn hold(&mut self) {
        self.paused = true;
    }
}

/// What a packet device makes of a command.
pub(crate) fn packet_device(command: u8, identity: &Identity, mode: &mut u8, file: &mut TaskFile) -> Action {
    match command {
        PACKET_COMMAND => {
            // How much the host takes at a time is kept beside what it is told each time.
            for register in &mut file.lba[1..] {
                register[1] = register[0];
            }
            Action::Packet
        }
        IDENTIFY_PACKET => Action::In(identify_packet(identity, *mode)),
        DEVICE_RESET | 0x90 => Action::Reset,
        // The signature tells what it is instead.
        0xec | 0x20 => {
            file.sign(true);
            Action::Failed(error::ABORTED)
        }
        0xef if file.feature[0] == 3 => {
            *mode = file.count[0];
            Action::Done
        }
        0xef | 0xe0..=0xe3 | 0xe6 => Action::Done,
        0xe5 => {
            file.count[0] = 0xff;
            Action::Done
        }
        _ => Action::Failed(error::ABORTED),
    }
}
