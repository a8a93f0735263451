//! `virt` for RISC-V: a paravirtual board with the memory map that firmware and kernels expect of it.
//!
//! ACLINT (timer and software interrupts), PLIC, one 16550, Goldfish RTC, a test device for power-off and reset, and eight
//! virtio-mmio slots. The harts start in a ROM that hands the firmware the device tree and OpenSBI's dynamic
//! information (OpenSBI documentation, "FW_DYNAMIC").

use accel::arch::{CpuState, GuestArch};
use guest_memory::Unassigned;
use intc::PlicConfig;
use machine::fdt::{Fdt, Prop};
use machine::{Board, Dest, Image, MachineError};
use misc::SifiveTestConfig;
use serial::Ns16550Config;
use timer::{AclintConfig, GoldfishRtcConfig};

use crate::kernel::{self, Loaded};
use crate::{Bios, BoardConfig, BoardKind};

const TEST: u64 = 0x10_0000;
const RTC: u64 = 0x10_1000;
const CLINT: u64 = 0x200_0000;
const PLIC: u64 = 0xc00_0000;
const UART: u64 = 0x1000_0000;
const VIRTIO: u64 = 0x1000_1000;
const VIRTIO_STEP: u64 = 0x1000;
const VIRTIO_SLOTS: usize = 8;
const DRAM: u64 = 0x8000_0000;
const ROM: u64 = 0x1000;
const ROM_SIZE: u64 = 0xf000;

const VIRTIO_IRQ: usize = 1;
const UART_IRQ: usize = 10;
const RTC_IRQ: usize = 11;
const PLIC_SOURCES: usize = 95;

const TIMEBASE: u64 = 10_000_000;
/// OpenSBI's documented magic, `OSBI` backwards.
const FW_DYNAMIC_MAGIC: u64 = 0x4942_534f;
const MAX_VCPUS: u32 = 64;

/// The board.
pub const KIND: BoardKind = BoardKind {
    name: "virt",
    help: "RISC-V paravirtual board",
    archs: &[GuestArch::Riscv64, GuestArch::Riscv32],
    default_ram: 128 << 20,
    max_vcpus: MAX_VCPUS,
    levels: &[],
    cpu_hotplug: false,
    properties: &[],
    isa: false,
    pci: false,
    nic: "virtio-net-device",
    ide: 0,
    floppy: false,
    vga: false,
    flash: 0,
    fw_cfg: false,
    build,
};

/// Interrupt causes of a hart, as lines of a vCPU.
mod cause {
    pub(super) const MSIP: u32 = 3;
    pub(super) const MTIP: u32 = 7;
    pub(super) const SEIP: u32 = 9;
    pub(super) const MEIP: u32 = 11;
}

/// Phandles of the device tree.
const PHANDLE_PLIC: u32 = 1;
const PHANDLE_TEST: u32 = 2;
const PHANDLE_CPU: u32 = 16;

fn plic(index: usize) -> Dest {
    Dest::Device { device: "plic".into(), pin: "source".into(), index }
}

fn is_64(c: &BoardConfig) -> bool {
    c.arch == GuestArch::Riscv64
}

/// Records the board.
pub fn build(c: &BoardConfig) -> Result<Board, MachineError> {
    KIND.check(c)?;
    let most = if is_64(c) { 1 << 45 } else { 2 << 30 };
    if c.ram > most {
        return Err(MachineError::Board(format!(
            "virt: {} MiB of RAM; at most {} are possible",
            c.ram >> 20,
            most >> 20
        )));
    }
    let mut b = Board::new("virt", c.arch, Unassigned::Fault);
    b.timebase(TIMEBASE);
    b.rom("mrom", ROM, ROM_SIZE);
    b.ram("ram", DRAM, c.ram, c.ram_config.clone());
    add_devices(&mut b, c)?;
    place(&mut b, c)?;
    b.cpu_init(|_, s| {
        if let CpuState::Riscv(s) = s {
            s.pc = ROM;
        }
    });
    Ok(b)
}

fn add_devices(b: &mut Board, c: &BoardConfig) -> Result<(), MachineError> {
    let harts = c.vcpus;
    b.add("test", SifiveTestConfig::default()).mmio(0, TEST).fdt(
        "test",
        [
            ("compatible", Prop::Strings(vec!["sifive,test1", "sifive,test0", "syscon"])),
            ("phandle", Prop::U32(PHANDLE_TEST)),
        ],
    );
    let rtc = b.add("rtc", GoldfishRtcConfig::default());
    rtc.mmio(0, RTC).irq("irq", plic(RTC_IRQ));
    rtc.fdt("rtc", [("compatible", Prop::Str("google,goldfish-rtc".into()))]);
    let clint = b.add("clint", AclintConfig { harts, timebase: TIMEBASE });
    clint.mmio(0, CLINT);
    for cpu in 0..harts {
        clint.irq_at("msip", cpu as usize, Dest::Cpu { cpu, line: cause::MSIP });
        clint.irq_at("mtip", cpu as usize, Dest::Cpu { cpu, line: cause::MTIP });
    }
    clint.fdt("clint", [("compatible", Prop::Strings(vec!["sifive,clint0", "riscv,clint0"]))]);
    let contexts = harts * 2;
    let p = b.add("plic", PlicConfig { sources: PLIC_SOURCES as u32, contexts, ..Default::default() });
    p.mmio(0, PLIC);
    for cpu in 0..harts {
        p.irq_at("context", cpu as usize * 2, Dest::Cpu { cpu, line: cause::MEIP });
        p.irq_at("context", cpu as usize * 2 + 1, Dest::Cpu { cpu, line: cause::SEIP });
    }
    p.fdt(
        "plic",
        [
            ("compatible", Prop::Strings(vec!["sifive,plic-1.0.0", "riscv,plic0"])),
            ("#interrupt-cells", Prop::U32(1)),
            ("#address-cells", Prop::U32(0)),
            ("interrupt-controller", Prop::Empty),
            ("riscv,ndev", Prop::U32(PLIC_SOURCES as u32)),
            ("phandle", Prop::U32(PHANDLE_PLIC)),
        ],
    );
    let uart = b.add("serial0", Ns16550Config { baudbase: 230_400, ..Default::default() });
    uart.mmio(0, UART).irq("irq", plic(UART_IRQ));
    uart.chardev("chardev", c.serials.first().cloned().flatten());
    uart.fdt(
        "serial",
        [("compatible", Prop::Str("ns16550a".into())), ("clock-frequency", Prop::U32(3_686_400))],
    );
    if c.virtio.len() > VIRTIO_SLOTS {
        return Err(MachineError::Board(format!(
            "virt: {} virtio devices; there are {VIRTIO_SLOTS} slots",
            c.virtio.len()
        )));
    }
    for (i, p) in c.virtio.iter().enumerate() {
        let n = b.plug(&p.id, p.config.as_ref(), &p.chardevs);
        n.mmio(0, VIRTIO + i as u64 * VIRTIO_STEP).irq("irq", plic(VIRTIO_IRQ + i)).dma();
        n.fdt(
            "virtio_mmio",
            [("compatible", Prop::Str("virtio,mmio".into())), ("dma-coherent", Prop::Empty)],
        );
    }
    Ok(())
}

/// Memory a RISC-V `Image` needs (Linux documentation, "Boot image header in RISC-V Linux").
fn image_size(head: &[u8]) -> Option<u64> {
    (head.get(56..60)? == b"RSC\x05").then(|| u64::from_le_bytes(head[16..24].try_into().unwrap_or_default()))
}

/// Puts firmware, kernel, initial RAM disk, device tree and the reset ROM where they belong.
fn place(b: &mut Board, c: &BoardConfig) -> Result<(), MachineError> {
    let align = if is_64(c) { 2 << 20 } else { 4 << 20 };
    let top = DRAM + c.ram;
    let bios = match &c.bios {
        Bios::None => None,
        Bios::File(p) => Some((c.firmware)(&p.to_string_lossy()).unwrap_or_else(|| p.clone())),
        Bios::Default => {
            let bits = if is_64(c) { "64" } else { "32" };
            let found = (c.firmware)(&format!("opensbi-riscv{bits}-generic-fw_dynamic.bin"));
            Some(found.ok_or_else(|| {
                MachineError::Board(
                    "virt: OpenSBI was not found; install the Debian package 'opensbi', or give -bios FILE or -bios none".into(),
                )
            })?)
        }
    };
    let firmware: Option<Loaded> = bios.map(|p| kernel::load(&p, "firmware", DRAM, |_| None)).transpose()?;
    let free = firmware.as_ref().map_or(DRAM, |f| f.end.max(DRAM + 1));
    let kernel_at = free.div_ceil(align) * align;
    let kernel: Option<Loaded> =
        c.kernel.as_ref().map(|p| kernel::load(p, "kernel", kernel_at, image_size)).transpose()?;
    let after = kernel.as_ref().map_or(free, |k| k.end);
    // High enough for any kernel, low enough for a 32-bit one's map.
    let fdt_room = 64 << 10;
    let fdt_at = (top.min(DRAM + (1 << 30)) - fdt_room) & !((2 << 20) - 1);
    let mut initrd = None;
    if let Some(p) = &c.initrd {
        let len = kernel::file_len(p)?;
        let at = fdt_at.saturating_sub(len) & !0xfff;
        if at < after || at < DRAM {
            return Err(MachineError::Board(format!(
                "{}: {len} bytes do not fit into {} MiB of RAM behind the kernel",
                p.display(),
                c.ram >> 20
            )));
        }
        b.image(Image::file("initrd", at, p, 0, len));
        initrd = Some((at, at + len));
    }
    if after > fdt_at {
        return Err(MachineError::Board(format!(
            "virt: {} MiB of RAM are too few for firmware, kernel and device tree",
            c.ram >> 20
        )));
    }
    let start = match (&firmware, &kernel) {
        (Some(f), _) => f.entry,
        (None, Some(k)) => k.entry,
        (None, None) => DRAM,
    };
    let next = kernel.as_ref().map_or(0, |k| k.entry);
    for i in firmware.into_iter().chain(kernel).flat_map(|l| l.images) {
        b.image(i);
    }
    match &c.dtb {
        Some(p) => {
            let len = kernel::file_len(p)?;
            b.image(Image::file("dtb", fdt_at, p, 0, len));
        }
        None => {
            let blob = device_tree(b, c, initrd)?;
            if blob.len() as u64 > fdt_room {
                return Err(MachineError::Board(format!(
                    "virt: device tree of {} bytes is too long",
                    blob.len()
                )));
            }
            b.image(Image::bytes("dtb", fdt_at, blob));
        }
    }
    b.image(Image::bytes("reset", ROM, reset_rom(is_64(c), start, fdt_at, next)));
    Ok(())
}

/// The code harts start with, its data behind it: a0 = hart, a1 = device tree, a2 = dynamic information.
fn reset_rom(is_64: bool, start: u64, fdt: u64, next: u64) -> Vec<u8> {
    const T0: u32 = 5;
    let load =
        |rd: u32, offset: u32| offset << 20 | T0 << 15 | if is_64 { 3 } else { 2 } << 12 | rd << 7 | 0x03;
    let addi = |rd: u32, imm: u32| imm << 20 | T0 << 15 | rd << 7 | 0x13;
    let word = if is_64 { 8 } else { 4 };
    let data = 6 * 4;
    let code = [
        T0 << 7 | 0x17,                         // auipc t0, 0
        addi(12, data + 2 * word),              // a2 = dynamic information
        0xf14 << 20 | 2 << 12 | 10 << 7 | 0x73, // csrr a0, mhartid
        load(11, data + word),                  // a1 = device tree
        load(T0, data),                         // t0 = start
        T0 << 15 | 0x67,                        // jr t0
    ];
    let mut rom: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
    // Next stage in S mode, no options, the boot hart is chosen by lottery.
    let info = [FW_DYNAMIC_MAGIC, 2, next, 1, 0, 0];
    for v in [start, fdt].into_iter().chain(info) {
        rom.extend_from_slice(&v.to_le_bytes()[..word as usize]);
    }
    rom
}

fn interrupt(d: &Dest) -> Option<Vec<u32>> {
    match d {
        Dest::Device { device, index, .. } if device == "plic" => Some(vec![PHANDLE_PLIC, *index as u32]),
        Dest::Cpu { cpu, line } => Some(vec![PHANDLE_CPU + cpu, *line]),
        _ => None,
    }
}

fn device_tree(b: &Board, c: &BoardConfig, initrd: Option<(u64, u64)>) -> Result<Vec<u8>, MachineError> {
    let mut t = Fdt::new()?;
    let cells = |n| Prop::U32(n);
    t.props([
        ("#address-cells", cells(2)),
        ("#size-cells", cells(2)),
        ("compatible", Prop::Str("riscv-virtio".into())),
        ("model", Prop::Str("riscv-virtio,rhea".into())),
    ])?;
    t.begin("chosen")?;
    t.prop("stdout-path", &Prop::Str(format!("/soc/serial@{UART:x}")))?;
    if !c.append.is_empty() {
        t.prop("bootargs", &Prop::Str(c.append.clone()))?;
    }
    if let Some((start, end)) = initrd {
        t.prop("linux,initrd-start", &Prop::U64(start))?;
        t.prop("linux,initrd-end", &Prop::U64(end))?;
    }
    let seed = c.seed.chunks(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]])).collect();
    t.prop("rng-seed", &Prop::Cells(seed))?;
    t.end()?;
    t.begin(&format!("memory@{DRAM:x}"))?;
    t.prop("device_type", &Prop::Str("memory".into()))?;
    let split = |v: u64| [(v >> 32) as u32, v as u32];
    t.prop("reg", &Prop::Cells([split(DRAM), split(c.ram)].concat()))?;
    t.end()?;
    cpus(&mut t, c)?;
    for (name, value) in [("poweroff", 0x5555), ("reboot", 0x7777)] {
        t.begin(name)?;
        t.props([
            ("compatible", Prop::Str(format!("syscon-{name}"))),
            ("regmap", Prop::U32(PHANDLE_TEST)),
            ("offset", Prop::U32(0)),
            ("value", Prop::U32(value)),
        ])?;
        t.end()?;
    }
    t.begin("soc")?;
    t.props([
        ("#address-cells", cells(2)),
        ("#size-cells", cells(2)),
        ("compatible", Prop::Str("simple-bus".into())),
        ("ranges", Prop::Empty),
    ])?;
    t.devices(b, &interrupt)?;
    t.end()?;
    t.finish()
}

fn cpus(t: &mut Fdt, c: &BoardConfig) -> Result<(), MachineError> {
    t.begin("cpus")?;
    t.props([
        ("#address-cells", Prop::U32(1)),
        ("#size-cells", Prop::U32(0)),
        ("timebase-frequency", Prop::U32(TIMEBASE as u32)),
    ])?;
    for h in 0..c.vcpus {
        t.begin(&format!("cpu@{h:x}"))?;
        t.props([
            ("device_type", Prop::Str("cpu".into())),
            ("reg", Prop::U32(h)),
            ("status", Prop::Str("okay".into())),
            ("compatible", Prop::Str("riscv".into())),
            ("riscv,isa", Prop::Str(c.riscv.isa.clone())),
            ("riscv,isa-base", Prop::Str(if is_64(c) { "rv64i" } else { "rv32i" }.into())),
            ("riscv,isa-extensions", Prop::Strings(c.riscv.extensions.clone())),
            ("mmu-type", Prop::Str(format!("riscv,{}", c.riscv.mmu))),
        ])?;
        // Without these a kernel does not use the instructions.
        for (name, block) in
            ["riscv,cbom-block-size", "riscv,cboz-block-size"].into_iter().zip(c.riscv.cbo_blocks)
        {
            if let Some(block) = block {
                t.prop(name, &Prop::U32(block))?;
            }
        }
        t.begin("interrupt-controller")?;
        t.props([
            ("#interrupt-cells", Prop::U32(1)),
            ("interrupt-controller", Prop::Empty),
            ("compatible", Prop::Str("riscv,cpu-intc".into())),
            ("phandle", Prop::U32(PHANDLE_CPU + h)),
        ])?;
        t.end()?;
        t.end()?;
    }
    t.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RiscvCpu;

    fn config(arch: GuestArch) -> BoardConfig {
        BoardConfig {
            arch,
            vcpus: 3,
            topology: accel::arch::x86_topology::Topology::default(),
            present: device::CpuPresence::default(),
            irqchip: accel::IrqchipMode::User,
            ram: 64 << 20,
            ram_config: guest_memory::RamConfig::default(),
            bios: Bios::None,
            firmware: Box::new(|_| None),
            kernel: None,
            initrd: None,
            append: "console=ttyS0".to_owned(),
            dtb: None,
            serials: Vec::new(),
            virtio: Vec::new(),
            isa: Vec::new(),
            pci: Vec::new(),
            hotplug: crate::hotplug::HotPlug::default(),
            ide: Vec::new(),
            floppies: [None, None],
            boot_drives: Vec::new(),
            vga: None,
            fw_cfg: Vec::new(),
            boot_order: String::new(),
            boot_menu: None,
            no_graphics: false,
            flash: Vec::new(),
            smm: false,
            uuid: None,
            properties: Vec::new(),
            riscv: RiscvCpu {
                isa: "rv64imac_zicbom".to_owned(),
                extensions: vec!["i", "m", "a", "c", "zicbom"],
                cbo_blocks: [Some(64), None],
                mmu: "sv39".to_owned(),
            },
            seed: [0; 32],
        }
    }

    #[test]
    fn the_device_tree_tells_what_the_harts_are() {
        let c = config(GuestArch::Riscv64);
        let board = build(&c).expect("the board is complete");
        let tree = device_tree(&board, &c, None).expect("the tree is well formed");
        let has = |bytes: &[u8]| tree.windows(bytes.len()).filter(|w| *w == bytes).count();
        assert_eq!(has(b"rv64imac_zicbom\0"), 3);
        assert_eq!(has(b"i\0m\0a\0c\0zicbom\0"), 3);
        assert_eq!((has(b"rv64i\0"), has(b"riscv,sv39\0"), has(b"console=ttyS0\0")), (3, 3, 1));
        // Names stand once in the table of strings.
        assert_eq!((has(b"riscv,cbom-block-size\0"), has(b"riscv,cboz-block-size\0")), (1, 0));
        assert_eq!((has(b"riscv,isa-base\0"), has(b"riscv,isa-extensions\0")), (1, 1));
    }

    #[test]
    fn more_memory_than_the_width_holds_is_refused() {
        let mut c = config(GuestArch::Riscv32);
        c.ram = 3 << 30;
        let said = build(&c).map(|_| ()).expect_err("more than 32 bits hold").to_string();
        assert!(said.contains("3072 MiB"), "{said}");
    }
}
