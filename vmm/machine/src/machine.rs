//! A machine that stands: run, stop, reset, inspect, save.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use accel::arch::{CpuState, GuestArch};
use accel::{DebugConfig, Exit, Partition, VcpuIo};
use device::{Clock, LineSink, LocalControllers, ResetKind, SystemRequest, TimerThread};
use guest_memory::{AddressSpace, RamBlock};
use parking_lot::{Mutex, RwLock};

use crate::board::{Board, CpuInit};
use crate::held::HeldState;
use crate::hotplug::Graph;
use crate::image::{Image, OpenImage};
use crate::io::{CpuIo, MachineIo};
use crate::vcpus::{ExitHandler, Vcpus};
use crate::workshop::{Cells, Workshop};
use crate::{MachineError, Options};

/// What a machine tells its owner.
#[derive(Debug, Clone, PartialEq)]
pub enum MachineEvent {
    /// A device asked for something that concerns the machine.
    Request(SystemRequest),
    /// A vCPU left for a reason that is not a request of a device.
    Exit {
        /// Which vCPU.
        cpu: u32,
        /// Why.
        exit: Exit,
        /// In which run of the machine ([`Machine::run_number`]).
        run: u64,
    },
}

/// A machine.
pub struct Machine {
    name: String,
    arch: GuestArch,
    pub(crate) graph: RwLock<Graph>,
    images: Vec<OpenImage>,
    cpu_init: Option<CpuInit>,
    /// Names of the devices that the accelerator plays, and who translates their state.
    pub(crate) held: Vec<String>,
    pub(crate) held_state: Option<Arc<dyn HeldState>>,
    power_button: Option<Arc<dyn LineSink>>,
    pub(crate) clock: Clock,
    pub(crate) blocks: Vec<Arc<RamBlock>>,
    pub(crate) cells: RwLock<Arc<Cells>>,
    pub(crate) workshop: Workshop,
    memory: AddressSpace,
    ports: Option<AddressSpace>,
    /// States of the vCPUs after a reset of the accelerator's, before the board's changes.
    fresh: OnceLock<Vec<CpuState>>,
    /// The accelerator's interrupt controllers as they were made.
    fresh_chips: OnceLock<Vec<u8>>,
    /// One lifecycle operation at a time.
    pub(crate) lifecycle: Mutex<Lifecycle>,
    /// How often the guest has been let run.
    runs: Arc<AtomicU64>,
    vcpus: Vcpus,
    partition: Arc<dyn Partition>,
    _timers: TimerThread,
}

/// Whether the guest may run.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    pub(crate) running: bool,
}

impl Machine {
    #[expect(clippy::too_many_arguments, reason = "called once, by realize, with what it has just made")]
    pub(crate) fn new(
        board: Board,
        partition: Arc<dyn Partition>,
        memory: AddressSpace,
        ports: Option<AddressSpace>,
        blocks: Vec<Arc<RamBlock>>,
        cells: Cells,
        clock: Clock,
        workshop: Workshop,
        power_button: Option<Arc<dyn LineSink>>,
        local: Option<Arc<dyn LocalControllers>>,
        options: Options,
    ) -> Result<Arc<Self>, MachineError> {
        let controllers: Vec<_> = cells
            .iter()
            .map(|(_, c)| c.clone())
            .filter(|c| c.with(|d| d.interrupt_controller().is_some()))
            .collect();
        let io = Arc::new(MachineIo { memory: memory.clone(), ports: ports.clone(), local, controllers });
        let io = move |cpu| -> Arc<dyn VcpuIo> { Arc::new(CpuIo { machine: io.clone(), cpu }) };
        let events = options.events.clone();
        let runs = Arc::new(AtomicU64::new(0));
        let current = runs.clone();
        // A vCPU that leaves does not stand yet, so this is still the run it was in.
        let on_exit: ExitHandler = Arc::new(move |cpu, exit| {
            events(MachineEvent::Exit { cpu, exit, run: current.load(Ordering::Acquire) });
        });
        let vcpus = Vcpus::new(board.arch, board.present.clone(), partition.take_vcpus(), &io, &on_exit)?;
        let thread = workshop
            .timers
            .clone()
            .spawn()
            .map_err(|source| MachineError::Host { what: "timer thread", source })?;
        let graph = RwLock::new(Graph::of(&board));
        let held = board.nodes.iter().filter(|n| n.held.is_some()).map(|n| n.name.clone()).collect();
        let images = board.images.into_iter().map(Image::open).collect::<Result<_, _>>()?;
        let machine = Arc::new(Self {
            name: board.name,
            arch: board.arch,
            graph,
            images,
            cpu_init: board.cpu_init,
            held,
            held_state: board.held_state,
            power_button,
            clock,
            blocks,
            cells: RwLock::new(Arc::new(cells)),
            workshop,
            memory,
            ports,
            fresh: OnceLock::new(),
            fresh_chips: OnceLock::new(),
            lifecycle: Mutex::default(),
            runs,
            vcpus,
            partition,
            _timers: thread,
        });
        let fresh = machine.cpu_states()?;
        let _ = machine.fresh.set(fresh);
        if let Some(chip) = machine.partition.irqchip() {
            let _ = machine.fresh_chips.set(chip.save()?);
        }
        machine.load_images()?;
        machine.init_cpus()?;
        Ok(machine)
    }

    /// Name of the board.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Guest architecture.
    #[must_use]
    pub fn arch(&self) -> GuestArch {
        self.arch
    }

    /// The graph as text.
    #[must_use]
    pub fn graph(&self) -> String {
        self.graph.read().text()
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn vcpu_count(&self) -> u32 {
        self.vcpus.len() as u32
    }

    /// Guest physical memory.
    #[must_use]
    pub fn memory(&self) -> &AddressSpace {
        &self.memory
    }

    /// Port space.
    #[must_use]
    pub fn ports(&self) -> Option<&AddressSpace> {
        self.ports.as_ref()
    }

    /// RAM and ROM.
    #[must_use]
    pub fn ram_blocks(&self) -> &[Arc<RamBlock>] {
        &self.blocks
    }

    /// Devices by name, as they are now.
    #[must_use]
    pub fn devices(&self) -> Arc<Cells> {
        self.cells.read().clone()
    }

    /// The accelerator's share.
    #[must_use]
    pub fn partition(&self) -> &dyn Partition {
        &*self.partition
    }

    /// The machine's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// True if the guest may run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lifecycle.lock().running
    }

    fn load_images(&self) -> Result<(), MachineError> {
        self.images.iter().try_for_each(|i| i.load(&self.memory))
    }

    fn init_cpus(&self) -> Result<(), MachineError> {
        let fresh = self.fresh.get().map(Vec::as_slice).unwrap_or_default();
        let mut states = fresh.to_vec();
        if let Some(init) = &self.cpu_init {
            for (i, s) in states.iter_mut().enumerate() {
                init(i as u32, s);
            }
        }
        self.set_cpu_states(states)
    }

    /// States of all vCPUs.
    pub fn cpu_states(&self) -> Result<Vec<CpuState>, MachineError> {
        (0..self.vcpu_count()).map(|i| self.cpu_state(i)).collect()
    }

    /// State of one vCPU.
    pub fn cpu_state(&self, index: u32) -> Result<CpuState, MachineError> {
        match self.vcpus.on(index, |v| v.state()) {
            Some(r) => r.map_err(|source| MachineError::Vcpu { index, source }),
            None => Err(MachineError::Board(format!("there is no vcpu {index}"))),
        }
    }

    /// Gives a vCPU that comes or has gone the state it has after a reset, but for what `change` does to it. It must not be there.
    pub fn reset_cpu(&self, index: u32, change: impl FnOnce(&mut CpuState)) -> Result<(), MachineError> {
        let fresh = self.fresh.get().and_then(|all| all.get(index as usize));
        let Some(mut state) = fresh.cloned() else { return Ok(()) };
        if let Some(init) = &self.cpu_init {
            init(index, &mut state);
        }
        change(&mut state);
        self.set_cpu_state(index, state)
    }

    /// Lets vCPUs run that are there now.
    pub fn cpus_have_come(&self) {
        self.vcpus.look();
    }

    /// Replaces the states of all vCPUs.
    pub fn set_cpu_states(&self, states: Vec<CpuState>) -> Result<(), MachineError> {
        for (i, s) in states.into_iter().enumerate() {
            self.set_cpu_state(i as u32, s)?;
        }
        Ok(())
    }

    /// Replaces the state of one vCPU.
    pub fn set_cpu_state(&self, index: u32, state: CpuState) -> Result<(), MachineError> {
        match self.vcpus.on(index, move |v| v.set_state(&state)) {
            Some(r) => r.map_err(|source| MachineError::Vcpu { index, source }),
            None => Err(MachineError::Board(format!("there is no vcpu {index}"))),
        }
    }

    /// Runs `job` on the thread of vCPU `index`, between two runs of the guest; `None` if there is no such vCPU.
    pub fn on_vcpu_thread<R: std::any::Any + Send>(
        &self,
        index: u32,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        self.vcpus.on(index, move |_| job())
    }

    /// Sets what a debugger wants of a vCPU.
    pub fn set_debug(&self, index: u32, debug: DebugConfig) -> Result<(), MachineError> {
        match self.vcpus.on(index, move |v| v.set_debug(&debug)) {
            Some(r) => r.map_err(|source| MachineError::Vcpu { index, source }),
            None => Err(MachineError::Board(format!("there is no vcpu {index}"))),
        }
    }

    /// Keeps these vCPUs standing while the guest runs, and lets all others go. For debuggers, while it stands.
    pub fn hold(&self, cpus: &[u32]) {
        self.vcpus.hold(cpus);
    }

    /// Translates a guest virtual address as vCPU `index` sees it.
    #[must_use]
    pub fn translate(&self, index: u32, gva: u64) -> Option<u64> {
        self.vcpus.on(index, move |v| v.translate(gva)).flatten()
    }

    /// Lets the guest run. True if it stood still.
    pub fn start(&self) -> bool {
        let mut l = self.lifecycle.lock();
        if l.running {
            return false;
        }
        l.running = true;
        self.runs.fetch_add(1, Ordering::AcqRel);
        self.clock.resume();
        // The accelerator's own clock stood still as well, as far as the guest can tell.
        if let Some(clock) = self.partition.clock()
            && let Err(e) = clock.set(self.clock.now())
        {
            tracing::warn!("{e}");
        }
        for (_, c) in self.devices().iter() {
            c.resume();
        }
        self.vcpus.run();
        true
    }

    /// The number of the run the guest is in, or was in last: each [`Machine::start`] begins another.
    #[must_use]
    pub fn run_number(&self) -> u64 {
        self.runs.load(Ordering::Acquire)
    }

    /// Stops the guest; returns when nothing of it moves. True if it ran.
    pub fn stop(&self) -> bool {
        self.halt(&mut self.lifecycle.lock())
    }

    /// As [`Machine::stop`], unless the guest has been let run again since that run. True if it was running in it.
    pub fn stop_run(&self, run: u64) -> bool {
        let mut l = self.lifecycle.lock();
        self.run_number() == run && self.halt(&mut l)
    }

    fn halt(&self, l: &mut Lifecycle) -> bool {
        self.vcpus.stop();
        if !l.running {
            return false;
        }
        l.running = false;
        for (_, c) in self.devices().iter() {
            c.quiesce();
        }
        self.clock.pause();
        true
    }

    /// Forgets that vCPUs were halted for good: they have another state now.
    pub(crate) fn unhalt(&self) {
        self.vcpus.unhalt();
    }

    /// Keeps vCPUs from going on after a request that ends them; callable from any thread.
    pub fn ask_stop(&self) {
        self.vcpus.ask_stop();
    }

    /// Resets the machine as a power cycle does. It runs on if it ran.
    pub fn reset(&self) -> Result<(), MachineError> {
        let ran = self.stop();
        for (_, c) in self.devices().iter() {
            c.reset(ResetKind::Cold);
        }
        if let (Some(chip), Some(state)) = (self.partition.irqchip(), self.fresh_chips.get()) {
            chip.restore(state)?;
        }
        self.vcpus.unhalt();
        self.load_images()?;
        self.init_cpus()?;
        if ran {
            self.start();
        }
        Ok(())
    }

    /// Presses the power button; false if the board has none.
    pub fn press_power_button(&self) -> bool {
        let Some(b) = &self.power_button else { return false };
        b.set_level(true);
        b.set_level(false);
        true
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpus.stop();
    }
}
