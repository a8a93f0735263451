//! The image tool: `qemu-img`'s commands, `qemu-io`'s and `qemu-nbd`'s, with their options and output.
//!
//! A command is a row of [`COMMANDS`]. It prints to standard output, and an error is one line on standard error that
//! names the program and the thing. What is being made has its name only once it is whole.

mod args;
mod bench;
mod bitmap;
mod change;
mod check;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod dd;
mod error;
mod formatting;
mod info;
mod io;
mod luks;
mod map;
mod measure;
mod nbd;
mod objects;
mod open;
mod progress;
mod rebase;
#[cfg(test)]
mod safety;
mod snapshot;
mod target;
mod text;
mod tree;

use std::process::ExitCode;

pub use error::ToolError;
pub use snapshot::snapshot_table;

use text::{say, warn};

/// What a command ends with.
type Outcome = Result<u8, ToolError>;

/// A command of the tool.
struct Command {
    name: &'static str,
    help: &'static str,
    run: fn(&[String]) -> Outcome,
    /// Exit code for errors; other codes have meanings in some commands.
    failure: u8,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "amend",
        help: "Update format-specific options of the image",
        run: change::amend,
        failure: 1,
    },
    Command { name: "bench", help: "Run simple image benchmark", run: bench::run, failure: 1 },
    Command {
        name: "bitmap",
        help: "Perform modifications of the persistent bitmap in the image",
        run: bitmap::run,
        failure: 1,
    },
    Command { name: "check", help: "Check basic image integrity", run: check::run, failure: 1 },
    Command { name: "commit", help: "Commit image to its backing file", run: commit::run, failure: 1 },
    Command {
        name: "compare",
        help: "Check if two images have the same contents",
        run: compare::run,
        failure: 2,
    },
    Command {
        name: "convert",
        help: "Copy one image to another with optional format conversion",
        run: convert::run,
        failure: 1,
    },
    Command { name: "create", help: "Create and format new image file", run: create::run, failure: 1 },
    Command {
        name: "dd",
        help: "Copy input to output with optional format conversion",
        run: dd::run,
        failure: 1,
    },
    Command { name: "info", help: "Display information about image", run: info::run, failure: 1 },
    Command { name: "luks", help: "Key slots of an encrypted image", run: luks::run, failure: 1 },
    Command { name: "map", help: "Dump image metadata", run: map::run, failure: 1 },
    Command {
        name: "measure",
        help: "Calculate file size required for a new image",
        run: measure::run,
        failure: 1,
    },
    Command { name: "rebase", help: "Change backing file of the image", run: rebase::run, failure: 1 },
    Command { name: "resize", help: "Resize the image to the new size", run: change::resize, failure: 1 },
    Command {
        name: "snapshot",
        help: "List or manipulate snapshots within image",
        run: snapshot::run,
        failure: 1,
    },
];

fn usage(program: &str) {
    say(&format!("usage: {program} COMMAND [OPTIONS]\n\ncommands:\n"));
    for c in COMMANDS {
        say(&format!("  {:9} {}\n", c.name, c.help));
    }
    let names: Vec<_> = block_formats::formats().iter().map(|f| f.name).collect();
    say(&format!("\nformats: {}\n\nOptions are those of qemu-img.\n", names.join(" ")));
}

/// Runs a command of the image tool; `program` is the name it was called by.
pub fn img(program: &str, args: &[String]) -> ExitCode {
    let Some((name, rest)) = args.split_first() else {
        warn(program, "a command is missing (see --help)");
        return ExitCode::FAILURE;
    };
    if matches!(name.as_str(), "-h" | "--help" | "help") {
        usage(program);
        return ExitCode::SUCCESS;
    }
    if matches!(name.as_str(), "-V" | "--version") {
        say(&format!("{program} (Rhea) {}\n", env!("CARGO_PKG_VERSION")));
        return ExitCode::SUCCESS;
    }
    let Some(command) = COMMANDS.iter().find(|c| c.name == name) else {
        let names: Vec<_> = COMMANDS.iter().map(|c| c.name).collect();
        warn(program, &format!("unknown command '{name}'; there are: {}", names.join(", ")));
        return ExitCode::FAILURE;
    };
    match (command.run)(rest) {
        Ok(code) => ExitCode::from(code),
        Err(ToolError::Help(text)) => {
            // What an option's `help` asks for stands alone.
            let heading = format!("{program} {name} - {}\n\n", command.help);
            say(&if text.starts_with(args::HELP) { heading + &text } else { text });
            ExitCode::SUCCESS
        }
        Err(e) => {
            warn(program, &e.to_string());
            ExitCode::from(match e {
                ToolError::Code(code, _) => code,
                ToolError::Usage(_) => 1,
                _ => command.failure,
            })
        }
    }
}

/// Runs commands on an image as `qemu-io` does.
pub fn qemu_io(program: &str, args: &[String]) -> ExitCode {
    end(program, io::run(program, args))
}

/// Gives an image to others as `qemu-nbd` does.
pub fn qemu_nbd(program: &str, args: &[String]) -> ExitCode {
    end(program, nbd::run(program, args))
}

fn end(program: &str, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(ToolError::Help(text)) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(ToolError::Silent) => ExitCode::FAILURE,
        Err(e) => {
            warn(program, &e.to_string());
            ExitCode::FAILURE
        }
    }
}
