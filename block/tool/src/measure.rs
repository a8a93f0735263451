//! `measure`: how large an image would get.

use std::sync::Arc;

use block_formats::{Image, Options, find};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::usage;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use crate::text::{json, say};
use block_formats::chain::{self, STEP};

const OPTIONS: &[Opt] = &[
    FORMAT,
    IMAGE_OPTS,
    SHARE,
    OUTPUT,
    OBJECT,
    o('O', "target-format", "FMT", "Format of the new image (default raw)"),
    o('o', "options", "OPTIONS", "Options of the new image's format"),
    o('s', "size", "SIZE", "Size of an empty disk, instead of FILE"),
    o('l', "snapshot", "SNAPSHOT", "A snapshot inside the image"),
];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "(--size SIZE | FILE)")?;
    let as_json = args.json()?;
    let format = find(args.get("target-format").unwrap_or("raw"))?;
    let mut options = Options::default();
    for list in args.all("options") {
        options.add(list)?;
    }
    let (size, image): (u64, Option<Arc<dyn Image>>) = match (args.size("size")?, args.operands.first()) {
        (Some(_), Some(_)) => return usage("--size and FILE do not go together"),
        (Some(size), None) => (size, None),
        (None, _) => {
            let image = open::image(&args, args.one("--size or FILE")?, &open::options(&args, true)?)?;
            (image.size(), Some(image))
        }
    };
    let view = match (&image, args.get("snapshot")) {
        (Some(image), Some(name)) => Some(image.open_snapshot(name)?),
        _ => None,
    };
    let size = view.as_ref().map_or(size, |v| v.size());
    let data = |unit: u64| {
        let mut bytes = 0;
        // The first byte not counted yet: units that two ranges touch count once.
        let mut counted = 0;
        let mut at = 0;
        while at < size {
            let next = (at + STEP).min(size);
            let ranges = match (&view, &image) {
                (Some(view), _) => {
                    view.status(at..next)?.into_iter().filter(|e| !e.zero).map(|e| e.range).collect()
                }
                (None, Some(image)) => chain::data_ranges(image, at..next)?,
                (None, None) => Vec::new(),
            };
            for r in ranges {
                let start = (r.start / unit * unit).max(counted);
                let end = r.end.next_multiple_of(unit);
                bytes += end.saturating_sub(start);
                counted = counted.max(end);
            }
            at = next;
        }
        Ok(bytes)
    };
    let m = format.measure(&options, size, &data)?;
    let mut bitmaps = 0;
    if let Some(image) = &image {
        let cluster = options.size("cluster_size")?.unwrap_or(65536);
        // Bits and a table of their clusters for each, and a directory of all.
        let mut directory = 0u64;
        for b in image.bitmaps()? {
            let clusters = size.div_ceil(b.granularity).div_ceil(8).div_ceil(cluster);
            bitmaps += (clusters + (8 * clusters).div_ceil(cluster)) * cluster;
            directory += (24 + b.name.len() as u64).next_multiple_of(8);
        }
        bitmaps += directory.next_multiple_of(cluster);
    }
    let shows = format.name == "qcow2" && image.as_ref().is_some_and(|i| i.format() == "qcow2");
    if as_json {
        let mut value = serde_json::json!({ "required": m.required, "fully-allocated": m.fully_allocated });
        if let (true, Some(map)) = (shows, value.as_object_mut()) {
            map.insert("bitmaps".into(), bitmaps.into());
        }
        say(&json(&value));
    } else {
        say(&format!("required size: {}\nfully allocated size: {}\n", m.required, m.fully_allocated));
        if shows {
            say(&format!("bitmaps size: {bitmaps}\n"));
        }
    }
    Ok(0)
}
