//! Tests of the card on its bench.

use std::sync::Arc;

use device::test_bench::{RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;
use crate::testing::{Cable, MAC, frame};

const RING: u64 = RAM_BASE + 0x1000;
const DATA: u64 = RAM_BASE + 0x1_0000;

fn card() -> (PciBench, Arc<Cable>) {
    let cable = Arc::new(Cable::default());
    let bench = PciBench::new(Rtl8139Config { backend: cable.backend(), ..Rtl8139Config::default() });
    bench.enable();
    (bench, cable)
}

fn get(b: &PciBench, at: usize, size: usize) -> u64 {
    b.bar_read(1, at as u64, size)
}

fn set(b: &PciBench, at: usize, size: usize, value: u64) {
    b.bar_write(1, at as u64, size, value);
}

fn memory(b: &PciBench, at: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    b.ram().read(at - RAM_BASE, &mut data).unwrap();
    data
}

#[test]
fn identity_and_eeprom() {
    let (b, cable) = card();
    assert_eq!((get(&b, 0, 4), get(&b, 4, 2)), (0x1200_5452, 0x5634));
    assert_eq!(get(&b, reg::SEND_CONFIG, 4) & 0x7cc0_0000, 0x7480_0000, "a C+");
    set(&b, reg::COMMAND, 1, 0x10);
    assert_eq!(get(&b, reg::COMMAND, 1), 1, "the reset is over and the ring is empty");
    // Word 7: a start bit, the operation, six bits of address, then the data.
    let clock = |bits: u64| {
        set(&b, reg::EEPROM, 1, 0x88 | bits);
        set(&b, reg::EEPROM, 1, 0x8c | bits);
        get(&b, reg::EEPROM, 1) & 1
    };
    set(&b, reg::EEPROM, 1, 0x80);
    for bit in [1, 1, 0, 0, 0, 0, 1, 1, 1] {
        clock(bit << 1);
    }
    assert_eq!((0..16).fold(0, |word, _| word << 1 | clock(0)), 0x5452);
    cable.link(false);
    assert_eq!((get(&b, reg::MEDIA, 1) & 4, get(&b, reg::PHY_STATUS, 2) & 4), (4, 0));
    assert_eq!(get(&b, reg::STATUS, 2), 0x20);
    // The configuration is locked.
    set(&b, reg::CONFIG1, 1, 0x55);
    set(&b, reg::EEPROM, 1, 0xc0);
    set(&b, reg::CONFIG3, 1, 0x41);
    assert_eq!((get(&b, reg::CONFIG1, 1), get(&b, reg::CONFIG3, 1)), (0x0c, 0x41));
}

#[test]
fn the_ring_of_the_older_chips() {
    let (b, cable) = card();
    set(&b, reg::RING, 4, RING);
    set(&b, reg::MASK, 2, 0xffff);
    set(&b, reg::RECEIVE_CONFIG, 4, 0x0a);
    set(&b, reg::COMMAND, 1, 0x0c);
    cable.arrives(&frame([2, 0, 0, 0, 0, 9], 100));
    assert_eq!(get(&b, reg::COMMAND, 1) & 1, 1);
    cable.arrives(&frame(MAC, 100));
    assert_eq!(memory(&b, RING, 4), [1, 0x40, 104, 0]);
    assert_eq!(memory(&b, RING + 4, 100), frame(MAC, 100));
    assert!(b.line("intx"));
    assert_eq!((get(&b, reg::WRITE_POINTER, 2), get(&b, reg::COMMAND, 1) & 1), (108, 0));
    set(&b, reg::STATUS, 2, 1);
    assert!(!b.line("intx"));
    set(&b, reg::READ_POINTER, 2, 108 - 16);
    assert_eq!(get(&b, reg::COMMAND, 1) & 1, 1);
    // The ring wraps; what there is no room for waits.
    for _ in 0..20 {
        cable.arrives(&frame([0xff; 6], 1000));
    }
    let at = get(&b, reg::WRITE_POINTER, 2);
    assert_eq!(at, 108 + 8 * 1008);
    set(&b, reg::READ_POINTER, 2, at - 16);
    assert_eq!(get(&b, reg::WRITE_POINTER, 2), (at + 8 * 1008) % 8192);
    // Four buffers.
    b.ram().write(0x1_0000, &frame([3; 6], 70)).unwrap();
    set(&b, reg::SEND_ADDRESS + 4, 4, DATA);
    set(&b, reg::SEND_STATUS + 4, 4, 70);
    assert_eq!(cable.sent(), [frame([3; 6], 70)]);
    assert_eq!((get(&b, reg::SEND_STATUS + 4, 4), get(&b, reg::SEND_SUMMARY, 2)), (0xa000 | 70, 0x200f));
    assert_eq!(get(&b, reg::STATUS, 2) & 4, 4);
}

#[test]
fn descriptors_of_the_plus() {
    let (b, cable) = card();
    let put = |at: u64, words: [u32; 4]| {
        b.ram().write(at - RAM_BASE, &words.map(u32::to_le_bytes).concat()).unwrap();
    };
    let (receive, send) = (RING, RING + 0x800);
    put(receive, [1 << 31 | 1536, 0, DATA as u32, 0]);
    put(receive + 16, [3 << 30 | 1536, 0, DATA as u32 + 0x800, 0]);
    set(&b, reg::RECEIVE_DESCRIPTORS, 4, receive);
    set(&b, reg::SEND_ADDRESS, 4, send);
    set(&b, reg::PLUS, 2, 3);
    set(&b, reg::MASK, 2, 0xffff);
    set(&b, reg::RECEIVE_CONFIG, 4, 0x0a);
    set(&b, reg::COMMAND, 1, 0x0c);
    for _ in 0..3 {
        cable.arrives(&frame(MAC, 100));
    }
    let first = |at: u64| u32::from_le_bytes(memory(&b, at, 4).try_into().unwrap());
    assert_eq!((first(receive), first(receive + 16)), (0x3200_0000 | 104, 0x7200_0000 | 104));
    assert_eq!(memory(&b, DATA + 0x800, 100), frame(MAC, 100));
    // The third waited for a descriptor; the guest tells of it by clearing status.
    put(receive, [1 << 31 | 1536, 0, DATA as u32, 0]);
    set(&b, reg::STATUS, 2, 1);
    assert_eq!(first(receive), 0x3200_0000 | 104);
    // A frame in two parts.
    b.ram().write(0x1_0000, &frame([3; 6], 70)).unwrap();
    put(send, [5 << 29 | 40, 0, DATA as u32, 0]);
    put(send + 16, [0xd000_0000 | 30, 0, DATA as u32 + 40, 0]);
    set(&b, reg::POLL, 1, 0x40);
    assert_eq!(cable.sent(), [frame([3; 6], 70)]);
    assert_eq!((first(send) >> 31, first(send + 16) >> 31), (0, 0));
    assert_eq!(get(&b, reg::STATUS, 2) & 0x84, 0x84);
}

#[test]
fn the_timer_interrupts() {
    let (b, _) = card();
    set(&b, reg::MASK, 2, 0x4000);
    set(&b, reg::TIMER_INTERRUPT, 4, 33_000);
    b.advance(900_000);
    assert!(!b.line("intx"));
    b.advance(200_000);
    assert!(b.line("intx") && get(&b, reg::TIMER, 4) >= 33_000);
}

#[test]
fn passes_the_common_tests_and_random_ones() {
    check(Pci::new(Rtl8139Config::default()));
    let (b, cable) = card();
    let (pci, mut rng) = (Pci::new(Rtl8139Config::default()), Rng::new(8139));
    for _ in 0..2000 {
        scramble(&b, &pci, &mut rng, 5);
        b.enable();
        let mut ring = [0; 256];
        ring.fill_with(|| rng.next_u64() as u8);
        b.ram().write(0x1000, &ring).unwrap();
        for (at, value) in [(reg::RECEIVE_DESCRIPTORS, RING), (reg::SEND_ADDRESS, RING), (reg::RING, RING)] {
            set(&b, at, 4, value);
        }
        set(&b, reg::RECEIVE_CONFIG, 4, rng.next_u64() & 0xffff_ffff);
        set(&b, reg::PLUS, 2, rng.below(4));
        set(&b, reg::COMMAND, 1, 0x0c);
        set(&b, reg::SEND_STATUS, 4, rng.below(0x2000));
        set(&b, reg::POLL, 1, 0x40);
        cable.arrives(&frame(MAC, 14 + rng.below(2000) as usize));
        cable.sent();
        assert!(b.cell().save().to_bytes().len() < 100 << 10);
    }
}
