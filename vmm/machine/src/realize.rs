//! From a recorded board to a machine: checks, address spaces, partition, devices, wires.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use accel::arch::x86_topology::Topology;
use accel::{
    Accelerator, ClockTimer, CpuModel, GuestClock, IrqchipMode, LogSink, Partition, PartitionConfig,
};
use device::{Clock, ClockSource, DeviceCell, PinSpec, Spaces, SystemControl, TimerQueue, WallClock};
use guest_memory::{AddressSpace, RamBlock, Region, RegionId};
use parking_lot::Mutex;

use crate::board::{Board, Dest, Space};
use crate::machine::Machine;
use crate::workshop::{Cells, MachineMsi, StartUp, Workshop};
use crate::{MachineError, MachineEvent};

/// What the machine needs besides its board.
pub struct Options {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Where they are in packages and cores, on x86.
    pub topology: Topology,
    /// CPU model.
    pub cpu: CpuModel,
    /// Where interrupt controllers live.
    pub irqchip: IrqchipMode,
    /// Backend properties.
    pub accel_properties: Vec<(String, String)>,
    /// Log.
    pub log: LogSink,
    /// Time of day; the host's, moving with the virtual clock, if there is nothing here.
    pub wall_clock: Option<WallTime>,
    /// Told of requests and changes; called from any thread, must only take note.
    pub events: Arc<dyn Fn(MachineEvent) + Send + Sync>,
}

/// What a real-time clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WallTime {
    /// The host's time of day, this many nanoseconds on.
    Host(i64),
    /// It starts at this many nanoseconds since 1970 and moves with the virtual clock.
    Virtual(i64),
}

/// The machine's clock as the accelerator contract wants it.
struct VcpuClock {
    clock: Clock,
    timers: TimerQueue,
}

struct VcpuTimer(device::Timer);

impl ClockTimer for VcpuTimer {
    fn arm(&self, deadline_ns: u64) {
        self.0.arm(deadline_ns);
    }

    fn cancel(&self) {
        self.0.cancel();
    }
}

impl GuestClock for VcpuClock {
    fn now_ns(&self) -> u64 {
        self.clock.now()
    }

    fn timer(&self, fire: Box<dyn Fn() + Send + Sync>) -> Arc<dyn ClockTimer> {
        Arc::new(VcpuTimer(self.timers.timer(move |stands: &dyn Fn() -> bool| {
            if stands() {
                fire();
            }
        })))
    }
}

/// Refuses graphs that cannot be built, naming what is wrong.
fn check(board: &Board, vcpus: u32) -> Result<(), MachineError> {
    let bad = |m: String| Err(MachineError::Board(m));
    let mut names = BTreeMap::new();
    for (i, n) in board.nodes.iter().enumerate() {
        if names.insert(n.name.as_str(), i).is_some() {
            return bad(format!("two devices are named '{}'", n.name));
        }
    }
    let mut used: Vec<(Space, Option<&str>, u64, u64, &str)> = Vec::new();
    for r in &board.rams {
        if r.size == 0 {
            return bad(format!("{}: size is 0", r.name));
        }
        used.push((Space::Memory, r.container, r.base, r.base.saturating_add(r.size - 1), &r.name));
    }
    for n in &board.nodes {
        let regions = n.config.regions();
        for m in &n.maps {
            let Some(r) = regions.get(m.region) else {
                return bad(format!("{}: no region {}", n.name, m.region));
            };
            used.push((m.space, m.container, m.base, m.base.saturating_add(r.size.max(1) - 1), &n.name));
        }
        let outputs = n.config.outputs();
        for w in &n.wires {
            if PinSpec::number(&outputs, &w.pin, w.index).is_none() {
                return bad(format!("{}: no output pin {}[{}]", n.name, w.pin, w.index));
            }
            match &w.dest {
                Dest::Device { device, pin, index } => {
                    let inputs = names.get(device.as_str()).map(|i| board.nodes[*i].config.inputs());
                    if inputs.and_then(|p| PinSpec::number(&p, pin, *index)).is_none() {
                        return bad(format!(
                            "{}: pin {} leads to {}, which does not exist",
                            n.name, w.pin, w.dest
                        ));
                    }
                }
                Dest::Cpu { cpu, .. } if *cpu >= vcpus => {
                    return bad(format!(
                        "{}: pin {} leads to {}, there are {vcpus} vcpus",
                        n.name, w.pin, w.dest
                    ));
                }
                Dest::Nmi(cpu) | Dest::Smi(cpu) if *cpu >= vcpus => {
                    return bad(format!(
                        "{}: pin {} leads to {}, there are {vcpus} vcpus",
                        n.name, w.pin, w.dest
                    ));
                }
                Dest::Cpu { .. } | Dest::Nmi(_) | Dest::Smi(_) | Dest::A20 | Dest::Gsi(_) => {}
            }
        }
    }
    used.sort();
    for pair in used.windows(2) {
        let ((s1, c1, b1, e1, n1), (s2, c2, b2, e2, n2)) = (&pair[0], &pair[1]);
        if s1 == s2 && c1 == c2 && b2 <= e1 {
            return bad(format!("{n1} ({b1:#x}-{e1:#x}) and {n2} ({b2:#x}-{e2:#x}) overlap in {s1}"));
        }
    }
    Ok(())
}

/// Adds a region to a space, or to a container in it.
fn place(
    space: &AddressSpace,
    container: Option<&str>,
    region: Region,
) -> Result<RegionId, guest_memory::MemoryError> {
    let mut tx = space.update();
    let parent = container.and_then(|name| tx.find(name)).unwrap_or(tx.root());
    let id = tx.add(parent, region)?;
    tx.commit()?;
    Ok(id)
}

/// Builds the machine. On error nothing is left behind.
pub fn realize(
    board: Board,
    accel: &dyn Accelerator,
    options: Options,
) -> Result<Arc<Machine>, MachineError> {
    check(&board, options.vcpus)?;
    let memory = AddressSpace::memory(board.unassigned);
    let mut blocks: Vec<Arc<RamBlock>> = Vec::new();
    for name in &board.containers {
        memory.add(Region::container(*name, 1 << 64).priority(-1))?;
    }
    for r in &board.rams {
        let block = RamBlock::new(r.name.clone(), r.size, &r.config)?;
        let region = if r.rom {
            Region::rom(r.name.clone(), block.clone())
        } else {
            Region::ram(r.name.clone(), block.clone())
        };
        place(&memory, r.container, region.at(r.base))?;
        blocks.push(block);
    }
    let ports = board.ports.then(AddressSpace::ports);
    let clock = Clock::new(ClockSource::Host);
    clock.pause();
    let timers = TimerQueue::new(clock.clone());
    let partition: Arc<dyn Partition> = Arc::from(accel.create(PartitionConfig {
        guest: board.arch,
        vcpus: options.vcpus,
        topology: options.topology,
        cpu: options.cpu.clone(),
        irqchip: options.irqchip,
        memory: Arc::new(memory.clone()),
        ports: ports.clone().map(Arc::new),
        clock: Arc::new(VcpuClock { clock: clock.clone(), timers: timers.clone() }),
        timebase_hz: board.timebase_hz,
        properties: options.accel_properties.clone(),
        log: options.log.clone(),
    })?);
    let wall = match options.wall_clock {
        None => WallClock::from_now(clock.clone()),
        Some(WallTime::Host(offset)) => WallClock::Host(offset),
        Some(WallTime::Virtual(start)) => WallClock::Virtual(clock.clone(), start),
    };
    let events = options.events.clone();
    let workshop = Workshop {
        timers,
        system: SystemControl::new(move |r| events(MachineEvent::Request(r))),
        wall,
        msi: Arc::new(MachineMsi { partition: partition.clone(), local: OnceLock::new() }),
        spaces: Spaces { memory: memory.clone(), ports: ports.clone() },
        lines: partition.lines(),
        partition: partition.clone(),
        vcpus: options.vcpus,
        present: board.present.clone(),
        held: board.nodes.iter().filter_map(|n| Some((n.name.clone(), n.held?))).collect(),
        shared: Mutex::default(),
    };
    let mut cells: Cells = Vec::new();
    let mut late = Vec::new();
    for n in board.nodes.iter().filter(|n| n.held.is_none()) {
        let (cell, own) = workshop.build(n, &mut late)?;
        for m in &n.maps {
            let spec = &cell.regions()[m.region];
            let (name, handler) = (format!("{}.{}", n.name, spec.name), cell.region(m.region));
            let region = match spec.over.as_ref().and_then(|ram| own.get(ram.as_ref())) {
                Some(block) if spec.secure => {
                    let rom = Region::rom(format!("{name}.rom"), block.clone());
                    place(&memory, m.container, rom.at(m.base))?;
                    Region::rom_device(name, block.clone(), handler).secure().priority(1)
                }
                Some(block) => Region::rom_device(name, block.clone(), handler),
                None => Region::io(name, spec.size, handler),
            };
            match m.space {
                Space::Memory => place(&memory, m.container, region.at(m.base))?,
                Space::Ports => match &ports {
                    Some(p) => p.add(region.at(m.base))?,
                    None => return Err(MachineError::Board(format!("{}: this board has no ports", n.name))),
                },
            };
        }
        blocks.extend(own.into_values());
        cells.push((n.name.clone(), cell));
    }
    for a in &board.aliases {
        let of = memory.update().find(&a.of);
        let of = of.ok_or_else(|| MachineError::Board(format!("{}: no memory '{}'", a.name, a.of)))?;
        let region = Region::alias(a.name.clone(), of, a.offset, a.size.into());
        place(&memory, a.container, region.at(a.base))?;
    }
    workshop.connect(late, &cells);
    let local = cells.iter().find_map(|(_, c)| c.with(|d| d.local_controllers()));
    if let Some(local) = &local {
        let _ = workshop.msi.local.set(local.clone());
        let is_one = |c: &&Arc<DeviceCell>| c.with(|d| d.interrupt_controller().is_some());
        let controllers: Vec<_> = cells.iter().map(|(_, c)| c).filter(is_one).map(Arc::downgrade).collect();
        let eoi = move |vector| {
            controllers.iter().filter_map(Weak::upgrade).for_each(|c| c.end_of_interrupt(vector));
        };
        local.connect(Box::new(StartUp(workshop.lines.clone(), board.present.clone())), Box::new(eoi));
    }
    let button = board.power_button.as_ref().and_then(|dest| workshop.sink(dest, &cells));
    Machine::new(board, partition, memory, ports, blocks, cells, clock, workshop, button, local, options)
}
