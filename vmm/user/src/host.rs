//! The host's system calls, made raw: guest and host share their errors, and the C library would add its own ideas.
//!
//! [`interruptible`] closes the gap between looking for a signal and sleeping in the kernel: a signal that comes before the
//! `syscall` instruction makes the call return [`NOT_MADE`] without having been made. The signal handler sees to that with
//! [`rewind`].
#![expect(unsafe_code, reason = "raw system calls, whose arguments are the guest's")]

use std::arch::{asm, global_asm};
use std::ffi::c_void;
use std::sync::atomic::AtomicU32;

use crate::mm::PAGE;

/// An error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

/// Not an error: a signal came before the call was made. It is made behind the handler.
pub(crate) const NOT_MADE: Errno = Errno(515);
/// Not an error: the call was interrupted before it did anything, and is made again unless a handler that says otherwise
/// runs first.
pub(crate) const RESTART: Errno = Errno(512);
/// The same, but made again only if no handler runs.
pub(crate) const RESTART_ONCE: Errno = Errno(514);
/// Not an error: the call has set all registers itself.
pub(crate) const KEEP: Errno = Errno(513);

/// What a system call gives.
pub(crate) type Sys = Result<u64, Errno>;

global_asm!(
    ".globl rhea_safe_syscall",
    "rhea_safe_syscall:",
    "push rbx",
    "mov rbx, rdi",
    "mov rax, rsi",
    "mov r11, rdx",
    "mov rdi, qword ptr [r11]",
    "mov rsi, qword ptr [r11 + 8]",
    "mov rdx, qword ptr [r11 + 16]",
    "mov r10, qword ptr [r11 + 24]",
    "mov r8, qword ptr [r11 + 32]",
    "mov r9, qword ptr [r11 + 40]",
    ".globl rhea_safe_begin",
    "rhea_safe_begin:",
    "cmp dword ptr [rbx], 0",
    "jne rhea_safe_restart",
    "syscall",
    ".globl rhea_safe_end",
    "rhea_safe_end:",
    "pop rbx",
    "ret",
    ".globl rhea_safe_restart",
    "rhea_safe_restart:",
    "mov rax, -515",
    "pop rbx",
    "ret",
    ".globl rhea_signal_return",
    "rhea_signal_return:",
    "mov eax, 15",
    "syscall",
);

unsafe extern "C" {
    fn rhea_safe_syscall(flag: *const AtomicU32, number: u64, args: *const u64) -> i64;
    fn rhea_safe_begin();
    fn rhea_safe_end();
    fn rhea_safe_restart();
    fn rhea_signal_return();
}

/// Address of the code a signal handler returns to.
pub(crate) fn signal_return() -> u64 {
    rhea_signal_return as *const () as u64
}

/// Where to go on after a signal at `rip`: somewhere else if an interruptible call was about to be made.
pub(crate) fn rewind(rip: u64) -> u64 {
    let at = |f: unsafe extern "C" fn()| f as *const () as u64;
    if (at(rhea_safe_begin)..at(rhea_safe_end)).contains(&rip) { at(rhea_safe_restart) } else { rip }
}

fn check(r: i64) -> Sys {
    if (-4095..0).contains(&r) { Err(Errno(-r as i32)) } else { Ok(r as u64) }
}

/// Makes a call that signals may interrupt; `flag` is set when one has come.
pub(crate) fn interruptible(flag: *const AtomicU32, number: u16, args: &[u64; 6]) -> Sys {
    // SAFETY: `flag` belongs to the calling thread's CPU. What the call does to memory is what its arguments say; see the crate's
    // documentation.
    check(unsafe { rhea_safe_syscall(flag, number.into(), args.as_ptr()) })
}

/// Makes a call.
pub(crate) fn call(number: i64, args: &[u64]) -> Sys {
    let a = |n: usize| args.get(n).copied().unwrap_or(0);
    let r: i64;
    // SAFETY: as in `interruptible`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => r,
            in("rdi") a(0),
            in("rsi") a(1),
            in("rdx") a(2),
            in("r10") a(3),
            in("r8") a(4),
            in("r9") a(5),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    check(r)
}

/// `fork` of the C library, which knows its own locks.
pub(crate) fn fork() -> i64 {
    // SAFETY: the child goes on with this thread alone; `process` sees to the locks it will need.
    match unsafe { libc::fork() } {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN)),
        pid => pid.into(),
    }
}

/// Runs `f` in a child process that shares this one's memory, on a stack of its own, while the calling thread waits until the
/// child has ended or executed another program: `vfork` without its restrictions. The child's number, or an error's with a
/// minus.
pub(crate) fn vfork(mut f: impl FnMut()) -> i64 {
    const STACK: usize = 1 << 20;
    extern "C" fn start<F: FnMut()>(f: *mut std::ffi::c_void) -> i32 {
        // SAFETY: `vfork` passes its closure, and waits in the kernel for as long as this runs.
        unsafe { (*f.cast::<F>())() };
        exit_group(0)
    }
    fn entry<F: FnMut()>(_: &F) -> extern "C" fn(*mut std::ffi::c_void) -> i32 {
        start::<F>
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    let stack = match call(libc::SYS_mmap, &[0, STACK as u64, 3, flags as u64, u64::MAX, 0]) {
        Ok(at) => at,
        Err(e) => return -i64::from(e.0),
    };
    let how = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is new and as long as said; the closure lives until the call returns, which is behind the child's end.
    // The child has the thread's own thread-local storage, which nobody else uses meanwhile.
    let pid = unsafe { libc::clone(entry(&f), (stack + STACK as u64) as *mut _, how, (&raw mut f).cast()) };
    let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
    let _ = call(libc::SYS_munmap, &[stack, STACK as u64]);
    if pid < 0 { -i64::from(error) } else { pid.into() }
}

/// Ends the process at once.
pub(crate) fn exit_group(code: i32) -> ! {
    // SAFETY: nothing of ours needs to be written out.
    unsafe { libc::_exit(code) }
}

/// Ends this thread alone, without the C library: for the first thread, whose end would be the process's.
pub(crate) fn exit_thread(code: i32) -> ! {
    let _ = call(libc::SYS_exit, &[code as u64]);
    exit_group(code)
}

/// A C string of ours as an argument.
pub(crate) fn arg(s: &std::ffi::CStr) -> u64 {
    s.as_ptr() as u64
}

/// Sets the base of the `gs` segment of this thread, which generated code adds to guest addresses.
pub(crate) fn set_guest_base(base: u64) {
    const ARCH_SET_GS: u64 = 0x1001;
    if base != 0 {
        let _ = call(libc::SYS_arch_prctl, &[ARCH_SET_GS, base]);
    }
}

/// Replaces the thread's signal mask; bit `n - 1` is signal `n`.
pub(crate) fn set_mask(mask: u64) {
    let _ = call(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, (&raw const mask) as u64, 0, 8]);
}

/// The thread's signal mask.
pub(crate) fn get_mask() -> u64 {
    let mut mask = 0u64;
    let _ = call(libc::SYS_rt_sigprocmask, &[0, 0, (&raw mut mask) as u64, 8]);
    mask
}

/// `sigaction` as the kernel has it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct KernelAction {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// Sets what the host does with a signal.
pub(crate) fn set_action(signal: i32, action: &KernelAction) -> Sys {
    call(libc::SYS_rt_sigaction, &[signal as u64, std::ptr::from_ref(action) as u64, 0, 8])
}

/// What the host does with a signal: the handler's address, 0 for the default, 1 to ignore it.
pub(crate) fn get_handler(signal: i32) -> u64 {
    let mut old = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let _ = call(libc::SYS_rt_sigaction, &[signal as u64, 0, (&raw mut old) as u64, 8]);
    old.handler
}

/// Thread id.
pub(crate) fn gettid() -> i32 {
    call(libc::SYS_gettid, &[]).unwrap_or(0) as i32
}

/// The bytes of a `stat` the host has filled in.
pub(crate) fn as_stat(words: &[u64; size_of::<libc::stat>().div_ceil(8)]) -> libc::stat {
    // SAFETY: as long and as aligned as the structure, for which every bit pattern is valid.
    unsafe { std::ptr::from_ref(words).cast::<libc::stat>().read() }
}

/// Puts a signal into the calling thread's queue; `info` is the address of its `siginfo`. For signal handlers.
pub(crate) fn queue_to_self(signal: i32, info: u64) {
    let pid = call(libc::SYS_getpid, &[]).unwrap_or(0);
    let tid = call(libc::SYS_gettid, &[]).unwrap_or(0);
    let _ = call(libc::SYS_rt_tgsigqueueinfo, &[pid, tid, signal as u64, info]);
}

/// A descriptor that was just opened, as a file.
pub(crate) fn own(fd: u64) -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller has just got the descriptor from the kernel and gives it away.
    unsafe { std::fs::File::from_raw_fd(fd as i32) }
}

fn last_error() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
}

/// A clock's seconds and nanoseconds, by the C library, which asks the kernel only if it must.
pub(crate) fn clock(id: i32) -> Result<[u64; 2], Errno> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure it is given.
    match unsafe { libc::clock_gettime(id, &raw mut t) } {
        0 => Ok([t.tv_sec as u64, t.tv_nsec as u64]),
        _ => Err(last_error()),
    }
}

/// The processor the calling thread runs on, in the same way.
pub(crate) fn cpu() -> Result<u32, Errno> {
    // SAFETY: no arguments.
    u32::try_from(unsafe { libc::sched_getcpu() }).map_err(|_| last_error())
}

/// A descriptor's copy above those a program uses, closed by `execve`.
pub(crate) fn high(fd: i32) -> Result<std::fs::File, Errno> {
    /// The limit of most processes.
    const USUAL: u64 = 1024;
    let limits = |set: Option<&[u64; 2]>| {
        let (mut old, resource) = ([0u64; 2], u64::from(libc::RLIMIT_NOFILE));
        let new = set.map_or(0, |l| l.as_ptr() as u64);
        call(libc::SYS_prlimit64, &[0, resource, new, old.as_mut_ptr() as u64]).map(|_| old)
    };
    let now @ [soft, hard] = limits(None).unwrap_or_default();
    // Who has lowered its limit has all descriptors below in view: ours go where they usually are.
    let usual = hard.min(USUAL);
    let raised = soft < usual && limits(Some(&[usual, hard])).is_ok();
    let most = if raised { usual } else { soft };
    let from = most.clamp(16, 1 << 16) - 8;
    let moved = call(libc::SYS_fcntl, &[fd as u64, libc::F_DUPFD_CLOEXEC as u64, from]).map(own);
    if raised {
        let _ = limits(Some(&now));
    }
    moved
}

/// True if the kernel says that this process has more rights than whoever started it (`AT_SECURE`).
pub(crate) fn is_secure() -> bool {
    // SAFETY: reads what the kernel gave the process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Writes to standard error at once. For signal handlers.
pub(crate) fn say(text: &str) {
    let _ = call(libc::SYS_write, &[2, text.as_ptr() as u64, text.len() as u64]);
}

/// True if the kernel started this process for a program of another format, with the program's own name in front of its arguments
/// (`AT_FLAGS_PRESERVE_ARGV0` of `include/uapi/linux/binfmts.h`).
pub(crate) fn started_by_binfmt() -> bool {
    // SAFETY: reads what the kernel gave the process.
    unsafe { libc::getauxval(libc::AT_FLAGS) & 1 != 0 }
}

/// Gives back the pages of Rhea's own code and constants: what starting has touched, and what the host has mapped around it. They come
/// back from their files when they are needed again, which few of them are.
pub(crate) fn forget_own_pages() {
    /// Gives back the pages of one object that nobody writes to.
    unsafe extern "C" fn each(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> libc::c_int {
        // SAFETY: the C library passes an object that stays for the length of the call, with all its headers.
        let (base, headers) = unsafe {
            let o = &*object;
            (o.dlpi_addr, std::slice::from_raw_parts(o.dlpi_phdr, o.dlpi_phnum.into()))
        };
        for h in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
            let start = base + h.p_vaddr;
            let end = start + h.p_memsz;
            let [start, end] = [start, end].map(|at| at / PAGE * PAGE);
            if start < end {
                let _ = call(libc::SYS_madvise, &[start, end - start, libc::MADV_DONTNEED as u64]);
            }
        }
        0
    }
    // SAFETY: the function is called for each object before this returns; what it gives back holds what the files do.
    unsafe { libc::dl_iterate_phdr(Some(each), std::ptr::null_mut()) };
}
