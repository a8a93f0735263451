//! Both ends against each other: a device that gives back on ring 0 what it is given on ring 1.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guest_memory::{Backing, RamBlock, RamConfig};

use super::*;
use crate::message::request as id;

#[derive(Default)]
struct Echo {
    rings: BTreeMap<u16, Ring>,
    config: Vec<u8>,
}

impl Device for Echo {
    fn features(&self) -> u64 {
        feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC
    }
    fn protocol_features(&self) -> u64 {
        protocol::CONFIG
    }
    fn queues(&self) -> u16 {
        2
    }
    fn set_features(&mut self, _features: u64) {}
    fn start(&mut self, index: u16, ring: Ring) {
        self.rings.insert(index, ring);
    }
    fn stop(&mut self, index: u16) -> u16 {
        self.rings.remove(&index).map_or(0, |r| r.ring.base())
    }
    fn config(&self) -> Vec<u8> {
        self.config.clone()
    }
    fn set_config(&mut self, offset: u32, bytes: &[u8]) -> bool {
        let at = offset as usize;
        self.config.get_mut(at..at + bytes.len()).map(|c| c.copy_from_slice(bytes)).is_some()
    }
}

impl Echo {
    /// Carries what there is from ring 1 to ring 0.
    fn work(&mut self) -> Result<(), Error> {
        let Some(mut from) = self.rings.remove(&1) else { return Ok(()) };
        from.kick.take();
        if let Some(to) = self.rings.get_mut(&0) {
            while let Some(chain) = from.ring.pop()? {
                let mut data = Vec::new();
                for s in &chain.segments {
                    let mut piece = vec![0; s.length as usize];
                    from.ring.memory().read(s.guest, &mut piece).expect("it is in memory");
                    data.extend(piece);
                }
                if let Some(room) = to.ring.pop()? {
                    let s = room.segments[0];
                    let n = data.len().min(s.length as usize);
                    to.ring.memory().write(s.guest, &data[..n]).expect("it is in memory");
                    to.ring.push(room.id, n as u32)?;
                }
                from.ring.push(chain.id, 0)?;
            }
            for ring in [&mut *to, &mut from] {
                if ring.ring.wants_call()? {
                    ring.call.iter().for_each(Event::signal);
                }
            }
        }
        self.rings.insert(1, from);
        Ok(())
    }
}

/// Serves a session until it ends, for which it gives the reason.
fn serve(socket: UnixStream, device: Echo) -> JoinHandle<Error> {
    thread::spawn(move || {
        let mut back = Back::new(socket, device);
        loop {
            if let Err(e) = back.step() {
                return e;
            }
            // Kicks are looked for between requests: the tests say something after each.
            if let Err(e) = back.device.work() {
                return e;
            }
        }
    })
}

const BASE: u64 = 0x4000_0000;
const USER: u64 = 0x7000_0000_0000;

fn memory() -> Arc<RamBlock> {
    let config = RamConfig { backing: Backing::Memfd { huge: None }, ..RamConfig::default() };
    RamBlock::new("test", 1 << 20, &config).unwrap()
}

fn connected(device: Echo) -> (Front, Arc<RamBlock>, JoinHandle<Error>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let back = serve(theirs, device);
    let wanted = protocol::MQ | protocol::REPLY_ACK | protocol::CONFIG;
    let front = Front::new(ours, wanted).unwrap();
    assert_eq!(front.protocol(), wanted);
    let memory = memory();
    let region = Region { guest: BASE, size: memory.size(), user: USER, offset: 0 };
    front.set_features(feature::VERSION_1).unwrap();
    front.set_memory(&[(region, memory.file().unwrap().as_fd())]).unwrap();
    (front, memory, back)
}

#[test]
fn buffers_go_round() {
    let device = Echo { config: vec![1, 2, 3, 4], ..Echo::default() };
    let (front, memory, back) = connected(device);
    assert_eq!(front.queues().unwrap(), 2);
    assert_eq!(front.features() & feature::EVENT_IDX, feature::EVENT_IDX);
    let mut rings = [0, 0x4000].map(|at| DriverRing::new(memory.clone(), at, 64).unwrap());
    let events = [(); 2].map(|()| (Event::new().unwrap(), Event::new().unwrap()));
    for (i, ring) in rings.iter().enumerate() {
        let (kick, call) = &events[i];
        front.start(&ring.address(i as u32, USER), (64, 0), (kick, call)).unwrap();
    }
    for round in 0u16..300 {
        let text = format!("number {round}");
        memory.write(0x10000, text.as_bytes()).unwrap();
        let id = round % 64;
        rings[0].post(id, BASE + 0x20000, 100, true).unwrap();
        rings[1].post(id, BASE + 0x10000, text.len() as u32, false).unwrap();
        assert!(rings[0].publish().unwrap());
        if rings[1].publish().unwrap() {
            events[1].0.signal();
        }
        // A request, for the test's device to look.
        front.enable(1, true).unwrap();
        front.queues().unwrap();
        assert_eq!(rings[0].take().unwrap(), Some((id, text.len() as u32)));
        assert_eq!(rings[1].take().unwrap(), Some((id, 0)));
        assert!(events[0].1.take() && !events[0].1.take());
        let mut got = vec![0; text.len()];
        memory.read(0x20000, &mut got).unwrap();
        assert_eq!(got, text.as_bytes());
    }
    assert_eq!([front.stop(0).unwrap(), front.stop(1).unwrap()], [300, 300]);
    assert_eq!(front.config(1, 2).unwrap(), [2, 3]);
    front.set_config(3, &[9]).unwrap();
    assert_eq!(front.config(0, 4).unwrap(), [1, 2, 3, 9]);
    assert!(matches!(front.config(3, 2), Err(Error::Refused("GET_CONFIG"))));
    drop(front);
    assert!(matches!(back.join().unwrap(), Error::Gone));
}

/// What a front end may say wrong; each ends the session with a reason, and nothing worse.
#[test]
fn a_bad_front_end() {
    let ring = |a: VringAddress| Message::address(&a);
    let good = VringAddress {
        index: 0,
        descriptors: USER,
        available: USER + 0x400,
        used: USER + 0x800,
        ..VringAddress::default()
    };
    let cases: Vec<(&str, Vec<Message>)> = vec![
        ("SET_FEATURES", vec![Message::words(id::SET_FEATURES, &[1 << 50])]),
        ("SET_FEATURES", vec![Message::words(id::SET_FEATURES, &[])]),
        ("SET_VRING_NUM", vec![Message::vring(id::SET_VRING_NUM, 2, 4)]),
        ("SET_VRING_NUM", vec![Message::vring(id::SET_VRING_NUM, 0, 1 << 20)]),
        ("SET_VRING_KICK", vec![Message::words(id::SET_VRING_KICK, &[0])]),
        ("SET_MEM_TABLE", vec![Message::table(&[Region { guest: 0, size: 4096, user: 0, offset: 0 }])]),
        ("SET_MEM_TABLE", vec![Message::vring(id::SET_MEM_TABLE, 200, 0)]),
        (
            "REM_MEM_REG",
            vec![Message { request: id::REM_MEM_REG, payload: vec![0; 40], ..Message::default() }],
        ),
        ("SET_CONFIG", vec![Message::config(id::SET_CONFIG, 900, &[1])]),
        ("a request of an unknown kind", vec![Message::words(99, &[1])]),
        ("SET_VRING_ADDR", vec![Message::vring(id::SET_VRING_NUM, 0, 63), ring(good)]),
        (
            "SET_VRING_ADDR",
            vec![Message::vring(id::SET_VRING_NUM, 0, 64), ring(VringAddress { used: u64::MAX - 3, ..good })],
        ),
        (
            "SET_VRING_ADDR",
            vec![
                Message::vring(id::SET_VRING_NUM, 0, 64),
                ring(VringAddress { available: USER + 1, ..good }),
            ],
        ),
    ];
    for (what, messages) in cases {
        let (front, _memory, back) = connected(Echo::default());
        let (socket, kick) = (front.socket().try_clone_to_owned().unwrap(), Event::new().unwrap());
        let raw = Channel::new(socket.into());
        raw.send(&Message::vring(id::SET_VRING_ENABLE, 0, 1), &[]).unwrap();
        raw.send(&Message::words(id::SET_VRING_KICK, &[0]), &[kick.as_fd()]).unwrap();
        for message in &messages {
            // It may have hung up already.
            let _ = raw.send(message, &[]);
        }
        let said = back.join().unwrap().to_string();
        assert!(said.starts_with(what), "{what}: {said}");
    }
}

#[test]
fn bad_rings() {
    let memory = memory();
    let file = memory.file().unwrap().try_clone().unwrap();
    let region = Region { guest: BASE, size: memory.size(), user: USER, offset: 0 };
    let mapped = Arc::new(Memory::map(vec![region], vec![file.into()]).unwrap());
    let descriptor = |at: u64, words: (u64, u32, u16, u16)| {
        let mut d = words.0.to_le_bytes().to_vec();
        d.extend(words.1.to_le_bytes());
        d.extend(words.2.to_le_bytes());
        d.extend(words.3.to_le_bytes());
        memory.write(at, &d).unwrap();
    };
    let (next, writable, indirect) = (1u16, 2u16, 4u16);
    let cases = [
        ("a buffer outside memory", vec![(BASE + (1 << 20) - 4, 8, 0, 0)]),
        ("a chain without end", vec![(BASE, 8, next, 0)]),
        ("a descriptor beyond the table", vec![(BASE, 8, next, 99)]),
        ("a piece to read behind one to write", vec![(BASE, 8, next | writable, 1), (BASE, 8, 0, 0)]),
        ("a table of descriptors where there can be none", vec![(BASE, 17, indirect, 0)]),
        ("a table outside memory", vec![(8, 16, indirect, 0)]),
    ];
    for (why, table) in cases {
        let mut driver = DriverRing::new(memory.clone(), 0, 16).unwrap();
        let mut device = DeviceRing::new(mapped.clone(), &driver.address(0, USER), (16, 0), false).unwrap();
        driver.post(0, BASE, 8, false).unwrap();
        for (i, d) in table.into_iter().enumerate() {
            descriptor(16 * i as u64, d);
        }
        driver.publish().unwrap();
        let said = device.pop().map(|_| ()).unwrap_err().to_string();
        assert!(said.ends_with(why), "{said}");
    }
    let driver = DriverRing::new(memory.clone(), 0, 16).unwrap();
    let mut device = DeviceRing::new(mapped, &driver.address(0, USER), (16, 5), false).unwrap();
    assert!(device.pop().map(|_| ()).unwrap_err().to_string().ends_with("more entries than the ring has"));
}

#[test]
fn fuzz_sessions() {
    let mut seed = 1u64;
    let mut random = move |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % most
    };
    for _ in 0..200 {
        let (front, memory, back) = connected(Echo::default());
        let raw = Channel::new(front.socket().try_clone_to_owned().unwrap().into());
        raw.set_patience(Some(Duration::from_secs(5))).unwrap();
        for _ in 0..30 {
            let words: Vec<u64> = (0..random(6))
                .map(|_| match random(3) {
                    0 => random(4) | random(200) << 32,
                    1 => USER + random(1 << 20),
                    _ => BASE + random(1 << 20) / 16 * 16,
                })
                .collect();
            let (event, file) = (Event::new().unwrap(), memory.file().unwrap());
            let fds = match random(3) {
                0 => vec![event.as_fd()],
                1 => vec![file.as_fd()],
                _ => vec![],
            };
            if raw.send(&Message::words(random(42) as u32, &words), &fds).is_err() {
                break;
            }
        }
        drop((raw, front));
        back.join().expect("no panic");
    }
}
