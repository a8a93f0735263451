//! Local APICs of all vCPUs, for accelerators without one of their own (Intel SDM volume 3A, chapter 13,
//! "Advanced Programmable Interrupt Controller"): xAPIC, x2APIC, TSC-deadline timer.
//!
//! They are one device, [`LapicsConfig`]: what they send one another never leaves it, and saved state is of one
//! piece. A vCPU reaches its own APIC directly through [`ApicBus`], without the device's lock:
//!
//! - its accesses to the APIC page through [`ApicBus::mmio_read`] and [`ApicBus::mmio_write`] (region `pages` of the
//!   device shows the same pages one after the other, for tests; boards do not map it),
//! - its MSRs and CR8, and [`ApicBus::acknowledge`] when it takes an interrupt.
//!
//! Output row `intr` tells each vCPU that something is deliverable, `nmi` and `smi` are pulsed; INIT and start-up
//! go to the [`IpiSink`]. I/O APICs and devices send through [`ApicBus`] as an [`MsiSink`]; ends of level-triggered
//! interrupts are reported to the handler set by [`ApicBus::on_eoi`].

mod message;
mod registers;

use std::any::Any;
use std::sync::{Arc, OnceLock};

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, EoiHandler, IpiSink, IrqLine,
    LocalControllers, MsiMessage, MsiSink, PinSpec, Properties, Property, PropertyError, RegionSpec,
    ResetKind, StateBlob, StateError, Taken, Timer, Wires, le_fill, le_value,
};
use parking_lot::{Mutex, MutexGuard};

use message::{Delivery, Destination, Message};
use registers::{Effect, Registers};

/// Local APICs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapicsConfig {
    /// Number of vCPUs.
    pub cpus: u32,
    /// Numbers of their APICs; those that are not given are the vCPUs'.
    pub ids: Vec<u32>,
    /// Frequency of the APIC timer before its divider, in Hz.
    pub bus_frequency: u64,
    /// Frequency of the guest's TSC, in Hz.
    pub tsc_frequency: u64,
}

impl Default for LapicsConfig {
    fn default() -> Self {
        LapicsConfig { cpus: 1, ids: Vec::new(), bus_frequency: 1_000_000_000, tsc_frequency: 1_000_000_000 }
    }
}

impl Properties for LapicsConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

impl LapicsConfig {
    /// The vCPU whose APIC has a number.
    fn cpu(&self, id: u32) -> Option<u32> {
        if self.ids.is_empty() {
            return (id < self.cpus).then_some(id);
        }
        self.ids.iter().position(|other| *other == id).map(|cpu| cpu as u32)
    }

    fn id(&self, cpu: u32) -> u32 {
        self.ids.get(cpu as usize).copied().unwrap_or(cpu)
    }
}

const PAGE: u64 = 0x1000;

/// Registers of one APIC's page as [`LapicState::from_page`] takes them.
pub const LAPIC_WORDS: usize = registers::WORDS;

impl DeviceConfig for LapicsConfig {
    const KIND: &'static str = "apic";
    const HELP: &'static str = "local APICs of all vCPUs";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("pages", PAGE * u64::from(self.cpus), AccessRule::UP_TO_4)]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("extint")]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        let row = |name| PinSpec::row(name, self.cpus as usize);
        vec![row("intr"), row("nmi"), row("smi")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if self.cpus == 0 || self.cpus > 4096 {
            return Err(wires.bad_property("cpus", "expected 1 to 4096"));
        }
        if self.bus_frequency == 0 || self.tsc_frequency == 0 {
            return Err(wires.bad_property("bus_frequency, tsc_frequency", "expected at least 1"));
        }
        let count = self.cpus as usize;
        let lines = wires
            .lines("intr", count)
            .into_iter()
            .zip(wires.lines("nmi", count))
            .zip(wires.lines("smi", count));
        let cpus = lines
            .enumerate()
            .map(|(id, ((intr, nmi), smi))| Cpu {
                state: Mutex::new(State { r: Registers::new(self.id(id as u32)), extint: false }),
                timer: wires.timer(id),
                intr,
                nmi,
                smi,
            })
            .collect();
        let bus =
            ApicBus { cpus, clock: wires.clock(), config: self, ipi: OnceLock::new(), eoi: OnceLock::new() };
        Ok(Box::new(Lapics { bus: Arc::new(bus) }))
    }
}

/// An access to an APIC MSR that raises #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrError;

struct State {
    r: Registers,
    /// Level of the 8259's output at LINT0.
    extint: bool,
}

struct Cpu {
    state: Mutex<State>,
    timer: Timer,
    intr: IrqLine,
    nmi: IrqLine,
    smi: IrqLine,
}

/// The local APICs and what connects them.
pub struct ApicBus {
    cpus: Vec<Cpu>,
    clock: Clock,
    config: LapicsConfig,
    ipi: OnceLock<Box<dyn IpiSink>>,
    eoi: OnceLock<EoiHandler>,
}

impl ApicBus {
    /// Where start-up messages go; to be called once, by the board.
    pub fn on_ipi(&self, sink: Box<dyn IpiSink>) {
        // A second sink would be the board's mistake; the first stays.
        let _ = self.ipi.set(sink);
    }

    /// Who hears of the end of level-triggered interrupts (the I/O APICs); to be called once, by the board.
    pub fn on_eoi(&self, handler: EoiHandler) {
        let _ = self.eoi.set(handler);
    }

    fn cpu(&self, cpu: u32) -> Option<(&Cpu, MutexGuard<'_, State>)> {
        let cpu = self.cpus.get(cpu as usize)?;
        Some((cpu, cpu.state.lock()))
    }

    /// Sets the line by the state. The lock orders the changes.
    fn update(cpu: &Cpu, state: &State) {
        cpu.intr.set(level(state));
    }

    /// Reads the APIC page of a vCPU.
    pub fn mmio_read(&self, cpu: u32, offset: u64, data: &mut [u8]) -> Access {
        let Some((_, state)) = self.cpu(cpu) else { return Access::NoRegister };
        if state.r.x2apic() {
            return Access::NoRegister;
        }
        match state.r.read((offset >> 4) as u8, self.clock.now(), &self.config) {
            // Registers are 32 bits wide, every 16 bytes.
            Some(value) if offset % 16 < 4 => {
                le_fill(data, value >> (offset % 4 * 8) & 0xffff_ffff);
                Access::Ok
            }
            _ => Access::NoRegister,
        }
    }

    /// Writes the APIC page of a vCPU.
    pub fn mmio_write(&self, cpu: u32, offset: u64, data: &[u8]) -> Access {
        if !offset.is_multiple_of(16) || data.len() != 4 {
            return Access::BadSize;
        }
        let Some((target, mut state)) = self.cpu(cpu) else { return Access::NoRegister };
        if state.r.x2apic() {
            return Access::NoRegister;
        }
        let index = (offset >> 4) as u8;
        let effect = state.r.write(index, le_value(data), self.clock.now(), &self.config);
        self.finish(cpu, target, state, effect)
    }

    fn finish(&self, cpu: u32, target: &Cpu, state: MutexGuard<'_, State>, effect: Option<Effect>) -> Access {
        Self::update(target, &state);
        target.timer.set(state.r.deadline(&self.config));
        drop(state);
        match effect {
            None => return Access::NoRegister,
            Some(Effect::Nothing) => {}
            Some(Effect::Eoi(vector)) => {
                if let Some(handler) = self.eoi.get() {
                    handler(vector);
                }
            }
            Some(Effect::Send(message)) => self.deliver(&message, Some(cpu)),
        }
        Access::Ok
    }

    /// Reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    pub fn msr_read(&self, cpu: u32, msr: u32) -> Result<u64, MsrError> {
        let (_, state) = self.cpu(cpu).ok_or(MsrError)?;
        let r = &state.r;
        match msr {
            registers::MSR_BASE => Ok(r.base()),
            registers::MSR_TSC_DEADLINE => Ok(r.tsc_deadline()),
            0x800..0x900 if r.x2apic() => {
                r.read_x2((msr - 0x800) as u8, self.clock.now(), &self.config).ok_or(MsrError)
            }
            _ => Err(MsrError),
        }
    }

    /// Writes IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    pub fn msr_write(&self, cpu: u32, msr: u32, value: u64) -> Result<(), MsrError> {
        let (target, mut state) = self.cpu(cpu).ok_or(MsrError)?;
        let now = self.clock.now();
        let effect = match msr {
            registers::MSR_BASE => state.r.set_base(value).then_some(Effect::Nothing),
            registers::MSR_TSC_DEADLINE => {
                state.r.set_tsc_deadline(value);
                Some(Effect::Nothing)
            }
            0x800..0x900 if state.r.x2apic() => {
                state.r.write_x2((msr - 0x800) as u8, value, now, &self.config)
            }
            _ => None,
        };
        match self.finish(cpu, target, state, effect) {
            Access::Ok => Ok(()),
            _ => Err(MsrError),
        }
    }

    /// Tells an APIC how the guest's TSC relates to the clock: TSC = ticks + `offset`.
    pub fn set_tsc_offset(&self, cpu: u32, offset: u64) {
        if let Some((target, mut state)) = self.cpu(cpu) {
            state.r.tsc_offset = offset;
            target.timer.set(state.r.deadline(&self.config));
        }
    }

    /// The task priority as CR8 shows it.
    pub fn cr8(&self, cpu: u32) -> u8 {
        self.cpu(cpu).map_or(0, |(_, state)| state.r.tpr() >> 4)
    }

    /// Sets the task priority through CR8.
    pub fn set_cr8(&self, cpu: u32, value: u8) {
        if let Some((target, mut state)) = self.cpu(cpu) {
            state.r.set_tpr(value << 4);
            Self::update(target, &state);
        }
    }

    /// The vCPU takes an interrupt. `None` if the local APIC has none: then the 8259 is asked if
    /// [`ApicBus::accepts_extint`] says so, else the interrupt has gone away.
    pub fn acknowledge(&self, cpu: u32) -> Option<u8> {
        let (target, mut state) = self.cpu(cpu)?;
        let vector = state.r.acknowledge();
        Self::update(target, &state);
        vector
    }

    /// Whether the 8259's output reaches this vCPU and is high.
    pub fn accepts_extint(&self, cpu: u32) -> bool {
        self.cpu(cpu).is_some_and(|(_, state)| state.extint && state.r.passes_extint())
    }

    /// A vCPU's APIC starts over, as that of one that comes or has gone.
    pub fn reset_cpu(&self, cpu: u32) {
        let Some((target, mut state)) = self.cpu(cpu) else { return };
        // All have the same wire from the 8259.
        *state = State { r: Registers::new(self.config.id(cpu)), extint: state.extint };
        target.timer.cancel();
        target.intr.set(false);
    }

    /// Sends a message to those it is for. The sender's state must not be locked.
    fn deliver(&self, message: &Message, sender: Option<u32>) {
        let mut best: Option<(u8, u32)> = None;
        // Most messages are for one: the others need not be asked.
        let candidates = match (message.only_for(), message.destination, sender) {
            (Some(id), ..) => self.config.cpu(id).map_or(0..0, |cpu| cpu..cpu + 1),
            (None, Destination::Itself, Some(sender)) => sender..sender + 1,
            _ => 0..self.cpus.len() as u32,
        };
        for id in candidates {
            let Some((target, mut state)) = self.cpu(id) else { continue };
            if !message.is_for(self.config.id(id), sender == Some(id), &state.r) {
                continue;
            }
            if message.delivery == Delivery::LowestPriority {
                let priority = state.r.ppr();
                if state.r.enabled() && best.is_none_or(|(p, _)| priority < p) {
                    best = Some((priority, id));
                }
                continue;
            }
            self.deliver_to(id, target, &mut state, message);
        }
        if let Some((_, id)) = best
            && let Some((target, mut state)) = self.cpu(id)
        {
            self.deliver_to(id, target, &mut state, message);
        }
    }

    fn deliver_to(&self, id: u32, target: &Cpu, state: &mut State, message: &Message) {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => state.r.request(message.vector, message.level),
            Delivery::Smi => target.smi.pulse(),
            Delivery::Nmi => target.nmi.pulse(),
            Delivery::Init => {
                state.r.init();
                target.timer.cancel();
                if let Some(sink) = self.ipi.get() {
                    sink.init(id);
                }
            }
            Delivery::Startup => {
                if let Some(sink) = self.ipi.get() {
                    sink.startup(id, message.vector);
                }
            }
            // Only the wire from the 8259 makes these here.
            Delivery::ExtInt => {}
        }
        Self::update(target, state);
    }

    /// A local interrupt by one of the LVT entries.
    fn local(&self, cpu: u32, index: u8) {
        if let Some((target, mut state)) = self.cpu(cpu)
            && let Some(message) = state.r.local_interrupt(index)
        {
            self.deliver_to(cpu, target, &mut state, &message);
        }
    }

    /// LINT1 of all vCPUs, which a PC's NMI sources drive, goes high.
    pub fn lint1(&self) {
        (0..self.cpus.len() as u32).for_each(|cpu| self.local(cpu, registers::LVT_LINT1));
    }

    fn timer(&self, id: usize) {
        let Some((target, mut state)) = self.cpu(id as u32) else { return };
        let message = state.r.timer_expired(self.clock.now(), &self.config);
        target.timer.set(state.r.deadline(&self.config));
        if let Some(message) = message {
            self.deliver_to(id as u32, target, &mut state, &message);
        }
    }
}

fn level(state: &State) -> bool {
    state.r.deliverable().is_some() || state.extint && state.r.passes_extint()
}

impl MsiSink for ApicBus {
    fn signal(&self, message: MsiMessage) {
        self.deliver(&Message::from_msi(message), None);
    }
}

impl LocalControllers for ApicBus {
    fn page(&self, cpu: u32) -> Option<u64> {
        self.cpu(cpu).and_then(|(_, state)| state.r.page())
    }

    fn read(&self, cpu: u32, offset: u64, data: &mut [u8]) -> Access {
        self.mmio_read(cpu, offset, data)
    }

    fn write(&self, cpu: u32, offset: u64, data: &[u8]) -> Access {
        self.mmio_write(cpu, offset, data)
    }

    fn read_msr(&self, cpu: u32, msr: u32) -> Option<u64> {
        self.msr_read(cpu, msr).ok()
    }

    fn write_msr(&self, cpu: u32, msr: u32, value: u64) -> bool {
        self.msr_write(cpu, msr, value).is_ok()
    }

    fn cr8(&self, cpu: u32) -> u8 {
        ApicBus::cr8(self, cpu)
    }

    fn set_cr8(&self, cpu: u32, value: u8) {
        ApicBus::set_cr8(self, cpu, value);
    }

    fn acknowledge(&self, cpu: u32) -> Taken {
        match ApicBus::acknowledge(self, cpu) {
            Some(vector) => Taken::Vector(vector),
            None if self.accepts_extint(cpu) => Taken::External,
            None => Taken::Nothing,
        }
    }

    fn connect(&self, ipi: Box<dyn IpiSink>, eoi: EoiHandler) {
        self.on_ipi(ipi);
        self.on_eoi(eoi);
    }
}

/// The device behind the bus; reached through [`Device::as_any`].
pub struct Lapics {
    bus: Arc<ApicBus>,
}

impl Lapics {
    /// The bus, for vCPUs and boards.
    pub fn bus(&self) -> Arc<ApicBus> {
        self.bus.clone()
    }
}

impl Device for Lapics {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        self.bus.mmio_read((offset / PAGE) as u32, offset % PAGE, data)
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        self.bus.mmio_write((offset / PAGE) as u32, offset % PAGE, data)
    }

    fn timer(&mut self, id: usize) {
        self.bus.timer(id);
    }

    /// The 8259's output, to LINT0 of every vCPU.
    fn line_in(&mut self, _pin: usize, level: bool) {
        for cpu in &self.bus.cpus {
            let mut state = cpu.state.lock();
            state.extint = level;
            ApicBus::update(cpu, &state);
        }
    }

    fn reset(&mut self, _kind: ResetKind) {
        for (id, cpu) in self.bus.cpus.iter().enumerate() {
            let mut state = cpu.state.lock();
            *state = State { r: Registers::new(self.bus.config.id(id as u32)), extint: false };
            cpu.timer.cancel();
            cpu.intr.set(false);
        }
    }

    fn local_controllers(&mut self) -> Option<Arc<dyn LocalControllers>> {
        Some(self.bus.clone())
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn save(&self) -> StateBlob {
        let cpus = self.bus.cpus.iter().map(|cpu| {
            let state = cpu.state.lock();
            LapicState { registers: state.r.save(), extint: state.extint, deadline: cpu.timer.deadline() }
        });
        LapicsState { cpus: cpus.collect() }.to_blob()
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s = LapicsState::from_blob(state)?;
        let (wanted, found) = (self.bus.cpus.len(), s.cpus.len());
        if wanted != found {
            return Err(StateError::new("cpus", format!("expected {wanted} cpus, found {found}")));
        }
        let restored = s.states(|cpu| self.bus.config.id(cpu))?;
        for ((cpu, saved), new) in self.bus.cpus.iter().zip(s.cpus).zip(restored) {
            let mut state = cpu.state.lock();
            *state = new;
            cpu.timer.set(saved.deadline);
            cpu.intr.import(level(&state));
        }
        Ok(())
    }
}

device::state! {
    /// Saved state of one local APIC: its registers, the level of the 8259's output, and when its timer fires.
    pub struct LapicState {
        1 => registers: registers::saved::Registers,
        2 => extint: bool,
        3 => deadline: Option<u64>,
    }
}
device::state! {
    /// Saved state of all local APICs, version 1, by vCPU.
    pub struct LapicsState { 1 => cpus: Vec<LapicState> }
}

impl LapicState {
    /// The APIC of number `id` that another implementation shows as `page`, at `now` (virtual nanoseconds). `base` is its
    /// base address MSR, `deadline` when its TSC deadline comes, 0 for never, `extint` the level of the 8259's output.
    #[must_use]
    pub fn from_page(
        id: u32,
        page: &[u32; LAPIC_WORDS],
        base: u64,
        deadline: u64,
        extint: bool,
        now: u64,
    ) -> Self {
        let config = LapicsConfig::default();
        let deadline = if deadline == 0 { 0 } else { Clock::ticks_of_ns(deadline, config.tsc_frequency) };
        let r = Registers::from_page(id, page, base, deadline, now, &config);
        LapicState { deadline: r.deadline(&config), registers: r.save(), extint }
    }

    /// The page as another implementation takes it, and when the TSC deadline comes (virtual nanoseconds), 0 for never.
    pub fn to_page(&self, id: u32, now: u64) -> Result<([u32; LAPIC_WORDS], u64), StateError> {
        let config = LapicsConfig::default();
        let r = Registers::restore(&self.registers, id)?;
        let deadline = if r.tsc_deadline() == 0 { None } else { r.deadline(&config) };
        Ok((r.to_page(now, &config), deadline.unwrap_or(0)))
    }
}

impl LapicsState {
    /// As a device saves it.
    #[must_use]
    pub fn to_blob(&self) -> StateBlob {
        StateBlob::new(LapicsConfig::KIND, 1, self)
    }

    /// From what a device has saved.
    pub fn from_blob(state: &StateBlob) -> Result<Self, StateError> {
        state.decode(LapicsConfig::KIND, 1)
    }

    /// Levels of the `intr` outputs.
    pub fn outputs(&self) -> Result<Vec<bool>, StateError> {
        // Whatever their numbers are.
        Ok(self.states(|cpu| cpu)?.iter().map(level).collect())
    }

    fn states(&self, id: impl Fn(u32) -> u32) -> Result<Vec<State>, StateError> {
        let state = |(at, cpu): (usize, &LapicState)| {
            let r = Registers::restore(&cpu.registers, id(at as u32));
            let r = r.map_err(|e| e.within(&format!("cpus/[{at}]")))?;
            Ok(State { r, extint: cpu.extint })
        };
        self.cpus.iter().enumerate().map(state).collect()
    }
}

#[cfg(test)]
mod tests;
