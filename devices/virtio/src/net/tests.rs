use ::device::test_bench::{Bench, Rng, check};

use super::*;
use crate::Mmio;
use crate::device::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::test_driver::{Driver, Piece, hostile_rings};

/// A network that keeps what was sent and gives what it is told to.
#[derive(Default)]
struct Cable {
    sent: Mutex<Vec<Vec<u8>>>,
    receiver: Mutex<Option<Box<dyn NetReceiver>>>,
    accepted: Mutex<u32>,
    header: Mutex<usize>,
    offloads: Mutex<Option<u64>>,
    down: Mutex<bool>,
    uso: Mutex<bool>,
    changes: Mutex<u32>,
}

impl Endpoint for Cable {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.sent.lock().push(frame.concat());
        true
    }
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        *self.receiver.lock() = receiver;
    }
    fn accept_input(&self) {
        *self.accepted.lock() += 1;
    }
    fn is_up(&self) -> bool {
        !*self.down.lock()
    }
    fn vnet_header(&self) -> usize {
        *self.header.lock()
    }
    fn has_uso(&self) -> bool {
        *self.uso.lock()
    }
    fn filter_changed(&self) {
        *self.changes.lock() += 1;
    }
    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        *self.header.lock() = header;
        *self.offloads.lock() = Some(guest_features);
        true
    }
}

impl Cable {
    /// Offers a frame as a backend does; false if the card wants it to wait.
    fn offer(&self, frame: &[u8]) -> bool {
        let mut receiver = self.receiver.lock();
        let receiver = receiver.as_mut().expect("the card receives");
        let can = receiver.can_receive();
        if can {
            receiver.receive(frame);
        }
        can
    }
}

fn card(config: NetConfig) -> (Arc<Cable>, Mmio<NetConfig>) {
    let cable = Arc::new(Cable::default());
    (cable.clone(), Mmio::new(config, NetBackend(Some(cable))))
}

/// A frame to `to` that says `what`.
fn frame(to: [u8; 6], what: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 9, 8, 0], what].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

const ALL: u64 = !0;
const ME: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// The whole of what is offered, without what `not` names.
fn start<'a>(bench: &'a Bench, not: u64, queues: usize) -> Driver<'a> {
    Driver::start(bench, ALL & !not, &vec![16; queues])
}

#[test]
fn config_space() {
    let (cable, config) = card(NetConfig {
        mac: Some("02:00:00:00:00:07".into()),
        queue_pairs: 3,
        host_mtu: 9000,
        ..NetConfig::default()
    });
    let bench = Bench::new(config);
    let driver = start(&bench, 0, 7);
    let read = |at: u64, size| bench.read(0, 0x100 + at, size);
    assert_eq!((read(0, 1), read(5, 1), read(6, 2), read(8, 2), read(10, 2)), (2, 7, 1, 3, 9000));
    *cable.down.lock() = true;
    cable.receiver.lock().as_mut().unwrap().link(false);
    assert_eq!((read(6, 2), driver.take_interrupt(), driver.reg(0xfc)), (0, 2, 1));
    for (name, bad) in [("mac", "03:00:00:00:00:00"), ("mac", "x"), ("queue_pairs", "0"), ("host_mtu", "5")] {
        let mut config = NetConfig::default();
        ::device::Properties::set(&mut config, name, bad).unwrap();
        let timers = ::device::TimerQueue::new(::device::Clock::new(::device::ClockSource::Counted));
        let mut wires = ::device::WiresBuilder::new("machine/n", &timers).build();
        let error = config.make(NetBackend::default(), &mut wires).err().unwrap().to_string();
        assert!(error.starts_with(&format!("machine/n: property '{name}'")), "{error}");
    }
}

/// What a link is said to be: speed, and whether it goes both ways at once.
#[test]
fn speed_and_duplex() {
    let said = |settings: &[(&str, &str)]| {
        let mut config = NetConfig::default();
        settings
            .iter()
            .for_each(|(name, value)| ::device::Properties::set(&mut config, name, value).unwrap());
        let bench = Bench::new(card(config).1);
        let driver = start(&bench, 0, 3);
        let offered = driver.offered() & feature::SPEED_DUPLEX != 0;
        (offered, bench.read(0, 0x10c, 4) as u32, bench.read(0, 0x110, 1))
    };
    assert_eq!(said(&[]), (false, 0, 0));
    assert_eq!(said(&[("speed", "-1")]), (false, 0, 0));
    assert_eq!(said(&[("speed", "2500")]), (true, 2500, 0xff));
    assert_eq!(said(&[("speed", "10"), ("duplex", "half")]), (true, 10, 0));
    assert_eq!(said(&[("duplex", "full")]), (true, u32::MAX, 1));
    for (name, bad) in [("duplex", "both"), ("tx", "never")] {
        let mut config = NetConfig::default();
        ::device::Properties::set(&mut config, name, bad).unwrap();
        let timers = ::device::TimerQueue::new(::device::Clock::new(::device::ClockSource::Counted));
        let mut wires = ::device::WiresBuilder::new("machine/n", &timers).build();
        let error = config.make(NetBackend::default(), &mut wires).err().unwrap().to_string();
        assert!(error.contains("expected"), "{error}");
    }
    assert!(::device::Properties::set(&mut NetConfig::default(), "speed", "-2").is_err());
}

/// The same with packed rings on offer.
fn packed(config: Mmio<NetConfig>) -> Mmio<NetConfig> {
    let options = crate::RingOptions { packed: true, ..config.options };
    Mmio { options, ..config }
}

#[test]
fn sends() {
    let (cable, config) = card(NetConfig::default());
    sends_on(&cable, config.clone());
    sends_on(&cable, packed(config));
}

fn sends_on(cable: &Cable, config: Mmio<NetConfig>) {
    let bench = Bench::new(config);
    let mut driver = start(&bench, 0, 3);
    let packet = frame([0xff; 6], b"hello");
    let (_, len) =
        driver.ask(1, &[Piece::Out(&[0xee; 12]), Piece::Out(&packet[..20]), Piece::Out(&packet[20..])]);
    assert_eq!((len, std::mem::take(&mut *cable.sent.lock())), (0, vec![packet.clone()]));
    driver.ask(1, &[Piece::Out(&[&[0; 12], &packet[..]].concat())]);
    driver.ask(1, &[Piece::Out(&[0; 25])]);
    driver.ask(1, &[Piece::Out(&[0; 5])]);
    driver.ask(1, &[Piece::Out(&[0; 12]), Piece::Out(&vec![0; MAX_FRAME + 1])]);
    assert_eq!(std::mem::take(&mut *cable.sent.lock()), [packet], "too short and too long ones are not sent");
    assert!(!driver.needs_reset());
}

#[test]
fn receives_and_waits_for_buffers() {
    let (cable, config) = card(NetConfig::default());
    let bench = Bench::new(config);
    assert!(cable.offer(&frame(ME, b"nobody there")), "dropped");
    let mut driver = start(&bench, feature::MRG_RXBUF, 3);
    let token = driver.add(0, &[Piece::In(12), Piece::In(1600)]);
    driver.kick(0);
    assert!(cable.offer(&frame(ME, b"one")));
    assert_eq!(driver.poll(0), Some((token.head, 72)));
    let got = driver.written(&token);
    assert_eq!(
        (&got[..12], &got[12..72]),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &frame(ME, b"one")[..])
    );

    assert!(cable.offer(&frame(ME, b"two")), "held");
    assert!(!cable.offer(&frame(ME, b"three")) && *cable.accepted.lock() == 0);
    let token = driver.add(0, &[Piece::In(1612)]);
    driver.kick(0);
    assert_eq!(driver.poll(0), Some((token.head, 72)));
    assert_eq!(driver.written(&token)[12..72], frame(ME, b"two"));
    assert_eq!(*cable.accepted.lock(), 1);
    assert!(cable.offer(&frame(ME, b"three")));

    let (small, large) = (driver.add(0, &[Piece::In(100)]), driver.add(0, &[Piece::In(2000)]));
    driver.kick(0);
    assert_eq!(driver.poll(0).unwrap().0, small.head);
    assert!(cable.offer(&frame(ME, &[5; 1500])));
    assert_eq!(driver.poll(0).unwrap().0, large.head);
    driver.add(0, &[Piece::In(100)]);
    assert!(cable.offer(&frame(ME, &[5; 1500])), "no buffer will ever do: dropped");
    assert_eq!(driver.poll(0), None);
    assert!(cable.offer(&frame(ME, b"fits")));
    assert_eq!(driver.poll(0).unwrap().1, 72);
    driver.add(0, &[Piece::In(11)]);
    cable.offer(&frame(ME, b"no room for a header"));
    assert!(driver.needs_reset());
}

#[test]
fn frames_span_mergeable_buffers() {
    for case in 0..4 {
        let (cable, config) = card(NetConfig::default());
        let bench = Bench::new(if case & 1 != 0 { packed(config) } else { config });
        let mut driver = start(&bench, if case & 2 != 0 { EVENT_IDX } else { 0 }, 3);
        let tokens: Vec<_> = (0..3).map(|_| driver.add(0, &[Piece::In(512)])).collect();
        driver.kick(0);
        let packet = frame(ME, &[7; 1200]);
        assert!(cable.offer(&packet));
        let used: Vec<_> = (0..3).map(|_| driver.poll(0).unwrap()).collect();
        assert_eq!(used, [(tokens[0].head, 512), (tokens[1].head, 512), (tokens[2].head, 202)]);
        assert_eq!(driver.take_interrupt(), 1);
        let got: Vec<u8> = tokens.iter().flat_map(|t| driver.written(t)).collect();
        assert_eq!((&got[10..12], &got[12..12 + packet.len()]), (&[3, 0][..], &packet[..]));
        // Too few buffers: none is used until there are enough.
        driver.add(0, &[Piece::In(512)]);
        driver.add(0, &[Piece::In(512)]);
        assert!(cable.offer(&packet));
        assert_eq!(driver.poll(0), None);
        driver.add(0, &[Piece::In(512)]);
        driver.kick(0);
        assert!(driver.poll(0).is_some() && driver.poll(0).is_some() && driver.poll(0).is_some());
    }
}

#[test]
fn the_driver_is_asked_for_more_buffers_than_are_there() {
    for packed_ring in [false, true] {
        let (cable, config) = card(NetConfig::default());
        let bench = Bench::new(if packed_ring { packed(config) } else { config });
        let mut driver = start(&bench, 0, 3);
        let packet = frame(ME, &[7; 1200]);
        driver.add(0, &[Piece::In(512)]);
        driver.add(0, &[Piece::In(512)]);
        driver.kick(0);
        assert!(cable.offer(&packet), "held");
        // Not at the first buffer, which is there already: a driver that is past it would not tell.
        let wanted = if packed_ring { driver.device_event(0).0 & 0x7fff } else { driver.avail_event(0) };
        assert_eq!(wanted, 2, "packed {packed_ring}");
        driver.add(0, &[Piece::In(512)]);
        driver.kick(0);
        assert!(driver.poll(0).is_some());
    }
}

#[test]
fn the_control_queue_filters() {
    let bench = Bench::new(card(NetConfig::default()).1);
    let mut driver = start(&bench, 0, 3);
    let mut command = |class: u8, command: u8, data: &[u8]| {
        driver.ask(2, &[Piece::Out(&[class, command]), Piece::Out(data), Piece::In(1)]).0[0]
    };
    assert_eq!(command(0, 0, &[0]), 0, "no longer promiscuous");
    let (group, other, broadcast) = ([1, 0, 0x5e, 0, 0, 1], [2, 2, 2, 2, 2, 2], [0xff; 6]);
    let table = |macs: &[[u8; 6]]| [&(macs.len() as u32).to_le_bytes()[..], &macs.concat()].concat();
    let admitted = || {
        [ME, group, other, broadcast].map(|to| {
            let device = bench.cell();
            device.with(|d| {
                let net = d.as_any().unwrap().downcast_ref::<NetCard>().unwrap();
                net.shared.rx.lock().filter.admits(&frame(to, b""))
            })
        })
    };
    assert_eq!(admitted(), [true, false, false, true]);
    assert_eq!(command(1, 0, &[table(&[other]), table(&[group])].concat()), 0);
    assert_eq!(admitted(), [true; 4]);
    assert_eq!(command(1, 0, &[table(&[]), table(&[])].concat()), 0);
    assert_eq!(command(0, 5, &[1]), 0);
    assert_eq!(command(0, 1, &[1]), 0);
    assert_eq!(admitted(), [true, true, false, false]);
    assert_eq!(command(1, 1, &other), 0);
    assert_eq!(admitted(), [false, true, true, false]);
    assert_eq!(bench.read(0, 0x100, 4), 0x0202_0202);
    let many = vec![[9; 6]; 100];
    assert_eq!(command(1, 0, &[table(&many), table(&[])].concat()), 0);
    assert_eq!(admitted(), [true, true, true, false], "too many: all of the kind");
    // Tagged frames are for the driver only if it has asked for their network.
    assert_eq!(command(0, 5, &[0]), 0);
    let tagged = |id: u16| {
        let [high, low] = (0xe000 | id).to_be_bytes();
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9, 0x81, 0, high, low, 8, 0], &[0; 60]].concat();
        bench.cell().with(|d| {
            let net = d.as_any().unwrap().downcast_ref::<NetCard>().unwrap();
            net.shared.rx.lock().filter.admits(&frame)
        })
    };
    assert_eq!([tagged(5), tagged(4095)], [false, false]);
    assert_eq!([command(2, 0, &[5, 0]), command(2, 0, &[0xff, 0x0f])], [0, 0]);
    assert_eq!([tagged(5), tagged(4095), tagged(69)], [true, true, false]);
    assert_eq!(command(2, 1, &[5, 0]), 0);
    assert_eq!([tagged(5), tagged(4095)], [false, true]);
    assert!(admitted()[3]);
    let told = bench.cell().with(|d| d.as_any().unwrap().downcast_ref::<NetCard>().unwrap().rx_filter());
    assert_eq!((told.promiscuous, told.all, told.overflow), (false, [true, false, false], [false, true]));
    assert_eq!((told.mac.as_str(), told.vlans), ("02:02:02:02:02:02", vec![4095]));
    for (class, code, data) in [
        (2, 0, &[0, 0x10][..]),
        (2, 0, &[1]),
        (2, 2, &[1, 0]),
        (0, 6, &[1]),
        (0, 0, &[]),
        (1, 0, &[255, 255, 255, 255]),
        (4, 0, &[1, 0]),
        (5, 0, &[0; 8]),
        (77, 0, &[0]),
    ] {
        assert_eq!(command(class, code, data), 1, "{class} {code}");
    }
    assert!(!driver.needs_reset());
    driver.add(2, &[Piece::Out(&[0, 0, 1])]);
    driver.kick(2);
    assert!(driver.needs_reset());
}

#[test]
fn offloads_follow_the_backend() {
    let (cable, config) = card(NetConfig::default());
    *cable.uso.lock() = true;
    *cable.header.lock() = 10;
    let bench = Bench::new(config);
    let driver = Driver::new(&bench);
    assert_eq!(driver.offered() & feature::HOST, feature::HOST);
    let mut driver = Driver::new(&bench);
    assert!(!driver.negotiate(feature::GUEST_TSO4), "needs checksums");
    let mut driver = start(&bench, feature::GUEST_TSO6 | feature::GUEST_ECN, 3);
    assert_eq!(
        (*cable.header.lock(), *cable.offloads.lock()),
        (12, Some(feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_USO4 | feature::GUEST_USO6))
    );
    let packet = frame(ME, b"big");
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0xff, 0xff];
    driver.ask(1, &[Piece::Out(&header), Piece::Out(&packet)]);
    let sent = cable.sent.lock()[0].clone();
    assert_eq!((&sent[..10], &sent[10..12], &sent[12..]), (&header[..10], &[0, 0][..], &packet[..]));
    let token = driver.add(0, &[Piece::In(1000)]);
    cable.offer(&[&header[..], &packet].concat());
    let got = driver.written(&token);
    assert_eq!((&got[..10], &got[10..12], &got[12..72]), (&header[..10], &[1, 0][..], &packet[..]));
    let ask = |driver: &mut Driver<'_>, bits: u64| {
        driver.ask(2, &[Piece::Out(&[5, 0]), Piece::Out(&bits.to_le_bytes()), Piece::In(1)]).0[0]
    };
    assert_eq!(
        (ask(&mut driver, feature::GUEST_CSUM), *cable.offloads.lock()),
        (0, Some(feature::GUEST_CSUM))
    );
    assert_eq!(ask(&mut driver, feature::GUEST_TSO6), 1, "not negotiated");
    start(&bench, feature::CSUM | feature::HOST, 3);
}

#[test]
fn what_is_offered_needs_what_is_offered() {
    let offered = |config: NetConfig, uso: bool| {
        let (cable, config) = card(config);
        (*cable.header.lock(), *cable.uso.lock()) = (12, uso);
        let bench = Bench::new(config);
        bench.write(0, 0x14, 4, 0);
        let low = bench.read(0, 0x10, 4);
        bench.write(0, 0x14, 4, 1);
        low | bench.read(0, 0x10, 4) << 32
    };
    let all = NetConfig::default;
    assert_eq!(offered(all(), true) & feature::USO, feature::USO);
    let plain = offered(all(), false);
    assert_eq!((plain & feature::USO, plain & feature::HOST), (0, feature::HOST & !feature::USO));
    let bare = offered(NetConfig { csum: false, guest_csum: false, ..all() }, true);
    assert_eq!(bare & (feature::HOST | feature::GUEST), 0);
    let one = offered(NetConfig { host_tso4: false, host_tso6: false, guest_tso4: false, ..all() }, true);
    let gone = feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN | feature::GUEST_TSO4;
    assert_eq!((one & gone, one & feature::GUEST_ECN), (0, feature::GUEST_ECN));
    let mute = offered(NetConfig { ctrl_vq: false, status: false, ..all() }, true);
    assert_eq!(
        mute & (feature::CTRL_RX | feature::CTRL_VLAN | feature::CTRL_GUEST_OFFLOADS | feature::STATUS),
        0
    );
}

#[test]
fn flows_are_spread_over_queues() {
    let (cable, config) = card(NetConfig { queue_pairs: 2, ..NetConfig::default() });
    let bench = Bench::new(config);
    let mut driver = start(&bench, 0, 5);
    let flow = |port: u8| {
        let mut ip = vec![0; 40];
        (ip[0], ip[9], ip[23]) = (0x45, 17, port);
        frame(ME, &ip)
    };
    let count = |driver: &mut Driver<'_>| {
        for port in 0..8 {
            driver.add(0, &[Piece::In(200)]);
            driver.add(2, &[Piece::In(200)]);
            assert!(cable.offer(&flow(port)));
        }
        [0, 2].map(|queue| std::iter::from_fn(|| driver.poll(queue)).count())
    };
    assert_eq!(count(&mut driver), [8, 0], "one pair until the driver asks for more");
    assert_eq!(driver.ask(4, &[Piece::Out(&[4, 0, 2, 0]), Piece::In(1)]).0, [0]);
    let [first, second] = count(&mut driver);
    assert!(first > 0 && second > 0 && first + second == 8, "{first} {second}");
    assert_eq!(driver.ask(4, &[Piece::Out(&[4, 0, 3, 0]), Piece::In(1)]).0, [1]);
    driver.ask(3, &[Piece::Out(&[0; 12]), Piece::Out(&flow(1))]);
    assert_eq!(cable.sent.lock().len(), 1);
    // A driver without multiqueue has its control queue at 2.
    let mut driver = start(&bench, feature::MQ, 3);
    assert_eq!(driver.ask(2, &[Piece::Out(&[0, 0, 1]), Piece::In(1)]).0, [0]);
}

#[test]
fn a_guest_is_asked_to_announce_itself() {
    let (cable, config) = card(NetConfig::default());
    let bench = Bench::new(config);
    let ask = || bench.cell().with(|d| d.as_any().unwrap().downcast_ref::<NetCard>().unwrap().announce());
    ask();
    let mut driver = start(&bench, 0, 3);
    assert_eq!((bench.read(0, 0x106, 2), bench.read(0, 0x60, 4)), (1, 0), "nobody is there to do so");
    ask();
    assert_eq!((bench.read(0, 0x106, 2), bench.read(0, 0x60, 4) & 2), (3, 2));
    assert_eq!(driver.ask(2, &[Piece::Out(&[3, 0]), Piece::In(1)]).0, [0]);
    assert_eq!(bench.read(0, 0x106, 2), 1);
    // That was no change of the filter; this is one.
    assert_eq!(*cable.changes.lock(), 0);
    assert_eq!(driver.ask(2, &[Piece::Out(&[0, 0, 1]), Piece::In(1)]).0, [0]);
    assert_eq!(driver.ask(2, &[Piece::Out(&[0, 77, 1]), Piece::In(1)]).0, [1]);
    assert_eq!(*cable.changes.lock(), 1);
}

/// A guest that has moved is to tell the network where it is now.
#[test]
fn a_guest_that_has_moved_announces_itself() {
    let config = card(NetConfig::default()).1;
    let bench = Bench::new(config.clone());
    let _driver = start(&bench, 0, 3);
    assert_eq!(bench.read(0, 0x106, 2), 1);
    let saved = bench.cell().save();
    let moved = Bench::at(config, bench.now());
    moved.cell().restore(&saved).unwrap();
    assert!(!moved.line("irq"));
    moved.cell().resume();
    assert_eq!((moved.read(0, 0x106, 2), moved.read(0, 0x60, 4) & 2), (3, 2), "up, to be announced; told");
    moved.cell().with(|d| {
        let net = d.as_any().unwrap().downcast_mut::<NetCard>().unwrap();
        net.shared.rx.lock().announce = false;
    });
    moved.cell().quiesce();
    moved.write(0, 0x64, 4, 3);
    moved.cell().resume();
    assert_eq!((moved.read(0, 0x106, 2), moved.read(0, 0x60, 4)), (1, 0), "once");
}

/// Frames come while the card is saved and moved again and again: all arrive, in order.
#[test]
fn moves_in_mid_traffic() {
    moves_on(|config| config);
    moves_on(packed);
}

fn moves_on(kind: impl Fn(Mmio<NetConfig>) -> Mmio<NetConfig>) {
    let (cable, config) = card(NetConfig::default());
    let config = kind(config);
    let mut bench = Bench::new(config.clone());
    let mut rng = Rng::new(3);
    let mut state = start(&bench, INDIRECT_DESC, 3).state();
    let (mut next, mut seen) = (0u32, 0u32);
    let mut tokens = std::collections::VecDeque::new();
    for _ in 0..200 {
        let mut driver = Driver::resumed(&bench, &state);
        for _ in 0..rng.below(5) {
            match rng.below(3) {
                0 => {
                    if cable.offer(&frame(ME, &next.to_le_bytes())) {
                        next += 1;
                    }
                }
                1 if tokens.len() < 8 => {
                    tokens.push_back(driver.add(0, &[Piece::In(200)]));
                    driver.kick(0);
                }
                _ => {
                    while let Some((head, len)) = driver.poll(0) {
                        let token = tokens.pop_front().unwrap();
                        assert_eq!((head, len), (token.head, 72));
                        assert_eq!(driver.written(&token)[26..30], seen.to_le_bytes());
                        seen += 1;
                    }
                }
            }
        }
        bench.cell().quiesce();
        assert!(!cable.offer(&frame(ME, b"while it stands still")));
        let saved = bench.cell().save();
        let (_, fresh) = card(NetConfig::default());
        let twin = Bench::new(kind(Mmio { backend: NetBackend(Some(cable.clone())), ..fresh }));
        let moved = driver.moved(&twin);
        twin.cell().restore(&saved).unwrap();
        assert_eq!(twin.cell().save(), saved);
        twin.cell().resume();
        state = moved.state();
        drop((driver, moved));
        let old = std::mem::replace(&mut bench, twin);
        let receiver = cable.receiver.lock().take();
        drop(old);
        *cable.receiver.lock() = receiver;
    }
    assert!(seen > 50 && next - seen <= 17, "{seen} of {next}");
}

#[test]
fn passes_the_common_tests() {
    check(card(NetConfig { queue_pairs: 2, ..NetConfig::default() }).1);
    check(packed(card(NetConfig { queue_pairs: 2, rss: true, hash: true, ..NetConfig::default() }).1));
}

#[test]
fn fuzz_hostile_rings() {
    let (cable, config) = card(NetConfig { queue_pairs: 2, ..NetConfig::default() });
    let fresh = || card(NetConfig { queue_pairs: 2, ..NetConfig::default() }).1;
    hostile_rings(&config, 5, fresh, |_| {
        cable.offer(&frame(ME, &[1; 300]));
        cable.sent.lock().clear();
    });
}

#[test]
fn fuzz_hostile_packed_rings() {
    let all = NetConfig { queue_pairs: 2, rss: true, hash: true, ..NetConfig::default() };
    let (cable, config) = card(all.clone());
    let fresh = || packed(card(all.clone()).1);
    hostile_rings(&packed(config), 5, fresh, |_| {
        cable.offer(&frame(ME, &[1; 300]));
        cable.sent.lock().clear();
    });
}

#[test]
fn packed_rings_turn_with_buffers_of_any_length() {
    for not in [0, INDIRECT_DESC, EVENT_IDX] {
        let (cable, config) = card(NetConfig::default());
        let bench = Bench::new(packed(config));
        let mut driver = start(&bench, not, 3);
        let mut rng = Rng::new(5);
        for round in 0..500u32 {
            let packet = frame([0xff; 6], &round.to_le_bytes());
            let mut tokens = Vec::new();
            for _ in 0..1 + rng.below(3) {
                let cut = 1 + rng.below(40) as usize;
                let pieces = [Piece::Out(&[0; 12]), Piece::Out(&packet[..cut]), Piece::Out(&packet[cut..])];
                let token = match rng.below(2) {
                    0 if not != INDIRECT_DESC => driver.add_indirect(1, &pieces),
                    _ => driver.add(1, &pieces),
                };
                tokens.push(token.head);
            }
            driver.kick(1);
            let used: Vec<u16> = tokens.iter().map(|_| driver.poll(1).unwrap().0).collect();
            assert_eq!((used, driver.poll(1)), (tokens, None), "round {round}");
            assert!(std::mem::take(&mut *cable.sent.lock()).iter().all(|f| *f == packet));
        }
        assert!(!driver.needs_reset());
    }
}

#[test]
fn packed_rings_say_when_to_tell() {
    let (_cable, config) = card(NetConfig::default());
    let bench = Bench::new(packed(config));
    let mut driver = start(&bench, 0, 3);
    let packet = frame([0xff; 6], b"x");
    let send = |driver: &mut Driver<'_>| {
        driver.ask(1, &[Piece::Out(&[0; 12]), Piece::Out(&packet)]);
        driver.take_interrupt()
    };
    assert_eq!(driver.device_event(1), (1 << 15, 2), "at the first place, in the first turn");
    driver.set_driver_event(1, 0, 1);
    assert_eq!(send(&mut driver), 0, "never");
    assert_eq!(driver.device_event(1), (1 << 15 | 2, 2));
    driver.set_driver_event(1, 0, 0);
    assert_eq!(send(&mut driver), 1, "always");
    // Places 4 and 5 are next; tell when 8 is passed.
    driver.set_driver_event(1, 1 << 15 | 8, 2);
    assert_eq!([0; 4].map(|_| send(&mut driver)), [0, 0, 1, 0]);
    // The next turn's place 1.
    driver.set_driver_event(1, 1, 2);
    assert_eq!([0; 4].map(|_| send(&mut driver)), [0, 0, 1, 0]);
    assert!(driver.device_event(1).0 < 16);
}

#[test]
fn frames_are_spread_by_their_hash() {
    let (cable, config) = card(NetConfig { queue_pairs: 2, rss: true, hash: true, ..NetConfig::default() });
    let bench = Bench::new(config);
    let mut driver = start(&bench, 0, 5);
    assert_eq!((bench.read(0, 0x111, 1), bench.read(0, 0x112, 2), bench.read(0, 0x114, 4)), (40, 128, 0x3f));
    let setup = |types: u32, mask: u16, table: &[u16], key: usize| {
        let mut data = types.to_le_bytes().to_vec();
        data.extend(mask.to_le_bytes());
        data.extend(1u16.to_le_bytes());
        data.extend(table.iter().flat_map(|q| q.to_le_bytes()));
        data.extend(2u16.to_le_bytes());
        data.push(key as u8);
        data.extend(std::iter::repeat_n(0x6d, key));
        data
    };
    let command = |driver: &mut Driver<'_>, data: &[u8]| {
        driver.ask(4, &[Piece::Out(&[4, 1]), Piece::Out(data), Piece::In(1)]).0[0]
    };
    for bad in [
        setup(0x40, 1, &[0, 1], 40),
        setup(1, 2, &[0; 3], 40),
        setup(1, 1, &[0, 2], 40),
        setup(1, 1, &[0, 1], 41),
    ] {
        assert_eq!(command(&mut driver, &bad), 1);
    }
    assert_eq!(command(&mut driver, &setup(0x3f, 1, &[0, 0], 40)), 0);
    let tokens = [driver.add(0, &[Piece::In(200)]), driver.add(2, &[Piece::In(200)])];
    let mut packet = frame(ME, &[0; 40]);
    packet[14..38]
        .copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10]);
    assert!(cable.offer(&packet));
    assert_eq!(driver.poll(0), Some((tokens[0].head, 20 + packet.len() as u32)));
    let got = driver.written(&tokens[0]);
    assert_ne!(got[12..16], [0; 4], "a hash");
    assert_eq!((&got[16..20], &got[20..20 + packet.len()]), (&[2, 0, 0, 0][..], &packet[..]));
    // ARP has no hash: the queue for those.
    packet[12..14].copy_from_slice(&[8, 6]);
    assert!(cable.offer(&packet));
    assert_eq!(driver.poll(2), Some((tokens[1].head, 20 + packet.len() as u32)));
    assert_eq!(driver.written(&tokens[1])[12..20], [0; 8]);
    // And the driver's own frames have a header of that length.
    driver.ask(1, &[Piece::Out(&[0; 20]), Piece::Out(&packet)]);
    assert_eq!(cable.sent.lock().pop(), Some(packet));
}
