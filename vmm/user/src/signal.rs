//! Host signals become guest signals.
//!
//! The guest's mask and dispositions are the host's as far as they can be: the host's kernel blocks, queues and merges. For a
//! signal the guest handles, the host's handler notes it in its thread's [`Slot`], blocks everything else until the thread
//! has taken it out, and makes translated code and interruptible system calls return soon. SIGSEGV and SIGBUS stay
//! open on the host: the engine needs them; the guest's own mask for them is kept here, and those that somebody has sent wait in
//! the slot until it is open.
#![expect(unsafe_code, reason = "a signal handler works on raw pointers")]

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use tcg_engine::direct::handle_host_fault;

use crate::host::{self, KernelAction};
use crate::trace::{MESSAGE, STOPPING};

/// Highest signal number.
pub(crate) const MAX: i32 = 64;
/// Handlers with these numbers are the default and to ignore.
pub(crate) const DFL: u64 = 0;
/// See [`DFL`].
pub(crate) const IGN: u64 = 1;

/// Flags of `sigaction`, the same for all architectures.
pub(crate) mod flag {
    pub(crate) const NOCLDSTOP: u64 = 1;
    pub(crate) const NOCLDWAIT: u64 = 2;
    pub(crate) const SIGINFO: u64 = 4;
    pub(crate) const RESTORER: u64 = 0x0400_0000;
    pub(crate) const ONSTACK: u64 = 0x0800_0000;
    pub(crate) const RESTART: u64 = 0x1000_0000;
    pub(crate) const NODEFER: u64 = 0x4000_0000;
    pub(crate) const RESETHAND: u64 = 0x8000_0000;
}

/// The bit of a signal in a mask.
pub(crate) const fn bit(signal: i32) -> u64 {
    1 << (signal as u32 - 1)
}

/// Signals the host must be able to raise at any time.
pub(crate) const OPEN: u64 = bit(libc::SIGSEGV) | bit(libc::SIGBUS);
/// Signals nobody can block.
pub(crate) const UNBLOCKABLE: u64 = bit(libc::SIGKILL) | bit(libc::SIGSTOP);

/// What the guest does with a signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) mask: u64,
    /// Where the handler returns to, where programs say that.
    pub(crate) restorer: Option<u64>,
}

/// `siginfo_t`, as guest and host have it alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SigInfo(pub(crate) [u8; 128]);

impl SigInfo {
    /// Of an exception.
    pub(crate) fn fault(signal: i32, code: i32, address: u64) -> Self {
        let mut b = [0; 128];
        b[..4].copy_from_slice(&signal.to_le_bytes());
        b[8..12].copy_from_slice(&code.to_le_bytes());
        b[16..24].copy_from_slice(&address.to_le_bytes());
        Self(b)
    }

    /// `si_code`.
    pub(crate) fn code(&self) -> i32 {
        i32::from_le_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }
}

/// A signal that cannot be blocked on the host, as somebody has sent it. As in the kernel, a second one is the same.
struct Sent {
    waits: AtomicBool,
    info: UnsafeCell<SigInfo>,
}

impl Sent {
    fn new() -> Self {
        Self { waits: AtomicBool::new(false), info: UnsafeCell::new(SigInfo([0; 128])) }
    }

    fn take(&self) -> Option<SigInfo> {
        if !self.waits.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the handler, which runs on the thread that calls this, does not write while `waits` is set.
        let info = unsafe { *self.info.get() };
        self.waits.store(false, Ordering::Release);
        Some(info)
    }
}

/// Where a handler leaves the signal its thread got.
pub(crate) struct Slot {
    /// Number of the signal, 0 for none.
    signal: AtomicI32,
    info: UnsafeCell<SigInfo>,
    /// SIGSEGV and SIGBUS from others, and what a tracer has to say.
    sent: [Sent; 3],
    /// Makes the thread look.
    flag: *const AtomicU32,
}

thread_local! {
    static CURRENT: Cell<*const Slot> = const { Cell::new(std::ptr::null()) };
}

impl Slot {
    /// The slot of a thread whose CPU has this exit flag.
    pub(crate) fn new(flag: *const AtomicU32) -> Box<Self> {
        let info = UnsafeCell::new(SigInfo([0; 128]));
        let sent = std::array::from_fn(|_| Sent::new());
        Box::new(Self { signal: AtomicI32::new(0), info, sent, flag })
    }

    /// Makes it the calling thread's; handlers may use it until [`Slot::detach`].
    pub(crate) fn attach(&self) {
        CURRENT.set(self);
    }

    /// The thread has none any more.
    pub(crate) fn detach() {
        CURRENT.set(std::ptr::null());
    }

    /// The exit flag.
    pub(crate) fn flag(&self) -> *const AtomicU32 {
        self.flag
    }

    /// True if a signal waits.
    pub(crate) fn is_full(&self) -> bool {
        self.signal.load(Ordering::Acquire) != 0
    }

    /// True if there is something for a thread with this mask.
    pub(crate) fn has_news(&self, mask: u64) -> bool {
        let open = |n: usize| n == TRACER || bit(SENT[n]) & mask == 0;
        self.is_full() || (0..self.sent.len()).any(|n| open(n) && self.sent[n].waits.load(Ordering::Acquire))
    }

    /// Has the thread not look until something comes.
    pub(crate) fn lower(&self) {
        // SAFETY: the flag is that of the CPU of the thread that owns the slot.
        unsafe { (*self.flag).store(0, Ordering::SeqCst) };
    }

    /// Takes what a tracer has to say.
    pub(crate) fn take_message(&self) -> Option<(i32, SigInfo)> {
        self.sent[TRACER].take().map(|info| (SENT[TRACER], info))
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        while self.take(0).is_some() {}
    }

    /// Takes a signal out that this mask lets through. If it was one that the host can block, the thread's host mask still blocks
    /// all others.
    pub(crate) fn take(&self, mask: u64) -> Option<(i32, SigInfo)> {
        for (n, sent) in self.sent.iter().enumerate().rev() {
            if (n == TRACER || bit(SENT[n]) & mask == 0)
                && let Some(info) = sent.take()
            {
                return Some((SENT[n], info));
            }
        }
        let signal = self.signal.load(Ordering::Acquire);
        if signal == 0 {
            return None;
        }
        // SAFETY: the handler does not write while `signal` is set.
        let info = unsafe { *self.info.get() };
        self.signal.store(0, Ordering::Release);
        Some((signal, info))
    }
}

/// What [`Slot::sent`] holds.
const SENT: [i32; 3] = [libc::SIGBUS, libc::SIGSEGV, libc::SIGSEGV];
/// The place of a tracer's.
const TRACER: usize = 2;

/// The host's handler of every signal the guest handles, and of SIGSEGV and SIGBUS.
unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes valid pointers for the length of the handler.
    unsafe {
        let from_kernel = (*info).si_code > 0;
        if (*info).si_code == STOPPING {
            // A tracer died before it could take it.
            return;
        }
        if bit(signal) & OPEN != 0 && from_kernel {
            if !handle_host_fault(signal, info, context) {
                // A fault of Rhea's own: it happens again, without a handler.
                host::say("rhea: internal fault\n");
                host_default(signal);
            }
            return;
        }
        let slot = CURRENT.get();
        if slot.is_null() {
            return;
        }
        let slot = &*slot;
        let context = context.cast::<libc::ucontext_t>();
        let rip = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        if bit(signal) & OPEN != 0 {
            let message = signal == libc::SIGSEGV && (*info).si_code == MESSAGE;
            let place = if message { TRACER } else { usize::from(signal == libc::SIGSEGV) };
            let sent = &slot.sent[place];
            if !sent.waits.load(Ordering::Acquire) {
                (*sent.info.get()).0.copy_from_slice(std::slice::from_raw_parts(info.cast::<u8>(), 128));
                sent.waits.store(true, Ordering::Release);
            }
            (*slot.flag).store(1, Ordering::SeqCst);
            *rip = host::rewind(*rip as u64) as i64;
            return;
        }
        if slot.signal.load(Ordering::Acquire) != 0 {
            // The mask was opened too early: back into the queue.
            host::queue_to_self(signal, info as u64);
            block_all(context.cast());
            return;
        }
        (*slot.info.get()).0.copy_from_slice(std::slice::from_raw_parts(info.cast::<u8>(), 128));
        slot.signal.store(signal, Ordering::Release);
        (*slot.flag).store(1, Ordering::SeqCst);
        block_all(context.cast());
        *rip = host::rewind(*rip as u64) as i64;
    }
}

/// Blocks everything but what must stay open when the handler returns.
///
/// # Safety
/// `context` is the handler's.
unsafe fn block_all(context: *mut c_void) {
    let all = !OPEN;
    // SAFETY: the kernel's mask in the context has 8 bytes.
    unsafe {
        let mask = &raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask;
        mask.cast::<u64>().write_unaligned(all);
    }
}

fn host_default(signal: i32) {
    let _ = host::set_action(signal, &KernelAction { handler: DFL, flags: 0, restorer: 0, mask: 0 });
}

/// Signals that come to the handler even if their default is what they do: a debugger is told of them first, or there is a core
/// to be dumped.
static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Says which signals these are; before [`inherited`].
pub(crate) fn catch(signals: u64) {
    CAUGHT.store(signals & !UNBLOCKABLE, Ordering::Relaxed);
}

/// Makes the host do what the guest's action for a signal needs.
pub(crate) fn install(signal: i32, action: &Action) {
    let told = CAUGHT.load(Ordering::Relaxed) & bit(signal) != 0 && action.handler != IGN;
    let handled = bit(signal) & OPEN != 0 || action.handler > IGN || told;
    let host = if handled {
        KernelAction {
            handler: handler as *const () as u64,
            flags: flag::SIGINFO | flag::RESTORER | action.flags & (flag::NOCLDSTOP | flag::NOCLDWAIT),
            restorer: host::signal_return(),
            mask: !OPEN,
        }
    } else {
        let flags = action.flags & (flag::NOCLDSTOP | flag::NOCLDWAIT);
        KernelAction { handler: action.handler, flags, restorer: 0, mask: 0 }
    };
    let _ = host::set_action(signal, &host);
}

/// Ends the process as this signal ends one.
pub(crate) fn die(signal: i32) -> ! {
    host_default(signal);
    // The core would be Rhea's.
    let none = [0u64; 2];
    let _ = host::call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as u64, none.as_ptr() as u64, 0]);
    host::set_mask(0);
    let (pid, tid) = (std::process::id(), host::gettid());
    let _ = host::call(libc::SYS_tgkill, &[pid.into(), tid as u64, signal as u64]);
    host::exit_group(128 + signal)
}

/// What SIGPIPE did when the process started: the Rust runtime changes it before `main`.
static SIGPIPE_AT_START: AtomicI32 = AtomicI32::new(0);

extern "C" fn note_sigpipe() {
    SIGPIPE_AT_START.store(i32::from(host::get_handler(libc::SIGPIPE) == IGN), Ordering::Relaxed);
}

// SAFETY: the C library calls what is in this section, before the runtime; the function only makes a system call.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE: extern "C" fn() = note_sigpipe;

/// What the program inherits: everything is the default or ignored.
pub(crate) fn inherited() -> [Action; 65] {
    let mut actions = [Action::default(); 65];
    for signal in 1..=MAX {
        let ignored = match signal {
            libc::SIGPIPE => SIGPIPE_AT_START.load(Ordering::Relaxed) != 0,
            _ => host::get_handler(signal) == IGN,
        };
        actions[signal as usize].handler = if ignored { IGN } else { DFL };
        let told = CAUGHT.load(Ordering::Relaxed) & bit(signal) != 0 && default_of(signal) != Default::Ignore;
        if bit(signal) & OPEN != 0 || signal == libc::SIGPIPE || told {
            install(signal, &actions[signal as usize]);
        }
    }
    actions
}

/// What happens by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    Ignore,
    Stop,
    End,
}

/// The default action of a signal.
pub(crate) fn default_of(signal: i32) -> Default {
    match signal {
        libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT => Default::Ignore,
        libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGSTOP => Default::Stop,
        _ => Default::End,
    }
}
