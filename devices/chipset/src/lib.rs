//! PC chipsets, one file a function: what stands between processors, memory, PCI and the old ISA devices.
//!
//! The interrupt controllers, timers, clocks and DMA of these chips are devices of their own in other crates.

mod acpi;
mod acpi_pm;
mod cpu_hotplug;
mod i440fx;
mod ich9;
mod mch;
mod memory;
mod pci_hotplug;
mod piix3;
mod piix4_pm;
mod pirq;
mod tco;
#[cfg(test)]
mod tests;

pub use acpi_pm::AcpiPmConfig;
pub use cpu_hotplug::{CpuHotplug, CpuHotplugConfig, OspmStatus};
pub use i440fx::I440fxConfig;
pub use ich9::{Ich9LpcConfig, Ich9SmbusConfig, SmiFeatures};
pub use mch::{EcamPlace, MchConfig};
pub use pci_hotplug::{PciHotplug, PciHotplugConfig};
pub use piix3::Piix3Config;
pub use piix4_pm::Piix4PmConfig;
