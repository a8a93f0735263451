//! `microvm`: the smallest x86 machine that Linux boots on directly.
//!
//! RAM, a serial port, a real-time clock, the keyboard controller's reset line, virtio-mmio transports, power management; no
//! PCI, no firmware unless one is given. ACPI tables, or with `acpi=off` a multiprocessor table alone, name the processors and
//! the I/O APIC.
//!
//! Where the interrupt controllers stand: [`crate::x86`].

mod boot;
mod dsdt;
mod mptable;

use accel::arch::x86_64::Table;
use accel::arch::{CpuState, GuestArch};
use chipset::AcpiPmConfig;
use guest_memory::Unassigned;
use input::I8042Config;
use machine::{Board, Image, MachineError, Node};
use misc::IsaDebugExitConfig;
use serial::{DebugConConfig, Ns16550Config};
use timer::Mc146818Config;

use self::boot::{Start, Told};
use self::dsdt::Devices;
use crate::direct::Memory;
use crate::pc::acpi::{self, Hardware};
use crate::x86::{self, Controllers, FOUR_GIB, IOAPIC};
use crate::{Bios, BoardConfig, BoardKind, kernel};

/// RAM ends here at the latest below 4 GiB.
const LOW_MAX: u64 = 3 << 30;
const VIRTIO: u64 = 0xfeb0_0000;
const VIRTIO_STEP: u64 = 0x1000;
/// Most virtio devices.
const VIRTIO_SLOTS: usize = 8;
/// Interrupts of virtio devices that ACPI names: inputs of the I/O APIC alone.
const VIRTIO_GSI: usize = 16;
/// Legacy interrupts that nothing else uses, for a kernel without ACPI.
const VIRTIO_IRQS: [usize; VIRTIO_SLOTS] = [5, 6, 7, 9, 10, 11, 14, 15];
/// Power management registers.
const PM_BASE: u16 = 0x600;
const PM_SIZE: u8 = 12;
const SCI: usize = 9;
/// Where ACPI's root pointer stands, and the tables behind it: where a kernel looks for it.
const ACPI: u32 = 0xe_0000;
const SERIAL: [(u16, usize); 2] = [(0x3f8, 4), (0x2f8, 3)];
const RTC: (u16, usize) = (0x70, 8);
const KEYBOARD: (u16, u16, usize) = (0x60, 0x64, 1);
/// The keyboard controller's command that resets the machine.
const RESET: u8 = 0xfe;
const DEBUG_EXIT: u16 = 0x501;
const DEBUG_CONSOLE: u16 = 0xe9;

/// The board.
pub const KIND: BoardKind = BoardKind {
    name: "microvm",
    help: "minimal x86 machine without PCI, boots a kernel directly",
    archs: &[GuestArch::X86_64],
    default_ram: 128 << 20,
    max_vcpus: mptable::MAX_CPUS,
    levels: &[],
    cpu_hotplug: false,
    properties: &[
        ("pic", "on or off: 8259 interrupt controllers (default on); off only where they are Rhea's"),
        ("pit", "on or off: 8254 timer (default on); off only where it is Rhea's"),
        ("rtc", "on or off: MC146818 clock (default on)"),
        ("isa-serial", "on or off: serial port (default on)"),
        ("isa-debug-exit", "on or off: exit port 0x501 for tests (default off)"),
        ("debugcon", "on or off: debug console at port 0xe9, on the second serial (default off)"),
        ("x-option-roms", "off: this board runs no option ROMs (default off)"),
        ("acpi", "on or off: ACPI tables and power management (default on; off with -bios)"),
        (
            "auto-kernel-cmdline",
            "on or off: without ACPI, tell the kernel of the virtio devices (default on)",
        ),
    ],
    isa: true,
    pci: false,
    nic: "virtio-net-device",
    ide: 0,
    floppy: false,
    vga: false,
    flash: 0,
    fw_cfg: false,
    build,
};

fn switch(c: &BoardConfig, name: &str, default: bool) -> Result<bool, MachineError> {
    x86::switch(c, "microvm", name, default)
}

fn controllers(c: &BoardConfig) -> Result<Controllers, MachineError> {
    let (pic, pit) = (switch(c, "pic", true)?, switch(c, "pit", true)?);
    Ok(Controllers { board: "microvm", irqchip: c.irqchip, pic, pit, hpet: false, ioapic_version: 0x11 })
}

/// Wires an interrupt output to where legacy interrupt `n` enters.
fn wire(c: &BoardConfig, node: &mut Node, pin: &str, n: usize) -> Result<(), MachineError> {
    controllers(c)?.wire(node, pin, n);
    Ok(())
}

/// Records the board.
pub fn build(c: &BoardConfig) -> Result<Board, MachineError> {
    KIND.check(c)?;
    if switch(c, "x-option-roms", false)? {
        let why = "x-option-roms=on is not possible on this board: it runs no option ROMs";
        return Err(MachineError::Board(format!("microvm: {why}")));
    }
    let least = 2 << 20;
    if c.ram < least || c.ram > 1 << 40 {
        return Err(MachineError::Board(format!(
            "microvm: {} MiB of RAM; 2 to {} are possible",
            c.ram >> 20,
            1u64 << 20
        )));
    }
    let mut b = Board::new("microvm", c.arch, Unassigned::Ones);
    b.with_ports();
    let low = c.ram.min(LOW_MAX);
    b.ram("ram", 0, low, c.ram_config.clone());
    if c.ram > low {
        b.ram("ram.high", FOUR_GIB, c.ram - low, c.ram_config.after(low));
    }
    controllers(c)?.add(&mut b, c)?;
    let devices = add_devices(&mut b, c)?;
    let start = place(&mut b, c, low, &devices)?;
    b.cpu_init(move |index, state| {
        if index == 0
            && let CpuState::X86_64(s) = state
        {
            match start {
                Start::Long { entry } => {
                    s.start_long(entry, boot::CR3);
                    s.rsi = boot::TOLD_LONG;
                }
                Start::Boot { entry } => {
                    s.start_flat(entry);
                    s.rsi = boot::TOLD_LONG;
                    s.cs.selector = 0x10;
                    for data in [&mut s.ds, &mut s.es, &mut s.fs, &mut s.gs, &mut s.ss] {
                        data.selector = 0x18;
                    }
                }
                Start::Flat { entry, eax, ebx } => {
                    s.start_flat(entry);
                    (s.rax, s.rbx) = (eax.into(), ebx.into());
                }
                Start::Reset => return,
            }
            s.gdt = Table { base: boot::GDT_PLACE.0, limit: boot::GDT_PLACE.1 };
            s.idt = Table { base: 0, limit: 0 };
        }
    });
    Ok(b)
}

/// Whether there are ACPI tables and what they name. Firmware that is given brings its own.
fn has_acpi(c: &BoardConfig) -> Result<bool, MachineError> {
    let on = switch(c, "acpi", c.kernel.is_some())?;
    if on && c.kernel.is_none() {
        return Err(MachineError::Board(
            "microvm: acpi=on: firmware brings its own tables; add -kernel".into(),
        ));
    }
    Ok(on)
}

/// Adds the devices. Returns what the kernel is to be told of.
fn add_devices(b: &mut Board, c: &BoardConfig) -> Result<Devices, MachineError> {
    let mut told = Devices::default();
    let debugcon = switch(c, "debugcon", false)?;
    if switch(c, "isa-serial", true)? {
        told.serials = if debugcon { 1 } else { SERIAL.len().min(c.serials.len().max(1)) };
        for (i, (port, n)) in SERIAL.iter().take(told.serials).enumerate() {
            let s = b.add(&format!("serial{i}"), Ns16550Config::default());
            wire(c, s.pio(0, *port), "irq", *n)?;
            s.chardev("chardev", c.serials.get(i).cloned().flatten());
        }
    }
    if debugcon {
        let d = b.add("debugcon", DebugConConfig::default());
        d.pio(0, DEBUG_CONSOLE).chardev("chardev", c.serials.get(1).cloned().flatten());
    }
    told.rtc = switch(c, "rtc", true)?;
    if told.rtc {
        wire(c, b.add("rtc", Mc146818Config::default()).pio(0, RTC.0), "irq", RTC.1)?;
    }
    let k = b.add("keyboard", I8042Config::default());
    wire(c, k.pio(0, KEYBOARD.0).pio(1, KEYBOARD.1), "kbd", KEYBOARD.2)?;
    if has_acpi(c)? {
        wire(c, b.add("pm", AcpiPmConfig::default()).pio(0, PM_BASE), "sci", SCI)?;
        b.power_button(x86::device_pin("pm", "power_button", 0));
    }
    if switch(c, "isa-debug-exit", false)? {
        b.add("debug-exit", IsaDebugExitConfig::default()).pio(0, DEBUG_EXIT);
    }
    for p in &c.isa {
        let d = &p.device;
        let node = b.plug(&d.id, d.config.as_ref(), &d.chardevs).pio(0, p.port);
        if let Some(n) = p.irq {
            wire(c, node, "irq", n)?;
        }
    }
    if c.virtio.len() > VIRTIO_SLOTS {
        return Err(MachineError::Board(format!(
            "microvm: {} virtio devices; there are {VIRTIO_SLOTS} slots",
            c.virtio.len(),
        )));
    }
    for (i, (p, legacy)) in c.virtio.iter().zip(VIRTIO_IRQS).enumerate() {
        let base = VIRTIO + i as u64 * VIRTIO_STEP;
        let n = if has_acpi(c)? { VIRTIO_GSI + i } else { legacy };
        wire(c, b.plug(&p.id, p.config.as_ref(), &p.chardevs).mmio(0, base).dma(), "irq", n)?;
        told.virtio.push((base, n));
    }
    Ok(told)
}

/// What the kernel is told of memory.
fn memory_map(ram: u64) -> Vec<Memory> {
    let low = ram.min(LOW_MAX);
    let mib = 1 << 20;
    let mut map = vec![
        Memory { base: 0, size: boot::LOW_END, ram: true },
        Memory { base: boot::LOW_END, size: mib - boot::LOW_END, ram: false },
        Memory { base: mib, size: low - mib, ram: true },
    ];
    if ram > low {
        map.push(Memory { base: FOUR_GIB, size: ram - low, ram: true });
    }
    map
}

/// Puts in what the machine starts with.
fn place(b: &mut Board, c: &BoardConfig, low: u64, devices: &Devices) -> Result<Start, MachineError> {
    let has_acpi = has_acpi(c)?;
    if has_acpi {
        let hardware = Hardware {
            pm_base: PM_BASE,
            reset: (KEYBOARD.1, RESET),
            ids: c.apic_ids(),
            ..Hardware::default()
        };
        let tables = acpi::placed(&hardware, &dsdt::build(devices), ACPI);
        b.image(Image::bytes("acpi", ACPI.into(), tables));
    }
    b.image(Image::bytes(
        "mp table",
        boot::LOW_END,
        mptable::build(boot::LOW_END as u32, &c.apic_ids(), IOAPIC as u32),
    ));
    match (&c.kernel, &c.bios) {
        (Some(path), _) => {
            let mut append = c.append.clone();
            if switch(c, "auto-kernel-cmdline", true)? && !has_acpi {
                for (base, n) in &devices.virtio {
                    append.push_str(&format!(" virtio_mmio.device=512@{base:#x}:{n}"));
                }
            }
            let told =
                Told { append: append.trim_start(), map: &memory_map(c.ram), acpi: has_acpi.then_some(ACPI) };
            boot::place(b, c, path, &told, low)
        }
        (None, Bios::File(path)) => {
            let len = kernel::file_len(path)?;
            let most = 16 << 20;
            if len == 0 || len > most || !len.is_multiple_of(4096) {
                return Err(MachineError::Board(format!(
                    "{}: {len} bytes; firmware is a multiple of 4096 bytes, at most {most}",
                    path.display()
                )));
            }
            b.rom("bios", FOUR_GIB - len, len);
            b.image(Image::file("bios", FOUR_GIB - len, path, 0, len));
            // The last 128 KiB are seen below 1 MiB as well.
            let shadow = len.min(128 << 10);
            b.image(Image::file("bios", (1 << 20) - shadow, path, len - shadow, shadow));
            Ok(Start::Reset)
        }
        _ => Err(MachineError::Board(
            "microvm: needs -kernel FILE (a bzImage, a Multiboot kernel, or an ELF file with a PVH entry) or -bios FILE".into(),
        )),
    }
}
