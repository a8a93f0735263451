//! Intel 82371AB (PIIX4), function 3: power management (datasheet 290562-001, chapter 7). PC boards have had it beside the
//! PIIX3, which has none.
//!
//! Fixed regions: 0 the power management block, placed by the guest; 1 the general-purpose events at port 0xafe0; 2 the SMI
//! command and status at port 0xb2. The guest sees events of hot-plugged devices in the general-purpose block.

use device::{
    Access, AccessRule, BuildError, Device, IrqLine, PinSpec, RegionSpec, ResetKind, StateBlob, StateError,
    Wires, device_config, le_fill, le_value,
};
use pci::config_space::{ConfigSpace, reg, touches};
use pci::{FIXED, Function, FunctionSpec, INTEL, PciConfig, PciDevice, Place, class};

use crate::acpi::{Acpi, AcpiState, PM1_SIZE};

device_config! {
    /// The power management function.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Piix4PmConfig {
        /// Whether writes to the SMI command port interrupt the processor.
        pub smm: bool = false,
    }
}

const PM_BASE: usize = 0x40;
/// Device activity: SMI command port enabled.
const DEVICE_B: usize = 0x58;
const APMC_ENABLE: u32 = 1 << 25;
const PM_MISC: usize = 0x80;
const PM_SIZE: u64 = 64;
/// Half of the general-purpose block.
const GPE_HALF: u64 = 2;
/// Values of the SMI command port, as the FADT announces them.
const ACPI_ENABLE: u8 = 0xf1;
const ACPI_DISABLE: u8 = 0xf0;

impl PciConfig for Piix4PmConfig {
    const KIND: &'static str = "PIIX4_PM";
    const HELP: &'static str = "PIIX4 power management";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, 0x7113, class::OTHER_BRIDGE).revision(3).pin(1)
    }

    fn fixed_regions(&self) -> Vec<RegionSpec> {
        vec![
            RegionSpec::new("pm", PM_SIZE, AccessRule::UP_TO_4),
            RegionSpec::new("gpe0", 2 * GPE_HALF, AccessRule::UP_TO_4),
            RegionSpec::new("apm", 2, AccessRule::BYTE),
        ]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("power_button"), PinSpec::row("gpe", 16)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("sci"), PinSpec::one("smi")]
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.set_u16(reg::STATUS, 0x0280);
        space.allow(reg::COMMAND, &[0x01, 0x00]);
        space.set_u8(PM_BASE, 1);
        space.allow(PM_BASE, &[0xc0, 0xff]);
        space.set_u8(0x90, 1);
        space.allow(0x90, &[0xf0, 0xff]);
        space.allow(DEVICE_B, &[0xff; 4]);
        if !self.smm {
            // Firmware takes this for the mark that system management mode is set up already.
            space.set_u32(DEVICE_B, APMC_ENABLE);
        }
        space.allow(PM_MISC, &[0xff]);
        space.allow(0xd2, &[0xff]);
        // Serial and parallel ports are there.
        space.set_u8(0x5f, 0x10);
        space.set_u8(0x63, 0x60);
        space.set_u8(0x67, 0x98);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let acpi = Acpi::new(wires, 0);
        Ok(Box::new(Piix4Pm { function, acpi, smi: wires.line("smi"), apm: [0; 2] }))
    }
}

struct Piix4Pm {
    function: Function,
    acpi: Acpi,
    smi: IrqLine,
    /// Command and status.
    apm: [u8; 2],
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => acpi: AcpiState, 2 => command: u8, 3 => status: u8 }
}

impl Piix4Pm {
    fn place(&self) {
        let on = self.function.config_u8(PM_MISC) & 1 != 0;
        let base = self.function.config_u16(PM_BASE) & 0xffc0;
        self.function.place(0, (on && base != 0).then_some(Place::Ports(base)));
    }
}

impl Device for Piix4Pm {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        match region - FIXED {
            0 if offset < PM1_SIZE => return self.acpi.read(offset, data),
            1 => self.acpi.read_gpe(offset, GPE_HALF, data),
            2 => le_fill(data, self.apm[offset as usize & 1].into()),
            _ => data.fill(0),
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match region - FIXED {
            0 if offset < PM1_SIZE => return self.acpi.write(offset, data),
            1 => self.acpi.write_gpe(offset, GPE_HALF, data),
            2 => {
                let value = le_value(data) as u8;
                self.apm[offset as usize & 1] = value;
                if offset == 0 {
                    match value {
                        ACPI_ENABLE => self.acpi.set_enabled(true),
                        ACPI_DISABLE => self.acpi.set_enabled(false),
                        _ => {}
                    }
                    if self.function.config_u32(DEVICE_B) & APMC_ENABLE != 0 {
                        self.smi.pulse();
                    }
                }
            }
            _ => {}
        }
        Access::Ok
    }

    fn reset(&mut self, kind: ResetKind) {
        self.acpi.reset(kind);
        self.apm = [0; 2];
    }

    fn timer(&mut self, _id: usize) {
        self.acpi.expired();
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        match (pin, level) {
            (0, true) => self.acpi.press(),
            (gpe, true) => self.acpi.raise_gpe(gpe as u32 - 1),
            _ => {}
        }
    }

    fn save(&self) -> StateBlob {
        let state = V1 { acpi: self.acpi.save(), command: self.apm[0], status: self.apm[1] };
        StateBlob::new(Piix4PmConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(Piix4PmConfig::KIND, 1)?;
        Acpi::check(&s.acpi).map_err(|e| e.within("acpi"))?;
        self.acpi.restore(s.acpi);
        self.apm = [s.command, s.status];
        self.place();
        Ok(())
    }
}

impl PciDevice for Piix4Pm {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, PM_BASE, 4) || touches(at, len, PM_MISC, 1) {
            self.place();
        }
    }
}
