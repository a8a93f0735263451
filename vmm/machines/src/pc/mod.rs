//! PCs: `pc` (i440FX and PIIX3, conventional PCI), `q35` (Q35 and ICH9, PCI Express) and `isapc` (no PCI at all).
//!
//! The boards follow the chipsets' manuals where guests look and QEMU's machines of these names where firmware does:
//! slots of the chipset, ports, fw_cfg items, ACPI and SMBIOS tables. Firmware is SeaBIOS or, in flash, OVMF, as
//! distributions package them.

pub(crate) mod acpi;
mod boot_rom;
mod cpu_hotplug;
mod dsdt;
mod firmware;
mod flat_rom;
mod fw_cfg;
pub(crate) mod pci;
mod pci_hotplug;
mod smbios;

use ::pci::{AnyPci, Fabric, MEMORY_CONTAINER, Pci, PciHostConfig};
use accel::arch::GuestArch;
use chipset::{
    CpuHotplugConfig, EcamPlace, I440fxConfig, Ich9LpcConfig, Ich9SmbusConfig, MchConfig, PciHotplugConfig,
    Piix3Config, Piix4PmConfig, SmiFeatures,
};
use display::{CirrusConfig, IsaVgaConfig, VgaConfig};
use guest_memory::Unassigned;
use input::I8042Config;
use machine::{Board, Dest, MachineError};
use misc::Port92Config;
use serial::Ns16550Config;
use storage::{
    AHCI_PORTS, AhciConfig, FloppyConfig, IDE_IRQS, IDE_PORTS, IsaDma, IsaDmaConfig, IsaIdeConfig,
    Piix3IdeConfig,
};
use timer::CmosRtcConfig;

use self::pci::Slots;
use crate::cpus::CONTROLLER;
use crate::x86::{Controllers, FOUR_GIB, device_pin, switch};
use crate::{BoardConfig, BoardKind, BootDrive, VgaCard};

/// First port of the firmware configuration device.
const FW_CFG: u16 = 0x510;
/// ACPI's interrupt.
const SCI: u16 = 9;
/// Serial ports: first port and interrupt.
const SERIAL: [(u16, usize); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
/// Video memory, and what is behind it.
const WINDOW: u64 = 0xa_0000;
const UPPER: u64 = 0xc_0000;
const KEYBOARD_IRQ: usize = 1;
const MOUSE_IRQ: usize = 12;
const FLOPPY_IRQ: usize = 6;
/// Ports of the power management blocks.
const APM: u16 = 0xb2;
const PIIX4_GPE: u16 = 0xafe0;
/// The hot plug controller of the i440FX board: its name, its ports, its general-purpose event.
pub(crate) const HOTPLUG: &str = "pci-hotplug";
const PCI_HOTPLUG: u16 = 0xae00;
const PCI_GPE: usize = 1;
/// The controller of processors that come and go: its ports, its general-purpose event.
const CPU_HOTPLUG: [(Chipset, u16); 2] = [(Chipset::I440fx, 0xaf00), (Chipset::Q35, 0xcd8)];
const CPU_GPE: usize = 2;
/// Where firmware places the power management block.
const PM_BASE: u16 = 0x600;

/// The chipsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chipset {
    I440fx,
    Q35,
}

/// A board with its chipset, if it has PCI.
struct Model {
    name: &'static str,
    chipset: Option<Chipset>,
}

/// Levels of the topology beside sockets, cores and threads.
const LEVELS: &[&str] = &["dies", "modules"];

const PROPERTIES: &[(&str, &str)] = &[
    ("acpi", "on or off: ACPI tables and power management (default on)"),
    ("smm", "on, off or auto: system management mode (default auto: if the accelerator has it)"),
    ("hpet", "on or off: high precision event timer (default off)"),
    ("vmport", "off: there is no VMware port (default off)"),
    ("i8042", "on or off: keyboard controller (default on)"),
    ("max-ram-below-4g", "bytes of RAM below 4 GiB at most"),
    ("pflash0", "block node with the contents of the first flash chip, the firmware"),
    ("pflash1", "block node with the contents of the second flash chip, the firmware's variables"),
];

/// The i440FX board.
pub const PC: BoardKind = BoardKind {
    name: "pc",
    help: "Standard PC (i440FX + PIIX, 1996)",
    archs: &[GuestArch::X86_64],
    default_ram: 128 << 20,
    max_vcpus: 255,
    levels: LEVELS,
    cpu_hotplug: true,
    properties: PROPERTIES,
    isa: true,
    pci: true,
    nic: "e1000",
    ide: 4,
    floppy: true,
    vga: true,
    flash: firmware::CHIPS,
    fw_cfg: true,
    build: |c| build(&Model { name: "pc", chipset: Some(Chipset::I440fx) }, &PC, c),
};

/// The Q35 board.
pub const Q35: BoardKind = BoardKind {
    name: "q35",
    help: "Standard PC (Q35 + ICH9, 2009)",
    archs: &[GuestArch::X86_64],
    default_ram: 128 << 20,
    max_vcpus: 255,
    levels: LEVELS,
    cpu_hotplug: true,
    properties: PROPERTIES,
    isa: true,
    pci: true,
    nic: "e1000e",
    ide: AHCI_PORTS,
    floppy: true,
    vga: true,
    flash: firmware::CHIPS,
    fw_cfg: true,
    build: |c| build(&Model { name: "q35", chipset: Some(Chipset::Q35) }, &Q35, c),
};

/// The board without PCI.
pub const ISAPC: BoardKind = BoardKind {
    name: "isapc",
    help: "ISA-only PC",
    archs: &[GuestArch::X86_64],
    default_ram: 128 << 20,
    max_vcpus: 1,
    levels: LEVELS,
    cpu_hotplug: false,
    properties: PROPERTIES,
    isa: true,
    pci: false,
    nic: "ne2k_isa",
    ide: 4,
    floppy: true,
    vga: true,
    flash: 0,
    fw_cfg: true,
    build: |c| build(&Model { name: "isapc", chipset: None }, &ISAPC, c),
};

impl Model {
    fn bad<T>(&self, what: impl std::fmt::Display) -> Result<T, MachineError> {
        Err(MachineError::Board(format!("{}: {what}", self.name)))
    }

    fn switch(&self, c: &BoardConfig, name: &str, default: bool) -> Result<bool, MachineError> {
        switch(c, self.name, name, default)
    }

    /// End of the RAM below 4 GiB.
    fn low_ram(&self, c: &BoardConfig) -> Result<u64, MachineError> {
        let (room, split) = match self.chipset {
            Some(Chipset::Q35) => (0xb000_0000, 0x8000_0000),
            Some(Chipset::I440fx) => (0xe000_0000, 0xc000_0000),
            None => (0xe000_0000, 0xe000_0000),
        };
        let most = match c.properties.iter().rev().find(|(k, _)| k == "max-ram-below-4g") {
            None => room,
            Some((_, text)) => match control_size(text) {
                Some(n) if (1 << 20..=room).contains(&n) => n,
                _ => return self.bad(format!("max-ram-below-4g: expected 1M to {room:#x}, got '{text}'")),
            },
        };
        Ok(if c.ram <= most { c.ram } else { split.min(most) })
    }
}

/// A number with an optional binary suffix.
fn control_size(text: &str) -> Option<u64> {
    <u64 as device::PropertyValue>::parse(text)
}

/// What a board is made of, while it is recorded.
struct Layout {
    low: u64,
    controllers: Controllers,
    ecam: EcamPlace,
    /// There is system management mode.
    smm: bool,
    smi_features: SmiFeatures,
}

fn build(model: &Model, kind: &BoardKind, c: &BoardConfig) -> Result<Board, MachineError> {
    kind.check(c)?;
    if c.ram < 1 << 20 || c.ram > 1 << 40 || !c.ram.is_multiple_of(4096) {
        return model.bad(format!("{} bytes of RAM; 1 MiB to 1 TiB in pages of 4096 are possible", c.ram));
    }
    if model.switch(c, "vmport", false)? {
        return model.bad("vmport=on is not possible: it has no VMware port");
    }
    let smm = model.switch(c, "smm", c.smm)?;
    if smm && !c.smm {
        return model.bad("smm=on is not possible: the accelerator has no system management mode");
    }
    let low = model.low_ram(c)?;
    if model.chipset.is_none() && c.ram > low {
        return model.bad(format!("{} MiB of RAM; up to {} are possible", c.ram >> 20, low >> 20));
    }
    let mut b = Board::new(model.name, c.arch, Unassigned::Ones);
    b.with_ports().cpus(c.present.clone());
    b.container(MEMORY_CONTAINER);
    if model.chipset.is_none() && low > UPPER {
        // Nothing could take the RAM away from where video memory is.
        b.ram("ram", 0, WINDOW, c.ram_config.clone());
        b.ram("ram.upper", UPPER, low - UPPER, c.ram_config.after(UPPER));
    } else {
        b.ram("ram", 0, low, c.ram_config.clone());
    }
    if c.ram > low {
        b.ram("ram.high", FOUR_GIB, c.ram - low, c.ram_config.after(low));
    }
    let controllers = Controllers {
        board: model.name,
        irqchip: c.irqchip,
        pic: true,
        pit: true,
        hpet: model.switch(c, "hpet", false)?,
        ioapic_version: 0x20,
    };
    let layout =
        Layout { low, controllers, ecam: EcamPlace::default(), smm, smi_features: SmiFeatures::default() };
    firmware::add(&mut b, model, c)?;
    layout.controllers.add(&mut b, c)?;
    isa(&mut b, model, c, &layout)?;
    let boot = match model.chipset {
        Some(chipset) => bridges(&mut b, model, chipset, c, &layout)?,
        None => {
            isa_cards(&mut b, c, &layout);
            Vec::new()
        }
    };
    if let Some(d) = c.virtio.first() {
        return model
            .bad(format!("no bus for '{}': virtio devices of this board are those on PCI", d.config.kind()));
    }
    if model.chipset.is_none()
        && let Some(p) = c.pci.first()
    {
        return model.bad(format!("there is no PCI bus for '{}'", p.function.kind()));
    }
    fw_cfg::add(&mut b, model, c, &layout, boot)?;
    Ok(b)
}

/// What stands on the ISA bus of every PC.
fn isa(b: &mut Board, model: &Model, c: &BoardConfig, layout: &Layout) -> Result<(), MachineError> {
    let irqs = &layout.controllers;
    if c.serials.len() > SERIAL.len() {
        return model.bad(format!("{} serial ports; there can be {}", c.serials.len(), SERIAL.len()));
    }
    for (i, (backend, (port, n))) in c.serials.iter().zip(SERIAL).enumerate() {
        if backend.is_some() {
            let s = b.add(&format!("serial{i}"), Ns16550Config::default());
            irqs.wire(s.pio(0, port), "irq", n);
            s.chardev("chardev", backend.clone());
        }
    }
    let cmos = fw_cfg::cmos(c, layout.low);
    irqs.wire_rtc(b.add("rtc", CmosRtcConfig { cmos, ..CmosRtcConfig::default() }).pio(0, 0x70));
    if model.switch(c, "i8042", true)? {
        let k = b.add("keyboard", I8042Config::default());
        k.pio(0, 0x60).pio(1, 0x64);
        irqs.wire(k, "kbd", KEYBOARD_IRQ);
        irqs.wire(k, "aux", MOUSE_IRQ);
        k.irq("a20", Dest::A20);
    }
    b.add("port92", Port92Config::default()).pio(0, 0x92).irq("a20", Dest::A20);
    floppy(b, c, irqs);
    for p in &c.isa {
        let d = &p.device;
        let node = b.plug(&d.id, d.config.as_ref(), &d.chardevs).pio(0, p.port);
        if let Some(n) = p.irq {
            irqs.wire(node, "irq", n);
        }
    }
    Ok(())
}

/// The floppy disk controller and the DMA controllers it needs.
fn floppy(b: &mut Board, c: &BoardConfig, irqs: &Controllers) {
    let channels = IsaDma::default();
    let dma = IsaDmaConfig { channels: channels.clone() };
    b.add("isa-dma", dma).pio(0, 0).pio(1, 0xc0).pio(2, 0x80);
    let node = b.add("floppy", FloppyConfig { drives: c.floppies.clone(), channels });
    irqs.wire(node.pio(0, 0x3f0).pio(1, 0x3f7).dma(), "irq", FLOPPY_IRQ);
}

/// What the board without PCI has on its ISA bus beyond that.
fn isa_cards(b: &mut Board, c: &BoardConfig, layout: &Layout) {
    let drives =
        std::array::from_fn(|i| c.ide.iter().find(|(at, _)| *at == i).map(|(_, drive)| drive.clone()));
    let node = b.add("ide", IsaIdeConfig { drives });
    node.dma();
    for (region, port) in IDE_PORTS.into_iter().enumerate() {
        node.pio(region, port);
    }
    for (channel, irq) in IDE_IRQS.into_iter().enumerate() {
        layout.controllers.wire_at(node, "irq", channel, irq as usize);
    }
    if let Some(VgaCard::Standard) = c.vga {
        b.add("vga", IsaVgaConfig::default()).mmio(0, WINDOW).pio(1, 0x3b0).pio(2, 0x1ce);
    }
}

/// The chipset's functions and what is plugged into PCI; firmware's names of what it may boot from.
fn bridges(
    b: &mut Board,
    model: &Model,
    chipset: Chipset,
    c: &BoardConfig,
    layout: &Layout,
) -> Result<Vec<(u32, String)>, MachineError> {
    let express = chipset == Chipset::Q35;
    let fabric = Fabric::new(if express { "pcie.0" } else { "pci.0" }, express);
    let acpi = model.switch(c, "acpi", true)?;
    let ide = |i: usize| c.ide.iter().find(|(at, _)| *at == i).map(|(_, drive)| drive.clone());
    let irqs = &layout.controllers;
    b.add("pci-host", PciHostConfig { fabric: fabric.clone() }).pio(0, 0xcf8).pio(1, 0xcfc);
    let hotplug = acpi && !express;
    let mut slots = Slots::new(model.name, fabric.clone(), chipset, hotplug);
    if express {
        let mch = MchConfig { fabric: Some(fabric), ecam: layout.ecam.clone(), low_ram: layout.low };
        slots.own(b, "mch", &mut Pci::new(mch), 0, 0, false)?;
        let lpc = Ich9LpcConfig {
            smm: layout.smm,
            features: layout.smi_features.clone(),
            ..Ich9LpcConfig::default()
        };
        let lpc = Pci::new(lpc);
        let apm = lpc.fixed_region(1);
        slots.own(b, "isa-bridge", &mut { lpc }, 31, 0, true)?;
        let Some(node) = b.node_mut("isa-bridge") else { return model.bad("no ISA bridge") };
        node.pio(apm, APM);
        for n in 0..8 {
            irqs.wire_at(node, "gsi", n, 16 + n);
        }
        wire_isa(irqs, node);
        irqs.wire(node, "sci", SCI.into());
        if layout.smm {
            node.irq("smi", Dest::Smi(0));
            for cpu in 1..c.vcpus {
                node.irq("smi_others", Dest::Smi(cpu));
            }
        }
        b.power_button(device_pin("isa-bridge", "power_button", 0));
        if acpi {
            cpu_controller(b, c, chipset, "isa-bridge", layout);
        }
        let drives = std::array::from_fn(ide);
        slots.own(b, "ahci", &mut Pci::new(AhciConfig { drives }), 31, 2, true)?;
        if let Some(node) = b.node_mut("ahci") {
            node.dma().irq(::pci::INTX, slots.wire(31, 0));
        }
        slots.own(b, "smbus", &mut Pci::new(Ich9SmbusConfig::default()), 31, 3, true)?;
        if let Some(node) = b.node_mut("smbus") {
            node.irq(::pci::INTX, slots.wire(31, 0));
        }
    } else {
        slots.own(b, "i440fx", &mut Pci::new(I440fxConfig::default()), 0, 0, false)?;
        slots.own(b, "isa-bridge", &mut Pci::new(Piix3Config::default()), 1, 0, true)?;
        if let Some(node) = b.node_mut("isa-bridge") {
            wire_isa(irqs, node);
        }
        let drives = std::array::from_fn(ide);
        let ide = Pci::new(Piix3IdeConfig { drives });
        let regions: [usize; 4] = std::array::from_fn(|i| ide.fixed_region(i));
        slots.own(b, "ide", &mut { ide }, 1, 1, true)?;
        if let Some(node) = b.node_mut("ide") {
            node.dma();
            for (region, port) in regions.into_iter().zip(IDE_PORTS) {
                node.pio(region, port);
            }
            for (channel, irq) in IDE_IRQS.into_iter().enumerate() {
                irqs.wire_at(node, "irq", channel, irq as usize);
            }
        }
        if acpi {
            let pm = Pci::new(Piix4PmConfig { smm: layout.smm });
            let (gpe, apm) = (pm.fixed_region(1), pm.fixed_region(2));
            slots.own(b, "pm", &mut { pm }, 1, 3, true)?;
            if let Some(node) = b.node_mut("pm") {
                node.pio(gpe, PIIX4_GPE).pio(apm, APM);
                irqs.wire(node, "sci", SCI.into());
                if layout.smm {
                    node.irq("smi", Dest::Smi(0));
                }
            }
            b.power_button(device_pin("pm", "power_button", 0));
            let controller = b.add(HOTPLUG, PciHotplugConfig { fabric });
            controller.pio(0, PCI_HOTPLUG).irq("gpe", device_pin("pm", "gpe", PCI_GPE));
            cpu_controller(b, c, chipset, "pm", layout);
        }
    }
    if let Some(kind) = c.vga {
        let (name, mut card): (_, Box<dyn AnyPci>) = match kind {
            VgaCard::Standard => ("vgabios-stdvga.bin", Box::new(Pci::new(VgaConfig::default()))),
            VgaCard::Cirrus => ("vgabios-cirrus.bin", Box::new(Pci::new(CirrusConfig::default()))),
        };
        card.set_rom(firmware::option_rom(model, c, name)?);
        slots.own(b, "vga", card.as_mut(), if express { 1 } else { 2 }, 0, false)?;
        if let Some(node) = b.node_mut("vga") {
            node.dma();
        }
    }
    slots.plug_all(b, c)?;
    b.plug_here();
    slots.boot.extend(c.boot_drives.iter().map(|(index, drive)| (*index, boot_name(chipset, *drive))));
    let boot = std::mem::take(&mut slots.boot);
    c.hotplug.set(slots);
    Ok(boot)
}

/// First port of the controller of processors.
fn cpu_ports(chipset: Chipset) -> u16 {
    CPU_HOTPLUG.iter().find(|(of, _)| *of == chipset).map_or(0, |(_, port)| *port)
}

/// The controller of processors that come and go, which raises an event of device `pm`.
fn cpu_controller(b: &mut Board, c: &BoardConfig, chipset: Chipset, pm: &str, layout: &Layout) {
    let (present, smi) = (c.present.clone(), layout.smi_features.clone());
    let config = CpuHotplugConfig { present, ids: c.apic_ids(), smi };
    let node = b.add(CONTROLLER, config);
    node.pio(0, cpu_ports(chipset)).irq("gpe", device_pin(pm, "gpe", CPU_GPE));
}

/// Firmware's name of a drive on the board's own controllers.
fn boot_name(chipset: Chipset, drive: BootDrive) -> String {
    match (drive, chipset) {
        (BootDrive::Ide(i), Chipset::I440fx) => {
            format!("/pci@i0cf8/ide@1,1/drive@{}/disk@{}", i / 2, i % 2)
        }
        (BootDrive::Ide(i), Chipset::Q35) => format!("/pci@i0cf8/pci8086,2922@1f,2/drive@{i}/disk@0"),
        (BootDrive::Floppy(i), Chipset::I440fx) => format!("/pci@i0cf8/isa@1/fdc@03f0/floppy@{i}"),
        (BootDrive::Floppy(i), Chipset::Q35) => format!("/pci@i0cf8/isa@1f/fdc@03f0/floppy@{i}"),
    }
}

/// Wires an ISA bridge's routed interrupts.
fn wire_isa(irqs: &Controllers, node: &mut machine::Node) {
    for n in [3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15] {
        irqs.wire_at(node, "irq", n, n);
    }
}
