//! Against a back end of the test's that sends every frame back.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use vhost_user::{Back, Device, Ring, feature};

use super::*;
use crate::testing::Sink;

pub(super) const MRG_RXBUF: u64 = 1 << 15;
const MQ: u64 = 1 << 22;
const OFFLOADS: u64 = 0b1_1001_1000_0011 | 1 << 11 | 1 << 12;

/// Pairs of rings that it has.
const PAIRS: u16 = 3;

#[derive(Default)]
pub(super) struct Mirror {
    features: u64,
    used: u64,
    rings: BTreeMap<u16, Ring>,
    /// Frames that came by each pair.
    seen: [usize; PAIRS as usize],
}

impl Device for Mirror {
    fn features(&self) -> u64 {
        self.features
    }
    fn queues(&self) -> u16 {
        2 * PAIRS
    }
    fn set_features(&mut self, features: u64) {
        self.used = features;
    }
    fn start(&mut self, index: u16, ring: Ring) {
        self.rings.insert(index, ring);
    }
    fn stop(&mut self, index: u16) -> u16 {
        self.rings.remove(&index).map_or(0, |r| r.ring.base())
    }
}

impl Mirror {
    fn work(&mut self) {
        (0..PAIRS).for_each(|pair| self.mirror(pair));
    }

    fn mirror(&mut self, pair: u16) {
        let Some(mut from) = self.rings.remove(&(2 * pair + 1)) else { return };
        from.kick.take();
        if let Some(to) = self.rings.get_mut(&(2 * pair)) {
            while let Some(chain) = from.ring.pop().unwrap() {
                let s = chain.segments[0];
                self.seen[usize::from(pair)] += 1;
                let mut frame = vec![0; s.length as usize];
                from.ring.memory().read(s.guest, &mut frame).unwrap();
                from.ring.push(chain.id, 0).unwrap();
                // Over as many buffers as it takes.
                let mut rooms = Vec::new();
                let mut room = 0;
                while room < frame.len() {
                    let Some(next) = to.ring.pop().unwrap() else { return };
                    room += next.segments[0].length as usize;
                    rooms.push(next);
                }
                frame[10..12].copy_from_slice(&(rooms.len() as u16).to_le_bytes());
                let mut rest = &frame[..];
                for next in rooms {
                    let (now, later) = rest.split_at(rest.len().min(next.segments[0].length as usize));
                    to.ring.memory().write(next.segments[0].guest, now).unwrap();
                    to.ring.push(next.id, now.len() as u32).unwrap();
                    rest = later;
                }
            }
            if to.ring.wants_call().unwrap() {
                to.call.iter().for_each(Event::signal);
            }
        }
        self.rings.insert(2 * pair + 1, from);
    }
}

/// A back end that serves one connection; ends with the front end, and says which features were used.
pub(super) fn back_end(path: &std::path::Path, features: u64) -> JoinHandle<(u64, Mirror)> {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut back = Back::new(socket, Mirror { features, ..Mirror::default() });
        back.channel().set_patience(Some(Duration::from_millis(2))).unwrap();
        loop {
            match back.channel_ready() {
                Ok(true) => {
                    if back.step().is_err() {
                        return (back.device.used, back.device);
                    }
                }
                Ok(false) => {}
                Err(_) => return (back.device.used, back.device),
            }
            back.device.work();
        }
    })
}

#[test]
fn frames_come_back() {
    for features in [0, MRG_RXBUF, MRG_RXBUF | OFFLOADS] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let back = back_end(&path, features | feature::VERSION_1);
        let net = VhostUser::new(VhostPeer::Connect(Address::path(&path), None), 1, None).unwrap();
        let header = if features & OFFLOADS != 0 { 12 } else { 0 };
        assert_eq!((net.vnet_header(), net.is_up()), (header, true));
        assert_eq!(net.set_offload(12, 1 << 1 | 1 << 7), header != 0);
        let (sink, open, frames) = Sink::new();
        net.set_receiver(Some(sink));
        for length in [60, 1514, 9000, 65000].into_iter().cycle().take(400) {
            let mut frame = vec![0; header];
            frame.extend((0..length).map(|i| (i * 7 + length) as u8));
            while !net.send(&[&frame[..20], &frame[20..]]) {
                std::thread::yield_now();
            }
            let mut got = frames.recv_timeout(Duration::from_secs(20)).unwrap();
            if header > 0 {
                got[10..12].fill(0);
            }
            assert!(got == frame, "a frame of {length} bytes");
        }
        // A guest that does not read holds one frame; nothing is lost beyond what the rings hold.
        open.store(false, Ordering::SeqCst);
        let frame = vec![1; header + 60];
        let sent = (0..20).filter(|_| net.send(&[&frame])).count();
        std::thread::sleep(Duration::from_millis(50));
        assert!(frames.try_recv().is_err());
        open.store(true, Ordering::SeqCst);
        net.accept_input();
        for _ in 0..sent {
            frames.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        drop(net);
        let used = back.join().unwrap().0;
        assert_eq!(used & (1 << 1 | 1 << 7), if header > 0 { 1 << 1 | 1 << 7 } else { 0 });
    }
}

#[test]
fn a_back_end_that_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let peer = VhostPeer::Connect(Address::path(&path), Some(Duration::from_millis(20)));
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let net = VhostUser::new(peer, 1, Some(Box::new(move |there| heard.lock().push(there)))).unwrap();
    assert!(!net.is_up() && !net.send(&[&[0; 60]]));
    let (sink, _, frames) = Sink::new();
    net.set_receiver(Some(sink));
    for _ in 0..2 {
        let socket = back_end_once(&path);
        let mut tries = 0;
        while frames.recv_timeout(Duration::from_millis(50)).is_err() {
            net.send(&[&[7; 60]]);
            tries += 1;
            assert!(tries < 400);
        }
        assert!(net.is_up());
        drop(socket);
        while net.is_up() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    drop(net);
    assert_eq!(*told.lock(), [true, false, true, false]);
}

#[test]
fn flows_are_spread_over_rings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let back = back_end(&path, MRG_RXBUF | MQ | feature::VERSION_1 | feature::PROTOCOL_FEATURES);
    let peer = || VhostPeer::Connect(Address::path(&path), None);
    let net = VhostUser::new(peer(), PAIRS, None).unwrap();
    assert_eq!(net.queues(), PAIRS);
    let (sink, _, frames) = Sink::new();
    net.set_receiver(Some(sink));
    for i in 0..60u8 {
        let mut frame = vec![2; 64];
        frame[5] = i % 12;
        while !net.send(&[&frame]) {
            std::thread::yield_now();
        }
        assert_eq!(frames.recv_timeout(Duration::from_secs(20)).unwrap(), frame);
    }
    drop(net);
    let (used, device) = back.join().unwrap();
    assert_eq!(used & MQ, MQ);
    assert!(
        device.seen.iter().all(|n| *n > 0) && device.seen.iter().sum::<usize>() == 60,
        "{:?}",
        device.seen
    );
    let back = back_end(&folder.path().join("other"), feature::VERSION_1 | feature::PROTOCOL_FEATURES);
    let peer = VhostPeer::Connect(Address::path(folder.path().join("other")), None);
    let error = VhostUser::new(peer, 60, None).err().unwrap().to_string();
    assert!(error.contains("queues=60: the back end has 6"), "{error}");
    drop(back.join());
}

/// One that hangs up as soon as it has mirrored for a while.
fn back_end_once(path: &std::path::Path) -> JoinHandle<()> {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        drop(listener);
        std::fs::remove_file(path).unwrap();
        let device = Mirror { features: feature::VERSION_1, ..Mirror::default() };
        let mut back = Back::new(socket, device);
        for _ in 0..300 {
            if back.channel_ready().unwrap() {
                back.step().unwrap();
            }
            back.device.work();
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

#[test]
fn nobody_and_somebody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let error =
        VhostUser::new(VhostPeer::Connect(Address::path(&path), None), 1, None).err().unwrap().to_string();
    assert!(error.contains("socket") && error.contains("is somebody listening there?"), "{error}");
    let old = back_end(&path, 0);
    let error =
        VhostUser::new(VhostPeer::Connect(Address::path(&path), None), 1, None).err().unwrap().to_string();
    assert!(error.contains("expected VIRTIO_F_VERSION_1"), "{error}");
    old.join().unwrap();
}
