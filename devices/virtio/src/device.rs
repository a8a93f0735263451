//! What a virtio device is, without its transport (virtio 1.2, chapters 2, 3 and 5).
//!
//! A [`VirtioDevice`] knows its type, features, config space and what to do with the buffers of its queues. A
//! transport (`virtio-mmio`, PCI) owns status, negotiation and the addresses of the rings; it gives the device a
//! [`Virtqueue`] for each queue that runs and takes it back.
//!
//! Calls come one at a time, with the transport's device locked. Work on other threads (disk requests, received
//! frames) touches only what the device shares with them, and the queues.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use ::device::{BuildError, CharReceiver, Properties, StateBlob, StateError, Wires};

use crate::queue::{QueueState, Virtqueue};

/// Feature bits that belong to no particular device (virtio 1.2, 6).
pub mod feature {
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Used and available event indices.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a device of before version 1.0.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses are those of the platform's bus masters.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Packed rings.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Single queues can be reset.
    pub const RING_RESET: u64 = 1 << 40;
}

/// How a device speaks to its driver besides the rings. Implemented by the transport; callable from any thread.
pub trait Notifier: Send + Sync {
    /// Buffers of a queue were used and the driver wants to know.
    fn used(&self, queue: u16);

    /// The config space changed.
    fn config_changed(&self);

    /// The driver has done what cannot be gone on from: the device stops until it is reset.
    fn needs_reset(&self, why: fmt::Arguments<'_>);

    /// Whether [`Notifier::needs_reset`] was called since the last reset.
    fn is_broken(&self) -> bool;
}

/// Whether a device has dealt with all there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to do until something new happens.
    Done,
    /// The guest keeps the queue filled: call [`VirtioDevice::notify`] again, after others had their turn.
    More,
}

/// A device behind a transport. Nothing the driver does may panic, hang, or grow memory without bound.
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2, 5).
    fn device_type(&self) -> u32;

    /// The device's own feature bits that it offers.
    fn features(&self) -> u64;

    /// Features of its rings, and others, that may be offered at all: who is to serve its rings may lack some.
    fn permitted(&self) -> u64 {
        !0
    }

    /// Whether it can work with these features, a subset of those offered.
    fn accepts(&self, features: u64) -> bool {
        let _ = features;
        true
    }

    /// Largest size of each queue: powers of two up to 32768.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the config space. `data` is zeroed; what lies beyond the space stays so.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the config space.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The device may reach memory now, or no longer.
    fn reach_changed(&mut self) {}

    /// Gives the device its way to the driver; once, before anything else.
    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        let _ = notifier;
    }

    /// The driver is ready (or a running device was restored): these features are in use. Queues follow.
    fn activate(&mut self, features: u64);

    /// Queue `index` runs from now on. The driver may have filled it already.
    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>);

    /// Queue `index` must not be touched any more. Returns where it stands, with nothing in flight.
    fn stop_queue(&mut self, index: usize) -> QueueState;

    /// The driver has put buffers into queue `index`, which runs.
    fn notify(&mut self, index: usize) -> Progress;

    /// Back to the state after power-on. Queues have been stopped.
    fn reset(&mut self);

    /// The device's own state, without queues and negotiation. Nothing is in flight afterwards, except buffers
    /// that will be fetched anew from the ring after a restore (see [`Virtqueue::state`]).
    fn save(&self) -> StateBlob;

    /// Takes over a saved state, all of it or nothing. `features` is what the saved device had negotiated;
    /// [`VirtioDevice::activate`] and [`VirtioDevice::start_queue`] follow if it ran.
    fn restore(&mut self, state: &StateBlob, features: u64) -> Result<(), StateError>;

    /// Stops producing work and waits for what is under way. Idempotent.
    fn quiesce(&mut self) {}

    /// Ends [`VirtioDevice::quiesce`]; a [`VirtioDevice::notify`] for each queue follows.
    fn resume(&mut self) {}

    /// A timer made with this `id` has expired.
    fn timer(&mut self, id: usize) {
        let _ = id;
    }

    /// See [`device::Device::char_receiver`].
    fn char_receiver(&mut self, slot: usize) -> Option<&mut dyn CharReceiver> {
        let _ = slot;
        None
    }

    /// The device's interface for the board or the monitor.
    fn as_any(&mut self) -> &mut dyn Any;
}

/// A kind of virtio device: its user-visible settings, and how it is made. Transports turn it into a
/// [`device::DeviceConfig`].
pub trait VirtioConfig: Properties + Clone + fmt::Debug + Send + 'static {
    /// What the board gives the device that is no property.
    type Backend: Clone + Default + fmt::Debug + Send;

    /// Name of the kind on virtio-mmio.
    const MMIO_KIND: &'static str;

    /// Name of the kind on PCI.
    const PCI_KIND: &'static str;

    /// Device type (virtio 1.2, 5).
    const TYPE: u16;

    /// Class code on PCI.
    const PCI_CLASS: u32 = 0x00_ff_00;

    /// One line of help.
    const HELP: &'static str;

    /// Message interrupts it can make use of: one for each queue, one for changes of its configuration.
    fn vectors(&self) -> u16 {
        2
    }

    /// Names of the character backends.
    fn chardevs(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Names of the disks.
    fn disks(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Names of the network endpoints.
    fn nics(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Makes the device.
    fn make(self, backend: Self::Backend, wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError>;
}

/// Copies the part of a config space that was asked for.
pub(crate) fn config_bytes(space: &[u8], offset: u64, data: &mut [u8]) {
    let Some(from) = usize::try_from(offset).ok().and_then(|at| space.get(at..)) else { return };
    let n = from.len().min(data.len());
    data[..n].copy_from_slice(&from[..n]);
}
