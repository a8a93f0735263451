//! KVM on Linux: the accelerator itself.

mod fatal;
mod features;
mod ioctl;
mod kick;
mod partition;
mod planted;
mod ring;
mod run_page;
mod slots;
mod vcpu;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as host;
#[cfg(target_arch = "x86_64")]
use x86_64 as host;

use accel::arch::GuestArch;
use accel::{AccelError, Accelerator, Caps, Partition, PartitionConfig, VcpuError};
use kvm_ioctls::{Cap, Kvm as KvmFd};

use crate::NAME;

/// KVM through `/dev/kvm`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kvm;

impl Kvm {
    /// The accelerator. Nothing is opened before [`probe`](Accelerator::probe).
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// What KVM must offer for anything here to work.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "user memory"),
    (Cap::DestroyMemoryRegionWorks, "removal of memory slots"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::MpState, "multiprocessing state"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
];

fn unavailable(reason: impl Into<String>) -> AccelError {
    AccelError::Unavailable { accel: NAME, reason: reason.into() }
}

/// An ioctl that failed, for the partition.
fn refused(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> AccelError {
    move |e| AccelError::Host { operation, source: e.into() }
}

/// An ioctl that failed, for a vCPU.
fn vcpu_refused(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> VcpuError {
    move |e| VcpuError::Host { operation, source: e.into() }
}

fn open(guest: GuestArch) -> Result<KvmFd, AccelError> {
    if guest != host::GUEST {
        return Err(AccelError::WrongGuest { accel: NAME, guest });
    }
    let kvm = KvmFd::new().map_err(|e| {
        let advice = match e.errno() {
            libc::ENOENT => ": enable virtualization in the firmware and load the kvm module",
            libc::EACCES => ": your user must belong to the group that owns it",
            _ => "",
        };
        unavailable(format!("cannot open /dev/kvm: {e}{advice}"))
    })?;
    match kvm.get_api_version() {
        12 => {}
        v if v < 0 => return Err(unavailable("/dev/kvm is not KVM's device: it does not answer")),
        v => return Err(unavailable(format!("/dev/kvm speaks version {v} of its interface, expected 12"))),
    }
    if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(unavailable(format!("the host's KVM is too old: it lacks {name}")));
    }
    Ok(kvm)
}

impl Accelerator for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn guests(&self) -> Vec<GuestArch> {
        vec![host::GUEST]
    }

    fn probe(&self, guest: GuestArch) -> Result<Caps, AccelError> {
        let kvm = open(guest)?;
        host::probe(&kvm)
    }

    fn cpu_models(&self, guest: GuestArch) -> Vec<(String, String)> {
        if guest == host::GUEST { host::cpu_models() } else { Vec::new() }
    }

    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, AccelError> {
        let kvm = open(config.guest)?;
        Ok(Box::new(partition::KvmPartition::create(&kvm, config)?))
    }
}
