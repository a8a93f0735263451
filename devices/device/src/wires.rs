//! What a device is handed when it is built.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::Disk;
use guest_memory::{AddressSpace, Dma, Gate, RamBlock};
use net::{Endpoint, NullEndpoint};

use crate::backend::{CharBackend, NullChar};
use crate::cell::CellRef;
use crate::clock::{Clock, WallClock};
use crate::config::BuildError;
use crate::line::{IrqLine, MsiTarget};
use crate::log::GuestLog;
use crate::system::SystemControl;
use crate::timer::{Timer, TimerQueue};

/// The address spaces of the machine, for the few devices that decide what lies where: buses, memory controllers,
/// flash chips. All others have their regions placed by the board.
#[derive(Clone, Debug)]
pub struct Spaces {
    /// Guest physical memory.
    pub memory: AddressSpace,
    /// Port I/O, if the machine has it.
    pub ports: Option<AddressSpace>,
}

/// Collects the far ends of a device's wires; used by whoever builds a machine.
pub struct WiresBuilder(Wires);

impl WiresBuilder {
    /// Wires of the device `path` (e.g. `machine/tty0`), with all its pins unconnected.
    pub fn new(path: impl Into<String>, timers: &TimerQueue) -> Self {
        let path = path.into();
        WiresBuilder(Wires {
            log: Arc::new(GuestLog::new(&path)),
            wall: WallClock::from_now(timers.clock().clone()),
            timers: timers.clone(),
            lines: BTreeMap::new(),
            msi: None,
            dma: None,
            chardevs: BTreeMap::new(),
            disks: BTreeMap::new(),
            nics: BTreeMap::new(),
            rams: BTreeMap::new(),
            spaces: None,
            system: SystemControl::default(),
            slot: CellRef::default(),
            path,
        })
    }

    /// Connects pin `index` of output row `name`.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, index: usize, line: IrqLine) -> Self {
        self.0.lines.insert((name.into(), index), line);
        self
    }

    /// Where messages go.
    #[must_use]
    pub fn msi(mut self, target: MsiTarget) -> Self {
        self.0.msi = Some(target);
        self
    }

    /// The memory the device masters.
    #[must_use]
    pub fn dma(mut self, dma: Dma) -> Self {
        self.0.dma = Some(dma);
        self
    }

    /// The backend of character slot `name`.
    #[must_use]
    pub fn chardev(mut self, name: impl Into<String>, backend: Arc<dyn CharBackend>) -> Self {
        self.0.chardevs.insert(name.into(), backend);
        self
    }

    /// The disk in slot `name`.
    #[must_use]
    pub fn disk(mut self, name: impl Into<String>, disk: Disk) -> Self {
        self.0.disks.insert(name.into(), disk);
        self
    }

    /// The network endpoint in slot `name`.
    #[must_use]
    pub fn nic(mut self, name: impl Into<String>, endpoint: Arc<dyn Endpoint>) -> Self {
        self.0.nics.insert(name.into(), endpoint);
        self
    }

    /// The memory the device has declared as `name`.
    #[must_use]
    pub fn ram(mut self, name: impl Into<String>, block: Arc<RamBlock>) -> Self {
        self.0.rams.insert(name.into(), block);
        self
    }

    /// The machine's address spaces.
    #[must_use]
    pub fn spaces(mut self, spaces: Spaces) -> Self {
        self.0.spaces = Some(spaces);
        self
    }

    /// Where requests to the machine go.
    #[must_use]
    pub fn system(mut self, system: SystemControl) -> Self {
        self.0.system = system;
        self
    }

    /// The time of day.
    #[must_use]
    pub fn wall_clock(mut self, wall: WallClock) -> Self {
        self.0.wall = wall;
        self
    }

    /// Done.
    pub fn build(self) -> Wires {
        self.0
    }
}

/// Calls a device from a backend's thread.
#[derive(Clone)]
pub struct Waker {
    slot: CellRef,
    id: usize,
}

impl Waker {
    /// Calls [`crate::Device::wake`], after waiting for the device's lock. The caller holds no lock that the device
    /// takes.
    pub fn wake(&self) {
        if let Some(cell) = self.slot.get() {
            cell.wake(self.id);
        }
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waker({})", self.id)
    }
}

/// The near ends of a device's wires. A pin nobody connected is handed out all the same and leads nowhere.
pub struct Wires {
    path: String,
    log: Arc<GuestLog>,
    wall: WallClock,
    timers: TimerQueue,
    lines: BTreeMap<(String, usize), IrqLine>,
    msi: Option<MsiTarget>,
    dma: Option<Dma>,
    chardevs: BTreeMap<String, Arc<dyn CharBackend>>,
    disks: BTreeMap<String, Disk>,
    nics: BTreeMap<String, Arc<dyn Endpoint>>,
    rams: BTreeMap<String, Arc<RamBlock>>,
    spaces: Option<Spaces>,
    system: SystemControl,
    pub(crate) slot: CellRef,
}

impl Wires {
    /// Path of the device in its machine.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The device's voice about its guest.
    pub fn log(&self) -> Arc<GuestLog> {
        self.log.clone()
    }

    /// The single output pin `name`.
    pub fn line(&self, name: &str) -> IrqLine {
        self.lines.get(&(name.to_owned(), 0)).cloned().unwrap_or_default()
    }

    /// The `count` output pins of row `name`.
    pub fn lines(&self, name: &str, count: usize) -> Vec<IrqLine> {
        let pin = |i| self.lines.get(&(name.to_owned(), i)).cloned().unwrap_or_default();
        (0..count).map(pin).collect()
    }

    /// Where messages go, if the machine has message-signalled interrupts.
    pub fn msi(&self) -> Option<MsiTarget> {
        self.msi.clone()
    }

    /// The memory the device masters.
    pub fn dma(&self) -> Result<Dma, BuildError> {
        self.dma.clone().ok_or_else(|| self.missing("guest memory (DMA)"))
    }

    /// Puts a gate before all memory that is handed out from now on: a bus can shut its devices out.
    pub fn gate_dma(&mut self, gate: Gate) {
        self.dma = self.dma.take().map(|dma| dma.behind(gate));
    }

    /// The memory declared as `name` (see [`crate::DeviceConfig::rams`]).
    pub fn ram(&self, name: &str) -> Result<Arc<RamBlock>, BuildError> {
        self.rams.get(name).cloned().ok_or_else(|| self.missing(format!("memory '{name}'")))
    }

    /// The machine's address spaces; nothing on a bench.
    pub fn spaces(&self) -> Option<Spaces> {
        self.spaces.clone()
    }

    /// The device that is being built, as soon as it stands.
    pub fn cell(&self) -> CellRef {
        self.slot.clone()
    }

    /// The character backend in slot `name`; output is swallowed if there is none.
    pub fn chardev(&self, name: &str) -> Arc<dyn CharBackend> {
        self.chardevs.get(name).cloned().unwrap_or_else(|| Arc::new(NullChar))
    }

    pub(crate) fn connected_chardev(&self, name: &str) -> Option<Arc<dyn CharBackend>> {
        self.chardevs.get(name).cloned()
    }

    /// The disk in slot `name`, if there is one.
    pub fn disk(&self, name: &str) -> Option<Disk> {
        self.disks.get(name).cloned()
    }

    /// The network endpoint in slot `name`; a cable into nothing if there is none.
    pub fn nic(&self, name: &str) -> Arc<dyn Endpoint> {
        self.nics.get(name).cloned().unwrap_or_else(|| Arc::new(NullEndpoint))
    }

    /// The machine's clock.
    pub fn clock(&self) -> Clock {
        self.timers.clock().clone()
    }

    /// The time of day.
    pub fn wall_clock(&self) -> WallClock {
        self.wall.clone()
    }

    /// A timer that calls [`crate::Device::timer`] with `id`.
    pub fn timer(&self, id: usize) -> Timer {
        let slot = self.slot.clone();
        self.timers.timer(move |stands| {
            if let Some(cell) = slot.get() {
                cell.timer(id, stands);
            }
        })
    }

    /// What a backend thread calls [`crate::Device::wake`] with, on waker number `id`.
    pub fn waker(&self, id: usize) -> Waker {
        Waker { slot: self.slot.clone(), id }
    }

    /// The machine's timers, for a device that needs its own kind of callback.
    pub fn timers(&self) -> &TimerQueue {
        &self.timers
    }

    /// Requests that concern the whole machine.
    pub fn system(&self) -> SystemControl {
        self.system.clone()
    }

    /// The error for something the device cannot do without.
    pub fn missing(&self, what: impl Into<String>) -> BuildError {
        BuildError::Missing { path: self.path.clone(), what: what.into() }
    }

    /// The error for a property whose value cannot be.
    pub fn bad_property(&self, name: &'static str, why: impl Into<String>) -> BuildError {
        BuildError::Property { path: self.path.clone(), name, why: why.into() }
    }

    /// The error for something the host refused.
    pub fn host_error(&self, why: impl Into<String>) -> BuildError {
        BuildError::Host { path: self.path.clone(), why: why.into() }
    }
}
