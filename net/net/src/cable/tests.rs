//! Cables that are pulled, filtered and cut.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::*;
use crate::filter::{BufferFilter, ImpairFilter, Impairment, MirrorFilter, RedirectFilter};
use crate::{Hub, HubPort, Join};

const WAIT: Duration = Duration::from_secs(20);

struct Card(Sender<Vec<u8>>, Arc<AtomicBool>);

impl NetReceiver for Card {
    fn can_receive(&mut self) -> bool {
        self.1.load(Ordering::SeqCst)
    }

    fn receive(&mut self, frame: &[u8]) {
        let _ = self.0.send(frame.to_vec());
    }

    fn link(&mut self, up: bool) {
        let _ = self.0.send(vec![u8::from(up)]);
    }
}

/// A cable with a card and what the card gets; the other port of its hub and what that gets.
struct Bench {
    cable: Arc<Cable>,
    card: Receiver<Vec<u8>>,
    room: Arc<AtomicBool>,
    far: Arc<HubPort>,
    there: Receiver<Vec<u8>>,
}

fn bench(prepare: impl FnOnce(&Cable)) -> Bench {
    let hub = Hub::default();
    let cable = Cable::new(hub.port().unwrap());
    prepare(&cable);
    let far = hub.port().unwrap();
    let (tx, card) = channel();
    let room = Arc::new(AtomicBool::new(true));
    cable.set_receiver(Some(Box::new(Card(tx, room.clone()))));
    let (tx, there) = channel();
    far.set_receiver(Some(Box::new(Card(tx, Arc::new(true.into())))));
    Bench { cable, card, room, far, there }
}

#[test]
fn a_pulled_cable_carries_nothing() {
    let left = Hub::default();
    let right = Hub::default();
    let (a, b): (Arc<dyn Endpoint>, Arc<dyn Endpoint>) = (left.port().unwrap(), right.port().unwrap());
    let _joined = Join::new(a, b);
    let cable = Cable::new(left.port().unwrap());
    let far = right.port().unwrap();
    let (tx, rx) = channel();
    cable.set_receiver(Some(Box::new(Card(tx, Arc::new(true.into())))));
    far.send(&[&[7; 60]]);
    assert_eq!(rx.recv_timeout(WAIT).unwrap(), [7; 60], "through both hubs");
    cable.set(false);
    assert_eq!(rx.recv_timeout(WAIT).unwrap(), [0]);
    assert!(!cable.send(&[&[1; 60]]));
    far.send(&[&[8; 60]]);
    // Until the hub has tried to deliver it.
    std::thread::sleep(Duration::from_millis(50));
    cable.set(true);
    assert_eq!(rx.recv_timeout(WAIT).unwrap(), [1]);
    cable.cut();
    assert_eq!(rx.recv_timeout(WAIT).unwrap(), [0]);
    assert!(!cable.is_up() && !cable.send(&[&[1; 60]]));
}

/// Marks frames with a byte.
struct Mark(u8);

impl Filter for Mark {
    fn frame(&self, _: Direction, frame: &[u8], _: usize) -> Verdict {
        Verdict::Replaced([frame, &[self.0]].concat())
    }
}

#[test]
fn filters_stand_in_order() {
    let b = bench(|_| {});
    let put = |id: &str, mark, queue, position: Position| {
        b.cable.attach(id, queue, Arc::new(Mark(mark)), &position, true).unwrap();
    };
    put("b", 2, Queue::All, Position::Tail);
    put("a", 1, Queue::All, Position::Head);
    put("d", 4, Queue::Rx, Position::Tail);
    put("c", 3, Queue::Tx, Position::Behind("b".into()));
    let error = b.cable.attach("x", Queue::All, Arc::new(Mark(0)), &Position::Before("q".into()), true);
    assert_eq!(error.unwrap_err().to_string(), "position=id=q: no such filter here; there are: a, b, c, d");
    b.far.send(&[&[0; 14]]);
    assert_eq!(b.card.recv_timeout(WAIT).unwrap()[14..], [1, 2, 3]);
    b.cable.send(&[&[0; 10], &[0; 4]]);
    assert_eq!(b.there.recv_timeout(WAIT).unwrap()[14..], [4, 2, 1]);
    assert!(b.cable.switch("b", false) && b.cable.detach("a") && !b.cable.detach("a"));
    b.cable.send(&[&[0; 14]]);
    assert_eq!(b.there.recv_timeout(WAIT).unwrap()[14..], [4]);
}

#[test]
fn a_buffer_holds_frames_for_an_interval() {
    let b = bench(|_| {});
    let filter = Arc::new(BufferFilter::new(Duration::from_millis(100)).unwrap());
    b.cable.attach("f", Queue::Tx, filter, &Position::Tail, true).unwrap();
    b.room.store(false, Ordering::SeqCst);
    let start = Instant::now();
    for i in 0..100u8 {
        b.far.send(&[&[i; 20]]);
    }
    b.cable.send(&[&[200; 20]]);
    assert_eq!(b.there.recv_timeout(WAIT).unwrap(), [200; 20], "the other way is free");
    std::thread::sleep(Duration::from_millis(150));
    assert!(b.card.try_recv().is_err(), "no room");
    b.room.store(true, Ordering::SeqCst);
    b.cable.accept_input();
    for i in 0..100u8 {
        assert_eq!(b.card.recv_timeout(WAIT).unwrap(), [i; 20]);
    }
    assert!(start.elapsed() >= Duration::from_millis(90));
}

#[test]
fn a_bad_line_loses_and_doubles() {
    let how = Impairment { loss: 30.0, duplicate: 20.0, reorder: 10.0, seed: 1, ..Impairment::default() };
    let how = Impairment { delay: Duration::from_millis(3), jitter: Duration::from_millis(2), ..how };
    let b = bench(|_| {});
    b.cable.attach("f", Queue::Rx, Arc::new(ImpairFilter::new(how).unwrap()), &Position::Tail, true).unwrap();
    for i in 0..400u16 {
        b.cable.send(&[&i.to_be_bytes().repeat(10)]);
        std::thread::sleep(Duration::from_micros(100));
    }
    let mut got = Vec::new();
    while let Ok(frame) = b.there.recv_timeout(Duration::from_millis(500)) {
        got.push(u16::from_be_bytes([frame[0], frame[1]]));
    }
    assert!((230..450).contains(&got.len()), "{}", got.len());
    assert!(got.windows(2).any(|w| w[0] > w[1]), "in order");
    assert!(ImpairFilter::new(Impairment { loss: 101.0, ..how }).is_err());
}

#[test]
fn mirrors_copy_and_redirectors_take() {
    let (tx, mirrored) = channel::<Vec<u8>>();
    let tx = Mutex::new(tx);
    let b = bench(|cable| {
        let sink = Box::new(move |data: &[u8]| tx.lock().send(data.to_vec()).is_ok());
        cable
            .attach("m", Queue::All, Arc::new(MirrorFilter::new(sink, false)), &Position::Tail, true)
            .unwrap();
    });
    b.far.send(&[&[5; 20]]);
    assert_eq!(b.card.recv_timeout(WAIT).unwrap(), [5; 20]);
    assert_eq!(mirrored.recv_timeout(WAIT).unwrap(), [&[0, 0, 0, 20][..], &[5; 20]].concat());
    let (tx, taken) = channel::<Vec<u8>>();
    let tx = Mutex::new(tx);
    let sink: crate::filter::FrameSink = Box::new(move |data: &[u8]| tx.lock().send(data.to_vec()).is_ok());
    let redirect = Arc::new(RedirectFilter::new(Some(sink), false, Queue::Tx));
    b.cable.attach("r", Queue::Tx, redirect.clone(), &Position::Tail, true).unwrap();
    b.far.send(&[&[6; 20]]);
    assert_eq!(taken.recv_timeout(WAIT).unwrap(), [&[0, 0, 0, 20][..], &[6; 20]].concat());
    let mut codec = redirect.codec();
    let inward = |frame: &[u8], header: usize| redirect.feed(frame, header);
    assert!(codec.decode(&[&[0, 0, 0, 20][..], &[7; 20]].concat(), inward));
    assert_eq!(b.card.recv_timeout(WAIT).unwrap(), [7; 20], "past what was taken");
}
