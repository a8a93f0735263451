//! What of `/proc` is the guest's own: its program, arguments, auxiliary vector, memory map and processor.

use std::ffi::CString;
use std::fmt::Write as _;

use crate::host::{self, Errno};
use crate::mm::prot;
use crate::process::Process;
use crate::thread::Thread;

/// The part of a path behind `/proc/self/`, `/proc/thread-self/` or `/proc/PID/` of this process.
fn own(path: &[u8]) -> Option<&str> {
    let rest = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
    let (who, what) = rest.split_once('/')?;
    let me = who == "self" || who == "thread-self" || who.parse() == Ok(std::process::id());
    me.then_some(what)
}

/// True if the path names this process's program.
pub(crate) fn is_own_exe(path: &[u8]) -> bool {
    own(path) == Some("exe")
}

/// Where the guest's program is, for a path that names it and is followed.
pub(crate) fn exe_path(t: &Thread, path: &[u8], flags: i32) -> Option<CString> {
    if !is_own_exe(path) || flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
        return None;
    }
    CString::new(t.process.paths.host(&t.process.exe)).ok()
}

/// What the link at a path says, if that is the guest's own.
pub(crate) fn link(t: &Thread, path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/proc/")
        && let Some(exe) = t.process.tracees.exe(path)
    {
        return Some(exe);
    }
    is_own_exe(path).then(|| t.process.exe.clone().into_bytes())
}

/// Opens what is the guest's own; `None` if the path is not.
pub(crate) fn open(t: &Thread, path: &[u8], flags: i32) -> Result<Option<u64>, Errno> {
    let traced = if path.starts_with(b"/proc/") { t.process.tracees.file(path).transpose()? } else { None };
    if let Some(contents) = traced {
        return memory_file(&contents, flags).map(Some);
    }
    if !path.starts_with(b"/proc/") || flags & libc::O_ACCMODE != libc::O_RDONLY {
        return Ok(None);
    }
    let contents = match own(path) {
        Some("exe") => {
            let Some(p) = exe_path(t, path, 0) else { return Ok(None) };
            let here = libc::AT_FDCWD as u64;
            return host::call(libc::SYS_openat, &[here, host::arg(&p), flags as u64]).map(Some);
        }
        _ => match text(&t.process, path) {
            Some(text) => text,
            None => return Ok(None),
        },
    };
    memory_file(&contents, flags).map(Some)
}

/// A file with these contents.
fn memory_file(contents: &[u8], flags: i32) -> Result<u64, Errno> {
    let cloexec = if flags & libc::O_CLOEXEC != 0 { u64::from(libc::MFD_CLOEXEC) } else { 0 };
    let fd = host::call(libc::SYS_memfd_create, &[host::arg(c"rhea-proc"), cloexec])?;
    host::call(libc::SYS_write, &[fd, contents.as_ptr() as u64, contents.len() as u64])?;
    host::call(libc::SYS_lseek, &[fd, 0, libc::SEEK_SET as u64])?;
    Ok(fd)
}

/// The text of what is the guest's own.
pub(crate) fn text(p: &Process, path: &[u8]) -> Option<Vec<u8>> {
    Some(match (own(path), path) {
        (Some("maps"), _) => maps(p).into_bytes(),
        (Some("cmdline"), _) => p.argv.iter().flat_map(|a| a.as_bytes_with_nul()).copied().collect(),
        (Some("auxv"), _) => p.auxv.clone(),
        (Some("stat"), _) => stat(p).into_bytes(),
        (_, b"/proc/cpuinfo") => cpuinfo(p).into_bytes(),
        _ => return None,
    })
}

/// The host's list, cut down to what is the guest's, with the guest's rights.
fn maps(p: &Process) -> String {
    let mm = &p.mm;
    let host = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let map = mm.lock();
    let base = mm.host(0);
    let mut out = String::new();
    for line in host.lines() {
        let mut fields = line.splitn(6, ' ');
        let (Some(range), Some(_rights), Some(offset), Some(device), Some(inode)) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let name = fields.next().unwrap_or_default().trim_start();
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        let Some((Some(start), Some(end))) = range.split_once('-').map(|(a, b)| (hex(a), hex(b))) else {
            continue;
        };
        let (Some(mut at), Some(end)) = (start.checked_sub(base), end.checked_sub(base)) else { continue };
        let first = at;
        while at < end {
            let Some((_, r)) = map.find(at) else {
                // On to the next region of the guest's in this mapping.
                match map.iter().map(|(s, _)| s).find(|s| *s > at && *s < end) {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            };
            let stop = r.end.min(end);
            let bit = |b: u32, c: char| if r.prot & b != 0 { c } else { '-' };
            let share = if r.shared { 's' } else { 'p' };
            let offset = hex(offset).unwrap_or(0) + if inode == "0" { 0 } else { at - first };
            let name = if p.stack.contains(&at) {
                "[stack]"
            } else if map.heap.contains(&at) {
                "[heap]"
            } else if at == p.vdso {
                "[vdso]"
            } else {
                name
            };
            let head = format!(
                "{at:08x}-{stop:08x} {}{}{}{share} {offset:08x} {device} {inode}",
                bit(prot::READ, 'r'),
                bit(prot::WRITE, 'w'),
                bit(prot::EXEC, 'x'),
            );
            let _ =
                if name.is_empty() { writeln!(out, "{head} ") } else { writeln!(out, "{head:<72} {name}") };
            at = stop;
        }
    }
    out
}

/// The host's line with the guest's name, code and stack.
fn stat(p: &Process) -> String {
    let host = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some((head, tail)) = host.trim_end().rsplit_once(')') else { return host };
    let pid = head.split(' ').next().unwrap_or("0");
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let mut fields: Vec<String> = tail.split_whitespace().map(str::to_owned).collect();
    // Fields count from 1 with the pid; `tail` begins with the third.
    let mut set = |n: usize, v: u64| {
        if let Some(f) = fields.get_mut(n - 3) {
            *f = v.to_string();
        }
    };
    set(26, p.code.start);
    set(27, p.code.end);
    set(28, p.stack.end);
    format!("{pid} ({}) {}\n", comm.trim_end(), fields.join(" "))
}

fn cpuinfo(p: &Process) -> String {
    let isa = p.machine.isa();
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (0..count).map(|n| (p.abi.cpuinfo)(&isa, n)).collect()
}
