//! Tests of the NVM Express controller: bringing it up as drivers do, I/O with lists of pages, errors, full queues.

use std::ops::Deref;
use std::sync::Arc;

use block::{IoPool, MemoryNode};
use device::test_bench::{RAM_BASE, Rng, check, scramble};
use pci::Pci;
use pci::test_bench::PciBench;

use super::*;

const ADMIN: u64 = RAM_BASE + 0x1000;
const ADMIN_DONE: u64 = RAM_BASE + 0x2000;
const IO: u64 = RAM_BASE + 0x3000;
const IO_DONE: u64 = RAM_BASE + 0x4000;
const LIST: u64 = RAM_BASE + 0x5000;
const DATA: u64 = RAM_BASE + 0x2_0000;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 5 + i) as u8).collect()
}

fn config(pool: &IoPool) -> NvmeConfig {
    let disk = |len| Disk::new("d", Arc::new(MemoryNode::from_vec("d", pattern(len))), false, pool);
    NvmeConfig { serial: "one".into(), disks: vec![disk(4096 * 512), disk(100 * 512)] }
}

struct Nvm {
    bench: PciBench,
    config: NvmeConfig,
    tails: std::cell::RefCell<[u32; 2]>,
    heads: std::cell::RefCell<[u32; 2]>,
}

impl Deref for Nvm {
    type Target = PciBench;
    fn deref(&self) -> &PciBench {
        &self.bench
    }
}

/// A command: operation, namespace, data, and words 10 to 12.
fn command(operation: u8, namespace: u32, data: [u64; 2], words: [u32; 3]) -> [u8; 64] {
    let mut c = [0; 64];
    c[0] = operation;
    c[4..8].copy_from_slice(&namespace.to_le_bytes());
    c[24..32].copy_from_slice(&data[0].to_le_bytes());
    c[32..40].copy_from_slice(&data[1].to_le_bytes());
    for (i, w) in words.iter().enumerate() {
        c[40 + 4 * i..44 + 4 * i].copy_from_slice(&w.to_le_bytes());
    }
    c
}

impl Nvm {
    /// Enabled, with a pair of I/O queues of 8 entries.
    fn new(pool: &IoPool) -> Self {
        let config = config(pool);
        let bench = PciBench::new(config.clone());
        bench.enable();
        let n = Nvm { bench, config, tails: Default::default(), heads: Default::default() };
        n.bar_write(0, 0x24, 4, 0x0007_0007);
        n.bar_write(0, 0x28, 8, ADMIN);
        n.bar_write(0, 0x30, 4, ADMIN_DONE);
        n.bar_write(0, 0x14, 4, 0x0046_0001);
        assert_eq!(n.bar_read(0, 0x1c, 4), 1);
        assert_eq!(n.run(0, &command(5, 0, [IO_DONE, 0], [0x0007_0001, 3, 0])), (0, 0));
        assert_eq!(n.run(0, &command(1, 0, [IO, 0], [0x0007_0001, 0x0001_0001, 0])), (0, 0));
        n
    }

    fn put(&self, at: u64, data: &[u8]) {
        self.ram().write(at - RAM_BASE, data).unwrap();
    }

    fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram().read(at - RAM_BASE, &mut data).unwrap();
        data
    }

    fn submit(&self, queue: usize, command: &[u8; 64]) {
        let tail = self.tails.borrow()[queue];
        let at = [ADMIN, IO][queue] + 64 * u64::from(tail);
        self.put(at, command);
        self.put(at + 2, &(tail as u16 + 100).to_le_bytes());
        let tail = (tail + 1) % 8;
        self.tails.borrow_mut()[queue] = tail;
        self.bar_write(0, DOORBELLS + 8 * queue as u64, 4, tail.into());
    }

    /// The next completion: result and status; acknowledged.
    fn completion(&self, queue: usize) -> (u32, u16) {
        let head = self.heads.borrow()[queue];
        let entry = self.memory([ADMIN_DONE, IO_DONE][queue] + 16 * u64::from(head), 16);
        let w = |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
        let head = (head + 1) % 8;
        self.heads.borrow_mut()[queue] = head;
        self.bar_write(0, DOORBELLS + 8 * queue as u64 + 4, 4, head.into());
        (w(0), (w(12) >> 17) as u16 & 0x3fff)
    }

    fn run(&self, queue: usize, command: &[u8; 64]) -> (u32, u16) {
        self.submit(queue, command);
        assert!(self.line("intx"));
        let done = self.completion(queue);
        assert!(!self.line("intx"));
        done
    }
}

#[test]
fn identifies_itself() {
    let n = Nvm::new(&IoPool::immediate());
    assert_eq!(n.bar_read(0, 0, 8) & 0xffff, 2047);
    assert_eq!(n.run(0, &command(6, 0, [DATA, 0], [1, 0, 0])), (0, 0));
    let id = n.memory(DATA, 4096);
    assert_eq!((&id[4..8], id[77], id[516]), (&b"one "[..], 7, 2));
    assert_eq!(n.run(0, &command(6, 2, [DATA + 8, DATA + 0x1000], [0, 0, 0])), (0, 0));
    assert_eq!((n.memory(DATA + 8, 1), n.memory(DATA + 8 + 130, 1)), (vec![100], vec![9]));
    assert_eq!(n.run(0, &command(6, 3, [DATA, 0], [0, 0, 0])).1, 0x0b);
    assert_eq!(n.run(0, &command(6, 1, [DATA, 0], [2, 0, 0])).1, 0);
    assert_eq!(n.memory(DATA, 8), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(n.run(0, &command(9, 0, [0, 0], [7, 0x0003_0003, 0])), (0x003f_003f, 0));
    assert_eq!(n.run(0, &command(9, 0, [0, 0], [6, 0, 0])).1, 0);
    assert_eq!(n.run(0, &command(10, 0, [0, 0], [6, 0, 0])), (0, 0));
    assert_eq!(n.run(0, &command(2, 0, [DATA, 0], [0x007f_0002, 0, 0])).1, 0);
    assert_eq!(n.memory(DATA + 3, 1), [100]);
    assert_eq!(n.run(0, &command(2, 0, [DATA, 0], [0x007f_0077, 0, 0])).1, 0x109);
    assert_eq!(n.run(0, &command(0x7f, 0, [0, 0], [0; 3])).1, 1);
    // Events are waited for, up to four.
    (0..4).for_each(|_| n.submit(0, &command(12, 0, [0, 0], [0; 3])));
    assert_eq!(n.run(0, &command(12, 0, [0, 0], [0; 3])).1, 0x105);
}

#[test]
fn reads_and_writes() {
    let n = Nvm::new(&IoPool::immediate());
    let all = pattern(4096 * 512);
    assert_eq!(n.run(1, &command(2, 1, [DATA, 0], [7, 0, 7])).1, 0);
    assert_eq!(n.memory(DATA, 4096), all[7 * 512..][..4096]);
    // Crooked, over two pages; then by a list.
    assert_eq!(n.run(1, &command(2, 1, [DATA + 512, DATA + 0x3000], [8, 0, 8])).1, 0);
    assert_eq!(n.memory(DATA + 512, 3584), all[8 * 512..][..3584]);
    assert_eq!(n.memory(DATA + 0x3000, 1024), all[15 * 512..][..1024]);
    for i in 0..127u64 {
        n.put(LIST + 8 * i, &(DATA + 0x1000 * (i + 1)).to_le_bytes());
    }
    assert_eq!(n.run(1, &command(2, 1, [DATA, LIST], [100, 0, 1023])).1, 0);
    assert_eq!(n.memory(DATA, 512 << 10), all[100 * 512..][..512 << 10]);
    assert_eq!(n.run(1, &command(1, 1, [DATA, LIST], [3000, 0, 1023])).1, 0);
    let mut back = vec![0; 512 << 10];
    n.config.disks[0].read_at(3000 * 512, &mut back).unwrap();
    assert_eq!(back, all[100 * 512..][..512 << 10]);
    // Zeroes, discards, flushes.
    assert_eq!(n.run(1, &command(8, 2, [0, 0], [10, 0, 4])).1, 0);
    n.config.disks[1].read_at(10 * 512, &mut back[..5 * 512]).unwrap();
    assert_eq!(back[..5 * 512], [0; 5 * 512]);
    n.put(DATA, &[[0, 0, 0, 0, 3, 0, 0, 0], 50u64.to_le_bytes()].concat());
    assert_eq!(n.run(1, &command(9, 2, [DATA, 0], [0, 4, 0])).1, 0);
    assert_eq!(n.run(1, &command(0, 2, [0, 0], [0; 3])).1, 0);
    // What is wrong.
    assert_eq!(n.run(1, &command(2, 2, [DATA, 0], [99, 0, 1])).1, 0x80);
    assert_eq!(n.run(1, &command(2, 1, [DATA, LIST], [0, 0, 1024])).1, 2);
    assert_eq!(n.run(1, &command(2, 9, [DATA, 0], [0, 0, 0])).1, 0x0b);
    assert_eq!(n.run(1, &command(2, 1, [0x1000, 0], [0, 0, 0])).1, 4, "no memory there");
    assert_eq!(n.run(0, &command(4, 0, [0, 0], [1, 0, 0])).1, 0x10c);
    assert_eq!(n.run(0, &command(0, 0, [0, 0], [1, 0, 0])).1, 0);
    assert_eq!(n.run(0, &command(4, 0, [0, 0], [1, 0, 0])).1, 0);
    assert_eq!(n.run(0, &command(1, 0, [IO, 0], [0x0007_0001, 0x0001_0001, 0])).1, 0x100);
}

#[test]
fn another_size_is_an_event() {
    const EVENT: [u8; 64] = {
        let mut c = [0; 64];
        c[0] = 12;
        c
    };
    let n = Nvm::new(&IoPool::immediate());
    let grow = |disk: usize, blocks: u64| {
        n.config.disks[disk].node().resize(512 * blocks).unwrap();
        n.config.disks[disk].resized();
    };
    let log = |keep: u32| {
        assert_eq!(n.run(0, &command(2, u32::MAX, [DATA, 0], [0x03ff_0004 | keep << 15, 0, 0])), (0, 0));
        n.memory(DATA, 12)
    };
    assert_eq!(n.run(0, &command(6, 0, [DATA, 0], [1, 0, 0])), (0, 0));
    assert_eq!(n.memory(DATA + 92, 4), [0, 1, 0, 0], "what can be asked for");
    // Not asked for: noted all the same.
    n.submit(0, &EVENT);
    grow(1, 200);
    assert!(!n.line("intx"));
    assert_eq!(log(0)[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(log(0)[..4], [0; 4], "it was read");
    // Asked for: one event until the log is read and not retained.
    assert_eq!(n.run(0, &command(9, 0, [0, 0], [11, 0x100, 0])), (0, 0));
    grow(1, 300);
    assert!(n.line("intx"));
    assert_eq!(n.completion(0), (0x0004_0002, 0));
    n.submit(0, &EVENT);
    grow(0, 5000);
    assert_eq!(log(1)[..], [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    grow(0, 6000);
    assert!(!n.line("intx"));
    assert_eq!(log(0)[..], [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    grow(0, 7000);
    assert_eq!(n.completion(0), (0x0004_0002, 0));
    assert_eq!(log(0)[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    // One that changed while the machine stood, or before there was a command to end.
    n.cell().quiesce();
    let saved = n.cell().save();
    grow(0, 8000);
    n.cell().restore(&saved).unwrap();
    assert_eq!(n.cell().save(), saved);
    n.cell().resume();
    assert!(!n.line("intx"));
    n.submit(0, &EVENT);
    assert_eq!(n.completion(0), (0x0004_0002, 0));
    // Nothing is left after a reset.
    n.cell().reset(ResetKind::Cold);
    grow(0, 9000);
    assert!(!n.line("intx"));
}

#[test]
fn completions_wait_for_room() {
    let n = Nvm::new(&IoPool::immediate());
    n.enable_messages(0xfee0_0000, 0x40);
    // Seven fill the ring; the eighth and ninth wait.
    (0..7).for_each(|_| n.submit(1, &command(0, 1, [0, 0], [0; 3])));
    n.take_messages();
    (0..2).for_each(|_| n.submit(1, &command(0, 1, [0, 0], [0; 3])));
    assert_eq!(n.take_messages(), []);
    let saved = n.cell().save();
    n.cell().restore(&saved).unwrap();
    n.cell().resume();
    for _ in 0..9 {
        assert_eq!(n.completion(1), (0, 0));
    }
    assert_eq!(n.take_messages().len(), 2);
    let entry = n.memory(IO_DONE, 16);
    assert_eq!(entry[14] & 1, 0, "the second round");
}

#[test]
fn goes_on_after_standing_still() {
    let n = Nvm::new(&IoPool::new(2));
    n.submit(1, &command(2, 1, [DATA, 0], [7, 0, 7]));
    n.cell().quiesce();
    let saved = n.cell().save();
    n.cell().restore(&saved).unwrap();
    assert_eq!(n.cell().save(), saved);
    n.cell().resume();
    assert_eq!(n.completion(1), (0, 0));
    assert_eq!(n.memory(DATA, 4096), pattern(4096 * 512)[7 * 512..][..4096]);
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(config(&IoPool::immediate())));
    check(Pci { express: true, ..Pci::new(config(&IoPool::immediate())) });
}

#[test]
fn random_commands_end() {
    let n = Nvm::new(&IoPool::immediate());
    let pci = Pci::new(n.config.clone());
    let mut rng = Rng::new(13);
    for round in 0..3000 {
        if round % 50 == 0 {
            n.cell().reset(ResetKind::Cold);
            n.enable();
            n.bar_write(0, 0x24, 4, 0x0007_0007);
            n.bar_write(0, 0x28, 8, ADMIN);
            n.bar_write(0, 0x30, 8, ADMIN_DONE);
            n.bar_write(0, 0x14, 4, 0x0046_0001 | rng.below(2) << 7);
        }
        scramble(&n, &pci, &mut rng, 3);
        n.enable();
        let queue = rng.below(3);
        let number = rng.below(3) as u32;
        let place = [DATA, DATA + 0x1000 * rng.below(8), rng.next_u64()];
        let data = [place[rng.below(3) as usize], place[rng.below(3) as usize]];
        let words = [
            rng.next_u64() as u32 & 0x0007_000f,
            rng.next_u64() as u32 & 0x0003_000f,
            rng.below(2000) as u32,
        ];
        let c = command(rng.below(14) as u8, number, data, words);
        for slot in 0..8 {
            n.put([ADMIN, DATA, DATA + 0x1000][queue as usize] + 64 * slot, &c);
        }
        n.bar_write(0, DOORBELLS + 8 * queue, 4, rng.below(8));
        n.bar_write(0, DOORBELLS + 8 * queue + 4, 4, rng.below(8));
        assert!(n.cell().save().to_bytes().len() < 100 << 10);
    }
}
