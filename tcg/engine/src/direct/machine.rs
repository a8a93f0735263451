//! Processes and threads of user-mode emulation on the engine.
#![expect(
    unsafe_code,
    reason = "hands CPUs to other threads, and remakes locks and code memory in a forked child"
)]

use std::{
    any::Any,
    ops::Range,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Instant,
};

use accel::{
    AccelError, ClockTimer, CpuModel, DebugConfig, DebugEvent, GuestClock, LogItems, LogSink, VcpuError,
    Watchpoint,
    arch::{CpuState, GuestArch},
};
use guest_memory::{AddressSpace, Unassigned};
use parking_lot::{Mutex, RwLock, lock_api};
use tcg_codegen::Direct;
use tcg_ir::{abi::UnitExit, passes::PassSet};

use super::host;
use crate::{
    Trap,
    backend::Backend,
    breakpoints::Breakpoints,
    code::{CodeCache, Tier, Unit},
    engine::Engine,
    env::EnvBox,
    guarded,
    hot::Hot,
    memory::ALONE,
    plugins::OwnTables,
    profile::Profile,
    shared::VcpuShared,
    stats::Stats,
    translate::Scratch,
    user::{DirectMemory, HostFault, UserCpu, UserEvent, UserExit, UserGuest, UserMachine, UserOptions},
    vcpu::{Seed, Vcpu},
};

/// Default size of the code memory, reserved and filled as needed.
const CODE_SIZE: usize = 128 << 20;
/// What counts in the guest's time base.
const TIMEBASE_HZ: u64 = 10_000_000;

/// The host's clock: there is no machine to pause.
struct HostClock(Instant);

struct NoTimer;

impl ClockTimer for NoTimer {
    fn arm(&self, _: u64) {}
    fn cancel(&self) {}
}

impl GuestClock for HostClock {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn timer(&self, _: Box<dyn Fn() + Send + Sync>) -> Arc<dyn ClockTimer> {
        Arc::new(NoTimer)
    }
}

struct Machine<G: UserGuest> {
    engine: Arc<Engine<G>>,
    memory: Arc<dyn DirectMemory>,
    /// Physical memory there is none of.
    nothing: AddressSpace,
    clock: Arc<dyn GuestClock>,
    log: LogSink,
    /// Threads so far.
    threads: AtomicU32,
    _registered: Option<host::Registered>,
}

/// A machine for programs of guest `G`.
///
/// # Errors
/// The CPU model is unknown, or the host gives no code memory.
pub fn new_machine<G: UserGuest>(
    arch: GuestArch,
    cpu: &CpuModel,
    memory: Arc<dyn DirectMemory>,
    opts: &UserOptions,
    log: LogSink,
) -> Result<Arc<dyn UserMachine>, AccelError> {
    let guest = Arc::new(G::for_user(arch, cpu)?);
    let tables = OwnTables::new::<G>(&guest, opts.plugins.clone());
    let direct = Direct { segment: memory.base() != 0 };
    let size = if opts.code_size == 0 { CODE_SIZE } else { opts.code_size };
    let backend = if opts.interp {
        Backend::Interp
    } else {
        Backend::jit::<G>(&tables.slots, &tables.helpers, size, Some(direct)).unwrap_or_else(|e| {
            tracing::warn!("{e}; using the interpreter");
            Backend::Interp
        })
    };
    let registered = match &backend {
        Backend::Jit(_) => {
            let (start, len, stub) = backend.fault_range();
            let fail =
                || AccelError::Unavailable { accel: "tcg", reason: "too many processes in one".into() };
            Some(host::register(start, len, stub).ok_or_else(fail)?)
        }
        Backend::Interp => None,
    };
    let passes = match backend {
        Backend::Jit(_) => PassSet::NONE,
        Backend::Interp => PassSet::ALL,
    };
    let profile = Profile::open(opts.perfmap, opts.jitdump)
        .map_err(|source| AccelError::Host { operation: "profile", source })?;
    let entries = tables.helpers.iter().map(|h| h.entry as usize).collect();
    let hot = Hot::new(opts.hot, &backend, tables.plugins.is_some());
    let engine = Arc::new(Engine {
        guest,
        cache: Arc::new(CodeCache::new(backend, Vec::new())),
        stats: Stats::default(),
        profile,
        scratch: Mutex::new(Scratch::new(passes)),
        vcpus: Vec::new(),
        entries,
        hooks: Mutex::default(),
        direct: true,
        breakpoints: Breakpoints::default(),
        hot,
        kept: opts.kept.clone().filter(|_| !opts.interp && opts.plugins.is_none()),
        tables,
    });
    Ok(Arc::new(Machine {
        engine,
        memory,
        nothing: AddressSpace::memory(Unassigned::Ones),
        clock: Arc::new(HostClock(Instant::now())),
        log,
        threads: AtomicU32::new(0),
        _registered: registered,
    }))
}

impl<G: UserGuest> UserMachine for Machine<G> {
    fn new_cpu(&self) -> Box<dyn UserCpu> {
        let engine = self.engine.clone();
        let mut state = engine.guest.reset(0);
        engine.guest.enter_user(&mut state);
        let env = EnvBox::new(state);
        let shared = Arc::new(VcpuShared::new(env.exit_request()));
        engine.cache.add_vcpu(&shared);
        let seed = Seed {
            index: self.threads.fetch_add(1, Relaxed),
            shared: shared.clone(),
            env,
            clock: self.clock.clone(),
            memory: self.nothing.clone(),
            timebase_hz: TIMEBASE_HZ,
            log: self.log.clone(),
            direct: Some(self.memory.clone()),
        };
        let vcpu = Vcpu::new(engine, seed);
        Box::new(Thread { vcpu, shared })
    }

    fn invalidate(&self, range: Range<u64>) {
        self.engine.cache.invalidate_direct(&range);
    }

    fn end_own_threads(&self) {
        self.engine.hot.stop(false);
    }

    fn have_no_threads(&self) {
        self.engine.hot.stop(true);
    }

    fn fork(&self, fork: &mut dyn FnMut() -> i64) -> i64 {
        let e = &self.engine;
        let translating = e.cache.translating.lock();
        e.cache.stop_all();
        let alone = e.cache.exec.write();
        let work = e.hot.freeze();
        let maps = e.cache.freeze();
        let copy = match e.cache.backend.copy() {
            Ok(copy) => copy,
            Err(e) => return -i64::from(e.raw_os_error().unwrap_or(libc::ENOMEM)),
        };
        let pid = fork();
        if pid == 0 {
            // Threads that waited for these locks do not exist here; the locks must not be handed to them.
            std::mem::forget((translating, alone, work, maps));
            // SAFETY: this is the child's only thread, and it has just given up the guards.
            unsafe {
                remake_mutex(&e.cache.translating);
                remake_rwlock(&e.cache.exec);
                e.cache.thaw();
                e.hot.thaw();
            }
            e.cache.backend.replace(copy.as_ref());
            if let Some(plugins) = &e.tables.plugins {
                plugins.forked();
            }
            if let Some(kept) = &e.kept {
                kept.forget_new();
            }
        }
        pid
    }

    fn hwcap(&self) -> u64 {
        self.engine.guest.hwcap()
    }

    fn isa(&self) -> String {
        self.engine.guest.isa()
    }

    fn stats(&self) -> String {
        let e = &self.engine;
        let invalidated = e.cache.invalidations.load(std::sync::atomic::Ordering::Relaxed);
        e.stats.text(e.cache.len(), e.cache.backend.used(), invalidated)
    }

    fn at_end(&self) {
        self.engine.finish_plugins();
    }

    fn set_breakpoints(&self, pcs: &[u64]) {
        if self.engine.breakpoints.set(pcs) {
            let _one = self.engine.cache.translating.lock();
            crate::translate::empty_cache(&self.engine);
        }
    }
}

/// Makes a lock new.
///
/// # Safety
/// No other thread uses the lock, and no guard of it will be dropped.
pub(crate) unsafe fn remake_mutex<T>(m: &Mutex<T>) {
    // SAFETY: by the caller's promise; a raw lock is an atomic, which is written as a whole.
    unsafe {
        let raw = std::ptr::from_ref(m.raw()).cast_mut();
        raw.write(<parking_lot::RawMutex as lock_api::RawMutex>::INIT);
    }
}

/// Makes a lock new.
///
/// # Safety
/// As for [`remake_mutex`].
pub(crate) unsafe fn remake_rwlock<T>(m: &RwLock<T>) {
    // SAFETY: as in `remake_mutex`.
    unsafe {
        let raw = std::ptr::from_ref(m.raw()).cast_mut();
        raw.write(<parking_lot::RawRwLock as lock_api::RawRwLock>::INIT);
    }
}

/// One thread.
struct Thread<G: UserGuest> {
    vcpu: Box<Vcpu<G>>,
    shared: Arc<VcpuShared>,
}

// SAFETY: what makes a `Vcpu` stay on its thread is the machine's I/O interface, lent while it runs, which is not used here. The
// environment's address is its own, and everything else is `Send`.
unsafe impl<G: UserGuest> Send for Thread<G> {}

impl<G: UserGuest> Drop for Thread<G> {
    fn drop(&mut self) {
        self.vcpu.engine.cache.remove_vcpu(&self.shared);
        self.vcpu.count();
        self.vcpu.stop_plugins();
    }
}

impl<G: UserGuest> Thread<G> {
    fn guest(&self) -> Arc<G> {
        self.vcpu.engine.guest.clone()
    }
}

impl<G: UserGuest> UserCpu for Thread<G> {
    fn run(&mut self) -> UserExit {
        let exit = self.vcpu.run_user();
        if self.vcpu.core.log.wants(LogItems::STATS) {
            // The first thread is never dropped.
            self.vcpu.count();
        }
        exit
    }

    fn exit_flag(&self) -> *const AtomicU32 {
        &raw const self.vcpu.core.header().exit_request
    }

    fn pc(&self) -> u64 {
        self.vcpu.engine.guest.pc(self.vcpu.env.state())
    }

    fn set_pc(&mut self, pc: u64) {
        let g = self.guest();
        g.set_pc(self.vcpu.env.state_mut(), pc);
    }

    fn reg(&self, n: usize) -> u64 {
        self.vcpu.engine.guest.reg(self.vcpu.env.state(), n)
    }

    fn set_reg(&mut self, n: usize, value: u64) {
        let v = &mut *self.vcpu;
        v.engine.guest.set_reg(v.env.state_mut(), n, value);
    }

    fn fp_reg(&self, n: usize) -> u64 {
        self.vcpu.engine.guest.fp_reg(self.vcpu.env.state(), n)
    }

    fn set_fp_reg(&mut self, n: usize, value: u64) {
        let v = &mut *self.vcpu;
        v.engine.guest.set_fp_reg(v.env.state_mut(), n, value);
    }

    fn fp_status(&mut self) -> u64 {
        self.vcpu.with(|g, cx| g.fp_status(cx))
    }

    fn set_fp_status(&mut self, value: u64) {
        self.vcpu.with(|g, cx| g.set_fp_status(cx, value));
    }

    fn vectors(&self) -> Option<(Vec<u64>, Vec<u8>)> {
        self.vcpu.engine.guest.vectors(self.vcpu.env.state())
    }

    fn set_vectors(&mut self, control: &[u64], bytes: &[u8]) {
        let v = &mut *self.vcpu;
        v.engine.guest.set_vectors(v.env.state_mut(), control, bytes);
    }

    fn set_parallel(&mut self) {
        let v = &mut *self.vcpu;
        v.engine.guest.set_parallel(v.env.state_mut());
    }

    fn snapshot(&mut self) -> Box<dyn Any + Send> {
        let status = self.fp_status();
        Box::new((self.vcpu.env.state_bytes().to_vec(), status))
    }

    fn restore(&mut self, state: &dyn Any) {
        if let Some((bytes, status)) = state.downcast_ref::<(Vec<u8>, u64)>() {
            let to = self.vcpu.env.state_bytes();
            if to.len() == bytes.len() {
                to.copy_from_slice(bytes);
            }
            self.set_fp_status(*status);
        }
    }

    fn dump(&self) -> String {
        self.vcpu.engine.guest.dump(self.vcpu.env.state())
    }

    fn state(&mut self) -> CpuState {
        self.vcpu.with(|g, cx| g.save(cx))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.vcpu.resume_at = None;
        self.vcpu.with(|g, cx| g.load(cx, state))
    }

    fn set_debug(&mut self, step: bool, watch: &[Watchpoint]) {
        let v = &mut *self.vcpu;
        v.core.debug =
            DebugConfig { breakpoints: Vec::new(), watchpoints: watch.to_vec(), single_step: step };
        v.core.watch_hit = None;
    }

    fn kicker(&self) -> Box<dyn Fn() + Send + Sync> {
        let shared = self.shared.clone();
        Box::new(move || shared.request(0))
    }
}

impl<G: UserGuest> Vcpu<G> {
    /// Runs units until one leaves for a reason that is not the engine's.
    fn run_user(&mut self) -> UserExit {
        let mut from: Option<(Arc<Unit>, u32)> = None;
        let mut alone = false;
        loop {
            if self.core.header().exit_request.load(std::sync::atomic::Ordering::Relaxed) != 0 {
                self.core.header().exit_request.store(0, std::sync::atomic::Ordering::SeqCst);
                self.requests();
                return UserExit::Kicked;
            }
            let cold = from.as_ref().is_some_and(|(f, i)| {
                f.links.get(*i as usize).is_some_and(|l| Engine::<G>::chains_cold(f, l))
            });
            let debugging = self.core.debugging();
            if debugging || self.engine.breakpoints.any() {
                let pc = self.engine.guest.pc(self.env.state());
                let again = self.resume_at.take() == Some(pc);
                if self.engine.breakpoints.has(pc) {
                    if !again {
                        self.resume_at = Some(pc);
                        return UserExit::Debug(DebugEvent::Breakpoint { pc });
                    }
                    alone = true;
                }
                alone |= debugging;
            }
            let single = std::mem::take(&mut alone);
            let found = if single {
                let key = self.engine.guest.key(self.env.state());
                crate::translate::translate(self, key, None, Tier::Second, false)
            } else {
                self.find_unit(false, cold)
            };
            let unit = match found {
                Ok(u) => u,
                Err(trap) => {
                    let pc = self.engine.guest.pc(self.env.state());
                    return if self.core.no_code.take().is_some() {
                        UserExit::Fetch(pc)
                    } else {
                        UserExit::Trap(trap)
                    };
                }
            };
            if let Some((f, index)) = from.take()
                && !self.core.log.wants(LogItems::NOCHAIN)
            {
                self.engine.chain(&f, index, &unit);
            }
            self.core.in_unit = !single;
            let (exit, source) = self.execute(&unit);
            self.core.in_unit = false;
            if debugging
                && let Some(exit) = &exit
                && let Some(event) = self.user_debug(exit)
            {
                return event;
            }
            match exit {
                Some(UnitExit::Link { .. }) => from = source,
                None | Some(UnitExit::Lookup | UnitExit::HelperExit | UnitExit::Budget) => {}
                Some(UnitExit::Fault) => match self.user_fault() {
                    Some(exit) => return exit,
                    None => {
                        alone = true;
                        self.core.again = true;
                    }
                },
                Some(UnitExit::Code(guarded::STALE)) => {
                    let pc = self.engine.guest.pc(self.env.state());
                    self.engine.cache.invalidate_direct(&(pc..pc.saturating_add(1)));
                }
                Some(UnitExit::Code(code)) => match self.user_event(code) {
                    Some(UserEvent::Syscall) => return UserExit::Syscall,
                    Some(UserEvent::CodeChanged) => {
                        let base = self.core.direct_base;
                        let engine = self.engine.clone();
                        engine.cache.recheck(|gva, out| host::read(base.wrapping_add(gva), out).is_ok());
                        return UserExit::CodeChanged;
                    }
                    Some(UserEvent::Trap(trap)) => return UserExit::Trap(trap),
                    None => {}
                },
            }
        }
    }

    /// What a debugger is told of an instruction that has been executed to its end. A system call ends later.
    fn user_debug(&mut self, exit: &UnitExit) -> Option<UserExit> {
        if matches!(exit, UnitExit::Fault | UnitExit::Code(_) | UnitExit::Budget) {
            return None;
        }
        let event = match self.core.watch_hit.take() {
            Some((gva, write)) => DebugEvent::Watchpoint { gva, write },
            None if self.core.debug.single_step => DebugEvent::SingleStep,
            None => return None,
        };
        self.resume_at = Some(self.engine.guest.pc(self.env.state()));
        Some(UserExit::Debug(event))
    }

    fn user_event(&mut self, code: u32) -> Option<UserEvent> {
        let guest = self.engine.guest.clone();
        guest.user_event(self.env.state_mut(), code)
    }

    /// What a unit left for that could not go on; the state is exact. `None`: a store to translated code, whose instruction is
    /// to be executed alone.
    fn user_fault(&mut self) -> Option<UserExit> {
        if let Some((fault, unknown)) = host::take_fault(self.core.header_mut()) {
            self.core.trap = None;
            let base = self.core.direct_base;
            let address = if unknown {
                let site = self.core.header().exit_site;
                let owner = self.engine.cache.by_host(site);
                let backend = &self.engine.cache.backend;
                owner
                    .and_then(|u| backend.access_address(&u.code, site, self.core.header()))
                    .unwrap_or(u64::MAX)
            } else {
                fault.address.wrapping_sub(base)
            };
            if fault.write && self.core.direct.as_ref().is_some_and(|d| d.unwatch(address)) {
                return None;
            }
            return Some(UserExit::Fault(HostFault { address, ..fault }));
        }
        if let Some(fault) = self.core.host_fault.take() {
            self.core.trap = None;
            return Some(UserExit::Fault(fault));
        }
        let trap = self.core.trap.take().unwrap_or(Trap { code: 0, value: 0 });
        (trap != ALONE).then_some(UserExit::Trap(trap))
    }
}
