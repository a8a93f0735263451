//! Files and directories.

use crate::host::{self, Errno, Sys};
use crate::proc_files;
use crate::thread::Thread;

use super::{Run::*, again, calls, host_by_name, path};

calls! {
    "openat" [Dir, Path, Open, Mode] Do(openat);
    "openat2" [Dir, Path, Ptr, Int] Host;
    "open" [Path, Open, Mode] Do(open);
    "creat" [Path, Mode] Host;
    "close" [Fd] Do(close);
    "close_range" [Fd, Fd, Hex] Do(close_range);
    "read" [Fd, Out, Int] Host;
    "write" [Fd, In, Int] Host;
    "pread64" [Fd, Out, Int, Int] Host;
    "pwrite64" [Fd, In, Int, Int] Host;
    "readv" [Fd, Iov, Int] Host;
    "writev" [Fd, Iov, Int] Host;
    "preadv" [Fd, Iov, Int, Int, Int] Host;
    "pwritev" [Fd, Iov, Int, Int, Int] Host;
    "preadv2" [Fd, Iov, Int, Int, Int, Hex] Host;
    "pwritev2" [Fd, Iov, Int, Int, Int, Hex] Host;
    "sendfile" [Fd, Fd, Ptr, Int] Host;
    "splice" [Fd, Ptr, Fd, Ptr, Int, Hex] Host;
    "tee" [Fd, Fd, Int, Hex] Host;
    "vmsplice" [Fd, Iov, Int, Hex] Host;
    "copy_file_range" [Fd, Ptr, Fd, Ptr, Int, Hex] Host;
    "lseek" [Fd, Int, Int] Host;
    "fstat" [Fd, Ptr] Do(fstat);
    "newfstatat" [Dir, Path, Ptr, Hex] Do(newfstatat);
    "stat" [Path, Ptr] Do(stat);
    "lstat" [Path, Ptr] Do(lstat);
    "statx" [Dir, Path, Hex, Hex, Ptr] Do(statx);
    "statfs" [Path, Ptr] Host;
    "fstatfs" [Fd, Ptr] Host;
    "access" [Path, Int] Host;
    "faccessat" [Dir, Path, Int] Host;
    "faccessat2" [Dir, Path, Int, Hex] Host;
    "readlink" [Path, Out, Int] Do(readlink);
    "readlinkat" [Dir, Path, Out, Int] Do(readlinkat);
    "getdents64" [Fd, Out, Int] Host;
    "getdents" [Fd, Out, Int] Host;
    "getcwd" [Out, Int] Host;
    "chdir" [Path] Host;
    "fchdir" [Fd] Host;
    "chroot" [Path] Host;
    "mkdir" [Path, Mode] Host;
    "rmdir" [Path] Host;
    "mknod" [Path, Mode, Hex] Host;
    "unlink" [Path] Host;
    "symlink" [Str, Path] Host;
    "link" [Path, Path] Host;
    "rename" [Path, Path] Host;
    "chmod" [Path, Mode] Host;
    "chown" [Path, Int, Int] Host;
    "lchown" [Path, Int, Int] Host;
    "utime" [Path, Ptr] Host;
    "utimes" [Path, Ptr] Host;
    "futimesat" [Dir, Path, Ptr] Host;
    "mkdirat" [Dir, Path, Mode] Host;
    "mknodat" [Dir, Path, Mode, Hex] Host;
    "unlinkat" [Dir, Path, Hex] Host;
    "symlinkat" [Str, Dir, Path] Host;
    "linkat" [Dir, Path, Dir, Path, Hex] Host;
    "renameat" [Dir, Path, Dir, Path] Host;
    "renameat2" [Dir, Path, Dir, Path, Hex] Host;
    "truncate" [Path, Int] Host;
    "ftruncate" [Fd, Int] Host;
    "fallocate" [Fd, Hex, Int, Int] Host;
    "fadvise64" [Fd, Int, Int, Int] Host;
    "readahead" [Fd, Int, Int] Host;
    "fchmod" [Fd, Mode] Host;
    "fchmodat" [Dir, Path, Mode] Host;
    "fchmodat2" [Dir, Path, Mode, Hex] Host;
    "fchown" [Fd, Int, Int] Host;
    "fchownat" [Dir, Path, Int, Int, Hex] Host;
    "utimensat" [Dir, Path, Ptr, Hex] Host;
    "umask" [Mode] Host;
    "dup" [Fd] Do(dup);
    "dup2" [Fd, Fd] Do(dup2);
    "dup3" [Fd, Fd, Hex] Do(dup3);
    "fcntl" [Fd, Int, Hex] Do(fcntl);
    "flock" [Fd, Int] Host;
    "pipe" [Ptr] Host;
    "pipe2" [Ptr, Open] Host;
    "sync" [] Host;
    "syncfs" [Fd] Host;
    "fsync" [Fd] Host;
    "fdatasync" [Fd] Host;
    "sync_file_range" [Fd, Int, Int, Hex] Host;
    "setxattr" [Path, Str, In, Int, Hex] Host;
    "lsetxattr" [Path, Str, In, Int, Hex] Host;
    "fsetxattr" [Fd, Str, In, Int, Hex] Host;
    "getxattr" [Path, Str, Out, Int] Host;
    "lgetxattr" [Path, Str, Out, Int] Host;
    "fgetxattr" [Fd, Str, Out, Int] Host;
    "listxattr" [Path, Out, Int] Host;
    "llistxattr" [Path, Out, Int] Host;
    "flistxattr" [Fd, Out, Int] Host;
    "removexattr" [Path, Str] Host;
    "lremovexattr" [Path, Str] Host;
    "fremovexattr" [Fd, Str] Host;
    "mount" [Path, Path, Str, Hex, Ptr] Host;
    "umount2" [Path, Hex] Host;
    "pivot_root" [Path, Path] Host;
    "swapon" [Path, Hex] Host;
    "swapoff" [Path] Host;
    "open_tree" [Dir, Path, Hex] Host;
    "move_mount" [Fd, Path, Fd, Path, Hex] Host;
    "fsopen" [Str, Hex] Host;
    "fsconfig" [Fd, Int, Str, Ptr, Int] Host;
    "fsmount" [Fd, Hex, Hex] Host;
    "fspick" [Dir, Path, Hex] Host;
    "mount_setattr" [Dir, Path, Hex, Ptr, Int] Host;
    "name_to_handle_at" [Dir, Path, Ptr, Ptr, Hex] Host;
    "open_by_handle_at" [Fd, Ptr, Hex] Host;
    "inotify_init" [] Host;
    "inotify_init1" [Hex] Host;
    "inotify_add_watch" [Fd, Path, Hex] Host;
    "inotify_rm_watch" [Fd, Int] Host;
    "fanotify_init" [Hex, Hex] Host;
    "fanotify_mark" [Fd, Hex, Hex, Dir, Path] Host;
    "quotactl" [Hex, Path, Int, Ptr] Host;
    "quotactl_fd" [Fd, Hex, Int, Ptr] Host;
    "cachestat" [Fd, Ptr, Ptr, Hex] Host;
    "vhangup" [] Host;
}

/// This directory, as an argument.
const HERE: u64 = libc::AT_FDCWD as u64;

fn open(t: &mut Thread, a: &[u64; 6]) -> Sys {
    openat(t, &[HERE, a[0], a[1], a[2], 0, 0])
}

fn openat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let name = t.process.mm.read_str(a[1], libc::PATH_MAX as usize)?;
    if let Some(fd) = proc_files::open(t, &name, a[2] as i32)? {
        return Ok(fd);
    }
    let p = path(t, a[1])?;
    host_by_name(t, "openat", [a[0], host::arg(&p), a[2], a[3], 0, 0]).map_err(again)
}

/// Rhea's own descriptor is none of the guest's.
fn not_ours(t: &Thread, fd: u64) -> Result<(), Errno> {
    let own = t.process.rhea.load(std::sync::atomic::Ordering::Relaxed);
    if fd as i32 == own && own >= 0 { Err(Errno(libc::EBADF)) } else { Ok(()) }
}

fn close(t: &mut Thread, a: &[u64; 6]) -> Sys {
    not_ours(t, a[0])?;
    host::call(libc::SYS_close, &[a[0]])
}

fn dup(t: &mut Thread, a: &[u64; 6]) -> Sys {
    not_ours(t, a[0])?;
    host::call(libc::SYS_dup, a)
}

/// A guest that takes the number of Rhea's own descriptor gets it: ours moves.
fn dup3(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let own = &t.process.rhea;
    let number = own.load(std::sync::atomic::Ordering::Relaxed);
    if a[1] as i32 == number && number >= 0 {
        let above = (number as u64).saturating_sub(64);
        let moved = host::call(libc::SYS_fcntl, &[number as u64, libc::F_DUPFD_CLOEXEC as u64, above])?;
        own.store(moved as i32, std::sync::atomic::Ordering::Relaxed);
    }
    host::call(libc::SYS_dup3, a)
}

fn dup2(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[0] as i32 == a[1] as i32 {
        // Says only whether it is open.
        return host::call(libc::SYS_fcntl, &[a[0], libc::F_GETFD as u64]).map(|_| u64::from(a[1] as u32));
    }
    dup3(t, &[a[0], a[1], 0, 0, 0, 0])
}

fn close_range(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let (first, last) = (u64::from(a[0] as u32), u64::from(a[1] as u32));
    let own = t.process.rhea.load(std::sync::atomic::Ordering::Relaxed);
    let own = u64::try_from(own).unwrap_or(u64::MAX);
    if first > last || !(first..=last).contains(&own) {
        return host::call(libc::SYS_close_range, &[first, last, a[2]]);
    }
    if own > first {
        host::call(libc::SYS_close_range, &[first, own - 1, a[2]])?;
    }
    if own < last {
        host::call(libc::SYS_close_range, &[own + 1, last, a[2]])?;
    }
    Ok(0)
}

fn fcntl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    not_ours(t, a[0])?;
    let pointer = matches!(
        a[1] as i32,
        libc::F_GETLK
            | libc::F_SETLK
            | libc::F_SETLKW
            | libc::F_OFD_GETLK
            | libc::F_OFD_SETLK
            | libc::F_OFD_SETLKW
            | 15
            | 16
            | 1035..=1038
    );
    let arg = if pointer { t.process.mm.pointer(a[2]) } else { a[2] };
    host_by_name(t, "fcntl", [a[0], a[1], arg, 0, 0, 0]).map_err(again)
}

/// `struct stat` of `include/uapi/asm-generic/stat.h`.
fn generic_stat(s: &libc::stat) -> Vec<u8> {
    let mut b = Vec::with_capacity(128);
    let mut w = |v: u64, n: usize| b.extend_from_slice(&v.to_le_bytes()[..n]);
    w(s.st_dev, 8);
    w(s.st_ino, 8);
    w(s.st_mode.into(), 4);
    w(s.st_nlink, 4);
    w(s.st_uid.into(), 4);
    w(s.st_gid.into(), 4);
    w(s.st_rdev, 8);
    w(0, 8);
    w(s.st_size as u64, 8);
    w(s.st_blksize as u64, 4);
    w(0, 4);
    w(s.st_blocks as u64, 8);
    for (sec, nsec) in
        [(s.st_atime, s.st_atime_nsec), (s.st_mtime, s.st_mtime_nsec), (s.st_ctime, s.st_ctime_nsec)]
    {
        w(sec as u64, 8);
        w(nsec as u64, 8);
    }
    w(0, 8);
    b
}

fn stat_at(t: &Thread, dir: u64, path: u64, flags: u64) -> Result<Vec<u8>, Errno> {
    let mut buf = [0u64; size_of::<libc::stat>().div_ceil(8)];
    host::call(libc::SYS_newfstatat, &[dir, path, buf.as_mut_ptr() as u64, flags])?;
    if t.process.abi.host_layout {
        return Ok(buf.iter().flat_map(|w| w.to_le_bytes()).collect());
    }
    Ok(generic_stat(&host::as_stat(&buf)))
}

fn stat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    newfstatat(t, &[HERE, a[0], a[1], 0, 0, 0])
}

fn lstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    newfstatat(t, &[HERE, a[0], a[1], libc::AT_SYMLINK_NOFOLLOW as u64, 0, 0])
}

fn readlink(t: &mut Thread, a: &[u64; 6]) -> Sys {
    readlinkat(t, &[HERE, a[0], a[1], a[2], 0, 0])
}

fn fstat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    not_ours(t, a[0])?;
    let empty = c"";
    let s = stat_at(t, a[0] as i32 as i64 as u64, host::arg(empty), libc::AT_EMPTY_PATH as u64)?;
    t.process.mm.write(a[1], &s)?;
    Ok(0)
}

fn newfstatat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let name = t.process.mm.read_str(a[1], libc::PATH_MAX as usize)?;
    let s = match proc_files::exe_path(t, &name, a[3] as i32) {
        Some(p) => stat_at(t, a[0], host::arg(&p), a[3])?,
        None => {
            let p = path(t, a[1])?;
            stat_at(t, a[0], host::arg(&p), a[3])?
        }
    };
    t.process.mm.write(a[2], &s)?;
    Ok(0)
}

fn statx(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let p = if a[1] == 0 { None } else { Some(path(t, a[1])?) };
    let path = p.as_ref().map_or(0, |p| host::arg(p));
    host::call(libc::SYS_statx, &[a[0], path, a[2], a[3], t.process.mm.pointer(a[4])])
}

fn readlinkat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let name = t.process.mm.read_str(a[1], libc::PATH_MAX as usize)?;
    if let Some(link) = proc_files::link(t, &name) {
        let n = link.len().min(a[3] as usize);
        if n == 0 {
            return Err(Errno(libc::EINVAL));
        }
        t.process.mm.write(a[2], &link[..n])?;
        return Ok(n as u64);
    }
    let p = path(t, a[1])?;
    host::call(libc::SYS_readlinkat, &[a[0], host::arg(&p), t.process.mm.pointer(a[2]), a[3]])
}
