//! `commit`: what an image has goes into its backing file.

use std::sync::Arc;

use block::BlockError;
use block_formats::{Image, OpenOptions, resolve};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::copy::{Copy, Source};
use crate::error::ToolError;
use crate::open::{self, CACHE, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET};
use crate::progress::Progress;
use crate::text::say;

const OPTIONS: &[Opt] = &[
    QUIET,
    PROGRESS,
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    CACHE,
    o('b', "base", "FILE", "Commit into this image of the chain; implies --drop"),
    o('d', "drop", "", "Leave the image as it is afterwards"),
    o('r', "rate", "RATE", "Most bytes in a second"),
];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let name = args.one("FILE")?;
    let read = open::options(&args, true)?;
    // Looked at first: nothing is opened for writing before the whole chain is known.
    let top = open::image(&args, name, &read)?;
    let base_name = args.get("base");
    let mut names = Vec::new();
    let mut image: Arc<dyn Image> = top.clone();
    let depth = loop {
        let Some(backing) = image.backing_name() else {
            let what = match base_name {
                Some(base) => format!("{name}: '{base}' is not in its chain of backing files"),
                None => format!("{name}: the image has no backing file"),
            };
            return Err(ToolError::Failed(what));
        };
        let full = resolve(image.filename(), &backing.file);
        let found = base_name.is_none_or(|b| b == full || b == backing.file);
        names.push((full, backing.format));
        let Some(next) = image.backing() else {
            return Err(ToolError::Failed(format!("{name}: its backing file is not open")));
        };
        image = next;
        if found {
            break names.len();
        }
    };
    let (base, format) = names[depth - 1].clone();
    drop(image);
    drop(top);
    let write = OpenOptions { cache: open::cache(args.get("cache"))?, ..OpenOptions::default() };
    let keep = args.has("drop") || base_name.is_some();
    // The chain from the top down to above the base, without the base, which is opened for writing.
    let upper = open_above(&args, name, depth)?;
    let base_options = open::below(&args, name, depth, write.clone())?;
    let target = open::cached(block_formats::open(&base, format.as_deref(), &base_options)?, &base_options);
    let progress = Progress::new(args.has("progress") && !args.has("quiet"), upper[0].size() * depth as u64)
        .limited(args.size("rate")?);
    merge(&upper, &*target, &progress)?;
    target.close()?;
    drop(target);
    drop(upper);
    if !keep {
        // What the image had is stable in the base by now.
        let options = open::below(&args, name, 0, write)?;
        empty(&*open::image(&args, name, &options)?)?;
    }
    progress.finish();
    if !args.has("quiet") {
        say("Image committed.\n");
    }
    Ok(0)
}

/// Writes what images have, the topmost first, into the one they stand on. What is read through any of them stays the same.
pub(crate) fn merge(
    upper: &[Arc<dyn Image>],
    target: &dyn Image,
    progress: &Progress,
) -> Result<(), BlockError> {
    let size = upper[0].size();
    if target.size() < size {
        target.resize(size)?;
    }
    // From the lowest up: what a higher image has overwrites.
    for image in upper.iter().rev() {
        let source = Source::new(vec![image.clone()], 0, false).limited(size);
        Copy {
            source: &source,
            target,
            at: 0,
            threads: 1,
            compress: false,
            unordered: false,
            target_is_zero: false,
            sparse: 0,
            progress,
        }
        .run()?;
    }
    target.flush()
}

/// Gives up what an image has, which is in the one it stands on, for good.
pub(crate) fn empty(image: &dyn Image) -> Result<(), BlockError> {
    match image.make_empty() {
        Err(BlockError::Unsupported(_)) => {}
        other => other?,
    }
    image.close()
}

/// Opens the upper images of a chain, each for itself.
fn open_above(args: &Args, name: &str, depth: usize) -> Result<Vec<Arc<dyn Image>>, ToolError> {
    let read = OpenOptions { no_backing: true, ..open::options(args, true)? };
    let mut all: Vec<Arc<dyn Image>> = vec![open::image(args, name, &read)?];
    while all.len() < depth {
        let next =
            all.last().and_then(|i| i.backing_name().map(|b| (resolve(i.filename(), &b.file), b.format)));
        let Some((file, format)) = next else { break };
        let options = open::below(args, name, all.len(), read.clone())?;
        all.push(block_formats::open(&file, format.as_deref(), &options)?);
    }
    Ok(all)
}
