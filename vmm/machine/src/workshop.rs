//! Where devices are built and wired: at first all of a board's, later those that are plugged while the machine runs.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use accel::{MsiMessage as AccelMsi, Partition, VcpuLines, VcpuSignal};
use device::{
    CpuPresence, DeviceCell, IpiSink, IrqLine, IrqWire, LineSink, LocalControllers, MsiMessage, MsiSink,
    MsiTarget, Spaces, SystemControl, TimerQueue, WallClock, WiresBuilder,
};
use guest_memory::{Dma, RamBlock, RamConfig};
use parking_lot::Mutex;

use crate::MachineError;
use crate::board::{Dest, HeldInput, Node};

/// Devices by name, in the order they were built.
pub(crate) type Cells = Vec<(String, Arc<DeviceCell>)>;

/// Memory that a device has of its own, by the device's names for it.
pub(crate) type OwnMemory = BTreeMap<String, Arc<RamBlock>>;

/// Wires whose far end is not known yet.
pub(crate) type Late = Vec<(Arc<LateLine>, Dest)>;

/// A line whose far end is known only when all devices stand.
#[derive(Default)]
pub(crate) struct LateLine(OnceLock<Arc<dyn LineSink>>);

impl LineSink for LateLine {
    fn set_level(&self, level: bool) {
        if let Some(sink) = self.0.get() {
            sink.set_level(level);
        }
    }
}

struct CpuLine {
    lines: Arc<dyn VcpuLines>,
    cpu: u32,
    line: u32,
}

impl LineSink for CpuLine {
    fn set_level(&self, level: bool) {
        self.lines.set_line(self.cpu, self.line, level);
    }
}

/// The gate of address line 20: closed, it masks the line of all vCPUs.
struct A20Gate {
    lines: Arc<dyn VcpuLines>,
    cpus: u32,
}

/// Number of the A20M# input (see `accel::VcpuLines`).
const A20M: u32 = 1;

impl LineSink for A20Gate {
    fn set_level(&self, open: bool) {
        for cpu in 0..self.cpus {
            self.lines.set_line(cpu, A20M, !open);
        }
    }
}

/// A rising edge is a signal to a vCPU.
struct SignalLine {
    lines: Arc<dyn VcpuLines>,
    cpu: u32,
    signal: VcpuSignal,
    present: CpuPresence,
}

impl LineSink for SignalLine {
    fn set_level(&self, level: bool) {
        if level && self.present.has(self.cpu) {
            self.lines.signal(self.cpu, self.signal);
        }
    }
}

struct GsiLine {
    partition: Arc<dyn Partition>,
    gsi: u32,
}

impl LineSink for GsiLine {
    fn set_level(&self, level: bool) {
        if let Some(chip) = self.partition.irqchip()
            && let Err(e) = chip.set_gsi(self.gsi, level)
        {
            tracing::warn!("interrupt {}: {e}", self.gsi);
        }
    }
}

/// Messages go to the local controllers: those among the devices, or the accelerator's.
pub(crate) struct MachineMsi {
    pub(crate) partition: Arc<dyn Partition>,
    pub(crate) local: OnceLock<Arc<dyn LocalControllers>>,
}

impl MsiSink for MachineMsi {
    fn signal(&self, m: MsiMessage) {
        if let Some(local) = self.local.get() {
            local.signal(m);
        } else if let Some(chip) = self.partition.irqchip() {
            let msi = AccelMsi { address: m.address, data: m.data, device_id: 0 };
            if let Err(e) = chip.signal_msi(msi) {
                tracing::warn!("message {:#x} to {:#x}: {e}", m.data, m.address);
            }
        }
    }
}

/// Start-up messages of the local controllers. Those to vCPUs that are not there are lost.
pub(crate) struct StartUp(pub(crate) Arc<dyn VcpuLines>, pub(crate) CpuPresence);

impl StartUp {
    fn signal(&self, cpu: u32, signal: VcpuSignal) {
        if self.1.has(cpu) {
            self.0.signal(cpu, signal);
        }
    }
}

impl IpiSink for StartUp {
    fn init(&self, cpu: u32) {
        self.signal(cpu, VcpuSignal::Init);
    }

    fn startup(&self, cpu: u32, vector: u8) {
        self.signal(cpu, VcpuSignal::Sipi(vector));
    }
}

/// What devices are made with.
pub(crate) struct Workshop {
    pub(crate) timers: TimerQueue,
    pub(crate) system: SystemControl,
    pub(crate) wall: WallClock,
    pub(crate) msi: Arc<MachineMsi>,
    pub(crate) spaces: Spaces,
    pub(crate) lines: Arc<dyn VcpuLines>,
    pub(crate) partition: Arc<dyn Partition>,
    pub(crate) vcpus: u32,
    /// Which of them are there.
    pub(crate) present: CpuPresence,
    /// Devices that the accelerator plays, and where wires to their inputs lead instead.
    pub(crate) held: Vec<(String, HeldInput)>,
    /// Several pins may lead to one place: they share a wire, which is high while any of them is.
    pub(crate) shared: Mutex<BTreeMap<String, IrqWire>>,
}

impl Workshop {
    /// Builds a device, with the memory it has of its own. Wires that are new go into `late`.
    pub(crate) fn build(
        &self,
        n: &Node,
        late: &mut Late,
    ) -> Result<(Arc<DeviceCell>, OwnMemory), MachineError> {
        let mut w = WiresBuilder::new(format!("machine/{}", n.name), &self.timers)
            .system(self.system.clone())
            .wall_clock(self.wall.clone())
            .msi(MsiTarget::new(self.msi.clone()))
            .spaces(self.spaces.clone());
        let mut own = BTreeMap::new();
        for spec in n.config.rams() {
            let block = RamBlock::new(format!("{}.{}", n.name, spec.name), spec.size, &RamConfig::default())?;
            w = w.ram(spec.name.as_ref(), block.clone());
            own.insert(spec.name.to_string(), block);
        }
        if n.dma {
            w = w.dma(Dma::new(self.spaces.memory.clone()));
        }
        let mut pins: BTreeMap<(&str, usize), Vec<IrqLine>> = BTreeMap::new();
        let mut shared = self.shared.lock();
        for wire in &n.wires {
            let label = wire.dest.to_string();
            let irq = shared.entry(label.clone()).or_insert_with(|| {
                let line = Arc::new(LateLine::default());
                late.push((line.clone(), wire.dest.clone()));
                IrqWire::new(label, vec![line])
            });
            pins.entry((wire.pin.as_str(), wire.index)).or_default().push(irq.source());
        }
        drop(shared);
        for ((pin, index), lines) in pins {
            w = w.line(pin, index, IrqLine::join(lines));
        }
        for (slot, backend) in &n.chardevs {
            w = w.chardev(slot.clone(), backend.clone());
        }
        Ok((DeviceCell::build(n.config.boxed_clone(), w.build())?, own))
    }

    /// Leads new wires to their far ends.
    pub(crate) fn connect(&self, late: Late, cells: &Cells) {
        for (line, dest) in late {
            if let Some(sink) = self.sink(&dest, cells) {
                let _ = line.0.set(sink);
            }
        }
    }

    /// What leads to a device that the accelerator plays leads to what stands for that input.
    fn stand_in(&self, dest: &Dest) -> Option<Dest> {
        if let Dest::Device { device, pin, index } = dest
            && let Some((_, input)) = self.held.iter().find(|(name, _)| name == device)
        {
            return input(pin, *index);
        }
        Some(dest.clone())
    }

    /// The far end of a wire.
    pub(crate) fn sink(&self, dest: &Dest, cells: &Cells) -> Option<Arc<dyn LineSink>> {
        let (lines, present) = (self.lines.clone(), self.present.clone());
        Some(match self.stand_in(dest)? {
            Dest::Device { device, pin, index } => {
                return cells.iter().find(|(n, _)| *n == device).and_then(|(_, c)| c.input(&pin, index));
            }
            Dest::Cpu { cpu, line } => Arc::new(CpuLine { lines, cpu, line }),
            Dest::Nmi(cpu) => Arc::new(SignalLine { lines, cpu, signal: VcpuSignal::Nmi, present }),
            Dest::Smi(cpu) => Arc::new(SignalLine { lines, cpu, signal: VcpuSignal::Smi, present }),
            Dest::A20 => Arc::new(A20Gate { lines, cpus: self.vcpus }),
            Dest::Gsi(gsi) => Arc::new(GsiLine { partition: self.partition.clone(), gsi }),
        })
    }
}
