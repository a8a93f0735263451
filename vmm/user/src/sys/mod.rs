//! System calls: tables of names, arguments and what is done, one file a field; numbers come from the architecture.
//!
//! Most calls of a 64-bit little-endian guest with the host's structures go to the host as they are ([`Run::Host`]), guest
//! pointers made host pointers and paths looked for in the sysroot by what the table says of each argument.

mod files;
mod ioctl;
mod ipc;
mod memory;
mod misc;
mod narrow;
mod net;
mod poll;
mod procs;
mod seccomp;
mod segments;
mod signals;
mod threads;
mod time;

use std::ffi::CString;
use std::sync::OnceLock;

use crate::abi::Abi;
use crate::host::{self, Errno, RESTART, RESTART_ONCE, Sys};
use crate::host_numbers;
use crate::thread::Thread;

pub(crate) use narrow::{Narrow, info_to_guest};
pub(crate) use seccomp::Filter;
pub(crate) use segments::{describe, set_segment};
pub(crate) use threads::leave_robust_list;

/// What an argument is: for the host, and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number.
    Int,
    /// A number in hexadecimal.
    Hex,
    /// A descriptor.
    Fd,
    /// A descriptor of a directory.
    Dir,
    /// A path.
    Path,
    /// Another string.
    Str,
    /// Bytes the call reads; the next argument is their number.
    In,
    /// Bytes the call writes.
    Out,
    /// Some structure, without pointers in it.
    Ptr,
    /// An array of `iovec`; the next argument is their number.
    Iov,
    /// An address that is not followed.
    Addr,
    /// Octal mode.
    Mode,
    /// Signal number.
    Sig,
    /// Flags of `open`.
    Open,
    /// Protection.
    Prot,
    /// Flags of `mmap`.
    Map,
    /// Flags of `clone`.
    Clone,
}

/// What a call does.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// The host's call of the same name; interrupted, it is made again.
    Host,
    /// The same, but interrupted it ends with EINTR.
    Once,
    /// The same as `Host`, without threads of Rhea's own: they would keep what the thread gives up, and the host refuses some calls
    /// to a process of several threads.
    Alone,
    /// A function.
    Do(fn(&mut Thread, &[u64; 6]) -> Sys),
    /// Known, and refused with this error.
    No(i32),
}

/// A row of a table.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [Kind],
    pub(crate) run: Run,
}

/// Makes a table: `"name" [Kind, Kind] Run;`.
macro_rules! calls {
    ($($name:literal [$($kind:ident),*] $run:expr;)*) => {
        pub(super) const CALLS: &[crate::sys::Call] = &[
            $(crate::sys::Call { name: $name, args: &[$(crate::sys::Kind::$kind),*], run: $run }),*
        ];
    };
}
use calls;

/// All tables.
const TABLES: [&[Call]; 13] = [
    files::CALLS,
    ioctl::CALLS,
    ipc::CALLS,
    memory::CALLS,
    misc::CALLS,
    net::CALLS,
    poll::CALLS,
    procs::CALLS,
    seccomp::CALLS,
    segments::CALLS,
    signals::CALLS,
    threads::CALLS,
    time::CALLS,
];

/// One number: its name, and the call if there is one, with the host's number.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) call: Option<&'static Call>,
    pub(crate) host: u16,
    /// How the arguments of a 32-bit program become those of the call.
    narrow: Option<&'static Narrow>,
}

/// The calls of all tables.
fn all() -> impl Iterator<Item = &'static Call> {
    TABLES.into_iter().flatten()
}

/// A call by its name.
pub(crate) fn find(name: &str) -> Option<&'static Call> {
    static SORTED: OnceLock<Vec<&'static Call>> = OnceLock::new();
    let sorted = SORTED.get_or_init(|| {
        let mut all: Vec<_> = all().collect();
        all.sort_by_key(|c| c.name);
        all
    });
    sorted.binary_search_by_key(&name, |c| c.name).ok().map(|i| sorted[i])
}

impl Row {
    fn new(name: &'static str, wide: bool) -> Self {
        let narrow = if wide { None } else { narrow::find(name) };
        let name_here = narrow.map_or(Some(name), Narrow::call);
        Self {
            name,
            // A program makes few different calls: less than it costs to sort the tables.
            call: name_here.and_then(|n| all().find(|c| c.name == n)),
            host: name_here.and_then(host_number).unwrap_or(u16::MAX),
            narrow,
        }
    }
}

/// The calls of an architecture by number, looked up when they are first made.
pub(crate) struct Table {
    abi: &'static Abi,
    rows: Vec<OnceLock<Option<Row>>>,
}

fn host_number(name: &str) -> Option<u16> {
    let n = host_numbers::NUMBERS;
    n.binary_search_by_key(&name, |r| r.0).ok().map(|i| n[i].1)
}

impl Table {
    /// Those of `abi`.
    pub(crate) fn new(abi: &'static Abi) -> Self {
        let most = abi.calls().map(|n| n.1).max().unwrap_or(0);
        Self { abi, rows: vec![OnceLock::new(); usize::from(most) + 1] }
    }

    /// What a number is.
    pub(crate) fn get(&self, number: u64) -> Option<Row> {
        let row = self.rows.get(usize::try_from(number).ok()?)?;
        *row.get_or_init(|| {
            let named = self.abi.calls().find(|(_, n)| u64::from(*n) == number);
            named.map(|(name, _)| Row::new(name, self.abi.wide))
        })
    }
}

/// Makes a system call.
pub(crate) fn call(t: &mut Thread, number: u64, args: &[u64; 6]) -> Sys {
    if t.filters.is_some()
        && let Some(answer) = seccomp::look(t, number, args)
    {
        return answer;
    }
    unfiltered(t, number, args)
}

/// The same without the thread's filters.
fn unfiltered(t: &mut Thread, number: u64, args: &[u64; 6]) -> Sys {
    let row = t.process.calls.get(number);
    match row {
        Some(Row { narrow: Some(n), .. }) => narrow::call(t, n, args),
        Some(Row { call: Some(c), host, .. }) => make(t, c, host, args),
        _ => {
            t.process.say_missing(number, row.map(|r| r.name));
            Err(Errno(libc::ENOSYS))
        }
    }
}

/// Makes a call of a 64-bit program by name.
fn call_by_name(t: &mut Thread, name: &str, args: &[u64; 6]) -> Sys {
    match find(name) {
        Some(c) => make(t, c, host_number(name).unwrap_or(u16::MAX), args),
        None => Err(Errno(libc::ENOSYS)),
    }
}

/// Makes a call of a 32-bit program by name.
fn narrow_by_name(t: &mut Thread, name: &str, args: &[u64; 6]) -> Sys {
    match narrow::find(name) {
        Some(n) => narrow::call(t, n, args),
        None => call_by_name(t, name, args),
    }
}

fn make(t: &mut Thread, c: &Call, host: u16, args: &[u64; 6]) -> Sys {
    match c.run {
        Run::Do(f) => f(t, args),
        Run::Host => host_call(t, c, host, args).map_err(|e| if e.0 == libc::EINTR { RESTART } else { e }),
        Run::Once => host_call(t, c, host, args).map_err(once),
        Run::Alone => {
            t.process.machine.end_own_threads();
            host_call(t, c, host, args)
        }
        Run::No(e) => Err(Errno(e)),
    }
}

/// The error of a call that a handler ends, and that ends without one as well.
pub(super) fn once(e: Errno) -> Errno {
    if e == RESTART { RESTART_ONCE } else { e }
}

/// The error of a call that is made again behind a handler.
pub(super) fn again(e: Errno) -> Errno {
    if e.0 == libc::EINTR { RESTART } else { e }
}

fn host_call(t: &Thread, c: &Call, number: u16, args: &[u64; 6]) -> Sys {
    if number == u16::MAX {
        return Err(Errno(libc::ENOSYS));
    }
    let mm = &t.process.mm;
    if mm.watching() {
        allow_writes(t, c, args);
    }
    if !t.process.paths.any() && mm.host(0) == 0 {
        return host::interruptible(t.slot.flag(), number, args);
    }
    let mut host_args = *args;
    // Keeps the strings alive for the call.
    let mut strings: Vec<CString> = Vec::new();
    let mut vectors: Vec<u64> = Vec::new();
    for (i, (a, kind)) in host_args.iter_mut().zip(c.args).enumerate() {
        match kind {
            Kind::Iov if mm.host(0) != 0 => {
                vectors = iovecs(t, *a, args.get(i + 1).copied().unwrap_or(0))?;
                *a = vectors.as_ptr() as u64;
            }
            Kind::Path if *a != 0 => {
                strings.push(path(t, *a)?);
                *a = strings.last().map_or(0, |s| host::arg(s));
            }
            Kind::Path | Kind::Str | Kind::In | Kind::Out | Kind::Ptr => *a = mm.pointer(*a),
            _ => {}
        }
    }
    let r = host::interruptible(t.slot.flag(), number, &host_args);
    drop(vectors);
    r
}

/// Gives the host back the right to write to pages with translated code that a call may write to.
fn allow_writes(t: &Thread, c: &Call, args: &[u64; 6]) {
    /// More than most structures.
    const STRUCTURE: u64 = 4096;
    let mm = &t.process.mm;
    for (i, (a, kind)) in args.iter().zip(c.args).enumerate() {
        let next = args.get(i + 1).copied().unwrap_or(0);
        match kind {
            Kind::Out => {
                mm.allow(&(*a..a.saturating_add(next)));
            }
            Kind::Ptr => {
                mm.allow(&(*a..a.saturating_add(STRUCTURE)));
            }
            Kind::Iov => {
                for pair in iovecs(t, *a, next).unwrap_or_default().chunks_exact(2) {
                    let start = pair[0].wrapping_sub(mm.host(0));
                    mm.allow(&(start..start.saturating_add(pair[1])));
                }
            }
            _ => {}
        }
    }
}

/// Guest `iovec`s as the host's: address and length by turns.
pub(super) fn iovecs(t: &Thread, at: u64, count: u64) -> Result<Vec<u64>, Errno> {
    const MOST: u64 = 1024;
    if count > MOST {
        return Err(Errno(libc::EINVAL));
    }
    let mut bytes = vec![0; count as usize * 16];
    t.process.mm.read(at, &mut bytes)?;
    let words = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()));
    Ok(words.enumerate().map(|(i, w)| if i % 2 == 0 { t.process.mm.pointer(w) } else { w }).collect())
}

/// Makes an interruptible call of the host by name.
pub(super) fn host_by_name(t: &Thread, name: &str, args: [u64; 6]) -> Sys {
    match host_number(name) {
        Some(n) => host::interruptible(t.slot.flag(), n, &args),
        None => Err(Errno(libc::ENOSYS)),
    }
}

/// The path at a guest address as the host has it.
pub(super) fn path(t: &Thread, at: u64) -> Result<CString, Errno> {
    let p = t.process.mm.read_str(at, libc::PATH_MAX as usize)?;
    CString::new(t.process.paths.host_bytes(&p)).map_err(|_| Errno(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::generic;

    const GENERIC: [&[(&str, u16)]; 3] = [generic::COMMON, generic::WIDE, generic::NARROW];

    #[test]
    fn every_call_has_a_number_and_is_there_once() {
        let mut seen = std::collections::HashSet::new();
        for c in TABLES.into_iter().flatten() {
            assert!(seen.insert(c.name), "{} is in two tables", c.name);
            assert!(
                GENERIC.into_iter().flatten().any(|n| n.0 == c.name) || host_number(c.name).is_some(),
                "{} is nobody's call",
                c.name
            );
            if matches!(c.run, Run::Host | Run::Once | Run::Alone) {
                assert!(host_number(c.name).is_some(), "the host has no {}", c.name);
            }
        }
    }

    /// Names of i386's that are no calls here: Linux has no call of most of these either, and none for vm86 mode in a 64-bit kernel.
    const MISSING: [&str; 13] = [
        "bdflush", "break", "ftime", "gtty", "idle", "lock", "mpx", "prof", "profil", "stty", "ulimit",
        "vm86", "vm86old",
    ];

    /// The tables of numbers hold all names of Linux 6.12; each is a call that is made or refused knowingly.
    #[test]
    fn no_call_is_missing_but_old_ones() {
        let mut missing: Vec<&str> = Vec::new();
        for abi in crate::abi::ALL {
            let table = Table::new(abi);
            for (name, number) in abi.calls() {
                let row = table.get((*number).into());
                if row.is_none_or(|r| r.call.is_none() && r.narrow.is_none()) {
                    missing.push(name);
                }
            }
        }
        let unexpected: Vec<_> = missing.iter().filter(|m| !MISSING.contains(m)).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        let there: Vec<_> = MISSING.iter().filter(|m| !missing.contains(m)).collect();
        assert!(there.is_empty(), "no longer missing: {there:?}");
    }

    #[test]
    fn numbers_are_sorted() {
        assert!(GENERIC.iter().all(|l| l.is_sorted_by_key(|n| n.0)));
        assert!(host_numbers::NUMBERS.is_sorted_by_key(|n| n.0));
    }
}
