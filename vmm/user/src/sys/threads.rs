//! Threads: futexes, what a thread leaves behind, scheduling. A guest thread is a host thread, with its number.

use tcg_engine::direct::{cas_guest, read_guest};

use crate::host::{self, Errno, Sys};
use crate::thread::Thread;

use super::{Run::*, again, calls, host_by_name, once};

calls! {
    "futex" [Ptr, Hex, Int, Hex, Addr, Int] Do(futex);
    "futex_waitv" [Ptr, Int, Hex, Ptr, Int] Do(futex_waitv);
    "futex_wake" [Ptr, Hex, Int, Hex] Host;
    "futex_wait" [Ptr, Int, Hex, Hex, Ptr, Int] Host;
    "futex_requeue" [Ptr, Hex, Int, Int] Do(futex_requeue);
    "set_tid_address" [Addr] Do(set_tid_address);
    "set_robust_list" [Addr, Int] Do(set_robust_list);
    "get_robust_list" [Int, Ptr, Ptr] Do(get_robust_list);
    "rseq" [Addr, Int, Hex, Hex] No(libc::ENOSYS);
    "gettid" [] Host;
    "sched_yield" [] Host;
    "sched_setparam" [Int, Ptr] Host;
    "sched_getparam" [Int, Ptr] Host;
    "sched_setscheduler" [Int, Int, Ptr] Host;
    "sched_getscheduler" [Int] Host;
    "sched_get_priority_max" [Int] Host;
    "sched_get_priority_min" [Int] Host;
    "sched_rr_get_interval" [Int, Ptr] Host;
    "sched_setaffinity" [Int, Int, Ptr] Host;
    "sched_getaffinity" [Int, Int, Out] Host;
    "sched_setattr" [Int, Ptr, Hex] Host;
    "sched_getattr" [Int, Ptr, Int, Hex] Host;
    "ioprio_set" [Int, Int, Int] Host;
    "ioprio_get" [Int, Int] Host;
    "getcpu" [Ptr, Ptr, Ptr] Do(getcpu);
}

/// The fourth argument is a time for those that wait, a number for those that requeue.
fn futex(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const COMMAND: u64 = 0x7f;
    let mm = &t.process.mm;
    let command = (a[1] & COMMAND) as i32;
    let waits = matches!(
        command,
        libc::FUTEX_WAIT
            | libc::FUTEX_WAIT_BITSET
            | libc::FUTEX_LOCK_PI
            | libc::FUTEX_LOCK_PI2
            | libc::FUTEX_WAIT_REQUEUE_PI
    );
    let timeout = if waits { mm.pointer(a[3]) } else { a[3] };
    let second = if mm.host(0) == 0 { a[4] } else { mm.pointer(a[4]) };
    let r = host_by_name(t, "futex", [mm.pointer(a[0]), a[1], a[2], timeout, second, a[5]]);
    // A relative wait that is made again would wait too long.
    if command == libc::FUTEX_WAIT && a[3] != 0 { r.map_err(once) } else { r.map_err(again) }
}

/// `struct futex_waitv` of all architectures, with the host's addresses.
fn waiters(t: &Thread, at: u64, count: u64) -> Result<Vec<u64>, Errno> {
    const MOST: u64 = 128;
    const WORDS: u64 = 3;
    if at == 0 || !(1..=MOST).contains(&count) {
        return Err(Errno(libc::EINVAL));
    }
    let mm = &t.process.mm;
    let words: Result<Vec<u64>, Errno> = (0..count * WORDS).map(|n| mm.read_u64(at + n * 8)).collect();
    let mut words = words?;
    words.chunks_exact_mut(WORDS as usize).for_each(|w| w[1] = mm.pointer(w[1]));
    Ok(words)
}

fn futex_waitv(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let list = waiters(t, a[0], a[1] & 0xffff_ffff)?;
    let at = list.as_ptr() as u64;
    host_by_name(t, "futex_waitv", [at, a[1], a[2], t.process.mm.pointer(a[3]), a[4], 0]).map_err(again)
}

fn futex_requeue(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let list = waiters(t, a[0], 2)?;
    host_by_name(t, "futex_requeue", [list.as_ptr() as u64, a[1], a[2], a[3], 0, 0])
}

fn set_tid_address(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.clear_tid = a[0];
    Ok(host::gettid() as u64)
}

fn getcpu(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    if a[1] != 0 {
        return host_by_name(t, "getcpu", [mm.pointer(a[0]), mm.pointer(a[1]), 0, 0, 0, 0]);
    }
    if a[0] != 0 {
        mm.write_u32(a[0], host::cpu()?)?;
    }
    Ok(0)
}

/// The host walks the list when the thread ends, however it does: its layout is the host's.
fn set_robust_list(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[1] != 24 {
        return Err(Errno(libc::EINVAL));
    }
    t.robust = [a[0], a[1]];
    if t.process.mm.host(0) == 0 {
        host::call(libc::SYS_set_robust_list, &[a[0], a[1]])?;
    }
    Ok(0)
}

fn get_robust_list(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    if a[0] as i32 != 0 && a[0] as i32 != t.tid {
        return host::call(libc::SYS_get_robust_list, &[a[0], mm.pointer(a[1]), mm.pointer(a[2])]);
    }
    mm.write_u64(a[1], t.robust[0])?;
    mm.write_u64(a[2], 24)?;
    Ok(0)
}

/// What the kernel does with the list of a thread that ends (`kernel/futex/core.c`), where the host has not been told of it: each
/// futex the thread holds is marked, and one that waits for it is woken.
pub(crate) fn leave_robust_list(t: &Thread) {
    const MOST: usize = 2048;
    let mm = &t.process.mm;
    let head = t.robust[0];
    let wide = t.process.abi.wide;
    if head == 0 || mm.host(0) == 0 && wide {
        return;
    }
    let word = |at: u64| if wide { mm.read_u64(at) } else { mm.read_u32(at).map(u64::from) }.unwrap_or(0);
    let size = if wide { 8 } else { 4 };
    let (offset, pending) = (word(head + size), word(head + 2 * size) & !1);
    let offset = if wide { offset } else { offset as u32 as i32 as i64 as u64 };
    let mut at = word(head);
    let mut list = Vec::new();
    while at & !1 != head && at & !1 != 0 && list.len() < MOST {
        list.push(at & !1);
        at = word(at & !1);
    }
    if pending != 0 && !list.contains(&pending) {
        list.push(pending);
    }
    for entry in list {
        mark_owner_died(t, mm.host(entry.wrapping_add(offset)));
    }
}

fn mark_owner_died(t: &Thread, futex: u64) {
    const WAITERS: u32 = 1 << 31;
    const OWNER_DIED: u32 = 1 << 30;
    const OWNER: u32 = OWNER_DIED - 1;
    let mut bytes = [0; 4];
    if read_guest(futex, &mut bytes).is_err() {
        return;
    }
    let mut seen = u32::from_le_bytes(bytes);
    while seen & OWNER == t.tid as u32 {
        match cas_guest(futex, seen, seen & WAITERS | OWNER_DIED) {
            Ok(now) if now == seen => {
                if seen & WAITERS != 0 {
                    let _ = host::call(libc::SYS_futex, &[futex, libc::FUTEX_WAKE as u64, 1]);
                }
                return;
            }
            Ok(now) => seen = now,
            Err(_) => return,
        }
    }
}
