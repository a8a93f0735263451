//! Several datagrams in one frame, both ways (virtio 1.2, 5.1.6.2).

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use net::{Endpoint, NetReceiver};
use net_user::UserConfig;
use smoltcp::wire::{Ipv4Packet, UdpPacket};

use crate::config;
use crate::guest::{STEP, pattern};
use crate::raw::{GATEWAY, Raw, ipv4, udp};

/// The kind of segmentation that is meant.
const UDP: u8 = 5;
/// A guest that takes checksums and this.
const OFFLOADS: u64 = 1 << 1 | 1 << 54 | 1 << 55;

fn host() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A frame of the guest's to be cut into datagrams of `size`.
fn large(raw: &Raw, port: u16, size: u16, data: &[u8]) {
    let mut frame = vec![0; 12];
    frame[..2].copy_from_slice(&[1, UDP]);
    frame[4..6].copy_from_slice(&size.to_le_bytes());
    frame.extend([0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0]);
    frame.extend(ipv4(GATEWAY, 17, (64, 0), &udp(4000, port, data)));
    assert!(raw.net.send(&[&frame]));
}

#[test]
fn the_guests_are_cut() {
    let (socket, port) = host();
    let raw = Raw::new(UserConfig::default());
    let data = pattern(4500);
    large(&raw, port, 1000, &data);
    // So many are nobody's: they are dropped, and what follows is not.
    large(&raw, port, 1, &data);
    large(&raw, port, 1400, b"the last");
    let mut got = Vec::new();
    for expected in [1000, 1000, 1000, 1000, 500] {
        let mut buffer = [0; 2048];
        let n = socket.recv(&mut buffer).unwrap();
        assert_eq!(n, expected);
        got.extend_from_slice(&buffer[..n]);
    }
    assert!(got == data);
    let mut buffer = [0; 2048];
    let n = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"the last");
}

/// A card that has room when it is told so.
struct Card(Arc<AtomicBool>, Mutex<Sender<Vec<u8>>>);

impl NetReceiver for Card {
    fn can_receive(&mut self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn receive(&mut self, frame: &[u8]) {
        let _ = self.1.lock().unwrap().send(frame.to_vec());
    }
}

#[test]
fn the_hosts_are_joined() {
    let port = host().1;
    let raw = Raw::new(config(&[("hostfwd", &format!("udp:127.0.0.1:{port}-:6000"))]));
    let (sender, frames) = channel();
    let open = Arc::new(AtomicBool::new(false));
    raw.net.set_receiver(Some(Box::new(Card(open.clone(), Mutex::new(sender)))));
    assert!(raw.net.set_offload(12, OFFLOADS));
    let (socket, _) = host();
    let data = pattern(10_300);
    let send = |data: &[u8]| assert_eq!(socket.send_to(data, ("127.0.0.1", port)).unwrap(), data.len());
    data.chunks(1000).for_each(send);
    // Another size begins anew, and so does what is too long for a packet that must not be cut.
    data[..3000].chunks(1500).for_each(send);
    open.store(true, Ordering::SeqCst);
    raw.net.accept_input();
    let (mut got, mut joined) = (Vec::new(), 0);
    while got.len() < data.len() {
        let frame = frames.recv_timeout(STEP).unwrap();
        if frame[24..26] != [8, 0] {
            continue;
        }
        let ip = Ipv4Packet::new_checked(&frame[26..]).unwrap();
        assert!(ip.verify_checksum());
        let length = usize::from(ip.total_len()) - 20;
        let datagram = UdpPacket::new_checked(ip.payload()).unwrap();
        assert_eq!((datagram.dst_port(), usize::from(datagram.len())), (6000, length));
        got.extend_from_slice(datagram.payload());
        if frame[1] == UDP {
            joined += 1;
            // Checksum to be filled in at 34 + 6; headers of 42 bytes; datagrams of 1000.
            assert_eq!(frame[..10], [1, UDP, 42, 0, 0xe8, 3, 34, 0, 6, 0]);
        } else {
            assert!(datagram.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        }
    }
    assert!(got == data);
    // The first may have come alone, before the others were there.
    assert!((1..=2).contains(&joined), "{joined}");
    let fragment = frames.recv_timeout(STEP).unwrap();
    let ip = Ipv4Packet::new_checked(&fragment[26..]).unwrap();
    assert!(ip.more_frags());
}
