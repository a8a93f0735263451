//! Tests of the floppy controller, with the DMA controllers beside it.

use std::sync::Arc;

use block::{IoPool, MemoryNode};
use device::test_bench::{Bench, Rng, check, scramble};
use guest_memory::{RamBlock, Region};

use super::*;
use crate::i8257::IsaDmaConfig;

struct Pair {
    fdc: Bench,
    dma: Bench,
    low: Arc<RamBlock>,
    disk: Disk,
}

fn image(len: usize) -> Disk {
    let data = (0..len).map(|i| (i / 512 + i) as u8).collect();
    Disk::new("floppy", Arc::new(MemoryNode::from_vec("f", data)), false, &IoPool::immediate())
}

fn config(disk: Option<Disk>) -> FloppyConfig {
    FloppyConfig { drives: [Some(FloppyDrive { disk }), None], ..FloppyConfig::default() }
}

impl Pair {
    fn new(len: usize) -> Self {
        let disk = image(len);
        let config = config(Some(disk.clone()));
        let dma = Bench::new(IsaDmaConfig { channels: config.channels.clone() });
        let fdc = Bench::new(config);
        let low = RamBlock::anonymous("low", 1 << 20).unwrap();
        fdc.space().add(Region::ram("low", low.clone()).at(0)).unwrap();
        let pair = Pair { fdc, dma, low, disk };
        // Reset, as drivers do it.
        pair.fdc.write(0, 2, 1, 0x18);
        pair.fdc.write(0, 2, 1, 0x1c);
        assert!(pair.fdc.line("irq"));
        for unit in 0..4 {
            pair.send(&[8]);
            assert_eq!(pair.results(), [0xc0 | unit, 0]);
        }
        pair.fdc.write(1, 0, 1, 0);
        pair.send(&[3, 0xaf, 2]);
        pair
    }

    fn send(&self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.fdc.read(0, 4, 1) & 0xc0, 0x80);
            self.fdc.write(0, 5, 1, (*byte).into());
        }
    }

    fn results(&self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.fdc.read(0, 4, 1) & 0xc0 == 0xc0 {
            all.push(self.fdc.read(0, 5, 1) as u8);
        }
        all
    }

    /// Channel 2 moves `len` bytes at 0x10000, to memory or from it.
    fn channel(&self, len: u16, to_memory: bool) {
        let count = len - 1;
        let mode = if to_memory { 0x46 } else { 0x4a };
        let writes =
            [(12, 0), (4, 0), (4, 0), (5, count as u8), (5, (count >> 8) as u8), (11, mode), (10, 2)];
        for (port, value) in writes {
            self.dma.write(0, port, 1, value.into());
        }
        self.dma.write(2, 1, 1, 1);
    }

    fn memory(&self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.low.read(0x1_0000, &mut data).unwrap();
        data
    }

    fn on_disk(&self, sector: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.disk.read_at(sector * 512, &mut data).unwrap();
        data
    }
}

#[test]
fn reads_and_writes_by_dma() {
    let p = Pair::new(1440 << 10);
    p.send(&[7, 0]);
    assert!(p.fdc.line("irq"));
    p.send(&[8]);
    assert_eq!(p.results(), [0x20, 0]);
    assert!(!p.fdc.line("irq"));
    // Track 3, head 0, sectors 17 and 18, then on to head 1: six sectors.
    p.channel(6 * 512, true);
    p.send(&[0xe6, 0, 3, 0, 17, 2, 18, 0x1b, 0xff]);
    assert!(p.fdc.line("irq"));
    assert_eq!(p.results(), [4, 0, 0, 3, 1, 5, 2]);
    assert_eq!(p.memory(6 * 512), p.on_disk(3 * 36 + 16, 6 * 512));
    // A channel that is unmasked only later.
    p.send(&[0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!((p.fdc.read(0, 4, 1), p.fdc.line("irq")), (0x10, false));
    p.channel(512, true);
    assert_eq!(p.results(), [0, 0, 0, 0, 0, 2, 2]);
    assert_eq!(p.memory(512), p.on_disk(0, 512));
    // Writing one and a half sectors: the rest is zero.
    p.low.write(0x1_0000, &[0x5a; 1024]).unwrap();
    p.channel(768, false);
    p.send(&[0x45, 0, 79, 1, 18, 2, 18, 0x1b, 0xff]);
    assert_eq!(p.results()[..3], [0x44, 0x80, 0], "only one sector was named");
    assert_eq!(p.on_disk(2879, 512), [0x5a; 512]);
    p.channel(768, false);
    p.send(&[0x45, 0, 79, 0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!(p.results(), [0, 0, 0, 79, 0, 3, 2]);
    assert_eq!(p.on_disk(79 * 36, 1024), [[0x5a; 768].as_slice(), &[0; 256]].concat());
    // Formatting a track.
    p.channel(18 * 4, false);
    p.send(&[0x0f, 0, 5]);
    p.send(&[8]);
    assert_eq!(p.results(), [0x20, 5]);
    p.send(&[0x4d, 4, 2, 18, 0x1b, 0xf6]);
    assert_eq!(p.results()[..2], [4, 0]);
    assert_eq!(p.on_disk(5 * 36 + 18, 18 * 512), [0xf6; 18 * 512]);
}

#[test]
fn tells_what_is_wrong() {
    let p = Pair::new(720 << 10);
    p.channel(512, true);
    p.send(&[0x46, 0, 0, 0, 1, 2, 9, 0x1b, 0xff]);
    assert_eq!(p.results()[..2], [0x40, 1], "another data rate");
    p.send(&[0x4a, 0]);
    assert_eq!(p.results()[..2], [0x40, 1]);
    p.fdc.write(1, 0, 1, 2);
    p.send(&[0x4a, 0]);
    assert_eq!(p.results(), [0, 0, 0, 0, 0, 1, 2]);
    p.send(&[0x46, 0, 0, 0, 10, 2, 18, 0x1b, 0xff]);
    assert_eq!(p.results()[..2], [0x40, 4], "no such sector");
    p.send(&[0x46, 0, 0, 0, 1, 2, 9, 0x1b, 0xff]);
    assert_eq!(p.results()[0], 0);
    p.send(&[8]);
    assert_eq!(p.results(), [0x80]);
    p.send(&[0x1f]);
    assert_eq!(p.results(), [0x80]);
    p.send(&[0x10]);
    assert_eq!(p.results(), [0x90]);
    // The line that tells of a change goes once the head has moved.
    assert_eq!(p.fdc.read(1, 0, 1), 0x80);
    p.send(&[0x0f, 0, 1]);
    p.send(&[8]);
    p.results();
    assert_eq!(p.fdc.read(1, 0, 1), 0);
    p.fdc.cell().with(|d| {
        let f: &mut FloppyController = d.as_any().unwrap().downcast_mut().unwrap();
        assert!(f.with_slot(0, &mut |s| assert!(s.change(None, false))) && !f.with_slot(1, &mut |_| {}));
    });
    assert_eq!(p.fdc.read(1, 0, 1), 0x80);
    p.send(&[0x46, 0, 0, 0, 1, 2, 9, 0x1b, 0xff]);
    assert_eq!(p.results()[..2], [0x40, 1]);
}

#[test]
fn the_host_moves_data() {
    let p = Pair::new(1440 << 10);
    p.send(&[3, 0xaf, 3]);
    p.send(&[0x46, 0, 0, 0, 2, 2, 3, 0x1b, 0xff]);
    assert_eq!(p.fdc.read(0, 4, 1), 0xf0);
    let data: Vec<u8> = (0..1024).map(|_| p.fdc.read(0, 5, 1) as u8).collect();
    assert_eq!(data, p.on_disk(1, 1024));
    assert_eq!(p.results()[0], 0);
    p.send(&[0x45, 0, 0, 0, 4, 2, 4, 0x1b, 0xff]);
    (0..512).for_each(|_| p.fdc.write(0, 5, 1, 9));
    assert_eq!(p.results()[0], 0);
    assert_eq!(p.on_disk(3, 512), [9; 512]);
}

#[test]
fn passes_the_common_tests() {
    check(FloppyConfig::default());
    check(config(Some(image(1440 << 10))));
}

#[test]
fn random_commands_end() {
    let config = config(Some(image(1440 << 10)));
    let fdc = Bench::new(config.clone());
    let dma = Bench::new(IsaDmaConfig { channels: config.channels.clone() });
    let mut rng = Rng::new(5);
    let commands = [0x46, 0x45, 0x4d, 0xe6, 0xc5, 0x42, 0x16, 0x0f, 0x07, 0x0a, 0x13, 3];
    for _ in 0..5000 {
        scramble(&fdc, &config, &mut rng, 5);
        fdc.write(0, 2, 1, 0x1c);
        dma.write(0, rng.below(16), 1, rng.next_u64());
        fdc.write(0, 5, 1, commands[rng.below(commands.len() as u64) as usize]);
        for _ in 0..9 {
            fdc.write(0, 5, 1, rng.below(4));
        }
        for _ in 0..rng.below(12) {
            fdc.read(0, 5, 1);
        }
        assert!(fdc.cell().save().to_bytes().len() < 200 << 10);
    }
}
