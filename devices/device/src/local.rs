//! Interrupt controllers of which every vCPU has one of its own, which it reaches past the buses: x86's local APICs
//! (Intel SDM volume 3A, chapter 13).
//!
//! One device holds all of them and offers this interface by [`crate::Device::local_controllers`]; the machine gives
//! each vCPU its part. Calls come from any thread, without the device's lock.

use guest_memory::Access;

use crate::line::MsiSink;

/// Start-up messages to a vCPU, which are not interrupts. Must only take note: called with controllers locked.
pub trait IpiSink: Send + Sync {
    /// INIT: the vCPU resets and waits for a start-up message.
    fn init(&self, cpu: u32);
    /// Start-up: a waiting vCPU begins in real mode at `vector << 12`.
    fn startup(&self, cpu: u32, vector: u8);
}

/// Who hears of the end of a level-triggered interrupt, by its vector.
pub type EoiHandler = Box<dyn Fn(u8) + Send + Sync>;

/// What a vCPU gets that takes an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An interrupt of its own controller, which is in service now.
    Vector(u8),
    /// The controller passes that of the machine's other controller on: that one is asked for the vector.
    External,
    /// Nothing: it has gone away.
    Nothing,
}

/// The local controllers of all vCPUs. Message-signalled interrupts end in them.
pub trait LocalControllers: MsiSink {
    /// Guest physical address of the 4 KiB page at which a vCPU sees its controller, if it shows one.
    fn page(&self, cpu: u32) -> Option<u64>;
    /// Reads that page.
    fn read(&self, cpu: u32, offset: u64, data: &mut [u8]) -> Access;
    /// Writes that page.
    fn write(&self, cpu: u32, offset: u64, data: &[u8]) -> Access;
    /// Reads a model-specific register of the controller; `None` raises a fault.
    fn read_msr(&self, cpu: u32, msr: u32) -> Option<u64>;
    /// Writes one; false raises a fault.
    #[must_use]
    fn write_msr(&self, cpu: u32, msr: u32, value: u64) -> bool;
    /// The task priority as CR8 shows it.
    fn cr8(&self, cpu: u32) -> u8;
    /// Sets the task priority.
    fn set_cr8(&self, cpu: u32, value: u8);
    /// The vCPU takes an interrupt.
    fn acknowledge(&self, cpu: u32) -> Taken;
    /// Connects the controllers to the vCPUs and to those who hear of ends of interrupts. Called once.
    fn connect(&self, ipi: Box<dyn IpiSink>, eoi: EoiHandler);
}
