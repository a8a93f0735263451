//! Interrupts of controllers in user space: the request that kvm-ioctls lacks, and the exit that only x86 has.

#![expect(unsafe_code, reason = "an ioctl with a pointer, and exit data in a union")]

use kvm_bindings::{KVMIO, kvm_interrupt, kvm_run};
use kvm_ioctls::{Error, VcpuFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// Queues the interrupt `vector` for a vCPU whose controller is not in the kernel.
pub(super) fn deliver(vcpu: &VcpuFd, vector: u8) -> Result<(), Error> {
    let request = kvm_interrupt { irq: u32::from(vector) };
    // SAFETY: the kernel only reads the struct during the call.
    match unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &request) } {
        n if n < 0 => Err(Error::last()),
        _ => Ok(()),
    }
}

/// The data of `KVM_EXIT_IOAPIC_EOI`: the vector.
pub(super) fn eoi_vector(run: &kvm_run) -> u8 {
    // SAFETY: plain integers; any bytes are valid.
    unsafe { run.__bindgen_anon_1.eoi.vector }
}
