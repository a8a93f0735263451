//! A vCPU of the translator: the loop that finds, runs and chains units, and everything that interrupts it.
#![expect(
    unsafe_code,
    reason = "holds the machine's I/O interface by address while the guest runs, and the environment's header"
)]

use std::{
    ptr::NonNull,
    sync::Arc,
    sync::atomic::{Ordering, fence},
};

use accel::{
    ClockTimer, DebugConfig, DebugEvent, Exit, GuestClock, IoResult, LogItems, LogSink, Vcpu as VcpuTrait,
    VcpuError, VcpuIo, WatchKind, arch::CpuState,
};
use guest_memory::{AddressSpace, BusResult, FlatView, PAGE_SIZE, RamBlock};
use tcg_ir::{
    HelperResult,
    abi::{EnvHeader, UnitExit},
};

use crate::{
    Access, Cx, ExitAction, Guest, Key, Trap,
    code::{CodeCache, DIRECT, Tier, Unit, UnitKey, block_ref},
    engine::Engine,
    env::EnvBox,
    guest::{STATUS_EXIT, STATUS_FAULT},
    hot::{Calls, HotMode},
    memory::{self, Place},
    origins::Walked,
    plugins::Plugged,
    shared::{VcpuShared, request},
    tlb::Tlb,
    user::{DirectMemory, HostFault},
};

/// Bit of [`Key::mode`] for units made under a debugger: one instruction each.
const DEBUG_KEY: u64 = 1 << 63;

/// Units that a vCPU has at hand.
const RECENT: usize = 16;

fn recent_index(pc: u64) -> usize {
    ((pc >> 1) ^ (pc >> 5)) as usize % RECENT
}

/// A vCPU without its guest-specific part.
pub(crate) struct Core {
    pub(crate) index: u32,
    pub(crate) shared: Arc<VcpuShared>,
    pub(crate) tlb: Tlb,
    pub(crate) memory: AddressSpace,
    pub(crate) view: Arc<FlatView>,
    /// `view` is that of the secure mode.
    secure: bool,
    pub(crate) clock: Arc<dyn GuestClock>,
    pub(crate) timer: Arc<dyn ClockTimer>,
    pub(crate) timebase_hz: u64,
    pub(crate) log: LogSink,
    pub(crate) cache: Arc<CodeCache>,
    /// Guest memory, where it is the host's.
    pub(crate) direct: Option<Arc<dyn DirectMemory>>,
    /// Host address of guest address 0 then.
    pub(crate) direct_base: u64,
    /// What the last walk of page tables has read.
    pub(crate) walked: Walked,
    /// A host fault of an access by Rust code.
    pub(crate) host_fault: Option<HostFault>,
    /// Where the last fetch failed.
    pub(crate) no_code: Option<u64>,
    header: NonNull<EnvHeader>,
    io: Option<NonNull<dyn VcpuIo>>,
    pub(crate) trap: Option<Trap>,
    pub(crate) leave: bool,
    /// A unit of several instructions runs.
    pub(crate) in_unit: bool,
    /// State that is taken over says nothing about the interrupt inputs.
    pub(crate) keeps_lines: bool,
    pub(crate) debug: DebugConfig,
    pub(crate) watch_hit: Option<(u64, bool)>,
    pub(crate) plugins: Option<Plugged>,
    /// The next instruction was started before, and left to be executed alone.
    pub(crate) again: bool,
}

/// What a machine without a bus answers; used when guest-crate code runs outside `run` (saving, debugging).
struct NoIo;

impl VcpuIo for NoIo {
    fn mmio_read(&self, _: u64, data: &mut [u8]) -> IoResult {
        data.fill(0);
        IoResult::DecodeError
    }
    fn mmio_write(&self, _: u64, _: &[u8]) -> IoResult {
        IoResult::DecodeError
    }
    fn pio_read(&self, _: u16, data: &mut [u8]) -> IoResult {
        data.fill(0xff);
        IoResult::DecodeError
    }
    fn pio_write(&self, _: u16, _: &[u8]) -> IoResult {
        IoResult::DecodeError
    }
    fn ack_irq(&self, _: u32) -> Option<u8> {
        None
    }
    fn eoi(&self, _: u8) {}
}

fn io_result(result: BusResult) -> IoResult {
    match result {
        BusResult::Ok => IoResult::Ok,
        BusResult::DecodeError => IoResult::DecodeError,
        BusResult::DeviceError => IoResult::DeviceError,
    }
}

/// A word of 4 or 8 bytes of a page table.
fn load_word(block: &RamBlock, offset: u64, bytes: usize) -> Option<u64> {
    match bytes {
        4 => block.load::<u32>(offset, Ordering::Acquire).ok().map(u64::from),
        8 => block.load::<u64>(offset, Ordering::Acquire).ok(),
        _ => None,
    }
}

impl Core {
    pub(crate) fn header(&self) -> &EnvHeader {
        // SAFETY: the environment lives as long as its vCPU, and this is the vCPU's thread.
        unsafe { self.header.as_ref() }
    }

    pub(crate) fn header_mut(&mut self) -> &mut EnvHeader {
        // SAFETY: as above; generated code does not run while Rust code holds `self`.
        unsafe { self.header.as_mut() }
    }

    pub(crate) fn io(&self) -> &dyn VcpuIo {
        match self.io {
            // SAFETY: set for the length of `run`, whose caller lends it.
            Some(io) => unsafe { io.as_ref() },
            None => &NoIo,
        }
    }

    /// The view that a bus access at `gpa` goes through, if that is the secure one. What it does not hold (a local interrupt
    /// controller) is the machine's all the same.
    fn secure_view(&self, gpa: u64) -> Option<&FlatView> {
        let view = self.secure.then_some(&*self.view)?;
        view.find(gpa).map(|_| view)
    }

    /// Reads off the fast path, as the vCPU's mode has it.
    pub(crate) fn bus_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        match self.secure_view(gpa) {
            Some(view) => io_result(view.read(gpa, data)),
            None => self.io().mmio_read(gpa, data),
        }
    }

    /// Writes off the fast path, as the vCPU's mode has it.
    pub(crate) fn bus_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        match self.secure_view(gpa) {
            Some(view) => io_result(view.write(gpa, data)),
            None => self.io().mmio_write(gpa, data),
        }
    }

    pub(crate) fn publish(&mut self) {
        // SAFETY: as in `header_mut`; the TLB is another allocation.
        let header = unsafe { self.header.as_mut() };
        self.tlb.publish(header);
    }

    pub(crate) fn set_space(&mut self, tag: u64) {
        if self.tlb.set_space(tag) {
            self.publish();
        }
    }

    pub(crate) fn flush_tlb(&mut self, gva: Option<u64>, space: impl Fn(u64) -> bool) {
        self.tlb.flush(gva, space);
        self.publish();
    }

    /// Makes `tag` the current space, and drops of it what a walk from `root` would not find again.
    pub(crate) fn reload_space(&mut self, tag: u64, root: u64, set_by_walks: u64) {
        let dropped = self.tlb.refresh(tag, root, set_by_walks, &memory::Tables(&self.view));
        if self.tlb.set_space(tag) || dropped {
            self.publish();
        }
    }

    /// Notes where a page that was just cached comes from.
    pub(crate) fn note_origin(&mut self, gva: u64, small: bool, set_by_walks: u64) {
        let tables = memory::Tables(&self.view);
        self.tlb.note_origin(gva, small, &self.walked, set_by_walks, |word| tables.host(word));
    }

    /// Takes a new memory map at once, if the access that was just made to a device has changed it.
    pub(crate) fn follow_map(&mut self) {
        if self.shared.take_request(request::FLUSH_TLB) {
            self.take_view();
        }
    }

    /// Takes the present memory map and forgets what was cached of another.
    fn take_view(&mut self) {
        self.view = if self.secure { self.memory.secure_snapshot() } else { self.memory.snapshot() };
        self.tlb.flush(None, |_| true);
        self.publish();
    }

    /// Enters or leaves the secure mode, in which secure regions of memory are seen.
    pub(crate) fn set_secure(&mut self, on: bool) {
        if self.secure != on {
            self.secure = on;
            self.take_view();
        }
    }

    pub(crate) fn ack_irq(&self) -> Option<u8> {
        self.io().ack_irq(self.index)
    }

    pub(crate) fn phys_read(&self, gpa: u64, bytes: usize) -> Option<u64> {
        let (range, offset) = self.view.translate(gpa)?;
        load_word(range.readable_ram()?, offset, bytes)
    }

    pub(crate) fn phys_cas(&mut self, gpa: u64, bytes: usize, old: u64, new: u64) -> Option<bool> {
        let view = self.view.clone();
        let (range, offset) = view.translate(gpa)?;
        let block = range.writable_ram()?;
        let n = bytes as u64;
        if offset % n != 0 || offset + n > block.size() {
            return None;
        }
        // SAFETY: in range and aligned by the checks above; the block lives as long as the view.
        let done = unsafe {
            let at = block.host_ptr().as_ptr().add(offset as usize);
            if bytes == 4 {
                let a = &*at.cast::<std::sync::atomic::AtomicU32>();
                a.compare_exchange(old as u32, new as u32, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            } else {
                let a = &*at.cast::<std::sync::atomic::AtomicU64>();
                a.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            }
        };
        if block.dirty().is_watched(offset, n) {
            self.invalidate_code(block, offset, n);
        }
        block.dirty().mark_quiet(offset, n);
        Some(done)
    }

    /// Drops the units that overlap a place; true if there were any.
    pub(crate) fn invalidate_code(&mut self, block: &Arc<RamBlock>, offset: u64, len: u64) -> bool {
        self.cache.invalidate(block, &(offset..offset + len))
    }

    /// Notes an access that a watchpoint looks for; the vCPU stops at the end of the instruction.
    pub(crate) fn check_watch(&mut self, gva: u64, len: u64, write: bool) {
        if self.debug.watchpoints.is_empty() || self.watch_hit.is_some() {
            return;
        }
        let hit = self.debug.watchpoints.iter().any(|w| {
            let wanted = match w.kind {
                WatchKind::Read => !write,
                WatchKind::Write => write,
                WatchKind::Access => true,
            };
            wanted && gva < w.gva.saturating_add(w.len) && w.gva < gva.saturating_add(len)
        });
        if hit {
            self.watch_hit = Some((gva, write));
            self.header().exit_request.store(1, Ordering::SeqCst);
        }
    }

    /// True if accesses to the page must be looked at one by one.
    pub(crate) fn page_watched(&self, page: u64) -> bool {
        self.debug
            .watchpoints
            .iter()
            .any(|w| page < w.gva.saturating_add(w.len) && w.gva < page.saturating_add(PAGE_SIZE))
    }

    pub(crate) fn debugging(&self) -> bool {
        self.debug != DebugConfig::default()
    }
}

/// A vCPU.
pub(crate) struct Vcpu<G: Guest> {
    pub(crate) engine: Arc<Engine<G>>,
    pub(crate) env: EnvBox<G::State>,
    pub(crate) core: Core,
    pub(crate) interp: tcg_ir::interp::Interp,
    /// Cache generation this vCPU's jump cache belongs to.
    generation: u32,
    /// Units of the second tier that the loop found last, by address; only of programs.
    recent: [Option<Arc<Unit>>; RECENT],
    /// Breakpoint to step over: where the last run stopped.
    pub(crate) resume_at: Option<u64>,
    pub(crate) executed: u64,
    /// Exits from units by kind.
    exits: [u64; EXIT_KINDS.len()],
    /// Where samples have found indirect calls to go.
    pub(crate) calls: Calls,
}

/// Kinds of exits, for the statistics.
pub(crate) const EXIT_KINDS: [&str; 7] = ["link", "lookup", "budget", "fault", "helper", "code", "miss"];

/// Times a unit of the first tier is asked for before its code is translated again.
const WARM: u32 = 24;

/// Notes that a unit of the first tier was asked for; true if that was often enough.
fn is_warm(unit: &Unit) -> bool {
    unit.heat.fetch_add(1, Ordering::Relaxed) + 1 >= WARM
}

fn kind(e: &UnitExit) -> usize {
    match e {
        UnitExit::Link { .. } => 0,
        UnitExit::Lookup => 1,
        UnitExit::Budget => 2,
        UnitExit::Fault => 3,
        UnitExit::HelperExit => 4,
        UnitExit::Code(_) => 5,
    }
}

/// What makes one vCPU, before it is bound to its thread.
pub(crate) struct Seed<S> {
    pub(crate) index: u32,
    pub(crate) shared: Arc<VcpuShared>,
    pub(crate) env: EnvBox<S>,
    pub(crate) clock: Arc<dyn GuestClock>,
    pub(crate) memory: AddressSpace,
    pub(crate) timebase_hz: u64,
    pub(crate) log: LogSink,
    /// Guest memory, where it is the host's.
    pub(crate) direct: Option<Arc<dyn DirectMemory>>,
}

impl<G: Guest> Vcpu<G> {
    /// Made boxed and never moved out: generated code knows its address.
    pub(crate) fn new(engine: Arc<Engine<G>>, seed: Seed<G::State>) -> Box<Self> {
        let Seed { index, shared, env, clock, memory, timebase_hz, log, direct } = seed;
        let wake = shared.clone();
        let timer = clock.timer(Box::new(move || wake.notify()));
        let header = NonNull::new(env.header_ptr()).unwrap_or(NonNull::dangling());
        let core = Core {
            index,
            tlb: Tlb::new(engine.cache.backend.miss_address(), &shared),
            shared,
            view: memory.snapshot(),
            secure: false,
            memory,
            clock,
            timer,
            timebase_hz,
            log,
            cache: engine.cache.clone(),
            direct_base: direct.as_ref().map_or(0, |d| d.base()),
            direct,
            walked: Walked::new(),
            host_fault: None,
            no_code: None,
            header,
            io: None,
            trap: None,
            leave: false,
            in_unit: false,
            keeps_lines: false,
            debug: DebugConfig::default(),
            watch_hit: None,
            plugins: engine.tables.plugins.as_ref().map(|p| Plugged::new(p, index)),
            again: false,
        };
        let interp = tcg_ir::interp::Interp::new();
        // The new jump cache is empty.
        let generation = engine.cache.generation();
        let mut v = Box::new(Self {
            engine,
            env,
            core,
            interp,
            generation,
            recent: [const { None }; RECENT],
            resume_at: None,
            executed: 0,
            exits: [0; EXIT_KINDS.len()],
            calls: Calls::default(),
        });
        let address = (&raw mut *v) as u64;
        let helpers = v.engine.helper_entries();
        let header = v.core.header_mut();
        header.vcpu = address;
        header.helpers = helpers;
        v.core.publish();
        v.with(|g, cx| g.start(cx));
        v
    }

    /// Runs guest-crate code.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&G, &mut Cx<'_, G>) -> R) -> R {
        let guest = &*self.engine.guest;
        let mut cx = Cx { state: self.env.state_mut(), core: &mut self.core, guest };
        f(guest, &mut cx)
    }

    /// Runs a helper for generated code or the interpreter.
    pub(crate) fn helper(&mut self, f: impl FnOnce(&mut Cx<'_, G>) -> Result<u64, Trap>) -> HelperResult {
        self.core.leave = false;
        if let Some(p) = &mut self.core.plugins {
            p.enter_helper();
        }
        let result = self.with(|_, cx| f(cx));
        if let Some(p) = &mut self.core.plugins {
            p.leave_helper();
        }
        match result {
            Ok(value) => {
                let status = if std::mem::take(&mut self.core.leave) { STATUS_EXIT } else { 0 };
                HelperResult { value, status }
            }
            Err(trap) => {
                self.core.trap = Some(trap);
                HelperResult { value: 0, status: STATUS_FAULT }
            }
        }
    }

    /// Calls a helper by its number, as generated code does.
    pub(crate) fn call_helper(&mut self, helper: tcg_ir::HelperId, a: [u64; 4]) -> HelperResult {
        let Some(desc) = self.engine.tables.helpers.get(helper.0 as usize) else {
            return HelperResult { value: 0, status: STATUS_FAULT };
        };
        let (entry, env) = (desc.entry, self.env.header_ptr());
        // SAFETY: the entry is `guest::thunk` of this guest, which finds this vCPU through the environment; `self` is not
        // used until it returns.
        unsafe { entry(env.cast(), a[0], a[1], a[2], a[3]) }
    }

    pub(crate) fn requests(&mut self) {
        let r = self.core.shared.take_requests();
        if r & request::FLUSH_TLB != 0 {
            self.core.take_view();
        } else if r & request::FLUSH_JUMPS != 0 {
            self.core.tlb.flush_jumps();
            self.core.publish();
        }
        if r & request::PROTECT != 0 {
            for gpa in self.core.shared.take_protect() {
                self.core.tlb.protect_page(gpa);
            }
        }
        if r & request::SAMPLE != 0 {
            self.note_place();
        }
    }

    fn run_loop(&mut self) -> Exit {
        self.resume_at = Some(self.engine.guest.pc(self.env.state()));
        loop {
            self.core.header().exit_request.store(0, Ordering::SeqCst);
            self.requests();
            self.engine.cache.purge();
            if self.core.shared.take_kick() {
                return Exit::Kicked;
            }
            while let Some(s) = self.core.shared.take_signal() {
                self.with(|g, cx| g.signal(cx, s));
            }
            if self.engine.guest.waiting(self.env.state()) {
                if let Some(exit) = self.with(|g, cx| g.stopped(cx)) {
                    return exit;
                }
                if self.with(|g, cx| g.has_work(cx)) {
                    let guest = self.engine.guest.clone();
                    guest.wake(self.env.state_mut());
                } else {
                    self.core.shared.park();
                    continue;
                }
            }
            self.with(|g, cx| g.interrupt(cx));
            if let Some(exit) = self.run_units() {
                return exit;
            }
        }
    }

    /// Runs units until something asks to look around; `Some` ends the run.
    fn run_units(&mut self) -> Option<Exit> {
        let mut from: Option<(Arc<Unit>, u32)> = None;
        let mut alone = false;
        loop {
            if self.core.header().exit_request.load(Ordering::Relaxed) != 0 {
                return None;
            }
            let debugging = self.core.debugging();
            if debugging {
                let pc = self.engine.guest.pc(self.env.state());
                if self.resume_at.take() != Some(pc) && self.core.debug.breakpoints.contains(&pc) {
                    return Some(Exit::Debug(DebugEvent::Breakpoint { pc }));
                }
            }
            let cold = from.as_ref().is_some_and(|(f, i)| {
                f.links.get(*i as usize).is_some_and(|l| Engine::<G>::chains_cold(f, l))
            });
            let single = std::mem::take(&mut alone);
            let found = if single {
                let key = self.key(debugging);
                crate::translate::translate(self, key, None, Tier::Second, debugging)
            } else {
                self.find_unit(debugging, cold)
            };
            let unit = match found {
                Ok(u) => u,
                Err(trap) => {
                    self.with(|g, cx| g.raise(cx, trap));
                    from = None;
                    if self.engine.guest.waiting(self.env.state()) {
                        return None;
                    }
                    continue;
                }
            };
            if let Some((f, index)) = from.take()
                && !debugging
                && !self.core.log.wants(LogItems::NOCHAIN)
            {
                self.engine.chain(&f, index, &unit);
            }
            self.core.in_unit = !single;
            let (exit, source) = self.execute(&unit);
            self.core.in_unit = false;
            self.executed += 1;
            if let Some(e) = &exit {
                self.exits[kind(e)] += 1;
            }
            // A helper may have enabled an interrupt that is already pending.
            let look = matches!(exit, Some(UnitExit::HelperExit));
            match exit {
                None => return None,
                Some(UnitExit::Link { .. }) => from = source,
                Some(UnitExit::Lookup | UnitExit::HelperExit) => {}
                Some(UnitExit::Budget) => return None,
                Some(UnitExit::Fault) => {
                    if let Some(trap) = self.core.trap.take() {
                        if trap == memory::ALONE {
                            (alone, self.core.again) = (true, true);
                            continue;
                        }
                        self.with(|g, cx| g.raise(cx, trap));
                        if self.engine.guest.waiting(self.env.state()) {
                            return None;
                        }
                    }
                }
                Some(UnitExit::Code(code)) => {
                    if let Some(exit) = self.act(code) {
                        return Some(exit);
                    }
                    if self.engine.guest.waiting(self.env.state()) {
                        // The instruction that waits is a step as well; who steps sees what comes of it.
                        return self.core.debug.single_step.then_some(Exit::Debug(DebugEvent::SingleStep));
                    }
                }
            }
            if debugging {
                if let Some((gva, write)) = self.core.watch_hit.take() {
                    return Some(Exit::Debug(DebugEvent::Watchpoint { gva, write }));
                }
                if self.core.debug.single_step {
                    return Some(Exit::Debug(DebugEvent::SingleStep));
                }
            }
            if look {
                return None;
            }
        }
    }

    fn act(&mut self, code: u32) -> Option<Exit> {
        match self.with(|g, cx| g.run_exit(cx, code)) {
            ExitAction::Continue | ExitAction::Wait => None,
            ExitAction::Halt => Some(Exit::Halted),
            ExitAction::Reset => Some(Exit::Reset),
            ExitAction::Shutdown => Some(Exit::Shutdown),
            ExitAction::Raise(trap) => {
                self.with(|g, cx| g.raise(cx, trap));
                None
            }
            ExitAction::Breakpoint => {
                let pc = self.engine.guest.pc(self.env.state());
                Some(Exit::Debug(DebugEvent::Breakpoint { pc }))
            }
        }
    }

    /// The key of the present state, with the engine's own bit.
    fn key(&self, debugging: bool) -> Key {
        let mut key = self.engine.guest.key(self.env.state());
        if debugging {
            key.mode |= DEBUG_KEY;
        }
        key
    }

    /// Where the code at `pc` lies; `None` if it is not in RAM.
    pub(crate) fn locate(&mut self, key: Key) -> Result<Option<UnitKey>, Trap> {
        if self.core.direct.is_some() {
            return Ok(Some(UnitKey { block: DIRECT, offset: key.pc, key }));
        }
        let place = self.with(|g, cx| {
            let mmu = g.fetch_mmu(cx.state);
            memory::place(cx, key.pc, Access::Fetch, mmu)
        })?;
        Ok(match place {
            Place::Ram { range, offset, .. } => {
                let block = self.core.view.ranges().get(range as usize).and_then(|r| r.readable_ram());
                block.map(|b| UnitKey { block: block_ref(b), offset, key })
            }
            Place::Bus(..) => None,
        })
    }

    /// The cached unit for the present state, if its mapping still holds.
    fn cached(&mut self, at: &UnitKey) -> Result<Option<Arc<Unit>>, Trap> {
        let Some(unit) = self.engine.cache.find(at) else { return Ok(None) };
        if let Some(&second) = unit.second.as_deref()
            && self.core.direct.is_none()
        {
            let mut key = at.key;
            key.pc = (key.pc & !(PAGE_SIZE - 1)).wrapping_add(PAGE_SIZE);
            let there = self.locate(key)?.map(|k| (k.block, k.offset & !(PAGE_SIZE - 1)));
            if there != Some(second) {
                return Ok(None);
            }
        }
        Ok(Some(unit))
    }

    /// The unit for the present state. `cold`: it is reached by a way that will be patched at once, and will not come by
    /// here again.
    pub(crate) fn find_unit(&mut self, debugging: bool, cold: bool) -> Result<Arc<Unit>, Trap> {
        let key = self.key(debugging);
        if let Some(unit) = self.recent(key) {
            return Ok(unit);
        }
        let at = self.locate(key)?;
        let mut tier = Tier::First;
        if let Some(at) = &at
            && let Some(unit) = self.cached(at)?
        {
            if unit.tier == Tier::Second || cold || !is_warm(&unit) {
                self.remember(key, &unit);
                if unit.tier == Tier::Second && self.core.direct.is_some() {
                    self.recent[recent_index(key.pc)] = Some(unit.clone());
                }
                return Ok(unit);
            }
            tier = Tier::Second;
        }
        if debugging || at.is_none() || !self.engine.cache.backend.has_tiers() {
            tier = Tier::Second;
        }
        let mut unit = crate::translate::translate(self, key, at, tier, debugging)?;
        if let Some(at) = &at {
            if tier == Tier::Second && self.engine.hot.mode != HotMode::Off {
                self.engine.start_sampling();
                if self.engine.hot.mode == HotMode::Now && self.look_at_once(&unit) {
                    unit = self.engine.cache.find(at).unwrap_or(unit);
                }
            }
            self.remember(key, &unit);
        }
        Ok(unit)
    }

    /// A unit of a program to which the loop has come before: behind a system call, for one. Nothing but a unit's own end takes
    /// it from its address there.
    fn recent(&self, key: Key) -> Option<Arc<Unit>> {
        let unit = self.recent[recent_index(key.pc)].as_ref()?;
        let good = unit.at.key == key
            && unit.generation == self.engine.cache.generation()
            && !unit.dropped.load(Ordering::SeqCst);
        good.then(|| unit.clone())
    }

    /// Puts a unit of the second tier into the jump cache.
    fn remember(&mut self, key: Key, unit: &Unit) {
        if unit.tier == Tier::Second
            && let Some(entry) = self.engine.cache.backend.entry(&unit.code)
        {
            let mmu = self.engine.guest.fetch_mmu(self.env.state());
            self.core.tlb.set_jump(key.pc, mmu, key.mode, entry);
            // Whoever drops the unit says so first and strikes entries then: one of us sees the other.
            fence(Ordering::SeqCst);
            if unit.dropped.load(Ordering::SeqCst) {
                self.core.shared.strike_jump(key.pc, entry);
            }
        }
    }

    /// What an indirect jump that missed leads to: a host address, or 0 to go through the loop.
    pub(crate) fn jump_miss(&mut self) -> u64 {
        self.exits[6] += 1;
        let busy = self.core.header().exit_request.load(Ordering::Relaxed) != 0;
        if busy || self.core.debugging() || self.core.log.wants(LogItems::NOCHAIN | LogItems::EXEC) {
            return 0;
        }
        let key = self.key(false);
        if self.engine.breakpoints.has(key.pc) {
            return 0;
        }
        // The mode may have changed, and the rounding with it.
        let fp = self.engine.guest.fp_mode(key);
        self.core.header_mut().guest_fpcr = crate::backend::mxcsr(fp);
        // State that says where to go comes here without a look at the jump caches.
        if let Some(code) = self.core.tlb.jump(key.pc, key.mode) {
            return code;
        }
        let Ok(Some(at)) = self.locate(key) else { return 0 };
        let Ok(Some(unit)) = self.cached(&at) else { return 0 };
        if unit.tier == Tier::First && is_warm(&unit) {
            return 0;
        }
        self.remember(key, &unit);
        self.engine.cache.backend.entry(&unit.code).unwrap_or(0)
    }

    /// Runs a unit; `None` if it went away before it could start. With a link, the unit it belongs to and its number.
    pub(crate) fn execute(&mut self, unit: &Arc<Unit>) -> (Option<UnitExit>, Option<(Arc<Unit>, u32)>) {
        let engine = self.engine.clone();
        let _running = engine.cache.exec.read();
        let generation = engine.cache.generation();
        if generation != self.generation {
            self.generation = generation;
            self.core.tlb.flush_jumps();
            self.core.publish();
        }
        if unit.generation != generation && unit.generation != 0 {
            return (None, None);
        }
        engine.hot.runs();
        self.core.shared.set_running(true);
        // A request that came before `running` was visible must be seen now; one that comes later waits for us.
        if self.core.shared.has_requests() {
            self.core.shared.set_running(false);
            return (None, None);
        }
        if self.core.log.wants_at(LogItems::EXEC | LogItems::CPU, unit.at.key.pc) {
            self.log_unit(unit);
        }
        let exit = engine.cache.backend.run(&unit.code, self, unit.at.key);
        if let Some(p) = &mut self.core.plugins {
            p.left(&self.env.tallies());
        }
        self.core.shared.set_running(false);
        // What the exit means is in units that are certain to exist only while `exec` is held.
        let mut source = None;
        if unit.code.is_host() {
            match exit {
                UnitExit::Link { .. } => source = self.leave_link(unit),
                UnitExit::Fault => self.restore(unit),
                _ => {}
            }
        }
        (Some(exit), source)
    }

    /// Finds out by which link generated code left, and sets the pc to where it leads.
    fn leave_link(&mut self, entered: &Arc<Unit>) -> Option<(Arc<Unit>, u32)> {
        let (unit, index) = self.engine.link_source(entered, self.core.header().exit_site)?;
        let pc = unit.links.get(index as usize)?.pc;
        self.engine.guest.set_pc(self.env.state_mut(), pc);
        Some((unit, index))
    }

    /// Adds this vCPU's counters to the partition's.
    pub(crate) fn count(&mut self) {
        let s = &self.engine.stats;
        s.entries.fetch_add(std::mem::take(&mut self.executed), Ordering::Relaxed);
        s.interpreted.fetch_add(std::mem::take(&mut self.interp.executed), Ordering::Relaxed);
        s.tlb_fills.fetch_add(std::mem::take(&mut self.core.tlb.fills), Ordering::Relaxed);
        s.tlb_flushes.fetch_add(std::mem::take(&mut self.core.tlb.flushes), Ordering::Relaxed);
        for (total, n) in s.exits.iter().zip(&mut self.exits) {
            total.fetch_add(std::mem::take(n), Ordering::Relaxed);
        }
    }

    /// Tells plugins that this vCPU has ended.
    pub(crate) fn stop_plugins(&mut self) {
        if let Some(p) = self.core.plugins.take() {
            p.stop();
        }
    }

    fn log_unit(&self, unit: &Unit) {
        if self.core.log.wants(LogItems::EXEC) {
            self.core.log.write(format_args!(
                "exec {}: {:#018x} mode {:#x} len {}\n",
                self.core.index, unit.at.key.pc, unit.at.key.mode, unit.len
            ));
        }
        if self.core.log.wants(LogItems::CPU) {
            self.core.log.write(format_args!("{}\n", self.engine.guest.dump(self.env.state())));
        }
    }

    /// Makes the state exact after a fault inside generated code.
    pub(crate) fn restore(&mut self, unit: &Arc<Unit>) {
        let site = self.core.header().exit_site;
        let engine = self.engine.clone();
        if let Some(u) = engine.unit_at(unit, site) {
            engine.cache.backend.restore(&u.code, site, self);
        }
    }
}

impl<G: Guest> VcpuTrait for Box<Vcpu<G>> {
    fn run(&mut self, io: &dyn VcpuIo) -> Result<Exit, VcpuError> {
        let io: NonNull<dyn VcpuIo + '_> = NonNull::from(io);
        // SAFETY: only the lifetime changes; the address is forgotten before this function returns.
        let io: NonNull<dyn VcpuIo + 'static> = unsafe { std::mem::transmute(io) };
        self.core.io = Some(io);
        let exit = self.run_loop();
        self.count();
        self.core.io = None;
        Ok(exit)
    }

    fn state(&mut self) -> Result<CpuState, VcpuError> {
        Ok(self.with(|g, cx| g.save(cx)))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.with(|g, cx| g.load(cx, state))?;
        self.core.tlb.flush(None, |_| true);
        self.core.publish();
        self.core.trap = None;
        Ok(())
    }

    fn set_registers(&mut self, _: &CpuState, after: &CpuState) -> Result<(), VcpuError> {
        // The machine may move a wire at any time.
        self.core.keeps_lines = true;
        let done = self.set_state(after);
        self.core.keeps_lines = false;
        done
    }

    fn forget_memory(&mut self) {
        // No other vCPU may be half done with a unit: its host code would go, and the unit would come into the empty cache.
        let engine = self.engine.clone();
        let _one = engine.cache.translating.lock();
        crate::translate::empty_cache(&engine);
    }

    fn set_debug(&mut self, debug: &DebugConfig) -> Result<(), VcpuError> {
        self.core.debug = debug.clone();
        self.core.watch_hit = None;
        self.core.tlb.flush(None, |_| true);
        self.core.publish();
        Ok(())
    }

    fn translate(&mut self, gva: u64) -> Option<u64> {
        self.with(|g, cx| g.debug_walk(cx, gva))
    }
}
