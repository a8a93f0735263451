//! `bitmap`: dirty bitmaps kept in an image.

use block_formats::BitmapChange;

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::usage;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT};

const OPTIONS: &[Opt] = &[
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    o(' ', "add", "", "Make it"),
    o(' ', "remove", "", "Delete it"),
    o(' ', "clear", "", "Clear all its bits"),
    o(' ', "enable", "", "Make it record writes"),
    o(' ', "disable", "", "Stop it from recording"),
    o(' ', "merge", "SOURCE", "Add the bits of another bitmap"),
    o('g', "granularity", "SIZE", "Bytes a bit of a new bitmap stands for"),
    o('b', "source-file", "FILE", "Image that the bitmap to merge is in"),
    o('F', "source-format", "FMT", "Format of that"),
];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE BITMAP")?;
    let [file, name] = &args.operands[..] else { return usage("bitmap needs FILE and BITMAP") };
    let granularity = args.size("granularity")?;
    let actions: Vec<(&str, String)> = args
        .iter()
        .filter(|(n, _)| matches!(*n, "add" | "remove" | "clear" | "enable" | "disable" | "merge"))
        .map(|(n, v)| (n, v.to_owned()))
        .collect();
    if actions.is_empty() {
        return usage("one or more of --add, --remove, --clear, --enable, --disable and --merge are needed");
    }
    if granularity.is_some() && !args.has("add") {
        return usage("--granularity needs --add");
    }
    if args.has("source-file") && !args.has("merge") {
        return usage("--source-file needs --merge");
    }
    let mut options = open::options(&args, false)?;
    options.no_backing = true;
    let image = open::image(&args, file, &options)?;
    let read = block_formats::OpenOptions { read_only: true, no_backing: true, ..Default::default() };
    let source = match args.get("source-file") {
        Some(name) => Some(block_formats::open(name, args.get("source-format"), &read)?),
        None => None,
    };
    for (action, value) in actions {
        let change = match action {
            "add" => BitmapChange::Add { granularity, disabled: false },
            "remove" => BitmapChange::Remove,
            "clear" => BitmapChange::Clear,
            "enable" => BitmapChange::Enable,
            "disable" => BitmapChange::Disable,
            _ => BitmapChange::Merge(source.as_ref().unwrap_or(&image).bitmap_ranges(&value)?),
        };
        image.change_bitmap(name, &change)?;
    }
    image.close()?;
    Ok(0)
}
