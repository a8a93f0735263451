//! The balloon of a machine, if it has one.

use control::vm::VmError;
use machine::Machine;

#[cfg(unix)]
fn with<R>(machine: &Machine, f: impl FnOnce(&mut virtio::Balloon) -> R) -> Option<R> {
    let kinds = ["virtio-balloon-device", "virtio-balloon-pci"];
    let devices = machine.devices();
    let cell = devices.iter().find(|(_, c)| kinds.contains(&c.kind()))?;
    cell.1.with(|d| d.as_any()?.downcast_mut::<virtio::Balloon>().map(f))
}

#[cfg(not(unix))]
fn with<R>(_: &Machine, _: impl FnOnce(&mut Never) -> R) -> Option<R> {
    None
}

#[cfg(not(unix))]
struct Never;

#[cfg(not(unix))]
impl Never {
    fn inflated(&self) -> u64 {
        0
    }

    fn set_target(&mut self, _: u64) {}
}

fn none() -> VmError {
    VmError::DeviceNotActive("No balloon device has been activated".into())
}

/// Bytes of RAM that it leaves to the guest.
pub(crate) fn actual(machine: &Machine, ram: u64) -> Result<u64, VmError> {
    with(machine, |b| ram.saturating_sub(b.inflated())).ok_or_else(none)
}

/// Asks the guest to live with `bytes` of its RAM.
pub(crate) fn set(machine: &Machine, ram: u64, bytes: u64) -> Result<(), VmError> {
    if bytes == 0 {
        return Err(VmError::Failed("Parameter 'value' expects a size".into()));
    }
    with(machine, |b| b.set_target(ram.saturating_sub(bytes))).ok_or_else(none)
}
