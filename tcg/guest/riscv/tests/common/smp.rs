//! Several harts with RAM, each on a thread of its own, and what they need to find each other: software interrupts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use accel::{
    Accelerator, CpuModel, Exit, IoResult, IrqchipMode, Kicker, LogSink, PartitionConfig, VcpuIo, VcpuLines,
    arch::{CpuState, GuestArch, riscv::State},
};
use guest_memory::{AddressSpace, RamBlock, Region, Unassigned};
use tcg_engine::Tcg;
use tcg_guest_riscv::Riscv;

use super::{RAM, RAM_SIZE, STOP, TestClock, properties, state_of};

/// A 32-bit store at `IPI + 4 * hart` sets or clears the hart's software interrupt.
pub(crate) const IPI: u64 = 0x1000_1000;
/// Longer than any test takes, on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(300);

struct Bus {
    kicker: Arc<dyn Kicker>,
    lines: Arc<dyn VcpuLines>,
    harts: u32,
    done: AtomicBool,
}

impl VcpuIo for Bus {
    fn mmio_read(&self, _: u64, _: &mut [u8]) -> IoResult {
        IoResult::DecodeError
    }
    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        if gpa == STOP {
            self.done.store(true, Ordering::SeqCst);
            self.kicker.kick();
            return IoResult::Ok;
        }
        let hart = (gpa.wrapping_sub(IPI) / 4) as u32;
        if gpa < IPI || hart >= self.harts {
            return IoResult::DecodeError;
        }
        self.lines.set_line(hart, 3, data[0] & 1 != 0);
        IoResult::Ok
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

/// Runs `program`, put at [`RAM`], on `harts` harts until each has stored to [`STOP`]; `fill` is written first, as
/// address and bytes, and `start` makes each hart's state. The memory afterwards, from [`RAM`] on.
pub(crate) fn run(
    backend: &str,
    harts: u32,
    program: &[u8],
    fill: &[(u64, Vec<u8>)],
    start: impl Fn(u32, &mut State) + Sync,
) -> Vec<u8> {
    let space = AddressSpace::memory(Unassigned::Fault);
    let block = RamBlock::anonymous("ram", RAM_SIZE).expect("RAM");
    space.add(Region::ram("ram", block).at(RAM)).expect("the region is free");
    let config = PartitionConfig {
        guest: GuestArch::Riscv64,
        vcpus: harts,
        topology: accel::arch::x86_topology::Topology::default(),
        cpu: CpuModel { name: String::new(), features: Vec::new() },
        irqchip: IrqchipMode::User,
        memory: Arc::new(AddressSpace::clone(&space)),
        ports: None,
        clock: Arc::new(TestClock::default()),
        timebase_hz: 10_000_000,
        properties: properties(backend),
        log: LogSink::none(),
    };
    let partition = Tcg::<Riscv>::new().create(config).expect("a partition");
    let _ = space.write(RAM, program);
    for (at, bytes) in fill {
        let _ = space.write(*at, bytes);
    }
    let lines = partition.lines();
    let binders = partition.take_vcpus();
    let kickers: Vec<_> = binders.iter().map(|b| b.kicker()).collect();
    let (finished, ends) = mpsc::channel();
    let late = AtomicBool::new(false);
    let running = AtomicU32::new(harts);
    std::thread::scope(|scope| {
        for (hart, binder) in binders.into_iter().enumerate() {
            let kicker = kickers[hart].clone();
            let bus = Bus { kicker, lines: lines.clone(), harts, done: AtomicBool::new(false) };
            let (start, finished, late, running) = (&start, finished.clone(), &late, &running);
            scope.spawn(move || {
                let mut vcpu = binder.bind().expect("the vCPU binds");
                let mut state = state_of(&mut *vcpu);
                state.pc = RAM;
                state.x[10] = hart as u64;
                state.x[11] = harts.into();
                state.pmpcfg[0] = 0x1f;
                state.pmpaddr[0] = (1 << 54) - 1;
                start(hart as u32, &mut state);
                vcpu.set_state(&CpuState::Riscv(Box::new(state))).expect("the state is good");
                while !bus.done.load(Ordering::SeqCst) && !late.load(Ordering::SeqCst) {
                    assert_eq!(vcpu.run(&bus).expect("it runs"), Exit::Kicked);
                }
                running.fetch_sub(1, Ordering::SeqCst);
                let s = state_of(&mut *vcpu);
                let _ = finished.send(format!(
                    "hart {hart}: pc {:#x}, mepc {:#x}, mcause {:#x}, mtval {:#x}, ra {:#x}",
                    s.pc, s.mepc, s.mcause, s.mtval, s.x[1]
                ));
            });
        }
        let mut said = Vec::new();
        while said.len() < harts as usize {
            match ends.recv_timeout(PATIENCE) {
                Ok(text) => said.push(text),
                Err(_) => {
                    late.store(true, Ordering::SeqCst);
                    kickers.iter().for_each(|k| k.kick());
                    break;
                }
            }
        }
        while said.len() < harts as usize {
            said.extend(ends.recv_timeout(PATIENCE).ok());
        }
        assert!(!late.load(Ordering::SeqCst), "the harts did not end ({backend}):\n{}", said.join("\n"));
    });
    let mut bytes = vec![0; RAM_SIZE as usize];
    let _ = space.read(RAM, &mut bytes);
    bytes
}
