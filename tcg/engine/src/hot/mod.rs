//! A second look at hot code: where a guest spends its time, the loops around are translated once more as one region, with its
//! registers in host registers across the blocks, and calls and returns among them as jumps.
//!
//! - Hotness is sampled. A thread asks the vCPUs that run translated code every few milliseconds to note where they stand, by the
//!   same request that makes them look for interrupts: a vCPU then leaves at the next loop head or unit, so that what counts up
//!   are the heads of loops. Code that is not sampled pays nothing. Nobody is asked while no vCPU runs.
//! - A vCPU that finds itself at a place for the third time takes a snapshot of the code's pages, after it has said that it does
//!   ([`CodeCache::begin_second_look`](crate::code::CodeCache::begin_second_look)), as every translation does.
//! - The thread finds the blocks that lead back to that place ([`blocks`]), has the front end translate them in pieces, joins
//!   these ([`tcg_ir::join`]), and makes the code ([`region`]), while the guest goes on.
//! - The region's unit takes the place of the one at its entry, links and all, unless a write has met one of the pages since the
//!   snapshot. Whoever runs the old unit is asked to leave it.
//!
//! There is one look at a time. None is taken with plugins, breakpoints or a debugger, which want to see units as they are.

mod blocks;
mod guess;
mod region;
mod snapshot;

use std::{
    str::FromStr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use accel::{LogItems, LogSink};
use guest_memory::PAGE_SIZE;
use parking_lot::Mutex;
use tcg_ir::passes::{Optimizer, PassSet};

pub(crate) use self::guess::Calls;
use self::{
    guess::Targets,
    region::Outcome,
    snapshot::{Page, Snapshot},
};
use crate::{
    Access, Guest, Key,
    backend::Backend,
    code::{DIRECT, Tier, Unit, UnitKey},
    direct,
    engine::Engine,
    memory,
    profile::{cpu_ns, process_cpu_ns},
    shared::request,
    user::CodePage,
    vcpu::Vcpu,
};

/// Times a vCPU is met at a place before it counts as hot.
const HOT: u32 = 3;
/// [`Unit::heat`] of a unit that has had its second look.
const SEEN: u32 = 1 << 30;
/// Pages of a program that a look takes in.
const PAGES: usize = 8;
/// Time between samples: at first, and when nothing new has been found for long.
const FIRST: Duration = Duration::from_millis(2);
const LAST: Duration = Duration::from_millis(16);
/// Samples without anything new after which that time is doubled.
const DULL: u32 = 24;
/// CPU time of the process for one of looks.
const SHARE: u64 = 24;
/// What the first look is expected to cost, in nanoseconds.
const FIRST_LOOK: u64 = 500_000;
/// Looks for a vCPU that runs, in vain, before the thread sleeps until one does.
const IDLE: u32 = 3;

/// What improves regions. Code generation forwards slots and folds while it emits; values that passes keep alive from one guest
/// instruction to the next only take registers away that the guest's own are to stay in.
fn optimizer() -> Optimizer {
    Optimizer::new("none,branch".parse().unwrap_or(PassSet::NONE))
}

/// Whether second looks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HotMode {
    /// Never.
    #[default]
    Off,
    /// At hot code.
    On,
    /// At all code that is translated again, at once: for tests.
    Now,
}

impl FromStr for HotMode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            "now" => Ok(Self::Now),
            _ => Err(format!("expected on, off or now, got '{s}'")),
        }
    }
}

/// What a second look works on.
pub(crate) struct Job {
    unit: Arc<Unit>,
    key: Key,
    code: Snapshot,
    /// Where indirect calls have gone.
    targets: Targets,
    /// It is not the first, and has the pages that the first lacked.
    again: bool,
    log: LogSink,
}

/// Pages that a look lacked.
struct Lacks {
    /// The place that it was a look at.
    pc: u64,
    pages: Vec<u64>,
}

#[derive(Default)]
struct Work {
    job: Option<Job>,
    lacks: Option<Lacks>,
    thread: Option<JoinHandle<()>>,
    /// The thread is to end.
    stop: bool,
}

/// The second looks of a partition.
pub(crate) struct Hot {
    pub(crate) mode: HotMode,
    work: Mutex<Work>,
    /// The thread sleeps until a vCPU runs.
    asleep: AtomicBool,
    /// The next look costs no more than its share.
    affordable: AtomicBool,
    /// The process whose thread it is.
    process: std::sync::atomic::AtomicU32,
}

impl Hot {
    pub(crate) fn new(mode: HotMode, backend: &Backend, plugins: bool) -> Arc<Self> {
        let mode = if backend.has_tiers() && !plugins { mode } else { HotMode::Off };
        let process = std::process::id().into();
        let (asleep, affordable) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { mode, work: Mutex::default(), asleep, affordable, process })
    }

    /// Wakes the thread if it sleeps because nobody runs.
    pub(crate) fn runs(&self) {
        if self.asleep.load(Relaxed) && self.asleep.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// Has the thread look what there is to do.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.work.lock().thread.as_ref().map(JoinHandle::thread) {
            thread.unpark();
        }
    }

    /// Notes the pages that a look lacked. The place is hot already.
    fn lacks(&self, job: &Job, pages: Vec<u64>) {
        self.work.lock().lacks = Some(Lacks { pc: job.key.pc, pages });
        job.unit.heat.store(HOT, Relaxed);
    }

    /// Ends the thread. It begins again with the next code that is translated again, unless it is `for_good`.
    pub(crate) fn stop(&self, for_good: bool) {
        let mut work = self.work.lock();
        work.stop |= for_good;
        let Some(thread) = work.thread.take() else { return };
        let barred = std::mem::replace(&mut work.stop, true);
        drop(work);
        thread.thread().unpark();
        // It panics for no reason a caller could act upon.
        let _ = thread.join();
        self.work.lock().stop = barred;
    }

    /// Keeps the thread from what a fork must not cut in two.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn freeze(&self) -> impl Sized + '_ {
        self.work.lock()
    }

    /// Begins anew in a forked child.
    ///
    /// # Safety
    /// This thread is the only one, and has forgotten what `freeze` gave it.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[expect(unsafe_code, reason = "a lock is remade in a forked child")]
    pub(crate) unsafe fn thaw(&self) {
        // SAFETY: by the caller's promise.
        unsafe { direct::remake_mutex(&self.work) };
        // Neither the thread nor its job is here.
        std::mem::forget(std::mem::take(&mut *self.work.lock()));
        self.asleep.store(false, SeqCst);
        self.process.store(std::process::id(), SeqCst);
    }
}

impl<G: Guest> Engine<G> {
    /// Sees to it that somebody samples.
    pub(crate) fn start_sampling(self: &Arc<Self>) {
        if self.hot.mode != HotMode::On {
            return;
        }
        let mut work = self.hot.work.lock();
        // A child in this memory that is not done with it yet (`vfork`) would take its thread with it when it is.
        if work.thread.is_some() || work.stop || self.hot.process.load(Relaxed) != std::process::id() {
            return;
        }
        let (engine, hot) = (Arc::downgrade(self), self.hot.clone());
        let thread = std::thread::Builder::new().name("hot code".into()).stack_size(1 << 20);
        // Signals are for others. Without the thread there are no second looks.
        work.thread = direct::without_signals(|| thread.spawn(move || sample(&engine, &hot)).ok());
    }
}

/// What looks have cost, in nanoseconds of CPU time.
#[derive(Default)]
struct Budget {
    spent: u64,
    looks: u64,
}

impl Budget {
    fn spend(&mut self, ns: u64) {
        self.spent += ns;
        self.looks += 1;
    }

    /// True if all looks will have cost no more than their share of what the process has used after one more of the usual price.
    /// Hosts that do not tell are not asked for it.
    fn allows(&self, process: u64) -> bool {
        let next = self.spent.checked_div(self.looks).unwrap_or(FIRST_LOOK);
        process == 0 || (self.spent + next) * SHARE <= process
    }
}

/// The thread: asks vCPUs where they stand, and does jobs.
fn sample<G: Guest>(weak: &Weak<Engine<G>>, hot: &Hot) {
    let mut passes = optimizer();
    let mut budget = Budget::default();
    let (mut interval, mut dull, mut idle) = (FIRST, 0, 0);
    loop {
        std::thread::park_timeout(interval);
        let Some(engine) = weak.upgrade() else { return };
        let mut work = hot.work.lock();
        if work.stop {
            return;
        }
        let job = work.job.take();
        drop(work);
        if let Some(job) = job {
            let started = cpu_ns();
            let outcome = region::finish(&engine, &job, &mut passes);
            budget.spend(cpu_ns().saturating_sub(started));
            match outcome {
                Outcome::Made => {
                    (interval, dull) = (FIRST, 0);
                    // Whoever is in the old unit's loop goes on in the new one.
                    engine.cache.stop_running(0);
                }
                Outcome::Lacks(pages) => hot.lacks(&job, pages),
                Outcome::Nothing => {}
            }
            continue;
        }
        hot.affordable.store(budget.allows(process_cpu_ns()), Relaxed);
        idle = if engine.cache.stop_running(request::SAMPLE) { 0 } else { idle + 1 };
        dull += 1;
        if dull >= DULL {
            (interval, dull) = ((interval * 2).min(LAST), 0);
        }
        if idle >= IDLE {
            hot.asleep.store(true, SeqCst);
            // One that began to run just before would not wake us.
            if !engine.cache.stop_running(0) {
                drop(engine);
                while hot.asleep.load(SeqCst) {
                    std::thread::park_timeout(Duration::from_secs(3600));
                    if hot.work.lock().stop || weak.strong_count() == 0 {
                        return;
                    }
                }
            }
            hot.asleep.store(false, SeqCst);
            // A program that is in system calls most of the time is met seldom: the interval stays.
            idle = 0;
        }
    }
}

impl<G: Guest> Vcpu<G> {
    /// Notes where this vCPU stands, and takes a second look if it is often there.
    pub(crate) fn note_place(&mut self) {
        let engine = self.engine.clone();
        if self.core.debugging() || engine.breakpoints.any() || self.core.log.wants(LogItems::NOCHAIN) {
            return;
        }
        self.calls.sample(&self.core.header().call_targets);
        let key = engine.guest.key(self.env.state());
        let Ok(Some(at)) = self.locate(key) else { return };
        let Some(unit) = engine.cache.find(&at) else { return };
        // At the head of a loop in a region: it goes on there.
        if unit.is_hot() || unit.tier != Tier::Second || unit.heat.fetch_add(1, Relaxed) + 1 < HOT {
            return;
        }
        if !engine.hot.affordable.load(Relaxed) {
            return;
        }
        if let Some(job) = self.begin_second_look(&unit) {
            engine.hot.work.lock().job = Some(job);
            engine.hot.wake();
        }
    }

    /// Takes the second look at a unit that was just made, for tests; true if it has been replaced.
    pub(crate) fn look_at_once(&mut self, unit: &Arc<Unit>) -> bool {
        let engine = self.engine.clone();
        if engine.breakpoints.any() || self.core.debugging() {
            return false;
        }
        loop {
            let Some(job) = self.begin_second_look(unit) else { return false };
            match region::finish(&engine, &job, &mut optimizer()) {
                Outcome::Made => return true,
                Outcome::Lacks(pages) => engine.hot.lacks(&job, pages),
                Outcome::Nothing => return false,
            }
        }
    }

    /// Takes a snapshot for a second look at `unit`; `None` if there is none to be taken, or one is under way.
    fn begin_second_look(&mut self, unit: &Arc<Unit>) -> Option<Job> {
        let fits = unit.tier == Tier::Second
            && unit.code.is_host()
            && !unit.is_hot()
            && unit.heat.load(Relaxed) < SEEN
            && (self.core.direct.is_some() || unit.second.is_none())
            // Code that changes without anybody watching is not looked at for long.
            && unit.bytes.is_none();
        if !fits {
            return None;
        }
        let engine = self.engine.clone();
        let first = unit.at.offset & !(PAGE_SIZE - 1);
        let lacked = engine.hot.work.lock().lacks.take().filter(|l| l.pc == unit.at.key.pc);
        let again = lacked.is_some();
        let offsets = match (self.core.direct.is_some(), lacked) {
            (true, Some(lacked)) => {
                let mut all = vec![first];
                lacked.pages.iter().for_each(|page| {
                    if !all.contains(page) {
                        all.push(*page)
                    }
                });
                all.truncate(PAGES);
                all
            }
            (true, None) => engine.cache.linked_pages(unit, PAGES),
            (false, _) => vec![first],
        };
        if !engine.cache.begin_second_look(unit, offsets.iter().copied()) {
            return None;
        }
        unit.heat.store(SEEN, Relaxed);
        let first = unit.at.key.pc & !(PAGE_SIZE - 1);
        let mut pages = Vec::new();
        for offset in offsets {
            let gva = if self.core.direct.is_some() { offset } else { first };
            if let Some(bytes) = self.code_page(gva, unit) {
                pages.push(Page { gva, offset, bytes });
            }
        }
        if pages.iter().all(|p| p.gva != first) {
            engine.cache.end_second_look(None);
            return None;
        }
        let code = Snapshot { pages };
        let targets = match engine.hot.mode {
            HotMode::Now => self.core.header().call_targets,
            _ => self.calls.steady(),
        };
        Some(Job { unit: unit.clone(), key: unit.at.key, code, targets, again, log: self.core.log.clone() })
    }

    /// The bytes of a page of code, if stores to it are heard of.
    fn code_page(&mut self, gva: u64, unit: &Unit) -> Option<Vec<u8>> {
        let mut bytes = vec![0; PAGE_SIZE as usize];
        if let Some(memory) = self.core.direct.clone() {
            let good = match memory.code_page(gva) {
                CodePage::None => false,
                CodePage::Fixed => true,
                CodePage::Volatile => G::CODE_COHERENT && memory.watch(gva),
            };
            let read = good && self.with(|_, cx| direct::read(cx, gva, &mut bytes).is_ok());
            self.core.host_fault = None;
            return read.then_some(bytes);
        }
        debug_assert_ne!(unit.at.block, DIRECT);
        // Where the unit lies now is where it is looked for: at its own address.
        let at = UnitKey { key: Key { pc: gva, ..unit.at.key }, ..unit.at };
        let here = self.locate(at.key).ok().flatten()?;
        if (here.block, here.offset) != (unit.at.block, unit.at.offset & !(PAGE_SIZE - 1)) {
            return None;
        }
        let read = self.with(|g, cx| {
            let mmu = g.fetch_mmu(cx.state);
            let place = memory::place(cx, gva, Access::Fetch, mmu)?;
            for (n, part) in bytes.chunks_mut(64).enumerate() {
                memory::fetch(cx, place, n * 64, gva + n as u64 * 64, part)?;
            }
            Ok::<_, crate::Trap>(())
        });
        read.ok().map(|()| bytes)
    }
}

#[cfg(test)]
mod tests {
    use guest_memory::RamBlock;

    use super::*;
    use crate::{
        backend::Code,
        code::{CodeCache, block_ref},
    };

    const PC: u64 = 0x8000_2340;
    const OFFSET: u64 = 0x2340;

    fn place(block: &Arc<RamBlock>, n: u64) -> UnitKey {
        UnitKey { block: block_ref(block), offset: OFFSET + n, key: Key { pc: PC + n, mode: 1 } }
    }

    fn unit_at(cache: &CodeCache, block: &Arc<RamBlock>, n: u64) -> Unit {
        let mut u =
            Unit::new(place(block, n), 16, Tier::Second, Code::Interp(Box::default()), Box::default());
        u.generation = cache.generation();
        u
    }

    fn unit(cache: &CodeCache, block: &Arc<RamBlock>) -> Arc<Unit> {
        Arc::new(unit_at(cache, block, 0))
    }

    /// A side entry of a region.
    fn side(cache: &CodeCache, block: &Arc<RamBlock>, n: u64) -> Unit {
        let mut u = Unit::new(place(block, n), 1, Tier::Second, Code::side(0x40), Box::default());
        u.generation = cache.generation();
        u.spans = Some(Box::new([0x2100..0x2110, OFFSET..OFFSET + 16]));
        u
    }

    /// A second look at a unit, and what happens before it ends; true if its unit has come into the cache.
    fn look(meanwhile: impl Fn(&CodeCache, &Arc<RamBlock>)) -> bool {
        let cache = CodeCache::new(Backend::Interp, Vec::new());
        let block = RamBlock::anonymous("ram", 0x10000).unwrap();
        block.watch(0x2000, PAGE_SIZE);
        let (old, plain, hot) = (
            unit(&cache, &block),
            Arc::new(unit_at(&cache, &block, 0x20)),
            Arc::new(side(&cache, &block, 0x60)),
        );
        for u in [&old, &plain, &hot] {
            cache.begin();
            cache.insert(u, true);
        }
        assert!(cache.begin_second_look(&old, [0x2000].into_iter()));
        assert!(!cache.begin_second_look(&old, [0x2000].into_iter()), "there is one at a time");
        meanwhile(&cache, &block);
        let mut new = unit(&cache, &block);
        Arc::get_mut(&mut new).unwrap().spans = side(&cache, &block, 0).spans;
        // Side entries where a unit is, where there is none, and where another region has one.
        let sides = [0x20, 0x40, 0x60].map(|n| side(&cache, &block, n)).into();
        let good = cache.end_second_look(Some((&new, sides)));
        let is =
            |n: u64, u: &Arc<Unit>| cache.find(&place(&block, n)).is_some_and(|there| Arc::ptr_eq(u, &there));
        assert_eq!(good, is(0, &new));
        assert_eq!(good, cache.find(&place(&block, 0x40)).is_some());
        if good {
            assert!(old.dropped.load(SeqCst) && plain.dropped.load(SeqCst) && is(0x60, &hot));
            assert!(!block.dirty().is_watched(0x3000, 1));
            // What lies between the parts of its code is none of it.
            assert!(!cache.invalidate(&block, &(0x2110..0x2120)));
            assert!(is(0, &new) && block.dirty().is_watched(0x2000, 1));
            // What a side entry has taken the place of may still run.
            assert!(cache.invalidate(&block, &(OFFSET + 0x2f..OFFSET + 0x30)));
            assert!(cache.find(&place(&block, 0x20)).is_none() && is(0, &new));
            assert!(cache.invalidate(&block, &(0x210f..0x2110)), "what lies before its start is");
            assert!([0, 0x20, 0x40, 0x60].iter().all(|n| cache.find(&place(&block, *n)).is_none()));
            assert!(!block.dirty().is_watched(0x2000, 1));
        }
        assert!(cache.begin_second_look(&unit(&cache, &block), std::iter::empty()), "the next may begin");
        good
    }

    #[test]
    fn code_that_has_changed_meanwhile_is_not_replaced() {
        assert!(look(|_, _| ()));
        // Elsewhere on the page counts as well: a look may have gone there.
        for at in [OFFSET, 0x2ff0, 0x2000] {
            assert!(!look(|cache, block| {
                cache.invalidate(block, &(at..at + 4));
            }));
        }
        assert!(look(|cache, block| {
            cache.invalidate(block, &(0x3000..0x3008));
        }));
        assert!(!look(|cache, _| cache.clear()));
        // Somebody else has made another unit.
        assert!(!look(|cache, block| {
            cache.begin();
            cache.insert(&unit(cache, block), true);
        }));
    }

    #[test]
    fn looks_cost_no_more_than_their_share() {
        let mut budget = Budget::default();
        assert!(!budget.allows(FIRST_LOOK * SHARE - 1) && budget.allows(FIRST_LOOK * SHARE));
        budget.spend(1000);
        assert!(budget.allows(2000 * SHARE) && !budget.allows(2000 * SHARE - 1));
        budget.spend(3000);
        assert!(budget.allows(6000 * SHARE) && !budget.allows(6000 * SHARE - 1));
        assert!(budget.allows(0), "who knows");
    }

    #[test]
    fn modes_have_names() {
        assert_eq!("now".parse(), Ok(HotMode::Now));
        assert!("sometimes".parse::<HotMode>().unwrap_err().contains("on, off or now"));
    }
}
