//! PCI and PCI Express: what a function is, the buses it stands on, and the host's way to them.
//!
//! # A function
//!
//! A function is a [`device::Device`] like any other whose register regions are found through base address registers. Its
//! [`PciConfig`] takes the place of [`device::DeviceConfig`]: it says by a [`FunctionSpec`] what the function is, and
//! [`Pci`] puts configuration space, mapping, MSI, MSI-X table, option ROM and saved state around it, the same for all.
//!
//! ```
//! use device::{Access, AccessRule, BuildError, Device, ResetKind, StateBlob, StateError, Wires};
//! use pci::{BarKind, Function, FunctionSpec, PciConfig, PciDevice, class};
//!
//! device::device_config! {
//!     /// Adds one.
//!     #[derive(Clone, Debug)]
//!     pub struct AdderConfig { }
//! }
//!
//! impl PciConfig for AdderConfig {
//!     const KIND: &'static str = "adder";
//!     const HELP: &'static str = "a device that adds one";
//!
//!     fn spec(&self, _express: bool) -> FunctionSpec {
//!         FunctionSpec::new(0x1234, 0x5678, class::OTHER)
//!             .bar(0, 4096, BarKind::Memory(AccessRule::DWORD)) // region 0 in `read` and `write`
//!             .msi(1, false)
//!     }
//!
//!     fn build(self, function: Function, _wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
//!         Ok(Box::new(Adder { function, value: 0 }))
//!     }
//! }
//!
//! struct Adder { function: Function, value: u32 }
//! device::state! { struct V1 { 1 => value: u32 } }
//!
//! impl Device for Adder {
//!     fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
//!         if offset != 0 { return Access::NoRegister; }
//!         device::le_fill(data, u64::from(self.value.wrapping_add(1)));
//!         self.function.interrupt(false);
//!         Access::Ok
//!     }
//!     fn write(&mut self, _region: usize, _offset: u64, data: &[u8]) -> Access {
//!         self.value = device::le_value(data) as u32;
//!         self.function.interrupt(true); // the pin, or message 0: as the guest has chosen
//!         Access::Ok
//!     }
//!     fn reset(&mut self, _kind: ResetKind) { self.value = 0; }
//!     fn save(&self) -> StateBlob { StateBlob::new("adder", 1, &V1 { value: self.value }) }
//!     fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
//!         let state: V1 = state.decode("adder", 1)?;
//!         self.value = state.value;
//!         Ok(())
//!     }
//! }
//! impl PciDevice for Adder {}
//!
//! device::test_bench::check(pci::Pci::new(AdderConfig::default()));
//! ```
//!
//! What there is for a device:
//! - Regions: base address register n is region n; regions at places of the board's or the device's own choice
//!   ([`PciConfig::fixed_regions`]: legacy ports, VGA memory) are [`FIXED`] + i. The board maps those with
//!   `node.pio(pci.fixed_region(i), port)`; [`Function::place`] moves them at run time.
//! - Memory the guest reaches directly (frame buffers): name it in [`PciConfig::rams`], point a [`BarKind::Ram`] at it, take
//!   it with `wires.ram(name)`. It is saved with the machine.
//! - Interrupts: [`Function::interrupt`] for one level-triggered interrupt (its level is saved and comes down with reset by
//!   itself), [`Function::message`] for one of several messages, [`Function::set_pin`] beside it. From any thread.
//! - DMA: `wires.dma()`, which is shut while the guest has not enabled bus mastering: expect errors.
//! - Registers of its own in configuration space: [`PciConfig::prepare`] lays them out with their writable bits;
//!   [`PciDevice::config_written`] follows a write, [`Function::config_u8`] and relatives read them. They are saved.
//! - Capabilities: those of the spec; vendor-specific ones in [`FunctionSpec::vendor_caps`].
//! - Expansion ROM: [`FunctionSpec::rom`]; the user's `romfile` replaces it. One that comes from a package for a family of cards
//!   ([`AnyPci::set_family_rom`]) is made to name the function.
//!
//! [`test_bench::PciBench`] is [`device::test_bench::Bench`] with configuration accesses; `device::test_bench::check` takes
//! `Pci::new(config)` as it is.
//!
//! # Buses
//!
//! A [`Fabric`] is all buses behind a host bridge. A board makes one, gives it to its host bridge ([`PciHostConfig`] for ports
//! 0xcf8 and 0xcfc, [`PcieHostConfig`] or [`ecam`] for memory-mapped configuration), adds a bus for each bridge, and attaches
//! functions with [`Pci::at`]. Interrupt pins are wires of the board's graph: [`Fabric::route_pin`] says where a function's
//! [`INTX`] pin arrives on the root bus.

mod bridge;
mod caps;
pub mod config_space;
mod device;
mod fabric;
mod function;
mod host;
mod interrupts;
mod port;
mod rom;
mod spec;
pub mod test_bench;
#[cfg(test)]
mod tests;

pub use bridge::{
    DownstreamConfig, Ioh3420Config, PciBridgeConfig, RootPortConfig, ToPciConfig, UpstreamConfig,
};
pub use caps::express;
pub use config_space::ConfigSpace;
pub use device::{AnyPci, CONFIG_REGION, FIXED, INTX, Pci, PciConfig, PciDevice, PciKind, region_of_bar};
pub use fabric::{Attachment, BusId, Fabric, FabricError, MEMORY_CONTAINER, Place};
pub use function::Function;
pub use host::{ECAM_BUS, PciHostConfig, PcieHostConfig, ecam};
pub use port::Port;
pub use spec::{Bar, BarKind, Express, FunctionSpec, INTEL, Msi, Msix, QUMRANET, REDHAT, SUBSYSTEM, class};

/// All functions of this crate that can be plugged.
pub const KINDS: &[PciKind] = &[
    PciKind::of::<PciBridgeConfig>(),
    PciKind::of::<RootPortConfig>(),
    PciKind::of::<Ioh3420Config>(),
    PciKind::of::<UpstreamConfig>(),
    PciKind::of::<DownstreamConfig>(),
    PciKind::of::<ToPciConfig>(),
];
