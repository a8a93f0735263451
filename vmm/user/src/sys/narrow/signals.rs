//! Signals: `struct sigaction`, `siginfo_t` (`include/uapi/asm-generic/siginfo.h`, `kernel/signal.c`).

use crate::host::{Errno, KEEP, Sys};
use crate::signal::UNBLOCKABLE;
use crate::thread::Thread;

use super::{layout, layout::Sides, ours, read, room, wide, write};

/// Where the part that depends on the code begins, there and here.
const UNION: usize = 12;
const HOST_UNION: usize = 16;
/// Bytes of the whole.
const INFO: usize = 128;
/// No field has 8 bytes.
const SIDES: Sides = Sides { align8: 4 };

/// The fields behind the header.
fn fields(signal: i32, code: i32) -> &'static str {
    const SI_USER: i32 = 0;
    const SI_TIMER: i32 = -2;
    const SI_SIGIO: i32 = -5;
    const SI_KERNEL: i32 = 0x80;
    match (signal, code) {
        (_, SI_TIMER) => "2wuw",
        (_, SI_SIGIO) | (libc::SIGPOLL, 1..=6) => "lw",
        (_, i32::MIN..=SI_USER) => "2wu",
        (libc::SIGCHLD, 1..=6) => "3w2l",
        (libc::SIGSYS, 1) => "p2w",
        (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP, _) => "ph",
        (_, SI_KERNEL) => "2wu",
        _ => "3w2l",
    }
}

fn header(b: &[u8]) -> (i32, i32) {
    let word = |at: usize| i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    (word(0), word(8))
}

/// The information of a 32-bit program.
pub(crate) fn info_to_guest(host: &[u8; INFO]) -> [u8; INFO] {
    let mut out = [0; INFO];
    let (signal, code) = header(host);
    out[..UNION].copy_from_slice(&host[..UNION]);
    let part = layout::to_guest(fields(signal, code), SIDES, &host[HOST_UNION..]);
    out[UNION..UNION + part.len()].copy_from_slice(&part);
    out
}

/// The host's information.
fn info_to_host(guest: &[u8; INFO]) -> [u8; INFO] {
    let mut out = [0; INFO];
    let (signal, code) = header(guest);
    out[..UNION].copy_from_slice(&guest[..UNION]);
    let part = layout::to_host(fields(signal, code), SIDES, &guest[UNION..]);
    out[HOST_UNION..HOST_UNION + part.len()].copy_from_slice(&part);
    out
}

fn put_info(t: &Thread, at: u64, host: &[u8]) -> Result<(), Errno> {
    let host: &[u8; INFO] = host.first_chunk().ok_or(Errno(libc::EFAULT))?;
    t.process.mm.write(at, &info_to_guest(host))
}

/// Handler, flags, the restorer where there is one, mask.
pub(super) fn rt_sigaction(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let layout = if t.process.abi.restorer { "3u2w" } else { "2u2w" };
    let mut new = if a[1] == 0 { None } else { Some(read(t, a[1], layout)?) };
    let mut old = room(Vec::new());
    let new_at = new.as_mut().map_or(0, |b| ours(t, b));
    let old_at = if a[2] == 0 { 0 } else { ours(t, &mut old) };
    let r = wide(t, "rt_sigaction", [a[0], new_at, old_at, a[3], 0, 0])?;
    if a[2] != 0 {
        write(t, a[2], layout, &old)?;
    }
    Ok(r)
}

fn wait_for(t: &mut Thread, a: &[u64; 6], layout: &str) -> Sys {
    let mut time = if a[2] == 0 { None } else { Some(read(t, a[2], layout)?) };
    let mut info = room(Vec::new());
    let time_at = time.as_mut().map_or(0, |b| ours(t, b));
    let info_at = ours(t, &mut info);
    let r = wide(t, "rt_sigtimedwait", [a[0], info_at, time_at, a[3], 0, 0])?;
    if a[1] != 0 {
        put_info(t, a[1], &info)?;
    }
    Ok(r)
}

pub(super) fn rt_sigtimedwait(t: &mut Thread, a: &[u64; 6]) -> Sys {
    wait_for(t, a, "2l")
}

pub(super) fn rt_sigtimedwait_time64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    wait_for(t, a, "qn")
}

fn queue(t: &mut Thread, name: &str, a: &[u64; 6], n: usize) -> Sys {
    let mut info = [0; INFO];
    t.process.mm.read(a[n], &mut info)?;
    let mut host = info_to_host(&info);
    let mut args = *a;
    args[n] = ours(t, &mut host);
    wide(t, name, args)
}

pub(super) fn rt_sigqueueinfo(t: &mut Thread, a: &[u64; 6]) -> Sys {
    queue(t, "rt_sigqueueinfo", a, 2)
}

pub(super) fn rt_tgsigqueueinfo(t: &mut Thread, a: &[u64; 6]) -> Sys {
    queue(t, "rt_tgsigqueueinfo", a, 3)
}

pub(super) fn waitid(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const RUSAGE: &str = "18l";
    let (mut info, mut usage) = (room(Vec::new()), room(Vec::new()));
    let info_at = ours(t, &mut info);
    let usage_at = if a[4] == 0 { 0 } else { ours(t, &mut usage) };
    let r = wide(t, "waitid", [a[0], a[1], info_at, a[3], usage_at, 0])?;
    if a[2] != 0 {
        put_info(t, a[2], &info)?;
    }
    if a[4] != 0 {
        write(t, a[4], RUSAGE, &usage)?;
    }
    Ok(r)
}

/// Out of a handler that takes no information.
pub(super) fn sigreturn(t: &mut Thread, _: &[u64; 6]) -> Sys {
    t.return_from_handler(false);
    Err(KEEP)
}

/// With masks of one word.
pub(super) fn sigprocmask(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let old = t.mask;
    if a[1] != 0 {
        let set = u64::from(t.process.mm.read_u32(a[1])?);
        let new = match a[0] as i32 {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => old & !0xffff_ffff | set,
            _ => return Err(Errno(libc::EINVAL)),
        };
        t.mask = new & !UNBLOCKABLE;
    }
    if a[2] != 0 {
        t.process.mm.write_u32(a[2], old as u32)?;
    }
    if t.mask != old && !t.slot.is_full() {
        t.set_host_mask();
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_round_trips() {
        let mut queued = [0u8; INFO];
        queued[..4].copy_from_slice(&34i32.to_le_bytes());
        queued[8..12].copy_from_slice(&(-1i32).to_le_bytes());
        queued[16..20].copy_from_slice(&77u32.to_le_bytes());
        queued[24..28].copy_from_slice(&0xabcdu32.to_le_bytes());
        let there = info_to_guest(&queued);
        assert_eq!((there[12], &there[20..22]), (77, &[0xcd, 0xab][..]));
        assert_eq!(info_to_host(&there), queued);
        let mut fault = [0u8; INFO];
        (fault[0], fault[8]) = (libc::SIGSEGV as u8, 1);
        fault[16..20].copy_from_slice(&0x1234_5678u32.to_le_bytes());
        assert_eq!(info_to_guest(&fault)[12..16], 0x1234_5678u32.to_le_bytes());
    }
}
