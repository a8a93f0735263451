//! Tests of the IDE function: protocols, the bus master, packets, errors, standing still in the middle.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Deref;
use std::sync::Arc;

use block::{BlockError, BlockNode, IoPool, MemoryNode, NodeInfo};
use device::test_bench::{Bench, RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;
use crate::media::Tray;

/// Fixed regions on the bench: after configuration space and the bus master.
const COMMAND: usize = 2;
const CONTROL: usize = 3;
/// The bus master's region.
const MASTER: usize = 1;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 7 + i) as u8).collect()
}

fn disk_of(node: Arc<dyn BlockNode>, pool: &IoPool) -> Disk {
    Disk::new("disk", node, false, pool)
}

fn config(sectors: usize, blocks: usize, pool: &IoPool) -> Piix3IdeConfig {
    let disk = disk_of(Arc::new(MemoryNode::from_vec("d", pattern(sectors * 512))), pool);
    let cd = disk_of(Arc::new(MemoryNode::from_vec("c", pattern(blocks * 2048))), pool);
    let drives = [Some(IdeDrive::disk(disk)), Some(IdeDrive::cd(Some(cd))), None, None];
    Piix3IdeConfig { drives }
}

struct Ide {
    bench: PciBench,
    config: Piix3IdeConfig,
}

impl Deref for Ide {
    type Target = PciBench;
    fn deref(&self) -> &PciBench {
        &self.bench
    }
}

impl Ide {
    fn new(config: Piix3IdeConfig) -> Self {
        let bench = PciBench::new(config.clone());
        bench.enable();
        Ide { bench, config }
    }

    fn small() -> Self {
        Self::new(config(3000, 100, &IoPool::immediate()))
    }

    fn disk(&self) -> &Disk {
        self.config.drives[0].as_ref().unwrap().disk.as_ref().unwrap()
    }

    fn register(&self, offset: u64) -> u8 {
        self.read(COMMAND, offset, 1) as u8
    }

    fn set(&self, offset: u64, value: u8) {
        self.write(COMMAND, offset, 1, value.into());
    }

    fn status(&self) -> u8 {
        self.read(CONTROL, 0, 1) as u8
    }

    fn irq(&self) -> bool {
        self.line_at("irq", 0)
    }

    /// A command with a 28-bit address.
    fn command(&self, command: u8, lba: u32, count: u8) {
        self.set(2, count);
        (3..6).for_each(|i| self.set(i, (lba >> (8 * (i - 3))) as u8));
        self.set(6, 0xe0 | (lba >> 24) as u8);
        self.set(7, command);
    }

    fn command48(&self, command: u8, lba: u64, count: u16) {
        self.set(6, 0x40);
        self.set(2, (count >> 8) as u8);
        (3..6).for_each(|i| self.set(i, (lba >> (24 + 8 * (i - 3))) as u8));
        self.set(2, count as u8);
        (3..6).for_each(|i| self.set(i, (lba >> (8 * (i - 3))) as u8));
        self.set(7, command);
    }

    fn fetch(&self, len: usize) -> Vec<u8> {
        (0..len / 4).flat_map(|_| (self.read(COMMAND, 0, 4) as u32).to_le_bytes()).collect()
    }

    fn send(&self, data: &[u8]) {
        for pair in data.chunks(2) {
            self.write(COMMAND, 0, 2, u16::from_le_bytes([pair[0], pair[1]]).into());
        }
    }

    /// A table of regions of these sizes, one after the other from 64 KiB on.
    fn regions(&self, sizes: &[u32]) {
        let mut at = RAM_BASE + 0x1_0000;
        for (i, size) in sizes.iter().enumerate() {
            let last = if i + 1 == sizes.len() { 1 << 31 } else { 0 };
            let entry = u64::from(last | size & 0xffff) << 32 | at;
            self.ram().write(0x1000 + 8 * i as u64, &entry.to_le_bytes()).unwrap();
            at += u64::from(*size);
        }
        self.write(MASTER, 4, 4, RAM_BASE + 0x1000);
    }

    fn memory(&self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram().read(0x1_0000, &mut data).unwrap();
        data
    }

    fn packet(&self, cdb: &[u8], dma: bool) {
        self.set(6, 0xb0);
        self.set(1, dma.into());
        self.set(4, 0x00);
        self.set(5, 0x20);
        self.set(7, 0xa0);
        assert_eq!((self.status() & 0x89, self.register(2)), (8, 1), "wants a packet");
        let mut packet = [0; 12];
        packet[..cdb.len()].copy_from_slice(cdb);
        self.send(&packet);
    }

    /// The answer to a packet command, in the parts it comes in.
    fn answer(&self) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        while self.status() & 8 != 0 {
            assert!(self.irq());
            assert_eq!(self.register(7) & 0x89, 8);
            assert_eq!(self.register(2), 2, "towards the host");
            let len = usize::from(self.register(5)) << 8 | usize::from(self.register(4));
            let words = (0..len.div_ceil(2)).flat_map(|_| (self.read(COMMAND, 0, 2) as u16).to_le_bytes());
            parts.push(words.take(len).collect());
        }
        parts
    }

    fn sense(&self) -> [u8; 3] {
        self.packet(&[3, 0, 0, 0, 18], false);
        let sense = self.answer().concat();
        [sense[2], sense[12], sense[13]]
    }
}

#[test]
fn identifies_itself() {
    let ide = Ide::small();
    assert_eq!([2, 3, 4, 5].map(|r| ide.register(r)), [1, 1, 0, 0], "signature of a disk");
    ide.set(6, 0x10);
    assert_eq!([2, 3, 4, 5].map(|r| ide.register(r)), [1, 1, 0x14, 0xeb], "of a CD-ROM drive");
    ide.command(0xec, 0, 0);
    assert!(ide.irq());
    assert_eq!((ide.register(7), ide.irq()), (0x58, false));
    let data = ide.fetch(512);
    assert_eq!(ide.status(), 0x50);
    let word = |i: usize| u16::from_le_bytes([data[2 * i], data[2 * i + 1]]);
    assert_eq!((word(60), word(100), word(83) & 0x400), (3000, 3000, 0x400));
    let text: Vec<u8> = (27..47).flat_map(|i| word(i).to_be_bytes()).collect();
    assert_eq!(String::from_utf8(text).unwrap().trim_end(), "Rhea HARDDISK");
    assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    ide.set(6, 0xb0);
    ide.set(7, 0xec);
    assert_eq!((ide.register(7) & 1, ide.register(1)), (1, 4));
    ide.set(7, 0xa1);
    assert_eq!(ide.fetch(512)[..2], [0xc0, 0x85]);
    // The second channel is empty.
    assert_eq!(ide.read(COMMAND + 2, 7, 1), 0);
}

#[test]
fn the_host_moves_data() {
    let ide = Ide::small();
    ide.command(0x20, 2, 3);
    for sector in 2..5 {
        assert!(ide.irq());
        assert_eq!(ide.register(7), 0x58);
        assert_eq!(ide.fetch(512), pattern(3000 * 512)[sector * 512..][..512]);
    }
    assert!(!ide.irq(), "none after the last sector");
    assert_eq!(ide.status(), 0x50);
    // Several sectors between two interrupts.
    ide.command(0xc6, 0, 4);
    assert_eq!(ide.register(7), 0x50);
    ide.command(0xc4, 10, 6);
    assert!(ide.irq());
    ide.register(7);
    ide.fetch(4 * 512 - 4);
    assert!(!ide.irq());
    ide.fetch(4);
    assert!(ide.irq());
    ide.fetch(2 * 512);
    assert_eq!(ide.status(), 0x50);
    // Writing.
    ide.command(0x30, 100, 2);
    assert_eq!((ide.status(), ide.irq()), (0x58, false), "no interrupt before the first block");
    ide.send(&[0xaa; 512]);
    assert!(ide.irq());
    ide.send(&[0xbb; 512]);
    assert_eq!((ide.register(7), ide.irq()), (0x50, false));
    let mut back = [0; 4];
    ide.disk().read_at(101 * 512 - 2, &mut back).unwrap();
    assert_eq!(back, [0xaa, 0xaa, 0xbb, 0xbb]);
    // By cylinder, head and sector: 1 * 16 * 63 + 2 * 63 + 5 - 1.
    ide.set(2, 1);
    ide.set(3, 5);
    ide.set(4, 1);
    ide.set(5, 0);
    ide.set(6, 0xa2);
    ide.set(7, 0x20);
    assert_eq!(ide.fetch(512), pattern(3000 * 512)[1138 * 512..][..512]);
}

#[test]
fn the_bus_master_moves_data() {
    let ide = Ide::small();
    ide.regions(&[512, 1024, 0x200, 0x1_0000, 0x8000]);
    ide.command48(0x25, 1000, 180);
    assert_eq!((ide.status(), ide.irq()), (0x58, false), "waits for the bus master");
    ide.write(MASTER, 0, 1, 9);
    assert!(ide.irq());
    assert_eq!(ide.read(MASTER, 2, 1) & 7, 4);
    assert_eq!(ide.register(7), 0x50);
    ide.write(MASTER, 0, 1, 0);
    ide.write(MASTER, 2, 1, 6);
    assert_eq!(ide.read(MASTER, 2, 1) & 7, 0);
    assert_eq!(ide.memory(180 * 512), pattern(3000 * 512)[1000 * 512..][..180 * 512]);
    // Back, started before the command.
    ide.write(MASTER, 0, 1, 1);
    ide.command(0xca, 2000, 180);
    assert_eq!((ide.register(7), ide.read(MASTER, 2, 1) & 7), (0x50, 4));
    let mut back = vec![0; 180 * 512];
    ide.disk().read_at(2000 * 512, &mut back).unwrap();
    assert_eq!(back, ide.memory(180 * 512));
    // A table that is too short fails the command.
    ide.write(MASTER, 0, 1, 0);
    ide.regions(&[512]);
    ide.command(0xc8, 0, 2);
    ide.write(MASTER, 0, 1, 9);
    assert_eq!((ide.register(7), ide.read(MASTER, 2, 1) & 7), (0x51, 6));
    // Stopped before anything moved: the command is lost.
    ide.write(MASTER, 0, 1, 0);
    ide.command(0xc8, 0, 2);
    ide.write(CONTROL, 0, 1, 4);
    assert_eq!(ide.status(), 0x80);
    ide.write(CONTROL, 0, 1, 0);
    assert_eq!(ide.status(), 0x50);
    // Trimmed sectors read as zero.
    ide.ram().write(0x1_0000, &[0; 512]).unwrap();
    ide.ram().write(0x1_0000, &(5u64 | 3 << 48).to_le_bytes()).unwrap();
    ide.regions(&[512]);
    ide.write(MASTER, 0, 1, 1);
    ide.set(1, 1);
    ide.command48(0x06, 0, 1);
    assert_eq!(ide.register(7), 0x50);
}

#[test]
fn packets() {
    let ide = Ide::small();
    ide.packet(&[0], false);
    assert_eq!((ide.register(7) & 1, ide.register(2)), (0, 3));
    ide.packet(&[0x12, 0, 0, 0, 36], false);
    let inquiry = ide.answer().concat();
    assert_eq!((inquiry[0], inquiry[1], &inquiry[8..12]), (5, 0x80, &b"Rhea"[..]));
    ide.packet(&[0x25], false);
    assert_eq!(ide.answer().concat(), [0, 0, 0, 99, 0, 0, 8, 0]);
    // In parts of at most 8 KiB, as the host has said; then by bus master.
    ide.packet(&[0x28, 0, 0, 0, 0, 10, 0, 0, 6], false);
    let parts = ide.answer();
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [0x2000, 0x1000]);
    assert_eq!(parts.concat(), pattern(100 * 2048)[10 * 2048..][..6 * 2048]);
    assert_eq!(ide.register(2), 3);
    ide.regions(&[0x1_0000, 0x1_0000, 0x1_0000]);
    ide.write(MASTER, 0, 1, 9);
    ide.packet(&[0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 90], true);
    assert_eq!(ide.register(7), 0x50);
    assert_eq!(ide.memory(90 * 2048), pattern(100 * 2048)[2048..][..90 * 2048]);
    ide.packet(&[0x43, 2, 0, 0, 0, 0, 0, 0, 20], false);
    let toc = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 3, 25];
    assert_eq!(ide.answer().concat(), toc);
    // Beyond the end, and a command nobody knows.
    ide.packet(&[0x28, 0, 0, 0, 0, 99, 0, 0, 2], false);
    assert_eq!((ide.register(7) & 1, ide.register(1)), (1, 0x54));
    assert_eq!(ide.sense(), [5, 0x21, 0]);
    ide.packet(&[0xfe], false);
    assert_eq!(ide.sense(), [5, 0x20, 0]);
    assert_eq!(ide.sense(), [0, 0, 0]);
}

#[test]
fn discs_change() {
    let ide = Ide::small();
    let slot = |unit: usize, f: &mut dyn FnMut(&mut dyn Slot)| {
        ide.cell().with(|d| d.as_any().unwrap().downcast_mut::<IdeController>().unwrap().with_slot(unit, f))
    };
    ide.packet(&[0x1e, 0, 0, 0, 1], false);
    assert!(slot(1, &mut |s| assert!(!s.open(false))));
    let event = |ide: &Ide| {
        ide.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], false);
        let event = ide.answer().concat();
        (event[4], event[5])
    };
    assert_eq!(event(&ide), (1, 2), "the user wants it out");
    assert_eq!(event(&ide), (0, 2));
    ide.packet(&[0x1b, 0, 0, 0, 2], false);
    assert_eq!(ide.sense(), [5, 0x53, 2]);
    ide.packet(&[0x1e, 0, 0, 0, 0], false);
    ide.packet(&[0x1b, 0, 0, 0, 2], false);
    assert!(slot(1, &mut |s| assert_eq!(s.tray(), Some(Tray { open: true, locked: false }))));
    assert!(!slot(0, &mut |_| {}) && !slot(9, &mut |_| {}));
    ide.packet(&[0], false);
    assert_eq!(ide.sense(), [2, 0x3a, 2]);
    let disc = disk_of(Arc::new(MemoryNode::new("new", 7 * 2048)), &IoPool::immediate());
    slot(1, &mut |s| assert!(s.change(Some(disc.clone()), false)));
    ide.packet(&[0], false);
    assert_eq!(ide.sense(), [6, 0x28, 0]);
    ide.packet(&[0x25], false);
    assert_eq!(ide.answer().concat()[..4], [0, 0, 0, 6]);
    slot(1, &mut |s| assert!(s.change(None, false)));
    ide.packet(&[0], false);
    assert_eq!(ide.sense(), [2, 0x3a, 0]);
}

#[derive(Debug)]
struct Broken;

impl BlockNode for Broken {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "broken".into(),
            size: 1 << 20,
            read_only: false,
            granularity: 512,
            can_discard: false,
        }
    }
    fn read(&self, _: u64, _: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        Err(std::io::Error::other("broken").into())
    }
    fn write(&self, _: u64, _: &[IoSlice<'_>], _: bool) -> Result<(), BlockError> {
        Err(std::io::Error::other("broken").into())
    }
    fn flush(&self) -> Result<(), BlockError> {
        Err(std::io::Error::other("broken").into())
    }
}

#[test]
fn failures_are_told() {
    let pool = IoPool::immediate();
    let broken = disk_of(Arc::new(Broken), &pool);
    let drives = [Some(IdeDrive::disk(broken.clone())), Some(IdeDrive::cd(Some(broken))), None, None];
    let ide = Ide::new(Piix3IdeConfig { drives });
    ide.command(0x20, 5, 1);
    assert_eq!((ide.register(7), ide.register(1), ide.register(3)), (0x51, 0x40, 5));
    ide.command(0xe7, 0, 0);
    assert_eq!((ide.register(7), ide.register(1)), (0x71, 4));
    ide.command(0x20, 2048, 1);
    assert_eq!((ide.register(7), ide.register(1)), (0x51, 0x10), "beyond the end");
    ide.command(0xab, 0, 0);
    assert_eq!((ide.register(7), ide.register(1)), (0x51, 4));
    ide.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], false);
    assert_eq!(ide.sense(), [3, 0x11, 0]);
}

#[test]
fn health() {
    let ide = Ide::small();
    ide.set(1, 0xda);
    ide.command(0xb0, 0xc2_4f00, 0);
    assert_eq!((ide.register(7), ide.register(4), ide.register(5)), (0x50, 0x4f, 0xc2));
    ide.set(1, 0xd0);
    ide.command(0xb0, 0xc2_4f00, 0);
    assert_eq!(ide.fetch(512).iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    ide.set(1, 0xd9);
    ide.command(0xb0, 0xc2_4f00, 0);
    ide.set(1, 0xda);
    ide.command(0xb0, 0xc2_4f00, 0);
    assert_eq!(ide.register(7), 0x51);
}

/// Stopped with a request in flight, moved to another machine, finished there.
#[test]
fn goes_on_elsewhere() {
    let pool = IoPool::new(2);
    let ide = Ide::new(config(3000, 100, &pool));
    ide.regions(&[0x1_0000, 0x1_0000, 0x1_0000]);
    ide.command48(0x25, 7, 380);
    ide.write(MASTER, 0, 1, 9);
    ide.cell().quiesce();
    let saved = ide.cell().save();
    let twin = Ide::new(ide.config.clone());
    let mut memory = vec![0; 0x5_0000];
    ide.ram().read(0, &mut memory).unwrap();
    twin.ram().write(0, &memory).unwrap();
    twin.cell().restore(&saved).unwrap();
    assert_eq!(twin.cell().save(), saved);
    twin.cell().resume();
    for _ in 0..10_000 {
        if twin.irq() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!((twin.register(7), twin.read(MASTER, 2, 1) & 7), (0x50, 4));
    assert_eq!(twin.memory(380 * 512), pattern(3000 * 512)[7 * 512..][..380 * 512]);
    // The first does the same on its own.
    ide.cell().resume();
    ide.cell().quiesce();
    ide.cell().resume();
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(Piix3IdeConfig::default()));
    check(Pci::new(config(300, 10, &IoPool::immediate())));
}

#[test]
fn random_commands_end() {
    let config = config(300, 10, &IoPool::immediate());
    let ide = Ide::new(config.clone());
    let pci = Pci::new(config);
    let mut rng = Rng::new(3);
    let commands =
        [0x20, 0x24, 0x25, 0x29, 0x30, 0x35, 0xc4, 0xc5, 0xc8, 0xca, 0xa0, 0xec, 0xef, 6, 0xb0, 0xe7, 0x42];
    for _ in 0..3000 {
        let bench: &Bench = &ide;
        scramble(bench, &pci, &mut rng, 5);
        ide.enable();
        let mut table = [0; 64];
        table.fill_with(|| rng.next_u64() as u8);
        ide.ram().write(0x1000, &table).unwrap();
        ide.write(MASTER, 4, 4, RAM_BASE + 0x1000);
        ide.write(MASTER, 0, 1, rng.next_u64() & 9);
        (1..6).for_each(|i| ide.set(i, rng.next_u64() as u8 & 3));
        ide.set(6, [0xe0, 0xf0][rng.below(2) as usize]);
        ide.set(7, commands[rng.below(commands.len() as u64) as usize]);
        for _ in 0..rng.below(600) {
            if rng.below(2) == 0 {
                ide.read(COMMAND, 0, 4)
            } else {
                ide.write(COMMAND, 0, 2, rng.next_u64() & 0xff);
                0
            };
        }
        assert!(ide.cell().save().to_bytes().len() < 300 << 10);
    }
}
