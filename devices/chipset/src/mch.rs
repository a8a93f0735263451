//! Intel 82Q35 (MCH), function 0: memory controller and host bridge of the Q35 chipset (datasheet 317607, chapter 5.1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use device::{
    Access, BuildError, Device, Properties, Property, PropertyError, ResetKind, StateBlob, StateError, Wires,
};
use guest_memory::{AddressSpace, MemoryError, Region, RegionId};
use pci::config_space::{ConfigSpace, command, reg, touches};
use pci::{ECAM_BUS, Fabric, Function, FunctionSpec, INTEL, PciConfig, PciDevice, class, ecam};

use crate::memory::{LowMemory, PAM_COUNT, Smram, lock_smram};

/// Where the guest has put the memory-mapped configuration space: base and size, 0 if nowhere. For those who describe the
/// machine to it.
#[derive(Clone, Debug, Default)]
pub struct EcamPlace {
    base: Arc<AtomicU64>,
    size: Arc<AtomicU64>,
}

impl EcamPlace {
    /// Base and size, if it is anywhere.
    pub fn get(&self) -> Option<(u64, u64)> {
        let size = self.size.load(Ordering::Relaxed);
        (size != 0).then(|| (self.base.load(Ordering::Relaxed), size))
    }

    fn set(&self, place: Option<(u64, u64)>) {
        let (base, size) = place.unwrap_or_default();
        self.base.store(base, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
    }
}

/// The host bridge.
#[derive(Clone, Debug, Default)]
pub struct MchConfig {
    /// The buses whose configuration spaces it maps.
    pub fabric: Option<Fabric>,
    /// Where it maps them.
    pub ecam: EcamPlace,
    /// End of the RAM below 4 GiB, where RAM for system management is taken from.
    pub low_ram: u64,
}

impl Properties for MchConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

const PCIEXBAR: usize = 0x60;
const PAM: usize = 0x90;
const SMRAM: usize = 0x9d;
const SMRAM_FRESH: u8 = 2;
const SMRAM_WRITABLE: u8 = 0x78;
/// Extended control: RAM at the top of memory, of which size; the RAM of the video memory at high addresses. The bits between
/// say that it is cached.
const EXTENDED: usize = 0x9e;
const EXTENDED_FRESH: u8 = 0x38;
const EXTENDED_WRITABLE: u8 = 0x87;
const TOP_ENABLE: u8 = 1;
const HIGH_ENABLE: u8 = 0x80;
/// What the sizes stand for; the fourth is of emulated machines, with RAM for many vCPUs, which say at [`TOP_SIZE`] how much.
const TOP_MIB: [u64; 4] = [1, 2, 8, TOP_EXTENDED_MIB];
const TOP_EXTENDED_MIB: u64 = 16;
/// A guest that writes ones reads how many MiB the fourth size is.
const TOP_SIZE: usize = 0x50;
/// What a lock freezes.
const LOCKED: &[(usize, u8)] = &[(SMRAM, SMRAM_WRITABLE), (EXTENDED, EXTENDED_WRITABLE)];
/// Above RAM and everything else: the chip decodes it first.
const PRIORITY: i32 = 2;

impl PciConfig for MchConfig {
    const KIND: &'static str = "mch";
    const HELP: &'static str = "Q35 memory controller and host bridge";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let mut spec = FunctionSpec::new(INTEL, 0x29c0, class::HOST_BRIDGE).pin(0);
        spec.always_master = true;
        spec
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.set_u16(reg::COMMAND, command::MEMORY | command::MASTER);
        // Enable, size, base above 64 MiB; up to 36 bits of address.
        space.set_u32(PCIEXBAR, 0xb000_0000);
        space.allow(PCIEXBAR, &[0x07, 0, 0, 0xfc, 0x0f, 0, 0, 0]);
        space.allow(PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        space.set_u8(SMRAM, SMRAM_FRESH);
        space.allow(SMRAM, &[SMRAM_WRITABLE]);
        space.own(SMRAM, &[SMRAM_WRITABLE]);
        space.set_u8(EXTENDED, EXTENDED_FRESH);
        space.allow(EXTENDED, &[EXTENDED_WRITABLE]);
        space.own(EXTENDED, &[EXTENDED_WRITABLE]);
        space.allow(TOP_SIZE, &[0xff; 2]);
        // Top of memory, scratch pad.
        space.allow(0xa0, &[0xff; 0x20]);
        space.allow(0xdc, &[0xff; 4]);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let memory = LowMemory::new(wires.spaces()).map_err(|e| wires.host_error(e.to_string()))?;
        let space = wires.spaces().map(|s| s.memory);
        self.ecam.set(None);
        Ok(Box::new(Mch {
            function,
            memory,
            locked: false,
            space,
            fabric: self.fabric,
            place: self.ecam,
            low_ram: self.low_ram,
            region: None,
        }))
    }
}

struct Mch {
    function: Function,
    memory: LowMemory,
    locked: bool,
    space: Option<AddressSpace>,
    fabric: Option<Fabric>,
    place: EcamPlace,
    low_ram: u64,
    /// The region that is mapped, and for which register value.
    region: Option<(RegionId, u64)>,
}

impl Mch {
    fn follow(&mut self) {
        let pam: [u8; PAM_COUNT] = std::array::from_fn(|i| self.function.config_u8(PAM + i));
        self.memory.set(pam, self.smram());
        let low = self.function.config_u32(PCIEXBAR);
        let value = u64::from(self.function.config_u32(PCIEXBAR + 4)) << 32 | u64::from(low);
        if let Err(e) = self.map(value) {
            tracing::warn!("PCI Express configuration space: {e}");
        }
    }

    fn smram(&self) -> Smram {
        let extended = self.function.config_u8(EXTENDED);
        let control = Smram::of(self.function.config_u8(SMRAM));
        let size = TOP_MIB[usize::from(extended >> 1 & 3)] << 20;
        let base = self.low_ram.checked_sub(size).filter(|base| *base >= 1 << 20);
        let top = base.filter(|_| control.enabled && extended & TOP_ENABLE != 0);
        Smram { high: extended & HIGH_ENABLE != 0, top: top.map(|base| (base, size)), ..control }
    }

    fn lock(&mut self) {
        self.function.with_config(|space| lock_smram(space, LOCKED, &mut self.locked));
    }

    fn map(&mut self, value: u64) -> Result<(), MemoryError> {
        let buses = match value >> 1 & 3 {
            0 => 256,
            1 => 128,
            _ => 64,
        };
        let size = buses * ECAM_BUS;
        let base = value & 0xf_fc00_0000 & !(size - 1);
        let on = value & 1 != 0;
        self.place.set(on.then_some((base, size)));
        let (Some(space), Some(fabric)) = (&self.space, &self.fabric) else { return Ok(()) };
        if self.region.map(|r| r.1) == on.then_some(value) {
            return Ok(());
        }
        let mut tx = space.update();
        if let Some((id, _)) = self.region.take() {
            tx.remove(id)?;
        }
        if on {
            let region = Region::io("pcie-mmcfg", size, ecam(fabric)).at(base).priority(PRIORITY);
            let root = tx.root();
            self.region = Some((tx.add(root, region)?, value));
        }
        tx.commit()
    }
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => locked: bool }
}

impl Device for Mch {
    fn read(&mut self, _region: usize, _offset: u64, _data: &mut [u8]) -> Access {
        Access::NoRegister
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Access {
        Access::NoRegister
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.locked = false;
        self.lock();
        self.follow();
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(MchConfig::KIND, 1, &V1 { locked: self.locked })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.locked = state.decode::<V1>(MchConfig::KIND, 1)?.locked;
        self.lock();
        self.follow();
        Ok(())
    }
}

impl PciDevice for Mch {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, SMRAM, 2) {
            self.lock();
        }
        if touches(at, len, TOP_SIZE, 2) {
            self.function.with_config(|space| {
                if space.u16(TOP_SIZE) == u16::MAX {
                    space.set_u16(TOP_SIZE, TOP_EXTENDED_MIB as u16);
                }
            });
        }
        let ours = [(PAM, PAM_COUNT), (SMRAM, 2), (PCIEXBAR, 8)];
        if ours.iter().any(|(of, size)| touches(at, len, *of, *size)) {
            self.follow();
        }
    }
}
