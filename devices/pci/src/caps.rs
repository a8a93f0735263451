//! A fresh configuration space from what a function is.
//!
//! PCI Local Bus Specification 3.0, 6.1 and 6.8; PCI to PCI Bridge Architecture Specification 1.2, 3.2; PCI Bus Power
//! Management Interface Specification 1.2, 3.2; PCI Express Base Specification 3.0, 7.8.

use crate::config_space::{ConfigSpace, cap, command, reg, status};
use crate::spec::{BarKind, Express, FunctionSpec};

/// Size of the PCI Express capability, version 2.
const EXPRESS_SIZE: usize = 0x3c;
/// 2.5 GT/s, one lane.
const LINK: u16 = 1 | 1 << 4;

/// Offsets in the PCI Express capability.
pub mod express {
    /// Capabilities.
    pub const FLAGS: usize = 0x02;
    /// Device capabilities.
    pub const DEVICE_CAPS: usize = 0x04;
    /// Device control.
    pub const DEVICE_CONTROL: usize = 0x08;
    /// Device status.
    pub const DEVICE_STATUS: usize = 0x0a;
    /// Link capabilities.
    pub const LINK_CAPS: usize = 0x0c;
    /// Link control.
    pub const LINK_CONTROL: usize = 0x10;
    /// Link status.
    pub const LINK_STATUS: usize = 0x12;
    /// Slot capabilities.
    pub const SLOT_CAPS: usize = 0x14;
    /// Slot control.
    pub const SLOT_CONTROL: usize = 0x18;
    /// Slot status.
    pub const SLOT_STATUS: usize = 0x1a;
    /// Root control.
    pub const ROOT_CONTROL: usize = 0x1c;
    /// Device control 2.
    pub const DEVICE_CONTROL_2: usize = 0x28;
}

/// Bits of a slot's registers (7.8.9 to 7.8.11) and of the link's that go with them.
pub(crate) mod slot {
    /// Capabilities: attention button, power controller, attention and power indicator, surprise removal, hot plug.
    pub(crate) const HOTPLUG: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
    /// Link capabilities: it tells whether the data link layer is active.
    pub(crate) const LINK_REPORTS: u32 = 1 << 20;
    /// Link status: the data link layer is active.
    pub(crate) const LINK_ACTIVE: u16 = 1 << 13;
    /// Events, at the same places in control, as enables, and in status: button, presence, command, link.
    pub(crate) const BUTTON: u16 = 1;
    pub(crate) const PRESENCE: u16 = 1 << 3;
    pub(crate) const COMMAND: u16 = 1 << 4;
    /// Status and enable of the link's changes.
    pub(crate) const LINK_STATUS: u16 = 1 << 8;
    pub(crate) const LINK_ENABLE: u16 = 1 << 12;
    /// Control: interrupts on events.
    pub(crate) const INTERRUPT: u16 = 1 << 5;
    /// Control: attention and power indicator, off after reset.
    pub(crate) const INDICATORS_OFF: u16 = 3 << 6 | 3 << 8;
    pub(crate) const POWER_INDICATOR: u16 = 3 << 8;
    /// Control: power is off.
    pub(crate) const POWER_OFF: u16 = 1 << 10;
    /// Status: there is a device.
    pub(crate) const PRESENT: u16 = 1 << 6;
}

/// The size that the expansion ROM register claims.
pub(crate) fn rom_size(len: usize) -> u64 {
    (len as u64).next_power_of_two().max(2048)
}

/// The space of a function after reset; nothing if its capabilities do not fit.
pub(crate) fn space(
    spec: &FunctionSpec,
    multifunction: bool,
    express_bus: bool,
    on_root: bool,
) -> Option<ConfigSpace> {
    // An express function on a conventional bus shows itself as a conventional one.
    let role = spec.express.filter(|_| express_bus);
    let mut c = ConfigSpace::new(role.is_some());
    c.set_u16(reg::VENDOR, spec.vendor);
    c.set_u16(reg::DEVICE, spec.device);
    c.set_u32(reg::REVISION, spec.class << 8 | u32::from(spec.revision));
    c.set_u8(reg::HEADER, u8::from(spec.bridge) | if multifunction { 0x80 } else { 0 });
    c.set_u8(reg::PIN, spec.pin);
    c.allow(reg::LINE, &[0xff]);
    c.allow(reg::CACHE_LINE, &[0xff]);
    if role.is_none() {
        c.allow(reg::LATENCY, &[0xff]);
    }
    let mask = command::IO | command::MEMORY | command::MASTER | command::PARITY | command::SERR;
    c.allow(reg::COMMAND, &(mask | command::INTX_DISABLE).to_le_bytes());
    c.allow_clear(reg::STATUS, &status::ERRORS.to_le_bytes());
    c.own(reg::STATUS, &status::INTERRUPT.to_le_bytes());
    bars(&mut c, spec);
    if spec.bridge {
        bridge(&mut c);
        let at = c.add_capability(cap::BRIDGE_SUBSYSTEM, 8)?;
        c.set_u16(at + 4, spec.subsystem.0);
        c.set_u16(at + 6, spec.subsystem.1);
    } else {
        c.set_u16(reg::SUBSYSTEM, spec.subsystem.0);
        c.set_u16(reg::SUBSYSTEM + 2, spec.subsystem.1);
    }
    capabilities(&mut c, spec, role, on_root)?;
    Some(c)
}

fn bars(c: &mut ConfigSpace, spec: &FunctionSpec) {
    for (i, bar) in spec.bars.iter().enumerate() {
        let Some(bar) = bar else { continue };
        let at = reg::BAR + 4 * i;
        let prefetch = if bar.prefetchable && !matches!(bar.kind, BarKind::Ports(_)) { 8 } else { 0 };
        c.set_u32(at, bar.kind.flags() | prefetch);
        let mask = !(bar.size - 1);
        c.allow(at, &(mask as u32).to_le_bytes());
        if bar.kind.is_64bit() {
            c.allow(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
    }
    if let Some(rom) = &spec.rom {
        let mask = !(rom_size(rom.len()) - 1) as u32 | 1;
        c.allow(if spec.bridge { reg::BRIDGE_ROM } else { reg::ROM }, &mask.to_le_bytes());
    }
}

fn bridge(c: &mut ConfigSpace) {
    // Primary, secondary, subordinate, secondary latency timer.
    c.allow(reg::PRIMARY, &[0xff; 4]);
    // 32-bit I/O, 64-bit prefetchable memory; the memory window is of 32 bits.
    c.set(reg::IO_BASE, &[1, 1]);
    c.allow(reg::IO_BASE, &[0xf0, 0xf0]);
    c.allow(reg::MEMORY_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
    c.set(reg::PREFETCH_BASE, &[1, 0, 1, 0]);
    c.allow(reg::PREFETCH_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
    c.allow(reg::PREFETCH_UPPER, &[0xff; 12]);
    c.allow_clear(reg::SECONDARY_STATUS, &status::ERRORS.to_le_bytes());
    // Parity, SERR, ISA, VGA, VGA 16-bit, master abort, secondary reset, fast back-to-back, timers.
    c.allow(reg::BRIDGE_CONTROL, &[0xff, 0x0b]);
}

fn capabilities(
    c: &mut ConfigSpace,
    spec: &FunctionSpec,
    role: Option<Express>,
    on_root: bool,
) -> Option<()> {
    if let Some(msix) = spec.msix {
        let at = c.add_capability(cap::MSIX, 12)?;
        c.set_u16(at + 2, msix.vectors - 1);
        c.set_u32(at + 4, msix.table.1 | u32::from(msix.table.0));
        c.set_u32(at + 8, msix.pending.1 | u32::from(msix.pending.0));
        c.allow(at + 3, &[0xc0]);
    }
    if let Some(msi) = spec.msi {
        let at = c.add_capability(cap::MSI, if msi.maskable { 24 } else { 14 })?;
        let log2 = msi.vectors.trailing_zeros() as u16;
        c.set_u16(at + 2, 1 << 7 | log2 << 1 | u16::from(msi.maskable) << 8);
        c.allow(at + 2, &[0x71]);
        c.allow(at + 4, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        if msi.maskable {
            let all = if msi.vectors == 32 { !0 } else { (1u32 << msi.vectors) - 1 };
            c.allow(at + 16, &all.to_le_bytes());
            c.own(at + 20, &all.to_le_bytes());
        }
    }
    for (bytes, mask) in &spec.vendor_caps {
        let at = c.add_capability(cap::VENDOR, bytes.len() + 2)?;
        c.set(at + 2, bytes);
        c.allow(at + 2, mask);
    }
    if spec.power {
        let at = c.add_capability(cap::POWER, 8)?;
        c.set_u16(at + 2, 3);
        c.allow(at + 4, &[3]);
        c.allow_clear(at + 5, &[0x80]);
    }
    match role {
        Some(role) => express_capability(c, role, on_root, spec.hotplug),
        None => Some(()),
    }
}

fn express_capability(c: &mut ConfigSpace, role: Express, on_root: bool, hotplug: bool) -> Option<()> {
    let at = c.add_capability(cap::EXPRESS, EXPRESS_SIZE)?;
    let (kind, slot_number) = match role {
        Express::Endpoint if on_root => (9, None),
        Express::Endpoint => (0, None),
        Express::RootPort(number) => (4, Some(number)),
        Express::Upstream => (5, None),
        Express::Downstream(number) => (6, Some(number)),
        Express::ToPci => (7, None),
    };
    c.set_u16(at + express::FLAGS, 2 | kind << 4 | u16::from(slot_number.is_some()) << 8);
    // Errors are reported by role.
    c.set_u32(at + express::DEVICE_CAPS, 1 << 15);
    c.allow(at + express::DEVICE_CONTROL, &[0x0f, 0]);
    c.allow_clear(at + express::DEVICE_STATUS, &[0x0f, 0]);
    if kind != 9 {
        c.set_u32(at + express::LINK_CAPS, u32::from(LINK) | 1 << 10);
        c.set_u16(at + express::LINK_STATUS, LINK);
        c.allow(at + express::LINK_CONTROL, &[0x43, 0]);
    }
    if let Some(number) = slot_number {
        let caps = if hotplug { slot::HOTPLUG } else { 0 };
        c.set_u32(at + express::SLOT_CAPS, u32::from(number) << 19 | caps);
        if hotplug {
            c.set_u32(at + express::LINK_CAPS, c.u32(at + express::LINK_CAPS) | slot::LINK_REPORTS);
            c.set_u16(at + express::SLOT_CONTROL, slot::INDICATORS_OFF);
            c.allow(at + express::SLOT_CONTROL, &[0xf9, 0x17]);
            let events = slot::BUTTON | slot::PRESENCE | slot::COMMAND | slot::LINK_STATUS;
            c.allow_clear(at + express::SLOT_STATUS, &events.to_le_bytes());
        }
    }
    if kind == 4 {
        c.allow(at + express::ROOT_CONTROL, &[0x1f, 0]);
    }
    c.allow(at + express::DEVICE_CONTROL_2, &[0x20, 0]);
    Some(())
}
