//! The cases on the translator, through generated code and through the interpreter, which must see the same.

use accel::arch::GuestArch;
use accel::{Accelerator, CpuModel, IrqchipMode};
use accel_conformance::{Outcome, Setup, cases, run_all};
use tcg_engine::Tcg;
use tcg_guest_riscv::Riscv;
use tcg_guest_x86::X86;

fn setup<'a>(accel: &'a dyn Accelerator, guest: GuestArch, backend: &str) -> Setup<'a> {
    let properties = vec![("backend".to_owned(), backend.to_owned())];
    Setup { accel, guest, irqchip: IrqchipMode::User, cpu: CpuModel::default(), properties }
}

fn accelerator(guest: GuestArch) -> Box<dyn Accelerator> {
    match guest {
        GuestArch::X86_64 => Box::new(Tcg::<X86>::new()),
        _ => Box::new(Tcg::<Riscv>::new()),
    }
}

fn run(guest: GuestArch, backend: &str) {
    let accel = accelerator(guest);
    let failed = run_all(&setup(&*accel, guest, backend));
    assert!(failed.is_empty(), "failed: {failed:?}");
}

#[test]
fn riscv64_generated_code() {
    run(GuestArch::Riscv64, "jit");
}

#[test]
fn riscv64_interpreter() {
    run(GuestArch::Riscv64, "interp");
}

#[test]
fn riscv32_generated_code() {
    run(GuestArch::Riscv32, "jit");
}

#[test]
fn riscv32_interpreter() {
    run(GuestArch::Riscv32, "interp");
}

#[test]
fn x86_64_generated_code() {
    run(GuestArch::X86_64, "jit");
}

#[test]
fn x86_64_interpreter() {
    run(GuestArch::X86_64, "interp");
}

#[test]
fn both_back_ends_see_the_same() {
    for guest in [GuestArch::Riscv64, GuestArch::Riscv32, GuestArch::X86_64] {
        let accel = accelerator(guest);
        for case in cases() {
            let [a, b] = ["jit", "interp"].map(|backend| case.run(&setup(&*accel, guest, backend)));
            // How often a waiting guest looks is not determined.
            if matches!(a, Outcome::Passed(_)) && matches!(b, Outcome::Passed(_)) {
                assert_eq!(a, b, "{guest} {}", case.name);
            }
        }
    }
}
