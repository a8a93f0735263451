//! System V and POSIX message queues, semaphores, shared memory.

use crate::host::{self, Errno, Sys};
use crate::thread::Thread;

use super::{Run::*, calls};

calls! {
    "shmget" [Hex, Int, Hex] Host;
    "shmat" [Int, Addr, Hex] Do(shmat);
    "shmdt" [Addr] Do(shmdt);
    "shmctl" [Int, Int, Ptr] Host;
    "semget" [Hex, Int, Hex] Host;
    "semop" [Int, Ptr, Int] Once;
    "semtimedop" [Int, Ptr, Int, Ptr] Once;
    "semctl" [Int, Int, Int, Ptr] Do(semctl);
    "msgget" [Hex, Hex] Host;
    "msgsnd" [Int, Ptr, Int, Hex] Once;
    "msgrcv" [Int, Ptr, Int, Int, Hex] Once;
    "msgctl" [Int, Int, Ptr] Host;
    "mq_open" [Str, Open, Mode, Ptr] Host;
    "mq_unlink" [Str] Host;
    "mq_timedsend" [Fd, In, Int, Int, Ptr] Host;
    "mq_timedreceive" [Fd, Out, Int, Ptr, Ptr] Host;
    "mq_notify" [Fd, Ptr] Host;
    "mq_getsetattr" [Fd, Ptr, Ptr] Host;
}

fn shmat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const RDONLY: u64 = 0o10000;
    const RND: u64 = 0o20000;
    const REMAP: u64 = 0o40000;
    // `struct shmid64_ds`: `ipc64_perm` has 48 bytes, then the size.
    let mut info = [0u64; 32];
    host::call(libc::SYS_shmctl, &[a[0], libc::IPC_STAT as u64, info.as_mut_ptr() as u64])?;
    let size = info[6];
    let mm = &t.process.mm;
    let at = match a[1] {
        0 => mm.find_room(size)?,
        at if a[2] & RND != 0 => at / 4096 * 4096,
        at if at % 4096 == 0 => at,
        _ => return Err(Errno(libc::EINVAL)),
    };
    if a[1] != 0 {
        // Takes the room in the guest's own part, or says that there is none.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let fixed = if a[2] & REMAP != 0 { libc::MAP_FIXED } else { libc::MAP_FIXED_NOREPLACE };
        mm.mmap(at, size, 0, flags | fixed, -1, 0).map_err(|_| Errno(libc::EINVAL))?;
    }
    let flags = a[2] | if a[1] != 0 || mm.host(0) != 0 { REMAP } else { 0 };
    let got = host::call(libc::SYS_shmat, &[a[0], mm.host(at), flags & !RND])?;
    mm.note(at, size, if a[2] & RDONLY != 0 { 1 } else { 3 });
    Ok(got.wrapping_sub(mm.host(0)))
}

fn shmdt(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    let Some(end) = mm.lock().find(a[0]).map(|(_, r)| r.end) else { return Err(Errno(libc::EINVAL)) };
    host::call(libc::SYS_shmdt, &[mm.host(a[0])])?;
    // What of the region was this segment is gone; what was not is found mapped still.
    let mut at = a[0];
    while at < end && host::call(libc::SYS_msync, &[mm.host(at), 4096, libc::MS_ASYNC as u64]).is_err() {
        at += 4096;
    }
    if at > a[0] {
        mm.munmap(a[0], at - a[0])?;
    }
    Ok(0)
}

/// The fourth argument is a number for some commands, a pointer for others.
fn semctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const SETVAL: i32 = 16;
    const IPC_STAT: i32 = 2;
    const IPC_SET: i32 = 1;
    const SEM_STAT: i32 = 18;
    const SEM_STAT_ANY: i32 = 20;
    let command = a[2] as i32 & 0xff;
    let mm = &t.process.mm;
    match command {
        SETVAL => host::call(libc::SYS_semctl, a),
        IPC_STAT | IPC_SET | SEM_STAT | SEM_STAT_ANY if !t.process.abi.host_layout => {
            // `semid64_ds`: `ipc64_perm`, then the times, which x86-64 alone keeps two words apart.
            let mut there = [0u64; 16];
            let mut here = [0u8; 88];
            if command == IPC_SET {
                mm.read(a[3], &mut here)?;
                for (w, b) in there.iter_mut().zip(here[..48].chunks_exact(8)) {
                    *w = u64::from_le_bytes(b.try_into().unwrap_or_default());
                }
            }
            let r = host::call(libc::SYS_semctl, &[a[0], a[1], a[2], there.as_mut_ptr() as u64])?;
            if command != IPC_SET {
                let words = [&there[..6], &[there[6], there[8], there[10], 0, 0]].concat();
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                mm.write(a[3], &bytes)?;
            }
            Ok(r)
        }
        _ => host::call(libc::SYS_semctl, &[a[0], a[1], a[2], mm.pointer(a[3])]),
    }
}
