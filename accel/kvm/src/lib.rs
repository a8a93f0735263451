//! KVM behind the accelerator contract.
//!
//! The Linux virtual machine monitor interface (Documentation/virt/kvm/api.rst) on x86-64 and 64-bit ARM
//! hosts. On other hosts the crate holds an accelerator of the same name whose probe says why it cannot be used.
//!
//! Layout: what both architectures share stands here; `x86_64` and `aarch64` have the same outline
//! (`VmArch`: what a partition holds, `VcpuArch`: what a vCPU holds) and only the host's own one is built.
//!
//! Invariants:
//! - a vCPU's ioctls are made by the thread it is bound to, or before it is bound;
//! - a kick is never lost (see `linux::kick`);
//! - no memory slot changes under a running vCPU in a way that lets it miss memory that stays (see `linux::slots`).

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod linux;
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod unavailable;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use linux::Kvm;
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub use unavailable::Kvm;

/// Name as in `-accel NAME`.
const NAME: &str = "kvm";
