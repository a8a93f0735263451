//! Every accelerator. The order is that of preference when the user leaves the choice to Rhea.

use accel::Accelerator;

/// All accelerators of this build.
pub(crate) fn all() -> Vec<Box<dyn Accelerator>> {
    let mut all = hardware();
    all.extend(crate::guests::translators());
    all
}

#[cfg(target_os = "linux")]
fn hardware() -> Vec<Box<dyn Accelerator>> {
    // Where KVM has to emulate what it does not know, the translator takes over.
    let x86 = accel::arch::GuestArch::X86_64;
    let translator = crate::guests::translators().into_iter().find(|t| t.guests().contains(&x86));
    let kvm: Box<dyn Accelerator> = Box::new(accel_kvm::Kvm::new());
    vec![match translator {
        Some(translator) => Box::new(accel_takeover::Takeover::new(kvm, translator)),
        None => kvm,
    }]
}

#[cfg(not(target_os = "linux"))]
fn hardware() -> Vec<Box<dyn Accelerator>> {
    Vec::new()
}

/// Names users may give, besides `auto`.
pub(crate) const NAMES: &[&str] = &["kvm", "tcg"];

/// The one that has plugins.
pub(crate) const WITH_PLUGINS: &str = "tcg";

/// Those that have x86's system management mode.
pub(crate) const WITH_SMM: &[&str] = &["tcg"];
