//! Tiny x86 guests of our own, and the machines that run them.

#![allow(dead_code, reason = "not every test uses all of it")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use accel::arch::GuestArch;
use accel::{Accelerator, CpuModel, IrqchipMode, LogSink};
use accel_kvm::Kvm;
use device::SystemRequest;
use guest_memory::RamConfig;
use machine::{Machine, MachineEvent, Options, realize};
use machines::{Bios, BoardConfig, RiscvCpu, microvm};

/// Ports of the guests' answers.
pub(crate) const EXIT: u16 = 0x501;

pub(crate) fn config(kernel: &Path, irqchip: IrqchipMode, append: &str) -> BoardConfig {
    BoardConfig {
        arch: GuestArch::X86_64,
        vcpus: 1,
        topology: accel::arch::x86_topology::Topology::default(),
        present: device::CpuPresence::default(),
        irqchip,
        ram: 64 << 20,
        ram_config: RamConfig::default(),
        bios: Bios::Default,
        firmware: Box::new(|_| None),
        kernel: Some(kernel.to_owned()),
        initrd: None,
        append: append.to_owned(),
        dtb: None,
        serials: Vec::new(),
        virtio: Vec::new(),
        isa: Vec::new(),
        pci: Vec::new(),
        hotplug: machines::hotplug::HotPlug::default(),
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
        properties: vec![("isa-debug-exit".to_owned(), "on".to_owned())],
        riscv: RiscvCpu::default(),
        seed: [0; 32],
    }
}

/// What the guest wrote to its exit port.
pub(crate) fn answer(events: &mpsc::Receiver<MachineEvent>) -> Option<u8> {
    match events.recv_timeout(Duration::from_secs(30)) {
        Ok(MachineEvent::Request(SystemRequest::Shutdown { code })) => code,
        other => panic!("the guest left with {other:x?}"),
    }
}

/// Boots and returns the byte that the guest wrote to the exit port; `resets` times it is reset before.
pub(crate) fn boot(kernel: &[u8], irqchip: IrqchipMode, append: &str, resets: u32) -> Option<u8> {
    let (machine, rx, _file) = machine(kernel, irqchip, append)?;
    let mut answer = None;
    for _ in 0..=resets {
        machine.start();
        answer = self::answer(&rx);
        machine.stop();
        machine.reset().unwrap();
        while rx.try_recv().is_ok() {}
    }
    answer
}

/// A machine, what it tells, and its kernel, which a reset reads again.
pub(crate) fn machine(
    kernel: &[u8],
    irqchip: IrqchipMode,
    append: &str,
) -> Option<(Arc<Machine>, mpsc::Receiver<MachineEvent>, tempfile::NamedTempFile)> {
    machine_with(kernel, irqchip, append, |_| {})
}

/// The same, of a board that `change` changes.
pub(crate) fn machine_with(
    kernel: &[u8],
    irqchip: IrqchipMode,
    append: &str,
    change: impl FnOnce(&mut BoardConfig),
) -> Option<(Arc<Machine>, mpsc::Receiver<MachineEvent>, tempfile::NamedTempFile)> {
    let accel = Kvm::new();
    if let Err(e) = accel.probe(GuestArch::X86_64) {
        println!("SKIPPED: no /dev/kvm: {e}");
        return None;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(kernel).unwrap();
    let mut config = config(file.path(), irqchip, append);
    change(&mut config);
    let board = microvm::build(&config).unwrap();
    let (tx, rx) = mpsc::channel();
    let options = Options {
        vcpus: config.vcpus,
        topology: config.topology,
        cpu: CpuModel::default(),
        irqchip,
        accel_properties: Vec::new(),
        log: LogSink::none(),
        wall_clock: None,
        events: Arc::new(move |e| {
            let _ = tx.send(e);
        }),
    };
    Some((realize(board, &accel, options).unwrap(), rx, file))
}

/// `mov edx, EXIT; out dx, al`, then sleep for good.
pub(crate) fn finish(code: &mut Vec<u8>) {
    code.push(0xba);
    code.extend(u32::from(EXIT).to_le_bytes());
    code.extend([0xee, 0xfa, 0xf4, 0xeb, 0xfd]);
}

/// An ELF file with a PVH note whose entry runs `code` in 32-bit mode.
pub(crate) fn pvh(code: &[u8]) -> Vec<u8> {
    let load = 0x10_0000u32;
    let mut note = Vec::new();
    for v in [4u32, 4, 18] {
        note.extend(v.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(load.to_le_bytes());
    let (note_at, code_at) = (0x100u32, 0x200u32);
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 3, 0]);
    for v in [1, load, 52, 0, 0] {
        elf.extend(u32::to_le_bytes(v));
    }
    for v in [52u16, 32, 2, 0, 0, 0] {
        elf.extend(v.to_le_bytes());
    }
    let n = code.len() as u32;
    for v in [1, code_at, load, load, n, n, 7, 0x1000] {
        elf.extend(u32::to_le_bytes(v));
    }
    for v in [4, note_at, 0, 0, note.len() as u32, note.len() as u32, 4, 4] {
        elf.extend(u32::to_le_bytes(v));
    }
    elf.resize(note_at as usize, 0);
    elf.extend(note);
    elf.resize(code_at as usize, 0);
    elf.extend(code);
    elf
}

/// What a byte written to the exit port becomes.
pub(crate) fn exit_code(byte: u8) -> Option<u8> {
    Some(byte << 1 | 1)
}
