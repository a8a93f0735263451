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
    vec![Box::new(accel_kvm::Kvm)]
}

#[cfg(not(target_os = "linux"))]
fn hardware() -> Vec<Box<dyn Accelerator>> {
    Vec::new()
}

/// Names users may give, besides `auto`.
pub(crate) const NAMES: &[&str] = &["kvm", "tcg"];
