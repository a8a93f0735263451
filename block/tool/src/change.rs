//! `resize` and `amend`: changing an image as a whole.

use block_formats::{Options, Preallocation};

use crate::Outcome;
use crate::args::{Args, Opt, o, size};
use crate::error::{ToolError, usage};
use crate::open::{self, CACHE, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET};
use crate::text::say;

const RESIZE: &[Opt] = &[
    QUIET,
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    o(' ', "shrink", "", "Allow a smaller size"),
    o(' ', "preallocation", "MODE", "Take space for what is new: off, metadata, falloc or full"),
];

const AMEND: &[Opt] = &[
    QUIET,
    PROGRESS,
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    CACHE,
    o('o', "options", "OPTIONS", "What to change (help lists it)"),
    o(' ', "force", "", "Change even what loses data"),
];

/// Runs `resize`.
pub(crate) fn resize(args: &[String]) -> Outcome {
    // A size such as -1G is an operand, not options.
    let (mut words, mut by) = (args.to_vec(), None);
    if words
        .last()
        .is_some_and(|w| w.starts_with(['+', '-']) && w[1..].starts_with(|c: char| c.is_ascii_digit()))
    {
        by = words.pop();
    }
    let args = Args::parse(&words, RESIZE, "FILE [+-]SIZE")?;
    let (name, by) = match (&args.operands[..], by) {
        ([name], Some(by)) => (name, by),
        ([name, by], None) => (name, by.clone()),
        _ => return usage("resize needs FILE and SIZE"),
    };
    let how = match args.get("preallocation") {
        None => Preallocation::Off,
        Some(text) => match Preallocation::NAMES.iter().find(|(n, _)| *n == text) {
            Some((_, how)) => *how,
            None => return usage(format!("--preallocation {text}: expected off, metadata, falloc or full")),
        },
    };
    let image = open::image(&args, name, &open::options(&args, false)?)?;
    let old = image.size();
    let new = match by.split_at(1) {
        ("+", n) => old.checked_add(size("SIZE", n)?),
        ("-", n) => old.checked_sub(size("SIZE", n)?),
        _ => Some(size("SIZE", &by)?),
    };
    let Some(new) = new.and_then(|n| n.checked_next_multiple_of(512)) else {
        return usage(format!("SIZE {by}: the disk has {old} bytes"));
    };
    if new < old && !args.has("shrink") {
        return Err(ToolError::Failed(format!(
            "{name}: {new} is smaller than the disk's {old} bytes; --shrink deletes all data beyond"
        )));
    }
    image.resize_with(new, how)?;
    image.close()?;
    if !args.has("quiet") {
        say("Image resized.\n");
    }
    Ok(0)
}

/// Runs `amend`.
pub(crate) fn amend(args: &[String]) -> Outcome {
    let args = Args::parse(args, AMEND, "FILE")?;
    let mut options = Options::default();
    for list in args.all("options") {
        if matches!(list, "help" | "?") {
            let format = block_formats::find(args.get("format").unwrap_or("qcow2"))?;
            let line = |s: &block_formats::OptionSpec| {
                format!("  {:<22} - {}\n", format!("{}={}", s.name, s.kind.shown()), s.help)
            };
            let all: String = format.amend_options.iter().map(line).collect();
            return Err(ToolError::Help(format!("Amend options for '{}':\n{all}", format.name)));
        }
        options.add(list)?;
    }
    if options.is_empty() {
        return usage("amend needs options (-o)");
    }
    options.set_secrets(&open::secrets(&args)?);
    options.force = args.has("force");
    let image = open::image(&args, args.one("FILE")?, &open::options(&args, false)?)?;
    image.amend(&options)?;
    image.close()?;
    if args.has("progress") {
        say("    (100.00/100%)\n");
    }
    Ok(0)
}
