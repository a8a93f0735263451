//! The DSDT: buses, their ranges and interrupts, and the old devices (ACPI Specification 6.5, chapters 6 and 20).
//!
//! Interrupts of PCI are given as global interrupts: on i440FX those that firmware routes the four wires to (10, 10, 11,
//! 11), on Q35 the I/O APIC's inputs 16 to 23.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    PackageBuilder, Path, ResourceTemplate, Scope,
};

use super::acpi::Hardware;
use super::pci::{express_wire, i440fx_wire};
use super::{cpu_hotplug, pci_hotplug};
use crate::x86::FOUR_GIB;

/// Ends of the window for PCI below 4 GiB: the I/O APIC comes next.
const HOLE_END: u64 = crate::x86::IOAPIC;
/// End of the window above 4 GiB.
const HIGH_HOLE_END: u64 = 1 << 39;

/// Global interrupts of the i440FX's wires, which firmware routes them to.
pub(super) const I440FX_GSIS: [u8; 4] = [10, 10, 11, 11];

/// Resources of a bus: bus numbers, ports, memory.
fn windows(h: &Hardware) -> Vec<Box<dyn Aml>> {
    let mut all: Vec<Box<dyn Aml>> = vec![
        Box::new(AddressSpace::new_bus_number(0u16, 0xff)),
        Box::new(IO::new(0xcf8, 0xcf8, 1, 8)),
        Box::new(AddressSpace::new_io(0u16, 0xcf7, None)),
        Box::new(AddressSpace::new_io(0xd00u16, 0xffff, None)),
    ];
    let mut memory = |from: u64, to: u64| {
        if from < to {
            let (from, last) = (from as u32, (to - 1) as u32);
            let kind = AddressSpaceCacheable::NotCacheable;
            all.push(Box::new(AddressSpace::new_memory(kind, true, from, last, None)));
        }
    };
    memory(0xa_0000, 0xc_0000);
    // The memory-mapped configuration space cuts the window in two, which are there even if it is not.
    let cut = if h.express { h.ecam.unwrap_or((HOLE_END - 1, 1)) } else { (HOLE_END, 0) };
    let cut = if cut.0 >= FOUR_GIB { (HOLE_END - 1, 1) } else { cut };
    memory(h.low_end, cut.0.max(h.low_end + 1).min(HOLE_END));
    if h.express {
        memory((cut.0 + cut.1).clamp(h.low_end + 1, HOLE_END - 1), HOLE_END);
    }
    let high = h.high_end.max(FOUR_GIB).next_multiple_of(1 << 30);
    let kind = AddressSpaceCacheable::Cacheable;
    all.push(Box::new(AddressSpace::new_memory(kind, true, high, HIGH_HOLE_END - 1, None)));
    all
}

fn resources(list: &[Box<dyn Aml>]) -> Vec<u8> {
    let mut out = Vec::new();
    ResourceTemplate::new(list.iter().map(AsRef::as_ref).collect()).to_aml_bytes(&mut out);
    out
}

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// Which global interrupt each pin of each device is.
fn routing(h: &Hardware) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            let gsi = if h.express {
                16 + express_wire(slot, pin)
            } else {
                I440FX_GSIS[usize::from(i440fx_wire(slot, pin))]
            };
            let address = u32::from(slot) << 16 | 0xffff;
            table.add_element(&Package::new(vec![&address, &pin, &0u8, &gsi]));
        }
    }
    table
}

fn device(name: &str, id: &str, resources: &[&dyn Aml]) -> Vec<u8> {
    let mut out = Vec::new();
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    Device::new(Path::new(name), vec![&hid, &crs]).to_aml_bytes(&mut out);
    out
}

fn irq(n: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, n)
}

/// What stands on the ISA bus.
fn isa(h: &Hardware) -> Vec<u8> {
    let mut out = device("RTC_", "PNP0B00", &[&IO::new(0x70, 0x70, 1, 8), &irq(8)]);
    let ports = [IO::new(0x60, 0x60, 1, 1), IO::new(0x64, 0x64, 1, 1)];
    out.extend(device("KBD_", "PNP0303", &[&ports[0], &ports[1], &irq(1)]));
    out.extend(device("MOU_", "PNP0F13", &[&irq(12)]));
    for (i, (port, line)) in super::SERIAL.iter().enumerate().take(h.serials) {
        let mut com = Vec::new();
        let crs = ResourceTemplate::new(vec![&IO::new(*port, *port, 0, 8), &irq(*line as u32)])
            .pipe(|r| Name::new("_CRS".into(), &r));
        let hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
        let uid = Name::new("_UID".into(), &(i as u8 + 1));
        Device::new(Path::new(&format!("COM{}", i + 1)), vec![&hid, &uid, &crs]).to_aml_bytes(&mut com);
        out.extend(com);
    }
    for (i, (port, line)) in h.parallels.iter().enumerate() {
        let (ports, line) = (IO::new(*port, *port, 8, 8), irq(*line));
        let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &line]));
        let hid = Name::new("_HID".into(), &EISAName::new("PNP0400"));
        let uid = Name::new("_UID".into(), &(i as u8 + 1));
        Device::new(Path::new(&format!("LPT{}", i + 1)), vec![&hid, &uid, &crs]).to_aml_bytes(&mut out);
    }
    out
}

trait Pipe: Sized {
    fn pipe<R>(self, f: impl FnOnce(Self) -> R) -> R {
        f(self)
    }
}

impl Pipe for ResourceTemplate<'_> {}

/// Resources that belong to no device: ports of the chipset, the memory-mapped configuration space.
fn motherboard(h: &Hardware) -> Vec<u8> {
    let pm = IO::new(h.pm_base, h.pm_base, 1, if h.express { 128 } else { 64 });
    let gpe = IO::new(h.gpe.0, h.gpe.0, 1, h.gpe.1);
    let apm = IO::new(0xb2, 0xb2, 1, 2);
    let (base, size) = h.ecam.unwrap_or_default();
    let ecam = Memory32Fixed::new(true, base as u32, size as u32);
    match h.express {
        true => device("MBRD", "PNP0C02", &[&pm, &apm, &ecam]),
        false => device("MBRD", "PNP0C02", &[&pm, &gpe, &apm]),
    }
}

/// The AML behind the table's header.
pub(super) fn build(h: &Hardware) -> Vec<u8> {
    let mut out = Vec::new();
    let (hid, cid) = (EISAName::new("PNP0A08"), EISAName::new("PNP0A03"));
    let names = if h.express {
        vec![Name::new("_HID".into(), &hid), Name::new("_CID".into(), &cid)]
    } else {
        vec![Name::new("_HID".into(), &cid)]
    };
    let crs = Name::new("_CRS".into(), &Raw(resources(&windows(h))));
    let prt = Name::new("_PRT".into(), &routing(h));
    let zero =
        [Name::new("_ADR".into(), &0u8), Name::new("_UID".into(), &0u8), Name::new("_BBN".into(), &0u8)];
    let bridge_address: u32 = if h.express { 0x001f_0000 } else { 0x0001_0000 };
    let (address, children) = (Name::new("_ADR".into(), &bridge_address), Raw(isa(h)));
    let bridge = Device::new("ISA_".into(), vec![&address, &children]);
    let osc = Raw(if h.express { osc() } else { Vec::new() });
    let mut parts: Vec<&dyn Aml> = names.iter().map(|n| n as &dyn Aml).collect();
    parts.extend(zero.iter().map(|n| n as &dyn Aml));
    let slots = Raw(pci_hotplug::slots(h.hotplug));
    let registers = Raw(h.cpu_hotplug.map_or_else(Vec::new, cpu_hotplug::registers));
    parts.extend([&crs as &dyn Aml, &prt, &osc, &bridge, &slots, &registers]);
    let root = Device::new("PCI0".into(), parts);
    let (board, fw_cfg, hpet) = (Raw(motherboard(h)), Raw(fw_cfg()), Raw(hpet(h)));
    let cpus = Raw(h.cpu_hotplug.map_or_else(Vec::new, |_| cpu_hotplug::processors(&h.ids)));
    Scope::new("_SB_".into(), vec![&root, &board, &fw_cfg, &hpet, &cpus]).to_aml_bytes(&mut out);
    if h.cpu_hotplug.is_some() {
        out.extend(cpu_hotplug::events());
    }
    out.extend(pci_hotplug::events(h.hotplug));
    Name::new("_S5_".into(), &Package::new(vec![&0u8, &0u8, &0u8, &0u8])).to_aml_bytes(&mut out);
    out
}

/// The guest may use everything of PCI Express but the hot plug controller it would have to ask for (ports offer it by
/// themselves).
fn osc() -> Vec<u8> {
    use acpi_tables::aml::{Arg, Method, Return};
    let mut out = Vec::new();
    let answer = Return::new(&Arg(3));
    Method::new("_OSC".into(), 4, false, vec![&answer]).to_aml_bytes(&mut out);
    out
}

fn fw_cfg() -> Vec<u8> {
    let mut out = Vec::new();
    let hid = Name::new("_HID".into(), &"QEMU0002");
    let sta = Name::new("_STA".into(), &0x0bu8);
    let port = IO::new(super::FW_CFG, super::FW_CFG, 1, 12);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port]));
    Device::new("FWCF".into(), vec![&hid, &sta, &crs]).to_aml_bytes(&mut out);
    out
}

fn hpet(h: &Hardware) -> Vec<u8> {
    let block = Memory32Fixed::new(false, crate::x86::HPET as u32, 0x400);
    if h.hpet { device("HPET", "PNP0103", &[&block]) } else { Vec::new() }
}
