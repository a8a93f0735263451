//! Virtio devices and their transports (virtio 1.2, OASIS 2022).
//!
//! A [`VirtioDevice`] does the work of one device type on the [`Virtqueue`]s it is given; a transport finds it,
//! negotiates for it and owns the registers. [`Mmio`] makes a [`device::DeviceConfig`] of any [`VirtioConfig`].
//! Rings are split or packed; drivers of before version 1 find devices on conventional PCI.
//!
//! Split rings are virtio-queue's, which builds on Unix hosts only; elsewhere this crate is empty.
#![cfg(unix)]

mod balloon;
mod blk;
mod chain;
mod console;
mod device;
#[cfg(target_os = "linux")]
mod direct;
#[cfg(not(target_os = "linux"))]
#[path = "direct/none.rs"]
mod direct;
mod net;
mod queue;
mod rng;
mod scsi;
#[cfg(test)]
mod test_driver;
mod transfer;
mod transport;
#[cfg(target_os = "linux")]
mod vhost_vsock;
mod vsock;

pub use self::device::{Notifier, Progress, VirtioConfig, VirtioDevice, feature};
pub use balloon::{Balloon, BalloonConfig, BalloonStats};
pub use blk::{Blk, BlkConfig};
pub use chain::{Chain, Hole};
pub use console::{Console, ConsoleConfig};
pub use net::{NetBackend, NetCard, NetConfig, RxFilter};
pub use queue::{MAX_CHAIN, QueueLayout, QueueState, RingKind, Virtqueue};
pub use rng::{RngConfig, RngSource};
pub use scsi::{Scsi, ScsiConfig};
pub use transport::RingOptions;
pub use transport::mmio::{COMPATIBLE, EmptySlot, IRQ_PIN, Mmio, REGION_SIZE};
pub use transport::pci::{PciOptions, Switch, VirtioPci};
#[cfg(target_os = "linux")]
pub use vhost_vsock::{VhostVsockBackend, VhostVsockConfig};
pub use vsock::{VsockBackend, VsockConfig};

use ::device::DeviceKind;
use pci::PciKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[
    DeviceKind::of::<Mmio<BalloonConfig>>(),
    DeviceKind::of::<Mmio<BlkConfig>>(),
    DeviceKind::of::<EmptySlot>(),
    DeviceKind::of::<Mmio<NetConfig>>(),
    DeviceKind::of::<Mmio<RngConfig>>(),
    DeviceKind::of::<Mmio<ScsiConfig>>(),
    DeviceKind::of::<Mmio<ConsoleConfig>>(),
    DeviceKind::of::<Mmio<VsockConfig>>(),
    #[cfg(target_os = "linux")]
    DeviceKind::of::<Mmio<VhostVsockConfig>>(),
];

/// All of them on PCI.
pub const PCI_KINDS: &[PciKind] = &[
    PciKind::of::<VirtioPci<BalloonConfig>>(),
    PciKind::of::<VirtioPci<BlkConfig>>(),
    PciKind::of::<VirtioPci<NetConfig>>(),
    PciKind::of::<VirtioPci<RngConfig>>(),
    PciKind::of::<VirtioPci<ScsiConfig>>(),
    PciKind::of::<VirtioPci<ConsoleConfig>>(),
    PciKind::of::<VirtioPci<VsockConfig>>(),
    #[cfg(target_os = "linux")]
    PciKind::of::<VirtioPci<VhostVsockConfig>>(),
];
