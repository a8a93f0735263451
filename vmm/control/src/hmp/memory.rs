//! `x`, `xp`, `print`, `memsave`, `pmemsave`.

use super::{Answer, Context, expr, failed};
use crate::vm::{MemorySpace, VmError};
use std::io::Write;

/// Most items of one dump.
const MAX_COUNT: u64 = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    count: u64,
    letter: char,
    size: usize,
}

/// Reads `/16xw`; returns what follows, too.
fn format(args: &str, word: usize) -> Result<(Format, &str), VmError> {
    let mut f = Format { count: 1, letter: 'x', size: word };
    let Some(text) = args.strip_prefix('/') else { return Ok((f, args)) };
    let (spec, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let digits = spec.find(|c: char| !c.is_ascii_digit()).unwrap_or(spec.len());
    if digits > 0 {
        match spec[..digits].parse() {
            Ok(n) if n <= MAX_COUNT => f.count = n,
            _ => return failed(format!("count expects a number of at most {MAX_COUNT}")),
        }
    }
    let mut sized = false;
    for c in spec[digits..].chars() {
        match c {
            'x' | 'd' | 'u' | 'o' | 'c' | 's' => f.letter = c,
            'b' => (f.size, sized) = (1, true),
            'h' => (f.size, sized) = (2, true),
            'w' => (f.size, sized) = (4, true),
            'g' => (f.size, sized) = (8, true),
            _ => return failed(format!("format expects letters of x d u o c s and b h w g, got {c:?}")),
        }
    }
    if !sized && matches!(f.letter, 'c' | 's') {
        f.size = 1;
    }
    Ok((f, rest.trim()))
}

fn show(value: u64, f: Format) -> String {
    let bits = 8 * f.size as u32;
    let signed = (value << (64 - bits)).cast_signed() >> (64 - bits);
    match f.letter {
        'd' => signed.to_string(),
        'u' => value.to_string(),
        'o' => format!("{value:#o}"),
        'c' => format!("'{}'", char::from(value as u8).escape_default()),
        _ => format!("{value:#0width$x}", width = 2 * f.size + 2),
    }
}

pub(super) fn dump_virtual(c: &Context<'_>) -> Answer {
    dump(c, MemorySpace::Virtual(c.cpu))
}

pub(super) fn dump_physical(c: &Context<'_>) -> Answer {
    dump(c, MemorySpace::Physical)
}

fn dump(c: &Context<'_>, space: MemorySpace) -> Answer {
    let info = c.control.vm.info();
    let (f, rest) = format(c.args, 4)?;
    if rest.is_empty() {
        return failed("expected an address");
    }
    let mut address = expr::eval_all(c, rest)?;
    if f.letter == 's' {
        return string(c, space, address, f.count);
    }
    let digits = 2 * usize::from(if info.address_bytes == 0 { 8 } else { info.address_bytes });
    let per_line = if f.letter == 'c' { 8 } else { (16 / f.size).min(8) } as u64;
    let mut out = String::new();
    let mut left = f.count;
    while left > 0 {
        let n = left.min(per_line);
        let mut data = vec![0; n as usize * f.size];
        if let Err(e) = c.control.vm.read_memory(space, address, &mut data) {
            // What could be read is worth showing.
            out.push_str(&format!("{e}\n"));
            break;
        }
        out.push_str(&format!("{address:0digits$x}:"));
        for item in data.chunks(f.size) {
            let fold = |n: u64, b: &u8| n << 8 | u64::from(*b);
            let value =
                if info.big_endian { item.iter().fold(0, fold) } else { item.iter().rev().fold(0, fold) };
            out.push(' ');
            out.push_str(&show(value, f));
        }
        out.push('\n');
        address = address.wrapping_add(data.len() as u64);
        left -= n;
    }
    Ok(out)
}

/// `count` strings that end in a zero byte.
fn string(c: &Context<'_>, space: MemorySpace, mut address: u64, count: u64) -> Answer {
    let mut out = String::new();
    for _ in 0..count.min(1024) {
        let mut text = Vec::new();
        loop {
            let mut byte = [0];
            c.control.vm.read_memory(space, address, &mut byte)?;
            address = address.wrapping_add(1);
            if byte == [0] || text.len() == 4096 {
                break;
            }
            text.push(byte[0]);
        }
        out.push_str(&format!("\"{}\"\n", text.escape_ascii()));
    }
    Ok(out)
}

pub(super) fn print(c: &Context<'_>) -> Answer {
    let (f, rest) = format(c.args, 8)?;
    let value = expr::eval_all(c, rest)?;
    Ok(match f.letter {
        'x' | 's' => format!("{value:#x}\n"),
        _ => format!("{}\n", show(value, f)),
    })
}

pub(super) fn save(c: &Context<'_>, physical: bool) -> Answer {
    let (address, rest) = expr::eval(c, c.args)?;
    let (mut left, path) = expr::eval(c, rest)?;
    let path = path.trim_matches('"');
    if path.is_empty() {
        return failed("expected three arguments: address size file");
    }
    let space = if physical { MemorySpace::Physical } else { MemorySpace::Virtual(c.cpu) };
    let io = |e: std::io::Error| VmError::Failed(format!("cannot write '{path}': {e}"));
    let mut file = None;
    let mut address = address;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        c.control.vm.read_memory(space, address, &mut buffer[..n])?;
        let file = match &mut file {
            Some(f) => f,
            None => file.insert(std::fs::File::create(path).map_err(io)?),
        };
        file.write_all(&buffer[..n]).map_err(io)?;
        left -= n as u64;
        address = address.wrapping_add(n as u64);
    }
    Ok(String::new())
}
