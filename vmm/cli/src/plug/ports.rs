//! Serial ports: those of a PC's ISA bus, and the ports of virtio consoles.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use control::chardev::PortKind;
use control::config::DeviceConfig;
use device::{AnyConfig, CharBackend};
use serial::ParallelConfig;

use super::{Extra, IsaPlace, Made, Making};
use crate::chardevs::Chars;

/// Driver of a port that stands where a PC looks for it.
pub(super) const ISA: &str = "isa-serial";
pub(super) const ISA_EXTRA: &[Extra] = &[
    super::CHARDEV,
    ("index", "uint32", "number of the port, 0 to 3 (default: the first that is free)"),
    ("iobase", "uint32", "first I/O port, which must be that of the number (default)"),
    ("irq", "uint32", "interrupt, which must be that of the number (default)"),
];

/// First I/O port and interrupt of the ports by their number.
const PLACES: [(u64, u64); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

pub(super) const PARALLEL_EXTRA: &[Extra] = &[
    super::CHARDEV,
    ("index", "uint32", "number of the port, 0 to 2 (default: 0)"),
    ("iobase", "uint32", "first I/O port (default: that of the number)"),
    ("irq", "uint32", "interrupt (default: 7)"),
];
/// First I/O ports of parallel ports by their number, and the interrupt of them all.
const PARALLEL: [u16; 3] = [0x378, 0x278, 0x3bc];
const PARALLEL_IRQ: usize = 7;

/// Driver that carries console and serial ports.
pub(super) const BUS: &str = "virtio-serial-device";
/// The same on PCI.
const BUSES: [&str; 3] = [BUS, "virtio-serial-pci", "virtio-serial"];
/// Drivers that are ports of it.
const PORTS: [&str; 2] = ["virtconsole", "virtserialport"];
pub(super) const PORT_EXTRA: &[Extra] = &[
    super::CHARDEV,
    ("name", "str", "name that the guest sees"),
    ("nr", "uint32", "number of the port, 1 to 30 (default: the first that is free)"),
];
/// Most ports of one.
const MAX_PORTS: usize = 31;

/// A port on the ISA bus: its back end and its number, if the user says.
pub(super) fn isa(m: &mut Making<'_>) -> Result<Made> {
    let mut take = |key: &str| {
        let value = m.props.u64(key);
        m.props.remove(key);
        value
    };
    let (index, port, irq) = (take("index")?, take("iobase")?, take("irq")?);
    let by_port = |(n, place): (usize, &(u64, u64))| (port == Some(place.0)).then_some(n as u64);
    let index = index.or_else(|| PLACES.iter().enumerate().find_map(by_port));
    let place = index.map(|n| usize::try_from(n).ok().and_then(|n| PLACES.get(n)));
    match place {
        Some(None) => bail!("'index' expects a port from 0 to 3, got {}", index.unwrap_or_default()),
        Some(Some(place)) if port.is_some_and(|p| p != place.0) || irq.is_some_and(|i| i != place.1) => {
            bail!(
                "port {} stands at iobase {:#x} with irq {}; no other place is supported",
                index.unwrap_or_default(),
                place.0,
                place.1
            )
        }
        None if port.is_some() || irq.is_some() => {
            bail!("expected iobase 0x3f8, 0x2f8, 0x3e8 or 0x2e8 and the interrupt that goes with it")
        }
        _ => {}
    }
    let chardev = m.props.take_text("chardev")?.ok_or_else(|| anyhow!("needs chardev=ID"))?;
    let backend = m.chars.connect(&chardev, PortKind::Device)?;
    Ok(Made::Serial(backend, index.and_then(|n| usize::try_from(n).ok())))
}

/// Puts a port among those of the board, at its number or the first that is free.
pub(super) fn place(
    all: &mut Vec<Option<Arc<dyn CharBackend>>>,
    backend: Arc<dyn CharBackend>,
    index: Option<usize>,
) -> Result<()> {
    let index = index.unwrap_or_else(|| all.iter().position(Option::is_none).unwrap_or(all.len()));
    if index >= PLACES.len() {
        bail!("all {} serial ports are taken", PLACES.len());
    }
    if all.len() <= index {
        all.resize(index + 1, None);
    }
    if all[index].replace(backend).is_some() {
        bail!("serial port {index} is taken");
    }
    Ok(())
}

/// Where a parallel port of the board stands.
pub(super) fn parallel_place(index: usize) -> Result<IsaPlace> {
    let port = PARALLEL.get(index).copied();
    let port = port.ok_or_else(|| anyhow!("there can be {} parallel ports", PARALLEL.len()))?;
    Ok(IsaPlace { port, irq: Some(PARALLEL_IRQ) })
}

/// A parallel port's device.
pub(super) fn parallel() -> Made {
    Made::Device(Box::new(ParallelConfig::default()))
}

/// Its back end, by the device's name for it.
pub(super) fn to_chardev(backend: Arc<dyn CharBackend>) -> Vec<(String, Arc<dyn CharBackend>)> {
    vec![("chardev".to_owned(), backend)]
}

/// A parallel port that the user places.
pub(super) fn isa_parallel(m: &mut Making<'_>) -> Result<Made> {
    let mut take = |key: &str| {
        let value = m.props.u64(key);
        m.props.remove(key);
        value
    };
    let (index, port, irq) = (take("index")?, take("iobase")?, take("irq")?);
    let mut place = parallel_place(usize::try_from(index.unwrap_or(0)).unwrap_or(usize::MAX))?;
    if let Some(port) = port {
        place.port = u16::try_from(port).map_err(|_| anyhow!("'iobase' expects a port, got {port:#x}"))?;
    }
    if let Some(irq) = irq {
        if !(3..16).contains(&irq) {
            bail!("'irq' expects an interrupt from 3 to 15, got {irq}");
        }
        place.irq = usize::try_from(irq).ok();
    }
    m.port = Some(place);
    super::chardev(m)?;
    Ok(parallel())
}

/// What a port alone ends in: it is made by its bus.
pub(super) fn alone(_: &mut Making<'_>) -> Result<Made> {
    bail!("needs a {BUS} before it")
}

/// Whether this is a port of a virtio console, which its bus makes.
pub(super) fn is_port(d: &DeviceConfig) -> bool {
    PORTS.contains(&d.driver.as_str())
}

/// The ports of all buses, by the number of the bus's device: `devices` are all of the machine, in order.
///
/// A port hangs on the bus it names (`ID.0`), otherwise on the last one before it.
pub(super) fn ports_of(devices: &[DeviceConfig]) -> Result<Vec<(usize, &DeviceConfig)>> {
    let buses = || devices.iter().enumerate().filter(|(_, d)| BUSES.contains(&d.driver.as_str()));
    let mut all = Vec::new();
    for (i, port) in devices.iter().enumerate().filter(|(_, d)| is_port(d)) {
        let fail = || format!("-device {}", port.driver);
        let bus = match &port.bus {
            None => buses().take_while(|(b, _)| *b < i).last(),
            Some(name) => {
                let id = name.strip_suffix(".0").unwrap_or(name);
                let named = buses().find(|(_, b)| b.id.as_deref() == Some(id));
                Some(
                    named
                        .ok_or_else(|| anyhow!("bus '{name}': there is no {BUS} of that name"))
                        .with_context(fail)?,
                )
            }
        };
        let (bus, _) = bus.ok_or_else(|| anyhow!("needs a {BUS} before it")).with_context(fail)?;
        all.push((bus, port));
    }
    Ok(all)
}

/// Gives `bus` its `ports`; their back ends by slot.
pub(super) fn hang<'a>(
    bus: &mut dyn AnyConfig,
    ports: impl Iterator<Item = &'a DeviceConfig>,
    chars: &Chars,
) -> Result<Vec<(String, Arc<dyn CharBackend>)>> {
    // Names by number; port 0 is the console, which has none, and a serial port is one of the others.
    let mut names: Vec<Option<String>> = vec![None];
    let mut backends = Vec::new();
    for port in ports {
        let fail = || format!("-device {}", port.driver);
        let mut props = port.props.clone();
        let number = props.u64("nr").with_context(fail)?;
        props.remove("nr");
        let chardev = props.take_text("chardev").with_context(fail)?;
        let chardev = chardev.ok_or_else(|| anyhow!("needs chardev=ID")).with_context(fail)?;
        let name = props.take_text("name").with_context(fail)?;
        props.check_keys(&port.driver, &["chardev", "name", "nr"])?;
        let console = port.driver == PORTS[0] && !backends.iter().any(|(slot, _)| slot == "chardev");
        let n = match number {
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
            None if console => 0,
            None => (1..).find(|n| names.get(*n).is_none_or(Option::is_none)).unwrap_or(MAX_PORTS),
        };
        let slot = if n == 0 { "chardev".to_owned() } else { format!("port{n}") };
        let taken = backends.iter().any(|(other, _)| *other == slot);
        if n >= MAX_PORTS || taken || n == 0 && port.driver != PORTS[0] {
            let why = if taken { "is taken" } else { "cannot be one (1 to 30; 0 is the console)" };
            return Err(anyhow!("'nr': port {n} {why}")).with_context(fail);
        }
        if names.len() <= n {
            names.resize(n + 1, None);
        }
        names[n] = Some(name.unwrap_or_default());
        backends.push((slot, chars.connect(&chardev, PortKind::Device).with_context(fail)?));
    }
    if !backends.is_empty() {
        let names: Vec<_> = names.into_iter().map(Option::unwrap_or_default).collect();
        bus.set("ports", &names.len().to_string())?;
        bus.set("names", &names[1..].join(","))?;
    }
    Ok(backends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::NullChar;

    #[test]
    fn serial_ports_take_their_number_or_the_first_free_one() {
        let port = || -> Arc<dyn CharBackend> { Arc::new(NullChar) };
        let mut all = vec![Some(port())];
        place(&mut all, port(), Some(2)).unwrap();
        place(&mut all, port(), None).unwrap();
        assert_eq!(all.iter().filter(|p| p.is_some()).count(), 3);
        assert!(place(&mut all, port(), Some(0)).unwrap_err().to_string().contains("port 0 is taken"));
        place(&mut all, port(), None).unwrap();
        assert!(place(&mut all, port(), None).unwrap_err().to_string().contains("all 4"));
    }

    #[test]
    fn ports_hang_on_the_bus_they_name_or_the_last_one() {
        let device = |driver: &str, id: Option<&str>, bus: Option<&str>| DeviceConfig {
            driver: driver.into(),
            id: id.map(Into::into),
            bus: bus.map(Into::into),
            ..DeviceConfig::default()
        };
        let port = |bus| device("virtserialport", None, bus);
        let bus = |id| device("virtio-serial-pci", Some(id), None);
        let all = [bus("a"), bus("b"), device("VGA", None, None), port(None), port(Some("a.0"))];
        let found: Vec<usize> = ports_of(&all).unwrap().iter().map(|(bus, _)| *bus).collect();
        assert_eq!(found, [1, 0]);
        let alone = [port(None)];
        assert!(
            format!("{:#}", ports_of(&alone).unwrap_err()).contains("needs a virtio-serial-device before it")
        );
        let lost = [bus("a"), port(Some("c.0"))];
        assert!(format!("{:#}", ports_of(&lost).unwrap_err()).contains("bus 'c.0'"));
    }
}
