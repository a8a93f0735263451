//! The legacy interface (virtio 1.2, 4.1.4.8): one block of ports, for drivers of before version 1.
//!
//! A transitional device has both interfaces; a driver uses one of them from a reset to the next.

use ::device::{Access, le_fill, le_value};

use super::{PciTransport, reg};

/// Register of the block, and its size.
pub(super) const BAR: usize = 0;
pub(super) const SIZE: u64 = 128;

/// Offsets.
mod port {
    pub(super) const DEVICE_FEATURES: u64 = 0;
    pub(super) const DRIVER_FEATURES: u64 = 4;
    pub(super) const QUEUE_PAGE: u64 = 8;
    pub(super) const QUEUE_SIZE: u64 = 12;
    pub(super) const QUEUE_SEL: u64 = 14;
    pub(super) const QUEUE_NOTIFY: u64 = 16;
    pub(super) const STATUS: u64 = 18;
    pub(super) const ISR: u64 = 19;
    /// These two are there only while messages are enabled.
    pub(super) const CONFIG_VECTOR: u64 = 20;
    pub(super) const QUEUE_VECTOR: u64 = 22;
}

/// Device id of a transitional device of a type, if there was one before version 1.
pub(super) fn device_id(device_type: u16) -> Option<u16> {
    let n = match device_type {
        1 => 0,
        2 => 1,
        5 => 2,
        3 => 3,
        8 => 4,
        4 => 5,
        9 => 9,
        _ => return None,
    };
    Some(0x1000 + n)
}

impl PciTransport {
    /// Where the device's own configuration begins.
    fn own(&self) -> u64 {
        if self.function.msix_enabled() { 24 } else { 20 }
    }

    pub(super) fn read_legacy(&mut self, offset: u64, data: &mut [u8]) -> Access {
        if offset >= self.own() {
            self.core.device.read_config(offset - self.own(), data);
            return Access::Ok;
        }
        let value: u64 = match offset {
            port::DEVICE_FEATURES => self.core.legacy_offered().into(),
            port::DRIVER_FEATURES => self.core.legacy_accepted().into(),
            port::QUEUE_PAGE => self.core.legacy_page().into(),
            port::QUEUE_SIZE => self.core.queue_max().into(),
            port::QUEUE_SEL => self.core.queue_sel.into(),
            port::STATUS => self.core.status().into(),
            port::ISR => self.irq.take_status().into(),
            port::CONFIG_VECTOR => return self.read_common(reg::CONFIG_VECTOR, data),
            port::QUEUE_VECTOR => return self.read_common(reg::QUEUE_VECTOR, data),
            _ => return Access::NoRegister,
        };
        le_fill(data, value);
        Access::Ok
    }

    pub(super) fn write_legacy(&mut self, offset: u64, data: &[u8]) -> Access {
        if offset >= self.own() {
            self.core.device.write_config(offset - self.own(), data);
            return Access::Ok;
        }
        let value = le_value(data) as u32;
        match offset {
            port::DRIVER_FEATURES => self.core.legacy_accept(value),
            port::QUEUE_PAGE => self.core.set_legacy_page(value),
            port::QUEUE_SEL => self.core.queue_sel = value & 0xffff,
            port::QUEUE_NOTIFY => self.core.notify((value & 0xffff) as usize),
            port::STATUS => {
                if self.core.set_legacy_status(value as u8) {
                    self.irq.reset();
                }
            }
            port::CONFIG_VECTOR => return self.write_common(reg::CONFIG_VECTOR, data),
            port::QUEUE_VECTOR => return self.write_common(reg::QUEUE_VECTOR, data),
            port::DEVICE_FEATURES | port::QUEUE_SIZE | port::ISR => return Access::ReadOnly,
            _ => return Access::NoRegister,
        }
        Access::Ok
    }
}
