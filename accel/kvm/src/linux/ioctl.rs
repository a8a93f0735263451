//! Requests for which the kvm-ioctls crate has no method, or one that wants to own a descriptor.

#![expect(unsafe_code, reason = "ioctls with pointers")]

use std::os::raw::c_int;

use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_irqfd, kvm_userspace_memory_region};
use kvm_ioctls::{Error, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_IRQFD, KVMIO, 0x76, kvm_irqfd);
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

fn done(result: c_int) -> Result<(), Error> {
    if result < 0 { Err(Error::last()) } else { Ok(()) }
}

/// Ties or unties an event descriptor and a global interrupt. A wrong descriptor is an error, nothing worse.
pub(crate) fn irqfd(vm: &VmFd, request: &kvm_irqfd) -> Result<(), Error> {
    // SAFETY: the kernel only reads the struct during the call.
    done(unsafe { ioctl_with_ref(vm, KVM_IRQFD(), request) })
}

/// Ties or unties an event descriptor and an address.
pub(crate) fn ioeventfd(vm: &VmFd, request: &kvm_ioeventfd) -> Result<(), Error> {
    // SAFETY: the kernel only reads the struct during the call.
    done(unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), request) })
}

/// Sets, changes or (size 0) removes a memory slot.
///
/// The caller keeps the memory named by `userspace_addr` alive until the slot or the virtual machine is gone.
pub(crate) fn set_memory(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), Error> {
    // SAFETY: both callers (`Slots` and the speed probe) hold an `Arc` of the block next to the slot, and a block
    // never moves.
    unsafe { vm.set_user_memory_region(region) }
}

/// Size of the host's pages.
pub(crate) fn page_size() -> u64 {
    // SAFETY: no requirements.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
