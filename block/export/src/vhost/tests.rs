//! The back end against a driver of our own.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use block::MemoryNode;
use guest_memory::{Backing, RamBlock, RamConfig};
use vhost_user::{Front, Region, VringAddress};

use super::*;

const BASE: u64 = 0x8000_0000;
const USER: u64 = 0x7000_0000_0000;
const SIZE: u64 = 1 << 20;
const ENTRIES: u16 = 16;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x4000;

/// A driver with one request at a time.
struct Driver {
    front: Front,
    memory: Arc<RamBlock>,
    events: (Event, Event),
    next: u16,
}

impl Driver {
    fn connect(path: &Path, features: u64) -> Self {
        let front = Front::new(
            UnixStream::connect(path).unwrap(),
            protocol::MQ | protocol::REPLY_ACK | protocol::CONFIG | protocol::BACKEND_REQ,
        );
        let front = front.unwrap();
        let config = RamConfig { backing: Backing::Memfd { huge: None }, ..RamConfig::default() };
        let memory = RamBlock::new("test", SIZE, &config).unwrap();
        let region = Region { guest: BASE, size: SIZE, user: USER, offset: 0 };
        front.set_features(feature::VERSION_1 | features).unwrap();
        front.set_memory(&[(region, memory.file().unwrap().as_fd())]).unwrap();
        let events = (Event::new().unwrap(), Event::new().unwrap());
        let at = VringAddress {
            index: 0,
            descriptors: USER,
            available: USER + AVAILABLE,
            used: USER + USED,
            ..VringAddress::default()
        };
        front.start(&at, (ENTRIES, 0), (&events.0, &events.1)).unwrap();
        Driver { front, memory, events, next: 0 }
    }

    /// Puts in pieces as (address, length, writable), and waits until they come back.
    fn send(&mut self, pieces: &[(u64, u32, bool)]) -> u32 {
        for (i, (at, len, writable)) in pieces.iter().enumerate() {
            let more = i + 1 < pieces.len();
            let flags = u16::from(more) | u16::from(*writable) << 1;
            let mut d = (BASE + at).to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend(flags.to_le_bytes());
            d.extend((i as u16 + 1).to_le_bytes());
            self.memory.write(16 * i as u64, &d).unwrap();
        }
        let slot = u64::from(self.next % ENTRIES);
        self.memory.write(AVAILABLE + 4 + 2 * slot, &0u16.to_le_bytes()).unwrap();
        self.next = self.next.wrapping_add(1);
        self.memory.store(AVAILABLE + 2, self.next.to_le(), SeqCst).unwrap();
        self.events.0.signal();
        let deadline = Instant::now() + Duration::from_secs(30);
        while u16::from_le(self.memory.load(USED + 2, SeqCst).unwrap()) != self.next {
            assert!(Instant::now() < deadline, "the request comes back");
            std::thread::sleep(Duration::from_millis(1));
        }
        u32::from_le(self.memory.load(USED + 4 + 8 * slot + 4, SeqCst).unwrap())
    }

    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> (u8, Vec<u8>) {
        let mut head = kind.to_le_bytes().to_vec();
        head.extend([0; 4]);
        head.extend(sector.to_le_bytes());
        self.memory.write(BUFFERS, &head).unwrap();
        self.memory.write(BUFFERS + 0x1000, data).unwrap();
        let (status, answer) = (BUFFERS + 0x100, BUFFERS + 0x20000);
        self.memory.write(status, &[0xff]).unwrap();
        // The header in two pieces, the data in two as well.
        let half = data.len() as u32 / 2;
        let pieces = [
            (BUFFERS, 5, false),
            (BUFFERS + 5, 11, false),
            (BUFFERS + 0x1000, half, false),
            (BUFFERS + 0x1000 + u64::from(half), data.len() as u32 - half, false),
            (answer, room, true),
            (status, 1, true),
        ];
        let written = self.send(&pieces);
        let (mut s, mut back) = ([0], vec![0; room as usize]);
        self.memory.read(status, &mut s).unwrap();
        self.memory.read(answer, &mut back).unwrap();
        if s == [0] {
            assert_eq!(written, room + 1);
        }
        (s[0], back)
    }
}

fn served(node: Arc<MemoryNode>, read_only: bool, queues: u16) -> (tempfile::TempDir, PathBuf, VhostExport) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let export = Export::new("disk0", node, read_only);
    let options = VhostOptions { block_size: 512, queues };
    let served = VhostExport::listen(VhostSocket::Path(path.clone()), export, options).unwrap();
    (dir, path, served)
}

#[test]
fn a_driver_reads_and_writes() {
    let node = Arc::new(MemoryNode::new("m", 64 << 10));
    let (_dir, path, served) = served(node.clone(), false, 4);
    for session in 0..2u8 {
        let mut d = Driver::connect(&path, bit::FLUSH);
        assert_eq!(d.front.queues().unwrap(), 4);
        let config = d.front.config(0, 60).unwrap();
        assert_eq!((config[0], config[34], config[WRITEBACK]), (128, 4, 1));
        assert_eq!(d.front.features() & bit::DISCARD, bit::DISCARD);
        let data: Vec<u8> = (0..4096u32).map(|i| (i % 251) as u8 ^ session).collect();
        assert_eq!(d.request(1, 3, &data, 0).0, 0);
        assert_eq!(d.request(0, 3, &[], 4096), (0, data.clone()));
        assert_eq!(d.request(4, 0, &[], 0).0, 0);
        assert_eq!(d.request(8, 0, &[], 20), (0, b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()));
        let range = |sector: u64, n: u32, flags: u32| {
            let mut r = sector.to_le_bytes().to_vec();
            r.extend(n.to_le_bytes());
            r.extend(flags.to_le_bytes());
            r
        };
        assert_eq!(d.request(13, 0, &[range(3, 1, 1), range(5, 1, 0)].concat(), 0).0, 0);
        let back = d.request(0, 3, &[], 4096).1;
        assert!(back[..512].iter().chain(&back[1024..1536]).all(|b| *b == 0));
        assert_eq!(back[512..1024], data[512..1024]);
        assert_eq!(d.request(11, 0, &range(0, 128, 0), 0).0, 0);
        // What is refused: beyond the end, parts of sectors, ranges that are none, kinds that there are not.
        assert_eq!(d.request(0, 127, &[], 1024).0, 1);
        assert_eq!(d.request(1, u64::MAX, &data, 0).0, 1);
        assert_eq!(d.request(1, 0, &data[..100], 0).0, 1);
        assert_eq!(d.request(11, 0, &range(120, 9, 0), 0).0, 1);
        assert_eq!(d.request(11, 0, &range(0, 1, 1), 0).0, 2);
        assert_eq!(d.request(13, 0, &data[..20], 0).0, 1);
        assert_eq!(d.request(99, 0, &[], 0).0, 2);
        // Nowhere to put a status, and a header that is too short: the ring goes on.
        assert_eq!(d.send(&[(BUFFERS, 16, false)]), 0);
        assert_eq!(d.send(&[(BUFFERS, 8, false), (BUFFERS + 0x100, 1, true)]), 1);
        d.front.set_config(WRITEBACK as u32, &[0]).unwrap();
        assert_eq!(d.front.config(WRITEBACK as u32, 1).unwrap(), [0]);
        assert!(d.front.set_config(0, &[1]).is_err(), "the size is not the driver's");
    }
    // A session under way does not keep the export.
    let _d = Driver::connect(&path, 0);
    drop(served);
    assert!(!path.exists());
}

#[test]
fn a_driver_is_told_of_another_size() {
    let node = Arc::new(MemoryNode::new("m", 64 << 10));
    let (_dir, path, served) = served(node.clone(), false, 1);
    let mut d = Driver::connect(&path, 0);
    // Nobody listens yet.
    served.resized();
    let reverse = d.front.listen().unwrap();
    for size in [128u64 << 10, 32 << 10] {
        block::BlockNode::resize(&*node, size).unwrap();
        served.resized();
        assert_eq!(reverse.receive().unwrap().request, vhost_user::backend::CONFIG_CHANGE);
        assert_eq!(d.front.config(0, 8).unwrap(), (size / 512).to_le_bytes());
        assert_eq!(d.request(0, size / 512 - 1, &[], 512).0, 0);
        assert_eq!(d.request(0, size / 512, &[], 512).0, 1);
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    let node = Arc::new(MemoryNode::from_vec("m", vec![7; 4096]));
    let (_dir, path, _served) = served(node, true, 1);
    let mut d = Driver::connect(&path, 0);
    assert_eq!(d.front.features() & (bit::READ_ONLY | bit::DISCARD), bit::READ_ONLY);
    assert_eq!(d.request(1, 0, &[1; 512], 0).0, 1);
    assert_eq!(d.request(0, 0, &[], 512), (0, vec![7; 512]));
    assert_eq!(d.request(4, 0, &[], 0).0, 0);
}

#[test]
fn bad_options() {
    for (block_size, queues, word) in [(1000, 1, "logical-block-size 1000"), (512, 0, "num-queues 0")] {
        let export = Export::new("e", Arc::new(MemoryNode::new("m", 512)), false);
        let path = VhostSocket::Path("/nonexistent/s".into());
        let text = VhostExport::listen(path, export, VhostOptions { block_size, queues });
        let text = text.err().unwrap().to_string();
        assert!(text.contains(word) && text.contains("expected"), "{text}");
    }
}
