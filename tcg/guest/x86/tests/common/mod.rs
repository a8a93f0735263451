//! One vCPU with RAM, driven directly: set state, run, look.

#![expect(dead_code, reason = "each test uses its part")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use accel::{
    Accelerator, ClockTimer, CpuModel, DebugConfig, DebugEvent, Exit, GuestClock, IoResult, IrqchipMode,
    Kicker, LogSink, Partition, PartitionConfig, Vcpu, VcpuIo, VcpuLines,
    arch::{CpuState, GuestArch, x86_64::State},
};
use guest_memory::{AddressSpace, BusResult, RamBlock, Region, Unassigned};
use tcg_engine::Tcg;
use tcg_guest_x86::X86;

/// Bytes of RAM, from 0 on.
pub(crate) const RAM_SIZE: u64 = 0x40_0000;
/// Page tables of long mode that map the first gigabyte to itself, for every level.
pub(crate) const TABLES: u64 = 0x30_0000;
/// Descriptor tables.
pub(crate) const GDT: u64 = 0x20_0000;

/// Properties of the translator for `backend`: `interp`, `jit`, or `hot` for a second look at all code that runs several times.
pub(crate) fn properties(backend: &str) -> Vec<(String, String)> {
    let (backend, hot) = if backend == "hot" { ("jit", "now") } else { (backend, "on") };
    [("backend", backend), ("hot", hot)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// A clock that stands where the test puts it.
#[derive(Debug, Default)]
pub(crate) struct TestClock(pub(crate) AtomicU64);

struct NoTimer;

impl ClockTimer for NoTimer {
    fn arm(&self, _: u64) {}
    fn cancel(&self) {}
}

impl GuestClock for TestClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn timer(&self, _: Box<dyn Fn() + Send + Sync>) -> Arc<dyn ClockTimer> {
        Arc::new(NoTimer)
    }
}

/// Ports: what was written, and a stop at port 0xf4. Vector 0x20 answers an interrupt acknowledge.
pub(crate) struct Bus {
    kicker: Arc<dyn Kicker>,
    space: AddressSpace,
    lines: Arc<dyn VcpuLines>,
    pub(crate) out: Mutex<Vec<(u16, u32)>>,
}

fn io_result(r: BusResult) -> IoResult {
    if r == BusResult::Ok { IoResult::Ok } else { IoResult::DecodeError }
}

impl VcpuIo for Bus {
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        data.fill(0xff);
        io_result(self.space.read(gpa, data))
    }
    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        io_result(self.space.write(gpa, data))
    }
    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoResult {
        data.fill(port as u8);
        IoResult::Ok
    }
    fn pio_write(&self, port: u16, data: &[u8]) -> IoResult {
        let mut v = [0; 4];
        v[..data.len()].copy_from_slice(data);
        self.out.lock().unwrap().push((port, u32::from_le_bytes(v)));
        if port == 0xf4 {
            self.kicker.kick();
        }
        IoResult::Ok
    }
    fn ack_irq(&self, vcpu: u32) -> Option<u8> {
        self.lines.set_line(vcpu, 0, false);
        Some(0x20)
    }
    fn eoi(&self, _: u8) {}
}

/// A vCPU on its own.
pub(crate) struct Rig {
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) space: AddressSpace,
    pub(crate) clock: Arc<TestClock>,
    partition: Box<dyn Partition>,
    pub(crate) io: Bus,
    /// State after reset.
    pub(crate) fresh: State,
}

impl Rig {
    /// A vCPU of model `cpu` on `backend` (`interp` or `jit`).
    pub(crate) fn new(cpu: &str, backend: &str) -> Self {
        Self::logged(cpu, backend, LogSink::none())
    }

    /// The same with a log.
    pub(crate) fn logged(cpu: &str, backend: &str, log: LogSink) -> Self {
        let space = AddressSpace::memory(Unassigned::Fault);
        let block = RamBlock::anonymous("ram", RAM_SIZE).unwrap();
        space.add(Region::ram("ram", block).at(0)).unwrap();
        let clock = Arc::new(TestClock::default());
        let config = PartitionConfig {
            guest: GuestArch::X86_64,
            vcpus: 1,
            topology: accel::arch::x86_topology::Topology::default(),
            cpu: CpuModel { name: cpu.to_owned(), features: Vec::new() },
            irqchip: IrqchipMode::User,
            memory: Arc::new(AddressSpace::clone(&space)),
            ports: None,
            clock: clock.clone(),
            timebase_hz: 0,
            properties: properties(backend),
            log,
        };
        let partition = Tcg::<X86>::new().create(config).unwrap();
        let binder = partition.take_vcpus().remove(0);
        let io = Bus {
            kicker: binder.kicker(),
            space: AddressSpace::clone(&space),
            lines: partition.lines(),
            out: Mutex::default(),
        };
        let mut vcpu = binder.bind().unwrap();
        let fresh = state_of(&mut *vcpu);
        let rig = Self { vcpu, space, clock, partition, io, fresh };
        rig.write_tables();
        rig
    }

    /// Identity page tables, and a flat GDT: 0x08 code32, 0x10 code64, 0x18 data, 0x20 code16, 0x28 user code64,
    /// 0x30 user data, 0x38 user code32.
    fn write_tables(&self) {
        self.put(TABLES, (TABLES + 0x1000) | 7);
        self.put(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for n in 0..512 {
            self.put(TABLES + 0x2000 + 8 * n, n << 21 | 0xe7);
        }
        let gdt = [
            0,
            0x00cf_9b00_0000_ffff,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x000f_9b00_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00cf_fb00_0000_ffff,
        ];
        for (n, d) in gdt.into_iter().enumerate() {
            self.put(GDT + 8 * n as u64, d);
        }
    }

    /// State in 64-bit mode at `pc`, SSE on.
    pub(crate) fn long(&self, pc: u64) -> State {
        let mut s = self.fresh.clone();
        s.start_long(pc, TABLES);
        s.gdt.base = GDT;
        s.gdt.limit = 63;
        s.cr4 |= 0x600;
        s.rsp = 0x9_0000;
        s
    }

    /// State in flat 32-bit mode at `pc`.
    pub(crate) fn flat(&self, pc: u64) -> State {
        let mut s = self.fresh.clone();
        s.start_flat(pc);
        s.gdt.base = GDT;
        s.gdt.limit = 63;
        s.cr4 |= 0x600;
        s.rsp = 0x9_0000;
        s
    }

    pub(crate) fn state(&mut self) -> State {
        state_of(&mut *self.vcpu)
    }

    pub(crate) fn set_state(&mut self, state: &State) {
        self.vcpu.set_state(&CpuState::X86_64(Box::new(state.clone()))).unwrap();
    }

    /// The interrupt inputs.
    pub(crate) fn lines(&self) -> Arc<dyn VcpuLines> {
        self.partition.lines()
    }

    pub(crate) fn run(&mut self) -> Exit {
        self.vcpu.run(&self.io).unwrap()
    }

    /// Executes one instruction.
    pub(crate) fn step(&mut self) -> State {
        self.vcpu.set_debug(&DebugConfig { single_step: true, ..DebugConfig::default() }).unwrap();
        let exit = self.run();
        assert!(matches!(exit, Exit::Debug(DebugEvent::SingleStep)), "{exit:?}");
        self.state()
    }

    pub(crate) fn put(&self, gpa: u64, v: u64) {
        self.write(gpa, &v.to_le_bytes());
    }

    pub(crate) fn get(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.read(gpa, 8).try_into().unwrap())
    }

    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        let _ = self.space.write(gpa, bytes);
    }

    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let _ = self.space.read(gpa, &mut bytes);
        bytes
    }
}

fn state_of(vcpu: &mut dyn Vcpu) -> State {
    match vcpu.state().unwrap() {
        CpuState::X86_64(s) => *s,
        other => panic!("{other:?}"),
    }
}
