//! A guest that floods and does not read, and one whose frames are too short or too long: bounded memory, and the network lives on.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::{Endpoint, MAX_FRAME, NetReceiver};
use net_user::UserConfig;

use crate::guest::STEP;
use crate::many::resident;
use crate::raw::{ACK, Conn, GATEWAY, Raw, SYN, Tcp, ipv4, udp};

/// What the network may hold on behalf of a guest: its inbox, connections, fragments, and answers that wait.
const BOUND: usize = 48 << 20;

/// A card that has no room.
struct Shut(Arc<AtomicBool>, Mutex<Sender<usize>>);

impl NetReceiver for Shut {
    fn can_receive(&mut self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn receive(&mut self, frame: &[u8]) {
        let _ = self.1.lock().unwrap().send(frame.len());
    }
}

fn shut(raw: &Raw) -> (Arc<AtomicBool>, Receiver<usize>) {
    let (sender, frames) = channel();
    let open = Arc::new(AtomicBool::new(false));
    raw.net.set_receiver(Some(Box::new(Shut(open.clone(), Mutex::new(sender)))));
    (open, frames)
}

/// An Ethernet frame with its empty virtio-net header; it may be dropped.
fn offer(raw: &Raw, packet: &[u8]) {
    let mut frame = vec![0; 12];
    frame.extend([0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0]);
    frame.extend(packet);
    raw.net.send(&[&frame]);
}

#[test]
fn a_guest_that_floods_and_never_reads() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let raw = Raw::new(UserConfig::default());
    let (open, _frames) = shut(&raw);
    let before = resident();
    for i in 0..20_000u32 {
        let echo = [&[8, 0, 0, 0, 0, 0, 0, 0][..], &[7; 1400]].concat();
        offer(&raw, &ipv4(GATEWAY, 1, (64, 0), &echo));
        // Port 9 is nobody's as a rule: each is answered by a reset, or an error.
        let unknown = udp(1024 + i as u16, 9, &[1; 1000]);
        offer(&raw, &ipv4(GATEWAY, 17, (64, 0), &unknown));
        // The first fragment of many.
        offer(&raw, &ipv4(GATEWAY, 17, (64, 0x2000), &[i as u8; 1400]));
        let syn = [&(1024 + (i % 500) as u16).to_be_bytes()[..], &9u16.to_be_bytes(), &[0; 16]].concat();
        offer(&raw, &ipv4(GATEWAY, 6, (64, 0), &syn));
    }
    let held = resident().saturating_sub(before);
    assert!(held < BOUND, "{held} bytes");
    // It comes to its senses.
    open.store(true, Ordering::SeqCst);
    raw.net.accept_input();
    raw.listen();
    while !raw.net.send(&[&[0; MAX_FRAME]]) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let own = Tcp { from: 50_000, to: port, window: 8000, ..Tcp::default() };
    raw.tcp(&Tcp { flags: SYN, ..own.clone() });
    let answer = raw.segment_with(|s| s.to == own.from);
    assert_eq!(answer.flags, SYN | ACK);
    let ack = answer.seq.wrapping_add(1);
    raw.tcp(&Tcp { flags: ACK, seq: 1, ack, data: b"still here".to_vec(), ..own });
    let mut stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(STEP)).unwrap();
    let mut got = [0; 10];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still here");
}

#[test]
fn a_guest_that_never_reads_its_data() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let raw = Raw::new(UserConfig::default());
    let _conn = Conn::open(&raw, 50_001, port, &[2, 4, 5, 0xb4, 1, 3, 3, 7]);
    let mut stream = listener.accept().unwrap().0;
    let before = resident();
    let (_open, _frames) = shut(&raw);
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let block = vec![5; 1 << 20];
    let taken = (0..256).take_while(|_| stream.write_all(&block).is_ok()).count();
    assert!(taken < 64, "{taken} MiB");
    let held = resident().saturating_sub(before);
    assert!(held < 32 << 20, "{held} bytes");
}

#[test]
fn runts_and_giants() {
    let raw = Raw::new(UserConfig::default());
    for length in (0..80).chain([1514, 9000, 65_549, MAX_FRAME]) {
        for fill in [0u8, 0x45, 0xff] {
            raw.net.send(&[&vec![fill; length]]);
            raw.net.send(&[&[0; 12], &vec![fill; length]]);
        }
    }
    assert!(!raw.net.send(&[&vec![0; MAX_FRAME + 1]]));
    assert!(!raw.net.send_owned(&[0; 12], &mut vec![0; MAX_FRAME]));
    raw.tcp(&Tcp { from: 50_002, to: 9, flags: SYN, window: 100, ..Tcp::default() });
    let _answer = raw.segment();
}
