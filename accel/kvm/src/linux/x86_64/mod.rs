//! KVM on x86-64 hosts: what a partition and a vCPU hold beyond the common part.

mod chips;
mod cpuid;
mod debug;
mod disasm;
mod interrupt;
mod models;
mod msr;
mod speed;
mod state;
mod vcpu;
mod xsave;

use accel::arch::{CpuState, GuestArch, x86_topology::Topology};
use accel::{AccelError, Caps, Exit, IrqchipMode, PartitionClock, PartitionConfig};
use kvm_bindings::{
    CpuId, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    KVM_MAX_CPUID_ENTRIES, kvm_clock_data, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm as KvmFd, VcpuFd, VmFd};
use std::sync::Arc;

use guest_memory::AddressSpace;

pub(crate) use chips::Chips;
pub(crate) use vcpu::VcpuArch;

use super::planted::Planted;
use super::refused;
use crate::NAME;

/// The one architecture that KVM runs here.
pub(crate) const GUEST: GuestArch = GuestArch::X86_64;

/// Three pages for the emulation of real mode on processors that lack it, below the firmware, out of all RAM.
const TSS_ADDRESS: usize = 0xFEFB_D000;
const IDENTITY_MAP_ADDRESS: u64 = 0xFEFB_C000;

/// Pins of an I/O APIC in user space.
const IOAPIC_PINS: u64 = 24;
/// Global interrupts whose routes tell KVM which interrupts are level-triggered: those pins.
pub(crate) const LEVEL_ROUTES: u32 = IOAPIC_PINS as u32;

/// What to do before `KVM_RUN`.
pub(crate) enum Before {
    Run,
    Sleep,
    Leave(Exit),
}

/// Whether the architecture knew an exit.
pub(crate) enum Handled {
    Again,
    /// As `Again`, but KVM has an instruction to finish.
    Unfinished,
    Unknown,
}

/// What a partition holds.
pub(crate) struct VmArch {
    cpuid: cpuid::Template,
    irqchip: IrqchipMode,
    topology: Topology,
    planted: Planted,
    /// Bytes of the XSAVE area.
    xsave_size: usize,
    layout: xsave::Layout,
    msrs: Vec<u32>,
    /// `KVM_CAP_EXCEPTION_PAYLOAD` and `KVM_CAP_X86_TRIPLE_FAULT_EVENT` are on.
    payload: bool,
    triple_fault: bool,
    /// Unknown MSRs read as 0 and take any value.
    ignore_msrs: bool,
}

/// A new virtual machine.
pub(crate) struct Created {
    pub(crate) vm: VmFd,
    pub(crate) arch: VmArch,
    pub(crate) chips: Option<Chips>,
}

fn supported_cpuid(kvm: &KvmFd) -> Result<CpuId, AccelError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("reading KVM's CPUID (KVM_GET_SUPPORTED_CPUID)"))
}

pub(crate) fn probe(kvm: &KvmFd) -> Result<Caps, AccelError> {
    let cpuid = supported_cpuid(kvm)?;
    let phys_bits = cpuid.as_slice().iter().find(|e| e.function == 0x8000_0008).map_or(36, |e| e.eax & 0xFF);
    let probe = speed::measure(kvm);
    let kernel_ns = probe.map(|p| p.ns);
    let mut speed = match kernel_ns {
        Some(ns) if ns > 100 => format!(", guest kernels are emulated here at {ns} ns an instruction"),
        _ => String::new(),
    };
    if probe.is_some_and(|p| !p.own_cpuid) {
        speed.push_str(", guests see processor features that -cpu did not give them");
    }
    Ok(Caps {
        kernel_ns,
        max_vcpus: kvm.get_max_vcpus() as u32,
        kernel_irqchip: kvm.check_extension(Cap::Irqchip),
        phys_bits,
        note: format!("{}, {} memory slots{speed}", cpuid::vendor(cpuid.as_slice()), kvm.get_nr_memslots()),
    })
}

pub(crate) fn cpu_models() -> Vec<(String, String)> {
    let mut list = vec![
        ("host".to_owned(), "the host's processor, as far as KVM can show it".to_owned()),
        ("max".to_owned(), "everything that KVM offers".to_owned()),
    ];
    // The data file is part of the program and tested, so it can be read.
    if let Ok(models) = models::Models::built_in().and_then(|m| m.list()) {
        list.extend(models.into_iter().map(|m| (m.name, m.about)));
    }
    list
}

/// Reads an `on`/`off` property.
fn switch(key: &str, value: &str) -> Result<bool, AccelError> {
    match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(AccelError::Property {
            accel: NAME,
            key: key.to_owned(),
            problem: format!("'{value}' is neither on nor off"),
        }),
    }
}

pub(crate) fn create_vm(kvm: &KvmFd, config: &PartitionConfig) -> Result<Created, AccelError> {
    let mut pit = true;
    let mut ignore_msrs = false;
    for (key, value) in &config.properties {
        match key.as_str() {
            "pit" => pit = switch(key, value)?,
            "ignore-msrs" => ignore_msrs = switch(key, value)?,
            super::slots::RING_PROPERTY => {}
            _ => {
                let problem =
                    format!("does not exist, expected pit, ignore-msrs or {}", super::slots::RING_PROPERTY);
                return Err(AccelError::Property { accel: NAME, key: key.clone(), problem });
            }
        }
    }
    let supported = supported_cpuid(kvm)?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let apics = match config.irqchip {
        IrqchipMode::User if !kvm.check_extension(Cap::X86UserSpaceMsr) => cpuid::Apics::Memory,
        IrqchipMode::User => cpuid::Apics::Rhea,
        _ => cpuid::Apics::Kvm { deadline_timer },
    };
    let cpuid = cpuid::Template::build(supported.as_slice(), &config.cpu, apics)?;
    for name in &cpuid.dropped {
        tracing::warn!("cpu feature '{name}' is not offered by this host's KVM and was left out");
    }

    let vm = kvm.create_vm().map_err(refused("creating a virtual machine (KVM_CREATE_VM)"))?;
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(refused("placing KVM's identity map"))?;
    vm.set_tss_address(TSS_ADDRESS).map_err(refused("placing KVM's task segment"))?;
    let enable = |cap: u32, arg: u64| {
        let request = kvm_enable_cap { cap, args: [arg, 0, 0, 0], ..Default::default() };
        vm.enable_cap(&request)
    };
    let payload = enable(KVM_CAP_EXCEPTION_PAYLOAD, 1).is_ok();
    let triple_fault = enable(KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1).is_ok();
    let chips = match config.irqchip {
        IrqchipMode::User => None,
        IrqchipMode::Split => {
            enable(KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS)
                .map_err(refused("splitting the interrupt controllers"))?;
            Some(Chips { pic_and_ioapic: false, pit: false })
        }
        IrqchipMode::Kernel => {
            vm.create_irq_chip()
                .map_err(refused("creating the interrupt controllers (KVM_CREATE_IRQCHIP)"))?;
            if pit {
                let request = kvm_bindings::kvm_pit_config {
                    flags: kvm_bindings::KVM_PIT_SPEAKER_DUMMY,
                    ..Default::default()
                };
                vm.create_pit2(request).map_err(refused("creating the interval timer (KVM_CREATE_PIT2)"))?;
            }
            Some(Chips { pic_and_ioapic: true, pit })
        }
    };
    if ignore_msrs || apics == cpuid::Apics::Rhea {
        msr::divert(&vm, config.irqchip, ignore_msrs)?;
    }
    let msrs = kvm.get_msr_index_list().map_err(refused("reading KVM's MSR list"))?.as_slice().to_vec();
    let xsave_size =
        usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(xsave::LEGACY_AREA);
    let layout = xsave::Layout::from_cpuid(supported.as_slice());
    let arch = VmArch {
        cpuid,
        irqchip: config.irqchip,
        topology: config.topology,
        planted: Planted::default(),
        xsave_size,
        layout,
        msrs,
        payload,
        triple_fault,
        ignore_msrs,
    };
    Ok(Created { vm, arch, chips })
}

impl VmArch {
    /// KVM's number of a vCPU, which is that of its local APIC.
    pub(crate) fn vcpu_id(&self, index: u32) -> u64 {
        self.topology.apic_id(index).into()
    }

    /// Gives a new vCPU its CPUID.
    pub(crate) fn init_vcpu(&mut self, _vm: &VmFd, fd: &VcpuFd, index: u32) -> Result<(), AccelError> {
        let entries = self.cpuid.for_vcpu(index, &self.topology);
        let cpuid = CpuId::from_entries(&entries).map_err(|_| {
            AccelError::Cpu(format!("model needs {} CPUID entries, too many for KVM", entries.len()))
        })?;
        fd.set_cpuid2(&cpuid).map_err(refused("setting the CPUID of a vCPU (KVM_SET_CPUID2)"))
    }
}

/// Linear to physical, as the guest's page tables stand.
pub(crate) fn translate(fd: &VcpuFd, _memory: &AddressSpace, gva: u64) -> Option<u64> {
    fd.translate_gva(gva).ok().filter(|t| t.valid != 0).map(|t| t.physical_address)
}

/// The instruction that a vCPU in `state` stands at, from its bytes.
pub(crate) fn disassemble(state: &CpuState, bytes: &[u8]) -> Option<String> {
    match state {
        CpuState::X86_64(s) => disasm::text(s, bytes),
        _ => None,
    }
}

/// Global interrupts are KVM's own numbers.
pub(crate) fn irq_line(gsi: u32) -> u32 {
    gsi
}

/// The clock that KVM shows to paravirtual guests.
pub(crate) struct Clock(Arc<VmFd>);

impl Clock {
    pub(crate) fn new(vm: &Arc<VmFd>) -> Option<Self> {
        vm.check_extension(Cap::AdjustClock).then(|| Self(vm.clone()))
    }
}

impl PartitionClock for Clock {
    fn get(&self) -> Result<u64, AccelError> {
        self.0.get_clock().map(|c| c.clock).map_err(refused("reading the KVM clock"))
    }
    fn set(&self, ns: u64) -> Result<(), AccelError> {
        let request = kvm_clock_data { clock: ns, ..Default::default() };
        self.0.set_clock(&request).map_err(refused("setting the KVM clock"))
    }
}
