//! KVM on 64-bit ARM hosts: what a partition and a vCPU hold beyond the common part.
//!
//! The GIC is always in the kernel, PSCI is KVM's own. Secondary vCPUs start powered off.

mod debug;
mod gic;
mod state;
mod vcpu;
mod walk;

use std::convert::Infallible;
use std::sync::Arc;

use accel::arch::{CpuState, GuestArch};
use accel::{AccelError, Caps, Exit, IrqchipMode, PartitionClock, PartitionConfig};
use guest_memory::AddressSpace;
use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    kvm_vcpu_init,
};
use kvm_ioctls::{Kvm as KvmFd, VcpuFd, VmFd};

pub(crate) use gic::Chips;
pub(crate) use vcpu::VcpuArch;

use super::planted::Planted;
use super::refused;
use crate::NAME;

/// The one architecture that KVM runs here.
pub(crate) const GUEST: GuestArch = GuestArch::Aarch64;

/// No global interrupt is set aside for level-triggered messages.
pub(crate) const LEVEL_ROUTES: u32 = 0;
/// First shared peripheral interrupt.
const FIRST_SPI: u32 = 32;

/// What to do before `KVM_RUN`.
pub(crate) enum Before {
    Run,
    #[expect(dead_code, reason = "KVM waits itself on this architecture; the loop is shared")]
    Sleep,
    #[expect(dead_code, reason = "KVM waits itself on this architecture; the loop is shared")]
    Leave(Exit),
}

/// Whether the architecture knew an exit.
pub(crate) enum Handled {
    #[expect(dead_code, reason = "there are no such exits on this architecture; the loop is shared")]
    Again,
    /// As `Again`, but KVM has an instruction to finish.
    #[expect(dead_code, reason = "there are no such exits on this architecture; the loop is shared")]
    Unfinished,
    Unknown,
}

/// What a partition holds.
pub(crate) struct VmArch {
    /// Debug registers of the host: breakpoints and watchpoints.
    hw_breakpoints: usize,
    hw_watchpoints: usize,
    inject_abort: bool,
    planted: Planted,
}

/// A new virtual machine.
pub(crate) struct Created {
    pub(crate) vm: VmFd,
    pub(crate) arch: VmArch,
    pub(crate) chips: Option<Chips>,
}

pub(crate) fn probe(kvm: &KvmFd) -> Result<Caps, AccelError> {
    let phys_bits = match kvm.get_host_ipa_limit() {
        n if n > 0 => n as u32,
        _ => 40,
    };
    Ok(Caps {
        max_vcpus: kvm.get_max_vcpus() as u32,
        kernel_irqchip: true,
        phys_bits,
        kernel_ns: None,
        note: format!("{} memory slots", kvm.get_nr_memslots()),
    })
}

pub(crate) fn cpu_models() -> Vec<(String, String)> {
    vec![
        ("host".to_owned(), "the host's processor".to_owned()),
        ("max".to_owned(), "everything that KVM offers, which is the host's processor".to_owned()),
    ]
}

fn capability(kvm: &KvmFd, number: u32) -> usize {
    usize::try_from(kvm.check_extension_raw(u64::from(number))).unwrap_or(0)
}

pub(crate) fn create_vm(kvm: &KvmFd, config: &PartitionConfig) -> Result<Created, AccelError> {
    if !matches!(config.cpu.name.as_str(), "" | "host" | "max") {
        return Err(AccelError::Cpu(format!(
            "model '{}' does not exist, expected host or max",
            config.cpu.name
        )));
    }
    if let Some((name, _)) = config.cpu.features.first() {
        return Err(AccelError::Cpu(format!("feature or property '{name}' does not exist")));
    }
    if config.irqchip != IrqchipMode::Kernel {
        return Err(AccelError::Property {
            accel: NAME,
            key: "irqchip".to_owned(),
            problem: "on this host the interrupt controller must be in the kernel".to_owned(),
        });
    }
    let layout = gic::Config::from_properties(&config.properties)?;
    let vm = kvm.create_vm().map_err(refused("creating a virtual machine (KVM_CREATE_VM)"))?;
    let arch = VmArch {
        hw_breakpoints: capability(kvm, kvm_bindings::KVM_CAP_GUEST_DEBUG_HW_BPS),
        hw_watchpoints: capability(kvm, kvm_bindings::KVM_CAP_GUEST_DEBUG_HW_WPS),
        inject_abort: capability(kvm, kvm_bindings::KVM_CAP_ARM_INJECT_EXT_DABT) > 0,
        planted: Planted::default(),
    };
    let chips = Chips::new(layout, config.vcpus);
    Ok(Created { vm, arch, chips: Some(chips) })
}

impl VmArch {
    /// KVM's number of a vCPU.
    #[expect(clippy::unused_self, reason = "other architectures' numbers depend on the machine")]
    pub(crate) fn vcpu_id(&self, index: u32) -> u64 {
        index.into()
    }

    /// Gives a new vCPU the host's features.
    pub(crate) fn init_vcpu(&mut self, vm: &VmFd, fd: &VcpuFd, index: u32) -> Result<(), AccelError> {
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)
            .map_err(refused("asking for the host's CPU (KVM_ARM_PREFERRED_TARGET)"))?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        if index > 0 {
            init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        fd.vcpu_init(&init).map_err(refused("initialising a vCPU (KVM_ARM_VCPU_INIT)"))
    }
}

/// Virtual to physical, as the guest's page tables stand. KVM does not do it on this architecture.
pub(crate) fn translate(fd: &VcpuFd, memory: &AddressSpace, gva: u64) -> Option<u64> {
    let read = |gpa: u64| {
        let mut entry = [0; 8];
        memory.view().peek(gpa, &mut entry).is_ok().then(|| u64::from_le_bytes(entry))
    };
    walk::translate(&state::walk_registers(fd)?, gva, read)
}

/// Global interrupts are the shared peripheral interrupts.
pub(crate) fn irq_line(gsi: u32) -> u32 {
    KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (gsi + FIRST_SPI)
}

/// There is no clock beside the architecture's counters, which are part of the vCPUs' state.
pub(crate) struct Clock(Infallible);

impl Clock {
    pub(crate) fn new(_vm: &Arc<VmFd>) -> Option<Self> {
        None
    }
}

impl PartitionClock for Clock {
    fn get(&self) -> Result<u64, AccelError> {
        match self.0 {}
    }
    fn set(&self, _ns: u64) -> Result<(), AccelError> {
        match self.0 {}
    }
}

/// No disassembler for this host's guests is part of Rhea yet.
pub(crate) fn disassemble(_state: &CpuState, _bytes: &[u8]) -> Option<String> {
    None
}
