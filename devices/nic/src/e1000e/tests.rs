//! Tests of the card against a cable that keeps what is sent.

use std::ops::Deref;
use std::sync::Arc;

use device::test_bench::{RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;
use crate::checksum;
use crate::testing::{Cable, MAC, frame, fuzz_cases};

const RECEIVE: [u64; 2] = [RAM_BASE + 0x1000, RAM_BASE + 0x3000];
const SEND: [u64; 2] = [RAM_BASE + 0x2000, RAM_BASE + 0x4000];
const DATA: u64 = RAM_BASE + 0x1_0000;
const MESSAGES: u64 = 0xfee0_0000;
const RDT: u32 = reg::RX + reg::TAIL;
const RDH: u32 = reg::RX + reg::HEAD;
const TDT: u32 = reg::TX + reg::TAIL;
/// Receive control: enabled, broadcasts, no check sequence.
const RCTL: u32 = 0x0400_8002;

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
        let cable = Arc::new(Cable::default());
        let config = E1000eConfig { backend: cable.backend(), ..E1000eConfig::default() };
        let bench = PciBench::express(config);
        bench.enable();
        let card = Card { bench, cable };
        card.set_up(16);
        card
    }

    /// Rings of eight descriptors, whose buffers lie 4 KiB apart, 32 KiB for either queue.
    fn set_up(&self, descriptor: u64) {
        for queue in 0..2u32 {
            let at = reg::QUEUE * queue;
            self.set(reg::RX + at, RECEIVE[queue as usize] as u32);
            self.set(reg::RX + at + reg::LENGTH, 8 * descriptor as u32);
            self.set(reg::TX + at, SEND[queue as usize] as u32);
            self.set(reg::TX + at + reg::LENGTH, 8 * 16);
            for i in 0..8u64 {
                let place = RECEIVE[queue as usize] + descriptor * i;
                for part in 0..descriptor / 8 {
                    let buffer = self.buffer(queue, i) + part * 0x400;
                    self.put(
                        place + 8 * part,
                        &if part == 0 || descriptor == 32 { buffer } else { 0 }.to_le_bytes(),
                    );
                }
            }
        }
        self.set(reg::RCTL, RCTL);
        self.set(reg::TCTL, 2);
    }

    fn buffer(&self, queue: u32, i: u64) -> u64 {
        DATA + 0x8000 * u64::from(queue) + 0x1000 * i
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

    fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.memory(at, 4).try_into().unwrap())
    }

    /// Data of the messages that were sent.
    fn messages(&self) -> Vec<u32> {
        self.take_messages().iter().map(|message| message.data).collect()
    }
}

/// A TCP or UDP packet with right checksums from one port to another.
fn packet(protocol: u8, port: u16, data: &[u8]) -> Vec<u8> {
    let header = if protocol == 6 { 20 } else { 8 };
    let mut f = frame(MAC, 14);
    f[12..14].copy_from_slice(&[8, 0]);
    let total = (20 + header + data.len()) as u16;
    f.extend([0x45, 0]);
    f.extend(total.to_be_bytes());
    f.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15]);
    checksum::insert(&mut f, 14, 24, 34);
    f.extend(port.to_be_bytes());
    f.extend([0, 80]);
    if protocol == 6 {
        f.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    } else {
        f.extend((8 + data.len() as u16).to_be_bytes());
        f.extend([0, 0]);
    }
    f.extend(data);
    let seed = checksum::sum(&f[26..34], u32::from(protocol) + (header + data.len()) as u32);
    let at = if protocol == 6 { 50 } else { 40 };
    f[at..at + 2].copy_from_slice(&((seed & 0xffff) as u16).to_be_bytes());
    checksum::insert(&mut f, 34, at, usize::MAX);
    f
}

#[test]
fn address_phy_and_memory() {
    let c = Card::new();
    assert_eq!((c.config_read(0, 4), c.config_read(0x2c, 4)), (0x10d3_8086, 0x8086));
    assert_eq!(c.get(0x5400), 0x1200_5452);
    assert_eq!(c.get(0x40), 0x1200_5452, "by its old name");
    assert_eq!(c.get(reg::STATUS) & 2, 2);
    let read = |word: u32| {
        c.set(reg::EERD, word << 2 | 1);
        let answer = c.get(reg::EERD);
        assert_eq!(answer & 3, 2, "done");
        (answer >> 16) as u16
    };
    assert_eq!([read(0), read(13), read(14), read(100)], [0x5452, 0x10d3, 0x8086, 0xffff]);
    assert_eq!((0..64).fold(0u16, |sum, i| sum.wrapping_add(read(i))), 0xbaba);
    c.set(reg::EEWR, 0xabcd_0000 | 5 << 2 | 1);
    assert_eq!((c.get(reg::EEWR) & 2, read(5)), (2, 0xabcd));
    c.set(reg::EECD, 0x40);
    assert_eq!(c.get(reg::EECD), 0x3c0);
    // The PHY's identifier; a register of another page; no PHY at 2; no page 9.
    let phy = |address: u32, operation: u32, number: u32, data: u32| {
        c.set(reg::MDIC, operation << 26 | address << 21 | number << 16 | data);
        c.get(reg::MDIC) & (0x5000_0000 | 0xffff)
    };
    assert_eq!((phy(1, 2, 2, 0), phy(1, 2, 3, 0)), (0x1000_0141, 0x1000_0cb1));
    phy(1, 1, 22, 3);
    phy(1, 1, 20, 0x1234);
    assert_eq!(phy(1, 2, 20, 0), 0x1000_1234);
    phy(1, 1, 22, 0);
    assert_eq!(phy(1, 2, 20, 0), 0x1000_0000);
    assert_eq!(phy(2, 2, 2, 0) >> 28, 5);
    phy(1, 1, 22, 9);
    assert_eq!(phy(1, 2, 20, 0) >> 28, 5);
    c.bar_write(2, 0, 4, reg::STATUS.into());
    assert_eq!(c.bar_read(2, 4, 4) & 2, 2);
    assert_eq!(c.bar_read(1, 0, 4), 0xffff_ffff);
    // Requests of the bus end at once; a semaphore has one owner.
    c.set(reg::CTRL, registers::CTRL_MASTER_DISABLE);
    assert_eq!(c.get(reg::STATUS) & registers::STATUS_MASTER, 0);
    assert_eq!((c.get(reg::SWSM), c.get(reg::SWSM)), (0, 1));
    c.set(reg::SWSM, 0);
    assert_eq!(c.get(reg::SWSM), 0);
}

#[test]
fn legacy_and_extended_descriptors() {
    let c = Card::new();
    c.set(RDT, 6);
    let (tcp, udp) = (packet(6, 1000, &[7; 100]), packet(17, 1001, b"a word"));
    c.set(reg::RXCSUM, 3 << 8);
    c.cable.arrives(&tcp);
    assert_eq!(c.memory(DATA, tcp.len()), tcp);
    assert_eq!(c.memory(RECEIVE[0] + 8, 8), [tcp.len() as u8, 0, 0, 0, 0x63, 0, 0, 0]);
    let mut bad = tcp.clone();
    bad[22] ^= 1;
    bad[60] ^= 1;
    c.cable.arrives(&bad);
    assert_eq!(c.memory(RECEIVE[0] + 24, 8)[4..6], [0x63, 0x60], "both sums are wrong");
    c.set(reg::RFCTL, 1 << 15);
    c.cable.arrives(&udp);
    let (at, len) = (RECEIVE[0] + 32, udp.len().max(60) as u32);
    assert_eq!([0, 4, 8, 12].map(|i| c.word(at + i)), [0, 0x1234, 0x73, len]);
    // A datagram without a checksum, then no checks at all.
    let mut plain = udp.clone();
    plain[40..42].fill(0);
    c.cable.arrives(&plain);
    assert_eq!(c.word(at + 16 + 8), 0x43);
    c.set(reg::RXCSUM, 0);
    c.cable.arrives(&udp);
    assert_eq!((c.word(at + 32 + 8), c.get(RDH)), (7, 5));
    assert_eq!(c.get(reg::RECEIVED), 5);
    assert_eq!(c.get(reg::RECEIVED), 0, "counters are read once");
    // What there is no room for waits, what is not for us does not.
    c.cable.arrives(&frame(MAC, 1000));
    c.cable.arrives(&frame(MAC, 1001));
    assert_eq!(c.get(RDH), 6);
    c.set(RDT, 1);
    assert_eq!((c.get(RDH), c.memory(RECEIVE[0] + 16 * 6 + 12, 2)), (7, 1001u16.to_le_bytes().to_vec()));
    c.cable.arrives(&frame([2, 0, 0, 0, 0, 9], 100));
    assert_eq!(c.get(RDH), 7);
}

#[test]
fn headers_have_a_buffer_of_their_own() {
    let c = Card::new();
    c.set_up(32);
    c.set(reg::RFCTL, 1 << 15);
    c.set(reg::PSRCTL, 2 | 1 << 8 | 1 << 16);
    c.set(reg::RCTL, RCTL | 1 << 10 | 1 << 5);
    c.set(RDT, 7);
    let data: Vec<u8> = (0..1400).map(|i| (i % 251) as u8).collect();
    let tcp = packet(6, 1, &data);
    c.cable.arrives(&tcp);
    let half = |at: u64| c.word(at) & 0xffff;
    assert_eq!(half(RECEIVE[0] + 12), 54);
    assert_eq!([16, 18, 20, 22].map(|i| half(RECEIVE[0] + i)), [0x8000 | 54, 1024, 376, 0]);
    assert_eq!(c.word(RECEIVE[0] + 8) & 3, 3);
    assert_eq!(c.memory(DATA, 54), tcp[..54]);
    assert_eq!([c.memory(DATA + 0x400, 1024), c.memory(DATA + 0x800, 376)].concat(), data);
    // Without headers, over two descriptors.
    c.cable.arrives(&frame(MAC, 2500));
    let at = RECEIVE[0] + 32;
    assert_eq!([12, 16, 18, 20].map(|i| half(at + i)), [256, 0, 1024, 1024]);
    assert_eq!((c.word(at + 8) & 3, c.word(at + 40) & 3, half(at + 44)), (1, 3, 196));
    assert_eq!(c.get(RDH), 3);
}

#[test]
fn flows_choose_their_queue() {
    let c = Card::new();
    c.set(reg::RFCTL, 1 << 15);
    (0..10).for_each(|i| c.set(reg::RSSRK + 4 * i, 0x0101_0101 * (i + 1)));
    // Every other entry leads to the second queue.
    (0..32).for_each(|i| c.set(reg::RETA + 4 * i, 0x8000_8000));
    c.set(reg::MRQC, 1 | 1 << 16 | 1 << 17);
    c.set(reg::RXCSUM, 1 << 13);
    c.set(RDT, 7);
    c.set(RDT + reg::QUEUE, 7);
    for port in 1..=7 {
        c.cable.arrives(&packet(6, port, b"x"));
    }
    let heads = [c.get(RDH), c.get(RDH + reg::QUEUE)];
    assert_eq!(heads.iter().sum::<u32>(), 7);
    assert!(heads.iter().all(|head| *head > 0), "{heads:?}");
    for queue in 0..2u32 {
        for i in 0..heads[queue as usize] {
            let at = RECEIVE[queue as usize] + 16 * u64::from(i);
            assert_eq!(c.word(at), 1 | queue << 8);
            assert_eq!(c.word(at + 4) & 1, queue, "the last bit of the hash chose");
        }
    }
    assert_ne!(c.get(reg::ICR) & 3 << 20, 0);
    // Others go to the first.
    c.cable.arrives(&frame(MAC, 100));
    assert_eq!(c.get(RDH), heads[0] + 1);
}

#[test]
fn tags_come_off_and_on() {
    let c = Card::new();
    c.set(RDT, 4);
    c.set(reg::RCTL, RCTL | 1 << 18);
    let plain = frame(MAC, 100);
    let tagged = [&plain[..12], &[0x81, 0, 0x20, 5], &plain[12..]].concat();
    c.cable.arrives(&tagged);
    assert_eq!(c.get(RDH), 0, "filtered");
    c.set(0x5600, 1 << 5);
    c.cable.arrives(&tagged);
    assert_eq!((c.get(RDH), c.memory(DATA, 104)), (1, tagged.clone()));
    c.set(reg::CTRL, 1 << 30);
    c.cable.arrives(&tagged);
    assert_eq!(c.memory(DATA + 0x1000, 100), plain);
    assert_eq!(c.memory(RECEIVE[0] + 24, 8), [100, 0, 0, 0, 0x0f, 0, 5, 0x20]);
    c.put(DATA, &plain);
    c.put(SEND[0], &DATA.to_le_bytes());
    c.put(SEND[0] + 8, &[100, 0, 0, 0x49, 0, 0, 5, 0x20]);
    c.set(TDT, 1);
    assert_eq!(c.cable.sent(), [tagged]);
}

#[test]
fn both_rings_send() {
    let c = Card::new();
    c.set(reg::IMS, 1);
    let mut tcp = packet(6, 9, &[3; 300]);
    // The sum of the pseudo-header without its length, for segmentation.
    tcp[24..26].fill(0);
    let seed = checksum::sum(&tcp[26..34], 6);
    tcp[50..52].copy_from_slice(&(seed as u16).to_be_bytes());
    c.put(DATA, &tcp);
    for (queue, at) in SEND.into_iter().enumerate() {
        c.put(at, &[14, 24, 33, 0, 34, 50, 0, 0, 44, 1, 0, 0x27, 0, 54, 100, 0]);
        c.put(at + 16, &DATA.to_le_bytes());
        c.put(at + 24, &[(tcp.len() & 0xff) as u8, (tcp.len() >> 8) as u8, 0x10, 0x2d, 0, 3, 0, 0]);
        c.set(TDT + reg::QUEUE * queue as u32, 2);
        let sent = c.cable.sent();
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [154; 3]);
        for f in &sent {
            let seed = checksum::sum(&f[26..34], 6 + 120);
            assert_eq!((checksum::sum(&f[14..34], 0), checksum::sum(&f[34..], seed)), (0xffff, 0xffff));
        }
        assert_eq!(c.memory(at + 28, 1), [1]);
        assert!(c.line("intx"));
        assert_eq!(c.get(reg::ICR), 1 << 31 | 1 << (22 + queue) | 3);
        assert!(!c.line("intx"));
    }
    assert_eq!((c.get(reg::TRANSMITTED), c.get(reg::TRANSMITTED_OCTETS)), (6, 6 * 158));
}

#[test]
fn causes_are_read_and_masked() {
    let c = Card::new();
    c.set(reg::ICS, 4);
    c.set(reg::IMS, 1);
    assert_eq!(c.get(reg::ICR), 4, "nothing is asserted: it stays");
    c.set(reg::IMS, 4);
    assert!(c.line("intx"));
    c.set(reg::CTRL_EXT, 1 << 27);
    c.set(reg::IAM, 4);
    assert_eq!((c.get(reg::ICR), c.get(reg::IMS), c.line("intx")), (1 << 31 | 4, 1, false));
    c.set(reg::IMC, !0);
    c.set(reg::ICS, 0x10);
    assert_eq!((c.get(reg::ICR), c.get(reg::ICR)), (0x10, 0));
    c.set(reg::ICS, 5);
    c.set(reg::ICR, 4);
    assert_eq!(c.get(reg::ICS), 1);
    c.cable.link(false);
    assert_eq!((c.get(reg::STATUS) & 2, c.get(reg::ICR)), (0, 5));
    c.set(reg::CTRL, registers::CTRL_RESET);
    assert_eq!((c.get(reg::RX + reg::LENGTH), c.get(0x5400)), (0, 0x1200_5452));
    c.cable.link(true);
    assert_eq!(c.get(reg::STATUS) & 2, 2);
}

#[test]
fn messages_by_cause() {
    let c = Card::new();
    c.enable_messages(MESSAGES, 0x40);
    // First receive queue: vector 0; first transmit queue: 1; the rest: 2.
    c.set(reg::IVAR, 8 | 9 << 8 | 10 << 16);
    c.set(reg::EIAC, 1 << 20 | 1 << 22);
    c.set(reg::IMS, 1 << 20 | 1 << 22 | 1 << 24 | 4);
    c.set(RDT, 6);
    c.cable.arrives(&frame(MAC, 100));
    assert_eq!(c.messages(), [0x40]);
    assert_eq!(c.get(reg::IMS), 1 << 22 | 1 << 24 | 4, "masked until the driver has looked");
    c.cable.arrives(&frame(MAC, 100));
    assert!(c.messages().is_empty());
    c.set(reg::IMS, 1 << 20);
    assert_eq!(c.messages(), [0x40]);
    c.cable.link(false);
    assert_eq!(c.messages(), [0x42]);
    assert_eq!(c.get(reg::ICR) & (1 << 31 | 1 << 24 | 4), 1 << 31 | 1 << 24 | 4);
    c.cable.link(true);
    assert_eq!(c.messages(), [0x42]);
    // Held back for 256 us.
    c.set(reg::EITR, 1000);
    c.set(reg::IMS, 1 << 20);
    c.set(reg::ICS, 1 << 20);
    c.messages();
    c.set(reg::IMS, 1 << 20);
    c.set(reg::ICS, 1 << 20);
    assert!(c.messages().is_empty());
    c.advance(300_000);
    assert_eq!(c.messages(), [0x40]);
}

#[test]
fn the_clock_goes_on() {
    let c = Card::new();
    c.set(reg::TIMINCA, 1 << 24 | 40);
    c.advance(1_000_000);
    assert_eq!((c.get(reg::SYSTIM), c.get(reg::SYSTIM + 4)), (1_000_000, 0));
    c.set(reg::SYSTIM, 0);
    c.set(reg::SYSTIM + 4, 7);
    c.set(reg::TIMINCA, 2 << 24 | 40);
    c.advance(1_000_000);
    assert_eq!((c.get(reg::SYSTIM), c.get(reg::SYSTIM + 4)), (500_000, 7));
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(E1000eConfig::default()));
    check(Pci { express: true, ..Pci::new(E1000eConfig::default()) });
}

/// Rings, registers and frames of any kind, with every kind of descriptor: it ends, and keeps little.
#[test]
fn fuzz_hostile_rings() {
    let c = Card::new();
    let pci = Pci::new(E1000eConfig::default());
    let mut rng = Rng::new(22);
    for _ in 0..fuzz_cases() {
        scramble(&c, &pci, &mut rng, 5);
        c.enable();
        c.set_up(if rng.below(2) == 0 { 16 } else { 32 });
        for queue in 0..2 {
            let mut ring = [0; 256];
            ring.fill_with(|| rng.next_u64() as u8);
            c.put(SEND[queue], &ring[..128]);
            for i in 0..8 {
                c.put(SEND[queue] + 16 * i, &(DATA + rng.below(4) * 0x800).to_le_bytes());
            }
            if rng.below(4) == 0 {
                c.put(RECEIVE[queue], &ring);
            }
            c.set(reg::RX + reg::QUEUE * queue as u32 + reg::TAIL, rng.below(9) as u32);
        }
        let any = rng.next_u64();
        c.set(reg::PSRCTL, rng.next_u64() as u32);
        c.set(reg::MRQC, 1 | 0x1f << 16);
        c.set(reg::RFCTL, any as u32);
        c.set(reg::RCTL, (any >> 32) as u32 | 2);
        c.set(TDT, rng.below(9) as u32);
        c.set(TDT + reg::QUEUE, rng.below(9) as u32);
        let mut data = packet(if rng.below(2) == 0 { 6 } else { 17 }, any as u16, &[5; 200]);
        let at = rng.below(data.len() as u64) as usize;
        data[at] = rng.next_u64() as u8;
        data.truncate(14 + rng.below(data.len() as u64) as usize);
        c.cable.arrives(&data);
        c.cable.arrives(&frame(MAC, 14 + rng.below(9000) as usize));
        c.cable.sent();
        assert!(c.cell().save().to_bytes().len() < 600 << 10);
    }
}
