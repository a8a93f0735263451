//! The network contract: how a NIC and a packet backend meet, and the simple backends.
//!
//! An [`Endpoint`] is the host's end of a NIC's cable. The NIC sends frames into it and sets a [`NetReceiver`]
//! for what comes back. Frames are Ethernet frames without FCS, at least 14 bytes, at most [`MAX_FRAME`].
//!
//! Delivery is on the backend's own thread, never inside somebody's `send`: two NICs on one hub can thus send to
//! each other while each is locked. A backend holds back what its NIC has no room for, and drops beyond a bound.

#[cfg(unix)]
mod address;
mod cable;
#[cfg(unix)]
mod dgram;
mod error;
#[cfg(unix)]
mod fd;
pub mod filter;
mod flow;
mod hub;
mod join;
#[cfg(target_os = "linux")]
mod l2tpv3;
#[cfg(target_os = "linux")]
mod passt;
mod rss;
#[cfg(unix)]
mod stream;
#[cfg(target_os = "linux")]
mod tap;
#[cfg(target_os = "linux")]
mod vde;
#[cfg(target_os = "linux")]
mod vhost;
#[cfg(unix)]
mod wake;
#[cfg(target_os = "linux")]
mod xdp;

use std::sync::Arc;

use parking_lot::Mutex;

#[cfg(unix)]
pub use address::{Address, InetRules, IpVersion, is_socket};
pub use cable::{Cable, Position, Reentry};
#[cfg(unix)]
pub use dgram::Dgram;
pub use error::NetError;
pub use flow::flow_hash;
pub use hub::{Hub, HubPort};
pub use join::Join;
#[cfg(target_os = "linux")]
pub use l2tpv3::{L2tpv3, L2tpv3Options};
#[cfg(target_os = "linux")]
pub use passt::{PasstOptions, passt};
pub use rss::{Flow, FlowPorts, RSS_KEY};
#[cfg(unix)]
pub use stream::{Stream, StreamEvent, StreamPeer};
#[cfg(target_os = "linux")]
pub use tap::{Tap, TapOptions, TapSource, TapVhost};
#[cfg(target_os = "linux")]
pub use vde::{Vde, VdeOptions};
#[cfg(target_os = "linux")]
pub use vhost::{VhostEvents, VhostPeer, VhostUser};
#[cfg(target_os = "linux")]
pub use xdp::{Xdp, XdpMode, XdpOptions};

/// Longest frame in bytes: 64 KiB of segmentation offload, with headers.
pub const MAX_FRAME: usize = 65550 + 256;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The locally administered address that QEMU gives to NIC number `index`.
    pub fn default_for(index: u8) -> Self {
        MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56u8.wrapping_add(index)])
    }

    /// Reads `52:54:00:12:34:56` (or with dashes).
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split([':', '-']);
        let mut mac = [0; 6];
        for byte in &mut mac {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(MacAddr(mac))
    }

    /// Whether it addresses a group.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The host's end of a NIC's cable. Shared by the NIC and the backend's thread.
///
/// The NIC calls these with its own lock held, and the backend calls the receiver, which takes that lock: an
/// implementation must hold none of the locks that these methods take while it calls the receiver.
pub trait Endpoint: Send + Sync {
    /// Sends one frame, given in pieces. Never blocks; `false` if it was dropped.
    fn send(&self, frame: &[&[u8]]) -> bool;

    /// Sends one frame whose bytes, behind the virtio-net header `head`, the endpoint may keep: it leaves another buffer in
    /// their place, of any content and length.
    fn send_owned(&self, head: &[u8], frame: &mut Vec<u8>) -> bool {
        self.send(&[head, frame])
    }

    /// Sets where frames go, replacing an earlier receiver. Without one they are dropped.
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>);

    /// The receiver has room again after [`NetReceiver::can_receive`] said no.
    fn accept_input(&self) {}

    /// Whether the cable is plugged in and the other side there.
    fn is_up(&self) -> bool {
        true
    }

    /// Bytes of virtio-net header that precede each frame in both directions (0, 10 or 12): offloads pass
    /// through to the host.
    fn vnet_header(&self) -> usize {
        0
    }

    /// Whether a frame with that header may be several UDP datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`), in both directions.
    fn has_uso(&self) -> bool {
        false
    }

    /// Who can serve a virtio card's own rings, in the place of frames that come and go by this trait. What can be had may
    /// change, of which the card hears by [`NetReceiver::rings_changed`].
    #[cfg(target_os = "linux")]
    fn rings(&self) -> Option<std::sync::Arc<dyn ::vhost::Backend>> {
        None
    }

    /// Whether it serves a card's rings now.
    fn has_rings(&self) -> bool {
        false
    }

    /// Pairs of queues that a card makes the best use of it with.
    fn queues(&self) -> u16 {
        1
    }

    /// The guest has changed which frames it wants.
    fn filter_changed(&self) {}

    /// Sets the length of that header and the offloads the guest takes (bits of virtio-net's
    /// `VIRTIO_NET_F_GUEST_*`); `false` if the backend has none.
    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        let _ = (header, guest_features);
        false
    }
}

/// The NIC's end.
pub trait NetReceiver: Send {
    /// Whether a frame may be given now. If not, the NIC calls [`Endpoint::accept_input`] when that changes.
    fn can_receive(&mut self) -> bool;

    /// Takes a frame. Must cope with not having room: a reset can come between.
    fn receive(&mut self, frame: &[u8]);

    /// The link went up or down.
    fn link(&mut self, up: bool) {
        let _ = up;
    }

    /// What [`Endpoint::rings`] gives is another than before, as it may be after [`NetReceiver::link`] too.
    fn rings_changed(&mut self) {}
}

/// Where an endpoint keeps its receiver: replacing it never waits for a delivery under way.
#[derive(Default)]
pub struct ReceiverSlot(Mutex<Option<SharedReceiver>>);

type SharedReceiver = Arc<Mutex<Box<dyn NetReceiver>>>;

impl ReceiverSlot {
    /// Sets the receiver, or takes it away.
    pub fn set(&self, receiver: Option<Box<dyn NetReceiver>>) {
        *self.0.lock() = receiver.map(|r| Arc::new(Mutex::new(r)));
    }

    /// Gives a frame to the receiver; `false` if it has no room. Without a receiver the frame is dropped.
    pub fn offer(&self, frame: &[u8]) -> bool {
        let Some(receiver) = self.0.lock().clone() else { return true };
        let mut receiver = receiver.lock();
        let room = receiver.can_receive();
        if room {
            receiver.receive(frame);
        }
        room
    }

    #[cfg(unix)]
    pub(crate) fn link(&self, up: bool) {
        let receiver = self.0.lock().clone();
        if let Some(receiver) = receiver {
            receiver.lock().link(up);
        }
    }
}

/// A cable into nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullEndpoint;

impl Endpoint for NullEndpoint {
    fn send(&self, _frame: &[&[u8]]) -> bool {
        true
    }
    fn set_receiver(&self, _receiver: Option<Box<dyn NetReceiver>>) {}
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use crate::NetReceiver;

    /// Passes frames to a channel while open.
    pub(crate) struct Sink {
        pub(crate) open: Arc<AtomicBool>,
        frames: Sender<Vec<u8>>,
    }

    impl Sink {
        pub(crate) fn new() -> (Box<Self>, Arc<AtomicBool>, Receiver<Vec<u8>>) {
            let (frames, received) = channel();
            let open = Arc::new(AtomicBool::new(true));
            (Box::new(Sink { open: open.clone(), frames }), open, received)
        }
    }

    impl NetReceiver for Sink {
        fn can_receive(&mut self) -> bool {
            self.open.load(Ordering::SeqCst)
        }
        fn receive(&mut self, frame: &[u8]) {
            let _ = self.frames.send(frame.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse() {
        let mac = MacAddr::parse("52:54:00:12:34:56").unwrap();
        assert_eq!((mac, mac.to_string().as_str()), (MacAddr::default_for(0), "52:54:00:12:34:56"));
        assert!(!mac.is_multicast());
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:5g", "052:54:00:12:34:56"] {
            assert_eq!(MacAddr::parse(bad), None, "{bad}");
        }
    }
}
