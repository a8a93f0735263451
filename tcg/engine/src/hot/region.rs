//! From the blocks of a hot region to its code.

use std::{ops::Range, sync::Arc, sync::atomic::Ordering};

use accel::LogItems;
use guest_memory::PAGE_SIZE;
use rustc_hash::FxHashSet;
use tcg_ir::{Builder, Op, Region, Tables, Terminator, join, passes::Optimizer};

use super::{
    Job, blocks, guess,
    snapshot::{Reader, Snapshot},
};
use crate::{
    Guest, Key, Limits,
    backend::{Code, Made},
    code::{DIRECT, Tier, Unit, UnitKey, merged},
    engine::Engine,
    profile::cpu_ns,
    translate::loosen_far_links,
};

/// Most instructions of a piece.
const PIECE_INSNS: u32 = 96;
/// Most operations of a region.
const MAX_OPERATIONS: usize = 8000;

/// What of a block a region covers, ascending and apart.
type Spans = Box<[Range<u64>]>;

/// What came of a job.
pub(super) enum Outcome {
    /// The region's unit is where it belongs.
    Made,
    /// More pages of code are needed, all of these.
    Lacks(Vec<u64>),
    Nothing,
}

/// Does a job: makes the region's code and puts it in the place of the unit it began with, if the guest's code is still the
/// same.
pub(super) fn finish<G: Guest>(engine: &Engine<G>, job: &Job, optimizer: &mut Optimizer) -> Outcome {
    let started = if job.log.wants(LogItems::STATS) { cpu_ns() } else { 0 };
    let done = match make(engine, job) {
        Ok((region, spans)) => {
            if install(engine, job, region, spans, optimizer) {
                Outcome::Made
            } else {
                Outcome::Nothing
            }
        }
        Err(outcome) => {
            engine.cache.end_second_look(None);
            outcome
        }
    };
    if started != 0 {
        engine.stats.translate_ns.fetch_add(cpu_ns() - started, Ordering::Relaxed);
    }
    done
}

/// The region of a job, and what of the block it covers.
fn make<G: Guest>(engine: &Engine<G>, job: &Job) -> Result<(Region, Spans), Outcome> {
    let unit = &job.unit;
    let mode = job.key.mode;
    let known = |pc: u64, follows: bool| {
        // Units of earlier processes stand for blocks that have none of their own.
        let kept = follows && engine.kept.is_some();
        let there = |offset| {
            let key = Key { pc, mode };
            engine.cache.find(&UnitKey { block: unit.at.block, offset, key }).is_some()
        };
        kept || job.code.offset(pc).or(engine.direct.then_some(pc)).is_some_and(there)
    };
    let asked = blocks::Known { code: &known, targets: &job.targets };
    let around = blocks::around(&*engine.guest, job.key, &job.code, asked);
    if !around.pages.is_empty() && !job.again {
        return Err(Outcome::Lacks(around.pages));
    }
    let shape = around.shape.ok_or(Outcome::Nothing)?;
    let inside: FxHashSet<u64> = shape.inside.iter().copied().collect();
    let slots = engine.guest.slots();
    let pc_type = slots.get(slots.pc()).ty;
    let mut pieces: Vec<Region> = Vec::new();
    let mut begun: FxHashSet<u64> = FxHashSet::default();
    let mut operations = 0;
    let mut work: Vec<u64> =
        shape.inside.iter().rev().filter(|pc| shape.stops.contains(pc)).copied().collect();
    while let Some(pc) = work.pop() {
        if operations > MAX_OPERATIONS || !begun.insert(pc) {
            continue;
        }
        let mut reader = Reader { code: &job.code, first: pc, stops: Some(&shape.stops) };
        let limits = Limits { max_insns: PIECE_INSNS, straight: false };
        let mut region = Region::default();
        let mut b = Builder::new(&mut region, pc);
        if engine.guest.translate(Key { pc, mode }, limits, &mut reader, &mut b).is_err() {
            continue;
        }
        guess::guess(&mut region, pc_type, &job.targets, &|to| inside.contains(&to));
        operations += region.insts.len();
        // What a piece was expected to hold, and does not.
        for t in region.blocks.iter().filter_map(|b| b.end.as_ref()) {
            if let Terminator::Link { pc, .. } = t
                && inside.contains(pc)
                && !begun.contains(pc)
            {
                work.push(*pc);
            }
        }
        pieces.push(region);
    }
    // A single piece, with a loop to its own head, is what there is already.
    if pieces.len() < 2 || pieces[0].pc != job.key.pc {
        return Err(Outcome::Nothing);
    }
    let region = join::join(&pieces, pc_type);
    let spans = spans(&region, unit, &job.code).ok_or(Outcome::Nothing)?;
    Ok((region, spans))
}

/// What of the block a region covers that takes the place of `old`, ascending and apart. What the old unit covers is among it: it
/// may still run.
fn spans(region: &Region, old: &Unit, code: &Snapshot) -> Option<Spans> {
    let mut all = vec![old.first_span()];
    for i in region.blocks.iter().flat_map(|b| &b.insts).map(|v| region.inst(*v)) {
        if i.op == Op::Insn {
            let start = code.offset(i.imm)?;
            all.push(start..start + u64::from(i.sub).max(1));
        }
    }
    if old.at.block != DIRECT {
        let end = (old.at.offset / PAGE_SIZE + 1) * PAGE_SIZE;
        all.iter_mut().for_each(|s| s.end = s.end.min(end));
    }
    Some(merged(all))
}

/// Generates the code of a region and makes the unit known.
fn install<G: Guest>(
    engine: &Engine<G>,
    job: &Job,
    mut region: Region,
    spans: Spans,
    optimizer: &mut Optimizer,
) -> bool {
    let tables = Tables { slots: &engine.tables.slots, helpers: &engine.tables.helpers };
    optimizer.run(&mut region, tables);
    if !engine.direct {
        loosen_far_links(&mut region, engine.guest.slots());
    }
    if job.log.wants(LogItems::IR_OPT) {
        let text = tcg_ir::print::region(&region, tables);
        job.log.write(format_args!("IR of a second look:\n{text}\n"));
    }
    let fp = engine.guest.fp_mode(job.key);
    let cache = &engine.cache;
    // Nobody empties the cache from here on, or makes other code.
    let _one = cache.translating.lock();
    if !cache.second_look_is_good() || engine.breakpoints.any() || cache.is_full() {
        return cache.end_second_look(None);
    }
    let Ok(Made { code, links, sides, .. }) = cache.backend.make(&region, job.key, fp, Tier::Second) else {
        return cache.end_second_look(None);
    };
    if !code.is_host() || links.len() > usize::from(u8::MAX) {
        return cache.end_second_look(None);
    }
    if job.log.wants(LogItems::OUT_ASM)
        && let Some(text) = cache.backend.disassemble(&code)
    {
        job.log.write(format_args!("OUT of a second look: {} bytes\n{text}\n", code.len()));
    }
    engine.profile.add(job.key, &cache.backend, &code);
    let s = &engine.stats;
    s.hot.fetch_add(1, Ordering::Relaxed);
    s.host_bytes.fetch_add(code.len() as u64, Ordering::Relaxed);
    s.guest_insns.fetch_add(u64::from(region.guest_insns), Ordering::Relaxed);
    let mut unit = Unit::new(job.unit.at, job.unit.len, Tier::Second, code, links);
    unit.generation = cache.generation();
    unit.spans = Some(spans.clone());
    let side = |&(pc, start): &(u64, u32)| {
        let key = Key { pc, ..job.key };
        let at = UnitKey { block: unit.at.block, offset: job.code.offset(pc)?, key };
        let mut side = Unit::new(at, 1, Tier::Second, Code::side(start), Box::default());
        side.generation = unit.generation;
        side.spans = Some(spans.clone());
        Some(side)
    };
    let sides = sides.iter().filter_map(side).collect();
    cache.end_second_look(Some((&Arc::new(unit), sides)))
}
