//! A function's configuration space at work, and the handle its device holds.
//!
//! The handle can be used from any thread, with or without the device locked: interrupts from workers need no lock of
//! the device. Invariant: what the bus has mapped, the DMA gate and the interrupt pin follow from the bytes of the space
//! after every write, reset and restore.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use device::{Bytes, CellRef, GuestLog, IrqLine, MsiTarget, StateError};
use guest_memory::{Gate, RamBlock};
use parking_lot::Mutex;

use crate::caps;
use crate::config_space::{ConfigSpace, command, reg, touches};
use crate::fabric::{Attachment, Decode, Place, Windows};
use crate::interrupts::{Interrupts, Mode};
use crate::spec::{BarKind, FunctionSpec};

::device::state! {
    /// Saved state of the bus side of a function.
    pub(crate) struct FunctionState {
        1 => space: Bytes, 2 => level: bool, 3 => table: Bytes, 4 => pending: Bytes, 5 => bus: u8,
    }
}

struct Inner {
    space: ConfigSpace,
    interrupts: Interrupts,
    /// Regions the device has placed itself.
    placed: BTreeMap<usize, Place>,
}

struct Shared {
    spec: FunctionSpec,
    /// The space after reset.
    fresh: ConfigSpace,
    inner: Mutex<Inner>,
    gate: Gate,
    log: Arc<GuestLog>,
    at: Option<Attachment>,
}

/// What a device holds of its function. Clones are the same function.
#[derive(Clone)]
pub struct Function(Arc<Shared>);

/// What a function is made of besides its spec.
pub(crate) struct Parts {
    pub(crate) line: IrqLine,
    pub(crate) target: Option<MsiTarget>,
    pub(crate) log: Arc<GuestLog>,
    pub(crate) at: Option<Attachment>,
    pub(crate) gate: Gate,
    pub(crate) cell: CellRef,
    /// Memory behind registers, and the expansion ROM.
    pub(crate) memory: BTreeMap<usize, Arc<RamBlock>>,
    pub(crate) rom: Option<Arc<RamBlock>>,
}

impl Function {
    pub(crate) fn new(
        spec: FunctionSpec,
        parts: Parts,
        express: bool,
        prepare: impl FnOnce(&mut ConfigSpace),
    ) -> Result<Self, String> {
        let at = parts.at.as_ref();
        let multifunction = at.is_some_and(|a| a.multifunction);
        let on_root = at.is_some_and(Attachment::is_root);
        let mut space = caps::space(&spec, multifunction, express, on_root)
            .ok_or("its capabilities do not fit into the configuration space")?;
        prepare(&mut space);
        let (cell, memory, rom) = (parts.cell, parts.memory, parts.rom);
        let bus = at.map(|at| at.attach(&spec, cell, memory, rom)).unwrap_or_default();
        let vectors = spec.msix.map_or(0, |x| x.vectors);
        let interrupts = Interrupts {
            line: parts.line,
            target: parts.target,
            msi: spec.msi.and_then(|_| space.find(crate::config_space::cap::MSI)),
            msix: spec.msix.and_then(|_| space.find(crate::config_space::cap::MSIX)),
            maskable: spec.msi.is_some_and(|m| m.maskable),
            level: false,
            table: Interrupts::fresh_table(vectors),
            pending: vec![0; usize::from(vectors.div_ceil(64)) * 8],
            devfn: parts.at.as_ref().map_or(0, |a| a.devfn),
            bus,
        };
        parts.gate.set(spec.always_master);
        Ok(Function(Arc::new(Shared {
            fresh: space.clone(),
            inner: Mutex::new(Inner { space, interrupts, placed: BTreeMap::new() }),
            gate: parts.gate,
            log: parts.log,
            at: parts.at,
            spec,
        })))
    }

    /// What the function is.
    pub fn spec(&self) -> &FunctionSpec {
        &self.0.spec
    }

    /// Where it is attached; nothing on a bench.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.0.at.as_ref()
    }

    /// Device and function number, 0 on a bench.
    pub fn devfn(&self) -> u8 {
        self.0.at.as_ref().map_or(0, |a| a.devfn)
    }

    /// Runs `f` on the configuration space. Nothing follows from changes but for the bytes: for registers of the
    /// device's own. `f` must not use this handle.
    pub fn with_config<R>(&self, f: impl FnOnce(&mut ConfigSpace) -> R) -> R {
        f(&mut self.0.inner.lock().space)
    }

    /// A byte of the configuration space.
    pub fn config_u8(&self, at: usize) -> u8 {
        self.0.inner.lock().space.u8(at)
    }

    /// A 16-bit register of the configuration space.
    pub fn config_u16(&self, at: usize) -> u16 {
        self.0.inner.lock().space.u16(at)
    }

    /// A 32-bit register of the configuration space.
    pub fn config_u32(&self, at: usize) -> u32 {
        self.0.inner.lock().space.u32(at)
    }

    /// Whether the guest has let the function reach memory.
    pub fn is_master(&self) -> bool {
        self.0.gate.is_open()
    }

    /// Drives the interrupt pin. Silent while messages are enabled; a device with a single interrupt uses
    /// [`Function::interrupt`].
    pub fn set_pin(&self, level: bool) {
        let inner = &mut *self.0.inner.lock();
        inner.interrupts.level = level;
        inner.interrupts.update_pin(&mut inner.space);
    }

    /// The single interrupt of a simple device as a level: drives the pin, or sends message 0 when the level rises.
    pub fn interrupt(&self, level: bool) {
        let inner = &mut *self.0.inner.lock();
        let before = std::mem::replace(&mut inner.interrupts.level, level);
        if level && !before {
            inner.interrupts.send(&mut inner.space, 0);
        }
        inner.interrupts.update_pin(&mut inner.space);
    }

    /// Sends message `vector`; false if the guest has not enabled messages. A masked message is sent when it is unmasked.
    pub fn message(&self, vector: u16) -> bool {
        let inner = &mut *self.0.inner.lock();
        inner.interrupts.send(&mut inner.space, vector)
    }

    /// Number of messages the guest allows now: 0 while it uses the pin.
    pub fn messages(&self) -> usize {
        let inner = &*self.0.inner.lock();
        inner.interrupts.allowed(&inner.space)
    }

    /// Whether messages by table (MSI-X) are enabled.
    pub fn msix_enabled(&self) -> bool {
        let inner = &*self.0.inner.lock();
        matches!(inner.interrupts.mode(&inner.space), Mode::Msix(_))
    }

    /// Places region `fixed` of those the config declares besides its base address registers
    /// ([`crate::PciConfig::fixed_regions`]), moves it or takes it away. For registers whose address the guest sets in
    /// places of its own (a chipset's power management block).
    pub fn place(&self, fixed: usize, place: Option<Place>) {
        let inner = &mut *self.0.inner.lock();
        match place {
            Some(place) => inner.placed.insert(fixed, place),
            None => inner.placed.remove(&fixed),
        };
        self.follow(inner);
    }

    /// The device's voice about its guest.
    pub fn log(&self) -> &GuestLog {
        &self.0.log
    }

    pub(crate) fn read_config(&self, at: usize, data: &mut [u8]) {
        self.0.inner.lock().space.read(at, data);
    }

    pub(crate) fn write_config(&self, at: usize, data: &[u8]) {
        let inner = &mut *self.0.inner.lock();
        inner.space.write(at, data);
        let len = data.len();
        let rom = if self.0.spec.bridge { reg::BRIDGE_ROM } else { reg::ROM };
        let header = touches(at, len, reg::COMMAND, 2)
            || touches(at, len, reg::BAR, 24)
            || touches(at, len, rom, 4)
            || self.0.spec.bridge && touches(at, len, reg::PRIMARY, 0x28);
        if header {
            self.follow(inner);
        }
        let control = |cap: Option<usize>, size| cap.is_some_and(|cap| touches(at, len, cap, size));
        if touches(at, len, reg::COMMAND, 2)
            || control(inner.interrupts.msi, 24)
            || control(inner.interrupts.msix, 4)
        {
            inner.interrupts.flush(&mut inner.space);
            inner.interrupts.update_pin(&mut inner.space);
        }
    }

    /// Brings the gate and the mappings in line with the space.
    fn follow(&self, inner: &Inner) {
        let command = inner.space.u16(reg::COMMAND);
        self.0.gate.set(self.0.spec.always_master || command & command::MASTER != 0);
        if let Some(at) = &self.0.at {
            at.update(self.decode(inner, command));
        }
    }

    fn decode(&self, inner: &Inner, command: u16) -> Decode {
        let spec = &self.0.spec;
        let mut decode = Decode { placed: inner.placed.clone(), ..Decode::default() };
        for (i, bar) in spec.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let low = inner.space.u32(reg::BAR + 4 * i);
            let place = match bar.kind {
                BarKind::Ports(_) if command & command::IO != 0 => ports(low & !3, bar.size),
                BarKind::Ports(_) => None,
                _ if command & command::MEMORY == 0 => None,
                _ => {
                    let wide = bar.kind.is_64bit();
                    let high = if wide { inner.space.u32(reg::BAR + 4 * i + 4) } else { 0 };
                    memory(u64::from(high) << 32 | u64::from(low & !15), bar.size, wide)
                }
            };
            decode.bars[i] = place;
        }
        if let Some(rom) = &spec.rom {
            let at = if spec.bridge { reg::BRIDGE_ROM } else { reg::ROM };
            let value = inner.space.u32(at);
            if value & 1 != 0 && command & command::MEMORY != 0 {
                decode.rom = memory((value & !0x7ff).into(), caps::rom_size(rom.len()), false);
            }
        }
        if spec.bridge {
            decode.windows = Some(Windows::of(&inner.space));
        }
        decode
    }

    pub(crate) fn msix_read(&self, bar: u8, offset: u64, data: &mut [u8]) -> bool {
        let Some(x) = self.0.spec.msix else { return false };
        let inner = &*self.0.inner.lock();
        if let Some(at) = within(x.table, bar, offset, inner.interrupts.table.len()) {
            inner.interrupts.read_table(at, data);
        } else if let Some(at) = within(x.pending, bar, offset, inner.interrupts.pending.len()) {
            inner.interrupts.read_pending(at, data);
        } else {
            return false;
        }
        true
    }

    pub(crate) fn msix_write(&self, bar: u8, offset: u64, data: &[u8]) -> bool {
        let Some(x) = self.0.spec.msix else { return false };
        let inner = &mut *self.0.inner.lock();
        if let Some(at) = within(x.table, bar, offset, inner.interrupts.table.len()) {
            inner.interrupts.write_table(&mut inner.space, at, data);
            return true;
        }
        within(x.pending, bar, offset, inner.interrupts.pending.len()).is_some()
    }

    pub(crate) fn reset(&self) {
        let inner = &mut *self.0.inner.lock();
        inner.space = self.0.fresh.clone();
        inner.placed.clear();
        inner.interrupts.level = false;
        inner.interrupts.table = Interrupts::fresh_table(self.0.spec.msix.map_or(0, |x| x.vectors));
        inner.interrupts.pending.fill(0);
        inner.interrupts.bus.store(0, Ordering::Relaxed);
        inner.interrupts.update_pin(&mut inner.space);
        self.follow(inner);
    }

    pub(crate) fn save(&self) -> FunctionState {
        let inner = &*self.0.inner.lock();
        FunctionState {
            space: Bytes(inner.space.bytes().to_vec()),
            level: inner.interrupts.level,
            table: Bytes(inner.interrupts.table.clone()),
            pending: Bytes(inner.interrupts.pending.clone()),
            bus: inner.interrupts.bus.load(Ordering::Relaxed),
        }
    }

    /// Whether [`Function::restore`] can take a state over.
    pub(crate) fn check(&self, state: &FunctionState) -> Result<(), StateError> {
        let inner = &*self.0.inner.lock();
        let same = |field, found: usize, expected: usize| {
            if found == expected {
                Ok(())
            } else {
                Err(StateError::new(field, format!("expected {expected} bytes, found {found}")))
            }
        };
        same("space", state.space.0.len(), inner.space.len())?;
        same("table", state.table.0.len(), inner.interrupts.table.len())?;
        same("pending", state.pending.0.len(), inner.interrupts.pending.len())?;
        for at in [reg::VENDOR, reg::REVISION] {
            if state.space.0.get(at..at + 4) != inner.space.bytes().get(at..at + 4) {
                return Err(StateError::new("space", "expected the same vendor, device and class"));
            }
        }
        Ok(())
    }

    /// Takes a checked state over; what the device places follows later.
    pub(crate) fn restore(&self, state: &FunctionState) {
        let inner = &mut *self.0.inner.lock();
        inner.space = self.0.fresh.clone();
        inner.space.import(&state.space.0);
        inner.interrupts.level = state.level;
        inner.interrupts.table.clone_from(&state.table.0);
        inner.interrupts.pending.clone_from(&state.pending.0);
        inner.interrupts.bus.store(state.bus, Ordering::Relaxed);
        let status = inner.space.u16(reg::STATUS);
        let bit = crate::config_space::status::INTERRUPT;
        inner.space.set_u16(reg::STATUS, if state.level { status | bit } else { status & !bit });
        inner.interrupts.line.import(inner.interrupts.pin_level(&inner.space));
        self.follow(inner);
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Function({} {:04x}:{:04x})", self.0.log.path(), self.0.spec.vendor, self.0.spec.device)
    }
}

fn within(table: (u8, u32), bar: u8, offset: u64, len: usize) -> Option<usize> {
    let at = offset.checked_sub(table.1.into())?;
    (table.0 == bar && at < len as u64).then_some(at as usize)
}

/// A range of ports, if it is one.
fn ports(base: u32, size: u64) -> Option<Place> {
    let end = u64::from(base) + size;
    (base != 0 && end <= 1 << 16).then_some(Place::Ports(base as u16))
}

/// A range of memory, if it is one: neither at 0 nor up to the end, which are what sizing leaves behind.
fn memory(base: u64, size: u64, wide: bool) -> Option<Place> {
    let limit = if wide { u64::MAX } else { u32::MAX.into() };
    let last = base.checked_add(size - 1)?;
    (base != 0 && last < limit).then_some(Place::Memory(base))
}
