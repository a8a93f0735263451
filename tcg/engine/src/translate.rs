//! From guest code to a unit: fetch through the MMU, translate, optimise, generate.

use std::sync::{Arc, atomic::Ordering};

use accel::LogItems;
use guest_memory::PAGE_SIZE;
use tcg_codegen::CompileError;
use tcg_ir::abi::PAGE_BITS;
use tcg_ir::{
    BlockId, Builder, Region, SlotTable, Tables, Terminator,
    passes::{Optimizer, PassSet},
};

use crate::profile::cpu_ns;
use crate::{
    Access, CodeReader, Cx, Guest, Key, Limits, Trap,
    backend::Made,
    code::{BlockHook, BlockRef, CodeCache, DIRECT, Tier, Unit, UnitKey, block_ref},
    direct, guarded,
    memory::{self, Place},
    user::CodePage,
    vcpu::Vcpu,
};

/// Most guest instructions in one unit of each tier.
const MAX_INSNS: [u32; 2] = [64, 96];

/// One page as the reader sees it.
#[derive(Clone, Copy)]
struct Page {
    gva: u64,
    place: Place,
    /// Its block and offset there, if it is RAM.
    at: Option<(BlockRef, u64)>,
}

/// What kinds of pages code was read from.
struct Read {
    volatile: bool,
    fixed: bool,
}

/// Fetches guest code, and sees to it that the pages it came from are watched before they are read.
struct Reader<'a, 'b, G: Guest> {
    cx: &'a mut Cx<'b, G>,
    mmu: usize,
    /// First page and the one a unit may cross into.
    pages: Vec<Page>,
    hook: &'a dyn Fn(&Arc<guest_memory::RamBlock>),
    cache: &'a CodeCache,
    others: &'a [Arc<crate::shared::VcpuShared>],
    /// The code as read, for the log.
    bytes: Option<&'a mut Vec<u8>>,
    first: u64,
    /// Offsets in the first page where other units begin, which this one leads to instead of having their code again.
    stops: &'a [u16],
    /// Some of it may be changed by stores that nobody watches.
    volatile: bool,
    /// All of it changes with its mapping alone.
    fixed: bool,
    /// The unit is for the cache.
    keep: bool,
}

impl<G: Guest> Reader<'_, '_, G> {
    fn page(&mut self, pc: u64) -> Result<Page, Trap> {
        let gva = pc & !(PAGE_SIZE - 1);
        if let Some(p) = self.pages.iter().find(|p| p.gva == gva) {
            return Ok(*p);
        }
        if let Some(direct) = &self.cx.core.direct {
            match direct.code_page(gva) {
                CodePage::None => return Err(self.no_code(pc)),
                CodePage::Fixed => self.cache.reads(DIRECT, gva),
                CodePage::Volatile => {
                    self.fixed = false;
                    self.cache.reads(DIRECT, gva);
                    // Code that is executed alone is not kept.
                    let watched = G::CODE_COHERENT && self.keep && direct.watch(gva);
                    self.volatile |= !watched;
                }
            }
            let p = Page { gva, place: Place::Bus(0, tcg_ir::abi::PAGE_BITS), at: Some((DIRECT, gva)) };
            self.pages.push(p);
            return Ok(p);
        }
        let place = memory::place(self.cx, pc, Access::Fetch, self.mmu)?;
        let mut at = None;
        if let Place::Ram { range, offset, .. } = place {
            let view = self.cx.core.view.clone();
            if let Some(r) = view.ranges().get(range as usize)
                && let Some(block) = r.readable_ram()
            {
                let page = offset & !(PAGE_SIZE - 1);
                at = Some((block_ref(block), page));
                self.cache.reads(block_ref(block), page);
                if !block.dirty().is_watched(page, PAGE_SIZE) {
                    (self.hook)(block);
                    block.watch(page, PAGE_SIZE);
                    let gpa = r.start + (page - r.offset);
                    self.cx.core.tlb.protect_page(gpa);
                    for other in self.others {
                        other.protect_and_wait(gpa);
                    }
                }
            }
        }
        let p = Page { gva, place, at };
        self.pages.push(p);
        Ok(p)
    }

    /// Ends the unit where another one begins. Never at the first instruction: nobody gets to see this.
    fn stop(&self, pc: u64) -> Result<(), Trap> {
        let here = !self.stops.is_empty()
            && (pc ^ self.first) & !(PAGE_SIZE - 1) == 0
            && self.stops.binary_search(&((pc & (PAGE_SIZE - 1)) as u16)).is_ok();
        if here { Err(Trap { code: 0, value: 0 }) } else { Ok(()) }
    }

    /// Remembers code for the log.
    fn keep(&mut self, pc: u64, code: &[u8]) {
        let end = pc.wrapping_sub(self.first).wrapping_add(code.len() as u64) as usize;
        if let Some(bytes) = self.bytes.as_mut().filter(|_| end <= 4096 + 16) {
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[end - code.len()..end].copy_from_slice(code);
        }
    }
}

impl<G: Guest> Reader<'_, '_, G> {
    /// Reads code at `pc`, which is at `offset` in a page.
    fn read(&mut self, page: Page, offset: usize, pc: u64, out: &mut [u8]) -> Result<(), Trap> {
        if self.cx.core.direct.is_none() {
            return memory::fetch(self.cx, page.place, offset, pc, out);
        }
        if direct::read(self.cx, pc, out).is_err() {
            self.cx.core.host_fault = None;
            return Err(self.no_code(pc));
        }
        Ok(())
    }

    /// Nothing can be fetched at `pc`.
    fn no_code(&mut self, pc: u64) -> Trap {
        self.cx.core.no_code = Some(pc);
        Trap { code: 0, value: pc }
    }
}

impl<G: Guest> CodeReader for Reader<'_, '_, G> {
    fn fetch16(&mut self, pc: u64) -> Result<u16, Trap> {
        let page = self.page(pc)?;
        self.stop(pc)?;
        let offset = (pc & (PAGE_SIZE - 1)) as usize;
        let mut b = [0; 2];
        self.read(page, offset, pc, &mut b)?;
        self.keep(pc, &b);
        Ok(u16::from_le_bytes(b))
    }

    fn fetch(&mut self, pc: u64, out: &mut [u8]) -> Result<usize, Trap> {
        let page = self.page(pc)?;
        self.stop(pc)?;
        let offset = (pc & (PAGE_SIZE - 1)) as usize;
        let n = out.len().min(PAGE_SIZE as usize - offset);
        self.read(page, offset, pc, &mut out[..n])?;
        self.keep(pc, &out[..n]);
        Ok(n)
    }
}

/// Scratch that is kept from unit to unit.
pub(crate) struct Scratch {
    region: Region,
    pub(crate) optimizer: Optimizer,
    stops: Vec<u16>,
    bytes: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new(passes: PassSet) -> Self {
        Self {
            region: Region::default(),
            optimizer: Optimizer::new(passes),
            stops: Vec::new(),
            bytes: Vec::new(),
        }
    }
}

/// Translates the unit at `key`. `at` is `None` for code outside RAM, which is translated an instruction at a time, for the
/// interpreter, and not cached.
pub(crate) fn translate<G: Guest>(
    vcpu: &mut Vcpu<G>,
    key: Key,
    at: Option<UnitKey>,
    tier: Tier,
    debugging: bool,
) -> Result<Arc<Unit>, Trap> {
    let engine = vcpu.engine.clone();
    let cache = engine.cache.clone();
    let _one = cache.translating.lock();
    let others: Vec<_> = engine.others(vcpu.core.index);
    // Another vCPU may have been here first.
    if let Some(at) = at.as_ref().filter(|_| !others.is_empty())
        && let Some(u) = cache.find(at)
        && (u.second.is_none() || engine.direct)
        && (u.tier == tier || u.tier == Tier::Second)
    {
        return Ok(u);
    }
    cache.begin();
    if let Some(at) = &at
        && let Some(unit) = crate::kept::reuse(vcpu, at, tier)
    {
        return Ok(unit);
    }
    let started = if vcpu.core.log.wants(LogItems::STATS) { cpu_ns() } else { 0 };
    let mut scratch = engine.scratch.lock();
    let Scratch { region, optimizer, stops, bytes } = &mut *scratch;
    bytes.clear();
    let single = debugging || at.is_none();
    let max_insns = if single { 1 } else { MAX_INSNS[tier as usize] };
    let straight = single || tier == Tier::First || engine.breakpoints.any();
    let mut limits = Limits { max_insns, straight };
    let guest_key = Key { pc: key.pc, mode: key.mode & !(1 << 63) };
    let hook = |block: &Arc<guest_memory::RamBlock>| {
        engine
            .hook_block(block, || Arc::new(BlockHook { cache: cache.clone(), block: Arc::downgrade(block) }));
    };
    stops.clear();
    if let Some(at) = at.as_ref().filter(|_| !single) {
        cache.stops(at, tier, stops);
    }
    let again = std::mem::take(&mut vcpu.core.again);
    let guards = engine.direct && G::CODE_COHERENT && !single;
    let wants_bytes = guards || vcpu.core.log.wants(LogItems::IN_ASM) || engine.tables.plugins.is_some();
    let (pages, read) = loop {
        let made = vcpu.with(|g, cx| {
            let mmu = g.fetch_mmu(cx.state);
            let mut reader = Reader {
                cx,
                mmu,
                pages: Vec::with_capacity(2),
                hook: &hook,
                cache: &cache,
                others: &others,
                bytes: wants_bytes.then_some(&mut *bytes),
                first: key.pc,
                stops,
                volatile: false,
                fixed: true,
                keep: at.is_some(),
            };
            let mut b = Builder::new(region, key.pc);
            g.translate(guest_key, limits, &mut reader, &mut b)?;
            Ok((reader.pages, Read { volatile: reader.volatile, fixed: reader.fixed }))
        })?;
        let guarded = guards && made.1.volatile;
        let most = if guarded { guarded::MAX_INSNS } else { limits.max_insns };
        let straight = guarded || limits.straight;
        let stop = engine.breakpoints.first_in(region);
        let store = if guarded { guarded::first_store(region, &engine.tables.helpers) } else { None };
        let most = stop.into_iter().chain(store).fold(most, u32::min);
        if most >= limits.max_insns && straight == limits.straight {
            break made;
        }
        limits = Limits { max_insns: most.min(limits.max_insns), straight };
        bytes.clear();
    };
    log_guest_code(&engine, vcpu, key, region.guest_len, bytes);
    let tables = Tables { slots: &engine.tables.slots, helpers: &engine.tables.helpers };
    let log = &vcpu.core.log;
    if log.wants_at(LogItems::IR, key.pc) {
        log.write(format_args!("IR:\n{}\n", tcg_ir::print::region(region, tables)));
    }
    if !debugging {
        optimizer.run(region, tables);
    }
    if !engine.direct {
        loosen_far_links(region, engine.guest.slots());
    }
    engine.tables.instrument::<G>(&engine.guest, region, bytes, again);
    if guards && read.volatile {
        guarded::guard(region, engine.guest.slots(), bytes);
    }
    if log.wants_at(LogItems::IR_OPT, key.pc) {
        log.write(format_args!("IR after passes:\n{}\n", tcg_ir::print::region(region, tables)));
    }
    let fp = engine.guest.fp_mode(guest_key);
    let backend = &cache.backend;
    let interp = || Made::interp(region);
    if at.is_some() && cache.is_full() {
        empty_cache(&engine);
    }
    let Made { code, links, relocs, .. } = match &at {
        None => interp(),
        Some(_) => match backend.make(region, key, fp, tier) {
            Ok(made) => made,
            Err(CompileError::Full) => {
                empty_cache(&engine);
                backend.make(region, key, fp, tier).unwrap_or_else(|_| interp())
            }
            Err(_) => interp(),
        },
    };
    if log.wants_at(LogItems::OUT_ASM, key.pc)
        && let Some(text) = backend.disassemble(&code)
    {
        log.write(format_args!("OUT: {} bytes\n{text}\n", code.len()));
    }
    engine.profile.add(key, backend, &code);
    let s = &engine.stats;
    s.units[tier as usize].fetch_add(1, Ordering::Relaxed);
    s.guest_bytes.fetch_add(u64::from(region.guest_len), Ordering::Relaxed);
    s.guest_insns.fetch_add(u64::from(region.guest_insns), Ordering::Relaxed);
    s.host_bytes.fetch_add(code.len() as u64, Ordering::Relaxed);
    if started != 0 {
        s.translate_ns.fetch_add(cpu_ns() - started, Ordering::Relaxed);
    }
    let first = key.pc & !(PAGE_SIZE - 1);
    let crosses = (key.pc & (PAGE_SIZE - 1)) + u64::from(region.guest_len) > PAGE_SIZE;
    let second = pages.iter().find(|p| p.gva != first).and_then(|p| p.at).filter(|_| crosses);
    let cacheable = at.is_some() && (!crosses || second.is_some());
    // Skipped gaps belong to it: a unit is dropped by the range it covers.
    let bytes = (read.volatile && !guards).then(|| {
        let mut all = vec![0; region.guest_len as usize];
        let read = vcpu.with(|_, cx| direct::read(cx, key.pc, &mut all).is_ok());
        vcpu.core.host_fault = None;
        if read { all.into_boxed_slice() } else { Box::default() }
    });
    vcpu.core.no_code = None;
    let generation = if at.is_some() { cache.generation() } else { 0 };
    let at = at.unwrap_or(UnitKey { block: 0, offset: 0, key });
    // What has no host code is not made again for the other tier.
    let tier = if code.is_host() { tier } else { Tier::Second };
    let mut unit = Unit::new(at, region.guest_len, tier, code, links);
    unit.second = second.map(Box::new);
    unit.generation = generation;
    unit.bytes = bytes;
    let unit = Arc::new(unit);
    if read.fixed && cacheable {
        crate::kept::keep(vcpu, &unit, &relocs);
    }
    cache.insert(&unit, cacheable);
    Ok(unit)
}

/// Turns links to other pages into indirect jumps: what lies on another page depends on its mapping, which the indirect
/// cache follows and a patched link does not.
pub(crate) fn loosen_far_links(region: &mut Region, slots: &SlotTable) {
    let ty = slots.get(slots.pc()).ty;
    let page = region.pc >> PAGE_BITS;
    for n in 0..region.blocks.len() {
        if let Some(Terminator::Link { pc, hint }) = region.blocks[n].end
            && pc >> PAGE_BITS != page
        {
            let mut b = Builder::edit(region, BlockId(n as u32));
            let to = b.pc(ty, pc);
            b.indirect(to, hint);
        }
    }
}

/// Throws all translations away once every vCPU is outside translated code. The caller holds `translating`.
pub(crate) fn empty_cache<G: Guest>(engine: &crate::engine::Engine<G>) {
    engine.cache.stop_all();
    let _alone = engine.cache.exec.write();
    engine.cache.clear();
    engine.cache.backend.reset();
    engine.stats.cache_resets.fetch_add(1, Ordering::Relaxed);
}

fn log_guest_code<G: Guest>(
    engine: &crate::engine::Engine<G>,
    vcpu: &Vcpu<G>,
    key: Key,
    len: u32,
    bytes: &[u8],
) {
    let log = &vcpu.core.log;
    if !log.wants_at(LogItems::IN_ASM, key.pc) {
        return;
    }
    let mut text = format!("IN: {:#018x} mode {:#x}\n", key.pc, key.mode);
    let mut at = 0;
    while at < bytes.len().min(len as usize) {
        let (line, n) = engine.guest.disassemble(key.pc.wrapping_add(at as u64), &bytes[at..]);
        text.push_str(&line);
        text.push('\n');
        at += n.max(1);
    }
    log.write(format_args!("{text}\n"));
}
