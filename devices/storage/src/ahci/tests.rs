//! Tests of the AHCI controller: commands of every kind, queueing, errors, standing still in the middle.

use std::ops::Deref;
use std::sync::Arc;

use block::{Disk, IoPool, MemoryNode};
use device::test_bench::{RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;

const LIST: u64 = RAM_BASE + 0x1000;
const RECEIVED: u64 = RAM_BASE + 0x2000;
const TABLES: u64 = RAM_BASE + 0x4000;
const DATA: u64 = RAM_BASE + 0x2_0000;
const BAR: usize = REGISTERS_BAR;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 3 + i) as u8).collect()
}

fn config(pool: &IoPool) -> AhciConfig {
    let disk =
        |name: &str, len| Disk::new(name, Arc::new(MemoryNode::from_vec(name, pattern(len))), false, pool);
    let mut config = AhciConfig::default();
    config.drives[0] = Some(IdeDrive::disk(disk("d", 3000 * 512)));
    config.drives[2] = Some(IdeDrive::cd(Some(disk("c", 100 * 2048))));
    config
}

struct Ahci {
    bench: PciBench,
    config: AhciConfig,
}

impl Deref for Ahci {
    type Target = PciBench;
    fn deref(&self) -> &PciBench {
        &self.bench
    }
}

impl Ahci {
    fn new(pool: &IoPool) -> Self {
        let config = config(pool);
        let bench = PciBench::new(config.clone());
        bench.enable();
        let ahci = Ahci { bench, config };
        ahci.bar_write(BAR, 4, 4, 0x8000_0002);
        for port in [0, 2] {
            for (register, value) in
                [(0, LIST), (4, 0), (8, RECEIVED), (0xc, 0), (0x14, 0x7fff_ffff), (0x18, 0x17)]
            {
                ahci.set(port, register, value);
            }
        }
        ahci
    }

    fn get(&self, port: u64, register: u64) -> u32 {
        self.bar_read(BAR, PORTS + port * PORT_SIZE + register, 4) as u32
    }

    fn set(&self, port: u64, register: u64, value: u64) {
        self.bar_write(BAR, PORTS + port * PORT_SIZE + register, 4, value);
    }

    fn put(&self, at: u64, data: &[u8]) {
        self.ram().write(at - RAM_BASE, data).unwrap();
    }

    fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram().read(at - RAM_BASE, &mut data).unwrap();
        data
    }

    /// Prepares slot `slot`, with regions of these sizes from [`DATA`] on.
    fn prepare(&self, slot: u64, fis: &[u8], packet: &[u8], regions: &[u32]) {
        let table = TABLES + 0x400 * slot;
        let flags = 5 | (regions.len() as u32) << 16;
        self.put(LIST + 32 * slot, &flags.to_le_bytes());
        self.put(LIST + 32 * slot + 4, &0u32.to_le_bytes());
        self.put(LIST + 32 * slot + 8, &table.to_le_bytes());
        self.put(table, &[0; 0x80]);
        self.put(table, &[0x27, 0x80]);
        self.put(table + 2, fis);
        self.put(table + 0x40, packet);
        let mut at = DATA + 0x1_0000 * slot;
        for (i, size) in regions.iter().enumerate() {
            let entry = [at.to_le_bytes(), (u64::from(size - 1) << 32).to_le_bytes()].concat();
            self.put(table + 0x80 + 16 * i as u64, &entry);
            at += u64::from(*size);
        }
    }

    /// Runs a command in slot 0 and acknowledges it; the interrupt status it left.
    fn run(&self, port: u64, fis: &[u8], packet: &[u8], regions: &[u32]) -> u32 {
        self.prepare(0, fis, packet, regions);
        self.set(port, 0x38, 1);
        let cause = self.get(port, 0x10);
        assert_eq!(self.line("intx"), cause != 0);
        self.set(port, 0x10, u32::MAX.into());
        self.bar_write(BAR, 8, 4, 0xff);
        assert!(!self.line("intx"));
        cause
    }
}

/// Command, features, address with the device register, count.
fn fis(command: u8, feature: u8, lba: u32, count: u16) -> Vec<u8> {
    let l = lba.to_le_bytes();
    let [low, high] = count.to_le_bytes();
    vec![command, feature, l[0], l[1], l[2], 0x40, l[3], 0, 0, 0, low, high]
}

#[test]
fn says_what_is_there() {
    let a = Ahci::new(&IoPool::immediate());
    assert_eq!((a.bar_read(BAR, 0xc, 4), a.get(0, 0x24), a.get(2, 0x24)), (0x3f, 0x101, 0xeb14_0101));
    assert_eq!((a.get(0, 0x28), a.get(1, 0x28), a.get(0, 0x20), a.get(1, 0x20)), (0x113, 0, 0x150, 0x7f));
    assert_eq!(a.get(0, 0x18) & 0xc011, 0xc011, "runs and receives");
    // A reset of the link.
    a.set(0, 0x2c, 0x301);
    assert_eq!(a.get(0, 0x28), 0);
    a.set(0, 0x2c, 0x300);
    assert_eq!((a.get(0, 0x28), a.get(0, 0x30), a.get(0, 0x10) & 0x40), (0x113, 1 << 26, 0x40));
    // And of the whole.
    a.bar_write(BAR, 4, 4, 1);
    assert_eq!((a.bar_read(BAR, 4, 4), a.get(0, 0x18)), (0x8000_0000, 0));
}

#[test]
fn single_commands() {
    let a = Ahci::new(&IoPool::immediate());
    assert_eq!(a.run(0, &fis(0xec, 0, 0, 0), &[], &[512]), 2, "by PIO setup");
    let id = a.memory(DATA, 512);
    assert_eq!((u16::from_le_bytes([id[150], id[151]]), id[153] & 1), (31, 1), "a queue of 32");
    assert_eq!(a.memory(RECEIVED + 0x20, 3), [0x5f, 0x60, 0x50]);
    assert_eq!(a.memory(RECEIVED + 0x20 + 15, 3), [0x50, 0, 2]);
    assert_eq!(a.memory(LIST + 4, 4), 512u32.to_le_bytes());
    // READ DMA EXT over odd regions, more than a piece.
    let sizes = [2, 510, 0x4_0000, 0x1000, 0x2_0000];
    assert_eq!(a.run(0, &fis(0x25, 0, 100, 777), &[], &sizes), 1);
    assert_eq!(a.memory(DATA, 777 * 512), pattern(3000 * 512)[100 * 512..][..777 * 512]);
    assert_eq!((a.get(0, 0x20), a.get(0, 0x38)), (0x50, 0));
    assert_eq!(a.memory(RECEIVED + 0x40, 3), [0x34, 0x40, 0x50]);
    // And back elsewhere.
    assert_eq!(a.run(0, &fis(0x35, 0, 2000, 777), &[], &sizes), 1);
    let mut back = vec![0; 777 * 512];
    a.config.drives[0].as_ref().unwrap().disk.as_ref().unwrap().read_at(2000 * 512, &mut back).unwrap();
    assert_eq!(back, a.memory(DATA, 777 * 512));
    assert_eq!(a.run(0, &fis(0xea, 0, 0, 0), &[], &[]), 1);
    // A region too small for a read: what fits is read.
    assert_eq!(a.run(0, &fis(0x25, 0, 0, 2), &[], &[512]), 1 | 1 << 24);
    assert_eq!(a.memory(LIST + 4, 4), 512u32.to_le_bytes());
}

#[test]
fn errors_hold_the_port() {
    let a = Ahci::new(&IoPool::immediate());
    assert_eq!(a.run(0, &fis(0x25, 0, 2999, 2), &[], &[1024]), 1 | 1 << 30);
    assert_eq!((a.get(0, 0x20), a.get(0, 0x38)), (0x1051, 1));
    a.set(0, 0x38, 2);
    assert_eq!(a.get(0, 0x38), 3, "nothing begins");
    a.set(0, 0x18, 0x16);
    assert_eq!((a.get(0, 0x38), a.get(0, 0x18) & 0x8000), (0, 0));
    a.set(0, 0x18, 0x17);
    assert_eq!(a.run(0, &fis(0x25, 0, 2998, 2), &[], &[1024]), 1);
}

#[test]
fn queued_commands() {
    let a = Ahci::new(&IoPool::immediate());
    // Reads of 16 sectors in three slots, then all at once.
    for slot in [1u64, 4, 31] {
        let mut f = fis(0x60, 16, 32 * slot as u32, (slot as u16) << 3);
        f[5] = 0x40;
        a.prepare(slot, &f, &[], &[16 * 512]);
        if slot == 31 {
            // Beyond memory for this bench: the data of slot 31 goes where slot 2's would.
            let table = TABLES + 0x400 * slot;
            a.put(table + 0x80, &(DATA + 0x2_0000).to_le_bytes());
        }
    }
    a.set(0, 0x34, 1 << 1 | 1 << 4 | 1 << 31);
    a.set(0, 0x38, 1 << 1 | 1 << 4 | 1 << 31);
    assert_eq!((a.get(0, 0x34), a.get(0, 0x38), a.get(0, 0x10)), (0, 0, 8));
    let all = pattern(3000 * 512);
    for (slot, at) in [(1u64, 1u64), (4, 4), (31, 2)] {
        assert_eq!(
            a.memory(DATA + 0x1_0000 * at, 8192),
            all[32 * slot as usize * 512..][..8192],
            "slot {slot}"
        );
    }
    // One that is out of range: the queue stops, and a log tells which it was.
    a.set(0, 0x10, u32::MAX.into());
    a.prepare(3, &fis(0x61, 1, 5000, 3 << 3), &[], &[512]);
    a.set(0, 0x34, 8);
    a.set(0, 0x38, 8);
    assert_eq!((a.get(0, 0x34), a.get(0, 0x20), a.get(0, 0x10) & 1 << 30), (8, 0x1051, 1 << 30));
    a.set(0, 0x10, u32::MAX.into());
    a.set(0, 0x18, 0x16);
    a.set(0, 0x18, 0x17);
    a.run(0, &fis(0x2f, 0, 0x10, 1), &[], &[512]);
    assert_eq!(a.memory(DATA, 4), [3, 0, 0x51, 0x10]);
}

#[test]
fn packets() {
    let a = Ahci::new(&IoPool::immediate());
    let packet = fis(0xa0, 1, 0, 0);
    a.run(2, &packet, &[0x12, 0, 0, 0, 36], &[64]);
    assert_eq!((a.memory(DATA, 1), a.memory(DATA + 8, 4)), (vec![5], b"Rhea".to_vec()));
    assert_eq!(a.memory(LIST + 4, 4), 36u32.to_le_bytes());
    a.run(2, &packet, &[0x28, 0, 0, 0, 0, 7, 0, 0, 9], &[0x4000, 0x4000]);
    assert_eq!(a.memory(DATA, 9 * 2048), pattern(100 * 2048)[7 * 2048..][..9 * 2048]);
    assert_eq!(a.run(2, &packet, &[0x28, 0, 0, 0, 0, 200, 0, 0, 9], &[0x4000]), 1 | 1 << 30);
    a.set(2, 0x18, 0x16);
    a.set(2, 0x18, 0x17);
    a.run(2, &packet, &[3, 0, 0, 0, 18], &[18]);
    let sense = a.memory(DATA, 18);
    assert_eq!([sense[2], sense[12]], [5, 0x21]);
    a.cell().with(|d| {
        let c: &mut AhciController = d.as_any().unwrap().downcast_mut().unwrap();
        assert!(c.with_slot(2, &mut |s| assert!(s.open(false) && s.tray().unwrap().open)));
        assert!(c.with_slot(2, &mut |s| assert!(s.change(None, false))) && !c.with_slot(0, &mut |_| {}));
    });
}

/// A command that ends between the acknowledgements of the port and of the controller is told of by another message.
#[test]
fn no_message_is_lost() {
    let a = Ahci::new(&IoPool::immediate());
    a.enable_messages(0xfee0_0000, 0x40);
    a.bar_write(BAR, 4, 4, 2);
    a.set(0, 0x14, 0xffff_ffff);
    let command = || {
        a.prepare(0, &fis(0x25, 0, 0, 1), &[], &[512]);
        a.set(0, 0x38, 1);
    };
    command();
    assert_eq!(a.take_messages().len(), 1);
    a.set(0, 0x10, 0xffff_ffff);
    command();
    assert_eq!(a.take_messages().len(), 0, "the controller's own bit is still set");
    a.bar_write(BAR, 8, 4, 1);
    assert_eq!((a.bar_read(BAR, 8, 4), a.take_messages().len()), (1, 1));
    a.set(0, 0x10, 0xffff_ffff);
    a.bar_write(BAR, 8, 4, 1);
    assert_eq!((a.bar_read(BAR, 8, 4), a.take_messages().len()), (0, 0));
}

/// Stopped with requests in flight, moved to another machine, finished there.
#[test]
fn goes_on_elsewhere() {
    let a = Ahci::new(&IoPool::new(2));
    let sizes = [0x10_0000 - 0x3_0000];
    a.prepare(0, &fis(0x25, 0, 0, 1400), &[], &sizes);
    a.set(0, 0x38, 1);
    a.cell().quiesce();
    let saved = a.cell().save();
    let twin = Ahci::new(&IoPool::new(2));
    let mut memory = vec![0; 0x2_0000];
    a.ram().read(0, &mut memory).unwrap();
    twin.ram().write(0, &memory).unwrap();
    twin.cell().restore(&saved).unwrap();
    assert_eq!(twin.cell().save(), saved);
    twin.cell().resume();
    for _ in 0..10_000 {
        if twin.get(0, 0x38) == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!((twin.get(0, 0x38), twin.get(0, 0x10)), (0, 1));
    let moved = 1400 * 512 - 0x4_0000;
    assert_eq!(twin.memory(DATA + 0x4_0000, moved), pattern(3000 * 512)[0x4_0000..][..moved]);
    a.cell().resume();
    a.cell().quiesce();
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(AhciConfig::default()));
    check(Pci::new(config(&IoPool::immediate())));
}

#[test]
fn random_commands_end() {
    let a = Ahci::new(&IoPool::immediate());
    let pci = Pci::new(a.config.clone());
    let mut rng = Rng::new(9);
    let commands = [0x25, 0x35, 0x60, 0x61, 0xec, 0xa0, 0xa1, 0x06, 0xea, 0x42, 0x2f, 0xb0, 0x20, 0xc5];
    for _ in 0..1500 {
        scramble(&a, &pci, &mut rng, 5);
        a.enable();
        let port = [0, 2][rng.below(2) as usize];
        for slot in 0..4 {
            let mut f =
                fis(commands[rng.below(commands.len() as u64) as usize], 1, rng.below(3100) as u32, 1);
            f[10] = if rng.below(2) == 0 { (slot << 3) as u8 } else { rng.next_u64() as u8 & 15 };
            a.prepare(slot, &f, &rng.next_u64().to_le_bytes(), &[rng.below(5000) as u32 + 1, 512]);
        }
        for (register, value) in [(0, LIST), (4, 0), (8, RECEIVED), (0xc, 0), (0x18, 0x16), (0x18, 0x17)] {
            a.set(port, register, value);
        }
        a.set(port, 0x34, 15);
        a.set(port, 0x38, rng.next_u64() & 15);
        a.set(port, 0x38, rng.next_u64());
        assert!(a.cell().save().to_bytes().len() < 100 << 10);
    }
}
