//! Every kind of device, for `-device help` and `-device KIND,help`.

use device::DeviceKind;

/// All device kinds, sorted by name.
pub(crate) fn all() -> Vec<DeviceKind> {
    let families: [&[DeviceKind]; 7] =
        [serial::KINDS, timer::KINDS, display::KINDS, input::KINDS, intc::KINDS, misc::KINDS, virtio()];
    let mut all: Vec<DeviceKind> = families.concat();
    all.sort_by_key(|k| k.kind);
    all
}

#[cfg(unix)]
fn virtio() -> &'static [DeviceKind] {
    virtio::KINDS
}

#[cfg(not(unix))]
fn virtio() -> &'static [DeviceKind] {
    &[]
}
