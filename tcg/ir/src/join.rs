//! Joining regions: several pieces of code, each translated for itself, become one region with edges between them.
//!
//! A piece is what a front end makes of the code at one address. Where a piece links to the address of another, there is an edge
//! instead of the exit; a return first compares its address with those behind the calls that the pieces make. Only loops keep
//! their budget checks: a piece checks when it begins, as it cannot know who leads to it.
//!
//! Where loops begin, and behind calls, control may come in from outside as well: these are the side entries. Whoever leaves the
//! region for a moment, to look at a request or to run a function that is not part of it, gets back that way.
//!
//! The pieces must have been made under one key. Nothing else about them matters here, so that front ends need not know.

use crate::{Block, BlockId, Builder, Cond, Edge, Hint, Op, Region, Terminator, Type, Value, graph::Graph};

/// Most addresses that a return is compared with.
const MAX_RETURNS: usize = 8;

/// Where a piece begins in the joined region.
#[derive(Debug, Clone, Copy)]
struct Start {
    pc: u64,
    block: BlockId,
}

/// Joins regions; the first one's entry is the whole's. `pc_type` is the type of the pc slot.
#[must_use]
pub fn join(pieces: &[Region], pc_type: Type) -> Region {
    let mut whole = Region::default();
    let Some(first) = pieces.first() else { return whole };
    whole.pc = first.pc;
    let starts = starts(pieces);
    let (backs, returns) = returns(pieces, &starts);
    // Nothing but the way to the first piece, so that all pieces are alike.
    let entry = whole.add_block();
    let to = starts.iter().find(|s| s.pc == whole.pc).map_or(entry, |s| s.block);
    whole.blocks[0].end = Some(Terminator::Jump(Edge::to(to)));
    let mut j = Joiner { whole: &mut whole, starts, returns, pc_type };
    pieces.iter().for_each(|p| j.append(p));
    let starts = j.starts;
    let fits = |r: &Region, s: &Start| {
        let head = r.blocks[s.block.0 as usize].insts.first().map(|v| r.inst(*v));
        s.pc != r.pc && head.is_some_and(|i| i.op == Op::Insn && i.imm == s.pc)
    };
    whole.entries =
        starts.iter().filter(|s| backs.contains(&s.pc) && fits(&whole, s)).map(|s| s.block).collect();
    let heads = keep_budgets_of_loops(&mut whole);
    let loops = starts.iter().filter(|s| heads[s.block.0 as usize] && fits(&whole, s));
    let loops: Vec<BlockId> = loops.map(|s| s.block).filter(|b| !whole.entries.contains(b)).collect();
    whole.entries.extend(loops);
    whole.entries.sort_unstable_by_key(|b| b.0);
    whole
}

/// Where the pieces will begin, ascending by address.
fn starts(pieces: &[Region]) -> Vec<Start> {
    let mut first = 1;
    let mut starts = Vec::with_capacity(pieces.len());
    for p in pieces {
        // A front end's entry block may do nothing but lead to the head of its loop.
        let head = match p.blocks.first().map(|b| (b.insts.is_empty(), &b.end)) {
            Some((true, Some(Terminator::Jump(e)))) if e.args.is_empty() => e.block.0,
            _ => 0,
        };
        starts.push(Start { pc: p.pc, block: BlockId(first + head) });
        first += p.blocks.len() as u32;
        // Blocks for comparisons of return addresses stand behind their piece's own.
        let returns = p.blocks.iter().filter(|b| is_return(b)).count();
        first += (returns * backs(pieces).len().min(MAX_RETURNS)) as u32;
    }
    starts.sort_by_key(|s| s.pc);
    starts
}

fn is_return(b: &Block) -> bool {
    matches!(b.end, Some(Terminator::Indirect { hint: Hint::Return, .. }))
}

/// The addresses behind the pieces' calls at which a piece begins.
fn backs(pieces: &[Region]) -> Vec<u64> {
    let mut all = Vec::new();
    for end in pieces.iter().flat_map(|p| &p.blocks).filter_map(|b| b.end.as_ref()) {
        let (Terminator::Link { hint: Hint::Call(back), .. }
        | Terminator::Indirect { hint: Hint::Call(back), .. }) = end
        else {
            continue;
        };
        if pieces.iter().any(|p| p.pc == *back) && !all.contains(back) {
            all.push(*back);
        }
    }
    all
}

/// Those addresses, and where those begin that returns are compared with.
fn returns(pieces: &[Region], starts: &[Start]) -> (Vec<u64>, Vec<Start>) {
    let backs = backs(pieces);
    let start = |pc: &u64| starts.iter().find(|s| s.pc == *pc).copied();
    let returns = backs.iter().filter_map(start).take(MAX_RETURNS).collect();
    (backs, returns)
}

struct Joiner<'a> {
    whole: &'a mut Region,
    starts: Vec<Start>,
    returns: Vec<Start>,
    pc_type: Type,
}

impl Joiner<'_> {
    fn start(&self, pc: u64) -> Option<BlockId> {
        let i = self.starts.binary_search_by_key(&pc, |s| s.pc).ok()?;
        Some(self.starts[i].block)
    }

    fn append(&mut self, piece: &Region) {
        let insts = self.whole.insts.len() as u32;
        let blocks = self.whole.blocks.len() as u32;
        let lists = self.whole.lists.len() as u32;
        let value = |v: Value| if v == Value::NONE { v } else { Value(v.0 + insts) };
        for i in &piece.insts {
            let mut i = *i;
            match i.op {
                // The first operand of a call is its place in the lists.
                Op::Call => i.a.0 += lists,
                _ => {
                    let args = i.op.info().args;
                    for (k, o) in [&mut i.a, &mut i.b, &mut i.c].into_iter().enumerate() {
                        if k < usize::from(args) {
                            *o = value(*o);
                        }
                    }
                }
            }
            self.whole.insts.push(i);
        }
        self.whole.lists.extend(piece.lists.iter().map(|v| value(*v)));
        let edge = |e: &Edge| Edge {
            block: BlockId(e.block.0 + blocks),
            args: e.args.iter().map(|v| value(*v)).collect(),
        };
        let mut comparing = Vec::new();
        for (n, b) in piece.blocks.iter().enumerate() {
            let end = match &b.end {
                Some(Terminator::Jump(e)) => Some(Terminator::Jump(edge(e))),
                Some(Terminator::Branch { cond, then, other, likely_then }) => Some(Terminator::Branch {
                    cond: value(*cond),
                    then: edge(then),
                    other: edge(other),
                    likely_then: *likely_then,
                }),
                Some(Terminator::Link { pc, hint }) => Some(match self.start(*pc) {
                    Some(to) => Terminator::Jump(Edge::to(to)),
                    None => Terminator::Link { pc: *pc, hint: *hint },
                }),
                Some(Terminator::Indirect { pc, hint }) => {
                    let known = piece.inst(*pc);
                    let known = (known.op == Op::Pc).then(|| self.start(known.imm)).flatten();
                    if known.is_none() && *hint == Hint::Return && !self.returns.is_empty() {
                        comparing.push((n as u32 + blocks, value(*pc)));
                    }
                    Some(match known {
                        Some(to) => Terminator::Jump(Edge::to(to)),
                        None => Terminator::Indirect { pc: value(*pc), hint: *hint },
                    })
                }
                end => end.clone(),
            };
            let insts = b.insts.iter().map(|v| value(*v)).collect();
            self.whole.blocks.push(Block { insts, params: b.params, end });
        }
        // As many as `starts` has counted on.
        let returns = piece.blocks.iter().filter(|b| is_return(b)).count() * self.returns.len();
        let mut free = self.whole.blocks.len() as u32;
        for _ in 0..returns {
            let end = Some(Terminator::Lookup);
            self.whole.blocks.push(Block { insts: Vec::new(), params: 0, end });
        }
        for (block, pc) in comparing {
            self.compare(block, pc, &mut free);
        }
        self.whole.guest_insns += piece.guest_insns;
    }

    /// Has the return at the end of `block` compare its address with those the region goes on at; what is left of it comes to
    /// the blocks from `free` on.
    fn compare(&mut self, block: u32, pc: Value, free: &mut u32) {
        let leave = self.whole.blocks[block as usize].end.take();
        let mut at = block;
        for to in &self.returns {
            let mut b = Builder::edit(self.whole, BlockId(at));
            let back = b.iconst(self.pc_type, to.pc);
            let same = b.setcc(Type::I32, Cond::Eq, pc, back);
            b.branch(same, to.block, BlockId(*free), true);
            at = *free;
            *free += 1;
        }
        self.whole.blocks[at as usize].end = leave;
    }
}

fn checks(r: &Region, b: BlockId) -> bool {
    r.blocks[b.0 as usize].insts.iter().any(|v| r.inst(*v).op == Op::Budget)
}

/// Removes the budget checks of blocks to which no edge leads back, as long as every loop still has one. Tells to which blocks one
/// does.
fn keep_budgets_of_loops(r: &mut Region) -> Vec<bool> {
    let mut graph = Graph::default();
    graph.build(r);
    let order: Vec<BlockId> = graph.order().to_vec();
    let mut heads = vec![false; r.blocks.len()];
    for &b in &order {
        for e in r.blocks[b.0 as usize].end.iter().flat_map(Terminator::edges) {
            // In reverse postorder every loop has an edge that leads back.
            if graph.rank(e.block) <= graph.rank(b) {
                heads[e.block.0 as usize] = true;
            }
        }
    }
    let all_check = order.iter().all(|b| !heads[b.0 as usize] || checks(r, *b));
    if !all_check {
        return heads;
    }
    for b in order.iter().filter(|b| !heads[b.0 as usize]) {
        let Region { insts, blocks, .. } = r;
        blocks[b.0 as usize].insts.retain(|v| insts[v.index()].op != Op::Budget);
    }
    heads
}
