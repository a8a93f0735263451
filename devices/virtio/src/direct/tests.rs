//! A network card that hands its rings over and gets them back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ::device::test_bench::Bench;
use ::net::{Endpoint, NetReceiver};
use guest_memory::{DirtyClient, RamBlock, Region};
use parking_lot::Mutex;

use super::testing::Loop;
use super::*;
use crate::device::feature::{EVENT_IDX, INDIRECT_DESC, RING_PACKED, VERSION_1};
use crate::test_driver::{Driver, Piece};
use crate::{Mmio, NetBackend, NetConfig, RingOptions};

const MRG_RXBUF: u64 = 1 << 15;
const CSUM: u64 = 1;
const HAS: u64 = VERSION_1 | EVENT_IDX | MRG_RXBUF;
const HEADER: usize = 12;

/// A network whose rings a [`Loop`] may serve; frames it is sent otherwise it keeps.
struct Cable {
    rings: Mutex<Option<Arc<Loop>>>,
    sent: Mutex<Vec<Vec<u8>>>,
    receiver: Mutex<Option<Box<dyn NetReceiver>>>,
}

impl Endpoint for Cable {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.sent.lock().push(frame.concat());
        true
    }
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        *self.receiver.lock() = receiver;
    }
    fn rings(&self) -> Option<Arc<dyn Backend>> {
        self.rings.lock().clone().map(|r| r as Arc<dyn Backend>)
    }
}

impl Cable {
    fn changed(&self) {
        self.receiver.lock().as_mut().unwrap().rings_changed();
    }
}

fn card(features: u64) -> (Arc<Cable>, Arc<Loop>, Mmio<NetConfig>) {
    let back = Loop::new(features);
    let cable = Arc::new(Cable {
        rings: Mutex::new(Some(back.clone())),
        sent: Mutex::default(),
        receiver: Mutex::default(),
    });
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
    cable.changed();
    by_hand(&mut driver, &cable, 51);
    *cable.rings.lock() = Some(back.clone());
    cable.changed();
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
    cable.changed();
    bench.advance(1);
    assert_eq!(cable.sent.lock().pop().unwrap(), [2; 100]);
    driver.wait(1);
    *back.features.lock() = Some(HAS);
    back.silent.store(false, Ordering::SeqCst);
    cable.changed();
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
    cable.changed();
    assert!(!back.serves(), "indirect descriptors are agreed on");
    by_hand(&mut driver, &cable, 1);
    *back.features.lock() = Some(HAS | INDIRECT_DESC);
    back.refuses.store(true, Ordering::SeqCst);
    cable.changed();
    by_hand(&mut driver, &cable, 2);
    back.refuses.store(false, Ordering::SeqCst);
    bench.cell().quiesce();
    bench.cell().resume();
    assert!(!back.serves(), "it is not asked again before it has changed");
    cable.changed();
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
    cable.changed();
    bench.advance(1);
    driver.add(1, &[Piece::Out(&[0; 80])]);
    driver.kick(1);
    assert!(driver.needs_reset());
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    by_hand(&mut driver, &cable, 2);
}
