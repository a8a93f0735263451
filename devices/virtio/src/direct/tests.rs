//! A network card that hands its rings over and gets them back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ::device::ResetKind;
use ::device::test_bench::{Bench, RAM_BASE};
use ::net::{Endpoint, NetReceiver};
use guest_memory::{DirtyClient, RamBlock, Region};
use parking_lot::Mutex;
use pci::test_bench::PciBench;

use super::testing::Loop;
use super::*;
use crate::device::feature::{EVENT_IDX, INDIRECT_DESC, RING_PACKED, VERSION_1};
use crate::test_driver::{Driver, Piece};
use crate::{Mmio, NetBackend, NetConfig, RingOptions, VirtioPci};

const MRG_RXBUF: u64 = 1 << 15;
const CSUM: u64 = 1;
const HAS: u64 = VERSION_1 | EVENT_IDX | MRG_RXBUF;
const HEADER: usize = 12;

/// A network whose rings a [`Loop`] may serve; frames it is sent otherwise it keeps.
struct Cable {
    rings: Mutex<Option<Arc<Loop>>>,
    sent: Mutex<Vec<Vec<u8>>>,
    receiver: Mutex<Option<Box<dyn NetReceiver>>>,
    /// Header before each frame.
    header: usize,
}

impl Endpoint for Cable {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.sent.lock().push(frame.concat());
        true
    }
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        *self.receiver.lock() = receiver;
    }
    fn vnet_header(&self) -> usize {
        self.header
    }
    fn rings(&self) -> Option<Arc<dyn Backend>> {
        self.rings.lock().clone().map(|r| r as Arc<dyn Backend>)
    }
}

impl Cable {
    /// Tells the card, whose timer sees to it.
    fn changed(&self, bench: &Bench) {
        self.tell();
        bench.advance(1);
    }

    fn tell(&self) {
        self.receiver.lock().as_mut().unwrap().rings_changed();
    }
}

fn cable(features: u64, header: usize) -> (Arc<Cable>, Arc<Loop>) {
    let back = Loop::new(features);
    let cable = Cable {
        rings: Mutex::new(Some(back.clone())),
        sent: Mutex::default(),
        receiver: Mutex::default(),
        header,
    };
    (Arc::new(cable), back)
}

fn card(features: u64) -> (Arc<Cable>, Arc<Loop>, Mmio<NetConfig>) {
    let (cable, back) = cable(features, 0);
    let config = Mmio::new(NetConfig::default(), NetBackend(Some(cable.clone())));
    (cable, back, config)
}

/// Sends a frame that the back end gives back.
fn round(driver: &mut Driver<'_>, fill: u8) {
    let room = driver.add(0, &[Piece::In(256)]);
    driver.kick(0);
    let frame = [&[0; HEADER][..], &[fill; 100]].concat();
    driver.add(1, &[Piece::Out(&frame)]);
    driver.kick(1);
    let (head, length) = driver.wait(0);
    assert_eq!((head, length), (room.head, frame.len() as u32));
    assert_eq!(driver.written(&room)[..frame.len()][HEADER..], frame[HEADER..]);
    driver.wait(1);
}

/// Sends a frame by way of the card.
fn by_hand(driver: &mut Driver<'_>, cable: &Cable, fill: u8) {
    let frame = [&[0; HEADER][..], &[fill; 100]].concat();
    driver.add(1, &[Piece::Out(&frame)]);
    driver.kick(1);
    driver.wait(1);
    assert_eq!(cable.sent.lock().pop().unwrap(), [fill; 100]);
}

#[test]
fn what_the_back_end_lacks_is_not_offered() {
    let (_cable, back, config) = card(HAS);
    let bench = Bench::new(config);
    let driver = Driver::new(&bench);
    let offered = driver.offered();
    assert_eq!(offered & (HAS | CSUM | INDIRECT_DESC), HAS);
    assert_ne!(offered & 1 << 5, 0, "the address is the card's own matter");
    assert!(!back.serves());
    // One that comes later takes what is there.
    let (_, _, mut config) = card(HAS);
    config.backend = NetBackend(None);
    let bench = Bench::new(config);
    assert_ne!(Driver::new(&bench).offered() & INDIRECT_DESC, 0);
}

#[test]
fn rings_are_handed_over_while_everything_fits() {
    let (cable, back, config) = card(HAS);
    let bench = Bench::new(config);
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    assert!(!back.serves(), "the machine does not run yet");
    by_hand(&mut driver, &cable, 1);
    bench.cell().resume();
    assert!(back.serves());
    assert_eq!(*back.used.lock(), HAS, "the card's own features are not the back end's");
    (2..40).for_each(|i| round(&mut driver, i));
    assert!(cable.sent.lock().is_empty());
    let mut patience = 2000;
    while !bench.line("irq") {
        std::thread::sleep(Duration::from_millis(1));
        patience -= 1;
        assert!(patience > 0, "the driver is interrupted");
    }
    // The machine stands still, and runs again.
    bench.cell().quiesce();
    assert!(!back.serves());
    bench.cell().resume();
    round(&mut driver, 50);
    // Somebody looks at frames, and no longer.
    *cable.rings.lock() = None;
    cable.changed(&bench);
    by_hand(&mut driver, &cable, 51);
    *cable.rings.lock() = Some(back.clone());
    cable.changed(&bench);
    round(&mut driver, 52);
    // A migration records what is written.
    bench.ram().dirty().start(DirtyClient::Migration);
    bench.cell().quiesce();
    bench.cell().resume();
    assert!(!back.serves());
    by_hand(&mut driver, &cable, 53);
    bench.ram().dirty().stop(DirtyClient::Migration);
    bench.cell().quiesce();
    bench.cell().resume();
    round(&mut driver, 54);
    // Other memory, of which the rings are no part.
    bench.space().add(Region::ram("more", RamBlock::anonymous("more", 4096).unwrap())).unwrap();
    assert_eq!((back.tables.load(Ordering::SeqCst), back.serves()), (1, true));
    round(&mut driver, 55);
    // The driver leaves.
    driver.set(0x70, 0);
    assert!(!back.serves());
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    round(&mut driver, 56);
    drop(bench);
    assert!(!back.serves(), "a card that goes takes its rings with it");
}

#[test]
fn buffers_that_waited_are_seen_to() {
    let (cable, back, config) = card(HAS);
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    round(&mut driver, 1);
    // The back end ends without a word, with a frame that it has not looked at: nobody kicks for it again.
    back.silent.store(true, Ordering::SeqCst);
    *back.features.lock() = None;
    let frame = [&[0; HEADER][..], &[2; 100]].concat();
    back.stop();
    driver.add(1, &[Piece::Out(&frame)]);
    cable.changed(&bench);
    assert_eq!(cable.sent.lock().pop().unwrap(), [2; 100]);
    driver.wait(1);
    *back.features.lock() = Some(HAS);
    back.silent.store(false, Ordering::SeqCst);
    cable.changed(&bench);
    round(&mut driver, 3);
}

#[test]
fn what_does_not_fit_stays() {
    // Features, packed rings, a back end that refuses.
    let (cable, back, config) = card(HAS);
    *back.features.lock() = None;
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    *back.features.lock() = Some(HAS);
    cable.changed(&bench);
    assert!(!back.serves(), "indirect descriptors are agreed on");
    by_hand(&mut driver, &cable, 1);
    *back.features.lock() = Some(HAS | INDIRECT_DESC);
    back.refuses.store(true, Ordering::SeqCst);
    cable.changed(&bench);
    by_hand(&mut driver, &cable, 2);
    back.refuses.store(false, Ordering::SeqCst);
    bench.cell().quiesce();
    bench.cell().resume();
    assert!(!back.serves(), "it is not asked again before it has changed");
    cable.changed(&bench);
    round(&mut driver, 3);

    let (cable, back, mut config) = card(HAS | RING_PACKED);
    config.options = RingOptions { packed: true, ..RingOptions::default() };
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    assert!(!back.serves());
    by_hand(&mut driver, &cable, 4);
}

#[test]
fn a_card_is_saved_where_the_back_end_was() {
    let (_cable, _back, config) = card(HAS);
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    (0..5).for_each(|i| round(&mut driver, i));
    bench.cell().quiesce();
    let state = bench.cell().save();
    let (cable, back, config) = card(HAS);
    let other = Bench::new(config);
    let mut driver = driver.moved(&other);
    other.cell().restore(&state).unwrap();
    assert!(!back.serves());
    other.cell().resume();
    assert!(back.serves());
    round(&mut driver, 9);
    assert!(cable.sent.lock().is_empty());
}

#[test]
fn a_back_end_that_lies_breaks_the_device_alone() {
    let (cable, back, config) = card(HAS);
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    round(&mut driver, 1);
    *back.lies.lock() = Some(0x4321);
    *cable.rings.lock() = None;
    cable.changed(&bench);
    driver.add(1, &[Piece::Out(&[0; 80])]);
    driver.kick(1);
    assert!(driver.needs_reset());
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    by_hand(&mut driver, &cable, 2);
}

/// Whoever changes the back end is another than who works on the queues.
#[test]
fn rings_go_over_and_back_while_the_driver_sends() {
    let (cable, back, config) = card(HAS);
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..150 {
                *cable.rings.lock() = (i % 2 != 0).then(|| back.clone());
                cable.tell();
                // Frames come in as well.
                cable.receiver.lock().as_mut().unwrap().receive(&[7; 60]);
                std::thread::sleep(Duration::from_micros(300));
            }
            ended.store(true, Ordering::SeqCst);
        });
        let mut sent = 0u16;
        while !ended.load(Ordering::SeqCst) {
            let frame = [&[0; HEADER][..], &sent.to_le_bytes(), &[1; 80]].concat();
            let added = driver.add(1, &[Piece::Out(&frame)]);
            driver.kick(1);
            bench.advance(1);
            sent += 1;
            assert_eq!(driver.wait(1).0, added.head, "frame {sent}");
            assert_eq!(driver.used_idx(1), sent);
        }
    });
    assert!(!driver.needs_reset());
    bench.advance(1);
    round(&mut driver, 9);
}

#[test]
fn other_offloads_and_an_arrival_leave_the_rings_where_they_are() {
    const GUEST_CSUM: u64 = 1 << 1;
    const GUEST_TSO4: u64 = 1 << 7;
    const ARRIVAL: u64 = 0x106;
    let has = HAS | CSUM | GUEST_CSUM | GUEST_TSO4;
    let make = || {
        let (cable, back) = cable(has, HEADER);
        (Mmio::new(NetConfig::default(), NetBackend(Some(cable))), back)
    };
    let (config, back) = make();
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16, 16]);
    assert_eq!((*back.used.lock(), back.serves()), (has, true));
    round(&mut driver, 1);
    for offloads in [GUEST_CSUM, 0, GUEST_CSUM | GUEST_TSO4] {
        let command = [&[5, 0][..], &offloads.to_le_bytes()].concat();
        let (answer, _) = driver.ask(2, &[Piece::Out(&command), Piece::In(1)]);
        let used = has & !(GUEST_CSUM | GUEST_TSO4) | offloads;
        assert_eq!((answer[0], *back.used.lock(), back.serves()), (0, used, true));
        round(&mut driver, 2);
    }
    bench.cell().quiesce();
    let state = bench.cell().save();
    let (config, back) = make();
    let other = Bench::new(config);
    let mut driver = driver.moved(&other);
    other.cell().restore(&state).unwrap();
    other.cell().resume();
    assert_eq!((*back.used.lock(), back.serves()), (has, true));
    assert_eq!(other.read(0, ARRIVAL, 2), 3, "the driver is to tell where the guest is");
    round(&mut driver, 3);
    let (answer, _) = driver.ask(2, &[Piece::Out(&[3, 0]), Piece::In(1)]);
    assert_eq!((answer[0], other.read(0, ARRIVAL, 2), back.serves()), (0, 1, true));
    round(&mut driver, 4);
}

/// A driver of a card on PCI, with two rings of 8 entries.
struct PciDriver {
    bench: PciBench,
    added: [u16; 2],
}

impl PciDriver {
    const BAR: usize = 4;
    const SIZE: u16 = 8;

    fn area(queue: usize, area: u64) -> u64 {
        RAM_BASE + queue as u64 * 0x4000 + area * 0x1000
    }

    fn new(cable: Arc<Cable>) -> Self {
        let b = PciBench::new(VirtioPci::new(NetConfig::default(), NetBackend(Some(cable))));
        b.enable();
        b.cell().resume();
        b.bar_write(Self::BAR, 0x14, 1, 3);
        b.bar_write(Self::BAR, 8, 4, 1);
        b.bar_write(Self::BAR, 12, 4, 1);
        b.bar_write(Self::BAR, 0x14, 1, 11);
        for queue in 0..2 {
            b.bar_write(Self::BAR, 0x16, 2, queue as u64);
            b.bar_write(Self::BAR, 0x18, 2, Self::SIZE.into());
            for area in 0..3 {
                b.bar_write(Self::BAR, 0x20 + 8 * area, 4, Self::area(queue, area));
            }
            b.bar_write(Self::BAR, 0x1c, 2, 1);
        }
        b.bar_write(Self::BAR, 0x14, 1, 15);
        PciDriver { bench: b, added: [0; 2] }
    }

    fn master(&self, on: bool) {
        self.bench.config_write(4, 2, if on { 7 } else { 3 });
    }

    /// Adds the only buffer of a ring.
    fn add(&mut self, queue: usize, flags: u8) {
        let buffer = Self::area(queue, 3);
        let write = |at: u64, bytes: &[u8]| self.bench.ram().write(at - RAM_BASE, bytes).unwrap();
        write(Self::area(queue, 0), &[&buffer.to_le_bytes()[..], &[100, 0, 0, 0, flags, 0, 0, 0]].concat());
        let slot = u64::from(self.added[queue] % Self::SIZE);
        write(Self::area(queue, 1) + 4 + 2 * slot, &[0, 0]);
        self.added[queue] += 1;
        write(Self::area(queue, 1) + 2, &self.added[queue].to_le_bytes());
        self.bench.bar_write(Self::BAR, 0x3000 + 4 * queue as u64, 2, queue as u64);
    }

    fn used(&self, queue: usize) -> u16 {
        let mut bytes = [0; 2];
        self.bench.ram().read(Self::area(queue, 2) + 2 - RAM_BASE, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    /// Sends a frame; all that was sent is used, and no more.
    fn send(&mut self) {
        self.add(1, 0);
        let mut patience = 2000;
        while self.used(1) != self.added[1] {
            std::thread::sleep(Duration::from_millis(1));
            patience -= 1;
            assert!(patience > 0, "{} of {} are used", self.used(1), self.added[1]);
        }
    }

    fn is_broken(&self) -> bool {
        self.bench.bar_read(Self::BAR, 0x14, 1) & 64 != 0
    }
}

#[test]
fn who_is_no_bus_master_has_no_rings_served() {
    let (cable, back) = cable(HAS, 0);
    let mut driver = PciDriver::new(cable.clone());
    assert!(back.serves());
    driver.add(0, 2);
    (0..11).for_each(|_| driver.send());
    assert_eq!(driver.used(0), 1);
    driver.master(false);
    driver.bench.advance(1);
    assert_eq!((back.serves(), driver.is_broken()), (false, false));
    driver.master(true);
    assert!(back.serves());
    (0..3).for_each(|_| driver.send());
    // The card goes on itself where the back end was when it could not reach the rings.
    driver.master(false);
    *cable.rings.lock() = None;
    cable.changed(&driver.bench);
    driver.master(true);
    driver.bench.advance(1);
    assert!(cable.sent.lock().is_empty(), "nothing is sent twice");
    (0..3).for_each(|_| driver.send());
    assert_eq!((cable.sent.lock().len(), driver.used(1), driver.is_broken()), (3, 17, false));
    *cable.rings.lock() = Some(back.clone());
    cable.changed(&driver.bench);
    assert!(back.serves());
    driver.send();
    // A reset of the function, and of the device by its driver.
    driver.bench.cell().reset(ResetKind::Warm);
    assert!(!back.serves());
    let driver = PciDriver::new(cable);
    assert!(back.serves());
    driver.bench.bar_write(PciDriver::BAR, 0x14, 1, 0);
    assert!(!back.serves());
}
