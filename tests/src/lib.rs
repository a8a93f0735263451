//! Whole-system tests: boots, dependency directions, command-line errors.
//!
//! The library holds what the tests and the tools of this crate share: the source tree and its crates
//! ([`workspace`]), the rules about who may depend on whom ([`rooms`]) and under which licence ([`licence`]),
//! and, on Linux, a driver for real boots ([`boot`]) with its console, QMP client and process accounting.

pub mod licence;
pub mod rooms;
pub mod tiny;
pub mod workspace;

#[cfg(target_os = "linux")]
pub mod boot;
#[cfg(target_os = "linux")]
pub mod console;
#[cfg(target_os = "linux")]
pub mod cpus;
#[cfg(target_os = "linux")]
pub mod drivers;
#[cfg(target_os = "linux")]
pub mod namespace;
#[cfg(target_os = "linux")]
pub mod netguest;
#[cfg(target_os = "linux")]
pub mod nethost;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(target_os = "linux")]
pub mod programs;
#[cfg(target_os = "linux")]
pub mod qmp;
#[cfg(target_os = "linux")]
pub mod screen;

/// Says aloud, past the test harness's capture, that something was not tested and why. `make test` counts these lines.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    // In one write, so that tests running beside this one do not break the line; a closed stderr leaves nobody to tell.
    let _ = std::io::stderr().write_all(format!("\nSKIPPED: {reason}\n").as_bytes());
}
