//! Devices that the user plugs: from the configuration to device configs with their back ends.
//!
//! Everything is checked and opened here, before the machine is built; what a later error leaves behind is closed.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use control::chardev::PortKind;
use control::config::{DeviceConfig, DriveInterface, Nic, Props};
use control::{VmConfig, nearest};
use device::{AnyConfig, CharBackend};
use machines::{Plugged, PluggedIsa};
use misc::{IsaDebugExitConfig, PvpanicConfig};
use serial::DebugConConfig;
use virtio::{
    BalloonConfig, BlkConfig, ConsoleConfig, Mmio, NetBackend, NetConfig, RngConfig, RngSource, VsockBackend,
    VsockConfig,
};

use crate::backends::{Backends, Peripheral};
use crate::chardevs::Chars;
use crate::launch::texts;
use crate::objects;

/// Driver that carries console and serial ports.
const SERIAL_BUS: &str = "virtio-serial-device";
/// Drivers that are ports of it.
const PORTS: [&str; 2] = ["virtconsole", "virtserialport"];

/// A property that names a back end or a place: name, type, what it is.
pub(crate) type Extra = (&'static str, &'static str, &'static str);

/// A device driver that can be plugged, and how its config is made.
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    /// Section of `-device help`.
    pub(crate) category: &'static str,
    pub(crate) bus: &'static str,
    /// Properties that are not settings of the device itself.
    pub(crate) extra: &'static [Extra],
    make: fn(&mut Making<'_>) -> Result<Box<dyn AnyConfig>>,
}

/// A device on its way.
struct Making<'a> {
    backends: &'a mut Backends,
    chars: &'a Chars,
    props: Props,
    /// Its name in the machine.
    name: &'a str,
    chardevs: Vec<(String, Arc<dyn CharBackend>)>,
    /// First port, for devices on the ISA bus.
    port: Option<u16>,
}

const CHARDEV: Extra = ("chardev", "str", "ID of a chardev to use as a backend");

/// All drivers for `-device`.
pub(crate) const DRIVERS: &[Driver] = &[
    Driver {
        name: "isa-debug-exit",
        category: "Misc",
        bus: "ISA",
        extra: &[("iobase", "uint32", "first port (default: 0x501)")],
        make: debug_exit,
    },
    Driver {
        name: "isa-debugcon",
        category: "Input",
        bus: "ISA",
        extra: &[("iobase", "uint32", "port (default: 0xe9)"), CHARDEV],
        make: debugcon,
    },
    Driver {
        name: "pvpanic",
        category: "Misc",
        bus: "ISA",
        extra: &[("ioport", "uint16", "port (default: 0x505)")],
        make: pvpanic,
    },
    Driver {
        name: "virtconsole",
        category: "Input",
        bus: "virtio-serial-bus",
        extra: &[CHARDEV, ("name", "str", "name that the guest sees")],
        make: port_alone,
    },
    Driver {
        name: "virtio-balloon-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &[],
        make: virtio_balloon,
    },
    Driver {
        name: "virtio-blk-device",
        category: "Storage",
        bus: "virtio-bus",
        extra: &[
            ("drive", "str", "node name or ID of a block device to use as a backend"),
            ("iothread", "link<iothread>", "thread that does the disk's work"),
        ],
        make: virtio_blk,
    },
    Driver {
        name: "virtio-net-device",
        category: "Network",
        bus: "virtio-bus",
        extra: &[("netdev", "str", "ID of a netdev to use as a backend")],
        make: virtio_net,
    },
    Driver {
        name: "virtio-rng-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &[("rng", "link<rng-backend>", "object that random bytes come from")],
        make: virtio_rng,
    },
    Driver { name: SERIAL_BUS, category: "Input", bus: "virtio-bus", extra: &[], make: virtio_serial },
    Driver {
        name: "virtio-vsock-device",
        category: "Misc",
        bus: "virtio-bus",
        extra: &[("uds-path", "str", "socket at which programs of the host reach the guest's ports")],
        make: virtio_vsock,
    },
    Driver {
        name: "virtserialport",
        category: "Input",
        bus: "virtio-serial-bus",
        extra: &[CHARDEV, ("name", "str", "name that the guest sees")],
        make: port_alone,
    },
];

/// The driver of a name, or what is near to it.
pub(crate) fn driver(name: &str) -> Result<&'static Driver> {
    DRIVERS.iter().find(|d| d.name == name).ok_or_else(|| {
        if name.starts_with("vhost-vsock") {
            let instead = "virtio-vsock-device,guest-cid=N,uds-path=PATH";
            return anyhow!(
                "the host kernel's sockets are not supported; {instead} needs no help of the kernel's"
            );
        }
        let hint = nearest(name, DRIVERS.iter().map(|d| d.name));
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
    m.port = Some(port);
    Ok(())
}

fn chardev(m: &mut Making<'_>) -> Result<()> {
    if let Some(id) = m.props.take_text("chardev")? {
        m.chardevs.push(("chardev".into(), m.chars.connect(&id, PortKind::Device)?));
    }
    Ok(())
}

fn debug_exit(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    port_of(m, "iobase", 0x501)?;
    Ok(Box::new(IsaDebugExitConfig::default()))
}

fn pvpanic(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    port_of(m, "ioport", 0x505)?;
    Ok(Box::new(PvpanicConfig::default()))
}

fn debugcon(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    port_of(m, "iobase", 0xe9)?;
    chardev(m)?;
    Ok(Box::new(DebugConConfig::default()))
}

fn port_alone(_: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    bail!("needs a {SERIAL_BUS} before it")
}

fn virtio_balloon(_: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    Ok(Box::new(Mmio::new(BalloonConfig::default(), ())))
}

fn virtio_blk(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    let id = m.props.take_text("drive")?;
    let id = id.ok_or_else(|| anyhow!("needs drive=ID, of a -drive with if=none or a -blockdev"))?;
    let iothread = m.props.take_text("iothread")?;
    let disk = m.backends.disk(&id, m.name, iothread.as_deref())?;
    Ok(Box::new(Mmio::new(BlkConfig::default(), Some(disk))))
}

fn virtio_net(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    let id = m.props.take_text("netdev")?;
    let end = id.map(|id| net_end(m.backends, m.name, &id)).transpose()?;
    Ok(Box::new(Mmio::new(NetConfig::default(), NetBackend(end))))
}

fn net_end(backends: &mut Backends, card: &str, id: &str) -> Result<Arc<dyn net::Endpoint>> {
    let end = backends.nets.take(id, &format!("device '{card}'"))?;
    backends.nets.card(card, id);
    Ok(end)
}

fn virtio_rng(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    let source = match m.props.take_text("rng")? {
        Some(id) => m.backends.objects.rng(&id)?,
        None => None,
    };
    let source =
        source.map_or_else(RngSource::default, |file| RngSource::new(move |data| objects::draw(&file, data)));
    Ok(Box::new(Mmio::new(RngConfig::default(), source)))
}

fn virtio_vsock(m: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    let mut config = VsockConfig::default();
    let path = m.props.take_text("uds-path")?;
    let path = path.ok_or_else(|| anyhow!("needs uds-path=PATH, where the host's programs connect"))?;
    if let Some(cid) = m.props.take_text("guest-cid")? {
        let bad = || anyhow!("guest-cid={cid}: expected 3 to 4294967294");
        config.guest_cid = cid.parse().map_err(|_| bad())?;
    }
    let muxer = net_vsock::Muxer::new(path.as_ref(), config.guest_cid)?;
    Ok(Box::new(Mmio::new(config, VsockBackend(Some(Arc::new(muxer))))))
}

fn virtio_serial(_: &mut Making<'_>) -> Result<Box<dyn AnyConfig>> {
    Ok(Box::new(Mmio::new(ConsoleConfig::default(), ())))
}

/// What is plugged, in order.
#[derive(Default)]
pub(crate) struct Plugs {
    pub(crate) virtio: Vec<Plugged>,
    pub(crate) isa: Vec<PluggedIsa>,
}

/// Everything that is plugged.
pub(crate) fn plug(config: &VmConfig, chars: &Chars, backends: &mut Backends) -> Result<Plugs> {
    let mut out = Plugs::default();
    for (i, d) in config.drives.iter().enumerate() {
        let id = d.id.clone().unwrap_or_else(|| format!("drive{i}"));
        let fail = || format!("drive '{id}'");
        // Before the image is opened, so that this is all that is said.
        let plugged_by_board = match d.interface {
            Some(DriveInterface::None) => false,
            None | Some(DriveInterface::Virtio) => true,
            Some(other) => {
                let file = d.file.as_deref().unwrap_or("no file");
                let name = other.name();
                bail!("drive '{id}' ({file}): this board has no {name} interface; expected none or virtio")
            }
        };
        backends.drive(config, d, &id).with_context(fail)?;
        if plugged_by_board {
            let blk = BlkConfig {
                serial: d.serial.clone().unwrap_or_default(),
                write_cache: !matches!(d.cache.as_deref(), Some("writethrough" | "directsync")),
                ..BlkConfig::default()
            };
            let disk = backends.disk(&id, &id, None).with_context(fail)?;
            note(backends, &id, "virtio-blk-device", false);
            out.virtio.push(plugged(id, Box::new(Mmio::new(blk, Some(disk)))));
        }
    }
    for (i, n) in config.nics.iter().enumerate() {
        out.virtio.push(nic(n, backends, i)?);
    }
    let mut i = 0;
    while let Some(d) = config.devices.get(i) {
        let fail = || format!("-device {}", d.driver);
        let name = d.id.clone().unwrap_or_else(|| format!("{}.{i}", d.driver));
        i += 1;
        let driver = driver(&d.driver).with_context(fail)?;
        let mut making = Making {
            backends: &mut *backends,
            chars,
            props: d.props.clone(),
            name: &name,
            chardevs: Vec::new(),
            port: None,
        };
        let mut made = device(d, driver, &mut making, config).with_context(fail)?;
        let (mut chardevs, port) = (making.chardevs, making.port);
        let mut names = Vec::new();
        if d.driver == SERIAL_BUS {
            while let Some(port) = config.devices.get(i).filter(|p| PORTS.contains(&p.driver.as_str())) {
                let fail = || format!("-device {}", port.driver);
                chardevs.push(serial_port(port, &mut names, made.as_mut(), chars).with_context(fail)?);
                i += 1;
            }
        }
        note(backends, &name, &d.driver, d.id.is_some());
        let device = Plugged { id: name, config: made, chardevs };
        match port {
            Some(port) => out.isa.push(PluggedIsa { device, port }),
            None => out.virtio.push(device),
        }
    }
    Ok(out)
}

fn note(backends: &mut Backends, name: &str, kind: &str, named: bool) {
    backends.peripherals.push(Peripheral { name: name.to_owned(), kind: kind.to_owned(), named });
}

fn plugged(id: String, config: Box<dyn AnyConfig>) -> Plugged {
    Plugged { id, config, chardevs: Vec::new() }
}

/// A card whose place the board chooses.
fn nic(n: &Nic, backends: &mut Backends, index: usize) -> Result<Plugged> {
    match n.model.as_deref() {
        None | Some("virtio-net-device" | "virtio-net" | "virtio") => {}
        Some(other) => bail!("-nic model={other}: no such card; there is: virtio-net-device"),
    }
    let id = n.name.clone().unwrap_or_else(|| format!("nic{index}"));
    let end = n.netdev.as_ref().map(|netdev| net_end(backends, &id, netdev)).transpose()?;
    let card = NetConfig { mac: n.mac.clone(), ..NetConfig::default() };
    note(backends, &id, "virtio-net-device", false);
    Ok(plugged(id, Box::new(Mmio::new(card, NetBackend(end)))))
}

/// The next port on the serial bus before it; `names` are those of the ports so far.
fn serial_port(
    port: &DeviceConfig,
    names: &mut Vec<String>,
    bus: &mut dyn AnyConfig,
    chars: &Chars,
) -> Result<(String, Arc<dyn CharBackend>)> {
    let mut props = port.props.clone();
    let chardev = props.take_text("chardev")?.ok_or_else(|| anyhow!("needs chardev=ID"))?;
    let name = props.take_text("name")?;
    props.check_keys(&port.driver, &["chardev", "name"])?;
    // Port 0 is the console; a serial port is one of the others.
    if names.is_empty() && port.driver != PORTS[0] {
        names.push(String::new());
    }
    let n = names.len();
    let slot = if n == 0 { "chardev".to_owned() } else { format!("port{n}") };
    names.push(name.unwrap_or_else(|| slot.clone()));
    bus.set("ports", &names.len().to_string())?;
    // The first port is the console, which has no name.
    bus.set("names", &names[1..].join(","))?;
    Ok((slot, chars.connect(&chardev, PortKind::Device)?))
}

fn device(
    d: &DeviceConfig,
    driver: &Driver,
    making: &mut Making<'_>,
    config: &VmConfig,
) -> Result<Box<dyn AnyConfig>> {
    let mut made = (driver.make)(making)?;
    for g in config.globals.iter().filter(|g| g.driver == d.driver) {
        made.set(&g.property, &g.value).with_context(|| format!("-global {}.{}", g.driver, g.property))?;
    }
    for (k, v) in texts(&making.props) {
        made.set(&k, &v).map_err(|e| match driver.extra {
            [] => anyhow!(e),
            extra => {
                let names: Vec<&str> = extra.iter().map(|(n, ..)| *n).collect();
                anyhow!("{e} (and {})", names.join(", "))
            }
        })?;
    }
    Ok(made)
}
