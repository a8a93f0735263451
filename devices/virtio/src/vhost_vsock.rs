//! Virtual sockets that the host's kernel serves (vhost-vsock): programs of the host reach the guest by `AF_VSOCK` as well.
//!
//! Data goes between the driver's rings and the kernel. The device has the context id and the event queue, and tells a guest
//! that has come from elsewhere that its connections are gone. While the rings cannot be handed over (a migration records
//! what is written), sockets stand still.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use ::device::{BuildError, StateBlob, StateError, Wires, device_config};
use vhost::Backend;

use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes, feature};
use crate::direct::Direct;
use crate::queue::{QueueState, Virtqueue};

const DEVICE_TYPE: u32 = 19;
const KIND: &str = "vhost-vsock";
const QUEUE_SIZE: u16 = 128;
/// Queues that the kernel serves; the next is for events.
const SERVED: usize = 2;
/// Messages that keep their bounds.
const SEQPACKET: u64 = 1 << 1;
/// What is between the driver and the device alone.
const OWN: u64 = feature::ACCESS_PLATFORM | feature::RING_RESET;
/// The event that all connections are gone.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

device_config! {
    /// Virtual sockets of the host's kernel.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct VhostVsockConfig {
        /// Context id of the guest: 3 to 4294967294.
        pub guest_cid: u64 = 3,
        /// Offer sockets that keep the bounds of messages, if the kernel has them.
        pub seqpacket: bool = true,
    }
}

/// Who serves the rings.
#[derive(Clone, Default)]
pub struct VhostVsockBackend(pub Option<Arc<dyn Backend>>);

impl fmt::Debug for VhostVsockBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VhostVsockBackend({})", if self.0.is_some() { "there" } else { "none" })
    }
}

impl VirtioConfig for VhostVsockConfig {
    type Backend = VhostVsockBackend;
    const MMIO_KIND: &'static str = "vhost-vsock-device";
    const PCI_KIND: &'static str = "vhost-vsock-pci";
    const TYPE: u16 = 19;
    const HELP: &'static str = "virtual sockets by the host's kernel (mmio)";

    fn make(
        self,
        backend: VhostVsockBackend,
        wires: &mut Wires,
    ) -> Result<Box<dyn VirtioDevice>, BuildError> {
        if !(3..u64::from(u32::MAX)).contains(&self.guest_cid) {
            return Err(wires.bad_property("guest_cid", "expected 3 to 4294967294"));
        }
        let features = backend.0.as_ref().and_then(|b| b.features()).unwrap_or(0);
        let direct = Direct::new(Box::new(move || backend.0.clone()), OWN, 0, wires)?;
        direct.set_wanted(SERVED);
        Ok(Box::new(VhostVsock {
            cid: self.guest_cid,
            features: if self.seqpacket { features & SEQPACKET } else { 0 },
            direct,
            event: None,
            paused: false,
            lost: false,
        }))
    }
}

struct VhostVsock {
    cid: u64,
    features: u64,
    direct: Direct,
    event: Option<Arc<Virtqueue>>,
    paused: bool,
    /// The driver is to be told that its connections are gone.
    lost: bool,
}

impl VhostVsock {
    /// Tells the driver that its connections are gone, when there is a buffer for that.
    fn tell(&mut self) {
        let Some(queue) = self.event.as_ref().filter(|_| self.lost && !self.paused) else { return };
        if let Some(mut chain) = queue.pop() {
            self.lost = chain.write(&TRANSPORT_RESET) != TRANSPORT_RESET.len();
            queue.push(chain);
            queue.signal();
        }
    }
}

::device::state! {
    /// State of the device, version 1.
    struct V1 { 1 => lost: bool, 2 => running: bool }
}

impl VirtioDevice for VhostVsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn permitted(&self) -> u64 {
        self.direct.permitted()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; SERVED + 1]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.cid.to_le_bytes(), offset, data);
    }

    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        self.direct.attach(notifier);
    }

    fn activate(&mut self, features: u64) {
        self.direct.set_features(features);
    }

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        if index < SERVED {
            self.direct.start_queue(index, &queue);
        } else {
            self.event = Some(queue);
        }
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        if index < SERVED {
            self.direct.stop_queue(index);
            // The transport knows the queue, which stands where the kernel was.
            return QueueState::default();
        }
        self.event.take().map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        if index < SERVED {
            self.direct.kick(index);
        } else {
            self.tell();
        }
        Progress::Done
    }

    fn reset(&mut self) {
        self.lost = false;
        self.direct.reset();
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(KIND, 1, &V1 { lost: self.lost, running: self.event.is_some() })
    }

    fn restore(&mut self, state: &StateBlob, _features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        self.lost = state.lost || state.running;
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.direct.set_running(false);
    }

    fn resume(&mut self) {
        self.paused = false;
        self.direct.set_running(true);
        self.tell();
    }

    fn reach_changed(&mut self) {
        self.direct.update();
    }

    fn timer(&mut self, _id: usize) {
        self.direct.update();
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
