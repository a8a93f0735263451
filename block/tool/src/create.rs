//! `create`: a new image.

use block_formats::{Format, OpenOptions, Options, find, resolve};

use crate::Outcome;
use crate::args::{Args, Opt, o, size};
use crate::error::{ToolError, usage};
use crate::formatting;
use crate::objects;
use crate::open::{self, OBJECT, QUIET};
use crate::target::Target;
use crate::text::say;

const OPTIONS: &[Opt] = &[
    QUIET,
    OBJECT,
    o('f', "format", "FMT", "Format of the new image (default raw)"),
    o('o', "options", "OPTIONS", "Options of the format (help lists them)"),
    o('b', "backing", "FILE", "Backing file"),
    o('F', "backing-format", "FMT", "Format of the backing file"),
    o('u', "backing-unsafe", "", "Do not look at the backing file"),
];

/// The options of a format, one a line.
pub(crate) fn option_help(format: &Format) -> String {
    let line = |s: &block_formats::OptionSpec| {
        format!("  {:<22} - {}\n", format!("{}={}", s.name, s.kind.shown()), s.help)
    };
    format!(
        "Supported {} options:\n{}",
        format.name,
        format.create_options.iter().map(line).collect::<String>()
    )
}

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE [SIZE]")?;
    let format = find(args.get("format").unwrap_or("raw"))?;
    let mut options = Options::default();
    for list in args.all("options") {
        if matches!(list, "help" | "?") {
            return Err(ToolError::Help(option_help(format)));
        }
        options.add(list)?;
    }
    let (name, wanted) = match &args.operands[..] {
        [name] => (name, None),
        [name, text] => (name, Some(size("SIZE", text)?)),
        [] => return usage("create needs a FILE"),
        [_, _, more, ..] => return usage(format!("unexpected argument '{more}'")),
    };
    options.set_secrets(&open::secrets(&args)?);
    for (from, to) in [("backing", "backing_file"), ("backing-format", "backing_fmt")] {
        if let Some(value) = args.get(from) {
            options.set(to, value);
        }
    }
    if let Some(wanted) = wanted {
        options.set("size", wanted);
    }
    if options.text("backing_file").is_some() && !format.can_back() {
        return Err(ToolError::Failed(format!("format {} has no backing files", format.name)));
    }
    let total = complete(&mut options, name, args.has("backing-unsafe"))?;
    let place = Target::new(name)?;
    let how = OpenOptions { tls: objects::tls_clients(&args)?, ..OpenOptions::default() };
    place.create(format.name, total, &options, &how)?;
    if !args.has("quiet") {
        say(&format!("{}\n", formatting::line(name, format, total, &options)));
    }
    place.finish()?;
    Ok(0)
}

/// Looks at the backing file: it has to be there, gives the size if none is given, and tells its format.
fn complete(options: &mut Options, name: &str, blind: bool) -> Result<u64, ToolError> {
    let given = options.size("size")?;
    let Some(backing) = options.text("backing_file").filter(|b| !b.is_empty()).map(str::to_owned) else {
        return given.map_or_else(|| usage(format!("{name}: a SIZE is needed")), Ok);
    };
    if blind && given.is_some() {
        return given.map_or_else(|| usage("a SIZE is needed"), Ok);
    }
    if options.text("backing_fmt").is_none() {
        return Err(ToolError::Failed(format!(
            "{name}: backing file '{backing}' needs its format named (-F); guessing it is not safe"
        )));
    }
    let read = OpenOptions { read_only: true, no_io: true, ..OpenOptions::default() };
    let full = resolve(name, &backing);
    if std::fs::canonicalize(&full).is_ok_and(|f| std::fs::canonicalize(name).is_ok_and(|n| n == f)) {
        return Err(ToolError::Failed(format!("{name}: cannot be its own backing file")));
    }
    let image = block_formats::open(&full, options.text("backing_fmt"), &read)?;
    Ok(given.unwrap_or_else(|| block::BlockNode::size(&*image)))
}
