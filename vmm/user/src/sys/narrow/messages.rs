//! Sockets and System V queues: `msghdr`, control messages (`net/compat.c`), the calls that stand for many.

use crate::host::{self, Errno, Sys};
use crate::sys::{again, host_by_name, iovecs};
use crate::thread::Thread;

use super::{bytes_of, ours, read, room, wide, words, write};

const EINVAL: Errno = Errno(libc::EINVAL);
/// Bytes of a `msghdr`, and of the header of a control message, there and here.
const MSGHDR: u64 = 28;
const HEAD: usize = 12;
const HOST_HEAD: usize = 16;
/// More control bytes than any message has.
const MOST_CONTROL: u64 = 1 << 16;

fn long(b: &[u8], at: usize, n: usize) -> u64 {
    let mut v = [0; 8];
    v[..n].copy_from_slice(&b[at..at + n]);
    u64::from_le_bytes(v)
}

/// Control messages of the program's as the host's.
fn control_to_host(b: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut out = Vec::new();
    let mut at = 0;
    while at + HEAD <= b.len() {
        let len = long(b, at, 4) as usize;
        if len < HEAD || len > b.len() - at {
            return Err(EINVAL);
        }
        out.extend_from_slice(&((len - HEAD + HOST_HEAD) as u64).to_le_bytes());
        out.extend_from_slice(&b[at + 4..at + len]);
        out.resize(out.len().next_multiple_of(8), 0);
        at = (at + len).next_multiple_of(4);
    }
    Ok(out)
}

/// The other way, as far as there is room; true if some was cut off.
fn control_to_guest(b: &[u8], room: usize) -> (Vec<u8>, bool) {
    const TIMESTAMP: u64 = 29;
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    while at + HOST_HEAD <= b.len() {
        let len = long(b, at, 8) as usize;
        if len < HOST_HEAD || len > b.len() - at {
            break;
        }
        let mut data = b[at + HOST_HEAD..at + len].to_vec();
        let (level, kind) = (long(b, at + 8, 4), long(b, at + 12, 4));
        if level == libc::SOL_SOCKET as u64 && kind == TIMESTAMP && data.len() == 16 {
            data = [&data[..4], &data[8..12]].concat();
        }
        let start = out.len();
        if start + HEAD > room {
            return (out, true);
        }
        let whole = data.len();
        data.truncate(room - start - HEAD);
        out.extend_from_slice(&((HEAD + data.len()) as u32).to_le_bytes());
        out.extend_from_slice(&b[at + 8..at + HOST_HEAD]);
        out.extend_from_slice(&data);
        if data.len() < whole {
            return (out, true);
        }
        at = (at + len).next_multiple_of(8);
        if at + HOST_HEAD <= b.len() {
            let padded = out.len().next_multiple_of(4);
            out.resize(padded.min(room), 0);
        }
    }
    (out, false)
}

/// A message with the host's pointers: its seven words, and what they point at.
struct Message {
    words: [u64; 7],
    there: Vec<u64>,
    _vectors: Vec<u64>,
    control: Vec<u8>,
}

fn message(t: &Thread, at: u64, sending: bool) -> Result<Message, Errno> {
    let mm = &t.process.mm;
    let there = words(t, at, 7, false)?;
    let pairs = words(t, there[2], 2 * there[3].min(1025) as usize, false)?;
    let mut pairs = bytes_of(&pairs);
    let vectors = iovecs(t, ours(t, &mut pairs), there[3])
        .map_err(|e| if e.0 == libc::EINVAL { Errno(libc::EMSGSIZE) } else { e })?;
    if there[5] > MOST_CONTROL {
        return Err(Errno(libc::ENOBUFS));
    }
    let control = match (there[4], sending) {
        (0, _) => Vec::new(),
        (at, true) => {
            let mut b = vec![0; there[5] as usize];
            mm.read(at, &mut b)?;
            control_to_host(&b)?
        }
        // Each message grows by 4 bytes and its padding.
        (_, false) => vec![0; 2 * there[5] as usize + HOST_HEAD],
    };
    let control_len = if there[5] == 0 { 0 } else { control.len() as u64 };
    let words = [
        mm.pointer(there[0]),
        there[1],
        vectors.as_ptr() as u64,
        there[3],
        if control_len == 0 { 0 } else { control.as_ptr() as u64 },
        control_len,
        0,
    ];
    Ok(Message { words, there, _vectors: vectors, control })
}

pub(super) fn sendmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let m = message(t, a[1], true)?;
    host_by_name(t, "sendmsg", [a[0], m.words.as_ptr() as u64, a[2], 0, 0, 0]).map_err(again)
}

pub(super) fn recvmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mut m = message(t, a[1], false)?;
    let at = m.words.as_mut_ptr() as u64;
    let r = host_by_name(t, "recvmsg", [a[0], at, a[2], 0, 0, 0]).map_err(again)?;
    let words = std::hint::black_box(&m.words);
    let got = &m.control[..(words[5] as usize).min(m.control.len())];
    let (control, cut) = control_to_guest(got, m.there[5] as usize);
    let mm = &t.process.mm;
    if m.there[4] != 0 {
        mm.write(m.there[4], &control)?;
    }
    mm.write_u32(a[1] + 4, words[1] as u32)?;
    mm.write_u32(a[1] + 20, control.len() as u32)?;
    mm.write_u32(a[1] + 24, words[6] as u32 | if cut { libc::MSG_CTRUNC as u32 } else { 0 })?;
    Ok(r)
}

/// Message by message: an error behind the first is the next call's.
fn each(t: &mut Thread, a: &[u64; 6], f: fn(&mut Thread, &[u64; 6]) -> Sys, later: u64) -> Sys {
    const MOST: u64 = 1024;
    const STEP: u64 = MSGHDR + 4;
    let mut done = 0;
    while done < a[2].min(MOST) {
        let at = a[1].wrapping_add(done * STEP);
        match f(t, &[a[0], at, if done == 0 { a[3] } else { a[3] | later }, 0, 0, 0]) {
            Ok(n) => t.process.mm.write_u32(at + MSGHDR, n as u32)?,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
        done += 1;
    }
    Ok(done)
}

pub(super) fn sendmmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    each(t, a, sendmsg, 0)
}

pub(super) fn recvmmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const WAITFORONE: u64 = libc::MSG_WAITFORONE as u64;
    let later = if a[3] & WAITFORONE != 0 || a[4] != 0 { libc::MSG_DONTWAIT as u64 } else { 0 };
    each(t, &[a[0], a[1], a[2], a[3] & !WAITFORONE, 0, 0], recvmsg, later)
}

/// Options whose value is a time of two words.
fn is_time(a: &[u64; 6]) -> bool {
    a[1] == libc::SOL_SOCKET as u64 && matches!(a[2], 20 | 21)
}

pub(super) fn setsockopt(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if !is_time(a) || a[4] < 8 {
        return wide(t, "setsockopt", *a);
    }
    let mut time = read(t, a[3], "2l")?;
    let at = ours(t, &mut time);
    wide(t, "setsockopt", [a[0], a[1], a[2], at, 16, 0])
}

pub(super) fn getsockopt(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if !is_time(a) {
        return wide(t, "getsockopt", *a);
    }
    let mut time = room(Vec::new());
    let mut len = 16u32.to_le_bytes();
    let (at, len_at) = (ours(t, &mut time), ours(t, &mut len));
    let r = wide(t, "getsockopt", [a[0], a[1], a[2], at, len_at, 0])?;
    write(t, a[3], "2l", &time)?;
    t.process.mm.write_u32(a[4], 8)?;
    Ok(r)
}

/// The calls behind `socketcall`, by number, with the number of their arguments.
const SOCKET_CALLS: [(&str, usize); 20] = [
    ("socket", 3),
    ("bind", 3),
    ("connect", 3),
    ("listen", 2),
    ("accept", 3),
    ("getsockname", 3),
    ("getpeername", 3),
    ("socketpair", 4),
    ("send", 4),
    ("recv", 4),
    ("sendto", 6),
    ("recvfrom", 6),
    ("shutdown", 2),
    ("setsockopt", 5),
    ("getsockopt", 5),
    ("sendmsg", 3),
    ("recvmsg", 3),
    ("accept4", 4),
    ("recvmmsg", 5),
    ("sendmmsg", 4),
];

pub(super) fn socketcall(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let row = (a[0] as usize).checked_sub(1).and_then(|n| SOCKET_CALLS.get(n));
    let (name, count) = *row.ok_or(EINVAL)?;
    let mut args = [0; 6];
    args[..count].copy_from_slice(&words(t, a[1], count, false)?);
    match name {
        "send" => wide(t, "sendto", [args[0], args[1], args[2], args[3], 0, 0]),
        "recv" => wide(t, "recvfrom", [args[0], args[1], args[2], args[3], 0, 0]),
        _ => crate::sys::narrow_by_name(t, name, &args),
    }
}

/// System V's calls in one: the number, three words, an address, a fifth.
pub(super) fn ipc(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let [_, first, second, third, at, fifth] = *a;
    let (call, version) = (a[0] as u32 & 0xffff, a[0] >> 16);
    let (name, args) = match call {
        1 => ("semop", [first, at, second, 0, 0, 0]),
        2 => ("semget", [first, second, third, 0, 0, 0]),
        3 => ("semctl", [first, second, third, t.process.mm.read_u32(at)?.into(), 0, 0]),
        4 => ("semtimedop", [first, at, second, fifth, 0, 0]),
        11 => ("msgsnd", [first, at, second, third, 0, 0]),
        12 if version == 0 => {
            let w = words(t, at, 2, false)?;
            ("msgrcv", [first, w[0], second, w[1], third, 0])
        }
        12 => ("msgrcv", [first, at, second, fifth, third, 0]),
        13 => ("msgget", [first, second, 0, 0, 0, 0]),
        14 => ("msgctl", [first, second, at, 0, 0, 0]),
        21 => {
            let got = wide(t, "shmat", [first, at, second, 0, 0, 0])?;
            t.process.mm.write_u32(third, got as u32)?;
            return Ok(0);
        }
        22 => ("shmdt", [at, 0, 0, 0, 0, 0]),
        23 => ("shmget", [first, second, third, 0, 0, 0]),
        24 => ("shmctl", [first, second, at, 0, 0, 0]),
        _ => return Err(Errno(libc::ENOSYS)),
    };
    crate::sys::narrow_by_name(t, name, &args)
}

/// More bytes than a queue's message has.
const MOST_MESSAGE: u64 = 1 << 20;

/// A message begins with its kind, a `long`.
pub(super) fn msgsnd(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if a[2] > MOST_MESSAGE {
        return Err(EINVAL);
    }
    let mut there = vec![0; a[2] as usize + 4];
    t.process.mm.read(a[1], &mut there)?;
    let kind = i64::from(long(&there, 0, 4) as u32 as i32);
    let mut host = [&kind.to_le_bytes()[..], &there[4..]].concat();
    let at = ours(t, &mut host);
    wide(t, "msgsnd", [a[0], at, a[2], a[3], 0, 0])
}

pub(super) fn msgrcv(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let len = a[2].min(MOST_MESSAGE);
    let mut host = vec![0u8; len as usize + 8];
    let at = ours(t, &mut host);
    let kind = a[3] as u32 as i32 as i64 as u64;
    let n = wide(t, "msgrcv", [a[0], at, len, kind, a[4], 0])?;
    let host = std::hint::black_box(&host);
    let there = [&host[..4], &host[8..8 + n as usize]].concat();
    t.process.mm.write(a[1], &there)?;
    Ok(n)
}

/// Without `IPC_64`, which all structures here have: permissions, then what differs; the host's `ipc64_perm` has 48 bytes.
const COMMAND: u64 = 0xff;

fn perm_to_guest(host: &[u8]) -> Vec<u8> {
    // key, uid, gid, cuid, cgid, mode (4 bytes here, 2 there), seq.
    let mut out = host[..20].to_vec();
    out.extend_from_slice(&host[20..22]);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&host[24..26]);
    out.extend_from_slice(&[0; 10]);
    out
}

/// Makes a `ctl` call on a structure: permissions, then words of the host's at these offsets, which become words there.
fn control(t: &mut Thread, name: &str, args: [u64; 6], n: usize, at: u64, rest: &[usize]) -> Sys {
    let mut host = room(Vec::new());
    let mut wide_args = args;
    wide_args[n] = ours(t, &mut host);
    wide_args[n - 1] &= COMMAND;
    let set = wide_args[n - 1] as i32 == libc::IPC_SET;
    if set {
        let mut perm = [0; 36];
        t.process.mm.read(at, &mut perm)?;
        host[..20].copy_from_slice(&perm[..20]);
        host[20..22].copy_from_slice(&perm[20..22]);
        if name == "msgctl" {
            // The most bytes of the queue.
            let mut bytes = [0; 4];
            t.process.mm.read(at + 36 + 4 * 7, &mut bytes)?;
            host[88..92].copy_from_slice(&bytes);
        }
    }
    wide_args[n] = ours(t, &mut host);
    let r = wide(t, name, wide_args)?;
    let host = std::hint::black_box(&host);
    if !set {
        let mut out = perm_to_guest(host);
        for o in rest {
            out.extend_from_slice(&host[*o..*o + 4]);
        }
        out.extend_from_slice(&[0; 8]);
        t.process.mm.write(at, &out)?;
    }
    Ok(r)
}

fn on_structure(command: u64) -> bool {
    const STAT: u64 = 11;
    const SHM_STAT: u64 = 13;
    const ANY: u64 = 15;
    const SEM_STAT: u64 = 18;
    const SEM_ANY: u64 = 20;
    matches!(command & COMMAND, 1 | 2 | STAT | SHM_STAT | ANY | SEM_STAT | SEM_ANY)
}

pub(super) fn shmctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if !on_structure(a[1]) {
        return host::call(libc::SYS_shmctl, &[a[0], a[1] & COMMAND, 0]);
    }
    // Size, three times with their upper halves, creator, last, attached.
    let rest = [48, 56, 60, 64, 68, 72, 76, 80, 84, 88];
    control(t, "shmctl", *a, 2, a[2], &rest)
}

pub(super) fn msgctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if !on_structure(a[1]) {
        return host::call(libc::SYS_msgctl, &[a[0], a[1] & COMMAND, 0]);
    }
    // Three times with their upper halves, bytes, messages, most bytes, last sender and receiver.
    let rest = [48, 52, 56, 60, 64, 68, 72, 80, 88, 96, 100];
    control(t, "msgctl", *a, 2, a[2], &rest)
}

pub(super) fn semctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    if !on_structure(a[2]) {
        return wide(t, "semctl", [a[0], a[1], a[2] & COMMAND, a[3], 0, 0]);
    }
    // Two times with their upper halves, number.
    let rest = [48, 52, 64, 68, 80];
    control(t, "semctl", *a, 3, a[3], &rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_change_their_width() {
        // Two descriptors, then credentials.
        let mut there = Vec::new();
        for w in [20u32, 1, 1, 7, 8, 24, 1, 2, 10, 11, 12] {
            there.extend_from_slice(&w.to_le_bytes());
        }
        let host = control_to_host(&there).unwrap();
        assert_eq!((host.len(), long(&host, 0, 8), long(&host, 24, 8)), (56, 24, 28));
        let (back, cut) = control_to_guest(&host, 64);
        assert!(!cut);
        assert_eq!(back, there);
        let (back, cut) = control_to_guest(&host, 30);
        assert!(cut && back.len() <= 30);
        assert!(control_to_host(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
