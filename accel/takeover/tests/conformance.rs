//! The conformance cases with a second accelerator behind: behind KVM, and behind one that gives up after every instruction.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is all test")]

use std::sync::Arc;

use accel::arch::{CpuState, GuestArch};
use accel::{
    AccelError, Accelerator, Caps, CpuModel, DebugConfig, DebugEvent, Exit, InternalError, IrqchipMode,
    Kicker, Partition, PartitionConfig, Vcpu, VcpuBinder, VcpuError, VcpuIo, VcpuLines,
};
use accel_conformance::{Setup, run_all};
use accel_kvm::Kvm;
use accel_takeover::Takeover;
use tcg_engine::Tcg;
use tcg_guest_x86::X86;

fn translator() -> Box<dyn Accelerator> {
    Box::new(Tcg::<X86>::new())
}

fn all_pass(accel: &Takeover, irqchip: IrqchipMode) {
    let setup =
        Setup { accel, guest: GuestArch::X86_64, irqchip, cpu: CpuModel::default(), properties: Vec::new() };
    let failed = run_all(&setup);
    assert!(failed.is_empty(), "{irqchip:?}, failed: {failed:?}");
}

#[test]
fn behind_kvm() {
    let kvm = Kvm::new();
    if !kvm.guests().contains(&GuestArch::X86_64) || kvm.probe(GuestArch::X86_64).is_err() {
        println!("SKIPPED: no KVM for x86 guests on this host");
        return;
    }
    let accel = Takeover::new(Box::new(kvm), translator());
    for irqchip in [IrqchipMode::Kernel, IrqchipMode::Split, IrqchipMode::User] {
        all_pass(&accel, irqchip);
    }
}

/// The translator, giving up again and again: after an instruction it says that it cannot go on.
struct Feeble(Box<dyn Accelerator>);

impl Accelerator for Feeble {
    fn name(&self) -> &'static str {
        "feeble"
    }
    fn guests(&self) -> Vec<GuestArch> {
        self.0.guests()
    }
    fn probe(&self, guest: GuestArch) -> Result<Caps, AccelError> {
        self.0.probe(guest)
    }
    fn cpu_models(&self, guest: GuestArch) -> Vec<(String, String)> {
        self.0.cpu_models(guest)
    }
    fn create(&self, config: PartitionConfig) -> Result<Box<dyn Partition>, AccelError> {
        Ok(Box::new(FeeblePartition(self.0.create(config)?)))
    }
}

struct FeeblePartition(Box<dyn Partition>);

impl Partition for FeeblePartition {
    fn take_vcpus(&self) -> Vec<Box<dyn VcpuBinder>> {
        self.0.take_vcpus().into_iter().map(|b| Box::new(FeebleBinder(b)) as Box<dyn VcpuBinder>).collect()
    }
    fn lines(&self) -> Arc<dyn VcpuLines> {
        self.0.lines()
    }
}

struct FeebleBinder(Box<dyn VcpuBinder>);

impl VcpuBinder for FeebleBinder {
    fn index(&self) -> u32 {
        self.0.index()
    }
    fn kicker(&self) -> Arc<dyn Kicker> {
        self.0.kicker()
    }
    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, VcpuError> {
        Ok(Box::new(FeebleVcpu { inner: self.0.bind()?, debug: DebugConfig::default() }))
    }
}

struct FeebleVcpu {
    inner: Box<dyn Vcpu>,
    /// What the case has asked for.
    debug: DebugConfig,
}

impl Vcpu for FeebleVcpu {
    fn run(&mut self, io: &dyn VcpuIo) -> Result<Exit, VcpuError> {
        let asked = self.debug.clone();
        if asked != DebugConfig::default() {
            return self.inner.run(io);
        }
        self.inner.set_debug(&DebugConfig { single_step: true, ..asked })?;
        let exit = self.inner.run(io)?;
        self.inner.set_debug(&DebugConfig::default())?;
        let state = self.inner.state()?;
        let waits = matches!(&state, CpuState::X86_64(s) if s.run != accel::arch::x86_64::RunState::Running);
        if exit != Exit::Debug(DebugEvent::SingleStep) || waits {
            return if exit == Exit::Debug(DebugEvent::SingleStep) { self.inner.run(io) } else { Ok(exit) };
        }
        Ok(Exit::Fatal(Box::new(InternalError {
            guest: GuestArch::X86_64,
            reason: "too feeble".to_owned(),
            pc: state.pc(),
            bytes: Vec::new(),
            registers: String::new(),
            recoverable: true,
            advice: "none".to_owned(),
        })))
    }
    fn state(&mut self) -> Result<CpuState, VcpuError> {
        self.inner.state()
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.inner.set_state(state)
    }
    fn set_registers(&mut self, before: &CpuState, after: &CpuState) -> Result<(), VcpuError> {
        // What waits here has waited: the second does not know of it.
        let mut now = after.clone();
        if let (CpuState::X86_64(now), CpuState::X86_64(before)) = (&mut now, before) {
            now.events.nmi_pending = before.events.nmi_pending;
        }
        self.inner.set_registers(before, &now)
    }
    fn set_debug(&mut self, debug: &DebugConfig) -> Result<(), VcpuError> {
        self.debug = debug.clone();
        self.inner.set_debug(debug)
    }
    fn translate(&mut self, gva: u64) -> Option<u64> {
        self.inner.translate(gva)
    }
}

#[test]
fn behind_one_that_gives_up_all_the_time() {
    all_pass(&Takeover::new(Box::new(Feeble(translator())), translator()), IrqchipMode::User);
}

#[test]
fn the_property_is_checked_and_taken_out() {
    let accel = Takeover::new(Box::new(Feeble(translator())), translator());
    assert_eq!(accel.name(), "feeble");
    let memory = Arc::new(guest_memory::AddressSpace::memory(guest_memory::Unassigned::Ones));
    struct Stopped;
    struct Never;
    impl accel::ClockTimer for Never {
        fn arm(&self, _: u64) {}
        fn cancel(&self) {}
    }
    impl accel::GuestClock for Stopped {
        fn now_ns(&self) -> u64 {
            0
        }
        fn timer(&self, _: Box<dyn Fn() + Send + Sync>) -> Arc<dyn accel::ClockTimer> {
            Arc::new(Never)
        }
    }
    let config = |value: &str| PartitionConfig {
        guest: GuestArch::X86_64,
        vcpus: 1,
        topology: accel::arch::x86_topology::Topology::default(),
        cpu: CpuModel::default(),
        irqchip: IrqchipMode::User,
        memory: memory.clone(),
        ports: None,
        clock: Arc::new(Stopped),
        timebase_hz: 1,
        properties: vec![("takeover".to_owned(), value.to_owned())],
        log: accel::LogSink::none(),
    };
    assert!(accel.create(config("on")).unwrap().stats().contains("takeovers"));
    assert!(!accel.create(config("off")).unwrap().stats().contains("takeovers"));
    let error = accel.create(config("maybe")).err().unwrap().to_string();
    assert!(error.contains("takeover") && error.contains("on or off") && error.contains("maybe"), "{error}");
}
