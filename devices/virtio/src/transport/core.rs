//! What all transports have in common: the status state machine, feature negotiation and queue set-up.
//!
//! Invariants: a queue is in `running` exactly if its `ready` register reads 1, the driver has set DRIVER_OK and
//! nothing was reset since; `driver_features` is a subset of what is offered once FEATURES_OK is set.

use std::fmt;
use std::sync::Arc;

use ::device::{
    Clock, Dma, GuestLog, PropertyError, State, StateBlob, StateError, Timer, Wires, device_config,
};

use crate::device::{Notifier, Progress, VirtioDevice, feature};
use crate::queue::{QueueLayout, QueueState, RingKind, Virtqueue};

/// Bits of the status register (virtio 1.2, 2.1).
pub(crate) mod status {
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
    /// ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK and FAILED: what a driver may set.
    pub(crate) const DRIVER: u8 = 1 | 2 | 4 | 8 | 128;
}

device_config! {
    /// Which options of the rings a device offers.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RingOptions {
        /// Offer indirect descriptors.
        pub indirect_desc: bool = true,
        /// Offer event indices in place of interrupt and notification flags.
        pub event_idx: bool = true,
        /// Offer packed rings.
        pub packed: bool = false,
        /// Offer that single queues are reset.
        pub queue_reset: bool = true,
        /// Offer that addresses are those of the platform's bus masters, as they always are here.
        pub iommu_platform: bool = false,
    }
}

/// One of the three addresses of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    Desc,
    Driver,
    Device,
}

/// The registers of one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueRegs {
    pub(super) max: u16,
    pub(super) size: u32,
    pub(super) desc: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) ready: bool,
}

::device::state! {
    /// Saved registers and position of one queue.
    pub(crate) struct SavedQueue {
        1 => size: u32, 2 => desc: u64, 3 => driver: u64, 4 => device: u64, 5 => ready: bool,
        6 => next_avail: u16, 7 => next_used: u16,
    }
}

::device::state! {
    /// Saved state of a transport's core and of the device behind it.
    pub(crate) struct CoreState {
        1 => status: u8, 2 => driver_features: u64, 3 => device_features_sel: u32,
        4 => driver_features_sel: u32, 5 => queue_sel: u32, 6 => queues: Vec<SavedQueue>, 7 => broken: bool,
        8 => again: u64, 9 => deadline: Option<u64>, 10 => device: ::device::Bytes, 11 => failed: bool,
        12 => legacy: bool,
    }
}

/// Timer of the core; the device's own ids are below.
pub(crate) const TIMER: usize = usize::MAX;

/// The part of a transport that does not depend on how its registers lie.
pub(crate) struct Core {
    pub(crate) device: Box<dyn VirtioDevice>,
    notifier: Arc<dyn Notifier>,
    log: Arc<GuestLog>,
    dma: Dma,
    clock: Clock,
    /// Runs queues on that were left with [`Progress::More`].
    timer: Timer,
    again: u64,
    status: u8,
    /// The driver has failed to set up a queue before it was allowed to be interrupted.
    failed: bool,
    /// The driver is one of before version 1.
    pub(super) legacy: bool,
    pub(super) offered: u64,
    pub(super) driver_features: u64,
    pub(crate) device_features_sel: u32,
    pub(crate) driver_features_sel: u32,
    pub(crate) queue_sel: u32,
    pub(super) queues: Vec<QueueRegs>,
    running: Vec<Option<Arc<Virtqueue>>>,
}

impl Core {
    pub(crate) fn new(
        mut device: Box<dyn VirtioDevice>,
        options: &RingOptions,
        notifier: Arc<dyn Notifier>,
        wires: &Wires,
    ) -> Result<Self, ::device::BuildError> {
        device.attach(notifier.clone());
        let mut offered = device.features() | feature::VERSION_1;
        offered |= if options.indirect_desc { feature::INDIRECT_DESC } else { 0 };
        offered |= if options.event_idx { feature::EVENT_IDX } else { 0 };
        offered |= if options.packed { feature::RING_PACKED } else { 0 };
        offered |= if options.queue_reset { feature::RING_RESET } else { 0 };
        offered |= if options.iommu_platform { feature::ACCESS_PLATFORM } else { 0 };
        offered &= device.permitted() | feature::VERSION_1;
        let sizes = device.queue_sizes();
        Ok(Core {
            device,
            notifier,
            log: wires.log(),
            dma: wires.dma()?,
            clock: wires.clock(),
            timer: wires.timer(TIMER),
            again: 0,
            status: 0,
            failed: false,
            legacy: false,
            offered,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            running: sizes.iter().map(|_| None).collect(),
            queues: sizes
                .iter()
                .map(|&max| QueueRegs { max, size: max.into(), ..QueueRegs::default() })
                .collect(),
        })
    }

    pub(super) fn complain(&self, what: fmt::Arguments<'_>) {
        self.log.guest_error(what);
    }

    /// What was agreed on for the rings.
    fn rings(&self) -> RingKind {
        let agreed = |bit| self.driver_features & bit != 0;
        RingKind { event_idx: agreed(feature::EVENT_IDX), packed: agreed(feature::RING_PACKED) }
    }

    /// Where a queue begins.
    fn origin(&self) -> QueueState {
        QueueState::start(self.rings())
    }

    fn driver_ok(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    /// The 32 offered feature bits that are selected.
    pub(crate) fn device_features(&self) -> u32 {
        match self.device_features_sel {
            0 => self.offered as u32,
            1 => (self.offered >> 32) as u32,
            _ => 0,
        }
    }

    /// The driver accepts 32 feature bits.
    pub(crate) fn set_driver_features(&mut self, bits: u32) {
        if self.status & (status::FEATURES_OK | status::DRIVER_OK) != 0 {
            self.complain(format_args!("features changed after FEATURES_OK"));
            return;
        }
        let bits = u64::from(bits);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | bits,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | bits << 32,
            _ if bits != 0 => self.complain(format_args!("feature bits from 64 on accepted")),
            _ => {}
        }
    }

    /// The status register.
    pub(crate) fn status(&self) -> u8 {
        let broken = self.failed || self.notifier.is_broken();
        self.status | if broken { status::NEEDS_RESET } else { 0 }
    }

    /// Writes the status register; true if that was a reset, after which the transport resets its own part.
    pub(crate) fn set_status(&mut self, value: u8) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let new = value & status::DRIVER & !self.status;
        if new & status::FEATURES_OK != 0 {
            let wanted = self.driver_features;
            let fits = wanted & !self.offered == 0 && wanted & feature::VERSION_1 != 0;
            if !fits || !self.device.accepts(wanted) {
                self.complain(format_args!("features {wanted:#x} refused, {:#x} are offered", self.offered));
                self.status |= new & !(status::FEATURES_OK | status::DRIVER_OK);
                return false;
            }
        }
        self.follow_status(value);
        false
    }

    /// Takes over bits of the status that are new, and starts the device with the last of them.
    pub(super) fn follow_status(&mut self, value: u8) {
        let new = value & status::DRIVER & !self.status;
        self.status |= new & !status::DRIVER_OK;
        if new & status::DRIVER_OK != 0 {
            if self.status & status::FEATURES_OK == 0 && !self.legacy {
                return self.complain(format_args!("DRIVER_OK without FEATURES_OK"));
            }
            self.status |= status::DRIVER_OK;
            self.device.activate(self.driver_features);
            for index in 0..self.queues.len() {
                self.start(index, self.origin());
            }
            // Some drivers fill a queue and notify of it before they are ready.
            self.run_all();
        }
    }

    /// Resets everything.
    pub(crate) fn reset(&mut self) {
        for index in 0..self.queues.len() {
            self.stop(index);
            let max = self.queues[index].max;
            self.queues[index] = QueueRegs { max, size: max.into(), ..QueueRegs::default() };
        }
        self.device.reset();
        self.timer.cancel();
        self.again = 0;
        self.status = 0;
        (self.failed, self.legacy) = (false, false);
        self.driver_features = 0;
        (self.device_features_sel, self.driver_features_sel, self.queue_sel) = (0, 0, 0);
    }

    pub(super) fn selected(&self) -> Option<&QueueRegs> {
        self.queues.get(self.queue_sel as usize)
    }

    /// The largest size of the selected queue, 0 if there is none.
    pub(crate) fn queue_max(&self) -> u16 {
        self.selected().map_or(0, |q| q.max)
    }

    /// Number of queues.
    pub(crate) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The size of the selected queue as set so far, 0 if there is none.
    pub(crate) fn queue_size(&self) -> u32 {
        self.selected().map_or(0, |q| q.size)
    }

    /// Half an address of the selected queue.
    pub(crate) fn queue_area(&self, area: Area, high: bool) -> u32 {
        let of = |q: &QueueRegs| match area {
            Area::Desc => q.desc,
            Area::Driver => q.driver,
            Area::Device => q.device,
        };
        self.selected().map_or(0, |q| (of(q) >> if high { 32 } else { 0 }) as u32)
    }

    /// The 32 accepted feature bits that are selected.
    pub(crate) fn driver_features(&self) -> u32 {
        match self.driver_features_sel {
            0 => self.driver_features as u32,
            1 => (self.driver_features >> 32) as u32,
            _ => 0,
        }
    }

    /// Whether the selected queue is ready.
    pub(crate) fn queue_ready(&self) -> bool {
        self.selected().is_some_and(|q| q.ready)
    }

    fn selected_idle(&mut self, what: &str) -> Option<&mut QueueRegs> {
        let index = self.queue_sel;
        if self.selected().is_none_or(|q| q.ready) {
            self.complain(format_args!("{what} of queue {index}, which is ready or not there"));
            return None;
        }
        self.queues.get_mut(index as usize)
    }

    /// Sets the size of the selected queue; checked when it is made ready.
    pub(crate) fn set_queue_size(&mut self, size: u32) {
        if let Some(queue) = self.selected_idle("size") {
            queue.size = size;
        }
    }

    /// Sets half an address of the selected queue.
    pub(crate) fn set_queue_area(&mut self, area: Area, high: bool, value: u32) {
        let Some(queue) = self.selected_idle("address") else { return };
        let to = match area {
            Area::Desc => &mut queue.desc,
            Area::Driver => &mut queue.driver,
            Area::Device => &mut queue.device,
        };
        let (mask, shift) = if high { (0xffff_ffff, 32) } else { (!0xffff_ffff, 0) };
        *to = *to & mask | u64::from(value) << shift;
    }

    /// Makes the selected queue ready, or stops it.
    pub(crate) fn set_queue_ready(&mut self, ready: bool) {
        let index = self.queue_sel as usize;
        let Some(queue) = self.queues.get_mut(index) else {
            return self.complain(format_args!("queue {index} is not there"));
        };
        if queue.ready == ready {
            return;
        }
        if ready {
            match self.make(index, self.origin()) {
                Ok(made) if made.is_mapped() => {
                    self.queues[index].ready = true;
                    self.start(index, self.origin());
                }
                Ok(_) => self.fail(format_args!("queue {index}: the ring is not in memory")),
                Err(e) => self.fail(format_args!("queue {index}: {e}")),
            }
        } else {
            self.stop(index);
            self.queues[index].ready = false;
        }
    }

    /// Resets the selected queue (virtio 1.2, 2.6.1).
    pub(crate) fn reset_queue(&mut self) {
        let index = self.queue_sel as usize;
        if self.driver_features & feature::RING_RESET == 0 || index >= self.queues.len() {
            return self.complain(format_args!("reset of queue {index}, not negotiated or not there"));
        }
        self.stop(index);
        let max = self.queues[index].max;
        self.queues[index] = QueueRegs { max, size: max.into(), ..QueueRegs::default() };
    }

    /// The driver has broken the protocol. Before DRIVER_OK it is not told but by the status (virtio 1.2, 2.1.2).
    fn fail(&mut self, why: fmt::Arguments<'_>) {
        if self.driver_ok() {
            self.notifier.needs_reset(why);
        } else {
            self.failed = true;
            self.complain(format_args!("{why}; the device needs a reset"));
        }
    }

    fn make(&self, index: usize, state: QueueState) -> Result<Virtqueue, virtio_queue::Error> {
        let q = &self.queues[index];
        let shaped = |s: u16| self.rings().packed && s != 0 || s.is_power_of_two();
        let size = u16::try_from(q.size).ok().filter(|&s| shaped(s) && s <= q.max);
        let size = size.ok_or(virtio_queue::Error::InvalidSize)?;
        let layout = QueueLayout { size, desc: q.desc, driver: q.driver, device: q.device };
        let (dma, notifier) = (self.dma.clone(), self.notifier.clone());
        Virtqueue::new(index as u16, layout, self.rings(), state, dma, notifier)
    }

    /// Hands a ready queue to the device, if the driver is ready too.
    fn start(&mut self, index: usize, state: QueueState) {
        if !self.driver_ok() || self.failed || !self.queues[index].ready || self.running[index].is_some() {
            return;
        }
        match self.make(index, state) {
            Ok(queue) => {
                let queue = Arc::new(queue);
                self.running[index] = Some(queue.clone());
                self.device.start_queue(index, queue);
            }
            Err(e) => self.fail(format_args!("queue {index}: {e}")),
        }
    }

    fn stop(&mut self, index: usize) {
        if self.running[index].take().is_some() {
            self.device.stop_queue(index);
        }
    }

    /// The driver notifies of queue `index`.
    pub(crate) fn notify(&mut self, index: usize) {
        if self.running.get(index).is_none_or(Option::is_none) {
            return self.complain(format_args!("notification of queue {index}, which does not run"));
        }
        self.run(index);
    }

    fn run(&mut self, index: usize) {
        if self.device.notify(index) == Progress::More {
            self.again |= 1 << index.min(63);
            self.timer.arm(self.clock.now());
        }
    }

    /// The core's timer has expired.
    pub(crate) fn timer(&mut self) {
        let again = std::mem::take(&mut self.again);
        for index in 0..self.running.len() {
            if again & 1 << index.min(63) != 0 && self.running[index].is_some() {
                self.run(index);
            }
        }
    }

    /// See [`VirtioDevice::resume`].
    pub(crate) fn resume(&mut self) {
        self.device.resume();
        self.run_all();
    }

    fn run_all(&mut self) {
        for index in 0..self.running.len() {
            if self.running[index].is_some() {
                self.run(index);
            }
        }
    }

    pub(crate) fn save(&self) -> CoreState {
        // First the device: it finishes what is in flight, which moves the queues.
        let device = ::device::Bytes(self.device.save().to_bytes());
        let origin = self.origin();
        let queue = |(q, running): (&QueueRegs, &Option<Arc<Virtqueue>>)| {
            let at = running.as_ref().map_or(origin, |r| r.state());
            SavedQueue {
                size: q.size,
                desc: q.desc,
                driver: q.driver,
                device: q.device,
                ready: q.ready,
                next_avail: at.next_avail,
                next_used: at.next_used,
            }
        };
        CoreState {
            status: self.status,
            driver_features: self.driver_features,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            queue_sel: self.queue_sel,
            queues: self.queues.iter().zip(&self.running).map(queue).collect(),
            broken: self.notifier.is_broken(),
            again: self.again,
            deadline: self.timer.deadline(),
            device,
            failed: self.failed,
            legacy: self.legacy,
        }
    }

    /// All or nothing, but for the notifier's state, which is the transport's.
    pub(crate) fn restore(&mut self, state: &CoreState) -> Result<(), StateError> {
        let bad = |field: &str, what: String| Err(StateError::new(field, what));
        if state.queues.len() != self.queues.len() {
            let (has, found) = (self.queues.len(), state.queues.len());
            return bad("queues", format!("expected {has} queues, found {found}"));
        }
        if state.status & !status::DRIVER != 0 {
            return bad(
                "status",
                format!("expected bits in {:#x}, found {:#x}", status::DRIVER, state.status),
            );
        }
        let (negotiated, ok) =
            (state.status & status::FEATURES_OK != 0, state.status & status::DRIVER_OK != 0);
        let unknown = state.driver_features & !self.offered;
        let agreed = negotiated || state.legacy && ok;
        if agreed && (unknown != 0 || !self.device.accepts(state.driver_features)) || ok && !agreed {
            let offered = self.offered;
            let found = state.driver_features;
            return bad("driver_features", format!("expected some of {offered:#x}, found {found:#x}"));
        }
        let packed = state.driver_features & feature::RING_PACKED != 0;
        for (index, (saved, regs)) in state.queues.iter().zip(&self.queues).enumerate() {
            let driver = if packed { 4 } else { 2 };
            let aligned = saved.desc % 16 == 0 && saved.driver % driver == 0 && saved.device % 4 == 0;
            let shaped = packed && saved.size != 0 || saved.size.is_power_of_two();
            let within = |at: u16| !packed || u32::from(at & 0x7fff) < saved.size;
            let placed = within(saved.next_avail) && within(saved.next_used);
            let fits = shaped && saved.size <= regs.max.into() && aligned && placed;
            if saved.ready && !fits {
                return bad(&format!("queues/[{index}]"), "expected a valid size and addresses".into());
            }
        }
        let blob = StateBlob::from_bytes(&state.device.0).map_err(|e| e.within("device"))?;
        let features = if ok { state.driver_features } else { 0 };
        self.device.restore(&blob, features).map_err(|e| e.within("device"))?;

        for index in 0..self.queues.len() {
            self.stop(index);
            let s = &state.queues[index];
            let max = self.queues[index].max;
            let (size, desc, driver, device, ready) = (s.size, s.desc, s.driver, s.device, s.ready);
            self.queues[index] = QueueRegs { max, size, desc, driver, device, ready };
        }
        self.status = state.status;
        (self.failed, self.legacy) = (state.failed, state.legacy);
        self.driver_features = state.driver_features;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.queue_sel = state.queue_sel;
        self.again = state.again;
        self.timer.set(state.deadline);
        if self.driver_ok() {
            self.device.activate(self.driver_features);
            for (index, s) in state.queues.iter().enumerate() {
                self.start(index, QueueState { next_avail: s.next_avail, next_used: s.next_used });
            }
        }
        Ok(())
    }
}

/// The core's state as a blob of its own, which transports nest in theirs.
impl Core {
    pub(crate) fn save_bytes(&self) -> ::device::Bytes {
        let mut out = Vec::new();
        self.save().put_fields(&mut out);
        ::device::Bytes(out)
    }

    /// Takes it over; whether the device was broken, which the transport's notifier knows.
    pub(crate) fn restore_bytes(&mut self, bytes: &::device::Bytes) -> Result<bool, StateError> {
        let state = CoreState::from_fields(&bytes.0).map_err(|e| e.within("core"))?;
        self.restore(&state).map_err(|e| e.within("core"))?;
        Ok(state.broken)
    }
}

/// What of [`::device::Device`] is the same for all transports with a `core`.
macro_rules! forward_to_core {
    () => {
        fn timer(&mut self, id: usize) {
            if id == $crate::transport::TIMER { self.core.timer() } else { self.core.device.timer(id) }
        }

        fn quiesce(&mut self) {
            self.core.device.quiesce();
        }

        fn resume(&mut self) {
            self.core.resume();
        }

        fn char_receiver(&mut self, slot: usize) -> Option<&mut dyn ::device::CharReceiver> {
            self.core.device.char_receiver(slot)
        }

        fn as_any(&mut self) -> Option<&mut dyn std::any::Any> {
            Some(self.core.device.as_any())
        }
    };
}
pub(crate) use forward_to_core;

/// Sets a property in the first of several that knows it: `set` tries one, `next` the rest.
pub(crate) fn set_first(
    set: Result<(), PropertyError>,
    next: impl FnOnce() -> Result<(), PropertyError>,
) -> Result<(), PropertyError> {
    match set {
        Err(PropertyError::Unknown { known: first, .. }) => next().map_err(|e| match e {
            PropertyError::Unknown { name, known } if !first.is_empty() => {
                PropertyError::Unknown { name, known: format!("{first}, {known}") }
            }
            other => other,
        }),
        other => other,
    }
}
