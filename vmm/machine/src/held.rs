//! Devices that the accelerator plays, in saved machines.
//!
//! A board is the same machine wherever its interrupt controllers live, and so is its saved form: the accelerator's
//! controllers are saved as the devices that stand for them elsewhere. Who knows both, which is the board, translates.

use accel::arch::CpuState;
use device::{StateBlob, StateError};

/// A device's state under the device's name in the graph.
pub type NamedState = (String, StateBlob);

/// Translates between an accelerator's controllers and the saved devices that they play.
pub trait HeldState: Send + Sync {
    /// States of the devices that the accelerator plays, from `chips` (its own form, see
    /// [`KernelIrqchip::save`](accel::KernelIrqchip::save)) and `cpus`, from which the controllers in it are taken out:
    /// these then are as a vCPU's whose controllers are devices. `now` is the machine's clock in nanoseconds.
    fn export(&self, now: u64, chips: &[u8], cpus: &mut [CpuState]) -> Result<Vec<NamedState>, StateError>;

    /// The way back: the accelerator's own form, with what belongs to vCPUs put into `cpus`.
    fn import(&self, now: u64, devices: &[NamedState], cpus: &mut [CpuState]) -> Result<Vec<u8>, StateError>;
}
