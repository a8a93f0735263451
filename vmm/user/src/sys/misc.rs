//! Identity, limits, the system, and what else there is.

use crate::abi::x86_64;
use crate::host::{self, Errno, Sys};
use crate::thread::Thread;
use crate::trace;

use super::{Run::*, calls, seccomp};

calls! {
    "getpid" [] Host;
    "getppid" [] Host;
    "getuid" [] Host;
    "geteuid" [] Host;
    "getgid" [] Host;
    "getegid" [] Host;
    "setuid" [Int] Alone;
    "setgid" [Int] Alone;
    "setreuid" [Int, Int] Alone;
    "setregid" [Int, Int] Alone;
    "setresuid" [Int, Int, Int] Alone;
    "getresuid" [Ptr, Ptr, Ptr] Host;
    "setresgid" [Int, Int, Int] Alone;
    "getresgid" [Ptr, Ptr, Ptr] Host;
    "setfsuid" [Int] Alone;
    "setfsgid" [Int] Alone;
    "getgroups" [Int, Ptr] Host;
    "setgroups" [Int, Ptr] Alone;
    "getpgid" [Int] Host;
    "getpgrp" [] Host;
    "iopl" [Int] No(libc::EPERM);
    "ioperm" [Int, Int, Int] No(libc::EPERM);
    "arch_prctl" [Hex, Addr] Do(arch_prctl);
    "sysfs" [Int, Hex, Ptr] Host;
    "ustat" [Hex, Ptr] Host;
    "uselib" [Path] No(libc::ENOSYS);
    "_sysctl" [Ptr] No(libc::ENOSYS);
    "create_module" [Str, Int] No(libc::ENOSYS);
    "get_kernel_syms" [Ptr] No(libc::ENOSYS);
    "query_module" [Str, Int, Ptr, Int, Ptr] No(libc::ENOSYS);
    "getpmsg" [Int, Ptr, Ptr, Ptr, Ptr] No(libc::ENOSYS);
    "putpmsg" [Int, Ptr, Ptr, Int, Int] No(libc::ENOSYS);
    "afs_syscall" [] No(libc::ENOSYS);
    "tuxcall" [] No(libc::ENOSYS);
    "security" [] No(libc::ENOSYS);
    "vserver" [] No(libc::ENOSYS);
    "setpgid" [Int, Int] Host;
    "getsid" [Int] Host;
    "setsid" [] Host;
    "getpriority" [Int, Int] Host;
    "setpriority" [Int, Int, Int] Host;
    "capget" [Ptr, Ptr] Host;
    "capset" [Ptr, Ptr] Alone;
    "personality" [Hex] Do(personality);
    "uname" [Ptr] Do(uname);
    "sysinfo" [Ptr] Host;
    "syslog" [Int, Out, Int] Host;
    "getrandom" [Out, Int, Hex] Host;
    "getrusage" [Int, Ptr] Host;
    "getrlimit" [Int, Ptr] Do(getrlimit);
    "setrlimit" [Int, Ptr] Do(setrlimit);
    "prlimit64" [Int, Int, Ptr, Ptr] Do(prlimit64);
    "prctl" [Int, Hex, Hex, Hex, Hex] Do(prctl);
    "riscv_hwprobe" [Ptr, Int, Int, Ptr, Hex] Do(hwprobe);
    "add_key" [Str, Str, In, Int, Int] Host;
    "request_key" [Str, Str, Str, Int] Host;
    "keyctl" [Int, Hex, Hex, Hex, Hex] Host;
    "acct" [Path] Host;
    "reboot" [Hex, Hex, Hex, Ptr] Host;
    "lsm_get_self_attr" [Int, Ptr, Ptr, Hex] Host;
    "lsm_set_self_attr" [Int, Ptr, Int, Hex] Host;
    "lsm_list_modules" [Ptr, Ptr, Hex] Host;
    "statmount" [Ptr, Out, Int, Hex] Host;
    "listmount" [Ptr, Ptr, Int, Hex] Host;
    "map_shadow_stack" [Addr, Int, Hex] No(libc::ENOSYS);
    "migrate_pages" [Int, Int, Ptr, Ptr] No(libc::ENOSYS);
    "move_pages" [Int, Int, Ptr, Ptr, Ptr, Hex] No(libc::ENOSYS);
    "set_mempolicy_home_node" [Addr, Int, Int, Hex] No(libc::ENOSYS);
    "ptrace" [Hex, Int, Hex, Hex] Do(trace::ptrace);
    "landlock_create_ruleset" [Ptr, Int, Hex] Host;
    "landlock_add_rule" [Fd, Int, Ptr, Hex] Host;
    "landlock_restrict_self" [Fd, Hex] Alone;
    "perf_event_open" [Ptr, Int, Int, Fd, Hex] No(libc::ENOSYS);
    "kcmp" [Int, Int, Int, Hex, Hex] Host;
    "init_module" [In, Int, Str] No(libc::EPERM);
    "finit_module" [Fd, Str, Hex] No(libc::EPERM);
    "delete_module" [Str, Hex] No(libc::EPERM);
    "kexec_load" [Hex, Int, Ptr, Hex] No(libc::EPERM);
    "kexec_file_load" [Fd, Fd, Int, Str, Hex] No(libc::EPERM);
    "memfd_secret" [Hex] No(libc::ENOSYS);
    "lookup_dcookie" [Int, Out, Int] No(libc::ENOSYS);
    "nfsservctl" [Int, Ptr, Ptr] No(libc::ENOSYS);
}

/// Bytes of one string of `struct new_utsname`.
const UTS_LEN: usize = 65;

fn uname(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mut b = [0u8; UTS_LEN * 6];
    host::call(libc::SYS_uname, &[b.as_mut_ptr() as u64])?;
    let mut put = |n: usize, s: &str| {
        let field = &mut b[n * UTS_LEN..(n + 1) * UTS_LEN];
        field.fill(0);
        let len = s.len().min(UTS_LEN - 1);
        field[..len].copy_from_slice(&s.as_bytes()[..len]);
    };
    const PER_LINUX32: u32 = 8;
    let personality = t.process.personality.load(std::sync::atomic::Ordering::Relaxed);
    let narrow = personality & 0xff == PER_LINUX32;
    put(4, t.process.abi.narrow_name.filter(|_| narrow).unwrap_or(t.process.abi.machine_name));
    if let Some(release) = &t.process.options.release {
        put(2, release);
    }
    t.process.mm.write(a[0], &b)?;
    Ok(0)
}

/// Segment bases of a 64-bit x86 program.
fn arch_prctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    const GET_CPUID: u64 = 0x1011;
    let reg = if matches!(a[0], SET_GS | GET_GS) { x86_64::GS_BASE } else { x86_64::FS_BASE };
    match a[0] {
        SET_FS | SET_GS if a[1] >> 47 != 0 => Err(Errno(libc::EPERM)),
        SET_FS | SET_GS => {
            t.cpu.set_reg(reg, a[1]);
            Ok(0)
        }
        GET_FS | GET_GS => {
            let base = t.cpu.reg(reg);
            t.process.mm.write_u64(a[1], base)?;
            Ok(0)
        }
        // CPUID works.
        GET_CPUID => Ok(1),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// Remembered; the host is told only what concerns neither Rhea's memory nor its files.
fn personality(t: &mut Thread, a: &[u64; 6]) -> Sys {
    use std::sync::atomic::Ordering::Relaxed;
    const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
    const QUERY: u32 = u32::MAX;
    let new = a[0] as u32;
    let old = t.process.personality.load(Relaxed);
    if new != QUERY {
        t.process.personality.store(new, Relaxed);
        let host = host::call(libc::SYS_personality, &[QUERY.into()])? as u32;
        let host = host & !ADDR_NO_RANDOMIZE | new & ADDR_NO_RANDOMIZE;
        host::call(libc::SYS_personality, &[host.into()])?;
    }
    Ok(old.into())
}

/// Limits on memory would strike Rhea's own; the guest's are remembered by nobody, but reported as unlimited.
fn is_memory(resource: u64) -> bool {
    [libc::RLIMIT_AS, libc::RLIMIT_DATA, libc::RLIMIT_STACK].contains(&(resource as u32))
}

fn getrlimit(t: &mut Thread, a: &[u64; 6]) -> Sys {
    prlimit64(t, &[0, a[0], 0, a[1], 0, 0])
}

fn setrlimit(t: &mut Thread, a: &[u64; 6]) -> Sys {
    prlimit64(t, &[0, a[0], a[1], 0, 0, 0])
}

fn prlimit64(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = &t.process.mm;
    let new = if is_memory(a[1]) { 0 } else { mm.pointer(a[2]) };
    host::call(libc::SYS_prlimit64, &[a[0], a[1], new, mm.pointer(a[3])])
}

fn prctl(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const GET_TID_ADDRESS: i32 = 40;
    const FILTERED: u64 = libc::SECCOMP_MODE_FILTER as u64;
    const SET_SYSCALL_USER_DISPATCH: i32 = 59;
    const SET_VMA: i32 = 0x5356_4d41;
    let mm = &t.process.mm;
    let args = match a[0] as i32 {
        libc::PR_SET_NAME | libc::PR_GET_NAME | libc::PR_GET_PDEATHSIG | libc::PR_GET_CHILD_SUBREAPER => {
            [a[0], mm.pointer(a[1]), a[2], a[3], a[4]]
        }
        libc::PR_SET_DUMPABLE
        | libc::PR_GET_DUMPABLE
        | libc::PR_SET_PDEATHSIG
        | libc::PR_SET_KEEPCAPS
        | libc::PR_GET_KEEPCAPS
        | libc::PR_CAPBSET_READ
        | libc::PR_CAPBSET_DROP
        | libc::PR_CAP_AMBIENT
        | libc::PR_SET_SECUREBITS
        | libc::PR_GET_SECUREBITS
        | libc::PR_SET_TIMERSLACK
        | libc::PR_GET_TIMERSLACK
        | libc::PR_SET_CHILD_SUBREAPER
        | libc::PR_SET_NO_NEW_PRIVS
        | libc::PR_GET_NO_NEW_PRIVS
        | libc::PR_SET_THP_DISABLE
        | libc::PR_GET_THP_DISABLE
        | libc::PR_SET_PTRACER
        | libc::PR_MCE_KILL
        | libc::PR_MCE_KILL_GET => [a[0], a[1], a[2], a[3], a[4]],
        GET_TID_ADDRESS => {
            mm.write_u64(a[1], t.clear_tid)?;
            return Ok(0);
        }
        // Names of mappings are for people.
        SET_VMA => return Ok(0),
        libc::PR_GET_SECCOMP => return Ok(if t.filters.is_some() { FILTERED } else { 0 }),
        libc::PR_SET_SECCOMP if a[1] == FILTERED => return seccomp::add(t, 0, a[2]),
        // What would change Rhea's own execution (speculation, the layout of its memory).
        SET_SYSCALL_USER_DISPATCH | libc::PR_SET_SECCOMP | libc::PR_SET_MM => {
            return Err(Errno(libc::EINVAL));
        }
        _ => return Err(Errno(libc::EINVAL)),
    };
    let gives_up =
        [libc::PR_CAPBSET_DROP, libc::PR_CAP_AMBIENT, libc::PR_SET_SECUREBITS, libc::PR_SET_NO_NEW_PRIVS];
    if gives_up.contains(&(a[0] as i32)) {
        t.process.machine.end_own_threads();
    }
    host::call(libc::SYS_prctl, &args)
}

/// Pairs of key and value (`Documentation/arch/riscv/hwprobe.rst`); unknown keys become -1 with the value 0.
fn hwprobe(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const MOST: u64 = 4096;
    let mm = t.process.mm.clone();
    if a[4] != 0 || a[1] > MOST {
        return Err(Errno(libc::EINVAL));
    }
    let isa = t.process.machine.isa();
    let has = |e: &str| isa.split('_').any(|x| x == e);
    let letters =
        isa.split('_').next().unwrap_or_default().trim_start_matches("rv64").trim_start_matches("rv32");
    // Bits of key 4: IMA_FD, C, V, then extensions by name.
    const EXTENSIONS: &[(&str, u32)] = &[
        ("zba", 3),
        ("zbb", 4),
        ("zbs", 5),
        ("zicboz", 6),
        ("zbc", 7),
        ("zfh", 27),
        ("zfhmin", 28),
        ("zicond", 35),
        ("zihintpause", 36),
        ("zcb", 44),
        ("zawrs", 48),
    ];
    let mut ima = u64::from(letters.contains("fd"))
        | u64::from(letters.contains('c')) << 1
        | u64::from(letters.contains('v')) << 2;
    for (name, bit) in EXTENSIONS {
        ima |= u64::from(has(name)) << bit;
    }
    for i in 0..a[1] {
        let at = a[0].wrapping_add(i * 16);
        let key = mm.read_u64(at)?;
        let value = match key {
            // mvendorid, marchid, mimpid.
            0..=2 => Some(0),
            // Base behaviour: IMA.
            3 => Some(1),
            4 => Some(ima),
            // Unaligned scalar accesses are fast.
            5 => Some(3),
            // Bytes of a block of cbo.zero.
            6 => Some(if has("zicboz") { 64 } else { 0 }),
            // Highest virtual address a program may have.
            7 => Some(0x3f_ffff_ffff),
            8 => Some(10_000_000),
            9 => Some(3),
            _ => None,
        };
        if value.is_none() {
            mm.write_u64(at, u64::MAX)?;
        }
        mm.write_u64(at + 8, value.unwrap_or(0))?;
    }
    Ok(0)
}
