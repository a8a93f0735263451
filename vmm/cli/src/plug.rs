//! Disks, networks and the devices that sit on them: from the configuration to device configs with their back ends.
//!
//! Everything is checked and opened here, before the machine is built; what a later error leaves behind is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::{BlockNode, Disk, IoPool, Overlay};
use block_formats::OpenOptions;
use control::chardev::PortKind;
use control::config::{DeviceConfig, Drive, DriveInterface, Nic, Props};
use control::{VmConfig, nearest};
use device::{AnyConfig, CharBackend};
use machines::Plugged;
use net::Endpoint;
use virtio::{BalloonConfig, BlkConfig, ConsoleConfig, Mmio, NetBackend, NetConfig, RngConfig, RngSource};

use crate::chardevs::Chars;
use crate::launch::texts;
use crate::netdevs;

/// Threads that do the disks' work.
const IO_THREADS: usize = 4;
/// Driver that carries console and serial ports.
const SERIAL_BUS: &str = "virtio-serial-device";
/// Drivers that are ports of it.
const PORTS: [&str; 2] = ["virtconsole", "virtserialport"];

/// Back ends by id, each for one device.
struct Backends {
    disks: BTreeMap<String, Disk>,
    nets: BTreeMap<String, Arc<dyn Endpoint>>,
}

/// A device driver that can be plugged, and how its config is made.
struct Driver {
    name: &'static str,
    /// Properties that name back ends, not settings of the device.
    backend_keys: &'static [&'static str],
    make: fn(&mut Backends, &mut Props) -> Result<Box<dyn AnyConfig>>,
}

/// All drivers for `-device`.
const DRIVERS: &[Driver] = &[
    Driver { name: "virtio-balloon-device", backend_keys: &[], make: virtio_balloon },
    Driver { name: "virtio-blk-device", backend_keys: &["drive"], make: virtio_blk },
    Driver { name: "virtio-net-device", backend_keys: &["netdev"], make: virtio_net },
    Driver { name: "virtio-rng-device", backend_keys: &["rng"], make: virtio_rng },
    Driver { name: SERIAL_BUS, backend_keys: &[], make: virtio_serial },
];

/// Takes what `id` names out of a table of back ends.
fn take<T>(table: &mut BTreeMap<String, T>, what: &str, id: &str) -> Result<T> {
    let known: Vec<&str> = table.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    table.remove(id).ok_or_else(|| anyhow!("{what} '{id}' does not exist or is in use; there are: {known}"))
}

fn virtio_balloon(_: &mut Backends, _: &mut Props) -> Result<Box<dyn AnyConfig>> {
    Ok(Box::new(Mmio::new(BalloonConfig::default(), ())))
}

fn virtio_blk(b: &mut Backends, props: &mut Props) -> Result<Box<dyn AnyConfig>> {
    let id = props.take_text("drive")?;
    let id = id.ok_or_else(|| anyhow!("needs drive=ID, the id of a -drive with if=none"))?;
    let disk = take(&mut b.disks, "drive", &id)?;
    Ok(Box::new(Mmio::new(BlkConfig::default(), Some(disk))))
}

fn virtio_net(b: &mut Backends, props: &mut Props) -> Result<Box<dyn AnyConfig>> {
    let end = props.take_text("netdev")?.map(|id| take(&mut b.nets, "netdev", &id)).transpose()?;
    Ok(Box::new(Mmio::new(NetConfig::default(), NetBackend(end))))
}

fn virtio_rng(_: &mut Backends, props: &mut Props) -> Result<Box<dyn AnyConfig>> {
    props.take_text("rng")?;
    Ok(Box::new(Mmio::new(RngConfig::default(), RngSource::default())))
}

fn virtio_serial(_: &mut Backends, _: &mut Props) -> Result<Box<dyn AnyConfig>> {
    Ok(Box::new(Mmio::new(ConsoleConfig::default(), ())))
}

/// Opens one drive.
fn open(config: &VmConfig, d: &Drive, pool: &IoPool, index: usize) -> Result<(String, Disk)> {
    let id = d.id.clone().unwrap_or_else(|| format!("drive{index}"));
    let path = d.file.as_deref().ok_or_else(|| anyhow!("drive '{id}': needs file=PATH"))?;
    let temporary = d.snapshot.unwrap_or(config.snapshot);
    let options = OpenOptions {
        read_only: d.readonly || temporary,
        discard: d.discard.as_deref().is_some_and(|d| d == "unmap" || d == "on"),
        unsafe_cache: d.cache.as_deref() == Some("unsafe"),
        ..OpenOptions::default()
    };
    let image =
        block_formats::open(path, d.format.as_deref(), &options).with_context(|| format!("drive '{id}'"))?;
    if d.format.is_none() && image.format() == "raw" && !options.read_only {
        tracing::warn!(
            "drive '{id}': format= was not given and {path} looks raw; the guest may not write what looks like another format"
        );
    }
    let image: Arc<dyn BlockNode> = image;
    let node = if temporary { Arc::new(Overlay::new(image)?) as Arc<dyn BlockNode> } else { image };
    Ok((id.clone(), Disk::new(id, node, d.readonly, pool)))
}

/// Everything that is plugged, in order.
pub(crate) fn plug(config: &VmConfig, chars: &Chars) -> Result<Vec<Plugged>> {
    let pool = IoPool::new(IO_THREADS);
    let mut backends = Backends { disks: BTreeMap::new(), nets: netdevs::open(config)? };
    let mut out: Vec<Plugged> = Vec::new();
    for (i, d) in config.drives.iter().enumerate() {
        let (id, disk) = open(config, d, &pool, i)?;
        match d.interface {
            Some(DriveInterface::None) => {
                backends.disks.insert(id, disk);
            }
            None | Some(DriveInterface::Virtio) => {
                let blk = BlkConfig { serial: d.serial.clone().unwrap_or_default(), ..BlkConfig::default() };
                out.push(plugged(id, Box::new(Mmio::new(blk, Some(disk)))));
            }
            Some(other) => {
                bail!("drive '{id}': this board has no {} interface; expected none or virtio", other.name())
            }
        }
    }
    for (i, n) in config.nics.iter().enumerate() {
        out.push(nic(n, &mut backends, i)?);
    }
    let mut i = 0;
    while let Some(d) = config.devices.get(i) {
        let fail = || format!("-device {}", d.driver);
        let id = d.id.clone().unwrap_or_else(|| format!("{}.{i}", d.driver));
        i += 1;
        let mut made = device(d, &mut backends, config).with_context(fail)?;
        let mut chardevs = Vec::new();
        let mut names = Vec::new();
        if d.driver == SERIAL_BUS {
            while let Some(port) = config.devices.get(i).filter(|p| PORTS.contains(&p.driver.as_str())) {
                let fail = || format!("-device {}", port.driver);
                chardevs.push(serial_port(port, &mut names, made.as_mut(), chars).with_context(fail)?);
                i += 1;
            }
        }
        out.push(Plugged { id, config: made, chardevs });
    }
    Ok(out)
}

fn plugged(id: String, config: Box<dyn AnyConfig>) -> Plugged {
    Plugged { id, config, chardevs: Vec::new() }
}

/// A card whose place the board chooses.
fn nic(n: &Nic, backends: &mut Backends, index: usize) -> Result<Plugged> {
    match n.model.as_deref() {
        None | Some("virtio-net-device" | "virtio") => {}
        Some(other) => bail!("-nic model={other}: no such card; there is: virtio-net-device"),
    }
    let end = n.netdev.as_ref().map(|id| take(&mut backends.nets, "netdev", id)).transpose()?;
    let card = NetConfig { mac: n.mac.clone(), ..NetConfig::default() };
    let id = n.name.clone().unwrap_or_else(|| format!("nic{index}"));
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

fn device(d: &DeviceConfig, backends: &mut Backends, config: &VmConfig) -> Result<Box<dyn AnyConfig>> {
    if PORTS.contains(&d.driver.as_str()) {
        bail!("needs a {SERIAL_BUS} before it");
    }
    let Some(driver) = DRIVERS.iter().find(|x| x.name == d.driver) else {
        let names = DRIVERS.iter().map(|x| x.name).chain(PORTS);
        let hint = nearest(&d.driver, names).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
        bail!("no such device{hint} (-device help lists them)");
    };
    let mut props = d.props.clone();
    let mut made = (driver.make)(backends, &mut props)?;
    for g in config.globals.iter().filter(|g| g.driver == d.driver) {
        made.set(&g.property, &g.value)?;
    }
    for (k, v) in texts(&props) {
        made.set(&k, &v).map_err(|e| match driver.backend_keys {
            [] => anyhow!(e),
            keys => anyhow!("{e} (and {})", keys.join(", ")),
        })?;
    }
    Ok(made)
}
