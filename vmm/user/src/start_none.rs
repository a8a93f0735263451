//! Hosts that cannot run Linux programs.

use crate::Guest;

const NONE: &str = "user mode needs a Linux host with an x86-64 processor";

/// Says why not.
pub fn run(name: &str, _: &[String], _: Option<&str>, _: &[Guest]) -> u8 {
    eprintln!("{name}: {NONE}");
    1
}

/// Never so.
pub fn started_by_kernel(_: &[String], _: &[Guest]) -> Option<u8> {
    None
}

/// Says why not.
pub fn binfmt(_: &[String], _: &[Guest]) -> u8 {
    eprintln!("rhea: {NONE}");
    1
}
