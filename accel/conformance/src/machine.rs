//! The machine of the cases: RAM, a window of recorded device registers, ports, a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use accel::arch::{CpuState, GuestArch, riscv, x86_64};
use accel::{
    ClockTimer, Exit, GuestClock, InternalError, IoResult, IrqchipMode, Kicker, LogSink, Partition,
    PartitionConfig, Vcpu, VcpuBinder, VcpuIo, VcpuLines,
};
use guest_memory::{AddressSpace, RamBlock, Region, Unassigned};
use parking_lot::{Condvar, Mutex};

use crate::{Failure, Setup, x86};

/// A write to this register of the window ends the guest.
pub(crate) const DONE: u64 = 0xF00;
/// Bytes of the window.
const WINDOW: u64 = 0x1000;
/// Bytes of RAM.
pub(crate) const RAM_SIZE: u64 = 1 << 20;
/// A guest that is not done by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something the guest did that a machine can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Read of a register; the value is the one that the device gave.
    Read(u64, Vec<u8>),
    /// Write to a register.
    Write(u64, Vec<u8>),
    /// Port input.
    In(u16, Vec<u8>),
    /// Port output.
    Out(u16, Vec<u8>),
    /// An interrupt was acknowledged.
    Ack,
    /// A level-triggered interrupt was ended.
    Eoi(u8),
    /// The vCPU left `run`.
    Exit(String),
    /// A remark of the case.
    Note(String),
}

/// What was seen, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript(pub Vec<Event>);

type Hook = Box<dyn Fn(&Io, &[u8]) + Send + Sync>;

/// The devices.
pub(crate) struct Io {
    guest: GuestArch,
    window: u64,
    memory: Arc<AddressSpace>,
    log: Mutex<Vec<Event>>,
    hooks: Mutex<Vec<(u64, Arc<Hook>)>>,
    kickers: Mutex<Vec<Arc<dyn Kicker>>>,
    lines: Mutex<Option<Arc<dyn VcpuLines>>>,
    pub(crate) done: AtomicBool,
    pub(crate) expired: AtomicBool,
}

impl Io {
    pub(crate) fn note(&self, event: Event) {
        self.log.lock().push(event);
    }

    pub(crate) fn is_x86(&self) -> bool {
        self.guest == GuestArch::X86_64
    }

    /// The interrupt line that the device drives: INTR on x86, the machine's external interrupt on RISC-V.
    pub(crate) fn irq(&self, vcpu: u32, level: bool) {
        let line = if self.is_x86() { 0 } else { 11 };
        if let Some(lines) = &*self.lines.lock() {
            lines.set_line(vcpu, line, level);
        }
    }

    pub(crate) fn lines(&self) -> Option<Arc<dyn VcpuLines>> {
        self.lines.lock().clone()
    }

    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.kickers.lock().iter().for_each(|k| k.kick());
    }

    fn register(&self, gpa: u64) -> Option<u64> {
        gpa.checked_sub(self.window).filter(|o| *o < WINDOW)
    }
}

fn result(r: guest_memory::BusResult) -> IoResult {
    match r {
        guest_memory::BusResult::Ok => IoResult::Ok,
        guest_memory::BusResult::DecodeError => IoResult::DecodeError,
        guest_memory::BusResult::DeviceError => IoResult::DeviceError,
    }
}

impl VcpuIo for Io {
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        let Some(register) = self.register(gpa) else { return result(self.memory.read(gpa, data)) };
        for (i, b) in data.iter_mut().enumerate() {
            *b = 0xA0 + (register as u8 & 0x0F) + i as u8;
        }
        self.note(Event::Read(register, data.to_vec()));
        IoResult::Ok
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        let Some(register) = self.register(gpa) else { return result(self.memory.write(gpa, data)) };
        self.note(Event::Write(register, data.to_vec()));
        let hook = self.hooks.lock().iter().find(|(r, _)| *r == register).map(|(_, h)| h.clone());
        if let Some(hook) = hook {
            hook(self, data);
        }
        if register == DONE {
            self.finish();
        }
        IoResult::Ok
    }

    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoResult {
        for (i, b) in data.iter_mut().enumerate() {
            *b = 0xB0 + i as u8;
        }
        self.note(Event::In(port, data.to_vec()));
        IoResult::Ok
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> IoResult {
        self.note(Event::Out(port, data.to_vec()));
        IoResult::Ok
    }

    fn ack_irq(&self, vcpu: u32) -> Option<u8> {
        self.note(Event::Ack);
        self.irq(vcpu, false);
        Some(0x20)
    }

    fn eoi(&self, vector: u8) {
        self.note(Event::Eoi(vector));
    }
}

/// The host's monotonic clock.
struct HostClock(Instant);

/// One timer: a thread that waits for its deadline.
struct TimerThread {
    deadline: Mutex<(Option<u64>, bool)>,
    changed: Condvar,
    start: Instant,
    fire: Box<dyn Fn() + Send + Sync>,
}

impl TimerThread {
    fn run(&self) {
        let mut state = self.deadline.lock();
        while !state.1 {
            let now = self.start.elapsed().as_nanos() as u64;
            match state.0 {
                None => self.changed.wait(&mut state),
                Some(t) if t <= now => {
                    state.0 = None;
                    parking_lot::MutexGuard::unlocked(&mut state, || (self.fire)());
                }
                Some(t) => {
                    let _ = self.changed.wait_for(&mut state, Duration::from_nanos(t - now));
                }
            }
        }
    }

    fn set(&self, deadline: Option<u64>, end: bool) {
        *self.deadline.lock() = (deadline, end);
        self.changed.notify_all();
    }
}

struct TestTimer(Arc<TimerThread>);

impl ClockTimer for TestTimer {
    fn arm(&self, deadline_ns: u64) {
        self.0.set(Some(deadline_ns), false);
    }
    fn cancel(&self) {
        self.0.set(None, false);
    }
}

impl Drop for TestTimer {
    fn drop(&mut self) {
        self.0.set(None, true);
    }
}

impl GuestClock for HostClock {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
    fn timer(&self, fire: Box<dyn Fn() + Send + Sync>) -> Arc<dyn ClockTimer> {
        let timer = Arc::new(TimerThread {
            deadline: Mutex::new((None, false)),
            changed: Condvar::new(),
            start: self.0,
            fire,
        });
        let worker = timer.clone();
        std::thread::spawn(move || worker.run());
        Arc::new(TestTimer(timer))
    }
}

/// A machine under test.
pub(crate) struct Machine {
    pub(crate) guest: GuestArch,
    pub(crate) memory: Arc<AddressSpace>,
    pub(crate) ram: Arc<RamBlock>,
    pub(crate) io: Arc<Io>,
    pub(crate) partition: Arc<dyn Partition>,
    binders: Mutex<Vec<Option<Box<dyn VcpuBinder>>>>,
}

impl Machine {
    /// Address of RAM.
    pub(crate) fn ram_base(guest: GuestArch) -> u64 {
        if guest == GuestArch::X86_64 { 0 } else { 0x8000_0000 }
    }

    /// Address of code: page 1 of RAM on x86, the start of RAM elsewhere.
    pub(crate) fn code_base(guest: GuestArch) -> u64 {
        if guest == GuestArch::X86_64 { 0x1000 } else { Self::ram_base(guest) }
    }

    /// Address of the window of registers.
    pub(crate) fn window(guest: GuestArch) -> u64 {
        if guest == GuestArch::X86_64 { 0xD000_0000 } else { 0x1000_0000 }
    }

    pub(crate) fn new(setup: &Setup<'_>, vcpus: u32) -> Result<Self, Failure> {
        Self::with(setup, vcpus, |_| Ok(()))
    }

    /// A machine with more memory than RAM: `extra` adds it.
    pub(crate) fn with(
        setup: &Setup<'_>,
        vcpus: u32,
        extra: impl FnOnce(&AddressSpace) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let guest = setup.guest;
        let x86 = guest == GuestArch::X86_64;
        let memory = Arc::new(AddressSpace::memory(if x86 { Unassigned::Ones } else { Unassigned::Fault }));
        let ram = RamBlock::anonymous("ram", RAM_SIZE)?;
        memory.add(Region::ram("ram", ram.clone()).at(Self::ram_base(guest)))?;
        extra(&memory)?;
        let partition: Arc<dyn Partition> = Arc::from(setup.accel.create(PartitionConfig {
            guest,
            vcpus,
            topology: accel::arch::x86_topology::Topology::flat(vcpus),
            cpu: setup.cpu.clone(),
            irqchip: setup.irqchip,
            memory: memory.clone(),
            ports: x86.then(|| Arc::new(AddressSpace::ports())),
            clock: Arc::new(HostClock(Instant::now())),
            timebase_hz: 10_000_000,
            properties: setup.properties.clone(),
            log: LogSink::none(),
        })?);
        let binders = partition.take_vcpus();
        if binders.len() != vcpus as usize || !partition.take_vcpus().is_empty() {
            return Err(Failure(format!("{} vCPUs were handed out, expected {vcpus}, once", binders.len())));
        }
        let io = Arc::new(Io {
            guest,
            window: Self::window(guest),
            memory: memory.clone(),
            log: Mutex::default(),
            hooks: Mutex::default(),
            kickers: Mutex::new(binders.iter().map(|b| b.kicker()).collect()),
            lines: Mutex::new(Some(partition.lines())),
            done: AtomicBool::new(false),
            expired: AtomicBool::new(false),
        });
        let machine = Self {
            guest,
            memory,
            ram,
            io,
            partition,
            binders: Mutex::new(binders.into_iter().map(Some).collect()),
        };
        if x86 {
            for (i, entry) in x86::GDT_ENTRIES.iter().enumerate() {
                machine.ram.write(x86::GDT + 8 * i as u64, &entry.to_le_bytes())?;
            }
        }
        Ok(machine)
    }

    /// Copies code to the start address.
    pub(crate) fn load(&self, code: &[u8]) -> Result<(), Failure> {
        Ok(self.ram.write(Self::code_base(self.guest) - Self::ram_base(self.guest), code)?)
    }

    /// Points an x86 interrupt vector at a handler.
    pub(crate) fn set_vector(&self, vector: u64, handler: u32) -> Result<(), Failure> {
        Ok(self.ram.write(x86::IDT + 8 * vector, &x86::gate(handler).to_le_bytes())?)
    }

    /// Calls `hook` when the guest writes to a register.
    pub(crate) fn on_write(&self, register: u64, hook: impl Fn(&Io, &[u8]) + Send + Sync + 'static) {
        self.io.hooks.lock().push((register, Arc::new(Box::new(hook))));
    }

    pub(crate) fn kicker(&self, index: usize) -> Arc<dyn Kicker> {
        self.io.kickers.lock()[index].clone()
    }

    /// Binds a vCPU to the calling thread, in its reset state.
    pub(crate) fn bind(&self, index: usize) -> Result<Box<dyn Vcpu>, Failure> {
        let binder = self.binders.lock().get_mut(index).and_then(Option::take);
        Ok(binder.ok_or(Failure(format!("vCPU {index} is bound already")))?.bind()?)
    }

    /// Binds vCPU 0 and lets it stand before the code.
    pub(crate) fn start(&self) -> Result<Box<dyn Vcpu>, Failure> {
        let mut vcpu = self.bind(0)?;
        self.restart(&mut *vcpu)?;
        Ok(vcpu)
    }

    /// Lets a vCPU stand before the code.
    pub(crate) fn restart(&self, vcpu: &mut dyn Vcpu) -> Result<(), Failure> {
        let mut state = vcpu.state()?;
        at_start(&mut state);
        Ok(vcpu.set_state(&state)?)
    }

    /// Runs until the guest is done, or leaves in another way, or the watchdog bites.
    pub(crate) fn run(&self, vcpu: &mut dyn Vcpu) -> Result<Exit, Failure> {
        let _watchdog = Watchdog::new(&self.io);
        loop {
            let exit = vcpu.run(&*self.io)?;
            if self.io.expired.load(Ordering::SeqCst) {
                return Err(Failure(format!("hangs; last events: {:x?}", self.tail())));
            }
            if exit != Exit::Kicked || self.io.done.load(Ordering::SeqCst) {
                return Ok(exit);
            }
        }
    }

    /// Runs to the end, which must be an orderly one.
    pub(crate) fn finish(&self, vcpu: &mut dyn Vcpu) -> Result<(), Failure> {
        match self.run(vcpu)? {
            Exit::Kicked => Ok(()),
            Exit::Fatal(e) => {
                let InternalError { reason, pc, bytes, .. } = *e;
                Err(Failure(format!("{reason} at {pc:#x}: {bytes:02x?}; last events: {:x?}", self.tail())))
            }
            other => Err(Failure(format!("left with {other:x?}; last events: {:x?}", self.tail()))),
        }
    }

    fn tail(&self) -> Vec<Event> {
        let log = self.io.log.lock();
        log[log.len().saturating_sub(5)..].to_vec()
    }

    pub(crate) fn transcript(&self) -> Transcript {
        Transcript(self.io.log.lock().clone())
    }

    /// The values written to the window, as (register, value).
    pub(crate) fn writes(&self) -> Vec<(u64, u64)> {
        let log = self.io.log.lock();
        log.iter()
            .filter_map(|e| match e {
                Event::Write(r, data) => Some((*r, number(data))),
                _ => None,
            })
            .collect()
    }
}

impl Machine {
    /// How often the guest wrote to a port.
    pub(crate) fn port_writes(&self, port: u16) -> usize {
        self.io.log.lock().iter().filter(|e| matches!(e, Event::Out(p, _) if *p == port)).count()
    }
}

/// Little-endian bytes as a number.
pub(crate) fn number(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The state before the first instruction of a case: flat 32-bit protected mode, or machine mode.
pub(crate) fn at_start(state: &mut CpuState) {
    match state {
        CpuState::X86_64(s) => {
            s.start_flat(Machine::code_base(GuestArch::X86_64));
            s.gdt = x86_64::Table { base: x86::GDT, limit: 23 };
            s.idt = x86_64::Table { base: x86::IDT, limit: 0x7FF };
            s.rsp = 0x8000;
        }
        CpuState::Riscv(s) => {
            s.pc = Machine::code_base(GuestArch::Riscv64);
            s.privilege = 3;
            s.waiting = false;
        }
        _ => {}
    }
}

/// The state of RISC-V, or an error.
pub(crate) fn riscv_state(state: &CpuState) -> Result<&riscv::State, Failure> {
    match state {
        CpuState::Riscv(s) => Ok(s),
        other => Err(Failure(format!("the state is one of {}", other.arch_name()))),
    }
}

/// Ends a guest that hangs.
pub(crate) struct Watchdog(Arc<(Mutex<bool>, Condvar)>);

impl Watchdog {
    pub(crate) fn new(io: &Arc<Io>) -> Self {
        let state = Arc::new((Mutex::new(false), Condvar::new()));
        let (theirs, io) = (state.clone(), io.clone());
        std::thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            let mut over = theirs.0.lock();
            while !*over {
                if theirs.1.wait_until(&mut over, deadline).timed_out() {
                    io.expired.store(true, Ordering::SeqCst);
                    io.finish();
                    return;
                }
            }
        });
        Self(state)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }
}

/// True if the interrupt controllers are not in the accelerator.
pub(crate) fn user_irqchip(setup: &Setup<'_>) -> bool {
    setup.irqchip == IrqchipMode::User
}
