//! A vCPU with two accelerators: the first runs it, the second executes a stretch where the first cannot.
//!
//! A stretch begins with the instruction that the first accelerator gave up on. It ends before an instruction that is the first's
//! own ([`is_for_the_first`](crate::x86::is_for_the_first)) or reaches for a device inside it ([`Guard`]), when the vCPU no
//! longer runs, or after so many instructions: few where takeovers are rare, more where one follows the other, as every change of
//! accelerator costs the time of hundreds of instructions. Interrupts wait for its end; a request to stop ends it. The second
//! executes one instruction at a time, so that each can be undone.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::time::{Duration, Instant};

use accel::arch::CpuState;
use accel::{DebugConfig, DebugEvent, Exit, InternalError, Partition, Vcpu, VcpuError, VcpuIo};

use crate::Second;
use crate::counters::Counters;
use crate::guard::Guard;
use crate::x86;

/// Instructions of the shortest and of the longest stretch.
const SHORTEST: u32 = 8;
const LONGEST: u32 = 512;
/// Takeovers that follow one another faster are worth longer stretches.
const OFTEN: Duration = Duration::from_millis(2);

pub(crate) struct TakeoverVcpu {
    index: u32,
    first: Box<dyn Vcpu>,
    partition: Arc<dyn Partition>,
    source: Arc<Second>,
    /// The second's vCPU once it was needed; what is wrong with it otherwise.
    second: Option<Result<Box<dyn Vcpu>, String>>,
    counters: Arc<Counters>,
    /// The vCPU was kicked, which the first says when it runs next.
    asked: Arc<AtomicBool>,
    debug: DebugConfig,
    length: u32,
    last: Option<Instant>,
}

/// How a stretch ended.
enum Stretch {
    /// The first accelerator goes on.
    Back,
    /// The run ends.
    Leave(Exit),
}

impl TakeoverVcpu {
    pub(crate) fn new(
        index: u32,
        first: Box<dyn Vcpu>,
        partition: Arc<dyn Partition>,
        source: Arc<Second>,
        counters: Arc<Counters>,
        asked: Arc<AtomicBool>,
    ) -> Self {
        Self {
            index,
            first,
            partition,
            source,
            second: None,
            counters,
            asked,
            debug: DebugConfig::default(),
            length: SHORTEST,
            last: None,
        }
    }

    /// How long the coming stretch may be.
    fn choose_length(&mut self) -> u32 {
        if self.debug != DebugConfig::default() {
            return 1;
        }
        let often = self.last.is_some_and(|last| last.elapsed() < OFTEN);
        self.length = if often { (self.length * 2).min(LONGEST) } else { SHORTEST };
        self.length
    }

    fn take_over(&mut self, mut error: Box<InternalError>, io: &dyn VcpuIo) -> Result<Stretch, VcpuError> {
        let length = self.choose_length();
        let before = self.first.state()?;
        let (index, source) = (self.index, self.source.clone());
        let second = match self.second.get_or_insert_with(|| source.vcpu(index)) {
            Ok(second) => second,
            Err(problem) => {
                error.advice = format!("{} (it could not be taken over: {problem})", error.advice);
                return Ok(Stretch::Leave(Exit::Fatal(error)));
            }
        };
        let mut entry = before.clone();
        let apic = x86::leave_behind(&mut entry);
        let guard = Guard::new(io, self.partition.irqchip(), apic);
        // Memory was written without the second being told.
        second.forget_memory();
        if let Err(e) = second.set_state(&entry) {
            error.advice = format!("{} (it could not be taken over: {e})", error.advice);
            return Ok(Stretch::Leave(Exit::Fatal(error)));
        }
        second.set_debug(&DebugConfig { single_step: true, ..DebugConfig::default() })?;
        let (mut after, mut done) = (entry, 0);
        let memory = &source.config.memory;
        while done < length && (done == 0 || !x86::is_for_the_first(&mut **second, &after, memory)) {
            let exit = second.run(&guard)?;
            if guard.touched() {
                break;
            }
            match exit {
                Exit::Debug(DebugEvent::SingleStep) | Exit::Halted | Exit::Reset => {}
                _ => break,
            }
            done += 1;
            after = second.state()?;
            if !x86::is_running(&after) || self.asked.load(Acquire) {
                break;
            }
        }
        self.last = Some(Instant::now());
        if self.counters.count(&error.reason, done.into()) {
            tracing::info!("{}; {} takes over there", error.reason, self.source.accel.name());
        }
        if done == 0 {
            error.advice = format!("{} (nor could the translator execute it)", error.advice);
            return Ok(Stretch::Leave(Exit::Fatal(error)));
        }
        self.first.set_registers(&before, &after)?;
        if self.debug.single_step {
            return Ok(Stretch::Leave(Exit::Debug(DebugEvent::SingleStep)));
        }
        Ok(Stretch::Back)
    }
}

impl Vcpu for TakeoverVcpu {
    fn run(&mut self, io: &dyn VcpuIo) -> Result<Exit, VcpuError> {
        loop {
            // The first says so at once if there was one.
            self.asked.store(false, Release);
            match self.first.run(io)? {
                Exit::Fatal(error) if error.recoverable => match self.take_over(error, io)? {
                    Stretch::Back => {}
                    Stretch::Leave(exit) => return Ok(exit),
                },
                exit => return Ok(exit),
            }
        }
    }

    fn state(&mut self) -> Result<CpuState, VcpuError> {
        self.first.state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.first.set_state(state)
    }

    fn set_debug(&mut self, debug: &DebugConfig) -> Result<(), VcpuError> {
        self.first.set_debug(debug)?;
        self.debug = debug.clone();
        Ok(())
    }

    fn translate(&mut self, gva: u64) -> Option<u64> {
        self.first.translate(gva)
    }

    fn instructions(&self) -> Option<u64> {
        self.first.instructions()
    }
}
