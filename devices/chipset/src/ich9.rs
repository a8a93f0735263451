//! Intel 82801IB (ICH9), device 31: function 0, the LPC bridge with interrupt routing and power management, and function
//! 3, the SMBus controller (datasheet 316972-004, chapters 13 and 18).
//!
//! Input pins `pirq` 0 to 7 are PIRQA to PIRQH. Each goes to the I/O APIC's pin 16 + n (output row `gsi`), and by its
//! register to an ISA interrupt (output row `irq`) as well.
//!
//! Fixed regions of function 0: 0 the power management block, placed by the guest; 1 the SMI command and status at port
//! 0xb2; 2 the chipset configuration registers (RCBA), placed by the guest. The watchdog is part of the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use device::{
    Access, AccessRule, BuildError, Device, IrqLine, PinSpec, Properties, Property, PropertyError,
    PropertyValue, RegionSpec, ResetKind, StateBlob, StateError, Wires, device_config, le_fill, le_value,
};
use pci::config_space::{ConfigSpace, command, reg, touches};
use pci::{BarKind, FIXED, Function, FunctionSpec, INTEL, PciConfig, PciDevice, Place, class};

use crate::acpi::{Acpi, AcpiState, PM1_SIZE};
use crate::pirq::{ISA_IRQS, Pirq, UNROUTED};
use crate::tco::{Tco, TcoState, Wants};

/// What firmware and machine have agreed on about system management interrupts: firmware says what it wants, and what the
/// machine can do of it holds until the next reset.
#[derive(Clone, Debug, Default)]
pub struct SmiFeatures(Arc<AtomicU64>);

impl SmiFeatures {
    /// The SMI command port interrupts all processors.
    pub const BROADCAST: u64 = 1;

    /// Firmware asks for these; true if it gets them.
    pub fn negotiate(&self, wanted: u64) -> bool {
        let good = wanted & !Self::BROADCAST == 0;
        if good {
            self.0.store(wanted, Ordering::Relaxed);
        }
        good
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The LPC bridge.
#[derive(Clone, Debug, Default)]
pub struct Ich9LpcConfig {
    /// Whether writes to the SMI command port interrupt the processor.
    pub smm: bool,
    /// What firmware has been promised about it.
    pub features: SmiFeatures,
    /// The strap that forbids the watchdog to reset the machine.
    pub noreboot: bool,
}

impl Properties for Ich9LpcConfig {
    fn properties() -> Vec<Property> {
        vec![Property {
            name: "noreboot",
            ty: <bool as PropertyValue>::TYPE,
            default: PropertyValue::show(&false),
            help: "the watchdog does not reset the machine until the guest lets it",
        }]
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        if name != "noreboot" {
            return Err(PropertyError::Unknown { name: name.to_owned(), known: "noreboot".to_owned() });
        }
        let expected = <bool as PropertyValue>::TYPE;
        let bad = || PropertyError::Value { name: "noreboot", expected, value: value.to_owned() };
        self.noreboot = PropertyValue::parse(value).ok_or_else(bad)?;
        Ok(())
    }
}

const WIRES: usize = 8;
const PM_BASE: usize = 0x40;
const ACPI_CONTROL: usize = 0x44;
const ROUTES: [usize; 2] = [0x60, 0x68];
const RCBA: usize = 0xf0;
/// General power management configuration: system management interrupts cannot be turned off, and this bit stays.
const GEN_PMCON: usize = 0xa0;
const SMI_LOCK: u8 = 1 << 4;
const PM_SIZE: u64 = 128;
const GPE: u64 = 0x20;
const GPE_HALF: u64 = 8;
const SMI_ENABLE: u64 = 0x30;
const SMI_STATUS: u64 = 0x34;
/// SMI enable: the SMI command port.
const APMC_ENABLE: u32 = 1 << 5;
/// SMI enable: the watchdog.
const TCO_ENABLE: u32 = 1 << 13;
/// SMI enable: system management interrupts at all.
const GLOBAL_SMI: u32 = 1;
const RCBA_SIZE: u64 = 0x4000;
/// RCBA registers that say how pins of devices 25 to 31 are wired.
const DEVICE_ROUTES: std::ops::Range<u64> = 0x3140..0x3150;
/// RCBA: general control and status. The bit forbids the watchdog to reset the machine; a strap says what it is at first.
const GENERAL: std::ops::Range<u64> = 0x3410..0x3414;
const NO_REBOOT: u32 = 1 << 5;
/// Where the watchdog's registers are in the power management block.
const TCO: u64 = 0x60;
/// Timers: of the power management block, of the watchdog.
const PM_TIMER: usize = 0;
const TCO_TIMER: usize = 1;
/// Values of the SMI command port, as the FADT announces them.
const ACPI_ENABLE: u8 = 2;
const ACPI_DISABLE: u8 = 3;

impl PciConfig for Ich9LpcConfig {
    const KIND: &'static str = "ICH9-LPC";
    const HELP: &'static str = "ICH9 LPC bridge";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, 0x2918, class::ISA_BRIDGE).revision(2).pin(0)
    }

    fn fixed_regions(&self) -> Vec<RegionSpec> {
        vec![
            RegionSpec::new("pm", PM_SIZE, AccessRule::UP_TO_4),
            RegionSpec::new("apm", 2, AccessRule::BYTE),
            RegionSpec::new("rcba", RCBA_SIZE, AccessRule::UP_TO_4),
        ]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("pirq", WIRES), PinSpec::one("power_button"), PinSpec::row("gpe", 16)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        let rows = [PinSpec::row("irq", ISA_IRQS), PinSpec::row("gsi", WIRES)];
        let single = ["sci", "smi", "smi_others"].map(PinSpec::one);
        rows.into_iter().chain(single).collect()
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.set_u16(reg::COMMAND, command::IO | command::MEMORY | command::MASTER);
        space.set_u16(reg::STATUS, 0x0200);
        space.set_u8(PM_BASE, 1);
        space.allow(PM_BASE, &[0x80, 0xff]);
        space.allow(ACPI_CONTROL, &[0x87]);
        for routes in ROUTES {
            space.set(routes, &[UNROUTED; 4]);
            space.allow(routes, &[0x8f; 4]);
        }
        // Serial interrupts; decoding of ports; power management configuration.
        space.set_u8(0x64, 0x10);
        space.allow(0x64, &[0xff]);
        space.allow(0x80, &[0xff; 0x18]);
        space.allow(GEN_PMCON, &[0xff; 0x10]);
        space.own(GEN_PMCON, &[SMI_LOCK]);
        space.allow(0xd0, &[0xff; 0x10]);
        space.allow(RCBA, &[1, 0xc0, 0xff, 0xff]);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let acpi = Acpi::new(wires, PM_TIMER);
        let tco = Tco::new(wires, TCO_TIMER);
        let general = if self.noreboot { NO_REBOOT } else { 0 };
        let smi_enable = if self.smm { 0 } else { APMC_ENABLE };
        Ok(Box::new(Ich9Lpc {
            function,
            acpi,
            tco,
            strap: general,
            general,
            pirq: Pirq::new(wires),
            gsi: wires.lines("gsi", WIRES),
            smi: wires.line("smi"),
            smi_others: wires.line("smi_others"),
            features: self.features,
            smi_fresh: smi_enable,
            smi_enable,
            apm: [0; 2],
        }))
    }
}

struct Ich9Lpc {
    function: Function,
    acpi: Acpi,
    tco: Tco,
    /// General control and status, and what it is after reset.
    general: u32,
    strap: u32,
    pirq: Pirq<WIRES>,
    gsi: Vec<IrqLine>,
    /// To the first processor, and to the others.
    smi: IrqLine,
    smi_others: IrqLine,
    features: SmiFeatures,
    /// SMI enable after reset: firmware takes a set bit for the mark that system management mode needs no set-up.
    smi_fresh: u32,
    smi_enable: u32,
    /// Command and status.
    apm: [u8; 2],
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => acpi: AcpiState, 2 => command: u8, 3 => status: u8, 4 => smi_enable: u32, 5 => levels: u8, 6 => features: u64, 7 => tco: TcoState, 8 => general: u32 }
}

impl Ich9Lpc {
    fn routes(&self) -> [u8; WIRES] {
        std::array::from_fn(|i| self.function.config_u8(ROUTES[i / 4] + i % 4))
    }

    fn smi_locked(&self) -> bool {
        self.function.config_u8(GEN_PMCON) & SMI_LOCK != 0
    }

    /// The lock, once set, cannot be written.
    fn lock_smi(&self) {
        let writable = if self.smi_locked() { !SMI_LOCK } else { 0xff };
        self.function.with_config(|space| space.allow(GEN_PMCON, &[writable]));
    }

    fn tco_wants(&self, wants: Wants) {
        let on = TCO_ENABLE | GLOBAL_SMI;
        if wants == Wants::Smi && self.smi_enable & on == on {
            self.smi.pulse();
        }
    }

    fn place(&self) {
        let on = self.function.config_u8(ACPI_CONTROL) & 0x80 != 0;
        let base = self.function.config_u16(PM_BASE) & 0xff80;
        self.function.place(0, (on && base != 0).then_some(Place::Ports(base)));
        let rcba = self.function.config_u32(RCBA);
        let base = u64::from(rcba & !0x3fff);
        self.function.place(2, (rcba & 1 != 0).then_some(Place::Memory(base)));
    }
}

impl Device for Ich9Lpc {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        data.fill(0);
        match (region - FIXED, offset) {
            (0, 0..PM1_SIZE) => return self.acpi.read(offset, data),
            (0, GPE..SMI_ENABLE) => self.acpi.read_gpe(offset - GPE, GPE_HALF, data),
            (0, SMI_ENABLE..SMI_STATUS) => {
                le_fill(data, (self.smi_enable >> (8 * (offset - SMI_ENABLE))).into())
            }
            (0, TCO..PM_SIZE) => return self.tco.read(offset - TCO, data),
            (1, _) => le_fill(data, self.apm[offset as usize & 1].into()),
            (2, _) if GENERAL.contains(&offset) => {
                le_fill(data, (self.general >> (8 * (offset - GENERAL.start))).into());
            }
            // Pins A to D of these devices are wires A to D.
            (2, _) if DEVICE_ROUTES.contains(&offset) => {
                let at = offset as usize & 1;
                data.iter_mut().enumerate().for_each(|(i, byte)| *byte = [0x10, 0x32][(at + i) & 1]);
            }
            _ => {}
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match (region - FIXED, offset) {
            (0, 0..PM1_SIZE) => return self.acpi.write(offset, data),
            (0, GPE..SMI_ENABLE) => self.acpi.write_gpe(offset - GPE, GPE_HALF, data),
            (0, SMI_ENABLE) if data.len() == 4 => {
                let kept = if self.smi_locked() { self.smi_enable & GLOBAL_SMI } else { 0 };
                let value = le_value(data) as u32 | kept;
                let held = if self.tco.is_locked() { TCO_ENABLE } else { 0 };
                self.smi_enable = value & !held | self.smi_enable & held;
            }
            (0, TCO..PM_SIZE) => {
                let wants = self.tco.write(offset - TCO, data);
                self.tco_wants(wants);
            }
            // Its only bit that matters is in the first byte.
            (2, _) if offset == GENERAL.start => self.general = le_value(data) as u32 & NO_REBOOT,
            (1, _) => {
                let value = le_value(data) as u8;
                self.apm[offset as usize & 1] = value;
                if offset == 0 {
                    match value {
                        ACPI_ENABLE => self.acpi.set_enabled(true),
                        ACPI_DISABLE => self.acpi.set_enabled(false),
                        _ => {}
                    }
                    if self.smi_enable & (APMC_ENABLE | GLOBAL_SMI) == APMC_ENABLE | GLOBAL_SMI {
                        self.smi.pulse();
                        if self.features.get() & SmiFeatures::BROADCAST != 0 {
                            self.smi_others.pulse();
                        }
                    }
                }
            }
            _ => {}
        }
        Access::Ok
    }

    fn reset(&mut self, kind: ResetKind) {
        self.acpi.reset(kind);
        self.tco.reset();
        self.general = self.strap;
        self.apm = [0; 2];
        self.smi_enable = self.smi_fresh;
        self.features.negotiate(0);
        self.lock_smi();
        self.gsi.iter().for_each(|line| line.set(false));
        self.pirq.reset(self.routes());
    }

    fn timer(&mut self, id: usize) {
        if id == TCO_TIMER {
            let wants = self.tco.expired(self.general & NO_REBOOT != 0);
            self.tco_wants(wants);
        } else {
            self.acpi.expired();
        }
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        if let Some(line) = self.gsi.get(pin) {
            line.set(level);
            self.pirq.set_level(pin, level);
        } else if level && pin == WIRES {
            self.acpi.press();
        } else if level {
            self.acpi.raise_gpe((pin - WIRES - 1) as u32);
        }
    }

    fn save(&self) -> StateBlob {
        let state = V1 {
            acpi: self.acpi.save(),
            command: self.apm[0],
            status: self.apm[1],
            smi_enable: self.smi_enable,
            levels: self.pirq.save(),
            features: self.features.get(),
            tco: self.tco.save(),
            general: self.general,
        };
        StateBlob::new(Ich9LpcConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(Ich9LpcConfig::KIND, 1)?;
        Acpi::check(&s.acpi).map_err(|e| e.within("acpi"))?;
        if !self.features.negotiate(s.features) {
            return Err(StateError::new("features", "expected at most 1"));
        }
        Tco::check(&s.tco).map_err(|e| e.within("tco"))?;
        self.acpi.restore(s.acpi);
        self.tco.restore(s.tco);
        self.general = s.general & NO_REBOOT;
        self.apm = [s.command, s.status];
        self.smi_enable = s.smi_enable;
        let routes = self.routes();
        self.pirq.restore(s.levels, routes);
        self.gsi.iter().enumerate().for_each(|(i, line)| line.import(s.levels >> i & 1 != 0));
        self.place();
        self.lock_smi();
        Ok(())
    }
}

impl PciDevice for Ich9Lpc {
    fn config_written(&mut self, at: usize, len: usize) {
        if touches(at, len, GEN_PMCON, 1) {
            self.lock_smi();
        }
        if ROUTES.iter().any(|routes| touches(at, len, *routes, 4)) {
            self.pirq.set_routes(self.routes());
        }
        if [(PM_BASE, 5), (RCBA, 4)].iter().any(|(of, size)| touches(at, len, *of, *size)) {
            self.place();
        }
    }
}

device_config! {
    /// The SMBus controller. No device stands on its bus: every transfer ends with an error.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Ich9SmbusConfig {}
}

const SMBUS_STATUS: u64 = 0;
const SMBUS_CONTROL: u64 = 2;
const SMBUS_START: u8 = 1 << 6;
/// Status: done, but nobody has answered.
const SMBUS_NO_ANSWER: u8 = 1 << 2;
const SMBUS_SIZE: u64 = 32;

impl PciConfig for Ich9SmbusConfig {
    const KIND: &'static str = "ICH9-SMB";
    const HELP: &'static str = "ICH9 SMBus controller";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let kind = BarKind::Ports(AccessRule::UP_TO_4);
        FunctionSpec::new(INTEL, 0x2930, class::SMBUS).revision(2).bar(4, SMBUS_SIZE, kind)
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.allow(0x40, &[0xff]);
    }

    fn build(self, _function: Function, _wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        Ok(Box::new(Ich9Smbus { registers: [0; SMBUS_SIZE as usize] }))
    }
}

struct Ich9Smbus {
    registers: [u8; SMBUS_SIZE as usize],
}

device::state! {
    /// Saved state, version 1.
    struct Smbus1 { 1 => registers: [u8; 32] }
}

impl Device for Ich9Smbus {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let at = |i: usize| self.registers.get(offset as usize + i).copied().unwrap_or(0);
        data.iter_mut().enumerate().for_each(|(i, byte)| *byte = at(i));
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        for (at, &byte) in (offset..).zip(data) {
            let Some(register) = self.registers.get_mut(at as usize) else { break };
            match at {
                SMBUS_STATUS => *register &= !byte,
                _ => *register = byte,
            }
            if at == SMBUS_CONTROL && byte & SMBUS_START != 0 {
                self.registers[SMBUS_CONTROL as usize] &= !SMBUS_START;
                self.registers[SMBUS_STATUS as usize] |= SMBUS_NO_ANSWER;
            }
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.registers = [0; SMBUS_SIZE as usize];
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(Ich9SmbusConfig::KIND, 1, &Smbus1 { registers: self.registers })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.registers = state.decode::<Smbus1>(Ich9SmbusConfig::KIND, 1)?.registers;
        Ok(())
    }
}

impl PciDevice for Ich9Smbus {}
