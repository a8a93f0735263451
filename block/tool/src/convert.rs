//! `convert`: one disk, or several one after the other, into a new image.

use block_formats::{BitmapChange, Options, find};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::copy::{Copy, Source, default_threads};
use crate::error::{ToolError, usage};
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, SHARE, SRC_CACHE};
use crate::progress::Progress;
use crate::target::Target;

const OPTIONS: &[Opt] = &[
    QUIET,
    PROGRESS,
    FORMAT,
    IMAGE_OPTS,
    SHARE,
    OBJECT,
    SRC_CACHE,
    o(' ', "source-format", "FMT", "The same as --format"),
    o(' ', "source-image-opts", "", "The same as --image-opts"),
    o('l', "source-snapshot", "SNAPSHOT", "Read a snapshot inside the image"),
    o('O', "target-format", "FMT", "Format of the new image (default raw)"),
    o('o', "target-options", "OPTIONS", "Options of the new image's format"),
    o('c', "compress", "", "Compress the data"),
    o('t', "target-cache", "CACHE", "Cache mode of the new image"),
    o('B', "backing", "FILE", "Backing file of the new image, which is left out of the copy"),
    o('F', "backing-format", "FMT", "Format of that"),
    o('n', "no-create", "", "The target is there already"),
    o(' ', "target-is-zero", "", "The target that is there reads as zero"),
    o(' ', "target-image-opts", "", "The target's name is a list driver=...,file.filename=..."),
    o(
        'S',
        "sparse-size",
        "SIZE",
        "Zeroes of so many bytes in a row are not stored (default 4k, 0 for never)",
    ),
    o(' ', "bitmaps", "", "Copy dirty bitmaps too"),
    o(' ', "skip-broken-bitmaps", "", "Leave out bitmaps that were not saved properly"),
    o('r', "rate", "RATE", "Most bytes in a second"),
    o('m', "parallel", "N", "Threads that work at a time (1 to 16)"),
    o('C', "copy-range-offloading", "", "Accepted; the host is asked for nothing special"),
    o(' ', "salvage", "", "Take what cannot be read as zero"),
    o('W', "oob-writes", "", "Write in any order"),
];

/// Refuses options that do not go together.
fn contradictions(args: &Args) -> Result<(), ToolError> {
    for (name, needs) in [
        ("target-is-zero", "no-create"),
        ("target-image-opts", "no-create"),
        ("skip-broken-bitmaps", "bitmaps"),
    ] {
        if args.has(name) && !args.has(needs) {
            return usage(format!("--{name} needs --{needs}"));
        }
    }
    for name in ["compress", "sparse-size"] {
        if args.has("copy-range-offloading") && args.has(name) {
            return usage(format!("--copy-range-offloading does not go with --{name}"));
        }
    }
    Ok(())
}

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "SOURCE... TARGET")?;
    let Some((target_name, sources)) = args.operands.split_last().filter(|(_, s)| !s.is_empty()) else {
        return usage("convert needs a SOURCE and a TARGET");
    };
    let format = find(args.get("target-format").unwrap_or("raw"))?;
    let compress = args.has("compress");
    contradictions(&args)?;
    if args.has("bitmaps") && format.name != "qcow2" {
        return Err(ToolError::Failed(format!("format {} keeps no bitmaps", format.name)));
    }
    if compress && !format.compresses {
        return Err(ToolError::Failed(format!("format {} cannot store compressed data", format.name)));
    }
    let mut options = open::options(&args, true)?;
    options.cache = open::cache(args.get("source-cache"))?;
    let mut target_cache = open::cache(Some(args.get("target-cache").unwrap_or("unsafe")))?;
    let src_format = args.get("source-format").or(args.get("format"));
    let keys = args.has("image-opts") || args.has("source-image-opts");
    let context = crate::tree::Context::of(&args)?;
    let mut images = Vec::new();
    for name in sources {
        images.push(open::open(name, src_format, keys, &options, &context)?);
    }
    let mut target_options = Options::default();
    for list in args.all("target-options") {
        if matches!(list, "help" | "?") {
            return Err(ToolError::Help(crate::create::option_help(format)));
        }
        target_options.add(list)?;
    }
    target_options.set_secrets(&options.secrets);
    if let Some(backing) = args.get("backing") {
        target_options.set("backing_file", backing);
    }
    if let Some(f) = args.get("backing-format") {
        target_options.set("backing_fmt", f);
    }
    let backing = target_options.text("backing_file").filter(|b| !b.is_empty()).map(str::to_owned);
    if backing.is_some() && (sources.len() > 1 || args.has("no-create")) {
        return usage("a backing file needs one source and a target that is made");
    }
    if let (Some(_), Some(backing), None) =
        (args.get("backing"), &backing, target_options.text("backing_fmt"))
    {
        return usage(format!(
            "backing file '{backing}' needs its format named (-F); guessing it is not safe"
        ));
    }
    let salvage = args.has("salvage");
    let bitmaps_of = images[0].clone();
    let source = match args.get("source-snapshot") {
        Some(_) if images.len() > 1 => return usage("--source-snapshot needs one source"),
        Some(name) => {
            let id =
                name.strip_prefix("snapshot.id=").or(name.strip_prefix("snapshot.name=")).unwrap_or(name);
            let view = images[0].open_snapshot(id)?;
            Source::snapshot(images.remove(0), view)
        }
        None => Source::new(images, if backing.is_some() { 0 } else { u32::MAX }, salvage),
    };
    let threads = match args.number("parallel")? {
        None => default_threads(),
        Some(n) if (1..=16).contains(&n) => n as usize,
        Some(n) => return usage(format!("--parallel {n}: expected 1 to 16")),
    };
    let sparse = args.size("sparse-size")?.unwrap_or(4096);
    if sparse % 512 != 0 {
        return usage(format!("--sparse-size {sparse}: expected a multiple of 512"));
    }
    let progress =
        Progress::new(args.has("progress") && !args.has("quiet"), source.size).limited(args.size("rate")?);
    let wanted = target_options.size("size")?;
    if wanted.is_some_and(|w| w < source.size) {
        return usage(format!(
            "size={}: expected at least the source's {}",
            wanted.unwrap_or(0),
            source.size
        ));
    }
    let place = if args.has("no-create") { None } else { Some(Target::new(target_name)?) };
    if let Some(place) = &place {
        let how = block_formats::OpenOptions { tls: options.tls.clone(), ..Default::default() };
        place.create(format.name, wanted.unwrap_or(source.size), &target_options, &how)?;
    }
    if place.is_some() {
        // What is not whole has no name; it is made stable before it gets one.
        (target_cache.no_flush, target_cache.write_through) = (true, false);
    }
    let write = block_formats::OpenOptions {
        cache: target_cache,
        tls: options.tls.clone(),
        secrets: options.secrets.clone(),
        keys: open::key_secrets(&target_options),
        ..block_formats::OpenOptions::default()
    };
    let target = match &place {
        Some(place) => block_formats::open(&place.open_name(), Some(format.name), &write)?,
        None => {
            let (format, keys) = (args.get("target-format"), args.has("target-image-opts"));
            open::open(target_name, format, keys, &write, &context)?
        }
    };
    let compress = compress || target.details().compressed_only;
    if target.size() < source.size {
        return Err(ToolError::Failed(format!(
            "{target_name}: {} bytes, less than the source's {}",
            target.size(),
            source.size
        )));
    }
    let fresh = place.as_ref().is_some_and(Target::is_new) && backing.is_none();
    let zero = fresh && target.starts_zero() || args.has("target-is-zero");
    Copy {
        source: &source,
        target: &*target,
        at: 0,
        threads,
        compress,
        unordered: args.has("oob-writes"),
        target_is_zero: zero,
        sparse,
        progress: &progress,
    }
    .run()?;
    if args.has("bitmaps") {
        for b in bitmaps_of.bitmaps()? {
            if b.inconsistent {
                if args.has("skip-broken-bitmaps") {
                    continue;
                }
                return Err(ToolError::Failed(format!(
                    "bitmap '{}' was not saved properly; --skip-broken-bitmaps leaves it out",
                    b.name
                )));
            }
            let ranges = bitmaps_of.bitmap_ranges(&b.name)?;
            target.change_bitmap(
                &b.name,
                &BitmapChange::Add { granularity: Some(b.granularity), disabled: true },
            )?;
            target.change_bitmap(&b.name, &BitmapChange::Merge(ranges))?;
            if b.enabled {
                target.change_bitmap(&b.name, &BitmapChange::Enable)?;
            }
        }
    }
    target.close()?;
    drop(target);
    if let Some(place) = place {
        if let Some(data) = target_options.text("data_file") {
            std::fs::File::open(data)
                .and_then(|f| f.sync_all())
                .map_err(|e| crate::target::no_file(data, e))?;
        }
        place.finish()?;
    }
    progress.finish();
    Ok(0)
}
