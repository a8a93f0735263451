//! `compare`: whether two images have the same contents. Exit code 1 says that they have not.

use std::io::IoSliceMut;
use std::sync::Arc;

use block::BlockError;
use block_formats::{Image, is_zero};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::usage;
use crate::open::{self, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, SHARE};
use crate::progress::Progress;
use crate::text::say;
use block_formats::chain::{self, Link};

const OPTIONS: &[Opt] = &[
    QUIET,
    PROGRESS,
    IMAGE_OPTS,
    SHARE,
    OBJECT,
    o('f', "a-format", "FMT", "Format of FILE1"),
    o('F', "b-format", "FMT", "Format of FILE2"),
    o('s', "strict", "", "Sizes and what is stored have to be the same too"),
    o('T', "cache", "CACHE", "Cache mode"),
];

/// Bytes compared at a time.
const CHUNK: u64 = 512 << 10;
/// Bytes asked about at a time.
const WINDOW: u64 = 64 << 20;

/// What a comparison finds.
enum Found {
    Same,
    Content(u64),
    Allocation(u64),
}

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE1 FILE2")?;
    let [a, b] = &args.operands[..] else { return usage("compare needs FILE1 and FILE2") };
    let options = open::options(&args, true)?;
    let keys = args.has("image-opts");
    let context = crate::tree::Context::of(&args)?;
    let a = open::open(a, args.get("a-format"), keys, &options, &context)?;
    let b = open::open(b, args.get("b-format"), keys, &options, &context)?;
    let quiet = args.has("quiet");
    let tell = |text: String| {
        if !quiet {
            say(&text);
        }
    };
    let strict = args.has("strict");
    if strict && a.size() != b.size() {
        tell("Strict mode: Image size mismatch!\n".into());
        return Ok(1);
    }
    let common = a.size().min(b.size());
    let longer = if a.size() >= b.size() { &a } else { &b };
    let progress = Progress::new(args.has("progress") && !quiet, longer.size());
    let mut at = 0;
    while at < common {
        let end = (at + WINDOW).min(common);
        match window(&a, &b, at, end, strict)? {
            Found::Same => {}
            Found::Content(offset) => {
                tell(format!("Content mismatch at offset {offset}!\n"));
                return Ok(1);
            }
            Found::Allocation(offset) => {
                tell(format!("Strict mode: Offset {offset} block status mismatch!\n"));
                return Ok(1);
            }
        }
        progress.add(end - at);
        at = end;
    }
    if a.size() != b.size() {
        tell("Warning: Image size mismatch!\n".into());
        for range in chain::data_ranges(longer, common..longer.size())? {
            if let Some(offset) = first_nonzero(longer, range.start, range.end)? {
                tell(format!("Content mismatch at offset {offset}!\n"));
                return Ok(1);
            }
        }
    }
    progress.finish();
    tell("Images are identical.\n".into());
    Ok(0)
}

fn window(
    a: &Arc<dyn Image>,
    b: &Arc<dyn Image>,
    start: u64,
    end: u64,
    strict: bool,
) -> Result<Found, BlockError> {
    let (x, y) = (chain::status(a, start..end, u32::MAX)?, chain::status(b, start..end, u32::MAX)?);
    let (mut x, mut y) = (x.iter().peekable(), y.iter().peekable());
    let mut at = start;
    while let (Some(p), Some(q)) = (x.peek(), y.peek()) {
        let (p, q): (&Link, &Link) = (p, q);
        let next = p.extent.range.end.min(q.extent.range.end);
        if strict && (p.extent.allocated != q.extent.allocated) {
            return Ok(Found::Allocation(at));
        }
        let differs = match (p.data(), q.data()) {
            (true, true) => first_difference(a, b, at, next)?,
            (true, false) => first_nonzero(a, at, next)?,
            (false, true) => first_nonzero(b, at, next)?,
            (false, false) => None,
        };
        if let Some(offset) = differs {
            return Ok(Found::Content(offset));
        }
        at = next;
        x.next_if(|l| l.extent.range.end <= next);
        y.next_if(|l| l.extent.range.end <= next);
    }
    Ok(Found::Same)
}

fn read(image: &Arc<dyn Image>, at: u64, buf: &mut [u8]) -> Result<(), BlockError> {
    image.read(at, &mut [IoSliceMut::new(buf)])
}

fn first_difference(
    a: &Arc<dyn Image>,
    b: &Arc<dyn Image>,
    start: u64,
    end: u64,
) -> Result<Option<u64>, BlockError> {
    let len = CHUNK.min(end - start) as usize;
    let (mut x, mut y) = (vec![0; len], vec![0; len]);
    let mut at = start;
    while at < end {
        let n = (end - at).min(CHUNK) as usize;
        read(a, at, &mut x[..n])?;
        read(b, at, &mut y[..n])?;
        if x[..n] != y[..n] {
            let first = x.iter().zip(&y).position(|(p, q)| p != q).unwrap_or(0) as u64;
            return Ok(Some((at + first) & !511));
        }
        at += n as u64;
    }
    Ok(None)
}

fn first_nonzero(image: &Arc<dyn Image>, start: u64, end: u64) -> Result<Option<u64>, BlockError> {
    let mut buf = vec![0; CHUNK.min(end - start) as usize];
    let mut at = start;
    while at < end {
        let n = (end - at).min(CHUNK) as usize;
        read(image, at, &mut buf[..n])?;
        if !is_zero(&buf[..n]) {
            let first = buf.iter().position(|b| *b != 0).unwrap_or(0) as u64;
            return Ok(Some((at + first) & !511));
        }
        at += n as u64;
    }
    Ok(None)
}
