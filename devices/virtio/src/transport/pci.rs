//! virtio over PCI (virtio 1.2, 4.1): the modern interface and, on conventional buses, the legacy one beside it.
//!
//! Register 4 holds the four structures at fixed offsets, register 1 the MSI-X table. Queue n is notified at 4 * n of its
//! structure. The configuration access capability reaches the same structures for firmware that cannot map them.

mod legacy;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::device::{
    Access, AccessRule, BuildError, Device, GuestLog, Properties, Property, PropertyError, PropertyValue,
    ResetKind, StateBlob, StateError, Wires, device_config, le_fill, le_value,
};
use parking_lot::Mutex;
use pci::config_space::cap;
use pci::{BarKind, Express, Function, FunctionSpec, PciConfig, PciDevice, QUMRANET, SUBSYSTEM};

use super::{Area, Core, RingOptions, forward_to_core, set_first};
use crate::device::{Notifier, VirtioConfig};

/// Modern device ids are the device type from here on.
const DEVICE_ID: u16 = 0x1040;
const MSIX_BAR: u8 = 1;
const BAR: usize = 4;
const BAR_SIZE: u64 = 0x4000;
/// Structures by configuration type (1 to 4): offset and length in the register.
const COMMON: (u64, u64) = (0x0000, 0x1000);
const ISR: (u64, u64) = (0x1000, 0x1000);
const DEVICE: (u64, u64) = (0x2000, 0x1000);
const NOTIFY: (u64, u64) = (0x3000, 0x1000);
const NOTIFY_STEP: u64 = 4;
/// Configuration type of the access capability, and its length before the data.
const CFG_ACCESS: u8 = 5;
const CFG_DATA: usize = 16;
/// The command register, in which bus mastering is switched.
const COMMAND: usize = 4;
const COMMAND_END: usize = 6;
/// No vector.
const NO_VECTOR: u16 = 0xffff;

/// Bits of the interrupt status.
mod isr {
    pub(super) const USED: u8 = 1;
    pub(super) const CONFIG: u8 = 2;
}

/// Offsets of the common configuration.
mod reg {
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x00;
    pub(super) const DEVICE_FEATURES: u64 = 0x04;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x08;
    pub(super) const DRIVER_FEATURES: u64 = 0x0c;
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SEL: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_AREAS: u64 = 0x20;
    pub(super) const QUEUE_AREAS_END: u64 = 0x38;
    pub(super) const QUEUE_NOTIFY_DATA: u64 = 0x38;
    pub(super) const QUEUE_RESET: u64 = 0x3a;
}

/// A switch that may be left to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// As the device sees fit.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

impl PropertyValue for Switch {
    const TYPE: &'static str = "on/off/auto";

    fn parse(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(Switch::Auto);
        }
        bool::parse(text).map(|on| if on { Switch::On } else { Switch::Off })
    }

    fn show(&self) -> String {
        match self {
            Switch::Auto => "auto",
            Switch::On => "on",
            Switch::Off => "off",
        }
        .to_owned()
    }
}

device_config! {
    /// What every virtio device on PCI has.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PciOptions {
        /// Leave out the interface for drivers of before version 1; auto leaves it out on PCI Express.
        pub disable_legacy: Switch = Switch::Auto,
        /// Leave out the interface of version 1.
        pub disable_modern: bool = false,
        /// Message interrupts, 0 for none; without it as many as the device can use.
        pub vectors: Option<u16> = None,
        /// Taken as QEMU takes it: notifications need no descriptors here.
        pub ioeventfd: bool = true,
    }
}

/// A device of kind `C` on PCI.
#[derive(Clone, Debug, Default)]
pub struct VirtioPci<C: VirtioConfig> {
    /// The device's own settings.
    pub config: C,
    /// Those of its rings.
    pub rings: RingOptions,
    /// The transport's settings.
    pub options: PciOptions,
    /// What the board gives the device.
    pub backend: C::Backend,
}

impl<C: VirtioConfig> VirtioPci<C> {
    /// A device with these settings, the transport's being the defaults.
    pub fn new(config: C, backend: C::Backend) -> Self {
        VirtioPci { config, backend, rings: RingOptions::default(), options: PciOptions::default() }
    }

    /// Device id with the legacy interface, if it has that.
    fn legacy_id(&self, express: bool) -> Option<u16> {
        let wanted = match self.options.disable_legacy {
            Switch::Auto => !express,
            Switch::On => false,
            Switch::Off => true,
        };
        legacy::device_id(C::TYPE).filter(|_| wanted)
    }
}

impl<C: VirtioConfig> Properties for VirtioPci<C> {
    fn properties() -> Vec<Property> {
        let own = C::properties().into_iter().chain(RingOptions::properties());
        own.chain(PciOptions::properties()).collect()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        set_first(self.config.set(name, value), || {
            set_first(self.rings.set(name, value), || self.options.set(name, value))
        })
    }
}

/// A capability that tells where a structure is: what follows identifier and link.
fn structure(kind: u8, bar: usize, (offset, len): (u64, u64), more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![16 + more.len() as u8, kind, bar as u8, 0, 0, 0];
    bytes.extend((offset as u32).to_le_bytes());
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend(more);
    bytes
}

impl<C: VirtioConfig> PciConfig for VirtioPci<C> {
    const KIND: &'static str = C::PCI_KIND;
    const HELP: &'static str = C::HELP;

    fn spec(&self, express: bool) -> FunctionSpec {
        let legacy = self.legacy_id(express);
        let id = legacy.unwrap_or(DEVICE_ID + C::TYPE);
        let mut spec = FunctionSpec::new(QUMRANET, id, C::PCI_CLASS)
            // Drivers of before version 1 go by these two.
            .revision(legacy.is_none().into())
            .subsystem(QUMRANET, if legacy.is_some() { C::TYPE } else { SUBSYSTEM })
            .power()
            .express(Express::Endpoint);
        let vectors = self.options.vectors.unwrap_or_else(|| self.config.vectors().max(2)).min(2048);
        if vectors != 0 {
            spec = spec.msix_bar(vectors, MSIX_BAR);
        }
        if legacy.is_some() {
            let ports = AccessRule { min: 1, max: 4, unaligned: true };
            spec = spec.bar(legacy::BAR, legacy::SIZE, BarKind::Ports(ports));
        }
        if self.options.disable_modern {
            return spec;
        }
        spec = spec.bar(BAR, BAR_SIZE, BarKind::Memory64(AccessRule::UP_TO_4));
        if let Some(bar) = &mut spec.bars[BAR] {
            bar.prefetchable = true;
        }
        for (kind, place) in [(1, COMMON), (3, ISR), (4, DEVICE)] {
            let bytes = structure(kind, BAR, place, &[]);
            spec.vendor_caps.push((bytes, Vec::new()));
        }
        let bytes = structure(2, BAR, NOTIFY, &(NOTIFY_STEP as u32).to_le_bytes());
        spec.vendor_caps.push((bytes, Vec::new()));
        let bytes = structure(CFG_ACCESS, 0, (0, 0), &[0; 4]);
        // Register, offset, length and data are the driver's.
        let mut mask = vec![0, 0, 0xff, 0, 0, 0];
        mask.extend([0xff; 12]);
        spec.vendor_caps.push((bytes, mask));
        spec
    }

    fn chardevs(&self) -> Vec<&'static str> {
        self.config.chardevs()
    }

    fn disks(&self) -> Vec<&'static str> {
        self.config.disks()
    }

    fn nics(&self) -> Vec<&'static str> {
        self.config.nics()
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let device = self.config.make(self.backend, wires)?;
        let irq = Arc::new(PciIrq {
            function: function.clone(),
            state: Mutex::new(IrqState::new(device.queue_sizes().len())),
            broken: AtomicBool::new(false),
            log: wires.log(),
        });
        let core = Core::new(device, &self.rings, irq.clone(), wires)?;
        let access = access_capability(&function);
        if self.options.disable_modern && function.spec().bars[legacy::BAR].is_none() {
            return Err(wires.bad_property("disable_modern", "expected off, as there is no legacy interface"));
        }
        Ok(Box::new(PciTransport { kind: C::PCI_KIND, core, irq, function, access }))
    }
}

/// Where the access capability stands.
fn access_capability(function: &Function) -> Option<usize> {
    function.with_config(|space| {
        let mut at = space.find(cap::VENDOR)?;
        for _ in 0..48 {
            if space.u8(at) == cap::VENDOR && space.u8(at + 3) == CFG_ACCESS {
                return Some(at);
            }
            at = usize::from(space.u8(at + 1));
        }
        None
    })
}

/// Interrupt status and vectors. Held while the pin is driven, so that both agree.
struct IrqState {
    status: u8,
    generation: u8,
    config_vector: u16,
    vectors: Vec<u16>,
}

impl IrqState {
    fn new(queues: usize) -> Self {
        IrqState { status: 0, generation: 0, config_vector: NO_VECTOR, vectors: vec![NO_VECTOR; queues] }
    }
}

/// The interrupts of a device, raised from any thread.
struct PciIrq {
    function: Function,
    state: Mutex<IrqState>,
    broken: AtomicBool,
    log: Arc<GuestLog>,
}

impl PciIrq {
    fn raise(&self, state: &mut IrqState, bit: u8, vector: u16) {
        if self.function.msix_enabled() {
            if vector != NO_VECTOR {
                self.function.message(vector);
            }
        } else {
            state.status |= bit;
            self.function.set_pin(true);
        }
    }

    /// Reading the status acknowledges it.
    fn take_status(&self) -> u8 {
        let mut state = self.state.lock();
        self.function.set_pin(false);
        std::mem::take(&mut state.status)
    }

    fn reset(&self) {
        self.broken.store(false, Ordering::SeqCst);
        let mut state = self.state.lock();
        *state = IrqState::new(state.vectors.len());
        self.function.set_pin(false);
    }

    /// A vector as the driver wants it, if there is such an entry.
    fn vector(&self, value: u64) -> u16 {
        let most = self.function.spec().msix.map_or(0, |x| x.vectors);
        if value < most.into() { value as u16 } else { NO_VECTOR }
    }
}

impl Notifier for PciIrq {
    fn used(&self, queue: u16) {
        let state = &mut *self.state.lock();
        let vector = state.vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR);
        self.raise(state, isr::USED, vector);
    }

    fn config_changed(&self) {
        let state = &mut *self.state.lock();
        state.generation = state.generation.wrapping_add(1);
        let vector = state.config_vector;
        self.raise(state, isr::CONFIG, vector);
    }

    fn needs_reset(&self, why: fmt::Arguments<'_>) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            self.log.guest_error(format_args!("{why}; the device needs a reset"));
            let state = &mut *self.state.lock();
            let vector = state.config_vector;
            self.raise(state, isr::CONFIG, vector);
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

struct PciTransport {
    kind: &'static str,
    core: Core,
    irq: Arc<PciIrq>,
    function: Function,
    /// Where the access capability stands, if there is a modern interface.
    access: Option<usize>,
}

::device::state! {
    /// State of the transport, version 1.
    struct V1 {
        1 => core: ::device::Bytes, 2 => interrupt: u8, 3 => generation: u8, 4 => config_vector: u16,
        5 => vectors: Vec<u16>,
    }
}

/// Which area of a queue, and which half, a register is.
fn area(offset: u64) -> (Area, bool) {
    let area = match (offset - reg::QUEUE_AREAS) / 8 {
        0 => Area::Desc,
        1 => Area::Driver,
        _ => Area::Device,
    };
    (area, offset & 4 != 0)
}

impl PciTransport {
    fn read_common(&self, offset: u64, data: &mut [u8]) -> Access {
        let core = &self.core;
        let queue = core.queue_sel as usize;
        let value: u64 = match offset {
            reg::DEVICE_FEATURES_SEL => core.device_features_sel.into(),
            reg::DEVICE_FEATURES => core.device_features().into(),
            reg::DRIVER_FEATURES_SEL => core.driver_features_sel.into(),
            reg::DRIVER_FEATURES => core.driver_features().into(),
            reg::CONFIG_VECTOR => self.irq.state.lock().config_vector.into(),
            reg::QUEUES => core.queue_count() as u64,
            reg::STATUS => core.status().into(),
            reg::GENERATION => self.irq.state.lock().generation.into(),
            reg::QUEUE_SEL => core.queue_sel.into(),
            reg::QUEUE_SIZE => core.queue_size().into(),
            reg::QUEUE_VECTOR => {
                self.irq.state.lock().vectors.get(queue).copied().unwrap_or(NO_VECTOR).into()
            }
            reg::QUEUE_ENABLE => core.queue_ready().into(),
            reg::QUEUE_NOTIFY_OFF => queue as u64,
            reg::QUEUE_AREAS..reg::QUEUE_AREAS_END if offset.is_multiple_of(4) => {
                let (area, high) = area(offset);
                core.queue_area(area, high).into()
            }
            reg::QUEUE_NOTIFY_DATA => queue as u64,
            // A reset is done by the time the write returns.
            reg::QUEUE_RESET => 0,
            _ => return Access::NoRegister,
        };
        le_fill(data, value);
        Access::Ok
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data);
        let core = &mut self.core;
        let queue = core.queue_sel as usize;
        match offset {
            reg::DEVICE_FEATURES_SEL => core.device_features_sel = value as u32,
            reg::DRIVER_FEATURES_SEL => core.driver_features_sel = value as u32,
            reg::DRIVER_FEATURES => core.set_driver_features(value as u32),
            reg::CONFIG_VECTOR => self.irq.state.lock().config_vector = self.irq.vector(value),
            reg::STATUS => {
                if core.set_status(value as u8) {
                    self.irq.reset();
                }
            }
            reg::QUEUE_SEL => core.queue_sel = value as u32 & 0xffff,
            reg::QUEUE_SIZE => core.set_queue_size(value as u32 & 0xffff),
            reg::QUEUE_VECTOR => {
                let vector = self.irq.vector(value);
                if let Some(to) = self.irq.state.lock().vectors.get_mut(queue) {
                    *to = vector;
                }
            }
            reg::QUEUE_ENABLE => {
                // A driver cannot stop a queue but by a reset.
                if value & 1 != 0 {
                    core.set_queue_ready(true);
                }
            }
            reg::QUEUE_AREAS..reg::QUEUE_AREAS_END if offset.is_multiple_of(4) && data.len() == 4 => {
                let (area, high) = area(offset);
                core.set_queue_area(area, high, value as u32);
            }
            reg::QUEUE_RESET => {
                if value & 1 != 0 {
                    core.reset_queue();
                    if let Some(to) = self.irq.state.lock().vectors.get_mut(queue) {
                        *to = NO_VECTOR;
                    }
                }
            }
            reg::DEVICE_FEATURES | reg::QUEUES | reg::GENERATION | reg::QUEUE_NOTIFY_OFF => {
                return Access::ReadOnly;
            }
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    /// What the access capability points to: offset in the register and length, if it is one of ours.
    fn window(&self) -> Option<(u64, usize)> {
        let access = self.access?;
        let (bar, offset, len) = self
            .function
            .with_config(|space| (space.u8(access + 4), space.u32(access + 8), space.u32(access + 12)));
        let fits = usize::from(bar) == BAR && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len);
        (fits && u64::from(offset) + u64::from(len) <= BAR_SIZE).then_some((offset.into(), len as usize))
    }
}

impl Device for PciTransport {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        data.fill(0);
        match offset {
            _ if region == legacy::BAR => return self.read_legacy(offset, data),
            _ if region != BAR => return Access::NoRegister,
            _ if offset < ISR.0 => return self.read_common(offset, data),
            _ if offset == ISR.0 => le_fill(data, self.irq.take_status().into()),
            _ if offset < DEVICE.0 => {}
            _ if offset < NOTIFY.0 => self.core.device.read_config(offset - DEVICE.0, data),
            _ => {}
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match offset {
            _ if region == legacy::BAR => return self.write_legacy(offset, data),
            _ if region != BAR => return Access::NoRegister,
            _ if offset < ISR.0 => return self.write_common(offset, data),
            _ if offset < DEVICE.0 => return Access::ReadOnly,
            _ if offset < NOTIFY.0 => self.core.device.write_config(offset - DEVICE.0, data),
            _ => self.core.notify(((offset - NOTIFY.0) / NOTIFY_STEP) as usize),
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.core.reset();
        self.irq.reset();
    }

    fn save(&self) -> StateBlob {
        // The core first: what it finishes raises interrupts.
        let core = self.core.save_bytes();
        let state = self.irq.state.lock();
        let saved = V1 {
            core,
            interrupt: state.status,
            generation: state.generation,
            config_vector: state.config_vector,
            vectors: state.vectors.clone(),
        };
        StateBlob::new(self.kind, 1, &saved)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(self.kind, 1)?;
        StateError::at_most("interrupt", s.interrupt, isr::USED | isr::CONFIG)?;
        let queues = self.irq.state.lock().vectors.len();
        if s.vectors.len() != queues {
            let found = s.vectors.len();
            return Err(StateError::new("vectors", format!("expected {queues}, found {found}")));
        }
        let broken = self.core.restore_bytes(&s.core)?;
        self.irq.broken.store(broken, Ordering::SeqCst);
        let vector = |v: u16| self.irq.vector(v.into());
        *self.irq.state.lock() = IrqState {
            status: s.interrupt,
            generation: s.generation,
            config_vector: vector(s.config_vector),
            vectors: s.vectors.into_iter().map(vector).collect(),
        };
        Ok(())
    }

    forward_to_core!();
}

impl PciDevice for PciTransport {
    fn config_read(&mut self, at: usize, data: &mut [u8]) {
        if self.access.is_some_and(|access| at == access + CFG_DATA)
            && let Some((offset, len)) = self.window()
            && len <= data.len()
        {
            // What is not there reads as zero.
            let _ = self.read(BAR, offset, &mut data[..len]);
        }
    }

    fn config_written(&mut self, at: usize, len: usize) {
        if at < COMMAND_END && at + len > COMMAND {
            self.core.device.reach_changed();
        }
        if self.access.is_some_and(|access| at == access + CFG_DATA)
            && let Some((offset, size)) = self.window()
            && size <= len
        {
            let value = self.function.config_u32(at).to_le_bytes();
            let _ = self.write(BAR, offset, &value[..size]);
        }
    }
}
