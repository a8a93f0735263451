//! Network card (virtio 1.2, 5.1).
//!
//! Frames to send leave on the notifying thread; frames received come on the backend's thread. A frame for which
//! the driver has no buffers is held, one at most, and the backend is told to wait: nothing is dropped for want
//! of buffers and nothing piles up here. Offloads are offered only if the backend carries their header through.
//!
//! A backend that can serve the driver's rings itself gets them (`direct`), but for the control queue; frames do not pass here
//! then, and are not filtered either.

mod control;
mod feature;
mod rss;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use ::device::{BuildError, Bytes, GuestLog, PropertyValue, StateBlob, StateError, Wires, device_config};
use ::net::{Endpoint, MAX_FRAME, MacAddr, NetReceiver, flow_hash};
use parking_lot::Mutex;

use self::control::Filter;
pub use self::control::RxFilter;
use self::rss::{Hash, Rss};
use crate::chain::Chain;
use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes};
use crate::direct::Direct;
use crate::queue::{QueueState, Virtqueue};

const DEVICE_TYPE: u32 = 1;
const KIND: &str = "virtio-net";
/// Length of the header before each frame, without the hash.
const HEADER: usize = 12;
/// Length of hash, its type and padding, which follow if hashes are reported.
const HASH: usize = 8;
/// The timer by which the card looks at queues that it has back from the backend.
const AGAIN: usize = 0;
/// Shortest frame: an Ethernet header.
const MIN_FRAME: usize = 14;
/// The link is up, in the status of the config space.
const LINK_UP: u16 = 1;
/// The driver is to tell the network where it is, in the same field.
const ANNOUNCE: u16 = 2;
/// The link may or may not take both ways at once, in the config space.
const UNKNOWN_DUPLEX: u8 = 0xff;

device_config! {
    /// Network card.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct NetConfig {
        /// Ethernet address.
        pub mac: Option<String> = None,
        /// Pairs of queues.
        pub queue_pairs: u16 = 1,
        /// Entries of each receive queue.
        pub rx_queue_size: u16 = 256,
        /// Entries of each transmit queue.
        pub tx_queue_size: u16 = 256,
        /// Largest packet the guest should send, in bytes; 0 leaves it to the guest.
        pub host_mtu: u16 = 0,
        /// Let received frames span several buffers.
        pub mrg_rxbuf: bool = true,
        /// Offer a control queue.
        pub ctrl_vq: bool = true,
        /// Offer checksum and segmentation offload, if the backend has it.
        pub offloads: bool = true,
        /// Of these: the guest leaves checksums out.
        pub csum: bool = true,
        /// The guest takes frames without checksums.
        pub guest_csum: bool = true,
        /// The guest sends long TCP segments over IPv4.
        pub host_tso4: bool = true,
        /// The same over IPv6.
        pub host_tso6: bool = true,
        /// The same with congestion notification.
        pub host_ecn: bool = true,
        /// The guest sends several UDP datagrams in a frame.
        pub host_uso: bool = true,
        /// The guest takes long TCP segments over IPv4.
        pub guest_tso4: bool = true,
        /// The same over IPv6.
        pub guest_tso6: bool = true,
        /// The same with congestion notification.
        pub guest_ecn: bool = true,
        /// The guest takes several UDP datagrams in a frame over IPv4.
        pub guest_uso4: bool = true,
        /// The same over IPv6.
        pub guest_uso6: bool = true,
        /// The driver may change later what it takes.
        pub ctrl_guest_offloads: bool = true,
        /// Offer filters of kinds of frames, by the control queue.
        pub ctrl_rx: bool = true,
        /// More of them.
        pub ctrl_rx_extra: bool = true,
        /// Offer a filter of VLANs.
        pub ctrl_vlan: bool = true,
        /// Let the driver set the address.
        pub ctrl_mac_addr: bool = true,
        /// Let the driver tell the network that the guest has moved.
        pub guest_announce: bool = true,
        /// Tell whether the link is up.
        pub status: bool = true,
        /// Spread received frames over queues by a hash, as the driver says.
        pub rss: bool = false,
        /// Report that hash.
        pub hash: bool = false,
        /// Speed of the link in Mbit/s that the driver is told; -1 for none.
        pub speed: Speed = Speed(None),
        /// Whether the link takes both ways at once: half or full.
        pub duplex: Option<String> = None,
        /// Taken as QEMU takes it: sending has one way here (QEMU: timer or bh).
        pub tx: Option<String> = None,
        /// The bit of drivers of before version 1 for long segments of any kind, which is never offered.
        pub gso: bool = true,
        /// Fragments of UDP by the host, which no back end has.
        pub host_ufo: bool = true,
        /// The same by the guest.
        pub guest_ufo: bool = true,
    }
}

/// Mbit/s, if they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speed(Option<u32>);

impl PropertyValue for Speed {
    const TYPE: &'static str = "Mbit/s up to 2147483647, or -1";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "-1" => Some(Speed(None)),
            _ => u32::parse(text).filter(|n| *n <= i32::MAX as u32).map(|n| Speed(Some(n))),
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| "-1".to_owned(), |n| n.to_string())
    }
}

/// The network a card is plugged into; if there is none, the one wired to slot `netdev` is taken.
#[derive(Clone, Default)]
pub struct NetBackend(pub Option<Arc<dyn Endpoint>>);

impl fmt::Debug for NetBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetBackend({})", if self.0.is_some() { "plugged" } else { "none" })
    }
}

impl VirtioConfig for NetConfig {
    type Backend = NetBackend;
    const MMIO_KIND: &'static str = "virtio-net-device";
    const PCI_KIND: &'static str = "virtio-net-pci";
    const TYPE: u16 = 1;
    const PCI_CLASS: u32 = 0x02_00_00;
    const HELP: &'static str = "virtio network card (mmio)";

    fn vectors(&self) -> u16 {
        self.queue_pairs.saturating_mul(2).saturating_add(2)
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn make(self, backend: NetBackend, wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        let mac = match &self.mac {
            None => MacAddr::default_for(0),
            Some(text) => MacAddr::parse(text)
                .filter(|m| !m.is_multicast())
                .ok_or_else(|| wires.bad_property("mac", "expected an address such as 52:54:00:12:34:56"))?,
        };
        for (name, size) in [("rx_queue_size", self.rx_queue_size), ("tx_queue_size", self.tx_queue_size)] {
            if !size.is_power_of_two() || !(16..=1024).contains(&size) {
                return Err(wires.bad_property(name, "expected a power of two from 16 to 1024"));
            }
        }
        if !(1..=64).contains(&self.queue_pairs) || self.queue_pairs > 1 && !self.ctrl_vq {
            return Err(wires.bad_property("queue_pairs", "expected 1 to 64, and ctrl_vq if above 1"));
        }
        if (self.rss || self.hash) && !self.ctrl_vq {
            return Err(wires.bad_property("rss", "expected ctrl_vq=on with rss or hash"));
        }
        if self.host_mtu != 0 && self.host_mtu < 68 {
            return Err(wires.bad_property("host_mtu", "expected 0 or at least 68"));
        }
        for (name, value, words) in
            [("duplex", &self.duplex, ["half", "full"]), ("tx", &self.tx, ["timer", "bh"])]
        {
            if value.as_ref().is_some_and(|v| !words.contains(&v.as_str())) {
                return Err(wires.bad_property(name, format!("expected {} or {}", words[0], words[1])));
            }
        }
        let endpoint = backend.0.unwrap_or_else(|| wires.nic("netdev"));
        #[cfg(target_os = "linux")]
        let find = {
            let endpoint = endpoint.clone();
            Box::new(move || endpoint.rings())
        };
        #[cfg(not(target_os = "linux"))]
        let find = ();
        let direct = Direct::new(find, feature::OWN, AGAIN, wires)?;
        direct.set_wanted(2);
        let shared = Arc::new(Shared {
            endpoint,
            direct,
            log: wires.log(),
            rx: Mutex::new(Rx::new(mac, self.queue_pairs.into())),
        });
        shared.endpoint.set_receiver(Some(Box::new(Receiver(Arc::downgrade(&shared)))));
        Ok(Box::new(NetCard {
            offload: self.offloads && shared.endpoint.vnet_header() != 0,
            uso: shared.endpoint.has_uso(),
            permitted: shared.direct.permitted(),
            tx: vec![None; self.queue_pairs.into()],
            control: None,
            mac,
            features: 0,
            paused: false,
            frame: Vec::new(),
            shared,
            config: self,
        }))
    }
}

/// The card.
pub struct NetCard {
    config: NetConfig,
    /// The address the card was made with.
    mac: MacAddr,
    /// The endpoint passes offloads on.
    offload: bool,
    /// Frames of several datagrams are among them.
    uso: bool,
    /// Features that whoever may get the rings has, and the card's own.
    permitted: u64,
    shared: Arc<Shared>,
    tx: Vec<Option<Arc<Virtqueue>>>,
    control: Option<Arc<Virtqueue>>,
    features: u64,
    paused: bool,
    /// Holds the frame being sent.
    frame: Vec<u8>,
}

/// What the backend's thread needs.
struct Shared {
    endpoint: Arc<dyn Endpoint>,
    direct: Direct,
    log: Arc<GuestLog>,
    rx: Mutex<Rx>,
}

/// The receiving half, and what the control queue sets.
struct Rx {
    queues: Vec<Option<Arc<Virtqueue>>>,
    notifier: Option<Arc<dyn Notifier>>,
    features: u64,
    active: bool,
    paused: bool,
    /// Pairs of queues in use.
    pairs: u16,
    filter: Filter,
    /// How the driver wants frames to be hashed and spread.
    rss: Option<Rss>,
    /// Offloads the guest takes, if it has changed them since it negotiated.
    offloads: Option<u64>,
    /// A frame with its header for which there were no buffers.
    held: Option<Vec<u8>>,
    /// The backend was told to wait.
    blocked: bool,
    /// The guest has come from elsewhere, and its driver is to tell the network so.
    announce: bool,
    /// It has not been interrupted for that yet.
    arrived: bool,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Dropped,
    NoRoom,
}

struct Receiver(Weak<Shared>);

impl NetReceiver for Receiver {
    fn can_receive(&mut self) -> bool {
        let Some(shared) = self.0.upgrade() else { return true };
        if shared.direct.is_on() {
            // What is still under way by another path is lost.
            return true;
        }
        let mut rx = shared.rx.lock();
        let can = !rx.paused && rx.held.is_none();
        rx.blocked |= !can;
        can
    }

    fn receive(&mut self, frame: &[u8]) {
        let Some(shared) = self.0.upgrade() else { return };
        let Some(_work) = shared.direct.work() else { return };
        let length = shared.endpoint.vnet_header();
        shared.rx.lock().receive(frame, length, &shared.log);
    }

    fn link(&mut self, _up: bool) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.direct.backend_changed();
        let rx = shared.rx.lock();
        if let (true, Some(notifier)) = (rx.active && rx.features & feature::STATUS != 0, &rx.notifier) {
            notifier.config_changed();
        }
    }

    fn rings_changed(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.direct.backend_changed();
        }
    }
}

impl Rx {
    fn new(mac: MacAddr, pairs: usize) -> Self {
        Rx {
            queues: vec![None; pairs],
            notifier: None,
            features: 0,
            active: false,
            paused: false,
            pairs: 1,
            filter: Filter::new(mac),
            rss: None,
            offloads: None,
            held: None,
            blocked: false,
            announce: false,
            arrived: false,
        }
    }

    /// Takes a frame that has `length` bytes of header before it.
    fn receive(&mut self, frame: &[u8], length: usize, log: &GuestLog) {
        let Some((head, payload)) = frame.split_at_checked(length) else { return };
        let wanted = (MIN_FRAME..=MAX_FRAME).contains(&payload.len()) && self.filter.admits(payload);
        if !self.active || !wanted || self.held.is_some() {
            return;
        }
        let mut header = [0; HEADER];
        let kept = head.len().min(HEADER - 2);
        header[..kept].copy_from_slice(&head[..kept]);
        if self.deliver(&header, payload, log) == Fate::NoRoom {
            self.held = Some([&header[..], payload].concat());
        }
    }

    /// The queue for a frame: one flow stays on one queue.
    fn queue_for(&self, payload: &[u8], hash: Hash) -> Option<Arc<Virtqueue>> {
        if let Some(index) = self.rss.as_ref().and_then(|r| r.queue(hash)) {
            return self.queues.get(usize::from(index))?.clone();
        }
        let pairs = usize::from(self.pairs.max(1));
        let index = if pairs == 1 { 0 } else { flow_hash(payload) as usize % pairs };
        self.queues.get(index)?.clone()
    }

    fn deliver(&self, header: &[u8; HEADER], payload: &[u8], log: &GuestLog) -> Fate {
        let hash = self.rss.as_ref().map(|r| r.hash(payload)).unwrap_or_default();
        let Some(queue) = self.queue_for(payload, hash) else { return Fate::Dropped };
        let mut whole = [0; HEADER + HASH];
        whole[..HEADER].copy_from_slice(header);
        whole[HEADER..HEADER + 4].copy_from_slice(&hash.value.to_le_bytes());
        whole[HEADER + 4..HEADER + 6].copy_from_slice(&hash.report.to_le_bytes());
        let header = &whole[..header_length(self.features)];
        match self.fill(&queue, header, payload, log) {
            // The driver may have added buffers before it saw that it is to tell.
            Fate::NoRoom if queue.enable_notification() => self.fill(&queue, header, payload, log),
            fate => fate,
        }
    }

    fn fill(&self, queue: &Virtqueue, header: &[u8], payload: &[u8], log: &GuestLog) -> Fate {
        let needed = (header.len() + payload.len()) as u64;
        let most = if self.features & feature::MRG_RXBUF != 0 { queue.layout().size.into() } else { 1 };
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0;
        while room < needed && chains.len() < most {
            let Some(chain) = queue.pop() else { break };
            if chain.writable() < header.len() as u64 {
                queue.fail("a receive buffer without room for a header");
                return Fate::Dropped;
            }
            room += chain.writable();
            chains.push(chain);
        }
        if room < needed {
            let full = chains.len() == most;
            chains.into_iter().rev().for_each(|chain| queue.unpop(chain));
            if full {
                log.guest_error(format_args!(
                    "a frame of {} bytes exceeds the receive buffers",
                    payload.len()
                ));
                return Fate::Dropped;
            }
            return if queue.is_broken() { Fate::Dropped } else { Fate::NoRoom };
        }
        let mut whole = [0; HEADER + HASH];
        let header = {
            whole[..header.len()].copy_from_slice(header);
            whole[HEADER - 2..HEADER].copy_from_slice(&(chains.len() as u16).to_le_bytes());
            &whole[..header.len()]
        };
        let mut rest = payload;
        for (i, chain) in chains.iter_mut().enumerate() {
            if i == 0 {
                chain.write(header);
            }
            let n = chain.write(rest);
            rest = &rest[n..];
        }
        queue.push_all(chains);
        queue.signal();
        Fate::Delivered
    }

    /// Tries again with a held frame; true if the backend may go on.
    fn retry(&mut self, log: &GuestLog) -> bool {
        if self.paused {
            return false;
        }
        if let Some(frame) = self.held.take() {
            let fate = match frame.split_first_chunk::<HEADER>() {
                Some((header, payload)) if self.active => self.deliver(header, payload, log),
                _ => Fate::Dropped,
            };
            if fate == Fate::NoRoom {
                self.held = Some(frame);
                return false;
            }
        }
        std::mem::take(&mut self.blocked)
    }
}

/// Length of the header with these features: one of before version 1 ends before the number of buffers if there is only one.
fn header_length(features: u64) -> usize {
    if features & feature::HASH_REPORT != 0 {
        HEADER + HASH
    } else if features & (feature::MRG_RXBUF | crate::device::feature::VERSION_1) != 0 {
        HEADER
    } else {
        HEADER - 2
    }
}

impl Shared {
    /// Tries again with a held frame and lets the backend go on.
    fn retry(&self) {
        let go_on = {
            let work = self.direct.work();
            let mut rx = self.rx.lock();
            if work.is_some() {
                rx.retry(&self.log)
            } else {
                // It has come by another path.
                rx.held = None;
                std::mem::take(&mut rx.blocked)
            }
        };
        if go_on {
            self.endpoint.accept_input();
        }
    }
}

impl NetCard {
    /// Its receive filter.
    pub fn rx_filter(&self) -> RxFilter {
        self.shared.rx.lock().filter.describe()
    }

    /// Has the driver tell the network where the guest is, if it knows how.
    pub fn announce(&self) {
        let mut rx = self.shared.rx.lock();
        if rx.active && rx.features & feature::GUEST_ANNOUNCE != 0 {
            rx.announce = true;
            rx.notifier.iter().for_each(|n| n.config_changed());
        }
    }

    /// Sends what a buffer holds.
    fn send(&mut self, chain: &mut Chain) {
        let length = header_length(self.features);
        let mut header = [0; HEADER];
        let (own, hash) = (length.min(HEADER), length.saturating_sub(HEADER));
        if chain.read(&mut header[..own]) != own || chain.skip(hash as u64) != hash as u64 {
            return self.shared.log.guest_error(format_args!("a frame without header"));
        }
        let length = chain.readable();
        if !(MIN_FRAME as u64..=MAX_FRAME as u64).contains(&length) {
            return self.shared.log.guest_error(format_args!("a frame of {length} bytes"));
        }
        self.frame.resize(length as usize, 0);
        chain.read(&mut self.frame);
        // The number of buffers means something on reception only; the rest needs to be agreed on.
        header[HEADER - 2..].fill(0);
        if self.features & feature::HOST == 0 {
            header.fill(0);
        }
        let head = &header[..self.shared.endpoint.vnet_header().min(HEADER)];
        self.shared.endpoint.send_owned(head, &mut self.frame);
    }

    /// Index of the control queue: after all pairs the driver knows of (virtio 1.2, 5.1.2).
    fn control_index(&self) -> usize {
        if self.features & (feature::MQ | feature::RSS) != 0 { 2 * self.tx.len() } else { 2 }
    }

    fn set_offloads(&self, offloads: u64) {
        if self.offload {
            self.shared.endpoint.set_offload(HEADER, offloads);
        }
    }

    /// What is agreed on, with the offloads that the guest takes now.
    fn agreed(&self, offloads: u64) -> u64 {
        self.features & !feature::GUEST | offloads
    }
}

impl Drop for NetCard {
    fn drop(&mut self) {
        self.shared.direct.close();
        self.shared.endpoint.set_receiver(None);
    }
}

::device::state! {
    /// State of the card, version 1.
    struct V1 {
        1 => pairs: u16, 2 => filter: control::SavedFilter, 3 => offloads: Option<u64>, 4 => held: Option<Bytes>,
        5 => rss: Option<rss::SavedRss>,
    }
}

impl VirtioDevice for NetCard {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let c = &self.config;
        let optional = [
            (c.mrg_rxbuf, feature::MRG_RXBUF),
            (c.status, feature::STATUS),
            (c.ctrl_vq, feature::CTRL_VQ),
            (c.ctrl_rx, feature::CTRL_RX),
            (c.ctrl_rx_extra, feature::CTRL_RX_EXTRA),
            (c.ctrl_vlan, feature::CTRL_VLAN),
            (c.ctrl_mac_addr, feature::CTRL_MAC_ADDR),
            (c.guest_announce, feature::GUEST_ANNOUNCE),
            (c.queue_pairs > 1, feature::MQ),
            (c.host_mtu != 0, feature::MTU),
            (c.rss, feature::RSS),
            (c.hash, feature::HASH_REPORT),
            (c.csum, feature::CSUM),
            (c.guest_csum, feature::GUEST_CSUM),
            (c.host_tso4, feature::HOST_TSO4),
            (c.host_tso6, feature::HOST_TSO6),
            (c.host_ecn, feature::HOST_ECN),
            (c.host_uso, feature::HOST_USO),
            (c.guest_tso4, feature::GUEST_TSO4),
            (c.guest_tso6, feature::GUEST_TSO6),
            (c.guest_ecn, feature::GUEST_ECN),
            (c.guest_uso4, feature::GUEST_USO4),
            (c.guest_uso6, feature::GUEST_USO6),
            (c.ctrl_guest_offloads, feature::CTRL_GUEST_OFFLOADS),
            (c.speed.0.is_some() || c.duplex.is_some(), feature::SPEED_DUPLEX),
        ];
        let mut all = optional.iter().filter(|(on, _)| *on).fold(feature::MAC, |all, (_, bits)| all | bits);
        all &= self.permitted;
        if !self.offload {
            all &= !(feature::GUEST | feature::HOST | feature::CTRL_GUEST_OFFLOADS);
        } else if !self.uso {
            all &= !feature::USO;
        }
        // What needs another that is not offered is not either.
        for (bits, needed) in feature::NEEDS {
            all &= if all & needed == 0 { !bits } else { !0 };
        }
        all
    }

    fn permitted(&self) -> u64 {
        self.permitted
    }

    fn accepts(&self, features: u64) -> bool {
        feature::NEEDS.iter().all(|(bits, needed)| features & bits == 0 || features & needed != 0)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pair = [self.config.rx_queue_size, self.config.tx_queue_size];
        let mut sizes = pair.repeat(self.tx.len());
        if self.config.ctrl_vq {
            sizes.push(64);
        }
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 24];
        space[..6].copy_from_slice(&self.shared.rx.lock().filter.mac.0);
        let mut status = if self.shared.endpoint.is_up() { LINK_UP } else { 0 };
        if self.shared.rx.lock().announce {
            status |= ANNOUNCE;
        }
        space[6..8].copy_from_slice(&status.to_le_bytes());
        space[8..10].copy_from_slice(&self.config.queue_pairs.to_le_bytes());
        space[10..12].copy_from_slice(&self.config.host_mtu.to_le_bytes());
        if self.features() & feature::SPEED_DUPLEX != 0 {
            space[12..16].copy_from_slice(&self.config.speed.0.unwrap_or(u32::MAX).to_le_bytes());
            space[16] = match self.config.duplex.as_deref() {
                Some("half") => 0,
                Some(_) => 1,
                None => UNKNOWN_DUPLEX,
            };
        }
        if self.config.rss || self.config.hash {
            space[17] = rss::KEY as u8;
            space[18..20].copy_from_slice(&(rss::TABLE as u16).to_le_bytes());
            space[20..].copy_from_slice(&rss::TYPES.to_le_bytes());
        }
        config_bytes(&space, offset, data);
    }

    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        self.shared.direct.attach(notifier.clone());
        self.shared.rx.lock().notifier = Some(notifier);
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        let offloads = {
            let mut rx = self.shared.rx.lock();
            rx.features = features;
            rx.active = true;
            rx.filter.filters_vlans = features & feature::CTRL_VLAN != 0;
            rx.offloads.unwrap_or(features & feature::GUEST)
        };
        self.set_offloads(offloads);
        self.shared.direct.set_features(self.agreed(offloads));
    }

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        if index != self.control_index() {
            self.shared.direct.start_queue(index, &queue);
        }
        if index == self.control_index() {
            self.control = Some(queue);
        } else if index % 2 == 1 {
            self.tx[index / 2] = Some(queue);
        } else if let Some(slot) = self.shared.rx.lock().queues.get_mut(index / 2) {
            *slot = Some(queue);
        }
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        if index != self.control_index() {
            self.shared.direct.stop_queue(index);
        }
        let queue = if index == self.control_index() {
            self.control.take()
        } else if index % 2 == 1 {
            self.tx[index / 2].take()
        } else {
            self.shared.rx.lock().queues.get_mut(index / 2).and_then(Option::take)
        };
        queue.map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        if self.paused {
            return Progress::Done;
        }
        if index == self.control_index() {
            let Some(queue) = self.control.clone() else { return Progress::Done };
            return queue.drain(|mut chain| {
                self.control(&queue, &mut chain);
                queue.push(chain);
                true
            });
        }
        if self.shared.direct.kick(index) {
            return Progress::Done;
        }
        if index % 2 == 1 {
            let Some(queue) = self.tx[index / 2].clone() else { return Progress::Done };
            return queue.drain(|mut chain| {
                self.send(&mut chain);
                queue.push(chain);
                true
            });
        }
        let queue = self.shared.rx.lock().queues.get(index / 2).cloned().flatten();
        if let Some(queue) = queue {
            // Until frames lack buffers again.
            queue.disable_notification();
        }
        self.shared.retry();
        Progress::Done
    }

    fn reset(&mut self) {
        self.features = 0;
        self.shared.direct.reset();
        self.shared.direct.set_wanted(2);
        self.frame = Vec::new();
        {
            let mut rx = self.shared.rx.lock();
            let (paused, blocked, notifier) = (rx.paused, rx.blocked, rx.notifier.take());
            *rx = Rx { paused, blocked, notifier, ..Rx::new(self.mac, self.tx.len()) };
        }
        self.set_offloads(0);
        self.shared.retry();
    }

    fn save(&self) -> StateBlob {
        let rx = self.shared.rx.lock();
        let state = V1 {
            pairs: rx.pairs,
            filter: rx.filter.save(),
            offloads: rx.offloads,
            held: rx.held.clone().map(Bytes),
            rss: rx.rss.as_ref().map(Rss::save),
        };
        StateBlob::new(KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob, features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        if !(1..=self.config.queue_pairs).contains(&state.pairs) {
            let most = self.config.queue_pairs;
            return Err(StateError::new("pairs", format!("expected 1 to {most}, found {}", state.pairs)));
        }
        let filter = Filter::restore(&state.filter).map_err(|e| e.within("filter"))?;
        let length = state.held.as_ref().map_or(HEADER + MIN_FRAME, |h| h.0.len());
        if !(HEADER + MIN_FRAME..=HEADER + MAX_FRAME).contains(&length) {
            return Err(StateError::new("held", format!("expected a frame, found {length} bytes")));
        }
        if state.offloads.is_some_and(|o| o & !feature::GUEST != 0) {
            return Err(StateError::new("offloads", "expected offloads that are offered"));
        }
        let pairs = self.config.queue_pairs;
        let rss = state.rss.as_ref().map(|r| Rss::restore(r, pairs)).transpose();
        let rss = rss.map_err(|e| e.within("rss"))?;
        self.shared.direct.set_wanted(2 * usize::from(state.pairs));
        let mut rx = self.shared.rx.lock();
        rx.rss = rss;
        rx.pairs = state.pairs;
        rx.filter = filter;
        rx.offloads = state.offloads;
        rx.held = state.held.map(|h| h.0);
        rx.active = false;
        // Switches have learnt another place for the guest's address.
        rx.announce = features & feature::GUEST_ANNOUNCE != 0;
        rx.arrived = rx.announce;
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
        self.shared.direct.set_running(false);
        self.shared.rx.lock().paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        {
            let mut rx = self.shared.rx.lock();
            rx.paused = false;
            if std::mem::take(&mut rx.arrived)
                && let Some(notifier) = &rx.notifier
            {
                notifier.config_changed();
            }
        }
        self.shared.retry();
        self.shared.direct.set_running(true);
    }

    fn reach_changed(&mut self) {
        self.shared.direct.update();
    }

    fn timer(&mut self, _id: usize) {
        if !self.shared.direct.look() {
            return;
        }
        for index in 0..2 * self.tx.len() {
            if self.notify(index) == Progress::More {
                self.shared.direct.look_again();
            }
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
