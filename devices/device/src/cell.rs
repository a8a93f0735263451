//! A built device behind its lock, and the handlers through which everybody else reaches it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use guest_memory::{Access, AccessRule, IoHandler};
use parking_lot::{Mutex, MutexGuard};

use crate::backend::{CharEvent, CharReceiver};
use crate::config::{AnyConfig, BuildError, PinSpec, RegionSpec};
use crate::line::LineSink;
use crate::log::GuestLog;
use crate::state::{StateBlob, StateError};
use crate::wires::Wires;
use crate::{Device, ResetKind};

/// A device and its lock.
pub struct DeviceCell {
    kind: &'static str,
    log: Arc<GuestLog>,
    regions: Vec<RegionSpec>,
    inputs: Vec<PinSpec>,
    device: Mutex<Box<dyn Device>>,
    /// The thread that holds the lock, 0 if none: a device that reaches itself is refused, not deadlocked.
    owner: AtomicUsize,
}

/// A non-zero number that no other thread has.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local!(static THIS: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    THIS.with(|this| *this)
}

struct Entered<'a> {
    cell: &'a DeviceCell,
    device: MutexGuard<'a, Box<dyn Device>>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.cell.owner.store(0, Ordering::Relaxed);
    }
}

impl Deref for Entered<'_> {
    type Target = dyn Device;
    fn deref(&self) -> &Self::Target {
        &**self.device
    }
}

impl DerefMut for Entered<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut **self.device
    }
}

impl DeviceCell {
    /// Builds a device with its wires and attaches it to its timers and backends.
    pub fn build(config: Box<dyn AnyConfig>, mut wires: Wires) -> Result<Arc<Self>, BuildError> {
        let (kind, regions, inputs, chardevs) =
            (config.kind(), config.regions(), config.inputs(), config.chardevs());
        let device = config.build(&mut wires)?;
        let cell = Arc::new(DeviceCell {
            kind,
            log: wires.log(),
            regions,
            inputs,
            device: Mutex::new(device),
            owner: AtomicUsize::new(0),
        });
        // Cannot be set already: the slot was made with the wires, and the wires are used up here.
        let _ = wires.slot.0.set(Arc::downgrade(&cell));
        for (slot, name) in chardevs.into_iter().enumerate() {
            let receives = cell.with(|device| device.char_receiver(slot).is_some());
            if let Some(backend) = wires.connected_chardev(name).filter(|_| receives) {
                backend.set_receiver(Some(Box::new(CellReceiver { cell: Arc::downgrade(&cell), slot })));
            }
        }
        Ok(cell)
    }

    /// The kind of device.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Path of the device in its machine.
    pub fn path(&self) -> &str {
        self.log.path()
    }

    /// The device's regions.
    pub fn regions(&self) -> &[RegionSpec] {
        &self.regions
    }

    /// The lock, or nothing if this thread holds it already.
    fn enter(&self) -> Option<Entered<'_>> {
        let me = this_thread();
        if self.owner.load(Ordering::Relaxed) == me {
            self.log.guest_error(format_args!("the device reached itself; the access is dropped"));
            return None;
        }
        let device = self.device.lock();
        self.owner.store(me, Ordering::Relaxed);
        Some(Entered { cell: self, device })
    }

    /// Runs `f` on the locked device. Not to be called from inside the device.
    pub fn with<R>(&self, f: impl FnOnce(&mut dyn Device) -> R) -> R {
        let device = self.device.lock();
        self.owner.store(this_thread(), Ordering::Relaxed);
        f(&mut *Entered { cell: self, device })
    }

    /// The handler for region `index`, to be placed in an address space.
    pub fn region(self: &Arc<Self>, index: usize) -> Arc<dyn IoHandler> {
        let rule = self.regions.get(index).map_or(AccessRule::ANY, |r| r.rule);
        Arc::new(RegionHandler { cell: self.clone(), index, rule })
    }

    /// Input pin `index` of row `name`, as the end of a wire.
    pub fn input(self: &Arc<Self>, name: &str, index: usize) -> Option<Arc<dyn LineSink>> {
        PinSpec::number(&self.inputs, name, index).map(|pin| self.input_pin(pin))
    }

    /// Input pin number `pin`, as the end of a wire.
    pub fn input_pin(self: &Arc<Self>, pin: usize) -> Arc<dyn LineSink> {
        let cell = Arc::downgrade(self);
        Arc::new(move |level| {
            if let Some(cell) = cell.upgrade()
                && let Some(mut device) = cell.enter()
            {
                device.line_in(pin, level);
            }
        })
    }

    pub(crate) fn timer(&self, id: usize, stands: &dyn Fn() -> bool) {
        if let Some(mut device) = self.enter()
            && stands()
        {
            device.timer(id);
        }
    }

    pub(crate) fn wake(&self, id: usize) {
        // A backend that works at once on the caller's thread wakes a device that looks for itself before it returns.
        if self.owner.load(Ordering::Relaxed) != this_thread()
            && let Some(mut device) = self.enter()
        {
            device.wake(id);
        }
    }

    /// An interrupt-acknowledge cycle; `None` if the device is no interrupt controller.
    pub fn acknowledge(&self) -> Option<u8> {
        self.enter()?.interrupt_controller().map(|c| c.acknowledge())
    }

    /// Tells an interrupt controller of the end of an interrupt.
    pub fn end_of_interrupt(&self, vector: u8) {
        if let Some(mut device) = self.enter()
            && let Some(controller) = device.interrupt_controller()
        {
            controller.end_of_interrupt(vector);
        }
    }

    /// Resets the device.
    pub fn reset(&self, kind: ResetKind) {
        self.with(|device| device.reset(kind));
    }

    /// The device's state.
    pub fn save(&self) -> StateBlob {
        self.with(|device| device.save())
    }

    /// Restores the device's state; the error starts with the device's path.
    pub fn restore(&self, state: &StateBlob) -> Result<(), StateError> {
        self.with(|device| device.restore(state)).map_err(|e| e.within(self.path()))
    }

    /// Takes the device out: it ends what it was at, lets go of its wires and back ends and is gone when this returns, while
    /// who still holds the cell reaches nothing in it.
    pub fn retire(&self) {
        self.with(|device| {
            device.quiesce();
            device.reset(ResetKind::Cold);
        });
        let old = std::mem::replace(&mut *self.device.lock(), Box::new(Gone(self.kind)));
        drop(old);
    }

    /// See [`Device::quiesce`].
    pub fn quiesce(&self) {
        self.with(|device| device.quiesce());
    }

    /// See [`Device::resume`].
    pub fn resume(&self) {
        self.with(|device| device.resume());
    }
}

impl std::fmt::Debug for DeviceCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.kind, self.path())
    }
}

/// What is left of a device that was taken out.
struct Gone(&'static str);

impl Device for Gone {
    fn read(&mut self, _region: usize, _offset: u64, data: &mut [u8]) -> Access {
        data.fill(0xff);
        Access::Ok
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Access {
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(self.0)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(self.0)
    }
}

/// A device that may not stand yet: what a device knows of its own cell while it is being built.
#[derive(Clone, Default)]
pub struct CellRef(pub(crate) Arc<OnceLock<Weak<DeviceCell>>>);

impl CellRef {
    /// The device, once it stands and as long as it does.
    pub fn get(&self) -> Option<Arc<DeviceCell>> {
        self.0.get()?.upgrade()
    }
}

impl std::fmt::Debug for CellRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CellRef({:?})", self.get())
    }
}

struct RegionHandler {
    cell: Arc<DeviceCell>,
    index: usize,
    rule: AccessRule,
}

impl RegionHandler {
    #[cold]
    fn report(&self, access: Access, verb: &str, offset: u64, len: usize) {
        let name = self.cell.regions.get(self.index).map_or("?", |r| &r.name);
        self.cell.log.access(access, verb, name, offset, len);
    }
}

impl IoHandler for RegionHandler {
    fn read(&self, offset: u64, data: &mut [u8]) -> Access {
        let Some(mut device) = self.cell.enter() else { return Access::Fault };
        let access = device.read(self.index, offset, data);
        drop(device);
        if access != Access::Ok {
            self.report(access, "read", offset, data.len());
        }
        access
    }

    fn write(&self, offset: u64, data: &[u8]) -> Access {
        let Some(mut device) = self.cell.enter() else { return Access::Fault };
        let access = device.write(self.index, offset, data);
        drop(device);
        if access != Access::Ok {
            self.report(access, "write", offset, data.len());
        }
        access
    }

    fn rule(&self) -> AccessRule {
        self.rule
    }
}

struct CellReceiver {
    cell: Weak<DeviceCell>,
    slot: usize,
}

impl CellReceiver {
    fn with<R>(&self, f: impl FnOnce(&mut dyn CharReceiver) -> R) -> Option<R> {
        let cell = self.cell.upgrade()?;
        let mut device = cell.enter()?;
        device.char_receiver(self.slot).map(f)
    }
}

impl CharReceiver for CellReceiver {
    fn can_receive(&mut self) -> usize {
        self.with(|r| r.can_receive()).unwrap_or(0)
    }
    fn receive(&mut self, data: &[u8]) {
        self.with(|r| r.receive(data));
    }
    fn event(&mut self, event: CharEvent) {
        self.with(|r| r.event(event));
    }
}
