//! Virtual sockets (virtio 1.2, 5.10): streams between a guest and its host, without a network.
//!
//! The device moves packets; connections are the back end's, an endpoint whose frames are packets. A packet that the
//! driver's buffer is too small for is sent as several: it is a piece of a stream.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use ::device::{BuildError, Bytes, GuestLog, StateBlob, StateError, Wires, device_config};
use ::net::{Endpoint, NetReceiver};
use parking_lot::Mutex;

use crate::chain::Chain;
use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes};
use crate::queue::{QueueState, Virtqueue};

const DEVICE_TYPE: u32 = 19;
const KIND: &str = "virtio-vsock";
const QUEUE_SIZE: u16 = 128;
/// Bytes of a packet's header, and where in it the length and the operation are.
const HEADER: usize = 44;
const LENGTH: std::ops::Range<usize> = 24..28;
const OPERATION: std::ops::Range<usize> = 30..32;
/// The operation that carries data.
const RW: [u8; 2] = [5, 0];
/// Longest packet of data.
const MOST: u64 = 64 << 10;
/// The event that all connections are gone.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

mod queue {
    pub(super) const RX: usize = 0;
    pub(super) const TX: usize = 1;
    pub(super) const EVENT: usize = 2;
}

device_config! {
    /// Virtual sockets.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct VsockConfig {
        /// Context id of the guest: 3 to 4294967294.
        pub guest_cid: u64 = 3,
    }
}

/// Who is at the host's end; if nobody is, every connection is without answer.
#[derive(Clone, Default)]
pub struct VsockBackend(pub Option<Arc<dyn Endpoint>>);

impl fmt::Debug for VsockBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VsockBackend({})", if self.0.is_some() { "there" } else { "none" })
    }
}

impl VirtioConfig for VsockConfig {
    type Backend = VsockBackend;
    const MMIO_KIND: &'static str = "virtio-vsock-device";
    const PCI_KIND: &'static str = "virtio-vsock-pci";
    const TYPE: u16 = 19;
    const HELP: &'static str = "virtio virtual sockets (mmio)";

    fn make(self, backend: VsockBackend, wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        if !(3..u64::from(u32::MAX)).contains(&self.guest_cid) {
            return Err(wires.bad_property("guest_cid", "expected 3 to 4294967294"));
        }
        let shared = Arc::new(Shared {
            endpoint: backend.0.unwrap_or_else(|| Arc::new(::net::NullEndpoint)),
            rx: Mutex::new(Rx::default()),
        });
        shared.connect();
        Ok(Box::new(Vsock {
            cid: self.guest_cid,
            log: wires.log(),
            tx: None,
            event: None,
            paused: false,
            lost: false,
            data: Vec::new(),
            shared,
        }))
    }
}

struct Vsock {
    cid: u64,
    log: Arc<GuestLog>,
    tx: Option<Arc<Virtqueue>>,
    event: Option<Arc<Virtqueue>>,
    paused: bool,
    /// The driver is to be told that its connections are gone.
    lost: bool,
    /// Holds the data being sent.
    data: Vec<u8>,
    shared: Arc<Shared>,
}

/// What the back end's thread needs.
struct Shared {
    endpoint: Arc<dyn Endpoint>,
    rx: Mutex<Rx>,
}

#[derive(Default)]
struct Rx {
    queue: Option<Arc<Virtqueue>>,
    paused: bool,
    /// What there were no buffers for.
    held: Option<Vec<u8>>,
    /// The back end was told to wait.
    blocked: bool,
}

struct Receiver(Weak<Shared>);

impl NetReceiver for Receiver {
    fn can_receive(&mut self) -> bool {
        let Some(shared) = self.0.upgrade() else { return true };
        let mut rx = shared.rx.lock();
        let can = !rx.paused && rx.held.is_none() && rx.queue.is_some();
        rx.blocked |= !can;
        can
    }

    fn receive(&mut self, frame: &[u8]) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut rx = shared.rx.lock();
        if rx.held.is_none() && frame.len() >= HEADER {
            rx.held = rx.deliver(frame);
        }
    }
}

impl Rx {
    /// Gives a packet to the driver; what is left of it, if it has not enough buffers.
    fn deliver(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let queue = self.queue.as_ref()?;
        let rest = match Self::fill(queue, packet) {
            Some(rest) if queue.enable_notification() => Self::fill(queue, &rest),
            rest => rest,
        };
        queue.signal();
        rest
    }

    fn fill(queue: &Virtqueue, packet: &[u8]) -> Option<Vec<u8>> {
        let (head, mut data) = packet.split_first_chunk::<HEADER>()?;
        let mut head = *head;
        loop {
            let Some(mut chain) = queue.pop() else {
                if queue.is_broken() {
                    return None;
                }
                head[LENGTH].copy_from_slice(&(data.len() as u32).to_le_bytes());
                return Some([&head[..], data].concat());
            };
            let room = chain.writable();
            if room < HEADER as u64 || (room == HEADER as u64 && !data.is_empty()) {
                queue.fail("a receive buffer without room for a packet");
                return None;
            }
            let n = data.len().min(usize::try_from(room).unwrap_or(usize::MAX) - HEADER);
            head[LENGTH].copy_from_slice(&(n as u32).to_le_bytes());
            chain.write(&head);
            chain.write(&data[..n]);
            queue.push(chain);
            data = &data[n..];
            if data.is_empty() {
                return None;
            }
        }
    }
}

impl Shared {
    /// Tells the back end that a guest begins that knows of no connections.
    fn connect(self: &Arc<Self>) {
        self.endpoint.set_receiver(Some(Box::new(Receiver(Arc::downgrade(self)))));
    }

    /// Tries again with a held packet and lets the back end go on.
    fn retry(&self) {
        let mut rx = self.rx.lock();
        if rx.paused || rx.queue.is_none() {
            return;
        }
        if let Some(packet) = rx.held.take() {
            rx.held = rx.deliver(&packet);
        }
        let go_on = rx.held.is_none() && std::mem::take(&mut rx.blocked);
        drop(rx);
        if go_on {
            self.endpoint.accept_input();
        }
    }
}

impl Vsock {
    fn send(&mut self, chain: &mut Chain) {
        let Some(header) = chain.read_array::<HEADER>() else {
            return self.log.guest_error(format_args!("a packet without header"));
        };
        let length = ::device::le_value(&header[LENGTH]);
        let carries = header[OPERATION] == RW;
        if length > MOST.min(chain.readable()) || (length != 0 && !carries) {
            return self.log.guest_error(format_args!("a packet that says it has {length} bytes"));
        }
        self.data.resize(length as usize, 0);
        chain.read(&mut self.data);
        self.shared.endpoint.send(&[&header, &self.data]);
    }

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

impl Drop for Vsock {
    fn drop(&mut self) {
        self.shared.endpoint.set_receiver(None);
    }
}

::device::state! {
    /// State of the device, version 1.
    struct V1 {
        1 => held: Option<Bytes>, 2 => lost: bool, 3 => running: bool,
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.cid.to_le_bytes(), offset, data);
    }

    fn attach(&mut self, _notifier: Arc<dyn Notifier>) {}

    fn activate(&mut self, _features: u64) {}

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        match index {
            queue::RX => self.shared.rx.lock().queue = Some(queue),
            queue::TX => self.tx = Some(queue),
            _ => self.event = Some(queue),
        }
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        let queue = match index {
            queue::RX => self.shared.rx.lock().queue.take(),
            queue::TX => self.tx.take(),
            _ => self.event.take(),
        };
        queue.map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        if self.paused {
            return Progress::Done;
        }
        match index {
            queue::TX => {
                let Some(queue) = self.tx.clone() else { return Progress::Done };
                return queue.drain(|mut chain| {
                    self.send(&mut chain);
                    queue.push(chain);
                    true
                });
            }
            queue::EVENT => self.tell(),
            _ => self.shared.retry(),
        }
        Progress::Done
    }

    fn reset(&mut self) {
        self.lost = false;
        self.data = Vec::new();
        {
            let mut rx = self.shared.rx.lock();
            *rx = Rx { paused: rx.paused, ..Rx::default() };
        }
        self.shared.connect();
    }

    fn save(&self) -> StateBlob {
        let rx = self.shared.rx.lock();
        let state = V1 { held: rx.held.clone().map(Bytes), lost: self.lost, running: rx.queue.is_some() };
        StateBlob::new(KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob, _features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        let fits = |length: usize| (HEADER..=HEADER + MOST as usize).contains(&length);
        if let Some(length) = state.held.as_ref().map(|h| h.0.len()).filter(|n| !fits(*n)) {
            return Err(StateError::new("held", format!("expected a packet, found {length} bytes")));
        }
        self.lost = state.lost || state.running;
        *self.shared.rx.lock() = Rx { paused: self.paused, held: state.held.map(|h| h.0), ..Rx::default() };
        // The connections were those of another process, or of another time.
        self.shared.connect();
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.shared.rx.lock().paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        self.shared.rx.lock().paused = false;
        self.tell();
        self.shared.retry();
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
