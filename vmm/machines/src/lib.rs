//! Boards: one file a family, each a table of addresses and interrupts and one `build` function that records the graph.
//!
//! A board sees devices only as configs and knows no accelerator; what the user chose reaches it as a [`BoardConfig`].

mod bytes;
pub mod cpus;
mod direct;
pub mod hotplug;
mod kernel;
pub mod microvm;
pub mod pc;
pub mod riscv_virt;
mod x86;
mod x86_held;

use std::path::PathBuf;
use std::sync::Arc;

use accel::IrqchipMode;
use accel::arch::GuestArch;
use accel::arch::x86_topology::Topology;
use block::Disk;
use device::{AnyConfig, CharBackend, CpuPresence};
use guest_memory::RamConfig;
use machine::{Board, MachineError};
use pci::AnyPci;
use storage::{FloppyDrive, IdeDrive};

/// Firmware as the user chose it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Bios {
    /// The board's own, found by the caller, if it could be found.
    #[default]
    Default,
    /// None.
    None,
    /// A file.
    File(PathBuf),
}

/// What a RISC-V board must know of its harts to describe them.
#[derive(Debug, Clone, Default)]
pub struct RiscvCpu {
    /// ISA string as in `riscv,isa`.
    pub isa: String,
    /// The same as names, the base first, as in `riscv,isa-extensions`.
    pub extensions: Vec<&'static str>,
    /// Bytes of a block of cbo.clean and relatives, and of cbo.zero, where they exist.
    pub cbo_blocks: [Option<u32>; 2],
    /// Widest address translation, as in `mmu-type` after `riscv,`: `sv39`, `sv48`, ...
    pub mmu: String,
}

/// Highest number of a local APIC that interrupt messages reach.
const MAX_APIC_ID: u32 = 254;

/// Finds installed firmware by its file name.
pub type FindFirmware = dyn Fn(&str) -> Option<PathBuf>;

/// A device the user plugs.
pub struct Plugged {
    /// The user's id for it.
    pub id: String,
    /// The device.
    pub config: Box<dyn AnyConfig>,
    /// Its character back ends by slot.
    pub chardevs: Vec<(String, Arc<dyn CharBackend>)>,
}

/// A device that the user plugs into the ISA bus.
pub struct PluggedIsa {
    /// The device.
    pub device: Plugged,
    /// Its first port.
    pub port: u16,
    /// Its interrupt (output pin `irq`), if it has one.
    pub irq: Option<usize>,
}

/// A PCI function that the user plugs.
pub struct PluggedPci {
    /// The user's id for it.
    pub id: String,
    /// The function.
    pub function: Box<dyn AnyPci>,
    /// Its character back ends by slot.
    pub chardevs: Vec<(String, Arc<dyn CharBackend>)>,
    /// Bus it stands on; the root bus, or the first that fits, if there is none.
    pub bus: Option<String>,
    /// Device and function number; the next free one if there is none.
    pub address: Option<(u8, u8)>,
    /// The device has several functions.
    pub multifunction: bool,
    /// Place in the order of boot devices.
    pub boot_index: Option<u32>,
    /// The same of what hangs on it, with firmware's name of that behind the function's own.
    pub boot_behind: Vec<(u32, String)>,
}

/// A drive on a controller of the board's own that firmware may boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDrive {
    /// By its place on the disk controller.
    Ide(usize),
    /// By its number.
    Floppy(usize),
}

/// A graphics card that the board places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VgaCard {
    /// VGA with Bochs VBE.
    Standard,
    /// Cirrus CL-GD5446, on PCI.
    Cirrus,
}

/// What the user chose.
pub struct BoardConfig {
    /// Guest architecture.
    pub arch: GuestArch,
    /// Number of vCPUs, of which some may not be there yet.
    pub vcpus: u32,
    /// Where they are in packages and cores, on x86.
    pub topology: Topology,
    /// Which of them are there, on boards where they come and go.
    pub present: CpuPresence,
    /// Where the interrupt controllers are to live, on boards that leave the choice.
    pub irqchip: IrqchipMode,
    /// Bytes of RAM.
    pub ram: u64,
    /// What backs it.
    pub ram_config: RamConfig,
    /// Firmware.
    pub bios: Bios,
    /// Where default firmware was found, by file name.
    pub firmware: Box<FindFirmware>,
    /// Kernel image.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub append: String,
    /// Device tree to use instead of the generated one.
    pub dtb: Option<PathBuf>,
    /// Serial ports.
    pub serials: Vec<Option<Arc<dyn CharBackend>>>,
    /// virtio-mmio transports to plug.
    pub virtio: Vec<Plugged>,
    /// Devices to plug into the ISA bus.
    pub isa: Vec<PluggedIsa>,
    /// Functions to plug into PCI buses.
    pub pci: Vec<PluggedPci>,
    /// Where the board leaves word of the places of functions that are plugged later.
    pub hotplug: hotplug::HotPlug,
    /// Drives on the board's own disk controller, by their place on it.
    pub ide: Vec<(usize, IdeDrive)>,
    /// Floppy drives.
    pub floppies: [Option<FloppyDrive>; 2],
    /// Places of drives in the order of boot devices.
    pub boot_drives: Vec<(u32, BootDrive)>,
    /// The board's graphics card.
    pub vga: Option<VgaCard>,
    /// Files for firmware by name (`-fw_cfg`).
    pub fw_cfg: Vec<(String, Vec<u8>)>,
    /// What is tried in what order to boot from, one letter each, of classes: `a` floppy, `c` disk, `d` CD, `n` network.
    pub boot_order: String,
    /// Whether firmware shows a menu, and for how many milliseconds.
    pub boot_menu: Option<u32>,
    /// Nobody looks at a display: firmware is to use the serial port.
    pub no_graphics: bool,
    /// Contents of the flash chips, that with the code first.
    pub flash: Vec<Disk>,
    /// The accelerator has x86's system management mode.
    pub smm: bool,
    /// The machine's identity in SMBIOS and for firmware.
    pub uuid: Option<[u8; 16]>,
    /// Board properties (`-M NAME,key=value`).
    pub properties: Vec<(String, String)>,
    /// Harts, on RISC-V.
    pub riscv: RiscvCpu,
    /// Seed for the guest's random number generator.
    pub seed: [u8; 32],
}

/// A board family.
#[derive(Debug, Clone, Copy)]
pub struct BoardKind {
    /// Name as in `-M NAME`.
    pub name: &'static str,
    /// One line about it.
    pub help: &'static str,
    /// Guest architectures it is built for.
    pub archs: &'static [GuestArch],
    /// Bytes of RAM if the user gives none.
    pub default_ram: u64,
    /// Most vCPUs.
    pub max_vcpus: u32,
    /// Levels of the processors' topology beside sockets, cores and threads.
    pub levels: &'static [&'static str],
    /// Processors can come and go.
    pub cpu_hotplug: bool,
    /// Properties with a line about each.
    pub properties: &'static [(&'static str, &'static str)],
    /// Whether it has an ISA bus.
    pub isa: bool,
    /// Whether it has a PCI bus.
    pub pci: bool,
    /// The network card that `-nic` without a model is.
    pub nic: &'static str,
    /// Places for drives on its own disk controller.
    pub ide: usize,
    /// Whether it has a floppy disk controller.
    pub floppy: bool,
    /// Whether it has a place for a graphics card.
    pub vga: bool,
    /// Flash chips it takes.
    pub flash: usize,
    /// Whether the user can give it files for firmware and guest.
    pub fw_cfg: bool,
    /// Records the board.
    pub build: fn(&BoardConfig) -> Result<Board, MachineError>,
}

impl BoardConfig {
    /// Numbers of the vCPUs' local APICs, on x86.
    pub(crate) fn apic_ids(&self) -> Vec<u32> {
        (0..self.vcpus).map(|cpu| self.topology.apic_id(cpu)).collect()
    }
}

impl BoardKind {
    /// Refuses what no board of this kind can be, before anything is opened.
    pub fn check(&self, c: &BoardConfig) -> Result<(), MachineError> {
        if c.vcpus == 0 || c.vcpus > self.max_vcpus {
            return Err(MachineError::Board(format!(
                "{}: {} vcpus; there can be 1 to {}",
                self.name, c.vcpus, self.max_vcpus
            )));
        }
        if self.archs.contains(&GuestArch::X86_64)
            && let Some(id) = c.apic_ids().into_iter().find(|id| *id > MAX_APIC_ID)
        {
            return Err(MachineError::Board(format!(
                "{}: this topology gives a local APIC the number {id}; expected at most {MAX_APIC_ID}",
                self.name
            )));
        }
        if let Some(d) = c.isa.first().filter(|_| !self.isa) {
            return Err(MachineError::Board(format!(
                "{}: there is no ISA bus for '{}'; plugged devices are those on virtio-mmio",
                self.name,
                d.device.config.kind()
            )));
        }
        for (k, _) in &c.properties {
            if !self.properties.iter().any(|(p, _)| p == k) {
                let known: Vec<_> = self.properties.iter().map(|(p, _)| *p).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(MachineError::Board(format!(
                    "{}: no property '{k}'; there are: {known}",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

/// All boards.
pub const BOARDS: &[BoardKind] = &[riscv_virt::KIND, pc::PC, pc::Q35, pc::ISAPC, microvm::KIND];
