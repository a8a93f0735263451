//! Which basic blocks belong to a hot region: those that can be reached from its entry, have been executed, and lead back to it.

use guest_memory::PAGE_SIZE;
use rustc_hash::{FxHashMap, FxHashSet};
use tcg_ir::{Builder, Hint, Op, Region, Terminator};

use super::{
    guess::{self, Targets},
    snapshot::{Reader, Snapshot},
};
use crate::{Guest, Key, Limits};

/// Most blocks that are looked at, and most instructions in them.
const MAX_BLOCKS: usize = 96;
const MAX_INSNS: u32 = 600;
/// Most instructions of a block.
const BLOCK_INSNS: u32 = 64;

/// A basic block.
struct Block {
    pc: u64,
    /// Where it may go on.
    next: Vec<u64>,
    /// It ends with a return.
    returns: bool,
}

/// The blocks of a region.
pub(super) struct Shape {
    /// Where they begin, the entry first.
    pub(super) inside: Vec<u64>,
    /// Where pieces end that have begun elsewhere.
    pub(super) stops: FxHashSet<u64>,
}

/// What there is around an entry.
pub(super) struct Around {
    /// `None` if nothing leads back.
    pub(super) shape: Option<Shape>,
    /// Pages of code that has been executed, and that the snapshot lacks; empty if it lacks none. Those that it must not lose are
    /// among them.
    pub(super) pages: Vec<u64>,
}

/// Whom a search asks.
pub(super) struct Known<'a> {
    /// Whether code has been executed; the second argument is true for what follows a branch directly.
    pub(super) code: &'a dyn Fn(u64, bool) -> bool,
    /// Where indirect calls go.
    pub(super) targets: &'a Targets,
}

/// What is being found out.
struct Search<'a, G: Guest> {
    guest: &'a G,
    mode: u64,
    code: &'a Snapshot,
    known: Known<'a>,
    blocks: Vec<Block>,
    index: FxHashMap<u64, usize>,
    /// Behind calls.
    backs: Vec<u64>,
    /// Where more than the one way that a piece would go by itself leads to.
    joins: FxHashSet<u64>,
    insns: u32,
    scratch: Region,
}

/// Finds the blocks around `entry`.
pub(super) fn around<G: Guest>(guest: &G, entry: Key, code: &Snapshot, known: Known<'_>) -> Around {
    let mut s = Search {
        guest,
        mode: entry.mode,
        code,
        known,
        blocks: Vec::new(),
        index: FxHashMap::default(),
        backs: Vec::new(),
        joins: FxHashSet::default(),
        insns: 0,
        scratch: Region::default(),
    };
    s.joins.insert(entry.pc);
    // Nearest first, so that what does not fit any more is what is far away.
    let mut queue = std::collections::VecDeque::from([(entry.pc, false)]);
    let mut seen: FxHashSet<u64> = FxHashSet::default();
    let mut lacks: Vec<u64> = Vec::new();
    seen.insert(entry.pc);
    while let Some((pc, follows)) = queue.pop_front() {
        if s.blocks.len() >= MAX_BLOCKS || s.insns >= MAX_INSNS {
            break;
        }
        if pc != entry.pc && !(s.known.code)(pc, follows) {
            continue;
        }
        if !code.has(pc) {
            if (s.known.code)(pc, false) {
                lacks.push(pc & !(PAGE_SIZE - 1));
            }
            continue;
        }
        for next in s.block(pc).unwrap_or_default() {
            if seen.insert(next.0) {
                queue.push_back(next);
            } else if next.1 {
                // Somebody else goes there, too.
                s.joins.insert(next.0);
            }
        }
    }
    if !lacks.is_empty() {
        lacks.extend(s.blocks.iter().map(|b| b.pc & !(PAGE_SIZE - 1)));
    }
    Around { shape: s.finish(entry.pc, &seen), pages: lacks }
}

impl<G: Guest> Search<'_, G> {
    /// Adds the block at `pc`; where it may go on, and whether that follows it directly. `None` if there is no code.
    fn block(&mut self, pc: u64) -> Option<Vec<(u64, bool)>> {
        let mut reader = Reader { code: self.code, first: pc, stops: None };
        let limits = Limits { max_insns: BLOCK_INSNS, straight: true };
        let region = &mut self.scratch;
        let key = Key { pc, mode: self.mode };
        self.guest.translate(key, limits, &mut reader, &mut Builder::new(region, pc)).ok()?;
        let slots = self.guest.slots();
        let known = self.known.code;
        guess::guess(region, slots.get(slots.pc()).ty, self.known.targets, &|to| known(to, false));
        let end = pc.wrapping_add(u64::from(region.guest_len));
        let (mut out, mut next, mut returns) = (Vec::new(), Vec::new(), false);
        for t in region.blocks.iter().filter_map(|b| b.end.as_ref()) {
            let (target, hint) = match t {
                Terminator::Link { pc, hint } => (Some(*pc), *hint),
                Terminator::Indirect { pc, hint } => {
                    let i = region.inst(*pc);
                    returns |= *hint == Hint::Return && i.op != Op::Pc;
                    ((i.op == Op::Pc).then_some(i.imm), *hint)
                }
                _ => continue,
            };
            if let Some(to) = target {
                let follows = to == end && hint == Hint::None;
                if !follows {
                    self.joins.insert(to);
                }
                next.push(to);
                out.push((to, follows));
            }
            if let Hint::Call(back) = hint {
                self.joins.insert(back);
                if !self.backs.contains(&back) {
                    self.backs.push(back);
                }
                // Looked at like what the call leads to, without an edge: that comes from the return.
                out.push((back, false));
            }
        }
        self.insns += region.guest_insns;
        self.index.insert(pc, self.blocks.len());
        self.blocks.push(Block { pc, next, returns });
        Some(out)
    }

    /// Keeps the blocks that lead back to the entry.
    fn finish(self, entry: u64, seen: &FxHashSet<u64>) -> Option<Shape> {
        let n = self.blocks.len();
        let mut into: Vec<Vec<usize>> = vec![Vec::new(); n];
        for (from, b) in self.blocks.iter().enumerate() {
            let backs: &[u64] = if b.returns { &self.backs } else { &[] };
            for to in b.next.iter().chain(backs).filter_map(|pc| self.index.get(pc)) {
                into[*to].push(from);
            }
        }
        let start = *self.index.get(&entry)?;
        let mut back = vec![false; n];
        let mut work = vec![start];
        while let Some(b) = work.pop() {
            for &from in &into[b] {
                if !std::mem::replace(&mut back[from], true) {
                    work.push(from);
                }
            }
        }
        // Without a way back there is nothing to be gained.
        if !back[start] {
            return None;
        }
        let mut inside = vec![entry];
        inside.extend(
            self.blocks.iter().zip(&back).filter(|(b, back)| **back && b.pc != entry).map(|(b, _)| b.pc),
        );
        let kept: FxHashSet<u64> = inside.iter().copied().collect();
        let stops = seen.iter().filter(|pc| self.joins.contains(pc) || !kept.contains(pc)).copied().collect();
        Some(Shape { inside, stops })
    }
}
