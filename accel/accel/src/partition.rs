//! Accelerators and partitions (one machine's share of an accelerator).

use std::{fmt, io::Write, ops::RangeInclusive, sync::Arc};

use bitflags::bitflags;
use guest_memory::AddressSpace;

use crate::{
    DirtyLog, IoEventFd, IrqFd, KernelIrqchip, PartitionClock, VcpuBinder,
    arch::{GuestArch, x86_topology::Topology},
};

/// Which CPU a machine shows its guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuModel {
    /// Name of the model as in `-cpu NAME`; empty for the board's default.
    pub name: String,
    /// Properties in the order given: `+avx2` is `("avx2", "on")`.
    pub features: Vec<(String, String)>,
}

/// Where the interrupt controllers live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IrqchipMode {
    /// All in the accelerator.
    #[default]
    Kernel,
    /// Local controllers in the accelerator, the rest in Rhea.
    Split,
    /// All in Rhea.
    User,
}

bitflags! {
    /// What to log (`-d`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct LogItems: u32 {
        /// Guest instructions as they are translated.
        const IN_ASM = 1;
        /// IR before optimisation.
        const IR = 1 << 1;
        /// IR after the passes.
        const IR_OPT = 1 << 2;
        /// Host code.
        const OUT_ASM = 1 << 3;
        /// Each translation unit as it is entered.
        const EXEC = 1 << 4;
        /// Interrupts and exceptions.
        const INT = 1 << 5;
        /// Page table walks and TLB fills.
        const MMU = 1 << 6;
        /// Registers before each unit.
        const CPU = 1 << 7;
        /// Counters, printed at the end.
        const STATS = 1 << 8;
        /// Accesses to what does not exist.
        const UNIMP = 1 << 9;
        /// Guest errors.
        const GUEST_ERRORS = 1 << 10;
        /// Enter units singly, without chaining.
        const NOCHAIN = 1 << 11;
        /// What plugins print.
        const PLUGIN = 1 << 12;
    }
}

/// Where log items go.
#[derive(Clone)]
pub struct LogSink {
    items: LogItems,
    /// Guest addresses of code that is logged; all if there are none.
    only: Arc<[RangeInclusive<u64>]>,
    out: Arc<parking_lot::Mutex<Box<dyn Write + Send>>>,
}

impl LogSink {
    /// A sink for `items` that writes to `out`.
    #[must_use]
    pub fn new(items: LogItems, out: Box<dyn Write + Send>) -> Self {
        Self { items, only: Arc::new([]), out: Arc::new(parking_lot::Mutex::new(out)) }
    }

    /// The same sink, for code at these addresses alone.
    #[must_use]
    pub fn only(self, ranges: &[RangeInclusive<u64>]) -> Self {
        Self { only: ranges.into(), ..self }
    }

    /// A sink that wants nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::new(LogItems::empty(), Box::new(std::io::sink()))
    }

    /// True if any of `items` is wanted.
    #[must_use]
    pub fn wants(&self, items: LogItems) -> bool {
        self.items.intersects(items)
    }

    /// True if any of `items` is wanted of code at `pc`.
    #[must_use]
    pub fn wants_at(&self, items: LogItems, pc: u64) -> bool {
        self.wants(items) && (self.only.is_empty() || self.only.iter().any(|r| r.contains(&pc)))
    }

    /// Writes one record; a failing log never disturbs the guest.
    pub fn write(&self, text: fmt::Arguments<'_>) {
        let _ = self.out.lock().write_fmt(text);
    }
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSink").field("items", &self.items).finish_non_exhaustive()
    }
}

/// One timer on the machine's clock.
pub trait ClockTimer: Send + Sync {
    /// Fires once at or after `deadline_ns`; replaces an earlier deadline. A past deadline fires at once.
    fn arm(&self, deadline_ns: u64);
    /// Takes the deadline back.
    fn cancel(&self);
}

/// The machine's one virtual clock, as vCPUs see it. Stands still while the machine is paused.
pub trait GuestClock: Send + Sync {
    /// Nanoseconds since the machine was created.
    fn now_ns(&self) -> u64;
    /// A timer that calls `fire` on a thread of the clock's own.
    fn timer(&self, fire: Box<dyn Fn() + Send + Sync>) -> Arc<dyn ClockTimer>;
}

/// What a partition is made from.
#[derive(Clone)]
pub struct PartitionConfig {
    /// Guest architecture.
    pub guest: GuestArch,
    /// Number of vCPUs to create.
    pub vcpus: u32,
    /// Where the vCPUs are in packages and cores, on x86.
    pub topology: Topology,
    /// CPU model.
    pub cpu: CpuModel,
    /// Where the interrupt controllers are to live.
    pub irqchip: IrqchipMode,
    /// Guest physical memory.
    pub memory: Arc<AddressSpace>,
    /// Port space (x86).
    pub ports: Option<Arc<AddressSpace>>,
    /// The machine's clock.
    pub clock: Arc<dyn GuestClock>,
    /// Frequency of the guest-visible time base in Hz, where the board fixes one (RISC-V `time`).
    pub timebase_hz: u64,
    /// Backend properties as in `-accel NAME,key=value`.
    pub properties: Vec<(String, String)>,
    /// Log.
    pub log: LogSink,
}

/// What a probe found.
#[derive(Debug, Clone, Default)]
pub struct Caps {
    /// Most vCPUs in one partition.
    pub max_vcpus: u32,
    /// True if `IrqchipMode::Kernel` is possible.
    pub kernel_irqchip: bool,
    /// Bits of guest physical address.
    pub phys_bits: u32,
    /// Measured time of one instruction of a guest kernel in nanoseconds, if the probe measured it. A processor
    /// that runs guest kernels itself needs about one; some nested hosts emulate them at a thousand times that.
    pub kernel_ns: Option<u64>,
    /// One line about what was found, for people.
    pub note: String,
}

/// A way to execute guests.
pub trait Accelerator: Send + Sync {
    /// Name as in `-accel NAME`.
    fn name(&self) -> &'static str;
    /// Guest architectures it may be able to run on this host.
    fn guests(&self) -> Vec<GuestArch>;
    /// Finds out whether and how `guest` runs here.
    fn probe(&self, guest: GuestArch) -> Result<Caps, AccelError>;
    /// CPU models for `guest` with one line about each, the default first.
    fn cpu_models(&self, guest: GuestArch) -> Vec<(String, String)>;
    /// Creates a partition. Its vCPUs stand at their reset state.
    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, AccelError>;
}

/// A signal to a vCPU that is not a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VcpuSignal {
    /// Non-maskable interrupt.
    Nmi,
    /// x86 INIT: back to the wait-for-SIPI state.
    Init,
    /// x86 start-up IPI with its vector.
    Sipi(u8),
    /// x86 system management interrupt.
    Smi,
}

/// Interrupt inputs of the vCPUs, for controllers that live in Rhea. Callable from any thread; wakes a
/// vCPU that waits for an interrupt.
pub trait VcpuLines: Send + Sync {
    /// Sets input `line` of vCPU `vcpu`. Line numbers are the architecture's:
    /// RISC-V: the interrupt cause (1 SSIP, 3 MSIP, 5 STIP, 7 MTIP, 9 SEIP, 11 MEIP);
    /// x86: 0 = INTR, 1 = A20M# (while it is high, address bit 20 is masked; KVM has no such input). A vCPU or line that does not exist is ignored.
    fn set_line(&self, vcpu: u32, line: u32, level: bool);
    /// Delivers a signal.
    fn signal(&self, vcpu: u32, signal: VcpuSignal);
}

/// One machine's share of an accelerator.
pub trait Partition: Send + Sync {
    /// Hands out the vCPUs; a second call returns none.
    fn take_vcpus(&self) -> Vec<Box<dyn VcpuBinder>>;
    /// Interrupt inputs of the vCPUs.
    fn lines(&self) -> Arc<dyn VcpuLines>;
    /// In-kernel interrupt controllers, if the partition has them.
    fn irqchip(&self) -> Option<&dyn KernelIrqchip> {
        None
    }
    /// Host events as interrupts.
    fn irqfd(&self) -> Option<&dyn IrqFd> {
        None
    }
    /// Guest writes as host events.
    fn ioeventfd(&self) -> Option<&dyn IoEventFd> {
        None
    }
    /// Dirty page log.
    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        None
    }
    /// The accelerator's own clock.
    fn clock(&self) -> Option<&dyn PartitionClock> {
        None
    }
    /// Counters in readable form (`info jit`, `-d stats`), empty if there are none.
    fn stats(&self) -> String {
        String::new()
    }
    /// The machine has ended and no vCPU runs: whoever watches the guest is told.
    fn at_end(&self) {}
}

/// An accelerator that is not there, or a request it cannot fulfil.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccelError {
    /// The accelerator cannot be used on this host.
    #[error("accelerator {accel} is not available: {reason}")]
    Unavailable {
        /// Name.
        accel: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// It cannot run this guest.
    #[error("accelerator {accel} cannot run {guest} guests on this host")]
    WrongGuest {
        /// Name.
        accel: &'static str,
        /// Guest architecture.
        guest: GuestArch,
    },
    /// A CPU model or feature that does not exist.
    #[error("cpu {0}")]
    Cpu(String),
    /// A property that does not exist or has a bad value.
    #[error("accelerator {accel}: property '{key}': {problem}")]
    Property {
        /// Name.
        accel: &'static str,
        /// Property.
        key: String,
        /// What is allowed.
        problem: String,
    },
    /// A plugin that cannot be loaded.
    #[error("{0}")]
    Plugin(String),
    /// A memory layout the backend cannot hold.
    #[error("accelerator {accel}: {problem}")]
    Memory {
        /// Name.
        accel: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The host refused an operation.
    #[error("{operation}: {source}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
}
