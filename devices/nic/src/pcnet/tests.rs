//! Tests of the card on its bench.

use std::sync::Arc;

use device::test_bench::{RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;
use crate::testing::{Cable, MAC, frame};

const BLOCK: u64 = RAM_BASE + 0x100;
const RECEIVE: u64 = RAM_BASE + 0x1000;
const SEND: u64 = RAM_BASE + 0x2000;
const DATA: u64 = RAM_BASE + 0x1_0000;

struct Card {
    bench: PciBench,
    cable: Arc<Cable>,
}

impl Card {
    fn new() -> Self {
        let cable = Arc::new(Cable::default());
        let bench = PciBench::new(PcnetConfig { backend: cable.backend(), ..PcnetConfig::default() });
        bench.enable();
        Card { bench, cable }
    }

    fn csr(&self, at: u64) -> u64 {
        self.bench.bar_write(0, 0x12, 2, at);
        self.bench.bar_read(0, 0x10, 2)
    }

    fn set_csr(&self, at: u64, value: u64) {
        self.bench.bar_write(0, 0x12, 2, at);
        self.bench.bar_write(0, 0x10, 2, value);
    }

    fn bcr(&self, at: u64) -> u64 {
        self.bench.bar_write(0, 0x12, 2, at);
        self.bench.bar_read(0, 0x16, 2)
    }

    fn put(&self, at: u64, data: &[u8]) {
        self.bench.ram().write(at - RAM_BASE, data).unwrap();
    }

    fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.bench.ram().read(at - RAM_BASE, &mut data).unwrap();
        data
    }

    fn words(&self, at: u64, words: &[u32]) {
        self.put(at, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
    }

    /// Starts with rings of four descriptors of 32 bits, with buffers of 200 bytes to receive into.
    fn start(&self) {
        self.bench.bar_write(0, 0x12, 2, 20);
        self.bench.bar_write(0, 0x16, 2, 2);
        let [a, b, c, d, e, f] = MAC;
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from(u16::from_le_bytes([e, f]));
        self.words(BLOCK, &[0x2020_0000, low, high, 0, 0, RECEIVE as u32, SEND as u32]);
        for i in 0..4u64 {
            let buffer = (DATA + 0x800 * i) as u32;
            self.words(RECEIVE + 16 * i, &[buffer, 1 << 31 | u32::from(200u16.wrapping_neg()), 0, 0]);
            self.words(SEND + 16 * i, &[buffer, u32::from(50u16.wrapping_neg()), 0, 0]);
        }
        self.set_csr(1, BLOCK & 0xffff);
        self.set_csr(2, BLOCK >> 16);
        self.set_csr(0, 1);
        assert_eq!(self.csr(0), 0x181, "initialized, and it would interrupt");
        self.set_csr(0, 0x142);
        assert_eq!(self.csr(0), 0x73);
    }
}

#[test]
fn identity() {
    let c = Card::new();
    let prom: Vec<u8> = (0..16).map(|i| c.bench.bar_read(0, i, 1) as u8).collect();
    assert_eq!((&prom[..6], &prom[14..]), (&MAC[..], &[0x57, 0x57][..]));
    c.bench.bar_read(0, 0x14, 2);
    assert_eq!((c.csr(0), c.csr(88), c.csr(89), c.csr(12)), (4, 0x1003, 0x0262, 0x5452));
    assert_eq!(c.bcr(4), 0x80c0);
    // Registers of 32 bits until the next reset.
    c.bench.bar_write(0, 0x10, 4, 0);
    c.bench.bar_write(0, 0x14, 4, 88);
    assert_eq!((c.bench.bar_read(0, 0x10, 4), c.bench.bar_read(0, 0x12, 2)), (0x1003, 0xffff));
    c.bench.bar_read(0, 0x18, 4);
    assert_eq!(c.csr(0), 4);
}

#[test]
fn frames_go_through_rings() {
    let c = Card::new();
    c.start();
    c.cable.arrives(&frame([2, 0, 0, 0, 0, 9], 100));
    c.cable.arrives(&frame(MAC, 100));
    assert_eq!(c.memory(RECEIVE + 6, 6), [0x40, 3, 104, 0, 0, 0]);
    assert_eq!(c.memory(DATA, 100), frame(MAC, 100));
    assert!(c.bench.line("intx"));
    c.set_csr(0, 0x440);
    assert!(!c.bench.line("intx"));
    // Over two buffers; the next needs two more and waits.
    c.cable.arrives(&frame([0xff; 6], 300));
    c.cable.arrives(&frame([0xff; 6], 300));
    assert_eq!((c.memory(RECEIVE + 22, 2), c.memory(RECEIVE + 38, 4)), (vec![0, 2], vec![0x10, 1, 48, 1]));
    assert_eq!(c.memory(RECEIVE + 55, 1), [0x80]);
    c.put(RECEIVE + 6, &[0, 0x80]);
    c.set_csr(0, 0x440);
    assert_eq!(c.memory(RECEIVE + 6, 4), [0x10, 1, 48, 1]);
    // Two descriptors make a frame.
    let data = frame([3; 6], 100);
    c.put(DATA, &data[..50]);
    c.put(DATA + 0x800, &data[50..]);
    c.put(SEND + 6, &[0, 0x82]);
    c.put(SEND + 22, &[0, 0x81]);
    c.set_csr(0, 0x48);
    assert_eq!(c.cable.sent(), [data]);
    assert_eq!((c.memory(SEND + 7, 1), c.memory(SEND + 23, 1), c.csr(0) & 0x200), (vec![2], vec![1], 0x200));
    c.set_csr(0, 4);
    assert_eq!(c.csr(0), 4);
}

#[test]
fn the_old_structures_are_of_16_bits() {
    let c = Card::new();
    c.put(BLOCK, &[0, 0, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ring = |at: u64| (at as u32 & 0xff_ffff | 1 << 29).to_le_bytes();
    c.put(BLOCK + 16, &[ring(RECEIVE), ring(SEND)].concat());
    let at = DATA as u32 & 0xff_ffff;
    c.put(
        RECEIVE,
        &[&(at | 0x80 << 24).to_le_bytes()[..], &(600u16.wrapping_neg()).to_le_bytes(), &[0, 0]].concat(),
    );
    c.set_csr(1, BLOCK & 0xffff);
    c.set_csr(2, BLOCK >> 16);
    c.set_csr(0, 0x41);
    c.set_csr(0, 0x42);
    c.cable.arrives(&frame(MAC, 60));
    if RAM_BASE + 0x10_0000 < 1 << 24 {
        assert_eq!(c.memory(RECEIVE + 3, 5)[..1], [3]);
        assert_eq!(c.memory(RECEIVE + 6, 2), [64, 0]);
    }
}

#[test]
fn passes_the_common_tests_and_random_ones() {
    check(Pci::new(PcnetConfig::default()));
    let c = Card::new();
    let (pci, mut rng) = (Pci::new(PcnetConfig::default()), Rng::new(79));
    for _ in 0..2000 {
        scramble(&c.bench, &pci, &mut rng, 5);
        c.bench.enable();
        let mut ring = [0; 256];
        ring.fill_with(|| rng.next_u64() as u8);
        c.put(BLOCK, &ring);
        c.put(RECEIVE, &ring);
        c.bench.bar_read(0, 0x14, 2);
        c.set_csr(58, rng.below(4));
        c.set_csr(1, BLOCK & 0xffff);
        c.set_csr(2, BLOCK >> 16);
        c.set_csr(0, 1);
        c.set_csr(24, RECEIVE & 0xffff);
        c.set_csr(25, RECEIVE >> 16);
        c.set_csr(30, RECEIVE & 0xffff);
        c.set_csr(31, RECEIVE >> 16);
        c.set_csr(0, 0x42);
        c.cable.arrives(&frame(MAC, 14 + rng.below(2000) as usize));
        c.set_csr(0, 0x48);
        c.cable.sent();
        assert!(c.bench.cell().save().to_bytes().len() < 100 << 10);
    }
}
