//! Block device (virtio 1.2, 5.2).
//!
//! Requests are taken off the rings by whoever notifies and run on the disk's pool of threads, which push the
//! result and raise the interrupt. What a ring can hold bounds what is in flight. A request that fails where the machine is
//! to stop ([`::block::ErrorPolicy`]) is kept and served again when the machine goes on.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::block::{BlockError, Disk, ErrorAction, SECTOR};
use ::device::{BuildError, StateBlob, StateError, Wires, device_config};
use parking_lot::{Condvar, Mutex};

use crate::chain::Chain;
use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes};
use crate::queue::{QueueState, Virtqueue};
use crate::transfer::Transfers;

const DEVICE_TYPE: u32 = 2;
const KIND: &str = "virtio-blk";

mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const GEOMETRY: u64 = 1 << 4;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

mod result {
    pub(super) const OK: u8 = 0;
    pub(super) const IOERR: u8 = 1;
    pub(super) const UNSUPP: u8 = 2;
}

/// Offset of `writeback` in the config space.
const WRITEBACK: u64 = 32;
/// Most segments in a discard or write-zeroes request.
const MAX_RANGES: u32 = 32;
/// Most sectors in a segment of a discard request.
const MAX_DISCARD: u32 = 1 << 22;
/// Most sectors in a segment of a write-zeroes request; less, because the image may have to write them.
const MAX_ZEROES: u32 = 1 << 17;
/// Length of the serial number.
const ID_LEN: usize = 20;

device_config! {
    /// Disk.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BlkConfig {
        /// Serial number, up to 20 bytes of text.
        pub serial: String = String::new(),
        /// Number of request queues.
        pub num_queues: u16 = 1,
        /// Entries of each queue.
        pub queue_size: u16 = 256,
        /// Smallest unit of access in bytes.
        pub logical_block_size: u32 = 512,
        /// Unit of access in bytes that the disk itself works in.
        pub physical_block_size: u32 = 512,
        /// Smallest request in bytes that performs well.
        pub min_io_size: u32 = 0,
        /// Best request size in bytes.
        pub opt_io_size: u32 = 0,
        /// Refuse writes even if the image allows them.
        pub read_only: bool = false,
        /// Tell the guest of a write cache, which it then flushes.
        pub write_cache: bool = true,
        /// Let the guest switch the write cache.
        pub config_wce: bool = true,
        /// Take discards.
        pub discard: bool = true,
        /// Take requests to write zeroes.
        pub write_zeroes: bool = true,
    }
}

impl BlkConfig {
    fn check(&self, wires: &Wires) -> Result<(), BuildError> {
        let block = |size: u32| size.is_power_of_two() && (512..=32768).contains(&size);
        if self.serial.len() > ID_LEN {
            Err(wires.bad_property("serial", "expected at most 20 bytes"))
        } else if !(1..=64).contains(&self.num_queues) {
            Err(wires.bad_property("num_queues", "expected 1 to 64"))
        } else if !self.queue_size.is_power_of_two() || !(4..=1024).contains(&self.queue_size) {
            Err(wires.bad_property("queue_size", "expected a power of two from 4 to 1024"))
        } else if !block(self.logical_block_size) {
            Err(wires.bad_property("logical_block_size", "expected a power of two from 512 to 32768"))
        } else if !block(self.physical_block_size) || self.physical_block_size < self.logical_block_size {
            let why = "expected a power of two from logical_block_size to 32768";
            Err(wires.bad_property("physical_block_size", why))
        } else if !self.min_io_size.is_multiple_of(self.logical_block_size)
            || self.min_io_size / self.logical_block_size > u16::MAX.into()
            || !self.opt_io_size.is_multiple_of(self.logical_block_size)
        {
            Err(wires.bad_property("min_io_size", "expected multiples of logical_block_size"))
        } else {
            Ok(())
        }
    }
}

impl VirtioConfig for BlkConfig {
    /// The disk; if there is none, the one wired to slot `drive` is taken.
    type Backend = Option<Disk>;
    const MMIO_KIND: &'static str = "virtio-blk-device";
    const PCI_KIND: &'static str = "virtio-blk-pci";
    const TYPE: u16 = 2;
    const PCI_CLASS: u32 = 0x01_00_00;
    const HELP: &'static str = "virtio disk (mmio)";

    fn vectors(&self) -> u16 {
        self.num_queues.saturating_add(1)
    }

    fn disks(&self) -> Vec<&'static str> {
        vec!["drive"]
    }

    fn make(self, disk: Option<Disk>, wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        self.check(wires)?;
        let disk = disk.or_else(|| wires.disk("drive")).ok_or_else(|| wires.missing("a disk (drive)"))?;
        let mut serial = [0; ID_LEN];
        serial[..self.serial.len()].copy_from_slice(self.serial.as_bytes());
        let shared = Shared {
            active: AtomicBool::new(false),
            parked: Mutex::default(),
            serial,
            read_only: self.read_only || disk.read_only(),
            write_through: AtomicBool::new(false),
            features: Mutex::new(0),
            in_flight: Mutex::new(0),
            idle: Condvar::new(),
            transfers: Transfers::default(),
        };
        Ok(Box::new(Blk {
            writeback: self.write_cache,
            queues: vec![None; self.num_queues.into()],
            config: self,
            disk,
            shared: Arc::new(shared),
            paused: false,
        }))
    }
}

/// A virtio disk.
pub struct Blk {
    config: BlkConfig,
    disk: Disk,
    shared: Arc<Shared>,
    queues: Vec<Option<Arc<Virtqueue>>>,
    /// The config space's writeback field.
    writeback: bool,
    paused: bool,
}

/// What requests need, on whatever thread they run.
struct Shared {
    /// The driver is ready.
    active: AtomicBool,
    /// Requests that have failed and wait for the machine to go on.
    parked: Mutex<Vec<(Arc<Virtqueue>, Chain)>>,
    serial: [u8; ID_LEN],
    read_only: bool,
    /// Writes are to be stable before they are reported.
    write_through: AtomicBool,
    features: Mutex<u64>,
    in_flight: Mutex<usize>,
    idle: Condvar,
    transfers: Transfers,
}

/// What has become of a request.
enum Served {
    /// It has this result.
    Done(u8),
    /// The driver broke the protocol so that there is nowhere to put a result.
    Broken,
    /// It is to be served again when the machine goes on.
    Failed,
}

/// Counts a request out of flight, whatever becomes of it.
struct Flight(Arc<Shared>);

impl Drop for Flight {
    fn drop(&mut self) {
        let mut in_flight = self.0.in_flight.lock();
        *in_flight -= 1;
        if *in_flight == 0 {
            self.0.idle.notify_all();
        }
    }
}

impl Shared {
    fn drain(&self) {
        let mut in_flight = self.in_flight.lock();
        while *in_flight != 0 {
            self.idle.wait(&mut in_flight);
        }
    }

    /// Serves one request.
    fn serve(&self, disk: &Disk, chain: &mut Chain) -> Served {
        let (Some(header), Some(data)) = (chain.read_array::<16>(), chain.writable().checked_sub(1)) else {
            return Served::Broken;
        };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let sector = u64::from(word(12)) << 32 | u64::from(word(8));
        let done = match word(0) {
            request::IN => self.read(disk, chain, sector, data),
            request::OUT => self.write(disk, chain, sector),
            request::FLUSH => disk.flush().map(|()| result::OK),
            request::GET_ID => {
                let n = data.min(ID_LEN as u64) as usize;
                chain.write(&self.serial[..n]);
                Ok(result::OK)
            }
            request::DISCARD => self.ranges(disk, chain, false),
            request::WRITE_ZEROES => self.ranges(disk, chain, true),
            _ => Ok(result::UNSUPP),
        };
        done.map_or_else(
            |e| {
                tracing::debug!(disk = disk.id(), "request {} at sector {sector} failed: {e}", word(0));
                match disk.failed(word(0) == request::IN, &e) {
                    ErrorAction::Report => Served::Done(result::IOERR),
                    ErrorAction::Ignore => Served::Done(result::OK),
                    ErrorAction::Stop => Served::Failed,
                }
            },
            Served::Done,
        )
    }

    /// The byte range of a transfer, if it lies on the disk and is whole sectors.
    fn range(disk: &Disk, sector: u64, len: u64) -> Result<u64, BlockError> {
        let size = disk.len();
        let offset = sector.saturating_mul(SECTOR);
        let beyond = offset.checked_add(len).is_none_or(|end| end > size);
        if beyond || !len.is_multiple_of(SECTOR) {
            Err(BlockError::OutOfRange { offset, len, size })
        } else {
            Ok(offset)
        }
    }

    fn read(&self, disk: &Disk, chain: &mut Chain, sector: u64, len: u64) -> Result<u8, BlockError> {
        let offset = Self::range(disk, sector, len)?;
        self.transfers.read(disk, chain, offset, len).map(|()| result::OK)
    }

    fn write(&self, disk: &Disk, chain: &mut Chain, sector: u64) -> Result<u8, BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let len = chain.readable();
        let offset = Self::range(disk, sector, len)?;
        let stable = self.write_through.load(Ordering::Relaxed);
        self.transfers.write(disk, chain, offset, len, stable).map(|()| result::OK)
    }

    fn ranges(&self, disk: &Disk, chain: &mut Chain, zeroes: bool) -> Result<u8, BlockError> {
        let needed = if zeroes { feature::WRITE_ZEROES } else { feature::DISCARD };
        if *self.features.lock() & needed == 0 {
            return Ok(result::UNSUPP);
        }
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let count = chain.readable() / 16;
        if !chain.readable().is_multiple_of(16) || !(1..=u64::from(MAX_RANGES)).contains(&count) {
            return Ok(result::IOERR);
        }
        let max = if zeroes { MAX_ZEROES } else { MAX_DISCARD };
        while let Some(range) = chain.read_array::<16>() {
            let (sector, rest) = range.split_at(8);
            let sector = sector.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
            let word = |at: usize| rest[at..at + 4].iter().rev().fold(0, |v, &b| v << 8 | u32::from(b));
            let (sectors, flags) = (word(0), word(4));
            if flags & !u32::from(zeroes) != 0 {
                return Ok(result::UNSUPP);
            }
            if sectors > max {
                return Ok(result::IOERR);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = Self::range(disk, sector, len)?;
            if zeroes {
                disk.write_zeroes(offset, len, flags & 1 != 0)?;
            } else {
                disk.discard(offset, len)?;
            }
        }
        if zeroes && self.write_through.load(Ordering::Relaxed) {
            disk.flush()?;
        }
        Ok(result::OK)
    }
}

impl Blk {
    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Whether written data may stay in a cache until it is flushed depends on what was negotiated
    /// (virtio 1.2, 5.2.6.2).
    fn update_cache(&self) {
        let features = *self.shared.features.lock();
        let cached = if features & feature::CONFIG_WCE != 0 {
            self.writeback
        } else {
            features & feature::FLUSH != 0 && self.config.write_cache
        };
        self.shared.write_through.store(!cached, Ordering::Relaxed);
    }

    fn submit(&self, queue: &Arc<Virtqueue>, mut chain: Chain) {
        *self.shared.in_flight.lock() += 1;
        let (flight, queue) = (Flight(self.shared.clone()), queue.clone());
        self.disk.spawn_on(queue.index().into(), move |disk| {
            match flight.0.serve(disk, &mut chain) {
                Served::Done(status) => {
                    chain.write_last(status);
                }
                Served::Broken => queue.fail("a request without header or without room for its status"),
                Served::Failed => {
                    chain.rewind();
                    flight.0.parked.lock().push((queue, chain));
                    return;
                }
            }
            queue.push(chain);
            queue.signal();
            drop(flight);
        });
    }

    fn config_space(&self) -> [u8; 60] {
        let c = &self.config;
        let sectors = self.disk.len() / SECTOR;
        let mut space = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &sectors.to_le_bytes());
        put(12, &u32::from(c.queue_size - 2).to_le_bytes());
        let cylinders = (sectors / (16 * 63)).min(u16::MAX.into()) as u16;
        put(16, &cylinders.to_le_bytes());
        put(18, &[16, 63]);
        put(20, &c.logical_block_size.to_le_bytes());
        let exponent = (c.physical_block_size / c.logical_block_size).trailing_zeros() as u8;
        put(24, &[exponent, 0]);
        put(26, &((c.min_io_size / c.logical_block_size) as u16).to_le_bytes());
        put(28, &(c.opt_io_size / c.logical_block_size).to_le_bytes());
        put(WRITEBACK as usize, &[u8::from(self.writeback)]);
        put(34, &c.num_queues.to_le_bytes());
        let alignment = (c.logical_block_size / 512).max(1);
        for (at, value) in
            [(36, MAX_DISCARD), (40, MAX_RANGES), (44, alignment), (48, MAX_ZEROES), (52, MAX_RANGES)]
        {
            put(at, &value.to_le_bytes());
        }
        put(56, &[1]);
        space
    }
}

::device::state! {
    /// State of the disk, version 1.
    struct V1 { 1 => writeback: bool }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let c = &self.config;
        let optional = [
            (self.shared.read_only, feature::RO),
            (c.write_cache || c.config_wce, feature::FLUSH),
            (c.config_wce, feature::CONFIG_WCE),
            (c.num_queues > 1, feature::MQ),
            (c.discard && !self.shared.read_only, feature::DISCARD),
            (c.write_zeroes && !self.shared.read_only, feature::WRITE_ZEROES),
        ];
        let always = feature::SEG_MAX | feature::GEOMETRY | feature::BLK_SIZE | feature::TOPOLOGY;
        optional.iter().filter(|(on, _)| *on).fold(always, |all, (_, bit)| all | bit)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.config.queue_size; self.queues.len()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.config_space(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let negotiated = *self.shared.features.lock() & feature::CONFIG_WCE != 0;
        if let (WRITEBACK, true, &[value]) = (offset, negotiated, data) {
            self.writeback = value & 1 != 0;
            self.update_cache();
        }
    }

    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        let shared = Arc::downgrade(&self.shared);
        self.disk.on_resize(move || {
            if shared.upgrade().is_some_and(|s| s.active.load(Ordering::Relaxed)) {
                notifier.config_changed();
            }
        });
    }

    fn activate(&mut self, features: u64) {
        *self.shared.features.lock() = features;
        self.shared.active.store(true, Ordering::Relaxed);
        self.update_cache();
    }

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        self.queues[index] = Some(queue);
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        self.shared.drain();
        let queue = self.queues[index].take();
        self.shared.parked.lock().retain(|(q, _)| !queue.as_ref().is_some_and(|own| Arc::ptr_eq(own, q)));
        queue.map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        match &self.queues[index] {
            Some(queue) if !self.paused => queue.drain(|chain| {
                self.submit(queue, chain);
                true
            }),
            _ => Progress::Done,
        }
    }

    fn reset(&mut self) {
        self.shared.drain();
        self.shared.parked.lock().clear();
        self.disk.retried();
        *self.shared.features.lock() = 0;
        self.writeback = self.config.write_cache;
        self.shared.active.store(false, Ordering::Relaxed);
    }

    fn save(&self) -> StateBlob {
        self.shared.drain();
        StateBlob::new(KIND, 1, &V1 { writeback: self.writeback })
    }

    fn restore(&mut self, state: &StateBlob, _features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        self.shared.drain();
        self.shared.parked.lock().clear();
        *self.shared.features.lock() = 0;
        self.shared.active.store(false, Ordering::Relaxed);
        self.writeback = state.writeback;
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.shared.drain();
    }

    fn resume(&mut self) {
        self.paused = false;
        self.disk.retried();
        let parked = std::mem::take(&mut *self.shared.parked.lock());
        parked.into_iter().for_each(|(queue, chain)| self.submit(&queue, chain));
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
