//! A guest: smoltcp's stack on the contract's side of the network.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Host};

use net::{Endpoint, NetReceiver};
use net_user::{UserConfig, UserNet};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(crate) const STEP: Duration = Duration::from_secs(60);
/// Length of virtio-net's header.
const VNET: usize = 12;

/// What lies between the network and the guest.
#[derive(Default)]
pub(crate) struct Wire {
    frames: VecDeque<Vec<u8>>,
    /// Every nth frame is lost on its way in.
    pub(crate) lose: Option<usize>,
    /// Frames the guest has room for.
    pub(crate) room: usize,
    seen: usize,
    refused: bool,
}

struct Nic(Arc<Mutex<Wire>>);

impl NetReceiver for Nic {
    fn can_receive(&mut self) -> bool {
        let mut wire = self.0.lock().unwrap();
        let can = wire.frames.len() < wire.room;
        wire.refused |= !can;
        can
    }
    fn receive(&mut self, frame: &[u8]) {
        let mut wire = self.0.lock().unwrap();
        wire.seen += 1;
        if wire.lose.is_none_or(|n| !wire.seen.is_multiple_of(n)) {
            wire.frames.push_back(frame[VNET..].to_vec());
        }
    }
}

pub(crate) struct Link {
    net: Arc<UserNet>,
    wire: Arc<Mutex<Wire>>,
}

pub(crate) struct Rx(Vec<u8>);
impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}
pub(crate) struct Tx(Arc<UserNet>);
impl TxToken for Tx {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send(&[&[0; VNET], &frame]);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx;
    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx)> {
        let mut wire = self.wire.lock().unwrap();
        let frame = wire.frames.pop_front();
        let retry = std::mem::take(&mut wire.refused);
        drop(wire);
        if retry {
            self.net.accept_input();
        }
        Some((Rx(frame?), Tx(self.net.clone())))
    }
    fn transmit(&mut self, _: Instant) -> Option<Tx> {
        Some(Tx(self.net.clone()))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = 1514;
        c
    }
}

pub(crate) struct Guest {
    pub(crate) net: Arc<UserNet>,
    pub(crate) wire: Arc<Mutex<Wire>>,
    link: Link,
    pub(crate) iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    start: Host,
}

impl Guest {
    /// A guest with QEMU's addresses.
    pub(crate) fn new(config: UserConfig) -> Self {
        let mut guest = Self::bare(config);
        guest.iface.update_ip_addrs(|all| {
            all.push("10.0.2.15/24".parse::<IpCidr>().unwrap()).unwrap();
            all.push("fec0::15/64".parse::<IpCidr>().unwrap()).unwrap();
        });
        guest.iface.routes_mut().add_default_ipv4_route("10.0.2.2".parse().unwrap()).unwrap();
        guest.iface.routes_mut().add_default_ipv6_route("fec0::2".parse().unwrap()).unwrap();
        guest
    }

    /// A guest without addresses.
    pub(crate) fn bare(config: UserConfig) -> Self {
        let net = Arc::new(UserNet::new(config).unwrap());
        let wire = Arc::new(Mutex::new(Wire { room: 64, ..Wire::default() }));
        net.set_receiver(Some(Box::new(Nic(wire.clone()))));
        let mut link = Link { net: net.clone(), wire: wire.clone() };
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let iface = Interface::new(config, &mut link, Instant::ZERO);
        Guest { net, wire, link, iface, sockets: SocketSet::new(Vec::new()), start: Host::now() }
    }

    pub(crate) fn poll(&mut self) {
        let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
        if matches!(self.iface.poll(now, &mut self.link, &mut self.sockets), smoltcp::iface::PollResult::None)
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Polls until `done` gives something.
    pub(crate) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Host::now() + STEP;
        loop {
            self.poll();
            if let Some(value) = done(self) {
                return value;
            }
            assert!(Host::now() < end, "timed out: {what}");
        }
    }

    pub(crate) fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 << 10]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Begins a connection from `port`.
    pub(crate) fn connect(&mut self, to: SocketAddr, port: u16) -> SocketHandle {
        let handle = self.tcp();
        let to = IpEndpoint::from(to);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), to, port).unwrap();
        handle
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle)
    }

    /// Sends `data`, ends, and gives what comes back until the other side has ended.
    pub(crate) fn exchange(&mut self, handle: SocketHandle, data: &[u8]) -> Vec<u8> {
        let (mut sent, mut back, mut ended) = (0, Vec::new(), false);
        self.until("exchange", |guest| {
            let socket = guest.socket(handle);
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        back.extend_from_slice(bytes);
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            if sent < data.len() && socket.can_send() {
                sent += socket.send_slice(&data[sent..]).unwrap();
            }
            if sent == data.len() && !ended && socket.may_send() {
                socket.close();
                ended = true;
            }
            (ended && !socket.may_recv() && !socket.can_recv()).then_some(())
        });
        back
    }
}

/// Bytes that are not the same anywhere.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut x = 0x1234_5678u32;
    (0..length)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x as u8
        })
        .collect()
}
