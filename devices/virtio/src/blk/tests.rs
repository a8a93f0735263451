use ::block::{IoPool, MemoryNode};
use ::device::test_bench::{Bench, Rng, check};
use ::device::{Properties, StateBlob};

use super::*;
use crate::Mmio;
use crate::device::feature::{EVENT_IDX, INDIRECT_DESC};
use crate::test_driver::{Driver, Piece, hostile_rings};
use crate::transfer::PIECE;

const SIZE: usize = 1 << 20;

fn disk() -> Disk {
    Disk::new("d0", Arc::new(MemoryNode::new("d0", SIZE)), false, &IoPool::new(3))
}

fn on(disk: &Disk, config: BlkConfig) -> Mmio<BlkConfig> {
    Mmio::new(config, Some(disk.clone()))
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

const ALL: u64 = !0;

#[test]
fn reads_and_writes() {
    let disk = disk();
    let bench = Bench::new(on(&disk, BlkConfig::default()));
    let mut driver = Driver::start(&bench, ALL, &[16]);
    let data: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    let (status, len) = driver.ask(
        0,
        &[Piece::Out(&header(1, 3)), Piece::Out(&data[..1000]), Piece::Out(&data[1000..]), Piece::In(1)],
    );
    assert_eq!((status, len), (vec![0], 1));
    let mut back = vec![0; 4096];
    disk.read_at(3 * 512, &mut back).unwrap();
    assert_eq!(back, data);
    // Header and status may share descriptors with the data or be cut up.
    let head = header(0, 4);
    let (got, len) =
        driver.ask(0, &[Piece::Out(&head[..7]), Piece::Out(&head[7..]), Piece::In(512), Piece::In(513)]);
    assert_eq!((&got[..1024], got[1024], len), (&data[512..1536], 0, 1025));
    let token = driver.add_indirect(0, &[Piece::Out(&header(0, 3)), Piece::In(4096), Piece::In(1)]);
    driver.kick(0);
    driver.wait(0);
    assert_eq!(driver.written(&token)[..4096], data);
    assert!(!driver.needs_reset());
}

#[test]
fn large_transfers_pass_in_pieces() {
    let disk = disk();
    let bench = Bench::new(on(&disk, BlkConfig::default()));
    let mut driver = Driver::start(&bench, ALL, &[16]);
    let mut rng = Rng::new(5);
    let data: Vec<u8> = (0..PIECE as u64 + 4096).map(|_| rng.next_u64() as u8).collect();
    disk.write_at(512, &data).unwrap();
    let (got, len) = driver.ask(0, &[Piece::Out(&header(0, 1)), Piece::In(data.len() as u32), Piece::In(1)]);
    assert_eq!((got.len() as u32, len), (data.len() as u32 + 1, data.len() as u32 + 1));
    assert!(got[..data.len()] == data);
}

#[test]
fn other_requests() {
    let disk = disk();
    let config = BlkConfig { serial: "rhea-1".into(), ..BlkConfig::default() };
    let bench = Bench::new(on(&disk, config));
    let mut driver = Driver::start(&bench, ALL, &[16]);
    let (id, len) = driver.ask(0, &[Piece::Out(&header(8, 0)), Piece::In(20), Piece::In(1)]);
    assert_eq!((&id[..8], id[20], len), (&b"rhea-1\0\0"[..], 0, 21));
    assert_eq!(driver.ask(0, &[Piece::Out(&header(4, 0)), Piece::In(1)]).0, [0]);
    assert_eq!(disk.stats().flushes, 1);
    assert_eq!(driver.ask(0, &[Piece::Out(&header(77, 0)), Piece::In(1)]).0, [2]);

    disk.write_at(0, &[0xee; 4096]).unwrap();
    let range = |sector: u64, sectors: u32, flags: u32| {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend(flags.to_le_bytes());
        range
    };
    let two = [range(1, 1, 0), range(3, 2, 1)].concat();
    assert_eq!(driver.ask(0, &[Piece::Out(&header(13, 0)), Piece::Out(&two), Piece::In(1)]).0, [0]);
    let mut back = [0; 4096];
    disk.read_at(0, &mut back).unwrap();
    let zero: Vec<bool> = back.chunks(512).map(|s| s == [0; 512]).collect();
    assert_eq!(zero, [false, true, false, true, true, false, false, false]);
    let ask = |driver: &mut Driver<'_>, kind, range: &[u8]| {
        driver.ask(0, &[Piece::Out(&header(kind, 0)), Piece::Out(range), Piece::In(1)]).0[0]
    };
    assert_eq!(ask(&mut driver, 11, &range(0, 8, 0)), 0);
    assert_eq!(ask(&mut driver, 11, &range(0, 8, 1)), 2, "discard knows no flags");
    assert_eq!(ask(&mut driver, 13, &range(0, MAX_ZEROES + 1, 0)), 1);
    assert_eq!(ask(&mut driver, 13, &range(u64::MAX, 8, 0)), 1);
    assert_eq!(ask(&mut driver, 13, &range(0, 8, 0)[..15]), 1);
    assert!(!driver.needs_reset());
}

#[test]
fn bad_requests_fail_and_worse_break() {
    let disk = disk();
    let bench = Bench::new(on(&disk, BlkConfig::default()));
    let mut driver = Driver::start(&bench, ALL, &[16]);
    let end = SIZE as u64 / 512;
    for (kind, sector, len) in [(0, end, 512), (0, end - 1, 1024), (0, u64::MAX, 512), (0, 0, 100)] {
        let (got, _) = driver.ask(0, &[Piece::Out(&header(kind, sector)), Piece::In(len), Piece::In(1)]);
        assert_eq!(*got.last().unwrap(), 1, "{sector} {len}");
    }
    let (got, _) = driver.ask(0, &[Piece::Out(&header(1, end)), Piece::Out(&[0; 512]), Piece::In(1)]);
    assert_eq!(got, [1]);
    assert!(!driver.needs_reset());
    for pieces in [&[Piece::Out(&[0; 15]), Piece::In(1)][..], &[Piece::Out(&[0; 16])]] {
        let mut driver = Driver::start(&bench, ALL, &[16]);
        driver.add(0, pieces);
        driver.kick(0);
        bench.cell().save();
        assert!(driver.needs_reset());
    }
}

#[test]
fn read_only_and_properties() {
    let disk = disk();
    let mut config = on(&disk, BlkConfig::default());
    for (name, value) in
        [("read-only", "on"), ("physical_block_size", "4k"), ("num-queues", "4"), ("opt-io-size", "1M")]
    {
        config.set(name, value).unwrap();
    }
    let bench = Bench::new(config);
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16, 16]);
    assert_ne!(driver.features & feature::RO, 0);
    assert_eq!(driver.features & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    let read = |at: u64, size| bench.read(0, 0x100 + at, size);
    assert_eq!(u64::from(driver.reg(0x100)) | u64::from(driver.reg(0x104)) << 32, SIZE as u64 / 512);
    assert_eq!((read(12, 4), read(20, 4), read(24, 1), read(28, 4), read(34, 2)), (254, 512, 3, 2048, 4));
    let (got, _) = driver.ask(3, &[Piece::Out(&header(1, 0)), Piece::Out(&[0; 512]), Piece::In(1)]);
    assert_eq!((got, disk.stats().writes), (vec![1], 0));
    let timers = ::device::TimerQueue::new(::device::Clock::new(::device::ClockSource::Counted));
    let mut wires = ::device::WiresBuilder::new("machine/d", &timers).build();
    let bad = BlkConfig { queue_size: 3, ..BlkConfig::default() };
    let error = bad.make(Some(disk), &mut wires).err().unwrap().to_string();
    assert_eq!(error, "machine/d: property 'queue_size': expected a power of two from 4 to 1024");
    let error = BlkConfig::default().make(None, &mut wires).err().unwrap().to_string();
    assert_eq!(error, "machine/d: needs a disk (drive)");
}

#[test]
fn the_write_cache_can_be_switched() {
    let bench = Bench::new(on(&disk(), BlkConfig::default()));
    let through = |bench: &Bench| {
        bench.cell().with(|d| {
            let blk = d.as_any().unwrap().downcast_ref::<Blk>().unwrap();
            blk.shared.write_through.load(Ordering::Relaxed)
        })
    };
    Driver::start(&bench, 0, &[16]);
    assert!(through(&bench), "a driver that does not flush gets stable writes");
    Driver::start(&bench, feature::FLUSH, &[16]);
    assert!(!through(&bench));
    Driver::start(&bench, ALL, &[16]);
    assert!(!through(&bench) && bench.read(0, 0x120, 1) == 1);
    bench.write(0, 0x120, 1, 0);
    assert!(through(&bench) && bench.read(0, 0x120, 1) == 0);
    let saved = bench.cell().save();
    let twin = Bench::new(on(&disk(), BlkConfig::default()));
    twin.cell().restore(&saved).unwrap();
    assert!(through(&twin) && twin.read(0, 0x120, 1) == 0);
}

/// Writes and reads on several queues while the device is saved and moved to a twin again and again.
#[test]
fn moves_in_mid_traffic() {
    let disk = disk();
    let config = on(&disk, BlkConfig { num_queues: 2, ..BlkConfig::default() });
    for features in [0, EVENT_IDX | INDIRECT_DESC] {
        let mut bench = Bench::new(config.clone());
        let mut rng = Rng::new(7);
        let mut image = vec![0; SIZE];
        disk.read_at(0, &mut image).unwrap();
        let driver = Driver::start(&bench, features | feature::MQ, &[64, 64]);
        let (mut state, mut requests) = (driver.state(), 0);
        drop(driver);
        for round in 0..60 {
            let mut driver = Driver::resumed(&bench, &state);
            let mut reads = Vec::new();
            for _ in 0..1 + rng.below(10) {
                let queue = rng.below(2) as usize;
                // Writes go to the first half, reads to the second, which stays as it is.
                if rng.below(2) == 0 {
                    let sector = rng.below(1000);
                    let data = [rng.next_u64() as u8; 512];
                    image[sector as usize * 512..][..512].copy_from_slice(&data);
                    // Order among writes to one sector is not promised: wait.
                    driver.add(queue, &[Piece::Out(&header(1, sector)), Piece::Out(&data), Piece::In(1)]);
                    driver.kick(queue);
                    bench.cell().save();
                } else {
                    let sector = 1024 + rng.below(1000);
                    let token =
                        driver.add(queue, &[Piece::Out(&header(0, sector)), Piece::In(512), Piece::In(1)]);
                    reads.push((token, sector));
                    if rng.below(4) != 0 {
                        driver.kick(queue);
                    }
                }
                requests += 1;
            }
            if round % 3 == 0 {
                bench.cell().quiesce();
            }
            let saved = StateBlob::from_bytes(&bench.cell().save().to_bytes()).unwrap();
            let twin = Bench::new(config.clone());
            let moved = driver.moved(&twin);
            twin.cell().restore(&saved).unwrap();
            assert_eq!(twin.cell().save(), saved);
            assert_eq!(twin.line("irq"), bench.line("irq"));
            twin.cell().resume();
            twin.cell().save();
            for (token, sector) in reads {
                let got = moved.written(&token);
                assert_eq!((&got[..512], got[512]), (&image[sector as usize * 512..][..512], 0));
            }
            state = moved.state();
            drop((driver, moved));
            bench = twin;
        }
        let driver = Driver::resumed(&bench, &state);
        assert_eq!(u32::from(driver.used_idx(0)) + u32::from(driver.used_idx(1)), requests);
        let mut now = vec![0; SIZE];
        disk.read_at(0, &mut now).unwrap();
        assert!(now == image);
    }
}

#[test]
fn passes_the_common_tests() {
    check(on(&disk(), BlkConfig { num_queues: 2, ..BlkConfig::default() }));
}

#[test]
fn fuzz_hostile_rings() {
    let config = on(&disk(), BlkConfig { num_queues: 2, ..BlkConfig::default() });
    hostile_rings(&config, 2, || config.clone(), |_| ());
}

/// A disk whose host has no space while it is told so.
#[derive(Debug)]
struct Full(MemoryNode, AtomicBool);

impl ::block::BlockNode for Full {
    fn info(&self) -> ::block::NodeInfo {
        self.0.info()
    }

    fn read(&self, offset: u64, bufs: &mut [std::io::IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.0.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[std::io::IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(BlockError::Io(std::io::ErrorKind::StorageFull.into()));
        }
        self.0.write(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.0.flush()
    }
}

#[test]
fn requests_that_stop_the_machine_are_served_when_it_goes_on() {
    use ::block::{ErrorPolicy, FailureSink, OnError};
    let node = Arc::new(Full(MemoryNode::new("m", SIZE), AtomicBool::new(true)));
    let made = |write: OnError| {
        let policy = ErrorPolicy { write, ..ErrorPolicy::default() };
        let disk = Disk::new("d0", node.clone(), false, &IoPool::new(2));
        disk.with_policy(policy, FailureSink::new(|f| assert!(!f.read && f.error.is_no_space())))
    };
    for (policy, status) in [(OnError::Report, 1), (OnError::Ignore, 0)] {
        let bench = Bench::new(on(&made(policy), BlkConfig::default()));
        let mut driver = Driver::start(&bench, ALL, &[16]);
        assert_eq!(
            driver.ask(0, &[Piece::Out(&header(1, 0)), Piece::Out(&[1; 512]), Piece::In(1)]).0,
            [status]
        );
    }
    let disk = made(OnError::NoSpace);
    let bench = Bench::new(on(&disk, BlkConfig::default()));
    let mut driver = Driver::start(&bench, ALL, &[16]);
    let token = driver.add(0, &[Piece::Out(&header(1, 2)), Piece::Out(&[7; 512]), Piece::In(1)]);
    driver.kick(0);
    bench.cell().quiesce();
    assert_eq!((disk.io_status(), driver.used_idx(0)), ("nospace", 0));
    // Still full: it waits again. Then there is room.
    bench.cell().resume();
    bench.cell().quiesce();
    assert_eq!((disk.io_status(), driver.used_idx(0)), ("nospace", 0));
    node.1.store(false, Ordering::Relaxed);
    bench.cell().resume();
    bench.cell().quiesce();
    assert_eq!((disk.io_status(), driver.used_idx(0), driver.written(&token)), ("ok", 1, vec![0]));
    let mut back = [0; 512];
    disk.read_at(1024, &mut back).unwrap();
    assert_eq!(back, [7; 512]);
    // What waits does not outlive a reset.
    node.1.store(true, Ordering::Relaxed);
    bench.cell().resume();
    driver.add(0, &[Piece::Out(&header(1, 2)), Piece::Out(&[9; 512]), Piece::In(1)]);
    driver.kick(0);
    bench.cell().quiesce();
    bench.cell().reset(::device::ResetKind::Cold);
    node.1.store(false, Ordering::Relaxed);
    bench.cell().resume();
    disk.drain();
    disk.read_at(1024, &mut back).unwrap();
    assert_eq!((back, disk.io_status()), ([7; 512], "ok"));
}

#[test]
fn a_new_size_is_told() {
    let disk = disk();
    let bench = Bench::new(on(&disk, BlkConfig::default()));
    disk.resized();
    assert_eq!(bench.read(0, 0x60, 4), 0, "nobody listens yet");
    let driver = Driver::start(&bench, ALL, &[16]);
    let generation = driver.reg(0xfc);
    disk.resized();
    assert_eq!((bench.read(0, 0x60, 4) & 2, driver.reg(0xfc)), (2, generation + 1));
}
