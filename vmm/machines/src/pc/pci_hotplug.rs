//! AML of the root bus's slots: each can be emptied, and the guest is told of what has come and what is asked back.
//!
//! QEMU `docs/specs/acpi_pci_hotplug`; ACPI Specification 6.5, 5.6.4 (general-purpose events), 6.3.3 (`_EJ0`).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, And, Arg, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    Method, MethodCall, Mutex, Name, Notify, ONE, OpRegion, OpRegionSpace, Path, Release, Scope, ShiftLeft,
    Store, ZERO,
};

use super::PCI_HOTPLUG;

/// What a slot is notified of: look again; let go.
const CHECK: u8 = 1;
const LET_GO: u8 = 3;
/// Size of the controller's registers.
const SIZE: u16 = 0x14;

fn name(slot: u8) -> String {
    format!("S{:02X}_", slot << 3)
}

fn slots_of(mask: u32) -> impl Iterator<Item = u8> {
    (0..32u8).filter(move |slot| mask >> slot & 1 != 0)
}

/// What belongs into the bus's scope.
pub(super) fn slots(mask: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if mask == 0 {
        return out;
    }
    let region = OpRegion::new("PCST".into(), OpRegionSpace::SystemIO, &PCI_HOTPLUG, &SIZE);
    let word = |name: &[u8; 4]| FieldEntry::Named(*name, 32);
    let fields = vec![word(b"PCIU"), word(b"PCID"), word(b"B0EJ"), word(b"RMVB"), word(b"BNUM")];
    let field = Field::new(
        "PCST".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        fields,
    );
    region.to_aml_bytes(&mut out);
    field.to_aml_bytes(&mut out);
    Mutex::new("BLCK".into(), 0).to_aml_bytes(&mut out);
    // Lets go of slot Arg0.
    let (lock, unlock) = (Acquire::new("BLCK".into(), 0xffff), Release::new("BLCK".into()));
    let (bus, eject, up, down) = (Path::new("BNUM"), Path::new("B0EJ"), Path::new("PCIU"), Path::new("PCID"));
    let bit = ShiftLeft::new(&ZERO, &ONE, &Arg(0));
    let (select, let_go) = (Store::new(&bus, &ZERO), Store::new(&eject, &bit));
    Method::new("PCEJ".into(), 1, false, vec![&lock, &select, &let_go, &unlock]).to_aml_bytes(&mut out);
    for slot in slots_of(mask) {
        let (number, address) = (Name::new("_SUN".into(), &slot), u32::from(slot) << 16);
        let address = Name::new("_ADR".into(), &address);
        let call = MethodCall::new("PCEJ".into(), vec![&slot]);
        let eject = Method::new("_EJ0".into(), 1, false, vec![&call]);
        Device::new(Path::new(&name(slot)), vec![&number, &address, &eject]).to_aml_bytes(&mut out);
    }
    // Notifies the slots in mask Arg0 of Arg1.
    let bits: Vec<u32> = slots_of(mask).map(|slot| 1 << slot).collect();
    let names: Vec<Path> = slots_of(mask).map(|slot| Path::new(&name(slot))).collect();
    let tests: Vec<And<'_>> = bits.iter().map(|bit| And::new(&ZERO, &Arg(0), bit)).collect();
    let tells: Vec<Notify<'_>> = names.iter().map(|name| Notify::new(name, &Arg(1))).collect();
    let all: Vec<If<'_>> = tests.iter().zip(&tells).map(|(test, tell)| If::new(test, vec![tell])).collect();
    let parts = all.iter().map(|part| part as &dyn Aml).collect();
    Method::new("DVNT".into(), 2, false, parts).to_aml_bytes(&mut out);
    let come = MethodCall::new("DVNT".into(), vec![&up, &CHECK]);
    let asked = MethodCall::new("DVNT".into(), vec![&down, &LET_GO]);
    Method::new("PCNT".into(), 0, false, vec![&lock, &select, &come, &asked, &unlock]).to_aml_bytes(&mut out);
    out
}

/// The general-purpose event.
pub(super) fn events(mask: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if mask != 0 {
        let look = MethodCall::new("\\_SB_.PCI0.PCNT".into(), vec![]);
        let event = Method::new("_E01".into(), 0, false, vec![&look]);
        Scope::new("\\_GPE".into(), vec![&event]).to_aml_bytes(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_the_chipset_are_none() {
        assert!(slots(0).is_empty() && events(0).is_empty());
        let all = slots(!7);
        let has = |text: &[u8]| all.windows(text.len()).any(|w| w == text);
        assert!(has(b"S18_") && has(b"SF8_") && has(b"PCNT") && !has(b"S10_") && !has(b"S08_"));
    }
}
