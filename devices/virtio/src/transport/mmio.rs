//! virtio-mmio, version 2 (virtio 1.2, 4.2). Legacy version 1 is not offered.
//!
//! One device owns one window of registers and one interrupt. A slot without a device reads device ID 0, which
//! drivers pass over.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ::device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, GuestLog, IrqLine, PinSpec, Properties, Property,
    PropertyError, RegionSpec, ResetKind, StateBlob, StateError, Wires, device_config, le_fill, le_value,
};
use parking_lot::Mutex;

use super::{Area, Core, RingOptions, forward_to_core, set_first};
use crate::device::{Notifier, VirtioConfig};

/// `compatible` of a slot in a device tree.
pub const COMPATIBLE: &str = "virtio,mmio";
/// Size of a slot's registers in bytes.
pub const REGION_SIZE: u64 = 0x200;
/// Name of the interrupt pin.
pub const IRQ_PIN: &str = "irq";

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// The vendor that QEMU names; drivers print it and match nothing on it.
const VENDOR: u32 = 0x554d_4551;

mod reg {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_SEL: u64 = 0x0ac;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const QUEUE_RESET: u64 = 0x0c0;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// Bits of the interrupt status.
mod isr {
    pub(super) const USED: u32 = 1;
    pub(super) const CONFIG: u32 = 2;
}

/// A device of kind `C` on virtio-mmio.
#[derive(Clone, Debug, Default)]
pub struct Mmio<C: VirtioConfig> {
    /// The device's own settings.
    pub config: C,
    /// The transport's settings.
    pub options: RingOptions,
    /// What the board gives the device.
    pub backend: C::Backend,
}

impl<C: VirtioConfig> Mmio<C> {
    /// A device with these settings, the transport's being the defaults.
    pub fn new(config: C, backend: C::Backend) -> Self {
        Mmio { config, backend, options: RingOptions::default() }
    }
}

impl<C: VirtioConfig> Properties for Mmio<C> {
    fn properties() -> Vec<Property> {
        C::properties().into_iter().chain(RingOptions::properties()).collect()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        set_first(self.config.set(name, value), || self.options.set(name, value))
    }
}

fn region() -> RegionSpec {
    RegionSpec::new("registers", REGION_SIZE, AccessRule::UP_TO_4)
}

impl<C: VirtioConfig> DeviceConfig for Mmio<C> {
    const KIND: &'static str = C::MMIO_KIND;
    const HELP: &'static str = C::HELP;

    fn regions(&self) -> Vec<RegionSpec> {
        vec![region()]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one(IRQ_PIN)]
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

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let device = self.config.make(self.backend, wires)?;
        let irq = Arc::new(MmioIrq {
            status: Mutex::new(0),
            line: wires.line(IRQ_PIN),
            generation: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            log: wires.log(),
        });
        let core = Core::new(device, &self.options, irq.clone(), wires)?;
        Ok(Box::new(MmioDevice { kind: C::MMIO_KIND, core, irq }))
    }
}

/// The interrupt of a slot, raised from any thread.
struct MmioIrq {
    /// The interrupt status register. Held while the line is driven, so that both agree.
    status: Mutex<u32>,
    line: IrqLine,
    generation: AtomicU32,
    broken: AtomicBool,
    log: Arc<GuestLog>,
}

impl MmioIrq {
    fn raise(&self, bit: u32) {
        let mut status = self.status.lock();
        *status |= bit;
        self.line.set(true);
    }

    fn acknowledge(&self, bits: u32) {
        let mut status = self.status.lock();
        *status &= !bits;
        self.line.set(*status != 0);
    }

    fn reset(&self) {
        self.broken.store(false, Ordering::SeqCst);
        self.generation.store(0, Ordering::SeqCst);
        self.acknowledge(!0);
    }
}

impl Notifier for MmioIrq {
    fn used(&self, _queue: u16) {
        self.raise(isr::USED);
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(isr::CONFIG);
    }

    fn needs_reset(&self, why: fmt::Arguments<'_>) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            self.log.guest_error(format_args!("{why}; the device needs a reset"));
            self.raise(isr::CONFIG);
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

struct MmioDevice {
    kind: &'static str,
    core: Core,
    irq: Arc<MmioIrq>,
}

::device::state! {
    /// State of a slot, version 1.
    struct V1 { 1 => core: ::device::Bytes, 2 => interrupt: u32, 3 => generation: u32 }
}

impl Device for MmioDevice {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        if offset >= reg::CONFIG {
            data.fill(0);
            self.core.device.read_config(offset - reg::CONFIG, data);
            return Access::Ok;
        }
        if data.len() != 4 {
            return Access::BadSize;
        }
        let value = match offset {
            reg::MAGIC => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE_ID => self.core.device.device_type(),
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => self.core.device_features(),
            reg::QUEUE_SIZE_MAX => self.core.queue_max().into(),
            reg::QUEUE_READY => self.core.queue_ready().into(),
            reg::INTERRUPT_STATUS => *self.irq.status.lock(),
            reg::STATUS => self.core.status().into(),
            // No shared memory regions: length and base are -1.
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => !0,
            // A reset is done by the time the write returns.
            reg::QUEUE_RESET => 0,
            reg::CONFIG_GENERATION => self.irq.generation.load(Ordering::SeqCst),
            _ => return Access::NoRegister,
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        if offset >= reg::CONFIG {
            self.core.device.write_config(offset - reg::CONFIG, data);
            return Access::Ok;
        }
        if data.len() != 4 {
            return Access::BadSize;
        }
        let value = le_value(data) as u32;
        match offset {
            reg::DEVICE_FEATURES_SEL => self.core.device_features_sel = value,
            reg::DRIVER_FEATURES => self.core.set_driver_features(value),
            reg::DRIVER_FEATURES_SEL => self.core.driver_features_sel = value,
            reg::QUEUE_SEL => self.core.queue_sel = value,
            reg::QUEUE_SIZE => self.core.set_queue_size(value),
            reg::QUEUE_READY => self.core.set_queue_ready(value & 1 != 0),
            reg::QUEUE_NOTIFY => self.core.notify(value as usize),
            reg::INTERRUPT_ACK => self.irq.acknowledge(value),
            reg::STATUS => {
                if self.core.set_status(value as u8) {
                    self.irq.reset();
                }
            }
            reg::QUEUE_DESC_LOW => self.core.set_queue_area(Area::Desc, false, value),
            reg::QUEUE_DESC_HIGH => self.core.set_queue_area(Area::Desc, true, value),
            reg::QUEUE_DRIVER_LOW => self.core.set_queue_area(Area::Driver, false, value),
            reg::QUEUE_DRIVER_HIGH => self.core.set_queue_area(Area::Driver, true, value),
            reg::QUEUE_DEVICE_LOW => self.core.set_queue_area(Area::Device, false, value),
            reg::QUEUE_DEVICE_HIGH => self.core.set_queue_area(Area::Device, true, value),
            reg::SHM_SEL => {}
            reg::QUEUE_RESET => {
                if value & 1 != 0 {
                    self.core.reset_queue();
                }
            }
            reg::MAGIC..=reg::DEVICE_FEATURES | reg::QUEUE_SIZE_MAX | reg::INTERRUPT_STATUS => {
                return Access::ReadOnly;
            }
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH | reg::CONFIG_GENERATION => return Access::ReadOnly,
            _ => return Access::NoRegister,
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
        let (interrupt, generation) = (*self.irq.status.lock(), self.irq.generation.load(Ordering::SeqCst));
        StateBlob::new(self.kind, 1, &V1 { core, interrupt, generation })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let state: V1 = state.decode(self.kind, 1)?;
        StateError::at_most("interrupt", state.interrupt, isr::USED | isr::CONFIG)?;
        let broken = self.core.restore_bytes(&state.core)?;
        self.irq.broken.store(broken, Ordering::SeqCst);
        self.irq.generation.store(state.generation, Ordering::SeqCst);
        let mut status = self.irq.status.lock();
        *status = state.interrupt;
        self.irq.line.import(state.interrupt != 0);
        Ok(())
    }

    forward_to_core!();
}

device_config! {
    /// A slot without a device.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct EmptySlot {
    }
}

impl DeviceConfig for EmptySlot {
    const KIND: &'static str = "virtio-mmio";
    const HELP: &'static str = "virtio-mmio slot without a device";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![region()]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one(IRQ_PIN)]
    }

    fn build(self, _wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(self))
    }
}

impl Device for EmptySlot {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        if data.len() != 4 && offset < reg::CONFIG {
            return Access::BadSize;
        }
        let value = match offset {
            reg::MAGIC => MAGIC,
            reg::VERSION => VERSION,
            reg::VENDOR_ID => VENDOR,
            _ => 0,
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Access {
        Access::NoRegister
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(Self::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(Self::KIND)
    }
}
