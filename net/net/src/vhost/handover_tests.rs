//! A guest's own rings for the same back end, between times in which frames are copied.

use std::sync::Arc;
use std::time::Duration;

use guest_memory::{AddressSpace, Backing, RamBlock, RamConfig, Region, Unassigned};
use vhost::{Backend, Event, Plan, Ring, Table};
use vhost_user::{DriverRing, feature};
use vm_memory::GuestAddressSpace;

use super::tests::{MRG_RXBUF, back_end};
use super::{VhostPeer, VhostUser};
use crate::testing::Sink;
use crate::{Address, Endpoint};

const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 1 << 20;
/// Where the rings and the buffers are.
const RINGS: [u64; 2] = [0, 0x4000];
const ROOM: u64 = 0x1_0000;
const FRAME: u64 = 0x2_0000;
const ENTRIES: u16 = 16;

/// A driver with two rings.
pub(crate) struct Guest {
    space: AddressSpace,
    ram: Arc<RamBlock>,
    rings: [DriverRing; 2],
    events: [(Event, Event); 2],
}

impl Guest {
    pub(crate) fn new() -> Self {
        let config = RamConfig { backing: Backing::Memfd { huge: None }, ..RamConfig::default() };
        let ram = RamBlock::new("guest", SIZE, &config).unwrap();
        let space = AddressSpace::memory(Unassigned::Zeros);
        space.add(Region::ram("guest", ram.clone()).at(BASE)).unwrap();
        let rings = RINGS.map(|at| DriverRing::new(ram.clone(), at, ENTRIES).unwrap());
        let events = [(); 2].map(|()| (Event::new().unwrap(), Event::new().unwrap()));
        Guest { space, ram, rings, events }
    }

    pub(crate) fn hand_over(&self, to: &dyn Backend, bases: [u16; 2]) {
        let memory = Table::of(&self.space.ram().memory(), to.maps_files());
        let ring = |i: usize| {
            let a = self.rings[i].address(0, BASE);
            let (kick, call) = &self.events[i];
            let (descriptors, available, used) = (a.descriptors, a.available, a.used);
            Ring { index: i as u16, size: ENTRIES, base: bases[i], descriptors, available, used, kick, call }
        };
        let rings = [ring(0), ring(1)];
        let features = to.features().unwrap() & (feature::VERSION_1 | MRG_RXBUF);
        to.start(&Plan { features, memory: &memory, rings: &rings }).unwrap();
    }

    /// Sends a frame and takes it back as the back end returns it.
    fn round(&mut self, fill: u8) {
        let sent = [&[0; 12][..], &[fill; 200]].concat();
        self.ram.write(FRAME, &sent).unwrap();
        self.rings[0].post(0, BASE + ROOM, 2048, true).unwrap();
        self.rings[1].post(0, BASE + FRAME, sent.len() as u32, false).unwrap();
        for (ring, (kick, _)) in self.rings.iter_mut().zip(&self.events) {
            ring.publish().unwrap();
            kick.signal();
        }
        let mut patience = 4000;
        let (_, length) = loop {
            match self.rings[0].take().unwrap() {
                Some(taken) => break taken,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
            patience -= 1;
            assert!(patience > 0, "the frame comes back");
        };
        while self.rings[1].take().unwrap().is_none() {
            std::thread::yield_now();
        }
        let mut got = vec![0; length as usize];
        self.ram.read(ROOM, &mut got).unwrap();
        assert_eq!(got[12..], sent[12..]);
    }
}

#[test]
fn rings_go_over_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let back = back_end(&path, MRG_RXBUF | feature::VERSION_1 | feature::PROTOCOL_FEATURES);
    let net = VhostUser::new(VhostPeer::Connect(Address::path(&path), None), 1, None).unwrap();
    let (sink, _, frames) = Sink::new();
    net.set_receiver(Some(sink));
    let served = net.rings().unwrap();
    assert!(served.maps_files());
    let copied = |fill: u8| {
        while !net.send(&[&[fill; 60]]) {
            std::thread::yield_now();
        }
        assert_eq!(frames.recv_timeout(Duration::from_secs(20)).unwrap(), [fill; 60]);
    };
    let mut guest = Guest::new();
    let mut bases = [0; 2];
    for turn in 0..3 {
        copied(turn);
        guest.hand_over(&*served, bases);
        // Nothing passes here now; the back end does not know how to announce a card.
        assert!(!net.send(&[&[9; 60]]));
        for i in 0..5 {
            guest.round(turn * 10 + i);
        }
        assert!(guest.events[0].1.take(), "the guest is interrupted");
        let stopped = served.stop().unwrap();
        bases = [stopped[0], stopped[1]];
        assert_eq!(bases, [u16::from(turn + 1) * 5; 2]);
        assert!(frames.try_recv().is_err());
    }
    copied(7);
    // One that goes away while it has them.
    guest.hand_over(&*served, bases);
    drop((net, served));
    back.join().unwrap();
}
