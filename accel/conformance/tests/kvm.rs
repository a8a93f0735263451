//! The cases on KVM, with the interrupt controllers in each of the places where they can be, and with each CPU
//! model.

use accel::arch::GuestArch;
use accel::{Accelerator, CpuModel, IrqchipMode};
use accel_conformance::{Outcome, Setup, cases, run_all};
use accel_kvm::Kvm;

/// What to run on, or nothing, with a line that says why.
fn setup(accel: &Kvm, irqchip: IrqchipMode) -> Option<Setup<'_>> {
    let Some(&guest) = accel.guests().first() else {
        println!("SKIPPED: no KVM on this host");
        return None;
    };
    if let Err(e) = accel.probe(guest) {
        println!("SKIPPED: no /dev/kvm: {e}");
        return None;
    }
    if guest != GuestArch::X86_64 {
        println!("SKIPPED: the cases have no {guest} guests");
        return None;
    }
    Some(Setup { accel, guest, irqchip, cpu: CpuModel::default(), properties: Vec::new() })
}

fn run(irqchip: IrqchipMode) {
    if let Some(setup) = setup(&Kvm::new(), irqchip) {
        let failed = run_all(&setup);
        assert!(failed.is_empty(), "failed: {failed:?}");
    }
}

#[test]
fn controllers_in_kvm() {
    run(IrqchipMode::Kernel);
}

#[test]
fn local_controllers_in_kvm() {
    run(IrqchipMode::Split);
}

#[test]
fn controllers_in_rhea() {
    run(IrqchipMode::User);
}

#[test]
fn every_cpu_model_runs_and_is_saved() {
    let accel = Kvm::new();
    let Some(mut setup) = setup(&accel, IrqchipMode::Kernel) else { return };
    for (name, _) in accel.cpu_models(setup.guest) {
        setup.cpu = CpuModel { name, features: vec![("x2apic".to_owned(), "off".to_owned())] };
        for case in cases().iter().filter(|c| matches!(c.name, "mmio" | "state round trip")) {
            let outcome = case.run(&setup);
            assert!(matches!(outcome, Outcome::Passed(_)), "{} {}: {outcome:?}", setup.cpu.name, case.name);
        }
    }
}

/// With dirty rings instead of bitmaps, and with unknown model-specific registers ignored.
#[test]
fn properties_change_what_they_say() {
    let accel = Kvm::new();
    let Some(mut setup) = setup(&accel, IrqchipMode::Kernel) else { return };
    let mut run = |key: &str, value: &str, names: &[&str]| {
        setup.properties = vec![(key.to_owned(), value.to_owned())];
        for case in cases().iter().filter(|c| names.contains(&c.name)) {
            match case.run(&setup) {
                Outcome::Failed(e) if e.contains("the host's KVM has no dirty rings") => {
                    println!("SKIPPED: {e}");
                }
                outcome => {
                    assert!(
                        matches!(outcome, Outcome::Passed(_)),
                        "{key}={value} {}: {outcome:?}",
                        case.name
                    );
                }
            }
        }
    };
    run("ignore-msrs", "on", &["unknown register", "mmio"]);
    run("dirty-ring-size", "1024", &["dirty log", "remove memory", "replace memory", "mmio"]);
    for (key, value) in [("dirty-ring-size", "1000"), ("dirty-ring-size", "x"), ("ignore-msrs", "perhaps")] {
        setup.properties = vec![(key.to_owned(), value.to_owned())];
        let outcome = cases()[0].run(&setup);
        let Outcome::Failed(text) = &outcome else { panic!("{key}={value}: {outcome:?}") };
        assert!(
            text.contains(&format!("property '{key}': '{value}'")) || text.contains("no dirty rings"),
            "{text}"
        );
    }
}
