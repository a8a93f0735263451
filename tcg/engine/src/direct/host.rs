//! Accesses that may be refused, and the part of the host's SIGSEGV and SIGBUS handler that belongs to the engine.
//!
//! Rust code reaches guest memory through a few routines of which the handler knows the bounds: when one faults, it goes on at
//! `rhea_try_failed`, which returns to the caller with the fault in the result registers. A fault in generated code goes on at
//! the code generator's fault stub ([`tcg_codegen::Direct`]).
//!
//! The routines use no stack and, but for their result registers, change only what the C calling convention gives them.
#![expect(
    unsafe_code,
    reason = "reads and writes any address the guest names, and edits the context of host signals"
)]

use std::{
    arch::global_asm,
    ffi::c_void,
    sync::atomic::{AtomicU64, Ordering},
};

use tcg_ir::abi::EnvHeader;

use crate::user::HostFault;

global_asm!(
    ".p2align 4",
    ".globl rhea_try_begin",
    "rhea_try_begin:",
    ".globl rhea_try_load1",
    "rhea_try_load1:",
    "movzx eax, byte ptr [rdi]",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_load2",
    "rhea_try_load2:",
    "movzx eax, word ptr [rdi]",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_load4",
    "rhea_try_load4:",
    "mov eax, dword ptr [rdi]",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_load8",
    "rhea_try_load8:",
    "mov rax, qword ptr [rdi]",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_store1",
    "rhea_try_store1:",
    "mov byte ptr [rdi], sil",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_store2",
    "rhea_try_store2:",
    "mov word ptr [rdi], si",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_store4",
    "rhea_try_store4:",
    "mov dword ptr [rdi], esi",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_store8",
    "rhea_try_store8:",
    "mov qword ptr [rdi], rsi",
    "xor edx, edx",
    "ret",
    // to, from, length
    ".globl rhea_try_copy",
    "rhea_try_copy:",
    "mov rcx, rdx",
    "rep movsb",
    "xor edx, edx",
    "ret",
    // to, pattern of eight bytes, length
    ".globl rhea_try_fill",
    "rhea_try_fill:",
    "mov rax, rsi",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep stosq",
    "and edx, 7",
    "jz 3f",
    "2:",
    "stosb",
    "shr rax, 8",
    "dec edx",
    "jnz 2b",
    "3:",
    "ret",
    // at, expected, new
    ".globl rhea_try_cas1",
    "rhea_try_cas1:",
    "mov rcx, rdx",
    "mov eax, esi",
    "lock cmpxchg byte ptr [rdi], cl",
    "movzx eax, al",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_cas2",
    "rhea_try_cas2:",
    "mov rcx, rdx",
    "mov eax, esi",
    "lock cmpxchg word ptr [rdi], cx",
    "movzx eax, ax",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_cas4",
    "rhea_try_cas4:",
    "mov rcx, rdx",
    "mov eax, esi",
    "lock cmpxchg dword ptr [rdi], ecx",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_cas8",
    "rhea_try_cas8:",
    "mov rcx, rdx",
    "mov rax, rsi",
    "lock cmpxchg qword ptr [rdi], rcx",
    "xor edx, edx",
    "ret",
    // at, expected, new, where to put what was there
    ".globl rhea_try_cas16",
    "rhea_try_cas16:",
    "mov r8, rbx",
    "mov r9, rdx",
    "mov r10, rcx",
    "mov rax, qword ptr [rsi]",
    "mov rdx, qword ptr [rsi + 8]",
    "mov rbx, qword ptr [r9]",
    "mov rcx, qword ptr [r9 + 8]",
    "lock cmpxchg16b xmmword ptr [rdi]",
    "mov qword ptr [r10], rax",
    "mov qword ptr [r10 + 8], rdx",
    "mov rbx, r8",
    "xor edx, edx",
    "ret",
    ".globl rhea_try_failed",
    "rhea_try_failed:",
    "cld",
    "ret",
);

/// A value, and 0 or what `pack` made of a fault (the value is the address then).
#[repr(C)]
struct Tried {
    value: u64,
    fault: u64,
}

unsafe extern "C" {
    fn rhea_try_begin();
    fn rhea_try_failed();
    fn rhea_try_load1(at: u64) -> Tried;
    fn rhea_try_load2(at: u64) -> Tried;
    fn rhea_try_load4(at: u64) -> Tried;
    fn rhea_try_load8(at: u64) -> Tried;
    fn rhea_try_store1(at: u64, value: u64) -> Tried;
    fn rhea_try_store2(at: u64, value: u64) -> Tried;
    fn rhea_try_store4(at: u64, value: u64) -> Tried;
    fn rhea_try_store8(at: u64, value: u64) -> Tried;
    fn rhea_try_copy(to: u64, from: u64, len: u64) -> Tried;
    fn rhea_try_fill(to: u64, pattern: u64, len: u64) -> Tried;
    fn rhea_try_cas1(at: u64, expected: u64, new: u64) -> Tried;
    fn rhea_try_cas2(at: u64, expected: u64, new: u64) -> Tried;
    fn rhea_try_cas4(at: u64, expected: u64, new: u64) -> Tried;
    fn rhea_try_cas8(at: u64, expected: u64, new: u64) -> Tried;
    fn rhea_try_cas16(at: u64, expected: *const u128, new: *const u128, seen: *mut u128) -> Tried;
}

/// Marks a fault whose address the host does not tell: a non-canonical one.
const NO_ADDRESS: u64 = 1 << 40;

fn pack(signal: i32, code: i32, write: bool) -> u64 {
    1 << 32 | u64::from(write) << 33 | (signal as u64 & 0xff) << 16 | code as u64 & 0xffff
}

fn unpack(address: u64, fault: u64) -> HostFault {
    HostFault {
        address,
        signal: (fault >> 16 & 0xff) as i32,
        code: (fault & 0xffff) as i32,
        write: fault >> 33 & 1 != 0,
    }
}

fn result(t: &Tried) -> Result<u64, HostFault> {
    if t.fault == 0 { Ok(t.value) } else { Err(unpack(t.value, t.fault)) }
}

/// Reads `out.len()` bytes at a host address; naturally aligned 1, 2, 4 or 8 bytes as one.
pub(crate) fn read(at: u64, out: &mut [u8]) -> Result<(), HostFault> {
    // SAFETY: the routines touch only `at` (a refusal is a result) and, for the copy, `out`.
    let t = unsafe {
        match out.len() {
            1 => rhea_try_load1(at),
            2 => rhea_try_load2(at),
            4 => rhea_try_load4(at),
            8 => rhea_try_load8(at),
            n => {
                return result(&rhea_try_copy(out.as_mut_ptr() as u64, at, n as u64)).map(|_| ());
            }
        }
    };
    let v = result(&t)?;
    let n = out.len();
    out.copy_from_slice(&v.to_le_bytes()[..n]);
    Ok(())
}

/// Writes `data` at a host address; naturally aligned 1, 2, 4 or 8 bytes as one.
pub(crate) fn write(at: u64, data: &[u8]) -> Result<(), HostFault> {
    // SAFETY: as in `read`. That the address is not ours is the memory map's business, as for the guest's own stores.
    let t = unsafe {
        match *data {
            [a] => rhea_try_store1(at, a.into()),
            [a, b] => rhea_try_store2(at, u16::from_le_bytes([a, b]).into()),
            [a, b, c, d] => rhea_try_store4(at, u32::from_le_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => rhea_try_store8(at, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => rhea_try_copy(at, data.as_ptr() as u64, data.len() as u64),
        }
    };
    result(&t).map(|_| ())
}

/// Copies `len` bytes from one host address to another, counting up, as [`read`] and [`write`] would.
pub(crate) fn copy(from: u64, to: u64, len: usize) -> Result<(), HostFault> {
    // SAFETY: as in `write`.
    result(&unsafe { rhea_try_copy(to, from, len as u64) }).map(|_| ())
}

/// Fills `len` bytes at a host address with a pattern.
pub(crate) fn fill(to: u64, pattern: u64, len: usize) -> Result<(), HostFault> {
    // SAFETY: as in `write`.
    result(&unsafe { rhea_try_fill(to, pattern, len as u64) }).map(|_| ())
}

/// Compares and swaps `n` bytes at a host address; what was there.
pub(crate) fn cas(at: u64, n: usize, expected: u64, new: u64) -> Result<u64, HostFault> {
    // SAFETY: as in `write`.
    let t = unsafe {
        match n {
            1 => rhea_try_cas1(at, expected, new),
            2 => rhea_try_cas2(at, expected, new),
            4 => rhea_try_cas4(at, expected, new),
            _ => rhea_try_cas8(at, expected, new),
        }
    };
    result(&t)
}

/// Compares and swaps 16 bytes at an aligned host address; what was there.
pub(crate) fn cas_wide(at: u64, expected: u128, new: u128) -> Result<u128, HostFault> {
    let mut seen = 0;
    // SAFETY: as in `write`; the other three are ours.
    let t = unsafe { rhea_try_cas16(at, &raw const expected, &raw const new, &raw mut seen) };
    result(&t).map(|_| seen)
}

/// Reads guest memory at a host address.
///
/// # Errors
/// The host refused the access.
pub fn read_guest(at: u64, out: &mut [u8]) -> Result<(), HostFault> {
    if out.is_empty() { Ok(()) } else { read(at, out) }
}

/// Writes guest memory at a host address.
///
/// # Errors
/// The host refused the access.
pub fn write_guest(at: u64, data: &[u8]) -> Result<(), HostFault> {
    if data.is_empty() { Ok(()) } else { write(at, data) }
}

/// Compares and swaps 4 bytes of guest memory at a host address; what was there.
///
/// # Errors
/// The host refused the access.
pub fn cas_guest(at: u64, expected: u32, new: u32) -> Result<u32, HostFault> {
    cas(at, 4, expected.into(), new.into()).map(|v| v as u32)
}

/// Code memory that faults may come from.
pub(crate) struct CodeRange {
    start: AtomicU64,
    end: AtomicU64,
    stub: AtomicU64,
}

/// A signal handler has no argument of ours: the code memory of the process's machines has to be found from nowhere. Slots are
/// never reused while their machine lives.
static RANGES: [CodeRange; 16] =
    [const { CodeRange { start: AtomicU64::new(0), end: AtomicU64::new(0), stub: AtomicU64::new(0) } }; 16];

/// Makes code memory known to the handler until the result is dropped; `None` if there are too many.
pub(crate) fn register(start: u64, len: u64, stub: u64) -> Option<Registered> {
    for r in &RANGES {
        if r.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            r.stub.store(stub, Ordering::SeqCst);
            r.end.store(start + len, Ordering::SeqCst);
            return Some(Registered(r));
        }
    }
    None
}

/// Calls `f` with all signals blocked, so that a thread it makes takes none that are the program's.
pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    let set = |new: u64, old: &mut u64| {
        let (new, old) = (&raw const new, std::ptr::from_mut(old));
        // SAFETY: both are as long as the kernel's set, which the last argument says.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, old, size_of::<u64>()) }
    };
    let (mut old, mut all) = (0, 0);
    let blocked = set(u64::MAX, &mut old) == 0;
    let result = f();
    if blocked {
        set(old, &mut all);
    }
    result
}

/// Keeps code memory known.
pub(crate) struct Registered(&'static CodeRange);

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::SeqCst);
        self.0.start.store(0, Ordering::SeqCst);
    }
}

/// Takes the fault a host signal left in the environment.
pub(crate) fn take_fault(header: &mut EnvHeader) -> Option<(HostFault, bool)> {
    let code = std::mem::take(&mut header.fault_code);
    (code != 0).then(|| (unpack(header.fault_address, code), code & NO_ADDRESS != 0))
}

/// The engine's part of a handler of SIGSEGV and SIGBUS (with `SA_SIGINFO`). True if the fault was one of an access to guest
/// memory: the context has been changed so that the handler may simply return.
///
/// # Safety
/// Called from a signal handler with its own arguments.
pub unsafe fn handle_host_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: the caller passes the handler's arguments, which the host made.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    let regs = &mut context.uc_mcontext.gregs;
    let reg = |r: i32| regs[r as usize] as u64;
    let rip = reg(libc::REG_RIP);
    let write = reg(libc::REG_ERR) & 2 != 0;
    // A general protection fault (trap 13) has no address.
    let known = reg(libc::REG_TRAPNO) == 14 || signal == libc::SIGBUS;
    let code = if known { info.si_code } else { 1 };
    // SAFETY: both signals carry an address in this union.
    let address = if known { unsafe { info.si_addr() as u64 } } else { u64::MAX };
    let fault = pack(signal, code, write) | if known { 0 } else { NO_ADDRESS };
    let tries = rhea_try_begin as *const () as u64..rhea_try_failed as *const () as u64;
    if tries.contains(&rip) {
        // Only addresses the guest named are touched there; without an address, it is in `rdi`, or `rsi` of a copy.
        let guessed = if known { address } else { reg(libc::REG_RDI) };
        if rip >= rhea_try_cas16 as *const () as u64 {
            // The caller's register, which that routine keeps there.
            regs[libc::REG_RBX as usize] = regs[libc::REG_R8 as usize];
        }
        regs[libc::REG_RAX as usize] = guessed as i64;
        regs[libc::REG_RDX as usize] = fault as i64;
        regs[libc::REG_RIP as usize] = tries.end as i64;
        return true;
    }
    for r in &RANGES {
        let start = r.start.load(Ordering::SeqCst);
        if start == 0 || rip < start || rip >= r.end.load(Ordering::SeqCst) {
            continue;
        }
        let header = tcg_codegen::environment(reg(libc::REG_RBP)) as *mut EnvHeader;
        let rsp = reg(libc::REG_RSP) - 8;
        // SAFETY: generated code holds its environment in `rbp`, and has room below its stack pointer: it uses no red zone.
        unsafe {
            (*header).fault_address = address;
            (*header).fault_code = fault;
            (rsp as *mut u64).write(tcg_codegen::fault_site(rip));
        }
        regs[libc::REG_RSP as usize] = rsp as i64;
        regs[libc::REG_RIP as usize] = r.stub.load(Ordering::SeqCst) as i64;
        return true;
    }
    false
}
