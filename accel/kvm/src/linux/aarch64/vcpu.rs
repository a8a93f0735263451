//! What an ARM vCPU does around `KVM_RUN`. KVM waits for interrupts and answers PSCI itself.

use std::sync::Arc;

use accel::arch::CpuState;
use accel::{VcpuError, VcpuIo};
use kvm_ioctls::VcpuFd;

use super::super::kick::Shared;
use super::super::vcpu::get;
use super::debug::Debug;
use super::{Before, Handled, VmArch, state};

/// What an ARM vCPU holds.
pub(crate) struct VcpuArch {
    pub(super) debug: Debug,
    pub(super) vm: Arc<VmArch>,
}

impl VcpuArch {
    #[expect(clippy::unnecessary_wraps, reason = "same shape on all hosts")]
    pub(crate) fn new(vm: &Arc<VmArch>, _fd: &VcpuFd, _index: u32) -> Result<Self, VcpuError> {
        Ok(Self { debug: Debug::new(vm.hw_breakpoints, vm.hw_watchpoints), vm: vm.clone() })
    }

    /// There is no paravirtual clock to tell.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn stopping(&self, _fd: &VcpuFd) {}

    /// Nothing of a vCPU's controller is outside of KVM.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn after_run(&mut self, _index: u32, _fd: &mut VcpuFd, _io: &dyn VcpuIo) {}

    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "same shape on all hosts")]
    pub(crate) fn before_run(
        &mut self,
        shared: &Shared,
        _index: u32,
        _fd: &mut VcpuFd,
        _io: &dyn VcpuIo,
    ) -> Result<Before, VcpuError> {
        // The signals are x86's; nobody here waits for one.
        let _ = shared.take_signals();
        Ok(Before::Run)
    }

    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "same shape on all hosts")]
    pub(crate) fn exit(
        &mut self,
        _shared: &Shared,
        _index: u32,
        _fd: &mut VcpuFd,
        _reason: u32,
        _io: &dyn VcpuIo,
    ) -> Result<Handled, VcpuError> {
        Ok(Handled::Unknown)
    }

    /// An access that nobody answered is a synchronous external abort.
    pub(crate) fn bus_error(&self, fd: &VcpuFd) -> Result<(), VcpuError> {
        if !self.vm.inject_abort {
            return Ok(());
        }
        let mut events = get("reading pending events (KVM_GET_VCPU_EVENTS)", fd.get_vcpu_events())?;
        events.exception.ext_dabt_pending = 1;
        get("raising an external abort (KVM_SET_VCPU_EVENTS)", fd.set_vcpu_events(&events))
    }

    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn state(&self, fd: &VcpuFd, _shared: &Shared) -> Result<CpuState, VcpuError> {
        state::get_state(fd).map(|s| CpuState::Aarch64(Box::new(s)))
    }

    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn set_state(
        &mut self,
        fd: &mut VcpuFd,
        _shared: &Shared,
        state: &CpuState,
    ) -> Result<(), VcpuError> {
        let CpuState::Aarch64(state) = state else {
            return Err(VcpuError::WrongArch { expected: "aarch64", given: state.arch_name() });
        };
        state::put_state(fd, state)
    }

    /// What another accelerator's instructions have changed; none runs these guests.
    pub(crate) fn take_registers(
        &mut self,
        fd: &mut VcpuFd,
        shared: &Shared,
        _before: &CpuState,
        after: &CpuState,
    ) -> Result<(), VcpuError> {
        self.set_state(fd, shared, after)
    }
}
