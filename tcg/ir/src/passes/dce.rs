//! `dce`: what nobody uses and nobody notices leaves the schedule, and with it all `nop`s.
//!
//! A use lies in a block the definition dominates, so one backward walk in postorder sees all uses of a value before
//! its definition.

use super::{NOP, Scratch, filled, for_each_operand};
use crate::print::is_vector;
use crate::{Effect, Effects, FpAttr, Inst, Op, Region, Tables, Type};

pub(super) fn run(r: &mut Region, s: &mut Scratch, t: Tables<'_>) -> bool {
    let used = filled(&mut s.words, r.insts.len(), 0);
    for &b in s.graph.order().iter().rev() {
        let block = &mut r.blocks[b.0 as usize];
        if let Some(end) = &mut block.end {
            for_each_operand(end, |v| used[v.index()] = 1);
        }
        let mut removed = false;
        for k in (block.params as usize..block.insts.len()).rev() {
            let v = block.insts[k];
            let i = &mut r.insts[v.index()];
            if used[v.index()] == 0 && removable(i, t) {
                *i = NOP;
                removed = true;
                continue;
            }
            let list = if i.op == Op::Call { i.a.index()..i.a.index() + i.b.index() } else { 0..0 };
            for o in &r.lists[list] {
                used[o.index()] = 1;
            }
            for o in [i.a, i.b, i.c].iter().take(i.op.info().args as usize) {
                used[o.index()] = 1;
            }
        }
        if removed {
            let params = block.params as usize;
            let mut k = 0;
            block.insts.retain(|v| {
                k += 1;
                k <= params || r.insts[v.index()].op != Op::Nop
            });
        }
    }
    false
}

/// True if nothing is lost with the operation when its result is not used.
fn removable(i: &Inst, t: Tables<'_>) -> bool {
    match i.op.info().effect {
        Effect::Pure | Effect::Get => true,
        Effect::Fp => FpAttr(if is_vector(i.op) { i.imm as u16 } else { i.sub }).quiet(),
        Effect::FpState => i.ty != Type::Void,
        Effect::Call => t.helpers.get(i.sub as usize).is_some_and(|h| h.effects.contains(Effects::PURE)),
        _ => false,
    }
}
