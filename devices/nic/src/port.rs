//! A card's end of its cable: frames that come in wait here until the card, under its own lock, takes them. A back end may
//! have a virtio header before each frame, which ends here.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Waker, Wires};
use net::{Endpoint, MAX_FRAME, MacAddr, NetReceiver, NullEndpoint};
use parking_lot::Mutex;

/// Frames that wait for a card; a back end holds what comes beyond that.
const WAITING: usize = 64;

/// What a card's config says its cable leads to; the one wired to slot `netdev` if it is empty.
#[derive(Clone, Default)]
pub struct NicBackend(pub Option<Arc<dyn Endpoint>>);

impl fmt::Debug for NicBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "NicBackend" } else { "no NicBackend" })
    }
}

struct Shared {
    frames: Mutex<VecDeque<Vec<u8>>>,
    up: AtomicBool,
    waker: Waker,
}

/// The port.
pub(crate) struct Port {
    endpoint: Arc<dyn Endpoint>,
    shared: Arc<Shared>,
}

impl Port {
    /// Plugs the cable in; the card is woken with `waker` when a frame has come or the link has changed.
    pub(crate) fn new(backend: &NicBackend, wires: &Wires, waker: Waker) -> Self {
        let endpoint = backend.0.clone().unwrap_or_else(|| wires.nic("netdev"));
        // Frames as they are: a card of old does not know what a host could do for it.
        endpoint.set_offload(endpoint.vnet_header(), 0);
        let up = AtomicBool::new(endpoint.is_up());
        let shared = Arc::new(Shared { frames: Mutex::default(), up, waker });
        endpoint
            .set_receiver(Some(Box::new(Receiver { shared: shared.clone(), endpoint: endpoint.clone() })));
        Port { endpoint, shared }
    }

    /// Sends a frame; what is too short or too long for a cable is dropped.
    pub(crate) fn send(&self, frame: &[u8]) {
        if (14..=MAX_FRAME).contains(&frame.len()) {
            // An empty header, where the back end wants one: nothing is left for the host to do.
            let header = [0; 12];
            self.endpoint.send(&[&header[..self.endpoint.vnet_header().min(12)], frame]);
        }
    }

    /// Takes the next frame if `fits` says that there is room for it.
    pub(crate) fn take(&self, fits: impl FnOnce(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut frames = self.shared.frames.lock();
        if !frames.front().is_some_and(|frame| fits(frame)) {
            return None;
        }
        frames.pop_front()
    }

    /// Lets the back end give more, after frames have been taken.
    pub(crate) fn taken(&self) {
        self.endpoint.accept_input();
    }

    /// Drops what waits.
    pub(crate) fn clear(&self) {
        self.shared.frames.lock().clear();
        self.endpoint.accept_input();
    }

    pub(crate) fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Relaxed)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.endpoint.set_receiver(None);
        self.endpoint = Arc::new(NullEndpoint);
    }
}

/// The back end's way to the card. It holds the back end, until the port takes it away.
struct Receiver {
    shared: Arc<Shared>,
    endpoint: Arc<dyn Endpoint>,
}

impl NetReceiver for Receiver {
    fn can_receive(&mut self) -> bool {
        self.shared.frames.lock().len() < WAITING
    }

    fn receive(&mut self, frame: &[u8]) {
        let Some(frame) = frame.get(self.endpoint.vnet_header()..) else { return };
        let mut frames = self.shared.frames.lock();
        if frames.len() < WAITING {
            frames.push_back(frame.to_vec());
        }
        drop(frames);
        self.shared.waker.wake();
    }

    fn link(&mut self, up: bool) {
        self.shared.up.store(up, Ordering::Relaxed);
        self.shared.waker.wake();
    }
}

/// The address a property gives, or a default for a card that has none.
pub(crate) fn address(mac: Option<&String>, wires: &Wires) -> Result<MacAddr, device::BuildError> {
    match mac {
        None => Ok(MacAddr::default_for(0)),
        Some(text) => MacAddr::parse(text).filter(|mac| !mac.is_multicast()).ok_or_else(|| {
            wires.bad_property("mac", "expected the address of one card, as 52:54:00:12:34:56")
        }),
    }
}
