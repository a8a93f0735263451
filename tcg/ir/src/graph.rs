//! The shape of a region: predecessors, reverse postorder and, on demand, dominators. Kept buffers; building allocates
//! nothing once they have grown.
//!
//! Dominators after Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm".

use crate::{BlockId, Op, Region, Terminator, Value};

const NONE: u32 = u32::MAX;

/// Successor number `k` of block `b`. The region's entry leads to its side entries as well, after its own successors.
fn successor(r: &Region, b: u32, k: u32) -> Option<u32> {
    let (own, n) = match (r.blocks[b as usize].end.as_ref()?, k) {
        (Terminator::Jump(e), 0)
        | (Terminator::Branch { then: e, .. }, 0)
        | (Terminator::Branch { other: e, .. }, 1) => (Some(e.block.0), 0),
        (Terminator::Jump(_), _) => (None, 1),
        (Terminator::Branch { .. }, _) => (None, 2),
        _ => (None, 0),
    };
    if own.is_some() || b != 0 {
        return own;
    }
    r.entries.get((k - n) as usize).map(|e| e.0)
}

/// Control flow of a region. Blocks that cannot be reached from the entry are not in the order and have no dominator.
/// Dominators are known after [`Graph::dominators`].
#[derive(Debug, Default)]
pub struct Graph {
    /// Reverse postorder of what can be reached.
    order: Vec<BlockId>,
    /// Position in `order` by block.
    rank: Vec<u32>,
    /// Immediate dominator by block; until dominators are asked for, the predecessor that reached the block first.
    idom: Vec<u32>,
    /// Number of edges into each block from blocks that can be reached; one more for side entries, which extend nothing.
    preds: Vec<u32>,
    stack: Vec<(u32, u32)>,
}

impl Graph {
    /// Order and predecessors of `r`.
    pub fn build(&mut self, r: &Region) {
        let n = r.blocks.len();
        self.order.clear();
        self.rank.clear();
        self.idom.clear();
        self.preds.clear();
        if n == 0 {
            return;
        }
        self.rank.resize(n, NONE);
        self.idom.resize(n, NONE);
        self.preds.resize(n, 0);
        // Depth first; `rank` marks what was seen.
        self.stack.clear();
        self.stack.push((0, 0));
        self.rank[0] = 0;
        self.idom[0] = 0;
        for e in &r.entries {
            self.preds[e.0 as usize] += 1;
        }
        while let Some((b, k)) = self.stack.last_mut() {
            let at = *b;
            if let Some(to) = successor(r, at, *k) {
                *k += 1;
                let i = to as usize;
                self.preds[i] += 1;
                if self.rank[i] == NONE {
                    self.rank[i] = 0;
                    self.idom[i] = at;
                    self.stack.push((to, 0));
                }
            } else {
                self.order.push(BlockId(at));
                self.stack.pop();
            }
        }
        self.order.reverse();
        for (i, b) in self.order.iter().enumerate() {
            self.rank[b.0 as usize] = i as u32;
        }
    }

    /// Computes the dominators; `build` comes first.
    pub fn dominators(&mut self, r: &Region) {
        // Edges are walked forwards: each block offers itself to its successors, in reverse postorder, to a fixed point.
        let mut changed = true;
        while changed {
            changed = false;
            for i in 0..self.order.len() {
                let b = self.order[i].0;
                for k in 0.. {
                    let Some(to) = successor(r, b, k) else { break };
                    let old = self.idom[to as usize];
                    let new = self.common(old, b);
                    if new != old && to != 0 {
                        self.idom[to as usize] = new;
                        changed = true;
                    }
                }
            }
        }
    }

    /// The nearest block that dominates both.
    fn common(&self, mut a: u32, mut b: u32) -> u32 {
        while a != b {
            while self.rank[a as usize] > self.rank[b as usize] {
                a = self.idom[a as usize];
            }
            while self.rank[b as usize] > self.rank[a as usize] {
                b = self.idom[b as usize];
            }
        }
        a
    }

    /// Reachable blocks in reverse postorder; the entry is first.
    #[must_use]
    pub fn order(&self) -> &[BlockId] {
        &self.order
    }

    /// True if a path leads from the entry to `b`.
    #[must_use]
    pub fn is_reachable(&self, b: BlockId) -> bool {
        self.rank.get(b.0 as usize).is_some_and(|r| *r != NONE)
    }

    /// Position of a reachable block in the order.
    #[must_use]
    pub fn rank(&self, b: BlockId) -> u32 {
        self.rank[b.0 as usize]
    }

    /// Number of edges into `b` from reachable blocks; at least two for a side entry.
    #[must_use]
    pub fn preds(&self, b: BlockId) -> u32 {
        self.preds[b.0 as usize]
    }

    /// The immediate dominator of a reachable block; the entry's is itself.
    #[must_use]
    pub fn idom(&self, b: BlockId) -> Option<BlockId> {
        let d = self.idom[b.0 as usize];
        (d != NONE).then_some(BlockId(d))
    }

    /// True if every path from the entry to reachable `b` leads through `a`.
    #[must_use]
    pub fn dominates(&self, a: BlockId, b: BlockId) -> bool {
        if !self.is_reachable(a) || !self.is_reachable(b) {
            return false;
        }
        let mut b = b.0;
        while self.rank[b as usize] > self.rank[a.0 as usize] {
            b = self.idom[b as usize];
        }
        b == a.0
    }

    /// True if `b` is in the extended block of `a`, below it: every block on the way from `a` to `b` has one predecessor.
    #[must_use]
    pub fn extends(&self, a: BlockId, b: BlockId) -> bool {
        let mut b = b.0;
        while b != a.0 {
            if b == 0 || self.preds[b as usize] != 1 {
                return false;
            }
            b = self.idom[b as usize];
        }
        true
    }

    /// The `insn` mark in force where each block starts; `None` if there is none or it is not the same on every path.
    /// Back ends ask this for blocks that do not start with a mark of their own.
    #[must_use]
    pub fn entry_marks(&self, r: &Region) -> Vec<Option<Value>> {
        // Some(None): different or none; None: not known yet.
        let mut marks: Vec<Option<Option<Value>>> = vec![None; r.blocks.len()];
        if let Some(first) = marks.first_mut() {
            *first = Some(None);
        }
        for e in &r.entries {
            marks[e.0 as usize] = Some(None);
        }
        let mut changed = true;
        while changed {
            changed = false;
            for b in &self.order {
                let block = &r.blocks[b.0 as usize];
                let last = block.insts.iter().rev().find(|v| r.inst(**v).op == Op::Insn);
                let Some(out) = last.map(|v| Some(*v)).or(marks[b.0 as usize]) else { continue };
                for e in block.end.iter().flat_map(|t| t.edges()) {
                    let m = &mut marks[e.block.0 as usize];
                    let new = match *m {
                        None => out,
                        Some(old) if old == out => old,
                        Some(_) => None,
                    };
                    changed |= *m != Some(new);
                    *m = Some(new);
                }
            }
        }
        marks.into_iter().map(Option::flatten).collect()
    }
}
