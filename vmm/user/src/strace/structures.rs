//! What structures of a program's memory say, as strace prints them. Layouts are the guest kernel's
//! (`include/uapi/asm-generic/signal.h`, `arch/x86/include/uapi/asm/signal.h` of Linux 6.12).

use super::{flags, signal_name, u32_at};
use crate::signal::MAX;
use crate::thread::Thread;

/// Bits of `sa_flags`.
const ACTION: &[(u64, &str)] = &[
    (0x0400_0000, "SA_RESTORER"),
    (0x0800_0000, "SA_ONSTACK"),
    (0x1000_0000, "SA_RESTART"),
    (0x4000_0000, "SA_NODEFER"),
    (0x8000_0000, "SA_RESETHAND"),
    (1, "SA_NOCLDSTOP"),
    (2, "SA_NOCLDWAIT"),
    (4, "SA_SIGINFO"),
    (0x400, "SA_UNSUPPORTED"),
    (0x800, "SA_EXPOSE_TAGBITS"),
];
const SIGINFO: u64 = 4;
const RESTORER: u64 = 0x0400_0000;

fn bytes<const N: usize>(t: &Thread, at: u64) -> Option<[u8; N]> {
    let mut b = [0; N];
    t.process.mm.read(at, &mut b).ok()?;
    Some(b)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at + 4)) << 32 | u64::from(u32_at(b, at))
}

/// Signals of a set; what most are in is shown by those that are not.
fn set(bits: u64) -> String {
    let name = |n: i32| match n {
        ..32 => signal_name(n)[3..].to_owned(),
        32 => "RTMIN".to_owned(),
        _ => format!("RT_{}", n - 32),
    };
    let (sign, shown) = if bits.count_ones() * 3 >= MAX as u32 * 2 { ("~", !bits) } else { ("", bits) };
    let names: Vec<String> = (1..=MAX).filter(|n| shown >> (n - 1) & 1 != 0).map(name).collect();
    format!("{sign}[{}]", names.join(" "))
}

/// A set of signals.
pub(super) fn signals(t: &Thread, at: u64) -> Option<String> {
    bytes(t, at).map(|b: [u8; 8]| set(u64::from_le_bytes(b)))
}

/// What is done about a signal.
pub(super) fn action(t: &Thread, at: u64) -> Option<String> {
    let b: [u8; 32] = match (t.process.abi.wide, t.process.abi.is_hosts()) {
        (true, true) => bytes(t, at)?,
        // No restorer: 24 bytes, or two words and the mask.
        (true, false) => {
            let b: [u8; 24] = bytes(t, at)?;
            let mut all = [0; 32];
            all[..16].copy_from_slice(&b[..16]);
            all[24..].copy_from_slice(&b[16..]);
            all
        }
        (false, hosts) => {
            let mask = if hosts { 12 } else { 8 };
            let mut b = vec![0; mask + 8];
            t.process.mm.read(at, &mut b).ok()?;
            let mut all = [0; 32];
            for (n, word) in b[..mask].chunks_exact(4).enumerate() {
                all[n * 8..n * 8 + 4].copy_from_slice(word);
            }
            all[24..].copy_from_slice(&b[mask..]);
            all
        }
    };
    let [handler, bits, restorer, mask] = [0, 8, 16, 24].map(|at| u64_at(&b, at));
    let handler = match handler {
        0 => "SIG_DFL".to_owned(),
        1 => "SIG_IGN".to_owned(),
        h => format!("{h:#x}"),
    };
    let field = if bits & SIGINFO != 0 { "sa_sigaction" } else { "sa_handler" };
    let restorer = if bits & RESTORER != 0 { format!(", sa_restorer={restorer:#x}") } else { String::new() };
    let names = flags(bits, ACTION, "0");
    Some(format!("{{{field}={handler}, sa_mask={}, sa_flags={names}{restorer}}}", set(mask)))
}

/// A limit of 64 bits.
pub(super) fn limit(t: &Thread, at: u64) -> Option<String> {
    let value = |v: u64| match v {
        u64::MAX => "RLIM64_INFINITY".to_owned(),
        v if v > 1024 && v.is_multiple_of(1024) => format!("{}*1024", v / 1024),
        v => v.to_string(),
    };
    let b: [u8; 16] = bytes(t, at)?;
    Some(format!("{{rlim_cur={}, rlim_max={}}}", value(u64_at(&b, 0)), value(u64_at(&b, 8))))
}

/// A time of 64-bit programs; those of the others have two forms.
pub(super) fn time(t: &Thread, at: u64) -> Option<String> {
    if !t.process.abi.wide {
        return None;
    }
    let b: [u8; 16] = bytes(t, at)?;
    Some(format!("{{tv_sec={}, tv_nsec={}}}", u64_at(&b, 0) as i64, u64_at(&b, 8) as i64))
}

/// Entries of a folder: how many there are.
pub(super) fn entries(t: &Thread, at: u64, len: u64) -> Option<String> {
    let (mut n, mut done) = (0, 0);
    while done < len {
        let record: [u8; 2] = bytes(t, at + done + 16)?;
        done += u64::from(u16::from_le_bytes(record)).max(1);
        n += 1;
    }
    Some(format!("{at:#x} /* {n} entries */"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_names() {
        assert_eq!(set(0), "[]");
        assert_eq!(set(1 << 1 | 1 << 14 | 1 << 31 | 1 << 33), "[INT TERM RTMIN RT_2]");
        assert_eq!(set(!0), "~[]");
        assert_eq!(set(!(1 << 8 | 1 << 18)), "~[KILL STOP]");
    }
}
