//! Tests of virtio over PCI, with the entropy device behind it.

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
    assert_eq!(b.config_read(0, 4), 0x1044_1af4);
    start(&b, 0xffff);
    assert!(b.line(pci::INTX));
    assert_eq!((b.bar_read(BAR, 0x1000, 1), b.bar_read(BAR, 0x1000, 1)), (1, 0));
    assert!(!b.line(pci::INTX));
}

#[test]
fn a_buffer_is_used_and_a_message_tells() {
    let b = PciBench::express(config());
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

#[test]
fn passes_the_common_tests() {
    check(Pci::new(config()));
    check(Pci { express: true, ..Pci::new(config()) });
}
