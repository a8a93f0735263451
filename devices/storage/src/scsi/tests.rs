//! Tests of logical units, command by command.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::{Disk, IoPool, MemoryNode};

use super::*;
use crate::media::Slots;

fn disk(read_only: bool) -> Disk {
    let node = MemoryNode::from_vec("d", (0..1 << 20).map(|i| (i / 512) as u8).collect());
    Disk::new("d", Arc::new(node), read_only, &IoPool::immediate())
}

fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

/// A unit that has told of its reset.
fn unit(drive: &ScsiDrive) -> ScsiUnit {
    let mut unit = ScsiUnit::new(drive).unwrap();
    assert_eq!(unit.execute(&cdb(&[0])), Reply::Check(Sense::RESET));
    unit
}

fn data(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::Data(data) => data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_says_what_it_is() {
    let drive = ScsiDrive {
        serial: Some("abc".into()),
        wwn: 0x5000_1234,
        rotation: 1,
        ..ScsiDrive::disk(0, 0, disk(false))
    };
    let mut u = unit(&drive);
    let inquiry = data(u.execute(&cdb(&[0x12, 0, 0, 0, 36])));
    assert_eq!((inquiry.len(), inquiry[0], &inquiry[8..12]), (36, 0, &b"Rhea"[..]));
    assert_eq!(data(u.execute(&cdb(&[0x12, 1, 0, 0, 255])))[4..], [0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    assert_eq!(data(u.execute(&cdb(&[0x12, 1, 0x80, 0, 255]))), [0, 0x80, 0, 3, b'a', b'b', b'c']);
    let id = data(u.execute(&cdb(&[0x12, 1, 0x83, 0, 255])));
    assert_eq!(id[4..], [2, 0, 0, 3, b'a', b'b', b'c', 1, 3, 0, 8, 0, 0, 0, 0, 0x50, 0, 0x12, 0x34]);
    assert_eq!(data(u.execute(&cdb(&[0x12, 1, 0xb1, 0, 255])))[4..6], [0, 1]);
    assert_eq!(u.execute(&cdb(&[0x12, 1, 0x99, 0, 255])), Reply::Check(Sense::INVALID_FIELD));
    assert_eq!(data(u.execute(&cdb(&[0x25]))), [0, 0, 7, 255, 0, 0, 2, 0]);
    let long = data(u.execute(&cdb(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32])));
    assert_eq!((long.len(), &long[..12]), (32, &[0, 0, 0, 0, 0, 0, 7, 255, 0, 0, 2, 0][..]));
    let mode = data(u.execute(&cdb(&[0x1a, 0, 8, 0, 255])));
    assert_eq!((mode[2], mode[12], mode[14]), (0x10, 8, 4), "writable, caching page, cache on");
    assert_eq!(u.execute(&cdb(&[0xff])), Reply::Check(Sense::INVALID_COMMAND));
}

#[test]
fn a_disk_moves_data() {
    let mut u = unit(&ScsiDrive::disk(0, 0, disk(false)));
    assert_eq!(u.execute(&cdb(&[0x08, 0, 0, 3, 2])), Reply::Read(3 * 512, 1024));
    assert_eq!(u.execute(&cdb(&[0x28, 0, 0, 0, 0, 3, 0, 0, 2])), Reply::Read(3 * 512, 1024));
    assert_eq!(u.execute(&cdb(&[0x28, 0, 0, 0, 0, 3, 0, 0, 0])), Reply::Done);
    assert_eq!(u.execute(&cdb(&[0x28, 0, 0, 0, 8, 0, 0, 0, 1])), Reply::Check(Sense::OUT_OF_RANGE));
    let far = [0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
    assert_eq!(u.execute(&cdb(&far)), Reply::Check(Sense::OUT_OF_RANGE));
    assert_eq!(
        u.execute(&cdb(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1])),
        Reply::Write { offset: 512, len: 512, fua: false }
    );
    assert_eq!(
        u.execute(&cdb(&[0x2a, 8, 0, 0, 0, 1, 0, 0, 1])),
        Reply::Write { offset: 512, len: 512, fua: true }
    );
    assert_eq!(u.execute(&cdb(&[0x35])), Reply::Flush);
    // The cache is switched off: all writes are stable.
    assert_eq!(u.execute(&cdb(&[0x15, 0x10, 0, 0, 24])), Reply::Receive(24, Sent::Mode(false)));
    let mut page = vec![0; 24];
    (page[4], page[5]) = (8, 18);
    assert_eq!(u.received(Sent::Mode(false), &page), Reply::Flush);
    assert_eq!(
        u.execute(&cdb(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1])),
        Reply::Write { offset: 512, len: 512, fua: true }
    );
    let saved = u.save();
    u.reset();
    assert_eq!(u.execute(&cdb(&[0])), Reply::Check(Sense::RESET));
    u.restore(&saved).unwrap();
    assert!(matches!(u.execute(&cdb(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1])), Reply::Write { fua: true, .. }));
    // Ranges.
    assert_eq!(u.execute(&cdb(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24])), Reply::Receive(24, Sent::Unmap));
    let mut ranges = vec![0; 24];
    (ranges[15], ranges[19]) = (4, 2);
    assert_eq!(u.received(Sent::Unmap, &ranges), Reply::Discard(vec![(2048, 1024)]));
    (ranges[8], ranges[19]) = (1, 2);
    assert_eq!(u.received(Sent::Unmap, &ranges), Reply::Check(Sense::OUT_OF_RANGE));
    let same = Sent::Same { offset: 512, len: 1024, unmap: true };
    assert_eq!(u.execute(&cdb(&[0x41, 8, 0, 0, 0, 1, 0, 0, 2])), Reply::Receive(512, same));
    assert_eq!(u.received(same, &[0; 512]), Reply::Zero(512, 1024, true));
    assert_eq!(u.received(same, &[1; 512]), Reply::Check(Sense::INVALID_FIELD));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let mut u = unit(&ScsiDrive::disk(0, 0, disk(true)));
    for command in [
        &[0x2a, 0, 0, 0, 0, 1, 0, 0, 1][..],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24],
        &[0x41, 0, 0, 0, 0, 1, 0, 0, 1],
    ] {
        assert_eq!(u.execute(&cdb(command)), Reply::Check(Sense::WRITE_PROTECTED));
    }
    assert_eq!(data(u.execute(&cdb(&[0x1a, 0, 8, 0, 255])))[2], 0x90);
}

#[test]
fn a_disc_is_changed_behind_its_tray() {
    let moves = Arc::new(AtomicUsize::new(0));
    let count = moves.clone();
    let listener = TrayListener::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut u = unit(&ScsiDrive { tray: listener, ..ScsiDrive::cd(0, 0, Some(disk(true))) });
    assert_eq!(u.execute(&cdb(&[0])), Reply::Done);
    assert_eq!(data(u.execute(&cdb(&[0x25]))), [0, 0, 1, 255, 0, 0, 8, 0]);
    assert_eq!(u.execute(&cdb(&[0x1e, 0, 0, 0, 1])), Reply::Done);
    let mut opened = true;
    assert!(u.with_slot(0, &mut |slot| opened = slot.open(false)) && !opened, "the guest holds it");
    assert!(u.with_slot(0, &mut |slot| {
        opened = slot.open(true);
        slot.load(None);
        slot.shut();
    }));
    assert!(opened && u.disk().is_none());
    assert_eq!(u.execute(&cdb(&[0])), Reply::Check(Sense::NO_MEDIUM));
    u.with_slot(0, &mut |slot| {
        assert!(slot.open(false) && !slot.is_loaded());
        slot.load(Some(disk(true)));
        slot.shut();
    });
    assert_eq!(u.execute(&cdb(&[0])), Reply::Check(Sense::MEDIUM_CHANGED));
    assert_eq!(u.execute(&cdb(&[0])), Reply::Done);
    // The guest opens it.
    assert_eq!(u.execute(&cdb(&[0x1b, 0, 0, 0, 2])), Reply::Done);
    assert_eq!((u.execute(&cdb(&[0])), moves.load(Ordering::Relaxed)), (Reply::Check(Sense::TRAY_OPEN), 5));
    assert!(!unit(&ScsiDrive::disk(0, 0, disk(false))).with_slot(0, &mut |_| {}));
}

#[test]
fn what_is_not_there_says_so() {
    assert_eq!(data(absent(&cdb(&[0x12, 0, 0, 0, 36])))[0], 0x7f);
    assert_eq!(absent(&cdb(&[0])), Reply::Check(Sense::INVALID_UNIT));
    assert_eq!(data(absent(&cdb(&[3, 0, 0, 0, 18])))[12], 0x25);
    let luns = data(report_luns(&cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), &[0, 300]));
    assert_eq!(luns, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
    let bus = ScsiBus::default();
    bus.hang(ScsiDrive::cd(0, 0, None)).unwrap();
    assert_eq!(bus.hang(ScsiDrive::cd(0, 0, None)), Err(ScsiBusError::Taken(0, 0)));
    assert_eq!(bus.hang(ScsiDrive::cd(0, 20_000, None)), Err(ScsiBusError::BadUnit(20_000)));
    assert_eq!((bus.free_target(), bus.drives().len()), (Ok(1), 1));
}

/// Whatever the bytes are, an answer lies within the disk.
#[test]
fn random_commands_stay_within() {
    let mut rng = device::test_bench::Rng::new(11);
    let mut units = [
        unit(&ScsiDrive::disk(0, 0, disk(false))),
        unit(&ScsiDrive::cd(0, 0, Some(disk(true)))),
        unit(&ScsiDrive { block: 4096, ..ScsiDrive::disk(0, 0, disk(false)) }),
    ];
    for _ in 0..100_000 {
        let mut bytes = [0; 16];
        bytes.fill_with(|| if rng.below(2) == 0 { 0 } else { rng.next_u64() as u8 });
        let u = &mut units[rng.below(3) as usize];
        let mut reply = u.execute(&bytes);
        if let Reply::Receive(len, sent) = reply {
            assert!(len <= 1 << 16, "{len}");
            let data: Vec<u8> = (0..len.min(200)).map(|_| rng.below(3) as u8).collect();
            reply = u.received(sent, &data);
        }
        let within =
            |offset: u64, len: u64| assert!(offset.checked_add(len).is_some_and(|end| end <= 1 << 20));
        match reply {
            Reply::Read(offset, len) | Reply::Write { offset, len, .. } | Reply::Zero(offset, len, _) => {
                within(offset, len)
            }
            Reply::Discard(ranges) => ranges.iter().for_each(|(offset, len)| within(*offset, *len)),
            Reply::Data(data) => assert!(data.len() < 70_000),
            _ => {}
        }
    }
}

#[test]
fn another_size_is_told_once() {
    let disk = disk(false);
    let mut u = unit(&ScsiDrive::disk(0, 0, disk.clone()));
    disk.node().resize(2 << 20).unwrap();
    assert!(u.is_resized());
    assert!(matches!(u.execute(&cdb(&[0x12, 0, 0, 0, 36])), Reply::Data(_)), "INQUIRY does not tell");
    assert_eq!(u.execute(&cdb(&[0x25])), Reply::Check(Sense::CAPACITY_CHANGED));
    assert!(!u.is_resized());
    assert_eq!(data(u.execute(&cdb(&[0x25])))[..4], (4095u32).to_be_bytes());
}
