//! Damaged files and streams: each is refused with the path of the field, and nothing has changed.

use std::sync::Arc;
use std::time::Duration;

use accel::arch::GuestArch;
use accel::nothing::Nothing;
use accel::{CpuModel, IrqchipMode, LogSink};
use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, RegionSpec, ResetKind, StateBlob, StateError,
    Wires, device_config,
};
use guest_memory::{PAGE_SIZE, RamConfig, Unassigned};

use super::migrate::{Limits, Progress, receive, send};
use super::*;
use crate::{Board, Options, realize};

device_config! {
    /// A register.
    #[derive(Clone, Debug)]
    struct RegisterConfig {}
}

const KIND: &str = "test-register";
/// The register refuses to hold more than this.
const MAX: u64 = 1000;

impl DeviceConfig for RegisterConfig {
    const KIND: &'static str = KIND;
    const HELP: &'static str = "a register";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("value", 8, AccessRule::UP_TO_4)]
    }

    fn build(self, _: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(Register(0)))
    }
}

struct Register(u64);

device::state! {
    /// State of the register, version 1.
    struct V1 { 1 => value: u64 }
}

impl Device for Register {
    fn read(&mut self, _: usize, _: u64, data: &mut [u8]) -> Access {
        device::le_fill(data, self.0);
        Access::Ok
    }

    fn write(&mut self, _: usize, _: u64, data: &[u8]) -> Access {
        self.0 = device::le_value(data);
        Access::Ok
    }

    fn reset(&mut self, _: ResetKind) {
        self.0 = 0;
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(KIND, 1, &V1 { value: self.0 })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let v1: V1 = state.decode(KIND, 1)?;
        self.0 = StateError::at_most("value", v1.value, MAX)?;
        Ok(())
    }
}

const RAM: u64 = 0x1_0000;
const REGISTER: u64 = 0x10_0000;

fn machine(size: u64) -> Arc<Machine> {
    let mut b = Board::new("test", GuestArch::Riscv64, Unassigned::Ones);
    b.ram("ram", RAM, size, RamConfig::default());
    b.add("register", RegisterConfig {}).mmio(0, REGISTER);
    b.add("other", RegisterConfig {}).mmio(0, REGISTER + 0x1000);
    let options = Options {
        vcpus: 0,
        topology: accel::arch::x86_topology::Topology::default(),
        cpu: CpuModel::default(),
        irqchip: IrqchipMode::User,
        accel_properties: Vec::new(),
        log: LogSink::none(),
        wall_clock: None,
        events: Arc::new(|_| {}),
    };
    realize(b, &Nothing, options).unwrap()
}

fn fill(m: &Machine, seed: u8, value: u64) {
    let block = &m.ram_blocks()[0];
    for page in 0..block.size() / PAGE_SIZE {
        // Every third page stays zero.
        if page % 3 != 2 {
            block.write(page * PAGE_SIZE, &[seed ^ page as u8 | 1; 64]).unwrap();
        }
    }
    m.memory().write(REGISTER, &(value as u32).to_le_bytes());
    m.memory().write(REGISTER + 0x1000, &(value as u32 + 1).to_le_bytes());
    m.clock.set(value * 1000);
}

/// All that a guest could see.
fn image(m: &Machine) -> (Vec<u8>, [u8; 4], [u8; 4], u64) {
    let block = &m.ram_blocks()[0];
    let mut ram = vec![0; block.size() as usize];
    block.read(0, &mut ram).unwrap();
    let (mut a, mut b) = ([0; 4], [0; 4]);
    m.memory().read(REGISTER, &mut a);
    m.memory().read(REGISTER + 0x1000, &mut b);
    (ram, a, b, m.clock.now())
}

const SIZE: u64 = 6 * PAGE_SIZE;

#[test]
fn every_damage_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.rhea");
    let source = machine(SIZE);
    fill(&source, 0x40, 7);
    save(&source, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();

    let target = machine(SIZE);
    fill(&target, 0x80, 500);
    let before = image(&target);
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let e = load(&target, &path).expect_err(what).to_string();
        assert!(e.starts_with("snapshot: ") && !e.contains('\n'), "{what}: {e}");
        assert!(image(&target) == before, "{what} changed the machine: {e}");
    };
    // The zero tail of the pages in the middle is left out: one byte of it stands for all.
    let dull = |at: usize| whole[at.saturating_sub(40)..whole.len().min(at + 40)].iter().all(|b| *b == 0);
    let places: Vec<usize> = (0..whole.len()).step_by(3).filter(|at| !dull(*at) || at % 1024 == 0).collect();
    for at in &places {
        let mut bytes = whole.clone();
        bytes[*at] ^= 1 << (at % 8);
        refused(&bytes, &format!("byte {at} changed"));
        refused(&whole[..*at], &format!("cut at {at}"));
    }
    assert!(places.len() > 200, "{}", places.len());
    // Left alone it loads.
    std::fs::write(&path, &whole).unwrap();
    load(&target, &path).unwrap();
    assert!(image(&target) == image(&source));
}

/// A snapshot with some sections changed, and right checksums.
fn remake(m: &Machine, change: impl Fn(&str, Vec<u8>) -> Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let place = tempfile::NamedTempFile::new().unwrap();
    save(m, place.path()).unwrap();
    // What was saved has taken the place of the file that was there.
    let mut file = File::open(place.path()).unwrap();
    let mut out = Writer::new(Vec::new()).unwrap();
    let mut reader = Reader::new(&mut file).unwrap();
    while reader
        .section(|name, body| {
            let mut data = Vec::new();
            std::io::Read::read_to_end(body, &mut data).unwrap();
            for (name, data) in change(name, data) {
                out.section(&name, |p| p.write_all(&data)).unwrap();
            }
            Ok(())
        })
        .unwrap()
    {}
    out.end().unwrap()
}

#[test]
fn the_field_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.rhea");
    let source = machine(SIZE);
    fill(&source, 0x40, 7);
    let target = machine(SIZE);
    fill(&target, 0x80, 500);
    let before = image(&target);
    let keep = |name: &str, data: Vec<u8>| vec![(name.to_owned(), data)];
    type Change<'a> = Box<dyn Fn(&str, Vec<u8>) -> Vec<(String, Vec<u8>)> + 'a>;
    let cases: Vec<(Change<'_>, &str)> = vec![
        (Box::new(|n, d| if n == "clock" { vec![] } else { keep(n, d) }), "clock: is missing"),
        (Box::new(|n, d| if n == "ram:ram" { vec![] } else { keep(n, d) }), "ram:ram: is missing"),
        (
            Box::new(|n, d| if n == "clock" { keep(n, vec![1; 7]) } else { keep(n, d) }),
            "clock: is not 8 bytes",
        ),
        (
            Box::new(
                |n, d| if n == "clock" { [keep(n, d.clone()), keep(n, d)].concat() } else { keep(n, d) },
            ),
            "clock: appears twice",
        ),
        (Box::new(|n, d| if n == "board" { vec![] } else { keep(n, d) }), "board: has to come first"),
        (
            Box::new(
                |n, d| if n == "clock" { [keep(n, d), keep("cpu0", vec![])].concat() } else { keep(n, d) },
            ),
            "cpu0: this machine has 0 vcpus",
        ),
        (
            Box::new(|n, d| if n == "clock" { [keep(n, d), keep("x", vec![])].concat() } else { keep(n, d) }),
            "x: does not belong",
        ),
        (
            // The last device refuses: the first one, which has its new state by then, gets the old one back.
            Box::new(|n, d| {
                if n != "device:other" {
                    return keep(n, d);
                }
                keep(n, StateBlob::new(KIND, 1, &V1 { value: MAX + 1 }).to_bytes())
            }),
            "machine/other",
        ),
        (
            Box::new(|n, d| {
                let mut d = d;
                if n == "ram:ram" {
                    d[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
                }
                keep(n, d)
            }),
            "ram:ram: has a run of",
        ),
    ];
    for (change, words) in cases {
        std::fs::write(&path, remake(&source, change)).unwrap();
        let e = load(&target, &path).expect_err(words).to_string();
        assert!(e.contains(words), "expected {words}, got {e}");
        assert!(image(&target) == before, "{words} changed the machine");
    }
    save(&machine(2 * SIZE), &path).unwrap();
    let e = load(&target, &path).unwrap_err().to_string();
    assert!(
        e.contains("board: has 'ram ram 0x10000+0xc000', this machine has 'ram ram 0x10000+0x6000'"),
        "{e}"
    );
}

#[test]
fn a_migrated_machine_is_the_same() {
    let source = machine(SIZE);
    fill(&source, 0x40, 7);
    let progress = Progress::default();
    let limits = Limits { bandwidth: 0, downtime: Duration::from_millis(300) };
    let stream = send(&source, Vec::new(), limits, &progress, || Ok("running".into())).unwrap();
    let target = machine(SIZE);
    fill(&target, 0x80, 500);
    let (state, rest) = receive(&target, &stream[..], &Progress::default()).unwrap();
    assert_eq!((state.as_str(), rest.len()), ("running", 0));
    assert!(image(&target) == image(&source));
    for at in (0..stream.len()).step_by(509) {
        let e = receive(&machine(SIZE), &stream[..at], &Progress::default()).unwrap_err().to_string();
        assert!(e.starts_with("snapshot: "), "{e}");
    }
    progress.cancel.store(true, std::sync::atomic::Ordering::Release);
    let e = send(&source, Vec::new(), limits, &progress, || Ok("running".into())).unwrap_err().to_string();
    assert!(e.contains("cancelled"), "{e}");
}

/// Output that changes the guest's RAM once some of it has gone by.
struct Meddler<'a> {
    machine: &'a Machine,
    sent: Vec<u8>,
    done: bool,
}

impl Write for Meddler<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.sent.extend_from_slice(buf);
        if self.sent.len() > 3 * PAGE_SIZE as usize && !std::mem::replace(&mut self.done, true) {
            let block = &self.machine.ram_blocks()[0];
            // A page that has been sent, one that was zero, and one that becomes zero.
            block.write(5, &[0x77; 10]).unwrap();
            block.write(2 * PAGE_SIZE, &[0x78; 10]).unwrap();
            block.fill(PAGE_SIZE, PAGE_SIZE, 0).unwrap();
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_guest_writes_meanwhile_arrives() {
    let source = machine(SIZE * 10);
    fill(&source, 0x40, 7);
    let out = Meddler { machine: &source, sent: Vec::new(), done: false };
    let limits = Limits { bandwidth: 0, downtime: Duration::ZERO };
    let progress = Progress::default();
    let out = send(&source, out, limits, &progress, || Ok("running".into())).unwrap();
    let target = machine(SIZE * 10);
    receive(&target, &out.sent[..], &Progress::default()).unwrap();
    assert!(out.done && image(&target) == image(&source));
    assert!(!source.ram_blocks()[0].dirty().tracking(), "nothing is recorded any more");
}
