//! Intel 82371SB (PIIX3), function 0: the ISA bridge (datasheet 290550-002). Its DMA controllers, timers and interrupt
//! controllers are devices of their own; here is the routing of PCI interrupts.

use device::{Access, BuildError, Device, PinSpec, ResetKind, StateBlob, StateError, Wires, device_config};
use pci::config_space::{ConfigSpace, command, reg, touches};
use pci::{Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

use crate::pirq::{ISA_IRQS, Pirq, UNROUTED};

device_config! {
    /// The ISA bridge.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Piix3Config {}
}

const ROUTES: usize = 0x60;
const WIRES: usize = 4;

impl PciConfig for Piix3Config {
    const KIND: &'static str = "PIIX3";
    const HELP: &'static str = "PIIX3 PCI to ISA bridge";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, 0x7000, class::ISA_BRIDGE).pin(0)
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("pirq", WIRES)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("irq", ISA_IRQS)]
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.set_u16(reg::COMMAND, command::IO | command::MEMORY | command::MASTER);
        space.set_u16(reg::STATUS, 0x0200);
        // I/O recovery, X-bus select, top of memory, motherboard interrupts, DMA, APIC base.
        for (at, value) in
            [(0x4c, 0x4d), (0x4e, 0x03), (0x69, 0x02), (0x70, 0x80), (0x76, 0x0c), (0x77, 0x0c)]
        {
            space.set_u8(at, value);
        }
        for (at, value) in [(0x78, 0x02), (0xa0, 0x08), (0xa8, 0x0f)] {
            space.set_u8(at, value);
        }
        space.allow(0x4c, &[0xff; 4]);
        space.allow(0x69, &[0xff]);
        space.allow(0x70, &[0xff; 0x13]);
        space.allow(0xa0, &[0xff; 0x10]);
        space.set(ROUTES, &[UNROUTED; WIRES]);
        space.allow(ROUTES, &[0x8f; WIRES]);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        Ok(Box::new(Piix3 { function, pirq: Pirq::new(wires) }))
    }
}

struct Piix3 {
    function: Function,
    pirq: Pirq<WIRES>,
}

impl Piix3 {
    fn routes(&self) -> [u8; WIRES] {
        std::array::from_fn(|i| self.function.config_u8(ROUTES + i))
    }
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => levels: u8 }
}

impl Device for Piix3 {
    fn read(&mut self, _region: usize, _offset: u64, _data: &mut [u8]) -> Access {
        Access::NoRegister
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Access {
        Access::NoRegister
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.pirq.reset(self.routes());
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        self.pirq.set_level(pin, level);
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(Piix3Config::KIND, 1, &V1 { levels: self.pirq.save() })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let state: V1 = state.decode(Piix3Config::KIND, 1)?;
        StateError::at_most("levels", state.levels, 15)?;
        let routes = self.routes();
        self.pirq.restore(state.levels, routes);
        Ok(())
    }
}

impl PciDevice for Piix3 {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, ROUTES, WIRES) {
            self.pirq.set_routes(self.routes());
        }
    }
}
