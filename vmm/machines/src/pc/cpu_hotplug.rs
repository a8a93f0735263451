//! AML of the processors: which are there, what has come and is asked back, and what the guest says of it.
//!
//! QEMU `docs/specs/acpi_cpu_hotplug`; ACPI Specification 6.5, 8.4 (processors are devices), 6.2.10 (`_MAT`), 6.3.5 (`_OST`).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, Arg, BufferData, Device, EISAName, Else, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, Local, Method, MethodCall, Mutex, Name, Notify, ONE, OpRegion,
    OpRegionSpace, Path, Release, ResourceTemplate, Return, Scope, Store, While, ZERO,
};

use super::acpi::local_apic;

/// What a processor is notified of: look again; let go.
const CHECK: u8 = 1;
const LET_GO: u8 = 3;
/// Size of the registers.
const SIZE: u8 = 12;
/// A device that is there, works, is to be shown and decodes its resources.
const THERE: u8 = 0xf;
/// Commands of the controller (see `chipset`'s): select the next processor with something to be told; take what the guest was
/// told, and what has become of it.
const NEXT: u8 = 0;
const OST_EVENT: u8 = 1;
const OST_STATUS: u8 = 2;

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn aml(part: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    part.to_aml_bytes(&mut out);
    out
}

/// The registers, which belong into the first bus's scope as their ports are its.
pub(super) fn registers(port: u16) -> Vec<u8> {
    let (hid, uid) = (Name::new("_HID".into(), &EISAName::new("PNP0A06")), "processor hot plug");
    let uid = Name::new("_UID".into(), &uid);
    let ports = IO::new(port, port, 1, SIZE);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports]));
    let lock = Mutex::new("CPLK".into(), 0);
    let region = OpRegion::new("PRST".into(), OpRegionSpace::SystemIO, &port, &SIZE);
    let field =
        |access, update, entries| Field::new("PRST".into(), access, FieldLockRule::NoLock, update, entries);
    let bit = |name: &[u8; 4]| FieldEntry::Named(*name, 1);
    let flags = vec![
        FieldEntry::Reserved(32),
        bit(b"CPEN"),
        bit(b"CINS"),
        bit(b"CRMV"),
        bit(b"CEJ0"),
        bit(b"CEJF"),
        FieldEntry::Reserved(3),
        FieldEntry::Named(*b"CCMD", 8),
    ];
    let flags = field(FieldAccessType::Byte, FieldUpdateRule::WriteAsZeroes, flags);
    let words =
        vec![FieldEntry::Named(*b"CSEL", 32), FieldEntry::Reserved(32), FieldEntry::Named(*b"CDAT", 32)];
    let words = field(FieldAccessType::DWord, FieldUpdateRule::Preserve, words);
    // From the old map to registers.
    let select = Path::new("CSEL");
    let zero = Store::new(&select, &ZERO);
    let init = Method::new("_INI".into(), 0, true, vec![&zero]);
    aml(&Device::new("PRES".into(), vec![&hid, &uid, &crs, &lock, &region, &flags, &words, &init]))
}

fn register(name: &str) -> Path {
    Path::new(&format!("\\_SB_.PCI0.PRES.{name}"))
}

fn name(cpu: usize) -> String {
    format!("C{cpu:03X}")
}

/// One processor.
fn processor(cpu: usize, id: u32) -> Vec<u8> {
    let (hid, uid) = (Name::new("_HID".into(), &"ACPI0007"), Name::new("_UID".into(), &cpu));
    let state = MethodCall::new("CSTA".into(), vec![&cpu]);
    let state = Return::new(&state);
    let state = Method::new("_STA".into(), 0, true, vec![&state]);
    let entry = BufferData::new(local_apic(cpu as u32, id, true));
    let entry = Name::new("_MAT".into(), &entry);
    let call = MethodCall::new("CEJ0".into(), vec![&cpu]);
    let eject = Method::new("_EJ0".into(), 1, false, vec![&call]);
    let call = MethodCall::new("COST".into(), vec![&cpu, &Arg(0), &Arg(1), &Arg(2)]);
    let told = Method::new("_OST".into(), 3, true, vec![&call]);
    let mut parts: Vec<&dyn Aml> = vec![&hid, &uid, &state, &entry, &told];
    // The first one stays.
    if cpu != 0 {
        parts.push(&eject);
    }
    aml(&Device::new(Path::new(&name(cpu)), parts))
}

/// The processors, with what their methods share.
pub(super) fn processors(ids: &[u32]) -> Vec<u8> {
    let hid = Name::new("_HID".into(), &"ACPI0010");
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A05"));
    let (lock, unlock) = (Acquire::new(register("CPLK"), 0xffff), Release::new(register("CPLK")));
    let [select, flag, come, asked, eject, command, data] =
        ["CSEL", "CPEN", "CINS", "CRMV", "CEJ0", "CCMD", "CDAT"].map(register);
    let chosen = Store::new(&select, &Arg(0));
    // Notifies processor Arg0 of Arg1.
    let names: Vec<Path> = (0..ids.len()).map(|cpu| Path::new(&name(cpu))).collect();
    let numbers: Vec<usize> = (0..ids.len()).collect();
    let tests: Vec<Equal<'_>> = numbers.iter().map(|cpu| Equal::new(&Arg(0), cpu)).collect();
    let tells: Vec<Notify<'_>> = names.iter().map(|name| Notify::new(name, &Arg(1))).collect();
    let all: Vec<If<'_>> = tests.iter().zip(&tells).map(|(test, tell)| If::new(test, vec![tell])).collect();
    let notify = Method::new("CTFY".into(), 2, false, all.iter().map(|part| part as &dyn Aml).collect());
    // Whether processor Arg0 is there.
    let (no, yes) = (Store::new(&Local(0), &ZERO), Store::new(&Local(0), &THERE));
    let there = Equal::new(&flag, &ONE);
    let there = If::new(&there, vec![&yes]);
    let answer = Return::new(&Local(0));
    let state = vec![&lock as &dyn Aml, &chosen, &no, &there, &unlock, &answer];
    let state = Method::new("CSTA".into(), 1, true, state);
    // Lets go of it.
    let go = Store::new(&eject, &ONE);
    let let_go = Method::new("CEJ0".into(), 1, true, vec![&lock, &chosen, &go, &unlock]);
    // Tells the controller what has become of event Arg1 of processor Arg0: Arg2.
    let steps = [
        Store::new(&command, &OST_EVENT),
        Store::new(&data, &Arg(1)),
        Store::new(&command, &OST_STATUS),
        Store::new(&data, &Arg(2)),
    ];
    let told = vec![&lock as &dyn Aml, &chosen, &steps[0], &steps[1], &steps[2], &steps[3], &unlock];
    let told = Method::new("COST".into(), 4, true, told);
    // Looks for what has come and what is asked back, until there is no more. The flag in Local0 says whether there was any.
    let (start, more, end) =
        (Store::new(&select, &ZERO), Store::new(&Local(0), &ONE), Store::new(&Local(0), &ZERO));
    let next = Store::new(&command, &NEXT);
    let (clear_come, clear_asked) = (Store::new(&come, &ONE), Store::new(&asked, &ONE));
    let look = MethodCall::new("CTFY".into(), vec![&data, &CHECK]);
    let back = MethodCall::new("CTFY".into(), vec![&data, &LET_GO]);
    let has_come = Equal::new(&come, &ONE);
    let has_come = If::new(&has_come, vec![&look, &clear_come, &more]);
    let is_asked = Equal::new(&asked, &ONE);
    let is_asked = If::new(&is_asked, vec![&back, &clear_asked, &more]);
    let otherwise = Else::new(vec![&is_asked]);
    let again = Equal::new(&Local(0), &ONE);
    let turn = While::new(&again, vec![&end, &next, &has_come, &otherwise]);
    let scan = Method::new("CSCN".into(), 0, true, vec![&lock, &start, &more, &turn, &unlock]);
    let each = Raw(ids.iter().enumerate().flat_map(|(cpu, id)| processor(cpu, *id)).collect());
    aml(&Device::new("CPUS".into(), vec![&hid, &cid, &notify, &state, &let_go, &told, &scan, &each]))
}

/// The general-purpose event.
pub(super) fn events() -> Vec<u8> {
    let look = MethodCall::new("\\_SB_.CPUS.CSCN".into(), vec![]);
    let event = Method::new("_E02".into(), 0, false, vec![&look]);
    aml(&Scope::new("\\_GPE".into(), vec![&event]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_stays() {
        let has = |data: &[u8], text: &[u8]| data.windows(text.len()).any(|w| w == text);
        assert!(!has(&processor(0, 0), b"_EJ0") && has(&processor(1, 4), b"_EJ0"));
        assert!(has(&processor(1, 4), &[0, 8, 1, 4, 1, 0, 0, 0]));
        assert!(
            has(&processors(&[0, 4]), b"C001") && has(&registers(0xaf00), b"CSEL") && has(&events(), b"_E02")
        );
    }
}
