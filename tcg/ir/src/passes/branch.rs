//! `branch`: branches with one outcome become jumps, blocks with one way in join the block they come from, and what
//! cannot be reached any more goes away.

use super::{Scratch, resolve, resolve_end};
use crate::{BlockId, Cond, Op, Region, Tables, Terminator};

/// The graph is up to date again when this returns.
pub(super) fn run(r: &mut Region, s: &mut Scratch, _: Tables<'_>) -> bool {
    let mut changed = false;
    for b in 0..r.blocks.len() {
        changed |= simplify(r, b);
    }
    if changed {
        s.graph.build(r);
        remove_unreachable(r, s);
    }
    if r.blocks.len() > 1 && merge(r, s) {
        s.graph.build(r);
        remove_unreachable(r, s);
    }
    false
}

/// Decides or simplifies the branch at the end of block `b`; true if edges changed.
fn simplify(r: &mut Region, b: usize) -> bool {
    let Some(Terminator::Branch { cond, then, other, likely_then }) = &r.blocks[b].end else { return false };
    let mut cond = *cond;
    let (mut swap, likely) = (false, *likely_then);
    // `x != 0` and extensions ask what `x` alone asks.
    loop {
        let i = r.inst(cond);
        match i.op {
            Op::Zext | Op::Sext => cond = i.a,
            Op::Setcc if r.as_const(i.b) == Some(0) && i.sub == Cond::Ne as u16 => cond = i.a,
            Op::Setcc if r.as_const(i.b) == Some(0) && i.sub == Cond::Eq as u16 => {
                cond = i.a;
                swap = !swap;
            }
            _ => break,
        }
    }
    let known = r.as_const(cond).map(|c| (c != 0) != swap);
    let same = then == other;
    let Some(Terminator::Branch { then, other, .. }) = r.blocks[b].end.take() else { return false };
    let (new, changed) = match known {
        Some(true) => (Terminator::Jump(then), true),
        Some(false) => (Terminator::Jump(other), true),
        None if same => (Terminator::Jump(then), true),
        None if swap => (Terminator::Branch { cond, then: other, other: then, likely_then: !likely }, false),
        None => (Terminator::Branch { cond, then, other, likely_then: likely }, false),
    };
    r.blocks[b].end = Some(new);
    changed
}

/// Appends blocks with one predecessor that jumps to them; true if there were any.
fn merge(r: &mut Region, s: &mut Scratch) -> bool {
    let mut changed = false;
    let mut params = false;
    for k in 0..s.graph.order().len() {
        let b = s.graph.order()[k];
        let at = b.0 as usize;
        // The entry block leads to side entries too, as far as the graph goes.
        if at == 0 && !r.entries.is_empty() {
            continue;
        }
        while let Some(Terminator::Jump(e)) = &r.blocks[at].end {
            let to = e.block;
            if to == b || to.0 == 0 || s.graph.preds(to) != 1 {
                break;
            }
            let Some(Terminator::Jump(e)) = r.blocks[at].end.take() else { break };
            changed = true;
            r.blocks[at].end = r.blocks[to.0 as usize].end.take();
            if r.blocks[at].insts.is_empty() && e.args.is_empty() {
                let whole = std::mem::take(&mut r.blocks[to.0 as usize].insts);
                r.blocks[at].insts = whole;
                continue;
            }
            let gone = std::mem::take(&mut r.blocks[to.0 as usize].insts);
            for (p, a) in gone.iter().zip(&e.args) {
                if !params {
                    s.reset_repl(r.insts.len());
                    params = true;
                }
                s.repl[p.index()] = s.repl[a.index()];
                r.insts[p.index()] = super::NOP;
            }
            r.blocks[to.0 as usize].params = 0;
            r.blocks[at].insts.extend_from_slice(&gone[e.args.len()..]);
        }
    }
    if params {
        for at in 0..r.blocks.len() {
            for k in r.blocks[at].params as usize..r.blocks[at].insts.len() {
                let v = r.blocks[at].insts[k];
                resolve(r, &s.repl, v);
            }
            resolve_end(r, &s.repl, at);
        }
    }
    changed
}

/// Removes blocks the graph has not reached and renumbers the others, keeping their order. The graph is rebuilt.
pub(super) fn remove_unreachable(r: &mut Region, s: &mut Scratch) {
    if s.graph.order().len() == r.blocks.len() {
        return;
    }
    let Scratch { graph, stamps: number, .. } = s;
    number.clear();
    let mut next = 0;
    for b in 0..r.blocks.len() as u32 {
        number.push(next);
        next += u32::from(graph.is_reachable(BlockId(b)));
    }
    let mut at = 0;
    r.blocks.retain(|_| {
        at += 1;
        graph.is_reachable(BlockId(at - 1))
    });
    r.entries.iter_mut().for_each(|e| e.0 = number[e.0 as usize]);
    for block in &mut r.blocks {
        let renumber = |e: &mut crate::Edge| e.block.0 = number[e.block.0 as usize];
        match &mut block.end {
            Some(Terminator::Jump(e)) => renumber(e),
            Some(Terminator::Branch { then, other, .. }) => {
                renumber(then);
                renumber(other);
            }
            _ => {}
        }
    }
    graph.build(r);
}
