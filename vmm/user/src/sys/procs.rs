//! Processes: `clone`, `execve`, waiting, ending.

use std::ffi::CString;
use std::fs::File;
use std::sync::{Arc, mpsc};

use crate::abi::Abi;
use crate::elf::{self, Kind};
use crate::host::{self, Errno, Sys};
use crate::options::Inherited;
use crate::signal::{self, OPEN};
use crate::thread::Thread;
use crate::trace;

use super::{Run::*, calls, path};

calls! {
    "clone" [Clone, Addr, Ptr, Addr, Ptr] Do(clone);
    "fork" [] Do(fork);
    "vfork" [] Do(vfork);
    "clone3" [Ptr, Int] Do(clone3);
    "execve" [Path, Ptr, Ptr] Do(execve);
    "execveat" [Dir, Path, Ptr, Ptr, Hex] Do(execveat);
    "exit" [Int] Do(exit);
    "exit_group" [Int] Do(exit_group);
    "wait4" [Int, Ptr, Hex, Ptr] Do(trace::wait4);
    "waitid" [Int, Int, Ptr, Hex, Ptr] Do(trace::waitid);
    "unshare" [Clone] Alone;
    "setns" [Fd, Hex] Alone;
    "pidfd_open" [Int, Hex] Host;
    "pidfd_getfd" [Fd, Fd, Hex] Host;
    "process_mrelease" [Fd, Hex] Host;
}

const EINVAL: Errno = Errno(libc::EINVAL);

const CLONE_VM: u64 = libc::CLONE_VM as u64;
const CLONE_VFORK: u64 = libc::CLONE_VFORK as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
const CLONE_SETTLS: u64 = libc::CLONE_SETTLS as u64;
const CLONE_PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
const CLONE_CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;
const CLONE_CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;
const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
/// What a thread of a C library shares; other mixes are not made.
const THREAD_FLAGS: u64 =
    CLONE_VM | (libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND) as u64 | CLONE_THREAD;
/// Namespaces a child gets of its own.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// What `clone` and `clone3` ask for.
#[derive(Default)]
struct Request {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    pidfd: u64,
}

fn clone(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const CSIGNAL: u64 = 0xff;
    let flags = a[0] & 0xffff_ffff & !CSIGNAL;
    let [parent_tid, child_tid, tls] = t.process.abi.clone_order.map(|n| a[n]);
    make(t, &Request { flags, stack: a[1], parent_tid, child_tid, tls, pidfd: parent_tid })
}

fn fork(t: &mut Thread, _: &[u64; 6]) -> Sys {
    make(t, &Request::default())
}

fn vfork(t: &mut Thread, _: &[u64; 6]) -> Sys {
    make(t, &Request { flags: CLONE_VM | CLONE_VFORK, ..Request::default() })
}

fn clone3(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const SMALLEST: u64 = 64;
    const SIZE: usize = 88;
    if a[1] < SMALLEST || a[1] > 4096 {
        return Err(EINVAL);
    }
    let mut b = [0u8; SIZE];
    let n = (a[1] as usize).min(SIZE);
    t.process.mm.read(a[0], &mut b[..n])?;
    let w = |i: usize| u64::from_le_bytes(b[i * 8..i * 8 + 8].try_into().unwrap_or_default());
    let [flags, pidfd, child_tid, parent_tid, _signal, stack, size, tls] =
        [w(0), w(1), w(2), w(3), w(4), w(5), w(6), w(7)];
    // set_tid and cgroup.
    if w(8) != 0 || w(9) != 0 || flags >> 33 != 0 {
        return Err(EINVAL);
    }
    let stack = if stack == 0 { 0 } else { stack.checked_add(size).ok_or(EINVAL)? };
    make(t, &Request { flags, stack, parent_tid, child_tid, tls, pidfd })
}

fn make(t: &mut Thread, r: &Request) -> Sys {
    if r.flags & CLONE_THREAD != 0 {
        return if r.flags & THREAD_FLAGS == THREAD_FLAGS { new_thread(t, r) } else { Err(EINVAL) };
    }
    if r.flags & CLONE_VM != 0 && r.flags & CLONE_VFORK == 0 {
        // A process that shares memory, without waiting for it: there is no such thing here.
        return Err(EINVAL);
    }
    new_process(t, r)
}

fn new_thread(t: &mut Thread, r: &Request) -> Sys {
    let abi = t.process.abi;
    let mut cpu = t.process.machine.new_cpu();
    t.cpu.set_parallel();
    let state = t.cpu.snapshot();
    cpu.restore(&*state);
    cpu.set_reg(abi.result_reg, 0);
    if r.stack != 0 {
        cpu.set_reg(abi.sp, r.stack);
    }
    if r.flags & CLONE_SETTLS != 0 {
        (abi.set_tls)(&mut *cpu, &t.process.mm, r.tls)?;
    }
    let process = t.process.clone();
    let mask = t.mask;
    let filters = t.filters.clone();
    let (flags, parent_tid, child_tid) = (r.flags, r.parent_tid, r.child_tid);
    let follow = t.follows(true, false);
    let (tell, told) = mpsc::channel();
    // The new thread takes no signal before it is ready for it.
    host::set_mask(!OPEN);
    let spawned = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        let mut thread = Thread::new(Arc::clone(&process), cpu, mask, false);
        thread.filters = filters;
        thread.follow = follow.map(|f| f.0);
        let tid = host::gettid();
        if flags & CLONE_PARENT_SETTID != 0 {
            let _ = process.mm.write_u32(parent_tid, tid as u32);
        }
        if flags & CLONE_CHILD_SETTID != 0 {
            let _ = process.mm.write_u32(child_tid, tid as u32);
        }
        if flags & CLONE_CHILD_CLEARTID != 0 {
            thread.clear_tid = child_tid;
        }
        drop(process);
        let _ = tell.send(tid);
        drop(tell);
        thread.run();
    });
    let tid = spawned.ok().and_then(|_| told.recv().ok());
    if !t.slot.is_full() {
        t.set_host_mask();
    }
    if let (Some(tid), Some((_, event))) = (tid, follow) {
        t.tell_of_child(event, tid as u64);
    }
    tid.map(|t| t as u64).ok_or(Errno(libc::EAGAIN))
}

/// What a child does first.
fn begin(t: &mut Thread, r: &Request) -> Result<(), Errno> {
    let abi = t.process.abi;
    let mm = t.process.mm.clone();
    if r.flags & NAMESPACES != 0 {
        host::call(libc::SYS_unshare, &[r.flags & NAMESPACES])?;
    }
    t.cpu.set_reg(abi.result_reg, 0);
    if r.stack != 0 {
        t.cpu.set_reg(abi.sp, r.stack);
    }
    if r.flags & CLONE_SETTLS != 0 {
        (abi.set_tls)(&mut *t.cpu, &mm, r.tls)?;
    }
    if r.flags & CLONE_CHILD_SETTID != 0 {
        let _ = mm.write_u32(r.child_tid, t.tid as u32);
    }
    t.clear_tid = if r.flags & CLONE_CHILD_CLEARTID != 0 { r.child_tid } else { 0 };
    Ok(())
}

/// A child with a copy of the memory, or, if the parent waits for it, in the parent's own.
fn new_process(t: &mut Thread, r: &Request) -> Sys {
    let follow = t.follows(false, r.flags & CLONE_VFORK != 0);
    // One that is followed has a memory of its own: its parent is to be told of it at once.
    let pid = if r.flags & CLONE_VM != 0 && follow.is_none() {
        t.run_child(|t| begin(t, r))
    } else {
        host::set_mask(!OPEN);
        // Kept alive: the child's thread goes on with it.
        let process = t.process.clone();
        let pid = process.fork();
        if pid == 0 {
            t.tid = host::gettid();
            t.robust = [0; 2];
            t.first = true;
            // What the parent had caught is the parent's.
            t.slot.clear();
            if begin(t, r).is_err() {
                host::exit_group(127);
            }
            t.set_host_mask();
            t.traced = None;
            t.cpu.set_debug(false, &[]);
            if let Some((options, _)) = follow {
                t.begin_followed(options, true);
            }
            return Ok(0);
        }
        if !t.slot.is_full() {
            t.set_host_mask();
        }
        pid
    };
    if pid < 0 {
        return Err(Errno(-pid as i32));
    }
    let mm = &t.process.mm;
    if r.flags & CLONE_PARENT_SETTID != 0 {
        let _ = mm.write_u32(r.parent_tid, pid as u32);
    }
    if r.flags & CLONE_PIDFD != 0 {
        let fd = host::call(libc::SYS_pidfd_open, &[pid as u64, 0])?;
        mm.write_u32(r.pidfd, fd as u32)?;
    }
    if let Some((_, event)) = follow {
        t.tell_of_child(event, pid as u64);
    }
    if r.flags & CLONE_VFORK != 0 {
        t.tell_of_vfork_done(pid as u64);
    }
    Ok(pid as u64)
}

/// The strings of a null-terminated array of pointers.
fn strings(t: &Thread, at: u64) -> Result<Vec<CString>, Errno> {
    const MOST_BYTES: usize = 16 << 20;
    const LONGEST: usize = 128 << 10;
    let mm = &t.process.mm;
    let (mut out, mut bytes) = (Vec::new(), 0);
    if at == 0 {
        return Ok(out);
    }
    for i in 0.. {
        let p = mm.read_u64(at.wrapping_add(i * 8))?;
        if p == 0 {
            break;
        }
        let s = mm
            .read_str(p, LONGEST)
            .map_err(|e| if e.0 == libc::ENAMETOOLONG { Errno(libc::E2BIG) } else { e })?;
        bytes += s.len() + 9;
        if bytes > MOST_BYTES {
            return Err(Errno(libc::E2BIG));
        }
        out.push(CString::new(s).map_err(|_| EINVAL)?);
    }
    Ok(out)
}

fn pointers(list: &[CString]) -> Vec<u64> {
    list.iter().map(|s| host::arg(s)).chain([0]).collect()
}

fn execve(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let p = path(t, a[0])?;
    let name = t.process.mm.read_str(a[0], libc::PATH_MAX as usize)?;
    exec(t, libc::AT_FDCWD as u64, &p, &name, (a[1], a[2]), 0)
}

fn execveat(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let p = path(t, a[1])?;
    let name = t.process.mm.read_str(a[1], libc::PATH_MAX as usize)?;
    exec(t, a[0], &p, &name, (a[2], a[3]), a[4])
}

/// Executes a program: one of the guest's architecture under Rhea again, any other as the host does.
fn exec(t: &mut Thread, dir: u64, p: &CString, name: &[u8], (argv, envp): (u64, u64), flags: u64) -> Sys {
    let mut argv = strings(t, argv)?;
    let envp = strings(t, envp)?;
    if argv.is_empty() {
        argv.push(CString::default());
    }
    let own = crate::proc_files::is_own_exe(name);
    let exe = CString::new(t.process.exe.clone()).unwrap_or_default();
    let (p, name) = if own { (&exe, exe.as_bytes()) } else { (p, name) };
    // The host says whether the file may be executed at all.
    let nofollow = flags & libc::AT_SYMLINK_NOFOLLOW as u64;
    let empty = flags & libc::AT_EMPTY_PATH as u64;
    let x = libc::X_OK as u64;
    host::call(libc::SYS_faccessat2, &[dir, host::arg(p), x, nofollow | empty | libc::AT_EACCESS as u64])?;
    let open = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
    let fd = if empty != 0 && name.is_empty() {
        let link = CString::new(format!("/proc/self/fd/{}", dir as i32)).unwrap_or_default();
        host::call(libc::SYS_openat, &[libc::AT_FDCWD as u64, host::arg(&link), open])
    } else {
        host::call(libc::SYS_openat, &[dir, host::arg(p), open])
    };
    let abi = match fd {
        Ok(fd) => {
            let file = host::own(fd);
            if file.metadata().is_ok_and(|m| !m.is_file()) {
                return Err(Errno(libc::EACCES));
            }
            guest_of(t, &file)
        }
        // Executable, but not readable: the host can tell.
        Err(_) => None,
    };
    let Some(abi) = abi else {
        return exec_host(t, dir, p, argv, envp, flags);
    };
    let rhea = t.process.rhea.load(std::sync::atomic::Ordering::Relaxed);
    if rhea < 0 && t.filters.is_none() && t.traced.is_none() {
        // Nothing leads to Rhea's own file where there is no /proc, but the kernel that has started Rhea for a program does so
        // for the next one.
        return exec_host(t, dir, p, argv, envp, flags);
    }
    let path = if dir as i32 == libc::AT_FDCWD || name.first() == Some(&b'/') {
        name.to_vec()
    } else {
        let mut full = format!("/proc/self/fd/{}", dir as i32).into_bytes();
        if !name.is_empty() {
            full.push(b'/');
            full.extend_from_slice(name);
        }
        full
    };
    let filters = t.filters.as_ref().map(|f| f.pass_on().ok_or(Errno(libc::ENOMEM))).transpose()?;
    let same = std::ptr::eq(abi, t.process.abi);
    let traced = t.traced.as_ref().map(|t| t.options());
    let personality = t.process.personality.load(std::sync::atomic::Ordering::Relaxed);
    let inherited = Inherited { filters, traced, personality };
    let mut args: Vec<CString> = t.process.options.for_exec(abi.name, same, inherited, &argv[0]);
    args.push(CString::new(path).map_err(|_| EINVAL)?);
    args.extend(argv.into_iter().skip(1));
    let r = exec_host(t, rhea as u64, &CString::default(), args, envp, libc::AT_EMPTY_PATH as u64);
    if let Some(fd) = filters {
        let _ = host::call(libc::SYS_close, &[fd as u64]);
    }
    r
}

fn exec_host(
    t: &mut Thread,
    dir: u64,
    p: &CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    flags: u64,
) -> Sys {
    t.process.keep_translations();
    t.process.end_plugins();
    let pointed = [pointers(&argv), pointers(&envp)];
    // If this is a child in its parent's memory, the parent frees them.
    let [argv_at, envp_at] = pointed.each_ref().map(|p| p.as_ptr() as u64);
    t.left = Some(Box::new((argv, envp, pointed)));
    // The new program inherits the mask and what is ignored, which are the host's already, but for the signals Rhea needs.
    let actions = *t.process.actions();
    for s in [libc::SIGSEGV, libc::SIGBUS] {
        if actions[s as usize].handler == signal::IGN {
            let ignore = host::KernelAction { handler: signal::IGN, flags: 0, restorer: 0, mask: 0 };
            let _ = host::set_action(s, &ignore);
        }
    }
    if t.mask & OPEN != 0 {
        host::set_mask(t.mask);
    }
    let args = [dir, host::arg(p), argv_at, envp_at, flags];
    let r = host::call(libc::SYS_execveat, &args);
    t.left = None;
    if !t.slot.is_full() {
        t.set_host_mask();
    }
    for s in [libc::SIGSEGV, libc::SIGBUS] {
        signal::install(s, &actions[s as usize]);
    }
    r
}

/// The guest architecture as which Rhea runs a file: an ELF file for one, or a script whose interpreter is. What the host runs
/// itself is left to it, unless the program at hand could not tell the difference either.
fn guest_of(t: &Thread, file: &File) -> Option<&'static Abi> {
    let own = t.process.abi;
    let known = |kind: &Kind| Abi::of_file(kind).filter(|a| own.is_hosts() || !a.is_hosts());
    match elf::kind(file) {
        Kind::Script(interp, _) => {
            let real = t.process.paths.host_bytes(&interp);
            let name = String::from_utf8_lossy(&real).into_owned();
            match elf::kind(&File::open(name).ok()?) {
                Kind::Script(..) => Some(own),
                kind => known(&kind),
            }
        }
        kind => known(&kind),
    }
}

fn exit(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.ended = Some(a[0] as i32 & 0xff);
    Err(host::KEEP)
}

fn exit_group(t: &mut Thread, a: &[u64; 6]) -> Sys {
    t.exit_group(a[0] as i32 & 0xff)
}
