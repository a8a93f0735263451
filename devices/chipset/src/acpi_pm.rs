//! The ACPI fixed hardware on its own, for boards without a chipset that has it (ACPI Specification 6.5, chapter 4.8).
//!
//! There is no legacy mode and no SMI command port: the operating system owns the block from the start. Region 0 is event block,
//! control block and timer, in that order.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, PinSpec, RegionSpec, ResetKind, StateBlob,
    StateError, Wires, device_config,
};

use crate::acpi::{Acpi, AcpiState, PM1_SIZE};

device_config! {
    /// ACPI power management registers.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AcpiPmConfig {}
}

impl DeviceConfig for AcpiPmConfig {
    const KIND: &'static str = "acpi-pm";
    const HELP: &'static str = "ACPI power management registers";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("pm", PM1_SIZE, AccessRule::UP_TO_4)]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("power_button")]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("sci")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let mut acpi = Acpi::new(wires, 0);
        acpi.set_enabled(true);
        Ok(Box::new(AcpiPm { acpi }))
    }
}

struct AcpiPm {
    acpi: Acpi,
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => acpi: AcpiState }
}

impl Device for AcpiPm {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        self.acpi.read(offset, data)
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let done = self.acpi.write(offset, data);
        self.acpi.set_enabled(true);
        done
    }

    fn line_in(&mut self, _pin: usize, level: bool) {
        if level {
            self.acpi.press();
        }
    }

    fn timer(&mut self, _id: usize) {
        self.acpi.expired();
    }

    fn reset(&mut self, kind: ResetKind) {
        self.acpi.reset(kind);
        self.acpi.set_enabled(true);
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(AcpiPmConfig::KIND, 1, &V1 { acpi: self.acpi.save() })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(AcpiPmConfig::KIND, 1)?;
        Acpi::check(&s.acpi)?;
        self.acpi.restore(s.acpi);
        Ok(())
    }
}
