//! Refuses a dependency whose licence does not fit Rhea's; `make check` runs it.

use std::process::ExitCode;

use rhea_tests::{licence, workspace};

fn main() -> ExitCode {
    let graph = match workspace::graph() {
        Ok(graph) => graph,
        Err(error) => {
            eprintln!("licences: {error}");
            return ExitCode::FAILURE;
        }
    };
    let breaches = licence::check(&graph);
    for breach in &breaches {
        eprintln!("licences: {breach}");
    }
    if breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
