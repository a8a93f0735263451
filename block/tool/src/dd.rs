//! `dd`: a part of an image into a new one.

use block_formats::{Options, find};

use crate::Outcome;
use crate::args::{Args, Opt, o, size};
use crate::copy::{Copy, Source};
use crate::error::usage;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, SHARE};
use crate::progress::Progress;
use crate::target::Target;

const OPTIONS: &[Opt] = &[
    FORMAT,
    IMAGE_OPTS,
    SHARE,
    OBJECT,
    o('O', "output-format", "FMT", "Format of the output (default raw)"),
];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "[bs=SIZE] [count=N] [skip=N] if=INPUT of=OUTPUT")?;
    let (mut bs, mut count, mut skip, mut input, mut output) = (512, None, 0, None, None);
    for word in &args.operands {
        match word.split_once('=') {
            Some(("bs", v)) => bs = size("bs", v)?,
            Some(("count", v)) => count = Some(size("count", v)?),
            Some(("skip", v)) => skip = size("skip", v)?,
            Some(("if", v)) => input = Some(v.to_owned()),
            Some(("of", v)) => output = Some(v.to_owned()),
            _ => return usage(format!("'{word}': expected bs=, count=, skip=, if= or of=")),
        }
    }
    let (Some(input), Some(output)) = (input, output) else {
        return usage("dd needs if=INPUT and of=OUTPUT");
    };
    if bs == 0 || bs > i32::MAX as u64 {
        return usage(format!("bs={bs}: expected 1 to {}", i32::MAX));
    }
    let format = find(args.get("output-format").unwrap_or("raw"))?;
    let image = open::image(&args, &input, &open::options(&args, true)?)?;
    let total = image.size();
    let start = skip.saturating_mul(bs).min(total);
    let end = count.map_or(total, |c| start.saturating_add(c.saturating_mul(bs))).min(total);
    let place = Target::new(&output)?;
    let write = block_formats::OpenOptions {
        cache: open::cache(Some("unsafe"))?,
        tls: crate::objects::tls_clients(&args)?,
        ..Default::default()
    };
    place.create(format.name, end - start, &Options::default(), &write)?;
    let target = block_formats::open(&place.open_name(), Some(format.name), &write)?;
    let progress = Progress::new(false, 1);
    let source = Source::new(vec![image], u32::MAX, false).limited(end).from(start);
    Copy {
        source: &source,
        target: &*target,
        at: 0,
        threads: 1,
        compress: false,
        unordered: false,
        target_is_zero: place.is_new() && target.starts_zero(),
        sparse: 4096,
        progress: &progress,
    }
    .run()?;
    target.close()?;
    drop(target);
    place.finish()?;
    Ok(0)
}
