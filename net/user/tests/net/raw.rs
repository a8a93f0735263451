//! A guest that sends and takes single packets: what a stack would never do can be done.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use net::{Endpoint, NetReceiver};
use net_user::{UserConfig, UserNet};
use smoltcp::wire::{IpProtocol, checksum};

use crate::guest::{MAC, STEP};

const VNET: usize = 12;
const US: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;

type Frames = Arc<(Mutex<VecDeque<Vec<u8>>>, Condvar)>;

struct Nic(Frames);

impl NetReceiver for Nic {
    fn can_receive(&mut self) -> bool {
        true
    }
    fn receive(&mut self, frame: &[u8]) {
        self.0.0.lock().unwrap().push_back(frame[VNET..].to_vec());
        self.0.1.notify_one();
    }
}

/// What a TCP segment says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// An IPv4 packet from the network.
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Raw {
    pub(crate) net: UserNet,
    frames: Frames,
}

/// An IPv4 packet of the guest's; `flags` is the word with flags and offset.
pub(crate) fn ipv4(dst: Ipv4Addr, protocol: u8, (hops, flags): (u8, u16), payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0];
    p.extend((20 + payload.len() as u16).to_be_bytes());
    p.extend([0, 7]);
    p.extend(flags.to_be_bytes());
    p.extend([hops, protocol, 0, 0]);
    p.extend(US.octets());
    p.extend(dst.octets());
    let sum = !checksum::data(&p);
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p.extend(payload);
    p
}

/// A UDP datagram; without checksum, which IPv4 allows.
pub(crate) fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut d = Vec::new();
    [from, to, 8 + data.len() as u16, 0].iter().for_each(|n| d.extend(n.to_be_bytes()));
    d.extend(data);
    d
}

impl Raw {
    pub(crate) fn new(config: UserConfig) -> Self {
        let net = UserNet::new(config).unwrap();
        let frames = Frames::default();
        let raw = Raw { net, frames };
        raw.listen();
        // The network learns our address.
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(MAC);
        arp.extend(US.octets());
        arp.extend([0; 6]);
        arp.extend(GATEWAY.octets());
        raw.ethernet(0x0806, &arp);
        raw
    }

    /// Takes frames from now on.
    pub(crate) fn listen(&self) {
        self.net.set_receiver(Some(Box::new(Nic(self.frames.clone()))));
    }

    pub(crate) fn ethernet(&self, kind: u16, payload: &[u8]) {
        let mut frame = vec![0; VNET];
        frame.extend([0x52, 0x55, 10, 0, 2, 2]);
        frame.extend(MAC);
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        assert!(self.net.send(&[&frame]));
    }

    /// Sends an IPv4 packet.
    pub(crate) fn ip(&self, packet: &[u8]) {
        self.ethernet(0x0800, packet);
    }

    /// Sends a segment to the gateway.
    pub(crate) fn tcp(&self, s: &Tcp) {
        let mut t = Vec::new();
        t.extend(s.from.to_be_bytes());
        t.extend(s.to.to_be_bytes());
        t.extend(s.seq.to_be_bytes());
        t.extend(s.ack.to_be_bytes());
        t.extend([(((20 + s.options.len()) / 4) << 4) as u8, s.flags]);
        t.extend(s.window.to_be_bytes());
        t.extend([0, 0]);
        t.extend(s.urgent.to_be_bytes());
        t.extend(&s.options);
        t.extend(&s.data);
        let pseudo = checksum::pseudo_header(
            &IpAddr::V4(US).into(),
            &IpAddr::V4(GATEWAY).into(),
            IpProtocol::Tcp,
            t.len() as u32,
        );
        let sum = !checksum::combine(&[pseudo, checksum::data(&t)]);
        t[16..18].copy_from_slice(&sum.to_be_bytes());
        self.ip(&ipv4(GATEWAY, 6, (64, 0x4000), &t));
    }

    /// The next Ethernet frame that comes in time.
    fn frame(&self, patience: Duration) -> Option<Vec<u8>> {
        let (lock, changed) = &*self.frames;
        let (mut frames, _) =
            changed.wait_timeout_while(lock.lock().unwrap(), patience, |f| f.is_empty()).unwrap();
        frames.pop_front()
    }

    /// The first IPv4 packet that `take` takes.
    pub(crate) fn packet<T>(
        &self,
        what: &str,
        patience: Duration,
        mut take: impl FnMut(Ip) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(f) = self.frame(left) else {
                assert!(patience < STEP, "timed out: {what}");
                return None;
            };
            if f[12..14] != [8, 0] {
                continue;
            }
            let p = &f[14..];
            let total = usize::from(u16::from_be_bytes([p[2], p[3]]));
            assert_eq!(checksum::data(&p[..20]), 0xffff, "checksum of the IP header");
            let src = IpAddr::from(<[u8; 4]>::try_from(&p[12..16]).unwrap());
            if let Some(got) = take(Ip { src, protocol: p[9], payload: p[20..total].to_vec() }) {
                return Some(got);
            }
        }
    }

    /// The next segment, if one comes in time.
    pub(crate) fn maybe_segment(&self, patience: Duration) -> Option<Tcp> {
        self.packet("a segment", patience, |p| {
            let t = p.payload;
            let whole = t.len();
            (p.protocol == 6).then_some(())?;
            let us = IpAddr::V4(US);
            let pseudo = checksum::pseudo_header(&p.src.into(), &us.into(), IpProtocol::Tcp, whole as u32);
            assert_eq!(checksum::combine(&[pseudo, checksum::data(&t)]), 0xffff, "checksum of a segment");
            let word = |at: usize| u16::from_be_bytes([t[at], t[at + 1]]);
            let long = |at: usize| u32::from_be_bytes(t[at..at + 4].try_into().unwrap());
            let header = usize::from(t[12] >> 4) * 4;
            Some(Tcp {
                from: word(0),
                to: word(2),
                seq: long(4),
                ack: long(8),
                flags: t[13],
                window: word(14),
                urgent: word(18),
                options: t[20..header].to_vec(),
                data: t[header..].to_vec(),
            })
        })
    }

    /// The next segment.
    pub(crate) fn segment(&self) -> Tcp {
        self.maybe_segment(STEP).unwrap()
    }

    /// The next segment of which `wanted` is true.
    pub(crate) fn segment_with(&self, wanted: impl Fn(&Tcp) -> bool) -> Tcp {
        loop {
            let s = self.segment();
            if wanted(&s) {
                return s;
            }
        }
    }

    /// Waits until there is no connection any more.
    pub(crate) fn gone(&self) {
        self.connections(0);
    }

    /// Waits until there are so many connections: their number is told after a round of the network, not within it.
    pub(crate) fn connections(&self, count: usize) {
        let end = Instant::now() + STEP;
        while self.net.connections() != count {
            assert!(Instant::now() < end, "{} connections, expected {count}", self.net.connections());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Our end of a connection that stands.
pub(crate) struct Conn<'a> {
    pub(crate) raw: &'a Raw,
    pub(crate) from: u16,
    pub(crate) to: u16,
    /// Numbers of the next bytes.
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) syn_ack: Tcp,
}

impl<'a> Conn<'a> {
    /// Opens one to the gateway's `port` with SYN options.
    pub(crate) fn open(raw: &'a Raw, from: u16, to: u16, options: &[u8]) -> Self {
        let seq = 0xffff_fff0;
        let options = options.to_vec();
        raw.tcp(&Tcp { from, to, seq, flags: SYN, window: 8000, options, ..Tcp::default() });
        let syn_ack = raw.segment();
        assert_eq!((syn_ack.flags, syn_ack.ack), (SYN | ACK, 0xffff_fff1));
        let (seq, ack) = (syn_ack.ack, syn_ack.seq.wrapping_add(1));
        let conn = Conn { raw, from, to, seq, ack, window: 8000, syn_ack };
        conn.send(0, &[]);
        conn
    }

    fn segment(&self) -> Tcp {
        let (from, to, seq, ack, window) = (self.from, self.to, self.seq, self.ack, self.window);
        Tcp { from, to, seq, ack, flags: ACK, window, ..Tcp::default() }
    }

    /// Sends data at our next byte, without counting it.
    pub(crate) fn send(&self, flags: u8, data: &[u8]) {
        self.send_at(0, flags, data);
    }

    /// The same, `offset` bytes away from there.
    pub(crate) fn send_at(&self, offset: i32, flags: u8, data: &[u8]) {
        let s = self.segment();
        let seq = s.seq.wrapping_add_signed(offset);
        self.raw.tcp(&Tcp { seq, flags: ACK | flags, data: data.to_vec(), ..s });
    }

    /// Sends data whose last byte is urgent.
    pub(crate) fn send_urgent(&self, data: &[u8]) {
        let s = self.segment();
        let urgent = data.len() as u16;
        self.raw.tcp(&Tcp { flags: ACK | URG, urgent, data: data.to_vec(), ..s });
    }

    /// Waits until `offset` bytes from our next are acknowledged.
    pub(crate) fn acknowledged(&self, offset: u32) -> Tcp {
        let wanted = self.seq.wrapping_add(offset);
        self.raw.segment_with(|s| s.ack == wanted)
    }
}
