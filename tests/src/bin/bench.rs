//! Measures Rhea beside QEMU and prints tables for `docs/benchmarks.md`.
//!
//! Usage: `bench [-n ROUNDS] [boot boot4 start cold idle programs net kvm ...]`, all of them by default.
//!
//! What is measured is CPU time (user and system) of the whole process, which other load on the host disturbs
//! least. Rounds are interleaved: each runs Rhea, then QEMU, with the same guest files and options. A figure is
//! the median of the rounds; a ratio is the median of the rounds' own ratios, with the least and the greatest.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[path = "../bench/mod.rs"]
mod bench;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    bench::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("bench: reads /proc and needs a Linux host");
    ExitCode::FAILURE
}
