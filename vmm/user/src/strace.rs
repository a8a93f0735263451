//! Prints system calls as strace does, from the tables that make them.

use std::fmt::Write as _;

use crate::host::{KEEP, NOT_MADE, RESTART, RESTART_ONCE, Sys};
use crate::sys::Kind;
use crate::thread::Thread;

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
    for b in bytes {
        match b {
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\r' => out.push_str("\\r"),
            b'"' | b'\\' => {
                out.push('\\');
                out.push(b.into());
            }
            0x20..0x7f => out.push(b.into()),
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

const OPEN: &[(u64, &str)] = &[
    (0o1, "O_WRONLY"),
    (0o2, "O_RDWR"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o4010000, "O_SYNC"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o20200000, "O_TMPFILE"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
];
const PROT: &[(u64, &str)] = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
const MAP: &[(u64, &str)] = &[
    (3, "MAP_SHARED_VALIDATE"),
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x20000, "MAP_STACK"),
    (0x40000, "MAP_HUGETLB"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];
const CLONE: &[(u64, &str)] = &[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x4000, "CLONE_VFORK"),
    (0x1_0000, "CLONE_THREAD"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (17, "SIGCHLD"),
];

fn argument(t: &Thread, kinds: &[Kind], args: &[u64; 6], n: usize) -> String {
    let v = args[n];
    match kinds[n] {
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
        Kind::Open => flags(v & 0xffff_ffff, OPEN, "O_RDONLY"),
        Kind::Prot => flags(v, PROT, "PROT_NONE"),
        Kind::Map => flags(v & 0xffff_ffff, MAP, "0"),
        Kind::Clone => flags(v, CLONE, "0"),
        Kind::Out | Kind::Ptr | Kind::Iov | Kind::Addr if v == 0 => "NULL".into(),
        Kind::Out | Kind::Ptr | Kind::Iov | Kind::Addr | Kind::Hex => format!("{v:#x}"),
    }
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

/// Prints a call before it is made.
pub(crate) fn enter(t: &Thread, number: u64, args: &[u64; 6]) {
    let row = t.process.calls.get(number);
    let text = match row.and_then(|r| r.call) {
        Some(c) => {
            let list: Vec<String> = (0..c.args.len()).map(|n| argument(t, c.args, args, n)).collect();
            format!("{} {}({})", t.tid, c.name, list.join(", "))
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
pub(crate) fn leave(t: &Thread, number: u64, result: Sys) {
    let name = t.process.calls.get(number).map_or("", |r| r.name);
    if result == Err(KEEP) || name == "exit" {
        return;
    }
    let text = match result {
        Ok(v) if v > 0xffff_ffff || ["brk", "mmap", "mremap"].contains(&name) => format!(" = {v:#x}\n"),
        Ok(v) => format!(" = {v}\n"),
        Err(NOT_MADE | RESTART | RESTART_ONCE) => " = ? (interrupted)\n".into(),
        Err(e) => {
            let text = std::io::Error::from_raw_os_error(e.0).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            format!(" = -1 errno={} ({text})\n", e.0)
        }
    };
    t.process.log(&text);
}
