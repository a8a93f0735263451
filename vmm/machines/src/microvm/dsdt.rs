//! The DSDT: the old devices and the virtio transports (ACPI Specification 6.5, chapters 6 and 20).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};

use super::{KEYBOARD, PM_BASE, PM_SIZE, RTC, SERIAL, VIRTIO_STEP};

/// What the table names.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices {
    pub(super) serials: usize,
    pub(super) rtc: bool,
    /// Base address and interrupt of each transport.
    pub(super) virtio: Vec<(u64, usize)>,
}

/// A device of the identity `id` with its number and resources.
fn device(name: &str, id: &dyn Aml, number: usize, resources: Vec<&dyn Aml>) -> Vec<u8> {
    let (hid, uid) = (Name::new("_HID".into(), id), Name::new("_UID".into(), &(number as u8)));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let mut out = Vec::new();
    Device::new(Path::new(name), vec![&hid, &uid, &crs]).to_aml_bytes(&mut out);
    out
}

fn ports(base: u16, count: u8) -> IO {
    IO::new(base, base, 1, count)
}

/// An interrupt line, shared by none: `level` or by its edge, active high.
fn irq(n: usize, level: bool) -> Interrupt {
    Interrupt::new(true, !level, false, false, n as u32)
}

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The AML behind the table's header.
pub(super) fn build(d: &Devices) -> Vec<u8> {
    let mut all = device("MBRD", &EISAName::new("PNP0C02"), 0, vec![&ports(PM_BASE, PM_SIZE)]);
    for (i, (port, n)) in SERIAL.iter().enumerate().take(d.serials) {
        let id = EISAName::new("PNP0501");
        all.extend(device(&format!("COM{}", i + 1), &id, i + 1, vec![&ports(*port, 8), &irq(*n, false)]));
    }
    if d.rtc {
        all.extend(device("RTC_", &EISAName::new("PNP0B00"), 0, vec![&ports(RTC.0, 2), &irq(RTC.1, false)]));
    }
    let (data, command) = (ports(KEYBOARD.0, 1), ports(KEYBOARD.1, 1));
    let keyboard = EISAName::new("PNP0303");
    all.extend(device("KBD_", &keyboard, 0, vec![&data, &command, &irq(KEYBOARD.2, false)]));
    for (i, (base, n)) in d.virtio.iter().enumerate() {
        let window = Memory32Fixed::new(true, *base as u32, VIRTIO_STEP as u32);
        all.extend(device(&format!("VR{i:02X}"), &"LNRO0005", i, vec![&window, &irq(*n, true)]));
    }
    let mut out = Vec::new();
    Scope::new("_SB_".into(), vec![&Raw(all)]).to_aml_bytes(&mut out);
    Name::new("_S5_".into(), &Package::new(vec![&0u8, &0u8, &0u8, &0u8])).to_aml_bytes(&mut out);
    out
}
