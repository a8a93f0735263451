//! Intel 82441FX, the memory controller and host bridge of the i440FX chipset (datasheet 290549-001).

use device::{Access, BuildError, Device, ResetKind, StateBlob, StateError, Wires, device_config};
use pci::config_space::{ConfigSpace, command, reg, touches};
use pci::{Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

use crate::memory::{LowMemory, PAM_COUNT, Smram, lock_smram};

device_config! {
    /// The host bridge.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct I440fxConfig {}
}

const PAM: usize = 0x59;
const SMRAM: usize = 0x72;
/// SMRAM after reset: at the video memory, which the base field says for ever.
const SMRAM_FRESH: u8 = 2;
const SMRAM_WRITABLE: u8 = 0x78;
/// What a lock freezes.
const LOCKED: &[(usize, u8)] = &[(SMRAM, SMRAM_WRITABLE)];

impl PciConfig for I440fxConfig {
    const KIND: &'static str = "i440FX";
    const HELP: &'static str = "i440FX memory controller and host bridge";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let mut spec = FunctionSpec::new(INTEL, 0x1237, class::HOST_BRIDGE).revision(2).pin(0);
        spec.always_master = true;
        spec
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.set_u16(reg::COMMAND, command::MEMORY | command::MASTER);
        space.allow(PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        space.set_u8(SMRAM, SMRAM_FRESH);
        space.allow(SMRAM, &[SMRAM_WRITABLE]);
        space.own(SMRAM, &[SMRAM_WRITABLE]);
        // DRAM registers that firmware sizes memory with on the real chip.
        space.allow(0x50, &[0xff; 9]);
        space.allow(0x60, &[0xff; 16]);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let memory = LowMemory::new(wires.spaces()).map_err(|e| wires.host_error(e.to_string()))?;
        Ok(Box::new(I440fx { function, memory, locked: false }))
    }
}

struct I440fx {
    function: Function,
    memory: LowMemory,
    locked: bool,
}

impl I440fx {
    fn follow(&mut self) {
        let pam: [u8; PAM_COUNT] = std::array::from_fn(|i| self.function.config_u8(PAM + i));
        self.memory.set(pam, Smram::of(self.function.config_u8(SMRAM)));
    }

    fn lock(&mut self) {
        self.function.with_config(|space| lock_smram(space, LOCKED, &mut self.locked));
    }
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => locked: bool }
}

impl Device for I440fx {
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
        StateBlob::new(I440fxConfig::KIND, 1, &V1 { locked: self.locked })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.locked = state.decode::<V1>(I440fxConfig::KIND, 1)?.locked;
        self.lock();
        self.follow();
        Ok(())
    }
}

impl PciDevice for I440fx {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, SMRAM, 1) {
            self.lock();
        }
        if touches(at, len, PAM, PAM_COUNT) || touches(at, len, SMRAM, 1) {
            self.follow();
        }
    }
}
