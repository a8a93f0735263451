//! Sockets.

use crate::host::{Errno, Sys};
use crate::thread::Thread;

use super::{Run::*, again, calls, host_by_name, iovecs};

calls! {
    "socket" [Int, Hex, Int] Host;
    "socketpair" [Int, Hex, Int, Ptr] Host;
    "bind" [Fd, Ptr, Int] Host;
    "listen" [Fd, Int] Host;
    "accept" [Fd, Ptr, Ptr] Host;
    "accept4" [Fd, Ptr, Ptr, Hex] Host;
    "connect" [Fd, Ptr, Int] Host;
    "getsockname" [Fd, Ptr, Ptr] Host;
    "getpeername" [Fd, Ptr, Ptr] Host;
    "sendto" [Fd, In, Int, Hex, Ptr, Int] Host;
    "recvfrom" [Fd, Out, Int, Hex, Ptr, Ptr] Host;
    "setsockopt" [Fd, Int, Int, Ptr, Int] Host;
    "getsockopt" [Fd, Int, Int, Ptr, Ptr] Host;
    "shutdown" [Fd, Int] Host;
    "sendmsg" [Fd, Ptr, Hex] Do(sendmsg);
    "recvmsg" [Fd, Ptr, Hex] Do(recvmsg);
    "sendmmsg" [Fd, Ptr, Int, Hex] Do(sendmmsg);
    "recvmmsg" [Fd, Ptr, Int, Hex, Ptr] Do(recvmmsg);
    "sethostname" [In, Int] Host;
    "setdomainname" [In, Int] Host;
    "bpf" [Int, Ptr, Int] No(libc::ENOSYS);
}

/// Fields of `msghdr` in words: name, length of it, vectors, their number, control, its length, flags.
const MSGHDR: usize = 7;

/// A guest `msghdr` with the host's pointers, and the vectors it points at.
fn header(t: &Thread, at: u64) -> Result<([u64; MSGHDR], Vec<u64>), Errno> {
    let mm = &t.process.mm;
    let mut bytes = [0; MSGHDR * 8];
    mm.read(at, &mut bytes)?;
    let mut words = [0; MSGHDR];
    for (w, b) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *w = u64::from_le_bytes(b.try_into().unwrap_or_default());
    }
    let vectors = iovecs(t, words[2], words[3])
        .map_err(|e| if e.0 == libc::EINVAL { Errno(libc::EMSGSIZE) } else { e })?;
    words[0] = mm.pointer(words[0]);
    words[2] = vectors.as_ptr() as u64;
    words[4] = mm.pointer(words[4]);
    Ok((words, vectors))
}

fn sendmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let (words, _vectors) = header(t, a[1])?;
    host_by_name(t, "sendmsg", [a[0], words.as_ptr() as u64, a[2], 0, 0, 0]).map_err(again)
}

/// Control messages of a 64-bit guest are laid out as the host's.
fn recvmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let (mut words, _vectors) = header(t, a[1])?;
    let r = host_by_name(t, "recvmsg", [a[0], words.as_mut_ptr() as u64, a[2], 0, 0, 0]).map_err(again)?;
    let mm = &t.process.mm;
    mm.write_u32(a[1] + 8, words[1] as u32)?;
    mm.write_u64(a[1] + 40, words[5])?;
    mm.write_u32(a[1] + 48, words[6] as u32)?;
    Ok(r)
}

/// `struct mmsghdr`: a `msghdr` and the length that was sent or received.
const MMSGHDR: u64 = 64;
/// As in the kernel.
const MOST_MESSAGES: u64 = 1024;

/// The calls one by one: an error behind the first is the next call's.
fn each(
    t: &mut Thread,
    a: &[u64; 6],
    f: fn(&mut Thread, &[u64; 6]) -> Sys,
    flags: impl Fn(u64) -> u64,
) -> Sys {
    let mut done = 0;
    while done < a[2].min(MOST_MESSAGES) {
        let at = a[1].wrapping_add(done * MMSGHDR);
        match f(t, &[a[0], at, flags(done), 0, 0, 0]) {
            Ok(n) => t.process.mm.write_u32(at + 56, n as u32)?,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
        done += 1;
    }
    Ok(done)
}

fn sendmmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    each(t, a, sendmsg, |_| a[3])
}

fn recvmmsg(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const WAITFORONE: u64 = libc::MSG_WAITFORONE as u64;
    let flags = a[3] & !WAITFORONE;
    let more = if a[3] & WAITFORONE != 0 { libc::MSG_DONTWAIT as u64 } else { 0 };
    if a[4] == 0 {
        return each(t, a, recvmsg, |n| flags | if n > 0 { more } else { 0 });
    }
    // With a time limit: what is there at once, behind a wait for the first.
    each(t, a, recvmsg, |n| flags | if n > 0 { libc::MSG_DONTWAIT as u64 } else { 0 })
}
