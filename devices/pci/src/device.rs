//! The contract of a PCI function, and how it becomes a device of the machine.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ::device::{
    Access, AccessRule, AnyConfig, BuildError, CharReceiver, Device, DeviceConfig, DeviceKind, Display,
    PinSpec, Properties, Property, PropertyError, RamSpec, RegionSpec, ResetKind, StateBlob, StateError,
    Wires,
};
use guest_memory::{Gate, RamBlock};

use crate::caps;
use crate::config_space::{CONVENTIONAL, ConfigSpace, EXTENDED};
use crate::fabric::Attachment;
use crate::function::{Function, FunctionState, Parts};
use crate::rom;
use crate::spec::FunctionSpec;

/// Region of the configuration space in [`Pci`]'s regions.
pub const CONFIG_REGION: usize = 0;
/// The output pin of a function: INTA to INTD, as its spec says.
pub const INTX: &str = "intx";
/// The first region number that a function sees for its fixed regions; those below are base address registers.
pub const FIXED: usize = 8;

/// A function of a PCI device: [`Device`] with regions numbered by base address register, and configuration hooks.
pub trait PciDevice: Device {
    /// The guest is about to read `data.len()` bytes of the configuration space at `at`, which are in `data` already:
    /// may change them. For registers that no stored byte can stand for.
    fn config_read(&mut self, at: usize, data: &mut [u8]) {
        let _ = (at, data);
    }

    /// The guest has written `len` bytes of the configuration space at `at`; the function's space holds what became of it.
    fn config_written(&mut self, at: usize, len: usize) {
        let _ = (at, len);
    }

    /// The bus has restored the configuration space; [`Device::restore`] follows. Whatever was placed by
    /// [`Function::place`] is to be placed again there.
    fn config_restored(&mut self) {}
}

/// A kind of PCI function: what it has, and how it is made. [`Pci`] makes a [`DeviceConfig`] of it.
pub trait PciConfig: Properties + Clone + fmt::Debug + Send + 'static {
    /// The kind's name on the command line and in saved states.
    const KIND: &'static str;

    /// One line of help.
    const HELP: &'static str;

    /// What the function is. `express`: whether it stands on a PCI Express bus.
    fn spec(&self, express: bool) -> FunctionSpec;

    /// Regions besides the base address registers: region [`FIXED`] + i to the device. The board places them
    /// ([`Pci::fixed_region`]), or the device itself ([`Function::place`]).
    fn fixed_regions(&self) -> Vec<RegionSpec> {
        Vec::new()
    }

    /// Memory it holds that the guest reaches directly ([`crate::BarKind::Ram`]).
    fn rams(&self) -> Vec<RamSpec> {
        Vec::new()
    }

    /// Input pins.
    fn inputs(&self) -> Vec<PinSpec> {
        Vec::new()
    }

    /// Output pins besides the function's interrupt.
    fn outputs(&self) -> Vec<PinSpec> {
        Vec::new()
    }

    /// Names of the character backends.
    fn chardevs(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Names of the disks.
    fn disks(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Names of the network endpoints.
    fn nics(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Sets up registers of its own in the configuration space as it is after reset. Not the place for anything else.
    fn prepare(&self, space: &mut ConfigSpace) {
        let _ = space;
    }

    /// Makes the device, in the state after power-on. Its memory (`wires.dma()`) is behind the bus master enable.
    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError>;
}

/// A PCI function as a device of the machine: its config, and where it is attached.
///
/// Regions: the configuration space ([`CONFIG_REGION`]), the base address registers that lead to registers, the fixed ones.
#[derive(Clone, Debug, Default)]
pub struct Pci<C> {
    /// The function's own settings.
    pub config: C,
    /// Where it is attached; nothing on a bench.
    pub at: Option<Attachment>,
    /// A test's wish: to be on PCI Express without being attached.
    pub express: bool,
    /// Contents of the expansion ROM instead of the function's own; empty for none.
    pub rom: Option<Arc<[u8]>>,
    /// That ROM may name another function of the family, and is to be made to name this one.
    pub family_rom: bool,
}

impl<C: PciConfig> Pci<C> {
    /// A function that is attached nowhere yet.
    pub fn new(config: C) -> Self {
        Pci { config, at: None, express: false, rom: None, family_rom: false }
    }

    /// Attaches it.
    #[must_use]
    pub fn at(mut self, at: Attachment) -> Self {
        self.at = Some(at);
        self
    }

    /// Whether it stands on a PCI Express bus.
    fn is_express(&self) -> bool {
        self.at.as_ref().map_or(self.express, Attachment::is_express)
    }

    /// What the function is.
    pub fn spec(&self) -> FunctionSpec {
        let spec = self.config.spec(self.is_express());
        let Some(rom) = &self.rom else { return spec };
        let fitted = rom::fitted(rom, spec.vendor, spec.device).filter(|_| self.family_rom);
        spec.rom(Some(fitted.map_or_else(|| rom.clone(), Arc::from)))
    }

    /// Number of fixed region `index` among this device's regions, for boards that place it.
    pub fn fixed_region(&self, index: usize) -> usize {
        region_of_fixed(&DeviceConfig::regions(self), index)
    }
}

fn bar_name(i: usize) -> String {
    format!("bar{i}")
}

/// Number of the region of base address register `bar` among a device's regions.
pub fn region_of_bar(regions: &[RegionSpec], bar: usize) -> Option<usize> {
    let name = bar_name(bar);
    regions.iter().position(|r| r.name == name)
}

/// Number of fixed region `index` among a device's regions.
pub(crate) fn region_of_fixed(regions: &[RegionSpec], index: usize) -> usize {
    let bar = |r: &RegionSpec| r.name.strip_prefix("bar").is_some_and(|n| n.parse::<usize>().is_ok());
    let before = regions.iter().skip(1).take_while(|r| bar(r)).count();
    1 + before + index
}

impl<C: PciConfig> Properties for Pci<C> {
    fn properties() -> Vec<Property> {
        C::properties()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        Properties::set(&mut self.config, name, value)
    }
}

impl<C: PciConfig + Default> DeviceConfig for Pci<C> {
    const KIND: &'static str = C::KIND;
    const HELP: &'static str = C::HELP;

    fn regions(&self) -> Vec<RegionSpec> {
        let spec = self.spec();
        let size = if self.is_express() && spec.express.is_some() { EXTENDED } else { CONVENTIONAL };
        let config = RegionSpec::new("config", size as u64, AccessRule::UP_TO_4);
        let bars = spec.bars.iter().enumerate().filter_map(|(i, bar)| {
            let bar = bar.as_ref()?;
            Some(RegionSpec::new(bar_name(i), bar.size, bar.kind.rule()?))
        });
        [config].into_iter().chain(bars).chain(self.config.fixed_regions()).collect()
    }

    fn rams(&self) -> Vec<RamSpec> {
        self.config.rams()
    }

    fn inputs(&self) -> Vec<PinSpec> {
        self.config.inputs()
    }

    fn outputs(&self) -> Vec<PinSpec> {
        let pin = (self.spec().pin != 0).then(|| PinSpec::one(INTX));
        pin.into_iter().chain(self.config.outputs()).collect()
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
        let (spec, express) = (self.spec(), self.is_express());
        if let Some(why) = spec.problem() {
            return Err(wires.host_error(why));
        }
        let gate = Gate::new(false);
        wires.gate_dma(gate.clone());
        let mut map: Vec<usize> = vec![usize::MAX];
        let mut memory = BTreeMap::new();
        for (i, bar) in spec.bars.iter().enumerate() {
            use crate::spec::BarKind::{Ram, Ram64};
            match bar.as_ref().map(|b| &b.kind) {
                Some(Ram(name) | Ram64(name)) => drop(memory.insert(i, wires.ram(name)?)),
                Some(_) => map.push(i),
                None => {}
            }
        }
        map.extend((0..self.config.fixed_regions().len()).map(|i| FIXED + i));
        let parts = Parts {
            line: wires.line(INTX),
            target: wires.msi(),
            log: wires.log(),
            at: self.at.clone(),
            gate,
            cell: wires.cell(),
            memory,
            rom: spec.rom.as_deref().map(|rom| rom_block(rom, wires)).transpose()?,
        };
        let prepare = |space: &mut ConfigSpace| self.config.prepare(space);
        let function = Function::new(spec, parts, express, prepare).map_err(|why| wires.host_error(why))?;
        let device = self.config.build(function.clone(), wires)?;
        Ok(Box::new(Wrapper { kind: C::KIND, function, device, map }))
    }
}

fn rom_block(rom: &[u8], wires: &Wires) -> Result<Arc<RamBlock>, BuildError> {
    let block = RamBlock::anonymous(format!("{}.rom", wires.path()), caps::rom_size(rom.len()).max(4096));
    let block = block.map_err(|e| wires.host_error(e.to_string()))?;
    block.write(0, rom).map_err(|e| wires.host_error(e.to_string()))?;
    Ok(block)
}

/// A [`DeviceConfig`] of a function whose kind is not known: what boards attach.
pub trait AnyPci: AnyConfig {
    /// Attaches it.
    fn attach(&mut self, at: Attachment);
    /// Gives it another expansion ROM; empty for none.
    fn set_rom(&mut self, rom: Arc<[u8]>);
    /// Gives it an expansion ROM for a family of cards, whose header is made to name this one.
    fn set_family_rom(&mut self, rom: Arc<[u8]>);
    /// What the function is, where it is attached now.
    fn function_spec(&self) -> FunctionSpec;
    /// A copy.
    fn clone_pci(&self) -> Box<dyn AnyPci>;
    /// Itself as a device's config.
    fn as_config(&self) -> &dyn AnyConfig;
    /// Itself as a device's config, to set properties.
    fn as_config_mut(&mut self) -> &mut dyn AnyConfig;
}

impl<C: PciConfig + Default> AnyPci for Pci<C> {
    fn attach(&mut self, at: Attachment) {
        self.at = Some(at);
    }

    fn set_rom(&mut self, rom: Arc<[u8]>) {
        (self.rom, self.family_rom) = (Some(rom), false);
    }

    fn set_family_rom(&mut self, rom: Arc<[u8]>) {
        (self.rom, self.family_rom) = (Some(rom), true);
    }

    fn function_spec(&self) -> FunctionSpec {
        self.spec()
    }

    fn clone_pci(&self) -> Box<dyn AnyPci> {
        Box::new(self.clone())
    }

    fn as_config(&self) -> &dyn AnyConfig {
        self
    }

    fn as_config_mut(&mut self) -> &mut dyn AnyConfig {
        self
    }
}

/// An entry of a table of PCI functions that can be plugged.
#[derive(Clone, Copy)]
pub struct PciKind {
    /// The entry as a device.
    pub device: DeviceKind,
    /// A config with all defaults.
    pub config: fn() -> Box<dyn AnyPci>,
}

impl PciKind {
    /// The entry for a config type.
    pub const fn of<C: PciConfig + Default>() -> Self {
        PciKind { device: DeviceKind::of::<Pci<C>>(), config: || Box::new(Pci::<C>::default()) }
    }
}

impl fmt::Debug for PciKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.fmt(f)
    }
}

/// A built function.
struct Wrapper {
    kind: &'static str,
    function: Function,
    device: Box<dyn PciDevice>,
    /// The device's number for each region after the configuration space.
    map: Vec<usize>,
}

::device::state! {
    /// Saved state of a function, version 1.
    struct V1 { 1 => function: FunctionState, 2 => device: ::device::Bytes }
}

impl Wrapper {
    fn device_region(&self, region: usize) -> Option<usize> {
        self.map.get(region).copied()
    }
}

impl Device for Wrapper {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        if region == CONFIG_REGION {
            self.function.read_config(offset as usize, data);
            self.device.config_read(offset as usize, data);
            return Access::Ok;
        }
        let Some(region) = self.device_region(region) else { return Access::NoRegister };
        if region < FIXED && self.function.msix_read(region as u8, offset, data) {
            return Access::Ok;
        }
        self.device.read(region, offset, data)
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        if region == CONFIG_REGION {
            self.function.write_config(offset as usize, data);
            self.device.config_written(offset as usize, data.len());
            return Access::Ok;
        }
        let Some(region) = self.device_region(region) else { return Access::NoRegister };
        if region < FIXED && self.function.msix_write(region as u8, offset, data) {
            return Access::Ok;
        }
        self.device.write(region, offset, data)
    }

    fn reset(&mut self, kind: ResetKind) {
        // The bus first: what the device places after a reset stays.
        self.function.reset();
        self.device.reset(kind);
    }

    fn save(&self) -> StateBlob {
        // The device first: what it finishes may interrupt.
        let device = ::device::Bytes(self.device.save().to_bytes());
        StateBlob::new(self.kind, 1, &V1 { function: self.function.save(), device })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let state: V1 = state.decode(self.kind, 1)?;
        self.function.check(&state.function).map_err(|e| e.within("function"))?;
        let device = StateBlob::from_bytes(&state.device.0).map_err(|e| e.within("device"))?;
        // The device sees the configuration it was saved with; one that refuses its state gets the old one back.
        let before = self.function.save();
        self.function.restore(&state.function);
        self.device.config_restored();
        if let Err(e) = self.device.restore(&device) {
            self.function.restore(&before);
            self.device.config_restored();
            return Err(e.within("device"));
        }
        Ok(())
    }

    fn timer(&mut self, id: usize) {
        self.device.timer(id);
    }

    fn wake(&mut self, id: usize) {
        self.device.wake(id);
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        self.device.line_in(pin, level);
    }

    fn quiesce(&mut self) {
        self.device.quiesce();
    }

    fn resume(&mut self) {
        self.device.resume();
    }

    fn char_receiver(&mut self, slot: usize) -> Option<&mut dyn CharReceiver> {
        self.device.char_receiver(slot)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        self.device.display()
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        self.device.as_any()
    }
}
