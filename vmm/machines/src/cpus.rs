//! Processors that come and go while the machine runs.
//!
//! All that there can ever be are made with the machine; those that are not there stand, and their local APICs hear nothing of
//! start-up messages. The board's controller tells the guest; what the guest lets go of is taken from it here.

use accel::VcpuSignal;
use accel::arch::{CpuState, GuestArch};
use chipset::CpuHotplug;
pub use chipset::OspmStatus;
use device::CpuPresence;
use intc::Lapics;
use machine::{Machine, MachineError};

use crate::x86_held::APIC;

/// Name of the controller.
pub(crate) const CONTROLLER: &str = "cpu-hotplug";
/// Number of processors that firmware waits for, less one, in CMOS.
const CMOS_CPUS: u8 = 0x5f;

/// Why processors cannot come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody could tell the guest.
    NoController,
    /// Firmware has code in system management mode that would not know of them.
    Firmware,
    /// The guest has not begun to use the controller.
    NotUsed,
}

/// What plugging does to a machine.
pub struct Cpus<'a> {
    machine: &'a Machine,
    present: &'a CpuPresence,
}

fn with<T: 'static, R>(machine: &Machine, name: &str, f: impl FnOnce(&mut T) -> R) -> Option<R> {
    let devices = machine.devices();
    let (_, cell) = devices.iter().find(|(n, _)| n == name)?;
    cell.with(|device| device.as_any()?.downcast_mut().map(f))
}

/// Interrupts all processors where a PC's non-maskable interrupts enter; false on machines that have no such thing.
pub fn inject_nmi(machine: &Machine, present: &CpuPresence) -> bool {
    if machine.arch() != GuestArch::X86_64 {
        return false;
    }
    let ours = with(machine, APIC, |apics: &mut Lapics| apics.bus());
    match ours {
        Some(bus) => bus.lint1(),
        // Local APICs in the accelerator: it knows what LINT1 is set to.
        None => {
            let lines = machine.partition().lines();
            let there = (0..machine.vcpu_count()).filter(|cpu| present.has(*cpu));
            there.for_each(|cpu| lines.signal(cpu, VcpuSignal::Nmi));
        }
    }
    true
}

fn tsc_of(state: &CpuState) -> u64 {
    if let CpuState::X86_64(s) = state { s.tsc } else { 0 }
}

impl<'a> Cpus<'a> {
    /// The processors of a machine.
    #[must_use]
    pub fn new(machine: &'a Machine, present: &'a CpuPresence) -> Self {
        Self { machine, present }
    }

    fn controller<R>(&self, f: impl FnOnce(&mut CpuHotplug) -> R) -> Option<R> {
        with(self.machine, CONTROLLER, f)
    }

    /// Refuses where a processor cannot come.
    pub fn check(&self) -> Result<(), Refusal> {
        match self.controller(|c| c.is_for_firmware()) {
            None => Err(Refusal::NoController),
            Some(true) => Err(Refusal::Firmware),
            Some(false) => Ok(()),
        }
    }

    /// A processor comes, which was not there.
    pub fn plug(&self, cpu: u32) -> Result<(), MachineError> {
        // Time stands meanwhile, so that its time stamp counter goes on from where the others' are.
        let ran = self.machine.stop();
        let renewed = self.machine.cpu_state(0).and_then(|first| self.renew(cpu, tsc_of(&first)));
        if renewed.is_ok() {
            self.present.set(cpu, true);
        }
        if ran {
            self.machine.start();
        }
        renewed?;
        self.tell_firmware();
        // Of a machine that runs.
        self.machine.cpus_have_come();
        let _ = self.controller(|c| c.plugged(cpu));
        Ok(())
    }

    /// Asks the guest to let go of a processor.
    pub fn ask(&self, cpu: u32) -> Result<(), Refusal> {
        self.check()?;
        match self.controller(|c| c.ask(cpu)) {
            Some(true) => Ok(()),
            _ => Err(Refusal::NotUsed),
        }
    }

    /// The processors that the guest has let go of; they stand now.
    pub fn finish(&self) -> Result<Vec<u32>, MachineError> {
        let gone = self.controller(CpuHotplug::take_ejected).unwrap_or_default();
        // One that has come again meanwhile is a new one.
        let gone: Vec<u32> = gone.into_iter().filter(|cpu| !self.present.has(*cpu)).collect();
        for cpu in &gone {
            self.renew(*cpu, 0)?;
        }
        if !gone.is_empty() {
            self.tell_firmware();
        }
        Ok(gone)
    }

    /// What the guest has said since this was asked.
    #[must_use]
    pub fn take_told(&self) -> Vec<OspmStatus> {
        self.controller(CpuHotplug::take_told).unwrap_or_default()
    }

    /// What the guest has said of all processors, if there is a controller.
    #[must_use]
    pub fn statuses(&self) -> Option<Vec<OspmStatus>> {
        self.controller(|c| c.statuses())
    }

    /// A processor that is not there starts over, and its local APIC.
    fn renew(&self, cpu: u32, tsc: u64) -> Result<(), MachineError> {
        let _ = with(self.machine, APIC, |apics: &mut Lapics| apics.bus().reset_cpu(cpu));
        self.machine.reset_cpu(cpu, |state| {
            if let CpuState::X86_64(s) = state {
                s.tsc = tsc;
            }
        })
    }

    fn tell_firmware(&self) {
        let count = self.present.count().saturating_sub(1);
        let _ = with(self.machine, "rtc", |rtc: &mut timer::Mc146818| {
            rtc.set_cmos(CMOS_CPUS, count.min(255) as u8);
        });
    }
}
