//! Devices that the user plugs: from the configuration to device configs with their back ends.
//!
//! Everything is checked and opened here, before the machine is built; what a later error leaves behind is closed.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::Disk;
use control::chardev::PortKind;
use control::config::{DeviceConfig, GlobalProperty, Nic, Props};
use control::{VmConfig, nearest};
use device::{AnyConfig, CharBackend};
use machines::{BoardKind, BootDrive, Plugged, PluggedIsa, PluggedPci};
use misc::{Ib700Config, IsaDebugExitConfig, PvpanicConfig};
use nic::{E1000Config, E1000eConfig, Ne2kIsaConfig, Ne2kPciConfig, NicBackend, PcnetConfig, Rtl8139Config};
use pci::{AnyPci, Pci, PciKind};
use serial::DebugConConfig;
use storage::{FloppyDrive, IdeDrive, ScsiBus, ScsiDrive};
use virtio::{
    BalloonConfig, ConsoleConfig, Mmio, NetBackend, NetConfig, RngConfig, RngSource, ScsiConfig,
    VirtioConfig, VirtioPci, VsockBackend, VsockConfig,
};
#[cfg(target_os = "linux")]
use virtio::{VhostVsockBackend, VhostVsockConfig};

use crate::backends::{Backends, Peripheral};
use crate::chardevs::Chars;
use crate::cpus::is_cpu;
use crate::launch::texts;
use crate::objects;

mod drives;
pub(crate) mod hot;
mod ports;

/// A property that names a back end or a place: name, type, what it is.
pub(crate) type Extra = (&'static str, &'static str, &'static str);

/// A device's config, by what it is plugged into.
enum Made {
    Device(Box<dyn AnyConfig>),
    Pci(Box<dyn AnyPci>),
    /// Drives on the board's own controllers, and their numbers there if the user says.
    Ide(Box<IdeDrive>, Option<usize>),
    Floppy(FloppyDrive, Option<usize>),
    /// A drive on the bus of an adapter, which is given by its name.
    Scsi(Box<ScsiDrive>, String),
    /// A serial port of the board, and its number there if the user says.
    Serial(Arc<dyn CharBackend>, Option<usize>),
}

impl Made {
    /// What has settings of its own.
    fn config(&mut self) -> Option<&mut dyn AnyConfig> {
        match self {
            Made::Device(config) => Some(config.as_mut()),
            Made::Pci(function) => Some(function.as_config_mut()),
            Made::Ide(..) | Made::Floppy(..) | Made::Scsi(..) | Made::Serial(..) => None,
        }
    }
}

/// How a driver's config is made.
#[derive(Clone, Copy)]
enum Make {
    /// With back ends.
    With(fn(&mut Making<'_>) -> Result<Made>),
    /// A PCI function that needs none.
    Pci(fn() -> Box<dyn AnyPci>),
}

/// Where a device is on the ISA bus: its first port, and its interrupt if it has one.
#[derive(Clone, Copy)]
struct IsaPlace {
    port: u16,
    irq: Option<usize>,
}

/// A device driver that can be plugged, and how its config is made.
#[derive(Clone, Copy)]
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    /// Section of `-device help`.
    pub(crate) category: &'static str,
    pub(crate) bus: &'static str,
    /// Properties that are not settings of the device itself.
    pub(crate) extra: &'static [Extra],
    make: Make,
}

/// A device on its way.
struct Making<'a> {
    backends: &'a mut Backends,
    chars: &'a Chars,
    props: Props,
    /// Its name in the machine.
    name: &'a str,
    chardevs: Vec<(String, Arc<dyn CharBackend>)>,
    /// Where it is, for devices on the ISA bus.
    port: Option<IsaPlace>,
    /// It is plugged into PCI.
    pci: bool,
    /// The bus the user names, for drives.
    bus: Option<String>,
    board: &'a BoardKind,
    /// Buses of the adapters so far.
    scsi: &'a mut Vec<(String, ScsiBus)>,
    vcpus: u32,
}

const CHARDEV: Extra = ("chardev", "str", "ID of a chardev to use as a backend");

const DRIVE: [Extra; 2] = [
    ("drive", "str", "node name or ID of a block device to use as a backend"),
    ("iothread", "link<iothread>", "thread that does the disk's work"),
];
const VIRTIO_DRIVE: [Extra; 5] = [
    DRIVE[0],
    DRIVE[1],
    ("iothread-vq-mapping", "IOThreadVirtQueueMappingList", "which threads do the work of which queues"),
    ("rerror", "BlockdevOnError", "what a failed read does: report, ignore, stop"),
    ("werror", "BlockdevOnError", "what a failed write does: enospc, report, ignore, stop"),
];
const NETDEV: [Extra; 1] = [("netdev", "str", "ID of a netdev to use as a backend")];
const VIRTIO_NET: [Extra; 2] = [NETDEV[0], ("mq", "bool", "as many pairs of queues as the network has")];
const NE2K: [Extra; 3] = [
    ("iobase", "uint32", "first port (default: 0x300)"),
    ("irq", "uint32", "interrupt (default: 9)"),
    NETDEV[0],
];
const VSOCK: [Extra; 1] =
    [("uds-path", "str", "socket at which programs of the host reach the guest's ports")];
#[cfg(target_os = "linux")]
const VHOST_VSOCK: [Extra; 1] = [("vhostfd", "str", "open descriptor of /dev/vhost-vsock")];
const RNG: [Extra; 1] = [("rng", "link<rng-backend>", "object that random bytes come from")];

/// All drivers for `-device`: those with back ends, and PCI functions without.
pub(crate) fn drivers() -> Vec<Driver> {
    let function = |k: &PciKind| Driver {
        name: k.device.kind,
        category: category((k.config)().function_spec().class),
        bus: PCI,
        extra: &[],
        make: Make::Pci(k.config),
    };
    let named = |k: &&PciKind| !DRIVERS.iter().any(|d| d.name == k.device.kind);
    let functions = crate::devices::pci_functions();
    DRIVERS.iter().copied().chain(functions.iter().filter(named).map(function)).collect()
}

/// Section of `-device help` for a class of PCI functions.
fn category(class: u32) -> &'static str {
    match class >> 16 {
        1 => "Storage",
        2 => "Network",
        3 => "Display",
        4 => "Sound",
        6 => "Controller/Bridge/Hub",
        7 | 9 => "Input",
        _ => "Misc",
    }
}

/// What PCI functions are plugged into.
pub(crate) const PCI: &str = "PCI";

/// Drivers with back ends.
const DRIVERS: &[Driver] = &[
    Driver {
        name: "isa-debug-exit",
        category: "Misc",
        bus: "ISA",
        extra: &[("iobase", "uint32", "first port (default: 0x501)")],
        make: Make::With(debug_exit),
    },
    Driver {
        name: "isa-debugcon",
        category: "Input",
        bus: "ISA",
        extra: &[("iobase", "uint32", "port (default: 0xe9)"), CHARDEV],
        make: Make::With(debugcon),
    },
    Driver {
        name: "pvpanic",
        category: "Misc",
        bus: "ISA",
        extra: &[("ioport", "uint16", "port (default: 0x505)")],
        make: Make::With(pvpanic),
    },
    Driver { name: "e1000", category: "Network", bus: PCI, extra: &NETDEV, make: Make::With(e1000) },
    Driver { name: "e1000e", category: "Network", bus: PCI, extra: &NETDEV, make: Make::With(e1000e) },
    Driver { name: "ne2k_isa", category: "Network", bus: "ISA", extra: &NE2K, make: Make::With(ne2k_isa) },
    Driver { name: "ne2k_pci", category: "Network", bus: PCI, extra: &NETDEV, make: Make::With(ne2k_pci) },
    Driver { name: "pcnet", category: "Network", bus: PCI, extra: &NETDEV, make: Make::With(pcnet) },
    Driver { name: "rtl8139", category: "Network", bus: PCI, extra: &NETDEV, make: Make::With(rtl8139) },
    Driver {
        name: "floppy",
        category: "Storage",
        bus: drives::FLOPPY_BUS,
        extra: drives::FLOPPY_EXTRA,
        make: Make::With(drives::floppy),
    },
    Driver { name: "ib700", category: "Misc", bus: "ISA", extra: &[], make: Make::With(ib700) },
    Driver {
        name: "ide-cd",
        category: "Storage",
        bus: drives::IDE_BUS,
        extra: drives::IDE_EXTRA,
        make: Make::With(drives::ide_cd),
    },
    Driver {
        name: "ide-hd",
        category: "Storage",
        bus: drives::IDE_BUS,
        extra: drives::IDE_EXTRA,
        make: Make::With(drives::ide_hd),
    },
    Driver {
        name: "isa-parallel",
        category: "Input",
        bus: "ISA",
        extra: ports::PARALLEL_EXTRA,
        make: Make::With(ports::isa_parallel),
    },
    Driver {
        name: ports::ISA,
        category: "Input",
        bus: "ISA",
        extra: ports::ISA_EXTRA,
        make: Make::With(ports::isa),
    },
    Driver { name: "nvme", category: "Storage", bus: PCI, extra: &DRIVE, make: Make::With(drives::nvme) },
    Driver {
        name: "scsi-cd",
        category: "Storage",
        bus: drives::SCSI_BUS,
        extra: drives::SCSI_EXTRA,
        make: Make::With(drives::scsi_cd),
    },
    Driver {
        name: "scsi-hd",
        category: "Storage",
        bus: drives::SCSI_BUS,
        extra: drives::SCSI_EXTRA,
        make: Make::With(drives::scsi_hd),
    },
    Driver {
        name: "virtconsole",
        category: "Input",
        bus: "virtio-serial-bus",
        extra: ports::PORT_EXTRA,
        make: Make::With(ports::alone),
    },
    Driver {
        name: "virtio-balloon-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &[],
        make: Make::With(virtio_balloon),
    },
    Driver {
        name: "virtio-blk-device",
        category: "Storage",
        bus: "virtio-bus",
        extra: &VIRTIO_DRIVE,
        make: Make::With(drives::virtio_blk),
    },
    Driver {
        name: "virtio-net-device",
        category: "Network",
        bus: "virtio-bus",
        extra: &VIRTIO_NET,
        make: Make::With(virtio_net),
    },
    Driver {
        name: "virtio-rng-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &RNG,
        make: Make::With(virtio_rng),
    },
    Driver {
        name: "virtio-balloon-pci",
        category: "Misc",
        bus: PCI,
        extra: &[],
        make: Make::With(virtio_balloon),
    },
    Driver {
        name: "virtio-blk-pci",
        category: "Storage",
        bus: PCI,
        extra: &VIRTIO_DRIVE,
        make: Make::With(drives::virtio_blk),
    },
    Driver {
        name: "virtio-net-pci",
        category: "Network",
        bus: PCI,
        extra: &VIRTIO_NET,
        make: Make::With(virtio_net),
    },
    Driver { name: "virtio-rng-pci", category: "Misc", bus: PCI, extra: &RNG, make: Make::With(virtio_rng) },
    Driver {
        name: "virtio-scsi-device",
        category: "Storage",
        bus: "virtio-bus",
        extra: &[],
        make: Make::With(virtio_scsi),
    },
    Driver {
        name: "virtio-scsi-pci",
        category: "Storage",
        bus: PCI,
        extra: &[],
        make: Make::With(virtio_scsi),
    },
    Driver {
        name: "virtio-serial-pci",
        category: "Input",
        bus: PCI,
        extra: &[],
        make: Make::With(virtio_serial),
    },
    Driver {
        name: ports::BUS,
        category: "Input",
        bus: "virtio-bus",
        extra: &[],
        make: Make::With(virtio_serial),
    },
    #[cfg(target_os = "linux")]
    Driver {
        name: "vhost-vsock-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &VHOST_VSOCK,
        make: Make::With(vhost_vsock),
    },
    #[cfg(target_os = "linux")]
    Driver {
        name: "vhost-vsock-pci",
        category: "Misc",
        bus: PCI,
        extra: &VHOST_VSOCK,
        make: Make::With(vhost_vsock),
    },
    Driver {
        name: "virtio-vsock-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &VSOCK,
        make: Make::With(virtio_vsock),
    },
    Driver {
        name: "virtio-vsock-pci",
        category: "Misc",
        bus: PCI,
        extra: &VSOCK,
        make: Make::With(virtio_vsock),
    },
    Driver {
        name: "virtserialport",
        category: "Input",
        bus: "virtio-serial-bus",
        extra: ports::PORT_EXTRA,
        make: Make::With(ports::alone),
    },
];

/// Names of drivers that stand for the PCI ones.
const ALIASES: [&str; 6] =
    ["virtio-balloon", "virtio-blk", "virtio-net", "virtio-rng", "virtio-scsi", "virtio-serial"];

/// The driver of a name, or what is near to it.
pub(crate) fn driver(name: &str) -> Result<Driver> {
    let all = drivers();
    let full = if ALIASES.contains(&name) { format!("{name}-pci") } else { name.to_owned() };
    all.iter().find(|d| d.name == full).copied().ok_or_else(|| {
        let hint = nearest(name, all.iter().map(|d| d.name));
        let hint = hint.map_or(String::new(), |n| format!("; did you mean '{n}'?"));
        anyhow!("no such device{hint} ('-device help' lists all)")
    })
}

fn port_of(m: &mut Making<'_>, key: &str, default: u16) -> Result<()> {
    let port = m.props.u64(key)?.unwrap_or(default.into());
    let Ok(port) = u16::try_from(port) else {
        bail!("'{key}' expects a port from 0 to 0xffff, got {port:#x}")
    };
    m.props.remove(key);
    m.port = Some(IsaPlace { port, irq: None });
    Ok(())
}

fn chardev(m: &mut Making<'_>) -> Result<()> {
    if let Some(id) = m.props.take_text("chardev")? {
        m.chardevs.push(("chardev".into(), m.chars.connect(&id, PortKind::Device)?));
    }
    Ok(())
}

fn debug_exit(m: &mut Making<'_>) -> Result<Made> {
    port_of(m, "iobase", 0x501)?;
    Ok(Made::Device(Box::new(IsaDebugExitConfig::default())))
}

fn pvpanic(m: &mut Making<'_>) -> Result<Made> {
    port_of(m, "ioport", 0x505)?;
    Ok(Made::Device(Box::new(PvpanicConfig::default())))
}

fn debugcon(m: &mut Making<'_>) -> Result<Made> {
    port_of(m, "iobase", 0xe9)?;
    chardev(m)?;
    Ok(Made::Device(Box::new(DebugConConfig::default())))
}

fn ib700(m: &mut Making<'_>) -> Result<Made> {
    m.port = Some(IsaPlace { port: 0x441, irq: None });
    Ok(Made::Device(Box::new(Ib700Config::default())))
}

/// How a card is made from its address and its cable.
type MakeCard = fn(Option<String>, NicBackend) -> Made;

/// Cards that know nothing of virtio, by driver. The first names are QEMU's of old.
const CARDS: [(&[&str], MakeCard); 6] = [
    (&["82540em", "e1000"], |mac, backend| Made::Pci(Box::new(Pci::new(E1000Config { mac, backend })))),
    (&["e1000e"], |mac, backend| Made::Pci(Box::new(Pci::new(E1000eConfig { mac, backend })))),
    (&["ne2k_isa"], |mac, backend| Made::Device(Box::new(Ne2kIsaConfig { mac, backend }))),
    (&["ne2k_pci"], |mac, backend| Made::Pci(Box::new(Pci::new(Ne2kPciConfig { mac, backend })))),
    (&["pcnet"], |mac, backend| Made::Pci(Box::new(Pci::new(PcnetConfig { mac, backend })))),
    (&["rtl8139"], |mac, backend| Made::Pci(Box::new(Pci::new(Rtl8139Config { mac, backend })))),
];

/// The card of a name, with its driver's name.
fn card_of(name: &str) -> Option<(&'static str, MakeCard)> {
    let (names, make) = CARDS.iter().find(|(names, _)| names.contains(&name))?;
    Some((names.last()?, *make))
}

/// The network that the user names for a card, which gets an address if it has none.
fn network(m: &mut Making<'_>) -> Result<Option<Arc<dyn net::Endpoint>>> {
    let id = m.props.take_text("netdev")?;
    let end = id.map(|id| net_end(m.backends, m.name, &id)).transpose()?;
    let given = m.props.text("mac")?.map(std::borrow::Cow::into_owned);
    if let Some(mac) = m.backends.nets.mac(m.name, given.as_deref()) {
        m.props.insert("mac", mac);
    }
    Ok(end)
}

/// A card that is not virtio's.
fn card(m: &mut Making<'_>, driver: &str) -> Result<Made> {
    let end = network(m)?;
    let (_, make) = card_of(driver).ok_or_else(|| anyhow!("no such card"))?;
    Ok(make(None, NicBackend(end)))
}

fn e1000(m: &mut Making<'_>) -> Result<Made> {
    card(m, "e1000")
}

fn e1000e(m: &mut Making<'_>) -> Result<Made> {
    card(m, "e1000e")
}

fn ne2k_pci(m: &mut Making<'_>) -> Result<Made> {
    card(m, "ne2k_pci")
}

fn pcnet(m: &mut Making<'_>) -> Result<Made> {
    card(m, "pcnet")
}

fn rtl8139(m: &mut Making<'_>) -> Result<Made> {
    card(m, "rtl8139")
}

/// Places of cards on the ISA bus, in the order in which they are given away.
const NE2K_PLACES: [IsaPlace; 6] = [
    IsaPlace { port: 0x300, irq: Some(9) },
    IsaPlace { port: 0x320, irq: Some(10) },
    IsaPlace { port: 0x340, irq: Some(11) },
    IsaPlace { port: 0x360, irq: Some(3) },
    IsaPlace { port: 0x280, irq: Some(4) },
    IsaPlace { port: 0x380, irq: Some(5) },
];

fn ne2k_isa(m: &mut Making<'_>) -> Result<Made> {
    port_of(m, "iobase", NE2K_PLACES[0].port)?;
    let irq = m.props.u64("irq")?.unwrap_or(9);
    m.props.remove("irq");
    if !matches!(irq, 3..=7 | 9..=12 | 14..=15) {
        bail!("'irq' expects 3 to 7, 9 to 12, 14 or 15, got {irq}");
    }
    if let Some(place) = &mut m.port {
        place.irq = Some(irq as usize);
    }
    card(m, "ne2k_isa")
}

/// A virtio device on the transport its driver names.
fn virtio<C: VirtioConfig>(pci: bool, config: C, backend: C::Backend) -> Made {
    if pci {
        Made::Pci(Box::new(Pci::new(VirtioPci::new(config, backend))))
    } else {
        Made::Device(Box::new(Mmio::new(config, backend)))
    }
}

fn virtio_balloon(m: &mut Making<'_>) -> Result<Made> {
    Ok(virtio(m.pci, BalloonConfig::default(), ()))
}

fn virtio_net(m: &mut Making<'_>) -> Result<Made> {
    let end = network(m)?;
    let spread = m.props.bool("mq")?.unwrap_or(false);
    m.props.remove("mq");
    let own = m.props.get("queue_pairs").or(m.props.get("queue-pairs")).is_none();
    if let Some(queues) = end.as_ref().map(|e| e.queues()).filter(|n| spread && own && *n > 1) {
        m.props.insert("queue_pairs", queues);
    }
    Ok(virtio(m.pci, NetConfig::default(), NetBackend(end)))
}

fn net_end(backends: &mut Backends, card: &str, id: &str) -> Result<Arc<dyn net::Endpoint>> {
    let end = backends.nets.take(id, &format!("device '{card}'"))?;
    backends.nets.card(card, id);
    Ok(end)
}

fn virtio_rng(m: &mut Making<'_>) -> Result<Made> {
    let source = match m.props.take_text("rng")? {
        Some(id) => m.backends.objects.rng(&id)?,
        None => None,
    };
    let source =
        source.map_or_else(RngSource::default, |file| RngSource::new(move |data| objects::draw(&file, data)));
    Ok(virtio(m.pci, RngConfig::default(), source))
}

fn virtio_vsock(m: &mut Making<'_>) -> Result<Made> {
    let mut config = VsockConfig::default();
    let path = m.props.take_text("uds-path")?;
    let path = path.ok_or_else(|| anyhow!("needs uds-path=PATH, where the host's programs connect"))?;
    if let Some(cid) = context_id(m)? {
        config.guest_cid = cid;
    }
    let muxer = net_vsock::Muxer::new(path.as_ref(), config.guest_cid)?;
    Ok(virtio(m.pci, config, VsockBackend(Some(Arc::new(muxer)))))
}

/// The guest's context id, if it is said.
fn context_id(m: &mut Making<'_>) -> Result<Option<u64>> {
    let Some(cid) = m.props.take_text("guest-cid")? else { return Ok(None) };
    let fits = cid.parse().ok().filter(|n| (3..u64::from(u32::MAX)).contains(n));
    Ok(Some(fits.ok_or_else(|| anyhow!("guest-cid={cid}: expected 3 to 4294967294"))?))
}

/// Sockets of the host's kernel.
#[cfg(target_os = "linux")]
fn vhost_vsock(m: &mut Making<'_>) -> Result<Made> {
    let cid = context_id(m)?.ok_or_else(|| anyhow!("needs guest-cid=N, from 3 to 4294967294"))?;
    let kernel = match m.props.take_text("vhostfd")? {
        Some(number) => vhost::Kernel::from_fd(vhost::VSOCK, crate::netdevs::descriptor(&number)?),
        None => vhost::Kernel::open(vhost::VSOCK),
    };
    let instead = "virtio-vsock-pci,guest-cid=N,uds-path=PATH needs no help of the kernel's";
    let kernel = kernel.map_err(|e| anyhow!("{e}; {instead}"))?;
    let kernel = vhost::KernelVsock::new(kernel, cid)?;
    let config = VhostVsockConfig { guest_cid: cid, ..VhostVsockConfig::default() };
    Ok(virtio(m.pci, config, VhostVsockBackend(Some(Arc::new(kernel)))))
}

fn virtio_scsi(m: &mut Making<'_>) -> Result<Made> {
    let bus = ScsiBus::default();
    m.scsi.push((m.name.to_owned(), bus.clone()));
    Ok(virtio(m.pci, ScsiConfig::default(), bus))
}

fn virtio_serial(m: &mut Making<'_>) -> Result<Made> {
    Ok(virtio(m.pci, ConsoleConfig::default(), ()))
}

/// Where a drive hangs on a SCSI bus.
pub(crate) struct ScsiPlace {
    /// Name of the drive.
    name: String,
    /// Name of the adapter.
    adapter: String,
    target: u8,
    lun: u16,
}

/// What is plugged, in order.
#[derive(Default)]
pub(crate) struct Plugs {
    pub(crate) virtio: Vec<Plugged>,
    pub(crate) isa: Vec<PluggedIsa>,
    pub(crate) pci: Vec<PluggedPci>,
    pub(crate) ide: Vec<(usize, IdeDrive)>,
    pub(crate) floppies: [Option<FloppyDrive>; 2],
    /// The board's serial ports.
    pub(crate) serials: Vec<Option<Arc<dyn CharBackend>>>,
    pub(crate) boot_drives: Vec<(u32, BootDrive)>,
    /// Buses of SCSI adapters by the adapter's name.
    pub(crate) scsi: Vec<(String, ScsiBus)>,
    /// Drives on these.
    pub(crate) scsi_drives: Vec<ScsiPlace>,
    /// Flash chips with their numbers.
    pub(crate) flash: Vec<(usize, Disk)>,
}

/// Everything that is plugged into a board.
pub(crate) fn plug(
    config: &VmConfig,
    chars: &Chars,
    backends: &mut Backends,
    board: &BoardKind,
) -> Result<Plugs> {
    let vcpus = config.smp.resolve(board.levels)?.cpus;
    let mut out = Plugs { serials: chars.serials(config)?, ..Plugs::default() };
    for (i, d) in config.drives.iter().enumerate() {
        let id = d.id.clone().unwrap_or_else(|| format!("drive{i}"));
        drives::of_board(config, d, &id, backends, board, vcpus, &mut out)
            .with_context(|| format!("drive '{id}'"))?;
    }
    for (i, id) in config.parallels.iter().enumerate() {
        let Some(id) = id else { continue };
        let place = ports::parallel_place(i).with_context(|| format!("-parallel {id}"))?;
        let backend = chars.connect(id, PortKind::Device)?;
        let name = format!("parallel{i}");
        out.add(name, ports::parallel(), ports::to_chardev(backend), Some(place), &mut Place::default());
    }
    for (i, n) in config.nics.iter().enumerate() {
        let id = n.name.clone().unwrap_or_else(|| format!("nic{i}"));
        let on_isa = out.isa.iter().filter(|d| d.irq.is_some()).count();
        let (mut card, isa) = nic(n, backends, &id, board, on_isa)?;
        if let Made::Pci(function) = &mut card
            && let Some(rom) = boot_rom(function.kind(), &config.data_dirs)
        {
            function.set_family_rom(rom);
        }
        out.add(id, card, Vec::new(), isa, &mut Place::default());
    }
    let virtio_ports = ports::ports_of(&config.devices)?;
    for (i, d) in config.devices.iter().enumerate().filter(|(_, d)| !ports::is_port(d) && !is_cpu(&d.driver))
    {
        let fail = || format!("-device {}", d.driver);
        let name = d.id.clone().unwrap_or_else(|| format!("{}.{i}", d.driver));
        let driver = driver(&d.driver).with_context(fail)?;
        let mut shop = Shop {
            backends: &mut *backends,
            chars,
            board,
            scsi: &mut out.scsi,
            vcpus,
            globals: &config.globals,
            dirs: &config.data_dirs,
        };
        let Unplaced { mut made, mut chardevs, port, mut place } =
            make(d, &driver, &name, &mut shop).with_context(fail)?;
        let mut own = virtio_ports.iter().filter(|(bus, _)| *bus == i).map(|(_, port)| *port).peekable();
        if own.peek().is_some()
            && let Some(bus) = made.config()
        {
            chardevs.extend(ports::hang(bus, own, chars)?);
        }
        note(backends, &name, driver.name, d.id.is_some());
        match made {
            Made::Serial(backend, index) => {
                ports::place(&mut out.serials, backend, index).with_context(fail)?
            }
            Made::Device(_) | Made::Pci(_) => out.add(name, made, chardevs, port, &mut place),
            drive => {
                drives::hang(&mut out, backends, board, &name, drive, place.boot_index).with_context(fail)?
            }
        }
    }
    Ok(out)
}

/// What devices are made with.
struct Shop<'a> {
    backends: &'a mut Backends,
    chars: &'a Chars,
    board: &'a BoardKind,
    /// Buses of the adapters so far.
    scsi: &'a mut Vec<(String, ScsiBus)>,
    vcpus: u32,
    globals: &'a [GlobalProperty],
    /// Where the user's firmware is.
    dirs: &'a [String],
}

/// A device that has no place yet.
struct Unplaced {
    made: Made,
    chardevs: Vec<(String, Arc<dyn CharBackend>)>,
    port: Option<IsaPlace>,
    place: Place,
}

/// Makes a device as the user describes it.
fn make(d: &DeviceConfig, driver: &Driver, name: &str, shop: &mut Shop<'_>) -> Result<Unplaced> {
    let globals = shop.globals;
    let mut making = Making {
        backends: &mut *shop.backends,
        chars: shop.chars,
        props: d.props.clone(),
        name,
        chardevs: Vec::new(),
        port: None,
        pci: driver.bus == PCI,
        bus: d.bus.clone(),
        board: shop.board,
        scsi: &mut *shop.scsi,
        vcpus: shop.vcpus,
    };
    let mut place = Place::default();
    if making.pci {
        place = Place::take(d.bus.clone(), &mut making.props)?;
    } else if drives::BUSES.contains(&driver.bus) {
        place.boot_index = boot_index(&mut making.props)?;
    }
    let mut made = device(d, driver, &mut making, globals)?;
    let (chardevs, port) = (making.chardevs, making.port);
    if let Made::Pci(function) = &mut made {
        match place.rom.take() {
            Some(rom) => function.set_rom(rom),
            None => boot_rom(driver.name, shop.dirs).into_iter().for_each(|rom| function.set_family_rom(rom)),
        }
    }
    Ok(Unplaced { made, chardevs, port, place })
}

/// Names of the boot ROMs of cards, as iPXE's are called.
const BOOT_ROMS: [(&str, &str); 6] = [
    ("e1000", "e1000"),
    ("e1000e", "e1000e"),
    ("ne2k_pci", "ne2k_pci"),
    ("pcnet", "pcnet"),
    ("rtl8139", "rtl8139"),
    ("virtio-net-pci", "virtio"),
];

/// The ROMs of graphics cards, as SeaBIOS's are called.
const VGA_ROMS: [(&str, &str); 2] = [("VGA", "vgabios-stdvga.bin"), ("cirrus-vga", "vgabios-cirrus.bin")];

/// The ROM by which firmware boots from a network card, or writes on a graphics card, if one is installed.
fn boot_rom(driver: &str, dirs: &[String]) -> Option<Arc<[u8]>> {
    let vga = VGA_ROMS.iter().find(|(name, _)| *name == driver).map(|(_, rom)| vec![(*rom).to_owned()]);
    let names = vga.or_else(|| {
        let (_, rom) = BOOT_ROMS.iter().find(|(name, _)| *name == driver)?;
        Some(vec![format!("efi-{rom}.rom"), format!("pxe-{rom}.rom")])
    })?;
    let file = names.iter().find_map(|name| crate::firmware::find(name, dirs))?;
    let data = std::fs::read(&file).inspect_err(|e| tracing::warn!("{}: {e}", file.display())).ok()?;
    Some(data.into())
}

/// Where a PCI function is to be, and what firmware is to know of it.
#[derive(Default)]
struct Place {
    bus: Option<String>,
    address: Option<(u8, u8)>,
    multifunction: bool,
    boot_index: Option<u32>,
    rom: Option<Arc<[u8]>>,
}

/// Properties of every PCI function.
pub(crate) const PCI_EXTRA: &[Extra] = &[
    ("addr", "str", "slot and optional function number, such as 06.0 or 06"),
    ("bootindex", "int32", "place in firmware's order of boot devices"),
    ("multifunction", "bool", "the device has other functions than this"),
    ("rombar", "uint32", "0 leaves out the expansion ROM"),
    ("romfile", "str", "file with the expansion ROM; empty for none"),
];

impl Place {
    /// Takes the properties that are not the device's own.
    fn take(bus: Option<String>, props: &mut Props) -> Result<Self> {
        let mut place = Place { bus, ..Place::default() };
        if let Some(text) = props.take_text("addr")? {
            place.address = Some(address(&text)?);
        }
        if let Some(on) = props.bool("multifunction")? {
            place.multifunction = on;
            props.remove("multifunction");
        }
        place.boot_index = boot_index(props)?;
        if let Some(bar) = props.u64("rombar")? {
            props.remove("rombar");
            place.rom = (bar == 0).then(|| Arc::from(Vec::new()));
        }
        if let Some(file) = props.take_text("romfile")? {
            let rom = if file.is_empty() {
                Vec::new()
            } else {
                std::fs::read(&file).with_context(|| file.clone())?
            };
            place.rom = Some(rom.into());
        }
        Ok(place)
    }
}

fn boot_index(props: &mut Props) -> Result<Option<u32>> {
    let index = props.u64("bootindex")?;
    props.remove("bootindex");
    Ok(index.map(u32::try_from).transpose()?)
}

/// Slot and function: hexadecimal, as `lspci` shows them.
fn address(text: &str) -> Result<(u8, u8)> {
    let bad = || {
        anyhow!("'addr' expects a slot from 0 to 1f and a function from 0 to 7, such as 3.0; got '{text}'")
    };
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let number =
        |text: &str| u8::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).map_err(|_| bad());
    let (slot, function) = (number(slot)?, number(function)?);
    if slot < 32 && function < 8 { Ok((slot, function)) } else { Err(bad()) }
}

impl Plugs {
    fn add(
        &mut self,
        id: String,
        made: Made,
        chardevs: Vec<(String, Arc<dyn CharBackend>)>,
        port: Option<IsaPlace>,
        place: &mut Place,
    ) {
        match made {
            Made::Pci(function) => self.pci.push(PluggedPci {
                id,
                function,
                chardevs,
                bus: place.bus.take(),
                address: place.address,
                multifunction: place.multifunction,
                boot_index: place.boot_index,
                boot_behind: Vec::new(),
            }),
            Made::Device(config) => {
                let device = Plugged { id, config, chardevs };
                match port {
                    Some(IsaPlace { port, irq }) => self.isa.push(PluggedIsa { device, port, irq }),
                    None => self.virtio.push(device),
                }
            }
            // Those are hung on controllers, or are part of the board.
            Made::Ide(..) | Made::Floppy(..) | Made::Scsi(..) | Made::Serial(..) => {}
        }
    }
}

fn note(backends: &mut Backends, name: &str, kind: &str, named: bool) {
    backends.peripherals.push(Peripheral { name: name.to_owned(), kind: kind.to_owned(), named });
}

/// A card whose place the board chooses.
fn nic(
    n: &Nic,
    backends: &mut Backends,
    id: &str,
    board: &BoardKind,
    taken: usize,
) -> Result<(Made, Option<IsaPlace>)> {
    let own = if board.pci { "virtio-net-pci" } else { "virtio-net-device" };
    let model = n.model.as_deref().unwrap_or(board.nic);
    let fits = |name: &str| match name {
        "ne2k_isa" => board.isa,
        _ => board.pci,
    };
    let card = card_of(model).filter(|(driver, _)| fits(driver));
    let kind = match (model, card) {
        (_, Some((driver, _))) => driver,
        ("virtio-net" | "virtio", _) => own,
        (name, _) if name == own => own,
        (other, _) => {
            let drivers = CARDS.iter().filter_map(|(names, _)| names.last()).filter(|name| fits(name));
            let all: Vec<&str> = std::iter::once(own).chain(drivers.copied()).collect();
            bail!("-nic model={other}: no such card; there are: {}", all.join(", "))
        }
    };
    let end = n.netdev.as_ref().map(|netdev| net_end(backends, id, netdev)).transpose()?;
    let mac = backends.nets.mac(id, n.mac.as_deref()).or(n.mac.clone());
    note(backends, id, kind, false);
    if let Some((driver, make)) = card {
        let place = if driver == "ne2k_isa" {
            let place = NE2K_PLACES.get(taken).copied();
            Some(place.ok_or_else(|| anyhow!("there can be {} cards on the ISA bus", NE2K_PLACES.len()))?)
        } else {
            None
        };
        return Ok((make(mac, NicBackend(end)), place));
    }
    let card = NetConfig { mac, ..NetConfig::default() };
    Ok((virtio(board.pci, card, NetBackend(end)), None))
}

fn device(
    d: &DeviceConfig,
    driver: &Driver,
    making: &mut Making<'_>,
    globals: &[GlobalProperty],
) -> Result<Made> {
    let mut made = match driver.make {
        Make::With(make) => make(making)?,
        Make::Pci(make) => Made::Pci(make()),
    };
    let Some(settings) = made.config() else {
        let known: Vec<&str> = driver.extra.iter().map(|(n, ..)| *n).collect();
        if let Some((key, _)) = making.props.iter().next() {
            bail!("property '{key}' is not known; known: {}", known.join(", "));
        }
        return Ok(made);
    };
    for g in globals.iter().filter(|g| g.driver == d.driver) {
        settings
            .set(&g.property, &g.value)
            .with_context(|| format!("-global {}.{}", g.driver, g.property))?;
    }
    for (k, v) in texts(&making.props) {
        settings.set(&k, &v).map_err(|e| match driver.extra {
            [] => anyhow!(e),
            extra => {
                let names: Vec<&str> = extra.iter().map(|(n, ..)| *n).collect();
                anyhow!("{e} (and {})", names.join(", "))
            }
        })?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal_slots() {
        assert_eq!(address("1f.7").unwrap(), (31, 7));
        assert_eq!(address("0x0a").unwrap(), (10, 0));
        assert_eq!(address("0x2.0x1").unwrap(), (2, 1));
        for bad in ["20", "3.8", "x", "", "-1"] {
            assert!(address(bad).unwrap_err().to_string().contains("'addr'"), "{bad}");
        }
    }
}
