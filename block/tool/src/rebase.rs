//! `rebase`: another backing file, with the same contents of the disk, or (`-u`) just another name.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::BlockError;
use block_formats::{BackingName, Image, OpenOptions, resolve};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::{ToolError, usage};
use crate::open::{self, CACHE, FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, SHARE};
use crate::progress::Progress;

const OPTIONS: &[Opt] = &[
    QUIET,
    PROGRESS,
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    CACHE,
    o('T', "backing-cache", "CACHE", "Cache mode of the new backing file"),
    SHARE,
    o('b', "backing", "FILE", "The new backing file, or \"\" for none"),
    o('F', "backing-format", "FMT", "Format of that"),
    o('u', "backing-unsafe", "", "Change the name only"),
    o('c', "compress", "", "Compress what is copied into the image"),
];

/// Bytes compared at a time, if clusters are smaller.
const CHUNK: u64 = 1 << 20;

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let name = args.one("FILE")?;
    let unsafely = args.has("backing-unsafe");
    if !unsafely && !args.has("backing") {
        return usage("rebase needs a backing file (--backing, \"\" for none) or --backing-unsafe");
    }
    let new_name = args.get("backing").filter(|b| !b.is_empty());
    let mut options = open::options(&args, false)?;
    options.no_backing = unsafely;
    let source_cache = open::cache(args.get("backing-cache"))?;
    let image = open::image(&args, name, &options)?;
    let new = new_name
        .map(|file| BackingName { file: file.into(), format: args.get("backing-format").map(str::to_owned) });
    if unsafely {
        image.set_backing(new.as_ref())?;
        image.close()?;
        return Ok(0);
    }
    if args.has("compress") && !block_formats::find(image.format())?.compresses {
        return usage(format!("format {} cannot store compressed data", image.format()));
    }
    let below: Option<Arc<dyn Image>> = match &new {
        Some(b) => {
            let read = OpenOptions {
                read_only: true,
                cache: source_cache,
                secrets: open::secrets(&args)?,
                ..OpenOptions::default()
            };
            let full = resolve(name, &b.file);
            if std::fs::canonicalize(&full).is_ok_and(|f| std::fs::canonicalize(name).is_ok_and(|n| n == f)) {
                return Err(ToolError::Failed(format!("{name}: cannot be its own backing file")));
            }
            Some(block_formats::open(&full, b.format.as_deref(), &read)?)
        }
        None => None,
    };
    let progress = Progress::new(args.has("progress") && !args.has("quiet"), image.size());
    rebase(&*image, below.as_deref(), new.as_ref(), args.has("compress"), &progress)?;
    image.close()?;
    progress.finish();
    Ok(0)
}

/// Puts an image on another one, or none, `name`d so. What is read through it stays the same.
pub(crate) fn rebase(
    image: &dyn Image,
    below: Option<&dyn Image>,
    name: Option<&BackingName>,
    compress: bool,
    progress: &Progress,
) -> Result<(), BlockError> {
    let cluster = image.details().cluster_size.unwrap_or(512);
    let size = image.size();
    let step = CHUNK.max(cluster);
    let (mut old, mut other) = (vec![0; step as usize], vec![0; step as usize]);
    let mut at = 0;
    while at < size {
        let end = (at + step).min(size);
        for extent in image.status(at..end)?.into_iter().filter(|e| !e.allocated) {
            // Whole clusters, as they are what can differ.
            let mut from = extent.range.start;
            while from < extent.range.end {
                let to = ((from / cluster + 1) * cluster).min(extent.range.end);
                let n = (to - from) as usize;
                image.read(from, &mut [IoSliceMut::new(&mut old[..n])])?;
                other[..n].fill(0);
                if let Some(below) = below {
                    let there = below.size().saturating_sub(from).min(n as u64) as usize;
                    if there != 0 {
                        below.read(from, &mut [IoSliceMut::new(&mut other[..there])])?;
                    }
                }
                if old[..n] != other[..n] {
                    if block_formats::is_zero(&old[..n]) {
                        image.write_zeroes(from, n as u64, true)?;
                    } else if compress && from % cluster == 0 && (n as u64 == cluster || to == size) {
                        image.write_compressed(from, &old[..n])?;
                    } else {
                        image.write(from, &[IoSlice::new(&old[..n])], false)?;
                    }
                }
                from = to;
            }
        }
        progress.add(end - at);
        at = end;
    }
    // The data is stable before the name that makes it necessary.
    image.flush()?;
    image.set_backing(name)
}
