//! What the vCPUs of one partition share, and the partition itself.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use accel::{
    AccelError, Kicker, Partition, PartitionConfig, Vcpu as VcpuTrait, VcpuBinder, VcpuError, VcpuLines,
};
use guest_memory::{AddressSpace, ListenerId, RamBlock, ViewChange, ViewListener, WriteHook};
use parking_lot::Mutex;
use tcg_ir::abi::PAGE_BITS;
use tcg_ir::passes::PassSet;
use tcg_plugin::Plugins;

use crate::{
    Guest,
    backend::Backend,
    breakpoints::Breakpoints,
    code::{CodeCache, Link, Tier, Unit, block_ref},
    env::EnvBox,
    hot::{Hot, HotMode},
    kept::Kept,
    plugins::OwnTables,
    profile::Profile,
    shared::{Lines, VcpuShared, request},
    stats::Stats,
    translate::Scratch,
    vcpu::{Seed, Vcpu},
};

/// Shared by the vCPUs of a partition.
pub(crate) struct Engine<G: Guest> {
    pub(crate) guest: Arc<G>,
    pub(crate) cache: Arc<CodeCache>,
    pub(crate) stats: Stats,
    pub(crate) profile: Profile,
    pub(crate) scratch: Mutex<Scratch>,
    pub(crate) vcpus: Vec<Arc<VcpuShared>>,
    /// Addresses of the helpers, in table order.
    pub(crate) entries: Box<[usize]>,
    /// The hooks we put on RAM blocks, which live as long as the partition, by block.
    pub(crate) hooks: Mutex<HashMap<usize, Arc<dyn WriteHook>>>,
    /// Guest addresses are host addresses: nothing moves without being said.
    pub(crate) direct: bool,
    /// Those of a program.
    pub(crate) breakpoints: Breakpoints,
    /// Units of earlier processes, and those for later ones.
    pub(crate) kept: Option<Arc<Kept>>,
    /// Second looks at hot code.
    pub(crate) hot: Arc<Hot>,
    /// Slots and helpers of units: the guest's, and behind them those of plugins.
    pub(crate) tables: OwnTables,
}

impl<G: Guest> Engine<G> {
    /// Address of the helper table.
    pub(crate) fn helper_entries(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// The shared parts of all vCPUs but `index`.
    pub(crate) fn others(&self, index: u32) -> Vec<Arc<VcpuShared>> {
        let all = self.vcpus.iter().enumerate();
        all.filter(|(i, _)| *i != index as usize).map(|(_, v)| v.clone()).collect()
    }

    /// Tells plugins that the guest has ended, once what every vCPU has counted is known.
    pub(crate) fn finish_plugins(&self) {
        if let Some(plugins) = &self.tables.plugins {
            self.cache.stop_all();
            let _alone = self.cache.exec.write();
            plugins.finished();
        }
    }

    /// Sees to it that writes to a block's watched pages are heard of.
    pub(crate) fn hook_block<H: WriteHook + 'static>(
        &self,
        block: &Arc<RamBlock>,
        make: impl FnOnce() -> Arc<H>,
    ) {
        let mut hooks = self.hooks.lock();
        hooks.entry(block_ref(block)).or_insert_with(|| {
            let hook: Arc<dyn WriteHook> = make();
            block.add_write_hook(&hook);
            hook
        });
    }

    /// The unit whose code left at `site`, which may have been chained behind `entered`.
    pub(crate) fn unit_at(&self, entered: &Arc<Unit>, site: u64) -> Option<Arc<Unit>> {
        let offset = self.cache.backend.offset(site)?;
        if entered.code.holds(offset) { Some(entered.clone()) } else { self.cache.by_host(site) }
    }

    /// The unit that left through a link at `site`, and the link's number.
    pub(crate) fn link_source(&self, entered: &Arc<Unit>, site: u64) -> Option<(Arc<Unit>, u32)> {
        let unit = self.unit_at(entered, site)?;
        let index = unit.link_at(self.cache.backend.offset(site)?)?;
        Some((unit, index))
    }

    /// True if a link is one that may be patched before its destination has proved to be warm: one that does not lead
    /// back, between units of the first tier. Calls lead to what others call too.
    pub(crate) fn chains_cold(from: &Unit, link: &Link) -> bool {
        from.tier == Tier::First && link.pc > from.at.key.pc && !link.is_call()
    }

    /// Chains a link to the unit it leads to, if that lies on the same page (another page may be mapped elsewhere
    /// tomorrow, and only the indirect cache is flushed with the TLB).
    pub(crate) fn chain(&self, from: &Arc<Unit>, index: u32, to: &Arc<Unit>) {
        let Some(link) = from.links.get(index as usize) else { return };
        let fits = link.pc == to.at.key.pc
            && (self.direct || link.pc >> PAGE_BITS == from.at.key.pc >> PAGE_BITS)
            && from.at.key.mode == to.at.key.mode
            && (self.direct || to.second.is_none())
            && (to.tier == Tier::Second || Self::chains_cold(from, link))
            && !self.breakpoints.has(link.pc);
        if fits && self.cache.link(from, index, to) {
            self.stats.links.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<G: Guest> Drop for Engine<G> {
    fn drop(&mut self) {
        // Its thread ends with it.
        self.hot.wake();
    }
}

/// Follows changes of the memory map.
struct MapListener(Vec<Arc<VcpuShared>>);

impl ViewListener for MapListener {
    fn changed(&self, _: &ViewChange) -> Result<(), guest_memory::ListenerError> {
        for v in &self.0 {
            v.request(request::FLUSH_TLB);
        }
        Ok(())
    }
}

/// A partition of the translator.
struct TcgPartition<G: Guest> {
    engine: Arc<Engine<G>>,
    seeds: Mutex<Vec<Seed<G::State>>>,
    lines: Arc<Lines>,
    memory: AddressSpace,
    listener: ListenerId,
}

/// Options of the translator, already checked.
pub(crate) struct TcgOptions {
    pub(crate) interp: bool,
    pub(crate) code_size: usize,
    /// `None` for what suits the backend.
    pub(crate) passes: Option<PassSet>,
    pub(crate) profile: Profile,
    pub(crate) hot: HotMode,
    pub(crate) plugins: Option<Arc<Plugins>>,
}

pub(crate) fn create<G: Guest>(
    config: PartitionConfig,
    opts: TcgOptions,
) -> Result<Box<dyn Partition>, AccelError> {
    let guest = Arc::new(G::new(&config)?);
    let tables = OwnTables::new::<G>(&guest, opts.plugins);
    let backend = if opts.interp {
        Backend::Interp
    } else {
        match Backend::jit::<G>(&tables.slots, &tables.helpers, opts.code_size, None) {
            Ok(b) => b,
            Err(e) => {
                tracing::warn!("{e}; using the interpreter");
                Backend::Interp
            }
        }
    };
    // Measured on boots: the code generator forwards slots and folds while it emits, so that in a first tier the passes cost
    // more time than their better code saves. The interpreter gains from every instruction less.
    let passes = opts.passes.unwrap_or(match backend {
        Backend::Jit(_) => PassSet::NONE,
        Backend::Interp => PassSet::ALL,
    });
    let envs: Vec<_> = (0..config.vcpus).map(|i| EnvBox::new(guest.reset(i))).collect();
    let shared: Vec<_> = envs.iter().map(|e| Arc::new(VcpuShared::new(e.exit_request()))).collect();
    let entries = tables.helpers.iter().map(|h| h.entry as usize).collect();
    let hot = Hot::new(opts.hot, &backend, tables.plugins.is_some());
    let engine = Arc::new(Engine {
        guest,
        cache: Arc::new(CodeCache::new(backend, shared.clone())),
        stats: Stats::default(),
        profile: opts.profile,
        scratch: Mutex::new(Scratch::new(passes)),
        vcpus: shared.clone(),
        entries,
        hooks: Mutex::default(),
        direct: false,
        breakpoints: Breakpoints::default(),
        kept: None,
        hot,
        tables,
    });
    let seeds = envs.into_iter().zip(&shared).enumerate().map(|(i, (env, shared))| Seed {
        index: i as u32,
        shared: shared.clone(),
        env,
        clock: config.clock.clone(),
        memory: AddressSpace::clone(&config.memory),
        timebase_hz: config.timebase_hz,
        log: config.log.clone(),
        direct: None,
    });
    let seeds = Mutex::new(seeds.collect());
    let listener = config
        .memory
        .add_listener(Arc::new(MapListener(shared.clone())))
        .map_err(|e| AccelError::Memory { accel: "tcg", problem: e.to_string() })?;
    let memory = AddressSpace::clone(&config.memory);
    Ok(Box::new(TcgPartition { engine, seeds, lines: Arc::new(Lines(shared)), memory, listener }))
}

impl<G: Guest> Drop for TcgPartition<G> {
    fn drop(&mut self) {
        self.memory.remove_listener(self.listener);
    }
}

impl<G: Guest> Partition for TcgPartition<G> {
    fn take_vcpus(&self) -> Vec<Box<dyn VcpuBinder>> {
        let seeds = std::mem::take(&mut *self.seeds.lock());
        seeds
            .into_iter()
            .map(|seed| Box::new(Binder { engine: self.engine.clone(), seed }) as Box<dyn VcpuBinder>)
            .collect()
    }

    fn lines(&self) -> Arc<dyn VcpuLines> {
        self.lines.clone()
    }

    fn stats(&self) -> String {
        let e = &self.engine;
        e.stats.text(e.cache.len(), e.cache.backend.used(), e.cache.invalidations.load(Ordering::Relaxed))
    }

    fn at_end(&self) {
        self.engine.finish_plugins();
    }
}

struct Binder<G: Guest> {
    engine: Arc<Engine<G>>,
    seed: Seed<G::State>,
}

impl<G: Guest> VcpuBinder for Binder<G> {
    fn index(&self) -> u32 {
        self.seed.index
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.seed.shared.clone()
    }

    fn bind(self: Box<Self>) -> Result<Box<dyn VcpuTrait>, VcpuError> {
        Ok(Box::new(Vcpu::new(self.engine, self.seed)))
    }
}
