use ::block::{BlockNode, Disk, IoPool, MemoryNode, NodeInfo};
use ::device::test_bench::{Bench, Rng, check};
use storage::ScsiDrive;

use super::*;
use crate::Mmio;
use crate::test_driver::{Driver, Piece, hostile_rings};

const SIZE: usize = 1 << 20;
const ALL: u64 = !0;

fn disk(pool: &IoPool) -> Disk {
    Disk::new("d0", Arc::new(MemoryNode::new("d0", SIZE)), false, pool)
}

/// A disk at target 1, another at 1 as unit 2, an empty CD-ROM drive at 3.
fn config(disk: &Disk, pool: &IoPool) -> Mmio<ScsiConfig> {
    let bus = ScsiBus::default();
    bus.hang(ScsiDrive::disk(1, 0, disk.clone())).unwrap();
    bus.hang(ScsiDrive::disk(1, 2, self::disk(pool))).unwrap();
    bus.hang(ScsiDrive::cd(3, 0, None)).unwrap();
    Mmio::new(ScsiConfig::default(), bus)
}

fn header(target: u8, lun: u8, cdb: &[u8]) -> Vec<u8> {
    let mut header = vec![1, target, 0x40, lun, 0, 0, 0, 0];
    header.extend([7; 8]);
    header.extend([0; 3]);
    header.extend(cdb);
    header.resize(19 + 32, 0);
    header
}

/// What became of a command.
#[derive(Debug, PartialEq)]
struct Answer {
    response: u8,
    status: u8,
    residual: u32,
    /// Key and code.
    sense: Option<[u8; 2]>,
    data: Vec<u8>,
}

fn parse(got: &[u8]) -> Answer {
    let word = |at: usize| u32::from_le_bytes(got[at..at + 4].try_into().unwrap());
    let sense = (word(0) != 0).then(|| [got[12 + 2], got[12 + 12]]);
    Answer { response: got[11], status: got[10], residual: word(4), sense, data: got[108..].to_vec() }
}

fn ask(driver: &mut Driver<'_>, header: &[u8], out: &[u8], room: u32) -> Answer {
    let mut pieces = vec![Piece::Out(header)];
    pieces.extend((!out.is_empty()).then_some(Piece::Out(out)));
    pieces.extend([Piece::In(50), Piece::In(58)]);
    pieces.extend((room > 0).then_some(Piece::In(room)));
    parse(&driver.ask(2, &pieces).0)
}

fn ready(driver: &mut Driver<'_>, target: u8, lun: u8) -> Answer {
    ask(driver, &header(target, lun, &[0]), &[], 0)
}

#[test]
fn commands_move_data() {
    let pool = IoPool::new(2);
    let disk = disk(&pool);
    let bench = Bench::new(config(&disk, &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    assert_eq!(ready(&mut driver, 1, 0).sense, Some([6, 0x29]), "power-on is told of");
    assert_eq!(
        ready(&mut driver, 1, 0),
        Answer { response: 0, status: 0, residual: 0, sense: None, data: vec![] }
    );
    let data: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    let write = header(1, 0, &[0x2a, 0, 0, 0, 0, 5, 0, 0, 8]);
    assert_eq!(ask(&mut driver, &write, &data, 0).status, 0);
    let mut back = vec![0; 4096];
    disk.read_at(5 * 512, &mut back).unwrap();
    assert_eq!(back, data);
    let read = header(1, 0, &[0x28, 0, 0, 0, 0, 5, 0, 0, 8]);
    let got = ask(&mut driver, &read, &[], 5000);
    assert_eq!((got.status, got.residual, &got.data[..4096]), (0, 904, &data[..]));
    let got = ask(&mut driver, &read, &[], 4095);
    assert_eq!((got.response, got.residual), (1, 4095), "more than there is room for");
    assert_eq!(ask(&mut driver, &write, &data[1..], 0).response, 1);
    let beyond = header(1, 0, &[0x28, 0, 0, 0, 8, 0, 0, 0, 1]);
    assert_eq!(ask(&mut driver, &beyond, &[], 512).sense, Some([5, 0x21]));
    let flush = header(1, 0, &[0x35]);
    assert_eq!((ask(&mut driver, &flush, &[], 0).status, disk.stats().flushes), (0, 1));
    // A list of parameters comes with its command.
    let mut ranges = vec![0; 24];
    (ranges[15], ranges[19]) = (5, 1);
    let unmap = header(1, 0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24]);
    assert_eq!(ask(&mut driver, &unmap, &ranges, 0).status, 0);
    disk.read_at(5 * 512, &mut back).unwrap();
    assert!(back[512..] == data[512..]);
    assert!(!driver.needs_reset());
}

#[test]
fn units_are_found() {
    let pool = IoPool::immediate();
    let bench = Bench::new(config(&disk(&pool), &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    let luns = ask(&mut driver, &header(1, 0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64]), &[], 64);
    assert_eq!((luns.residual, luns.data[3], luns.data[9], luns.data[17]), (64 - 24, 16, 0, 2));
    assert_eq!(ask(&mut driver, &header(3, 0, &[0x12, 0, 0, 0, 36]), &[], 36).data[0], 5);
    assert_eq!(ask(&mut driver, &header(1, 1, &[0x12, 0, 0, 0, 36]), &[], 36).data[0], 0x7f);
    assert_eq!(ready(&mut driver, 1, 1).sense, Some([5, 0x25]));
    assert_eq!(ready(&mut driver, 2, 0).response, 3);
    assert_eq!(ask(&mut driver, &[0; 51], &[], 0).response, 3, "no address");
    // Number of targets and units, and sizes that can be changed.
    assert_eq!((bench.read(0, 0x100 + 30, 2), bench.read(0, 0x100 + 32, 4)), (255, 16_383));
    bench.write(0, 0x100 + 20, 4, 8);
    let (got, _) = driver.ask(2, &[Piece::Out(&header(3, 0, &[0])), Piece::In(20)]);
    assert_eq!((got[10], got[0], got[12 + 2]), (2, 8, 6), "eight bytes of sense data");
    bench.write(0, 0x100 + 24, 4, 2000);
    assert_eq!(bench.read(0, 0x100 + 24, 4), 32);
}

#[test]
fn functions_and_notifications() {
    let pool = IoPool::immediate();
    let bench = Bench::new(config(&disk(&pool), &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    ready(&mut driver, 1, 0);
    let function = |what: u8, target: u8, lun: u8| {
        let mut bytes = vec![0, 0, 0, 0, what, 0, 0, 0, 1, target, 0x40, lun];
        bytes.resize(24, 0);
        bytes
    };
    let mut run = |bytes: &[u8]| driver.ask(0, &[Piece::Out(bytes), Piece::In(1)]).0[0];
    assert_eq!([run(&function(5, 1, 0)), run(&function(5, 1, 9)), run(&function(5, 9, 0))], [0, 12, 3]);
    assert_eq!([run(&function(2, 1, 0)), run(&function(0, 1, 0)), run(&function(4, 1, 7))], [11, 0, 0]);
    assert_eq!(run(&[9, 0, 0, 0]), 11);
    assert_eq!(ready(&mut driver, 1, 0).sense, Some([6, 0x29]));
    let mut query = vec![2, 0, 0, 0, 1, 1, 0x40, 0];
    query.resize(16, 0);
    assert_eq!(driver.ask(0, &[Piece::Out(&query), Piece::In(5)]).0, [0; 5]);
    assert!(!driver.needs_reset());
    driver.add(0, &[Piece::Out(&[0; 10]), Piece::In(1)]);
    driver.kick(0);
    assert!(driver.needs_reset());
}

/// A disk whose reads wait until they are let go.
#[derive(Debug, Default)]
struct Slow {
    open: Mutex<bool>,
    opened: Condvar,
}

impl BlockNode for Slow {
    fn info(&self) -> NodeInfo {
        MemoryNode::new("slow", SIZE).info()
    }

    fn read(&self, _offset: u64, bufs: &mut [std::io::IoSliceMut<'_>]) -> Result<(), ::block::BlockError> {
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
        bufs.iter_mut().for_each(|b| b.fill(9));
        Ok(())
    }

    fn write(
        &self,
        _offset: u64,
        _bufs: &[std::io::IoSlice<'_>],
        _fua: bool,
    ) -> Result<(), ::block::BlockError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), ::block::BlockError> {
        Ok(())
    }
}

#[test]
fn a_function_waits_for_what_was_before_it() {
    let pool = IoPool::new(1);
    let slow = Arc::new(Slow::default());
    let disk = Disk::new("slow", slow.clone(), false, &pool);
    let bench = Bench::new(config(&disk, &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    ready(&mut driver, 1, 0);
    let read = driver.add(2, &[Piece::Out(&header(1, 0, &[8, 0, 0, 0, 1])), Piece::In(108), Piece::In(512)]);
    driver.kick(2);
    let mut abort = vec![0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x40, 0];
    abort.resize(24, 0);
    let answer = driver.add(0, &[Piece::Out(&abort), Piece::In(1)]);
    driver.write_ram(answer.inputs[0].0, &[0xee]);
    driver.kick(0);
    assert_eq!((driver.used_idx(0), driver.used_idx(2)), (0, 1));
    *slow.open.lock() = true;
    slow.opened.notify_all();
    driver.wait(0);
    assert_eq!(
        (driver.written(&answer), parse(&driver.written(&read)).data[..4].to_vec()),
        (vec![0], vec![9; 4])
    );
}

#[test]
fn changed_media_are_told_of() {
    let pool = IoPool::immediate();
    let disc = disk(&pool);
    let bench = Bench::new(config(&disc, &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    let change = |disk: Option<Disk>| {
        bench.cell().with(|d| {
            let scsi: &mut Scsi = d.as_any().unwrap().downcast_mut().unwrap();
            let drive = scsi.drive(3, 0).unwrap();
            assert!(scsi.with_slot(drive, &mut |slot| assert!(slot.change(disk.clone(), false))));
            assert!(scsi.drive(4, 0).is_none() && !scsi.with_slot(0, &mut |_| {}));
        });
    };
    let first = driver.add(1, &[Piece::In(16)]);
    driver.kick(1);
    change(Some(disc.clone()));
    assert_eq!(driver.written(&first), [3, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0x28, 0, 0, 0]);
    // No buffer: that some were missed is told with the next.
    change(None);
    let second = driver.add(1, &[Piece::In(16)]);
    driver.kick(1);
    assert_eq!(driver.written(&second)[..4], [0, 0, 0, 0x80]);
    assert!(!driver.needs_reset());
}

#[test]
fn another_size_is_an_event() {
    let pool = IoPool::immediate();
    let disk = disk(&pool);
    let bench = Bench::new(config(&disk, &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    let told = || bench.cell().with(|d| d.as_any().unwrap().downcast_mut::<Scsi>().unwrap().resized());
    let event = driver.add(1, &[Piece::In(16)]);
    driver.kick(1);
    ready(&mut driver, 1, 0);
    told();
    assert_eq!(driver.written(&event), [0xcc; 16], "nothing has changed");
    disk.node().resize(2 * SIZE as u64).unwrap();
    told();
    assert_eq!(driver.written(&event), [3, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]);
    assert_eq!(ready(&mut driver, 1, 0).sense, Some([6, 0x2a]));
    assert_eq!(ready(&mut driver, 1, 0).sense, None);
}

#[test]
fn drives_come_and_go_with_events() {
    let pool = IoPool::immediate();
    let disk = disk(&pool);
    let bench = Bench::new(config(&disk, &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 16]);
    let with = |f: &mut dyn FnMut(&mut Scsi)| {
        bench.cell().with(|d| f(d.as_any().unwrap().downcast_mut().unwrap()));
    };
    let buffers = [driver.add(1, &[Piece::In(16)]), driver.add(1, &[Piece::In(16)])];
    driver.kick(1);
    assert_eq!(ready(&mut driver, 7, 2).response, 3);
    with(&mut |scsi| scsi.plugged(&storage::ScsiDrive::disk(7, 2, disk.clone())));
    assert_eq!(driver.written(&buffers[0]), [1, 0, 0, 0, 1, 7, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(ready(&mut driver, 7, 2).sense, Some([6, 0x29]));
    with(&mut |scsi| assert!(scsi.unplug(7, 2) && !scsi.unplug(7, 2)));
    assert_eq!(driver.written(&buffers[1]), [1, 0, 0, 0, 1, 7, 0, 2, 0, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(ready(&mut driver, 7, 2).response, 3);
    assert!(!driver.needs_reset());
}

#[test]
fn moves_in_mid_traffic() {
    let pool = IoPool::new(3);
    let disk = disk(&pool);
    let mut rng = Rng::new(5);
    let image: Vec<u8> = (0..SIZE).map(|_| rng.next_u64() as u8).collect();
    disk.write_at(0, &image).unwrap();
    let mut bench = Bench::new(config(&disk, &pool));
    let mut driver = Driver::start(&bench, ALL, &[16, 16, 64]);
    ready(&mut driver, 1, 0);
    let mut state = driver.state();
    drop(driver);
    for _ in 0..20 {
        let mut driver = Driver::resumed(&bench, &state);
        let mut reads = Vec::new();
        for _ in 0..1 + rng.below(8) {
            let sector = rng.below(2000);
            let [high, low] = (sector as u16).to_be_bytes();
            let read = header(1, 0, &[0x28, 0, 0, 0, high, low, 0, 0, 1]);
            reads.push((driver.add(2, &[Piece::Out(&read), Piece::In(108), Piece::In(512)]), sector));
            if rng.below(4) != 0 {
                driver.kick(2);
            }
        }
        let saved = StateBlob::from_bytes(&bench.cell().save().to_bytes()).unwrap();
        let twin = Bench::new(config(&disk, &pool));
        let moved = driver.moved(&twin);
        twin.cell().restore(&saved).unwrap();
        assert_eq!(twin.cell().save(), saved);
        twin.cell().resume();
        twin.cell().save();
        for (token, sector) in reads {
            let got = parse(&moved.written(&token));
            assert_eq!((got.status, &got.data[..]), (0, &image[sector as usize * 512..][..512]));
        }
        state = moved.state();
        drop((driver, moved));
        bench = twin;
    }
}

#[test]
fn passes_the_common_tests() {
    let pool = IoPool::new(2);
    check(config(&disk(&pool), &pool));
    check(Mmio::new(ScsiConfig::default(), ScsiBus::default()));
}

#[test]
fn fuzz_hostile_rings() {
    let pool = IoPool::new(2);
    let config = config(&disk(&pool), &pool);
    hostile_rings(&config, 3, || config.clone(), |_| ());
}
