//! Processors that clients see: their places, and those that come and go (`MODEL-x86_64-cpu` of `-device` and `device_add`).

use accel::arch::GuestArch;
use accel::arch::x86_topology::{Place, Topology};
use anyhow::{Result, anyhow, bail};
use control::VmConfig;
use control::config::DeviceConfig;
use control::vm::{CpuInfo, CpuPlace, CpuSlot, Event, OspmInfo, VmError};
use device::CpuPresence;
use machines::BoardKind;
use machines::cpus::Refusal;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::backends::{Backends, Peripheral};
use crate::qom;
use crate::vm::RheaVm;

/// Ends the names of types of processors that come and go.
const SUFFIX: &str = "-x86_64-cpu";
/// Where those of the start are in the composition tree, and those that have been plugged.
const AT_START: &str = "/machine/unattached/cpu";
const PLUGGED: &str = "/machine/peripheral/";

/// Whether a device is a processor.
pub(crate) fn is_cpu(driver: &str) -> bool {
    driver.ends_with(SUFFIX)
}

/// The processors of a machine.
pub(crate) struct Cpus {
    /// How many there can be.
    pub(crate) most: u32,
    pub(crate) topology: Topology,
    pub(crate) present: CpuPresence,
    /// Name of their type.
    kind: String,
    /// The machine lets them come and go.
    hotplug: bool,
    /// Who has been plugged, by number, with the name of the device.
    plugged: Mutex<Vec<(u32, String)>>,
}

impl Cpus {
    /// Those of a machine that starts, with those that the user plugs before it does.
    pub(crate) fn new(
        config: &VmConfig,
        board: &BoardKind,
        arch: GuestArch,
        model: &str,
        backends: &mut Backends,
    ) -> Result<Self> {
        let t = config.smp.resolve(board.levels)?;
        let most = if board.cpu_hotplug { t.maxcpus } else { t.cpus };
        let topology = match arch {
            GuestArch::X86_64 => Topology {
                sockets: t.sockets,
                dies: t.dies,
                modules: t.modules,
                cores: t.cores,
                threads: t.threads,
            },
            _ => Topology::flat(most),
        };
        let present = if board.cpu_hotplug { CpuPresence::new(most, t.cpus) } else { CpuPresence::default() };
        let cpus = Self {
            most,
            topology,
            present,
            kind: qom::cpu_type(arch, model),
            hotplug: board.cpu_hotplug,
            plugged: Mutex::default(),
        };
        for d in config.devices.iter().filter(|d| is_cpu(&d.driver)) {
            let index = cpus.place(d).map_err(|e| anyhow!("-device {}: {e}", d.driver))?;
            cpus.present.set(index, true);
            cpus.note(index, d, backends);
        }
        Ok(cpus)
    }

    /// Number of the processor that a device describes, which is not there yet.
    fn place(&self, d: &DeviceConfig) -> Result<u32> {
        if !self.hotplug {
            bail!("machine does not support hot-plugging CPUs");
        }
        if let Some(bus) = &d.bus {
            bail!("Bus '{bus}' not found");
        }
        if d.driver != self.kind {
            bail!("Invalid CPU type, expected cpu type: '{}'", self.kind);
        }
        let t = &self.topology;
        let mut props = d.props.clone();
        let mut level = |name: &str, count: u32| -> Result<u32> {
            let given = props.u64(name)?;
            props.remove(name);
            // Levels that the machine does not have need no number.
            let number = match (given, name) {
                (Some(n), _) => n,
                (None, "die-id" | "module-id") if count == 1 => 0,
                (None, _) => bail!("CPU {name} is not set"),
            };
            match u32::try_from(number) {
                Ok(n) if n < count => Ok(n),
                _ => bail!("Invalid CPU {name}: {number} must be in range 0:{}", count - 1),
            }
        };
        let place = Place {
            socket: level("socket-id", t.sockets)?,
            die: level("die-id", t.dies)?,
            module: level("module-id", t.modules)?,
            core: level("core-id", t.cores)?,
            thread: level("thread-id", t.threads)?,
        };
        if let Some((name, _)) = props.iter().next() {
            bail!("Property '{}.{name}' not found", d.driver);
        }
        let index = t.index(&place).filter(|index| *index < self.most);
        let index = index.ok_or_else(|| anyhow!("there is no place for the CPU"))?;
        if self.present.has(index) {
            bail!("CPU[{index}] with APIC ID {} exists", t.apic_id(index));
        }
        Ok(index)
    }

    fn note(&self, index: u32, d: &DeviceConfig, backends: &mut Backends) {
        let name = d.id.clone().unwrap_or_else(|| format!("{}.{index}", d.driver));
        let kind = self.kind.clone();
        backends.peripherals.push(Peripheral { name: name.clone(), kind, named: d.id.is_some() });
        self.plugged.lock().push((index, name));
    }

    fn name(&self, index: u32) -> Option<String> {
        self.plugged.lock().iter().find(|(at, _)| *at == index).map(|(_, name)| name.clone())
    }

    /// Whether a processor is there and was from the start.
    pub(crate) fn is_of_start(&self, index: u32) -> bool {
        index < self.most && self.present.has(index) && self.name(index).is_none()
    }

    /// The processor that a client means.
    fn find(&self, id: &str) -> Option<u32> {
        let number = id.strip_prefix(AT_START).and_then(|n| n.strip_prefix('[')?.strip_suffix(']'));
        if let Some(index) = number.and_then(|n| n.parse().ok()) {
            return self.is_of_start(index).then_some(index);
        }
        let id = id.strip_prefix(PLUGGED).unwrap_or(id);
        self.plugged.lock().iter().find(|(_, name)| name == id).map(|(index, _)| *index)
    }

    fn path(&self, index: u32, backends: &Backends) -> String {
        match self.name(index) {
            None => format!("{AT_START}[{index}]"),
            Some(name) => backends.path(&name),
        }
    }

    fn seen_at(&self, index: u32) -> CpuPlace {
        let (p, t) = (self.topology.place(index), &self.topology);
        CpuPlace {
            socket: p.socket,
            die: (t.dies > 1).then_some(p.die),
            module: (t.modules > 1).then_some(p.module),
            core: p.core,
            thread: p.thread,
        }
    }

    /// Those that are there.
    pub(crate) fn list(&self, threads: &[u64], backends: &Backends) -> Vec<CpuInfo> {
        let info = |index: u32| CpuInfo {
            index,
            qom_path: self.path(index, backends),
            qom_type: self.kind.clone(),
            thread_id: threads.get(index as usize).copied().unwrap_or_default(),
            halted: false,
            pc: None,
            place: self.seen_at(index),
        };
        // A machine without any has no threads for them either.
        let most = self.most.min(threads.len() as u32);
        (0..most).filter(|index| self.present.has(*index)).map(info).collect()
    }

    /// All places.
    pub(crate) fn slots(&self, backends: &Backends) -> Result<Vec<CpuSlot>, VmError> {
        if !self.hotplug {
            return Err(failed("machine does not support hot-plugging CPUs"));
        }
        let slot = |index: u32| CpuSlot {
            place: self.seen_at(index),
            kind: self.kind.clone(),
            qom_path: self.present.has(index).then(|| self.path(index, backends)),
        };
        Ok((0..self.most).rev().map(slot).collect())
    }
}

fn failed(e: impl std::fmt::Display) -> VmError {
    VmError::Failed(format!("{e:#}"))
}

impl RheaVm {
    fn plugging(&self) -> machines::cpus::Cpus<'_> {
        machines::cpus::Cpus::new(&self.machine, &self.cpus.present)
    }
}

fn refused(why: Refusal, kind: &str) -> VmError {
    failed(match why {
        Refusal::NoController => "CPU hotplug is not possible: the machine has no ACPI".to_owned(),
        Refusal::Firmware => "cpu hotplug with SMI wasn't enabled by firmware".to_owned(),
        Refusal::NotUsed => format!("acpi: device unplug request for not supported device type: {kind}"),
    })
}

/// `device_add` of a processor.
pub(crate) fn add(vm: &RheaVm, d: &DeviceConfig) -> Result<(), VmError> {
    if vm.migration.is_active() {
        return Err(failed("device_add not allowed while migrating"));
    }
    finish(vm);
    let _standing = vm.standing();
    let mut backends = vm.backends.lock();
    if let Some(id) = &d.id
        && (backends.peripherals.iter().any(|p| p.name == *id)
            || vm.machine.devices().iter().any(|(name, _)| name == id))
    {
        return Err(failed(format!("Duplicate device ID '{id}'")));
    }
    let index = vm.cpus.place(d).map_err(failed)?;
    let plugging = vm.plugging();
    plugging.check().map_err(|why| refused(why, &vm.cpus.kind))?;
    plugging.plug(index).map_err(failed)?;
    vm.cpus.note(index, d, &mut backends);
    Ok(())
}

/// `device_del` of a processor; false if it is none.
pub(crate) fn remove(vm: &RheaVm, id: &str) -> Result<bool, VmError> {
    let Some(index) = vm.cpus.find(id) else { return Ok(false) };
    if vm.migration.is_active() {
        return Err(failed("device_del not allowed while migrating"));
    }
    let _standing = vm.standing();
    if index == 0 {
        return Err(failed("Boot CPU is unpluggable"));
    }
    vm.plugging().ask(index).map_err(|why| refused(why, &vm.cpus.kind))?;
    Ok(true)
}

/// The guest may have let go of processors.
pub(crate) fn finish(vm: &RheaVm) {
    let _standing = vm.standing();
    let gone = vm.plugging().finish().unwrap_or_else(|e| {
        tracing::error!("{e}");
        Vec::new()
    });
    let mut backends = vm.backends.lock();
    for index in gone {
        let path = vm.cpus.path(index, &backends);
        let name = vm.cpus.name(index);
        let named =
            name.as_ref().filter(|name| backends.peripherals.iter().any(|p| p.named && p.name == **name));
        let data = match named {
            Some(name) => json!({"device": name, "path": path}),
            None => json!({"path": path}),
        };
        if let Some(name) = &name {
            backends.device_gone(name);
        }
        vm.cpus.plugged.lock().retain(|(at, _)| *at != index);
        vm.emit(&Event::new("DEVICE_DELETED", data));
    }
}

fn info(vm: &RheaVm, s: &machines::cpus::OspmStatus) -> OspmInfo {
    let backends = vm.backends.lock();
    let name = vm.cpus.name(s.cpu);
    let named = |name: &String| backends.peripherals.iter().any(|p| p.named && p.name == *name);
    OspmInfo { device: name.filter(named), slot: s.cpu.to_string(), event: s.event, status: s.status }
}

/// `query-acpi-ospm-status`.
pub(crate) fn statuses(vm: &RheaVm) -> Result<Vec<OspmInfo>, VmError> {
    let all = vm.plugging().statuses();
    let all = all.ok_or_else(|| failed("command is not supported, missing ACPI device"))?;
    Ok(all.iter().map(|s| info(vm, s)).collect())
}

/// The guest has said what it makes of what it was told.
pub(crate) fn report(vm: &RheaVm) {
    for s in vm.plugging().take_told() {
        let info: Value = info(vm, &s).to_json();
        vm.emit(&Event::new("ACPI_DEVICE_OST", json!({"info": info})));
    }
}
