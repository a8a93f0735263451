//! `ioctl`: what a request points at, by ranges of requests. Numbers and structures of those here are the same for a 64-bit
//! guest with generic numbers and for the host.

use crate::host::Sys;
use crate::thread::Thread;

use super::{Run::*, again, calls, host_by_name};

calls! {
    "ioctl" [Fd, Hex, Hex] Do(ioctl);
}

/// Requests from and to (inclusive) whose argument is a number, not an address.
const BY_VALUE: &[(u32, u32)] = &[
    // TCSBRK, TCXONC, TCFLSH
    (0x5409, 0x540b),
    // TIOCEXCL, TIOCNXCL, TIOCSCTTY
    (0x540c, 0x540e),
    // TCSBRKP, TIOCSBRK, TIOCCBRK
    (0x5425, 0x5428),
    // TIOCNOTTY
    (0x5422, 0x5422),
    // FIONCLEX, FIOCLEX
    (0x5450, 0x5451),
    // BLKRRPART, BLKFLSBUF, LOOP_SET_FD to LOOP_CLR_FD
    (0x125f, 0x125f),
    (0x1261, 0x1261),
    (0x4c00, 0x4c01),
    // TUNSETNOCSUM to TUNSETGROUP
    (0x4004_54c8, 0x4004_54c9),
    (0x4004_54cb, 0x4004_54cc),
    // FICLONE
    (0x4004_9409, 0x4004_9409),
    // KVM and others take numbers in requests without a size (`_IO`).
    (0xae00, 0xaeff),
];

fn ioctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let request = a[1] as u32;
    let value = BY_VALUE.iter().any(|(from, to)| (*from..=*to).contains(&request));
    let arg = if value { a[2] } else { t.process.mm.pointer(a[2]) };
    host_by_name(t, "ioctl", [a[0], a[1], arg, 0, 0, 0]).map_err(again)
}
