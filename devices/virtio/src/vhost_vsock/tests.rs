//! The device with a back end of the tests' in the kernel's place.

use ::device::test_bench::{Bench, check};

use super::*;
use crate::Mmio;
use crate::device::feature::{EVENT_IDX, VERSION_1};
use crate::direct::testing::Loop;
use crate::test_driver::{Driver, Piece};

fn sockets() -> (Arc<Loop>, Mmio<VhostVsockConfig>) {
    let back = Loop::new(VERSION_1 | EVENT_IDX | SEQPACKET);
    let config = VhostVsockConfig { guest_cid: 7, ..VhostVsockConfig::default() };
    (back.clone(), Mmio::new(config, VhostVsockBackend(Some(back))))
}

#[test]
fn packets_go_by_the_back_end() {
    let (back, config) = sockets();
    let bench = Bench::new(config);
    bench.cell().resume();
    let mut driver = Driver::start(&bench, !0, &[16, 16, 16]);
    assert_eq!(driver.features & SEQPACKET, SEQPACKET);
    assert_eq!((bench.read(0, 0x100, 4), bench.read(0, 0x104, 4)), (7, 0));
    assert!(back.serves());
    let room = driver.add(0, &[Piece::In(64)]);
    driver.add(1, &[Piece::Out(b"a packet")]);
    driver.kick(1);
    driver.wait(0);
    assert_eq!(driver.written(&room)[..8], *b"a packet");
    // A guest that comes from elsewhere hears that its connections are gone.
    let event = driver.add(2, &[Piece::In(4)]);
    bench.cell().quiesce();
    assert!(!back.serves());
    let (other_back, config) = sockets();
    let other = Bench::new(config);
    let mut driver = driver.moved(&other);
    other.cell().restore(&bench.cell().save()).unwrap();
    other.cell().resume();
    assert!(other_back.serves());
    assert_eq!(driver.wait(2), (event.head, 4));
    assert_eq!(driver.written(&event), TRANSPORT_RESET);
}

#[test]
fn everything_else() {
    check(sockets().1);
    let mut config = VhostVsockConfig::default();
    ::device::Properties::set(&mut config, "guest_cid", "2").unwrap();
    let timers = ::device::TimerQueue::new(::device::Clock::new(::device::ClockSource::Counted));
    let mut wires = ::device::WiresBuilder::new("machine/v", &timers).build();
    let error = config.make(VhostVsockBackend::default(), &mut wires).err().unwrap().to_string();
    assert!(error.contains("guest_cid"), "{error}");
}
