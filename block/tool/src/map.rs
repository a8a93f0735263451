//! `map`: which parts of a disk are stored, and where.

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::ToolError;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use crate::text::say;
use block_formats::chain::{self, Link, STEP};

const OPTIONS: &[Opt] = &[
    FORMAT,
    IMAGE_OPTS,
    SHARE,
    OUTPUT,
    OBJECT,
    o('s', "start-offset", "OFFSET", "Start there"),
    o('l', "max-length", "LENGTH", "Show so many bytes"),
];

/// Whether `b` goes on where `a` ends.
fn continues(a: &Link, b: &Link) -> bool {
    let (x, y) = (&a.extent, &b.extent);
    let follows = match (x.offset, y.offset) {
        (Some(p), Some(q)) => p + (x.range.end - x.range.start) == q,
        (None, None) => true,
        _ => false,
    };
    (x.allocated, x.zero, x.compressed, a.depth) == (y.allocated, y.zero, y.compressed, b.depth)
        && follows
        && x.range.end == y.range.start
}

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let json = args.json()?;
    let image = open::image(&args, args.one("FILE")?, &open::options(&args, true)?)?;
    let start = args.size("start-offset")?.unwrap_or(0);
    let end = image.size().min(start.saturating_add(args.size("max-length")?.unwrap_or(u64::MAX)));
    if !json {
        say(&format!("{:<16}{:<16}{:<16}File\n", "Offset", "Length", "Mapped to"));
    }
    let mut held: Option<Link> = None;
    let mut first = true;
    let mut show = |link: &Link| -> Result<(), ToolError> {
        if json {
            say(if first { "[" } else { ",\n" });
            first = false;
            say(&as_json(link));
        } else if link.data() {
            say(&as_text(link)?);
        }
        Ok(())
    };
    let mut at = start;
    while at < end {
        let next = (at + STEP).min(end);
        for link in chain::status(&image, at..next, u32::MAX)? {
            match &mut held {
                Some(last) if continues(last, &link) => last.extent.range.end = link.extent.range.end,
                Some(last) => {
                    show(last)?;
                    held = Some(link);
                }
                None => held = Some(link),
            }
        }
        at = next;
    }
    if let Some(last) = &held {
        show(last)?;
    }
    if json {
        say(if first { "[]\n" } else { "]\n" });
    }
    Ok(0)
}

fn as_json(link: &Link) -> String {
    let e = &link.extent;
    let offset = e.offset.map_or(String::new(), |o| format!(", \"offset\": {o}"));
    format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}{offset}}}",
        e.range.start,
        e.range.end - e.range.start,
        link.depth,
        e.allocated,
        e.zero || !e.allocated,
        link.data(),
        e.compressed,
    )
}

fn as_text(link: &Link) -> Result<String, ToolError> {
    let e = &link.extent;
    let Some(offset) = e.offset.filter(|_| !e.compressed) else {
        return Err(ToolError::Failed(format!(
            "{}: holds compressed clusters, which only --output=json shows",
            link.image.filename()
        )));
    };
    let hex = |n: u64| if n == 0 { "0".to_owned() } else { format!("{n:#x}") };
    let length = e.range.end - e.range.start;
    Ok(format!(
        "{:<16}{:<16}{:<16}{}\n",
        hex(e.range.start),
        hex(length),
        hex(offset),
        link.image.data_filename()
    ))
}
