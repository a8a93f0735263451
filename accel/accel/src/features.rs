//! Abilities that not every backend has. Each is reached as `Option<&dyn ...>` through the partition.

use std::os::raw::c_int;

use crate::AccelError;

/// A message-signalled interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    /// Address written.
    pub address: u64,
    /// Data written.
    pub data: u32,
    /// Requester (PCI BDF), for controllers that tell devices apart.
    pub device_id: u32,
}

/// Where a global interrupt of an in-kernel controller leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingSource {
    /// Pin `pin` of controller `chip` (x86: 0 and 1 the PICs, 2 the IOAPIC; ARM: 0 the GIC).
    Pin {
        /// Controller.
        chip: u32,
        /// Pin of that controller.
        pin: u32,
    },
    /// A message.
    Msi(MsiMessage),
}

/// One row of the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutingEntry {
    /// Global interrupt number.
    pub gsi: u32,
    /// Where it leads.
    pub source: RoutingSource,
}

/// An interrupt controller that lives in the accelerator.
pub trait KernelIrqchip: Send + Sync {
    /// Sets the level of a global interrupt.
    fn set_gsi(&self, gsi: u32, level: bool) -> Result<(), AccelError>;
    /// Delivers a message.
    fn signal_msi(&self, msi: MsiMessage) -> Result<(), AccelError>;
    /// Replaces the routing table.
    fn set_routing(&self, table: &[RoutingEntry]) -> Result<(), AccelError>;
    /// Whether an access to `gpa` is answered by a controller in the accelerator (local APICs apart, which have an address of
    /// their own).
    fn holds_address(&self, gpa: u64) -> bool {
        let _ = gpa;
        false
    }
    /// The same for a port.
    fn holds_port(&self, port: u16) -> bool {
        let _ = port;
        false
    }
    /// The controllers' state as opaque, versioned bytes of this contract (not of the backend).
    fn save(&self) -> Result<Vec<u8>, AccelError>;
    /// Restores what [`save`](Self::save) returned; on error nothing has changed.
    fn restore(&self, state: &[u8]) -> Result<(), AccelError>;
}

/// Interrupts raised by signalling a host event object, without a thread of ours in between.
pub trait IrqFd: Send + Sync {
    /// Ties the host event `fd` to global interrupt `gsi`.
    fn attach(&self, fd: c_int, gsi: u32) -> Result<(), AccelError>;
    /// Unties it.
    fn detach(&self, fd: c_int, gsi: u32) -> Result<(), AccelError>;
}

/// Guest writes turned into host events inside the accelerator.
pub trait IoEventFd: Send + Sync {
    /// Signals `fd` when the guest writes `value` (any value if `None`), `len` bytes wide, at `gpa`
    /// (a port number if `port`).
    fn attach(&self, fd: c_int, gpa: u64, port: bool, len: u32, value: Option<u64>)
    -> Result<(), AccelError>;
    /// Undoes [`attach`](Self::attach) with the same arguments.
    fn detach(&self, fd: c_int, gpa: u64, port: bool, len: u32, value: Option<u64>)
    -> Result<(), AccelError>;
}

/// A record of the guest pages written.
pub trait DirtyLog: Send + Sync {
    /// Starts or stops recording.
    fn enable(&self, on: bool) -> Result<(), AccelError>;
    /// Moves what was recorded since the last call into the RAM blocks' dirty bitmaps (migration client).
    fn sync(&self) -> Result<(), AccelError>;
}

/// A clock kept by the accelerator (KVM clock, TSC offset) that must be carried in a snapshot.
pub trait PartitionClock: Send + Sync {
    /// Nanoseconds.
    fn get(&self) -> Result<u64, AccelError>;
    /// Sets it.
    fn set(&self, ns: u64) -> Result<(), AccelError>;
}
