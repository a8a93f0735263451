//! One hart with RAM, driven directly: set state, run, look.

#![expect(dead_code, reason = "each test uses its part")]

pub(crate) mod asm;
pub(crate) mod oracle;
pub(crate) mod smp;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use accel::{
    Accelerator, ClockTimer, CpuModel, Exit, GuestClock, IoResult, IrqchipMode, Kicker, LogSink, Partition,
    PartitionConfig, Vcpu, VcpuIo, VcpuLines,
    arch::{CpuState, GuestArch, riscv::State},
};
use guest_memory::{AddressSpace, BusResult, RamBlock, Region, Unassigned};
use tcg_engine::Tcg;
use tcg_guest_riscv::Riscv;

/// Where RAM starts.
pub(crate) const RAM: u64 = 0x1_0000;
/// Bytes of RAM.
pub(crate) const RAM_SIZE: u64 = 0x40_0000;
/// A store here stops the hart.
pub(crate) const STOP: u64 = 0x1000_0000;

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

struct StopBus {
    kicker: Arc<dyn Kicker>,
    space: AddressSpace,
}

fn io_result(r: BusResult) -> IoResult {
    if r == BusResult::Ok { IoResult::Ok } else { IoResult::DecodeError }
}

impl VcpuIo for StopBus {
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        io_result(self.space.read(gpa, data))
    }
    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        if gpa == STOP {
            self.kicker.kick();
            return IoResult::Ok;
        }
        io_result(self.space.write(gpa, data))
    }
    fn pio_read(&self, _: u16, _: &mut [u8]) -> IoResult {
        IoResult::DecodeError
    }
    fn pio_write(&self, _: u16, _: &[u8]) -> IoResult {
        IoResult::DecodeError
    }
    fn ack_irq(&self, _: u32) -> Option<u8> {
        None
    }
    fn eoi(&self, _: u8) {}
}

/// A hart on its own.
pub(crate) struct Rig {
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) space: AddressSpace,
    pub(crate) clock: Arc<TestClock>,
    partition: Box<dyn Partition>,
    io: StopBus,
    /// State after reset.
    pub(crate) fresh: State,
}

impl Rig {
    /// A hart of `arch` with CPU properties, on `backend` (`interp` or `jit`).
    pub(crate) fn new(arch: GuestArch, features: &[(&str, &str)], backend: &str) -> Self {
        let space = AddressSpace::memory(Unassigned::Fault);
        let block = RamBlock::anonymous("ram", RAM_SIZE).unwrap();
        space.add(Region::ram("ram", block).at(RAM)).unwrap();
        let clock = Arc::new(TestClock::default());
        let features = features.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = PartitionConfig {
            guest: arch,
            vcpus: 1,
            topology: accel::arch::x86_topology::Topology::default(),
            cpu: CpuModel { name: String::new(), features },
            irqchip: IrqchipMode::User,
            memory: Arc::new(AddressSpace::clone(&space)),
            ports: None,
            clock: clock.clone(),
            timebase_hz: 10_000_000,
            properties: properties(backend),
            log: LogSink::none(),
        };
        let partition = Tcg::<Riscv>::new().create(config).unwrap();
        let binder = partition.take_vcpus().remove(0);
        let io = StopBus { kicker: binder.kicker(), space: AddressSpace::clone(&space) };
        let mut vcpu = binder.bind().unwrap();
        let fresh = state_of(&mut *vcpu);
        Self { vcpu, space, clock, partition, io, fresh }
    }

    pub(crate) fn state(&mut self) -> State {
        state_of(&mut *self.vcpu)
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.vcpu.set_state(&CpuState::Riscv(Box::new(state))).unwrap();
    }

    /// The interrupt inputs.
    pub(crate) fn lines(&self) -> Arc<dyn VcpuLines> {
        self.partition.lines()
    }

    pub(crate) fn run(&mut self) -> Exit {
        self.vcpu.run(&self.io).unwrap()
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
        CpuState::Riscv(s) => *s,
        other => panic!("{other:?}"),
    }
}
