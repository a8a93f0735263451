//! Tests of the cards on their benches.

use std::sync::Arc;

use device::test_bench::{Bench, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;
use crate::testing::{Cable, MAC, frame};

fn card() -> (Bench, Arc<Cable>) {
    let cable = Arc::new(Cable::default());
    (Bench::new(Ne2kIsaConfig { backend: cable.backend(), ..Ne2kIsaConfig::default() }), cable)
}

fn set(b: &Bench, values: &[(u64, u64)]) {
    for (at, value) in values {
        b.write(0, *at, 1, *value);
    }
}

/// Reads `len` bytes of the card's memory.
fn memory(b: &Bench, at: u64, len: u64) -> Vec<u8> {
    set(b, &[(0, 0x22), (10, len & 255), (11, len >> 8), (8, at & 255), (9, at >> 8), (0, 0x0a)]);
    (0..len / 2).flat_map(|_| (b.read(0, 0x10, 2) as u16).to_le_bytes()).collect()
}

/// Starts the card as drivers do.
fn start(b: &Bench) {
    set(b, &[(0, 0x21), (14, 0x49), (10, 0), (11, 0), (12, 0x20), (13, 2)]);
    set(b, &[(1, 0x46), (2, 0x80), (3, 0x46), (7, 0xff), (15, 0x7f), (0, 0x61)]);
    let address = MAC.iter().enumerate().map(|(i, byte)| (1 + i as u64, u64::from(*byte)));
    set(b, &address.collect::<Vec<_>>());
    set(b, &[(7, 0x47), (0, 0x22), (13, 0), (12, 4)]);
}

#[test]
fn the_address_is_read_out_of_the_card() {
    let (b, _) = card();
    assert_eq!(b.read(0, 0x1f, 1), 0);
    assert_eq!(b.read(0, 7, 1) & 0x80, 0x80, "reset");
    set(&b, &[(14, 0x49)]);
    let prom = memory(&b, 0, 32);
    assert_eq!(
        (&prom[..4], &prom[10..12], &prom[28..]),
        (&[0x52, 0x52, 0x54, 0x54][..], &[0x56; 2][..], &[0x57; 4][..])
    );
    assert_eq!(b.read(0, 7, 1) & 0x40, 0x40, "done");
}

#[test]
fn packets_go_round_the_ring() {
    let (b, cable) = card();
    start(&b);
    cable.arrives(&frame([2, 0, 0, 0, 0, 9], 100));
    assert!(!b.line("irq"));
    cable.arrives(&frame(MAC, 300));
    assert!(b.line("irq"));
    assert_eq!(memory(&b, 0x4700, 4), [1, 0x49, 0x34, 1]);
    assert_eq!(memory(&b, 0x4704, 300), frame(MAC, 300));
    set(&b, &[(7, 0xff)]);
    assert!(!b.line("irq"));
    // The ring has 58 pages; packets of 6 pages wait when it is full, and one wraps around its end.
    for _ in 0..15 {
        cable.arrives(&frame([0xff; 6], 1500));
    }
    set(&b, &[(0, 0x62)]);
    let current = b.read(0, 7, 1);
    assert_eq!(current, 0x7f);
    set(&b, &[(0, 0x22), (3, 0x78), (0, 0x62)]);
    assert_eq!(b.read(0, 7, 1), 0x46 + 5 + 5 * 6);
    let whole = memory(&b, 0x7f00, 1504);
    assert_eq!(whole[4..], frame([0xff; 6], 1500)[..]);
}

#[test]
fn sends_what_was_written() {
    let (b, cable) = card();
    start(&b);
    let data = frame([3; 6], 60);
    set(&b, &[(0, 0x22), (10, 60), (11, 0), (8, 0), (9, 0x40), (0, 0x12)]);
    for pair in data.chunks(2) {
        b.write(0, 0x10, 2, u64::from(u16::from_le_bytes([pair[0], pair[1]])));
    }
    set(&b, &[(4, 0x40), (5, 60), (6, 0), (0, 0x26)]);
    assert_eq!(cable.sent(), [data]);
    assert_eq!((b.read(0, 4, 1) & 1, b.read(0, 7, 1) & 2, b.read(0, 0, 1) & 4), (1, 2, 0));
}

#[test]
fn passes_the_common_tests_and_random_ones() {
    check(Ne2kIsaConfig::default());
    check(Pci::new(Ne2kPciConfig::default()));
    let b = PciBench::new(Ne2kPciConfig::default());
    b.enable();
    assert_eq!((b.config_read(0, 4), b.bar_read(0, 10, 1), b.bar_read(0, 11, 1)), (0x8029_10ec, 0x50, 0x43));
    let (b, cable) = card();
    let mut rng = Rng::new(8390);
    for _ in 0..2000 {
        scramble(&b, &Ne2kIsaConfig::default(), &mut rng, 5);
        set(
            &b,
            &[(0, 0x21), (1, rng.below(256)), (2, rng.below(256)), (3, rng.below(256)), (12, 0x1f), (13, 0)],
        );
        set(&b, &[(0, 0x62), (7, rng.below(256)), (0, 0x22)]);
        cable.arrives(&frame(MAC, 14 + rng.below(2000) as usize));
        cable.sent();
        assert!(b.cell().save().to_bytes().len() < 100 << 10);
    }
}
