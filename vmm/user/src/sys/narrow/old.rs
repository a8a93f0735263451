//! Calls that only i386 has, from before others took their place (`arch/x86/entry/syscalls/syscall_32.tbl`, `kernel/signal.c`,
//! `fs/readdir.c`, `fs/stat.c`, `kernel/sys.c` of Linux 6.12).

use crate::host::{self, Errno, Sys};
use crate::signal::UNBLOCKABLE;
use crate::thread::Thread;

use super::{bytes_of, code, ours, room, wide};

/// Bytes of a name of `uname`, its zero among them, and what the oldest form has of it.
const UTS: usize = 65;
const OLDEST_UTS: usize = 9;

/// Sets and tells what is done about a signal: handler, flags, restorer, mask.
fn act(t: &mut Thread, signal: u64, new: Option<[u64; 4]>) -> Result<[u64; 4], Errno> {
    let mut new = new.map(|words| bytes_of(&words));
    let mut old = vec![0; 32];
    let new_at = new.as_mut().map_or(0, |b| ours(t, b));
    let old_at = ours(t, &mut old);
    wide(t, "rt_sigaction", [signal, new_at, old_at, 8, 0, 0])?;
    let old = std::hint::black_box(old);
    Ok([0, 8, 16, 24].map(|at| u64::from_le_bytes(old[at..at + 8].try_into().unwrap_or_default())))
}

/// `struct old_sigaction`: handler, mask of one word, flags, restorer.
pub(super) fn sigaction(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let new = match a[1] {
        0 => None,
        at => {
            let w = super::words(t, at, 4, false)?;
            Some([w[0], w[2], w[3], w[1]])
        }
    };
    let [handler, flags, restorer, mask] = act(t, a[0], new)?;
    if a[2] != 0 {
        let words = [handler, mask, flags, restorer];
        let bytes: Vec<u8> = words.iter().flat_map(|w| (*w as u32).to_le_bytes()).collect();
        t.process.mm.write(a[2], &bytes)?;
    }
    Ok(0)
}

/// A handler for one signal, which it does not block.
pub(super) fn signal(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const ONCE: u64 = 0x8000_0000 | 0x4000_0000;
    act(t, a[0], Some([a[1], ONCE, 0, 0])).map(|old| old[0])
}

pub(super) fn sigpending(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mut set = room(Vec::new());
    let at = ours(t, &mut set);
    wide(t, "rt_sigpending", [at, 8, 0, 0, 0, 0])?;
    t.process.mm.write(a[0], &std::hint::black_box(&set)[..4])?;
    Ok(0)
}

/// The mask is the third argument.
pub(super) fn sigsuspend(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mut mask = bytes_of(&[a[2] & 0xffff_ffff]);
    let at = ours(t, &mut mask);
    wide(t, "rt_sigsuspend", [at, 8, 0, 0, 0, 0])
}

pub(super) fn sgetmask(t: &mut Thread, _: &[u64; 6]) -> Sys {
    Ok(t.mask & 0xffff_ffff)
}

pub(super) fn ssetmask(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let old = t.mask;
    t.mask = a[0] & 0xffff_ffff & !UNBLOCKABLE;
    if t.mask != old && !t.slot.is_full() {
        t.set_host_mask();
    }
    Ok(old & 0xffff_ffff)
}

pub(super) fn nice(_: &mut Thread, a: &[u64; 6]) -> Sys {
    // The host tells 20 less the value.
    let now = 20 - host::call(libc::SYS_getpriority, &[0, 0])? as i64;
    let wanted = (now + i64::from(a[0] as i32).clamp(-40, 40)).clamp(-20, 19);
    let refused = |e: Errno| if e.0 == libc::EACCES { Errno(libc::EPERM) } else { e };
    host::call(libc::SYS_setpriority, &[0, 0, wanted as u64]).map_err(refused)
}

/// One entry of a folder: its number, where it is, the length of its name, the name.
pub(super) fn readdir(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const NAME: usize = 19;
    let mut buf = vec![0; 512];
    let at = ours(t, &mut buf);
    let len = buf.len() as u64;
    if wide(t, "getdents64", [a[0], at, len, 0, 0, 0])? == 0 {
        return Ok(0);
    }
    let buf = std::hint::black_box(buf);
    let word = |at: usize| u64::from_le_bytes(buf[at..at + 8].try_into().unwrap_or_default());
    let name = buf[NAME..].split(|b| *b == 0).next().unwrap_or_default();
    let mut out = (word(0) as u32).to_le_bytes().to_vec();
    out.extend((word(8) as u32).to_le_bytes());
    out.extend((name.len() as u16).to_le_bytes());
    out.extend(name);
    out.push(0);
    t.process.mm.write(a[1], &out)?;
    // The others have been read as well.
    host::call(libc::SYS_lseek, &[a[0], word(8), libc::SEEK_SET as u64])?;
    Ok(1)
}

pub(super) fn stime(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let seconds = t.process.mm.read_u32(a[0])? as i32;
    let mut time = bytes_of(&[i64::from(seconds) as u64, 0]);
    let at = ours(t, &mut time);
    wide(t, "clock_settime", [libc::CLOCK_REALTIME as u64, at, 0, 0, 0, 0])
}

/// Five names.
fn names(t: &mut Thread, at: u64, size: usize) -> Sys {
    let mut all = vec![0; UTS * 6];
    let all_at = ours(t, &mut all);
    wide(t, "uname", [all_at, 0, 0, 0, 0, 0])?;
    let all = std::hint::black_box(all);
    let mut out = Vec::new();
    for name in all.chunks(UTS).take(5) {
        out.extend_from_slice(&name[..size - 1]);
        out.push(0);
    }
    t.process.mm.write(at, &out)?;
    Ok(0)
}

pub(super) fn olduname(t: &mut Thread, a: &[u64; 6]) -> Sys {
    names(t, a[0], UTS)
}

pub(super) fn oldolduname(t: &mut Thread, a: &[u64; 6]) -> Sys {
    names(t, a[0], OLDEST_UTS)
}

pub(super) fn oldstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    code::oldest_stat(t, [code::HERE, a[0], 0, 0, 0, 0], a[1])
}

pub(super) fn oldlstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    code::oldest_stat(t, [code::HERE, a[0], 0, libc::AT_SYMLINK_NOFOLLOW as u64, 0, 0], a[1])
}

pub(super) fn oldfstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mut empty = vec![0; 8];
    let path = ours(t, &mut empty);
    code::oldest_stat(t, [a[0], path, 0, libc::AT_EMPTY_PATH as u64, 0, 0], a[1])
}
