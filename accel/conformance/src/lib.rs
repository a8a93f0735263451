//! Tiny guests that every accelerator must run alike.
//!
//! A [`Case`] builds a machine out of memory, a recording device and a partition of the accelerator under
//! test, runs a guest of some instructions in it, checks what happened and returns a [`Transcript`]. Two
//! accelerators agree when their transcripts for the same case and guest are equal.
//!
//! The guests are assembled here, by two small assemblers of our own; no tool and no file is needed.
//! A case that hangs is ended by a watchdog and fails.

pub mod riscv;
pub mod x86;

mod cases;
mod machine;

use accel::arch::GuestArch;
use accel::{Accelerator, CpuModel, IrqchipMode};

pub use machine::{Event, Transcript};

/// What the cases run on.
#[derive(Clone)]
pub struct Setup<'a> {
    /// The accelerator under test.
    pub accel: &'a dyn Accelerator,
    /// Guest architecture.
    pub guest: GuestArch,
    /// Where the interrupt controllers are.
    pub irqchip: IrqchipMode,
    /// CPU model; the default is the accelerator's.
    pub cpu: CpuModel,
    /// Properties of the accelerator (`-accel NAME,key=value`).
    pub properties: Vec<(String, String)>,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should; with what was seen.
    Passed(Transcript),
    /// It does not apply, or the accelerator lacks the ability; with the reason.
    Skipped(&'static str),
    /// It did not; with what was wrong.
    Failed(String),
}

/// One thing that every accelerator must do.
#[derive(Clone, Copy)]
pub struct Case {
    /// Name, for reports and filters.
    pub name: &'static str,
    run: fn(&Setup<'_>) -> Result<Outcome, Failure>,
}

impl Case {
    /// Runs the case.
    #[must_use]
    pub fn run(&self, setup: &Setup<'_>) -> Outcome {
        (self.run)(setup).unwrap_or_else(|Failure(why)| Outcome::Failed(why))
    }
}

/// All cases.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::ALL
}

/// Runs all cases and prints one line for each. Returns the names of those that failed.
pub fn run_all(setup: &Setup<'_>) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for case in cases() {
        let line = match case.run(setup) {
            Outcome::Passed(t) => format!("ok ({} events)", t.0.len()),
            Outcome::Skipped(why) => format!("SKIPPED: {why}"),
            Outcome::Failed(why) => {
                failed.push(case.name);
                format!("FAILED: {why}")
            }
        };
        println!("{} {} {:?} {}: {line}", setup.accel.name(), setup.guest, setup.irqchip, case.name);
    }
    failed
}

/// Why a case failed.
#[derive(Debug)]
pub struct Failure(String);

impl<T: std::fmt::Display> From<T> for Failure {
    fn from(e: T) -> Self {
        Self(e.to_string())
    }
}

/// Compares what was seen with what should have been.
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, wanted: &T) -> Result<(), Failure> {
    if seen == wanted { Ok(()) } else { Err(Failure(format!("{what}: saw {seen:x?}, expected {wanted:x?}"))) }
}
