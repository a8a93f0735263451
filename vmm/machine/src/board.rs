//! A board as a graph: what there is, where it sits, what is wired to what. Recording only; nothing is built, opened
//! or allocated until [`realize`](crate::realize).

use std::fmt::{self, Write};
use std::sync::Arc;

use accel::arch::{CpuState, GuestArch};
use device::{AnyConfig, CharBackend, CpuPresence, DeviceConfig, PropertyError};
use guest_memory::{RamConfig, Unassigned};

use crate::fdt::Prop;
use crate::held::HeldState;
use crate::image::Image;

/// Which address space a region is mapped into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Guest physical memory.
    Memory,
    /// Port I/O.
    Ports,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Ports => "ports",
        })
    }
}

/// Where an output pin leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// Input pin `index` of row `pin` of another device.
    Device {
        /// Name of the device.
        device: String,
        /// Row.
        pin: String,
        /// Pin of the row.
        index: usize,
    },
    /// Interrupt input `line` of a vCPU (numbers as in `accel::VcpuLines`).
    Cpu {
        /// vCPU.
        cpu: u32,
        /// Line.
        line: u32,
    },
    /// NMI of a vCPU.
    Nmi(u32),
    /// System management interrupt of a vCPU (x86).
    Smi(u32),
    /// The gate of address line 20 of all vCPUs (x86): open while the wire is high.
    A20,
    /// Global interrupt of an in-kernel controller.
    Gsi(u32),
}

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { device, pin, index } => write!(f, "{device}.{pin}[{index}]"),
            Self::Cpu { cpu, line } => write!(f, "cpu{cpu}.line{line}"),
            Self::Nmi(cpu) => write!(f, "cpu{cpu}.nmi"),
            Self::Smi(cpu) => write!(f, "cpu{cpu}.smi"),
            Self::A20 => f.write_str("a20"),
            Self::Gsi(n) => write!(f, "gsi{n}"),
        }
    }
}

/// One mapping of a device's region.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub(crate) space: Space,
    pub(crate) region: usize,
    pub(crate) base: u64,
    /// Lies in this container rather than in the space itself.
    pub(crate) container: Option<&'static str>,
}

/// One wire.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) pin: String,
    pub(crate) index: usize,
    pub(crate) dest: Dest,
}

/// How a device appears in the device tree: node name, properties besides `reg` and interrupts, and whether those are
/// made from the graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct FdtNode {
    pub(crate) name: String,
    pub(crate) props: Vec<(String, Prop)>,
}

/// Where a wire to input pin (row, index) of a device leads when the accelerator plays the device; nowhere if the same
/// signal comes by another wire.
pub type HeldInput = fn(&str, usize) -> Option<Dest>;

/// One device of the graph.
pub struct Node {
    pub(crate) name: String,
    pub(crate) config: Box<dyn AnyConfig>,
    pub(crate) maps: Vec<Mapped>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) chardevs: Vec<(String, Arc<dyn CharBackend>)>,
    pub(crate) dma: bool,
    pub(crate) fdt: Option<FdtNode>,
    /// Put there by the user, not by the board.
    pub(crate) plugged: bool,
    /// The accelerator plays it: where what is wired to its inputs leads instead.
    pub(crate) held: Option<HeldInput>,
}

impl Node {
    /// A device without anything yet.
    fn new(name: &str, config: Box<dyn AnyConfig>) -> Self {
        Node {
            name: name.into(),
            config,
            maps: Vec::new(),
            wires: Vec::new(),
            chardevs: Vec::new(),
            dma: false,
            fdt: None,
            plugged: false,
            held: None,
        }
    }

    /// A device that the user plugs, with its character back ends by slot.
    pub fn plugged(name: &str, config: &dyn AnyConfig, chardevs: &[(String, Arc<dyn CharBackend>)]) -> Self {
        Node { plugged: true, chardevs: chardevs.to_vec(), ..Node::new(name, config.boxed_clone()) }
    }

    /// Its part of the graph as text.
    pub(crate) fn describe(&self) -> String {
        let mut t = format!("device {} {}\n", self.name, self.config.kind());
        let regions = self.config.regions();
        for m in &self.maps {
            let (name, size) = regions.get(m.region).map_or(("?", 0), |r| (r.name.as_ref(), r.size));
            let _ = writeln!(t, "  {} {name} {:#x}+{size:#x}", m.space, m.base);
        }
        for w in &self.wires {
            let _ = writeln!(t, "  {}[{}] -> {}", w.pin, w.index, w.dest);
        }
        t
    }

    /// Maps region `region` into guest physical memory.
    pub fn mmio(&mut self, region: usize, base: u64) -> &mut Self {
        self.maps.push(Mapped { space: Space::Memory, region, base, container: None });
        self
    }

    /// Maps region `region` into a container of guest physical memory, which is seen where nothing lies over it.
    pub fn mmio_in(&mut self, container: &'static str, region: usize, base: u64) -> &mut Self {
        self.maps.push(Mapped { space: Space::Memory, region, base, container: Some(container) });
        self
    }

    /// Maps region `region` into port space.
    pub fn pio(&mut self, region: usize, base: u16) -> &mut Self {
        self.maps.push(Mapped { space: Space::Ports, region, base: base.into(), container: None });
        self
    }

    /// Wires the single output pin `pin`.
    pub fn irq(&mut self, pin: &str, dest: Dest) -> &mut Self {
        self.irq_at(pin, 0, dest)
    }

    /// Wires pin `index` of output row `pin`. A pin that is wired several times leads to all these places.
    pub fn irq_at(&mut self, pin: &str, index: usize, dest: Dest) -> &mut Self {
        self.wires.push(Wire { pin: pin.into(), index, dest });
        self
    }

    /// Gives character slot `slot` a backend.
    pub fn chardev(&mut self, slot: &str, backend: Option<Arc<dyn CharBackend>>) -> &mut Self {
        self.chardevs.extend(backend.map(|b| (slot.to_owned(), b)));
        self
    }

    /// Makes the device a bus master.
    pub fn dma(&mut self) -> &mut Self {
        self.dma = true;
        self
    }

    /// Leaves the device to the accelerator: nothing is built for it, and wires to it lead where `input` says. It stays in
    /// the graph, as the guest sees the same machine, and in saved machines, by [`Board::held_state`].
    pub fn held(&mut self, input: HeldInput) -> &mut Self {
        self.held = Some(input);
        self
    }

    /// Shows the device in the device tree under `name`; its unit address, `reg` and interrupts come from the graph.
    pub fn fdt(&mut self, name: &str, props: impl IntoIterator<Item = (&'static str, Prop)>) -> &mut Self {
        let props = props.into_iter().map(|(n, p)| (n.to_owned(), p)).collect();
        self.fdt = Some(FdtNode { name: name.into(), props });
        self
    }
}

/// A piece of RAM or ROM.
#[derive(Debug, Clone)]
pub(crate) struct Ram {
    pub(crate) name: String,
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) config: RamConfig,
    pub(crate) rom: bool,
    pub(crate) container: Option<&'static str>,
}

/// A second look at part of a piece of RAM or ROM.
#[derive(Debug, Clone)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) of: String,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) base: u64,
    pub(crate) container: Option<&'static str>,
}

/// What a vCPU starts from: changes the state after reset of vCPU number `index`.
pub type CpuInit = Arc<dyn Fn(u32, &mut CpuState) + Send + Sync>;

/// A board being recorded.
pub struct Board {
    pub(crate) name: String,
    pub(crate) arch: GuestArch,
    pub(crate) unassigned: Unassigned,
    pub(crate) ports: bool,
    /// Containers over all of guest physical memory, which lie below what is placed in the space itself.
    pub(crate) containers: Vec<&'static str>,
    pub(crate) rams: Vec<Ram>,
    pub(crate) aliases: Vec<Alias>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) images: Vec<Image>,
    pub(crate) cpu_init: Option<CpuInit>,
    pub(crate) timebase_hz: u64,
    pub(crate) power_button: Option<Dest>,
    /// Which vCPUs are there.
    pub(crate) present: CpuPresence,
    pub(crate) held_state: Option<Arc<dyn HeldState>>,
    /// Where in the graph devices go that are plugged later; at the end if nowhere.
    pub(crate) plug_at: Option<usize>,
}

impl Board {
    /// An empty board. `unassigned` says what an access to nothing does.
    #[must_use]
    pub fn new(name: &str, arch: GuestArch, unassigned: Unassigned) -> Self {
        Self {
            name: name.into(),
            arch,
            unassigned,
            ports: false,
            containers: Vec::new(),
            rams: Vec::new(),
            aliases: Vec::new(),
            nodes: Vec::new(),
            images: Vec::new(),
            cpu_init: None,
            timebase_hz: 1_000_000_000,
            power_button: None,
            present: CpuPresence::default(),
            held_state: None,
            plug_at: None,
        }
    }

    /// Gives the board a port space.
    pub fn with_ports(&mut self) -> &mut Self {
        self.ports = true;
        self
    }

    /// Frequency of the guest-visible time base.
    pub fn timebase(&mut self, hz: u64) -> &mut Self {
        self.timebase_hz = hz;
        self
    }

    /// RAM.
    pub fn ram(&mut self, name: &str, base: u64, size: u64, config: RamConfig) -> &mut Self {
        self.rams.push(Ram { name: name.into(), base, size, config, rom: false, container: None });
        self
    }

    /// ROM; its contents are an image.
    pub fn rom(&mut self, name: &str, base: u64, size: u64) -> &mut Self {
        self.rams.push(Ram {
            name: name.into(),
            base,
            size,
            config: RamConfig::default(),
            rom: true,
            container: None,
        });
        self
    }

    /// Adds a container over all of guest physical memory: a space of its own, seen where nothing else lies.
    pub fn container(&mut self, name: &'static str) -> &mut Self {
        self.containers.push(name);
        self
    }

    /// Moves the RAM or ROM recorded last into a container.
    pub fn within(&mut self, container: &'static str) -> &mut Self {
        if let Some(ram) = self.rams.last_mut() {
            ram.container = Some(container);
        }
        self
    }

    /// Shows `size` bytes of the RAM or ROM `of`, or of a device's region (`DEVICE.REGION`), from `offset` once more at `base`,
    /// in the container that holds it.
    pub fn alias(&mut self, name: &str, of: &str, offset: u64, size: u64, base: u64) -> &mut Self {
        let ram = self.rams.iter().find(|r| r.name == of).and_then(|r| r.container);
        let device = of.split_once('.').and_then(|(name, _)| self.nodes.iter().find(|n| n.name == name));
        let container = ram.or_else(|| device.and_then(|n| n.maps.first()).and_then(|m| m.container));
        self.aliases.push(Alias { name: name.into(), of: of.into(), offset, size, base, container });
        self
    }

    /// Puts an image into RAM or ROM at power-on and at every reset.
    pub fn image(&mut self, image: Image) -> &mut Self {
        self.images.push(image);
        self
    }

    /// Adds a device.
    pub fn add(&mut self, name: &str, config: impl DeviceConfig) -> &mut Node {
        self.add_any(name, Box::new(config))
    }

    /// Adds a device whose kind was chosen at run time.
    pub fn add_any(&mut self, name: &str, config: Box<dyn AnyConfig>) -> &mut Node {
        self.add_node(Node::new(name, config))
    }

    /// Adds a device that is wired already.
    pub fn add_node(&mut self, node: Node) -> &mut Node {
        let at = self.nodes.len();
        self.nodes.push(node);
        &mut self.nodes[at]
    }

    /// A device recorded before, to be wired further.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|n| n.name == name)
    }

    /// Adds a device that the user plugs, with its character back ends by slot.
    pub fn plug(
        &mut self,
        name: &str,
        config: &dyn AnyConfig,
        chardevs: &[(String, Arc<dyn CharBackend>)],
    ) -> &mut Node {
        self.add_node(Node::plugged(name, config, chardevs))
    }

    /// What is plugged while the machine runs stands in the graph where the next device does now: behind what the user plugs
    /// from the start, so that both are one machine.
    pub fn plug_here(&mut self) -> &mut Self {
        self.plug_at = Some(self.nodes.len());
        self
    }

    /// Sets a property of all devices of `kind` that are the board's own. True if there are any.
    pub fn set_global(&mut self, kind: &str, name: &str, value: &str) -> Result<bool, PropertyError> {
        let mut found = false;
        for node in self.nodes.iter_mut().filter(|n| !n.plugged && n.config.kind() == kind) {
            node.config.set(name, value)?;
            found = true;
        }
        Ok(found)
    }

    /// What vCPUs start from.
    pub fn cpu_init(&mut self, f: impl Fn(u32, &mut CpuState) + Send + Sync + 'static) -> &mut Self {
        self.cpu_init = Some(Arc::new(f));
        self
    }

    /// The input that a press of the power button pulses.
    pub fn power_button(&mut self, dest: Dest) -> &mut Self {
        self.power_button = Some(dest);
        self
    }

    /// Which vCPUs are there, on boards where they come and go.
    pub fn cpus(&mut self, present: CpuPresence) -> &mut Self {
        self.present = present;
        self
    }

    /// Who translates between the accelerator's controllers and the saved devices that they play.
    pub fn held_state(&mut self, held: Arc<dyn HeldState>) -> &mut Self {
        self.held_state = Some(held);
        self
    }

    /// The graph as text, one line a thing, in the order recorded: golden tests compare it, and snapshots of different
    /// boards tell apart by it.
    #[must_use]
    pub fn describe(&self) -> String {
        self.nodes.iter().fold(self.describe_memory(), |text, n| text + &n.describe())
    }

    /// The graph's text before its devices.
    pub(crate) fn describe_memory(&self) -> String {
        let mut t = format!("board {} ({})\n", self.name, self.arch);
        for r in &self.rams {
            let kind = if r.rom { "rom" } else { "ram" };
            let within = r.container.map_or(String::new(), |c| format!(" in {c}"));
            let _ = writeln!(t, "{kind} {} {:#x}+{:#x}{within}", r.name, r.base, r.size);
        }
        for a in &self.aliases {
            let _ = writeln!(t, "alias {} of {}+{:#x} {:#x}+{:#x}", a.name, a.of, a.offset, a.base, a.size);
        }
        t
    }
}
