//! The accelerator contract.
//!
//! `Accelerator::probe -> create -> Partition -> VcpuBinder -> bind() on its own thread -> Vcpu::run`.
//!
//! Every way to execute a guest (KVM, Hypervisor.framework, Windows Hypervisor Platform, Rhea's own
//! translator) stands behind these traits, and nothing in them has the shape of one of them:
//!
//! - device I/O is a *callback during* [`Vcpu::run`] ([`VcpuIo`]); [`Exit`] only carries changes of run state;
//! - register state is neutral ([`arch`]), one struct per guest architecture owned by this crate;
//! - a vCPU is bound to the thread that runs it, and is reached from other threads only through its
//!   [`Kicker`] and the partition's [`VcpuLines`];
//! - abilities that not every backend has are `Option<&dyn Feature>` on [`Partition`].
//!
//! Invariant: a backend never knows a device, a board or a bus; it sees guest memory as an
//! [`AddressSpace`](guest_memory::AddressSpace) and calls [`VcpuIo`] for everything that is not RAM.

pub mod arch;
mod debug;
mod exit;
mod features;
pub mod nothing;
mod partition;
mod vcpu;

pub use debug::{DebugConfig, DebugEvent, WatchKind, Watchpoint};
pub use exit::{Exit, InternalError};
pub use features::{
    DirtyLog, IoEventFd, IrqFd, KernelIrqchip, MsiMessage, PartitionClock, RoutingEntry, RoutingSource,
};
pub use partition::{
    AccelError, Accelerator, Caps, ClockTimer, CpuModel, GuestClock, IrqchipMode, LogItems, LogSink,
    Partition, PartitionConfig, VcpuLines, VcpuSignal,
};
pub use vcpu::{IoResult, Kicker, LocalApics, Vcpu, VcpuBinder, VcpuError, VcpuIo};
