//! An NVM Express controller (NVM Express Base Specification 1.4): admin and I/O queues, PRP lists, namespaces, MSI-X.
//!
//! Base address register 0 holds the registers, the doorbells and the table of messages. A command of I/O is one request to
//! its disk, of bounded size; commands are fetched only while there is room for their completions to wait.

mod admin;
mod events;
mod identify;
mod io;
mod prp;
mod queues;
mod state;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use block::Disk;
use device::{
    Access, AccessRule, BuildError, Device, Dma, Properties, Property, PropertyError, PropertyValue,
    ResetKind, StateBlob, StateError, Wires, le_fill, le_value,
};
use pci::{BarKind, Express, Function, FunctionSpec, Msix, PciConfig, PciDevice, REDHAT, class};

use self::queues::{Completion, Queues};
use crate::requests::Requests;

/// Pairs of I/O queues.
const IO_QUEUES: u16 = 64;
/// Most entries of a queue.
const MAX_ENTRIES: u32 = 2048;
/// Commands that may be on their way at a time.
const MAX_JOBS: usize = 512;
/// Most bytes of a command's data: this many pages of 4 KiB, as a power of two.
const DATA_PAGES: u8 = 7;
/// Events that the host may ask to be told of at a time.
const MAX_EVENTS: usize = 4;

const DOORBELLS: u64 = 0x1000;
const TABLE: u32 = 0x2000;
const PENDING: u32 = 0x3000;
const BAR_SIZE: u64 = 0x4000;

/// Who wakes the controller: its disks' requests, and disks with another size.
const REQUESTS: usize = 0;
const RESIZED: usize = 1;

/// Registers.
mod reg {
    pub(super) const CAPABILITIES: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x08;
    pub(super) const MASK_SET: u64 = 0x0c;
    pub(super) const MASK_CLEAR: u64 = 0x10;
    pub(super) const CONFIGURATION: u64 = 0x14;
    pub(super) const STATUS: u64 = 0x1c;
    pub(super) const ADMIN_SIZES: u64 = 0x24;
    pub(super) const ADMIN_SUBMISSION: u64 = 0x28;
    pub(super) const ADMIN_COMPLETION: u64 = 0x30;
}

const VERSION: u32 = 0x0001_0400;
/// Entries, contiguous queues, 7.5 seconds to get ready, the NVM command set, pages up to 64 KiB.
const CAPABILITIES: u64 = (MAX_ENTRIES as u64 - 1) | 1 << 16 | 0x0f << 24 | 1 << 37 | 4 << 52;

const ENABLE: u32 = 1 << 0;
const READY: u32 = 1 << 0;
const FATAL: u32 = 1 << 1;
const SHUT_DOWN: u32 = 2 << 2;

/// The controller, with a namespace for each disk.
#[derive(Clone, Debug, Default)]
pub struct NvmeConfig {
    /// Serial number.
    pub serial: String,
    /// The namespaces, from number 1 on.
    pub disks: Vec<Disk>,
}

impl Properties for NvmeConfig {
    fn properties() -> Vec<Property> {
        vec![Property {
            name: "serial",
            ty: String::TYPE,
            default: String::new(),
            help: " Serial number, up to 20 bytes of text.",
        }]
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        if name != "serial" {
            return Err(PropertyError::Unknown { name: name.to_owned(), known: "serial".to_owned() });
        }
        self.serial = value.to_owned();
        Ok(())
    }
}

impl PciConfig for NvmeConfig {
    const KIND: &'static str = "nvme";
    const HELP: &'static str = "NVM Express controller";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let rule = AccessRule { min: 4, max: 8, unaligned: true };
        let mut spec = FunctionSpec::new(REDHAT, 0x0010, class::NVME)
            .revision(2)
            .bar(0, BAR_SIZE, BarKind::Memory64(rule))
            .express(Express::Endpoint);
        spec.msix = Some(Msix { vectors: IO_QUEUES + 1, table: (0, TABLE), pending: (0, PENDING) });
        spec
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        if self.serial.len() > 20 || self.serial.is_empty() {
            return Err(wires.bad_property("serial", "expected 1 to 20 bytes of text"));
        }
        for disk in &self.disks {
            let waker = wires.waker(RESIZED);
            disk.on_resize(move || waker.wake());
        }
        let mut nvme = Nvme {
            function,
            dma: wires.dma()?,
            requests: Requests::new(wires.waker(REQUESTS)),
            config: self,
            r: Registers::default(),
            q: Queues::default(),
            jobs: BTreeMap::new(),
            next_job: 0,
            sizes: Vec::new(),
            paused: false,
        };
        nvme.note_sizes();
        Ok(Box::new(nvme))
    }
}

/// Registers and what commands have set.
#[derive(Clone, Debug, Default, PartialEq)]
struct Registers {
    masked: u32,
    configuration: u32,
    status: u32,
    admin_sizes: u32,
    admin_submission: u64,
    admin_completion: u64,
    /// Values of features by number.
    features: [u32; 16],
    /// Identifiers of the commands that wait for an event.
    events: Vec<u16>,
    /// Namespaces that have changed since the host has read of it, and whether it was told to.
    changed: BTreeSet<u32>,
    told: bool,
}

/// A command on its way.
#[derive(Clone, Debug)]
struct Job {
    /// Submission queue, and the command's identifier.
    queue: u16,
    id: u16,
    /// Where data that is read goes; nothing for other commands.
    regions: Vec<(u64, u32)>,
    write: bool,
}

struct Nvme {
    config: NvmeConfig,
    function: Function,
    dma: Dma,
    requests: Requests,
    r: Registers,
    q: Queues,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Bytes of each disk as the host knows them.
    sizes: Vec<u64>,
    paused: bool,
}

impl Nvme {
    fn is_enabled(&self) -> bool {
        self.r.status & (READY | FATAL) == READY
    }

    /// Bytes of a page of memory.
    fn page(&self) -> u64 {
        4096 << (self.r.configuration >> 7 & 15)
    }

    /// Forgets all queues and commands.
    fn stop(&mut self) {
        self.jobs.clear();
        self.q = Queues::default();
        self.r.events.clear();
        self.changes_read();
        self.note_sizes();
        self.r.features = [0; 16];
        // The write cache is on.
        self.r.features[6] = 1;
    }

    fn configure(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.r.configuration, value);
        if before & ENABLE == 0 && value & ENABLE != 0 {
            self.stop();
            let sizes = self.r.admin_sizes;
            let possible = value >> 4 & 7 == 0 && value >> 7 & 15 <= 4;
            let (submission, completion) = ((sizes & 0xfff) + 1, (sizes >> 16 & 0xfff) + 1);
            if !possible || submission < 2 || completion < 2 {
                self.function.log().guest_error(format_args!("enabled with what it cannot be: {value:#x}"));
                self.r.status |= FATAL;
                return;
            }
            self.q
                .completions
                .insert(0, queues::CompletionQueue::new(self.r.admin_completion, completion, Some(0)));
            self.q
                .submissions
                .insert(0, queues::SubmissionQueue::new(self.r.admin_submission, submission, 0));
            self.r.status = READY;
        } else if before & ENABLE != 0 && value & ENABLE == 0 {
            self.stop();
            self.r.status = 0;
        }
        // A shutdown: what was written is flushed by the host before.
        if value >> 14 & 3 != 0 {
            self.r.status |= SHUT_DOWN;
        } else {
            self.r.status &= !(3 << 2);
        }
        self.update_pin();
    }

    fn read_register(&self, offset: u64) -> u32 {
        let half = |value: u64| if offset & 4 != 0 { (value >> 32) as u32 } else { value as u32 };
        match offset {
            reg::CAPABILITIES | 4 => half(CAPABILITIES),
            reg::VERSION => VERSION,
            reg::MASK_SET | reg::MASK_CLEAR => self.r.masked,
            reg::CONFIGURATION => self.r.configuration,
            reg::STATUS => self.r.status,
            reg::ADMIN_SIZES => self.r.admin_sizes,
            reg::ADMIN_SUBMISSION | 0x2c => half(self.r.admin_submission),
            reg::ADMIN_COMPLETION | 0x34 => half(self.r.admin_completion),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let set = |old: u64, mask: u64| {
            let shift = 8 * (offset & 4);
            (old & !(0xffff_ffff << shift) | u64::from(value) << shift) & mask
        };
        match offset {
            reg::MASK_SET => self.r.masked |= value,
            reg::MASK_CLEAR => self.r.masked &= !value,
            reg::CONFIGURATION => self.configure(value),
            reg::ADMIN_SIZES => self.r.admin_sizes = value & 0x0fff_0fff,
            reg::ADMIN_SUBMISSION | 0x2c => self.r.admin_submission = set(self.r.admin_submission, !0xfff),
            reg::ADMIN_COMPLETION | 0x34 => self.r.admin_completion = set(self.r.admin_completion, !0xfff),
            _ => {}
        }
        self.update_pin();
    }

    fn doorbell(&mut self, offset: u64, value: u32) {
        let number = (offset / 8) as u16;
        if !self.is_enabled() {
            return;
        }
        let known = if offset & 4 == 0 {
            self.q.submissions.get_mut(&number).is_some_and(|q| q.ring(value))
        } else {
            self.q.completions.get_mut(&number).is_some_and(|q| q.ring(value))
        };
        if !known {
            self.function.log().guest_error(format_args!("doorbell {offset:#x}: {value:#x} is out of place"));
        }
        self.work();
    }

    /// Fetches commands and gives completions, as far as there is room.
    fn work(&mut self) {
        self.flush();
        while !self.paused && self.is_enabled() && self.jobs.len() < MAX_JOBS && self.q.waiting() < MAX_JOBS {
            let Some((queue, at)) = self.q.next() else { break };
            let mut command = [0; 64];
            if self.dma.read(at, &mut command).is_err() {
                self.r.status |= FATAL;
                break;
            }
            self.execute(queue, &command);
            self.poll();
        }
        self.flush();
    }

    fn execute(&mut self, queue: u16, command: &[u8; 64]) {
        let id = u16::from_le_bytes([command[2], command[3]]);
        // Only lists of pages are known.
        let outcome = if command[1] & 0xc3 != 0 {
            Err(status::INVALID_FIELD)
        } else if queue == 0 {
            self.admin(id, command)
        } else {
            self.io(queue, id, command)
        };
        match outcome {
            Ok(Some(result)) => self.complete(queue, id, result, 0),
            Ok(None) => {}
            Err(status) => self.complete(queue, id, 0, status | status::DO_NOT_RETRY),
        }
    }

    /// Notes the end of a command.
    fn complete(&mut self, queue: u16, id: u16, result: u32, status: u16) {
        // The queue may have been deleted meanwhile.
        if let Some(submission) = self.q.submissions.get(&queue) {
            let completion = Completion { result, queue, head: submission.head as u16, id, status };
            if let Some(to) = self.q.completions.get_mut(&submission.completions) {
                to.waiting.push_back(completion);
            }
        }
    }

    /// Writes completions that there is room for, and interrupts.
    fn flush(&mut self) {
        for queue in self.q.completions.values_mut() {
            if queue.flush(&self.dma)
                && let Some(vector) = queue.vector
            {
                self.function.message(vector);
            }
        }
        self.update_pin();
    }

    fn update_pin(&self) {
        let level = |q: &queues::CompletionQueue| {
            q.is_unread() && q.vector.is_some_and(|v| v >= 32 || self.r.masked & 1 << v == 0)
        };
        self.function.set_pin(self.q.completions.values().any(level));
    }
}

/// Status codes, with their type in bits 8 to 10.
mod status {
    pub(super) const INVALID_OPCODE: u16 = 0x001;
    pub(super) const INVALID_FIELD: u16 = 0x002;
    pub(super) const TRANSFER: u16 = 0x004;
    pub(super) const INVALID_NAMESPACE: u16 = 0x00b;
    pub(super) const READ_ONLY: u16 = 0x020;
    pub(super) const OUT_OF_RANGE: u16 = 0x080;
    pub(super) const INVALID_COMPLETION_QUEUE: u16 = 0x100;
    pub(super) const INVALID_QUEUE: u16 = 0x101;
    pub(super) const INVALID_QUEUE_SIZE: u16 = 0x102;
    pub(super) const EVENT_LIMIT: u16 = 0x105;
    pub(super) const INVALID_VECTOR: u16 = 0x108;
    pub(super) const INVALID_LOG: u16 = 0x109;
    pub(super) const INVALID_DELETION: u16 = 0x10c;
    pub(super) const WRITE_FAULT: u16 = 0x280;
    pub(super) const READ_ERROR: u16 = 0x281;
    pub(super) const DO_NOT_RETRY: u16 = 1 << 14;
}

/// The outcome of a command: a result at once, or later, or an error.
type Outcome = Result<Option<u32>, u16>;

/// The 32-bit word `n` of a command.
fn word(command: &[u8; 64], n: usize) -> u32 {
    u32::from_le_bytes([command[4 * n], command[4 * n + 1], command[4 * n + 2], command[4 * n + 3]])
}

fn long(command: &[u8; 64], n: usize) -> u64 {
    u64::from(word(command, n + 1)) << 32 | u64::from(word(command, n))
}

impl Device for Nvme {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let low = self.read_register(offset & !3);
        let high = self.read_register((offset & !3) + 4);
        le_fill(data, u64::from(high) << 32 | u64::from(low));
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        if !offset.is_multiple_of(4) {
            return Access::Unaligned;
        }
        let value = le_value(data);
        if offset >= DOORBELLS {
            self.doorbell(offset - DOORBELLS, value as u32);
            return Access::Ok;
        }
        self.write_register(offset, value as u32);
        if data.len() == 8 {
            self.write_register(offset + 4, (value >> 32) as u32);
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.stop();
        self.r = Registers::default();
        self.update_pin();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn wake(&mut self, id: usize) {
        if id == RESIZED {
            self.look_at_sizes();
        }
        self.poll();
        self.work();
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.requests.drain();
        self.poll();
        self.flush();
    }

    fn resume(&mut self) {
        self.paused = false;
        self.look_at_sizes();
        self.work();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

impl PciDevice for Nvme {}
