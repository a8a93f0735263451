//! What an x86 vCPU does around `KVM_RUN`: interrupts of controllers in user space, HLT, INIT and SIPI, NMI.

use std::sync::Arc;

use accel::arch::CpuState;
use accel::arch::x86_64::RunState;
use accel::{Exit, IrqchipMode, VcpuError, VcpuIo};
use kvm_bindings::{
    KVM_EXIT_HLT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_SET_TPR, KVM_EXIT_X86_RDMSR,
    KVM_EXIT_X86_WRMSR, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, kvm_mp_state,
};
use kvm_ioctls::VcpuFd;

use super::super::kick::{Shared, pending};
use super::super::vcpu::get;
use super::super::vcpu_refused;
use super::debug::Debug;
use super::{Before, Handled, VmArch, interrupt, msr, xsave};

/// Line 0 is INTR.
const INTR: u32 = 0;

/// What an x86 vCPU holds.
pub(crate) struct VcpuArch {
    pub(super) vm: Arc<VmArch>,
    pub(super) irqchip: IrqchipMode,
    /// Run state, where the local APIC is not in the kernel and KVM therefore does not know one.
    pub(super) run: RunState,
    pub(super) debug: Debug,
    pub(super) xsave_size: usize,
    pub(super) layout: xsave::Layout,
    /// MSRs that can be read on this vCPU, apart from those with a field of their own.
    pub(super) msrs: Vec<u32>,
    pub(super) payload: bool,
    pub(super) triple_fault: bool,
    /// IA32_APIC_BASE as a local APIC in Rhea was last told of it.
    pub(super) apic_base: u64,
    /// CR8 as KVM was last given it.
    cr8: u8,
    msr_answers: msr::Answers,
}

impl VcpuArch {
    pub(crate) fn new(vm: &Arc<VmArch>, fd: &VcpuFd, index: u32) -> Result<Self, VcpuError> {
        let run = if vm.irqchip == IrqchipMode::User && index > 0 {
            RunState::Uninitialized
        } else {
            RunState::Running
        };
        Ok(Self {
            vm: vm.clone(),
            irqchip: vm.irqchip,
            run,
            debug: Debug::default(),
            xsave_size: vm.xsave_size,
            layout: vm.layout,
            msrs: super::state::readable_msrs(fd, &vm.msrs)?,
            payload: vm.payload,
            triple_fault: vm.triple_fault,
            apic_base: get("reading the system registers (KVM_GET_SREGS)", fd.get_sregs())?.apic_base,
            cr8: 0,
            msr_answers: msr::Answers::new(vm.ignore_msrs),
        })
    }

    /// Whether HLT, INIT and SIPI are ours to handle.
    pub(super) fn user_apic(&self) -> bool {
        self.irqchip == IrqchipMode::User
    }

    pub(crate) fn before_run(
        &mut self,
        shared: &Shared,
        index: u32,
        fd: &mut VcpuFd,
        io: &dyn VcpuIo,
    ) -> Result<Before, VcpuError> {
        let signals = shared.take_signals();
        if signals != 0 {
            self.deliver_signals(index, fd, signals)?;
        }
        if self.irqchip == IrqchipMode::Kernel {
            return Ok(Before::Run);
        }
        if self.user_apic() {
            match self.run {
                RunState::Running => {}
                RunState::Halted => {
                    // `if_flag` is as of the HLT; nothing ran since.
                    let enabled = fd.get_kvm_run().if_flag != 0;
                    // A local APIC can still bring INIT or an NMI.
                    if !enabled && io.local_apics().is_none() {
                        return Ok(Before::Leave(Exit::Halted));
                    }
                    if !enabled || !shared.line(INTR) {
                        return Ok(Before::Sleep);
                    }
                    self.run = RunState::Running;
                }
                _ => return Ok(Before::Sleep),
            }
        }
        let run = fd.get_kvm_run();
        if self.user_apic()
            && let Some(apics) = io.local_apics()
        {
            self.cr8 = apics.cr8(index);
            run.cr8 = u64::from(self.cr8);
        }
        let mut window = shared.line(INTR);
        if window && run.ready_for_interrupt_injection != 0 {
            run.ready_for_interrupt_injection = 0;
            if let Some(vector) = io.ack_irq(index) {
                interrupt::deliver(fd, vector)
                    .map_err(vcpu_refused("delivering an interrupt (KVM_INTERRUPT)"))?;
            }
            // The controller may have another one.
            window = shared.line(INTR);
        }
        fd.get_kvm_run().request_interrupt_window = u8::from(window);
        Ok(Before::Run)
    }

    /// After `KVM_RUN`: tells a local APIC in Rhea what the guest changed of it without an exit.
    pub(crate) fn after_run(&mut self, index: u32, fd: &mut VcpuFd, io: &dyn VcpuIo) {
        if !self.user_apic() {
            return;
        }
        let Some(apics) = io.local_apics() else { return };
        let (cr8, base) = {
            let run = fd.get_kvm_run();
            (run.cr8 as u8 & 0xF, run.apic_base)
        };
        if cr8 != self.cr8 {
            self.cr8 = cr8;
            apics.set_cr8(index, cr8);
        }
        // KVM has checked the value against the CPUID, which has no x2APIC here.
        if base != self.apic_base {
            self.apic_base = base;
            if !apics.write_msr(index, super::state::MSR_APIC_BASE, base) {
                tracing::warn!("vcpu {index}: the local APIC cannot be at {base:#x}");
            }
        }
    }

    /// The guest may stand still for long now: its watchdog is not to take that for a hang.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn stopping(&self, fd: &VcpuFd) {
        // Refused as long as the guest does not use KVM's clock.
        let _ = fd.kvmclock_ctrl();
    }

    fn deliver_signals(&mut self, index: u32, fd: &mut VcpuFd, signals: u32) -> Result<(), VcpuError> {
        if signals & pending::INIT != 0 {
            self.init(index, fd)?;
        }
        if signals & pending::SIPI != 0 && self.waits_for_sipi(fd)? {
            self.start(fd, (signals >> 8) as u8)?;
        }
        if signals & pending::NMI != 0 {
            get("delivering an NMI (KVM_NMI)", fd.nmi())?;
            if self.run == RunState::Halted {
                self.run = RunState::Running;
            }
        }
        if signals & pending::SMI != 0 {
            get("delivering an SMI (KVM_SMI)", fd.smi())?;
            if self.run == RunState::Halted {
                self.run = RunState::Running;
            }
        }
        Ok(())
    }

    fn waits_for_sipi(&self, fd: &VcpuFd) -> Result<bool, VcpuError> {
        if self.user_apic() {
            return Ok(matches!(self.run, RunState::WaitForSipi));
        }
        Ok(get("reading the run state", fd.get_mp_state())?.mp_state == KVM_MP_STATE_INIT_RECEIVED)
    }

    /// INIT (SDM volume 3, table 10-1): all but the FPU, the caches and most MSRs goes to its reset value.
    ///
    /// The bootstrap processor goes on at the reset vector, the others wait.
    fn init(&mut self, index: u32, fd: &mut VcpuFd) -> Result<(), VcpuError> {
        let reset = accel::arch::x86_64::State::reset();
        self.set_registers(fd, &reset, true)?;
        if self.user_apic() {
            self.run = if index == 0 { RunState::Running } else { RunState::WaitForSipi };
            Ok(())
        } else {
            let mp_state = if index == 0 { KVM_MP_STATE_RUNNABLE } else { KVM_MP_STATE_INIT_RECEIVED };
            get("setting the run state", fd.set_mp_state(kvm_mp_state { mp_state }))
        }
    }

    /// Start-up IPI: real mode at page `vector`.
    fn start(&mut self, fd: &VcpuFd, vector: u8) -> Result<(), VcpuError> {
        let mut sregs = get("reading the segments", fd.get_sregs())?;
        sregs.cs.selector = u16::from(vector) << 8;
        sregs.cs.base = u64::from(vector) << 12;
        get("setting the segments", fd.set_sregs(&sregs))?;
        let mut regs = get("reading the registers", fd.get_regs())?;
        regs.rip = 0;
        get("setting the registers", fd.set_regs(&regs))?;
        if self.user_apic() {
            self.run = RunState::Running;
            Ok(())
        } else {
            get("setting the run state", fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }))
        }
    }

    /// Exits that only x86 has.
    pub(crate) fn exit(
        &mut self,
        _shared: &Shared,
        index: u32,
        fd: &mut VcpuFd,
        reason: u32,
        io: &dyn VcpuIo,
    ) -> Result<Handled, VcpuError> {
        match reason {
            KVM_EXIT_HLT => self.run = RunState::Halted,
            KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => {}
            KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => {
                self.msr_answers.exit(index, fd.get_kvm_run(), io);
                return Ok(Handled::Unfinished);
            }
            KVM_EXIT_IOAPIC_EOI => io.eoi(interrupt::eoi_vector(fd.get_kvm_run())),
            _ => return Ok(Handled::Unknown),
        }
        Ok(Handled::Again)
    }

    /// A PC's buses do not report errors to the processor.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "same shape on all hosts")]
    pub(crate) fn bus_error(&self, _fd: &VcpuFd) -> Result<(), VcpuError> {
        Ok(())
    }

    pub(crate) fn state(&self, fd: &VcpuFd, shared: &Shared) -> Result<CpuState, VcpuError> {
        self.get_state(fd, shared.line(INTR)).map(|s| CpuState::X86_64(Box::new(s)))
    }

    pub(crate) fn set_state(
        &mut self,
        fd: &mut VcpuFd,
        shared: &Shared,
        state: &CpuState,
    ) -> Result<(), VcpuError> {
        let CpuState::X86_64(state) = state else {
            return Err(VcpuError::WrongArch { expected: "x86_64", given: state.arch_name() });
        };
        self.put_state(fd, state)?;
        // The level of the wire is imported; the wire's owner sets it again when it changes.
        shared.set_line(INTR, state.events.intr);
        Ok(())
    }

    /// What another accelerator's instructions have changed.
    pub(crate) fn take_registers(
        &mut self,
        fd: &mut VcpuFd,
        _shared: &Shared,
        before: &CpuState,
        after: &CpuState,
    ) -> Result<(), VcpuError> {
        let (CpuState::X86_64(before), CpuState::X86_64(after)) = (before, after) else {
            return Err(VcpuError::WrongArch { expected: "x86_64", given: after.arch_name() });
        };
        self.put_changes(fd, before, after)
    }
}
