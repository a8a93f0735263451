//! From a configuration to a machine.

use std::path::PathBuf;
use std::sync::Arc;

use accel::arch::GuestArch;
use accel::arch::x86_topology::Topology;
use accel::{Accelerator, CpuModel, IrqchipMode, LogSink};
use anyhow::{Context, Result, anyhow, bail};
use block::Disk;
use control::config::{AccelConfig, FwCfgItem, MemoryBackendKind, Props, RtcBase, RtcClock};
use control::{VmConfig, nearest};
use device::CpuPresence;
use guest_memory::{Backing, HugePages, RamConfig};
use machine::{Board, Machine, MachineEvent, Options, WallTime, realize};
use machines::hotplug::HotPlug;
use machines::{Bios, BoardConfig, BoardKind, RiscvCpu, VgaCard};
use parking_lot::Mutex;
use tcg_guest_riscv::{Cpu, cpu::Ext};

use crate::backends::Backends;
use crate::chardevs::Chars;
use crate::cpus::Cpus;
use crate::{accels, devices, firmware, list, none, plug};

/// A machine and what was chosen for it.
pub(crate) struct Launched {
    pub(crate) machine: Arc<Machine>,
    pub(crate) board: &'static BoardKind,
    pub(crate) accel: &'static str,
    pub(crate) ram: u64,
    /// What its devices stand on.
    pub(crate) backends: Arc<Mutex<Backends>>,
    /// What devices that come and go are made with.
    pub(crate) hot: plug::hot::Shared,
    pub(crate) cpu_model: String,
    pub(crate) cpus: Arc<Cpus>,
    /// The host may merge equal pages of RAM.
    pub(crate) merge: bool,
    /// RAM is part of core dumps.
    pub(crate) dump: bool,
}

/// Properties as text, for tables that know what they mean.
pub(crate) fn texts(props: &Props) -> Vec<(String, String)> {
    props
        .iter()
        .map(|(k, v)| {
            let text = match v {
                serde_json::Value::String(s) => s.clone(),
                serde_json::Value::Bool(true) => "on".into(),
                serde_json::Value::Bool(false) => "off".into(),
                other => other.to_string(),
            };
            (k.to_owned(), text)
        })
        .collect()
}

fn ram_config(config: &VmConfig, advice: &Advice) -> Result<RamConfig> {
    let b = &config.memory.backend;
    let huge = match (b.hugetlb, b.hugetlbsize) {
        (false, _) => None,
        (true, None | Some(0x20_0000)) => Some(HugePages::Size2M),
        (true, Some(0x4000_0000)) => Some(HugePages::Size1G),
        (true, Some(n)) => bail!("memory backend: hugetlbsize {n}: expected 2M or 1G"),
    };
    let backing = match &b.kind {
        MemoryBackendKind::Anon if b.share || huge.is_some() => Backing::Memfd { huge },
        MemoryBackendKind::Anon => Backing::Anonymous,
        MemoryBackendKind::Memfd => Backing::Memfd { huge },
        MemoryBackendKind::File { path, offset, readonly: false, .. } => {
            Backing::File { path: path.into(), shared: b.share, offset: *offset }
        }
        MemoryBackendKind::File { path, .. } => {
            bail!("memory backend {path}: readonly is not supported, a guest writes to its RAM")
        }
    };
    Ok(RamConfig {
        backing,
        prealloc: b.prealloc,
        merge: advice.merge == Some(true),
        no_dump: advice.dump == Some(false),
    })
}

/// An accelerator to try, and the properties the user gave it.
type Candidate = (Box<dyn Accelerator>, Vec<(String, String)>);

/// Accelerators to try, in order.
fn candidates(config: &VmConfig, arch: GuestArch) -> Result<Vec<Candidate>> {
    let auto = [AccelConfig { name: "auto".into(), ..AccelConfig::default() }];
    let wanted = if config.accels.is_empty() { &auto[..] } else { &config.accels };
    let mut found = Vec::new();
    for w in wanted {
        if w.name != "auto" && !accels::NAMES.contains(&w.name.as_str()) {
            let hint = nearest(&w.name, accels::NAMES.iter().copied());
            let hint = hint.map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            bail!("unknown accelerator '{}'{hint} There are: {}", w.name, accels::NAMES.join(", "));
        }
        let fits =
            |a: &dyn Accelerator| (w.name == "auto" || a.name() == w.name) && a.guests().contains(&arch);
        let before = found.len();
        let fitting = accels::all().into_iter().filter(|a| fits(a.as_ref()));
        found.extend(fitting.map(|a| (a, texts(&w.properties))));
        if found.len() == before && wanted.len() == 1 {
            bail!("accelerator {} cannot run {arch} guests", w.name);
        }
    }
    if found.is_empty() {
        bail!("no accelerator runs {arch} guests");
    }
    Ok(found)
}

fn riscv_cpu(config: &VmConfig, arch: GuestArch) -> Result<RiscvCpu> {
    let xlen = match arch {
        GuestArch::Riscv64 => 64,
        GuestArch::Riscv32 => 32,
        _ => return Ok(RiscvCpu::default()),
    };
    let model = cpu_model(config);
    let cpu = Cpu::new(xlen, &model.name, &model.features).map_err(|e| anyhow!("cpu {e}"))?;
    let mmu = cpu.mmu_type().unwrap_or("none").trim_start_matches("riscv,").to_owned();
    let block = |ext| cpu.ext.has(ext).then_some(cpu.cbo_block as u32);
    let cbo_blocks = [block(Ext::ZICBOM), block(Ext::ZICBOZ)];
    Ok(RiscvCpu { isa: cpu.isa_string(), extensions: cpu.extensions(), cbo_blocks, mmu })
}

fn cpu_model(config: &VmConfig) -> CpuModel {
    config
        .cpu
        .as_ref()
        .map_or_else(CpuModel::default, |c| CpuModel { name: c.model.clone(), features: texts(&c.features) })
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    for half in seed.chunks_mut(16) {
        half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    seed
}

fn path(p: &Option<String>) -> Option<PathBuf> {
    p.as_ref().map(PathBuf::from)
}

/// Builds the machine; it stands still.
pub(crate) fn launch(
    config: &VmConfig,
    log: LogSink,
    chars: &Chars,
    events: Arc<dyn Fn(MachineEvent) + Send + Sync>,
) -> Result<Launched> {
    let arch = list::arch(config)?;
    let board = list::board(config, arch)?;
    let topology = config.smp.resolve(board.levels)?;
    let ram = config.memory.size.unwrap_or(board.default_ram);
    let dirs = config.data_dirs.clone();
    let mut properties = texts(&config.machine.properties);
    let wanted_irqchip = take_irqchip(&mut properties)?;
    let advice = take_common(&mut properties, board, config)?;
    check_globals(config)?;
    let empty = board.name == none::NONE.name;
    let wall_clock = wall_time(config)?;
    if config.boot.menu == Some(true) && !board.fw_cfg {
        bail!("-boot menu=on is not supported: machine {} has no firmware that reads it", board.name);
    }
    let mut backends = Backends::open(config, chars)?;
    let mut plugs = plug::plug(config, chars, &mut backends, board)?;
    let slots = HotPlug::default();
    let hot = plug::hot::Hot::new(config, board, topology.cpus, slots.clone(), &mut plugs);
    let flash = flash(&mut properties, plugs.flash, &mut backends, board)?;
    let backends = Arc::new(Mutex::new(backends));
    let mut board_config = BoardConfig {
        arch,
        vcpus: topology.cpus,
        topology: Topology::default(),
        present: CpuPresence::default(),
        irqchip: wanted_irqchip.unwrap_or_default(),
        ram: if empty { 0 } else { ram },
        ram_config: ram_config(config, &advice)?,
        bios: match config.bios.as_deref() {
            None => Bios::Default,
            Some("none") => Bios::None,
            Some(name) => Bios::File(
                firmware::find(name, &dirs).ok_or_else(|| anyhow!("-bios {name}: no such firmware file"))?,
            ),
        },
        firmware: Box::new(move |name| firmware::find(name, &dirs)),
        kernel: path(&config.kernel),
        initrd: path(&config.initrd),
        append: config.append.clone().unwrap_or_default(),
        dtb: path(&config.dtb),
        serials: plugs.serials,
        virtio: plugs.virtio,
        isa: plugs.isa,
        pci: plugs.pci,
        hotplug: slots.clone(),
        ide: plugs.ide,
        floppies: plugs.floppies,
        boot_drives: plugs.boot_drives,
        vga: vga(config, board)?,
        fw_cfg: fw_cfg(config, board)?,
        boot_order: boot_order(config),
        boot_menu: config.boot.menu.unwrap_or(false).then(|| config.boot.splash_time.unwrap_or(0) as u32),
        no_graphics: config.nographic || config.display.as_deref() == Some("none"),
        flash,
        smm: false,
        uuid: config.uuid.map(uuid::Uuid::into_bytes),
        properties,
        riscv: riscv_cpu(config, arch)?,
        seed: seed(),
    };
    let mut refused = Vec::new();
    let mut all = candidates(config, arch)?.into_iter().peekable();
    let ours_to_choose = config.accels.iter().all(|a| a.name == "auto");
    while let Some((accel, mut accel_properties)) = all.next() {
        let caps = match accel.probe(arch) {
            Ok(caps) => caps,
            Err(e) => {
                refused.push(e.to_string());
                continue;
            }
        };
        if ours_to_choose && all.peek().is_some() && caps.kernel_ns.is_some_and(|ns| ns > SLOW_KERNEL_NS) {
            tracing::warn!("{}: {}; using the next accelerator", accel.name(), caps.note);
            continue;
        }
        if !config.plugins.is_empty() {
            if accel.name() != accels::WITH_PLUGINS {
                refused.push(format!("accelerator {} has no plugins (-plugin)", accel.name()));
                continue;
            }
            accel_properties.extend(config.plugins.iter().map(|p| ("plugin".to_owned(), p.clone())));
        }
        let own = take_irqchip(&mut accel_properties)?;
        let irqchip = match own.or(wanted_irqchip) {
            wanted if caps.kernel_irqchip => wanted.unwrap_or_default(),
            // Said of the board, it is a wish for accelerators that can.
            _ if own.is_none_or(|mode| mode == IrqchipMode::User) => IrqchipMode::User,
            _ => bail!(
                "accelerator {} has no interrupt controllers of its own: kernel-irqchip is expected to be off",
                accel.name()
            ),
        };
        board_config.irqchip = irqchip;
        board_config.smm = accels::WITH_SMM.contains(&accel.name());
        let name = accel.name();
        let model = match &config.cpu {
            Some(c) => c.model.clone(),
            None => accel.cpu_models(arch).into_iter().next().map_or_else(String::new, |(model, _)| model),
        };
        let cpus = Cpus::new(config, board, arch, &model, &mut backends.lock())?;
        board_config.vcpus = cpus.most;
        board_config.topology = cpus.topology;
        board_config.present = cpus.present.clone();
        let mut b = (board.build)(&board_config)?;
        set_globals(&mut b, config)?;
        let options = Options {
            vcpus: if empty { 0 } else { cpus.most },
            topology: cpus.topology,
            cpu: cpu_model(config),
            irqchip,
            accel_properties,
            log: log.clone(),
            wall_clock: Some(wall_clock),
            events: events.clone(),
        };
        let accel: &dyn Accelerator = if empty { &accel::nothing::Nothing } else { accel.as_ref() };
        let machine = realize(b, accel, options).with_context(|| format!("machine {}", board.name))?;
        return Ok(Launched {
            machine,
            board,
            accel: name,
            ram: board_config.ram,
            backends,
            hot: Arc::new(Mutex::new(hot)),
            cpu_model: model,
            cpus: Arc::new(cpus),
            merge: advice.merge.unwrap_or(false),
            dump: advice.dump.unwrap_or(true),
        });
    }
    bail!("{}", refused.join("; "))
}

/// The graphics card: a standard VGA where there is a place for one and somebody may look at it, unless the user says
/// otherwise.
fn vga(config: &VmConfig, board: &BoardKind) -> Result<Option<VgaCard>> {
    match config.vga.as_deref() {
        None => Ok((board.vga && !config.nodefaults && !config.nographic).then_some(VgaCard::Standard)),
        Some("none") => Ok(None),
        Some("std") if board.vga => Ok(Some(VgaCard::Standard)),
        Some("cirrus") if board.vga && board.pci => Ok(Some(VgaCard::Cirrus)),
        Some(known @ ("std" | "cirrus")) => {
            let std = if board.vga { "std or " } else { "" };
            bail!("-vga {known}: machine {} has no place for that card; expected {std}none", board.name)
        }
        Some(other) => bail!("-vga {other}: there is no such card; expected std, cirrus or none"),
    }
}

/// Largest file that is given to firmware.
const MAX_FW_CFG: u64 = 64 << 20;

/// Files for firmware and guest, read.
fn fw_cfg(config: &VmConfig, board: &BoardKind) -> Result<Vec<(String, Vec<u8>)>> {
    let read = |item: &FwCfgItem| -> Result<(String, Vec<u8>)> {
        let fail = || format!("-fw_cfg {}", item.name);
        if !board.fw_cfg {
            bail!("-fw_cfg {}: machine {} does not offer files to its guest", item.name, board.name);
        }
        if !item.name.starts_with("opt/") {
            tracing::warn!("-fw_cfg {}: names of one's own are to begin with 'opt/'", item.name);
        }
        let data = match &item.file {
            None => item.string.clone().unwrap_or_default().into_bytes(),
            Some(path) => {
                let size = std::fs::metadata(path).with_context(|| path.clone()).with_context(fail)?.len();
                if size > MAX_FW_CFG {
                    bail!("-fw_cfg {}: {path} has {size} bytes, expected at most {MAX_FW_CFG}", item.name);
                }
                std::fs::read(path).with_context(|| path.clone()).with_context(fail)?
            }
        };
        Ok((item.name.clone(), data))
    };
    config.fw_cfg.iter().map(read).collect()
}

/// Contents of the flash chips in order: those given as drives with their numbers, and nodes named by properties of the machine.
fn flash(
    properties: &mut Vec<(String, String)>,
    mut chips: Vec<(usize, Disk)>,
    backends: &mut Backends,
    board: &BoardKind,
) -> Result<Vec<Disk>> {
    for n in 0..board.flash {
        let name = format!("pflash{n}");
        if let Some(at) = properties.iter().rposition(|(k, _)| *k == name) {
            let (_, node) = properties.remove(at);
            if chips.iter().any(|(at, _)| *at == n) {
                bail!("{name}={node}: there is a drive for flash chip {n} already");
            }
            chips.push((n, backends.disk(&node, &name, None).with_context(|| format!("-M {name}={node}"))?));
        }
    }
    chips.sort_by_key(|(n, _)| *n);
    if let Some((missing, (n, _))) = chips.iter().enumerate().find(|(i, (n, _))| i != n) {
        bail!("flash chip {n} is given, chip {missing} is not: expected the first as well");
    }
    Ok(chips.into_iter().map(|(_, disk)| disk).collect())
}

/// Boot devices in order, by letter; disk, CD and network if the user says nothing.
fn boot_order(config: &VmConfig) -> String {
    let order = config.boot.once.as_ref().or(config.boot.order.as_ref());
    order.cloned().unwrap_or_else(|| "cad".into())
}

/// What the host is told of guest RAM.
struct Advice {
    merge: Option<bool>,
    dump: Option<bool>,
}

/// Properties that every machine has, whatever its board. What a board does not have may still be said to be off.
fn take_common(
    properties: &mut Vec<(String, String)>,
    board: &BoardKind,
    config: &VmConfig,
) -> Result<Advice> {
    let mut take = |name: &str| -> Result<Option<bool>> {
        let Some(at) = properties.iter().position(|(k, _)| k == name) else { return Ok(None) };
        let (_, value) = properties.remove(at);
        let on = control::value::parse_bool(&value);
        on.map(Some).ok_or_else(|| anyhow!("machine property '{name}' expects on or off, got '{value}'"))
    };
    let merge = take("mem-merge")?.or(config.memory.backend.merge);
    let dump = take("dump-guest-core")?.or(config.memory.backend.dump);
    for absent in ["usb", "graphics", "acpi", "vmport", "smm", "hpet", "nvdimm", "suppress-vmdesc"] {
        let own = board.properties.iter().any(|(name, _)| *name == absent);
        let Some(at) = properties.iter().position(|(k, _)| k == absent && !own) else { continue };
        let (_, value) = properties.remove(at);
        if !matches!(value.as_str(), "off" | "auto" | "false" | "no") {
            bail!("machine {} has no {absent}: '{absent}' expects off, got '{value}'", board.name);
        }
    }
    Ok(Advice { merge, dump })
}

/// `-global` settings that say what is so anyway.
const SO_ANYWAY: &[(&str, &str, &[&str])] = &[("virtio-mmio", "force-legacy", &["off", "false", "no"])];

fn so_anyway(g: &control::config::GlobalProperty) -> bool {
    let fits =
        |(d, p, v): &(&str, &str, &[&str])| g.driver == *d && g.property == *p && v.contains(&&*g.value);
    SO_ANYWAY.iter().any(fits)
}

/// Refuses defaults for drivers or properties that do not exist.
fn check_globals(config: &VmConfig) -> Result<()> {
    let kinds = devices::all();
    for g in config.globals.iter().filter(|g| !so_anyway(g)) {
        let Some(kind) = kinds.iter().find(|k| k.kind == g.driver) else {
            let hint = nearest(&g.driver, kinds.iter().map(|k| k.kind));
            let hint = hint.map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            bail!(
                "-global {}.{}: no such driver{hint} ('-device help' lists those that can be plugged)",
                g.driver,
                g.property
            );
        };
        let mut trial = (kind.config)();
        trial.set(&g.property, &g.value).with_context(|| format!("-global {}", g.driver))?;
    }
    Ok(())
}

/// Sets them on the board's own devices; plugged ones have them already.
fn set_globals(board: &mut Board, config: &VmConfig) -> Result<()> {
    for g in config.globals.iter().filter(|g| !so_anyway(g)) {
        board
            .set_global(&g.driver, &g.property, &g.value)
            .with_context(|| format!("-global {}", g.driver))?;
    }
    Ok(())
}

/// `-rtc`.
fn wall_time(config: &VmConfig) -> Result<WallTime> {
    const SECOND: i64 = 1_000_000_000;
    let rtc = &config.rtc;
    if rtc.driftfix_slew {
        bail!("-rtc driftfix=slew is not supported: expected none");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let start = match rtc.base {
        RtcBase::Utc => now,
        RtcBase::Localtime => {
            let zone = jiff::Zoned::now().offset().seconds();
            now.saturating_add(i64::from(zone) * SECOND)
        }
        RtcBase::At(seconds) => seconds.saturating_mul(SECOND),
    };
    match rtc.clock {
        RtcClock::Host => Ok(WallTime::Host(start.saturating_sub(now))),
        RtcClock::Vm => Ok(WallTime::Virtual(start)),
        RtcClock::Rt => bail!("-rtc clock=rt is not supported: expected host or vm"),
    }
}

/// Above this the translator runs guest kernels faster than an accelerator whose host emulates them.
const SLOW_KERNEL_NS: u64 = 100;

/// `kernel-irqchip=on|split|off`, a property of the machine or of the accelerator.
fn take_irqchip(properties: &mut Vec<(String, String)>) -> Result<Option<IrqchipMode>> {
    let Some(at) = properties.iter().position(|(k, _)| k == "kernel-irqchip" || k == "kernel_irqchip") else {
        return Ok(None);
    };
    let (_, value) = properties.remove(at);
    match value.as_str() {
        "on" => Ok(Some(IrqchipMode::Kernel)),
        "split" => Ok(Some(IrqchipMode::Split)),
        "off" => Ok(Some(IrqchipMode::User)),
        other => bail!("kernel-irqchip: expected on, split or off, got '{other}'"),
    }
}
