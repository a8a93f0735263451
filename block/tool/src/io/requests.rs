//! The requests: what is read, written and asked of one image.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_formats::{Image, Preallocation};

use crate::args::{Args, Opt, o, size};
use crate::error::{ToolError, usage};
use crate::text::{io_size, say};

/// Most bytes of one request.
const MAX: u64 = 2 << 30;

const READ: &[Opt] = &[
    o('b', "state", "", ""),
    o('P', "pattern", "BYTE", ""),
    o('l', "length", "LEN", ""),
    o('s', "start", "OFFSET", ""),
    o('q', "quiet", "", ""),
    o('v', "dump", "", ""),
    o('r', "registered", "", ""),
    o('i', "invalid", "", ""),
    o('C', "report", "", ""),
    o('p', "plain", "", ""),
];

const WRITE: &[Opt] = &[
    o('b', "state", "", ""),
    o('P', "pattern", "BYTE", ""),
    o('q', "quiet", "", ""),
    o('z', "zeroes", "", ""),
    o('u', "unmap", "", ""),
    o('r', "registered", "", ""),
    o('i', "invalid", "", ""),
    o('c', "compress", "", ""),
    o('f', "fua", "", ""),
    o('n', "no-fallback", "", ""),
    o('s', "source", "FILE", ""),
    o('C', "report", "", ""),
    o('p', "plain", "", ""),
];

const TRUNCATE: &[Opt] = &[o('m', "mode", "MODE", "")];

const PLAIN: &[Opt] = &[o('q', "quiet", "", ""), o('C', "report", "", "")];

/// Where, and how much in each buffer.
fn places(args: &Args) -> Result<(u64, Vec<usize>), ToolError> {
    match &args.operands[..] {
        [offset, lens @ ..] if !lens.is_empty() => {
            let offset = size("offset", offset)?;
            let lens = lens.iter().map(|l| size("length", l)).collect::<Result<Vec<u64>, _>>()?;
            let total = lens.iter().fold(0u64, |sum, l| sum.saturating_add(*l));
            if total > MAX {
                return usage(format!("length {total}: expected at most {MAX}"));
            }
            Ok((offset, lens.into_iter().map(|l| l as usize).collect()))
        }
        _ => usage("expected OFFSET and LEN"),
    }
}

/// Where and how much.
fn place(args: &Args) -> Result<(u64, u64), ToolError> {
    let (offset, lens) = places(args)?;
    match lens[..] {
        [len] => Ok((offset, len as u64)),
        _ => usage("expected OFFSET and one LEN"),
    }
}

/// The parts of data that buffers of these lengths are.
fn parts<'a>(mut data: &'a [u8], lens: &[usize]) -> Vec<IoSlice<'a>> {
    let cut = |len: &usize| {
        let (part, rest) = data.split_at(*len);
        data = rest;
        IoSlice::new(part)
    };
    lens.iter().map(cut).collect()
}

fn check(image: &Arc<dyn Image>, offset: u64, len: u64) -> Result<(), ToolError> {
    let size = image.size();
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        // In the words that suites compare.
        _ => Err(ToolError::Failed("Input/output error".into())),
    }
}

fn report(args: &Args, what: &str, offset: u64, len: u64, took: Duration) {
    if args.has("quiet") {
        return;
    }
    let seconds = took.as_secs_f64().max(1e-9);
    if args.has("report") {
        let (minutes, rate) = (took.as_secs() / 60, len as f64 / seconds);
        let clock = format!("{}:{:02}:{:05.2}", minutes / 60, minutes % 60, seconds % 60.0);
        return say(&format!("{len},1,{clock},{rate:.3},{:.3}\n", 1.0 / seconds));
    }
    say(&format!(
        "{what} {len}/{len} bytes at offset {offset}\n{}, 1 ops; {:05.2} sec ({}/sec and {:.4} ops/sec)\n",
        io_size(len as f64),
        seconds,
        io_size(len as f64 / seconds),
        1.0 / seconds
    ));
}

/// The byte that is written or expected.
fn pattern(args: &Args) -> Result<Option<u8>, ToolError> {
    let byte = |n: u64| match u8::try_from(n) {
        Ok(byte) => Ok(byte),
        Err(_) => usage(format!("{n} is not a valid pattern byte")),
    };
    args.size("pattern")?.map(byte).transpose()
}

/// Refuses switches of a write that exclude each other.
fn exclude(args: &Args) -> Result<(), ToolError> {
    for (letter, name, others) in [
        ("b", "state", &[("c", "compress"), ("f", "fua"), ("z", "zeroes")][..]),
        ("c", "compress", &[("f", "fua"), ("z", "zeroes")]),
        ("z", "zeroes", &[("P", "pattern"), ("s", "source")]),
        ("s", "source", &[("P", "pattern")]),
    ] {
        if let Some((other, _)) = others.iter().find(|(_, o)| args.has(name) && args.has(o)) {
            return usage(format!("-{letter} and -{other} do not go together"));
        }
    }
    for (letter, name) in [("u", "unmap"), ("n", "no-fallback")] {
        if args.has(name) && !args.has("zeroes") {
            return usage(format!("-{letter} needs -z"));
        }
    }
    Ok(())
}

/// Runs one command; false if what was read is not what was expected.
pub(super) fn command_on(image: &Arc<dyn Image>, command: &str, rest: &[String]) -> Result<bool, ToolError> {
    let started = Instant::now();
    match command {
        "read" | "readv" | "aio_read" | "r" => {
            let args = Args::parse(rest, READ, "")?;
            let (offset, lens) = places(&args)?;
            let len = lens.iter().sum::<usize>() as u64;
            if args.has("invalid") {
                return Ok(true);
            }
            let state = args.has("state");
            if !state {
                check(image, offset, len)?;
            }
            let mut data = vec![0xcd; len as usize];
            let mut rest = &mut data[..];
            let mut bufs = Vec::new();
            for len in &lens {
                let (part, left) = rest.split_at_mut(*len);
                bufs.push(IoSliceMut::new(part));
                rest = left;
            }
            if state {
                image.read_state(offset, &mut data)?;
            } else {
                image.read(offset, &mut bufs)?;
            }
            let took = started.elapsed();
            let mut good = true;
            if let Some(pattern) = pattern(&args)? {
                let from = args.size("start")?.unwrap_or(0).min(len);
                let n = args.size("length")?.unwrap_or(len - from).min(len - from);
                if data[from as usize..(from + n) as usize].iter().any(|b| *b != pattern) {
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
            exclude(&args)?;
            let (offset, lens) = places(&args)?;
            let len = lens.iter().sum::<usize>() as u64;
            if args.has("invalid") {
                return Ok(true);
            }
            let state = args.has("state");
            if !state {
                check(image, offset, len)?;
            }
            let info = image.info();
            if info.read_only {
                return Err(block::BlockError::ReadOnly.into());
            }
            if args.has("zeroes") {
                image.write_zeroes(offset, len, args.has("unmap"))?;
            } else {
                let mut data = vec![pattern(&args)?.unwrap_or(0xcd); len as usize];
                if let Some(file) = args.get("source") {
                    let source = std::fs::read(file).map_err(|e| crate::target::no_file(file, e))?;
                    if source.is_empty() {
                        return usage(format!("{file} is empty"));
                    }
                    data.iter_mut().enumerate().for_each(|(i, b)| *b = source[i % source.len()]);
                }
                if state {
                    image.write_state(offset, &data)?;
                } else if args.has("compress") {
                    image.write_compressed(offset, &data)?;
                } else {
                    image.write(offset, &parts(&data, &lens), args.has("fua"))?;
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
            let args = Args::parse(rest, TRUNCATE, "")?;
            let wanted = size("SIZE", args.one("SIZE")?)?;
            let how = match args.get("mode") {
                None => Preallocation::Off,
                Some(mode) => match Preallocation::NAMES.iter().find(|(n, _)| *n == mode) {
                    Some((_, how)) => *how,
                    None => return usage(format!("-m {mode}: expected off, metadata, falloc or full")),
                },
            };
            image.resize_with(wanted, how)?;
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
