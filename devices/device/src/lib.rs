//! What a device is, and everything it may hold: wires, timers, clock, DMA, backends.
//!
//! A device is a struct behind [`Device`]. It knows no address and no interrupt number: boards map its regions
//! and connect its pins. Its [`DeviceConfig`] declares what it has; [`Wires`] hands out exactly that when it is
//! built; a [`DeviceCell`] puts the built device behind a lock and gives the bus a handler for each region.
//!
//! Threads: any vCPU, the timer thread and backend threads may call into a cell. The device itself sees one call
//! at a time. From inside a call it may use all its wires; none of them calls back into the same device on the
//! same thread (wire graphs have no cycles; a bus master reaches memory, not devices).
//!
//! [`test_bench`] runs one device without a machine and holds the tests every device must pass.

mod backend;
mod cell;
mod clock;
mod config;
mod display;
mod line;
mod local;
mod log;
mod presence;
mod state;
mod system;
pub mod test_bench;
mod timer;
mod wires;

pub use crate::log::GuestLog;
pub use backend::{CharBackend, CharControl, CharEvent, CharReceiver, NullChar};
pub use cell::{CellRef, DeviceCell};
pub use clock::{Clock, ClockSource, WallClock};
pub use config::{
    AnyConfig, BuildError, DeviceConfig, DeviceKind, PinSpec, Property, PropertyError, PropertyValue,
};
pub use config::{Properties, RamSpec, RegionSpec};
pub use display::{Cell, Display, Rect, Surface, TextScreen};
pub use guest_memory::{Access, AccessRule, Dma, IoHandler};
pub use line::{IrqLine, IrqWire, LineSink, MsiMessage, MsiSink, MsiTarget};
pub use local::{EoiHandler, IpiSink, LocalControllers, Taken};
pub use presence::CpuPresence;
pub use state::{Bytes, Item, State, StateBlob, StateError};
pub use system::{SystemControl, SystemRequest};
pub use timer::{Timer, TimerQueue, TimerThread};
pub use wires::{Spaces, Waker, Wires, WiresBuilder};

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Power was off: everything that does not live in a backend starts over.
    Cold,
    /// The machine's reset line. Registers documented to survive it do.
    Warm,
}

/// One emulated device. All but the register accesses and the state have honest defaults.
///
/// `region`, `pin` and `id` count in the order the device's [`DeviceConfig`] declares them. Nothing the guest
/// does may panic, hang, or grow memory without bound.
pub trait Device: Send {
    /// Reads `data.len()` (1, 2, 4, 8; as the region's [`AccessRule`] allows) bytes of a region.
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access;

    /// Writes to a region.
    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access;

    /// Returns to the state after power-on or reset: lines low, timers cancelled. Must equal a fresh device
    /// for [`ResetKind::Cold`].
    fn reset(&mut self, kind: ResetKind);

    /// The guest-visible state. A device that has none says so with [`StateBlob::none`].
    fn save(&self) -> StateBlob;

    /// Takes over a saved state, all of it or nothing. Output levels are imported ([`IrqLine::import`]), timers
    /// are armed again.
    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError>;

    /// Timer `id` has reached its deadline. Not called for a timer that was cancelled or armed anew meanwhile.
    fn timer(&mut self, id: usize) {
        let _ = id;
    }

    /// Somebody called [`Waker::wake`] on waker `id`: a backend thread has finished something. Not called while
    /// the device is at work on the same thread.
    fn wake(&mut self, id: usize) {
        let _ = id;
    }

    /// Input pin `pin` changed its level.
    fn line_in(&mut self, pin: usize, level: bool) {
        let _ = (pin, level);
    }

    /// Stops producing work (DMA, completions); input that arrives is held. Idempotent.
    fn quiesce(&mut self) {}

    /// Ends [`Device::quiesce`].
    fn resume(&mut self) {}

    /// The receiving end for the character backend in slot `slot`, if the device has one.
    fn char_receiver(&mut self, slot: usize) -> Option<&mut dyn CharReceiver> {
        let _ = slot;
        None
    }

    /// The device as something a CPU fetches interrupt vectors from.
    fn interrupt_controller(&mut self) -> Option<&mut dyn InterruptController> {
        None
    }

    /// The device as the local interrupt controllers of all vCPUs.
    fn local_controllers(&mut self) -> Option<std::sync::Arc<dyn LocalControllers>> {
        None
    }

    /// The device as a display.
    fn display(&mut self) -> Option<&mut dyn Display> {
        None
    }

    /// The device's own interface beyond this contract, for the board or a bus that knows what it has made
    /// (PCI functions, interrupt controllers with CPU interfaces).
    fn as_any(&mut self) -> Option<&mut dyn std::any::Any> {
        None
    }
}

/// A controller the CPU talks to outside of memory and ports.
pub trait InterruptController {
    /// The CPU accepts an interrupt (INTA cycle): the vector, which becomes in service.
    fn acknowledge(&mut self) -> u8;

    /// A local APIC saw the end of a level-triggered interrupt with this vector.
    fn end_of_interrupt(&mut self, vector: u8) {
        let _ = vector;
    }
}

/// The number that a register write of 1 to 8 bytes carries in little-endian order.
#[inline]
pub fn le_value(data: &[u8]) -> u64 {
    data.iter().take(8).rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Answers a register read of 1 to 8 bytes with the low bytes of `value` in little-endian order.
#[inline]
pub fn le_fill(data: &mut [u8], value: u64) {
    data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
}

#[doc(hidden)]
pub mod __private {
    pub use crate::state::{put_struct, take_as, take_struct};
}
