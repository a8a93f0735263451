//! Memory balloon (virtio 1.2, 5.5).
//!
//! Pages the guest puts into the balloon are given back to the host at once; they read as zero when the guest
//! takes them out again, which needs no help from here. Queues 0 and 1 are inflate and deflate; those after them
//! exist if their features were negotiated and are numbered without gaps, as drivers do.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use ::device::{BuildError, Clock, GuestLog, StateBlob, StateError, Timer, Wires, device_config, le_value};
use guest_memory::DmaGuard;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::chain::Chain;
use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes};
use crate::queue::{QueueState, Virtqueue};

const DEVICE_TYPE: u32 = 5;
const KIND: &str = "virtio-balloon";
const QUEUE_SIZE: u16 = 128;
/// The balloon's unit in bytes, whatever the guest's pages are.
const PAGE: u64 = 4096;
/// Most bytes of page numbers in one buffer; drivers send a page at most.
const MAX_NUMBERS: u64 = 64 << 10;
/// Most entries of a statistics buffer.
const MAX_STATS: usize = 64;
/// Offset of `actual` in the config space.
const ACTUAL: u64 = 4;

mod feature {
    pub(super) const STATS_VQ: u64 = 1 << 1;
    pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub(super) const REPORTING: u64 = 1 << 5;
}

device_config! {
    /// Memory balloon.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BalloonConfig {
        /// Let the guest take pages out of the balloon rather than run out of memory.
        pub deflate_on_oom: bool = false,
        /// Let the guest report pages it does not use, which are given back to the host.
        pub free_page_reporting: bool = false,
    }
}

impl VirtioConfig for BalloonConfig {
    type Backend = ();
    const MMIO_KIND: &'static str = "virtio-balloon-device";
    const PCI_KIND: &'static str = "virtio-balloon-pci";
    const TYPE: u16 = 5;
    const HELP: &'static str = "virtio memory balloon (mmio)";

    fn make(self, _backend: (), wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        Ok(Box::new(Balloon {
            config: self,
            log: wires.log(),
            clock: wires.clock(),
            poll: wires.timer(0),
            notifier: None,
            queues: vec![None; 4],
            roles: Vec::new(),
            active: false,
            paused: false,
            target: 0,
            actual: 0,
            interval: 0,
            waiting: None,
            stats: BalloonStats::default(),
        }))
    }
}

/// What the guest has said of its memory: values by tag (virtio 1.2, 5.5.6.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalloonStats {
    /// Values by tag.
    pub values: BTreeMap<u16, u64>,
    /// Virtual nanoseconds at which they came, if they ever did.
    pub updated: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Reporting,
}

/// A memory balloon.
pub struct Balloon {
    config: BalloonConfig,
    log: Arc<GuestLog>,
    clock: Clock,
    /// Asks for statistics.
    poll: Timer,
    notifier: Option<Arc<dyn Notifier>>,
    queues: Vec<Option<Arc<Virtqueue>>>,
    /// What each queue is for, as negotiated.
    roles: Vec<Role>,
    active: bool,
    paused: bool,
    /// Pages that should be in the balloon.
    target: u32,
    /// Pages the driver says are in it.
    actual: u32,
    /// Nanoseconds between statistics, 0 for none.
    interval: u64,
    /// The statistics buffer: giving it back asks for new ones.
    waiting: Option<Chain>,
    stats: BalloonStats,
}

impl Balloon {
    /// Asks the guest to have `bytes` in the balloon.
    pub fn set_target(&mut self, bytes: u64) {
        self.target = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        if let Some(notifier) = self.notifier.as_ref().filter(|_| self.active) {
            notifier.config_changed();
        }
    }

    /// Bytes in the balloon, as the guest says.
    pub fn inflated(&self) -> u64 {
        u64::from(self.actual) * PAGE
    }

    /// Asks for statistics every so many seconds; 0 stops.
    pub fn set_stats_interval(&mut self, seconds: u32) {
        self.interval = u64::from(seconds) * ::device::NS_PER_SEC;
        self.arm();
    }

    /// The guest's statistics.
    pub fn stats(&self) -> &BalloonStats {
        &self.stats
    }

    fn arm(&self) {
        let next = (self.interval != 0).then(|| self.clock.now().saturating_add(self.interval));
        self.poll.set(next);
    }

    fn queue(&self, role: Role) -> Option<&Arc<Virtqueue>> {
        let index = self.roles.iter().position(|&r| r == role)?;
        self.queues[index].as_ref()
    }

    /// Gives guest memory back to the host. What is not RAM is left alone.
    fn discard(&self, memory: &DmaGuard, start: u64, len: u64) {
        let (mut at, end) = (start, start.saturating_add(len));
        while at < end {
            let Some(region) = memory.find_region(GuestAddress(at)) else {
                self.log.guest_error(format_args!("the balloon got {at:#x}, which is not RAM"));
                return;
            };
            let inside = at - region.start_addr().0;
            let n = (end - at).min(region.len() - inside);
            let (block, offset) = region.block();
            if let Err(e) = block.discard(offset + inside, n) {
                tracing::debug!("cannot give back RAM '{}' at {offset:#x}: {e}", block.name());
            }
            at += n;
        }
    }

    /// Page numbers of 32 bits, runs of which are given back together.
    fn inflate(&self, chain: &mut Chain) {
        let mut run: Option<(u64, u64)> = None;
        let mut data = [0; 1024];
        loop {
            let n = chain.read(&mut data) / 4 * 4;
            for number in data[..n].chunks_exact(4) {
                let page = le_value(number) * PAGE;
                run = match run {
                    Some((start, len)) if start + len == page => Some((start, len + PAGE)),
                    // Linux takes pages from the top down.
                    Some((start, len)) if page + PAGE == start => Some((page, len + PAGE)),
                    other => {
                        if let Some((start, len)) = other {
                            self.discard(chain.memory(), start, len);
                        }
                        Some((page, PAGE))
                    }
                };
            }
            if n < data.len() {
                break;
            }
        }
        if let Some((start, len)) = run {
            self.discard(chain.memory(), start, len);
        }
    }

    fn take_stats(&mut self) -> Progress {
        let Some(queue) = self.queue(Role::Stats).cloned() else { return Progress::Done };
        let (stats, waiting, now) = (&mut self.stats, &mut self.waiting, self.clock.now());
        queue.drain(|mut chain| {
            if let Some(earlier) = waiting.take() {
                queue.push(earlier);
            }
            stats.values.clear();
            while let (Some(entry), true) = (chain.read_array::<10>(), stats.values.len() < MAX_STATS) {
                let (tag, value) = entry.split_at(2);
                stats.values.insert(le_value(tag) as u16, le_value(value));
            }
            // The first buffer, after start or restore, may say nothing.
            stats.updated = Some(now);
            *waiting = Some(chain);
            true
        })
    }
}

::device::state! {
    /// State of the balloon, version 1.
    struct V1 { 1 => target: u32, 2 => actual: u32, 3 => interval: u64, 4 => deadline: Option<u64> }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let oom = if self.config.deflate_on_oom { feature::DEFLATE_ON_OOM } else { 0 };
        let reporting = if self.config.free_page_reporting { feature::REPORTING } else { 0 };
        feature::STATS_VQ | oom | reporting
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; if self.config.free_page_reporting { 4 } else { 3 }]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = u64::from(self.target) | u64::from(self.actual) << 32;
        config_bytes(&space.to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == ACTUAL && data.len() == 4 {
            self.actual = le_value(data) as u32;
        }
    }

    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        self.notifier = Some(notifier);
    }

    fn activate(&mut self, features: u64) {
        self.roles = vec![Role::Inflate, Role::Deflate];
        for (bit, role) in [(feature::STATS_VQ, Role::Stats), (feature::REPORTING, Role::Reporting)] {
            if features & bit != 0 {
                self.roles.push(role);
            }
        }
        self.active = true;
    }

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        self.queues[index] = Some(queue);
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        let queue = self.queues[index].take();
        if self.roles.get(index) == Some(&Role::Stats)
            && let (Some(queue), Some(chain)) = (&queue, self.waiting.take())
        {
            queue.unpop(chain);
        }
        queue.map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        let (Some(queue), false) = (self.queues[index].clone(), self.paused) else { return Progress::Done };
        let Some(&role) = self.roles.get(index) else { return Progress::Done };
        if role == Role::Stats {
            return self.take_stats();
        }
        queue.drain(|mut chain| {
            match role {
                Role::Inflate if chain.readable() > MAX_NUMBERS => {
                    queue.fail("too many page numbers in one buffer");
                }
                Role::Inflate => self.inflate(&mut chain),
                Role::Reporting => {
                    let memory = chain.memory().clone();
                    chain.for_each_writable(|start, len| self.discard(&memory, start, len));
                }
                Role::Deflate | Role::Stats => {}
            }
            queue.push(chain);
            true
        })
    }

    fn reset(&mut self) {
        self.active = false;
        self.roles.clear();
        self.waiting = None;
        self.actual = 0;
    }

    fn save(&self) -> StateBlob {
        let deadline = self.poll.deadline();
        let (target, actual, interval) = (self.target, self.actual, self.interval);
        StateBlob::new(KIND, 1, &V1 { target, actual, interval, deadline })
    }

    fn restore(&mut self, state: &StateBlob, _features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        self.active = false;
        (self.target, self.actual, self.interval) = (state.target, state.actual, state.interval);
        self.poll.set(state.deadline);
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn timer(&mut self, _id: usize) {
        self.arm();
        if !self.paused
            && let Some(queue) = self.queue(Role::Stats).cloned()
            && let Some(chain) = self.waiting.take()
        {
            queue.push(chain);
            queue.signal();
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use ::device::test_bench::{Bench, RAM_BASE, RAM_SIZE, check};

    use super::*;
    use crate::Mmio;
    use crate::test_driver::{Driver, Piece, hostile_rings};

    fn config() -> Mmio<BalloonConfig> {
        Mmio::new(BalloonConfig { deflate_on_oom: true, free_page_reporting: true }, ())
    }

    fn with<R>(bench: &Bench, f: impl FnOnce(&mut Balloon) -> R) -> R {
        bench.cell().with(|d| f(d.as_any().unwrap().downcast_mut::<Balloon>().unwrap()))
    }

    fn numbers(pages: &[u64]) -> Vec<u8> {
        pages.iter().flat_map(|p| ((RAM_BASE / PAGE + p) as u32).to_le_bytes()).collect()
    }

    /// Which pages of RAM are all zero.
    fn zero_pages(bench: &Bench) -> Vec<u64> {
        let mut ram = vec![0; RAM_SIZE as usize];
        bench.ram().read(0, &mut ram).unwrap();
        (0..RAM_SIZE / PAGE)
            .filter(|p| ram[(p * PAGE) as usize..][..PAGE as usize].iter().all(|&b| b == 0))
            .collect()
    }

    #[test]
    fn pages_go_back_to_the_host() {
        let bench = Bench::new(config());
        bench.ram().fill(0, RAM_SIZE, 7).unwrap();
        let mut driver = Driver::start(&bench, !0, &[16, 16, 16, 16]);
        with(&bench, |b| b.set_target(5 * PAGE));
        assert_eq!((driver.take_interrupt(), driver.reg(0xfc), driver.reg(0x100)), (2, 1, 5));
        let before = zero_pages(&bench);
        driver.ask(
            0,
            &[Piece::Out(&numbers(&[0xf0, 0xf1, 0xf3])), Piece::Out(&numbers(&[0xf9, 0xf8, 0x1_0000]))],
        );
        let zero: Vec<_> = zero_pages(&bench).into_iter().filter(|p| !before.contains(p)).collect();
        assert_eq!(zero, [0xf0, 0xf1, 0xf3, 0xf8, 0xf9]);
        driver.set(0x104, 5);
        assert_eq!(with(&bench, |b| b.inflated()), 5 * PAGE);
        driver.ask(1, &[Piece::Out(&numbers(&[0xf0]))]);
        driver.ask(3, &[Piece::In(3 * PAGE as u32)]);
        assert!(!driver.needs_reset());
        let huge = vec![0; MAX_NUMBERS as usize + 4];
        driver.add(0, &[Piece::Out(&huge)]);
        driver.kick(0);
        assert!(driver.needs_reset());
    }

    #[test]
    fn reported_pages_are_discarded() {
        let bench = Bench::new(config());
        // Without statistics, reporting is queue 2.
        let features = feature::REPORTING;
        let mut driver = Driver::start(&bench, features, &[16, 16, 16]);
        let token = driver.add(2, &[Piece::In(4 * PAGE as u32)]);
        driver.kick(2);
        driver.wait(2);
        let gone = driver.written(&token).iter().filter(|&&b| b == 0).count() as u64;
        assert!((3 * PAGE..=4 * PAGE).contains(&gone), "all whole pages");
    }

    #[test]
    fn statistics_are_polled_and_the_buffer_survives() {
        let bench = Bench::new(config());
        let mut driver = Driver::start(&bench, !0, &[16, 16, 16, 16]);
        let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        driver.add(2, &[Piece::Out(&[entry(4, 1000), entry(5, 2000)].concat())]);
        driver.kick(2);
        assert_eq!(with(&bench, |b| b.stats().values.clone()), [(4, 1000), (5, 2000)].into());
        assert_eq!(driver.poll(2), None, "kept until new ones are wanted");
        with(&bench, |b| b.set_stats_interval(2));
        bench.advance(1_000_000_000);

        let saved = bench.cell().save();
        let twin = Bench::at(config(), bench.now());
        let mut driver = driver.moved(&twin);
        twin.cell().restore(&saved).unwrap();
        twin.cell().resume();
        assert_eq!(twin.cell().save(), saved);
        twin.advance(1_000_000_000);
        assert_eq!(driver.poll(2), Some((0, 0)));
        driver.add(2, &[Piece::Out(&entry(4, 1001))]);
        driver.kick(2);
        assert_eq!(with(&twin, |b| b.stats().values.clone()), [(4, 1001)].into());
    }

    #[test]
    fn passes_the_common_tests() {
        check(config());
        check(Mmio::<BalloonConfig>::default());
    }

    #[test]
    fn fuzz_hostile_rings() {
        hostile_rings(&config(), 4, config, |_| ());
    }
}
