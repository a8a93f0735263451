//! Panic notifier as a PCI function (QEMU `docs/specs/pvpanic`): the register of the ISA one, in memory.

use device::{AccessRule, BuildError, DeviceConfig, Wires, device_config};
use pci::{BarKind, Function, FunctionSpec, PciConfig, PciDevice, REDHAT, class};

use crate::pvpanic::{Pvpanic, PvpanicConfig};

device_config! {
    /// Panic notifier on PCI.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PvpanicPciConfig {
        /// Events that are offered: 1 is panic, 2 is crash kernel loaded, 4 is shutdown.
        pub events: u8 = PvpanicConfig::default().events,
    }
}

impl PciConfig for PvpanicPciConfig {
    const KIND: &'static str = "pvpanic-pci";
    const HELP: &'static str = PvpanicConfig::HELP;

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(REDHAT, 0x0011, class::SYSTEM).pin(0).bar(0, 16, BarKind::Memory(AccessRule::BYTE))
    }

    fn build(self, _function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        Ok(Box::new(Pvpanic::new(self.events, wires.system())))
    }
}

impl PciDevice for Pvpanic {}

#[cfg(test)]
mod tests {
    use device::SystemRequest;
    use pci::test_bench::PciBench;

    use super::*;

    #[test]
    fn tells_of_a_panic_through_its_bar() {
        let b = PciBench::new(PvpanicPciConfig::default());
        assert_eq!(b.config_read(0, 4), 0x0011_1b36);
        b.enable();
        b.bar_write(0, 0, 1, 1);
        assert_eq!(b.take_requests(), [SystemRequest::Panic]);
    }

    #[test]
    fn passes_the_common_tests() {
        device::test_bench::check(pci::Pci::new(PvpanicPciConfig::default()));
    }
}
