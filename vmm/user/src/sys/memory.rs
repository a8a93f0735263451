//! Memory.

use crate::host::{self, Errno, Sys};
use crate::thread::Thread;

use super::{Run::*, calls};

calls! {
    "mmap" [Addr, Int, Prot, Map, Fd, Hex] Do(mmap);
    "munmap" [Addr, Int] Do(munmap);
    "mprotect" [Addr, Int, Prot] Do(mprotect);
    "pkey_mprotect" [Addr, Int, Prot, Int] Do(mprotect);
    "pkey_alloc" [Hex, Hex] No(libc::ENOSPC);
    "pkey_free" [Int] No(libc::EINVAL);
    "mremap" [Addr, Int, Int, Hex, Addr] Do(mremap);
    "brk" [Addr] Do(brk);
    "madvise" [Addr, Int, Int] Do(madvise);
    "msync" [Addr, Int, Hex] Do(msync);
    "mincore" [Addr, Int, Out] Do(mincore);
    "mlock" [Addr, Int] Do(mlock);
    "mlock2" [Addr, Int, Hex] Do(mlock2);
    "munlock" [Addr, Int] Do(munlock);
    "mlockall" [Hex] Do(accept);
    "munlockall" [] Do(accept);
    "memfd_create" [Str, Hex] Host;
    "userfaultfd" [Hex] No(libc::ENOSYS);
    "process_madvise" [Fd, Iov, Int, Int, Hex] No(libc::ENOSYS);
    "process_vm_readv" [Int, Ptr, Int, Ptr, Int, Hex] Host;
    "process_vm_writev" [Int, Ptr, Int, Ptr, Int, Hex] Host;
    "membarrier" [Int, Hex, Int] Do(membarrier);
    "mbind" [Addr, Int, Int, Ptr, Int, Hex] No(libc::ENOSYS);
    "get_mempolicy" [Ptr, Ptr, Int, Addr, Hex] No(libc::ENOSYS);
    "set_mempolicy" [Int, Ptr, Int] No(libc::ENOSYS);
    "riscv_flush_icache" [Addr, Addr, Hex] Do(flush_icache);
    "remap_file_pages" [Addr, Int, Prot, Int, Hex] No(libc::ENOSYS);
    "mseal" [Addr, Int, Hex] No(libc::ENOSYS);
}

fn mmap(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    let (len, flags) = (a[1], a[3] as i32);
    let fixed = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
    let low = t.process.abi.host_layout && flags & libc::MAP_32BIT != 0 && !fixed;
    let hint = if low { mm.find_low_room(len)? } else { a[0] };
    mm.mmap(hint, len, a[2] as u32, flags, a[4] as i32, a[5])
}

fn munmap(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.munmap(a[0], a[1])
}

fn mprotect(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.mprotect(a[0], a[1], a[2] as u32)
}

fn mremap(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.mremap(a[0], a[1], a[2], a[3] as i32, a[4])
}

fn brk(t: &mut Thread, a: &[u64; 6]) -> Sys {
    Ok(t.process.mm.brk(a[0]))
}

fn madvise(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.on_range(libc::SYS_madvise, a[0], a[1], &[a[2]])
}

fn msync(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.on_range(libc::SYS_msync, a[0], a[1], &[a[2]])
}

fn mincore(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let out = t.process.mm.pointer(a[2]);
    t.process.mm.on_range(libc::SYS_mincore, a[0], a[1], &[out])
}

fn mlock(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.on_range(libc::SYS_mlock, a[0], a[1], &[])
}

fn mlock2(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.on_range(libc::SYS_mlock2, a[0], a[1], &[a[2]])
}

fn munlock(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.process.mm.on_range(libc::SYS_munlock, a[0], a[1], &[])
}

/// Locking all would lock Rhea's own memory.
fn accept(_: &mut Thread, _: &[u64; 6]) -> Sys {
    Ok(0)
}

/// From start to end: the program says where it has changed code.
fn flush_icache(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[2] & !1 != 0 {
        return Err(Errno(libc::EINVAL));
    }
    t.process.machine.invalidate(a[0]..a[1]);
    Ok(0)
}

/// The commands that abort restartable sequences are not there, as these are not (`rseq`).
fn membarrier(_: &mut Thread, a: &[u64; 6]) -> Sys {
    const QUERY: u32 = 0;
    const EXPEDITED_RSEQ: u32 = 1 << 7;
    const REGISTER_EXPEDITED_RSEQ: u32 = 1 << 8;
    match a[0] as u32 {
        EXPEDITED_RSEQ | REGISTER_EXPEDITED_RSEQ => Err(Errno(libc::EINVAL)),
        QUERY => {
            let known = host::call(libc::SYS_membarrier, a)?;
            Ok(known & !u64::from(EXPEDITED_RSEQ | REGISTER_EXPEDITED_RSEQ))
        }
        _ => host::call(libc::SYS_membarrier, a),
    }
}
