//! The driver's side for tests: negotiates over virtio-mmio and builds rings in the bench's RAM.

use std::time::{Duration, Instant};

use ::device::test_bench::{Bench, RAM_BASE, RAM_SIZE, Rng};
use ::device::{DeviceConfig, ResetKind};

use crate::device::feature;

/// Where the rings are; 16 KiB for each queue.
const RINGS: u64 = RAM_BASE;
const RING_SPAN: u64 = 0x4000;
/// Indirect tables, then buffers.
const TABLES: u64 = RAM_BASE + 0x3_0000;
const BUFFERS: u64 = RAM_BASE + 0x4_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// In packed rings: these two say in which turn a descriptor was made available or used.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Address, length and flags of each.
type Descriptors = Vec<(u64, u32, u16)>;

/// A piece of a buffer.
#[derive(Clone, Debug)]
pub(crate) enum Piece<'a> {
    /// For the device to read.
    Out(&'a [u8]),
    /// For the device to write, so many bytes.
    In(u32),
}

/// A buffer the driver has made available.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) head: u16,
    /// Address and length of the writable pieces.
    pub(crate) inputs: Vec<(u64, u32)>,
}

#[derive(Clone, Debug)]
struct Ring {
    size: u16,
    next_desc: u16,
    avail: u16,
    used: u16,
    /// Of a packed ring: the turns of `next_desc` and of `used`, and how many descriptors each buffer takes.
    turns: Option<(bool, bool)>,
    lengths: Vec<u16>,
}

/// What a driver knows, apart from where its device is.
#[derive(Clone, Debug)]
pub(crate) struct DriverState {
    rings: Vec<Option<Ring>>,
    next_buffer: u64,
    next_table: u64,
    pub(crate) features: u64,
}

/// A driver of the device on a bench.
pub(crate) struct Driver<'a> {
    pub(crate) bench: &'a Bench,
    state: DriverState,
}

impl std::ops::Deref for Driver<'_> {
    type Target = DriverState;
    fn deref(&self) -> &DriverState {
        &self.state
    }
}

impl std::ops::DerefMut for Driver<'_> {
    fn deref_mut(&mut self) -> &mut DriverState {
        &mut self.state
    }
}

impl<'a> Driver<'a> {
    /// Finds the device and resets it.
    pub(crate) fn new(bench: &'a Bench) -> Self {
        assert_eq!(bench.read(0, 0, 4), 0x7472_6976);
        assert_eq!(bench.read(0, 4, 4), 2);
        bench.write(0, 0x70, 4, 0);
        assert_eq!(bench.read(0, 0x70, 4), 0);
        let rings = vec![None; 16];
        Self::resumed(bench, &DriverState { rings, next_buffer: BUFFERS, next_table: TABLES, features: 0 })
    }

    /// A driver that goes on.
    pub(crate) fn resumed(bench: &'a Bench, state: &DriverState) -> Self {
        Driver { bench, state: state.clone() }
    }

    pub(crate) fn state(&self) -> DriverState {
        self.state.clone()
    }

    /// The same driver in front of another bench, to which RAM is copied.
    pub(crate) fn moved<'b>(&self, bench: &'b Bench) -> Driver<'b> {
        let mut ram = vec![0; RAM_SIZE as usize];
        self.bench.ram().read(0, &mut ram).unwrap();
        bench.ram().write(0, &ram).unwrap();
        Driver::resumed(bench, &self.state)
    }

    pub(crate) fn reg(&self, offset: u64) -> u32 {
        self.bench.read(0, offset, 4) as u32
    }

    pub(crate) fn set(&self, offset: u64, value: u32) {
        self.bench.write(0, offset, 4, value.into());
    }

    /// What the device offers.
    pub(crate) fn offered(&self) -> u64 {
        self.set(0x14, 1);
        let high = self.reg(0x10);
        self.set(0x14, 0);
        u64::from(high) << 32 | u64::from(self.reg(0x10))
    }

    /// Negotiates; false if the device refuses.
    pub(crate) fn negotiate(&mut self, features: u64) -> bool {
        self.features = features | feature::VERSION_1;
        self.set(0x70, 3);
        self.set(0x24, 0);
        self.set(0x20, self.features as u32);
        self.set(0x24, 1);
        self.set(0x20, (self.features >> 32) as u32);
        self.set(0x70, 3 | 8);
        self.reg(0x70) & 8 != 0
    }

    pub(crate) fn queue(&mut self, index: u32, size: u16) {
        let base = RINGS + u64::from(index) * RING_SPAN;
        self.bench.ram().fill(base - RAM_BASE, RING_SPAN, 0).unwrap();
        self.set(0x30, index);
        assert!(self.reg(0x34) >= size.into(), "queue {index} is at least {size} long");
        self.set(0x38, size.into());
        for (at, addr) in [(0x80, base), (0x90, base + 0x1000), (0xa0, base + 0x2000)] {
            self.set(at, addr as u32);
            self.set(at + 4, (addr >> 32) as u32);
        }
        self.set(0x44, 1);
        assert_eq!(self.reg(0x44), 1, "queue {index} is ready");
        let turns = (self.features & feature::RING_PACKED != 0).then_some((true, true));
        let lengths = vec![0; size.into()];
        self.rings[index as usize] = Some(Ring { size, next_desc: 0, avail: 0, used: 0, turns, lengths });
    }

    pub(crate) fn driver_ok(&self) {
        self.set(0x70, 3 | 8 | 4);
        assert_eq!(self.reg(0x70), 15);
    }

    /// Negotiates what of `features` is offered, sets up queues of these sizes, and is ready.
    pub(crate) fn start(bench: &'a Bench, features: u64, sizes: &[u16]) -> Self {
        let mut driver = Driver::new(bench);
        let features = features & driver.offered();
        assert!(driver.negotiate(features));
        for (index, &size) in sizes.iter().enumerate() {
            driver.queue(index as u32, size);
        }
        driver.driver_ok();
        driver
    }

    pub(crate) fn write_ram(&self, addr: u64, data: &[u8]) {
        self.bench.ram().write(addr - RAM_BASE, data).unwrap();
    }

    pub(crate) fn read_ram(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.bench.ram().read(addr - RAM_BASE, &mut data).unwrap();
        data
    }

    fn read_u16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.read_ram(addr, 2).try_into().unwrap())
    }

    fn base(queue: usize) -> u64 {
        RINGS + queue as u64 * RING_SPAN
    }

    fn buffer(&mut self, len: u32) -> u64 {
        let len = u64::from(len).next_multiple_of(16);
        assert!(len <= RAM_BASE + RAM_SIZE - BUFFERS);
        if self.next_buffer + len > RAM_BASE + RAM_SIZE {
            self.next_buffer = BUFFERS;
        }
        let at = self.next_buffer;
        self.next_buffer += len;
        at
    }

    fn descriptors(&mut self, pieces: &[Piece<'_>]) -> (Descriptors, Vec<(u64, u32)>) {
        let (mut descriptors, mut inputs) = (Vec::new(), Vec::new());
        for piece in pieces {
            match *piece {
                Piece::Out(data) => {
                    let at = self.buffer(data.len() as u32);
                    self.write_ram(at, data);
                    descriptors.push((at, data.len() as u32, 0));
                }
                Piece::In(len) => {
                    let at = self.buffer(len);
                    self.write_ram(at, &vec![0xcc; len as usize]);
                    descriptors.push((at, len, WRITE));
                    inputs.push((at, len));
                }
            }
        }
        (descriptors, inputs)
    }

    fn descriptor(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write_ram(at, &bytes);
    }

    fn publish(&mut self, queue: usize, head: u16) {
        let base = Self::base(queue);
        let ring = self.rings[queue].as_mut().unwrap();
        let slot = base + 0x1004 + u64::from(ring.avail % ring.size) * 2;
        ring.avail = ring.avail.wrapping_add(1);
        let avail = ring.avail;
        self.write_ram(slot, &head.to_le_bytes());
        self.write_ram(base + 0x1002, &avail.to_le_bytes());
    }

    /// Puts descriptors on a packed ring, the first one last; returns their number.
    fn put(&mut self, queue: usize, descriptors: &[(u64, u32, u16)]) -> u16 {
        let ring = self.rings[queue].as_mut().unwrap();
        let (size, id) = (ring.size, ring.next_desc);
        let (mut turn, used) = ring.turns.unwrap();
        let mut places = Vec::new();
        let mut at = id;
        for (i, &(addr, len, flags)) in descriptors.iter().enumerate() {
            let more = if i + 1 < descriptors.len() { NEXT } else { 0 };
            places.push((at, addr, len, flags | more | if turn { AVAIL } else { USED }));
            at += 1;
            if at == size {
                (at, turn) = (0, !turn);
            }
        }
        ring.next_desc = at;
        ring.turns = Some((turn, used));
        ring.lengths[usize::from(id)] = descriptors.len() as u16;
        for (at, addr, len, flags) in places.into_iter().rev() {
            self.descriptor(Self::base(queue) + u64::from(at) * 16, addr, len, id, flags);
        }
        id
    }

    /// Makes a buffer available, without telling the device.
    pub(crate) fn add(&mut self, queue: usize, pieces: &[Piece<'_>]) -> Token {
        let (descriptors, inputs) = self.descriptors(pieces);
        if self.is_packed(queue) {
            let head = self.put(queue, &descriptors);
            return Token { head, inputs };
        }
        let ring = self.rings[queue].as_mut().unwrap();
        let (size, head) = (ring.size, ring.next_desc);
        ring.next_desc = (head + descriptors.len() as u16) % size;
        for (i, &(addr, len, flags)) in descriptors.iter().enumerate() {
            let (at, next) = ((head + i as u16) % size, (head + i as u16 + 1) % size);
            let more = if i + 1 < descriptors.len() { NEXT } else { 0 };
            self.descriptor(Self::base(queue) + u64::from(at) * 16, addr, len, flags | more, next);
        }
        self.publish(queue, head);
        Token { head, inputs }
    }

    fn is_packed(&self, queue: usize) -> bool {
        self.rings[queue].as_ref().unwrap().turns.is_some()
    }

    /// The same through an indirect table.
    pub(crate) fn add_indirect(&mut self, queue: usize, pieces: &[Piece<'_>]) -> Token {
        let (descriptors, inputs) = self.descriptors(pieces);
        let table = self.next_table;
        self.next_table = if table + 0x800 > BUFFERS { TABLES } else { table + 0x400 };
        for (i, &(addr, len, flags)) in descriptors.iter().enumerate() {
            let more = if i + 1 < descriptors.len() { NEXT } else { 0 };
            self.descriptor(table + i as u64 * 16, addr, len, flags | more, i as u16 + 1);
        }
        let len = descriptors.len() as u32 * 16;
        if self.is_packed(queue) {
            // The order in the table is that of the buffer: nothing chains.
            for (i, &(addr, len, flags)) in descriptors.iter().enumerate() {
                self.descriptor(table + i as u64 * 16, addr, len, 0, flags);
            }
            let head = self.put(queue, &[(table, len, INDIRECT)]);
            return Token { head, inputs };
        }
        let ring = self.rings[queue].as_mut().unwrap();
        let head = ring.next_desc;
        ring.next_desc = (head + 1) % ring.size;
        self.descriptor(Self::base(queue) + u64::from(head) * 16, table, len, INDIRECT, 0);
        self.publish(queue, head);
        Token { head, inputs }
    }

    /// Tells the device of new buffers.
    pub(crate) fn kick(&self, queue: usize) {
        self.set(0x50, queue as u32);
    }

    /// Index of the used ring as the device has it.
    pub(crate) fn used_idx(&self, queue: usize) -> u16 {
        self.read_u16(Self::base(queue) + 0x2002)
    }

    pub(crate) fn used_flags(&self, queue: usize) -> u16 {
        self.read_u16(Self::base(queue) + 0x2000)
    }

    /// The event index the device asks to be notified at.
    pub(crate) fn avail_event(&self, queue: usize) -> u16 {
        let size = self.rings[queue].as_ref().unwrap().size;
        self.read_u16(Self::base(queue) + 0x2004 + u64::from(size) * 8)
    }

    /// Asks for an interrupt once this many buffers were used.
    pub(crate) fn set_used_event(&self, queue: usize, event: u16) {
        let size = self.rings[queue].as_ref().unwrap().size;
        self.write_ram(Self::base(queue) + 0x1004 + u64::from(size) * 2, &event.to_le_bytes());
    }

    /// Says, on a packed ring, when to interrupt: always (0), never (1), or once the place `at` (with the turn in the
    /// top bit) was passed (2).
    pub(crate) fn set_driver_event(&self, queue: usize, at: u16, flags: u16) {
        let bytes = [at.to_le_bytes(), flags.to_le_bytes()].concat();
        self.write_ram(Self::base(queue) + 0x1000, &bytes);
    }

    /// What the device says of when it wants to be notified, on a packed ring.
    pub(crate) fn device_event(&self, queue: usize) -> (u16, u16) {
        let base = Self::base(queue) + 0x2000;
        (self.read_u16(base), self.read_u16(base + 2))
    }

    pub(crate) fn set_avail_flags(&self, queue: usize, flags: u16) {
        self.write_ram(Self::base(queue) + 0x1000, &flags.to_le_bytes());
    }

    /// Takes the next used buffer, if there is one: head and written length.
    pub(crate) fn poll(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = self.rings[queue].clone().unwrap();
        if let Some((ahead, turn)) = ring.turns {
            let bytes = self.read_ram(Self::base(queue) + u64::from(ring.used) * 16, 16);
            let half = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
            let (id, flags) = (half(12), half(14));
            if (flags & AVAIL != 0) != turn || (flags & USED != 0) != turn {
                return None;
            }
            let ring = self.rings[queue].as_mut().unwrap();
            let next = ring.used + ring.lengths[usize::from(id)];
            ring.turns = Some((ahead, turn ^ (next >= ring.size)));
            ring.used = next % ring.size;
            return Some((id, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])));
        }
        if self.used_idx(queue) == ring.used {
            return None;
        }
        let at = Self::base(queue) + 0x2004 + u64::from(ring.used % ring.size) * 8;
        let bytes = self.read_ram(at, 8);
        self.rings[queue].as_mut().unwrap().used = ring.used.wrapping_add(1);
        let word = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().unwrap());
        Some((word(0) as u16, word(4)))
    }

    /// Waits for the next used buffer.
    pub(crate) fn wait(&mut self, queue: usize) -> (u16, u32) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(used) = self.poll(queue) {
                return used;
            }
            assert!(Instant::now() < limit, "queue {queue}: nothing used");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// One request, answered: what the device wrote, and how much it says that was.
    pub(crate) fn ask(&mut self, queue: usize, pieces: &[Piece<'_>]) -> (Vec<u8>, u32) {
        let token = self.add(queue, pieces);
        self.kick(queue);
        let (head, len) = self.wait(queue);
        assert_eq!(head, token.head);
        (self.written(&token), len)
    }

    /// The contents of a buffer's writable pieces.
    pub(crate) fn written(&self, token: &Token) -> Vec<u8> {
        token.inputs.iter().flat_map(|&(at, len)| self.read_ram(at, len as usize)).collect()
    }

    /// Whether the device says it must be reset.
    pub(crate) fn needs_reset(&self) -> bool {
        self.reg(0x70) & 64 != 0
    }

    /// Reads the interrupt status and acknowledges it.
    pub(crate) fn take_interrupt(&self) -> u32 {
        let status = self.reg(0x60);
        self.set(0x64, status);
        assert!(!self.bench.line("irq"));
        status
    }
}

/// How many cases the fuzz tests run: `RHEA_FUZZ_CASES`, or some.
pub(crate) fn fuzz_cases() -> u64 {
    std::env::var("RHEA_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

/// A number that is often near something interesting.
fn odd(rng: &mut Rng, near: u64) -> u64 {
    match rng.below(6) {
        0 => 0,
        1 => rng.next_u64(),
        2 => near.wrapping_sub(rng.below(4)),
        3 => 1 << rng.below(64),
        _ => rng.below(near.max(1)),
    }
}

/// Drives the device with rings full of rubbish, half of it plausible. It must not panic or hang, must say that
/// it needs a reset or go on, and must work after a reset. `fresh` makes the same device with backends of its own,
/// `alive` does what the world does meanwhile.
pub(crate) fn hostile_rings<C: DeviceConfig>(
    config: &C,
    queues: u32,
    fresh: impl Fn() -> C,
    alive: impl Fn(&Bench),
) {
    let bench = Bench::new(config.clone());
    let mut rng = Rng::new(0x0bad_cafe);
    let mut broken = 0;
    for case in 0..fuzz_cases() {
        let mut driver = Driver::new(&bench);
        let offered = driver.offered();
        let features = match rng.below(3) {
            0 => offered,
            1 => offered & rng.next_u64(),
            _ => 0,
        };
        if !driver.negotiate(features) {
            continue;
        }
        let size = 4 << rng.below(2);
        // From nearly all rubbish to nearly none.
        let sane = 6 << rng.below(6);
        for queue in 0..queues {
            driver.queue(queue, size);
        }
        driver.driver_ok();
        for _ in 0..1 + rng.below(4) {
            let queue = rng.below(queues.into()) as usize;
            let ring = Driver::base(queue);
            // Some random bytes in the buffers, so that headers vary.
            for _ in 0..16 {
                let at = BUFFERS + rng.below(0x100) * 8;
                let value = if rng.below(2) == 0 { rng.below(16) } else { rng.next_u64() };
                driver.write_ram(at, &value.to_le_bytes());
            }
            let cut = rng.below(5);
            for table in [ring, TABLES] {
                for i in 0..16 {
                    let addr = match rng.below(sane) {
                        0 => odd(&mut rng, RAM_BASE + RAM_SIZE),
                        1 => ring + rng.below(RING_SPAN),
                        2 => TABLES,
                        _ => BUFFERS + rng.below(0x1000),
                    };
                    let len = match rng.below(sane.min(8)) {
                        0 if sane < 32 => odd(&mut rng, RAM_SIZE) as u32,
                        1 => 1,
                        2 => 16,
                        3 => 12 + rng.below(20) as u32,
                        _ => rng.below(2000) as u32,
                    };
                    let flags = match rng.below(sane) {
                        0 => rng.next_u64() as u16,
                        1 => INDIRECT,
                        // Mostly readable first, then writable, as it should be.
                        _ => rng.below(2) as u16 | if i % 8 >= cut { WRITE } else { 0 },
                    };
                    let next =
                        if rng.below(sane) == 0 { rng.next_u64() } else { (i + 1) % u64::from(size) } as u16;
                    if driver.features & feature::RING_PACKED == 0 {
                        driver.descriptor(table + i * 16, addr, len, flags, next);
                        continue;
                    }
                    // Mostly new in the first turn; those after it take what is left.
                    let turn = if rng.below(4) == 0 { rng.next_u64() as u16 & (AVAIL | USED) } else { AVAIL };
                    driver.descriptor(table + i * 16, addr, len, next, flags & !(AVAIL | USED) | turn);
                }
            }
            let ahead = if rng.below(2 * sane) == 0 { rng.next_u64() } else { rng.below(5) } as u16;
            for i in 0..u64::from(size) {
                let head =
                    if rng.below(2 * sane) == 0 { rng.next_u64() } else { rng.below(size.into()) } as u16;
                driver.write_ram(ring + 0x1004 + i * 2, &head.to_le_bytes());
            }
            let idx = driver.read_u16(ring + 0x1002).wrapping_add(ahead);
            driver.write_ram(ring + 0x1002, &idx.to_le_bytes());
            driver.kick(rng.below(u64::from(queues) + 1) as usize);
            driver.kick(queue);
            alive(&bench);
            if rng.below(8) == 0 {
                bench.advance(rng.below(1 << 32));
            }
            if rng.below(16) == 0 {
                let saved = bench.cell().save();
                bench.cell().restore(&saved).expect("a saved state restores");
                bench.cell().resume();
            }
        }
        if rng.below(8) == 0 {
            bench.cell().quiesce();
            bench.cell().resume();
        }
        // The state waits for all that is in flight.
        bench.cell().save();
        broken += u64::from(driver.needs_reset());
        if case % 16 == 0 {
            bench.cell().reset(ResetKind::Cold);
            let fresh = Bench::at(fresh(), bench.now());
            assert_eq!(bench.cell().save(), fresh.cell().save(), "case {case}: reset differs from fresh");
            assert!(!bench.line("irq"));
        }
    }
    let cases = fuzz_cases();
    assert!(
        (cases / 10..cases).contains(&broken),
        "{broken} of {cases} broke the device: too many or too few"
    );
}
