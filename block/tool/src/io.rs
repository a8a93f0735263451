//! `qemu-io`: single requests on an image, as test suites send them.

use std::io::{BufRead, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_formats::{Image, OpenOptions};

use crate::Outcome;
use crate::args::{Args, Opt, o, size};
use crate::error::{ToolError, usage};
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, SHARE};
use crate::text::{io_size, say};

const OPTIONS: &[Opt] = &[
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    SHARE,
    o('c', "cmd", "COMMAND", "Run a command; otherwise they are read from standard input"),
    o('r', "read-only", "", "Open for reading only"),
    o('n', "nocache", "", "Accepted"),
    o('t', "cache", "CACHE", "Cache mode"),
    o('d', "discard", "MODE", "unmap gives discarded space back"),
    o('i', "aio", "MODE", "Accepted"),
    o('k', "native-aio", "", "Accepted"),
];

/// Most bytes of one request.
const MAX: u64 = 2 << 30;

const READ: &[Opt] = &[
    o('P', "pattern", "BYTE", ""),
    o('l', "length", "LEN", ""),
    o('s', "start", "OFFSET", ""),
    o('q', "quiet", "", ""),
    o('v', "dump", "", ""),
    o('C', "report", "", ""),
    o('p', "plain", "", ""),
];

const WRITE: &[Opt] = &[
    o('P', "pattern", "BYTE", ""),
    o('q', "quiet", "", ""),
    o('z', "zeroes", "", ""),
    o('u', "unmap", "", ""),
    o('c', "compress", "", ""),
    o('f', "fua", "", ""),
    o('n', "no-fallback", "", ""),
    o('s', "source", "FILE", ""),
    o('C', "report", "", ""),
    o('p', "plain", "", ""),
];

const PLAIN: &[Opt] = &[o('q', "quiet", "", ""), o('C', "report", "", "")];

/// Commands with what they take.
const COMMANDS: &[(&str, &str)] = &[
    ("read, readv, aio_read", "[-qv] [-P BYTE [-s OFFSET] [-l LEN]] OFFSET LEN"),
    ("write, writev, aio_write", "[-cfquz] [-P BYTE | -s FILE] OFFSET LEN"),
    ("discard", "[-q] OFFSET LEN"),
    ("flush, aio_flush", ""),
    ("map", ""),
    ("alloc", "OFFSET [LEN]"),
    ("length", ""),
    ("truncate", "SIZE"),
    ("sleep", "MILLISECONDS"),
    ("help", ""),
    ("quit", ""),
];

/// Runs the program.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "[FILE]")?;
    let name = args.one("FILE")?;
    let options = open::options(&args, args.has("read-only"))?;
    let options =
        OpenOptions { discard: args.get("discard").is_some_and(|d| d == "unmap" || d == "on"), ..options };
    let image = open::image(&args, name, &options)?;
    let mut failed = false;
    let mut each = |line: &str| -> bool {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Some((command, rest)) = words.split_first() else { return true };
        if matches!(command.as_str(), "quit" | "q") {
            return false;
        }
        match command_on(&image, command, rest) {
            Ok(good) => failed |= !good,
            Err(e) => {
                say(&format!("{command} failed: {e}\n"));
                failed = true;
            }
        }
        true
    };
    if args.has("cmd") {
        let all: Vec<&str> = args.all("cmd").collect();
        all.iter().all(|line| each(line));
    } else {
        for line in std::io::stdin().lock().lines() {
            match line {
                Ok(line) if each(&line) => {}
                _ => break,
            }
        }
    }
    if !options.read_only {
        image.close()?;
    }
    Ok(u8::from(failed))
}

/// Where and how much.
fn place(args: &Args) -> Result<(u64, u64), ToolError> {
    match &args.operands[..] {
        [offset, len] => {
            let (offset, len) = (size("offset", offset)?, size("length", len)?);
            if len > MAX {
                return usage(format!("length {len}: expected at most {MAX}"));
            }
            Ok((offset, len))
        }
        _ => usage("expected OFFSET and LEN"),
    }
}

fn check(image: &Arc<dyn Image>, offset: u64, len: u64) -> Result<(), ToolError> {
    let size = image.size();
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(block::BlockError::OutOfRange { offset, len, size }.into()),
    }
}

fn report(args: &Args, what: &str, offset: u64, len: u64, took: Duration) {
    if args.has("quiet") {
        return;
    }
    let seconds = took.as_secs_f64().max(1e-9);
    say(&format!(
        "{what} {len}/{len} bytes at offset {offset}\n{}, 1 ops; {:05.2} sec ({}/sec and {:.4} ops/sec)\n",
        io_size(len as f64),
        seconds,
        io_size(len as f64 / seconds),
        1.0 / seconds
    ));
}

/// Runs one command; false if what was read is not what was expected.
fn command_on(image: &Arc<dyn Image>, command: &str, rest: &[String]) -> Result<bool, ToolError> {
    let started = Instant::now();
    match command {
        "read" | "readv" | "aio_read" | "r" => {
            let args = Args::parse(rest, READ, "")?;
            let (offset, len) = place(&args)?;
            check(image, offset, len)?;
            let mut data = vec![0xcd; len as usize];
            image.read(offset, &mut [IoSliceMut::new(&mut data)])?;
            let took = started.elapsed();
            let mut good = true;
            if let Some(pattern) = args.size("pattern")? {
                let from = args.size("start")?.unwrap_or(0).min(len);
                let n = args.size("length")?.unwrap_or(len - from).min(len - from);
                if data[from as usize..(from + n) as usize].iter().any(|b| u64::from(*b) != pattern) {
                    say(&format!("Pattern verification failed at offset {}, {n} bytes\n", offset + from));
                    good = false;
                }
            }
            if args.has("dump") {
                dump(offset, &data);
            }
            report(&args, "read", offset, len, took);
            Ok(good)
        }
        "write" | "writev" | "aio_write" | "w" => {
            let args = Args::parse(rest, WRITE, "")?;
            let (offset, len) = place(&args)?;
            check(image, offset, len)?;
            let info = image.info();
            if info.read_only {
                return Err(block::BlockError::ReadOnly.into());
            }
            if args.has("zeroes") {
                image.write_zeroes(offset, len, args.has("unmap"))?;
            } else {
                let mut data = vec![args.size("pattern")?.unwrap_or(0xcd) as u8; len as usize];
                if let Some(file) = args.get("source") {
                    let source = std::fs::read(file).map_err(|e| crate::target::no_file(file, e))?;
                    if source.is_empty() {
                        return usage(format!("{file} is empty"));
                    }
                    data.iter_mut().enumerate().for_each(|(i, b)| *b = source[i % source.len()]);
                }
                if args.has("compress") {
                    image.write_compressed(offset, &data)?;
                } else {
                    image.write(offset, &[IoSlice::new(&data)], args.has("fua"))?;
                }
            }
            report(&args, "wrote", offset, len, started.elapsed());
            Ok(true)
        }
        "discard" | "d" => {
            let args = Args::parse(rest, PLAIN, "")?;
            let (offset, len) = place(&args)?;
            check(image, offset, len)?;
            image.discard(offset, len)?;
            report(&args, "discard", offset, len, started.elapsed());
            Ok(true)
        }
        "flush" | "aio_flush" | "f" => image.flush().map(|()| true).map_err(Into::into),
        "length" | "l" => {
            say(&format!("{}\n", io_size(image.size() as f64)));
            Ok(true)
        }
        "truncate" => {
            let [wanted] = rest else { return usage("expected SIZE") };
            image.resize(size("SIZE", wanted)?)?;
            Ok(true)
        }
        "map" | "alloc" => {
            let (start, end) = match (command, rest) {
                ("map", _) => (0, image.size()),
                (_, [offset]) => (size("offset", offset)?, size("offset", offset)?.saturating_add(512)),
                (_, [offset, len]) => {
                    (size("offset", offset)?, size("offset", offset)?.saturating_add(size("length", len)?))
                }
                _ => return usage("expected OFFSET and LEN"),
            };
            check(image, start, end.saturating_sub(start))?;
            map(image, start, end, command == "map")?;
            Ok(true)
        }
        "sleep" => {
            let [time] = rest else { return usage("expected MILLISECONDS") };
            let Ok(time) = time.parse() else { return usage(format!("{time}: expected MILLISECONDS")) };
            std::thread::sleep(Duration::from_millis(time));
            Ok(true)
        }
        "help" | "?" => {
            COMMANDS.iter().for_each(|(name, what)| say(&format!("{name} {what}\n")));
            Ok(true)
        }
        _ => {
            say(&format!("command \"{command}\" not found\n"));
            Ok(false)
        }
    }
}

fn map(image: &Arc<dyn Image>, start: u64, end: u64, all: bool) -> Result<(), ToolError> {
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    for e in image.status(start..end)? {
        let n = e.range.end - e.range.start;
        match runs.last_mut() {
            Some((_, len, allocated)) if *allocated == e.allocated => *len += n,
            _ => runs.push((e.range.start, n, e.allocated)),
        }
    }
    if all {
        for (at, len, allocated) in runs {
            let state = if allocated { "    allocated" } else { "not allocated" };
            say(&format!(
                "{} ({len:#x}) bytes {state} at offset {} ({at:#x})\n",
                io_size(len as f64),
                io_size(at as f64)
            ));
        }
    } else {
        let taken: u64 = runs.iter().filter(|r| r.2).map(|r| r.1).sum();
        say(&format!("{taken}/{} bytes allocated at offset {}\n", end - start, io_size(start as f64)));
    }
    Ok(())
}

fn dump(offset: u64, data: &[u8]) {
    for (i, line) in data.chunks(16).enumerate() {
        let hex: String = line.iter().map(|b| format!("{b:02x} ")).collect();
        let shown: String =
            line.iter().map(|b| if b.is_ascii_graphic() { *b as char } else { '.' }).collect();
        say(&format!("{:08x}:  {hex} {shown}\n", offset + i as u64 * 16));
    }
}
