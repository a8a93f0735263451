//! What a function is before it exists: identity, base address registers, capabilities.
//!
//! PCI Local Bus Specification 3.0, chapter 6; class codes from the PCI Code and ID Assignment Specification.

use std::sync::Arc;

use device::AccessRule;

/// Class codes as `class << 16 | subclass << 8 | programming interface`.
pub mod class {
    /// IDE controller, both channels in compatibility mode, bus master.
    pub const IDE: u32 = 0x01_01_80;
    /// SATA controller, AHCI 1.0.
    pub const AHCI: u32 = 0x01_06_01;
    /// SCSI controller.
    pub const SCSI: u32 = 0x01_00_00;
    /// NVM Express controller.
    pub const NVME: u32 = 0x01_08_02;
    /// Ethernet card.
    pub const ETHERNET: u32 = 0x02_00_00;
    /// VGA-compatible display.
    pub const VGA: u32 = 0x03_00_00;
    /// Other display.
    pub const DISPLAY: u32 = 0x03_80_00;
    /// Audio device.
    pub const AUDIO: u32 = 0x04_01_00;
    /// High definition audio.
    pub const HDA: u32 = 0x04_03_00;
    /// RAM.
    pub const RAM: u32 = 0x05_00_00;
    /// Host bridge.
    pub const HOST_BRIDGE: u32 = 0x06_00_00;
    /// ISA bridge.
    pub const ISA_BRIDGE: u32 = 0x06_01_00;
    /// PCI to PCI bridge.
    pub const PCI_BRIDGE: u32 = 0x06_04_00;
    /// Other bridge.
    pub const OTHER_BRIDGE: u32 = 0x06_80_00;
    /// Serial port like a 16550.
    pub const SERIAL: u32 = 0x07_00_02;
    /// Other communication device.
    pub const COMMUNICATION: u32 = 0x07_80_00;
    /// Other system peripheral.
    pub const SYSTEM: u32 = 0x08_80_00;
    /// System management bus.
    pub const SMBUS: u32 = 0x0c_05_00;
    /// Nothing of the above.
    pub const OTHER: u32 = 0xff_00_00;
}

/// Vendor of the functions that were never hardware.
pub const REDHAT: u16 = 0x1b36;
/// Vendor of virtio functions; the default subsystem vendor as well.
pub const QUMRANET: u16 = 0x1af4;
/// Subsystem device id if a function has no better one.
pub const SUBSYSTEM: u16 = 0x1100;
/// Intel.
pub const INTEL: u16 = 0x8086;

/// What an access through a base address register reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Registers in memory space: [`device::Device::read`] with the register's number as region.
    Memory(AccessRule),
    /// The same, anywhere in the 64-bit address space. Takes the next register as well.
    Memory64(AccessRule),
    /// Registers in port space.
    Ports(AccessRule),
    /// Memory the function has declared as [`crate::PciConfig::rams`], reached directly and prefetchable.
    Ram(&'static str),
    /// The same, anywhere in the 64-bit address space.
    Ram64(&'static str),
}

impl BarKind {
    /// Whether it takes two registers.
    pub fn is_64bit(&self) -> bool {
        matches!(self, BarKind::Memory64(_) | BarKind::Ram64(_))
    }

    /// Widths of its registers; nothing for memory.
    pub fn rule(&self) -> Option<AccessRule> {
        match self {
            BarKind::Memory(rule) | BarKind::Memory64(rule) | BarKind::Ports(rule) => Some(*rule),
            BarKind::Ram(_) | BarKind::Ram64(_) => None,
        }
    }

    /// The bits that the register shows below the address.
    pub(crate) fn flags(&self) -> u32 {
        match self {
            BarKind::Memory(_) => 0,
            BarKind::Memory64(_) => 4,
            BarKind::Ports(_) => 1,
            BarKind::Ram(_) => 8,
            BarKind::Ram64(_) => 12,
        }
    }
}

/// A base address register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Size in bytes, a power of two: at least 16 in memory, 4 in port space.
    pub size: u64,
    /// What is behind it.
    pub kind: BarKind,
    /// Prefetchable although it leads to registers.
    pub prefetchable: bool,
}

/// Message-signalled interrupts by capability (PCI 3.0, 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Messages the function can send: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// Single messages can be masked.
    pub maskable: bool,
}

/// Message-signalled interrupts by table (PCI 3.0, 6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Entries of the table, 1 to 2048.
    pub vectors: u16,
    /// Register and offset of the table. The function itself is not asked about accesses to it.
    pub table: (u8, u32),
    /// Register and offset of the pending bits.
    pub pending: (u8, u32),
}

/// Role of a PCI Express function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Express {
    /// A device: endpoint behind a port, integrated endpoint on the root bus, conventional on a conventional bus.
    Endpoint,
    /// Root port for a slot with this number.
    RootPort(u16),
    /// Upstream port of a switch.
    Upstream,
    /// Downstream port of a switch for a slot with this number.
    Downstream(u16),
    /// Bridge to a conventional bus.
    ToPci,
}

/// What a function is. Made with [`FunctionSpec::new`], then refined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class code, see [`class`].
    pub class: u32,
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
    /// Interrupt pin: 1 to 4 are INTA to INTD, 0 is none.
    pub pin: u8,
    /// Base address registers by number.
    pub bars: [Option<Bar>; 6],
    /// Expansion ROM.
    pub rom: Option<Arc<[u8]>>,
    /// Messages by capability.
    pub msi: Option<Msi>,
    /// Messages by table.
    pub msix: Option<Msix>,
    /// PCI Express; without it the function is a conventional one.
    pub express: Option<Express>,
    /// Power management capability.
    pub power: bool,
    /// It is a bridge, with a bus behind it.
    pub bridge: bool,
    /// What is in its slot can come and go while the machine runs.
    pub hotplug: bool,
    /// It stands without a bus master enable: memory is always open to it (host bridges).
    pub always_master: bool,
    /// Vendor-specific capabilities: their bytes after identifier and link, and which bits the guest may write.
    pub vendor_caps: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FunctionSpec {
    /// A function of an identity, with interrupt pin INTA and nothing else.
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        FunctionSpec {
            vendor,
            device,
            revision: 0,
            class,
            subsystem: (QUMRANET, SUBSYSTEM),
            pin: 1,
            bars: [const { None }; 6],
            rom: None,
            msi: None,
            msix: None,
            express: None,
            power: false,
            bridge: false,
            hotplug: false,
            always_master: false,
            vendor_caps: Vec::new(),
        }
    }

    /// Sets the revision.
    #[must_use]
    pub fn revision(mut self, revision: u8) -> Self {
        self.revision = revision;
        self
    }

    /// Sets the subsystem ids.
    #[must_use]
    pub fn subsystem(mut self, vendor: u16, device: u16) -> Self {
        self.subsystem = (vendor, device);
        self
    }

    /// Sets the interrupt pin (0 for none).
    #[must_use]
    pub fn pin(mut self, pin: u8) -> Self {
        self.pin = pin;
        self
    }

    /// Adds base address register `index`.
    #[must_use]
    pub fn bar(mut self, index: usize, size: u64, kind: BarKind) -> Self {
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = Some(Bar { size, kind, prefetchable: false });
        }
        self
    }

    /// Adds an expansion ROM.
    #[must_use]
    pub fn rom(mut self, rom: Option<Arc<[u8]>>) -> Self {
        self.rom = rom.filter(|rom| !rom.is_empty());
        self
    }

    /// Adds messages by capability.
    #[must_use]
    pub fn msi(mut self, vectors: u8, maskable: bool) -> Self {
        self.msi = Some(Msi { vectors, maskable });
        self
    }

    /// Adds messages by table, at offset 0 of register `bar`, which must be there and be large enough; the pending
    /// bits are in the register's second half.
    #[must_use]
    pub fn msix(mut self, vectors: u16, bar: u8) -> Self {
        let half = self.bars.get(usize::from(bar)).and_then(Option::as_ref).map_or(0, |b| b.size / 2);
        self.msix = Some(Msix { vectors, table: (bar, 0), pending: (bar, half as u32) });
        self
    }

    /// Adds register `bar` for nothing but a table of `vectors` messages.
    #[must_use]
    pub fn msix_bar(self, vectors: u16, bar: u8) -> Self {
        let half = (u64::from(vectors) * 16).next_power_of_two().max(2048);
        self.bar(bar.into(), half * 2, BarKind::Memory(AccessRule::ANY)).msix(vectors, bar)
    }

    /// Makes it a PCI Express function.
    #[must_use]
    pub fn express(mut self, role: Express) -> Self {
        self.express = Some(role);
        self
    }

    /// What is in its slot can come and go, if so.
    #[must_use]
    pub fn hotplug(mut self, on: bool) -> Self {
        self.hotplug = on;
        self
    }

    /// Adds power management.
    #[must_use]
    pub fn power(mut self) -> Self {
        self.power = true;
        self
    }

    /// Why the function cannot be, if it cannot.
    pub fn problem(&self) -> Option<String> {
        for (i, bar) in self.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let ports = matches!(bar.kind, BarKind::Ports(_));
            let (least, most) = if ports { (4, 256) } else { (16, 1 << 62) };
            if !bar.size.is_power_of_two() || bar.size < least || bar.size > most {
                return Some(format!("BAR {i}: {:#x} bytes, expected a power of two from {least}", bar.size));
            }
            if !bar.kind.is_64bit() && bar.size > 1 << 31 {
                return Some(format!("BAR {i}: {:#x} bytes do not fit below 4 GiB", bar.size));
            }
            if bar.kind.is_64bit() && self.bars.get(i + 1).is_none_or(Option::is_some) {
                return Some(format!("BAR {i}: needs the next one for its upper half"));
            }
            if self.bridge && i > 1 {
                return Some(format!("BAR {i}: a bridge has two"));
            }
        }
        if let Some(x) = self.msix {
            let size =
                |bar: u8| self.bars.get(usize::from(bar)).and_then(Option::as_ref).map_or(0, |b| b.size);
            let table = u64::from(x.table.1) + 16 * u64::from(x.vectors);
            let pending = u64::from(x.pending.1) + 8 * u64::from(x.vectors.div_ceil(64));
            if x.vectors == 0 || x.vectors > 2048 || table > size(x.table.0) || pending > size(x.pending.0) {
                return Some(format!("MSI-X: {} vectors do not fit into their BAR", x.vectors));
            }
        }
        if self.msi.is_some_and(|m| !m.vectors.is_power_of_two() || m.vectors > 32) {
            return Some("MSI: expected 1, 2, 4, 8, 16 or 32 vectors".into());
        }
        if self.pin > 4 {
            return Some(format!("interrupt pin {}, expected at most 4", self.pin));
        }
        self.rom.as_ref().filter(|rom| rom.len() > 16 << 20).map(|_| "the ROM is over 16 MiB".into())
    }
}
