//! Calls that take more than a change of their arguments: files, waiting, memory, threads.

use crate::host::{self, Errno, Sys};
use crate::thread::Thread;

use super::{bytes_of, ours, read, room, wide, write};

const EINVAL: Errno = Errno(libc::EINVAL);
/// `struct flock` and `struct flock64`, the host's being `2hqqw`.
const FLOCK: &str = "2h2lw";
const FLOCK64: &str = "2h2qw";
pub(super) const HERE: u64 = libc::AT_FDCWD as u64;

pub(super) fn llseek(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let offset = a[1] << 32 | a[2] & 0xffff_ffff;
    let at = wide(t, "lseek", [a[0], offset, a[4], 0, 0, 0])?;
    t.process.mm.write_u64(a[3], at)?;
    Ok(0)
}

pub(super) fn fcntl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    // The 64-bit commands of 32-bit programs.
    const GETLK64: i32 = 12;
    const SETLKW64: i32 = 14;
    let command = a[1] as i32;
    let (layout, host) = match command {
        libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW => (FLOCK, command),
        libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => (FLOCK64, command),
        GETLK64..=SETLKW64 => (FLOCK64, command - GETLK64 + libc::F_GETLK),
        _ => return wide(t, "fcntl", *a),
    };
    let mut lock = read(t, a[2], layout)?;
    let at = ours(t, &mut lock);
    let r = wide(t, "fcntl", [a[0], host as u64, at, 0, 0, 0])?;
    if matches!(host, libc::F_GETLK | libc::F_OFD_GETLK) {
        write(t, a[2], layout, &lock)?;
    }
    Ok(r)
}

/// `struct stat` and `struct stat64` of i386 (`arch/x86/include/uapi/asm/stat.h`), from the host's.
fn put_stat(t: &Thread, at: u64, s: &libc::stat, long: bool) -> Result<(), Errno> {
    let times = [(s.st_atime, s.st_atime_nsec), (s.st_mtime, s.st_mtime_nsec), (s.st_ctime, s.st_ctime_nsec)];
    let mut b = Vec::with_capacity(96);
    let mut w = |v: u64, n: usize| b.extend_from_slice(&v.to_le_bytes()[..n]);
    if long {
        w(s.st_dev, 8);
        w(0, 4);
        w(s.st_ino, 4);
        w(s.st_mode.into(), 4);
        w(s.st_nlink, 4);
        w(s.st_uid.into(), 4);
        w(s.st_gid.into(), 4);
        w(s.st_rdev, 8);
        w(0, 4);
        w(s.st_size as u64, 8);
        w(s.st_blksize as u64, 4);
        w(s.st_blocks as u64, 8);
    } else {
        w(s.st_dev, 4);
        w(s.st_ino, 4);
        w(s.st_mode.into(), 2);
        w(s.st_nlink, 2);
        w(s.st_uid.into(), 2);
        w(s.st_gid.into(), 2);
        w(s.st_rdev, 4);
        w(s.st_size as u64, 4);
        w(s.st_blksize as u64, 4);
        w(s.st_blocks as u64, 4);
    }
    for (sec, nsec) in times {
        w(sec as u64, 4);
        w(nsec as u64, 4);
    }
    w(if long { s.st_ino } else { 0 }, 8);
    t.process.mm.write(at, &b)
}

fn stat_of(t: &mut Thread, call: &str, args: [u64; 6], out: usize, at: u64, long: bool) -> Sys {
    let mut buf = [0u64; size_of::<libc::stat>().div_ceil(8)];
    let mut args = args;
    args[out] = (buf.as_mut_ptr() as u64).wrapping_sub(t.process.mm.host(0));
    wide(t, call, args)?;
    let s = host::as_stat(std::hint::black_box(&buf));
    if !long && s.st_size as u64 >> 31 != 0 {
        return Err(Errno(libc::EOVERFLOW));
    }
    put_stat(t, at, &s, long)?;
    Ok(0)
}

/// `struct __old_kernel_stat`, which has neither blocks nor parts of seconds.
pub(super) fn oldest_stat(t: &mut Thread, args: [u64; 6], at: u64) -> Sys {
    let mut buf = [0u64; size_of::<libc::stat>().div_ceil(8)];
    let mut args = args;
    args[2] = (buf.as_mut_ptr() as u64).wrapping_sub(t.process.mm.host(0));
    wide(t, "newfstatat", args)?;
    let s = host::as_stat(std::hint::black_box(&buf));
    if s.st_size as u64 >> 31 != 0 {
        return Err(Errno(libc::EOVERFLOW));
    }
    let shorts =
        [s.st_dev, s.st_ino, s.st_mode.into(), s.st_nlink, s.st_uid.into(), s.st_gid.into(), s.st_rdev];
    let mut b: Vec<u8> = shorts.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect();
    b.extend([0; 2]);
    let words = [s.st_size, s.st_atime, s.st_mtime, s.st_ctime];
    b.extend(words.iter().flat_map(|v| (*v as u32).to_le_bytes()));
    t.process.mm.write(at, &b)?;
    Ok(0)
}

pub(super) fn stat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    stat_of(t, "newfstatat", [HERE, a[0], 0, 0, 0, 0], 2, a[1], false)
}

pub(super) fn lstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let flags = libc::AT_SYMLINK_NOFOLLOW as u64;
    stat_of(t, "newfstatat", [HERE, a[0], 0, flags, 0, 0], 2, a[1], false)
}

pub(super) fn fstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    stat_of(t, "fstat", [a[0], 0, 0, 0, 0, 0], 1, a[1], false)
}

pub(super) fn stat64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    stat_of(t, "newfstatat", [HERE, a[0], 0, 0, 0, 0], 2, a[1], true)
}

pub(super) fn lstat64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let flags = libc::AT_SYMLINK_NOFOLLOW as u64;
    stat_of(t, "newfstatat", [HERE, a[0], 0, flags, 0, 0], 2, a[1], true)
}

pub(super) fn fstat64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    stat_of(t, "fstat", [a[0], 0, 0, 0, 0, 0], 1, a[1], true)
}

pub(super) fn fstatat64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    stat_of(t, "newfstatat", [a[0], a[1], 0, a[3], 0, 0], 2, a[2], true)
}

/// `struct linux_dirent` of words, from the host's 64-bit entries, of which some may not be taken: then the directory goes back.
pub(super) fn getdents(t: &mut Thread, a: &[u64; 6]) -> Sys {
    /// Offset of the name in an entry there, and here.
    const NAME: usize = 10;
    const HOST_NAME: usize = 19;
    let room = (a[2] as usize).min(1 << 16);
    let mut buf = vec![0u8; room];
    let at = ours(t, &mut buf);
    let n = wide(t, "getdents64", [a[0], at, room as u64, 0, 0, 0])? as usize;
    let mut out = Vec::new();
    let mut rest = &std::hint::black_box(&buf)[..n];
    let mut last = 0;
    while rest.len() > HOST_NAME {
        let long = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap_or_default());
        let len = usize::from(u16::from_le_bytes([rest[16], rest[17]])).clamp(HOST_NAME, rest.len());
        let name = rest[HOST_NAME..len].split(|b| *b == 0).next().unwrap_or_default();
        let entry = (NAME + name.len() + 2).next_multiple_of(4);
        if out.len() + entry > room {
            host::call(libc::SYS_lseek, &[a[0], last, libc::SEEK_SET as u64])?;
            break;
        }
        let start = out.len();
        last = long(8);
        out.extend_from_slice(&(long(0) as u32).to_le_bytes());
        out.extend_from_slice(&(short_offset(last) as u32).to_le_bytes());
        out.extend_from_slice(&(entry as u16).to_le_bytes());
        out.extend_from_slice(name);
        out.resize(start + entry, 0);
        out[start + entry - 1] = rest[18];
        rest = &rest[len..];
    }
    if out.is_empty() && n != 0 {
        return Err(EINVAL);
    }
    t.process.mm.write(a[1], &out)?;
    Ok(out.len() as u64)
}

/// A directory's offset in 32 bits: file systems that sort by a hash have it in the upper half of theirs.
fn short_offset(offset: u64) -> u64 {
    if offset >> 31 == 0 { offset } else { offset >> 32 & 0x7fff_ffff }
}

/// The entries as they are, with offsets that fit where C libraries put them.
pub(super) fn getdents64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let n = wide(t, "getdents64", *a)?;
    let mm = &t.process.mm;
    let mut at = 0;
    while at + 18 <= n {
        let entry = a[1] + at;
        let offset = mm.read_u64(entry + 8)?;
        mm.write_u64(entry + 8, short_offset(offset))?;
        let len = u64::from(mm.read_u32(entry + 16)? & 0xffff);
        at += len.max(1);
    }
    Ok(n)
}

/// Sets of descriptors, in the host's longs; the bytes the program's have.
fn set(t: &Thread, at: u64, count: u64) -> Result<(Vec<u8>, usize), Errno> {
    let there = count.div_ceil(32) as usize * 4;
    let mut bytes = vec![0; there];
    if at != 0 {
        t.process.mm.read(at, &mut bytes)?;
    }
    Ok((room(bytes), there))
}

const MOST_DESCRIPTORS: u64 = 1 << 20;

/// `select` and `pselect6` with a time of the host's: `name` is the host's call.
fn select_with(t: &mut Thread, name: &str, a: &[u64; 6], time: u64, last: u64) -> Sys {
    if a[0] > MOST_DESCRIPTORS {
        return Err(EINVAL);
    }
    let mut sets = [set(t, a[1], a[0])?, set(t, a[2], a[0])?, set(t, a[3], a[0])?];
    let mut at = |n: usize| if a[n + 1] == 0 { 0 } else { ours(t, &mut sets[n].0) };
    let args = [a[0], at(0), at(1), at(2), time, last];
    let r = wide(t, name, args)?;
    for (n, (bytes, len)) in sets.iter().enumerate() {
        if a[n + 1] != 0 {
            t.process.mm.write(a[n + 1], &bytes[..*len])?;
        }
    }
    Ok(r)
}

pub(super) fn select(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[4] == 0 {
        return select_with(t, "select", a, 0, 0);
    }
    let mut time = read(t, a[4], "2l")?;
    let r = select_with(t, "select", a, ours(t, &mut time), 0);
    // What is left of the time.
    if r.is_ok() {
        write(t, a[4], "2l", &time)?;
    }
    r
}

/// The arguments lie in memory.
pub(super) fn old_select(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let w = super::words(t, a[0], 5, false)?;
    select(t, &[w[0], w[1], w[2], w[3], w[4], 0])
}

fn pselect(t: &mut Thread, a: &[u64; 6], layout: &str) -> Sys {
    let mut time = if a[4] == 0 { None } else { Some(read(t, a[4], layout)?) };
    let mut mask = if a[5] == 0 { None } else { Some(bytes_of(&super::words(t, a[5], 2, false)?)) };
    let at = |b: &mut Option<Vec<u8>>| b.as_mut().map_or(0, |b| ours(t, b));
    let (time_at, mask_at) = (at(&mut time), at(&mut mask));
    select_with(t, "pselect6", a, time_at, mask_at)
}

pub(super) fn pselect6(t: &mut Thread, a: &[u64; 6]) -> Sys {
    pselect(t, a, "2l")
}

pub(super) fn pselect6_time64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    pselect(t, a, "qn")
}

/// The offset counts pages.
pub(super) fn mmap2(t: &mut Thread, a: &[u64; 6]) -> Sys {
    wide(t, "mmap", [a[0], a[1], a[2], a[3], a[4], a[5] << 12])
}

/// The arguments lie in memory.
pub(super) fn old_mmap(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let w = super::words(t, a[0], 6, false)?;
    wide(t, "mmap", [w[0], w[1], w[2], w[3], w[4], w[5]])
}

/// `struct sysinfo`: memory in units that make the numbers fit.
pub(super) fn sysinfo(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const LAYOUT: &str = "l3u6u2h2uw";
    /// The six amounts of memory in the host's structure, in words, and the unit in bytes.
    const AMOUNTS: std::ops::Range<usize> = 4..10;
    const UNIT: usize = 104;
    let mut b = room(Vec::new());
    let at = b.as_mut_ptr() as u64;
    host::call(libc::SYS_sysinfo, &[at])?;
    let mut words: Vec<u64> =
        b.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect();
    let mut unit = u32::from_le_bytes(b[UNIT..UNIT + 4].try_into().unwrap_or_default());
    while words[AMOUNTS].iter().any(|w| *w >> 32 != 0) && unit < 1 << 31 {
        words[AMOUNTS].iter_mut().for_each(|w| *w >>= 1);
        unit *= 2;
    }
    let mut b = bytes_of(&words);
    b[UNIT..UNIT + 4].copy_from_slice(&unit.to_le_bytes());
    write(t, a[0], LAYOUT, &b)?;
    Ok(0)
}

fn futex_with(t: &mut Thread, a: &[u64; 6], layout: &str) -> Sys {
    const COMMAND: u64 = 0x7f;
    let waits = matches!(
        (a[1] & COMMAND) as i32,
        libc::FUTEX_WAIT
            | libc::FUTEX_WAIT_BITSET
            | libc::FUTEX_LOCK_PI
            | libc::FUTEX_LOCK_PI2
            | libc::FUTEX_WAIT_REQUEUE_PI
    );
    if !waits || a[3] == 0 {
        return wide(t, "futex", *a);
    }
    let mut time = read(t, a[3], layout)?;
    let at = ours(t, &mut time);
    wide(t, "futex", [a[0], a[1], a[2], at, a[4], a[5]])
}

pub(super) fn futex(t: &mut Thread, a: &[u64; 6]) -> Sys {
    futex_with(t, a, "2l")
}

pub(super) fn futex_time64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    futex_with(t, a, "qn")
}

/// The host cannot walk it: it is walked when the thread ends.
pub(super) fn set_robust_list(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[1] != 12 {
        return Err(EINVAL);
    }
    t.robust = [a[0], a[1]];
    Ok(0)
}

pub(super) fn get_robust_list(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[0] as i32 != 0 && a[0] as i32 != t.tid {
        return Err(Errno(libc::EPERM));
    }
    t.process.mm.write_u32(a[1], t.robust[0] as u32)?;
    t.process.mm.write_u32(a[2], 12)?;
    Ok(0)
}
