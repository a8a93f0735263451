//! Every kind of device, for `-device help` and `-device KIND,help`.

use device::DeviceKind;
use pci::PciKind;

/// All device kinds, sorted by name.
pub(crate) fn all() -> Vec<DeviceKind> {
    let families: [&[DeviceKind]; 10] = [
        serial::KINDS,
        storage::KINDS,
        timer::KINDS,
        display::KINDS,
        flash::KINDS,
        input::KINDS,
        intc::KINDS,
        misc::KINDS,
        nic::KINDS,
        virtio(),
    ];
    let mut all: Vec<DeviceKind> = families.concat();
    all.extend(pci_functions().iter().map(|k| k.device));
    all.sort_by_key(|k| k.kind);
    all
}

/// All kinds of PCI function.
pub(crate) fn pci_functions() -> Vec<PciKind> {
    let families: [&[PciKind]; 6] =
        [pci::KINDS, misc::PCI_KINDS, nic::PCI_KINDS, storage::PCI_KINDS, display::PCI_KINDS, virtio_pci()];
    families.concat()
}

#[cfg(unix)]
fn virtio_pci() -> &'static [PciKind] {
    virtio::PCI_KINDS
}

#[cfg(not(unix))]
fn virtio_pci() -> &'static [PciKind] {
    &[]
}

#[cfg(unix)]
fn virtio() -> &'static [DeviceKind] {
    virtio::KINDS
}

#[cfg(not(unix))]
fn virtio() -> &'static [DeviceKind] {
    &[]
}
