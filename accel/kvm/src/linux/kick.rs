//! How other threads reach a vCPU that may be inside `KVM_RUN`, asleep, or anywhere else.
//!
//! A *poke* makes the vCPU look around (a line changed, memory is about to change); a *kick* is a poke that
//! also makes `run` return. Neither can be lost:
//!
//! - the poker sets `immediate_exit` in the vCPU's run page first and sends the signal second, the vCPU sets
//!   `in_run` first and enters `KVM_RUN`, which looks at `immediate_exit`, second. Whichever comes first, either
//!   the signal interrupts `KVM_RUN` or `KVM_RUN` returns at once;
//! - the vCPU clears `immediate_exit` *before* it looks at what it was poked for.
//!
//! A vCPU that sleeps outside of `KVM_RUN` waits on the condition variable under the same lock.

#![expect(unsafe_code, reason = "signals and the run page that the kernel shares with us")]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};

use accel::{Kicker, VcpuSignal};
use kvm_ioctls::VcpuFd;
use parking_lot::{Condvar, Mutex};

/// Where a bound vCPU is reached.
struct Bound {
    thread: libc::pthread_t,
    /// `immediate_exit` of the run page, which lives as long as the vCPU is bound.
    immediate_exit: *const AtomicU8,
}

// SAFETY: `pthread_t` is a number and the pointer is only used for atomic accesses while the vCPU is bound.
unsafe impl Send for Bound {}

#[derive(Default)]
struct Inner {
    bound: Option<Bound>,
    poked: bool,
}

/// Signals that wait for a vCPU.
pub(crate) mod pending {
    pub(crate) const NMI: u32 = 1;
    pub(crate) const SMI: u32 = 1 << 1;
    pub(crate) const INIT: u32 = 1 << 2;
    /// With the vector in bits 8 to 15.
    pub(crate) const SIPI: u32 = 1 << 3;
}

/// The part of a vCPU that any thread may touch.
#[derive(Default)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
    kicked: AtomicBool,
    poked: AtomicBool,
    in_run: AtomicBool,
    /// Levels of the interrupt inputs, one bit each.
    lines: AtomicU32,
    signals: AtomicU32,
}

impl Shared {
    /// Makes the vCPU look around.
    pub(crate) fn poke(&self) {
        let mut inner = self.inner.lock();
        inner.poked = true;
        self.poked.store(true, Ordering::SeqCst);
        if let Some(bound) = &inner.bound {
            // SAFETY: the run page is mapped while `bound` is set, which only the lock's holder changes.
            unsafe { (*bound.immediate_exit).store(1, Ordering::SeqCst) };
            if self.in_run.load(Ordering::SeqCst) {
                // SAFETY: the thread lives: it unbinds its vCPU before it ends.
                unsafe { libc::pthread_kill(bound.thread, signal_number()) };
            }
        }
        self.wake.notify_all();
    }

    /// Takes back all pokes; what they were for is to be looked at after this.
    pub(crate) fn clear_pokes(&self) {
        if self.poked.load(Ordering::SeqCst) {
            let mut inner = self.inner.lock();
            inner.poked = false;
            self.poked.store(false, Ordering::SeqCst);
            if let Some(bound) = &inner.bound {
                // SAFETY: as in `poke`.
                unsafe { (*bound.immediate_exit).store(0, Ordering::SeqCst) };
            }
        }
    }

    /// Sleeps until poked.
    pub(crate) fn sleep(&self) {
        let mut inner = self.inner.lock();
        while !inner.poked {
            self.wake.wait(&mut inner);
        }
    }

    /// Announces `KVM_RUN`.
    pub(crate) fn enter(&self) {
        self.in_run.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// `KVM_RUN` is over.
    pub(crate) fn leave(&self) {
        self.in_run.store(false, Ordering::SeqCst);
    }

    /// Takes an outstanding kick.
    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.load(Ordering::SeqCst) && self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Sets an interrupt input.
    pub(crate) fn set_line(&self, line: u32, level: bool) {
        let bit = 1u32.checked_shl(line).unwrap_or(0);
        let before = if level {
            self.lines.fetch_or(bit, Ordering::SeqCst)
        } else {
            self.lines.fetch_and(!bit, Ordering::SeqCst)
        };
        // A falling line need not disturb the guest: it is looked at when an interrupt is about to be delivered.
        if level && before & bit == 0 {
            self.poke();
        }
    }

    /// Level of an interrupt input.
    #[cfg_attr(
        all(target_arch = "aarch64", not(test)),
        expect(dead_code, reason = "controllers in Rhea are x86's alone")
    )]
    pub(crate) fn line(&self, line: u32) -> bool {
        self.lines.load(Ordering::SeqCst) & (1 << line) != 0
    }

    /// Adds a signal.
    pub(crate) fn signal(&self, signal: VcpuSignal) {
        let bits = match signal {
            VcpuSignal::Nmi => pending::NMI,
            VcpuSignal::Smi => pending::SMI,
            VcpuSignal::Init => pending::INIT,
            VcpuSignal::Sipi(vector) => {
                self.signals.fetch_and(!0xFF00, Ordering::SeqCst);
                pending::SIPI | u32::from(vector) << 8
            }
        };
        self.signals.fetch_or(bits, Ordering::SeqCst);
        self.poke();
    }

    /// Takes all signals.
    pub(crate) fn take_signals(&self) -> u32 {
        match self.signals.load(Ordering::SeqCst) {
            0 => 0,
            _ => self.signals.swap(0, Ordering::SeqCst),
        }
    }

    /// Binds to the calling thread.
    pub(crate) fn bind(&self, vcpu: &mut VcpuFd) -> std::io::Result<()> {
        install_handler()?;
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        let mut inner = self.inner.lock();
        // SAFETY: no requirements.
        let thread = unsafe { libc::pthread_self() };
        inner.bound = Some(Bound { thread, immediate_exit: immediate_exit.cast_const() });
        inner.poked = true;
        self.poked.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The run page is about to go away.
    pub(crate) fn unbind(&self) {
        self.inner.lock().bound = None;
    }
}

impl Kicker for Shared {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.poke();
    }
}

/// The signal that interrupts `KVM_RUN`.
fn signal_number() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {}

/// Installs the handler that does nothing (so that the signal interrupts instead of killing), once a process,
/// and unblocks the signal in this thread.
fn install_handler() -> std::io::Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler does nothing, so it is safe in any context; zeroed is a valid `sigaction`.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(signal_number(), &raw const action, std::ptr::null_mut());
        }
    });
    // SAFETY: the set is initialised by `sigemptyset` before it is used.
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal_number());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_before_binding_is_kept() {
        let s = Shared::default();
        s.kick();
        s.clear_pokes();
        assert!(s.take_kick());
        assert!(!s.take_kick());
    }

    #[test]
    fn lines_and_signals_collect() {
        let s = Shared::default();
        s.set_line(0, true);
        s.set_line(77, true);
        assert!(s.line(0));
        s.set_line(0, false);
        assert!(!s.line(0));
        s.signal(VcpuSignal::Sipi(0x12));
        s.signal(VcpuSignal::Sipi(0x34));
        s.signal(VcpuSignal::Nmi);
        assert_eq!(s.take_signals(), pending::SIPI | pending::NMI | 0x3400);
        assert_eq!(s.take_signals(), 0);
        // Poked: does not block.
        s.sleep();
    }
}
