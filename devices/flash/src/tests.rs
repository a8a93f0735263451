//! Chips on the bench.

use std::sync::Arc;

use block::{Disk, IoPool, MemoryNode};
use device::ResetKind;
use device::test_bench::{Bench, check};

use crate::PflashConfig;

fn disk(read_only: bool) -> Disk {
    let disk = Disk::new("d", Arc::new(MemoryNode::new("m", 64 << 10)), false, &IoPool::new(1));
    for at in (0..64 << 10).step_by(256) {
        disk.write_at(at, &std::array::from_fn::<u8, 256, _>(|i| i as u8)).unwrap();
    }
    Disk::new("d", disk.node().clone(), read_only, &IoPool::new(1))
}

fn chip(disk: &Disk) -> PflashConfig {
    PflashConfig { disk: Some(disk.clone()), size: 64 << 10, ..PflashConfig::default() }
}

fn on_disk(disk: &Disk, at: u64) -> u8 {
    let mut byte = [0];
    disk.read_at(at, &mut byte).unwrap();
    byte[0]
}

#[test]
fn firmware_can_tell_it_from_rom_and_ram() {
    let b = Bench::new(chip(&disk(false)));
    let at = 0x123;
    assert_eq!(b.read(0, at, 1), 0x23);
    b.write(0, at, 1, 0x50);
    assert_eq!(b.read(0, at, 1), 0x23, "clearing the status changes no contents");
    b.write(0, at, 1, 0x70);
    assert_eq!(b.read(0, at, 1), 0, "a cleared status");
    b.write(0, at, 1, 0xff);
    assert_eq!(b.read(0, at, 1), 0x23);
}

#[test]
fn programming_clears_bits_and_erasing_sets_them_on_the_disk_as_well() {
    let disk = disk(false);
    let b = Bench::new(chip(&disk));
    b.write(0, 0x10ff, 1, 0x40);
    b.write(0, 0x10ff, 1, 0x5a);
    assert_eq!(b.read(0, 0, 1), 0x80, "the status follows");
    b.write(0, 0, 1, 0xff);
    assert_eq!((b.read(0, 0x10ff, 1), on_disk(&disk, 0x10ff)), (0x5a, 0x5a));
    b.write(0, 0x10ff, 1, 0x10);
    b.write(0, 0x10ff, 1, 0xf3);
    b.write(0, 0, 1, 0xf0);
    assert_eq!(b.read(0, 0x10ff, 1), 0x52, "no bit is set");
    b.write(0, 0x1234, 1, 0x20);
    b.write(0, 0x1234, 1, 0xd0);
    assert_eq!(b.read(0, 0x1234, 1), 0x80);
    b.write(0, 0, 1, 0);
    for (at, byte) in [(0xfff, 0xff), (0x1000, 0xff), (0x1fff, 0xff), (0x2001, 1)] {
        assert_eq!((b.read(0, at, 1), on_disk(&disk, at)), (byte, byte as u8), "{at:#x}");
    }
    assert_eq!(b.read(0, 0x1ffc, 8), 0x0302_0100_ffff_ffff, "any width");
}

#[test]
fn a_buffer_is_programmed_when_confirmed() {
    let disk = disk(false);
    let b = Bench::new(chip(&disk));
    b.write(0, 0x2000, 1, 0x20);
    b.write(0, 0x2000, 1, 0xd0);
    for (at, value) in [(0x2000, 0xe8), (0x2000, 1), (0x2005, 0x11), (0x2007, 0x22)] {
        b.write(0, at, 1, value);
        assert_eq!(b.read(0, 0x2000, 1), 0x80);
    }
    assert_eq!(on_disk(&disk, 0x2005), 0xff, "not before");
    b.write(0, 0x2000, 1, 0xd0);
    b.write(0, 0, 1, 0xff);
    assert_eq!(b.read(0, 0x2004, 4), 0x22ff_11ff);
    assert_eq!(on_disk(&disk, 0x2007), 0x22);
    // A word outside of the buffer's stretch, and no confirmation: nothing is done.
    for (at, value) in [(0x3000, 0xe8), (0x3000, 1), (0x3000, 0), (0x2fff, 0)] {
        b.write(0, at, 1, value);
    }
    assert_eq!(b.read(0, 0, 1), 0xb0);
    b.write(0, 0, 1, 0x50);
    for value in [0xe8, 0, 0, 0xff] {
        b.write(0, 0x3001, 1, value);
    }
    assert_eq!(b.read(0, 0, 1), 0xb0);
    b.write(0, 0, 1, 0xff);
    assert_eq!(b.read(0, 0x3001, 1), 1);
}

#[test]
fn a_read_only_chip_refuses() {
    let disk = disk(true);
    let b = Bench::new(chip(&disk));
    b.write(0, 1, 1, 0x40);
    b.write(0, 1, 1, 0);
    assert_eq!(b.read(0, 0, 1), 0x92);
    b.write(0, 0, 1, 0x50);
    b.write(0, 1, 1, 0x20);
    b.write(0, 1, 1, 0xd0);
    assert_eq!(b.read(0, 0, 1), 0xa2);
    b.write(0, 0, 1, 0xff);
    assert_eq!((b.read(0, 1, 1), on_disk(&disk, 1)), (1, 1));
}

#[test]
fn it_says_what_it_is() {
    let b = Bench::new(chip(&disk(false)));
    b.write(0, 0x55, 1, 0x98);
    let query: Vec<u8> = (0x10..0x31).map(|at| b.read(0, at, 1) as u8).collect();
    assert_eq!(&query[..3], b"QRY");
    assert_eq!(query[0x17], 16, "64 KiB");
    assert_eq!(query[0x1c..0x21], [1, 15, 0, 16, 0], "16 blocks of 4 KiB");
    b.write(0, 0, 1, 0x90);
    assert_eq!((b.read(0, 0, 1), b.read(0, 1, 1)), (0x89, 0x18));
    // Two x16 chips on 32 bits answer side by side.
    let wide = PflashConfig { size: 128 << 10, block: 8192, width: 4, device_width: 2, ..Default::default() };
    let b = Bench::new(wide);
    b.write(0, 0x55 * 4, 4, 0x0098_0098);
    assert_eq!(b.read(0, 0x10 * 4, 4), 0x0051_0051);
    assert_eq!(b.read(0, 0x27 * 4, 4), 0x0010_0010, "of one chip");
    b.write(0, 0, 4, 0x0040_0040);
    b.write(0, 8, 4, 0x1234_5678);
    assert_eq!(b.read(0, 0, 4), 0x0080_0080);
    b.write(0, 0, 4, 0xff);
    assert_eq!(b.read(0, 8, 4), 0x1234_5678);
}

#[test]
fn a_restored_machine_writes_its_contents_back() {
    let (here, there) = (disk(false), disk(false));
    let b = Bench::new(chip(&here));
    b.write(0, 1, 1, 0x40);
    b.write(0, 1, 1, 0);
    let saved = b.cell().save();
    let twin = Bench::new(chip(&there));
    twin.cell().restore(&saved).unwrap();
    assert_eq!(twin.read(0, 0, 1), 0x80);
    // Its memory came as another part of the saved machine.
    there.write_at(1, &[7]).unwrap();
    twin.cell().resume();
    assert_eq!(on_disk(&there, 1), 1);
    twin.cell().reset(ResetKind::Warm);
    assert_eq!(twin.read(0, 1, 1), 1, "a reset reads the array");
}

#[test]
fn passes_the_common_tests() {
    check(chip(&disk(false)));
    check(PflashConfig { size: 64 << 10, block: 16 << 10, width: 4, device_width: 2, ..Default::default() });
}
