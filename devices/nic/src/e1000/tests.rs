//! Tests of the card against a cable that keeps what is sent.

use std::ops::Deref;
use std::sync::Arc;

use device::test_bench::{RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;
use crate::testing::{Cable, MAC, frame, fuzz_cases};

const RECEIVE: u64 = RAM_BASE + 0x1000;
const SEND: u64 = RAM_BASE + 0x2000;
const DATA: u64 = RAM_BASE + 0x1_0000;

struct Card {
    bench: PciBench,
    cable: Arc<Cable>,
}

impl Deref for Card {
    type Target = PciBench;
    fn deref(&self) -> &PciBench {
        &self.bench
    }
}

impl Card {
    fn new() -> Self {
        Self::on(Cable::default())
    }

    fn on(cable: Cable) -> Self {
        let cable = Arc::new(cable);
        let config = E1000Config { backend: cable.backend(), ..E1000Config::default() };
        let bench = PciBench::new(config);
        bench.enable();
        let card = Card { bench, cable };
        for (register, value) in [
            (reg::RDBAL, RECEIVE),
            (reg::RDLEN, 8 * 16),
            (reg::TDBAL, SEND),
            (reg::TDLEN, 8 * 16),
            (reg::IMS, 0xffff),
            (reg::RCTL, 0x8002),
            (reg::TCTL, 2),
        ] {
            card.set(register, value as u32);
        }
        for i in 0..8u64 {
            card.put(RECEIVE + 16 * i, &(DATA + 0x1000 * i).to_le_bytes());
        }
        card
    }

    fn get(&self, register: u32) -> u32 {
        self.bar_read(0, register.into(), 4) as u32
    }

    fn set(&self, register: u32, value: u32) {
        self.bar_write(0, register.into(), 4, value.into());
    }

    fn put(&self, at: u64, data: &[u8]) {
        self.ram().write(at - RAM_BASE, data).unwrap();
    }

    fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram().read(at - RAM_BASE, &mut data).unwrap();
        data
    }

    /// A frame comes in; false if the card has no room for it.
    fn arrives(&self, frame: &[u8]) -> bool {
        self.cable.arrives(frame)
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.cable.sent()
    }
}

/// A back end that has a virtio header before each frame: the card does not see it, and puts an empty one there.
#[test]
fn a_header_of_the_back_end_stays_outside() {
    let c = Card::on(Cable { header: 12, ..Cable::default() });
    c.set(reg::RDT, 4);
    c.arrives(&[vec![7; 12], frame(MAC, 100)].concat());
    assert_eq!(c.memory(DATA, 100), frame(MAC, 100));
    c.arrives(&[7; 5]);
    c.put(DATA, &frame([0xff; 6], 80));
    c.put(SEND, &DATA.to_le_bytes());
    c.put(SEND + 8, &[80, 0, 0, 9, 0, 0, 0, 0]);
    c.set(reg::TDT, 1);
    assert_eq!(c.sent(), [[vec![0; 12], frame([0xff; 6], 80)].concat()]);
}

#[test]
fn address_phy_and_eeprom() {
    let c = Card::new();
    assert_eq!(c.get(reg::ADDRESSES), 0x1200_5452);
    assert_eq!(c.get(reg::STATUS) & 2, 2);
    c.set(reg::EERD, 0x0001);
    assert_eq!(c.get(reg::EERD), 0x5452_0010);
    // The same word bit by bit.
    let clock = |bits: u32| {
        c.set(reg::EECD, bits);
        c.set(reg::EECD, bits | 1);
        let data = c.get(reg::EECD) >> 3 & 1;
        c.set(reg::EECD, bits);
        data
    };
    c.set(reg::EECD, 0x42);
    for bit in [1, 1, 0, 0, 0, 0, 0, 1, 0] {
        clock(0x42 | bit << 2);
    }
    let word = (0..16).fold(0, |word, _| word << 1 | clock(0x42));
    assert_eq!(word, 0x5634, "word 2");
    c.set(reg::EECD, 0);
    let sum = (0..64u32).fold(0u16, |sum, i| {
        c.set(reg::EERD, i << 8 | 1);
        sum.wrapping_add((c.get(reg::EERD) >> 16) as u16)
    });
    assert_eq!(sum, 0xbaba);
    c.set(reg::MDIC, 2 << 26 | 1 << 21 | 2 << 16);
    assert_eq!(c.get(reg::MDIC), 1 << 28 | 2 << 26 | 1 << 21 | 2 << 16 | 0x0141);
    c.bar_write(1, 0, 4, reg::STATUS.into());
    assert_eq!(c.bar_read(1, 4, 4) & 2, 2);
}

#[test]
fn receives_what_is_meant_for_it() {
    let c = Card::new();
    assert!(c.arrives(&frame(MAC, 50)), "waits for buffers");
    assert_eq!(c.get(reg::ICR), 0);
    c.set(reg::RDT, 6);
    assert_eq!(c.memory(DATA, 60)[..50], frame(MAC, 50));
    assert_eq!(c.memory(RECEIVE + 8, 5), [64, 0, 0, 0, 7]);
    assert!(c.line("intx"));
    assert_eq!((c.get(reg::ICR), c.line("intx"), c.get(reg::RDH)), (0x80, false, 1));
    // Others' frames, a group's before and after it is wanted, everybody's.
    c.arrives(&frame([2, 0, 0, 0, 0, 9], 100));
    c.arrives(&frame([1, 0, 0x5e, 0, 0, 1], 100));
    assert_eq!(c.get(reg::RDH), 1);
    // Its hash: 0x0100 >> 4.
    c.set(reg::MULTICAST, 1 << 16);
    c.arrives(&frame([1, 0, 0x5e, 0, 0, 1], 100));
    c.arrives(&frame([0xff; 6], 100));
    assert_eq!(c.get(reg::RDH), 3);
    // A group among the addresses.
    c.set(reg::ADDRESSES + 8 * 3, 0x3333);
    c.set(reg::ADDRESSES + 8 * 3 + 4, 1 << 31 | 0x100);
    assert_eq!(c.get(reg::RDH), 3);
    c.arrives(&frame([0x33, 0x33, 0, 0, 0, 1], 100));
    assert_eq!(c.get(reg::RDH), 4);
    c.set(reg::RDH, 3);
    // Over several small buffers.
    c.set(reg::RCTL, 0x3_8002);
    c.arrives(&frame(MAC, 300));
    assert_eq!(
        (c.get(reg::RDH), c.memory(RECEIVE + 3 * 16 + 8, 5), c.memory(RECEIVE + 4 * 16 + 8, 5)),
        (5, vec![0, 1, 0, 0, 5], vec![48, 0, 0, 0, 7])
    );
    // What there is no room for waits.
    c.arrives(&frame(MAC, 300));
    assert_eq!(c.get(reg::RDH), 5);
    c.set(reg::RDT, 0);
    assert_eq!(c.get(reg::RDH), 7);
    // The back end is held up when nobody reads.
    let held = (0..100).filter(|_| c.arrives(&frame(MAC, 300))).count();
    assert_eq!(held, 64);
}

#[test]
fn sends_frames_checksums_and_segments() {
    let c = Card::new();
    let mut data = frame([2; 6], 60);
    c.put(DATA, &data);
    // In two parts, legacy, with a checksum from 20 on at 30.
    c.put(SEND, &DATA.to_le_bytes());
    c.put(SEND + 8, &[40, 0, 0, 0, 0, 0, 0, 0]);
    c.put(SEND + 16, &(DATA + 40).to_le_bytes());
    c.put(SEND + 24, &[20, 0, 30, 0x0d, 0, 20, 0, 0]);
    c.set(reg::TDT, 2);
    crate::checksum::insert(&mut data, 20, 30, 60);
    assert_eq!(c.sent(), [data]);
    assert_eq!((c.memory(SEND + 12, 1), c.memory(SEND + 28, 1), c.get(reg::ICR)), (vec![0], vec![1], 3));
    // A TCP packet in segments of 100 bytes: 14 + 20 + 20 bytes of headers.
    let mut packet = frame([2; 6], 54 + 250);
    packet[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    packet[34..54].copy_from_slice(&[0, 80, 0, 81, 0, 0, 1, 0, 0, 0, 0, 0, 0x50, 0x19, 1, 0, 0, 0, 0, 0]);
    let addresses = packet[26..34].to_vec();
    let pseudo = |len: u16| {
        let sum = crate::checksum::sum(&addresses, 6 + u32::from(len));
        (sum & 0xffff) as u16 + (sum >> 16) as u16
    };
    let seed = pseudo(0);
    packet[50..52].copy_from_slice(&seed.to_be_bytes());
    c.put(DATA, &packet);
    c.put(SEND + 32, &[14, 24, 33, 0, 34, 50, 0, 0, 250, 0, 0, 0x27, 0, 54, 100, 0]);
    c.put(SEND + 48, &DATA.to_le_bytes());
    c.put(SEND + 56, &[(304u32 & 0xff) as u8, 1, 0x10, 0x2d, 0, 3, 0, 0]);
    c.set(reg::TDT, 4);
    let sent = c.sent();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [154, 154, 104]);
    for (i, f) in sent.iter().enumerate() {
        assert_eq!(crate::checksum::sum(&f[14..34], 0), 0xffff, "header of {i}");
        let len = (f.len() - 34) as u16;
        assert_eq!(crate::checksum::sum(&f[34..], u32::from(pseudo(len))), 0xffff, "payload of {i}");
        assert_eq!((f[19], f[41], f[40]), (7 + i as u8, (100 * i) as u8, 1));
        assert_eq!(f[47], if i == 2 { 0x19 } else { 0x10 });
        assert_eq!(f[54..], packet[54 + 100 * i..][..f.len() - 54]);
    }
}

#[test]
fn the_cable_is_watched() {
    let c = Card::new();
    c.cable.link(false);
    assert_eq!((c.get(reg::STATUS) & 2, c.get(reg::ICR)), (0, 4));
    c.set(reg::CTRL, CTRL_RESET_TEST);
    assert_eq!(c.get(reg::RDLEN), 0);
    c.cable.link(true);
    assert_eq!(c.get(reg::STATUS) & 2, 2);
}

const CTRL_RESET_TEST: u32 = registers::CTRL_RESET;

#[test]
fn passes_the_common_tests() {
    check(Pci::new(E1000Config::default()));
}

#[test]
fn fuzz_hostile_rings() {
    let c = Card::new();
    let pci = Pci::new(E1000Config::default());
    let mut rng = Rng::new(21);
    for _ in 0..fuzz_cases() {
        scramble(&c, &pci, &mut rng, 5);
        c.enable();
        let mut ring = [0; 128];
        ring.fill_with(|| rng.next_u64() as u8);
        c.put(SEND, &ring);
        for i in 0..8 {
            c.put(SEND + 16 * i, &(DATA + rng.below(4) * 0x800).to_le_bytes());
        }
        for (register, value) in [(reg::TDBAL, SEND), (reg::TDBAL + 4, 0), (reg::TDLEN, 128), (reg::TCTL, 2)]
        {
            c.set(register, value as u32);
        }
        c.set(reg::RCTL, rng.next_u64() as u32);
        c.set(reg::TDT, rng.below(9) as u32);
        c.arrives(&frame(MAC, 14 + rng.below(2000) as usize));
        c.sent();
        assert!(c.cell().save().to_bytes().len() < 300 << 10);
    }
}
