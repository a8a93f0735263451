//! Signals. Masks and dispositions are the host's too; see `crate::signal`.

use crate::host::{Errno, KEEP, Sys};
use crate::signal::{self, Action, MAX, UNBLOCKABLE, bit};
use crate::thread::Thread;

use super::{Run::*, calls, host_by_name, poll::temporary_mask, poll::unless_handled};

calls! {
    "rt_sigaction" [Sig, Ptr, Ptr, Int] Do(rt_sigaction);
    "rt_sigprocmask" [Int, Ptr, Ptr, Int] Do(rt_sigprocmask);
    "rt_sigpending" [Ptr, Int] Host;
    "rt_sigtimedwait" [Ptr, Ptr, Ptr, Int] Once;
    "rt_sigsuspend" [Ptr, Int] Do(rt_sigsuspend);
    "rt_sigreturn" [] Do(rt_sigreturn);
    "rt_sigqueueinfo" [Int, Sig, Ptr] Host;
    "rt_tgsigqueueinfo" [Int, Int, Sig, Ptr] Host;
    "sigaltstack" [Ptr, Ptr] Do(sigaltstack);
    "kill" [Int, Sig] Host;
    "tkill" [Int, Sig] Host;
    "tgkill" [Int, Int, Sig] Host;
    "pidfd_send_signal" [Fd, Sig, Ptr, Hex] Host;
    "pause" [] Do(pause);
    "signalfd" [Fd, Ptr, Int] Host;
    "signalfd4" [Fd, Ptr, Int, Hex] Host;
    "restart_syscall" [] No(libc::EINTR);
}

const EINVAL: Errno = Errno(libc::EINVAL);

/// `struct sigaction`: handler, flags, the restorer where there is one, mask.
fn rt_sigaction(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let number = a[0] as i32;
    if !(1..=MAX).contains(&number) || a[3] != 8 {
        return Err(EINVAL);
    }
    let mm = &t.process.mm;
    let restorer = t.process.abi.restorer;
    let new = if a[1] == 0 {
        None
    } else {
        if bit(number) & UNBLOCKABLE != 0 {
            return Err(EINVAL);
        }
        let mut b = [0; 32];
        mm.read(a[1], &mut b[..if restorer { 32 } else { 24 }])?;
        let word = |n: usize| u64::from_le_bytes(b[n * 8..n * 8 + 8].try_into().unwrap_or_default());
        let (mask, restorer) = if restorer { (word(3), Some(word(2))) } else { (word(2), None) };
        Some(Action { handler: word(0), flags: word(1), mask: mask & !UNBLOCKABLE, restorer })
    };
    let mut actions = t.process.actions();
    let old = actions[number as usize];
    if a[2] != 0 {
        let mut words = vec![old.handler, old.flags, old.mask];
        if restorer {
            words.insert(2, old.restorer.unwrap_or(0));
        }
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        mm.write(a[2], &bytes)?;
    }
    if let Some(new) = new {
        actions[number as usize] = new;
        signal::install(number, &new);
    }
    Ok(0)
}

fn rt_sigprocmask(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[3] != 8 {
        return Err(EINVAL);
    }
    let old = t.mask;
    if a[1] != 0 {
        let set = t.process.mm.read_u64(a[1])?;
        let new = match a[0] as i32 {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(EINVAL),
        };
        t.mask = new & !UNBLOCKABLE;
    }
    if a[2] != 0 {
        t.process.mm.write_u64(a[2], old)?;
    }
    // While a signal waits in the slot the host blocks all; its delivery sets the mask.
    if t.mask != old && !t.slot.is_full() {
        t.set_host_mask();
    }
    Ok(0)
}

fn rt_sigsuspend(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let Some(mask) = temporary_mask(t, a[0], a[1])? else { return Err(Errno(libc::EFAULT)) };
    let at = std::ptr::from_ref(&mask) as u64;
    host_by_name(t, "rt_sigsuspend", [at, 8, 0, 0, 0, 0]).map_err(unless_handled)
}

fn pause(t: &mut Thread, _: &[u64; 6]) -> Sys {
    host_by_name(t, "pause", [0; 6]).map_err(unless_handled)
}

fn rt_sigreturn(t: &mut Thread, _: &[u64; 6]) -> Sys {
    t.return_from_handler(true);
    Err(KEEP)
}

fn sigaltstack(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const MIN: u64 = 2048;
    const DISABLE: u64 = 2;
    let mm = t.process.mm.clone();
    let old = t.alt_stack_now();
    if a[0] != 0 {
        let mut b = [0; 24];
        mm.read(a[0], &mut b)?;
        let word = |n: usize| u64::from_le_bytes(b[n * 8..n * 8 + 8].try_into().unwrap_or_default());
        let (start, flags, size) = (word(0), word(1) & 0xffff_ffff, word(2));
        if t.on_alt_stack(t.cpu.reg(t.process.abi.sp)) {
            return Err(Errno(libc::EPERM));
        }
        if flags & !(DISABLE | 1 | 1 << 31) != 0 {
            return Err(EINVAL);
        }
        if flags & DISABLE == 0 && size < MIN {
            return Err(Errno(libc::ENOMEM));
        }
        t.alt_stack = if flags & DISABLE != 0 { [0, DISABLE, 0] } else { [start, 0, size] };
    }
    if a[1] != 0 {
        mm.write(a[1], &old.map(u64::to_le_bytes).concat())?;
    }
    Ok(0)
}
