//! `bench`: a simple benchmark of requests on an image.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use block::BlockError;

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::copy::default_threads;
use crate::error::usage;
use crate::open::{self, CACHE, FORMAT, IMAGE_OPTS, OBJECT, QUIET, SHARE};
use crate::text::say;

const OPTIONS: &[Opt] = &[
    QUIET,
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    CACHE,
    SHARE,
    o('c', "count", "N", "Requests (default 75000)"),
    o('d', "depth", "N", "Requests at a time (default 64)"),
    o('s', "buffer-size", "SIZE", "Bytes of a request (default 4k)"),
    o('o', "offset", "OFFSET", "Where the first one starts"),
    o('S', "step-size", "SIZE", "From one start to the next (default the size)"),
    o('w', "write", "", "Write instead of reading"),
    o(' ', "pattern", "BYTE", "Write this byte"),
    o(' ', "flush-interval", "N", "Flush after so many writes"),
    o(' ', "no-drain", "", "Do not wait for requests before a flush"),
    o('i', "aio", "MODE", "How requests reach the host: threads, native or io_uring"),
    o('n', "native", "", "The same as --aio native"),
];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let write = args.has("write");
    let count = args.number("count")?.unwrap_or(75000);
    let depth = args.number("depth")?.unwrap_or(64);
    let len = args.size("buffer-size")?.unwrap_or(4096);
    let step = args.size("step-size")?.filter(|s| *s != 0).unwrap_or(len);
    let offset = args.size("offset")?.unwrap_or(0);
    let pattern = args.size("pattern")?.unwrap_or(0) as u8;
    let flush = args.number("flush-interval")?.unwrap_or(0);
    if depth == 0 || len == 0 || len > 1 << 30 {
        return usage("--depth and --buffer-size (at most 1G) must not be 0");
    }
    if flush != 0 && (!write || flush < depth && !args.has("no-drain")) {
        return usage("--flush-interval goes with --write and is at least --depth");
    }
    let image = open::image(&args, args.one("FILE")?, &open::options(&args, !write)?)?;
    let size = image.size();
    if len > size {
        return usage(format!("--buffer-size {len}: the disk has {size} bytes"));
    }
    if !args.has("quiet") {
        let kind = if write { "write" } else { "read" };
        say(&format!(
            "Sending {count} {kind} requests, {len} bytes each, {depth} in parallel (starting at offset {offset}, step size {step})\n"
        ));
        if flush != 0 {
            say(&format!("Sending flush every {flush} requests\n"));
        }
    }
    let next = AtomicU64::new(0);
    let error: Mutex<Option<BlockError>> = Mutex::new(None);
    let started = Instant::now();
    let work = || {
        let mut buffer = vec![pattern; len as usize];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            // The offset goes round before the end, as it would by counting up.
            let room = size - len + 1;
            let at = if offset + i.saturating_mul(step) < room {
                offset + i * step
            } else {
                (offset + i * (step % room)) % room / 512 * 512
            };
            let mut done = if write {
                image.write(at, &[IoSlice::new(&buffer)], false)
            } else {
                image.read(at, &mut [IoSliceMut::new(&mut buffer)])
            };
            if flush != 0 && (i + 1).is_multiple_of(flush) && done.is_ok() {
                done = image.flush();
            }
            if let Err(e) = done {
                next.store(count, Ordering::Relaxed);
                if let Ok(mut first) = error.lock() {
                    first.get_or_insert(e);
                }
                return;
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 1..default_threads().min(depth as usize) {
            s.spawn(work);
        }
        work();
    });
    if let Ok(Some(e)) = error.into_inner() {
        return Err(e.into());
    }
    if !args.has("quiet") {
        say(&format!("Run completed in {:.3} seconds.\n", started.elapsed().as_secs_f64()));
    }
    image.close()?;
    Ok(0)
}
