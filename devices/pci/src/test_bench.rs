//! A bench for one function: [`device::test_bench::Bench`] with configuration accesses and base address registers by number.

use std::ops::Deref;

use ::device::test_bench::Bench;
use ::device::{Access, DeviceConfig};

use crate::config_space::{command, reg};
use crate::device::{CONFIG_REGION, Pci, PciConfig, region_of_bar};

/// A function on its bench.
pub struct PciBench {
    bench: Bench,
    bars: [Option<usize>; 6],
}

impl PciBench {
    /// Builds the function as a conventional one, with everything disabled as after reset.
    pub fn new<C: PciConfig + Default>(config: C) -> Self {
        Self::of(Pci::new(config))
    }

    /// Builds the function on a PCI Express bus.
    pub fn express<C: PciConfig + Default>(config: C) -> Self {
        Self::of(Pci { express: true, ..Pci::new(config) })
    }

    /// Builds it as it is.
    pub fn of<C: PciConfig + Default>(pci: Pci<C>) -> Self {
        let regions = DeviceConfig::regions(&pci);
        let bars = std::array::from_fn(|i| region_of_bar(&regions, i));
        PciBench { bench: Bench::new(pci), bars }
    }

    /// Lets the function answer, be a master and use its interrupt pin.
    pub fn enable(&self) {
        self.config_write(reg::COMMAND, 2, (command::IO | command::MEMORY | command::MASTER).into());
    }

    /// Reads `size` bytes of the configuration space.
    pub fn config_read(&self, at: usize, size: usize) -> u64 {
        self.bench.read(CONFIG_REGION, at as u64, size)
    }

    /// Writes `size` bytes of the configuration space.
    pub fn config_write(&self, at: usize, size: usize, value: u64) {
        self.bench.write(CONFIG_REGION, at as u64, size, value);
    }

    /// Where the first capability of a kind stands.
    pub fn capability(&self, id: u8) -> Option<usize> {
        let mut at = self.config_read(reg::CAPABILITIES, 1) as usize;
        while at != 0 && self.config_read(at, 1) as u8 != id {
            at = self.config_read(at + 1, 1) as usize;
        }
        (at != 0).then_some(at)
    }

    /// Lets the function send messages to `address`, message n with data `data` + n. By table if it has one.
    pub fn enable_messages(&self, address: u64, data: u32) {
        use crate::config_space::cap;
        if let Some(at) = self.capability(cap::MSIX) {
            let vectors = self.config_read(at + 2, 2) as usize & 0x7ff;
            let table = self.config_read(at + 4, 4);
            for n in 0..=vectors as u64 {
                let entry = (table & !7) + 16 * n;
                self.bar_write((table & 7) as usize, entry, 4, address & 0xffff_ffff);
                self.bar_write((table & 7) as usize, entry + 4, 4, address >> 32);
                self.bar_write((table & 7) as usize, entry + 8, 4, u64::from(data) + n);
                self.bar_write((table & 7) as usize, entry + 12, 4, 0);
            }
            self.config_write(at + 2, 2, 0x8000);
        } else if let Some(at) = self.capability(cap::MSI) {
            self.config_write(at + 4, 4, address & 0xffff_ffff);
            self.config_write(at + 8, 4, address >> 32);
            self.config_write(at + 12, 2, data.into());
            let most = self.config_read(at + 2, 2) >> 1 & 7;
            self.config_write(at + 2, 2, most << 4 | 1);
        }
    }

    /// Reads `size` bytes behind base address register `bar`.
    pub fn bar_read(&self, bar: usize, offset: u64, size: usize) -> u64 {
        self.bench.read(self.region(bar), offset, size)
    }

    /// Writes `size` bytes behind base address register `bar`.
    pub fn bar_write(&self, bar: usize, offset: u64, size: usize, value: u64) {
        self.bench.write(self.region(bar), offset, size, value);
    }

    /// Reads, telling how it went.
    pub fn bar_try_read(&self, bar: usize, offset: u64, size: usize) -> (Access, u64) {
        self.bench.try_read(self.region(bar), offset, size)
    }

    /// The bench's number for base address register `bar`.
    pub fn region(&self, bar: usize) -> usize {
        self.bars.get(bar).copied().flatten().expect("the register leads to registers")
    }
}

impl Deref for PciBench {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}
