//! Code on the host's own processor that may be refused: the signal is caught behind the instruction.
#![expect(unsafe_code, reason = "handles a signal by changing the context it interrupted")]

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::host::{Host, PROLOGUE, Registers};

static RESUME: AtomicU64 = AtomicU64::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn handler(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let resume = RESUME.swap(0, Ordering::SeqCst);
    if resume == 0 {
        // Not ours.
        std::process::abort();
    }
    SIGNAL.store(signal, Ordering::SeqCst);
    // SAFETY: the kernel passes the context of the interrupted code; where it goes on is code that stores the registers.
    unsafe {
        (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] = resume as i64
    };
}

/// Runs one instruction; the signal it got, or 0. No other test may run in the process.
pub(crate) fn run(host: &Host, code: &[u8], regs: &mut Registers) -> i32 {
    // SAFETY: a zeroed action is valid, and the handler is one of three arguments.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        for signal in [libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGTRAP] {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
    SIGNAL.store(0, Ordering::SeqCst);
    RESUME.store(host.code as u64 + (PROLOGUE + code.len()) as u64, Ordering::SeqCst);
    host.run(code, regs);
    RESUME.store(0, Ordering::SeqCst);
    SIGNAL.load(Ordering::SeqCst)
}
