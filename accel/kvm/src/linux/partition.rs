//! One virtual machine.

use std::sync::Arc;

use accel::{
    AccelError, DirtyLog, IoEventFd, IrqFd, KernelIrqchip, Kicker, Partition, PartitionClock,
    PartitionConfig, Vcpu, VcpuBinder, VcpuError, VcpuLines, VcpuSignal,
};
use guest_memory::{AddressSpace, ListenerId};
use kvm_ioctls::{Kvm as KvmFd, VcpuFd};
use parking_lot::{Mutex, RwLock};

use super::features::{Events, Irqchip};
use super::kick::Shared;
use super::ring::Rings;
use super::slots::{self, Slots};
use super::vcpu::KvmVcpu;
use super::{host, ioctl, refused};
use crate::NAME;

/// A partition of the KVM accelerator.
pub(crate) struct KvmPartition {
    // Declared in the order in which they are to be dropped: vCPUs before the VM.
    vcpus: Mutex<Vec<Box<dyn VcpuBinder>>>,
    lines: Arc<Lines>,
    irqchip: Option<Irqchip>,
    events: Events,
    slots: Arc<Slots>,
    clock: Option<host::Clock>,
    memory: Arc<AddressSpace>,
    listener: ListenerId,
}

impl KvmPartition {
    pub(crate) fn create(kvm: &KvmFd, config: PartitionConfig) -> Result<Self, AccelError> {
        let most = kvm.get_max_vcpus();
        if config.vcpus == 0 || config.vcpus as usize > most {
            return Err(AccelError::Cpu(format!(
                "count of {} is not possible, the host's KVM runs 1 to {most}",
                config.vcpus
            )));
        }
        let host::Created { vm, mut arch, chips } = host::create_vm(kvm, &config)?;
        let vm = Arc::new(vm);
        let ring_entries = slots::enable_rings(kvm, &vm, &config.properties)?;
        let gate = Arc::new(RwLock::new(()));
        let shared: Vec<_> = (0..config.vcpus).map(|_| Arc::new(Shared::default())).collect();

        let mut fds = Vec::new();
        for index in 0..config.vcpus {
            let fd =
                vm.create_vcpu(arch.vcpu_id(index)).map_err(refused("creating a vCPU (KVM_CREATE_VCPU)"))?;
            arch.init_vcpu(&vm, &fd, index)?;
            fds.push(fd);
        }
        let irqchip = match chips {
            Some(chips) => Some(Irqchip::new(vm.clone(), chips.finish(&vm)?)),
            None => None,
        };
        let run_size = vm.run_size();
        let arch = Arc::new(arch);
        let rings = match ring_entries {
            Some(n) => Some(
                Rings::map(&fds, n, ioctl::page_size())
                    .map_err(|source| AccelError::Host { operation: "mapping the dirty rings", source })?,
            ),
            None => None,
        };
        let slots =
            Arc::new(Slots::new(vm.clone(), shared.clone(), gate.clone(), kvm.get_nr_memslots(), rings));
        let vcpus = fds
            .into_iter()
            .zip(&shared)
            .zip(0..)
            .map(|((fd, shared), index)| {
                Box::new(Binder {
                    index,
                    fd,
                    shared: shared.clone(),
                    gate: gate.clone(),
                    memory: config.memory.clone(),
                    arch: arch.clone(),
                    slots: slots.clone(),
                    run_size,
                }) as Box<dyn VcpuBinder>
            })
            .collect();

        let listener = config.memory.add_listener(slots.clone()).map_err(|e| AccelError::Memory {
            accel: NAME,
            problem: std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string),
        })?;
        Ok(Self {
            vcpus: Mutex::new(vcpus),
            lines: Arc::new(Lines(shared)),
            irqchip,
            events: Events(vm.clone()),
            slots,
            clock: host::Clock::new(&vm),
            memory: config.memory,
            listener,
        })
    }
}

impl Drop for KvmPartition {
    fn drop(&mut self) {
        self.memory.remove_listener(self.listener);
    }
}

impl Partition for KvmPartition {
    fn take_vcpus(&self) -> Vec<Box<dyn VcpuBinder>> {
        std::mem::take(&mut self.vcpus.lock())
    }
    fn lines(&self) -> Arc<dyn VcpuLines> {
        self.lines.clone()
    }
    fn irqchip(&self) -> Option<&dyn KernelIrqchip> {
        self.irqchip.as_ref().map(|c| c as _)
    }
    fn irqfd(&self) -> Option<&dyn IrqFd> {
        self.irqchip.as_ref().map(|_| &self.events as _)
    }
    fn ioeventfd(&self) -> Option<&dyn IoEventFd> {
        Some(&self.events)
    }
    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        Some(&*self.slots)
    }
    fn clock(&self) -> Option<&dyn PartitionClock> {
        self.clock.as_ref().map(|c| c as _)
    }
}

/// The vCPUs' inputs.
struct Lines(Vec<Arc<Shared>>);

impl VcpuLines for Lines {
    fn set_line(&self, vcpu: u32, line: u32, level: bool) {
        if let Some(shared) = self.0.get(vcpu as usize) {
            shared.set_line(line, level);
        }
    }
    fn signal(&self, vcpu: u32, signal: VcpuSignal) {
        if let Some(shared) = self.0.get(vcpu as usize) {
            shared.signal(signal);
        }
    }
}

/// A vCPU that has no thread yet.
struct Binder {
    index: u32,
    fd: VcpuFd,
    shared: Arc<Shared>,
    gate: Arc<RwLock<()>>,
    memory: Arc<AddressSpace>,
    arch: Arc<host::VmArch>,
    slots: Arc<Slots>,
    run_size: usize,
}

impl VcpuBinder for Binder {
    fn index(&self) -> u32 {
        self.index
    }
    fn kicker(&self) -> Arc<dyn Kicker> {
        self.shared.clone()
    }
    fn bind(mut self: Box<Self>) -> Result<Box<dyn Vcpu>, VcpuError> {
        self.shared
            .bind(&mut self.fd)
            .map_err(|source| VcpuError::Host { operation: "preparing the thread of a vCPU", source })?;
        let arch = host::VcpuArch::new(&self.arch, &self.fd, self.index)?;
        Ok(Box::new(KvmVcpu::new(
            self.index,
            self.fd,
            self.shared,
            self.gate,
            self.memory,
            arch,
            self.slots,
            self.run_size,
        )))
    }
}
