//! Buses: who is where, how configuration accesses find their function, what is mapped.
//!
//! PCI Local Bus Specification 3.0, 3.2.2.3; PCI to PCI Bridge Architecture Specification 1.2, chapters 4 and 5.
//!
//! A fabric is all buses behind one host bridge. Bus 0 of it is the root bus; each bridge has one more. Functions tell it
//! what they decode; it places their regions into the machine's address spaces: memory into the region called
//! [`MEMORY_CONTAINER`] if the board has one, below everything else if not; ports below those of the board. What lies
//! behind a bridge is seen as far as it is wholly inside the bridge's windows.
//!
//! Locks: a function's configuration space, then the fabric, then an address space. The fabric calls nothing with its
//! lock held but address spaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use device::{CellRef, IoHandler, Spaces, SystemControl, SystemRequest};
use guest_memory::{AddressSpace, MemoryError, RamBlock, Region, RegionId, Transaction};
use parking_lot::Mutex;

use crate::config_space::{ConfigSpace, command, reg};
use crate::device::{CONFIG_REGION, region_of_bar, region_of_fixed};
use crate::spec::FunctionSpec;

/// Name of the region of the memory space that holds what PCI functions decode.
pub const MEMORY_CONTAINER: &str = "pci";
/// Priority of what is placed beside the board's own.
const PRIORITY: i32 = -1;
/// Most buses of a fabric: their numbers are bytes.
const MAX_BUSES: usize = 256;

/// Where a region lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From this address of guest physical memory on.
    Memory(u64),
    /// From this port on.
    Ports(u16),
}

/// A range that a bridge passes on: first and last address.
type Window = Option<(u64, u64)>;

/// What a bridge passes on, and the numbers of the buses behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    secondary: u8,
    subordinate: u8,
    ports: Window,
    memory: Window,
    prefetch: Window,
}

impl Windows {
    pub(crate) fn of(c: &ConfigSpace) -> Self {
        let enabled = |bit| c.u16(reg::COMMAND) & bit != 0;
        let range = |base: u64, last: u64, on: bool| (on && base <= last).then_some((base, last));
        let io = |at: usize, upper: usize| u64::from(c.u8(at) & 0xf0) << 8 | u64::from(c.u16(upper)) << 16;
        let memory = |at: usize| u64::from(c.u16(at) & 0xfff0) << 16;
        let prefetch = |at: usize, upper: usize| memory(at) | u64::from(c.u32(upper)) << 32;
        Windows {
            secondary: c.u8(reg::PRIMARY + 1),
            subordinate: c.u8(reg::PRIMARY + 2),
            ports: range(
                io(reg::IO_BASE, reg::IO_UPPER),
                io(reg::IO_BASE + 1, reg::IO_UPPER + 2) | 0xfff,
                enabled(command::IO),
            ),
            memory: range(
                memory(reg::MEMORY_BASE),
                memory(reg::MEMORY_BASE + 2) | 0xf_ffff,
                enabled(command::MEMORY),
            ),
            prefetch: range(
                prefetch(reg::PREFETCH_BASE, reg::PREFETCH_UPPER),
                prefetch(reg::PREFETCH_BASE + 2, reg::PREFETCH_UPPER + 4) | 0xf_ffff,
                enabled(command::MEMORY),
            ),
        }
    }

    fn passes(&self, place: Place, size: u64) -> bool {
        let inside = |window: Window, base: u64| {
            window.is_some_and(|(first, last)| {
                base >= first && base.checked_add(size - 1).is_some_and(|end| end <= last)
            })
        };
        match place {
            Place::Memory(base) => inside(self.memory, base) || inside(self.prefetch, base),
            Place::Ports(base) => inside(self.ports, base.into()),
        }
    }
}

/// What a function answers to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decode {
    pub(crate) bars: [Option<Place>; 6],
    pub(crate) rom: Option<Place>,
    pub(crate) placed: BTreeMap<usize, Place>,
    pub(crate) windows: Option<Windows>,
}

/// One of a function's regions in the address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Bar(usize),
    Rom,
    Fixed(usize),
}

struct Slot {
    cell: CellRef,
    /// The bus's number as of the last configuration access, for the function's messages.
    number: Arc<AtomicU8>,
    memory: BTreeMap<usize, Arc<RamBlock>>,
    rom: Option<Arc<RamBlock>>,
    sizes: BTreeMap<Key, u64>,
    decode: Decode,
    /// It can go while the machine runs.
    removable: bool,
    /// Regions made so far, by space (true is memory), and where they are.
    regions: BTreeMap<(Key, bool), (RegionId, Option<u64>)>,
}

struct Bus {
    name: String,
    express: bool,
    /// Bus and device number of the bridge to it; nothing for the root bus.
    bridge: Option<(usize, u8)>,
    slots: BTreeMap<u8, Slot>,
}

#[derive(Default)]
struct State {
    buses: Vec<Bus>,
    spaces: Option<Spaces>,
    system: SystemControl,
    /// Functions that the guest has let go of, until somebody asks.
    ejected: Vec<(BusId, u8)>,
}

/// All buses behind one host bridge. Clones are the same fabric.
#[derive(Clone)]
pub struct Fabric(Arc<Mutex<State>>);

/// Why a place on a bus cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FabricError {
    /// Numbers are bytes.
    #[error("there can be at most 256 PCI buses")]
    TooManyBuses,
}

/// A bus of a fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusId(usize);

impl BusId {
    /// The root bus.
    pub const ROOT: BusId = BusId(0);
}

impl Fabric {
    /// A fabric with its root bus.
    pub fn new(root: &str, express: bool) -> Self {
        let bus = Bus { name: root.into(), express, bridge: None, slots: BTreeMap::new() };
        Fabric(Arc::new(Mutex::new(State { buses: vec![bus], ..State::default() })))
    }

    /// Adds the bus behind the bridge that is, or will be, function `devfn` of `parent`.
    pub fn add_bus(&self, name: &str, express: bool, parent: BusId, devfn: u8) -> Result<BusId, FabricError> {
        let state = &mut *self.0.lock();
        if state.buses.len() >= MAX_BUSES {
            return Err(FabricError::TooManyBuses);
        }
        let bridge = Some((parent.0, devfn));
        state.buses.push(Bus { name: name.into(), express, bridge, slots: BTreeMap::new() });
        Ok(BusId(state.buses.len() - 1))
    }

    /// The bus of a name.
    pub fn bus(&self, name: &str) -> Option<BusId> {
        self.0.lock().buses.iter().position(|b| b.name == name).map(BusId)
    }

    /// Names of all buses.
    pub fn bus_names(&self) -> Vec<String> {
        self.0.lock().buses.iter().map(|b| b.name.clone()).collect()
    }

    /// Whether a bus is PCI Express.
    pub fn is_express(&self, bus: BusId) -> bool {
        self.0.lock().buses.get(bus.0).is_some_and(|b| b.express)
    }

    /// The bus above and the bridge's device number; nothing for the root bus.
    pub fn parent(&self, bus: BusId) -> Option<(BusId, u8)> {
        self.0.lock().buses.get(bus.0)?.bridge.map(|(bus, devfn)| (BusId(bus), devfn))
    }

    /// The wire of the root bus, 0 to 3 for INTA to INTD at device 0, on which pin `pin` (1 to 4) of a device arrives,
    /// with the number of the root bus's device that it comes through: bridges rotate pins by device number.
    pub fn route_pin(&self, mut bus: BusId, mut devfn: u8, pin: u8) -> (u8, u8) {
        let mut pin = pin.wrapping_sub(1) & 3;
        while let Some((above, bridge)) = self.parent(bus) {
            pin = (pin + (devfn >> 3)) & 3;
            (bus, devfn) = (above, bridge);
        }
        (devfn >> 3, pin)
    }

    /// Whether a function is attached there.
    pub fn is_taken(&self, bus: BusId, devfn: u8) -> bool {
        self.0.lock().buses.get(bus.0).is_some_and(|b| b.slots.contains_key(&devfn))
    }

    /// Functions by bus and device number.
    pub fn functions(&self) -> Vec<(BusId, u8, CellRef)> {
        let state = self.0.lock();
        let one = |(bus, b): (usize, &Bus)| {
            b.slots.iter().map(|(devfn, s)| (BusId(bus), *devfn, s.cell.clone())).collect::<Vec<_>>()
        };
        state.buses.iter().enumerate().flat_map(one).collect()
    }

    /// Tells it of the machine and its address spaces. Done by the host bridge when it is built.
    pub(crate) fn connect(&self, spaces: Option<Spaces>, system: SystemControl) {
        let state = &mut *self.0.lock();
        (state.spaces, state.system) = (spaces, system);
    }

    /// The bus behind the bridge that is function `devfn` of `bus`.
    pub fn bus_behind(&self, bus: BusId, devfn: u8) -> Option<BusId> {
        self.0.lock().buses.iter().position(|b| b.bridge == Some((bus.0, devfn))).map(BusId)
    }

    /// Name of a bus.
    pub fn bus_name(&self, bus: BusId) -> Option<String> {
        self.0.lock().buses.get(bus.0).map(|b| b.name.clone())
    }

    /// Slots of a bus on which nothing stands that cannot go: bit n is slot n.
    pub fn removable_slots(&self, bus: BusId) -> u32 {
        let state = self.0.lock();
        let fixed = state.buses.get(bus.0).into_iter().flat_map(|b| &b.slots).filter(|(_, s)| !s.removable);
        fixed.fold(!0, |mask, (devfn, _)| mask & !(1 << (devfn >> 3)))
    }

    /// The guest lets go of what is in a slot: it is off the bus at once, with all it has mapped, and whoever has plugged it is
    /// told to take it away. What cannot go stays.
    pub fn eject(&self, bus: BusId, slot: u8) {
        let mut state = self.0.lock();
        let Some(b) = state.buses.get(bus.0) else { return };
        let own = |(devfn, s): (&u8, &Slot)| (devfn >> 3 == slot && s.removable).then_some(*devfn);
        let gone: Vec<u8> = b.slots.iter().filter_map(own).collect();
        for devfn in &gone {
            state.detach(bus, *devfn);
            state.ejected.push((bus, *devfn));
        }
        let system = state.system.clone();
        drop(state);
        if !gone.is_empty() {
            system.request(SystemRequest::Ejected);
        }
    }

    /// Whether a function can go while the machine runs.
    pub fn is_removable(&self, bus: BusId, devfn: u8) -> bool {
        let state = self.0.lock();
        state.buses.get(bus.0).and_then(|b| b.slots.get(&devfn)).is_some_and(|s| s.removable)
    }

    /// Takes a function off its bus that was not finished.
    pub fn drop_function(&self, bus: BusId, devfn: u8) {
        self.0.lock().detach(bus, devfn);
    }

    /// Functions that the guest has let go of since the last call.
    pub fn take_ejected(&self) -> Vec<(BusId, u8)> {
        std::mem::take(&mut self.0.lock().ejected)
    }

    fn target(&self, bus: u8, devfn: u8) -> Option<Arc<dyn IoHandler>> {
        let state = self.0.lock();
        let slot = state.route(bus)?.slots.get(&devfn)?;
        slot.number.store(bus, Ordering::Relaxed);
        Some(slot.cell.get()?.region(CONFIG_REGION))
    }

    /// Reads a configuration space; all ones if nobody answers.
    pub fn config_read(&self, bus: u8, devfn: u8, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(target) = self.target(bus, devfn)
            && target.read(offset, data) != device::Access::Ok
        {
            data.fill(0xff);
        }
    }

    /// Writes a configuration space.
    pub fn config_write(&self, bus: u8, devfn: u8, offset: u64, data: &[u8]) {
        if let Some(target) = self.target(bus, devfn) {
            // The function has logged what it did not like.
            let _ = target.write(offset, data);
        }
    }
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fabric").field(&self.bus_names()).finish()
    }
}

/// A place on a bus.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The fabric.
    pub fabric: Fabric,
    /// The bus.
    pub bus: BusId,
    /// Device number << 3 | function number.
    pub devfn: u8,
    /// The device has more functions than this one.
    pub multifunction: bool,
    /// It can go while the machine runs.
    pub removable: bool,
}

impl Attachment {
    /// A device's only function.
    pub fn new(fabric: &Fabric, bus: BusId, slot: u8) -> Self {
        Attachment { fabric: fabric.clone(), bus, devfn: slot << 3, multifunction: false, removable: false }
    }

    /// One of a device's functions.
    pub fn function(fabric: &Fabric, bus: BusId, slot: u8, function: u8) -> Self {
        let devfn = slot << 3 | function & 7;
        Attachment { fabric: fabric.clone(), bus, devfn, multifunction: true, removable: false }
    }

    /// Whether the bus is PCI Express.
    pub fn is_express(&self) -> bool {
        self.fabric.is_express(self.bus)
    }

    /// Whether it is the root bus.
    pub fn is_root(&self) -> bool {
        self.bus == BusId::ROOT
    }

    pub(crate) fn attach(
        &self,
        spec: &FunctionSpec,
        cell: CellRef,
        memory: BTreeMap<usize, Arc<RamBlock>>,
        rom: Option<Arc<RamBlock>>,
    ) -> Arc<AtomicU8> {
        let mut sizes: BTreeMap<Key, u64> = BTreeMap::new();
        for (i, bar) in spec.bars.iter().enumerate() {
            sizes.extend(bar.as_ref().map(|bar| (Key::Bar(i), bar.size)));
        }
        sizes.extend(rom.as_ref().map(|rom| (Key::Rom, rom.size())));
        let number = Arc::new(AtomicU8::new(0));
        let slot = Slot {
            cell,
            number: number.clone(),
            memory,
            rom,
            sizes,
            decode: Decode::default(),
            removable: self.removable,
            regions: BTreeMap::new(),
        };
        if let Some(bus) = self.fabric.0.lock().buses.get_mut(self.bus.0) {
            bus.slots.insert(self.devfn, slot);
        }
        number
    }

    /// Takes the function off its bus, with all it has mapped.
    pub fn detach(&self) {
        self.fabric.0.lock().detach(self.bus, self.devfn);
    }

    pub(crate) fn update(&self, decode: Decode) {
        self.fabric.0.lock().set(self.bus.0, self.devfn, decode);
    }
}

impl State {
    /// The bus the guest has given a number.
    fn route(&self, number: u8) -> Option<&Bus> {
        let mut at = 0;
        if number == 0 {
            return self.buses.first();
        }
        // Each step goes one bus down.
        for _ in 0..self.buses.len() {
            let behind = |b: &Bus| {
                let (above, devfn) = b.bridge.filter(|(above, _)| *above == at)?;
                self.buses.get(above)?.slots.get(&devfn)?.decode.windows
            };
            let fits = |w: &Windows| w.secondary != 0 && (w.secondary..=w.subordinate).contains(&number);
            let (next, windows) =
                self.buses.iter().enumerate().find_map(|(i, b)| Some((i, behind(b).filter(fits)?)))?;
            if windows.secondary == number {
                return self.buses.get(next);
            }
            at = next;
        }
        None
    }

    /// Whether the bridges above a bus pass a range on.
    fn visible(&self, bus: usize, place: Place, size: u64) -> bool {
        let mut at = bus;
        while let Some((above, devfn)) = self.buses.get(at).and_then(|b| b.bridge) {
            let bridge = self.buses.get(above).and_then(|b| b.slots.get(&devfn));
            if !bridge.and_then(|b| b.decode.windows).is_some_and(|w| w.passes(place, size)) {
                return false;
            }
            at = above;
        }
        true
    }

    fn detach(&mut self, bus: BusId, devfn: u8) {
        self.set(bus.0, devfn, Decode::default());
        if let Some(slot) = self.buses.get_mut(bus.0).and_then(|b| b.slots.remove(&devfn)) {
            self.forget(&slot);
        }
    }

    fn set(&mut self, bus: usize, devfn: u8, decode: Decode) {
        let Some(slot) = self.buses.get_mut(bus).and_then(|b| b.slots.get_mut(&devfn)) else { return };
        if slot.decode == decode {
            return;
        }
        let bridge = slot.decode.windows != decode.windows;
        slot.decode = decode;
        let all: Vec<(usize, u8)> = match bridge {
            false => vec![(bus, devfn)],
            true => {
                let of = |(i, b): (usize, &Bus)| b.slots.keys().map(move |d| (i, *d)).collect::<Vec<_>>();
                self.buses.iter().enumerate().flat_map(of).collect()
            }
        };
        if let Some(spaces) = self.spaces.clone() {
            self.commit(&spaces.memory, true, &all);
            if let Some(ports) = &spaces.ports {
                self.commit(ports, false, &all);
            }
        }
    }

    /// Brings the regions of some functions in line with what they decode, in one transaction.
    fn commit(&mut self, space: &AddressSpace, memory: bool, functions: &[(usize, u8)]) {
        let mut moves = Vec::new();
        for &(bus, devfn) in functions {
            let Some(slot) = self.buses.get(bus).and_then(|b| b.slots.get(&devfn)) else { continue };
            let d = &slot.decode;
            let bars = d.bars.iter().enumerate().map(|(i, place)| (Key::Bar(i), *place));
            let fixed = slot.regions.keys().filter(|(key, _)| matches!(key, Key::Fixed(_)));
            let gone = fixed.map(|(key, _)| (*key, None));
            let placed = d.placed.iter().map(|(i, place)| (Key::Fixed(*i), Some(*place)));
            let wanted: BTreeMap<Key, Option<Place>> =
                bars.chain([(Key::Rom, d.rom)]).chain(gone).chain(placed).collect();
            for (key, place) in wanted {
                let own = place.filter(|place| match key {
                    Key::Fixed(_) => true,
                    _ => self.visible(bus, *place, slot.sizes.get(&key).copied().unwrap_or(1)),
                });
                let base = match (own, memory) {
                    (Some(Place::Memory(base)), true) => Some(base),
                    (Some(Place::Ports(base)), false) => Some(base.into()),
                    _ => None,
                };
                let now = slot.regions.get(&(key, memory)).and_then(|r| r.1);
                if base != now {
                    moves.push((bus, devfn, key, base));
                }
            }
        }
        if moves.is_empty() {
            return;
        }
        let mut tx = space.update();
        let parent = tx.find(MEMORY_CONTAINER).filter(|_| memory).unwrap_or(tx.root());
        for (bus, devfn, key, base) in moves {
            let slot = self.buses.get_mut(bus).and_then(|b| b.slots.get_mut(&devfn));
            if let Some(slot) = slot
                && let Err(e) = slot.shift(&mut tx, parent, key, memory, base)
            {
                tracing::warn!("PCI function {devfn:#x} on bus {bus}: {e}");
            }
        }
        if let Err(e) = tx.commit() {
            tracing::warn!("PCI memory map: {e}");
        }
    }

    /// Removes a function's regions from the address spaces.
    fn forget(&self, slot: &Slot) {
        let Some(spaces) = &self.spaces else { return };
        for ((_, memory), (id, _)) in &slot.regions {
            let Some(space) = (if *memory { Some(&spaces.memory) } else { spaces.ports.as_ref() }) else {
                continue;
            };
            let mut tx = space.update();
            if let Err(e) = tx.remove(*id).and_then(|()| tx.commit()) {
                tracing::warn!("PCI memory map: {e}");
            }
        }
    }
}

impl Slot {
    /// Places, moves or takes away one region.
    fn shift(
        &mut self,
        tx: &mut Transaction<'_>,
        parent: RegionId,
        key: Key,
        memory: bool,
        base: Option<u64>,
    ) -> Result<(), MemoryError> {
        let (id, now) = match self.regions.get(&(key, memory)) {
            Some(made) => *made,
            None => {
                let Some(region) = self.make(key) else { return Ok(()) };
                (tx.create(region)?, None)
            }
        };
        if now.is_some() {
            tx.unplace(id)?;
        }
        self.regions.insert((key, memory), (id, None));
        if let Some(base) = base {
            tx.place(id, parent, base, PRIORITY)?;
            self.regions.insert((key, memory), (id, Some(base)));
        }
        Ok(())
    }

    fn make(&self, key: Key) -> Option<Region> {
        let cell = self.cell.get()?;
        let path = cell.path().trim_start_matches("machine/").to_owned();
        let io = |index: usize| {
            let spec = cell.regions().get(index)?;
            Some(Region::io(format!("{path}.{}", spec.name), spec.size, cell.region(index)))
        };
        match key {
            Key::Bar(i) => match self.memory.get(&i) {
                Some(block) => Some(Region::ram(format!("{path}.bar{i}"), block.clone())),
                None => io(region_of_bar(cell.regions(), i)?),
            },
            Key::Rom => Some(Region::rom(format!("{path}.rom"), self.rom.clone()?)),
            Key::Fixed(i) => io(region_of_fixed(cell.regions(), i)),
        }
    }
}
