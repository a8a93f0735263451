//! Two accelerators as one: where the first cannot go on with a vCPU, the second does.
//!
//! A hypervisor may have to emulate what its processor does not run directly, and may not know an instruction; some do so for
//! whole guest kernels. Such a vCPU leaves [`Vcpu::run`](accel::Vcpu::run) with an
//! [`InternalError`](accel::InternalError) that says it is recoverable. Its state, which both accelerators hold in the neutral
//! form, then goes to the second one, which executes a stretch of instructions and gives it back (see [`vcpu`]). Nothing of the
//! second exists before it is needed.
//!
//! The machine sees the first accelerator: its interrupt controllers, its clock, its dirty log.

mod counters;
mod guard;
mod vcpu;
mod x86;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Release};

use accel::arch::GuestArch;
use accel::{
    AccelError, Accelerator, Caps, CpuModel, DirtyLog, IoEventFd, IrqFd, IrqchipMode, KernelIrqchip, Kicker,
    Partition, PartitionClock, PartitionConfig, Vcpu, VcpuBinder, VcpuError, VcpuLines,
};
use parking_lot::Mutex;

use counters::Counters;
use vcpu::TakeoverVcpu;

/// Property that turns it off, as in `-accel kvm,takeover=off`.
pub const PROPERTY: &str = "takeover";

/// The first accelerator with a second one behind it.
pub struct Takeover {
    first: Box<dyn Accelerator>,
    second: Arc<dyn Accelerator>,
}

impl Takeover {
    /// `first`, for guests that `second` can run as well.
    #[must_use]
    pub fn new(first: Box<dyn Accelerator>, second: Box<dyn Accelerator>) -> Self {
        Self { first, second: second.into() }
    }
}

/// What the second partition is made from, and once it is made, its vCPUs.
struct Second {
    accel: Arc<dyn Accelerator>,
    config: PartitionConfig,
    /// Made when a vCPU needs it first.
    made: Mutex<Option<Made>>,
}

struct Made {
    /// The vCPUs live as long as it does.
    _partition: Box<dyn Partition>,
    binders: Vec<Option<Box<dyn VcpuBinder>>>,
}

impl Second {
    /// vCPU `index`, bound to the calling thread.
    fn vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, String> {
        let binder = {
            let mut made = self.made.lock();
            let made = match &mut *made {
                Some(made) => made,
                empty => {
                    let partition = self.accel.create(self.config.clone()).map_err(|e| e.to_string())?;
                    let binders = partition.take_vcpus().into_iter().map(Some).collect();
                    empty.insert(Made { _partition: partition, binders })
                }
            };
            made.binders.get_mut(index as usize).and_then(Option::take)
        };
        let binder = binder.ok_or_else(|| format!("{} has no vcpu {index}", self.accel.name()))?;
        binder.bind().map_err(|e| e.to_string())
    }
}

impl Accelerator for Takeover {
    fn name(&self) -> &'static str {
        self.first.name()
    }

    fn guests(&self) -> Vec<GuestArch> {
        self.first.guests()
    }

    fn probe(&self, guest: GuestArch) -> Result<Caps, AccelError> {
        self.first.probe(guest)
    }

    fn cpu_models(&self, guest: GuestArch) -> Vec<(String, String)> {
        self.first.cpu_models(guest)
    }

    fn create(&self, mut config: PartitionConfig) -> Result<Box<dyn Partition>, AccelError> {
        let mut wanted = true;
        let mut unknown = None;
        config.properties.retain(|(key, value)| {
            if key != PROPERTY {
                return true;
            }
            match value.as_str() {
                "on" => wanted = true,
                "off" => wanted = false,
                _ => unknown = Some(value.clone()),
            }
            false
        });
        if let Some(value) = unknown {
            let problem = format!("expected on or off, got '{value}'");
            return Err(AccelError::Property { accel: self.name(), key: PROPERTY.to_owned(), problem });
        }
        let first = self.first.create(config.clone())?;
        if !wanted || !self.second.guests().contains(&config.guest) {
            return Ok(first);
        }
        let second = Second {
            accel: self.second.clone(),
            config: PartitionConfig {
                // What the guest was told of the processor is the first's affair: the second executes all it can.
                cpu: CpuModel { name: "max".to_owned(), features: Vec::new() },
                irqchip: IrqchipMode::User,
                properties: Vec::new(),
                ..config
            },
            made: Mutex::new(None),
        };
        Ok(Box::new(TakeoverPartition {
            first: first.into(),
            second: Arc::new(second),
            counters: Arc::default(),
        }))
    }
}

struct TakeoverPartition {
    first: Arc<dyn Partition>,
    second: Arc<Second>,
    counters: Arc<Counters>,
}

impl Partition for TakeoverPartition {
    fn take_vcpus(&self) -> Vec<Box<dyn VcpuBinder>> {
        let binder = |first| -> Box<dyn VcpuBinder> {
            Box::new(Binder {
                first,
                partition: self.first.clone(),
                second: self.second.clone(),
                counters: self.counters.clone(),
                asked: Arc::default(),
            })
        };
        self.first.take_vcpus().into_iter().map(binder).collect()
    }

    fn lines(&self) -> Arc<dyn VcpuLines> {
        self.first.lines()
    }

    fn irqchip(&self) -> Option<&dyn KernelIrqchip> {
        self.first.irqchip()
    }

    fn irqfd(&self) -> Option<&dyn IrqFd> {
        self.first.irqfd()
    }

    fn ioeventfd(&self) -> Option<&dyn IoEventFd> {
        self.first.ioeventfd()
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        self.first.dirty_log()
    }

    fn clock(&self) -> Option<&dyn PartitionClock> {
        self.first.clock()
    }

    fn stats(&self) -> String {
        self.first.stats() + &self.counters.report()
    }
}

struct Binder {
    first: Box<dyn VcpuBinder>,
    partition: Arc<dyn Partition>,
    second: Arc<Second>,
    counters: Arc<Counters>,
    /// Whether the vCPU was kicked since it last said so.
    asked: Arc<AtomicBool>,
}

/// Ends a stretch in the second before the first is told.
struct StretchKicker {
    asked: Arc<AtomicBool>,
    first: Arc<dyn Kicker>,
}

impl Kicker for StretchKicker {
    fn kick(&self) {
        self.asked.store(true, Release);
        self.first.kick();
    }
}

impl VcpuBinder for Binder {
    fn index(&self) -> u32 {
        self.first.index()
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::new(StretchKicker { asked: self.asked.clone(), first: self.first.kicker() })
    }

    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, VcpuError> {
        let index = self.first.index();
        let first = self.first.bind()?;
        Ok(Box::new(TakeoverVcpu::new(index, first, self.partition, self.second, self.counters, self.asked)))
    }
}
