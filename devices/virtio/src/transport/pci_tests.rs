//! Tests of virtio over PCI, with the entropy device behind it.

use ::device::Properties;
use ::device::test_bench::{RAM_BASE, check};
use pci::Pci;
use pci::config_space::cap;
use pci::test_bench::PciBench;

use super::pci::VirtioPci;
use crate::rng::{RngConfig, RngSource};

fn config() -> VirtioPci<RngConfig> {
    VirtioPci::new(
        RngConfig::default(),
        RngSource::new(|data| {
            data.fill(0x5a);
            true
        }),
    )
}

const BAR: usize = 4;
const DESC: u64 = RAM_BASE;
const AVAIL: u64 = RAM_BASE + 0x1000;
const USED: u64 = RAM_BASE + 0x2000;
const BUFFER: u64 = RAM_BASE + 0x3000;

/// Negotiates and sets up queue 0 with one buffer of 16 bytes.
fn start(b: &PciBench, vector: u64) {
    b.enable();
    for status in [0, 1, 3] {
        b.bar_write(BAR, 0x14, 1, status);
    }
    b.bar_write(BAR, 0, 4, 1);
    assert_eq!(b.bar_read(BAR, 4, 4) & 1, 1, "VERSION_1");
    b.bar_write(BAR, 8, 4, 1);
    b.bar_write(BAR, 12, 4, 1);
    b.bar_write(BAR, 0x14, 1, 11);
    assert_eq!(b.bar_read(BAR, 0x14, 1), 11);
    b.bar_write(BAR, 0x16, 2, 0);
    b.bar_write(BAR, 0x18, 2, 8);
    b.bar_write(BAR, 0x1a, 2, vector);
    for (at, value) in [(0x20, DESC), (0x28, AVAIL), (0x30, USED)] {
        b.bar_write(BAR, at, 4, value & 0xffff_ffff);
        b.bar_write(BAR, at + 4, 4, value >> 32);
    }
    assert_eq!(b.bar_read(BAR, 0x28, 4), AVAIL);
    b.bar_write(BAR, 0x1c, 2, 1);
    b.bar_write(BAR, 0x14, 1, 15);
    let write = |gpa: u64, bytes: &[u8]| b.ram().write(gpa - RAM_BASE, bytes).unwrap();
    write(DESC, &BUFFER.to_le_bytes());
    write(DESC + 8, &[16, 0, 0, 0, 2, 0, 0, 0]);
    write(AVAIL, &[0, 0, 1, 0, 0, 0]);
    b.bar_write(BAR, 0x3000, 2, 0);
    let mut data = [0; 16];
    b.ram().read(BUFFER - RAM_BASE, &mut data).unwrap();
    assert_eq!(data, [0x5a; 16]);
}

#[test]
fn a_buffer_is_used_and_the_pin_tells() {
    let b = PciBench::new(config());
    assert_eq!(
        (b.config_read(0, 4), b.config_read(8, 1), b.config_read(0x2c, 4)),
        (0x1005_1af4, 0, 0x0004_1af4)
    );
    start(&b, 0xffff);
    assert!(b.line(pci::INTX));
    assert_eq!((b.bar_read(BAR, 0x1000, 1), b.bar_read(BAR, 0x1000, 1)), (1, 0));
    assert!(!b.line(pci::INTX));
}

#[test]
fn a_buffer_is_used_and_a_message_tells() {
    let b = PciBench::express(config());
    assert_eq!((b.config_read(0, 4), b.config_read(8, 1)), (0x1044_1af4, 1));
    b.enable();
    b.enable_messages(0xfee0_0000, 0x30);
    start(&b, 1);
    assert!(!b.line(pci::INTX));
    assert_eq!(b.take_messages().iter().map(|m| m.data).collect::<Vec<_>>(), [0x31]);
    b.bar_write(BAR, 0x10, 2, 9);
    assert_eq!(b.bar_read(BAR, 0x10, 2), 0xffff, "there is no such vector");
}

#[test]
fn firmware_reaches_it_without_mapping() {
    let b = PciBench::new(config());
    let mut at = b.capability(cap::VENDOR).unwrap();
    while b.config_read(at + 3, 1) != 5 {
        at = b.config_read(at + 1, 1) as usize;
    }
    let access = |offset: u64, len: u64| {
        b.config_write(at + 4, 1, BAR as u64);
        b.config_write(at + 8, 4, offset);
        b.config_write(at + 12, 4, len);
    };
    access(0x14, 1);
    b.config_write(at + 16, 4, 1);
    assert_eq!((b.bar_read(BAR, 0x14, 1), b.config_read(at + 16, 4) & 0xff), (1, 1));
    access(0x3ffe, 4);
    assert_eq!(b.config_read(at + 4, 1), 4);
}

/// What a driver of before version 1 does, with the block of ports alone.
fn start_legacy(b: &PciBench) {
    b.enable();
    for status in [0, 1, 3] {
        b.bar_write(0, 18, 1, status);
    }
    assert_eq!(
        b.bar_read(0, 0, 4),
        3 << 28,
        "no features of the ring's but event indices and indirect descriptors"
    );
    b.bar_write(0, 4, 4, 1 << 28);
    b.bar_write(0, 14, 2, 0);
    let size = b.bar_read(0, 12, 2);
    b.bar_write(0, 8, 4, RAM_BASE >> 12);
    assert_eq!(b.bar_read(0, 8, 4), RAM_BASE >> 12);
    b.bar_write(0, 18, 1, 7);
    assert_eq!(b.bar_read(0, 18, 1), 7);
    let write = |gpa: u64, bytes: &[u8]| b.ram().write(gpa - RAM_BASE, bytes).unwrap();
    let buffer = RAM_BASE + 0x8000;
    write(RAM_BASE, &buffer.to_le_bytes());
    write(RAM_BASE + 8, &[16, 0, 0, 0, 2, 0, 0, 0]);
    write(RAM_BASE + 16 * size, &[0, 0, 1, 0, 0, 0]);
    b.bar_write(0, 16, 2, 0);
    let mut data = [0; 16];
    b.ram().read(buffer - RAM_BASE, &mut data).unwrap();
    assert_eq!(data, [0x5a; 16]);
    let used = (RAM_BASE + 16 * size + 2 * (3 + size)).next_multiple_of(4096);
    b.ram().read(used - RAM_BASE, &mut data).unwrap();
    assert_eq!(data[2..4], [1, 0]);
}

#[test]
fn a_legacy_driver_finds_its_ports() {
    let b = PciBench::new(config());
    start_legacy(&b);
    assert!(b.line(pci::INTX));
    assert_eq!((b.bar_read(0, 19, 1), b.bar_read(0, 19, 1)), (1, 0));
    assert!(!b.line(pci::INTX));
    // It moves, and is taken away.
    let saved = b.cell().save();
    let twin = PciBench::new(config());
    twin.cell().restore(&saved).unwrap();
    assert_eq!((twin.cell().save(), twin.bar_read(0, 18, 1)), (saved, 7));
    b.bar_write(0, 8, 4, 0);
    assert_eq!(b.bar_read(0, 8, 4), 0);
    b.bar_write(0, 18, 1, 0);
    assert_eq!((b.bar_read(0, 18, 1), b.bar_read(0, 4, 4)), (0, 0));
    // The modern interface works as well, on rings of its own.
    b.ram().fill(0, 0x8000, 0).unwrap();
    start(&b, 0xffff);
}

#[test]
fn either_interface_can_be_left_out() {
    let with = |options: &[(&str, &str)]| {
        let mut config = config();
        options.iter().for_each(|(k, v)| config.set(k, v).unwrap());
        config
    };
    let b = PciBench::new(with(&[("disable-legacy", "on")]));
    assert_eq!((b.config_read(0, 4), b.config_read(0x10, 4)), (0x1044_1af4, 0));
    let b = PciBench::new(with(&[("disable-modern", "on")]));
    assert_eq!(
        (b.config_read(0, 4), b.config_read(0x20, 4), b.capability(cap::VENDOR)),
        (0x1005_1af4, 0, None)
    );
    start_legacy(&b);
    let b = PciBench::express(with(&[("disable-legacy", "off")]));
    assert_eq!(b.config_read(0, 4), 0x1005_1af4);
    assert!(with(&[]).set("disable-legacy", "maybe").is_err());
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(config()));
    check(Pci { express: true, ..Pci::new(config()) });
}
