//! SCSI host adapter (virtio 1.2, 5.6): a control queue, an event queue and request queues.
//!
//! Commands are decoded as they are notified, under the lock of their unit; what needs the disk runs on the disk's threads,
//! which answer. A task management function takes effect by waiting: it is answered once all commands taken before it have
//! been. Whatever is in flight has a number, so that commands that come later hold none of these up.

mod control;
mod request;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::device::{BuildError, StateBlob, StateError, Wires, device_config};
use parking_lot::{Condvar, Mutex, RwLock};
use storage::scsi::{ScsiBus, ScsiUnit, ScsiUnitState, Sense, lun_bytes};
use storage::{ScsiDrive, Slot, Slots};

use crate::chain::Chain;
use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes};
use crate::queue::{QueueState, Virtqueue};
use crate::transfer::Transfers;

const DEVICE_TYPE: u32 = 8;
const KIND: &str = "virtio-scsi";

const CONTROL: usize = 0;
const EVENT: usize = 1;
const FIRST_REQUEST: usize = 2;

mod feature {
    /// Events tell of units that come and go.
    pub(super) const HOTPLUG: u64 = 1 << 1;
    /// Events tell of changed media.
    pub(super) const CHANGE: u64 = 1 << 2;
}

/// Events (5.6.6.3).
mod event {
    pub(super) const NONE: u32 = 0;
    /// A unit has come or gone, as the reason says.
    pub(super) const TRANSPORT_RESET: u32 = 1;
    pub(super) const RESCAN: u32 = 1;
    pub(super) const REMOVED: u32 = 2;
    pub(super) const PARAM_CHANGE: u32 = 3;
    pub(super) const MISSED: u32 = 1 << 31;
    pub(super) const LEN: u32 = 16;
}

/// Sizes in the config space that the driver may change, and what they are after reset.
const SENSE_SIZE: u32 = 96;
const CDB_SIZE: u32 = 32;
/// Most that a driver may make of them.
const MAX_SIZE: u32 = 1024;
/// Highest target and logical unit.
const MAX_TARGET: u16 = 255;
const MAX_LUN: u32 = 16_383;

device_config! {
    /// Host adapter.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ScsiConfig {
        /// Number of request queues.
        pub num_queues: u16 = 1,
        /// Entries of each queue.
        pub virtqueue_size: u16 = 256,
        /// Most sectors of a request, as the driver is told.
        pub max_sectors: u32 = 0xffff,
        /// Most commands under way at a unit, as the driver is told.
        pub cmd_per_lun: u32 = 128,
        /// Tell the guest of media that were changed.
        pub param_change: bool = true,
        /// Tell the guest of drives that come and go.
        pub hotplug: bool = true,
    }
}

impl VirtioConfig for ScsiConfig {
    /// The drives.
    type Backend = ScsiBus;
    const MMIO_KIND: &'static str = "virtio-scsi-device";
    const PCI_KIND: &'static str = "virtio-scsi-pci";
    const TYPE: u16 = 8;
    const PCI_CLASS: u32 = 0x01_00_00;
    const HELP: &'static str = "virtio SCSI host adapter";

    fn vectors(&self) -> u16 {
        self.num_queues.saturating_add(3)
    }

    fn make(self, bus: ScsiBus, wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        if !(1..=64).contains(&self.num_queues) {
            return Err(wires.bad_property("num_queues", "expected 1 to 64"));
        }
        if !self.virtqueue_size.is_power_of_two() || !(4..=1024).contains(&self.virtqueue_size) {
            return Err(wires.bad_property("virtqueue_size", "expected a power of two from 4 to 1024"));
        }
        if !(1..=0x00ff_ffff).contains(&self.max_sectors) || self.cmd_per_lun == 0 {
            return Err(
                wires.bad_property("max_sectors", "expected 1 to 16777215, and cmd_per_lun from 1 on")
            );
        }
        let shared = Shared {
            units: RwLock::new(Arc::new(bus.drives().iter().filter_map(Unit::new).collect())),
            transfers: Transfers::default(),
            flights: Mutex::default(),
            landed: Condvar::new(),
            sense_size: AtomicU64::new(SENSE_SIZE.into()),
            cdb_size: AtomicU64::new(CDB_SIZE.into()),
        };
        Ok(Box::new(Scsi {
            queues: vec![None; FIRST_REQUEST + usize::from(self.num_queues)],
            config: self,
            shared: Arc::new(shared),
            notifier: None,
            features: 0,
            missed: AtomicBool::new(false),
            paused: false,
        }))
    }
}

/// A logical unit and its place.
struct Unit {
    target: u8,
    lun: u16,
    unit: Mutex<ScsiUnit>,
}

impl Unit {
    fn new(d: &ScsiDrive) -> Option<Arc<Self>> {
        Some(Arc::new(Unit { target: d.target, lun: d.lun, unit: Mutex::new(ScsiUnit::new(d)?) }))
    }

    /// Its address in events. Linux takes the number of the unit for what REPORT LUNS says, so it is encoded as there.
    fn address(&self) -> [u8; 8] {
        let [high, low] = lun_bytes(self.lun);
        [1, self.target, high, low, 0, 0, 0, 0]
    }
}

type Units = Vec<Arc<Unit>>;

/// What is under way: numbers of commands, and functions that wait for those before them.
#[derive(Default)]
struct Flights {
    next: u64,
    under_way: BTreeSet<u64>,
    waiting: VecDeque<(u64, Chain, Arc<Virtqueue>)>,
}

/// What commands need, on whatever thread they run.
struct Shared {
    units: RwLock<Arc<Units>>,
    transfers: Transfers,
    flights: Mutex<Flights>,
    landed: Condvar,
    sense_size: AtomicU64,
    cdb_size: AtomicU64,
}

/// A command under way; whatever becomes of it, it lands.
struct Flight {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.shared.flights.lock();
        flights.under_way.remove(&self.number);
        self.shared.answer_functions(&mut flights);
        if flights.under_way.is_empty() {
            self.shared.landed.notify_all();
        }
    }
}

impl Shared {
    fn take_off(self: &Arc<Self>) -> Flight {
        let mut flights = self.flights.lock();
        let number = flights.next;
        flights.next += 1;
        flights.under_way.insert(number);
        Flight { shared: self.clone(), number }
    }

    /// Answers the functions before which nothing is under way any more.
    fn answer_functions(&self, flights: &mut Flights) {
        let oldest = flights.under_way.first().copied().unwrap_or(u64::MAX);
        while flights.waiting.front().is_some_and(|(number, ..)| *number <= oldest) {
            let Some((_, mut chain, queue)) = flights.waiting.pop_front() else { break };
            chain.write(&[control::COMPLETE]);
            queue.push(chain);
            queue.signal();
        }
    }

    fn drain(&self) {
        let mut flights = self.flights.lock();
        while !flights.under_way.is_empty() {
            self.landed.wait(&mut flights);
        }
    }

    /// Target and logical unit of an address of the first format (5.6.6.1), if it is one.
    fn address(lun: &[u8]) -> Option<(u8, u16)> {
        let number = u16::from_be_bytes([lun[2], lun[3]]);
        (lun[0] == 1).then_some((lun[1], number & 0x3fff))
    }

    /// The units as they are now.
    fn units(&self) -> Arc<Units> {
        self.units.read().clone()
    }

    fn unit(&self, (target, lun): (u8, u16)) -> Option<Arc<Unit>> {
        self.units.read().iter().find(|u| (u.target, u.lun) == (target, lun)).cloned()
    }
}

/// A virtio SCSI host adapter.
pub struct Scsi {
    config: ScsiConfig,
    shared: Arc<Shared>,
    queues: Vec<Option<Arc<Virtqueue>>>,
    notifier: Option<Arc<dyn Notifier>>,
    features: u64,
    /// An event found no buffer.
    missed: AtomicBool,
    paused: bool,
}

impl Scsi {
    /// Number of the drive with this target and logical unit, for [`Slots`].
    pub fn drive(&self, target: u8, lun: u16) -> Option<usize> {
        self.shared.units().iter().position(|u| (u.target, u.lun) == (target, lun))
    }

    /// A drive has been hung on the bus while the machine runs: the guest is told.
    pub fn plugged(&mut self, drive: &ScsiDrive) {
        let Some(unit) = Unit::new(drive) else { return };
        let mut all = Vec::clone(&self.shared.units());
        all.push(unit.clone());
        *self.shared.units.write() = Arc::new(all);
        self.came_or_went(&unit, event::RESCAN);
    }

    /// A drive is taken away, once what is under way at it is done; false if there is none.
    pub fn unplug(&mut self, target: u8, lun: u16) -> bool {
        let mut all = Vec::clone(&self.shared.units());
        let Some(at) = all.iter().position(|u| (u.target, u.lun) == (target, lun)) else { return false };
        let unit = all.remove(at);
        *self.shared.units.write() = Arc::new(all);
        self.shared.drain();
        self.came_or_went(&unit, event::REMOVED);
        true
    }

    fn came_or_went(&self, unit: &Unit, reason: u32) {
        if self.features & feature::HOTPLUG != 0 {
            self.tell(event::TRANSPORT_RESET, unit.address(), reason);
        }
    }

    fn config_space(&self) -> [u8; 36] {
        let c = &self.config;
        let mut space = [0; 36];
        let sizes =
            [&self.shared.sense_size, &self.shared.cdb_size].map(|s| s.load(Ordering::Relaxed) as u32);
        let words = [
            c.num_queues.into(),
            u32::from(c.virtqueue_size) - 2,
            c.max_sectors,
            c.cmd_per_lun,
            event::LEN,
            sizes[0],
            sizes[1],
        ];
        for (at, word) in words.into_iter().enumerate() {
            space[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        space[30..32].copy_from_slice(&MAX_TARGET.to_le_bytes());
        space[32..].copy_from_slice(&MAX_LUN.to_le_bytes());
        space
    }

    /// Puts an event into the driver's next buffer for one, or notes that there was none.
    fn tell(&self, what: u32, lun: [u8; 8], reason: u32) {
        let Some(queue) = self.queues[EVENT].as_ref().filter(|_| !self.paused) else {
            return self.missed.store(true, Ordering::Relaxed);
        };
        let Some(mut chain) = queue.pop() else { return self.missed.store(true, Ordering::Relaxed) };
        let missed = if self.missed.swap(false, Ordering::Relaxed) { event::MISSED } else { 0 };
        let bytes = [&(what | missed).to_le_bytes()[..], &lun, &reason.to_le_bytes()].concat();
        if chain.write(&bytes) < bytes.len() {
            queue.fail("a buffer too small for an event");
        }
        queue.push(chain);
        queue.signal();
    }

    /// Disks may have other sizes: the guest is told of those that have.
    pub fn resized(&self) {
        let units = self.shared.units();
        let resized = units.iter().filter(|u| u.unit.lock().is_resized());
        resized.for_each(|u| self.changed(u, Sense::CAPACITY_CHANGED));
    }

    fn medium_changed(&self, unit: &Unit) {
        self.changed(unit, Sense::MEDIUM_CHANGED);
    }

    fn changed(&self, unit: &Unit, how: Sense) {
        if self.features & feature::CHANGE != 0 {
            let Sense { code, qualifier, .. } = how;
            let reason = u32::from(code) | u32::from(qualifier) << 8;
            self.tell(event::PARAM_CHANGE, unit.address(), reason);
        }
    }

    fn reset_sizes(&self) {
        self.shared.sense_size.store(SENSE_SIZE.into(), Ordering::Relaxed);
        self.shared.cdb_size.store(CDB_SIZE.into(), Ordering::Relaxed);
    }
}

impl Slots for Scsi {
    fn with_slot(&mut self, unit: usize, f: &mut dyn FnMut(&mut dyn Slot)) -> bool {
        let Some(of) = self.shared.units().get(unit).cloned() else { return false };
        let medium = || {
            let unit = of.unit.lock();
            (unit.disk().is_some(), unit.save().changed)
        };
        let before = medium();
        let found = of.unit.lock().with_slot(0, f);
        if medium() != before {
            self.medium_changed(&of);
        }
        found
    }
}

::device::state! {
    /// State of the adapter, version 1.
    struct V1 {
        1 => sense_size: u64, 2 => cdb_size: u64, 3 => missed: bool, 4 => units: Vec<ScsiUnitState>,
    }
}

impl VirtioDevice for Scsi {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let change = if self.config.param_change { feature::CHANGE } else { 0 };
        change | if self.config.hotplug { feature::HOTPLUG } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.config.virtqueue_size; self.queues.len()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.config_space(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else { return };
        match offset {
            20 if value <= MAX_SIZE => self.shared.sense_size.store(value.into(), Ordering::Relaxed),
            24 if (16..=MAX_SIZE).contains(&value) => {
                self.shared.cdb_size.store(value.into(), Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        self.notifier = Some(notifier);
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
    }

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        self.queues[index] = Some(queue);
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        self.shared.drain();
        self.queues[index].take().map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        let Some(queue) = self.queues[index].clone().filter(|_| !self.paused) else { return Progress::Done };
        match index {
            CONTROL => queue.drain(|chain| {
                self.shared.control(&queue, chain);
                true
            }),
            EVENT => {
                if self.missed.load(Ordering::Relaxed) && queue.has_available() {
                    self.tell(event::NONE, [0; 8], 0);
                }
                Progress::Done
            }
            _ => queue.drain(|chain| {
                self.shared.request(&queue, chain);
                true
            }),
        }
    }

    fn reset(&mut self) {
        self.shared.drain();
        self.shared.units().iter().for_each(|u| u.unit.lock().reset());
        self.reset_sizes();
        self.features = 0;
        self.missed.store(false, Ordering::Relaxed);
    }

    fn save(&self) -> StateBlob {
        self.shared.drain();
        let size = |s: &AtomicU64| s.load(Ordering::Relaxed);
        let state = V1 {
            sense_size: size(&self.shared.sense_size),
            cdb_size: size(&self.shared.cdb_size),
            missed: self.missed.load(Ordering::Relaxed),
            units: self.shared.units().iter().map(|u| u.unit.lock().save()).collect(),
        };
        StateBlob::new(KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob, features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        StateError::at_most("sense_size", state.sense_size, MAX_SIZE.into())?;
        StateError::at_most("cdb_size", state.cdb_size, MAX_SIZE.into())?;
        if state.cdb_size < 16 {
            return Err(StateError::new("cdb_size", "expected 16 at least"));
        }
        let units = self.shared.units();
        let (has, found) = (units.len(), state.units.len());
        if has != found {
            return Err(StateError::new("units", format!("expected {has} drives, found {found}")));
        }
        self.shared.drain();
        for (i, (unit, s)) in units.iter().zip(&state.units).enumerate() {
            let mut trial = unit.unit.lock().clone();
            trial.restore(s).map_err(|e| e.within(&format!("units/[{i}]")))?;
        }
        for (unit, s) in units.iter().zip(&state.units) {
            unit.unit.lock().restore(s)?;
        }
        self.shared.sense_size.store(state.sense_size, Ordering::Relaxed);
        self.shared.cdb_size.store(state.cdb_size, Ordering::Relaxed);
        self.missed.store(state.missed, Ordering::Relaxed);
        self.features = features;
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.shared.drain();
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
