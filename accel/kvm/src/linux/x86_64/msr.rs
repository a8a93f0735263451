//! MSRs that KVM leaves to Rhea: those of a local APIC in Rhea, and what KVM does not know.
//!
//! KVM_CAP_X86_USER_SPACE_MSR makes accesses exit that would raise #GP, KVM_X86_SET_MSR_FILTER those that KVM would
//! carry out itself (Documentation/virt/kvm/api.rst). x2APIC registers cannot be filtered, but KVM refuses them where it
//! has no local APIC, so they exit as well.

#![expect(unsafe_code, reason = "the exit data is a union that the kernel fills")]

use accel::{AccelError, IrqchipMode, VcpuIo};
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_EXIT_X86_WRMSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap, kvm_run,
};
use kvm_ioctls::{Cap, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::super::refused;

/// IA32_TSC_DEADLINE, which KVM would take silently where it has no local APIC.
const TSC_DEADLINE: u32 = 0x6E0;
/// Most accesses to unknown MSRs that a vCPU writes about.
const REPORTS: u32 = 32;

/// Lets accesses come to Rhea. `ignore` is the user's wish that unknown MSRs be there.
pub(super) fn divert(vm: &VmFd, irqchip: IrqchipMode, ignore: bool) -> Result<(), AccelError> {
    let local = irqchip == IrqchipMode::User;
    if !local && !ignore {
        return Ok(());
    }
    let operation = "diverting MSR accesses (KVM_CAP_X86_USER_SPACE_MSR)";
    let reasons = u64::from(
        KVM_MSR_EXIT_REASON_UNKNOWN
            | KVM_MSR_EXIT_REASON_FILTER
            | if local { KVM_MSR_EXIT_REASON_INVAL } else { 0 },
    );
    let request =
        kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, args: [reasons, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&request).map_err(refused(operation))?;
    if local && vm.check_extension(Cap::X86MsrFilter) {
        let range = MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: TSC_DEADLINE,
            msr_count: 1,
            bitmap: &[0],
        };
        vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range])
            .map_err(refused("filtering MSRs (KVM_X86_SET_MSR_FILTER)"))?;
    }
    Ok(())
}

/// How a vCPU answers the accesses that come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// Unknown MSRs read as 0 and take any value, instead of raising #GP.
    pub(super) ignore: bool,
    /// Lines that may still be written about them.
    reports: u32,
}

impl Answers {
    pub(super) fn new(ignore: bool) -> Self {
        Self { ignore, reports: REPORTS }
    }

    /// Carries out KVM_EXIT_X86_RDMSR or KVM_EXIT_X86_WRMSR.
    pub(super) fn exit(&mut self, index: u32, run: &mut kvm_run, io: &dyn VcpuIo) {
        let write = run.exit_reason == KVM_EXIT_X86_WRMSR;
        // SAFETY: plain integers; any bytes are valid.
        let exit = unsafe { &mut run.__bindgen_anon_1.msr };
        let (msr, unknown) = (exit.index, exit.reason == KVM_MSR_EXIT_REASON_UNKNOWN);
        let done = match io.local_apics() {
            Some(apics) if write => apics.write_msr(index, msr, exit.data),
            Some(apics) => apics.read_msr(index, msr).map(|value| exit.data = value).is_some(),
            None => false,
        };
        let ignored = !done && unknown && self.ignore;
        if ignored && !write {
            exit.data = 0;
        }
        exit.error = u8::from(!done && !ignored);
        if !done && unknown && self.reports > 0 {
            self.reports -= 1;
            let (verb, what) =
                (if write { "write to" } else { "read of" }, if ignored { "ignored" } else { "#GP" });
            tracing::debug!("vcpu {index}: {verb} unknown MSR {msr:#x}: {what}");
        }
    }
}
