//! A board for one device: time moves by hand, lines are recorded, memory is there, the machine's requests are
//! kept. And the tests that every device must pass.
//!
//! ```ignore
//! let mut bench = Bench::new(Ns16550Config::default());
//! bench.write(0, 0, 1, b'A'.into());
//! assert_eq!(bench.output(0), b"A");
//! test_bench::check(Ns16550Config::default());
//! ```

use std::sync::Arc;

use guest_memory::{Access, AddressSpace, Dma, RamBlock, Region, Unassigned};
use parking_lot::Mutex;

use crate::backend::{CharBackend, CharEvent, CharReceiver};
use crate::cell::DeviceCell;
use crate::clock::{Clock, ClockSource, WallClock};
use crate::config::DeviceConfig;
use crate::line::{IrqLine, MsiMessage, MsiTarget};
use crate::state::StateBlob;
use crate::system::{SystemControl, SystemRequest};
use crate::timer::TimerQueue;
use crate::wires::WiresBuilder;
use crate::{NS_PER_SEC, ResetKind};

/// Where the bench's RAM lies.
pub const RAM_BASE: u64 = 0x8000_0000;
/// Size of the bench's RAM in bytes.
pub const RAM_SIZE: u64 = 1 << 20;
/// Time of day at the bench's virtual time 0: 2024-02-29 23:59:50 UTC.
pub const WALL_BASE: i64 = 1_709_251_190 * NS_PER_SEC as i64;

/// A change of an output pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Row name.
    pub name: String,
    /// Index in the row.
    pub index: usize,
    /// New level.
    pub level: bool,
}

#[derive(Default)]
struct CharState {
    output: Vec<u8>,
    room: Option<usize>,
}

/// A character backend that keeps output, and gives input when told.
#[derive(Default)]
struct BenchChar {
    state: Mutex<CharState>,
    receiver: Mutex<Option<Box<dyn CharReceiver>>>,
}

impl CharBackend for BenchChar {
    fn write(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let taken = state.room.map_or(data.len(), |room| room.min(data.len()));
        state.output.extend_from_slice(&data[..taken]);
        state.room = state.room.map(|room| room - taken);
        taken
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        *self.receiver.lock() = receiver;
    }
}

/// One device on its board.
pub struct Bench {
    cell: Arc<DeviceCell>,
    clock: Clock,
    timers: TimerQueue,
    edges: Arc<Mutex<Vec<Edge>>>,
    lines: Vec<(String, usize, IrqLine)>,
    messages: Arc<Mutex<Vec<MsiMessage>>>,
    requests: Arc<Mutex<Vec<SystemRequest>>>,
    chars: Vec<Arc<BenchChar>>,
    ram: Arc<RamBlock>,
    space: AddressSpace,
}

impl Bench {
    /// Builds the device at time 0. Panics, as everything here, if that fails.
    pub fn new<C: DeviceConfig>(config: C) -> Self {
        Self::at(config, 0)
    }

    /// Builds the device at a given time.
    pub fn at<C: DeviceConfig>(config: C, now: u64) -> Self {
        let clock = Clock::new(ClockSource::Counted);
        clock.set(now);
        clock.resume();
        let timers = TimerQueue::new(clock.clone());
        let edges: Arc<Mutex<Vec<Edge>>> = Arc::default();
        let messages: Arc<Mutex<Vec<MsiMessage>>> = Arc::default();
        let requests: Arc<Mutex<Vec<SystemRequest>>> = Arc::default();
        let space = AddressSpace::memory(Unassigned::Zeros);
        let ram = RamBlock::anonymous("bench", RAM_SIZE).expect("1 MiB of RAM");
        space.add(Region::ram("bench", ram.clone()).at(RAM_BASE)).expect("an empty space has room");

        let (sent, asked) = (messages.clone(), requests.clone());
        let mut wires = WiresBuilder::new("bench/device", &timers)
            .dma(Dma::new(space.clone()))
            .msi(MsiTarget::new(Arc::new(move |message| sent.lock().push(message))))
            .wall_clock(WallClock::Virtual(clock.clone(), WALL_BASE))
            .system(SystemControl::new(move |request| asked.lock().push(request)));
        let mut lines = Vec::new();
        for spec in config.outputs() {
            for index in 0..spec.count {
                let (log, name) = (edges.clone(), spec.name.to_string());
                let sink = move |level| log.lock().push(Edge { name: name.clone(), index, level });
                let line = IrqLine::new(format!("{}{index}", spec.name), Arc::new(sink));
                wires = wires.line(spec.name.as_ref(), index, line.clone());
                lines.push((spec.name.to_string(), index, line));
            }
        }
        for spec in config.rams() {
            let block = RamBlock::anonymous(spec.name.as_ref(), spec.size).expect("memory for the device");
            wires = wires.ram(spec.name.as_ref(), block);
        }
        let mut chars = Vec::new();
        for name in config.chardevs() {
            let backend = Arc::new(BenchChar::default());
            chars.push(backend.clone());
            wires = wires.chardev(name, backend);
        }
        let cell =
            DeviceCell::build(Box::new(config), wires.build()).expect("the device builds on the bench");
        Bench { cell, clock, timers, edges, lines, messages, requests, chars, ram, space }
    }

    /// The device.
    pub fn cell(&self) -> &Arc<DeviceCell> {
        &self.cell
    }

    /// Reads `size` bytes as a little-endian number, telling how it went.
    pub fn try_read(&self, region: usize, offset: u64, size: usize) -> (Access, u64) {
        let mut data = [0; 8];
        let access = self.cell.region(region).read(offset, &mut data[..size]);
        (access, u64::from_le_bytes(data))
    }

    /// Writes `size` bytes of a number in little-endian order, telling how it went.
    pub fn try_write(&self, region: usize, offset: u64, size: usize, value: u64) -> Access {
        self.cell.region(region).write(offset, &value.to_le_bytes()[..size])
    }

    /// Reads a register that must exist.
    pub fn read(&self, region: usize, offset: u64, size: usize) -> u64 {
        let (access, value) = self.try_read(region, offset, size);
        assert_eq!(access, Access::Ok, "read of {size} at {offset:#x}");
        value
    }

    /// Writes a register that must exist.
    pub fn write(&self, region: usize, offset: u64, size: usize, value: u64) {
        let access = self.try_write(region, offset, size, value);
        assert_eq!(access, Access::Ok, "write of {size} at {offset:#x}");
    }

    /// Drives input pin `index` of row `name`.
    pub fn input(&self, name: &str, index: usize, level: bool) {
        self.cell.input(name, index).expect("the pin exists").set_level(level);
    }

    /// Level of the single output pin `name`.
    pub fn line(&self, name: &str) -> bool {
        self.line_at(name, 0)
    }

    /// Level of output pin `index` of row `name`.
    pub fn line_at(&self, name: &str, index: usize) -> bool {
        let found = self.lines.iter().find(|(n, i, _)| n == name && *i == index);
        found.expect("the pin exists").2.level()
    }

    /// Levels of all output pins.
    pub fn levels(&self) -> Vec<bool> {
        self.lines.iter().map(|(_, _, line)| line.level()).collect()
    }

    /// Takes the changes of output pins since the last call.
    pub fn take_edges(&self) -> Vec<Edge> {
        std::mem::take(&mut self.edges.lock())
    }

    /// Takes the message interrupts sent since the last call.
    pub fn take_messages(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.messages.lock())
    }

    /// Takes the requests to the machine since the last call.
    pub fn take_requests(&self) -> Vec<SystemRequest> {
        std::mem::take(&mut self.requests.lock())
    }

    /// The virtual time.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Lets `ns` pass, stopping at each deadline on the way (at most a million of them).
    pub fn advance(&self, ns: u64) {
        let end = self.clock.now().saturating_add(ns);
        for _ in 0..1_000_000 {
            match self.timers.run_due() {
                Some(next) if next <= end => self.clock.set(next),
                _ => break,
            }
        }
        self.clock.set(end);
        self.timers.run_due();
    }

    /// When the next timer expires.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Takes the output of character slot `slot` since the last call.
    pub fn output(&self, slot: usize) -> Vec<u8> {
        std::mem::take(&mut self.chars[slot].state.lock().output)
    }

    /// Makes the backend of a slot take only `room` more bytes, or any number.
    pub fn set_room(&self, slot: usize, room: Option<usize>) {
        self.chars[slot].state.lock().room = room;
    }

    /// Gives input to a slot as far as the device takes it; returns how much that was.
    pub fn type_in(&self, slot: usize, data: &[u8]) -> usize {
        let mut receiver = self.chars[slot].receiver.lock();
        let receiver = receiver.as_mut().expect("the device receives");
        let mut given = 0;
        while given < data.len() {
            let room = receiver.can_receive().min(data.len() - given);
            if room == 0 {
                break;
            }
            receiver.receive(&data[given..given + room]);
            given += room;
        }
        given
    }

    /// Signals an event on a character slot.
    pub fn char_event(&self, slot: usize, event: CharEvent) {
        if let Some(receiver) = self.chars[slot].receiver.lock().as_mut() {
            receiver.event(event);
        }
    }

    /// The RAM at [`RAM_BASE`].
    pub fn ram(&self) -> &Arc<RamBlock> {
        &self.ram
    }

    /// The address space with the RAM in it.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }
}

/// A small random generator with a fixed seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator; the seed must not be 0.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n.max(1)
    }
}

/// Does `steps` random things to a device: accesses of all regions, pins, time, input.
pub fn scramble<C: DeviceConfig>(bench: &Bench, config: &C, rng: &mut Rng, steps: usize) {
    let regions = config.regions();
    let pins: usize = config.inputs().iter().map(|p| p.count).sum();
    for _ in 0..steps {
        match rng.below(16) {
            0 if pins > 0 => {
                let pin = rng.below(pins as u64) as usize;
                bench.cell.input_pin(pin).set_level(rng.below(2) == 0);
            }
            1 => {
                // Not far: a device may have armed something every microsecond.
                let ns = rng.next_u64() >> (40 + rng.below(20));
                let end = bench.now().saturating_add(ns);
                for _ in 0..20 {
                    match bench.timers.run_due() {
                        Some(next) if next <= end => bench.clock.set(next.max(bench.now())),
                        _ => break,
                    }
                }
                bench.clock.set(end);
            }
            2 => {
                for slot in 0..bench.chars.len() {
                    match rng.below(4) {
                        0 => bench.char_event(slot, CharEvent::Break),
                        1 => bench.set_room(slot, (rng.below(2) == 0).then_some(2)),
                        2 => bench.char_event(slot, CharEvent::Writable),
                        _ if bench.chars[slot].receiver.lock().is_some() => {
                            bench.type_in(slot, &rng.next_u64().to_le_bytes());
                        }
                        _ => {}
                    }
                    bench.output(slot);
                }
            }
            _ if !regions.is_empty() => {
                let index = rng.below(regions.len() as u64) as usize;
                let spec = &regions[index];
                let (low, high) = (spec.rule.min.trailing_zeros(), spec.rule.max.trailing_zeros());
                let size = 1u64 << (u64::from(low) + rng.below(u64::from(high - low) + 1));
                let span = if rng.below(2) == 0 { spec.size } else { spec.size.min(64) };
                let offset = rng.below((span / size).max(1)) * size;
                let value = match rng.below(4) {
                    0 => rng.below(4),
                    1 => !0,
                    2 => 1 << rng.below(64),
                    _ => rng.next_u64(),
                };
                if rng.below(2) == 0 {
                    bench.try_read(index, offset, size as usize);
                } else {
                    bench.try_write(index, offset, size as usize, value);
                }
            }
            _ => {}
        }
    }
    bench.take_edges();
    bench.take_messages();
    bench.take_requests();
}

/// The tests every device must pass: random accesses never panic; save, restore, save is identical and carries
/// the output levels; reset equals fresh; damaged state is refused without change or accepted without harm.
pub fn check<C: DeviceConfig>(config: C) {
    let mut rng = Rng::new(0x5eed_0000 + config.regions().len() as u64);
    let bench = Bench::new(config.clone());
    for round in 0..100 {
        scramble(&bench, &config, &mut rng, 1000);

        let saved = bench.cell.save();
        let twin = Bench::at(config.clone(), bench.now());
        twin.take_edges();
        let wire = StateBlob::from_bytes(&saved.to_bytes()).expect("a blob survives the wire");
        twin.cell.restore(&wire).unwrap_or_else(|e| panic!("round {round}: a saved state restores: {e}"));
        assert_eq!(twin.cell.save(), saved, "round {round}: save, restore, save differs");
        assert_eq!(twin.levels(), bench.levels(), "round {round}: output levels after restore");
        assert_eq!(twin.take_edges(), [], "round {round}: restore made edges");
        assert_eq!(twin.next_deadline(), bench.next_deadline(), "round {round}: timers after restore");

        if round % 10 == 0 {
            damage(&twin, &config, &saved, &mut rng);
            twin.cell.reset(ResetKind::Cold);
            let fresh = Bench::at(config.clone(), twin.now());
            assert_eq!(twin.cell.save(), fresh.cell.save(), "round {round}: reset differs from fresh");
            assert_eq!(twin.levels(), fresh.levels(), "round {round}: output levels after reset");
            assert_eq!(twin.next_deadline(), fresh.next_deadline(), "round {round}: timers after reset");
        }
    }
}

fn damage<C: DeviceConfig>(bench: &Bench, config: &C, saved: &StateBlob, rng: &mut Rng) {
    for len in 0..saved.len().min(200) {
        let mut bad = saved.clone();
        bad.truncate(len);
        refused_or_harmless(bench, &bad);
    }
    for _ in 0..200 {
        let mut bad = saved.clone();
        bad.damage(rng.next_u64() as usize);
        if refused_or_harmless(bench, &bad) {
            scramble(bench, config, rng, 50);
        }
    }
}

fn refused_or_harmless(bench: &Bench, bad: &StateBlob) -> bool {
    let (before, levels, deadline) = (bench.cell.save(), bench.levels(), bench.next_deadline());
    let accepted = bench.cell.restore(bad).is_ok();
    if !accepted {
        assert_eq!(bench.cell.save(), before, "a refused state changed the device");
        assert_eq!(
            (bench.levels(), bench.next_deadline()),
            (levels, deadline),
            "a refused state changed wires"
        );
    }
    accepted
}
