//! What firmware is told: items of fw_cfg, and bytes of CMOS.
//!
//! QEMU `docs/specs/fw_cfg`; SeaBIOS `Runtime_config`; the CMOS layout is that of PC firmware since the AT.

use std::fs::File;
use std::path::Path;

use chipset::SmiFeatures;
use device::DeviceConfig;
use machine::{Board, MachineError};
use misc::{FwCfgConfig, FwCfgError, FwCfgTable};
use serial::ParallelConfig;

use super::acpi::{self, Hardware};
use super::boot_rom::Copy;
use super::{Chipset, FW_CFG, Layout, Model, PIIX4_GPE, PM_BASE, boot_rom, firmware, flat_rom, smbios};
use crate::direct::{self, Flat, Given, INFO};
use crate::x86::FOUR_GIB;
use crate::{BoardConfig, PluggedIsa, kernel};

/// Numbered items.
mod key {
    pub(super) const UUID: u16 = 0x02;
    pub(super) const RAM_SIZE: u16 = 0x03;
    pub(super) const NO_GRAPHICS: u16 = 0x04;
    pub(super) const CPUS: u16 = 0x05;
    pub(super) const BOOT_MENU: u16 = 0x0e;
    pub(super) const MAX_CPUS: u16 = 0x0f;
    pub(super) const KERNEL_ADDRESS: u16 = 0x07;
    pub(super) const KERNEL_SIZE: u16 = 0x08;
    pub(super) const INITRD_ADDRESS: u16 = 0x0a;
    pub(super) const INITRD_SIZE: u16 = 0x0b;
    pub(super) const KERNEL_DATA: u16 = 0x11;
    pub(super) const INITRD_DATA: u16 = 0x12;
    pub(super) const LINE_ADDRESS: u16 = 0x13;
    pub(super) const LINE_SIZE: u16 = 0x14;
    pub(super) const LINE_DATA: u16 = 0x15;
    pub(super) const SETUP_ADDRESS: u16 = 0x16;
    pub(super) const SETUP_SIZE: u16 = 0x17;
    pub(super) const SETUP_DATA: u16 = 0x18;
    /// First of the modules of a kernel that starts in flat mode; numbers of the board's own.
    pub(super) const MODULES: u16 = 0x8100;
}

/// Names of our boot ROMs among firmware's.
const BOOT_ROM: &str = "genroms/linuxboot_dma.bin";
const FLAT_ROM: &str = "genroms/multiboot_dma.bin";

/// The ROM of a VGA that is on no PCI bus, which firmware finds here.
const ISA_VGA_ROM: &str = "vgabios-isavga.bin";

fn le(value: u64, bytes: usize) -> Vec<u8> {
    value.to_le_bytes().iter().take(bytes).copied().collect()
}

/// How many processors are there.
fn here(c: &BoardConfig) -> u32 {
    if c.present.most() == 0 { c.vcpus } else { c.present.count() }
}

/// The bytes of CMOS that firmware sizes memory and finds its settings with.
pub(super) fn cmos(c: &BoardConfig, low: u64) -> Vec<(u8, u8)> {
    let mut all = Vec::new();
    let mut word = |at: u8, value: u64, bytes: usize| {
        all.extend((at..).zip(le(value, bytes)));
    };
    let mib = 1u64 << 20;
    // KiB below 640 KiB, KiB from 1 MiB on (twice), 64 KiB from 16 MiB on, 64 KiB from 4 GiB on.
    word(0x15, (low / 1024).min(640), 2);
    let extended = (low.saturating_sub(mib) / 1024).min(0xffff);
    word(0x17, extended, 2);
    word(0x30, extended, 2);
    word(0x34, (low.saturating_sub(16 * mib) >> 16).min(0xffff), 2);
    word(0x5b, c.ram.saturating_sub(low) >> 16, 3);
    word(0x5f, u64::from(here(c).saturating_sub(1)), 1);
    // Floppy drives of 1.44 MB; equipment: how many of them, floating point unit, mouse.
    let floppy = |n: usize| if c.floppies[n].is_some() { 4u64 } else { 0 };
    word(0x10, floppy(0) << 4 | floppy(1), 1);
    let floppies = match c.floppies.iter().flatten().count() {
        0 => 0,
        n => 1 | (n as u64 - 1) << 6,
    };
    word(0x14, 0x06 | floppies, 1);
    let device = |n: usize| match c.boot_order.as_bytes().get(n) {
        Some(b'a' | b'b') => 1,
        Some(b'c') => 2,
        Some(b'd') => 3,
        Some(b'n' | b'o' | b'p') => 4,
        _ => 0u64,
    };
    word(0x3d, device(1) << 4 | device(0), 1);
    // No check of the floppy's signature.
    word(0x38, device(2) << 4 | 1, 1);
    all
}

/// First ports and interrupts of the parallel ports.
fn parallels(c: &BoardConfig) -> Vec<(u16, u32)> {
    let is_one = |p: &&PluggedIsa| p.device.config.kind() == ParallelConfig::KIND;
    c.isa.iter().filter(is_one).map(|p| (p.port, p.irq.unwrap_or(7) as u32)).collect()
}

/// Describes the machine to ACPI.
fn hardware(model: &Model, c: &BoardConfig, layout: &Layout) -> Hardware {
    let express = model.chipset == Some(Chipset::Q35);
    Hardware {
        express,
        ecam: layout.ecam.get(),
        pm_base: PM_BASE,
        gpe: if express { (PM_BASE + 0x20, 16) } else { (PIIX4_GPE, 4) },
        handover: Some(if express { (2, 3) } else { (0xf1, 0xf0) }),
        reset: (0xcf9, 0x0f),
        ids: c.apic_ids(),
        present: c.present.clone(),
        cpu_hotplug: model.chipset.map(super::cpu_ports),
        low_end: layout.low,
        high_end: if c.ram > layout.low { FOUR_GIB + c.ram - layout.low } else { 0 },
        hpet: layout.controllers.hpet,
        serials: c.serials.iter().take_while(|s| s.is_some()).count(),
        parallels: parallels(c),
        // Slots 0 and 1 are the chipset's, 2 the graphics card's.
        hotplug: match (express, c.vga) {
            (true, _) => 0,
            (false, None) => !0x3,
            (false, Some(_)) => !0x7,
        },
    }
}

/// RAM as firmware's memory map begins with.
fn e820(c: &BoardConfig, low: u64) -> Vec<u8> {
    let entry = |base: u64, len: u64| [le(base, 8), le(len, 8), le(1, 4)].concat();
    let mut map = entry(0, low);
    if c.ram > low {
        map.extend(entry(FOUR_GIB, c.ram - low));
    }
    map
}

fn refused(model: &Model) -> impl Fn(FwCfgError) -> MachineError + '_ {
    |e| MachineError::Board(format!("{}: {e}", model.name))
}

/// Adds the device with all it offers. `boot` are firmware's names of what to boot from.
pub(super) fn add(
    b: &mut Board,
    model: &Model,
    c: &BoardConfig,
    layout: &Layout,
    mut boot: Vec<(u32, String)>,
) -> Result<(), MachineError> {
    let mut t = FwCfgTable::default();
    let refused = refused(model);
    t.add(key::UUID, c.uuid.unwrap_or_default());
    t.add_u64(key::RAM_SIZE, c.ram);
    t.add_u16(key::NO_GRAPHICS, c.no_graphics.into());
    let (present, all) = (c.present.clone(), here(c));
    t.add_computed(key::CPUS, 2, move || {
        let count = if present.most() == 0 { all } else { present.count() };
        (count as u16).to_le_bytes().to_vec()
    });
    // Firmware counts by the numbers of local APICs.
    let most = c.apic_ids().into_iter().max().map_or(1, |id| id + 1);
    t.add_u16(key::MAX_CPUS, most as u16);
    t.add_u16(key::BOOT_MENU, c.boot_menu.is_some().into());
    t.add_file("etc/e820", e820(c, layout.low)).map_err(&refused)?;
    if let Some(wait) = c.boot_menu {
        t.add_file("etc/boot-menu-wait", le(wait.into(), 2)).map_err(&refused)?;
    }
    if model.chipset.is_none() && c.vga.is_some() {
        let rom = firmware::option_rom(model, c, ISA_VGA_ROM)?;
        t.add_file(&format!("vgaroms/{ISA_VGA_ROM}"), rom).map_err(&refused)?;
    }
    if model.chipset.is_some() {
        if model.switch(c, "acpi", true)? {
            tables(&mut t, model, c, layout).map_err(&refused)?;
        }
        let high = if c.ram > layout.low { FOUR_GIB + c.ram - layout.low } else { FOUR_GIB };
        t.add_file("etc/reserved-memory-end", le(high.next_multiple_of(1 << 30), 8)).map_err(&refused)?;
        let (anchor, table) = smbios::build(model.name, c);
        t.add_file("etc/smbios/smbios-anchor", anchor).map_err(&refused)?;
        t.add_file("etc/smbios/smbios-tables", table).map_err(&refused)?;
        if layout.smm && model.chipset == Some(Chipset::Q35) {
            smi_features(&mut t, layout).map_err(&refused)?;
        }
    }
    if let Some(rom) = kernel_items(&mut t, c, layout.low)? {
        boot.push((0, format!("/rom@{rom}")));
    }
    boot.sort_by_key(|(index, _)| *index);
    let mut order: Vec<u8> = boot.iter().flat_map(|(_, path)| [path.as_bytes(), b"\n"].concat()).collect();
    if !order.is_empty() {
        order.pop();
        order.push(0);
        t.add_file("bootorder", order).map_err(&refused)?;
    }
    for (name, data) in &c.fw_cfg {
        t.add_file(name, data.clone()).map_err(&refused)?;
    }
    let config = FwCfgConfig { table: t, no_dma: false };
    debug_assert_eq!(config.regions()[0].size, 12);
    b.add("fw_cfg", config).pio(0, FW_CFG).dma();
    Ok(())
}

fn tables(t: &mut FwCfgTable, model: &Model, c: &BoardConfig, layout: &Layout) -> Result<(), FwCfgError> {
    let fresh = hardware(model, c, layout);
    let acpi = acpi::build(&fresh);
    let ecam = layout.ecam.clone();
    t.add_computed_file(acpi::TABLES, acpi.tables.len(), move || {
        acpi::build(&Hardware { ecam: ecam.get(), ..fresh.clone() }).tables
    })?;
    t.add_file(acpi::RSDP, acpi.rsdp)?;
    t.add_file(acpi::LOADER, acpi.loader)
}

/// What firmware may ask of system management interrupts (OVMF's negotiation: offered, wanted, and whether it gets that).
fn smi_features(t: &mut FwCfgTable, layout: &Layout) -> Result<(), FwCfgError> {
    const WANTED: &str = "etc/smi/requested-features";
    let features = layout.smi_features.clone();
    t.add_file("etc/smi/supported-features", SmiFeatures::BROADCAST.to_le_bytes())?;
    t.add_writable_file(WANTED, vec![0; 8])?;
    t.add_verdict("etc/smi/features-ok", WANTED, move |wanted| {
        let wanted = wanted.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        features.negotiate(wanted).into()
    })
}

fn open(path: &Path) -> Result<File, MachineError> {
    File::open(path).map_err(|source| MachineError::File { path: path.into(), source })
}

/// The user's kernel, and the ROM that starts it; its name, if there is a kernel.
fn kernel_items(t: &mut FwCfgTable, c: &BoardConfig, low: u64) -> Result<Option<&'static str>, MachineError> {
    let Some(path) = &c.kernel else {
        if let Some(initrd) = &c.initrd {
            return Err(MachineError::Board(format!("-initrd {}: needs -kernel", initrd.display())));
        }
        return Ok(None);
    };
    let (name, copies, then) = if let Some(k) = boot_rom::Kernel::read(path, c, low)? {
        (BOOT_ROM, bzimage_items(t, c, path, &k)?, boot_rom::bzimage())
    } else {
        let top = boot_rom::top(low);
        let given = Given { kernel: path, initrd: c.initrd.as_deref(), append: &c.append, top };
        let mut flat = direct::read(&given)?.ok_or_else(|| {
            let what = "neither a bzImage nor an ELF file nor a Multiboot kernel";
            MachineError::Board(format!("{}: {what}", path.display()))
        })?;
        flat_rom::fill_head(&mut flat);
        (FLAT_ROM, flat_items(t, path, &flat)?, flat_rom::real_mode(&flat))
    };
    let rom = boot_rom::rom(&copies, &then).ok_or_else(|| {
        let segments = copies.len();
        MachineError::Board(format!("{}: too many segments for a boot ROM ({segments})", path.display()))
    })?;
    t.add_file(name, rom).map_err(|e| MachineError::Board(e.to_string()))?;
    Ok(Some(name))
}

/// The items of a bzImage.
fn bzimage_items(
    t: &mut FwCfgTable,
    c: &BoardConfig,
    path: &Path,
    k: &boot_rom::Kernel,
) -> Result<Vec<Copy>, MachineError> {
    let word = |t: &mut FwCfgTable, key, value: u64| t.add_u32(key, value as u32);
    word(t, key::KERNEL_ADDRESS, k.load);
    word(t, key::KERNEL_SIZE, k.len);
    t.add_part(key::KERNEL_DATA, open(path)?, k.offset, k.len);
    word(t, key::SETUP_ADDRESS, boot_rom::SETUP);
    word(t, key::SETUP_SIZE, k.setup.len() as u64);
    t.add(key::SETUP_DATA, k.setup.clone());
    word(t, key::LINE_ADDRESS, boot_rom::LINE);
    word(t, key::LINE_SIZE, k.line.len() as u64);
    t.add(key::LINE_DATA, k.line.clone());
    if let (Some(path), Some((at, len))) = (&c.initrd, k.initrd) {
        word(t, key::INITRD_ADDRESS, at);
        word(t, key::INITRD_SIZE, len);
        t.add_part(key::INITRD_DATA, open(path)?, 0, len);
    }
    let mut copies = vec![
        Copy::whole(key::SETUP_DATA, boot_rom::SETUP, k.setup.len() as u64),
        Copy::whole(key::LINE_DATA, boot_rom::LINE, k.line.len() as u64),
        Copy::whole(key::KERNEL_DATA, k.load, k.len),
    ];
    copies.extend(k.initrd.map(|(at, len)| Copy::whole(key::INITRD_DATA, at, len)));
    Ok(copies)
}

/// The items of a kernel that starts in flat mode. What is cleared comes first: segments may share a page with it.
fn flat_items(t: &mut FwCfgTable, path: &Path, flat: &Flat) -> Result<Vec<Copy>, MachineError> {
    t.add_part(key::KERNEL_DATA, open(path)?, 0, kernel::file_len(path)?);
    t.add(key::SETUP_DATA, flat.info.bytes.clone());
    let mut copies: Vec<Copy> = flat.blank.iter().map(|(at, len)| Copy::zeroes(*at, *len)).collect();
    let part = |p: &direct::Piece| Copy { key: key::KERNEL_DATA, offset: p.offset, len: p.len, gpa: p.gpa };
    copies.extend(flat.kernel.iter().map(part));
    for (key, m) in (key::MODULES..).zip(&flat.modules) {
        t.add_part(key, open(&m.path)?, 0, m.len);
        copies.push(Copy::whole(key, m.gpa, m.len));
    }
    copies.push(Copy::whole(key::SETUP_DATA, INFO.start, flat.info.bytes.len() as u64));
    Ok(copies)
}
