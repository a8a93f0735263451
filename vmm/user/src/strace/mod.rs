//! Prints system calls as strace does, from the tables that make them.

use std::fmt::Write as _;

use crate::host::{KEEP, NOT_MADE, RESTART, RESTART_ONCE, Sys};
use crate::strace::names::{OPEN, Show};
use crate::sys::{self, Call, Kind, Row};
use crate::thread::Thread;

mod names;
mod structures;

const LONGEST: usize = 32;

fn quoted(t: &Thread, at: u64, len: Option<u64>) -> String {
    if at == 0 {
        return "NULL".into();
    }
    let (bytes, cut) = match len {
        None => match t.process.mm.read_str(at, libc::PATH_MAX as usize) {
            Ok(b) => (b, false),
            Err(_) => return format!("{at:#x}"),
        },
        Some(n) => {
            let mut b = vec![0; (n as usize).min(LONGEST)];
            if t.process.mm.read(at, &mut b).is_err() {
                return format!("{at:#x}");
            }
            (b, n as usize > LONGEST)
        }
    };
    let mut out = String::from("\"");
    for (n, &b) in bytes.iter().enumerate() {
        match b {
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\r' => out.push_str("\\r"),
            b'"' | b'\\' => {
                out.push('\\');
                out.push(b.into());
            }
            0x20..0x7f => out.push(b.into()),
            // All three digits only where another one follows.
            _ if bytes.get(n + 1).is_some_and(u8::is_ascii_digit) => {
                let _ = write!(out, "\\{b:03o}");
            }
            _ => {
                let _ = write!(out, "\\{b:o}");
            }
        }
    }
    out.push('"');
    if cut {
        out.push_str("...");
    }
    out
}

/// Names of bits; what has no name in hexadecimal at the end.
fn flags(mut v: u64, names: &[(u64, &str)], zero: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (bits, name) in names {
        if v & bits == *bits && *bits != 0 {
            parts.push((*name).to_owned());
            v &= !bits;
        }
    }
    if v != 0 {
        parts.push(format!("{v:#x}"));
    }
    if parts.is_empty() { zero.to_owned() } else { parts.join("|") }
}

/// Name of a value, or the value.
fn value(v: u64, names: &[(u64, &str)]) -> String {
    let known = names.iter().find(|(n, _)| *n == v || *n as u32 == v as u32);
    known.map_or_else(|| format!("{v:#x}"), |(_, name)| (*name).to_owned())
}

/// What `open` is asked for: how the file is used comes first, even where that is no bit.
fn open_flags(v: u64) -> String {
    let v = v & 0xffff_ffff;
    let text = flags(v, OPEN, "");
    match (v & 3, text.is_empty()) {
        (0, true) => "O_RDONLY".to_owned(),
        (0, false) => format!("O_RDONLY|{text}"),
        _ => text,
    }
}

/// An argument: before the call, or after it with what it has given back.
fn argument(t: &Thread, call: &Call, args: &[u64; 6], n: usize, result: Option<u64>) -> String {
    let v = args[n];
    match (names::shown(call.name, n), result) {
        (Some(Show::Bits(names, zero)), _) => return flags(v & 0xffff_ffff, names, zero),
        (Some(Show::One(names)), _) => return value(v, names),
        (Some(show), result) if v != 0 && (result.is_some() || !show.is_late()) => {
            if let Some(text) = pointed(t, show, v, result.unwrap_or(0)) {
                return text;
            }
        }
        _ => {}
    }
    match call.args[n] {
        Kind::Int => {
            // A word on the host is a word here; numbers of 32 bits come sign-extended.
            (v as i64).to_string()
        }
        Kind::Fd => (v as i32).to_string(),
        Kind::Dir if v as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        Kind::Dir => (v as i32).to_string(),
        Kind::Path | Kind::Str => quoted(t, v, None),
        Kind::In => quoted(t, v, Some(args.get(n + 1).copied().unwrap_or(0))),
        Kind::Mode => format!("0{v:o}"),
        Kind::Sig => signal_name(v as i32),
        Kind::Open => open_flags(v),
        Kind::Prot => flags(v, names::PROT, "PROT_NONE"),
        Kind::Map => flags(v & 0xffff_ffff, names::MAP, "0"),
        Kind::Clone => flags(v, names::CLONE, "0"),
        Kind::Out | Kind::Ptr | Kind::Iov | Kind::Addr if v == 0 => "NULL".into(),
        Kind::Hex if v == 0 => "0".into(),
        Kind::Out | Kind::Ptr | Kind::Iov | Kind::Addr | Kind::Hex => format!("{v:#x}"),
    }
}

/// What a call reads or has written at an address.
fn pointed(t: &Thread, show: Show, at: u64, result: u64) -> Option<String> {
    match show {
        Show::Signals | Show::SignalsOut => structures::signals(t, at),
        Show::Action | Show::ActionOut => structures::action(t, at),
        Show::Limit | Show::LimitOut => structures::limit(t, at),
        Show::Time | Show::TimeOut => structures::time(t, at),
        Show::Entries => structures::entries(t, at, result),
        Show::Bytes => Some(quoted(t, at, Some(result))),
        Show::Stat => stat(t, at),
        Show::Pair => {
            let mut b = [0; 8];
            t.process.mm.read(at, &mut b).ok()?;
            let [a, b] = [u32_at(&b, 0), u32_at(&b, 4)];
            Some(format!("[{a}, {b}]"))
        }
        Show::Status => {
            let mut b = [0; 4];
            t.process.mm.read(at, &mut b).ok()?;
            // Without a child nothing has been written.
            (result != 0).then(|| status(u32_at(&b, 0)))
        }
        Show::Bits(..) | Show::One(_) => None,
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    let mut v = [0; 4];
    v.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(v)
}

/// Kind and mode of a file, and its size or which device it is.
fn stat(t: &Thread, at: u64) -> Option<String> {
    const KINDS: [(u32, &str); 7] = [
        (0o010_000, "S_IFIFO"),
        (0o020_000, "S_IFCHR"),
        (0o040_000, "S_IFDIR"),
        (0o060_000, "S_IFBLK"),
        (0o100_000, "S_IFREG"),
        (0o120_000, "S_IFLNK"),
        (0o140_000, "S_IFSOCK"),
    ];
    // Where mode, device and size lie (`struct stat` of each, `stat64` of i386).
    let (mode, device, size) = match t.process.abi.name {
        "x86_64" => (24, 40, 48),
        "i386" => (16, 32, 44),
        _ => (16, 32, 48),
    };
    let mut b = [0; 64];
    t.process.mm.read(at, &mut b).ok()?;
    let mode = u32_at(&b, mode);
    let (_, kind) = KINDS.iter().find(|(bits, _)| mode & 0o170_000 == *bits)?;
    let kind = format!("{{st_mode={kind}|0{:03o}, ", mode & 0o7777);
    Some(if matches!(mode & 0o170_000, 0o020_000 | 0o060_000) {
        let d = u32_at(&b, device);
        let (major, minor) = (d >> 8 & 0xfff, d & 0xff | d >> 12 & 0xf_ff00);
        format!("{kind}st_rdev=makedev({major:#x}, {minor:#x}), ...}}")
    } else {
        let size = u64::from(u32_at(&b, size + 4)) << 32 | u64::from(u32_at(&b, size));
        format!("{kind}st_size={size}, ...}}")
    })
}

/// How a child ended (`wait`).
fn status(v: u32) -> String {
    let signal = signal_name((v & 0x7f) as i32);
    match v & 0xff {
        0 => format!("[{{WIFEXITED(s) && WEXITSTATUS(s) == {}}}]", v >> 8 & 0xff),
        0x7f if v >> 16 == 0 && v != 0xffff => {
            format!("[{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}]", signal_name((v >> 8 & 0xff) as i32))
        }
        0x7f => format!("[{v:#x}]"),
        0x80.. => format!("[{{WIFSIGNALED(s) && WTERMSIG(s) == {signal} && WCOREDUMP(s)}}]"),
        _ => format!("[{{WIFSIGNALED(s) && WTERMSIG(s) == {signal}}}]"),
    }
}

/// Number of arguments that mean something.
fn arguments(call: &Call, args: &[u64; 6]) -> usize {
    let all = call.args.len();
    match call.args {
        [.., Kind::Open, Kind::Mode] if args[all - 2] & names::OPEN_MAKES == 0 => all - 1,
        _ if call.name == "futex" => names::futex_arguments(args[1]),
        _ => all,
    }
}

/// The first argument that is shown after the call, or the number of arguments.
fn late(call: &Call, all: usize) -> usize {
    (0..all).find(|n| names::shown(call.name, *n).is_some_and(Show::is_late)).unwrap_or(all)
}

/// Name of a signal.
pub(crate) fn signal_name(n: i32) -> String {
    const NAMES: [&str; 32] = [
        "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match usize::try_from(n).ok().and_then(|i| NAMES.get(i)) {
        Some(name) if n != 0 => format!("SIG{name}"),
        _ if n >= 32 => format!("SIGRT_{}", n - 32),
        _ => n.to_string(),
    }
}

/// What there is to say of a call's arguments: those about signals are in the same places for 32-bit programs, too.
fn described(row: Row) -> Option<&'static Call> {
    row.call.or_else(|| row.name.starts_with("rt_sig").then(|| sys::find(row.name)).flatten())
}

/// Prints a call before it is made, as far as it is known then.
pub(crate) fn enter(t: &Thread, number: u64, args: &[u64; 6]) {
    let row = t.process.calls.get(number);
    let text = match row.and_then(described) {
        Some(c) => {
            let all = arguments(c, args);
            let now = late(c, all);
            let mut list: Vec<String> = (0..now).map(|n| argument(t, c, args, n, None)).collect();
            if now < all {
                // So that what comes is set apart.
                list.push(String::new());
            }
            let end = if now < all { "" } else { ")" };
            format!("{} {}({}{end}", t.tid, c.name, list.join(", "))
        }
        None => {
            let name = row.map_or_else(|| format!("syscall_{number:#x}"), |r| r.name.to_owned());
            let list: Vec<String> = args.iter().map(|a| format!("{a:#x}")).collect();
            format!("{} {name}({})", t.tid, list.join(", "))
        }
    };
    let ends = row.is_some_and(|r| matches!(r.name, "exit" | "exit_group" | "execve" | "rt_sigreturn"));
    t.process.log(&if ends { text + "\n" } else { text });
}

/// Prints what came of it.
pub(crate) fn leave(t: &Thread, number: u64, args: &[u64; 6], result: Sys) {
    let row = t.process.calls.get(number);
    let name = row.map_or("", |r| r.name);
    if result == Err(KEEP) || name == "exit" {
        return;
    }
    let rest = row.and_then(described).map_or_else(String::new, |c| {
        let all = arguments(c, args);
        let now = late(c, all);
        let list: Vec<String> = (now..all).map(|n| argument(t, c, args, n, result.ok())).collect();
        if now < all { list.join(", ") + ")" } else { String::new() }
    });
    let text = match result {
        Ok(v) if v > 0xffff_ffff || ["brk", "mmap", "mremap"].contains(&name) => format!("{v:#x}"),
        Ok(v) => v.to_string(),
        Err(NOT_MADE | RESTART | RESTART_ONCE) => "? (interrupted)".into(),
        Err(e) => {
            let text = std::io::Error::from_raw_os_error(e.0).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            match names::error(e.0) {
                Some(name) => format!("-1 {name} ({text})"),
                None => format!("-1 errno={} ({text})", e.0),
            }
        }
    };
    t.process.log(&format!("{rest} = {text}\n"));
}
