//! The kernel's side against a stand-in for its ioctls, the table of memory, and the kernel itself where it has the drivers.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_memory::{AddressSpace, Backing, DirtyClient, RamBlock, RamConfig, Region, Unassigned};
use parking_lot::Mutex;
use vm_memory::GuestAddressSpace;

use super::*;

/// Writes down what it is asked.
#[derive(Clone, Default)]
struct Fake {
    said: Arc<Mutex<Vec<String>>>,
    /// The ioctl that fails.
    fails: &'static str,
}

impl Fake {
    fn say(&self, what: String) -> io::Result<()> {
        let fails = !self.fails.is_empty() && what.starts_with(self.fails);
        self.said.lock().push(what);
        if fails { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock())
    }
}

impl Driver for Fake {
    fn features(&self) -> io::Result<u64> {
        self.say("features?".into()).map(|()| 1 << 32 | 1 << 29)
    }
    fn set_owner(&self) -> io::Result<()> {
        self.say("owner".into())
    }
    fn set_features(&self, features: u64) -> io::Result<()> {
        self.say(format!("features {features:#x}"))
    }
    fn set_memory(&self, pieces: &[[u64; 3]]) -> io::Result<()> {
        let places: Vec<_> = pieces.iter().map(|p| (p[0], p[1])).collect();
        self.say(format!("memory {places:x?}"))
    }
    fn set_size(&self, ring: u32, entries: u32) -> io::Result<()> {
        self.say(format!("size {ring} {entries}"))
    }
    fn set_base(&self, ring: u32, base: u32) -> io::Result<()> {
        self.say(format!("base {ring} {base}"))
    }
    fn base(&self, ring: u32) -> io::Result<u32> {
        self.say(format!("base? {ring}")).map(|()| 40 + ring)
    }
    fn set_address(&self, a: &VringAddress) -> io::Result<()> {
        self.say(format!(
            "address {} +{:x} +{:x}",
            a.index,
            a.available - a.descriptors,
            a.used - a.descriptors
        ))
    }
    fn set_kick(&self, ring: u32, _event: &Event) -> io::Result<()> {
        self.say(format!("kick {ring}"))
    }
    fn set_call(&self, ring: u32, _event: &Event) -> io::Result<()> {
        self.say(format!("call {ring}"))
    }
    fn set_socket(&self, ring: u32, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.say(format!("socket {ring} {}", socket.is_some()))
    }
    fn set_cid(&self, cid: u64) -> io::Result<()> {
        self.say(format!("cid {cid}"))
    }
    fn set_running(&self, on: bool) -> io::Result<()> {
        self.say(format!("running {on}"))
    }
}

const BASE: u64 = 0x8000_0000;

fn shared(name: &str, size: u64) -> Arc<RamBlock> {
    let config = RamConfig { backing: Backing::Memfd { huge: None }, ..RamConfig::default() };
    RamBlock::new(name, size, &config).unwrap()
}

/// A space with memory in two pieces that touch, one behind a hole, and a card's own.
fn space() -> (AddressSpace, Arc<RamBlock>) {
    let space = AddressSpace::memory(Unassigned::Zeros);
    let main = shared("main", 1 << 20);
    for (at, from, size) in
        [(BASE, 0, 0x4_0000), (BASE + 0x4_0000, 0x4_0000, 0x4_0000), (BASE + 0xc_0000, 0xc_0000, 0x4_0000)]
    {
        space.add(Region::ram_slice("main", main.clone(), from, size).at(at)).unwrap();
    }
    let own = RamBlock::anonymous("card", 0x1_0000).unwrap();
    space.add(Region::ram("card", own).at(0x1000_0000)).unwrap();
    (space, main)
}

fn table(space: &AddressSpace, files: bool) -> Table {
    Table::of(&space.ram().memory(), files)
}

#[test]
fn memory_is_told_in_pieces_that_touch() {
    let (space, main) = space();
    let places = |t: &Table| t.pieces().iter().map(|p| (p.guest, p.size, p.offset)).collect::<Vec<_>>();
    let mains = [(BASE, 0x8_0000, 0), (BASE + 0xc_0000, 0x4_0000, 0xc_0000)];
    assert_eq!(places(&table(&space, true)), mains, "what has no file cannot be mapped");
    assert_eq!(places(&table(&space, false)), [&[(0x1000_0000, 0x1_0000, 0)][..], &mains].concat());
    let all = table(&space, false);
    let start = main.host_ptr().as_ptr() as u64;
    assert_eq!(all.host(BASE + 0x3_fff8, 16), Some(start + 0x3_fff8));
    assert_eq!((all.host(BASE + 0x7_fff8, 16), all.host(u64::MAX, 2), all.host(0, 1)), (None, None, None));
    // A display records its own memory alone, a migration that of the whole machine.
    all.pieces()[0].block.dirty().start(DirtyClient::Display);
    assert!(!all.is_recorded());
    main.dirty().start(DirtyClient::Migration);
    assert!(all.is_recorded());
}

fn plan<'a>(memory: &'a Table, rings: &'a [Ring<'a>]) -> Plan<'a> {
    Plan { features: 1 << 32, memory, rings }
}

#[test]
fn what_the_kernel_is_asked() {
    let (space, _main) = space();
    let memory = table(&space, false);
    let events = [(); 4].map(|()| Event::new().unwrap());
    let ring = |index: u16, at| Ring {
        index,
        size: 64,
        base: 5,
        descriptors: at,
        available: at + 0x1000,
        used: at + 0x2000,
        kick: &events[0],
        call: &events[1],
    };
    let rings = [ring(4, BASE), ring(5, BASE + 0x4000)];
    let fake = Fake::default();
    let kernel = Kernel::new(VSOCK, Box::new(fake.clone())).unwrap();
    assert_eq!(fake.take(), ["owner", "features?"]);
    let vsock = KernelVsock::new(kernel, 9).unwrap();
    vsock.start(&plan(&memory, &rings)).unwrap();
    let expected = [
        "cid 9",
        "features 0x100000000",
        "memory [(10000000, 10000), (80000000, 80000), (800c0000, 40000)]",
        "size 0 64",
        "base 0 5",
        "address 0 +1000 +2000",
        "call 0",
        "kick 0",
        "size 1 64",
        "base 1 5",
        "address 1 +1000 +2000",
        "call 1",
        "kick 1",
        "running true",
    ];
    assert_eq!(fake.take(), expected);
    assert_eq!(vsock.stop(), Some(vec![40, 41]));
    assert_eq!(fake.take(), ["running false", "base? 0", "base? 1"]);
    let far = [ring(0, BASE + 0x7_f000)];
    let error = vsock.start(&plan(&memory, &far)).unwrap_err().to_string();
    assert_eq!(error, "queue 0: its ring is not in memory that the back end can reach");
}

#[test]
fn what_is_said_when_the_kernel_refuses() {
    let fails = |fails| Kernel::new(NET, Box::new(Fake { fails, ..Fake::default() }));
    let error = fails("owner").err().unwrap().to_string();
    assert!(error.starts_with("/dev/vhost-net: expected a descriptor of that device: "), "{error}");
    let error = KernelVsock::new(fails("cid").unwrap(), 3).err().unwrap().to_string();
    assert!(error.contains("guest-cid=3 (expected one that no other guest of this host has)"), "{error}");
    let vsock = KernelVsock::new(fails("running").unwrap(), 3).unwrap();
    assert_eq!(vsock.stop(), None);
    let socket = fails("socket 1").unwrap().set_socket(None).unwrap_err().to_string();
    assert!(socket.starts_with("/dev/vhost-net: the tap device: "), "{socket}");
    let not_one = Kernel::from_fd(NET, std::fs::File::open("/dev/null").unwrap().into()).err().unwrap();
    assert!(not_one.to_string().contains("expected a descriptor of that device"), "{not_one}");
}

/// Where the kernel has them: a descriptor can be had and asked. Else what is said is what to do.
#[test]
fn the_kernels_own_devices() {
    for (name, module) in [(NET, "vhost_net"), (VSOCK, "vhost_vsock")] {
        match Kernel::open(name) {
            Ok(kernel) => assert_ne!(kernel.features() & feature::VERSION_1, 0),
            Err(e) => {
                let text = e.to_string();
                let told = text.contains(&format!("modprobe {module}")) || text.contains("permission on");
                assert!(text.starts_with(name) && told, "{text}");
                // Past the test harness's capture.
                let _ = std::io::stderr().write_all(format!("\nSKIPPED: {text}\n").as_bytes());
            }
        }
    }
}
